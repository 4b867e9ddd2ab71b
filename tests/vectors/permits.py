"""Source guard, flow policy, leases, steering, punts, and every reason to drop."""

from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6, IPv6ExtHdrFragment
from scapy.layers.l2 import ARP
from scapy.packet import Packet, Raw

from dataplane.entry import TableEntry
from dataplane.reasons import DropReason
from dataplane.reference import Drop, Forward, Punt
from vectors import entries, node
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
    tcp,
    to_host,
    to_station,
    udp,
)
from vectors.entries import admit, lease, link, policy
from vectors.node import A4, A6, B4, FABRIC, GATEWAY4, A, B, C, remote4, remote6, segments

ANY, ANY_L4 = 0xFFFF, 0xF


def _drop(name: str, packet: Packet | bytes, reason: int, port: int = A, **frame: int) -> Vector:
    return Vector(name, port, from_host(port, packet, **frame), Drop(reason))


def sources() -> list[Vector]:
    denied = DropReason.SOURCE_NOT_ADMITTED
    local, sent = IP(src=A4, dst=B4) / tcp(), IP(src=A4, dst=B4, ttl=63) / tcp()
    return [
        _drop("source-of-other-port", IP(src=B4, dst=remote4(1)) / udp(), denied),
        _drop("source-unknown-ipv4", IP(src="192.0.2.1", dst=remote4(1)) / udp(), denied),
        _drop("source-unknown-ipv6", IPv6(src="2001:db8:ff::1", dst=remote6(1)) / udp(), denied),
        _drop("source-of-other-vrf", IP(src="10.1.0.10", dst=remote4(1)) / udp(), denied),
        _drop("source-is-a-sid", IPv6(src="5f00:1:1::", dst=remote6(1)) / udp(), denied),
        Vector(
            "source-of-other-port-whose-flow-is-cached",
            B,
            from_host(B, IP(src=A4, dst=remote4(1)) / udp()),
            Drop(denied),
            ((A, from_host(A, IP(src=A4, dst=remote4(1)) / udp())),),
        ),
        Vector("source-admitted", A, from_host(A, local), Forward(B, to_host(B, sent)), KNOWN_HOSTS),
    ]


def addresses() -> list[Vector]:
    bad4 = ("224.0.0.5", "239.1.1.1", "255.255.255.255", "169.254.1.1", "127.0.0.1", "0.0.0.0")
    bad6 = ("ff02::1", "ff0e::1", "fe80::1", "febf::1", "::1", "::", f"::ffff:{A4}")
    reason = DropReason.NOT_FORWARDABLE
    vectors = []
    for address in bad4:
        vectors += [
            _drop(f"to-{address}", IP(src=A4, dst=address) / udp(), reason),
            _drop(f"from-{address}", IP(src=address, dst=remote4(1)) / udp(), reason),
        ]
    for address in bad6:
        vectors += [
            _drop(f"to-{address}", IPv6(src=A6, dst=address) / udp(), reason),
            _drop(f"from-{address}", IPv6(src=address, dst=remote6(1)) / udp(), reason),
        ]
    mapped = IPv6(src=f"::ffff:{A4}", dst=f"::ffff:{B4}") / udp()
    return [*vectors, _drop("mapped-ipv6-is-not-ipv4", mapped, reason)]


