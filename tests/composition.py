"""What several domains together permit: the oracle for the entries of all of them.

A packet passes when every domain that has a say permits it.

1. The source's edge admits a host's own addresses only.
2. The source's domain says by its own meaning (`permitted`, over its intents and its inventory) in which network the
   packet may go. What other domains' intents may do with its hosts is in the agreements it has accepted: for them
   requests come in, and replies go out.
3. The destination's domain says the same of the same packet, over its own intents, inventory and agreements.
4. An agreement breaks nobody's isolation.
5. An intent permits what it is Active for: what is refused, or not yet agreed along the whole way, is carried by
   nobody. Its isolation holds in any case.

Agreements carry all that the intent behind them allows, and nothing else; so once all rests, the two domains never
differ about a packet to a host that is there. That is checked for each packet.
"""

from typing import NamedTuple

import msgspec

from controller.fulfillment.meaning import Clause, Endpoint, Meaning, Packet, Range, replies, requests
from controller.fulfillment.numbering import address, prefix
from controller.model.agreement import Flow
from controller.model.intent import Intent
from controller.model.stitch import IntentRecord, Stage, Stitch, expired
from controller.reconcile import State
from tests.simulator import World
from topologies.topology import Host


class Word(NamedTuple):
    """What one domain says of a packet."""

    to: str
    """The network where it may go; empty: nowhere."""
    owners: frozenset[str]
    """Who may own it."""
    isolated: bool


class Say:
    """One domain's."""

    def __init__(self, state: State) -> None:
        in_force = [
            _active(state, intent_record)
            for intent_record in state.intent_records.values()
            if not expired(intent_record)
        ]
        self._meaning = Meaning(in_force, state.inventory)
        self._granted = [
            (f"agreements/{stitch.plan.name}", clause)
            for stitch in state.stitches.values()
            if stitch.stage == Stage.ACTIVE and stitch.upstream is not None and stitch.plan.egress is None
            for clause in _granted(state, stitch)
        ]

    def of(self, packet: Packet) -> Word:
        source, destination = address(packet.source), address(packet.destination)
        decision = self._meaning.of(packet)
        owners_by_network = {decision.to: {decision.owner}} if decision.allowed else {}
        for owner, clause in self._granted:
            for follows in (requests, replies):
                network = follows(clause, packet.network, source, destination, packet)
                if network and not self._meaning.separating((packet.network, source), (network, destination), None):
                    owners_by_network.setdefault(network, set()).add(owner)
        assert len(owners_by_network) <= 1, f"{packet} means several hosts: {owners_by_network}"
        for to, owners in owners_by_network.items():
            return Word(to, frozenset(owners), isolated=False)
        return Word("", frozenset(), isolated=decision.owner != "")


def _active(state: State, intent_record: IntentRecord) -> Intent:
    """The intent with those of its clauses that are carried."""
    intent = intent_record.intent
    carried = {
        (connection.source_network, connection.destination_network)
        for connection, connection_status in zip(
            intent_record.requirements.connections, intent_record.connection_statuses, strict=True
        )
        if connection_status.plan in state.stitches and state.stitches[connection_status.plan].stage == Stage.ACTIVE
    }
    kept = []
    for allow in intent.allow:
        selector = allow.source or intent.isolate
        assert selector is not None
        if (selector.network, network_of(allow.to)) in carried:
            kept.append(allow)
    return msgspec.structs.replace(intent, allow=tuple(kept))


def _granted(state: State, stitch: Stitch) -> list[Clause]:
    """What an agreement lets another domain's intent do here, with the hosts that are here."""
    assert stitch.upstream is not None and stitch.upstream.agreement is not None, stitch
    return [
        clause_of(
            flow,
            {
                (network_of(flow.destination), address(text))
                for attachment in state.inventory.networks[network_of(flow.destination)].attachments
                for text in attachment.addresses
            },
        )
        for flow in stitch.upstream.agreement.terms.flows
    ]


def clause_of(flow: Flow, hosts: set[Endpoint] | None = None) -> Clause:
    """A flow as what it is, a clause. `hosts`: those that are there; None: any."""
    name = network_of(flow.destination)
    ranges: list[Range] = []
    for value, length in map(prefix, flow.destination_prefixes):
        last = value | (1 << (128 - length)) - 1
        if hosts is None:
            ranges.append((name, value, last))
        else:
            ranges += [(name, host, host) for _, host in sorted(hosts) if value <= host <= last]
    sources = [(flow.source, *prefix(text)) for text in flow.source_prefixes]
    assert all(length == 128 for _, _, length in sources), "an intent comes from hosts"
    return Clause(
        index=0,
        sources=frozenset((network, value) for network, value, _ in sources),
        destinations=tuple(ranges),
        ports=flow.ports,
    )


class Expected(NamedTuple):
    host: Host | None
    """Where it is delivered; None: nowhere."""
    word: Word
    """Of the source's domain."""


class Composition:
    def __init__(self, world: World) -> None:
        self._says = {name: Say(controller.state) for name, controller in world.controllers.items()}
        self.hosts = {
            (host.network, address(text)): host
            for host in world.topology.hosts
            for interface in host.interfaces
            for text in interface.addresses
        }

    def of(self, sender: Host, packet: Packet) -> Expected:
        if packet.source not in sender.interfaces[0].addresses:
            return Expected(None, Word("", frozenset(), isolated=False))
        here = domain_of(packet.network)
        word = self._says[here].of(packet)
        host = self.hosts.get((word.to, address(packet.destination)))
        if host is not None and domain_of(word.to) != here:
            there = self._says[domain_of(word.to)].of(packet)
            assert there.to == word.to, f"{here} says {word}, {domain_of(word.to)} says {there} of {packet}"
        return Expected(host, word)


def network_of(name: str) -> str:
    return "/".join(name.split("/")[:2])


def domain_of(network: str) -> str:
    return network.split("/")[0]
