"""IPv6 extension headers: walked to the upper layer, which is judged; what cannot be seen passes only where all may."""

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment
from scapy.packet import Packet, Raw

from dataplane.reasons import EXTENSION_HEADERS, EXTENSIONS_END, DropReason
from dataplane.reference import Drop, Forward
from vectors.case import KNOWN_HOSTS, PAYLOAD, Vector, encapsulated, entropy, from_host, srv6, to_host
from vectors.node import A4, A6, B6, FABRIC, PORT_443, TUNNEL, A, B, remote4, remote6, segments

HOP_BY_HOP, ROUTING, FRAGMENT, ESP, AH, NOTHING, DESTINATION, MOBILITY, HIP, SHIM6 = (
    0, 43, 44, 50, 51, 59, 60, 135, 139, 140,
)  # fmt: skip
UNCLASSIFIED, REFUSED = Drop(DropReason.UNCLASSIFIED), Drop(DropReason.FRAGMENT_REFUSED)
MINE = "5f00:1:1:6::"
"""Leads to where only what is from TCP port 443, ICMP errors and UDP may pass."""
OPENS, GOES_ON = TCP(sport=443, dport=5, flags="S"), TCP(sport=443, dport=5, flags="A")
ENDS = remote6(1), A6


def chained(kinds: tuple[int, ...], last: int, units: int = 0) -> bytes:
    """Extension headers, one after the other, to the upper layer `last`; `units`: of 8 octets, that each is longer."""
    headers = b""
    for kind, after in zip(kinds, (*kinds[1:], last), strict=True):
        if kind == FRAGMENT:
            headers += bytes([after, 0, 0, 0, 0, 0, 0, 7])
        elif kind == AH:
            headers += bytes([after, 4 + 2 * units, *bytes(22 + 8 * units)])
        elif kind == ROUTING:
            headers += bytes([after, units, 253, 0, *bytes(4 + 8 * units)])
        else:
            headers += bytes([after, units, 1, 4 + 8 * units, *bytes(4 + 8 * units)])
    return headers


def packet(ends: tuple[str, str], kinds: tuple[int, ...], upper: Packet | bytes, last: int, **fields: int) -> Packet:
    units = fields.pop("units", 0)
    first = kinds[0] if kinds else last
    return IPv6(src=ends[0], dst=ends[1], nh=first, **fields) / Raw(chained(kinds, last, units) + bytes(upper))


CHAINS: dict[str, tuple[int, ...]] = {
    "hop-by-hop": (HOP_BY_HOP,),
    "destination": (DESTINATION,),
    "routing": (ROUTING,),
    "authentication": (AH,),
    "mobility": (MOBILITY,),
    "hip": (HIP,),
    "shim6": (SHIM6,),
    "atomic-and-destination": (FRAGMENT, DESTINATION),
    "destination-and-atomic": (DESTINATION, FRAGMENT),
    "many": (HOP_BY_HOP, DESTINATION, ROUTING, FRAGMENT, AH, DESTINATION),
    "most": (DESTINATION,) * EXTENSION_HEADERS,
}


def replies() -> list[Vector]:
    """Where only replies may pass: seen through each chain, or not at all."""

    def arriving(name: str, inner: Packet, expected: Drop | Forward) -> Vector:
        carried = srv6(bytes(inner), [MINE], 0, next_header=41 if isinstance(inner, IPv6) else 4)
        return Vector(f"extension-{name}", TUNNEL, from_host(TUNNEL, carried), expected, KNOWN_HOSTS)

    vectors = []
    opens, goes_on = _with_checksum(OPENS), _with_checksum(GOES_ON)
    for name, kinds in CHAINS.items():
        sent = Forward(A, to_host(A, packet(ENDS, kinds, goes_on, 6, hlim=63)))
        vectors += [
            arriving(f"{name}-before-an-opening", packet(ENDS, kinds, opens, 6), Drop(DropReason.NOT_PERMITTED)),
            arriving(f"{name}-before-a-reply", packet(ENDS, kinds, goes_on, 6), sent),
        ]
    long = (DESTINATION, DESTINATION)
    fits = (EXTENSIONS_END - 40) // 16 - 1
    sent = Forward(A, to_host(A, packet(ENDS, long, goes_on, 6, hlim=63, units=fits)))
    behind = (DESTINATION,)
    truncated = packet(ENDS, behind, b"", 6)
    truncated.load = truncated.load[:6]
    longer = packet(ENDS, behind, goes_on, 6)
    longer.load = bytes([6, 9]) + longer.load[2:]
    twice = packet(ENDS, (FRAGMENT, FRAGMENT), goes_on, 6)
    later = IPv6(src=ENDS[0], dst=ENDS[1], nh=DESTINATION) / Raw(
        chained((DESTINATION,), FRAGMENT) + bytes(IPv6ExtHdrFragment(nh=6, offset=9, id=7)) + goes_on
    )
    first = IPv6(src=ENDS[0], dst=ENDS[1]) / IPv6ExtHdrFragment(nh=DESTINATION, m=1, id=8)
    malformed = Drop(DropReason.MALFORMED)
    return [
        *vectors,
        arriving("one-too-many", packet(ENDS, (DESTINATION,) * (EXTENSION_HEADERS + 1), goes_on, 6), UNCLASSIFIED),
        arriving("longest", packet(ENDS, long, goes_on, 6, units=fits), sent),
        arriving("too-long", packet(ENDS, long, goes_on, 6, units=fits + 1), UNCLASSIFIED),
        arriving("esp", packet(ENDS, (ESP,), goes_on, 6), UNCLASSIFIED),
        arriving("esp-behind-options", packet(ENDS, (DESTINATION, ESP), goes_on, 6), UNCLASSIFIED),
        arriving("unknown", packet(ENDS, (200,), goes_on, 6), UNCLASSIFIED),
        arriving("for-experiments", packet(ENDS, (253,), goes_on, 6), UNCLASSIFIED),
        arriving("nothing-behind", packet(ENDS, (DESTINATION,), b"", NOTHING), UNCLASSIFIED),
        arriving("ipv4-esp", IP(src=remote4(1), dst=A4, proto=ESP) / Raw(bytes(24)), UNCLASSIFIED),
        arriving("ipv4-ah", IP(src=remote4(1), dst=A4, proto=AH) / Raw(chained((AH,), 6) + opens), UNCLASSIFIED),
        arriving("truncated", truncated, malformed),
        arriving("longer-than-the-packet", longer, malformed),
        arriving("without-transport", packet(ENDS, behind, goes_on[:8], 6), malformed),
        arriving("two-fragment-headers", twice, REFUSED),
        arriving("later-fragment", later, Drop(DropReason.FRAGMENT)),
        # RFC 7112: a first fragment has the whole chain
        arriving("first-fragment-ends-in-the-chain", first / Raw(longer.load[:16]), REFUSED),
        arriving("first-fragment-ends-before-transport", first / Raw(chained((DESTINATION,), 6)), REFUSED),
        arriving("first-fragment-ends-in-transport", first / Raw(chained((DESTINATION,), 6) + goes_on[:16]), REFUSED),
    ]  # fmt: skip


