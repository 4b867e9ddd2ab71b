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
from controller.reconcile.tables import link_key
from controller.shell import Shell

SIZE = leaf_spine.Size(16, 8, 320)
INTENTS = 10_000
SINGLES = 24
CUTS = 8
IDLE_S = 20.0


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    bulk_s: float
    """From the request until all are active."""
    one_more_ms: float
    """CPU time of the process, as of all that follows."""
    one_more_spread: float
    link_down_ms: float
    """Of the busiest link of a leaf: from what two nodes say until all others were told."""
    link_down_spread: float
    idle_percent: float
    memory_mb: float


def rows() -> list[Row]:
    command = [sys.executable, "-m", "bench.scale", str(INTENTS)]
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    found = msgspec.json.decode(run.stdout, type=Measured)
    of = f"of {INTENTS} intents"
    return [
        row("scale.bulk_10k_s", found.bulk_s, f"s, {of}", better="lower", target=3),
        row(
            "scale.one_more_at_10k_ms",
            found.one_more_ms,
            f"ms of CPU, {of}",
            better="lower",
            target=5,
            spread=found.one_more_spread,
        ),
        row(
            "scale.link_down_10k_ms",
            found.link_down_ms,
            f"ms of CPU, {of}",
            better="lower",
            target=50,
            spread=found.link_down_spread,
        ),
        row("scale.idle_controller_percent", found.idle_percent, f"% of a core, {of}", better="lower", target=1),
        row("scale.memory_10k_mb", found.memory_mb, f"MB, {of}", better="lower"),
    ]


async def measure(intents: int, directory: Path) -> Measured:
    process.collect_seldom()
    async with leaf_spine.controller(SIZE, directory) as (shell, nodes):
        manifests = [leaf_spine.intent(SIZE, number) for number in range(intents + SINGLES)]
        began_s = time.monotonic()
        await leaf_spine.apply(shell, nodes, manifests[:intents])
        bulk_s = time.monotonic() - began_s
        taken = Slices()
        for manifest in manifests[intents:]:
            began_s = time.process_time()
            await leaf_spine.apply(shell, nodes, [manifest])
            taken.add("one more", time.process_time() - began_s)
        for leaf in range(CUTS):
            busiest = max(range(SIZE.spines), key=lambda spine: _stitches(shell, leaf, spine))
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
    return shell.state.stitches.count(link_key(leaf_spine.link_name(leaf, spine)))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print(msgspec.json.encode(asyncio.run(measure(int(sys.argv[1]), Path(folder)))).decode())
