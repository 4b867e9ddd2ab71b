//  packet_out ──▶ the port that it names          punted ──▶ packet_in: port, reason, VRF, MTU of the path, the way back

control PacketOut(inout packet_out_header_t sent, inout verdict_t verdict, inout standard_metadata_t std) {
    apply {
        if (sent.isValid()) {
            std.egress_spec = (port_t)sent.egress_port;
            sent.setInvalid();
            verdict.is_final = 1;
        }
    }
}

control PacketIn(out packet_in_header_t told, in ipv6_t outer, in metadata_t meta, in standard_metadata_t std) {
    apply {
        if (std.egress_port == CPU_PORT) {
            told.setValid();
            told.ingress_port = (bit<16>)std.ingress_port;
            told.reason = meta.verdict.punt_reason;
            told.vrf = meta.arrival.vrf;
            if (outer.isValid()) {
                told.vrf = FABRIC_VRF;                        // by which it was to go on
            }
            told.mtu = meta.way.inner_mtu;
            told.answer_class = meta.way.answer_class;
        }
    }
}
