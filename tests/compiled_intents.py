"""Intents of one generated domain, compiled, and frames through its nodes."""

import ipaddress
from collections.abc import Iterable, Mapping
from types import MappingProxyType

import msgspec
import scapy.packet
from scapy.layers.l2 import Ether

from controller.fulfillment import numbering
from controller.fulfillment.fabric import fabric
from controller.fulfillment.graph import graph
from controller.fulfillment.meaning import Packet
from controller.fulfillment.paths import sr_policy
from controller.fulfillment.place import place
from controller.fulfillment.realize import Realized, realize
from controller.fulfillment.rule_engine import rule_engine
from controller.fulfillment.translate import translate
from controller.fulfillment.wanted import Wanted
from controller.model.entry import OwnedEntry
from controller.model.intent import Intent
from controller.model.inventory import Inventory
from controller.model.persistent import PersistentMap
from controller.model.plan import Plan
from controller.model.requirements import Isolation, Requirements
from controller.model.sr_policy import SrPolicy
from controller.model.stitch import Stage, Stitch
from dataplane.host_api import HostState, NodeDescription, PortRole, PortStatus
from dataplane.reasons import L4Class
from dataplane.reference import Pipeline, Port
from tests.numbered import numbered
from tests.packet_walk import Outcome, Place, ask, echo, icmp_error, ip, table_entries, tcp, travel, udp


def mac(node: str, port: int) -> str:
    return f"02:00:00:{ord(node[0]):02x}:{int(node[1]):02x}:{port:02x}"


def described(known: Inventory) -> dict[str, NodeDescription]:
    """What the nodes say: that they have all ports that anything is at."""
    hosts = [
        (attachment.node, attachment.port, PortRole.ATTACHMENT)
        for two in known.networks.values()
        for attachment in two.attachments
    ]
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


def compiled(
    intents: list[Intent], known: Inventory, ends_s: Mapping[str, int] = MappingProxyType({})
) -> dict[str, tuple[OwnedEntry, ...]]:
    """The entries of each node. `ends_s`: when intents end that do."""
    stitches: list[Stitch] = []
    isolations: list[Isolation] = []
    for serial, intent in enumerate(intents, 1):
        requirements = translate(intent, rule_engine(()), known)
        assert isinstance(requirements, Requirements)
        until_s = ends_s.get(intent.name)
        if requirements.isolation is not None:
            isolations.append(msgspec.structs.replace(requirements.isolation, until_s=until_s))
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
            stitches.append(Stitch(plan=plan, serial=-serial, stage=Stage.ACTIVE, expires_s=until_s))
    stitches.reverse()  # as if each intent had been changed since, the youngest first: that changes no ages
    return realized(known, isolations, stitches)


def realized(
    known: Inventory, isolations: list[Isolation], stitches: list[Stitch], sr_policies: Iterable[SrPolicy] = ()
) -> dict[str, tuple[OwnedEntry, ...]]:
    """The entries of each node. `sr_policies`: where they are not those that are best."""
    there = graph(known, "shop")
    named = {id.name: sr_policy(there, id) for stitch in stitches for id in stitch.plan.sr_policies if id.crosses}
    named |= {policy.id.name: policy for policy in sr_policies}
    ids, stitches, policies = numbered(known, stitches, (policy for policy in named.values() if policy is not None))
    nodes = described(known)
    wanted = Wanted(
        inventory=known,
        fabric=fabric(known, nodes, "shop"),
        descriptions=nodes,
        ids=ids,
        isolations=isolations,
        stitches=PersistentMap((stitch.plan.name, stitch) for stitch in stitches),
        sr_policies=PersistentMap(policies),
    )
    made = realize(wanted, Realized())
    return {name: tuple(state.entries) for name, state in made.states.items()}


