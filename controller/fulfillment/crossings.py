"""OpenFlow switches on a path: the container passes them untouched, so each is told the way of each SR Policy.

```
 se1 (XDP) ────── s1 (OpenFlow) ────── s2 (OpenFlow) ────── ie1 (XDP)
   H.Encaps to          in_port, ipv6_src = headend,             End, End.DT46
   [ie1 ...]            ipv6_dst = ie1's locator,
                        ipv6_flabel = color -> port
```

A shift of the destination is beyond OpenFlow 1.3, so such a node is no segment: the container names the next node that
is one. The color is the number of the SR Policy at its headend, whose locator is the source of what it sends.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from controller.fulfillment import numbering
from controller.model.entry import Match, OwnedEntry, owned_entry
from controller.model.openflow import PRIORITY, TABLE

COLOR_MASK = 0x7FFC0
"""Of the flow label: 13 bits of color after a zero, before 6 of entropy (p4src/sr_policy.p4)."""

_IPV6 = 0x86DD
_LABEL, _HOP_LIMIT, _SOURCE, _DESTINATION = slice(14, 18), 21, slice(22, 38), slice(38, 54)
"""Where they are in a frame without a tag."""


class Crossing(msgspec.Struct, frozen=True, kw_only=True):
    """Of one OpenFlow switch, by one path in one direction."""

    node: str
    in_port: int
    out_port: int
    next_segment: int
    """Locator of the next node on the path that is a segment."""
    onward: tuple[str, int]
    """The node behind the port, and its port."""


def color(sr_policy: int) -> int:
    return sr_policy & 0x1FFF


def node_entries(name: str) -> list[OwnedEntry]:
    """What nobody has asked for is dropped; LLDP goes to the controller."""
    owner = f"nodes/{name}"
    lldp = (Match(field="eth_type", value=numbering.ETHERTYPE_LLDP),)
    return [
        owned_entry(table=TABLE, match=(), action="drop", owner=owner),
        owned_entry(table=TABLE, match=lldp, priority=PRIORITY, action="punt", owner=owner),
    ]


def crossing_entries(
    sr_policy: int,
    source: int,
    crossings: Iterable[Crossing],
    macs: Mapping[tuple[str, int], int],
    owner: str,
) -> dict[str, tuple[OwnedEntry, ...]]:
    """By node; those that need a MAC that no node has told yet are left out. `source`: locator of the headend."""
    entries: dict[str, list[OwnedEntry]] = {}
    for crossing in crossings:
        own, other = macs.get((crossing.node, crossing.out_port)), macs.get(crossing.onward)
        of_node = entries.setdefault(crossing.node, [])
        if own is None or other is None:
            continue
        match = (
            Match(field="in_port", value=crossing.in_port),
            Match(field="ipv6_src", value=source),
            Match(field="ipv6_dst", value=crossing.next_segment, prefix_length=48),
            Match(field="ipv6_flabel", value=color(sr_policy) << 6, mask=COLOR_MASK),
        )
        params = (("port", crossing.out_port), ("source_mac", own), ("destination_mac", other))
        of_node.append(
            owned_entry(table=TABLE, match=match, priority=PRIORITY, action="forward", params=params, owner=owner)
        )
    return {node: tuple(of_node) for node, of_node in entries.items()}


def look_up(entries: Iterable[OwnedEntry], port: int, frame: bytes) -> OwnedEntry | None:
    """Which entry a switch takes for a frame: of those that match it that of the highest priority."""
    fields = {"in_port": port, "eth_type": int.from_bytes(frame[12:14])}
    if fields["eth_type"] == _IPV6:
        label, source, target = frame[_LABEL], frame[_SOURCE], frame[_DESTINATION]
        fields |= {
            "ipv6_flabel": int.from_bytes(label) & 0xFFFFF,
            "ipv6_src": int.from_bytes(source),
            "ipv6_dst": int.from_bytes(target),
        }
    matching = (entry for entry in entries if all(_matches(each, fields.get(each.field)) for each in entry.match))
    return max(matching, key=lambda entry: entry.priority, default=None)


def _matches(match: Match, value: int | None) -> bool:
    if value is None:
        return False
    mask = match.mask if match.mask is not None else -1
    if match.prefix_length is not None:
        mask = -1 << 128 - match.prefix_length
    return value & mask == match.value


def forwarded(entry: OwnedEntry, frame: bytes) -> tuple[int, bytes]:
    """By which port a frame goes on that `forward` was said for, and how it looks then."""
    params = dict(entry.params)
    macs = params["destination_mac"].to_bytes(6) + params["source_mac"].to_bytes(6)
    hops = bytes((max(frame[_HOP_LIMIT] - 1, 0),))
    return params["port"], macs + frame[12:_HOP_LIMIT] + hops + frame[_HOP_LIMIT + 1 :]


def crossings(
    nodes: Sequence[str],
    links: Sequence[str],
    switches: frozenset[str],
    locators: Mapping[str, int],
    ports: Mapping[tuple[str, str], int],
) -> tuple[Crossing, ...]:
    """Of the OpenFlow switches on a path. `ports`: by link and node."""
    crossed = []
    for place in range(1, len(nodes) - 1):
        node = nodes[place]
        if node not in switches:
            continue
        arrives, leaves, behind = links[place - 1], links[place], nodes[place + 1]
        crossed.append(
            Crossing(
                node=node,
                in_port=ports[arrives, node],
                out_port=ports[leaves, node],
                next_segment=locators[next(name for name in nodes[place + 1 :] if name not in switches)],
                onward=(behind, ports[leaves, behind]),
            )
        )
    return tuple(crossed)
