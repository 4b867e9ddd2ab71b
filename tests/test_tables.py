"""tables.node_tables over maps in memory and over the kernel's: entries, what XDP finds by them, and tampering."""

import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from map_fake import FakeMap
from pipeline_tables import LAYOUT, SIZES, entries, fake_maps

from dataplane.entry import FieldMatch, TableEntry
from dataplane.p4runtime.codec import NO_ACTION, pack, unpack
from dataplane.p4runtime.columns import from_packed, pieces
from dataplane.p4runtime.status import Code
from dataplane.reasons import CANDIDATE_PATHS
from dataplane.tables.layout import MASKS, Shape, TableLayout
from dataplane.tables.node_tables import Run, Tables, map_names
from dataplane.tables.range_store import CLASSES_BYTES, RangeStore
from dataplane.tables.stores import MapWriter, Operation, Store
from dataplane.tables.ternary_store import TernaryStore
from dataplane.xdp import bpf

INSERT, MODIFY, KEEP, DELETE = Operation.INSERT, Operation.MODIFY, Operation.KEEP, Operation.DELETE
Maps = Mapping[str, MapWriter]


@pytest.fixture(params=["memory", pytest.param("kernel", marks=pytest.mark.root)])
def maps(request: pytest.FixtureRequest) -> Iterator[Maps]:
    if request.param == "memory":
        yield fake_maps()
        return
    with bpf.Object() as loaded:
        loaded.set_constants({"flow_cache_buckets": 64})
        loaded.resize({"flow_cache": 64 * bpf.POSSIBLE_CPUS, "flow_cache_tag": 64 * bpf.POSSIBLE_CPUS})
        loaded.resize(LAYOUT.map_sizes)
        loaded.load()
        yield {name: loaded.map(name) for name in map_names(LAYOUT)}


def runs(operation: Operation, made: Sequence[TableEntry]) -> list[Run]:
    made_runs = []
    for first, entry in enumerate(made):
        layout = LAYOUT.by_name[entry.table]
        named = entry if operation in (INSERT, MODIFY) else dataclasses.replace(entry, action=NO_ACTION, params=())
        made_runs.append(Run(operation, layout, from_packed(layout, [pack(layout, named)]), first))
    return made_runs


def numbered(made: list[Run], first: int) -> list[Run]:
    return [dataclasses.replace(run, first=first) for run in made]


def write(tables: Tables, operation: Operation, *made: TableEntry) -> list[Code]:
    faults = tables.write(runs(operation, made))
    return [faults[index].code if index in faults else Code.OK for index in range(len(made))]


def everything(tables: Tables) -> set[TableEntry]:
    return {entry for layout in LAYOUT.tables for entry in tables.entries(layout.table.name)}


def policy(policy_class: int, priority: int, forwarding_class: int = 1, **masked: tuple[int, int]) -> TableEntry:
    match = [FieldMatch("policy_class", policy_class)]
    for field in LAYOUT.by_name["flow_policy"].table.fields[1:]:
        if field.name in masked:
            value, mask = masked[field.name]
            match.append(FieldMatch(field.name, value, mask=mask))
    return TableEntry("flow_policy", tuple(match), "permit", (("forwarding_class", forwarding_class),), priority)


def ports(protocol: int, low: int, high: int, port_class: int, priority: int = 1) -> TableEntry:
    match = (FieldMatch("protocol", protocol), FieldMatch("port", low, high=high))
    return TableEntry(
        "destination_port_class", match, "set_destination_port_class", (("port_class", port_class),), priority
    )


def route(vrf: int, number: int, next_hop: int = 1) -> TableEntry:
    match = (FieldMatch("vrf", vrf), FieldMatch("destination", number << 64, prefix_length=64))
    return TableEntry("route", match, "set_next_hop", (("next_hop", next_hop),))


def attach(port: int, policy_class: int, vrf: int = 8) -> TableEntry:
    match = (FieldMatch("ingress_port", port), FieldMatch("vlan_id", 0))
    return TableEntry("attachment", match, "attach", (("vrf", vrf), ("policy_class", policy_class)))


def link(port: int) -> TableEntry:
    match = (FieldMatch("ingress_port", port), FieldMatch("vlan_id", 0))
    return TableEntry("attachment", match, "link", (("ingress_class", 2),))


