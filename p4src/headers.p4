// What is on the wire.

const bit<16> ETHERTYPE_IPV4 = 0x0800;
const bit<16> ETHERTYPE_VLAN = 0x8100;
const bit<16> ETHERTYPE_IPV6 = 0x86dd;
const bit<8>  PROTOCOL_ICMP     = 1;
const bit<8>  PROTOCOL_IPV4     = 4;
const bit<8>  PROTOCOL_TCP      = 6;
const bit<8>  PROTOCOL_UDP      = 17;
const bit<8>  PROTOCOL_IPV6     = 41;
const bit<8>  PROTOCOL_ROUTING  = 43;
const bit<8>  PROTOCOL_FRAGMENT = 44;
const bit<8>  PROTOCOL_ICMPV6   = 58;
const bit<8>  ROUTING_TYPE_SRH  = 4;

@id(0x04000001) @controller_header("packet_in")
header packet_in_header_t {
    @id(1) bit<16>       ingress_port;
    @id(2) punt_reason_t reason;
    @id(3) vrf_t         vrf;
    @id(4) bit<16>       mtu;                     // of the path, for PUNT_TOO_BIG
    @id(5) forwarding_class_t answer_class;       // of what came out of an SRv6 packet: the way back
}

@id(0x04000002) @controller_header("packet_out")
header packet_out_header_t {
    @id(1) bit<16> egress_port;
}

header ethernet_t { mac_t destination; mac_t source; bit<16> ether_type; }
header tag_t      { bit<3> priority; bit<1> drop_eligible; vlan_t vlan_id; bit<16> ether_type; }

header ipv6_t {
    bit<4> version; bit<6> dscp; bit<2> ecn; bit<20> flow_label;
    bit<16> payload_length; bit<8> next_header; bit<8> hop_limit;
    address_t source; address_t destination;
}

header ipv4_t {
    bit<4> version; bit<4> header_length; bit<6> dscp; bit<2> ecn; bit<16> total_length;
    bit<16> identification; bit<3> flags; bit<13> fragment_offset;
    bit<8> ttl; bit<8> protocol; bit<16> checksum;
    bit<32> source; bit<32> destination;
}

// RFC 8754 §2
header srh_t {
    bit<8> next_header; bit<8> header_length; bit<8> routing_type; bit<8> segments_left;
    bit<8> last_entry; bit<8> flags; bit<16> tag;
}
header segment_t  { address_t sid; }              // a container of compressed SIDs (RFC 9800 §3)

header fragment_t { bit<8> next_header; bit<8> reserved; bit<13> offset; bit<3> flags; bit<32> identification; }
header icmp_t     { bit<8> type; bit<8> code; bit<16> checksum; bit<32> rest; }
header udp_t      { bit<16> source_port; bit<16> destination_port; bit<16> length; bit<16> checksum; }
header tcp_t {
    bit<16> source_port; bit<16> destination_port; bit<32> sequence; bit<32> acknowledgment;
    bit<4> data_offset; bit<4> reserved; bit<3> ecn; bit<1> ack; bit<1> push; bit<1> reset; bit<1> syn; bit<1> fin;
    bit<16> window; bit<16> checksum; bit<16> urgent;
}
header mss_t      { bit<8> kind; bit<8> length; bit<16> size; }   // RFC 9293 §3.2

struct headers_t {
    packet_in_header_t  packet_in;
    packet_out_header_t packet_out;
    ethernet_t   ethernet;
    tag_t        tag;
    ipv6_t       outer;
    srh_t        srh;
    segment_t[3] segment_list;                    // as on the wire: [0] is the last segment
    ipv4_t       ipv4;
    ipv6_t       ipv6;
    fragment_t   fragment;
    tcp_t        tcp;
    mss_t        mss;
    udp_t        udp;
    icmp_t       icmp;
}
