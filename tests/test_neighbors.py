"""Hosts are asked for their MAC addresses before there are packets for them."""

import asyncio
import contextlib
import math
import random
import signal
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import vectors.node
from agents import AgentProcess, Bpffs
from controllers import Controller, entry
from map_fake import FakeMap
from namespaces import Namespace, veth
from pipeline_tables import LAYOUT, fake_maps
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether
from vectors.case import arp_reply, from_host, neighbor_advertisement, to_station
from vectors.entries import address
from vectors.node import A4, A6, B4, BOOTTIME_S, GATEWAY4, GATEWAY6, A, B, C, host_mac, port_mac
from waiting import LIMIT_S, until, wait_for
from xdp_node import SENT, XdpNode

from dataplane.entry import TableEntry
from dataplane.errors import RequestInvalid
from dataplane.host.neighbors import Neighbors, question
from dataplane.host.ports import PortAddresses
from dataplane.host_api import Gateway, HostState
from dataplane.p4runtime.codec import pack
from dataplane.p4runtime.columns import from_packed
from dataplane.reasons import NEIGHBORS_OF_PORT, PipelineEvent
from dataplane.reference import Pipeline
from dataplane.tables.node_tables import Run, Tables
from dataplane.tables.stores import Operation
from dataplane.xdp.bpf import Map

MAC = bytes.fromhex("020000000001")
IPV4, IPV6 = socket.inet_aton("10.1.0.1"), socket.inet_pton(socket.AF_INET6, "2001:db8:1::1")
NONE = PortAddresses(mac=MAC, ipv4=bytes(4), ipv6=bytes(16))


def guard(port: int, source: str) -> TableEntry:
    return entry("source_guard", "admit", ingress_port=port, source=source)


def attachment(port: int, vlan: int = 0) -> TableEntry:
    return entry("attachment", "attach", params={"vrf": 7, "policy_class": 8}, ingress_port=port, vlan_id=vlan)


def key(port: int, address: str) -> bytes:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    mapped = b"" if ":" in address else bytes(10) + b"\xff\xff"
    return port.to_bytes(2, "little") + bytes(6) + mapped + socket.inet_pton(family, address)


class Edge:
    """Everything but the kernel: tables and `neighbor` in memory, and what was sent."""

    def __init__(self) -> None:
        self.tables = Tables(LAYOUT, fake_maps())
        self.known = FakeMap(24, 24, 512)
        self.ports: dict[int, PortAddresses] = {2: PortAddresses(mac=MAC, ipv4=IPV4, ipv6=IPV6)}
        self.sent: list[tuple[int, str]] = []
        self.at: list[tuple[int, str]] = []
        """MACs that were asked alone."""
        self.heard_s: dict[bytes, float] = {}
        """When the flow cache saw something from an address."""
        self.now_s = 0.0
        self.neighbors = Neighbors(self.tables, self.known, self, self._send, self._silence_s)

    def addresses(self, number: int) -> PortAddresses | None:
        return self.ports.get(number)

    def _silence_s(self, hosts: Sequence[tuple[int, bytes]]) -> list[float]:
        return [self.now_s - self.heard_s.get(address, -math.inf) for _, address in hosts]

    def write(self, operation: Operation, *entries: TableEntry) -> None:
        for written in entries:
            table = LAYOUT.by_name[written.table]
            assert not self.tables.write([Run(operation, table, from_packed(table, [pack(table, written)]), 0)])

    def asked(self, now_s: float) -> list[tuple[int, str]]:
        """Whom it asks then."""
        self.neighbors.read(now_s)
        self.neighbors.ask(now_s)
        sent, self.sent = self.sent, []
        return sent

    def _send(self, port: int, frame: bytes) -> None:
        if port == 9:
            raise RequestInvalid("port 9 does not take it")
        seen = Ether(frame)
        assert seen.src == MAC.hex(":")
        if not int(seen.dst[:2], 16) & 1:
            assert ARP in seen or seen[IPv6].dst == seen[ICMPv6ND_NS].tgt
            self.at.append((port, seen.dst))
        self.sent.append((port, seen[ARP].pdst if ARP in seen else seen[ICMPv6ND_NS].tgt))


HOST = "02:00:00:00:07:07"


def knows(edge: Edge, address: str, confirmed_s: float, mac: str = HOST, waiting_s: float = 0) -> None:
    mac_and_slot = bytes.fromhex(mac.replace(":", "")) + bytes(2)
    edge.known.update(key(2, address), mac_and_slot + struct.pack("<QQ", int(confirmed_s * 1e9), int(waiting_s * 1e9)))