def local_sid(number: int, policy_class: int, vrf: int = 8) -> TableEntry:
    match = (FieldMatch("ingress_class", 1), FieldMatch("destination", number << 64, prefix_length=128))
    into = (("vrf", vrf), ("policy_class", policy_class), ("answer_class", 0))
    return TableEntry("local_sid", match, "end_dt46", into)


def guard(port: int, address: int) -> TableEntry:
    match = (FieldMatch("ingress_port", port), FieldMatch("source", address, prefix_length=128))
    return TableEntry("source_guard", match, "admit")


def lease(forwarding_class: int, boottime_s: int = 9) -> TableEntry:
    return TableEntry(
        "lease", (FieldMatch("forwarding_class", forwarding_class),), "expire_at", (("boottime_s", boottime_s),)
    )


def candidate(sr_policy: int, slot: int) -> TableEntry:
    match = (FieldMatch("sr_policy", sr_policy), FieldMatch("live", 1 << slot, mask=1 << slot))
    params = tuple((param.name, 1) for param in LAYOUT.by_name["sr_policy"].table.actions[0].params)
    return TableEntry("sr_policy", match, "h_encaps", params, CANDIDATE_PATHS - slot)


def punt(ether_type: int | None, mask: int = 0xFFFF, ingress_class: int | None = None) -> TableEntry:
    match = () if ingress_class is None else (FieldMatch("ingress_class", ingress_class, mask=0xFFFF),)
    match += () if ether_type is None else (FieldMatch("ether_type", ether_type, mask=mask),)
    return TableEntry("punt_frame", match, "punt", (("reason", 16),), 1)


ONE_OF_EACH_SHAPE = {
    Shape.ARRAY: lease(5),
    Shape.CANDIDATES: candidate(3, 2),
    Shape.HASH: attach(4, 9),
    Shape.LPM: route(3, 7),
    Shape.RANGE: ports(6, 80, 90, 2),
    Shape.TERNARY: policy(3, 5, source_group=(4, 0xFF)),
}


def into_two(model: Mapping[tuple[object, ...], TableEntry]) -> bool:
    """Whether a policy class leads into two VRFs there."""
    params = [dict(entry.params) for entry in model.values()]
    ways = {
        (action_params["policy_class"], action_params["vrf"])
        for action_params in params
        if "policy_class" in action_params
    }
    return len({policy_class for policy_class, _ in ways}) < len(ways)


# What is there


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from((INSERT, MODIFY, KEEP, DELETE)), entries()), max_size=40))
def test_random_writes_do_what_a_dictionary_does(maps: Maps, made: list[tuple[Operation, TableEntry]]) -> None:
    tables = Tables(LAYOUT, maps)
    tables.clear()
    model: dict[tuple[object, ...], TableEntry] = {}
    for operation, entry in made:
        key = (entry.table, entry.match, entry.priority)
        (code,) = write(tables, operation, entry)
        if code is Code.RESOURCE_EXHAUSTED:
            assert operation is INSERT
            assert key not in model
        elif (
            (key in model) is (operation is MODIFY)
            and operation in (INSERT, MODIFY)
            and into_two({**model, key: entry})
        ):
            assert code is Code.FAILED_PRECONDITION
        elif operation is INSERT:
            assert code is (Code.ALREADY_EXISTS if key in model else Code.OK)
            model.setdefault(key, entry)
        elif key not in model:
            assert code is Code.NOT_FOUND
        else:
            assert code is Code.OK
            if operation is MODIFY:
                model[key] = entry
            elif operation is DELETE:
                del model[key]
    assert everything(tables) == set(model.values())
    assert everything(Tables(LAYOUT, maps)) == set(model.values())


@pytest.mark.parametrize("shape", Shape)
def test_an_entry_is_inserted_modified_and_deleted_once(maps: Maps, shape: Shape) -> None:
    tables, entry = Tables(LAYOUT, maps), ONE_OF_EACH_SHAPE[shape]
    assert write(tables, MODIFY, entry) == [Code.NOT_FOUND]
    assert write(tables, INSERT, entry, entry) == [Code.OK, Code.ALREADY_EXISTS]
    assert write(tables, MODIFY, entry) == [Code.OK]
    assert everything(tables) == {entry}
    assert write(tables, DELETE, entry, entry) == [Code.OK, Code.NOT_FOUND]
    assert everything(tables) == set()


