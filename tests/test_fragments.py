"""Fragments beyond what packet vectors show: time, many CPUs, shares, and packets that are cut for real."""

import contextlib
import os
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from vectors import fragments as cases
from vectors import node
from vectors.case import from_host
from vectors.node import A4, A6, B4, FABRIC, INNER_MTU, A, B, remote4, remote6
from waiting import LIMIT_S
from xdp_node import CUT, DROPPED, SENT, Outcome, XdpNode

from dataplane.host.fragmentation import Fragmenter, fragments, to_cut
from dataplane.reasons import DropReason, PipelineEvent
from dataplane.xdp.bpf import LOOPBACK, RingBuffer, XdpAction

ETH_P_ALL = 3


@contextlib.contextmanager
def running(**constants: int) -> Iterator[XdpNode]:
    made = XdpNode(node.PORTS, **constants)
    try:
        with made.inside():
            made.sync(node.TABLES)
            yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def xdp() -> Iterator[XdpNode]:
    with running() as made:
        yield made


def large(*, identification: int = 1, source: str = A4) -> IP:
    return IP(src=source, dst=remote4(2), id=identification) / UDP(sport=40000, dport=5060) / bytes(1472)


def piece(begin: int, end: int, identification: int = 1, source: str = A4) -> bytes:
    packet = cases.piece(4, (source, remote4(2)), 17, cases.UDP_DATAGRAM, begin, end, identification=identification)
    return from_host(A if source == A4 else B, packet)


@given(size=st.integers(0, 3000), mtu=st.integers(68, 1500), offset=st.integers(0, 7000), more_fragments=st.booleans(),
       identification=st.integers(0, 0xFFFF))  # fmt: skip
def test_pieces_together_are_the_packet(
    size: int, mtu: int, offset: int, more_fragments: bool, identification: int
) -> None:
    """RFC 791 §3.2, read back by scapy."""
    payload = random.Random(size).randbytes(size)
    head = IP(
        src=A4, dst=B4, id=identification, flags="MF" if more_fragments else 0, frag=offset, ttl=9, tos=4, proto=99
    )
    packet = bytes(head / payload)
    pieces = [IP(fragment) for fragment in fragments(packet, mtu)]
    assert b"".join(bytes(piece.payload) for piece in pieces) == payload
    at = offset
    for number, part in enumerate(pieces):
        assert (part.frag, bool(part.flags.MF)) == (at, more_fragments or number < len(pieces) - 1)
        assert (part.id, part.ttl, part.tos, part.proto, part.src, part.dst) == (identification, 9, 4, 99, A4, B4)
        assert part.len == len(part) <= mtu
        assert part.version == 4
        rebuilt = part.copy()
        del rebuilt.chksum
        assert bytes(rebuilt) == bytes(part)
        assert number == len(pieces) - 1 or len(part.payload) % 8 == 0
        at += len(part.payload) // 8


@pytest.mark.root
def test_a_first_fragment_is_forgotten_after_a_time() -> None:
    with running(fragment_lifetime_ms=1) as short:
        assert short.run(A, piece(0, 800)).kind == SENT
        time.sleep(0.01)  # the lifetime itself
        assert short.run(A, piece(800, 1208), DropReason.FRAGMENT) == Outcome(DROPPED, DropReason.FRAGMENT)
        # Another packet may have the identification then.
        assert short.run(A, piece(0, 800)).kind == SENT


@pytest.mark.root
def test_nobody_takes_the_room_of_another_port(xdp: XdpNode) -> None:
    """B sends first fragments without end, from one address and from as many as it likes; A's packet is whole."""
    xdp.forget()
    before = xdp.events()[PipelineEvent.FRAGMENT_EVICTED]
    assert xdp.run(A, piece(0, 800)).kind == SENT
    for number in range(400):
        xdp.run(B, piece(0, 800, identification=number, source=B4 if number % 2 else f"10.1.{number % 250}.12"))
    assert xdp.run(A, piece(800, 1208)).kind == SENT
    assert xdp.events()[PipelineEvent.FRAGMENT_EVICTED] - before > 200


@pytest.mark.root
def test_fragments_of_one_packet_on_two_cpus_pass_once_each(xdp: XdpNode) -> None:
    """Each piece is offered by both CPUs at once: one of the two passes."""
    pieces = [(0, 400), (400, 600), (600, 800), (800, 1000), (1000, 1208)]
    frames = [[piece(*place, identification=number) for place in pieces] for number in range(60)]
    cpus = sorted(os.sched_getaffinity(0) | set(range(os.cpu_count() or 1)))[:2]
    barrier = threading.Barrier(len(cpus))
    passed: list[tuple[int, int]] = []

    def offer(cpu: int) -> None:
        with xdp.node.entered():
            os.sched_setaffinity(0, {cpu})
            for identification in range(60):
                barrier.wait()
                for at, frame in enumerate(frames[identification]):
                    if at == 1:
                        barrier.wait()  # the first has passed
                    done = xdp.program.test_run(frame, ifindex=xdp.ifindex[A])
                    if done.action == XdpAction.REDIRECT:
                        passed.append((identification, at))

    xdp.forget()
    threads = [threading.Thread(target=offer, args=(cpu,)) for cpu in cpus]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(passed) == len(set(passed)), "no piece passed twice"
    whole = {identification for identification, at in passed if at == 0}
    assert len(whole) > 20, "where both kept a first at the same moment, both gave way"
    assert set(passed) == {(identification, at) for identification in whole for at in range(len(pieces))}


