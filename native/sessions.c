/* Sessions: DATA in the order of its numbers, the frames in it, what waits for others, and what is wrong. */
#include "engine.h"

struct verdict kw_judge(const uint8_t *frame, uint64_t there)
{
	struct verdict v = { 0, 0, 0, 0 };

	if (there < FRAME_HEADER)
		return (struct verdict){ CODE_TRUNCATED_HEADER, 0, 1, 0 };
	uint32_t type = frame_type(frame), flags = frame_flags(frame), length = frame_says(frame), id = frame_id(frame);
	uint32_t pad = flags & FLAG_PADDED ? 1 : 0;
	v.length = length < FRAME_HEADER || length > there ? 0 : length;
	if (frame_version(frame) != FRAME_VERSION)
		v.code = CODE_BAD_VERSION;
	else if (type > TYPE_MAX)
		v.code = CODE_BAD_TYPE;
	else if (flags & ~(FLAG_CHECKSUM | FLAG_PADDED) || flags == FLAG_PADDED)
		v.code = CODE_BAD_FLAGS;
	else if (length < FRAME_HEADER)
		v.code = CODE_LENGTH_BELOW_HEADER;
	v.header = v.code != 0;
	int bad_id = type <= TYPE_MAX && (TYPES_WITHOUT_ID >> type & 1) && id;
	if (!v.length) {
		if (!v.code)
			v.code = bad_id ? CODE_BAD_ID : CODE_TRUNCATED_PAYLOAD;
		v.wait = v.code == CODE_TRUNCATED_PAYLOAD;
		v.header = 1;
		return v;
	}
	if (v.code) {
		/* whether any problem of the header is among several: a type without id is no such */
		return v;
	}
	/* A bad flag may stand beside what follows, but comes first; it was found above. */
	if (type == TYPE_EVENT && length > EVENT_MAX)
		return v.code = CODE_PAYLOAD_TOO_LONG, v;
	if (bad_id)
		return v.code = CODE_BAD_ID, v;
	uint32_t room = length - FRAME_HEADER, payload = room;
	if (flags & FLAG_CHECKSUM) {
		if (room < pad + 2)
			return v.code = CODE_BAD_CHECKSUM, v;
		payload = room - pad - 2;
	}
	if (type == TYPE_KEEPALIVE && payload)
		return v.code = CODE_BAD_PAYLOAD, v;
	if (flags & FLAG_CHECKSUM) {
		if (pad && (frame[length - 3] || length & 1))
			return v.code = CODE_BAD_PADDING, v;
		if (checksum(frame, length - 2) != big16(frame + length - 2))
			return v.code = CODE_BAD_CHECKSUM, v;
	}
	return v;
}

/* --- what is wrong */

static struct special *first_of(struct engine *e, uint32_t code, uint32_t variant)
{
	e->troubles++;
	if (e->counts[code]++ || e->special_count == MAX_SPECIALS)
		return 0;
	struct special *one = &e->specials[e->special_count++];
	memset(one, 0, sizeof *one);
	one->code = code;
	one->variant = variant;
	one->row = e->at < e->count ? e->at : UINT64_MAX;
	one->found = e->found;
	return one;
}

void kw_trouble(struct engine *e, uint32_t code, uint32_t variant, const uint64_t *key, uint64_t first,
		uint64_t number)
{
	struct special *one = first_of(e, CODE_TROUBLE + code, variant);

	if (!one)
		return;
	if (key)
		memcpy(one->key, key, sizeof one->key);
	one->first = first;
	one->number = number;
}

void kw_complain(struct engine *e, uint32_t code, const uint8_t *p, uint64_t size)
{
	struct special *one = first_of(e, code, VARIANT_FRAME);

	if (!one)
		return;
	if (size > COMPLAINT)
		size = COMPLAINT;
	if (size > e->out_room - e->out_used)
		size = e->out_room - e->out_used;
	one->offset = e->out_used;
	one->size = size;
	memcpy(e->out + e->out_used, p, size);
	e->out_used += size;
}

void kw_remark(struct engine *e, uint32_t remark, uint64_t count) { e->remarks[remark] += count; }

/* --- what waits */

