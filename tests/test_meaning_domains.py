"""Two meanings agree across domains: what the entries of all of them do with a packet is what all of them permit.

Generated domains negotiate over faulty links until they rest; `tests.composition` says what they then permit.
NETSTITCH_MEANING_WORLDS says how many worlds there are (100), NETSTITCH_MEANING_SEED with which seed they begin (0). A
failure names its seed.
"""

import os
import random
from collections import Counter

import msgspec
import pytest
from scapy.packet import Packet as Bytes
from scapy.packet import Raw

from controller.fulfillment.aliases import Views, meant, moved, translated, views
from controller.fulfillment.meaning import Endpoint, Packet, replies, requests
from controller.fulfillment.negotiate import MAX_LEASE_S
from controller.fulfillment.numbering import address
from controller.model.agreement import Flow
from controller.model.event import Applied
from controller.model.intent import Value
from dataplane.reasons import DropReason, L4Class
from tests import generated_domains as generated
from tests import generated_intents
from tests.compiled_intents import questions
from tests.composition import Composition, Expected, clause_of, domain_of, network_of
from tests.packet_walk import Walk, echo, icmp_error, ip, tcp, udp
from tests.plain_walk import End, Place, PlainWalk, reason_of
from tests.simulator import Faults, World
from topologies.topology import Host

WORLDS = int(os.environ.get("NETSTITCH_MEANING_WORLDS", "40"))
FIRST_SEED = int(os.environ.get("NETSTITCH_MEANING_SEED", "0"))
BATCHES = 4
PACKETS = 1850
"""Of each world; answers to what is delivered come on top."""
SAMPLE = 40
"""Of them, byte by byte."""
LIES = 300
NAMES = tuple(f"i{number}" for number in range(6))
"""Of intents, in each domain."""
MESSY = Faults(loss=0.2, duplication=0.2, delay_s=(0.001, 1.0))
ANSWERS = {
    L4Class.TCP_OPEN: L4Class.TCP,
    L4Class.TCP: L4Class.TCP,
    L4Class.UDP: L4Class.UDP,
    L4Class.ECHO_REQUEST: L4Class.ECHO_REPLY,
}


def settled(seed: int) -> World:
    """A world at rest, where intents and hosts came, changed and went in all domains, and controllers crashed."""
    chance = random.Random(seed)
    world = World(seed, topology=generated.topology(chance))
    world.greets = seed % 4 > 0
    world.start()
    world.faults, world.crash_chance = MESSY, 0.005
    for _ in range(chance.randint(8, 24)):
        domain = chance.choice(sorted(world.controllers))
        name = chance.choice(NAMES)
        known = world.controllers[domain].state.inventory
        networks = [network for network in known.networks.values() if network.attachments]
        if chance.random() < 0.15:
            world.delete(domain, name)
        elif networks and chance.random() < 0.15:
            _submit(world, domain, "Network", generated.changed(chance, chance.choice(networks)))
        elif (intent := generated.intent(chance, name, known, domain, NAMES)) is not None:
            _submit(world, domain, "Intent", intent)
        world.run(chance.choice((0.0, 0.5, 5.0)))
    world.faults, world.crash_chance = Faults(), 0.0
    world.run(150.0)
    for _ in range(200):
        try:
            world.check_settled()
            break
        except AssertionError:
            world.run(0.5)
    world.check_settled()
    inventories = (controller.state.inventory for controller in world.controllers.values())
    world.topology = generated.inhabited(world.topology, inventories)
    return world


def _submit(world: World, domain: str, kind: str, value: Value) -> None:
    world.submit(domain, Applied(kind=kind, content=msgspec.json.encode(value)))


def agreed(world: World) -> list[tuple[str, str]]:
    """Networks of different domains between which something is agreed."""
    return [
        (stitch.plan.connection.source_network, stitch.plan.connection.destination_network)
        for _, stitch in world.stitches()
        if stitch.upstream is None and stitch.plan.egress is not None
    ]


