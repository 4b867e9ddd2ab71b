"""The vectors once more over real veths: the frame leaves by the port that the model says, by no other, unchanged."""

import select
import socket
import struct
from collections.abc import Iterator

import pytest
from vectors import VECTORS, Vector, entries_of, node
from xdp_node import XdpNode

from dataplane.reference import Forward

pytestmark = pytest.mark.root
SENT = [vector for vector in VECTORS if isinstance(vector.expected, Forward)]
NOT_SENT = [vector for vector in VECTORS if not isinstance(vector.expected, Forward) and vector.port in node.PORTS]
SOL_PACKET, PACKET_AUXDATA, PACKET_OUTGOING, TP_STATUS_VLAN_VALID = 263, 8, 4, 1 << 4
AUXDATA = struct.Struct("=IIIHHHH")
"""tpacket_auxdata: status, len, snaplen, mac, net, vlan_tci, vlan_tpid"""
WAIT_S = 5.0
QUIET_S = 0.02


class Hosts:
    """Raw sockets at the far ends of all ports."""

    def __init__(self, xdp: XdpNode) -> None:
        self.sockets: dict[int, socket.socket] = {}
        with xdp.hosts.entered():
            for number in node.PORTS:
                raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
                raw.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
                raw.setblocking(False)
                raw.bind((f"h{number}", 3))
                self.sockets[number] = raw

    def send(self, port: int, frame: bytes) -> None:
        self.sockets[port].send(frame)

    def received(self, wait_s: float) -> tuple[int, bytes] | None:
        """The next frame from the node at any port; None if there is none within `wait_s`."""
        by_fd = {raw.fileno(): number for number, raw in self.sockets.items()}
        while ready := select.select(list(by_fd), [], [], wait_s)[0]:
            number = by_fd[ready[0]]
            data, ancillary, _, address = self.sockets[number].recvmsg(4096, 64)
            if address[2] != PACKET_OUTGOING:
                return number, _tagged(data, ancillary)
        return None

    def drain(self) -> None:
        while self.received(QUIET_S):
            pass

    def close(self) -> None:
        for raw in self.sockets.values():
            raw.close()


def _tagged(data: bytes, ancillary: list[tuple[int, int, bytes]]) -> bytes:
    """With the 802.1Q tag that the kernel took out."""
    for level, kind, content in ancillary:
        if (level, kind) == (SOL_PACKET, PACKET_AUXDATA):
            status, _, _, _, _, tci, protocol = AUXDATA.unpack(content[: AUXDATA.size])
            if status & TP_STATUS_VLAN_VALID:
                return data[:12] + struct.pack("!HH", protocol, tci) + data[12:]
    return data


@pytest.fixture(scope="module")
def made() -> Iterator[tuple[XdpNode, Hosts]]:
    xdp = XdpNode(node.PORTS)
    hosts = Hosts(xdp)
    try:
        yield xdp, hosts
    finally:
        hosts.close()
        xdp.close()


def prepared(made: tuple[XdpNode, Hosts], vector: Vector) -> Hosts:
    xdp, hosts = made
    xdp.sync(entries_of(vector))
    xdp.forget()
    for port, frame in vector.before:
        hosts.send(port, frame)
    if vector.before:
        hosts.drain()
    hosts.send(vector.port, vector.frame)
    return hosts


@pytest.mark.parametrize("vector", SENT, ids=lambda vector: vector.name)
def test_frame_leaves_by_its_port(made: tuple[XdpNode, Hosts], vector: Vector) -> None:
    hosts = prepared(made, vector)
    assert isinstance(vector.expected, Forward)
    assert hosts.received(WAIT_S) == (vector.expected.port, vector.expected.frame)
    assert hosts.received(0) is None


@pytest.mark.parametrize("vector", NOT_SENT, ids=lambda vector: vector.name)
def test_nothing_leaves(made: tuple[XdpNode, Hosts], vector: Vector) -> None:
    hosts = prepared(made, vector)
    assert hosts.received(QUIET_S) is None
