"""All tables of one node: their entries in BPF maps, and what a change of them makes the pipeline do anew.

Maps by name: one for each table, `T_masks` beside ternary tables, `T_range` beside ranges, `generation`, `settings`.

XDP's flow cache answers for `flow_policy`, groups, port classes, attachments and source guards, as long as the
generation of the policy class is the one it saw. So each write ends by counting up the generations of the policy
classes it touched. Groups are of a VRF: whoever changes them touches all policy classes that lead into it.
"""

import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dataplane.entry import TableEntry
from dataplane.p4runtime.codec import unpack
from dataplane.p4runtime.columns import Bytes, Numbers, Rows, matrix, numbers, pieces
from dataplane.reasons import ATTACHMENT_CLASS
from dataplane.tables import policy_classes
from dataplane.tables.generations import Expire, Generations
from dataplane.tables.layout import ACTION, ActionLayout, Layout, Shape, TableLayout, number
from dataplane.tables.range_store import RangeStore
from dataplane.tables.stores import Faults, KeyedStore, MapWriter, Operation, Store
from dataplane.tables.ternary_store import TernaryStore

CACHED_BY_VRF = ("source_group", "destination_group")
CACHED_FOR_ALL = ("source_port_class", "destination_port_class")
ETHER_TYPES_OF_IP = (0x0800, 0x86DD, 0x0806)
"""Frames that `punt_frame` is asked for only where settings.punt_ip says so: IPv4, IPv6, ARP."""
_PUNT_IP_OF_ALL = 0xFFFFFFFF
ENTERING = ("attachment", "local_sid")
"""Tables with actions that say whence a packet comes: VRF and policy class."""
NONE: Numbers = np.zeros(0, np.uint32)


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
        self._entered: tuple[Numbers, Numbers] | None = None
        """VRF and policy class of all that may enter; None: to be looked up again."""
        self._followers: list[tuple[frozenset[str], Callable[[], None]]] = []

    def follow(self, tables: Iterable[str], notify: Callable[[], None]) -> None:
        """Calls `notify` after each write that had to do with one of `tables`, in the writer's thread."""
        self._followers.append((frozenset(tables), notify))

    def write(self, runs: Sequence[Run]) -> Faults:
        """In order. Faults by place in the batch; all others are in the maps, and in force, on return."""
        faults: Faults = {}
        touched = [NONE]
        for run in runs:
            before = self._policy_classes(run)
            refused = self._refused(run)
            good = np.array([row for row in range(len(run.rows)) if row not in refused], np.intp)
            rows = run.rows.take(good) if refused else run.rows
            written = self._stores[run.table.table.name].write(run.operation, rows)
            refused |= {int(good[row]): fault for row, fault in written.items()}
            faults |= {run.first + row: fault for row, fault in refused.items()}
            if run.table.table.name in ENTERING:
                self._entered = None
            touched += [before, self._policy_classes(run)]
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
        self._entered = None
        self.generations.advance(self.generations.all)
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

    def _refused(self, run: Run) -> Faults:
        """Rows that would lead a policy class into a second VRF."""
        name = run.table.table.name
        if name not in ENTERING or run.operation not in (Operation.INSERT, Operation.MODIFY):
            return {}
        new, there = self._ways(name, run.rows.values), self._entering()
        if policy_classes.is_plain(*(np.concatenate(column) for column in zip(new, there, strict=True))):
            return {}
        ways: dict[str, dict[bytes, policy_classes.Way]] = {}
        for table in ENTERING:
            rows = self._keyed[table].read()
            ways[table] = dict(zip(pieces(rows.keys), _pairs(self._ways(table, rows.values)), strict=True))
        wanted = list(zip(pieces(run.rows.keys), _pairs(new), strict=True))
        elsewhere = [way for table in ENTERING if table != name for way in ways[table].values()]
        return policy_classes.refused(run.operation, wanted, ways[name], elsewhere)

    def _policy_classes(self, run: Run) -> Numbers:
        """Whose cached decisions depend on these entries, as they are now."""
        name, keys = run.table.table.name, run.rows.keys
        if name in CACHED_FOR_ALL:
            return self.generations.all
        if name == "flow_policy":
            return np.unique(numbers(keys, run.table.key.by_name["policy_class"]))
        if name in CACHED_BY_VRF:
            vrfs, classes = self._entering()
            return np.unique(classes[np.isin(vrfs, numbers(keys, run.table.key.by_name["vrf"]))])
        if name in ENTERING:
            shadow = self._keyed[name].shadow()
            return self._pairs(name, [value for key in pieces(keys) if (value := shadow.get(key)) is not None])[1]
        if name == "source_guard":
            ports = set(numbers(keys, run.table.key.by_name["ingress_port"]).tolist())
            place = self.layout.by_name["attachment"].key.by_name["ingress_port"]
            values = [value for key, value in self._keyed["attachment"].shadow().items() if number(key, place) in ports]
            return self._pairs("attachment", values)[1]
        return NONE

    def _entering(self) -> tuple[Numbers, Numbers]:
        if self._entered is None:
            pairs = [self._pairs(name, list(self._keyed[name].shadow().values())) for name in ENTERING]
            vrfs, classes = (np.concatenate(column) for column in zip(*pairs, strict=True))
            self._entered = vrfs, classes
        return self._entered

    def _pairs(self, table: str, values: Sequence[bytes]) -> tuple[Numbers, Numbers]:
        """VRFs and policy classes that these values of `table` lead to, each pair once; links to 0, of which XDP
        remembers them."""
        layout = self.layout.by_name[table]
        rows = matrix(b"".join(values), layout.value_size)
        entering = [action.number for action in layout.actions if _enters(action) or action.action.name == "link"]
        pairs = np.stack(self._ways(table, rows), axis=1)[np.isin(numbers(rows, ACTION), entering)]
        pairs = np.unique(pairs, axis=0)
        return pairs[:, 0], pairs[:, 1]

    def _ways(self, table: str, values: Bytes) -> tuple[Numbers, Numbers]:
        """VRF and policy class that each row of `table` leads to; 0 and 0 where it leads into no VRF."""
        actions = numbers(values, ACTION)
        vrfs, classes = np.zeros(len(values), np.uint32), np.zeros(len(values), np.uint32)
        for action in self.layout.by_name[table].actions:
            if _enters(action):
                places, chosen = {place.name: place for place in action.params}, actions == action.number
                vrfs[chosen] = numbers(values[chosen], places["vrf"])
                classes[chosen] = numbers(values[chosen], places["policy_class"])
        return vrfs, classes

    def _tell(self, tables: Collection[str]) -> None:
        for followed, notify in self._followers:
            if not followed.isdisjoint(tables):
                notify()

    def _set_punt_ip(self) -> None:
        """Has XDP ask `punt_frame` for IP and ARP too, while an entry could match them: of the only ingress class that
        such entries name, or of all."""
        layout, rows = self.layout.by_name["punt_frame"], self.read("punt_frame")
        ether_type, ingress_class = layout.key.by_name["ether_type"], layout.key.by_name["ingress_class"]
        masks, values = numbers(rows.masks, ether_type), numbers(rows.keys, ether_type)
        matches = np.any([(masks & kind) == values for kind in ETHER_TYPES_OF_IP], axis=0)
        named = numbers(rows.masks, ingress_class)[matches] == (1 << ingress_class.size * 8) - 1
        classes = set(numbers(rows.keys, ingress_class)[matches].tolist())
        is_one = bool(named.all()) and len(classes) == 1 and ATTACHMENT_CLASS not in classes
        asked = classes.pop() if is_one else _PUNT_IP_OF_ALL if classes else 0
        zero = bytes(4)
        before = self._settings.lookup(zero) or bytes(self._settings.value_size)
        wanted = asked.to_bytes(4, sys.byteorder) + before[4:]  # The rest is the agent's.
        if wanted != before:
            self._settings.update(zero, wanted)


def _enters(action: ActionLayout) -> bool:
    return any(place.name == "policy_class" for place in action.params)


def _pairs(ways: tuple[Numbers, Numbers]) -> Iterator[tuple[int, int]]:
    return zip(*(column.tolist() for column in ways), strict=True)
