"""The form of an encoded p4.v1.Update of a table entry: which bytes vary, and where they go in map keys and values.

Two updates have the same form if they have the same length and the same bytes everywhere but in match values, masks,
parameters and the priority. Forms come from one example, and only of canonical make: what has fields that the codec
must look at, or values longer than their C type, has no form.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dataplane.p4runtime.codec import EXACT_FIELD_BITS, MAX_PRIORITY
from dataplane.p4runtime.columns import Bytes, Flags, Rows, numbers, prefix_tail_is_zero
from dataplane.p4runtime.p4info import Action, MatchField, MatchType
from dataplane.reasons import CANDIDATE_PATHS
from dataplane.tables.layout import ACTION, PRIORITY, Kind, Layout, Place, Shape, TableLayout
from dataplane.tables.stores import Operation

VARINT, LENGTH_DELIMITED = 0, 2
CANDIDATE = (Place("exact", Kind.HOST, 0, 4), Place("value", Kind.HOST, 4, 1), Place("mask", Kind.HOST, 5, 1))
"""Candidates' keys before they become an index."""


class _NoForm(Exception):
    """This update is for the codec."""


@dataclass(frozen=True, slots=True)
class _Span:
    """A field of the wire format; `start` to `end` is its payload."""

    number: int
    wire_type: int
    start: int
    end: int
    value: int
    """Of varints."""


@dataclass(frozen=True, slots=True)
class _Copy:
    """Bytes of the update that become one field of a row."""

    start: int
    end: int
    bitwidth: int
    place: Place
    limit: tuple[int, int] | None

    def run(self, updates: Bytes, target: Bytes) -> Flags:
        """Copies, and says which rows are in range."""
        size = self.end - self.start
        source = updates[:, self.start : self.end]
        offset, width = self.place.offset, self.place.size
        if self.place.kind.byteorder == "big":
            target[:, offset + width - size : offset + width] = source
        else:
            target[:, offset : offset + size] = source[:, ::-1]
        good: Flags = np.ones(len(updates), np.bool_)
        if (spare := 8 * size - self.bitwidth) > 0:
            good &= source[:, 0] >> (8 - spare) == 0
        if self.limit is not None:
            column = numbers(target, self.place)
            good &= (column >= self.limit[0]) & (column <= self.limit[1])
        return good


