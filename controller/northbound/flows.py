"""Flow records of the nodes as people and programs read them: both directions of a flow in one row. Pure."""

import ipaddress
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np

from controller.model.flow_columns import COLUMNS, UNKNOWN, FlowColumns
from controller.model.telemetry import NodeFlows
from dataplane.host_api import FlowRecord
from dataplane.reasons import L4Class

NOT_OBSERVED = -1
_INTENTS = "intents/"


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowRow:
    """The flow record of interfaces.md, and whose it is. Field names in the order of its CSV."""

    time_s: float
    """When the node was read, Unix time."""
    observation_point: str
    source_address: str
    """Of the side that began, as far as that was seen."""
    destination_address: str
    protocol: int
    source_port: int
    destination_port: int
    packets: int
    """From source to destination since the flow was first seen; -1: the node has no record of this direction."""
    bytes: int
    """IP length, without outer headers."""
    reverse_packets: int
    reverse_bytes: int
    duration_s: float
    """From the first to the last packet seen, in either direction."""
    tcp_state: int = NOT_OBSERVED
    """The pipeline keeps no TCP state: always -1."""
    node: str
    owner: str
    """`intents/NAME`, `agreements/ID`, `networks/NAME`; empty: an entry that is gone already."""
    intent: str
    """The NAME of an intent of this domain, else empty."""


class _Flow(NamedTuple):
    """What both directions of a flow have in common; the addresses are in the order of `_Sighting.forward`."""

    owner: str
    protocol: int
    kind: str
    """Tells echoes, ICMP errors and other packets without ports apart."""
    low: tuple[str, int]
    high: tuple[str, int]


@dataclass(frozen=True, slots=True)
class _Sighting:
    flow: _Flow
    from_low: bool
    record: FlowRecord


def rows(observed: Iterable[NodeFlows], intent: str | None = None) -> tuple[FlowRow, ...]:
    """One row for each flow at each node, by node and then by when the flow was first seen.

    `intent`: only this one's.
    """
    flow_rows: list[tuple[str, float, FlowRow]] = []
    for node in observed:
        sightings = sorted((_sighting(record, node.owners) for record in node.batch.flows), key=_order)
        for flow, group in groupby(sightings, key=lambda sighting: sighting.flow):
            row = _row(node.node, node.batch.time_s, flow, list(group))
            if intent is None or row[1].intent == intent:
                flow_rows.append((node.node, *row))
    return tuple(
        row for _, _, row in sorted(flow_rows, key=lambda flow_row: (flow_row[0], flow_row[1], _identity(flow_row[2])))
    )


def of_columns(flows: FlowColumns, concerns: Callable[[str], bool], at_most: int) -> tuple[FlowRow, ...]:
    """Of what passed in intervals: the newest rows that belong to whom `concerns` says, the oldest of these first."""
    shown = np.array([*(concerns(owner) for owner in flows.owners), concerns("")])  # the last one is UNKNOWN's
    flows = flows.take(np.flatnonzero(shown[flows.owner])[-at_most:])
    names = dict(enumerate(flows.owners)) | {UNKNOWN: ""}
    return tuple(
        FlowRow(
            time_s=time_s,
            observation_point=flows.nodes[node],
            source_address=_address(bytes(source)),
            destination_address=_address(bytes(destination)),
            protocol=protocol,
            source_port=source_port,
            destination_port=destination_port,
            packets=packets,
            bytes=octets,
            reverse_packets=reverse_packets,
            reverse_bytes=reverse_octets,
            duration_s=round(duration_s, 6),
            tcp_state=tcp_state,
            node=flows.nodes[node],
            owner=names[owner],
            intent=names[owner].removeprefix(_INTENTS) if names[owner].startswith(_INTENTS) else "",
        )
        for (
            time_s, node, owner, source, destination, protocol, source_port, destination_port, packets, octets,
            reverse_packets, reverse_octets, duration_s, tcp_state,
        ) in zip(*(getattr(flows, column).tolist() for column in _SHOWN), strict=True)
    )  # fmt: skip


_SHOWN = tuple(column for column in COLUMNS if column not in ("interval_s", "is_new", "opened", "marks"))


def _address(octets: bytes) -> str:
    address = ipaddress.IPv6Address(octets)
    return str(address.ipv4_mapped or address)


def _sighting(record: FlowRecord, owners: dict[int, str]) -> _Sighting:
    source = (record.source_address, record.source_port)
    destination = (record.destination_address, record.destination_port)
    kind = ""
    if record.l4_class in (L4Class.ECHO_REQUEST, L4Class.ECHO_REPLY):
        # A host may be pinged and ping at once: requests and their replies are a flow, whichever address is lower.
        asked = record.l4_class == L4Class.ECHO_REQUEST
        source, destination = (record.source_address, 0), (record.destination_address, 0)  # whatever the identifiers
        ends = (source, destination) if asked else (destination, source)
        flow = _Flow(owners.get(record.forwarding_class, ""), record.protocol, "echo", *ends)
        return _Sighting(flow, asked, record)
    if record.l4_class == L4Class.ICMP_ERROR:
        kind = "error"
    low, high = sorted((source, destination))
    return _Sighting(
        _Flow(owners.get(record.forwarding_class, ""), record.protocol, kind, low, high), source == low, record
    )


def _order(sighting: _Sighting) -> tuple[_Flow, float]:
    return sighting.flow, sighting.record.first_seen_s


def _row(node: str, time_s: float, flow: _Flow, sightings: Sequence[_Sighting]) -> tuple[float, FlowRow]:
    """When the flow was first seen, and its row. A direction has several records: one for each CPU and L4 class."""
    forward_is_low = _begun_by_low(flow, sightings)
    forward = [sighting.record for sighting in sightings if sighting.from_low == forward_is_low]
    reverse = [sighting.record for sighting in sightings if sighting.from_low != forward_is_low]
    source, destination = (flow.low, flow.high) if forward_is_low else (flow.high, flow.low)
    first_seen_s = min(sighting.record.first_seen_s for sighting in sightings)
    last_seen_s = max(sighting.record.last_seen_s for sighting in sightings)
    return first_seen_s, FlowRow(
        time_s=time_s,
        observation_point=node,
        source_address=source[0],
        destination_address=destination[0],
        protocol=flow.protocol,
        source_port=source[1],
        destination_port=destination[1],
        packets=sum(record.packets for record in forward) if forward else NOT_OBSERVED,
        bytes=sum(record.bytes for record in forward) if forward else NOT_OBSERVED,
        reverse_packets=sum(record.packets for record in reverse) if reverse else NOT_OBSERVED,
        reverse_bytes=sum(record.bytes for record in reverse) if reverse else NOT_OBSERVED,
        duration_s=round(last_seen_s - first_seen_s, 6),
        node=node,
        owner=flow.owner,
        intent=flow.owner.removeprefix(_INTENTS) if flow.owner.startswith(_INTENTS) else "",
    )


def _begun_by_low(flow: _Flow, sightings: Sequence[_Sighting]) -> bool:
    """Who sent the first SYN, or asked for the echo; else whose packet was seen first (they are in this order)."""
    if flow.kind == "echo":
        return True
    opening = (
        sighting
        for sighting in sightings
        if sighting.record.l4_class == L4Class.TCP_OPEN and sighting.record.protocol == 6
    )
    return next(opening, sightings[0]).from_low


def _identity(row: FlowRow) -> tuple[str, int, str, int, str, int]:
    source = (row.source_address, row.source_port)
    return (row.owner, row.protocol, *source, row.destination_address, row.destination_port)
