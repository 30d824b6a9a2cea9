/*
 * Fuzzes the C walkers for memory safety: every buffer has exactly the size it is said to have, so that a
 * sanitizer sees one byte too many. What the walkers answer is held against their Python twins elsewhere.
 *
 * Linked with every other file of native/:
 *
 *   clang -g -O1 -fsanitize=fuzzer,address,undefined -DKWIRE_TRAPS -o walk_fuzz walk_fuzz.c …    guided, for a campaign
 *   gcc -g -O1 -fsanitize=address,undefined -DKWIRE_TRAPS -DSTANDALONE -o walk_fuzz walk_fuzz.c …
 *   ./walk_fuzz RUNS SEED FILES...                                               mutations of the files
 *
 * The first byte of an input chooses the walker, the next fifteen its parameters, the rest is its data.
 */
#include <stdio.h>
#include <stdlib.h>

#include "../../native/engine.h"
#include "../../native/columns.c"
#include "../../native/walk.c"

uint64_t kw_pcap_rows(const uint8_t *, uint64_t, uint64_t, uint64_t, uint64_t, struct interface *, uint64_t, struct row *,
		      uint64_t, uint64_t *);
uint64_t kw_pcapng_rows(const uint8_t *, uint64_t, uint64_t, uint64_t, uint64_t, struct interface *, uint64_t, uint64_t,
			struct row *, uint64_t, uint64_t *);
uint64_t kw_packets(struct engine *);
uint64_t kw_flows_end(struct engine *);
void kw_unbuild(struct engine *);
uint64_t kw_conversation_new(struct engine *, uint64_t);
uint64_t kw_conversations(const struct engine *, uint64_t, uint32_t *);
uint64_t kw_conversations_chosen(struct engine *, uint64_t, uint32_t *);
uint64_t kw_conversations_end(struct engine *, const uint32_t *, uint64_t, uint64_t *);
void kw_conversations_forget(struct engine *, const uint32_t *, uint64_t);

#define HEAD 16u
#define SLOTS 8u
#define PROBES 4u

static uint8_t parameters[HEAD];

/* A parameter: small mostly, around what matters, and sometimes anything. */
static uint64_t parameter(unsigned index, uint64_t most)
{
	uint8_t low = parameters[index % HEAD], high = parameters[(index + 1) % HEAD];

	if (low >= 0xf0)
		return (uint64_t)0 - high;
	return (uint64_t)(low << 8 | high) % (most + 2);
}

/* A buffer of exactly so many bytes; of none, a pointer that may not be followed. */
static void *room(uint64_t bytes, uint8_t fill)
{
	void *buffer = malloc(bytes);

	if (!buffer)
		abort();
	memset(buffer, fill, bytes);
	return buffer;
}

static uint64_t minimum(uint64_t a, uint64_t b) { return a < b ? a : b; }

/* Offsets as a caller might have them: those of a walk, and some that lead nowhere. */
static uint64_t some_offsets(const uint8_t *data, uint64_t size, uint64_t *offsets, uint64_t limit)
{
	uint64_t next, found = kw_frame_walk(data, size, 0, size, offsets, limit, &next);

	for (unsigned extra = 0; extra < 3 && found < limit; extra++)
		offsets[found++] = parameter(10 + extra, size);
	return found;
}

static void walk_ring(uint8_t *data, uint64_t size)
{
	uint64_t limit = parameter(1, 64) & 127, next, mask = 63, start = parameter(2, size) & ~7u;
	uint64_t *offsets = room(limit * 8, 0);

	while (mask * 2 + 1 < size)
		mask = mask * 2 + 1;
	/* the ring's data area is mapped, so it is aligned; malloc is */
	kw_ring_walk(data, size, mask, start, start + parameter(4, mask), offsets, limit, &next);
	free(offsets);
}