def policies() -> list[Vector]:
    def by_ports(name: str, number: int, packet: Packet, reason: int, sids: int = 1) -> Vector:
        """Dropped with `reason`, or on the SR Policy with `sids` segments."""
        frame = from_host(A, IP(src=A4, dst=remote4(number)) / packet)
        if reason:
            return Vector(name, A, frame, Drop(reason))
        layer = packet.getlayer(0)
        protocol = {TCP: 6, UDP: 17}[type(layer)]
        inner = IP(src=A4, dst=remote4(number), ttl=63) / packet
        outer = encapsulated(inner, 4, segments(sids), entropy(A4, remote4(number), protocol, layer.sport, layer.dport))
        return Vector(name, A, frame, Forward(FABRIC, to_host(FABRIC, outer)))

    ranges = node.PORT_RANGES
    masked = node.MASKED
    return [
        by_ports("tcp-443-opens", node.PORT_443, TCP(sport=5, dport=443, flags="S"), 0),
        by_ports("tcp-443-goes-on", node.PORT_443, tcp(5, 443), 0),
        by_ports("tcp-442", node.PORT_443, tcp(5, 442), 73),
        by_ports("udp-443", node.PORT_443, udp(5, 443), 73),
        by_ports("range-low-end", ranges, tcp(5, 0), 0),
        by_ports("range-below-inner", ranges, tcp(5, 399), 0),
        by_ports("range-inner-low", ranges, tcp(5, 400), 0, 3),
        by_ports("range-inner-high", ranges, tcp(5, 500), 0, 3),
        by_ports("range-above-inner", ranges, tcp(5, 501), 0),
        by_ports("range-highest-priority", ranges, tcp(5, 443), 0, 2),
        by_ports("range-high-end", ranges, tcp(5, 1023), 0),
        by_ports("range-beyond", ranges, tcp(5, 1024), 74),
        by_ports("range-udp-low", ranges, udp(5, 5000), 0, 4),
        by_ports("range-udp-high", ranges, udp(5, 5999), 0, 4),
        by_ports("range-udp-below", ranges, udp(5, 4999), 74),
        by_ports("range-of-other-protocol", ranges, udp(5, 443), 74),
        by_ports("partial-mask-of-group", masked, udp(), 75),
        _drop("echo-permitted-then-reply-not", IP(src=A4, dst=remote4(masked)) / ICMP(type=0), 76),
        Vector(
            "partial-mask-of-l4-class",
            A,
            from_host(A, IP(src=A4, dst=remote4(masked)) / ICMP(id=1) / Raw(PAYLOAD)),
            Forward(
                FABRIC,
                to_host(
                    FABRIC,
                    encapsulated(
                        IP(src=A4, dst=remote4(masked), ttl=63) / ICMP(id=1) / Raw(PAYLOAD),
                        4,
                        segments(1),
                        entropy(A4, remote4(masked), 1),
                    ),
                ),
            ),
        ),
        Vector(
            "higher-priority-wins-over-earlier-mask",
            A,
            from_host(A, IP(src=A4, dst=remote4(1)) / udp()),
            Drop(79),
            entries=(policy(node.TENANT, 9_999_999, "drop", 79, l4_class=(2, 0xF)),),
        ),
        _drop("isolated", IP(src=A4, dst=remote4(node.ISOLATED)) / udp(), DropReason.ISOLATED),
        _drop("no-policy-ipv4", IP(src=A4, dst="198.51.100.1") / udp(), DropReason.NOT_PERMITTED),
        _drop("no-policy-ipv6", IPv6(src=A6, dst="2001:db8:ffff::1") / udp(), DropReason.NOT_PERMITTED),
    ]


