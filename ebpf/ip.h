/*
 * IPv4 and IPv6: is the header right, where does the packet go, what is it to `flow_policy`.
 *
 *   parse_ip: version, lengths, checksum (MALFORMED) --> addresses, protocol, class --> is_forwardable --> parse_l4
 *                                                \--> IPv6: extension headers, walked to the upper layer --^
 *
 * What is wrong behind the IP header is kept in `l4_fault` until the addresses have been judged; of each fragment it is
 * FRAGMENT, for fragment.h.
 */
#pragma once

/* Deviates: RFC 791, no options (IPV4_OPTIONS). */
#define IPV4_VERSION_IHL 0x45

static __always_inline __u8 icmpv4_class(__u8 type)
{
	switch (type) {
	case ICMP_DESTINATION_UNREACHABLE:
	case ICMP_TIME_EXCEEDED:
	case ICMP_PARAMETER_PROBLEM:
		return L4_ICMP_ERROR;
	case ICMP_ECHO_REQUEST:
		return L4_ECHO_REQUEST;
	case ICMP_ECHO_REPLY:
		return L4_ECHO_REPLY;
	default:
		return L4_OTHER;
	}
}

static __always_inline __u8 icmpv6_class(__u8 type)
{
	if (type < ICMPV6_ECHO_REQUEST) /* RFC 4443 §2.1 */
		return L4_ICMP_ERROR;
	if (type == ICMPV6_ECHO_REQUEST)
		return L4_ECHO_REQUEST;
	return type == ICMPV6_ECHO_REPLY ? L4_ECHO_REPLY : L4_OTHER;
}

/* The last word of the key in one store: narrow stores would have to drain before the cache reads it back by 64 bits. */
static __always_inline void set_flow(struct packet *packet, __u32 ports, __u8 protocol, __u8 l4_class)
{
	packet->flow.word[4] =
		ports | (__u64)protocol << 32 | (__u64)l4_class << 40 | (__u64)packet->flow.policy_class << 48;
}

static __always_inline bool is_echo(__u8 l4_class)
{
	return l4_class == L4_ECHO_REQUEST || l4_class == L4_ECHO_REPLY;
}

/* Of echo the identifier is both ports. */
static __always_inline void set_icmp_flow(struct packet *packet, const struct icmp *icmp, __u8 protocol, __u8 l4_class)
{
	__u32 id = *(const __be16 *)&icmp->rest;

	set_flow(packet, is_echo(l4_class) ? id | id << 16 : 0, protocol, l4_class);
}

/* Flags that mean nothing are none of TCP's (RFC 9293 §3.10.7): what opens has a SYN, what resets a RST, else an ACK. */
static __always_inline __u8 tcp_class(__u8 flags)
{
	if ((flags & (TCP_SYN | TCP_ACK)) == TCP_SYN)
		return flags & (TCP_FIN | TCP_RST) ? L4_UNCLASSIFIED : L4_TCP_OPEN;
	return flags & (TCP_ACK | TCP_RST) && (flags & (TCP_SYN | TCP_FIN)) != (TCP_SYN | TCP_FIN) ? L4_TCP
												   : L4_UNCLASSIFIED;
}

/* Of what has neither ports nor ICMP types. In IPv6 what is not known could be an extension header (RFC 7045 §2.1). */
static __always_inline __u8 other_class(__u8 protocol, bool v4)
{
	switch (protocol) {
	case PROTOCOL_ESP:
	case PROTOCOL_AH:
		return L4_UNCLASSIFIED;
	case PROTOCOL_IPV4:
	case PROTOCOL_DCCP:
	case PROTOCOL_IPV6:
	case PROTOCOL_GRE:
	case PROTOCOL_OSPF:
	case PROTOCOL_PIM:
	case PROTOCOL_L2TP:
	case PROTOCOL_SCTP:
	case PROTOCOL_UDP_LITE:
		return L4_OTHER;
	default:
		return v4 ? L4_OTHER : L4_UNCLASSIFIED;
	}
}

static __always_inline void parse_l4(struct cursor *c, struct packet *packet, __u8 protocol, bool v4, __u32 length)
{
	if (protocol == PROTOCOL_TCP) {
		struct tcp *tcp = pull(c, sizeof(*tcp));
		__u32 header;

		if (!tcp || length < sizeof(*tcp))
			goto malformed;
		header = (tcp->data_offset >> 4) * 4;
		if (header < sizeof(*tcp) || header > length)
			goto malformed;
		packet->tcp_flags = tcp->flags;
		set_flow(packet, *(__u32 *)tcp, protocol, tcp_class(tcp->flags));
		return;
	}
	if (protocol == PROTOCOL_UDP) {
		__u32 *ports = pull(c, 8);

		if (!ports || length < 8)
			goto malformed;
		set_flow(packet, *ports, protocol, L4_UDP);
		return;
	}
	if (protocol == (v4 ? PROTOCOL_ICMP : PROTOCOL_ICMPV6)) {
		struct icmp *icmp = pull(c, sizeof(*icmp));

		if (!icmp || length < sizeof(*icmp))
			goto malformed;
		set_icmp_flow(packet, icmp, protocol, v4 ? icmpv4_class(icmp->type) : icmpv6_class(icmp->type));
		return;
	}
	set_flow(packet, 0, protocol, other_class(protocol, v4));
	return;
malformed:
	set_flow(packet, 0, protocol, L4_OTHER);
	packet->l4_fault = packet->is_fragment ? DROP_FRAGMENT_REFUSED : DROP_MALFORMED; /* RFC 1858 §3, RFC 7112 */
}

