"""Entries as P4Runtime messages and back, driven by the P4Info: names and integers here, ids and octets on the wire.

```
 Entry ──compose──▶ p4.v1.TableEntry          p4.v1.TableEntry ──parse──▶ Row
 Entry ──key, behaviour──▶ what it is compared by ◀──key, behaviour── Row
```
"""

import ipaddress

from finsy.proto import p4r

from controller.errors import TargetRejected
from controller.model.entry import Match, OwnedEntry
from controller.model.intent import Value
from dataplane.p4runtime.p4info import Action, MatchField, MatchType, P4Info, Table

Key = tuple[str, tuple[Match, ...], int]
"""Table, match, priority: what makes an entry the same one (P4Runtime §9.1)."""
Behaviour = tuple[str, tuple[tuple[str, int], ...]]
"""Action and parameters: what it does."""


class Row(Value, frozen=True, kw_only=True):
    """An entry as a node has it; nobody knows whose it is."""

    key: Key
    behaviour: Behaviour


def key(entry: OwnedEntry) -> Key:
    return entry.table, entry.match, entry.priority


def behaviour(entry: OwnedEntry) -> Behaviour:
    return entry.action, entry.params


def show(key: Key, behaviour: Behaviour | None = None) -> str:
    """For people: `route(context=0, destination=5f00:1::/48) -> set_next_hop(next_hop=3)`."""
    table, match, priority = key
    fields = [_show_match(each) for each in match] + ([f"priority={priority}"] if priority else [])
    text = f"{table}({', '.join(fields)})"
    if behaviour is None:
        return text
    action, params = behaviour
    return f"{text} -> {action}({', '.join(f'{name}={_show_number(value)}' for name, value in params)})"


class Codec:
    """Raises ValueError for an entry that the P4Info does not have, TargetRejected for a message that it does not."""

    def __init__(self, p4info: P4Info) -> None:
        self.p4info = p4info

    def compose(self, entry: OwnedEntry) -> p4r.TableEntry:
        return self.compose_row(key(entry), behaviour(entry))

    def compose_row(self, key: Key, does: Behaviour) -> p4r.TableEntry:
        message = self.compose_key(key)
        action_name, params = does
        action = self.p4info.table_by_name[key[0]].action_by_name.get(action_name)
        if action is None or len(params) != len(action.params):
            raise ValueError(f"{show(key, does)}: the P4Info has no such action of that table")
        composed = message.action.action
        composed.action_id = action.id
        for (name, number), param in zip(params, action.params, strict=True):
            if name != param.name:
                raise ValueError(f"{show(key, does)}: the P4Info has no such action of that table")
            composed.params.add(param_id=param.id, value=octets(number, param.bitwidth))
        return message

    def compose_key(self, key: Key) -> p4r.TableEntry:
        name, match, priority = key
        table = self.p4info.table_by_name.get(name)
        if table is None:
            raise ValueError(f"{show(key)}: the P4Info has no such table")
        message = p4r.TableEntry(table_id=table.id, priority=priority)
        for each in match:
            field = table.field_by_name.get(each.field)
            if field is None:
                raise ValueError(f"{show(key)}: the table has no field {each.field!r}")
            _compose_match(field, each, message.match.add(field_id=field.id))
        return message

    def parse(self, message: p4r.TableEntry) -> Row:
        table = self.p4info.table_by_id.get(message.table_id)
        if table is None:
            raise TargetRejected(f"the node has an entry of table {message.table_id:#x}, which the P4Info has not")
        fields = table.field_by_id
        try:
            match = sorted(message.match, key=lambda each: each.field_id)
            values = tuple(_parse_match(fields[each.field_id], each) for each in match)
            if len({value.field for value in values}) != len(values):
                raise TargetRejected(f"the node has an entry of {table.name} with a field twice")
            return Row(key=(table.name, values, message.priority), behaviour=_parse_action(table, message))
        except KeyError as exc:
            raise TargetRejected(
                f"the node has an entry of {table.name} with id {exc}, which the P4Info has not"
            ) from exc


def octets(number: int, bitwidth: int) -> bytes:
    """The shortest big-endian form (P4Runtime §8.4). Raises ValueError where it does not fit."""
    if number < 0 or number >> bitwidth:
        raise ValueError(f"{number} does not fit into {bitwidth} bits")
    return number.to_bytes(max(1, (number.bit_length() + 7) // 8), "big")


def _compose_match(field: MatchField, match: Match, message: p4r.FieldMatch) -> None:
    value = octets(match.value, field.bitwidth)
    match field.match_type:
        case MatchType.EXACT:
            message.exact.value = value
        case MatchType.LPM:
            message.lpm.value = value
            message.lpm.prefix_len = _given(field, match.prefix_length)
        case MatchType.TERNARY:
            message.ternary.value = value
            message.ternary.mask = octets(_given(field, match.mask), field.bitwidth)
        case MatchType.RANGE:
            message.range.low = value
            message.range.high = octets(_given(field, match.high), field.bitwidth)


def _given(field: MatchField, number: int | None) -> int:
    if number is None:
        raise ValueError(f"field {field.name}: a {field.match_type.value} match lacks its second number")
    return number


def _parse_match(field: MatchField, message: p4r.FieldMatch) -> Match:
    bits = field.bitwidth
    match field.match_type:
        case MatchType.EXACT:
            return Match(field=field.name, value=_number(message.exact.value, bits))
        case MatchType.LPM:
            prefix_length = message.lpm.prefix_len
            if not 0 <= prefix_length <= bits:
                raise TargetRejected(f"the node has an entry with a prefix of {prefix_length} bits in {field.name}")
            return Match(field=field.name, value=_number(message.lpm.value, bits), prefix_length=prefix_length)
        case MatchType.TERNARY:
            mask = _number(message.ternary.mask, bits)
            return Match(field=field.name, value=_number(message.ternary.value, bits), mask=mask)
        case MatchType.RANGE:
            high = _number(message.range.high, bits)
            return Match(field=field.name, value=_number(message.range.low, bits), high=high)


def _parse_action(table: Table, message: p4r.TableEntry) -> Behaviour:
    action: Action = table.action_by_id[message.action.action.action_id]
    bits = {param.id: param.bitwidth for param in action.params}
    values = {param.param_id: _number(param.value, bits[param.param_id]) for param in message.action.action.params}
    return action.name, tuple((param.name, values[param.id]) for param in action.params)


def _number(octets: bytes, bitwidth: int) -> int:
    """Raises TargetRejected where it has more bits."""
    number = int.from_bytes(octets, "big") if len(octets) <= (bitwidth + 7) // 8 else 1 << bitwidth
    if number >> bitwidth:
        raise TargetRejected(f"the node has an entry with a number of more than {bitwidth} bits")
    return number


def _show_match(match: Match) -> str:
    text = f"{match.field}={_show_number(match.value)}"
    if match.prefix_length is not None:
        return f"{text}/{match.prefix_length}"
    if match.mask is not None:
        return f"{text}&{match.mask:#x}"
    return text if match.high is None else f"{text}..{match.high}"


def _show_number(number: int) -> str:
    """Addresses as addresses; everything that is wider than a MAC is one."""
    if number < 1 << 48:
        return str(number)
    address = ipaddress.IPv6Address(number)
    return str(address.ipv4_mapped or address)
