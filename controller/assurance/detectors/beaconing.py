"""Beaconing: new flows of one source to one destination at an even pace.

NTP, DNS and monitoring are as even as command-and-control traffic is, so evenness alone says nothing: it counts only
for a destination that is new to all (nobody had flows to it while detectors learnt), on no well-known port.

Sees: FLOWS_MIN flows or more, REGULAR even, at least GAP_MIN_S apart, to a new destination. Misses: jitter above that,
well-known ports, beacons that were there from the beginning.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from controller.assurance.seen import Seen
from controller.assurance.windows import address_text
from controller.model.finding import Cause, Finding, Reason

FLOWS_MIN = 8
REGULAR = 0.15
"""Standard deviation of the gaps by their mean."""
GAP_MIN_S = 3.0
LEARNT_S = 900.0
USUAL_PORTS = frozenset({22, 25, 53, 67, 68, 80, 123, 161, 179, 443, 514, 853, 5353})
REMEMBERED_MAX = 20_000


@dataclass(frozen=True, slots=True)
class Beaconing:
    begun_s: float = 0.0
    usual: frozenset[bytes] = frozenset()
    """Destinations of the time of learning."""
    begins: Mapping[bytes, tuple[float, ...]] = field(default_factory=dict)
    """By source, destination and port: when its last flows began."""

    def watch(self, seen: Seen, now_s: float, frozen: frozenset[str]) -> "tuple[Beaconing, tuple[Finding, ...]]":
        begun_s = self.begun_s or now_s
        flows = seen.flows.take(seen.flows.is_new)
        if not len(flows):
            return replace(self, begun_s=begun_s), ()
        destinations = {row.tobytes() for row in flows.destination_address[:REMEMBERED_MAX]}
        if now_s - begun_s < LEARNT_S:
            known = self.usual if len(self.usual) > REMEMBERED_MAX else self.usual | destinations
            return replace(self, begun_s=begun_s, usual=known), ()
        begins = dict(self.begins)
        findings: list[Finding] = []
        seen_now: set[bytes] = set()
        for row in range(min(len(flows), REMEMBERED_MAX)):
            destination, port = flows.destination_address[row], int(flows.destination_port[row])
            if destination.tobytes() in self.usual or port in USUAL_PORTS:
                continue
            key = flows.source_address[row].tobytes() + destination.tobytes() + port.to_bytes(2, "big")
            if key in seen_now or (key not in begins and len(begins) >= REMEMBERED_MAX):
                continue
            seen_now.add(key)
            times = (*begins.get(key, ()), float(flows.time_s[row]))[-2 * FLOWS_MIN :]
            begins[key] = times
            gaps = np.diff(times)
            if len(times) >= FLOWS_MIN and gaps.min() >= GAP_MIN_S and gaps.std() <= REGULAR * gaps.mean():
                owner = int(flows.owner[row])
                owners = (flows.owners[owner],) if owner >= 0 else ()
                source, text = address_text(flows.source_address[row]), address_text(destination)
                findings.append(_finding(times, gaps, source, text, port, owners, now_s))
        stale = [key for key, times in begins.items() if now_s - times[-1] > 3600]
        for key in stale:
            del begins[key]
        return Beaconing(begun_s, self.usual, begins), tuple(findings)

    def forget(self, owner: str) -> "Beaconing":
        return self


def _finding(
    times: tuple[float, ...],
    gaps: "np.typing.NDArray[np.float64]",
    source: str,
    destination: str,
    port: int,
    owners: tuple[str, ...],
    now_s: float,
) -> Finding:
    unevenness = float(gaps.std() / gaps.mean())
    return Finding(
        at_s=now_s,
        cause=Cause.BEACONING,
        entity=f"sources/{source}",
        detectors=("beaconing",),
        p=max(1e-12, min(1.0, max(unevenness, 0.01) ** (len(gaps) / 2))),
        reasons=(
            Reason(feature="unevenness_of_gaps", observed=round(unevenness, 3), usual=1.0),
            Reason(feature="gap_s", observed=round(float(gaps.mean()), 2), usual=0.0),
            Reason(feature="flows", observed=float(len(times)), usual=1.0),
        ),
        windows=((times[0], now_s),),
        owners=owners,
        source=source,
        destination=destination,
        text=f"{source} calls {destination} port {port} every {gaps.mean():.0f} s, {len(times)} times, "
        "and nobody spoke to it before",
    )