static __always_inline bool has_options(const struct ipv4 *ip)
{
	return ip->version_ihl > IPV4_VERSION_IHL && ip->version_ihl >> 4 == IPV4_VERSION_IHL >> 4;
}

static __always_inline int parse_ipv4(struct xdp_md *ctx, struct packet *packet)
{
	struct cursor c = cursor_at(ctx, ip_offset(packet));
	__u32 available = c.end - c.position;
	struct ipv4 *ip = pull(&c, sizeof(*ip));
	__u32 length;

	if (!ip)
		return drop(packet, DROP_MALFORMED);
	if (ip->version_ihl != IPV4_VERSION_IHL)
		return drop(packet, has_options(ip) ? DROP_IPV4_OPTIONS : DROP_MALFORMED);
	length = bpf_ntohs(ip->total_length);
	if (length < sizeof(*ip) || length > available || checksum_fold(checksum_sum(ip, sizeof(*ip))) != 0xffff)
		return drop(packet, DROP_MALFORMED);
	map_ipv4(&packet->flow.source, ip->source);
	map_ipv4(&packet->flow.destination, ip->destination);
	packet->ip_length = length;
	packet->l4_offset = sizeof(*ip);
	packet->traffic_class = ip->tos;
	packet->hop_limit = ip->ttl;
	packet->is_fragment = !!(ip->fragment & bpf_htons(IPV4_FRAGMENT_OFFSET | IPV4_MORE_FRAGMENTS));
	if (ip->fragment & bpf_htons(IPV4_FRAGMENT_OFFSET)) {
		set_flow(packet, 0, ip->protocol, L4_OTHER);
		packet->l4_fault = DROP_FRAGMENT;
		return GO_ON;
	}
	parse_l4(&c, packet, ip->protocol, true, length - sizeof(*ip));
	if (packet->is_fragment && !packet->l4_fault)
		packet->l4_fault = DROP_FRAGMENT;
	return GO_ON;
}

/* Whose end can be seen. */
static __always_inline bool is_extension(__u8 protocol)
{
	switch (protocol) {
	case PROTOCOL_HOP_BY_HOP:
	case PROTOCOL_ROUTING:
	case PROTOCOL_FRAGMENT:
	case PROTOCOL_AH:
	case PROTOCOL_DESTINATION_OPTIONS:
	case PROTOCOL_MOBILITY:
	case PROTOCOL_HIP:
	case PROTOCOL_SHIM6:
		return true;
	default:
		return false;
	}
}

/* Where the extension headers of an IPv6 packet lead to. Offsets are from its IPv6 header. */
struct chain {
	__u32 l4_offset;
	__u8 protocol;    /* of the upper layer, or of the header at which it was left */
	__u8 fragment_at; /* 0: there is no fragment header */
	__be16 fragment;  /* offset and flags */
};

/* -1: they go on beyond the packet's end, or have two fragment headers. */
static __always_inline int walk_extensions(struct xdp_md *ctx, __u32 ip_at, __u32 length, struct chain *chain)
{
	__u32 at = sizeof(struct ipv6), size;
	__u8 protocol = chain->protocol;
	struct ipv6_fragment head;

	for (__u32 i = 0; i < EXTENSION_HEADERS; i++) {
		if (!is_extension(protocol))
			break;
		chain->protocol = protocol;
		if (at + sizeof(head) > length || bpf_xdp_load_bytes(ctx, ip_at + at, &head, sizeof(head)))
			return -1;
		size = sizeof(head);
		if (protocol == PROTOCOL_AH)
			size += 4 * head.reserved; /* where others have their length */
		else if (protocol != PROTOCOL_FRAGMENT)
			size += 8 * head.reserved;
		if (at + size > EXTENSIONS_END)
			break;
		if (at + size > length || (protocol == PROTOCOL_FRAGMENT && chain->fragment_at))
			return -1;
		if (protocol == PROTOCOL_FRAGMENT) {
			chain->fragment_at = at;
			chain->fragment = head.offset;
		}
		at += size;
		protocol = head.next_header;
		if (chain->fragment & bpf_htons(IPV6_FRAGMENT_OFFSET))
			break;
	}
	chain->protocol = protocol;
	chain->l4_offset = at;
	return 0;
}

__noinline int global_walk_extensions(struct xdp_md *ctx, __u32 ip_at, __u32 length, struct chain *chain)
{
	return chain ? walk_extensions(ctx, ip_at, length, chain) : -1;
}

