"""Who may reach whom in one VRF, and the entries of the group, flow policy and port class tables that say so.

Prefixes become disjoint groups (groups.py: the addresses that the same rules of the VRF are about), port ranges become
disjoint classes. Both get their numbers from their content, so that a change elsewhere leaves them alone. What rules
come to together is in vrf_rules.py.
"""

import bisect
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from typing import NamedTuple

from controller.fulfillment.numbering import assign
from controller.model.entry import Match, OwnedEntry, Shape, owned_entry
from controller.model.intent import Ports, Value
from controller.model.sharing import Shared
from dataplane.reasons import DropReason, L4Class

MAX_SERIAL = (1 << 20) - 1
"""With 1,000 priorities of intents above it, all that the 31 bits of a P4Runtime priority have room for."""
ISOLATE_PRIORITY = 1000
SILENCE_PRIORITY = (MAX_SERIAL + 1) * 1002
"""Above all that intents permit (`permit_priority`)."""
DEFAULT_PRIORITY = 1
_PROTOCOLS = {"tcp": 6, "udp": 17}
MAX_CLASS = 0xFFFF
_ALL_BITS = 0xFFFF
"""Of a group or port class."""
MAX_STEPS = 1 << 18
"""Of compiling the rules of one VRF."""
_ANY_TCP = (int(L4Class.TCP_OPEN), 0xE)


class NoCapacity(Exception):
    """One VRF needs more of a table than any node has. It is found before the entries are made."""

    def __init__(self, table: str, needed: int, node: str = "") -> None:
        super().__init__(f"table {table} of {node}: {needed} entries are needed")
        self.table = table
        self.needed = needed
        self.node = node


class Rule(Value, frozen=True, kw_only=True):
    """One thing that is permitted (`forwarding_class`) or dropped (`drop`) to what belongs to a policy class."""

    policy_class: int
    source: tuple[str, ...] | None
    """Prefixes; None: anybody."""
    destination: tuple[str, ...] | None
    ports: tuple[Ports, ...] = ()
    """Of the service. Empty: everything."""
    reply: bool = False
    """From the service: its ports are source ports, and TCP is never opened. ICMP errors are judged by what they are
    about, in both directions, so no rule is about them."""
    default: bool = False
    """Ports and classes do not matter."""
    forwarding_class: int = 0
    asked_in: int = 0
    """VRF of the network whose edges remember who asked: requests open a conversation, replies need one. 0: nobody
    does."""
    leased: bool = False
    """Its forwarding class has a lease: once that is over, what comes next decides."""
    drop: DropReason | None = None
    until_s: int | None = None
    """Boot time of the node in seconds from which on it drops nothing; None: for ever."""
    priority: int
    owner: str


def permit_priority(intent_priority: int, serial: int) -> int:
    """The higher priority, then the older (lower serial, at most MAX_SERIAL) owns what two permit."""
    return (MAX_SERIAL + 1) * (1 + intent_priority) - 1 - serial


class PortClasses(Value, frozen=True, kw_only=True):
    """Disjoint ranges of ports with their class: (protocol, first, last, class), sorted."""

    ranges: tuple[tuple[str, int, int, int], ...] = ()

    def of(self, ports: Ports) -> tuple[tuple[str, int, int, int], ...]:
        """The ranges that make up `ports`."""
        start = bisect.bisect_left(self.ranges, (ports.protocol, ports.first))
        after = bisect.bisect_left(self.ranges, (ports.protocol, ports.last + 1))
        return self.ranges[start:after]


def port_ranges(used: Iterable[Ports]) -> list[tuple[str, int, int]]:
    """All ranges split at each other's ends: (protocol, first, last), sorted."""
    ranges: list[tuple[str, int, int]] = []
    wanted = {ports for ports in used if ports.protocol in _PROTOCOLS and not _is_all(ports)}
    for protocol in _PROTOCOLS:
        opened: Counter[int] = Counter()
        """How many more begin at a port than have ended before it."""
        for ports in wanted:
            if ports.protocol == protocol:
                opened[ports.first] += 1
                opened[ports.last + 1] -= 1
        there = 0
        for first, after in itertools.pairwise(sorted(opened)):
            there += opened[first]
            if there:
                ranges.append((protocol, first, after - 1))
    return sorted(ranges)


def port_classes(used: Iterable[Ports]) -> PortClasses:
    """A class for each of `port_ranges`. Raises ValueError where there are more than MAX_CLASS."""
    ranges = port_ranges(used)
    numbers = assign((f"{protocol}/{first}-{last}" for protocol, first, last in ranges), 1, MAX_CLASS)
    return PortClasses(ranges=tuple((*ports, numbers[f"{ports[0]}/{ports[1]}-{ports[2]}"]) for ports in ranges))


def _is_all(ports: Ports) -> bool:
    return ports.first == 0 and ports.last == 65535


class L4(NamedTuple):
    """The L4 fields of one flow policy entry; None: anything."""

    l4_class: tuple[int, int] | None = None
    source_port_class: int | None = None
    destination_port_class: int | None = None


_L4: Shared[L4] = Shared()


