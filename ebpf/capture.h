/* The mirror of what comes in, for ports that somebody watches: AF_PACKET sees nothing of what XDP redirects. */
#pragma once

#define CAPTURE_FRAME 256

struct captured {
	__u64 time_ns; /* bpf_ktime_get_ns: CLOCK_MONOTONIC */
	__u32 ifindex;
	__u32 length; /* of the whole frame */
	__u8 frame[CAPTURE_FRAME];
};
_Static_assert(sizeof(struct captured) == 272, "captured");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} capture SEC(".maps");

__noinline int capture_frame(struct xdp_md *ctx)
{
	__u32 length = ctx->data_end - ctx->data;
	__u32 copied = at_most(length, CAPTURE_FRAME);
	struct captured *captured = bpf_ringbuf_reserve(&capture, sizeof(*captured), 0);

	if (!captured) {
		count_event(EVENT_CAPTURE_LOST);
		return 0;
	}
	captured->time_ns = bpf_ktime_get_ns();
	captured->ifindex = ctx->ingress_ifindex;
	captured->length = length;
	/* The verifier wants 1..256 where it sees 0..256; a frame has at least an Ethernet header. */
	if (is_empty(copied) || bpf_xdp_load_bytes(ctx, 0, captured->frame, copied)) {
		bpf_ringbuf_discard(captured, 0);
		count_event(EVENT_CAPTURE_LOST);
		return 0;
	}
	bpf_ringbuf_submit(captured, 0);
	return 0;
}
