"""H.Encaps.Red (RFC 8986 §5.2), candidate paths, ECN and MSS."""

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6, IPv6ExtHdrFragment
from scapy.packet import Packet, Raw

from dataplane.reference import Forward
from vectors.case import PAYLOAD, Vector, encapsulated, entropy, from_host, ip, tcp, to_host, udp
from vectors.entries import live
from vectors.node import (
    A4,
    A6,
    FABRIC,
    FABRIC_2,
    FULL,
    INNER_MTU,
    LATER,
    LEASED,
    SERVICE,
    T4,
    TAGGED,
    UNLIMITED,
    VLAN,
    A,
    containers,
    remote4,
    remote6,
    segments,
)
from vectors.node import COLOR as _COLOR


def _ends(version: int, number: int) -> tuple[str, str]:
    return (A4, remote4(number)) if version == 4 else (A6, remote6(number))


def vector(
    name: str,
    version: int,
    number: int,
    transport: Packet,
    key: tuple[int, int, int],
    *,
    sids: list[str] | None = None,
    out: int = FABRIC,
    sent: Packet | None = None,
    traffic_class: int = 0,
    padding: bytes = b"",
    dscp: int = 46,
    color: int = _COLOR,
    entries: tuple = (),
) -> Vector:
    """`transport` from A to remote `number` leaves as `sent` (or itself) by `sids`; `key`: protocol and ports."""
    ends = _ends(version, number)
    frame = from_host(A, ip(version, *ends, traffic_class=traffic_class) / transport) + padding
    inner = ip(version, *ends, hop_limit=63, traffic_class=traffic_class) / (sent or transport)
    outer = encapsulated(
        inner,
        version,
        sids or segments(number),
        entropy(*ends, *key),
        ecn=traffic_class & 3,
        dscp=dscp,
        color=color,
    )
    return Vector(name, A, frame, Forward(out, to_host(out, outer)), entries=entries)


def counts() -> list[Vector]:
    """One container without an SRH, containers in an SRH, the service SID in the last one or a segment of its own."""
    full = [*[containers(6)[0]] * 3, SERVICE]
    return [
        vector(f"path-{count}-ipv{version}", version, count, udp(), (17, 40000, 5060))
        for count in range(1, 9)
        for version in (4, 6)
    ] + [
        vector(f"full-containers-ipv{version}", version, FULL, udp(), (17, 40000, 5060), sids=full, dscp=0, color=0)
        for version in (4, 6)
    ]


def transports() -> list[Vector]:
    first4 = IP(src=A4, dst=remote4(2), flags="MF", id=77) / UDP(sport=1, dport=2, len=2000, chksum=0) / Raw(PAYLOAD)
    first6 = (
        IPv6(src=A6, dst=remote6(2), nh=44)
        / IPv6ExtHdrFragment(nh=17, offset=0, m=1, id=77)
        / UDP(sport=1, dport=2, len=2000, chksum=1)
        / Raw(PAYLOAD)
    )
    vectors = [
        vector("tcp-ipv4", 4, 2, tcp(), (6, 40000, 443)),
        vector("tcp-ipv6", 6, 2, tcp(), (6, 40000, 443)),
        vector("echo-ipv4", 4, 2, ICMP(type=8, id=7, seq=1) / Raw(PAYLOAD), (1, 0, 0)),
        vector("echo-ipv6", 6, 2, ICMPv6EchoRequest(id=7, seq=1, data=PAYLOAD), (58, 0, 0)),
        vector("padding-is-cut", 4, 2, UDP(sport=1, dport=2), (17, 1, 2), padding=b"\xaa" * 18),
        vector("lease-that-runs", 4, LEASED, udp(), (17, 40000, 5060), sids=[SERVICE], dscp=0, color=0),
        vector("no-inner-mtu", 4, UNLIMITED, UDP() / Raw(bytes(1472)), (17, 53, 53), sids=segments(2), dscp=0, color=0),
        vector("exactly-inner-mtu", 4, 2, UDP() / Raw(bytes(INNER_MTU - 28)), (17, 53, 53)),
    ]
    for name, version, packet in (("ipv4", 4, first4), ("ipv6", 6, first6)):
        sent = packet.copy()
        if version == 4:
            sent.ttl = 63
        else:
            sent.hlim = 63
        outer = encapsulated(sent, version, segments(2), entropy(*_ends(version, 2), 17, 1, 2))
        vectors.append(
            Vector(f"first-fragment-{name}", A, from_host(A, packet), Forward(FABRIC, to_host(FABRIC, outer)))
        )
    tagged = IP(src=T4, dst=remote4(2)) / udp()
    inner = IP(src=T4, dst=remote4(2), ttl=63) / udp()
    outer = encapsulated(inner, 4, segments(2), entropy(T4, remote4(2), 17, 40000, 5060))
    vectors.append(
        Vector("vlan-tag-is-removed", TAGGED, from_host(TAGGED, tagged, VLAN), Forward(FABRIC, to_host(FABRIC, outer)))
    )
    return vectors


