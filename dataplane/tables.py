"""All tables of one node: their entries in BPF maps, and what a change of them makes the pipeline do anew.

Maps by name: one for each table, `T_masks` beside ternary tables, `T_range` beside ranges, `generation`, `settings`.

XDP's flow cache answers for `flow_policy`, groups, port classes, attachments and source guards, as long as the
context's generation is the one it saw. So each write ends by counting up the generations of the contexts it touched.
Generation 0 stands for context 0, whose route to the first segment XDP keeps for each path of an SR Policy.
"""

import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dataplane.codec import unpack
from dataplane.columns import Bytes, Numbers, Rows, matrix, numbers, pieces
from dataplane.entry import TableEntry
from dataplane.generations import ALL_CONTEXTS, Expire, Generations
from dataplane.layout import ACTION, Layout, Shape, TableLayout
from dataplane.range_store import RangeStore
from dataplane.reasons import FABRIC_CONTEXT
from dataplane.stores import Faults, KeyedStore, MapWriter, Operation, Store
from dataplane.ternary_store import TernaryStore

CACHED_BY_CONTEXT = ("source_group", "destination_group", "flow_policy")
CACHED_FOR_ALL = ("source_port_class", "destination_port_class")
ETHER_TYPES_OF_IP = (0x0800, 0x86DD, 0x0806)
ATTACHING = ("attach", "attach_reject")
"""Actions of `attachment` that lead to a network."""
"""Frames that `punt_frame` is asked for only while settings.punt_ip is set: IPv4, IPv6, ARP."""
NO_CONTEXTS: Numbers = np.zeros(0, np.uint32)


@dataclass(frozen=True)
class Run:
    """Updates of one kind and table that follow each other in a batch."""

    operation: Operation
    table: TableLayout
    rows: Rows
    first: int
    """Where the batch has the first of them."""


def map_names(layout: Layout) -> tuple[str, ...]:
    """The maps that `Tables` takes."""
    names = [table.table.name for table in layout.tables]
    names += [f"{table.table.name}_masks" for table in layout.tables if table.shape is Shape.TERNARY]
    names += [f"{table.table.name}_range" for table in layout.tables if table.shape is Shape.RANGE]
    return (*names, "generation", "settings")


