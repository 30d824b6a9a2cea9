/* One packet taken apart, from its link header to the datagram or segment in it: dissect.Dissector. */
#include "engine.h"

/* The packet cannot be read on; one that is cut as well is said to be both. */
static int stop(struct engine *e, uint32_t trouble)
{
	kw_trouble(e, trouble, VARIANT_PLAIN, 0, 0, 0);
	if (e->cut && trouble != TROUBLE_PACKET_CUT && trouble != TROUBLE_UNKNOWN_LINK)
		kw_trouble(e, TROUBLE_PACKET_CUT, VARIANT_PLAIN, 0, 0, 0);
	return 0;
}

/* Bytes are missing: the packet is cut, or else it is bad. */
static int lacks(struct engine *e, uint32_t bad) { return stop(e, e->cut ? TROUBLE_PACKET_CUT : bad); }

static uint64_t least(uint64_t a, uint64_t b) { return a < b ? a : b; }

/* A part of a packet: bytes [at, end) of data. `final`: the address that the checksum counts. */
struct part {
	const uint8_t *data;
	uint64_t at, end;
	const uint8_t *source, *target, *final;
	uint32_t version, protocol;
};

/* Whether the checksum is right of a datagram or segment with a header of so many bytes. */
static int sound(struct engine *e, const struct part *part, uint64_t header)
{
	const uint8_t *p = part->data + part->at;
	uint64_t size = part->end - part->at, addresses = part->version == 4 ? 4 : 16;
	uint64_t pseudo = sum_words(part->source, addresses) + sum_words(part->final, addresses) +
			  in_packet(part->protocol);
	uint64_t whole = pseudo + in_packet(size >> 16) + in_packet(size & 0xffff);
	uint16_t found;

	memcpy(&found, p + (part->protocol == PROTOCOL_UDP ? 6 : 16), 2);
	if (!found && part->protocol == PROTOCOL_UDP) {
		kw_remark(e, REMARK_CHECKSUM_NONE, 1);
		return 1;
	}
	e->summed = p + header;
	e->sum = sum_words(p + header, size - header);
	if (fold(sum_words(p, header) + e->sum + whole) == 0xffff)
		return 1;
	if (!found || found == fold(whole) || found == fold(pseudo)) {
		kw_remark(e, REMARK_CHECKSUM_OFFLOAD, 1);
		return 1;
	}
	return 0;
}

static int transport(struct engine *e, struct part *part)
{
	uint32_t udp = part->protocol == PROTOCOL_UDP, bad = udp ? TROUBLE_BAD_UDP_HEADER : TROUBLE_BAD_TCP_HEADER;

	if (!udp && part->protocol != PROTOCOL_TCP) {
		e->tally[TALLY_PROTOCOL + part->protocol]++;
		return 0;
	}
	const uint8_t *p = part->data + part->at;
	uint64_t there = part->end - part->at, size = 8;
	if (part->end < part->at || there < (udp ? 8 : 20))
		return lacks(e, bad);
	if (!e->any_port && !kw_on_port(e, big16(p), big16(p + 2))) {
		e->tally[TALLY_PROTOCOL + part->protocol]++;
		return 0;
	}
	if (udp) {
		uint64_t length = big16(p + 4);
		if (length && (length < 8 || length > there + e->cut))
			return stop(e, bad);
		if (length) {
			e->cut = least(e->cut, length > there ? length - there : 0);
			part->end = least(part->at + length, part->end);
		}
	} else {
		size = (uint64_t)(p[12] >> 4) * 4;
		if (size < 20)
			return stop(e, bad);
		if (size > there)
			return lacks(e, bad);
	}
	if (!e->cut && !sound(e, part, size))
		return stop(e, udp ? TROUBLE_BAD_UDP_CHECKSUM : TROUBLE_BAD_TCP_CHECKSUM);
	if (e->cut)
		kw_trouble(e, TROUBLE_PACKET_CUT, VARIANT_PLAIN, 0, 0, 0);
	return kw_segment(e, part->version, part->protocol, part->source, part->target, p, p + size,
			  part->end - part->at - size);
}

/* Where a packet that says `total` bytes ends; 0 where that cannot be. */
static uint64_t end_of(struct engine *e, uint64_t size, uint64_t at, uint64_t total, uint64_t minimum)
{
	uint64_t there = size - at;

	if (!total) {
		kw_remark(e, REMARK_SEGMENT_OFFLOAD, 1);
		return size;
	}
	if (total < minimum || total > there + e->cut) {
		stop(e, TROUBLE_BAD_IP_HEADER);
		return 0;
	}
	e->cut = total > there ? total - there : 0;
	return least(at + total, size);
}

