"""Flow records as IPFIX messages (RFC 7011), with the information elements of RFC 7012. Pure.

Each direction that was seen in an interval is a record of its own, with the counts of that interval (delta counts).
Each node is an observation domain, whose name an options record tells. Sequence numbers count its data records.
"""

import struct
from collections import Counter
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from controller.model.flow_columns import FlowColumns

VERSION = 10
MESSAGE_BYTES_MAX = 1400
"""So that it passes whole over UDP (RFC 7011 §10.3.3)."""
_HEADER = struct.Struct("!HHIII")
_SET = struct.Struct("!HH")
_TEMPLATES, _OPTIONS_TEMPLATES, _IPV4, _IPV6, _NAMES = 2, 3, 256, 257, 258
_COMMON = [("protocol", 4, "u1"), ("source_port", 7, ">u2"), ("destination_port", 11, ">u2"), ("bytes", 1, ">u8")]
_COMMON += [("packets", 2, ">u8"), ("start_ms", 152, ">u8"), ("end_ms", 153, ">u8")]
_FIELDS = {
    _IPV4: [("source", 8, "V4"), ("destination", 12, "V4"), *_COMMON],
    _IPV6: [("source", 27, "V16"), ("destination", 28, "V16"), *_COMMON],
}
"""Information elements: sourceIPv4Address, destinationIPv4Address (or IPv6), protocolIdentifier, sourceTransportPort,
destinationTransportPort, octetDeltaCount, packetDeltaCount, flowStartMilliseconds, flowEndMilliseconds."""
_DTYPES = {template: np.dtype([(name, kind) for name, _, kind in fields]) for template, fields in _FIELDS.items()}
_DOMAIN_ID, _DOMAIN_NAME, _VARIABLE = 149, 300, 65535
"""observationDomainId is the scope of observationDomainName."""
_NAME_BYTES_MAX = 254
_MAPPED = np.frombuffer(bytes(10) + b"\xff\xff", dtype=np.uint8)


class Exporter:
    """Of one transport session."""

    def __init__(self) -> None:
        self._sequence: Counter[int] = Counter()

    def templates(self, node: int, name: str, now_s: float) -> bytes:
        """To be sent before the first data of a node, and over UDP again now and then."""
        records = b"".join(
            struct.pack("!HH", template, len(fields))
            + b"".join(struct.pack("!HH", element, np.dtype(kind).itemsize) for _, element, kind in fields)
            for template, fields in _FIELDS.items()
        )
        options = struct.pack("!HHHHHHH", _NAMES, 2, 1, _DOMAIN_ID, 4, _DOMAIN_NAME, _VARIABLE)
        text = name.encode()[:_NAME_BYTES_MAX]
        told = struct.pack("!IB", node + 1, len(text)) + text
        sets = _set(_TEMPLATES, records) + _set(_OPTIONS_TEMPLATES, options) + _set(_NAMES, told)
        return self._message(node, sets, 1, now_s)

    def data(self, node: int, flows: FlowColumns, now_s: float) -> Iterator[bytes]:
        """Of one node."""
        is_ipv4 = (flows.source_address[:, :12] == _MAPPED).all(axis=1)
        for template, of_family in ((_IPV4, is_ipv4), (_IPV6, ~is_ipv4)):
            family = flows.take(of_family)
            both = np.concatenate([_records(family, template, way) for way in (False, True)])
            records = both.astype(_DTYPES[template])  # to concatenate is to lose the order of bytes
            at_once = (MESSAGE_BYTES_MAX - _HEADER.size - _SET.size) // records.dtype.itemsize
            for first in range(0, len(records), at_once):
                part = records[first : first + at_once]
                yield self._message(node, _set(template, part.tobytes()), len(part), now_s)

    def _message(self, node: int, sets: bytes, records: int, now_s: float) -> bytes:
        """The header has the number of records before this message (RFC 7011 §3.1)."""
        length = _HEADER.size + len(sets)
        head = _HEADER.pack(VERSION, length, int(now_s) % 2**32, self._sequence[node] % 2**32, node + 1)
        self._sequence[node] += records
        return head + sets


def _set(number: int, records: bytes) -> bytes:
    return _SET.pack(number, _SET.size + len(records)) + records


def _records(flows: FlowColumns, template: int, reverse: bool) -> NDArray[np.void]:
    """Of the direction from who began, or back."""
    flows = flows.take((flows.reverse_packets if reverse else flows.packets) > 0)
    address_bytes = 4 if template == _IPV4 else 16
    records: NDArray[np.void] = np.zeros(len(flows), dtype=_DTYPES[template])
    source, destination = ("destination", "source") if reverse else ("source", "destination")
    for end, field in (("source", source), ("destination", destination)):
        octets = np.ascontiguousarray(getattr(flows, f"{field}_address")[:, -address_bytes:])
        records[end] = octets.view(f"V{address_bytes}").reshape(-1)
        records[f"{end}_port"] = getattr(flows, f"{field}_port")
    records["protocol"] = flows.protocol
    records["packets"] = flows.reverse_packets if reverse else flows.packets
    records["bytes"] = np.maximum(flows.reverse_bytes if reverse else flows.bytes, 0)
    records["end_ms"] = flows.time_s * 1000
    records["start_ms"] = (flows.time_s - flows.interval_s) * 1000
    return records
