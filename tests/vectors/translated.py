"""Networks with the same addresses: what leaves has those that the other side knows, and so has what an error quotes.

here 10.1.0.0/24 ──▶ 10.65.7.0/24 as the other side knows it; there 10.1.0.0/24, here known as 10.2.30.0/24
"""

from dataclasses import replace

from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    fragment6,
)
from scapy.packet import Packet, Raw

from dataplane.reasons import DropReason
from dataplane.reference import Drop, Forward
from vectors.case import (
    KNOWN_HOSTS,
    PAYLOAD,
    Vector,
    encapsulated,
    entropy,
    from_host,
    ip,
    srv6,
    tcp,
    to_host,
    udp,
)
from vectors.entries import deliver, local_sid, move, neighbor, policy, route, translated
from vectors.errors import told
from vectors.node import (
    A4,
    A6,
    AGREEMENT,
    FABRIC,
    INNER_MTU,
    OVERLAPPING,
    TENANT,
    TRANSLATED,
    TUNNEL,
    A,
    C,
    host_mac,
    remote4,
    remote6,
    segments,
)
from vectors.trimmed import left_of, too_big

HERE = {4: A4, 6: A6}
"""As this side knows it."""
HERE_THERE = {4: "10.65.7.11", 6: "2001:db8:65:7::11"}
THERE_HERE = {4: remote4(TRANSLATED, 12), 6: remote6(TRANSLATED, 0x12)}
THERE = {4: "10.1.0.12", 6: "2001:db8:1::12"}
"""As it knows itself: an address that this network has too."""


def sent(version: int, transport: Packet) -> Packet:
    return ip(version, HERE[version], THERE_HERE[version]) / transport


def received(version: int, transport: Packet) -> Packet:
    return ip(version, HERE_THERE[version], THERE[version], hop_limit=63) / transport


def leaving(packet: Packet | bytes, version: int, protocol: int, ports: tuple[int, int] = (0, 0)) -> Forward:
    flow = entropy(HERE[version], THERE_HERE[version], protocol, *ports)
    return Forward(FABRIC, to_host(FABRIC, encapsulated(packet, version, segments(1), flow)))


def transports() -> list[Vector]:
    vectors = []
    for version in (4, 6):
        echo = ICMP(type=8, id=7, seq=1) / Raw(PAYLOAD) if version == 4 else ICMPv6EchoRequest(id=7, data=PAYLOAD)
        for name, transport, protocol, ports in (
            ("tcp", tcp(), 6, (40000, 443)),
            ("udp", udp(), 17, (40000, 5060)),
            ("udp-odd", UDP(sport=1, dport=2) / Raw(b"odd"), 17, (1, 2)),
            ("udp-without-checksum", UDP(sport=1, dport=2, chksum=0) / Raw(PAYLOAD), 17, (1, 2)),
            ("udp-that-would-be-zero", would_be_zero(version), 17, (1, 2)),
            ("echo", echo, 1 if version == 4 else 58, (0, 0)),
        ):
            expected = leaving(received(version, transport), version, protocol, ports)
            frame = from_host(A, sent(version, transport))
            vectors.append(Vector(f"translated-{name}-ipv{version}", A, frame, expected))
        right = IP if version == 4 else IPv6
        before = right(bytes(sent(version, tcp())))[TCP].chksum
        after = right(bytes(received(version, tcp())))[TCP].chksum
        wrong = received(version, tcp(chksum=after + 1))
        vectors.append(
            Vector(
                f"translated-damaged-stays-damaged-ipv{version}",
                A,
                from_host(A, sent(version, tcp(chksum=before + 1))),
                leaving(wrong, version, 6, (40000, 443)),
            )
        )
    return vectors


