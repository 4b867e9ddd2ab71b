"""ICMP errors are judged as packets of the flow that they are about, in the direction in which they go (RFC 5927)."""

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
)
from scapy.packet import Packet, Raw

from dataplane.reasons import DropReason
from dataplane.reference import Drop, Forward
from vectors.case import KNOWN_HOSTS, Vector, encapsulated, entropy, from_host, ip, srv6, to_host
from vectors.node import (
    A4,
    A6,
    B4,
    B6,
    FABRIC,
    GATEWAY4,
    GATEWAY6,
    PORT_443,
    TUNNEL,
    A,
    B,
    remote4,
    remote6,
    segments,
)

REFUSED = Drop(DropReason.ICMP_ERROR_REFUSED)
ACROSS, INSIDE = "5f00:1:1:6::", "5f00:1:1:3::"
Ends = tuple[str, str]


def error(ends: Ends, quote: Packet | bytes, hop_limit: int = 64, kind: str = "too big") -> Packet:
    """From the first end to the second."""
    version = 6 if ":" in ends[0] else 4
    four = ICMP(type=3, code=4 if kind == "too big" else 1, chksum=0x1234)
    six = ICMPv6PacketTooBig(cksum=0x1234) if kind == "too big" else ICMPv6DestUnreach(cksum=0x1234)
    return ip(version, *ends, hop_limit=hop_limit) / (four if version == 4 else six) / Raw(bytes(quote))


def quoted(ends: Ends, transport: Packet) -> bytes:
    """A packet from the first end to the second, as far as an error quotes it."""
    version = 6 if ":" in ends[0] else 4
    return bytes(ip(version, *ends, hop_limit=3) / transport)[: 28 if version == 4 else 88]


def from_tunnel(name: str, packet: Packet, expected: Drop | Forward) -> Vector:
    carried = srv6(bytes(packet), [ACROSS], 0, next_header=41 if isinstance(packet, IPv6) else 4)
    return Vector(f"quote-{name}", TUNNEL, from_host(TUNNEL, carried), expected, KNOWN_HOSTS)


def replies() -> list[Vector]:
    """To the client, where only what is from TCP port 443, and UDP, may pass."""
    vectors = []
    for version, near, other, far, too in (
        (4, A4, B4, remote4(1), remote4(2)),
        (6, A6, B6, remote6(1), remote6(2)),
    ):
        there, back = (near, far), (far, near)
        asked = TCP(sport=5, dport=443)

        def vector(name: str, quote: Packet | bytes, expected: Drop | Forward = REFUSED, ends: Ends = back,
                   version: int = version) -> Vector:  # fmt: skip
            return from_tunnel(f"{name}-ipv{version}", error(ends, quote), expected)

        sent = Forward(A, to_host(A, error(back, quoted(there, asked), 63)))
        whole = quoted(there, asked)
        start = 20 if version == 4 else 40
        echo = (ICMP(type=8) if version == 4 else ICMPv6EchoRequest()) / Raw(bytes(8))
        denied = Drop(DropReason.NOT_PERMITTED)
        icmp_error = (ICMP(type=3) if version == 4 else ICMPv6DestUnreach()) / Raw(bytes(48))
        vectors += [
            vector("of-a-request", whole, sent),
            vector("of-other-port", quoted(there, TCP(sport=5, dport=442)), denied),
            vector("of-source-port", quoted(there, TCP(sport=443, dport=5)), denied),
            vector("of-echo", quoted(there, echo), denied),
            vector("of-icmp-error", quoted(there, icmp_error)),
            vector("in-wrong-direction", quoted(back, asked)),
            vector("of-anothers-request", quoted((other, far), asked)),
            vector("from-another-than-asked", quoted((near, too), asked)),
            vector("of-nothing", b""),
            vector("of-a-header-alone", whole[:start]),
            vector("of-seven-octets", whole[: start + 7]),
            vector("of-other-version", bytes([whole[0] ^ 0x20]) + whole[1:]),
            vector("of-zeros", bytes(48)),
        ]
    there, back = (A4, remote4(1)), (remote4(1), A4)
    whole = quoted(there, TCP(sport=5, dport=443))
    later = whole[:6] + (100).to_bytes(2) + whole[8:]
    options = bytes([0x46]) + whole[1:20] + bytes(4) + whole[20:]
    there6, back6 = (A6, remote6(1)), (remote6(1), A6)
    behind = IPv6(src=A6, dst=remote6(1)) / IPv6ExtHdrDestOpt() / TCP(sport=5, dport=443)
    first = IPv6(src=A6, dst=remote6(1)) / IPv6ExtHdrFragment(m=1, id=7) / TCP(sport=5, dport=443)
    others = IPv6(src=A6, dst=remote6(1)) / IPv6ExtHdrFragment(offset=4, id=7) / TCP(sport=5, dport=443)
    part = IP(src=back[0], dst=back[1], flags="MF", proto=1, id=5) / Raw(bytes(ICMP(type=3, code=4)) + whole + bytes(4))
    atomic = IPv6(src=back6[0], dst=back6[1]) / IPv6ExtHdrFragment(nh=58, id=9)
    atomic = atomic / Raw(bytes(ICMPv6PacketTooBig(cksum=1)) + quoted(there6, TCP(sport=5, dport=443)))
    return [
        *vectors,
        from_tunnel("of-later-fragment", error(back, later), REFUSED),
        from_tunnel("with-options", error(back, options), REFUSED),
        from_tunnel("behind-options", error(back6, behind), Forward(A, to_host(A, error(back6, behind, 63)))),
        from_tunnel("of-first-fragment", error(back6, first), Forward(A, to_host(A, error(back6, first, 63)))),
        from_tunnel("of-later-fragment-ipv6", error(back6, others), REFUSED),
        from_tunnel("in-a-fragment", part, REFUSED),
        from_tunnel("in-an-atomic-fragment", atomic, REFUSED),
    ]  # fmt: skip


