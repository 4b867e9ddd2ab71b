"""End, End.X, End.DT46, transit (RFC 8986), compressed SIDs (RFC 9800), ingress classes, and ECN (RFC 6040)."""

from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6EchoReply, IPv6
from scapy.layers.l2 import ARP
from scapy.packet import Packet, Raw

from dataplane.reasons import STAMP_PORT, DropReason
from dataplane.reference import Drop, Forward, Pass
from vectors.case import (
    KNOWN_HOSTS,
    PAYLOAD,
    Vector,
    arp_reply,
    encapsulated,
    entropy,
    from_host,
    ip,
    neighbor_advertisement,
    srv6,
    tcp,
    to_host,
    udp,
)
from vectors.node import (
    A4,
    A6,
    FABRIC,
    FABRIC_2,
    TUNNEL,
    TUNNEL_2,
    VLAN,
    A,
    C,
    remote4,
    remote6,
    segments,
)

END, END_X, DT46, DT46_OVERLAPPING, DROPPING = (
    "5f00:1:1::",
    "5f00:1:1:2::",
    "5f00:1:1:3::",
    "5f00:1:1:4::1",
    "5f00:1:1:5::",
)
DT46_TUNNEL, DT46_TUNNEL_2 = "5f00:1:1:6::", "5f00:1:1:7::"
NEXT, LAST = "5f00:2:10:1::", "5f00:2:20:9::"
INNER = bytes(IP(src="192.0.2.1", dst="192.0.2.2") / udp())


def _drop(name: str, port: int, packet: Packet | bytes, reason: int, **frame: int) -> Vector:
    return Vector(name, port, from_host(port, packet, **frame), Drop(reason))


def endpoint() -> list[Vector]:
    """End and End.X: the next segment becomes the destination."""
    vectors = []
    for left in range(1, 8):
        path = [f"5f00:2:10:{index}::" for index in range(8)]
        path[7 - left] = END
        moved = srv6(INNER, path, left - 1, hop_limit=59)
        frame = from_host(FABRIC, srv6(INNER, path, left))
        vectors.append(Vector(f"end-{left}-left", FABRIC, frame, Forward(FABRIC, to_host(FABRIC, moved))))
    path = ["5f00:9:1::", END_X, "5f00:9:1::", LAST]
    moved = srv6(INNER, path, 1, hop_limit=59)
    vectors += [
        Vector("end-x", FABRIC, from_host(FABRIC, srv6(INNER, path, 2)), Forward(FABRIC_2, to_host(FABRIC_2, moved))),
        Vector(
            "end-from-tagged-link",
            FABRIC,
            from_host(FABRIC, srv6(INNER, [END, NEXT], 1), VLAN),
            Forward(FABRIC, to_host(FABRIC, srv6(INNER, [END, NEXT], 0, hop_limit=59))),
        ),
    ]
    return vectors


def _with_payload(packet: Packet, length: int) -> bytes:
    """The outer header says that its payload is `length`; what lies behind is in the frame all the same."""
    data = bytes(packet)
    return data[:4] + length.to_bytes(2) + data[6:]


