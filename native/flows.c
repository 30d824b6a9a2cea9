/* Flows, found by their ends, and the loop over packets. */
#include <stddef.h>

#include "engine.h"

int kw_on_port(const struct engine *e, uint32_t one, uint32_t two)
{
	return (e->ports[one >> 3] >> (one & 7) & 1) || (e->ports[two >> 3] >> (two & 7) & 1);
}

uint32_t kw_flow_ours(const struct engine *e, const struct flow *f)
{
	return (uint32_t)kw_on_port(e, f->key[0] >> 16 & 0xffff, f->key[0] & 0xffff);
}

static uint32_t *bucket_of(const struct engine *e, const uint64_t *key)
{
	uint64_t hash = e->seed;

	for (int i = 0; i < 5; i++) {
		hash = (hash ^ key[i]) * 0x9e3779b97f4a7c15u;
		hash ^= hash >> 32;
	}
	return &e->buckets[hash & e->bucket_mask];
}

static int same_key(const uint64_t *one, const uint64_t *two)
{
	return !((one[0] ^ two[0]) | (one[1] ^ two[1]) | (one[2] ^ two[2]) | (one[3] ^ two[3]) | (one[4] ^ two[4]));
}

static uint32_t find(const struct engine *e, const uint64_t *key)
{
	if (e->newest && same_key(e->flows[e->newest].key, key))
		return (uint32_t)e->newest; /* packets of a flow come in trains */
	for (uint32_t at = *bucket_of(e, key); at; at = e->flows[at].bucket)
		if (same_key(e->flows[at].key, key))
			return at;
	return 0;
}

static void unlink_flow(struct engine *e, uint32_t at)
{
	struct flow *f = &e->flows[at];

	if (f->older)
		e->flows[f->older].newer = f->newer;
	else
		e->oldest = f->newer;
	if (f->newer)
		e->flows[f->newer].older = f->older;
	else
		e->newest = f->older;
}

static void link_newest(struct engine *e, uint32_t at)
{
	struct flow *f = &e->flows[at];

	f->older = (uint32_t)e->newest;
	f->newer = 0;
	if (e->newest)
		e->flows[e->newest].newer = at;
	else
		e->oldest = at;
	e->newest = at;
}

static uint32_t add_flow(struct engine *e, const uint64_t *key, int first)
{
	uint32_t at = e->flow_free ? (uint32_t)e->flow_free : (uint32_t)++e->flow_used;

	if (e->flow_free)
		e->flow_free = e->flows[at].bucket;
	struct flow *f = &e->flows[at];
	uint32_t *bucket = bucket_of(e, key);
	memset(f, 0, sizeof *f);
	kw_unmark(e, &f->sides[0].held);
	kw_unmark(e, &f->sides[1].held);
	memcpy(f->key, key, sizeof f->key);
	f->first = (uint8_t)first;
	f->number = (uint32_t)++e->flow_number;
	f->bucket = *bucket;
	*bucket = at;
	link_newest(e, at);
	e->flow_count++;
	return at;
}

static void remove_flow(struct engine *e, uint32_t at)
{
	struct flow *f = &e->flows[at];
	uint32_t *link = bucket_of(e, f->key);

	while (*link != at)
		link = &e->flows[*link].bucket;
	*link = f->bucket;
	unlink_flow(e, at);
	e->flow_count--;
	if (e->raw_flow == at)
		e->raw_flow = 0;
	if (e->letting_go == at)
		e->letting_go = f->newer;
	f->bucket = (uint32_t)e->flow_free;
	e->flow_free = at;
}

/* Whether nothing is lost with a flow: it carries no session, or one that has ended, and holds nothing. */
static int finished(const struct engine *e, const struct flow *f)
{
	if (f->dead)
		return 1;
	for (int side = 0; side < 2; side++)
		if (f->sides[side].held.count || f->sides[side].partial)
			return 0;
	if (!f->conversation)
		return 1;
	return kw_over(&e->conversations[f->conversation]);
}

/* Begins to let go of the flow that was silent for longest. */
static void end_oldest(struct engine *e, int said)
{
	struct flow *f = &e->flows[e->oldest];

	if (said && !finished(e, f))
		kw_trouble(e, TROUBLE_TOO_MANY_FLOWS, VARIANT_FLOW, f->key, f->first, 0);
	e->work = (struct work){ .flow = (uint32_t)e->oldest, .step = STEP_END };
}

/* Whether a datagram is, by its shape, frames of the protocol. */
static int shaped(const uint8_t *p, uint64_t size)
{
	uint64_t at = 0;

	if (size < FRAME_HEADER)
		return 0;
	while (at < size) {
		uint32_t length = size - at < FRAME_HEADER ? 0 : strict_length(p, at, size);
		if (!length)
			return 0;
		at += length;
	}
	return 1;
}

/*
 * The same as strict_length for the payload that was summed up for its datagram, if the frame fills it. Of a checksum
 * of 0xffff a sum does not tell whether it should be 0.
 */