def test_a_run_of_many_keeps_its_order(maps: Maps) -> None:
    """One run, in which an entry comes twice."""
    layout = LAYOUT.by_name["route"]
    made = [route(3, number % 50, number + 1) for number in range(60)]
    tables = Tables(LAYOUT, maps)
    rows = from_packed(layout, [pack(layout, entry) for entry in made])
    faults = tables.write([Run(INSERT, layout, rows, 0)])
    assert {index: fault.code for index, fault in faults.items()} == dict.fromkeys(range(50, 60), Code.ALREADY_EXISTS)
    assert everything(tables) == set(made[:50])


def test_a_longer_prefix_is_not_there_because_a_shorter_one_is(maps: Maps) -> None:
    tables = Tables(LAYOUT, maps)
    default = TableEntry("route", (FieldMatch("vrf", 3),), "drop", (("reason", 64),))
    write(tables, INSERT, default)
    assert write(tables, DELETE, route(3, 7)) == [Code.NOT_FOUND]
    assert write(tables, MODIFY, route(3, 7)) == [Code.NOT_FOUND]
    assert everything(tables) == {default}


ENTRANCES = (
    lambda policy_class, vrf: attach(4, policy_class, vrf),
    lambda policy_class, vrf: attach(5, policy_class, vrf),
    lambda policy_class, vrf: local_sid(6, policy_class, vrf),
    lambda policy_class, vrf: local_sid(7, policy_class, vrf),
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from((INSERT, INSERT, MODIFY, DELETE)),
            st.sampled_from(ENTRANCES),
            st.integers(0, 2),
            st.integers(1, 3),
        ),
        max_size=40,
    ),
    st.booleans(),
)
def test_a_policy_class_is_of_one_vrf_at_a_time(
    made: list[tuple[Operation, Callable[[int, int], TableEntry], int, int]], in_one_batch: bool
) -> None:
    """Whatever comes in which order: what would lead a class into a second VRF is refused, and nothing else."""
    tables = Tables(LAYOUT, fake_maps())
    model: dict[tuple[object, ...], TableEntry] = {}
    updates, expected = [], []
    for operation, entrance, policy_class, vrf in made:
        entry = entrance(policy_class, vrf)
        key = (entry.table, entry.match)
        updates.append((operation, entry))
        if (key in model) is (operation is INSERT):
            expected.append(Code.ALREADY_EXISTS if operation is INSERT else Code.NOT_FOUND)
        elif operation is DELETE:
            del model[key]
            expected.append(Code.OK)
        elif into_two({**model, key: entry}):
            expected.append(Code.FAILED_PRECONDITION)
        else:
            model[key] = entry
            expected.append(Code.OK)
    if in_one_batch:
        faults = tables.write(
            [run for place, (kind, entry) in enumerate(updates) for run in numbered(runs(kind, [entry]), place)]
        )
        codes = [faults[n].code if n in faults else Code.OK for n in range(len(updates))]
    else:
        codes = [write(tables, operation, entry)[0] for operation, entry in updates]
    assert codes == expected
    assert everything(tables) == set(model.values())


def test_of_many_rows_those_that_lead_a_class_into_a_second_vrf_are_refused(maps: Maps) -> None:
    tables, layout = Tables(LAYOUT, maps), LAYOUT.by_name["local_sid"]
    assert write(tables, INSERT, attach(4, 9, 8), link(5)) == [Code.OK, Code.OK]
    made = [local_sid(1, 9, 8), local_sid(2, 9, 7), local_sid(3, 10, 7), local_sid(4, 10, 8), local_sid(5, 0, 3)]
    faults = tables.write([Run(INSERT, layout, from_packed(layout, [pack(layout, entry) for entry in made]), 100)])
    assert {place: fault.code for place, fault in faults.items()} == dict.fromkeys((101, 103), Code.FAILED_PRECONDITION)
    assert "policy class 9 is of VRF 8; it cannot be of 7 too" in faults[101].message
    assert everything(tables) == {attach(4, 9, 8), link(5), made[0], made[2], made[4]}


def test_a_policy_class_of_an_entry_that_somebody_else_has_deleted_is_free(maps: Maps) -> None:
    tables = Tables(LAYOUT, maps)
    write(tables, INSERT, attach(4, 9, 8))
    (key,) = pieces(tables.keys("attachment"))
    maps["attachment"].delete(key)
    assert write(tables, INSERT, local_sid(6, 9, 7)) == [Code.OK]


