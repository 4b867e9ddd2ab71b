// SPDX-License-Identifier: GPL-2.0
// Traffic for BPF_PROG_TEST_RUN with live frames: each run rewrites the frame to the next flow of a trace and tail-calls
// what is measured; with nothing there, the frame goes to the kernel's stack. A frame's content is not restored between
// runs, so all that the measured program may have overwritten is written again.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define TRACE_LENGTH (1 << 18)

struct frame {
	struct ethhdr ethernet;
	struct ipv6hdr ipv6;
	struct udphdr udp;
} __attribute__((packed));

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, TRACE_LENGTH);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, __u64);
} trace SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct frame);
} template SEC(".maps");

// Outer IPv6 header to a container of SIDs.
struct outer {
	struct ethhdr ethernet;
	struct ipv6hdr ipv6;
} __attribute__((packed));

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct outer);
} outer SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} out SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} measured SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} received SEC(".maps");

__u32 position = 0;

// Flow number -> addresses and port: 64 source prefixes by 64 destination prefixes (the two octets after 2001:db8:1:
// and 2001:db8:2:), the rest spread over the whole range.
SEC("xdp")
int generate(struct xdp_md *ctx)
{
	struct frame *frame = (void *)(long)ctx->data;
	if ((void *)(frame + 1) > (void *)(long)ctx->data_end)
		return XDP_DROP;
	__u32 zero = 0, at = position++ & (TRACE_LENGTH - 1);
	__u64 *flow = bpf_map_lookup_elem(&trace, &at);
	struct frame *from = bpf_map_lookup_elem(&template, &zero);
	if (!flow || !from)
		return XDP_DROP;
	*frame = *from;
	__u64 spread = (*flow + 1) * 0x9e3779b97f4a7c15ull;
	spread ^= spread >> 29;
	frame->ipv6.saddr.s6_addr[7] = *flow & 63;
	frame->ipv6.daddr.s6_addr[7] = (*flow >> 6) & 63;
	frame->ipv6.saddr.s6_addr32[2] = spread;
	frame->ipv6.saddr.s6_addr32[3] = spread >> 32;
	frame->ipv6.daddr.s6_addr32[2] = spread >> 3;
	frame->ipv6.daddr.s6_addr32[3] = spread >> 35;
	frame->udp.source = spread >> 40;
	bpf_tail_call(ctx, &measured, 0);
	return XDP_PASS;
}

SEC("xdp")
int transit(struct xdp_md *ctx)
{
	struct outer *frame = (void *)(long)ctx->data;
	if ((void *)(frame + 1) > (void *)(long)ctx->data_end)
		return XDP_DROP;
	__u32 zero = 0;
	struct outer *from = bpf_map_lookup_elem(&outer, &zero);
	if (!from)
		return XDP_DROP;
	*frame = *from;
	bpf_tail_call(ctx, &measured, 0);
	return XDP_PASS;
}

// What the veths themselves cost.
SEC("xdp")
int redirect(struct xdp_md *ctx)
{
	return bpf_redirect_map(&out, 0, XDP_DROP);
}

SEC("xdp")
int sink(struct xdp_md *ctx)
{
	__u32 zero = 0;
	__u64 *count = bpf_map_lookup_elem(&received, &zero);
	if (count)
		(*count)++;
	return XDP_DROP;
}

char _license[] SEC("license") = "GPL";
