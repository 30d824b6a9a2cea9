/* TCP streams put in order, and the frames in them: streams.Stream and streams.Splitter. */
#include "engine.h"

static void trouble_of(struct engine *e, const struct flow *f, uint32_t code, uint32_t variant, uint64_t number)
{
	kw_trouble(e, code, variant, f->key, f->first, number);
}

/* --- bytes that wait to be a frame */

/*
 * They lie in a slab, the smallest kind that holds them; those of DATA of BUILD_LEAST bytes and more, once its header is
 * there, where they are given to Python: in `out`, which has room for all of the frame.
 */
static uint8_t *slab_of(const struct engine *e, const struct side *s)
{
	return e->slabs[s->kind].memory + (uint64_t)(s->slab - 1) * e->slabs[s->kind].size;
}

static const uint8_t *partial_of(const struct engine *e, const struct side *s)
{
	return s->built ? e->out + s->built_at : slab_of(e, s);
}

static void free_slab(struct engine *e, struct side *s)
{
	struct slabs *kind = &e->slabs[s->kind];

	if (s->slab)
		kind->stack[kind->free++] = s->slab - 1;
	s->slab = 0;
}

static uint64_t left_of(const struct slabs *kind) { return kind->count - kind->used + kind->free; }

/* Whether there may be too few slabs for what the next packet gives. */
int kw_short_of_slabs(const struct engine *e)
{
	for (uint32_t kind = 0; kind < SLAB_KINDS; kind++)
		if (left_of(&e->slabs[kind]) < SLABS_LEAST)
			return 1;
	return 0;
}

/* The bytes of the side go on in the smallest slab that holds so many; 0 where there is none. */
static int fit_slab(struct engine *e, struct side *s, uint64_t size)
{
	uint32_t kind;

	for (kind = 0; kind < SLAB_KINDS; kind++) {
		if (e->slabs[kind].size < size)
			continue;
		if (s->slab && kind == s->kind)
			return 1;
		if (left_of(&e->slabs[kind]))
			break;
	}
	if (kind == SLAB_KINDS)
		return 0;
	struct slabs *to = &e->slabs[kind];
	uint32_t slab = to->free ? to->stack[--to->free] : (uint32_t)to->used++;
	if (s->slab && s->partial)
		memcpy(to->memory + (uint64_t)slab * to->size, slab_of(e, s), s->partial);
	free_slab(e, s);
	s->slab = slab + 1;
	s->kind = kind;
	return 1;
}

/* The frame in `out` is put together no more; its bytes stay there. */
static void end_building(struct engine *e, struct side *s)
{
	for (uint64_t at = 0; at < e->building_count; at++)
		if (e->building[at] == s)
			e->building[at--] = e->building[--e->building_count];
	s->built = 0;
	e->stream_held -= s->partial;
	s->partial = 0;
}

static void drop_partial(struct engine *e, struct side *s)
{
	if (s->built) {
		if (s->built_at + s->built == e->out_used) /* nothing came behind it: its room is free again */
			e->out_used = s->built_at;
		end_building(e, s);
	}
	free_slab(e, s);
	e->stream_held -= s->partial;
	s->partial = 0;
}

/* Bytes of a frame that is not whole. */
static void keep_partial(struct engine *e, struct side *s, const uint8_t *p, uint64_t size)
{
	uint8_t *to;

	if (s->built) {
		if (size > s->built - s->partial) {
			CANNOT_BE;
			size = s->built - s->partial;
		}
		to = e->out + s->built_at;
	} else if (fit_slab(e, s, s->partial + size)) {
		to = slab_of(e, s);
	} else { /* there are slabs, and no frame is larger */
		CANNOT_BE;
		s->skipped += s->partial + size;
		s->synced = 0;
		drop_partial(e, s);
		return;
	}
	memcpy(to + s->partial, p, size);
	s->partial += (uint32_t)size;
	e->stream_held += size;
}

