/* Columns of events, straight from their frames: heads, fixed fields, texts; and how often each value stands there. */
#include "common.h"

/* Bytes of a frame without its trailer, of those `length` that it says. */
static inline uint64_t without_trailer(const uint8_t *frame, uint64_t length)
{
	if (frame_flags(frame) & FLAG_CHECKSUM) {
		uint64_t trailer = frame_flags(frame) & FLAG_PADDED ? 3 : 2;
		length = length >= FRAME_HEADER + trailer ? length - trailer : FRAME_HEADER;
	}
	return length;
}

/* What a row says of the events of a probe. */
struct shape {
	uint64_t id, fixed, swap, first, tails;
};

/* The row of a probe number, of `count` in their order; `near`: one that it is likely to be. */
static const struct shape *shape_of(const struct shape *rows, uint64_t count, uint64_t id, const struct shape *near)
{
	uint64_t low = 0, high = count;

	if (near && near->id == id)
		return near;
	if (count && id - rows->id < count && rows[id - rows->id].id == id)
		return rows + (id - rows->id); /* numbers mostly follow each other */
	while (low < high) {
		uint64_t middle = low + (high - low) / 2;
		if (rows[middle].id < id)
			low = middle + 1;
		else
			high = middle;
	}
	return low < count && rows[low].id == id ? rows + low : NULL;
}

/* Whether an event of `end` bytes without its trailer has those of its row, and tail values in what follows. */
static int event_sound(const uint8_t *frame, uint64_t end, const struct shape *row, const uint64_t *tails,
		       uint64_t room)
{
	uint64_t total = 0;

	if (end < row->fixed || row->first > room || row->tails > room - row->first)
		return 0;
	for (uint64_t i = 0; i < row->tails; i++) {
		uint64_t at = tails[row->first + i];
		uint16_t pair[2];
		if (at > end || end - at < 4)
			return 0;
		memcpy(pair, frame + at, 4);
		uint64_t start = row->swap ? __builtin_bswap16(pair[0]) : pair[0];
		uint64_t length = (row->swap ? __builtin_bswap16(pair[1]) : pair[1]) & TAIL_MAX;
		total += length;
		if (length && (start < row->fixed || start + length > end))
			return 0;
	}
	return total <= MAX_FIELD_BYTES;
}

/* Whether an event with the head of one that is sound refers to its tail as that one does, and so is sound too. */
static inline int as_sound(const uint8_t *frame, const uint8_t *sound, const struct shape *row, const uint64_t *tails)
{
	for (uint64_t i = 0; i < row->tails; i++)
		if (host32(frame + tails[row->first + i]) != host32(sound + tails[row->first + i]))
			return 0;
	return 1;
}

typedef uint32_t words __attribute__((vector_size(16)));

static void fill(uint32_t *to, uint64_t count, uint32_t value)
{
	const words four = { value, value, value, value };
	uint64_t i = 0;

	for (; count - i >= 4; i += 4)
		memcpy(to + i, &four, sizeof four);
	for (; i < count; i++)
		to[i] = value;
}

/* What heads tell together. `first`, `last`: the least and the greatest timestamp of EVENTs, as the records hold them. */
struct survey {
	uint64_t same, ordered, first, last, unsound;
};

/*
 * Of each frame: its type, its id, its bytes without the trailer, and, of an EVENT, its timestamp as the record holds
 * it. An EVENT too short for one has the type NO_EVENT. Stops at a frame that is not whole; returns how many there
 * are. The survey: whether all are EVENTs of one id; whether no EVENT's timestamp is less than that before it; how many
 * EVENTs are not as their schema says, by `rows` and `tails` as kw_events_unsound takes them.
 */
