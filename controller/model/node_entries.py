"""All entries that one node shall have, each with those who ask for it; and what changes from one version to the next.

Several owners may ask for the same entry: what the node has is that of the first by name. So an owner comes and goes
without anything being written where another asks for the same.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import immutables

from controller.model.entry import Entry
from controller.model.intent import Value
from dataplane.host_api import HostState

Ask = tuple[str, Entry]
"""What a table knows an entry by, in an order that lasts; and the entry."""


def ask(entry: Entry) -> Ask:
    """By match and priority (P4Runtime §9.1.1)."""
    fields = (
        f"{one.field} {one.value:032x} {one.mask or 0:x} {one.prefix_length or 0:x} {one.high or 0:x}"
        for one in entry.match
    )
    return f"{entry.table} {' '.join(fields)} {entry.priority:08x}", entry


class Delta(Value, frozen=True, kw_only=True):
    """What has changed of a node's entries since another of its generations."""

    since: int
    put: tuple[Entry, ...] = ()
    """New, or other than they were."""
    gone: tuple[Entry, ...] = ()
    """As they were; nothing is there instead."""

    def then(self, put: Iterable[Entry], gone: Iterable[Entry]) -> "Delta":
        """With what has changed after it."""
        put_in_all = {_key(entry): entry for entry in self.put}
        gone_in_all = {_key(entry): entry for entry in self.gone}
        for entry in put:
            put_in_all[_key(entry)] = entry
            gone_in_all.pop(_key(entry), None)
        for entry in gone:
            if (was := put_in_all.pop(_key(entry), None)) is not None:
                entry = was
            gone_in_all.setdefault(_key(entry), entry)
        return Delta(since=self.since, put=tuple(put_in_all.values()), gone=tuple(gone_in_all.values()))


def _key(entry: Entry) -> tuple[object, ...]:
    return entry.table, entry.match, entry.priority


class Changed(NamedTuple):
    entries: "NodeEntries"
    put: tuple[Entry, ...]
    gone: tuple[Entry, ...]


class NodeEntries:
    """A version: it never changes. Goes through the effective entries, sorted; equal askers give an equal order."""

    __slots__ = ("_asked", "_in_order")

    def __init__(self, asks: Iterable[Ask] = ()) -> None:
        self._asked: immutables.Map[str, tuple[Entry, ...]] = immutables.Map()
        self._in_order: tuple[Entry, ...] | None = None
        """As it was gone through before."""
        self._asked = self.changed((), asks).entries._asked

    def changed(self, without: Iterable[Ask], added: Iterable[Ask]) -> Changed:
        """`without`: what some owner asked for, and does not any more."""
        before, asked = self._asked, self._asked.mutate()
        keys: dict[str, None] = {}
        for key, entry in without:
            left = list(asked[key])
            left.remove(entry)
            asked[key] = tuple(left)
            keys[key] = None
        for key, entry in added:
            asked[key] = (*asked.get(key, ()), entry)
            keys[key] = None
        put, gone = [], []
        for key in keys:
            here = asked[key]
            old = before.get(key, ())
            if not here:
                del asked[key]
                gone += [_first(old)] if old else []
            elif not old or _first(old) != _first(here):
                put.append(_first(here))
        made = object.__new__(NodeEntries)
        made._asked, made._in_order = asked.finish(), None
        return Changed(made, tuple(put), tuple(gone))

    def __iter__(self) -> Iterator[Entry]:
        if self._in_order is None:
            self._in_order = tuple(_first(asked) for _, asked in sorted(self._asked.items()))
        return iter(self._in_order)

    def __len__(self) -> int:
        return len(self._asked)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NodeEntries) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))


class NodeState(Value, frozen=True, kw_only=True):
    """All that one node shall have (desired)."""

    entries: NodeEntries = NodeEntries()
    host: HostState = HostState()


def _first(asked: tuple[Entry, ...]) -> Entry:
    return asked[0] if len(asked) == 1 else min(asked, key=_by_owner)


def _by_owner(entry: Entry) -> tuple[object, ...]:
    return entry.owner, entry.action, entry.params
