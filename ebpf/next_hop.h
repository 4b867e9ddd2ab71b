/*
 * Out of a port: next_hop --> forward (MACs given), resolve (MAC of the destination), resolve_via (of the host that takes
 * all of it), punt, or NO_NEXT_HOP. What is larger than the port takes: trim.h.
 *
 * A destination without a known MAC: the packet itself becomes the question, an ARP request or a neighbor solicitation.
 */
#pragma once

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, PORTS);
	__type(key, __u32); /* port */
	__type(value, __u32);
} tx_port SEC(".maps");

_Static_assert(__builtin_offsetof(struct next_hop_value, forward.port) ==
		       __builtin_offsetof(struct next_hop_value, resolve.port),
	       "read before the action is known");
_Static_assert(__builtin_offsetof(struct next_hop_value, forward.vlan) ==
		       __builtin_offsetof(struct next_hop_value, resolve.vlan),
	       "read before the action is known");

static __always_inline int transmit(const struct packet *packet, __u32 number)
{
	if (bpf_redirect_map(&tx_port, number, XDP_DROP) != XDP_REDIRECT)
		return drop(packet, DROP_NO_NEXT_HOP);
	return XDP_REDIRECT;
}

/* The packet is dropped, and has become a question. That this may find no interface is no second reason. */
static __always_inline int transmit_question(const struct packet *packet, __u32 number)
{
	drop(packet, DROP_NEIGHBOR_UNKNOWN);
	return bpf_redirect_map(&tx_port, number, XDP_DROP);
}

static __always_inline int resize(struct xdp_md *ctx, const struct packet *packet, __u32 size)
{
	__u32 length = ctx->data_end - ctx->data;

	if (bpf_xdp_adjust_tail(ctx, (int)size - (int)length))
		return drop(packet, DROP_NEIGHBOR_UNKNOWN);
	return GO_ON;
}

static __noinline int ask_by_arp(struct xdp_md *ctx, const struct packet *packet, const struct port *out,
				 const union address *target, __u32 number)
{
	struct ethernet *ethernet;
	struct cursor c;
	struct arp *arp;

	if (!out->ipv4)
		return drop(packet, DROP_NEIGHBOR_UNKNOWN);
	if (resize(ctx, packet, sizeof(*ethernet) + sizeof(*arp)) != GO_ON)
		return XDP_DROP;
	c = cursor_at(ctx, 0);
	ethernet = pull(&c, sizeof(*ethernet));
	arp = pull(&c, sizeof(*arp));
	if (!ethernet || !arp)
		return drop(packet, DROP_NEIGHBOR_UNKNOWN);
	__builtin_memset(ethernet->destination, 0xff, 6);
	copy_mac(ethernet->source, out->mac);
	ethernet->type = bpf_htons(ETHERTYPE_ARP);
	arp->hardware_type = bpf_htons(ARP_HARDWARE_ETHERNET);
	arp->protocol_type = bpf_htons(ETHERTYPE_IPV4);
	arp->hardware_length = 6;
	arp->protocol_length = 4;
	arp->operation = bpf_htons(ARP_REQUEST);
	copy_mac(arp->sender_mac, out->mac);
	*(__be32 *)arp->sender = out->ipv4;
	__builtin_memset(arp->target_mac, 0, 6);
	*(__be32 *)arp->target = target->word[3];
	return transmit_question(packet, number);
}

