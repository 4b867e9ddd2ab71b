/*
 * Which forwarding class a flow has; asked where the flow cache does not know.
 *
 *   source_guard(port, source)           addresses --> groups     \
 *     (attachments only)                 ports ------> classes     +--> flow_policy --> permit(class) or drop(reason)
 *                                        L4 class -----------------/
 *
 * flow_policy is searched by tuple space: one hash look-up for each of the policy class' masks, the highest priority wins.
 * A reply that answers nothing (conversation.h) is left to what comes next; so is what an entry says whose time, or whose
 * forwarding class' lease, is over. Where nothing below permits it, its lease drops the packet.
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
__noinline int global_as_asked(union flow_key *key, __u32 forwarding_class);         /* steer.h */

/* What an entry says of a flow. */
struct said {
	__u32 priority; /* 0: there is none */
	__u16 action;   /* of those that deny FLOW_POLICY_DROP */
	__u16 value;    /* forwarding class; or the reason to drop it */
	__u16 network;
};

/* The highest of each. */
struct policies {
	struct said best; /* without a conversation */
	struct said reply;
	struct said ended; /* which permits no more */
};

static __always_inline void take(const struct flow_policy_value *value, struct policies *found, bool replies)
{
	__u32 said = value->permit_request.forwarding_class; /* where all that permit have it */
	struct said *highest = &found->best;

	if (value->action == FLOW_POLICY_DROP)
		said = value->drop.reason;
	else if (value->action == FLOW_POLICY_DROP_UNTIL && is_over(value->drop_until.boottime_s))
		return;
	else if (value->action == FLOW_POLICY_DROP_UNTIL)
		said = value->drop_until.reason;
	else if (is_lease_expired(said))
		highest = &found->ended;
	else if (value->action == FLOW_POLICY_PERMIT_REPLY)
		highest = &found->reply;
	if (value->priority <= highest->priority || (replies && highest != &found->reply))
		return;
	highest->priority = value->priority;
	highest->action = value->action == FLOW_POLICY_DROP_UNTIL ? FLOW_POLICY_DROP : value->action;
	highest->value = said;
	highest->network = value->permit_request.network;
}

/* Global, so that the verifier follows the loop once. `replies`: these alone are asked for. */
__noinline int global_find_policies(const struct flow_policy_key *key, struct policies *found, bool replies)
{
	__u32 policy_class;
	struct flow_policy_masks *masks;

	if (!key || !found)
		return 0;
	policy_class = key->policy_class;
	masks = bpf_map_lookup_elem(&flow_policy_masks, &policy_class);
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
		if (value)
			take(value, found, replies);
	}
	return 0;
}

/* `key`: room for one. */
static __always_inline bool is_asked(const union flow_key *flow, const struct said *reply, __u32 asking,
				     union flow_key *key)
{
	key->source = flow->destination;
	key->destination = flow->source;
	key->word[4] = flow->destination_port | (__u32)flow->source_port << 16 | (__u64)flow->protocol << 32 |
		       (__u64)reply->network << 48;
	global_as_asked(key, reply->value);
	return global_converse(key, asking | ASKING_REPLY, 0);
}

/* The flow's forwarding class, or minus the reason to drop it; `asking`: see above. */
static __always_inline int resolve(const union flow_key *flow, __u32 vrf, __u32 flow_port, __u32 asking)
{
	struct flow_policy_key key = {.policy_class = flow->policy_class};
	struct policies found = {};
	const struct said *best = &found.best, *reply = &found.reply;
	union flow_key asked = {};

	if (flow_port && !is_source_admitted(flow_port, &flow->source))
		return -DROP_SOURCE_NOT_ADMITTED;
	key.source_group = source_group_of(vrf, &flow->source);
	key.destination_group = destination_group_of(vrf, &flow->destination);
	key.l4_class = flow->l4_class;
	key.source_port_class = source_port_class_of(flow->protocol, flow->source_port);
	key.destination_port_class = destination_port_class_of(flow->protocol, flow->destination_port);
	global_find_policies(&key, &found, false);
	if (flow->l4_class == L4_TCP_OPEN)
		asking |= ASKING_OPENS;
	if (flow->l4_class == L4_TCP_OPEN &&
	    (!best->priority || best->action == FLOW_POLICY_DROP)) { /* Both ends may open at once: only as a reply. */
		key.l4_class = L4_TCP;
		found.reply.priority = 0;
		global_find_policies(&key, &found, true);
	}
	if (reply->priority > best->priority) {
		if (is_asked(flow, reply, asking, &asked))
			return reply->value;
		if (!best->priority && !found.ended.priority)
			return flow->l4_class == L4_TCP_OPEN ? -DROP_NOT_PERMITTED : -DROP_UNASKED;
	}
	if ((!best->priority || best->action == FLOW_POLICY_DROP) && found.ended.priority > best->priority)
		return found.ended.value; /* whose lease drops it */
	if (!best->priority)
		return flow->l4_class == L4_UNCLASSIFIED ? -DROP_UNCLASSIFIED : -DROP_NOT_PERMITTED;
	if (best->action == FLOW_POLICY_DROP)
		return -(int)best->value;
	if (best->action != FLOW_POLICY_PERMIT_REQUEST)
		return best->value;
	asked = *flow;
	asked.l4_class = 0;
	asked.policy_class = best->network;
	return global_converse(&asked, asking, flow_port) ? (int)best->value : -DROP_UNASKED;
}

__noinline int global_resolve(const union flow_key *flow, __u32 vrf, __u32 flow_port, __u32 asking)
{
	return flow ? resolve(flow, vrf, flow_port, asking) : -DROP_NOT_PERMITTED;
}
