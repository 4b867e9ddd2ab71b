"""Flow records of a window summed up by entity: owner, source, destination. Pure."""

import ipaddress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controller.assurance.grouping import Rows, numbered
from controller.model.flow_columns import FlowColumns

Floats = NDArray[np.float64]
_IPV4 = bytes(10) + b"\xff\xff"


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """One row for each entity that did something."""

    entities: tuple[str, ...]
    of_row: Rows
    """By record, the number of its entity; -1: of none."""
    packets: Floats
    bytes: Floats
    reverse_packets: Floats
    reverse_bytes: Floats
    flows: Floats
    new_flows: Floats
    unanswered: Floats
    """New flows of which nothing has come back."""

    def records(self, entity: int) -> Rows:
        return np.flatnonzero(self.of_row == entity)


def by_owner(flows: FlowColumns) -> Windows:
    return _summed(flows, flows.owner.astype(np.int64), flows.owners)


def by_source(flows: FlowColumns) -> Windows:
    number, names = _addresses(flows.source_address)
    return _summed(flows, number, tuple(f"sources/{name}" for name in names))


def by_destination(flows: FlowColumns) -> Windows:
    number, names = _addresses(flows.destination_address)
    return _summed(flows, number, tuple(f"destinations/{name}" for name in names))


def different(window: Windows, values: Rows) -> Floats:
    """How many different `values`, one for each record, each entity has: addresses by `numbered`, ports."""
    rows = np.flatnonzero(window.of_row >= 0)
    many = int(values.max(initial=0)) + 1
    pairs = np.unique(window.of_row[rows] * many + values[rows])
    return np.bincount(pairs // many, minlength=len(window.entities)).astype(np.float64)


def address_text(address: bytes | NDArray[np.uint8]) -> str:
    """Of the 16 bytes of an address, IPv4 as ::ffff:A.B.C.D."""
    raw = bytes(address)
    if raw[:12] == _IPV4:
        return ".".join(map(str, raw[12:]))
    return str(ipaddress.IPv6Address(raw))


def packed(address: str) -> bytes:
    parsed = ipaddress.ip_address(address)
    return parsed.packed if parsed.version == 6 else _IPV4 + parsed.packed


def frozen_addresses(frozen: frozenset[str]) -> set[str]:
    """Of hosts that open incidents are about."""
    return {name for kind, _, name in (each.partition("/") for each in frozen) if kind in ("sources", "destinations")}


def among(addresses: NDArray[np.uint8], names: set[str]) -> NDArray[np.bool_]:
    """Which rows of `addresses` are one of these."""
    found = np.zeros(len(addresses), dtype=np.bool_)
    for name in names:
        found |= (addresses == np.frombuffer(packed(name), dtype=np.uint8)).all(axis=1)
    return found


def _addresses(packed: NDArray[np.uint8]) -> tuple[Rows, tuple[str, ...]]:
    if not len(packed):
        return np.zeros(0, dtype=np.int64), ()
    first, number = numbered(packed)
    return number, tuple(address_text(packed[row]) for row in first.tolist())


def _summed(flows: FlowColumns, number: Rows, names: tuple[str, ...]) -> Windows:
    count = len(names)
    rows = np.flatnonzero(number >= 0)
    of = number[rows]

    def total(values: NDArray[np.generic]) -> Floats:
        known = np.maximum(values[rows].astype(np.float64), 0)
        return np.bincount(of, known, minlength=count).astype(np.float64)

    return Windows(
        entities=names,
        of_row=number,
        packets=total(flows.packets),
        bytes=total(flows.bytes),
        reverse_packets=total(flows.reverse_packets),
        reverse_bytes=total(flows.reverse_bytes),
        flows=np.bincount(of, minlength=count).astype(np.float64),
        new_flows=total(flows.is_new),
        unanswered=total(flows.is_new & (flows.reverse_packets <= 0)),
    )
