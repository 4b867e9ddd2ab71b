//  forwarding class ──▶ deliver: by the routes of a VRF                                   ──▶ route
//                    ├▶ encapsulate: on an SR Policy, to a service SID at its endpoint    ──▶ sr_policy
//                    └▶ translate_deliver, translate_encapsulate: the same                ──▶ and translate

control Steer(inout way_t way, inout verdict_t verdict) {
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

    @id(0x0200000b)
    table steer {
        key = { way.forwarding_class : exact @id(1) @name("forwarding_class"); }
        actions = { deliver; encapsulate; translate_deliver; translate_encapsulate; @defaultonly drop(verdict); }
        const default_action = drop(verdict, DROP_NO_STEERING);
        size = FORWARDING_CLASSES;
    }

    apply {
        if (verdict.is_final == 0 && way.is_permitted == 1) {
            steer.apply();
        }
    }
}
