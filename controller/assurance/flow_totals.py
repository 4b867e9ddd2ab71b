"""What nodes tell of flows are totals; what came in an interval is the difference to what they told before.

What a node says is foreign: rows that cannot be are refused, counters that go back are marked, and nobody can make more
be remembered than FLOWS_MAX.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controller.model.flow_columns import BACKWARDS, WRAPPED
from dataplane.telemetry.packed_flows import Packed

FLOWS_MAX = 262_144
"""Flows of all nodes together whose totals are remembered, 100 bytes each; who was told longest ago gives way."""
SLACK_S = 0.5
"""By which a flow that began in an interval may seem to have begun before."""
PACKETS_S_MAX, BYTES_S_MAX = 1.5e9, 1.25e11
"""1 Tbit/s of the smallest frames, and of the largest."""
PACKETS_END, BYTES_END = 1 << 32, 1 << 48
"""Where the counters of a record of the flow cache begin anew."""
_COUNT_MAX = np.uint64(2**62)
_KEY_BYTES, _KEY_WORDS = 48, 6
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class Differences:
    """What came in one interval, and how it is known."""

    rows: Packed
    packets: NDArray[np.int64]
    bytes: NDArray[np.int64]
    is_new: NDArray[np.bool_]
    marks: NDArray[np.uint8]


class FlowTotals:
    def __init__(self, seed: int, flows_max: int = FLOWS_MAX) -> None:
        """`seed`: nobody outside knows it, so that nobody can choose flows that are found in the same place."""
        self._seed = np.uint64(seed)
        self._flows_max = flows_max
        self._hashes = np.zeros(0, dtype=np.uint64)
        """Sorted; the other arrays are in the same order."""
        self._keys = np.zeros((0, _KEY_WORDS), dtype=np.uint64)
        self._counts = np.zeros((0, 2), dtype=np.int64)
        """Packets and bytes."""
        self._seen_s = np.zeros((0, 2), dtype=np.float64)
        """First and last, by the node's clock."""
        self._told_s = np.zeros(0, dtype=np.float64)
        self.counts: Counter[str] = Counter()
        """Of rows: `refused` (it cannot be), `unmeasured` (it began before we looked), `backwards`, `wrapped`,
        `forgotten`."""

    def __len__(self) -> int:
        return len(self._hashes)

    def take(self, node: int, rows: Packed, *, time_s: float, interval_s: float, now_s: float) -> Differences:
        """`time_s`: when they were read, by the node's clock; `now_s`: by ours."""
        rows = _taken(rows, self._possible(rows, time_s))
        keys = _keys(node, rows)
        hashes = self._hashed(keys)
        hashes, first_of = np.unique(hashes, return_index=True)
        self.counts["refused"] += len(rows) - len(first_of)  # twice in one batch
        rows, keys = _taken(rows, first_of), keys[first_of]
        at = np.minimum(np.searchsorted(self._hashes, hashes), max(0, len(self) - 1))
        same_place = self._hashes[at] == hashes if len(self) else np.zeros(len(rows), dtype=bool)
        known = same_place & (self._keys[at] == keys).all(axis=1) if len(self) else same_place
        collides = same_place & ~known
        self.counts["refused"] += int(collides.sum())

        totals = np.column_stack((rows["packets"], rows["bytes"])).astype(np.int64)
        seen_s = np.column_stack((rows["first_seen_s"], rows["last_seen_s"]))
        before = np.where(known[:, None], self._counts[at], 0) if len(self) else np.zeros_like(totals)
        began_anew = known & (seen_s[:, 0] > self._seen_s[at, 1]) if len(self) else known
        before[began_anew] = 0
        came = totals - before
        marks = np.zeros(len(rows), dtype=np.uint8)
        for column, end in enumerate((PACKETS_END, BYTES_END)):
            wrapped = (came[:, column] < -(end // 2)) & (came[:, column] >= -end)
            came[wrapped, column] += end
            marks[wrapped] |= WRAPPED
        most = np.array((PACKETS_S_MAX, BYTES_S_MAX)) * max(1.0, interval_s)
        backwards = (came < 0).any(axis=1) | (came > most).any(axis=1)
        came[backwards], marks[backwards] = 0, BACKWARDS
        is_new = (~known | began_anew) & (seen_s[:, 0] >= time_s - interval_s - SLACK_S)
        unmeasured = ~known & ~is_new
        came[unmeasured] = 0
        self.counts["unmeasured"] += int(unmeasured.sum())
        self.counts["backwards"] += int(backwards.sum())
        self.counts["wrapped"] += int((marks & WRAPPED != 0).sum())

        if known.any():
            self._counts[at[known]], self._seen_s[at[known]] = totals[known], seen_s[known]
            self._told_s[at[known]] = now_s
        others = ~known & ~collides
        self._remember(hashes[others], keys[others], totals[others], seen_s[others], now_s)
        worth = ~collides & ((came > 0).any(axis=1) | (marks != 0))
        return Differences(_taken(rows, worth), came[worth, 0], came[worth, 1], is_new[worth], marks[worth])

    def move_clock(self, node: int, by_s: float) -> None:
        """The clock of a node was set: what it told before, it would now tell so."""
        self._seen_s[self._keys[:, -1] >> np.uint64(32) == node] += by_s

    def _possible(self, rows: Packed, time_s: float) -> NDArray[np.bool_]:
        first_s, last_s = rows["first_seen_s"], rows["last_seen_s"]
        with np.errstate(invalid="ignore"):
            can_be: NDArray[np.bool_] = (first_s >= 0) & (last_s >= first_s - SLACK_S) & (last_s <= time_s + 60)
        can_be &= (rows["packets"] < _COUNT_MAX) & (rows["bytes"] < _COUNT_MAX)
        self.counts["refused"] += int((~can_be).sum())
        return can_be

    def _hashed(self, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
        hashes = np.full(len(keys), self._seed, dtype=np.uint64)
        for word in keys.T:
            hashes = (hashes ^ word) * _GOLDEN
            hashes ^= hashes >> np.uint64(29)
        return hashes

    def _remember(
        self,
        hashes: NDArray[np.uint64],
        keys: NDArray[np.uint64],
        totals: NDArray[np.int64],
        seen_s: NDArray[np.float64],
        now_s: float,
    ) -> None:
        if not len(hashes):
            return
        at = np.searchsorted(self._hashes, hashes)
        self._hashes = np.insert(self._hashes, at, hashes)
        self._keys = np.insert(self._keys, at, keys, axis=0)
        self._counts = np.insert(self._counts, at, totals, axis=0)
        self._seen_s = np.insert(self._seen_s, at, seen_s, axis=0)
        self._told_s = np.insert(self._told_s, at, now_s)
        if len(self) > self._flows_max:
            left = np.sort(np.argsort(self._told_s, kind="stable")[len(self) - self._flows_max * 7 // 8 :])
            self.counts["forgotten"] += len(self) - len(left)
            self._hashes, self._keys, self._told_s = self._hashes[left], self._keys[left], self._told_s[left]
            self._counts, self._seen_s = self._counts[left], self._seen_s[left]


def _taken(rows: Packed, which: NDArray[np.generic]) -> Packed:
    """`rows[which]`, which numpy would copy field by field."""
    taken: Packed = np.ascontiguousarray(rows).view(f"V{rows.itemsize}")[which].view(rows.dtype)
    return taken


def _keys(node: int, rows: Packed) -> NDArray[np.uint64]:
    """What names a flow at a node, shape (rows, _KEY_WORDS)."""
    octets = np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), rows.itemsize)[:, :_KEY_BYTES]
    keys = np.ascontiguousarray(octets).view("<u8").astype(np.uint64)
    keys[:, -1] = keys[:, -1] & np.uint64(0xFFFFFFFF) | np.uint64(node) << np.uint64(32)
    return keys
