/*
 * Walkers of length-prefixed chains: the one loop that vectorized Python cannot do.
 *
 * A plain shared library, reached through ctypes (kwire/native.py); it knows nothing of Python. Each function
 * has a Python twin in the room that uses it; the twin is the specification. The laws:
 *   - no byte outside [data, data + size) is read and no slot beyond `limit` or `room` is written, whatever
 *     the lengths in the data claim;
 *   - a walker stops before the first thing it does not understand and says where; it never guesses;
 *   - nothing is allocated, no state is kept.
 */
#include <stdint.h>
#include <string.h>

#define RING_HEADER 8u
#define RING_BUSY 0x80000000u
#define RING_DISCARD 0x40000000u
#define RING_LENGTH 0x3fffffffu

#define FRAME_HEADER 8u
#define EVENT_HEADER 16u /* frame header and timestamp */
#define FRAME_VERSION 1u
#define EVENT_MAX 65480u
#define FLAG_CHECKSUM 1u
#define FLAG_PADDED 2u
#define TYPE_KEEPALIVE 0u
#define TYPE_MAX 12u
#define TYPES_WITHOUT_ID (1u << 0 | 1u << 3 | 1u << 4) /* KEEPALIVE, HELLO, WELCOME */
#define TYPE_EVENT 1u
#define TYPE_SCHEMA 6u
#define TYPE_LOST 7u

#define EPB_TYPE 6u
#define EPB_HEADER 28u   /* type, length, interface, time high, time low, captured, original */
#define EPB_OVERHEAD 32u /* header and trailing length */
#define MAX_PACKET (16u << 20) /* bytes of a block, or of a packet, that is looked into */
#define EPB_DROPCOUNT 4u
#define DROPCOUNT_SPACE 16u /* option header, u64, end of options */

/* Columns of a probe's row in epb_pack's table, u64 each. */
#define ROW_WALL 0 /* what is added to a timestamp to make it wall-clock nanoseconds */
#define ROW_SWAP 1 /* the record's byte order is not the machine's */
#define ROW_STORED 2
#define ROW_DROPS 3 /* events lost before the next one, for epb_dropcount */
#define ROW_WORDS 4

static inline uint32_t big16(const uint8_t *p) { return (uint32_t)p[0] << 8 | p[1]; }

static inline uint32_t big32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static inline uint32_t host32(const uint8_t *p)
{
	uint32_t value;
	memcpy(&value, p, 4);
	return value;
}

static inline uint64_t host64(const uint8_t *p)
{
	uint64_t value;
	memcpy(&value, p, 8);
	return value;
}

static inline uint8_t *put32(uint8_t *p, uint32_t value)
{
	memcpy(p, &value, 4);
	return p + 4;
}

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
		uint32_t length = big16(data + offset + 2);
		if (length < FRAME_HEADER || length > end - offset)
			break;
		offsets[found++] = offset;
		offset += length;
	}
	*next = offset;
	return found;
}

