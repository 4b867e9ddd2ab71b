"""How the tables' entries lie in BPF maps: the C structs of keys and values, derived from the P4Info.

`python -m dataplane.tables.header` writes ebpf/tables.h from it.

| shape | map's key | found by | for tables with |
|---|---|---|---|
| array | u32 = the one field | index | one exact field |
| candidates | u32 = exact field * 8 + slot | index | an exact field and a one-hot ternary one |
| hash | struct | whole key | exact fields |
| lpm | struct, fields big-endian | longest prefix | an exact field and an LPM one of 128 bits |
| range | (classes by port) | protocol | an exact field and a range of 16 bits |
| ternary | struct with mask_id | tuple-space search | ternary fields, and perhaps an exact one |

Integers are in the host's byte order, except in keys of LPM; MACs and addresses are in network order.
"""

import enum
import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from dataplane.p4runtime.p4info import Action, MatchType, P4Info, P4InfoInvalid, Table
from dataplane.reasons import CANDIDATE_PATHS, MERGE_BITS_MOST

MASKS = 48
"""Masks that a tuple-space search tries at most."""
UNDECIDED = "next_hop"
"""What 0 stands for in p4src/types.p4 where no way is decided; so no entry has it."""
NO_ENTRY = 0
"""The action number that says: this array element is no entry. Actions count from 1."""


class Shape(enum.Enum):
    ARRAY = "array"
    CANDIDATES = "candidates"
    HASH = "hash"
    LPM = "lpm"
    RANGE = "range"
    TERNARY = "ternary"


class Kind(enum.Enum):
    """How a field's bytes are to be read."""

    HOST = "host"
    """An integer of 1, 2 or 4 bytes in the host's byte order."""
    NETWORK = "network"
    """An integer of 4 bytes in network order (of LPM keys, whose prefixes run from the first bit on)."""
    MAC = "mac"
    ADDRESS = "address"

    @property
    def byteorder(self) -> Literal["little", "big"]:
        return sys.byteorder if self is Kind.HOST else "big"


@dataclass(frozen=True, slots=True)
class Place:
    """One field of a struct."""

    name: str
    kind: Kind
    offset: int
    size: int


ACTION = Place("action", Kind.HOST, 0, 4)
"""In every value."""
PRIORITY = Place("priority", Kind.HOST, 4, 4)
"""In values of ternary tables."""


def octets(struct: bytes, place: Place) -> bytes:
    return struct[place.offset : place.offset + place.size]


def number(struct: bytes, place: Place) -> int:
    return int.from_bytes(struct[place.offset : place.offset + place.size], place.kind.byteorder)


@dataclass(frozen=True)
class Struct:
    name: str
    places: tuple[Place, ...]
    size: int

    @cached_property
    def by_name(self) -> Mapping[str, Place]:
        return {place.name: place for place in self.places}


@dataclass(frozen=True, slots=True)
class ActionLayout:
    action: Action
    number: int
    """In the value's first 4 bytes; 0 is no entry."""
    params: tuple[Place, ...]
    """In the order of the P4Info; offsets from the start of the value."""


@dataclass(frozen=True)
class TableLayout:
    table: Table
    shape: Shape
    key: Struct
    """Of range tables: of the map of ranges, not the one of classes."""
    value_size: int
    value_align: int
    actions: tuple[ActionLayout, ...]

    @cached_property
    def by_number(self) -> Mapping[int, ActionLayout]:
        return {action.number: action for action in self.actions}

    @cached_property
    def by_action_id(self) -> Mapping[int, ActionLayout]:
        return {action.action.id: action for action in self.actions}

    @property
    def exact(self) -> str | None:
        """The exact field that ranges, masks and candidates are kept by; None: there is none."""
        return next((field.name for field in self.table.fields if field.match_type is MatchType.EXACT), None)


