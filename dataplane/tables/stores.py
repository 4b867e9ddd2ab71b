"""One table's entries in its BPF maps, by the shape of its key (see dataplane.tables.layout).

The maps are the truth: `read` shows what is in them, whoever wrote it. A shadow of the keys makes the checks of INSERT,
MODIFY and DELETE fast; before anything is refused because of it, it is read anew from the maps. Rows that no client
can have written (an unknown action, bits where none belong) are no entries: `read` removes them.
"""

import enum
import errno
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from dataplane.p4runtime.columns import Bytes, Numbers, Rows, legal, matrix, numbers, pieces
from dataplane.p4runtime.status import Code, Fault
from dataplane.reasons import CANDIDATE_PATHS
from dataplane.tables.layout import NO_ENTRY, Layout, Shape, TableLayout


class MapWriter(Protocol):
    """A BPF map. Keys and values are bytes; several of them lie one behind the other. Raises OSError with errno."""

    @property
    def key_size(self) -> int: ...
    @property
    def value_size(self) -> int: ...
    @property
    def max_entries(self) -> int: ...
    def lookup(self, key: bytes) -> bytes | None:
        """Of an LPM map: the value of the longest prefix."""
        ...

    def update(self, key: bytes, value: bytes) -> None: ...
    def delete(self, key: bytes) -> bool:
        """False: the key was not there."""
        ...

    def update_batch(self, keys: bytes, values: bytes) -> None: ...
    def delete_batch(self, keys: bytes) -> None:
        """Keys that are not there are passed over."""
        ...

    def items(self) -> tuple[bytes, bytes]:
        """All keys and all values."""
        ...


class Operation(enum.Enum):
    INSERT = "insert"
    MODIFY = "modify"
    KEEP = "keep"
    """A MODIFY without an action: changes nothing, but the entry must be there (P4Runtime §9.1.2)."""
    DELETE = "delete"


Faults = dict[int, Fault]
"""By row; the others were done."""


class Store(Protocol):
    def write(self, operation: Operation, rows: Rows) -> Faults:
        """In the order of the rows."""
        ...

    def read(self) -> Rows: ...
    def clear(self) -> None: ...


def exists(table: TableLayout) -> Fault:
    return Fault(Code.ALREADY_EXISTS, f"{table.table.name}: there is such an entry")


def absent(table: TableLayout) -> Fault:
    return Fault(Code.NOT_FOUND, f"{table.table.name}: there is no such entry")


def full(table: TableLayout) -> Fault:
    return Fault(Code.RESOURCE_EXHAUSTED, f"{table.table.name}: is full ({table.table.size} entries)")


def kernel_fault(table: TableLayout, error: OSError) -> Fault:
    if error.errno in (errno.E2BIG, errno.ENOSPC, errno.ENOMEM):
        return full(table)
    reason = os.strerror(error.errno) if error.errno else str(error)
    return Fault(Code.INTERNAL, f"{table.table.name}: the kernel refused the write: {reason}")


def write_pairs(table: TableLayout, target: MapWriter, pairs: Mapping[bytes, bytes]) -> dict[bytes, Fault]:
    """Writes all pairs; what the kernel refuses comes back by key. A batch that fails is repeated one by one."""
    if not pairs:
        return {}
    try:
        target.update_batch(b"".join(pairs), b"".join(pairs.values()))
    except OSError:
        refused = {}
        for key, value in pairs.items():
            try:
                target.update(key, value)
            except OSError as error:
                refused[key] = kernel_fault(table, error)
        return refused
    return {}


@dataclass
class _Plan:
    """What a batch comes to, before anything is written."""

    faults: Faults = field(default_factory=dict)
    changes: dict[bytes, bytes | None] = field(default_factory=dict)
    """By key; None: delete."""
    row_of: dict[bytes, int] = field(default_factory=dict)


