//  policy class, groups, L4 class, port classes, by priority ──▶ permit (forwarding class) │ drop (reason)
//                                                             ├▶ permit_request: opens a conversation of `network`
//                                                             ├▶ permit_reply: passes if it answers one
//                                                             └▶ drop_until: dropped until then
// What is denied is counted for the policy class. An entry whose time is over, or the lease of whose forwarding class,
// says nothing any more where one below it permits. Deviates: P4 knows the best match only, so here what has ended stays
// closed; conversations are XDP's too, so here all three permit.

control FlowPolicy(in arrival_t arrival, in ip_t ip, in flow_t flow, inout way_t way, inout verdict_t verdict) {
    @id(0x12000003) counter(POLICY_CLASSES, CounterType.packets_and_bytes) policy_class_counter;

    @id(0x0100000e)
    action permit(@id(1) @refers_to(steer, forwarding_class) @refers_to(lease, forwarding_class)
                  forwarding_class_t forwarding_class) {
        way.is_permitted = 1;
        way.forwarding_class = forwarding_class;
    }

    // network: the VRF of the hosts at this end; conversations are kept by it, so that another policy class finds them.
    @id(0x01000018) @noWarn("unused")
    action permit_request(@id(1) @refers_to(steer, forwarding_class) @refers_to(lease, forwarding_class)
                          forwarding_class_t forwarding_class, @id(2) vrf_t network) {
        permit(forwarding_class);
    }

    @id(0x01000019) @noWarn("unused")
    action permit_reply(@id(1) @refers_to(steer, forwarding_class) @refers_to(lease, forwarding_class)
                        forwarding_class_t forwarding_class, @id(2) vrf_t network) {
        permit(forwarding_class);
    }

    @id(0x0100001f) @noWarn("unused")
    action drop_until(@id(1) drop_reason_t reason, @id(2) bit<32> boottime_s) {
        drop(verdict, reason);
    }

    @id(0x02000009)
    table flow_policy {
        key = {
            arrival.policy_class        : exact   @id(1) @name("policy_class");
            flow.source_group           : ternary @id(2) @name("source_group");
            flow.destination_group      : ternary @id(3) @name("destination_group");
            ip.l4_class                 : ternary @id(4) @name("l4_class");
            flow.source_port_class      : ternary @id(5) @name("source_port_class");
            flow.destination_port_class : ternary @id(6) @name("destination_port_class");
        }
        actions = { permit; permit_request; permit_reply; drop_until; drop(verdict); }
        const default_action = drop(verdict, DROP_NOT_PERMITTED);
        size = FLOW_POLICIES;
    }

    apply {
        if (verdict.is_final == 0 && arrival.vrf != FABRIC_VRF) {
            flow_policy.apply();
            if (verdict.is_final == 1) {
                policy_class_counter.count((bit<32>)arrival.policy_class);
            }
        }
    }
}