/*
 * The hold is a ring of nodes: [hold_start, hold_used), or, where it goes on at the beginning, [hold_start, hold_wrap)
 * and [HOLD_FIRST, hold_used). Nodes are let go of in any order, mostly that in which they came; those at the start that
 * were are passed between packets, so that what was taken stays where it is until then. One packet may have more held
 * than there is before hold_start: that is put behind hold_wrap, where HOLD_RESERVE is kept free.
 */
static inline uint64_t node_space(uint64_t size) { return (sizeof(struct node) + size + 7) & ~(uint64_t)7; }

static inline uint64_t *hold_end(struct engine *e) { return e->hold_wrap ? &e->hold_wrap : &e->hold_used; }

/* Where a node of so many bytes lies, in units of 8; 0: there is no room. */
static uint32_t node_new(struct engine *e, uint64_t space)
{
	uint64_t *end = e->hold_wrap && space > e->hold_start - e->hold_used ? &e->hold_wrap : &e->hold_used;

	if (space > e->hold_room - *end)
		return 0;
	uint32_t place = (uint32_t)(*end / 8);
	*end += space;
	e->hold_live += space;
	return place;
}

/* Lets go of a node; its bytes stay where they are until the next packet. */
static void node_free(struct engine *e, struct node *node)
{
	node->before = NODE_FREE;
	e->hold_live -= node_space(node->size);
}

static struct marks *marks_of(struct engine *e, const struct chain *chain)
{
	return &e->marks[(uintptr_t)chain / sizeof *chain % MARKED];
}

/* The chain is another one from here on, or a node of it is. */
void kw_unmark(struct engine *e, const struct chain *chain)
{
	struct marks *marks = marks_of(e, chain);

	if (marks->chain == chain)
		marks->chain = 0;
}

static void mark(struct engine *e, const struct chain *chain, struct marks *marks)
{
	uint32_t each = chain->count / MARKS + 1, passed = 0;

	*marks = (struct marks){ .chain = chain };
	for (uint32_t at = chain->head; at; at = NODE(e, at)->next)
		if (passed++ % each == 0)
			marks->places[marks->count++] = at;
}

/*
 * The last whose key is at no greater distance from `base` than `key` is; 0: there is none. Looked for from the end
 * that is nearer, by the keys: what comes late comes soon after its place, and what is turned around before it. In
 * a long chain marks take the place of the ends; searches that have passed as many nodes as it has pay for new ones.
 */
uint32_t kw_held_at(struct engine *e, const struct chain *chain, uint32_t base, uint32_t key)
{
	uint32_t ahead = key - base, low = chain->head, high = chain->tail, passed = 0;

	if (!chain->count || NODE(e, high)->key - base <= ahead)
		return chain->count ? high : 0;
	if (NODE(e, low)->key - base > ahead)
		return 0;
	struct marks *marks = marks_of(e, chain);
	if (marks->chain == chain) {
		uint32_t first = marks->first, last = marks->count;
		while (first < last) {
			uint32_t middle = first + (last - first) / 2;
			if (NODE(e, marks->places[middle])->key - base <= ahead)
				first = middle + 1;
			else
				last = middle;
		}
		low = first > marks->first ? marks->places[first - 1] : low;
		high = first < marks->count ? marks->places[first] : high;
	}
	if (ahead - (NODE(e, low)->key - base) > NODE(e, high)->key - base - ahead) {
		for (low = high; NODE(e, low)->key - base > ahead; passed++)
			low = NODE(e, low)->before;
	} else {
		for (; NODE(e, NODE(e, low)->next)->key - base <= ahead; passed++)
			low = NODE(e, low)->next;
	}
	marks->walked += passed;
	if (chain->count > MARKS_LEAST && marks->walked > chain->count)
		mark(e, chain, marks);
	return low;
}

/*
 * Keeps before + p[before_size, size) under `key`, in the order of the distance from `base`. 1: done; 0: there is
 * one with this key already; -1: there is no room.
 */
int kw_hold(struct engine *e, struct chain *chain, uint32_t base, uint32_t key, const uint8_t *p, uint64_t size,
	    const uint8_t *before, uint64_t before_size)
{
	uint32_t after = kw_held_at(e, chain, base, key);

	if (after && NODE(e, after)->key == key)
		return 0;
	uint32_t place = node_new(e, node_space(size));
	if (!place)
		return -1;
	struct node *node = NODE(e, place);
	node->key = key;
	node->size = (uint32_t)size;
	memcpy(NODE_DATA(e, place), before, before_size);
	memcpy(NODE_DATA(e, place) + before_size, p + before_size, size - before_size);
	node->before = after;
	node->next = after ? NODE(e, after)->next : chain->head;
	if (after)
		NODE(e, after)->next = place;
	else
		chain->head = place;
	if (node->next)
		NODE(e, node->next)->before = place;
	else
		chain->tail = place;
	chain->count++;
	chain->bytes += (uint32_t)size;
	return 1;
}

