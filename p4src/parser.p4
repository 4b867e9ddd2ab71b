//  ethernet ─ [tag] ─┬─ IPv6 to a SID ─ outer ─ [srh ─ segment_list] ─┬─ ipv4 ─┬─ [fragment] ─ tcp ─ [mss] │ udp │ icmp
//                    └─ other IPv6, IPv4 ─────────────────────────────┴─ ipv6 ─┘
// A parser of v1model cannot look up what kind of port a packet came in by: the SID block tells outer from inner.

parser StitchParser(packet_in packet, out headers_t hdr, inout metadata_t meta, inout standard_metadata_t std) {
    state start {
        transition select(std.ingress_port) {
            CPU_PORT: from_controller;
            default:  ethernet;
        }
    }
    state from_controller {
        packet.extract(hdr.packet_out);
        transition accept;                        // what follows is the frame to be sent
    }
    state ethernet {
        packet.extract(hdr.ethernet);
        meta.ip.offset = 14;
        meta.arrival.ether_type = hdr.ethernet.ether_type;
        transition select(hdr.ethernet.ether_type) {
            ETHERTYPE_VLAN: tag;
            default:        network;
        }
    }
    state tag {
        packet.extract(hdr.tag);
        meta.ip.offset = 18;
        meta.arrival.vlan_id = hdr.tag.vlan_id;
        meta.arrival.ether_type = hdr.tag.ether_type;
        transition network;
    }
    state network {
        transition select(meta.arrival.ether_type) {
            ETHERTYPE_IPV6: any_ipv6;
            ETHERTYPE_IPV4: ipv4;
            default:        accept;
        }
    }
    state any_ipv6 {
        transition select(packet.lookahead<ipv6_t>().destination[127:112]) {
            SID_BLOCK: outer;
            default:   ipv6;
        }
    }
    state outer {
        packet.extract(hdr.outer);
        meta.ip.offset = meta.ip.offset + 40;
        transition select(hdr.outer.next_header) {
            PROTOCOL_ROUTING: srh;
            PROTOCOL_IPV4:    ipv4;
            PROTOCOL_IPV6:    ipv6;
            default:          accept;
        }
    }
    // Deviates: RFC 8754 §2.1, no TLVs, at most 3 segments. Others cross this node, but cannot end here.
    state srh {
        packet.extract(hdr.srh);
        meta.ip.offset = meta.ip.offset + 8 + ((bit<16>)hdr.srh.header_length << 3);
        transition select(hdr.srh.routing_type, hdr.srh.last_entry, hdr.srh.header_length) {
            (ROUTING_TYPE_SRH, 0, 2): one_segment;
            (ROUTING_TYPE_SRH, 1, 4): two_segments;
            (ROUTING_TYPE_SRH, 2, 6): three_segments;
            default: accept;
        }
    }
    state three_segments {
        packet.extract(hdr.segment_list.next);
        transition two_segments;
    }
    state two_segments {
        packet.extract(hdr.segment_list.next);
        transition one_segment;
    }
    state one_segment {
        packet.extract(hdr.segment_list.next);
        transition select(hdr.srh.next_header) {
            PROTOCOL_IPV4: ipv4;
            PROTOCOL_IPV6: ipv6;
            default:       accept;
        }
    }
    state ipv4 {
        packet.extract(hdr.ipv4);
        meta.ip.version = 4;
        meta.ip.source = 96w0xffff ++ hdr.ipv4.source;
        meta.ip.destination = 96w0xffff ++ hdr.ipv4.destination;
        meta.ip.protocol = hdr.ipv4.protocol;
        meta.ip.hop_limit = hdr.ipv4.ttl;
        meta.ip.length = hdr.ipv4.total_length;
        transition select(hdr.ipv4.header_length, hdr.ipv4.fragment_offset) {
            (5, 0):  transport;
            (5, _):  later_fragment;
            default: options;
        }
    }
    state options {
        meta.ip.has_options = 1;
        transition accept;
    }
    state ipv6 {
        packet.extract(hdr.ipv6);
        meta.ip.version = 6;
        meta.ip.source = hdr.ipv6.source;
        meta.ip.destination = hdr.ipv6.destination;
        meta.ip.protocol = hdr.ipv6.next_header;
        meta.ip.hop_limit = hdr.ipv6.hop_limit;
        meta.ip.length = hdr.ipv6.payload_length + 40;
        transition select(hdr.ipv6.next_header) {
            PROTOCOL_FRAGMENT: fragment;
            default:           transport;
        }
    }
    state fragment {
        packet.extract(hdr.fragment);
        meta.ip.protocol = hdr.fragment.next_header;
        transition select(hdr.fragment.offset) {
            0:       transport;
            default: later_fragment;
        }
    }
    state later_fragment {
        meta.ip.is_fragment = 1;
        transition accept;
    }
    state transport {
        meta.ip.l4_class = L4_OTHER;
        transition select(meta.ip.protocol) {
            PROTOCOL_TCP:    tcp;
            PROTOCOL_UDP:    udp;
            PROTOCOL_ICMP:   icmp;
            PROTOCOL_ICMPV6: icmp;
            default:         accept;
        }
    }
    state tcp {
        packet.extract(hdr.tcp);
        meta.ip.source_port = hdr.tcp.source_port;
        meta.ip.destination_port = hdr.tcp.destination_port;
        meta.ip.l4_class = L4_TCP;
        transition select(hdr.tcp.syn, hdr.tcp.ack) {
            (1, 0):  tcp_open;
            (1, 1):  tcp_options;
            default: accept;
        }
    }
    state tcp_open {
        meta.ip.l4_class = L4_TCP_OPEN;
        transition tcp_options;
    }
    // Deviates: RFC 9293 §3.7.1, the MSS is found as first option only; those behind others are not clamped.
    state tcp_options {
        transition select(hdr.tcp.data_offset) {
            0 .. 5:  accept;
            default: first_option;
        }
    }
    state first_option {
        transition select(packet.lookahead<bit<16>>()) {
            0x0204:  mss;
            default: accept;
        }
    }
    state mss {
        packet.extract(hdr.mss);
        transition accept;
    }
    state udp {
        packet.extract(hdr.udp);
        meta.ip.source_port = hdr.udp.source_port;
        meta.ip.destination_port = hdr.udp.destination_port;
        meta.ip.l4_class = L4_UDP;
        transition accept;
    }
    state icmp {
        packet.extract(hdr.icmp);
        transition select(meta.ip.version, meta.ip.protocol, hdr.icmp.type) {
            (4, PROTOCOL_ICMP,   8):        echo_request;
            (4, PROTOCOL_ICMP,   0):        echo_reply;
            (4, PROTOCOL_ICMP,   3):        icmp_error;
            (4, PROTOCOL_ICMP,   11 .. 12): icmp_error;
            (6, PROTOCOL_ICMPV6, 128):      echo_request;
            (6, PROTOCOL_ICMPV6, 129):      echo_reply;
            (6, PROTOCOL_ICMPV6, 0 .. 127): icmp_error;
            default:                        accept;
        }
    }
    state echo_request {
        meta.ip.l4_class = L4_ECHO_REQUEST;
        transition accept;
    }
    state echo_reply {
        meta.ip.l4_class = L4_ECHO_REPLY;
        transition accept;
    }
    state icmp_error {
        meta.ip.l4_class = L4_ICMP_ERROR;
        transition accept;
    }
}

control StitchDeparser(packet_out packet, in headers_t hdr) {
    apply {
        packet.emit(hdr.packet_in);
        packet.emit(hdr.ethernet);
        packet.emit(hdr.tag);
        packet.emit(hdr.outer);
        packet.emit(hdr.srh);
        packet.emit(hdr.segment_list);
        packet.emit(hdr.ipv4);
        packet.emit(hdr.ipv6);
        packet.emit(hdr.fragment);
        packet.emit(hdr.tcp);
        packet.emit(hdr.mss);
        packet.emit(hdr.udp);
        packet.emit(hdr.icmp);
    }
}