/* The EVENT at data[offset]: its length, or 0 where it is no whole EVENT. */
static inline uint32_t event_length(const uint8_t *data, uint64_t size, uint64_t offset)
{
	if (offset > size || size - offset < EVENT_HEADER)
		return 0;
	const uint8_t *frame = data + offset;
	uint32_t length = big16(frame + 2);
	if (frame[0] != (FRAME_VERSION << 4 | TYPE_EVENT) || length < EVENT_HEADER || length > size - offset)
		return 0;
	return length;
}

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
		uint64_t interface = (uint64_t)big32(frame + 4) - 1;
		if (interface >= probes)
			break;
		uint64_t *row = rows + interface * ROW_WORDS;
		uint64_t drops = row[ROW_DROPS];
		uint32_t padded = (length + 3) & ~3u;
		uint32_t total = EPB_OVERHEAD + padded + (drops ? DROPCOUNT_SPACE : 0);
		if (total > room - (uint64_t)(p - out))
			break;
		uint64_t time = host64(frame + 8);
		if (row[ROW_SWAP])
			time = __builtin_bswap64(time);
		time += row[ROW_WALL];
		uint32_t head[7] = { EPB_TYPE, total, (uint32_t)interface, (uint32_t)(time >> 32),
				     (uint32_t)time,  length, length };
		memcpy(p, head, EPB_HEADER);
		p += EPB_HEADER;
		put32(p + padded - 4, 0); /* the padding; the frame's own bytes are laid over it next */
		memcpy(p, frame, length);
		p += padded;
		if (drops) {
			uint16_t option[2] = { EPB_DROPCOUNT, 8 };
			memcpy(p, option, 4);
			memcpy(p + 4, &drops, 8);
			put32(p + 12, 0);
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
		uint32_t type = host32(block), total = host32(block + 4);
		uint32_t interface = host32(block + 8), captured = host32(block + 20);
		if (swap) {
			type = __builtin_bswap32(type);
			total = __builtin_bswap32(total);
			interface = __builtin_bswap32(interface);
			captured = __builtin_bswap32(captured);
		}
		if (type != EPB_TYPE || total < EPB_OVERHEAD || (total & 3) || total > end - offset || total > MAX_PACKET)
			break;
		if (memcmp(block + 4, block + total - 4, 4) || captured > total - EPB_OVERHEAD)
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

/*
 * EVENT frames by probe: table[3 * id] is the count, then the smallest and the largest timestamp as the record
 * holds it (swap: in the other byte order). ids beyond the table and frames that are no whole EVENT are left
 * out; returns how many were counted. A row with count 0 is taken as empty.
 */
uint64_t kw_count_by_id(const uint8_t *data, uint64_t size, const uint64_t *offsets, uint64_t count,
			uint64_t *table, uint64_t ids, uint64_t swap)
{
	uint64_t counted = 0;

	for (uint64_t i = 0; i < count; i++) {
		if (!event_length(data, size, offsets[i]))
			continue;
		const uint8_t *frame = data + offsets[i];
		uint32_t id = big32(frame + 4);
		if (id >= ids)
			continue;
		uint64_t time = host64(frame + 8);
		if (swap)
			time = __builtin_bswap64(time);
		uint64_t *row = table + (uint64_t)id * 3;
		if (!row[0] || time < row[1])
			row[1] = time;
		if (!row[0] || time > row[2])
			row[2] = time;
		row[0]++;
		counted++;
	}
	return counted;
}

/* The whole frame at data[offset]: its length, or 0 where it is none. */
static inline uint32_t frame_length(const uint8_t *data, uint64_t size, uint64_t offset)
{
	if (offset > size || size - offset < FRAME_HEADER)
		return 0;
	uint32_t length = big16(data + offset + 2);
	return length < FRAME_HEADER || length > size - offset ? 0 : length;
}

/* What a checksum is after a word of the bytes it covers changed (RFC 1624, equation 3). */
static inline uint32_t patch_sum(uint32_t sum, uint32_t old, uint32_t new)
{
	sum = (~sum & 0xffff) + (~old & 0xffff) + new;
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum & 0xffff;
}

/*
 * New probe numbers, in place: the id of each EVENT, SCHEMA and LOST among the frames becomes table[id]; a
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
		uint32_t type = frame[0] & 15, id = big32(frame + 4);
		if (frame[0] >> 4 != FRAME_VERSION)
			break;
		if ((type != TYPE_EVENT && type != TYPE_SCHEMA && type != TYPE_LOST) || !id)
			continue;
		uint32_t new = id < ids ? (uint32_t)table[id] : 0;
		if (!new)
			break;
		frame[4] = (uint8_t)(new >> 24);
		frame[5] = (uint8_t)(new >> 16);
		frame[6] = (uint8_t)(new >> 8);
		frame[7] = (uint8_t)new;
		if (frame[1] & FLAG_CHECKSUM && length >= FRAME_HEADER + 2) {
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

/* The `rest` bytes, 1 to 7, that end before p + rest, as a word with zeros behind them; `before`: bytes before p. */
static inline uint64_t last_word(const uint8_t *p, uint64_t rest, uint64_t before)
{
	uint64_t word = 0;

	if (before >= 8) {
		word = host64(p + rest - 8);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
		return word >> 8 * (8 - rest);
#else
		return word << 8 * (8 - rest);
#endif
	}
	memcpy(&word, p, rest);
	return word;
}

/*
 * The one's complement sum of RFC 1071 over words in the machine's order, at most 32 bits: that of big-endian words
 * but for a swap of bytes, so both are 0xffff, folded, where a checksum inside is right.
 */
static inline uint64_t sum_words(const uint8_t *p, uint64_t size)
{
	uint64_t low = 0, high = 0, at = 0;

	for (; size - at >= 16; at += 16) {
		uint64_t a = host64(p + at), b = host64(p + at + 8);
		low += (a & 0xffffffff) + (b & 0xffffffff);
		high += (a >> 32) + (b >> 32);
	}
	if (size - at >= 8) {
		uint64_t a = host64(p + at);
		low += a & 0xffffffff;
		high += a >> 32;
		at += 8;
	}
	if (size > at) {
		uint64_t a = last_word(p + at, size - at, at);
		low += a & 0xffffffff;
		high += a >> 32;
	}
	low = (low & 0xffffffff) + (low >> 32) + (high & 0xffffffff) + (high >> 32);
	return (low & 0xffffffff) + (low >> 32);
}

/* A number of 16 bits as it stands in a packet. */
static inline uint64_t in_packet(uint64_t value)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	return __builtin_bswap16((uint16_t)value);
#else
	return value;
#endif
}

