"""Reads the flow cache of the XDP program: through mmap, as columns.

Layout: `struct flow_entry` in ebpf/, four a bucket, one region for each CPU. One flow may be in several regions
(its packets came on several CPUs); `merged` adds the parts up.
"""

import mmap
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dataplane.host_api import FlowRecord
from dataplane.xdp.jiffies import SLACK, JiffiesClock

ENTRY = np.dtype(
    [
        ("source_address", "u1", 16),
        ("destination_address", "u1", 16),
        ("source_port", ">u2"),
        ("destination_port", ">u2"),
        ("protocol", "u1"),
        ("l4_class", "u1"),
        ("policy_class", "<u2"),
        ("generation", "<u2"),
        ("forwarding_class", "<u2"),
        ("first_seen", "<u4"),
        ("bytes_and_port", "<u8"),
        ("packets", "<u4"),
        ("last_seen", "<u4"),
    ]
)
"""Bytes are the low 48 bits of `bytes_and_port`, the ingress port is above."""
assert ENTRY.itemsize == 64
STALE = 0xFFFF
"""A generation that no policy class has: the record counts on, and its flow is resolved at its next packet."""
_KEY_WORDS = 5
"""Addresses, ports, protocol, L4 class, policy class: 40 bytes."""
_BYTES = np.uint64((1 << 48) - 1)
_MAPPED_IPV4 = bytes(10) + b"\xff\xff"

Entries: TypeAlias = NDArray[np.void]
"""Of dtype ENTRY."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowColumns:
    """One array a field of `FlowRecord`, of equal length; addresses are rows of 16 bytes, IPv4 as ::ffff:a.b.c.d."""

    policy_class: NDArray[np.uint16]
    forwarding_class: NDArray[np.uint16]
    ingress_port: NDArray[np.uint16]
    l4_class: NDArray[np.uint8]
    source_address: NDArray[np.uint8]
    destination_address: NDArray[np.uint8]
    protocol: NDArray[np.uint8]
    source_port: NDArray[np.uint16]
    destination_port: NDArray[np.uint16]
    packets: NDArray[np.uint64]
    bytes: NDArray[np.uint64]
    first_seen_s: NDArray[np.float64]
    last_seen_s: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.forwarding_class)

    def take(self, rows: NDArray[np.intp]) -> Self:
        return type(self)(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def records(self) -> tuple[FlowRecord, ...]:
        """One object a flow: for the edge of the API only."""
        return tuple(
            FlowRecord(
                policy_class=policy_class,
                forwarding_class=forwarding_class,
                ingress_port=ingress_port,
                l4_class=l4_class,
                source_address=source,
                destination_address=destination,
                protocol=protocol,
                source_port=source_port,
                destination_port=destination_port,
                packets=packets,
                bytes=size,
                first_seen_s=first_seen_s,
                last_seen_s=last_seen_s,
            )
            for (
                policy_class,
                forwarding_class,
                ingress_port,
                l4_class,
                source,
                destination,
                protocol,
                source_port,
                destination_port,
                packets,
                size,
                first_seen_s,
                last_seen_s,
            ) in zip(*(_values(getattr(self, field.name)) for field in fields(self)), strict=True)
        )


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Entries in use at one moment, and where in the cache each was."""

    slots: NDArray[np.intp]
    entries: Entries

    def __len__(self) -> int:
        return len(self.slots)

    def changed_since(self, before: "Snapshot") -> NDArray[np.bool_]:
        """Which entries are not, byte for byte, where they are now in `before`."""
        if not len(before) or not len(self):
            return np.ones(len(self), dtype=bool)
        row = np.full(1 + max(self.slots[-1], before.slots[-1]), -1, dtype=np.int32)
        row[before.slots] = np.arange(len(before))
        there = row[self.slots]
        differs: NDArray[np.bool_] = (_words(self.entries) != _words(before.entries)[there]).any(axis=1)
        return (there < 0) | differs


