"""Copies of the store, and the store that a copy becomes.

backup   the store as of one moment, as one SQLite file
restore  a copy is checked whole, laid beside the store as STORE.restore, and the controller starts again;
         at its start that takes the store's place, and the store that was there stays as STORE.before-restore
"""

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

from controller.errors import ControllerError
from controller.model.event import PUT_BACK, Record
from controller.store import StoreUnusable
from controller.store.sqlite import APPLICATION_ID, SCHEMA_VERSION, SqliteStore

RESERVE = 100_000
"""Numbers of plans and agreements that a copy does not know of and that others may remember are not given out again."""
_BESIDE = ("", "-wal", "-shm")
"""The files of a SQLite database in WAL mode."""

Check = Callable[[Sequence[Record]], None]
"""Raises ControllerError or ValueError for records that this controller cannot begin with."""


class Backups:
    def __init__(self, store: SqliteStore, path: Path, check: Check) -> None:
        self._store = store
        self._path = path
        self._check = check
        self.waiting = asyncio.Event()
        """For the controller to start again."""

    async def take(self) -> bytes:
        return await self._store.copied()

    async def put_back(self, copy: bytes) -> str:
        """Why it is refused; empty: the controller is about to start again with it."""
        try:
            await asyncio.to_thread(_lay_beside, self._path, copy, self._check)
        except (ControllerError, ValueError, sqlite3.Error, OSError) as error:
            return f"this is no backup that can be put back: {error}"
        self.waiting.set()
        return ""


def put_in_place(path: Path) -> Path | None:
    """What was laid beside the store becomes the store. Returns where the one before went; None: nothing was there.

    The controller may be killed at any point of it: the next start goes on.
    """
    laid, before = _laid(path), path.with_name(f"{path.name}.before-restore")
    if not laid.exists():
        return None
    for end in _BESIDE:
        if Path(f"{path}{end}").exists():
            os.replace(f"{path}{end}", f"{before}{end}")
    os.replace(laid, path)
    return before


def _laid(path: Path) -> Path:
    return path.with_name(f"{path.name}.restore")


def _lay_beside(path: Path, copy: bytes, check: Check) -> None:
    draft = path.with_name(f"{path.name}.draft")
    draft.unlink(missing_ok=True)
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(copy)
        with contextlib.closing(sqlite3.connect(draft, isolation_level=None)) as database:
            check(_records(database))
            database.execute("PRAGMA journal_mode = DELETE")
            database.execute("PRAGMA synchronous = FULL")
            database.execute(
                "UPDATE record SET content = CAST(CAST(content AS TEXT) + ? AS BLOB) WHERE kind = 'Counter'"
                " AND name IN ('serial', 'start', 'owner')",
                (RESERVE,),
            )
            database.execute("INSERT OR REPLACE INTO record VALUES ('Counter', ?, ?, 1, 1)", (PUT_BACK, b"1"))
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(draft, _laid(path))
    finally:
        draft.unlink(missing_ok=True)


def _records(database: sqlite3.Connection) -> list[Record]:
    """Raises StoreUnusable or sqlite3.Error."""
    (application,) = database.execute("PRAGMA application_id").fetchone()
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION_ID:
        raise StoreUnusable("it is no store of netstitch")
    if version != SCHEMA_VERSION:
        raise StoreUnusable(f"it has schema {version}, this netstitch reads {SCHEMA_VERSION}")
    (verdict,) = database.execute("PRAGMA integrity_check(1)").fetchone()
    if verdict != "ok":
        raise StoreUnusable(f"it is damaged: {verdict}")
    rows = database.execute("SELECT kind, name, content FROM record ORDER BY kind, name")
    return [Record(kind=kind, name=name, content=content) for kind, name, content in rows]
