"""A share of the flow cache for each port."""

import random
from collections import Counter
from collections.abc import Iterator

import pytest
from scapy.layers.inet import IP, UDP
from vectors import node
from vectors.case import from_host
from vectors.node import A4, B4, A, B, remote4
from xdp_node import SENT, XdpNode

BUCKETS, WAYS = 16, 4


@pytest.fixture
def xdp() -> Iterator[XdpNode]:
    made = XdpNode(node.PORTS, buckets=BUCKETS)
    try:
        with made.inside():
            made.sync(node.TABLES)
            yield made
    finally:
        made.close()


def send(xdp: XdpNode, port: int, source: str, sport: int) -> None:
    frame = from_host(port, IP(src=source, dst=remote4(2)) / UDP(sport=sport, dport=5060) / b"hello")
    assert xdp.run(port, frame).kind == SENT


@pytest.mark.root
def test_a_slot_that_is_used_again_counts_for_its_new_flow_alone() -> None:
    """With room for WAYS flows, four times as many take turns."""
    made = XdpNode(node.PORTS, buckets=1)
    rng = random.Random(1)
    sent: Counter[int] = Counter()
    since: Counter[int] = Counter()
    """Since each was last made room for."""
    try:
        with made.inside():
            made.sync(node.TABLES)
            for _ in range(500):
                sport, count = 20_000 + rng.randrange(4 * WAYS), rng.randrange(1, 5)
                if sport not in flows(made)[A]:
                    since[sport] = 0
                for _ in range(count):
                    send(made, A, A4, sport)
                sent[sport] += count
                since[sport] += count
                packets_by_port = {key.source_port: packets for key, (_, _, packets, _) in made.flow_records().items()}
                assert packets_by_port == {port: since[port] for port in packets_by_port} and sport in packets_by_port
            assert sum(packets for packets, _ in made.class_totals().values()) == sent.total()
    finally:
        made.close()


def flows(xdp: XdpNode) -> dict[int, set[int]]:
    """By port, the source ports of the flows that are remembered."""
    records = xdp.flows.read()
    remembered: dict[int, set[int]] = {A: set(), B: set()}
    for port, sport in zip(records.ingress_port.tolist(), records.source_port.tolist(), strict=True):
        remembered[port].add(sport)
    return remembered


@pytest.mark.root
def test_a_scan_of_one_host_does_not_push_out_the_flows_of_another(xdp: XdpNode) -> None:
    for sport in range(20_000, 20_000 + BUCKETS * WAYS // 2):
        send(xdp, A, A4, sport)
    slots = xdp.flows.snapshot().slots
    expected = sum(min(count, WAYS // 2) for count in Counter((slots // WAYS).tolist()).values())
    assert expected > 20
    for sport in range(30_000, 30_000 + 40 * BUCKETS * WAYS):
        send(xdp, B, B4, sport)
    left = flows(xdp)
    assert len(left[A]) >= expected, "the scan has pushed them out"
    assert len(left[A]) + len(left[B]) == BUCKETS * WAYS, "what nobody else uses is the scan's"


@pytest.mark.root
def test_who_is_alone_has_all_of_it(xdp: XdpNode) -> None:
    for sport in range(30_000, 30_000 + 10 * BUCKETS * WAYS):
        send(xdp, B, B4, sport)
    assert len(flows(xdp)[B]) == BUCKETS * WAYS
