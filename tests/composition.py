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

from controller.fulfillment.aliases import NOBODYS, Views, moved, views
from controller.fulfillment.meaning import Clause, Endpoint, Meaning, Packet, Range, replies, requests
from controller.fulfillment.numbering import address, address_text, prefix
from controller.model.agreement import Alias, Flow
from controller.model.intent import Intent
from controller.model.inventory import Aliases, Inventory
from controller.model.stitch import IntentRecord, Stage, Stitch, expired
from controller.reconcile import State
from tests.simulator import World
from topologies.topology import Host


class Word(NamedTuple):
    """What one domain says of a packet."""

    to: Endpoint | None
    """The host where it may go; None: nowhere."""
    owners: frozenset[str]
    """Who may own it."""
    isolated: bool
    aliases: tuple[Alias, ...] = ()
    """How the network there knows that of the source."""

    def arriving(self, packet: Packet) -> Packet:
        """As the host there gets it."""
        assert self.to is not None
        source = address_text(moved(address(packet.source), self.aliases))
        return msgspec.structs.replace(packet, source=source, destination=address_text(self.to[1]))


class Say:
    """One domain's."""

    def __init__(self, state: State) -> None:
        in_force = [
            _active(state, intent_record)
            for intent_record in state.intent_records.values()
            if not expired(intent_record)
        ]
        self._meaning = Meaning(in_force, _with_agreed_aliases(state))
        self._granted = [
            (f"agreements/{stitch.plan.name}", clause)
            for stitch in state.stitches.values()
            if stitch.stage == Stage.ACTIVE and stitch.upstream is not None and stitch.plan.egress is None
            for clause in _granted(state, stitch)
        ]

    def of(self, packet: Packet) -> Word:
        source, destination = address(packet.source), address(packet.destination)
        decision = self._meaning.of(packet)
        words: dict[Endpoint, Word] = {}
        if decision.allowed:
            to = decision.to, address(decision.destination)
            aliases = _of_the_source(self._meaning.views_of(decision), decision.reply)
            words[to] = Word(to, frozenset({decision.owner}), isolated=False, aliases=aliases)
        for owner, clause in self._granted:
            for follows, reply in ((requests, False), (replies, True)):
                granted = follows(clause, packet.network, source, destination, packet)
                if granted and not self._meaning.separating((packet.network, source), granted, None):
                    aliases = _of_the_source(clause.views, reply)
                    word = words.get(granted, Word(granted, frozenset(), isolated=False, aliases=aliases))
                    assert word.aliases == aliases, f"{packet} of {owner}: {aliases}, and {word}"
                    words[granted] = word._replace(owners=word.owners | {owner})
        assert len(words) <= 1, f"{packet} means several hosts: {words}"
        return next(iter(words.values()), Word(None, frozenset(), isolated=decision.owner != ""))


def _of_the_source(views_: Views, reply: bool) -> tuple[Alias, ...]:
    return views_.destination if reply else views_.source


def _with_agreed_aliases(state: State) -> Inventory:
    """And with how the networks of others know ours, as these have said."""
    told = {
        f"{connection.destination_network} {connection.source_network}": Aliases(
            network=connection.destination_network, other=connection.source_network, pairs=agreement.source_aliases
        )
        for stitch in state.stitches.values()
        for connection in (stitch.plan.connection,)
        for agreement in (stitch.downstream.agreement if stitch.downstream is not None else None,)
        if agreement is not None and agreement.source_aliases and stitch.stage == Stage.ACTIVE
    }
    return msgspec.structs.replace(state.inventory, aliases=state.inventory.aliases | told)


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
            views(stitch),
        )
        for flow in stitch.upstream.agreement.terms.flows
    ]


def clause_of(flow: Flow, hosts: set[Endpoint] | None = None, known_as: Views = NOBODYS) -> Clause:
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
        views=known_as,
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
            return Expected(None, Word(None, frozenset(), isolated=False))
        here = domain_of(packet.network)
        word = self._says[here].of(packet)
        host = self.hosts.get(word.to) if word.to is not None else None
        if word.to is not None and host is not None and domain_of(word.to[0]) != here:
            there = self._says[domain_of(word.to[0])].of(packet)
            assert there.to == word.to, f"{here} says {word}, {domain_of(word.to[0])} says {there} of {packet}"
        return Expected(host, word)


def network_of(name: str) -> str:
    return "/".join(name.split("/")[:2])


def domain_of(network: str) -> str:
    return network.split("/")[0]
