"""How addresses, prefixes, endpoints, MACs, SIDs and keys are written: one way each, whoever writes them.

Peers, nodes, clients, manifests, configurations: all are read by these, in the controller and in the agent. What is
taken is the canonical text and nothing else (RFC 5952 for IPv6), so that equal things are equal texts, and no text can
be more than it seems where it is written into something else: no zone, no leading zero, no sign, no space, no control
character, no bracket too many, no IPv4 address inside an IPv6 one. Whatever is refused raises ValueError, which says
how it should be written.
"""

import base64
import ipaddress
import re
from functools import lru_cache

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface

KEY_BYTES = 32
_SHOWN = 60
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_PORT = re.compile(r"0|[1-9][0-9]{0,4}")
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_SIDS = ipaddress.IPv6Network("5f00::/16")
"""RFC 9602."""
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
_NO_HOSTS: tuple[tuple[Network, str], ...] = tuple(
    (ipaddress.ip_network(text), what)
    for text, what in (
        ("0.0.0.0/8", "this network, RFC 791"),
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link-local"),
        ("192.0.0.0/24", "protocols of the IETF, RFC 6890"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved, and broadcast"),
        ("::/16", "unspecified, loopback, and IPv4 inside IPv6"),
        ("100::/64", "discard, RFC 6666"),
        ("5f00::/16", "SIDs, RFC 9602"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "site-local, RFC 3879"),
        ("ff00::/8", "multicast"),
    )
)
"""Where no host of a network has its address (RFC 6890), and what is there instead. Ranges for documentation and for
private use are hosts' as any other."""


@lru_cache(65_536)
def address(text: str) -> Address:
    """`10.1.0.11` or `2001:db8::1`."""
    try:
        parsed = ipaddress.ip_address(text)
    except ValueError as error:
        raise ValueError(f"{_shown(text)} is no IP address") from error
    _check_whole(parsed, text)
    _check_canonical(text, str(parsed))
    return parsed


@lru_cache(65_536)
def prefix(text: str) -> Network:
    """`10.1.0.0/24` or `2001:db8:1::/64`."""
    if "/" not in text:
        raise ValueError(f"{_shown(text)} has no prefix length")
    try:
        parsed = ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"{_shown(text)} is no prefix ({str(error)[:_SHOWN]})") from error
    _check_whole(parsed.network_address, text)
    _check_canonical(text, str(parsed))
    return parsed


@lru_cache(65_536)
def host_prefix(text: str) -> Network:
    """A prefix in which hosts may be: none of it is in a range that has another use."""
    parsed = prefix(text)
    for special, what in _NO_HOSTS:
        if overlap(parsed, special):
            raise ValueError(f"prefix {text} is not one of hosts: it overlaps {special} ({what})")
    return parsed


def host_address(text: str) -> Address:
    """An address that a host may have."""
    parsed = address(text)
    host_prefix(f"{parsed}/{parsed.max_prefixlen}")
    return parsed


def interface(text: str) -> Interface:
    """An address with the length of its prefix: `192.0.2.1/30`."""
    if "/" not in text:
        raise ValueError(f"{_shown(text)} has no prefix length")
    try:
        parsed = ipaddress.ip_interface(text)
    except ValueError as error:
        raise ValueError(f"{_shown(text)} is no address with a prefix length such as 192.0.2.1/30") from error
    _check_whole(parsed.ip, text)
    _check_canonical(text, str(parsed))
    return parsed


@lru_cache(4096)
def endpoint(text: str, least_port: int = 1) -> tuple[Address, int]:
    """`192.0.2.5:51820` or `[2001:db8::5]:51820`."""
    host, _, number = text.rpartition(":")
    try:
        port = _port(number, least_port)
        bracketed = host.startswith("[") and host.endswith("]")
        parsed = address(host[1:-1] if bracketed else host)
        if bracketed != (parsed.version == 6):
            raise ValueError("an IPv6 address stands in brackets, and nothing else does")
    except ValueError as error:
        raise ValueError(f"{_shown(text)} is not address:port, such as 192.0.2.5:51820: {error}") from error
    return parsed, port


