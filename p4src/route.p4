//  VRF, destination ──▶ next hop
// VRF 0 leads SIDs from node to neighbour; the others deliver to the hosts of their network.

control Route(in headers_t hdr, in ip_t ip, inout way_t way, inout verdict_t verdict) {
    address_t destination = 0;

    @id(0x01000014)
    action set_next_hop(@id(1) @refers_to(next_hop, next_hop) next_hop_t next_hop) {
        way.next_hop = next_hop;
    }

    @id(0x0200000e)
    table route {
        key = {
            way.vrf     : exact @id(1) @name("vrf");
            destination : lpm   @id(2) @name("destination");
        }
        actions = { set_next_hop; drop(verdict); }
        const default_action = drop(verdict, DROP_NO_ROUTE);
        size = PREFIXES;
    }

    apply {
        if (verdict.is_final == 0 && way.next_hop == 0 && way.is_to_service == 0) {
            destination = ip.destination;
            if (hdr.outer.isValid()) {
                destination = hdr.outer.destination;
            }
            route.apply();
        }
    }
}
