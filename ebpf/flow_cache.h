/*
 * The flow cache: what `resolve` said of a flow, and the flow's record (packets, bytes, first and last seen), in one
 * 64-byte line.
 *
 *   key --hash--> bucket of 4 entries --> the way that the hash names --> hit: same key, ingress port, generation --> class
 *                        \--> flow_cache_tag: a tag of 16 bits for each way --> the way with this tag --> hit
 *                        \--> resolve; the named way if it is free, else a free one, else the oldest (of its own
 *                              port, if that has half of the bucket) takes the flow
 *
 * The named way comes first since it needs one cache line and no second look: with a quarter of the entries in use, nine
 * flows in ten are there.
 *
 * Each CPU has its own part of both arrays, so nothing is locked. User space reads records by mmap.
 */
#pragma once

struct flow_entry {
	union flow_key flow;
	__u16 generation; /* 0: free */
	__u16 forwarding_class;
	__u32 first_seen; /* low 32 bits of jiffies */
	union {
		__u64 bytes; /* low 48 bits */
		struct {
			__u16 bytes_low[3];
			__u16 ingress_port;
		};
	};
	__u32 packets;
	__u32 last_seen;
};
_Static_assert(sizeof(struct flow_entry) == 64, "flow_entry");
_Static_assert(__builtin_offsetof(struct flow_entry, ingress_port) == 54, "ingress_port is the top of bytes");
#define FLOW_BYTES_MASK ((1ull << 48) - 1)

struct flow_bucket {
	struct flow_entry entry[FLOW_CACHE_WAYS];
};
_Static_assert(sizeof(struct flow_bucket) == 256, "flow_bucket");

union flow_tags {
	__u64 word;
	__u16 tag[FLOW_CACHE_WAYS];
};

/* For each CPU, a power of two; set before loading, with the sizes of the maps. */
const volatile __u32 flow_cache_buckets = 16384;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct flow_bucket);
} flow_cache SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, union flow_tags);
} flow_cache_tag SEC(".maps");

/*
 * Multiplicative, each word with an odd constant of its own; byte-swapped first, since addresses differ in their last
 * bytes and a product spreads upwards only. The seed is the node's.
 */
static __always_inline __u64 flow_hash(const union flow_key *flow, __u64 seed)
{
	__u64 hash = (bpf_be64_to_cpu(flow->word[0]) ^ seed) * 0x9e3779b97f4a7c15ull;

	hash ^= (bpf_be64_to_cpu(flow->word[1]) + seed) * 0xc2b2ae3d27d4eb4full;
	hash += (bpf_be64_to_cpu(flow->word[2]) ^ seed) * 0x165667b19e3779f9ull;
	hash ^= (bpf_be64_to_cpu(flow->word[3]) + seed) * 0xd6e8feb86659fd93ull;
	hash += (flow->word[4] ^ seed) * 0xff51afd7ed558ccdull;
	hash ^= hash >> 32;
	hash *= 0x9fb21c651e98df25ull;
	return hash ^ hash >> 32;
}

static __always_inline bool is_same_flow(const union flow_key *a, const union flow_key *b)
{
	return a->word[4] == b->word[4] && a->word[3] == b->word[3] && a->word[1] == b->word[1] &&
	       a->word[2] == b->word[2] && a->word[0] == b->word[0];
}

static __always_inline void fold_into_class(const struct flow_entry *entry)
{
	count_class(entry->forwarding_class, entry->packets, entry->bytes & FLOW_BYTES_MASK);
}

/* Of numbers of 16 bits, without a branch that the verifier would have to follow. */
static __always_inline __u32 is_equal(__u32 a, __u32 b)
{
	return ((a ^ b) - 1) >> 31;
}

/* From so many ways of a bucket on a port takes those of its own flows: no host's scan pushes out all of another's. */
#define FLOW_SHARE_WAYS (FLOW_CACHE_WAYS / 2)

/*
 * The way to give to a new flow of a port: the named or another free one, else the one that was silent for longest, of
 * the port's own where it has its share.
 */
static __noinline __u32 victim(const struct flow_bucket *bucket, __u32 named, __u16 port, __u32 now)
{
	__u32 way = 0, longest = 0, own = 0;

	for (__u32 i = 0; i < FLOW_CACHE_WAYS; i++)
		own += bucket->entry[i].ingress_port == port;
	for (__u32 i = 0; i < FLOW_CACHE_WAYS; i++) {
		__u32 candidate = (named + i) % FLOW_CACHE_WAYS;
		const struct flow_entry *entry = &bucket->entry[candidate];
		__u32 silent = entry->generation ? now - entry->last_seen + 1 : ~0u;

		if (entry->generation && own >= FLOW_SHARE_WAYS && entry->ingress_port != port)
			continue;
		if (silent > longest) {
			longest = silent;
			way = candidate;
		}
	}
	return way;
}

__noinline int global_read_quote(struct xdp_md *ctx, const struct packet *packet, union flow_key *about); /* quote.h */

/* The class of an ICMP error, or of a flow whose generation cannot be compared: never cached. */
static __noinline int resolve_uncached(struct xdp_md *ctx, const struct packet *packet)
{
	union flow_key about = {};
	int found;

	count_event(EVENT_CACHE_MISS);
	if (packet->flow.l4_class != L4_ICMP_ERROR)
		found = global_resolve(&packet->flow, packet->vrf, packet->flow_port, packet->tcp_flags);
	else if (global_read_quote(ctx, packet, &about))
		found = global_resolve(&about, packet->vrf, packet->flow_port, ASKING_ONLY);
	else
		found = -DROP_ICMP_ERROR_REFUSED;
	if (found >= 0)
		count_class(found, 1, packet->ip_length);
	return found;
}

