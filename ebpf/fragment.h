/*
 * IP fragments. Only the first has ports; the others follow it.
 *
 *   first ----> its ports, protocol and class are kept, and which octets it has --> judged as any packet
 *   others ---> found by addresses, identification, protocol, policy class -------> judged as the first's flow
 *                 |                   \--> octets that came before: FRAGMENT_REFUSED (RFC 1858, 3128, 5722, RFC 8200 §4.5)
 *                 \--> nothing found: FRAGMENT, so a fragment that comes before its first is lost
 *
 * What is kept of a packet ends when all of it has come, when nothing came for `fragment_lifetime_ms`, or when its source
 * has sent FRAGMENT_WAYS others since. A port has its own part of the table, and in it FRAGMENT_SHARES shares by source:
 * nobody can use up the room of another port, and at a port each source can harm itself and one in FRAGMENT_SHARES.
 *
 * Fragments of one packet may come on different CPUs at the same time, so what is kept has a lock.
 */
#pragma once

/* Longer than fragments of a packet are apart, shorter than identifications take to come again. */
const volatile __u32 fragment_lifetime_ms = 5000;

union fragment_key {
	struct {
		union address source;
		union address destination;
		__be32 identification;
		__u16 policy_class;
		__u8 protocol; /* of IPv4; of IPv6 it is the first's, RFC 8200 §4.5 */
		__u8 zero;
	};
	__u64 word[5];
};
_Static_assert(sizeof(union fragment_key) == 40, "fragment_key");

/* In units of 8 octets; to == 0: none. */
struct fragment_part {
	__u16 from;
	__u16 to;
};

struct fragment {
	union fragment_key key;
	__u32 ports;
	__u8 protocol;
	__u8 l4_class;
	__u16 end;     /* of the packet, in units of 8 octets; 0: not known yet */
	__u32 seen_ms; /* when the last one came */
	__u32 is_cut;  /* the first was larger than its path takes; see cut.h */
	struct bpf_spin_lock lock;
	/* What came, without overlaps. The first part is never free, else nothing is kept here. */
	struct fragment_part part[FRAGMENT_PARTS];
};
_Static_assert(sizeof(struct fragment) == 80, "fragment");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PORTS *FRAGMENT_SHARES *FRAGMENT_WAYS);
	__type(key, __u32); /* (port * FRAGMENT_SHARES + share) * FRAGMENT_WAYS + way */
	__type(value, struct fragment);
} fragment SEC(".maps");

/* How many packets a share has kept: the next one's way, modulo FRAGMENT_WAYS. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PORTS *FRAGMENT_SHARES);
	__type(key, __u32);
	__type(value, __u32);
} fragment_count SEC(".maps");

/* Where in its packet a fragment lies, in units of 8 octets. */
struct fragment_place {
	__u16 from;
	__u16 to;
	bool is_last;
};

static __always_inline __u32 fragment_share(const union fragment_key *key, __u32 ingress_port, __u64 seed)
{
	__u64 hash = (bpf_be64_to_cpu(key->word[0]) ^ seed) * 0x9e3779b97f4a7c15ull;

	hash ^= (bpf_be64_to_cpu(key->word[1]) + seed + key->policy_class) * 0xc2b2ae3d27d4eb4full;
	hash ^= hash >> 32;
	hash *= 0x9fb21c651e98df25ull;
	return ingress_port * FRAGMENT_SHARES + (__u32)(hash >> 60) % FRAGMENT_SHARES;
}

static __always_inline bool is_same_packet(const union fragment_key *a, const union fragment_key *b)
{
	return a->word[4] == b->word[4] && a->word[0] == b->word[0] && a->word[1] == b->word[1] &&
	       a->word[2] == b->word[2] && a->word[3] == b->word[3];
}

static __always_inline bool is_kept(const struct fragment *fragment, __u32 now_ms)
{
	return fragment->part[0].to && now_ms - fragment->seen_ms <= fragment_lifetime_ms;
}

#define NO_INDEX ~0u

/* Anywhere but at `except`. Not locked: who changes what is found looks once more. */
static __noinline struct fragment *find_fragment(__u32 share, const union fragment_key *key, __u32 now_ms, __u32 except)
{
	for (__u32 way = 0; way < FRAGMENT_WAYS; way++) {
		__u32 index = share * FRAGMENT_WAYS + way;
		struct fragment *known = bpf_map_lookup_elem(&fragment, &index);

		if (known && index != except && is_same_packet(&known->key, key) && is_kept(known, now_ms))
			return known;
	}
	return NULL;
}

