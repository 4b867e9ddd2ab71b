"""The tables of a store, and the digests by which damage shows.

Each record has a digest of itself; the head has one of itself, and the sum of those of all records. So a record that
was altered is found and named, and one that is gone, or came from nowhere, is missed.
"""

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from controller.model.event import PUT_BACK, Record
from controller.store import Stored, StoreUnusable

SCHEMA_VERSION = 2
APPLICATION_ID = 0x6E737469  # "nsti"
RESERVE = 100_000
"""Numbers of plans and agreements that a copy does not know of and that others may remember are not given out again."""
_DIGEST_BYTES = 16
_MODULUS = 1 << (8 * _DIGEST_BYTES)
_SCHEMA = (
    "CREATE TABLE record (kind TEXT NOT NULL, name TEXT NOT NULL, content BLOB NOT NULL, version INTEGER NOT NULL,"
    " revision INTEGER NOT NULL, digest BLOB NOT NULL, PRIMARY KEY (kind, name)) STRICT, WITHOUT ROWID",
    "CREATE TABLE change (serial INTEGER PRIMARY KEY, revision INTEGER NOT NULL, kind TEXT NOT NULL,"
    " name TEXT NOT NULL, content BLOB, version INTEGER NOT NULL) STRICT",
    "CREATE INDEX change_revision ON change (revision)",
    "CREATE TABLE counter (one INTEGER PRIMARY KEY CHECK (one = 1), revision INTEGER NOT NULL,"
    " forgotten INTEGER NOT NULL, total BLOB NOT NULL, digest BLOB NOT NULL) STRICT",
)
_UPGRADE_1 = (
    "ALTER TABLE record ADD COLUMN digest BLOB NOT NULL DEFAULT x''",
    "ALTER TABLE counter ADD COLUMN total BLOB NOT NULL DEFAULT x''",
    "ALTER TABLE counter ADD COLUMN digest BLOB NOT NULL DEFAULT x''",
)
Row = tuple[str, str, bytes, int, int]
"""Kind, name, content, version and revision of a record."""
_ROWS = "SELECT kind, name, content, version, revision FROM record ORDER BY kind, name"
_ROWS_WITH_DIGEST = "SELECT kind, name, content, version, revision, digest FROM record ORDER BY kind {0}, name {0}"
FAULTS = (sqlite3.Error, UnicodeDecodeError, OverflowError)
"""What SQLite's module raises where a file is damaged."""


@dataclass(slots=True)
class Head:
    """What a store is as of."""

    revision: int = 0
    forgotten: int = 0
    """The newest revision that is not (wholly) in `change` any more."""
    total: int = 0
    """Sum of the digests of all records."""

    @property
    def text(self) -> str:
        return self.total.to_bytes(_DIGEST_BYTES, "big").hex()

    def replace(self, before: bytes, after: bytes) -> None:
        """A record has another digest than before; empty: there was none, or there is none any more."""
        self.total = (self.total + _number(after) - _number(before)) % _MODULUS


def digest(row: Row) -> bytes:
    kind, name, content, version, revision = row
    front = f"{kind}\0{name}\0{version}\0{revision}\0".encode()
    return hashlib.blake2b(front + content, digest_size=_DIGEST_BYTES).digest()


def make(database: sqlite3.Connection, rows: Iterable[Row] = (), revision: int = 0) -> Head:
    """Into an empty database; the caller commits."""
    for statement in _SCHEMA:
        database.execute(statement)
    head = Head(revision=revision, forgotten=revision)
    for row in rows:
        put(database, head, row, b"")
    database.execute("INSERT INTO counter VALUES (1, 0, 0, x'', x'')")
    write_head(database, head)
    database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    return head


def put(database: sqlite3.Connection, head: Head, row: Row, before: bytes) -> None:
    """`before`: the digest of the record in whose place it comes."""
    made = digest(row)
    database.execute("INSERT OR REPLACE INTO record VALUES (?, ?, ?, ?, ?, ?)", (*row, made))
    head.replace(before, made)


def write_head(database: sqlite3.Connection, head: Head) -> None:
    total = head.total.to_bytes(_DIGEST_BYTES, "big")
    database.execute(
        "UPDATE counter SET revision = ?, forgotten = ?, total = ?, digest = ?",
        (head.revision, head.forgotten, total, _head_digest(head.revision, head.forgotten, total)),
    )