static void walk_chain(uint8_t *data, uint64_t size, int strict)
{
	uint64_t limit = parameter(1, 64) & 127, next, *offsets = room(limit * 8, 0);

	(strict ? kw_frame_strict : kw_frame_walk)(data, size, parameter(2, 8), parameter(4, size), offsets, limit, &next);
	free(offsets);
}

static void on_offsets(uint8_t *data, uint64_t size, unsigned which)
{
	uint64_t limit = 1 + parameter(1, 64) % 64, *offsets = room(limit * 8, 0), used;
	uint64_t count = some_offsets(data, size, offsets, limit), bytes = parameter(2, 600) & 4095;
	uint64_t probes = parameter(4, PROBES) & 7, *rows = room(probes * 32, parameters[5] & 1);
	uint64_t *numbers = room(count * 8, 0);
	uint8_t *out = room(bytes, 0);

	switch (which) {
	case 0:
		kw_epb_pack(data, size, offsets, count, rows, probes, out, bytes, &used);
		break;
	case 1:
		kw_count_by_id(data, size, offsets, count, rows, probes * 4 / 3, parameters[6] & 1);
		break;
	case 2:
		kw_frame_renumber(data, size, offsets, count, rows, probes * 4);
		break;
	case 3:
		kw_frame_gather(data, size, offsets, count, out, bytes, &used);
		break;
	case 4:
		kw_frame_headers(data, size, offsets, count, numbers);
		break;
	default:
		kw_frame_checksums(data, size, offsets, count, numbers);
	}
	free(offsets);
	free(rows);
	free(numbers);
	free(out);
}

/* Columns of events: heads, fixed fields, then the texts that a field points to; and counts of what was found. */
static void columns(uint8_t *data, uint64_t size)
{
	uint64_t limit = 1 + parameter(1, 64) % 64, *offsets = room(limit * 8, 0), next;
	struct survey survey;
	uint64_t count = some_offsets(data, size, offsets, limit), fixed = 16 + parameter(2, 100) % 128;
	uint64_t width = parameter(4, 20) % 64, at = parameter(7, 64), taken, swap = parameters[8] & 1;
	uint64_t *starts = room(limit * 8, 0), *ends = room(limit * 8, 0), *places = room(limit * 8, 0);
	uint64_t *lengths = room(limit * 8, 0), tails[2] = { at, parameter(9, 40) };
	uint32_t *ids = room(limit * 4, 0), *sizes = room(limit * 4, 0), *stops = room(limit * 4 + 4, 0);
	uint8_t *types = room(limit, 0), *out = room(limit * width, 0);

	const struct shape shapes[2] = { { parameter(5, 2), fixed, swap, parameter(3, 3), parameters[9] % 3 },
					 { parameter(5, 2) + 1 + parameter(6, 9), fixed + at, !swap, 0, 2 } };
	kw_event_heads(data, size, offsets, count, shapes, 2, tails, 2, types, ids, sizes, places, &survey);
	kw_events_unsound(data, size, offsets, count, shapes, 2, tails, 2, places, limit);
	taken = kw_event_spans(data, size, offsets, count, parameter(5, 2), fixed, starts, ends, limit, &next);
	kw_event_values(data, size, starts, taken, at, width, parameters[10] & 15, out);
	kw_event_texts(data, size, starts, taken, at, width, places, lengths);
	taken = kw_event_tails(data, size, starts, ends, taken, at, swap, fixed, places, lengths);
	kw_gather_texts(data, size, places, lengths, taken, width, out);
	for (unsigned turn = 0; turn < 2; turn++) {
		kw_pack_texts(data, size, places, lengths, taken, out, limit * width, stops);
		kw_hash_texts(data, size, places, lengths, taken, parameters[6], starts);
		for (uint64_t i = 0; i < limit; i++) { /* and with places and lengths that nobody has looked at */
			places[i] = parameter((unsigned)i, size);
			lengths[i] = parameter((unsigned)i + 3, 20);
		}
		taken = limit;
	}
	kw_gather_texts(data, size, places, lengths, limit, width, out);
	kw_event_values(data, size, places, limit, at, width, parameters[10] & 15, out);
	kw_event_tails(data, size, places, lengths, limit, at, swap, fixed, starts, ends);
	kw_event_texts(data, size, places, limit, at, width, starts, ends);
	uint64_t each = (uint64_t)1 << parameters[3] % 4, most = minimum(limit, parameter(6, 20) & 63), bits[136];
	uint32_t *table = room(2 * 64 * 4, 0);
	struct distinct to = { table, 63, parameters[6] | 1, most, starts, ends, places, lengths };
	if (most < 64)
		kw_count_distinct(data, each, swap, size / each, &to);
	uint64_t fields[8] = { at, width, swap, parameters[11] & 1, parameter(9, 40), each, 0, swap }, found[2];
	uint64_t *some = room(limit * 8, 0), count_most = limit < 64 ? limit : 63;
	count = some_offsets(data, size, some, limit);
	const struct events events = { data, size, count, some, ends };
	const struct text_field text = { at, parameters[12] % 3, width, swap, fixed, parameters[6] };
	to = (struct distinct){ table, 63, parameters[6] | 1, count_most / 2, places, lengths, 0, 0 };
	kw_event_counts(&events, fields, 2, &to, found);
	memset(table, 0, 64 * sizeof *table);
	to = (struct distinct){ table, 63, parameters[6] | 1, count_most, starts, offsets, places, lengths };
	kw_text_counts(&events, &text, &to, &next);
	free(some);
	kw_bit_counts(data, each, swap, size / each, bits);
	kw_intervals((const uint64_t *)(void *)data, size / 8, fixed, (uint64_t)parameters[6] << 56, bits, places, limit / 2);
	free(table);
	free(offsets);
	free(starts);
	free(ends);
	free(places);
	free(lengths);
	free(ids);
	free(sizes);
	free(stops);
	free(types);
	free(out);
}

