"""Which flow a packet belongs to, which forwarding class its flow has, and the flow records."""

from collections import Counter
from dataclasses import dataclass, field, replace

from dataplane.reasons import DropReason, L4Class, PipelineEvent
from dataplane.reference.conversation import Asker, Asking, Conversations
from dataplane.reference.icmp import Answer
from dataplane.reference.match import Action, Tables
from dataplane.reference.packet import TCP_FIN, TCP_RST, TCP_SYN, Ip, Transport
from dataplane.reference.translate import Translation
from dataplane.reference.verdict import Drop

DENIALS = frozenset({"drop", "drop_until"})


@dataclass(frozen=True, slots=True)
class FlowKey:
    policy_class: int
    source: int
    destination: int
    protocol: int
    source_port: int
    destination_port: int
    l4_class: int


@dataclass(frozen=True, slots=True)
class Whence:
    """Where a packet came from, as policy sees it."""

    vrf: int
    policy_class: int
    port: int
    """0: it was decapsulated here."""


@dataclass(slots=True)
class FlowCount:
    """Counts of a flow since it has this forwarding class; `bytes` is the IP length."""

    forwarding_class: int
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
    class_packets: dict[int, int] = field(default_factory=dict)
    class_bytes: dict[int, int] = field(default_factory=dict)
    denied_packets: Counter[int] = field(default_factory=Counter)
    denied_bytes: Counter[int] = field(default_factory=Counter)
    """By policy class: what `flow_policy` denied."""
    generation: dict[int, int] = field(default_factory=dict)
    """By policy class; to be increased when what is cached for it may have changed."""
    events: dict[PipelineEvent, int] = field(default_factory=dict)
    conversations: Conversations = field(default_factory=Conversations)

    def forwarding_class(self, whence: Whence, ip: Ip, transport: Transport, now_s: float) -> int | Drop:
        """Of the packet's flow, counted."""
        policy_class, ingress_port = whence.policy_class, whence.port
        key = _key(policy_class, ip.source, ip.destination, ip.protocol, transport)
        generation = self.generation.get(policy_class, 1)
        record = self.records.get(key)
        moves = transport.tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST)
        is_known = (
            record is not None
            and (record.ingress_port, record.generation) == (ingress_port, generation)
            and not self.is_expired(record.forwarding_class, now_s)
        )
        if self.cache and record is not None and is_known and not moves:
            self._count(PipelineEvent.CACHE_HIT)
            forwarding_class = record.forwarding_class
        else:
            self._count(PipelineEvent.CACHE_MISS)
            resolved = self.resolve(key, whence, Asking(transport.tcp_flags), now_s)
            if isinstance(resolved, Drop):
                return self._deny(policy_class, resolved, len(ip.data))
            forwarding_class = resolved
        if record is None or record.forwarding_class != forwarding_class:
            record = self.records[key] = FlowCount(forwarding_class, ingress_port, generation)
        record.ingress_port, record.generation = ingress_port, generation
        record.packets += 1
        record.bytes += len(ip.data)
        self.count_class(forwarding_class, len(ip.data))
        return forwarding_class

    def uncached_class(self, whence: Whence, about: Answer, size: int, now_s: float) -> int | Drop:
        """Of an ICMP error, by what it is about; it has no record."""
        self._count(PipelineEvent.CACHE_MISS)
        key = _key(whence.policy_class, about.source, about.destination, about.protocol, about.transport)
        resolved = self.resolve(key, whence, Asking(changes=False), now_s)
        if isinstance(resolved, Drop):
            return self._deny(whence.policy_class, resolved, size)
        self.count_class(resolved, size)
        return resolved

    def resolve(self, key: FlowKey, whence: Whence, asking: Asking, now_s: float) -> int | Drop:
        """The forwarding class that `flow_policy` permits a flow on.

        A reply to nothing is left to what comes next, and so is what an entry says that has ended. Where nothing below
        the highest permit of these permits a packet, its lease drops it.
        """
        if whence.port and not self.tables.look_up("source_guard", ingress_port=whence.port, source=key.source):
            return Drop(DropReason.SOURCE_NOT_ADMITTED)
        says, ended = self.tables.policies(now_s, **self._classes(key, whence.vrf))
        best = next((action for action in says if action.name != "permit_reply"), None)
        opens = key.l4_class == L4Class.TCP_OPEN
        if opens and (best is None or best.name in DENIALS):  # both ends may open at once
            opened = replace(key, l4_class=L4Class.TCP)
            says, _ = self.tables.policies(now_s, **self._classes(opened, whence.vrf))
        reply = next((action for action in says if action.name == "permit_reply"), None)
        if reply is not None and (best is None or reply.entry.priority > best.entry.priority):
            if self.conversations.reply(self._asked_by(key, reply), asking, now_s):
                return reply.params["forwarding_class"]
            if best is None and ended is None:
                return Drop(DropReason.NOT_PERMITTED if opens else DropReason.UNASKED)
        denied = best is None or best.name in DENIALS
        if denied and ended is not None and (best is None or ended.entry.priority > best.entry.priority):
            return ended.params["forwarding_class"]
        if best is None:
            is_seen = key.l4_class != L4Class.UNCLASSIFIED
            return Drop(DropReason.NOT_PERMITTED if is_seen else DropReason.UNCLASSIFIED)
        if best.name in DENIALS:
            return Drop(best.params["reason"])
        if best.name == "permit_request":
            asker = _asker(key, best.params["network"])
            if not self.conversations.request(asker, asking, now_s):
                return Drop(DropReason.UNASKED)
        return best.params["forwarding_class"]

    def _asked_by(self, key: FlowKey, reply: Action) -> Asker:
        """What a reply answers: as the asker sent it, where this very node translates it for who has asked."""
        asker = _asker(key, reply.params["network"], turned=True)
        steer = self.tables.look_up("steer", forwarding_class=reply.params["forwarding_class"])
        if steer is None or steer.name != "translate_deliver":
            return asker
        translation = Translation(self.tables, reply.params["forwarding_class"])
        ends = translation.destination(asker.source), translation.source(asker.destination)
        return replace(asker, source=ends[0], destination=ends[1])

    def is_expired(self, forwarding_class: int, now_s: float) -> bool:
        lease = self.tables.look_up("lease", forwarding_class=forwarding_class)
        return lease is not None and now_s >= lease.params["boottime_s"]

    def _classes(self, key: FlowKey, vrf: int) -> dict[str, int]:
        ports = {"source_port_class": key.source_port, "destination_port_class": key.destination_port}
        addresses = {"source_group": key.source, "destination_group": key.destination}
        classes = {"policy_class": key.policy_class, "l4_class": int(key.l4_class)}
        for table, address in addresses.items():
            group = self.tables.look_up(table, vrf=vrf, address=address)
            classes[table] = group.params["group"] if group else 0
        for table, port in ports.items():
            port_class = self.tables.look_up(table, protocol=key.protocol, port=port)
            classes[table] = port_class.params["port_class"] if port_class else 0
        return classes

    def count_class(self, forwarding_class: int, size: int) -> None:
        self.class_packets[forwarding_class] = self.class_packets.get(forwarding_class, 0) + 1
        self.class_bytes[forwarding_class] = self.class_bytes.get(forwarding_class, 0) + size

    def _deny(self, policy_class: int, drop: Drop, size: int) -> Drop:
        if drop.reason != DropReason.SOURCE_NOT_ADMITTED:
            self.denied_packets[policy_class] += 1
            self.denied_bytes[policy_class] += size
        return drop

    def _count(self, event: PipelineEvent) -> None:
        self.events[event] = self.events.get(event, 0) + 1


def _key(policy_class: int, source: int, destination: int, protocol: int, transport: Transport) -> FlowKey:
    ports = transport.source_port, transport.destination_port
    return FlowKey(policy_class, source, destination, protocol, *ports, transport.l4_class)


def _asker(key: FlowKey, network: int, *, turned: bool = False) -> Asker:
    ends = key.source, key.destination, key.source_port, key.destination_port
    if turned:
        ends = key.destination, key.source, key.destination_port, key.source_port
    return Asker(network, ends[0], ends[1], key.protocol, ends[2], ends[3])
