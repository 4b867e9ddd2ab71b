//  ingress class, SID ──▶ end, end_x: next SID of the container, or next container ──▶ route, next_hop
//                      ├▶ end_dt46: decapsulate into a VRF and policy class          ──▶ flow_policy
//                      └▶ miss: from the fabric it is crossed                        ──▶ route
//
//   |       32 |     16 |     16 |     16 |     16 |     16 |     16 |
//   |    block |   node |   node |   node |   tail | service|      0 |   RFC 9800 §4.1, NEXT-CSID
//              |<─ end: what follows moves here
//              |<─ end_x (node, function): what follows both moves here

control LocalSid(inout headers_t hdr, inout arrival_t arrival, in ip_t ip, inout way_t way, inout verdict_t verdict,
                 in standard_metadata_t std) {
    bit<1>  is_end = 0;
    bit<1>  is_end_x = 0;
    bit<1>  is_end_dt46 = 0;
    bit<80> argument = 0;
    bit<16> srh_size = 0;
    bit<32> outer_end = 54;                                   // in the frame

    @id(0x01000006)
    action end() {
        is_end = 1;
        argument = hdr.outer.destination[79:0];
    }

    @id(0x01000007)
    action end_x(@id(1) @refers_to(next_hop, next_hop) next_hop_t next_hop) {
        is_end_x = 1;
        argument = hdr.outer.destination[63:0] ++ 16w0;
        way.next_hop = next_hop;
    }

    // answer_class: on which forwarding class the sender can be told what becomes of its packet. 0: none.
    @id(0x01000008)
    action end_dt46(@id(1) @refers_to(route, vrf) vrf_t vrf,
                    @id(2) @refers_to(flow_policy, policy_class) policy_class_t policy_class,
                    @id(3) @refers_to(steer, forwarding_class) forwarding_class_t answer_class) {
        is_end_dt46 = 1;
        arrival.vrf = vrf;
        arrival.policy_class = policy_class;
        way.answer_class = answer_class;
    }

    @id(0x01000009)
    action transit() { }

    @id(0x02000004)
    table local_sid {
        key = {
            arrival.ingress_class : exact @id(1) @name("ingress_class");
            hdr.outer.destination : lpm   @id(2) @name("destination");
        }
        actions = { end; end_x; end_dt46; drop(verdict); @defaultonly transit; }
        const default_action = transit();
        size = LOCAL_SIDS;
    }

    @hidden
    action next_container(in segment_t segment) {
        hdr.srh.segments_left = hdr.srh.segments_left - 1;
        hdr.outer.destination = segment.sid;
    }

    @hidden
    action set_inner_ecn(in bit<2> ecn) {
        adjust_checksum(hdr.ipv4.checksum, 14w0 ++ hdr.ipv4.ecn, 14w0 ++ ecn);
        hdr.ipv4.ecn = ecn;
        hdr.ipv6.ecn = ecn;
    }

    apply {
        if (hdr.tag.isValid()) {
            outer_end = outer_end + 4;
        }
        outer_end = outer_end + (bit<32>)hdr.outer.payload_length;
        if (hdr.srh.isValid()) {
            srh_size = 8 + ((bit<16>)hdr.srh.header_length << 3);
        }
        if (verdict.is_final == 0) {
            if (!hdr.outer.isValid()) {
                if (arrival.ingress_class != ATTACHMENT_CLASS && arrival.ether_type == ETHERTYPE_IPV6
                    && std.parser_error != error.NoError) {
                    drop(verdict, DROP_MALFORMED);
                } else if (arrival.ingress_class != ATTACHMENT_CLASS) {
                    drop(verdict, DROP_NOT_IP);               // links carry SIDs only
                }
            } else if (arrival.ingress_class == ATTACHMENT_CLASS) {
                drop(verdict, DROP_SID_NOT_ADMITTED);         // RFC 8754 §5.1
            } else if (hdr.outer.version != 6 || outer_end > std.packet_length) {
                drop(verdict, DROP_MALFORMED);
            } else if (!local_sid.apply().hit && arrival.ingress_class != FABRIC_CLASS) {
                drop(verdict, DROP_SID_NOT_ADMITTED);         // a neighbour uses the SIDs that it was given
            }
        }
        if (verdict.is_final == 0 && (is_end == 1 || is_end_x == 1)) {
            if (argument != 0) {
                if (hdr.outer.hop_limit <= 1) {
                    drop(verdict, DROP_HOP_LIMIT);
                } else {
                    hdr.outer.destination = hdr.outer.destination[127:96] ++ argument ++ 16w0;
                }
            } else if (!hdr.srh.isValid()) {
                drop(verdict, DROP_SEGMENTS_LEFT);            // Deviates: RFC 8986 §4.1, no upper-layer processing
            } else if (!hdr.segment_list[0].isValid() || srh_size > hdr.outer.payload_length) {
                drop(verdict, DROP_MALFORMED);
            } else if (hdr.srh.segments_left == 0 || hdr.srh.segments_left > hdr.srh.last_entry + 1) {
                drop(verdict, DROP_SEGMENTS_LEFT);
            } else if (hdr.outer.hop_limit <= 1) {
                drop(verdict, DROP_HOP_LIMIT);
            } else if (hdr.srh.segments_left == 1) {
                next_container(hdr.segment_list[0]);
            } else if (hdr.srh.segments_left == 2) {
                next_container(hdr.segment_list[1]);
            } else {
                next_container(hdr.segment_list[2]);
            }
            if (verdict.is_final == 0
                && (hdr.outer.destination[127:112] != SID_BLOCK || hdr.outer.destination[95:80] == 0)) {
                drop(verdict, DROP_SID_NOT_ADMITTED);         // a foreign block, or no node: nothing can follow
            }
        }
        if (verdict.is_final == 0 && is_end_dt46 == 1) {
            if (hdr.srh.isValid() && (!hdr.segment_list[0].isValid() || srh_size > hdr.outer.payload_length)) {
                drop(verdict, DROP_MALFORMED);
            } else if (hdr.srh.isValid() && hdr.srh.segments_left != 0) {
                drop(verdict, DROP_SEGMENTS_LEFT);
            } else if (ip.version == 0 || std.parser_error != error.NoError || std.checksum_error == 1
                       || ip.length > hdr.outer.payload_length - srh_size) {
                drop(verdict, DROP_MALFORMED);
            } else if (hdr.outer.ecn == 3) {                  // RFC 6040 §4.2
                if ((hdr.ipv4.isValid() && hdr.ipv4.ecn == 0) || (hdr.ipv6.isValid() && hdr.ipv6.ecn == 0)) {
                    drop(verdict, DROP_MALFORMED);
                } else {
                    set_inner_ecn(3);
                }
            } else if (hdr.outer.ecn == 1
                       && ((hdr.ipv4.isValid() && hdr.ipv4.ecn == 2) || (hdr.ipv6.isValid() && hdr.ipv6.ecn == 2))) {
                set_inner_ecn(1);
            }
            arrival.ether_type = ETHERTYPE_IPV6;
            if (hdr.ipv4.isValid()) {
                arrival.ether_type = ETHERTYPE_IPV4;
            }
            hdr.outer.setInvalid();
            hdr.srh.setInvalid();
            hdr.segment_list[0].setInvalid();
            hdr.segment_list[1].setInvalid();
            hdr.segment_list[2].setInvalid();
        }
    }
}