/* Takes the first from the chain; its bytes stay where they are until the next packet. */
void kw_unhold(struct engine *e, struct chain *chain)
{
	struct node *node = NODE(e, chain->head);
	struct marks *marks = marks_of(e, chain);

	if (marks->chain == chain && marks->first < marks->count && marks->places[marks->first] == chain->head)
		marks->first++;
	chain->head = node->next;
	chain->count--;
	chain->bytes -= node->size;
	if (chain->head)
		NODE(e, chain->head)->before = 0;
	else
		chain->tail = 0;
	node_free(e, node);
}

/* Has the one of `alone`, which is the same and longer, take the place of `old` in the chain. */
void kw_replace(struct engine *e, struct chain *chain, uint32_t old, const struct chain *alone)
{
	struct node *gone = NODE(e, old), *node = NODE(e, alone->head);

	node->before = gone->before;
	node->next = gone->next;
	*(node->before ? &NODE(e, node->before)->next : &chain->head) = alone->head;
	*(node->next ? &NODE(e, node->next)->before : &chain->tail) = alone->head;
	chain->bytes += node->size - gone->size;
	node_free(e, gone);
	kw_unmark(e, chain);
}

static void move_chain(struct engine *e, struct chain *chain, uint64_t *used)
{
	uint32_t last = 0;

	for (uint32_t at = chain->head; at;) {
		struct node *node = NODE(e, at);
		uint64_t space = node_space(node->size);
		uint32_t place = (uint32_t)(*used / 8), next = node->next;
		struct node *moved = (struct node *)(void *)(e->spare + *used);
		memcpy(moved, node, sizeof *node + node->size);
		moved->before = last;
		if (last)
			((struct node *)(void *)(e->spare + (uint64_t)last * 8))->next = place;
		else
			chain->head = place;
		last = place;
		*used += space;
		at = next;
	}
	chain->tail = last;
}

/* Moves what is still held to the beginning of the other space. */
static void collect(struct engine *e)
{
	uint64_t used = HOLD_FIRST;

	for (uint64_t at = 0; at < MARKED; at++)
		e->marks[at].chain = 0;
	for (uint64_t at = 1; at <= e->flow_used; at++)
		for (int side = 0; side < 2; side++)
			if (e->flows[at].sides[side].held.count)
				move_chain(e, &e->flows[at].sides[side].held, &used);
	for (uint64_t at = 1; at <= e->conversation_used; at++)
		if (e->conversations[at].held.count)
			move_chain(e, &e->conversations[at].held, &used);
	uint8_t *old = e->hold;
	e->hold = e->spare;
	e->spare = old;
	e->hold_start = HOLD_FIRST;
	e->hold_wrap = 0;
	e->hold_used = used;
}

/* Between packets: passes what was let go of, and sees to it that one packet finds room. */
void kw_hold_room(struct engine *e)
{
	while (e->hold_start != *hold_end(e)) {
		const struct node *node = NODE(e, e->hold_start / 8);
		if (node->before != NODE_FREE)
			break;
		e->hold_start += node_space(node->size);
		if (e->hold_start == e->hold_wrap) {
			e->hold_start = HOLD_FIRST;
			e->hold_wrap = 0;
		}
	}
	if (!e->hold_live)
		e->hold_start = e->hold_used = HOLD_FIRST;
	else if (!e->hold_wrap && e->hold_used > e->hold_small && e->hold_start > e->hold_used / 8) {
		e->hold_wrap = e->hold_used;
		e->hold_used = HOLD_FIRST;
	}
	uint64_t spread = e->hold_wrap ? e->hold_wrap - e->hold_start + e->hold_used : e->hold_used - e->hold_start;
	if (*hold_end(e) > e->hold_room - HOLD_RESERVE || (spread > e->hold_small && spread > 4 * e->hold_live))
		collect(e);
}

/* --- the frames that DATA wraps */