def ecn() -> list[Vector]:
    """RFC 6040 §4.1, normal mode: the outer ECN is the inner one, the DSCP is the path's."""
    return [
        vector(f"ecn-{value}-ipv{version}", version, 1, udp(), (17, 40000, 5060), traffic_class=8 << 2 | value)
        for value in range(4)
        for version in (4, 6)
    ]


def paths() -> list[Vector]:
    flow = (17, 40000, 5060)
    by_live = {
        "first": (0b0010_0001, FABRIC, segments(3)),
        "second-when-first-is-dead": (0b0010_0000, FABRIC_2, segments(3, LATER)),
        "absent-candidates-are-skipped": (0b1111_1110, FABRIC_2, segments(3, LATER)),
    }
    return [
        vector(f"path-{name}", 4, 3, udp(), flow, sids=sids, out=out, entries=(live(1, bits),))
        for name, (bits, out, sids) in by_live.items()
    ]


def mss() -> list[Vector]:
    largest = {4: INNER_MTU - 40, 6: INNER_MTU - 60}
    lists = {
        "alone": ([], []),
        "odd-offset": ([("NOP", None)], [("NOP", None), ("NOP", None)]),
        "after-others": ([("SAckOK", b""), ("Timestamp", (1, 2)), ("WScale", 7)], []),
        "before-others": ([], [("NOP", None), ("WScale", 7), ("NOP", None), ("NOP", None), ("SAckOK", b"")]),
        "odd-offset-after-others": ([("WScale", 7)], [("NOP", None)]),
        "last-of-40-bytes": ([("NOP", None)] * 36, []),
        "odd-and-last": ([("NOP", None)] * 35, [("EOL", None)]),
    }
    vectors = []
    for version in (4, 6):
        for name, (head, tail) in lists.items():
            for flags in ("S", "SA"):

                def syn(value: int, head: list = head, tail: list = tail, flags: str = flags) -> Packet:
                    return TCP(sport=1024, dport=443, flags=flags, options=[*head, ("MSS", value), *tail])

                sent = syn(largest[version])
                title = f"mss-{name}-{flags.lower()}-ipv{version}"
                vectors.append(vector(title, version, 2, syn(1460), (6, 1024, 443), sent=sent))
        small = TCP(sport=1024, dport=443, flags="S", options=[("MSS", 536)])
        vectors.append(vector(f"mss-small-stays-ipv{version}", version, 2, small, (6, 1024, 443)))
        later = TCP(sport=1024, dport=443, flags="A", options=[("MSS", 1460)])
        vectors.append(vector(f"mss-of-no-syn-stays-ipv{version}", version, 2, later, (6, 1024, 443)))
        ended = TCP(sport=1024, dport=443, flags="S", options=[("EOL", None), ("MSS", 1460)])
        vectors.append(vector(f"mss-behind-end-stays-ipv{version}", version, 2, ended, (6, 1024, 443)))
        unlimited = TCP(sport=1024, dport=443, flags="S", options=[("MSS", 9000)])
        vectors.append(
            vector(
                f"mss-without-inner-mtu-stays-ipv{version}",
                version,
                UNLIMITED,
                unlimited,
                (6, 1024, 443),
                sids=segments(2),
                dscp=0,
                color=0,
            )
        )
    return vectors


VECTORS = [*counts(), *transports(), *ecn(), *paths(), *mss()]
