/*
 * Which forwarding class a flow has; asked where the flow cache does not know.
 *
 *   source_guard(port, source)           addresses --> groups     \
 *     (attachments only)                 ports ------> classes     +--> flow_policy --> permit(class) or drop(reason)
 *                                        L4 class -----------------/
 *
 * flow_policy is searched by tuple space: one hash look-up for each of the policy class' masks, the highest priority wins.
 * A reply that answers nothing (conversation.h) is left to what comes next.
 */
#pragma once

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, SOURCE_GROUP_SIZE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct source_group_key);
	__type(value, struct source_group_value);
} source_group SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, DESTINATION_GROUP_SIZE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct destination_group_key);
	__type(value, struct destination_group_value);
} destination_group SEC(".maps");

#define PORT_PROTOCOLS 4

/* What a packet does to a conversation: its TCP flags, and */
#define ASKING_ONLY  0x100 /* nothing: it passes if there is one */
#define ASKING_OPENS 0x200 /* TCP: SYN without ACK */
#define ASKING_REPLY 0x400

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PORT_PROTOCOLS);
	__type(key, __u32); /* protocol */
	__type(value, struct source_port_class_value);
} source_port_class SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PORT_PROTOCOLS);
	__type(key, __u32); /* protocol */
	__type(value, struct destination_port_class_value);
} destination_port_class SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, SOURCE_PORT_CLASS_SIZE);
	__type(key, struct source_port_class_range_key);
	__type(value, struct source_port_class_range_value);
} source_port_class_range SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, DESTINATION_PORT_CLASS_SIZE);
	__type(key, struct destination_port_class_range_key);
	__type(value, struct destination_port_class_range_value);
} destination_port_class_range SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, POLICY_CLASS_COUNTER_SIZE);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32); /* policy class */
	__type(value, struct flow_policy_masks);
} flow_policy_masks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, FLOW_POLICY_SIZE);
	__type(key, struct flow_policy_key);
	__type(value, struct flow_policy_value);
} flow_policy SEC(".maps");

/* Of their own, since their keys would make the stack of what asks for them too large for Linux 6.1 (512 bytes in all). */
static __noinline __u32 source_group_of(__u32 vrf, const union address *address)
{
	struct source_group_key key = {
		.prefix_length = 160,
		.vrf = bpf_htonl(vrf),
		.address = *address,
	};
	struct source_group_value *value = bpf_map_lookup_elem(&source_group, &key);

	return value ? value->set_source_group.group : 0;
}

static __noinline __u32 destination_group_of(__u32 vrf, const union address *address)
{
	struct destination_group_key key = {
		.prefix_length = 160,
		.vrf = bpf_htonl(vrf),
		.address = *address,
	};
	struct destination_group_value *value = bpf_map_lookup_elem(&destination_group, &key);

	return value ? value->set_destination_group.group : 0;
}

/* To the verifier of Linux 6.1 a swapped value is any number; the barrier has clang keep the mask. */
static __always_inline __u32 port_index(__be16 number)
{
	__u32 index = bpf_ntohs(number);

	asm volatile("" : "+r"(index));
	return index & 0xffff;
}

static __always_inline __u16 source_port_class_of(__u32 protocol, __be16 number)
{
	struct source_port_class_value *classes = bpf_map_lookup_elem(&source_port_class, &protocol);

	return classes ? classes->port_class[port_index(number)] : 0;
}

static __always_inline __u16 destination_port_class_of(__u32 protocol, __be16 number)
{
	struct destination_port_class_value *classes = bpf_map_lookup_elem(&destination_port_class, &protocol);

	return classes ? classes->port_class[port_index(number)] : 0;
}

__noinline int global_converse(const union flow_key *key, __u32 asking, __u32 port); /* conversation.h */

/* The highest that say of what has no conversation, and of replies. */
struct policies {
	const struct flow_policy_value *best;
	const struct flow_policy_value *reply;
};

