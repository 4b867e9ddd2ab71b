//  protocol, port ──▶ class, of both ports
// A new flow has the service's port as destination, a reply has it as source; only the entries of flow_policy know.

control PortClass(in arrival_t arrival, in ip_t ip, inout flow_t flow, in verdict_t verdict) {
    @id(0x0100000c)
    action set_source_port_class(@id(1) @refers_to(flow_policy, source_port_class) port_class_t port_class) {
        flow.source_port_class = port_class;
    }

    @id(0x0100000d)
    action set_destination_port_class(@id(1) @refers_to(flow_policy, destination_port_class) port_class_t port_class) {
        flow.destination_port_class = port_class;
    }

    @id(0x02000007)
    table source_port_class {
        key = {
            ip.protocol    : exact @id(1) @name("protocol");
            ip.source_port : range @id(2) @name("port");
        }
        actions = { set_source_port_class; @defaultonly NoAction; }
        const default_action = NoAction();
        size = PORT_RANGES;
    }

    @id(0x02000008)
    table destination_port_class {
        key = {
            ip.protocol         : exact @id(1) @name("protocol");
            ip.destination_port : range @id(2) @name("port");
        }
        actions = { set_destination_port_class; @defaultonly NoAction; }
        const default_action = NoAction();
        size = PORT_RANGES;
    }

    apply {
        if (verdict.is_final == 0 && arrival.vrf != FABRIC_VRF) {
            source_port_class.apply();
            destination_port_class.apply();
        }
    }
}
