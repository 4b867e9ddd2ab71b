/*
 * Headers as they are on the wire. Fields are naturally aligned, so that clang moves addresses by 64 bits; x86 and
 * arm64 do not mind where a frame begins.
 */
#pragma once

#define ETHERTYPE_IPV4 0x0800
#define ETHERTYPE_ARP  0x0806
#define ETHERTYPE_VLAN 0x8100
#define ETHERTYPE_IPV6 0x86dd
#define ETHERTYPE_LLDP 0x88cc

#define PROTOCOL_HOP_BY_HOP          0
#define PROTOCOL_ICMP                1
#define PROTOCOL_IPV4                4
#define PROTOCOL_TCP                 6
#define PROTOCOL_UDP                 17
#define PROTOCOL_DCCP                33
#define PROTOCOL_IPV6                41
#define PROTOCOL_ROUTING             43
#define PROTOCOL_FRAGMENT            44
#define PROTOCOL_GRE                 47
#define PROTOCOL_ESP                 50
#define PROTOCOL_AH                  51
#define PROTOCOL_ICMPV6              58
#define PROTOCOL_DESTINATION_OPTIONS 60
#define PROTOCOL_OSPF                89
#define PROTOCOL_PIM                 103
#define PROTOCOL_L2TP                115
#define PROTOCOL_SCTP                132
#define PROTOCOL_MOBILITY            135
#define PROTOCOL_UDP_LITE            136
#define PROTOCOL_HIP                 139
#define PROTOCOL_SHIM6               140

#define IPV4_FRAGMENT_OFFSET 0x1fff
#define IPV4_MORE_FRAGMENTS  0x2000
#define IPV4_DONT_FRAGMENT   0x4000
#define IPV6_FRAGMENT_OFFSET 0xfff8
#define IPV6_MORE_FRAGMENTS  0x0001
#define IPV4_MAPPED          0xffff /* ::ffff:0:0/96, third 32-bit word */
#define ECN_MASK             0x3
#define ECN_NOT_ECT          0x0
#define ECN_ECT_1            0x1
#define ECN_ECT_0            0x2
#define ECN_CE               0x3
#define DEFAULT_HOP_LIMIT    64

struct ethernet {
	__u8 destination[6];
	__u8 source[6];
	__be16 type;
};
_Static_assert(sizeof(struct ethernet) == 14, "ethernet");

struct vlan_tag {
	__be16 control;
	__be16 type;
};

struct arp {
	__be16 hardware_type;
	__be16 protocol_type;
	__u8 hardware_length;
	__u8 protocol_length;
	__be16 operation;
	__u8 sender_mac[6];
	__u8 sender[4];
	__u8 target_mac[6];
	__u8 target[4];
};
_Static_assert(sizeof(struct arp) == 28, "arp");

struct ipv4 {
	__u8 version_ihl;
	__u8 tos;
	__be16 total_length;
	__be16 id;
	__be16 fragment;
	__u8 ttl;
	__u8 protocol;
	__be16 checksum;
	__be32 source;
	__be32 destination;
};
_Static_assert(sizeof(struct ipv4) == 20, "ipv4");

struct ipv6 {
	__be32 version_class_label;
	__be16 payload_length;
	__u8 next_header;
	__u8 hop_limit;
	union address source;
	union address destination;
};
_Static_assert(sizeof(struct ipv6) == 40, "ipv6");

struct ipv6_fragment {
	__u8 next_header;
	__u8 reserved;
	__be16 offset;
	__be32 id;
};

/* RFC 8754 §2 */
struct segment_routing {
	__u8 next_header;
	__u8 hdr_ext_len; /* in 8 octets, without the first 8 */
	__u8 routing_type;
	__u8 segments_left;
	__u8 last_entry;
	__u8 flags;
	__be16 tag;
};
_Static_assert(sizeof(struct segment_routing) == 8, "segment_routing");
#define ROUTING_TYPE_SEGMENT_ROUTING 4

/*
 * Is the SRH behind the outer header well formed? Deviates: RFC 8754 §2.1, no TLVs; at most 8 segments. Others cross a
 * node, but cannot end there.
 */
static __always_inline bool is_srh_right(const struct segment_routing *srh, __u32 payload_length)
{
	__u32 last_entry = srh->last_entry;

	return srh->routing_type == ROUTING_TYPE_SEGMENT_ROUTING && last_entry < MAX_SEGMENTS &&
	       srh->hdr_ext_len == 2 * (last_entry + 1) && 8 + 8 * (__u32)srh->hdr_ext_len <= payload_length;
}

struct tcp {
	__be16 source_port;
	__be16 destination_port;
	__be32 sequence;
	__be32 acknowledgement;
	__u8 data_offset; /* high 4 bits, in 4 octets */
	__u8 flags;
	__be16 window;
	__be16 checksum;
	__be16 urgent;
};
_Static_assert(sizeof(struct tcp) == 20, "tcp");
#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

struct icmp {
	__u8 type;
	__u8 code;
	__be16 checksum;
	__be32 rest;
};
_Static_assert(sizeof(struct icmp) == 8, "icmp");

#define ICMP_ECHO_REPLY                  0
#define ICMP_DESTINATION_UNREACHABLE     3
#define ICMP_SOURCE_QUENCH               4
#define ICMP_REDIRECT                    5
#define ICMP_ECHO_REQUEST                8
#define ICMP_TIME_EXCEEDED               11
#define ICMP_PARAMETER_PROBLEM           12
/* Codes of "destination unreachable", RFC 792, RFC 1812 §5.2.7.1 */
#define ICMP_NET_UNREACHABLE             0
#define ICMP_HOST_UNREACHABLE            1
#define ICMP_FRAGMENTATION_NEEDED        4
#define ICMP_ADMINISTRATIVELY_PROHIBITED 13

#define ICMPV6_DESTINATION_UNREACHABLE     1
#define ICMPV6_PACKET_TOO_BIG              2
#define ICMPV6_TIME_EXCEEDED               3
#define ICMPV6_ECHO_REQUEST                128
#define ICMPV6_ECHO_REPLY                  129
#define ND_FIRST                           133
#define ND_NEIGHBOR_SOLICITATION           135
#define ND_NEIGHBOR_ADVERTISEMENT          136
#define ND_REDIRECT                        137
#define ND_LAST                            137
/* Codes of "destination unreachable", RFC 4443 §3.1 */
#define ICMPV6_NO_ROUTE                    0
#define ICMPV6_ADMINISTRATIVELY_PROHIBITED 1
#define ICMPV6_ADDRESS_UNREACHABLE         3

/* Neighbor solicitation or advertisement, RFC 4861 §4.3, §4.4; options follow. */
struct neighbor_message {
	struct icmp icmp; /* rest: flags */
	union address target;
};
#define ND_OPTIONS_OFFSET (sizeof(struct ipv6) + sizeof(struct neighbor_message))

/* The same with a link-layer address option, RFC 4861 §4.3, §4.4, §4.6.1. */
struct neighbor_discovery {
	struct icmp icmp; /* rest: flags */
	union address target;
	__u8 option_type;
	__u8 option_length; /* in 8 octets */
	__u8 mac[6];
};
_Static_assert(sizeof(struct neighbor_discovery) == 32, "neighbor_discovery");
#define ND_OPTION_SOURCE_MAC 1
#define ND_OPTION_TARGET_MAC 2
#define ND_ROUTER            0x80000000u
#define ND_SOLICITED         0x40000000u
#define ND_OVERRIDE          0x20000000u
