/*
 * Where a frame came from.
 *
 *   ifindex --port_number--> port --(port, VLAN)--attachment--> a network's context (class 0)
 *                                                          \--> a link's ingress class: 1 fabric, 2.. one neighbour's tunnel
 */
#pragma once

#define PORT_CAPTURE 1
#define PORT_PRESENT 2

struct port {
	__u8 mac[6];
	__u8 flags;
	__u8 zero;
	__be32 ipv4; /* gateway addresses that XDP answers for; 0 = none */
	__u32 zero2;
	union address ipv6;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PORTS);
	__type(key, __u32); /* ifindex */
	__type(value, __u32);
} port_number SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PORTS);
	__type(key, __u32);
	__type(value, struct port);
} port SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, ATTACHMENT_SIZE);
	__type(key, struct attachment_key);
	__type(value, struct attachment_value);
} attachment SEC(".maps");

/* Ingress port, Ethernet, at most one tag, and whose the frame is. */
static __always_inline int classify(struct xdp_md *ctx, struct packet *packet)
{
	struct cursor c = cursor_at(ctx, 0);
	struct attachment_key key = {};
	struct attachment_value *value;
	struct ethernet *ethernet;
	struct port *here;
	__u32 *number, index;

	packet->ifindex = ctx->ingress_ifindex;
	packet->frame_length = ctx->data_end - ctx->data;
	number = bpf_map_lookup_elem(&port_number, &packet->ifindex);
	if (!number)
		return XDP_PASS;
	index = *number;
	packet->ingress_port = index;
	here = bpf_map_lookup_elem(&port, &index);
	if (!here)
		return XDP_PASS;
	if (here->flags & PORT_CAPTURE)
		capture_frame(ctx);

	ethernet = pull(&c, sizeof(*ethernet));
	if (!ethernet)
		return drop(packet, DROP_MALFORMED);
	packet->ether_type = bpf_ntohs(ethernet->type);
	packet->ip_offset = sizeof(*ethernet);
	if (packet->ether_type == ETHERTYPE_VLAN) {
		struct vlan_tag *tag = pull(&c, sizeof(*tag));

		if (!tag)
			return drop(packet, DROP_MALFORMED);
		key.vlan_id = bpf_ntohs(tag->control) & 0xfff;
		packet->ether_type = bpf_ntohs(tag->type);
		packet->ip_offset += sizeof(*tag);
	}
	key.ingress_port = index;
	value = bpf_map_lookup_elem(&attachment, &key);
	if (!value)
		return drop(packet, DROP_UNKNOWN_CONTEXT);
	if (value->action == ATTACHMENT_ATTACH) {
		packet->ingress_class = ATTACHMENT_CLASS;
		packet->flow_port = index;
		packet->flow.context = value->attach.context;
	} else {
		packet->ingress_class = value->link.ingress_class;
		packet->flow_port = 0;
		packet->flow.context = FABRIC_CONTEXT;
	}
	return GO_ON;
}