def endpoint_errors() -> list[Vector]:
    two = [END, NEXT]
    plain = IPv6(src=NEXT, dst=END, nh=4) / Raw(INNER)
    long = bytearray(bytes(srv6(INNER, two, 1)))
    long[41] = 6
    tlv = bytes(srv6(bytes(8) + INNER, two, 1, len=5))
    other = bytearray(bytes(srv6(INNER, two, 1)))
    other[42] = 2
    reason = DropReason.MALFORMED
    probe = bytes(UDP(sport=49152, dport=STAMP_PORT) / Raw(bytes(112)))
    return [
        _drop("end-without-srh", FABRIC, plain, DropReason.SEGMENTS_LEFT),
        _drop("end-srh-longer-than-list", FABRIC, bytes(long), DropReason.MALFORMED, ether_type=0x86DD),
        _drop("end-srh-with-tlv", FABRIC, tlv, DropReason.MALFORMED, ether_type=0x86DD),
        _drop("end-other-routing-type", FABRIC, bytes(other), DropReason.MALFORMED, ether_type=0x86DD),
        _drop("end-nine-segments", FABRIC, srv6(INNER, [*[NEXT] * 7, END, NEXT], 1), DropReason.MALFORMED),
        _drop("end-srh-beyond-payload", FABRIC, _with_payload(srv6(INNER, two, 1), 24), reason, ether_type=0x86DD),
        _drop("end-no-segments-left", FABRIC, srv6(INNER, [NEXT, END], 0), DropReason.SEGMENTS_LEFT),
        _drop("end-strange-probe", FABRIC, IPv6(src=NEXT, dst=END, nh=17) / Raw(probe), DropReason.SEGMENTS_LEFT),
        _drop(
            "end-strange-probe-srh",
            FABRIC,
            srv6(probe, two, 0, next_header=17, destination=END),
            DropReason.SEGMENTS_LEFT,
        ),
        _drop(
            "end-strange-probe-tlv",
            FABRIC,
            srv6(bytes(8) + probe, two, 0, next_header=17, destination=END, len=5),
            reason,
        ),
        _drop("end-too-many-left", FABRIC, srv6(INNER, two, 3, destination=END), DropReason.SEGMENTS_LEFT),
        _drop("end-hop-limit-1", FABRIC, srv6(INNER, two, 1, hop_limit=1), DropReason.HOP_LIMIT),
        _drop("end-hop-limit-0", FABRIC, srv6(INNER, two, 1, hop_limit=0), DropReason.HOP_LIMIT),
        _drop(
            "end-hop-limit-1-before-route",
            FABRIC,
            srv6(INNER, [END, "5f00:9:1::"], 1, hop_limit=1),
            DropReason.HOP_LIMIT,
        ),
        _drop("end-no-route", FABRIC, srv6(INNER, [END, "5f00:9:1::"], 1), DropReason.NO_ROUTE),
        _drop("sid-that-drops", FABRIC, srv6(INNER, [DROPPING, NEXT], 1), 71),
    ]


def compressed() -> list[Vector]:
    """Containers: End moves what follows by one SID, End.X by two; the SRH is looked at when nothing follows."""

    def onward(packet: Packet, port: int = FABRIC) -> Forward:
        return Forward(port, to_host(port, packet))

    def bare(destination: str, hop_limit: int = 60) -> Packet:
        return IPv6(src="5f00:1:30::", dst=destination, hlim=hop_limit, nh=4) / Raw(INNER)

    moved = {
        "end-next-node": ("5f00:1:1:10:e005::", "5f00:1:10:e005::", FABRIC),
        "end-full": ("5f00:1:1:10:20:11:12:e005", "5f00:1:10:20:11:12:e005::", FABRIC),
        "end-last-node": ("5f00:1:1:20::", "5f00:1:20::", FABRIC_2),
        "end-last-bits": ("5f00:1:1:10::1", "5f00:1:10::1:0", FABRIC),
        "end-x-next-node": ("5f00:1:1:2:10:e005::", "5f00:1:10:e005::", FABRIC_2),
        "end-x-full": ("5f00:1:1:2:10:11:12:e005", "5f00:1:10:11:12:e005::", FABRIC_2),
        "end-x-last-bits": ("5f00:1:1:2:10::1", "5f00:1:10::1:0:0", FABRIC_2),
    }
    vectors = [
        Vector(f"container-{name}", FABRIC, from_host(FABRIC, bare(before)), onward(bare(after, 59), port))
        for name, (before, after, port) in moved.items()
    ]
    # What lies in the SRH, and whether it is one, does not matter while something follows in the container.
    two_left = srv6(INNER, [NEXT, LAST], 1, destination="5f00:1:1:10::")
    sent = srv6(INNER, [NEXT, LAST], 1, destination="5f00:1:10::", hop_limit=59)
    broken, broken_sent = (bytes(packet)[:40] + b"\4\xff\4\xff" + bytes(packet)[44:] for packet in (two_left, sent))
    vectors += [
        Vector("container-end-before-srh", FABRIC, from_host(FABRIC, two_left), onward(sent)),
        Vector(
            "container-end-before-broken-srh",
            FABRIC,
            from_host(FABRIC, broken, ether_type=0x86DD),
            Forward(FABRIC, to_host(FABRIC, broken_sent, ether_type=0x86DD)),
        ),
    ]
    # Reduced: the first container is in no segment list (RFC 8754 §4.1.1), and others need not name what was active.
    for name, sids, left in (("reduced", [NEXT, LAST], 2), ("other-active", [LAST, NEXT, LAST], 2)):
        arrives = srv6(INNER, sids, left, destination=END)
        leaves = srv6(INNER, sids, left - 1, hop_limit=59)
        out = FABRIC if leaves.dst == NEXT else FABRIC_2
        vectors.append(Vector(f"container-{name}", FABRIC, from_host(FABRIC, arrives), onward(leaves, out)))
    refused = DropReason.SID_NOT_ADMITTED
    return [
        *vectors,
        _drop("container-end-hop-limit-1", FABRIC, bare("5f00:1:1:10::", 1), DropReason.HOP_LIMIT),
        _drop("container-past-its-end", FABRIC, bare(END), DropReason.SEGMENTS_LEFT),
        _drop("container-end-x-past-its-end", FABRIC, bare(END_X), DropReason.SEGMENTS_LEFT),
        _drop("container-zero-in-the-middle", FABRIC, bare("5f00:1:1:0:10::"), refused),
        _drop("container-zero-after-end-x", FABRIC, bare("5f00:1:1:2:0:10::"), refused),
        _drop("container-of-unknown-node", FABRIC, bare("5f00:1:1:99::"), DropReason.NO_ROUTE),
        _drop("container-of-last-node", FABRIC, bare("5f00:1:1:dfff::"), DropReason.NO_ROUTE),
        _drop("container-function-gone", FABRIC, bare("5f00:1:1:e205::"), DropReason.SID_GONE),
        _drop("container-last-function-gone", FABRIC, bare("5f00:1:1:ffff::"), DropReason.SID_GONE),
        _drop("segment-function-gone", FABRIC, srv6(INNER, [NEXT, "5f00:1:1:e000::"], 0), DropReason.SID_GONE),
        _drop("container-of-foreign-block", FABRIC, srv6(INNER, [END, "2001:db8::1"], 1), refused),
        _drop("container-of-no-node", FABRIC, srv6(INNER, [END, "5f00:1:0:10::"], 1), refused),
        _drop("container-of-foreign-block-end-x", FABRIC, srv6(INNER, [END_X, "::1"], 1), refused),
        _drop("container-two-beyond-list", FABRIC, srv6(INNER, [NEXT], 2, destination=END), DropReason.SEGMENTS_LEFT),
    ]


