/*
 * Stateless translation of prefixes, one to one, where two networks have the same addresses (RFC 7915 without changing
 * the family, RFC 6296 without its neutral checksums): `steer` says of which forwarding classes.
 *
 *   source      --translate_source, by class------> | another prefix | host |
 *   destination --translate_destination, by class-> | another prefix | host |
 *
 *   IPv4: the header's checksum; TCP, UDP, UDP-Lite, DCCP, ICMPv6: theirs, by what the addresses change (RFC 1624 eqn. 3).
 *   An ICMP error: also what it quotes, turned round, with its checksums (RFC 7915 §4.2, §5.2). A later fragment has none.
 *
 * It is the last that is done to a packet: whoever is told of its fate, and all that is kept of it, knows it as it came.
 */
#pragma once

#define UDP_CHECKSUM 6 /* of UDP-Lite and DCCP too */

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, TRANSLATE_SOURCE_SIZE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct translate_source_key);
	__type(value, struct translate_source_value);
} translate_source SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, TRANSLATE_DESTINATION_SIZE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct translate_destination_key);
	__type(value, struct translate_destination_value);
} translate_destination SEC(".maps");

static __noinline int move_source(__u32 forwarding_class, union address *address)
{
	struct translate_source_key key = {
		.prefix_length = 160,
		.forwarding_class = bpf_htonl(forwarding_class),
		.address = *address,
	};
	struct translate_source_value *to = bpf_map_lookup_elem(&translate_source, &key);

	if (!to)
		return 0;
	address->half[0] = to->move_source.prefix.half[0] | (address->half[0] & to->move_source.host_mask.half[0]);
	address->half[1] = to->move_source.prefix.half[1] | (address->half[1] & to->move_source.host_mask.half[1]);
	return 0;
}

static __noinline int move_destination(__u32 forwarding_class, union address *address)
{
	struct translate_destination_key key = {
		.prefix_length = 160,
		.forwarding_class = bpf_htonl(forwarding_class),
		.address = *address,
	};
	struct translate_destination_value *to = bpf_map_lookup_elem(&translate_destination, &key);

	if (!to)
		return 0;
	address->half[0] =
		to->move_destination.prefix.half[0] | (address->half[0] & to->move_destination.host_mask.half[0]);
	address->half[1] =
		to->move_destination.prefix.half[1] | (address->half[1] & to->move_destination.host_mask.half[1]);
	return 0;
}

/* Of its 8 words of 32 bits. The barrier has clang add them up here, and not keep each of them on the stack. */
static __always_inline __u64 sum_of(const union address *both)
{
	__u64 sum = checksum_sum(both, 2 * sizeof(*both));

	asm volatile("" : "+r"(sum));
	return sum;
}

/* The addresses of a header at `at`. Gives ~m + m' of what has changed; `turned`: it was sent in the other direction. */
static __always_inline __u64 translate_addresses(struct xdp_md *ctx, __u32 at, bool v4, __u32 forwarding_class,
						 bool turned)
{
	__u32 size = v4 ? 2 * sizeof(__be32) : 2 * sizeof(union address);
	union address end[2];
	__u64 change;

	at += v4 ? __builtin_offsetof(struct ipv4, source) : __builtin_offsetof(struct ipv6, source);
	if (bpf_xdp_load_bytes(ctx, at, end, size))
		return 0;
	if (v4) {
		map_ipv4(&end[1], end[0].word[1]);
		map_ipv4(&end[0], end[0].word[0]);
	}
	change = 8ull * 0xffffffff - sum_of(end);
	move_source(forwarding_class, &end[turned]);
	move_destination(forwarding_class, &end[!turned]);
	change += sum_of(end);
	if (v4) {
		end[0].word[0] = end[0].word[3];
		end[0].word[1] = end[1].word[3];
	}
	return bpf_xdp_store_bytes(ctx, at, end, size) ? 0 : change;
}

__noinline __u64 global_translate_addresses(struct xdp_md *ctx, __u32 at, __u32 v4, __u32 forwarding_class,
					    __u32 turned)
{
	return translate_addresses(ctx, at, v4, forwarding_class, turned);
}

/* Where a protocol has a checksum over its addresses; 0: nowhere. */
static __always_inline __u32 checksum_offset(__u8 protocol, bool v4)
{
	switch (protocol) {
	case PROTOCOL_TCP:
		return __builtin_offsetof(struct tcp, checksum);
	case PROTOCOL_UDP:
	case PROTOCOL_UDP_LITE:
	case PROTOCOL_DCCP:
		return UDP_CHECKSUM;
	case PROTOCOL_ICMPV6:
		return v4 ? 0 : __builtin_offsetof(struct icmp, checksum);
	default:
		return 0;
	}
}

