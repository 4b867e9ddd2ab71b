//  forwarding class ──▶ expire_at: from then on it is closed, with every process dead

control Lease(in way_t way, inout verdict_t verdict, in standard_metadata_t std) {
    bit<48> expires_us = 0;

    // Seconds of the clock that the node's description gives the epoch of.
    @id(0x0100000f)
    action expire_at(@id(1) bit<32> boottime_s) {
        expires_us = (bit<48>)boottime_s * 1000000;
    }

    @id(0x0200000a)
    table lease {
        key = { way.forwarding_class : exact @id(1) @name("forwarding_class"); }
        actions = { expire_at; @defaultonly NoAction; }
        const default_action = NoAction();
        size = FORWARDING_CLASSES;
    }

    apply {
        if (verdict.is_final == 0 && way.is_permitted == 1) {
            if (lease.apply().hit && std.ingress_global_timestamp >= expires_us) {
                drop(verdict, DROP_LEASE_EXPIRED);
            }
        }
    }
}
