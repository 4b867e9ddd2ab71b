"""Table entries in their three forms: P4Runtime messages, `TableEntry` values, and the bytes of BPF maps.

    p4.v1.TableEntry  ──parse──▶  TableEntry  ──pack──▶  Packed (key, mask, priority, value)
                      ◀─compose─             ◀─unpack──

Driven by the P4Info and the layout; knows no table by name. `parse` checks all that P4Runtime §8.3 and §9.1 ask, the
other three trust what they get. `batch` does parse and pack for many updates of the same form at once, and
must come to equal results.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from finsy.proto import p4r

from dataplane.entry import FieldMatch, TableEntry
from dataplane.p4runtime.p4info import Action, MatchField, MatchType, Table
from dataplane.p4runtime.status import Code, Refused
from dataplane.reasons import CANDIDATE_PATHS
from dataplane.tables.layout import ACTION, PRIORITY, Layout, Place, Shape, TableLayout, number

NO_ACTION = ""
"""The action of an entry that only names a key: of DELETE, of a MODIFY that changes nothing, of a Read's filter."""
MAX_PRIORITY = 2**31 - 1
EXACT_FIELD_BITS = 32
"""Of an LPM key's exact field, which its prefix length counts too."""


@dataclass(frozen=True, slots=True)
class Packed:
    """An entry as it lies in its map. `mask_id` of a ternary key is 0 here: it is the store's to choose."""

    key: bytes
    mask: bytes
    """As long as the key for ternary tables, else empty."""
    priority: int
    value: bytes
    """Empty: no action was given."""


def parse(layout: Layout, message: p4r.TableEntry, *, action_needed: bool, key_only: bool = False) -> TableEntry:
    """The entry that `message` means. `key_only`: all but the key is ignored (DELETE). Raises Refused."""
    pipeline = layout.by_table_id.get(message.table_id)
    if pipeline is None:
        raise Refused(Code.NOT_FOUND, f"no table has the id {message.table_id:#x}")
    table = pipeline.table
    if message.is_default_action:
        if message.match or message.priority:
            raise Refused(Code.INVALID_ARGUMENT, f"{table.name}: the default entry has no match and no priority")
        raise Refused(Code.PERMISSION_DENIED, f"{table.name}: the default entry is constant")
    if message.is_const:
        raise Refused(Code.INVALID_ARGUMENT, f"{table.name}: is_const is not the client's to set")
    match = parse_match(layout, table, message)
    priority = _parse_priority(table, message.priority)
    if pipeline.shape is Shape.CANDIDATES:
        _check_candidate(table, match, priority)
    if key_only:
        return TableEntry(table.name, match, NO_ACTION, (), priority)
    _refuse_extras(table, message)
    if not message.HasField("action"):
        if action_needed:
            raise Refused(Code.INVALID_ARGUMENT, f"{table.name}: an action is needed")
        return TableEntry(table.name, match, NO_ACTION, (), priority)
    action, params = _parse_action(layout, table, message.action)
    return TableEntry(table.name, match, action.name, params, priority)


def compose(layout: Layout, entry: TableEntry, into: p4r.TableEntry | None = None) -> p4r.TableEntry:
    """The canonical message of `entry` (`into`, if given): shortest bytestrings, don't-care fields left out."""
    table = layout.by_name[entry.table].table
    result = p4r.TableEntry() if into is None else into
    result.table_id = table.id
    result.priority = entry.priority
    for match in entry.match:
        field = table.field_by_name[match.field]
        out = result.match.add(field_id=field.id)
        match field.match_type:
            case MatchType.EXACT:
                out.exact.value = bytestring(match.value)
            case MatchType.LPM:
                out.lpm.value = bytestring(match.value)
                out.lpm.prefix_len = match.prefix_length or 0
            case MatchType.TERNARY:
                out.ternary.value = bytestring(match.value)
                out.ternary.mask = bytestring(match.mask or 0)
            case MatchType.RANGE:
                out.range.low = bytestring(match.value)
                out.range.high = bytestring(match.value if match.high is None else match.high)
    if entry.action:
        action = table.action_by_name[entry.action]
        out_action = result.action.action
        out_action.action_id = action.id
        for param, (_, value) in zip(action.params, entry.params, strict=True):
            out_action.params.add(param_id=param.id, value=bytestring(value))
    return result


