/*
 * What the sender of a dropped packet is told, by the gateway of its network: RFC 792, RFC 1812 §4.3, RFC 4443 §2.4, §3.
 *
 *   a stage: refuse(packet, reason, error) --> counted --> may it be told? --> within the port's budget? --> ICMP error
 *
 *   | Ethernet, tag | IP |  packet ...            |     the tail is cut behind the quote,
 *   | Ethernet, tag | IP, ICMP | quote |                the head grows by IP and ICMP
 *
 * A quote has at most 28 bytes of IPv4 (header and 8 octets) or 88 of IPv6, in whole words.
 */
#pragma once

#define QUOTE_IPV4               28
#define QUOTE_IPV6               88
#define TOS_INTERNETWORK_CONTROL 0xc0 /* RFC 1812 §4.3.2.5 */

/* One error in so many nanoseconds, and `icmp_error_burst_ns` ahead of that: RFC 4443 §2.4(f). 0: no limit. */
const volatile __u64 icmp_error_interval_ns = 20000000;
const volatile __u64 icmp_error_burst_ns = 1000000000;

/* Until when the errors that a port was sent have used up its budget, by the boot clock: GCRA, a token bucket. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PORTS);
	__type(key, __u32); /* port */
	__type(value, __u64);
} icmp_error_budget SEC(".maps");

/* Type and code for both families, packed for the functions that the verifier judges once. */
struct icmp_form {
	__u8 type_ipv4, code_ipv4, type_ipv6, code_ipv6;
};
_Static_assert(sizeof(struct icmp_form) == 4, "icmp_form");

static __always_inline struct icmp_form form_of(__u8 error)
{
	switch (error) {
	case ERROR_TOO_BIG:
		return (struct icmp_form){ICMP_DESTINATION_UNREACHABLE, ICMP_FRAGMENTATION_NEEDED,
					  ICMPV6_PACKET_TOO_BIG, 0};
	case ERROR_HOP_LIMIT:
		return (struct icmp_form){ICMP_TIME_EXCEEDED, 0, ICMPV6_TIME_EXCEEDED, 0};
	case ERROR_HOST_UNREACHABLE:
		return (struct icmp_form){ICMP_DESTINATION_UNREACHABLE, ICMP_HOST_UNREACHABLE,
					  ICMPV6_DESTINATION_UNREACHABLE, ICMPV6_ADDRESS_UNREACHABLE};
	case ERROR_PROHIBITED:
		return (struct icmp_form){ICMP_DESTINATION_UNREACHABLE, ICMP_ADMINISTRATIVELY_PROHIBITED,
					  ICMPV6_DESTINATION_UNREACHABLE, ICMPV6_ADMINISTRATIVELY_PROHIBITED};
	default:
		return (struct icmp_form){ICMP_DESTINATION_UNREACHABLE, ICMP_NET_UNREACHABLE,
					  ICMPV6_DESTINATION_UNREACHABLE, ICMPV6_NO_ROUTE};
	}
}

static __noinline bool is_within_budget(__u32 ingress_port)
{
	__u64 *spent_until = bpf_map_lookup_elem(&icmp_error_budget, &ingress_port), now, from;

	if (!spent_until)
		return false;
	if (!icmp_error_interval_ns)
		return true;
	now = bpf_ktime_get_boot_ns();
	from = *spent_until > now ? *spent_until : now;
	if (from > now + icmp_error_burst_ns)
		return false;
	*spent_until = from + icmp_error_interval_ns;
	return true;
}

/* Where there are more extension headers than are walked, it might be one. */
static __always_inline bool is_error(struct xdp_md *ctx, const struct packet *packet)
{
	bool v4 = packet->ether_type == ETHERTYPE_IPV4;
	__u8 protocol = packet->flow.protocol, type;

	if (packet->flow.l4_class == L4_ICMP_ERROR || (!v4 && is_extension(protocol)))
		return true;
	if (protocol != (v4 ? PROTOCOL_ICMP : PROTOCOL_ICMPV6))
		return false;
	if (bpf_xdp_load_bytes(ctx, ip_offset(packet) + packet->l4_offset, &type, sizeof(type)))
		return true;
	return v4 ? type == ICMP_SOURCE_QUENCH || type == ICMP_REDIRECT : type == ND_REDIRECT;
}

