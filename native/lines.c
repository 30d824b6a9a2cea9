/*
 * Events as lines of text, many at once: each in the format of its schema. The specification is `view.printed`, which
 * writes one event after the other; invariants as in walk.c. What is not plain (a text that is not ASCII or was cut,
 * a frame with a checksum, a record that is not sound) ends the walk before it, for Python to write.
 */
#include "text.h"

struct part {
	uint64_t kind, at, size, is_signed, letter, bits, flags, width, precision; /* precision: 0 is none, else 1 more */
};

struct shape {
	uint64_t id, first, count, fixed; /* parts from `first`; bytes of a record's fixed part */
};

_Static_assert(sizeof(struct part) == 8 * PART_WORDS && sizeof(struct shape) == 8 * LINE_WORDS, "as in Python");

struct out {
	uint8_t *p, *end;
};

static inline int put(struct out *out, const void *from, uint64_t size)
{
	if ((uint64_t)(out->end - out->p) < size)
		return 0;
	copy(out->p, from, size);
	out->p += size;
	return 1;
}

static int fill(struct out *out, uint8_t byte, uint64_t count)
{
	if ((uint64_t)(out->end - out->p) < count)
		return 0;
	memset(out->p, byte, count);
	out->p += count;
	return 1;
}

/* Text in a field of so many characters. */
static int padded(struct out *out, const struct part *part, const uint8_t *text, uint64_t size)
{
	uint64_t more = part->width > size ? part->width - size : 0;

	if (part->flags & FLAG_LEFT)
		return put(out, text, size) && fill(out, ' ', more);
	return fill(out, ' ', more) && put(out, text, size);
}

static uint16_t number16(const uint8_t *p, const struct part *part)
{
	uint16_t value;

	memcpy(&value, p, 2);
	return part->flags & FLAG_SWAP ? __builtin_bswap16(value) : value;
}

static uint64_t read_integer(const uint8_t *p, const struct part *part)
{
	if (part->size == 1)
		return part->is_signed ? (uint64_t)(int8_t)*p : *p;
	if (part->size == 2) {
		uint16_t value = number16(p, part);
		return part->is_signed ? (uint64_t)(int16_t)value : value;
	}
	if (part->size == 4) {
		uint32_t value = part->flags & FLAG_SWAP ? __builtin_bswap32(host32(p)) : host32(p);
		return part->is_signed ? (uint64_t)(int32_t)value : value;
	}
	return part->flags & FLAG_SWAP ? __builtin_bswap64(host64(p)) : host64(p);
}

static int is_integer(const struct part *part)
{
	return part->size == 1 || part->size == 2 || part->size == 4 || part->size == 8;
}

/* A number without a width, a sign or zeros of its own, as most are. */
static int bare(struct out *out, int minus, uint64_t value)
{
	uint8_t digits[32], *p = digits;

	if (minus)
		*p++ = '-';
	uint64_t size = (uint64_t)(write_number(p, minus ? 0 - value : value) - digits);
	return put(out, digits, size & 31); /* it is 21 at most, which the compiler does not see */
}

