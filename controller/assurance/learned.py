"""How unusual a flow record is, by what was seen before. Pure; scikit-learn is imported where it is used.

    nearest      density at the record by its nearest neighbours in training, under kernels of three widths, for each
                 class of traffic (protocol and service port), else for its protocol, else for all
    mixture      Gaussian mixture over all features
    rebuilt      what a reconstruction from the principal components leaves
    forest       isolation forest; in the ensemble only

`nearest` decides, the others add to it. In training a conversation counts once, however many records it has: who floods
the records that one learns from is one voice. A conversation's score is carried on from record to record, since what is
odd once is chance, and what stays odd is not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.assurance import flow_features
from controller.assurance.calibration import Calibration, calibrated
from controller.assurance.flow_features import DENSITY, FEATURES
from controller.model.flow_columns import FlowColumns, concatenated

Floats = NDArray[np.float64]

WIDTH = 0.04
"""Of the narrowest kernel, in logarithms; the others have 4 and 16 times as much."""
_WIDTHS = ((1.0, 0.7), (4.0, 0.2), (16.0, 0.1))
PROTOTYPES_MAX = 192
"""Points of training that a density is made of; those beyond are counted with the nearest of them."""
CLASS_MIN = 40
"""Records of a class that has a density of its own."""
FALLEN_BACK = (0.0, 1.0, 3.0)
"""What is added where it is the class's own density, its protocol's, that of all."""
MOST = 14.0
CARRIED = 0.9
"""Of a conversation's score from one record to the next."""
FORGOTTEN_S = 600.0
SAMPLE_MAX = 20_000
"""Records that mixture, components and forest are fitted to."""
BLOCKS = 4
"""Of time that one file of training is calibrated by."""
MEMBERS = ("mixture", "rebuilt", "forest")
_MEMBER_WEIGHT = 0.3
_BATCH = 512
"""Records whose kernels fit the cache of a core."""


@dataclass(frozen=True, slots=True)
class Density:
    prototypes: NDArray[np.float32]
    weights: NDArray[np.float32]

    def unusual(self, values: Floats) -> Floats:
        """Minus its logarithm, shape (n,)."""
        total = np.empty(len(values), dtype=np.float32)
        own = (self.prototypes**2).sum(axis=1)
        for begin in range(0, len(values), _BATCH):
            some = (values[begin : begin + _BATCH] / WIDTH).astype(np.float32)
            kernel = some @ (-2 * self.prototypes.T)
            kernel += (some**2).sum(axis=1)[:, None]
            kernel += own
            np.maximum(kernel, 0, out=kernel)
            # exp once, for the widest; the narrower ones are its powers.
            kernel *= np.float32(-0.5 / _WIDTHS[-1][0] ** 2)
            np.exp(kernel, out=kernel)
            density = np.zeros(len(some), dtype=np.float32)
            for number, (width, part) in enumerate(reversed(_WIDTHS)):
                if number:
                    for _ in range(4):  # 16 is the square of the ratio of one width to the next
                        kernel *= kernel
                density += np.float32(part / width**DENSITY) * (kernel @ self.weights)
            total[begin : begin + _BATCH] = density
        return np.minimum(-np.log(np.maximum(total.astype(np.float64), 1e-30)), MOST)


