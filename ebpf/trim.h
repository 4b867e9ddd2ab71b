/*
 * What is larger than its port takes.
 *
 *   a packet of a network, on its way to a host --> cut, or its sender is told (cut.h)
 *   an outer packet --> trimmed, and sent on:
 *
 *   | IPv6 | SRH, tag: MTU | IP | payload ...                   |
 *   | IPv6 | SRH, tag: MTU | IP | pay |  of TRIMMED_LENGTH, the lengths in both headers are right
 *
 * A node on the way knows neither the network of a packet nor the way back. Who takes the outer header off knows both,
 * and tells the sender (local_sid.h) what is larger than the tag says (RFC 8754 §2 leaves the tag to its domain).
 */
#pragma once

static __always_inline int set_inner_length(struct xdp_md *ctx, __u32 at, __u8 protocol)
{
	struct cursor c = cursor_at(ctx, at);
	struct ipv4 *ipv4;
	struct ipv6 *ipv6;
	__be16 before;

	if (protocol == PROTOCOL_IPV6) {
		ipv6 = pull(&c, sizeof(*ipv6));
		if (!ipv6)
			return XDP_DROP;
		ipv6->payload_length = bpf_htons(TRIMMED_LENGTH - sizeof(*ipv6));
		return GO_ON;
	}
	ipv4 = pull(&c, sizeof(*ipv4));
	if (!ipv4 || protocol != PROTOCOL_IPV4)
		return XDP_DROP;
	before = ipv4->total_length;
	ipv4->total_length = bpf_htons(TRIMMED_LENGTH);
	ipv4->checksum = checksum_update(ipv4->checksum, before, ipv4->total_length);
	return GO_ON;
}

/* GO_ON: the packet is dropped and counted, and what is left of it goes on. */
static __always_inline int trim(struct xdp_md *ctx, struct packet *packet, __u32 mtu)
{
	__u32 length = ctx->data_end - ctx->data, size, at;
	struct cursor c = cursor_at(ctx, sizeof(struct ethernet));
	struct ipv6 *ip = pull(&c, sizeof(*ip));
	struct segment_routing *srh = pull(&c, sizeof(*srh));

	asm volatile("" : "+r"(length)); /* see make_room */
	drop(packet, DROP_TOO_BIG);
	packet->counted = true;
	if (!ip || !srh || ip->next_header != PROTOCOL_ROUTING || !is_srh_right(srh, bpf_ntohs(ip->payload_length)) ||
	    srh->tag)
		return XDP_DROP;
	size = sizeof(*srh) + sizeof(union address) * ((srh->last_entry & (MAX_SEGMENTS - 1)) + 1);
	at = sizeof(struct ethernet) + sizeof(*ip) + size;
	if (mtu < sizeof(*ip) + size + TRIMMED_LENGTH)
		return XDP_DROP;
	srh->tag = bpf_htons(mtu - sizeof(*ip) - size);
	ip->payload_length = bpf_htons(size + TRIMMED_LENGTH);
	if (set_inner_length(ctx, at, srh->next_header) != GO_ON)
		return XDP_DROP;
	return bpf_xdp_adjust_tail(ctx, (int)(at + TRIMMED_LENGTH) - (int)length) ? XDP_DROP : GO_ON;
}

/* GO_ON: it fits, or what is left of it does. The frame begins as for `next_hop`. */
__noinline int global_exceed_port(struct xdp_md *ctx, struct packet *packet, __u16 mtu)
{
	struct cursor c = cursor_at(ctx, sizeof(struct ethernet));
	struct ipv6 *ip = pull(&c, sizeof(*ip));

	if (!packet)
		return XDP_DROP;
	if (packet->flow.context != FABRIC_CONTEXT)
		return packet->ip_length > mtu || packet->behind_cut ? global_exceed_mtu(ctx, packet, mtu) : GO_ON;
	if (!ip)
		return drop(packet, DROP_MALFORMED);
	return sizeof(*ip) + bpf_ntohs(ip->payload_length) > mtu ? trim(ctx, packet, mtu) : GO_ON;
}
