/*
 * Where a frame came from.
 *
 *   ifindex --port_number--> port --(port, VLAN)--attachment--> a network's VRF and policy class (ingress class 0)
 *                                                          \--> a link's ingress class: 1 fabric, 2.. one neighbour's tunnel
 *
 * Both look-ups are in hash tables, and each packet makes them. What they gave is remembered in arrays: a port's number by
 * `port_hint`, right if the port says that it is that interface's; an untagged attachment or link by `attachment_hint`,
 * right while the generation of its policy class is the same; links have that of policy class 0.
 */
#pragma once

#define PORT_CAPTURE 1
#define PORT_PRESENT 2

struct port {
	__u8 mac[6];
	__u8 flags;
	__u8 zero;
	__u16 mtu; /* of the packets that it takes; 0 = not known */
	__u16 zero2;
	__be32 ipv4;   /* gateway addresses that XDP answers for; 0 = none */
	__u32 ifindex; /* set here, for `port_hint`; user space writes 0 */
	union address ipv6;
};
_Static_assert(sizeof(struct port) == 40, "port");

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

#define PORT_HINTS 512

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PORT_HINTS);
	__type(key, __u32); /* ifindex modulo the size */
	__type(value, __u32);
} port_hint SEC(".maps");

union attachment_hint {
	struct {
		__u32 generation; /* of the policy class; 0: nothing is remembered */
		__u16 vrf;
		union {
			__u16 policy_class;
			__u16 ingress_class; /* of a link: `vrf` is FABRIC_VRF */
		};
	};
	__u64 word; /* read and written at once: CPUs share it */
};
_Static_assert(sizeof(union attachment_hint) == 8, "attachment_hint");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PORTS);
	__type(key, __u32); /* port */
	__type(value, union attachment_hint);
} attachment_hint SEC(".maps");

static __noinline struct port *find_port(__u32 ifindex, __u32 *index)
{
	__u32 *number = bpf_map_lookup_elem(&port_number, &ifindex), slot = ifindex % PORT_HINTS, *hint;
	struct port *found;

	if (!number)
		return NULL;
	*index = *number;
	found = bpf_map_lookup_elem(&port, index);
	hint = bpf_map_lookup_elem(&port_hint, &slot);
	if (found && hint) {
		found->ifindex = ifindex;
		*hint = *index;
	}
	return found;
}

/* The port of an interface and its number, or NULL. */
static __always_inline struct port *port_of(__u32 ifindex, __u32 *index)
{
	__u32 slot = ifindex % PORT_HINTS, *hint = bpf_map_lookup_elem(&port_hint, &slot);
	struct port *found;

	if (hint) {
		*index = *hint;
		found = bpf_map_lookup_elem(&port, index);
		if (found && found->ifindex == ifindex && found->flags & PORT_PRESENT)
			return found;
	}
	return find_port(ifindex, index);
}

_Static_assert(__builtin_offsetof(struct attachment_value, attach.vrf) ==
			       __builtin_offsetof(struct attachment_value, attach_reject.vrf) &&
		       __builtin_offsetof(struct attachment_value, attach.policy_class) ==
			       __builtin_offsetof(struct attachment_value, attach_reject.policy_class),
	       "both are read as `attach`");

/* To a network; `attach_reject` differs from `attach` only in what icmp_error makes of it. */
static __always_inline bool is_attached(const struct attachment_value *value)
{
	return value->action == ATTACHMENT_ATTACH || value->action == ATTACHMENT_ATTACH_REJECT;
}

static __always_inline void enter_from_link(struct packet *packet, __u16 ingress_class)
{
	packet->ingress_class = ingress_class;
	packet->flow_port = 0;
	packet->vrf = FABRIC_VRF;
	packet->flow.policy_class = 0;
}

