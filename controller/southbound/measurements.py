"""What a node's probes say, as far as it is worth an event: series stay with the agent.

It is worth one when a path dies or lives, a delay has moved by a tenth and 0.1 ms at least, a loss by 0.1 %, something
is not measured any more, or nothing was told for REPEAT_S.
"""

from collections import deque
from collections.abc import Iterable

from controller.model.discovery import PathMeasurement, PortMeasurement
from controller.model.event import Measured
from dataplane.host_api import ProbeReading

REPEAT_S = 30.0
DELAY_SHARE, DELAY_US = 0.1, 100
LOSS_PERCENT = 0.1
WINDOW = 30
"""Readings over which a loss is counted: a minute."""

_Key = tuple[int, int, int | None]


class Measurements:
    """Of one session with a node."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._counts: dict[_Key, deque[tuple[int, int]]] = {}
        """Sent and lost, of the last readings."""
        self._told: dict[_Key, ProbeReading] = {}
        self._told_losses: dict[_Key, float] = {}
        self._told_s = float("-inf")

    def take(self, readings: Iterable[ProbeReading], now_s: float) -> Measured | None:
        """All that the node measures now; None: nothing is worth telling. `now_s`: Unix time."""
        known = {(reading.port, reading.liveness_group, reading.slot): reading for reading in readings}
        self._counts = {key: self._counts.get(key, deque(maxlen=WINDOW + 1)) for key in known}
        losses = {key: self._loss_percent(key, reading) for key, reading in known.items()}
        if not self._is_news(known, losses) and abs(now_s - self._told_s) < REPEAT_S:
            return None
        self._told, self._told_losses, self._told_s = known, losses, now_s
        at_s = int(now_s)
        return Measured(
            node=self._node,
            ports=tuple(
                PortMeasurement(
                    port=reading.port, delay_us=reading.round_trip_us // 2, loss_percent=losses[key], at_s=at_s
                )
                for key, reading in known.items()
                if reading.slot is None and reading.round_trip_us
            ),
            paths=tuple(
                PathMeasurement(
                    liveness_group=reading.liveness_group,
                    slot=reading.slot,
                    is_alive=reading.is_alive,
                    delay_us=reading.round_trip_us // 2,
                    jitter_us=reading.jitter_us,
                    loss_percent=losses[key],
                    at_s=at_s,
                )
                for key, reading in known.items()
                if reading.slot is not None
            ),
        )

    def _loss_percent(self, key: _Key, reading: ProbeReading) -> float:
        counts = self._counts[key]
        if counts and (reading.sent < counts[-1][0] or reading.lost < counts[-1][1]):  # they began anew
            counts.clear()
        counts.append((reading.sent, reading.lost))
        sent, lost = counts[0] if len(counts) > 1 else (0, 0)
        return min(100.0, round(100 * (reading.lost - lost) / max(1, reading.sent - sent), 2))

    def _is_news(self, known: dict[_Key, ProbeReading], losses: dict[_Key, float]) -> bool:
        if known.keys() != self._told.keys():
            return True
        for key, reading in known.items():
            told = self._told[key]
            moved_us = abs(reading.round_trip_us - told.round_trip_us) // 2
            if (
                reading.is_alive != told.is_alive
                or moved_us > max(DELAY_US, DELAY_SHARE * told.round_trip_us / 2)
                or abs(losses[key] - self._told_losses[key]) > LOSS_PERCENT
            ):
                return True
        return False
