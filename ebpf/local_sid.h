/*
 * Links: SRv6 is ours, what else a node needs to live is the kernel's.
 *
 *   ARP, IPv6 beside the SID block --> XDP_PASS
 *   SID --local_sid(class, destination)--> End, End.X: next SID ----------------> route or next hop
 *                                     \--> End.DT46: decapsulate into a VRF ----> as a packet of its policy class
 *                                     \--> none: the fabric is crossed, a neighbour's tunnel is not (SID_NOT_ADMITTED)
 *
 * A destination is a container of SIDs (RFC 9800 §4.1, NEXT-CSID), which move up as they are used:
 *
 *   |       32 |     16 |     16 |     16 |     16 |      16 |     16 |
 *   |    block |   node |   node |   node |   tail | service |      0 |
 *              |<------ End moves the rest here
 *              |<------------- End.X (node, function) the rest behind both
 *
 * Where nothing is left the SRH gives the next container; behind the last one of End may be a probe (probe.h).
 */
#pragma once

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, LOCAL_SID_SIZE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct local_sid_key);
	__type(value, struct local_sid_value);
} local_sid SEC(".maps");

/* The next container of the SRH becomes the destination: RFC 8986 §4.1. A reduced SRH lacks the first (RFC 8754 §4.1.1). */
static __noinline int next_container(struct xdp_md *ctx, const struct packet *packet)
{
	struct cursor c = cursor_at(ctx, ip_offset(packet));
	struct ipv6 *ip = pull(&c, sizeof(*ip));
	struct segment_routing *srh = pull(&c, sizeof(*srh));
	union address *segment;
	__u32 left;

	if (!ip)
		return drop(packet, DROP_MALFORMED);
	/* Deviates: RFC 8986 §4.1.1, but for probes no upper-layer header is for us */
	if (ip->next_header != PROTOCOL_ROUTING)
		return drop(packet, DROP_SEGMENTS_LEFT);
	if (!srh || !is_srh_right(srh, bpf_ntohs(ip->payload_length)))
		return drop(packet, DROP_MALFORMED);
	left = srh->segments_left;
	if (left == 0 || left > srh->last_entry + 1u)
		return drop(packet, DROP_SEGMENTS_LEFT);
	if (ip->hop_limit <= 1)
		return drop(packet, DROP_HOP_LIMIT);
	left--;
	srh->segments_left = left;
	c.position += (left & (MAX_SEGMENTS - 1)) * sizeof(*segment);
	segment = pull(&c, sizeof(*segment));
	if (!segment)
		return drop(packet, DROP_MALFORMED);
	ip->destination = *segment;
	return GO_ON;
}

/* To the next SID of the container, behind one of 16 bits (End) or two (End.X), or to the next container. */
static __noinline int next_sid(struct xdp_md *ctx, const struct packet *packet, bool is_end_x)
{
	struct cursor c = cursor_at(ctx, ip_offset(packet));
	struct ipv6 *ip = pull(&c, sizeof(*ip));
	__u64 high, low, rest;

	if (!ip)
		return drop(packet, DROP_MALFORMED);
	high = bpf_be64_to_cpu(ip->destination.half[0]);
	low = bpf_be64_to_cpu(ip->destination.half[1]);
	rest = is_end_x ? low : low | (high & 0xffff);
	if (rest) {
		if (ip->hop_limit <= 1)
			return drop(packet, DROP_HOP_LIMIT);
		rest = is_end_x ? low >> 32 : (high & 0xffff) << 16 | low >> 48;
		ip->destination.half[0] = bpf_cpu_to_be64((high & ~0xffffffffull) | rest);
		ip->destination.half[1] = bpf_cpu_to_be64(is_end_x ? low << 32 : low << 16);
	} else {
		if (!is_end_x && hear_probe(ctx, packet) != GO_ON)
			return XDP_DROP;
		if (next_container(ctx, packet) != GO_ON)
			return XDP_DROP;
		c = cursor_at(ctx, ip_offset(packet));
		ip = pull(&c, sizeof(*ip));
		if (!ip)
			return drop(packet, DROP_MALFORMED);
	}
	/* A foreign block, or no node. */
	if (!in_sid_block(&ip->destination) || !(ip->destination.word[1] & bpf_htonl(0xffff0000)))
		return drop(packet, DROP_SID_NOT_ADMITTED);
	count_event(EVENT_END);
	return GO_ON;
}

