/*
 * What the stages tell each other about a packet, and how they look into it.
 *
 *   data            ip_offset                l4_offset                          data_end
 *    | Ethernet | tag | IPv4 or IPv6 (fragment) | TCP, UDP, ICMP ...     | padding |
 *                     |<------------------ ip_length ------------------>|
 *
 * What known flows do not meet is behind `global_...` functions: the verifier judges a global function once, and not for
 * each way that leads to it. It cannot know that a pointer is there, so these ask.
 *
 * A stage returns an XDP action, or what comes next. Offsets live here, pointers do not: a pointer into the frame is
 * taken again after each call that may move the head or the tail.
 */
#pragma once

enum next_stage {
	GO_ON = -1, /* the stage has nothing against it */
	TO_NEXT_HOP =
		-2,    /* `next_hop` is set; the frame begins with 14 bytes of Ethernet and the header to forward by */
	TO_STEER = -4, /* `forwarding_class` is set, and may be used */
	TO_TRANSLATE = -5, /* all but its addresses is as it leaves */
	TELL_SENDER = -3,  /* the packet is not forwarded: `error_reason` counts it, `error` is what its sender hears */
};

/* The key of the flow cache; IPv4 addresses as ::ffff:a.b.c.d. Ports are 0 where the protocol has none, of echo both its identifier. */
union flow_key {
	struct {
		union address source;
		union address destination;
		__be16 source_port;
		__be16 destination_port;
		__u8 protocol;
		__u8 l4_class;
		__u16 policy_class;
	};
	__u64 word[5];
};
_Static_assert(sizeof(union flow_key) == 40, "flow_key");

struct packet {
	union flow_key flow;
	__u32 frame_length; /* as it came; what drops count */
	__u32 ifindex;
	__u16 ingress_port;
	__u16 flow_port; /* the same for a packet of an attachment, 0 for a decapsulated one */
	__u16 ingress_class;
	__u16 ether_type; /* host order, behind the tag */
	__u16 ip_length;
	__u16 vrf;              /* that it came into, or FABRIC_VRF where an outer header leads on */
	__u16 forwarding_class; /* 0: none permits it (yet) */
	__u16 next_hop;
	__u8 ip_offset; /* 14, or 18 behind a tag */
	__u8 l4_offset; /* from ip_offset */
	__u8 l4_fault;  /* enum drop_reason: what is wrong behind the IP header */
	__u8 traffic_class;
	__u8 hop_limit;
	__u8 is_fragment;
	__u8 fragment_at; /* of IPv6: where its fragment header is, from ip_offset */
	__u8 tcp_flags;
	__u8 to_group;     /* of an attachment: the frame is a link-layer broadcast or multicast */
	__u8 behind_cut;   /* a fragment whose first is on its way to be cut */
	__u8 translates;   /* where it is delivered its addresses are moved */
	__u8 error;        /* enum icmp_error */
	__u8 error_reason; /* enum drop_reason */
	__u16 error_mtu;
	__u16 answer_class; /* forwarding class of a decapsulated packet on which its sender is told; 0: as the VRF says */
	__u8 counted;       /* the drop is counted, what else happens to the frame is not */
	__be32 tag;         /* EtherType and control of the tag that a host's frame lost on its way to be delivered */
};

struct cursor {
	void *position;
	void *end;
};

static __always_inline struct cursor cursor_at(struct xdp_md *ctx, __u32 offset)
{
	struct cursor cursor = {
		.position = (void *)(long)ctx->data + offset,
		.end = (void *)(long)ctx->data_end,
	};

	return cursor;
}

/* The next `size` bytes, or NULL if the frame ends before. */
static __always_inline void *pull(struct cursor *cursor, __u32 size)
{
	void *here = cursor->position;

	if (here + size > cursor->end)
		return NULL;
	cursor->position = here + size;
	return here;
}

/* clang would keep a known offset of 14 or 18 apart; the verifier is to see one value in a small range. */
static __always_inline __u32 ip_offset(const struct packet *packet)
{
	return packet->ip_offset & 31;
}

/*
 * How much of a frame to copy into a buffer of `most` bytes. The barriers keep clang from comparing one copy of
 * the value and using another, whose bounds the verifier does not know.
 */
static __always_inline __u32 at_most(__u32 length, __u32 most)
{
	asm volatile("" : "+r"(length));
	if (length > most)
		length = most;
	asm volatile("" : "+r"(length));
	return length;
}

/*
 * Whether what at_most gave is nothing to copy, which bpf_xdp_load_bytes refuses. Signed, because clang makes `== 0` of
 * an unsigned `< 1`, and the verifier learns a bound from that only since Linux 6.8.
 */
static __always_inline bool is_empty(__u32 length)
{
	return (__s32)length < 1;
}

/* `packet` goes no further, and its sender is to hear why. */
static __always_inline int refuse(struct packet *packet, __u8 reason, __u8 error)
{
	packet->error = error;
	packet->error_reason = reason;
	return TELL_SENDER;
}

static __always_inline void copy_mac(void *to, const void *from)
{
	*(__u32 *)to = *(const __u32 *)from;
	*(__u16 *)(to + 4) = *(const __u16 *)(from + 4);
}

static __always_inline bool same_mac(const void *a, const void *b)
{
	return *(const __u32 *)a == *(const __u32 *)b && *(const __u16 *)(a + 4) == *(const __u16 *)(b + 4);
}

static __always_inline bool same_address(const union address *a, const union address *b)
{
	return a->half[0] == b->half[0] && a->half[1] == b->half[1];
}

static __always_inline bool no_address(const union address *a)
{
	return !a->half[0] && !a->half[1];
}

static __always_inline void map_ipv4(union address *to, __be32 ipv4)
{
	to->half[0] = 0;
	to->word[2] = bpf_htonl(IPV4_MAPPED);
	to->word[3] = ipv4;
}

static __always_inline bool in_sid_block(const union address *address)
{
	return *(const __be16 *)address->byte == bpf_htons(SID_BLOCK);
}
