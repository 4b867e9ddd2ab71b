/*
 * ARP of hosts (RFC 826, RFC 5227): requests for the gateway are answered, and as a proxy those for hosts behind other
 * ports; who answers or announces itself is learnt.
 */
#pragma once

#define ARP_HARDWARE_ETHERNET 1
#define ARP_REQUEST           1
#define ARP_REPLY             2

static __always_inline int receive_arp(struct xdp_md *ctx, struct packet *packet)
{
	struct cursor c = cursor_at(ctx, ip_offset(packet));
	struct arp *arp = pull(&c, sizeof(*arp));
	union address sender = {}, target;
	__u32 index = packet->ingress_port, target_ipv4;
	struct port *here;
	__u8 mac[6];
	bool asks, is_answer;

	if (!arp)
		return drop(packet, DROP_MALFORMED);
	if (arp->hardware_type != bpf_htons(ARP_HARDWARE_ETHERNET) || arp->protocol_type != bpf_htons(ETHERTYPE_IPV4) ||
	    arp->hardware_length != 6 || arp->protocol_length != 4)
		return drop(packet, DROP_NEIGHBOR_IGNORED);
	asks = arp->operation == bpf_htons(ARP_REQUEST);
	if (!asks && arp->operation != bpf_htons(ARP_REPLY))
		return drop(packet, DROP_NEIGHBOR_IGNORED);
	copy_mac(mac, arp->sender_mac);
	target_ipv4 = *(__be32 *)arp->target;
	map_ipv4(&target, target_ipv4);
	/* 0.0.0.0 asks whether an address is in use, RFC 5227: nothing to learn, but to be answered. */
	if (*(__be32 *)arp->sender)
		map_ipv4(&sender, *(__be32 *)arp->sender);
	here = bpf_map_lookup_elem(&port, &index);
	if (!here)
		return drop(packet, DROP_NEIGHBOR_IGNORED);
	/* An answer to us, though it may be told to all: some hosts answer so. */
	is_answer = !asks && (!packet->to_group || (here->ipv4 && target_ipv4 == here->ipv4));
	learn_neighbor(index, &sender, mac, MAC_OVERRIDES | (is_answer ? MAC_IS_CONFIRMED : 0));
	if (!asks || target_ipv4 == *(__be32 *)arp->sender)
		return drop(packet, DROP_NEIGHBOR_IGNORED);
	if (!(here->ipv4 && target_ipv4 == here->ipv4) && !is_elsewhere(packet->vrf, &target, index))
		return drop(packet, DROP_NEIGHBOR_IGNORED);
	arp->operation = bpf_htons(ARP_REPLY);
	copy_mac(arp->target_mac, mac);
	*(__be32 *)arp->target = *(__be32 *)arp->sender;
	copy_mac(arp->sender_mac, here->mac);
	*(__be32 *)arp->sender = target_ipv4;
	packet->ip_length = sizeof(*arp);
	if (cut_padding(ctx, packet) != GO_ON)
		return XDP_DROP;
	count_event(EVENT_ARP_ANSWERED);
	return answer(ctx, packet, mac);
}

__noinline int global_receive_arp(struct xdp_md *ctx, struct packet *packet)
{
	return packet ? receive_arp(ctx, packet) : XDP_DROP;
}
