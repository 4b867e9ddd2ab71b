"""Two meanings agree: what the compiled entries do with a packet equals `permitted`, on generated intents and packets.

The bulk is evaluated by plain table semantics (longest prefix, highest priority), from the attachment to delivery, and
what is delivered is answered; a sample goes as frames through the reference pipeline, hop by hop over every link.
"""

import itertools
import random
from collections import Counter
from collections.abc import Iterator, Mapping

import msgspec
import pytest

from controller.fulfillment import numbering
from controller.fulfillment.aliases import holding, moved
from controller.fulfillment.conflict import Kind, against, misfit
from controller.fulfillment.conflict_index import Claim, Index, Places
from controller.fulfillment.meaning import Decision, Meaning, Packet, resolve
from controller.fulfillment.rule_engine import rule_engine
from controller.fulfillment.translate import translate
from controller.model.entry import OwnedEntry
from controller.model.intent import Intent
from controller.model.inventory import Inventory
from controller.model.requirements import Requirements
from dataplane.reasons import DropReason, L4Class
from tests import generated_intents as generated
from tests.compiled_intents import Frames, compiled, questions
from tests.plain_walk import Tables

CONFIGURATIONS, PACKETS = 100, 2000
FRAMES = 50
"""Of each configuration."""


def walk(
    nodes: Mapping[str, Tables], where: tuple[str, int], packet: Packet, now_s: float = 0
) -> tuple[bool, OwnedEntry | None, str, Packet]:
    """Whether every node on the way permits it, the entry that first decided, where it would leave, and as what."""
    node, port = where
    at = nodes[node]
    if at.look_up("source_guard", ingress_port=port, source=numbering.address(packet.source)) is None:
        return False, None, "not admitted", packet
    attachment = at.look_up("attachment", ingress_port=port, vlan_id=0)
    vrf, policy_class = (value for _, value in attachment.params) if attachment is not None else (0, 0)
    first: OwnedEntry | None = None
    for _ in range(4):
        entry = at.decide(vrf, policy_class, packet, now_s)
        first = first or entry
        if entry is None or not entry.action.startswith("permit"):
            return False, first, "dropped", packet
        if at.has_ended(entry, now_s):
            return False, first, "lease expired", packet
        steer = at.look_up("steer", forwarding_class=entry.params[0][1])
        assert steer is not None, entry
        packet = at.sent(steer, packet)
        if steer.action.endswith("deliver"):
            vrf = steer.params[0][1]
            route = at.look_up("route", vrf=vrf, destination=numbering.address(packet.destination))
            return True, first, f"{node} {route.params[0][1]}" if route is not None else "no route", packet
        node, vrf, policy_class = _end(nodes, dict(steer.params)["service_sid"])
        at = nodes[node]
    raise AssertionError("in circles")


def _end(nodes: Mapping[str, Tables], service_sid: int) -> tuple[str, int, int]:
    """Node, VRF and policy class of a service SID."""
    local_sids = {name: at.look_up("local_sid", ingress_class=1, destination=service_sid) for name, at in nodes.items()}
    ends = [
        (name, *(value for _, value in local.params[:2])) for name, local in local_sids.items() if local is not None
    ]
    assert len(ends) == 1, f"{service_sid:x} is a SID of {ends}"
    (end,) = ends
    return end


def agreed(chance: random.Random, known: Inventory) -> tuple[list[Intent], Inventory]:
    """Intents that can be in force together: by the conflict engine, so that what it misses shows up here. With what
    they take of the pool."""
    places, index = Places(known), Index()
    intents: list[Intent] = []
    for number in range(chance.randint(1, 8)):
        names = tuple(other.name for other in intents)
        intent = generated.intent(chance, f"i{number}", known, names)
        required = translate(intent, rule_engine(()), known)
        if not isinstance(required, Requirements) or required.unmet:
            continue
        if (held := holding(known, required.connections)) is not known:
            known, places, index = held, Places(held), Index()
            for serial, earlier in enumerate(intents):
                index.add(places.claim(earlier, serial=serial, start_s=0, end_s=1))
        claim: Claim = places.claim(intent, serial=number, start_s=0, end_s=1)
        conflicts = against(claim, index, places)
        if misfit(claim, places) or any(conflict.kind == Kind.CONTRADICTION for conflict in conflicts):
            continue
        if any(
            other.tenant != intent.tenant for other in intents if other.name in (*intent.overrides, *intent.suspends)
        ):
            continue
        index.add(claim)
        intents.append(intent)
    return intents, known


