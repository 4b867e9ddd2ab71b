"""The store in one SQLite file: write-ahead log, synchronous=FULL, one writer thread that commits in groups.

Whatever commits wait while the disk is busy become one transaction with one fsync, and one more for what says beside
the store that it is acknowledged. A conflict is found before its commit has written anything, so it does not touch the
others. Every change is also in a bounded log for watchers.

A start reads the whole store before it writes anything: what is damaged, or has less than was acknowledged, is refused
as it is.
"""

import asyncio
import contextlib
import dataclasses
import errno
import fcntl
import os
import queue
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

from controller.errors import NoSpace
from controller.model.event import Record
from controller.store import Change, Conflict, Key, RevisionGone, Stored, StoreUnusable, acknowledged, tables
from controller.store.acknowledged import Acknowledged, Line
from controller.store.tables import Head

LOG_LENGTH = 100_000
LOG_BYTES = 4_000_000
"""Changes kept for watchers, and their content. Of a commit that has more content none is kept: who watches loads
again; else those of the newest stay in any case."""
WAL_BYTES = 4_000_000
"""What the write-ahead log keeps of the disk when it begins anew."""
FREE_PAGES = 256
_SHRINK_PAGES = 4096
"""From so many pages that are free on, the file gives them back, at most so many with one commit."""
_GROUP_LENGTH = 1_000
_WATCH_READ = 1_000


@dataclass(frozen=True, slots=True)
class _Job:
    records: tuple[Record, ...]
    expected: Mapping[Key, int]
    done: "asyncio.Future[int]"


