//  next hop ──▶ forward: port and MACs
//            ├▶ resolve: port; the destination's MAC ──▶ neighbor
//            └▶ resolve_via: port; the MAC of the host that takes all of it ──▶ neighbor
// One hop less of the header that leads on.

control NextHop(inout headers_t hdr, in arrival_t arrival, in ip_t ip, in way_t way, inout verdict_t verdict,
                inout standard_metadata_t std) {
    bit<1> is_resolved = 1;
    vlan_t tag = 0;
    address_t host = ip.destination;

    @id(0x01000015)
    action forward(@id(1) port_t port, @id(2) mac_t source_mac, @id(3) mac_t destination_mac, @id(4) vlan_t vlan) {
        std.egress_spec = port;
        hdr.ethernet.source = source_mac;
        hdr.ethernet.destination = destination_mac;
        tag = vlan;
    }

    @id(0x01000016)
    action resolve(@id(1) port_t port, @id(2) mac_t source_mac, @id(3) vlan_t vlan) {
        std.egress_spec = port;
        hdr.ethernet.source = source_mac;
        is_resolved = 0;
        tag = vlan;
    }

    @id(0x01000021)
    action resolve_via(@id(1) port_t port, @id(2) mac_t source_mac, @id(3) vlan_t vlan, @id(4) address_t via) {
        resolve(port, source_mac, vlan);
        host = via;
    }

    @id(0x0200000f)
    table next_hop {
        key = { way.next_hop : exact @id(1) @name("next_hop"); }
        actions = { forward; resolve; resolve_via; punt(verdict); @defaultonly drop(verdict); }
        const default_action = drop(verdict, DROP_NO_NEXT_HOP);
        size = NEXT_HOPS;
    }

    @id(0x0100001a)
    action set_mac(@id(1) mac_t mac) {
        hdr.ethernet.destination = mac;
    }

    // Which MAC a host has. XDP learns it from ARP and ND by itself.
    @id(0x02000010)
    table neighbor {
        key = {
            std.egress_spec : exact @id(1) @name("port");
            host            : exact @id(2) @name("address");
        }
        actions = { set_mac; @defaultonly punt(verdict); }
        const default_action = punt(verdict, PUNT_NO_NEIGHBOR);
        size = NEIGHBORS;
    }

    apply {
        if (verdict.is_final == 0) {
            next_hop.apply();
        }
        if (verdict.is_final == 0 && is_resolved == 0) {
            neighbor.apply();
        }
        if (verdict.is_final == 0) {
            if (hdr.outer.isValid()) {
                if (hdr.outer.hop_limit <= 1) {
                    drop(verdict, DROP_HOP_LIMIT);
                } else {
                    hdr.outer.hop_limit = hdr.outer.hop_limit - 1;
                }
            } else if (hdr.ipv4.isValid()) {
                adjust_checksum(hdr.ipv4.checksum, hdr.ipv4.ttl ++ 8w0, (hdr.ipv4.ttl - 1) ++ 8w0);
                hdr.ipv4.ttl = hdr.ipv4.ttl - 1;
            } else {
                hdr.ipv6.hop_limit = hdr.ipv6.hop_limit - 1;
            }
        }
        if (verdict.is_final == 0) {
            bit<16> ether_type = arrival.ether_type;
            if (hdr.outer.isValid()) {
                ether_type = ETHERTYPE_IPV6;
            }
            hdr.tag.setInvalid();
            hdr.ethernet.ether_type = ether_type;
            if (tag != 0) {
                hdr.tag.setValid();
                hdr.tag.priority = 0;
                hdr.tag.drop_eligible = 0;
                hdr.tag.vlan_id = tag;
                hdr.tag.ether_type = ether_type;
                hdr.ethernet.ether_type = ETHERTYPE_VLAN;
            }
        }
    }
}