def test_clear_leaves_nothing(maps: Maps) -> None:
    tables = Tables(LAYOUT, maps)
    write(tables, INSERT, *ONE_OF_EACH_SHAPE.values())
    tables.clear()
    assert everything(tables) == set()
    assert not any(maps["flow_policy_masks"].items()[1])
    assert maps["destination_port_class"].items() == (b"", b"")
    assert write(tables, INSERT, *ONE_OF_EACH_SHAPE.values()) == [Code.OK] * 6


def test_a_full_table_takes_no_more(maps: Maps) -> None:
    tables = Tables(LAYOUT, maps)
    layout = LAYOUT.by_name["local_sid"]
    made = [
        TableEntry(
            "local_sid",
            (FieldMatch("ingress_class", 1), FieldMatch("destination", number, prefix_length=128)),
            "end",
        )
        for number in range(layout.table.size + 2)
    ]
    rows = from_packed(layout, [pack(layout, entry) for entry in made])
    faults = tables.write([Run(INSERT, layout, rows, 0)])
    full = range(layout.table.size, layout.table.size + 2)
    assert {index: fault.code for index, fault in faults.items()} == dict.fromkeys(full, Code.RESOURCE_EXHAUSTED)
    assert len(tables.read("local_sid")) == layout.table.size


def test_what_the_kernel_has_no_room_for_is_refused_and_the_rest_is_done() -> None:
    """As when somebody else put entries into the map."""
    small = fake_maps()
    small["route"] = FakeMap(24, 8, 3)
    tables = Tables(LAYOUT, small)
    made = [route(3, number) for number in range(5)]
    rows = from_packed(LAYOUT.by_name["route"], [pack(LAYOUT.by_name["route"], entry) for entry in made])
    faults = tables.write([Run(INSERT, LAYOUT.by_name["route"], rows, 0)])
    assert {index: fault.code for index, fault in faults.items()} == {
        3: Code.RESOURCE_EXHAUSTED,
        4: Code.RESOURCE_EXHAUSTED,
    }
    assert everything(tables) == set(made[:3])
    assert write(tables, DELETE, made[0]) == [Code.OK]
    assert write(tables, INSERT, made[4]) == [Code.OK]


# What XDP finds


def kept(store: Store, layout: TableLayout, made: list[tuple[bool, TableEntry]]) -> list[TableEntry]:
    """What must be in the store after these were inserted (or deleted), one by one, and is."""
    wanted: dict[tuple[object, ...], TableEntry] = {}
    for inserted, entry in made:
        (run,) = runs(INSERT if inserted else DELETE, [entry])
        if store.write(run.operation, run.rows):
            continue
        if inserted:
            wanted[entry.match, entry.priority] = entry
        else:
            del wanted[entry.match, entry.priority]
    rows = store.read()
    columns = zip(pieces(rows.keys), pieces(rows.masks), pieces(rows.values), strict=True)
    assert {unpack(layout, key, mask, value) for key, mask, value in columns} == set(wanted.values())
    return list(wanted.values())


FEW = {
    "policy_class": (3, 4),
    "source_group": (0, 3),
    "destination_group": (0, 3),
    "forwarding_class": (0, 9),
    "protocol": (6, 7),
}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), entries((LAYOUT.by_name["flow_policy"],), FEW)), max_size=30),
    st.lists(st.tuples(*(st.integers(0, 3),) * 5), min_size=1, max_size=10),
)
def test_tuple_space_search_finds_the_highest_priority(
    made: list[tuple[bool, TableEntry]], flows: list[tuple[int, ...]]
) -> None:
    layout = LAYOUT.by_name["flow_policy"]
    lists = FakeMap(4, 4 + MASKS * layout.key.size, 8, fixed=True)
    maps = {"flow_policy": FakeMap(layout.key.size, layout.value_size, 64), "flow_policy_masks": lists}
    store = TernaryStore(LAYOUT, layout, maps["flow_policy"], lists)
    present = kept(store, layout, made)
    for policy_class in (3, 4):
        for flow in flows:
            fields = dict(
                zip((f.name for f in LAYOUT.by_name["flow_policy"].table.fields), (policy_class, *flow), strict=True)
            )
            assert tuple_space_priority(maps, fields) == best_priority(present, fields)


