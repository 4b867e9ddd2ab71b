"""Tables with ternary fields: tuple-space search.

Two maps: the masks in use (at most 48, for each value of the exact field), and the entries, found by the masked key and
the index of its mask. XDP tries every mask and takes the hit of the highest priority. A mask is listed before the
entries that need it are written, and taken off the list after they are gone: a mask without entries hits nothing.
Entries of equal match and different priority are kept under equal masks at different indices.
"""

import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from dataplane.p4runtime.columns import Bytes, Rows, legal, matrix, numbers, pieces
from dataplane.p4runtime.status import Code, Fault
from dataplane.tables.layout import MASKS, PRIORITY, Kind, Layout, Place, TableLayout
from dataplane.tables.stores import Faults, MapWriter, Operation, absent, exists, full, kernel_fault, write_pairs

MaskList = tuple[bytes, ...]
"""By mask_id; those that no entry uses may be among them."""


@dataclass
class _Plan:
    faults: Faults = field(default_factory=dict)
    changes: dict[bytes, bytes | None] = field(default_factory=dict)
    """By key with mask_id; None: delete."""
    row_of: dict[bytes, int] = field(default_factory=dict)
    masks: dict[int, MaskList] = field(default_factory=dict)
    """The lists that change, by index in the map of masks."""


