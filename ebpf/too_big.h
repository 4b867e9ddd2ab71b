/*
 * What does not fit into the path: the sender is told (RFC 1191 §4, RFC 4443 §3.2), TCP is told before (MSS).
 *
 *   | Ethernet, tag | IP |  packet ...            |     the tail is cut behind the quote,
 *   | Ethernet, tag | IP, ICMP | quote |                the head grows by IP and ICMP
 *
 * Quotes have a constant size: 28 bytes of IPv4 (header and 8 octets), 88 of IPv6.
 */
#pragma once

#define QUOTE_IPV4               28
#define QUOTE_IPV6               88
#define TOS_INTERNETWORK_CONTROL 0xc0 /* RFC 1812 §4.3.2.5 */

/* Cuts the frame to `quote` bytes of IP and makes room for `room` bytes before them; copies the Ethernet header. */
static __always_inline int make_room(struct xdp_md *ctx, const struct packet *packet, __u32 quote, __u32 room)
{
	__u32 length = ctx->data_end - ctx->data;
	struct cursor c = cursor_at(ctx, 0);
	struct ethernet *ethernet = pull(&c, sizeof(*ethernet));
	struct vlan_tag *tag;
	__u8 head[18];

	if (!ethernet)
		return drop(packet, DROP_TOO_BIG);
	__builtin_memcpy(head, ethernet, sizeof(*ethernet));
	tag = pull(&c, sizeof(*tag));
	if (!tag)
		return drop(packet, DROP_TOO_BIG);
	__builtin_memcpy(head + sizeof(*ethernet), tag, sizeof(*tag));
	if (bpf_xdp_adjust_tail(ctx, (int)(ip_offset(packet) + quote) - (int)length) ||
	    bpf_xdp_adjust_head(ctx, -(int)room))
		return drop(packet, DROP_TOO_BIG);
	c = cursor_at(ctx, 0);
	ethernet = pull(&c, sizeof(head));
	if (!ethernet)
		return drop(packet, DROP_TOO_BIG);
	__builtin_memcpy(ethernet, head, sizeof(head));
	return GO_ON;
}

static __always_inline int fragmentation_needed(struct xdp_md *ctx, const struct packet *packet, __be32 from, __u16 mtu)
{
	struct cursor c;
	struct ipv4 *ip;
	struct icmp *icmp;

	if (make_room(ctx, packet, QUOTE_IPV4, sizeof(*ip) + sizeof(*icmp)) != GO_ON)
		return XDP_DROP;
	c = cursor_at(ctx, ip_offset(packet));
	ip = pull(&c, sizeof(*ip));
	icmp = pull(&c, sizeof(*icmp) + QUOTE_IPV4);
	if (!ip || !icmp)
		return drop(packet, DROP_TOO_BIG);
	ip->version_ihl = IPV4_VERSION_IHL;
	ip->tos = TOS_INTERNETWORK_CONTROL;
	ip->total_length = bpf_htons(sizeof(*ip) + sizeof(*icmp) + QUOTE_IPV4);
	ip->id = 0;
	ip->fragment = 0;
	ip->ttl = DEFAULT_HOP_LIMIT;
	ip->protocol = PROTOCOL_ICMP;
	ip->checksum = 0;
	ip->source = from;
	ip->destination = packet->flow.source.word[3];
	ip->checksum = ~checksum_fold(checksum_sum(ip, sizeof(*ip)));
	icmp->type = ICMP_DESTINATION_UNREACHABLE;
	icmp->code = ICMP_FRAGMENTATION_NEEDED;
	icmp->checksum = 0;
	icmp->rest = bpf_htonl(mtu);
	icmp->checksum = ~checksum_fold(checksum_sum(icmp, sizeof(*icmp) + QUOTE_IPV4));
	return GO_ON;
}

static __always_inline int packet_too_big(struct xdp_md *ctx, const struct packet *packet, const union address *from,
					  __u16 mtu)
{
	struct cursor c;
	struct ipv6 *ip;
	struct icmp *icmp;

	if (make_room(ctx, packet, QUOTE_IPV6, sizeof(*ip) + sizeof(*icmp)) != GO_ON)
		return XDP_DROP;
	c = cursor_at(ctx, ip_offset(packet));
	ip = pull(&c, sizeof(*ip));
	icmp = pull(&c, sizeof(*icmp) + QUOTE_IPV6);
	if (!ip || !icmp)
		return drop(packet, DROP_TOO_BIG);
	ip->version_class_label = bpf_htonl(0x60000000);
	ip->payload_length = bpf_htons(sizeof(*icmp) + QUOTE_IPV6);
	ip->next_header = PROTOCOL_ICMPV6;
	ip->hop_limit = DEFAULT_HOP_LIMIT;
	ip->source = *from;
	ip->destination = packet->flow.source;
	icmp->type = ICMPV6_PACKET_TOO_BIG;
	icmp->code = 0;
	icmp->checksum = 0;
	icmp->rest = bpf_htonl(mtu);
	icmp->checksum = ~checksum_fold(pseudo_header_sum(ip, sizeof(*icmp) + QUOTE_IPV6, PROTOCOL_ICMPV6) +
					checksum_sum(icmp, sizeof(*icmp) + QUOTE_IPV6));
	return GO_ON;
}

