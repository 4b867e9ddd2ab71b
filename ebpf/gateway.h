/* An attachment's gateway address: answers echo requests of whom source_guard admits, takes nothing else. */
#pragma once

static __always_inline bool is_to_gateway(const struct packet *packet)
{
	__u32 index = packet->ingress_port;
	struct port *here = bpf_map_lookup_elem(&port, &index);

	if (!here)
		return false;
	if (packet->ether_type == ETHERTYPE_IPV4)
		return here->ipv4 && packet->flow.destination.word[3] == here->ipv4;
	return same_address(&packet->flow.destination, &here->ipv6) && !no_address(&here->ipv6);
}

/* The reply to an echo request (RFC 792, RFC 4443 §4.2), of the same size. */
static __always_inline int answer_echo(struct xdp_md *ctx, struct packet *packet)
{
	bool v4 = packet->ether_type == ETHERTYPE_IPV4;
	__be16 request = bpf_htons((v4 ? ICMP_ECHO_REQUEST : ICMPV6_ECHO_REQUEST) << 8);
	__be16 reply = bpf_htons((v4 ? ICMP_ECHO_REPLY : ICMPV6_ECHO_REPLY) << 8);
	struct ethernet *ethernet;
	struct icmp *icmp;
	struct cursor c;
	__u8 mac[6];

	if (!is_source_admitted(packet->ingress_port, &packet->flow.source))
		return drop(packet, DROP_SOURCE_NOT_ADMITTED);
	if (packet->l4_fault || packet->is_fragment || packet->flow.l4_class != L4_ECHO_REQUEST ||
	    packet->l4_offset != (v4 ? sizeof(struct ipv4) : sizeof(struct ipv6)))
		return drop(packet, DROP_NOT_PERMITTED);
	if (cut_padding(ctx, packet) != GO_ON)
		return XDP_DROP;
	c = cursor_at(ctx, 0);
	ethernet = pull(&c, sizeof(*ethernet));
	if (!ethernet)
		return drop(packet, DROP_MALFORMED);
	copy_mac(mac, ethernet->source);
	c = cursor_at(ctx, ip_offset(packet));
	if (v4) {
		struct ipv4 *ip = pull(&c, sizeof(*ip));
		__be32 source;

		icmp = pull(&c, sizeof(*icmp));
		if (!ip || !icmp)
			return drop(packet, DROP_MALFORMED);
		source = ip->source;
		ip->source = ip->destination;
		ip->destination = source;
		ip->ttl = DEFAULT_HOP_LIMIT;
		ip->checksum = 0;
		ip->checksum = ~checksum_fold(checksum_sum(ip, sizeof(*ip)));
	} else {
		struct ipv6 *ip = pull(&c, sizeof(*ip));
		union address source;

		icmp = pull(&c, sizeof(*icmp));
		if (!ip || !icmp)
			return drop(packet, DROP_MALFORMED);
		source = ip->source;
		ip->source = ip->destination;
		ip->destination = source;
		ip->hop_limit = DEFAULT_HOP_LIMIT;
	}
	if (*(__be16 *)icmp != request)
		return drop(packet, DROP_NOT_PERMITTED);
	*(__be16 *)icmp = reply;
	icmp->checksum = checksum_update(icmp->checksum, request, reply);
	count_event(EVENT_ECHO_ANSWERED);
	return answer(ctx, packet, mac);
}

__noinline int global_answer_echo(struct xdp_md *ctx, struct packet *packet)
{
	return packet ? answer_echo(ctx, packet) : XDP_DROP;
}
