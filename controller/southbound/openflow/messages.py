"""OpenFlow 1.3.5 on the wire: the messages that netstitch sends and understands, as bytes and values.

What a switch sends is foreign: every length is checked against what is there, and whatever does not fit is Malformed.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

VERSION = 4
HEADER = struct.Struct("!BBHI")
"""Version, type, length, xid (§7.1)."""
HELLO, ERROR, ECHO_REQUEST, ECHO_REPLY = 0, 1, 2, 3
FEATURES_REQUEST, FEATURES_REPLY, SET_CONFIG = 5, 6, 9
PACKET_IN, PORT_STATUS, PACKET_OUT, FLOW_MOD = 10, 12, 13, 14
MULTIPART_REQUEST, MULTIPART_REPLY, BARRIER_REQUEST, BARRIER_REPLY = 18, 19, 20, 21
ROLE_REQUEST, ROLE_REPLY, SET_ASYNC = 24, 25, 28

DESCRIPTION, FLOWS, TABLE_FEATURES, PORTS = 0, 1, 12, 13
"""Multipart (§7.3.5)."""
ADD, DELETE_STRICT = 0, 4
"""Commands of a flow-mod. ADD replaces what has the same match and priority; MODIFY would leave its cookie (§6.4)."""
ANY, CONTROLLER, NO_BUFFER = 0xFFFFFFFF, 0xFFFFFFFD, 0xFFFFFFFF
LARGEST_PORT_NUMBER = 0xFFFFFF00
ALL_TABLES = 0xFF
WHOLE_PACKET = 0xFFFF
MASTER = 2

_FLOW_MOD = struct.Struct("!QQBBHHHIIIHxx")
_FLOW_STATS = struct.Struct("!HBxIIHHHHxxxxQQQ")
_PORT = struct.Struct("!Ixxxx6sxx16sIIIIIIII")
_OXM = struct.Struct("!HBB")
_BASIC = 0x8000
"""OXM class."""
_LINK_DOWN = _PORT_DOWN = 1


class Malformed(Exception):
    """It is no OpenFlow 1.3."""


class Oxm(NamedTuple):
    """One field of a match."""

    field: int
    """Class and field of the OXM header."""
    value: bytes
    mask: bytes | None = None


def basic(number: int) -> int:
    """`field` of one of OpenFlow's own."""
    return _BASIC << 7 | number


class Flow(NamedTuple):
    """An entry of a flow table."""

    table_id: int
    priority: int
    match: tuple[Oxm, ...]
    instructions: bytes
    cookie: int
    hard_timeout: int = 0
    idle_timeout: int = 0
    packets: int = 0
    bytes: int = 0


class SwitchPort(NamedTuple):
    number: int
    mac: bytes
    name: str
    is_up: bool


class Features(NamedTuple):
    datapath_id: int
    tables: int


class Failure(NamedTuple):
    """Of a request of ours."""

    type: int
    code: int

    def __str__(self) -> str:
        kind, codes = _FAILURES.get(self.type, (f"error {self.type}", ()))
        return f"{kind}: {codes[self.code] if self.code < len(codes) else f'code {self.code}'}"


_FAILURES: dict[int, tuple[str, tuple[str, ...]]] = {
    0: ("hello failed", ("incompatible", "not allowed")),
    1: (
        "bad request",
        (
            "version",
            "type",
            "multipart type",
            "experimenter",
            "experimenter type",
            "not allowed",
            "length",
            "buffer is empty",
            "buffer unknown",
            "table id",
            "another controller leads it",
        ),
    ),
    2: ("bad action", ("type", "length", "experimenter", "experimenter type", "output port", "argument")),
    3: ("bad instruction", ("unknown", "unsupported", "table id")),
    4: (
        "bad match",
        ("type", "length", "tag", "link address", "network address", "wildcards", "field", "value", "mask"),
    ),
    5: ("flow-mod failed", ("unknown", "table full", "table id", "overlap", "not allowed", "timeout", "command")),
    11: ("role request failed", ("stale", "not supported", "bad role")),
}
"""Type -> its name, and those of its codes from 0 on (§7.4.4)."""


# ---- what we send


def message(kind: int, xid: int, body: bytes = b"") -> bytes:
    return HEADER.pack(VERSION, kind, HEADER.size + len(body), xid) + body