static inline uint32_t fold(uint64_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint32_t)sum;
}

static inline uint32_t checksum(const uint8_t *p, uint64_t size)
{
	return (uint32_t)in_packet(fold(sum_words(p, size))) ^ 0xffff;
}

/* Whether a header of IPv4 has a right checksum. */
static inline int header_sound(const uint8_t *ip, uint64_t size)
{
	uint64_t sum = (uint64_t)host32(ip) + host32(ip + 4) + host32(ip + 8) + host32(ip + 12) + host32(ip + 16);

	for (uint64_t at = 20; at < size; at += 4)
		sum += host32(ip + at);
	sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	return ((sum & 0xffff) + (sum >> 16)) == 0xffff;
}

/* The length of the frame in data[offset, end) that strict reading finds nothing wrong with, else 0. */
static inline uint32_t strict_length(const uint8_t *data, uint64_t offset, uint64_t end)
{
	const uint8_t *frame = data + offset;
	uint32_t length = big16(frame + 2), type = frame[0] & 15, flags = frame[1];

	if (length < FRAME_HEADER || length > end - offset || frame[0] >> 4 != FRAME_VERSION || type > TYPE_MAX)
		return 0;
	if ((TYPES_WITHOUT_ID >> type & 1) && big32(frame + 4))
		return 0;
	if (type == TYPE_EVENT && length > EVENT_MAX)
		return 0;
	if (!flags)
		return type == TYPE_KEEPALIVE && length != FRAME_HEADER ? 0 : length;
	uint32_t trailer = flags & FLAG_PADDED ? 3 : 2;
	if (!(flags & FLAG_CHECKSUM) || flags & ~(FLAG_CHECKSUM | FLAG_PADDED) || length < FRAME_HEADER + trailer)
		return 0;
	if (trailer == 3 && (frame[length - 3] || length & 1))
		return 0;
	if (type == TYPE_KEEPALIVE && length != FRAME_HEADER + trailer)
		return 0;
	return checksum(frame, length - 2) == big16(frame + length - 2) ? length : 0;
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
		out[done] = (uint64_t)big32(frame) << 32 | big32(frame + 4);
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

/* A mask for the first `count` bytes, 0 to 7, of a word in memory. */
static inline uint64_t low_bytes(uint64_t count)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	return ((uint64_t)1 << 8 * count) - 1;
#else
	return count ? ~(uint64_t)0 << (64 - 8 * count) : 0;
#endif
}

/*
 * The fixed parts of the EVENTs with this id, `fixed` bytes each, gathered as rows of `stride` bytes (a multiple
 * of 8; what follows the fixed part in a row means nothing). starts[] and ends[] get where each frame begins and
 * how many bytes it has without its trailer. Other frames are left out. Ends before an EVENT that is too short;
 * *next is its index, or count.
 */
