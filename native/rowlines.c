/*
 * Rows as lines of text, for CSV and NDJSON: each in the format of its schema. The specification are the functions
 * that make one line, in analyze/csvtext.py and view/jsonl.py. A row that is not plain (a text with escapes or with
 * characters of more than a byte, a value that was cut, where that is told) is left out, for Python to write.
 */
#include "rows.h"
#include "text.h"

/* A value of a line, and the text behind it. `at`, `size`: in the frame; of what is given: its number. A moment has
 * the first two of what is given, by its second. */
struct row_part {
	uint64_t kind, at, size, style, flags, text_at, text_size;
};

struct row_shape {
	uint64_t first, count, fixed; /* parts from `first`; bytes of a record's fixed part */
	uint64_t most;		      /* bytes of a line, but for values of varying length */
};

/* What a part of a number wrote last, where it is short: the bytes of the field, the text, and how long it is. */
struct row_memo {
	uint64_t raw, text, count;
};

_Static_assert(sizeof(struct row_part) == 8 * ROW_PART_WORDS && sizeof(struct row_shape) == 8 * ROW_SHAPE_WORDS &&
		       sizeof(struct row_memo) == 8 * ROW_MEMO_WORDS,
	       "as in Python");

/* Texts of a table, which rows have by their numbers: text n ends at ends[n], where the next one begins. */
struct given {
	const uint32_t *numbers;
	uint64_t count, by_row; /* numbers; whether each is a row's, else one of those of its shape */
	const uint8_t *texts;
	uint64_t size;
	const uint32_t *ends;
	uint64_t texts_count;
};

/* What rows are written with: the shape of each, its wall-clock time, and its place among the rows of its shape. */
struct written {
	const uint32_t *shape;
	const int64_t *times;
	const uint32_t *places;
	const struct row_shape *shapes;
	uint64_t shapes_count;
	const struct row_part *parts;
	uint64_t parts_count;
	struct row_memo *memos; /* one for each part; zeros to begin with */
	const uint8_t *texts;
	uint64_t texts_size;
	const struct given *given;
	uint64_t given_count;
};

struct text {
	const uint8_t *p; /* NULL: there is none */
	uint64_t size;
};

/*
 * The second that a row is in, kept from one row to the next: where it begins, its digits and how many these are, what
 * stands before and behind the fraction where it is shown as a moment.
 */
struct second {
	int64_t begin; /* wall clock, ns */
	uint64_t count;
	struct text before, behind;
	uint8_t digits[32];
};

/* The row that is written. */
struct row {
	const uint8_t *frame;
	uint64_t length, fixed, number, place; /* its number, and that among the rows of its shape */
	int64_t time;			       /* wall clock, ns */
	const struct second *second;
	uint64_t rest; /* the first eight of nine digits: ns since its second began */
	uint8_t last;  /* the ninth */
};

/* Where lines end at most, and whether something did not fit. */
struct room {
	uint8_t *end; /* … less the `most` of the row's shape */
	int full;
};

/*
 * Whether so many bytes can be written from p on. There is always room for the `most` of a shape beside them: what has
 * no more than ROW_NEED bytes is written without being asked. What writes gives where it ends, as a value, so that
 * this stays in a register; NULL: the line is not plain, or did not fit.
 */
static inline int has_room(struct room *room, const uint8_t *p, uint64_t size)
{
	if (room->end - p >= (int64_t)size) /* p may be further than `end` */
		return 1;
	room->full = 1;
	return 0;
}

static inline uint8_t *put(struct room *room, uint8_t *p, const void *from, uint64_t size)
{
	if (!has_room(room, p, size))
		return NULL;
	copy(p, from, size);
	return p + size;
}

/* A number. */
static inline uint8_t *number(uint8_t *p, int minus, uint64_t value)
{
	*p = '-';
	return write_number(p + minus, minus ? 0 - value : value);
}

static inline uint16_t number16(const uint8_t *p, uint64_t flags)
{
	uint16_t value;

	memcpy(&value, p, 2);
	return flags & ROW_FLAG_SWAP ? __builtin_bswap16(value) : value;
}

#define SHORT 10000000u /* numbers below have their text, with a sign, in a word */

