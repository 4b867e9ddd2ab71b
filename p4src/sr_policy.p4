//  liveness group ──▶ path_liveness: one bit for each candidate path
//  SR Policy, live bits ──▶ sr_policy: the first candidate path that is alive ──▶ H.Encaps.Red (RFC 8986 §5.2)
//
// A candidate path is an entry that asks for one bit (mask = value = 1 << i), with a priority in the order of its
// preference (RFC 9256 §2.11). One write of path_liveness moves all SR Policies of that liveness group.
//
//   steer:     |   block |    tail | service |       0 ...            service SID
//   sr_policy: |   block |  node 1 |  node 2 |       0 ...            container_0, merge_bits 32
//   sent:      |   block |  node 1 |  node 2 |    tail | service | 0  destination, without an SRH
//
// merge_bits: how far the service SID is moved to the right; with 0 it is a segment of its own. What does not fit into the
// destination goes into an SRH of further containers, which the first one is not repeated in.

// A candidate path: what h_encaps says of it.
struct path_t {
    address_t source;
    bit<13>   color;
    bit<2>    last_container;
    bit<8>    merge_bits;
    address_t container_0;
    address_t container_1;
    address_t container_2;
    address_t container_3;
}

control SrPolicy(inout headers_t hdr, in ip_t ip, inout way_t way, inout verdict_t verdict) {
    live_t    live_bits = 0;
    path_t    path = { 0, 0, 0, 0, 0, 0, 0, 0 };
    bit<16>   entropy = 0;
    bit<16>   srh_length = 0;
    address_t final_container = 0;

    @id(0x01000012)
    action set_live(@id(1) live_t live) {
        live_bits = live;
    }

    @id(0x0200000c)
    table path_liveness {
        key = { way.liveness_group : exact @id(1) @name("liveness_group"); }
        actions = { set_live; @defaultonly NoAction; }
        const default_action = NoAction();
        size = LIVENESS_GROUPS;
    }

    // Containers are in the order of travel; those after last_container are 0. color: the SR Policy's number in the flow
    // label. first_hop: over which link the path begins.
    @id(0x01000013)
    action h_encaps(@id(1) address_t source, @id(2) bit<13> color,
                    @id(3) @refers_to(next_hop, next_hop) next_hop_t first_hop,
                    @id(4) bit<2> last_container, @id(5) bit<8> merge_bits,
                    @id(6) address_t container_0, @id(7) address_t container_1,
                    @id(8) address_t container_2, @id(9) address_t container_3) {
        way.next_hop = first_hop;
        path = { source, color, last_container, merge_bits, container_0, container_1, container_2, container_3 };
    }

    @id(0x0200000d)
    @entry_restriction("live::mask == live::value && live::mask != 0")
    table sr_policy {
        key = {
            way.sr_policy : exact   @id(1) @name("sr_policy");
            live_bits     : ternary @id(2) @name("live");
        }
        actions = { h_encaps; @defaultonly drop(verdict); }
        const default_action = drop(verdict, DROP_NO_LIVE_PATH);
        size = CANDIDATE_PATHS;
    }

    @hidden
    action clamp_mss(in bit<16> largest) {
        adjust_checksum(hdr.tcp.checksum, hdr.mss.size, largest);
        hdr.mss.size = largest;
    }

    apply {
        if (verdict.is_final == 0 && way.is_encapsulated == 1) {
            path_liveness.apply();
            sr_policy.apply();
        }
        if (verdict.is_final == 0 && way.inner_mtu != 0) {
            if (hdr.ipv6.isValid() && way.inner_mtu < IPV6_LEAST_MTU) {
                drop(verdict, DROP_NO_IPV6);
            } else if (ip.length > way.inner_mtu) {
                punt(verdict, PUNT_TOO_BIG);
            } else if (hdr.mss.isValid()) {
                bit<16> headers = 40;
                if (hdr.ipv6.isValid()) {
                    headers = 60;
                }
                bit<16> largest = way.inner_mtu |-| headers;
                if (hdr.mss.size > largest) {
                    clamp_mss(largest);
                }
            }
        }
        if (verdict.is_final == 0 && way.is_encapsulated == 1) {
            // XOR of 16-bit words: XDP does the same in a few instructions.
            hash(entropy, HashAlgorithm.xor16, 16w0,
                 { ip.source, ip.destination, ip.source_port, ip.destination_port, 8w0, ip.protocol }, 32w0x10000);
            hdr.tag.setInvalid();
            hdr.ethernet.ether_type = ETHERTYPE_IPV6;
            hdr.outer.setValid();
            hdr.outer.version = 6;
            hdr.outer.dscp = way.dscp;
            hdr.outer.flow_label = 1w0 ++ path.color ++ entropy[5:0];
            hdr.outer.hop_limit = ENCAPS_HOP_LIMIT;
            hdr.outer.source = path.source;
            if (hdr.ipv4.isValid()) {                         // the inner packet makes one hop here (RFC 2473 §3.1)
                hdr.outer.ecn = hdr.ipv4.ecn;                 // RFC 6040 §4.1
                hdr.outer.next_header = PROTOCOL_IPV4;
                adjust_checksum(hdr.ipv4.checksum, hdr.ipv4.ttl ++ 8w0, (hdr.ipv4.ttl - 1) ++ 8w0);
                hdr.ipv4.ttl = hdr.ipv4.ttl - 1;
            } else {
                hdr.outer.ecn = hdr.ipv6.ecn;
                hdr.outer.next_header = PROTOCOL_IPV6;
                hdr.ipv6.hop_limit = hdr.ipv6.hop_limit - 1;
            }
            if (path.last_container == 0) {
                final_container = path.container_0;
            } else if (path.last_container == 1) {
                final_container = path.container_1;
            } else if (path.last_container == 2) {
                final_container = path.container_2;
            } else {
                final_container = path.container_3;
            }
            if (path.merge_bits == 0) {
                final_container = way.service_sid;
            } else {
                final_container = final_container | ((way.service_sid & 128w0xffffffffffffffffffffffff) >> path.merge_bits);
            }
            hdr.outer.destination = path.container_0;
            if (path.last_container == 0) {
                hdr.outer.destination = final_container;
            } else {
                hdr.srh.setValid();
                hdr.srh.next_header = hdr.outer.next_header;
                hdr.srh.header_length = 6w0 ++ path.last_container;
                hdr.srh.header_length = hdr.srh.header_length << 1;
                hdr.srh.routing_type = ROUTING_TYPE_SRH;
                hdr.srh.segments_left = 6w0 ++ path.last_container;
                hdr.srh.last_entry = (6w0 ++ path.last_container) - 1;
                hdr.srh.flags = 0;
                hdr.srh.tag = 0;
                hdr.outer.next_header = PROTOCOL_ROUTING;
                srh_length = 8 + ((14w0 ++ path.last_container) << 4);
                hdr.segment_list[0].setValid();
                hdr.segment_list[0].sid = final_container;
                if (path.last_container == 2) {
                    hdr.segment_list[1].setValid();
                    hdr.segment_list[1].sid = path.container_1;
                } else if (path.last_container == 3) {
                    hdr.segment_list[1].setValid();
                    hdr.segment_list[1].sid = path.container_2;
                    hdr.segment_list[2].setValid();
                    hdr.segment_list[2].sid = path.container_1;
                }
            }
            hdr.outer.payload_length = ip.length + srh_length;
        }
    }
}
