//  ingress class, EtherType, protocol, ICMP type ──▶ punt │ drop │ go on
// Protocol and ICMP type are those of an IP packet without an outer header, else 0.

control PuntFrame(in headers_t hdr, in arrival_t arrival, in ip_t ip, inout verdict_t verdict) {
    bit<8> protocol = 0;
    bit<8> icmp_type = 0;

    @id(0x02000001)
    table punt_frame {
        key = {
            arrival.ingress_class : ternary @id(1) @name("ingress_class");
            arrival.ether_type    : ternary @id(2) @name("ether_type");
            protocol              : ternary @id(3) @name("protocol");
            icmp_type             : ternary @id(4) @name("icmp_type");
        }
        actions = { punt(verdict); drop(verdict); @defaultonly NoAction; }
        const default_action = NoAction();
        size = PUNTS;
    }

    apply {
        if (verdict.is_final == 0) {
            if (!hdr.outer.isValid() && ip.version != 0) {
                protocol = ip.protocol;
                if (hdr.icmp.isValid()) {
                    icmp_type = hdr.icmp.type;
                }
            }
            punt_frame.apply();
        }
    }
}
