/*
 * H.Encaps.Red, RFC 8986 §5.2: the packet becomes the payload of an outer IPv6 header to a container of SIDs (RFC 9800).
 *
 *   liveness group --path_liveness, path_dead--> live bits --> lowest live candidate path of the SR Policy
 *
 *   | Ethernet, tag |                          IP | payload | padding |
 *          | Ethernet | IPv6 | [SRH, containers] | IP | payload |
 *
 *   steer:     |   block |    tail | service |       0 ...            service SID
 *   sr_policy: |   block |  node 1 |  node 2 |       0 ...            container_0, merge_bits 32
 *   sent:      |   block |  node 1 |  node 2 |    tail | service | 0  destination, without an SRH
 *
 * merge_bits: how far the service SID is moved to the right, into the last container; with 0 it is a segment of its own.
 * What does not fit into the destination goes into an SRH of further containers, which lacks the first one.
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

#define NO_CANDIDATE ~0u

static __always_inline __u32 live_candidate(__u32 policy, __u32 group)
{
	struct path_liveness_value *liveness = bpf_map_lookup_elem(&path_liveness, &group);
	struct path_judgement *judged = bpf_map_lookup_elem(&path_dead, &group);
	__u32 live;

	if (!liveness || liveness->action != PATH_LIVENESS_SET_LIVE)
		return NO_CANDIDATE;
	live = liveness->set_live.live;
	if (judged && !judged->is_used) /* looked at first: CPUs share what none of them writes */
		judged->is_used = 1;
	if (judged && live & ~judged->dead) /* where none lives any of them may be the one that does */
		live &= ~judged->dead;
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

/* `container` with the service SID's node and function in it, behind its own. */
static __always_inline void merge(union address *to, const union address *container, const union address *service,
				  __u32 merge_bits)
{
	__u64 high = bpf_be64_to_cpu(service->half[0]) & 0xffffffff, low = bpf_be64_to_cpu(service->half[1]);

	if (!merge_bits) {
		*to = *service;
		return;
	}
	merge_bits &= 127; /* the agent takes at most MERGE_BITS_MOST */
	if (merge_bits < 64) {
		low = low >> merge_bits | high << (64 - merge_bits);
		high >>= merge_bits;
	} else {
		low = high >> (merge_bits - 64);
		high = 0;
	}
	to->half[0] = container->half[0] | bpf_cpu_to_be64(high);
	to->half[1] = container->half[1] | bpf_cpu_to_be64(low);
}

/* Behind the outer header, the last container first (RFC 8754 §2). */
static __noinline int push_srh(struct xdp_md *ctx, const struct packet *packet, const struct sr_policy_value *path,
			       const struct steer_value *how)
{
	const union address *container = &path->h_encaps.container_0;
	__u32 last = path->h_encaps.last_container & (CONTAINERS - 1);
	struct cursor c = cursor_at(ctx, sizeof(struct ethernet) + sizeof(struct ipv6));
	struct segment_routing *srh = pull(&c, sizeof(*srh));
	union address *segment = pull(&c, sizeof(*segment));

	if (!srh || !segment)
		return drop(packet, DROP_MALFORMED);
	srh->next_header = packet->ether_type == ETHERTYPE_IPV4 ? PROTOCOL_IPV4 : PROTOCOL_IPV6;
	srh->hdr_ext_len = 2 * last;
	srh->routing_type = ROUTING_TYPE_SEGMENT_ROUTING;
	srh->segments_left = last;
	srh->last_entry = last - 1;
	srh->flags = 0;
	srh->tag = 0;
	merge(segment, &container[last], &how->encapsulate.service_sid, path->h_encaps.merge_bits);
	if (last == 1)
		return GO_ON;
	segment = pull(&c, sizeof(*segment));
	if (!segment)
		return drop(packet, DROP_MALFORMED);
	*segment = last == 2 ? container[1] : container[2];
	if (last == 2)
		return GO_ON;
	segment = pull(&c, sizeof(*segment));
	if (!segment)
		return drop(packet, DROP_MALFORMED);
	*segment = container[1];
	return GO_ON;
}
_Static_assert(CONTAINERS == 4, "an SRH of up to three");