def transit() -> list[Vector]:
    packet = srv6(INNER, [NEXT, LAST], 1)
    sent = srv6(INNER, [NEXT, LAST], 1, hop_limit=59)
    ten = srv6(INNER, [NEXT] * 10, 4)
    bare, bare_sent = (IPv6(src=LAST, dst=NEXT, hlim=h, nh=59) for h in (2, 1))
    return [
        Vector("transit", FABRIC, from_host(FABRIC, packet), Forward(FABRIC, to_host(FABRIC, sent))),
        Vector("transit-other-port", FABRIC_2, from_host(FABRIC_2, packet), Forward(FABRIC, to_host(FABRIC, sent))),
        Vector(
            "transit-ten-segments",
            FABRIC,
            from_host(FABRIC, ten),
            Forward(FABRIC, to_host(FABRIC, srv6(INNER, [NEXT] * 10, 4, hop_limit=59))),
        ),
        Vector("transit-no-srh", FABRIC, from_host(FABRIC, bare), Forward(FABRIC, to_host(FABRIC, bare_sent))),
        Vector(
            "transit-to-tunnel",
            FABRIC,
            from_host(FABRIC, srv6(INNER, ["5f00:3::1"], 0)),
            Forward(TUNNEL, to_host(TUNNEL, srv6(INNER, ["5f00:3::1"], 0, hop_limit=59))),
        ),
        _drop("transit-hop-limit-1", FABRIC, srv6(INNER, [NEXT], 0, hop_limit=1), DropReason.HOP_LIMIT),
        _drop("transit-no-route", FABRIC, srv6(INNER, ["5f00:9:1::"], 0), DropReason.NO_ROUTE),
        _drop("transit-route-that-drops", FABRIC, srv6(INNER, ["5f00:dead::"], 0), 70),
        _drop("transit-no-next-hop", FABRIC, srv6(INNER, ["5f00:4:1::"], 0), DropReason.NO_NEXT_HOP),
        _drop("transit-vlan-next-hop", FABRIC, srv6(INNER, ["5f00:4:3::"], 0), DropReason.NO_NEXT_HOP),
        _drop("transit-absent-port", FABRIC, srv6(INNER, ["5f00:4:4::"], 0), DropReason.NO_NEXT_HOP),
        _drop("transit-no-neighbour", FABRIC, srv6(INNER, ["5f00:4:5::"], 0), DropReason.NEIGHBOR_UNKNOWN),
        _drop("transit-payload-cut", FABRIC, bytes(packet)[:-1], DropReason.MALFORMED, ether_type=0x86DD),
        _drop("transit-version-4", FABRIC, b"\x40" + bytes(packet)[1:], DropReason.MALFORMED, ether_type=0x86DD),
    ]


