"""Where a path's delay changes, online; and `stitch detector changepoints`."""

import csv
import gzip
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from controller.assurance import change_points as module
from controller.assurance.change_points import change_points, peaks

STITCH = str(Path(sys.executable).with_name("stitch"))
AFTER_AT_MOST = 6
anything = st.lists(
    st.one_of(
        st.floats(width=32), st.just(float("nan")), st.sampled_from([0.0, -5.0, 1e-300, 1e300, 20.0, 20.1, 35.0])
    ),
    max_size=120,
)


def trace(*levels: tuple[int, float, float], seed: int = 1) -> NDArray[np.float64]:
    """Pieces of so many points at a level in ms, with noise."""
    chance = np.random.default_rng(seed)
    return np.concatenate([level + chance.normal(0, noise, points) for points, level, noise in levels])


def test_a_step_is_told_where_it_is_and_which_way_it_goes() -> None:
    found = change_points(trace((300, 50, 0.2), (300, 65, 0.2), (300, 50, 0.2)))
    assert [(change.at, change.kind) for change in found] == [(300, "higher"), (600, "lower")]


def test_a_spread_that_grows_is_told_though_the_level_stays() -> None:
    found = change_points(trace((300, 50, 0.05), (100, 60, 8)))
    assert found and 298 <= found[0].at <= 306


def test_what_is_steady_is_left_alone() -> None:
    for seed in range(5):
        assert len(change_points(trace((5000, 80, 0.3), seed=seed))) <= 1


def test_lost_points_are_no_change_and_a_run_of_them_is_a_loss() -> None:
    rtt = trace((400, 50, 0.2))
    rtt[[50, 90, 91, 200]] = np.nan
    assert change_points(rtt) == ()
    rtt[300:320] = np.nan
    assert [(change.at, change.kind) for change in change_points(rtt)] == [(300, "loss")]


@settings(max_examples=60, deadline=None)
@given(anything, st.integers(0, 120))
def test_whatever_comes_what_is_told_depends_on_six_points_after_it_at_most(values: list[float], cut: int) -> None:
    rtt = np.array(values, dtype=np.float64)
    begun = rtt[: cut + 1]
    settled = len(begun) - 1 - AFTER_AT_MOST
    of_all = [change for change in change_points(rtt) if change.at <= settled]
    assert [change for change in change_points(begun) if change.at <= settled] == of_all
    assert all(np.isfinite(change.score) for change in of_all)


@given(st.lists(st.integers(0, 5), max_size=40))
def test_peaks_are_those_that_a_reader_would_find_one_by_one(scores: list[int]) -> None:
    expected: list[int] = []
    for at, score in enumerate(scores):
        later = scores[at + 1 : at + 4]
        if score >= 2 and all(score >= other for other in later) and all(at - told > 6 for told in expected):
            expected.append(at)
    assert list(peaks(np.array(scores, dtype=np.float64), 2.0)) == expected


def test_there_is_a_coefficient_for_each_feature() -> None:
    assert module.features(np.zeros(10)).shape == (10, len(module.WEIGHTS.coefficients))


@pytest.mark.parametrize("suffix", ["csv", "csv.gz"])
def test_stitch_detector_changepoints_reads_and_writes_files(tmp_path: Path, suffix: str) -> None:
    source, out = tmp_path / f"rtt.{suffix}", tmp_path / f"changes.{suffix}"
    rtt = trace((200, 50, 0.2), (100, 70, 0.2))
    text = "time_s,rtt_ms\n" + "".join(
        f"{at * 240},{'' if at == 20 else round(float(value), 3)}\n" for at, value in enumerate(rtt)
    )
    source.write_bytes(gzip.compress(text.encode()) if suffix.endswith("gz") else text.encode())
    subprocess.run([STITCH, "detector", "changepoints", "--in", source, "--out", out], check=True)
    written = gzip.decompress(out.read_bytes()).decode() if suffix.endswith("gz") else out.read_text()
    header, *rows = csv.reader(written.splitlines())
    assert header == ["time_s", "score", "kind"]
    assert [(row[0], row[2]) for row in rows] == [("48000", "higher")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no column time_s, rtt_ms"),
        ("time_s,delay\n", "no column rtt_ms"),
        ("time_s,rtt_ms\n0,fast\n", ":2:1: rtt_ms is 'fast', which is no number"),
        ("time_s,rtt_ms\n0\n", ":2:1: 1 fields where the header has 2"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    source, out = tmp_path / "rtt.csv", tmp_path / "changes.csv"
    source.write_text(text)
    out.write_text("what was there")
    command = [STITCH, "detector", "changepoints", "--in", source, "--out", out]
    answer = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"})
    assert answer.returncode == 2 and said in answer.stderr
    assert out.read_text() == "what was there"


def test_nothing_in_is_nothing_out(tmp_path: Path) -> None:
    source, out = tmp_path / "rtt.csv", tmp_path / "changes.csv"
    source.write_text("time_s,rtt_ms\n0,\n240,nan\n480,-1\n")
    subprocess.run([STITCH, "detector", "changepoints", "--in", source, "--out", out], check=True)
    assert out.read_text() in ("time_s,score,kind\n", "time_s,score,kind\n0,0.0000,loss\n")
