//  what becomes of the packet, and who counts it: for its forwarding class; dropped, by reason and for the class that
//  it was permitted for; or punted

control Counters(in way_t way, in verdict_t verdict, inout standard_metadata_t std) {
    @id(0x12000001) counter(FORWARDING_CLASSES, CounterType.packets_and_bytes) forwarding_class_counter;
    @id(0x12000002) counter(DROP_REASONS, CounterType.packets_and_bytes) drop_counter;
    @id(0x12000004) counter(FORWARDING_CLASSES, CounterType.packets_and_bytes) forwarding_class_drop_counter;

    apply {
        if (way.is_permitted == 1) {
            forwarding_class_counter.count((bit<32>)way.forwarding_class);
        }
        if (verdict.drop_reason != DROP_NONE) {
            drop_counter.count((bit<32>)verdict.drop_reason);
            if (way.is_permitted == 1) {
                forwarding_class_drop_counter.count((bit<32>)way.forwarding_class);
            }
            mark_to_drop(std);
        } else if (verdict.punt_reason != PUNT_NONE) {
            std.egress_spec = CPU_PORT;
        }
    }
}
