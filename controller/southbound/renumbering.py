"""A number rests between two meanings.

Groups of addresses and classes of ports have numbers, which entries of `flow_policy` match. Where a node has a number
in one meaning and shall have it in another, tables are changed one after the other: packets would meet the new entries
in the old meaning, or the other way about, and go where neither leads. So such a change is made in two: first to a
state in which numbers that nobody uses stand in for these, then to the one that is wanted. In each of the two no number
has two meanings.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from controller.model.entry import Entry
from controller.southbound.codec import Behaviour, Key, Row, behaviour


class _Space(NamedTuple):
    """Numbers that are compared with each other."""

    table: str
    """That gives them."""
    context: int
    """-1: of all contexts."""


class _Numbers(NamedTuple):
    largest: int
    by_context: bool


_SPACES = {
    "source_group": _Numbers(0x7FFF, True),
    "destination_group": _Numbers(0x7FFF, True),
    "source_port_class": _Numbers(0xFF, False),
    "destination_port_class": _Numbers(0xFF, False),
}
"""Tables whose parameter is a number that `flow_policy` matches in a field of the same name."""
_POLICY = "flow_policy"
_ATTACHED = 0x8000
"""A bit of groups that entries match by itself: who stands in for a number has it as the number does."""


class _Use(NamedTuple):
    members: set[Key]
    """Entries that give the number."""
    policies: set[tuple[Key, Behaviour]]
    """That match it."""


def in_between(desired: Mapping[Key, Entry], present: Mapping[Key, Row]) -> dict[Key, Entry] | None:
    """The state to make first; None: `desired` can be made at once."""
    new = _uses((each, behaviour(entry)) for each, entry in desired.items())
    old = _uses((each, row.behaviour) for each, row in present.items())
    taken: dict[_Space, set[int]] = {}
    for space, number in (*new, *old):
        taken.setdefault(space, set()).add(number)
    instead: dict[tuple[_Space, int], int] = {}
    for (space, number), use in sorted(new.items()):
        before = old.get((space, number))
        if before is None or before.members == use.members or before.policies == use.policies:
            continue
        kind = number & ~_SPACES[space.table].largest
        free = (kind + one for one in range(1, _SPACES[space.table].largest + 1) if kind + one not in taken[space])
        stand_in = next(free, None)
        if stand_in is not None:
            taken[space].add(stand_in)
            instead[space, number] = stand_in
    if not instead:
        return None
    renumbered = (_renumbered(each, entry, instead) for each, entry in desired.items())
    return {(entry.table, entry.match, entry.priority): entry for entry in renumbered}


def concerns(tables: Iterable[str]) -> bool:
    """Whether a change of these can give a number another meaning."""
    return not _SPACES.keys().isdisjoint(tables)


def _uses(entries: Iterable[tuple[Key, Behaviour]]) -> dict[tuple[_Space, int], _Use]:
    uses: dict[tuple[_Space, int], _Use] = {}
    for each, does in entries:
        table, match, _ = each
        if table in _SPACES:
            ((_, number),) = does[1]
            uses.setdefault((_space(table, each), number), _Use(set(), set())).members.add(each)
        elif table == _POLICY:
            for field in match:
                if field.field in _SPACES and field.mask != _ATTACHED:
                    use = uses.setdefault((_space(field.field, each), field.value), _Use(set(), set()))
                    use.policies.add((each, does))
    return uses


def _space(table: str, each: Key) -> _Space:
    return _Space(table, each[1][0].value if _SPACES[table].by_context else -1)


def _renumbered(each: Key, entry: Entry, instead: Mapping[tuple[_Space, int], int]) -> Entry:
    if entry.table in _SPACES:
        ((name, number),) = entry.params
        return msgspec.structs.replace(
            entry, params=((name, instead.get((_space(entry.table, each), number), number)),)
        )
    if entry.table == _POLICY:
        fields = [
            msgspec.structs.replace(field, value=instead.get((_space(field.field, each), field.value), field.value))
            if field.field in _SPACES and field.mask != _ATTACHED
            else field
            for field in entry.match
        ]
        return msgspec.structs.replace(entry, match=tuple(fields))
    return entry
