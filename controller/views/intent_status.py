"""State -> what is true of an intent: its phase, the conditions that say why, and the ways that it takes.

phase        the worst of what is said of its connections and nodes
conditions   all that is said: what makes the phase has the phase's name as its type; what is to be known besides,
             and changes no phase, has one of its own (docs/language.md has them)
"""

import itertools
from collections.abc import Iterator
from typing import Any

import msgspec

from controller.fulfillment import numbering, plan_paths
from controller.fulfillment.aliases import translated
from controller.fulfillment.plan_entries import borders, path_mtu
from controller.fulfillment.plan_ids import FORWARD, Stretch, at_tail, stretches
from controller.fulfillment.plan_paths import cost, is_too_slow, unprotected, whole_us
from controller.fulfillment.shortfall import percent, words
from controller.language.scalars import print_ports, print_time
from controller.language.sentence import print_sentence
from controller.model import dscp
from controller.model.discovery import PathMeasurement
from controller.model.intent import Encryption, Phase
from controller.model.requirements import Connection, Requirements
from controller.model.selection import Selection
from controller.model.sr_policy import SrPolicy
from controller.model.stitch import ConnectionStatus, IntentRecord, Session, Stage, Standing, Stitch, expired
from controller.readiness import lacking, too_small_for_ipv6
from controller.reconcile.link_state import cut
from controller.reconcile.state import SR_POLICIES, State, parts_refused
from dataplane.reasons import IPV6_LEAST_MTU

HANDSHAKE_S_MAX = 200.0
"""WireGuard makes a new one every two minutes while there is traffic, and persistent keepalive is traffic; what is
older than three minutes carries nothing (REJECT_AFTER_TIME)."""
PATIENCE_S = 30
"""So long an answer to a renewal may take before it is worth a word."""


class Said(msgspec.Struct, frozen=True):
    """One thing that is true of an intent."""

    phase: Phase
    """What it makes of the intent, if nothing worse is true."""
    reason: str
    type: str = ""
    """Of the condition; empty: the phase's name."""


_ORDER = [
    Phase.UNSATISFIABLE,
    Phase.REFUSED,
    Phase.PENDING,
    Phase.NEGOTIATING,
    Phase.INSTALLING,
    Phase.DEGRADED,
    Phase.ACTIVE,
]


def exceptional_nodes(state: State) -> frozenset[str]:
    """Nodes of which there is more to say than what they have yet to confirm."""
    return frozenset(
        name
        for name, standing in state.nodes.items()
        if not standing.reachable or standing.rejected or not standing.has(0, ())
    )


def intent_phase(
    state: State, intent_record: IntentRecord, now_s: float, nodes: frozenset[str] | None = None
) -> tuple[Phase, list[dict[str, str]], list[Stitch]]:
    """Phase, conditions, and what carries it or is to: the worst of its connections decides its phase; all of them say
    why. `nodes`: its `exceptional_nodes`, for who asks about many intents."""
    nodes = exceptional_nodes(state) if nodes is None else nodes
    end_s = intent_record.expires_s
    stitches: list[Stitch] = []
    if expired(intent_record) or (end_s is not None and end_s <= now_s):
        phase = Phase.EXPIRED
        said = [Said(Phase.EXPIRED, f"its lease ended at {print_time(end_s or 0)}: apply it again")]
    else:
        for connection_status in intent_record.connection_statuses:
            stitch = state.stitches.get(connection_status.plan) or state.stitches.get(connection_status.coming)
            stitches += [stitch] if stitch is not None else []
        said = sorted(
            _all_said(state, intent_record, stitches, now_s, nodes), key=lambda condition: _ORDER.index(condition.phase)
        )
        phase = said[0].phase if said else Phase.ACTIVE
    conditions = [
        {"type": fromkey.type or str(fromkey.phase), "reason": fromkey.reason}
        for fromkey in dict.fromkeys(said)
        if fromkey.reason and (fromkey.phase != Phase.ACTIVE or fromkey.type or phase != Phase.ACTIVE)
    ]
    return phase, conditions, stitches


