"""How unusual a flow record is: what is learnt, how it is calibrated, kept, read from files, and judged."""

import csv
import gzip
import hashlib
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flow_rows import Flow, columns
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from controller.assurance import calibration, evaluation, learned, persistence
from controller.assurance.flow_features import DENSITY, flow_features
from controller.assurance.learned import Model
from controller.assurance.persistence import ModelRefused
from controller.model.flow_columns import FlowColumns

STITCH = str(Path(sys.executable).with_name("stitch"))
HEADER = (
    "time_s,observation_point,source_address,destination_address,protocol,source_port,destination_port,packets,bytes,"
    "reverse_packets,reverse_bytes,duration_s,tcp_state,label,kind"
)
WITHOUT_SHRINKING = (Phase.explicit, Phase.generate)


def usual(count: int, seed: int) -> list[Flow]:
    """Calls of a web service and of a name service."""
    chance = random.Random(seed)
    flows = []
    for _ in range(count):
        client = f"10.1.0.{chance.randint(1, 60)}"
        if chance.random() < 0.7:
            packets = chance.randint(10, 40)
            size = chance.randint(150, 250)
            flows.append(Flow(client, "10.2.0.10", 443, packets, packets * size, packets, packets * 900))
        else:
            flows.append(
                Flow(client, "10.2.0.53", 53, 1, chance.randint(60, 90), 1, chance.randint(90, 200), protocol=17)
            )
    return flows


def table(flows: list[Flow], begin_s: float = 0.0) -> FlowColumns:
    seen = columns(flows)
    return replace(seen, time_s=begin_s + np.arange(len(flows), dtype=np.float64))


ATTACKS = [Flow(f"10.1.0.{each}", "10.2.0.10", 443, 60_000, 60_000 * 60, 0, 0) for each in range(1, 30)]


@pytest.fixture(scope="module")
def model() -> Model:
    return learned.trained([table(usual(1500, 1)), table(usual(1500, 2), 5_000)])


def test_attacks_are_more_unusual_than_all_that_is_usual_and_say_why(model: Model) -> None:
    later, attacks = table(usual(500, 3), 20_000), table(ATTACKS, 20_000)
    assert learned.scores(model, attacks).min() > np.quantile(learned.scores(model, later), 0.99)
    (why,) = learned.reasons(model, attacks, np.array([0]))
    assert "packets 6e+04 (usually " in why and "reverse_packets 0 (usually " in why and why.count(";") == 2


def test_without_sizes_it_scores_all_the_same(model: Model) -> None:
    def hidden(flows: FlowColumns) -> FlowColumns:
        nothing = np.full(len(flows), -1, dtype=np.int64)
        return replace(flows, bytes=nothing, reverse_bytes=nothing)

    blind = learned.trained([hidden(table(usual(1500, 1))), hidden(table(usual(1500, 2)))])
    later, attacks = hidden(table(usual(500, 3))), hidden(table(ATTACKS))
    assert learned.scores(blind, attacks).min() > np.quantile(learned.scores(blind, later), 0.99)


def test_of_what_is_usual_about_one_in_a_hundred_is_at_one_per_cent(model: Model) -> None:
    p = model.calibration.p(learned.scores(model, table(usual(4000, 4), 30_000)))
    assert (p <= 0.01).mean() <= 0.03
    assert (model.calibration.p(learned.scores(model, table(ATTACKS, 40_000))) <= 0.01).all()


def test_who_floods_what_is_learnt_from_is_one_voice_however_many_records_it_has() -> None:
    def poisoned(records: int) -> float:
        poison = [Flow("10.1.0.66", "10.2.0.10", 443, 60_000, 60_000 * 60, 0, 0)] * records
        density = learned.trained([table(usual(1500, 1) + poison)]).densities[6 * 1024 + 443]
        return float(density.unusual(flow_features(table(ATTACKS))[:1, :DENSITY])[0])

    assert poisoned(1500) == pytest.approx(poisoned(10), abs=0.1)


