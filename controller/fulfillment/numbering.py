"""Node-local ids, derived from small stable numbers, so that a restart finds the same ones.

| id | from |
|---|---|
| ingress class of what a neighbour's tunnel brings | 1024 + port of the tunnel |
| context of a network | its index, 1 to 255 |
| contexts of a plan | 256 + 4 slot: tail forward, tail reverse, border forward, border reverse |
| leg of a network | 16384 + index: to hosts behind the same edge; 16640 + edge number: to those behind another |
| legs of a plan | 16 slot + `Leg` |
| SR Policy, liveness group | 2 slot forward, 2 slot + 1 reverse; 1801 + edge number: to that edge of a network |
| next hop | port (fabric), 512 + port (attached hosts), 1024 + port (tunnels), 2048: behind another edge, own or not |
| SID functions of a node | 1: End; 0x0100 + port: End.X; 0x0200 + port: End for what came by that port |
| SID functions of a plan (End.DT46) | 0x1000 + 4 slot: tail forward, tail reverse, border forward, border reverse |
| SID functions of a plan (End.DT46), tail by a parallel link | 0x8000 + 16 slot + 2 place of the link + direction |
| SID functions of a network (End.DT46) | 0x4000 + 2 index: by the first candidate path, + 1: by the second |

Edge numbers, 1 to 246, are those of an edge of a network that has several; no two in a domain are the same.
"""

import enum
import ipaddress
import zlib
from collections.abc import Iterable
from functools import lru_cache

BORDER_CLASS = 1024
END = 1
END_X = 0x0100
END_BY_PORT = 0x0200
END_DT46 = 0x1000
MAX_NETWORKS = 255
NETWORK_DT46 = 0x4000
PARALLEL_DT46 = 0x8000
MAX_SLOTS = 900
MAX_EDGE_NUMBERS = 246
"""The 2,048 SR Policies of a node without those of the slots."""
ATTACHED_HOP = 512
TUNNEL_HOP = 1024
BEHIND_ANOTHER_EDGE = 2048
FIRST_PLAN_CONTEXT = 256
FIRST_NETWORK_LEG = 16384


class Direction(enum.IntEnum):
    FORWARD = 0
    REVERSE = 1


class Leg(enum.IntEnum):
    """What a plan's traffic does next; of each the forward and the reverse one."""

    INSIDE = 0
    """To the other end of the SR Policy."""
    BORDER = 2
    """Into the tunnel to the neighbour."""
    DELIVER = 4
    """To an attached host."""
    LOCAL = 6
    """From one attached host of a node to another."""


def network_leg(index: int) -> int:
    return FIRST_NETWORK_LEG + index


def edge_leg(edge_number: int) -> int:
    return FIRST_NETWORK_LEG + 256 + edge_number


def edge_sr_policy(edge_number: int) -> int:
    return sr_policy(MAX_SLOTS, Direction.REVERSE) + edge_number


def leg(slot: int, kind: Leg, direction: Direction) -> int:
    return 16 * slot + kind + direction


def tail_context(slot: int, direction: Direction) -> int:
    return FIRST_PLAN_CONTEXT + 4 * slot + direction


def border_context(slot: int, direction: Direction) -> int:
    return FIRST_PLAN_CONTEXT + 4 * slot + 2 + direction


def sr_policy(slot: int, direction: Direction) -> int:
    return 2 * slot + direction


def sid(locator: int, function: int) -> int:
    """RFC 8986 §3.1: /48 locator, 16 bits of function, no arguments."""
    return locator | function << 64


def tail_sid(locator: int, slot: int, direction: Direction, parallel: int = 0) -> int:
    """`parallel`: place among the links by which candidate paths come from one node to the tail, 0 to 7."""
    if parallel:
        return sid(locator, PARALLEL_DT46 + 16 * slot + 2 * parallel + direction)
    return sid(locator, END_DT46 + 4 * slot + direction)


def network_sid(locator: int, index: int, candidate: int) -> int:
    """Each of the two candidate paths has its own, so that their last hops can be pinned to different links."""
    return sid(locator, NETWORK_DT46 + 2 * index + candidate)


def border_sid(locator: int, slot: int, direction: Direction) -> int:
    return sid(locator, END_DT46 + 4 * slot + 2 + direction)


@lru_cache(65_536)
def address(text: str) -> int:
    """128 bits; IPv4 is ::ffff:0:0/96."""
    value = ipaddress.ip_address(text)
    return int(value) | 0xFFFF << 32 if value.version == 4 else int(value)


@lru_cache(65_536)
def prefix(text: str) -> tuple[int, int]:
    """128 bits and length; IPv4's is 96 more."""
    network = ipaddress.ip_network(text)
    value = int(network.network_address)
    return (value | 0xFFFF << 32, network.prefixlen + 96) if network.version == 4 else (value, network.prefixlen)


@lru_cache(65_536)
def host_prefix(text: str) -> str:
    """10.1.0.11 -> 10.1.0.11/32."""
    return f"{text}/{ipaddress.ip_address(text).max_prefixlen}"


def overlaps(text: str, others: Iterable[str]) -> bool:
    """Whether a prefix has an address in common with any of the others."""
    one = ipaddress.ip_network(text)
    return any(one.version == other.version and one.overlaps(other) for other in map(ipaddress.ip_network, others))


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


def free_slots(count: int, taken: Iterable[int], after: int) -> tuple[int, ...]:
    """Raises ValueError where too few are free."""
    free = _free(count, taken, after, MAX_SLOTS)
    if len(free) < count:
        raise ValueError(f"all {MAX_SLOTS} slots of this domain are in use: withdraw something")
    return free


def free_edge_numbers(count: int, taken: Iterable[int], after: int) -> tuple[int, ...]:
    """Fewer where too few are free."""
    return _free(count, taken, after, MAX_EDGE_NUMBERS)


def _free(count: int, taken: Iterable[int], after: int, last: int) -> tuple[int, ...]:
    """The next ones after the last given out, so that a number rests before it means something else."""
    used = set(taken)
    order = (*range(after + 1, last + 1), *range(1, min(after, last) + 1))
    return tuple(number for number in order if number not in used)[:count]