def intent_status(
    state: State, intent_record: IntentRecord, now_s: float, nodes: frozenset[str] | None = None
) -> dict[str, Any]:
    """`nodes`: as of `intent_phase`."""
    phase, conditions, stitches = intent_phase(state, intent_record, now_s, nodes)
    end_s = intent_record.expires_s
    status: dict[str, Any] = {"phase": str(phase), "conditions": conditions}
    status["sentence"] = print_sentence(intent_record.intent)
    status["requirements"] = _requirements(intent_record.requirements)
    if intent_record.requirements.origins:
        status["origins"] = _origins(intent_record.requirements)
    if intent_record.requirements.selections:
        status["selections"] = [_selection(selection) for selection in intent_record.requirements.selections]
    if stitches:
        inside = [_inside(state, stitch) for stitch in stitches]
        status["path"] = way_of(state, stitches[0])
        status["paths"] = [
            path for stitch, lists in zip(stitches, inside, strict=True) for path in branches(state, stitch, lists)
        ]
        lists = [*itertools.chain.from_iterable(inside[0]), *_to_neighbour(state, stitches[0])]
        status["segments"] = [list(segments.segments) for segments in lists]
        status["containers"] = [list(segments.containers) for segments in lists]
        status["predicted"] = {
            "latency_ms": max(whole_us(stitch, state.sr_policies) for stitch in stitches) / 1000,
            "cost": max(cost(stitch.plan, state.sr_policies) for stitch in stitches),
        }
        if measured := _measured_whole(state, stitches):
            status["measured"] = measured
    if services := _services(state, intent_record, stitches):
        status["via"] = services
    status["endpoints"] = list(_endpoints(state, intent_record))
    status |= {"created_s": intent_record.created_s, "applied_s": intent_record.applied_s}
    if end_s is not None:
        status["expires_s"] = end_s
    return status


def _services(state: State, intent_record: IntentRecord, stitches: list[Stitch]) -> list[dict[str, Any]]:
    """That its traffic is to pass: whether it does."""
    wanted = [waypoint for connection in intent_record.requirements.connections for waypoint in connection.via]
    passed = {waypoint for stitch in stitches for waypoint in stitch.plan.via}
    return [
        {
            "service": waypoint.service,
            "node": waypoint.node,
            "passed": waypoint in passed,
            "up": waypoint.service not in state.services_down,
        }
        for waypoint in dict.fromkeys(wanted)
    ]


def _selection(selection: Selection) -> dict[str, Any]:
    """What is chosen for a clause, and why not the others."""
    shown: dict[str, Any] = {"allow": selection.clause, "service": selection.chosen, "since_s": selection.since_s}
    if selection.reason:
        shown["reason"] = selection.reason
    shown["candidates"] = []
    for candidate in selection.considered:
        said: dict[str, Any] = {"service": candidate.service, "verdict": str(candidate.verdict)}
        if candidate.latency_us is not None:
            said |= {"latency_ms": candidate.latency_us / 1000, "cost": candidate.cost, "domains": candidate.domains}
        shown["candidates"].append(said | ({"reason": candidate.reason} if candidate.reason else {}))
    return shown | ({"left_out": selection.left_out} if selection.left_out else {})


def _endpoints(state: State, intent_record: IntentRecord) -> Iterator[dict[str, str]]:
    """Addresses of services that can be reached."""
    connection_statuses = itertools.chain(intent_record.connection_statuses, itertools.repeat(None))
    for connection, connection_status in zip(intent_record.requirements.connections, connection_statuses, strict=False):
        stitch = state.stitches.get(connection_status.plan) if connection_status is not None else None
        without_ipv6 = stitch is not None and lacks_ipv6(state, connection, stitch)
        for flow in connection.flows:
            for prefix in flow.destination_prefixes:
                family = family_of(prefix)
                if prefix.endswith("/32" if family == "ipv4" else "/128") and not (without_ipv6 and family == "ipv6"):
                    (known_as,) = translated((prefix,), connection.destination_aliases)
                    endpoint = {"service": flow.destination, "address": known_as.split("/")[0], "family": family}
                    yield endpoint | ({"known_there_as": prefix.split("/")[0]} if known_as != prefix else {})