class Comparison:
    """Of one world: walks packets and asks what is permitted."""

    def __init__(self, seed: int, world: World, count: Counter[str]) -> None:
        self._seed = seed
        self._chance = random.Random(f"packets {seed}")
        self._world = world
        self._count = count
        self._composition = Composition(world)
        self._walk = PlainWalk(world, world.now_s)
        self._later = PlainWalk(world, world.now_s + MAX_LEASE_S)
        self._places = {host.name: self._place(host) for host in world.topology.hosts}
        self._seen = {
            (aliases.network, aliases.other): aliases.pairs
            for controller in world.controllers.values()
            for aliases in controller.state.inventory.aliases.values()
        }
        self._sample: list[tuple[Host, Packet, Expected]] = []

    def _place(self, host: Host) -> Place:
        interface = host.interfaces[0]
        return interface.node, self._world.topology.port_number(interface.node, host.port(interface))

    def run(self) -> None:
        related = agreed(self._world)
        for sender, packet in generated.packets(self._chance, self._world.topology, related, self._seen, PACKETS):
            receiver, arrived = self._compare(sender, packet)
            if receiver is not None and packet.l4_class in ANSWERS:
                back, _ = self._compare(receiver, answer(receiver.network, arrived))
                assert back == sender, f"seed {self._seed}: no answer to {packet}"
        across = [
            drawn for drawn in self._sample if drawn[2].host and domain_of(drawn[1].network) != _domain(drawn[2].host)
        ]
        chosen = self._chance.sample(across, min(len(across), SAMPLE * 2 // 3))
        self._bytes([*chosen, *self._chance.sample(self._sample, SAMPLE - len(chosen))])
        self._leases(chosen)
        self._lies()
        self._paths()

    def _compare(self, sender: Host, packet: Packet) -> tuple[Host | None, Packet]:
        """The receiver, and what it gets."""
        expected = self._composition.of(sender, packet)
        end = self._walk.send(*self._places[sender.name], packet)
        self._count["packets"] += 1
        self._count["isolated"] += expected.word.isolated
        if expected.host is not None:
            self._count["across" if _domain(expected.host) != domain_of(packet.network) else "inside"] += 1
        arriving = expected.word.arriving(packet) if expected.host is not None else packet
        self._count["translated"] += arriving != packet
        if different := self._difference(end, expected, arriving):
            raise AssertionError(f"seed {self._seed}: {different}: {packet}\n{expected}\n{end}")
        self._sample.append((sender, packet, expected))
        return expected.host, arriving

    def _difference(self, end: End, expected: Expected, arriving: Packet) -> str:
        where = self._places[expected.host.name] if expected.host is not None else None
        if end.delivered != where:
            return "delivered elsewhere"
        if where is None:
            isolated = reason_of(end.first) == DropReason.ISOLATED
            return "dropped for another reason" if isolated != expected.word.isolated and end.first is not None else ""
        if end.packet is None or (end.packet.source, end.packet.destination) != (arriving.source, arriving.destination):
            return "delivered with other addresses"
        return "" if end.first is not None and end.first.owner in expected.word.owners else "owned by another"

    def _bytes(self, sample: list[tuple[Host, Packet, Expected]]) -> None:
        walk = Walk(self._world)
        gateways = {text for network in self._world.topology.networks for text in network.gateways}
        for sender, packet, expected in sample:
            if packet.destination in gateways:
                continue  # may be answered by the edge itself
            arriving = expected.word.arriving(packet) if expected.host is not None else packet
            for asked in questions(packet, arriving):
                for host in self._world.topology.hosts:
                    if asked.source in host.interfaces[0].addresses:
                        walk.send(host.name, as_bytes(asked))
            outcome = walk.send(sender.name, as_bytes(packet))
            self._count["bytes"] += 1
            delivered = expected.host.name if expected.host is not None else ""
            assert outcome.delivered == delivered, f"seed {self._seed}: {packet}\n{expected}\n{outcome}"

    def _leases(self, across: list[tuple[Host, Packet, Expected]]) -> None:
        """With every controller dead nothing leaves a domain any more once all leases have run out."""
        for sender, packet, _ in across:
            end = self._later.send(*self._places[sender.name], packet)
            there = {self._world.topology.node(name).domain for name in end.nodes}
            closed = end.delivered is None and end.why == "lease expired" and there == {domain_of(packet.network)}
            assert closed, f"seed {self._seed}: after all leases {packet}: {end}"

    def _paths(self) -> None:
        """What was walked inside a domain went the planned way, over each candidate path and back."""
        for controller in self._world.controllers.values():
            for name, policy in controller.state.sr_policies.items():
                for node, step in ((policy.headend, 1), (policy.endpoint, -1)):
                    for index, path in enumerate(policy.candidate_paths):
                        nodes = path.nodes[::step]
                        trail = self._walk.trails.get((node, policy.number_at(node), index), nodes)
                        assert trail == nodes, f"seed {self._seed}: {name} {path} from {node}: {trail}"
                        self._count["paths"] += 1

    def _lies(self) -> None:
        """A neighbour sends into a tunnel what it likes, to any SID that there is: what comes through is agreed."""
        promises = self._promises()
        sids = [promise.sid for promise in promises] + [address(generated.NOWHERE[-1])]
        for _ in range(LIES if promises else 0):
            promise = self._chance.choice(promises)
            packet = self._lie(promise)
            if self._chance.random() < 0.2:  # over another border of that node, if it has one
                others = [other for other in promises if other.at[0] == promise.at[0]]
                promise = msgspec.structs.replace(promise, at=self._chance.choice(others).at)
            elif self._chance.random() < 0.2:
                promise = msgspec.structs.replace(promise, sid=self._chance.choice(sids))
            # what was promised for one border, and for this very SID there
            kept = next(
                (candidate for candidate in promises if (candidate.at, candidate.sid) == (promise.at, promise.sid)),
                None,
            )
            to = kept.carries(packet) if kept is not None else None
            host = self._composition.hosts.get(to) if to is not None else None
            end = self._walk.arrive(*promise.at, promise.sid, packet)
            self._count["lies"] += 1
            self._count["true"] += host is not None
            expected = self._places[host.name] if host is not None else None
            assert end.delivered == expected, f"seed {self._seed}: {promise}: {packet}\n{end}"
            if host is not None:
                late = self._later.arrive(*promise.at, promise.sid, packet)
                closed = (late.why, late.nodes) == ("lease expired", promise.at[:1])
                assert closed, f"seed {self._seed}: after all leases {promise}: {packet}\n{late}"

    def _lie(self, promise: "Promise") -> Packet:
        """Often near to the truth."""
        flow = self._chance.choice(promise.flows)
        near, far = (self._chance.choice(prefixes) for prefixes in (flow.source_prefixes, flow.destination_prefixes))
        forward = promise.forward != (self._chance.random() < 0.2)
        if self._chance.random() < 0.9:
            near = translated((near,), promise.views.source)[0] if forward else near
            far = far if forward else translated((far,), promise.views.destination)[0]
        source, destination = (text.split("/")[0] for text in ((near, far) if forward else (far, near)))
        topology = self._world.topology
        there = [*generated.addresses(topology), *generated.known_addresses(topology, self._seen)]
        if self._chance.random() < 0.3:
            source = self._chance.choice(there)
        alike = [text for text in there if (":" in text) == (":" in source)]
        if self._chance.random() < 0.3 or (":" in source) != (":" in destination):
            destination = self._chance.choice(alike)
        kind, source_port, destination_port = self._chance.choice(generated_intents.contents())
        return Packet(
            network="",
            source=source,
            destination=destination,
            l4_class=kind,
            source_port=source_port,
            destination_port=destination_port,
        )

    def _promises(self) -> list["Promise"]:
        """Of all agreements in force, at each border that they cross, in each direction."""
        promises = []
        for _, stitch in self._world.stitches():
            for session, way in ((stitch.upstream, stitch.plan.ingress), (stitch.downstream, stitch.plan.egress)):
                if session is None or session.agreement is None or way is None:
                    continue
                terms, status = session.agreement.terms, self._world.nodes[way.node].describe()
                port = next(border.port for border in status.borders if border.name == way.border)
                sid = terms.offeror_end.sid if session.offeror else session.agreement.acceptor_end.sid
                at, forward = (way.node, port), not session.offeror
                promises.append(Promise(at, address(sid), forward, terms.flows, views(stitch)))
        return promises


class Promise(msgspec.Struct, frozen=True):
    """What a neighbour may send."""

    at: Place
    """The tunnel's end here."""
    sid: int
    forward: bool
    """Requests; else replies."""
    flows: tuple[Flow, ...]
    views: Views

    def carries(self, packet: Packet) -> Endpoint | None:
        """Where the packet goes, which has the addresses that the receiver knows; None: nowhere."""
        own, others = self.views if self.forward else (self.views.destination, self.views.source)
        source = meant(address(packet.source), own)
        if source is None or meant(address(packet.destination), others) not in (None, address(packet.destination)):
            return None  # addresses that the sender knows: the receiver does not
        destination = moved(address(packet.destination), others)
        follows = requests if self.forward else replies
        for flow in self.flows:
            network = flow.source if self.forward else network_of(flow.destination)
            if to := follows(clause_of(flow, known_as=self.views), network, source, destination, packet):
                return to
        return None


def _domain(host: Host) -> str:
    return domain_of(host.network)


def answer(network: str, packet: Packet) -> Packet:
    """What its receiver sends back."""
    return Packet(
        network=network,
        source=packet.destination,
        destination=packet.source,
        l4_class=ANSWERS[packet.l4_class],
        source_port=packet.destination_port,
        destination_port=packet.source_port,
    )


def as_bytes(packet: Packet) -> Bytes:
    ends = packet.source, packet.destination
    six = ":" in packet.source
    match packet.l4_class:
        case L4Class.TCP_OPEN | L4Class.TCP:
            flags = "S" if packet.l4_class == L4Class.TCP_OPEN else "PA"
            return tcp(*ends, packet.destination_port, flags, packet.source_port)
        case L4Class.UDP:
            return udp(*ends, packet.destination_port, packet.source_port)
        case L4Class.ECHO_REQUEST | L4Class.ECHO_REPLY:
            return echo(*ends, reply=packet.l4_class == L4Class.ECHO_REPLY)
        case L4Class.ICMP_ERROR:
            return icmp_error(*ends, packet.destination_port, packet.source_port)
        case L4Class.UNCLASSIFIED:
            return ip(*ends, 253 if six else 50) / Raw(bytes(24))
        case L4Class.OTHER:  # SCTP
            return ip(*ends, 132) / Raw(bytes(12))


@pytest.mark.parametrize("batch", range(BATCHES))
def test_entries_of_all_domains_do_what_all_of_them_permit(batch: int) -> None:
    count: Counter[str] = Counter()
    for number in range(batch * WORLDS // BATCHES, (batch + 1) * WORLDS // BATCHES):
        seed = FIRST_SEED + number
        world = settled(seed)
        for _, stitch in world.stitches():
            origin = "own" if stitch.upstream is None else "transit" if stitch.plan.egress else "accepted"
            count[f"{origin} courses"] += 1
        Comparison(seed, world, count).run()
    print(f"\nseeds from {FIRST_SEED + batch * WORLDS // BATCHES}: {dict(count)}")
    assert count["across"] > 10 * WORLDS and count["isolated"] and count["inside"] and count["true"]
    assert (count["transit courses"] and count["translated"]) or WORLDS < 40
