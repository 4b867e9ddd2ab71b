/*
 * H.Encaps, RFC 8986 §5.1: the packet becomes the payload of an outer IPv6 header with a segment list.
 *
 *   liveness group --path_liveness--> live bits --> lowest live candidate path of the SR Policy
 *
 *   | Ethernet, tag |                               IP | payload | padding |
 *            | Ethernet | IPv6 | SRH | segment list | IP | payload |
 *
 * The segment list is kept as on the wire: the last segment first (RFC 8754 §2). Not reduced: one segment has an SRH too.
 */
#pragma once

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PATH_LIVENESS_SIZE);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32); /* liveness group */
	__type(value, struct path_liveness_value);
} path_liveness SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SR_POLICY_SIZE);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32); /* SR Policy * 8 + slot */
	__type(value, struct sr_policy_value);
} sr_policy SEC(".maps");

/* The route to the first segment of each candidate path, as of a generation of the fabric's routes. */
union first_hop {
	struct {
		__u32 generation;
		__u32 next_hop;
	};
	__u64 word; /* read and written at once: CPUs share it */
};
_Static_assert(sizeof(union first_hop) == 8, "first_hop");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SR_POLICY_SIZE);
	__type(key, __u32); /* slot * 2048 + SR Policy: those in use lie side by side */
	__type(value, union first_hop);
} sr_policy_next_hop SEC(".maps");
#define SR_POLICIES (SR_POLICY_SIZE / CANDIDATE_PATHS)

#define NO_CANDIDATE ~0u

static __always_inline __u32 live_candidate(__u32 policy, __u32 group)
{
	struct path_liveness_value *liveness = bpf_map_lookup_elem(&path_liveness, &group);
	__u32 live;

	if (!liveness || liveness->action != PATH_LIVENESS_SET_LIVE)
		return NO_CANDIDATE;
	live = liveness->set_live.live;
	for (__u32 slot = 0; slot < CANDIDATE_PATHS; slot++) {
		__u32 index = policy * CANDIDATE_PATHS + slot;
		struct sr_policy_value *candidate;

		if (!(live >> slot & 1))
			continue;
		candidate = bpf_map_lookup_elem(&sr_policy, &index);
		if (candidate && candidate->action == SR_POLICY_H_ENCAPS)
			return index;
	}
	return NO_CANDIDATE;
}

/* 6 bits that are equal for all packets of a flow: XOR of the 16-bit words of addresses, ports and protocol. */
static __always_inline __u32 entropy(const union flow_key *flow)
{
	__u64 word = flow->word[0] ^ flow->word[1] ^ flow->word[2] ^ flow->word[3];

	word ^= word >> 32;
	word ^= word >> 16;
	return (bpf_ntohs((__u16)word ^ flow->source_port ^ flow->destination_port) ^ flow->protocol) & 0x3f;
}

static __noinline int refresh_first_hop(struct packet *packet, union first_hop *known, const union address *first,
					__u32 current)
{
	union first_hop found = {.generation = current};
	int verdict = global_find_route(packet, FABRIC_CONTEXT, first);

	if (verdict != TO_NEXT_HOP)
		return verdict;
	found.next_hop = packet->next_hop;
	*(volatile __u64 *)&known->word = found.word;
	return TO_NEXT_HOP;
}

/* Sets packet->next_hop, or drops. */
static __always_inline int find_first_hop(struct packet *packet, __u32 candidate, const union address *first)
{
	__u32 index = candidate % CANDIDATE_PATHS * SR_POLICIES + candidate / CANDIDATE_PATHS;
	union first_hop *known = bpf_map_lookup_elem(&sr_policy_next_hop, &index);
	__u32 current = generation_of(FABRIC_CONTEXT);
	union first_hop is;

	if (!known || !current)
		return global_find_route(packet, FABRIC_CONTEXT, first);
	is.word = *(volatile __u64 *)&known->word;
	if (is.generation != current)
		return refresh_first_hop(packet, known, first, current);
	packet->next_hop = is.next_hop;
	return TO_NEXT_HOP;
}

/* The inner packet makes one hop here, RFC 2473 §3.1. */
static __always_inline int decrement_inner(struct xdp_md *ctx, const struct packet *packet)
{
	struct cursor c = cursor_at(ctx, ip_offset(packet));

	if (packet->ether_type == ETHERTYPE_IPV4) {
		struct ipv4 *ip = pull(&c, sizeof(*ip));

		if (!ip)
			return drop(packet, DROP_MALFORMED);
		decrement_ttl(ip);
	} else {
		struct ipv6 *ip = pull(&c, sizeof(*ip));

		if (!ip)
			return drop(packet, DROP_MALFORMED);
		ip->hop_limit--;
	}
	return GO_ON;
}

