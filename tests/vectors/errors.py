"""What senders are told of dropped packets, and what nobody is told: RFC 1122 §3.2.2, RFC 1812 §4.3, RFC 4443 §2.4."""

from functools import reduce
from operator import truediv

from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
)
from scapy.packet import Packet, Raw

from dataplane.entry import TableEntry
from dataplane.reasons import EXTENSION_HEADERS, DropReason
from dataplane.reference import Drop, Forward
from vectors import node
from vectors.case import Vector, encapsulated, entropy, from_host, ip, srv6, tcp, to_host, udp
from vectors.entries import attach, encapsulate, live, local_sid
from vectors.node import (
    A4,
    A6,
    AGREEMENT,
    B4,
    B6,
    FABRIC,
    GATEWAY4,
    GATEWAY6,
    NARROW,
    T4,
    T6,
    TAGGED,
    TENANT,
    TUNNEL,
    A,
    C,
    remote4,
    remote6,
    segments,
)

TIME_EXCEEDED = (ICMP(type=11, code=0), ICMPv6TimeExceeded(code=0))
NO_ROUTE = (ICMP(type=3, code=0), ICMPv6DestUnreach(code=0))
PROHIBITED = (ICMP(type=3, code=13), ICMPv6DestUnreach(code=1))


def told(packet: Packet, error: tuple[Packet, Packet], reason: int, port: int = A, vlan: int | None = None) -> Forward:
    """What goes back to the sender of `packet`; a quote is at most 28 or 88 bytes, in whole words."""
    whole = bytes(packet)
    if packet.version == 4:
        quote = whole[: min(len(whole), 28) // 4 * 4]
        answer = IP(src=GATEWAY4, dst=packet.src, tos=0xC0, id=0, ttl=64) / error[0] / Raw(quote)
    else:
        quote = whole[: min(len(whole), 88) // 4 * 4]
        answer = IPv6(src=GATEWAY6, dst=packet.src, hlim=64) / error[1] / Raw(quote)
    return Forward(port, to_host(port, answer, vlan), reason)


def _told(
    name: str, packet: Packet, error: tuple[Packet, Packet], reason: int, port: int = A, **fields: object
) -> Vector:
    vlan = node.VLAN if port == TAGGED else None
    return Vector(name, port, from_host(port, packet, vlan), told(packet, error, reason, port, vlan), **fields)


def _untold(name: str, packet: Packet | bytes, reason: int, port: int = A, **fields: object) -> Vector:
    return Vector(name, port, from_host(port, packet), Drop(reason), **fields)


def too_big() -> list[Vector]:
    """RFC 1191 §4, RFC 4443 §3.2; the mtu is the path's."""

    def error(mtu: int) -> tuple[Packet, Packet]:
        return ICMP(type=3, code=4, nexthopmtu=mtu), ICMPv6PacketTooBig(mtu=mtu)

    mtu, reason = node.INNER_MTU, DropReason.TOO_BIG
    vectors = []
    for size in (mtu + 1, 1500):
        packet = IP(src=A4, dst=remote4(2), flags="DF") / UDP(dport=9) / Raw(bytes(size - 28))
        vectors.append(_told(f"frag-needed-{size}", packet, error(mtu), reason))
        packet = IPv6(src=A6, dst=remote6(2)) / UDP(dport=9) / Raw(bytes(size - 48))
        vectors.append(_told(f"packet-too-big-{size}", packet, error(mtu), reason))
    tagged = IP(src=T4, dst=remote4(2), flags="DF") / UDP() / Raw(bytes(1400))
    quoted4, quoted6 = (
        Raw(bytes(header / udp())) for header in (IP(src=remote4(2), dst=A4), IPv6(src=remote6(2), dst=A6))
    )
    error4 = IP(src=A4, dst=remote4(2), flags="DF") / ICMP(type=3) / quoted4 / bytes(1400)
    error6 = IPv6(src=A6, dst=remote6(2)) / ICMPv6DestUnreach() / quoted6 / bytes(1400)
    mute4, mute6 = node.MUTE4, node.MUTE6
    ipv6_of_1500 = IPv6(src=A6, dst=remote6(2)) / UDP() / bytes(1452)

    def below(mtu: int) -> tuple[TableEntry, ...]:
        return (encapsulate(102, 2, 1, node.SERVICE, inner_mtu=mtu),)

    return [
        *vectors,
        _told("frag-needed-tagged", tagged, error(mtu), reason, TAGGED),
        _told("frag-needed-small", IP(src=A4, dst=remote4(NARROW)) / tcp(), error(64), reason),
        _told("no-ipv6-small", IPv6(src=A6, dst=remote6(NARROW)) / udp(), NO_ROUTE, DropReason.NO_IPV6),
        _told("no-ipv6-1279", IPv6(src=A6, dst=remote6(2)) / udp(), NO_ROUTE, DropReason.NO_IPV6, entries=below(1279)),
        _told("no-ipv6-large", ipv6_of_1500, NO_ROUTE, DropReason.NO_IPV6, entries=below(1279)),
        _told("packet-too-big-1280", ipv6_of_1500, error(1280), reason, entries=below(1280)),
        _untold("no-error-about-icmp-error", error4, reason),
        _untold("no-error-about-icmpv6-error", error6, reason),
        _untold("no-error-without-gateway", IP(src=mute4, dst=remote4(2), flags="DF") / bytes(1400), reason, node.MUTE),
        _untold("no-error-without-gateway-6", IPv6(src=mute6, dst=remote6(2)) / UDP() / bytes(1400), reason, node.MUTE),
    ]


def hop_limit() -> list[Vector]:
    """RFC 1812 §5.3.1, RFC 4443 §3.3: traceroute sees the gateway of the host's own network."""
    reason = DropReason.HOP_LIMIT
    one4, one6 = {"src": A4, "dst": remote4(1), "ttl": 1}, {"src": A6, "dst": remote6(1), "hlim": 1}
    error6 = Raw(bytes(ICMPv6TimeExceeded()))
    options = [IPv6ExtHdrDestOpt() for _ in range(EXTENSION_HEADERS + 1)]
    many = reduce(truediv, options)
    return [
        *(_told(f"ttl-{ttl}", IP(src=A4, dst=remote4(1), ttl=ttl) / udp(), TIME_EXCEEDED, reason) for ttl in (0, 1)),
        *(_told(f"hop-limit-{n}", IPv6(src=A6, dst=remote6(1), hlim=n) / udp(), TIME_EXCEEDED, reason) for n in (0, 1)),
        _told("ttl-1-tagged", IP(src=T4, dst=remote4(1), ttl=1) / udp(), TIME_EXCEEDED, reason, TAGGED),
        _told("hop-limit-1-tagged", IPv6(src=T6, dst=remote6(1), hlim=1) / udp(), TIME_EXCEEDED, reason, TAGGED),
        _told("ttl-1-to-host-of-the-network", IP(src=A4, dst=B4, ttl=1) / udp(), TIME_EXCEEDED, reason),
        _told("hop-limit-1-to-host-of-the-network", IPv6(src=A6, dst=B6, hlim=1) / udp(), TIME_EXCEEDED, reason),
        _told("ttl-1-echo", IP(**one4) / ICMP(), TIME_EXCEEDED, reason),
        _told("hop-limit-1-echo", IPv6(**one6) / ICMPv6EchoRequest(), TIME_EXCEEDED, reason),
        _told("ttl-1-tcp", IP(**one4) / tcp(flags="S"), TIME_EXCEEDED, reason),
        _told("ttl-1-20-bytes", IP(**one4, proto=99), TIME_EXCEEDED, reason),
        _told("ttl-1-23-bytes", IP(**one4, proto=99) / bytes(3), TIME_EXCEEDED, reason),
        _told("hop-limit-1-45-bytes", IPv6(**one6, nh=99) / bytes(5), TIME_EXCEEDED, reason),
        _told("ttl-1-first-fragment", IP(**one4, flags="MF") / udp(), TIME_EXCEEDED, reason),
        _told("hop-limit-1-first-fragment", IPv6(**one6) / IPv6ExtHdrFragment(m=1) / udp(), TIME_EXCEEDED, reason),
        _told("hop-limit-1-options", IPv6(**one6) / IPv6ExtHdrDestOpt() / udp(), TIME_EXCEEDED, reason),
        *(
            _untold(f"ttl-1-icmp-{kind}", IP(**one4) / ICMP(type=kind) / bytes(28), reason)
            for kind in (3, 4, 5, 11, 12)
        ),
        *(
            _untold(f"hop-limit-1-icmp-{kind}", IPv6(**one6) / ICMPv6DestUnreach(type=kind) / bytes(48), reason)
            for kind in (1, 2, 3, 4, 100)
        ),
        _untold("hop-limit-1-error-behind-options", IPv6(**one6) / IPv6ExtHdrDestOpt(nh=58) / error6, reason),
        _untold("hop-limit-1-error-behind-hop-by-hop", IPv6(**one6) / IPv6ExtHdrHopByHop(nh=58) / error6, reason),
        _untold("hop-limit-1-error-in-fragment", IPv6(**one6) / IPv6ExtHdrFragment(nh=58, m=1) / error6, reason),
        _untold("hop-limit-1-too-many-options", IPv6(**one6) / many / udp(), reason),
        _untold("hop-limit-1-options-cut", IPv6(**one6, nh=60) / bytes(7), DropReason.MALFORMED),
        _untold("ttl-1-of-other-port", IP(src=B4, dst=remote4(1), ttl=1) / udp(), reason),
        _untold("hop-limit-1-of-nobody", IPv6(src="2001:db8:ff::1", dst=remote6(1), hlim=1) / udp(), reason),
        _untold("ttl-1-without-gateway", IP(src=node.MUTE4, dst=remote4(1), ttl=1) / udp(), reason, node.MUTE),
    ]


def unreachable() -> list[Vector]:
    """RFC 1812 §5.2.7.1, RFC 4443 §3.1: permitted, but there is no way."""
    vectors = []
    for name, number, reason in (
        ("no-sr-policy", node.PATHLESS, DropReason.NO_LIVE_PATH),
        ("live-ones-are-absent", node.DEAD, DropReason.NO_LIVE_PATH),
        ("delivery-without-route", node.UNDELIVERED, DropReason.NO_ROUTE),
    ):
        vectors.append(_told(f"{name}-ipv4", IP(src=A4, dst=remote4(number)) / udp(), NO_ROUTE, reason))
        vectors.append(_told(f"{name}-ipv6", IPv6(src=A6, dst=remote6(number)) / udp(), NO_ROUTE, reason))
    dead = {"entries": (live(1, 0),)}
    tagged = IP(src=T4, dst=remote4(node.UNDELIVERED)) / udp()
    return [
        *vectors,
        _told("no-path-is-live", IP(src=A4, dst=remote4(1)) / udp(), NO_ROUTE, DropReason.NO_LIVE_PATH, **dead),
        # C has A's addresses in a VRF of its own, where nobody answers at B's.
        _told("overlapping-vrf", IP(src=A4, dst=B4) / tcp(), NO_ROUTE, DropReason.NO_ROUTE, C),
        _told("delivery-without-route-tagged", tagged, NO_ROUTE, DropReason.NO_ROUTE, TAGGED),
    ]


def rejected() -> list[Vector]:
    """Where the network says so: RFC 1812 §5.2.7.1 code 13, RFC 4443 §3.1 code 1."""
    says = {"entries": (attach(A, TENANT, action="attach_reject"), attach(TAGGED, TENANT, node.VLAN, "attach_reject"))}
    vectors = []
    for version, source, remote in ((4, A4, remote4), (6, A6, remote6)):
        for name, number, reason in (
            ("isolated", node.ISOLATED, DropReason.ISOLATED),
            ("lease-expired", node.EXPIRED, DropReason.LEASE_EXPIRED),
            ("by-reason-of-entry", node.PORT_443, 73),
        ):
            packet = ip(version, source, remote(number)) / udp()
            vectors.append(_told(f"rejected-{name}-ipv{version}", packet, PROHIBITED, reason, **says))
    denied = DropReason.NOT_PERMITTED
    tagged = IP(src=T4, dst="198.51.100.1") / udp()
    stranger = IP(src=B4, dst="198.51.100.1") / udp()
    quoted = Raw(bytes(IP(src="198.51.100.1", dst=A4) / udp()))
    error = IP(src=A4, dst="198.51.100.1") / ICMP(type=3, code=3) / quoted
    return [
        *vectors,
        _told("rejected-ipv4", IP(src=A4, dst="198.51.100.1") / tcp(flags="S"), PROHIBITED, denied, **says),
        _told("rejected-ipv6", IPv6(src=A6, dst="2001:db8:ffff::1") / tcp(flags="S"), PROHIBITED, denied, **says),
        _told("rejected-tagged", tagged, PROHIBITED, denied, TAGGED, **says),
        _untold("not-rejected-of-other-port", stranger, DropReason.SOURCE_NOT_ADMITTED, **says),
        _untold("not-rejected-icmp-error", error, denied, **says),
        _untold("not-rejected-gateway-tcp", IP(src=A4, dst=GATEWAY4) / tcp(), denied, **says),
    ]


def beyond() -> list[Vector]:
    """To senders behind other nodes: on the class of the SID's, or inside one network on the way of its replies."""
    across, inside = "5f00:1:1:6::", "5f00:1:1:3::"
    mtu = node.INNER_MTU
    big = ICMP(type=3, code=4, nexthopmtu=mtu), ICMPv6PacketTooBig(mtu=mtu)
    answers = {"entries": (local_sid(2, f"{across}/128", "end_dt46", vrf=AGREEMENT, answer_class=101),)}
    way_back = {"vrf": AGREEMENT, "answer_class": 100 + node.PATHLESS}
    lost = {"entries": (local_sid(2, f"{across}/128", "end_dt46", **way_back),)}
    vectors = []
    for version, protocol, far, near, gateway in (
        (4, 4, remote4(1), A4, GATEWAY4),
        (6, 41, remote6(1), A6, GATEWAY6),
    ):

        def vector(
            name: str, inner: Packet, source: str, error: tuple[Packet, Packet] | None, reason: int, **fields: object
        ) -> Vector:
            port, sid = (TUNNEL, across) if fields else (FABRIC, inside)
            frame = from_host(port, srv6(inner, [sid], 0, next_header=protocol))  # noqa: B023
            if error is None:
                return Vector(f"beyond-{name}-ipv{version}", port, frame, Drop(reason), **fields)  # noqa: B023
            quote = Raw(bytes(inner)[: 28 if inner.version == 4 else 88])
            if inner.version == 4:
                told, icmp = IP(src=source, dst=inner.src, tos=0xC0, id=0, ttl=63) / error[0] / quote, 1
            else:
                told, icmp = IPv6(src=source, dst=inner.src, hlim=63) / error[1] / quote, 58
            flow = entropy(source, inner.src, icmp)
            outer = encapsulated(told, inner.version, segments(1), flow)
            sent = Forward(FABRIC, to_host(FABRIC, outer), reason)
            return Vector(f"beyond-{name}-ipv{version}", port, frame, sent, **fields)  # noqa: B023

        large = (IP(src=far, dst=near, flags="DF") if version == 4 else ip(6, far, near)) / UDP() / Raw(bytes(1400))
        last = ip(version, far, near, hop_limit=1) / udp()
        vectors += [
            vector("too-big", large, near, big, DropReason.TOO_BIG, **answers),
            vector("hop-limit-across", last, near, None, DropReason.HOP_LIMIT, **answers),
            vector("denied", ip(version, far, near) / tcp(80), near, None, DropReason.NOT_PERMITTED, **answers),
            vector("too-big-no-way-back", large, near, None, DropReason.TOO_BIG, **lost),
            vector("hop-limit-inside", last, gateway, TIME_EXCEEDED, DropReason.HOP_LIMIT),
            vector("hop-limit-of-nobody", ip(version, *_strange(version), hop_limit=1) / udp(), "", None,
                   DropReason.HOP_LIMIT),
        ]  # fmt: skip
    return vectors


def _strange(version: int) -> tuple[str, str]:
    return ("198.51.100.1", A4) if version == 4 else ("2001:db8:ffff::1", A6)


VECTORS = [*too_big(), *hop_limit(), *unreachable(), *rejected(), *beyond()]
