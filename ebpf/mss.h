/* TCP is told before of what fits into the path: the MSS of a SYN is clamped. */
#pragma once

#define TCP_OPTIONS_MAX 40
#define TCP_OPTION_END  0
#define TCP_OPTION_NOP  1
#define TCP_OPTION_MSS  2
#define TCP_MSS_LENGTH  4

/* RFC 1624. An option that starts at an odd offset counts byte-swapped. */
static __always_inline void replace_mss(struct xdp_md *ctx, __u32 tcp_offset, __u32 mss_offset, __be16 from, __be16 to)
{
	__u32 at = tcp_offset + __builtin_offsetof(struct tcp, checksum);
	bool odd = mss_offset & 1;
	__be16 checksum;

	if (bpf_xdp_load_bytes(ctx, at, &checksum, sizeof(checksum)))
		return;
	checksum = checksum_update(checksum, odd ? __builtin_bswap16(from) : from, odd ? __builtin_bswap16(to) : to);
	if (bpf_xdp_store_bytes(ctx, tcp_offset + mss_offset, &to, sizeof(to)) ||
	    bpf_xdp_store_bytes(ctx, at, &checksum, sizeof(checksum)))
		return;
	count_event(EVENT_MSS_CLAMPED);
}

/*
 * A SYN's first MSS option (RFC 9293 §3.7.1) becomes at most `largest`. A global function, which the verifier judges once.
 * The loop goes over all offsets and skips what lies inside an option, so that each offset is a constant to the verifier.
 */
__noinline int clamp_mss(struct xdp_md *ctx, __u32 tcp_offset, __u32 largest)
{
	__u8 option[TCP_OPTIONS_MAX + TCP_MSS_LENGTH] = {};
	__u32 end, next = 0;
	struct tcp tcp;

	if (bpf_xdp_load_bytes(ctx, tcp_offset, &tcp, sizeof(tcp)))
		return 0;
	end = at_most((tcp.data_offset >> 4) * 4 - sizeof(tcp), TCP_OPTIONS_MAX);
	if (is_empty(end) || bpf_xdp_load_bytes(ctx, tcp_offset + sizeof(tcp), option, end))
		return 0;
	for (__u32 i = 0; i < TCP_OPTIONS_MAX; i++) {
		__u8 kind = option[i], length = option[i + 1];

		if (i < next)
			continue;
		if (i >= end || kind == TCP_OPTION_END)
			return 0;
		next = i + 1;
		if (kind == TCP_OPTION_NOP)
			continue;
		if (i + 1 >= end || length < 2 || i + length > end)
			return 0;
		next = i + length;
		if (kind == TCP_OPTION_MSS && length == TCP_MSS_LENGTH) {
			__u32 mss = option[i + 2] << 8 | option[i + 3];

			if (mss > largest)
				replace_mss(ctx, tcp_offset, sizeof(tcp) + i + 2, bpf_htons(mss), bpf_htons(largest));
			return 0;
		}
	}
	return 0;
}