class KeyedStore:
    """Shapes whose entries are found by their key alone: array, candidates, hash, lpm."""

    def __init__(self, layout: Layout, table: TableLayout, target: MapWriter) -> None:
        self._layout = layout
        self._table = table
        self._map = target
        self._indexed = table.shape in (Shape.ARRAY, Shape.CANDIDATES)
        self._shadow: dict[bytes, bytes] = {}

    def value(self, key: bytes) -> bytes | None:
        """The value as last seen or written."""
        return self._shadow.get(key)

    def shadow(self) -> Mapping[bytes, bytes]:
        return self._shadow

    def write(self, operation: Operation, rows: Rows) -> Faults:
        keys = pieces(rows.keys)
        values = pieces(rows.values)
        plan = self._plan(operation, keys, values)
        if plan.faults:
            self._look_up({keys[row] for row in plan.faults})
            plan = self._plan(operation, keys, values)
        return self._commit(plan)

    def read(self) -> Rows:
        keys, values = (matrix(data, size) for data, size in zip(self._map.items(), self._sizes(), strict=True))
        if self._indexed:
            # Elements that are not NO_ENTRY but not legal either are entries no more than the others are.
            used = np.any(values[:, :4] != NO_ENTRY, axis=1)
            keys, values = keys[used], values[used]
        masks = np.zeros((len(keys), 0), np.uint8)
        good = legal(self._layout, self._table, keys, masks, values)
        if not good.all():
            self._erase(pieces(keys[~good]))
            keys, values, masks = keys[good], values[good], masks[good]
        self._shadow = dict(zip(pieces(keys), pieces(values), strict=True))
        return Rows(keys, masks, self._priorities(keys), values)

    def clear(self) -> None:
        self.read()
        self._erase(self._shadow)
        self._shadow = {}

    def _priorities(self, keys: Bytes) -> Numbers:
        """What the keys say of them (see codec.pack)."""
        if self._table.shape is Shape.RANGE:
            return numbers(keys, self._table.key.by_name["priority"])
        if self._table.shape is Shape.CANDIDATES:
            return CANDIDATE_PATHS - numbers(keys, self._table.key.places[0]) % CANDIDATE_PATHS
        return np.zeros(len(keys), np.uint32)

    def _look_up(self, keys: set[bytes]) -> None:
        """Brings the shadow of these keys up to date."""
        if self._table.shape is Shape.LPM:
            self.read()  # A look-up would find shorter prefixes too.
            return
        entries = {key: value for key in keys if (value := self._map.lookup(key)) is not None}
        rows, values = (
            matrix(b"".join(entries), self._table.key.size),
            matrix(b"".join(entries.values()), self._sizes()[1]),
        )
        good = legal(self._layout, self._table, rows, np.zeros((len(entries), 0), np.uint8), values)
        for key in keys:
            self._shadow.pop(key, None)
        self._shadow.update(zip(pieces(rows[good]), pieces(values[good]), strict=True))

    def _sizes(self) -> tuple[int, int]:
        return self._table.key.size, self._table.value_size

    def _plan(self, operation: Operation, keys: list[bytes], values: list[bytes]) -> _Plan:
        plan = _Plan(row_of=dict(zip(keys, range(len(keys)), strict=True)))
        shadow, changes = self._shadow, plan.changes
        room = self._table.table.size - len(shadow)
        if operation is Operation.INSERT and len(plan.row_of) == len(keys) <= room and shadow.keys().isdisjoint(keys):
            changes.update(zip(keys, values, strict=True))
            return plan
        for row, (key, value) in enumerate(zip(keys, values, strict=True)):
            there = (changes[key] is not None) if key in changes else key in shadow
            match operation:
                case Operation.INSERT:
                    if there:
                        plan.faults[row] = exists(self._table)
                    elif room <= 0 and not self._indexed:
                        plan.faults[row] = full(self._table)
                    else:
                        changes[key] = value
                        room -= 1
                case Operation.MODIFY | Operation.KEEP | Operation.DELETE if not there:
                    plan.faults[row] = absent(self._table)
                case Operation.MODIFY:
                    changes[key] = value
                case Operation.DELETE:
                    changes[key] = None
        return plan

    def _commit(self, plan: _Plan) -> Faults:
        written = {key: value for key, value in plan.changes.items() if value is not None}
        refused = write_pairs(self._table, self._map, written)
        deleted = [key for key, value in plan.changes.items() if value is None]
        try:
            self._erase(deleted)
        except OSError as error:
            refused |= dict.fromkeys(deleted, kernel_fault(self._table, error))
        if refused:
            self.read()
            return plan.faults | {plan.row_of[key]: fault for key, fault in refused.items()}
        self._shadow.update(written)
        for key in deleted:
            self._shadow.pop(key, None)
        return plan.faults

    def _erase(self, keys: Iterable[bytes]) -> None:
        joined = b"".join(keys)
        if not joined:
            return
        if self._indexed:
            count = len(joined) // self._table.key.size
            self._map.update_batch(joined, bytes(self._table.value_size) * count)
        else:
            self._map.delete_batch(joined)