static __noinline int ask_by_solicitation(struct xdp_md *ctx, const struct packet *packet, const struct port *out,
					  const union address *target, __u32 number)
{
	struct neighbor_discovery *nd;
	struct ethernet *ethernet;
	struct ipv6 *ip;
	struct cursor c;

	if (no_address(&out->ipv6))
		return drop(packet, DROP_NEIGHBOR_UNKNOWN);
	if (resize(ctx, packet, sizeof(*ethernet) + sizeof(*ip) + sizeof(*nd)) != GO_ON)
		return XDP_DROP;
	c = cursor_at(ctx, 0);
	ethernet = pull(&c, sizeof(*ethernet));
	ip = pull(&c, sizeof(*ip));
	nd = pull(&c, sizeof(*nd));
	if (!ethernet || !ip || !nd)
		return drop(packet, DROP_NEIGHBOR_UNKNOWN);
	/* The solicited-node group, ff02::1:ff00:0/104 and the address' last 24 bits (RFC 4291 §2.7.1, RFC 2464 §7). */
	ip->destination.half[0] = bpf_cpu_to_be64(0xff02ull << 48);
	ip->destination.word[2] = bpf_htonl(1);
	ip->destination.word[3] = (target->word[3] & bpf_htonl(0xffffff)) | bpf_htonl(0xff000000);
	ethernet->destination[0] = 0x33;
	ethernet->destination[1] = 0x33;
	*(__be32 *)&ethernet->destination[2] = ip->destination.word[3];
	copy_mac(ethernet->source, out->mac);
	ethernet->type = bpf_htons(ETHERTYPE_IPV6);
	ip->version_class_label = bpf_htonl(0x60000000);
	ip->payload_length = bpf_htons(sizeof(*nd));
	ip->next_header = PROTOCOL_ICMPV6;
	ip->hop_limit = ND_HOP_LIMIT;
	ip->source = out->ipv6;
	nd->icmp.type = ND_NEIGHBOR_SOLICITATION;
	nd->icmp.code = 0;
	nd->icmp.checksum = 0;
	nd->icmp.rest = 0;
	nd->target = *target;
	nd->option_type = ND_OPTION_SOURCE_MAC;
	nd->option_length = 1;
	copy_mac(nd->mac, out->mac);
	nd->icmp.checksum =
		~checksum_fold(pseudo_header_sum(ip, sizeof(*nd), PROTOCOL_ICMPV6) + checksum_sum(nd, sizeof(*nd)));
	return transmit_question(packet, number);
}

/* To a host of an attachment, whose MAC a controller has said, or was learnt. */
static __always_inline int send_to_neighbor(struct xdp_md *ctx, struct packet *packet, const struct next_hop_value *hop,
					    const struct port *out)
{
	struct neighbor_key key = {.port = hop->resolve.port};
	bool v4 = packet->ether_type == ETHERTYPE_IPV4;
	struct cursor c = cursor_at(ctx, 0);
	struct ethernet *ethernet = pull(&c, sizeof(*ethernet));
	struct neighbor_value *said;
	struct learnt_value *known;
	const __u8 *mac;
	struct ipv4 *ipv4 = NULL;
	struct ipv6 *ipv6 = NULL;

	if (!ethernet)
		return drop(packet, DROP_MALFORMED);
	if (v4) {
		ipv4 = pull(&c, sizeof(*ipv4));
		if (!ipv4)
			return drop(packet, DROP_MALFORMED);
		map_ipv4(&key.address, ipv4->destination);
	} else {
		ipv6 = pull(&c, sizeof(*ipv6));
		if (!ipv6)
			return drop(packet, DROP_MALFORMED);
		if (ipv6->hop_limit <= 1)
			return drop(packet, DROP_HOP_LIMIT);
		key.address = ipv6->destination;
	}
	if (hop->action == NEXT_HOP_RESOLVE_VIA)
		key.address = hop->resolve_via.via;
	else if (packet->translates)
		move_destination(packet->forwarding_class, &key.address);
	said = bpf_map_lookup_elem(&neighbor, &key);
	known = said ? NULL : bpf_map_lookup_elem(&neighbor_cache, &key);
	if (said)
		mac = said->set_mac.mac;
	else if (known)
		mac = known->mac;
	else
		mac = NULL;
	if (!mac && packet->vrf != FABRIC_VRF && is_given_up(&key))
		return refuse(packet, DROP_NEIGHBOR_UNKNOWN, ERROR_HOST_UNREACHABLE);
	if (!mac)
		return v4 ? ask_by_arp(ctx, packet, out, &key.address, key.port)
			  : ask_by_solicitation(ctx, packet, out, &key.address, key.port);
	if (known && !known->waiting_ns)
		known->waiting_ns = bpf_ktime_get_boot_ns();
	copy_mac(ethernet->destination, mac);
	copy_mac(ethernet->source, hop->resolve.source_mac);
	if (ipv4)
		decrement_ttl(ipv4);
	else if (ipv6)
		ipv6->hop_limit--;
	return packet->translates ? TO_TRANSLATE : transmit(packet, key.port);
}

