"""The Internet checksum (RFC 1071), its incremental update (RFC 1624) and the pseudo header of IPv6 (RFC 8200 §8.1)."""

import struct


def ones_complement_sum(data: bytes) -> int:
    """16-bit one's complement sum of big-endian words; an odd last byte is padded with zero."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def checksum(data: bytes) -> int:
    return ones_complement_sum(data) ^ 0xFFFF


def updated(check: int, old: int, new: int) -> int:
    """RFC 1624, equation 3: HC' = ~(~HC + ~m + m'), for one 16-bit word m."""
    total = (check ^ 0xFFFF) + (old ^ 0xFFFF) + new
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def pseudo_header(source: bytes, destination: bytes, length: int, next_header: int) -> bytes:
    return source + destination + struct.pack("!II", length, next_header)