/* No more octets are taken. Without one fragment the packet is none (RFC 5722 §4). */
static __always_inline void refuse_rest(struct fragment *known)
{
	for (__u32 i = 0; i < FRAGMENT_PARTS; i++)
		known->part[i].to = 0;
	known->part[0].from = 0;
	known->part[0].to = ~0;
}

/* Whether the octets from..to are new, and within the packet; then they have come. To be called with the lock held. */
static __always_inline bool take_part(struct fragment *known, __u32 from, __u32 to, bool is_last)
{
	__u32 left = FRAGMENT_PARTS, right = FRAGMENT_PARTS, free = FRAGMENT_PARTS, farthest = 0, begin = from,
	      end = to;
	bool overlaps = false, is_copy = false;

	for (__u32 i = 0; i < FRAGMENT_PARTS; i++) {
		const struct fragment_part *part = &known->part[i];

		if (!part->to) {
			free = i;
			continue;
		}
		if (from < part->to && part->from < to) {
			overlaps = true;
			is_copy |= part->from <= from && to <= part->to;
		}
		if (part->to == from) {
			left = i;
			begin = part->from;
		}
		if (part->from == to) {
			right = i;
			end = part->to;
		}
		if (part->to > farthest)
			farthest = part->to;
	}
	if (is_copy) /* Nothing of it is new: the rest may come. */
		return false;
	if (overlaps || (is_last ? known->end || farthest > to : known->end && to > known->end)) {
		refuse_rest(known);
		return false;
	}
	if (left == FRAGMENT_PARTS && right == FRAGMENT_PARTS && free == FRAGMENT_PARTS)
		return false;
	/* One part is what came, with its neighbours; the first part stays in use. */
	if (left == FRAGMENT_PARTS)
		left = right == FRAGMENT_PARTS ? free : right;
	for (__u32 i = 0; i < FRAGMENT_PARTS; i++) {
		if (i == left) {
			known->part[i].from = begin;
			known->part[i].to = end;
		} else if (i == right) {
			known->part[i].to = 0;
		}
	}
	if (is_last)
		known->end = to;
	return true;
}

/* Everything has come: another packet may have the identification. To be called with the lock held. */
static __always_inline void end_if_complete(struct fragment *known)
{
	if (known->end && known->part[0].from == 0 && known->part[0].to == known->end)
		known->part[0].to = 0;
}

/* Of a packet that is not known: its ports, for those that follow. */
static __noinline int keep_first(const struct packet *packet, const union fragment_key *key, __u32 share,
				 const struct fragment_place *place, __u32 now_ms)
{
	__u32 *count = bpf_map_lookup_elem(&fragment_count, &share), index;
	struct fragment *known;
	bool was_kept;

	if (!count)
		return drop(packet, DROP_FRAGMENT);
	index = share * FRAGMENT_WAYS + __sync_fetch_and_add(count, 1) % FRAGMENT_WAYS;
	known = bpf_map_lookup_elem(&fragment, &index);
	if (!known)
		return drop(packet, DROP_FRAGMENT);
	bpf_spin_lock(&known->lock);
	was_kept = is_kept(known, now_ms);
	known->key = *key;
	known->ports = packet->flow.word[4];
	known->protocol = packet->flow.protocol;
	known->l4_class = packet->flow.l4_class;
	known->end = 0;
	known->is_cut = false;
	known->seen_ms = now_ms;
	for (__u32 i = 0; i < FRAGMENT_PARTS; i++)
		known->part[i].to = 0;
	known->part[0].from = 0;
	known->part[0].to = place->to;
	bpf_spin_unlock(&known->lock);
	if (was_kept)
		count_event(EVENT_FRAGMENT_EVICTED);
	if (!find_fragment(share, key, now_ms, index))
		return GO_ON;
	/* Another CPU has kept a first fragment of this packet at the same moment. */
	bpf_spin_lock(&known->lock);
	if (is_same_packet(&known->key, key))
		known->part[0].to = 0;
	bpf_spin_unlock(&known->lock);
	return drop(packet, DROP_FRAGMENT_REFUSED);
}

