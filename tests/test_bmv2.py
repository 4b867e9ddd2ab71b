"""BMv2 makes of the packet vectors what they say, where the P4 program has what they are about."""

from collections.abc import Iterator

import pytest
from bmv2 import SWITCH, Bmv2
from vectors import Vector, encapsulation, entries, entries_of, node, permits, segments, services, translated
from waiting import wait_for

from dataplane.entry import TableEntry
from dataplane.reference import Drop, Forward, Punt

HOSTS = (
    (node.A, node.A4, node.A6),
    (node.B, node.B4, node.B6),
    (node.C, node.A4, node.A6),
)
ELSEWHERE = (
    "first-fragment",  # fragments are XDP's
    "vlan-cut",  # the kernel's already
    "mss-odd",  # of TCP's options the first is looked at
    "mss-after",
    "mss-last",
    "padding-is-cut",
    "dt46-padding",
    "dt46-eight-segments",  # three at most
    *(f"end-{left}-left" for left in range(1, 8)),
    "too-big-decapsulated",  # goes to the controller, as does what is for an unknown neighbour
    "delivered-in-another-vrf",
    "transit-no-neighbour",
    "no-neighbour-on-fabric",
    "transit-vlan-next-hop",  # a tag is written
    "vlan-next-hop",
    "transit-absent-port",  # which ports there are a program does not know
    "port-is-absent",
    "delivery-behind-another-edge",
    "to-service-padding",
    "to-service-mss-1460",  # to a host that is not known here
)
EXACTLY = ("end-x",)  # four segments
CLOSED = ("ended-isolation-not-yet", "ended-permit-not-yet", "ended-permit-over-isolation", "ended-drop-below")
"""What has ended stays closed here."""


def supported(vector: Vector) -> bool:
    """Without what is XDP's: errors to senders, questions for neighbours, cutting."""
    if vector.name in EXACTLY or vector.name.startswith(ELSEWHERE) or vector.port not in node.PORTS:
        return False
    expected = vector.expected
    return isinstance(expected, Drop | Punt) or (isinstance(expected, Forward) and not expected.reason)


VECTORS = [
    vector
    for vector in (
        *encapsulation.VECTORS,
        *segments.VECTORS,
        *permits.policies(),
        *(vector for vector in permits.ends() if vector.name in CLOSED),
        *permits.ways(),
        *permits.malformed(),
        *permits.sources(),
        *permits.addresses(),
        *permits.punts(),
        *translated.transports(),
        *translated.delivered(),
        *services.VECTORS,
    )
    if supported(vector)
]


def tables(vector: Vector) -> list[TableEntry]:
    known = [entries.neighbor(port, address, node.host_mac(port)) for port, *both in HOSTS for address in both]
    return [*entries_of(vector), *known]


if SWITCH:
    pytestmark = pytest.mark.root

    @pytest.fixture(scope="module")
    def bmv2() -> Iterator[Bmv2]:
        made = Bmv2(node.PORTS)
        try:
            yield made
        finally:
            made.close()

    @pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)
    def test_vector(bmv2: Bmv2, vector: Vector) -> None:
        bmv2.sync(tables(vector))
        if isinstance(vector.expected, Punt):
            bmv2.send(vector.port, vector.frame)
            told, frame = bmv2.packet_in()
            where = {"ingress_port": vector.port, "vrf": vector.expected.vrf}
            assert told | where | {"reason": vector.expected.reason} == told
            assert frame == vector.expected.frame
            return
        reason = vector.expected.reason
        before = bmv2.counted("drop_counter", reason)
        bmv2.send(vector.port, vector.frame)
        if isinstance(vector.expected, Forward):
            assert bmv2.sent(1) == [(vector.expected.port, vector.expected.frame)]
        else:
            wait_for(lambda: bmv2.counted("drop_counter", reason) > before, f"a drop for reason {reason}")
            assert bmv2.sent(0) == []
            assert bmv2.counted("drop_counter", reason) == before + 1