static inline uint8_t *integer(uint8_t *to, const struct row_part *part, struct row_memo *memo, const uint8_t *p)
{
	uint64_t raw, value, size = part->size, swap = part->flags & ROW_FLAG_SWAP;
	uint16_t raw16;

	switch (size) {
	case 1:
		raw = *p;
		break;
	case 2:
		memcpy(&raw16, p, 2);
		raw = raw16;
		break;
	case 4:
		raw = host32(p);
		break;
	case 8:
		raw = host64(p);
		break;
	default:
		return NULL;
	}
	if (memo->raw == raw && memo->count) {
		put_word(to, memo->text);
		return to + memo->count;
	}
	value = swap ? __builtin_bswap64(raw) >> (64 - 8 * size) : raw;
	if (part->flags & ROW_FLAG_SIGNED)
		value = (uint64_t)((int64_t)(value << (64 - 8 * size)) >> (64 - 8 * size));
	else if (value >> 63)
		return write_number(to, value);
	uint64_t minus = value >> 63, positive = minus ? 0 - value : value;
	if (positive >= SHORT)
		return number(to, (int)minus, value);
	memo->raw = raw;
	memo->text = short_number((uint32_t)positive, &memo->count);
	if (minus) {
		memo->text = memo->text << 8 | '-';
		memo->count++;
	}
	put_word(to, memo->text);
	return to + memo->count;
}

#define EACH 0x0101010101010101u
#define HIGH (EACH << 7)

/* Not 0 where one of the bytes of a word is 0, this one, or less than `limit`, which is 128 at most. */
static inline uint64_t any_zero(uint64_t word) { return (word - EACH) & ~word & HIGH; }
static inline uint64_t any_of(uint64_t word, uint8_t byte) { return any_zero(word ^ EACH * byte); }
static inline uint64_t any_below(uint64_t word, uint8_t limit) { return (word - EACH * limit) & ~word & HIGH; }

/* All of 1 to 7 bytes in a word, some twice, with letters beside them. */
static inline uint64_t few(const uint8_t *p, uint64_t size)
{
	if (size >= 4)
		return host32(p) | (uint64_t)host32(p + size - 4) << 32;
	return p[0] | (uint64_t)p[size / 2] << 8 | (uint64_t)p[size - 1] << 16 | (EACH & ~0xffffffllu) * 'a';
}

/* What a text has: characters that are written otherwise by Python, and those that want quotes around a cell. */
#define ODD 1
#define QUOTED 2

static inline int in_cell(uint64_t word)
{
	uint64_t odd = (word & HIGH) | any_of(word, '\\');
	uint64_t quoted = any_of(word, '"') | any_of(word, ',') | any_of(word, '\r') | any_of(word, '\n');

	return (odd ? ODD : 0) | (quoted ? QUOTED : 0);
}

static inline int in_json(uint64_t word)
{
	uint64_t odd = (word & HIGH) | any_below(word, ' ') | any_of(word, 0x7f) | any_of(word, '"');

	return odd | any_of(word, '\\') ? ODD : 0;
}

/* What the words of a text have. */
static inline int looked_at(const uint8_t *p, uint64_t size, int (*look)(uint64_t))
{
	int found = 0;

	if (size < 8)
		return size ? look(few(p, size)) : 0;
	for (uint64_t at = 0; size - at > 8; at += 8)
		found |= look(host64(p + at));
	return found | look(host64(p + size - 8));
}

/* Text as JSON, in quotes. */
static inline uint8_t *json(struct room *room, uint8_t *to, const uint8_t *p, uint64_t size)
{
	if (looked_at(p, size, in_json) || !has_room(room, to, size + 2))
		return NULL;
	*to++ = '"';
	copy(to, p, size);
	to += size;
	*to++ = '"';
	return to;
}

/* Text between two commas: in quotes where it is empty, or has what means something there. */
static inline uint8_t *cell(struct room *room, uint8_t *to, const uint8_t *p, uint64_t size)
{
	int found = looked_at(p, size, in_cell);

	if (found & ODD)
		return NULL;
	if (size && !found)
		return put(room, to, p, size);
	if (!has_room(room, to, 2 * size + 2))
		return NULL;
	*to++ = '"';
	for (uint64_t i = 0; i < size; i++) {
		if (p[i] == '"')
			*to++ = '"';
		*to++ = p[i];
	}
	*to++ = '"';
	return to;
}