def requests() -> list[Vector]:
    """What ports decide about is seen; where anything may pass, anything does."""
    ends = A6, remote6(PORT_443)
    datagram = _with_checksum(TCP(sport=5, dport=443, flags="S"))
    inner = packet(ends, (HOP_BY_HOP, DESTINATION), datagram, 6, hlim=63)
    outer = encapsulated(inner, 6, segments(1), entropy(*ends, 6, 5, 443))
    kinds = HOP_BY_HOP, DESTINATION
    other = _with_checksum(TCP(sport=5, dport=442, flags="S"))
    anywhere = A6, remote6(2)
    hidden = packet(anywhere, (ESP,), PAYLOAD, 6)
    carried = encapsulated(packet(anywhere, (ESP,), PAYLOAD, 6, hlim=63), 6, segments(2), entropy(*anywhere, ESP))
    local = packet((A6, B6), (DESTINATION,) * 9, other, 6)
    delivered = packet((A6, B6), (DESTINATION,) * 9, other, 6, hlim=63)

    def vector(name: str, sent: Packet, expected: Drop | Forward) -> Vector:
        return Vector(f"extension-{name}", A, from_host(A, sent), expected, KNOWN_HOSTS)

    return [
        vector("port-443", packet(ends, kinds, datagram, 6), Forward(FABRIC, to_host(FABRIC, outer))),
        vector("port-442", packet(ends, kinds, other, 6), Drop(73)),
        vector("esp-where-all-passes", hidden, Forward(FABRIC, to_host(FABRIC, carried))),
        vector("too-many-where-all-passes", local, Forward(B, to_host(B, delivered))),
    ]


def fragmented() -> list[Vector]:
    """The fragment header is found behind other headers, and other headers behind it."""
    ends = A6, remote6(2)
    datagram = chained((DESTINATION,), 17) + bytes(UDP(sport=40000, dport=5060, len=808, chksum=0x1234)) + bytes(800)

    def piece(begin: int, end: int, **fields: int) -> Packet:
        fragment = IPv6ExtHdrFragment(nh=DESTINATION, offset=begin // 8, m=int(end < len(datagram)), id=0x4711)
        whole = chained((HOP_BY_HOP,), FRAGMENT) + bytes(fragment) + datagram[begin:end]
        return IPv6(src=ends[0], dst=ends[1], nh=HOP_BY_HOP, **fields) / Raw(whole)

    def vector(name: str, begin: int, end: int, *before: Packet) -> Vector:
        inner = piece(begin, end, hlim=63)
        outer = encapsulated(inner, 6, segments(2), entropy(*ends, 17, 40000, 5060))
        frames = tuple((A, from_host(A, part)) for part in before)
        return Vector(name, A, from_host(A, piece(begin, end)), Forward(FABRIC, to_host(FABRIC, outer)), frames)

    overlap = Vector(
        "extension-fragment-overlaps", A, from_host(A, piece(392, 800)), REFUSED, ((A, from_host(A, piece(0, 400))),)
    )
    return [
        vector("extension-first-fragment", 0, 400),
        vector("extension-second-fragment", 400, 816, piece(0, 400)),
        overlap,
    ]


def _with_checksum(datagram: Packet) -> bytes:
    """Nobody looks at it, but it has to be the same wherever the datagram is."""
    datagram.chksum = 0x1234
    return bytes(datagram)


VECTORS = [*replies(), *requests(), *fragmented()]