def test_equal_training_gives_equal_scores_row_by_row_or_all_at_once(model: Model) -> None:
    flows = table(usual(300, 5))
    again = learned.trained([table(usual(1500, 1)), table(usual(1500, 2), 5_000)])
    assert (learned.scores(again, flows) == learned.scores(model, flows)).all()
    single = [learned.single_scores(model, flows.take(np.array([row])))[0] for row in range(40)]
    assert single == pytest.approx(learned.single_scores(model, flows)[:40].tolist(), abs=0.02)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2000), st.floats(0, 10)), max_size=30))
def test_a_score_is_carried_on_as_one_record_after_the_other_would(rows: list[tuple[int, int, float]]) -> None:
    last: dict[int, tuple[float, float]] = {}
    expected = [0.0] * len(rows)
    for row in sorted(range(len(rows)), key=lambda each: rows[each][1]):
        conversation, at_s, single = rows[row]
        before_s, before = last.get(conversation, (-1e9, 0.0))
        follows = at_s - before_s <= learned.FORGOTTEN_S
        expected[row] = learned.CARRIED * before + (1 - learned.CARRIED) * single if follows else single
        last[conversation] = (at_s, expected[row])
    given_columns = (np.array([row[number] for row in rows]) for number in (2, 0, 1))
    single_scores, conversations, times = given_columns
    result = learned.carried(single_scores.astype(float), conversations.astype(np.int64), times.astype(float))
    assert result.tolist() == pytest.approx(expected)


def test_a_density_is_the_sum_over_all_records_where_they_are_few() -> None:
    chance = np.random.default_rng(3)
    values = np.round(chance.normal(3, 0.1, (100, 4)) / learned.WIDTH * 2) / 2 * learned.WIDTH
    asked = chance.normal(3, 0.2, (20, 4))
    weights = chance.random(100)
    expected = np.zeros(20)
    for width, part in learned._WIDTHS:
        distance = (((asked[:, None] - values[None]) / (learned.WIDTH * width)) ** 2).sum(axis=2)
        expected += part / width**4 * (np.exp(-distance / 2) @ (weights / weights.sum()))
    assert learned._learnt(values, weights).unusual(asked) == pytest.approx(-np.log(expected), abs=0.02)


def test_the_tail_of_a_known_distribution_is_found() -> None:
    scores = np.random.default_rng(1).exponential(2.0, 5000)
    tail = calibration.tail(scores)
    for p in (0.05, 0.01, 0.001, 1e-5):
        assert float(tail.p(np.array([-2 * np.log(p)]))[0]) == pytest.approx(p, rel=2.5 if p < 1e-3 else 0.35)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.floats(-50, 50), min_size=1, max_size=60), st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20))
def test_p_is_between_0_and_1_and_falls_with_the_score(training: list[float], asked: list[float]) -> None:
    p = calibration.calibrated([np.array(training)]).p(np.array(sorted(asked)))
    assert ((p > 0) & (p <= 1)).all() and (np.diff(p) <= 0.2).all()


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=30))
def test_figures_are_what_comparing_all_pairs_gives(rows: list[tuple[int, bool]]) -> None:
    scores, attack = np.array([row[0] for row in rows], dtype=float), np.array([row[1] for row in rows])
    of, others = scores[attack], scores[~attack]
    if len(of) and len(others):
        pairs = [(one > other) + (one == other) / 2 for one in of for other in others]
        assert evaluation.auroc(scores, attack) == pytest.approx(sum(pairs) / len(pairs))
        best = max((scores[attack] > limit).mean() for limit in [-1, *scores] if (others > limit).mean() <= 0.25)
        assert evaluation.found_at(scores, attack, 0.25) == pytest.approx(best)
    if attack.any():
        limits = sorted(set(scores.tolist()), reverse=True)
        area, before = 0.0, 0.0
        for limit in limits:
            recall, precision = (of >= limit).mean(), attack[scores >= limit].mean()
            area, before = area + (recall - before) * precision, recall
        assert evaluation.auprc(scores, attack) == pytest.approx(area)


