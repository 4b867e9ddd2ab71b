"""Entries of the table `openflow` as flow entries, and back.

| action | instructions |
|---|---|
| `forward` | hop limit - 1, MACs of the next link, output |
| `punt` | output to the controller |
| `drop` | none |

The cookie says whose an entry is. It is compared as if it were a parameter, so that a switch tells from whom what it
has comes.
"""

import hashlib
import struct
from functools import lru_cache

from controller.model.entry import Match, OwnedEntry
from controller.model.openflow import TABLE
from controller.southbound.codec import Behaviour, Key, Row
from controller.southbound.openflow.messages import (
    CONTROLLER,
    Flow,
    Oxm,
    apply_actions,
    basic,
    decrement_hop_limit,
    output,
    set_field,
)

_ETH_DST, _ETH_SRC, _ETH_TYPE = basic(3), basic(4), basic(5)
_FIELDS = {"in_port": (basic(0), 4), "eth_type": (_ETH_TYPE, 2)} | {
    "ipv6_src": (basic(26), 16),
    "ipv6_dst": (basic(27), 16),
    "ipv6_flabel": (basic(28), 4),
}
"""Name -> OXM and octets."""
_NAMES = {oxm: name for name, (oxm, _) in _FIELDS.items()}
_IPV6 = Oxm(_ETH_TYPE, b"\x86\xdd")
_COOKIE = "cookie"
_LARGEST_PRIORITY = 0xFFFF
_PUNT = apply_actions(output(CONTROLLER))


@lru_cache(65_536)
def cookie(owner: str) -> int:
    """64 bits of it; none is the all-ones that OpenFlow reserves (§7.3.4.2)."""
    return int.from_bytes(hashlib.sha256(owner.encode()).digest()[:8]) >> 1


def marked(entry: OwnedEntry) -> OwnedEntry:
    """With its owner's cookie among its parameters: what a switch is compared with."""
    return entry.replaced(params=(*entry.params, (_COOKIE, cookie(entry.owner))))


def compose(entry: OwnedEntry) -> Flow:
    """Of a marked entry. Raises ValueError for one that is no flow entry."""
    params = dict(entry.params)
    if not 0 <= entry.priority <= _LARGEST_PRIORITY:
        raise ValueError(f"priority {entry.priority}: OpenFlow has 0 to {_LARGEST_PRIORITY}")
    try:
        instructions = _instructions(entry.action, params)
    except (OverflowError, struct.error) as exc:
        raise ValueError(f"{entry.action}: a parameter does not fit") from exc
    return Flow(
        table_id=0,
        priority=entry.priority,
        match=compose_match((entry.table, entry.match, entry.priority)),
        instructions=instructions,
        cookie=params[_COOKIE],
    )


def compose_match(key: Key) -> tuple[Oxm, ...]:
    """Raises ValueError."""
    table, match, _ = key
    if table != TABLE:
        raise ValueError(f"an OpenFlow switch has no table {table}")
    fields = [_compose_field(each) for each in match]
    if any(each.field.startswith("ipv6_") for each in match):
        fields.append(_IPV6)
    return tuple(sorted(fields, key=lambda oxm: oxm.field))


def parse(flow: Flow) -> Row:
    """As a switch says that it has it; what is none of ours gets a key and behaviour that no entry of ours has."""
    fields = tuple(_parse_field(oxm) for oxm in flow.match if not _is_implied(oxm, flow.match))
    table = TABLE if flow.table_id == 0 else f"{TABLE} {flow.table_id}"
    return Row(key=(table, fields, flow.priority), behaviour=_behaviour(flow))


def _compose_field(match: Match) -> Oxm:
    if match.field not in _FIELDS:
        raise ValueError(f"OpenFlow has no field {match.field!r}")
    field, size = _FIELDS[match.field]
    mask = match.mask
    if match.prefix_length is not None:
        bits = 8 * size
        mask = (1 << bits) - (1 << bits - match.prefix_length)
    try:
        return Oxm(field, match.value.to_bytes(size), None if mask is None else mask.to_bytes(size))
    except OverflowError as exc:
        raise ValueError(f"{match.field}: {match.value} does not fit into {size} octets") from exc


def _is_implied(oxm: Oxm, match: tuple[Oxm, ...]) -> bool:
    return oxm == _IPV6 and any(_NAMES.get(other.field, "").startswith("ipv6_") for other in match)


def _parse_field(oxm: Oxm) -> Match:
    value = int.from_bytes(oxm.value)
    name, mask = _NAMES.get(oxm.field), oxm.mask
    if name is None or len(oxm.value) != _FIELDS[name][1]:
        name = f"oxm_{oxm.field >> 7:x}_{oxm.field & 0x7F}_{len(oxm.value)}"
    if mask is None:
        return Match(field=name, value=value)
    number, bits = int.from_bytes(mask), 8 * len(mask)
    length = number.bit_count()
    if name == "ipv6_dst" and number == (1 << bits) - (1 << bits - length):
        return Match(field=name, value=value, prefix_length=length)
    return Match(field=name, value=value, mask=number)


def _instructions(action: str, params: dict[str, int]) -> bytes:
    match action:
        case "forward":
            return apply_actions(
                decrement_hop_limit()
                + set_field(_ETH_SRC, params["source_mac"].to_bytes(6))
                + set_field(_ETH_DST, params["destination_mac"].to_bytes(6))
                + output(params["port"])
            )
        case "punt":
            return _PUNT
        case "drop":
            return b""
        case _:
            raise ValueError(f"an OpenFlow switch has no action {action}")


def _behaviour(flow: Flow) -> Behaviour:
    """What instructions of ours say, by making them again; else their digest."""
    own = ((_COOKIE, flow.cookie),)
    data = flow.instructions
    if not (flow.hard_timeout or flow.idle_timeout):
        if not data:
            return "drop", own
        if data == _PUNT:
            return "punt", own
        if len(data) == _FORWARD_OCTETS:
            params = {
                "port": int.from_bytes(data[_PORT]),
                "source_mac": int.from_bytes(data[_SOURCE_MAC]),
                "destination_mac": int.from_bytes(data[_DESTINATION_MAC]),
            }
            if data == _instructions("forward", params):
                return "forward", (*params.items(), *own)
    digest = hashlib.sha256(data + bytes((flow.hard_timeout > 0, flow.idle_timeout > 0))).digest()[:8]
    return "unknown", (("instructions", int.from_bytes(digest)), *own)


_FORWARD_OCTETS = 8 + 8 + 16 + 16 + 16
_SOURCE_MAC, _DESTINATION_MAC, _PORT = slice(24, 30), slice(40, 46), slice(52, 56)
"""Where they are in the instructions of `forward`."""
