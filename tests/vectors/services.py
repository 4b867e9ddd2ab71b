"""Services that know no SRv6: what is to pass one leaves for it as it came.

a ──▶ to_service ──▶ port b: the service's host takes it, whatever its destination ──▶ back in at another port
"""

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6ND_NS, ICMPv6NDOptSrcLLAddr, ICMPv6PacketTooBig, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from dataplane.entry import TableEntry
from dataplane.reasons import DropReason
from dataplane.reference import Drop, Forward
from vectors.case import (
    KNOWN_HOSTS,
    Vector,
    arp_reply,
    from_host,
    ip,
    neighbor_advertisement,
    srv6,
    tcp,
    to_host,
    udp,
)
from vectors.entries import local_sid, policy, resolve_via, to_service
from vectors.errors import NO_ROUTE, told
from vectors.node import (
    A4,
    A6,
    AGREEMENT,
    B4,
    B6,
    FABRIC,
    GATEWAY4,
    GATEWAY6,
    INNER_MTU,
    S4,
    S6,
    SMALL,
    SMALL_MTU,
    T4,
    T6,
    TAGGED,
    VLAN,
    A,
    B,
    port_mac,
    remote4,
    remote6,
)

SERVED = 1
"""The remote on the way to which the service is."""
HOP4, HOP6, CLASS = 60, 61, 100 + SERVED
ENTRIES: tuple[TableEntry, ...] = (
    to_service(CLASS, HOP4, HOP6, inner_mtu=INNER_MTU),
    resolve_via(HOP4, B, port_mac(B), B4),
    resolve_via(HOP6, B, port_mac(B), B6),
)
SMALL_HOST = (SMALL, arp_reply(SMALL, S4)), (SMALL, neighbor_advertisement(SMALL, S6))
ENDS = {4: (A4, remote4(SERVED)), 6: (A6, remote6(SERVED))}


def by_small(inner_mtu: int) -> tuple[TableEntry, ...]:
    """The service is behind a port that takes less."""
    return (
        to_service(CLASS, HOP4, HOP6, inner_mtu=inner_mtu),
        resolve_via(HOP4, SMALL, port_mac(SMALL), S4),
        resolve_via(HOP6, SMALL, port_mac(SMALL), S6),
    )


def passed() -> list[Vector]:
    vectors = []
    for version in (4, 6):
        ends = ENDS[version]
        for name, transport in (("udp", udp()), ("tcp", tcp()), ("no-ports", Raw(b"x"))):
            came = ip(version, *ends, traffic_class=0xB9) / transport
            sent = ip(version, *ends, hop_limit=63, traffic_class=0xB9) / transport
            vectors.append(
                Vector(
                    f"to-service-{name}-ipv{version}",
                    A,
                    from_host(A, came),
                    Forward(B, to_host(B, sent)),
                    KNOWN_HOSTS,
                    ENTRIES,
                )
            )
        short = Raw(b"short")
        vectors.append(
            Vector(
                f"to-service-padding-is-cut-ipv{version}",
                A,
                from_host(A, ip(version, *ends) / UDP(sport=1, dport=2) / short) + bytes(20),
                Forward(B, to_host(B, ip(version, *ends, hop_limit=63) / UDP(sport=1, dport=2) / short)),
                KNOWN_HOSTS,
                ENTRIES,
            )
        )
        tagged = ((T4, T6)[version == 6], ends[1])
        vectors.append(
            Vector(
                f"to-service-without-its-tag-ipv{version}",
                TAGGED,
                from_host(TAGGED, ip(version, *tagged) / udp(), VLAN),
                Forward(B, to_host(B, ip(version, *tagged, hop_limit=63) / udp())),
                KNOWN_HOSTS,
                ENTRIES,
            )
        )
        inner = ip(version, "10.9.0.1", A4) if version == 4 else ip(version, "2001:db8:9::1", A6)
        left = ip(version, inner.src, inner.dst, hop_limit=63)
        vectors.append(
            Vector(
                f"to-service-decapsulated-ipv{version}",
                FABRIC,
                from_host(FABRIC, srv6(inner / udp(), ["5f00:1:1:8::"], 0, next_header=4 if version == 4 else 41)),
                Forward(B, to_host(B, left / udp())),
                KNOWN_HOSTS,
                (
                    *ENTRIES,
                    local_sid(1, "5f00:1:1:8::/128", "end_dt46", vrf=AGREEMENT),
                    policy(AGREEMENT, 20, "permit", CLASS),
                ),
            )
        )
    return vectors


