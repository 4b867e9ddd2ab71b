/*
 * What is larger than its port takes.
 *
 *   a packet of a network, on its way to a host --> cut, or its sender is told (cut.h)
 *   an outer packet --> trimmed, and sent on:
 *
 *   | IPv6 | [SRH] | IP | payload ...                   |
 *   | IPv6 | SRH, tag: MTU | IP | pay |  of TRIMMED_LENGTH, the lengths in both headers are right
 *
 * A node on the way knows neither the network of a packet nor the way back. Who takes the outer header off knows both,
 * and tells the sender (local_sid.h) what is larger than the tag says (RFC 8754 §2 leaves the tag to its domain). Where
 * there is no SRH one is put in, whose segments are all left behind: nodes on the way do not look at it.
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

struct outer_with_srh {
	struct ethernet ethernet;
	struct ipv6 ip;
	struct segment_routing srh;
	union address segment;
} __attribute__((packed));
#define SRH_PUT_IN (sizeof(struct segment_routing) + sizeof(union address))

/* Before the packet at its end is cut, so the room is there. */
static __noinline int put_in_srh(struct xdp_md *ctx)
{
	struct cursor c;
	struct outer_with_srh *outer;
	__u64 *to;

	if (bpf_xdp_adjust_head(ctx, -(int)SRH_PUT_IN))
		return XDP_DROP;
	c = cursor_at(ctx, 0);
	outer = pull(&c, sizeof(*outer));
	if (!outer)
		return XDP_DROP;
	to = (__u64 *)outer;
#pragma unroll
	for (__u32 i = 0; i < 6; i++) /* Ethernet and IPv6: 54 octets */
		to[i] = to[i + SRH_PUT_IN / 8];
	*(__u32 *)&to[6] = *(__u32 *)&to[6 + SRH_PUT_IN / 8];
	*(__u16 *)((void *)outer + 52) = *(__u16 *)((void *)outer + 52 + SRH_PUT_IN);
	outer->srh = (struct segment_routing){
		.next_header = outer->ip.next_header,
		.hdr_ext_len = 2,
		.routing_type = ROUTING_TYPE_SEGMENT_ROUTING,
	};
	outer->segment = outer->ip.destination;
	outer->ip.next_header = PROTOCOL_ROUTING;
	outer->ip.payload_length = bpf_htons(bpf_ntohs(outer->ip.payload_length) + SRH_PUT_IN);
	return GO_ON;
}

/* GO_ON: what is left of the packet goes on. `put_in`: octets of the SRH that are ours. */
static __noinline int trim(struct xdp_md *ctx, __u32 mtu, __u32 put_in)
{
	__u32 length = ctx->data_end - ctx->data, size, at;
	struct cursor c = cursor_at(ctx, sizeof(struct ethernet));
	struct ipv6 *ip = pull(&c, sizeof(*ip));
	struct segment_routing *srh = pull(&c, sizeof(*srh));

	asm volatile("" : "+r"(length)); /* see make_room */
	if (!ip || !srh || !is_srh_right(srh, bpf_ntohs(ip->payload_length)) || srh->tag)
		return XDP_DROP;
	size = sizeof(*srh) + sizeof(union address) * ((srh->last_entry & (MAX_SEGMENTS - 1)) + 1);
	at = sizeof(struct ethernet) + sizeof(*ip) + size;
	if (mtu < sizeof(*ip) + size + TRIMMED_LENGTH)
		return XDP_DROP;
	srh->tag = bpf_htons(mtu - sizeof(*ip) - size + put_in);
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
	if (packet->vrf != FABRIC_VRF)
		return packet->ip_length > mtu || packet->behind_cut ? global_exceed_mtu(ctx, packet, mtu) : GO_ON;
	if (!ip)
		return drop(packet, DROP_MALFORMED);
	if (sizeof(*ip) + bpf_ntohs(ip->payload_length) <= mtu)
		return GO_ON;
	drop(packet, DROP_TOO_BIG);
	packet->counted = true;
	if (ip->next_header == PROTOCOL_ROUTING)
		return trim(ctx, mtu, 0);
	return put_in_srh(ctx) == GO_ON ? trim(ctx, mtu, SRH_PUT_IN) : XDP_DROP;
}
