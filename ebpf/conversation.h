/*
 * Who has asked whom: a reply passes where it answers something that is still alive.
 *
 *   flow_policy: permit_request(class, network) --> the conversation is opened, or goes on
 *                permit_reply(class, network) ----> passes if there is one, seen from the one who asked
 *
 * A conversation is asked for only where the flow cache does not know, and by TCP's SYN, FIN and RST; a flow of the cache
 * comes back here with its first packet of each interval (see is_same_interval), so that what is alive stays known. All
 * CPUs share the table, since replies come on another CPU than requests. User space holds it by its pin: it outlives agents.
 *
 *   TCP: a SYN opens; answered and acknowledged it is established, RFC 5382 REQ-5 (2 h 4 min); before, once both ends
 *   have sent FIN, or one RST and nothing since (RFC 7857 §2.2), it is transitory (4 min). A conversation that is under
 *   way when nobody knows it (all was lost) is taken up by the one who may ask. UDP and others 5 min (RFC 4787 REQ-5),
 *   echo 60 s (RFC 5508 REQ-1). Either direction keeps it alive.
 *
 * A bucket that is full gives way where it is dead, else where it is silent for longest, of the port that has most of it:
 * what one port opens cannot displace those of ports that have less.
 */
#pragma once

/* For all CPUs, a power of two; set before loading, with the size of the map. */
const volatile __u32 conversation_buckets = 16384;

#define TCP_ESTABLISHED_S 7440
#define TCP_TRANSITORY_S  240
#define ECHO_S            60
#define OTHERS_S          300
/* The cache may have seen packets for so much longer: an interval of it, at 100 jiffies a second. */
#define UNNOTICED_S       41

#define CONVERSATION_ANSWERED     1
#define CONVERSATION_ACKNOWLEDGED 2
#define CONVERSATION_RESET        4
#define CONVERSATION_FIN          8
#define CONVERSATION_REPLY_FIN    16

struct conversation {
	union flow_key key; /* of the one who asks; `policy_class` is the network that flow_policy says; no L4 class */
	__u32 seen_s;       /* by the boot clock; 0: free */
	__u16 port;         /* where it was asked; 0: it was decapsulated here */
	__u8 tcp;
	__u8 zero;
};
_Static_assert(sizeof(struct conversation) == 48, "conversation");

struct conversations {
	struct conversation way[CONVERSATION_WAYS];
};

struct conversation_bucket {
	struct bpf_spin_lock lock;
	__u32 zero;
	struct conversations in;
};
_Static_assert(sizeof(struct conversation_bucket) == 392, "conversation_bucket");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 16384);
	__type(key, __u32);
	__type(value, struct conversation_bucket);
} conversation SEC(".maps");

static __always_inline __u32 lifetime_s(__u32 protocol, __u32 tcp)
{
	const __u32 established = CONVERSATION_ANSWERED | CONVERSATION_ACKNOWLEDGED;
	const __u32 closed = CONVERSATION_FIN | CONVERSATION_REPLY_FIN;

	if (protocol == PROTOCOL_ICMP || protocol == PROTOCOL_ICMPV6)
		return ECHO_S + UNNOTICED_S;
	if (protocol != PROTOCOL_TCP)
		return OTHERS_S + UNNOTICED_S;
	if ((tcp & established) != established || (tcp & closed) == closed || tcp & CONVERSATION_RESET)
		return TCP_TRANSITORY_S + UNNOTICED_S;
	return TCP_ESTABLISHED_S + UNNOTICED_S;
}

static __always_inline bool is_alive(const struct conversation *one, __u32 now_s)
{
	return one->seen_s && now_s - one->seen_s <= lifetime_s(one->key.protocol, one->tcp);
}

