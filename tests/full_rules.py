"""All rules of a VRF compiled at once: what controller/fulfillment/vrf_rules.py comes to, whatever changed before."""

import zlib
from collections.abc import Iterable, Sequence

from controller.fulfillment.acl import L4, MAX_STEPS, NoCapacity, PortClasses, Rule, flow_entry, group_entry, l4_fields
from controller.fulfillment.groups import MAX_GROUP, group_name, set_name
from controller.fulfillment.numbering import prefix
from controller.fulfillment.vrf_rules import MAX_LEASES, VrfRules, changed
from controller.model.entry import OwnedEntry

Prefixes = tuple[str, ...]
Groups = dict[Prefixes | None, tuple[int | None, ...]]


def compile_rules(
    vrf: int, rules: Sequence[Rule], classes: PortClasses, withheld: Sequence[Rule] = ()
) -> tuple[OwnedEntry, ...]:
    """Groups of a VRF and what its policy classes permit, not sorted. Rules that are `withheld` have groups alone.

    Where rules say something of the very same, the one with the highest priority is compiled: of equals that which
    holds longest, then that of the first owner by name, and of one owner's the last. Below one that ends the next is
    compiled too; of those with a lease three. Raises NoCapacity.
    """
    known = [*rules, *withheld]
    source_entries, sources = _groups(vrf, "source", [(rule.source, rule.owner) for rule in known])
    destination_entries, destinations = _groups(vrf, "destination", [(rule.destination, rule.owner) for rule in known])
    contents = [(rule, sources[rule.source], l4_fields(rule, classes)) for rule in known]
    steps = sum(len(groups) * len(destinations[rule.destination]) * len(fields) for rule, groups, fields in contents)
    if steps > MAX_STEPS:
        raise NoCapacity("flow_policy", steps)
    alike: dict[tuple[int, int | None, int | None, L4], list[Rule]] = {}
    for rule, groups, fields in contents[: len(rules)]:
        for source in groups:
            for destination in destinations[rule.destination]:
                for l4 in fields:
                    flow = rule.policy_class, source, destination, l4
                    alike.setdefault(flow, []).append(rule)
    made = [flow_entry(flow, rule) for flow, of_flow in alike.items() for rule in _standing(of_flow)]
    return (*source_entries, *destination_entries, *made)


def _standing(alike: list[Rule]) -> list[Rule]:
    best: dict[int, Rule] = {}
    for rule in alike:
        stronger = best.get(rule.priority)
        if stronger is None or _strength(rule) >= _strength(stronger):
            best[rule.priority] = rule
    standing: list[Rule] = []
    for _, rule in sorted(best.items(), reverse=True):
        if rule.leased and sum(other.leased for other in standing) == MAX_LEASES:
            continue
        standing.append(rule)
        if not rule.leased and rule.until_s is None:
            return standing
    return standing


def _strength(rule: Rule) -> tuple[float, tuple[int, ...]]:
    """The first by name is the strongest."""
    return float("inf") if rule.until_s is None else rule.until_s, tuple(-ord(letter) for letter in rule.owner)


def at_once(vrf: int, rules: Sequence[Rule], classes: PortClasses) -> tuple[OwnedEntry, ...]:
    """The same by the controller's own way."""
    new = {(place, "", 0): rule for place, rule in enumerate(rules)}
    return tuple(changed(vrf, VrfRules(), (), new, classes, classes).entries()[1])


def _groups(vrf: int, side: str, wanted: Iterable[tuple[Prefixes | None, str]]) -> tuple[list[OwnedEntry], Groups]:
    """Entries of a group table, and the groups of each set of prefixes (None of `None`: any)."""
    owners: dict[Prefixes, str] = {}
    for prefixes, owner in wanted:
        if prefixes is not None:
            owners[prefixes] = min(owner, owners.get(prefixes, owner))
    holders: dict[tuple[int, int], list[Prefixes]] = {}
    for prefixes in sorted(owners, key=set_name):
        for text in prefixes:
            holders.setdefault(prefix(text), []).append(prefixes)
    if len(holders) > MAX_GROUP:
        raise NoCapacity(f"{side}_group", len(holders))
    lengths = sorted({length for _, length in holders})
    atoms: dict[tuple[int, int], frozenset[Prefixes]] = {}
    for value, length in holders:
        around: set[Prefixes] = set()
        for shorter in lengths:
            if shorter <= length:
                around.update(holders.get((value >> (128 - shorter) << (128 - shorter), shorter), ()))
        atoms[value, length] = frozenset(around)
    names = {sets: group_name(map(set_name, sets)) for sets in set(atoms.values())}
    numbers = numbered(names.values())
    entries = [group_entry(vrf, side, at, numbers[names[sets]], owners[holders[at][0]]) for at, sets in atoms.items()]
    groups: Groups = {None: (None,)}
    for prefixes in owners:
        groups[prefixes] = tuple(numbers[name] for sets, name in sorted(names.items(), key=_name) if prefixes in sets)
    return entries, groups


def _name(item: tuple[frozenset[Prefixes], bytes]) -> bytes:
    return item[1]


def numbered(names: Iterable[bytes]) -> dict[bytes, int]:
    """In the order of names each has the number from its content, or the next that is free."""
    numbers: dict[bytes, int] = {}
    taken: set[int] = set()
    for name in sorted(set(names)):
        number = zlib.crc32(name) % MAX_GROUP
        while number in taken:
            number = (number + 1) % MAX_GROUP
        taken.add(number)
        numbers[name] = 1 + number
    return numbers
