"""The text of ebpf/tables.h: structs of keys and values, sizes, and the numbers of dataplane/reasons.py, for C."""

import enum
import sys
from collections.abc import Iterator
from pathlib import Path

from dataplane import reasons
from dataplane.p4runtime import p4info
from dataplane.tables import layout
from dataplane.tables.layout import MASKS, ActionLayout, Kind, Layout, Place, Shape, Struct, TableLayout

HEADER_FILE = Path(__file__).parent.parent / "ebpf" / "tables.h"

ENUMS: tuple[tuple[str, str, type[enum.IntEnum]], ...] = (
    ("drop_reason", "DROP", reasons.DropReason),
    ("port_loss", "LOSS", reasons.PortLoss),
    ("punt_reason", "PUNT", reasons.PuntReason),
    ("icmp_error", "ERROR", reasons.IcmpError),
    ("l4_class", "L4", reasons.L4Class),
    ("pipeline_event", "EVENT", reasons.PipelineEvent),
)
CONSTANTS = (
    "FABRIC_VRF",
    "ATTACHMENT_CLASS",
    "FABRIC_CLASS",
    "SID_BLOCK",
    "PORTS",
    "PORT_LOSSES",
    "CONTAINERS",
    "MAX_SEGMENTS",
    "MERGE_BITS_MOST",
    "CANDIDATE_PATHS",
    "FLOW_CACHE_WAYS",
    "CONVERSATION_WAYS",
    "NEIGHBORS_OF_PORT",
    "FRAGMENT_SHARES",
    "FRAGMENT_WAYS",
    "FRAGMENT_PARTS",
    "EXTENSION_HEADERS",
    "EXTENSIONS_END",
    "IPV6_LEAST_MTU",
    "CUT_SMALLEST_MTU",
    "CUT_LARGEST_PACKET",
    "TRIMMED_LENGTH",
)
C_TYPES = {(Kind.HOST, 1): "__u8", (Kind.HOST, 2): "__u16", (Kind.HOST, 4): "__u32", (Kind.NETWORK, 4): "__be32"}
PROLOGUE = """\
/* Generated from p4src/stitch.p4info.txtpb and dataplane/reasons.py by `python -m dataplane.tables.header`; do not edit. */
/* clang-format off */
#pragma once
"""
ADDRESS = """\
union address {
	__u8 byte[16];
	__u32 word[4];
	__u64 half[2];
};
"""


def main(arguments: list[str]) -> int:
    """`python -m dataplane.tables.header [--check]`."""
    if arguments not in ([], ["--check"]):
        print("usage: python -m dataplane.tables.header [--check]", file=sys.stderr)
        return 2
    text = header(layout.of(p4info.load()))
    if not arguments:
        HEADER_FILE.write_text(text)
    elif HEADER_FILE.read_text() != text:
        print(f"{HEADER_FILE} is not what the P4Info says: run python -m dataplane.tables.header", file=sys.stderr)
        return 1
    return 0


def header(pipeline: Layout) -> str:
    parts = [PROLOGUE]
    parts += [_enum(name, prefix, values) for name, prefix, values in ENUMS]
    parts.append("".join(f"#define {name} {_constant(name)}\n" for name in CONSTANTS))
    parts.append("".join(f"#define {c.name.upper()}_SIZE {c.size}\n" for c in pipeline.p4info.counters))
    parts.append(ADDRESS)
    parts += ["".join(_table(table)) for table in pipeline.tables]
    return "\n".join(parts)


def _constant(name: str) -> str:
    value: int = getattr(reasons, name)
    return hex(value) if name == "SID_BLOCK" else str(value)


def _enum(name: str, prefix: str, values: type[enum.IntEnum]) -> str:
    members = "".join(f"\t{prefix}_{member.name} = {member.value},\n" for member in values)
    return f"enum {name} {{\n{members}}};\n"


def _table(table: TableLayout) -> Iterator[str]:
    name = table.table.name
    upper = name.upper()
    yield f"/* {name}: {table.shape.value} */\n#define {upper}_SIZE {table.table.size}\n"
    yield f"enum {name}_action {{\n\t{upper}_NO_ENTRY,\n"
    yield from (f"\t{upper}_{action.action.name.upper()},\n" for action in table.actions)
    yield "};\n"
    match table.shape:
        case Shape.HASH | Shape.TERNARY:
            yield from _struct(table.key)
        case Shape.LPM:
            yield from _lpm_key(table.key)
        case Shape.RANGE:
            yield f"struct {name}_value {{\n\t__u16 {table.actions[0].params[0].name}[65536]; /* by port */\n}};\n"
            yield "/* The entries as they were written, which the classes follow from; for user space only. */\n"
            yield from _struct(table.key)
        case Shape.ARRAY | Shape.CANDIDATES:
            pass
    if table.shape is Shape.TERNARY:
        yield f"#define {upper}_MASKS {MASKS}\n"
        yield f"struct {name}_masks {{\n\t__u32 count;\n\tstruct {name}_key mask[{upper}_MASKS];\n}};\n"
    yield from _value(table, f"{name}_range_value" if table.shape is Shape.RANGE else f"{name}_value")


def _struct(struct: Struct) -> Iterator[str]:
    yield f"struct {struct.name} {{\n"
    ends = [place.offset for place in struct.places[1:]] + [struct.size]
    for place, end in zip(struct.places, ends, strict=True):
        yield f"\t{_declare(place)};\n"
        if hole := end - place.offset - place.size:
            yield f"\t__u8 zero{f'[{hole}]' if hole > 1 else ''};\n"
    yield f'}};\n_Static_assert(sizeof(struct {struct.name}) == {struct.size}, "{struct.name}");\n'


def _lpm_key(struct: Struct) -> Iterator[str]:
    prefix, exact, address = struct.places
    yield f"struct {struct.name} {{\n\t{_declare(prefix)}; /* bits of all that follows */\n"
    yield f"\t{_declare(exact)};\n\t{_declare(address)};\n}} __attribute__((packed, aligned(4)));\n"
    yield f'_Static_assert(sizeof(struct {struct.name}) == {struct.size}, "{struct.name}");\n'


def _value(table: TableLayout, name: str) -> Iterator[str]:
    yield f"struct {name} {{\n\t__u32 action; /* enum {table.table.name}_action */\n"
    if table.shape is Shape.TERNARY:
        yield "\t__u32 priority;\n"
    with_params = [action for action in table.actions if action.params]
    if with_params:
        yield "\tunion {\n"
        for action in with_params:
            yield from _params(action)
        yield "\t};\n"
    yield f'}};\n_Static_assert(sizeof(struct {name}) == {table.value_size}, "{name}");\n'


def _params(action: ActionLayout) -> Iterator[str]:
    yield "\t\tstruct {\n"
    for place in sorted(action.params, key=lambda place: place.offset):
        yield f"\t\t\t{_declare(place)};\n"
    yield f"\t\t}} {action.action.name};\n"


def _declare(place: Place) -> str:
    match place.kind:
        case Kind.ADDRESS:
            return f"union address {place.name}"
        case Kind.MAC:
            return f"__u8 {place.name}[6]"
        case Kind.HOST | Kind.NETWORK:
            return f"{C_TYPES[place.kind, place.size]} {place.name}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