/* What `out` holds is about to be taken: frames that are not whole go on in slabs. */
void kw_unbuild(struct engine *e)
{
	while (e->building_count) {
		struct side *s = e->building[e->building_count - 1];
		const uint8_t *p = partial_of(e, s);
		uint32_t size = s->partial;
		end_building(e, s);
		keep_partial(e, s, p, size);
	}
}

/* --- what looks like a frame */

/* Whether the first bytes there, as far as there are any, could be those of a strict header. */
static int likely(const uint8_t *p, uint64_t left)
{
	uint32_t type = frame_type(p);

	if (frame_version(p) != FRAME_VERSION || type > TYPE_MAX)
		return 0;
	if (left > 1 && p[1] != 0 && p[1] != FLAG_CHECKSUM && p[1] != (FLAG_CHECKSUM | FLAG_PADDED))
		return 0;
	if (left > 3 && frame_says(p) < FRAME_HEADER)
		return 0;
	if (TYPES_WITHOUT_ID >> type & 1)
		for (uint64_t at = 4; at < left && at < 8; at++)
			if (p[at])
				return 0;
	return 1;
}

/* Whether a TLS record begins here: a handshake's ClientHello or ServerHello, or application data. */
static int tls(const uint8_t *p, uint64_t left)
{
	if (left < 6 || p[1] != 3 || p[2] > 4)
		return 0;
	return (p[0] == 0x16 && (p[5] == 1 || p[5] == 2)) || (p[0] == 0x17 && p[2] == 3);
}

#define NO 0
#define YES 1
#define MORE 2 /* more bytes will tell */

/* Whether frames that DATA wraps begin in it. */
static int chain(const uint8_t *p, uint64_t left, uint32_t length)
{
	uint64_t end = length - (p[1] ? frame_flags(p) & FLAG_PADDED ? 3 : 2 : 0), at = FRAME_HEADER;

	for (uint32_t seen = 1; at < left && at < end; seen++) {
		if (!likely(p + at, left - at) || !(TYPES_WRAPPED >> frame_type(p + at) & 1))
			return NO;
		if (left - at < FRAME_HEADER)
			return MORE;
		at += frame_says(p + at);
		if (seen >= CHAIN && at >= MAX_CONTROL && at <= end)
			return YES;
	}
	return at > end ? NO : MORE;
}

/* Whether the payload of a frame that no DATA wraps can be what its type says. */
static int says(const uint8_t *p, uint32_t length)
{
	uint32_t size = length - FRAME_HEADER - (p[1] ? frame_flags(p) & FLAG_PADDED ? 3 : 2 : 0), type = frame_type(p);

	if (type == TYPE_ACK)
		return size % 8 == 4;
	if (!(TYPES_OF_MAPS >> type & 1))
		return 1;
	return size && p[FRAME_HEADER] >> 5 == 5; /* a CBOR map */
}

static int looks(const struct engine *e, const struct flow *f, const struct side *s, const uint8_t *p, uint64_t left)
{
	if (!likely(p, left))
		return NO;
	if (left < FRAME_HEADER)
		return MORE;
	uint32_t type = frame_type(p), length = frame_says(p);
	int wrapped = TYPES_WRAPPED >> type & 1;
	if (wrapped && !s->raw)
		return NO;
	if (type == TYPE_DATA) {
		const struct conversation *c = e->conversations + f->conversation;
		if (f->conversation && c->knows_next) {
			int32_t ahead = (int32_t)(frame_id(p) - c->next);
			if (ahead <= -(int32_t)SPAN || ahead >= (int32_t)SPAN)
				return NO;
		}
		int found = chain(p, left, length);
		if (left < length || found == NO)
			return found;
	} else if (!wrapped && length > MAX_CONTROL) {
		return NO;
	}
	if (left < length)
		return MORE;
	if (!strict_length(p, 0, left) || !says(p, length))
		return NO;
	if (left == length)
		return YES;
	return likely(p + length, left - length) && (s->raw || !(TYPES_WRAPPED >> frame_type(p + length) & 1));
}