/* Ethernet, outer IPv6 and SRH before the inner packet, whose own Ethernet header and tag go. */
static __always_inline int push_outer(struct xdp_md *ctx, struct packet *packet, const struct sr_policy_value *path)
{
	__u32 count = path->h_encaps.count;
	__u32 srh_size = sizeof(struct segment_routing) + sizeof(union address) * count;
	const union address *segment = &path->h_encaps.segment_list_0;
	struct cursor c = cursor_at(ctx, 0);
	struct ethernet *ethernet = pull(&c, sizeof(*ethernet));
	struct segment_routing *srh;
	__u64 macs_low;
	__u32 macs_high;
	struct ipv6 *ip;

	if (!ethernet || count < 1 || count > MAX_SEGMENTS)
		return drop(packet, DROP_NO_LIVE_PATH);
	macs_low = *(__u64 *)ethernet;
	macs_high = *(__u32 *)&ethernet->source[2];
	if (bpf_xdp_adjust_head(ctx, (int)(packet->ip_offset - sizeof(*ethernet)) - (int)(sizeof(*ip) + srh_size)))
		return drop(packet, DROP_MALFORMED);
	c = cursor_at(ctx, 0);
	ethernet = pull(&c, sizeof(*ethernet));
	ip = pull(&c, sizeof(*ip));
	srh = pull(&c, sizeof(*srh));
	if (!ethernet || !ip || !srh)
		return drop(packet, DROP_MALFORMED);
	*(__u64 *)ethernet = macs_low;
	*(__u32 *)&ethernet->source[2] = macs_high;
	ethernet->type = bpf_htons(ETHERTYPE_IPV6);
	ip->version_class_label =
		bpf_htonl(6u << 28 | (__u32)(path->h_encaps.dscp << 2 | (packet->traffic_class & ECN_MASK)) << 20 |
			  (__u32)path->h_encaps.color << 6 | entropy(&packet->flow));
	ip->payload_length = bpf_htons(srh_size + packet->ip_length);
	ip->next_header = PROTOCOL_ROUTING;
	ip->hop_limit = DEFAULT_HOP_LIMIT;
	ip->source = path->h_encaps.source;
	srh->next_header = packet->ether_type == ETHERTYPE_IPV4 ? PROTOCOL_IPV4 : PROTOCOL_IPV6;
	srh->hdr_ext_len = 2 * count;
	srh->routing_type = ROUTING_TYPE_SEGMENT_ROUTING;
	srh->segments_left = count - 1;
	srh->last_entry = count - 1;
	srh->flags = 0;
	srh->tag = 0;
#pragma unroll
	for (__u32 i = 0; i < MAX_SEGMENTS; i++) {
		union address *to;

		if (i >= count)
			break;
		to = pull(&c, sizeof(*to));
		if (!to)
			return drop(packet, DROP_MALFORMED);
		*to = segment[i];
		/* The last one written is the first to visit. */
		ip->destination = segment[i];
	}
	packet->ether_type = ETHERTYPE_IPV6;
	packet->ip_offset = sizeof(*ethernet);
	packet->flow.context = FABRIC_CONTEXT;
	return GO_ON;
}

static __always_inline int encapsulate(struct xdp_md *ctx, struct packet *packet, const struct steer_value *how)
{
	__u32 index = live_candidate(how->encapsulate.sr_policy, how->encapsulate.liveness_group);
	bool v4 = packet->ether_type == ETHERTYPE_IPV4;
	__u32 overhead = v4 ? 40 : 60;
	struct sr_policy_value *path;
	union address *first;
	__u32 mtu, count;

	if (index == NO_CANDIDATE)
		return refuse(packet, DROP_NO_LIVE_PATH, ERROR_NO_ROUTE);
	path = bpf_map_lookup_elem(&sr_policy, &index);
	if (!path)
		return drop(packet, DROP_NO_LIVE_PATH);
	mtu = path->h_encaps.inner_mtu;
	if (mtu && (packet->ip_length > mtu || packet->behind_cut || (!v4 && mtu < IPV6_LEAST_MTU)))
		return global_exceed_mtu(ctx, packet, mtu);
	if (mtu && packet->tcp_flags & TCP_SYN)
		clamp_mss(ctx, ip_offset(packet) + packet->l4_offset, mtu > overhead ? mtu - overhead : 0);
	if (cut_padding(ctx, packet) != GO_ON || decrement_inner(ctx, packet) != GO_ON)
		return XDP_DROP;
	if (push_outer(ctx, packet, path) != GO_ON)
		return XDP_DROP;
	count_event(EVENT_ENCAPSULATED);
	count = (path->h_encaps.count - 1) & (MAX_SEGMENTS - 1);
	first = (union address *)((void *)&path->h_encaps.segment_list_0 + count * sizeof(*first));
	return find_first_hop(packet, index, first);
}

/* For what known flows do not meet. */
__noinline int global_encapsulate(struct xdp_md *ctx, struct packet *packet, const struct steer_value *how)
{
	return packet && how ? encapsulate(ctx, packet, how) : XDP_DROP;
}

static __always_inline int apply_steer(struct xdp_md *ctx, struct packet *packet)
{
	__u32 leg = packet->leg;
	struct steer_value *how = bpf_map_lookup_elem(&steer, &leg);

	if (!how || how->action == STEER_NO_ENTRY)
		return drop(packet, DROP_NO_STEERING);
	return how->action == STEER_DELIVER ? global_deliver(ctx, packet) : encapsulate(ctx, packet, how);
}
