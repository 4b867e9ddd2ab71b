"""Two meanings agree: what the compiled entries do with a packet equals `permitted`, on generated intents and packets.

The bulk is evaluated by plain table semantics (longest prefix, highest priority), from the attachment to delivery, and
what is delivered is answered; a sample goes as frames through the reference pipeline, hop by hop over every link.
"""

import random
from collections import Counter
from collections.abc import Iterator, Mapping

import msgspec
import pytest
import scapy.packet
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import ICMPv6DestUnreach, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from controller.fulfillment import numbering
from controller.fulfillment.claims import Claim, Index, Places
from controller.fulfillment.conflict import Kind, against, misfit
from controller.fulfillment.fabric import fabric
from controller.fulfillment.graph import graph
from controller.fulfillment.meaning import Decision, Meaning, Packet
from controller.fulfillment.place import place
from controller.fulfillment.realize import Realized, realize
from controller.fulfillment.rulebook import rulebook
from controller.fulfillment.translate import translate
from controller.model.course import Course, Stage
from controller.model.entry import Entry
from controller.model.intent import Intent
from controller.model.inventory import Inventory
from controller.model.plan import Plan
from controller.model.requirements import Requirements
from controller.reconcile.edges import numbered_edges
from dataplane.host_api import HostState, NodeDescription, PortRole, PortStatus
from dataplane.reasons import DropReason, L4Class
from dataplane.reference import Pipeline, Port
from tests import generated_intents as generated
from tests.packet_walk import Outcome, Place, echo, ip, table_entries, tcp, travel, udp

CONFIGURATIONS, PACKETS = 100, 2000
FRAMES = 50
"""Of each configuration."""
PROTOCOLS = {L4Class.TCP_OPEN: 6, L4Class.TCP: 6, L4Class.UDP: 17}
Fields = dict[str, int]


class Node:
    """The tables of one node, looked up plainly."""

    def __init__(self, entries: tuple[Entry, ...]) -> None:
        self.tables: dict[str, dict[int, list[Entry]]] = {}
        for entry in entries:
            first = next((one.value for one in entry.match if one.field == "context"), 0)
            self.tables.setdefault(entry.table, {}).setdefault(first, []).append(entry)

    def look_up(self, table: str, fields: Fields) -> Entry | None:
        found = (one for one in self.tables.get(table, {}).get(fields.get("context", 0), ()) if _matches(one, fields))
        return max(found, key=lambda one: (one.priority, sum(m.prefix_length or 0 for m in one.match)), default=None)

    def value(self, table: str, fields: Fields) -> int:
        entry = self.look_up(table, fields)
        return entry.params[0][1] if entry is not None else 0

    def decide(self, context: int, packet: Packet) -> Entry | None:
        protocol = PROTOCOLS.get(packet.l4_class, 0)
        groups = {
            "source_group": self.value(
                "source_group", {"context": context, "address": numbering.address(packet.source)}
            ),
            "destination_group": self.value(
                "destination_group", {"context": context, "address": numbering.address(packet.destination)}
            ),
            "source_port_class": self.value("source_port_class", {"protocol": protocol, "port": packet.source_port}),
            "destination_port_class": self.value(
                "destination_port_class", {"protocol": protocol, "port": packet.destination_port}
            ),
        }
        return self.look_up("flow_policy", {"context": context, "l4_class": int(packet.l4_class), **groups})


def _matches(entry: Entry, fields: Fields) -> bool:
    for one in entry.match:
        value = fields[one.field]
        if one.prefix_length is not None:
            if value >> (128 - one.prefix_length) != one.value >> (128 - one.prefix_length):
                return False
        elif one.high is not None:
            if not one.value <= value <= one.high:
                return False
        elif (value if one.mask is None else value & one.mask) != one.value:
            return False
    return True


