"""Numbers of the pipeline: which there are, and what they are numbers of.

Each is its node's: given out where it is needed, kept with what it belongs to (`Stitch.ids`, `SrPolicy.numbers`; for
networks `Number`s), and rested before it means something else (reconcile/identifiers.py).

| kind | of what |
|---|---|
| vrf | a network at one of its edges (NETWORK), or traffic from one network to another that goes on (FROM TO) |
| policy_class | `hosts NETWORK`, `edges NETWORK`: what comes from its other edges; `PLAN tail I D`, `PLAN border D` |
| forwarding_class | `hosts NETWORK`: to its hosts here, `NETWORK to EDGE`; `PLAN inside I D` and so on (plan_ids.py) |
| sr_policy | `ENDPOINT COLOR`: all that ask for the same share it; `edge EDGE`, `border LINK` |
| function | End.DT46 into a policy class, called as that |

These follow from the port: next hop (fabric: the port, attached hosts 512 +, tunnels 1024 +, services 2560 + and, of
IPv6, 3072 +; 2048: behind another edge), ingress class of what a neighbour's tunnel brings (1024 +), function of End.X
(0xe000 +).
"""

import enum
import ipaddress
import zlib
from collections.abc import Iterable
from functools import lru_cache

BORDER_CLASS = 1024
UNDECLARED_CLASS = 2
"""Of ports for links at which no link is declared: what comes in there may be heard (LLDP), and uses no SID."""
UNATTACHED_CLASS = 3
"""Of ports for hosts at which no network has one: who asks for its neighbours there is heard, and reaches nobody."""
ATTACHED_HOP = 512
TUNNEL_HOP = 1024
BEHIND_ANOTHER_EDGE = 2048
SERVICE_HOP_IPV4, SERVICE_HOP_IPV6 = 2560, 3072
FIRST_FUNCTION = 0xE000
"""Of a domain's SIDs the 16 bits of a node are below, those of a function from here on (RFC 9800: GIB and LIB), so that
the next 16 bits of a container are one or the other."""
END_X = FIRST_FUNCTION
FIRST_SERVICE = 0xE200
PUNT_LLDP = 16
"""Reason with which frames of LLDP come to the controller (IEEE 802.1AB)."""
ETHERTYPE_LLDP = 0x88CC
PUNT_HOST = 17
"""The same of what hosts send that no network has: ARP (RFC 826) and neighbour discovery (RFC 4861)."""
ETHERTYPE_ARP, ETHERTYPE_IPV6 = 0x0806, 0x86DD
ICMPV6 = 58
ROUTER_SOLICITATION, NEIGHBOR_SOLICITATION, NEIGHBOR_ADVERTISEMENT = 133, 135, 136


class Direction(enum.IntEnum):
    FORWARD = 0
    REVERSE = 1


class Kind(enum.StrEnum):
    VRF = "vrf"
    POLICY_CLASS = "policy_class"
    FORWARDING_CLASS = "forwarding_class"
    SR_POLICY = "sr_policy"
    FUNCTION = "function"


SIZED_BY = {
    Kind.VRF: "",
    Kind.POLICY_CLASS: "policy_class_counter",
    Kind.FORWARDING_CLASS: "steer",
    Kind.SR_POLICY: "path_liveness",
    Kind.FUNCTION: "",
}
"""Table or counter whose size says how many a node has, from 0 on. Empty: as many as have 16 bits."""


def id_key(node: str, kind: Kind, what: str) -> str:
    return " ".join((node, kind, what))


def first_and_last(kind: Kind, size: int) -> tuple[int, int]:
    """`size`: of the table that the node has for them; 0: there is none."""
    if kind is Kind.FUNCTION:
        return FIRST_SERVICE, 0xFFFF
    return 1, min(size or 0x10000, 0x10000) - 1


def is_shared(key: str) -> bool:
    """Whether several plans may want the very same; all else is of one plan, or of one network at one edge."""
    _, kind, what = key.split(" ", 2)
    if kind == Kind.FORWARDING_CLASS:
        return False
    return kind in (Kind.VRF, Kind.SR_POLICY) or " border " in what


def next_free(first: int, last: int, after: int, busy: int) -> int | None:
    """The next one after the last given out, so that a number rests before it means something else. `busy`: those that
    are not free, as bits."""
    for low, high in ((max(first, after + 1), last), (first, min(after, last))):
        free = ~busy >> low
        number = low + (free & -free).bit_length() - 1  # the lowest bit that is set
        if low <= number <= high:
            return number
    return None


def sid(locator: int, function: int) -> int:
    """RFC 8986 §3.1: /48 locator, 16 bits of function, no arguments."""
    return locator | function << 64


@lru_cache(65_536)
def address(text: str) -> int:
    """128 bits; IPv4 is ::ffff:0:0/96."""
    value = ipaddress.ip_address(text)
    return int(value) | 0xFFFF << 32 if value.version == 4 else int(value)


def address_text(value: int) -> str:
    """An address of 128 bits as people write it."""
    return str(ipaddress.IPv4Address(value & 0xFFFFFFFF) if value >> 32 == 0xFFFF else ipaddress.IPv6Address(value))


@lru_cache(65_536)
def prefix(text: str) -> tuple[int, int]:
    """128 bits and length; IPv4's is 96 more."""
    network = ipaddress.ip_network(text)
    value = int(network.network_address)
    return (value | 0xFFFF << 32, network.prefixlen + 96) if network.version == 4 else (value, network.prefixlen)


def contains(outer: str, host: str) -> bool:
    """Whether an address is inside a prefix."""
    if (":" in outer) != (":" in host):
        return False
    value, length = prefix(outer)
    return not (value ^ address(host)) >> (128 - length)


@lru_cache(65_536)
def host_prefix(text: str) -> str:
    """10.1.0.11 -> 10.1.0.11/32."""
    return f"{text}/{ipaddress.ip_address(text).max_prefixlen}"


def overlaps(text: str, others: Iterable[str]) -> bool:
    """Whether a prefix has an address in common with any of the others."""
    network = ipaddress.ip_network(text)
    return any(
        network.version == other.version and network.overlaps(other) for other in map(ipaddress.ip_network, others)
    )


@lru_cache(16_384)
def sid_text(value: int) -> str:
    return str(ipaddress.IPv6Address(value))


def assign(keys: Iterable[str], first: int, last: int) -> dict[str, int]:
    """A number for each key, from its content, so that other keys coming and going hardly ever change it.

    Raises ValueError where there are more keys than numbers.
    """
    size = last - first + 1
    numbers: dict[str, int] = {}
    taken: set[int] = set()
    for key in sorted(set(keys)):
        if len(taken) == size:
            raise ValueError(f"more than {size} different ones")
        number = zlib.crc32(key.encode()) % size
        while number in taken:
            number = (number + 1) % size
        taken.add(number)
        numbers[key] = first + number
    return numbers
