//  forwarding class, source ──────▶ move_source: into another prefix of the same length; what is behind it stays
//  forwarding class, destination ─▶ move_destination
//
//   | prefix that this side knows | host |  checksums of IPv4, TCP, UDP and ICMPv6 follow (RFC 7915 §4.5, RFC 1624)
//   | prefix that is known there  | host |
//
// Only where steer says so, and last: whoever is told what became of a packet knows it as it came.
// Deviates: RFC 7915 §4.2, what an ICMP error quotes, and what lies behind other extension headers, are XDP's.

control Translate(inout headers_t hdr, inout ip_t ip, in way_t way, in verdict_t verdict) {
    address_t source = ip.source;
    address_t destination = ip.destination;
    bit<16> change = 0;

    // host_mask: the bits that stay.
    @id(0x0100001d)
    action move_source(@id(1) address_t prefix, @id(2) address_t host_mask) {
        source = prefix | (ip.source & host_mask);
    }

    @id(0x0100001e)
    action move_destination(@id(1) address_t prefix, @id(2) address_t host_mask) {
        destination = prefix | (ip.destination & host_mask);
    }

    @id(0x02000011)
    table translate_source {
        key = {
            way.forwarding_class : exact @id(1) @name("forwarding_class");
            ip.source            : lpm   @id(2) @name("address");
        }
        actions = { move_source; @defaultonly NoAction; }
        const default_action = NoAction();
        size = PREFIXES;
    }

    @id(0x02000012)
    table translate_destination {
        key = {
            way.forwarding_class : exact @id(1) @name("forwarding_class");
            ip.destination       : lpm   @id(2) @name("address");
        }
        actions = { move_destination; @defaultonly NoAction; }
        const default_action = NoAction();
        size = PREFIXES;
    }

    apply {
        if (verdict.is_final == 0 && way.is_translated == 1) {
            translate_source.apply();
            translate_destination.apply();
            // ~m + m' of all words: for RFC 1624 their order in a sum does not matter.
            hash(change, HashAlgorithm.csum16, 16w0, { ~ip.source, ~ip.destination, source, destination }, 32w0x10000);
            change = ~change;
            if (hdr.ipv4.isValid()) {
                adjust_checksum(hdr.ipv4.checksum, 0xffff, change);
                hdr.ipv4.source = source[31:0];
                hdr.ipv4.destination = destination[31:0];
            } else {
                hdr.ipv6.source = source;
                hdr.ipv6.destination = destination;
            }
            if (hdr.tcp.isValid()) {
                adjust_checksum(hdr.tcp.checksum, 0xffff, change);
            } else if (hdr.udp.isValid() && hdr.udp.checksum != 0) {
                adjust_checksum(hdr.udp.checksum, 0xffff, change);
                if (hdr.udp.checksum == 0) {
                    hdr.udp.checksum = 0xffff;                // RFC 768: 0 is none
                }
            } else if (hdr.icmp.isValid() && ip.protocol == PROTOCOL_ICMPV6) {
                adjust_checksum(hdr.icmp.checksum, 0xffff, change);
            }
            ip.source = source;
            ip.destination = destination;
        }
    }
}
