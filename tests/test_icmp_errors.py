"""How many ICMP errors XDP sends; what they say is in the vectors."""

import time
from collections.abc import Iterator

import pytest
from scapy.layers.inet import IP
from vectors import node
from vectors.case import from_host, udp
from vectors.node import A4, B4, A, B, remote4
from xdp_node import DROPPED, SENT, XdpNode

from dataplane.reasons import DropReason

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
        assert [one.kind for one in seen] == [SENT] * BURST + [DROPPED] * (2 * BURST)
        assert {one.reason for one in seen} == {DropReason.HOP_LIMIT}
    assert xdp.drops(DropReason.HOP_LIMIT) == before + 2 * 3 * BURST


def test_a_port_that_was_silent_has_its_whole_budget_again(xdp: XdpNode) -> None:
    frame = from_host(A, IP(src=A4, dst=remote4(1), ttl=1) / udp())
    budget = xdp.object.map("icmp_error_budget")
    budget.update(A.to_bytes(4, "little"), (time.clock_gettime_ns(time.CLOCK_BOOTTIME) - 1).to_bytes(8, "little"))
    kinds = [xdp.run(A, frame, DropReason.HOP_LIMIT).kind for _ in range(BURST + 1)]
    assert kinds == [SENT] * BURST + [DROPPED]