def would_be_zero(version: int) -> Packet:
    """A datagram whose checksum becomes 0, which is sent as 0xffff."""
    datagram = UDP(sport=1, dport=2) / Raw(bytes(2))
    packet = IP if version == 4 else IPv6
    check = packet(bytes(received(version, datagram)))[UDP].chksum
    datagram = UDP(sport=1, dport=2) / Raw(check.to_bytes(2))
    assert packet(bytes(received(version, datagram)))[UDP].chksum == 0xFFFF
    return datagram


def pieces() -> list[Vector]:
    """The first has the checksum of the whole packet, the others none."""
    vectors = []
    data = Raw(bytes(range(200)))
    for version in (4, 6):
        datagram = UDP(sport=1, dport=2) / data
        whole, moved = sent(version, datagram), received(version, datagram)
        if version == 4:
            whole.id = moved.id = 77
            there, back = (fragment(IP(bytes(packet)), fragsize=96) for packet in (whole, moved))
        else:
            there, back = (_cut(packet) for packet in (whole, moved))
        frames = [from_host(A, piece) for piece in there]
        for number, piece in enumerate(back[:2]):
            before = tuple((A, frame) for frame in frames[:number])
            expected = leaving(piece, version, 17, (1, 2))
            vectors.append(Vector(f"translated-fragment-{number}-ipv{version}", A, frames[number], expected, before))
    return vectors


def _cut(packet: Packet) -> list[Packet]:
    upper = bytes(packet)[40:]
    header = IPv6(src=packet.src, dst=packet.dst, hlim=packet.hlim) / IPv6ExtHdrFragment(id=77, nh=17)
    return fragment6(header / Raw(upper), 160)


def extensions() -> list[Vector]:
    """The upper layer's checksum is behind them."""
    options = IPv6ExtHdrDestOpt()
    return [
        Vector(
            "translated-behind-options",
            A,
            from_host(A, sent(6, options / tcp())),
            leaving(received(6, options / tcp()), 6, 6, (40000, 443)),
        )
    ]


def errors() -> list[Vector]:
    """A host's, about what it got: the quote was sent from there, under addresses that are known there."""
    vectors = []
    for version, protocol in ((4, 1), (6, 58)):
        about = ICMP(type=3, code=1) if version == 4 else ICMPv6DestUnreach(code=1)
        echo = ICMP(type=8, id=9) / Raw(bytes(8)) if version == 4 else ICMPv6EchoRequest(id=9, data=bytes(8))
        later = (IPv6ExtHdrDestOpt() / TCP(sport=443, dport=5)) if version == 6 else TCP(sport=443, dport=5)
        for name, transport in (
            ("tcp", TCP(sport=443, dport=5)),
            ("udp", UDP(sport=443, dport=5) / Raw(bytes(8))),
            ("udp-without-checksum", UDP(sport=443, dport=5, chksum=0) / Raw(bytes(8))),
            ("echo", echo),
            ("options", later),
        ):
            got = bytes(ip(version, THERE_HERE[version], HERE[version], hop_limit=9) / transport)
            was = bytes(ip(version, THERE[version], HERE_THERE[version], hop_limit=9) / transport)
            for title, size in (("short", 28 if version == 4 else 56), ("whole", len(got))):
                frame = from_host(A, sent(version, about / Raw(got[:size])))
                expected = leaving(received(version, about / Raw(was[:size])), version, protocol)
                vectors.append(Vector(f"translated-error-{title}-{name}-ipv{version}", A, frame, expected))
    return vectors


