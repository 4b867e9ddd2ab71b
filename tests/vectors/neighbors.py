"""ARP, neighbour discovery, echo for the gateway, and questions for unknown neighbours."""

from functools import reduce
from operator import truediv

from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import (
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6ND_RS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from dataplane.reasons import DropReason
from dataplane.reference import Drop, Forward
from vectors.case import Vector, arp_reply, from_host, neighbor_advertisement, tcp, to_host
from vectors.node import (
    A4,
    A6,
    B4,
    B6,
    FAR4,
    FAR6,
    GATEWAY4,
    GATEWAY6,
    MUTE,
    MUTE4,
    MUTE6,
    STRANGER,
    T4,
    TAGGED,
    VLAN,
    A,
    B,
    C,
    host_mac,
    port_mac,
)

IGNORED = Drop(DropReason.NEIGHBOR_IGNORED)


def _request(sender: str, target: str, port: int = A, **fields: object) -> ARP:
    return ARP(op=1, hwsrc=host_mac(port), psrc=sender, pdst=target, **fields)


def _reply(port: int, address: str, asker: str) -> ARP:
    return ARP(op=2, hwsrc=port_mac(port), psrc=address, hwdst=host_mac(port), pdst=asker)


def arp() -> list[Vector]:
    def answered(name: str, port: int, sender: str, target: str, vlan: int | None = None) -> Vector:
        answer = to_host(port, _reply(port, target, sender), vlan)
        return Vector(name, port, from_host(port, _request(sender, target, port), vlan), Forward(port, answer))

    def ignored(name: str, message: Packet | bytes, port: int = A) -> Vector:
        return Vector(name, port, from_host(port, message, ether_type=0x0806), IGNORED)

    request = bytes(_request(A4, GATEWAY4))
    return [
        answered("arp-gateway", A, A4, GATEWAY4),
        answered("arp-gateway-tagged", TAGGED, T4, GATEWAY4, VLAN),
        answered("arp-gateway-from-other-address", A, "10.1.0.77", GATEWAY4),
        answered("arp-gateway-overlapping", C, A4, GATEWAY4),
        answered("arp-gateway-probe", A, "0.0.0.0", GATEWAY4),
        answered("arp-proxy", A, A4, B4),
        answered("arp-proxy-behind-another-edge", A, A4, FAR4),
        ignored("arp-own-port", _request(B4, B4, B), B),
        ignored("arp-same-port", _request("10.1.0.77", A4)),
        ignored("arp-unknown", _request(A4, "10.1.0.99")),
        ignored("arp-route-that-drops", _request(A4, "10.1.0.200")),
        ignored("arp-route-without-next-hop", _request(A4, "10.1.0.201")),
        ignored("arp-gratuitous-request", _request(A4, A4)),
        ignored("arp-gratuitous-of-other-port", _request(B4, B4)),
        ignored("arp-probe", _request("0.0.0.0", A4)),
        ignored("arp-for-nothing", _request("0.0.0.0", "0.0.0.0")),
        ignored("arp-reply", ARP(op=2, hwsrc=host_mac(A), psrc=A4, pdst=GATEWAY4)),
        ignored("arp-no-gateway", _request(MUTE4, GATEWAY4, MUTE), MUTE),
        ignored("arp-reverse", _request(A4, GATEWAY4).__class__(op=3, psrc=A4, pdst=GATEWAY4)),
        ignored("arp-other-hardware", b"\0\6" + request[2:]),
        ignored("arp-other-protocol", request[:2] + b"\x86\xdd" + request[4:]),
        Vector("arp-cut", A, from_host(A, request[:27], ether_type=0x0806), Drop(DropReason.MALFORMED)),
        Vector(
            "arp-gateway-padded",
            A,
            from_host(A, request + bytes(18), ether_type=0x0806),
            Forward(A, to_host(A, _reply(A, GATEWAY4, A4))),
        ),
    ]


def _solicitation(source: str, target: str, *, port: int = A, option: Packet | None = None, **fields: int) -> Packet:
    link_layer = option or ICMPv6NDOptSrcLLAddr(lladdr=host_mac(port))
    return IPv6(src=source, dst="ff02::1:ff00:1", hlim=255) / ICMPv6ND_NS(tgt=target, **fields) / link_layer


def _advertisement(port: int, target: str, asker: str, override: int) -> bytes:
    message = ICMPv6ND_NA(tgt=target, R=1, S=1, O=override) / ICMPv6NDOptDstLLAddr(lladdr=port_mac(port))
    return to_host(port, IPv6(src=target, dst=asker, hlim=255) / message)


def discovery() -> list[Vector]:
    def ignored(name: str, packet: Packet | bytes, port: int = A) -> Vector:
        return Vector(name, port, from_host(port, packet, ether_type=0x86DD), IGNORED)

    ask = _solicitation(A6, GATEWAY6)
    wrong = bytearray(bytes(ask))
    wrong[42] ^= 0xFF
    far = ask.copy()
    far.hlim = 254
    bare = IPv6(src=A6, dst="ff02::1:ff00:1", hlim=255) / ICMPv6ND_NS(tgt=GATEWAY6)
    target_option = ICMPv6NDOptDstLLAddr(lladdr=host_mac(A))
    host = {"dst": "ff02::2", "hlim": 255}
    nonce, prefix = Raw(bytes((14, 1)) + bytes(range(6))), Raw(bytes((3, 4)) + bytes(30))
    source_option = Raw(bytes((1, 1)) + bytes.fromhex(host_mac(A).replace(":", "")))
    other_option = Raw(bytes((1, 1, 2, 0, 0, 0, 9, 9)))
    advertised = Forward(A, _advertisement(A, GATEWAY6, A6, 1))

    def answered(name: str, packet: Packet | bytes, expected: Forward = advertised) -> Vector:
        return Vector(name, A, from_host(A, packet, ether_type=0x86DD), expected)

    def probe(target: str, *options: Packet, destination: str = "ff02::1:ff00:1") -> Packet:
        packet = IPv6(src="::", dst=destination, hlim=255) / ICMPv6ND_NS(tgt=target)
        return reduce(truediv, options, packet)

    def asked(*options: Packet, destination: str = "ff02::1:ff00:1") -> Packet:
        return reduce(truediv, options, IPv6(src=A6, dst=destination, hlim=255) / ICMPv6ND_NS(tgt=GATEWAY6))

    def defended(target: str, override: int) -> Forward:
        """To all nodes, unsolicited: RFC 4861 §7.2.4."""
        message = ICMPv6ND_NA(tgt=target, R=1, S=0, O=override) / ICMPv6NDOptDstLLAddr(lladdr=port_mac(A))
        frame = Ether(src=port_mac(A), dst="33:33:00:00:00:01") / IPv6(src=target, dst="ff02::1", hlim=255) / message
        return Forward(A, bytes(frame))

    return [
        answered("nd-gateway", ask),
        answered(
            "nd-gateway-link-local-source",
            _solicitation("fe80::11", GATEWAY6),
            Forward(A, _advertisement(A, GATEWAY6, "fe80::11", 1)),
        ),
        answered("nd-proxy", _solicitation(A6, B6), Forward(A, _advertisement(A, B6, A6, 0))),
        answered("nd-proxy-behind-another-edge", _solicitation(A6, FAR6), Forward(A, _advertisement(A, FAR6, A6, 0))),
        answered("nd-gateway-more-options", ask / nonce),
        answered("nd-gateway-options-before", asked(nonce, prefix, source_option)),
        answered("nd-gateway-31-options-before", asked(*[nonce] * 31, source_option)),
        answered("nd-gateway-first-of-two-macs", asked(source_option, other_option)),
        answered("nd-gateway-unicast", asked(source_option, destination=GATEWAY6)),
        answered("nd-without-option", bare),
        answered("nd-without-option-unicast", asked(destination=GATEWAY6)),
        answered("nd-with-target-option", _solicitation(A6, GATEWAY6, option=target_option)),
        answered("nd-padded", bytes(bare) + bytes(9)),
        answered("nd-dad-for-gateway", probe(GATEWAY6), defended(GATEWAY6, 1)),
        answered("nd-dad-for-gateway-nonce", probe(GATEWAY6, nonce), defended(GATEWAY6, 1)),
        answered("nd-dad-for-gateway-options", probe(GATEWAY6, nonce, prefix), defended(GATEWAY6, 1)),
        answered("nd-dad-for-host-of-other-port", probe(B6, destination="ff02::1:ff00:12"), defended(B6, 0)),
        answered("nd-dad-for-host-behind-another-edge", probe(FAR6), defended(FAR6, 0)),
        ignored("nd-own", _solicitation(A6, A6)),
        ignored("nd-unknown", _solicitation(A6, "2001:db8:1::99")),
        ignored("nd-dad", probe(A6, destination="ff02::1:ff00:11")),
        ignored("nd-dad-for-nobody", probe("2001:db8:1::99")),
        ignored("nd-dad-with-source-option", probe(GATEWAY6, source_option)),
        ignored("nd-dad-unicast", probe(GATEWAY6, destination=GATEWAY6)),
        ignored("nd-dad-to-all-nodes", probe(GATEWAY6, destination="ff02::1")),
        ignored("nd-option-of-no-length", asked(source_option, Raw(bytes(8)))),
        ignored("nd-option-longer-than-message", asked(source_option, Raw(bytes((14, 2)) + bytes(6)))),
        ignored("nd-option-cut", asked(source_option, Raw(bytes((14, 1)) + bytes(5)))),
        ignored("nd-mac-of-16-octets", asked(Raw(bytes((1, 2)) + bytes(14)))),
        ignored("nd-33-options", asked(*[nonce] * 32, source_option)),
        ignored("nd-target-cut", bytes(IPv6(src=A6, dst=GATEWAY6, hlim=255, nh=58, plen=23)) + bytes(ask)[40:63]),
        ignored("nd-hop-limit-254", far),
        ignored("nd-bad-checksum", bytes(wrong)),
        ignored("nd-code-1", _solicitation(A6, GATEWAY6, code=1)),
        ignored("nd-multicast-target", _solicitation(A6, "ff02::1")),
        ignored("nd-advertisement", IPv6(src=A6, dst="ff02::1", hlim=255) / ICMPv6ND_NA(tgt=A6) / target_option),
        ignored("nd-router-solicitation", IPv6(src="fe80::11", **host) / ICMPv6ND_RS()),
        ignored("nd-router-advertisement", IPv6(src="fe80::11", **host) / ICMPv6ND_RA()),
        ignored("nd-redirect", IPv6(src="fe80::11", **host) / ICMPv6ND_Redirect()),
        ignored("nd-no-gateway", _solicitation(MUTE6, GATEWAY6, port=MUTE), MUTE),
    ]


def echo() -> list[Vector]:
    vectors = []
    for size in (0, 1, 56, 57, 1400):
        data = bytes(range(256)) * 6
        request4 = IP(src=A4, dst=GATEWAY4, ttl=1, id=9) / ICMP(type=8, id=3, seq=4) / Raw(data[:size])
        reply4 = IP(src=GATEWAY4, dst=A4, ttl=64, id=9) / ICMP(type=0, id=3, seq=4) / Raw(data[:size])
        request6 = IPv6(src=A6, dst=GATEWAY6, hlim=1) / ICMPv6EchoRequest(id=3, seq=4, data=data[:size])
        reply6 = IPv6(src=GATEWAY6, dst=A6, hlim=64) / ICMPv6EchoReply(id=3, seq=4, data=data[:size])
        vectors += [
            Vector(f"echo-gateway-{size}-bytes-ipv4", A, from_host(A, request4), Forward(A, to_host(A, reply4))),
            Vector(f"echo-gateway-{size}-bytes-ipv6", A, from_host(A, request6), Forward(A, to_host(A, reply6))),
        ]
    tagged, answer = (IP(src=s, dst=d) / ICMP(type=t, id=5) for s, d, t in ((T4, GATEWAY4, 8), (GATEWAY4, T4, 0)))
    denied, unadmitted = Drop(DropReason.NOT_PERMITTED), Drop(DropReason.SOURCE_NOT_ADMITTED)
    return [
        *vectors,
        Vector(
            "echo-gateway-tagged",
            TAGGED,
            from_host(TAGGED, tagged, VLAN),
            Forward(TAGGED, to_host(TAGGED, answer, VLAN)),
        ),
        Vector("gateway-echo-reply", A, from_host(A, IP(src=A4, dst=GATEWAY4) / ICMP(type=0)), denied),
        Vector("gateway-echo-code-1", A, from_host(A, IP(src=A4, dst=GATEWAY4) / ICMP(type=8, code=1)), denied),
        Vector("gateway-tcp", A, from_host(A, IP(src=A4, dst=GATEWAY4) / tcp()), denied),
        Vector("gateway-tcp-ipv6", A, from_host(A, IPv6(src=A6, dst=GATEWAY6) / tcp()), denied),
        Vector("gateway-echo-from-other-port", A, from_host(A, IP(src=B4, dst=GATEWAY4) / ICMP()), unadmitted),
        Vector("gateway-echo-from-nobody", A, from_host(A, IP(src="0.0.0.0", dst=GATEWAY4) / ICMP()), unadmitted),
        Vector(
            "gateway-echo-from-link-local",
            A,
            from_host(A, IPv6(src="fe80::11", dst=GATEWAY6) / ICMPv6EchoRequest()),
            unadmitted,
        ),
        Vector("gateway-tcp-from-other-port", A, from_host(A, IP(src=B4, dst=GATEWAY4) / tcp()), unadmitted),
        Vector("gateway-fragment", A, from_host(A, IP(src=A4, dst=GATEWAY4, flags="MF") / ICMP()), denied),
    ]


def _unsolicited(mac: str | None, **flags: int) -> bytes:
    """B's advertisement to all nodes, with a MAC or without."""
    message = IPv6(src=B6, dst="ff02::1", hlim=255) / ICMPv6ND_NA(tgt=B6, **{"R": 0, "S": 0, "O": 0, **flags})
    return from_host(B, message / ICMPv6NDOptDstLLAddr(lladdr=mac) if mac else message)


def unknown() -> list[Vector]:
    """The first packet to a silent host becomes the question who it is (counted)."""

    def question(port: int, frame: bytes) -> Forward:
        return Forward(port, frame, DropReason.NEIGHBOR_UNKNOWN)

    to4, to6 = IP(src=A4, dst=B4) / tcp(), IPv6(src=A6, dst=B6) / tcp()
    who4 = Ether(src=port_mac(B), dst="ff:ff:ff:ff:ff:ff") / ARP(op=1, hwsrc=port_mac(B), psrc=GATEWAY4, pdst=B4)
    ns = ICMPv6ND_NS(tgt=B6) / ICMPv6NDOptSrcLLAddr(lladdr=port_mac(B))
    who6 = Ether(src=port_mac(B), dst="33:33:ff:00:00:12") / IPv6(src=GATEWAY6, dst="ff02::1:ff00:12", hlim=255) / ns
    known4, known6 = IP(src=A4, dst=B4, ttl=63) / tcp(), IPv6(src=A6, dst=B6, hlim=63) / tcp()
    lost = IP(src=A4, dst=STRANGER) / tcp()
    who_else = Ether(src=port_mac(B), dst="ff:ff:ff:ff:ff:ff") / ARP(
        op=1, hwsrc=port_mac(B), psrc=GATEWAY4, pdst=STRANGER
    )
    small = IP(src=A4, dst=B4, proto=99)
    stranger = (B, from_host(B, ARP(op=2, hwsrc=host_mac(B), psrc=A4, pdst=GATEWAY4)))
    group = (B, from_host(B, ARP(op=2, hwsrc="01:00:5e:00:00:01", psrc=B4, pdst=GATEWAY4)))
    asking = (B, from_host(B, _request(B4, GATEWAY4, B)))
    soliciting = (B, from_host(B, _solicitation(B6, GATEWAY6, port=B)))
    moved = ARP(op=2, hwsrc="02:00:00:00:02:99", psrc=B4, pdst=GATEWAY4)
    frame_moved = Ether(src=port_mac(B), dst="02:00:00:00:02:99") / known4
    mute, moved_mac = Drop(DropReason.NEIGHBOR_UNKNOWN), "02:00:00:00:02:99"
    return [
        Vector("unknown-ipv4", A, from_host(A, to4), question(B, bytes(who4))),
        Vector("unknown-ipv6", A, from_host(A, to6), question(B, bytes(who6))),
        Vector("unknown-20-bytes", A, from_host(A, small), question(B, bytes(who4))),
        Vector("unknown-without-gateway-ipv4", A, from_host(A, IP(src=A4, dst=MUTE4) / tcp()), mute),
        Vector("unknown-without-gateway-ipv6", A, from_host(A, IPv6(src=A6, dst=MUTE6) / tcp()), mute),
        Vector("learnt-from-reply", A, from_host(A, to4), Forward(B, to_host(B, known4)), ((B, arp_reply(B, B4)),)),
        Vector("learnt-from-request", A, from_host(A, to4), Forward(B, to_host(B, known4)), (asking,)),
        Vector("learnt-from-solicitation", A, from_host(A, to6), Forward(B, to_host(B, known6)), (soliciting,)),
        Vector(
            "learnt-from-advertisement",
            A,
            from_host(A, to6),
            Forward(B, to_host(B, known6)),
            ((B, neighbor_advertisement(B, B6)),),
        ),
        Vector(
            "learnt-again",
            A,
            from_host(A, to4),
            Forward(B, bytes(frame_moved)),
            ((B, arp_reply(B, B4)), (B, from_host(B, moved))),
        ),
        *(
            Vector(
                f"{'learnt-from' if learnt else 'kept-by'}-advertisement-{name}",
                A,
                from_host(A, to6),
                Forward(B, bytes(Ether(src=port_mac(B), dst=moved_mac) / known6) if learnt else to_host(B, known6)),
                ((B, neighbor_advertisement(B, B6)), (B, says)),
            )
            for name, says, learnt in (
                ("override", _unsolicited(moved_mac, O=1), True),
                ("without-override", _unsolicited(moved_mac, O=0), False),
                ("solicited", _unsolicited(moved_mac, S=1, O=1), False),  # to a group: wrong
                ("without-mac", _unsolicited(None, O=1), False),
            )
        ),
        Vector(
            "learnt-without-override",
            A,
            from_host(A, to6),
            Forward(B, to_host(B, known6)),
            ((B, _unsolicited(host_mac(B), O=0)),),
        ),
        Vector("not-learnt-without-mac", A, from_host(A, to6), question(B, bytes(who6)), ((B, _unsolicited(None)),)),
        Vector("not-learnt-from-stranger", A, from_host(A, to4), question(B, bytes(who4)), (stranger,)),
        Vector(
            "not-learnt-without-source-guard",
            A,
            from_host(A, lost),
            question(B, bytes(who_else)),
            ((B, arp_reply(B, STRANGER)),),
        ),
        Vector("not-learnt-group-mac", A, from_host(A, to4), question(B, bytes(who4)), (group,)),
        Vector(
            "not-learnt-from-other-port",
            A,
            from_host(A, to4),
            question(B, bytes(who4)),
            ((A, from_host(A, ARP(op=2, hwsrc=host_mac(A), psrc=B4, pdst=GATEWAY4))),),
        ),
    ]


VECTORS = [*arp(), *discovery(), *echo(), *unknown()]
