"""Whom a frame is addressed to: an attachment takes its own MAC, and of groups ARP and ND; a link takes any MAC."""

from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

from dataplane.reasons import DropReason
from dataplane.reference import Drop, Forward, Punt
from vectors.case import (
    PAYLOAD,
    Vector,
    arp_reply,
    from_host,
    neighbor_advertisement,
    srv6,
    tcp,
    to_host,
    to_station,
    udp,
)
from vectors.node import (
    A4,
    A6,
    B4,
    B6,
    FABRIC,
    GATEWAY4,
    GATEWAY6,
    LLDP,
    NARROW,
    T4,
    TAGGED,
    TENANT,
    TUNNEL,
    VLAN,
    A,
    B,
    host_mac,
    port_mac,
    remote4,
    remote6,
)

BROADCAST, GROUP4, GROUP6 = "ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:fb", "33:33:ff:00:00:01"
OTHER = host_mac(0x77)
"""Another station behind the same port."""
NOT_TO_US = Drop(DropReason.NOT_TO_US)
IGNORED = Drop(DropReason.NEIGHBOR_IGNORED)
TO_REMOTE4, TO_REMOTE6 = IP(src=A4, dst=remote4(1)) / udp(), IPv6(src=A6, dst=remote6(1)) / udp()
SOLICITATION = (
    IPv6(src=A6, dst="ff02::1:ff00:1", hlim=255) / ICMPv6ND_NS(tgt=GATEWAY6) / ICMPv6NDOptSrcLLAddr(lladdr=host_mac(A))
)


def packets() -> list[Vector]:
    """IP, the gateway's echo too, is neither routed nor answered, with or without a flow that is known."""

    def stray(name: str, mac: str, packet: Packet | bytes, port: int = A, vlan: int | None = None) -> Vector:
        to_us = from_host(port, packet, vlan, None if isinstance(packet, Packet) else 0x86DD)
        return Vector(name, port, to_station(mac, to_us), NOT_TO_US, ((port, to_us),))

    echo4, echo6 = IP(src=A4, dst=GATEWAY4) / ICMP(), IPv6(src=A6, dst=GATEWAY6) / ICMPv6EchoRequest()
    multicast_dns = IPv6(src="fe80::11", dst="ff02::fb") / udp(5353, 5353)
    too_big = IP(src=A4, dst=remote4(NARROW)) / udp()
    vectors = [
        stray("to-first-octet-differs", "06" + port_mac(A)[2:], TO_REMOTE4),
        stray("to-last-octet-differs", port_mac(A)[:-2] + "03", TO_REMOTE4),
        stray("to-other-port-of-ours", port_mac(B), TO_REMOTE4),
        stray("to-group-multicast-dns", GROUP6, multicast_dns),
        stray("to-group-too-big", BROADCAST, too_big),
        stray("to-group-sid", GROUP6, IPv6(src=A6, dst="5f00:1:1:1::") / udp()),
        stray("to-other-tagged", OTHER, IP(src=T4, dst=remote4(1)) / udp(), TAGGED, VLAN),
        stray("to-other-malformed", OTHER, b"\0" * 60),
    ]
    for kind, mac in (("other", OTHER), ("broadcast", BROADCAST), ("group", GROUP4)):
        vectors += [
            stray(f"to-{kind}-ipv4", mac, TO_REMOTE4),
            stray(f"to-{kind}-ipv6", mac, TO_REMOTE6),
            stray(f"to-{kind}-tcp", mac, IP(src=A4, dst=B4) / tcp()),
            stray(f"to-{kind}-echo-gateway-ipv4", mac, echo4),
            stray(f"to-{kind}-echo-gateway-ipv6", mac, echo6),
        ]
    return [
        *vectors,
        Vector(
            "to-group-malformed",
            A,
            to_station(GROUP6, from_host(A, b"\0" * 60, ether_type=0x86DD)),
            Drop(DropReason.MALFORMED),
        ),
    ]


