"""IP fragments: the first is judged by its ports, the others follow it; what overlaps or is too small is refused."""

from collections.abc import Sequence

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6, IPv6ExtHdrFragment
from scapy.packet import Packet, Raw

from dataplane.reasons import FRAGMENT_PARTS, FRAGMENT_WAYS, DropReason
from dataplane.reference import Cut, Drop, Forward, Verdict
from vectors.case import KNOWN_HOSTS, Vector, encapsulated, entropy, from_host, srv6, to_host
from vectors.entries import encapsulate, h_encaps, policy
from vectors.node import (
    A4,
    A6,
    AGREEMENT,
    B4,
    B6,
    EDGE,
    FABRIC,
    INNER_MTU,
    NARROW,
    PORT_443,
    PORT_RANGES,
    SERVICE,
    T4,
    TAGGED,
    TENANT,
    TUNNEL,
    TUNNEL_2,
    VLAN,
    A,
    B,
    remote4,
    remote6,
    segments,
)

ID = 0x4711
UDP_DATAGRAM = bytes(UDP(sport=40000, dport=5060, len=1208, chksum=0x1234)) + bytes(range(240)) * 5
TCP_DATAGRAM = bytes(TCP(sport=40000, dport=443, flags="A", chksum=0x1234)) + bytes(400)
FOLLOWS_NOTHING, REFUSED = Drop(DropReason.FRAGMENT), Drop(DropReason.FRAGMENT_REFUSED)


