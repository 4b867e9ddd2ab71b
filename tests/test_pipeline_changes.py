"""What a change of the tables does to flows that XDP has in its cache: at once what it would do to new ones."""

import time
from collections.abc import Iterator

import numpy as np
import pytest
from scapy.layers.inet import IP
from vectors import VECTORS, node
from vectors.case import from_host, udp
from vectors.entries import address, admit, class_of, encapsulate, h_encaps, lease, live, policy
from vectors.node import A4, BOOTTIME_S, EDGE, TABLES, TENANT, A, remote4
from waiting import wait_for
from xdp_node import DROPPED, SENT, Outcome, XdpNode, outcome

from dataplane.entry import TableEntry
from dataplane.reasons import DropReason, PipelineEvent
from dataplane.reference import Pipeline

pytestmark = pytest.mark.root
FLOW = from_host(A, IP(src=A4, dst=remote4(1)) / udp())


@pytest.fixture(scope="module")
def made() -> Iterator[XdpNode]:
    xdp = XdpNode(node.PORTS, buckets=4096)
    try:
        with xdp.inside():
            yield xdp
    finally:
        xdp.close()


@pytest.fixture
def xdp(made: XdpNode) -> XdpNode:
    """With FLOW in its cache."""
    made.sync(TABLES)
    made.forget()
    assert made.run(A, FLOW) == modelled(TABLES)
    return made


def with_entry(entry: TableEntry) -> list[TableEntry]:
    kept = [other for other in TABLES if (other.table, other.match) != (entry.table, entry.match)]
    return [*kept, entry]


def modelled(entries: list[TableEntry], frame: bytes = FLOW) -> Outcome:
    return outcome(Pipeline(entries, node.PORTS).run(A, frame, BOOTTIME_S))


def generation(xdp: XdpNode) -> int:
    value = xdp.object.map("generation").lookup(class_of(TENANT).to_bytes(4, "little"))
    assert value is not None
    return int.from_bytes(value, "little")


CHANGES = {
    "policy of higher priority": [*TABLES, policy(TENANT, 5000, "drop", 90)],
    "policy that is gone": [e for e in TABLES if e.table != "flow_policy" or ("forwarding_class", 101) not in e.params],
    "class that is another's": [*TABLES, policy(TENANT, 5000, "permit", 102)],
    "source that is no longer admitted": [e for e in TABLES if e != admit(A, f"{A4}/32")],
    "groups that are gone": [e for e in TABLES if e.table != "destination_group"],
    "VRF that is another's": [e for e in TABLES if e.table != "attachment"]
    + [next(e for e in TABLES if e.table == "attachment" and ("vrf", 20) in e.params)],
    "steering that is gone": [e for e in TABLES if e.table != "steer"],
    "steering elsewhere": with_entry(encapsulate(101, 5, 1, node.SERVICE)),
    "path that is dead": with_entry(live(1, 0b0010_0000)),
    "no live path": with_entry(live(1, 0)),
    "steering to another service": with_entry(encapsulate(101, 1, 1, "5f00:2:10:e002::")),
    "path through another node": with_entry(h_encaps(1, 0, EDGE, node.FABRIC, ["5f00:2:20::"], merge_bits=16)),
    "path that begins with another link": with_entry(h_encaps(1, 0, EDGE, node.FABRIC_2)),
    "next hop that is gone": [e for e in TABLES if e.table != "next_hop"],
    "lease that is over": [*TABLES, lease(101, 1)],
}


@pytest.mark.parametrize("entries", CHANGES.values(), ids=CHANGES.keys())
def test_change_reaches_a_cached_flow(xdp: XdpNode, entries: list[TableEntry]) -> None:
    expected = modelled(entries)
    assert expected != modelled(TABLES), "a change that changes nothing shows nothing"
    xdp.sync(entries)
    for _ in range(2):
        assert xdp.run(A, FLOW, expected.reason) == expected
    xdp.sync(TABLES)
    assert xdp.run(A, FLOW) == modelled(TABLES)


def test_second_packet_is_answered_by_the_cache(xdp: XdpNode) -> None:
    before = xdp.events()
    xdp.run(A, FLOW)
    after = xdp.events()
    assert after[PipelineEvent.CACHE_HIT] == before[PipelineEvent.CACHE_HIT] + 1
    assert after[PipelineEvent.CACHE_MISS] == before[PipelineEvent.CACHE_MISS]


def test_change_of_another_policy_class_leaves_the_cache_warm(xdp: XdpNode) -> None:
    xdp.sync([*TABLES, policy(node.OVERLAPPING, 5000, "drop", 90)])
    before = xdp.events()
    xdp.run(A, FLOW)
    assert xdp.events()[PipelineEvent.CACHE_HIT] == before[PipelineEvent.CACHE_HIT] + 1


def test_flow_that_was_idle_while_its_generation_came_round_again_is_resolved_anew(xdp: XdpNode) -> None:
    """16 bits without free and stale: after 65,534 changes a policy class has the generation of the flow again."""
    counts = xdp.class_totals()
    before = generation(xdp)
    xdp.sync(CHANGES["policy that is gone"])
    tenant = np.array([class_of(TENANT)], np.uint32)
    while generation(xdp) & 0xFFFF != before & 0xFFFF:
        xdp.tables.generations.advance(tenant)
    assert generation(xdp) == before + 0x10000
    assert xdp.class_totals() == counts, "what the flow counted is still there"
    assert xdp.run(A, FLOW, DropReason.NOT_PERMITTED) == modelled(CHANGES["policy that is gone"])
    xdp.sync(TABLES)
    assert xdp.run(A, FLOW) == modelled(TABLES)
    assert xdp.class_totals() == {101: (2, 200)}


