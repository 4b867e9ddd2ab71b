"""The tables of the state that grow with the number of intents: by which keys, and from when on, a step looks for what
is in them."""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping

from controller.fulfillment.plan_entries import terms_in_force
from controller.fulfillment.terms import network_of
from controller.model.agreement import TunnelEnd, opened_mandate
from controller.model.persistent import PersistentMap
from controller.model.plan import Plan
from controller.model.sr_policy import SrPolicy, SrPolicyId
from controller.model.stitch import IntentRecord, Session, Stage, Standing, Stitch

WAITS, ISOLATES = "waits", "isolates"
"""Intents of which something is tried again later; that isolate hosts."""
FOR_OTHERS, UNANSWERED, AROUND = "for others", "unanswered", "around"
"""Courses that carry what others ask for; of these, those whose offer is not answered; plans and SR Policies that were
made around links that were down, or go on without the bound that is required."""


def node_key(name: str) -> str:
    return f"node {name}"


def link_key(name: str) -> str:
    """Of borders of a plan; of candidate paths of an SR Policy."""
    return f"link {name}"


def sr_policy_key(name: str) -> str:
    """Of the plans whose traffic it takes."""
    return f"sr policy {name}"


def peer_key(name: str) -> str:
    """On either side."""
    return f"peer {name}"


def asker_key(name: str) -> str:
    """Of what a peer asks for."""
    return f"for {name}"


def mandate_key(id: str) -> str:
    """Of what others ask for."""
    return f"mandate {id}"


def no_way_key(peer: str) -> str:
    """Of intents that it refused for want of a way."""
    return f"no way {peer}"


def end_key(border: str, what: str) -> str:
    """Of a neighbour's end of the tunnel there: by its key, and by its endpoint."""
    return f"end {border} {what}"


def bundle_key(name: str) -> str:
    """Of stitches."""
    return f"bundle {name}"


def way_key(border: str, source: str, destination: str) -> str:
    """Of bundles: where they leave us, and between which networks."""
    return f"{border} {source} {destination}"


def candidate_key(domain: str) -> str:
    """Of intents that describe a service, one that could be it is there."""
    return f"candidate {domain}"


def network_key(name: str) -> str:
    """At either end; of an intent also that of which it isolates hosts."""
    return f"network {name}"


def stitches(items: Mapping[str, Stitch] | Iterable[tuple[str, Stitch]] = ()) -> PersistentMap[Stitch]:
    """Due when a lease ends or is to be renewed, or a stitch has lingered."""
    return PersistentMap(items, keys=_stitch_keys, due=_stitch_due_s)


def sr_policies(items: Mapping[str, SrPolicy] | Iterable[tuple[str, SrPolicy]] = ()) -> PersistentMap[SrPolicy]:
    return PersistentMap(items, keys=_sr_policy_keys)


def over(
    stitches: PersistentMap[Stitch],
    sr_policies: PersistentMap[SrPolicy],
    links: Iterable[str],
    nodes: Iterable[str] = (),
) -> list[str]:
    """Stitches whose traffic may take one of these."""
    keys = [*map(link_key, links), *map(node_key, nodes)]
    return stitches.by(*keys, *map(sr_policy_key, sr_policies.by(*keys)))


def promised_key(name: str) -> str:
    """Of those of the plans over an SR Policy about which there is an agreement, or is to be."""
    return f"promised over {name}"


def service_key(name: str) -> str:
    """Of intents and stitches whose traffic is to pass it."""
    return f"service {name}"


def intent_records(
    items: Mapping[str, IntentRecord] | Iterable[tuple[str, IntentRecord]] = (),
) -> PersistentMap[IntentRecord]:
    return PersistentMap(items, keys=_intent_record_keys)


def bundles(items: Mapping[str, Session] | Iterable[tuple[str, Session]] = ()) -> PersistentMap[Session]:
    return PersistentMap(items, keys=_bundle_keys)


def awaiting(
    items: Mapping[str, dict[str, int]] | Iterable[tuple[str, dict[str, int]]] = (),
) -> PersistentMap[dict[str, int]]:
    """By node."""
    return PersistentMap(items, keys=_awaited_nodes)


def times(items: Mapping[str, float] | Iterable[tuple[str, float]] = ()) -> PersistentMap[float]:
    """Of each name when it is due."""
    return PersistentMap(items, due=float)


