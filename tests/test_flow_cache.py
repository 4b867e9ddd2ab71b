import ctypes
import ipaddress
import mmap
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from map_fake import FakeMap
from numpy.typing import NDArray

from dataplane.tables.generations import Generations
from dataplane.xdp.flow_cache import ENTRY, STALE, Entries, FlowCache, FlowColumns, Snapshot, forwarding_totals, merged
from dataplane.xdp.jiffies import JiffiesClock, read_jiffies

CLOCK = JiffiesClock(hz=250, offset=2**32 - 75_000)


class Detached(FlowCache):
    """Of an array, not of a map."""

    def __init__(self, entries: Entries, clock: JiffiesClock = CLOCK) -> None:
        self._entries = entries
        self._clock = clock


def entry(**values: Any) -> Entries:
    made = np.zeros(1, dtype=ENTRY)
    made["generation"] = 1
    size, port = values.pop("bytes", 0), values.pop("ingress_port", 0)
    made["bytes_and_port"] = size | port << 48
    for name, value in values.items():
        made[name] = np.frombuffer(value, "u1") if isinstance(value, bytes) else value
    return made


def columns(entries: Entries) -> FlowColumns:
    return Detached(entries).columns(entries)


def test_an_entry_becomes_a_record() -> None:
    written = entry(
        source_address=bytes(10) + b"\xff\xff" + bytes([10, 1, 0, 11]),
        destination_address=ipaddress.ip_address("2001:db8:2::10").packed,
        source_port=40_000,
        destination_port=443,
        protocol=6,
        l4_class=1,
        policy_class=7,
        forwarding_class=300,
        ingress_port=12,
        packets=5,
        bytes=2**47 + 3,
        first_seen=CLOCK.now(1000.0),
        last_seen=CLOCK.now(1010.0),
    )
    assert written.tobytes()[32:36] == bytes.fromhex("9c4001bb")
    (record,) = columns(written).records()
    assert (record.source_address, record.destination_address) == ("10.1.0.11", "2001:db8:2::10")
    assert (record.source_port, record.destination_port, record.protocol) == (40_000, 443, 6)
    assert (record.policy_class, record.forwarding_class, record.ingress_port, record.l4_class) == (7, 300, 12, 1)
    assert (record.packets, record.bytes) == (5, 2**47 + 3)
    assert record.last_seen_s - record.first_seen_s == pytest.approx(10.0)


@given(
    now_s=st.floats(1e9, 2e9), up_s=st.floats(400, 1e7), age_s=st.floats(0, 4e6), hz=st.sampled_from([100, 250, 1000])
)
def test_jiffies_become_unix_time_across_their_overflow(now_s: float, up_s: float, age_s: float, hz: int) -> None:
    clock = JiffiesClock(hz=hz, offset=2**32 - 300 * hz)
    seen = np.array([clock.now(up_s) - int(age_s * hz)], dtype=np.int64).astype(np.uint32)
    assert clock.unix_time(seen, now_s, up_s)[0] == pytest.approx(now_s - age_s, abs=2 / hz + 1e-3)


SMALL = st.tuples(
    *(st.integers(0, 1) for _ in range(4)), st.integers(0, 2**32 - 1), st.integers(0, 2**47), st.booleans()
)


@given(st.lists(SMALL, max_size=30))
@settings(deadline=None)
def test_merging_equals_adding_up_one_by_one(parts: list[tuple[int, int, int, int, int, int, bool]]) -> None:
    none: Entries = np.zeros(0, dtype=ENTRY)
    entries = np.concatenate(
        [none]
        + [
            entry(
                policy_class=policy_class,
                source_port=port,
                forwarding_class=forwarding_class,
                ingress_port=way,
                packets=packets,
                bytes=size,
            )
            for policy_class, port, forwarding_class, way, packets, size, _ in parts
        ]
    )
    wanted = np.array([part[-1] for part in parts], dtype=bool)
    expected: dict[tuple[int, ...], list[int]] = defaultdict(lambda: [0, 0, 0])
    for *key, packets, size, is_wanted in parts:
        total = expected[tuple(key)]
        total[0] += packets
        total[1] += size
        total[2] |= is_wanted
    records = merged(columns(entries), entries, wanted).records()
    totals = {
        (r.policy_class, r.source_port, r.forwarding_class, r.ingress_port): [r.packets, r.bytes, 1] for r in records
    }
    assert len(totals) == len(records)
    assert totals == {key: total for key, total in expected.items() if total[2]}


@given(st.lists(SMALL, max_size=30))
@settings(deadline=None)
def test_forwarding_totals_are_what_was_evicted_plus_what_is_live(
    parts: list[tuple[int, int, int, int, int, int, bool]],
) -> None:
    none: Entries = np.zeros(0, dtype=ENTRY)
    entries = np.concatenate(
        [none] + [entry(forwarding_class=part[2], packets=part[4], bytes=part[5] >> 8) for part in parts]
    )
    folded = np.array([[5, 50], [7, 70], [0, 0]], dtype=np.uint64)
    totals = forwarding_totals(entries, folded)
    for forwarding_class in range(3):
        live = [part for part in parts if part[2] == forwarding_class]
        assert totals[forwarding_class].tolist() == [
            int(folded[forwarding_class][0]) + sum(part[4] for part in live),
            int(folded[forwarding_class][1]) + sum(part[5] >> 8 for part in live),
        ]
    assert folded.tolist() == [[5, 50], [7, 70], [0, 0]]


