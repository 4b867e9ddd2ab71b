//  port, source ──▶ admit │ drop: which addresses an attachment may use (RFC 7039)
// Before it: what belongs to no network's traffic at all.

control SourceGuard(in port_t ingress_port, in headers_t hdr, in arrival_t arrival, in ip_t ip, inout verdict_t verdict,
                    in standard_metadata_t std) {
    @id(0x01000005)
    action admit() { }

    @id(0x02000003)
    table source_guard {
        key = {
            ingress_port : exact @id(1) @name("ingress_port");
            ip.source    : lpm   @id(2) @name("source");
        }
        actions = { admit; @defaultonly drop(verdict); }
        const default_action = drop(verdict, DROP_SOURCE_NOT_ADMITTED);
        size = PREFIXES;
    }

    apply {
        bit<16> l4_size = ip.length - 40;                     // of what extension headers are not before
        if (hdr.ipv4.isValid()) {
            l4_size = ip.length - 20;
        }
        if (verdict.is_final == 0 && arrival.vrf != FABRIC_VRF) {
            if (ip.version == 0 && std.parser_error == error.NoError) {
                drop(verdict, DROP_NOT_IP);
            } else if (ip.has_options == 1 && hdr.ipv4.version == 4 && hdr.ipv4.header_length > 5) {
                drop(verdict, DROP_IPV4_OPTIONS);
            } else if (std.parser_error != error.NoError || std.checksum_error == 1 || ip.has_options == 1
                       || (hdr.ipv4.isValid() && (hdr.ipv4.version != 4 || ip.length < 20))
                       || (hdr.ipv6.isValid() && hdr.ipv6.version != 6)
                       || (bit<32>)(ip.offset + ip.length) > std.packet_length) {
                drop(verdict, DROP_MALFORMED);
            } else if (
                // unspecified, limited broadcast, loopback, link-local, multicast
                (ip.version == 4 && (
                    ip.source[31:0] == 0 || ip.source[31:28] >= 14 || ip.source[31:24] == 127
                    || ip.source[31:16] == 0xa9fe || ip.destination[31:0] == 0 || ip.destination[31:0] == 0xffffffff
                    || ip.destination[31:28] == 14 || ip.destination[31:24] == 127 || ip.destination[31:16] == 0xa9fe))
                || (ip.version == 6 && (
                    ip.source[127:1] == 0 || ip.source[127:120] == 0xff || ip.source[127:118] == 0x3fa
                    || ip.source[127:32] == 0xffff || ip.destination[127:1] == 0 || ip.destination[127:120] == 0xff
                    || ip.destination[127:118] == 0x3fa || ip.destination[127:32] == 0xffff))) {
                drop(verdict, DROP_NOT_FORWARDABLE);
            } else if (hdr.tcp.isValid() && (hdr.tcp.data_offset < 5 || l4_size < (bit<16>)hdr.tcp.data_offset << 2)) {
                drop(verdict, DROP_MALFORMED);
            } else if (ip.is_fragment == 1) {
                drop(verdict, DROP_FRAGMENT);
            } else if (ip.hop_limit <= 1) {
                drop(verdict, DROP_HOP_LIMIT);
            } else if (arrival.ingress_class == ATTACHMENT_CLASS) {
                source_guard.apply();
            }
        }
    }
}