static uint8_t *hexadecimal(struct room *room, uint8_t *to, const uint8_t *p, uint64_t size, int quoted)
{
	static const char digits[] = "0123456789abcdef";

	if (!has_room(room, to, 2 * size + 2))
		return NULL;
	if (quoted)
		*to++ = '"';
	for (uint64_t i = 0; i < size; i++) {
		*to++ = (uint8_t)digits[p[i] >> 4];
		*to++ = (uint8_t)digits[p[i] & 15];
	}
	if (quoted)
		*to++ = '"';
	return to;
}

/* Bytes or a text as its part wants it. */
static inline uint8_t *styled(struct room *room, uint8_t *to, uint64_t style, const uint8_t *p, uint64_t size)
{
	if (style == STYLE_CELL)
		return cell(room, to, p, size);
	if (style == STYLE_JSON)
		return json(room, to, p, size);
	return hexadecimal(room, to, p, size, style == STYLE_JSON_HEX || !size);
}

/* `true` or `false`. */
static inline uint8_t *truth(uint8_t *to, int is_true)
{
	memcpy(to, is_true ? "true  " : "false ", 6);
	return to + (is_true ? 4 : 5);
}

/* The value of a field of the tail. */
static inline uint8_t *tail(struct room *room, uint8_t *to, const struct row *row, const struct row_part *part)
{
	const uint8_t *p = row->frame + part->at;
	uint64_t at = number16(p, part->flags), said = number16(p + 2, part->flags), size = said & TAIL_MAX;

	if (size && (at < row->fixed || at + size > row->length))
		return NULL;
	if (part->style == STYLE_CUT)
		return truth(to, said > TAIL_CUT);
	if (said & TAIL_CUT) {
		if (part->style == STYLE_JSON || part->style == STYLE_JSON_HEX)
			return NULL;
		if (!size)
			return to; /* it could not be read */
	}
	return styled(room, to, part->style, row->frame + (size ? at : 0), size);
}

/* A text that is given. */
static inline struct text given_text(const struct written *with, const struct row *row, uint64_t which)
{
	const struct text none = { NULL, 0 };

	if (which >= with->given_count)
		return none;
	const struct given *given = with->given + which;
	uint64_t at = given->by_row ? row->number : row->place;
	if (at >= given->count || given->numbers[at] >= given->texts_count)
		return none;
	uint64_t number = given->numbers[at], end = given->ends[number], start = number ? given->ends[number - 1] : 0;
	if (start > end || end > given->size)
		return none;
	return (struct text){ given->texts + start, end - start };
}

static inline uint8_t *put_text(struct room *room, uint8_t *to, struct text text)
{
	return text.p ? put(room, to, text.p, text.size) : NULL;
}

#define SECOND 1000000000 /* ns */

/* Tells a row how much of its second has gone by; `second` is the one before, or is made anew. */
static inline void count_from(struct second *second, const struct written *with, struct row *row)
{
	uint64_t rest = (uint64_t)row->time - (uint64_t)second->begin;

	if (rest >= SECOND || !second->count) {
		int64_t of_it = row->time % SECOND;
		rest = (uint64_t)(of_it < 0 ? of_it + SECOND : of_it);
		second->begin = (int64_t)((uint64_t)row->time - rest);
		second->count = (uint64_t)(write_number(second->digits, (uint64_t)(row->time / SECOND)) -
					   second->digits);
		second->before = given_text(with, row, 0);
		second->behind = given_text(with, row, 1);
	}
	row->second = second;
	row->rest = eight_digits((uint32_t)rest / 10) | 0x3030303030303030u;
	row->last = (uint8_t)('0' + rest % 10);
}

/* The nine digits of what has gone by of a second. */
static inline uint8_t *put_rest(uint8_t *to, const struct row *row)
{
	put_word(to, row->rest);
	to[8] = row->last;
	return to + 9;
}

static inline uint8_t *put_time(uint8_t *to, const struct row *row)
{
	if (row->time < SECOND) /* the digits of a second would be 0, or have a sign */
		return number(to, row->time < 0, (uint64_t)row->time);
	memcpy(to, row->second->digits, 16);
	return put_rest(to + row->second->count, row);
}

/* Nine digits of a second, between what is given for the second: the first two of what is given. */
static inline uint8_t *moment(struct room *room, uint8_t *to, const struct row *row)
{
	to = put_text(room, to, row->second->before);
	return to ? put_text(room, put_rest(to, row), row->second->behind) : NULL;
}

