/* What is counted beside flows: drops, what forwarding classes had in evicted flows and lost, what was denied, events. */
#pragma once

struct packets_bytes {
	__u64 packets;
	__u64 bytes;
};
_Static_assert(sizeof(struct packets_bytes) == 16, "packets_bytes");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, struct packets_bytes);
} drop_counter SEC(".maps");

/* A forwarding class' total is what is here and what its flows have in the cache. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, FORWARDING_CLASS_COUNTER_SIZE);
	__type(key, __u32);
	__type(value, struct packets_bytes);
} forwarding_class_counter SEC(".maps");

/* What was permitted, and dropped all the same; frames as they came. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, FORWARDING_CLASS_DROP_COUNTER_SIZE);
	__type(key, __u32);
	__type(value, struct packets_bytes);
} forwarding_class_drop_counter SEC(".maps");

/* What flow_policy denied. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, POLICY_CLASS_COUNTER_SIZE);
	__type(key, __u32);
	__type(value, struct packets_bytes);
} policy_class_counter SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 32);
	__type(key, __u32);
	__type(value, __u64);
} event_counter SEC(".maps");

/* forwarding_class: 0 where none was found. */
__noinline int count_drop(__u32 reason, __u32 frame_length, __u32 forwarding_class)
{
	struct packets_bytes *counter = bpf_map_lookup_elem(&drop_counter, &reason);

	if (counter) {
		counter->packets++;
		counter->bytes += frame_length;
	}
	if (!forwarding_class)
		return 0;
	counter = bpf_map_lookup_elem(&forwarding_class_drop_counter, &forwarding_class);
	if (counter) {
		counter->packets++;
		counter->bytes += frame_length;
	}
	return 0;
}

static __always_inline int drop(const struct packet *packet, __u32 reason)
{
	if (!packet->counted)
		count_drop(reason, packet->frame_length, packet->forwarding_class);
	return XDP_DROP;
}

static __always_inline void count_class(__u32 forwarding_class, __u64 packets, __u64 bytes)
{
	struct packets_bytes *counter = bpf_map_lookup_elem(&forwarding_class_counter, &forwarding_class);

	if (counter) {
		counter->packets += packets;
		counter->bytes += bytes;
	}
}

__noinline int count_denied(__u32 policy_class, __u32 bytes)
{
	struct packets_bytes *counter = bpf_map_lookup_elem(&policy_class_counter, &policy_class);

	if (counter) {
		counter->packets++;
		counter->bytes += bytes;
	}
	return 0;
}

static __always_inline void count_event(__u32 event)
{
	__u64 *counter = bpf_map_lookup_elem(&event_counter, &event);

	if (counter)
		(*counter)++;
}
