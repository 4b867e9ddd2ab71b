"""Entries of the nodes as people see them: each has a name that follows from its key, and so stays the same."""

import ipaddress
from collections.abc import Iterator

from controller.model.entry import Match, OwnedEntry
from controller.model.resource import Resource
from controller.reconcile.state import State

_ADDRESSES = {"source", "destination", "address", "service_sid", "via", "ipv6_src", "ipv6_dst"}


def resources(state: State, now_s: float) -> Iterator[Resource]:
    for name, node, entry in named_entries(state):
        yield Resource(
            kind="Entry",
            metadata={"name": name},
            spec={
                "node": node,
                "table": entry.table,
                "match": match_words(entry),
                "priority": entry.priority,
                "action": entry.action,
                "params": params_words(entry),
            },
            status={"owner": entry.owner, "confirmed": state.nodes[node].settled},
        )


def named_entries(state: State, *nodes: str) -> Iterator[tuple[str, str, OwnedEntry]]:
    """(name, node, entry), of all nodes if none is named."""
    return ((entry_name(node, entry), node, entry) for node, entry in entries(state, *nodes))


def entries(state: State, *nodes: str) -> Iterator[tuple[str, OwnedEntry]]:
    """The same without their names, which take longer to make than all else."""
    for node in nodes or state.nodes:
        standing = state.nodes[node]
        for entry in standing.state.entries if standing.state is not None else ():
            yield node, entry


def entry_name(node: str, entry: OwnedEntry) -> str:
    """`se1/steer/forwarding_class=17`: node, table and key, by which a table knows an entry. Fields that match anything
    are left out, as in the entry; what stands here is never put in other words, so that names last."""
    key = [f"{field_match.field}={_key(field_match)}" for field_match in entry.match]
    key += [f"priority={entry.priority}"] if entry.priority else []
    return f"{node}/{entry.table}/{','.join(key) or 'any'}"


def _key(match: Match) -> str:
    if match.field in _ADDRESSES:
        return _text(match, "~")
    value = str(match.value)
    if match.prefix_length is not None:
        return f"{value}/{match.prefix_length}"
    if match.mask is not None:
        return f"{value}~{match.mask:#x}"
    return value if match.high is None else f"{value}-{match.high}"


def match_words(entry: OwnedEntry) -> dict[str, str]:
    return {field_match.field: _text(field_match, " & ") for field_match in entry.match}


def _text(match: Match, mask: str) -> str:
    text = str(readable(match.field, match.value))
    if match.prefix_length is not None:
        mapped = match.value >> 32 == 0xFFFF and match.prefix_length >= 96
        return f"{text}/{match.prefix_length - 96 if mapped else match.prefix_length}"
    if match.mask is not None:
        return f"{text}{mask}{match.mask:#x}"
    return text if match.high is None else f"{text}-{match.high}"


def params_words(entry: OwnedEntry) -> dict[str, str | int]:
    return {name: readable(name, value) for name, value in entry.params if value or name != "vlan"}


def readable(name: str, value: int) -> str | int:
    if name in _ADDRESSES or name.startswith("container_"):
        mapped = value >> 32 == 0xFFFF
        return str(ipaddress.IPv4Address(value & 0xFFFFFFFF) if mapped else ipaddress.IPv6Address(value))
    if name.endswith("_mac"):
        return ":".join(f"{byte:02x}" for byte in value.to_bytes(6))
    return value
