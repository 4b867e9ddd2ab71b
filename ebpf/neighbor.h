/*
 * The edge is the router of its attachments: it answers ARP and ND itself, and learns who is there. A port keeps
 * NEIGHBORS_OF_PORT addresses and then forgets the eldest, so that only its own hosts feel who claims many.
 *
 *   ARP, NS, NA --> learn the sender, if source_guard admits it --> a question for the gateway, or for an address
 *   that the context has behind another port (proxy) --> answer; all else: dropped, NEIGHBOR_IGNORED
 *
 * Whether what was learnt still holds, user space asks from time to time (RFC 1122 §2.3.2.1, RFC 4861 §7.3), and takes it
 * away where nobody answers. Meanwhile packets go on.
 */
#pragma once

struct neighbor_key {
	__u16 port;
	__u16 zero;
	__u32 zero2;
	union address address;
};
_Static_assert(sizeof(struct neighbor_key) == 24, "neighbor_key");

struct neighbor_value {
	__u8 mac[6];
	__u16 slot;         /* its place in `learnt` */
	__u64 confirmed_ns; /* when a question of ours was answered from `mac`, by the boot clock; 0: not, or there is doubt */
};
_Static_assert(sizeof(struct neighbor_value) == 16, "neighbor_value");

#define NEIGHBORS (PORTS * NEIGHBORS_OF_PORT)

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, NEIGHBORS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct neighbor_key);
	__type(value, struct neighbor_value);
} neighbor SEC(".maps");

/* What a port learnt, eldest overwritten first. User space deletes from `neighbor` only: slots may be out of date. */
struct learnt {
	__u32 count;
	__u32 zero;
	union address address[NEIGHBORS_OF_PORT];
};
_Static_assert(sizeof(struct learnt) == 8 + 16 * NEIGHBORS_OF_PORT, "learnt");
_Static_assert((NEIGHBORS_OF_PORT & (NEIGHBORS_OF_PORT - 1)) == 0, "a power of two: slots are taken by mask");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PORTS);
	__type(key, __u32); /* port */
	__type(value, struct learnt);
} learnt SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, SOURCE_GUARD_SIZE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct source_guard_key);
	__type(value, struct source_guard_value);
} source_guard SEC(".maps");

/* Since when nobody answers for an address of a port, and when it was last asked for; by the boot clock. */
struct unanswered_value {
	__u64 since_ns;
	__u64 asked_ns;
};

#define UNANSWERED 4096

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, UNANSWERED);
	__type(key, struct neighbor_key);
	__type(value, struct unanswered_value);
} unanswered SEC(".maps");

/* After so long a host counts as unreachable, RFC 4861 §10: 3 questions, 1 s each. Then it is asked every 5 s. */
const volatile __u64 neighbor_wait_ns = 3000000000;
const volatile __u64 neighbor_again_ns = 5000000000;
#define UNANSWERED_REST_NS 60000000000ull

#define ARP_HARDWARE_ETHERNET 1
#define ARP_REQUEST           1
#define ARP_REPLY             2
#define ND_HOP_LIMIT          255

static __noinline bool is_source_admitted(__u32 ingress_port, const union address *source)
{
	struct source_guard_key key = {
		.prefix_length = 160,
		.ingress_port = bpf_htonl(ingress_port),
		.source = *source,
	};

	return bpf_map_lookup_elem(&source_guard, &key) != NULL;
}

static __always_inline bool is_unicast_mac(const __u8 *mac)
{
	return !(mac[0] & 1) && (*(const __u32 *)mac || *(const __u16 *)(mac + 4));
}

/* A slot of `learnt` for one more address of a port; whose it was is forgotten. Negative: none. */
static __noinline int take_slot(__u32 ingress_port, const union address *address)
{
	struct learnt *of_port = bpf_map_lookup_elem(&learnt, &ingress_port);
	struct neighbor_key eldest = {.port = ingress_port};
	struct neighbor_value *known;
	__u32 slot;

	if (!of_port)
		return -1;
	slot = __sync_fetch_and_add(&of_port->count, 1) & (NEIGHBORS_OF_PORT - 1);
	eldest.address = of_port->address[slot];
	of_port->address[slot] = *address;
	known = bpf_map_lookup_elem(&neighbor, &eldest);
	if (known && known->slot == slot && !bpf_map_delete_elem(&neighbor, &eldest))
		count_event(EVENT_NEIGHBOR_EVICTED);
	return slot;
}