/* Resolves a flow that has an entry, but for other tables or another port. */
static __noinline int refresh(struct flow_entry *entry, const struct packet *packet, __u16 current, __u32 now)
{
	int found = global_resolve(&packet->flow, packet->vrf, packet->flow_port, packet->tcp_flags);

	if (found < 0)
		return found;
	if (entry->generation && entry->forwarding_class != found)
		fold_into_class(entry);
	if (!entry->generation || entry->forwarding_class != found) {
		entry->forwarding_class = found;
		entry->packets = 0;
		entry->bytes = 0;
		entry->first_seen = now;
	}
	entry->ingress_port = packet->flow_port;
	entry->generation = current;
	return found;
}

/* Where a flow may be: the tag it has, and the way to look at first. */
static __always_inline __u16 tag_of(__u64 hash)
{
	return hash >> 48;
}

static __always_inline __u32 named_way(__u64 hash)
{
	return hash >> 46 & (FLOW_CACHE_WAYS - 1);
}

/* Resolves a flow without an entry and gives it one. */
static __noinline int admit(struct flow_bucket *bucket, union flow_tags *tags, const struct packet *packet, __u64 hash,
			    __u32 now)
{
	/* Before the tables are read; whether there is one was asked before. */
	__u16 current = generation_of(packet->flow.policy_class);
	int found = global_resolve(&packet->flow, packet->vrf, packet->flow_port, packet->tcp_flags);
	struct flow_entry *entry;
	__u32 way;

	if (found < 0)
		return found;
	way = victim(bucket, named_way(hash), packet->flow_port, now) % FLOW_CACHE_WAYS;
	entry = &bucket->entry[way];
	if (entry->generation) {
		fold_into_class(entry);
		count_event(EVENT_CACHE_EVICTED);
	}
	entry->generation = 0;
	entry->flow = packet->flow;
	entry->forwarding_class = found;
	entry->first_seen = now;
	entry->packets = 1;
	entry->bytes = packet->ip_length;
	entry->ingress_port = packet->flow_port;
	entry->last_seen = now;
	entry->generation = current;
	tags->tag[way] = tag_of(hash);
	return found;
}

static __always_inline struct flow_entry *find_by_tag(struct flow_bucket *bucket, __u64 tags, __u16 tag,
						      const union flow_key *flow)
{
#pragma unroll
	for (__u32 way = 0; way < FLOW_CACHE_WAYS; way++)
		if ((__u16)(tags >> 16 * way) == tag && is_same_flow(&bucket->entry[way].flow, flow))
			return &bucket->entry[way];
	return NULL;
}

/* A denied packet of a host: its network may want that to be said. */
static __always_inline int deny(struct packet *packet, __u32 reason)
{
	if (reason == DROP_SOURCE_NOT_ADMITTED)
		return drop(packet, reason);
	if (reason != DROP_LEASE_EXPIRED && reason != DROP_ICMP_ERROR_REFUSED)
		count_denied(packet->flow.policy_class, packet->ip_length);
	return refuse(packet, reason, ERROR_PROHIBITED);
}

/*
 * Of 2^12 jiffies: 16 s at 250 a second. The first packet of a flow in each is resolved anew, so that conversations are
 * known to be alive though what is cached does not ask.
 */
static __always_inline bool is_same_interval(__u32 last_seen, __u32 now)
{
	return (last_seen ^ now) >> 12 == 0;
}

/* Sets packet->forwarding_class, or refuses. TO_STEER: its lease is known to run. */
static __always_inline int find_class(struct xdp_md *ctx, struct packet *packet, __u64 seed)
{
	__u16 current = generation_of(packet->flow.policy_class);
	__u64 hash = flow_hash(&packet->flow, seed);
	__u32 index = bpf_get_smp_processor_id() * flow_cache_buckets + ((__u32)hash & (flow_cache_buckets - 1));
	struct flow_bucket *bucket = bpf_map_lookup_elem(&flow_cache, &index);
	union flow_tags *tags = bpf_map_lookup_elem(&flow_cache_tag, &index);
	__u32 now = bpf_jiffies64();
	struct flow_entry *entry;
	int found, verdict = GO_ON;

	if (!bucket || !tags || !current || packet->flow.l4_class == L4_ICMP_ERROR) {
		found = resolve_uncached(ctx, packet);
		if (found < 0)
			return deny(packet, -found);
		packet->forwarding_class = found;
		return GO_ON;
	}
	entry = &bucket->entry[named_way(hash)];
	if (!is_same_flow(&entry->flow, &packet->flow))
		entry = find_by_tag(bucket, tags->word, tag_of(hash), &packet->flow);
	if (!entry) {
		count_event(EVENT_CACHE_MISS);
		found = admit(bucket, tags, packet, hash, now);
		if (found < 0)
			return deny(packet, -found);
		packet->forwarding_class = found;
		return GO_ON;
	}
	if (entry->generation == current && entry->ingress_port == packet->flow_port &&
	    is_same_interval(entry->last_seen, now) && !(packet->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST)) &&
	    !is_lease_expired(entry->forwarding_class)) {
		count_event(EVENT_CACHE_HIT);
		found = entry->forwarding_class;
		verdict = TO_STEER;
	} else {
		count_event(EVENT_CACHE_MISS);
		found = refresh(entry, packet, current, now);
		if (found < 0)
			return deny(packet, -found);
	}
	entry->packets++;
	entry->bytes += packet->ip_length;
	entry->last_seen = now;
	packet->forwarding_class = found;
	return verdict;
}
