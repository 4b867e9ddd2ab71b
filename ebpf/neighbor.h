/*
 * The edge is the router of its attachments: it answers ARP and ND itself, and learns who is there. A port keeps
 * NEIGHBORS_OF_PORT addresses and then forgets the eldest, so that only its own hosts feel who claims many.
 *
 *   ARP, NS, NA --> learn the sender, if source_guard admits it --> a question for the gateway, or for an address
 *   that the VRF has behind another port (proxy) --> answer; all else: dropped, NEIGHBOR_IGNORED
 *
 * Whether what was learnt still holds, user space asks from time to time (RFC 1122 §2.3.2.1, RFC 4861 §7.3), sooner where
 * packets go and, says the flow cache, nothing comes back; it takes away where nobody answers. Meanwhile packets go on.
 */
#pragma once

struct learnt_value {
	__u8 mac[6];
	__u16 slot;         /* its place in `learnt` */
	__u64 confirmed_ns; /* when a question of ours was answered from `mac`, by the boot clock; 0: not, or there is doubt */
	__u64 waiting_ns; /* the first packet that went there since, by the boot clock; 0: none */
};
_Static_assert(sizeof(struct learnt_value) == 24, "learnt_value");

#define NEIGHBORS (PORTS * NEIGHBORS_OF_PORT)

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, NEIGHBORS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct neighbor_key);
	__type(value, struct learnt_value);
} neighbor_cache SEC(".maps");

/* What a controller says, which goes before what was learnt. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, NEIGHBOR_SIZE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct neighbor_key);
	__type(value, struct neighbor_value);
} neighbor SEC(".maps");

/* What a port learnt, eldest overwritten first. User space deletes from `neighbor_cache` only: slots may be out of date. */
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
	struct learnt_value *known;
	__u32 slot;

	if (!of_port)
		return -1;
	slot = __sync_fetch_and_add(&of_port->count, 1) & (NEIGHBORS_OF_PORT - 1);
	eldest.address = of_port->address[slot];
	of_port->address[slot] = *address;
	known = bpf_map_lookup_elem(&neighbor_cache, &eldest);
	if (known && known->slot == slot && !bpf_map_delete_elem(&neighbor_cache, &eldest))
		count_event(EVENT_NEIGHBOR_EVICTED);
	return slot;
}

/* What a message says of the MAC in it: RFC 4861 §7.2.5. */
#define MAC_IS_CONFIRMED 1 /* it answers a question of ours */
#define MAC_OVERRIDES    2 /* it holds even where another one is known */

static __noinline int learn_neighbor(__u32 ingress_port, const union address *address, const __u8 *mac, __u32 says)
{
	struct neighbor_key key = {.port = ingress_port, .address = *address};
	struct learnt_value value = {}, *known;
	int slot;

	if (no_address(address) || !is_unicast_mac(mac) || !is_source_admitted(ingress_port, address))
		return 0;
	known = bpf_map_lookup_elem(&neighbor_cache, &key);
	if (known && (same_mac(known->mac, mac) || !(says & MAC_OVERRIDES))) {
		if (!same_mac(known->mac, mac))
			known->confirmed_ns = 0;
		else if (says & MAC_IS_CONFIRMED) {
			known->confirmed_ns = bpf_ktime_get_boot_ns();
			known->waiting_ns = 0;
		}
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
	if (!bpf_map_update_elem(&neighbor_cache, &key, &value, known ? BPF_EXIST : BPF_ANY))
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

	return bpf_map_lookup_elem(&neighbor_cache, &key) != NULL;
}

/* The VRF has `address` behind another port, so that the edge answers for it. */
static __noinline bool is_elsewhere(__u32 vrf, const union address *address, __u32 ingress_port)
{
	struct route_key key = {
		.prefix_length = 160,
		.vrf = bpf_htonl(vrf),
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
	return is_resolved(hop) && hop->resolve.port != ingress_port;
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
