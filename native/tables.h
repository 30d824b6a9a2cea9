/* Made by scripts/native_tables.py from the tables that Python uses; do not edit. */
#ifndef KWIRE_TABLES_H
#define KWIRE_TABLES_H

#define FRAME_VERSION 1u
#define FRAME_HEADER 8u
#define FRAME_FLAGS_AT 1u
#define FRAME_LENGTH_AT 2u
#define FRAME_ID_AT 4u
#define EVENT_HEADER 16u
#define EVENT_TIME_AT 8u
#define EVENT_MAX 65480u
#define TAIL_MAX 32767u
#define TAIL_CUT 32768u
#define MAX_FIELD_BYTES 261920u
#define NO_EVENT 255u
#define MAX_PACKET 16777216u
#define MAX_TAGS 8u
#define MAX_EXTENSIONS 16u
#define MAX_FRAGMENTED 4194304u
#define MAX_FRAGMENT_PACKETS 1024u
#define MAX_STREAM_HELD 8388608u
#define MAX_SEGMENTS 8192u
#define MAX_WAIT 3000000000u
#define JOINED 16u
#define JOIN_WAIT 200000000u
#define LOOKED_AT 262144u
#define GIVEN 16u
#define SPAN 65536u
#define MAX_CONTROL 4096u
#define CHAIN 2u
#define MAX_PARTS 512u
#define MAX_DATA_HELD 8388608u
#define PART_COST 24u
#define HELD 33554432u
#define RING_HEADER 8u
#define RING_BUSY 2147483648u
#define RING_DISCARD 1073741824u
#define RING_LENGTH 1073741823u
#define EPB_HEADER 28u
#define EPB_OVERHEAD 32u
#define EPB_DROPCOUNT 4u
#define DROPCOUNT_SPACE 16u
#define ROW_WALL 0u
#define ROW_SWAP 1u
#define ROW_STORED 2u
#define ROW_DROPS 3u
#define ROW_WORDS 4u
#define COUNT_EVENTS 0u
#define COUNT_FIRST 1u
#define COUNT_LAST 2u
#define COUNT_WORDS 3u
#define FIELD_WORDS 4u
#define LINE_WORDS 4u
#define PART_WORDS 9u
#define PART_TEXT 0u
#define PART_INTEGER 1u
#define PART_CHARACTER 2u
#define PART_TAIL 3u
#define PART_FIXED 4u
#define PART_BOOL 5u
#define PART_TIME 6u
#define PART_NANOSECONDS 7u
#define PART_GIVEN 8u
#define STYLE_JSON 1u
#define STYLE_CELL 2u
#define STYLE_HEX 3u
#define STYLE_JSON_HEX 4u
#define STYLE_CUT 5u
#define FLAG_LEFT 1u
#define FLAG_ZERO 2u
#define FLAG_PLUS 4u
#define FLAG_SPACE 8u
#define FLAG_FORM 16u
#define FLAG_SWAP 32u
#define TOGETHER 16u
#define BIT_LENGTHS 65u
#define SUMS 6u
#define TEXT_TAIL 0u
#define TEXT_FIXED 1u
#define TEXT_RAW 2u
#define RECORD_HEADER 16u
#define SIMPLE_HEADER 12u
#define LENGTHS_SWAPPED 1u
#define LENGTHS_EITHER 2u
#define NO_TIME 18446744073709551615llu
#define FIN 1u
#define SYN 2u
#define RST 4u

#define CODES 64u
#define CODE_TROUBLE 16u
#define MAX_SPECIALS 64u
#define MAX_PLACES 512u
#define FAMILIES 64u
#define TALLY_PROTOCOL 65536u
#define TALLY_FRAGMENT 65792u
#define TALLY_WORDS 65793u
#define SCHEMA_MARK 2147483648u
#define ALONE_MARK 1073741824u
#define SEVERAL 18446744073709551615llu
#define OUT_FULL 4194304u
#define MARKS 128u
#define MARKED 8u
#define LYING 64u
#define FOUND_FULL 65536u
#define RESERVE 50331648u
#define FRAGMENT_DATA 65536u
#define FRAGMENT_UNITS 8192u
#define FRAGMENT_SLAB 67584u
#define FRAGMENT_BUCKETS 2048u
#define SLAB 90112u
#define SLAB_KINDS 4u
#define CHUNK 16384u
#define BUILDING 8u
#define BUILD_LEAST 64u
#define BUILD_FULL 16777216u
#define STARTS_COUNTED 2u
#define SECRETS 64u

#define VARIANT_PLAIN 0u
#define VARIANT_FLOW 1u
#define VARIANT_BYTES 2u
#define VARIANT_ENDS 3u
#define VARIANT_ANEW 4u
#define VARIANT_FRAME 5u
#define VARIANT_HELD 6u

#define WHY_DONE 0u
#define WHY_FULL 1u
#define WHY_CALL 2u
#define WHY_ROOM 3u

#define ROLE_NONE 0u
#define ROLE_SOURCE 1u
#define ROLE_SINK 2u