static int integer(struct out *out, const struct part *part, uint64_t value)
{
	if (part->bits >= 64 && !(part->flags & ~(uint64_t)FLAG_SWAP) && !part->width && !part->precision &&
	    (part->letter == 'd' || part->letter == 'u'))
		return bare(out, part->letter == 'd' && value >> 63, value);
	static const char low[] = "0123456789abcdef", high[] = "0123456789ABCDEF";
	uint8_t digits[64], sign[4];
	uint64_t mask = part->bits >= 64 ? ~(uint64_t)0 : ((uint64_t)1 << part->bits) - 1;
	uint64_t precision = part->precision ? part->precision - 1 : 0, signs = 0, at = sizeof digits;
	uint32_t base = part->letter == 'o' ? 8 : part->letter == 'x' || part->letter == 'X' ? 16 : 10;
	int zero;

	value &= mask;
	zero = value == 0;
	if (part->letter == 'd') {
		if (value & ((mask >> 1) + 1)) {
			sign[signs++] = '-';
			value = (0 - value) & mask;
		} else if (part->flags & FLAG_PLUS) {
			sign[signs++] = '+';
		} else if (part->flags & FLAG_SPACE) {
			sign[signs++] = ' ';
		}
	}
	if (base == 10 && value) {
		uint8_t written[32];
		uint64_t count = (uint64_t)(write_number(written, value) - written) & 31; /* as above */
		copy(digits + (at -= count), written, count);
	}
	for (; base == 16 && value; value >>= 4)
		digits[--at] = (uint8_t)(part->letter == 'X' ? high : low)[value & 15];
	for (; base == 8 && value; value >>= 3)
		digits[--at] = (uint8_t)('0' + (value & 7));
	if (zero && !(part->precision && !precision))
		digits[--at] = '0';
	uint64_t size = sizeof digits - at, zeros = precision > size ? precision - size : 0;
	if (part->flags & FLAG_FORM) {
		if (base == 16 && !zero) {
			sign[signs++] = '0';
			sign[signs++] = (uint8_t)part->letter;
		} else if (base == 8 && !zeros && !(size && digits[at] == '0')) {
			zeros = 1;
		}
	}
	uint64_t wide = signs + zeros + size, more = part->width > wide ? part->width - wide : 0;
	if (part->flags & FLAG_LEFT)
		return put(out, sign, signs) && fill(out, '0', zeros) && put(out, digits + at, size) &&
		       fill(out, ' ', more);
	if (part->flags & FLAG_ZERO && !part->precision)
		return put(out, sign, signs) && fill(out, '0', more + zeros) && put(out, digits + at, size);
	return fill(out, ' ', more) && put(out, sign, signs) && fill(out, '0', zeros) && put(out, digits + at, size);
}

/* Whether these bytes are ASCII without a backslash, which may stand for a byte that is not UTF-8. */
static int plain(const uint8_t *p, uint64_t size)
{
	uint8_t all = 0;

	for (uint64_t i = 0; i < size; i++) {
		if (p[i] == '\\')
			return 0;
		all |= p[i];
	}
	return !(all & 0x80);
}

static int text(struct out *out, const struct part *part, const uint8_t *p, uint64_t size)
{
	if (!plain(p, size))
		return 0;
	if (part->precision && part->precision - 1 < size)
		size = part->precision - 1;
	return padded(out, part, p, size);
}

/* The value of a field of the tail, at the end of whose record `length` bytes lie. */
static int tail(struct out *out, const struct shape *shape, const struct part *part, const uint8_t *frame,
		uint64_t length)
{
	if (part->size < 4)
		return 0;
	const uint8_t *p = frame + part->at;
	uint64_t at = number16(p, part), said = number16(p + 2, part), size = said & TAIL_MAX;
	if (size && (at < shape->fixed || at + size > length))
		return 0;
	if (said & TAIL_CUT)
		return 0;
	return text(out, part, frame + (size ? at : 0), size);
}

/* One line; 0 where it is not plain, or finds no room. */
static int line(struct out *out, const struct shape *shape, const struct part *parts, const uint8_t *frame,
		uint64_t length, const uint8_t *texts, uint64_t texts_size)
{
	for (uint64_t i = 0; i < shape->count; i++) {
		const struct part *part = &parts[shape->first + i];
		if (part->kind == PART_TEXT) {
			if (part->at > texts_size || part->size > texts_size - part->at)
				return 0;
			if (!put(out, texts + part->at, part->size))
				return 0;
			continue;
		}
		if (part->at > length || part->size > length - part->at)
			return 0;
		const uint8_t *p = frame + part->at;
		int done = 0;
		if (part->kind == PART_INTEGER) {
			done = is_integer(part) && integer(out, part, read_integer(p, part));
		} else if (part->kind == PART_CHARACTER) {
			uint8_t byte = is_integer(part) ? (uint8_t)read_integer(p, part) : 0x80;
			done = byte < 0x80 && padded(out, part, &byte, 1);
		} else if (part->kind == PART_TAIL) {
			done = tail(out, shape, part, frame, length);
		} else {
			const uint8_t *nul = memchr(p, 0, part->size);
			done = text(out, part, p, nul ? (uint64_t)(nul - p) : part->size);
		}
		if (!done)
			return 0;
	}
	return 1;
}