def best_priority(present: Sequence[TableEntry], fields: Mapping[str, int]) -> int:
    """Brute force. 0: no entry matches."""
    full = 2**16 - 1
    return max(
        (
            entry.priority
            for entry in present
            if all(fields[m.field] & (full if m.mask is None else m.mask) == m.value for m in entry.match)
        ),
        default=0,
    )


def tuple_space_priority(maps: Maps, fields: Mapping[str, int]) -> int:
    """As ebpf/flow_policy.h does it."""
    layout = LAYOUT.by_name["flow_policy"]
    size = layout.key.size
    lists = maps["flow_policy_masks"].lookup(fields["policy_class"].to_bytes(4, sys.byteorder)) or b""
    best = 0
    for mask_id in range(int.from_bytes(lists[:4], sys.byteorder)):
        mask = lists[4 + mask_id * size : 4 + (mask_id + 1) * size]
        key = bytearray(size)
        for name, value in fields.items():
            place = layout.key.by_name[name]
            key[place.offset : place.offset + place.size] = value.to_bytes(place.size, sys.byteorder)
        masked = bytearray(a & b for a, b in zip(key, mask, strict=True))
        masked[layout.key.by_name["mask_id"].offset] = mask_id
        if value := maps["flow_policy"].lookup(bytes(masked)):
            best = max(best, int.from_bytes(value[4:8], sys.byteorder))
    return best


RANGES = {"port": (0, 30), "protocol": (6, 7), "port_class": (1, 999)}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), entries((LAYOUT.by_name["source_port_class"],), RANGES)), max_size=12))
def test_each_port_has_the_class_of_the_highest_priority(made: list[tuple[bool, TableEntry]]) -> None:
    layout = LAYOUT.by_name["source_port_class"]
    class_map = FakeMap(4, CLASSES_BYTES, 4)
    store = RangeStore(LAYOUT, layout, FakeMap(layout.key.size, layout.value_size, 64), class_map)
    present = kept(store, layout, made)
    for protocol in (6, 7):
        classes = np.frombuffer(
            class_map.lookup(protocol.to_bytes(4, sys.byteorder)) or bytes(CLASSES_BYTES), np.uint16
        )
        for port in (*range(32), 65535):
            wanted = {(e.priority, e.params[0][1]) for e in present if covers(e, protocol, port)}
            top = max((priority for priority, _ in wanted), default=0)
            assert classes[port] in ({c for priority, c in wanted if priority == top} or {0})


def covers(entry: TableEntry, protocol: int, port: int) -> bool:
    fields = {match.field: match for match in entry.match}
    ranged = fields.get("port", FieldMatch("port", 0, high=65535))
    return fields["protocol"].value == protocol and ranged.value <= port <= (ranged.high or 0)


def test_equal_matches_of_different_priorities_are_different_entries(maps: Maps) -> None:
    tables = Tables(LAYOUT, maps)
    low, high = policy(3, 1, 1, source_group=(4, 0xFF)), policy(3, 2, 2, source_group=(4, 0xFF))
    assert write(tables, INSERT, low, high) == [Code.OK, Code.OK]
    fields = {f.name: 0 for f in LAYOUT.by_name["flow_policy"].table.fields} | {"policy_class": 3, "source_group": 4}
    assert tuple_space_priority(maps, fields) == 2
    assert write(tables, DELETE, high) == [Code.OK]
    assert tuple_space_priority(maps, fields) == 1


def test_sixteen_masks_fit_and_one_that_is_free_again_is_used(maps: Maps) -> None:
    tables = Tables(LAYOUT, maps)
    made = [policy(3, 1, source_group=(0, bits)) for bits in range(1, MASKS + 2)]
    assert write(tables, INSERT, *made) == [Code.OK] * MASKS + [Code.RESOURCE_EXHAUSTED]
    assert write(tables, INSERT, dataclasses.replace(made[-1], match=(FieldMatch("policy_class", 4),))) == [Code.OK]
    assert write(tables, DELETE, made[5]) == [Code.OK]
    assert write(tables, INSERT, made[-1]) == [Code.OK]
    assert set(tables.entries("flow_policy")) >= {*made[:5], *made[6:]}


