"""No packet meets a number in two meanings: at every boundary of the batches that a change is made of, where it goes is
where the old state or the new one sends it, or nowhere. The prefixes are an adversary's, whose numbers collide."""

import itertools
import random
import zlib
from collections.abc import Iterator

import pytest

from controller.fulfillment.acl import ISOLATE_PRIORITY, PortClasses, Rule, port_classes, port_entries, used_ports
from controller.fulfillment.meaning import Packet
from controller.model.entry import Match, OwnedEntry, owned_entry
from controller.model.intent import Ports
from controller.southbound.codec import Behaviour, Key, Row, behaviour
from controller.southbound.difference import Operation, batches, change_of, difference, index, numbers_of, stages
from controller.southbound.renumbering import in_between
from dataplane.reasons import DropReason, L4Class
from tests.full_rules import at_once
from tests.plain_walk import Tables

GROUPS = 0xFFFF
CLASSES = {7: 1, 8: 2, 9: 2}
"""Policy classes and their VRFs: two share one, and so its groups."""


def colliding(chance: random.Random, count: int) -> list[str]:
    """Hosts whose groups would all have one number, or that one's next."""
    buckets: dict[int, list[str]] = {}
    while True:
        text = f"10.{chance.randrange(256)}.{chance.randrange(256)}.{chance.randrange(1, 255)}/32"
        bucket = buckets.setdefault(zlib.crc32(text.encode()) % GROUPS, [])
        if text not in bucket:
            bucket.append(text)
        if len(bucket) == count - 2:
            number = zlib.crc32(text.encode()) % GROUPS
            return bucket + buckets.get((number + 1) % GROUPS, [])[:2]


def rules(chance: random.Random, policy_class: int, sources: list[str], destinations: list[str]) -> tuple[Rule, ...]:
    """A network's default, what intents permit, each with a forwarding class of its own, and isolations; owners come
    and go."""
    inside = tuple(sorted(destinations))
    made = [
        Rule(
            policy_class=policy_class,
            source=None,
            destination=inside,
            default=True,
            forwarding_class=9000,
            priority=1,
            owner="networks/n",
        )
    ]
    for isolated in chance.sample((*sources, *destinations), chance.randrange(3)):
        host, leaving = (isolated,), isolated in sources
        made.append(
            Rule(
                policy_class=policy_class,
                source=host if leaving else None,
                destination=None if leaving else host,
                default=True,
                drop=DropReason.ISOLATED,
                priority=ISOLATE_PRIORITY,
                owner=f"intents/isolates-{isolated}",
            )
        )
    for owner in chance.sample(range(6), chance.randint(1, 4)):
        fixed = random.Random(owner * 1000 + chance.randrange(2))  # the same owner, in one of two versions
        ports = ((), (Ports(protocol="tcp", first=443, last=443),), (Ports(protocol="udp", first=50, last=60),))
        made.append(
            Rule(
                policy_class=policy_class,
                source=tuple(sorted(fixed.sample(sources, fixed.randint(1, 2)))),
                destination=tuple(sorted(fixed.sample(destinations, fixed.randint(1, 2)))),
                ports=fixed.choice(ports),
                forwarding_class=16 * owner + 1,
                priority=5000 + owner,
                owner=f"intents/{owner}",
            )
        )
    return tuple(made)


def rows(entries: dict[Key, OwnedEntry]) -> dict[Key, Row]:
    return {each: Row(key=each, behaviour=behaviour(entry)) for each, entry in entries.items()}


def boundaries(desired: dict[Key, OwnedEntry], present: dict[Key, OwnedEntry]) -> Iterator[dict[Key, OwnedEntry]]:
    """The state after each batch."""
    state = dict(present)
    known, there = numbers_of(rows(state).values()), rows(present)
    assert in_between(desired, there) is None or known.unsettled_by(map(change_of, difference(desired, there)))
    for batch in stages(desired, there, numbers=known):
        for update in batch:
            if update.operation is Operation.DELETE:
                del state[update.key]
            else:
                assert update.entry is not None
                state[update.key] = update.entry
        yield dict(state)


def packets(sources: list[str], destinations: list[str]) -> list[Packet]:
    return [
        Packet(
            network="shop/n",
            source=source.partition("/")[0],
            destination=destination.partition("/")[0],
            l4_class=kind,
            source_port=40000,
            destination_port=port,
        )
        for source in sources
        for destination in destinations
        for kind, port in ((L4Class.TCP_OPEN, 443), (L4Class.UDP, 55))
    ]