/* The value of a part. */
static inline uint8_t *value(struct room *room, uint8_t *to, const struct written *with, const struct row *row,
			     const struct row_part *part)
{
	const uint8_t *p = row->frame + part->at;

	switch (part->kind) {
	case ROW_INTEGER:
		return integer(to, part, with->memos + (part - with->parts), p);
	case ROW_TAIL:
		return tail(room, to, row, part);
	case ROW_FIXED: {
		int all = part->style == STYLE_HEX || part->style == STYLE_JSON_HEX;
		const uint8_t *nul = all ? NULL : memchr(p, 0, part->size);
		return styled(room, to, part->style, p, nul ? (uint64_t)(nul - p) : part->size);
	}
	case ROW_BOOL: {
		uint64_t any = 0;
		for (uint64_t at = 0; at < part->size; at++)
			any |= p[at];
		return truth(to, any != 0);
	}
	case ROW_TIME:
		return put_time(to, row);
	case ROW_MOMENT:
		return moment(room, to, row);
	case ROW_GIVEN:
		return put_text(room, to, given_text(with, row, part->at));
	case ROW_NOTHING:
		return to;
	default:
		return NULL; /* ROW_ODD */
	}
}

/* One line; NULL where it is not plain, or finds no room. */
static inline uint8_t *line(struct room *room, uint8_t *to, const struct written *with, const struct row *row,
			    const struct row_shape *shape)
{
	const struct row_part *part = with->parts + shape->first, *last = part + shape->count;

	for (; part < last; part++) {
		to = value(room, to, with, row, part);
		if (!to)
			return NULL;
		const uint8_t *text = with->texts + part->text_at;
		memcpy(to, text, ROW_TEXT_LEAST); /* what is too much is written over */
		if (part->text_size > ROW_TEXT_LEAST)
			memcpy(to, text, part->text_size);
		to += part->text_size;
	}
	return to;
}

/* Whether what parts name is in the texts, and in the fixed part of the records, and shapes tell the `most` of a line. */
static int is_sound(const struct written *with)
{
	for (uint64_t s = 0; s < with->shapes_count; s++) {
		const struct row_shape *shape = with->shapes + s;
		uint64_t most = 0;
		if (shape->first > with->parts_count || shape->count > with->parts_count - shape->first)
			return 0;
		for (uint64_t i = 0; i < shape->count; i++) {
			const struct row_part *part = with->parts + shape->first + i;
			int there = part->kind >= ROW_NOTHING;
			uint64_t size = part->kind == ROW_TAIL && part->size < 4 ? 4 : part->size;
			uint64_t text = part->text_size < ROW_TEXT_LEAST ? ROW_TEXT_LEAST : part->text_size;
			if (!there && (part->at > shape->fixed || size > shape->fixed - part->at))
				return 0;
			if (part->text_at > with->texts_size || text > with->texts_size - part->text_at)
				return 0;
			most += ROW_NEED + part->text_size; /* far from 2^64: there are so many bytes */
		}
		if (shape->most < most)
			return 0;
	}
	return 1;
}

/*
 * The lines of rows from `first` on, each in its shape, up to the first that finds no room in out[0, size): how many,
 * and where each ends in `out`. One that is not plain is left out: odd[] is 1 then.
 */
uint64_t kw_rows_lines(const struct rows *rows, const struct written *with, uint64_t first, uint8_t *out, uint64_t size,
		       uint64_t *ends, uint8_t *odd)
{
	struct room room = { NULL, 0 };
	struct second second = { 0, 0, { NULL, 0 }, { NULL, 0 }, { 0 } };
	uint8_t *end = out;
	uint64_t i;

	if (!is_sound(with))
		return 0;
	for (i = first; i < rows->count; i++) {
		struct row row = { row_bytes(rows, i, 0, rows->ends[i]), rows->ends[i], 0, i, with->places[i],
				   with->times[i], NULL, 0, 0 };
		uint8_t *made = NULL;
		count_from(&second, with, &row);
		if (row.frame && with->shape[i] < with->shapes_count) {
			const struct row_shape *shape = with->shapes + with->shape[i];
			row.fixed = shape->fixed;
			if (shape->most > (uint64_t)(out + size - end))
				break;
			room.end = out + size - shape->most;
			made = row.length >= row.fixed ? line(&room, end, with, &row, shape) : NULL;
		}
		if (room.full)
			break;
		odd[i - first] = !made;
		end = made ? made : end;
		ends[i - first] = (uint64_t)(end - out);
	}
	return i - first;
}