/* Notes in which packet a SCHEMA was found: Python, which reads it later, may have to name the place. */
static void note_place(struct engine *e)
{
	if (e->place_count == MAX_PLACES)
		return;
	struct place *place = &e->places[e->place_count++];
	*place = (struct place){ 0, 0, 0 };
	if (e->at < e->count) {
		const struct row *row = &e->rows[e->at];
		*place = (struct place){ e->packets + 1, e->base + row->offset - row->head, 0 };
	}
}

/*
 * Frames on their way out. `there`: they lie in `out` already, where they were put together; if not, p[mark, at) is still to be
 * copied. `place`: where p[0] lies in `out`, or will.
 */
struct run {
	const uint8_t *p;
	uint64_t mark, place;
	int there;
};

static struct run run_of(const struct engine *e, const uint8_t *p)
{
	uint64_t from = (uint64_t)((uintptr_t)p - (uintptr_t)e->out);
	int there = (uintptr_t)p >= (uintptr_t)e->out && from < e->out_used;

	return (struct run){ .p = p, .place = there ? from : e->out_used, .there = there };
}

/* What lies before p[at] goes out; what is kept next begins at p[next]. */
static void keep(struct engine *e, struct run *run, uint64_t at)
{
	if (run->there)
		return;
	memcpy(e->out + e->out_used, run->p + run->mark, at - run->mark);
	e->out_used += at - run->mark;
}

static void pass(const struct engine *e, struct run *run, uint64_t next)
{
	if (run->there)
		return;
	run->mark = next;
	run->place = e->out_used - next; /* modulo 2^64 */
}

static int lost_sound(const uint8_t *frame, uint32_t length)
{
	uint32_t size = length - FRAME_HEADER;
	static const uint8_t zero[5];

	if (frame_flags(frame) & FLAG_CHECKSUM)
		size -= frame_flags(frame) & FLAG_PADDED ? 3 : 2;
	if (size != 32)
		return 0;
	uint64_t first = (uint64_t)big32(frame + 8) << 32 | big32(frame + 12);
	uint64_t last = (uint64_t)big32(frame + 16) << 32 | big32(frame + 20);
	return last >= first && !memcmp(frame + 35, zero, 5);
}

/* Frames that stand back to back: those that a capture keeps go out, in runs. */
static void take_inner(struct engine *e, uint32_t number, const uint8_t *p, uint64_t size, uint32_t alone)
{
	struct conversation *c = &e->conversations[number];
	struct run run = run_of(e, p);
	uint64_t at = 0, frames = 0, before = e->found, found = before;
	uint64_t head = 0, step = 0; /* of the last EVENT that was kept, if no flag is set in it */

	if ((!run.there && size > e->out_room - e->out_used) || size / 8 > e->limit - found) {
		CANNOT_BE; /* RESERVE is there */
		c->unsound++;
		return;
	}
	while (at < size) {
		const uint8_t *frame = p + at;
		uint32_t length = size - at < FRAME_HEADER ? 0 : strict_length(p, at, size);
		if (!length) {
			struct verdict v = kw_judge(frame, size - at);
			keep(e, &run, at);
			e->found = found;
			kw_complain(e, v.code, frame, size - at);
			c->unsound++;
			if (!v.length) {
				at = size;
				pass(e, &run, at);
				break;
			}
			at += v.length;
			pass(e, &run, at);
			continue;
		}
		frames++;
		uint32_t type = frame_type(frame), owner = number;
		if (type == TYPE_EVENT) {
			if (length >= EVENT_HEADER && !frame_flags(frame)) {
				head = host64(frame);
				step = length;
			}
			if (length >= EVENT_HEADER)
				goto kept;
			keep(e, &run, at);
			e->found = found;
			kw_complain(e, CODE_BAD_PAYLOAD, frame, length);
			c->unsound++;
		} else if (type == TYPE_LOST) {
			if (lost_sound(frame, length))
				goto kept;
			keep(e, &run, at);
			e->found = found;
			kw_complain(e, CODE_BAD_PAYLOAD, frame, length);
			c->unsound++;
		} else if (type == TYPE_SCHEMA) {
			owner |= SCHEMA_MARK | alone;
			note_place(e);
			e->schemas++;
			goto kept;
		} else if (type == TYPE_TABLE) {
			goto kept;
		} else { /* what stands outside of DATA only */
			keep(e, &run, at);
			e->found = found;
			kw_complain(e, CODE_ILLEGAL_TRANSITION, frame, length);
			c->unsound++;
		}
		at += length;
		pass(e, &run, at);
		continue;
kept:
		e->offsets[found] = run.place + at;
		e->owners[found++] = owner;
		at += length;
		/* those that follow with the same head are sound and kept as well: nothing in it can tell them apart */
		for (; step && size - at >= step && host64(p + at) == head; at += step) {
			e->offsets[found] = run.place + at;
			e->owners[found++] = number;
			frames++;
		}
	}
	keep(e, &run, at);
	if (found != before)
		e->only = !e->only || e->only == number ? number : SEVERAL;
	e->found = found;
	c->frames += frames;
}

