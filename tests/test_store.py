"""The store keeps what it acknowledged, all or none, in order, whatever happens to the process."""

import asyncio
import os
import random
import signal
import sqlite3
import sys
import textwrap
from pathlib import Path

import pytest
from waiting import LIMIT_S, until

from controller.errors import NoSpace
from controller.model.event import Record
from controller.store import Change, Conflict, RevisionGone, Store, StoreUnusable, sqlite, tables
from controller.store.sqlite import SqliteStore


def record(name: str, content: bytes | None = b"{}", kind: str = "Intent") -> Record:
    return Record(kind=kind, name=name, content=content)


async def contents(store: Store) -> dict[tuple[str, str], bytes | None]:
    stored, _ = await store.load()
    return {(kept.record.kind, kept.record.name): kept.record.content for kept in stored}


async def take(store: Store, after: int, count: int) -> list[Change]:
    changes = []
    async with asyncio.timeout(LIMIT_S):
        async for change in store.watch(after):
            changes.append(change)
            if len(changes) == count:
                break
    return changes


@pytest.fixture
async def store(tmp_path: Path):
    store = await SqliteStore.open(tmp_path / "store.sqlite")
    yield store
    await store.close()


async def test_what_was_committed_is_there_after_reopening(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    store: Store = await SqliteStore.open(path)
    assert await store.load() == ((), 0)
    assert await store.commit([record("b", b"1"), record("a", b"\x00\xff")]) == 1
    assert await store.commit([record("b", b"2"), record("gone", b"x"), record("gone", None)]) == 2
    await store.close()
    store = await SqliteStore.open(path)
    stored, revision = await store.load()
    assert revision == 2
    assert [(kept.record.name, kept.record.content, kept.version, kept.revision) for kept in stored] == [
        ("a", b"\x00\xff", 1, 1),
        ("b", b"2", 2, 2),
    ]
    assert (path.stat().st_mode & 0o777) == 0o600
    await store.close()


async def test_compare_and_swap_writes_all_or_nothing(store: SqliteStore) -> None:
    await store.commit([record("a", b"1")], {("Intent", "a"): 0})
    with pytest.raises(Conflict, match="version 1, not 0"):
        await store.commit([record("new", b"n"), record("a", b"2")], {("Intent", "a"): 0})
    assert await contents(store) == {("Intent", "a"): b"1"}
    await store.commit([record("a", b"2")], {("Intent", "a"): 1})
    await store.commit([record("a", None)], {("Intent", "a"): 2, ("Intent", "other"): 0})
    assert await contents(store) == {}


async def test_one_of_many_racing_writers_wins_each_round(store: SqliteStore) -> None:
    for version in range(5):
        answers = await asyncio.gather(
            *(store.commit([record("a", b"%d" % writer)], {("Intent", "a"): version}) for writer in range(10)),
            return_exceptions=True,
        )
        assert sum(isinstance(answer, int) for answer in answers) == 1
        assert sum(isinstance(answer, Conflict) for answer in answers) == 9


async def test_commits_asked_together_keep_their_order_and_share_transactions(store: SqliteStore) -> None:
    synced: list[str] = []
    store._writer.set_trace_callback(lambda statement: synced.append(statement) if statement == "COMMIT" else None)
    revisions = await asyncio.gather(*(store.commit([record("a", b"%d" % number)]) for number in range(500)))
    assert list(revisions) == list(range(1, 501))
    assert await contents(store) == {("Intent", "a"): b"499"}
    assert len(synced) < 100, f"{len(synced)} transactions for 500 commits"


async def test_each_transaction_is_synced_to_disk(store: SqliteStore) -> None:
    assert store._writer.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL: fsync of the log at each commit
    assert store._writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)


async def test_watch_gives_what_was_and_what_comes_without_a_gap(store: SqliteStore) -> None:
    async def write() -> None:
        for number in range(200):
            await store.commit([record(f"i{number % 7}", b"%d" % number), record("twin", b"%d" % number)])

    await store.commit([record("before")])
    watchers = [asyncio.create_task(take(store, after, 400)) for after in (1, 1, 1)]
    await asyncio.gather(write(), *watchers)
    for watcher in watchers:
        seen = [(change.revision, change.record.name) for change in watcher.result()]
        assert seen == [(number + 2, name) for number in range(200) for name in (f"i{number % 7}", "twin")]
    [first] = await take(store, 0, 1)
    assert (first.record.name, first.version, first.revision) == ("before", 1, 1)


async def test_watch_tells_removals_and_ends_when_the_store_closes(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "store.sqlite")

    seen: asyncio.Queue[Change] = asyncio.Queue()

    async def follow() -> None:
        async for change in store.watch(0):
            seen.put_nowait(change)

    watcher = asyncio.create_task(follow())
    await store.commit([record("a")])
    await store.commit([record("a", None)])
    async with asyncio.timeout(LIMIT_S):
        told = [await seen.get(), await seen.get()]
        await store.close()
        await watcher
    assert [(change.record.content, change.version) for change in told] == [(b"{}", 1), (None, 0)]
    assert seen.empty()
    with pytest.raises(StoreUnusable, match="closed"):
        await store.commit([record("b")])


async def test_a_watcher_that_is_too_late_is_told_so(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "LOG_LENGTH", 10)
    for number in range(30):
        await store.commit([record("a", b"%d" % number), record("b", b"%d" % number)])
    with pytest.raises(RevisionGone, match="load it again"):
        await take(store, 0, 1)
    changes = await take(store, 26, 8)
    assert [change.revision for change in changes] == [27, 27, 28, 28, 29, 29, 30, 30]
    await store.commit([record(f"many{number}") for number in range(50)])
    assert len(await take(store, 30, 50)) == 50, "the newest revision stays whole, however large"


