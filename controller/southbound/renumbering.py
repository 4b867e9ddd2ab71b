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

from controller.model.entry import OwnedEntry
from controller.southbound.codec import Behaviour, Key, Row, behaviour


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


def concerns(tables: Iterable[str]) -> bool:
    """Whether a change of these can give a number another meaning."""
    return not set(_SPACES).isdisjoint(tables)


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
        return msgspec.structs.replace(
            entry, params=((name, instead.get((_space(entry.table, each, vrfs), number), number)),)
        )
    if entry.table == _POLICY and entry.match[0].value in vrfs:
        fields = [
            msgspec.structs.replace(
                field, value=instead.get((_space(field.field, each, vrfs), field.value), field.value)
            )
            if field.field in _SPACES
            else field
            for field in entry.match
        ]
        return msgspec.structs.replace(entry, match=tuple(fields))
    return entry