/* What a message says of the MAC in it: RFC 4861 §7.2.5. */
#define MAC_IS_CONFIRMED 1 /* it answers a question of ours */
#define MAC_OVERRIDES    2 /* it holds even where another one is known */

static __noinline int learn_neighbor(__u32 ingress_port, const union address *address, const __u8 *mac, __u32 says)
{
	struct neighbor_key key = {.port = ingress_port, .address = *address};
	struct neighbor_value value = {}, *known;
	int slot;

	if (no_address(address) || !is_unicast_mac(mac) || !is_source_admitted(ingress_port, address))
		return 0;
	known = bpf_map_lookup_elem(&neighbor, &key);
	if (known && (same_mac(known->mac, mac) || !(says & MAC_OVERRIDES))) {
		if (!same_mac(known->mac, mac))
			known->confirmed_ns = 0;
		else if (says & MAC_IS_CONFIRMED)
			known->confirmed_ns = bpf_ktime_get_boot_ns();
		return 0;
	}
	slot = known ? known->slot : take_slot(ingress_port, address);
	if (slot < 0)
		return 0;
	if (!known)
		bpf_map_delete_elem(&unanswered, &key);
	copy_mac(value.mac, mac);
	value.slot = slot;
	if (says & MAC_IS_CONFIRMED)
		value.confirmed_ns = bpf_ktime_get_boot_ns();
	if (!bpf_map_update_elem(&neighbor, &key, &value, known ? BPF_EXIST : BPF_ANY))
		count_event(EVENT_NEIGHBOR_LEARNT);
	return 0;
}

/* Whether nobody has answered for an address for so long that its senders are told, and it is not time to ask again. */
static __noinline bool is_given_up(const struct neighbor_key *key)
{
	struct unanswered_value *known = bpf_map_lookup_elem(&unanswered, key), first;
	__u64 now = bpf_ktime_get_boot_ns();

	if (!known || now - known->asked_ns > UNANSWERED_REST_NS) {
		first.since_ns = now;
		first.asked_ns = now;
		bpf_map_update_elem(&unanswered, key, &first, BPF_ANY);
		return false;
	}
	if (now - known->since_ns >= neighbor_wait_ns && now - known->asked_ns < neighbor_again_ns)
		return true;
	known->asked_ns = now;
	return false;
}

static __always_inline bool is_neighbor_known(__u32 ingress_port, const union address *address)
{
	struct neighbor_key key = {.port = ingress_port, .address = *address};

	return bpf_map_lookup_elem(&neighbor, &key) != NULL;
}

/* The context has `address` behind another port, so that the edge answers for it. */
static __noinline bool is_elsewhere(__u32 context, const union address *address, __u32 ingress_port)
{
	struct route_key key = {
		.prefix_length = 160,
		.context = bpf_htonl(context),
		.destination = *address,
	};
	struct route_value *found = bpf_map_lookup_elem(&route, &key);
	struct next_hop_value *hop;
	__u32 index;

	if (!found || found->action != ROUTE_SET_NEXT_HOP)
		return false;
	index = found->set_next_hop.next_hop;
	hop = bpf_map_lookup_elem(&next_hop, &index);
	if (!hop)
		return false;
	if (hop->action == NEXT_HOP_FORWARD)
		return hop->forward.port != ingress_port;
	return hop->action == NEXT_HOP_RESOLVE && hop->resolve.port != ingress_port;
}

/* Back to where the frame came from, from our MAC; the tag stays. A veth delivers this, XDP_TX it may not. */
static __always_inline int answer(struct xdp_md *ctx, const struct packet *packet, const void *to_mac)
{
	struct cursor c = cursor_at(ctx, 0);
	struct ethernet *ethernet = pull(&c, sizeof(*ethernet));
	__u32 index = packet->ingress_port;
	struct port *here = bpf_map_lookup_elem(&port, &index);

	if (!ethernet || !here)
		return drop(packet, DROP_MALFORMED);
	copy_mac(ethernet->destination, to_mac);
	copy_mac(ethernet->source, here->mac);
	return bpf_redirect(packet->ifindex, 0);
}