static uint32_t whole_length(const struct engine *e, const uint8_t *p, uint64_t size)
{
	uint32_t length = length_unsummed(p, 0, size);

	if (p != e->summed || length != size || length & 1 || !frame_flags(p) || big16(p + length - 2) == 0xffff)
		return strict_length(p, 0, size);
	return fold(e->sum) == 0xffff ? length : 0;
}

/* Goes on with the frames that fill a datagram; all of them are looked at, sound or not. */
static int whole(struct engine *e)
{
	struct work *w = &e->work;

	w->step = STEP_WHOLE;
	while (w->at < w->n) {
		const uint8_t *p = w->p + w->at;
		uint64_t left = w->n - w->at;
		uint32_t length = left < FRAME_HEADER ? 0 : whole_length(e, p, left);
		if (length) {
			w->at += length;
			if (kw_top_frame(e, w->flow, w->side, p, length))
				return 1;
			continue;
		}
		struct verdict v = kw_judge(p, left);
		if (!v.length) {
			const struct flow *f = &e->flows[w->flow];
			if (!w->at && p[0] >> 4 != FRAME_VERSION)
				kw_trouble(e, TROUBLE_NOT_FRAMES, VARIANT_FLOW, f->key, f->first, 0);
			else
				kw_complain(e, v.code, p, left);
			break;
		}
		kw_complain(e, v.code, p, left);
		w->at += v.length;
	}
	w->step = STEP_NONE;
	return 0;
}

int kw_raw(struct engine *e, const uint8_t *p, uint64_t size)
{
	static const uint64_t key[5];

	if (!e->raw_flow)
		e->raw_flow = add_flow(e, key, 0);
	e->work = (struct work){ .p = p, .n = size, .flow = (uint32_t)e->raw_flow };
	return whole(e);
}

/* A word whose first four bytes in memory are those of `bytes`, with zeros behind. */
static inline uint64_t first_bytes(uint32_t bytes)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	return bytes;
#else
	return (uint64_t)bytes << 32;
#endif
}

int kw_segment(struct engine *e, uint32_t version, uint32_t protocol, const uint8_t *source, const uint8_t *target,
	       const uint8_t *segment, const uint8_t *payload, uint64_t size)
{
	uint32_t from = big16(segment), to = big16(segment + 2);
	uint64_t key[5] = { 0, 0, 0, 0, 0 };
	int order = version == 4 ? (big32(source) > big32(target)) - (big32(source) < big32(target)) :
				   memcmp(source, target, 16);
	int high = order > 0 || (!order && from > to);
	const uint8_t *low_end = high ? target : source, *high_end = high ? source : target;

	key[0] = (uint64_t)version << 48 | (uint64_t)protocol << 32 | (high ? to << 16 | from : from << 16 | to);
	if (version == 4) { /* whole words: half a word that was just written is slow to read as one */
		key[1] = first_bytes(host32(low_end));
		key[3] = first_bytes(host32(high_end));
	} else {
		memcpy(key + 1, low_end, 16);
		memcpy(key + 3, high_end, 16);
	}
	uint32_t at = find(e, key);
	if (!at) {
		if (protocol == PROTOCOL_UDP && !kw_on_port(e, from, to) && !shaped(payload, size)) {
			e->tally[TALLY_PROTOCOL + PROTOCOL_UDP]++;
			return 0;
		}
		at = add_flow(e, key, high);
	} else if (e->newest != at) {
		unlink_flow(e, at);
		link_newest(e, at);
	}
	struct flow *f = &e->flows[at];
	uint32_t side = (uint32_t)high ^ f->first;
	if (protocol == PROTOCOL_UDP) {
		if (e->cut || !size)
			return 0;
		e->work = (struct work){ .p = payload, .n = size, .flow = at, .side = side };
		return whole(e);
	}
	if (f->dead) {
		e->tally[TALLY_PROTOCOL + PROTOCOL_TCP]++;
		return 0;
	}
	uint64_t time = e->rows[e->at].time;
	kw_stream_begin(e, at, side, big32(segment + 4), segment[13], payload, size, time == NO_TIME ? 0 : time);
	return kw_stream_go(e);
}

static int go_on(struct engine *e)
{
	if (e->work.step == STEP_WHOLE)
		return whole(e);
	uint32_t ends = e->work.step == STEP_END ? e->work.flow : 0;
	if (kw_stream_go(e))
		return 1;
	if (ends)
		remove_flow(e, ends);
	return 0;
}

/* Whether what was found is to be taken before there is more. */
int kw_full(const struct engine *e)
{
	return e->out_used > OUT_FULL || e->found > FOUND_FULL || e->special_count > MAX_SPECIALS - 16 ||
	       e->place_count > MAX_PLACES / 2;
}

/* Between packets: room in the hold for what one may have held; 1 where something was given up for that. */
static int make_room(struct engine *e)
{
	if (e->hold_used != HOLD_FIRST || e->hold_wrap)
		kw_hold_room(e);
	if (e->data_held <= HELD)
		return 0;
	kw_let_go(e);
	return 1;
}

