/* The packets of pcap and pcapng files as rows. */
#include "engine.h"

static inline uint32_t read32(const uint8_t *p, uint64_t swap)
{
	uint32_t value = host32(p);
	return swap ? __builtin_bswap32(value) : value;
}

/* Ticks as ns, modulo 2^64. */
static inline uint64_t nanoseconds(uint64_t ticks, const struct interface *one)
{
	uint64_t ns = one->offset * 1000000000u;

	if (one->rate == 1000000000u)
		return ns + ticks;
	if (one->rate == 1000000u)
		return ns + ticks * 1000u;
	return one->rate ? ns + (uint64_t)((unsigned __int128)ticks * 1000000000u / one->rate) : ns;
}

/*
 * The records of a pcap file in data[offset, end), whose link type and ticks a second are those of the interface.
 * *next is where the first record begins that is cut or impossible.
 */
uint64_t kw_pcap_rows(const uint8_t *data, uint64_t size, uint64_t offset, uint64_t end, uint64_t swap,
		      struct interface *interfaces, uint64_t count, struct row *rows, uint64_t limit, uint64_t *next)
{
	uint64_t found = 0;

	if (end > size)
		end = size;
	while (count && found < limit && offset <= end && end - offset >= RECORD_HEADER) {
		const uint8_t *record = data + offset;
		uint32_t captured = read32(record + 8, swap), original = read32(record + 12, swap);
		if (interfaces->told == LENGTHS_SWAPPED || (interfaces->told == LENGTHS_EITHER && captured > original)) {
			uint32_t other = captured;
			captured = original;
			original = other;
		}
		if (captured > MAX_PACKET || captured > end - offset - RECORD_HEADER)
			break;
		uint64_t ticks = (uint64_t)read32(record, swap) * interfaces->rate + read32(record + 4, swap);
		rows[found++] = (struct row){ .offset = offset + RECORD_HEADER,
					      .time = nanoseconds(ticks, interfaces),
					      .captured = captured,
					      .original = original,
					      .link = (uint32_t)interfaces->link,
					      .head = RECORD_HEADER };
		offset += RECORD_HEADER + captured;
	}
	*next = offset;
	return found;
}

/*
 * The same for the packet blocks of a pcapng section, enhanced and simple. Statistics of an interface are noted in
 * it, the last ones only; other blocks that hold no packets are passed. Stops before a section header, an interface,
 * an obsolete packet, a packet of frames as they are, and whatever is cut or not sound. `snaplen`: of interface 0.
 */
uint64_t kw_pcapng_rows(const uint8_t *data, uint64_t size, uint64_t offset, uint64_t end, uint64_t swap,
			struct interface *interfaces, uint64_t count, uint64_t snaplen, struct row *rows,
			uint64_t limit, uint64_t *next)
{
	uint64_t found = 0;

	if (end > size)
		end = size;
	while (found < limit && offset <= end && end - offset >= 12) {
		const uint8_t *block = data + offset;
		uint32_t type = read32(block, swap), total = read32(block + 4, swap);
		if (type == EPB_SECTION || type == EPB_INTERFACE || type == EPB_OLD)
			break;
		if (total < 12 || (total & 3) || total > MAX_PACKET || total > end - offset ||
		    memcmp(block + 4, block + total - 4, 4))
			break;
		if (type == EPB_TYPE) {
			if (total < EPB_OVERHEAD)
				break;
			uint32_t interface = read32(block + 8, swap), captured = read32(block + 20, swap);
			if (interface >= count || captured > total - EPB_OVERHEAD ||
			    interfaces[interface].link == LINK_USER0)
				break;
			uint64_t ticks = (uint64_t)read32(block + 12, swap) << 32 | read32(block + 16, swap);
			rows[found++] = (struct row){ .offset = offset + EPB_HEADER,
						      .time = nanoseconds(ticks, interfaces + interface),
						      .captured = captured,
						      .original = read32(block + 24, swap),
						      .link = (uint32_t)interfaces[interface].link,
						      .head = EPB_HEADER };
		} else if (type == EPB_SIMPLE) {
			if (total < 16 || !count || interfaces->link == LINK_USER0)
				break;
			uint64_t original = read32(block + 8, swap), captured = original;
			if (snaplen && captured > snaplen)
				captured = snaplen;
			if (captured > total - 16)
				captured = total - 16;
			rows[found++] = (struct row){ .offset = offset + SIMPLE_HEADER,
						      .time = NO_TIME,
						      .captured = (uint32_t)captured,
						      .original = (uint32_t)original,
						      .link = (uint32_t)interfaces->link,
						      .head = SIMPLE_HEADER };
		} else if (type == EPB_STATISTICS) {
			if (total < 24)
				break;
			uint32_t interface = read32(block + 8, swap);
			if (interface < count)
				interfaces[interface].told = offset + 1;
		}
		offset += total;
	}
	*next = offset;
	return found;
}
