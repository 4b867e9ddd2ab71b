"""Hosts that no network has. scapy makes the frames."""

import random

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet
from vectors import node
from vectors.case import from_host
from xdp_node import DROPPED, PUNTED, XdpNode

from controller.model.discovery import HeardHost
from controller.southbound.host_discovery import (
    ADDRESSES_MAX,
    FRAMES_AT_ONCE_MAX,
    HEARD_S,
    HOSTS_MAX,
    HostDiscovery,
)
from dataplane.reasons import DropReason

MAC, OTHER = "02:00:00:00:00:0a", "02:00:00:00:00:0b"
PORT, UNIX_S = 7, 1_800_000_000.0


def discovery() -> HostDiscovery:
    heard = HostDiscovery()
    heard.set_ports([PORT])
    return heard


def ether(source: str = MAC) -> Packet:
    return Ether(src=source, dst="ff:ff:ff:ff:ff:ff")


def arp(sender: str, target: str, *, operation: int = 1, mac: str = MAC, source: str = MAC) -> Packet:
    return ether(source) / ARP(op=operation, hwsrc=mac, psrc=sender, pdst=target)


SAYS = {
    "asks for a neighbour (RFC 826)": (arp("10.1.0.30", "10.1.0.1"), "10.1.0.30"),
    "answers": (arp("10.1.0.30", "10.1.0.1", operation=2), "10.1.0.30"),
    "announces itself (RFC 5227)": (arp("10.1.0.30", "10.1.0.30"), "10.1.0.30"),
    "asks whether an address is free (RFC 5227)": (arp("0.0.0.0", "10.1.0.30"), "10.1.0.30"),
    "solicits a neighbour (RFC 4861)": (
        ether()
        / IPv6(src="2001:db8::30", hlim=255)
        / ICMPv6ND_NS(tgt="2001:db8::1")
        / ICMPv6NDOptSrcLLAddr(lladdr=MAC),
        "2001:db8::30",
    ),
    "asks whether an address is free (RFC 4862)": (
        ether() / IPv6(src="::", dst="ff02::1:ff00:30", hlim=255) / ICMPv6ND_NS(tgt="2001:db8::30"),
        "2001:db8::30",
    ),
    "advertises itself": (
        ether() / IPv6(src="fe80::1", hlim=255) / ICMPv6ND_NA(tgt="2001:db8::30") / ICMPv6NDOptDstLLAddr(lladdr=MAC),
        "2001:db8::30",
    ),
    "looks for a router": (
        ether() / IPv6(src="fe80::1", dst="ff02::2", hlim=255) / ICMPv6ND_RS() / ICMPv6NDOptSrcLLAddr(lladdr=MAC),
        None,
    ),
    "has a link-local address only": (arp("169.254.3.4", "169.254.1.1"), None),
}


@pytest.mark.parametrize(("frame", "address"), SAYS.values(), ids=SAYS)
def test_a_host_says_its_addresses(frame: Packet, address: str | None) -> None:
    heard = discovery()
    assert heard.receive(PORT, bytes(frame), 5.0, UNIX_S)
    host = HeardHost(port=PORT, mac=MAC, addresses=(address,) if address else (), since_s=int(UNIX_S))
    assert heard.hosts == (host,)
    assert not heard.receive(PORT, bytes(frame), 6.0, UNIX_S + 1), "the same again is nothing new"
    assert heard.hosts == (host,)


SAYS_NOTHING = {
    "another's MAC in ARP": arp("10.1.0.30", "10.1.0.1", mac=OTHER),
    "another's MAC in a solicitation": ether()
    / IPv6(src="2001:db8::30", hlim=255)
    / ICMPv6ND_NS(tgt="2001:db8::1")
    / ICMPv6NDOptSrcLLAddr(lladdr=OTHER),
    "ND that came over a router": ether() / IPv6(src="2001:db8::30", hlim=254) / ICMPv6ND_NS(tgt="2001:db8::1"),
    "ND with a code": ether() / IPv6(src="2001:db8::30", hlim=255) / ICMPv6ND_NS(tgt="2001:db8::1", code=1),
    "half of an option": ether()
    / IPv6(src="2001:db8::30", hlim=255)
    / ICMPv6ND_NS(tgt="2001:db8::1")
    / b"\x01\x01\x02",
    "an option of no length": ether()
    / IPv6(src="2001:db8::30", hlim=255)
    / ICMPv6ND_NS(tgt="2001:db8::1")
    / (b"\x01\x00" + bytes(6)),
    "a group's MAC": arp("10.1.0.30", "10.1.0.1", mac="03:00:00:00:00:0a", source="03:00:00:00:00:0a"),
    "ARP for another network": ether() / ARP(hwtype=6, psrc="10.1.0.30", hwsrc=MAC),
    "reverse ARP's operation": arp("10.1.0.30", "10.1.0.1", operation=3),
    "plain IP": ether() / IP(src="10.1.0.30") / UDP(),
    "a tagged frame": ether() / Dot1Q(vlan=5) / ARP(op=1, hwsrc=MAC, psrc="10.1.0.30"),
}