def write_endpoint(host: Address, port: int) -> str:
    return f"[{host}]:{port}" if host.version == 6 else f"{host}:{port}"


def host_and_port(text: str, least_port: int = 1) -> tuple[str, int]:
    """As an endpoint; the host may have a name: `stitchd.example.net:7001`. To listen on port 0 is to take any."""
    host, _, number = text.rpartition(":")
    # what ends in a number is meant as an address (RFC 3696 §2), so that 10.1 or 010.0.0.1 are none
    if host.startswith("[") or host.rpartition(".")[2].isdecimal() or ":" in host:
        parsed, port = endpoint(text, least_port)
        return str(parsed), port
    if not _HOST_NAME.fullmatch(host) or len(host) > 253:
        raise ValueError(f"{_shown(text)} is not host:port, such as 127.0.0.1:7001")
    return host, _port(number, least_port)


def _port(text: str, least: int) -> int:
    if not _PORT.fullmatch(text) or not least <= int(text) <= 65535:
        raise ValueError(f"{_shown(text)} is no port from {least} to 65535")
    return int(text)


@lru_cache(4096)
def mac(text: str) -> int:
    """Of one interface, in lower case: `02:00:00:00:00:01`."""
    if not _MAC.fullmatch(text):
        raise ValueError(f"{_shown(text)} is no MAC address such as 02:00:00:00:00:01")
    number = int(text.replace(":", ""), 16)
    if number >> 40 & 1:
        raise ValueError(f"{text} is the MAC address of a group")
    return number


def sid(text: str) -> ipaddress.IPv6Address:
    """`5f00:1:2::1`."""
    parsed = address(text)
    if not isinstance(parsed, ipaddress.IPv6Address) or parsed not in _SIDS:
        raise ValueError(f"{text} is no SID: those are inside {_SIDS} (RFC 9602)")
    return parsed


def sid_block(text: str, length: int | None = None) -> ipaddress.IPv6Network:
    """`5f00:1::/32`, or the locator of a node, `5f00:1:2::/48`."""
    block = prefix(text)
    if not isinstance(block, ipaddress.IPv6Network) or not block.subnet_of(_SIDS):
        raise ValueError(f"{text} is not inside {_SIDS} (RFC 9602)")
    if not 16 < block.prefixlen <= 48 or length not in (None, block.prefixlen):
        raise ValueError(f"{text} has not {'17 to 48' if length is None else length} bits")
    return block


@lru_cache(4096)
def key(text: str) -> bytes:
    """Of Ed25519 or WireGuard (X25519): 32 bytes in base64."""
    try:
        decoded = base64.b64decode(text.encode("ascii"), validate=True)
    except ValueError as error:
        raise ValueError(f"{_shown(text)} is no base64") from error
    if len(decoded) != KEY_BYTES:
        raise ValueError(f"it has {len(decoded)} bytes")
    _check_canonical(text, base64.b64encode(decoded).decode())
    return decoded


def overlap(first: Network, other: Network) -> bool:
    """Whether they have an address in common."""
    if isinstance(first, ipaddress.IPv4Network):
        return isinstance(other, ipaddress.IPv4Network) and first.overlaps(other)
    return isinstance(other, ipaddress.IPv6Network) and first.overlaps(other)


def inside(inner: Network, outer: Network) -> bool:
    if isinstance(inner, ipaddress.IPv4Network):
        return isinstance(outer, ipaddress.IPv4Network) and inner.subnet_of(outer)
    return isinstance(outer, ipaddress.IPv6Network) and inner.subnet_of(outer)


def _check_whole(parsed: Address, text: str) -> None:
    if "%" in text:
        raise ValueError(f"{_shown(text)} has a zone")
    if isinstance(parsed, ipaddress.IPv6Address) and parsed in _MAPPED:
        raise ValueError(f"{_shown(text)} has an IPv4 address in it")


def _check_canonical(text: str, canonical: str) -> None:
    if text != canonical:
        raise ValueError(f"{_shown(text)} should be written {canonical}")


def _shown(text: str) -> str:
    return repr(text[:_SHOWN])