typedef uint8_t octets __attribute__((vector_size(16)));

static inline octets octets_at(const uint8_t *p)
{
	octets value;
	memcpy(&value, p, sizeof value);
	return value;
}

static inline int any(octets some)
{
	uint64_t halves[2];
	memcpy(halves, &some, sizeof halves);
	return (halves[0] | halves[1]) != 0;
}

typedef int8_t signs __attribute__((vector_size(16)));

/* Which of 16 bytes are `first` or one of the `count` - 1 that follow it: signed numbers are compared in one step. */
static inline octets among(octets some, uint8_t first, uint8_t count)
{
	return (octets)((signs)(some - first + INT8_MIN) < (int8_t)(INT8_MIN + count));
}

/* Which of 16 bytes could be the first of a header; which of those behind them its flags (or 2, which cannot). */
static inline octets kinds(const uint8_t *p) { return among(octets_at(p), FRAME_VERSION * 16, TYPE_MAX + 1); }
static inline octets flags(const uint8_t *p) { return among(octets_at(p + 1), 0, (FLAG_CHECKSUM | FLAG_PADDED) + 1); }

static int begins_at(const uint8_t *p)
{
	return (uint8_t)(p[0] - FRAME_VERSION * 16) <= TYPE_MAX &&
	       (!p[1] || p[1] == FLAG_CHECKSUM || p[1] == (FLAG_CHECKSUM | FLAG_PADDED));
}

/*
 * The first place from `at` on, before size - 1, where two bytes could begin a header; size - 1 where there is none.
 * `size`: 1 at least.
 */
static uint64_t begins(const uint8_t *p, uint64_t at, uint64_t size)
{
	const uint64_t step = 4 * sizeof(octets);

	for (; size - at > step; at += step) {
		const uint8_t *four = p + at;
		octets a = kinds(four), b = kinds(four + 16), c = kinds(four + 32), d = kinds(four + 48);
		if (!any(a | b | c | d)) /* of text hardly any could be */
			continue;
		a &= flags(four);
		b &= flags(four + 16);
		c &= flags(four + 32);
		d &= flags(four + 48);
		if (any(a | b | c | d))
			for (uint64_t place = 0; place < step; place++)
				if (begins_at(four + place))
					return at + place;
	}
	for (; size - at > sizeof(octets) && !any(kinds(p + at) & flags(p + at)); at += sizeof(octets))
		;
	while (at + 1 < size && !begins_at(p + at))
		at++;
	return at;
}

/* Whether what is wrong with a side is told: of a stream of others, on a port of others, nothing is. */
static int reported(const struct engine *e, const struct flow *f, const struct side *s)
{
	return s->found || kw_flow_ours(e, f);
}

/* How many bytes are passed to the next that look like a frame of a session; it is in step then. */
static uint64_t search(const struct engine *e, const struct flow *f, struct side *s, const uint8_t *p, uint64_t size)
{
	uint64_t at = 0;

	if (tls(p, size))
		s->encrypted = s->lost = 1;
	while (!s->lost) {
		if (at < size)
			at = begins(p, at, size);
		if (at + 1 >= size) {
			if (at < size && !likely(p + at, size - at))
				at = size;
			break;
		}
		int found = looks(e, f, s, p + at, size - at);
		if (found == MORE)
			break;
		if (found == YES) {
			s->synced = 1;
			break;
		}
		at++;
	}
	if (!s->synced && !s->found && s->searched + at > LOOKED_AT && !kw_flow_ours(e, f))
		s->lost = 1;
	if (s->lost)
		at = size;
	s->skipped += at;
	s->searched += at;
	return at;
}

