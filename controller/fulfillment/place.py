"""Requirements -> plan: which own paths and which border carry a connection."""

import itertools
from collections.abc import Collection
from functools import lru_cache
from typing import NamedTuple

import msgspec

from controller.fulfillment.advertising import trust_of
from controller.fulfillment.graph import Graph, has_any
from controller.fulfillment.paths import order, sr_policy
from controller.fulfillment.plan_paths import SrPolicies, cost, latency_us, legs_of, links, nodes, parts
from controller.fulfillment.shortfall import BINDINGS, percent, shortfall, words
from controller.fulfillment.waypoints import down_on_way, passed
from controller.model.advertising import heard_name
from controller.model.constraints import Constraints
from controller.model.intent import Encryption, Prefer, Trust
from controller.model.inventory import Link
from controller.model.plan import Plan, Way
from controller.model.requirements import Connection, Unsatisfiable, Waypoint
from controller.model.sr_policy import SrPolicyId


def place(
    connection: Connection,
    graph: Graph,
    *,
    name: str,
    owner: str,
    ingress: Way | None = None,
    visited: Collection[str] = (),
    excluded: Collection[str] = (),
    priority: int = 100,
    serial: int = 0,
) -> Plan | Unsatisfiable:
    """Of the ways that hold all that is required, the one that is preferred: the quickest, then the cheapest; or the
    cheapest, then the quickest.

    `ingress`: where the traffic comes from, if not from own hosts. `visited`: domains it has passed. `excluded`:
    borders not to be used. Inside the domain, links must be `own` where encryption is required: only what crosses a
    border is in a tunnel. The trust of the destination's domain does not count: the intent names it.
    """
    if ingress is not None and ingress.border in graph.down:
        return Unsatisfiable(binding="reachability", message=f"{ingress.border} has no carrier")
    entries = sorted({host.node for host in connection.sources}) if ingress is None else [ingress.node]
    if connection.destination_domain == graph.own:
        exits: list[tuple[Way | None, Trust]] = [(None, Trust.OWN)]
    else:
        ways = _ways(connection, graph, {*visited, graph.own, *connection.avoid_domains}, excluded)
        exits = [(way, trust) for way, trust in ways if ingress is None or way.border != ingress.border]
    if not exits:
        message = f"no border leads from {graph.own} to {connection.destination_domain}"
        if excluded:
            message += f" except {', '.join(sorted(excluded))}, where it was refused"
        return Unsatisfiable(binding="reachability", message=message + _without(graph))
    via = passed(connection, graph.services_down)
    if stopped := down_on_way(connection, graph.services_down) if len(via) == len(connection.via) else ():
        message = f"{', '.join(stopped)} is down, and what is to pass it stops until it is back"
        return Unsatisfiable(binding="via", message=message)
    failures: list[Unsatisfiable] = []
    plans: list[Plan] = []
    for way, trust in exits:
        targets = [way.node] if way is not None else sorted({host.node for host in connection.destinations})
        if way is not None and (objection := _border_objection(connection, way, trust, graph)):
            failures.append(objection)
            continue
        limit_us, beyond_us = connection.latency_us_max, way.latency_us if way is not None else 0
        legs = _legs(entries, via, targets)
        colors = _colors(connection, legs, graph, None if limit_us is None else limit_us - beyond_us)
        ids = [
            (part, _id(head, tail, color))
            for part, (leg, color) in enumerate(zip(legs, colors, strict=True))
            for head in leg.heads
            for tail in leg.tails
        ]
        lacking = next((id for _, id in ids if not _holds(graph, id)), None)
        if lacking is not None:
            failures.append(shortfall(graph, lacking.headend, lacking.endpoint, lacking.color, way))
        else:
            plans.append(
                Plan(
                    name=name,
                    owner=owner,
                    connection=connection,
                    ingress=ingress,
                    egress=way,
                    sr_policies=tuple(id for _, id in ids),
                    via=via,
                    parts=tuple(part for part, _ in ids) if via else (),
                    priority=priority,
                    serial=serial,
                    around=graph.around,
                )
            )
    if not plans:
        least = _least_bad(failures)
        return msgspec.structs.replace(least, message=least.message + _without(graph))
    if len(plans) == 1:
        return plans[0]
    return min(plans, key=lambda plan: _preference(plan, graph, _best(plan, graph)))