/* --- DATA in order */

static uint64_t gone_bit(uint32_t sequence) { return (uint64_t)1 << (sequence % 64); }

static uint64_t *gone_word(struct conversation *c, uint32_t sequence) { return &c->gone[sequence % MAX_PARTS / 64]; }

/* Goes on to a number; those before it have come, or are not taken any more. */
static void advance(struct conversation *c, uint32_t to)
{
	for (uint32_t at = c->next, n = 0; c->has_gone && at != to && n < MAX_PARTS; at++, n++)
		*gone_word(c, at) &= ~gone_bit(at);
	c->next = to;
}

/* Goes on to a number of a stream, on which those before it cannot come any more; of a later stream they are taken. */
static void pass_gone(struct conversation *c, uint32_t to)
{
	c->missing += to - c->next;
	for (uint32_t at = c->next, n = 0; at != to && n < MAX_PARTS; at++, n++)
		*gone_word(c, to - 1 - n) |= gone_bit(to - 1 - n);
	c->has_gone = 1;
	c->next = to;
}

/* Whether a number that was passed comes after all. */
static int came_back(struct conversation *c, uint32_t sequence)
{
	if (!c->has_gone || c->next - sequence > MAX_PARTS || !(*gone_word(c, sequence) & gone_bit(sequence)))
		return 0;
	*gone_word(c, sequence) &= ~gone_bit(sequence);
	c->missing--;
	return 1;
}

static void take_held(struct engine *e, uint32_t number)
{
	struct conversation *c = &e->conversations[number];

	while (c->held.count && NODE(e, c->held.head)->key == c->next) {
		uint32_t place = c->held.head, size = NODE(e, place)->size;
		kw_unhold(e, &c->held);
		e->data_held -= size + PART_COST;
		advance(c, c->next + 1);
		take_inner(e, number, NODE_DATA(e, place), size, 0);
	}
}

/* Gives up what is missing before the first that is held. */
static void pass_missing(struct engine *e, uint32_t number)
{
	struct conversation *c = &e->conversations[number];
	uint32_t first = NODE(e, c->held.head)->key;

	c->missing += first - c->next;
	advance(c, first);
	take_held(e, number);
}

static int before_first(struct conversation *c, uint32_t sequence)
{
	int32_t ahead = (int32_t)(sequence - c->start);

	if (!c->knows_start || ahead >= 0 || ahead <= -(int32_t)MAX_PARTS)
		return 0;
	uint64_t *word = &c->early[(uint32_t)-ahead / 64], bit = (uint64_t)1 << ((uint32_t)-ahead % 64);
	if (*word & bit)
		return 0;
	*word |= bit;
	c->missing -= c->knows_start == STARTS_COUNTED;
	return 1;
}

static void take_data(struct engine *e, uint32_t number, uint32_t sequence, const uint8_t *p, uint64_t size,
		      int streamed)
{
	struct conversation *c = &e->conversations[number];

	if (!c->knows_next) {
		c->knows_next = c->knows_start = 1;
		c->next = c->start = sequence;
	}
	int32_t ahead = (int32_t)(sequence - c->next);
	if (ahead > 0 && streamed && !c->held.count) {
		pass_gone(c, sequence);
		ahead = 0;
	}
	if (!ahead) {
		advance(c, sequence + 1);
		take_inner(e, number, p, size, 0);
		if (c->held.count)
			take_held(e, number);
		return;
	}
	if (ahead < 0) {
		if (before_first(c, sequence) || came_back(c, sequence)) {
			c->late++;
			take_inner(e, number, p, size, 0);
		} else {
			c->again++;
		}
		return;
	}
	int done = kw_hold(e, &c->held, c->next, sequence, p, size, p, 0);
	if (!done) {
		c->again++;
		return;
	}
	c->late++;
	if (done < 0) {
		CANNOT_BE; /* HOLD_RESERVE is there */
		return;
	}
	e->data_held += size + PART_COST;
	while (c->held.count && (c->held.count > MAX_PARTS || c->held.bytes > MAX_DATA_HELD))
		pass_missing(e, number);
}

