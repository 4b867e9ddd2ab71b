"""A number rests between two meanings.

Groups of addresses and classes of ports have numbers, which entries of `flow_policy` match. Where a node has a number
in one meaning and shall have it in another, tables are changed one after the other: packets would meet the new entries
in the old meaning, or the other way about, and go where neither leads. So such a change is made in two: first to a
state in which numbers that nobody uses stand in for these, then to the one that is wanted. In each of the two no number
has two meanings.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import NamedTuple, TypeVar

import msgspec

from controller.model.entry import OwnedEntry
from controller.southbound.codec import Behaviour, Key, Row, behaviour

K = TypeVar("K", bound=Hashable)
T = TypeVar("T", bound=Hashable)


class _Space(NamedTuple):
    """Numbers that are compared with each other."""

    table: str
    """That gives them."""
    vrf: int
    """-1: of all VRFs."""


_GROUPS = ("source_group", "destination_group")
_SPACES = (*_GROUPS, "source_port_class", "destination_port_class")
"""Tables whose parameter is a number that `flow_policy` matches in a field of the same name."""
_LARGEST = 0xFFFF
_POLICY = "flow_policy"
_ENTRANCES = ("attachment", "local_sid")
"""Tables whose actions say of which VRF a policy class is."""


class _Use(NamedTuple):
    members: set[Key]
    """Entries that give the number."""
    policies: set[tuple[Key, Behaviour]]
    """That match it."""


def in_between(desired: Mapping[Key, OwnedEntry], present: Mapping[Key, Row]) -> dict[Key, OwnedEntry] | None:
    """The state to make first; None: `desired` can be made at once."""
    wanted = [(each, behaviour(entry)) for each, entry in desired.items()]
    vrfs = _vrfs(wanted)
    new = _uses(wanted, vrfs)
    there = [(each, row.behaviour) for each, row in present.items()]
    old = _uses(there, _vrfs(there))
    taken: dict[_Space, set[int]] = {}
    for space, number in (*new, *old):
        taken.setdefault(space, set()).add(number)
    instead: dict[tuple[_Space, int], int] = {}
    for (space, number), use in sorted(new.items()):
        before = old.get((space, number))
        if before is None or before.members == use.members or before.policies == use.policies:
            continue
        stand_in = next((candidate for candidate in range(1, _LARGEST + 1) if candidate not in taken[space]), None)
        if stand_in is not None:
            taken[space].add(stand_in)
            instead[space, number] = stand_in
    if not instead:
        return None
    renumbered = (_renumbered(each, entry, vrfs, instead) for each, entry in desired.items())
    return {(entry.table, entry.match, entry.priority): entry for entry in renumbered}


class Numbers:
    """The numbers that a node's entries give and match. It says of most changes that they give no number another
    meaning, without going through all entries."""

    def __init__(self, entries: Iterable[tuple[Key, Behaviour]]) -> None:
        self._given: Counter[tuple[str, int, int]] = Counter()
        """Entries that give a number, by table, VRF (-1: of all) and number."""
        self._matched: dict[tuple[str, int], Counter[int]] = {}
        """Policy classes of the entries that match a number, by field and number."""
        self._by_class: dict[int, Counter[tuple[str, int]]] = {}
        """The same the other way about."""
        self._entrances: Counter[tuple[int, int]] = Counter()
        """Ways in, by policy class and VRF."""
        for each, does in entries:
            self._count(each, does, 1)

    def change(self, each: Key, before: Behaviour | None, now: Behaviour | None) -> None:
        """None: there is no such entry."""
        for does, count in ((before, -1), (now, 1)):
            if does is not None:
                self._count(each, does, count)

    def unsettled_by(self, changes: Iterable[tuple[Key, Behaviour | None, Behaviour | None]]) -> bool:
        """Whether some number in use may mean something else after these (as in `change`); False: surely none."""
        given: set[tuple[str, int, int]] = set()
        matched: set[tuple[str, int]] = set()
        for each, *both in changes:
            for does in both:
                if does is None:
                    continue
                given |= {*_given_by(each, does)}
                matched |= {*_matched_by(each)}
                for policy_class, _ in _let_in_by(each, does):
                    matched |= self._by_class.get(policy_class, {}).keys()
        return any((table, number) in matched and self._is_used(table, vrf, number) for table, vrf, number in given)

    def _is_used(self, table: str, vrf: int, number: int) -> bool:
        classes = self._matched.get((table, number), ())
        return self._given[table, vrf, number] > 0 or any(
            vrf == -1 or self._entrances[policy_class, vrf] > 0 for policy_class in classes
        )

    def _count(self, each: Key, does: Behaviour, count: int) -> None:
        for number in _given_by(each, does):
            _add(self._given, number, count)
        for number_matched in _matched_by(each):
            policy_class = each[1][0].value
            _add_at(self._matched, number_matched, policy_class, count)
            _add_at(self._by_class, policy_class, number_matched, count)
        for let_in in _let_in_by(each, does):
            _add(self._entrances, let_in, count)


def _add(counts: Counter[T], what: T, count: int) -> None:
    counts[what] += count
    if not counts[what]:
        del counts[what]


def _add_at(counts: dict[K, Counter[T]], key: K, what: T, count: int) -> None:
    _add(counts.setdefault(key, Counter()), what, count)
    if not counts[key]:
        del counts[key]


def _given_by(each: Key, does: Behaviour) -> Iterator[tuple[str, int, int]]:
    table, match, _ = each
    if table in _SPACES:
        ((_, number),) = does[1]
        yield table, match[0].value if table in _GROUPS else -1, number


def _matched_by(each: Key) -> Iterator[tuple[str, int]]:
    table, match, _ = each
    if table == _POLICY:
        yield from ((field.field, field.value) for field in match if field.field in _SPACES)


def _let_in_by(each: Key, does: Behaviour) -> Iterator[tuple[int, int]]:
    """Policy class and its VRF."""
    params = dict(does[1]) if each[0] in _ENTRANCES else {}
    if "policy_class" in params:
        yield params["policy_class"], params["vrf"]


def _vrfs(entries: Iterable[tuple[Key, Behaviour]]) -> dict[int, int]:
    """Of each policy class that packets can have, the VRF."""
    params = (dict(does[1]) for (table, _, _), does in entries if table in _ENTRANCES)
    return {param["policy_class"]: param["vrf"] for param in params if "policy_class" in param}


def _uses(entries: Iterable[tuple[Key, Behaviour]], vrfs: Mapping[int, int]) -> dict[tuple[_Space, int], _Use]:
    uses: dict[tuple[_Space, int], _Use] = {}
    for each, does in entries:
        table, match, _ = each
        if table in _SPACES:
            ((_, number),) = does[1]
            uses.setdefault((_space(table, each, vrfs), number), _Use(set(), set())).members.add(each)
        elif table == _POLICY and match[0].value in vrfs:
            for field in match:
                if field.field in _SPACES:
                    use = uses.setdefault((_space(field.field, each, vrfs), field.value), _Use(set(), set()))
                    use.policies.add((each, does))
    return uses


def _space(table: str, each: Key, vrfs: Mapping[int, int]) -> _Space:
    """`each`: of that table, or of `flow_policy`."""
    if table not in _GROUPS:
        return _Space(table, -1)
    first = each[1][0].value
    return _Space(table, vrfs[first] if each[0] == _POLICY else first)


def _renumbered(
    each: Key, entry: OwnedEntry, vrfs: Mapping[int, int], instead: Mapping[tuple[_Space, int], int]
) -> OwnedEntry:
    if entry.table in _SPACES:
        ((name, number),) = entry.params
        return entry.replaced(params=((name, instead.get((_space(entry.table, each, vrfs), number), number)),))
    if entry.table == _POLICY and entry.match[0].value in vrfs:
        fields = [
            msgspec.structs.replace(
                field, value=instead.get((_space(field.field, each, vrfs), field.value), field.value)
            )
            if field.field in _SPACES
            else field
            for field in entry.match
        ]
        return entry.replaced(match=tuple(fields))
    return entry
