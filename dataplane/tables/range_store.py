"""Tables with a range field: ports by protocol."""

import sys
from collections.abc import Mapping

import numpy as np

from dataplane.p4runtime.columns import Numbers, Rows, numbers
from dataplane.p4runtime.status import Code, Fault
from dataplane.tables.layout import Layout, Place, TableLayout
from dataplane.tables.stores import Faults, KeyedStore, MapWriter, Operation, kernel_fault

VALUES = 65536
CLASSES_BYTES = 2 * VALUES
"""A class of 16 bits for each port."""


class RangeStore:
    """Ranges of ports by protocol, resolved to one class for each port.

    Two maps: the ranges as they were written, and what XDP reads, 65,536 classes for each protocol. The ranges are
    written first. Where the classes are not what the ranges say, somebody changed them: none of that protocol's
    entries is there then.
    """

    def __init__(self, layout: Layout, table: TableLayout, ranges: MapWriter, classes: MapWriter) -> None:
        self._layout = layout
        self._table = table
        self._ranges = ranges
        self._classes = classes
        self._entries = KeyedStore(layout, table, ranges)

    def write(self, operation: Operation, rows: Rows) -> Faults:
        self.read()
        protocols = numbers(rows.keys, self._exact)
        faults: Faults = {}
        if operation is Operation.INSERT:
            faults = self._without_room(protocols)
        chosen = np.array([row for row in range(len(rows)) if row not in faults], np.intp)
        for row, fault in self._entries.write(operation, rows.take(chosen)).items():
            faults[int(chosen[row])] = fault
        if operation is not Operation.KEEP:
            touched = {int(protocol) for protocol in protocols}
            faults |= self._write_classes(touched, protocols)
        return faults

    def read(self) -> Rows:
        rows = self._entries.read()
        stored = self._stored_classes()
        wanted = self._resolve(rows)
        for protocol in stored.keys() - wanted.keys():
            self._classes.delete(self._class_key(protocol))
        changed = [protocol for protocol, classes in wanted.items() if stored.get(protocol) != classes]
        if not changed:
            return rows
        gone = np.isin(numbers(rows.keys, self._exact), changed)
        self._ranges.delete_batch(rows.keys[gone].tobytes())
        return self._entries.read()

    def clear(self) -> None:
        self._entries.clear()
        for protocol in self._stored_classes():
            self._classes.delete(self._class_key(protocol))

    def repair(self) -> None:
        """Writes the classes that the ranges say, after a start: a killed agent may have written only the ranges."""
        rows = self._entries.read()
        stored = self._stored_classes()
        for protocol, classes in self._resolve(rows).items():
            if stored.get(protocol) != classes:
                self._classes.update(self._class_key(protocol), classes)

    @property
    def _exact(self) -> Place:
        return self._table.key.by_name[self._table.table.fields[0].name]

    def _without_room(self, protocols: Numbers) -> Faults:
        known = {int(protocol) for protocol in numbers(self._entries.read().keys, self._exact)}
        faults = {}
        for row, protocol in enumerate(protocols.tolist()):
            if protocol not in known and len(known) >= self._classes.max_entries:
                faults[row] = Fault(
                    Code.RESOURCE_EXHAUSTED,
                    f"{self._table.table.name}: holds ranges of {self._classes.max_entries} protocols only",
                )
            else:
                known.add(protocol)
        return faults

    def _write_classes(self, touched: set[int], protocols: Numbers) -> Faults:
        wanted = self._resolve(self._entries.read())
        faults: Faults = {}
        for protocol in sorted(touched):
            try:
                if protocol in wanted:
                    self._classes.update(self._class_key(protocol), wanted[protocol])
                else:
                    self._classes.delete(self._class_key(protocol))
            except OSError as error:
                rows = np.flatnonzero(protocols == protocol).tolist()
                faults |= dict.fromkeys(rows, kernel_fault(self._table, error))
        return faults

    def _stored_classes(self) -> Mapping[int, bytes]:
        keys, values = self._classes.items()
        return {
            int.from_bytes(keys[4 * row : 4 * row + 4], sys.byteorder): values[
                CLASSES_BYTES * row : CLASSES_BYTES * (row + 1)
            ]
            for row in range(len(keys) // 4)
        }

    def _class_key(self, protocol: int) -> bytes:
        return protocol.to_bytes(4, sys.byteorder)

    def _resolve(self, rows: Rows) -> dict[int, bytes]:
        """Classes by protocol. The highest priority wins; among equals the one that starts, then ends, later."""
        places = self._table.key.by_name
        name = self._table.table.fields[1].name
        low, high = (numbers(rows.keys, places[f"{name}_{end}"]) for end in ("low", "high"))
        priorities = numbers(rows.keys, places["priority"])
        protocols = numbers(rows.keys, self._exact)
        classes = numbers(rows.values, self._table.actions[0].params[0])
        painted_by_protocol: dict[int, np.ndarray[tuple[int], np.dtype[np.uint16]]] = {}
        for row in np.lexsort((high, low, priorities)).tolist():
            painted = painted_by_protocol.setdefault(int(protocols[row]), np.zeros(VALUES, np.uint16))
            painted[low[row] : high[row] + 1] = classes[row]
        return {protocol: painted.tobytes() for protocol, painted in painted_by_protocol.items()}
