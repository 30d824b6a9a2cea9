/*
 * An independent implementation of the frame, written from the protocol's text, for the tests to compare with.
 *
 * Requests come on standard input, answers go to standard output, all numbers big-endian:
 *   'C' u32 size, bytes                              → u16 checksum
 *   'B' u8 type, u8 flags, u32 id, u32 size, bytes   → u8 code (0: built), u32 size, the strict frame
 *   'b' the same                                     → the same, for the frame of the lenient reference
 *   'S' u32 size, bytes                              → the strict reading: answer below
 *   'L' u32 size, bytes                              → the lenient reading: answer below
 * A reading is: u8 header there, [u8 version, u8 type, u8 flags, u16 length, u32 id], u8 whole,
 * [u32 size, payload], u8 number of problems, each u8 code and u32 offset.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum code {
	TRUNCATED_HEADER = 1,
	TRUNCATED_PAYLOAD = 2,
	LENGTH_BELOW_HEADER = 3,
	PAYLOAD_TOO_LONG = 4,
	BAD_VERSION = 5,
	BAD_TYPE = 6,
	BAD_FLAGS = 7,
	BAD_CHECKSUM = 8,
	BAD_PAYLOAD = 9,
	BAD_ID = 12,
	BAD_PADDING = 13,
};

enum { KEEPALIVE = 0, EVENT = 1, HELLO = 3, WELCOME = 4, BYE = 12 };

enum { HEADER = 8, LONGEST = 65535, LONGEST_EVENT = 65480, CHECKSUM = 1, PADDED = 2 };

struct problem {
	uint8_t code;
	uint32_t offset;
};

static struct problem problems[16];
static int problem_count;

static void complain(enum code code, uint32_t offset)
{
	problems[problem_count].code = (uint8_t)code;
	problems[problem_count].offset = offset;
	problem_count++;
}

/* RFC 1071, in the plainest way: word by word, carry by carry. */
static uint16_t checksum(const uint8_t *bytes, uint32_t size)
{
	uint32_t sum = 0;

	for (uint32_t i = 0; i < size; i += 2) {
		sum += (uint32_t)bytes[i] << 8;
		if (i + 1 < size)
			sum += bytes[i + 1];
		if (sum > 0xffff)
			sum -= 0xffff;
	}
	return (uint16_t)~sum;
}

static void get(uint8_t *bytes, uint32_t size)
{
	if (size && fread(bytes, 1, size, stdin) != size)
		exit(1);
}

static uint8_t get8(void)
{
	uint8_t byte;

	get(&byte, 1);
	return byte;
}

static uint32_t get32(void)
{
	uint8_t b[4];

	get(b, 4);
	return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
}

static void put8(uint32_t value)
{
	putchar((int)(value & 0xff));
}

static void put16(uint32_t value)
{
	put8(value >> 8);
	put8(value);
}

static void put32(uint32_t value)
{
	put16(value >> 16);
	put16(value);
}

static void put(const uint8_t *bytes, uint32_t size)
{
	fwrite(bytes, 1, size, stdout);
}

static void put_header(uint8_t *frame, uint8_t type, uint8_t flags, uint32_t length, uint32_t id)
{
	frame[0] = (uint8_t)(1 << 4 | (type & 15));
	frame[1] = flags;
	frame[2] = (uint8_t)(length >> 8);
	frame[3] = (uint8_t)length;
	frame[4] = (uint8_t)(id >> 24);
	frame[5] = (uint8_t)(id >> 16);
	frame[6] = (uint8_t)(id >> 8);
	frame[7] = (uint8_t)id;
}

