"""Conflicts: equal with brute force over all packets, each shown packet replayed; the index finds what pairs find."""

import itertools
import random

import pytest
from msgspec.structs import replace

from controller.fulfillment.conflict import Conflict, Kind, against, between, misfit, terms
from controller.fulfillment.conflict_index import Index, Places, Users
from controller.fulfillment.meaning import Decision, Meaning, Packet, is_suspended
from controller.model.intent import Intent, Ports
from controller.model.inventory import Inventory
from tests import generated_intents as generated

INVENTORIES, INTENTS = 10, 66  # 10 * 66 * 65 / 2 = 21,450 pairs
Carried = dict[Packet, Decision]


def fitting(chance: random.Random, name: str, known: Inventory, others: tuple[str, ...]) -> Intent:
    """One that is not refused by itself."""
    while True:
        made = generated.intent(chance, name, known, others)
        claim = Places(known).claim(made, serial=0, start_s=0, end_s=1)
        selected = claim.isolated is None or claim.isolated.addresses
        if selected and all(path.source.addresses for path in claim.paths) and not misfit(claim, Places(known)):
            return made


def carried(intent: Intent, known: Inventory, packets: list[Packet]) -> Carried:
    """What the intent alone carries."""
    meaning = Meaning([intent], known)
    decisions = ((packet, meaning.of(packet)) for packet in packets)
    return {
        packet: decision
        for packet, decision in decisions
        if decision.allowed and decision.owner == f"intents/{intent.name}"
    }


def isolates(intent: Intent, known: Inventory, packets: list[Packet]) -> set[Packet]:
    meaning = Meaning([intent], known)
    return {packet for packet in packets if meaning.of(packet).owner == f"intents/{intent.name}"}


class Said:
    """What one intent alone says of each packet."""

    def __init__(self, intent: Intent, known: Inventory, packets: list[Packet]) -> None:
        self.carried = carried(intent, known, packets)
        self.requests = {(packet, decision.to) for packet, decision in self.carried.items() if not decision.reply}
        self.leads = {(packet.network, packet.destination, decision.to) for packet, decision in self.carried.items()}
        nowhere = [packet for packet in packets if packet.destination in generated.NOWHERE]
        self.cut = isolates(intent, known, nowhere) if intent.isolate is not None else set()


def brute_force(mine_of: Intent, other: Intent, known: Inventory, said: dict[str, Said]) -> set[Kind]:
    """By the packets: what both say of each."""
    mine, theirs = said[mine_of.name], said[other.name]
    ends = {(network, address): to for network, address, to in mine.leads}
    if any(ends.get((network, address), to) != to for network, address, to in theirs.leads):
        return {Kind.CONTRADICTION}
    kinds: set[Kind] = set()
    for isolating, connecting in ((other, mine_of), (mine_of, other)):
        if isolating.isolate is not None and not is_suspended(connecting, isolating):
            together = Meaning([replace(isolating, allow=()), connecting], known)
            if any(not together.of(packet).allowed for packet in said[connecting.name].carried):
                kinds.add(Kind.CONTRADICTION)
    if not mine.requests.isdisjoint(theirs.requests):
        kinds.add(Kind.REDUNDANCY if terms(mine_of) == terms(other) else Kind.SHADOWING)
    if not mine.cut.isdisjoint(theirs.cut):
        kinds.add(Kind.REDUNDANCY)
    return kinds