uint64_t kw_event_rows(const uint8_t *data, uint64_t size, const uint64_t *offsets, uint64_t count, uint64_t id,
		       uint64_t fixed, uint64_t stride, uint64_t *starts, uint64_t *ends, uint8_t *rows,
		       uint64_t limit, uint64_t *next)
{
	uint64_t found = 0, i;

	for (i = 0; i < count && found < limit; i++) {
		uint64_t offset = offsets[i], length = frame_length(data, size, offset);
		if (!length)
			continue;
		const uint8_t *frame = data + offset;
		if ((frame[0] & 15) != TYPE_EVENT || big32(frame + 4) != id)
			continue;
		if (frame[1] & FLAG_CHECKSUM)
			length -= frame[1] & FLAG_PADDED ? 3 : 2;
		if (length < FRAME_HEADER || length > 0xffff)
			length = FRAME_HEADER;
		if (length < fixed)
			break;
		uint8_t *row = rows + found * stride;
		if (stride <= size - offset)
			for (uint64_t at = 0; at < stride; at += 8)
				memcpy(row + at, frame + at, 8);
		else
			memcpy(row, frame, fixed);
		starts[found] = offset;
		ends[found++] = length;
	}
	*next = i;
	return found;
}

/*
 * Where the values of a tail field lie in data, by the references at byte `at` of each row, and their lengths
 * without the cut bit; one of no bytes lies at 0. Ends before a reference that leaves its frame's tail, which
 * begins at `fixed`; returns how many are sound.
 */