def compose_default(table: Table) -> p4r.TableEntry:
    """The table's default entry, which is constant."""
    result = p4r.TableEntry(table_id=table.id, is_default_action=True, is_const=True)
    action = result.action.action
    action.action_id = table.default_action.action.id
    for param, (_, value) in zip(table.default_action.action.params, table.default_action.params, strict=True):
        action.params.add(param_id=param.id, value=bytestring(value))
    return result


def pack(layout: TableLayout, entry: TableEntry) -> Packed:
    match = {match.field: match for match in entry.match}
    value = _pack_value(layout, entry) if entry.action else b""
    key = bytearray(layout.key.size)
    mask = b""
    match layout.shape:
        case Shape.ARRAY:
            (only,) = entry.match
            _put(key, layout.key.places[0], only.value)
        case Shape.CANDIDATES:
            exact, live = (match[field.name].value for field in layout.table.fields)
            _put(key, layout.key.places[0], exact * CANDIDATE_PATHS + live.bit_length() - 1)
        case Shape.HASH:
            for place in layout.key.places:
                _put(key, place, match[place.name].value)
        case Shape.LPM:
            prefix, exact_place, address = layout.key.places
            matched = match.get(address.name, FieldMatch(address.name, 0, prefix_length=0))
            _put(key, prefix, EXACT_FIELD_BITS + (matched.prefix_length or 0))
            _put(key, exact_place, match[exact_place.name].value)
            _put(key, address, matched.value)
        case Shape.RANGE:
            exact_field, ranged = layout.table.fields
            matched = match.get(ranged.name, FieldMatch(ranged.name, 0, high=2**ranged.bitwidth - 1))
            places = layout.key.by_name
            _put(key, places["priority"], entry.priority)
            _put(key, places[exact_field.name], match[exact_field.name].value)
            _put(key, places[f"{ranged.name}_low"], matched.value)
            _put(key, places[f"{ranged.name}_high"], matched.value if matched.high is None else matched.high)
        case Shape.TERNARY:
            masks = bytearray(layout.key.size)
            for field in layout.table.fields:
                if field.name in match:
                    place = layout.key.by_name[field.name]
                    _put(key, place, match[field.name].value)
                    _put(masks, place, _mask_of(field, match[field.name]))
            mask = bytes(masks)
    return Packed(bytes(key), mask, entry.priority, value)


def unpack(layout: TableLayout, key: bytes, mask: bytes, value: bytes) -> TableEntry:
    """What `pack` got. `mask` is that of the key's mask_id in ternary tables; `value` holds a known action number."""
    match: tuple[FieldMatch, ...]
    priority = 0
    fields = layout.table.fields
    places = layout.key.by_name
    match layout.shape:
        case Shape.ARRAY:
            match = (FieldMatch(fields[0].name, number(key, layout.key.places[0])),)
        case Shape.CANDIDATES:
            exact, slot = divmod(number(key, layout.key.places[0]), CANDIDATE_PATHS)
            match = (FieldMatch(fields[0].name, exact), FieldMatch(fields[1].name, 1 << slot, mask=1 << slot))
            priority = CANDIDATE_PATHS - slot
        case Shape.HASH:
            match = tuple(FieldMatch(field.name, number(key, places[field.name])) for field in fields)
        case Shape.LPM:
            prefix, exact_place, address = layout.key.places
            match = (FieldMatch(fields[0].name, number(key, exact_place)),)
            if length := number(key, prefix) - EXACT_FIELD_BITS:
                match += (FieldMatch(fields[1].name, number(key, address), prefix_length=length),)
        case Shape.RANGE:
            name = fields[1].name
            match = (FieldMatch(fields[0].name, number(key, places[fields[0].name])),)
            low, high = number(key, places[f"{name}_low"]), number(key, places[f"{name}_high"])
            if (low, high) != (0, 2 ** fields[1].bitwidth - 1):
                match += (FieldMatch(name, low, high=high),)
            priority = number(key, places["priority"])
        case Shape.TERNARY:
            masks = ((field, number(mask, places[field.name])) for field in fields)
            match = tuple(
                FieldMatch(
                    field.name,
                    number(key, places[field.name]),
                    mask=bits if field.match_type is MatchType.TERNARY else None,
                )
                for field, bits in masks
                if bits
            )
            priority = number(value, PRIORITY)
    action = layout.by_number[number(value, ACTION)]
    params = tuple((place.name, number(value, place)) for place in action.params)
    return TableEntry(layout.table.name, match, action.action.name, params, priority)