/* Of UDP 0 is no checksum, and stays (RFC 768). Gives ~m + m' of the checksum itself. */
static __always_inline __u64 update_checksum(struct xdp_md *ctx, __u32 at, __u64 change, bool is_udp)
{
	__be16 before, after;

	if (bpf_xdp_load_bytes(ctx, at, &before, sizeof(before)) || (is_udp && !before))
		return 0;
	after = ~checksum_fold((__u16)~before + change);
	if (is_udp && !after)
		after = 0xffff;
	return bpf_xdp_store_bytes(ctx, at, &after, sizeof(after)) ? 0 : (__u64)(__u16)~before + after;
}

__noinline __u64 global_update_checksum(struct xdp_md *ctx, __u32 at, __u64 change, __u32 is_udp)
{
	return update_checksum(ctx, at, change, is_udp);
}

/* Of what is there of an upper layer that ends before `end`. */
static __always_inline __u64 update_upper(struct xdp_md *ctx, __u32 at, __u32 end, __u8 protocol, bool v4, __u64 change)
{
	__u32 offset = checksum_offset(protocol, v4);

	if (!offset || at + offset + sizeof(__be16) > end)
		return 0;
	return global_update_checksum(ctx, at + offset, change, protocol == PROTOCOL_UDP);
}

/* What an ICMP error quotes, from `at` to `end`: sent there, not here. Gives ~m + m' of all that has changed. */
static __always_inline __u64 translate_quote(struct xdp_md *ctx, __u32 at, __u32 end, bool v4, __u32 forwarding_class)
{
	__u32 protocol_at =
		v4 ? __builtin_offsetof(struct ipv4, protocol) : __builtin_offsetof(struct ipv6, next_header);
	struct chain chain = {.l4_offset = sizeof(struct ipv4)};
	__u64 change, of_header = 0;

	if (at + (v4 ? sizeof(struct ipv4) : sizeof(struct ipv6)) > end ||
	    bpf_xdp_load_bytes(ctx, at + protocol_at, &chain.protocol, sizeof(chain.protocol)))
		return 0;
	if (!v4 && global_walk_extensions(ctx, at, end - at, &chain))
		return 0;
	change = global_translate_addresses(ctx, at, v4, forwarding_class, true);
	if (v4)
		of_header = global_update_checksum(ctx, at + __builtin_offsetof(struct ipv4, checksum), change, false);
	return change + of_header + update_upper(ctx, at + chain.l4_offset, end, chain.protocol, v4, change);
}

/* Whether it is a fragment without the beginning of its packet. */
static __always_inline bool is_later_fragment(struct xdp_md *ctx, const struct packet *packet, bool v4)
{
	__be16 fragment;

	if (!packet->is_fragment)
		return false;
	if (v4)
		return bpf_xdp_load_bytes(ctx, ip_offset(packet) + __builtin_offsetof(struct ipv4, fragment), &fragment,
					  sizeof(fragment)) ||
		       fragment & bpf_htons(IPV4_FRAGMENT_OFFSET);
	return bpf_xdp_load_bytes(
		       ctx, ip_offset(packet) + packet->fragment_at + __builtin_offsetof(struct ipv6_fragment, offset),
		       &fragment, sizeof(fragment)) ||
	       fragment & bpf_htons(IPV6_FRAGMENT_OFFSET);
}

static __always_inline int translate(struct xdp_md *ctx, const struct packet *packet, __u32 forwarding_class)
{
	__u32 at = ip_offset(packet), l4 = at + packet->l4_offset, end = at + packet->ip_length;
	bool v4 = packet->ether_type == ETHERTYPE_IPV4;
	__u64 change = global_translate_addresses(ctx, at, v4, forwarding_class, false), quoted;

	if (v4)
		global_update_checksum(ctx, at + __builtin_offsetof(struct ipv4, checksum), change, false);
	if (is_later_fragment(ctx, packet, v4))
		return GO_ON;
	if (packet->flow.l4_class == L4_ICMP_ERROR) {
		quoted = translate_quote(ctx, l4 + sizeof(struct icmp), end, v4, forwarding_class);
		global_update_checksum(ctx, l4 + __builtin_offsetof(struct icmp, checksum),
				       v4 ? quoted : change + quoted, false);
		return GO_ON;
	}
	update_upper(ctx, l4, end, packet->flow.protocol, v4, change);
	return GO_ON;
}

__noinline int global_translate(struct xdp_md *ctx, const struct packet *packet, __u32 forwarding_class)
{
	return packet ? translate(ctx, packet, forwarding_class) : XDP_DROP;
}
