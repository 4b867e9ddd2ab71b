"""10,000 intents in one file, by `stitch apply` to a real stitchd: refused with the two conflicts named, or taken."""

import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from federation import Controller, Federation, Manifest, intent

MANY = 10_000
STITCH = Path(sys.executable).parent / "stitch"
MEMORY_MB_MAX = 450


def many() -> list[Manifest]:
    """Each opens a port of its own to hosts of the analysts."""
    source = {"network": "shop/customer-x", "select": {"app": "web"}}
    require = {"latency_ms": {"max": 20}, "encryption": "wireguard"}
    return [
        intent(
            f"orders-{number}",
            allow=[{"from": source, "to": "insight/analytics", "ports": [f"tcp/{number + 1}"]}],
            require=require,
        )
        for number in range(MANY)
    ]


def with_conflicts() -> list[Manifest]:
    """Two pairs of which the one isolates what the other connects, far from each other in the file."""
    intents = many()
    cards = {"network": "shop/customer-x", "select": {"app": "order-processing"}}
    intents[17] = intent("cards-alone", isolate=cards)
    intents[9_001] = intent("cards-out", allow=[{"from": cards, "to": "insight/analytics/analytics-y"}])
    intents[5_555] = intent("archive-alone", isolate="shop/customer-z")
    intents[200] = intent("archive-out", allow=[{"from": "shop/customer-z", "to": "insight/archive/archive-z"}])
    return intents


@pytest.fixture
async def shop() -> AsyncIterator[Controller]:
    """One controller of three; its nodes and neighbours do not answer."""
    directory = Path(tempfile.mkdtemp(prefix="bulk-"))
    federation = Federation(directory)
    try:
        await federation.controllers["shop"].start()
        yield federation.controllers["shop"]
    finally:
        await federation.stop()
        shutil.rmtree(directory)


async def stitch(controller: Controller, *arguments: str | Path) -> tuple[int, str, str, float]:
    """Status, output, errors, seconds."""
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *(STITCH, "--server", f"http://{controller.listen}", "--token-file", controller.token_file, *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    output, errors = await process.communicate()
    return process.returncode or 0, output.decode(), errors.decode(), time.monotonic() - began


@contextlib.asynccontextmanager
async def asking(controller: Controller) -> AsyncIterator[list[float]]:
    """Seconds that each of the answers took that somebody else got meanwhile."""
    took_s: list[float] = []

    async def ask() -> None:
        while True:
            began = time.monotonic()
            assert (await controller.request("GET", "nodes")).status_code == 200
            took_s.append(time.monotonic() - began)
            await asyncio.sleep(0.02)

    task = asyncio.create_task(ask())
    try:
        yield took_s
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_ten_thousand_are_refused_with_the_conflicts_named_and_taken_without(
    shop: Controller, tmp_path: Path
) -> None:
    yaml, text = tmp_path / "big.yaml", tmp_path / "big.json"
    yaml.write_bytes(b"---\n".join(map(msgspec.yaml.encode, with_conflicts())))
    text.write_text(json.dumps(with_conflicts()))
    for file in (yaml, text):
        async with asking(shop) as took_s:
            status, output, errors, seconds = await stitch(shop, "apply", "-f", file)
        assert (status, output) == (1, ""), errors
        conflicts = errors.removeprefix("stitch: ").strip().split("; ")
        assert sorted(conflict.split(": the one")[0] for conflict in conflicts) == [
            "contradiction: intent archive-alone (isolate) and intent archive-out (allow 1)",
            "contradiction: intent cards-alone (isolate) and intent cards-out (allow 1)",
        ], errors[:1000]
        assert all("port 49152 (shop/customer-" in conflict and "-> 10" in conflict for conflict in conflicts), (
            conflicts
        )
        assert await shop.get("intents") == {}
        _check(f"{file.name} refused", seconds, took_s, shop)
    text.write_text(json.dumps(many()))
    async with asking(shop) as took_s:
        status, output, errors, seconds = await stitch(shop, "apply", "-f", text)
    assert (status, errors) == (0, "") and output.splitlines()[-1] == f"intents/orders-{MANY - 1} created"
    _check("taken", seconds, took_s, shop)
    for arguments, said in (
        (("get", "intents"), "orders-9999 "),
        (("get", "intent", "orders-77", "-o", "sentence"), "tcp/78 from shop/customer-x app=web"),
        (("describe", "intent/orders-77"), "phase: "),
        (("explain", "intent/orders-77"), "allow insight/analytics tcp/78 from"),
        (("get", "services"), "analytics-y"),
    ):
        status, output, errors, seconds = await stitch(shop, *arguments)
        assert status == 0 and said in output, errors
        print(f"{' '.join(arguments)}: {seconds:.2f} s")


def _check(what: str, seconds: float, took_s: list[float], controller: Controller) -> None:
    print(f"{what}: {seconds:.1f} s, others waited {max(took_s):.2f} s, {controller.resident_mb:.0f} MB")
    assert len(took_s) > 3, "others are answered meanwhile"
    assert controller.resident_mb < MEMORY_MB_MAX