static void walk_blocks(uint8_t *data, uint64_t size, unsigned which)
{
	uint64_t limit = parameter(1, 64) & 127, next, swap = parameters[2] & 1, interfaces = parameters[3] & 3;
	struct row *rows = room(limit * sizeof *rows, 0);
	struct interface *known = room(interfaces * sizeof *known, parameters[5] & 1);
	uint64_t start = parameter(4, 8), end = parameter(6, size);

	if (which == 0)
		kw_pcapng_walk(data, size, start, end, swap, interfaces, (uint64_t *)(void *)rows, limit, &next);
	else if (which == 1)
		kw_pcap_rows(data, size, start, end, swap, known, interfaces, rows, limit, &next);
	else
		kw_pcapng_rows(data, size, start, end, swap, known, interfaces, parameters[7], rows, limit, &next);
	free(rows);
	free(known);
}

#define FLOWS 6u
#define CONVERSATIONS 5u
#define HOLD ((uint64_t)HOLD_RESERVE + (1u << 20))
#define SLABS (SLABS_LEAST + 2)

/* An engine with little room: its tables are of exactly the size that it is told. */
static struct engine *new_engine(void)
{
	static struct engine *e;
	static uint8_t *kept[16];
	static const uint64_t sizes[] = {
		8192, OUT_FULL + RESERVE, 8 * (FOUND_FULL + RESERVE / 8), 4 * (FOUND_FULL + RESERVE / 8),
		8 * TALLY_WORDS, 4 * 8, sizeof(struct flow) * (FLOWS + 2),
		sizeof(struct conversation) * (CONVERSATIONS + 4), SLABS * (1024 + 4096 + 16384 + SLAB), 4 * SLABS * SLAB_KINDS,
		sizeof(struct fragmented) * (MAX_FRAGMENT_PACKETS + 2), FRAGMENT_SLAB * (MAX_FRAGMENT_PACKETS + 2), 4 * 2048,
		HOLD, HOLD,
	};