def ends() -> list[Vector]:
    """What has ended says nothing any more where another entry says something: the one below it by priority, under the
    same match or another, with a cold and a warm flow cache."""
    to = {"destination_group": (1, ANY)}
    udp_to = {**to, "l4_class": (2, ANY_L4)}
    over, runs = lease(150, 1), lease(150, node.FAR_S)
    permit = policy(node.TENANT, 5_000, "permit", 150, **udp_to)
    isolated = DropReason.ISOLATED
    until = {at_s: policy(node.TENANT, 1_000, "drop_until", isolated, until_s=at_s, **to) for at_s in (1, node.FAR_S)}
    below = policy(node.TENANT, 100, "permit", 101, source_group=(node.A_GROUP, ANY))
    inner = IP(src=A4, dst=remote4(1), ttl=63) / udp()
    outer = encapsulated(inner, 4, segments(1), entropy(A4, remote4(1), 17, 40000, 5060))
    passes = Forward(FABRIC, to_host(FABRIC, outer))
    frame = from_host(A, IP(src=A4, dst=remote4(1)) / udp())

    def vector(name: str, expected: Forward | Drop, *more: TableEntry) -> Vector:
        return Vector(f"ended-{name}", A, frame, expected, (), more)

    nowhere = IP(src=A4, dst="198.51.100.1") / udp()
    lone = (policy(node.TENANT, 1_000, "drop_until", isolated, until_s=1, l4_class=(2, ANY_L4)),)
    return [
        vector("isolation", passes, until[1]),
        vector("isolation-not-yet", Drop(isolated), until[node.FAR_S]),
        vector("permit", passes, permit, over),
        vector("permit-not-yet", Drop(DropReason.NO_STEERING), permit, runs),
        vector("permit-and-isolation", passes, permit, over, until[1]),
        vector("permit-over-isolation", Drop(DropReason.LEASE_EXPIRED), permit, over, until[node.FAR_S]),
        vector("permit-under-isolation", Drop(isolated), until[node.FAR_S],
               policy(node.TENANT, 900, "permit", 150, **udp_to), over),
        vector("two-alike", passes, permit, policy(node.TENANT, 4_000, "permit", 151, **udp_to), over, lease(151, 1)),
        vector("request", passes, policy(node.TENANT, 5_000, "permit_request", 150, **udp_to), over),
        vector("reply", passes, policy(node.TENANT, 5_000, "permit_reply", 150, **udp_to), over),
        vector("drop-below", Drop(DropReason.LEASE_EXPIRED), permit, over,
               policy(node.TENANT, 4_000, "drop", 79, **udp_to)),
        vector("narrow-over-wide", passes, permit, over, until[1], below),
        Vector("ended-nothing-else", A, from_host(A, nowhere), Drop(DropReason.NOT_PERMITTED), (), lone),
        Vector("ended-nothing-else-permits", A, from_host(A, nowhere), Drop(DropReason.LEASE_EXPIRED), (),
               (policy(node.TENANT, 1_000, "permit", 150, l4_class=(2, ANY_L4)), over)),
        Vector("ended-reply-nothing-else", A, from_host(A, nowhere), Drop(DropReason.LEASE_EXPIRED), (),
               (policy(node.TENANT, 1_000, "permit_reply", 150, l4_class=(2, ANY_L4)), over)),
    ]  # fmt: skip


def ways() -> list[Vector]:
    """What becomes of a permitted packet whose forwarding class leads nowhere, or into another VRF."""
    reasons = {
        "lease-expired": (node.EXPIRED, DropReason.LEASE_EXPIRED),
        "unsteered": (node.UNSTEERED, DropReason.NO_STEERING),
        "next-hop-is-absent": (node.HOPLESS, DropReason.NO_NEXT_HOP),
        "vlan-next-hop": (node.VLAN_HOP, DropReason.NO_NEXT_HOP),
        "port-is-absent": (node.NO_PORT, DropReason.NO_NEXT_HOP),
        "no-neighbour-on-fabric": (node.NEIGHBORLESS, DropReason.NEIGHBOR_UNKNOWN),
    }
    vectors = [
        _drop(f"{name}-ipv{version}", ip(version, *ends) / udp(), reason)
        for name, (number, reason) in reasons.items()
        for version, ends in ((4, (A4, remote4(number))), (6, (A6, remote6(number))))
    ]
    frame = from_host(A, IP(src=A4, dst=remote4(1)) / udp())
    vectors += [
        _drop("delivery-route-drops", IP(src=A4, dst="10.1.0.200") / udp(), 72),
        _drop("delivery-behind-another-edge", IP(src=A4, dst=node.FAR4) / udp(), DropReason.NO_NEXT_HOP),
        _drop("delivery-behind-another-edge-ipv6", IPv6(src=A6, dst=node.FAR6) / udp(), DropReason.NO_NEXT_HOP),
        _drop("delivery-next-hop-absent", IP(src=A4, dst="10.1.0.201") / udp(), DropReason.NO_NEXT_HOP),
    ]
    for version, source, destination in (
        (4, A4, remote4(node.ELSEWHERE)),
        (6, A6, remote6(node.ELSEWHERE)),
    ):
        before, sent = (ip(version, source, destination, hop_limit=hops) / udp() for hops in (64, 63))
        known = arp_reply(C, destination) if version == 4 else neighbor_advertisement(C, destination)
        admitted = admit(C, f"{destination}/{32 if version == 4 else 128}")
        expected = Forward(C, to_host(C, sent))
        name = f"delivered-in-another-vrf-ipv{version}"
        vectors.append(Vector(name, A, from_host(A, before), expected, ((C, known),), (admitted,)))
        said = entries.neighbor(C, destination, "02:00:00:00:02:01")
        there = Forward(C, to_station("02:00:00:00:02:01", to_host(C, sent)))
        vectors.append(Vector(f"neighbour-as-said-ipv{version}", A, from_host(A, before), there, (), (said,)))
        name = f"neighbour-as-said-before-learnt-ipv{version}"
        vectors.append(Vector(name, A, from_host(A, before), there, ((C, known),), (admitted, said)))
    inner = IP(src=A4, dst=remote4(node.PUNTED), ttl=63) / udp()
    outer = encapsulated(
        inner, 4, [node.SERVICE], entropy(A4, remote4(node.PUNTED), 17, 40000, 5060), dscp=0, color=0, hop_limit=64
    )
    frame = from_host(A, IP(src=A4, dst=remote4(node.PUNTED)) / udp())
    vectors.append(Vector("next-hop-punts", A, frame, Punt(20, from_host(A, outer), 0)))
    return vectors


