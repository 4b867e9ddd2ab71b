/*
 * What the pipeline sent on and its port did not take. The kernel finds that out when the program has ended, and says it
 * by tracepoints, of the whole machine:
 *
 *   XDP_REDIRECT ─▶ xdp_do_redirect ──▶ queue of the port ──▶ its driver
 *                     └ xdp_redirect_err   (one frame)          └ xdp_devmap_xmit  (up to 16 frames)
 *
 * Ours is what goes by our map, or at an interface of our namespace that is a port.
 */
#include <linux/bpf.h>
#include <linux/errno.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#include "tables.h"

char LICENSE[] SEC("license") = "GPL";

const volatile __u32 tx_port_id;        /* of the map that frames are redirected by */
const volatile __u32 network_namespace; /* its inode */

/* Of the kernel's structures only what is read; libbpf finds where it is. */
struct ns_common {
	unsigned int inum;
} __attribute__((preserve_access_index));

struct net {
	struct ns_common ns;
} __attribute__((preserve_access_index));

typedef struct {
	struct net *net;
} __attribute__((preserve_access_index)) possible_net_t;

struct net_device {
	int ifindex;
	possible_net_t nd_net;
} __attribute__((preserve_access_index));

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PORTS);
	__type(key, __u32); /* ifindex */
	__type(value, __u32);
} port_number SEC(".maps"); /* the pipeline's */

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, PORTS *PORT_LOSSES);
	__type(key, __u32); /* port * PORT_LOSSES + enum port_loss */
	__type(value, __u64);
} port_loss SEC(".maps");

/* A full queue is no error to drivers. */
static __always_inline __u32 kind_of(int error)
{
	switch (error) {
	case 0:
	case -ENOSPC:
	case -EBUSY:
	case -ENOBUFS:
		return LOSS_FULL;
	case -ENETDOWN:
	case -ENXIO:
	case -ENODEV:
		return LOSS_DOWN;
	case -EMSGSIZE:
		return LOSS_TOO_BIG;
	default:
		return LOSS_UNFIT;
	}
}

static __always_inline void count(__u32 number, int error, __u32 packets)
{
	__u32 index = number * PORT_LOSSES + kind_of(error);
	__u64 *counter;

	if (number >= PORTS)
		return;
	counter = bpf_map_lookup_elem(&port_loss, &index);
	if (counter)
		*counter += packets;
}

static __always_inline void count_at(const struct net_device *device, int error, __u32 packets)
{
	__u32 index = BPF_CORE_READ(device, ifindex), *number;

	if (BPF_CORE_READ(device, nd_net.net, ns.inum) != network_namespace)
		return;
	number = bpf_map_lookup_elem(&port_number, &index);
	if (number)
		count(*number, error, packets);
}

/* device, program, target, error, map type, map, index in it. Answers go back by no map, to where they came from. */
SEC("raw_tp/xdp_redirect_err")
int redirect_err(struct bpf_raw_tracepoint_args *ctx)
{
	if ((__u32)ctx->args[5] == tx_port_id)
		count(ctx->args[6], ctx->args[3], 1);
	else if ((__u32)ctx->args[4] == BPF_MAP_TYPE_UNSPEC)
		count_at((const struct net_device *)ctx->args[0], ctx->args[3], 1);
	return 0;
}

/* from, to, sent, dropped, error */
SEC("raw_tp/xdp_devmap_xmit")
int devmap_xmit(struct bpf_raw_tracepoint_args *ctx)
{
	if ((int)ctx->args[3] > 0)
		count_at((const struct net_device *)ctx->args[1], ctx->args[4], ctx->args[3]);
	return 0;
}