def classes() -> list[Vector]:
    """A SID works only from the ingress class it was given to (RFC 8754 §5.1)."""
    vectors = [
        _drop(f"{name}-from-port-{port}", port, srv6(INNER, [sid], 0), DropReason.SID_NOT_ADMITTED)
        for name, sid, port in (
            ("end", END, TUNNEL),
            ("end-x", END_X, TUNNEL_2),
            ("dt46-of-fabric", DT46, TUNNEL),
            ("dt46-of-other-tunnel", DT46_TUNNEL, TUNNEL_2),
            ("dt46-of-first-tunnel", DT46_TUNNEL_2, TUNNEL),
            ("transit", NEXT, TUNNEL),
            ("end-from-host", END, A),
            ("dt46-from-host", DT46, A),
            ("transit-from-host", NEXT, A),
        )
    ]
    # The other way: what a tunnel may use is nothing to the fabric but a destination without a route.
    vectors.append(_drop("dt46-of-tunnel-from-fabric", FABRIC, srv6(INNER, [DT46_TUNNEL], 0), DropReason.NO_ROUTE))
    kernel = IPv6(src="fe80::1", dst="fe80::2") / Raw(b"x")
    vectors += [
        Vector("link-local-is-the-kernels", FABRIC, from_host(FABRIC, kernel), Pass()),
        Vector("arp-on-link-is-the-kernels", FABRIC, from_host(FABRIC, ARP(pdst="192.0.2.1")), Pass()),
        _drop("ipv4-on-link", FABRIC, IP(src="192.0.2.1", dst="192.0.2.2") / udp(), DropReason.NOT_IP),
        _drop("ipv6-cut-on-link", FABRIC, bytes(39), DropReason.MALFORMED, ether_type=0x86DD),
        Vector("unknown-port-is-the-kernels", 99, from_host(FABRIC, kernel), Pass()),
    ]
    return vectors


def _inner(version: int, *, hop_limit: int = 64, traffic_class: int = 0, transport: Packet | None = None) -> Packet:
    ends = (remote4(1), A4) if version == 4 else (remote6(1), A6)
    return ip(version, *ends, hop_limit=hop_limit, traffic_class=traffic_class) / (transport or tcp(443, 40000, "SA"))


def _delivered(version: int, **inner: int) -> Forward:
    return Forward(A, to_host(A, _inner(version, hop_limit=63, **inner)))


def decapsulation() -> list[Vector]:
    vectors = []
    for version, protocol in ((4, 4), (6, 41)):
        inner = _inner(version)
        bare = IPv6(src=NEXT, dst=DT46, nh=protocol) / Raw(bytes(inner))
        for name, packet in {
            "srh": srv6(inner, [NEXT, DT46], 0, next_header=protocol),
            "no-srh": bare,
            "eight-segments": srv6(inner, [*[NEXT] * 7, DT46], 0, next_header=protocol),
            "hop-limit-1": srv6(inner, [DT46], 0, next_header=protocol, hop_limit=1),
        }.items():
            frame = from_host(FABRIC, packet)
            vectors.append(Vector(f"dt46-{name}-ipv{version}", FABRIC, frame, _delivered(version), KNOWN_HOSTS))
        padded = from_host(FABRIC, bare) + bytes(9)
        vectors.append(Vector(f"dt46-padding-ipv{version}", FABRIC, padded, _delivered(version), KNOWN_HOSTS))
        # Same addresses, other VRF: the port of C.
        frame = from_host(FABRIC, srv6(inner, [DT46_OVERLAPPING], 0, next_header=protocol))
        to_c = Forward(C, to_host(C, _inner(version, hop_limit=63)))
        address = A4 if version == 4 else A6
        vectors.append(Vector(f"dt46-overlapping-ipv{version}", FABRIC, frame, to_c, _teach(C, version, address)))
    vectors += gateway()
    return vectors


