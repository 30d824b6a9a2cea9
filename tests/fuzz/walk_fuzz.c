/*
 * Fuzzes the C walkers for memory safety: every buffer has exactly the size it is said to have, so that a
 * sanitizer sees one byte too many. What the walkers answer is held against their Python twins elsewhere.
 *
 *   clang -g -O1 -fsanitize=fuzzer,address,undefined -o walk_fuzz walk_fuzz.c    guided, for a campaign
 *   gcc -g -O1 -fsanitize=address,undefined -DSTANDALONE -o walk_fuzz walk_fuzz.c
 *   ./walk_fuzz RUNS SEED FILES...                                               mutations of the files
 *
 * The first byte of an input chooses the walker, the next fifteen its parameters, the rest is its data.
 */
#include <stdio.h>
#include <stdlib.h>

#include "../../native/walk.c"

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

/* Columns of events: rows, then the texts that a tail field points to. */
static void columns(uint8_t *data, uint64_t size)
{
	uint64_t limit = 1 + parameter(1, 64) % 64, *offsets = room(limit * 8, 0), next;
	uint64_t count = some_offsets(data, size, offsets, limit), fixed = 16 + parameter(2, 100) % 128;
	uint64_t stride = (fixed + 7) & ~(uint64_t)7, width = parameter(4, 20) % 64, taken = minimum(count, limit);
	uint64_t *starts = room(limit * 8, 0), *ends = room(limit * 8, 0), *places = room(limit * 8, 0);
	uint64_t *lengths = room(limit * 8, 0);
	uint8_t *rows = room(limit * stride, 0), *out;

	taken = kw_event_rows(data, size, offsets, taken, parameter(5, 2), fixed, stride, starts, ends, rows, limit, &next);
	uint64_t at = parameter(7, stride) % (stride - 3);
	taken = kw_event_tails(rows, taken, stride, at, parameters[8] & 1, fixed, starts, ends, places, lengths);
	out = room(taken * width, 0);
	kw_gather_texts(data, size, places, lengths, taken, width, out);
	free(out);
	out = room(limit * width, 0); /* and with places and lengths that nobody has looked at */
	for (uint64_t i = 0; i < limit; i++) {
		places[i] = parameter((unsigned)i, size);
		lengths[i] = parameter((unsigned)i + 3, 20);
	}
	kw_gather_texts(data, size, places, lengths, limit, width, out);
	free(offsets);
	free(starts);
	free(ends);
	free(places);
	free(lengths);
	free(rows);
	free(out);
}

static void walk_blocks(uint8_t *data, uint64_t size, unsigned which)
{
	uint64_t limit = parameter(1, 64) & 127, next, swap = parameters[2] & 1, interfaces = parameters[3] & 3;
	uint64_t *rows = room(limit * 16, 0), start = parameter(4, 8), end = parameter(6, size);

	if (which == 0)
		kw_pcapng_walk(data, size, start, end, swap, interfaces, rows, limit, &next);
	else if (which == 1)
		kw_pcap_walk(data, size, start, end, swap, interfaces, rows, limit, &next);
	else
		kw_pcapng_packets(data, size, start, end, swap, interfaces, rows, limit, &next);
	free(rows);
}

static uint64_t tally[TALLY_WORDS];
static uint8_t ports[2][8192];

/* A batch of packets: those of a pcap file in the data, with flows that may be theirs. */
static void packets(uint8_t *data, uint64_t size)
{
	static const uint64_t LINKS[] = { 1, 113, 276, 0, 108, 12, 101, 147, 228, 229, 14, 999 };
	uint64_t limit = 1 + parameter(1, 64) % 64, next, found, swap = parameters[2] & 1;
	uint64_t links[2] = { LINKS[parameters[3] % 12], LINKS[parameters[4] % 12] };
	uint64_t *rows = room(limit * 16, 0), *table = room(SLOTS * SLOT_WORDS * 8, 0);
	uint64_t *offsets = room(limit * 8, 0), *owners = room(limit * 8, 0);
	memset(ports[1], 0xff, sizeof ports[1]);
	uint64_t count = kw_pcap_walk(data, size, 0, size, swap, 0, rows, limit, &next);

	if (count < limit && parameters[6] & 1) {
		rows[2 * count] = parameter(7, size);
		rows[2 * count++ + 1] = parameter(9, 200) | (uint64_t)(parameters[8] & 3) << 32;
	}
	ports[0][17800 >> 3] |= 1 << (17800 & 7);
	for (uint64_t i = 0; i < SLOTS; i++) /* no slot is free, so a flow is found wherever it stands */
		table[i * SLOT_WORDS + SLOT_OWNER] = 1;
	for (uint64_t i = 0; i < count; i++) { /* the flow of this packet, if it is UDP over IPv4 on Ethernet */
		uint64_t at = rows[2 * i], *slot = table + i % SLOTS * SLOT_WORDS;
		if (at > size || size - at < 38)
			continue;
		slot[SLOT_OWNER] = 1 | (uint64_t)(1 + (parameters[10] & 1)) << 32;
		slot[SLOT_NEXT] = parameters[11] & 1;
		slot[SLOT_PORTS] = (uint64_t)4 << 32 | big32(data + at + 34);
		memcpy(slot + SLOT_ADDRESSES, data + at + 26, 4);
		memcpy(slot + SLOT_ADDRESSES + 2, data + at + 30, 4);
	}
	kw_packet_frames(data, size, rows, count, swap, links, 2, ports[parameters[5] & 1], parameters[12] & 1, parameters[13] & 1, table,
			 SLOTS, offsets, owners, parameter(14, limit) % (limit + 1), tally, &found);
	free(rows);
	free(table);
	free(offsets);
	free(owners);
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
