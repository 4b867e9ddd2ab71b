"""Compiled rules against the rules read naively, on generated rules and packets."""

import ipaddress

from hypothesis import given, settings
from hypothesis import strategies as st

from controller.fulfillment.acl import (
    PortClasses,
    Rule,
    permit_priority,
    port_classes,
    port_entries,
    port_ranges,
    used_ports,
)
from controller.fulfillment.numbering import assign, prefix
from controller.model.entry import OwnedEntry
from controller.model.intent import Ports
from dataplane.reasons import DropReason, L4Class
from tests.full_rules import at_once

HOSTS = [f"10.0.{block}.{host}" for block in (0, 1) for host in (1, 2)]
PREFIXES = [*(f"{host}/32" for host in HOSTS), "10.0.0.0/24", "10.0.1.0/24", "10.0.0.0/16"]
SETS = st.lists(st.sampled_from(PREFIXES), min_size=1, max_size=3, unique=True).map(lambda some: tuple(sorted(some)))
EDGES = st.sampled_from([1, 22, 79, 80, 81, 443, 65535])
PORTS = st.just(Ports(protocol="icmp")) | st.builds(
    lambda protocol, a, b: Ports(protocol=protocol, first=min(a, b), last=max(a, b)),
    st.sampled_from(["tcp", "udp"]),
    EDGES,
    EDGES,
)
RULES = st.lists(
    st.builds(
        Rule,
        source=st.none() | SETS,
        destination=st.none() | SETS,
        ports=st.lists(PORTS, max_size=2).map(tuple),
        reply=st.booleans(),
        policy_class=st.just(7),
        forwarding_class=st.integers(1, 100),
        drop=st.none() | st.just(DropReason.ISOLATED),
        priority=st.just(0),
        owner=st.sampled_from(["intents/a", "intents/b"]),
    ),
    max_size=6,
).map(
    lambda rules: tuple(
        Rule(
            source=rule.source,
            destination=rule.destination,
            ports=rule.ports,
            reply=rule.reply,
            policy_class=rule.policy_class,
            forwarding_class=rule.forwarding_class,
            drop=rule.drop,
            priority=index + 1,
            owner=rule.owner,
        )
        for index, rule in enumerate(rules)
    )
)
PACKETS = st.tuples(st.sampled_from(HOSTS), st.sampled_from(HOSTS), st.sampled_from(L4Class), EDGES, EDGES)
Packet = tuple[str, str, L4Class, int, int]


def naive(rules: tuple[Rule, ...], packet: Packet) -> tuple[str, int] | None:
    """The decision of the rule with the highest priority that is about the packet."""
    hits = [rule for rule in rules if about(rule, packet)]
    best = max(hits, key=lambda rule: rule.priority, default=None)
    if best is None:
        return None
    return ("permit", best.forwarding_class) if best.drop is None else ("drop", int(best.drop))


def about(rule: Rule, packet: Packet) -> bool:
    source, destination, kind, source_port, destination_port = packet
    for prefixes, address in ((rule.source, source), (rule.destination, destination)):
        if prefixes is not None and not any(
            ipaddress.ip_address(address) in ipaddress.ip_network(text) for text in prefixes
        ):
            return False
    if not rule.ports:
        return not rule.reply or kind in (L4Class.TCP, L4Class.UDP, L4Class.ECHO_REPLY, L4Class.OTHER)
    port = source_port if rule.reply else destination_port
    kinds = {
        "tcp": {L4Class.TCP} if rule.reply else {L4Class.TCP, L4Class.TCP_OPEN},
        "udp": {L4Class.UDP},
        "icmp": {L4Class.ECHO_REPLY} if rule.reply else {L4Class.ECHO_REQUEST},
    }
    return any(
        kind in kinds[ports.protocol] and (ports.protocol == "icmp" or ports.first <= port <= ports.last)
        for ports in rule.ports
    )


def look_up(entries: tuple[OwnedEntry, ...], packet: Packet) -> tuple[str, int] | None:
    source, destination, kind, source_port, destination_port = packet
    protocol = {L4Class.TCP: 6, L4Class.TCP_OPEN: 6, L4Class.UDP: 17}.get(kind, 1)
    key = {
        "source_group": longest(entries, "source_group", source),
        "destination_group": longest(entries, "destination_group", destination),
        "l4_class": int(kind),
        "source_port_class": port_class(entries, "source_port_class", protocol, source_port),
        "destination_port_class": port_class(entries, "destination_port_class", protocol, destination_port),
    }
    hits = [
        entry
        for entry in entries
        if entry.table == "flow_policy"
        and all((key[match.field] ^ match.value) & (match.mask or 0) == 0 for match in entry.match[1:])
    ]
    best = max(hits, key=lambda entry: entry.priority, default=None)
    return None if best is None else (best.action, best.params[0][1])