def _teach(port: int, version: int, address: str) -> tuple[tuple[int, bytes], ...]:
    return ((port, arp_reply(port, address) if version == 4 else neighbor_advertisement(port, address)),)


def gateway() -> list[Vector]:
    """A gateway decapsulates into the VRF of an agreement, checks what was agreed, and encapsulates again."""
    vectors = []
    for version, protocol in ((4, 4), (6, 41)):
        inner, sent = (_inner(version, hop_limit=h, transport=udp()) for h in (64, 63))
        ends = (remote4(1), A4) if version == 4 else (remote6(1), A6)
        outer = encapsulated(sent, version, segments(3), entropy(*ends, 17, 40000, 5060))
        for port, sid in ((TUNNEL, DT46_TUNNEL), (TUNNEL_2, DT46_TUNNEL_2)):
            frame = from_host(port, srv6(inner, [sid], 0, next_header=protocol))
            expected = Forward(FABRIC, to_host(FABRIC, outer))
            vectors.append(Vector(f"gateway-by-port-{port}-ipv{version}", port, frame, expected))
        # Return traffic of tcp/443 is permitted, opening a connection is not.
        for flags, reason in (("SA", 0), ("A", 0), ("R", 0), ("S", DropReason.NOT_PERMITTED)):
            inner, sent = (_inner(version, hop_limit=h, transport=tcp(443, 40000, flags)) for h in (64, 63))
            frame = from_host(TUNNEL, srv6(inner, [DT46_TUNNEL], 0, next_header=protocol))
            expected = Drop(reason) if reason else Forward(A, to_host(A, sent))
            name = f"return-{flags.lower()}-ipv{version}"
            vectors.append(Vector(name, TUNNEL, frame, expected, KNOWN_HOSTS))
        other = _inner(version, transport=tcp(80, 40000, "A"))
        frame = from_host(TUNNEL, srv6(other, [DT46_TUNNEL], 0, next_header=protocol))
        vectors.append(Vector(f"return-other-port-ipv{version}", TUNNEL, frame, Drop(DropReason.NOT_PERMITTED)))
        big = _inner(version, transport=udp() / Raw(bytes(1400)))
        if version == 4:
            big.flags = "DF"
        frame = from_host(TUNNEL, srv6(big, [DT46_TUNNEL], 0, next_header=protocol))
        vectors.append(Vector(f"too-big-decapsulated-ipv{version}", TUNNEL, frame, Drop(DropReason.TOO_BIG)))
    return vectors


def decapsulation_errors() -> list[Vector]:
    inner = bytes(_inner(4))
    broken = bytearray(inner)
    broken[10] ^= 1
    options = bytearray(inner)
    options[0] = 0x46
    later = IP(src=remote4(1), dst=A4, frag=5) / Raw(PAYLOAD)
    mapped = IPv6(src=f"::ffff:{remote4(1)}", dst=f"::ffff:{A4}") / udp()
    cases = {
        "bad-checksum": (bytes(broken), 4, DropReason.MALFORMED),
        "options": (bytes(options), 4, DropReason.IPV4_OPTIONS),
        "not-ip": (inner, 17, DropReason.MALFORMED),
        "wrong-version": (inner, 41, DropReason.MALFORMED),
        "empty": (b"", 4, DropReason.MALFORMED),
        "cut": (inner[:-1], 4, DropReason.MALFORMED),
        "fragment": (bytes(later), 4, DropReason.FRAGMENT),
        "mapped-ipv6": (bytes(mapped), 41, DropReason.NOT_FORWARDABLE),
        "multicast": (bytes(IP(src=remote4(1), dst="224.0.0.1") / udp()), 4, DropReason.NOT_FORWARDABLE),
        "no-route": (bytes(IP(src=remote4(1), dst="10.1.0.99") / udp()), 4, DropReason.NO_ROUTE),
        "not-permitted": (bytes(IP(src=remote4(1), dst="10.9.0.1") / udp()), 4, DropReason.NOT_PERMITTED),
    }
    vectors = [
        _drop(f"dt46-{name}", FABRIC, srv6(data, [DT46], 0, next_header=protocol), reason)
        for name, (data, protocol, reason) in cases.items()
    ]
    beyond = _with_payload(srv6(inner, [DT46], 0), 16)
    vectors.append(_drop("dt46-srh-beyond-payload", FABRIC, beyond, DropReason.MALFORMED, ether_type=0x86DD))
    short = _with_payload(srv6(inner, [DT46], 0), 24 + len(inner) - 1)
    vectors.append(_drop("dt46-inner-beyond-payload", FABRIC, short, DropReason.MALFORMED, ether_type=0x86DD))
    two_left = srv6(inner, [DT46, NEXT], 1)
    vectors.append(_drop("dt46-segments-left", FABRIC, two_left, DropReason.SEGMENTS_LEFT))
    return vectors