/*
 * Memory is short: streams that wait give up what is missing, those that were silent longest first. 1 where one
 * is to do so.
 */
static int let_go(struct engine *e)
{
	if (!e->letting_go && e->stream_held > HELD)
		e->letting_go = e->oldest;
	while (e->letting_go && e->stream_held > HELD / 4 * 3) {
		const struct flow *f = &e->flows[e->letting_go];
		uint32_t at = (uint32_t)e->letting_go;
		e->letting_go = f->newer;
		if (f->sides[0].held.count || f->sides[1].held.count) {
			e->work = (struct work){ .flow = at, .step = STEP_LET_GO };
			return 1;
		}
	}
	e->letting_go = 0;
	return 0;
}

/* What Python has to do before anything is taken; WHY_DONE: nothing. */
static uint64_t in_the_way(const struct engine *e)
{
	if (kw_full(e))
		return WHY_FULL;
	return e->conversation_count > e->max_conversations ? WHY_ROOM : WHY_DONE;
}

/*
 * Takes the packets of rows[at, count) as far as that goes without Python; says why it ended. What has no room in
 * the tables is let go of between packets.
 */
uint64_t kw_packets(struct engine *e)
{
	uint64_t why;

	for (;;) {
		if (e->work.step != STEP_NONE) {
			if (go_on(e))
				return WHY_CALL;
		}
		if (e->busy) {
			e->busy = 0;
			e->at++;
			e->packets++;
			e->skipped += e->frames == e->before_frames && e->troubles != e->before_troubles;
			for (uint64_t at = e->before_places; at < e->place_count; at++)
				e->places[at].frames = e->frames - e->before_frames;
		}
		if (e->at >= e->count) {
			kw_settle(e);
			return WHY_DONE;
		}
		if ((why = in_the_way(e)) != WHY_DONE)
			return why;
		if (make_room(e))
			continue;
		if (e->evicting) { /* what it held was given: now it shows what is lost with it */
			e->evicting = 0;
			end_oldest(e, 1);
			continue;
		}
		/* whatever gives what waits, here or below, takes a slab for each side of its flow, so some are free before */
		int short_of_slabs = kw_short_of_slabs(e);
		if (!short_of_slabs && let_go(e))
			continue;
		if (e->flow_count > e->max_flows || short_of_slabs || (e->stream_held > HELD && e->flow_count > 1)) {
			e->evicting = 1;
			e->work = (struct work){ .flow = (uint32_t)e->oldest, .step = STEP_LET_GO };
			continue;
		}
		const struct row *row = &e->rows[e->at];
		e->busy = 1;
		e->before_frames = e->frames;
		e->before_troubles = e->troubles;
		e->before_places = e->place_count;
		if (row->offset > e->size || row->captured > e->size - row->offset)
			continue;
		if (kw_packet(e, row))
			return WHY_CALL;
	}
}

/* No more packets come: ends flow after flow; says why it ended. */
uint64_t kw_flows_end(struct engine *e)
{
	uint64_t why;

	for (;;) {
		if (e->work.step != STEP_NONE && go_on(e))
			return WHY_CALL;
		if (!e->flow_count)
			return WHY_DONE;
		if ((why = in_the_way(e)) != WHY_DONE)
			return why;
		if (make_room(e))
			continue;
		end_oldest(e, 0);
	}
}

/* The bytes of the structures, where some of their parts stand, and numbers, for Python to hold its own against. */
uint64_t kw_sizes(uint64_t *sizes)
{
	const uint64_t all[] = { sizeof(struct row),        sizeof(struct interface), sizeof(struct flow),
				 sizeof(struct conversation), sizeof(struct fragmented), sizeof(struct special),
				 sizeof(struct place),
				 sizeof(struct engine),
				 sizeof(struct side),
				 sizeof(struct given),
				 sizeof(struct chain),
				 sizeof(struct slabs),
				 sizeof(struct work),
				 offsetof(struct side, skipped),
				 offsetof(struct side, known),
				 offsetof(struct side, origin),
				 offsetof(struct side, built_at),
				 offsetof(struct side, given),
				 offsetof(struct conversation, held),
				 offsetof(struct conversation, first),
				 offsetof(struct flow, sides),
				 offsetof(struct engine, out),
				 offsetof(struct engine, counts),
				 offsetof(struct engine, flows),
				 offsetof(struct engine, slabs),
				 offsetof(struct engine, hold),
				 offsetof(struct engine, marks),
				 offsetof(struct engine, lying),
				 offsetof(struct engine, building),
				 offsetof(struct engine, work),
				 FRAGMENT_SLAB,
				 SLAB,
				 SLAB_KINDS,
				 BUILDING,
				 LYING,
				 MARKED,
				 MARKS,
				 GIVEN,
				 MAX_PLACES,
				 MAX_SPECIALS,
				 OUT_FULL,
				 FOUND_FULL,
				 RESERVE,
				 HOLD_RESERVE };

	memcpy(sizes, all, sizeof all);
	return sizeof all / sizeof *all;
}
