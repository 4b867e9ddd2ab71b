/* Generated from p4src/stitch.p4info.txtpb and dataplane/reasons.py by `python -m dataplane.tables.header`; do not edit. */
/* clang-format off */
#pragma once

enum drop_reason {
	DROP_NONE = 0,
	DROP_MALFORMED = 1,
	DROP_UNKNOWN_ATTACHMENT = 2,
	DROP_SID_NOT_ADMITTED = 3,
	DROP_SEGMENTS_LEFT = 4,
	DROP_FRAGMENT = 5,
	DROP_NOT_PERMITTED = 6,
	DROP_METERED = 7,
	DROP_NO_STEERING = 8,
	DROP_NO_LIVE_PATH = 9,
	DROP_NO_ROUTE = 10,
	DROP_NO_NEXT_HOP = 11,
	DROP_HOP_LIMIT = 12,
	DROP_NOT_IP = 13,
	DROP_SOURCE_NOT_ADMITTED = 14,
	DROP_LEASE_EXPIRED = 15,
	DROP_TOO_BIG = 16,
	DROP_NEIGHBOR_UNKNOWN = 17,
	DROP_NEIGHBOR_IGNORED = 18,
	DROP_NOT_FORWARDABLE = 19,
	DROP_NOT_TO_US = 20,
	DROP_FRAGMENT_REFUSED = 21,
	DROP_IPV4_OPTIONS = 22,
	DROP_NO_IPV6 = 23,
	DROP_UNCLASSIFIED = 24,
	DROP_PORT_DOWN = 25,
	DROP_PORT_FULL = 26,
	DROP_PORT_UNFIT = 27,
	DROP_KERNEL_LOST = 28,
	DROP_PUNT_LOST = 29,
	DROP_ICMP_ERROR_REFUSED = 30,
	DROP_TRIMMED = 31,
	DROP_UNASKED = 32,
	DROP_ISOLATED = 64,
};

enum port_loss {
	LOSS_FULL = 0,
	LOSS_DOWN = 1,
	LOSS_TOO_BIG = 2,
	LOSS_UNFIT = 3,
};

enum punt_reason {
	PUNT_NONE = 0,
	PUNT_TOO_BIG = 1,
	PUNT_NO_NEIGHBOR = 2,
};

enum icmp_error {
	ERROR_NONE = 0,
	ERROR_TOO_BIG = 1,
	ERROR_HOP_LIMIT = 2,
	ERROR_HOST_UNREACHABLE = 3,
	ERROR_NO_ROUTE = 4,
	ERROR_PROHIBITED = 5,
};

enum l4_class {
	L4_TCP_OPEN = 0,
	L4_TCP = 1,
	L4_UDP = 2,
	L4_ICMP_ERROR = 3,
	L4_ECHO_REQUEST = 4,
	L4_ECHO_REPLY = 5,
	L4_OTHER = 6,
	L4_UNCLASSIFIED = 7,
};

enum pipeline_event {
	EVENT_ARP_ANSWERED = 0,
	EVENT_ND_ANSWERED = 1,
	EVENT_ECHO_ANSWERED = 2,
	EVENT_NEIGHBOR_LEARNT = 3,
	EVENT_MSS_CLAMPED = 4,
	EVENT_CACHE_HIT = 5,
	EVENT_CACHE_MISS = 6,
	EVENT_CACHE_EVICTED = 7,
	EVENT_ENCAPSULATED = 8,
	EVENT_DECAPSULATED = 9,
	EVENT_END = 10,
	EVENT_CAPTURE_LOST = 11,
	EVENT_PUNT_LOST = 29,
	EVENT_NEIGHBOR_EVICTED = 13,
	EVENT_FRAGMENT_FOLLOWED = 14,
	EVENT_FRAGMENT_EVICTED = 15,
	EVENT_CUT = 16,
	EVENT_CONVERSATION_EVICTED = 17,
};

#define FABRIC_VRF 0
#define ATTACHMENT_CLASS 0
#define FABRIC_CLASS 1
#define SID_BLOCK 0x5f00
#define PORTS 512
#define PORT_LOSSES 4
#define CONTAINERS 4
#define MAX_SEGMENTS 8
#define MERGE_BITS_MOST 80
#define CANDIDATE_PATHS 8
#define FLOW_CACHE_WAYS 4
#define CONVERSATION_WAYS 8
#define NEIGHBORS_OF_PORT 256
#define FRAGMENT_SHARES 16
#define FRAGMENT_WAYS 8
#define FRAGMENT_PARTS 4
#define EXTENSION_HEADERS 8
#define EXTENSIONS_END 248
#define IPV6_LEAST_MTU 1280
#define CUT_SMALLEST_MTU 68
#define CUT_LARGEST_PACKET 3584
#define TRIMMED_LENGTH 128

