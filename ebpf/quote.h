/*
 * ICMP errors are judged by what they are about (RFC 5927 §4): the packet that they quote.
 *
 *   error S --> D, quoting D --> S --turned round--> a packet of that flow, S --> D --flow_policy--> its class
 *
 * So an error may go where a packet of the quoted flow may go, in its own direction, and nowhere else. It comes from the
 * host that the quoted packet was for, or inside one network from the gateway. Where replies must answer something, the
 * flow must be alive. An error is never a fragment, and is not cached.
 */
#pragma once

#define QUOTED_OCTETS 8 /* of TCP, UDP or ICMP, that an error has at least: RFC 792 */

static __always_inline __u8 answering(__u8 l4_class)
{
	return l4_class == L4_ECHO_REQUEST ? L4_ECHO_REPLY : l4_class == L4_ECHO_REPLY ? L4_ECHO_REQUEST : l4_class;
}

/* The flow of the packet that is quoted, in the other direction. -1: there is none that can be judged. */
static __always_inline int read_quote(struct xdp_md *ctx, const struct packet *packet, union flow_key *about)
{
	__u32 at = ip_offset(packet) + packet->l4_offset + sizeof(struct icmp), l4;
	__u32 end = ip_offset(packet) + packet->ip_length;
	bool v4 = packet->ether_type == ETHERTYPE_IPV4;
	struct chain chain = {};
	union {
		struct ipv4 ipv4;
		struct ipv6 ipv6;
		__be16 half[QUOTED_OCTETS / 2];
	} quoted;
	__u32 ports = 0;
	__u8 l4_class;

	if (v4) {
		l4 = at + sizeof(quoted.ipv4);
		if (l4 > end || bpf_xdp_load_bytes(ctx, at, &quoted.ipv4, sizeof(quoted.ipv4)) ||
		    quoted.ipv4.version_ihl != IPV4_VERSION_IHL ||
		    quoted.ipv4.fragment & bpf_htons(IPV4_FRAGMENT_OFFSET))
			return -1;
		map_ipv4(&about->source, quoted.ipv4.destination);
		map_ipv4(&about->destination, quoted.ipv4.source);
		chain.protocol = quoted.ipv4.protocol;
	} else {
		if (at + sizeof(quoted.ipv6) > end || bpf_xdp_load_bytes(ctx, at, &quoted.ipv6, sizeof(quoted.ipv6)) ||
		    bpf_ntohl(quoted.ipv6.version_class_label) >> 28 != 6)
			return -1;
		about->source = quoted.ipv6.destination;
		about->destination = quoted.ipv6.source;
		chain.protocol = quoted.ipv6.next_header;
		if (global_walk_extensions(ctx, at, end - at, &chain) ||
		    chain.fragment & bpf_htons(IPV6_FRAGMENT_OFFSET))
			return -1;
		l4 = at + chain.l4_offset;
	}
	if (chain.protocol == PROTOCOL_TCP || chain.protocol == PROTOCOL_UDP ||
	    chain.protocol == (v4 ? PROTOCOL_ICMP : PROTOCOL_ICMPV6)) {
		if (l4 + QUOTED_OCTETS > end || bpf_xdp_load_bytes(ctx, l4, &quoted, QUOTED_OCTETS))
			return -1;
		ports = quoted.half[1] | (__u32)quoted.half[0] << 16;
	}
	if (chain.protocol == PROTOCOL_TCP) {
		l4_class = L4_TCP;
	} else if (chain.protocol == PROTOCOL_UDP) {
		l4_class = L4_UDP;
	} else if (chain.protocol == (v4 ? PROTOCOL_ICMP : PROTOCOL_ICMPV6)) {
		__u8 type = *(__u8 *)&quoted;

		l4_class = answering(v4 ? icmpv4_class(type) : icmpv6_class(type));
		ports = is_echo(l4_class) ? quoted.half[2] | (__u32)quoted.half[2] << 16 : 0;
	} else {
		l4_class = other_class(chain.protocol, v4);
	}
	about->word[4] =
		ports | (__u64)chain.protocol << 32 | (__u64)l4_class << 40 | (__u64)packet->flow.policy_class << 48;
	return l4_class == L4_ICMP_ERROR ? -1 : 0;
}

/* Whether the flow that an ICMP error is about may be judged in its stead. */
static __always_inline bool is_believable(struct xdp_md *ctx, const struct packet *packet, union flow_key *about)
{
	union address gateway = {};

	if (packet->is_fragment || read_quote(ctx, packet, about) ||
	    !same_address(&about->destination, &packet->flow.destination))
		return false;
	if (same_address(&about->source, &packet->flow.source))
		return true;
	return !packet->flow_port && find_gateway_ahead(packet, &gateway) &&
	       same_address(&gateway, &packet->flow.source);
}

__noinline int global_read_quote(struct xdp_md *ctx, const struct packet *packet, union flow_key *about)
{
	return packet && about ? is_believable(ctx, packet, about) : false;
}
