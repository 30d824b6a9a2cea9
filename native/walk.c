/*
 * Walkers of length-prefixed chains: the one loop that vectorized Python cannot do.
 *
 * A plain shared library, reached through ctypes (kwire/native.py); it knows nothing of Python. Each function
 * has a Python twin in the room that uses it; the twin is the specification. Invariants:
 *   - no byte outside [data, data + size) is read and no slot beyond `limit` or `room` is written, whatever
 *     the lengths in the data claim;
 *   - a walker stops before the first thing it does not understand and says where; it never guesses;
 *   - nothing is allocated, no state is kept.
 */
#include "common.h"

/*
 * The committed records of a BPF ring buffer between two positions. `data` is its data area of mask + 1 bytes,
 * mapped once or twice in a row. offsets[] gets where each record's payload lies in it; returns how many.
 * Discarded records are skipped; a busy one, and one that goes on beyond `data` or the producer, end the walk.
 * *next is the position to store as consumer position.
 */
uint64_t kw_ring_walk(const uint8_t *data, uint64_t size, uint64_t mask, uint64_t consumer, uint64_t producer,
		      uint64_t *offsets, uint64_t limit, uint64_t *next)
{
	uint64_t found = 0;

	*next = consumer;
	if (producer - consumer > mask + 1 || (consumer & 7))
		return 0;
	while (found < limit && producer - consumer >= RING_HEADER) {
		uint64_t at = consumer & mask;
		if (at + RING_HEADER > size)
			break;
		uint32_t head = __atomic_load_n((const uint32_t *)(const void *)(data + at), __ATOMIC_ACQUIRE);
		if (head & RING_BUSY)
			break;
		uint64_t length = head & RING_LENGTH;
		uint64_t stride = (length + RING_HEADER + 7) & ~(uint64_t)7;
		if (stride > producer - consumer || at + RING_HEADER + length > size)
			break;
		if (!(head & RING_DISCARD))
			offsets[found++] = at + RING_HEADER;
		consumer += stride;
	}
	*next = consumer;
	return found;
}

/* Frames back to back in data[offset, end). *next is where the first incomplete or impossible one begins. */
uint64_t kw_frame_walk(const uint8_t *data, uint64_t size, uint64_t offset, uint64_t end, uint64_t *offsets,
		       uint64_t limit, uint64_t *next)
{
	uint64_t found = 0;

	if (end > size)
		end = size;
	while (found < limit && offset <= end && end - offset >= FRAME_HEADER) {
		uint32_t length = frame_says(data + offset);
		if (length < FRAME_HEADER || length > end - offset)
			break;
		offsets[found++] = offset;
		offset += length;
	}
	*next = offset;
	return found;
}

/* What an Enhanced Packet Block begins with; its packet and options follow, then `total` again. */
struct packet_block {
	uint32_t type, total, interface, time_high, time_low, captured, original;
};

/*
 * EVENT frames to Enhanced Packet Blocks in the machine's byte order. Takes frames until one is no EVENT of
 * probes 1..probes, or is not whole, or does not fit; returns how many were taken. *used is the bytes written.
 */
uint64_t kw_epb_pack(const uint8_t *data, uint64_t size, const uint64_t *offsets, uint64_t count, uint64_t *rows,
		     uint64_t probes, uint8_t *out, uint64_t room, uint64_t *used)
{
	uint8_t *p = out;
	uint64_t done;

	for (done = 0; done < count; done++) {
		uint32_t length = event_length(data, size, offsets[done]);
		if (!length)
			break;
		const uint8_t *frame = data + offsets[done];
		uint64_t interface = (uint64_t)frame_id(frame) - 1;
		if (interface >= probes)
			break;
		uint64_t *row = rows + interface * ROW_WORDS;
		uint64_t drops = row[ROW_DROPS];
		uint32_t padded = (length + 3) & ~3u;
		uint32_t total = EPB_OVERHEAD + padded + (drops ? DROPCOUNT_SPACE : 0);
		if (total > room - (uint64_t)(p - out))
			break;
		uint64_t time = event_time(frame);
		if (row[ROW_SWAP])
			time = __builtin_bswap64(time);
		time += row[ROW_WALL];
		const struct packet_block head = { EPB_TYPE,       total,  (uint32_t)interface, (uint32_t)(time >> 32),
						   (uint32_t)time, length, length };
		memcpy(p, &head, EPB_HEADER);
		p += EPB_HEADER;
		put32(p + padded - sizeof(uint32_t), 0); /* the padding; the frame's own bytes are laid over it next */
		memcpy(p, frame, length);
		p += padded;
		if (drops) {
			const uint16_t option[2] = { EPB_DROPCOUNT, sizeof drops };
			memcpy(p, option, sizeof option);
			memcpy(p + sizeof option, &drops, sizeof drops);
			put32(p + sizeof option + sizeof drops, 0); /* no more options */
			p += DROPCOUNT_SPACE;
			row[ROW_DROPS] = 0;
		}
		p = put32(p, total);
		row[ROW_STORED]++;
	}
	*used = (uint64_t)(p - out);
	return done;
}