#define POLICY_CLASS_COUNTER_SIZE 4096
#define FORWARDING_CLASS_COUNTER_SIZE 65536
#define DROP_COUNTER_SIZE 256

union address {
	__u8 byte[16];
	__u32 word[4];
	__u64 half[2];
};

/* attachment: hash */
#define ATTACHMENT_SIZE 1024
enum attachment_action {
	ATTACHMENT_NO_ENTRY,
	ATTACHMENT_ATTACH,
	ATTACHMENT_LINK,
	ATTACHMENT_ATTACH_REJECT,
};
struct attachment_key {
	__u16 ingress_port;
	__u16 vlan_id;
};
_Static_assert(sizeof(struct attachment_key) == 4, "attachment_key");
struct attachment_value {
	__u32 action; /* enum attachment_action */
	union {
		struct {
			__u16 vrf;
			__u16 policy_class;
		} attach;
		struct {
			__u16 ingress_class;
		} link;
		struct {
			__u16 vrf;
			__u16 policy_class;
		} attach_reject;
	};
};
_Static_assert(sizeof(struct attachment_value) == 8, "attachment_value");

/* punt_frame: ternary */
#define PUNT_FRAME_SIZE 64
enum punt_frame_action {
	PUNT_FRAME_NO_ENTRY,
	PUNT_FRAME_PUNT,
	PUNT_FRAME_DROP,
};
struct punt_frame_key {
	__u16 ingress_class;
	__u16 ether_type;
	__u8 protocol;
	__u8 icmp_type;
	__u8 mask_id;
	__u8 zero;
};
_Static_assert(sizeof(struct punt_frame_key) == 8, "punt_frame_key");
#define PUNT_FRAME_MASKS 16
struct punt_frame_masks {
	__u32 count;
	struct punt_frame_key mask[PUNT_FRAME_MASKS];
};
struct punt_frame_value {
	__u32 action; /* enum punt_frame_action */
	__u32 priority;
	union {
		struct {
			__u8 reason;
		} punt;
		struct {
			__u8 reason;
		} drop;
	};
};
_Static_assert(sizeof(struct punt_frame_value) == 12, "punt_frame_value");

/* local_sid: lpm */
#define LOCAL_SID_SIZE 16384
enum local_sid_action {
	LOCAL_SID_NO_ENTRY,
	LOCAL_SID_END,
	LOCAL_SID_END_X,
	LOCAL_SID_END_DT46,
	LOCAL_SID_DROP,
};
struct local_sid_key {
	__u32 prefix_length; /* bits of all that follows */
	__be32 ingress_class;
	union address destination;
} __attribute__((packed, aligned(4)));
_Static_assert(sizeof(struct local_sid_key) == 24, "local_sid_key");
struct local_sid_value {
	__u32 action; /* enum local_sid_action */
	union {
		struct {
			__u16 next_hop;
		} end_x;
		struct {
			__u16 vrf;
			__u16 policy_class;
			__u16 answer_class;
		} end_dt46;
		struct {
			__u8 reason;
		} drop;
	};
};
_Static_assert(sizeof(struct local_sid_value) == 12, "local_sid_value");

/* source_guard: lpm */
#define SOURCE_GUARD_SIZE 131072
enum source_guard_action {
	SOURCE_GUARD_NO_ENTRY,
	SOURCE_GUARD_ADMIT,
};
struct source_guard_key {
	__u32 prefix_length; /* bits of all that follows */
	__be32 ingress_port;
	union address source;
} __attribute__((packed, aligned(4)));
_Static_assert(sizeof(struct source_guard_key) == 24, "source_guard_key");
struct source_guard_value {
	__u32 action; /* enum source_guard_action */
};
_Static_assert(sizeof(struct source_guard_value) == 4, "source_guard_value");