FIGURE_4 = (
    # inner: outer Not-ECT, ECT(0), ECT(1), CE
    (0b00, (0b00, 0b00, 0b00, None)),
    (0b10, (0b10, 0b10, 0b01, 0b11)),
    (0b01, (0b01, 0b01, 0b01, 0b11)),
    (0b11, (0b11, 0b11, 0b11, 0b11)),
)
"""RFC 6040 §4.2, figure 4, with its columns; None is "drop"."""


def ecn() -> list[Vector]:
    vectors = []
    for inner_ecn, row in FIGURE_4:
        for outer_ecn, result in zip((0b00, 0b10, 0b01, 0b11), row, strict=True):
            for version, protocol in ((4, 4), (6, 41)):
                inner = _inner(version, traffic_class=10 << 2 | inner_ecn)
                packet = srv6(inner, [DT46], 0, next_header=protocol, traffic_class=46 << 2 | outer_ecn)
                expected = (
                    Drop(DropReason.MALFORMED)
                    if result is None
                    else _delivered(version, traffic_class=10 << 2 | result)
                )
                name = f"ecn-inner-{inner_ecn:02b}-outer-{outer_ecn:02b}-ipv{version}"
                vectors.append(Vector(name, FABRIC, from_host(FABRIC, packet), expected, KNOWN_HOSTS))
    return vectors


def icmp_classes() -> list[Vector]:
    """In the agreement's class ICMP errors about what is permitted are, other ICMP is not."""
    quote = bytes(IP(src=A4, dst=remote4(1)) / tcp(5, 443))[:28]
    vectors = []
    for icmp_type in (0, 3, 4, 5, 8, 11, 12, 13):
        inner, sent = (_inner(4, hop_limit=h, transport=ICMP(type=icmp_type) / Raw(quote)) for h in (64, 63))
        permitted = icmp_type in (3, 11, 12)
        expected = Forward(A, to_host(A, sent)) if permitted else Drop(DropReason.NOT_PERMITTED)
        frame = from_host(TUNNEL, srv6(inner, [DT46_TUNNEL], 0))
        vectors.append(Vector(f"icmp-type-{icmp_type}", TUNNEL, frame, expected, KNOWN_HOSTS))
    for icmp_type in (1, 2, 3, 4, 127, 128, 129, 200):
        message = ICMPv6EchoReply(type=icmp_type, data=bytes(IPv6(src=A6, dst=remote6(1)) / tcp(5, 443)))
        inner, sent = (_inner(6, hop_limit=h, transport=message) for h in (64, 63))
        expected = Forward(A, to_host(A, sent)) if icmp_type < 128 else Drop(DropReason.NOT_PERMITTED)
        frame = from_host(TUNNEL, srv6(inner, [DT46_TUNNEL], 0, next_header=41))
        vectors.append(Vector(f"icmpv6-type-{icmp_type}", TUNNEL, frame, expected, KNOWN_HOSTS))
    return vectors


VECTORS = [
    *endpoint(),
    *endpoint_errors(),
    *compressed(),
    *transit(),
    *classes(),
    *decapsulation(),
    *decapsulation_errors(),
    *ecn(),
    *icmp_classes(),
]
