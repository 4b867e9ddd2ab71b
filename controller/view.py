"""State -> resources, as people and scripts see them (interfaces.md)."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from controller import entry_view
from controller.fulfillment import numbering
from controller.fulfillment.carry import borders, candidate_lists, terms_in_force
from controller.fulfillment.fabric import edges
from controller.language.manifest import to_manifest
from controller.language.scalars import print_ports
from controller.language.sentence import print_consequence, print_sentence
from controller.model import dscp
from controller.model.course import Course, Errand, Session, Stage, Standing, Undertaking
from controller.model.intent import Encryption, Phase
from controller.model.inventory import Domain, Link, Network, Node
from controller.model.requirements import Connection, Requirements
from controller.model.resource import Resource
from controller.reconcile.carriers import cut, without_carrier
from controller.reconcile.state import State
from controller.reconcile.undertakings import expired
from dataplane.host_api import PortStatus


def resources(state: State, kind: str, now_s: float) -> list[Resource]:
    """All of a kind (plural), by name. Raises KeyError for an unknown kind."""
    return sorted(_VIEWS[kind](state, now_s), key=lambda one: str(one.metadata["name"]))


def resource(state: State, kind: str, name: str, now_s: float) -> Resource | None:
    """One of a kind (plural). Raises KeyError for an unknown kind."""
    view = _VIEWS[kind]
    if kind == "intents":
        undertaking = state.undertakings.get(name)
        return _intent(state, undertaking, now_s) if undertaking is not None else None
    return next((one for one in view(state, now_s) if one.metadata["name"] == name), None)


def legs(state: State) -> dict[tuple[str, int], str]:
    """(node, leg) -> whose it is."""
    return {
        (node, entry.match[0].value): entry.owner
        for node, standing in state.nodes.items()
        if standing.state is not None
        for entry in standing.state.entries
        if entry.table == "steer"
    }


# ---- intents


def _intents(state: State, now_s: float) -> Iterator[Resource]:
    for undertaking in state.undertakings.values():
        yield _intent(state, undertaking, now_s)


def _intent(state: State, undertaking: Undertaking, now_s: float) -> Resource:
    manifest = to_manifest(undertaking.intent)
    status = intent_status(state, undertaking, now_s) | _applied(state, f"intents/{undertaking.intent.name}")
    return Resource(kind="Intent", metadata=manifest["metadata"], spec=manifest["spec"], status=status)


def _requirements(requirements: Requirements) -> list[str]:
    """A sentence each."""
    found = []
    if requirements.isolation is not None:
        hosts = ", ".join(host.name for host in requirements.isolation.hosts)
        found.append(f"isolate {hosts} in {requirements.isolation.network}")
    for one in requirements.connections:
        flows = [
            f"{flow.source} ({' '.join(flow.source_prefixes)}) reaches {flow.destination} "
            f"({' '.join(flow.destination_prefixes)}) on {' '.join(map(print_ports, flow.ports)) or 'everything'}"
            for flow in one.flows
        ]
        bounds = [f"latency <= {one.latency_us_max / 1000:g} ms"] if one.latency_us_max is not None else []
        bounds += [f"encryption {one.encryption}"] if one.encryption != Encryption.NONE else []
        bounds += [f"trust >= {one.trust_min.name.lower()}"] if one.trust_min is not None else []
        bounds += ["no transit"] if one.direct else []
        bounds += [f"prefer {one.prefer}"] if str(one.prefer) else []
        bounds += [f"dscp {dscp.words(one.dscp)}"] if one.dscp else []
        found += [", ".join((flow, *bounds)) for flow in flows]
    return found


def _origins(requirements: Requirements) -> list[dict[str, str]]:
    """Where each requirement comes from."""
    return [
        {
            "requirement": one.requirement,
            "from": one.origin,
            "connection": f"{one.source_network} {one.destination_network}",
        }
        | ({"explain": one.explain} if one.explain else {})
        for one in requirements.origins
    ]


_ORDER = [
    Phase.UNSATISFIABLE,
    Phase.REFUSED,
    Phase.PENDING,
    Phase.NEGOTIATING,
    Phase.INSTALLING,
    Phase.DEGRADED,
    Phase.ACTIVE,
]


def intent_status(state: State, undertaking: Undertaking, now_s: float) -> dict[str, Any]:
    """The worst of its connections decides its phase; all of them say why."""
    found: list[tuple[Phase, str]] = []
    courses: list[Course] = []
    end_s = undertaking.expires_s
    if expired(undertaking) or (end_s is not None and end_s <= now_s):
        found.append((Phase.EXPIRED, f"its lease ended at {end_s} (Unix time): apply it again"))
        phase = Phase.EXPIRED
    else:
        unmet = undertaking.requirements.unmet
        found += [(Phase.UNSATISFIABLE, f"{one.binding}: {one.message}") for one in unmet]
        for connection, errand in zip(undertaking.requirements.connections, undertaking.errands, strict=True):
            if not unmet:
                found.append(_errand_phase(state, connection, errand))
            course = state.courses.get(errand.plan) or state.courses.get(errand.coming)
            if course is not None:
                courses.append(course)
        found += _node_phases(state, undertaking, courses)
        phase = min((one for one, _ in found), key=_ORDER.index, default=Phase.ACTIVE)
    conditions = [{"type": str(one), "reason": reason} for one, reason in dict.fromkeys(found) if reason]
    status: dict[str, Any] = {"phase": str(phase), "conditions": conditions}
    status["sentence"] = print_sentence(undertaking.intent)
    status["requirements"] = _requirements(undertaking.requirements)
    if undertaking.requirements.origins:
        status["origins"] = _origins(undertaking.requirements)
    if courses:
        first = courses[0]
        status["path"] = path_of(first)
        status["segments"] = segment_lists(state, first)
        status["predicted"] = {
            "latency_ms": max(course.latency_us for course in courses) / 1000,
            "cost": max(course.plan.cost for course in courses),
        }
        if len(courses) > 1:
            status["paths"] = [{"path": path_of(one), "segments": segment_lists(state, one)} for one in courses]
    status["endpoints"] = [
        {"service": flow.destination, "address": prefix.split("/")[0], "family": "ipv6" if ":" in prefix else "ipv4"}
        for connection in undertaking.requirements.connections
        for flow in connection.flows
        for prefix in flow.destination_prefixes
        if prefix.endswith("/128" if ":" in prefix else "/32")
    ]
    status |= {"created_s": undertaking.created_s, "applied_s": undertaking.applied_s}
    if end_s is not None:
        status["expires_s"] = end_s
    return status


def _errand_phase(state: State, connection: Connection, errand: Errand) -> tuple[Phase, str]:
    where = connection.destination_network
    course = state.courses.get(errand.coming) or state.courses.get(errand.plan)
    if course is None and errand.refusal:
        more = f"; other ways: {errand.unsatisfiable.message}" if errand.unsatisfiable is not None else ""
        return Phase.REFUSED, f"{where}: refused by {errand.refusal}{more}"
    if course is None and errand.unsatisfiable is not None:
        unsatisfiable = errand.unsatisfiable
        return Phase.UNSATISFIABLE, f"{where}: {unsatisfiable.binding}: {unsatisfiable.message}"
    if course is None:
        return Phase.PENDING, f"{where}: waiting for a gateway to describe itself, or for the next try"
    if course.stage == Stage.NEGOTIATING:
        session = course.downstream
        reason = f"{where}: waiting for the answer of {session.peer}" if session is not None else where
        if session is not None:
            reason += _undelivered(state, session)
            reason += f" ({session.reason})" if session.reason else ""
        return Phase.NEGOTIATING, reason
    if course.stage == Stage.ADDING:
        return Phase.INSTALLING, f"{where}: waiting for nodes: {_waiting(state, course.plan.name)}"
    if lost := cut(course.plan, state.down):
        return Phase.PENDING, f"{where}: its way is cut and there is no other yet: {', '.join(lost)} without a carrier"
    if course.too_slow:
        needed, found = connection.latency_us_max or 0, course.latency_us
        reason = f"at most {needed / 1000:g} ms is required; the way that is left takes {found / 1000:g} ms"
        around = f" (without a carrier: {', '.join(course.plan.around)})" if course.plan.around else ""
        return Phase.DEGRADED, f"{where}: latency: {reason}{around}"
    return Phase.ACTIVE, ""


def _undelivered(state: State, session: Session) -> str:
    name = f"offer:{session.terms.id}:{session.terms.revision}"
    retry = state.retries.get(name)
    if retry is not None:
        return f", which cannot be reached ({retry.reason}); tried {retry.attempts} times"
    return "" if name not in state.outbox else ", the offer is on its way"


def _waiting(state: State, name: str) -> str:
    return ", ".join(sorted(state.awaiting.get(name, {}))) or "none"


def _node_phases(state: State, undertaking: Undertaking, courses: list[Course]) -> Iterator[tuple[Phase, str]]:
    nodes = {node for course in courses for node in course.plan.nodes}
    isolation = undertaking.requirements.isolation
    if isolation is not None:
        nodes |= {host.node for host in isolation.hosts}
    for node in sorted(nodes):
        standing = state.nodes.get(node)
        if standing is None:
            continue
        if not standing.reachable:
            yield Phase.INSTALLING, f"node {node} unreachable: {standing.reason}"
        elif standing.rejected:
            yield Phase.INSTALLING, f"node {node} refused its state: {standing.rejected}"
        elif standing.confirmed < 0:
            yield Phase.INSTALLING, f"node {node} has not confirmed its state since the controller was started"
    names = [f"intents/{undertaking.intent.name}", *(course.plan.name for course in courses)]
    if any(state.awaiting.get(name) for name in names):
        waiting = sorted({node for name in names for node in state.awaiting.get(name, {})})
        yield Phase.INSTALLING, f"waiting for nodes: {', '.join(waiting)}"


def path_of(course: Course) -> list[str]:
    """Own nodes, and the domains after them as far as we know."""
    plan = course.plan
    policy = plan.sr_policies[0]
    nodes = list(policy.candidate_paths[0].nodes if policy.candidate_paths else (policy.headend,))
    beyond = [plan.egress.domain] if plan.egress is not None else []
    if beyond and beyond[-1] != plan.connection.destination_domain:
        beyond.append(plan.connection.destination_domain)
    before = [plan.ingress.domain] if plan.ingress is not None else []
    return [*before, *nodes, *beyond]


def segment_lists(state: State, course: Course) -> list[list[str]]:
    """Segment lists (first segment first) that the traffic gets in this domain, best candidate path first."""
    lists: list[list[str]] = []
    for slot, policy in zip(course.slots, course.plan.sr_policies, strict=True):
        for compiled, tail_sid in candidate_lists(state.fabric, slot, policy, numbering.Direction.FORWARD):
            lists.append([numbering.sid_text(segment) for segment in (*compiled.segments, tail_sid)])
    _, downstream = borders(course, state.fabric)
    if downstream is not None:
        lists.append([downstream.peer.sid])
    return lists


# ---- what follows from intents


def _agreements(state: State, now_s: float) -> Iterator[Resource]:
    for course in state.courses.values():
        for session in (course.upstream, course.downstream):
            if session is not None:
                yield _agreement(state, course, session, now_s)


def _agreement(state: State, course: Course, session: Session, now_s: float) -> Resource:
    held = session.agreement
    terms = terms_in_force(session) or session.terms
    status: dict[str, Any] = {
        "standing": str(session.standing) if held is None else str(Standing.AGREED),
        "peer": session.peer,
        "owner": course.plan.owner,
        "path": path_of(course),
        "segments": segment_lists(state, course),
        "offer_signature": held.offer_signature if held is not None else session.offer_signature,
        "expires_in_s": max(0, terms.expires_s - int(now_s)),
    }
    if held is not None:
        status |= {
            "acceptance_signature": held.acceptance_signature,
            "acceptor_end": msgspec.to_builtins(held.acceptor_end),
            "latency_us": held.latency_us,
        }
        if session.terms != held.terms:
            status["renewal"] = {"revision": session.terms.revision, "expires_s": session.terms.expires_s}
    if session.reason:
        status["reason"] = session.reason
    spec: dict[str, Any] = msgspec.to_builtins(terms)
    return Resource(kind="Agreement", metadata={"name": terms.id}, spec=spec, status=status)


def _tunnels(state: State, now_s: float) -> Iterator[Resource]:
    for node, standing in state.nodes.items():
        shown = standing.description.borders if standing.description is not None else ()
        for tunnel in standing.state.host.tunnels if standing.state is not None else ():
            now = next((one for one in shown if one.name == tunnel.border), None)
            agreements = sorted(
                border.agreement
                for course in state.courses.values()
                for border in borders(course, state.fabric)
                if border is not None and (border.crossing.node, border.crossing.border) == (node, tunnel.border)
            )
            status: dict[str, Any] = {"node": node, "agreements": agreements}
            if now is not None:
                status |= {"up": now.up, "latest_handshake_s": now.latest_handshake_s, "mtu": now.mtu}
                status |= {"received_bytes": now.received_bytes, "sent_bytes": now.sent_bytes}
            name = f"{node}/{tunnel.border}"
            yield Resource(kind="Tunnel", metadata={"name": name}, spec=msgspec.to_builtins(tunnel), status=status)


# ---- inventory


def _inventory(pick: Callable[[State], dict[str, Any]], status: Callable[[State], "_Status"]) -> "_View":
    """`status`: from the state to what says the status of each."""

    def view(state: State, now_s: float) -> Iterator[Resource]:
        status_of = status(state)
        for value in pick(state).values():
            manifest = to_manifest(value)
            kind, metadata, spec = manifest["kind"], manifest["metadata"], manifest["spec"]
            applied = _applied(state, f"{kind.lower()}s/{value.name}")
            yield Resource(kind=kind, metadata=metadata, spec=spec, status=status_of(value) | applied)

    return view


def _applied(state: State, name: str) -> dict[str, Any]:
    """Where it comes from, if that is known."""
    found = state.provenance.get(name)
    if found is None:
        return {}
    return {"applied": {"by": found.by, "at_s": found.at_s} | ({"file": found.file} if found.file else {})}


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
    if standing.reason or standing.rejected:
        status["reason"] = standing.reason or standing.rejected
    if standing.description is not None:
        status |= {"software": standing.description.software, "wireguard": standing.description.wireguard}
        status["layout"] = standing.description.layout
        status["ports"] = [_port_status(port) for port in standing.description.ports]
    return status


def _port_status(port: PortStatus) -> dict[str, Any]:
    """How frames come in and out there, and what keeps them from it."""
    status: dict[str, Any] = msgspec.to_builtins(port)
    return {name: value for name, value in status.items() if value not in ("", [], ())}


def _link_status(state: State, link: Link) -> dict[str, Any]:
    """A link that has its carrier back is used again only when that has lasted."""
    down = without_carrier(link, state.nodes)
    return {"carrier": not down, "in_use": link.name not in state.down, **({"down": list(down)} if down else {})}


def _network_status(state: State, network: Network) -> dict[str, Any]:
    index = state.counters.get(f"network {network.name}")
    paths = [
        {"nodes": list(path.nodes), "latency_ms": path.latency_us / 1000}
        for pair in itertools.combinations(edges(network), 2)
        if (policy := state.fabric.edge_policies.get(pair)) is not None
        for path in policy.candidate_paths
    ]
    status: dict[str, Any] = {"own": network.name.split("/")[0] == state.own}
    return status | ({"context": index} if index is not None else {}) | ({"paths": paths} if paths else {})


def _service_status(state: State) -> "_Status":
    users: dict[str, set[str]] = {}
    for name, undertaking in state.undertakings.items():
        for allow in undertaking.intent.allow:
            users.setdefault(allow.to, set()).add(name)
    return lambda service: {"intents": sorted(users.get(service.name, ()))}


def _rule_status(state: State) -> "_Status":
    """What it does, in words, and in which intents it has a say."""
    touched: dict[str, set[str]] = {}
    for name, undertaking in state.undertakings.items():
        for rule in {one.origin for one in undertaking.requirements.origins}:
            touched.setdefault(rule, set()).add(name)
        for rule in {one.binding for one in undertaking.requirements.unmet}:
            touched.setdefault(rule, set()).add(name)
    return lambda rule: {
        "consequence": print_consequence(rule.then),
        "intents": sorted(touched.get(f"rule {rule.name}", ())),
    }


def _domain_status(state: State, domain: Domain) -> dict[str, Any]:
    names = {name for name, outgoing in state.outbox.items() if outgoing.peer == domain.name}
    reasons = sorted({state.retries[name].reason for name in names if name in state.retries})
    status: dict[str, Any] = {"waiting_messages": len(names)}
    if reasons:
        status["reason"] = reasons[0]
    return status


_View = Callable[[State, float], Iterator[Resource]]
_Status = Callable[[Any], dict[str, Any]]
_VIEWS: dict[str, _View] = {
    "intents": _intents,
    "agreements": _agreements,
    "tunnels": _tunnels,
    "entries": entry_view.resources,
    "domains": _inventory(lambda state: state.inventory.domains, _each(_domain_status)),
    "networks": _inventory(lambda state: state.inventory.networks, _each(_network_status)),
    "services": _inventory(lambda state: state.inventory.services, _service_status),
    "nodes": _inventory(lambda state: state.inventory.nodes, _each(_node_status)),
    "links": _inventory(lambda state: state.inventory.links, _each(_link_status)),
    "rules": _inventory(lambda state: state.rules, _rule_status),
}
KINDS: tuple[str, ...] = tuple(_VIEWS)
