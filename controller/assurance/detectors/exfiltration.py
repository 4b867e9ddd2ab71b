"""Exfiltration: a source gives much, and gets little, to a destination that it did not give anything before.

Sees: bulk that leaves to a new peer, BYTES_MIN within WINDOW_S, UP_DOWN times what comes back. Misses: slow leaks, and
what goes to a peer that has always been given much (volume.py sees a shift of that).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from controller.assurance.seen import Seen
from controller.assurance.windows import address_text, numbered
from controller.model.finding import Cause, Finding, Reason

WINDOW_S = 60.0
BYTES_MIN = 5_000_000
UP_DOWN = 10.0
NEW_S = 600.0
"""A peer is new for so long after it was first given something."""
LEARNT_S = 60.0
"""That a source is watched before it has usual peers; until then findings are cold."""
PAIRS_MAX = 20_000


@dataclass(frozen=True, slots=True)
class Pair:
    first_s: float
    begin_s: float
    """Of the window that `up` and `down` are of."""
    up: float = 0.0
    down: float = 0.0
    last_s: float = 0.0
    is_usual: bool = False


@dataclass(frozen=True, slots=True)
class Exfiltration:
    begun_s: float = 0.0
    pairs: Mapping[bytes, Pair] = field(default_factory=dict)

    def watch(self, seen: Seen, now_s: float, frozen: frozenset[str]) -> "tuple[Exfiltration, tuple[Finding, ...]]":
        flows = seen.flows
        begun_s = self.begun_s or now_s
        if not len(flows):
            return replace(self, begun_s=begun_s), ()
        key = np.concatenate([flows.source_address, flows.destination_address], axis=1)
        first, number = numbered(key)
        up = np.bincount(number, np.maximum(flows.bytes, 0), minlength=len(first))
        down = np.bincount(number, np.maximum(flows.reverse_bytes, 0), minlength=len(first))
        pairs = dict(self.pairs)
        findings: list[Finding] = []
        # Those that give most first: with a bound on what is remembered, they are the ones that count.
        for at in np.argsort(-up, kind="stable")[:PAIRS_MAX].tolist():
            row = int(first[at])
            name = key[row].tobytes()
            old = pairs.get(name) or Pair(now_s, now_s, is_usual=now_s - begun_s < LEARNT_S)
            given, got = float(up[at]), float(down[at])
            if now_s - old.begin_s > WINDOW_S:
                pair = Pair(old.first_s, now_s, given, got, now_s, old.is_usual)
            else:
                pair = Pair(old.first_s, old.begin_s, old.up + given, old.down + got, now_s, old.is_usual)
            pairs[name] = pair
            is_new = not pair.is_usual and now_s - pair.first_s < NEW_S
            # What was given outlasts the giving: it is told while it goes on.
            goes_on = given >= BYTES_MIN / WINDOW_S and given >= UP_DOWN * got
            if is_new and goes_on and pair.up >= BYTES_MIN and pair.up >= UP_DOWN * pair.down:
                rows = np.flatnonzero(number == at)
                owners = {flows.owners[owner] for owner in set(flows.owner[rows].tolist()) if owner >= 0}
                source, destination = address_text(key[row, :16]), address_text(key[row, 16:])
                findings.append(_finding(pair, source, destination, sorted(owners), now_s))
        if len(pairs) > PAIRS_MAX:
            newest = sorted(pairs, key=lambda name: -pairs[name].last_s)[:PAIRS_MAX]
            pairs = {name: pairs[name] for name in newest}
        return Exfiltration(begun_s, pairs), tuple(findings)

    def forget(self, owner: str) -> "Exfiltration":
        """Pairs of addresses are nobody's."""
        return self


def _finding(pair: Pair, source: str, destination: str, owners: list[str], now_s: float) -> Finding:
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
