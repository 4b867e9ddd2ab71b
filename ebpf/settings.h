/* What user space tells the program about its node. */
#pragma once

#define PUNT_IP_OF_ALL 0xffffffff

struct settings {
	__u32 punt_ip; /* of which ingress class an entry of punt_frame may match IP or ARP; 0: of none */
	__u32 zero;
	__u64 flow_cache_seed;
};
_Static_assert(sizeof(struct settings) == 16, "settings");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct settings);
} settings SEC(".maps");

static __always_inline __u64 seed_of_node(void)
{
	__u32 zero = 0;
	struct settings *node = bpf_map_lookup_elem(&settings, &zero);

	return node ? node->flow_cache_seed : 0;
}