def _all_said(
    state: State, intent_record: IntentRecord, stitches: list[Stitch], now_s: float, exceptional: frozenset[str]
) -> Iterator[Said]:
    unmet = intent_record.requirements.unmet
    for selection in intent_record.requirements.selections:
        if not selection.chosen:
            yield Said(Phase.UNSATISFIABLE, f"selection: {selection.reason}")
    for rule in unmet:
        yield Said(Phase.UNSATISFIABLE, f"{rule.binding}: {rule.message}")
    if not unmet:
        for connection, connection_status in zip(
            intent_record.requirements.connections, intent_record.connection_statuses, strict=True
        ):
            yield from _connection(state, intent_record, connection, connection_status, now_s, exceptional)
    yield from _of_nodes(state, intent_record, stitches, exceptional)
    hosts = {
        end.name: end for two in intent_record.requirements.connections for end in (*two.sources, *two.destinations)
    }
    for reason in lacking(state, hosts.values()):
        yield Said(Phase.INSTALLING, reason)


# ---- connections


def _connection(
    state: State,
    intent_record: IntentRecord,
    connection: Connection,
    connection_status: ConnectionStatus,
    now_s: float,
    exceptional: frozenset[str],
) -> Iterator[Said]:
    where = connection.destination_network
    coming, carrying = state.stitches.get(connection_status.coming), state.stitches.get(connection_status.plan)
    if carrying is not None and carrying.downstream is not None:
        yield from _renewal(state, where, carrying.downstream, now_s)
    if coming is None and carrying is None:
        yield _without_plan(where, connection_status)
    elif coming is None and carrying is not None:
        yield _carried(state, connection, carrying, now_s, exceptional)
        yield from _passing_by(state, where, carrying)
    elif coming is not None and carrying is not None and not cut(carrying.plan, state.down, state.sr_policies):
        wanted = (connection, intent_record.intent.priority)
        said, path = _begun(state, where, coming), way_words(state, carrying)
        if (carrying.plan.connection, carrying.plan.priority) in (wanted, (connection.eased, wanted[1])):
            yield _carried(state, connection, carrying, now_s, exceptional)
            yield Said(Phase.ACTIVE, f"{said.reason}; until then it goes by {path}", "Rerouting")
        else:
            yield said
            yield Said(Phase.ACTIVE, f"{where}: what held before the change is carried, by {path}", "CarriedAsBefore")
    elif coming is not None:
        yield _begun(state, where, coming)


def _without_plan(where: str, connection_status: ConnectionStatus) -> Said:
    unsatisfiable = connection_status.unsatisfiable
    if connection_status.refusal:
        alternatives = f"; other ways: {unsatisfiable.message}" if unsatisfiable is not None else ""
        return Said(Phase.REFUSED, f"{where}: refused by {connection_status.refusal}{alternatives}")
    if unsatisfiable is not None:
        phase = Phase.PENDING if unsatisfiable.undecided else Phase.UNSATISFIABLE
        return Said(phase, f"{where}: {unsatisfiable.binding}: {unsatisfiable.message}")
    if connection_status.lost:
        return Said(
            Phase.PENDING, f"{where}: no longer carried: {connection_status.lost}; another try follows within seconds"
        )
    if connection_status.retry_s:
        return Said(Phase.PENDING, f"{where}: the next try is at {print_time(connection_status.retry_s)}")
    return Said(Phase.PENDING, f"{where}: waiting for a gateway to say what it is")


def _begun(state: State, where: str, stitch: Stitch) -> Said:
    """What is not carried yet."""
    session = stitch.downstream
    if stitch.stage == Stage.NEGOTIATING and session is not None:
        reason = f"{where}: waiting for the answer of {session.peer}{_undelivered(state, session)}"
        return Said(Phase.NEGOTIATING, reason + (f" ({session.reason})" if session.reason else ""))
    if stitch.stage == Stage.NEGOTIATING:
        return Said(Phase.NEGOTIATING, where)
    return Said(Phase.INSTALLING, f"{where}: waiting for nodes: {_waiting(state, stitch)}")