def test_a_mask_that_no_entry_uses_is_not_searched(maps: Maps) -> None:
    tables = Tables(LAYOUT, maps)
    made = [policy(3, 1, source_group=(0, bits)) for bits in (1, 2, 4)]

    def listed() -> int:
        return int.from_bytes((maps["flow_policy_masks"].lookup((3).to_bytes(4, sys.byteorder)) or b"")[:4], "little")

    write(tables, INSERT, *made)
    assert listed() == 3
    write(tables, DELETE, made[1])
    assert listed() == 3  # The others keep their places.
    write(tables, DELETE, made[2])
    assert listed() == 1


def test_a_fifth_protocol_of_ports_is_refused(maps: Maps) -> None:
    tables = Tables(LAYOUT, maps)
    made = [ports(protocol, 1, 2, 3) for protocol in (6, 17, 132, 33, 136)]
    assert write(tables, INSERT, *made) == [Code.OK] * 4 + [Code.RESOURCE_EXHAUSTED]
    assert write(tables, DELETE, made[0]) == [Code.OK]
    assert write(tables, INSERT, made[4]) == [Code.OK]


# Generations and settings


def generations(maps: Maps) -> dict[int, int]:
    keys, values = maps["generation"].items()
    return {
        int.from_bytes(keys[at : at + 4], sys.byteorder): int.from_bytes(values[at : at + 4], sys.byteorder)
        for at in range(0, len(keys), 4)
    }


@pytest.mark.parametrize(
    ("entry", "classes"),
    [
        (policy(7, 1), {7}),
        (TableEntry("source_group", (FieldMatch("vrf", 8),), "set_source_group", (("group", 1),)), {11, 12, 14}),
        (TableEntry("destination_group", (FieldMatch("vrf", 7),), "set_destination_group", (("group", 1),)), {13}),
        (TableEntry("source_group", (FieldMatch("vrf", 6),), "set_source_group", (("group", 1),)), set()),
        (local_sid(9, 15), {15}),
        (link(5), {0}),
        (attach(4, 9), {9}),
        (route(0, 5), set()),
        (route(3, 5), set()),
        (lease(3), set()),
        (ports(6, 1, 2, 3), set(range(SIZES.policy_classes))),
        (guard(1, 5), {11, 12}),
        (guard(3, 5), set()),
    ],
    ids=lambda value: value.table if isinstance(value, TableEntry) else "",
)
def test_a_write_counts_up_the_generations_it_touches(maps: Maps, entry: TableEntry, classes: set[int]) -> None:
    tables = Tables(LAYOUT, maps)
    tagged = dataclasses.replace(attach(1, 12), match=(FieldMatch("ingress_port", 1), FieldMatch("vlan_id", 5)))
    write(tables, INSERT, attach(1, 11), tagged, attach(2, 13, vrf=7), local_sid(1, 14))
    for operation in (INSERT, MODIFY, DELETE):
        before = generations(maps)
        assert write(tables, operation, entry) == [Code.OK]
        after = generations(maps)
        assert {number for number in after if after[number] != before[number]} == classes


def test_an_attachment_that_moves_touches_both_policy_classes(maps: Maps) -> None:
    tables = Tables(LAYOUT, maps)
    write(tables, INSERT, attach(4, 9))
    before = generations(maps)
    write(tables, MODIFY, attach(4, 10))
    after = generations(maps)
    assert {number for number in after if after[number] != before[number]} == {9, 10}


def test_generations_skip_what_the_cache_takes_for_free_or_stale(maps: Maps) -> None:
    maps["generation"].update((7).to_bytes(4, sys.byteorder), (0xFFFD).to_bytes(4, sys.byteorder))
    tables = Tables(LAYOUT, maps)
    seen = [generations(maps)[7]]
    for operation in (INSERT, DELETE):
        write(tables, operation, policy(7, 1))
        seen.append(generations(maps)[7])
    assert seen == [0xFFFE, 0x10001, 0x10002]


def test_a_start_leaves_no_cached_decision_valid(maps: Maps) -> None:
    """The process before may have died between a table write and its generations."""
    Tables(LAYOUT, maps)
    before = generations(maps)
    Tables(LAYOUT, maps)
    after = generations(maps)
    assert all(after[number] != before[number] for number in range(SIZES.policy_classes))
    assert all(value & 0xFFFF for value in after.values())