/* source_group: lpm */
#define SOURCE_GROUP_SIZE 131072
enum source_group_action {
	SOURCE_GROUP_NO_ENTRY,
	SOURCE_GROUP_SET_SOURCE_GROUP,
};
struct source_group_key {
	__u32 prefix_length; /* bits of all that follows */
	__be32 vrf;
	union address address;
} __attribute__((packed, aligned(4)));
_Static_assert(sizeof(struct source_group_key) == 24, "source_group_key");
struct source_group_value {
	__u32 action; /* enum source_group_action */
	union {
		struct {
			__u16 group;
		} set_source_group;
	};
};
_Static_assert(sizeof(struct source_group_value) == 8, "source_group_value");

/* destination_group: lpm */
#define DESTINATION_GROUP_SIZE 131072
enum destination_group_action {
	DESTINATION_GROUP_NO_ENTRY,
	DESTINATION_GROUP_SET_DESTINATION_GROUP,
};
struct destination_group_key {
	__u32 prefix_length; /* bits of all that follows */
	__be32 vrf;
	union address address;
} __attribute__((packed, aligned(4)));
_Static_assert(sizeof(struct destination_group_key) == 24, "destination_group_key");
struct destination_group_value {
	__u32 action; /* enum destination_group_action */
	union {
		struct {
			__u16 group;
		} set_destination_group;
	};
};
_Static_assert(sizeof(struct destination_group_value) == 8, "destination_group_value");

/* source_port_class: range */
#define SOURCE_PORT_CLASS_SIZE 4096
enum source_port_class_action {
	SOURCE_PORT_CLASS_NO_ENTRY,
	SOURCE_PORT_CLASS_SET_SOURCE_PORT_CLASS,
};
struct source_port_class_value {
	__u16 port_class[65536]; /* by port */
};
/* The entries as they were written, which the classes follow from; for user space only. */
struct source_port_class_range_key {
	__u32 priority;
	__u16 port_low;
	__u16 port_high;
	__u8 protocol;
	__u8 zero[3];
};
_Static_assert(sizeof(struct source_port_class_range_key) == 12, "source_port_class_range_key");
struct source_port_class_range_value {
	__u32 action; /* enum source_port_class_action */
	union {
		struct {
			__u16 port_class;
		} set_source_port_class;
	};
};
_Static_assert(sizeof(struct source_port_class_range_value) == 8, "source_port_class_range_value");

/* destination_port_class: range */
#define DESTINATION_PORT_CLASS_SIZE 4096
enum destination_port_class_action {
	DESTINATION_PORT_CLASS_NO_ENTRY,
	DESTINATION_PORT_CLASS_SET_DESTINATION_PORT_CLASS,
};
struct destination_port_class_value {
	__u16 port_class[65536]; /* by port */
};
/* The entries as they were written, which the classes follow from; for user space only. */
struct destination_port_class_range_key {
	__u32 priority;
	__u16 port_low;
	__u16 port_high;
	__u8 protocol;
	__u8 zero[3];
};
_Static_assert(sizeof(struct destination_port_class_range_key) == 12, "destination_port_class_range_key");
struct destination_port_class_range_value {
	__u32 action; /* enum destination_port_class_action */
	union {
		struct {
			__u16 port_class;
		} set_destination_port_class;
	};
};
_Static_assert(sizeof(struct destination_port_class_range_value) == 8, "destination_port_class_range_value");

/* flow_policy: ternary */
#define FLOW_POLICY_SIZE 65536
enum flow_policy_action {
	FLOW_POLICY_NO_ENTRY,
	FLOW_POLICY_PERMIT,
	FLOW_POLICY_PERMIT_REQUEST,
	FLOW_POLICY_PERMIT_REPLY,
	FLOW_POLICY_DROP,
};
struct flow_policy_key {
	__u16 policy_class;
	__u16 source_group;
	__u16 destination_group;
	__u16 source_port_class;
	__u16 destination_port_class;
	__u8 l4_class;
	__u8 mask_id;
};
_Static_assert(sizeof(struct flow_policy_key) == 12, "flow_policy_key");
#define FLOW_POLICY_MASKS 16
struct flow_policy_masks {
	__u32 count;
	struct flow_policy_key mask[FLOW_POLICY_MASKS];
};
struct flow_policy_value {
	__u32 action; /* enum flow_policy_action */
	__u32 priority;
	union {
		struct {
			__u16 forwarding_class;
		} permit;
		struct {
			__u16 forwarding_class;
			__u16 network;
		} permit_request;
		struct {
			__u16 forwarding_class;
			__u16 network;
		} permit_reply;
		struct {
			__u8 reason;
		} drop;
	};
};
_Static_assert(sizeof(struct flow_policy_value) == 12, "flow_policy_value");

