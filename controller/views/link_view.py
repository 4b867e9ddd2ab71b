"""What is known of links, and by whom: the operator's manifests, and what nodes hear (LLDP), measure (STAMP) and say of
their ports.

The operator's word counts for paths. What others say otherwise is shown as a difference; a link that is discovered
alone is shown, and is not used.
"""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from controller.model.discovery import PortMeasurement, RemoteSystem, Source, Statement, agree, prevailing
from controller.model.inventory import Link, LinkEnd
from controller.model.phases import DISCOVERED
from controller.model.resource import Resource
from controller.reconcile import facts
from controller.reconcile.state import State
from dataplane.host_api import PortRole

NOT_USED = "nobody has declared it: not used; apply a manifest with its ends, delay_ms, rate_mbit and mtu"

_DIFFERENCES = {Source.DISCOVERY: "differences", Source.MEASUREMENT: "measured_differences"}
"""Fields. What is measured is never quite what was declared: that is no fault of the link."""


def status(state: State, link: Link) -> dict[str, Any]:
    """Who says what of a declared link, what of it counts, and where they differ."""
    measured = [*facts.measurements(link, state.nodes, state.ticked_s)]
    said = [*_declared(state, link), *_discovered(state, link), *_measured(measured)]
    counting = prevailing(said)
    differences: dict[Source, list[str]] = {}
    for one in said:
        if not agree(one.what, counting[one.what].value, one.value):
            differences.setdefault(one.source, []).append(_difference(counting[one.what], one))
    heard = [one for one in said if one.source == Source.DISCOVERY and one.what != "mtu"]
    found: dict[str, Any] = {
        "source": str(Source.OPERATOR),
        "facts": {what: {"value": one.value, "source": str(one.source)} for what, one in sorted(counting.items())},
        "said": [msgspec.to_builtins(one) for one in said],
    }
    if link.b is not None:
        differs = Source.DISCOVERY in differences
        found["discovery"] = "differs" if differs else "confirmed" if heard else "not heard"
    if measured:
        found["measured"] = [
            {
                "by": f"{end.node} port {end.port}, by STAMP",
                "latency_ms": measurement.delay_us / 1000,
                "loss_percent": measurement.loss_percent,
                "at_s": measurement.at_s,
            }
            for end, measurement in measured
        ]
    known = state.link_delays.get(link.name)
    if known is not None and known.counts_us is not None:
        found["delay_in_paths"] = {
            "latency_ms": known.counts_us / 1000,
            "declared_ms": link.delay_us / 1000,
            "since_s": int(known.since_s),
        }
    for source, field in _DIFFERENCES.items():
        found |= {field: sorted(differences[source])} if source in differences else {}
    return found


def _difference(counting: Statement, other: Statement) -> str:
    return (
        f"{counting.by} ({counting.source}) says {counting.what}: {counting.value}, "
        f"{other.by} ({other.source}) says {other.value}"
    )


def _measured(measured: Iterable[tuple[LinkEnd, PortMeasurement]]) -> Iterator[Statement]:
    for end, measurement in measured:
        by, at_s = f"{end.node} port {end.port}, by STAMP", measurement.at_s
        for what, value in (("delay_ms", measurement.delay_us / 1000), ("loss_percent", measurement.loss_percent)):
            yield Statement(what=what, value=f"{value:g}", source=Source.MEASUREMENT, by=by, at_s=at_s)


def _declared(state: State, link: Link) -> Iterator[Statement]:
    provenance = state.provenance.get(f"links/{link.name}")
    by, at_s = (provenance.by, provenance.at_s) if provenance is not None else (str(Source.OPERATOR), None)
    if link.b is not None:
        for near, far in ((link.a, link.b), (link.b, link.a)):
            yield Statement(what=_behind(near), value=_end(far), source=Source.OPERATOR, by=by, at_s=at_s)
    declared = {"mtu": str(link.mtu), "delay_ms": f"{link.delay_us / 1000:g}"}
    declared |= {"loss_percent": f"{link.loss_percent:g}"} if link.loss_percent is not None else {}
    for what, value in declared.items():
        yield Statement(what=what, value=value, source=Source.OPERATOR, by=by, at_s=at_s)