/* RFC 6040, figure 4, for an inner packet at offset 14. */
static __noinline int merge_ecn(struct xdp_md *ctx, struct packet *packet, __u32 outer)
{
	struct cursor c = cursor_at(ctx, sizeof(struct ethernet));
	__u32 inner = packet->traffic_class & ECN_MASK, merged = inner;

	if (inner == ECN_NOT_ECT && outer == ECN_CE)
		return drop(packet, DROP_MALFORMED);
	if (inner != ECN_NOT_ECT && outer == ECN_CE)
		merged = ECN_CE;
	else if (inner == ECN_ECT_0 && outer == ECN_ECT_1)
		merged = ECN_ECT_1;
	if (merged == inner)
		return GO_ON;
	packet->traffic_class = (packet->traffic_class & ~ECN_MASK) | merged;
	if (packet->ether_type == ETHERTYPE_IPV4) {
		struct ipv4 *ip = pull(&c, sizeof(*ip));
		__be16 before;

		if (!ip)
			return drop(packet, DROP_MALFORMED);
		before = *(__be16 *)ip;
		ip->tos = packet->traffic_class;
		ip->checksum = checksum_update(ip->checksum, before, *(__be16 *)ip);
	} else {
		struct ipv6 *ip = pull(&c, sizeof(*ip));

		if (!ip)
			return drop(packet, DROP_MALFORMED);
		ip->version_class_label =
			(ip->version_class_label & bpf_htonl(~(ECN_MASK << 20))) | bpf_htonl(merged << 20);
	}
	return GO_ON;
}

/* Of the inner packet a node before us has left only the beginning: its sender is to hear what fits. */
static __always_inline int tell_of_trimmed(struct packet *packet, __u16 mtu)
{
	if (!is_forwardable(packet))
		return drop(packet, DROP_NOT_FORWARDABLE);
	if (packet->l4_fault && packet->l4_fault != DROP_FRAGMENT)
		return drop(packet, packet->l4_fault);
	if (packet->ether_type == ETHERTYPE_IPV6 && mtu < IPV6_LEAST_MTU)
		return refuse(packet, DROP_TRIMMED, ERROR_NO_ROUTE);
	packet->error_mtu = mtu;
	return refuse(packet, DROP_TRIMMED, ERROR_TOO_BIG);
}

/* End.DT46 (RFC 8986 §4.8): the inner packet, parsed, becomes one of a VRF and policy class. */
static __noinline int decapsulate(struct xdp_md *ctx, struct packet *packet, const struct local_sid_value *sid)
{
	struct cursor c = cursor_at(ctx, ip_offset(packet));
	struct ipv6 *ip = pull(&c, sizeof(*ip));
	__u32 size = sizeof(*ip), outer_ecn;
	__u16 trimmed_to = 0;
	struct ethernet *ethernet;
	__u8 next_header;
	__u8 macs[12];

	if (!ip)
		return drop(packet, DROP_MALFORMED);
	outer_ecn = bpf_ntohl(ip->version_class_label) >> 20 & ECN_MASK;
	next_header = ip->next_header;
	packet->ip_length = size + bpf_ntohs(ip->payload_length);
	if (next_header == PROTOCOL_ROUTING) {
		struct segment_routing *srh = pull(&c, sizeof(*srh));

		if (!srh || !is_srh_right(srh, bpf_ntohs(ip->payload_length)))
			return drop(packet, DROP_MALFORMED);
		if (srh->segments_left)
			return drop(packet, DROP_SEGMENTS_LEFT);
		next_header = srh->next_header;
		trimmed_to = bpf_ntohs(srh->tag);
		size += 8 + 8 * srh->hdr_ext_len;
	}
	if (next_header != PROTOCOL_IPV4 && next_header != PROTOCOL_IPV6)
		return drop(packet, DROP_MALFORMED);
	/* The inner packet ends with the outer one, whatever its own length says. */
	if (cut_padding(ctx, packet) != GO_ON)
		return XDP_DROP;
	c = cursor_at(ctx, 0);
	ethernet = pull(&c, sizeof(*ethernet));
	if (!ethernet)
		return drop(packet, DROP_MALFORMED);
	__builtin_memcpy(macs, ethernet, sizeof(macs));
	if (bpf_xdp_adjust_head(ctx, (int)(packet->ip_offset - sizeof(*ethernet) + size)))
		return drop(packet, DROP_MALFORMED);
	c = cursor_at(ctx, 0);
	ethernet = pull(&c, sizeof(*ethernet));
	if (!ethernet)
		return drop(packet, DROP_MALFORMED);
	__builtin_memcpy(ethernet, macs, sizeof(macs));
	packet->ether_type = next_header == PROTOCOL_IPV4 ? ETHERTYPE_IPV4 : ETHERTYPE_IPV6;
	ethernet->type = bpf_htons(packet->ether_type);
	packet->ip_offset = sizeof(*ethernet);
	packet->vrf = sid->end_dt46.vrf;
	packet->flow.policy_class = sid->end_dt46.policy_class;
	packet->answer_class = sid->end_dt46.answer_class;
	if (parse_ip(ctx, packet) != GO_ON)
		return XDP_DROP;
	if (merge_ecn(ctx, packet, outer_ecn) != GO_ON)
		return XDP_DROP;
	count_event(EVENT_DECAPSULATED);
	return trimmed_to ? tell_of_trimmed(packet, trimmed_to) : GO_ON;
}