static __always_inline int receive_arp(struct xdp_md *ctx, struct packet *packet)
{
	struct cursor c = cursor_at(ctx, ip_offset(packet));
	struct arp *arp = pull(&c, sizeof(*arp));
	union address sender = {}, target;
	__u32 index = packet->ingress_port, target_ipv4;
	struct port *here;
	__u8 mac[6];
	bool asks, is_answer;

	if (!arp)
		return drop(packet, DROP_MALFORMED);
	if (arp->hardware_type != bpf_htons(ARP_HARDWARE_ETHERNET) || arp->protocol_type != bpf_htons(ETHERTYPE_IPV4) ||
	    arp->hardware_length != 6 || arp->protocol_length != 4)
		return drop(packet, DROP_NEIGHBOR_IGNORED);
	asks = arp->operation == bpf_htons(ARP_REQUEST);
	if (!asks && arp->operation != bpf_htons(ARP_REPLY))
		return drop(packet, DROP_NEIGHBOR_IGNORED);
	copy_mac(mac, arp->sender_mac);
	target_ipv4 = *(__be32 *)arp->target;
	map_ipv4(&target, target_ipv4);
	/* 0.0.0.0 asks whether an address is in use, RFC 5227: nothing to learn, but to be answered. */
	if (*(__be32 *)arp->sender)
		map_ipv4(&sender, *(__be32 *)arp->sender);
	here = bpf_map_lookup_elem(&port, &index);
	if (!here)
		return drop(packet, DROP_NEIGHBOR_IGNORED);
	/* An answer to us, though it may be told to all: some hosts answer so. */
	is_answer = !asks && (!packet->to_group || (here->ipv4 && target_ipv4 == here->ipv4));
	learn_neighbor(index, &sender, mac, MAC_OVERRIDES | (is_answer ? MAC_IS_CONFIRMED : 0));
	if (!asks || target_ipv4 == *(__be32 *)arp->sender)
		return drop(packet, DROP_NEIGHBOR_IGNORED);
	if (!(here->ipv4 && target_ipv4 == here->ipv4) && !is_elsewhere(packet->flow.context, &target, index))
		return drop(packet, DROP_NEIGHBOR_IGNORED);
	arp->operation = bpf_htons(ARP_REPLY);
	copy_mac(arp->target_mac, mac);
	*(__be32 *)arp->target = *(__be32 *)arp->sender;
	copy_mac(arp->sender_mac, here->mac);
	*(__be32 *)arp->sender = target_ipv4;
	packet->ip_length = sizeof(*arp);
	if (cut_padding(ctx, packet) != GO_ON)
		return XDP_DROP;
	count_event(EVENT_ARP_ANSWERED);
	return answer(ctx, packet, mac);
}

__noinline int global_receive_arp(struct xdp_md *ctx, struct packet *packet)
{
	return packet ? receive_arp(ctx, packet) : XDP_DROP;
}

/* An ICMPv6 message longer than what a link without jumbo frames carries is not looked at. */
#define ND_BYTES_MAX 1460

static __always_inline bool is_checksum_right(struct xdp_md *ctx, const struct packet *packet)
{
	struct cursor c = cursor_at(ctx, ip_offset(packet));
	struct ipv6 *ip = pull(&c, sizeof(*ip));
	__u32 length;
	__u64 sum;

	if (!ip)
		return false;
	length = bpf_ntohs(ip->payload_length);
	if (length > ND_BYTES_MAX)
		return false;
	sum = pseudo_header_sum(ip, length, PROTOCOL_ICMPV6);
	return checksum_fold(sum + global_sum(ctx, ip_offset(packet) + sizeof(*ip), length)) == 0xffff;
}

static __always_inline bool is_discovery(struct xdp_md *ctx, const struct packet *packet)
{
	struct cursor c = cursor_at(ctx, ip_offset(packet) + sizeof(struct ipv6));
	__u8 *type;

	if (packet->ether_type != ETHERTYPE_IPV6 || packet->flow.protocol != PROTOCOL_ICMPV6 ||
	    packet->l4_offset != sizeof(struct ipv6) || packet->ip_length <= sizeof(struct ipv6))
		return false;
	type = pull(&c, 1);
	return type && *type >= ND_FIRST && *type <= ND_LAST;
}