def test_a_model_is_the_same_after_it_was_kept(model: Model) -> None:
    kept = persistence.loaded(persistence.dumped(model))
    flows = table(usual(200, 6) + ATTACKS)
    assert (learned.scores(kept, flows) == learned.scores(model, flows)).all()
    scores = learned.scores(model, flows)
    assert (kept.calibration.p(scores) == model.calibration.p(scores)).all()


def with_digest(body: bytes, version: int = persistence.VERSION) -> bytes:
    return b"netstitch-model %d %s\n" % (version, hashlib.sha256(body).hexdigest().encode()) + body


class Foreign:
    pass


def test_what_was_altered_or_is_of_another_version_or_kind_is_refused(model: Model) -> None:
    import skops.io

    data = bytearray(persistence.dumped(model))
    data[len(data) // 2] ^= 1
    body = persistence.dumped(model).partition(b"\n")[2]
    cases = {
        "altered": bytes(data),
        "of version 2": with_digest(body, 2),
        "no model": b"PK\x03\x04",
        "no model has: test_learned.Foreign": with_digest(skops.io.dumps({"all": Foreign()})),
        "cannot be read": with_digest(b"no archive"),
        "cannot be read: 'densities'": with_digest(skops.io.dumps({"all": 1})),
    }
    for said, case in cases.items():
        with pytest.raises(ModelRefused) as refused:
            persistence.loaded(case)
        assert said in str(refused.value)


numbers = st.one_of(
    st.floats().map(str), st.integers(-(2**70), 2**70).map(str), st.sampled_from(["", "nan", "-inf", "1e999"])
)


@settings(max_examples=25, deadline=None, phases=WITHOUT_SHRINKING)
@given(st.lists(st.tuples(*[numbers] * 9), max_size=6))
def test_whatever_numbers_a_file_has_scores_are_numbers(model: Model, rows: list[tuple[str, ...]]) -> None:
    from controller.assurance import flow_csv

    text = {name: [row[number] for row in rows] for number, name in enumerate(flow_csv.NUMBERS)}
    text |= {"source_address": ["10.0.0.1"] * len(rows), "destination_address": ["2001:db8::1"] * len(rows)}
    values = {name: [float(each or "nan") for each in text[name]] for name in flow_csv.NUMBERS}
    flows = flow_csv.flow_columns(text, values)
    scores = learned.scores(model, flows)
    assert np.isfinite(scores).all() and len(scores) == len(rows)
    assert len(learned.reasons(model, flows, np.arange(len(rows)))) == len(rows)


def written(path: Path, flows: list[Flow], label: int = 0, begin_s: float = 0.0) -> None:
    lines = [HEADER]
    for number, each in enumerate(flows):
        fields = (begin_s + number, "se1", each.source, each.destination, each.protocol, 40000, each.port, each.packets)
        more = (each.octets, each.back, each.octets_back, 1.0, "", label, "flood" if label else "benign")
        lines.append(",".join(map(str, (*fields, *more))))
    text = "\n".join(lines) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def stitch(*arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([STITCH, "detector", *map(str, arguments)], capture_output=True, text=True, check=False)


def test_stitch_detector_scores_files_and_keeps_what_it_has_learnt(tmp_path: Path) -> None:
    written(tmp_path / "a.csv.gz", usual(400, 1))
    written(tmp_path / "b.csv", usual(400, 2))
    written(tmp_path / "test.csv.gz", [*usual(100, 3), *ATTACKS[:5]])
    training = ("--train", tmp_path / "a.csv.gz", "--train", tmp_path / "b.csv")
    asked = ("--test", tmp_path / "test.csv.gz")
    answer = stitch("score", *training, *asked, "--out", tmp_path / "out.csv", "--save", tmp_path / "model")
    assert answer.returncode == 0, answer.stderr
    rows = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert list(rows[0]) == ["row", "score", "calibrated_p", "reasons"]
    assert [int(row["row"]) for row in rows] == list(range(105))
    assert all(float(row["calibrated_p"]) <= 0.02 and "packets 6e+04" in row["reasons"] for row in rows[100:])
    assert stitch("score", "--model", tmp_path / "model", *asked, "--out", tmp_path / "again.csv").returncode == 0
    assert (tmp_path / "again.csv").read_text() == (tmp_path / "out.csv").read_text()
    damaged = (tmp_path / "model").read_bytes()[:-40]
    (tmp_path / "model").write_bytes(damaged)
    answer = stitch("score", "--model", tmp_path / "model", *asked, "--out", tmp_path / "again.csv")
    assert answer.returncode == 2 and "altered" in answer.stderr


def test_what_cannot_be_scored_is_said(tmp_path: Path) -> None:
    written(tmp_path / "none.csv", [])
    written(tmp_path / "some.csv", usual(50, 1))
    (tmp_path / "bad.csv").write_text(HEADER + "\n1,se1,10.0.0.1,web,6,1,2,3,4,5,6,7,,0,\n")
    out = ("--out", tmp_path / "out.csv")
    cases = [
        (("--train", tmp_path / "none.csv", "--test", tmp_path / "some.csv"), "the training has no rows"),
        (
            ("--train", tmp_path / "some.csv", "--test", tmp_path / "bad.csv"),
            "bad.csv:2:1: 'web' does not",
        ),
        (("--test", tmp_path / "some.csv"), "either --train"),
        (("--train", tmp_path / "missing.csv", "--test", tmp_path / "some.csv"), "missing.csv: No such file"),
    ]
    for arguments, said in cases:
        answer = stitch("score", *arguments, *out)
        assert answer.returncode == 2 and said in answer.stderr, answer.stderr
    assert not (tmp_path / "out.csv").exists()
    empty = stitch("score", "--train", tmp_path / "some.csv", "--test", tmp_path / "none.csv", *out)
    assert empty.returncode == 0 and (tmp_path / "out.csv").read_text() == "row,score,calibrated_p,reasons\n"


def test_stitch_detector_evaluate_prints_figures_with_intervals_by_kind(tmp_path: Path) -> None:
    written(tmp_path / "train.csv", usual(600, 1))
    written(tmp_path / "test.csv", usual(200, 2), begin_s=1000)
    written(tmp_path / "attacks.csv", ATTACKS, label=1, begin_s=2000)
    mixed = (tmp_path / "test.csv").read_text() + (tmp_path / "attacks.csv").read_text().partition("\n")[2]
    (tmp_path / "test.csv").write_text(mixed)
    answer = stitch("evaluate", "--train", tmp_path / "train.csv", "--test", tmp_path / "test.csv")
    lines = {line[:36].strip(): line[36:].split() for line in answer.stdout.splitlines()[1:]}
    assert answer.stdout.startswith("229 rows, 29 of them attacks")
    assert float(lines["auroc"][0]) > 0.97 and float(lines["auroc flood"][0]) > 0.97
    assert {"auprc", "tpr_at_fpr_1_percent", "tpr_at_fpr_0.1_percent", "fpr_at_calibrated_1_percent"} <= set(lines)


def test_neither_stitch_nor_stitchd_imports_what_models_need_when_it_starts() -> None:
    for module in ("controller.cli.main", "controller.__main__", "controller.assurance.assess"):
        text = f"import sys, {module}; sys.exit(any(name in sys.modules for name in ('sklearn', 'scipy', 'skops')))"
        assert subprocess.run([sys.executable, "-c", text], check=False).returncode == 0, module
