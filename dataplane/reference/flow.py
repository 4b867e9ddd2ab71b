"""Which flow a packet belongs to, which leg its flow has, and the flow records."""

from dataclasses import dataclass, field, replace

from dataplane.reasons import DropReason, L4Class, PipelineEvent
from dataplane.reference.conversation import Asker, Asking, Conversations
from dataplane.reference.icmp import Answer
from dataplane.reference.match import Tables
from dataplane.reference.packet import TCP_FIN, TCP_RST, TCP_SYN, Ip, Transport
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
    conversations: Conversations = field(default_factory=Conversations)

    def leg(self, context: int, ingress_port: int, ip: Ip, transport: Transport, now_s: float) -> int | Drop:
        """The leg of the packet's flow, counted. `ingress_port` is 0 for what was decapsulated here."""
        key = _key(context, ip.source, ip.destination, ip.protocol, transport)
        generation = self.generation.get(context, 1)
        record = self.records.get(key)
        moves = transport.tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST)
        is_known = record is not None and (record.ingress_port, record.generation) == (ingress_port, generation)
        if self.cache and record is not None and is_known and not moves:
            self._count(PipelineEvent.CACHE_HIT)
            leg = record.leg
        else:
            self._count(PipelineEvent.CACHE_MISS)
            resolved = self.resolve(key, ingress_port, Asking(transport.tcp_flags), now_s)
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

    def uncached_leg(self, context: int, ingress_port: int, about: Answer, size: int, now_s: float) -> int | Drop:
        """Of an ICMP error, by what it is about; it has no record."""
        self._count(PipelineEvent.CACHE_MISS)
        key = _key(context, about.source, about.destination, about.protocol, about.transport)
        leg = self.resolve(key, ingress_port, Asking(changes=False), now_s)
        if not isinstance(leg, Drop):
            self.count_leg(leg, size)
        return leg

    def resolve(self, key: FlowKey, ingress_port: int, asking: Asking, now_s: float) -> int | Drop:
        """The leg that `flow_policy` permits a flow on; a reply to nothing is left to what comes next."""
        if ingress_port and not self.tables.look_up("source_guard", ingress_port=ingress_port, source=key.source):
            return Drop(DropReason.SOURCE_NOT_ADMITTED)
        found = self.tables.look_up_all("flow_policy", **self._classes(key))
        best = next((one for one in found if one.name != "permit_reply"), None)
        opens = key.l4_class == L4Class.TCP_OPEN
        if opens and (best is None or best.name == "drop"):  # both ends may open at once
            as_reply = self.tables.look_up_all("flow_policy", **self._classes(replace(key, l4_class=L4Class.TCP)))
            reply = next((one for one in as_reply if one.name == "permit_reply"), None)
        else:
            reply = next((one for one in found if one.name == "permit_reply"), None)
        if reply is not None and (best is None or reply.entry.priority > best.entry.priority):
            if self.conversations.reply(_asker(key, reply.params["network"], turned=True), asking, now_s):
                return reply.params["leg"]
            if best is None:
                return Drop(DropReason.NOT_PERMITTED if opens else DropReason.UNASKED)
        if best is None:
            is_seen = key.l4_class != L4Class.UNCLASSIFIED
            return Drop(DropReason.NOT_PERMITTED if is_seen else DropReason.UNCLASSIFIED)
        if best.name == "drop":
            return Drop(best.params["reason"])
        if best.name == "permit_request":
            asker = _asker(key, best.params["network"])
            if not self.conversations.request(asker, asking, now_s):
                return Drop(DropReason.UNASKED)
        return best.params["leg"]

    def _classes(self, key: FlowKey) -> dict[str, int]:
        ports = {"source_port_class": key.source_port, "destination_port_class": key.destination_port}
        addresses = {"source_group": key.source, "destination_group": key.destination}
        classes = {"context": key.context, "l4_class": int(key.l4_class)}
        for table, address in addresses.items():
            found = self.tables.look_up(table, context=key.context, address=address)
            classes[table] = found.params["group"] if found else 0
        for table, port in ports.items():
            found = self.tables.look_up(table, protocol=key.protocol, port=port)
            classes[table] = found.params["port_class"] if found else 0
        return classes

    def count_leg(self, leg: int, size: int) -> None:
        self.leg_packets[leg] = self.leg_packets.get(leg, 0) + 1
        self.leg_bytes[leg] = self.leg_bytes.get(leg, 0) + size

    def _count(self, event: PipelineEvent) -> None:
        self.events[event] = self.events.get(event, 0) + 1


def _key(context: int, source: int, destination: int, protocol: int, transport: Transport) -> FlowKey:
    ports = transport.source_port, transport.destination_port
    return FlowKey(context, source, destination, protocol, *ports, transport.l4_class)


def _asker(key: FlowKey, network: int, *, turned: bool = False) -> Asker:
    ends = key.source, key.destination, key.source_port, key.destination_port
    if turned:
        ends = key.destination, key.source, key.destination_port, key.source_port
    return Asker(network, ends[0], ends[1], key.protocol, ends[2], ends[3])