static __always_inline int parse_extensions(struct xdp_md *ctx, struct packet *packet, __u8 protocol)
{
	struct chain chain = {.protocol = protocol};
	int fault = global_walk_extensions(ctx, ip_offset(packet), packet->ip_length, &chain);
	struct cursor c;

	packet->is_fragment = !!chain.fragment_at;
	packet->fragment_at = chain.fragment_at;
	if (fault) {
		set_flow(packet, 0, chain.protocol, L4_UNCLASSIFIED);
		packet->l4_fault = packet->is_fragment ? DROP_FRAGMENT_REFUSED : DROP_MALFORMED; /* RFC 7112 */
		return GO_ON;
	}
	packet->l4_offset = chain.l4_offset;
	if (chain.fragment & bpf_htons(IPV6_FRAGMENT_OFFSET)) {
		set_flow(packet, 0, chain.protocol, L4_OTHER);
		packet->l4_fault = DROP_FRAGMENT;
		return GO_ON;
	}
	c = cursor_at(ctx, ip_offset(packet) + packet->l4_offset);
	parse_l4(&c, packet, chain.protocol, false, packet->ip_length - packet->l4_offset);
	if (chain.fragment & bpf_htons(IPV6_MORE_FRAGMENTS) &&
	    !packet->l4_fault) /* RFC 6946: else it is a whole packet */
		packet->l4_fault = DROP_FRAGMENT;
	return GO_ON;
}

__noinline int global_parse_extensions(struct xdp_md *ctx, struct packet *packet, __u8 protocol)
{
	return packet ? parse_extensions(ctx, packet, protocol) : XDP_DROP;
}

static __always_inline int parse_ipv6(struct xdp_md *ctx, struct packet *packet)
{
	struct cursor c = cursor_at(ctx, ip_offset(packet));
	__u32 available = c.end - c.position;
	struct ipv6 *ip = pull(&c, sizeof(*ip));
	__u32 first_word, length;
	__u8 protocol;

	if (!ip)
		return drop(packet, DROP_MALFORMED);
	first_word = bpf_ntohl(ip->version_class_label);
	length = sizeof(*ip) + bpf_ntohs(ip->payload_length);
	if (first_word >> 28 != 6 || length > available)
		return drop(packet, DROP_MALFORMED);
	packet->flow.source = ip->source;
	packet->flow.destination = ip->destination;
	packet->ip_length = length;
	packet->l4_offset = sizeof(*ip);
	packet->traffic_class = first_word >> 20;
	packet->hop_limit = ip->hop_limit;
	packet->is_fragment = false;
	protocol = ip->next_header;
	if (protocol != PROTOCOL_TCP && protocol != PROTOCOL_UDP && is_extension(protocol))
		return global_parse_extensions(ctx, packet, protocol);
	parse_l4(&c, packet, protocol, false, length - sizeof(*ip));
	return GO_ON;
}

static __always_inline int parse_ip(struct xdp_md *ctx, struct packet *packet)
{
	packet->l4_fault = DROP_NONE;
	packet->tcp_flags = 0;
	return packet->ether_type == ETHERTYPE_IPV4 ? parse_ipv4(ctx, packet) : parse_ipv6(ctx, packet);
}

static __always_inline bool is_global_ipv4(__be32 address)
{
	__u32 ipv4 = bpf_ntohl(address);

	return ipv4 && ipv4 >> 24 != 127 && ipv4 >> 16 != 0xa9fe && ipv4 >> 28 != 0xe && ipv4 != 0xffffffff;
}

static __always_inline bool is_global_ipv6(const union address *address)
{
	__u16 first = bpf_ntohs(*(const __be16 *)address->byte);

	if (!address->half[0]) {
		__u64 low = bpf_be64_to_cpu(address->half[1]);

		/* ::, ::1, and ::ffff:0:0/96, which would pass for IPv4 in the tables. */
		return low > 1 && low >> 32 != IPV4_MAPPED;
	}
	return first >> 8 != 0xff && (first & 0xffc0) != 0xfe80;
}

/* Unicast beyond the link, on both ends. */
static __always_inline bool is_forwardable(const struct packet *packet)
{
	const union flow_key *flow = &packet->flow;

	if (packet->ether_type == ETHERTYPE_IPV4)
		return is_global_ipv4(flow->source.word[3]) && is_global_ipv4(flow->destination.word[3]);
	return is_global_ipv6(&flow->source) && is_global_ipv6(&flow->destination);
}

/* One hop less. The header is at `ip`; the caller has seen that the hop limit is above 1. */
static __always_inline void decrement_ttl(struct ipv4 *ip)
{
	__be16 *ttl_protocol = (__be16 *)&ip->ttl;
	__be16 before = *ttl_protocol;

	ip->ttl--;
	ip->checksum = checksum_update(ip->checksum, before, *ttl_protocol);
}

/* What lies behind the IP packet is Ethernet's padding. */
static __always_inline int cut_padding(struct xdp_md *ctx, const struct packet *packet)
{
	__u32 length = ctx->data_end - ctx->data;
	__u32 wanted = ip_offset(packet) + packet->ip_length;

	if (length > wanted && bpf_xdp_adjust_tail(ctx, (int)wanted - (int)length))
		return drop(packet, DROP_MALFORMED);
	return GO_ON;
}
