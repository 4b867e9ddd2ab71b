"""Flow records as rows of one array: what an agent tells each second, as objects on neither side.

The layout is a message between releases: fields are added at the end, and `Capabilities` says who knows them.
"""

import numpy as np
from numpy.typing import NDArray

from dataplane.xdp.flow_cache import FlowColumns

PACKED = np.dtype(
    [
        ("source_address", "u1", 16),
        ("destination_address", "u1", 16),
        ("source_port", "<u2"),
        ("destination_port", "<u2"),
        ("protocol", "u1"),
        ("l4_class", "u1"),
        ("policy_class", "<u2"),
        ("ingress_port", "<u2"),
        ("forwarding_class", "<u2"),
        ("reserved", "<u4"),
        ("packets", "<u8"),
        ("bytes", "<u8"),
        ("first_seen_s", "<f8"),
        ("last_seen_s", "<f8"),
    ]
)
"""The fields of `FlowRecord`; addresses of 16 bytes, IPv4 as ::ffff:a.b.c.d. The first 48 name a flow."""
assert PACKED.itemsize == 80

Packed = NDArray[np.void]
"""Of dtype PACKED."""


def pack(flows: FlowColumns) -> bytes:
    rows = np.zeros(len(flows), dtype=PACKED)
    for name in PACKED.names or ():
        if name != "reserved":
            rows[name] = getattr(flows, name)
    return rows.tobytes()


def unpack(data: bytes) -> Packed:
    """Raises ValueError where these are no whole rows."""
    if len(data) % PACKED.itemsize:
        raise ValueError(f"{len(data)} bytes are no rows of {PACKED.itemsize}")
    rows: Packed = np.frombuffer(data, dtype=PACKED)
    return rows