def test_lease_ends_by_itself(xdp: XdpNode) -> None:
    """At the whole second of the boot-time clock that the entry names; nobody writes anything."""
    end = int(time.clock_gettime(time.CLOCK_BOOTTIME)) + 2
    xdp.sync([*TABLES, lease(101, end)])
    while (now := time.clock_gettime(time.CLOCK_BOOTTIME)) < end + 0.2:
        seen = xdp.run(A, FLOW, DropReason.LEASE_EXPIRED)
        if time.clock_gettime(time.CLOCK_BOOTTIME) < end:
            assert seen.kind == SENT, f"closed {end - now:.3f} s before its time"
        elif now >= end:
            assert seen == Outcome(DROPPED, DropReason.LEASE_EXPIRED), f"open {now - end:.3f} s after its time"
        time.sleep(0.01)


def test_a_cached_flow_goes_on_with_what_comes_next_when_its_lease_ends_and_is_counted_for_it(xdp: XdpNode) -> None:
    """First an isolation ends, then what was permitted above another; nobody writes anything."""
    before = xdp.class_totals()
    now = int(time.clock_gettime(time.CLOCK_BOOTTIME))
    opens, hands_on = now + 2, now + 4
    isolated = policy(TENANT, 6000, "drop_until", DropReason.ISOLATED, until_s=opens)
    xdp.sync([*TABLES, isolated, policy(TENANT, 5000, "permit", 102), lease(102, hands_on)])
    assert xdp.run(A, FLOW, DropReason.ISOLATED) == Outcome(DROPPED, DropReason.ISOLATED)
    wait_for(lambda: xdp.run(A, FLOW, DropReason.ISOLATED).kind == SENT, "the end of an isolation")
    assert time.clock_gettime(time.CLOCK_BOOTTIME) >= opens
    assert xdp.class_totals() == {**before, 102: (1, 100)}
    wait_for(lambda: xdp.run(A, FLOW) == modelled(TABLES), "the end of a lease")
    assert time.clock_gettime(time.CLOCK_BOOTTIME) >= hands_on
    after = xdp.class_totals()
    assert xdp.run(A, FLOW) == modelled(TABLES)
    packets, size = before[101]
    assert after[101] == (packets + 1, size + 100)
    assert xdp.class_totals() == {**after, 101: (packets + 2, size + 200)}


def test_class_that_changes_takes_its_counts_along(xdp: XdpNode) -> None:
    xdp.run(A, FLOW)
    xdp.sync(CHANGES["class that is another's"])
    for _ in range(3):
        xdp.run(A, FLOW)
    assert xdp.class_totals() == {101: (2, 200), 102: (3, 300)}


def test_lowest_live_and_present_candidate_is_taken(xdp: XdpNode) -> None:
    """All 256 values of liveness; only path_liveness is written between packets."""
    for present in (0b1, 0b1000_0000, 0b1010_0110, 0b0101_1000, 0b1111_1111):
        slots = [slot for slot in range(8) if present >> slot & 1]
        paths = [h_encaps(40, slot, EDGE, node.FABRIC, [f"5f00:2:{slot + 1}::"], merge_bits=16) for slot in slots]
        entries = [*with_entry(encapsulate(101, 40, 40, node.SERVICE)), *paths]
        for bits in range(256):
            xdp.sync([*entries, live(40, bits)])
            best = next((slot for slot in slots if bits >> slot & 1), None)
            expected_reason = DropReason.NONE if best is not None else DropReason.NO_LIVE_PATH
            seen = xdp.run(A, FLOW, expected_reason)
            if best is None:
                assert seen.reason == DropReason.NO_LIVE_PATH, (present, bits)
                # What is sent, while there is room for it, is the word to the host that there is no route.
                assert seen.kind == DROPPED or seen.frame[:6] == FLOW[6:12], (present, bits)
            else:
                assert int.from_bytes(seen.frame[38:54]) == address(f"5f00:2:{best + 1}:{node.TAIL}::"), (present, bits)


def test_flow_records_are_the_models(xdp: XdpNode) -> None:
    """All vectors in a row, twice; two VRFs have a flow of equal addresses."""
    xdp.sync(TABLES)
    xdp.forget()
    model = Pipeline(TABLES, node.PORTS, cache=True)
    own = [vector for vector in VECTORS if not vector.entries and vector.port in node.PORTS]
    for vector in (*own, *own):
        for port, frame in (*vector.before, (vector.port, vector.frame)):
            model.run(port, frame, BOOTTIME_S)
            xdp.run(port, frame)
    records = model.flows.records
    assert len(records) > 80
    assert xdp.flow_records() == {
        key: (record.forwarding_class, record.ingress_port, record.packets, record.bytes)
        for key, record in records.items()
    }
    totals = {
        number: (packets, model.flows.class_bytes[number]) for number, packets in model.flows.class_packets.items()
    }
    assert xdp.class_totals() == totals
