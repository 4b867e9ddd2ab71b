"""Rules that come and go, one change after the other, against all of them compiled at once."""

import itertools
import random
import zlib

import immutables
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.fulfillment.acl import NoCapacity, PortClasses, Rule, port_classes
from controller.fulfillment.groups import MAX_GROUP, Numbers, Rank
from controller.fulfillment.vrf_rules import VrfRules, changed
from controller.model.entry import OwnedEntry
from controller.model.intent import Ports
from dataplane.reasons import DropReason
from tests.full_rules import compile_rules, numbered

VRF = 9
PREFIXES = ["10.0.0.1/32", "10.0.0.2/32", "10.0.1.1/32", "10.0.0.0/24", "10.0.0.0/16", "0.0.0.0/0", "2001:db8::/32"]
SETS = st.lists(st.sampled_from(PREFIXES), min_size=1, max_size=3, unique=True).map(lambda some: tuple(sorted(some)))
PORTS = st.sampled_from(
    [
        Ports(protocol="icmp"),
        Ports(protocol="tcp", first=443, last=443),
        Ports(protocol="tcp", first=400, last=500),
        Ports(protocol="udp", first=53, last=53),
        Ports(protocol="tcp"),
    ]
)
RULES = st.builds(
    Rule,
    source=st.none() | SETS,
    destination=st.none() | SETS,
    ports=st.lists(PORTS, max_size=2).map(tuple),
    reply=st.booleans(),
    default=st.booleans(),
    policy_class=st.sampled_from([7, 8]),
    forwarding_class=st.integers(1, 3),
    leased=st.booleans(),
    drop=st.none() | st.just(DropReason.ISOLATED),
    until_s=st.none() | st.integers(0, 2),
    priority=st.integers(1, 6),
    owner=st.sampled_from(["intents/a", "intents/b", "networks/n"]),
)
RANKS = st.tuples(st.integers(0, 4), st.just("plan"), st.integers(0, 2))
CHANGES = st.lists(
    st.tuples(st.dictionaries(RANKS, RULES, max_size=4), st.sets(RANKS, max_size=4), st.sets(RANKS, max_size=3)),
    min_size=1,
    max_size=8,
)


@given(CHANGES)
@settings(max_examples=400, deadline=None)
def test_what_changes_one_after_the_other_comes_to_the_same_as_all_at_once(
    changes: list[tuple[dict[Rank, Rule], set[Rank], set[Rank]]],
) -> None:
    vrf_rules, classes = VrfRules(), PortClasses()
    there: dict[Rank, Rule] = {}
    entries: list[OwnedEntry] = []
    withheld: set[Rank] = set()
    for new, gone, move in changes:
        gone = {rank for rank in gone if rank in there and rank not in new}
        there = {**{rank: rule for rank, rule in there.items() if rank not in gone}, **new}
        classes_before = classes
        classes = port_classes(ports for rule in there.values() for ports in rule.ports)
        change = changed(VRF, vrf_rules, gone, new, classes_before, classes)
        withheld_before, withheld = withheld, withheld ^ move
        entries_gone, entries_new = change.entries(withheld_before, withheld, move)
        for entry in entries_gone:
            entries.remove(entry)
        entries += entries_new
        vrf_rules = change.now
        in_force = [there[rank] for rank in sorted(there) if rank not in withheld]
        wanted = compile_rules(VRF, in_force, classes, [there[rank] for rank in sorted(there) if rank in withheld])
        assert sorted(entries, key=repr) == sorted(wanted, key=repr)
    empty = changed(VRF, vrf_rules, there, {}, classes, PortClasses())
    entries_gone, entries_new = empty.entries(withheld, withheld)
    assert empty.now == VrfRules() and not entries_new
    assert sorted(entries_gone, key=repr) == sorted(entries, key=repr)


def test_one_rule_more_between_groups_that_are_there_changes_only_its_own_entries() -> None:
    def rule(source: int, destination: int) -> Rule:
        ends = (f"10.0.0.{source}/32",), (f"10.0.1.{destination}/32",)
        return Rule(policy_class=7, source=ends[0], destination=ends[1], priority=1, owner="intents/a")

    rules = {(place, "", 0): rule(*ends) for place, ends in enumerate(itertools.product(range(20), range(20)))}
    last, (rank, one_more) = dict(list(rules.items())[:-1]), list(rules.items())[-1]
    before = changed(VRF, VrfRules(), (), last, PortClasses(), PortClasses()).now
    change = changed(VRF, before, (), {rank: one_more}, PortClasses(), PortClasses())
    gone, new = change.entries()
    assert not gone and [entry.table for entry in new] == ["flow_policy"]
    back = changed(VRF, change.now, [rank], {}, PortClasses(), PortClasses())
    assert back.now == before and back.entries() == (new, [])


def test_a_change_that_has_no_room_leaves_what_was_before() -> None:
    sets = [tuple(f"10.0.{at >> 8}.{at & 255}/32" for at in range(1 << 10) if at >> bit & 1) for bit in range(10)]
    rules = {
        (place, "", 0): Rule(policy_class=1, source=prefixes, destination=prefixes, priority=1, owner="intents/x")
        for place, prefixes in enumerate(sets)
    }
    before = VrfRules()
    with pytest.raises(NoCapacity) as caught:
        changed(VRF, before, (), rules, PortClasses(), PortClasses())
    assert caught.value.table == "flow_policy" and caught.value.needed == 10 * (1 << 9) ** 2
    assert before == VrfRules()


def _crowded() -> list[bytes]:
    """Names of which many want the same numbers: the first ones, and the last."""
    names = (number.to_bytes(4, "big") for number in range(1 << 20))
    near = (name for name in names if (zlib.crc32(name) + 4) % MAX_GROUP < 8)
    return list(itertools.islice(near, 14))


CROWDED = _crowded()


@pytest.mark.parametrize("seed", range(40))
def test_numbers_follow_from_what_there_is_and_not_from_what_came_first(seed: int) -> None:
    chance = random.Random(seed)
    numbers = Numbers(immutables.Map(), immutables.Map())
    there: set[bytes] = set()
    for _ in range(60):
        name = chance.choice(CROWDED)
        if name in there:
            numbers.release(name)
            there.discard(name)
        else:
            numbers.take(name)
            there.add(name)
        assert dict(numbers.numbers.finish()) == numbered(there)
        assert {name: number for number, name in numbers.places.finish().items()} == numbered(there)
        numbers = Numbers(immutables.Map(numbered(there)), immutables.Map({n: k for k, n in numbered(there).items()}))