def check_packet(conflict: Conflict, intent: Intent, other: Intent, known: Inventory, *, contradicting: bool) -> None:
    """The packet that is shown shows it."""
    named = {intent.name: intent, other.name: other}
    first, second = (named[name] for name in conflict.intents)
    alone = [Meaning([each], known).of(conflict.packet) for each in (first, second)]
    together = Meaning([intent, other], known).of(conflict.packet)
    match conflict.kind:
        case Kind.CONTRADICTION if conflict.clauses[0] == "isolate":
            assert alone[1].owner == f"intents/{second.name}" and alone[1].allowed, conflict
            together = Meaning([replace(first, allow=()), second], known).of(conflict.packet)
            assert (together.allowed, together.owner) == (False, f"intents/{first.name}"), (
                f"{conflict} {together}\n{first}\n{second}"
            )
        case Kind.CONTRADICTION:
            assert alone[0].allowed and alone[0].owner == f"intents/{first.name}", conflict
        case _ if conflict.clauses[0] == "isolate":
            assert [decision.owner for decision in alone] == [f"intents/{first.name}", f"intents/{second.name}"], (
                conflict
            )
            assert not any(decision.allowed for decision in alone), conflict
        case _:
            assert [decision.owner for decision in alone] == [f"intents/{first.name}", f"intents/{second.name}"], (
                conflict
            )
            assert all(decision.allowed and not decision.reply for decision in alone), conflict
            if not contradicting:
                assert (together.allowed, together.owner) == (True, f"intents/{first.name}"), conflict


@pytest.mark.parametrize("seed", range(INVENTORIES))
def test_set_reasoning_equals_brute_force(seed: int) -> None:
    chance = random.Random(seed)
    known = generated.inventory(chance)
    names = tuple(f"i{index}" for index in range(INTENTS))
    intents = [fitting(chance, name, known, tuple(chance.sample(names, 6))) for name in names]
    packets = generated.universe(known)
    said = {intent.name: Said(intent, known, packets) for intent in intents}
    places = Places(known)
    claims = [places.claim(intent, serial=index, start_s=0, end_s=1) for index, intent in enumerate(intents)]
    index = Index()
    seen: dict[Kind, int] = dict.fromkeys(Kind, 0)
    found_by_pairs: dict[str, list[str]] = {name: [] for name in names}
    for a, b in itertools.combinations(claims, 2):
        conflicts = between(a, b, places)
        expected = brute_force(a.intent, b.intent, known, said)
        assert {conflict.kind for conflict in conflicts} == expected, (
            f"{a.intent}\n{b.intent}\n{[*map(str, conflicts)]}"
        )
        for conflict in conflicts:
            seen[conflict.kind] += 1
            check_packet(conflict, a.intent, b.intent, known, contradicting=Kind.CONTRADICTION in expected)
            found_by_pairs[b.intent.name].append(str(conflict))
    assert all(count >= 10 for count in seen.values()), seen
    for claim in claims:  # one after the other, as they are applied
        assert sorted(map(str, against(claim, index, places))) == sorted(found_by_pairs[claim.intent.name])
        index.add(claim)
    for claim in chance.sample(claims, len(claims)):
        index.drop(claim.intent.name)
    assert not index.touching(claims[0]) and not index.claims


@pytest.mark.parametrize("seed", range(20))
def test_whoever_carries_the_same_ports_is_found_among_few_and_among_many(seed: int) -> None:
    rng = random.Random(seed)
    users, there = Users(), []
    for step in range(200):
        if there and rng.random() < (0.3 if step < 100 else 0.7):
            name, ports = there.pop(rng.randrange(len(there)))
            users.drop(name, ports)
        else:
            first = rng.randrange(40)
            ports = (
                Ports(protocol=rng.choice(("tcp", "udp")), first=first, last=first + rng.randrange(8)),
                *([Ports(protocol="icmp")] if rng.random() < 0.2 else []),
            )
            name = f"i{rng.randrange(30)}"
            there.append((name, ports))
            users.add(name, ports)
        asked = Ports(protocol="tcp", first=rng.randrange(40), last=48)
        carrying = {
            name
            for name, carried in there
            for each in carried
            if each.protocol == "tcp" and each.first <= asked.last and asked.first <= each.last
        }
        assert users.carrying((asked,)) == carrying
        assert users.names.keys() == {name for name, _ in there}