@dataclass(frozen=True)
class Layout:
    p4info: P4Info
    tables: tuple[TableLayout, ...]

    @cached_property
    def by_name(self) -> Mapping[str, TableLayout]:
        return {layout.table.name: layout for layout in self.tables}

    @cached_property
    def by_table_id(self) -> Mapping[int, TableLayout]:
        return {layout.table.id: layout for layout in self.tables}

    @cached_property
    def limits(self) -> Mapping[str, tuple[int, int]]:
        """Lowest and highest value of match fields and parameters that are indices of something, by name.

        Whatever bears the name of an array's key field, or refers to it, indexes that array.
        """
        limits = {"policy_class": (0, self.policy_classes - 1), "merge_bits": (0, MERGE_BITS_MOST)}
        for layout in self.tables:
            if layout.shape in (Shape.ARRAY, Shape.CANDIDATES):
                name = layout.table.fields[0].name
                rows = layout.table.size // (CANDIDATE_PATHS if layout.shape is Shape.CANDIDATES else 1)
                least = 1 if name == UNDECIDED else 0
                limits[name] = (least, min(rows - 1, limits.get(name, (0, rows - 1))[1]))
        for layout in self.tables:
            for param in (param for action in layout.table.actions for param in action.params):
                for _, field in param.refers_to:
                    if field in limits:
                        limits[param.name] = limits[field]
        return limits

    @cached_property
    def param_limits(self) -> Mapping[str, tuple[int, int]]:
        """The same of parameters. What leads into a VRF by its number does not lead into the fabric's, 0."""
        params = (param for layout in self.tables for action in layout.table.actions for param in action.params)
        vrfs = (param for param in params if any(field == "vrf" for _, field in param.refers_to))
        return {**self.limits, **{param.name: (1, 2**param.bitwidth - 1) for param in vrfs}}

    @property
    def policy_classes(self) -> int:
        """How many there can be: what XDP caches has a generation of each."""
        return self.p4info.counter_by_name["policy_class_counter"].size

    @property
    def map_sizes(self) -> Mapping[str, int]:
        """Most entries of each BPF map that follows from the P4Info's sizes."""
        sizes = {counter.name: counter.size for counter in self.p4info.counters}
        sizes |= {"generation": self.policy_classes, "flow_policy_masks": self.policy_classes}
        for layout in self.tables:
            name = f"{layout.table.name}_range" if layout.shape is Shape.RANGE else layout.table.name
            sizes[name] = layout.table.size
        return sizes

    @cached_property
    def digest(self) -> str:
        """Names one layout: pinned maps of another digest must not be read."""
        text = "\n".join(_describe(layout) for layout in self.tables)
        return hashlib.sha256(f"{sys.byteorder}\n{text}".encode()).hexdigest()[:16]


def of(p4info: P4Info) -> Layout:
    """Raises P4InfoInvalid where a table fits no shape."""
    return Layout(p4info, tuple(_table(table) for table in p4info.tables))


def _describe(layout: TableLayout) -> str:
    places = [f"{p.name}:{p.kind.value}@{p.offset}+{p.size}" for p in layout.key.places]
    actions = [
        f"{a.number}={a.action.name}({','.join(f'{p.name}:{p.kind.value}@{p.offset}+{p.size}' for p in a.params)})"
        for a in layout.actions
    ]
    head = f"{layout.table.name} {layout.shape.value} {layout.table.size}"
    return f"{head} key {layout.key.size} {places} value {layout.value_size} {actions}"


def _table(table: Table) -> TableLayout:
    shape = _shape(table)
    union_align = max((_storage(table, p.bitwidth)[2] for a in table.actions for p in a.params), default=1)
    header = 8 if shape is Shape.TERNARY else 4
    start = _round_up(header, union_align)
    actions, end = [], start
    for number, action in enumerate(table.actions, NO_ENTRY + 1):
        places, size = _lay([(param.name, *_storage(table, param.bitwidth)) for param in action.params], start)
        end = max(end, size)
        actions.append(ActionLayout(action, number, tuple(places[param.name] for param in action.params)))
    align = max(4, union_align)
    return TableLayout(table, shape, _key(table, shape), _round_up(end, align), align, tuple(actions))