class WireForm:
    def __init__(self, layout: Layout, update: bytes, operation: Operation, table: TableLayout) -> None:
        self.operation = operation
        self.table = table
        self._layout = layout
        self._copies: dict[str, list[_Copy]] = {"key": [], "mask": [], "value": []}
        self._fixed = np.ones(len(update), np.bool_)
        self._priority: tuple[int, int] | None = None
        self._prefix_length: int | None = None
        self._key = np.zeros(6 if table.shape is Shape.CANDIDATES else table.key.size, np.uint8)
        self._mask = np.zeros(table.key.size if table.shape is Shape.TERNARY else 0, np.uint8)
        keeps_value = operation in (Operation.INSERT, Operation.MODIFY)
        self._value = np.zeros(table.value_size if keeps_value else 0, np.uint8)
        self._read(update)
        self._positions = np.flatnonzero(self._fixed)
        self._pattern = np.frombuffer(update, np.uint8)[self._positions]

    def matches(self, updates: Bytes) -> Flags:
        """Which of these, of the example's length, have this form."""
        same: Flags = np.all(updates[:, self._positions] == self._pattern, axis=1)
        if self._priority is not None:
            start, end = self._priority
            same &= np.all(updates[:, start : end - 1] & 0x80, axis=1) & (updates[:, end - 1] < 0x80)
        return same

    def rows(self, updates: Bytes) -> tuple[Rows, Flags]:
        """Rows of updates of this form, and which of them are in order; the others are for the codec to refuse."""
        count = len(updates)
        keys, masks, values = (np.tile(start, (count, 1)) for start in (self._key, self._mask, self._value))
        good: Flags = np.ones(count, np.bool_)
        for name, target in (("key", keys), ("mask", masks), ("value", values)):
            for copy in self._copies[name]:
                good &= copy.run(updates, target)
        priorities = np.zeros(count, np.uint32)
        if self._priority is not None:
            wide = self._varints(updates)
            good &= (wide > 0) & (wide <= MAX_PRIORITY)
            priorities = wide.astype(np.uint32)
        keys, checked = self._finish(keys, masks, values, priorities)
        good &= checked
        return Rows(keys, masks, priorities, values), good

    def _varints(self, updates: Bytes) -> "np.ndarray[tuple[int], np.dtype[np.uint64]]":
        assert self._priority is not None
        start, end = self._priority
        wide = np.zeros(len(updates), np.uint64)
        for shift, position in enumerate(range(start, end)):
            wide |= (updates[:, position] & 0x7F).astype(np.uint64) << np.uint64(7 * shift)
        return wide

    def _finish(
        self, keys: Bytes, masks: Bytes, values: Bytes, priorities: "np.ndarray[tuple[int], np.dtype[np.uint32]]"
    ) -> tuple[Bytes, Flags]:
        """What depends on several fields; by shape."""
        good: Flags = np.ones(len(keys), np.bool_)
        places = self.table.key.by_name
        match self.table.shape:
            case Shape.ARRAY | Shape.HASH:
                pass
            case Shape.LPM:
                if self._prefix_length is not None:
                    address = self.table.key.places[2]
                    good = prefix_tail_is_zero(keys[:, address.offset :], self._prefix_length)
            case Shape.CANDIDATES:
                exact, value, mask = (numbers(keys, place) for place in CANDIDATE)
                slots = np.log2(np.maximum(value, 1)).astype(np.uint32)
                good = (value == mask) & (value != 0) & (value == np.uint32(1) << slots)
                good &= priorities == CANDIDATE_PATHS - slots
                keys = (exact * np.uint32(CANDIDATE_PATHS) + slots).astype(np.uint32).view(np.uint8).reshape(-1, 4)
            case Shape.RANGE:
                name = self.table.table.fields[1].name
                low, high = (numbers(keys, places[f"{name}_{end}"]) for end in ("low", "high"))
                whole = (low == 0) & (high == 2 ** self.table.table.fields[1].bitwidth - 1)
                good = (low <= high) & ~(whole & self._has_range())
                keys[:, places["priority"].offset :][:, :4] = priorities.view(np.uint8).reshape(-1, 4)
            case Shape.TERNARY:
                good = ~np.any(keys & ~masks, axis=1)
                for copy in self._copies["mask"]:
                    place = copy.place
                    good &= np.any(masks[:, place.offset : place.offset + place.size], axis=1)
                if values.shape[1]:
                    values[:, PRIORITY.offset : PRIORITY.offset + 4] = priorities.view(np.uint8).reshape(-1, 4)
        return keys, good

    def _has_range(self) -> bool:
        return any(copy.place.name.endswith("_low") for copy in self._copies["key"])

    def _read(self, update: bytes) -> None:
        (kind, entity) = _only(update, 0, len(update), (1, VARINT), (2, LENGTH_DELIMITED))
        (entry,) = _only(update, entity.start, entity.end, (2, LENGTH_DELIMITED))
        self._prepare()
        seen: set[int] = set()
        acted = False
        for span in _spans(update, entry.start, entry.end):
            match span.number, span.wire_type:
                case (1, 0):
                    if span.value != self.table.table.id:
                        raise _NoForm
                case (2, 2):
                    self._read_match(update, span, seen)
                case (3, 2) if not acted:
                    acted = True
                    self._read_action(update, span)
                case (4, 0) if self._priority is None and self.table.table.has_priority:
                    self._priority = (span.start, span.end)
                    self._fixed[span.start : span.end] = False
                case _:
                    raise _NoForm
        exact = {field.id for field in self.table.table.fields if field.match_type is MatchType.EXACT}
        if not exact <= seen or kind.value == 0 or (self.table.table.has_priority and self._priority is None):
            raise _NoForm
        if self.table.shape is Shape.CANDIDATES and len(seen) != 2:
            raise _NoForm

    def _prepare(self) -> None:
        """What rows hold where the update says nothing: don't care."""
        if self.table.shape is Shape.LPM:
            self._set(self._key, self.table.key.places[0], EXACT_FIELD_BITS)
        elif self.table.shape is Shape.RANGE:
            ranged = self.table.table.fields[1]
            self._set(self._key, self.table.key.by_name[f"{ranged.name}_high"], 2**ranged.bitwidth - 1)
        elif self.table.shape is Shape.TERNARY and self.table.exact:
            place = self.table.key.by_name[self.table.exact]
            self._mask[place.offset : place.offset + place.size] = 0xFF

    def _read_match(self, update: bytes, match: _Span, seen: set[int]) -> None:
        spans = list(_spans(update, match.start, match.end))
        if [span.wire_type for span in spans] != [VARINT, LENGTH_DELIMITED] or spans[0].number != 1:
            raise _NoForm
        field = self.table.table.field_by_id.get(spans[0].value)
        if field is None or field.id in seen:
            raise _NoForm
        seen.add(field.id)
        inner = {span.number: span for span in _spans(update, spans[1].start, spans[1].end)}
        expected = {
            MatchType.EXACT: (2, {1: LENGTH_DELIMITED}),
            MatchType.TERNARY: (3, {1: LENGTH_DELIMITED, 2: LENGTH_DELIMITED}),
            MatchType.LPM: (4, {1: LENGTH_DELIMITED, 2: VARINT}),
            MatchType.RANGE: (6, {1: LENGTH_DELIMITED, 2: LENGTH_DELIMITED}),
        }[field.match_type]
        if (spans[1].number, {number: span.wire_type for number, span in inner.items()}) != expected:
            raise _NoForm
        self._copy_match(field, inner)

    def _copy_match(self, field: MatchField, inner: dict[int, _Span]) -> None:
        places, limit = self.table.key.by_name, self._layout.limits.get(field.name)
        match self.table.shape, field.match_type:
            case Shape.ARRAY, _:
                self._copy("key", inner[1], field.bitwidth, self.table.key.places[0], limit)
            case Shape.CANDIDATES, MatchType.EXACT:
                self._copy("key", inner[1], field.bitwidth, CANDIDATE[0], limit)
            case Shape.CANDIDATES, _:
                self._copy("key", inner[1], field.bitwidth, CANDIDATE[1])
                self._copy("key", inner[2], field.bitwidth, CANDIDATE[2])
            case _, MatchType.EXACT:
                self._copy("key", inner[1], field.bitwidth, places[field.name], limit)
            case _, MatchType.TERNARY:
                self._copy("key", inner[1], field.bitwidth, places[field.name])
                self._copy("mask", inner[2], field.bitwidth, places[field.name])
            case _, MatchType.RANGE:
                self._set(self._key, places[f"{field.name}_high"], 0)
                self._copy("key", inner[1], field.bitwidth, places[f"{field.name}_low"])
                self._copy("key", inner[2], field.bitwidth, places[f"{field.name}_high"])
            case _, MatchType.LPM:
                self._prefix_length = inner[2].value
                if not 0 < self._prefix_length <= field.bitwidth:
                    raise _NoForm
                self._set(self._key, self.table.key.places[0], EXACT_FIELD_BITS + self._prefix_length)
                self._copy("key", inner[1], field.bitwidth, places[field.name])

    def _read_action(self, update: bytes, table_action: _Span) -> None:
        (action_span,) = _only(update, table_action.start, table_action.end, (1, LENGTH_DELIMITED))
        action_id, params = 0, list[_Span]()
        for span in _spans(update, action_span.start, action_span.end):
            if (span.number, span.wire_type) == (1, VARINT):
                action_id = span.value
            elif (span.number, span.wire_type) == (4, LENGTH_DELIMITED):
                params.append(span)
            else:
                raise _NoForm
        laid = self.table.by_action_id.get(action_id)
        if laid is None or len(params) != len(laid.params):
            raise _NoForm
        if len(self._value):  # A DELETE's action says nothing (P4Runtime §9.1).
            self._set(self._value, ACTION, laid.number)
        places = dict(zip((param.id for param in laid.action.params), laid.params, strict=True))
        for span in params:
            self._copy_param(update, span, laid.action, places)

    def _copy_param(self, update: bytes, span: _Span, action: Action, places: dict[int, Place]) -> None:
        number, value = _only(update, span.start, span.end, (2, VARINT), (3, LENGTH_DELIMITED))
        place = places.pop(number.value, None)
        if place is None:
            raise _NoForm
        if not len(self._value):
            self._fixed[value.start : value.end] = False
            return
        param = next(param for param in action.params if param.id == number.value)
        self._copy("value", value, param.bitwidth, place, self._layout.param_limits.get(param.name))

    def _copy(
        self, target: str, span: _Span, bitwidth: int, place: Place, limit: tuple[int, int] | None = None
    ) -> None:
        size = span.end - span.start
        if not 0 < size <= min(place.size, (bitwidth + 7) // 8):
            raise _NoForm
        self._fixed[span.start : span.end] = False
        self._copies[target].append(_Copy(span.start, span.end, bitwidth, place, limit))

    def _set(self, row: "np.ndarray[tuple[int], np.dtype[np.uint8]]", place: Place, value: int) -> None:
        encoded = value.to_bytes(place.size, place.kind.byteorder)
        row[place.offset : place.offset + place.size] = np.frombuffer(encoded, np.uint8)


def learn(layout: Layout, update: bytes, operation: Operation, table: TableLayout) -> WireForm | None:
    """The form of `update`, which the codec read without a fault; None: it has none."""
    try:
        return WireForm(layout, update, operation, table)
    except _NoForm:
        return None


def _only(data: bytes, start: int, end: int, *wanted: tuple[int, int]) -> list[_Span]:
    """The spans, if they are exactly `wanted` (number, wire type) in this order."""
    spans = list(_spans(data, start, end))
    if [(span.number, span.wire_type) for span in spans] != list(wanted):
        raise _NoForm
    return spans


def _spans(data: bytes, start: int, end: int) -> Iterator[_Span]:
    """The fields of a message (protobuf encoding); varints and length-delimited ones only."""
    position = start
    while position < end:
        tag, position = _varint(data, position)
        number, wire_type = tag >> 3, tag & 7
        value, after = _varint(data, position)
        if wire_type == VARINT:
            yield _Span(number, wire_type, position, after, value)
            position = after
        elif wire_type == LENGTH_DELIMITED:
            yield _Span(number, wire_type, after, after + value, 0)
            position = after + value
        else:
            raise _NoForm


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """The number, and where the next field starts."""
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