class _Leg(NamedTuple):
    """A part of the way, between two services, or one and an end."""

    heads: list[str]
    tails: list[str]

    @property
    def crosses(self) -> bool:
        return any(head != tail for head in self.heads for tail in self.tails)


def _legs(entries: list[str], via: tuple[Waypoint, ...], targets: list[str]) -> list[_Leg]:
    stops = [entries, *([waypoint.node] for waypoint in via), targets]
    return [_Leg(heads, tails) for heads, tails in itertools.pairwise(stops)]


def _colors(connection: Connection, legs: list[_Leg], graph: Graph, latency_us_max: int | None) -> list[Constraints]:
    """Of each part of the way. What may be lost or take time on the whole is shared out: loss evenly; of time each gets
    what its quickest way takes, and an even share of what is left."""
    whole = color_of(connection, latency_us_max)
    crossing = sum(leg.crosses for leg in legs)
    if crossing < 2:
        return [whole] * len(legs)
    if whole.loss_ppm_max is not None:
        whole = msgspec.structs.replace(whole, loss_ppm_max=whole.loss_ppm_max // crossing)
    if latency_us_max is None:
        return [whole] * len(legs)
    unbound = msgspec.structs.replace(whole, latency_us_max=None, prefer=Prefer())
    least_us = [_quickest_us(leg, graph, unbound) for leg in legs]
    left_us = latency_us_max - sum(least_us)
    shares_us = [us + (left_us // crossing if leg.crosses else 0) for leg, us in zip(legs, least_us, strict=True)]
    return [msgspec.structs.replace(whole, latency_us_max=max(us, 0)) for us in shares_us]


def _quickest_us(leg: _Leg, graph: Graph, color: Constraints) -> int:
    """Of the farthest two of its ends; as if it took no time where there is no way at all."""
    policies = (sr_policy(graph, _id(head, tail, color)) for head in leg.heads for tail in leg.tails)
    return max((policy.latency_us for policy in policies if policy is not None), default=0)


@lru_cache(16_384)
def _id(headend: str, endpoint: str, color: Constraints) -> SrPolicyId:
    """One value for all plans that take the same."""
    return SrPolicyId(headend=headend, endpoint=endpoint, color=color)


def _holds(graph: Graph, id: SrPolicyId) -> bool:
    """Whether there are paths as its color says, and two where it says so."""
    policy = sr_policy(graph, id)
    return policy is not None and (id.color.disjoint is None or len(policy.candidate_paths) != 1)


def color_of(connection: Connection, latency_us_max: int | None) -> Constraints:
    """Of own paths, which may take `latency_us_max`."""
    return Constraints(
        prefer=connection.prefer,
        latency_us_max=latency_us_max,
        loss_ppm_max=connection.loss_ppm_max,
        trust_min=_inside_min(connection),
        avoid_labels=connection.avoid_labels,
        avoid_nodes=connection.avoid_nodes,
        include_nodes=connection.include_nodes,
        disjoint=connection.disjoint,
    )


def _border_objection(connection: Connection, way: Way, trust: Trust, graph: Graph) -> Unsatisfiable | None:
    """What of the requirements the way beyond our own paths does not hold; None: it holds them."""
    trust_min, over = connection.trust_min or Trust.PUBLIC, f"the way over {way.border}"
    if trust < trust_min:
        message = f"trust of at least {trust_min.name.lower()} is required; {over} has {trust.name.lower()}"
        return Unsatisfiable(binding="trust", message=message)
    if connection.encryption == Encryption.WIREGUARD_PQ and way.border not in graph.renewing:
        message = f"encryption wireguard-pq is required; {over} has no keys that are renewed, here or at {way.domain}"
        return Unsatisfiable(binding="encryption", message=message)
    if connection.avoid_labels:
        labels = graph.inventory.links[way.border].labels
        said = f"has {words(labels)}" if has_any(labels, connection.avoid_labels) else "leads through what others label"
        return Unsatisfiable(
            binding="avoid", message=f"{words(connection.avoid_labels)} is to be avoided; {over} {said}"
        )
    if connection.loss_ppm_max is not None:
        message = f"loss of at most {percent(connection.loss_ppm_max)} is required; what is lost on {over} is not known"
        return Unsatisfiable(binding="loss", message=message)
    if connection.disjoint is not None:
        message = f"disjoint paths are required; whether those of others on {over} are is not known"
        return Unsatisfiable(binding="disjoint", message=message)
    if connection.direct and way.domain != connection.destination_domain:
        message = f"no third domain may carry this; {over} leads through {way.domain}"
        return Unsatisfiable(binding="transit", message=message)
    return None


def recolored(plan: Plan, graph: Graph, latency_us_max: int | None) -> Plan | None:
    """The same plan between the same ends, its own paths bound to another latency; None: there are none that hold what
    is required."""
    if any(way is not None and way.border in graph.down for way in (plan.ingress, plan.egress)):
        return None
    legs = [_Leg(*map(sorted, ends)) for ends in legs_of(plan)]
    colors = _colors(plan.connection, legs, graph, latency_us_max)
    ids = tuple(
        msgspec.structs.replace(id, color=colors[part]) for part, id in zip(parts(plan), plan.sr_policies, strict=True)
    )
    if any(sr_policy(graph, id) is None for id in ids):
        return None
    return msgspec.structs.replace(plan, sr_policies=ids)


def _inside_min(connection: Connection) -> Trust:
    """Of own links: only what crosses a border is in a tunnel."""
    if connection.encryption != Encryption.NONE:
        return Trust.OWN
    return connection.trust_min or Trust.PUBLIC


def _without(graph: Graph) -> str:
    return f" (without a carrier: {', '.join(graph.down)})" if graph.down else ""


def _preference(plan: Plan, graph: Graph, sr_policies: SrPolicies) -> tuple[bool, tuple[int, int], str]:
    """What is less is preferred; the border's name decides where nothing else does."""
    border = plan.egress.border if plan.egress is not None else ""
    is_doubted = graph.passes_stub(nodes(plan, sr_policies), {*links(plan, sr_policies), border})
    return is_doubted, order(plan.connection.prefer, latency_us(plan, sr_policies), cost(plan, sr_policies)), border


def _best(plan: Plan, graph: Graph) -> SrPolicies:
    """The paths that it has if it begins now."""
    return {id.name: policy for id in plan.sr_policies if (policy := sr_policy(graph, id)) is not None}


def predicted(plan: Plan, graph: Graph) -> tuple[int, int]:
    """Latency in us and cost of the whole way, as far as we know, if it begins now."""
    sr_policies = _best(plan, graph)
    return latency_us(plan, sr_policies), cost(plan, sr_policies)


def leads_better(plan: Plan, graph: Graph, than: Plan, sr_policies: SrPolicies) -> bool:
    """Whether it is preferred to what is there, and takes another border: paths to the same one are changed without a
    new plan."""
    return plan.egress != than.egress and _preference(plan, graph, _best(plan, graph)) < _preference(
        than, graph, sr_policies
    )


def _ways(
    connection: Connection, graph: Graph, visited: Collection[str], excluded: Collection[str]
) -> list[tuple[Way, Trust]]:
    """Borders that lead to the destination's domain, and the least trust on the way."""
    ways = []
    target = connection.destination_domain
    for link in graph.borders:
        if link.name in excluded or link.domain in visited:
            continue
        neighbour = graph.inventory.domains.get(link.domain)
        if link.domain == target:
            ways.append((_way(link, 0, 0), link.trust))
        elif neighbour is not None and not neighbour.reach:
            route = graph.routes.get(heard_name(link.domain, target))
            for gateway in route.route.gateways if route is not None and not {*route.route.path} & {*visited} else ():
                if gateway.border == link.name and route is not None:
                    trust = trust_of(route.route, link, neighbour)
                    ways.append((_way(link, gateway.latency_us, gateway.cost), trust))
        elif neighbour is not None:
            for reach in neighbour.reach:
                if reach.domain == target:
                    trust = min(link.trust, neighbour.trust, reach.trust)
                    ways.append((_way(link, reach.latency_us, reach.cost), trust))
    return ways


def _way(link: Link, beyond_us: int, beyond_cost: int) -> Way:
    return Way(
        border=link.name,
        node=link.a.node,
        domain=link.domain,
        delay_us=link.delay_us,
        latency_us=link.delay_us + beyond_us,
        cost=link.cost + beyond_cost,
    )


def _least_bad(failures: list[Unsatisfiable]) -> Unsatisfiable:
    """What was looked at last met the most requirements; all reasons are told."""
    best = min(failures, key=lambda failure: BINDINGS.index(failure.binding))
    others = [failure.message for failure in failures if failure is not best]
    return Unsatisfiable(
        binding=best.binding,
        message="; ".join([best.message, *others]),
        undecided=any(failure.undecided for failure in failures),
    )