/* RFC 1122 §3.2.2, RFC 4443 §2.4(e). Addresses and the link-layer destination were judged before. */
static __noinline bool may_be_told(struct xdp_md *ctx, const struct packet *packet)
{
	struct cursor c = cursor_at(ctx, ip_offset(packet));
	struct ipv4 *ipv4;

	if (packet->ether_type == ETHERTYPE_IPV4) {
		ipv4 = pull(&c, sizeof(*ipv4));
		if (!ipv4 || ipv4->fragment & bpf_htons(IPV4_FRAGMENT_OFFSET))
			return false;
	} else if (packet->is_fragment) {
		struct ipv6_fragment *fragment;

		c = cursor_at(ctx, ip_offset(packet) + packet->fragment_at);
		fragment = pull(&c, sizeof(*fragment));
		if (!fragment || fragment->offset & bpf_htons(IPV6_FRAGMENT_OFFSET))
			return false;
	}
	return !is_error(ctx, packet);
}

/* Whether the network that the frame came from has its denied packets answered. */
static __noinline bool is_rejecting(struct xdp_md *ctx, const struct packet *packet)
{
	struct attachment_key key = {.ingress_port = packet->ingress_port};
	struct cursor c = cursor_at(ctx, sizeof(struct ethernet));
	struct attachment_value *value;

	if (packet->ip_offset != sizeof(struct ethernet)) {
		struct vlan_tag *tag = pull(&c, sizeof(*tag));

		if (!tag)
			return false;
		key.vlan_id = bpf_ntohs(tag->control) & 0xfff;
	}
	value = bpf_map_lookup_elem(&attachment, &key);
	return value && value->action == ATTACHMENT_ATTACH_REJECT;
}

/* Cuts the frame to `quote` bytes of IP and makes room for `room` bytes before them; copies the Ethernet header. */
static __always_inline int make_room(struct xdp_md *ctx, const struct packet *packet, __u32 quote, __u32 room)
{
	__u32 length = ctx->data_end - ctx->data;
	struct cursor c = cursor_at(ctx, 0);
	struct ethernet *ethernet = pull(&c, sizeof(*ethernet));
	struct vlan_tag *tag;
	__u8 head[18];

	asm volatile("" : "+r"(length)); /* clang is not to add to the pointers of which it is the difference */
	if (!ethernet)
		return XDP_DROP;
	__builtin_memcpy(head, ethernet, sizeof(*ethernet));
	tag = pull(&c, sizeof(*tag));
	if (!tag)
		return XDP_DROP;
	__builtin_memcpy(head + sizeof(*ethernet), tag, sizeof(*tag));
	if (bpf_xdp_adjust_tail(ctx, (int)(ip_offset(packet) + quote) - (int)length) ||
	    bpf_xdp_adjust_head(ctx, -(int)room))
		return XDP_DROP;
	c = cursor_at(ctx, 0);
	ethernet = pull(&c, sizeof(head));
	if (!ethernet)
		return XDP_DROP;
	__builtin_memcpy(ethernet, head, sizeof(head));
	return GO_ON;
}

static __always_inline int write_ipv4(struct xdp_md *ctx, struct packet *packet, const union address *from,
				      struct icmp_form form)
{
	__u32 quote = (packet->ip_length < QUOTE_IPV4 ? packet->ip_length : QUOTE_IPV4) & ~3u;
	struct icmp *icmp;
	struct ipv4 *ip;
	struct cursor c;
	__u64 sum;

	if (make_room(ctx, packet, quote, sizeof(*ip) + sizeof(*icmp)) != GO_ON)
		return XDP_DROP;
	c = cursor_at(ctx, ip_offset(packet));
	ip = pull(&c, sizeof(*ip));
	icmp = pull(&c, sizeof(*icmp));
	if (!ip || !icmp)
		return XDP_DROP;
	ip->version_ihl = IPV4_VERSION_IHL;
	ip->tos = TOS_INTERNETWORK_CONTROL;
	ip->total_length = bpf_htons(sizeof(*ip) + sizeof(*icmp) + quote);
	ip->id = 0;
	ip->fragment = 0;
	ip->ttl = DEFAULT_HOP_LIMIT;
	ip->protocol = PROTOCOL_ICMP;
	ip->checksum = 0;
	ip->source = from->word[3];
	ip->destination = packet->flow.source.word[3];
	ip->checksum = ~checksum_fold(checksum_sum(ip, sizeof(*ip)));
	icmp->type = form.type_ipv4;
	icmp->code = form.code_ipv4;
	icmp->checksum = 0;
	icmp->rest = bpf_htonl(packet->error_mtu);
	sum = global_sum(ctx, ip_offset(packet) + sizeof(*ip), sizeof(*icmp) + quote);
	c = cursor_at(ctx, ip_offset(packet) + sizeof(*ip));
	icmp = pull(&c, sizeof(*icmp));
	if (!icmp)
		return XDP_DROP;
	icmp->checksum = ~checksum_fold(sum);
	packet->ip_length = sizeof(*ip) + sizeof(*icmp) + quote;
	return GO_ON;
}