def malformed() -> list[Vector]:
    packet = bytes(IP(src=A4, dst=remote4(1)) / udp())
    packet6 = bytes(IPv6(src=A6, dst=remote6(1)) / udp())
    bad = bytearray(packet)
    bad[10] ^= 0x55
    short = IP(src=A4, dst=remote4(1), len=19) / udp()
    offset = IP(src=A4, dst=remote4(1), proto=6) / Raw(bytes(12) + b"\x40" + bytes(7))
    beyond = IP(src=A4, dst=remote4(1), proto=6) / Raw(bytes(12) + b"\x60" + bytes(7))
    reason = DropReason.MALFORMED
    return [
        Vector("ethernet-only", A, from_host(A, b"", ether_type=0x0800), Drop(reason)),
        Vector("vlan-cut", A, from_host(A, b"\0\0", ether_type=0x8100)[:16], Drop(reason)),
        _drop("ipv4-bad-checksum", bytes(bad), reason, ether_type=0x0800),
        _drop("ipv4-cut", packet[:-1], reason, ether_type=0x0800),
        _drop("ipv4-header-cut", packet[:19], reason, ether_type=0x0800),
        _drop("ipv4-length-below-header", short, reason),
        _drop(
            "ipv4-options", IP(src=A4, dst=remote4(1), options=[IPOption_NOP()] * 4) / udp(), DropReason.IPV4_OPTIONS
        ),
        _drop(
            "ipv4-options-of-others",
            IP(src=B4, dst="224.0.0.22", options=[IPOption_NOP()] * 40),
            DropReason.IPV4_OPTIONS,
        ),
        _drop("ipv4-header-below-20", b"\x44" + packet[1:], reason, ether_type=0x0800),
        _drop("ipv4-version-6", packet, reason, ether_type=0x86DD),
        _drop("ipv6-version-4", packet6, reason, ether_type=0x0800),
        _drop("ipv6-cut", packet6[:-1], reason, ether_type=0x86DD),
        _drop("tcp-cut", IP(src=A4, dst=remote4(1), proto=6) / Raw(bytes(19)), reason),
        _drop("tcp-offset-4", offset, reason),
        _drop("tcp-offset-beyond", beyond, reason),
        _drop("udp-cut", IP(src=A4, dst=remote4(1), proto=17) / Raw(bytes(7)), reason),
        _drop("icmp-cut", IP(src=A4, dst=remote4(1), proto=1) / Raw(bytes(7)), reason),
        _drop("icmpv6-cut", IPv6(src=A6, dst=remote6(1), nh=58) / Raw(b"\x80" + bytes(6)), reason),
        _drop("fragment-header-cut", IPv6(src=A6, dst=remote6(1), nh=44) / Raw(bytes(7)), reason),
        _drop("fragment-ipv4", IP(src=A4, dst=remote4(1), frag=1) / Raw(PAYLOAD), DropReason.FRAGMENT),
        _drop(
            "fragment-ipv6",
            IPv6(src=A6, dst=remote6(1), nh=44) / IPv6ExtHdrFragment(nh=6, offset=1) / Raw(PAYLOAD),
            DropReason.FRAGMENT,
        ),
        _drop("unused-port", IP(src=A4, dst=remote4(1)) / udp(), DropReason.UNKNOWN_ATTACHMENT, node.UNUSED),
        _drop("unknown-vlan", IP(src=A4, dst=remote4(1)) / udp(), DropReason.UNKNOWN_ATTACHMENT, vlan=5),
        _drop("untagged-where-tagged", IP(src=node.T4, dst=remote4(1)) / udp(), DropReason.UNKNOWN_ATTACHMENT, 6),
        _drop("not-ip", b"\0" * 46, DropReason.NOT_IP, ether_type=0x88B6),
        _drop("double-tag", b"\0\1\x08\0" + packet, DropReason.NOT_IP, 6, vlan=node.VLAN, ether_type=0x8100),
    ]


