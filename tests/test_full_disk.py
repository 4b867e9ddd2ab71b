"""A disk that is full, whoever filled it: on a small file system of the test's own."""

import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from federation import Federation, small_intent
from waiting import until

from controller.errors import NoSpace
from controller.model.event import Record
from controller.store import sqlite
from controller.store.sqlite import SqliteStore


class SmallDisk:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / "filler"

    def fill(self) -> None:
        """To the last byte, over what others free meanwhile."""
        with self._filler.open("ab", buffering=0) as file:
            for size in (65536, 4096, 512, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    pass

    def clear(self) -> None:
        self._filler.unlink()


@pytest.fixture
def disk() -> Iterator[SmallDisk]:
    path = Path(tempfile.mkdtemp(prefix="full-"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(path)], check=True)
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
        shutil.rmtree(path)


@pytest.fixture
async def federation(disk: SmallDisk) -> AsyncIterator[Federation]:
    federation = Federation(disk.path)
    try:
        await federation.start()
        await federation.settled()
        yield federation
    finally:
        await federation.stop()


def record(name: str, size: int = 1000) -> Record:
    return Record(kind="Intent", name=name, content=bytes(size))


async def names(store: SqliteStore) -> list[str]:
    return [stored.record.name for stored in (await store.load())[0]]


async def test_a_store_without_room_keeps_what_it_acknowledged_and_goes_on_when_there_is_some(disk: SmallDisk) -> None:
    path = disk.path / "store.sqlite"
    store = await SqliteStore.open(path)
    await store.commit([record("before")])
    disk.fill()
    for number in range(3):
        with pytest.raises(NoSpace, match="make room"):
            await store.commit([record(f"during-{number}", 100_000)])
    assert await names(store) == ["before"]
    disk.clear()
    await store.commit([record("after")])
    assert await names(store) == ["after", "before"]
    await store.close()
    disk.fill()
    with pytest.raises(NoSpace):
        store = await SqliteStore.open(path)  # it makes files of its own beside it
    disk.clear()
    store = await SqliteStore.open(path)
    assert await names(store) == ["after", "before"]
    await store.close()


async def test_a_store_gives_back_what_it_does_not_need(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    store = await SqliteStore.open(path)
    for number in range(40):
        await store.commit([record(f"big-{number}", 500_000)])
    full = path.stat().st_size
    assert full > 20_000_000
    for number in range(40):
        await store.commit([Record(kind="Intent", name=f"big-{number}", content=None)])
    for _ in range(20):
        await store.commit([record("small", 10)])
    await store.close()
    assert path.stat().st_size < sqlite.LOG_BYTES + 3_000_000


async def test_a_controller_without_room_says_so_and_goes_on_by_itself(federation: Federation, disk: SmallDisk) -> None:
    shop, transit = federation.controllers["shop"], federation.controllers["transit"]
    assert (await shop.apply(small_intent("before"))).status_code == 200
    disk.fill()

    async def refused() -> bool:
        disk.fill()
        response = await shop.apply(small_intent("during"))
        if response.status_code != 507:
            assert (await shop.request("DELETE", "intents/during")).status_code in (200, 507)
            return False
        assert "make room" in response.json()["error"], response.text
        return True

    await until(refused, "there is no room")
    before = await shop.get("intents")
    assert "before" in before
    checks = (await shop.request("GET", "doctor")).json()["checks"]
    (written,) = (check for check in checks if (check["subject"], check["name"]) == ("store", "written"))
    assert not written["ok"] and "no room" in written["detail"] and "make room" in written["advice"]
    disk.clear()

    async def taken() -> bool:
        return (await shop.apply(small_intent("after"))).status_code == 200

    await until(taken, "there is room again")
    expected = {*before, "after"}
    assert set(await shop.get("intents")) == expected
    assert shop.logged("space_again")
    for controller in (shop, transit):
        assert controller.process is not None and controller.process.returncode is None
        await controller.kill()
        await controller.start()
    assert set(await shop.get("intents")) == expected