/* What stands at `at`, where strict reading stopped; gives where to go on. */
static uint64_t judge(struct engine *e, const struct flow *f, struct side *s, const uint8_t *p, uint64_t at,
		      uint64_t size)
{
	uint64_t left = size - at;

	if (left < 2)
		return at;
	if (tls(p + at, left)) {
		s->encrypted = s->lost = 1;
		s->skipped += left;
		return size;
	}
	if (left < FRAME_HEADER) {
		if (likely(p + at, left))
			return at;
	} else {
		struct verdict v = kw_judge(p + at, left);
		if (v.wait)
			return at;
		int sound = v.length && !v.header;
		if (sound || reported(e, f, s))
			kw_complain(e, v.code, p + at, left);
		if (sound)
			return at + v.length;
	}
	s->synced = 0;
	s->skipped++;
	return at + 1;
}

/* The frames in p[0, size): how many bytes were taken. *called: Python has to read the last of them. */
static uint64_t split(struct engine *e, uint32_t flow, uint32_t side, const uint8_t *p, uint64_t size, int *called)
{
	struct flow *f = &e->flows[flow];
	struct side *s = &f->sides[side];
	uint64_t at = 0;

	*called = 0;
	while (at < size) {
		if (!s->synced) {
			at += search(e, f, s, p + at, size - at);
			if (!s->synced)
				break;
		}
		uint64_t before = at;
		uint32_t length;
		while (size - at >= FRAME_HEADER && (length = strict_length(p, at, size))) {
			s->found = 1;
			s->searched = 0;
			if (!(TYPES_WRAPPED >> frame_type(p + at) & 1))
				s->raw = 0;
			at += length;
			if (kw_top_frame(e, flow, side, p + at - length, length)) {
				*called = 1;
				return at;
			}
		}
		at = judge(e, f, s, p, at, size);
		if (s->synced && at == before)
			break;
	}
	return at;
}

/* Whether p[0, size) is a frame of which only bytes are missing: nothing else can be wrong before they are there. */
static int waits(const uint8_t *p, uint64_t size) { return size >= FRAME_HEADER && kw_judge(p, size).wait; }

/* Has DATA that begins with p[0, size) put together in `out`, if there is room. */
static int build(struct engine *e, struct side *s, const uint8_t *p, uint64_t size)
{
	if (!s->synced || !waits(p, size) || frame_type(p) != TYPE_DATA || frame_says(p) < BUILD_LEAST)
		return 0;
	if (e->building_count == BUILDING || e->out_used > BUILD_FULL || frame_says(p) > e->out_room - e->out_used)
		return 0;
	e->building[e->building_count++] = s;
	s->built_at = e->out_used;
	s->built = frame_says(p);
	e->out_used += s->built;
	return 1;
}

/* The bytes in the slab were read: those that are left may begin DATA, or need less room. */
static void settle_partial(struct engine *e, struct side *s)
{
	const uint8_t *p = slab_of(e, s);
	uint32_t size = s->partial;

	if (!size) {
		drop_partial(e, s);
	} else if (build(e, s, p, size)) {
		s->partial = 0;
		e->stream_held -= size;
		keep_partial(e, s, p, size);
		free_slab(e, s);
	} else {
		fit_slab(e, s, size);
	}
}

/*
 * How many of p[0, n), the next bytes, are looked at together with those that are there of a frame that is not whole: what is
 * missing of it, or, where it is not known to be one, a chunk.
 */
static uint64_t wanted(const struct engine *e, const struct side *s, const uint8_t *p, uint64_t n)
{
	uint64_t there = s->partial < FRAME_HEADER ? s->partial : FRAME_HEADER, most = CHUNK;
	uint8_t header[FRAME_HEADER];

	if (s->built) {
		most = s->built - s->partial;
	} else if (s->synced && n >= FRAME_HEADER - there) {
		memcpy(header, slab_of(e, s), there);
		memcpy(header + there, p, FRAME_HEADER - there);
		if (waits(header, FRAME_HEADER) && frame_says(header) > s->partial)
			most = frame_says(header) - s->partial;
	}
	return n < most ? n : most;
}