uint64_t kw_event_heads(const uint8_t *data, uint64_t size, const uint64_t *offsets, uint64_t count,
			const struct shape *rows, uint64_t row_count, const uint64_t *tails, uint64_t tail_count,
			uint8_t *types, uint32_t *ids, uint32_t *ends, uint64_t *times, struct survey *survey)
{
	const struct shape *near = NULL;
	uint64_t i = 0, least = ~(uint64_t)0, most = 0, before = 0, late = 0, unsound = 0;
	uint32_t differs = 0, first = 0, any = 0;

	while (i < count) {
		uint32_t length = frame_length(data, size, offsets[i]);
		if (!length)
			break;
		const uint8_t *frame = data + offsets[i], *sound = NULL; /* `sound`: an EVENT that is, with this head */
		uint64_t head = host64(frame), end = without_trailer(frame, length), last = size - length, from = i;
		uint32_t type = frame_type(frame), id = frame_id(frame), word = 0;
		if (type == TYPE_EVENT && length < EVENT_HEADER)
			type = NO_EVENT;
		if (!i)
			first = id;
		differs |= (id ^ first) | (type ^ TYPE_EVENT);
		const struct shape *row = type == TYPE_EVENT ? shape_of(rows, row_count, id, near) : NULL;
		near = row ? row : near;
		if (type == TYPE_EVENT && !any) {
			least = before = event_time(frame);
			any = 1;
		}
		uint64_t alone = row && row->tails == 1 && row->first < tail_count ? tails[row->first] : 0;
		for (; i < count && offsets[i] <= last; i++) { /* those that follow with the same head */
			frame = data + offsets[i];
			if (host64(frame) != head)
				break;
			if (row && !(sound && (alone ? host32(frame + alone) == word : as_sound(frame, sound, row, tails)))) {
				sound = event_sound(frame, end, row, tails, tail_count) ? frame : NULL;
				unsound += !sound;
				word = sound && alone ? host32(sound + alone) : 0;
			}
			uint64_t time = length < EVENT_HEADER ? 0 : event_time(frame);
			times[i] = time;
			if (type != TYPE_EVENT)
				continue;
			if (time < before) { /* of those in order the first is the least, and the last the greatest */
				late = 1;
				most = before > most ? before : most;
				least = time < least ? time : least;
			}
			before = time;
		}
		memset(types + from, (int)type, i - from);
		fill(ids + from, i - from, id);
		fill(ends + from, i - from, (uint32_t)end);
	}
	*survey = (struct survey){ !differs, !late, least, before > most ? before : most, unsound };
	return i;
}

/*
 * Which EVENTs are not as their schema says: `rows`, in the order of their probe numbers, tell how many fixed bytes
 * each has and where the references of its tail fields stand (`tails`). out[] gets their places, `limit` at most;
 * returns how many there are. Frames of no row, other frames, and what is no whole frame, are passed over.
 */
uint64_t kw_events_unsound(const uint8_t *data, uint64_t size, const uint64_t *offsets, uint64_t count,
			   const struct shape *rows, uint64_t row_count, const uint64_t *tails, uint64_t tail_count,
			   uint64_t *out, uint64_t limit)
{
	const struct shape *row = NULL;
	uint64_t found = 0;

	for (uint64_t i = 0; i < count; i++) {
		uint32_t length = frame_length(data, size, offsets[i]);
		if (length < EVENT_HEADER)
			continue;
		const uint8_t *frame = data + offsets[i];
		if (frame_type(frame) != TYPE_EVENT)
			continue;
		const struct shape *other = shape_of(rows, row_count, frame_id(frame), row);
		if (!other)
			continue;
		row = other;
		if (event_sound(frame, without_trailer(frame, length), row, tails, tail_count))
			continue;
		if (found < limit)
			out[found] = i;
		found++;
	}
	return found;
}

/*
 * The EVENTs with this id: starts[] and ends[] get where each frame begins and how many bytes it has without its
 * trailer. Other frames are left out. Ends before an EVENT of fewer than `fixed` bytes; *next is its index, or count.
 */
uint64_t kw_event_spans(const uint8_t *data, uint64_t size, const uint64_t *offsets, uint64_t count, uint64_t id,
			uint64_t fixed, uint64_t *starts, uint64_t *ends, uint64_t limit, uint64_t *next)
{
	uint64_t found = 0, i;

	for (i = 0; i < count && found < limit; i++) {
		uint64_t length = frame_length(data, size, offsets[i]);
		if (!length)
			continue;
		const uint8_t *frame = data + offsets[i];
		if (frame_type(frame) != TYPE_EVENT || frame_id(frame) != id)
			continue;
		length = without_trailer(frame, length);
		if (length < fixed)
			break;
		starts[found] = offsets[i];
		ends[found++] = length;
	}
	*next = i;
	return found;
}

