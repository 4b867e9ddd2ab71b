"""The pipeline's tables over maps in memory, and strategies for their entries."""

from collections.abc import Mapping

from hypothesis import strategies as st
from map_fake import FakeMap

from dataplane.entry import FieldMatch, TableEntry
from dataplane.host_api import TableSizes
from dataplane.p4runtime import p4info
from dataplane.p4runtime.p4info import MatchField, MatchType
from dataplane.reasons import CANDIDATE_PATHS
from dataplane.tables import layout as layouts
from dataplane.tables import table_sizes
from dataplane.tables.layout import MASKS, Layout, Shape, TableLayout
from dataplane.tables.range_store import CLASSES_BYTES

SIZES = TableSizes(
    forwarding_classes=4096,
    flow_policies=16384,
    prefixes=16384,
    sr_policies=2048,
    policy_classes=1024,
    local_sids=4096,
)
"""Smaller than usual: most tests look at whole tables."""
LAYOUT = layouts.of(p4info.resized(p4info.load(), table_sizes.by_name(SIZES)))


def fake_maps(layout: Layout = LAYOUT) -> dict[str, FakeMap]:
    maps = {
        "generation": FakeMap(4, 4, layout.policy_classes, fixed=True),
        "settings": FakeMap(4, 16, 1, fixed=True),
    }
    for table in layout.tables:
        name, size = table.table.name, table.table.size
        match table.shape:
            case Shape.ARRAY | Shape.CANDIDATES:
                maps[name] = FakeMap(4, table.value_size, size, fixed=True)
            case Shape.RANGE:
                maps[name] = FakeMap(4, CLASSES_BYTES, 4)
                maps[f"{name}_range"] = FakeMap(table.key.size, table.value_size, size)
            case Shape.TERNARY:
                maps[name] = FakeMap(table.key.size, table.value_size, size)
                lists = layout.policy_classes if table.exact else 1
                maps[f"{name}_masks"] = FakeMap(4, 4 + MASKS * table.key.size, lists, fixed=True)
            case Shape.HASH | Shape.LPM:
                maps[name] = FakeMap(table.key.size, table.value_size, size, lpm=table.shape is Shape.LPM)
    return maps


@st.composite
def entries(
    draw: st.DrawFn,
    tables: tuple[TableLayout, ...] = LAYOUT.tables,
    limits: Mapping[str, tuple[int, int]] = LAYOUT.limits,
) -> TableEntry:
    """Any entry that a client may write."""
    layout = draw(st.sampled_from(tables))
    table = layout.table
    match = tuple(
        field_match for field in table.fields if (field_match := draw(_match(field, limits, layout))) is not None
    )
    action = draw(st.sampled_from(table.actions))
    param_limits = {**limits, "vrf": LAYOUT.param_limits["vrf"]}
    params = tuple((p.name, draw(_number(p.name, p.bitwidth, param_limits))) for p in action.params)
    priority = 0
    if layout.shape is Shape.CANDIDATES:
        priority = CANDIDATE_PATHS + 1 - match[1].value.bit_length()
    elif table.has_priority:
        priority = draw(st.integers(1, 2**31 - 1) | st.integers(1, 3))
    return TableEntry(table.name, match, action.name, params, priority)


def _number(name: str, bitwidth: int, limits: Mapping[str, tuple[int, int]]) -> st.SearchStrategy[int]:
    low, high = limits.get(name, (0, 2**bitwidth - 1))
    return st.integers(low, high) | st.integers(low, min(high, low + 2))


def _match(
    field: MatchField, limits: Mapping[str, tuple[int, int]], layout: TableLayout
) -> st.SearchStrategy[FieldMatch | None]:
    numbers = _number(field.name, field.bitwidth, limits)
    top = 2**field.bitwidth - 1
    match field.match_type:
        case MatchType.EXACT:
            return numbers.map(lambda value: FieldMatch(field.name, value))
        case MatchType.TERNARY if layout.shape is Shape.CANDIDATES:
            return st.integers(0, 7).map(lambda slot: FieldMatch(field.name, 1 << slot, mask=1 << slot))
        case MatchType.TERNARY:
            pairs = st.tuples(numbers, st.integers(1, top) | st.just(top))
            return st.none() | pairs.map(lambda pair: FieldMatch(field.name, pair[0] & pair[1], mask=pair[1]))
        case MatchType.LPM:
            lpm = st.tuples(numbers, st.integers(1, field.bitwidth) | st.just(field.bitwidth))
            return st.none() | lpm.map(
                lambda pair: FieldMatch(
                    field.name,
                    pair[0] >> (field.bitwidth - pair[1]) << (field.bitwidth - pair[1]),
                    prefix_length=pair[1],
                )
            )
        case MatchType.RANGE:
            ranges = st.tuples(numbers, numbers).map(sorted).filter(lambda pair: pair != [0, top])
            return st.none() | ranges.map(lambda pair: FieldMatch(field.name, pair[0], high=pair[1]))
