//  forwarding class ──▶ deliver: by the routes of a VRF                                   ──▶ route
//                    ├▶ encapsulate: on an SR Policy, to a service SID at its endpoint    ──▶ sr_policy
//                    ├▶ translate_deliver, translate_encapsulate: the same                ──▶ and translate
//                    └▶ to_service: to a host that knows no SRv6, and sends it back       ──▶ next_hop

control Steer(in ip_t ip, inout way_t way, inout verdict_t verdict) {
    next_hop_t next_hop_of_ipv6 = 0;

    @id(0x01000010)
    action deliver(@id(1) @refers_to(route, vrf) vrf_t vrf) {
        way.vrf = vrf;
    }

    // service_sid: the last segment, End.DT46 at the endpoint (RFC 9252 §5). inner_mtu: of the whole way; 0: any.
    @id(0x01000011)
    action encapsulate(@id(1) @refers_to(sr_policy, sr_policy) sr_policy_t sr_policy,
                       @id(2) @refers_to(path_liveness, liveness_group) liveness_group_t liveness_group,
                       @id(3) address_t service_sid, @id(4) bit<6> dscp, @id(5) bit<16> inner_mtu) {
        way.is_encapsulated = 1;
        way.sr_policy = sr_policy;
        way.liveness_group = liveness_group;
        way.service_sid = service_sid;
        way.dscp = dscp;
        way.inner_mtu = inner_mtu;
    }

    @id(0x0100001b)
    action translate_deliver(@id(1) @refers_to(route, vrf) vrf_t vrf) {
        deliver(vrf);
        way.is_translated = 1;
    }

    @id(0x0100001c)
    action translate_encapsulate(@id(1) @refers_to(sr_policy, sr_policy) sr_policy_t sr_policy,
                                 @id(2) @refers_to(path_liveness, liveness_group) liveness_group_t liveness_group,
                                 @id(3) address_t service_sid, @id(4) bit<6> dscp, @id(5) bit<16> inner_mtu) {
        encapsulate(sr_policy, liveness_group, service_sid, dscp, inner_mtu);
        way.is_translated = 1;
    }

    // What passes a service, both ways: out at one of its ports, and in at the other. inner_mtu: as of encapsulate.
    @id(0x01000020)
    action to_service(@id(1) @refers_to(next_hop, next_hop) next_hop_t ipv4_next_hop,
                      @id(2) @refers_to(next_hop, next_hop) next_hop_t ipv6_next_hop, @id(3) bit<16> inner_mtu) {
        way.next_hop = ipv4_next_hop;
        next_hop_of_ipv6 = ipv6_next_hop;
        way.is_to_service = 1;
        way.inner_mtu = inner_mtu;
    }

    @id(0x0200000b)
    table steer {
        key = { way.forwarding_class : exact @id(1) @name("forwarding_class"); }
        actions = {
            deliver; encapsulate; translate_deliver; translate_encapsulate; to_service; @defaultonly drop(verdict);
        }
        const default_action = drop(verdict, DROP_NO_STEERING);
        size = FORWARDING_CLASSES;
    }

    apply {
        if (verdict.is_final == 0 && way.is_permitted == 1) {
            steer.apply();
            if (way.is_to_service == 1 && ip.version == 6) {
                way.next_hop = next_hop_of_ipv6;
            }
        }
    }
}
