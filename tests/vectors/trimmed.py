"""Packets that are larger than the port they leave by, and what is told of those that a node on their way trimmed."""

from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6PacketTooBig, IPv6
from scapy.packet import Packet, Raw

from dataplane.reasons import TRIMMED_LENGTH, DropReason
from dataplane.reference import Cut, Drop, Forward
from dataplane.reference.fragment import cut
from dataplane.reference.packet import ETHERTYPE_IPV4, Ip, parse_ip
from vectors import node
from vectors.case import (
    Vector,
    arp_reply,
    encapsulated,
    entropy,
    from_host,
    ip,
    neighbor_advertisement,
    srv6,
    to_host,
    udp,
)
from vectors.entries import local_sid, route
from vectors.errors import told
from vectors.node import (
    A4,
    A6,
    AGREEMENT,
    BY_SMALL,
    FABRIC,
    GATEWAY4,
    GATEWAY6,
    S4,
    S6,
    SERVICE,
    SMALL,
    SMALL_MTU,
    T4,
    TAGGED,
    TUNNEL,
    A,
    remote4,
    remote6,
    segments,
)

REASON = DropReason.TOO_BIG
END, BEYOND = "5f00:1:1::", "5f00:6:1::1"
OUTER, OUTER_WITH_SRH = 40, 40 + 8 + 16
KNOWN = ((SMALL, arp_reply(SMALL, S4)), (SMALL, neighbor_advertisement(SMALL, S6)))


def large(version: int, source: str, destination: str, size: int, flags: str = "DF") -> Packet:
    if version == 4:
        return IP(src=source, dst=destination, flags=flags) / UDP(dport=9) / Raw(bytes(size - 28))
    return IPv6(src=source, dst=destination) / UDP(dport=9) / Raw(bytes(size - 48))


def left_of(inner: Packet) -> bytes:
    """Its beginning, with a length that is right."""
    data = bytes(inner)[:TRIMMED_LENGTH]
    if inner.version == 6:
        return data[:4] + (TRIMMED_LENGTH - 40).to_bytes(2) + data[6:]
    header = IP(data[:20])
    header.len = TRIMMED_LENGTH
    del header.chksum
    return bytes(header)[:20] + data[20:]


def too_big(mtu: int) -> tuple[Packet, Packet]:
    return ICMP(type=3, code=4, nexthopmtu=mtu), ICMPv6PacketTooBig(mtu=mtu)


def delivered() -> list[Vector]:
    vectors = []
    error = too_big(SMALL_MTU)
    for version, source, destination in ((4, A4, S4), (6, A6, S6)):
        fits, exceeds = (large(version, source, destination, size) for size in (SMALL_MTU, SMALL_MTU + 1))
        sent = fits.copy()
        if version == 4:
            sent.ttl -= 1
        else:
            sent.hlim -= 1
        vectors += [
            Vector(f"port-fits-ipv{version}", A, from_host(A, fits), Forward(SMALL, to_host(SMALL, sent)), KNOWN),
            Vector(f"port-too-small-ipv{version}", A, from_host(A, exceeds), told(exceeds, error, REASON)),
        ]
    tagged, whole = large(4, T4, S4, 1450), large(4, A4, S4, 1500, flags="")
    parsed = parse_ip(ETHERTYPE_IPV4, bytes(whole))
    assert isinstance(parsed, Ip)
    pieces = tuple(
        Forward(SMALL, to_host(SMALL, piece.with_hop_limit(63).data, ether_type=ETHERTYPE_IPV4))
        for piece in cut(parsed, SMALL_MTU)
    )
    answer = told(tagged, error, REASON, TAGGED, node.VLAN)
    return [
        *vectors,
        Vector("port-too-small-tagged", TAGGED, from_host(TAGGED, tagged, node.VLAN), answer),
        Vector("port-too-small-cut", A, from_host(A, whole), Cut(pieces), KNOWN),
    ]


