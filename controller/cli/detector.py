"""What `stitch detector` does: files in, files out."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from controller.assurance import evaluation, learned, persistence
from controller.assurance.change_points import change_points
from controller.assurance.learned import Model
from controller.cli import csv_file, flow_file
from controller.cli.errors import InputInvalid
from controller.model.flow_columns import NOT_OBSERVED, FlowColumns

TOLD_BELOW = 0.05
"""Of p: rows that are more usual have no reasons."""
BENIGN = "benign"


def changepoints(source: str, out: str) -> None:
    columns = csv_file.read(source, ("time_s", "rtt_ms"))
    rtt_ms = np.array(csv_file.numbers(source, "rtt_ms", columns["rtt_ms"], empty=math.nan), dtype=np.float64)
    rows = [(columns["time_s"][change.at], f"{change.score:.4f}", change.kind) for change in change_points(rtt_ms)]
    csv_file.write(out, ("time_s", "score", "kind"), rows)


def score(train: Sequence[str], test: str, out: str, model: str, save: str) -> None:
    """With a model that was saved, or one that is trained for it."""
    if bool(model) == bool(train):
        raise InputInvalid("either --train (what to learn from) or --model (what was saved) is needed")
    known = _loaded(model) if model else _trained([flow_file.read(file) for file in train], ", ".join(train))
    if save:
        csv_file.replaced(save, persistence.dumped(known))
    flows = flow_file.read(test)
    scores = learned.scores(known, flows)
    p = known.calibration.p(scores)
    unusual = np.flatnonzero(p <= TOLD_BELOW)
    reasons = dict(zip(unusual.tolist(), learned.reasons(known, flows, unusual), strict=True))
    rows = ((row, f"{scores[row]:.6f}", f"{p[row]:.3g}", reasons.get(row, "")) for row in range(len(flows)))
    csv_file.write(out, ("row", "score", "calibrated_p", "reasons"), rows)


def evaluate(train: Sequence[str], test: str, *, part: float, runs_s: float, hide_sizes: bool, as_json: bool) -> None:
    """Without `test`, one file is split: by time at `part` of its rows, or, with `runs_s`, each run (between gaps of so
    many seconds) is scored by the others."""
    known = [labelled(file, hide_sizes) for file in train]
    if test:
        flows, attack, kinds = labelled(test, hide_sizes)
        scores, p = _judged([each.take(~label) for each, label, _ in known], flows, ", ".join(train))
    else:
        if len(known) != 1:
            raise InputInvalid("without --test there is one --train, which is split")
        flows, attack, kinds = known[0]
        order = np.argsort(flows.time_s, kind="stable")
        flows, attack, kinds = flows.take(order), attack[order], [kinds[row] for row in order.tolist()]
        run = _runs(flows, runs_s) if runs_s else (flows.time_s >= np.quantile(flows.time_s, part)).astype(np.int64)
        scores, p = np.full(len(flows), np.nan), np.ones(len(flows))
        for number in np.unique(run).tolist() if runs_s else [1]:
            own = run == number
            scores[own], p[own] = _judged([flows.take(~own & ~attack)], flows.take(own), train[0])
        judged = np.flatnonzero(~np.isnan(scores))
        scores, p, attack, kinds = scores[judged], p[judged], attack[judged], [kinds[row] for row in judged.tolist()]
    figures = evaluation.figures(scores, p, attack, kinds)
    if as_json:
        print(json.dumps([{**asdict(figure), "rows": len(scores)} for figure in figures]))
        return
    print(f"{len(scores)} rows, {int(attack.sum())} of them attacks")
    for figure in figures:
        print(f"{figure.name:36} {figure.value:6.3f}   {figure.low:.3f} to {figure.high:.3f}")


def _judged(
    train: Sequence[FlowColumns], flows: FlowColumns, what: str
) -> tuple[np.typing.NDArray[np.float64], np.typing.NDArray[np.float64]]:
    model = _trained(train, what)
    scores = learned.scores(model, flows)
    return scores, model.calibration.p(scores)


def _trained(groups: Sequence[FlowColumns], what: str) -> Model:
    try:
        return learned.trained(groups)
    except ValueError as error:
        raise InputInvalid(f"{what}: {error}") from error


def _loaded(file: str) -> Model:
    try:
        return persistence.loaded(Path(file).read_bytes())
    except OSError as error:
        raise InputInvalid(f"{file}: {error.strerror}") from error
    except persistence.ModelRefused as error:
        raise InputInvalid(f"{file}: {error}") from error


def labelled(file: str, hide_sizes: bool) -> tuple[FlowColumns, np.typing.NDArray[np.bool_], list[str]]:
    """Without rows that are there twice: they would be learnt and then recognised."""
    flows = flow_file.read(file)
    labels = csv_file.read(file, ("label",), ("kind",))
    attack = np.array(csv_file.numbers(file, "label", labels["label"], empty=0.0), dtype=np.float64) > 0
    kinds = labels.get("kind") or ["attack" if each else BENIGN for each in attack.tolist()]
    if hide_sizes:
        hidden = np.full(len(flows), NOT_OBSERVED, dtype=np.int64)
        flows = replace(flows, bytes=hidden, reverse_bytes=hidden)
    columns = [getattr(flows, name).reshape(len(flows), -1).astype(np.float64) for name in _IDENTITY]
    _, first = np.unique(np.concatenate(columns, axis=1), axis=0, return_index=True)
    kept = np.sort(first)
    return flows.take(kept), attack[kept], [kinds[row] for row in kept.tolist()]


_IDENTITY = (
    "time_s",
    "node",
    "source_address",
    "destination_address",
    "protocol",
    "source_port",
    "destination_port",
    "packets",
    "bytes",
    "duration_s",
)


def _runs(flows: FlowColumns, gap_s: float) -> np.typing.NDArray[np.int64]:
    """`flows` in the order of time."""
    return np.concatenate([[0], np.cumsum(np.diff(flows.time_s) > gap_s)]).astype(np.int64)