#define VALUES(bits, value)                                                                       \
	for (i = 0; i < count && starts[i] <= last; i++) {                                        \
		uint##bits##_t one;                                                               \
		memcpy(&one, from + starts[i], bits / 8);                                         \
		one = (value);                                                                    \
		memcpy(out + i * (bits / 8), &one, bits / 8);                                     \
	}                                                                                         \
	return i

/*
 * The `width` bytes at byte `at` of each event, back to back; `each`: bytes of the numbers in them whose order is
 * turned, 0 or 1: none. Ends before one that is not inside the data; returns how many there are.
 */
uint64_t kw_event_values(const uint8_t *data, uint64_t size, const uint64_t *starts, uint64_t count, uint64_t at,
			 uint64_t width, uint64_t each, uint8_t *out)
{
	uint64_t i;

	if (at > size || width > size - at)
		return 0;
	uint64_t last = size - at - width; /* the greatest start of one that is inside */
	const uint8_t *from = data + at;
	if (width == 1) {
		VALUES(8, one);
	} else if (width == 2) {
		if (each == 2) {
			VALUES(16, __builtin_bswap16(one));
		}
		VALUES(16, one);
	} else if (width == 4 && each != 2) {
		if (each == 4) {
			VALUES(32, __builtin_bswap32(one));
		}
		VALUES(32, one);
	} else if (width == 8 && each != 2 && each != 4) {
		if (each == 8) {
			VALUES(64, __builtin_bswap64(one));
		}
		VALUES(64, one);
	}
	for (i = 0; i < count && starts[i] <= last; i++) {
		uint8_t *row = out + i * width;
		memcpy(row, from + starts[i], width);
		for (uint64_t head = 0; each > 1 && width - head >= each; head += each)
			for (uint64_t low = head, high = head + each - 1; low < high; low++, high--) {
				uint8_t byte = row[low];
				row[low] = row[high];
				row[high] = byte;
			}
	}
	return i;
}

/*
 * Where the values of a tail field lie in data, by the references at byte `at` of each event, and their lengths
 * without the cut bit; one of no bytes lies at 0. Ends before a reference that leaves its frame's tail, which begins
 * at `fixed`, or is not inside the data; returns how many are sound.
 */
uint64_t kw_event_tails(const uint8_t *data, uint64_t size, const uint64_t *starts, const uint64_t *ends,
			uint64_t count, uint64_t at, uint64_t swap, uint64_t fixed, uint64_t *places,
			uint64_t *lengths)
{
	uint64_t i;

	if (at > size || size - at < 4)
		return 0;
	for (i = 0; i < count && starts[i] <= size - at - 4; i++) {
		uint16_t pair[2];
		memcpy(pair, data + starts[i] + at, 4);
		uint64_t offset = swap ? __builtin_bswap16(pair[0]) : pair[0];
		uint64_t length = (swap ? __builtin_bswap16(pair[1]) : pair[1]) & TAIL_MAX;
		if (length && (offset < fixed || offset + length > ends[i]))
			break;
		places[i] = length ? starts[i] + offset : 0;
		lengths[i] = length;
	}
	return i;
}

/*
 * Where the texts of `width` bytes at byte `at` of each event lie, and their lengths up to the first NUL. Ends before
 * one that is not inside the data; returns how many there are.
 */
uint64_t kw_event_texts(const uint8_t *data, uint64_t size, const uint64_t *starts, uint64_t count, uint64_t at,
			uint64_t width, uint64_t *places, uint64_t *lengths)
{
	uint64_t i;

	if (at > size || width > size - at)
		return 0;
	for (i = 0; i < count && starts[i] <= size - at - width; i++) {
		const uint8_t *text = data + starts[i] + at;
		uint64_t length = 0;
		while (length < width && text[length])
			length++;
		places[i] = starts[i] + at;
		lengths[i] = length;
	}
	return i;
}

