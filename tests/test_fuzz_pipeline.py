"""Mutated frames through XDP and the reference model: equal verdicts, reasons, frames, counters and flow records.

Table sets change on the way. NETSTITCH_FUZZ_PACKETS says how many frames (100,000), NETSTITCH_FUZZ_SEED repeats a run;
else half of the frames are the same in each run, half are new.
"""

import os
import random
import time
from collections.abc import Iterator

import pytest
from vectors import generate, node
from xdp_node import Outcome, XdpNode, outcome

from dataplane.reasons import PipelineEvent
from dataplane.reference import Pipeline

pytestmark = pytest.mark.root
PACKETS = int(os.environ.get("NETSTITCH_FUZZ_PACKETS", "40000"))
FIXED_SEED = 20
PACKETS_A_TABLE_SET = 2500
NOT_COMPARED = {PipelineEvent.CACHE_MISS, PipelineEvent.CACHE_EVICTED}
"""The model's cache has no end. Whether it may know a frame's flow it is told, by what XDP counted: hits are equal."""


@pytest.fixture(scope="module")
def xdp() -> Iterator[XdpNode]:
    made = XdpNode(node.PORTS)
    try:
        with made.inside():
            yield made
    finally:
        made.close()


def seeds() -> list[int]:
    given = os.environ.get("NETSTITCH_FUZZ_SEED")
    return [int(given)] if given else [FIXED_SEED, time.time_ns() & 0xFFFFFFFF]


def test_xdp_does_what_the_model_does(xdp: XdpNode, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = seeds()
    sent = 0
    for seed in chosen:
        with capsys.disabled():
            print(f"\nfuzz: {PACKETS // len(chosen)} frames, NETSTITCH_FUZZ_SEED={seed}", flush=True)
        rng = random.Random(seed)
        for first in range(0, PACKETS // len(chosen), PACKETS_A_TABLE_SET):
            tables = node.TABLES if first == 0 else generate.tables(rng)
            xdp.sync(tables)
            xdp.forget()
            count = min(PACKETS_A_TABLE_SET, PACKETS // len(chosen) - first)
            compare(xdp, Pipeline(tables, node.PORTS), rng, count)
            sent += count
    assert sent == PACKETS // len(chosen) * len(chosen)


def compare(xdp: XdpNode, model: Pipeline, rng: random.Random, count: int) -> None:
    """One table set. A frame in three goes twice, so that the second finds a warm cache."""
    drops, events, classes, denied = xdp.all_drops(), xdp.events(), xdp.class_totals(), xdp.denied()
    class_drops = xdp.class_drops()
    for port, frame in generate.frames(rng, count):
        for _ in range(rng.choice((1, 1, 2))):
            seen, model.flows.cache = xdp.run_first(port, frame)
            expected = outcome(model.run(port, frame, node.BOOTTIME_S))
            assert seen == expected, explained(port, frame, seen, expected)
    now = xdp.all_drops()
    counted = {reason: (packets, model.drop_bytes[reason]) for reason, packets in model.drops.items()}
    assert difference(now, drops) == counted
    assert difference(xdp.class_drops(), class_drops) == {
        number: (packets, model.class_drop_bytes[number]) for number, packets in model.class_drops.items()
    }
    assert {event: many - events[event] for event, many in xdp.events().items() if event not in NOT_COMPARED} == {
        event: model.events[event] for event in PipelineEvent if event not in NOT_COMPARED
    }
    flows = model.flows
    assert difference(xdp.class_totals(), classes) == {
        number: (packets, flows.class_bytes[number]) for number, packets in flows.class_packets.items()
    }
    assert difference(xdp.denied(), denied) == {
        number: (packets, flows.denied_bytes[number]) for number, packets in flows.denied_packets.items()
    }


def difference(after: dict[int, tuple[int, int]], before: dict[int, tuple[int, int]]) -> dict[int, tuple[int, int]]:
    changed = {}
    for key, (packets, size) in after.items():
        known = before.get(key, (0, 0))
        if (packets, size) != known:
            changed[key] = (packets - known[0], size - known[1])
    return changed


def explained(port: int, frame: bytes, seen: Outcome, expected: Outcome) -> str:
    return f"port {port}, frame {frame.hex()}\n XDP   {shown(seen)}\n model {shown(expected)}"


def shown(what: Outcome) -> str:
    return f"{what.kind} reason {what.reason} VRF {what.vrf} {what.frame.hex()}"
