"""What a disk gives back damaged is never taken for less than was acknowledged; it is named, and a start may go on."""

import asyncio
import contextlib
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from federation import Federation, small_intent
from waiting import LIMIT_S

from controller.model.event import PUT_BACK, Record
from controller.store import StoreUnusable, acknowledged, tables
from controller.store.backup import accept_loss, put_in_place
from controller.store.sqlite import SqliteStore

PAGE = 4096
FRAME = PAGE + 24
INTENTS = {f"i{number}": bytes([number]) * (200 + 97 * number) for number in range(30)}
Damage = Callable[[bytearray], bytearray]


def intents(*names: str) -> list[Record]:
    return [Record(kind="Intent", name=name, content=INTENTS[name]) for name in names]


async def intents_in(path: Path) -> dict[str, bytes | None]:
    store = await SqliteStore.open(path)
    try:
        stored, _ = await store.load()
    finally:
        await store.close()
    return {kept.record.name: kept.record.content for kept in stored if kept.record.kind == "Intent"}


@pytest.fixture
def fast(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, where there is one: hundreds of stores are opened, and no power fails."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else tmp_path) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store as kill -9 leaves it: half in the database, half in the log, all of it acknowledged."""
    folder = tmp_path_factory.mktemp("killed")

    async def write() -> None:
        path = folder / "live" / "store.sqlite"
        path.parent.mkdir()
        store = await SqliteStore.open(path)
        for number, name in enumerate(INTENTS):
            await store.commit(intents(name))
            if number == 14:
                store._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        shutil.copytree(path.parent, folder / "copy")
        await store.close()

    asyncio.run(write())
    (folder / "copy" / "store.sqlite-shm").unlink()
    return folder / "copy"


def damages(sizes: dict[str, int]) -> Iterator[tuple[str, str, Damage]]:
    """Name, file and what happens to it: cut and altered at every page and frame boundary, and anywhere."""
    chance = random.Random(8)
    for end, unit, start in (("", PAGE, 0), ("-wal", FRAME, 32)):
        size = sizes[end]
        edges = {0, 1, *range(start, size, unit), size - 1}
        for cut in sorted({*edges, *(chance.randrange(size) for _ in range(20))}):
            yield f"{end or 'db'} cut at {cut}", end, lambda data, cut=cut: data[:cut]
        for place in sorted({*edges, *(chance.randrange(size) for _ in range(60))}):
            bit = 1 << chance.randrange(8)

            def flipped(data: bytearray, place: int = place, bit: int = bit) -> bytearray:
                data[place] ^= bit
                return data

            yield f"{end or 'db'} flipped at {place}", end, flipped
        for page in range(start, size, unit):
            yield (
                f"{end or 'db'} zeroed at {page}",
                end,
                lambda data, page=page, unit=unit: data[:page] + bytes(unit) + data[page + unit :],
            )


def spoil(file: str, damage: Damage) -> None:
    path = Path(file)
    path.write_bytes(damage(bytearray(path.read_bytes())))


async def test_no_damage_of_database_or_log_loses_an_acknowledged_intent_without_a_word(
    killed: Path, fast: Path
) -> None:
    sizes = {end: (killed / f"store.sqlite{end}").stat().st_size for end in ("", "-wal")}
    refused = whole = 0
    for name, end, damage in damages(sizes):
        folder = fast / "case"
        shutil.copytree(killed, folder)
        path = folder / "store.sqlite"
        spoil(f"{path}{end}", damage)
        try:
            assert await intents_in(path) == INTENTS, name
            whole += 1
        except StoreUnusable as error:
            assert "store.sqlite" in str(error), name
            refused += 1
            lost = accept_loss(path)
            assert lost, name
            put_in_place(path)
            kept = await intents_in(path)
            assert kept.items() <= INTENTS.items(), name
        shutil.rmtree(folder)
    assert refused > 100 and whole > 10, (refused, whole)


async def test_a_log_that_was_cut_is_named_with_what_is_missing_and_left_as_it_is(killed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cut"
    shutil.copytree(killed, folder)
    path = folder / "store.sqlite"
    log = path.with_name("store.sqlite-wal")
    os.truncate(log, log.stat().st_size // 2)
    before = (path.read_bytes(), log.read_bytes())
    with pytest.raises(StoreUnusable, match=r"less than was acknowledged.*revisions \d+ to 30 \(.*Intent i29\)"):
        await SqliteStore.open(path)
    assert (path.read_bytes(), log.read_bytes()) == before
    [lost] = accept_loss(path)
    assert "Intent i29" in lost
    put_in_place(path)
    kept = await intents_in(path)
    assert set(INTENTS) - set(kept) == set(re.findall(r"Intent (i\d+)", lost)), lost
    store = await SqliteStore.open(path)
    assert await store.commit(intents("i29")) > 30, "revisions are not used twice"
    await store.close()


async def test_a_record_that_was_altered_is_named(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    store = await SqliteStore.open(path)
    await store.commit(intents(*INTENTS))
    await store.close()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("UPDATE record SET content = x'00' WHERE name = 'i7'")
    with pytest.raises(StoreUnusable, match="table record, Intent 'i7'"):
        await SqliteStore.open(path)
    assert accept_loss(path) == ["altered: Intent i7"]
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("DELETE FROM record WHERE name = 'i7'")
    with pytest.raises(StoreUnusable, match="records are gone"):
        await SqliteStore.open(path)


async def test_a_store_that_was_put_back_from_an_older_copy_of_the_file_is_seen(tmp_path: Path) -> None:
    path, copy = tmp_path / "store.sqlite", tmp_path / "copy"
    store = await SqliteStore.open(path)
    await store.commit(intents("i0"))
    await store.close()
    shutil.copy(path, copy)
    store = await SqliteStore.open(path)
    await store.commit(intents("i1"))
    await store.close()
    shutil.copy(copy, path)
    with pytest.raises(StoreUnusable, match=r"Missing are revisions 2 to 2 \(Intent i1\)"):
        await SqliteStore.open(path)
    path.unlink()
    with pytest.raises(StoreUnusable, match=r"Missing are revisions 1 to 2 \(Intent i0, Intent i1\)"):
        await SqliteStore.open(path)
    shutil.copy(copy, path)
    acknowledged.beside(path).unlink()
    store = await SqliteStore.open(path)
    assert store.put_back, "nothing says what it has acknowledged: it begins anew"
    stored, _ = await store.load()
    counters = {kept.record.name: int(kept.record.content or b"") for kept in stored if kept.record.kind == "Counter"}
    assert counters[PUT_BACK] == 1 and counters["serial"] >= tables.RESERVE
    await store.close()
    store = await SqliteStore.open(path)
    assert not store.put_back
    await store.close()


async def test_a_store_of_the_release_before_digests_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.executescript(
            "PRAGMA journal_mode = WAL;"
            "CREATE TABLE record (kind TEXT NOT NULL, name TEXT NOT NULL, content BLOB NOT NULL,"
            " version INTEGER NOT NULL, revision INTEGER NOT NULL, PRIMARY KEY (kind, name)) STRICT, WITHOUT ROWID;"
            "CREATE TABLE change (serial INTEGER PRIMARY KEY, revision INTEGER NOT NULL, kind TEXT NOT NULL,"
            " name TEXT NOT NULL, content BLOB, version INTEGER NOT NULL) STRICT;"
            "CREATE INDEX change_revision ON change (revision);"
            "CREATE TABLE counter (one INTEGER PRIMARY KEY CHECK (one = 1), revision INTEGER NOT NULL,"
            " forgotten INTEGER NOT NULL) STRICT;"
            "INSERT INTO counter VALUES (1, 2, 0);"
            "INSERT INTO record VALUES ('Intent', 'i0', x'7b7d', 2, 2);"
            "INSERT INTO change VALUES (1, 1, 'Intent', 'i0', x'00', 1), (2, 2, 'Intent', 'i0', x'7b7d', 2);"
            f"PRAGMA user_version = 1; PRAGMA application_id = {tables.APPLICATION_ID};"
        )
    store = await SqliteStore.open(path)
    assert not store.put_back
    assert await store.commit(intents("i1")) == 3
    await store.close()
    assert await intents_in(path) == {"i0": b"{}", "i1": INTENTS["i1"]}


@pytest.mark.parametrize("way", ["hard link", "symbolic link", "lock file removed", "folder by another name"])
async def test_a_second_controller_is_kept_out_of_the_file_by_whatever_name(tmp_path: Path, way: str) -> None:
    (tmp_path / "a").mkdir()
    path = tmp_path / "a" / "store.sqlite"
    store = await SqliteStore.open(path)
    await store.commit(intents("i0"))
    other = tmp_path / "other.sqlite"
    match way:
        case "hard link":
            os.link(path, other)
        case "symbolic link":
            other.symlink_to(path)
        case "folder by another name":
            (tmp_path / "b").symlink_to(tmp_path / "a")
            other = tmp_path / "b" / "store.sqlite"
        case _:
            other = path
            for each in path.parent.glob("*.lock"):
                each.unlink()
    with pytest.raises(StoreUnusable, match="in use by another controller"):
        await SqliteStore.open(other)
    with pytest.raises(StoreUnusable, match="in use by another controller"):
        accept_loss(other)
    assert await store.commit(intents("i1")) == 2
    await store.close()
    if way == "hard link":
        with pytest.raises(StoreUnusable, match="several names"):
            await SqliteStore.open(other)
    assert set(await intents_in(path)) == {"i0", "i1"}


async def test_what_is_beside_a_store_stays_small_and_knows_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acknowledged, "HALF_BYTES", 20_000)
    path = tmp_path / "store.sqlite"
    store = await SqliteStore.open(path)
    for number in range(20):
        await asyncio.gather(
            *(store.commit([Record(kind="Intent", name=f"n{each}", content=b"{}")]) for each in range(20))
        )
        lines = acknowledged.read(path) or []
        assert lines[-1].revision == 20 * number + 20
    await store.commit([Record(kind="Intent", name=f"wide-{number:060}", content=b"{}") for number in range(500)])
    await store.close()
    lines = acknowledged.read(path) or []
    assert (lines[-1].revision, lines[-1].more) == (401, 300)
    assert acknowledged.beside(path).stat().st_size <= 40_000


async def stitchd(*arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "controller", *arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    async with asyncio.timeout(LIMIT_S):
        said, _ = await process.communicate()
    return process.returncode or 0, said.decode()


async def test_stitchd_says_what_its_store_has_lost_stops_and_goes_on_when_told_to(fast: Path) -> None:
    """With the real program, and a log that was cut after kill -9."""
    federation = Federation(fast)
    shop = federation.controllers["shop"]
    path = fast / "shop" / "store.sqlite"
    try:
        await shop.start()
        for number in range(6):
            assert (await shop.apply(small_intent(f"orders-{number}"))).status_code == 200
        await shop.kill()
        spoil(f"{path}-wal", lambda data: data[: -3 * FRAME])
        status, said = await stitchd("--config", str(shop.config))
        assert status == 1 and "Traceback" not in said, said
        assert "less than was acknowledged" in said and "Intent orders-5" in said and "accept-loss" in said, said
        status, lost = await stitchd("accept-loss", "--config", str(shop.config))
        assert status == 0 and "Intent orders-5" in lost, lost
        await shop.start()
        kept = set(await shop.get("intents"))
        assert kept == {f"orders-{number}" for number in range(6) if f"Intent orders-{number}" not in said}
        assert (await shop.apply(small_intent("orders-5"))).status_code == 200
    finally:
        await federation.stop()
