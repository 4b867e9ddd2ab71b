"""Whether what a neighbour says of its end of a tunnel can be: its key and its place. For controller and agent alike.

A neighbour chooses both freely. So a key must be one that only it can have, and the address must be at the other end
of the border's own link: else it could have our traffic sent by another link, to ourselves, or to somebody else.
"""

import ipaddress
from collections.abc import Iterable

from dataplane.addressing import Address, Interface, Network

_PRIME = 2**255 - 19
_OF_ORDER_8 = 325606250916557431795983626356110631294008115727848805560023387167927233504
_LOW_ORDER = frozenset(
    (0, 1, _PRIME - 1, _OF_ORDER_8, 39382357235489614581723060781553021112529911719440698176882885853963445705823)
)
"""u-coordinates of Curve25519 with which every secret is the same (RFC 7748 §6.1)."""


def key_objection(key: bytes) -> str:
    """Why 32 bytes are no public key of X25519; empty: they are one."""
    number = int.from_bytes(key, "little")
    if number in _LOW_ORDER:
        return "the key is of low order: what it encrypts everybody can read"
    return "" if number < _PRIME else "the key is not in its canonical form (RFC 7748 §5)"


def reachable(own: Interface, listed: Iterable[Network]) -> tuple[Network, ...]:
    """Where the other end of a border can be: on its link, and where the configuration says besides."""
    return (own.network, *listed)


def place_objection(address: Address, prefixes: Iterable[Network], ours: Iterable[Address]) -> str:
    """Why the other end cannot be at `address`; empty: it can. `prefixes`: of the border; `ours`: addresses that the
    node has itself."""
    prefixes = tuple(prefixes)
    if (
        address.is_loopback
        or address.is_multicast
        or address.is_unspecified
        or address.is_link_local
        or address == ipaddress.IPv4Address("255.255.255.255")
    ):
        return f"{address} is the address of no neighbour"
    if address in ours:
        return f"{address} is our own"
    inside = [prefix for prefix in prefixes if address.version == prefix.version and address in prefix]
    if not inside:
        return f"{address} is not on the border's link ({', '.join(map(str, prefixes))})"
    if any(address.version == 4 and prefix.prefixlen < 31 and address in _ends(prefix) for prefix in inside):
        return f"{address} is the address of no neighbour"
    return ""


def _ends(prefix: Network) -> tuple[Address, Address]:
    return prefix.network_address, prefix.broadcast_address
