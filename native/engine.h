/*
 * The engine that takes packets of the network apart in batches: its memory, all of it handed in by the caller and
 * kept between calls, and what its parts ask of each other. `packets.network.Network` is the specification. Its
 * numbers are those of packets/memory.py, which says what they mean.
 *
 * Invariants: those of the walkers, and: a call ends between two packets, or where a HELLO or WELCOME has to be read by
 * Python (`call`), and goes on there; what is kept between packets lies in the engine's tables, never in the data.
 */
#ifndef KWIRE_ENGINE_H
#define KWIRE_ENGINE_H

#include "common.h"

#define PART __attribute__((visibility("hidden")))

/* A packet of a file. `time`: ns since 1970, NO_TIME: not known. `head`: bytes of its record before it. */
struct row {
	uint64_t offset, time;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	uint32_t captured, original, link, head;
#else /* two numbers are one word for Python */
	uint32_t original, captured, head, link;
#endif
};

/* An interface of a pcapng section; `told`: where its last statistics lie in the data, and 1, or 0. */
struct interface {
	uint64_t link, rate, offset, told;
};

/* What waits for something before it, in order: nodes in the hold, by where they lie there in units of 8 bytes. */
struct chain {
	uint32_t head, tail, count, bytes;
};

struct node {
	uint32_t next, before, key, size; /* `before`: 0 of the first, as `next` is of the last */
};
#define NODE_FREE UINT32_MAX /* `before` of one that was let go of */
#define HOLD_FIRST 8u	     /* where the first may lie */

/*
 * Places in a long chain, in its order: others are looked for from there. `first`: those before it were let go of.
 * `walked`: nodes that were passed by searches since they were made.
 */
struct marks {
	const struct chain *chain;
	uint64_t walked;
	uint32_t first, count, places[MARKS];
};
#define MARKS_LEAST 64u /* a chain as short is walked along */

/* Bytes of a stream that were given; `size` 0: none. `at`: where they lie as yet, NULL: only their digest is there. */
struct given {
	uint32_t seq, size;
	uint64_t digest;
	const uint8_t *at;
};

/* One direction of a TCP connection: streams.Stream, and streams.Splitter from `skipped` on. */
struct side {
	struct chain held;
	uint64_t since;
	uint32_t next, again, late, conflicts;
	uint64_t skipped, searched;
	uint32_t slab, partial, skip; /* `slab`: its number + 1, 0: none */
	uint8_t known, ended, begun, synced, raw, found, lost, encrypted;
	uint8_t joining, begun_by_syn; /* all is held until it is known which segment is the lowest */
	uint8_t lying, passing;        /* of what was given some lies in the packets' data, or where the next packet changes it */
	uint32_t origin;                          /* sequence number of the first byte, by a SYN */
	uint32_t kind, built; /* `kind`: of its slab; `built`: bytes of the frame that is put together in `out`, 0: none */
	uint64_t built_at, given_count;
	struct given given[GIVEN]; /* the last ones */
};

struct flow {
	uint64_t key[5]; /* IP version, protocol, lower and higher port; lower and higher address, zeros behind */
	uint32_t bucket, older, newer, conversation;
	uint32_t number;
	uint8_t first; /* the higher end sent the first packet */
	uint8_t roles[2], dead;
	struct side sides[2];
};

/*
 * `older`, `newer`: those that began before and after it. `unsound`: frames that DATA wraps, but SCHEMAs. `answered`: its
 * sink was heard, so that it was a session. `chosen`: it is to be let go of.
 */
struct conversation {
	uint64_t key[5];
	uint64_t frames, missing, again, late, unsound;
	uint64_t early[MAX_PARTS / 64], gone[MAX_PARTS / 64]; /* `gone`: numbers of streams that were passed, by their last bits */
	struct chain held;
	uint32_t next, start, bye, older, newer;
	uint8_t first, knows_next, knows_start, knows_bye, answered, has_gone, chosen, unused[5];
};

/* An IP packet that is not whole. */
struct fragmented {
	uint64_t key[5];
	uint32_t bucket, older, newer, bytes;
	uint32_t length, known, bad, reach; /* `reach`: where what is there ends */
};