def _undelivered(state: State, session: Session) -> str:
    """How far an offer has come. Nobody but the neighbour knows what an answer waits for."""
    name = f"offer:{session.terms.id}:{session.terms.revision}"
    retry = state.retries.get(name)
    if retry is not None:
        return f", which cannot be reached ({retry.reason}); tried {retry.attempts} times"
    if name in state.outbox:
        return ", the offer is on its way"
    return f", which has the offer of {print_time(session.since_s)} and answers when its own part is installed"


def _carried(state: State, connection: Connection, stitch: Stitch, now_s: float, exceptional: frozenset[str]) -> Said:
    where = connection.destination_network
    if stitch.stage in (Stage.NEGOTIATING, Stage.ADDING):
        return _begun(state, where, stitch)
    if lost := cut(stitch.plan, state.down, state.sr_policies):
        gone = ", ".join(lost)
        return Said(Phase.PENDING, f"{where}: its way is cut and there is no other yet: {gone} without a carrier")
    if silent := tunnel_fault(state, stitch, now_s):
        return Said(silent.phase, f"{where}: {silent.reason}")
    if stitch.plan.connection == connection.eased != connection:
        return Said(Phase.DEGRADED, f"{where}: {_given_up(state, connection, stitch)}")
    if without := [waypoint.service for waypoint in connection.via if waypoint not in stitch.plan.via]:
        return Said(
            Phase.DEGRADED, f"{where}: via: {', '.join(without)} is down; until it is back traffic goes without it"
        )
    if is_too_slow(stitch, state.sr_policies):
        needed, latency_us = connection.latency_us_max or 0, whole_us(stitch, state.sr_policies)
        reason = f"at most {needed / 1000:g} ms is required; the way that is left takes {latency_us / 1000:g} ms"
        around = f" (without a carrier: {', '.join(without)})" if (without := _around(state, stitch)) else ""
        return Said(Phase.DEGRADED, f"{where}: latency: {reason}{around}")
    if single := unprotected(stitch.plan, state.sr_policies):
        ends = " and ".join(f"{id.headend} to {id.endpoint}" for id in single)
        reason = f"two paths are required that share no {connection.disjoint}; there is one from {ends}"
        around = f" (without a carrier: {', '.join(without)})" if (without := _around(state, stitch)) else ""
        return Said(Phase.DEGRADED, f"{where}: disjoint: {reason}{around}")
    if lacks_ipv6(state, connection, stitch):
        reason = f"{where}: {too_small_for_ipv6(path_mtu(stitch, state.fabric, state.sr_policies))}"
        return Said(Phase.DEGRADED if "ipv4" in families(connection) else Phase.UNSATISFIABLE, reason)
    stands = _stands(state, stitch, exceptional)
    return Said(Phase.ACTIVE, f"{where}: carried by {way_words(state, stitch)}" if stands else "")


def _given_up(state: State, connection: Connection, stitch: Stitch) -> str:
    """What of the requirements the way that is left does not hold."""
    limit_us, latency_us = connection.latency_us_max, whole_us(stitch, state.sr_policies)
    path = way_words(state, stitch)
    if limit_us is not None and latency_us > limit_us:
        return (
            f"latency: at most {limit_us / 1000:g} ms is required; "
            f"the way that is left, by {path}, takes {latency_us / 1000:g} ms"
        )
    if connection.disjoint is not None:
        return f"disjoint: two paths are required that share no {connection.disjoint}; the way that is left is {path}"
    lost = percent(connection.loss_ppm_max or 0)
    return f"loss: at most {lost} is required; what is lost on the way that is left, by {path}, is more or not known"


def tunnel_fault(state: State, stitch: Stitch, now_s: float) -> Said | None:
    """What is wrong with the tunnel to the next domain, as far as its gateway can be asked: of one that cannot,
    nothing new is known."""
    link = state.inventory.links.get(stitch.downstream.terms.border) if stitch.downstream is not None else None
    standing = state.nodes.get(link.a.node) if link is not None else None
    if link is None or standing is None or not standing.reachable or standing.description is None:
        return None
    border = next((border for border in standing.description.borders if border.name == link.a.border), None)
    if border is None:
        return None
    where = f"the tunnel of {link.a.node} to {link.domain} ({link.name})"
    if not border.latest_handshake_s:
        return Said(Phase.INSTALLING, f"{where} has not shaken hands yet")
    age_s = now_s - border.latest_handshake_s
    if age_s > HANDSHAKE_S_MAX:
        return Said(Phase.PENDING, f"{where} carries nothing: its last handshake was {age_s:.0f} s ago")
    return None


