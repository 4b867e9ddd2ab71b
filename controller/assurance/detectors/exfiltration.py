"""Exfiltration: a source gives much, and gets little, to a destination that it did not give anything before.

Sees: bulk that leaves to a new peer, BYTES_MIN within WINDOW_S, UP_DOWN times what comes back. Misses: slow leaks, and
what goes to a peer that has always been given much (volume.py sees a shift of that).
"""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from controller.assurance.grouping import Rows, grouped, numbered
from controller.assurance.seen import Seen
from controller.assurance.windows import address_text
from controller.model.finding import Cause, Finding, Reason

WINDOW_S = 60.0
BYTES_MIN = 5_000_000
UP_DOWN = 10.0
NEW_S = 600.0
"""A peer is new for so long after it was first given something."""
LEARNT_S = 60.0
"""That a source is watched before it has usual peers; until then findings are cold."""
PAIRS_MAX = 20_000
TOLD_MAX = 64
"""Pairs that are told of at once, those that were given most first."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Columns: who gives whom, as seen at one node."""

    words: NDArray[np.uint64] = field(default_factory=lambda: np.zeros((0, 5), dtype=np.uint64))
    """Source, destination, node."""
    first_s: Floats = field(default_factory=lambda: np.zeros(0))
    begin_s: Floats = field(default_factory=lambda: np.zeros(0))
    """Of the window that `up` and `down` are of."""
    up: Floats = field(default_factory=lambda: np.zeros(0))
    down: Floats = field(default_factory=lambda: np.zeros(0))
    last_s: Floats = field(default_factory=lambda: np.zeros(0))
    is_usual: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))

    def __len__(self) -> int:
        return len(self.words)

    def take(self, rows: NDArray[np.intp]) -> "Pairs":
        return Pairs(
            self.words[rows], self.first_s[rows], self.begin_s[rows], self.up[rows], self.down[rows],
            self.last_s[rows], self.is_usual[rows],
        )  # fmt: skip

    def given(
        self, words: NDArray[np.uint64], up: Floats, down: Floats, now_s: float, is_usual: bool
    ) -> "tuple[Pairs, Rows]":
        """With what came now, and where each of `words`, all different, is; new pairs are usual or not."""
        order, begins = grouped(np.concatenate([self.words, words]))
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.cumsum(begins) - 1
        old, new, count = place[: len(self)], place[len(self) :], int(begins.sum())
        result = Pairs(
            np.concatenate([self.words, words])[order[begins]],
            np.full(count, now_s),
            np.full(count, now_s),
            np.zeros(count),
            np.zeros(count),
            np.full(count, now_s),
            np.full(count, is_usual),
        )
        for column in ("first_s", "begin_s", "up", "down", "last_s", "is_usual"):
            getattr(result, column)[old] = getattr(self, column)
        over = new[now_s - result.begin_s[new] > WINDOW_S]
        result.begin_s[over], result.up[over], result.down[over] = now_s, 0.0, 0.0
        result.up[new] += up
        result.down[new] += down
        result.last_s[new] = now_s
        return result, new


@dataclass(frozen=True, slots=True)
class Exfiltration:
    begun_s: float = 0.0
    pairs: Pairs = field(default_factory=Pairs)

    def watch(self, seen: Seen, now_s: float, frozen: frozenset[str]) -> "tuple[Exfiltration, tuple[Finding, ...]]":
        flows = seen.flows
        begun_s = self.begun_s or now_s
        if not len(flows):
            return replace(self, begun_s=begun_s), ()
        node = np.zeros((len(flows), 8), dtype=np.uint8)
        node[:, :2] = flows.node.astype("<u2").view(np.uint8).reshape(len(flows), 2)
        key = np.concatenate([flows.source_address, flows.destination_address, node], axis=1)
        first, number = numbered(key)
        up = np.bincount(number, np.maximum(flows.bytes, 0), minlength=len(first))
        down = np.bincount(number, np.maximum(flows.reverse_bytes, 0), minlength=len(first))
        # Those that give most: with a bound on what is remembered, they are the ones that count.
        most = np.arange(len(up))
        if len(up) > PAIRS_MAX:
            most = np.sort(np.argpartition(-up, PAIRS_MAX)[:PAIRS_MAX])
        given, got = up[most].astype(np.float64), down[most].astype(np.float64)
        words = key[first[most]].view("<u8").astype(np.uint64)
        pairs, place = self.pairs.given(words, given, got, now_s, now_s - begun_s < LEARNT_S)
        own = pairs.take(place)
        is_new = ~own.is_usual & (now_s - own.first_s < NEW_S)
        # What was given outlasts the giving: it is told while it goes on.
        goes_on = (given >= BYTES_MIN / WINDOW_S) & (given >= UP_DOWN * got)
        is_found = is_new & goes_on & (own.up >= BYTES_MIN) & (own.up >= UP_DOWN * own.down)
        findings: dict[tuple[str, str], Finding] = {}
        found = np.flatnonzero(is_found)
        for at in found[np.argsort(-own.up[found], kind="stable")][:TOLD_MAX].tolist():
            rows = np.flatnonzero(number == most[at])
            owners = {flows.owners[owner] for owner in set(flows.owner[rows].tolist()) if owner >= 0}
            source, destination = (
                address_text(flows.source_address[rows[0]]),
                address_text(flows.destination_address[rows[0]]),
            )
            pair = Given(float(own.first_s[at]), float(own.begin_s[at]), float(own.up[at]), float(own.down[at]))
            # At another node the same has passed.
            findings.setdefault((source, destination), _finding(pair, source, destination, sorted(owners), now_s))
        if len(pairs) > PAIRS_MAX:
            pairs = pairs.take(np.sort(np.lexsort((-pairs.up, -pairs.last_s))[:PAIRS_MAX]))
        return Exfiltration(begun_s, pairs), tuple(findings.values())

    def forget(self, owner: str) -> "Exfiltration":
        """Pairs of addresses are nobody's."""
        return self


class Given(NamedTuple):
    """What one pair has come to in its window."""

    first_s: float
    begin_s: float
    up: float
    down: float


def _finding(pair: Given, source: str, destination: str, owners: list[str], now_s: float) -> Finding:
    megabytes = pair.up / 1e6
    return Finding(
        at_s=now_s,
        cause=Cause.EXFILTRATION,
        entity=f"sources/{source}",
        detectors=("exfiltration",),
        p=min(1.0, max(1e-12, 1e-3 * BYTES_MIN / pair.up)),
        reasons=(
            Reason(feature="bytes_given", observed=pair.up, usual=0.0),
            Reason(feature="given_to_got", observed=round(pair.up / max(1.0, pair.down), 1), usual=1.0),
            Reason(feature="seconds_since_first_given", observed=round(now_s - pair.first_s, 1), usual=NEW_S),
        ),
        windows=((pair.begin_s, now_s),),
        owners=tuple(owners),
        source=source,
        destination=destination,
        text=f"{source} has given {destination} {megabytes:.1f} MB in {now_s - pair.begin_s:.0f} s, "
        f"got {pair.down / 1e6:.1f} MB, and did not speak to it before",
    )
