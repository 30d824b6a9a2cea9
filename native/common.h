/*
 * What all walkers share: numbers read from bytes, the lengths of frames, checksums. The numbers of protocols and
 * formats stand in tables.h, which is made from the tables that Python uses.
 */
#ifndef KWIRE_COMMON_H
#define KWIRE_COMMON_H

#include <stdint.h>
#include <string.h>

#include "tables.h"

/*
 * What cannot be has been found: builds of the fuzzers end here. Others lose nothing unseen: the code behind it counts what it
 * gives up, or leaves a number out that is missed.
 */
#ifdef KWIRE_TRAPS
#define CANNOT_BE __builtin_trap()
#else
#define CANNOT_BE ((void)0)
#endif

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

/* What stands in the header of a frame. */
static inline uint32_t frame_version(const uint8_t *frame) { return frame[0] >> 4; }
static inline uint32_t frame_type(const uint8_t *frame) { return frame[0] & 15; }
static inline uint32_t frame_flags(const uint8_t *frame) { return frame[FRAME_FLAGS_AT]; }
static inline uint32_t frame_says(const uint8_t *frame) { return big16(frame + FRAME_LENGTH_AT); } /* its length */
static inline uint32_t frame_id(const uint8_t *frame) { return big32(frame + FRAME_ID_AT); }

/* The timestamp of an EVENT as the record holds it. */
static inline uint64_t event_time(const uint8_t *frame) { return host64(frame + EVENT_TIME_AT); }

/* The EVENT at data[offset]: its length, or 0 where it is no whole EVENT. */
static inline uint32_t event_length(const uint8_t *data, uint64_t size, uint64_t offset)
{
	if (offset > size || size - offset < EVENT_HEADER)
		return 0;
	const uint8_t *frame = data + offset;
	uint32_t length = frame_says(frame);
	if (frame[0] != (FRAME_VERSION << 4 | TYPE_EVENT) || length < EVENT_HEADER || length > size - offset)
		return 0;
	return length;
}

/* The whole frame at data[offset]: its length, or 0 where it is none. */
static inline uint32_t frame_length(const uint8_t *data, uint64_t size, uint64_t offset)
{
	if (offset > size || size - offset < FRAME_HEADER)
		return 0;
	uint32_t length = frame_says(data + offset);
	return length < FRAME_HEADER || length > size - offset ? 0 : length;
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

typedef uint64_t sums __attribute__((vector_size(16)));

static inline sums sums_at(const uint8_t *p)
{
	sums value;
	memcpy(&value, p, sizeof value);
	return value;
}

#define SUMS_STEP 64u

/*
 * The one's complement sum of RFC 1071 over words in the machine's order, at most 32 bits: that of big-endian words
 * but for a swap of bytes, so both are 0xffff, folded, where a checksum inside is right.
 */
static inline uint64_t sum_words(const uint8_t *p, uint64_t size)
{
	uint64_t low = 0, high = 0, at = 0;

	if (size >= 2 * SUMS_STEP) { /* all bits modulo 2^64, and the upper halves, tell the lower ones */
		sums all = { 0, 0 }, more = all, upper = all, others = all;
		for (; size - at >= SUMS_STEP; at += SUMS_STEP) {
			sums a = sums_at(p + at), b = sums_at(p + at + 16);
			sums c = sums_at(p + at + 32), d = sums_at(p + at + 48);
			all += a + c;
			more += b + d;
			upper += (a >> 32) + (c >> 32);
			others += (b >> 32) + (d >> 32);
		}
		all += more;
		upper += others;
		high = upper[0] + upper[1];
		low = all[0] + all[1] - (high << 32);
	}
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

/* Every bit of the word reaches every bit of what is given (the finalizer of splitmix64). */
static inline uint64_t mix(uint64_t word)
{
	word = (word ^ word >> 30) * 0xbf58476d1ce4e5b9u;
	word = (word ^ word >> 27) * 0x94d049bb133111ebu;
	return word ^ word >> 31;
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

/* The length of the frame in data[offset, end) with which nothing but perhaps its checksum is wrong, else 0. */
static inline uint32_t length_unsummed(const uint8_t *data, uint64_t offset, uint64_t end)
{
	const uint8_t *frame = data + offset;
	uint32_t length = frame_says(frame), type = frame_type(frame), flags = frame_flags(frame);

	if (length < FRAME_HEADER || length > end - offset || frame_version(frame) != FRAME_VERSION || type > TYPE_MAX)
		return 0;
	if ((TYPES_WITHOUT_ID >> type & 1) && frame_id(frame))
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
	return type == TYPE_KEEPALIVE && length != FRAME_HEADER + trailer ? 0 : length;
}

/* The length of the frame in data[offset, end) that strict reading finds nothing wrong with, else 0. */
static inline uint32_t strict_length(const uint8_t *data, uint64_t offset, uint64_t end)
{
	const uint8_t *frame = data + offset;
	uint32_t length = length_unsummed(data, offset, end);

	if (!length || !frame_flags(frame))
		return length;
	return checksum(frame, length - 2) == big16(frame + length - 2) ? length : 0;
}

#endif