def piece(
    version: int,
    ends: tuple[str, str],
    protocol: int,
    datagram: bytes,
    begin: int,
    end: int,
    *,
    more_fragments: bool | None = None,
    identification: int = ID,
    hop_limit: int = 64,
) -> Packet:
    """Octets `begin` to `end` of a datagram, as a fragment."""
    flag = end < len(datagram) if more_fragments is None else more_fragments
    data = Raw(datagram[begin:end])
    if version == 4:
        head = IP(src=ends[0], dst=ends[1], ttl=hop_limit, proto=protocol, id=identification, frag=begin // 8)
        head.flags = "MF" if flag else 0
        return head / data
    fragment = IPv6ExtHdrFragment(nh=protocol, offset=begin // 8, m=int(flag), id=identification)
    return IPv6(src=ends[0], dst=ends[1], hlim=hop_limit, nh=44) / fragment / data


def _ends(version: int, number: int) -> tuple[str, str]:
    return (A4, remote4(number)) if version == 4 else (A6, remote6(number))


def _udp(number: int, begin: int, end: int, version: int = 4, **fields: int) -> Packet:
    return piece(version, _ends(version, number), 17, UDP_DATAGRAM, begin, end, **fields)


def _sent(number: int, begin: int, end: int, version: int = 4, sids: int = 0, protocol: int = 17, ports: tuple = (),
          datagram: bytes = UDP_DATAGRAM, **fields: int) -> Forward:  # fmt: skip
    """On the SR Policy of the first one's flow, with its flow label."""
    ends = _ends(version, number)
    key = (protocol, *(ports or (40000, 5060)))
    inner = piece(version, ends, protocol, datagram, begin, end, hop_limit=63, **fields)
    outer = encapsulated(inner, version, segments(sids or number), entropy(*ends, *key))
    return Forward(FABRIC, to_host(FABRIC, outer))


def _vector(name: str, expected: Verdict, *packets: Packet, entries: Sequence = (), port: int = A) -> Vector:
    """The last of `packets` is what is looked at."""
    frames = [from_host(port, packet) for packet in packets]
    before = tuple((port, frame) for frame in frames[:-1])
    return Vector(name, port, frames[-1], expected, before, tuple(entries))


def followers() -> list[Vector]:
    vectors = []
    for version in (4, 6):
        first, second, last = ((0, 800), (800, 1000), (1000, 1208))
        pieces = [_udp(2, *part, version) for part in (first, second, last)]
        title = f"ipv{version}"
        vectors += [
            _vector(f"fragment-second-{title}", _sent(2, *second, version), *pieces[:2]),
            _vector(f"fragment-last-{title}", _sent(2, *last, version), *pieces),
            _vector(
                f"fragment-last-before-second-{title}", _sent(2, *second, version), pieces[0], pieces[2], pieces[1]
            ),
            _vector(f"fragment-without-first-{title}", FOLLOWS_NOTHING, pieces[1]),
            _vector(f"fragment-before-its-first-{title}", _sent(2, *first, version), pieces[1], pieces[0]),
            _vector(f"fragment-after-all-have-come-{title}", FOLLOWS_NOTHING, *pieces, pieces[1]),
            _vector(f"fragment-first-of-a-second-packet-{title}", _sent(2, *first, version), *pieces, pieces[0]),
            _vector(
                f"fragment-of-other-identification-{title}",
                FOLLOWS_NOTHING,
                pieces[0],
                _udp(2, *second, version, identification=ID + 1),
            ),
            _vector(f"fragment-to-other-destination-{title}", FOLLOWS_NOTHING, pieces[0], _udp(3, *second, version)),
        ]
        echo = bytes(ICMP(id=7) if version == 4 else ICMPv6EchoRequest(id=7, cksum=1)) + bytes(2000)
        protocol = 1 if version == 4 else 58
        ends = _ends(version, 2)
        parts = [piece(version, ends, protocol, echo, *part) for part in ((0, 1000), (1000, 2008))]
        sent = _sent(2, 1000, 2008, version, protocol=protocol, ports=(0, 0), datagram=echo)
        vectors.append(_vector(f"fragment-of-echo-{title}", sent, *parts))
        local = (A4, B4) if version == 4 else (A6, B6)
        parts = [piece(version, local, 17, UDP_DATAGRAM, *part) for part in (first, (800, 1208))]
        delivered = piece(version, local, 17, UDP_DATAGRAM, 800, 1208, hop_limit=63)
        vector = _vector(f"fragment-delivered-{title}", Forward(B, to_host(B, delivered)), *parts)
        vectors.append(Vector(vector.name, A, vector.frame, vector.expected, (*KNOWN_HOSTS, *vector.before)))
    # RFC 8200 §4.5: the next header of the first fragment counts
    other = piece(6, _ends(6, 2), 6, UDP_DATAGRAM, 800, 1208)
    followed = piece(6, _ends(6, 2), 6, UDP_DATAGRAM, 800, 1208, hop_limit=63)
    outer = encapsulated(followed, 6, segments(2), entropy(*_ends(6, 2), 17, 40000, 5060))
    vectors.append(
        _vector("fragment-of-other-next-header", Forward(FABRIC, to_host(FABRIC, outer)), _udp(2, 0, 800, 6), other)
    )
    # RFC 791: the protocol is part of what tells packets apart
    other = piece(4, _ends(4, 2), 6, UDP_DATAGRAM, 800, 1208)
    return [*vectors, _vector("fragment-of-other-protocol", FOLLOWS_NOTHING, _udp(2, 0, 800), other)]


def judged_by_the_first() -> list[Vector]:
    """Ports, class, lease and everything else are the first's."""

    def tcp(number: int, begin: int, end: int, port: int) -> Packet:
        datagram = bytes(TCP(sport=40000, dport=port, flags="A", chksum=0x1234)) + bytes(400)
        return piece(4, _ends(4, number), 6, datagram, begin, end)

    sent = _sent(PORT_443, 80, 420, sids=1, protocol=6, ports=(40000, 443), datagram=TCP_DATAGRAM)
    isolating = policy(TENANT, 9_999_999, "drop", DropReason.ISOLATED, l4_class=(2, 0xF))
    vectors = [
        _vector("fragment-of-port-443", sent, tcp(PORT_443, 0, 80, 443), tcp(PORT_443, 80, 420, 443)),
        _vector("fragment-of-port-442", Drop(73), tcp(PORT_443, 0, 80, 442), tcp(PORT_443, 80, 420, 442)),
        _vector("fragment-of-port-in-range", Drop(74), tcp(PORT_RANGES, 0, 80, 5000), tcp(PORT_RANGES, 80, 420, 5000)),
        _vector(
            "fragment-of-isolated", Drop(DropReason.ISOLATED), _udp(2, 0, 800), _udp(2, 800, 1208), entries=(isolating,)
        ),
    ]
    # What another host sends follows nothing of A's, and its source is not admitted.
    first, second = from_host(A, _udp(2, 0, 800)), from_host(B, _udp(2, 800, 1208))
    vectors.append(Vector("fragment-from-other-port", B, second, FOLLOWS_NOTHING, ((A, first),)))
    denied = _udp(2, 0, 800), _udp(2, 800, 1208)
    vectors.append(_vector("fragment-of-strange-source", Drop(DropReason.SOURCE_NOT_ADMITTED), *denied, port=B))
    ends = T4, remote4(2)
    pieces = [piece(4, ends, 17, UDP_DATAGRAM, *part) for part in ((0, 800), (800, 1208))]
    inner = piece(4, ends, 17, UDP_DATAGRAM, 800, 1208, hop_limit=63)
    outer = encapsulated(inner, 4, segments(2), entropy(*ends, 17, 40000, 5060))
    frames = [from_host(TAGGED, piece, VLAN) for piece in pieces]
    sent = Forward(FABRIC, to_host(FABRIC, outer))
    vectors.append(Vector("fragment-tagged", TAGGED, frames[1], sent, ((TAGGED, frames[0]),)))
    return vectors


def decapsulated() -> list[Vector]:
    """What comes out of a tunnel follows what came out of the same one, in the agreement's class."""
    datagram = bytes(TCP(sport=443, dport=5, flags="A", chksum=0x1234)) + bytes(400)
    ends = remote4(1), A4

    def tunnelled(begin: int, end: int, port: int, sid: str) -> bytes:
        return from_host(port, srv6(bytes(piece(4, ends, 6, datagram, begin, end)), [sid], 0))

    mine, others = "5f00:1:1:6::", "5f00:1:1:7::"
    first = (TUNNEL, tunnelled(0, 80, TUNNEL, mine))
    sent = Forward(A, to_host(A, piece(4, ends, 6, datagram, 80, 420, hop_limit=63)))
    last = tunnelled(80, 420, TUNNEL, mine)
    return [
        Vector("fragment-decapsulated", TUNNEL, last, sent, (*KNOWN_HOSTS, first)),
        Vector("fragment-decapsulated-without-first", TUNNEL, last, FOLLOWS_NOTHING, KNOWN_HOSTS),
        Vector(
            "fragment-from-other-tunnel", TUNNEL_2, tunnelled(80, 420, TUNNEL_2, others), FOLLOWS_NOTHING,
            (*KNOWN_HOSTS, first),
        ),
    ]  # fmt: skip


def refused() -> list[Vector]:
    vectors = []
    for version in (4, 6):
        title = f"ipv{version}"
        first = _udp(2, 0, 800, version)

        def after(name: str, *parts: Packet, first: Packet = first, title: str = title) -> Vector:
            return _vector(f"fragment-{name}-{title}", REFUSED, first, *parts)

        overlapping, over = _udp(2, 792, 1000, version), _udp(2, 1000, 1208, version)
        ends = _ends(version, 2)
        vectors += [
            after("copy", _udp(2, 0, 800, version)),
            after("copy-of-second", _udp(2, 800, 1000, version), _udp(2, 800, 1000, version)),
            after("first-again-with-other-size", _udp(2, 0, 400, version)),
            after("first-again-and-larger", _udp(2, 0, 808, version)),
            after("inside-the-first", _udp(2, 8, 16, version)),
            after("overlaps-the-first", overlapping),
            after("after-an-overlap", overlapping, over),
            after("overlaps-what-comes-behind", over, _udp(2, 808, 1008, version)),
            after("behind-the-last", over, piece(version, ends, 17, bytes(1400), 1208, 1216, more_fragments=True)),
            after("second-last", over, piece(version, ends, 17, bytes(1400), 1216, 1224, more_fragments=False)),
            after(
                "last-before-what-came",
                _udp(2, 808, 1000, version),
                _udp(2, 800, 808, version, more_fragments=False),
            ),
            after("of-no-octets", piece(version, ends, 17, UDP_DATAGRAM, 800, 800, more_fragments=True)),
            after("of-odd-size", piece(version, ends, 17, UDP_DATAGRAM, 800, 807, more_fragments=True)),
            after("larger-than-any-packet", piece(version, ends, 17, bytes(70000), 65528, 65544, more_fragments=False)),
            # RFC 1858 §3, RFC 3128: headers that the first one must have
            _vector(f"fragment-tiny-tcp-{title}", REFUSED, piece(version, ends, 6, TCP_DATAGRAM, 0, 16)),
            _vector(f"fragment-tiny-udp-{title}", REFUSED, piece(version, ends, 17, UDP_DATAGRAM, 0, 7)),
            _vector(f"fragment-first-of-odd-size-{title}", REFUSED, piece(version, ends, 17, UDP_DATAGRAM, 0, 801)),
        ]  # fmt: skip
        tcp = piece(version, ends, 6, TCP_DATAGRAM, 0, 80)
        vectors.append(
            _vector(f"fragment-over-tcp-flags-{title}", REFUSED, tcp, piece(version, ends, 6, TCP_DATAGRAM, 8, 16))
        )
        scattered = [_udp(2, 800 + 16 * n, 808 + 16 * n, version) for n in range(1, FRAGMENT_PARTS + 1)]
        vectors += [
            after("with-too-many-gaps", *scattered),
            _vector(
                f"fragment-between-too-many-gaps-{title}",
                _sent(2, 800, 816, version),
                first,
                *scattered,
                _udp(2, 800, 816, version),
            ),
        ]
    most = piece(6, _ends(6, 2), 17, bytes(70000), 65520, 65535, more_fragments=False)
    sent = piece(6, _ends(6, 2), 17, bytes(70000), 65520, 65535, more_fragments=False, hop_limit=63)
    outer = encapsulated(sent, 6, segments(2), entropy(*_ends(6, 2), 17, 40000, 5060))
    vectors.append(
        _vector("fragment-at-the-very-end", Forward(FABRIC, to_host(FABRIC, outer)), _udp(2, 0, 800, 6), most)
    )
    return vectors


def evicted() -> list[Vector]:
    """The eldest packet of a source gives way; other sources keep theirs."""
    others = [_udp(2, 0, 800, identification=ID + number) for number in range(1, FRAGMENT_WAYS + 1)]
    last = _udp(2, 800, 1208)
    wasted = tuple((B, from_host(B, piece(4, (B4, remote4(2)), 17, UDP_DATAGRAM, 0, 800, identification=number)))
                   for number in range(100))  # fmt: skip
    kept = _vector("fragment-while-others-waste", _sent(2, 800, 1208), _udp(2, 0, 800), last)
    return [
        _vector("fragment-of-the-eldest-kept", _sent(2, 800, 1208), _udp(2, 0, 800), *others[:-1], last),
        _vector("fragment-of-the-evicted", FOLLOWS_NOTHING, _udp(2, 0, 800), *others, last),
        Vector(kept.name, A, kept.frame, kept.expected, (*kept.before, *wasted)),
    ]


def whole() -> list[Vector]:
    """RFC 6946: a fragment header around a whole packet means nothing, whatever else has its identification."""
    atomic = piece(6, _ends(6, 2), 17, UDP_DATAGRAM, 0, 1208)
    sent = piece(6, _ends(6, 2), 17, UDP_DATAGRAM, 0, 1208, hop_limit=63)
    outer = encapsulated(sent, 6, segments(2), entropy(*_ends(6, 2), 17, 40000, 5060))
    expected = Forward(FABRIC, to_host(FABRIC, outer))
    return [_vector("fragment-atomic", expected, _udp(2, 0, 800, 6), atomic)]


def cut() -> list[Vector]:
    """IPv4 without DF that is larger than the path takes: RFC 791 §3.2, a list of frames."""
    datagram = bytes(UDP(sport=40000, dport=5060, len=1480, chksum=0x1234)) + bytes(range(184)) * 8
    most = (INNER_MTU - 20) // 8 * 8
    vectors = []

    def sent(
        number: int,
        *parts: tuple[int, int],
        datagram: bytes = datagram,
        more_fragments: bool | None = None,
        size: int = 0,
        flags: str = "",
        ends: tuple[str, str] = ("", ""),
        key: tuple = (17, 40000, 5060),
    ) -> Cut:
        ends = ends if ends[0] else _ends(4, number)
        frames = []
        for begin, end in parts:
            inner = piece(
                4, ends, key[0], datagram[: size or None], begin, end, hop_limit=63, more_fragments=more_fragments
            )
            outer = encapsulated(inner, 4, segments(number), entropy(*ends, *key))
            frames.append(Forward(FABRIC, to_host(FABRIC, outer)))
        return Cut(tuple(frames))

    whole = IP(src=A4, dst=remote4(2), proto=17, id=ID) / Raw(datagram)
    vectors.append(Vector("cut", A, from_host(A, whole), sent(2, (0, most), (most, 1480))))
    barely = IP(src=A4, dst=remote4(2), proto=17, id=ID) / Raw(datagram[: INNER_MTU - 19])
    parts = (0, most), (most, INNER_MTU - 19)
    vectors.append(Vector("cut-one-octet", A, from_host(A, barely), sent(2, *parts, size=INNER_MTU - 19)))
    padded = from_host(A, barely) + b"\xaa" * 7
    vectors.append(Vector("cut-without-padding", A, padded, sent(2, *parts, size=INNER_MTU - 19)))
    ends = T4, remote4(2)
    tagged = IP(src=T4, dst=remote4(2), proto=17, id=ID) / Raw(datagram)
    expected = sent(2, (0, most), (most, 1480), ends=ends)
    vectors.append(Vector("cut-tagged", TAGGED, from_host(TAGGED, tagged, VLAN), expected))

    # A fragment's fragments: where it lay; more follow, or not, as after it.
    long = datagram + bytes(3000)
    first, last = (
        piece(4, _ends(4, 2), 17, long, 0, 1480),
        piece(4, _ends(4, 2), 17, long, 1480, 2960, more_fragments=False),
    )
    expected = sent(2, (0, most), (most, 1480), datagram=long)
    vectors.append(_vector("cut-first-fragment", expected, first))
    expected = sent(2, (1480, 1480 + most), (1480 + most, 2960), datagram=long, size=2960)
    vectors.append(_vector("cut-last-fragment", expected, first, last))
    # What follows must not overtake what was cut, though it is small enough; neither may a copy pass.
    small, end = (
        piece(4, _ends(4, 2), 17, long, 1480, 1600),
        piece(4, _ends(4, 2), 17, long, 1600, 1608, more_fragments=False),
    )
    vectors.append(_vector("cut-and-followed", sent(2, (1480, 1600), datagram=long), first, small))
    vectors.append(_vector("cut-and-followed-by-the-last", sent(2, (1600, 1608), size=1608, datagram=long), first, end))
    vectors.append(_vector("cut-and-followed-by-a-copy", REFUSED, first, small, small))
    vectors.append(_vector("cut-later-fragment-without-first", FOLLOWS_NOTHING, last))
    denied = piece(4, _ends(4, PORT_443), 17, long, 0, 1480)
    vectors.append(_vector("cut-what-is-denied", Drop(73), denied))
    large = IP(src=A4, dst=remote4(NARROW), proto=17, id=ID) / Raw(datagram)
    narrow = encapsulate(100 + NARROW, NARROW, 1, SERVICE, inner_mtu=68)
    frames = []
    for begin in range(0, 1480, 48):
        inner = piece(4, _ends(4, NARROW), 17, datagram, begin, min(begin + 48, 1480), hop_limit=63)
        outer = encapsulated(inner, 4, segments(1), entropy(*_ends(4, NARROW), 17, 40000, 5060), dscp=0, color=0)
        frames.append(Forward(FABRIC, to_host(FABRIC, outer)))
    vectors.append(Vector("cut-as-small-as-it-gets", A, from_host(A, large), Cut(tuple(frames)), entries=(narrow,)))

    # Each piece has a fate: here none finds a next hop.
    lost = Cut((Drop(DropReason.NO_NEXT_HOP), Drop(DropReason.NO_NEXT_HOP)))
    unrouted = h_encaps(2, 0, EDGE, 999)
    vectors.append(Vector("cut-and-lost", A, from_host(A, whole), lost, entries=(unrouted,)))

    # What comes out of a tunnel and goes on by a smaller path.
    onward = IP(src=remote4(3), dst=remote4(2), proto=17, id=ID) / Raw(datagram)
    entries = (policy(AGREEMENT, 900, "permit", 102),)
    ends = remote4(3), remote4(2)
    expected = sent(2, (0, most), (most, 1480), ends=ends)
    frame = from_host(TUNNEL, srv6(bytes(onward), ["5f00:1:1:6::"], 0))
    vectors.append(Vector("cut-decapsulated", TUNNEL, frame, expected, entries=entries))
    return vectors


def not_cut() -> list[Vector]:
    """DF: told, but not about a fragment that is not the first (RFC 1812 §4.3.2.7)."""
    long = UDP_DATAGRAM + bytes(3000)
    later = piece(4, _ends(4, 2), 17, long, 1208, 2688)
    later.flags = "MF+DF"
    return [
        _vector("too-big-later-fragment", Drop(DropReason.TOO_BIG), piece(4, _ends(4, 2), 17, long, 0, 1208), later)
    ]


assert len(UDP_DATAGRAM) + 48 <= INNER_MTU
VECTORS = [*followers(), *judged_by_the_first(), *decapsulated(), *refused(), *evicted(), *whole(), *cut(), *not_cut()]