def walk(nodes: Mapping[str, Node], where: tuple[str, int], packet: Packet) -> tuple[bool, Entry | None, str]:
    """Whether every node on the way permits it, the entry that first decided, and where it would leave."""
    node, port = where
    at = nodes[node]
    if at.look_up("source_guard", {"ingress_port": port, "source": numbering.address(packet.source)}) is None:
        return False, None, "not admitted"
    context = at.value("attachment", {"ingress_port": port, "vlan_id": 0})
    first: Entry | None = None
    for _ in range(4):
        entry = at.decide(context, packet)
        first = first or entry
        if entry is None or entry.action != "permit":
            return False, first, "dropped"
        steer = at.look_up("steer", {"leg": entry.params[0][1]})
        assert steer is not None, entry
        if steer.action == "deliver":
            route = at.look_up("route", {"context": context, "destination": numbering.address(packet.destination)})
            return True, first, f"{node} {route.params[0][1]}" if route is not None else "no route"
        policy = dict(steer.params)["sr_policy"]
        ends = {
            end for bit in (1, 2) for end in _end(nodes, at.look_up("sr_policy", {"sr_policy": policy, "live": bit}))
        }
        assert len(ends) == 1, f"{node}: the candidate paths of {policy} lead to {ends}"
        ((node, context),) = ends
        at = nodes[node]
    raise AssertionError("in circles")


def _end(nodes: Mapping[str, Node], candidate: Entry | None) -> list[tuple[str, int]]:
    """Node and context that a candidate path leads to, if it is there."""
    if candidate is None:
        return []
    last = dict(candidate.params)["segment_list_0"]
    found = {name: at.look_up("local_sid", {"ingress_class": 1, "destination": last}) for name, at in nodes.items()}
    ends = [(name, local.params[0][1]) for name, local in found.items() if local is not None]
    assert len(ends) == 1, f"{last:x} is a SID of {ends}"
    return ends


def agreed(chance: random.Random, known: Inventory) -> list[Intent]:
    """Intents that can be in force together: by the conflict engine, so that what it misses shows up here."""
    places, index = Places(known), Index()
    found: list[Intent] = []
    for number in range(chance.randint(1, 8)):
        names = tuple(one.name for one in found)
        intent = generated.intent(chance, f"i{number}", known, names)
        if not isinstance(translate(intent, rulebook(()), known), Requirements):
            continue
        claim: Claim = places.claim(intent, serial=number, start_s=0, end_s=1)
        conflicts = against(claim, index, places)
        if misfit(claim, places) or any(one.kind == Kind.CONTRADICTION for one in conflicts):
            continue
        if any(one.tenant != intent.tenant for one in found if one.name in intent.overrides):
            continue
        index.add(claim)
        found.append(intent)
    return found


def mac(node: str, port: int) -> str:
    return f"02:00:00:{ord(node[0]):02x}:{int(node[1]):02x}:{port:02x}"


def described(known: Inventory) -> dict[str, NodeDescription]:
    """What the nodes say: that they have all ports that anything is at."""
    hosts = [(one.node, one.port, PortRole.ATTACHMENT) for two in known.networks.values() for one in two.attachments]
    ends = [end for link in known.links.values() for end in (link.a, link.b) if end is not None]
    ports = hosts + [(end.node, end.port, PortRole.FABRIC) for end in ends]
    return {
        name: NodeDescription(
            name=name,
            software="",
            wireguard="",
            boot_epoch_s=0,
            layout="",
            ports=tuple(
                PortStatus(number=port, interface="", role=role, mac=mac(name, port), mtu=2000, carrier=True)
                for node, port, role in ports
                if node == name
            ),
            borders=(),
            host_state=HostState(),
        )
        for name in known.nodes
    }


def compiled(intents: list[Intent], known: Inventory) -> dict[str, tuple[Entry, ...]]:
    """The entries of each node."""
    courses, isolations, slot = [], [], 0
    for serial, intent in enumerate(intents, 1):
        requirements = translate(intent, rulebook(()), known)
        assert isinstance(requirements, Requirements)
        isolations += [requirements.isolation] if requirements.isolation is not None else []
        for number, connection in enumerate(requirements.connections):
            plan = place(
                connection,
                graph(known, "shop"),
                name=f"{intent.name}.{number}",
                owner=f"intents/{intent.name}",
                priority=intent.priority,
                serial=serial,
            )
            assert isinstance(plan, Plan), plan
            slots = tuple(range(slot + 1, slot + 1 + len(plan.sr_policies)))
            slot = slots[-1]
            courses.append(Course(plan=plan, serial=-serial, slots=slots, stage=Stage.ACTIVE))
    courses.reverse()  # as if each intent had been changed since, the youngest first: that changes no ages
    indices = {name: index for index, name in enumerate(sorted(known.networks), 1)}
    numbers: dict[str, dict[str, int]] = {}
    for number, (network, node) in enumerate(numbered_edges(known, "shop"), 1):
        numbers.setdefault(network, {})[node] = number
    nodes = described(known)
    found = realize(known, fabric(known, nodes, "shop"), nodes, indices, numbers, isolations, courses, Realized())
    return {name: state.entries for name, state in found.states.items()}