def test_only_what_changed_is_different_from_before() -> None:
    cache = np.concatenate([entry(source_port=port, packets=1) for port in range(8)])
    cache["generation"][[1, 6]] = 0
    before = Detached(cache).snapshot()
    assert before.slots.tolist() == [0, 2, 3, 4, 5, 7]
    assert not before.changed_since(before).any()
    cache["packets"][3] += 1  # counted
    cache["generation"][2] = 0  # gone
    cache["generation"][6] = 1  # new
    cache["destination_port"][5] = 9  # another flow in its place
    now = Detached(cache).snapshot()
    assert now.slots[now.changed_since(before)].tolist() == [3, 5, 6]
    empty = Snapshot(np.zeros(0, dtype=np.intp), np.zeros(0, dtype=ENTRY))
    assert now.changed_since(empty).all()
    assert empty.changed_since(now).tolist() == []


def test_records_of_other_generations_are_marked_and_count_on() -> None:
    now = np.array([5, 0x1_0007, 9], dtype=np.uint32)
    made = [(0, 5), (0, 4), (1, 7), (1, 8), (2, 0), (2, 1), (2, STALE)]
    cache = np.concatenate(
        [entry(policy_class=policy_class, generation=seen, packets=3) for policy_class, seen in made]
    )
    Detached(cache).expire(now)
    assert cache["generation"].tolist() == [5, STALE, 7, STALE, 0, STALE, STALE]
    assert cache["packets"].tolist() == [3] * 7


@pytest.mark.parametrize("changes", [1, 0x7FFF, 0x8000, 0x10000, 0x1_8001])
def test_no_record_is_left_of_more_generations_ago_than_16_bits_tell(changes: int) -> None:
    """An idle record of each of the last generations; after any number of changes only that of now holds."""
    generations_seen: list[int] = []
    swept: list[int] = []

    def expire(now: NDArray[np.uint32]) -> None:
        swept.append(int(now[3]))
        generations_seen[:] = [seen for seen in generations_seen if seen == int(now[3])]

    generations = Generations(FakeMap(4, 4, 4096, fixed=True), expire)
    policy_class = np.array([3], dtype=np.uint32)
    for _ in range(changes):
        generations_seen.append(generations.now(3))
        generations.advance(policy_class)
        assert generations.now(3) & 0xFFFF not in (0, STALE)
    assert generations.now(3) - min(generations_seen, default=generations.now(3)) <= 0x8000
    assert len(swept) == 1 + changes // 0x8000


@pytest.fixture
def flow_cache_map() -> Iterator[int]:
    """A map like the program's, for two CPUs."""
    library = ctypes.CDLL("libbpf.so.1")
    options = (ctypes.c_char * 128)()
    ctypes.c_size_t.from_buffer(options).value = 128
    # struct bpf_map_create_opts: sz, btf_fd, btf_key_type_id, btf_value_type_id, btf_vmlinux_value_type_id,
    # inner_map_fd, map_flags
    ctypes.c_uint32.from_buffer(options, 8 + 5 * 4).value = 1 << 10  # BPF_F_MMAPABLE
    handle = library.bpf_map_create(2, b"flow_cache", 4, 256, 32_768, ctypes.byref(options))
    assert handle >= 0, os.strerror(-handle)
    yield handle
    os.close(handle)


@pytest.mark.root
def test_100_000_records_are_read_from_the_map_in_time(flow_cache_map: int) -> None:
    with mmap.mmap(flow_cache_map, 32_768 * 256) as memory:
        filled = np.frombuffer(memory, dtype=ENTRY)
        rows = np.random.default_rng(1).permutation(131_072)[:100_000]
        filled["generation"][rows] = 1
        filled["packets"][rows] = np.arange(100_000)
        filled["last_seen"] = read_jiffies()
        del filled
    cache = FlowCache(flow_cache_map, 32_768, JiffiesClock.calibrated())
    took = []
    for _ in range(7):
        start = time.perf_counter()
        flows = cache.read()
        took.append(time.perf_counter() - start)
    print(f"100,000 flow records in {sorted(took)[3] * 1e3:.1f} ms (figure: 15 ms)")
    assert len(flows) == 100_000
    assert sorted(flows.packets.tolist()) == list(range(100_000))
    assert np.abs(flows.last_seen_s - time.time()).max() < 60


@pytest.mark.root
def test_the_clock_runs_with_jiffies() -> None:
    clock = JiffiesClock.calibrated()
    for _ in range(3):
        time.sleep(0.05)
        before, jiffies, after = clock.now(time.monotonic()), read_jiffies(), clock.now(time.monotonic())
        assert before - 2 <= jiffies <= after + 2