def under_way() -> list[Vector]:
    """End, transit and H.Encaps: what is left goes on to the end of the path."""
    vectors = []
    inner_mtu = SMALL_MTU - OUTER_WITH_SRH
    for version, protocol, remote, near in ((4, 4, remote4(BY_SMALL), A4), (6, 41, remote6(BY_SMALL), A6)):
        exact, inner = (large(version, near, remote, size) for size in (inner_mtu, inner_mtu + 1))
        first = large(version, near, remote, inner_mtu - 16 + 1)

        def passed(packet: Packet | bytes, sids: list[str], left: int, tag: int = 0, reason: int = REASON) -> Forward:
            sent = srv6(packet, sids, left, next_header=protocol, hop_limit=59, tag=tag)  # noqa: B023
            return Forward(SMALL, to_host(SMALL, sent), reason)

        def vector(name: str, packet: Packet, verdict: Forward | Drop, vlan: int | None = None) -> Vector:
            return Vector(f"{name}-ipv{version}", FABRIC, from_host(FABRIC, packet, vlan), verdict)  # noqa: B023

        def arrives(packet: Packet, sids: list[str], left: int, **fields: int) -> Packet:
            return srv6(packet, sids, left, next_header=protocol, **fields)  # noqa: B023

        trimmed = passed(left_of(inner), [BEYOND], 0, inner_mtu)
        by_end = passed(left_of(first), [END, BEYOND], 0, inner_mtu - 16)
        without = large(version, near, remote, SMALL_MTU - OUTER + 1)
        plain = IPv6(src="5f00:2:10::", dst=BEYOND, hlim=60, fl=0x12345, nh=protocol) / Raw(bytes(without))
        container = IPv6(src="5f00:2:10::", dst="5f00:1:1:6:7::", hlim=60, fl=0x12345, nh=protocol) / Raw(
            bytes(without)
        )
        vectors += [
            vector("transit-fits", arrives(exact, [BEYOND], 0), passed(exact, [BEYOND], 0, reason=DropReason.NONE)),
            vector("transit-trims", arrives(inner, [BEYOND], 0), trimmed),
            vector("transit-trims-tagged", arrives(inner, [BEYOND], 0), trimmed, node.VLAN),
            vector("end-trims", arrives(first, [END, BEYOND], 1), by_end),
            vector("transit-without-list", plain, passed(left_of(without), [BEYOND], 0, SMALL_MTU - OUTER)),
            Vector(
                f"end-trims-container-ipv{version}",
                FABRIC,
                from_host(FABRIC, container),
                passed(left_of(without), ["5f00:1:6:7::"], 0, SMALL_MTU - OUTER),
                entries=(route(0, "5f00:1:6::/48", 35),),
            ),
            vector("transit-trims-once", arrives(inner, [BEYOND], 0, tag=9), Drop(REASON)),
            vector("transit-trims-no-tlv", arrives(inner, [BEYOND], 0, len=3), Drop(REASON)),
            vector("transit-trims-at-last-hop", arrives(inner, [BEYOND], 0, hop_limit=1), Drop(REASON)),
        ]
        sent = without.copy()
        if version == 4:
            sent.ttl -= 1
        else:
            sent.hlim -= 1
        flow = entropy(near, remote, 17, without.sport, without.dport)
        outer = encapsulated(left_of(sent), version, [SERVICE, SERVICE], flow, dscp=0, color=0)
        outer[1].segleft, outer[1].tag = 0, SMALL_MTU - OUTER
        vectors.append(
            Vector(
                f"encapsulated-is-trimmed-ipv{version}",
                A,
                from_host(A, without),
                Forward(SMALL, to_host(SMALL, outer), REASON),
            )
        )
    return vectors


def reported() -> list[Vector]:
    """At the end of the path: to the sender, on the way of its replies."""
    across, inside, mtu = "5f00:1:1:6::", "5f00:1:1:3::", 1320
    answers = {"entries": (local_sid(2, f"{across}/128", "end_dt46", vrf=AGREEMENT, answer_class=101),)}
    no_route = ICMP(type=3, code=0), ICMPv6DestUnreach(code=0)
    vectors = []
    for version, protocol, far, near, gateway, nobody in (
        (4, 4, remote4(1), A4, GATEWAY4, "224.0.0.1"),
        (6, 41, remote6(1), A6, GATEWAY6, "ff0e::1"),
    ):

        def vector(
            name: str, inner: Packet | bytes, verdict: Forward | Drop, sid: str = inside, tag: int = mtu
        ) -> Vector:
            port = TUNNEL if sid == across else FABRIC
            frame = from_host(port, srv6(inner, [sid], 0, next_header=protocol, tag=tag))  # noqa: B023
            return Vector(f"{name}-ipv{version}", port, frame, verdict, **(answers if sid == across else {}))  # type: ignore[arg-type] # noqa: B023

        def answer(quoted: bytes, source: str, error: tuple[Packet, Packet]) -> Forward:
            if version == 4:  # noqa: B023
                said, icmp = IP(src=source, dst=far, tos=0xC0, id=0, ttl=63) / error[0] / Raw(quoted[:28]), 1  # noqa: B023
            else:
                said, icmp = IPv6(src=source, dst=far, hlim=63) / error[1] / Raw(quoted[:88]), 58  # noqa: B023
            outer = encapsulated(said, version, segments(1), entropy(source, far, icmp))  # noqa: B023
            return Forward(FABRIC, to_host(FABRIC, outer), DropReason.TRIMMED)

        left = left_of(large(version, far, near, 1400))
        error = IP(src=far, dst=near) / ICMP(type=3) if version == 4 else IPv6(src=far, dst=near) / ICMPv6DestUnreach()
        short = ip(version, far, near) / udp()
        small = too_big(1279) if version == 4 else no_route
        vectors += [
            vector("trimmed-inside", left, answer(left, gateway, too_big(mtu))),
            vector("trimmed-across", left, answer(left, near, too_big(mtu)), across),
            vector("trimmed-below-ipv6", left, answer(left, gateway, small), tag=1279),
            vector("trimmed-short", short, answer(bytes(short), gateway, too_big(mtu))),
            vector("trimmed-error", error / bytes(100), Drop(DropReason.TRIMMED)),
            vector("trimmed-to-group", left_of(large(version, far, nobody, 1400)), Drop(DropReason.NOT_FORWARDABLE)),
            vector("trimmed-to-nothing", b"", Drop(DropReason.MALFORMED)),
        ]
    return vectors


VECTORS = [*delivered(), *under_way(), *reported()]