/* A mask for the first `count` bytes, 0 to 7, of a word in memory. */
static inline uint64_t low_bytes(uint64_t count)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	return ((uint64_t)1 << 8 * count) - 1;
#else
	return count ? ~(uint64_t)0 << (64 - 8 * count) : 0;
#endif
}

/* Values of different lengths as rows of `width` bytes, zeros behind each. Ends before one that does not fit. */
uint64_t kw_gather_texts(const uint8_t *data, uint64_t size, const uint64_t *places, const uint64_t *lengths,
			 uint64_t count, uint64_t width, uint8_t *out)
{
	uint64_t i;

	for (i = 0; i < count; i++) {
		uint64_t place = places[i], length = lengths[i];
		uint8_t *row = out + i * width;
		if (length > width || place > size || length > size - place)
			break;
		if (width && width <= 16 && size - place >= 16 && i + 16 < count) {
			/* Two words are quicker than a call; the rows behind are written after this one. */
			uint64_t words[2];
			memcpy(words, data + place, 16);
			words[0] &= length >= 8 ? ~(uint64_t)0 : low_bytes(length);
			words[1] &= length >= 16 ? ~(uint64_t)0 : length > 8 ? low_bytes(length - 8) : 0;
			memcpy(row, words, 16);
		} else {
			memcpy(row, data + place, length);
			memset(row + length, 0, width - length);
		}
	}
	return i;
}

/*
 * Values of different lengths back to back, as Arrow has them: ends[0] is 0, ends[i + 1] where value i ends. Ends
 * before one that is not inside the data, or does not fit; returns how many there are.
 */
uint64_t kw_pack_texts(const uint8_t *data, uint64_t size, const uint64_t *places, const uint64_t *lengths,
		       uint64_t count, uint8_t *out, uint64_t room, uint32_t *ends)
{
	uint64_t i, used = 0;

	ends[0] = 0;
	for (i = 0; i < count; i++) {
		uint64_t place = places[i], length = lengths[i];
		if (length > room - used || place > size || length > size - place)
			break;
		if (length <= 8 && size - place >= 8 && room - used >= 8)
			memcpy(out + used, data + place, 8); /* what is too much is written over */
		else
			memcpy(out + used, data + place, length);
		used += length;
		ends[i + 1] = (uint32_t)used;
	}
	return i;
}

/* A hash with a secret of a value that lies in the data; NULs at its end change nothing. */
static inline uint64_t hash_of(const uint8_t *text, uint64_t length, uint64_t there, uint64_t secret)
{
	uint64_t hash = secret;

	for (uint64_t at = 0, word = 0; at < length; at += 8, word++) {
		uint64_t part = 0, left = length - at;
		if (left >= 8)
			part = host64(text + at);
		else if (there - at >= 8)
			part = host64(text + at) & low_bytes(left);
		else
			memcpy(&part, text + at, left);
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
		part = __builtin_bswap64(part);
#endif
		if (part)
			hash = mix(hash ^ (part * 0x9e3779b97f4a7c15u + word));
	}
	return hash;
}

/* The hash of each value. Ends before one that is not inside the data; returns how many there are. */
uint64_t kw_hash_texts(const uint8_t *data, uint64_t size, const uint64_t *places, const uint64_t *lengths,
		       uint64_t count, uint64_t secret, uint64_t *out)
{
	uint64_t i;

	for (i = 0; i < count; i++) {
		uint64_t place = places[i], length = lengths[i];
		if (place > size || length > size - place)
			break;
		out[i] = hash_of(data + place, length, size - place, secret);
	}
	return i;
}

/* --- how often each value stands there */

static inline uint64_t number(const uint8_t *values, uint64_t width, uint64_t with_sign, uint64_t i)
{
	switch (width) {
	case 1:
		return with_sign ? (uint64_t)((const int8_t *)(const void *)values)[i] : values[i];
	case 2:
		return with_sign ? (uint64_t)((const int16_t *)(const void *)values)[i] :
				   ((const uint16_t *)(const void *)values)[i];
	case 4:
		return with_sign ? (uint64_t)((const int32_t *)(const void *)values)[i] :
				   ((const uint32_t *)(const void *)values)[i];
	default:
		return ((const uint64_t *)(const void *)values)[i];
	}
}