/* Takes the next bytes; 1 where Python has to read a frame: work.part is what is left. */
static int feed(struct engine *e)
{
	struct work *w = &e->work;
	struct side *s = &e->flows[w->flow].sides[w->side];
	const uint8_t *p = w->part;
	uint64_t n = w->part_size, used, take;
	int called = 0;

	for (; !called;) {
		if (s->lost) {
			s->skipped += n + s->partial;
			drop_partial(e, s);
			n = 0;
			break;
		}
		if (s->skip && !s->partial) {
			take = s->skip < n ? s->skip : n;
			s->skip -= (uint32_t)take;
			s->skipped += take;
			p += take;
			n -= take;
		}
		if (!s->partial) {
			if (!n)
				break;
			used = split(e, w->flow, w->side, p, n, &called);
			p += used;
			n -= used;
			if (s->lost)
				continue;
			if (called || !n)
				break;
			build(e, s, p, n);
			keep_partial(e, s, p, n); /* less than a frame and a header */
			n = 0;
			break;
		}
		if (!n && !w->again)
			break;
		take = w->again ? 0 : wanted(e, s, p, n); /* what is there may hold whole frames */
		w->again = 0;
		if (take)
			keep_partial(e, s, p, take);
		p += take;
		n -= take;
		if (s->built) {
			uint32_t size = s->built;
			if (s->partial < size)
				break;
			const uint8_t *whole = partial_of(e, s);
			end_building(e, s);
			split(e, w->flow, w->side, whole, size, &called); /* all of it: nothing is wrong with its header */
			continue;
		}
		if (!s->partial)
			continue;
		uint8_t *slab = slab_of(e, s);
		used = split(e, w->flow, w->side, slab, s->partial, &called);
		e->stream_held -= used;
		s->partial -= (uint32_t)used;
		if (called) {
			/* the frame that Python reads stays where it is: what follows it is moved when it was read */
			w->at = used;
			w->again = 1;
			break;
		}
		if (used)
			memmove(slab, slab + used, s->partial);
		if (!s->lost)
			settle_partial(e, s);
	}
	w->part = p;
	w->part_size = n;
	return called;
}

/* Bytes are missing in the stream. */
static void hole(struct engine *e, struct flow *f, struct side *s, uint32_t size)
{
	uint32_t left = s->skip;

	if (!left && s->synced && s->partial >= FRAME_HEADER && likely(partial_of(e, s), s->partial))
		left = frame_says(partial_of(e, s)) - s->partial;
	s->skipped += s->partial;
	drop_partial(e, s);
	s->synced = size <= left;
	s->raw = s->raw && s->found;
	s->skip = s->synced ? left - size : 0;
	s->begun = 1;
	if (reported(e, f, s))
		trouble_of(e, f, TROUBLE_TCP_GAP, VARIANT_BYTES, size);
}

static void lose(struct engine *e, struct flow *f, const struct side *s)
{
	f->dead = 1;
	if (!kw_flow_ours(e, f))
		e->tally[TALLY_PROTOCOL + PROTOCOL_TCP]++;
	else
		trouble_of(e, f, s->encrypted ? TROUBLE_ENCRYPTED : TROUBLE_NOT_FRAMES, VARIANT_FLOW, 0);
}

/* --- bytes that come twice */

/*
 * A digest with secrets, by which nobody can choose other bytes that have the same: products of words that secrets are
 * added to, as in UMAC's NH, and what comes of so many is mixed.
 */
