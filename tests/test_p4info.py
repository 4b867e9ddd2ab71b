"""dataplane.p4runtime.p4info, dataplane.tables.layout and the generated header: one pipeline, in three spellings."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from finsy.proto import p4i

from dataplane import reasons
from dataplane.p4runtime import p4info
from dataplane.p4runtime.p4info import P4InfoInvalid
from dataplane.tables import header, layout
from dataplane.tables.layout import Kind, Shape

INFO = p4info.load()
LAYOUT = layout.of(INFO)


def changed() -> p4i.P4Info:
    message = p4i.P4Info()
    message.CopyFrom(INFO.message)
    return message


def test_ids_are_as_p4c_makes_them() -> None:
    """The type of the object in the high byte (P4Runtime §6.3)."""
    assert {table.id >> 24 for table in INFO.tables} == {2}
    assert {action.id >> 24 for table in INFO.tables for action in table.actions} == {1}
    assert {counter.id >> 24 for counter in INFO.counters} == {0x12}


def test_default_actions_drop_for_known_reasons() -> None:
    default = {table.name: table.default_action for table in INFO.tables}
    assert dict(default["flow_policy"].params) == {"reason": reasons.DropReason.NOT_PERMITTED}
    assert dict(default["attachment"].params) == {"reason": reasons.DropReason.UNKNOWN_ATTACHMENT}
    assert default["local_sid"].action.name == "transit"


def test_shapes_follow_from_the_keys() -> None:
    shapes = {table.table.name: table.shape for table in LAYOUT.tables}
    assert shapes["attachment"] is shapes["neighbor"] is Shape.HASH
    assert shapes["punt_frame"] is shapes["flow_policy"] is Shape.TERNARY
    assert shapes["source_port_class"] is shapes["destination_port_class"] is Shape.RANGE
    assert shapes["lease"] is shapes["steer"] is shapes["path_liveness"] is shapes["next_hop"] is Shape.ARRAY
    assert shapes["sr_policy"] is Shape.CANDIDATES
    assert {name for name, shape in shapes.items() if shape is Shape.LPM} == {
        "source_guard",
        "local_sid",
        "source_group",
        "destination_group",
        "translate_source",
        "translate_destination",
        "route",
    }


def test_the_header_is_what_the_p4info_says() -> None:
    assert header.HEADER_FILE.read_text() == header.header(LAYOUT)


def test_check_fails_where_the_header_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header, "HEADER_FILE", tmp_path / "tables.h")
    assert header.main([]) == 0
    assert header.main(["--check"]) == 0
    (tmp_path / "tables.h").write_text("other")
    assert header.main(["--check"]) == 1
    assert header.main(["--wrong"]) == 2


def test_the_command_checks_this_checkout() -> None:
    subprocess.run([sys.executable, "-m", "dataplane.tables.layout", "--check"], check=True)


def test_offsets_are_those_of_the_c_compiler(tmp_path: Path) -> None:
    """The compiler is asked: it refuses a _Static_assert that does not hold."""
    lines = ["typedef unsigned char __u8; typedef unsigned short __u16; typedef unsigned int __u32;"]
    lines += ["typedef unsigned int __be32; typedef unsigned long long __u64;", f'#include "{header.HEADER_FILE}"']
    for table in LAYOUT.tables:
        name = table.table.name
        if table.shape not in (Shape.ARRAY, Shape.CANDIDATES):
            lines += [_assert(f"struct {table.key.name}", place.name, place.offset) for place in table.key.places]
        value = f"struct {name}_range_value" if table.shape is Shape.RANGE else f"struct {name}_value"
        for action in table.actions:
            lines += [_assert(value, f"{action.action.name}.{place.name}", place.offset) for place in action.params]
            constant = f"{name}_{action.action.name}".upper()
            lines.append(f'_Static_assert({constant} == {action.number}, "{constant}");')
        if table.shape is Shape.TERNARY:
            lines.append(_assert(value, "priority", layout.PRIORITY.offset))
    lines += [f'_Static_assert(DROP_{r.name} == {r.value}, "{r.name}");' for r in reasons.DropReason]
    source = tmp_path / "offsets.c"
    source.write_text("\n".join(lines))
    subprocess.run(["clang", "-target", "bpf", "-Werror", "-fsyntax-only", source], check=True)


def _assert(struct: str, member: str, offset: int) -> str:
    return f'_Static_assert(__builtin_offsetof({struct}, {member}) == {offset}, "{struct}.{member}");'


def test_the_digest_tells_layouts_apart() -> None:
    assert layout.of(p4info.load()).digest == LAYOUT.digest
    wider = changed()
    next(a for a in wider.actions if a.preamble.alias == "expire_at").params[0].bitwidth = 48
    larger = changed()
    next(t for t in larger.tables if t.preamble.alias == "route").size = 32768
    digests = {layout.of(p4info.view(message)).digest for message in (wider, larger)}
    assert len(digests | {LAYOUT.digest}) == 3


def test_what_has_no_shape_is_refused() -> None:
    message = changed()
    next(t for t in message.tables if t.preamble.alias == "route").match_fields[1].bitwidth = 32
    with pytest.raises(P4InfoInvalid, match="'route' fits none of the shapes"):
        layout.of(p4info.view(message))


def test_what_is_no_p4info_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.txtpb"
    broken.write_text("tables { nonsense }")
    with pytest.raises(P4InfoInvalid, match=re.escape(str(broken))):
        p4info.load(broken)


def test_differences_are_named() -> None:
    message = changed()
    assert p4info.differences(INFO.message, message) == ()
    message.tables[0].size = 1
    assert p4info.differences(INFO.message, message) == ()
    message.tables[0].match_fields[0].bitwidth = 8
    del message.counters[1]
    message.actions.add().preamble.alias = "teleport"
    assert p4info.differences(INFO.message, message) == (
        "tables: 'attachment' differs",
        "actions: 'teleport' is unknown to this target",
        "counters: 'forwarding_class_counter' is missing",
    )
    other = changed()
    other.pkg_info.arch = "psa"
    assert p4info.differences(INFO.message, other) == ("pkg_info differs",)


def test_integers_of_lpm_keys_are_in_network_order() -> None:
    for table in LAYOUT.tables:
        if table.shape is Shape.LPM:
            assert [place.kind for place in table.key.places] == [Kind.HOST, Kind.NETWORK, Kind.ADDRESS]