def _discovered(state: State, link: Link) -> Iterator[Statement]:
    if link.b is None:  # of another domain's nodes nothing is heard: tunnels carry no LLDP
        return
    for near, far in ((link.a, link.b), (link.b, link.a)):
        heard = _heard(state, near)
        # who is declared there and is heard is there; who is heard beside it is in the node's status
        for remote in [one for one in heard if _is(one, far)] or heard:
            yield Statement(
                what=_behind(near),
                value=_named(remote),
                source=Source.DISCOVERY,
                by=f"{near.node} port {near.port}, by LLDP",
                at_s=remote.since_s,
            )
        standing = state.nodes.get(near.node)
        for port in standing.description.ports if standing is not None and standing.description is not None else ():
            if port.number == near.port and port.role == PortRole.FABRIC and port.mac and port.mtu < link.mtu:
                yield Statement(
                    what="mtu", value=str(port.mtu), source=Source.DISCOVERY, by=f"{near.node} port {near.port}"
                )


def undeclared(state: State) -> Iterator[Resource]:
    """Links of which nodes hear the other end, at ports where none is declared; by name."""
    declared = {
        (end.node, end.port)
        for link in state.inventory.links.values()
        for end in (link.a, link.b)
        if end is not None and not end.border
    }
    found: dict[str, Resource] = {}
    for node, standing in sorted(state.nodes.items()):
        for remote in standing.remote_systems:
            if (node, remote.port) not in declared:
                resource = _undeclared(state, LinkEnd(node=node, port=remote.port), remote)
                found.setdefault(str(resource.metadata["name"]), resource)
    for name, resource in found.items():
        if name in state.inventory.links:  # a declared link with other ends is called as this would be
            name += "-undeclared"
            resource = msgspec.structs.replace(resource, metadata=resource.metadata | {"name": name})
        yield resource


def _undeclared(state: State, near: LinkEnd, remote: RemoteSystem) -> Resource:
    far = LinkEnd(node=remote.node, port=remote.node_port)
    is_ours = remote.node in state.inventory.nodes
    ends = sorted((near, far), key=lambda end: (end.node, end.port)) if is_ours else [near]
    if is_ours:
        name = "discovered-" + "-".join(f"{end.node}-{end.port}" for end in ends)
    else:
        digest = hashlib.sha256(f"{remote.chassis_id} {remote.port_id}".encode()).hexdigest()[:8]
        name = f"discovered-{near.node}-{near.port}-{digest}"
    hearing = [end for end in ends if any(_is(one, other) for other in ends for one in _heard(state, end))]
    said = [
        Statement(
            what=_behind(end),
            value=_named(one),
            source=Source.DISCOVERY,
            by=f"{end.node} port {end.port}, by LLDP",
            at_s=one.since_s,
        )
        for end in hearing or [near]
        for one in _heard(state, end)
        if not is_ours or any(_is(one, other) for other in ends)
    ]
    reason = NOT_USED
    if is_ours and len(hearing) < len(ends):
        deaf = next(end for end in ends if end not in hearing)
        reason = f"only one end hears the other: {deaf.node} port {deaf.port} does not; {NOT_USED}"
    elif not is_ours:
        reason = f"what is heard there is no node of this domain: {_named(remote)}"
        said = [one for one in said if one.value == _named(remote)]
    spec = {key: {"node": end.node, "port": end.port} for key, end in zip("ab", ends, strict=False)}
    status = {
        "phase": DISCOVERED,
        "source": str(Source.DISCOVERY),
        "discovery": "heard by both ends" if len(hearing) == 2 else "heard by one end",
        "in_use": False,
        "conditions": [{"type": DISCOVERED, "reason": reason}],
        "said": [msgspec.to_builtins(one) for one in said],
    }
    return Resource(kind="Link", metadata={"name": name}, spec=spec, status=status)


def _heard(state: State, end: LinkEnd) -> list[RemoteSystem]:
    standing = state.nodes.get(end.node)
    return [one for one in standing.remote_systems if one.port == end.port] if standing is not None else []


def _is(remote: RemoteSystem, end: LinkEnd) -> bool:
    return (remote.node, remote.node_port) == (end.node, end.port)


def _behind(end: LinkEnd) -> str:
    return f"behind {end.node} port {end.port}"


def _end(end: LinkEnd) -> str:
    return f"{end.node} port {end.port}"


def _named(remote: RemoteSystem) -> str:
    if remote.node:
        return f"{remote.node} port {remote.node_port}"
    name = f" ({remote.system_name})" if remote.system_name else ""
    return f"chassis {remote.chassis_id} port {remote.port_id}{name}"
