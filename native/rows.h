/* Rows: events that lie in several pieces of memory, in any order. */
#ifndef KWIRE_ROWS_H
#define KWIRE_ROWS_H

#include "common.h"

/* Where frames lie. */
struct piece {
	const uint8_t *data;
	uint64_t size;
};

/* Rows: the frame of each begins at byte at[i] of piece of[i], and has ends[i] bytes without its trailer. */
struct rows {
	const struct piece *pieces;
	uint64_t piece_count, count;
	const uint32_t *of;
	const uint64_t *at;
	const uint32_t *ends;
};

/* The `width` bytes at byte `at` of row i; NULL: they are not inside its piece. */
static inline const uint8_t *row_bytes(const struct rows *rows, uint64_t i, uint64_t at, uint64_t width)
{
	if (rows->of[i] >= rows->piece_count)
		return NULL;
	const struct piece *piece = rows->pieces + rows->of[i];
	uint64_t start = rows->at[i];
	if (start > piece->size || at > piece->size - start || width > piece->size - start - at)
		return NULL;
	return piece->data + start + at;
}

#endif
