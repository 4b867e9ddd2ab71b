"""Copies of the store, and the store that a copy becomes.

backup       the store as of one moment, as one SQLite file
restore      a copy is checked whole, laid beside the store as STORE.restore, and the controller starts again;
             at its start that takes the store's place, and the store that was there stays as STORE.before-restore
accept loss  the same with what can still be read of a damaged store
"""

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

from controller.errors import ControllerError
from controller.model.event import Record
from controller.store import Key, StoreUnusable, acknowledged, sqlite, tables
from controller.store.sqlite import SqliteStore
from controller.store.tables import Row

_BESIDE = ("-wal", "-shm", ".acknowledged", "")
"""The files of a store; the database last, so that a start that is killed before it goes on."""

Check = Callable[[Sequence[Record]], None]
"""Raises ControllerError or ValueError for records that this controller cannot begin with."""


class Backups:
    def __init__(self, store: SqliteStore, path: Path, check: Check) -> None:
        self._store = store
        self._path = path.resolve()
        self._check = check
        self.waiting = asyncio.Event()
        """For the controller to start again."""

    async def take(self) -> bytes:
        return await self._store.copied()

    async def put_back(self, copy: bytes) -> str:
        """Why it is refused; empty: the controller is about to start again with it."""
        try:
            await asyncio.to_thread(_lay_beside, self._path, copy, self._check)
        except (ControllerError, ValueError, OSError, *tables.FAULTS) as error:
            return f"this is no backup that can be put back: {error}"
        self.waiting.set()
        return ""


def put_in_place(path: Path) -> Path | None:
    """What was laid beside the store becomes the store. Returns where the one before went; None: nothing was there.

    The controller may be killed at any point of it: the next start goes on. Raises StoreUnusable.
    """
    path = path.resolve()
    laid, before = _laid(path), path.with_name(f"{path.name}.before-restore")
    if not laid.exists():
        return None
    lock = sqlite.take_lock(path)
    try:
        for end in _BESIDE:
            if Path(f"{path}{end}").exists() and (end or path.stat().st_size):  # the lock makes an empty one
                os.replace(f"{path}{end}", f"{before}{end}")
        os.replace(laid, path)
    finally:
        os.close(lock)
    return before


def accept_loss(path: Path) -> list[str]:
    """Lays what can be read of a store beside it, for `put_in_place`. Returns what is lost, in words. Raises
    StoreUnusable."""
    path = path.resolve()
    lock = sqlite.take_lock(path)
    try:
        lines = acknowledged.read(path) or []
        rows: dict[Key, Row] = {}
        revision, lost = 0, []
        try:
            with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
                rows, altered = tables.whole_rows(database)
                lost += [f"altered: {name}" for name in altered]
                revision = max([row[4] for row in rows.values()], default=0)
                head = tables.read_head(path, database)
                revision = max(revision, head.revision)
                if not altered and not tables.is_sum(head, rows.values()):
                    lost.append("gone: records of which no name is left")
                tables.schema(path, database)
        except (StoreUnusable, *tables.FAULTS) as error:
            lost.append(str(error))
        if not rows and not lines:
            raise StoreUnusable(f"{path} has nothing of a store of netstitch in it")
        if lines and lines[-1].revision > revision:
            lost.append(f"missing: {acknowledged.missing(lines, revision)}")
            revision = lines[-1].revision
        if lost:
            _lay(path, list(rows.values()), revision)
    finally:
        os.close(lock)
    return lost


def _laid(path: Path) -> Path:
    return path.with_name(f"{path.name}.restore")


def _lay_beside(path: Path, copy: bytes, check: Check) -> None:
    draft = path.with_name(f"{path.name}.copy")
    draft.unlink(missing_ok=True)
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(copy)
        with contextlib.closing(sqlite3.connect(draft, isolation_level=None)) as database:
            rows, revision = _read(database)
        check([Record(kind=row[0], name=row[1], content=row[2]) for row in rows])
        _lay(path, rows, revision)
    finally:
        for end in _BESIDE:
            Path(f"{draft}{end}").unlink(missing_ok=True)


def _lay(path: Path, rows: Sequence[Row], revision: int) -> None:
    """A store of these records, as the one that is to take the place of `path`. Nothing beside it says what it has
    acknowledged, so it will begin anew."""
    draft = path.with_name(f"{path.name}.draft")
    draft.unlink(missing_ok=True)
    try:
        os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        with contextlib.closing(sqlite3.connect(draft, isolation_level=None)) as database:
            database.execute("PRAGMA synchronous = FULL")
            database.execute("BEGIN")
            tables.make(database, rows, revision)
            database.execute("COMMIT")
        os.replace(draft, _laid(path))
    finally:
        draft.unlink(missing_ok=True)


def _read(database: sqlite3.Connection) -> tuple[list[Row], int]:
    """Records and revision of a copy. Raises StoreUnusable or one of tables.FAULTS."""
    copy = Path("it")
    version = tables.schema(copy, database)
    if version == 0:
        raise StoreUnusable("it is no store of netstitch")
    if version < tables.SCHEMA_VERSION:
        database.execute("BEGIN")
        tables.upgrade(database)
        database.execute("COMMIT")
    (verdict,) = database.execute("PRAGMA integrity_check(1)").fetchone()
    if verdict != "ok":
        raise StoreUnusable(f"it is damaged: {verdict}")
    rows = [
        (record.record.kind, record.record.name, record.record.content or b"", record.version, record.revision)
        for record in tables.read_records(copy, database)
    ]
    return rows, tables.read_head(copy, database).revision
