"""Flow records for detectors, written as few words."""

import ipaddress
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from controller.model.flow_columns import NOT_OBSERVED, FlowColumns


class Flow(NamedTuple):
    source: str
    destination: str
    port: int = 443
    packets: int = 10
    octets: int = 5_000
    back: int = 10
    octets_back: int = 5_000
    is_new: bool = False
    owner: int = 0
    protocol: int = 6


def columns(
    flows: Sequence[Flow], at_s: float = 0.0, owners: tuple[str, ...] = ("intents/web", "intents/db")
) -> FlowColumns:
    def of(values: list[Any], kind: Any) -> Any:
        return np.array(values, dtype=kind)

    size = len(flows)
    return FlowColumns(
        time_s=np.full(size, at_s),
        interval_s=np.ones(size, dtype=np.float32),
        node=np.zeros(size, dtype=np.uint16),
        owner=of([flow.owner for flow in flows], np.int32),
        source_address=packed([flow.source for flow in flows]),
        destination_address=packed([flow.destination for flow in flows]),
        protocol=of([flow.protocol for flow in flows], np.uint8),
        source_port=of([40_000] * size, np.uint16),
        destination_port=of([flow.port for flow in flows], np.uint16),
        packets=of([flow.packets for flow in flows], np.int64),
        bytes=of([flow.octets for flow in flows], np.int64),
        reverse_packets=of([flow.back for flow in flows], np.int64),
        reverse_bytes=of([flow.octets_back for flow in flows], np.int64),
        duration_s=np.ones(size, dtype=np.float32),
        tcp_state=np.full(size, NOT_OBSERVED, dtype=np.int8),
        is_new=of([flow.is_new for flow in flows], np.bool_),
        opened=np.zeros(size, dtype=np.uint8),
        marks=np.zeros(size, dtype=np.uint8),
        nodes=("se1",),
        owners=owners,
    )


def packed(texts: Sequence[str]) -> np.typing.NDArray[np.uint8]:
    rows = b""
    for text in texts:
        address = ipaddress.ip_address(text)
        rows += address.packed if address.version == 6 else b"\0" * 10 + b"\xff\xff" + address.packed
    return np.frombuffer(rows, dtype=np.uint8).reshape(len(texts), 16)