static __always_inline int write_ipv6(struct xdp_md *ctx, struct packet *packet, const union address *from,
				      struct icmp_form form)
{
	__u32 quote = (packet->ip_length < QUOTE_IPV6 ? packet->ip_length : QUOTE_IPV6) & ~3u;
	struct icmp *icmp;
	struct ipv6 *ip;
	struct cursor c;
	__u64 sum;

	if (make_room(ctx, packet, quote, sizeof(*ip) + sizeof(*icmp)) != GO_ON)
		return XDP_DROP;
	c = cursor_at(ctx, ip_offset(packet));
	ip = pull(&c, sizeof(*ip));
	icmp = pull(&c, sizeof(*icmp));
	if (!ip || !icmp)
		return XDP_DROP;
	ip->version_class_label = bpf_htonl(0x60000000);
	ip->payload_length = bpf_htons(sizeof(*icmp) + quote);
	ip->next_header = PROTOCOL_ICMPV6;
	ip->hop_limit = DEFAULT_HOP_LIMIT;
	ip->source = *from;
	ip->destination = packet->flow.source;
	icmp->type = form.type_ipv6;
	icmp->code = form.code_ipv6;
	icmp->checksum = 0;
	icmp->rest = bpf_htonl(packet->error_mtu);
	sum = pseudo_header_sum(ip, sizeof(*icmp) + quote, PROTOCOL_ICMPV6);
	sum += global_sum(ctx, ip_offset(packet) + sizeof(*ip), sizeof(*icmp) + quote);
	c = cursor_at(ctx, ip_offset(packet) + sizeof(*ip));
	icmp = pull(&c, sizeof(*icmp));
	if (!icmp)
		return XDP_DROP;
	icmp->checksum = ~checksum_fold(sum);
	packet->ip_length = sizeof(*ip) + sizeof(*icmp) + quote;
	return GO_ON;
}

/* The packet becomes the error about it, from `from` to its sender; `packed`: struct icmp_form. */
__noinline int global_write_error(struct xdp_md *ctx, struct packet *packet, const union address *from, __u32 packed)
{
	struct icmp_form form = {packed, packed >> 8, packed >> 16, packed >> 24};

	if (!packet || !from)
		return XDP_DROP;
	return packet->ether_type == ETHERTYPE_IPV4 ? write_ipv4(ctx, packet, from, form)
						    : write_ipv6(ctx, packet, from, form);
}

/* To a host of this port, as the gateway. */
static __always_inline int tell_host(struct xdp_md *ctx, struct packet *packet, struct icmp_form form)
{
	bool v4 = packet->ether_type == ETHERTYPE_IPV4;
	__u32 index = packet->ingress_port;
	struct ethernet *ethernet;
	union address from = {};
	struct port *here;
	struct cursor c;
	__u8 mac[6];

	here = bpf_map_lookup_elem(&port, &index);
	if (!here || !is_source_admitted(index, &packet->flow.source) || restore_tag(ctx, packet) != GO_ON)
		return XDP_DROP;
	if (packet->error == ERROR_PROHIBITED && !is_rejecting(ctx, packet))
		return XDP_DROP;
	if (v4)
		from.word[3] = here->ipv4;
	else
		from = here->ipv6;
	c = cursor_at(ctx, 0);
	ethernet = pull(&c, sizeof(*ethernet));
	if (!ethernet || no_address(&from) || !is_within_budget(index))
		return XDP_DROP;
	copy_mac(mac, ethernet->source);
	if (global_write_error(ctx, packet, &from, *(__u32 *)&form) != GO_ON)
		return XDP_DROP;
	return answer(ctx, packet, mac);
}