def lacks_ipv6(state: State, connection: Connection, stitch: Stitch) -> bool:
    return "ipv6" in families(connection) and path_mtu(stitch, state.fabric, state.sr_policies) < IPV6_LEAST_MTU


def families(connection: Connection) -> set[str]:
    return {family_of(prefix) for flow in connection.flows for prefix in flow.destination_prefixes}


def family_of(prefix: str) -> str:
    return "ipv6" if ":" in prefix else "ipv4"


def _renewal(state: State, where: str, session: Session, now_s: float) -> Iterator[Said]:
    """What is agreed still holds, but its renewal is refused, or cannot be said."""
    agreement = session.agreement
    if agreement is None or agreement.terms == session.terms:
        return
    ends = f"what is agreed ends at {print_time(agreement.terms.expires_s)}"
    if session.standing == Standing.AGREED and session.reason:
        reason = (
            f"{where}: {session.peer} does not renew {agreement.terms.id}: {session.reason}; {ends}, and is asked again"
        )
        yield Said(Phase.ACTIVE, reason, "RenewalRefused")
    elif (retry := state.retries.get(f"offer:{session.terms.id}:{session.terms.revision}")) is not None:
        reason = f"{where}: {session.peer} cannot be reached to renew {agreement.terms.id} ({retry.reason}); {ends}"
        yield Said(Phase.ACTIVE, reason, "RenewalPending")
    elif session.standing.unanswered and now_s - session.since_s > PATIENCE_S:
        since = print_time(session.since_s)
        reason = f"{where}: {session.peer} has not answered the renewal of {agreement.terms.id} since {since}; {ends}"
        yield Said(Phase.ACTIVE, reason, "RenewalPending")


def _waiting(state: State, stitch: Stitch) -> str:
    """Nodes, each with why it does not answer."""
    words = []
    for node in sorted(awaited_of(state, stitch)):
        standing, why = state.nodes.get(node), ""
        if standing is not None:
            why = standing.why(parts_refused(standing, node, stitch, state.inventory.links, state.sr_policies))
            why = why or ("" if standing.reachable else standing.reason)
        words.append(f"{node} ({why})" if why else node)
    return ", ".join(words) or "none"


# ---- nodes


def _of_nodes(
    state: State, intent_record: IntentRecord, stitches: list[Stitch], exceptional: frozenset[str]
) -> Iterator[Said]:
    """What its nodes have of it. What a node has once confirmed stays there, whatever becomes of its agent."""
    awaited = {
        *state.awaiting.get(f"intents/{intent_record.intent.name}", {}),
        *(node for stitch in stitches for node in awaited_of(state, stitch)),
    }
    concerned = awaited | (_nodes(state, intent_record, stitches) & exceptional if exceptional else set())
    if not concerned:
        return
    unconfirmed = {*intent_record.unconfirmed, *(node for stitch in stitches for node in _unconfirmed(state, stitch))}
    waiting = []
    owner = f"intents/{intent_record.intent.name}"
    for node in sorted(concerned):
        standing = state.nodes.get(node)
        if standing is None:
            continue
        if node not in exceptional:
            waiting.append(node)
            continue
        links = state.inventory.links
        parts = {owner}.union(*(parts_refused(standing, node, stitch, links, state.sr_policies) for stitch in stitches))
        if not standing.reachable and node in unconfirmed:
            yield Said(Phase.INSTALLING, f"node {node} unreachable: {standing.reason}; it has not confirmed this yet")
        elif not standing.reachable:
            reason = f"node {node} unreachable: {standing.reason}; its state is as last confirmed"
            yield Said(Phase.ACTIVE, reason, "NodeUnreachable")
        elif standing.refuses(parts) and node not in awaited and 0 <= standing.confirmed < standing.generation:
            reason = f"node {node} refused a newer state: {standing.why(parts)}; what it had of this it has confirmed"
            yield Said(Phase.ACTIVE, reason, "NodeRefused")
        elif standing.refuses(parts):
            yield Said(Phase.INSTALLING, f"node {node} refused its state: {standing.why(parts)}")
        elif not standing.has(0, parts):
            reason = f"node {node} has not confirmed its state since it was last connected"
            yield Said(Phase.INSTALLING, reason)
        elif node in awaited:
            waiting.append(node)
    if waiting:
        yield Said(Phase.INSTALLING, f"waiting for nodes: {', '.join(waiting)}")


