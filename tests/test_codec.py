"""p4runtime.codec and p4runtime.batch: what goes in comes out, both ways of reading agree, the wrong is refused."""

from dataclasses import replace

import pytest
from finsy.proto import p4r
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline_tables import LAYOUT, entries

from dataplane.entry import FieldMatch, TableEntry
from dataplane.p4runtime import codec
from dataplane.p4runtime.batch import BatchDecoder
from dataplane.p4runtime.codec import Packed
from dataplane.p4runtime.columns import Rows, pieces
from dataplane.p4runtime.p4info import Action, MatchType
from dataplane.p4runtime.status import Code, Refused
from dataplane.reasons import CANDIDATE_PATHS
from dataplane.tables.layout import Shape, TableLayout
from dataplane.tables.stores import Operation

UPDATE_TYPES = (p4r.Update.INSERT, p4r.Update.MODIFY, p4r.Update.DELETE)


@given(entries())
def test_message_and_back(entry: TableEntry) -> None:
    message = codec.compose(LAYOUT, entry)
    assert codec.parse(LAYOUT, message, action_needed=True) == entry


@given(entries())
def test_bytes_of_maps_and_back(entry: TableEntry) -> None:
    layout = LAYOUT.by_name[entry.table]
    packed = codec.pack(layout, entry)
    assert len(packed.key) == layout.key.size
    assert len(packed.value) == layout.value_size
    assert codec.unpack(layout, packed.key, packed.mask, packed.value) == entry


def update(entry: TableEntry, kind: int) -> bytes:
    message = p4r.Update(type=kind)
    message.entity.table_entry.CopyFrom(codec.compose(LAYOUT, entry))
    return message.SerializeToString()


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """An update in canonical form, or with one thing wrong or unusual in it."""
    raw = update(draw(entries()), draw(st.sampled_from(UPDATE_TYPES)))
    message = p4r.Update.FromString(raw)
    entry = message.entity.table_entry
    match draw(st.integers(0, 9)):
        case 0 | 1 | 2:
            return raw
        case 3:
            entry.priority = draw(st.integers(-1, 9))
        case 4 if entry.match:
            part = draw(st.sampled_from(entry.match))
            _longer(draw, getattr(part, part.WhichOneof("field_match_type")), "value", "mask", "low", "high")
        case 5 if entry.action.action.params:
            _longer(draw, draw(st.sampled_from(entry.action.action.params)), "value")
        case 6:
            entry.ClearField("action")
        case 7 if entry.match:
            entry.match.pop(draw(st.integers(0, len(entry.match) - 1)))
        case 8 if entry.match:
            entry.match.add().CopyFrom(draw(st.sampled_from(entry.match)))
        case 9:
            entry.metadata = draw(st.binary(max_size=2))
    return message.SerializeToString()


def _longer(draw: st.DrawFn, message: object, *names: str) -> None:
    name = draw(st.sampled_from([name for name in names if hasattr(message, name)]))
    changed = draw(st.sampled_from((b"", b"\0", b"\xff"))) + getattr(message, name)
    setattr(message, name, draw(st.sampled_from((b"", changed, b"\0\0" + changed))))


def one_by_one(raw: bytes) -> tuple[Operation, str, Packed] | Code:
    """What the codec alone makes of an update."""
    batch = BatchDecoder(LAYOUT).decode([raw])
    if batch.faults:
        return batch.faults[0].code
    (run,) = batch.runs
    return run.operation, run.table.table.name, _packed(run.rows, 0)


def _packed(rows: Rows, row: int) -> Packed:
    return Packed(
        pieces(rows.keys)[row],
        pieces(rows.masks)[row],
        int(rows.priorities[row]),
        pieces(rows.values)[row],
    )


LEARNT = BatchDecoder(LAYOUT)
"""Shared by all examples, so that most updates meet a form that another one taught."""