	if (!e) {
		e = malloc(sizeof *e);
		for (unsigned at = 0; at < sizeof sizes / sizeof *sizes; at++)
			kept[at] = calloc(1, sizes[at]);
	}
	memset(e, 0, sizeof *e);
	for (unsigned at = 4; at < 8; at++)
		memset(kept[at], 0, sizes[at]);
	memset(kept[10], 0, sizes[10]);
	memset(kept[12], 0, sizes[12]);
	kept[0][17800 >> 3] |= 1 << (17800 & 7);
	e->ports = kept[0];
	e->out = kept[1], e->out_room = sizes[1];
	e->offsets = (uint64_t *)(void *)kept[2], e->limit = FOUND_FULL + RESERVE / 8;
	e->owners = (uint32_t *)(void *)kept[3];
	e->tally = (uint64_t *)(void *)kept[4];
	e->buckets = (uint32_t *)(void *)kept[5], e->bucket_mask = 7;
	e->flows = (struct flow *)(void *)kept[6], e->max_flows = FLOWS;
	e->conversations = (struct conversation *)(void *)kept[7], e->max_conversations = CONVERSATIONS;
	static const uint64_t of_slabs[SLAB_KINDS] = { 1024, 4096, 16384, SLAB };
	uint64_t before = 0;
	for (uint32_t kind = 0; kind < SLAB_KINDS; kind++) {
		e->slabs[kind] = (struct slabs){ kept[8] + before, (uint32_t *)(void *)kept[9] + SLABS * kind, of_slabs[kind], SLABS, 0, 0 };
		before += SLABS * of_slabs[kind];
	}
	e->fragments = (struct fragmented *)(void *)kept[10], e->fragment_slabs = kept[11];
	e->fragment_buckets = (uint32_t *)(void *)kept[12];
	e->hold = kept[13], e->spare = kept[14], e->hold_room = HOLD, e->hold_start = e->hold_used = HOLD_FIRST;
	e->hold_small = parameters[13] ? 64u * parameters[13] : 8u << 20;
	return e;
}

/* Lets go of so many conversations, as Python does. */
static void end_sessions(struct engine *e, uint64_t most)
{
	uint32_t *numbers = room((e->conversation_count + 1) * sizeof *numbers, 0);
	uint64_t all = kw_conversations(e, 0, numbers), at = 0;

	if (all != e->conversation_count || kw_conversations(e, 1, numbers) > all)
		abort();
	uint64_t count = kw_conversations_chosen(e, most < all ? most : all, numbers);
	while (kw_conversations_end(e, numbers, count, &at) != WHY_DONE) {
		kw_unbuild(e);
		e->found = e->out_used = e->schemas = e->only = e->special_count = e->place_count = 0;
	}
	kw_conversations_forget(e, numbers, count);
	free(numbers);
}

/* What Python does between two calls. */
static void answer(struct engine *e, uint64_t why)
{
	if (why == WHY_CALL) {
		uint8_t *copy = room(e->call_size, 0);
		memcpy(copy, e->call_frame, e->call_size);
		if (copy[0] & 1 && e->conversation_count <= e->max_conversations)
			kw_conversation_new(e, e->call_flow);
		e->flows[e->call_flow].roles[e->call_side] = copy[1] % 3;
		free(copy);
	} else if (why == WHY_ROOM) {
		end_sessions(e, 1 + parameter(14, CONVERSATIONS));
	}
	kw_unbuild(e);
	e->found = e->out_used = e->schemas = e->only = e->special_count = e->place_count = e->before_places = 0;
}

/* Checksums as if they were left to the card, so that what is damaged is looked into all the same. */
static void unsum(uint8_t *packet, uint64_t size, uint64_t link)
{
	uint64_t at = link == 1 ? 14 : link == 113 ? 16 : link == 276 ? 20 : link == 0 || link == 108 ? 4 : 0;

	if (at + 40 > size)
		return;
	uint64_t six = packet[at] >> 4 == 6, header = six ? 40 : (uint64_t)(packet[at] & 15) * 4;
	uint8_t protocol = packet[at + (six ? 6 : 9)];
	uint64_t field = at + header + (protocol == 6 ? 16 : 6);
	if (!six)
		packet[at + 10] = packet[at + 11] = 0;
	if (field + 2 <= size && (protocol == 6 || protocol == 17))
		packet[field] = packet[field + 1] = 0;
}