def _nodes(state: State, intent_record: IntentRecord, stitches: list[Stitch]) -> set[str]:
    """With a part in it."""
    nodes = {node for stitch in stitches for node in plan_paths.nodes(stitch.plan, state.sr_policies)}
    isolation = intent_record.requirements.isolation
    return nodes if isolation is None else nodes | {host.node for host in isolation.hosts}


def awaited_of(state: State, stitch: Stitch) -> set[str]:
    """Nodes that have yet to confirm what it has there. That of its paths which is on its way to a node that answers
    changes nothing: it had others before."""
    nodes = set(state.awaiting.get(stitch.plan.name, {}))
    for id in stitch.plan.sr_policies:
        for node in state.awaiting.get(f"{SR_POLICIES}{id.name}", {}):
            standing = state.nodes.get(node)
            nodes |= {node} if standing is not None and (not standing.reachable or standing.rejected) else set()
    return nodes


def _unconfirmed(state: State, stitch: Stitch) -> set[str]:
    policies = (plan_paths.known(id, state.sr_policies) for id in stitch.plan.sr_policies)
    return {*stitch.unconfirmed, *(node for policy in policies for node in policy.unconfirmed)}


def _around(state: State, stitch: Stitch) -> list[str]:
    """Links that were down when its borders and paths were chosen."""
    return [name for name in _made_around(state, stitch) if "/" not in name]


def _made_around(state: State, stitch: Stitch) -> list[str]:
    """The same with what was passed by."""
    policies = (plan_paths.known(id, state.sr_policies) for id in stitch.plan.sr_policies)
    return sorted({*stitch.plan.around, *(name for policy in policies for name in policy.around)})


def _passing_by(state: State, where: str, stitch: Stitch) -> Iterator[Said]:
    """Stubs that it goes around."""
    parts = [part for part in _made_around(state, stitch) if part in state.stubs] if state.stubs else []
    if not parts:
        return
    passed = plan_paths.nodes(stitch.plan, state.sr_policies), plan_paths.links(stitch.plan, state.sr_policies)
    for part in parts:
        kind, _, name = part.partition("/")
        if name not in passed[kind == "links"]:
            yield Said(Phase.ACTIVE, f"{where}: goes around {passed_by(state, part)}", "PassesBy")


def passed_by(state: State, part: str) -> str:
    """A stub, and why it is one."""
    doubting = [key.split(" ")[0] for key in state.doubts if key.split(" ")[1] == part]
    if not doubting:
        return f"{part}, which was not confirmed until just now"
    standing = state.nodes.get(node := doubting[0])
    why = standing.why((part,)) or standing.reason if standing is not None else ""
    return f"{part}, which {node} has not confirmed since {print_time(int(state.doubts[f'{node} {part}']))}" + (
        f": {why}" if why else ""
    )


def _stands(state: State, stitch: Stitch, exceptional: frozenset[str]) -> bool:
    """All its nodes have confirmed it."""
    if awaited_of(state, stitch) or _unconfirmed(state, stitch):
        return False
    if not exceptional:
        return True
    links = state.inventory.links
    standings = [
        (standing, parts_refused(standing, node, stitch, links, state.sr_policies))
        for node in plan_paths.nodes(stitch.plan, state.sr_policies)
        if node in exceptional and (standing := state.nodes.get(node)) is not None
    ]
    return all(
        not node_standing.reachable or (node_standing.has(0, parts) and not node_standing.refuses(parts))
        for node_standing, parts in standings
    )


# ---- ways