/* Counted as TOO_BIG in any case; answered if it came from an attachment and the RFCs allow an answer. */
static __always_inline int answer_too_big(struct xdp_md *ctx, const struct packet *packet, __u16 mtu)
{
	bool v4 = packet->ether_type == ETHERTYPE_IPV4;
	__u32 index = packet->ingress_port;
	struct port *here = bpf_map_lookup_elem(&port, &index);
	struct cursor c = cursor_at(ctx, 0);
	struct ethernet *ethernet = pull(&c, sizeof(*ethernet));
	int made;
	__u8 mac[6];

	/* RFC 1122 §3.2.2, RFC 4443 §2.4(e): no error about an error. */
	if (!here || !ethernet || !packet->flow_port || packet->flow.l4_class == L4_ICMP_ERROR)
		return drop(packet, DROP_TOO_BIG);
	if (v4 ? !here->ipv4 : no_address(&here->ipv6))
		return drop(packet, DROP_TOO_BIG);
	if (packet->ip_length < (v4 ? QUOTE_IPV4 : QUOTE_IPV6))
		return drop(packet, DROP_TOO_BIG);
	copy_mac(mac, ethernet->source);
	if (v4)
		made = fragmentation_needed(ctx, packet, here->ipv4, mtu);
	else
		made = packet_too_big(ctx, packet, &here->ipv6, mtu);
	if (made != GO_ON)
		return made;
	drop(packet, DROP_TOO_BIG);
	return answer(ctx, packet, mac);
}

__noinline int global_answer_too_big(struct xdp_md *ctx, const struct packet *packet, __u16 mtu)
{
	return packet ? answer_too_big(ctx, packet, mtu) : XDP_DROP;
}

#define TCP_OPTIONS_MAX 40
#define TCP_OPTION_END  0
#define TCP_OPTION_NOP  1
#define TCP_OPTION_MSS  2
#define TCP_MSS_LENGTH  4

/* RFC 1624. An option that starts at an odd offset counts byte-swapped. */
static __always_inline void replace_mss(struct xdp_md *ctx, __u32 tcp_offset, __u32 mss_offset, __be16 from, __be16 to)
{
	__u32 at = tcp_offset + __builtin_offsetof(struct tcp, checksum);
	bool odd = mss_offset & 1;
	__be16 checksum;

	if (bpf_xdp_load_bytes(ctx, at, &checksum, sizeof(checksum)))
		return;
	checksum = checksum_update(checksum, odd ? __builtin_bswap16(from) : from, odd ? __builtin_bswap16(to) : to);
	if (bpf_xdp_store_bytes(ctx, tcp_offset + mss_offset, &to, sizeof(to)) ||
	    bpf_xdp_store_bytes(ctx, at, &checksum, sizeof(checksum)))
		return;
	count_event(EVENT_MSS_CLAMPED);
}

/*
 * A SYN's first MSS option (RFC 9293 §3.7.1) becomes at most `largest`. A global function, which the verifier judges once.
 * The loop goes over all offsets and skips what lies inside an option, so that each offset is a constant to the verifier.
 */
__noinline int clamp_mss(struct xdp_md *ctx, __u32 tcp_offset, __u32 largest)
{
	__u8 option[TCP_OPTIONS_MAX + TCP_MSS_LENGTH] = {};
	__u32 end, next = 0;
	struct tcp tcp;

	if (bpf_xdp_load_bytes(ctx, tcp_offset, &tcp, sizeof(tcp)))
		return 0;
	end = at_most((tcp.data_offset >> 4) * 4 - sizeof(tcp), TCP_OPTIONS_MAX);
	if (is_empty(end) || bpf_xdp_load_bytes(ctx, tcp_offset + sizeof(tcp), option, end))
		return 0;
	for (__u32 i = 0; i < TCP_OPTIONS_MAX; i++) {
		__u8 kind = option[i], length = option[i + 1];

		if (i < next)
			continue;
		if (i >= end || kind == TCP_OPTION_END)
			return 0;
		next = i + 1;
		if (kind == TCP_OPTION_NOP)
			continue;
		if (i + 1 >= end || length < 2 || i + length > end)
			return 0;
		next = i + length;
		if (kind == TCP_OPTION_MSS && length == TCP_MSS_LENGTH) {
			__u32 mss = option[i + 2] << 8 | option[i + 3];

			if (mss > largest)
				replace_mss(ctx, tcp_offset, sizeof(tcp) + i + 2, bpf_htons(mss), bpf_htons(largest));
			return 0;
		}
	}
	return 0;
}
