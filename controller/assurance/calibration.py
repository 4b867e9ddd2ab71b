"""From a score to how often what is usual scores as high. Pure.

Scores of what a model was trained with say nothing about what it will see: a threshold taken from them lets up to 26
of 100 benign flows of another day through as alarms, where 1 was meant. So each group (a capture, or a stretch of time)
is scored by a model of the others. Which of them the next one will be like is not known: p is the mean of theirs, each
counting the same. Beyond what was seen, the tail is a generalised Pareto distribution (Pickands 1975), by
probability-weighted moments (Hosking and Wallis 1987).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TAIL = 0.1
"""The part of the scores that is the tail."""
TAIL_MIN = 10
GROUP_MIN = 200
"""Scores that a group of its own needs; smaller ones are one together."""
SHAPE_MAX = 0.5
P_MIN = 1e-9

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Tail:
    """Of one group: its scores in order, and where its tail begins."""

    scores: Floats
    begin: float
    part: float
    """Of the scores that are beyond `begin`."""
    shape: float
    scale: float

    def p(self, scores: Floats) -> Floats:
        above = len(self.scores) - np.searchsorted(self.scores, scores, side="left")
        counted = (above + 1) / (len(self.scores) + 1)
        beyond = np.maximum(scores - self.begin, 0) / self.scale
        if self.shape < 1e-6:
            fitted = self.part * np.exp(-np.minimum(beyond, 700))
        else:
            fitted = self.part * (1 + self.shape * beyond) ** (-1 / self.shape)
        return np.clip(np.where(scores > self.begin, fitted, counted), P_MIN, 1.0)


@dataclass(frozen=True, slots=True)
class Calibration:
    tails: tuple[Tail, ...]

    def p(self, scores: Floats) -> Floats:
        """1 where nothing is known."""
        values = np.array([tail.p(scores) for tail in self.tails])
        return values.mean(axis=0) if len(values) else np.ones(len(scores))


def calibrated(groups: Sequence[Floats]) -> Calibration:
    """`groups`: scores that each group got from a model of the others."""
    small = [scores for scores in groups if len(scores) < GROUP_MIN]
    large = [scores for scores in groups if len(scores) >= GROUP_MIN]
    together = np.concatenate(small) if small else np.zeros(0)
    if len(together) >= GROUP_MIN or not large:
        large.append(together)
    elif len(together):
        large[-1] = np.concatenate([large[-1], together])
    return Calibration(tuple(tail(scores) for scores in large if len(scores)))


def tail(scores: Floats) -> Tail:
    ordered = np.sort(scores.astype(np.float64))
    count = min(len(ordered), max(TAIL_MIN, int(len(ordered) * TAIL)))
    begin = float(ordered[-count])
    excess = ordered[ordered > begin] - begin
    if len(excess) < 2:
        return Tail(ordered, begin, (len(excess) + 1) / (len(ordered) + 1), 0.0, max(1e-6, abs(begin) * 0.1))
    rank = (np.arange(1, len(excess) + 1) - 0.35) / len(excess)
    mean, weighted = float(excess.mean()), float((excess * (1 - rank)).mean())
    below = max(mean - 2 * weighted, 1e-12)
    shape = 2 - mean / below
    if not 0 <= shape <= SHAPE_MAX:
        # What has an end, by the moments, need not have one; what is wilder is no fit. The mean stays as it is.
        shape = min(max(shape, 0.0), SHAPE_MAX)
        scale = mean * (1 - shape)
    else:
        scale = 2 * mean * weighted / below
    return Tail(ordered, begin, (len(excess) + 1) / (len(ordered) + 1), shape, max(scale, 1e-6))
