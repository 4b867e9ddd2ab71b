/*
 * Probes of our own that have come back: STAMP (RFC 8762) in a loop, from this node along the SIDs of a path to its far
 * end, and along the same links back to our own End.
 *
 *   End, no SID left, UDP to STAMP's port ──▶ probe[SSID].sent[sequence] ── same HMAC, first time ──▶ received_ns
 *                                                                         └▶ forged, or replayed: counted, dropped
 *
 *                             SSID of notices ──▶ path_dead[group].doubted
 *
 * Who sends remembers the HMAC of each, so that nothing is computed here: whoever did not see a probe cannot make its
 * HMAC, and each counts once. The sender judges (dataplane/probes/prober.c): path_dead has a bit for each candidate path.
 * A notice says which path its sender finds dead. It proves nothing, and decides nothing.
 */
#pragma once

/* RFC 8762 §4.2.2, with the SSID of RFC 8972 §3. */
struct stamp {
	__be32 sequence;
	__u8 zero[12];
	__be64 timestamp;
	__be16 error_estimate;
	__be16 ssid;
	__be16 dead_group; /* of a notice, and the next; of a probe zero */
	__u8 dead_slot;
	__u8 zero2[65];
	__be64 hmac[2];
};
_Static_assert(sizeof(struct stamp) == 112, "stamp");

struct udp {
	__be16 source_port;
	__be16 destination_port;
	__be16 length;
	__be16 checksum;
};

struct probe_sent {
	__u64 sent_ns;     /* CLOCK_MONOTONIC */
	__u64 received_ns; /* 0: not yet */
	__be64 hmac[2];
	__u32 sequence;
	__u32 is_sent; /* 0: nothing was sent with this sequence number yet */
};
_Static_assert(sizeof(struct probe_sent) == 40, "probe_sent");

struct probe {
	struct probe_sent sent[PROBES_REMEMBERED];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PROBES);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32); /* SSID */
	__type(value, struct probe);
} probe SEC(".maps");

struct path_judgement {
	__u32 dead; /* bits of candidate paths */
	__u32 is_used; /* a packet has been sent by one of them since the sender of probes looked: it probes these faster */
	__u32 doubted; /* bits: their far ends have told that they are dead */
	__u32 unused;
};
_Static_assert(sizeof(struct path_judgement) == 16, "path_judgement");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PATH_LIVENESS_SIZE);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32); /* liveness group */
	__type(value, struct path_judgement);
} path_dead SEC(".maps");

/* The STAMP packet that is all that the outer header, and an SRH without further segments, carry; or none. */
static __always_inline const struct stamp *probe_at(struct xdp_md *ctx, const struct packet *packet)
{
	struct cursor c = cursor_at(ctx, ip_offset(packet));
	struct ipv6 *ip = pull(&c, sizeof(*ip));
	const struct stamp *stamp;
	__u8 next_header;
	struct udp *udp;

	if (!ip)
		return NULL;
	next_header = ip->next_header;
	if (next_header == PROTOCOL_ROUTING) {
		struct segment_routing *srh = pull(&c, sizeof(*srh));

		if (!srh || srh->segments_left || !is_srh_right(srh, bpf_ntohs(ip->payload_length)))
			return NULL;
		next_header = srh->next_header;
		c.position += (srh->hdr_ext_len & 31) * 8;
	}
	if (next_header != PROTOCOL_UDP)
		return NULL;
	udp = pull(&c, sizeof(*udp));
	stamp = pull(&c, sizeof(*stamp));
	return udp && stamp && udp->destination_port == bpf_htons(STAMP_PORT) ? stamp : NULL;
}

static __always_inline int refuse_probe(const struct packet *packet, __u32 event)
{
	count_event(event);
	return drop(packet, DROP_SEGMENTS_LEFT); /* as whatever else ends at End */
}

static __always_inline int hear_notice(const struct stamp *stamp)
{
	__u32 group = bpf_ntohs(stamp->dead_group);
	struct path_judgement *judged = bpf_map_lookup_elem(&path_dead, &group);

	if (judged)
		judged->doubted |= 1u << (stamp->dead_slot & (CANDIDATE_PATHS - 1));
	count_event(EVENT_PATH_DOUBTED);
	return XDP_DROP;
}

/* GO_ON: it is no probe. XDP_DROP: it is one, and has come to its end. */
static __noinline int hear_probe(struct xdp_md *ctx, const struct packet *packet)
{
	const struct stamp *stamp = probe_at(ctx, packet);
	struct probe_sent *sent;
	struct probe *probing;
	__u32 ssid, sequence;

	if (!stamp)
		return GO_ON;
	ssid = bpf_ntohs(stamp->ssid);
	sequence = bpf_ntohl(stamp->sequence);
	if (ssid == NOTICE_SSID)
		return hear_notice(stamp);
	probing = bpf_map_lookup_elem(&probe, &ssid);
	if (!probing)
		return refuse_probe(packet, EVENT_PROBE_FORGED);
	sent = &probing->sent[sequence % PROBES_REMEMBERED];
	if (!sent->is_sent)
		return refuse_probe(packet, EVENT_PROBE_FORGED);
	if (sent->sequence != sequence)
		return refuse_probe(packet, EVENT_PROBE_REPLAYED);
	if (sent->hmac[0] != stamp->hmac[0] || sent->hmac[1] != stamp->hmac[1])
		return refuse_probe(packet, EVENT_PROBE_FORGED);
	if (sent->received_ns)
		return refuse_probe(packet, EVENT_PROBE_REPLAYED);
	sent->received_ns = bpf_ktime_get_ns();
	count_event(EVENT_PROBE_RETURNED);
	return XDP_DROP;
}
