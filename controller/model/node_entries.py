"""All entries that one node shall have, each with those who ask for it; and what changes from one version to the next.

Several owners may ask for the same entry: what the node has is that of the first by name. So an owner comes and goes
without anything being written where another asks for the same. Who wants something else of it is not passed over: both
are there, so that the node's session refuses the second, with its reason.
"""

import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import immutables

from controller.model.entry import Match, OwnedEntry, packed_key
from controller.model.intent import Value
from dataplane.host_api import HostState

Asked = OwnedEntry | tuple[OwnedEntry, ...]
"""Of one key; a tuple where several ask for it."""


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


def _by_key(entries: Iterable[OwnedEntry]) -> dict[bytes, tuple[OwnedEntry, ...]]:
    entries_by_key: dict[bytes, tuple[OwnedEntry, ...]] = {}
    for entry in entries:
        entries_by_key[entry.key] = (*entries_by_key.get(entry.key, ()), entry)
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
        self._asked: immutables.Map[bytes, Asked] = immutables.Map()
        self._in_order: tuple[OwnedEntry, ...] | None = None
        """As it was gone through before."""
        self._asked = self.changed((), asks).entries._asked

    def changed(self, without: Iterable[OwnedEntry], added: Iterable[OwnedEntry]) -> Changed:
        """`without`: what some owner asked for, and does not any more."""
        before, asked = self._asked, self._asked.mutate()
        others: dict[bytes, list[OwnedEntry]] = {}
        """As they are asked for now, of the keys that this is about."""
        for entry in without:
            here = others.get(entry.key)
            if here is None:
                here = others[entry.key] = [*_all(asked[entry.key])]
            here.remove(entry)
        for entry in added:
            here = others.get(entry.key)
            if here is None:
                here = others[entry.key] = [*_all(asked.get(entry.key, ()))]
            here.append(entry)
        put: list[OwnedEntry] = []
        gone: list[OwnedEntry] = []
        for key, here in others.items():
            old = _all(before.get(key, ()))
            if not here:
                if old:
                    del asked[key]
                gone += _effective(old)[:1]
                continue
            asked[key] = here[0] if len(here) == 1 else tuple(here)
            if (wanted := _effective(tuple(here))) != _effective(old):
                put += wanted
        made = object.__new__(NodeEntries)
        made._asked, made._in_order = asked.finish(), None
        return Changed(made, tuple(put), tuple(gone))

    def __iter__(self) -> Iterator[OwnedEntry]:
        if self._in_order is None:
            in_order = sorted(map(_all, self._asked.values()), key=lambda asked: _place(asked[0]))
            self._in_order = _flat(map(_effective, in_order))
        return iter(self._in_order)

    def get(self, table: str, match: tuple[Match, ...], priority: int = 0) -> OwnedEntry | None:
        """The effective one."""
        asked = self._asked.get(packed_key(table, match, priority))
        return _effective(_all(asked))[0] if asked is not None else None

    @property
    def asked(self) -> Iterator[OwnedEntry]:
        """What all owners ask for, in no order; the same may be asked for by several."""
        return itertools.chain.from_iterable(map(_all, self._asked.values()))

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


def _all(asked: Asked) -> tuple[OwnedEntry, ...]:
    return asked if isinstance(asked, tuple) else (asked,)


def _effective(asked: tuple[OwnedEntry, ...]) -> tuple[OwnedEntry, ...]:
    """That of the first by owner, and those of others who want something else."""
    if len(asked) < 2:
        return asked
    first, *others = sorted(asked, key=_by_owner)
    return first, *(entry for entry in others if entry.does != first.does)


def _by_owner(entry: OwnedEntry) -> tuple[object, ...]:
    return entry.owner, entry.action, entry.params
