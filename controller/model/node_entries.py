"""All entries that one node shall have, each with those who ask for it; and what changes from one version to the next.

Several owners may ask for the same entry: what the node has is that of the first by name. So an owner comes and goes
without anything being written where another asks for the same. Who wants something else of it is not passed over: both
are there, so that the node's session refuses the second, with its reason.
"""

import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import immutables

from controller.model.entry import Match, OwnedEntry
from controller.model.intent import Value
from dataplane.host_api import HostState

Key = tuple[str, tuple[Match, ...], int]
"""What a table knows an entry by: table, match and priority (P4Runtime §9.1.1)."""


def _key(entry: OwnedEntry) -> Key:
    return entry.table, entry.match, entry.priority


def _place(entry: OwnedEntry) -> str:
    """Of the key, in an order that lasts."""
    fields = (
        f"{match.field} {match.value:032x} {match.mask or 0:x} {match.prefix_length or 0:x} {match.high or 0:x}"
        for match in entry.match
    )
    return f"{entry.table} {' '.join(fields)} {entry.priority:08x}"


class Delta(Value, frozen=True, kw_only=True):
    """What has changed of a node's entries since another of its generations."""

    since: int
    put: tuple[OwnedEntry, ...] = ()
    """New, or other than they were."""
    gone: tuple[OwnedEntry, ...] = ()
    """As they were; nothing is there instead."""

    def then(self, put: Iterable[OwnedEntry], gone: Iterable[OwnedEntry]) -> "Delta":
        """With what has changed after it."""
        put_in_all, gone_in_all = _by_key(self.put), _by_key(self.gone)
        for key, entries in _by_key(put).items():
            put_in_all[key] = entries
            gone_in_all.pop(key, None)
        for key, entries in _by_key(gone).items():
            gone_in_all.setdefault(key, put_in_all.pop(key, entries)[:1])
        return Delta(since=self.since, put=_flat(put_in_all.values()), gone=_flat(gone_in_all.values()))


def _by_key(entries: Iterable[OwnedEntry]) -> dict[Key, tuple[OwnedEntry, ...]]:
    entries_by_key: dict[Key, tuple[OwnedEntry, ...]] = {}
    for entry in entries:
        key = _key(entry)
        entries_by_key[key] = (*entries_by_key.get(key, ()), entry)
    return entries_by_key


def _flat(parts: Iterable[tuple[OwnedEntry, ...]]) -> tuple[OwnedEntry, ...]:
    return tuple(itertools.chain.from_iterable(parts))


class Changed(NamedTuple):
    entries: "NodeEntries"
    put: tuple[OwnedEntry, ...]
    gone: tuple[OwnedEntry, ...]


class NodeEntries:
    """A version: it never changes. Goes through the effective entries, sorted; equal askers give an equal order."""

    __slots__ = ("_asked", "_in_order")

    def __init__(self, asks: Iterable[OwnedEntry] = ()) -> None:
        self._asked: immutables.Map[Key, tuple[OwnedEntry, ...]] = immutables.Map()
        self._in_order: tuple[OwnedEntry, ...] | None = None
        """As it was gone through before."""
        self._asked = self.changed((), asks).entries._asked

    def changed(self, without: Iterable[OwnedEntry], added: Iterable[OwnedEntry]) -> Changed:
        """`without`: what some owner asked for, and does not any more."""
        before, asked = self._asked, self._asked.mutate()
        keys: dict[Key, None] = {}
        for entry in without:
            key = _key(entry)
            left = list(asked[key])
            left.remove(entry)
            asked[key] = tuple(left)
            keys[key] = None
        for entry in added:
            key = _key(entry)
            asked[key] = (*asked.get(key, ()), entry)
            keys[key] = None
        put: list[OwnedEntry] = []
        gone: list[OwnedEntry] = []
        for key in keys:
            here = asked[key]
            old = before.get(key, ())
            if not here:
                del asked[key]
                gone += _effective(old)[:1]
            elif (wanted := _effective(here)) != _effective(old):
                put += wanted
        made = object.__new__(NodeEntries)
        made._asked, made._in_order = asked.finish(), None
        return Changed(made, tuple(put), tuple(gone))

    def __iter__(self) -> Iterator[OwnedEntry]:
        if self._in_order is None:
            self._in_order = _flat(map(_effective, sorted(self._asked.values(), key=lambda asked: _place(asked[0]))))
        return iter(self._in_order)

    def get(self, table: str, match: tuple[Match, ...], priority: int = 0) -> OwnedEntry | None:
        """The effective one."""
        asked = self._asked.get((table, match, priority))
        return _effective(asked)[0] if asked else None

    @property
    def asked(self) -> Iterator[OwnedEntry]:
        """What all owners ask for, in no order; the same may be asked for by several."""
        return itertools.chain.from_iterable(self._asked.values())

    def __len__(self) -> int:
        return len(self._asked)  # by key: so many the node has

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NodeEntries) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))


class NodeState(Value, frozen=True, kw_only=True):
    """All that one node shall have (desired)."""

    entries: NodeEntries = NodeEntries()
    host: HostState = HostState()


def _effective(asked: tuple[OwnedEntry, ...]) -> tuple[OwnedEntry, ...]:
    """That of the first by owner, and those of others who want something else."""
    if len(asked) < 2:
        return asked
    first, *others = sorted(asked, key=_by_owner)
    does = first.action, first.params
    return first, *(entry for entry in others if (entry.action, entry.params) != does)


def _by_owner(entry: OwnedEntry) -> tuple[object, ...]:
    return entry.owner, entry.action, entry.params