/* How much the DATA costs that a conversation waits with. */
static uint64_t cost_of(const struct conversation *c) { return c->held.bytes + (uint64_t)c->held.count * PART_COST; }

static uint32_t bits_of(uint64_t value) { return value ? 64 - (uint32_t)__builtin_clzll(value) : 0; }

/*
 * Memory is short: conversations give up what they wait for until a quarter is free, those that hold most, by powers of
 * two, as they began. All are looked at, so it is done for many at a time.
 */
void kw_let_go(struct engine *e)
{
	uint64_t of_size[65] = { 0 }, sum = 0;
	uint32_t size = 64;

	for (uint64_t at = 1; at <= e->conversation_used; at++)
		of_size[bits_of(cost_of(&e->conversations[at]))] += cost_of(&e->conversations[at]);
	while (size > 1 && (sum += of_size[size]) < e->data_held - HELD / 4 * 3)
		size--;
	for (uint64_t at = 1; at <= e->conversation_used && e->data_held > HELD / 4 * 3; at++) {
		struct conversation *c = &e->conversations[at];
		if (bits_of(cost_of(c)) < size)
			continue;
		kw_trouble(e, TROUBLE_TOO_MANY_FLOWS, VARIANT_HELD, c->key, c->first, cost_of(c));
		while (c->held.count)
			pass_missing(e, (uint32_t)at);
	}
}

/* Whether the source has said BYE and every DATA before that is there. */
int kw_over(const struct conversation *c)
{
	return c->knows_bye && c->knows_next && (int32_t)(c->bye - c->next) <= 0 && !c->held.count;
}

/* --- all sessions */

/*
 * The numbers of all, as they began; returns how many there are. `told`: only of those of which DATA is missing, or whose
 * sink was heard. `out`: room for all that there are.
 */
uint64_t kw_conversations(const struct engine *e, uint64_t told, uint32_t *out)
{
	uint64_t count = 0;

	for (uint64_t at = e->conversation_oldest; at; at = e->conversations[at].newer)
		if (!told || e->conversations[at].missing || e->conversations[at].answered)
			out[count++] = (uint32_t)at;
	return count;
}

/* The numbers of those that are let go of, as they began: those that are over, or else began, first. */
uint64_t kw_conversations_chosen(struct engine *e, uint64_t most, uint32_t *out)
{
	uint64_t chosen = 0, count = 0;

	for (int over = 1; over >= 0; over--)
		for (uint64_t at = e->conversation_oldest; at && chosen < most; at = e->conversations[at].newer) {
			struct conversation *c = &e->conversations[at];
			if (c->chosen || (over && !kw_over(c)))
				continue;
			c->chosen = 1;
			chosen++;
		}
	for (uint64_t at = e->conversation_oldest; count < chosen; at = e->conversations[at].newer)
		if (e->conversations[at].chosen)
			out[count++] = (uint32_t)at;
	return count;
}

/*
 * No more DATA comes of these, from the one at *at on: gives what they hold, and tells what is missing and what came
 * again or late. Says why it ended; what was found is to be taken before it goes on where a SCHEMA is among it.
 */
uint64_t kw_conversations_end(struct engine *e, const uint32_t *numbers, uint64_t count, uint64_t *at)
{
	for (; *at < count; ++*at) {
		struct conversation *c = &e->conversations[numbers[*at]];
		while (c->held.count) {
			pass_missing(e, numbers[*at]);
			if (e->place_count || kw_full(e))
				return WHY_FULL;
		}
		int32_t ahead = c->knows_bye && c->knows_next ? (int32_t)(c->bye - c->next) : 0;
		if (ahead > 0) {
			c->missing += (uint32_t)ahead;
			c->next = c->bye;
		}
		if (c->missing) {
			kw_trouble(e, TROUBLE_DATA_MISSING, VARIANT_FLOW, c->key, c->first, 0);
			e->counts[CODE_TROUBLE + TROUBLE_DATA_MISSING] += c->missing - 1;
			e->troubles += c->missing - 1;
		}
		kw_remark(e, REMARK_DATA_AGAIN, c->again);
		kw_remark(e, REMARK_REORDERED, c->late);
	}
	return WHY_DONE;
}