def _shape(table: Table) -> Shape:
    exact = [f for f in table.fields if f.match_type is MatchType.EXACT]
    rest = [f for f in table.fields if f.match_type is not MatchType.EXACT]
    kinds = {f.match_type for f in rest}
    if not rest and len(exact) == 1:
        return Shape.ARRAY
    if not rest and exact:
        return Shape.HASH
    if len(exact) == 1 and len(rest) == 1 and kinds == {MatchType.LPM} and rest[0].bitwidth == 128:
        return Shape.LPM
    if len(exact) == 1 and len(rest) == 1 and kinds == {MatchType.RANGE} and rest[0].bitwidth == 16:
        return Shape.RANGE
    if len(exact) <= 1 and kinds == {MatchType.TERNARY}:
        one_hot = "{0}::mask == {0}::value && {0}::mask != 0".format(rest[0].name)
        if len(exact) == 1 and len(rest) == 1 and table.entry_restriction == one_hot:
            return Shape.CANDIDATES
        return Shape.TERNARY
    raise P4InfoInvalid(f"P4Info: the key of table {table.name!r} fits none of the shapes {[s.value for s in Shape]}")


def _key(table: Table, shape: Shape) -> Struct:
    fields = [(field.name, *_storage(table, field.bitwidth)) for field in table.fields]
    match shape:
        case Shape.ARRAY | Shape.CANDIDATES:
            return Struct("index", (Place("index", Kind.HOST, 0, 4),), 4)
        case Shape.LPM:
            exact, address = table.fields
            prefix = Place("prefix_length", Kind.HOST, 0, 4)
            places = (prefix, Place(exact.name, Kind.NETWORK, 4, 4), Place(address.name, Kind.ADDRESS, 8, 16))
            return Struct(f"{table.name}_key", places, 24)
        case Shape.RANGE:
            exact, ranged = table.fields
            low_high = [(f"{ranged.name}_{end}", *_storage(table, ranged.bitwidth)) for end in ("low", "high")]
            fields = [("priority", Kind.HOST, 4, 4), *low_high, fields[0]]
            name = f"{table.name}_range_key"
        case Shape.TERNARY:
            fields = [*fields, ("mask_id", Kind.HOST, 1, 1)]
            name = f"{table.name}_key"
        case Shape.HASH:
            name = f"{table.name}_key"
    placed, end = _lay(fields, 0)
    align = max(align for *_, align in fields)
    return Struct(name, tuple(sorted(placed.values(), key=lambda p: p.offset)), _round_up(end, align))


def _lay(fields: list[tuple[str, Kind, int, int]], start: int) -> tuple[dict[str, Place], int]:
    """Places by name, and the end of the last one.

    Larger alignments come first, so that there are no holes; but addresses last, so that the numbers and the first
    segments of a segment list are in one cache line.
    """
    places: dict[str, Place] = {}
    offset = start
    for name, kind, size, align in sorted(fields, key=lambda field: (field[1] is Kind.ADDRESS, -field[3])):
        offset = _round_up(offset, align)
        places[name] = Place(name, kind, offset, size)
        offset += size
    return places, offset


def _storage(table: Table, bitwidth: int) -> tuple[Kind, int, int]:
    """Kind, size and alignment in bytes."""
    if bitwidth <= 8:
        return Kind.HOST, 1, 1
    if bitwidth <= 16:
        return Kind.HOST, 2, 2
    if bitwidth <= 32:
        return Kind.HOST, 4, 4
    if bitwidth == 48:
        return Kind.MAC, 6, 1
    if bitwidth == 128:
        return Kind.ADDRESS, 16, 8
    raise P4InfoInvalid(f"P4Info: table {table.name!r}: no C type for {bitwidth} bits")


def _round_up(offset: int, align: int) -> int:
    return (offset + align - 1) // align * align
