"""Generated packets between two networks with the same addresses: XDP against the reference model, and against
checksums that scapy computes anew."""

import random
import struct
from ipaddress import ip_address

from scapy.layers.inet import IP, in4_chksum
from scapy.layers.inet6 import IPv6, in6_chksum
from scapy.utils import checksum
from vectors import node
from vectors.case import from_host
from vectors.entries import admit
from xdp_node import XdpNode, outcome

from dataplane.reference import Forward, Pipeline

TABLES = [*node.TABLES, admit(node.A, "10.1.0.0/24"), admit(node.A, "2001:db8:1::/64")]
OUTER = 14 + 40
HERE = {4: "10.1.0.0", 6: "2001:db8:1::"}
HERE_THERE = {4: "10.65.7.0", 6: "2001:db8:65:7::"}
THERE_HERE = {4: node.remote4(node.TRANSLATED, 0), 6: node.remote6(node.TRANSLATED, 0)}
THERE = HERE
TCP, UDP, OPTIONS = 6, 17, 60
ICMP = {4: 1, 6: 58}
UNREACHABLE, ECHO = {4: 3, 6: 1}, {4: 8, 6: 128}
CHECKSUM_AT = {TCP: 16, UDP: 6, 1: 2, 58: 2}

Ends = tuple[bytes, bytes]


def different(xdp: XdpNode, rng: random.Random, count: int) -> int:
    """How many of `count` packets leave XDP otherwise than the model, or with checksums that scapy finds wrong."""
    xdp.sync(TABLES)
    xdp.forget()
    model = Pipeline(TABLES, node.PORTS)
    return sum(_is_different(xdp, model, rng) for _ in range(count))


def _is_different(xdp: XdpNode, model: Pipeline, rng: random.Random) -> bool:
    version = rng.choice((4, 6))
    near, far = rng.randrange(2, 255), rng.randrange(2, 255)
    sent, received = ((_at(here, near), _at(there, far)) for here, there in (
        (HERE[version], THERE_HERE[version]),
        (HERE_THERE[version], THERE[version]),
    ))  # fmt: skip
    upper = _upper(rng, version)
    is_error = rng.random() < 0.3
    if is_error:
        quote = _packet(version, (sent[1], sent[0]), upper)[: rng.choice((56 if version == 6 else 28, 1000))]
        moved = _packet(version, (received[1], received[0]), upper)[: len(quote)]
        before, after = ((ICMP[version], 0, _error(version, part)) for part in (quote, moved))
    else:
        before = after = upper
    frame = from_host(node.A, _packet(version, sent, before), ether_type=0x0800 if version == 4 else 0x86DD)
    expected = model.run(node.A, frame, node.BOOTTIME_S)
    assert isinstance(expected, Forward), expected
    seen = xdp.run(node.A, frame)
    wanted = bytearray(_packet(version, received, after))
    wanted[8 if version == 4 else 7] -= 1
    if version == 4:
        wanted[10:12] = bytes(2)
        wanted[10:12] = checksum(bytes(wanted[:20])).to_bytes(2)
    return seen != outcome(expected) or seen.frame[OUTER:] != bytes(wanted)


def _at(prefix: str, host: int) -> bytes:
    address = ip_address(prefix)
    return (int(address) + host).to_bytes(4 if address.version == 4 else 16)


def _upper(rng: random.Random, version: int) -> tuple[int, int, bytes]:
    """Protocol, octets of extension headers before it, and its header and data without a checksum."""
    data = rng.randbytes(rng.randrange(8, 300))
    ports = rng.randbytes(4)
    protocol = rng.choice((TCP, UDP, ICMP[version]))
    options = 8 if version == 6 and rng.random() < 0.2 else 0
    if protocol == TCP:
        return protocol, options, ports + rng.randbytes(8) + bytes((5 << 4, 0x10)) + rng.randbytes(2) + bytes(4) + data
    if protocol == UDP:
        return protocol, options, ports + (8 + len(data)).to_bytes(2) + bytes(2) + data
    return protocol, options, bytes((ECHO[version], 0, 0, 0)) + ports + data


def _error(version: int, quote: bytes) -> bytes:
    return bytes((UNREACHABLE[version], 1, 0, 0)) + bytes(4) + quote


def _packet(version: int, ends: Ends, upper: tuple[int, int, bytes]) -> bytes:
    """With scapy's checksums. Of UDP one in eight of IPv4 has none, by its source port."""
    protocol, options, data = upper
    at = CHECKSUM_AT[protocol]
    if not (version == 4 and protocol == UDP and data[1] % 8 == 0):
        if protocol == 1:
            check = checksum(data)
        elif version == 4:
            pseudo = IP(src=str(ip_address(ends[0])), dst=str(ip_address(ends[1])), len=20 + len(data), ihl=5)
            check = in4_chksum(protocol, pseudo, data)
        else:
            pseudo = IPv6(src=str(ip_address(ends[0])), dst=str(ip_address(ends[1])))
            check = in6_chksum(protocol, pseudo, data)
        check = 0xFFFF if protocol == UDP and not check else check
        data = data[:at] + check.to_bytes(2) + data[at + 2 :]
    if version == 4:
        header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(data), 7, 0, 64, protocol, 0, *ends)
        return header[:10] + checksum(header).to_bytes(2) + header[12:] + data
    extension = bytes((protocol, 0, 1, 4, 0, 0, 0, 0)) if options else b""
    following = OPTIONS if options else protocol
    header = struct.pack("!IHBB16s16s", 6 << 28, len(extension) + len(data), following, 64, *ends)
    return header + extension + data