__noinline int global_send_to_neighbor(struct xdp_md *ctx, struct packet *packet, const struct next_hop_value *hop,
				       const struct port *out)
{
	return packet && hop && out ? send_to_neighbor(ctx, packet, hop, out) : XDP_DROP;
}

/* The frame begins with 14 bytes of Ethernet and the header to forward by; inner hop limits were checked before. */
static __always_inline int send_to_next_hop(struct xdp_md *ctx, struct packet *packet)
{
	__u32 index = packet->next_hop, length, number;
	struct cursor c;
	struct next_hop_value *hop;
	struct ethernet *ethernet;
	struct port *out;

	hop = bpf_map_lookup_elem(&next_hop, &index);
	if (!hop || hop->action == NEXT_HOP_NO_ENTRY)
		return drop(packet, DROP_NO_NEXT_HOP);
	if (hop->action == NEXT_HOP_PUNT)
		return packet->counted ? XDP_DROP : global_punt_to_controller(ctx, packet, hop->punt.reason);
	number = hop->forward.port;
	out = bpf_map_lookup_elem(&port, &number);
	if (!out || !(out->flags & PORT_PRESENT) || hop->forward.vlan)
		return drop(packet, DROP_NO_NEXT_HOP);
	length = ctx->data_end - ctx->data;
	asm volatile("" : "+r"(length)); /* clang is not to add to the pointers of which it is the difference */
	if (out->mtu && (length > sizeof(*ethernet) + out->mtu || packet->behind_cut)) {
		int verdict = global_exceed_port(ctx, packet, out->mtu);

		if (verdict != GO_ON)
			return verdict;
	}
	if (is_resolved(hop))
		return global_send_to_neighbor(ctx, packet, hop, out);

	c = cursor_at(ctx, 0);
	ethernet = pull(&c, sizeof(*ethernet));
	if (!ethernet)
		return drop(packet, DROP_MALFORMED);
	if (packet->ether_type == ETHERTYPE_IPV6) {
		struct ipv6 *ip = pull(&c, sizeof(*ip));

		if (!ip)
			return drop(packet, DROP_MALFORMED);
		if (ip->hop_limit <= 1)
			return drop(packet, DROP_HOP_LIMIT);
		ip->hop_limit--;
	} else {
		struct ipv4 *ip = pull(&c, sizeof(*ip));

		if (!ip)
			return drop(packet, DROP_MALFORMED);
		decrement_ttl(ip);
	}
	copy_mac(ethernet->destination, hop->forward.destination_mac);
	copy_mac(ethernet->source, hop->forward.source_mac);
	return packet->translates ? TO_TRANSLATE : transmit(packet, number);
}

/* For what known flows do not meet. */
__noinline int global_send_to_next_hop(struct xdp_md *ctx, struct packet *packet)
{
	return packet ? send_to_next_hop(ctx, packet) : XDP_DROP;
}

/* What is ready to go out but for its addresses. */
static __always_inline int send_translated(struct xdp_md *ctx, const struct packet *packet)
{
	__u32 index = packet->next_hop;
	struct next_hop_value *hop = bpf_map_lookup_elem(&next_hop, &index);

	if (!hop || global_translate(ctx, packet, packet->forwarding_class) != GO_ON)
		return drop(packet, DROP_NO_NEXT_HOP);
	return transmit(packet, hop->forward.port);
}

__noinline int global_send_translated(struct xdp_md *ctx, const struct packet *packet)
{
	return packet ? send_translated(ctx, packet) : XDP_DROP;
}
