"""Packet vectors: written once, run on every implementation of the pipeline. Expected frames are built by scapy."""

from dataplane.entry import TableEntry
from vectors import (
    encapsulation,
    errors,
    extensions,
    fragments,
    neighbors,
    node,
    permits,
    quotes,
    replies,
    segments,
    services,
    stations,
    translated,
    trimmed,
)
from vectors.case import Vector

VECTORS: tuple[Vector, ...] = (
    *encapsulation.VECTORS,
    *segments.VECTORS,
    *neighbors.VECTORS,
    *permits.VECTORS,
    *errors.VECTORS,
    *stations.VECTORS,
    *fragments.VECTORS,
    *extensions.VECTORS,
    *quotes.VECTORS,
    *trimmed.VECTORS,
    *replies.VECTORS,
    *translated.VECTORS,
    *services.VECTORS,
)


def entries_of(vector: Vector) -> tuple[TableEntry, ...]:
    """All entries of the node that `vector` runs on."""
    by_key = {(entry.table, entry.match, entry.priority): entry for entry in (*node.TABLES, *vector.entries)}
    return tuple(by_key.values())


__all__ = ["VECTORS", "Vector", "entries_of"]