/*
 * Enhanced Packet Blocks of interfaces 0..interfaces-1 that hold exactly one whole EVENT without flags, in
 * data[offset, end). offsets[] gets where each frame lies. Stops at any other block, or where one is cut or its
 * lengths disagree; *next is there.
 */
uint64_t kw_pcapng_walk(const uint8_t *data, uint64_t size, uint64_t offset, uint64_t end, uint64_t swap,
			uint64_t interfaces, uint64_t *offsets, uint64_t limit, uint64_t *next)
{
	uint64_t found = 0;

	if (end > size)
		end = size;
	while (found < limit && offset <= end && end - offset >= EPB_OVERHEAD) {
		const uint8_t *block = data + offset;
		struct packet_block head;
		memcpy(&head, block, EPB_HEADER);
		uint32_t type = head.type, total = head.total, interface = head.interface, captured = head.captured;
		if (swap) {
			type = __builtin_bswap32(type);
			total = __builtin_bswap32(total);
			interface = __builtin_bswap32(interface);
			captured = __builtin_bswap32(captured);
		}
		if (type != EPB_TYPE || total < EPB_OVERHEAD || (total & 3) || total > end - offset)
			break;
		if (memcmp(&head.total, block + total - sizeof head.total, sizeof head.total) || captured > total - EPB_OVERHEAD)
			break;
		/* One that is not plain, exact and short enough is for the strict reading, in Python. */
		if (interface >= interfaces || !captured || captured > EVENT_MAX || block[EPB_HEADER + 1] ||
		    event_length(data, offset + EPB_HEADER + captured, offset + EPB_HEADER) != captured)
			break;
		offsets[found++] = offset + EPB_HEADER;
		offset += total;
	}
	*next = offset;
	return found;
}

/* Adds so many events, from `least` to `most`, to a row of kw_count_by_id's table. */
static inline void count_run(uint64_t *row, uint64_t run, uint64_t least, uint64_t most)
{
	if (!run)
		return;
	if (!row[COUNT_EVENTS] || least < row[COUNT_FIRST])
		row[COUNT_FIRST] = least;
	if (!row[COUNT_EVENTS] || most > row[COUNT_LAST])
		row[COUNT_LAST] = most;
	row[COUNT_EVENTS] += run;
}

/*
 * EVENT frames by probe: a row of `table` has the count, the smallest and the largest timestamp as the record holds
 * it (swap: in the other byte order). ids beyond the table and frames that are no whole EVENT are left
 * out; returns how many were counted. A row with count 0 is taken as empty.
 */
uint64_t kw_count_by_id(const uint8_t *data, uint64_t size, const uint64_t *offsets, uint64_t count,
			uint64_t *table, uint64_t ids, uint64_t swap)
{
	uint64_t counted = 0, run = 0, least = 0, most = 0, *row = 0;
	uint32_t current = 0;

	for (uint64_t i = 0; i < count; i++) {
		if (!event_length(data, size, offsets[i]))
			continue;
		const uint8_t *frame = data + offsets[i];
		uint32_t id = frame_id(frame);
		if (id >= ids)
			continue;
		uint64_t time = event_time(frame);
		if (swap)
			time = __builtin_bswap64(time);
		if (!row || id != current) { /* the row of a run of events stays in registers */
			count_run(row, run, least, most);
			row = table + (uint64_t)id * COUNT_WORDS;
			current = id;
			run = 0;
			least = most = time;
		}
		least = time < least ? time : least;
		most = time > most ? time : most;
		run++;
		counted++;
	}
	count_run(row, run, least, most);
	return counted;
}

/* What a checksum is after a word of the bytes it covers changed (RFC 1624, equation 3). */
static inline uint32_t patch_sum(uint32_t sum, uint32_t old, uint32_t new)
{
	sum = (~sum & 0xffff) + (~old & 0xffff) + new;
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum & 0xffff;
}

