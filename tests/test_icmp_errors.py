"""How many ICMP errors XDP sends; what they say is in the vectors."""

import time
from collections.abc import Iterator

import pytest
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from vectors import node
from vectors.case import arp_reply, from_host, neighbor_advertisement, udp
from vectors.node import A4, A6, B4, B6, BOOTTIME_S, A, B, remote4
from xdp_node import DROPPED, SENT, XdpNode, outcome

from dataplane.reasons import DropReason
from dataplane.reference import Pipeline

pytestmark = pytest.mark.root
BURST = 5
LIMITS = {"icmp_error_interval_ns": 1 << 40, "icmp_error_burst_ns": (BURST - 1) << 40}
"""One more only after 18 minutes."""


@pytest.fixture
def xdp() -> Iterator[XdpNode]:
    made = XdpNode(node.PORTS, **LIMITS)
    try:
        with made.inside():
            made.sync(node.TABLES)
            yield made
    finally:
        made.close()


def test_errors_are_limited_port_by_port_and_drops_are_counted_all_the_same(xdp: XdpNode) -> None:
    """RFC 4443 §2.4(f)."""
    frames = {port: from_host(port, IP(src=host, dst=remote4(1), ttl=1) / udp()) for port, host in ((A, A4), (B, B4))}
    before = xdp.drops(DropReason.HOP_LIMIT)
    for port, frame in frames.items():
        seen = [xdp.run(port, frame, DropReason.HOP_LIMIT) for _ in range(3 * BURST)]
        assert [behaviour.kind for behaviour in seen] == [SENT] * BURST + [DROPPED] * (2 * BURST)
        assert {behaviour.reason for behaviour in seen} == {DropReason.HOP_LIMIT}
    assert xdp.drops(DropReason.HOP_LIMIT) == before + 2 * 3 * BURST


def test_a_port_that_was_silent_has_its_whole_budget_again(xdp: XdpNode) -> None:
    frame = from_host(A, IP(src=A4, dst=remote4(1), ttl=1) / udp())
    budget = xdp.object.map("icmp_error_budget")
    budget.update(A.to_bytes(4, "little"), (time.clock_gettime_ns(time.CLOCK_BOOTTIME) - 1).to_bytes(8, "little"))
    kinds = [xdp.run(A, frame, DropReason.HOP_LIMIT).kind for _ in range(BURST + 1)]
    assert kinds == [SENT] * BURST + [DROPPED]


@pytest.mark.parametrize("version", [4, 6])
def test_who_sends_to_a_silent_host_is_told_after_it_was_asked_in_vain(version: int) -> None:
    """RFC 1812 §3.3.1, RFC 4861 §7.2.2. The clock of the model stands for what XDP's constants say at once."""
    packet = IP(src=A4, dst=B4) / udp() if version == 4 else IPv6(src=A6, dst=B6) / udp()
    frame, taught = from_host(A, packet), arp_reply(B, B4) if version == 4 else neighbor_advertisement(B, B6)
    xdp, model = XdpNode(node.PORTS, neighbor_wait_ns=0, neighbor_again_ns=1 << 60), Pipeline(node.TABLES, node.PORTS)
    try:
        with xdp.inside():
            xdp.sync(node.TABLES)
            for after_s in (0.0, 3.5, 4.0):
                expected = outcome(model.run(A, frame, BOOTTIME_S + after_s))
                assert xdp.run(A, frame, DropReason.NEIGHBOR_UNKNOWN) == expected
                is_question = expected.frame[:6] != frame[6:12]
                assert (is_question, expected.reason) == (after_s == 0.0, DropReason.NEIGHBOR_UNKNOWN)
            assert expected.frame[34 if version == 4 else 54 :][:2] == (b"\3\1" if version == 4 else b"\1\3")
            model.run(B, taught, BOOTTIME_S + 4)
            xdp.run(B, taught)
            assert xdp.run(A, frame) == outcome(model.run(A, frame, BOOTTIME_S + 4))
            assert not model.unanswered and not list(xdp.object.map("unanswered"))
    finally:
        xdp.close()