def questions() -> list[Vector]:
    """ARP and ND by broadcast and multicast as hosts send them; what is another station's is not overheard."""
    request = ARP(op=1, hwsrc=host_mac(A), psrc=A4, pdst=GATEWAY4)
    reply = to_host(A, ARP(op=2, hwsrc=port_mac(A), psrc=GATEWAY4, hwdst=host_mac(A), pdst=A4))
    advertisement = ICMPv6ND_NA(tgt=GATEWAY6, R=1, S=1, O=1) / ICMPv6NDOptDstLLAddr(lladdr=port_mac(A))
    advertised = to_host(A, IPv6(src=GATEWAY6, dst=A6, hlim=255) / advertisement)
    asked, solicited = from_host(A, request), from_host(A, SOLICITATION)
    to_b4, to_b6 = IP(src=A4, dst=B4) / tcp(), IPv6(src=A6, dst=B6) / tcp()
    sent4, sent6 = IP(src=A4, dst=B4, ttl=63) / tcp(), IPv6(src=A6, dst=B6, hlim=63) / tcp()
    who = Ether(src=port_mac(B), dst=BROADCAST) / ARP(op=1, hwsrc=port_mac(B), psrc=GATEWAY4, pdst=B4)
    unlearnt = Forward(B, bytes(who), DropReason.NEIGHBOR_UNKNOWN)
    learnt4, learnt6 = arp_reply(B, B4), neighbor_advertisement(B, B6)
    return [
        Vector("arp-broadcast", A, to_station(BROADCAST, asked), Forward(A, reply)),
        Vector("nd-group", A, to_station(GROUP6, solicited), Forward(A, advertised)),
        Vector("arp-to-other", A, to_station(OTHER, asked), NOT_TO_US),
        Vector("nd-to-other", A, to_station(OTHER, solicited), NOT_TO_US),
        Vector(
            "learnt-from-broadcast",
            A,
            from_host(A, to_b4),
            Forward(B, to_host(B, sent4)),
            ((B, to_station(BROADCAST, learnt4)),),
        ),
        Vector(
            "learnt-from-group",
            A,
            from_host(A, to_b6),
            Forward(B, to_host(B, sent6)),
            ((B, to_station(GROUP6, learnt6)),),
        ),
        Vector("not-learnt-to-other", A, from_host(A, to_b4), unlearnt, ((B, to_station(OTHER, learnt4)),)),
    ]


def others() -> list[Vector]:
    """Neither ARP nor IP; and links, where what is SRv6 is ours by its SID."""
    lldp = bytes(from_host(A, PAYLOAD, ether_type=LLDP))
    unknown = from_host(A, PAYLOAD, ether_type=0x88B8)
    path = ["5f00:1:1::", "5f00:2:10:1::"]
    inner = bytes(TO_REMOTE4)
    crossing = from_host(FABRIC, srv6(inner, path, 1))
    crossed = Forward(FABRIC, to_host(FABRIC, srv6(inner, path, 0, hop_limit=59)))
    delivered = IP(src=remote4(1), dst=A4) / tcp(443, 5)
    sent = IP(src=remote4(1), dst=A4, ttl=63) / tcp(443, 5)
    tunnelled = from_host(TUNNEL, srv6(bytes(delivered), ["5f00:1:1:6::"], 0))
    lldp_group = to_station("01:80:c2:00:00:0e", lldp)
    return [
        Vector("punt-to-group", A, lldp_group, Punt(16, lldp_group, TENANT)),
        Vector("punt-to-other", A, to_station(OTHER, lldp), NOT_TO_US),
        Vector("not-ip-to-group", A, to_station(BROADCAST, unknown), Drop(DropReason.NOT_IP)),
        Vector("not-ip-to-other", A, to_station(OTHER, unknown), NOT_TO_US),
        Vector("link-to-other", FABRIC, to_station(OTHER, crossing), crossed),
        Vector("link-to-group", FABRIC, to_station(BROADCAST, crossing), crossed),
        Vector(
            "tunnel-to-other",
            TUNNEL,
            to_station(OTHER, tunnelled),
            Forward(A, to_host(A, sent)),
            ((A, arp_reply(A, A4)),),
        ),
    ]


VECTORS = [*packets(), *questions(), *others()]