static __noinline int find_attachment(struct packet *packet, __u32 vlan_id)
{
	struct attachment_key key = {.ingress_port = packet->ingress_port, .vlan_id = vlan_id};
	struct attachment_value *value = bpf_map_lookup_elem(&attachment, &key);
	union attachment_hint hint = {}, *remembered;
	__u32 index = packet->ingress_port;

	if (!value)
		return drop(packet, DROP_UNKNOWN_ATTACHMENT);
	if (!is_attached(value)) {
		enter_from_link(packet, value->link.ingress_class);
		if (vlan_id)
			return GO_ON;
		hint.ingress_class = packet->ingress_class;
		hint.generation = generation_of(packet->flow.policy_class);
		value = bpf_map_lookup_elem(&attachment, &key);
		remembered = bpf_map_lookup_elem(&attachment_hint, &index);
		if (remembered && value && value->action == ATTACHMENT_LINK &&
		    value->link.ingress_class == hint.ingress_class)
			*(volatile __u64 *)&remembered->word = hint.word;
		return GO_ON;
	}
	packet->ingress_class = ATTACHMENT_CLASS;
	packet->flow_port = index;
	packet->vrf = value->attach.vrf;
	packet->flow.policy_class = value->attach.policy_class;
	if (vlan_id || packet->vrf == FABRIC_VRF) /* that is said of links */
		return GO_ON;
	hint.vrf = packet->vrf;
	hint.policy_class = packet->flow.policy_class;
	hint.generation = generation_of(hint.policy_class);
	/* Once more: the entry must be no older than the generation. */
	value = bpf_map_lookup_elem(&attachment, &key);
	remembered = bpf_map_lookup_elem(&attachment_hint, &index);
	if (remembered && value && is_attached(value) && value->attach.vrf == hint.vrf &&
	    value->attach.policy_class == hint.policy_class)
		*(volatile __u64 *)&remembered->word = hint.word;
	return GO_ON;
}

static __always_inline int attach(struct packet *packet, __u32 vlan_id)
{
	__u32 index = packet->ingress_port;
	union attachment_hint hint, *remembered = bpf_map_lookup_elem(&attachment_hint, &index);

	if (vlan_id || !remembered)
		return find_attachment(packet, vlan_id);
	hint.word = *(volatile __u64 *)&remembered->word;
	if (!hint.generation || generation_of(hint.vrf == FABRIC_VRF ? 0 : hint.policy_class) != hint.generation)
		return find_attachment(packet, vlan_id);
	if (hint.vrf == FABRIC_VRF) {
		enter_from_link(packet, hint.ingress_class);
		return GO_ON;
	}
	packet->ingress_class = ATTACHMENT_CLASS;
	packet->flow_port = index;
	packet->vrf = hint.vrf;
	packet->flow.policy_class = hint.policy_class;
	return GO_ON;
}

/*
 * What a station takes: frames to its own MAC and, marked, to groups. A port hears others too, since its interface is
 * promiscuous or a bridge behind it floods.
 */
static __always_inline int take_station(struct packet *packet, const struct ethernet *ethernet, const struct port *here)
{
	if (same_mac(ethernet->destination, here->mac))
		return GO_ON;
	if (!(ethernet->destination[0] & 1))
		return drop(packet, DROP_NOT_TO_US);
	packet->to_group = true;
	return GO_ON;
}

__noinline int global_take_piece(struct xdp_md *ctx, struct packet *packet); /* cut.h */

/* Ingress port, Ethernet, at most one tag, and whose the frame is. */
static __always_inline int classify(struct xdp_md *ctx, struct packet *packet)
{
	struct cursor c = cursor_at(ctx, 0);
	struct ethernet *ethernet;
	__u32 index, vlan_id = 0;
	struct port *here;
	int verdict;

	packet->ifindex = ctx->ingress_ifindex;
	packet->frame_length = ctx->data_end - ctx->data;
	here = port_of(packet->ifindex, &index);
	if (!here)
		return global_take_piece(ctx, packet);
	packet->ingress_port = index;
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
		vlan_id = bpf_ntohs(tag->control) & 0xfff;
		packet->ether_type = bpf_ntohs(tag->type);
		packet->ip_offset += sizeof(*tag);
	}
	verdict = attach(packet, vlan_id);
	if (verdict != GO_ON || packet->ingress_class != ATTACHMENT_CLASS)
		return verdict;
	return take_station(packet, ethernet, here);
}