/* Ethernet, outer IPv6 and SRH before the inner packet, whose own Ethernet header and tag go. */
static __always_inline int push_outer(struct xdp_md *ctx, struct packet *packet, const struct sr_policy_value *path,
				      const struct steer_value *how)
{
	__u32 last = path->h_encaps.last_container & (CONTAINERS - 1);
	__u32 srh_size = last ? sizeof(struct segment_routing) + sizeof(union address) * last : 0;
	struct cursor c = cursor_at(ctx, 0);
	struct ethernet *ethernet = pull(&c, sizeof(*ethernet));
	__u64 macs_low;
	__u32 macs_high;
	struct ipv6 *ip;

	if (!ethernet)
		return drop(packet, DROP_MALFORMED);
	macs_low = *(__u64 *)ethernet;
	macs_high = *(__u32 *)&ethernet->source[2];
	if (bpf_xdp_adjust_head(ctx, (int)(packet->ip_offset - sizeof(*ethernet)) - (int)(sizeof(*ip) + srh_size)))
		return drop(packet, DROP_MALFORMED);
	c = cursor_at(ctx, 0);
	ethernet = pull(&c, sizeof(*ethernet));
	ip = pull(&c, sizeof(*ip));
	if (!ethernet || !ip)
		return drop(packet, DROP_MALFORMED);
	*(__u64 *)ethernet = macs_low;
	*(__u32 *)&ethernet->source[2] = macs_high;
	ethernet->type = bpf_htons(ETHERTYPE_IPV6);
	ip->version_class_label =
		bpf_htonl(6u << 28 | (__u32)(how->encapsulate.dscp << 2 | (packet->traffic_class & ECN_MASK)) << 20 |
			  (__u32)path->h_encaps.color << 6 | entropy(&packet->flow));
	ip->payload_length = bpf_htons(srh_size + packet->ip_length);
	ip->hop_limit = DEFAULT_HOP_LIMIT;
	ip->source = path->h_encaps.source;
	if (last) {
		ip->next_header = PROTOCOL_ROUTING;
		ip->destination = path->h_encaps.container_0;
		if (push_srh(ctx, packet, path, how) != GO_ON)
			return XDP_DROP;
	} else {
		ip->next_header = packet->ether_type == ETHERTYPE_IPV4 ? PROTOCOL_IPV4 : PROTOCOL_IPV6;
		merge(&ip->destination, &path->h_encaps.container_0, &how->encapsulate.service_sid,
		      path->h_encaps.merge_bits);
	}
	packet->ether_type = ETHERTYPE_IPV6;
	packet->ip_offset = sizeof(*ethernet);
	packet->vrf = FABRIC_VRF;
	return GO_ON;
}

/* `translated`: the forwarding class by which addresses are moved, 0: they are not. */
static __always_inline int encapsulate(struct xdp_md *ctx, struct packet *packet, const struct steer_value *how,
				       __u32 translated)
{
	__u32 index = live_candidate(how->encapsulate.sr_policy, how->encapsulate.liveness_group);
	bool v4 = packet->ether_type == ETHERTYPE_IPV4;
	__u32 overhead = v4 ? 40 : 60;
	__u32 mtu = how->encapsulate.inner_mtu;
	struct sr_policy_value *path;

	if (index == NO_CANDIDATE)
		return refuse(packet, DROP_NO_LIVE_PATH, ERROR_NO_ROUTE);
	path = bpf_map_lookup_elem(&sr_policy, &index);
	if (!path)
		return drop(packet, DROP_NO_LIVE_PATH);
	if (mtu && (packet->ip_length > mtu || packet->behind_cut || (!v4 && mtu < IPV6_LEAST_MTU)))
		return global_exceed_mtu(ctx, packet, mtu);
	if (mtu && packet->tcp_flags & TCP_SYN)
		clamp_mss(ctx, ip_offset(packet) + packet->l4_offset, mtu > overhead ? mtu - overhead : 0);
	if (cut_padding(ctx, packet) != GO_ON || decrement_inner(ctx, packet) != GO_ON)
		return XDP_DROP;
	if (translated && global_translate(ctx, packet, translated) != GO_ON)
		return XDP_DROP;
	if (push_outer(ctx, packet, path, how) != GO_ON)
		return XDP_DROP;
	count_event(EVENT_ENCAPSULATED);
	packet->next_hop = path->h_encaps.first_hop;
	return TO_NEXT_HOP;
}

