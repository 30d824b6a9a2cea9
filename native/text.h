/* Pieces of lines of text: digits of numbers, short copies. */
#ifndef KWIRE_TEXT_H
#define KWIRE_TEXT_H

#include "common.h"

#define MOST_DIGITS 24u /* bytes that `write_number` may write to; 20 of them are digits at most */

/* Copies few bytes, as pieces of a line are, without a call: its two ends as whole numbers, which may overlap. */
static inline void copy(uint8_t *to, const uint8_t *from, uint64_t size)
{
	if (size > 32) {
		memcpy(to, from, size);
	} else if (size >= 16) {
		memcpy(to, from, 16);
		memcpy(to + size - 16, from + size - 16, 16);
	} else if (size >= 8) {
		memcpy(to, from, 8);
		memcpy(to + size - 8, from + size - 8, 8);
	} else if (size >= 4) {
		memcpy(to, from, 4);
		memcpy(to + size - 4, from + size - 4, 4);
	} else if (size) {
		to[0] = from[0];
		to[size / 2] = from[size / 2];
		to[size - 1] = from[size - 1];
	}
}

/*
 * The eight digits of a number below 10^8, each in a byte of a word, of which the lowest is the first. Fours, pairs and
 * digits are parted side by side.
 */
static inline uint64_t eight_digits(uint32_t value)
{
	uint64_t word = value / 10000 | (uint64_t)(value % 10000) << 32, high;

	high = (word * 10486) >> 20 & 0x0000007f0000007fu; /* n / 100, for n below 10^4 */
	word = high | (word - 100 * high) << 16;
	high = (word * 103) >> 10 & 0x000f000f000f000fu; /* n / 10, for n below 100 */
	return high | (word - 10 * high) << 8;
}

/* Puts down a word's bytes, the lowest first. */
static inline void put_word(uint8_t *p, uint64_t word)
{
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
	word = __builtin_bswap64(word);
#endif
	memcpy(p, &word, 8);
}

/* Writes a number below 10^8 with all eight digits. Gives where it ends. */
static inline uint8_t *write_eight(uint8_t *p, uint32_t value)
{
	put_word(p, eight_digits(value) | 0x3030303030303030u);
	return p + 8;
}

/* The digits of a number below 10^8 in a word, of which the lowest byte is the first, and how many these are. */
static inline uint64_t short_number(uint32_t value, uint64_t *count)
{
	if (value < 10) {
		*count = 1;
		return '0' + value;
	}
	uint64_t word = eight_digits(value), zeros = (uint64_t)__builtin_ctzll(word) / 8;
	*count = 8 - zeros;
	return (word | 0x3030303030303030u) >> 8 * zeros;
}

/* Writes a number; MOST_DIGITS bytes are to write to. Gives where it ends. */
static inline uint8_t *write_number(uint8_t *p, uint64_t value)
{
	uint32_t low = 0, middle = 0;
	uint64_t more = 0, count;

	for (; value >= 100000000; value /= 100000000, more++) {
		middle = low;
		low = (uint32_t)(value % 100000000);
	}
	put_word(p, short_number((uint32_t)value, &count));
	p += count;
	if (more)
		p = write_eight(p, low);
	if (more > 1)
		p = write_eight(p, middle);
	return p;
}

#endif