def requests() -> list[Vector]:
    """From a client about what it got: as what it may send to that port itself."""
    vectors = []
    for version, near, other, far, elsewhere in (
        (4, A4, B4, remote4(PORT_443), remote4(1)),
        (6, A6, B6, remote6(PORT_443), remote6(1)),
    ):
        back, there = (far, near), (near, far)
        reply = TCP(sport=443, dport=5)

        def vector(name: str, quote: bytes, expected: Drop | Forward = REFUSED, ends: Ends = there, port: int = A,
                   version: int = version, **fields: object) -> Vector:  # fmt: skip
            return Vector(f"quote-by-client-{name}-ipv{version}", port, from_host(port, error(ends, quote)), expected,
                          **fields)  # fmt: skip

        inner, icmp = error(there, quoted(back, reply), 63), 1 if version == 4 else 58
        outer = encapsulated(inner, version, segments(1), entropy(*there, icmp))
        vectors += [
            vector("of-a-reply", quoted(back, reply), Forward(FABRIC, to_host(FABRIC, outer))),
            vector("of-other-port", quoted(back, TCP(sport=442, dport=5)), Drop(73)),
            vector("of-udp", quoted(back, UDP(sport=443, dport=5)), Drop(73)),
            vector("of-what-it-sent", quoted(there, reply)),
            vector("of-what-another-got", quoted((far, other), reply)),
            vector("of-anothers-to-it", quoted((elsewhere, near), reply)),
            vector("of-what-it-got-elsewhere", quoted((elsewhere, near), reply), ends=(near, far)),
            vector("as-another", quoted((far, other), reply), Drop(DropReason.SOURCE_NOT_ADMITTED), (other, far)),
        ]
    return vectors


def within() -> list[Vector]:
    """Inside one network each speaks for itself, and the gateway, behind another edge, for all."""
    vectors = []
    for version, a, b, far, gateway in ((4, A4, B4, remote4(1), GATEWAY4), (6, A6, B6, remote6(1), GATEWAY6)):
        carried, protocol = f"ipv{version}", 4 if version == 4 else 41
        own, others = quoted((a, b), UDP()), quoted((a, far), UDP())

        def by_gateway(name: str, source: str, quote: bytes, sent: bool, a: str = a, carried: str = carried,
                       protocol: int = protocol) -> Vector:  # fmt: skip
            frame = from_host(FABRIC, srv6(bytes(error((source, a), quote)), [INSIDE], 0, next_header=protocol))
            expected = Forward(A, to_host(A, error((source, a), quote, 63))) if sent else REFUSED
            return Vector(f"quote-within-{name}-{carried}", FABRIC, frame, expected, KNOWN_HOSTS)

        delivered = Forward(A, to_host(A, error((b, a), own, 63)))
        vectors += [
            Vector(f"quote-within-own-{carried}", B, from_host(B, error((b, a), own)), delivered, KNOWN_HOSTS),
            Vector(f"quote-within-anothers-{carried}", B, from_host(B, error((b, a), others)), REFUSED, KNOWN_HOSTS),
            by_gateway("by-gateway", gateway, own, True),
            by_gateway("by-no-gateway", b, others, False),
            by_gateway("by-gateway-to-another", gateway, quoted((b, a), UDP()), False),
        ]
    return vectors


VECTORS = [*replies(), *requests(), *within()]