static uint64_t digest(const struct engine *e, const uint8_t *p, uint64_t size)
{
	uint64_t found = size;

	while (size) {
		unsigned __int128 sum = 0;
		uint64_t block = size < 8 * SECRETS ? size : 8 * SECRETS, at = 0;
		const uint64_t *secret = e->secrets;
		for (; block - at >= 16; at += 16, secret += 2)
			sum += (unsigned __int128)(host64(p + at) + secret[0]) * (host64(p + at + 8) + secret[1]);
		if (at < block) {
			uint64_t last[2] = { 0, 0 };
			memcpy(last, p + at, block - at);
			sum += (unsigned __int128)(last[0] + secret[0]) * (last[1] + secret[1]);
		}
		found = mix(mix(found ^ (uint64_t)sum) + (uint64_t)(sum >> 64));
		p += block;
		size -= block;
	}
	return found;
}

/* The bytes that were given are about to lie there no more. */
static void settle(const struct engine *e, struct side *s)
{
	for (uint64_t at = 0; at < GIVEN && at < s->given_count; at++) {
		struct given *one = &s->given[at];
		if (one->at)
			one->digest = digest(e, one->at, one->size);
		one->at = 0;
	}
	s->lying = s->passing = 0;
}

/* The packets' data is about to be gone. */
void kw_settle(struct engine *e)
{
	for (uint64_t at = 0; at < e->lying_count; at++)
		settle(e, e->lying[at]);
	e->lying_count = 0;
}

/*
 * Remembers the bytes that are given next: where they lie as long as they do, as most of them are forgotten before that
 * changes, and then by their digest.
 */
static void note_given(struct engine *e, struct side *s, const struct work *w)
{
	struct given *one = &s->given[s->given_count++ % GIVEN];

	*one = (struct given){ s->next, (uint32_t)w->part_size, 0, w->part };
	s->next += one->size;
	if ((uintptr_t)w->part - (uintptr_t)e->data >= e->size) {
		s->passing = 1;
	} else if (!s->lying) {
		if (e->lying_count == LYING)
			kw_settle(e);
		s->lying = 1;
		e->lying[e->lying_count++] = s;
	}
}

/* Whether bytes from `seq` on are others than those that were given there, as far as that is remembered. */
static int differs(const struct engine *e, const struct side *s, uint32_t seq, const uint8_t *p, uint64_t size)
{
	for (uint64_t at = 0; at < GIVEN && at < s->given_count; at++) {
		const struct given *one = &s->given[at];
		uint32_t behind = one->seq - seq;
		if (behind >= size || one->size > size - behind)
			continue;
		if (one->at ? memcmp(p + behind, one->at, one->size) != 0 : digest(e, p + behind, one->size) != one->digest)
			return 1;
	}
	return 0;
}

/* --- segments in order */

/* Whether enough of a stream that was joined in the middle is there to know which segment is the lowest. */
static int joined(const struct work *w, const struct side *s)
{
	return w->flags & FIN || s->held.count > JOINED || s->held.bytes > MAX_STREAM_HELD ||
	       (int64_t)(w->time - s->since) > (int64_t)JOIN_WAIT;
}

/* Gives what is in order, and with `finish` all that is held; 1 where Python has to read a frame first. */
static int deliver(struct engine *e)
{
	struct work *w = &e->work;
	struct flow *f = &e->flows[w->flow];
	struct side *s = &f->sides[w->side];

	for (;;) {
		if (w->feeding) {
			s->begun = 1;
			if (feed(e))
				return 1;
			w->feeding = 0;
			if (s->lost && !f->dead)
				lose(e, f, s);
		}
		if (!s->held.count)
			return 0;
		if (s->joining) {
			if (!w->finish && !joined(w, s))
				return 0;
			s->joining = 0;
			if ((int32_t)(NODE(e, s->held.head)->key - s->next) < 0)
				s->next = NODE(e, s->held.head)->key;
		}
		const struct node *node = NODE(e, s->held.head);
		int32_t ahead = (int32_t)(node->key - s->next);
		if (ahead <= 0) {
			uint32_t size = node->size, passed = (uint32_t)-ahead;
			const uint8_t *p = NODE_DATA(e, s->held.head);
			if (passed)
				s->conflicts += (uint32_t)differs(e, s, node->key, p, size);
			kw_unhold(e, &s->held);
			e->stream_held -= size + PART_COST;
			if (passed >= size) {
				s->again++;
				continue;
			}
			w->part = p + passed;
			w->part_size = size - passed;
			w->feeding = 1;
			note_given(e, s, w);
			continue;
		}
		if (!w->finish && s->held.bytes <= MAX_STREAM_HELD && s->held.count <= MAX_SEGMENTS &&
		    (int64_t)(w->time - s->since) <= (int64_t)MAX_WAIT)
			return 0;
		s->next += (uint32_t)ahead;
		s->since = w->time;
		hole(e, f, s, (uint32_t)ahead);
	}
}

