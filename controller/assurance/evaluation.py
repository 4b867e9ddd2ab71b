"""How well scores tell attacks from what is usual. Pure.

Figures come with the interval in which 95 of 100 repetitions lie, each drawing as many runs of rows as there are, whole
runs at a time: rows that follow each other are alike, and drawing them one by one would pretend to know more.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]

REPETITIONS = 200
PIECES = 50
"""That the rows are cut into for drawing, in their order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    name: str
    value: float
    low: float
    high: float


def auroc(scores: Floats, attack: Labels) -> float:
    """How often an attack scores higher than what is none; even scores are half. NaN: only one of both is there."""
    attacks, others = int(attack.sum()), int((~attack).sum())
    if not attacks or not others:
        return float("nan")
    _, number, count = np.unique(scores, return_inverse=True, return_counts=True)
    rank = np.cumsum(count) - (count - 1) / 2
    return float((rank[number[attack]].sum() - attacks * (attacks + 1) / 2) / (attacks * others))


def auprc(scores: Floats, attack: Labels) -> float:
    """Average precision: of the thresholds, the precision at each weighed by the attacks that it adds."""
    if not attack.any():
        return float("nan")
    values, number = np.unique(-scores, return_inverse=True)
    found = np.cumsum(np.bincount(number, attack, minlength=len(values)))
    told = np.cumsum(np.bincount(number, minlength=len(values)))
    added = np.diff(np.concatenate([[0.0], found]))
    return float((added / found[-1] * found / told).sum())


def found_at(scores: Floats, attack: Labels, false_rate: float) -> float:
    """The part of the attacks over the lowest threshold that at most `false_rate` of the others reach."""
    others = np.sort(scores[~attack])
    if not len(others) or not attack.any():
        return float("nan")
    allowed = int(false_rate * len(others))
    threshold = others[len(others) - allowed - 1]
    return float((scores[attack] > threshold).mean())


def figures(
    scores: Floats, p: Floats, attack: Labels, kinds: Sequence[str], *, repetitions: int = REPETITIONS
) -> tuple[Figure, ...]:
    """`kinds`: of each row, the kind of attack; empty or `benign` of what is none."""
    measures: list[tuple[str, Callable[[NDArray[np.int64]], float]]] = [
        ("auroc", lambda rows: auroc(scores[rows], attack[rows])),
        ("auprc", lambda rows: auprc(scores[rows], attack[rows])),
        ("tpr_at_fpr_1_percent", lambda rows: found_at(scores[rows], attack[rows], 0.01)),
        ("tpr_at_fpr_0.1_percent", lambda rows: found_at(scores[rows], attack[rows], 0.001)),
        ("fpr_at_calibrated_1_percent", lambda rows: _part(p[rows] <= 0.01, ~attack[rows])),
        ("tpr_at_calibrated_1_percent", lambda rows: _part(p[rows] <= 0.01, attack[rows])),
    ]
    of_kind = np.array(kinds)
    for kind in sorted({kind for kind, is_attack in zip(kinds, attack.tolist(), strict=True) if is_attack}):

        def concerned(rows: NDArray[np.int64], kind: str = kind) -> NDArray[np.int64]:
            kept: NDArray[np.int64] = rows[~attack[rows] | (of_kind[rows] == kind)]
            return kept

        def of_auroc(rows: NDArray[np.int64], concerned: Callable[..., NDArray[np.int64]] = concerned) -> float:
            return auroc(scores[concerned(rows)], attack[concerned(rows)])

        def of_found(rows: NDArray[np.int64], concerned: Callable[..., NDArray[np.int64]] = concerned) -> float:
            return found_at(scores[concerned(rows)], attack[concerned(rows)], 0.01)

        measures += [(f"auroc {kind}", of_auroc), (f"tpr_at_fpr_1_percent {kind}", of_found)]
    pieces = np.array_split(np.arange(len(scores)), min(PIECES, max(1, len(scores))))
    chance = np.random.default_rng(0)
    draws = [
        np.concatenate([pieces[piece] for piece in chance.integers(0, len(pieces), len(pieces))])
        for _ in range(repetitions)
    ]
    every = np.arange(len(scores))
    results = []
    for name, measure in measures:
        repeated = np.array([measure(rows) for rows in draws])
        known = repeated[~np.isnan(repeated)]
        low, high = np.quantile(known, (0.025, 0.975)) if len(known) else (float("nan"), float("nan"))
        results.append(Figure(name=name, value=measure(every), low=float(low), high=float(high)))
    return tuple(results)


def _part(what: Labels, of: Labels) -> float:
    return float(what[of].mean()) if of.any() else float("nan")
