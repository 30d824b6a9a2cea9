/* Columns of events that lie in several pieces of memory, in any order: the rows of a table, a column at a time. */
#include "rows.h"

/* A column of the fixed part: `width` bytes at byte `at`, in numbers of `each` bytes that are turned; 0 or 1: none. */
struct fixed_column {
	uint64_t at, width, each;
	uint8_t *out;
};

#define ROWS_TOGETHER 256u /* rows whose columns are read one after the other: what the nearest cache holds of them */

/* Rows that were looked up: where each begins, and how many bytes its piece has from there on. */
struct found {
	const uint8_t *starts[ROWS_TOGETHER];
	uint64_t rests[ROWS_TOGETHER];
};

/* Looks rows first..end up, of which there are ROWS_TOGETHER at most; 0 where one has not got `reach` bytes. */
static int find(const struct rows *rows, uint64_t first, uint64_t end, uint64_t reach, struct found *found)
{
	int bad = 0;

	for (uint64_t i = first; i < end; i++) {
		uint64_t start = rows->at[i];
		if (rows->of[i] >= rows->piece_count)
			return 0;
		const struct piece *piece = rows->pieces + rows->of[i];
		if (start > piece->size)
			return 0;
		found->starts[i - first] = piece->data + start;
		found->rests[i - first] = piece->size - start;
		bad |= piece->size - start < reach;
	}
	return !bad;
}

#define FIXED(bits, turned)                                                         \
	for (uint64_t i = 0; i < count; i++) {                                      \
		uint##bits##_t one;                                                 \
		memcpy(&one, found->starts[i] + column->at, bits / 8);              \
		one = (turned);                                                     \
		memcpy(out + i * (bits / 8), &one, bits / 8);                       \
	}                                                                           \
	return

/* The column of `count` rows that have it. */
static void fixed_column(const struct found *found, uint64_t count, const struct fixed_column *column, uint8_t *out)
{
	switch (column->width | (column->each > 1 ? column->each << 8 : 0)) {
	case 1:
		FIXED(8, one);
	case 2:
		FIXED(16, one);
	case 4:
		FIXED(32, one);
	case 8:
		FIXED(64, one);
	case 2 | 2 << 8:
		FIXED(16, __builtin_bswap16(one));
	case 4 | 4 << 8:
		FIXED(32, __builtin_bswap32(one));
	case 8 | 8 << 8:
		FIXED(64, __builtin_bswap64(one));
	default:
		break;
	}
	for (uint64_t i = 0; i < count; i++) {
		uint8_t *to = out + i * column->width;
		memcpy(to, found->starts[i] + column->at, column->width);
		for (uint64_t head = 0; column->each > 1 && column->width - head >= column->each; head += column->each)
			for (uint64_t low = head, high = head + column->each - 1; low < high; low++, high--) {
				uint8_t byte = to[low];
				to[low] = to[high];
				to[high] = byte;
			}
	}
}

/* Fixed columns of all rows. Returns how many rows are there: it ends before one that is not inside its piece. */
uint64_t kw_rows_fixed(const struct rows *rows, const struct fixed_column *columns, uint64_t column_count)
{
	struct found found;
	uint64_t reach = 0, step;

	for (uint64_t c = 0; c < column_count; c++) {
		uint64_t end = columns[c].at + columns[c].width;
		end = end < columns[c].at ? UINT64_MAX : end;
		reach = end > reach ? end : reach;
	}
	for (uint64_t first = 0; first < rows->count; first += step) {
		step = rows->count - first < ROWS_TOGETHER ? rows->count - first : ROWS_TOGETHER;
		if (!find(rows, first, first + step, reach, &found)) {
			if (!find(rows, first, first + 1, reach, &found))
				return first;
			step = 1;
		}
		for (uint64_t c = 0; c < column_count; c++)
			fixed_column(&found, step, columns + c, columns[c].out + first * columns[c].width);
	}
	return rows->count;
}