def paths_of(state: State, stitch: Stitch) -> list[list[str]]:
    """For each pair of nodes where it enters and leaves: own nodes, and the domains after them as far as we know. Of a
    plan that passes services for each pair of a part of the way, from one service to the next."""
    plan = stitch.plan
    beyond = [plan.egress.domain] if plan.egress is not None else []
    if beyond and beyond[-1] != plan.connection.destination_domain:
        beyond.append(plan.connection.destination_domain)
    before = [plan.ingress.domain] if plan.ingress is not None else []
    stops = [before, *([waypoint.service] for waypoint in plan.via), beyond]
    return [
        [*stops[part], *plan_paths.known(id, state.sr_policies).nodes_from(id.headend), *stops[part + 1]]
        for part, id in zip(plan_paths.parts(plan), plan.sr_policies, strict=True)
    ]


def way_of(state: State, stitch: Stitch) -> list[str]:
    """The first of its paths, from end to end."""
    paths, parts = paths_of(state, stitch), plan_paths.parts(stitch.plan)
    whole: list[str] = []
    for part in range(len(stitch.plan.via) + 1):
        path = paths[parts.index(part)]
        whole += path[1:] if part else path  # the service is the last of the part before
    return whole


def way_words(state: State, stitch: Stitch) -> str:
    ways = [way_of(state, stitch)] if stitch.plan.via else paths_of(state, stitch)
    return "; ".join(" ".join(way) for way in ways)


class Segments(msgspec.Struct, frozen=True, kw_only=True):
    """What the traffic of one candidate path, or into a tunnel, is encapsulated with."""

    segments: tuple[str, ...]
    """SIDs, first segment first."""
    containers: tuple[str, ...]
    """The same as packets carry them: the first is their destination, the others are in an SRH."""


def branches(state: State, stitch: Stitch, inside: list[list[Segments]] | None = None) -> list[dict[str, Any]]:
    """The paths, each with its segment lists; `inside`: of those in this domain, where they are known."""
    last = _to_neighbour(state, stitch)
    inside = _inside(state, stitch) if inside is None else inside
    triples = zip(paths_of(state, stitch), inside, measured_paths(state, stitch), strict=True)
    return [
        {
            "path": path,
            "segments": [list(segments.segments) for segments in (*lists, *last)],
            "containers": [list(segments.containers) for segments in (*lists, *last)],
        }
        | ({"measured": [shown_measurement(measurement) for measurement in measured]} if measured else {})
        for path, lists, measured in triples
    ]


def measured_paths(state: State, stitch: Stitch) -> list[tuple[PathMeasurement, ...]]:
    """Of each SR Policy of its plan what its headend's probes say of the candidate paths, best first."""
    return [_measured(state, stretch) for stretch in stretches(stitch.plan) if stretch.direction == FORWARD]


def _measured(state: State, stretch: Stretch) -> tuple[PathMeasurement, ...]:
    return path_measurements(state, state.sr_policies[stretch.id.name], stretch.head) if stretch.crosses else ()


def path_measurements(state: State, policy: SrPolicy, headend: str) -> tuple[PathMeasurement, ...]:
    """What the probes of one of its ends say of its candidate paths, best first."""
    standing = state.nodes.get(headend)
    measured = standing.measured_paths if standing is not None else ()
    here = (measurement for measurement in measured if measurement.liveness_group == policy.number_at(headend))
    return tuple(sorted(here, key=lambda measurement: measurement.slot))


def _measured_whole(state: State, stitches: list[Stitch]) -> dict[str, float]:
    """Of the worst of its ways, where all of them are inside the domain and known; else nothing."""
    taken: list[tuple[int, float]] = []
    for stitch in stitches:
        if stitch.plan.ingress is not None or stitch.plan.egress is not None:
            return {}
        of_parts: dict[int, int] = {}
        losses = [0.0]
        measurements = zip(
            plan_paths.parts(stitch.plan), stitch.plan.sr_policies, measured_paths(state, stitch), strict=True
        )
        for part, policy, measured in measurements:
            if not policy.crosses:
                continue
            alive = [measurement for measurement in measured if measurement.is_alive and measurement.delay_us]
            if not alive:
                return {}
            of_parts[part] = max(of_parts.get(part, 0), alive[0].delay_us)
            losses.append(alive[0].loss_percent)
        if of_parts:
            taken.append((sum(of_parts.values()), max(losses)))
    if not taken:
        return {}
    return {
        "latency_ms": max(delay_us for delay_us, _ in taken) / 1000,
        "loss_percent": max(loss_percent for _, loss_percent in taken),
    }


