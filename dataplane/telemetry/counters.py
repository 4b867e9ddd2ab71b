"""Counters of the P4Info: packets and bytes by index."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from dataplane.tables.stores import MapWriter

Totals = NDArray[np.uint64]
"""Packets and bytes by index, shape (size, 2)."""
CounterReader = Callable[[], Totals]


def per_cpu_totals(source: MapWriter) -> Totals:
    """The sums over all CPUs of a per-CPU array of {u64 packets, u64 bytes}. Raises OSError."""
    _, values = source.items()
    totals: Totals = np.frombuffer(values, np.uint64).reshape(source.max_entries, -1, 2).sum(axis=1, dtype=np.uint64)
    return totals