/*
 * The lines of the EVENTs at offsets[0, count), up to the first that is not plain, has none of the shapes or finds no
 * room in out[0, room): how many, where each ends in `out`, and its timestamp. told[0]: how much of `out` they take;
 * told[1]: whether no timestamp is less than the one before it.
 */
uint64_t kw_print_lines(const uint8_t *data, uint64_t size, const uint64_t *offsets, uint64_t count,
			const struct shape *shapes, uint64_t shapes_count, const struct part *parts,
			uint64_t parts_count, const uint8_t *texts, uint64_t texts_size, uint8_t *room,
			uint64_t room_size, uint64_t *ends, uint64_t *times, uint64_t *told)
{
	struct out out = { room, room + room_size };
	uint64_t done = 0;

	told[0] = 0;
	told[1] = 1;
	for (; done < count; done++) {
		uint32_t length = event_length(data, size, offsets[done]);
		if (!length)
			break;
		const uint8_t *frame = data + offsets[done];
		const struct shape *shape = shapes, *last = shapes + shapes_count;
		uint32_t id = frame_id(frame);
		while (shape < last && shape->id != id)
			shape++;
		if (shape == last || frame_flags(frame) || length < shape->fixed)
			break;
		if (shape->first > parts_count || shape->count > parts_count - shape->first)
			break;
		if (!line(&out, shape, parts, frame, length, texts, texts_size))
			break;
		told[0] = ends[done] = (uint64_t)(out.p - room);
		times[done] = event_time(frame);
		if (done && times[done] < times[done - 1])
			told[1] = 0;
	}
	return done;
}

struct run {
	const uint8_t *text;
	uint64_t size;
	const uint64_t *ends, *times;
	uint64_t count;
};

/* Whether the next line of run `a` stands before that of `b`: of equal times, as sorting does, in the runs' order. */
static int before(const struct run *runs, const uint64_t *at, uint64_t a, uint64_t b)
{
	uint64_t left = runs[a].times[at[a]], right = runs[b].times[at[b]];

	return left != right ? left < right : a < b;
}

/*
 * The lines of several runs, each in order of time, as one text in order of time: how many bytes, 0 where `room` is
 * too small for all or a line is not inside its text. `at`: a number for each run, of ours.
 */
uint64_t kw_merge_lines(const struct run *runs, uint64_t count, uint64_t *at, uint8_t *room, uint64_t room_size)
{
	struct out out = { room, room + room_size };

	memset(at, 0, count * sizeof *at);
	for (;;) {
		uint64_t first = count, second = count;
		for (uint64_t i = 0; i < count; i++) {
			if (at[i] == runs[i].count)
				continue;
			if (first == count || before(runs, at, i, first)) {
				second = first;
				first = i;
			} else if (second == count || before(runs, at, i, second)) {
				second = i;
			}
		}
		if (first == count)
			return (uint64_t)(out.p - room);
		const struct run *run = &runs[first];
		uint64_t start = at[first] ? run->ends[at[first] - 1] : 0;
		do
			at[first]++;
		while (at[first] < run->count && (second == count || before(runs, at, first, second)));
		uint64_t end = run->ends[at[first] - 1];
		if (end < start || end > run->size || !put(&out, run->text + start, end - start))
			return 0;
	}
}