/*
 * The values of a column of text or bytes: `kind` and the rest as text_field of columns.c has them. places[] and
 * lengths[] get where each lies in its frame and how long it is; marks[] the TEXT_CUT and TEXT_UNREAD that its reference
 * has, where there is room for them. *total: bytes of all. Returns how many rows are sound: it ends before one whose value is not
 * inside its frame's tail, or its piece.
 */
uint64_t kw_rows_located(const struct rows *rows, uint64_t at, uint64_t kind, uint64_t width, uint64_t swap,
			 uint64_t fixed, uint32_t *places, uint32_t *lengths, uint8_t *cut, uint8_t *unread,
			 uint64_t *total)
{
	uint64_t bytes = 0, step, reach = at + (kind == TEXT_TAIL ? 4 : width);
	struct found found;

	reach = reach < at ? UINT64_MAX : reach;
	for (uint64_t first = 0; first < rows->count; first += step) {
		step = rows->count - first < ROWS_TOGETHER ? rows->count - first : ROWS_TOGETHER;
		if (!find(rows, first, first + step, reach, &found)) {
			if (!find(rows, first, first + 1, reach, &found)) {
				*total = bytes;
				return first;
			}
			step = 1;
		}
		for (uint64_t i = first; i < first + step; i++) {
			const uint8_t *from = found.starts[i - first] + at;
			uint64_t place = at, length = width;
			if (kind == TEXT_TAIL) {
				uint16_t pair[2];
				memcpy(pair, from, 4);
				uint64_t said = swap ? __builtin_bswap16(pair[1]) : pair[1];
				place = swap ? __builtin_bswap16(pair[0]) : pair[0];
				length = said & TAIL_MAX;
				if (length && (place < fixed || place + length > rows->ends[i] ||
					       place + length > found.rests[i - first])) {
					*total = bytes;
					return i;
				}
				place = length ? place : 0;
				cut[i] = said > TAIL_CUT;
				unread[i] = said == TAIL_CUT;
			} else if (kind == TEXT_FIXED) {
				length = 0;
				while (length < width && from[length])
					length++;
			}
			places[i] = (uint32_t)place;
			lengths[i] = (uint32_t)length;
			bytes += length;
		}
	}
	*total = bytes;
	return rows->count;
}

/*
 * Values that were located, back to back; ends[0] is 0, ends[i + 1] where value i ends. *told: 1 where there is a byte
 * of 0x80 and more, 2 where there is a backslash. Returns how many there are: it ends before one that does not fit.
 */
uint64_t kw_rows_packed(const struct rows *rows, const uint32_t *places, const uint32_t *lengths, uint8_t *out,
			uint64_t room, uint32_t *ends, uint64_t *told)
{
	const uint64_t ones = 0x0101010101010101u, high = ones << 7;
	uint64_t i = 0, used = 0, any = 0, slash = 0, at = 0, step;
	struct found found;

	ends[0] = 0;
	for (uint64_t first = 0; first < rows->count && i == first; first += step) {
		step = rows->count - first < ROWS_TOGETHER ? rows->count - first : ROWS_TOGETHER;
		if (!find(rows, first, first + step, 0, &found)) {
			if (!find(rows, first, first + 1, 0, &found))
				break;
			step = 1;
		}
		for (; i < first + step; i++) {
			uint64_t length = lengths[i], place = places[i], rest = found.rests[i - first];
			if (place > rest || length > rest - place || length > room - used)
				break;
			const uint8_t *from = found.starts[i - first] + place;
			if (length <= 16 && room - used >= 16 && rest - place >= 16)
				memcpy(out + used, from, 16); /* what is too much is written over */
			else
				memcpy(out + used, from, length);
			used += length;
			ends[i + 1] = (uint32_t)used;
		}
	}
	for (; used - at >= 8; at += 8) {
		uint64_t word = host64(out + at), apart = word ^ ones * '\\';
		any |= word;
		slash |= (apart - ones) & ~apart;
	}
	for (; at < used; at++) {
		any |= out[at];
		slash |= out[at] == '\\' ? high : 0;
	}
	*told = (any & high ? 1 : 0) | (slash & high ? 2 : 0);
	return i;
}