static inline void put_id(uint8_t *frame, uint32_t id)
{
	for (uint32_t at = 0; at < sizeof id; at++)
		frame[FRAME_ID_AT + at] = (uint8_t)(id >> 8 * (sizeof id - 1 - at));
}

/*
 * New probe numbers, in place: the id of each EVENT, SCHEMA, LOST and TABLE among the frames becomes table[id]; a
 * checksum is brought up to date. Other types stay as they are. Stops at a frame that is not whole or of
 * another version, or whose id has no entry: is beyond the table, or has 0 there (0 itself stays 0). Returns
 * how many frames were taken.
 */
uint64_t kw_frame_renumber(uint8_t *data, uint64_t size, const uint64_t *offsets, uint64_t count,
			   const uint64_t *table, uint64_t ids)
{
	uint64_t done;

	for (done = 0; done < count; done++) {
		uint32_t length = frame_length(data, size, offsets[done]);
		if (!length)
			break;
		uint8_t *frame = data + offsets[done];
		uint32_t type = frame_type(frame), id = frame_id(frame);
		if (frame_version(frame) != FRAME_VERSION)
			break;
		if ((type != TYPE_EVENT && type != TYPE_SCHEMA && type != TYPE_LOST && type != TYPE_TABLE) || !id)
			continue;
		uint32_t new = id < ids ? (uint32_t)table[id] : 0;
		if (!new)
			break;
		put_id(frame, new);
		if (frame_flags(frame) & FLAG_CHECKSUM && length >= FRAME_HEADER + 2) {
			uint32_t sum = big16(frame + length - 2);
			sum = patch_sum(sum, id >> 16, new >> 16);
			sum = patch_sum(sum, id & 0xffff, new & 0xffff);
			frame[length - 2] = (uint8_t)(sum >> 8);
			frame[length - 1] = (uint8_t)sum;
		}
	}
	return done;
}

/*
 * Copies frames back to back into `out`. Stops at one that is not whole, or does not fit; returns how many were
 * copied. *used is the bytes written.
 */
uint64_t kw_frame_gather(const uint8_t *data, uint64_t size, const uint64_t *offsets, uint64_t count, uint8_t *out,
			 uint64_t room, uint64_t *used)
{
	uint8_t *p = out;
	uint64_t done;

	for (done = 0; done < count; done++) {
		uint32_t length = frame_length(data, size, offsets[done]);
		if (!length || length > room - (uint64_t)(p - out))
			break;
		memcpy(p, data + offsets[done], length);
		p += length;
	}
	*used = (uint64_t)(p - out);
	return done;
}

/*
 * Frames back to back in data[offset, end) that strict reading finds nothing wrong with, checksums included.
 * *next is where the first other one begins, or where the bytes end.
 */
uint64_t kw_frame_strict(const uint8_t *data, uint64_t size, uint64_t offset, uint64_t end, uint64_t *offsets,
			 uint64_t limit, uint64_t *next)
{
	uint64_t found = 0;

	if (end > size)
		end = size;
	while (found < limit && offset <= end && end - offset >= FRAME_HEADER) {
		uint32_t length = strict_length(data, offset, end);
		if (!length)
			break;
		offsets[found++] = offset;
		offset += length;
	}
	*next = offset;
	return found;
}

/*
 * The headers of frames as numbers of 64 bits: version 4, type 4, flags 8, length 16, id 32, from the top. Stops
 * at one that is not whole; returns how many were read.
 */
uint64_t kw_frame_headers(const uint8_t *data, uint64_t size, const uint64_t *offsets, uint64_t count, uint64_t *out)
{
	uint64_t done;

	for (done = 0; done < count; done++) {
		if (!frame_length(data, size, offsets[done]))
			break;
		const uint8_t *frame = data + offsets[done];
		out[done] = (uint64_t)big32(frame) << 32 | frame_id(frame);
	}
	return done;
}

/* The checksums of whole frames. Stops at one that is not whole; returns how many were computed. */
uint64_t kw_frame_checksums(const uint8_t *data, uint64_t size, const uint64_t *offsets, uint64_t count, uint64_t *out)
{
	uint64_t done;

	for (done = 0; done < count; done++) {
		uint32_t length = frame_length(data, size, offsets[done]);
		if (!length)
			break;
		out[done] = checksum(data + offsets[done], length);
	}
	return done;
}
