/*
 * The pipeline of a netstitch node, for XDP. One stage a file, in the order in which a packet meets them:
 *
 *   attachment ─▶ punt ─┬▶ arp, discovery, gateway ─▶ ip ─┬▶ flow_cache ─▶ flow_policy ─▶ steer ─┬▶ sr_policy ─┬▶ next_hop
 *                       └▶ local_sid ─────────────────────┤ ▲                   (translate)     └▶ route ─────┘
 *                               │                         └▶ fragment                                         ▲
 *                               └─── End, End.X, transit ─────────────────────────────────────────────────────┘
 *
 * What is not ours is passed to the kernel; what is ours and wrong is dropped and counted by its reason. A stage that
 * refuses a packet may have its sender told: icmp_error. What flow_policy permits as a reply answers a conversation.
 */
#include <linux/bpf.h>
#include <stdbool.h>
#include <stddef.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#include "tables.h"
#include "wire.h"
#include "packet.h"
#include "settings.h"
#include "counters.h"
#include "checksum.h"
#include "generation.h"
#include "capture.h"
#include "port_rate.h"
#include "punt.h"
#include "attachment.h"
#include "ip.h"
#include "route.h"
#include "neighbor.h"
#include "arp.h"
#include "discovery.h"
#include "gateway.h"
#include "lease.h"
#include "flow_policy.h"
#include "flow_cache.h"
#include "conversation.h"
#include "fragment.h"
#include "translate.h"
#include "steer.h"
#include "probe.h"
#include "local_sid.h"
#include "cut.h"
#include "mss.h"
#include "sr_policy.h"
#include "trim.h"
#include "next_hop.h"
#include "icmp_error.h"
#include "quote.h"

char LICENSE[] SEC("license") = "GPL";

static __always_inline bool may_be_punted(const struct packet *packet, const struct settings *node)
{
	if (!is_ip_or_arp(packet))
		return true;
	return node->punt_ip && (node->punt_ip == PUNT_IP_OF_ALL || node->punt_ip == packet->ingress_class);
}

/* GO_ON: an IP packet of a host for somewhere else. */
static __always_inline int receive_from_host(struct xdp_md *ctx, struct packet *packet)
{
	int verdict;

	if (packet->ether_type == ETHERTYPE_ARP)
		return global_receive_arp(ctx, packet);
	if (packet->ether_type != ETHERTYPE_IPV4 && packet->ether_type != ETHERTYPE_IPV6)
		return drop(packet, DROP_NOT_IP);
	verdict = parse_ip(ctx, packet);
	if (verdict != GO_ON)
		return verdict;
	if (is_discovery(ctx, packet))
		return global_receive_discovery(ctx, packet);
	if (packet->to_group) /* RFC 1812 §5.3.4 */
		return drop(packet, DROP_NOT_TO_US);
	if (is_to_gateway(packet))
		return global_answer_echo(ctx, packet);
	if (packet->ether_type == ETHERTYPE_IPV6 && in_sid_block(&packet->flow.destination))
		return drop(packet, DROP_SID_NOT_ADMITTED); /* RFC 8754 §5.1 */
	return GO_ON;
}

/* An IP packet of a network, from a host or decapsulated. */
static __always_inline int forward_flow(struct xdp_md *ctx, struct packet *packet, const struct settings *node)
{
	int verdict;

	if (!is_forwardable(packet))
		return drop(packet, DROP_NOT_FORWARDABLE);
	if (packet->l4_fault) {
		if (packet->l4_fault != DROP_FRAGMENT)
			return drop(packet, packet->l4_fault);
		verdict = global_follow_first(ctx, packet, node->flow_cache_seed);
		if (verdict != GO_ON)
			return verdict;
	}
	if (packet->hop_limit <= 1)
		return refuse(packet, DROP_HOP_LIMIT, ERROR_HOP_LIMIT);
	verdict = find_class(ctx, packet, node->flow_cache_seed);
	if (verdict != GO_ON) /* of a known flow the lease runs */
		return verdict;
	return is_lease_expired(packet->forwarding_class) ? deny(packet, DROP_LEASE_EXPIRED) : TO_STEER;
}

static __always_inline int receive(struct xdp_md *ctx, struct packet *packet, const struct settings *node)
{
	int verdict = classify(ctx, packet);

	if (verdict != GO_ON)
		return verdict;
	if (may_be_punted(packet, node)) {
		verdict = global_match_punt_frame(ctx, packet);
		if (verdict != GO_ON)
			return verdict;
	}
	if (packet->ingress_class == ATTACHMENT_CLASS)
		verdict = receive_from_host(ctx, packet);
	else
		verdict = global_receive_from_link(ctx, packet);
	return verdict == GO_ON ? forward_flow(ctx, packet, node) : verdict;
}

SEC("xdp")
int pipeline(struct xdp_md *ctx)
{
	struct packet packet = {};
	struct settings *node;
	__u32 zero = 0;
	int verdict;

	node = bpf_map_lookup_elem(&settings, &zero);
	if (!node)
		return XDP_PASS;
	verdict = receive(ctx, &packet, node);
	if (verdict == TO_STEER)
		verdict = apply_steer(ctx, &packet);
	if (verdict == TO_NEXT_HOP)
		verdict = send_to_next_hop(ctx, &packet);
	if (verdict == TO_TRANSLATE)
		verdict = global_send_translated(ctx, &packet);
	if (verdict == TELL_SENDER)
		verdict = global_tell_sender(ctx, &packet);
	return verdict;
}

/* For the other end of a veth pair: native XDP redirects only into a device whose peer has a program or GRO. */
SEC("xdp")
int pass(struct xdp_md *ctx)
{
	return XDP_PASS;
}