/* The gateway address at the port to which the packet would have been delivered, or none. */
static __noinline int find_gateway_ahead(const struct packet *packet, union address *gateway)
{
	struct route_key key = {
		.prefix_length = 160,
		.vrf = bpf_htonl(packet->vrf),
		.destination = packet->flow.destination,
	};
	struct route_value *found = bpf_map_lookup_elem(&route, &key);
	struct next_hop_value *hop;
	struct port *out;
	__u32 index;

	if (!found || found->action != ROUTE_SET_NEXT_HOP)
		return 0;
	index = found->set_next_hop.next_hop;
	hop = bpf_map_lookup_elem(&next_hop, &index);
	if (!hop || hop->action != NEXT_HOP_RESOLVE)
		return 0;
	index = hop->resolve.port;
	out = bpf_map_lookup_elem(&port, &index);
	if (!out)
		return 0;
	if (packet->ether_type == ETHERTYPE_IPV6)
		*gateway = out->ipv6;
	else if (out->ipv4)
		map_ipv4(gateway, out->ipv4);
	return !no_address(gateway);
}

/* The forwarding class from the packet's destination back to its source, or negative. */
static __always_inline int find_answer_class(const struct packet *packet)
{
	union flow_key back = {.source = packet->flow.destination, .destination = packet->flow.source};

	if (packet->answer_class)
		return packet->answer_class;
	back.l4_class = L4_ICMP_ERROR;
	back.protocol = packet->ether_type == ETHERTYPE_IPV4 ? PROTOCOL_ICMP : PROTOCOL_ICMPV6;
	back.policy_class = packet->flow.policy_class;
	return global_resolve(&back, packet->vrf, 0, ASKING_ONLY);
}

/*
 * To the sender of a decapsulated packet, on the way that its replies take. Inside one network it is said by the gateway;
 * across networks in the name of the packet's destination, the only one that the terms let answer, so that no address
 * of a node is shown. Which hop a hop limit ends at is said inside a network only.
 */
static __always_inline int tell_beyond(struct xdp_md *ctx, struct packet *packet, struct icmp_form form)
{
	bool v4 = packet->ether_type == ETHERTYPE_IPV4;
	union address from = {}, to = packet->flow.source;
	struct steer_value *how;
	__u32 answer;
	int found;

	if (packet->ingress_class == ATTACHMENT_CLASS) /* a piece of a packet: nobody is told of it */
		return XDP_DROP;
	if (packet->error == ERROR_PROHIBITED || (packet->error == ERROR_HOP_LIMIT && packet->answer_class))
		return XDP_DROP;
	if (packet->answer_class)
		from = packet->flow.destination;
	else if (!find_gateway_ahead(packet, &from))
		return XDP_DROP;
	found = find_answer_class(packet);
	if (found < 0)
		return XDP_DROP;
	answer = found;
	how = bpf_map_lookup_elem(&steer, &answer);
	if (!how || (how->action != STEER_ENCAPSULATE && how->action != STEER_TRANSLATE_ENCAPSULATE) ||
	    is_lease_expired(answer) || !is_within_budget(packet->ingress_port) ||
	    global_write_error(ctx, packet, &from, *(__u32 *)&form) != GO_ON)
		return XDP_DROP;
	packet->flow.source = from;
	packet->flow.destination = to;
	set_flow(packet, 0, v4 ? PROTOCOL_ICMP : PROTOCOL_ICMPV6, L4_ICMP_ERROR);
	packet->traffic_class = v4 ? TOS_INTERNETWORK_CONTROL : 0;
	packet->hop_limit = DEFAULT_HOP_LIMIT;
	packet->tcp_flags = 0;
	packet->behind_cut = 0;
	packet->translates = 0;
	count_class(answer, 1, packet->ip_length);
	if (how->action == STEER_TRANSLATE_ENCAPSULATE && global_translate(ctx, packet, answer) != GO_ON)
		return XDP_DROP;
	if (global_encapsulate(ctx, packet, how) != TO_NEXT_HOP)
		return XDP_DROP;
	return global_send_to_next_hop(ctx, packet);
}

/* The packet is dropped and counted in any case. */
static __always_inline int tell_sender(struct xdp_md *ctx, struct packet *packet)
{
	struct icmp_form form = form_of(packet->error);
	int verdict;

	drop(packet, packet->error_reason);
	packet->counted = true;
	if (!may_be_told(ctx, packet))
		return XDP_DROP;
	verdict = packet->flow_port ? tell_host(ctx, packet, form) : tell_beyond(ctx, packet, form);
	return verdict < 0 ? XDP_DROP : verdict;
}

__noinline int global_tell_sender(struct xdp_md *ctx, struct packet *packet)
{
	return packet ? tell_sender(ctx, packet) : XDP_DROP;
}