/* The flow of a fragment becomes its first's. */
static __noinline int follow(struct packet *packet, const union fragment_key *key, struct fragment *known,
			     const struct fragment_place *place, __u32 now_ms)
{
	bool is_known, is_new = false;
	__u32 ports = 0;
	__u8 protocol = 0, l4_class = 0;

	bpf_spin_lock(&known->lock);
	is_known = is_same_packet(&known->key, key) && is_kept(known, now_ms);
	if (is_known) {
		known->seen_ms = now_ms;
		is_new = take_part(known, place->from, place->to, place->is_last);
		ports = known->ports;
		protocol = known->protocol;
		l4_class = known->l4_class;
		packet->behind_cut = !!known->is_cut;
		end_if_complete(known);
	}
	bpf_spin_unlock(&known->lock);
	if (!is_known)
		return drop(packet, DROP_FRAGMENT);
	if (!is_new)
		return drop(packet, DROP_FRAGMENT_REFUSED);
	set_flow(packet, ports, protocol, l4_class);
	count_event(EVENT_FRAGMENT_FOLLOWED);
	return GO_ON;
}

/* Identification and place, of a packet that parse_ip found right. */
static __always_inline int read_fragment(struct xdp_md *ctx, const struct packet *packet, union fragment_key *key,
					 struct fragment_place *place)
{
	struct cursor c = cursor_at(ctx, ip_offset(packet));
	__u32 from, size, most = 0xffff;
	bool is_last;

	if (packet->ether_type == ETHERTYPE_IPV4) {
		struct ipv4 *ip = pull(&c, sizeof(*ip));

		if (!ip)
			return drop(packet, DROP_MALFORMED);
		key->identification = ip->id;
		key->protocol = ip->protocol;
		from = bpf_ntohs(ip->fragment) & IPV4_FRAGMENT_OFFSET;
		is_last = !(ip->fragment & bpf_htons(IPV4_MORE_FRAGMENTS));
		size = packet->ip_length - sizeof(*ip);
		most -= sizeof(*ip);
	} else {
		struct ipv6_fragment *header;

		c = cursor_at(ctx, ip_offset(packet) + packet->fragment_at);
		header = pull(&c, sizeof(*header));
		if (!header)
			return drop(packet, DROP_MALFORMED);
		key->identification = header->id;
		from = bpf_ntohs(header->offset) >> 3;
		is_last = !(header->offset & bpf_htons(IPV6_MORE_FRAGMENTS));
		size = packet->ip_length - packet->fragment_at - sizeof(*header);
	}
	if (!size || from * 8 + size > most || (!is_last && size % 8))
		return drop(packet, DROP_FRAGMENT_REFUSED);
	place->from = from;
	place->to = from + (size + 7) / 8;
	place->is_last = is_last;
	return GO_ON;
}

static __always_inline int follow_first(struct xdp_md *ctx, struct packet *packet, __u64 seed)
{
	union fragment_key key = {
		.source = packet->flow.source,
		.destination = packet->flow.destination,
		.policy_class = packet->flow.policy_class,
	};
	__u32 now_ms = bpf_ktime_get_boot_ns() / 1000000, share;
	struct fragment_place place = {};
	struct fragment *known;

	if (read_fragment(ctx, packet, &key, &place) != GO_ON)
		return XDP_DROP;
	share = fragment_share(&key, packet->ingress_port, seed);
	known = find_fragment(share, &key, now_ms, NO_INDEX);
	if (known)
		return follow(packet, &key, known, &place, now_ms);
	if (place.from)
		return drop(packet, DROP_FRAGMENT);
	return keep_first(packet, &key, share, &place, now_ms);
}

/* Those that follow must not overtake it. Not locked: at worst one follows another packet to the agent. */
__noinline int global_mark_as_cut(struct xdp_md *ctx, const struct packet *packet, __u64 seed)
{
	union fragment_key key = {};
	struct fragment_place place = {};
	struct fragment *known;

	if (!packet)
		return 0;
	key.source = packet->flow.source;
	key.destination = packet->flow.destination;
	key.policy_class = packet->flow.policy_class;
	if (read_fragment(ctx, packet, &key, &place) != GO_ON)
		return 0;
	known = find_fragment(fragment_share(&key, packet->ingress_port, seed), &key, bpf_ktime_get_boot_ns() / 1000000,
			      NO_INDEX);
	if (known)
		known->is_cut = true;
	return 0;
}

__noinline int global_follow_first(struct xdp_md *ctx, struct packet *packet, __u64 seed)
{
	return packet ? follow_first(ctx, packet, seed) : XDP_DROP;
}
