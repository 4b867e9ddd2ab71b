/*
 * IPv4 packets that are larger than their path takes and may be fragmented (RFC 791 §3.2, RFC 1812 §4.2.2.7). XDP cannot
 * make two frames of one, so the agent cuts them:
 *
 *   encapsulate --too large, no DF--> ring buffer `cut` --> agent --piece by piece, as frames of the loopback--+
 *        ^                 \--> DF, or nobody takes it: the sender is told (icmp_error.h)                       |
 *        +---- steer <---- take_piece: its class, by the tables that hold now <----------------------------+
 *
 * Fragments that follow one that was cut go the same way, uncut where they are small enough, since they must not come
 * before it. The whole packet was counted, its pieces are not. They know the flow from `struct judged` in front of the frame, so it
 * does not matter whether the packet was a fragment itself, was tagged, or was decapsulated here. This is trusted, since
 * frames of the loopback come from the agent alone: the program is not attached there.
 */
#pragma once

#define LOOPBACK      1  /* its ifindex in each network namespace */
#define CUT_WINDOW    27 /* 2^27 ns, 0.13 s */
#define CUT_LATEST_NS 2000000000ull

/* Packets of one port in each window; no port can have all of the agent. */
const volatile __u32 cut_limit = 128;

struct judged {
	__u64 flow; /* the last word of its key: ports, protocol, classes */
	__u64 time_ns;
	__u16 ingress_port;
	__u16 flow_port;
	__u16 vrf;
	__u16 zero;
};
_Static_assert(sizeof(struct judged) == 24, "judged: a multiple of 4, at most 32, is metadata of XDP");

struct to_cut {
	struct judged judged;
	__u8 macs[12];
	__u16 mtu;
	__u16 length;
	__u8 packet[CUT_LARGEST_PACKET];
};
_Static_assert(sizeof(struct to_cut) == 40 + CUT_LARGEST_PACKET, "to_cut");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} cut SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PORTS);
	__type(key, __u32); /* port */
	__type(value, struct port_rate);
} cut_rate SEC(".maps");

static __always_inline bool is_within_cut_rate(__u32 port, __u64 now_ns)
{
	struct port_rate *rate = bpf_map_lookup_elem(&cut_rate, &port);

	return is_within_rate(rate, now_ns >> CUT_WINDOW, cut_limit);
}

/* Whether the agent got it. */
static __always_inline bool give_to_agent(struct xdp_md *ctx, const struct packet *packet, __u16 mtu)
{
	__u64 now_ns = bpf_ktime_get_boot_ns();
	__u32 length = at_most(packet->ip_length, CUT_LARGEST_PACKET);
	struct cursor c = cursor_at(ctx, 0);
	struct to_cut *to_cut;
	void *macs;

	if (packet->ip_length > CUT_LARGEST_PACKET || packet->flow.l4_class == L4_ICMP_ERROR ||
	    !is_within_cut_rate(packet->ingress_port, now_ns))
		return false;
	to_cut = bpf_ringbuf_reserve(&cut, sizeof(*to_cut), 0);
	if (!to_cut)
		return false;
	macs = pull(&c, sizeof(to_cut->macs));
	if (!macs || is_empty(length) || bpf_xdp_load_bytes(ctx, ip_offset(packet), to_cut->packet, length)) {
		bpf_ringbuf_discard(to_cut, 0);
		return false;
	}
	__builtin_memcpy(to_cut->macs, macs, sizeof(to_cut->macs));
	to_cut->judged.flow = packet->flow.word[4];
	to_cut->judged.time_ns = now_ns;
	to_cut->judged.ingress_port = packet->ingress_port;
	to_cut->judged.flow_port = packet->flow_port;
	to_cut->judged.vrf = packet->vrf;
	to_cut->judged.zero = 0;
	to_cut->mtu = mtu;
	to_cut->length = packet->ip_length;
	bpf_ringbuf_submit(to_cut, 0);
	count_event(EVENT_CUT);
	return true;
}

static __always_inline int exceed_mtu(struct xdp_md *ctx, struct packet *packet, __u16 mtu)
{
	bool is_larger = packet->ip_length > mtu, is_first;
	struct cursor c = cursor_at(ctx, ip_offset(packet));
	struct ipv4 *ip;

	if (packet->ether_type == ETHERTYPE_IPV4 && mtu >= CUT_SMALLEST_MTU) {
		ip = pull(&c, sizeof(*ip));
		if (!ip)
			return drop(packet, DROP_MALFORMED);
		is_first = !(ip->fragment & bpf_htons(IPV4_FRAGMENT_OFFSET)) &&
			   ip->fragment & bpf_htons(IPV4_MORE_FRAGMENTS);
		if (!(is_larger && ip->fragment & bpf_htons(IPV4_DONT_FRAGMENT)) && give_to_agent(ctx, packet, mtu)) {
			if (is_first)
				global_mark_as_cut(ctx, packet, seed_of_node());
			return XDP_DROP;
		}
	}
	if (packet->ether_type == ETHERTYPE_IPV6 && mtu < IPV6_LEAST_MTU)
		return refuse(packet, DROP_NO_IPV6, ERROR_NO_ROUTE);
	if (!is_larger)
		return drop(packet, DROP_TOO_BIG);
	packet->error_mtu = mtu;
	return refuse(packet, DROP_TOO_BIG, ERROR_TOO_BIG);
}

__noinline int global_exceed_mtu(struct xdp_md *ctx, struct packet *packet, __u16 mtu)
{
	return packet ? exceed_mtu(ctx, packet, mtu) : XDP_DROP;
}

/* A frame of no port: a piece from the agent, or the kernel's. */
static __always_inline int take_piece(struct xdp_md *ctx, struct packet *packet)
{
	struct judged *judged = (void *)(long)ctx->data_meta;
	__u64 flow;
	int found;

	if (ctx->ingress_ifindex != LOOPBACK || (void *)(judged + 1) > (void *)(long)ctx->data)
		return XDP_PASS;
	flow = judged->flow;
	packet->ingress_port = judged->ingress_port;
	packet->flow_port = judged->flow_port;
	packet->vrf = judged->vrf;
	packet->ether_type = ETHERTYPE_IPV4;
	packet->ip_offset = sizeof(struct ethernet);
	if (bpf_ktime_get_boot_ns() - judged->time_ns > CUT_LATEST_NS) /* The agent was away meanwhile. */
		return drop(packet, DROP_TOO_BIG);
	if (bpf_xdp_adjust_meta(ctx, sizeof(*judged)) || parse_ipv4(ctx, packet) != GO_ON)
		return XDP_DROP;
	packet->flow.word[4] = flow;
	found = global_resolve(&packet->flow, packet->vrf, packet->flow_port, ASKING_ONLY);
	if (found < 0)
		return drop(packet, -found);
	packet->forwarding_class = found;
	packet->flow_port = 0; /* Nobody is told what becomes of a piece. */
	return is_lease_expired(found) ? drop(packet, DROP_LEASE_EXPIRED) : TO_STEER;
}

__noinline int global_take_piece(struct xdp_md *ctx, struct packet *packet)
{
	return packet ? take_piece(ctx, packet) : XDP_DROP;
}
