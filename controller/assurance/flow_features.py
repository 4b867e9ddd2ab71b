"""What a learned model looks at in one flow record, and which records it compares with each other. Pure.

Counts and sizes are compared by ratio, so all are logarithms. What was not observed (-1; bytes of an encrypted or
sampled source) is a value of its own, so that a model that was trained without sizes scores without them.
"""

import numpy as np
from numpy.typing import NDArray

from controller.assurance.grouping import numbered
from controller.model.flow_columns import NOT_OBSERVED, FlowColumns

FEATURES = ("packets", "bytes_a_packet", "reverse_packets", "reverse_bytes_a_packet", "duration_s")
DENSITY = 4
"""The first so many are what a density is estimated of: how long a flow has lasted says more of when it was read."""
COUNT_MAX = 1e15
_ABSENT = -1.0
SERVICE_PORTS = 1024

Floats = NDArray[np.float64]
Keys = NDArray[np.int64]


def flow_features(flows: FlowColumns) -> Floats:
    """Shape (n, FEATURES); every value is finite."""
    packets, size = _direction(flows.packets, flows.bytes)
    reverse_packets, reverse_size = _direction(flows.reverse_packets, flows.reverse_bytes)
    duration = np.nan_to_num(flows.duration_s.astype(np.float64), nan=0.0, posinf=1e9, neginf=0.0)
    return np.stack([packets, size, reverse_packets, reverse_size, np.log1p(np.clip(duration, 0, 1e9))], axis=1)


def _direction(packets: NDArray[np.int64], octets: NDArray[np.int64]) -> tuple[Floats, Floats]:
    count = np.clip(packets.astype(np.float64), NOT_OBSERVED, COUNT_MAX)
    size = np.clip(octets.astype(np.float64), NOT_OBSERVED, COUNT_MAX)
    logarithm = np.where(count >= 0, np.log1p(np.maximum(count, 0)), _ABSENT)
    mean = np.log1p(np.maximum(size, 0) / np.maximum(count, 1))
    return logarithm, np.where((count >= 0) & (size >= 0), mean, _ABSENT)


def classes(flows: FlowColumns) -> Keys:
    """Of each record: its protocol and, where one is a service's, its lower port. ICMP has none."""
    ports = np.minimum(flows.source_port, flows.destination_port).astype(np.int64)
    with_ports = np.isin(flows.protocol, (6, 17, 132)) & (ports < SERVICE_PORTS)
    return flows.protocol.astype(np.int64) * SERVICE_PORTS + np.where(with_ports, ports, 0)


def conversations(flows: FlowColumns) -> Keys:
    """Numbers for who speaks to whom by which protocol, each direction its own."""
    return numbered(flows.source_address, flows.destination_address, flows.protocol[:, None])[1]


def observed_conversations(flows: FlowColumns) -> Keys:
    """The same, seen at one node."""
    node = flows.node.astype("<u2").view(np.uint8).reshape(len(flows), 2)
    return numbered(flows.source_address, flows.destination_address, flows.protocol[:, None], node)[1]