uint64_t kw_event_tails(const uint8_t *rows, uint64_t count, uint64_t stride, uint64_t at, uint64_t swap,
			uint64_t fixed, const uint64_t *starts, const uint64_t *ends, uint64_t *places,
			uint64_t *lengths)
{
	uint64_t i;

	for (i = 0; i < count; i++) {
		uint16_t pair[2];
		memcpy(pair, rows + i * stride + at, 4);
		uint64_t offset = swap ? __builtin_bswap16(pair[0]) : pair[0];
		uint64_t length = (swap ? __builtin_bswap16(pair[1]) : pair[1]) & 0x7fffu;
		if (length && (offset < fixed || offset + length > ends[i]))
			break;
		places[i] = length ? starts[i] + offset : 0;
		lengths[i] = length;
	}
	return i;
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

/* ---- packets of the network */

#define RECORD_HEADER 16u /* of a pcap file: seconds, fraction, captured, original */

static inline uint32_t read32(const uint8_t *p, uint64_t swap)
{
	uint32_t value = host32(p);
	return swap ? __builtin_bswap32(value) : value;
}

/*
 * The records of a pcap file in data[offset, end): two u64 each in rows, where the packet lies and how many bytes
 * of it were captured. *next is where the first record begins that is cut or impossible.
 */
uint64_t kw_pcap_walk(const uint8_t *data, uint64_t size, uint64_t offset, uint64_t end, uint64_t swap,
		      uint64_t interfaces, uint64_t *rows, uint64_t limit, uint64_t *next)
{
	uint64_t found = 0;

	(void)interfaces;
	if (end > size)
		end = size;
	while (found < limit && offset <= end && end - offset >= RECORD_HEADER) {
		uint32_t captured = read32(data + offset + 8, swap);
		if (captured > MAX_PACKET || captured > end - offset - RECORD_HEADER)
			break;
		rows[2 * found] = offset + RECORD_HEADER;
		rows[2 * found++ + 1] = captured;
		offset += RECORD_HEADER + captured;
	}
	*next = offset;
	return found;
}

/*
 * The same for Enhanced Packet Blocks of interfaces 0..interfaces-1, whose number stands in the upper half of a
 * row's second word. Stops at any other block.
 */
uint64_t kw_pcapng_packets(const uint8_t *data, uint64_t size, uint64_t offset, uint64_t end, uint64_t swap,
			   uint64_t interfaces, uint64_t *rows, uint64_t limit, uint64_t *next)
{
	uint64_t found = 0;

	if (end > size)
		end = size;
	while (found < limit && offset <= end && end - offset >= EPB_OVERHEAD) {
		const uint8_t *block = data + offset;
		uint32_t total = read32(block + 4, swap), interface = read32(block + 8, swap);
		uint32_t captured = read32(block + 20, swap);
		if (read32(block, swap) != EPB_TYPE || total < EPB_OVERHEAD || (total & 3) || total > end - offset)
			break;
		if (memcmp(block + 4, block + total - 4, 4) || captured > total - EPB_OVERHEAD ||
		    interface >= interfaces || total > MAX_PACKET)
			break;
		rows[2 * found] = offset + EPB_HEADER;
		rows[2 * found++ + 1] = (uint64_t)interface << 32 | captured;
		offset += total;
	}
	*next = offset;
	return found;
}

/* Columns of a flow's slot, u64 each, and what a flow is. */
#define SLOT_WORDS 8
#define SLOT_OWNER 0 /* owner + 1, and above 32 bits what the flow carries; 0: the slot is free */
#define SLOT_NEXT 1  /* sequence number of the next DATA */
#define SLOT_PORTS 2 /* IP version, source and destination port */
#define SLOT_FRAMES 3
#define SLOT_ADDRESSES 4
#define FLOW_DATA 1u /* from a source: DATA, or EVENTs as they are */
#define FLOW_ACKS 2u /* to a source */

/* Columns of the tally. */
#define TALLY_PROTOCOL 0x10000 /* below: packets by ethertype; from here on: by IP protocol */
#define TALLY_FRAMES 0x10100
#define TALLY_UNSUMMED 0x10101
#define TALLY_PARTIAL 0x10102
#define TALLY_WORDS 0x10103

#define TYPE_DATA 2u
#define TYPE_ACK 5u

#define MAX_TRIES 64u /* slots looked at for a flow: hostile addresses may all fall on one */

static uint64_t *find_flow(uint64_t *table, uint64_t slots, const uint64_t key[5])
{
	uint64_t hash = key[0] * 0x9e3779b97f4a7c15u + key[1] * 0xbf58476d1ce4e5b9u + key[2] * 0x94d049bb133111ebu +
			key[3] * 0xd6e8feb86659fd93u + key[4] * 0xa0761d6478bd642fu;

	hash ^= hash >> 32;
	for (uint64_t tries = 0; tries < slots && tries < MAX_TRIES; tries++) {
		uint64_t *slot = table + ((hash + tries) & (slots - 1)) * SLOT_WORDS;
		if (!slot[SLOT_OWNER])
			return 0;
		const uint64_t *at = slot + SLOT_ADDRESSES;
		if (slot[SLOT_PORTS] == key[0] &&
		    !((at[0] ^ key[1]) | (at[1] ^ key[2]) | (at[2] ^ key[3]) | (at[3] ^ key[4])))
			return slot;
	}
	return 0;
}

struct batch {
	const uint8_t *data;
	uint64_t *offsets, *owners, limit, found;
};

/* The frames in payload[0, size), which lies at `at`: 1 if they are all plain EVENTs, or need not be looked at. */
static int take_frames(struct batch *batch, uint64_t at, uint64_t size, uint64_t *slot)
{
	const uint8_t *data = batch->data;
	uint64_t kind = slot[SLOT_OWNER] >> 32, owner = (slot[SLOT_OWNER] & 0xffffffff) - 1, found = batch->found;

	if (size < FRAME_HEADER || strict_length(data, at, at + size) != size)
		return 0;
	uint32_t type = data[at] & 15;
	if (kind == FLOW_ACKS) {
		slot[SLOT_FRAMES]++;
		return type == TYPE_ACK || type == TYPE_KEEPALIVE;
	}
	if (kind != FLOW_DATA)
		return 0;
	if (type == TYPE_EVENT) {
		if (size < EVENT_HEADER || data[at + 1] || found == batch->limit)
			return 0;
		batch->offsets[found] = at;
		batch->owners[found] = owner;
		batch->found++;
		slot[SLOT_FRAMES]++;
		return 1;
	}
	if (type != TYPE_DATA || big32(data + at + 4) != slot[SLOT_NEXT])
		return 0;
	uint64_t end = at + size - (data[at + 1] ? data[at + 1] & FLAG_PADDED ? 3 : 2 : 0);
	for (at += FRAME_HEADER; at < end; found++) {
		if (end - at < EVENT_HEADER || found == batch->limit)
			return 0;
		uint32_t length = big16(data + at + 2);
		if (data[at] != (FRAME_VERSION << 4 | TYPE_EVENT) || data[at + 1] || length < EVENT_HEADER ||
		    length > EVENT_MAX || length > end - at)
			return 0;
		batch->offsets[found] = at;
		batch->owners[found] = owner;
		at += length;
	}
	slot[SLOT_FRAMES]++;
	slot[SLOT_NEXT] = (slot[SLOT_NEXT] + 1) & 0xffffffff;
	batch->found = found;
	return 1;
}

/* Where the network header begins and its ethertype; 0 where that is for Python. */
static inline uint64_t network_layer(const uint8_t *p, uint64_t size, uint64_t link, uint32_t *ethertype)
{
	uint64_t at;

	switch (link) {
	case 1:
		if (size < 14)
			return 0;
		*ethertype = big16(p + 12);
		at = 14;
		break;
	case 113:
		if (size < 16)
			return 0;
		*ethertype = big16(p + 14);
		at = 16;
		break;
	case 276:
		if (size < 20)
			return 0;
		*ethertype = big16(p);
		at = 20;
		break;
	case 0:
	case 108:
		if (size < 5)
			return 0;
		*ethertype = p[4] >> 4 == 4 ? 0x0800 : 0x86dd;
		uint32_t family = big32(p);
		if (link == 0 && family > 255)
			family = __builtin_bswap32(family);
		if (*ethertype == 0x0800 ? family != 2 : family != 10 && family != 24 && family != 28 && family != 30)
			return 0;
		at = 4;
		break;
	default:
		return 0;
	}
	for (int tags = 0; tags < 2 && (*ethertype == 0x8100 || *ethertype == 0x88a8 || *ethertype == 0x9100); tags++) {
		if (size - at < 4)
			return 0;
		*ethertype = big16(p + at + 2);
		at += 4;
	}
	return at;
}

/*
 * Takes packets as long as they are plain: of a common link type, whole IPv4 or IPv6 with right header checksum,
 * and then either of no interest (counted in `tally` by ethertype or protocol), or UDP on a port of ours, with a
 * right checksum, of a flow in the table, holding the next DATA with plain EVENTs, or an ACK. Everything else
 * ends it, before that packet. Returns how many packets were taken; offsets[] and owners[] get each EVENT.
 *
 * ports: a bit for each of 65536; any_port: UDP of every port is of interest that looks like a frame, and all TCP.
 * raw: owner + 1 of EVENTs that are packets themselves (link type 147), 0 if there is none.
 */
uint64_t kw_packet_frames(const uint8_t *data, uint64_t size, const uint64_t *rows, uint64_t count, uint64_t swap,
			  const uint64_t *links, uint64_t interfaces, const uint8_t *ports, uint64_t any_port,
			  uint64_t raw, uint64_t *table, uint64_t slots, uint64_t *offsets, uint64_t *owners,
			  uint64_t limit, uint64_t *tally, uint64_t *found)
{
	struct batch batch = { data, offsets, owners, limit, 0 };
	uint64_t done;

	for (done = 0; done < count; done++) {
		uint64_t offset = rows[2 * done], captured = rows[2 * done + 1] & 0xffffffff;
		uint64_t interface = rows[2 * done + 1] >> 32;
		if (offset < 4 || offset > size || captured > size - offset || interface >= interfaces)
			break;
		const uint8_t *p = data + offset;
		uint64_t link = links[interface], original = read32(p - 4, swap), at;
		uint32_t ethertype;
		if (link == 147) {
			uint64_t slot[SLOT_WORDS] = { raw | (uint64_t)FLOW_DATA << 32, 0 };
			if (!raw || !captured || (p[0] & 15) != TYPE_EVENT || !take_frames(&batch, offset, captured, slot))
				break;
			tally[TALLY_FRAMES]++;
			continue;
		}
		if (link == 12 || link == 14 || link == 101 || link == 228 || link == 229) {
			if (!captured)
				break;
			at = 0;
			ethertype = p[0] >> 4 == 6 ? 0x86dd : 0x0800;
		} else {
			at = network_layer(p, captured, link, &ethertype);
			if (!at)
				break;
		}
		if (ethertype <= 1500)
			break;
		uint64_t there = captured - at, whole = original > captured ? original - at : there;
		uint64_t total, header, family;
		uint32_t protocol;
		uint64_t key[5] = { 0, 0, 0, 0, 0 };
		const uint8_t *ip = p + at;
		if (ethertype == 0x0800) {
			if (there < 20)
				break;
			header = (uint64_t)(ip[0] & 15) * 4;
			total = big16(ip + 2);
			if (ip[0] >> 4 != 4 || header < 20 || header > there || total < header || total > whole)
				break;
			if (big16(ip + 6) & 0x3fff || !header_sound(ip, header))
				break;
			protocol = ip[9];
			family = 4;
			memcpy(key + 1, ip + 12, 4);
			memcpy(key + 3, ip + 16, 4);
		} else if (ethertype == 0x86dd) {
			if (there < 40 || ip[0] >> 4 != 6)
				break;
			header = 40;
			total = (uint64_t)big16(ip + 4) + 40;
			protocol = ip[6];
			if (total == 40 || total > whole || protocol == 0 || protocol == 43 || protocol == 44 ||
			    protocol == 51 || protocol == 60 || protocol == 135 || protocol == 139 || protocol == 140)
				break;
			family = 6;
			memcpy(key + 1, ip + 8, 32);
		} else {
			if (ethertype == 0x8100 || ethertype == 0x88a8 || ethertype == 0x9100)
				break;
			tally[ethertype]++;
			continue;
		}
		if (protocol != 6 && protocol != 17) {
			tally[TALLY_PROTOCOL + protocol]++;
			continue;
		}
		uint64_t cut = total > there, length = (cut ? there : total) - header;
		if (length < (protocol == 6 ? 20 : 8))
			break;
		const uint8_t *udp = ip + header;
		uint32_t source = big16(udp), target = big16(udp + 2);
		int ours = (ports[source >> 3] >> (source & 7) & 1) || (ports[target >> 3] >> (target & 7) & 1);
		if (protocol == 6) {
			if (ours || any_port)
				break;
			tally[TALLY_PROTOCOL + protocol]++;
			continue;
		}
		if (!ours && (!any_port || (!cut && (length < 16 || udp[8] < 0x10 || udp[8] > 0x1c)))) {
			tally[TALLY_PROTOCOL + protocol]++;
			continue;
		}
		if (cut || big16(udp + 4) < 8 || big16(udp + 4) > length)
			break;
		length = big16(udp + 4);
		key[0] = family << 32 | source << 16 | target;
		uint64_t *slot = find_flow(table, slots, key);
		if (!slot)
			break;
		uint32_t sum = big16(udp + 6);
		uint64_t note = 0;
		if (!sum) {
			note = TALLY_UNSUMMED;
		} else {
			uint64_t pseudo = in_packet(length) + in_packet(17) +
					  (family == 4 ? (uint64_t)host32(ip + 12) + host32(ip + 16) :
							 sum_words(ip + 8, 32));
			if (fold(sum_words(udp, length) + pseudo) != 0xffff) {
				if (sum != in_packet(fold(pseudo)))
					break;
				note = TALLY_PARTIAL;
			}
		}
		uint64_t before = slot[SLOT_FRAMES];
		if (!take_frames(&batch, (uint64_t)(udp + 8 - data), length - 8, slot)) {
			slot[SLOT_FRAMES] = before;
			break;
		}
		tally[TALLY_FRAMES] += slot[SLOT_FRAMES] - before;
		if (note)
			tally[note]++;
	}
	*found = batch.found;
	return done;
}