def packets(chance: random.Random, known: Inventory, count: int) -> Iterator[tuple[tuple[str, int], Packet]]:
    """From an attachment, of any source in the inventory; half of them between hosts."""
    there, contents = generated.addresses(known), generated.contents()
    for _ in range(count):
        network = known.networks[chance.choice(sorted(known.networks))]
        host = chance.choice(network.attachments)
        source = chance.choice(host.addresses) if chance.random() < 0.95 else chance.choice(there)
        alike = [one for one in there if (":" in one) == (":" in source) and one != source] or [source]
        kind, source_port, destination_port = chance.choice(contents)
        yield (
            (host.node, host.port),
            Packet(
                network=network.name,
                source=source,
                destination=chance.choice(alike),
                l4_class=kind,
                source_port=source_port,
                destination_port=destination_port,
            ),
        )


def agree(packet: Packet, decision: Decision, allowed: bool, first: Entry | None, where: str, known: Inventory) -> bool:
    """The same answer, from the same intent, and at the right host."""
    if decision.allowed != allowed:
        return False
    if not allowed:
        isolated = first is not None and dict(first.params).get("reason") == DropReason.ISOLATED
        return isolated == (decision.owner != "")
    ends = {
        f"{host.node} {numbering.ATTACHED_HOP + host.port}"
        for host in known.networks[decision.to].attachments
        if packet.destination in host.addresses
    }
    return first is not None and first.owner == decision.owner and where in ends


def answer(packet: Packet, decision: Decision) -> Packet:
    """What the host that `packet` came to says."""
    kinds = {L4Class.TCP_OPEN: L4Class.TCP, L4Class.ECHO_REQUEST: L4Class.ECHO_REPLY}
    return Packet(
        network=decision.to,
        source=packet.destination,
        destination=packet.source,
        l4_class=kinds.get(packet.l4_class, packet.l4_class),
        source_port=packet.destination_port,
        destination_port=packet.source_port,
    )


def meant(meaning: Meaning, known: Inventory, where: tuple[str, int], packet: Packet) -> Decision:
    theirs = any(
        packet.source in host.addresses
        for host in known.networks[packet.network].attachments
        if (host.node, host.port) == where
    )
    return meaning.of(packet) if theirs else Decision(allowed=False, because="source guard")


