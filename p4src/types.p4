// What the stages tell each other, and the numbers they agree on (dataplane/reasons.py has the same).

typedef bit<9>   port_t;
typedef bit<48>  mac_t;
typedef bit<12>  vlan_t;                          // 0: untagged
typedef bit<128> address_t;                       // IPv4 is ::ffff:0:0/96
typedef bit<16>  vrf_t;                           // addresses and routes of one network; 0: the fabric
typedef bit<16>  policy_class_t;                  // whence a packet comes and what it may ask; of one VRF
typedef bit<16>  ingress_class_t;
typedef bit<16>  group_t;                         // prefixes that the same rules are about; 0: in none
typedef bit<16>  port_class_t;                    // ports that the same rules are about; 0: in none
typedef bit<4>   l4_class_t;
typedef bit<16>  forwarding_class_t;              // one intent's traffic in one direction
typedef bit<16>  sr_policy_t;
typedef bit<16>  liveness_group_t;
typedef bit<8>   live_t;                          // bit i: candidate path i, in order of preference, is alive
typedef bit<16>  next_hop_t;                      // 0: not decided
typedef bit<8>   drop_reason_t;
typedef bit<8>   punt_reason_t;

const port_t  CPU_PORT = 510;
const vrf_t   FABRIC_VRF = 0;
const bit<16> SID_BLOCK = 0x5f00;                 // RFC 9602: tells outer from inner
const bit<8>  ENCAPS_HOP_LIMIT = 64;
const bit<16> IPV6_LEAST_MTU = 1280;              // RFC 8200 §5

const ingress_class_t ATTACHMENT_CLASS = 0;       // hosts
const ingress_class_t FABRIC_CLASS     = 1;       // links inside the domain; from 2 on: a neighbour's tunnel

const l4_class_t L4_TCP_OPEN     = 0;             // SYN without ACK
const l4_class_t L4_TCP          = 1;             // 0 and 1 share the mask 0xe: any TCP
const l4_class_t L4_UDP          = 2;
const l4_class_t L4_ICMP_ERROR   = 3;
const l4_class_t L4_ECHO_REQUEST = 4;
const l4_class_t L4_ECHO_REPLY   = 5;
const l4_class_t L4_OTHER        = 6;
const l4_class_t L4_UNCLASSIFIED = 7;             // what it carries is not seen; only entries for any class match

const drop_reason_t DROP_NONE                = 0;
const drop_reason_t DROP_MALFORMED           = 1;
const drop_reason_t DROP_UNKNOWN_ATTACHMENT  = 2;
const drop_reason_t DROP_SID_NOT_ADMITTED    = 3;
const drop_reason_t DROP_SEGMENTS_LEFT       = 4;
const drop_reason_t DROP_FRAGMENT            = 5;
const drop_reason_t DROP_NOT_PERMITTED       = 6;
const drop_reason_t DROP_NO_STEERING         = 8;
const drop_reason_t DROP_NO_LIVE_PATH        = 9;
const drop_reason_t DROP_NO_ROUTE            = 10;
const drop_reason_t DROP_NO_NEXT_HOP         = 11;
const drop_reason_t DROP_HOP_LIMIT           = 12;
const drop_reason_t DROP_NOT_IP              = 13;
const drop_reason_t DROP_SOURCE_NOT_ADMITTED = 14;
const drop_reason_t DROP_LEASE_EXPIRED       = 15;
const drop_reason_t DROP_NOT_FORWARDABLE     = 19;
const drop_reason_t DROP_IPV4_OPTIONS        = 22;
const drop_reason_t DROP_NO_IPV6             = 23;

const punt_reason_t PUNT_NONE        = 0;         // from 16 on: given by entries of punt_frame
const punt_reason_t PUNT_TOO_BIG     = 1;
const punt_reason_t PUNT_NO_NEIGHBOR = 2;

// Sizes that p4info names. What a node really has room for it says itself.
const bit<32> ATTACHMENTS        = 1024;
const bit<32> PUNTS              = 64;
const bit<32> LOCAL_SIDS         = 16384;
const bit<32> PREFIXES           = 131072;
const bit<32> PORT_RANGES        = 4096;
const bit<32> FLOW_POLICIES      = 65536;
const bit<32> POLICY_CLASSES     = 4096;
const bit<32> FORWARDING_CLASSES = 65536;
const bit<32> LIVENESS_GROUPS    = 4096;
const bit<32> CANDIDATE_PATHS    = 32768;         // 8 of each of 4,096 SR Policies
const bit<32> NEXT_HOPS          = 4096;
const bit<32> NEIGHBORS          = 65536;
const bit<32> DROP_REASONS       = 256;

// How the packet came, and what it may ask.
struct arrival_t {
    vlan_t          vlan_id;
    bit<16>         ether_type;                   // behind the tag
    ingress_class_t ingress_class;
    vrf_t           vrf;
    policy_class_t  policy_class;
}

// The packet that networks know of: a host's, or what was inside an SRv6 packet.
struct ip_t {
    bit<4>     version;                           // 0: none
    address_t  source;
    address_t  destination;
    bit<8>     protocol;
    bit<8>     hop_limit;
    bit<16>    source_port;
    bit<16>    destination_port;
    bit<16>    offset;                            // of the IP header in the frame
    bit<16>    length;
    bit<1>     has_options;                       // IPv4
    bit<1>     is_fragment;                       // later ones have no ports
    l4_class_t l4_class;
}

// What flow_policy is asked for.
struct flow_t {
    group_t      source_group;
    group_t      destination_group;
    port_class_t source_port_class;
    port_class_t destination_port_class;
}

// Where the packet goes on.
struct way_t {
    bit<1>             is_permitted;
    forwarding_class_t forwarding_class;
    bit<1>             is_encapsulated;
    bit<1>             is_translated;
    bit<1>             is_to_service;
    sr_policy_t        sr_policy;
    liveness_group_t   liveness_group;
    address_t          service_sid;
    bit<6>             dscp;
    bit<16>            inner_mtu;                 // 0: any size
    vrf_t              vrf;                       // whose routes lead on
    forwarding_class_t answer_class;              // on which the sender is told of its packet's fate; 0: on none
    next_hop_t         next_hop;
}

// Whether it goes on at all.
struct verdict_t {
    bit<1>        is_final;                       // dropped, punted or sent: the stages that follow leave it alone
    drop_reason_t drop_reason;
    punt_reason_t punt_reason;
}

struct metadata_t {
    arrival_t arrival;
    ip_t      ip;
    flow_t    flow;
    way_t     way;
    verdict_t verdict;
}

// The two ways to leave the pipeline early, for entries and for stages.
@id(0x01000001)
action drop(inout verdict_t verdict, @id(1) drop_reason_t reason) {
    verdict.is_final = 1;
    verdict.drop_reason = reason;
}

@id(0x01000002)
action punt(inout verdict_t verdict, @id(1) punt_reason_t reason) {
    verdict.is_final = 1;
    verdict.punt_reason = reason;
}