/* lease: array */
#define LEASE_SIZE 65536
enum lease_action {
	LEASE_NO_ENTRY,
	LEASE_EXPIRE_AT,
};
struct lease_value {
	__u32 action; /* enum lease_action */
	union {
		struct {
			__u32 boottime_s;
		} expire_at;
	};
};
_Static_assert(sizeof(struct lease_value) == 8, "lease_value");

/* steer: array */
#define STEER_SIZE 65536
enum steer_action {
	STEER_NO_ENTRY,
	STEER_DELIVER,
	STEER_ENCAPSULATE,
};
struct steer_value {
	__u32 action; /* enum steer_action */
	union {
		struct {
			__u16 vrf;
		} deliver;
		struct {
			__u16 sr_policy;
			__u16 liveness_group;
			__u16 inner_mtu;
			__u8 dscp;
			union address service_sid;
		} encapsulate;
	};
};
_Static_assert(sizeof(struct steer_value) == 32, "steer_value");

/* path_liveness: array */
#define PATH_LIVENESS_SIZE 4096
enum path_liveness_action {
	PATH_LIVENESS_NO_ENTRY,
	PATH_LIVENESS_SET_LIVE,
};
struct path_liveness_value {
	__u32 action; /* enum path_liveness_action */
	union {
		struct {
			__u8 live;
		} set_live;
	};
};
_Static_assert(sizeof(struct path_liveness_value) == 8, "path_liveness_value");

/* sr_policy: candidates */
#define SR_POLICY_SIZE 32768
enum sr_policy_action {
	SR_POLICY_NO_ENTRY,
	SR_POLICY_H_ENCAPS,
};
struct sr_policy_value {
	__u32 action; /* enum sr_policy_action */
	union {
		struct {
			__u16 color;
			__u16 first_hop;
			__u8 last_container;
			__u8 merge_bits;
			union address source;
			union address container_0;
			union address container_1;
			union address container_2;
			union address container_3;
		} h_encaps;
	};
};
_Static_assert(sizeof(struct sr_policy_value) == 96, "sr_policy_value");

/* route: lpm */
#define ROUTE_SIZE 131072
enum route_action {
	ROUTE_NO_ENTRY,
	ROUTE_SET_NEXT_HOP,
	ROUTE_DROP,
};
struct route_key {
	__u32 prefix_length; /* bits of all that follows */
	__be32 vrf;
	union address destination;
} __attribute__((packed, aligned(4)));
_Static_assert(sizeof(struct route_key) == 24, "route_key");
struct route_value {
	__u32 action; /* enum route_action */
	union {
		struct {
			__u16 next_hop;
		} set_next_hop;
		struct {
			__u8 reason;
		} drop;
	};
};
_Static_assert(sizeof(struct route_value) == 8, "route_value");

/* next_hop: array */
#define NEXT_HOP_SIZE 4096
enum next_hop_action {
	NEXT_HOP_NO_ENTRY,
	NEXT_HOP_FORWARD,
	NEXT_HOP_RESOLVE,
	NEXT_HOP_PUNT,
};
struct next_hop_value {
	__u32 action; /* enum next_hop_action */
	union {
		struct {
			__u16 port;
			__u16 vlan;
			__u8 source_mac[6];
			__u8 destination_mac[6];
		} forward;
		struct {
			__u16 port;
			__u16 vlan;
			__u8 source_mac[6];
		} resolve;
		struct {
			__u8 reason;
		} punt;
	};
};
_Static_assert(sizeof(struct next_hop_value) == 20, "next_hop_value");

/* neighbor: hash */
#define NEIGHBOR_SIZE 65536
enum neighbor_action {
	NEIGHBOR_NO_ENTRY,
	NEIGHBOR_SET_MAC,
};
struct neighbor_key {
	__u16 port;
	__u8 zero[6];
	union address address;
};
_Static_assert(sizeof(struct neighbor_key) == 24, "neighbor_key");
struct neighbor_value {
	__u32 action; /* enum neighbor_action */
	union {
		struct {
			__u8 mac[6];
		} set_mac;
	};
};
_Static_assert(sizeof(struct neighbor_value) == 12, "neighbor_value");
