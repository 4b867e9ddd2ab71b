"""Who may reach whom in one context -> entries of the group, port class and flow policy tables.

Prefixes become disjoint groups (atoms: the addresses that the same rules are about), port ranges become disjoint
classes. Both get their numbers from their content, so that a change elsewhere leaves them alone.
"""

import bisect
import itertools
from collections.abc import Iterable
from typing import TypedDict

import msgspec

from controller.fulfillment.numbering import assign, prefix
from controller.model.entry import Entry, Match
from controller.model.intent import Ports, Value
from dataplane.reasons import DropReason, L4Class

MAX_SERIAL = (1 << 20) - 1
"""With 1,000 priorities of intents above it, all that the 31 bits of a P4Runtime priority have room for."""
ISOLATE_PRIORITY = 1000
DEFAULT_PRIORITY = 1
_PROTOCOLS = {"tcp": 6, "udp": 17}
MAX_CLASS = 255
MAX_STEPS = 1 << 18
"""Of compiling the rules of one context."""
_MAX_GROUP = 0x7FFF
_ATTACHED = 0x8000
"""Bit of the source groups of hosts that are attached to the node: an entry can mean all of them."""
_ANY_TCP = (int(L4Class.TCP_OPEN), 0xE)


class NoRoom(Exception):
    """One context needs more of a table than any node has. It is found before the entries are made."""

    def __init__(self, table: str, needed: int, node: str = "") -> None:
        super().__init__(f"table {table} of {node}: {needed} entries are needed")
        self.table = table
        self.needed = needed
        self.node = node


class Rule(Value, frozen=True, kw_only=True):
    """One thing that is permitted (`leg`) or dropped (`drop`) in a context."""

    source: tuple[str, ...] | None
    """Prefixes; None: anybody."""
    attached: bool = False
    """Of anybody, only hosts that are attached to this node."""
    destination: tuple[str, ...] | None
    ports: tuple[Ports, ...] = ()
    """Of the service. Empty: everything."""
    reply: bool = False
    """From the service: its ports are source ports, and TCP is never opened. ICMP errors are judged by what they are
    about, in both directions, so no rule is about them."""
    default: bool = False
    """Ports and classes do not matter."""
    leg: int = 0
    network: int = 0
    """By whose index edges remember who asked: requests open a conversation, replies need one. 0: nobody does."""
    drop: DropReason | None = None
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
        mine = [ports for ports in wanted if ports.protocol == protocol]
        cuts = sorted({ports.first for ports in mine} | {ports.last + 1 for ports in mine})
        for first, after in itertools.pairwise(cuts):
            if any(ports.first <= first and after - 1 <= ports.last for ports in mine):
                ranges.append((protocol, first, after - 1))
    return sorted(ranges)


def port_classes(used: Iterable[Ports]) -> PortClasses:
    """A class for each of `port_ranges`. Raises ValueError where there are more than MAX_CLASS."""
    ranges = port_ranges(used)
    numbers = assign((f"{protocol}/{first}-{last}" for protocol, first, last in ranges), 1, MAX_CLASS)
    return PortClasses(ranges=tuple((*one, numbers[f"{one[0]}/{one[1]}-{one[2]}"]) for one in ranges))


def _is_all(ports: Ports) -> bool:
    return ports.first == 0 and ports.last == 65535


class _L4(msgspec.Struct, frozen=True):
    """The L4 fields of one flow policy entry; None: anything."""

    l4_class: tuple[int, int] | None = None
    source_port_class: int | None = None
    destination_port_class: int | None = None


def compile_rules(
    context: int, rules: tuple[Rule, ...], classes: PortClasses, attached: tuple[str, ...] = ()
) -> tuple[Entry, ...]:
    """All entries of `context` for `rules`, not sorted.

    Where two rules permit the very same, only the one with the higher priority is compiled: of equals that of the
    first owner by name, and of one owner's the last, since it is of the plan that takes over. `attached`: prefixes of
    the hosts that rules with `attached` are about. Raises NoRoom.
    """
    of_attached = [(attached, rule.owner) for rule in rules if rule.attached]
    source_entries, sources = _groups(
        context, "source_group", [*((rule.source, rule.owner) for rule in rules), *of_attached], attached
    )
    destination_entries, destinations = _groups(
        context, "destination_group", [(rule.destination, rule.owner) for rule in rules]
    )
    best: dict[tuple[Match, ...], tuple[int, Rule]] = {}
    port_entries: dict[tuple[str, str, int, int], Entry] = {}
    contents = [
        (rule, (_ANY_ATTACHED,) if rule.attached else sources[rule.source], *_l4(rule, classes)) for rule in rules
    ]
    steps = sum(len(groups) * len(destinations[rule.destination]) * len(fields) for rule, groups, fields, _ in contents)
    if steps > MAX_STEPS:
        raise NoRoom("flow_policy", steps)
    for rule, groups, fields, used in contents:
        for entry in used:
            port_entries.setdefault((entry.table, str(entry.match[0].value), entry.match[1].value, 0), entry)
        for source in groups:
            for destination in destinations[rule.destination]:
                for l4 in fields:
                    match = _match(context, source, destination, l4)
                    held = best.get(match)
                    if held is None or (rule.priority, held[1].owner) >= (held[0], rule.owner):
                        best[match] = (rule.priority, rule)
    policies = [
        Entry(table="flow_policy", match=match, priority=priority, owner=rule.owner, **_action(rule))
        for match, (priority, rule) in best.items()
    ]
    return (*source_entries, *destination_entries, *port_entries.values(), *policies)


class _Action(TypedDict):
    action: str
    params: tuple[tuple[str, int], ...]