def shown_measurement(measurement: PathMeasurement) -> dict[str, Any]:
    shown: dict[str, Any] = {"alive": measurement.is_alive, "loss_percent": measurement.loss_percent}
    if measurement.delay_us:
        shown |= {"latency_ms": measurement.delay_us / 1000, "jitter_ms": measurement.jitter_us / 1000}
    return shown


def segment_lists(state: State, stitch: Stitch) -> list[Segments]:
    """What the traffic gets in this domain, best candidate path first."""
    return [*(segments for branch in _inside(state, stitch) for segments in branch), *_to_neighbour(state, stitch)]


def _inside(state: State, stitch: Stitch) -> list[list[Segments]]:
    return [_ways(state, stitch, stretch) for stretch in stretches(stitch.plan) if stretch.direction == FORWARD]


def _ways(state: State, stitch: Stitch, stretch: Stretch) -> list[Segments]:
    *_, function = at_tail(stretch)
    if function not in stitch.ids:
        return []
    sid = numbering.sid(state.fabric.locators[stretch.tail], stitch.ids[function])
    lists = state.fabric.segment_lists(plan_paths.known(stretch.id, state.sr_policies), stretch.head)
    return [
        Segments(
            segments=segment_list.containers.sids(sid),
            containers=tuple(map(numbering.sid_text, segment_list.containers.sent(sid))),
        )
        for segment_list in lists
    ]


def _to_neighbour(state: State, stitch: Stitch) -> list[Segments]:
    _, downstream = borders(stitch, state.fabric)
    if downstream is None:
        return []
    return [Segments(segments=(downstream.peer.sid,), containers=(downstream.peer.sid,))]


# ---- what is required


def _requirements(requirements: Requirements) -> list[str]:
    """A sentence each."""
    lines = []
    if requirements.isolation is not None:
        hosts = ", ".join(host.name for host in requirements.isolation.hosts)
        lines.append(f"isolate {hosts} in {requirements.isolation.network}")
    for connection in requirements.connections:
        flows = [
            f"{flow.source} ({' '.join(flow.source_prefixes)}) reaches {flow.destination} "
            f"({' '.join(flow.destination_prefixes)}) on {' '.join(map(print_ports, flow.ports)) or 'everything'}"
            for flow in connection.flows
        ]
        bounds = (
            [f"latency <= {connection.latency_us_max / 1000:g} ms"] if connection.latency_us_max is not None else []
        )
        bounds += [f"encryption {connection.encryption}"] if connection.encryption != Encryption.NONE else []
        bounds += [f"trust >= {connection.trust_min.name.lower()}"] if connection.trust_min is not None else []
        bounds += [f"loss <= {percent(connection.loss_ppm_max)}"] if connection.loss_ppm_max is not None else []
        bounds += [f"disjoint {connection.disjoint}"] if connection.disjoint is not None else []
        bounds += [f"avoid labels {words(connection.avoid_labels)}"] if connection.avoid_labels else []
        bounds += [f"avoid nodes {' '.join(connection.avoid_nodes)}"] if connection.avoid_nodes else []
        bounds += [f"include nodes {' '.join(connection.include_nodes)}"] if connection.include_nodes else []
        bounds += ["no transit"] if connection.direct else []
        bounds += [f"prefer {connection.prefer}"] if str(connection.prefer) else []
        bounds += [f"dscp {dscp.words(connection.dscp)}"] if connection.dscp else []
        lines += [", ".join((flow, *bounds)) for flow in flows]
    return lines


def _origins(requirements: Requirements) -> list[dict[str, str]]:
    """Where each requirement comes from."""
    return [
        {
            "requirement": origin.requirement,
            "from": origin.origin,
            "connection": f"{origin.source_network} {origin.destination_network}",
        }
        | ({"explain": origin.explain} if origin.explain else {})
        for origin in requirements.origins
    ]
