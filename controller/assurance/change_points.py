"""Where a path's delay changes its level or its spread, online. Pure.

At each point what came before (6, 20 and 60 points) is compared with it and the three after it, on the logarithm of the
delay, by medians and quantiles; a logistic regression weighs the differences. Its coefficients were fitted to traces
whose change points people have labelled (`./run bench assure` fits them anew, on other traces than it is judged by).
A point is a change where its score is over the threshold, none of the three points after it has a higher one, and no
change was told in the six before it. So six points after it nothing about it changes any more.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

BEFORE = (6, 20, 60)
AFTER = 4
"""Points that are compared with those before: the point itself and three more."""
AHEAD = 3
"""Points whose scores are waited for."""
QUIET = 6
"""Points after a change in which there is no other."""
LOST_RUN = 3
"""Points lost in a row that are a loss."""

_NOISE = 0.0007
"""Spread of the logarithm (0.07 %) that every path is taken to have: clocks and queues of the probes themselves."""
_RELATIVE = 300.0

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Of `features`, which have no unit; a score over `threshold` is a change."""

    coefficients: tuple[float, ...]
    intercept: float
    threshold: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangePoint:
    at: int
    """Index of the first point that is different."""
    score: float
    """Logarithm of the odds that it is a change."""
    kind: str
    """higher, lower, more spread, less spread, loss."""


def change_points(rtt_ms: Floats, weights: Weights | None = None) -> tuple[ChangePoint, ...]:
    """`rtt_ms`: one value for each probe, at an even pace; NaN (or what no delay can be) is a lost one."""
    weights = weights or WEIGHTS
    log = logarithms(rtt_ms)
    if not len(log):
        return ()
    scores = features(log) @ np.array(weights.coefficients) + weights.intercept
    found = {
        at: ChangePoint(at=at, score=float(scores[at]), kind=_kind(log, at)) for at in peaks(scores, weights.threshold)
    }
    found |= {at: ChangePoint(at=at, score=0.0, kind="loss") for at in _losses(rtt_ms)}
    return tuple(found[at] for at in sorted(found))


def features(log: Floats) -> Floats:
    """Of each point how what follows differs from what was before, shape (n, FEATURES). A point's row depends on itself
    and AFTER - 1 points after it; beyond the ends the first and last value stand."""
    padded = np.concatenate([np.full(max(BEFORE), log[0]), log, np.full(AFTER, log[-1])])
    after = _Window(padded[max(BEFORE) :], AFTER, len(log))
    columns: list[Floats] = []
    for length in BEFORE:
        before = _Window(padded[max(BEFORE) - length :], length, len(log))
        floor = before.spread + _NOISE
        low, high = np.quantile(before.values, (0.1, 0.9), axis=1)
        above = (after.values > high[:, None]).mean(axis=1)
        below = (after.values < low[:, None]).mean(axis=1)
        spread = np.log((after.spread + _NOISE) / floor)
        deviation = np.log((after.deviation + 0.001) / (before.deviation + 0.001))
        columns += [
            np.log1p(np.abs(after.median - before.median) / floor),
            np.log1p(np.abs(after.median - before.median) * _RELATIVE),
            np.log1p(np.abs(after.mean - before.mean) / (before.deviation + 0.001)),
            np.log1p(np.abs(after.mean - before.mean) * _RELATIVE),
            np.log1p(np.abs(after.lowest - before.lowest) * _RELATIVE),
            spread,
            np.abs(spread),
            deviation,
            np.abs(deviation),
            above,
            below,
            np.maximum(above, below),
            _rank(before.values, after.values),
            np.log1p(before.spread * _RELATIVE),
            np.log1p(before.deviation * _RELATIVE),
        ]
    nearest = np.median(sliding_window_view(padded[max(BEFORE) - 3 :], 3)[: len(log)], axis=1)
    previous = padded[max(BEFORE) - 1 :][: len(log)]
    columns += [
        np.log1p(np.abs(log - previous) * _RELATIVE),
        np.log1p(np.abs(log - nearest) * _RELATIVE),
        np.log1p(np.abs(np.median(after.values[:, :3], axis=1) - nearest) * _RELATIVE),
    ]
    return np.stack(columns, axis=1)


