"""Many entries of one table at once: rows of bytes as they lie in maps, and checks over whole columns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dataplane.p4runtime.codec import EXACT_FIELD_BITS, Packed
from dataplane.p4runtime.p4info import MatchType
from dataplane.tables.layout import ACTION, PRIORITY, Kind, Layout, Place, Shape, TableLayout

Bytes = NDArray[np.uint8]
"""Shape (rows, bytes of one)."""
Flags = NDArray[np.bool_]
Numbers = NDArray[np.uint32]


@dataclass(frozen=True)
class Rows:
    """Entries of one table, as `codec.Packed`, one row each."""

    keys: Bytes
    masks: Bytes
    """As wide as the keys for ternary tables, else 0 wide."""
    priorities: Numbers
    values: Bytes
    """0 wide where no action was given."""

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, chosen: Flags | NDArray[np.intp] | slice) -> "Rows":
        return Rows(self.keys[chosen], self.masks[chosen], self.priorities[chosen], self.values[chosen])


def matrix(data: bytes, width: int) -> Bytes:
    """`data` cut in rows of `width` bytes; read-only."""
    return np.frombuffer(data, np.uint8).reshape(-1, width)


def pieces(rows: Bytes) -> list[bytes]:
    """Each row as bytes."""
    if not rows.shape[1]:
        return [b""] * len(rows)
    # numpy's void type keeps trailing zeros, unlike its bytes type.
    rows_as_bytes: list[bytes] = np.ascontiguousarray(rows).view(f"V{rows.shape[1]}").ravel().tolist()
    return rows_as_bytes


def from_packed(layout: TableLayout, entries: Sequence[Packed]) -> Rows:
    """Rows of `entries`, which all have a value, or all have none."""
    return Rows(
        keys=matrix(b"".join(entry.key for entry in entries), layout.key.size),
        masks=matrix(b"".join(e.mask for e in entries), layout.key.size) if entries[0].mask else _none(len(entries)),
        priorities=np.array([entry.priority for entry in entries], np.uint32),
        values=matrix(b"".join(e.value for e in entries), layout.value_size)
        if entries[0].value
        else _none(len(entries)),
    )


def numbers(rows: Bytes, place: Place) -> Numbers:
    """The field at `place` of each row, of at most 4 bytes."""
    cut = np.ascontiguousarray(rows[:, place.offset : place.offset + place.size])
    order = "<" if place.kind.byteorder == "little" else ">"
    return cut.view(f"{order}u{place.size}").ravel().astype(np.uint32)


def legal(layout: Layout, table: TableLayout, keys: Bytes, masks: Bytes, values: Bytes) -> Flags:
    """Which rows are entries that a client could have written."""
    good = _legal_values(layout, table, values)
    match table.shape:
        case Shape.ARRAY | Shape.CANDIDATES:
            pass  # The kernel takes no other index.
        case Shape.HASH | Shape.TERNARY:
            good &= _legal_exact(layout, table, keys) & _zero_outside(table.key.places, keys)
        case Shape.LPM:
            good &= _legal_exact(layout, table, keys) & _legal_prefixes(table, keys)
        case Shape.RANGE:
            low, high = (table.key.by_name[f"{table.table.fields[1].name}_{end}"] for end in ("low", "high"))
            good &= (numbers(keys, low) <= numbers(keys, high)) & (numbers(keys, table.key.by_name["priority"]) > 0)
            good &= _legal_exact(layout, table, keys) & _zero_outside(table.key.places, keys)
    if table.shape is Shape.TERNARY:
        matched_places = [place for place in table.key.places if place.name != "mask_id"]
        cut = np.concatenate([np.arange(place.offset, place.offset + place.size) for place in matched_places])
        good &= ~np.any(keys[:, cut] & ~masks[:, cut], axis=1)
        good &= numbers(values, PRIORITY) > 0
    return good


def prefix_tail_is_zero(addresses: Bytes, prefix_length: int) -> Flags:
    """Which addresses (16 bytes each) have no bit beyond the prefix."""
    whole, bits = divmod(prefix_length, 8)
    good: Flags = ~np.any(addresses[:, whole + (bits > 0) :], axis=1)
    if bits:
        good &= (addresses[:, whole] & (0xFF >> bits)) == 0
    return good


def _none(rows: int) -> Bytes:
    return np.zeros((rows, 0), np.uint8)


def _within(limits: Mapping[str, tuple[int, int]], name: str, bitwidth: int, column: Numbers) -> Flags:
    low, high = limits.get(name, (0, 2**bitwidth - 1))
    within: Flags = (column >= low) & (column <= high)
    return within


def _legal_exact(layout: Layout, table: TableLayout, keys: Bytes) -> Flags:
    good: Flags = np.ones(len(keys), np.bool_)
    for field in table.table.fields:
        place = table.key.by_name.get(field.name)
        if place is None or place.kind not in (Kind.HOST, Kind.NETWORK):
            continue
        good &= (
            _within(layout.limits, field.name, field.bitwidth, numbers(keys, place))
            if field.match_type is MatchType.EXACT
            else numbers(keys, place) <= 2**field.bitwidth - 1
        )
    return good


def _legal_prefixes(table: TableLayout, keys: Bytes) -> Flags:
    prefix, _, address = table.key.places
    lengths = numbers(keys, prefix).astype(np.int64) - EXACT_FIELD_BITS
    good: Flags = (lengths >= 0) & (lengths <= 8 * address.size)
    addresses = keys[:, address.offset : address.offset + address.size]
    for length in np.unique(lengths[good]):
        same = lengths == length
        good[same] = prefix_tail_is_zero(addresses[same], int(length))
    return good


def _legal_values(layout: Layout, table: TableLayout, values: Bytes) -> Flags:
    actions = numbers(values, ACTION)
    good: Flags = np.zeros(len(values), np.bool_)
    for action in table.actions:
        same = actions == action.number
        if not same.any():
            continue
        fits: Flags = np.ones(int(same.sum()), np.bool_)
        for place, param in zip(action.params, action.action.params, strict=True):
            if place.kind is Kind.HOST:
                fits &= _within(layout.param_limits, param.name, param.bitwidth, numbers(values[same], place))
        good[same] = fits
    return good


def _zero_outside(places: Sequence[Place], rows: Bytes) -> Flags:
    holes = np.ones(rows.shape[1], np.bool_)
    for place in places:
        holes[place.offset : place.offset + place.size] = False
    zero: Flags = ~np.any(rows[:, holes], axis=1)
    return zero