/*
 * Where distinct keys go, as they come: keys[], how often each stands there, and where the first lies and how long it
 * is, `limit` of each. `table`: mask + 1 zeros, more than `limit`. `factor`: odd, and chosen at random, or whoever
 * makes the keys can have them all in one place of the table.
 */
struct distinct {
	uint32_t *table;
	uint64_t mask, factor, limit;
	uint64_t *keys, *counts, *places, *lengths;
};

/* What was counted: `last` of the keys was counted last, `run` times, and `place` is its own. */
struct seen {
	struct distinct to;
	uint64_t rest; /* bits of a product that do not tell the place in the table */
	uint64_t found, last, place, run;
};

static inline struct seen nothing_seen(const struct distinct *to)
{
	struct seen s = { .to = *to, .rest = (uint64_t)(63 - __builtin_popcountll(to->mask)) };

	return s;
}

/* Counts the key again, which is not the one before. 0: there is no room for it. *fresh: it is a new one. */
static inline __attribute__((always_inline)) int see(struct seen *s, uint64_t key, int *fresh)
{
	if (s->run)
		s->to.counts[s->place] += s->run;
	s->run = 0;
	uint64_t at = key * s->to.factor >> 1 >> s->rest; /* its high bits */
	while (s->to.table[at] && s->to.keys[s->to.table[at] - 1] != key)
		at = (at + 1) & s->to.mask;
	*fresh = !s->to.table[at];
	if (*fresh) {
		if (s->found == s->to.limit)
			return 0;
		s->to.keys[s->found] = key;
		s->to.counts[s->found++] = 0;
		s->to.table[at] = (uint32_t)s->found;
	}
	s->place = s->to.table[at] - 1;
	s->last = key;
	s->run = 1;
	return 1;
}

/* No more keys come: how many there are. */
static inline uint64_t all_seen(struct seen *s)
{
	if (s->run)
		s->to.counts[s->place] += s->run;
	return s->found;
}

static inline __attribute__((always_inline)) uint64_t distinct(const uint8_t *values, uint64_t width,
							       uint64_t with_sign, uint64_t count,
							       const struct distinct *to)
{
	struct seen s = nothing_seen(to);
	int fresh;

	for (uint64_t i = 0; i < count; i++) {
		uint64_t key = number(values, width, with_sign, i);
		if (s.run && key == s.last) {
			s.run++;
			continue;
		}
		if (!see(&s, key, &fresh))
			return to->limit + 1;
		if (fresh)
			to->places[s.place] = i;
	}
	return all_seen(&s);
}

/*
 * The distinct integers of `width` bytes, widened to 64 bits, each with the number of the first of them. Returns how
 * many there are; limit + 1: more, and they are not whole then.
 */
uint64_t kw_count_distinct(const uint8_t *values, uint64_t width, uint64_t with_sign, uint64_t count,
			   const struct distinct *to)
{
	switch (width) {
	case 1:
		return distinct(values, 1, with_sign, count, to);
	case 2:
		return distinct(values, 2, with_sign, count, to);
	case 4:
		return distinct(values, 4, with_sign, count, to);
	default:
		return distinct(values, 8, with_sign, count, to);
	}
}

/* Events in `data`: where each begins, and how many bytes it has without its trailer. */
struct events {
	const uint8_t *data;
	uint64_t size, count;
	const uint64_t *starts, *ends;
};