/* Keeps a segment that comes before its turn. */
static void put(struct engine *e, struct side *s)
{
	struct work *w = &e->work;
	uint32_t base = s->joining ? s->next - MAX_STREAM_HELD : s->next;
	int first = !s->held.count;
	int late = !s->joining || (!first && NODE(e, s->held.tail)->key - base > w->seq - base);
	int done = kw_hold(e, &s->held, base, w->seq, w->p, w->n, w->p, 0);

	s->late += (uint32_t)late;
	if (!done) {
		uint32_t at = kw_held_at(e, &s->held, base, w->seq), old = NODE(e, at)->size;
		s->again++;
		s->conflicts += memcmp(NODE_DATA(e, at), w->p, old < w->n ? old : w->n) != 0;
		if (w->n <= old)
			return;
		/* the longer one takes its place, with the bytes that were there first */
		struct chain alone = { 0, 0, 0, 0 };
		if (kw_hold(e, &alone, base, w->seq, w->p, w->n, NODE_DATA(e, at), old) < 0) {
			CANNOT_BE; /* HOLD_RESERVE is there */
			return;
		}
		kw_replace(e, &s->held, at, &alone);
		e->stream_held += w->n - old;
		return;
	}
	if (done < 0) {
		CANNOT_BE; /* HOLD_RESERVE is there */
		return;
	}
	e->stream_held += w->n + PART_COST;
	if (first)
		s->since = w->time;
}

/* Of a connection that has ended. */
static void tell_conflicts(struct engine *e, struct flow *f, struct side *s)
{
	if (s->conflicts && reported(e, f, s)) {
		trouble_of(e, f, TROUBLE_TCP_CONFLICT, VARIANT_FLOW, 0);
		e->counts[CODE_TROUBLE + TROUBLE_TCP_CONFLICT] += s->conflicts - 1;
		e->troubles += s->conflicts - 1;
	}
	s->conflicts = 0;
}

static void begin(struct engine *e, struct flow *f, struct side *s, uint32_t first)
{
	if (s->begun && s->partial && s->found)
		trouble_of(e, f, TROUBLE_TCP_GAP, VARIANT_ANEW, 0);
	tell_conflicts(e, f, s);
	drop_partial(e, s);
	s->next = s->origin = first;
	s->known = s->begun_by_syn = 1;
	s->ended = s->joining = 0;
	s->skipped = s->searched = s->given_count = 0;
	s->skip = 0;
	s->begun = s->synced = s->raw = 1;
	s->found = s->lost = s->encrypted = 0;
}

void kw_stream_begin(struct engine *e, uint32_t flow, uint32_t side, uint32_t seq, uint32_t flags, const uint8_t *p,
		     uint64_t size, uint64_t time)
{
	e->work = (struct work){ .p = p, .n = size, .time = time, .flow = flow, .side = side, .seq = seq, .flags = flags,
				 .step = STEP_SYN };
}

/* What no more packets come for. */
static int end_side(struct engine *e, struct flow *f, struct side *s)
{
	if (s->begun && s->partial && s->found)
		trouble_of(e, f, TROUBLE_TCP_GAP, VARIANT_ENDS, 0);
	kw_remark(e, REMARK_RETRANSMISSION, s->again);
	kw_remark(e, REMARK_REORDERED, s->late);
	tell_conflicts(e, f, s);
	return s->begun && (s->partial || s->skipped);
}

