/*
 * Neighbor discovery of hosts (RFC 4861, RFC 4862), with options in any order: answers and learns as arp.h.
 *
 *   parse_discovery, read_nd_options --> learn_from_discovery --> of the gateway, or of a host elsewhere? --> advertise
 */
#pragma once

#define ND_HOP_LIMIT 255

/* An ICMPv6 message longer than what a link without jumbo frames carries is not looked at. */
#define ND_BYTES_MAX 1460

static __always_inline bool is_checksum_right(struct xdp_md *ctx, const struct packet *packet)
{
	struct cursor c = cursor_at(ctx, ip_offset(packet));
	struct ipv6 *ip = pull(&c, sizeof(*ip));
	__u32 length;
	__u64 sum;

	if (!ip)
		return false;
	length = bpf_ntohs(ip->payload_length);
	if (length > ND_BYTES_MAX)
		return false;
	sum = pseudo_header_sum(ip, length, PROTOCOL_ICMPV6);
	return checksum_fold(sum + global_sum(ctx, ip_offset(packet) + sizeof(*ip), length)) == 0xffff;
}

static __always_inline bool is_discovery(struct xdp_md *ctx, const struct packet *packet)
{
	struct cursor c = cursor_at(ctx, ip_offset(packet) + sizeof(struct ipv6));
	__u8 *type;

	if (packet->ether_type != ETHERTYPE_IPV6 || packet->flow.protocol != PROTOCOL_ICMPV6 ||
	    packet->l4_offset != sizeof(struct ipv6) || packet->ip_length <= sizeof(struct ipv6))
		return false;
	type = pull(&c, 1);
	return type && *type >= ND_FIRST && *type <= ND_LAST;
}

/* More than these a message of ours and of hosts never has; one with more is ignored. */
#define ND_OPTIONS 32

enum nd_options {
	ND_OPTIONS_WRONG = -1,
	ND_OPTIONS_WITHOUT_MAC,
	ND_OPTIONS_WITH_MAC,
};

/* An option as it is on the wire, behind what brings its MAC to a multiple of 4. */
struct nd_option {
	__u8 zero[2];
	__u8 type;
	__u8 length; /* in 8 octets */
	__u8 mac[6];
} __attribute__((aligned(4)));
#define ND_OPTION_BYTES 8

/* The options from `at` to `end` in any order: the first MAC of type `wanted`; others are skipped (RFC 4861 §4.6). */
static __noinline int read_nd_options(struct xdp_md *ctx, __u32 at, __u32 end, __u32 wanted, __u8 *mac)
{
	int found = ND_OPTIONS_WITHOUT_MAC;
	struct nd_option option = {};

	for (__u32 i = 0; i < ND_OPTIONS; i++) {
		if (at == end)
			return found;
		if (at + ND_OPTION_BYTES > end || bpf_xdp_load_bytes(ctx, at, &option.type, ND_OPTION_BYTES) ||
		    !option.length || at + option.length * 8 > end)
			return ND_OPTIONS_WRONG;
		at += option.length * 8;
		if (option.type != wanted)
			continue;
		if (option.length != 1) /* no MAC of Ethernet, RFC 2464 §6 */
			return ND_OPTIONS_WRONG;
		if (found == ND_OPTIONS_WITHOUT_MAC)
			copy_mac(mac, option.mac);
		found = ND_OPTIONS_WITH_MAC;
	}
	return at == end ? found : ND_OPTIONS_WRONG;
}

/* ff02::1:ff00:0/104, RFC 4291 §2.7.1 */
static __always_inline bool is_solicited_node(const union address *address)
{
	return address->half[0] == bpf_cpu_to_be64(0xff02ull << 48) && address->word[2] == bpf_htonl(1) &&
	       address->byte[12] == 0xff;
}

/* A question or an answer, as far as it is right (RFC 4861 §7.1): all but its options. */
struct nd_message {
	union address from;
	union address to;
	union address target;
	__be32 flags;
	__u8 asks;
};

static __always_inline bool parse_discovery(struct xdp_md *ctx, const struct packet *packet, struct nd_message *said)
{
	struct cursor c = cursor_at(ctx, ip_offset(packet));
	struct ipv6 *ip = pull(&c, sizeof(*ip));
	struct neighbor_message *nd = pull(&c, sizeof(*nd));

	if (!ip || !nd || packet->ip_length < sizeof(*ip) + sizeof(*nd) || ip->hop_limit != ND_HOP_LIMIT ||
	    nd->icmp.code || nd->target.byte[0] == 0xff)
		return false;
	said->from = ip->source;
	said->to = ip->destination;
	said->target = nd->target;
	said->flags = nd->icmp.rest;
	said->asks = nd->icmp.type == ND_NEIGHBOR_SOLICITATION;
	if (said->asks)
		return !no_address(&said->from) || is_solicited_node(&said->to);
	return nd->icmp.type == ND_NEIGHBOR_ADVERTISEMENT &&
	       !(said->to.byte[0] == 0xff && said->flags & bpf_htonl(ND_SOLICITED));
}

