/*
 * Frames for the controller: what `punt_frame` or a next hop sends there.
 *
 *   not IPv4, IPv6, ARP ------> punt_frame ---> punt(reason), drop(reason), or on
 *   others, if settings.punt_ip ----^
 *
 * A host can send as much of the others as it likes: of each port some are punted in a window, what is more is dropped.
 */
#pragma once

#define PUNT_FRAME_BYTES 1514
#define PUNT_WINDOW      30 /* of so many bits of nanoseconds: 1.07 s */

struct punted {
	__u16 ingress_port;
	__u8 reason; /* enum punt_reason, or what the entry gave */
	__u8 zero;
	__u16 vrf;
	__u16 mtu;
	__u16 answer_class;
	__u16 zero2;
	__u32 length; /* of the whole frame */
	__u8 frame[PUNT_FRAME_BYTES + 2];
};
_Static_assert(sizeof(struct punted) == 1532, "punted");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 << 10);
} punt SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct punt_frame_masks);
} punt_frame_masks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PUNT_FRAME_SIZE);
	__type(key, struct punt_frame_key);
	__type(value, struct punt_frame_value);
} punt_frame SEC(".maps");

/* Frames of IP and ARP that entries of punt_frame send to the controller, of one port in one window. */
const volatile __u32 punt_limit = 16;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PORTS);
	__type(key, __u32); /* port */
	__type(value, struct port_rate);
} punt_rate SEC(".maps");

static __always_inline bool is_ip_or_arp(const struct packet *packet)
{
	return packet->ether_type == ETHERTYPE_IPV4 || packet->ether_type == ETHERTYPE_IPV6 ||
	       packet->ether_type == ETHERTYPE_ARP;
}

static __always_inline bool is_within_punt_rate(__u32 port)
{
	struct port_rate *rate = bpf_map_lookup_elem(&punt_rate, &port);

	return is_within_rate(rate, bpf_ktime_get_boot_ns() >> PUNT_WINDOW, punt_limit);
}

static __always_inline int punt_to_controller(struct xdp_md *ctx, const struct packet *packet, __u8 reason)
{
	__u32 length = ctx->data_end - ctx->data;
	__u32 copied = at_most(length, PUNT_FRAME_BYTES);
	struct punted *punted = bpf_ringbuf_reserve(&punt, sizeof(*punted), 0);

	if (!punted) {
		count_event(EVENT_PUNT_LOST);
		return drop(packet, DROP_PUNT_LOST);
	}
	punted->ingress_port = packet->ingress_port;
	punted->reason = reason;
	punted->zero = 0;
	punted->vrf = packet->vrf;
	punted->mtu = 0;
	punted->answer_class = packet->answer_class;
	punted->zero2 = 0;
	punted->length = length;
	if (is_empty(copied) || bpf_xdp_load_bytes(ctx, 0, punted->frame, copied)) {
		bpf_ringbuf_discard(punted, 0);
		count_event(EVENT_PUNT_LOST);
		return drop(packet, DROP_PUNT_LOST);
	}
	bpf_ringbuf_submit(punted, 0);
	return XDP_DROP;
}

__noinline int global_punt_to_controller(struct xdp_md *ctx, const struct packet *packet, __u8 reason)
{
	return packet ? punt_to_controller(ctx, packet, reason) : XDP_DROP;
}

/* Protocol and ICMP type of plain IP; 0 where the frame has none. */
static __always_inline void punt_key_of_ip(struct xdp_md *ctx, const struct packet *packet, struct punt_frame_key *key)
{
	struct cursor c = cursor_at(ctx, ip_offset(packet));
	__u8 icmp, *type;

	if (packet->ether_type == ETHERTYPE_IPV4) {
		struct ipv4 *ip = pull(&c, sizeof(*ip));

		if (!ip || ip->version_ihl != 0x45)
			return;
		key->protocol = ip->protocol;
		if (ip->fragment & bpf_htons(IPV4_FRAGMENT_OFFSET))
			return;
		icmp = PROTOCOL_ICMP;
	} else {
		struct ipv6 *ip = pull(&c, sizeof(*ip));

		if (!ip || (ip->version_class_label & bpf_htonl(0xf0000000)) != bpf_htonl(0x60000000))
			return;
		key->protocol = ip->next_header;
		icmp = PROTOCOL_ICMPV6;
	}
	type = pull(&c, 1);
	if (type && key->protocol == icmp)
		key->icmp_type = *type;
}

static __always_inline int match_punt_frame(struct xdp_md *ctx, const struct packet *packet)
{
	struct punt_frame_key key = {
		.ingress_class = packet->ingress_class,
		.ether_type = packet->ether_type,
	};
	struct punt_frame_masks *masks;
	__u32 zero = 0, action = PUNT_FRAME_NO_ENTRY, priority = 0;
	__u8 reason = 0;

	if (packet->ether_type == ETHERTYPE_IPV4 || packet->ether_type == ETHERTYPE_IPV6)
		punt_key_of_ip(ctx, packet, &key);
	masks = bpf_map_lookup_elem(&punt_frame_masks, &zero);
	if (!masks)
		return GO_ON;
	for (__u32 i = 0; i < PUNT_FRAME_MASKS; i++) {
		const struct punt_frame_key *mask = &masks->mask[i];
		struct punt_frame_key masked = {
			.ingress_class = key.ingress_class & mask->ingress_class,
			.ether_type = key.ether_type & mask->ether_type,
			.protocol = key.protocol & mask->protocol,
			.icmp_type = key.icmp_type & mask->icmp_type,
			.mask_id = i,
		};
		struct punt_frame_value *value;

		if (i >= masks->count)
			break;
		value = bpf_map_lookup_elem(&punt_frame, &masked);
		if (!value || (action && value->priority <= priority))
			continue;
		priority = value->priority;
		action = value->action;
		reason = action == PUNT_FRAME_PUNT ? value->punt.reason : value->drop.reason;
	}
	if (action == PUNT_FRAME_PUNT) {
		if (is_ip_or_arp(packet) && !is_within_punt_rate(packet->ingress_port))
			return drop(packet, DROP_PUNT_LOST);
		return global_punt_to_controller(ctx, packet, reason);
	}
	if (action == PUNT_FRAME_DROP)
		return drop(packet, reason);
	return GO_ON;
}

__noinline int global_match_punt_frame(struct xdp_md *ctx, const struct packet *packet)
{
	return packet ? match_punt_frame(ctx, packet) : XDP_DROP;
}
