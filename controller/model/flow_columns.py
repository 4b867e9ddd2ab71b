"""Flow records as columns, one array a field: what detectors, exporters and the API read."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

NOT_OBSERVED = -1
UNKNOWN = -1
"""An owner that is gone already."""

TCP_STATES = ("S0", "S1", "SF", "REJ", "S2", "S3", "RSTO", "RSTR", "RSTOS0", "RSTRH", "SH", "SHR", "OTH")
"""In Zeek's words."""
OPENED, ANSWERED_OPEN = 1, 2
"""Bits of `opened`: a SYN without ACK came from the source; from the destination."""

BACKWARDS, WRAPPED, CLOCK, GAP = 1, 2, 4, 8
"""Bits of `marks`: a counter was smaller than before, and how much came is not known; it had come to its end and began
at 0; the node's clock jumped; records of the intervals before are missing, and this row has what came in them too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowColumns:
    """One row is one flow, both directions, at one node in one interval. Counts are of that interval alone."""

    time_s: NDArray[np.float64]
    """End of the interval, by the controller's clock, Unix time."""
    interval_s: NDArray[np.float32]
    node: NDArray[np.uint16]
    """Index in `nodes`."""
    owner: NDArray[np.int32]
    """Index in `owners`; UNKNOWN."""
    source_address: NDArray[np.uint8]
    """Of the side that began, as far as that was seen; rows of 16 bytes, IPv4 as ::ffff:a.b.c.d."""
    destination_address: NDArray[np.uint8]
    protocol: NDArray[np.uint8]
    source_port: NDArray[np.uint16]
    destination_port: NDArray[np.uint16]
    packets: NDArray[np.int64]
    """From source to destination; NOT_OBSERVED."""
    bytes: NDArray[np.int64]
    """IP length, without outer headers; NOT_OBSERVED."""
    reverse_packets: NDArray[np.int64]
    reverse_bytes: NDArray[np.int64]
    duration_s: NDArray[np.float32]
    """From the first to the last packet seen, in either direction, since the flow began."""
    tcp_state: NDArray[np.int8]
    """Index in TCP_STATES; always NOT_OBSERVED of our own nodes: the pipeline keeps none."""
    is_new: NDArray[np.bool_]
    """First seen in this interval."""
    opened: NDArray[np.uint8]
    marks: NDArray[np.uint8]
    nodes: tuple[str, ...] = ()
    owners: tuple[str, ...] = ()
    """`intents/NAME`, `agreements/ID` or `networks/NAME`."""

    def __len__(self) -> int:
        return len(self.time_s)

    def take(self, rows: NDArray[Any]) -> Self:
        """Some of the rows: their numbers, or a mask."""
        columns = {name: getattr(self, name)[rows] for name in COLUMNS}
        return type(self)(**columns, nodes=self.nodes, owners=self.owners)


COLUMNS = tuple(field.name for field in fields(FlowColumns) if field.name not in ("nodes", "owners"))


def empty(nodes: Sequence[str] = (), owners: Sequence[str] = ()) -> FlowColumns:
    none = {name: np.zeros(0, dtype=dtype) for name, dtype in _DTYPES.items()}
    none |= {name: np.zeros((0, 16), dtype=np.uint8) for name in ("source_address", "destination_address")}
    return FlowColumns(**none, nodes=tuple(nodes), owners=tuple(owners))


def concatenated(parts: Sequence[FlowColumns]) -> FlowColumns:
    """Names are those of the last part, which has those of the parts before it."""
    if not parts:
        return empty()
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in COLUMNS}
    return FlowColumns(**columns, nodes=parts[-1].nodes, owners=parts[-1].owners)


_DTYPES: dict[str, type[np.generic]] = {
    "time_s": np.float64,
    "interval_s": np.float32,
    "node": np.uint16,
    "owner": np.int32,
    "protocol": np.uint8,
    "source_port": np.uint16,
    "destination_port": np.uint16,
    "packets": np.int64,
    "bytes": np.int64,
    "reverse_packets": np.int64,
    "reverse_bytes": np.int64,
    "duration_s": np.float32,
    "tcp_state": np.int8,
    "is_new": np.bool_,
    "opened": np.uint8,
    "marks": np.uint8,
}