def test_the_question_of_ipv4_is_an_arp_request_of_the_gateway() -> None:
    seen = Ether(question(MAC, IPV4, socket.inet_aton("10.1.0.11")))
    assert (seen.dst, seen.src, seen.type) == ("ff:ff:ff:ff:ff:ff", "02:00:00:00:00:01", 0x0806)
    assert (seen[ARP].op, seen[ARP].hwsrc, seen[ARP].psrc) == (1, "02:00:00:00:00:01", "10.1.0.1")
    assert (seen[ARP].hwdst, seen[ARP].pdst) == ("00:00:00:00:00:00", "10.1.0.11")


def test_the_question_of_ipv6_is_a_valid_solicitation_of_the_gateway() -> None:
    target = socket.inet_pton(socket.AF_INET6, "2001:db8:1::ab:cdef")
    frame = question(MAC, IPV6, target)
    seen = Ether(frame)
    assert (seen.dst, seen[IPv6].dst) == ("33:33:ff:ab:cd:ef", "ff02::1:ffab:cdef")
    assert (seen[IPv6].src, seen[IPv6].hlim) == ("2001:db8:1::1", 255)
    assert (seen[ICMPv6ND_NS].tgt, seen[ICMPv6NDOptSrcLLAddr].lladdr) == ("2001:db8:1::ab:cdef", "02:00:00:00:00:01")
    again = Ether(frame)
    del again[ICMPv6ND_NS].cksum
    assert bytes(again) == frame


def test_a_silent_host_is_asked_ever_more_seldom() -> None:
    edge = Edge()
    edge.write(Operation.INSERT, attachment(2), guard(2, "10.1.0.11/32"))
    times, now_s = [], 100.0
    while now_s < 400:
        if edge.asked(now_s):
            times.append(now_s - 100)
        now_s += edge.neighbors.ask(now_s) or 0
    assert times == [0, 1, 3, 7, 15, 31, 63, 123, 183, 243]
    edge.neighbors.begin_anew()
    assert edge.asked(345.0) == [(2, "10.1.0.11")]
    assert edge.asked(346.5) == []
    assert edge.asked(347.0) == [(2, "10.1.0.11")]


def test_only_hosts_that_can_answer_and_are_not_known_are_asked() -> None:
    edge = Edge()
    edge.ports |= {3: PortAddresses(mac=MAC, ipv4=IPV4, ipv6=bytes(16)), 4: NONE, 5: edge.ports[2], 6: edge.ports[2]}
    knows(edge, "10.1.0.12", 1000.0)
    both = ("10.1.0.11/32", "2001:db8:1::11/128")
    guards = [guard(port, source) for port in (2, 3, 4, 5, 6, 7) for source in both]
    guards += [guard(2, source) for source in ("10.1.0.12/32", "10.1.0.1/32", "10.1.0.64/26")]
    edge.write(Operation.INSERT, *guards, *(attachment(port) for port in (2, 3, 4, 7)), attachment(5, vlan=8))
    assert edge.asked(0.0) == [(2, "10.1.0.11"), (2, "2001:db8:1::11"), (3, "10.1.0.11")]
    edge.ports[4] = edge.ports[2]  # its gateway was set
    assert edge.asked(0.1) == [(4, "10.1.0.11"), (4, "2001:db8:1::11")]
    edge.write(Operation.INSERT, attachment(6))
    edge.write(Operation.DELETE, guard(2, "10.1.0.11/32"))
    assert edge.asked(0.2) == [(6, "10.1.0.11"), (6, "2001:db8:1::11")]
    assert (2, "10.1.0.11") not in edge.asked(1.5)


def test_who_is_admitted_no_more_is_forgotten() -> None:
    edge = Edge()
    addresses = ("10.1.0.11", "10.1.0.12", "10.1.0.70", "10.1.0.200", "2001:db8:1::11", "2001:db8:2::11")
    guards = [guard(2, source) for source in ("10.1.0.11/32", "10.1.0.12/32", "10.1.0.64/26", "2001:db8:1::/64")]
    edge.write(Operation.INSERT, *guards)
    for each in addresses:
        edge.known.update(key(2, each), MAC + bytes(18))
    edge.known.update(key(3, "10.1.0.70"), MAC + bytes(18))
    edge.asked(0.0)
    assert edge.known.data.keys() == {key(2, addresses[number]) for number in (0, 1, 2, 4)}
    edge.write(Operation.DELETE, guards[0], guards[2])
    edge.asked(0.0)
    assert edge.known.data.keys() == {key(2, addresses[number]) for number in (1, 4)}


def test_there_are_no_more_questions_than_answers_find_room() -> None:
    """Of a port that is full; others are asked all the same."""
    edge = Edge()
    edge.ports[3] = edge.ports[2]
    for host in range(NEIGHBORS_OF_PORT - 5):
        knows(edge, f"2001:db8:1::{host:x}", 1000.0)
    edge.write(Operation.INSERT, attachment(2), attachment(3), guard(2, "2001:db8:1::/64"), guard(3, "10.1.0.9/32"))
    edge.write(Operation.INSERT, *(guard(2, f"10.1.0.{host}/32") for host in range(10, 40)))
    assert edge.asked(0.0) == [*((2, f"10.1.0.{host}") for host in range(10, 15)), (3, "10.1.0.9")]