def _rank(before: Floats, after: Floats) -> Floats:
    """How far from even it is whether a value after is over one before (Mann and Whitney): 0 to 1."""
    over: Floats = (after[:, :, None] > before[:, None, :]).mean(axis=(1, 2))
    under: Floats = (after[:, :, None] < before[:, None, :]).mean(axis=(1, 2))
    distance: Floats = np.abs(over - under)
    return distance


def peaks(scores: Floats, threshold: float) -> tuple[int, ...]:
    """What is over the threshold, lower than none of the AHEAD scores after it, and not within QUIET of one before."""
    found: list[int] = []
    for at in np.flatnonzero(scores >= threshold).tolist():
        if (not found or at - found[-1] > QUIET) and not (scores[at + 1 : at + 1 + AHEAD] > scores[at]).any():
            found.append(at)
    return tuple(found)


def delays(rtt_ms: Floats) -> Floats:
    """NaN for all that is no delay: lost, infinite, not above 0."""
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(rtt_ms) & (rtt_ms > 0), rtt_ms, np.nan)


def logarithms(rtt_ms: Floats) -> Floats:
    """A lost point is as the last one before it that was not; those at the beginning as the first that came, so that
    they depend on it. Empty: all are lost."""
    known = delays(rtt_ms)
    came = ~np.isnan(known)
    if not came.any():
        return np.zeros(0)
    last = np.maximum.accumulate(np.where(came, np.arange(len(known)), -1))
    return np.log(np.where(last < 0, known[np.argmax(came)], known[last]))


def _losses(rtt_ms: Floats) -> list[int]:
    lost = np.isnan(delays(rtt_ms))
    begins = np.flatnonzero(lost & ~np.concatenate([[False], lost[:-1]]))
    return [int(at) for at in begins if lost[at : at + LOST_RUN].sum() == LOST_RUN]


def _kind(log: Floats, at: int) -> str:
    before, after = log[max(0, at - BEFORE[1]) : at], log[at : at + AFTER]
    if not len(before):
        return "more spread"
    step = np.median(after) - np.median(before)
    spread = np.median(np.abs(before - np.median(before)))
    if abs(step) > 2 * (spread + _NOISE):
        return "higher" if step > 0 else "lower"
    return "more spread" if np.std(after) > np.std(before) else "less spread"


class _Window:
    """What is around each point: rows of `values`."""

    def __init__(self, padded: Floats, length: int, count: int) -> None:
        self.values: NDArray[Any] = sliding_window_view(padded, length)[:count]
        self.median: Floats = np.median(self.values, axis=1)
        self.spread: Floats = np.median(np.abs(self.values - self.median[:, None]), axis=1)
        self.mean: Floats = self.values.mean(axis=1)
        self.deviation: Floats = self.values.std(axis=1)
        self.lowest: Floats = self.values.min(axis=1)


WEIGHTS = Weights(
    coefficients=(
        # of the 6 points before
        *(0.22, -0.037, 0.606, 0.009, -0.014, -0.096, 0.178, -0.185, -0.036, 0.315, 0.253, 0.625, 0.821, 0.012, -0.145),
        # of the 20
        *(0.098, -0.071, 0.362, -0.1, 0.057, -0.029, 0.074, -0.158, -0.038, 0.176, 0.333, 0.51, 0.883, -0.01, -0.056),
        # of the 60
        *(
            0.03,
            -0.021,
            -0.095,
            -0.196,
            0.055,
            -0.082,
            -0.035,
            -0.116,
            -0.069,
            -0.056,
            0.322,
            0.282,
            0.535,
            0.094,
            -0.055,
        ),
        # of the point before and the three before
        *(0.685, 0.176, 0.464),
    ),
    intercept=-10.363,
    threshold=-1.312,
)
