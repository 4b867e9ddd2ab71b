"""Requirements -> plan: which own paths and which border carry a connection."""

from collections.abc import Collection

import msgspec

from controller.fulfillment.graph import Graph
from controller.fulfillment.paths import best, longest, order, sr_policy
from controller.model.constraints import Constraints
from controller.model.intent import Encryption, Trust
from controller.model.inventory import Link
from controller.model.plan import Plan, Way
from controller.model.requirements import Connection, Unsatisfiable
from controller.model.sr_policy import SrPolicy

BINDINGS = ("segments", "transit", "latency", "trust", "reachability")
"""What may be held by no way. The last thing that is looked at first: who fails there has met the most."""


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
    trust_min = connection.trust_min or Trust.PUBLIC
    inside_min = _inside_min(connection)
    trusted = Constraints(trust_min=inside_min)
    failures: list[Unsatisfiable] = []
    plans: list[Plan] = []
    for way, trust in exits:
        targets = [way.node] if way is not None else sorted({host.node for host in connection.destinations})
        over = f" over {way.border}" if way is not None else ""
        if trust < trust_min:
            message = f"trust of at least {trust_min.name.lower()} is required; the way{over} has {trust.name.lower()}"
            failures.append(Unsatisfiable(binding="trust", message=message))
            continue
        routes = {
            (entry, target): best(graph, entry, target, trusted, hops_max=len(graph.topology.nodes))
            for entry in entries
            for target in targets
        }
        if lost := [ends for ends, route in routes.items() if route is None]:
            binding = "reachability" if inside_min == Trust.PUBLIC else "trust"
            message = f"no path of links with trust {inside_min.name.lower()} leads from {lost[0][0]} to {lost[0][1]}"
            failures.append(Unsatisfiable(binding=binding, message=message))
            continue
        beyond_us = way.latency_us if way is not None else 0
        worst_us = beyond_us + max(route.latency_us for route in routes.values() if route is not None)
        limit_us = connection.latency_us_max
        if limit_us is not None and worst_us > limit_us:
            message = (
                f"latency of at most {limit_us / 1000:g} ms is required; the way{over} takes {worst_us / 1000:g} ms"
            )
            failures.append(Unsatisfiable(binding="latency", message=message))
            continue
        if connection.direct and way is not None and way.domain != connection.destination_domain:
            message = f"no third domain may carry this; the way{over} leads through {way.domain}"
            failures.append(Unsatisfiable(binding="transit", message=message))
            continue
        policies: list[SrPolicy] = []
        constraints = _constraints(connection, None if limit_us is None else limit_us - beyond_us)
        for entry, target in [(entry, target) for entry in entries for target in targets]:
            policy = sr_policy(graph, entry, target, constraints)
            if policy is None:
                message = f"the path from {entry} to {target} needs more than {longest(graph)} links"
                failures.append(Unsatisfiable(binding="segments", message=message))
                break
            policies.append(policy)
        else:
            plans.append(
                Plan(
                    name=name,
                    owner=owner,
                    connection=connection,
                    ingress=ingress,
                    egress=way,
                    sr_policies=tuple(policies),
                    latency_us=beyond_us + max(policy.latency_us for policy in policies),
                    cost=(way.cost if way is not None else 0) + max(policy.cost for policy in policies),
                    priority=priority,
                    serial=serial,
                    around=graph.down,
                )
            )
    if not plans:
        least = _least_bad(failures)
        return msgspec.structs.replace(least, message=least.message + _without(graph))
    return min(plans, key=_preference)


def repath(plan: Plan, graph: Graph, latency_us_max: int | None) -> Plan | None:
    """The same plan by the best paths that there are now between the same ends.

    None: they do not hold what is required. `latency_us_max`: of the own paths.
    """
    connection = plan.connection
    if any(way is not None and way.border in graph.down for way in (plan.ingress, plan.egress)):
        return None
    policies, constraints = [], _constraints(connection, latency_us_max)
    for before in plan.sr_policies:
        policy = sr_policy(graph, before.headend, before.endpoint, constraints)
        if policy is None:
            return None
        policies.append(policy)
    beyond = plan.egress
    return msgspec.structs.replace(
        plan,
        sr_policies=tuple(policies),
        latency_us=(beyond.latency_us if beyond is not None else 0) + max(policy.latency_us for policy in policies),
        cost=(beyond.cost if beyond is not None else 0) + max(policy.cost for policy in policies),
        around=graph.down,
    )


def _constraints(connection: Connection, latency_us_max: int | None) -> Constraints:
    """Of own paths, which may take `latency_us_max`."""
    return Constraints(prefer=connection.prefer, latency_us_max=latency_us_max, trust_min=_inside_min(connection))


def _inside_min(connection: Connection) -> Trust:
    """Of own links: only what crosses a border is in a tunnel."""
    if connection.encryption != Encryption.NONE:
        return Trust.OWN
    return connection.trust_min or Trust.PUBLIC


def _without(graph: Graph) -> str:
    return f" (without a carrier: {', '.join(graph.down)})" if graph.down else ""


def _preference(plan: Plan) -> tuple[tuple[int, int], str]:
    """What is less is preferred; the border's name decides where nothing else does."""
    border = plan.egress.border if plan.egress is not None else ""
    return order(plan.connection.prefer, plan.latency_us, plan.cost), border


def leads_better(plan: Plan, than: Plan) -> bool:
    """Whether it is preferred, and takes another border: paths to the same one are changed without a new plan."""
    return plan.egress != than.egress and _preference(plan) < _preference(than)


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
    return Unsatisfiable(binding=best.binding, message="; ".join([best.message, *others]))
