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
#define EXTENSION_HEADERS        4    /* that are walked to see what an IPv6 packet carries */

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

/* Type and code for both families. */
struct icmp_form {
	__u8 type_ipv4, code_ipv4, type_ipv6, code_ipv6;
};

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

static __always_inline bool is_error_ipv4(struct xdp_md *ctx, const struct packet *packet)
{
	struct cursor c = cursor_at(ctx, ip_offset(packet));
	struct ipv4 *ip = pull(&c, sizeof(*ip));
	__u8 *type = pull(&c, 1);

	if (!ip || ip->protocol != PROTOCOL_ICMP)
		return !ip;
	return !type || icmpv4_class(*type) == L4_ICMP_ERROR || *type == ICMP_SOURCE_QUENCH || *type == ICMP_REDIRECT;
}

/* Behind extension headers too; where there are more than are walked, it might be one. */
static __always_inline bool is_error_ipv6(struct xdp_md *ctx, const struct packet *packet)
{
	__u32 at = ip_offset(packet) + sizeof(struct ipv6);
	struct cursor c = cursor_at(ctx, ip_offset(packet));
	struct ipv6 *ip = pull(&c, sizeof(*ip));
	__u8 protocol, head[8];

	if (!ip)
		return true;
	protocol = ip->next_header;
	for (__u32 i = 0; i <= EXTENSION_HEADERS; i++) {
		bool skipped = protocol == PROTOCOL_HOP_BY_HOP || protocol == PROTOCOL_ROUTING ||
			       protocol == PROTOCOL_FRAGMENT || protocol == PROTOCOL_DESTINATION_OPTIONS;

		if (!skipped && protocol != PROTOCOL_ICMPV6)
			return false;
		if (at + sizeof(head) > ip_offset(packet) + packet->ip_length ||
		    bpf_xdp_load_bytes(ctx, at, head, sizeof(head)))
			return true;
		if (protocol == PROTOCOL_ICMPV6) /* RFC 4443 §2.1; a redirect is as bad */
			return head[0] < ICMPV6_ECHO_REQUEST || head[0] == ND_REDIRECT;
		at += protocol == PROTOCOL_FRAGMENT ? 8 : 8 + 8 * head[1];
		protocol = head[0];
	}
	return true;
}

/* RFC 1122 §3.2.2, RFC 4443 §2.4(e). Addresses and the link-layer destination were judged before. */
static __noinline bool may_be_told(struct xdp_md *ctx, const struct packet *packet)
{
	struct cursor c = cursor_at(ctx, ip_offset(packet));
	struct ipv4 *ipv4;
	struct ipv6 *ipv6;

	if (packet->ether_type == ETHERTYPE_IPV4) {
		ipv4 = pull(&c, sizeof(*ipv4));
		return ipv4 && !(ipv4->fragment & bpf_htons(IPV4_FRAGMENT_OFFSET)) && !is_error_ipv4(ctx, packet);
	}
	ipv6 = pull(&c, sizeof(*ipv6));
	if (!ipv6)
		return false;
	if (ipv6->next_header == PROTOCOL_FRAGMENT) {
		struct ipv6_fragment *fragment = pull(&c, sizeof(*fragment));

		if (!fragment || fragment->offset & bpf_htons(IPV6_FRAGMENT_OFFSET))
			return false;
	}
	return !is_error_ipv6(ctx, packet);
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

static __always_inline int tell_ipv4(struct xdp_md *ctx, const struct packet *packet, const union address *from,
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
	return GO_ON;
}

static __always_inline int tell_ipv6(struct xdp_md *ctx, const struct packet *packet, const union address *from,
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
	return GO_ON;
}

/* The packet is dropped and counted in any case. */
static __always_inline int tell_sender(struct xdp_md *ctx, struct packet *packet)
{
	bool v4 = packet->ether_type == ETHERTYPE_IPV4;
	struct icmp_form form = form_of(packet->error);
	__u32 index = packet->ingress_port;
	struct ethernet *ethernet;
	union address from = {};
	struct port *here;
	struct cursor c;
	__u8 mac[6];
	int made;

	drop(packet, packet->error_reason);
	here = bpf_map_lookup_elem(&port, &index);
	if (!here || !packet->flow_port || !is_source_admitted(index, &packet->flow.source))
		return XDP_DROP;
	if (restore_tag(ctx, packet) != GO_ON || !may_be_told(ctx, packet))
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
	made = v4 ? tell_ipv4(ctx, packet, &from, form) : tell_ipv6(ctx, packet, &from, form);
	if (made != GO_ON)
		return made;
	return answer(ctx, packet, mac);
}

__noinline int global_tell_sender(struct xdp_md *ctx, struct packet *packet)
{
	return packet ? tell_sender(ctx, packet) : XDP_DROP;
}
