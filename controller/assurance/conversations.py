"""Both directions of a flow become one row, as `northbound/flows.py` does for a few: here for all of a second."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controller.assurance.flow_totals import Differences
from controller.assurance.grouping import grouped
from controller.model.flow_columns import ANSWERED_OPEN, NOT_OBSERVED, OPENED, UNKNOWN, FlowColumns, empty
from dataplane.reasons import L4Class

FORWARD, REVERSE, NEITHER = 0, 1, -1
_TCP = 6
_ECHO, _ERROR = 1, 2


@dataclass(frozen=True, slots=True)
class Whose:
    """Of a forwarding class: index of its owner, and which way its traffic goes."""

    owner: int
    direction: int
    """FORWARD is from who asks to whom is asked; NEITHER: of a network, whose hosts all may begin."""


NOBODYS = Whose(UNKNOWN, NEITHER)


def joined(
    came: Differences,
    whose: Callable[[int], Whose],
    *,
    node: int,
    now_s: float,
    interval_s: float,
    marks: int = 0,
) -> FlowColumns:
    """What came at one node. `whose`: of a forwarding class. The result has no names of nodes and owners."""
    rows = came.rows
    if not len(rows):
        return empty()
    classes, of_class = np.unique(rows["forwarding_class"], return_inverse=True)
    owners = [whose(number) for number in classes.tolist()]
    owner = np.array([each.owner for each in owners], dtype=np.int32)[of_class]
    direction = np.array([each.direction for each in owners], dtype=np.int8)[of_class]

    kind = np.zeros(len(rows), dtype=np.uint8)
    request, reply = rows["l4_class"] == L4Class.ECHO_REQUEST, rows["l4_class"] == L4Class.ECHO_REPLY
    kind[request | reply], kind[rows["l4_class"] == L4Class.ICMP_ERROR] = _ECHO, _ERROR
    source = _end(rows["source_address"], np.where(kind == _ECHO, 0, rows["source_port"]))
    destination = _end(rows["destination_address"], np.where(kind == _ECHO, 0, rows["destination_port"]))

    # Echoes are a flow from who asks, whichever address is lower; others are found with the lower end first.
    from_low = np.where(kind == _ECHO, request, _is_less(source, destination))
    low, high = np.where(from_low[:, None], source, destination), np.where(from_low[:, None], destination, source)
    rest = owner.astype(np.uint64) << np.uint64(16) | rows["protocol"].astype(np.uint64) << np.uint64(8) | kind
    key = np.column_stack((low, high, rest))
    order, is_first = grouped(key)
    key = key[order]
    starts = np.flatnonzero(is_first)
    group = np.cumsum(is_first) - 1

    from_low, direction = from_low[order], direction[order]
    first_s, last_s, protocol = (rows[name][order] for name in ("first_seen_s", "last_seen_s", "protocol"))
    opening = (rows["l4_class"][order] == L4Class.TCP_OPEN) & (protocol == _TCP)
    begun_by_low = _begun_by_low(group, starts, from_low, direction, opening, first_s, key)
    is_forward = from_low == begun_by_low[group]

    def added(values: NDArray[np.int64], mask: NDArray[np.bool_]) -> NDArray[np.int64]:
        total: NDArray[np.int64] = np.add.reduceat(np.where(mask, values[order], 0), starts)
        seen = np.logical_or.reduceat(mask, starts)
        return np.where(seen, total, NOT_OBSERVED)

    ends = [key[starts, :3], key[starts, 3:6]]
    swapped = ~begun_by_low[:, None]
    began, answered = np.where(swapped, ends[1], ends[0]), np.where(swapped, ends[0], ends[1])
    bits = np.where(opening, np.where(is_forward, OPENED, ANSWERED_OPEN), 0).astype(np.uint8)
    count = len(starts)
    duration_s = np.maximum.reduceat(last_s, starts) - np.minimum.reduceat(first_s, starts)
    return FlowColumns(
        time_s=np.full(count, now_s),
        interval_s=np.full(count, interval_s, dtype=np.float32),
        node=np.full(count, node, dtype=np.uint16),
        owner=owner[order][starts],
        source_address=_address(began),
        destination_address=_address(answered),
        protocol=protocol[starts],
        source_port=began[:, 2].astype(np.uint16),
        destination_port=answered[:, 2].astype(np.uint16),
        packets=added(came.packets, is_forward),
        bytes=added(came.bytes, is_forward),
        reverse_packets=added(came.packets, ~is_forward),
        reverse_bytes=added(came.bytes, ~is_forward),
        duration_s=np.maximum(duration_s, 0).astype(np.float32),
        tcp_state=np.full(count, NOT_OBSERVED, dtype=np.int8),
        is_new=np.logical_and.reduceat(came.is_new[order], starts),
        opened=np.bitwise_or.reduceat(bits, starts),
        marks=np.bitwise_or.reduceat(came.marks[order], starts) | np.uint8(marks),
    )


def _begun_by_low(
    group: NDArray[np.intp],
    starts: NDArray[np.intp],
    from_low: NDArray[np.bool_],
    direction: NDArray[np.int8],
    opening: NDArray[np.bool_],
    first_s: NDArray[np.float64],
    key: NDArray[np.uint64],
) -> NDArray[np.bool_]:
    """Who began, by the strongest that is known: an echo's question; the way that the intent permits; who opened the
    TCP connection; whose packets were seen first; who has the higher port."""
    count = len(starts)
    low_port, high_port = key[starts, 2], key[starts, 5]
    began: NDArray[np.bool_] = np.where(low_port == high_port, True, low_port > high_port)
    both = np.bincount(group, weights=from_low, minlength=count)
    sizes = np.diff(np.append(starts, len(group)))
    two_ways = (both > 0) & (both < sizes)
    at_first = np.flatnonzero(first_s == np.minimum.reduceat(first_s, starts)[group])
    earliest = at_first[np.searchsorted(at_first, starts)]
    began = np.where(two_ways, from_low[earliest], began)
    for known, says_low in ((opening, from_low), (direction != NEITHER, from_low == (direction == FORWARD))):
        rows = np.flatnonzero(known)
        began[group[rows[::-1]]] = says_low[rows[::-1]]  # the first one counts
    is_echo = key[starts, 6] & np.uint64(0xFF) == _ECHO
    return np.asarray(began | is_echo)


def _end(address: NDArray[np.uint8], port: NDArray[np.generic]) -> NDArray[np.uint64]:
    words = np.ascontiguousarray(address).view(">u8").astype(np.uint64)
    return np.column_stack((words, port.astype(np.uint64)))


def _address(end: NDArray[np.uint64]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(end[:, :2]).astype(">u8").view(np.uint8).reshape(-1, 16)


def _is_less(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """By words, the first one first."""
    less = np.zeros(len(one), dtype=bool)
    for word in range(one.shape[1] - 1, -1, -1):
        less = (one[:, word] < other[:, word]) | (one[:, word] == other[:, word]) & less
    return less
