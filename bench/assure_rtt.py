"""Change points of delay against those that people have labelled: tuned on one half of the traces, shown on the
other, both ways."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from bench.report import Row, row
from controller.assurance import change_points
from controller.assurance.change_points import Weights
from controller.cli import csv_file

EARLY, LATE = 1, 6
"""Points by which a change may be told before and after its label."""
ALARMS_MAX = 9.0
"""False ones in 30 days that the half for tuning may have."""


@dataclass(frozen=True)
class Trace:
    rtt_ms: NDArray[np.float64]
    labels: NDArray[np.int64]
    days: float


@dataclass(frozen=True)
class Score:
    right: int
    false: int
    missed: int
    days: float

    @property
    def f1(self) -> float:
        return 2 * self.right / max(1, 2 * self.right + self.false + self.missed)

    @property
    def alarms_30d(self) -> float:
        return self.false / self.days * 30


def rows(data: Path) -> list[Row]:
    traces = [_trace(file) for file in sorted((data / "rtt").glob("*.csv.gz"))]
    halves = (traces[0::2], traces[1::2])
    ours, peers = [], []
    for tuned, shown in (halves, halves[::-1]):
        weights = fitted(tuned)
        ours.append(
            _score([[change.at for change in change_points.change_points(t.rtt_ms, weights)] for t in shown], shown)
        )
        deviations = [_deviations(trace.rtt_ms) for trace in tuned]
        tried = [(_score([_cusum(z, limit) for z in deviations], tuned).f1, limit) for limit in range(5, 60, 5)]
        peers.append(_score([_cusum(_deviations(trace.rtt_ms), max(tried)[1]) for trace in shown], shown))
    own, peer = _sum(ours), _sum(peers)
    return [
        row(
            "assure.rtt_f1", own.f1, "F1", better="higher", target=0.58, peer="CUSUM", peer_value=peer.f1,
            compared=False,
        ),
        row(
            "assure.rtt_false_alarms", own.alarms_30d, "in 30 days", better="lower", target=10, peer="CUSUM",
            peer_value=peer.alarms_30d, compared=False,
        ),
    ]  # fmt: skip


def fitted(traces: Sequence[Trace]) -> Weights:
    """A logistic regression on which points are labelled; the threshold has the best F1 at ALARMS_MAX."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    features = [change_points.features(change_points.logarithms(trace.rtt_ms)) for trace in traces]
    scaler = StandardScaler().fit(np.concatenate(features))
    is_change = np.concatenate([np.isin(np.arange(len(trace.rtt_ms)), trace.labels) for trace in traces])
    model = LogisticRegression(C=0.003, max_iter=500).fit(scaler.transform(np.concatenate(features)), is_change)
    coefficients = model.coef_[0] / scaler.scale_
    intercept = float(model.intercept_[0] - coefficients @ scaler.mean_)
    scores = [each @ coefficients + intercept for each in features]
    tried = [
        (_score([change_points.peaks(each, threshold) for each in scores], traces), float(threshold))
        for threshold in np.quantile(np.concatenate(scores), 1 - np.geomspace(0.0005, 0.02, 25))
    ]
    _, threshold = max((score.f1, threshold) for score, threshold in tried if score.alarms_30d <= ALARMS_MAX)
    return Weights(coefficients=tuple(coefficients.tolist()), intercept=intercept, threshold=threshold)


def _score(told: Sequence[Sequence[int]], traces: Sequence[Trace]) -> Score:
    """Each label is one change told at most, and the other way round."""
    right = false = missed = 0
    for changes, trace in zip(told, traces, strict=True):
        left = list(changes)
        for label in trace.labels.tolist():
            match = next((at for at in left if -EARLY <= at - label <= LATE), None)
            if match is None:
                missed += 1
            else:
                left.remove(match)
                right += 1
        false += len(left)
    return Score(right, false, missed, sum(trace.days for trace in traces))


def _sum(scores: Sequence[Score]) -> Score:
    return Score(
        sum(s.right for s in scores),
        sum(s.false for s in scores),
        sum(s.missed for s in scores),
        sum(s.days for s in scores),
    )


def _deviations(rtt_ms: NDArray[np.float64]) -> list[float]:
    """Of the logarithm from the median of the 60 points before, in robust standard deviations."""
    log = change_points.logarithms(rtt_ms)
    before = sliding_window_view(np.concatenate([np.full(60, log[0]), log[:-1]]), 60)
    usual = np.median(before, axis=1)
    spread = 1.4826 * np.median(np.abs(before - usual[:, None]), axis=1) + 0.001
    return np.clip((log - usual) / spread, -8, 8).tolist()


def _cusum(deviations: Sequence[float], limit: float) -> list[int]:
    """Page's test, both ways; after an alarm it rests until most of the points before are of the new level."""
    told: list[int] = []
    up = down = 0.0
    for at, z in enumerate(deviations):
        if told and at - told[-1] < 30:
            continue
        up, down = max(0.0, up + z - 1.5), max(0.0, down - z - 1.5)
        if max(up, down) > limit:
            told.append(at)
            up = down = 0.0
    return told


def _trace(file: Path) -> Trace:
    columns = csv_file.read(str(file), ("time_s", "rtt_ms", "change"))
    time_s = np.array(columns["time_s"], dtype=np.float64)
    rtt_ms = np.array(csv_file.numbers(str(file), "rtt_ms", columns["rtt_ms"], empty=np.nan))
    return Trace(rtt_ms, np.flatnonzero(np.array(columns["change"], dtype=int)), float(time_s[-1] - time_s[0]) / 86400)