OF_ALL = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("entries", "asked"),
    [
        ([punt(0x88CC)], 0),
        ([punt(0x88CC, ingress_class=3)], 0),
        ([punt(0x0800)], OF_ALL),
        ([punt(0x86DD)], OF_ALL),
        ([punt(0x0806)], OF_ALL),
        ([punt(None)], OF_ALL),
        ([punt(0x0800, 0xFF00)], OF_ALL),
        ([punt(0x8800, 0xFF00)], 0),
        ([punt(0x0806, ingress_class=3)], 3),
        ([punt(0x0806, ingress_class=3), punt(0x86DD, ingress_class=3), punt(0x88CC)], 3),
        ([punt(0x0806, ingress_class=3), punt(0x86DD, ingress_class=4)], OF_ALL),
        ([punt(0x0806, ingress_class=3), punt(0x86DD)], OF_ALL),
        ([punt(0x0806, ingress_class=0)], OF_ALL),
    ],
)
def test_ip_is_punted_only_where_an_entry_asks_for_it(maps: Maps, entries: list[TableEntry], asked: int) -> None:
    key = bytes(4)
    seed = b"\0\0\0\0\1\2\3\4\5\6\7\x08"
    maps["settings"].update(key, bytes(4) + seed)
    tables = Tables(LAYOUT, maps)
    for entry in entries:
        write(tables, INSERT, entry)
    assert maps["settings"].lookup(key) == asked.to_bytes(4, sys.byteorder) + seed
    for entry in entries:
        write(tables, DELETE, entry)
    assert maps["settings"].lookup(key) == bytes(4) + seed


# Behind our back


def entry_map(shape: Shape) -> str:
    name = ONE_OF_EACH_SHAPE[shape].table
    return f"{name}_range" if shape is Shape.RANGE else name


@pytest.mark.parametrize("shape", Shape)
def test_an_entry_deleted_in_the_map_is_missing_and_can_be_inserted(maps: Maps, shape: Shape) -> None:
    tables, entry = Tables(LAYOUT, maps), ONE_OF_EACH_SHAPE[shape]
    write(tables, INSERT, entry)
    target = maps[entry_map(shape)]
    if shape in (Shape.ARRAY, Shape.CANDIDATES):
        key = pack(LAYOUT.by_name[entry.table], entry).key
        target.update(key, bytes(target.value_size))
    else:
        target.delete(target.items()[0])
    assert everything(tables) == set()
    assert write(tables, INSERT, entry) == [Code.OK]
    assert everything(tables) == {entry}


@pytest.mark.parametrize("shape", Shape)
def test_an_entry_deleted_in_the_map_can_be_inserted_without_a_read_between(maps: Maps, shape: Shape) -> None:
    tables, entry = Tables(LAYOUT, maps), ONE_OF_EACH_SHAPE[shape]
    write(tables, INSERT, entry)
    target = maps[entry_map(shape)]
    if shape in (Shape.ARRAY, Shape.CANDIDATES):
        target.update(pack(LAYOUT.by_name[entry.table], entry).key, bytes(target.value_size))
    else:
        target.delete(target.items()[0])
    assert write(tables, INSERT, entry) == [Code.OK]
    assert everything(tables) == {entry}


@pytest.mark.parametrize("shape", [Shape.ARRAY, Shape.CANDIDATES, Shape.HASH, Shape.LPM, Shape.TERNARY])
def test_an_entry_changed_in_the_map_shows_and_can_be_modified(maps: Maps, shape: Shape) -> None:
    tables, entry = Tables(LAYOUT, maps), ONE_OF_EACH_SHAPE[shape]
    write(tables, INSERT, entry)
    layout = LAYOUT.by_name[entry.table]
    name, value = entry.params[0]
    changed = dataclasses.replace(entry, params=((name, value + 3), *entry.params[1:]))
    maps[entry.table].update(map_key(maps, entry), pack(layout, changed).value)
    assert everything(tables) == {changed}
    assert write(tables, MODIFY, entry) == [Code.OK]
    assert everything(tables) == {entry}


def map_key(maps: Maps, entry: TableEntry) -> bytes:
    layout = LAYOUT.by_name[entry.table]
    return pack(layout, entry).key if layout.shape is not Shape.TERNARY else maps[entry.table].items()[0]


