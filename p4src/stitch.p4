// The pipeline of every node. What a node is (edge, gateway, fabric switch) follows from its entries.
//
//  attachment ▶ punt_frame ▶ local_sid ▶ source_guard ▶ group ▶ port_class ▶ flow_policy ▶ lease ▶ steer
//                                │                                                                  │
//                                └─ End, End.X, transit ─▶ route ─▶ next_hop ─▶ counters       sr_policy
//                                                            ▲                                      │
//                                                            └───────────── translate ◀─────────────┘
#include <core.p4>
#include <v1model.p4>

#include "types.p4"
#include "headers.p4"
#include "parser.p4"
#include "checksum.p4"
#include "packet_io.p4"
#include "attachment.p4"
#include "punt_frame.p4"
#include "local_sid.p4"
#include "source_guard.p4"
#include "group.p4"
#include "port_class.p4"
#include "flow_policy.p4"
#include "lease.p4"
#include "steer.p4"
#include "sr_policy.p4"
#include "translate.p4"
#include "route.p4"
#include "next_hop.p4"
#include "counters.p4"

control StitchIngress(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t std) {
    PacketOut()   packet_out_;
    Attachment()  attachment;
    PuntFrame()   punt_frame;
    LocalSid()    local_sid;
    SourceGuard() source_guard;
    Group()       group;
    PortClass()   port_class;
    FlowPolicy()  flow_policy;
    Lease()       lease;
    Steer()       steer;
    SrPolicy()    sr_policy;
    Translate()   translate;
    Route()       route;
    NextHop()     next_hop;
    Counters()    counters;

    apply {
        packet_out_.apply(hdr.packet_out, meta.verdict, std);
        attachment.apply(std.ingress_port, meta.arrival, meta.verdict);
        punt_frame.apply(hdr, meta.arrival, meta.ip, meta.verdict);
        local_sid.apply(hdr, meta.arrival, meta.ip, meta.way, meta.verdict, std);
        source_guard.apply(std.ingress_port, hdr, meta.arrival, meta.ip, meta.verdict, std);
        group.apply(meta.arrival, meta.ip, meta.flow, meta.verdict);
        port_class.apply(meta.arrival, meta.ip, meta.flow, meta.verdict);
        flow_policy.apply(meta.arrival, meta.ip, meta.flow, meta.way, meta.verdict);
        lease.apply(meta.way, meta.verdict, std);
        steer.apply(meta.ip, meta.way, meta.verdict);
        sr_policy.apply(hdr, meta.ip, meta.way, meta.verdict);
        translate.apply(hdr, meta.ip, meta.way, meta.verdict);
        route.apply(hdr, meta.ip, meta.way, meta.verdict);
        next_hop.apply(hdr, meta.arrival, meta.ip, meta.way, meta.verdict, std);
        counters.apply(meta.way, meta.verdict, std);
    }
}

control StitchEgress(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t std) {
    PacketIn() packet_in_;

    apply {
        packet_in_.apply(hdr.packet_in, hdr.outer, meta, std);
    }
}

V1Switch(StitchParser(), VerifyChecksums(), StitchIngress(), StitchEgress(), ComputeChecksums(), StitchDeparser()) main;