def packets(chance: random.Random, known: Inventory, count: int) -> Iterator[tuple[tuple[str, int], Packet]]:
    """From an attachment, of any source in the inventory; half of them between hosts."""
    there, contents = generated.addresses(known), generated.contents()
    for _ in range(count):
        network = known.networks[chance.choice(sorted(known.networks))]
        host = chance.choice(network.attachments)
        source = chance.choice(host.addresses) if chance.random() < 0.95 else chance.choice(there)
        alike = [text for text in there if (":" in text) == (":" in source) and text != source] or [source]
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


def agree(
    packet: Packet, decision: Decision, allowed: bool, first: OwnedEntry | None, where: str, known: Inventory
) -> bool:
    """The same answer, from the same intent, and at the right host."""
    if decision.allowed != allowed:
        return False
    if not allowed:
        isolated = first is not None and dict(first.params).get("reason") == DropReason.ISOLATED
        return isolated == (decision.owner != "")
    ends = {
        f"{host.node} {numbering.ATTACHED_HOP + host.port}"
        for host in known.networks[decision.to].attachments
        if decision.destination in host.addresses
    }
    return first is not None and first.owner == decision.owner and where in ends


def answer(packet: Packet, decision: Decision) -> Packet:
    """What the host that `packet` came to says."""
    kinds = {L4Class.TCP_OPEN: L4Class.TCP, L4Class.ECHO_REQUEST: L4Class.ECHO_REPLY}
    return Packet(
        network=decision.to,
        source=decision.destination,
        destination=decision.source,
        l4_class=kinds.get(packet.l4_class, packet.l4_class),
        source_port=packet.destination_port,
        destination_port=packet.source_port,
    )


def as_arrives(packet: Packet, decision: Decision) -> Packet:
    if not decision.allowed:
        return packet
    return msgspec.structs.replace(packet, source=decision.source, destination=decision.destination)


def meant(meaning: Meaning, known: Inventory, where: tuple[str, int], packet: Packet) -> Decision:
    theirs = any(
        packet.source in host.addresses
        for host in known.networks[packet.network].attachments
        if (host.node, host.port) == where
    )
    return meaning.of(packet) if theirs else Decision(allowed=False, because="source guard")