/* The first of its kind that is wrong, for Python to say. `offset`, `size`: of the frame's bytes in `out`. */
struct special {
	uint64_t code, row, offset, size, number, variant, first, found; /* `found`: frames found before it */
	uint64_t key[5];
};
/* A packet in which a SCHEMA stands: its number, where it is in the file, and the frames counted in it. */
struct place {
	uint64_t number, offset, frames;
};
/* What is being done where a call ended inside a packet. */
struct work {
	const uint8_t *p, *part;
	uint64_t n, part_size, at, time;
	uint32_t flow, seq, step, flags;
	uint32_t side, feeding, finish, again;
};
#define STEP_NONE 0u
#define STEP_SYN 1u
#define STEP_RST 2u
#define STEP_PUT 3u
#define STEP_FIN 4u
#define STEP_WHOLE 5u /* of a datagram */
#define STEP_END 6u   /* of a flow */
#define STEP_LET_GO 7u
#define STEP_JOIN 8u /* a SYN that came late */

/*
 * Bytes of frames that are not whole, in `count` slabs of one size, of which the first `used` were taken; `stack`: the numbers
 * of those `free` that were given back.
 */
struct slabs {
	uint8_t *memory;
	uint32_t *stack;
	uint64_t size, count, used, free;
};

struct engine {
	/* in */
	const uint8_t *data;
	uint64_t size, base; /* `base`: where the data begins in the file */
	const struct row *rows;
	uint64_t count, at;
	const uint8_t *ports; /* a bit for each of 65536 */
	uint64_t any_port, max_flows, max_conversations, seed, secrets[SECRETS];
	/* out: frames, and the number of the conversation of each */
	uint8_t *out;
	uint64_t *offsets;
	uint32_t *owners;
	uint64_t out_room, limit, out_used, found;
	uint64_t schemas, only; /* SCHEMAs among them; the one conversation of all, 0: none yet, SEVERAL */
	uint64_t counts[CODES], remarks[REMARK_COUNT];
	struct special specials[MAX_SPECIALS];
	uint64_t special_count;
	struct place places[MAX_PLACES]; /* of the SCHEMAs found, as many as there is room for */
	uint64_t place_count, before_places;
	uint64_t *tally;
	uint64_t families[2 * FAMILIES], family_count;
	uint64_t packets, frames, skipped, flow_number, fragments_missing;
	/* a HELLO or WELCOME */
	const uint8_t *call_frame;
	uint64_t call_size, call_flow, call_side;
	/* tables */
	struct flow *flows; /* max_flows + 2; 0 is no flow */
	uint32_t *buckets;
	uint64_t bucket_mask, flow_count, flow_free, flow_used, oldest, newest, raw_flow;
	struct conversation *conversations; /* max_conversations + 4; 0 is none */
	uint64_t conversation_count, conversation_free, conversation_used, conversation_oldest, conversation_newest;
	struct slabs slabs[SLAB_KINDS]; /* the small ones first; the last hold SLAB bytes */
	struct fragmented *fragments; /* MAX_FRAGMENT_PACKETS + 2; 0 is none */
	uint8_t *fragment_slabs;
	uint32_t *fragment_buckets; /* 2048 */
	uint64_t fragment_count, fragment_free, fragment_used, fragment_oldest, fragment_newest, fragment_bytes;
	uint8_t *hold, *spare; /* `hold_room` bytes each */
	uint64_t hold_room, hold_small; /* `hold_small`: bytes that may lie about before order is made */
	uint64_t hold_start, hold_used, hold_wrap, hold_live, stream_held, data_held;
	/* the packet being taken */
	uint64_t troubles, before_frames, before_troubles, busy, cut;
	const uint8_t *summed; /* a payload of which all words are summed up in `sum`; NULL: there is none */
	uint64_t sum;
	uint64_t letting_go; /* the flow whose streams are next to give up what they wait for, 0: none */
	uint64_t evicting;   /* the flow that was silent for longest is being let go of */
	struct marks marks[MARKED];
	struct side *lying[LYING]; /* those that are `lying` */
	uint64_t lying_count;
	struct side *building[BUILDING]; /* those of which a frame is put together in `out` */
	uint64_t building_count;
	struct work work;
};

/*
 * Slabs of a kind that are free between packets: those of a flow that gives what waits, and of the one that is let go of to
 * have room for it, and those that frames in `out` are moved to.
 */
#define SLABS_LEAST (4u + BUILDING)

