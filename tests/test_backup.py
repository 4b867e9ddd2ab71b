"""Backup and restore with the programs themselves: a real stitchd, its store and `stitch`."""

import asyncio
import contextlib
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from federation import Federation, small_intent
from waiting import until

from controller.model.event import Record
from controller.store.backup import put_in_place
from controller.store.sqlite import SqliteStore


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def federation() -> AsyncIterator[Federation]:
    path = Path(tempfile.mkdtemp(prefix="backup-"))  # short, for sockets
    started = Federation(path)
    try:
        await started.start()
        await started.settled()
        yield started
    finally:
        await started.stop()
        shutil.rmtree(path)


async def stitch(federation: Federation, domain: str, *arguments: str) -> tuple[int, str]:
    controller = federation.controllers[domain]
    where = ["--server", f"http://{controller.listen}", "--token-file", str(controller.token_file)]
    process = await asyncio.create_subprocess_exec(
        ".venv/bin/stitch", *where, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode()


@pytest.mark.asyncio(loop_scope="module")
async def test_what_was_saved_comes_back_and_numbers_are_not_given_out_twice(
    federation: Federation, tmp_path: Path
) -> None:
    shop, file = federation.controllers["shop"], tmp_path / "shop.backup"
    assert (await shop.apply(small_intent("kept"))).status_code == 200
    status, said = await stitch(federation, "shop", "backup", str(file))
    assert (status, stat.S_IMODE(file.stat().st_mode)) == (0, 0o600), said
    assert (await shop.request("DELETE", "intents/kept")).status_code == 200
    assert (await shop.apply(small_intent("later"))).status_code == 200
    assert shop.process is not None
    pid = shop.process.pid
    status, said = await stitch(federation, "shop", "restore", str(file))
    assert status == 0 and "answers again" in said, said
    assert sorted(await shop.get("intents")) == ["kept"]
    assert shop.process.pid == pid and shop.process.returncode is None
    assert shop.logged("store_restored")
    before = sqlite3.connect(shop.config.parent / "store.sqlite.before-restore")
    with contextlib.closing(before):
        assert before.execute("SELECT name FROM record WHERE kind = 'Intent'").fetchall() == [("later",)]
    assert (await shop.apply(small_intent("after"))).status_code == 200

    async def active() -> bool:
        return {(await shop.phase(name))[0] for name in ("kept", "after")} == {"Active"}

    await until(active, "both Active")


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("what", ["garbage", "empty", "cut", "another domain's", "another program's", "bad record"])
async def test_what_cannot_be_put_back_is_refused_and_changes_nothing(
    federation: Federation, tmp_path: Path, what: str
) -> None:
    shop, file = federation.controllers["shop"], tmp_path / "some.backup"
    await stitch(federation, "insight" if what == "another domain's" else "shop", "backup", str(file))
    match what:
        case "garbage":
            file.write_bytes(b"no database" * 1000)
        case "empty":
            file.write_bytes(b"")
        case "cut":
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        case "another program's" | "bad record":
            with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as database:
                if what == "bad record":
                    database.execute("INSERT INTO record VALUES ('Intent', 'x', X'7b7d', 1, 1, x'')")
                else:
                    database.execute("PRAGMA application_id = 7")
    before = await shop.get("networks")
    status, said = await stitch(federation, "shop", "restore", str(file))
    assert status in (1, 2) and "Traceback" not in said, said
    assert await shop.get("networks") == before
    assert not list(shop.config.parent.glob("*.restore")) and not list(shop.config.parent.glob("*.draft"))


async def test_a_start_that_is_killed_while_it_puts_a_backup_in_place_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    for name, where in (("old", path), ("new", tmp_path / "store.sqlite.restore")):
        store = await SqliteStore.open(where)
        await store.commit([Record(kind="Intent", name=name, content=b"{}")])
        await store.close()
    path.rename(tmp_path / "store.sqlite.before-restore")  # killed here
    put_in_place(path)
    store = await SqliteStore.open(path)
    assert [each.record.name for each in (await store.load())[0] if each.record.kind == "Intent"] == ["new"]
    await store.close()
    assert put_in_place(path) is None
