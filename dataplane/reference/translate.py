"""Translation of prefixes, one to one and without state: addresses, checksums, and what an ICMP error quotes."""

from dataclasses import dataclass

from dataplane.reasons import L4Class
from dataplane.reference import icmp
from dataplane.reference.checksum import updated
from dataplane.reference.match import Tables
from dataplane.reference.packet import MAPPED, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP, Ip, Transport, parse_ip

PROTOCOL_DCCP, PROTOCOL_UDP_LITE = 33, 136
CHECKSUM_AT = {PROTOCOL_TCP: 16, PROTOCOL_UDP: 6, PROTOCOL_UDP_LITE: 6, PROTOCOL_DCCP: 6}
"""Protocol → where it has a checksum over its addresses; ICMPv6 only in IPv6."""
ICMP_HEADER = 8

Change = list[tuple[int, int]]
"""Words of 16 bits, before and after."""


@dataclass(frozen=True, slots=True)
class Translation:
    """Of one forwarding class."""

    tables: Tables
    forwarding_class: int

    def source(self, address: int) -> int:
        return self._moved("translate_source", address)

    def destination(self, address: int) -> int:
        return self._moved("translate_destination", address)

    def _moved(self, table: str, address: int) -> int:
        to = self.tables.look_up(table, forwarding_class=self.forwarding_class, address=address)
        return to.params["prefix"] | address & to.params["host_mask"] if to else address

    def packet(self, ip: Ip, transport: Transport) -> Ip:
        """`ip` as it leaves. `transport`: of its first fragment."""
        data = bytearray(ip.data)
        change = self._addresses(data, 0, ip.version, self.source(ip.source), self.destination(ip.destination))
        at = ip.transport_offset
        if ip.fragment_offset:
            pass
        elif transport.l4_class == L4Class.ICMP_ERROR:
            quoted = self._quote(data, at + ICMP_HEADER, ip.version)
            _update(data, at + 2, quoted if ip.version == 4 else change + quoted)
        else:
            _update_upper(data, at, ip.protocol, ip.version, change)
        translated = parse_ip(ip.ether_type, bytes(data))
        assert isinstance(translated, Ip), "a right header stays right"
        return translated

    def _quote(self, data: bytearray, at: int, version: int) -> Change:
        """What an error quotes was sent in the other direction. Gives all that has changed."""
        quoted = icmp.quoted(version, bytes(data[at:]))
        if quoted is None or quoted.is_broken:
            return []
        check = bytes(data[at + 10 : at + 12])
        ends = self.destination(quoted.source), self.source(quoted.destination)
        change = self._addresses(data, at, version, *ends)
        of_header = [(int.from_bytes(check), int.from_bytes(data[at + 10 : at + 12]))] if version == 4 else []
        return change + of_header + _update_upper(data, at + quoted.transport_offset, quoted.protocol, version, change)

    def _addresses(self, data: bytearray, at: int, version: int, source: int, destination: int) -> Change:
        begin, size = (at + 12, 4) if version == 4 else (at + 8, 16)
        before = bytes(data[begin : begin + 2 * size])
        ends = [address & ~MAPPED if version == 4 else address for address in (source, destination)]
        after = b"".join(end.to_bytes(size) for end in ends)
        data[begin : begin + 2 * size] = after
        change = list(zip(_words(before), _words(after), strict=True))
        if version == 4:
            _update(data, at + 10, change)
        return change


def _words(data: bytes) -> list[int]:
    return [int.from_bytes(data[at : at + 2]) for at in range(0, len(data), 2)]


def _update_upper(data: bytearray, at: int, protocol: int, version: int, change: Change) -> Change:
    """Of what is there of an upper layer that begins at `at`."""
    offset = 2 if (protocol, version) == (PROTOCOL_ICMPV6, 6) else CHECKSUM_AT.get(protocol)
    if offset is None or at + offset + 2 > len(data):
        return []
    return _update(data, at + offset, change, is_udp=protocol == PROTOCOL_UDP)


def _update(data: bytearray, at: int, change: Change, *, is_udp: bool = False) -> Change:
    """A checksum; 0 is none of UDP, and stays (RFC 768)."""
    before = int.from_bytes(data[at : at + 2])
    if is_udp and not before:
        return []
    after = before
    for old, new in change:
        after = updated(after, old, new)
    if is_udp and not after:
        after = 0xFFFF
    data[at : at + 2] = after.to_bytes(2)
    return [(before, after)]
