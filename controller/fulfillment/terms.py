"""Whether terms are well formed: what every domain checks alike, whatever its policy says."""

from collections.abc import Sequence

from controller.fulfillment.translate import inside
from controller.model.agreement import CAPABILITIES, MAX_FLOWS, MAX_ITEMS, Alias, Flow, TunnelEnd
from controller.model.intent import Ports
from controller.model.inventory import Domain
from dataplane import addressing

_FLOW_ITEMS = 1000


def flows_objection(flows: Sequence[Flow], origin: str) -> str:
    """Why these are no flows that `origin` may ask for; empty: they are."""
    if not 1 <= len(flows) <= MAX_FLOWS:
        return f"expected 1 to {MAX_FLOWS} flows, found {len(flows)}"
    items = sum(len(flow.source_prefixes) + len(flow.destination_prefixes) + len(flow.ports) for flow in flows)
    if items > MAX_ITEMS:
        return f"expected at most {MAX_ITEMS} prefixes and ports, found {items}"
    if len(ends(flows)) != 1:
        return "all flows of an offer must lead from one network to one network"
    if flows[0].source.split("/")[0] != origin:
        return f"{origin} cannot ask for traffic from {flows[0].source}"
    for flow in flows:
        if reason := _flow_objection(flow):
            return f"flow to {flow.destination}: {reason}"
    return ""


def ends(flows: Sequence[Flow]) -> set[tuple[str, str]]:
    """Networks from and to which they lead."""
    return {(flow.source, network_of(flow.destination)) for flow in flows}


def network_of(destination: str) -> str:
    """Of a service or network."""
    return "/".join(destination.split("/")[:2])


def _flow_objection(flow: Flow) -> str:
    if not flow.source_prefixes or not flow.destination_prefixes:
        return "it has no prefixes"
    if len(flow.source_prefixes) + len(flow.destination_prefixes) + len(flow.ports) > _FLOW_ITEMS:
        return f"it has more than {_FLOW_ITEMS} prefixes and ports"
    for text in (*flow.source_prefixes, *flow.destination_prefixes):
        try:
            addressing.host_prefix(text)
        except ValueError as error:
            return str(error)
    for ports in flow.ports:
        known = ports.protocol in ("tcp", "udp", "icmp")
        if not known or not 0 <= ports.first <= ports.last <= 65535:
            return f"ports {ports.protocol}/{ports.first}-{ports.last} are none"
    return ""


def views_objection(source_prefixes: Sequence[str], destination_aliases: Sequence[Alias]) -> str:
    """Why networks cannot know each other so; empty: they can."""
    try:
        for text in source_prefixes:
            addressing.host_prefix(text)
    except ValueError as error:
        return str(error)
    return aliases_objection(destination_aliases)


def aliases_objection(aliases: Sequence[Alias], prefixes: Sequence[str] | None = None) -> str:
    """Why these are no aliases, of `prefixes` if they are given; empty: they are."""
    known: list[tuple[addressing.Network, addressing.Network]] = []
    for alias in aliases:
        try:
            prefix, other = addressing.host_prefix(alias.prefix), addressing.host_prefix(alias.alias)
        except ValueError as error:
            return f"an alias is malformed: {error}"
        if (prefix.version, prefix.prefixlen) != (other.version, other.prefixlen):
            return f"{alias.prefix} cannot be known as {alias.alias}: they have not the same length"
        if prefixes is not None and alias.prefix not in prefixes:
            return f"{alias.prefix} is none of the prefixes that may be known under others"
        for before, before_other in known:
            if addressing.overlap(prefix, before) or addressing.overlap(other, before_other):
                return f"{alias.prefix} as {alias.alias} meets {before} as {before_other}"
        known.append((prefix, other))
    return ""


def covers(wide: Sequence[Flow], flow: Flow) -> bool:
    """Whether one of the flows `wide` has all of `flow`. Both are well formed."""
    return any(_covers(wider, flow) for wider in wide)


def _covers(wide: Flow, flow: Flow) -> bool:
    if (wide.source, wide.destination) != (flow.source, flow.destination):
        return False
    if wide.ports and not (flow.ports and all(_is_among(ports, wide.ports) for ports in flow.ports)):
        return False
    return _are_inside(flow.source_prefixes, wide.source_prefixes) and _are_inside(
        flow.destination_prefixes, wide.destination_prefixes
    )


def _is_among(ports: Ports, wide: Sequence[Ports]) -> bool:
    return any(inside(ports, wider) for wider in wide)


def _are_inside(prefixes: Sequence[str], wide: Sequence[str]) -> bool:
    """Mostly they are the same texts."""
    rest = set(prefixes) - set(wide)
    if not rest:
        return True
    outer = [addressing.prefix(text) for text in wide]
    return all(any(addressing.inside(addressing.prefix(text), wider) for wider in outer) for text in rest)


def needs_objection(needs: Sequence[str], own: str) -> str:
    """What is needed and this release cannot do."""
    missing = sorted(set(needs) - set(CAPABILITIES))
    return f"the release of {own} has not what is needed: {', '.join(missing)}; upgrade it" if missing else ""


def end_objection(end: TunnelEnd, peer: Domain) -> str:
    """Why a tunnel to `end` cannot be made."""
    try:
        sid, block = addressing.sid(end.sid), addressing.sid_block(peer.sid_block)
        addressing.key(end.public_key)
        addressing.endpoint(end.endpoint)
    except ValueError as error:
        return f"the tunnel's end is malformed: {error}"
    if sid not in block:
        return f"SID {sid} is not in {peer.name}'s block {block}"
    if not 1000 <= end.inner_mtu <= 65535:
        return f"an inner MTU of {end.inner_mtu} is not supported"
    return ""
