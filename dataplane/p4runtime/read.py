"""P4Runtime Read: which entities a request asks for (P4Runtime §13)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from finsy.proto import p4r
from google.protobuf.message import Message
from numpy.typing import NDArray

from dataplane.entry import TableEntry
from dataplane.p4runtime.codec import NO_ACTION, Packed, compose, compose_default, pack, parse_match, unpack
from dataplane.p4runtime.columns import Rows, numbers, pieces
from dataplane.p4runtime.p4info import Counter, Table
from dataplane.p4runtime.status import Code, Fault, Refused
from dataplane.tables.layout import ACTION, NO_ENTRY, Layout, TableLayout
from dataplane.tables.node_tables import Tables
from dataplane.telemetry.counters import CounterReader, Totals

ENTITIES_PER_RESPONSE = 2000
"""An entity is far below 1 KiB, so a response stays below the 4 MiB that gRPC takes by default."""

Emit = Callable[[p4r.ReadResponse], object]
Source = Iterator[Emit]
"""Each one adds one entity to a response."""


@dataclass
class Answer:
    """All maps were read when this is made; the responses are made one by one."""

    sources: Sequence[Source]
    faults: Sequence[Fault | None]
    """By entity of the request. Those that failed have no source."""

    def responses(self) -> Iterator[p4r.ReadResponse]:
        response, count = p4r.ReadResponse(), 0
        for source in self.sources:
            for emit in source:
                emit(response)
                count += 1
                if count == ENTITIES_PER_RESPONSE:
                    yield response
                    response, count = p4r.ReadResponse(), 0
        if count:
            yield response


class Reader:
    def __init__(self, layout: Layout, tables: Tables, counters: Mapping[str, CounterReader]) -> None:
        self._layout = layout
        self._tables = tables
        self._counters = counters

    def read(self, entities: Sequence[p4r.Entity]) -> Answer:
        """What the maps hold now. Each map is read once."""
        snapshot = _Snapshot(self._tables, self._counters)
        sources: list[Source] = []
        faults: list[Fault | None] = []
        for entity in entities:
            try:
                sources.append(self._entity(entity, snapshot))
                faults.append(None)
            except Refused as refused:
                faults.append(refused.fault)
            except OSError as error:
                faults.append(Fault(Code.INTERNAL, f"a map could not be read: {error.strerror}"))
        return Answer(sources, faults)

    def _entity(self, entity: p4r.Entity, snapshot: "_Snapshot") -> Source:
        kind = entity.WhichOneof("entity")
        match kind:
            case None:
                raise Refused(Code.INVALID_ARGUMENT, "an entity of no kind: say what to read")
            case "table_entry":
                return self._table_entries(entity.table_entry, snapshot)
            case "counter_entry":
                return self._counter_entries(entity.counter_entry, snapshot)
            case _:
                if not _is_wildcard(getattr(entity, kind)):
                    raise Refused(Code.UNIMPLEMENTED, f"{kind}: this pipeline has none")
                return iter(())

    def _table_entries(self, wanted: p4r.TableEntry, snapshot: "_Snapshot") -> Source:
        """§9.1.6: the fields that are set select."""
        if not wanted.table_id:
            if wanted.ByteSize():
                raise Refused(Code.INVALID_ARGUMENT, "table_entry: table_id 0 means all tables, without a filter")
            rows = [(table, snapshot.rows(table.table.name)) for table in self._layout.tables]
            return (emit for table, entries in rows for emit in self._emit(table, entries))
        table = self._layout.by_table_id.get(wanted.table_id)
        if table is None:
            raise Refused(Code.NOT_FOUND, f"no table has the id {wanted.table_id:#x}")
        if wanted.is_default_action:
            return iter((partial(_add_default, table.table),))
        if wanted.metadata or wanted.controller_metadata:
            return iter(())  # No entry has any.
        return self._emit(table, self._select(table, wanted, snapshot))

    def _select(self, table: TableLayout, wanted: p4r.TableEntry, snapshot: "_Snapshot") -> Rows:
        rows = snapshot.rows(table.table.name)
        if wanted.match:
            key = TableEntry(table.table.name, parse_match(self._layout, table.table, wanted), NO_ACTION)
            rows = rows.take(snapshot.with_key(table, pack(table, key)))
        if wanted.priority:
            rows = rows.take(rows.priorities == wanted.priority)
        if wanted.HasField("action"):
            laid = table.by_action_id.get(wanted.action.action.action_id)
            rows = rows.take(numbers(rows.values, ACTION) == (laid.number if laid else NO_ENTRY))
        return rows

    def _emit(self, table: TableLayout, rows: Rows) -> Source:
        for key, mask, value in zip(pieces(rows.keys), pieces(rows.masks), pieces(rows.values), strict=True):
            yield partial(_add_entry, self._layout, unpack(table, key, mask, value))

    def _counter_entries(self, wanted: p4r.CounterEntry, snapshot: "_Snapshot") -> Source:
        by_id = self._layout.p4info.counter_by_id
        if not wanted.counter_id:
            if wanted.HasField("index"):
                raise Refused(Code.INVALID_ARGUMENT, "counter_entry: an index needs a counter_id")
            counts = [(counter, snapshot.totals(counter.name)) for counter in by_id.values()]
            return (emit for counter, totals in counts for emit in _emit_counts(counter, totals, range(counter.size)))
        counter = by_id.get(wanted.counter_id)
        if counter is None:
            raise Refused(Code.NOT_FOUND, f"no counter has the id {wanted.counter_id:#x}")
        indices = range(counter.size)
        if wanted.HasField("index"):
            index = wanted.index.index
            if index < 0:
                raise Refused(Code.INVALID_ARGUMENT, f"{counter.name}: index {index} is negative")
            if index >= counter.size:
                raise Refused(Code.OUT_OF_RANGE, f"{counter.name}: index {index} is not below {counter.size}")
            indices = range(index, index + 1)
        return _emit_counts(counter, snapshot.totals(counter.name), indices)


class _Snapshot:
    """Maps as they were read, each once."""

    def __init__(self, tables: Tables, counters: Mapping[str, CounterReader]) -> None:
        self._tables = tables
        self._counters = counters
        self._rows: dict[str, Rows] = {}
        self._by_match: dict[str, dict[bytes, list[int]]] = {}
        self._totals: dict[str, Totals] = {}

    def rows(self, table: str) -> Rows:
        if table not in self._rows:
            self._rows[table] = self._tables.read(table)
        return self._rows[table]

    def with_key(self, table: TableLayout, wanted: Packed) -> NDArray[np.intp]:
        """Rows of that match, whatever their priority."""
        name = table.table.name
        if name not in self._by_match:
            rows = self.rows(name)
            keys = rows.keys.copy()
            if place := table.key.by_name.get("priority"):
                keys[:, place.offset : place.offset + place.size] = 0
            rows_by_match: dict[bytes, list[int]] = {}
            for row, (key, mask) in enumerate(zip(pieces(keys), pieces(rows.masks), strict=True)):
                rows_by_match.setdefault(key + mask, []).append(row)
            self._by_match[name] = rows_by_match
        return np.array(self._by_match[name].get(wanted.key + wanted.mask, ()), np.intp)

    def totals(self, counter: str) -> Totals:
        if counter not in self._totals:
            self._totals[counter] = self._counters[counter]()
        return self._totals[counter]


def _is_wildcard(message: Message) -> bool:
    """Whether no id is set in it, nor in what is inside: all of a kind, which is nothing where there is none."""
    return all(isinstance(value, Message) and _is_wildcard(value) for _, value in message.ListFields())


def _add_entry(layout: Layout, entry: TableEntry, response: p4r.ReadResponse) -> None:
    compose(layout, entry, response.entities.add().table_entry)


def _add_default(table: Table, response: p4r.ReadResponse) -> None:
    response.entities.add().table_entry.CopyFrom(compose_default(table))


def _emit_counts(counter: Counter, totals: Totals, indices: range) -> Source:
    for index in indices:
        packets, octets = totals[index].tolist()
        yield partial(_add_count, counter.id, index, packets, octets)


def _add_count(counter_id: int, index: int, packets: int, octets: int, response: p4r.ReadResponse) -> None:
    entry = response.entities.add().counter_entry
    entry.counter_id = counter_id
    entry.index.index = index
    entry.data.packet_count = packets
    entry.data.byte_count = octets