def longest(entries: tuple[OwnedEntry, ...], table: str, address: str) -> int:
    value = prefix(f"{address}/32")[0]
    hits = [
        (entry.match[1].prefix_length or 0, entry.params[0][1])
        for entry in entries
        if entry.table == table and (value ^ entry.match[1].value) >> (128 - (entry.match[1].prefix_length or 0)) == 0
    ]
    return max(hits, default=(0, 0))[1]


def port_class(entries: tuple[OwnedEntry, ...], table: str, protocol: int, port: int) -> int:
    hits = [
        (entry.priority, entry.params[0][1])
        for entry in entries
        if entry.table == table
        and entry.match[0].value == protocol
        and entry.match[1].value <= port <= (entry.match[1].high or 0)
    ]
    return max(hits, default=(0, 0))[1]


@given(RULES, st.lists(PACKETS, min_size=20, max_size=40))
@settings(max_examples=300, deadline=None)
def test_entries_decide_as_the_rules_do(rules: tuple[Rule, ...], packets: list[Packet]) -> None:
    classes = port_classes(ports for rule in rules for ports in rule.ports)
    entries = (
        *at_once(9, rules, classes),
        *port_entries({use for rule in rules for use in used_ports(rule)}, classes, "nodes/n"),
    )
    for packet in packets:
        assert look_up(entries, packet) == naive(rules, packet), packet


@given(RULES)
@settings(max_examples=200, deadline=None)
def test_a_policy_class_has_few_masks_and_no_key_twice(rules: tuple[Rule, ...]) -> None:
    classes = port_classes(ports for rule in rules for ports in rule.ports)
    entries = (
        *at_once(9, rules, classes),
        *port_entries({use for rule in rules for use in used_ports(rule)}, classes, "nodes/n"),
    )
    masks = {
        tuple((match.field, match.mask) for match in entry.match[3:])
        for entry in entries
        if entry.table == "flow_policy"
        and {"source_group", "destination_group"} <= {match.field for match in entry.match}
    }
    keys = [(entry.table, entry.match, entry.priority) for entry in entries]
    assert len(set(keys)) == len(keys)
    # anything, any TCP (and port), one class (and its source or destination port); two more for defaults and
    # isolation: an agent takes 16 in a policy class
    assert len(masks) <= 6


@given(RULES, RULES)
@settings(max_examples=200, deadline=None)
def test_numbers_of_groups_do_not_depend_on_other_rules(rules: tuple[Rule, ...], others: tuple[Rule, ...]) -> None:
    keys = [f"{rule.source}" for rule in rules]
    alone, together = assign(keys, 1, 65535), assign([*keys, *(f"{rule.source}" for rule in others)], 1, 65535)
    assert all(together[key] == number for key, number in alone.items())


def test_port_ranges_are_split_at_each_others_ends() -> None:
    classes = port_classes([Ports(protocol="tcp", first=1, last=1000), Ports(protocol="tcp", first=443, last=443)])
    assert [port_range[1:3] for port_range in classes.ranges] == [(1, 442), (443, 443), (444, 1000)]
    assert len({port_range[3] for port_range in classes.ranges}) == 3
    assert PortClasses().of(Ports(protocol="tcp", first=1, last=2)) == ()


PORTS = st.builds(
    lambda protocol, first, other: Ports(protocol=protocol, first=min(first, other), last=max(first, other)),
    st.sampled_from(("tcp", "udp", "icmp")),
    st.integers(0, 40),
    st.integers(0, 40),
)


@given(st.lists(PORTS, max_size=12))
@settings(max_examples=200, deadline=None)
def test_port_ranges_are_what_the_same_of_all_ports_are_about(used: list[Ports]) -> None:
    for protocol in ("tcp", "udp"):
        mine = [ports for ports in used if ports.protocol == protocol]
        about = {port: {ports for ports in mine if ports.first <= port <= ports.last} for port in range(42)}
        ranges = [(first, last) for name, first, last in port_ranges(used) if name == protocol]
        assert {port for first, last in ranges for port in range(first, last + 1)} == {
            number for number in about if about[number]
        }
        for first, last in ranges:
            assert all(about[port] == about[first] for port in range(first, last + 1))


def test_older_wins_among_equal_priorities() -> None:
    assert permit_priority(100, 1) > permit_priority(100, 2) > permit_priority(99, 1)
    assert permit_priority(1, 1 << 19) >= 1 and permit_priority(1000, 0) < 1 << 31