@pytest.mark.parametrize("shape", Shape)
def test_an_entry_of_an_unknown_action_is_missing_and_can_be_inserted(maps: Maps, shape: Shape) -> None:
    tables, entry = Tables(LAYOUT, maps), ONE_OF_EACH_SHAPE[shape]
    write(tables, INSERT, entry)
    target = maps[entry_map(shape)]
    key = map_key(maps, entry)
    target.update(key, b"\x63" + (target.lookup(key) or b"")[1:])
    assert everything(tables) == set()
    assert write(tables, INSERT, entry) == [Code.OK]
    assert everything(tables) == {entry}


def test_rows_that_no_client_could_name_are_removed(maps: Maps) -> None:
    """They would take room for ever: nobody could delete them."""
    tables, good = Tables(LAYOUT, maps), route(3, 7)
    write(tables, INSERT, good)
    value = pack(LAYOUT.by_name["route"], good).value
    layout = LAYOUT.by_name["route"]
    beyond = pack(layout, good).key[:-1] + b"\1"  # A bit beyond the prefix.
    no_prefix = bytes(24)
    for key in (beyond[:8] + b"\1" + beyond[9:], no_prefix):
        maps["route"].update(key, value)
    assert everything(tables) == {good}
    assert len(maps["route"].items()[0]) == 24


def test_ports_whose_classes_were_changed_are_missing_and_can_be_inserted(maps: Maps) -> None:
    tables = Tables(LAYOUT, maps)
    web, other = ports(6, 80, 90, 2), ports(17, 53, 53, 3)
    write(tables, INSERT, web, other)
    key = (6).to_bytes(4, sys.byteorder)
    right = maps["destination_port_class"].lookup(key)
    maps["destination_port_class"].update(key, bytes(CLASSES_BYTES))
    assert everything(tables) == {other}
    assert write(tables, INSERT, web) == [Code.OK]
    assert maps["destination_port_class"].lookup(key) == right
    maps["destination_port_class"].delete(key)
    assert everything(tables) == {other}
    assert write(tables, INSERT, web) == [Code.OK]
    assert everything(tables) == {web, other}


def test_classes_of_a_protocol_without_entries_are_removed(maps: Maps) -> None:
    tables = Tables(LAYOUT, maps)
    maps["destination_port_class"].update((6).to_bytes(4, sys.byteorder), b"\1" * CLASSES_BYTES)
    assert everything(tables) == set()
    assert maps["destination_port_class"].items() == (b"", b"")


def test_entries_whose_mask_was_changed_are_missing_and_can_be_inserted(maps: Maps) -> None:
    tables = Tables(LAYOUT, maps)
    entry = policy(3, 5, source_group=(4, 0xFF))
    size = 4 + MASKS * LAYOUT.by_name["flow_policy"].key.size
    for broken in (bytes(size), (1).to_bytes(4, sys.byteorder) + bytes(size - 4)):
        write(tables, INSERT, entry)
        maps["flow_policy_masks"].update((3).to_bytes(4, sys.byteorder), broken)
        assert everything(tables) == set()
        assert write(tables, INSERT, entry) == [Code.OK]
        assert everything(tables) == {entry}
        fields = {f.name: 0 for f in LAYOUT.by_name["flow_policy"].table.fields} | {
            "policy_class": 3,
            "source_group": 4,
        }
        assert tuple_space_priority(maps, fields) == 5
        write(tables, DELETE, entry)


# After a restart


def test_a_new_process_takes_over_what_is_in_the_maps(maps: Maps) -> None:
    tables = Tables(LAYOUT, maps)
    late = policy(3, 6, source_group=(4, 0xFF))
    write(tables, INSERT, *ONE_OF_EACH_SHAPE.values(), late)
    again = Tables(LAYOUT, maps)
    assert everything(again) == {*ONE_OF_EACH_SHAPE.values(), late}
    assert write(again, INSERT, *ONE_OF_EACH_SHAPE.values()) == [Code.ALREADY_EXISTS] * 6
    assert write(again, DELETE, *ONE_OF_EACH_SHAPE.values(), late) == [Code.OK] * 7
    assert everything(again) == set()


def test_a_kill_between_ranges_and_classes_is_made_good_at_the_next_start(maps: Maps) -> None:
    tables, web = Tables(LAYOUT, maps), ports(6, 80, 90, 2)
    write(tables, INSERT, web)
    key = (6).to_bytes(4, sys.byteorder)
    right = maps["destination_port_class"].lookup(key)
    maps["destination_port_class"].delete(key)
    assert everything(Tables(LAYOUT, maps)) == {web}
    assert maps["destination_port_class"].lookup(key) == right
