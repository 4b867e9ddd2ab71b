"""dataplane.private_directory: what a killed controller leaves in /tmp goes at the next start, and nothing else."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from dataplane.private_directory import PrivateDirectory

PREFIX = "stitchd-here-"
MAKES_ONE = f"""
import sys
from dataplane.private_directory import PrivateDirectory
made = PrivateDirectory({PREFIX!r})
(made.path / "socket").touch()
print(made.path, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def another(directory: Path) -> tuple["subprocess.Popen[str]", Path]:
    """A process that has one, made an hour ago."""
    process = subprocess.Popen(
        (sys.executable, "-c", MAKES_ONE),
        env={**os.environ, "TMPDIR": str(directory)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    path = Path(process.stdout.readline().strip())
    assert path.parent == directory
    aged(path)
    return process, path


def aged(path: Path) -> None:
    an_hour_ago = path.stat().st_mtime - 3600
    os.utime(path, (an_hour_ago, an_hour_ago))


def test_what_a_killed_process_leaves_goes_when_the_next_one_starts(directory: Path) -> None:
    process, left = another(directory)
    with process:
        PrivateDirectory(PREFIX).remove()
        assert left.exists(), "it is in use"
        process.send_signal(signal.SIGKILL)
        process.wait()
        made = PrivateDirectory(PREFIX)
        assert list(directory.iterdir()) == [made.path]
        made.remove()
        assert not list(directory.iterdir())


def test_what_is_not_left_behind_stays(directory: Path) -> None:
    """A directory that is just being made, one of another prefix, a file, a link to somewhere else."""
    kept = [
        directory / name for name in (f"{PREFIX}new", "stitchd-other", f"{PREFIX}file", f"{PREFIX}link", "precious")
    ]
    kept[0].mkdir()
    kept[1].mkdir()
    kept[2].touch()
    kept[4].mkdir()
    kept[3].symlink_to(kept[4])
    for path in (kept[1], kept[2], kept[4]):
        aged(path)
    made = PrivateDirectory(PREFIX)
    assert made.path.stat().st_mode & 0o777 == 0o700
    assert sorted(directory.iterdir()) == sorted([*kept, made.path])
    made.remove()