class Tables:
    def __init__(self, layout: Layout, maps: Mapping[str, MapWriter], expire: Expire | None = None) -> None:
        """Takes over what is in the maps. Raises OSError where one of them cannot be read.

        `expire`: of the flow cache, where there is one (see Generations).
        """
        self.layout = layout
        self._stores: dict[str, Store] = {}
        self._keyed: dict[str, KeyedStore] = {}
        self._settings = maps["settings"]
        for table in layout.tables:
            self._stores[table.table.name] = self._store(table, maps)
        for store in self._stores.values():
            store.read()
        self.generations = Generations(maps["generation"], expire)
        self._set_punt_ip()
        self._followers: list[tuple[frozenset[str], Callable[[], None]]] = []

    def follow(self, tables: Iterable[str], notify: Callable[[], None]) -> None:
        """Calls `notify` after each write that had to do with one of `tables`, in the writer's thread."""
        self._followers.append((frozenset(tables), notify))

    def write(self, runs: Sequence[Run]) -> Faults:
        """In order. Faults by place in the batch; all others are in the maps, and in force, on return."""
        faults: Faults = {}
        touched = [NO_CONTEXTS]
        for run in runs:
            before = self._contexts(run)
            for row, fault in self._stores[run.table.table.name].write(run.operation, run.rows).items():
                faults[run.first + row] = fault
            touched += [before, self._contexts(run)]
        if any(run.table.table.name == "punt_frame" for run in runs):
            self._set_punt_ip()
        self.generations.advance(np.unique(np.concatenate(touched)))
        self._tell({run.table.table.name for run in runs})
        return faults

    def read(self, table: str) -> Rows:
        """What the maps hold now."""
        return self._stores[table].read()

    def fill(self) -> tuple[tuple[str, int, int], ...]:
        """Name, entries now and most entries of each table."""
        return tuple((t.table.name, len(self.read(t.table.name)), t.table.size) for t in self.layout.tables)

    def keys(self, table: str) -> Bytes:
        """Of a table whose entries are found by their key alone, as last seen or written."""
        return matrix(b"".join(self._keyed[table].shadow()), self.layout.by_name[table].key.size)

    def entries(self, table: str) -> tuple[TableEntry, ...]:
        """`read`, as values."""
        layout, rows = self.layout.by_name[table], self.read(table)
        columns = zip(pieces(rows.keys), pieces(rows.masks), pieces(rows.values), strict=True)
        return tuple(unpack(layout, key, mask, value) for key, mask, value in columns)

    def clear(self) -> None:
        """Removes all entries, in the order of the pipeline: first nothing enters."""
        for table in self.layout.tables:
            self._stores[table.table.name].clear()
        self._set_punt_ip()
        self.generations.advance(ALL_CONTEXTS)
        self._tell(self._stores.keys())

    def _store(self, table: TableLayout, maps: Mapping[str, MapWriter]) -> Store:
        name = table.table.name
        match table.shape:
            case Shape.TERNARY:
                return TernaryStore(self.layout, table, maps[name], maps[f"{name}_masks"])
            case Shape.RANGE:
                store = RangeStore(self.layout, table, maps[f"{name}_range"], maps[name])
                store.repair()
                return store
            case Shape.ARRAY | Shape.CANDIDATES | Shape.HASH | Shape.LPM:
                keyed = KeyedStore(self.layout, table, maps[name])
                self._keyed[name] = keyed
                return keyed

    def _contexts(self, run: Run) -> Numbers:
        """Contexts whose cached decisions depend on these entries, as they are now."""
        name, keys = run.table.table.name, run.rows.keys
        if name in CACHED_FOR_ALL:
            return ALL_CONTEXTS
        if name in CACHED_BY_CONTEXT:
            return np.unique(numbers(keys, run.table.key.by_name["context"]))
        if name == "sr_policy":
            return np.array([FABRIC_CONTEXT], np.uint32)
        if name == "route":
            fabric = numbers(keys, run.table.key.by_name["context"]) == FABRIC_CONTEXT
            return np.array([FABRIC_CONTEXT], np.uint32) if fabric.any() else NO_CONTEXTS
        if name == "attachment":
            shadow = self._keyed[name].shadow()
            return self._attached([value for key in pieces(keys) if (value := shadow.get(key)) is not None])
        if name == "source_guard":
            ports = set(numbers(keys, run.table.key.by_name["ingress_port"]).tolist())
            place = self.layout.by_name["attachment"].key.by_name["ingress_port"]
            values = [
                value
                for key, value in self._keyed["attachment"].shadow().items()
                if int.from_bytes(key[place.offset : place.offset + place.size], place.kind.byteorder) in ports
            ]
            return self._attached(values)
        return NO_CONTEXTS

    def _attached(self, values: Sequence[bytes]) -> Numbers:
        """The contexts that these values of `attachment` lead to."""
        layout = self.layout.by_name["attachment"]
        rows = matrix(b"".join(values), layout.value_size)
        actions = numbers(rows, ACTION)
        found = [
            numbers(rows, action.params[0])[actions == action.number]
            for action in layout.actions
            if action.action.name in ATTACHING
        ]
        return np.unique(np.concatenate(found))

    def _tell(self, tables: Collection[str]) -> None:
        for followed, notify in self._followers:
            if not followed.isdisjoint(tables):
                notify()

    def _set_punt_ip(self) -> None:
        """Has XDP ask `punt_frame` for IP and ARP too, while an entry could match them."""
        layout, rows = self.layout.by_name["punt_frame"], self.read("punt_frame")
        place = layout.key.by_name["ether_type"]
        masks, values = numbers(rows.masks, place), numbers(rows.keys, place)
        needed = any(bool(np.any((masks & kind) == values)) for kind in ETHER_TYPES_OF_IP)
        zero = bytes(4)
        before = self._settings.lookup(zero) or bytes(self._settings.value_size)
        wanted = int(needed).to_bytes(4, sys.byteorder) + before[4:]  # The rest is the agent's.
        if wanted != before:
            self._settings.update(zero, wanted)