@pytest.mark.root
def test_who_sends_too_many_large_packets_is_told_instead() -> None:
    with running(cut_limit=3) as slow:
        outcomes = []
        while len(outcomes) < 5000 and (not outcomes or outcomes[-1].kind == CUT):
            outcomes.append(slow.run(A, from_host(A, large(identification=len(outcomes))), DropReason.TOO_BIG))
        assert outcomes[-1].kind == SENT and outcomes[-1].reason == DropReason.TOO_BIG
        assert outcomes[2].kind == CUT
        # Another port has its own.
        assert slow.run(B, from_host(B, large(source=B4))).kind == CUT


@pytest.mark.root
def test_when_nobody_cuts_the_sender_is_told(xdp: XdpNode) -> None:
    """The agent is away: some packets wait, the rest is answered; what waited too long is dropped, and counted."""
    frame = from_host(A, large())
    waiting = 0
    while xdp.program.test_run(frame, ifindex=xdp.ifindex[A]).action == XdpAction.DROP:
        waiting += 1
        assert waiting < 10_000
    assert waiting > 100
    ring = RingBuffer(xdp.object.map("cut"))
    try:
        records = ring.consume()
    finally:
        ring.close()
    assert len(records) == waiting
    old = to_cut(records[0])
    stale = old.judged[:8] + struct.pack("=Q", 1) + old.judged[16:]
    before = xdp.drops(DropReason.TOO_BIG)
    for sent in old.frames():
        assert xdp.program.test_run(sent, metadata=stale).action == XdpAction.DROP
    assert xdp.drops(DropReason.TOO_BIG) == before + 2


@pytest.mark.root
def test_only_the_agent_says_what_a_piece_is(xdp: XdpNode) -> None:
    """A host's XDP program can put metadata in front of its frames: here it means nothing."""
    denied = from_host(A, IP(src=A4, dst="198.51.100.1") / UDP(sport=40000, dport=5060))
    xdp.program.test_run(from_host(A, large()), ifindex=xdp.ifindex[A])
    (record,) = xdp.cuts.consume()
    judged = to_cut(record).judged
    before = xdp.drops(DropReason.NOT_PERMITTED)
    done = xdp.program.test_run(denied, ifindex=xdp.ifindex[A], metadata=judged)
    assert (done.action, xdp.drops(DropReason.NOT_PERMITTED)) == (XdpAction.DROP, before + 1)
    # As a piece it is judged by the tables too, with the source that it has.
    strange = from_host(A, IP(src=B4, dst=remote4(2)) / UDP(sport=40000, dport=5060))
    before = xdp.drops(DropReason.SOURCE_NOT_ADMITTED)
    done = xdp.program.test_run(strange, ifindex=LOOPBACK, metadata=judged)
    assert (done.action, xdp.drops(DropReason.SOURCE_NOT_ADMITTED)) == (XdpAction.DROP, before + 1)


@pytest.mark.root
def test_pieces_leave_by_the_port_of_their_flow(xdp: XdpNode) -> None:
    """Live: a host's frame comes in, two frames arrive at the other end of the fabric link, in order."""
    with xdp.hosts.entered():
        listener = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        listener.bind((f"h{FABRIC}", 0))
        listener.settimeout(LIMIT_S)
    failed: list[tuple[int, Exception]] = []
    with listener:
        xdp.program.run_live(from_host(A, large()), ifindex=xdp.ifindex[A], repeat=1, batch=1)
        (record,) = xdp.cuts.consume()
        Fragmenter(xdp.program, lambda port, error: failed.append((port, error))).receive(record)
        assert not failed
        inner = [IP(listener.recv(4096)[14 + 40 :]) for _ in range(2)]
    assert [(part.frag, bool(part.flags.MF)) for part in inner] == [(0, True), ((INNER_MTU - 20) // 8, False)]
    assert sum(len(part.payload) for part in inner) == 1480


@pytest.mark.root
def test_ipv6_is_never_cut(xdp: XdpNode) -> None:
    packet = IPv6(src=A6, dst=remote6(2)) / UDP(sport=40000, dport=5060) / bytes(1400)
    assert xdp.run(A, from_host(A, packet), DropReason.TOO_BIG).reason == DropReason.TOO_BIG
    assert not xdp.cuts.consume()
