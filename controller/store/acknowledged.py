"""What a store has acknowledged, beside it: by it a start sees what the store has lost, and says what that was.

`STORE.acknowledged` has a line for each commit, written after the commit and before its acknowledgement:

    CRC REVISION DIGEST [["Intent", "web"], ...]

It is as large from its first moment on as it ever gets, so that no full disk keeps a line from being written. It has
two halves: when one is full, the other is begun anew.
"""

import os
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

import msgspec

from controller import durable_file
from controller.store import Key, StoreUnusable

HALF_BYTES = 512 * 1024
NAMES_MAX = 200
"""Of one commit; of the rest the number is kept."""
NAMES_SHOWN = 20


class Line(msgspec.Struct, frozen=True, array_like=True):
    """One commit."""

    revision: int
    digest: str
    """Of the whole store after it (sqlite.Head)."""
    names: tuple[Key, ...] = ()
    """What it changed."""
    more: int = 0
    """How many besides."""


class Acknowledged:
    def __init__(self, file: int, half: int, used: int) -> None:
        self._file = file
        self._half, self._used = half, used

    @classmethod
    def open(cls, store: Path, newest: Line) -> Self:
        """`newest`: what the store has now; the file is made where there is none. Raises OSError."""
        path = beside(store)
        if not path.exists():
            durable_file.write(path, _encoded(newest).ljust(2 * HALF_BYTES, b"\0"))
        halves = _halves(path)
        revisions = [max((line.revision for line in _lines(half)), default=-1) for half in halves]
        current = revisions.index(max(revisions))
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        opened = cls(file, current, len(halves[current].rstrip(b"\0")))
        if max(revisions) < newest.revision:  # killed between the commit and its line
            opened.append((newest,))
        return opened

    def append(self, lines: Sequence[Line]) -> None:
        """Durable on return. Raises OSError."""
        data = b"".join(map(_encoded, lines))
        if len(data) > HALF_BYTES:
            data = _encoded(lines[-1])
        written = data
        if self._used + len(data) > HALF_BYTES:
            self._half, self._used = 1 - self._half, 0
            written = data.ljust(HALF_BYTES, b"\0")
        os.pwrite(self._file, written, self._half * HALF_BYTES + self._used)
        os.fdatasync(self._file)
        self._used += len(data)

    def close(self) -> None:
        os.close(self._file)


def beside(store: Path) -> Path:
    return store.with_name(f"{store.name}.acknowledged")


def line(revision: int, digest: str, names: Iterable[Key]) -> Line:
    """Of a commit."""
    ordered = _in_order(names)
    return Line(revision, digest, tuple(ordered[:NAMES_MAX]), max(len(ordered) - NAMES_MAX, 0))


def read(store: Path) -> list[Line] | None:
    """By revision, oldest first; None: there is no such file. Lines that are damaged are left out. Raises OSError."""
    path = beside(store)
    if not path.exists():
        return None
    lines = {line.revision: line for half in _halves(path) for line in _lines(half)}
    return [lines[revision] for revision in sorted(lines)]


def missing(lines: Iterable[Line], revision: int) -> str:
    """What came after `revision`, in words."""
    gone = [line for line in lines if line.revision > revision]
    names = [f"{kind} {name}" for kind, name in _in_order(key for line in gone for key in line.names)]
    unnamed = sum(line.more for line in gone) + max(len(names) - NAMES_SHOWN, 0)
    shown = ", ".join(names[:NAMES_SHOWN]) + (f" and {unnamed} more" if unnamed else "")
    return f"revisions {revision + 1} to {max(line.revision for line in gone)} ({shown})"


def _in_order(names: Iterable[Key]) -> list[Key]:
    """Each once; intents first, since who reads it looks for these."""
    return sorted(set(names), key=lambda key: (key[0] != "Intent", key))


def check(store: Path, revision: int, digest: str) -> None:
    """Raises StoreUnusable where the store has less than was acknowledged, or something else."""
    lines = read(store) or []
    if not lines:
        return
    if revision < lines[-1].revision:
        raise StoreUnusable(
            f"{store} has less than was acknowledged: it is as of revision {revision}. Missing are "
            f"{missing(lines, revision)}"
        )
    same = next((line for line in lines if line.revision == revision), None)
    if same is not None and same.digest != digest:
        raise StoreUnusable(f"{store} is not what was acknowledged as revision {revision}: records are gone or others")


def _halves(path: Path) -> tuple[bytes, bytes]:
    """However large the file is."""
    with path.open("rb") as file:
        first, second = (file.read(HALF_BYTES).ljust(HALF_BYTES, b"\0") for _ in range(2))
    return first, second


def _encoded(line: Line) -> bytes:
    data = msgspec.json.encode(line)
    return b"%08x %s\n" % (zlib.crc32(data), data)


def _lines(half: bytes) -> Iterable[Line]:
    for text in half.split(b"\n"):
        crc, _, data = text.partition(b" ")
        if crc == b"%08x" % zlib.crc32(data):
            try:
                yield _DECODER.decode(data)
            except msgspec.MsgspecError:
                continue


_DECODER: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)
