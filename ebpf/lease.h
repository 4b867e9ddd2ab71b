/* Until when forwarding classes, and what is denied for a time, hold: with every process dead. */
#pragma once

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, LEASE_SIZE);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32); /* forwarding class */
	__type(value, struct lease_value);
} lease SEC(".maps");

static __always_inline bool is_over(__u32 boottime_s)
{
	return bpf_ktime_get_boot_ns() >= boottime_s * 1000000000ull;
}

/* Compared for each packet, of known flows too. */
static __always_inline bool is_lease_expired(__u32 forwarding_class)
{
	struct lease_value *value = bpf_map_lookup_elem(&lease, &forwarding_class);

	return value && value->action == LEASE_EXPIRE_AT && is_over(value->expire_at.boottime_s);
}
