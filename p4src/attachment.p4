//  port, VLAN ──▶ attach, attach_reject: VRF and policy class of a host's packet
//              └▶ link: ingress class of a link of the fabric, or of the tunnel of a neighbour

control Attachment(in port_t ingress_port, inout arrival_t arrival, inout verdict_t verdict) {
    @id(0x01000003)
    action attach(@id(1) @refers_to(route, vrf) vrf_t vrf,
                  @id(2) @refers_to(flow_policy, policy_class) policy_class_t policy_class) {
        arrival.ingress_class = ATTACHMENT_CLASS;
        arrival.vrf = vrf;
        arrival.policy_class = policy_class;
    }

    // Who is denied is told so (ICMP, administratively prohibited). Not by this program, which drops as `attach` does.
    @id(0x01000017)
    action attach_reject(@id(1) @refers_to(route, vrf) vrf_t vrf,
                         @id(2) @refers_to(flow_policy, policy_class) policy_class_t policy_class) {
        attach(vrf, policy_class);
    }

    @id(0x01000004)
    action link(@id(1) ingress_class_t ingress_class) {
        arrival.ingress_class = ingress_class;
        arrival.vrf = FABRIC_VRF;
    }

    @id(0x02000002)
    table attachment {
        key = {
            ingress_port    : exact @id(1) @name("ingress_port");
            arrival.vlan_id : exact @id(2) @name("vlan_id");
        }
        actions = { attach; link; attach_reject; @defaultonly drop(verdict); }
        const default_action = drop(verdict, DROP_UNKNOWN_ATTACHMENT);
        size = ATTACHMENTS;
    }

    apply {
        if (verdict.is_final == 0) {
            attachment.apply();
        }
    }
}
