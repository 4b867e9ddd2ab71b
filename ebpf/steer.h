/* How a forwarding class goes on: steer --> deliver by a VRF, an SR Policy, or to a service (sr_policy.h) */
#pragma once

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, STEER_SIZE);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32); /* forwarding class */
	__type(value, struct steer_value);
} steer SEC(".maps");

/* The tag goes where the frame leaves as it came otherwise. Addresses of Ethernet stay. */
static __noinline int remove_tag(struct xdp_md *ctx, struct packet *packet)
{
	struct cursor c = cursor_at(ctx, 0);
	struct ethernet *ethernet;
	__u8 macs[12];

	if (packet->ip_offset == sizeof(*ethernet))
		return GO_ON;
	ethernet = pull(&c, sizeof(*ethernet) + sizeof(struct vlan_tag));
	if (!ethernet)
		return drop(packet, DROP_MALFORMED);
	__builtin_memcpy(macs, ethernet, sizeof(macs));
	packet->tag = *(__be32 *)&ethernet->type;
	if (bpf_xdp_adjust_head(ctx, sizeof(struct vlan_tag)))
		return drop(packet, DROP_MALFORMED);
	c = cursor_at(ctx, 0);
	ethernet = pull(&c, sizeof(*ethernet));
	if (!ethernet)
		return drop(packet, DROP_MALFORMED);
	__builtin_memcpy(ethernet, macs, sizeof(macs));
	packet->ip_offset = sizeof(*ethernet);
	return GO_ON;
}

/* What goes back to a host goes with the tag that it came with. */
static __noinline int restore_tag(struct xdp_md *ctx, struct packet *packet)
{
	struct cursor c = cursor_at(ctx, 0);
	struct ethernet *ethernet = pull(&c, sizeof(*ethernet));
	__u8 macs[12];

	if (!packet->tag)
		return GO_ON;
	if (!ethernet)
		return XDP_DROP;
	__builtin_memcpy(macs, ethernet, sizeof(macs));
	if (bpf_xdp_adjust_head(ctx, -(int)sizeof(struct vlan_tag)))
		return XDP_DROP;
	c = cursor_at(ctx, 0);
	ethernet = pull(&c, sizeof(*ethernet) + sizeof(struct vlan_tag));
	if (!ethernet)
		return XDP_DROP;
	__builtin_memcpy(ethernet, macs, sizeof(macs));
	*(__be32 *)&ethernet->type = packet->tag;
	packet->ip_offset = sizeof(*ethernet) + sizeof(struct vlan_tag);
	packet->tag = 0;
	return GO_ON;
}

static __always_inline int deliver(struct xdp_md *ctx, struct packet *packet, __u32 vrf)
{
	if (cut_padding(ctx, packet) != GO_ON || remove_tag(ctx, packet) != GO_ON)
		return XDP_DROP;
	return global_find_route(packet, vrf, &packet->flow.destination);
}

/* By where the destination is moved to; that it is moved waits until nobody is to be told any more. */
static __always_inline int deliver_translated(struct xdp_md *ctx, struct packet *packet, __u32 vrf)
{
	union address to = packet->flow.destination;

	move_destination(packet->forwarding_class, &to);
	packet->translates = true;
	if (cut_padding(ctx, packet) != GO_ON || remove_tag(ctx, packet) != GO_ON)
		return XDP_DROP;
	return global_find_route(packet, vrf, &to);
}

__noinline int global_deliver(struct xdp_md *ctx, struct packet *packet, __u32 vrf)
{
	return packet ? deliver(ctx, packet, vrf) : XDP_DROP;
}

__noinline int global_deliver_translated(struct xdp_md *ctx, struct packet *packet, __u32 vrf)
{
	return packet ? deliver_translated(ctx, packet, vrf) : XDP_DROP;
}

/*
 * What a reply answers, as its asker has sent it: where both are at this node, and know each other under other addresses
 * than their own, the asker's packet was judged with those that the asker knows.
 */
__noinline int global_as_asked(union flow_key *key, __u32 forwarding_class)
{
	struct steer_value *how = bpf_map_lookup_elem(&steer, &forwarding_class);

	if (!key || !how || how->action != STEER_TRANSLATE_DELIVER)
		return 0;
	move_destination(forwarding_class, &key->source);
	move_source(forwarding_class, &key->destination);
	return 0;
}
