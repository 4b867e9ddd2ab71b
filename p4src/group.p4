//  VRF, address ──▶ group: once for the source and once for the destination

control Group(in arrival_t arrival, in ip_t ip, inout flow_t flow, in verdict_t verdict) {
    @id(0x0100000a)
    action set_source_group(@id(1) @refers_to(flow_policy, source_group) group_t group) {
        flow.source_group = group;
    }

    @id(0x0100000b)
    action set_destination_group(@id(1) @refers_to(flow_policy, destination_group) group_t group) {
        flow.destination_group = group;
    }

    @id(0x02000005)
    table source_group {
        key = {
            arrival.vrf : exact @id(1) @name("vrf");
            ip.source   : lpm   @id(2) @name("address");
        }
        actions = { set_source_group; @defaultonly NoAction; }
        const default_action = NoAction();
        size = PREFIXES;
    }

    @id(0x02000006)
    table destination_group {
        key = {
            arrival.vrf    : exact @id(1) @name("vrf");
            ip.destination : lpm   @id(2) @name("address");
        }
        actions = { set_destination_group; @defaultonly NoAction; }
        const default_action = NoAction();
        size = PREFIXES;
    }

    apply {
        if (verdict.is_final == 0 && arrival.vrf != FABRIC_VRF) {
            source_group.apply();
            destination_group.apply();
        }
    }
}
