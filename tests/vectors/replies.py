"""Replies pass where they answer something; `before` asks."""

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6
from scapy.packet import Packet, Raw

from dataplane.entry import TableEntry
from dataplane.reasons import DropReason
from dataplane.reference import Drop, Forward
from vectors.case import KNOWN_HOSTS, PAYLOAD, Vector, from_host, ip, srv6, to_host
from vectors.entries import policy
from vectors.node import A4, A6, AGREEMENT, TENANT, TUNNEL, A, remote4, remote6
from vectors.quotes import error, quoted

UNASKED = Drop(DropReason.UNASKED)
SID = "5f00:1:1:6::"
CLASSES = {"tcp": 1, "udp": 2, "echo reply": 5, "other": 6}
ENTRIES: tuple[TableEntry, ...] = (
    policy(TENANT, 500, "permit_request", 101, destination_group=(1, 0xFFFF)),
    *(
        policy(AGREEMENT, 500 + number, "permit_reply", 30, l4_class=(number, 0xF))
        for number in CLASSES.values()
    ),
    # what is permitted in this class for others is not for these
    policy(AGREEMENT, 10, "permit_reply", 30, l4_class=(1, 0xF), source_port_class=(2, 0xFFFF)),
    policy(AGREEMENT, 12, "permit_reply", 30, l4_class=(2, 0xF)),
)  # fmt: skip


def ends(version: int) -> tuple[str, str]:
    """Client and service."""
    return (A4, remote4(1)) if version == 4 else (A6, remote6(1))


def request(version: int, transport: Packet) -> tuple[int, bytes]:
    return A, from_host(A, ip(version, *ends(version)) / transport)


def reply(version: int, transport: Packet, hop_limit: int = 64) -> Packet:
    client, service = ends(version)
    return ip(version, service, client, hop_limit=hop_limit) / transport


def arriving(packet: Packet) -> tuple[int, bytes]:
    carried = srv6(bytes(packet), [SID], 0, next_header=41 if isinstance(packet, IPv6) else 4)
    return TUNNEL, from_host(TUNNEL, carried)


def _vector(name: str, version: int, transport: Packet, delivered: bool, *asked: Packet) -> Vector:
    port, frame = arriving(reply(version, transport))
    expected = Forward(A, to_host(A, reply(version, transport, 63))) if delivered else UNASKED
    before = (*KNOWN_HOSTS, *(request(version, asked_packet) for asked_packet in asked))
    return Vector(f"reply-{name}-ipv{version}", port, frame, expected, before, ENTRIES)


def conversations() -> list[Vector]:
    vectors = []
    for version in (4, 6):
        opens, answers = TCP(sport=5000, dport=80, flags="S"), TCP(sport=80, dport=5000, flags="SA")
        goes_on = TCP(sport=80, dport=5000, flags="A")
        asks, told = UDP(sport=5000, dport=53), UDP(sport=53, dport=5000)
        pings = (ICMP(id=7) if version == 4 else ICMPv6EchoRequest(id=7)) / Raw(PAYLOAD)
        pongs = (ICMP(type=0, id=7) if version == 4 else ICMPv6EchoReply(id=7)) / Raw(PAYLOAD)
        others = (ICMP(type=0, id=8) if version == 4 else ICMPv6EchoReply(id=8)) / Raw(PAYLOAD)
        for name, asked, answer in (("tcp", opens, answers), ("udp", asks, told), ("echo", pings, pongs)):
            vectors += [
                _vector(f"{name}-asked", version, answer, True, asked),
                _vector(f"{name}-unasked", version, answer, False),
            ]
        vectors += [
            _vector("to-other-port", version, UDP(sport=53, dport=5001), False, asks),
            _vector("from-other-port", version, UDP(sport=54, dport=5000), False, asks),
            _vector("by-other-protocol", version, TCP(sport=53, dport=5000, flags="A"), False, asks),
            _vector("of-other-identifier", version, others, False, pings),
            _vector("to-a-reset", version, goes_on, False, TCP(sport=5000, dport=80, flags="R")),
            _vector("opening-both", version, TCP(sport=80, dport=5000, flags="S"), True, opens),
            _vector("taken-up", version, answers, True, TCP(sport=5000, dport=80, flags="A")),
        ]  # fmt: skip
        there, back = ends(version), ends(version)[::-1]
        quote = quoted(there, asks)
        delivered = Forward(A, to_host(A, error(back, quote, 63)))
        frames = (*KNOWN_HOSTS, request(version, asks))
        vectors += [
            Vector(f"reply-error-asked-ipv{version}", *arriving(error(back, quote)), delivered, frames, ENTRIES),
            Vector(f"reply-error-unasked-ipv{version}", *arriving(error(back, quote)), UNASKED, KNOWN_HOSTS, ENTRIES),
            Vector(f"request-error-unasked-ipv{version}", A, from_host(A, error(there, quoted(back, told))), UNASKED,
                   KNOWN_HOSTS, ENTRIES),
        ]  # fmt: skip
    gre = IP(src=remote4(1), dst=A4, proto=47) / Raw(bytes(8))
    asked = A, from_host(A, IP(src=A4, dst=remote4(1), proto=47) / Raw(bytes(8)))
    delivered = Forward(A, to_host(A, IP(src=remote4(1), dst=A4, proto=47, ttl=63) / Raw(bytes(8))))
    return [
        *vectors,
        Vector("reply-gre-asked", *arriving(gre), delivered, (*KNOWN_HOSTS, asked), ENTRIES),
        Vector("reply-gre-unasked", *arriving(gre), UNASKED, KNOWN_HOSTS, ENTRIES),
    ]


VECTORS = conversations()
