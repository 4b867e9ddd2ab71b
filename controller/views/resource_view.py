"""State -> resources, as people and scripts see them (interfaces.md)."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from controller.fulfillment.fabric import BorderPort, edges
from controller.fulfillment.plan_entries import borders
from controller.language.manifest import to_manifest
from controller.language.policy import print_policy
from controller.language.sentence import print_consequence
from controller.model.agreement import json_of
from controller.model.discovery import LldpCounts, RemoteSystem
from controller.model.inventory import Domain, Link, Network, Node
from controller.model.resource import Resource
from controller.model.stitch import IntentRecord, Session, Standing, Stitch
from controller.model.tunnel_keys import BorderKeys
from controller.readiness import link_phase, network_phase
from controller.reconcile.link_state import without_carrier
from controller.reconcile.state import NodeStanding, State
from controller.reconcile.tables import bundle_key
from controller.views import advertising_view, entry_view, host_view, incident_view, link_view, path_view
from controller.views.drain_view import drain_status
from controller.views.intent_status import (
    branches,
    exceptional_nodes,
    intent_status,
    passed_by,
    paths_of,
    segment_lists,
)
from dataplane.host_api import NodeDescription, PortRole, PortStatus, Tunnel


def resources(state: State, kind: str, now_s: float) -> list[Resource]:
    """All of a kind (plural), by name. Raises KeyError for an unknown kind."""
    return sorted(each(state, kind, now_s), key=lambda shown: str(shown.metadata["name"]))


def each(state: State, kind: str, now_s: float) -> Iterator[Resource]:
    """All of a kind (plural), one after the other, in no order. Raises KeyError for an unknown kind."""
    return _VIEWS[kind](state, now_s)


def resource(state: State, kind: str, name: str, now_s: float) -> Resource | None:
    """One of a kind (plural). Raises KeyError for an unknown kind."""
    view = _VIEWS[kind]
    if kind == "intents":
        intent_record = state.intent_records.get(name)
        return _intent(state, intent_record, now_s) if intent_record is not None else None
    return next((shown for shown in view(state, now_s) if shown.metadata["name"] == name), None)


def forwarding_classes(state: State) -> dict[tuple[str, int], str]:
    """(node, forwarding class) -> whose it is."""
    return {
        (node, entry.match[0].value): entry.owner
        for node, standing in state.nodes.items()
        if standing.state is not None
        for entry in standing.state.entries
        if entry.table == "steer"
    }


# ---- intents


def _intents(state: State, now_s: float) -> Iterator[Resource]:
    nodes = exceptional_nodes(state)
    for intent_record in state.intent_records.values():
        yield _intent(state, intent_record, now_s, nodes)


def _intent(state: State, intent_record: IntentRecord, now_s: float, nodes: frozenset[str] | None = None) -> Resource:
    manifest = to_manifest(intent_record.intent)
    status = intent_status(state, intent_record, now_s, nodes) | _applied(state, f"intents/{intent_record.intent.name}")
    return Resource(kind="Intent", metadata=manifest["metadata"], spec=manifest["spec"], status=status)


# ---- what follows from intents


def _agreements(state: State, now_s: float) -> Iterator[Resource]:
    for name, stitch in state.stitches.items():
        for session in (stitch.upstream, stitch.downstream):
            if session is not None and state.agreements.get(session.terms.id) == name:
                yield _agreement(state, stitch, session, now_s)


def _agreement(state: State, stitch: Stitch, session: Session, now_s: float) -> Resource:
    agreement = session.agreement
    terms, offer = (agreement.terms, agreement.offer) if agreement is not None else (session.terms, session.offer)
    lists = segment_lists(state, stitch)
    status: dict[str, Any] = {
        "standing": str(session.standing) if agreement is None else str(Standing.AGREED),
        "peer": session.peer,
        "owner": stitch.plan.owner,
        "intents": _served(state, stitch),
        "path": paths_of(state, stitch)[0],
        "paths": branches(state, stitch),
        "segments": [list(segments.segments) for segments in lists],
        "containers": [list(segments.containers) for segments in lists],
        "offer": msgspec.to_builtins(offer),
        "mandate": json_of(terms.mandate),
        "expires_in_s": max(0, terms.expires_s - int(now_s)),
    }
    if agreement is not None:
        status |= {
            "acceptance": msgspec.to_builtins(agreement.acceptance),
            "acceptor_end": json_of(agreement.acceptance)["acceptor_end"],
            "latency_us": agreement.latency_us,
        }
        if session.terms != agreement.terms:
            status["renewal"] = {"revision": session.terms.revision, "expires_s": session.terms.expires_s}
    if session.reason:
        status["reason"] = session.reason
    return Resource(kind="Agreement", metadata={"name": terms.id}, spec=json_of(offer), status=status)


def _served(state: State, stitch: Stitch) -> list[str]:
    """Intents of ours that an agreement is for."""
    names = state.stitches.by(bundle_key(stitch.plan.bundle)) if stitch.plan.bundle else [stitch.plan.name]
    owners = (state.stitches[name].plan.owner for name in names)
    return sorted({owner.removeprefix("intents/") for owner in owners if owner.startswith("intents/")})


def _tunnels(state: State, now_s: float) -> Iterator[Resource]:
    for node, standing in state.nodes.items():
        shown = standing.description.borders if standing.description is not None else ()
        tunnels = standing.state.host.tunnels if standing.state is not None else ()
        in_use = {tunnel.border: tunnel for tunnel in reversed(tunnels)}  # the older keys come first
        for tunnel in (tunnel for tunnel in tunnels if tunnel is in_use[tunnel.border]):
            now = next((border for border in shown if border.name == tunnel.border), None)
            agreements = sorted(
                border.agreement
                for stitch in state.stitches.values()
                for border in borders(stitch, state.fabric)
                if border is not None and (border.border_port.node, border.border_port.border) == (node, tunnel.border)
            )
            status: dict[str, Any] = {"node": node, "agreements": agreements}
            if now is not None:
                status |= {"up": now.up} if standing.reachable else {}
                status |= {"latest_handshake_s": now.latest_handshake_s, "mtu": now.mtu}
                status |= {"received_bytes": now.received_bytes, "sent_bytes": now.sent_bytes}
                link = next((link for link in state.fabric.border_ports.values() if _is_at(link, node, tunnel)), None)
                keys = state.tunnel_keys.get(link.link) if link is not None else None
                status |= _renewal(keys) if now.renews else {}
            if not standing.reachable:
                status |= _unreachable(standing)
                status["reason"] = f"whether it is up is not known, the rest is as last told: {standing.reason}"
            name = f"{node}/{tunnel.border}"
            spec = msgspec.to_builtins(msgspec.structs.replace(tunnel, kem_key=b"", kem_ciphertext=b""))
            yield Resource(kind="Tunnel", metadata={"name": name}, spec=spec, status=status)


def _is_at(border_port: BorderPort, node: str, tunnel: Tunnel) -> bool:
    return (border_port.node, border_port.border) == (node, tunnel.border)


def _renewal(keys: BorderKeys | None) -> dict[str, Any]:
    """How far the keys of a tunnel are renewed."""
    in_use = keys.in_use if keys is not None else None
    shown: dict[str, Any] = {"epoch": in_use.number if in_use is not None else 0, "post_quantum": in_use is not None}
    if in_use is not None and in_use.complete_s is not None:
        shown["keys_since_s"] = in_use.complete_s
    if keys is not None and keys.next is not None:
        shown["renewing"] = keys.next.number
    return shown


# ---- inventory


def _inventory(pick: Callable[[State], dict[str, Any]], status: Callable[[State], "_Status"]) -> "_View":
    """`status`: from the state to what says the status of each."""

    def view(state: State, now_s: float) -> Iterator[Resource]:
        status_of = status(state)
        for value in pick(state).values():
            manifest = to_manifest(value)
            kind, metadata, spec = manifest["kind"], manifest["metadata"], manifest["spec"]
            applied = _applied(state, f"{kind.lower()}s/{value.name}")
            yield Resource(kind=kind, metadata=metadata, spec=spec, status=applied | status_of(value))

    return view


def _applied(state: State, name: str) -> dict[str, Any]:
    """Where it comes from, if that is known."""
    applied = state.provenance.get(name)
    if applied is None:
        return {}
    file = {"file": applied.file} if applied.file else {}
    return {
        "created_s": applied.created_s or applied.at_s,
        "applied": {"by": applied.by, "at_s": applied.at_s} | file,
    }


def _each(status: Callable[[State, Any], dict[str, Any]]) -> Callable[[State], "_Status"]:
    return lambda state: lambda value: status(state, value)


def _node_status(state: State, node: Node) -> dict[str, Any]:
    standing = state.nodes.get(node.name)
    if standing is None:
        return {"phase": "Unknown"}
    phase = "Unreachable" if not standing.reachable else "Ready" if standing.settled else "Syncing"
    status: dict[str, Any] = {
        "phase": phase,
        "entries": len(standing.state.entries) if standing.state is not None else 0,
        "generation": standing.generation,
        "confirmed": standing.confirmed,
    }
    status |= _unreachable(standing)
    if standing.reason or standing.rejected:
        status["reason"] = standing.reason or standing.rejected
    if standing.description is not None:
        status |= {"software": standing.description.software, "wireguard": standing.description.wireguard}
        status["layout"] = standing.description.layout
        status |= _capabilities(standing.description, state.profiles.get(node.name, {}))
        status["ports"] = [_port_status(port) for port in standing.description.ports]
    status |= _passed_by(state, f"nodes/{node.name}") | drain_status(state, f"nodes/{node.name}")
    if standing.remote_systems or standing.lldp_counts != LldpCounts():
        status["remote_systems"] = [_port_said(remote) for remote in standing.remote_systems]
        status["lldp"] = msgspec.to_builtins(standing.lldp_counts)
    return status


def _capabilities(description: NodeDescription, sizes: dict[str, int]) -> dict[str, Any]:
    """As far as the node says them; `sizes` are those of its tables and counters."""
    found = msgspec.to_builtins(description.capabilities) if description.capabilities.dataplane else {}
    carried = [port.mtu for port in description.ports if port.role == PortRole.FABRIC and port.mac]
    carried += [border.mtu for border in description.borders]
    found |= {"mtu": min(carried)} if carried else {}
    found |= {"tables": dict(sorted(sizes.items()))} if sizes else {}
    return {"capabilities": found} if found else {}


def _unreachable(standing: NodeStanding) -> dict[str, Any]:
    return {"unreachable_since_s": standing.unreachable_s} if standing.unreachable_s is not None else {}


def _passed_by(state: State, part: str) -> dict[str, Any]:
    """Why new paths go around it, if they do."""
    return {"passed_by": passed_by(state, part)} if part in state.stubs else {}


def _port_said(remote: RemoteSystem) -> dict[str, Any]:
    """Of a neighbour, without what it does not say."""
    return {name: value for name, value in msgspec.to_builtins(remote).items() if value not in ("", 0)}


def _port_status(port: PortStatus) -> dict[str, Any]:
    """How frames come in and out there, and what keeps them from it."""
    status: dict[str, Any] = msgspec.to_builtins(port)
    return {name: value for name, value in status.items() if value not in ("", [], ())}


def _link_status(state: State, link: Link) -> dict[str, Any]:
    """A link that has its carrier back is used again only when that has lasted."""
    down = without_carrier(link, state.nodes)
    status = {"carrier": not down, "in_use": link.name not in state.down, **({"down": list(down)} if down else {})}
    status |= _passed_by(state, f"links/{link.name}") | drain_status(state, f"links/{link.name}")
    return status | link_phase(state, link) | link_view.status(state, link)


def _links(state: State, now_s: float) -> Iterator[Resource]:
    yield from _inventory(lambda state: state.inventory.links, _each(_link_status))(state, now_s)
    yield from link_view.undeclared(state)


def _network_status(state: State, network: Network) -> dict[str, Any]:
    paths = [
        {"nodes": list(path.nodes), "latency_ms": path.latency_us / 1000}
        for pair in itertools.combinations(edges(network), 2)
        if (policy := state.fabric.edge_policies.get(pair)) is not None
        for path in policy.candidate_paths
    ]
    own = network.name.split("/")[0] == state.own
    status: dict[str, Any] = {"own": own} | (network_phase(state, network) if own else {})
    status |= advertising_view.thing_status(state, network)
    return status | ({"paths": paths} if paths else {})


def _service_status(state: State) -> "_Status":
    users: dict[str, set[str]] = {}
    for name, intent_record in state.intent_records.items():
        for allow in intent_record.meant.allow:
            users.setdefault(allow.to, set()).add(name)
        for connection in intent_record.requirements.connections:
            for waypoint in connection.via:
                users.setdefault(waypoint.service, set()).add(name)
    return lambda service: (
        {"intents": sorted(users.get(service.name, ()))}
        | advertising_view.thing_status(state, service)
        | ({"up": service.name not in state.services_down} if service.through is not None else {})
    )


def _rule_status(state: State) -> "_Status":
    """What it does, in words, and in which intents it has a say."""
    touched: dict[str, set[str]] = {}
    for name, intent_record in state.intent_records.items():
        for rule in {origin.origin for origin in intent_record.requirements.origins}:
            touched.setdefault(rule, set()).add(name)
        for rule in {unmet.binding for unmet in intent_record.requirements.unmet}:
            touched.setdefault(rule, set()).add(name)
    return lambda rule: {
        "consequence": print_consequence(rule.then),
        "intents": sorted(touched.get(f"rule {rule.name}", ())),
    }


def _domain_status(state: State, domain: Domain) -> dict[str, Any]:
    names = {name for name, outgoing in state.outbox.items() if outgoing.peer == domain.name}
    reasons = sorted({state.retries[name].reason for name in names if name in state.retries})
    status: dict[str, Any] = {"waiting_messages": len(names)}
    met = state.peers.get(domain.name)
    if met is not None and met.greeting is not None:
        status |= {"software": met.greeting.software, "protocol": list(met.greeting.versions)}
        status["capabilities"] = list(met.greeting.capabilities)
    status |= advertising_view.domain_status(state, domain)
    if domain.own and state.inventory.aliases:
        status["translations"] = [
            {"network": each.network, "other": each.other, "prefix": alias.prefix, "known_as": alias.alias}
            | ({"rests_until_s": each.until_s} if each.until_s is not None else {})
            for each in sorted(state.inventory.aliases.values(), key=lambda aliases: aliases.name)
            for alias in each.pairs
        ]
    if reasons:
        status["reason"] = reasons[0]
    elif met is not None and met.refusal:
        status["reason"] = met.refusal
    return status


def _policy(state: State, now_s: float) -> Iterator[Resource]:
    loaded = state.policy_loaded
    status = {"loaded": msgspec.to_builtins(loaded)} if loaded is not None else {}
    yield Resource(kind="Policy", metadata={"name": state.own}, spec=print_policy(state.policy), status=status)


_View = Callable[[State, float], Iterator[Resource]]
_Status = Callable[[Any], dict[str, Any]]
_VIEWS: dict[str, _View] = {
    "intents": _intents,
    "agreements": _agreements,
    "tunnels": _tunnels,
    "policies": _policy,
    "entries": entry_view.resources,
    "domains": _inventory(lambda state: state.inventory.domains, _each(_domain_status)),
    "networks": _inventory(lambda state: state.inventory.networks, _each(_network_status)),
    "services": _inventory(lambda state: state.inventory.services, _service_status),
    "nodes": _inventory(lambda state: state.inventory.nodes, _each(_node_status)),
    "hosts": host_view.resources,
    "links": _links,
    "paths": path_view.resources,
    "findings": incident_view.findings,
    "incidents": incident_view.incidents,
    "rules": _inventory(lambda state: state.rules, _rule_status),
}
KINDS: tuple[str, ...] = tuple(_VIEWS)