class FlowCache:
    """The mapped `flow_cache` of one program; stays readable when the program and the agent's map handle are gone."""

    def __init__(self, map_fd: int, buckets: int, clock: JiffiesClock) -> None:
        """`map_fd`: ARRAY, BPF_F_MMAPABLE, `buckets` values of 256 bytes. Raises OSError."""
        size = buckets * 256
        pages = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        self._memory = mmap.mmap(map_fd, pages, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._entries: Entries = np.frombuffer(self._memory, dtype=ENTRY, count=buckets * 4)
        self._clock = clock

    def snapshot(self) -> Snapshot:
        """A copy of the entries in use.

        XDP writes meanwhile: an entry that was just replaced may be read half old, half new; the next reading
        corrects it.
        """
        # One pass over the strided column; flatnonzero of it would make two, slower ones.
        slots = np.flatnonzero(self._entries["generation"] != 0)
        # `take` copies a row of words at once, three times as fast as indexing does.
        return Snapshot(slots, np.take(_words(self._entries), slots, axis=0).reshape(-1).view(ENTRY))

    def expire(self, generations: NDArray[np.uint32]) -> None:
        """Marks all records STALE but those of `generations`, by policy class, of which the low 16 bits count.

        What XDP writes meanwhile may be marked too, or overwrite the mark with the generation of now: either is right.
        """
        current = generations.astype(np.uint16)
        seen = self._entries["generation"]
        behind = (seen != 0) & (seen != STALE) & (seen != current[self._entries["policy_class"] % len(current)])
        seen[behind] = STALE

    def silence_s(self, hosts: Sequence[tuple[int, bytes]]) -> list[float]:
        """Since when nothing that was permitted came from each, given as port and address (16 bytes); inf: for long."""
        wanted = _senders(np.array([port for port, _ in hosts], "<u8"), b"".join(address for _, address in hosts))
        order = np.argsort(wanted)
        now = np.uint32((self._clock.now(time.monotonic()) + SLACK) % 2**32)
        snapshot = self.snapshot().entries
        seen = _senders(snapshot["bytes_and_port"] >> np.uint64(48), snapshot["source_address"].tobytes())
        places = np.searchsorted(wanted, seen, sorter=order) % len(order)
        theirs = np.flatnonzero(wanted[order][places] == seen)
        silent = np.full(len(hosts), np.inf)
        behind = (now - snapshot["last_seen"][theirs]).astype(np.float64) - SLACK
        np.minimum.at(silent, order[places[theirs]], np.maximum(behind, 0) / self._clock.hz)
        return list(silent.tolist())

    def columns(self, entries: Entries) -> FlowColumns:
        now_s, monotonic_s = time.time(), time.monotonic()
        mixed = entries["bytes_and_port"]
        return FlowColumns(
            policy_class=entries["policy_class"],
            forwarding_class=entries["forwarding_class"],
            ingress_port=(mixed >> np.uint64(48)).astype(np.uint16),
            l4_class=entries["l4_class"],
            source_address=entries["source_address"],
            destination_address=entries["destination_address"],
            protocol=entries["protocol"],
            source_port=entries["source_port"],
            destination_port=entries["destination_port"],
            packets=entries["packets"].astype(np.uint64),
            bytes=mixed & _BYTES,
            first_seen_s=self._clock.unix_time(entries["first_seen"], now_s, monotonic_s),
            last_seen_s=self._clock.unix_time(entries["last_seen"], now_s, monotonic_s),
        )

    def read(self) -> FlowColumns:
        """All that is in the cache now: 100,000 records in a few milliseconds."""
        return self.columns(self.snapshot().entries)


def merged(flows: FlowColumns, entries: Entries, wanted: NDArray[np.bool_]) -> FlowColumns:
    """`flows` (the columns of `entries`) with the parts of a flow from several CPUs added up, in no fixed order.

    Only flows with a part that is `wanted`.
    """
    if not wanted.any():
        return flows.take(np.flatnonzero(wanted))
    words = _words(entries)[:, :_KEY_WORDS]
    rest = flows.ingress_port.astype(np.uint64) << np.uint64(16) | flows.forwarding_class
    mix = rest.copy()
    for word in words.T:
        mix = (mix ^ word) * np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio
        mix ^= mix >> np.uint64(29)
    candidates = np.flatnonzero(np.isin(mix, mix[wanted]))
    order = candidates[np.argsort(mix[candidates])]
    keys, rest, flows, wanted = words[order], rest[order], flows.take(order), wanted[order]
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = (keys[1:] != keys[:-1]).any(axis=1) | (rest[1:] != rest[:-1])
    starts = np.flatnonzero(is_first)
    rows = np.logical_or.reduceat(wanted, starts)
    return replace(
        flows.take(starts[rows]),
        packets=np.add.reduceat(flows.packets, starts)[rows],
        bytes=np.add.reduceat(flows.bytes, starts)[rows],
        first_seen_s=np.minimum.reduceat(flows.first_seen_s, starts)[rows],
        last_seen_s=np.maximum.reduceat(flows.last_seen_s, starts)[rows],
    )


def forwarding_totals(entries: Entries, folded: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Packets and bytes of every forwarding class, shape (classes, 2): what was evicted, and what the cache has.

    Read `folded` (the same shape) before `entries`: a flow that is evicted between then counts a moment late, never
    twice.
    """
    totals = folded.copy()
    classes = entries["forwarding_class"]
    for column, values in enumerate((entries["packets"], entries["bytes_and_port"] & _BYTES)):
        # bincount adds in float64, exact up to 2^53 bytes (9 PB) of live flows of a class.
        live = np.bincount(classes, weights=values, minlength=len(totals))
        totals[:, column] += live[: len(totals)].astype(np.uint64)
    return totals


def _senders(ports: NDArray[np.uint64], addresses: bytes) -> NDArray[np.uint64]:
    """A number for each port and address; that two have the same is as good as impossible."""
    mix = ports.astype(np.uint64)
    for word in np.frombuffer(addresses, "<u8").reshape(-1, 2).T:
        mix = (mix ^ word) * np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio
        mix ^= mix >> np.uint64(29)
    return mix


def _words(entries: Entries) -> NDArray[np.uint64]:
    return entries.view("<u8").reshape(-1, 8)


def _values(column: NDArray[Any]) -> list[Any]:
    """Of a column, as Python objects; addresses as text, each different one formatted once."""
    if column.ndim == 1:
        return list(column.tolist())
    different, rows = np.unique(np.ascontiguousarray(column).view("V16").ravel(), return_inverse=True)
    texts = [_text(address) for address in different.tolist()]
    return [texts[row] for row in rows.tolist()]


def _text(address: bytes) -> str:
    if address.startswith(_MAPPED_IPV4):
        return socket.inet_ntop(socket.AF_INET, address[12:])
    return socket.inet_ntop(socket.AF_INET6, address)