@dataclass(frozen=True, slots=True, kw_only=True)
class Members:
    """What scikit-learn has fitted, and the scores that are usual (median, and how far it is to the 99th of 100)."""

    centre: Floats
    scale: Floats
    mixture: Any
    components: Any
    forest: Any
    usual: Floats
    """Shape (MEMBERS, 2)."""

    def scores(self, features: Floats) -> Floats:
        """Shape (n, MEMBERS): 0 is the median, 1 the 99th of 100; at most 3."""
        raw = self.raw(features)
        return np.clip((raw - self.usual[:, 0]) / self.usual[:, 1], 0, 3)

    def raw(self, features: Floats) -> Floats:
        values = np.clip((features - self.centre) / self.scale, -20, 20)
        rebuilt = self.components.inverse_transform(self.components.transform(values))
        return np.stack(
            [
                -self.mixture.score_samples(values),
                np.log1p(((values - rebuilt) ** 2).sum(axis=1)),
                -self.forest.score_samples(values.astype(np.float32)),
            ],
            axis=1,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    densities: Mapping[int, Density]
    protocols: Mapping[int, Density]
    all: Density
    members: Members
    usual: Mapping[int, Floats]
    """By class, else by protocol (as -1 - protocol), else of all (as ALL): median and spread of each feature, shape
    (2, FEATURES)."""
    calibration: Calibration = field(default_factory=lambda: Calibration(()))


ALL = -1000


def trained(groups: Sequence[FlowColumns]) -> Model:
    """`groups`: captures that are calibrated by each other. Raises ValueError where there is nothing to learn from."""
    groups = [group for group in groups if len(group)]
    if not groups:
        raise ValueError("nothing to learn from: the training has no rows")
    if len(groups) == 1:
        groups = _blocks(groups[0])
    model = _fitted(groups)
    held_out = []
    if len(groups) > 1:
        for number, group in enumerate(groups):
            others = _fitted([each for other, each in enumerate(groups) if other != number])
            held_out.append(scores(others, group))
    else:
        held_out.append(scores(model, groups[0]))
    return replace(model, calibration=calibrated(held_out))


def scores(model: Model, flows: FlowColumns) -> Floats:
    """Higher is more unusual. Half of it is the record's own, half what its conversation has shown so far."""
    single = single_scores(model, flows)
    return (single + carried(single, flow_features.observed_conversations(flows), flows.time_s)) / 2


def single_scores(model: Model, flows: FlowColumns) -> Floats:
    """Of each record by itself."""
    features = flow_features.flow_features(flows)
    classes = flow_features.classes(flows)
    result = np.zeros(len(flows))
    for number in np.unique(classes).tolist():
        rows = np.flatnonzero(classes == number)
        density, fallen = _density(model, number)
        result[rows] = density.unusual(features[rows, :DENSITY]) + fallen
    if len(flows):
        result += _MEMBER_WEIGHT * model.members.scores(features).sum(axis=1)
    return result


def carried(single: Floats, conversation: NDArray[np.int64], time_s: Floats) -> Floats:
    """An exponential average along each conversation, in the order of time, begun anew after FORGOTTEN_S."""
    order = np.lexsort((np.arange(len(single)), time_s, conversation))
    result = single[order].copy()
    own, at_s = conversation[order], time_s[order]
    follows = np.zeros(len(order), dtype=np.bool_)
    follows[1:] = (own[1:] == own[:-1]) & (at_s[1:] - at_s[:-1] <= FORGOTTEN_S)
    # All first records of conversations are done; then all second ones, and so on.
    place = np.arange(len(order)) - np.maximum.accumulate(np.where(follows, 0, np.arange(len(order))))
    by_place = np.argsort(place, kind="stable")
    bounds = np.searchsorted(place[by_place], np.arange(1, place.max(initial=0) + 2))
    for begin, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        rows = by_place[begin:end]
        result[rows] = CARRIED * result[rows - 1] + (1 - CARRIED) * result[rows]
    unordered = np.empty_like(result)
    unordered[order] = result
    return unordered


def reasons(model: Model, flows: FlowColumns, rows: NDArray[np.int64]) -> list[str]:
    """Of some rows: the three features that are furthest from what is usual of their class, observed and usual."""
    some = flows.take(rows)
    features, classes = flow_features.flow_features(some), flow_features.classes(some)
    texts = []
    for values, number in zip(features, classes.tolist(), strict=True):
        usual = next(
            model.usual[key] for key in (number, -1 - number // flow_features.SERVICE_PORTS, ALL) if key in model.usual
        )
        distance = np.abs(values - usual[0]) / usual[1]
        parts = [
            f"{FEATURES[each]} {_plain(values[each])} (usually {_plain(usual[0, each])})"
            for each in np.argsort(-distance, kind="stable")[:3].tolist()
            if distance[each] > 0.5
        ]
        texts.append("; ".join(parts) or "the combination of its features")
    return texts


def _plain(logarithm: float) -> str:
    return "not observed" if logarithm < 0 else f"{np.expm1(logarithm):.4g}"


def _density(model: Model, number: int) -> tuple[Density, float]:
    if number in model.densities:
        return model.densities[number], FALLEN_BACK[0]
    protocol = number // flow_features.SERVICE_PORTS
    if protocol in model.protocols:
        return model.protocols[protocol], FALLEN_BACK[1]
    return model.all, FALLEN_BACK[2]


def _blocks(flows: FlowColumns) -> list[FlowColumns]:
    """Stretches of time with the same number of records; one, if there are few."""
    if len(flows) < 2 * BLOCKS * CLASS_MIN:
        return [flows]
    bounds = np.quantile(flows.time_s, np.linspace(0, 1, BLOCKS + 1)[1:-1])
    block = np.searchsorted(bounds, flows.time_s, side="right")
    return [flows.take(block == number) for number in np.unique(block).tolist()]


def _fitted(groups: Sequence[FlowColumns]) -> Model:
    together = concatenated(groups)  # names of nodes and owners are those of the last, and not looked at
    features, classes = flow_features.flow_features(together), flow_features.classes(together)
    weights = _voices(flow_features.conversations(together))
    protocols = classes // flow_features.SERVICE_PORTS
    usual = {ALL: _usual(features)}
    densities = {}
    for number in np.unique(classes).tolist():
        rows = classes == number
        if rows.sum() >= CLASS_MIN:
            densities[number] = _learnt(features[rows, :DENSITY], weights[rows])
            usual[number] = _usual(features[rows])
    of_protocols = {}
    for number in np.unique(protocols).tolist():
        rows = protocols == number
        if rows.sum() >= CLASS_MIN:
            of_protocols[number] = _learnt(features[rows, :DENSITY], weights[rows])
            usual[-1 - number] = _usual(features[rows])
    return Model(
        densities=densities,
        protocols=of_protocols,
        all=_learnt(features[:, :DENSITY], weights),
        members=_members(features, weights),
        usual=usual,
    )


def _voices(conversation: NDArray[np.int64]) -> Floats:
    """Each conversation has one, shared by its records."""
    count = np.bincount(conversation)
    weights: Floats = 1.0 / count[conversation]
    return weights


def _usual(features: Floats) -> Floats:
    low, middle, high = np.quantile(features, (0.05, 0.5, 0.95), axis=0)
    return np.stack([middle, np.maximum(high - low, 0.2)])


def _learnt(values: Floats, weights: Floats) -> Density:
    grid = np.round(values / WIDTH * 2) / 2
    points, number = np.unique(grid, axis=0, return_inverse=True)
    voices = np.bincount(number.ravel(), weights)
    if len(points) > PROTOTYPES_MAX:
        heaviest = np.argsort(-voices, kind="stable")
        kept, rest = heaviest[:PROTOTYPES_MAX], heaviest[PROTOTYPES_MAX:]
        merged = voices[kept].copy()
        for begin in range(0, len(rest), 1024):
            some = rest[begin : begin + 1024]
            nearest = ((points[some, None, :] - points[None, kept, :]) ** 2).sum(axis=2).argmin(axis=1)
            np.add.at(merged, nearest, voices[some])
        points, voices = points[kept], merged
    return Density(points.astype(np.float32), (voices / voices.sum()).astype(np.float32))


def _members(features: Floats, weights: Floats) -> Members:
    from sklearn.decomposition import PCA
    from sklearn.ensemble import IsolationForest
    from sklearn.mixture import GaussianMixture

    chance = np.random.default_rng(0)  # always the same: equal training gives equal scores
    count = min(max(len(features), 64), SAMPLE_MAX)
    sample = features[chance.choice(len(features), size=count, p=weights / weights.sum())]
    low, centre, high = np.quantile(sample, (0.05, 0.5, 0.95), axis=0)
    scale = np.maximum(high - low, 0.1)
    values = np.clip((sample - centre) / scale, -20, 20)
    different = len(np.unique(values, axis=0))
    members = Members(
        centre=centre,
        scale=scale,
        mixture=GaussianMixture(
            n_components=max(1, min(4, different // 20)), reg_covar=1e-3, random_state=0, init_params="random_from_data"
        ).fit(values),
        components=PCA(n_components=2, random_state=0).fit(values),
        forest=IsolationForest(n_estimators=16, max_samples=min(256, count), random_state=0).fit(
            values.astype(np.float32)
        ),
        usual=np.array([[0.0, 1.0]] * len(MEMBERS)),
    )
    raw = members.raw(sample)
    middle, top = np.quantile(raw, (0.5, 0.99), axis=0)
    usual = np.stack([middle, np.maximum(top - middle, 1e-3)], axis=1)
    return replace(members, usual=usual)