def bytestring(value: int) -> bytes:
    """The canonical form (P4Runtime §8.3): as short as can be, at least one byte."""
    return value.to_bytes((value.bit_length() + 7) // 8 or 1, "big")


def integer(value: bytes, bitwidth: int, what: str) -> int:
    """The number in a bytestring of any length. Raises Refused (OUT_OF_RANGE) if it is empty or too large."""
    if not value:
        raise Refused(Code.OUT_OF_RANGE, f"{what}: empty value")
    number = int.from_bytes(value, "big")
    if number >> bitwidth:
        raise Refused(Code.OUT_OF_RANGE, f"{what}: {number:#x} has more than {bitwidth} bits")
    return number


def _put(target: bytearray, place: Place, value: int) -> None:
    target[place.offset : place.offset + place.size] = value.to_bytes(place.size, place.kind.byteorder)


def _mask_of(field: MatchField, match: FieldMatch) -> int:
    """Exact fields of a tuple-space search are masked by all ones of their type, as XDP holds them."""
    if field.match_type is MatchType.EXACT:
        return 2 ** (8 if field.bitwidth <= 8 else 16 if field.bitwidth <= 16 else 32) - 1
    return match.mask or 0


def _pack_value(layout: TableLayout, entry: TableEntry) -> bytes:
    action = next(action for action in layout.actions if action.action.name == entry.action)
    value = bytearray(layout.value_size)
    _put(value, ACTION, action.number)
    if layout.shape is Shape.TERNARY:
        _put(value, PRIORITY, entry.priority)
    for place, (_, parameter) in zip(action.params, entry.params, strict=True):
        _put(value, place, parameter)
    return bytes(value)


def parse_match(layout: Layout, table: Table, message: p4r.TableEntry) -> tuple[FieldMatch, ...]:
    """The match fields of `message`, in the order of the P4Info. Raises Refused."""
    matches: dict[int, FieldMatch] = {}
    for part in message.match:
        field = table.field_by_id.get(part.field_id)
        if field is None:
            raise Refused(Code.INVALID_ARGUMENT, f"{table.name}: no match field has the id {part.field_id}")
        if field.id in matches:
            raise Refused(Code.INVALID_ARGUMENT, f"{table.name}.{field.name}: given twice")
        kind = part.WhichOneof("field_match_type")
        if kind != field.match_type.value:
            raise Refused(
                Code.INVALID_ARGUMENT, f"{table.name}.{field.name}: is {field.match_type.value}, not {kind or 'unset'}"
            )
        matches[field.id] = _parse_field(layout, f"{table.name}.{field.name}", field, part)
    for field in table.fields:
        if field.match_type is MatchType.EXACT and field.id not in matches:
            raise Refused(Code.INVALID_ARGUMENT, f"{table.name}.{field.name}: exact fields cannot be left out")
    return tuple(matches[field.id] for field in table.fields if field.id in matches)


def _parse_field(layout: Layout, what: str, field: MatchField, part: p4r.FieldMatch) -> FieldMatch:
    bits = field.bitwidth
    match field.match_type:
        case MatchType.EXACT:
            value = integer(part.exact.value, bits, what)
            _check_limit(layout.limits, field.name, value, what)
            return FieldMatch(field.name, value)
        case MatchType.LPM:
            value, length = integer(part.lpm.value, bits, what), part.lpm.prefix_len
            if not 0 < length <= bits:
                raise Refused(Code.INVALID_ARGUMENT, f"{what}: prefix_len {length} is not in 1..{bits} (0: leave out)")
            if value & ((1 << (bits - length)) - 1):
                raise Refused(Code.INVALID_ARGUMENT, f"{what}: {value:#x} has bits beyond the prefix of {length}")
            return FieldMatch(field.name, value, prefix_length=length)
        case MatchType.TERNARY:
            value, mask = integer(part.ternary.value, bits, what), integer(part.ternary.mask, bits, what)
            if not mask:
                raise Refused(Code.INVALID_ARGUMENT, f"{what}: mask 0: leave the field out")
            if value & ~mask:
                raise Refused(Code.INVALID_ARGUMENT, f"{what}: {value:#x} has bits outside of the mask {mask:#x}")
            return FieldMatch(field.name, value, mask=mask)
        case MatchType.RANGE:
            low, high = integer(part.range.low, bits, what), integer(part.range.high, bits, what)
            if low > high:
                raise Refused(Code.INVALID_ARGUMENT, f"{what}: low {low} > high {high}")
            if (low, high) == (0, 2**bits - 1):
                raise Refused(Code.INVALID_ARGUMENT, f"{what}: the whole range: leave the field out")
            return FieldMatch(field.name, low, high=high)


def _parse_priority(table: Table, priority: int) -> int:
    if table.has_priority and priority <= 0:
        raise Refused(Code.INVALID_ARGUMENT, f"{table.name}: a priority > 0 is needed, not {priority}")
    if not table.has_priority and priority:
        raise Refused(Code.INVALID_ARGUMENT, f"{table.name}: takes no priority, got {priority}")
    return priority


def _check_candidate(table: Table, match: tuple[FieldMatch, ...], priority: int) -> None:
    live = next((m for m in match if m.field == table.fields[1].name), None)
    if live is None or live.mask != live.value or live.value & (live.value - 1):
        raise Refused(
            Code.INVALID_ARGUMENT, f"{table.name}.{table.fields[1].name}: value and mask must be the same single bit"
        )
    wanted = CANDIDATE_PATHS - (live.value.bit_length() - 1)
    if priority != wanted:
        raise Refused(
            Code.INVALID_ARGUMENT,
            f"{table.name}: the candidate of bit {live.value:#x} has priority {wanted}, not {priority}:"
            " the lowest live bit wins",
        )


def _refuse_extras(table: Table, message: p4r.TableEntry) -> None:
    if message.metadata or message.controller_metadata:
        raise Refused(Code.UNIMPLEMENTED, f"{table.name}: this target keeps no metadata of entries")
    for name in ("meter_config", "counter_data", "meter_counter_data"):
        if message.HasField(name):
            raise Refused(Code.INVALID_ARGUMENT, f"{table.name}: has no direct resources, but {name} is set")
    if message.idle_timeout_ns:
        raise Refused(Code.INVALID_ARGUMENT, f"{table.name}: has no idle timeouts, but idle_timeout_ns is set")


def _parse_action(layout: Layout, table: Table, message: p4r.TableAction) -> tuple[Action, tuple[tuple[str, int], ...]]:
    if message.WhichOneof("type") != "action":
        raise Refused(Code.INVALID_ARGUMENT, f"{table.name}: is a direct table: `action.action` must be set")
    given = message.action
    action = table.action_by_id.get(given.action_id)
    if action is None:
        if any(given.action_id == other.id for other in table.default_only):
            raise Refused(Code.PERMISSION_DENIED, f"{table.name}: action {given.action_id:#x} is for the default only")
        raise Refused(Code.INVALID_ARGUMENT, f"{table.name}: has no action with the id {given.action_id:#x}")
    what = f"{table.name}: {action.name}"
    values: dict[int, bytes] = {}
    for param in given.params:
        if param.param_id in values:
            raise Refused(Code.INVALID_ARGUMENT, f"{what}: parameter {param.param_id} is given twice")
        values[param.param_id] = param.value
    params = []
    for wanted in action.params:
        if wanted.id not in values:
            raise Refused(Code.INVALID_ARGUMENT, f"{what}: parameter {wanted.name} is missing")
        number = integer(values.pop(wanted.id), wanted.bitwidth, f"{what}.{wanted.name}")
        _check_limit(layout.param_limits, wanted.name, number, f"{what}.{wanted.name}")
        params.append((wanted.name, number))
    if values:
        raise Refused(Code.INVALID_ARGUMENT, f"{what}: has no parameters with the ids {sorted(values)}")
    return action, tuple(params)


def _check_limit(limits: Mapping[str, tuple[int, int]], name: str, value: int, what: str) -> None:
    low, high = limits.get(name, (value, value))
    if not low <= value <= high:
        why = ": 0 is the fabric's VRF, into which no entry leads" if name == "vrf" and not value else ""
        raise Refused(Code.OUT_OF_RANGE, f"{what}: {value} is not in {low}..{high}{why}")