def punts() -> list[Vector]:
    echo4 = from_host(A, IP(src=A4, dst=remote4(1)) / ICMP() / Raw(PAYLOAD))
    echo6 = from_host(A, IPv6(src=A6, dst=remote6(1)) / ICMPv6EchoRequest(data=PAYLOAD))
    lldp = {"ether_type": node.LLDP}
    extra = tuple(node.PUNT_ECHO)
    fabric = from_host(FABRIC, b"\2\7" + bytes(44), **lldp)
    host = from_host(A, b"\2\7" + bytes(44), **lldp)
    arp = from_host(A, ARP(psrc=A4, pdst=GATEWAY4))
    return [
        Vector("lldp-from-fabric", FABRIC, fabric, Punt(16, fabric, 0)),
        Vector("lldp-from-host", A, host, Punt(16, host, node.TENANT)),
        _drop("lldp-from-tunnel", b"\2\7" + bytes(44), 77, node.TUNNEL_2, **lldp),
        _drop("lldp-from-unused-port", b"\2\7", DropReason.UNKNOWN_ATTACHMENT, node.UNUSED, **lldp),
        Vector("masked-ether-type", A, *_punted(0x88B5)),
        Vector("masked-ether-type-even", A, *_punted(0x88B4)),
        _drop("beside-masked-ether-type", bytes(46), DropReason.NOT_IP, ether_type=0x88B6),
        Vector("punt-echo-ipv4", A, echo4, Punt(18, echo4, node.TENANT), entries=extra),
        Vector("punt-echo-ipv6", A, echo6, Punt(19, echo6, node.TENANT), entries=extra),
        Vector(
            "punt-no-type-in-later-fragments",
            A,
            from_host(A, IP(src=A4, dst=remote4(1), frag=1, proto=1) / Raw(b"\x08" * 16)),
            Drop(DropReason.FRAGMENT),
            entries=extra,
        ),
        Vector("drop-arp", A, arp, Drop(78), entries=extra),
        Vector("class-of-tunnel-changes", node.TUNNEL, fabric, Drop(77), entries=(link(node.TUNNEL, 3),)),
    ]


def _punted(ether_type: int) -> tuple[bytes, Punt]:
    frame = from_host(A, bytes(46), ether_type=ether_type)
    return frame, Punt(17, frame, node.TENANT)


VECTORS = [*sources(), *addresses(), *policies(), *ends(), *ways(), *malformed(), *punts()]