def decided(entries: dict[Key, OwnedEntry], policy_class: int, asked: list[Packet]) -> list[Behaviour]:
    at = Tables(entries.values())
    drop: Behaviour = ("drop", (("reason", int(DropReason.NOT_PERMITTED)),))
    return [
        behaviour(entry) if (entry := at.decide(CLASSES[policy_class], policy_class, packet)) is not None else drop
        for packet in asked
    ]


def strays(desired: dict[Key, OwnedEntry], present: dict[Key, OwnedEntry], asked: list[Packet]) -> int:
    """Packets that go where neither state sends them, over all boundaries."""
    count = 0
    for policy_class in CLASSES:
        old, new = decided(present, policy_class, asked), decided(desired, policy_class, asked)
        for state in boundaries(desired, present):
            now = decided(state, policy_class, asked)
            count += sum(c[0] != "drop" and c not in (a, b) for a, b, c in zip(old, new, now, strict=True))
    return count


def entrance(policy_class: int, vrf: int) -> OwnedEntry:
    match = (Match(field="ingress_port", value=policy_class), Match(field="vlan_id", value=0))
    params = (("vrf", vrf), ("policy_class", policy_class))
    return owned_entry(table="attachment", match=match, action="attach", params=params, owner="networks/n")


def compiled(chance: random.Random, sources: list[str], destinations: list[str]) -> dict[Key, OwnedEntry]:
    made: dict[int, list[Rule]] = {}
    for policy_class, vrf in CLASSES.items():
        made.setdefault(vrf, []).extend(rules(chance, policy_class, sources, destinations))
    everything = [rule for of_vrf in made.values() for rule in of_vrf]
    classes: PortClasses = port_classes(ports for rule in everything for ports in rule.ports)
    entries = [entrance(*item) for item in CLASSES.items()]
    entries += [entry for vrf, of_vrf in made.items() for entry in at_once(vrf, of_vrf, classes)]
    used = {use for rule in everything for use in used_ports(rule)}
    indexed, refused = index((*entries, *port_entries(used, classes, "nodes/n")))
    assert not refused
    return indexed


@pytest.mark.parametrize("seed", range(12))
def test_no_packet_goes_where_neither_the_old_nor_the_new_state_sends_it(seed: int) -> None:
    chance = random.Random(seed)
    sources, destinations = colliding(chance, 5), colliding(chance, 5)
    asked = packets(sources, destinations)
    present = compiled(chance, sources, destinations)
    for _ in range(12):
        desired = compiled(chance, sources, destinations)
        assert strays(desired, present, asked) == 0
        *_, last = boundaries(desired, present) if desired != present else (desired,)
        assert {each: behaviour(entry) for each, entry in last.items()} == {
            each: behaviour(entry) for each, entry in desired.items()
        }
        present = desired


def test_the_adversary_of_this_test_succeeds_where_numbers_do_not_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the test above would show nothing."""
    monkeypatch.setattr(f"{__name__}.stages", lambda desired, present, numbers: batches(difference(desired, present)))
    count = 0
    for seed in range(12):
        chance = random.Random(seed)
        sources, destinations = colliding(chance, 5), colliding(chance, 5)
        asked = packets(sources, destinations)
        states = [compiled(chance, sources, destinations) for _ in range(6)]
        count += sum(strays(b, a, asked) for a, b in itertools.pairwise(states))
    assert count > 0


@pytest.mark.parametrize("seed", range(4))
def test_numbers_that_follow_changes_are_those_of_all_entries(seed: int) -> None:
    chance = random.Random(seed)
    sources, destinations = colliding(chance, 5), colliding(chance, 5)
    present: dict[Key, OwnedEntry] = {}
    numbers = numbers_of(())
    for _ in range(12):
        desired = compiled(chance, sources, destinations)
        for update in difference(desired, rows(present)):
            numbers.change(*change_of(update))
        assert vars(numbers) == vars(numbers_of(rows(desired).values()))
        present = desired


def test_one_more_host_with_a_group_of_its_own_unsettles_no_number() -> None:
    def entries(hosts: int) -> dict[Key, OwnedEntry]:
        made = [
            Rule(
                policy_class=7,
                source=(f"10.0.{host // 200}.{host % 200 + 1}/32",),
                destination=("10.1.0.1/32",),
                forwarding_class=host + 1,
                priority=1,
                owner=f"intents/{host}",
            )
            for host in range(hosts)
        ]
        return index((entrance(7, 1), *at_once(1, made, PortClasses())))[0]

    settled = 0
    for hosts in range(100, 130):
        present, desired = rows(entries(hosts)), entries(hosts + 1)
        changes = [change_of(update) for update in difference(desired, present)]
        assert changes
        settled += not numbers_of(present.values()).unsettled_by(changes)
    assert settled >= 29, "but where a group's number is one that another has"
