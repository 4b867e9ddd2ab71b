/* VRF, destination --longest prefix--> route --> next hop */
#pragma once

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, ROUTE_SIZE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct route_key);
	__type(value, struct route_value);
} route SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, NEXT_HOP_SIZE);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct next_hop_value);
} next_hop SEC(".maps");

_Static_assert(__builtin_offsetof(struct next_hop_value, resolve.port) ==
			       __builtin_offsetof(struct next_hop_value, resolve_via.port) &&
		       __builtin_offsetof(struct next_hop_value, resolve.source_mac) ==
			       __builtin_offsetof(struct next_hop_value, resolve_via.source_mac) &&
		       __builtin_offsetof(struct next_hop_value, resolve.vlan) ==
			       __builtin_offsetof(struct next_hop_value, resolve_via.vlan),
	       "both are read as `resolve`");

/* To a host whose MAC is looked up. */
static __always_inline bool is_resolved(const struct next_hop_value *hop)
{
	return hop->action == NEXT_HOP_RESOLVE || hop->action == NEXT_HOP_RESOLVE_VIA;
}

/* Sets packet->next_hop, or refuses. */
static __always_inline int find_route(struct packet *packet, __u32 vrf, const union address *destination)
{
	struct route_key key = {
		.prefix_length = 160,
		.vrf = bpf_htonl(vrf),
		.destination = *destination,
	};
	struct route_value *found = bpf_map_lookup_elem(&route, &key);

	if (!found && vrf != FABRIC_VRF)
		return refuse(packet, DROP_NO_ROUTE, ERROR_NO_ROUTE);
	if (!found)
		return drop(packet, DROP_NO_ROUTE);
	if (found->action != ROUTE_SET_NEXT_HOP)
		return drop(packet, found->drop.reason);
	packet->next_hop = found->set_next_hop.next_hop;
	return TO_NEXT_HOP;
}

__noinline int global_find_route(struct packet *packet, __u32 vrf, const union address *destination)
{
	return packet && destination ? find_route(packet, vrf, destination) : XDP_DROP;
}