/* The whole packet that this fragment completes, in its slab; 0 where there is none yet. */
static uint32_t fragment(struct engine *e, const struct part *part, const uint64_t *key, uint32_t place, int more)
{
	int fits;

	if (e->cut) {
		kw_trouble(e, TROUBLE_PACKET_CUT, VARIANT_PLAIN, 0, 0, 0);
		return 0;
	}
	uint64_t there = part->end > part->at ? part->end - part->at : 0;
	uint32_t whole = kw_fragment(e, key, place, more, part->data + part->at, there, &fits);
	if (!fits)
		stop(e, TROUBLE_BAD_FRAGMENT);
	else if (!whole)
		e->tally[TALLY_FRAGMENT]++;
	return whole;
}

static void put_together(struct engine *e, struct part *part, uint32_t whole)
{
	part->data = e->fragment_slabs + (uint64_t)whole * FRAGMENT_SLAB;
	part->at = 0;
	part->end = e->fragments[whole].length;
}

static int ipv4(struct engine *e, const uint8_t *data, uint64_t size, uint64_t at)
{
	const uint8_t *ip = data + at;

	if (size - at < 20)
		return lacks(e, TROUBLE_BAD_IP_HEADER);
	uint64_t header = (uint64_t)(ip[0] & 15) * 4;
	if (ip[0] >> 4 != 4 || header < 20)
		return stop(e, TROUBLE_BAD_IP_HEADER);
	if (header > size - at)
		return lacks(e, TROUBLE_BAD_IP_HEADER);
	uint64_t end = end_of(e, size, at, big16(ip + 2), header);
	if (!end)
		return 0;
	if (!header_sound(ip, header)) {
		if (big16(ip + 10))
			return stop(e, TROUBLE_BAD_IP_CHECKSUM);
		kw_remark(e, REMARK_CHECKSUM_OFFLOAD, 1);
	}
	struct part part = { data, at + header, end, ip + 12, ip + 16, ip + 16, 4, ip[9] };
	uint32_t word = big16(ip + 6);
	if (word & (MORE_FRAGMENTS | FRAGMENT_OFFSET)) {
		uint64_t key[5] = { (uint64_t)4 << 56 | (uint64_t)ip[9] << 48 | big16(ip + 4), 0, 0, 0, 0 };
		memcpy(key + 1, ip + 12, 4);
		memcpy(key + 3, ip + 16, 4);
		uint32_t offset = (word & FRAGMENT_OFFSET) * 8;
		uint32_t whole = fragment(e, &part, key, offset, (word & MORE_FRAGMENTS) != 0);
		if (!whole)
			return 0;
		put_together(e, &part, whole);
	}
	return transport(e, &part);
}

static int ipv6(struct engine *e, const uint8_t *data, uint64_t size, uint64_t at)
{
	const uint8_t *ip = data + at;

	if (size - at < 40)
		return lacks(e, TROUBLE_BAD_IP_HEADER);
	if (ip[0] >> 4 != 6)
		return stop(e, TROUBLE_BAD_IP_HEADER);
	uint64_t length = big16(ip + 4), end = end_of(e, size, at, length ? length + 40 : 0, 40);
	if (!end)
		return 0;
	struct part part = { data, at + 40, end, ip + 8, ip + 24, ip + 24, 6, ip[6] };
	for (uint32_t passed = 0; passed < MAX_EXTENSIONS; passed++) {
		const uint8_t *head = part.data + part.at;
		uint64_t there = part.end > part.at ? part.end - part.at : 0;
		if (IS_EXTENSION(part.protocol) || part.protocol == PROTOCOL_AH) {
			if (there < 8)
				return lacks(e, TROUBLE_BAD_IP_HEADER);
			uint64_t unit = part.protocol == PROTOCOL_AH ? 4 : 8;
			uint64_t bytes = ((uint64_t)head[1] + (unit == 4 ? 2 : 1)) * unit;
			if (bytes > there)
				return lacks(e, TROUBLE_BAD_IP_HEADER);
			if (part.protocol == PROTOCOL_ROUTING && head[3] && bytes >= 24) {
				if (head[2] == 4)
					part.final = head + 8;
				else if (head[2] == 0 && bytes % 16 == 8)
					part.final = head + bytes - 16;
			}
			part.protocol = head[0];
			part.at += bytes;
		} else if (part.protocol == PROTOCOL_FRAGMENT) {
			if (there < 8)
				return lacks(e, TROUBLE_BAD_IP_HEADER);
			uint32_t word = big16(head + 2);
			part.protocol = head[0];
			part.at += 8;
			if (!(word & (FRAGMENT_OFFSET_6 | MORE_FRAGMENTS_6)))
				continue;
			uint64_t key[5] = { (uint64_t)6 << 56 | big32(head + 4), 0, 0, 0, 0 };
			memcpy(key + 1, ip + 8, 32);
			uint32_t offset = word & FRAGMENT_OFFSET_6;
			uint32_t whole = fragment(e, &part, key, offset, (word & MORE_FRAGMENTS_6) != 0);
			if (!whole)
				return 0;
			put_together(e, &part, whole);
		} else {
			return transport(e, &part);
		}
	}
	return stop(e, TROUBLE_TOO_DEEP);
}