def wait_until_asked(edge: Edge, now_s: float, until_s: float) -> float:
    while not edge.sent and now_s < until_s:
        now_s += edge.neighbors.ask(now_s) or 0
    return now_s


@pytest.mark.parametrize("address", ["10.1.0.11", "2001:db8:1::11"])
def test_a_known_host_is_asked_again_alone_then_by_everybody_and_forgotten(address: str) -> None:
    edge = Edge()
    edge.write(Operation.INSERT, attachment(2), guard(2, f"{address}/{128 if ':' in address else 32}"))
    knows(edge, address, 1000.0)
    edge.neighbors.read(1000.0)
    now_s = wait_until_asked(edge, 1000.0, 1100.0)
    assert 1010 <= now_s <= 1036, "within half to one and a half times the time that an answer counts"
    for at in ([(2, HOST)], [(2, HOST)], [(2, HOST)], [], [], []):
        assert (edge.sent, edge.at) == ([(2, address)], at)
        assert key(2, address) in edge.known.data
        edge.sent, edge.at = [], []
        now_s = wait_until_asked(edge, now_s, now_s + 1.5)
    assert key(2, address) not in edge.known.data
    assert (edge.sent, edge.at) == ([(2, address)], []), "as a silent host"


def test_a_host_that_answers_is_left_alone_and_one_in_doubt_is_asked_at_once() -> None:
    edge = Edge()
    edge.write(Operation.INSERT, attachment(2), guard(2, "10.1.0.11/32"))
    knows(edge, "10.1.0.11", 0)
    assert edge.asked(1000.0) == [(2, "10.1.0.11")]
    assert edge.at == [(2, HOST)]
    knows(edge, "10.1.0.11", 1000.1)
    assert edge.asked(1001.5) == []
    now_s = wait_until_asked(edge, 1001.5, 1100.0)
    assert now_s >= 1010
    edge.sent = []
    knows(edge, "10.1.0.11", now_s + 0.1)
    assert edge.asked(now_s + 5) == []
    knows(edge, "10.1.0.11", 0)
    assert edge.asked(now_s + 5.1) == [(2, "10.1.0.11")]


