"""The store in one SQLite file: write-ahead log, synchronous=FULL, one writer thread that commits in groups.

Whatever commits wait while the disk is busy become one transaction with one fsync. A conflict is found before its
commit has written anything, so it does not touch the others. Every change is also in a bounded log for watchers.
"""

import asyncio
import contextlib
import fcntl
import os
import queue
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from controller.model.event import Record
from controller.store import Change, Conflict, Key, RevisionGone, Stored, StoreUnusable

SCHEMA_VERSION = 1
APPLICATION_ID = 0x6E737469  # "nsti"
LOG_LENGTH = 100_000
"""Changes kept for watchers; those of the newest commit stay in any case."""
_GROUP_LENGTH = 1_000
_WATCH_READ = 1_000
_SCHEMA = (
    "CREATE TABLE record (kind TEXT NOT NULL, name TEXT NOT NULL, content BLOB NOT NULL, version INTEGER NOT NULL,"
    " revision INTEGER NOT NULL, PRIMARY KEY (kind, name)) STRICT, WITHOUT ROWID",
    "CREATE TABLE change (serial INTEGER PRIMARY KEY, revision INTEGER NOT NULL, kind TEXT NOT NULL,"
    " name TEXT NOT NULL, content BLOB, version INTEGER NOT NULL) STRICT",
    "CREATE INDEX change_revision ON change (revision)",
    "CREATE TABLE counter (one INTEGER PRIMARY KEY CHECK (one = 1), revision INTEGER NOT NULL,"
    " forgotten INTEGER NOT NULL) STRICT",
    "INSERT INTO counter VALUES (1, 0, 0)",
)
"""`forgotten`: the newest revision that is not (wholly) in `change` any more."""


@dataclass(frozen=True, slots=True)
class _Job:
    records: tuple[Record, ...]
    expected: Mapping[Key, int]
    done: "asyncio.Future[int]"


class SqliteStore:
    """A `Store`. Made by `open`; all methods belong to the event loop that opened it."""

    def __init__(self, path: Path, lock: int, writer: sqlite3.Connection, reader: sqlite3.Connection) -> None:
        self._path = path
        self._lock = lock
        self._writer, self._reader = writer, reader
        self._reading = threading.Lock()
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._committed = asyncio.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._write_until_closed, name=f"store {path.name}", daemon=True)
        self._thread.start()

    @classmethod
    async def open(cls, path: str | os.PathLike[str]) -> Self:
        """Opens the file, or makes it (mode 0600). Raises StoreUnusable."""
        return cls(Path(path), *await asyncio.to_thread(_open, Path(path)))

    async def load(self) -> tuple[tuple[Stored, ...], int]:
        return await asyncio.to_thread(self._load)

    async def commit(self, records: Sequence[Record], expected: Mapping[Key, int] | None = None) -> int:
        if self._closed:
            raise StoreUnusable(f"{self._path} was closed; nothing more can be written")
        done: asyncio.Future[int] = self._loop.create_future()
        self._jobs.put(_Job(tuple(records), dict(expected or {}), done))
        return await done

    async def watch(self, after: int) -> AsyncIterator[Change]:
        while True:
            committed = self._committed
            changes = await asyncio.to_thread(self._changes, after)
            for change in changes:
                yield change
            if changes:
                after = changes[-1].revision
            elif self._closed:
                return
            else:
                await committed.wait()

    async def copied(self) -> bytes:
        """A database with everything as of one moment. Raises StoreUnusable."""
        return await asyncio.to_thread(self._copied)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)
        with self._reading:
            self._reader.close()
        self._writer.close()
        os.close(self._lock)
        self._announce()

    # ---- on threads of the loop's executor

    def _copied(self) -> bytes:
        with self._reading, contextlib.closing(sqlite3.connect(":memory:")) as copy:
            try:
                self._reader.backup(copy)
                copy.execute("PRAGMA journal_mode = DELETE")
                return copy.serialize()
            except sqlite3.Error as error:
                raise StoreUnusable(f"{self._path} cannot be copied: {error}") from error

    def _load(self) -> tuple[tuple[Stored, ...], int]:
        with self._read() as reader:
            rows = reader.execute("SELECT kind, name, content, version, revision FROM record ORDER BY kind, name")
            records = tuple(
                Stored(record=Record(kind=kind, name=name, content=content), version=version, revision=revision)
                for kind, name, content, version, revision in rows
            )
            (revision,) = reader.execute("SELECT revision FROM counter").fetchone()
        return records, revision

    def _changes(self, after: int) -> list[Change]:
        """Whole revisions, at least one if there is one."""
        if self._closed:
            return []
        with self._read() as reader:
            (forgotten,) = reader.execute("SELECT forgotten FROM counter").fetchone()
            if after < forgotten:
                raise RevisionGone(
                    f"{self._path} keeps changes from revision {forgotten + 1} on, not from {after + 1}: load it again"
                )
            rows = reader.execute(
                "SELECT revision, kind, name, content, version FROM change WHERE revision > ?1 AND revision <="
                " coalesce((SELECT revision FROM change WHERE revision > ?1 ORDER BY serial LIMIT 1 OFFSET ?2),"
                " (SELECT revision FROM counter)) ORDER BY serial",
                (after, _WATCH_READ),
            )
            return [
                Change(record=Record(kind=kind, name=name, content=content), version=version, revision=revision)
                for revision, kind, name, content, version in rows
            ]

    @contextlib.contextmanager
    def _read(self) -> Iterator[sqlite3.Connection]:
        """A snapshot: all of its reads see the same moment."""
        with self._reading:
            try:
                self._reader.execute("BEGIN")
                try:
                    yield self._reader
                finally:
                    self._reader.execute("COMMIT")
            except sqlite3.Error as error:
                raise StoreUnusable(f"{self._path} cannot be read: {error}") from error

    # ---- on the writer thread

    def _write_until_closed(self) -> None:
        closing = False
        while not closing:
            group: list[_Job] = []
            job = self._jobs.get()
            while job is not None:
                group.append(job)
                if len(group) == _GROUP_LENGTH:
                    break
                try:
                    job = self._jobs.get_nowait()
                except queue.Empty:
                    break
            closing = job is None
            if group:
                self._write_group(group)

    def _write_group(self, group: list[_Job]) -> None:
        answers: list[Callable[[], None]] = []
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            answers.extend(map(self._write_job, group))
            self._writer.execute("COMMIT")
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):  # SQLite may have rolled back by itself
                self._writer.execute("ROLLBACK")
            refusal = StoreUnusable(f"{self._path} cannot be written: {error}; nothing of this commit is stored")
            refusal.__cause__ = error
            answers = [_refuse(job, refusal) for job in group]
        with contextlib.suppress(RuntimeError):  # the loop is gone, and with it those who wait
            self._loop.call_soon_threadsafe(self._answer, answers)

    def _write_job(self, job: _Job) -> Callable[[], None]:
        """The job's part of the transaction, and what is to be answered once that is durable."""
        for key, expected in job.expected.items():
            if (found := self._version(key)) != expected:
                return _refuse(job, Conflict(key, expected, found))
        (revision,) = self._writer.execute("UPDATE counter SET revision = revision + 1 RETURNING revision").fetchone()
        for record in job.records:
            version = 0
            if record.content is None:
                self._writer.execute("DELETE FROM record WHERE kind = ? AND name = ?", (record.kind, record.name))
            else:
                version = self._version((record.kind, record.name)) + 1
                row = (record.kind, record.name, record.content, version, revision)
                self._writer.execute("INSERT OR REPLACE INTO record VALUES (?, ?, ?, ?, ?)", row)
            self._writer.execute(
                "INSERT INTO change (revision, kind, name, content, version) VALUES (?, ?, ?, ?, ?)",
                (revision, record.kind, record.name, record.content, version),
            )
        self._forget(revision)
        return lambda: _settle(job, revision)

    def _version(self, key: Key) -> int:
        row = self._writer.execute("SELECT version FROM record WHERE kind = ? AND name = ?", key).fetchone()
        return row[0] if row else 0

    def _forget(self, newest: int) -> None:
        """Keeps the log at LOG_LENGTH changes, cut between revisions."""
        self._writer.execute(
            "UPDATE counter SET forgotten = max(forgotten, coalesce((SELECT min(revision, ?1 - 1) FROM change"
            " WHERE serial = (SELECT max(serial) FROM change) - ?2), 0))",
            (newest, LOG_LENGTH),
        )
        self._writer.execute("DELETE FROM change WHERE revision <= (SELECT forgotten FROM counter)")

    # ---- on the loop again

    def _answer(self, answers: list[Callable[[], None]]) -> None:
        for answer in answers:
            answer()
        self._announce()

    def _announce(self) -> None:
        committed, self._committed = self._committed, asyncio.Event()
        committed.set()


