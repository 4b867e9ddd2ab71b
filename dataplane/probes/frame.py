"""The frame of a probe: UDP to STAMP's port behind the containers of a path there and back, to our own End.

```
 Ethernet │ IPv6 to the first container │ [SRH, further containers] │ UDP 862 │ STAMP: 96 octets, HMAC of 16
```
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from dataplane.reasons import STAMP_PORT

STAMP_BYTES = 112
"""RFC 8762 §4.2.2: authenticated, without extensions."""
SOURCE_PORT = 49152
DSCP = 46
"""Expedited forwarding: what a queue does to other traffic is none of the path's death."""
_HOP_LIMIT = 255
_UDP, _ROUTING, _SRH_TYPE = 17, 43, 4
_ERROR_ESTIMATE = 0x0001
"""RFC 4656 §4.1.2: not synchronized (who compares has sent it itself), scale 0, multiplier 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """All but sequence number, timestamp, HMAC and UDP's checksum."""

    frame: bytes
    stamp_at: int
    checksum_base: int
    """Sum of the 16-bit words of pseudo-header and UDP's header."""


def template(
    *, destination_mac: bytes, source_mac: bytes, source: int, destination: int, containers: Sequence[int], ssid: int
) -> Template:
    """`source`: our own End. `destination`: what the last of `containers` has become where it ends, which is our own
    End too where it comes back."""
    first, *others = containers
    udp = struct.pack("!HHHH", SOURCE_PORT, STAMP_PORT, 8 + STAMP_BYTES, 0)
    stamp = struct.pack("!I12sQHH68s16s", 0, bytes(12), 0, _ERROR_ESTIMATE, ssid, bytes(68), bytes(16))
    srh = b""
    if others:  # reduced: it lacks the first (RFC 8754 §4.1.1)
        count = len(others)
        srh = struct.pack("!BBBBBBH", _UDP, 2 * count, _SRH_TYPE, count, count - 1, 0, 0)
        srh += b"".join(container.to_bytes(16) for container in reversed(others))
    next_header = _ROUTING if srh else _UDP
    length = len(srh) + len(udp) + len(stamp)
    ip = struct.pack("!IHBB", 6 << 28 | DSCP << 22, length, next_header, _HOP_LIMIT)
    ip += source.to_bytes(16) + first.to_bytes(16)
    head = destination_mac + source_mac + b"\x86\xdd" + ip + srh + udp
    # RFC 8200 §8.1: of the final destination, as who checks it sees it.
    pseudo = source.to_bytes(16) + destination.to_bytes(16) + struct.pack("!IHBB", len(udp) + len(stamp), 0, 0, _UDP)
    base = sum(struct.unpack(f"!{(len(pseudo) + len(udp)) // 2}H", pseudo + udp))
    return Template(frame=head + stamp, stamp_at=len(head), checksum_base=base)