_Static_assert(__builtin_offsetof(struct steer_value, encapsulate) ==
			       __builtin_offsetof(struct steer_value, translate_encapsulate) &&
		       sizeof(((struct steer_value *)0)->encapsulate) ==
			       sizeof(((struct steer_value *)0)->translate_encapsulate),
	       "one is read as the other");

/* For what known flows do not meet. */
__noinline int global_encapsulate(struct xdp_md *ctx, struct packet *packet, const struct steer_value *how)
{
	return packet && how ? encapsulate(ctx, packet, how, 0) : XDP_DROP;
}

/* Of its own: with it on the way of what senders are told, the stack would be too large for Linux 6.1. */
__noinline int global_encapsulate_translated(struct xdp_md *ctx, struct packet *packet, const struct steer_value *how)
{
	return packet && how ? encapsulate(ctx, packet, how, packet->forwarding_class) : XDP_DROP;
}

/* As it came, to a host that knows no SRv6 and sends it back in at another port. */
static __always_inline int to_service(struct xdp_md *ctx, struct packet *packet, const struct steer_value *how)
{
	bool v4 = packet->ether_type == ETHERTYPE_IPV4;
	__u32 overhead = v4 ? 40 : 60;
	__u32 mtu = how->to_service.inner_mtu;

	if (mtu && (packet->ip_length > mtu || packet->behind_cut || (!v4 && mtu < IPV6_LEAST_MTU)))
		return global_exceed_mtu(ctx, packet, mtu);
	if (mtu && packet->tcp_flags & TCP_SYN)
		clamp_mss(ctx, ip_offset(packet) + packet->l4_offset, mtu > overhead ? mtu - overhead : 0);
	if (cut_padding(ctx, packet) != GO_ON || remove_tag(ctx, packet) != GO_ON)
		return XDP_DROP;
	packet->next_hop = v4 ? how->to_service.ipv4_next_hop : how->to_service.ipv6_next_hop;
	return TO_NEXT_HOP;
}

__noinline int global_to_service(struct xdp_md *ctx, struct packet *packet, const struct steer_value *how)
{
	return packet && how ? to_service(ctx, packet, how) : XDP_DROP;
}

static __always_inline int apply_steer(struct xdp_md *ctx, struct packet *packet)
{
	__u32 forwarding_class = packet->forwarding_class;
	struct steer_value *how = bpf_map_lookup_elem(&steer, &forwarding_class);

	if (!how || how->action == STEER_NO_ENTRY)
		return drop(packet, DROP_NO_STEERING);
	if (how->action == STEER_ENCAPSULATE)
		return encapsulate(ctx, packet, how, 0);
	if (how->action == STEER_DELIVER)
		return global_deliver(ctx, packet, how->deliver.vrf);
	if (how->action == STEER_TO_SERVICE)
		return global_to_service(ctx, packet, how);
	return how->action == STEER_TRANSLATE_DELIVER
		       ? global_deliver_translated(ctx, packet, how->translate_deliver.vrf)
		       : global_encapsulate_translated(ctx, packet, how);
}