/* A field, FIELD_WORDS: where it stands, its width, whether it has a sign, whether its bytes are turned. */
#define COUNT(bits, turned)                                                                       \
	for (; i < end && starts[i] <= last; i++) {                                               \
		uint##bits##_t one;                                                               \
		memcpy(&one, from + starts[i], bits / 8);                                         \
		one = (turned);                                                                   \
		uint64_t key = field[2] ? (uint64_t)(int##bits##_t)one : one;                     \
		if (s.run && key == s.last)                                                       \
			s.run++;                                                                  \
		else if (!see(&s, key, &fresh))                                                   \
			return 0;                                                                 \
	}                                                                                         \
	break

#define TILE 512u /* events whose fields are looked at one after the other: what the nearest cache holds of them */

/* Counts the field of events first..end; 0: there is no room, or one is not inside the data. */
static int count_field(const struct events *events, uint64_t first, uint64_t end, const uint64_t *field,
		       struct seen *to)
{
	const uint64_t *starts = events->starts, width = field[1];
	struct seen s = *to;
	uint64_t i = first;
	int fresh;

	if (field[0] > events->size || width > events->size - field[0])
		return 0;
	uint64_t last = events->size - field[0] - width;
	const uint8_t *from = events->data + field[0];
	switch (width | field[3] << 4) {
	case 1:
	case 1 | 16:
		COUNT(8, one);
	case 2:
		COUNT(16, one);
	case 4:
		COUNT(32, one);
	case 8:
		COUNT(64, one);
	case 2 | 16:
		COUNT(16, __builtin_bswap16(one));
	case 4 | 16:
		COUNT(32, __builtin_bswap32(one));
	case 8 | 16:
		COUNT(64, __builtin_bswap64(one));
	default:
		break;
	}
	*to = s;
	return i == end;
}

/*
 * The distinct values of each of `fields` integers of events, widened to 64 bits, as they come, and how often each
 * stands there: `limit` keys[] and counts[] for each field, found[] how many there are; limit + 1: more, or an event
 * that is not inside the data, and they are not whole then. `table`: mask + 1 slots for each field, of as many as are
 * counted together.
 */
void kw_event_counts(const struct events *events, const uint64_t *fields, uint64_t field_count,
		     const struct distinct *to, uint64_t *found)
{
	struct seen seen[TOGETHER];

	for (uint64_t group = 0; group < field_count; group += TOGETHER) {
		uint64_t many = field_count - group < TOGETHER ? field_count - group : TOGETHER;
		memset(to->table, 0, many * (to->mask + 1) * sizeof *to->table);
		for (uint64_t at = 0; at < many; at++) {
			struct distinct own = *to;
			own.table += at * (to->mask + 1);
			own.keys += (group + at) * to->limit;
			own.counts += (group + at) * to->limit;
			seen[at] = nothing_seen(&own);
			found[group + at] = 0;
		}
		for (uint64_t i = 0; i < events->count; i += TILE) {
			uint64_t end = events->count - i < TILE ? events->count : i + TILE;
			for (uint64_t at = 0; at < many; at++)
				if (!found[group + at] && !count_field(events, i, end, fields + (group + at) * FIELD_WORDS, &seen[at]))
					found[group + at] = to->limit + 1;
		}
		for (uint64_t at = 0; at < many; at++)
			if (!found[group + at])
				found[group + at] = all_seen(&seen[at]);
	}
}

/*
 * A field of text. `kind`: at byte `at` of each event stands a reference to its tail, which begins at `fixed`; or
 * `width` bytes, of which the text ends at the first NUL, or all are taken.
 */
struct text_field {
	uint64_t at, kind, width, swap, fixed, secret;
};

/* Whether the bytes are those of the value before, `size` and `old` bytes of which are there from them on. */
static inline int as_before(const uint8_t *p, uint64_t size, const uint8_t *before, uint64_t old, uint64_t length)
{
	if (length <= 8 && size >= 8 && old >= 8)
		return length == 8 ? host64(p) == host64(before) : !((host64(p) ^ host64(before)) & low_bytes(length));
	return !memcmp(p, before, length);
}

#define LONG_TEXT 16u /* bytes of a text that is compared as two words */

/* What the reference of a text in the tail says, and where its event must end at least. */
struct told {
	uint64_t word, offset, length, reach;
};

/*
 * The first event from i on whose text lies elsewhere in it than is told, or is not that of which LONG_TEXT bytes are there
 * from `text` on; those before it are added to *run.
 */
static uint64_t as_told(const struct events *events, const struct text_field *f, uint64_t i, const struct told *told,
			const uint8_t *text, uint64_t *run)
{
	const uint64_t *starts = events->starts, *ends = events->ends, count = events->count, from = i;
	uint64_t need = told->offset + LONG_TEXT, offset = told->offset, reach = told->reach, at = f->at;
	uint32_t word = (uint32_t)told->word;

	need = need < at + 4 ? at + 4 : need;
	if (!told->length || told->length > LONG_TEXT || told->word >> 32 || events->size < need)
		return i;
	uint64_t last = events->size - need;
	uint64_t low = told->length < 8 ? low_bytes(told->length) : ~(uint64_t)0;
	uint64_t high = told->length <= 8 ? 0 : told->length < 16 ? low_bytes(told->length - 8) : ~(uint64_t)0;
	uint64_t one = host64(text), two = host64(text + 8);
	for (; i < count && starts[i] <= last; i++) {
		const uint8_t *event = events->data + starts[i];
		if (host32(event + at) != word || ends[i] < reach)
			break;
		if (((host64(event + offset) ^ one) & low) | ((host64(event + offset + 8) ^ two) & high))
			break;
	}
	*run += i - from;
	return i;
}

/*
 * The distinct values of a field of text, as they come: the hash of each with a secret. Returns how many there are;
 * limit + 1: more, or one that is not inside its event or the data, and they are not whole then. *unread: how many are
 * marked as not read; they are left out.
 */
uint64_t kw_text_counts(const struct events *events, const struct text_field *field, const struct distinct *to,
			uint64_t *unread)
{
	const uint8_t *data = events->data;
	const uint64_t *starts = events->starts, *ends = events->ends, size = events->size, count = events->count;
	const struct text_field f = *field;
	struct seen s = nothing_seen(to);
	uint64_t none = 0, taken = f.kind == TEXT_TAIL ? 4 : f.width, before = 0, before_length = 0;
	uint64_t offset = 0, tail = 0, reach = 0; /* of the last that was read: where it lies in its event, and ends */
	uint64_t told = ~(uint64_t)0;             /* the word that says so; none has this one */
	int fresh;

	*unread = 0;
	if (f.at > size || taken > size - f.at)
		return count ? to->limit + 1 : 0;
	for (uint64_t i = 0; i < count; i++) {
		if (s.run > 1 && f.kind == TEXT_TAIL && tail == before_length && size - before >= LONG_TEXT) {
			i = as_told(events, &f, i, &(struct told){ told, offset, tail, reach }, data + before, &s.run);
			if (i == count)
				break;
		}
		if (starts[i] > size - f.at - taken)
			return to->limit + 1;
		uint64_t place = starts[i] + f.at, length = f.width;
		if (f.kind == TEXT_TAIL) {
			uint32_t word = host32(data + place);
			if (word != told || starts[i] > size - reach || ends[i] < reach) { /* it lies elsewhere than the one before */
				uint16_t pair[2];
				memcpy(pair, &word, sizeof pair);
				uint64_t cut = f.swap ? __builtin_bswap16(pair[1]) : pair[1];
				if (cut == TAIL_CUT) {
					none++;
					continue;
				}
				offset = f.swap ? __builtin_bswap16(pair[0]) : pair[0];
				tail = cut & TAIL_MAX;
				if (tail && (offset < f.fixed || offset + tail > ends[i] || offset > size - starts[i] ||
					     tail > size - starts[i] - offset))
					return to->limit + 1;
				told = word;
				reach = tail ? offset + tail : 0;
			}
			length = tail;
			place = length ? starts[i] + offset : 0;
		} else if (f.kind == TEXT_FIXED) {
			length = 0;
			while (length < f.width && data[place + length])
				length++;
		}
		if (s.run && length == before_length &&
		    as_before(data + place, size - place, data + before, size - before, length)) {
			s.run++;
			continue;
		}
		before = place;
		before_length = length;
		uint64_t key = hash_of(data + place, length, size - place, f.secret);
		if (s.run && key == s.last) {
			s.run++;
			continue;
		}
		if (!see(&s, key, &fresh))
			return to->limit + 1;
		if (fresh) {
			to->places[s.place] = place;
			to->lengths[s.place] = length;
		}
	}
	*unread = none;
	return all_seen(&s);
}

static inline __attribute__((always_inline)) void powers(const uint8_t *values, uint64_t width, uint64_t with_sign,
							 uint64_t count, uint64_t *above, uint64_t *below,
							 uint64_t *sums)
{
	unsigned __int128 up = 0, down = 0;
	uint64_t flip = with_sign ? (uint64_t)1 << 63 : 0, least = ~(uint64_t)0, greatest = 0;

	for (uint64_t i = 0; i < count; i++) {
		uint64_t value = number(values, width, with_sign, i), ordered = value ^ flip;
		least = ordered < least ? ordered : least;
		greatest = ordered > greatest ? ordered : greatest;
		if (with_sign && value >> 63) {
			value = -value;
			below[64 - __builtin_clzll(value)]++;
			down += value;
		} else {
			above[value ? 64 - __builtin_clzll(value) : 0]++;
			up += value;
		}
	}
	sums[0] = (uint64_t)up;
	sums[1] = (uint64_t)(up >> 64);
	sums[2] = (uint64_t)down;
	sums[3] = (uint64_t)(down >> 64);
	sums[4] = least ^ flip;
	sums[5] = greatest ^ flip;
}

/*
 * Integers of `width` bytes by their bit lengths, negative ones by those of their magnitudes: out[] has how many are
 * not negative, then how many are, BIT_LENGTHS each, then SUMS.
 */
void kw_bit_counts(const uint8_t *values, uint64_t width, uint64_t with_sign, uint64_t count, uint64_t *out)
{
	memset(out, 0, (2 * BIT_LENGTHS + SUMS) * sizeof *out);
	uint64_t *below = out + BIT_LENGTHS, *sums = out + 2 * BIT_LENGTHS;
	if (width == 1)
		powers(values, 1, with_sign, count, out, below, sums);
	else if (width == 2)
		powers(values, 2, with_sign, count, out, below, sums);
	else if (width == 4)
		powers(values, 4, with_sign, count, out, below, sums);
	else
		powers(values, 8, with_sign, count, out, below, sums);
}

#define LANES 4u /* counters of a bit length that take turns: times mostly come evenly, and one would wait for itself */

/*
 * The steps from `before` to the first of times that are in order, and from each to the next, counted as kw_bit_counts
 * does. pairs[] gets between which times the steps of `wanted` or more are, the longest first and of equal ones those
 * that come first, `limit` at most; returns how many.
 */
uint64_t kw_intervals(const uint64_t *times, uint64_t count, uint64_t before, uint64_t wanted, uint64_t *out,
		      uint64_t *pairs, uint64_t limit)
{
	uint64_t lanes[LANES][BIT_LENGTHS] = { { 0 } }, *sums = out + 2 * BIT_LENGTHS;
	uint64_t least = ~(uint64_t)0, greatest = 0, found = 0, low = 0, high = 0;

	for (uint64_t i = 0; i < count; i++) {
		uint64_t step = times[i] - before;
		lanes[i % LANES][step ? 64 - __builtin_clzll(step) : 0]++;
		low += step & 0xffffffff;
		high += step >> 32;
		least = step < least ? step : least;
		greatest = step > greatest ? step : greatest;
		if (step >= wanted && limit) {
			uint64_t at = found < limit ? found++ : limit - 1;
			for (; at && pairs[2 * at - 1] - pairs[2 * at - 2] < step; at--) {
				pairs[2 * at] = pairs[2 * at - 2];
				pairs[2 * at + 1] = pairs[2 * at - 1];
			}
			pairs[2 * at] = before;
			pairs[2 * at + 1] = times[i];
			if (found == limit) {
				wanted = pairs[2 * limit - 1] - pairs[2 * limit - 2] + 1;
				limit = wanted ? limit : 0; /* none can be longer */
			}
		}
		before = times[i];
	}
	memset(out, 0, (2 * BIT_LENGTHS + SUMS) * sizeof *out);
	for (uint64_t lane = 0; lane < LANES; lane++)
		for (uint64_t at = 0; at < BIT_LENGTHS; at++)
			out[at] += lanes[lane][at];
	unsigned __int128 sum = ((unsigned __int128)high << 32) + low;
	sums[0] = (uint64_t)sum;
	sums[1] = (uint64_t)(sum >> 64);
	sums[4] = least;
	sums[5] = greatest;
	return found;
}