/* The packets of a pcap file in the data, in pieces: the engine keeps nothing of one while it takes the next. */
static void packets(uint8_t *data, uint64_t size)
{
	static const uint64_t LINKS[] = { 1, 113, 276, 0, 108, 12, 101, 147, 228, 229, 14, 999 };
	struct interface face = { LINKS[parameters[3] % 12], parameters[4] & 1 ? 1000000 : 1, 0, 0 };
	uint64_t limit = 1 + parameter(1, 64) % 64, at = 0, swap = parameters[2] & 1, why;
	struct row *rows = room(limit * sizeof *rows, 0);
	struct engine *e = new_engine();

	e->any_port = parameters[12] & 1;
	for (;;) {
		uint64_t next, count = kw_pcap_rows(data, size, at, size, swap, &face, 1, rows, limit, &next);
		if (!count)
			break;
		uint8_t *piece = room(next - at, 0);
		memcpy(piece, data + at, next - at);
		for (uint64_t row = 0; row < count; row++) {
			rows[row].offset -= at;
			if (parameters[11] & 1)
				unsum(piece + rows[row].offset, rows[row].captured, face.link);
		}
		e->data = piece, e->size = next - at, e->rows = rows, e->count = count, e->at = 0;
		while ((why = kw_packets(e)) != WHY_DONE)
			answer(e, why);
		free(piece);
		at = next;
	}
	e->count = e->at = 0;
	while ((why = kw_flows_end(e)) != WHY_DONE)
		answer(e, why);
	end_sessions(e, UINT64_MAX);
	free(rows);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t length)
{
	if (length < HEAD)
		return 0;
	memcpy(parameters, input, HEAD);
	uint64_t size = length - HEAD;
	uint8_t *data = room(size, 0);
	memcpy(data, input + HEAD, size);
	unsigned which = input[0] % 14;
	if (which == 0)
		walk_ring(data, size);
	else if (which <= 2)
		walk_chain(data, size, which == 2);
	else if (which <= 8)
		on_offsets(data, size, which - 3);
	else if (which == 9)
		columns(data, size);
	else if (which <= 12)
		walk_blocks(data, size, which - 10);
	else
		packets(data, size);
	free(data);
	return 0;
}

#ifdef STANDALONE
static uint64_t state;

static uint32_t dice(uint32_t sides)
{
	state = state * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(state >> 33) % sides;
}

int main(int argc, char **argv)
{
	static uint8_t seeds[64][1 << 16], input[1 << 16];
	static size_t sizes[64];
	int files = 0;

	for (int i = 3; i < argc && files < 64; i++, files++) {
		FILE *file = fopen(argv[i], "rb");
		if (!file)
			return 2;
		sizes[files] = fread(seeds[files], 1, sizeof seeds[files], file);
		fclose(file);
		LLVMFuzzerTestOneInput(seeds[files], sizes[files]);
	}
	if (!files)
		return 2;
	state = strtoull(argv[2], 0, 10);
	for (unsigned long run = strtoul(argv[1], 0, 10); run; run--) {
		uint32_t file = dice((uint32_t)files);
		size_t size = sizes[file];
		memcpy(input, seeds[file], size);
		for (uint32_t change = dice(6); change && size; change--) {
			uint32_t at = dice(dice(2) ? (uint32_t)size : size < HEAD ? (uint32_t)size : HEAD);
			if (dice(8) == 0)
				size = at;
			else if (dice(2))
				input[at] ^= (uint8_t)(1u << dice(8));
			else
				input[at] = (uint8_t)(dice(3) ? dice(256) : dice(2) ? 0xff : 0);
		}
		LLVMFuzzerTestOneInput(input, size);
	}
	return 0;
}
#endif
