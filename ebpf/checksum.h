/* The Internet checksum: RFC 1071, and its incremental update by RFC 1624 eqn. 3. */
#pragma once

/* Any sum of 16-, 32- or 64-bit words, to 16 bits. */
static __always_inline __u16 checksum_fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* Of `size` bytes, a constant multiple of 4. */
static __always_inline __u64 checksum_sum(const void *from, __u32 size)
{
	const __u32 *word = from;
	__u64 sum = 0;

#pragma unroll
	for (__u32 i = 0; i < size / 4; i++)
		sum += word[i];
	return sum;
}

/* Words and checksum as they are on the wire. */
static __always_inline __be16 checksum_update(__be16 checksum, __be16 from, __be16 to)
{
	return ~checksum_fold((__u64)(__u16)~checksum + (__u16)~from + to);
}

/* Not more than what a link without jumbo frames carries. */
#define SUMMED_BYTES_MAX 1480

/*
 * Of `length` bytes of the frame, which are there. A global function, which the verifier judges once and not for each way
 * that leads here: the loop is long.
 */
__noinline __u64 global_sum(struct xdp_md *ctx, __u32 offset, __u32 length)
{
	struct cursor c = cursor_at(ctx, offset & 63);
	__u32 rest = at_most(length & 3, 3), tail = 0;
	__u64 sum = 0;

	for (__u32 i = 0; i < SUMMED_BYTES_MAX / 4; i++) {
		__u32 *word;

		if ((i + 1) * 4 > length)
			break;
		word = pull(&c, 4);
		if (!word)
			return 0;
		sum += *word;
	}
	if (!is_empty(rest) && bpf_xdp_load_bytes(ctx, (offset & 63) + (length & ~3u), &tail, rest))
		return 0;
	return sum + tail;
}

/* RFC 8200 §8.1: addresses, length and next header. */
static __always_inline __u64 pseudo_header_sum(const struct ipv6 *ip, __u32 length, __u8 next_header)
{
	return checksum_sum(&ip->source, 32) + bpf_htonl(length) + bpf_htonl(next_header);
}