@pytest.mark.parametrize("batch", range(4))
def test_entries_do_what_intents_permit(batch: int) -> None:
    carried = isolated = between_edges = answered = 0
    for seed in range(batch * CONFIGURATIONS // 4, (batch + 1) * CONFIGURATIONS // 4):
        chance = random.Random(seed)
        known = generated.inventory(chance, far=False)
        intents = agreed(chance, known)
        nodes = {name: Node(entries) for name, entries in compiled(intents, known).items()}
        meaning = Meaning(intents, known)
        for sent_from, sent in packets(chance, known, PACKETS):
            where, packet = sent_from, sent
            for is_answer in (False, True):
                decision = meant(meaning, known, where, packet)
                allowed, first, end = walk(nodes, where, packet)
                assert agree(packet, decision, allowed, first, end, known), f"seed {seed}: " + "\n".join(
                    map(str, (packet, decision, allowed, first, end, *intents))
                )
                carried += decision.owner.startswith("intents/") and allowed
                isolated += decision.owner.startswith("intents/") and not allowed
                answered += is_answer
                if not allowed:
                    break
                node, hop = end.split()
                between_edges += decision.owner.startswith("networks/") and node != where[0]
                where, packet = (node, int(hop) - numbering.ATTACHED_HOP), answer(packet, decision)
    print(f"{carried} carried, {isolated} isolated, {between_edges} between edges, {answered} answers")
    assert min(carried, isolated, between_edges, answered) > 100


class Frames:
    """A generated domain as reference pipelines with wires between."""

    def __init__(self, entries: Mapping[str, tuple[Entry, ...]], known: Inventory, live: int) -> None:
        """`live`: bits of the candidate paths that are up, where there are several."""
        self._wires: dict[Place, Place] = {}
        for link in known.links.values():
            assert link.b is not None
            a, b = (link.a.node, link.a.port), (link.b.node, link.b.port)
            self._wires |= {a: b, b: a}
        hosts = [one for network in known.networks.values() for one in network.attachments]
        self._hosts = {(one.node, one.port): one.name for one in hosts}
        self._pipelines = {}
        for name, description in described(known).items():
            ports = {one.number: Port(mac=bytes.fromhex(one.mac.replace(":", ""))) for one in description.ports}
            held = table_entries(_with_live(entry, live) for entry in entries[name])
            pipeline = self._pipelines[name] = Pipeline(held, ports)
            for one in hosts:
                if one.node == name:
                    macs = {
                        (one.port, numbering.address(text)): bytes([2, 0, 0, 9, 0, one.port]) for text in one.addresses
                    }
                    pipeline.neighbors |= macs

    def send(self, where: Place, packet: Packet) -> Outcome:
        frame = bytes(Ether(src=f"02:00:00:09:00:{where[1]:02x}", dst=mac(*where)) / on_the_wire(packet))
        return travel(self._pipelines, self._wires, self._hosts, where, frame, 0)


def _with_live(entry: Entry, live: int) -> Entry:
    if entry.action != "set_live" or entry.params != (("live", 3),):
        return entry
    return msgspec.structs.replace(entry, params=(("live", live),))


def on_the_wire(packet: Packet) -> scapy.packet.Packet:
    ends, ports = (packet.source, packet.destination), (packet.destination_port, packet.source_port)
    six = ":" in packet.source
    match packet.l4_class:
        case L4Class.TCP_OPEN | L4Class.TCP:
            return tcp(*ends, ports[0], "S" if packet.l4_class == L4Class.TCP_OPEN else "A", ports[1])
        case L4Class.UDP:
            return udp(*ends, *ports)
        case L4Class.ECHO_REQUEST | L4Class.ECHO_REPLY:
            return echo(*ends, reply=packet.l4_class == L4Class.ECHO_REPLY)
        case L4Class.ICMP_ERROR:
            return ip(*ends) / (ICMPv6DestUnreach() if six else ICMP(type=3)) / Raw(bytes(48))
        case L4Class.OTHER:
            return IPv6(src=ends[0], dst=ends[1], nh=99) if six else IP(src=ends[0], dst=ends[1], proto=99)


def test_frames_find_the_way_that_the_meaning_says() -> None:
    """Candidate paths by turns: the best, the other one."""
    sent, between_edges, reasons = 0, 0, Counter[str]()
    for seed in range(CONFIGURATIONS):
        chance = random.Random(seed)
        known = generated.inventory(chance, far=False)
        intents = agreed(chance, known)
        meaning, frames = Meaning(intents, known), Frames(compiled(intents, known), known, 1 + seed % 2)
        for where, packet in packets(chance, known, FRAMES):
            decision = meant(meaning, known, where, packet)
            outcome = frames.send(where, packet)
            told = f"seed {seed}: {packet} {decision} {outcome.delivered} {outcome.path} {outcome.reason!r}"
            sent += 1
            if decision.allowed:
                ends = {
                    host.name
                    for host in known.networks[decision.to].attachments
                    if packet.destination in host.addresses
                }
                assert outcome.delivered in ends, told
                between_edges += decision.owner.startswith("networks/") and outcome.node != where[0]
            else:
                assert not outcome.delivered and outcome.node == where[0], told
                assert (outcome.reason == DropReason.ISOLATED) == (decision.owner != ""), told
                reasons[outcome.reason.name] += 1
    print(f"{sent} frames, {between_edges} of a network between edges; {dict(reasons)}")
    assert sent >= 2000 and between_edges > 20
    assert set(reasons) == {"ISOLATED", "NOT_PERMITTED", "SOURCE_NOT_ADMITTED"}
