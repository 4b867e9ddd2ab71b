"""What the controller of a large domain takes: one intent more, many at once, a link that fails, nothing at all.

Each run is a process of its own, so that its memory is only its own: `python -m bench.scale INTENTS`.
"""

import asyncio
import gc
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from bench import leaf_spine
from bench.lab import resident_mb
from bench.report import Row, row
from bench.slices import Slices
from controller import process
from controller.reconcile.tables import over
from controller.shell import Shell

SIZES = {
    10_000: leaf_spine.Size(leaves=16, spines=8, hosts=320),
    100_000: leaf_spine.Size(leaves=484, spines=16, hosts=3080, pods=22),
}
"""Of the domain, by how many intents it has."""
REQUEST = 10_000
"""So many intents at once: a body of the API has room for some 30,000 of them."""
SINGLES = 24
CUTS = 8
IDLE_S = 20.0


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    bulk_s: float
    """From the first request until all are active."""
    one_more_ms: float
    """CPU time of the process, as of all that follows."""
    one_more_spread: float
    link_down_ms: float
    """Of the busiest link of a leaf: from what two nodes say until all others were told."""
    link_down_spread: float
    idle_percent: float
    memory_mb: float


def rows() -> list[Row]:
    few, many = _run(10_000), _run(100_000)
    of = "of 10000 intents"
    return [
        row("scale.bulk_10k_s", few.bulk_s, f"s, {of}", better="lower", target=3),
        _one_more("scale.one_more_at_10k_ms", few, of, target=5),
        _one_more("scale.one_more_at_100k_ms", many, "of 100000 intents, 500 switches", target=8),
        row(
            "scale.link_down_10k_ms",
            few.link_down_ms,
            f"ms of CPU, {of}",
            better="lower",
            target=50,
            spread=few.link_down_spread,
        ),
        row("scale.idle_controller_percent", few.idle_percent, f"% of a core, {of}", better="lower", target=1),
        row("scale.memory_10k_mb", few.memory_mb, f"MB, {of}", better="lower"),
        row("scale.memory_100k_mb", many.memory_mb, "MB, of 100000 intents", better="lower", target=600),
    ]


def _run(intents: int) -> Measured:
    command = [sys.executable, "-m", "bench.scale", str(intents)]
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return msgspec.json.decode(run.stdout, type=Measured)


def _one_more(name: str, measured: Measured, of: str, *, target: float) -> Row:
    unit = f"ms of CPU, {of}"
    return row(name, measured.one_more_ms, unit, better="lower", target=target, spread=measured.one_more_spread)


async def measure(intents: int, directory: Path) -> Measured:
    process.collect_seldom()
    process.give_memory_back()
    size = SIZES[intents]
    async with leaf_spine.controller(size, directory) as (shell, nodes):
        bulk_s = 0.0
        for first in range(0, intents, REQUEST):
            manifests = [leaf_spine.intent(size, first + number) for number in range(REQUEST)]
            began_s = time.monotonic()
            await leaf_spine.apply(shell, nodes, manifests)
            bulk_s += time.monotonic() - began_s
        del manifests  # who has sent a request keeps it, not the controller
        taken = Slices()
        for number in range(intents, intents + SINGLES):
            manifest = leaf_spine.intent(size, number)
            began_s = time.process_time()
            await leaf_spine.apply(shell, nodes, [manifest])
            taken.add("one more", time.process_time() - began_s)
        for leaf in range(CUTS):
            busiest = max(range(size.spines), key=lambda spine: _stitches(shell, leaf, spine))
            began_s = time.process_time()
            nodes.cut(leaf, busiest)
            await leaf_spine.settled(shell, nodes)
            taken.add("link down", nodes.sent_s - began_s)
        gc.collect()
        began_s = time.process_time()
        await asyncio.sleep(IDLE_S)
        idle_percent = 100 * (time.process_time() - began_s) / IDLE_S
        return Measured(
            bulk_s=bulk_s,
            one_more_ms=1000 * taken.lower("one more"),
            one_more_spread=taken.spread("one more"),
            link_down_ms=1000 * taken.lower("link down"),
            link_down_spread=taken.spread("link down"),
            idle_percent=idle_percent,
            memory_mb=resident_mb(os.getpid()),
        )


def _stitches(shell: Shell, leaf: int, spine: int) -> int:
    """Over the link between these, first or second path."""
    return len(over(shell.state.stitches, shell.state.sr_policies, [leaf_spine.link_name(leaf, spine)]))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print(msgspec.json.encode(asyncio.run(measure(int(sys.argv[1]), Path(folder)))).decode())