def test_a_host_from_which_nothing_comes_back_is_asked_before_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 4861 §7.3.3: 5 s of packets, then three questions at its MAC, then to all; who is heard is left alone."""
    monkeypatch.setattr(random, "uniform", lambda least, most: most)  # who is soon due is asked together with others
    edge = Edge()
    edge.write(Operation.INSERT, attachment(2), guard(2, "10.1.0.11/32"), guard(2, "10.1.0.12/32"))
    other = "02:00:00:00:07:08"
    edge.neighbors.read(1000.0)

    def asked_until(until_s: float, confirmed_s: float, waiting_s: float, mac: str) -> list[tuple[float, bool]]:
        """When, and whether alone. Packets go to .12 too, from which something came a second ago."""
        edge.now_s, seen = confirmed_s, []
        while edge.now_s < until_s:
            knows(edge, "10.1.0.11", confirmed_s, mac, waiting_s)
            knows(edge, "10.1.0.12", confirmed_s, mac, waiting_s)
            edge.sent, edge.at = [], []
            edge.heard_s[key(2, "10.1.0.12")[8:]] = edge.now_s - 1
            wait_s = edge.neighbors.ask(edge.now_s) or 0
            assert {address for _, address in edge.sent} <= {"10.1.0.11"}
            seen += [(round(edge.now_s, 1), edge.at == [(2, mac)]) for _ in edge.sent]
            edge.now_s += wait_s
        return seen

    edge.heard_s[key(2, "10.1.0.11")[8:]] = 1001.5
    seen = asked_until(1009.9, 1000.0, 1001.0, HOST)
    assert seen == [(1006.5, True), (1007.5, True), (1008.5, True), (1009.5, False)]
    seen = asked_until(1018.5, 1009.9, 1010.0, other)
    assert seen == [(1015.0, True), (1016.0, True), (1017.0, True), (1018.0, False)], "it only listens"


def test_an_agent_that_takes_over_keeps_what_was_learnt_and_asks_who_is_due() -> None:
    edge = Edge()
    edge.write(Operation.INSERT, attachment(2), guard(2, "10.1.0.0/24"))
    knows(edge, "10.1.0.11", 900.0)
    knows(edge, "10.1.0.12", 999.0)
    assert edge.asked(1000.0) == [(2, "10.1.0.11")]
    assert edge.known.data.keys() == {key(2, "10.1.0.11"), key(2, "10.1.0.12")}


def test_who_cannot_be_asked_is_not_forgotten() -> None:
    """Without a gateway address there is nobody who could ask."""
    edge = Edge()
    edge.ports[2] = NONE
    edge.write(Operation.INSERT, attachment(2), guard(2, "10.1.0.11/32"))
    knows(edge, "10.1.0.11", 10.0)
    for second in range(1000, 1060):
        assert edge.asked(second) == []
    assert (edge.neighbors.ask(1060.0) or 0) > 1
    assert key(2, "10.1.0.11") in edge.known.data


def test_a_port_that_takes_no_frame_does_not_keep_others_waiting() -> None:
    edge = Edge()
    edge.ports[9] = edge.ports[2]
    edge.write(Operation.INSERT, attachment(2), attachment(9), guard(9, "10.1.0.9/32"), guard(2, "10.1.0.11/32"))
    assert edge.asked(0.0) == [(2, "10.1.0.11")]
    assert edge.neighbors.ask(0.0) == 1.0


@pytest.mark.parametrize("turns", range(6))
def test_it_ends_when_cancelled_also_where_something_just_changed(turns: int) -> None:
    async def change_and_end() -> None:
        edge = Edge()
        edge.write(Operation.INSERT, attachment(2), guard(2, "10.1.0.11/32"))  # a silent host, to be asked again
        neighbors = edge.neighbors
        running = asyncio.create_task(neighbors.run())
        await until(lambda: edge.sent, "the host has been asked")
        neighbors.look()
        for _ in range(turns):  # of the event loop
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait([running], timeout=60)
        assert running.cancelled()

    asyncio.run(change_and_end())


# With XDP


@pytest.fixture(scope="module")
def xdp() -> Iterator[XdpNode]:
    made = XdpNode(vectors.node.PORTS)
    try:
        with made.inside():
            made.sync(vectors.node.TABLES)
            yield made
    finally:
        made.close()


def of_port_c(number: int) -> str:
    """What C may use."""
    return f"2001:db8:1::1:{number:x}"


def in_kernel(xdp: XdpNode) -> dict[tuple[int, int], bytes]:
    """As the model has it."""
    keys, values = xdp.object.map("neighbor_cache").items()
    rows = zip(struct.iter_unpack("<H6x16s", keys), struct.iter_unpack("6s18x", values), strict=True)
    return {(port, int.from_bytes(address)): mac for (port, address), (mac,) in rows}


@pytest.mark.root
def test_a_port_forgets_its_eldest_and_nobody_elses_neighbors(xdp: XdpNode) -> None:
    xdp.forget()
    model, before = Pipeline(vectors.node.TABLES, vectors.node.PORTS), xdp.events()
    moved = "02:00:00:00:09:09"
    said = [
        (A, arp_reply(A, A4)),
        (B, arp_reply(B, B4)),
        *((C, neighbor_advertisement(C, of_port_c(number))) for number in range(NEIGHBORS_OF_PORT)),
        (C, neighbor_advertisement(C, of_port_c(3), moved)),
        *((C, neighbor_advertisement(C, of_port_c(number))) for number in range(NEIGHBORS_OF_PORT, 700)),
        (C, neighbor_advertisement(C, of_port_c(699), moved)),
        (C, neighbor_advertisement(C, of_port_c(0))),
    ]
    for port, frame in said:
        model.run(port, frame, BOOTTIME_S)
        xdp.run(port, frame)
    assert in_kernel(xdp) == model.neighbors
    kept = {number for number in range(700) if (C, address(of_port_c(number))) in model.neighbors}
    assert kept == {0, *range(700 - NEIGHBORS_OF_PORT + 1, 700)}
    assert {port for port, _ in model.neighbors} == {A, B, C}
    for event in (PipelineEvent.NEIGHBOR_LEARNT, PipelineEvent.NEIGHBOR_EVICTED):
        assert xdp.events()[event] - before[event] == model.events[event] > 400


@pytest.mark.root
def test_a_port_keeps_the_last_that_it_learnt_also_where_user_space_forgets(xdp: XdpNode) -> None:
    """A slot may name what was deleted, and learnt again since in another slot."""
    xdp.forget()
    rng = random.Random(4861)
    neighbors = xdp.object.map("neighbor_cache")
    addresses = [address(of_port_c(number)) for number in range(400)]
    learnt: dict[int, int] = {}
    """Host number → which learnt one it is."""
    count = 0
    for _ in range(3000):
        number = rng.randrange(len(addresses))
        if rng.random() < 0.2:
            neighbors.delete(key(C, of_port_c(number)))
            learnt.pop(number, None)
            continue
        if number not in learnt:
            count += 1
            learnt = {other: at for other, at in learnt.items() if at > count - NEIGHBORS_OF_PORT} | {number: count}
        mac = f"02:00:00:00:09:{rng.randrange(4):02x}"
        xdp.run(C, neighbor_advertisement(C, of_port_c(number), mac))
        learnt_macs = in_kernel(xdp)
        assert learnt_macs.keys() == {(C, addresses[other]) for other in learnt}
        assert learnt_macs[C, addresses[number]] == bytes.fromhex(mac.replace(":", ""))
    assert count > 4 * NEIGHBORS_OF_PORT


def said(mac: str, **flags: int) -> bytes:
    """A's advertisement to the gateway; with `option`: its MAC in it, else only as the frame's source."""
    option = flags.pop("option", 0)
    message = ICMPv6ND_NA(tgt=A6, **{"R": 0, "S": 0, "O": 0, **flags})
    packet = IPv6(src=A6, dst=GATEWAY6, hlim=255) / message
    return bytes(Ether(src=mac, dst=port_mac(A)) / (packet / ICMPv6NDOptDstLLAddr(lladdr=mac) if option else packet))


@pytest.mark.root
def test_what_confirms_a_mac_and_what_brings_it_into_doubt(xdp: XdpNode) -> None:
    """RFC 4861 §7.2.5; ARP: only an answer to us confirms, though it may be sent to all."""
    own, other = host_mac(A), "02:00:00:00:07:07"
    asks = from_host(A, ARP(op=1, hwsrc=own, psrc=A4, pdst=GATEWAY4))
    announces = to_station("ff:ff:ff:ff:ff:ff", from_host(A, ARP(op=2, hwsrc=own, psrc=A4, pdst=A4)))
    moved = from_host(A, ARP(op=1, hwsrc=other, psrc=A4, pdst=GATEWAY4))
    for steps in (
        ((asks, False), (arp_reply(A, A4), True), (announces, True), (asks, True), (moved, False)),
        ((announces, False), (arp_reply(A, A4), True)),
        ((announces, False), (to_station("ff:ff:ff:ff:ff:ff", arp_reply(A, A4)), True)),
        ((said(own, S=1), None), (said(own, S=1, option=1), True), (said(other, S=1), False), (said(own, S=1), True)),
        ((said(own, O=1, option=1), False), (said(own, S=1), True), (said(other, option=1), False)),
        ((said(own, S=1, O=1, option=1), True), (said(other, O=1, option=1), False), (said(other, S=1), True)),
        ((said(own, S=1, option=1), True), (said(other, S=1, O=1, option=1), True)),
    ):
        xdp.forget()
        model = Pipeline(vectors.node.TABLES, vectors.node.PORTS)
        for frame, confirmed in steps:
            model.run(A, frame, BOOTTIME_S)
            xdp.run(A, frame)
            keys, values = xdp.object.map("neighbor_cache").items()
            assert in_kernel(xdp) == model.neighbors
            stamps = [stamp for (stamp,) in struct.iter_unpack("<8xQ8x", values)]
            assert [stamp > 0 for stamp in stamps] == [confirmed][: len(keys) // 24]
            assert list(model.confirmed_s) == list(model.neighbors) if confirmed else not model.confirmed_s


def waits(xdp: XdpNode) -> dict[int, int]:
    """By port: the first packet to its host since that answered."""
    keys, values = xdp.object.map("neighbor_cache").items()
    rows = zip(struct.iter_unpack("<H22x", keys), struct.iter_unpack("<16xQ", values), strict=True)
    return {port: waiting_ns for (port,), (waiting_ns,) in rows if waiting_ns}


@pytest.mark.root
def test_the_first_packet_to_a_host_since_it_answered_is_noted_and_so_is_who_sends(xdp: XdpNode) -> None:
    xdp.forget()
    xdp.run(A, arp_reply(A, A4))
    xdp.run(B, arp_reply(B, B4))
    hosts = [(port, address(text).to_bytes(16)) for port, text in ((A, A4), (B, B4), (B, A4), (C, A4))]
    there, back = from_host(A, IP(src=A4, dst=B4) / UDP()), from_host(B, IP(src=B4, dst=A4) / UDP())
    assert waits(xdp) == {}
    assert xdp.flows.silence_s(hosts) == [math.inf] * len(hosts)
    assert xdp.run(A, there).kind == SENT
    (first,) = waits(xdp).items()
    assert first[0] == B
    xdp.run(A, there)
    assert waits(xdp) == dict([first])
    xdp.age_flows(100)
    assert xdp.run(B, back).kind == SENT
    assert waits(xdp).keys() == {A, B}
    silent = xdp.flows.silence_s(hosts)
    assert silent[1] < 100 <= silent[0] < math.inf
    assert silent[2:] == [math.inf] * 2, "not at that port"
    xdp.run(B, arp_reply(B, B4))
    assert waits(xdp).keys() == {A}


# With the kernel

HOSTS = {2: ("10.1.0.11", "2001:db8:1::11"), 3: ("10.2.0.11", "2001:db8:2::11")}
GATEWAYS = HostState(
    gateways=tuple(
        Gateway(port=port, ipv4=f"10.{port - 1}.0.1", ipv6=f"2001:db8:{port - 1}::1") for port in sorted(HOSTS)
    )
)
ENTRIES = [
    *(attachment(port) for port in HOSTS),
    *(guard(port, f"{address}/{128 if ':' in address else 32}") for port in HOSTS for address in HOSTS[port]),
    entry("flow_policy", "permit", 1, {"forwarding_class": 5}, policy_class=8),
    entry("steer", "deliver", params={"vrf": 7}, forwarding_class=5),
    *(entry("next_hop", "resolve", params={"port": port}, next_hop=port) for port in HOSTS),
    *(
        entry("route", "set_next_hop", params={"next_hop": port}, vrf=7, destination=f"{address}/{length}")
        for port, addresses in HOSTS.items()
        for address, length in zip(addresses, (32, 128), strict=True)
    ),
]


def pieces(data: bytes) -> list[bytes]:
    """Keys or values of `neighbor_cache`, 24 bytes each."""
    return [data[at : at + 24] for at in range(0, len(data), 24)]


class Node:
    """Two hosts that never say anything of their own accord, and the edge between them."""

    def __init__(self, directory: Path, pins: Path) -> None:
        self.namespace = Namespace("edge")
        self.hosts = {port: Namespace(f"h{port}") for port in HOSTS}
        for port, host in self.hosts.items():
            veth(self.namespace, f"h{port}", host, "eth0")
            host.run("ethtool", "-K", "eth0", "tx", "off", "tso", "off", "gso", "off", "gro", "on")
            host.ip("addr", "add", f"{HOSTS[port][0]}/24", "dev", "eth0")
            host.ip("addr", "add", f"{HOSTS[port][1]}/64", "dev", "eth0", "nodad")
            host.ip("route", "add", "default", "via", f"10.{port - 1}.0.1")
            host.ip("route", "add", "default", "via", f"2001:db8:{port - 1}::1")
        ports = [{"number": port, "interface": f"h{port}", "role": "attachment"} for port in HOSTS]
        self.agent = AgentProcess(self.namespace, directory / "edge", pins, ports=ports)

    def known(self) -> dict[bytes, bytes]:
        """`neighbor`, as XDP has it: key → MAC."""
        with self._known() as neighbor:
            return {at: value[:6] for at, value in zip(*map(pieces, neighbor.items()), strict=True)}

    def _known(self) -> Map:
        (pin,) = Path(self.agent.config["pin_dir"]).glob("maps-*/neighbor_cache")
        return Map.open_pinned(pin)

    def doubt(self) -> None:
        """As if what is known had not been confirmed for long."""
        with self._known() as neighbor:
            for at, value in zip(*map(pieces, neighbor.items()), strict=True):
                neighbor.update(at, value[:8] + bytes(16))

    def waiting(self) -> set[bytes]:
        """To whom packets went since they answered."""
        with self._known() as neighbor:
            return {at for at, value in zip(*map(pieces, neighbor.items()), strict=True) if any(value[16:])}

    def wait(self, seconds: int) -> None:
        """As if they waited so much longer, and all had answered a moment ago."""
        with self._known() as neighbor:
            for at, value in zip(*map(pieces, neighbor.items()), strict=True):
                since_ns = max(int.from_bytes(value[16:], "little") - seconds * 10**9, 0)
                now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
                neighbor.update(at, value[:8] + struct.pack("<QQ", now_ns, since_ns))

    def expected(self) -> dict[bytes, bytes]:
        macs: dict[bytes, bytes] = {}
        for port, host in self.hosts.items():
            mac = host.ip("-o", "link", "show", "eth0").split("link/ether ")[1].split()[0]
            macs |= {key(port, address): bytes.fromhex(mac.replace(":", "")) for address in HOSTS[port]}
        return macs

    def remove(self) -> None:
        self.agent.remove()
        for namespace in (*self.hosts.values(), self.namespace):
            namespace.remove()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    pins = Bpffs(tmp_path / "bpf")
    made = Node(tmp_path, pins.path)
    try:
        yield made
    finally:
        made.remove()
        pins.remove()


@pytest.mark.root
@pytest.mark.parametrize("gateways_first", [True, False])
def test_first_packets_arrive(node: Node, gateways_first: bool) -> None:
    node.agent.start()
    with contextlib.closing(Controller(node.agent)) as controller:
        if gateways_first:
            node.agent.sync(GATEWAYS)
        controller.insert(*ENTRIES)
        if not gateways_first:
            assert node.known() == {}
            node.agent.sync(GATEWAYS)
        wait_for(lambda: node.known() == node.expected())
        for address in HOSTS[3]:
            assert " 0% packet loss" in node.hosts[2].run("ping", "-c1", "-W10", address)
        gone = guard(2, "10.1.0.11/32")
        controller.delete(gone)
        wait_for(lambda: key(2, "10.1.0.11") not in node.known())
        assert len(node.known()) == 3


@pytest.mark.root
def test_an_agent_that_takes_over_asks_hosts_that_are_not_known(node: Node) -> None:
    node.agent.start()
    node.agent.sync(GATEWAYS)
    node.hosts[3].ip("link", "set", "eth0", "down")
    with contextlib.closing(Controller(node.agent)) as controller:
        controller.insert(*ENTRIES)
    here = {key(2, address): node.expected()[key(2, address)] for address in HOSTS[2]}
    wait_for(lambda: node.known() == here)
    node.agent.end(signal.SIGKILL)
    node.hosts[3].ip("link", "set", "eth0", "up")
    node.hosts[3].ip("addr", "replace", f"{HOSTS[3][1]}/64", "dev", "eth0", "nodad")  # went with the link
    node.agent.start()
    wait_for(lambda: node.known() == node.expected())


@pytest.mark.root
@pytest.mark.parametrize("used", [False, True])
def test_a_host_that_has_another_mac_and_says_nothing_is_found(node: Node, *, used: bool) -> None:
    node.agent.start()
    node.agent.sync(GATEWAYS)
    with contextlib.closing(Controller(node.agent)) as controller:
        controller.insert(*ENTRIES)
    wait_for(lambda: node.known() == node.expected())
    host, before = node.hosts[3], node.known()
    host.run("sysctl", "-qw", "net.ipv6.conf.eth0.ndisc_notify=0", "net.ipv4.conf.eth0.arp_notify=0")
    host.ip("link", "set", "eth0", "address", "02:00:00:00:07:07")
    host.ip("neigh", "flush", "all")
    at = {key(3, text) for text in HOSTS[3]}
    assert not node.waiting() & at
    if used:
        for text in HOSTS[3]:
            node.hosts[2].run("sh", "-c", f"! ping -c1 -W1 {text}")
        assert node.waiting() & at == at
        node.wait(5)
    else:
        node.doubt()  # sooner than by the clock
    wait_for(lambda: node.known() == node.expected() != before)
    for text in HOSTS[3]:
        assert " 0% packet loss" in node.hosts[2].run("ping", "-c1", "-W10", text)


def give(host: Namespace, device: str, addresses: tuple[str, ...], network: int) -> None:
    """These addresses and no others, without a word to anybody."""
    host.run("sysctl", "-qw", f"net.ipv6.conf.{device}.ndisc_notify=0", f"net.ipv4.conf.{device}.arp_notify=0")
    host.ip("addr", "flush", "dev", device, "scope", "global")
    for text in addresses:
        host.ip("addr", "add", f"{text}/{64 if ':' in text else 24}", "dev", device, "nodad")
    for gateway in (f"10.{network}.0.1", f"2001:db8:{network}::1") if addresses else ():
        host.ip("route", "replace", "default", "via", gateway)
    host.ip("neigh", "flush", "all")


@pytest.mark.root
def test_hosts_that_change_places_and_say_nothing_are_found(node: Node) -> None:
    """First two behind one port swap their addresses, then two ports their hosts."""
    second, neighbour = ("10.1.0.12", "2001:db8:1::12"), Namespace("neighbour")
    h2, h3 = node.hosts[2], node.hosts[3]
    try:
        h2.ip("link", "add", "link", "eth0", "name", "eth1", "type", "macvlan", "mode", "bridge")
        h2.ip("link", "set", "eth1", "netns", neighbour.name)
        neighbour.ip("link", "set", "eth1", "up")
        give(neighbour, "eth1", second, 1)
        node.agent.start()
        node.agent.sync(GATEWAYS)
        to = {2: (*HOSTS[2], *second), 3: HOSTS[3]}

        def places(port_of: dict[int, int]) -> list[TableEntry]:
            """Hosts of a port are at another."""
            entries = []
            for port, addresses in to.items():
                for address in addresses:
                    where, at = f"{address}/{128 if ':' in address else 32}", port_of[port]
                    entries.append(guard(at, where))
                    route = {"params": {"next_hop": at}, "vrf": 7, "destination": where}
                    entries.append(entry("route", "set_next_hop", **route))
            return entries

        def macs(seen: dict[tuple[int, tuple[str, ...]], tuple[Namespace, str]]) -> dict[bytes, bytes]:
            macs_by_key = {}
            for (port, addresses), (host, device) in seen.items():
                mac = host.ip("-o", "link", "show", device).split("link/ether ")[1].split()[0]
                macs_by_key |= {key(port, address): bytes.fromhex(mac.replace(":", "")) for address in addresses}
            return macs_by_key

        with contextlib.closing(Controller(node.agent)) as controller:
            rest = [table_entry for table_entry in ENTRIES if table_entry.table not in ("route", "source_guard")]
            controller.insert(*rest, *places({2: 2, 3: 3}))
            before = {(2, HOSTS[2]): (h2, "eth0"), (2, second): (neighbour, "eth1"), (3, HOSTS[3]): (h3, "eth0")}
            wait_for(lambda: node.known() == macs(before))
            give(h2, "eth0", second, 1)
            give(neighbour, "eth1", HOSTS[2], 1)
            node.doubt()
            swapped = {(2, second): (h2, "eth0"), (2, HOSTS[2]): (neighbour, "eth1"), (3, HOSTS[3]): (h3, "eth0")}
            wait_for(lambda: node.known() == macs(swapped))
            for address in (*HOSTS[2], *second):
                assert " 0% packet loss" in h3.run("ping", "-c1", "-W10", address)

            give(neighbour, "eth1", (), 2)
            give(h2, "eth0", HOSTS[3], 2)
            give(h3, "eth0", (*HOSTS[2], *second), 1)
            controller.delete(*places({2: 2, 3: 3}))
            node.agent.sync(
                HostState(
                    gateways=(
                        Gateway(port=2, ipv4="10.2.0.1", ipv6="2001:db8:2::1"),
                        Gateway(port=3, ipv4="10.1.0.1", ipv6="2001:db8:1::1"),
                    )
                )
            )
            controller.insert(*places({2: 3, 3: 2}))
            moved = {(2, HOSTS[3]): (h2, "eth0"), (3, (*HOSTS[2], *second)): (h3, "eth0")}
            wait_for(lambda: node.known() == macs(moved))
            for address in HOSTS[3]:
                assert " 0% packet loss" in h3.run("ping", "-c1", "-W10", address)
    finally:
        neighbour.remove()


@pytest.mark.root
def test_a_host_whose_link_comes_up_is_asked_again_soon(node: Node) -> None:
    host = node.hosts[3]
    host.ip("link", "set", "eth0", "arp", "off")  # it hears what it is asked, and says nothing
    with host.entered():
        heard = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806))
        heard.bind(("eth0", 0))
    node.agent.start()
    node.agent.sync(GATEWAYS)
    with contextlib.closing(Controller(node.agent)) as controller:
        controller.insert(*ENTRIES)
    with heard:
        heard.settimeout(LIMIT_S)
        asked_s: list[float] = []

        def hear() -> None:
            heard.recv(100)
            asked_s.append(time.monotonic())

        for _ in range(4):  # each time it is given twice as long to answer
            hear()
        while asked_s[-1] - asked_s[-2] >= asked_s[-2] - asked_s[-3]:  # in its turn
            assert len(asked_s) < 8, asked_s
            host.ip("link", "set", "eth0", "down")
            heard.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # that it is down
            host.ip("link", "set", "eth0", "up")
            hear()
    host.ip("link", "set", "eth0", "arp", "on")
    wait_for(lambda: key(3, HOSTS[3][0]) in node.known())


def settled(host: Namespace, address: str) -> str:
    """What the kernel says of an address when it has looked whether somebody has it."""

    def flags() -> str:
        lines = host.ip("-6", "-o", "addr", "show", "dev", "eth0").splitlines()
        return next((line for line in lines if f" {address}/" in line), "")

    # One that is optimistic and found to be somebody else's goes at once (RFC 4429 §3.3).
    wait_for(lambda: "tentative" not in flags() or "dadfailed" in flags())
    return flags()


@pytest.mark.root
@pytest.mark.parametrize("ways", ["enhanced_dad=1", "enhanced_dad=0", "optimistic_dad=1"])
def test_who_takes_an_address_of_the_gateway_or_of_a_far_host_finds_it_taken(node: Node, ways: str) -> None:
    """The kernel's own duplicate address detection, with and without a nonce (RFC 7527), and optimistic (RFC 4429)."""
    node.agent.start()
    node.agent.sync(GATEWAYS)
    with contextlib.closing(Controller(node.agent)) as controller:
        controller.insert(*ENTRIES)
    wait_for(lambda: node.known() == node.expected())
    host = node.hosts[2]
    host.run("sysctl", "-qw", "net.ipv6.conf.eth0.accept_dad=1", f"net.ipv6.conf.eth0.{ways}")
    for taken in ("2001:db8:1::1", HOSTS[3][1]):
        host.ip("addr", "add", f"{taken}/64", "dev", "eth0", *(["optimistic"] if "optimistic" in ways else []))
        flags = settled(host, taken)
        assert "dadfailed" in flags or (not flags and "optimistic" in ways), flags
    for free in ("2001:db8:1::77", "fe80::77"):
        host.ip("addr", "add", f"{free}/64", "dev", "eth0")
        flags = settled(host, free)
        assert flags and "dadfailed" not in flags
    node.agent.sync(HostState(gateways=(Gateway(port=2, ipv6="fe80::1"),)))
    host.ip("addr", "add", "fe80::1/64", "dev", "eth0")
    assert "dadfailed" in settled(host, "fe80::1")
