"""The CSV of flow records (one schema for files and API) as columns, and what is unusual in it. Pure."""

import ipaddress
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from controller.model.flow_columns import NOT_OBSERVED, TCP_STATES, UNKNOWN, FlowColumns

REQUIRED = ("time_s", "source_address", "destination_address", "protocol", "packets", "bytes")
OPTIONAL = (
    "observation_point",
    "source_port",
    "destination_port",
    "reverse_packets",
    "reverse_bytes",
    "duration_s",
    "tcp_state",
)
COUNT_MAX = 2**62
_STATES = {state: number for number, state in enumerate(TCP_STATES)}


def flow_columns(columns: Mapping[str, Sequence[str]], numbers: Mapping[str, Sequence[float]]) -> FlowColumns:
    """`columns`: text by name; `numbers`: those of `NUMBERS`, NaN where a field is empty. Counts that are no counts
    (negative, NaN, infinite) are not observed. Raises ValueError naming the row (from 0) of an address that is none."""
    size = len(columns["time_s"])
    points = columns.get("observation_point") or [""] * size
    nodes = tuple(sorted(set(points)))
    node = {name: number for number, name in enumerate(nodes)}
    return FlowColumns(
        time_s=np.nan_to_num(_column(numbers, "time_s", size, 0.0), nan=0.0, posinf=0.0, neginf=0.0),
        interval_s=np.zeros(size, dtype=np.float32),
        node=np.array([node[name] for name in points], dtype=np.uint16),
        owner=np.full(size, UNKNOWN, dtype=np.int32),
        source_address=_addresses(columns["source_address"]),
        destination_address=_addresses(columns["destination_address"]),
        protocol=_bounded(_column(numbers, "protocol", size, 0.0), 255).astype(np.uint8),
        source_port=_bounded(_column(numbers, "source_port", size, 0.0), 65535).astype(np.uint16),
        destination_port=_bounded(_column(numbers, "destination_port", size, 0.0), 65535).astype(np.uint16),
        packets=_counts(_column(numbers, "packets", size, NOT_OBSERVED)),
        bytes=_counts(_column(numbers, "bytes", size, NOT_OBSERVED)),
        reverse_packets=_counts(_column(numbers, "reverse_packets", size, NOT_OBSERVED)),
        reverse_bytes=_counts(_column(numbers, "reverse_bytes", size, NOT_OBSERVED)),
        duration_s=_bounded(_column(numbers, "duration_s", size, 0.0), 1e9).astype(np.float32),
        tcp_state=np.array(
            [_STATES.get(state, NOT_OBSERVED) for state in columns.get("tcp_state") or [""] * size], dtype=np.int8
        ),
        is_new=np.zeros(size, dtype=np.bool_),
        opened=np.zeros(size, dtype=np.uint8),
        marks=np.zeros(size, dtype=np.uint8),
        nodes=nodes,
    )


NUMBERS = (
    "time_s",
    "protocol",
    "source_port",
    "destination_port",
    "packets",
    "bytes",
    "reverse_packets",
    "reverse_bytes",
    "duration_s",
)


def _column(numbers: Mapping[str, Sequence[float]], name: str, size: int, absent: float) -> NDArray[np.float64]:
    values = np.array(numbers[name], dtype=np.float64) if name in numbers else np.full(size, absent)
    return np.where(np.isnan(values), absent, values)


def _bounded(values: NDArray[np.float64], most: float) -> NDArray[np.float64]:
    return np.clip(np.nan_to_num(values, nan=0.0, posinf=most, neginf=0.0), 0, most)


def _counts(values: NDArray[np.float64]) -> NDArray[np.int64]:
    known = np.isfinite(values) & (values >= 0)
    return np.where(known, np.clip(values, 0, COUNT_MAX), NOT_OBSERVED).astype(np.int64)


def _addresses(texts: Sequence[str]) -> NDArray[np.uint8]:
    """Rows of 16 bytes, IPv4 as ::ffff:a.b.c.d."""
    known: dict[str, bytes] = {}
    for row, text in enumerate(texts):
        if text not in known:
            try:
                address = ipaddress.ip_address(text.strip())
            except ValueError as error:
                raise ValueError(f"{row}:{error}") from error
            known[text] = address.packed if address.version == 6 else b"\0" * 10 + b"\xff\xff" + address.packed
    packed = b"".join(known[text] for text in texts)
    return np.frombuffer(packed, dtype=np.uint8).reshape(len(texts), 16)
