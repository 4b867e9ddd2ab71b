/*
 * Takes what comes in at one end of a detour to its other end, for tc at the ingress of an interface.
 *
 *    host ─▶ interface ─detour─▶ stitch-k3 ══ veth ══ stitch-p3 ─▶ pipeline (XDP)
 *    host ◀─ interface ◀─detour─ stitch-k3 ══ veth ══ stitch-p3 ◀─ pipeline
 *
 * What leaves for stitch-k3 is made whole by the kernel: segments of the right size, checksums, tags in the frame.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#include "tables.h"
#include "wire.h"

char LICENSE[] SEC("license") = "GPL";

const volatile __u32 other_end; /* interface index */
const volatile __u32 only_sids; /* and LLDP: the rest of what comes in is the kernel's, as on links */

SEC("tc")
int detour(struct __sk_buff *skb)
{
	__be16 block;

	if (only_sids && skb->protocol != bpf_htons(ETHERTYPE_LLDP)) {
		if (skb->protocol != bpf_htons(ETHERTYPE_IPV6))
			return TC_ACT_UNSPEC;
		if (bpf_skb_load_bytes(skb, sizeof(struct ethernet) + __builtin_offsetof(struct ipv6, destination),
				       &block, sizeof(block)) ||
		    block != bpf_htons(SID_BLOCK))
			return TC_ACT_UNSPEC;
	}
	return bpf_redirect(other_end, 0);
}