@pytest.mark.parametrize("batch", range(4))
def test_entries_do_what_intents_permit(batch: int) -> None:
    carried = isolated = between_edges = answered = translated = 0
    for seed in range(batch * CONFIGURATIONS // 4, (batch + 1) * CONFIGURATIONS // 4):
        chance = random.Random(seed)
        intents, known = agreed(chance, generated.inventory(chance, far=False, pool=seed % 4 > 0))
        nodes = {name: Tables(entries) for name, entries in compiled(intents, known).items()}
        meaning = Meaning(intents, known)
        for sent_from, sent in packets(chance, known, PACKETS):
            where, packet = sent_from, sent
            for is_answer in (False, True):
                decision = meant(meaning, known, where, packet)
                allowed, first, end, arrived = walk(nodes, where, packet)
                told = f"seed {seed}: " + "\n".join(map(str, (packet, decision, allowed, first, end, *intents)))
                assert agree(packet, decision, allowed, first, end, known), told
                if allowed:
                    assert (arrived.source, arrived.destination) == (decision.source, decision.destination), told
                    translated += arrived != packet
                carried += decision.owner.startswith("intents/") and allowed
                isolated += decision.owner.startswith("intents/") and not allowed
                answered += is_answer
                if not allowed:
                    break
                node, hop = end.split()
                between_edges += decision.owner.startswith("networks/") and node != where[0]
                where, packet = (node, int(hop) - numbering.ATTACHED_HOP), answer(packet, decision)
    print(
        f"{carried} carried, {isolated} isolated, {between_edges} between edges, {answered} answers, "
        f"{translated} translated"
    )
    assert min(carried, isolated, between_edges, answered) > 100 and translated > 50


def neighbors(intents: list[Intent], known: Inventory) -> set[tuple[str, str, int]]:
    """(node, network, address): whom a node may answer for to hosts of a network: there are some that an intent leads
    to the address, or it is in the network."""
    nodes = {
        (name, numbering.address(text)): attachment.node
        for name, network in known.networks.items()
        for attachment in network.attachments
        for text in attachment.addresses
    }
    asking = {(host.node, name, attachment) for name, attachment in nodes for host in known.networks[name].attachments}
    for intent in intents:
        for clause in resolve(intent, known).clauses:
            for source, (to, destination, _) in itertools.product(clause.sources, clause.destinations):
                asking.add((nodes[source], source[0], moved(destination, clause.views.destination)))
                asking.add((nodes[to, destination], to, moved(source[1], clause.views.source)))
    return asking


def test_frames_find_the_way_that_the_meaning_says() -> None:
    """Candidate paths by turns: the best, the other one. What is on their link hosts ask for first."""
    sent, between_edges, led_to, unanswered, translated, reasons = 0, 0, 0, 0, 0, Counter[str]()
    for seed in range(CONFIGURATIONS):
        chance = random.Random(seed)
        intents, known = agreed(chance, generated.inventory(chance, far=False, pool=seed % 4 > 1))
        meaning, frames = Meaning(intents, known), Frames(compiled(intents, known), known, 1 + seed % 2)
        may_be_told = neighbors(intents, known)
        drawn = [(*sent_by, meant(meaning, known, *sent_by)) for sent_by in packets(chance, known, PACKETS // 4)]
        carried = [decided for decided in drawn if decided[2].allowed and decided[2].to != decided[1].network]
        for where, packet, decision in (*drawn[:FRAMES], *carried[:FRAMES]):
            asked = frames.is_on_link(packet)
            answered = asked and frames.is_answered(where, packet)
            if decision.reply or packet.l4_class == L4Class.ICMP_ERROR:  # who may ask needs nobody who has asked
                arriving = as_arrives(packet, decision)
                asked_by = [msgspec.structs.replace(each, network=decision.to) for each in questions(packet, arriving)]
                if decision.reply and not all(meaning.of(each).allowed for each in asked_by[:1]):
                    continue  # who would have asked is suspended
                frames.ask_for(packet, arriving=arriving)
            outcome = frames.send(where, packet)
            context = f"seed {seed}: {packet} {decision} {outcome.delivered} {outcome.path} {outcome.reason!r}"
            sent += 1
            unanswered += asked and not answered
            if answered:
                assert (where[0], packet.network, numbering.address(packet.destination)) in may_be_told, context
            if decision.allowed:
                ends = {
                    host.name
                    for host in known.networks[decision.to].attachments
                    if decision.destination in host.addresses
                }
                assert outcome.delivered in ends, context
                translated += (decision.source, decision.destination) != (packet.source, packet.destination)
                assert answered or not asked, context
                between_edges += decision.owner.startswith("networks/") and outcome.node != where[0]
                led_to += asked and decision.to != packet.network and outcome.node != where[0]
            else:
                assert not outcome.delivered and outcome.node == where[0], context
                assert (outcome.reason == DropReason.ISOLATED) == (decision.owner != ""), context
                reasons[outcome.reason.name] += 1
    print(
        f"{sent} frames, {between_edges} of a network between edges, {led_to} asked for by who is led to another; "
        f"{unanswered} questions unanswered, {translated} translated; {dict(reasons)}"
    )
    assert sent >= 2000 and min(between_edges, led_to, unanswered, translated) > 20
    assert set(reasons) == {"ISOLATED", "NOT_PERMITTED", "SOURCE_NOT_ADMITTED", "UNCLASSIFIED"}