/*
 * What one packet may give at most, and have held: Python takes what was found between packets, and where it reads a HELLO or WELCOME.
 * A flow gives what its sides hold, or one of them with the packet; the session that it carries gives what it has held; and
 * frames are kept of which something is said for the first time. Where memory is short, sessions give a quarter of all that
 * is held, what one packet has added, and what the last of them holds. A byte of a stream that is held as DATA takes up to
 * 8/3: nine bytes of a frame are a node of 24.
 */
#define GIVEN_MOST (2 * (uint64_t)MAX_STREAM_HELD > (uint64_t)MAX_STREAM_HELD + MAX_PACKET ? \
		    2 * (uint64_t)MAX_STREAM_HELD : (uint64_t)MAX_STREAM_HELD + MAX_PACKET)
#define COMPLAINT 65536u /* bytes of a frame that are kept to say what is wrong with it */
#define FRAME_MOST 65536u
_Static_assert(GIVEN_MOST + MAX_DATA_HELD + MAX_SPECIALS * (uint64_t)COMPLAINT + 4 * FRAME_MOST <= RESERVE,
	       "one packet may give more than there is room for");
_Static_assert(HELD / 4 + GIVEN_MOST + MAX_DATA_HELD + FRAME_MOST <= RESERVE, "sessions may give more than there is room for");
_Static_assert(MAX_PACKET + sizeof(struct node) + 8 + GIVEN_MOST / 3 * 8 <= HOLD_RESERVE, "one packet may have more held");

#define NODE(e, place) ((struct node *)(void *)((e)->hold + (uint64_t)(place) * 8))
#define NODE_DATA(e, place) ((e)->hold + (uint64_t)(place) * 8 + sizeof(struct node))

/* What inspect() finds first, by offset: `code`, 0 where nothing is; `length` is 0 where it is not sound. */
struct verdict {
	uint32_t code, length, header, wait;
};

PART struct verdict kw_judge(const uint8_t *frame, uint64_t there);

/* sessions.c */
PART void kw_trouble(struct engine *e, uint32_t code, uint32_t variant, const uint64_t *key, uint64_t first,
		     uint64_t number);
PART void kw_complain(struct engine *e, uint32_t code, const uint8_t *p, uint64_t size);
PART void kw_remark(struct engine *e, uint32_t remark, uint64_t count);
PART int kw_top_frame(struct engine *e, uint32_t flow, uint32_t side, const uint8_t *p, uint32_t length);
PART void kw_let_go(struct engine *e);
PART int kw_over(const struct conversation *c);
PART int kw_hold(struct engine *e, struct chain *chain, uint32_t base, uint32_t key, const uint8_t *p, uint64_t size,
		 const uint8_t *before, uint64_t before_size);
PART void kw_unhold(struct engine *e, struct chain *chain);
PART void kw_unmark(struct engine *e, const struct chain *chain);
PART uint32_t kw_held_at(struct engine *e, const struct chain *chain, uint32_t base, uint32_t key);
PART void kw_replace(struct engine *e, struct chain *chain, uint32_t old, const struct chain *alone);
PART void kw_hold_room(struct engine *e);

/* streams.c */
PART int kw_stream_go(struct engine *e);
PART void kw_settle(struct engine *e);
PART int kw_short_of_slabs(const struct engine *e);
PART void kw_stream_begin(struct engine *e, uint32_t flow, uint32_t side, uint32_t seq, uint32_t flags,
			  const uint8_t *p, uint64_t size, uint64_t time);

/* flows.c */
PART int kw_segment(struct engine *e, uint32_t version, uint32_t protocol, const uint8_t *source,
		    const uint8_t *target, const uint8_t *segment, const uint8_t *payload, uint64_t size);
PART int kw_raw(struct engine *e, const uint8_t *p, uint64_t size);
PART int kw_full(const struct engine *e);
PART int kw_on_port(const struct engine *e, uint32_t one, uint32_t two);
PART uint32_t kw_flow_ours(const struct engine *e, const struct flow *f);

/* fragments.c */
PART uint32_t kw_fragment(struct engine *e, const uint64_t *key, uint32_t place, int more, const uint8_t *p,
			  uint64_t size, int *sound);

/* dissect.c */
PART int kw_packet(struct engine *e, const struct row *row);

#endif