def hello(xid: int) -> bytes:
    """With the version bitmap (§7.5.1): 1.3 and nothing else."""
    return message(HELLO, xid, struct.pack("!HHI", 1, 8, 1 << VERSION))


def set_config(xid: int) -> bytes:
    """Fragments as any packet; what goes to the controller goes whole."""
    return message(SET_CONFIG, xid, struct.pack("!HH", 0, WHOLE_PACKET))


def set_async(xid: int) -> bytes:
    """As the leader: packets of actions and misses, and all that happens to ports; as another: nothing."""
    return message(SET_ASYNC, xid, struct.pack("!6I", 0b11, 0, 0b111, 0, 0, 0))


def role_request(xid: int, generation: int) -> bytes:
    return message(ROLE_REQUEST, xid, struct.pack("!IxxxxQ", MASTER, generation))


def multipart_request(xid: int, kind: int, body: bytes = b"") -> bytes:
    return message(MULTIPART_REQUEST, xid, struct.pack("!HHxxxx", kind, 0) + body)


def all_flows(xid: int) -> bytes:
    body = struct.pack("!BxxxIIxxxxQQ", ALL_TABLES, ANY, ANY, 0, 0) + encode_match(())
    return multipart_request(xid, FLOWS, body)


def encode_match(match: tuple[Oxm, ...]) -> bytes:
    fields = b"".join(map(_oxm, match))
    length = 4 + len(fields)
    return struct.pack("!HH", 1, length) + fields + bytes(-length % 8)


def _oxm(oxm: Oxm) -> bytes:
    mask = oxm.mask or b""
    number = (oxm.field & 0x7F) << 1 | (oxm.mask is not None)
    return _OXM.pack(oxm.field >> 7, number, len(oxm.value) + len(mask)) + oxm.value + mask


def flow_mod(xid: int, command: int, flow: Flow) -> bytes:
    body = _FLOW_MOD.pack(
        flow.cookie,
        0,
        flow.table_id,
        command,
        flow.idle_timeout,
        flow.hard_timeout,
        flow.priority,
        NO_BUFFER,
        ANY,
        ANY,
        0,
    )
    return message(FLOW_MOD, xid, body + encode_match(flow.match) + flow.instructions)


def packet_out(xid: int, port: int, frame: bytes) -> bytes:
    actions = output(port)
    head = struct.pack("!IIHxxxxxx", NO_BUFFER, CONTROLLER, len(actions))
    return message(PACKET_OUT, xid, head + actions + frame)


def output(port: int) -> bytes:
    return struct.pack("!HHIHxxxxxx", 0, 16, port, WHOLE_PACKET if port == CONTROLLER else 0)


def decrement_hop_limit() -> bytes:
    return struct.pack("!HHxxxx", 24, 8)


def set_field(field: int, value: bytes) -> bytes:
    oxm = _OXM.pack(field >> 7, (field & 0x7F) << 1, len(value)) + value
    length = 4 + len(oxm)
    return struct.pack("!HH", 25, length + -length % 8) + oxm + bytes(-length % 8)


def apply_actions(actions: bytes) -> bytes:
    return struct.pack("!HHxxxx", 4, 8 + len(actions)) + actions


# ---- what a switch sends; bodies come without the header


def features(body: bytes) -> Features:
    datapath_id, _, tables = _unpack("!QIB", body, "FEATURES_REPLY")
    return Features(datapath_id, tables)


def failure(body: bytes) -> Failure:
    return Failure(*_unpack("!HH", body, "ERROR"))


def supports(body: bytes, version: int) -> bool:
    """Whether a HELLO of version `version` says that it speaks 1.3: by its bitmap, or by being of 1.3 or later."""
    at = 0
    while at + 4 <= len(body):
        kind, length = struct.unpack_from("!HH", body, at)
        if length < 4 or at + length > len(body):
            raise Malformed("HELLO: an element that is longer than the message")
        if kind == 1 and length >= 8:
            return bool(int.from_bytes(body[at + 4 : at + 8]) >> VERSION & 1)
        at += length + -length % 8
    return version >= VERSION


def multipart(body: bytes) -> tuple[int, bool, bytes]:
    """Kind, whether more follows, and the body."""
    kind, flags = _unpack("!HHxxxx", body, "MULTIPART_REPLY")
    return kind, bool(flags & 1), body[8:]