def _intent_record_keys(intent_record: IntentRecord) -> Collection[str]:
    requirements, isolation = intent_record.requirements, intent_record.requirements.isolation
    keys = {network_key(connection.source_network) for connection in requirements.connections}
    keys |= {network_key(connection.destination_network) for connection in requirements.connections}
    keys |= {service_key(waypoint.service) for connection in requirements.connections for waypoint in connection.via}
    if any(connection_status.retry_s for connection_status in intent_record.connection_statuses):
        keys.add(WAITS)
    keys |= {no_way_key(peer) for status in intent_record.connection_statuses for peer in status.no_way}
    keys |= {
        candidate_key(each.service.split("/")[0])
        for selection in requirements.selections
        for each in selection.considered
    }
    if isolation is not None:
        keys |= {ISOLATES, network_key(isolation.network), *(node_key(host.node) for host in isolation.hosts)}
    return keys


def _bundle_keys(session: Session) -> Collection[str]:
    flow = session.terms.flows[0]
    return (way_key(session.terms.border, flow.source, network_of(flow.destination)),)


def _awaited_nodes(awaited: dict[str, int]) -> Collection[str]:
    return awaited


def _stitch_keys(stitch: Stitch) -> Collection[str]:
    plan = stitch.plan
    links = {way.border for way in (plan.ingress, plan.egress) if way is not None}
    ends = (plan.connection.source_network, plan.connection.destination_network)
    keys = {*map(node_key, plan.ends), *map(link_key, links), *map(network_key, ends), plan.owner}
    keys |= {service_key(waypoint.service) for waypoint in plan.connection.via}
    names = named_sr_policies(stitch)
    keys |= {sr_policy_key(name) for name in names}
    if stitch.upstream is not None or stitch.downstream is not None:
        keys |= {promised_key(name) for name in names}
    keys |= {peer_key(session.peer) for session in (stitch.upstream, stitch.downstream) if session is not None}
    for border, end in _neighbours_ends(stitch):
        keys |= {end_key(border, end.public_key), end_key(border, end.endpoint)}
    if plan.around or is_unbound(plan):
        keys.add(AROUND)
    if plan.bundle:
        keys.add(bundle_key(plan.bundle))
    if stitch.upstream is not None:
        keys |= {FOR_OTHERS, asker_key(stitch.upstream.peer)}
        keys.add(mandate_key(opened_mandate(stitch.upstream.terms.mandate).id))
        if stitch.upstream.standing.unanswered:
            keys.add(UNANSWERED)
    return keys


def named_sr_policies(stitch: Stitch) -> dict[str, SrPolicyId]:
    """All that it needs, by name."""
    plans = (stitch.plan,) if stitch.wanted is None else (stitch.plan, stitch.wanted)
    return {id.name: id for plan in plans for id in plan.sr_policies if id.crosses}


def is_unbound(plan: Plan) -> bool:
    """It goes on slower than is required, and its paths are no longer held to that."""
    is_bound = all(id.color.latency_us_max is not None for id in plan.sr_policies)
    return plan.connection.latency_us_max is not None and not is_bound


def _sr_policy_keys(policy: SrPolicy) -> Collection[str]:
    keys = {link_key(link) for path in policy.candidate_paths for link in path.links}
    keys |= {node_key(node) for path in policy.candidate_paths for node in path.nodes}
    return keys | {AROUND} if policy.around else keys


def _neighbours_ends(stitch: Stitch) -> Iterator[tuple[str, TunnelEnd]]:
    upstream, downstream = stitch.upstream, stitch.downstream
    if upstream is not None:
        yield upstream.terms.border, upstream.terms.offeror_end
    if downstream is not None and downstream.agreement is not None:
        yield downstream.terms.border, downstream.agreement.acceptor_end


def _stitch_due_s(stitch: Stitch) -> float:
    sessions = [session for session in (stitch.upstream, stitch.downstream) if session is not None]
    ends_s = [math.inf, *((terms_in_force(session) or session.terms).expires_s for session in sessions)]
    if stitch.upstream is not None and stitch.upstream.put_off_s:
        ends_s.append(stitch.upstream.put_off_s)
    if stitch.stage == Stage.LINGERING:
        ends_s.append(stitch.until_s)
    if stitch.upstream is None and stitch.stage == Stage.ACTIVE and stitch.downstream is not None:
        ends_s.append(renewal_s(stitch.downstream))
    return min(ends_s)


def renewal_s(session: Session) -> float:
    """When half of what was left when we last asked has passed."""
    if session.standing != Standing.AGREED or session.agreement is None:
        return math.inf
    return session.since_s + (session.agreement.terms.expires_s - session.since_s) / 2