static __noinline int find_policies(const struct flow_policy_key *key, struct policies *found)
{
	__u32 policy_class = key->policy_class;
	struct flow_policy_masks *masks = bpf_map_lookup_elem(&flow_policy_masks, &policy_class);

	if (!masks)
		return 0;
	for (__u32 i = 0; i < FLOW_POLICY_MASKS; i++) {
		const struct flow_policy_key *mask = &masks->mask[i];
		struct flow_policy_key masked = {
			.policy_class = policy_class,
			.source_group = key->source_group & mask->source_group,
			.destination_group = key->destination_group & mask->destination_group,
			.l4_class = key->l4_class & mask->l4_class,
			.source_port_class = key->source_port_class & mask->source_port_class,
			.destination_port_class = key->destination_port_class & mask->destination_port_class,
			.mask_id = i,
		};
		struct flow_policy_value *value;

		if (i >= masks->count)
			break;
		value = bpf_map_lookup_elem(&flow_policy, &masked);
		if (!value)
			continue;
		if (value->action == FLOW_POLICY_PERMIT_REPLY) {
			if (!found->reply || value->priority > found->reply->priority)
				found->reply = value;
		} else if (!found->best || value->priority > found->best->priority) {
			found->best = value;
		}
	}
	return 0;
}

/* `key`: room for one. */
static __always_inline bool is_asked(const union flow_key *flow, __u16 network, __u32 asking, union flow_key *key)
{
	key->source = flow->destination;
	key->destination = flow->source;
	key->word[4] = flow->destination_port | (__u32)flow->source_port << 16 | (__u64)flow->protocol << 32 |
		       (__u64)network << 48;
	return global_converse(key, asking | ASKING_REPLY, 0);
}

/* The flow's forwarding class, or minus the reason to drop it; `asking`: see above. */
static __always_inline int resolve(const union flow_key *flow, __u32 vrf, __u32 flow_port, __u32 asking)
{
	struct flow_policy_key key = {.policy_class = flow->policy_class};
	const struct flow_policy_value *best, *reply;
	struct policies found = {};
	union flow_key asked = {};

	if (flow_port && !is_source_admitted(flow_port, &flow->source))
		return -DROP_SOURCE_NOT_ADMITTED;
	key.source_group = source_group_of(vrf, &flow->source);
	key.destination_group = destination_group_of(vrf, &flow->destination);
	key.l4_class = flow->l4_class;
	key.source_port_class = source_port_class_of(flow->protocol, flow->source_port);
	key.destination_port_class = destination_port_class_of(flow->protocol, flow->destination_port);
	find_policies(&key, &found);
	best = found.best;
	if (flow->l4_class == L4_TCP_OPEN)
		asking |= ASKING_OPENS;
	if (flow->l4_class == L4_TCP_OPEN &&
	    (!best || best->action == FLOW_POLICY_DROP)) { /* Both ends may open at once: only as a reply. */
		key.l4_class = L4_TCP;
		found.reply = NULL;
		find_policies(&key, &found);
	}
	reply = found.reply;
	if (reply && (!best || reply->priority > best->priority)) {
		if (is_asked(flow, reply->permit_reply.network, asking, &asked))
			return reply->permit_reply.forwarding_class;
		if (!best)
			return flow->l4_class == L4_TCP_OPEN ? -DROP_NOT_PERMITTED : -DROP_UNASKED;
	}
	if (!best)
		return flow->l4_class == L4_UNCLASSIFIED ? -DROP_UNCLASSIFIED : -DROP_NOT_PERMITTED;
	if (best->action == FLOW_POLICY_PERMIT)
		return best->permit.forwarding_class;
	if (best->action != FLOW_POLICY_PERMIT_REQUEST)
		return -(int)best->drop.reason;
	asked = *flow;
	asked.l4_class = 0;
	asked.policy_class = best->permit_request.network;
	return global_converse(&asked, asking, flow_port) ? (int)best->permit_request.forwarding_class : -DROP_UNASKED;
}

__noinline int global_resolve(const union flow_key *flow, __u32 vrf, __u32 flow_port, __u32 asking)
{
	return flow ? resolve(flow, vrf, flow_port, asking) : -DROP_NOT_PERMITTED;
}