/* More than these a message of ours and of hosts never has; one with more is ignored. */
#define ND_OPTIONS 32

enum nd_options {
	ND_OPTIONS_WRONG = -1,
	ND_OPTIONS_WITHOUT_MAC,
	ND_OPTIONS_WITH_MAC,
};

/* An option as it is on the wire, behind what brings its MAC to a multiple of 4. */
struct nd_option {
	__u8 zero[2];
	__u8 type;
	__u8 length; /* in 8 octets */
	__u8 mac[6];
} __attribute__((aligned(4)));
#define ND_OPTION_BYTES 8

/* The options from `at` to `end` in any order: the first MAC of type `wanted`; others are skipped (RFC 4861 §4.6). */
static __noinline int read_nd_options(struct xdp_md *ctx, __u32 at, __u32 end, __u32 wanted, __u8 *mac)
{
	int found = ND_OPTIONS_WITHOUT_MAC;
	struct nd_option option = {};

	for (__u32 i = 0; i < ND_OPTIONS; i++) {
		if (at == end)
			return found;
		if (at + ND_OPTION_BYTES > end || bpf_xdp_load_bytes(ctx, at, &option.type, ND_OPTION_BYTES) ||
		    !option.length || at + option.length * 8 > end)
			return ND_OPTIONS_WRONG;
		at += option.length * 8;
		if (option.type != wanted)
			continue;
		if (option.length != 1) /* no MAC of Ethernet, RFC 2464 §6 */
			return ND_OPTIONS_WRONG;
		if (found == ND_OPTIONS_WITHOUT_MAC)
			copy_mac(mac, option.mac);
		found = ND_OPTIONS_WITH_MAC;
	}
	return at == end ? found : ND_OPTIONS_WRONG;
}

/* ff02::1:ff00:0/104, RFC 4291 §2.7.1 */
static __always_inline bool is_solicited_node(const union address *address)
{
	return address->half[0] == bpf_cpu_to_be64(0xff02ull << 48) && address->word[2] == bpf_htonl(1) &&
	       address->byte[12] == 0xff;
}

/* A question or an answer, as far as it is right (RFC 4861 §7.1): all but its options. */
struct nd_message {
	union address from;
	union address to;
	union address target;
	__be32 flags;
	__u8 asks;
};

static __always_inline bool parse_discovery(struct xdp_md *ctx, const struct packet *packet, struct nd_message *said)
{
	struct cursor c = cursor_at(ctx, ip_offset(packet));
	struct ipv6 *ip = pull(&c, sizeof(*ip));
	struct neighbor_message *nd = pull(&c, sizeof(*nd));

	if (!ip || !nd || packet->ip_length < sizeof(*ip) + sizeof(*nd) || ip->hop_limit != ND_HOP_LIMIT ||
	    nd->icmp.code || nd->target.byte[0] == 0xff)
		return false;
	said->from = ip->source;
	said->to = ip->destination;
	said->target = nd->target;
	said->flags = nd->icmp.rest;
	said->asks = nd->icmp.type == ND_NEIGHBOR_SOLICITATION;
	if (said->asks)
		return !no_address(&said->from) || is_solicited_node(&said->to);
	return nd->icmp.type == ND_NEIGHBOR_ADVERTISEMENT &&
	       !(said->to.byte[0] == 0xff && said->flags & bpf_htonl(ND_SOLICITED));
}

static __always_inline void learn_from_discovery(const struct packet *packet, const struct nd_message *said,
						 const __u8 *mac, bool has_mac)
{
	__u32 says = 0;

	if (said->asks) {
		if (has_mac)
			learn_neighbor(packet->ingress_port, &said->from, mac, MAC_OVERRIDES);
		return;
	}
	if (said->flags & bpf_htonl(ND_SOLICITED))
		says |= MAC_IS_CONFIRMED;
	if (has_mac && said->flags & bpf_htonl(ND_OVERRIDE))
		says |= MAC_OVERRIDES;
	if (has_mac || is_neighbor_known(packet->ingress_port, &said->target))
		learn_neighbor(packet->ingress_port, &said->target, mac, says);
}