/* Lets go of these, which have ended; no flow is of theirs any more. */
void kw_conversations_forget(struct engine *e, const uint32_t *numbers, uint64_t count)
{
	for (uint64_t at = 0; at < count; at++) {
		struct conversation *c = &e->conversations[numbers[at]];
		if (c->older)
			e->conversations[c->older].newer = c->newer;
		else
			e->conversation_oldest = c->newer;
		if (c->newer)
			e->conversations[c->newer].older = c->older;
		else
			e->conversation_newest = c->older;
		c->chosen = 1;
		c->next = (uint32_t)e->conversation_free;
		e->conversation_free = numbers[at];
		e->conversation_count--;
	}
	for (uint64_t at = 1; at <= e->flow_used; at++)
		if (e->flows[at].conversation && e->conversations[e->flows[at].conversation].chosen)
			e->flows[at].conversation = 0;
}

/* --- the frames of a session */

static uint32_t conversation_of(struct engine *e, struct flow *f)
{
	if (f->conversation)
		return f->conversation;
	uint64_t number = e->conversation_free;
	if (number)
		e->conversation_free = e->conversations[number].next;
	else
		number = ++e->conversation_used; /* there is room: it is asked for between packets */
	struct conversation *c = &e->conversations[number];
	memset(c, 0, sizeof *c);
	kw_unmark(e, &c->held);
	memcpy(c->key, f->key, sizeof c->key);
	c->first = f->first;
	c->older = (uint32_t)e->conversation_newest;
	if (c->older)
		e->conversations[c->older].newer = (uint32_t)number;
	else
		e->conversation_oldest = number;
	e->conversation_newest = number;
	e->conversation_count++;
	f->conversation = (uint32_t)number;
	return (uint32_t)number;
}

/* A conversation for Python to begin: of a HELLO. */
uint64_t kw_conversation_new(struct engine *e, uint64_t flow)
{
	e->flows[flow].conversation = 0;
	return conversation_of(e, &e->flows[flow]);
}

/* Takes a strict frame that no DATA wraps; 1 where Python has to read it before anything else. */
int kw_top_frame(struct engine *e, uint32_t flow, uint32_t side, const uint8_t *p, uint32_t length)
{
	struct flow *f = &e->flows[flow];
	uint32_t size = length - FRAME_HEADER;
	uint64_t before = e->troubles;

	if (frame_flags(p) & FLAG_CHECKSUM)
		size -= frame_flags(p) & FLAG_PADDED ? 3 : 2;
	switch (frame_type(p)) {
	case TYPE_DATA:
		f->roles[side] = ROLE_SOURCE;
		f->roles[1 - side] = ROLE_SINK;
		take_data(e, conversation_of(e, f), frame_id(p), p + FRAME_HEADER, size,
			  (f->key[0] >> 32 & 0xff) == PROTOCOL_TCP);
		break;
	case TYPE_EVENT:
	case TYPE_SCHEMA:
	case TYPE_LOST:
	case TYPE_TABLE:
		if (!f->roles[side])
			f->roles[side] = ROLE_SOURCE;
		take_inner(e, conversation_of(e, f), p, length, ALONE_MARK);
		break;
	case TYPE_ACK:
		e->conversations[conversation_of(e, f)].answered = 1;
		break;
	case TYPE_HELLO:
	case TYPE_WELCOME:
		e->call_frame = p;
		e->call_size = length;
		e->call_flow = flow;
		e->call_side = side;
		return 1;
	case TYPE_BYE:
		if (f->roles[side] != ROLE_SINK && f->conversation) {
			e->conversations[f->conversation].bye = frame_id(p);
			e->conversations[f->conversation].knows_bye = 1;
		}
		break;
	default:
		break;
	}
	/* those that nothing is wrong with are counted, and DATA, whatever it holds */
	e->frames += frame_type(p) == TYPE_DATA || e->troubles == before;
	return 0;
}