@settings(max_examples=200)
@given(st.lists(mutated(), min_size=1, max_size=12))
def test_a_batch_is_read_as_its_updates_one_by_one(updates: list[bytes]) -> None:
    assert read_by(LEARNT, updates) == {index: one_by_one(raw) for index, raw in enumerate(updates)}


def example(layout: TableLayout, action: Action, priority: int, ternary: int) -> TableEntry:
    """With values in the middle of what they may be, so that each of their bytes can change for better or worse."""
    match = []
    for field in layout.table.fields:
        top = min(2**field.bitwidth - 1, LAYOUT.limits.get(field.name, (0, 2**field.bitwidth - 1))[1])
        match.append(
            {
                MatchType.EXACT: FieldMatch(field.name, top // 3 + 1),
                MatchType.TERNARY: FieldMatch(field.name, top // 3 & ~1 & ternary, mask=top & ~1),
                MatchType.LPM: FieldMatch(field.name, 0x5F00 << 112 | 0xA5 << 64, prefix_length=67),
                MatchType.RANGE: FieldMatch(field.name, 300, high=40000),
            }[field.match_type]
        )
    if not layout.table.has_priority:
        priority = 0
    if layout.shape is Shape.CANDIDATES:
        match[1], priority = FieldMatch(match[1].field, 4, mask=4), CANDIDATE_PATHS - 2
    limits = {p.name: LAYOUT.param_limits.get(p.name, (0, 2**p.bitwidth - 1)) for p in action.params}
    params = tuple((name, (low + high) // 2) for name, (low, high) in limits.items())
    return TableEntry(layout.table.name, tuple(match), action.name, params, priority)


@pytest.mark.parametrize(("priority", "ternary"), [(300, -1), (2**31 - 1, 0)])
@pytest.mark.parametrize("layout", LAYOUT.tables, ids=lambda layout: layout.table.name)
def test_a_learnt_form_reads_each_changed_byte_as_the_codec_does(
    layout: TableLayout, priority: int, ternary: int
) -> None:
    for action in layout.table.actions:
        for kind in UPDATE_TYPES:
            raw = update(example(layout, action, priority, ternary), kind)
            changed = [raw]
            for at, old in enumerate(raw):
                others = {0, 1, 0x7F, 0x80, 0xFF, *(old ^ 1 << bit for bit in range(8))}
                changed += [raw[:at] + bytes((byte,)) + raw[at + 1 :] for byte in others]
                changed += [raw[:at] + pair + raw[at + 2 :] for pair in (b"\0\0", b"\x80\0") if at + 2 <= len(raw)]
            decoder = BatchDecoder(LAYOUT)
            assert read_by(decoder, changed) == {index: one_by_one(form) for index, form in enumerate(changed)}
            assert decoder.learnt, "nothing was learnt: this test compared the codec with itself"


def read_by(decoder: BatchDecoder, updates: list[bytes]) -> dict[int, tuple[Operation, str, Packed] | Code]:
    batch = decoder.decode(updates)
    results: dict[int, tuple[Operation, str, Packed] | Code] = {}
    for index, fault in batch.faults.items():
        results[index] = fault.code
    for run in batch.runs:
        for row in range(len(run.rows)):
            results[run.first + row] = (run.operation, run.table.table.name, _packed(run.rows, row))
    return results


def test_a_batch_of_one_form_is_one_run_in_order() -> None:
    made = [codec_route(number) for number in range(100)]
    decoder = BatchDecoder(LAYOUT)
    batch = decoder.decode([update(entry, p4r.Update.INSERT) for entry in made])
    (run,) = batch.runs
    layout = LAYOUT.by_name["route"]
    assert [_packed(run.rows, row) for row in range(100)] == [codec.pack(layout, entry) for entry in made]


def codec_route(number: int) -> TableEntry:
    message = p4r.TableEntry(table_id=LAYOUT.by_name["route"].table.id)
    message.match.add(field_id=1).exact.value = b"\x07"
    lpm = message.match.add(field_id=2).lpm
    lpm.value, lpm.prefix_len = (0x20010DB8 << 96 | number << 64).to_bytes(16, "big"), 64
    action = message.action.action
    action.action_id = LAYOUT.by_name["route"].table.action_by_name["set_next_hop"].id
    action.params.add(param_id=1, value=codec.bytestring(number + 1))
    return codec.parse(LAYOUT, message, action_needed=True)


@pytest.mark.parametrize(
    ("value", "bitwidth", "number"),
    [(b"\x63", 8, 99), (b"\x00\x63", 16, 99), (b"\x30\x64", 16, 12388), (b"\x00\x00\x63", 12, 99), (b"\0", 9, 0)],
)
def test_bytestrings_of_the_specification_are_taken(value: bytes, bitwidth: int, number: int) -> None:
    assert codec.integer(value, bitwidth, "x") == number  # Table 4 of the P4Runtime specification.


@pytest.mark.parametrize(
    ("value", "bitwidth"),
    [
        (b"\x01\x63", 8),
        (b"", 8),
        (b"\x01\x00\x63", 16),
        (b"\x10\x63", 12),
        (b"\x01\x00\x63", 12),
        (b"\x00\x40\x63", 12),
    ],
)
def test_bytestrings_out_of_range_are_refused(value: bytes, bitwidth: int) -> None:
    with pytest.raises(Refused) as refused:
        codec.integer(value, bitwidth, "x")
    assert refused.value.fault.code is Code.OUT_OF_RANGE


def lease(forwarding_class: bytes = b"\x05", **fields: object) -> p4r.TableEntry:
    table = LAYOUT.by_name["lease"].table
    message = p4r.TableEntry(table_id=table.id, **fields)
    message.match.add(field_id=1).exact.value = forwarding_class
    message.action.action.action_id = table.actions[0].id
    message.action.action.params.add(param_id=1, value=b"\x09")
    return message


def policy(field_id: int, value: bytes, mask: bytes, priority: int = 1) -> p4r.TableEntry:
    table = LAYOUT.by_name["flow_policy"].table
    message = p4r.TableEntry(table_id=table.id, priority=priority)
    message.match.add(field_id=1).exact.value = b"\x05"
    ternary = message.match.add(field_id=field_id).ternary
    ternary.value, ternary.mask = value, mask
    message.action.action.action_id = table.action_by_name["permit"].id
    message.action.action.params.add(param_id=1, value=b"\x01")
    return message


def candidate(live: bytes, mask: bytes, priority: int) -> p4r.TableEntry:
    table = LAYOUT.by_name["sr_policy"].table
    message = p4r.TableEntry(table_id=table.id, priority=priority)
    message.match.add(field_id=1).exact.value = b"\x05"
    ternary = message.match.add(field_id=2).ternary
    ternary.value, ternary.mask = live, mask
    message.action.action.action_id = table.actions[0].id
    for param in table.actions[0].params:
        message.action.action.params.add(param_id=param.id, value=b"\x01")
    return message


def _with(message: p4r.TableEntry, change: str) -> p4r.TableEntry:
    action = message.action.action
    match change:
        case "unknown action":
            action.action_id = 1
        case "default action":
            action.action_id = LAYOUT.by_name["lease"].table.default_only[0].id
        case "parameter missing":
            del action.params[:]
        case "parameter twice":
            action.params.add().CopyFrom(action.params[0])
        case "parameter unknown":
            action.params.add(param_id=9, value=b"\x01")
        case "member":
            message.action.action_profile_member_id = 3
        case "match missing":
            del message.match[:]
        case "match twice":
            message.match.add().CopyFrom(message.match[0])
        case "match unknown":
            message.match[0].field_id = 7
        case "match of another type":
            message.match[0].lpm.value = b"\x01"
        case "counter":
            message.counter_data.packet_count = 1
        case "default entry":
            message.is_default_action = True
            del message.match[:]
        case "default entry with a match":
            message.is_default_action = True
    return message


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (lease(b""), Code.OUT_OF_RANGE),
        (lease(b"\x80\x00"), Code.OUT_OF_RANGE),
        (lease(priority=1), Code.INVALID_ARGUMENT),
        (lease(is_const=True), Code.INVALID_ARGUMENT),
        (lease(metadata=b"x"), Code.UNIMPLEMENTED),
        (lease(idle_timeout_ns=1), Code.INVALID_ARGUMENT),
        (p4r.TableEntry(table_id=1), Code.NOT_FOUND),
        (_with(lease(), "unknown action"), Code.INVALID_ARGUMENT),
        (_with(lease(), "default action"), Code.PERMISSION_DENIED),
        (_with(lease(), "parameter missing"), Code.INVALID_ARGUMENT),
        (_with(lease(), "parameter twice"), Code.INVALID_ARGUMENT),
        (_with(lease(), "parameter unknown"), Code.INVALID_ARGUMENT),
        (_with(lease(), "member"), Code.INVALID_ARGUMENT),
        (_with(lease(), "match missing"), Code.INVALID_ARGUMENT),
        (_with(lease(), "match twice"), Code.INVALID_ARGUMENT),
        (_with(lease(), "match unknown"), Code.INVALID_ARGUMENT),
        (_with(lease(), "match of another type"), Code.INVALID_ARGUMENT),
        (_with(lease(), "counter"), Code.INVALID_ARGUMENT),
        (_with(lease(), "default entry"), Code.PERMISSION_DENIED),
        (_with(lease(), "default entry with a match"), Code.INVALID_ARGUMENT),
        (policy(2, b"\x01", b"\x02"), Code.INVALID_ARGUMENT),
        (policy(2, b"\x00", b"\x00"), Code.INVALID_ARGUMENT),
        (policy(4, b"\x01", b"\x1f"), Code.OUT_OF_RANGE),
        (policy(2, b"\x01", b"\x03", priority=0), Code.INVALID_ARGUMENT),
        (candidate(b"\x02", b"\x03", 7), Code.INVALID_ARGUMENT),
        (candidate(b"\x03", b"\x03", 7), Code.INVALID_ARGUMENT),
        (candidate(b"\x02", b"\x02", 8), Code.INVALID_ARGUMENT),
    ],
)
def test_what_the_specification_forbids_is_refused(message: p4r.TableEntry, code: Code) -> None:
    with pytest.raises(Refused) as refused:
        codec.parse(LAYOUT, message, action_needed=True)
    assert refused.value.fault.code is code


INTO_VRF = [
    (layout, action)
    for layout in LAYOUT.tables
    for action in layout.table.actions
    if any(param.name == "vrf" for param in action.params)
]


@pytest.mark.parametrize(("layout", "action"), INTO_VRF, ids=lambda part: getattr(part, "name", ""))
def test_no_entry_leads_into_the_fabrics_vrf(layout: TableLayout, action: Action) -> None:
    entry = example(layout, action, 300, -1)
    params = tuple((name, 0 if name == "vrf" else value) for name, value in entry.params)
    codec.parse(LAYOUT, codec.compose(LAYOUT, entry), action_needed=True)
    with pytest.raises(Refused) as refused:
        codec.parse(LAYOUT, codec.compose(LAYOUT, replace(entry, params=params)), action_needed=True)
    assert refused.value.fault.code is Code.OUT_OF_RANGE
    assert "vrf: 0 is not in 1..65535: 0 is the fabric's VRF" in str(refused.value)


def test_a_delete_needs_the_key_only() -> None:
    message = _with(lease(metadata=b"x"), "unknown action")
    assert codec.parse(LAYOUT, message, action_needed=False, key_only=True).action == codec.NO_ACTION


def test_candidate_slots_are_in_the_order_of_priorities() -> None:
    entry = codec.parse(LAYOUT, candidate(b"\x02", b"\x02", 7), action_needed=True)
    packed = codec.pack(LAYOUT.by_name["sr_policy"], entry)
    assert int.from_bytes(packed.key, "little") == 5 * 8 + 1


def test_every_shape_is_in_use() -> None:
    assert {layout.shape for layout in LAYOUT.tables} == set(Shape)