class Frames:
    """A generated domain as reference pipelines with wires between."""

    def __init__(self, entries: Mapping[str, tuple[OwnedEntry, ...]], known: Inventory, live: int) -> None:
        """`live`: bits of the candidate paths that are up, where there are several."""
        self._known = known
        self._wires: dict[Place, Place] = {}
        for link in known.links.values():
            assert link.b is not None
            a, b = (link.a.node, link.a.port), (link.b.node, link.b.port)
            self._wires |= {a: b, b: a}
        hosts = [attachment for network in known.networks.values() for attachment in network.attachments]
        self._hosts = {(host.node, host.port): host.name for host in hosts}
        self._holders = {(host.node, host.port): host.addresses for host in hosts}
        self._pipelines = {}
        for name, description in described(known).items():
            ports = {port.number: Port(mac=bytes.fromhex(port.mac.replace(":", ""))) for port in description.ports}
            of_node = table_entries(_with_live(entry, live) for entry in entries[name])
            pipeline = self._pipelines[name] = Pipeline(of_node, ports)
            for host in hosts:
                if host.node == name:
                    macs = {
                        (host.port, numbering.address(text)): bytes([2, 0, 0, 9, 0, host.port])
                        for text in host.addresses
                    }
                    pipeline.neighbors |= macs

    def is_on_link(self, packet: Packet) -> bool:
        """So that a host asks who has the destination, and does not send to its gateway."""
        prefixes = map(ipaddress.ip_network, self._known.networks[packet.network].prefixes)
        return any(ipaddress.ip_address(packet.destination) in prefix for prefix in prefixes)

    def is_answered(self, where: Place, packet: Packet) -> bool:
        told = ask(self._pipelines[where[0]], where[1], packet.source, packet.destination)
        assert told in (None, mac(*where))
        return told is not None

    def ask_for(self, packet: Packet, boottime_s: float = 0, arriving: Packet | None = None) -> None:
        """What `packet` could answer is asked by who has the address; whether that is permitted is not looked at.
        `arriving`: as its receiver gets it, where that is otherwise."""
        for asked in questions(packet, arriving):
            for where, addresses in self._holders.items():
                if asked.source in addresses:
                    self.send(where, asked, boottime_s)

    def send(self, where: Place, packet: Packet, boottime_s: float = 0) -> Outcome:
        """To the edge's MAC, whoever told it."""
        frame = bytes(Ether(src=f"02:00:00:09:00:{where[1]:02x}", dst=mac(*where)) / on_the_wire(packet))
        return travel(self._pipelines, self._wires, self._hosts, where, frame, boottime_s)


def _with_live(entry: OwnedEntry, live: int) -> OwnedEntry:
    if entry.action != "set_live" or entry.params != (("live", 3),):
        return entry
    return entry.replaced(params=(("live", live),))


QUESTIONS = {
    L4Class.TCP: L4Class.TCP_OPEN,
    L4Class.ICMP_ERROR: L4Class.TCP_OPEN,
    L4Class.UDP: L4Class.UDP,
    L4Class.ECHO_REPLY: L4Class.ECHO_REQUEST,
    L4Class.OTHER: L4Class.OTHER,
}


def questions(packet: Packet, arriving: Packet | None = None) -> list[Packet]:
    """What `packet` could be the answer to. An error is about a conversation that either end has opened. `arriving`: as
    its receiver gets it, where that is otherwise."""
    to = arriving or packet
    if packet.l4_class not in QUESTIONS:
        return []
    kind = QUESTIONS[packet.l4_class]
    back = msgspec.structs.replace(
        packet,
        network="",
        l4_class=kind,
        source=to.destination,
        destination=to.source,
        source_port=packet.destination_port,
        destination_port=packet.source_port,
    )
    return [back, msgspec.structs.replace(packet, l4_class=kind)] if packet.l4_class == L4Class.ICMP_ERROR else [back]


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
            return icmp_error(*ends, *ports)
        case L4Class.OTHER:
            return ip(*ends, 47)
        case L4Class.UNCLASSIFIED:
            return ip(*ends, 253 if six else 50)