def _settle(job: _Job, revision: int) -> None:
    if not job.done.done():  # the caller may have been cancelled
        job.done.set_result(revision)


def _refuse(job: _Job, error: Exception) -> Callable[[], None]:
    def refuse() -> None:
        if not job.done.done():
            job.done.set_exception(error)

    return refuse


def _open(path: Path) -> tuple[int, sqlite3.Connection, sqlite3.Connection]:
    """The lock's file descriptor, the writer's and the reader's connection."""
    lock = _take_lock(path)
    try:
        writer = _connect(path)
        _prepare(path, writer)
        return lock, writer, _connect(path)
    except sqlite3.Error as error:
        os.close(lock)
        raise StoreUnusable(
            f"{path} cannot be used as a store: {error}; move it away, or put back a copy that is whole"
        ) from error
    except BaseException:
        os.close(lock)
        raise


def _take_lock(path: Path) -> int:
    """Two controllers on one file would both believe that they are the domain."""
    try:
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StoreUnusable(f"{path} cannot be opened: {error.strerror}") from error
    try:
        os.fsync(directory)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise StoreUnusable(f"{path} is in use by another controller; end that one first") from error
    finally:
        os.close(directory)
    return lock


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def _prepare(path: Path, writer: sqlite3.Connection) -> None:
    (version,) = writer.execute("PRAGMA user_version").fetchone()
    (application,) = writer.execute("PRAGMA application_id").fetchone()
    (tables,) = writer.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if (version, application, tables) == (0, 0, 0):
        writer.execute("BEGIN IMMEDIATE")
        for statement in _SCHEMA:
            writer.execute(statement)
        writer.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        writer.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        writer.execute("COMMIT")
    elif application != APPLICATION_ID:
        raise StoreUnusable(f"{path} is a SQLite file of another program; give the store a path of its own")
    elif version != SCHEMA_VERSION:
        raise StoreUnusable(
            f"{path} has schema {version}, this netstitch reads {SCHEMA_VERSION}: use the netstitch that wrote it"
        )
    (verdict,) = writer.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise StoreUnusable(f"{path} is damaged ({verdict}); put back a copy that is whole")