def used_ports(rule: Rule) -> Iterator[tuple[bool, Ports]]:
    """Which ports it is about that have classes, and whether as the source's."""
    for ports in () if rule.default else rule.ports:
        if ports.protocol in _PROTOCOLS and not _is_all(ports):
            yield rule.reply, ports


def port_entries(used: Iterable[tuple[bool, Ports]], classes: PortClasses, owner: str) -> tuple[OwnedEntry, ...]:
    """Of a node: the classes of all ports that its rules are about (`used_ports`)."""
    classes_used = {
        ("source_port_class" if is_source else "destination_port_class", range_class)
        for is_source, ports in used
        for range_class in classes.of(ports)
    }
    return tuple(_port_entry(table, *port_class, owner) for table, port_class in sorted(classes_used))


def flow_entry(flow: tuple[int, int | None, int | None, L4], rule: Rule) -> OwnedEntry:
    """What becomes of packets of a policy class from one group to another."""
    policy_class, source, destination, l4 = flow
    fields = ["policy_class"]
    match: list[int | None] = [policy_class, None, None, None]
    ternary = (
        ("source_group", source, _ALL_BITS),
        ("destination_group", destination, _ALL_BITS),
        ("l4_class", *(l4.l4_class or (None, None))),
        ("source_port_class", l4.source_port_class, _ALL_BITS),
        ("destination_port_class", l4.destination_port_class, _ALL_BITS),
    )
    for field, value, mask in ternary:
        if value is not None:
            fields.append(field)
            match += (value, mask, None, None)
    action, params = _action(rule)
    shape = _flow_shape(tuple(fields), action, tuple([name for name, _ in params]))
    return shape.entry(tuple(match), tuple([value for _, value in params]), rule.owner, priority=rule.priority)


@cache
def _flow_shape(fields: tuple[str, ...], action: str, params: tuple[str, ...]) -> Shape:
    return Shape("flow_policy", fields, action, params)


def outcome(rule: Rule) -> tuple[object, ...]:
    """What an entry says of a rule beside what it matches."""
    return rule.priority, rule.owner, rule.drop, rule.until_s, rule.forwarding_class, rule.asked_in, rule.reply


def group_entry(vrf: int, side: str, prefix: tuple[int, int], number: int, owner: str) -> OwnedEntry:
    """`side`: source or destination."""
    value, length = prefix
    return owned_entry(
        table=f"{side}_group",
        match=(Match(field="vrf", value=vrf), Match(field="address", value=value, prefix_length=length)),
        action=f"set_{side}_group",
        params=(("group", number),),
        owner=owner,
    )


def _action(rule: Rule) -> tuple[str, tuple[tuple[str, int], ...]]:
    """With its parameters."""
    if rule.drop is not None and rule.until_s is not None:
        return "drop_until", (("reason", int(rule.drop)), ("boottime_s", rule.until_s))
    if rule.drop is not None:
        return "drop", (("reason", int(rule.drop)),)
    permitted = ("forwarding_class", rule.forwarding_class)
    if not rule.asked_in:
        return "permit", (permitted,)
    return "permit_reply" if rule.reply else "permit_request", (permitted, ("network", rule.asked_in))


def l4_fields(rule: Rule, classes: PortClasses) -> list[L4]:
    return [*map(_L4, _l4_fields(rule, classes))]


def _l4_fields(rule: Rule, classes: PortClasses) -> list[L4]:
    if rule.default:
        return [L4()]
    if not rule.ports:
        if not rule.reply:
            return [L4()]
        replies = (L4Class.TCP, L4Class.UDP, L4Class.ECHO_REPLY, L4Class.OTHER)
        return [L4(l4_class=_as_reply(reply)) for reply in replies]
    fields: list[L4] = []
    for ports in rule.ports:
        if ports.protocol == "icmp":
            echo = _as_reply(L4Class.ECHO_REPLY) if rule.reply else _exactly(L4Class.ECHO_REQUEST)
            fields.append(L4(l4_class=echo))
            continue
        tcp = _as_reply(L4Class.TCP) if rule.reply else _ANY_TCP
        udp = _as_reply(L4Class.UDP) if rule.reply else _exactly(L4Class.UDP)
        l4 = udp if ports.protocol == "udp" else tcp
        if _is_all(ports):
            fields.append(L4(l4_class=l4))
            continue
        for _, _, _, number in classes.of(ports):
            if rule.reply:
                fields.append(L4(l4_class=l4, source_port_class=number))
            else:
                fields.append(L4(l4_class=l4, destination_port_class=number))
    return fields


def _exactly(kind: L4Class) -> tuple[int, int]:
    return int(kind), 0xF


def _as_reply(kind: L4Class) -> tuple[int, int]:
    """By another mask, so that it is another entry than that of a request which is about the very same packets: a reply
    that answers nothing is left to it. There are 8 classes."""
    return int(kind), 0x7


def _port_entry(table: str, protocol: str, first: int, last: int, number: int, owner: str) -> OwnedEntry:
    return owned_entry(
        table=table,
        match=(
            Match(field="protocol", value=_PROTOCOLS[protocol]),
            Match(field="port", value=first, high=last),
        ),
        priority=65536 - (last - first),  # a part of a range outranks the range, while both are there
        action=f"set_{table}",
        params=(("port_class", number),),
        owner=owner,
    )