@pytest.mark.parametrize("frame", SAYS_NOTHING.values(), ids=SAYS_NOTHING)
def test_what_is_malformed_or_for_others_says_nothing(frame: Packet) -> None:
    heard = discovery()
    assert not heard.receive(PORT, bytes(frame), 5.0, UNIX_S)
    assert heard.hosts == ()


def test_no_frame_is_too_strange() -> None:
    """Cut and changed anywhere: it is heard, or says nothing; what is heard is an address of a host."""
    chance = random.Random(4)
    frames = [bytes(frame) for frame, _ in SAYS.values()]
    for second in range(20_000):
        octets = bytearray(chance.choice(frames))
        for _ in range(chance.randrange(4)):
            octets[chance.randrange(len(octets))] = chance.randrange(256)
        heard = discovery()
        heard.receive(PORT, bytes(octets[: chance.randrange(len(octets) + 1)]), float(second), UNIX_S)
        for host in heard.hosts:
            assert len(host.mac) == 17 and len(host.addresses) <= 1


def test_a_host_is_forgotten_after_it_was_silent_and_with_its_port() -> None:
    heard = discovery()
    heard.receive(PORT, bytes(arp("10.1.0.30", "10.1.0.1")), 100.0, UNIX_S)
    heard.receive(PORT, bytes(arp("10.1.0.30", "10.1.0.1")), 200.0, UNIX_S)
    assert heard.next_s() == 200.0 + HEARD_S
    heard.expire(199.0 + HEARD_S)
    assert heard.hosts
    heard.expire(200.0 + HEARD_S)
    assert not heard.hosts
    heard.receive(PORT, bytes(arp("10.1.0.30", "10.1.0.1")), 5000.0, UNIX_S)
    heard.set_ports([PORT + 1])
    assert not heard.hosts
    assert not heard.receive(PORT, bytes(arp("10.1.0.30", "10.1.0.1")), 5001.0, UNIX_S)


def test_a_port_has_room_for_so_many_hosts_addresses_and_frames() -> None:
    heard = discovery()
    for number in range(2 * HOSTS_MAX):
        mac = f"02:00:00:00:01:{number:02x}"
        heard.receive(PORT, bytes(arp(f"10.1.1.{number}", "10.1.0.1", mac=mac, source=mac)), 10.0 * number, UNIX_S)
    assert len(heard.hosts) == HOSTS_MAX
    heard = discovery()
    for number in range(1, 2 * ADDRESSES_MAX + 1):
        heard.receive(PORT, bytes(arp(f"10.1.1.{number}", "10.1.0.1")), 10.0 * number, UNIX_S)
    ((host),) = heard.hosts
    assert set(host.addresses) == {f"10.1.1.{number}" for number in range(ADDRESSES_MAX + 1, 2 * ADDRESSES_MAX + 1)}
    heard = discovery()
    for number in range(1000):
        heard.receive(PORT, bytes(arp(f"10.1.{number // 250}.{number % 250 + 1}", "10.1.0.1")), 1e6, UNIX_S)
    assert set(heard.hosts[0].addresses) == {
        f"10.1.0.{number}" for number in range(FRAMES_AT_ONCE_MAX - ADDRESSES_MAX + 1, FRAMES_AT_ONCE_MAX + 1)
    }


@pytest.mark.root
def test_a_port_hands_on_so_many_frames_and_leaves_the_others_theirs() -> None:
    xdp = XdpNode(node.PORTS, punt_limit=3)
    try:
        with xdp.inside():
            xdp.sync([*node.TABLES, *node.PUNT_ECHO])
            echo = from_host(node.A, IP(src=node.A4, dst=node.B4) / ICMP(type=8))
            outcomes = []
            while len(outcomes) < 5000 and (not outcomes or outcomes[-1].kind == PUNTED):
                outcomes.append(xdp.run(node.A, echo, DropReason.PUNT_LOST))
            assert [outcome.kind for outcome in outcomes[:3]] == [PUNTED] * 3
            assert (outcomes[-1].kind, outcomes[-1].reason) == (DROPPED, DropReason.PUNT_LOST)
            other = from_host(node.B, IP(src=node.B4, dst=node.A4) / ICMP(type=8))
            assert xdp.run(node.B, other, DropReason.PUNT_LOST).kind == PUNTED
    finally:
        xdp.close()