def _action(rule: Rule) -> _Action:
    if rule.drop is not None:
        return _Action(action="drop", params=(("reason", int(rule.drop)),))
    if not rule.network:
        return _Action(action="permit", params=(("leg", rule.leg),))
    action = "permit_reply" if rule.reply else "permit_request"
    return _Action(action=action, params=(("leg", rule.leg), ("network", rule.network)))


Group = tuple[int, int]
"""Value and mask."""
_ANY_ATTACHED: Group = (_ATTACHED, _ATTACHED)


def _groups(
    context: int, table: str, wanted: list[tuple[tuple[str, ...] | None, str]], attached: tuple[str, ...] = ()
) -> tuple[list[Entry], dict[tuple[str, ...] | None, tuple[Group | None, ...]]]:
    """Entries of a group table, and the groups of each set of prefixes (None of `None`: any).

    Groups inside the set `attached` (if it is wanted) have the bit `_ATTACHED`.
    """
    owners: dict[tuple[str, ...], str] = {}
    for prefixes, owner in wanted:
        if prefixes is not None:
            owners[prefixes] = min(owner, owners.get(prefixes, owner))
    holders: dict[tuple[int, int], list[tuple[str, ...]]] = {}
    for prefixes in sorted(owners):
        for text in prefixes:
            holders.setdefault(prefix(text), []).append(prefixes)
    if len(holders) > _MAX_GROUP:
        raise NoRoom(table, len(holders))
    lengths = sorted({length for _, length in holders})
    atoms: dict[tuple[int, int], str] = {}
    members: dict[str, list[tuple[str, ...]]] = {}
    closest: dict[tuple[int, int], tuple[str, ...]] = {}
    for value, length in holders:
        inside: list[tuple[str, ...]] = []
        for shorter in lengths:
            if shorter <= length:
                inside += holders.get((value >> (128 - shorter) << (128 - shorter), shorter), ())
        key = "|".join(",".join(prefixes) for prefixes in sorted(set(inside)))
        atoms[value, length] = key
        members[key] = sorted(set(inside))
        closest[value, length] = holders[value, length][0]
    numbers = assign((key for key, sets in members.items() if attached not in sets), 1, _MAX_GROUP)
    numbers |= assign((key for key in members if key not in numbers), _ATTACHED, _ATTACHED + _MAX_GROUP)
    action = f"set_{table}"
    entries = [
        Entry(
            table=table,
            match=(
                Match(field="context", value=context),
                Match(field="address", value=value, prefix_length=length),
            ),
            action=action,
            params=(("group", numbers[key]),),
            owner=owners[closest[value, length]],
        )
        for (value, length), key in atoms.items()
    ]
    groups: dict[tuple[str, ...] | None, tuple[Group | None, ...]] = {None: (None,)}
    for prefixes in owners:
        groups[prefixes] = tuple((numbers[key], 0xFFFF) for key, sets in members.items() if prefixes in sets)
    return entries, groups


def _l4(rule: Rule, classes: PortClasses) -> tuple[list[_L4], list[Entry]]:
    if rule.default:
        return [_L4()], []
    if not rule.ports:
        if not rule.reply:
            return [_L4()], []
        replies = (L4Class.TCP, L4Class.UDP, L4Class.ECHO_REPLY, L4Class.OTHER)
        return [_L4(l4_class=_as_reply(one)) for one in replies], []
    fields: list[_L4] = []
    entries: list[Entry] = []
    for ports in rule.ports:
        if ports.protocol == "icmp":
            echo = _as_reply(L4Class.ECHO_REPLY) if rule.reply else _exactly(L4Class.ECHO_REQUEST)
            fields.append(_L4(l4_class=echo))
            continue
        tcp = _as_reply(L4Class.TCP) if rule.reply else _ANY_TCP
        udp = _as_reply(L4Class.UDP) if rule.reply else _exactly(L4Class.UDP)
        l4 = udp if ports.protocol == "udp" else tcp
        if _is_all(ports):
            fields.append(_L4(l4_class=l4))
            continue
        table = "source_port_class" if rule.reply else "destination_port_class"
        for protocol, first, last, number in classes.of(ports):
            entries.append(_port_entry(table, protocol, first, last, number, rule.owner))
            if rule.reply:
                fields.append(_L4(l4_class=l4, source_port_class=number))
            else:
                fields.append(_L4(l4_class=l4, destination_port_class=number))
    return fields, entries


def _exactly(kind: L4Class) -> tuple[int, int]:
    return int(kind), 0xF


def _as_reply(kind: L4Class) -> tuple[int, int]:
    """By another mask, so that it is another entry than that of a request which is about the very same packets: a reply
    that answers nothing is left to it. There are 8 classes."""
    return int(kind), 0x7


def _port_entry(table: str, protocol: str, first: int, last: int, number: int, owner: str) -> Entry:
    return Entry(
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


def _match(context: int, source: Group | None, destination: Group | None, l4: _L4) -> tuple[Match, ...]:
    match = [Match(field="context", value=context)]
    if source is not None:
        match.append(Match(field="source_group", value=source[0], mask=source[1]))
    if destination is not None:
        match.append(Match(field="destination_group", value=destination[0], mask=destination[1]))
    if l4.l4_class is not None:
        match.append(Match(field="l4_class", value=l4.l4_class[0], mask=l4.l4_class[1]))
    if l4.source_port_class is not None:
        match.append(Match(field="source_port_class", value=l4.source_port_class, mask=0xFF))
    if l4.destination_port_class is not None:
        match.append(Match(field="destination_port_class", value=l4.destination_port_class, mask=0xFF))
    return tuple(match)