def sizes() -> list[Vector]:
    """The whole way's, and the port's."""

    def too_big(mtu: int) -> tuple[Packet, Packet]:
        return ICMP(type=3, code=4, nexthopmtu=mtu), ICMPv6PacketTooBig(mtu=mtu)

    def large(version: int, size: int) -> Packet:
        if version == 4:
            return IP(src=A4, dst=remote4(SERVED), flags="DF") / UDP(dport=9) / Raw(bytes(size - 28))
        return IPv6(src=A6, dst=remote6(SERVED)) / UDP(dport=9) / Raw(bytes(size - 48))

    vectors = []
    for version in (4, 6):
        packet = large(version, INNER_MTU + 1)
        answer = told(packet, too_big(INNER_MTU), DropReason.TOO_BIG)
        name = f"to-service-too-big-for-the-way-ipv{version}"
        vectors.append(Vector(name, A, from_host(A, packet), answer, KNOWN_HOSTS, ENTRIES))
        packet = large(version, SMALL_MTU + 1)
        answer = told(packet, too_big(SMALL_MTU), DropReason.TOO_BIG)
        for inner_mtu in (0, 1500):
            name = f"to-service-too-big-for-the-port-of-{inner_mtu}-ipv{version}"
            vectors.append(Vector(name, A, from_host(A, packet), answer, KNOWN_HOSTS, by_small(inner_mtu)))
        largest = INNER_MTU - (40 if version == 4 else 60)

        def syn(value: int) -> Packet:
            return TCP(sport=1024, dport=443, flags="S", options=[("MSS", value)])

        for entries, mss in ((ENTRIES, largest), (by_small(0), 1460)):
            to = B if entries is ENTRIES else SMALL
            sent = ip(version, *ENDS[version], hop_limit=63) / syn(mss)
            vectors.append(
                Vector(
                    f"to-service-mss-{mss}-ipv{version}",
                    A,
                    from_host(A, ip(version, *ENDS[version]) / syn(1460)),
                    Forward(to, to_host(to, sent)),
                    (*KNOWN_HOSTS, *SMALL_HOST),
                    entries,
                )
            )
    no_ipv6 = large(6, 200)
    vectors.append(
        Vector(
            "to-service-no-room-for-ipv6",
            A,
            from_host(A, no_ipv6),
            told(no_ipv6, NO_ROUTE, DropReason.NO_IPV6),
            KNOWN_HOSTS,
            (to_service(CLASS, HOP4, HOP6, inner_mtu=1279), *ENTRIES[1:]),
        )
    )
    return vectors


def unknown() -> list[Vector]:
    """The service's host is asked for, not the destination; and what leads nowhere."""
    request = ARP(op=1, hwsrc=port_mac(B), psrc=GATEWAY4, hwdst="00:00:00:00:00:00", pdst=B4)
    solicitation = ICMPv6ND_NS(tgt=B6) / ICMPv6NDOptSrcLLAddr(lladdr=port_mac(B))
    questions = {
        4: Ether(src=port_mac(B), dst="ff:ff:ff:ff:ff:ff") / request,
        6: Ether(src=port_mac(B), dst="33:33:ff:00:00:12")
        / IPv6(src=GATEWAY6, dst="ff02::1:ff00:12", hlim=255)
        / solicitation,
    }
    vectors = []
    for version in (4, 6):
        frame = from_host(A, ip(version, *ENDS[version]) / udp())
        vectors += [
            Vector(
                f"to-service-asks-for-its-host-ipv{version}",
                A,
                frame,
                Forward(B, bytes(questions[version]), DropReason.NEIGHBOR_UNKNOWN),
                entries=ENTRIES,
            ),
            Vector(
                f"to-service-that-takes-no-ipv{version}",
                A,
                frame,
                Drop(DropReason.NO_NEXT_HOP),
                KNOWN_HOSTS,
                (to_service(CLASS, 0, 0, inner_mtu=INNER_MTU), *ENTRIES[1:]),
            ),
        ]
    return vectors


VECTORS = [*passed(), *sizes(), *unknown()]