static int other_family(struct engine *e, uint32_t family)
{
	for (uint64_t at = 0; at < FAMILIES; at++) {
		if (at == e->family_count) {
			e->families[2 * at] = family;
			e->families[2 * at + 1] = 0;
			e->family_count++;
		}
		if (e->families[2 * at] == family || at == FAMILIES - 1) {
			e->families[2 * at + 1]++;
			return 0;
		}
	}
	return 0;
}

/* Takes a packet: 1 where Python has to be asked before it is done. */
int kw_packet(struct engine *e, const struct row *row)
{
	const uint8_t *p = e->data + row->offset;
	uint64_t size = row->captured, at;
	uint32_t kind;

	e->cut = row->original > row->captured ? row->original - row->captured : 0;
	e->summed = NULL;
	switch (row->link) {
	case LINK_USER0:
		return kw_raw(e, p, size);
	case LINK_ETHERNET:
		if (size < 14)
			return lacks(e, TROUBLE_BAD_LINK_HEADER);
		kind = big16(p + 12);
		at = 14;
		break;
	case LINK_LINUX_SLL:
		if (size < 16)
			return lacks(e, TROUBLE_BAD_LINK_HEADER);
		kind = big16(p + 14);
		at = 16;
		break;
	case LINK_LINUX_SLL2:
		if (size < 20)
			return lacks(e, TROUBLE_BAD_LINK_HEADER);
		kind = big16(p);
		at = 20;
		break;
	case LINK_NULL:
	case LINK_LOOP: {
		if (size < 4)
			return lacks(e, TROUBLE_BAD_LINK_HEADER);
		uint32_t family = big32(p);
		if (row->link == LINK_NULL && !FAMILY_IPV4(family) && !FAMILY_IPV6(family))
			family = __builtin_bswap32(family);
		if (!FAMILY_IPV4(family) && !FAMILY_IPV6(family))
			return other_family(e, family);
		kind = FAMILY_IPV4(family) ? ETHERTYPE_IPV4 : ETHERTYPE_IPV6;
		at = 4;
		break;
	}
	case LINK_RAW:
	case LINK_RAW_BSD:
	case LINK_RAW_OPENBSD:
	case LINK_IPV4:
	case LINK_IPV6:
		if (!size)
			return lacks(e, TROUBLE_BAD_IP_HEADER);
		kind = p[0] >> 4 == 6 ? ETHERTYPE_IPV6 : ETHERTYPE_IPV4;
		at = 0;
		break;
	default:
		return stop(e, TROUBLE_UNKNOWN_LINK);
	}
	for (uint32_t tags = 0; tags < MAX_TAGS && IS_VLAN(kind); tags++) {
		if (size - at < 4)
			return lacks(e, TROUBLE_BAD_LINK_HEADER);
		kind = big16(p + at + 2);
		at += 4;
	}
	if (IS_VLAN(kind))
		return stop(e, TROUBLE_TOO_DEEP);
	if (kind <= 1500 && size - at >= 8 && !memcmp(p + at, "\xaa\xaa\x03\0\0\0", 6)) {
		kind = big16(p + at + 6);
		at += 8;
	}
	if (kind == ETHERTYPE_IPV4)
		return ipv4(e, p, size, at);
	if (kind == ETHERTYPE_IPV6)
		return ipv6(e, p, size, at);
	e->tally[kind]++;
	return 0;
}