class SqliteStore:
    """A `Store`. Made by `open`; all methods belong to the event loop that opened it."""

    def __init__(self, path: Path, opened: "_Opened") -> None:
        self._path = path
        self._lock = opened.lock
        self._writer, self._reader = opened.writer, opened.reader
        self._head, self._acknowledged = opened.head, opened.acknowledged
        self.put_back = opened.put_back
        """It is a copy: nothing beside it says what it has acknowledged."""
        self._reading = threading.Lock()
        self._loop = asyncio.get_running_loop()
        self._log_bytes = _log_bytes(opened.writer)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._committed = asyncio.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._write_until_closed, name=f"store {path.name}", daemon=True)
        self._thread.start()

    @classmethod
    async def open(cls, path: str | os.PathLike[str]) -> Self:
        """Opens the file, or makes it (mode 0600). Raises StoreUnusable."""
        # what is beside it is beside the file itself, whatever name it has here
        real = await asyncio.to_thread(Path(path).resolve)
        return cls(real, await asyncio.to_thread(_open, real))

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
        self._acknowledged.close()
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
            records = tuple(tables.read_records(self._path, reader))
            revision = tables.read_head(self._path, reader).revision
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
            except tables.FAULTS as error:
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
        head, lines = dataclasses.replace(self._head), list[Line]()
        refusal: StoreUnusable | NoSpace | None = None
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            answers.extend([self._write_job(job, head, lines) for job in group])
            self._forget(head)
            tables.write_head(self._writer, head)
            self._writer.execute("COMMIT")
            self._head = head
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):  # SQLite may have rolled back by itself
                self._writer.execute("ROLLBACK")
            refusal = _fault(self._path, error)
            refusal.__cause__ = error
        if refusal is None and lines:
            try:
                self._acknowledged.append(lines)
            except OSError as error:
                where = acknowledged.beside(self._path)
                refusal = StoreUnusable(f"{where} cannot be written: {error}; whether this is stored, a start will say")
        if refusal is not None:
            answers = [_refuse(job, refusal) for job in group]
            with contextlib.suppress(sqlite3.Error):
                self._log_bytes = _log_bytes(self._writer)
        else:
            with contextlib.suppress(sqlite3.Error):  # what is stored is stored
                self._shrink()
        with contextlib.suppress(RuntimeError):  # the loop is gone, and with it those who wait
            self._loop.call_soon_threadsafe(self._answer, answers)

    def _write_job(self, job: _Job, head: Head, lines: list[Line]) -> Callable[[], None]:
        """The job's part of the transaction, and what is to be answered once that is durable."""
        for key, expected in job.expected.items():
            if (present := self._held(key)[0]) != expected:
                return _refuse(job, Conflict(key, expected, present))
        head.revision += 1
        size = sum(len(record.content or b"") for record in job.records)
        is_logged = size <= LOG_BYTES
        for record in job.records:
            stored_version, before = self._held((record.kind, record.name))
            version = 0 if record.content is None else stored_version + 1
            if record.content is None:
                self._writer.execute("DELETE FROM record WHERE kind = ? AND name = ?", (record.kind, record.name))
                head.replace(before, b"")
            else:
                row = (record.kind, record.name, record.content, version, head.revision)
                tables.put(self._writer, head, row, before)
            if is_logged:
                self._writer.execute(
                    "INSERT INTO change (revision, kind, name, content, version) VALUES (?, ?, ?, ?, ?)",
                    (head.revision, record.kind, record.name, record.content, version),
                )
        if is_logged:
            self._log_bytes += size
        else:  # it would be forgotten with the next commit
            self._writer.execute("DELETE FROM change")
            head.forgotten, self._log_bytes = head.revision, 0
        lines.append(
            acknowledged.line(head.revision, head.text, ((record.kind, record.name) for record in job.records))
        )
        return partial(_settle, job, head.revision)

    def _held(self, key: Key) -> tuple[int, bytes]:
        """Version and digest of a record; 0 and nothing: there is none."""
        row = self._writer.execute("SELECT version, digest FROM record WHERE kind = ? AND name = ?", key).fetchone()
        return row or (0, b"")

    def _forget(self, head: Head) -> None:
        """Keeps the log at LOG_LENGTH changes and LOG_BYTES, cut between revisions."""
        (cut,) = self._writer.execute(
            "SELECT coalesce((SELECT min(revision, ?1 - 1) FROM change"
            " WHERE serial = (SELECT max(serial) FROM change) - ?2), 0)",
            (head.revision, LOG_LENGTH),
        ).fetchone()
        if self._log_bytes > LOG_BYTES:
            (large,) = self._writer.execute(
                "SELECT coalesce((SELECT min(max(revision), ?1 - 1) FROM (SELECT revision,"
                " sum(length(coalesce(content, ''))) OVER (ORDER BY serial DESC) AS newer FROM change)"
                " WHERE newer > ?2), 0)",
                (head.revision, LOG_BYTES // 2),
            ).fetchone()
            cut = max(cut, large)
        if cut > head.forgotten:
            head.forgotten = cut
            self._writer.execute("DELETE FROM change WHERE revision <= ?", (cut,))
        if self._log_bytes > LOG_BYTES:
            self._log_bytes = _log_bytes(self._writer)

    def _shrink(self) -> None:
        """Gives back to the file system what is free, once that is worth it."""
        (free,) = self._writer.execute("PRAGMA freelist_count").fetchone()
        if free > FREE_PAGES:
            count = min(free - FREE_PAGES // 2, _SHRINK_PAGES)
            self._writer.executescript(f"PRAGMA incremental_vacuum({count})")  # a page each step: `execute` does one

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


def _log_bytes(writer: sqlite3.Connection) -> int:
    return int(writer.execute("SELECT coalesce(sum(length(content)), 0) FROM change").fetchone()[0])


def _fault(path: Path, error: Exception) -> NoSpace | StoreUnusable:
    """A full disk is no failure of it: there may be room again."""
    primary = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        primary = sqlite3.SQLITE_FULL
    if primary == sqlite3.SQLITE_FULL or (primary in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN) and _full(path)):
        return NoSpace(
            f"there is no room for {path} on its file system ({error}): nothing of this is stored, and what was stored"
            f" before stays; make room below {path.parent}, and it goes on by itself"
        )
    return StoreUnusable(f"{path} cannot be written: {error}; nothing of this commit is stored")


def _full(path: Path) -> bool:
    filesystem = os.statvfs(path.parent)
    return filesystem.f_bavail == 0 or (filesystem.f_files > 0 and filesystem.f_favail == 0)


@dataclass(frozen=True, slots=True)
class _Opened:
    lock: int
    writer: sqlite3.Connection
    reader: sqlite3.Connection
    head: Head
    acknowledged: Acknowledged
    put_back: bool


def _open(path: Path) -> _Opened:
    lock = take_lock(path)
    try:
        put_back = _examine(path)
        writer = _connect(path)
        head = _prepare(path, writer, put_back)
        return _Opened(lock, writer, _connect(path), head, Acknowledged.open(path, _newest(head)), put_back)
    except (*tables.FAULTS, OSError) as error:
        os.close(lock)
        if isinstance(fault := _fault(path, error), NoSpace):
            raise fault from error
        raise StoreUnusable(f"{path} cannot be used as a store: {error}") from error
    except BaseException:
        os.close(lock)
        raise


def _newest(head: Head) -> Line:
    return Line(head.revision, head.text)


def take_lock(path: Path) -> int:
    """On the file itself, whatever name it is opened by: two controllers on one would both believe that they are the
    domain. SQLite locks ranges of it, which is another kind of lock (flock(2), fcntl_locking(2)). Raises StoreUnusable.
    """
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StoreUnusable(f"{path} cannot be opened: {error.strerror}") from error
    try:
        os.fsync(directory)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(lock), os.stat(path)):
            raise StoreUnusable(f"{path} has just been replaced; try again")
    except BlockingIOError as error:
        os.close(lock)
        raise StoreUnusable(f"{path} is in use by another controller; end that one first") from error
    except BaseException:
        os.close(lock)
        raise
    finally:
        os.close(directory)
    return lock