async def test_of_a_commit_that_has_more_than_is_kept_a_watcher_is_told_to_load_again(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "LOG_BYTES", 1000)
    await store.commit([record("a")])
    await store.commit([record(f"large{number}", b"0" * 300) for number in range(4)])
    for after in (0, 1):
        with pytest.raises(RevisionGone, match="load it again"):
            await take(store, after, 1)
    assert len((await store.load())[0]) == 5
    await store.commit([record("b")])
    assert [change.record.name for change in await take(store, 2, 1)] == ["b"]


async def test_a_cancelled_commit_does_not_disturb_others(store: SqliteStore) -> None:
    tasks = [asyncio.create_task(store.commit([record(f"i{number}")])) for number in range(20)]
    await asyncio.sleep(0)
    tasks[3].cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(answers[3], asyncio.CancelledError)
    assert all(isinstance(answer, int) for index, answer in enumerate(answers) if index != 3)


async def test_a_second_controller_is_kept_out(store: SqliteStore) -> None:
    with pytest.raises(StoreUnusable, match="in use by another controller"):
        await SqliteStore.open(store._path)


async def test_files_that_are_no_store_are_refused_unchanged(tmp_path: Path) -> None:
    cases: dict[str, tuple[bytes, str]] = {"garbage": (os.urandom(4096), "not a database")}
    for name, statement, message in (
        ("newer", f"PRAGMA user_version = {tables.SCHEMA_VERSION + 1}", "schema 3"),
        ("foreign", "PRAGMA application_id = 7", "another program"),
    ):
        path = tmp_path / f"make-{name}"
        await (await SqliteStore.open(path)).close()
        with sqlite3.connect(path) as connection:
            connection.execute(statement)
        connection.close()
        cases[name] = (path.read_bytes(), message)
    for name, (data, message) in cases.items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(StoreUnusable, match=message):
            await SqliteStore.open(path)
        assert path.read_bytes() == data
    with pytest.raises(StoreUnusable, match="No such file"):
        await SqliteStore.open(tmp_path / "absent" / "store.sqlite")


async def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    store = await SqliteStore.open(path)
    await store.commit([record(f"i{number}", os.urandom(3000)) for number in range(100)])
    await store.close()
    data = bytearray(path.read_bytes())
    for page in range(2, len(data) // 4096):
        data[page * 4096 : page * 4096 + 16] = bytes(16)
    path.write_bytes(data)
    with pytest.raises(StoreUnusable):
        await SqliteStore.open(path)


async def test_a_full_disk_refuses_the_commit_and_keeps_the_rest(store: SqliteStore) -> None:
    await store.commit([record("a", b"1")])
    (pages,) = store._writer.execute("PRAGMA page_count").fetchone()
    store._writer.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(NoSpace, match="make room"):
        await store.commit([record("a", b"2"), record("big", bytes(100_000))])
    assert await contents(store) == {("Intent", "a"): b"1"}
    store._writer.execute(f"PRAGMA max_page_count = {pages + 1000}")
    await store.commit([record("a", b"3")])
    assert await contents(store) == {("Intent", "a"): b"3"}


KILLS = int(os.environ.get("NETSTITCH_KILLS", "14"))
# Writes pairs that belong together, from 8 tasks at once, and says on stdout what was acknowledged.
WRITER = textwrap.dedent("""
    import asyncio, sys
    from controller.model.event import Record
    from controller.store.sqlite import SqliteStore

    async def write(store, worker, number):
        while True:
            number += 1
            content = b"%d" % number
            pair = [Record(kind=kind, name=f"w{worker}", content=content) for kind in ("left", "right")]
            await store.commit(pair)
            sys.stdout.write(f"{worker} {number}\\n")
            sys.stdout.flush()

    async def main():
        store = await SqliteStore.open(sys.argv[1])
        stored, _ = await store.load()
        known = {one.record.name: int(one.record.content) for one in stored}
        print("ready", flush=True)
        async with asyncio.TaskGroup() as group:
            for worker in range(8):
                group.create_task(write(store, worker, known.get(f"w{worker}", 0)))

    asyncio.run(main())
""")


async def test_kill_9_at_any_moment_loses_nothing_acknowledged_and_tears_nothing(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    chance = random.Random(9)
    acknowledged = dict.fromkeys(range(8), 0)
    progressed = 0
    for _ in range(KILLS):
        output = tmp_path / "output"
        with output.open("wb") as stdout:
            writer = await asyncio.create_subprocess_exec(sys.executable, "-c", WRITER, str(path), stdout=stdout)
            enough = 1 + chance.randrange(100)
            await until(lambda: output.read_bytes().count(b"\n") >= enough, "it writes")  # noqa: B023
            await asyncio.sleep(chance.uniform(0, 0.01))
            writer.send_signal(signal.SIGKILL)
            await writer.wait()
        lines = output.read_text().splitlines(keepends=True)
        for worker, number in (line.split() for line in lines[1:] if line.endswith("\n")):
            acknowledged[int(worker)] = int(number)
            progressed += 1
        store = await SqliteStore.open(path)
        numbers = {key: int(content or 0) for key, content in (await contents(store)).items()}
        await store.close()
        for worker, number in acknowledged.items():
            left, right = numbers.get(("left", f"w{worker}"), 0), numbers.get(("right", f"w{worker}"), 0)
            assert left == right, "half a transaction"
            assert number <= left <= number + 1, "an acknowledged record is gone, or one that nobody wrote is there"
            acknowledged[worker] = left  # it was written; only the acknowledgement was killed
    assert progressed > 10 * KILLS