def read_head(path: Path, database: sqlite3.Connection) -> Head:
    """Raises StoreUnusable where it is not as it was written."""
    rows = database.execute("SELECT revision, forgotten, total, digest FROM counter").fetchall()
    if len(rows) != 1 or rows[0][3] != _head_digest(*rows[0][:3]):
        raise StoreUnusable(f"{path} is damaged: table counter is not as it was written")
    revision, forgotten, total, _ = rows[0]
    return Head(revision=revision, forgotten=forgotten, total=_number(total))


def read_records(path: Path, database: sqlite3.Connection) -> Iterator[Stored]:
    """By kind and name. Raises StoreUnusable at the first that is not as it was written, or is gone."""
    head, summed = read_head(path, database), Head()
    for *row, row_digest in database.execute(_ROWS_WITH_DIGEST.format("ASC")):
        kind, name, content, version, revision = row
        if digest((kind, name, content, version, revision)) != row_digest:
            raise StoreUnusable(
                f"{path} is damaged: table record, {kind} {name!r}: it is not as it was written (its digest is another)"
            )
        summed.replace(b"", row_digest)
        yield Stored(record=Record(kind=kind, name=name, content=content), version=version, revision=revision)
    if summed.total != head.total:
        raise StoreUnusable(f"{path} is damaged: table record: records are gone, or are there that nobody wrote")


def schema(path: Path, database: sqlite3.Connection) -> int:
    """Its version; 0: it is empty. Raises StoreUnusable for what is no store of ours, or damaged as a file."""
    (version,) = database.execute("PRAGMA user_version").fetchone()
    (application,) = database.execute("PRAGMA application_id").fetchone()
    (tables,) = database.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if (version, application, tables) == (0, 0, 0):
        return 0
    if application != APPLICATION_ID:
        raise StoreUnusable(f"{path} is a SQLite file of another program, or damaged; give the store a path of its own")
    if version not in (1, SCHEMA_VERSION):
        raise StoreUnusable(
            f"{path} has schema {version}, this netstitch reads {SCHEMA_VERSION}: use the netstitch that wrote it"
        )
    (verdict,) = database.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise StoreUnusable(f"{path} is damaged ({verdict})")
    return int(version)


def upgrade(database: sqlite3.Connection) -> Head:
    """A store of the releases before digests; the caller commits."""
    for statement in _UPGRADE_1:
        database.execute(statement)
    revision, forgotten = database.execute("SELECT revision, forgotten FROM counter").fetchone()
    head = Head(revision=revision, forgotten=forgotten)
    for row in database.execute(_ROWS).fetchall():
        put(database, head, row, b"")
    write_head(database, head)
    database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    return head


def begin_anew(database: sqlite3.Connection, head: Head) -> None:
    """A store that is a copy: what it says of agreements is past. The caller commits."""
    head.revision += 1
    for name in ("serial", "start", "owner", PUT_BACK):
        last = database.execute(
            "SELECT content, version, digest FROM record WHERE kind = 'Counter' AND name = ?", (name,)
        ).fetchone()
        count, version, before = last or (b"0", 0, b"")
        content = b"1" if name == PUT_BACK else b"%d" % (int(count) + RESERVE)
        put(database, head, ("Counter", name, content, version + 1, head.revision), before)
    write_head(database, head)


def whole_rows(database: sqlite3.Connection) -> tuple[dict[tuple[str, str], Row], list[str]]:
    """What of a damaged database can still be read, from either end; and which records were found altered."""
    rows: dict[tuple[str, str], Row] = {}
    altered: dict[str, None] = {}
    for order in ("ASC", "DESC"):
        try:
            for *row, row_digest in database.execute(_ROWS_WITH_DIGEST.format(order)):
                kind, name, content, version, revision = row
                whole = (kind, name, content, version, revision)
                try:
                    fits = digest(whole) == row_digest
                except (TypeError, ValueError, UnicodeError):
                    fits = False
                if fits:
                    rows[kind, name] = whole
                else:
                    altered[f"{kind} {name}"] = None
        except FAULTS:
            continue
    return rows, list(altered)


def is_sum(head: Head, rows: Iterable[Row]) -> bool:
    """Whether these are all records."""
    summed = Head()
    for row in rows:
        summed.replace(b"", digest(row))
    return summed.total == head.total


def _head_digest(revision: int, forgotten: int, total: bytes) -> bytes:
    return hashlib.blake2b(b"%d %d " % (revision, forgotten) + total, digest_size=_DIGEST_BYTES).digest()


def _number(stored: bytes) -> int:
    return int.from_bytes(stored, "big")