#define TYPE_KEEPALIVE 0u
#define TYPE_EVENT 1u
#define TYPE_DATA 2u
#define TYPE_HELLO 3u
#define TYPE_WELCOME 4u
#define TYPE_ACK 5u
#define TYPE_SCHEMA 6u
#define TYPE_LOST 7u
#define TYPE_TABLE 8u
#define TYPE_REQUEST 9u
#define TYPE_REPLY 10u
#define TYPE_ERROR 11u
#define TYPE_BYE 12u
#define TYPE_MAX 12u
#define TYPES_WITHOUT_ID 0x19u
#define TYPES_WRAPPED 0x1c2u
#define TYPES_OF_MAPS 0x1e18u

#define FLAG_CHECKSUM 1u
#define FLAG_PADDED 2u

#define CODE_TRUNCATED_HEADER 1u
#define CODE_TRUNCATED_PAYLOAD 2u
#define CODE_LENGTH_BELOW_HEADER 3u
#define CODE_PAYLOAD_TOO_LONG 4u
#define CODE_BAD_VERSION 5u
#define CODE_BAD_TYPE 6u
#define CODE_BAD_FLAGS 7u
#define CODE_BAD_CHECKSUM 8u
#define CODE_BAD_PAYLOAD 9u
#define CODE_UNKNOWN_SCHEMA 10u
#define CODE_ILLEGAL_TRANSITION 11u
#define CODE_BAD_ID 12u
#define CODE_BAD_PADDING 13u
#define CODE_FAILED 14u
#define CODE_COUNT 16u

#define TROUBLE_PACKET_CUT 0u
#define TROUBLE_UNKNOWN_LINK 1u
#define TROUBLE_BAD_LINK_HEADER 2u
#define TROUBLE_BAD_IP_HEADER 3u
#define TROUBLE_BAD_IP_CHECKSUM 4u
#define TROUBLE_BAD_UDP_HEADER 5u
#define TROUBLE_BAD_TCP_HEADER 6u
#define TROUBLE_BAD_UDP_CHECKSUM 7u
#define TROUBLE_BAD_TCP_CHECKSUM 8u
#define TROUBLE_BAD_FRAGMENT 9u
#define TROUBLE_FRAGMENTS_MISSING 10u
#define TROUBLE_TCP_GAP 11u
#define TROUBLE_TCP_CONFLICT 12u
#define TROUBLE_NOT_FRAMES 13u
#define TROUBLE_ENCRYPTED 14u
#define TROUBLE_DATA_MISSING 15u
#define TROUBLE_TOO_MANY_FLOWS 16u
#define TROUBLE_TOO_DEEP 17u
#define TROUBLE_COUNT 18u

#define REMARK_CHECKSUM_OFFLOAD 0u
#define REMARK_CHECKSUM_NONE 1u
#define REMARK_SEGMENT_OFFLOAD 2u
#define REMARK_RETRANSMISSION 3u
#define REMARK_DATA_AGAIN 4u
#define REMARK_REORDERED 5u
#define REMARK_COUNT 6u

#define LINK_NULL 0u
#define LINK_ETHERNET 1u
#define LINK_RAW_BSD 12u
#define LINK_RAW_OPENBSD 14u
#define LINK_RAW 101u
#define LINK_LOOP 108u
#define LINK_LINUX_SLL 113u
#define LINK_USER0 147u
#define LINK_IPV4 228u
#define LINK_IPV6 229u
#define LINK_LINUX_SLL2 276u

#define ETHERTYPE_IPV4 2048u
#define ETHERTYPE_VLAN 33024u
#define ETHERTYPE_IPV6 34525u
#define ETHERTYPE_QINQ 34984u
#define ETHERTYPE_QINQ_OLD 37120u

#define PROTOCOL_HOP_BY_HOP 0u
#define PROTOCOL_TCP 6u
#define PROTOCOL_UDP 17u
#define PROTOCOL_ROUTING 43u
#define PROTOCOL_FRAGMENT 44u
#define PROTOCOL_AH 51u
#define PROTOCOL_NO_NEXT 59u
#define PROTOCOL_DESTINATION 60u
#define PROTOCOL_MOBILITY 135u
#define PROTOCOL_HIP 139u
#define PROTOCOL_SHIM6 140u

#define EPB_TYPE 6u
#define EPB_SIMPLE 3u
#define EPB_INTERFACE 1u
#define EPB_OLD 2u
#define EPB_STATISTICS 5u
#define EPB_SECTION 168627466u

#define FAMILY_IPV4(family) ((family) == 2u)
#define FAMILY_IPV6(family) ((family) == 10u || (family) == 24u || (family) == 28u || (family) == 30u)
#define IS_EXTENSION(protocol) ((protocol) == 0u || (protocol) == 43u || (protocol) == 60u || (protocol) == 135u || (protocol) == 139u || (protocol) == 140u)
#define IS_VLAN(kind) ((kind) == 0x8100u || (kind) == 0x88a8u || (kind) == 0x9100u)

#endif
