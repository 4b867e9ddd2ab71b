/* Generated from p4src/stitch.p4info.txtpb by `python -m dataplane.layout`; do not edit. */
#pragma once

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
			__u16 context;
		} attach;
		struct {
			__u16 ingress_class;
		} link;
	};
};

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

/* source_guard: lpm */
#define SOURCE_GUARD_SIZE 16384
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

/* local_sid: lpm */
#define LOCAL_SID_SIZE 4096
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
			__u16 context;
		} end_dt46;
		struct {
			__u8 reason;
		} drop;
	};
};

/* source_group: lpm */
#define SOURCE_GROUP_SIZE 16384
enum source_group_action {
	SOURCE_GROUP_NO_ENTRY,
	SOURCE_GROUP_SET_SOURCE_GROUP,
};
struct source_group_key {
	__u32 prefix_length; /* bits of all that follows */
	__be32 context;
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

/* destination_group: lpm */
#define DESTINATION_GROUP_SIZE 16384
enum destination_group_action {
	DESTINATION_GROUP_NO_ENTRY,
	DESTINATION_GROUP_SET_DESTINATION_GROUP,
};
struct destination_group_key {
	__u32 prefix_length; /* bits of all that follows */
	__be32 context;
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

/* source_port_class: range */
#define SOURCE_PORT_CLASS_SIZE 1024
enum source_port_class_action {
	SOURCE_PORT_CLASS_NO_ENTRY,
	SOURCE_PORT_CLASS_SET_SOURCE_PORT_CLASS,
};
struct source_port_class_value {
	__u8 port_class[65536]; /* by port */
};

/* destination_port_class: range */
#define DESTINATION_PORT_CLASS_SIZE 1024
enum destination_port_class_action {
	DESTINATION_PORT_CLASS_NO_ENTRY,
	DESTINATION_PORT_CLASS_SET_DESTINATION_PORT_CLASS,
};
struct destination_port_class_value {
	__u8 port_class[65536]; /* by port */
};

/* flow_policy: ternary */
#define FLOW_POLICY_SIZE 16384
enum flow_policy_action {
	FLOW_POLICY_NO_ENTRY,
	FLOW_POLICY_PERMIT,
	FLOW_POLICY_DROP,
};
struct flow_policy_key {
	__u16 context;
	__u16 source_group;
	__u16 destination_group;
	__u8 l4_class;
	__u8 source_port_class;
	__u8 destination_port_class;
	__u8 mask_id;
};
_Static_assert(sizeof(struct flow_policy_key) == 10, "flow_policy_key");
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
			__u16 leg;
		} permit;
		struct {
			__u8 reason;
		} drop;
	};
};

/* lease: array */
#define LEASE_SIZE 32768
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

/* steer: array */
#define STEER_SIZE 32768
enum steer_action {
	STEER_NO_ENTRY,
	STEER_DELIVER,
	STEER_ENCAPSULATE,
};
struct steer_value {
	__u32 action; /* enum steer_action */
	union {
		struct {
			__u16 sr_policy;
			__u16 liveness_group;
		} encapsulate;
	};
};

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

/* sr_policy: candidates */
#define SR_POLICY_SIZE 16384
enum sr_policy_action {
	SR_POLICY_NO_ENTRY,
	SR_POLICY_H_ENCAPS,
};
struct sr_policy_value {
	__u32 action; /* enum sr_policy_action */
	union {
		struct {
			union address source;
			union address segment_list_0;
			union address segment_list_1;
			union address segment_list_2;
			union address segment_list_3;
			union address segment_list_4;
			union address segment_list_5;
			union address segment_list_6;
			union address segment_list_7;
			__u16 color;
			__u16 inner_mtu;
			__u8 dscp;
			__u8 count;
		} h_encaps;
	};
};

/* route: lpm */
#define ROUTE_SIZE 16384
enum route_action {
	ROUTE_NO_ENTRY,
	ROUTE_SET_NEXT_HOP,
	ROUTE_DROP,
};
struct route_key {
	__u32 prefix_length; /* bits of all that follows */
	__be32 context;
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