static __always_inline void learn_from_discovery(const struct packet *packet, const struct nd_message *said,
						 const __u8 *mac, bool has_mac)
{
	__u32 says = 0;

	if (said->asks) {
		if (has_mac)
			learn_neighbor(packet->ingress_port, &said->from, mac, MAC_OVERRIDES);
		return;
	}
	if (said->flags & bpf_htonl(ND_SOLICITED))
		says |= MAC_IS_CONFIRMED;
	if (has_mac && said->flags & bpf_htonl(ND_OVERRIDE))
		says |= MAC_OVERRIDES;
	if (has_mac || is_neighbor_known(packet->ingress_port, &said->target))
		learn_neighbor(packet->ingress_port, &said->target, mac, says);
}

/* The frame becomes the advertisement that `target` is here; to all nodes where the asker has no address yet. */
static __always_inline int advertise(struct xdp_md *ctx, struct packet *packet, const struct nd_message *asked,
				     const struct port *here, __u8 *mac, __u32 flags)
{
	__u32 length = ctx->data_end - ctx->data;
	struct neighbor_discovery *nd;
	struct ipv6 *ip;
	struct cursor c;

	asm volatile("" : "+r"(length)); /* clang is not to add to the pointers of which it is the difference */
	if (bpf_xdp_adjust_tail(ctx, (int)(ip_offset(packet) + sizeof(*ip) + sizeof(*nd)) - (int)length))
		return drop(packet, DROP_NEIGHBOR_IGNORED);
	c = cursor_at(ctx, ip_offset(packet));
	ip = pull(&c, sizeof(*ip));
	nd = pull(&c, sizeof(*nd));
	if (!ip || !nd)
		return drop(packet, DROP_NEIGHBOR_IGNORED);
	ip->version_class_label = bpf_htonl(0x60000000);
	ip->payload_length = bpf_htons(sizeof(*nd));
	ip->hop_limit = ND_HOP_LIMIT;
	ip->source = asked->target;
	ip->destination = asked->from;
	if (no_address(&asked->from)) { /* RFC 4861 §7.2.4 */
		ip->destination.half[0] = bpf_cpu_to_be64(0xff02ull << 48);
		ip->destination.half[1] = bpf_cpu_to_be64(1);
		*(__be32 *)mac = bpf_htonl(0x33330000);
		*(__be16 *)(mac + 4) = bpf_htons(1);
	} else {
		flags |= ND_SOLICITED;
	}
	nd->icmp.type = ND_NEIGHBOR_ADVERTISEMENT;
	nd->icmp.code = 0;
	nd->icmp.checksum = 0;
	nd->icmp.rest = bpf_htonl(flags);
	nd->target = asked->target;
	nd->option_type = ND_OPTION_TARGET_MAC;
	nd->option_length = 1;
	copy_mac(nd->mac, here->mac);
	nd->icmp.checksum =
		~checksum_fold(pseudo_header_sum(ip, sizeof(*nd), PROTOCOL_ICMPV6) + checksum_sum(nd, sizeof(*nd)));
	count_event(EVENT_ND_ANSWERED);
	return answer(ctx, packet, mac);
}

static __always_inline int receive_discovery(struct xdp_md *ctx, struct packet *packet)
{
	__u32 index = packet->ingress_port, options = ip_offset(packet) + ND_OPTIONS_OFFSET, flags = ND_ROUTER;
	struct cursor c = cursor_at(ctx, 0);
	struct ethernet *ethernet = pull(&c, sizeof(*ethernet));
	struct nd_message said = {};
	struct port *here;
	__u8 mac[6];
	int found;

	if (!ethernet)
		return drop(packet, DROP_MALFORMED);
	copy_mac(mac, ethernet->source);
	if (!parse_discovery(ctx, packet, &said) || !is_checksum_right(ctx, packet))
		return drop(packet, DROP_NEIGHBOR_IGNORED);
	found = read_nd_options(ctx, options, ip_offset(packet) + packet->ip_length,
				said.asks ? ND_OPTION_SOURCE_MAC : ND_OPTION_TARGET_MAC, mac);
	if (found < 0 || (found && said.asks && no_address(&said.from)))
		return drop(packet, DROP_NEIGHBOR_IGNORED);
	learn_from_discovery(packet, &said, mac, found == ND_OPTIONS_WITH_MAC);

	here = bpf_map_lookup_elem(&port, &index);
	if (!here || !said.asks || same_address(&said.from, &said.target))
		return drop(packet, DROP_NEIGHBOR_IGNORED);
	if (!no_address(&here->ipv6) && same_address(&said.target, &here->ipv6))
		flags |= ND_OVERRIDE; /* A proxy does not override, RFC 4861 §7.2.8. */
	else if (!is_elsewhere(packet->vrf, &said.target, index))
		return drop(packet, DROP_NEIGHBOR_IGNORED);
	return advertise(ctx, packet, &said, here, mac, flags);
}

__noinline int global_receive_discovery(struct xdp_md *ctx, struct packet *packet)
{
	return packet ? receive_discovery(ctx, packet) : XDP_DROP;
}