/* The frame becomes the advertisement that `target` is here; to all nodes where the asker has no address yet. */
static __always_inline int advertise(struct xdp_md *ctx, struct packet *packet, const struct nd_message *asked,
				     const struct port *here, __u8 *mac, __u32 flags)
{
	__u32 length = ctx->data_end - ctx->data;
	struct neighbor_discovery *nd;
	struct ipv6 *ip;
	struct cursor c;

	asm volatile("" : "+r"(length)); /* clang is not to add to the pointers of which it is the difference */
	if (bpf_xdp_adjust_tail(ctx, (int)(ip_offset(packet) + sizeof(*ip) + sizeof(*nd)) - (int)length))
		return drop(packet, DROP_NEIGHBOR_IGNORED);
	c = cursor_at(ctx, ip_offset(packet));
	ip = pull(&c, sizeof(*ip));
	nd = pull(&c, sizeof(*nd));
	if (!ip || !nd)
		return drop(packet, DROP_NEIGHBOR_IGNORED);
	ip->version_class_label = bpf_htonl(0x60000000);
	ip->payload_length = bpf_htons(sizeof(*nd));
	ip->hop_limit = ND_HOP_LIMIT;
	ip->source = asked->target;
	ip->destination = asked->from;
	if (no_address(&asked->from)) { /* RFC 4861 §7.2.4 */
		ip->destination.half[0] = bpf_cpu_to_be64(0xff02ull << 48);
		ip->destination.half[1] = bpf_cpu_to_be64(1);
		*(__be32 *)mac = bpf_htonl(0x33330000);
		*(__be16 *)(mac + 4) = bpf_htons(1);
	} else {
		flags |= ND_SOLICITED;
	}
	nd->icmp.type = ND_NEIGHBOR_ADVERTISEMENT;
	nd->icmp.code = 0;
	nd->icmp.checksum = 0;
	nd->icmp.rest = bpf_htonl(flags);
	nd->target = asked->target;
	nd->option_type = ND_OPTION_TARGET_MAC;
	nd->option_length = 1;
	copy_mac(nd->mac, here->mac);
	nd->icmp.checksum =
		~checksum_fold(pseudo_header_sum(ip, sizeof(*nd), PROTOCOL_ICMPV6) + checksum_sum(nd, sizeof(*nd)));
	count_event(EVENT_ND_ANSWERED);
	return answer(ctx, packet, mac);
}

static __always_inline int receive_discovery(struct xdp_md *ctx, struct packet *packet)
{
	__u32 index = packet->ingress_port, options = ip_offset(packet) + ND_OPTIONS_OFFSET, flags = ND_ROUTER;
	struct cursor c = cursor_at(ctx, 0);
	struct ethernet *ethernet = pull(&c, sizeof(*ethernet));
	struct nd_message said = {};
	struct port *here;
	__u8 mac[6];
	int found;

	if (!ethernet)
		return drop(packet, DROP_MALFORMED);
	copy_mac(mac, ethernet->source);
	if (!parse_discovery(ctx, packet, &said) || !is_checksum_right(ctx, packet))
		return drop(packet, DROP_NEIGHBOR_IGNORED);
	found = read_nd_options(ctx, options, ip_offset(packet) + packet->ip_length,
				said.asks ? ND_OPTION_SOURCE_MAC : ND_OPTION_TARGET_MAC, mac);
	if (found < 0 || (found && said.asks && no_address(&said.from)))
		return drop(packet, DROP_NEIGHBOR_IGNORED);
	learn_from_discovery(packet, &said, mac, found == ND_OPTIONS_WITH_MAC);

	here = bpf_map_lookup_elem(&port, &index);
	if (!here || !said.asks || same_address(&said.from, &said.target))
		return drop(packet, DROP_NEIGHBOR_IGNORED);
	if (!no_address(&here->ipv6) && same_address(&said.target, &here->ipv6))
		flags |= ND_OVERRIDE; /* A proxy does not override, RFC 4861 §7.2.8. */
	else if (!is_elsewhere(packet->flow.context, &said.target, index))
		return drop(packet, DROP_NEIGHBOR_IGNORED);
	return advertise(ctx, packet, &said, here, mac, flags);
}

__noinline int global_receive_discovery(struct xdp_md *ctx, struct packet *packet)
{
	return packet ? receive_discovery(ctx, packet) : XDP_DROP;
}
