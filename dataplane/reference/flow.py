"""Which flow a packet belongs to, which leg its flow has, and the flow records."""

from dataclasses import dataclass, field

from dataplane.reasons import DropReason, L4Class, PipelineEvent
from dataplane.reference.icmp import Answer
from dataplane.reference.match import Tables
from dataplane.reference.packet import Ip, Transport
from dataplane.reference.verdict import Drop


@dataclass(frozen=True, slots=True)
class FlowKey:
    context: int
    source: int
    destination: int
    protocol: int
    source_port: int
    destination_port: int
    l4_class: int


@dataclass(slots=True)
class FlowCount:
    """Counts of a flow since its leg is its leg; `bytes` is the IP length."""

    leg: int
    ingress_port: int
    generation: int
    packets: int = 0
    bytes: int = 0


@dataclass(slots=True)
class Flows:
    """Flow records, which are also the cache if `cache` is on: a hit is not looked up in the tables again."""

    tables: Tables
    cache: bool
    records: dict[FlowKey, FlowCount] = field(default_factory=dict)
    leg_packets: dict[int, int] = field(default_factory=dict)
    leg_bytes: dict[int, int] = field(default_factory=dict)
    generation: dict[int, int] = field(default_factory=dict)
    """By context; to be increased when tables of the context changed."""
    events: dict[PipelineEvent, int] = field(default_factory=dict)

    def leg(self, context: int, ingress_port: int, ip: Ip, transport: Transport) -> int | Drop:
        """The leg of the packet's flow, counted. `ingress_port` is 0 for what was decapsulated here."""
        key = FlowKey(
            context,
            ip.source,
            ip.destination,
            ip.protocol,
            transport.source_port,
            transport.destination_port,
            transport.l4_class,
        )
        generation = self.generation.get(context, 1)
        record = self.records.get(key)
        if self.cache and record and (record.ingress_port, record.generation) == (ingress_port, generation):
            self._count(PipelineEvent.CACHE_HIT)
            leg = record.leg
        else:
            self._count(PipelineEvent.CACHE_MISS)
            resolved = resolve(self.tables, key, ingress_port)
            if isinstance(resolved, Drop):
                return resolved
            leg = resolved
        if record is None or record.leg != leg:
            record = self.records[key] = FlowCount(leg, ingress_port, generation)
        record.ingress_port, record.generation = ingress_port, generation
        record.packets += 1
        record.bytes += len(ip.data)
        self.count_leg(leg, len(ip.data))
        return leg

    def uncached_leg(self, context: int, ingress_port: int, about: Answer, size: int) -> int | Drop:
        """Of an ICMP error, by what it is about; it has no record."""
        self._count(PipelineEvent.CACHE_MISS)
        transport = about.transport
        key = FlowKey(
            context,
            about.source,
            about.destination,
            about.protocol,
            transport.source_port,
            transport.destination_port,
            transport.l4_class,
        )
        leg = resolve(self.tables, key, ingress_port)
        if not isinstance(leg, Drop):
            self.count_leg(leg, size)
        return leg

    def count_leg(self, leg: int, size: int) -> None:
        self.leg_packets[leg] = self.leg_packets.get(leg, 0) + 1
        self.leg_bytes[leg] = self.leg_bytes.get(leg, 0) + size

    def _count(self, event: PipelineEvent) -> None:
        self.events[event] = self.events.get(event, 0) + 1


def resolve(tables: Tables, key: FlowKey, ingress_port: int) -> int | Drop:
    """The leg that `flow_policy` permits a flow on."""
    if ingress_port and not tables.look_up("source_guard", ingress_port=ingress_port, source=key.source):
        return Drop(DropReason.SOURCE_NOT_ADMITTED)
    ports = {"source_port_class": key.source_port, "destination_port_class": key.destination_port}
    addresses = {"source_group": key.source, "destination_group": key.destination}
    classes = {"context": key.context, "l4_class": int(key.l4_class)}
    for table, address in addresses.items():
        found = tables.look_up(table, context=key.context, address=address)
        classes[table] = found.params["group"] if found else 0
    for table, port in ports.items():
        found = tables.look_up(table, protocol=key.protocol, port=port)
        classes[table] = found.params["port_class"] if found else 0
    policy = tables.look_up("flow_policy", **classes)
    if policy is None:
        is_seen = key.l4_class != L4Class.UNCLASSIFIED
        return Drop(DropReason.NOT_PERMITTED if is_seen else DropReason.UNCLASSIFIED)
    return Drop(policy.params["reason"]) if policy.name == "drop" else policy.params["leg"]