def _examine(path: Path) -> bool:
    """Reads all of it, and writes nothing, so that what is damaged stays as it is. Returns whether it is a copy: there
    is something in it, and nothing beside it that says what was acknowledged. Raises StoreUnusable or one of
    tables.FAULTS."""
    lines = acknowledged.read(path)
    if path.stat().st_size == 0 and not path.with_name(f"{path.name}-wal").exists():
        acknowledged.check(path, 0, Head().text)
        return False
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None)) as database:
        version = tables.schema(path, database)
        if version < tables.SCHEMA_VERSION:
            acknowledged.check(path, 0, Head().text)
            return False
        head = tables.read_head(path, database)
        if lines is None and path.stat().st_nlink > 1:
            raise StoreUnusable(
                f"{path} has several names, and what was acknowledged is beside another one: start with that name"
            )
        acknowledged.check(path, head.revision, head.text)
        for _ in tables.read_records(path, database):
            pass
    return lines is None and head.revision > 0


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # of a file that is new
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def _prepare(path: Path, writer: sqlite3.Connection, put_back: bool) -> Head:
    (version,) = writer.execute("PRAGMA user_version").fetchone()
    if version and writer.execute("PRAGMA auto_vacuum").fetchone() == (0,):  # of a release whose stores only grew
        with contextlib.suppress(sqlite3.OperationalError):  # there may be no room for the copy; then at a later start
            writer.execute("PRAGMA auto_vacuum = INCREMENTAL")
            writer.execute("VACUUM")
    if version == tables.SCHEMA_VERSION and not put_back:
        return tables.read_head(path, writer)
    writer.execute("BEGIN IMMEDIATE")
    if put_back:
        head = tables.read_head(path, writer)
        tables.begin_anew(writer, head)
    else:
        head = tables.make(writer) if version == 0 else tables.upgrade(writer)
        Acknowledged.open(path, _newest(head)).close()  # one of this schema without it would be a copy
    writer.execute("COMMIT")
    return head