/* Removes the tag of a frame that goes on by its outer header. */
static __always_inline int route_outer(struct xdp_md *ctx, struct packet *packet)
{
	struct cursor c;
	union address destination;
	struct ipv6 *ip;

	if (remove_tag(ctx, packet) != GO_ON)
		return XDP_DROP;
	c = cursor_at(ctx, sizeof(struct ethernet));
	ip = pull(&c, sizeof(*ip));
	if (!ip)
		return drop(packet, DROP_MALFORMED);
	destination = ip->destination;
	return global_find_route(packet, FABRIC_VRF, &destination);
}

/* GO_ON: a decapsulated packet. TO_NEXT_HOP: what goes on by its outer header. */
static __always_inline int receive_from_link(struct xdp_md *ctx, struct packet *packet)
{
	struct cursor c = cursor_at(ctx, ip_offset(packet));
	__u32 available = c.end - c.position;
	struct ipv6 *ip = pull(&c, sizeof(*ip));
	struct local_sid_key key = {.prefix_length = 160};
	struct local_sid_value *sid;

	if (packet->ether_type == ETHERTYPE_ARP)
		return XDP_PASS;
	if (packet->ether_type != ETHERTYPE_IPV6)
		return drop(packet, DROP_NOT_IP);
	if (!ip)
		return drop(packet, DROP_MALFORMED);
	if (!in_sid_block(&ip->destination))
		return XDP_PASS;
	if (bpf_ntohl(ip->version_class_label) >> 28 != 6 || sizeof(*ip) + bpf_ntohs(ip->payload_length) > available)
		return drop(packet, DROP_MALFORMED);
	key.ingress_class = bpf_htonl(packet->ingress_class);
	key.destination = ip->destination;
	sid = bpf_map_lookup_elem(&local_sid, &key);
	if (!sid) {
		/* RFC 8754 §5.1: a neighbour uses only the SIDs it was given. */
		if (packet->ingress_class != FABRIC_CLASS)
			return drop(packet, DROP_SID_NOT_ADMITTED);
		return route_outer(ctx, packet);
	}
	switch (sid->action) {
	case LOCAL_SID_END:
		if (next_sid(ctx, packet, false) != GO_ON)
			return XDP_DROP;
		return route_outer(ctx, packet);
	case LOCAL_SID_END_X:
		if (next_sid(ctx, packet, true) != GO_ON || remove_tag(ctx, packet) != GO_ON)
			return XDP_DROP;
		packet->next_hop = sid->end_x.next_hop;
		return TO_NEXT_HOP;
	case LOCAL_SID_END_DT46:
		return decapsulate(ctx, packet, sid);
	default:
		return drop(packet, sid->drop.reason);
	}
}

__noinline int global_receive_from_link(struct xdp_md *ctx, struct packet *packet)
{
	return packet ? receive_from_link(ctx, packet) : XDP_DROP;
}