class TernaryStore:
    def __init__(self, layout: Layout, table: TableLayout, entries: MapWriter, masks: MapWriter) -> None:
        self._layout = layout
        self._table = table
        self._entries = entries
        self._mask_map = masks
        self._mask_id = table.key.by_name["mask_id"].offset
        self._exact = table.key.by_name[table.exact] if table.exact else None
        self._shadow: dict[bytes, bytes] = {}
        """Values by key with mask_id."""
        self._masks: dict[int, MaskList] = {}
        self._users: Counter[tuple[int, int]] = Counter()
        """Entries by index in the map of masks, and mask_id."""

    def write(self, operation: Operation, rows: Rows) -> Faults:
        plan = self._plan(operation, rows)
        if plan.faults:
            self.read()
            plan = self._plan(operation, rows)
        return self._commit(plan)

    def read(self) -> Rows:
        keys, values = (matrix(data, size) for data, size in zip(self._entries.items(), self._sizes(), strict=True))
        self._masks = self._read_masks()
        masks, listed = self._masks_of(keys)
        good = listed & legal(self._layout, self._table, keys, masks, values)
        if not good.all():
            self._entries.delete_batch(keys[~good].tobytes())
            keys, values, masks = keys[good], values[good], masks[good]
        self._shadow = dict(zip(pieces(keys), pieces(values), strict=True))
        self._users = Counter(zip(self._indices(keys), keys[:, self._mask_id].tolist(), strict=True))
        plain = keys.copy()
        plain[:, self._mask_id] = 0
        return Rows(plain, masks, numbers(values, PRIORITY), values)

    def clear(self) -> None:
        self.read()
        self._entries.delete_batch(b"".join(self._shadow))
        self._shadow = {}
        self._users.clear()
        for index in [index for index, masks in self._masks.items() if masks]:
            self._write_masks(index, ())

    def _plan(self, operation: Operation, rows: Rows) -> _Plan:
        plan = _Plan()
        used = Counter[tuple[int, int]]()
        room = self._table.table.size - len(self._shadow)
        columns = (pieces(rows.keys), pieces(rows.masks), rows.priorities.tolist(), self._indices(rows.keys))
        values = pieces(rows.values)
        for row, (key, mask, priority, index) in enumerate(zip(*columns, strict=True)):
            masks = plan.masks.get(index) or self._masks.get(index, ())
            there, free = self._find(plan, masks, key, mask, priority)
            if operation is not Operation.INSERT:
                if there is None:
                    plan.faults[row] = absent(self._table)
                elif operation is not Operation.KEEP:
                    plan.changes[there] = values[row] if operation is Operation.MODIFY else None
                    plan.row_of[there] = row
                continue
            if there is not None:
                plan.faults[row] = exists(self._table)
                continue
            if room <= 0:
                plan.faults[row] = full(self._table)
                continue
            if free is None:
                mask_id = self._new_mask_id(index, masks, used)
                if mask_id is None:
                    plan.faults[row] = Fault(
                        Code.RESOURCE_EXHAUSTED,
                        f"{self._table.table.name}: {MASKS} different masks are in use (index {index})",
                    )
                    continue
                plan.masks[index] = (*masks[:mask_id], mask, *masks[mask_id + 1 :])
                free = self._with_mask_id(key, mask_id)
            used[index, free[self._mask_id]] += 1
            plan.changes[free] = values[row]
            plan.row_of[free] = row
            room -= 1
        return plan

    def _find(
        self, plan: _Plan, masks: MaskList, key: bytes, mask: bytes, priority: int
    ) -> tuple[bytes | None, bytes | None]:
        """The key of the entry itself if there is one, and a free one under an equal mask if there is one."""
        free = None
        for mask_id, listed in enumerate(masks):
            if listed != mask:
                continue
            candidate = self._with_mask_id(key, mask_id)
            value = plan.changes[candidate] if candidate in plan.changes else self._shadow.get(candidate)
            if value is None:
                free = free or candidate
            elif int.from_bytes(value[4:8], sys.byteorder) == priority:
                return candidate, None
        return None, free

    def _new_mask_id(self, index: int, masks: MaskList, used: Mapping[tuple[int, int], int]) -> int | None:
        """A mask_id for one more mask: rather a new one than one that packets under way may still know."""
        if len(masks) < MASKS:
            return len(masks)
        unused = (i for i in range(MASKS) if not self._users[index, i] and not used.get((index, i)))
        return next(unused, None)

    def _commit(self, plan: _Plan) -> Faults:
        try:
            for index, masks in plan.masks.items():
                self._write_masks(index, masks)
        except OSError as error:
            self.read()
            return plan.faults | dict.fromkeys(plan.row_of.values(), kernel_fault(self._table, error))
        written = {key: value for key, value in plan.changes.items() if value is not None}
        refused = write_pairs(self._table, self._entries, written)
        deleted = [key for key, value in plan.changes.items() if value is None]
        try:
            if deleted:
                self._entries.delete_batch(b"".join(deleted))
        except OSError as error:
            refused |= dict.fromkeys(deleted, kernel_fault(self._table, error))
        if refused:
            self.read()
            return plan.faults | {plan.row_of[key]: fault for key, fault in refused.items()}
        for key, value in written.items():
            if key not in self._shadow:
                self._users[self._place(key)] += 1
            self._shadow[key] = value
        for key in deleted:
            if self._shadow.pop(key, None) is not None:
                self._users[self._place(key)] -= 1
        self._drop_unused_masks({self._place(key)[0] for key in deleted})
        return plan.faults

    def _drop_unused_masks(self, indices: set[int]) -> None:
        for index in indices:
            masks = self._masks.get(index, ())
            kept = len(masks)
            while kept and not self._users[index, kept - 1]:
                kept -= 1
            if kept < len(masks):
                self._write_masks(index, masks[:kept])

    def _write_masks(self, index: int, masks: MaskList) -> None:
        """The masks first, then their number, since the kernel's copy of a value is not atomic."""
        key = index.to_bytes(4, sys.byteorder)
        listed = b"".join(masks).ljust(MASKS * self._table.key.size, b"\0")
        before = len(self._masks.get(index, ()))
        if before < len(masks):
            self._mask_map.update(key, before.to_bytes(4, sys.byteorder) + listed)
        self._mask_map.update(key, len(masks).to_bytes(4, sys.byteorder) + listed)
        self._masks[index] = masks

    def _read_masks(self) -> dict[int, MaskList]:
        size = self._table.key.size
        keys, values = self._mask_map.items()
        lists = matrix(values, 4 + MASKS * size)
        counts = np.minimum(numbers(lists, Place("count", Kind.HOST, 0, 4)), MASKS)
        indices = numbers(matrix(keys, 4), Place("index", Kind.HOST, 0, 4))
        return {
            int(indices[row]): tuple(pieces(lists[row, 4 : 4 + int(counts[row]) * size].reshape(-1, size)))
            for row in np.flatnonzero(counts)
        }

    def _masks_of(self, keys: Bytes) -> tuple[Bytes, "np.ndarray[tuple[int], np.dtype[np.bool_]]"]:
        """The mask of each key, and whether its mask_id is listed."""
        none = b"\0" * self._table.key.size
        listed = [
            masks[mask_id] if mask_id < len(masks := self._masks.get(index, ())) else None
            for index, mask_id in zip(self._indices(keys), keys[:, self._mask_id].tolist(), strict=True)
        ]
        return (
            matrix(b"".join(mask or none for mask in listed), len(none)),
            np.array([mask is not None for mask in listed], np.bool_),
        )

    def _indices(self, keys: Bytes) -> list[int]:
        if self._exact is None:
            return [0] * len(keys)
        indices: list[int] = numbers(keys, self._exact).tolist()
        return indices

    def _place(self, key: bytes) -> tuple[int, int]:
        exact = self._exact
        if exact is None:
            return 0, key[self._mask_id]
        return int.from_bytes(key[exact.offset : exact.offset + exact.size], sys.byteorder), key[self._mask_id]

    def _with_mask_id(self, key: bytes, mask_id: int) -> bytes:
        return key[: self._mask_id] + bytes((mask_id,)) + key[self._mask_id + 1 :]

    def _sizes(self) -> tuple[int, int]:
        return self._table.key.size, self._table.value_size