def description(body: bytes) -> str:
    """Of the switch: hardware and software."""
    texts = _unpack("!256s256s256s32s256s", body, "OFPMP_DESC")
    return " ".join(filter(None, (_text(texts[1]), _text(texts[2]))))


def ports(body: bytes) -> tuple[SwitchPort, ...]:
    if len(body) % _PORT.size:
        raise Malformed("OFPMP_PORT_DESC: half a port")
    return tuple(
        SwitchPort(number, mac, _text(name), not (config & _PORT_DOWN or state & _LINK_DOWN))
        for number, mac, name, config, state, *_ in _PORT.iter_unpack(body)
    )


def port_status(body: bytes) -> tuple[bool, SwitchPort]:
    """Whether the port is gone, and how it is."""
    (reason,) = _unpack("!B", body, "OFPT_PORT_STATUS")
    if len(body) != 8 + _PORT.size:
        raise Malformed("OFPT_PORT_STATUS: half a port")
    return reason == 1, ports(body[8:])[0]


def table_sizes(body: bytes) -> dict[int, int]:
    """Table -> how many entries it holds."""
    sizes, at = {}, 0
    while at < len(body):
        length, table_id = _unpack("!HB", body[at : at + 64], "OFPMP_TABLE_FEATURES")
        if length < 64 or at + length > len(body):
            raise Malformed("OFPMP_TABLE_FEATURES: a table that is longer than the message")
        sizes[table_id] = int.from_bytes(body[at + 60 : at + 64])
        at += length
    return sizes


def flows(body: bytes) -> Iterator[Flow]:
    at = 0
    while at < len(body):
        if len(body) - at < _FLOW_STATS.size:
            raise Malformed("OFPMP_FLOW: half an entry")
        length, table_id, _, _, priority, idle, hard, _, cookie, packets, octets = _FLOW_STATS.unpack_from(body, at)
        if length < _FLOW_STATS.size + 8 or at + length > len(body):
            raise Malformed("OFPMP_FLOW: an entry that is longer than the message, or shorter than itself")
        entry = body[at + _FLOW_STATS.size : at + length]
        match, taken = decode_match(entry)
        yield Flow(
            table_id=table_id,
            priority=priority,
            match=match,
            instructions=entry[taken:],
            cookie=cookie,
            hard_timeout=hard,
            idle_timeout=idle,
            packets=packets,
            bytes=octets,
        )
        at += length


def decode_match(data: bytes) -> tuple[tuple[Oxm, ...], int]:
    """By field; and how many octets it takes."""
    kind, length = _unpack("!HH", data, "ofp_match")
    if kind != 1 or length < 4 or length + -length % 8 > len(data):
        raise Malformed("ofp_match: no OXM match, or longer than the message")
    fields, at = [], 4
    while at < length:
        if length - at < _OXM.size:
            raise Malformed("ofp_match: half a field")
        cls, field, size = _OXM.unpack_from(data, at)
        at += _OXM.size
        if at + size > length or (field & 1 and size % 2):
            raise Malformed("ofp_match: a field that is longer than the match")
        value, masked = data[at : at + size], field & 1
        half = size // 2
        number = cls << 7 | field >> 1
        fields.append(Oxm(number, value[:half], value[half:]) if masked else Oxm(number, value))
        at += size
    return tuple(sorted(fields, key=lambda oxm: oxm.field)), length + -length % 8


def packet_in(body: bytes) -> tuple[int, bytes]:
    """The port by which it came in (0: it does not say), and the frame."""
    match, taken = decode_match(body[16:])
    port = next((int.from_bytes(oxm.value) for oxm in match if oxm.field == basic(0)), 0)
    if len(body) < 16 + taken + 2:
        raise Malformed("OFPT_PACKET_IN: without the packet")
    return port, body[16 + taken + 2 :]


def _unpack(layout: str, data: bytes, what: str) -> tuple[int, ...]:
    if len(data) < struct.calcsize(layout):
        raise Malformed(f"{what}: {len(data)} octets are too few")
    return struct.unpack_from(layout, data)


def _text(octets: bytes | int) -> str:
    """It is shown in terminals: nothing of it does anything there."""
    text = bytes(octets).partition(b"\0")[0].decode("utf-8", "replace") if isinstance(octets, bytes) else ""
    return "".join(character if character.isprintable() else "?" for character in text)