def own_errors() -> list[Vector]:
    """What this node says: to its own host about the packet as it was sent, to the other side in its addresses."""
    across, mtu = "5f00:1:1:6::", 1320
    answers = local_sid(2, f"{across}/128", "end_dt46", vrf=AGREEMENT, answer_class=100 + TRANSLATED)
    vectors = []
    for version, protocol, icmp in ((4, 4, 1), (6, 41, 58)):
        payload = Raw(bytes(1400))
        exceeds = sent(version, UDP(sport=1, dport=2) / payload)
        if version == 4:
            exceeds.flags = "DF"
        expected = told(exceeds, too_big(INNER_MTU), DropReason.TOO_BIG)
        vectors.append(Vector(f"translated-too-big-ipv{version}", A, from_host(A, exceeds), expected))
        got, was = (
            left_of(ip(version, *ends) / UDP(sport=1, dport=2) / payload)
            for ends in (
                (THERE_HERE[version], HERE[version]),
                (THERE[version], HERE_THERE[version]),
            )
        )
        ends = {"src": HERE_THERE[version], "dst": THERE[version]}
        if version == 4:
            said = IP(**ends, tos=0xC0, id=0, ttl=63) / too_big(mtu)[0] / Raw(was[:28])
        else:
            said = IPv6(**ends, hlim=63) / too_big(mtu)[1] / Raw(was[:88])
        frame = from_host(TUNNEL, srv6(got, [across], 0, next_header=protocol, tag=mtu))
        sent_back = replace(leaving(said, version, icmp), reason=DropReason.TRIMMED)
        vectors.append(Vector(f"translated-trimmed-ipv{version}", TUNNEL, frame, sent_back, entries=(answers,)))
    return vectors


def delivered() -> list[Vector]:
    """Into another network at the same edge, where a host has the address of the one that sends."""
    entries = (
        translated(deliver(100 + TRANSLATED, OVERLAPPING)),
        *(neighbor(C, there, host_mac(C)) for there in THERE.values()),
        *(route(OVERLAPPING, prefix, 100 + C) for prefix in ("10.1.0.12/32", "2001:db8:1::12/128")),
    )
    vectors = []
    for version in (4, 6):
        frame, expected = from_host(A, sent(version, tcp())), Forward(C, to_host(C, received(version, tcp())))
        vectors.append(Vector(f"translated-delivered-ipv{version}", A, frame, expected, entries=entries))
    nowhere = from_host(A, sent(4, tcp()))
    no_route = told(sent(4, tcp()), (ICMP(type=3, code=0), ICMPv6DestUnreach()), DropReason.NO_ROUTE)
    return [*vectors, Vector("translated-delivered-nowhere", A, nowhere, no_route, entries=entries[:1])]


def answered() -> list[Vector]:
    """Both at one edge, which remembers who has asked: as the asker knows the other."""
    back = 40
    entries = (
        translated(deliver(100 + TRANSLATED, OVERLAPPING)),
        translated(deliver(back, TENANT)),
        move("source", back, "10.1.0.0/24", f"10.2.{TRANSLATED}.0/24"),
        move("source", back, "2001:db8:1::/64", f"2001:db8:2:{TRANSLATED:x}::/64"),
        move("destination", back, "10.65.7.0/24", "10.1.0.0/24"),
        move("destination", back, "2001:db8:65:7::/64", "2001:db8:1::/64"),
        policy(TENANT, 500, "permit_request", 100 + TRANSLATED, destination_group=(TRANSLATED, 0xFFFF)),
        policy(OVERLAPPING, 10, "permit_reply", back),
    )
    other = {4: remote4(TRANSLATED, 11), 6: remote6(TRANSLATED, 0x11)}
    vectors = []
    for version in (4, 6):
        asked = from_host(A, ip(version, HERE[version], other[version]) / udp())
        answer = UDP(sport=5060, dport=40000) / Raw(PAYLOAD)
        frame = from_host(C, ip(version, HERE[version], HERE_THERE[version]) / answer)
        arrives = ip(version, other[version], HERE[version], hop_limit=63) / answer
        for name, expected, before in (
            ("answered", Forward(A, to_host(A, arrives)), (*KNOWN_HOSTS, (A, asked))),
            ("unasked", Drop(DropReason.UNASKED), KNOWN_HOSTS),
        ):
            vectors.append(Vector(f"translated-{name}-ipv{version}", C, frame, expected, before, entries))
    return vectors


VECTORS = [*transports(), *pieces(), *extensions(), *errors(), *own_errors(), *delivered(), *answered()]