/* Goes on with the segment, or the end of a flow, in `work`; 1 where Python has to read a frame first. */
int kw_stream_go(struct engine *e)
{
	struct work *w = &e->work;
	struct flow *f = &e->flows[w->flow];
	struct side *s = &f->sides[w->side];

	if (w->again && s->partial) {
		memmove(slab_of(e, s), slab_of(e, s) + w->at, s->partial);
	} else if (w->again) {
		drop_partial(e, s);
		w->again = 0;
	}
	switch (w->step) {
	case STEP_SYN:
		if (!w->feeding && !w->finish && w->flags & SYN) {
			int32_t ahead = (int32_t)(w->seq + 1 - s->next);
			w->seq++;
			w->finish = !s->known || s->ended ||
				    (s->begun_by_syn ? w->seq != s->origin /* neither its own again nor late */
						     : ahead > 0 || ahead < -(int32_t)MAX_STREAM_HELD);
			if (!w->finish && s->joining) { /* with what is held */
				begin(e, f, s, w->seq);
				w->step = STEP_JOIN;
			}
		}
		if (w->finish) {
			if (deliver(e))
				return 1;
			begin(e, f, s, w->seq);
			w->finish = 0;
		}
		/* fall through */
	case STEP_JOIN:
		if (w->step == STEP_JOIN && deliver(e))
			return 1;
		w->step = STEP_RST;
		/* fall through */
	case STEP_RST:
		if (w->flags & RST) {
			w->finish = 1;
			if (deliver(e))
				return 1;
			s->ended = 1;
			break;
		}
		if (!s->known) {
			s->known = s->joining = 1;
			s->next = w->seq;
		}
		w->step = STEP_PUT;
		if (w->n) {
			int32_t ahead = (int32_t)(w->seq - s->next);
			if (s->joining && ahead >= -(int32_t)MAX_STREAM_HELD) {
				put(e, s);
			} else if (ahead < 0) {
				uint64_t passed = (uint64_t)-(int64_t)ahead;
				s->again++;
				s->conflicts += (uint32_t)differs(e, s, w->seq, w->p, w->n);
				w->part = w->p + passed;
				w->part_size = w->n > passed ? w->n - passed : 0;
				w->feeding = w->part_size != 0;
			} else if (ahead) {
				put(e, s);
			} else {
				w->part = w->p;
				w->part_size = w->n;
				w->feeding = 1;
			}
			if (w->feeding)
				note_given(e, s, w);
		}
		/* fall through */
	case STEP_PUT:
		if (deliver(e))
			return 1;
		if (w->flags & FIN && !s->held.count && (int32_t)(w->seq - s->next) <= 0)
			s->ended = 1;
		break;
	case STEP_END:
		for (;;) {
			s = &f->sides[w->side];
			w->finish = 1;
			if (deliver(e))
				return 1;
			w->flags |= (uint32_t)end_side(e, f, s);
			if (w->side)
				break;
			w->side = 1;
		}
		if (w->flags && !f->dead && !f->sides[0].found && !f->sides[1].found)
			lose(e, f, f->sides[0].begun ? &f->sides[0] : &f->sides[1]);
		for (w->side = 0; w->side < 2; w->side++)
			drop_partial(e, &f->sides[w->side]);
		break;
	case STEP_LET_GO:
		for (;;) {
			w->finish = 1;
			if (deliver(e))
				return 1;
			if (w->side)
				break;
			w->side = 1;
		}
		break;
	default:
		break;
	}
	for (int side = 0; side < 2 && w->step != STEP_END; side++)
		if (f->sides[side].passing)
			settle(e, &f->sides[side]);
	w->step = STEP_NONE;
	return 0;
}
