"""Many P4Runtime updates at once, from the wire into columns of map keys and values.

A controller sends thousands of updates that differ in a few bytes only. So the first of a form is read by
`codec` and its form is learnt: where in the encoded message the match values, masks, parameters and the
priority are. All others of that form are then copied column by column, and checked as the codec does. What is of no
known form, or fails a check, goes through the codec one by one. Both ways come to the same rows and faults.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from finsy.proto import p4r
from google.protobuf.message import DecodeError

from dataplane.p4runtime.codec import Packed, pack, parse
from dataplane.p4runtime.columns import Rows
from dataplane.p4runtime.status import Code, Refused
from dataplane.p4runtime.wire_form import WireForm, learn
from dataplane.tables.layout import Layout, TableLayout
from dataplane.tables.node_tables import Run
from dataplane.tables.stores import Faults, Operation

FORMS_PER_LENGTH = 64
FORMS = 4096
"""Forms learnt at most; a client whose updates are all of different forms is served by the codec."""

OPERATIONS = {
    p4r.Update.INSERT: Operation.INSERT,
    p4r.Update.MODIFY: Operation.MODIFY,
    p4r.Update.DELETE: Operation.DELETE,
}


@dataclass(frozen=True)
class Batch:
    runs: tuple[Run, ...]
    faults: Faults
    """Of updates that could not be read; they are in no run."""


class BatchDecoder:
    """Remembers the forms it learnt."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._forms: dict[int, list[WireForm]] = {}
        self.learnt = 0
        """Forms known."""

    def decode(self, updates: Sequence[bytes]) -> Batch:
        """`updates`: each one an encoded p4.v1.Update."""
        columns = _Columns(len(updates))
        faults: Faults = {}
        by_length: dict[int, list[int]] = {}
        for index, update in enumerate(updates):
            by_length.setdefault(len(update), []).append(index)
        for length, indices in by_length.items():
            raw = np.frombuffer(b"".join([updates[index] for index in indices]), np.uint8).reshape(-1, length)
            self._decode_same_length(raw, np.array(indices, np.intp), columns, faults)
        return Batch(tuple(columns.runs()), faults)

    def _decode_same_length(self, raw: np.ndarray, indices: np.ndarray, columns: "_Columns", faults: Faults) -> None:
        forms = self._forms.setdefault(raw.shape[1], [])
        tried = 0
        while len(indices):
            if tried == len(forms):
                first = raw[0].tobytes()
                taken = self._decode_one(first, int(indices[0]), columns, faults)
                if taken is None or not self._learn(first, taken, forms):
                    raw, indices = raw[1:], indices[1:]
                    continue
                raw, indices = raw[1:], indices[1:]
                if not len(indices):
                    return
            form = forms[tried]
            tried += 1
            same = form.matches(raw)
            if not same.any():
                continue
            rows, good = form.rows(raw[same])
            chosen = indices[same]
            columns.put(form.operation, form.table, chosen[good], rows.take(good))
            for index, update in zip(chosen[~good].tolist(), raw[same][~good], strict=True):
                self._decode_one(update.tobytes(), index, columns, faults)
            raw, indices = raw[~same], indices[~same]

    def _learn(self, update: bytes, read: "_Read", forms: list[WireForm]) -> bool:
        if len(forms) >= FORMS_PER_LENGTH or self.learnt >= FORMS:
            return False
        form = learn(self._layout, update, read.operation, read.table)
        if form is None:
            return False
        forms.append(form)
        self.learnt += 1
        return True

    def _decode_one(self, update: bytes, index: int, columns: "_Columns", faults: Faults) -> "_Read | None":
        try:
            read = _read_one(self._layout, update)
        except Refused as refused:
            faults[index] = refused.fault
            return None
        columns.put_one(read, index)
        return read


@dataclass(frozen=True, slots=True)
class _Read:
    operation: Operation
    table: TableLayout
    packed: Packed


def _read_one(layout: Layout, update: bytes) -> _Read:
    """Raises Refused."""
    message = p4r.Update()
    try:
        message.ParseFromString(update)
    except DecodeError as error:
        raise Refused(Code.INVALID_ARGUMENT, f"no p4.v1.Update: {error}") from error
    operation = OPERATIONS.get(message.type)
    if operation is None:
        raise Refused(Code.INVALID_ARGUMENT, f"update type {message.type}: give INSERT, MODIFY or DELETE")
    kind = message.entity.WhichOneof("entity")
    if kind in ("counter_entry", "direct_counter_entry") and operation is not Operation.MODIFY:
        raise Refused(Code.INVALID_ARGUMENT, f"{kind}: counters can be modified only")
    if kind != "table_entry":
        code = Code.UNIMPLEMENTED if kind else Code.INVALID_ARGUMENT
        raise Refused(code, f"{kind or 'an entity of no kind'}: this target takes writes of table entries only")
    entry = message.entity.table_entry
    if entry.is_default_action and operation is not Operation.MODIFY:
        raise Refused(Code.INVALID_ARGUMENT, "the default entry can be modified only, and is constant here")
    parsed = parse(
        layout,
        entry,
        action_needed=operation is Operation.INSERT,
        key_only=operation is Operation.DELETE,
    )
    if operation is Operation.MODIFY and not parsed.action:
        operation = Operation.KEEP
    table = layout.by_name[parsed.table]
    return _Read(operation, table, pack(table, parsed))


class _Columns:
    """Rows of a batch, each where its update is in the batch, apart by kind of update and table."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._kinds: dict[tuple[Operation, str], int] = {}
        self._rows: list[tuple[Operation, TableLayout, Rows]] = []
        self._kind_of = np.full(size, -1, np.intp)

    def put(self, operation: Operation, table: TableLayout, indices: np.ndarray, rows: Rows) -> None:
        kind = self._kind(operation, table, rows.masks.shape[1], rows.values.shape[1])
        target = self._rows[kind][2]
        self._kind_of[indices] = kind
        target.keys[indices] = rows.keys
        target.masks[indices] = rows.masks
        target.priorities[indices] = rows.priorities
        target.values[indices] = rows.values

    def put_one(self, read: _Read, index: int) -> None:
        packed = read.packed
        kind = self._kind(read.operation, read.table, len(packed.mask), len(packed.value))
        target = self._rows[kind][2]
        self._kind_of[index] = kind
        target.keys[index] = np.frombuffer(packed.key, np.uint8)
        target.masks[index] = np.frombuffer(packed.mask, np.uint8)
        target.priorities[index] = packed.priority
        target.values[index] = np.frombuffer(packed.value, np.uint8)

    def runs(self) -> Iterator[Run]:
        """Updates of the same kind and table that follow each other without a fault between."""
        if not self._size:
            return
        ends = [*(np.flatnonzero(np.diff(self._kind_of)) + 1).tolist(), self._size]
        start = 0
        for end in ends:
            kind = int(self._kind_of[start])
            if kind >= 0:
                operation, table, rows = self._rows[kind]
                yield Run(operation, table, rows.take(slice(start, end)), start)
            start = end

    def _kind(self, operation: Operation, table: TableLayout, mask_size: int, value_size: int) -> int:
        name = (operation, table.table.name)
        if name not in self._kinds:
            self._kinds[name] = len(self._rows)
            rows = Rows(
                keys=np.zeros((self._size, table.key.size), np.uint8),
                masks=np.zeros((self._size, mask_size), np.uint8),
                priorities=np.zeros(self._size, np.uint32),
                values=np.zeros((self._size, value_size), np.uint8),
            )
            self._rows.append((operation, table, rows))
        return self._kinds[name]
