"""The reference model makes of every packet vector what the vector says, and the flow cache changes nothing."""

from collections import Counter
from itertools import product

import pytest
from scapy.layers.inet import IP
from vectors import VECTORS, Vector, entries_of
from vectors.case import from_host, udp
from vectors.entries import address, class_of, encapsulate, h_encaps, live, policy
from vectors.node import A4, BOOTTIME_S, EDGE, FABRIC, PORTS, SERVICE, TABLES, TAIL, TENANT, A, C, remote4, segments

from dataplane.reasons import DropReason, L4Class, PipelineEvent
from dataplane.reference import Cut, Drop, Forward, Pipeline
from dataplane.reference.flow import FlowKey


def node(vector: Vector, *, cache: bool) -> Pipeline:
    pipeline = Pipeline(entries_of(vector), PORTS, cache=cache)
    for port, frame in vector.before:
        pipeline.run(port, frame, BOOTTIME_S)
    return pipeline


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)
def test_vector(vector: Vector) -> None:
    cold = node(vector, cache=False)
    assert cold.run(vector.port, vector.frame, BOOTTIME_S) == vector.expected
    pieces = vector.expected.pieces if isinstance(vector.expected, Cut) else (vector.expected,)
    counted = Counter(piece.reason for piece in pieces if isinstance(piece, Drop | Forward) and piece.reason)
    warm = Pipeline(entries_of(vector), PORTS, cache=True)
    for _ in range(2):
        warm.fragments.forget()
        for port, frame in vector.before:
            warm.run(port, frame, BOOTTIME_S)
        before = warm.drops.copy()
        assert warm.run(vector.port, vector.frame, BOOTTIME_S) == vector.expected
        assert warm.drops - before == counted


def test_names_are_unique() -> None:
    assert max(Counter(vector.name for vector in VECTORS).values()) == 1


def test_every_reason_is_seen() -> None:
    seen = {vector.expected.reason for vector in VECTORS if isinstance(vector.expected, Drop | Forward)}
    # METERED needs meters, which come with bandwidth; what happens behind the verdict is in no vector.
    behind = (name for name in DropReason.__members__ if name.startswith(("PORT_", "KERNEL_", "PUNT_")))
    assert seen >= set(DropReason) - {DropReason.METERED, *map(DropReason.__getitem__, behind)}


def test_lowest_live_and_present_candidate_is_taken() -> None:
    frame = from_host(A, IP(src=A4, dst=remote4(1)) / udp())
    steered = encapsulate(101, 40, 40, SERVICE)
    for present in (0, 0b1, 0b1000_0000, 0b1010_0110, 0b1111_1111):
        slots = [slot for slot in range(8) if present >> slot & 1]
        paths = [h_encaps(40, slot, EDGE, FABRIC, [f"5f00:2:{slot + 1}::"], merge_bits=16) for slot in slots]
        kept = [entry for entry in TABLES if entry.match != steered.match or entry.table != "steer"]
        for bits in range(256):
            pipeline = Pipeline([*kept, steered, *paths, live(40, bits)], PORTS)
            verdict = pipeline.run(A, frame, BOOTTIME_S)
            best = next((slot for slot in slots if bits >> slot & 1), None)
            if best is None:
                assert isinstance(verdict, Forward)
                assert verdict.reason == DropReason.NO_LIVE_PATH
            else:
                assert isinstance(verdict, Forward)
                assert verdict.frame[38:54] == _destination(f"5f00:2:{best + 1}:{TAIL}::")


def test_lease_ends_a_cached_flow() -> None:
    frame = from_host(A, IP(src=A4, dst=remote4(11)) / udp())
    pipeline = Pipeline(TABLES, PORTS, cache=True)
    assert isinstance(pipeline.run(A, frame, 0xFFFFFFFE), Forward)
    assert isinstance(pipeline.run(A, frame, 0xFFFFFFFE), Forward)
    assert pipeline.run(A, frame, 0xFFFFFFFF) == Drop(DropReason.LEASE_EXPIRED)


def test_flow_records_count_what_was_permitted() -> None:
    frame = from_host(A, IP(src=A4, dst=remote4(1)) / udp())
    denied = from_host(A, IP(src=A4, dst="198.51.100.1") / udp())
    for cache in (False, True):
        pipeline = Pipeline(TABLES, PORTS, cache=cache)
        for _ in range(3):
            pipeline.run(A, frame, BOOTTIME_S)
            pipeline.run(A, denied, BOOTTIME_S)
        key = FlowKey(class_of(TENANT), address(A4), address(remote4(1)), 17, 40000, 5060, L4Class.UDP)
        assert set(pipeline.flows.records) == {key}
        record = pipeline.flows.records[key]
        assert (record.forwarding_class, record.ingress_port, record.packets, record.bytes) == (101, A, 3, 3 * 100)
        assert pipeline.flows.events.get(PipelineEvent.CACHE_HIT, 0) == (2 if cache else 0)


def test_a_flow_whose_forwarding_class_changes_starts_again() -> None:
    frame = from_host(A, IP(src=A4, dst=remote4(1)) / udp())
    pipeline = Pipeline(TABLES, PORTS, cache=True)
    pipeline.run(A, frame, BOOTTIME_S)
    changed = Pipeline([*TABLES, policy(TENANT, 5000, "permit", 102)], PORTS, cache=True)
    changed.flows.records.update(pipeline.flows.records)
    changed.flows.class_packets.update(pipeline.flows.class_packets)
    stale = changed.run(A, frame, BOOTTIME_S)
    assert isinstance(stale, Forward)
    assert stale.frame[38:54] == _destination(segments(1)[0])
    changed.flows.generation[class_of(TENANT)] = 2
    fresh = changed.run(A, frame, BOOTTIME_S)
    assert isinstance(fresh, Forward)
    assert fresh.port == FABRIC
    assert fresh.frame[38:54] == _destination(segments(2)[0])
    assert changed.flows.class_packets == {101: 2, 102: 1}
    assert [(record.forwarding_class, record.packets) for record in changed.flows.records.values()] == [(102, 1)]


def test_overlapping_vrfs_have_flows_of_their_own() -> None:
    packet = IP(src=A4, dst="10.1.0.11") / udp()
    pipeline = Pipeline(TABLES, PORTS, cache=True)
    for port, _ in product((A, C), range(2)):
        pipeline.run(port, from_host(port, packet), BOOTTIME_S)
    assert {key.policy_class for key in pipeline.flows.records} == {11, 21}


def _destination(text: str) -> bytes:
    return address(text).to_bytes(16)