/* Not locked: who changes what is found looks once more. */
__noinline int global_find_conversation(const struct conversations *in, const union flow_key *key)
{
	if (!in || !key)
		return CONVERSATION_WAYS;
	for (__u32 i = 0; i < CONVERSATION_WAYS; i++)
		if (in->way[i].seen_s && is_same_flow(&in->way[i].key, key))
			return i;
	return CONVERSATION_WAYS;
}

/* Which to give to another conversation. The index is part of what is compared, for the verifier. */
__noinline int global_conversation_to_end(const struct conversations *in, __u32 now_s)
{
	__u64 most = 0;

	if (!in)
		return 0;
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < CONVERSATION_WAYS; i++) {
		const struct conversation *one = &in->way[i];
		__u64 same = 0, worth;

#pragma clang loop unroll(disable)
		for (__u32 j = 0; j < CONVERSATION_WAYS; j++)
			same += is_equal(in->way[j].port, one->port);
		worth = same << 40 | (__u64)(now_s - one->seen_s) << 8;
		if (!is_alive(one, now_s))
			worth = 1ull << 63;
		if ((worth | i) > most)
			most = worth | i;
	}
	return most & (CONVERSATION_WAYS - 1);
}

static __always_inline __u8 tcp_after(__u8 tcp, __u32 asking)
{
	__u32 flags = asking & 0xff;
	bool replies = asking & ASKING_REPLY;

	if (flags & TCP_SYN && !replies) /* the acknowledgement of a port used again may be a hit of the cache */
		return tcp & CONVERSATION_ACKNOWLEDGED;
	tcp |= replies ? CONVERSATION_ANSWERED : CONVERSATION_ACKNOWLEDGED;
	if (flags & TCP_FIN)
		tcp |= replies ? CONVERSATION_REPLY_FIN : CONVERSATION_FIN;
	return flags & TCP_RST ? tcp | CONVERSATION_RESET : tcp & ~CONVERSATION_RESET;
}

/* Whether the packet may pass. `key` as it is in struct conversation; `asking`: see flow_policy.h. */
static __always_inline int converse(const union flow_key *key, __u32 asking, __u32 port)
{
	__u32 index = (__u32)flow_hash(key, seed_of_node()) & (conversation_buckets - 1);
	struct conversation_bucket *bucket = bpf_map_lookup_elem(&conversation, &index);
	bool opens = !(asking & (ASKING_REPLY | ASKING_ONLY | TCP_RST)), is_known, alive, evicted = false;
	__u32 now_s = bpf_ktime_get_boot_ns() / 1000000000, way;
	struct conversation *one;

	if (!bucket)
		return false;
	way = global_find_conversation(&bucket->in, key);
	if (way >= CONVERSATION_WAYS) {
		if (!opens)
			return !(asking & (ASKING_REPLY | ASKING_ONLY));
		way = global_conversation_to_end(&bucket->in, now_s);
	}
	one = &bucket->in.way[way % CONVERSATION_WAYS];
	bpf_spin_lock(&bucket->lock);
	alive = is_alive(one, now_s);
	is_known = is_same_flow(&one->key, key);
	if (!is_known)
		evicted = alive;
	alive &= is_known;
	/* RFC 5382 REQ-2: who has opened may be met by an opening of the other end. */
	if (asking & ASKING_REPLY && asking & ASKING_OPENS && one->tcp & CONVERSATION_ANSWERED)
		alive = false;
	if (!alive && opens) {
		one->key = *key;
		one->tcp = 0;
		one->port = port;
	}
	if ((alive || opens) && !(asking & ASKING_ONLY)) {
		one->tcp = tcp_after(one->tcp, asking);
		one->seen_s = now_s;
	}
	bpf_spin_unlock(&bucket->lock);
	if (evicted && opens)
		count_event(EVENT_CONVERSATION_EVICTED);
	return alive || !(asking & (ASKING_REPLY | ASKING_ONLY));
}

__noinline int global_converse(const union flow_key *key, __u32 asking, __u32 port)
{
	return key ? converse(key, asking, port) : false;
}
