/* IP packets put together again: fragments.Fragments. */
#include "engine.h"

static uint8_t *bytes_of(struct engine *e, uint64_t at) { return e->fragment_slabs + at * FRAGMENT_SLAB; }
static uint8_t *starts_of(struct engine *e, uint64_t at) { return bytes_of(e, at) + FRAGMENT_DATA; }
static uint8_t *there_of(struct engine *e, uint64_t at) { return starts_of(e, at) + FRAGMENT_UNITS / 8; }

static inline int bit(const uint8_t *map, uint32_t at) { return map[at >> 3] >> (at & 7) & 1; }

static uint32_t bucket_of(const struct engine *e, const uint64_t *key)
{
	uint64_t hash = e->seed;

	for (int i = 0; i < 5; i++)
		hash = (hash ^ key[i]) * 0x9e3779b97f4a7c15u, hash ^= hash >> 32;
	return (uint32_t)(hash % FRAGMENT_BUCKETS);
}

/* Forgets the packet; its bytes stay until another takes its place. */
static void drop(struct engine *e, uint32_t at)
{
	struct fragmented *one = &e->fragments[at];
	uint32_t *link = &e->fragment_buckets[bucket_of(e, one->key)];

	while (*link != at)
		link = &e->fragments[*link].bucket;
	*link = one->bucket;
	if (one->older)
		e->fragments[one->older].newer = one->newer;
	else
		e->fragment_oldest = one->newer;
	if (one->newer)
		e->fragments[one->newer].older = one->older;
	else
		e->fragment_newest = one->older;
	e->fragment_bytes -= one->bytes;
	e->fragment_count--;
	one->bucket = (uint32_t)e->fragment_free;
	e->fragment_free = at;
}

static uint32_t find(struct engine *e, const uint64_t *key)
{
	uint32_t *bucket = &e->fragment_buckets[bucket_of(e, key)], at = *bucket;

	while (at && memcmp(e->fragments[at].key, key, sizeof e->fragments[at].key))
		at = e->fragments[at].bucket;
	if (at)
		return at;
	at = e->fragment_free ? (uint32_t)e->fragment_free : (uint32_t)++e->fragment_used;
	if (e->fragment_free)
		e->fragment_free = e->fragments[at].bucket;
	struct fragmented *one = &e->fragments[at];
	memset(one, 0, sizeof *one);
	memcpy(one->key, key, sizeof one->key);
	memset(starts_of(e, at), 0, 2 * FRAGMENT_UNITS / 8);
	one->bucket = *bucket;
	*bucket = at;
	one->older = (uint32_t)e->fragment_newest;
	if (one->older)
		e->fragments[one->older].newer = at;
	else
		e->fragment_oldest = at;
	e->fragment_newest = at;
	e->fragment_count++;
	return at;
}

static int add(struct engine *e, uint32_t at, uint32_t place, int more, const uint8_t *p, uint64_t size)
{
	struct fragmented *one = &e->fragments[at];
	uint8_t *starts = starts_of(e, at), *there = there_of(e, at);
	uint64_t end = place + size;

	if (end > 65535 || (more && size % 8))
		return 0;
	if (!more) {
		if (one->known && one->length != end)
			return 0;
		if (one->reach > end)
			return 0;
		one->known = 1;
		one->length = (uint32_t)end;
	}
	if (one->known && end > one->length)
		return 0;
	if (!size)
		return 1;
	uint32_t first = place / 8, last = (uint32_t)((end + 7) / 8), covered = 0;
	for (uint32_t unit = first; unit < last; unit++)
		covered += (uint32_t)bit(there, unit);
	if (covered) { /* the same again, or an overlap */
		if (covered != last - first || !bit(starts, first))
			return 0;
		for (uint32_t unit = first + 1; unit < last; unit++)
			if (bit(starts, unit))
				return 0;
		if (last < FRAGMENT_UNITS && bit(there, last) && !bit(starts, last))
			return 0;
		return !memcmp(bytes_of(e, at) + place, p, size);
	}
	starts[first >> 3] |= (uint8_t)(1 << (first & 7));
	for (uint32_t unit = first; unit < last; unit++)
		there[unit >> 3] |= (uint8_t)(1 << (unit & 7));
	memmove(bytes_of(e, at) + place, p, size); /* a fragment of a fragment may lie in this very slab */
	if (one->reach < end)
		one->reach = (uint32_t)end;
	one->bytes += (uint32_t)size;
	e->fragment_bytes += size;
	return 1;
}

static void trim(struct engine *e)
{
	while (e->fragment_count > MAX_FRAGMENT_PACKETS || e->fragment_bytes > MAX_FRAGMENTED) {
		uint32_t oldest = (uint32_t)e->fragment_oldest;
		e->fragments_missing += !e->fragments[oldest].bad;
		drop(e, oldest);
	}
}

/*
 * Takes a fragment: the number of the packet that is whole now (its bytes lie in its slab until the next fragment), or
 * 0. *sound: it does not contradict the others.
 */
uint32_t kw_fragment(struct engine *e, const uint64_t *key, uint32_t place, int more, const uint8_t *p, uint64_t size,
		     int *sound)
{
	uint32_t at = find(e, key);
	struct fragmented *one = &e->fragments[at];

	*sound = 0;
	if (!one->bad && !add(e, at, place, more, p, size)) {
		e->fragment_bytes -= one->bytes;
		one->bytes = 0;
		one->bad = 1;
	}
	*sound = !one->bad;
	int whole = *sound && one->known && one->bytes == one->length;
	if (whole)
		drop(e, at);
	trim(e);
	return whole ? at : 0;
}