static void build(int strict)
{
	uint8_t type = get8(), flags = get8();
	uint32_t id = get32(), size = get32();
	uint8_t *frame = calloc(1, (size_t)HEADER + size + 3);
	uint32_t length = HEADER + size;
	int code = 0;

	get(frame + HEADER, size);
	if (strict) {
		if ((type & 15) > BYE)
			code = BAD_TYPE;
		else if ((flags & ~(CHECKSUM | PADDED)) || flags == PADDED)
			code = BAD_FLAGS;
		if (flags & CHECKSUM) {
			uint32_t pad = size % 2;
			flags = pad ? CHECKSUM | PADDED : CHECKSUM;
			length += pad + 2;
		}
	}
	if (!code && (length > LONGEST || (strict && (type & 15) == EVENT && length > LONGEST_EVENT)))
		code = PAYLOAD_TOO_LONG;
	put8((uint32_t)code);
	if (code) {
		put32(0);
	} else {
		put_header(frame, type, flags, length, id);
		if (strict && (flags & CHECKSUM)) {
			uint16_t sum = checksum(frame, length - 2);
			frame[length - 2] = (uint8_t)(sum >> 8);
			frame[length - 1] = (uint8_t)sum;
		}
		put32(length);
		put(frame, length);
	}
	free(frame);
}

static void read_frame(int strict)
{
	uint32_t there = get32(), length = 0, id = 0, end = 0;
	uint8_t *frame = malloc((size_t)there + 1);
	uint8_t version = 0, type = 0, flags = 0;
	int whole = 0;

	get(frame, there);
	problem_count = 0;
	if (there < HEADER) {
		complain(TRUNCATED_HEADER, there);
	} else {
		version = frame[0] >> 4;
		type = frame[0] & 15;
		flags = frame[1];
		length = (uint32_t)frame[2] << 8 | frame[3];
		id = (uint32_t)frame[4] << 24 | (uint32_t)frame[5] << 16 | (uint32_t)frame[6] << 8 | frame[7];
		if (length < HEADER)
			complain(LENGTH_BELOW_HEADER, 2);
		else if (length > there)
			complain(TRUNCATED_PAYLOAD, there);
		else
			whole = 1;
	}
	if (strict && there >= HEADER) {
		if (version != 1)
			complain(BAD_VERSION, 0);
		if (type > BYE)
			complain(BAD_TYPE, 0);
		if ((flags & ~(CHECKSUM | PADDED)) || flags == PADDED)
			complain(BAD_FLAGS, 1);
		if (id && (type == KEEPALIVE || type == HELLO || type == WELCOME))
			complain(BAD_ID, 4);
	}
	end = length;
	if (strict && whole) {
		if (type == EVENT && length > LONGEST_EVENT)
			complain(PAYLOAD_TOO_LONG, 2);
		if (flags & CHECKSUM) {
			uint32_t pad = flags & PADDED ? 1 : 0;
			if (length < HEADER + pad + 2) {
				complain(BAD_CHECKSUM, HEADER);
				end = HEADER;
			} else {
				uint16_t sum = checksum(frame, length - 2);
				end = length - 2 - pad;
				if (pad && frame[length - 3])
					complain(BAD_PADDING, length - 3);
				if (pad && length % 2)
					complain(BAD_PADDING, length - 3);
				if (frame[length - 2] != sum >> 8 || frame[length - 1] != (sum & 0xff))
					complain(BAD_CHECKSUM, length - 2);
			}
		}
		if (type == KEEPALIVE && end > HEADER)
			complain(BAD_PAYLOAD, HEADER);
	}
	put8(there >= HEADER);
	if (there >= HEADER) {
		put8(version);
		put8(type);
		put8(flags);
		put16(length);
		put32(id);
	}
	put8((uint32_t)whole);
	if (whole) {
		put32(end - HEADER);
		put(frame + HEADER, end - HEADER);
	}
	put8((uint32_t)problem_count);
	for (int i = 0; i < problem_count; i++) {
		put8(problems[i].code);
		put32(problems[i].offset);
	}
	free(frame);
}

int main(void)
{
	int request;

	while ((request = getchar()) != EOF) {
		if (request == 'C') {
			uint32_t size = get32();
			uint8_t *bytes = malloc((size_t)size + 1);
			get(bytes, size);
			put16(checksum(bytes, size));
			free(bytes);
		} else if (request == 'B' || request == 'b') {
			build(request == 'B');
		} else if (request == 'S' || request == 'L') {
			read_frame(request == 'S');
		} else {
			return 1;
		}
	}
	return 0;
}
