/*
 * How user space takes back what XDP remembers of tables: it writes the tables, then increases the generation of each
 * policy class whose packets are concerned. Here it is the other way round: first the generation is read, then the
 * tables; what was found is remembered with that generation. 0 is none.
 */
#pragma once

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, POLICY_CLASS_COUNTER_SIZE);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32); /* policy class */
	__type(value, __u32);
} generation SEC(".maps");

static __always_inline __u32 generation_of(__u32 policy_class)
{
	__u32 *value = bpf_map_lookup_elem(&generation, &policy_class);

	return value ? *(volatile __u32 *)value : 0;
}
