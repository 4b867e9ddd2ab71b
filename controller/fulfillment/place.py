"""Requirements -> plan: which own paths and which border carry a connection."""

from collections.abc import Collection

from controller.fulfillment.graph import Graph, Route, shortest
from controller.model.intent import Encryption, Trust
from controller.model.inventory import Link
from controller.model.plan import Plan, Way
from controller.model.requirements import Connection, Unsatisfiable
from controller.model.sr_policy import CandidatePath, SrPolicy
from dataplane.reasons import MAX_SEGMENTS

PREFERENCES = (200, 100)
"""Of the candidate paths, best first."""


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
) -> Plan | Unsatisfiable:
    """The quickest way that holds all that is required.

    `ingress`: where the traffic comes from, if not from own hosts. `visited`: domains it has passed. `excluded`:
    borders not to be used. Inside the domain, links must be `own` where encryption is required: only what crosses a
    border is in a tunnel. The trust of the destination's domain does not count: the intent names it.
    """
    entries = sorted({host.node for host in connection.sources}) if ingress is None else [ingress.node]
    if connection.destination_domain == graph.own:
        exits: list[tuple[Way | None, Trust]] = [(None, Trust.OWN)]
    else:
        ways = _ways(connection, graph, {*visited, graph.own, *connection.avoid_domains}, excluded)
        if connection.direct:
            ways = [(way, trust) for way, trust in ways if way.domain == connection.destination_domain]
        exits = [(way, trust) for way, trust in ways if ingress is None or way.border != ingress.border]
    if not exits:
        through = " without a third domain" if connection.direct else ""
        message = f"no border leads from {graph.own} to {connection.destination_domain}{through}"
        if excluded:
            message += f" except {', '.join(sorted(excluded))}, where it was refused"
        return Unsatisfiable(binding="reachability", message=message)
    trust_min = connection.trust_min or Trust.PUBLIC
    inside_min = Trust.OWN if connection.encryption != Encryption.NONE else trust_min
    routes = {entry: shortest(graph, entry, trust_min=inside_min) for entry in entries}
    failures: list[Unsatisfiable] = []
    plans: list[Plan] = []
    for way, trust in exits:
        targets = [way.node] if way is not None else sorted({host.node for host in connection.destinations})
        over = f" over {way.border}" if way is not None else ""
        if trust < trust_min:
            message = f"trust of at least {trust_min.name.lower()} is required; the way{over} has {trust.name.lower()}"
            failures.append(Unsatisfiable(binding="trust", message=message))
            continue
        if lost := [(entry, target) for entry in entries for target in targets if target not in routes[entry]]:
            binding = "reachability" if inside_min == Trust.PUBLIC else "trust"
            message = f"no path of links with trust {inside_min.name.lower()} leads from {lost[0][0]} to {lost[0][1]}"
            failures.append(Unsatisfiable(binding=binding, message=message))
            continue
        beyond_us = way.latency_us if way is not None else 0
        worst_us = beyond_us + max(routes[entry][target].latency_us for entry in entries for target in targets)
        limit_us = connection.latency_us_max
        if limit_us is not None and worst_us > limit_us:
            message = (
                f"latency of at most {limit_us / 1000:g} ms is required; the way{over} takes {worst_us / 1000:g} ms"
            )
            failures.append(Unsatisfiable(binding="latency", message=message))
            continue
        pairs = [(entry, target) for entry in entries for target in targets]
        budget_us = None if limit_us is None else limit_us - beyond_us
        policies = tuple(_sr_policy(routes[a][b], graph, inside_min, budget_us) for a, b in pairs)
        if too_long := next((one for one in policies if one.headend != one.endpoint and not one.candidate_paths), None):
            message = f"the path from {too_long.headend} to {too_long.endpoint} needs more than {MAX_SEGMENTS} segments"
            failures.append(Unsatisfiable(binding="segments", message=message))
            continue
        plans.append(
            Plan(
                name=name,
                owner=owner,
                connection=connection,
                ingress=ingress,
                egress=way,
                sr_policies=policies,
                latency_us=worst_us,
                priority=priority,
            )
        )
    if not plans:
        return _least_bad(failures)
    return min(plans, key=lambda plan: (plan.latency_us, plan.egress.border if plan.egress else ""))


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
            ways.append((_way(link, link.delay_us), link.trust))
        elif neighbour is not None:
            for reach in neighbour.reach:
                if reach.domain == target:
                    latency_us = link.delay_us + reach.latency_us
                    trust = min(link.trust, neighbour.trust, reach.trust)
                    ways.append((_way(link, latency_us), trust))
    return ways


def _way(link: Link, latency_us: int) -> Way:
    return Way(border=link.name, node=link.a.node, domain=link.domain, delay_us=link.delay_us, latency_us=latency_us)


def _sr_policy(best: Route, graph: Graph, trust_min: Trust, budget_us: int | None) -> SrPolicy:
    """The best path, and a second that shares no inner node with it (no link, if there is none), if it holds too."""
    headend, endpoint = best.nodes[0], best.nodes[-1]
    if headend == endpoint:
        return SrPolicy(headend=headend, endpoint=endpoint, candidate_paths=())
    inner = best.nodes[1:-1]
    found = [best]
    others = shortest(
        graph, headend, trust_min=trust_min, without_nodes=inner, without_links=() if inner else best.links
    )
    if endpoint in others and (budget_us is None or others[endpoint].latency_us <= budget_us):
        found.append(others[endpoint])
    short = [route for route in found if len(route.links) <= MAX_SEGMENTS]
    return SrPolicy(
        headend=headend,
        endpoint=endpoint,
        candidate_paths=tuple(
            CandidatePath(preference=preference, nodes=route.nodes, links=route.links, latency_us=route.latency_us)
            for preference, route in zip(PREFERENCES, short, strict=False)
        ),
    )


def _least_bad(failures: list[Unsatisfiable]) -> Unsatisfiable:
    """Latency last met the most requirements; all reasons are told."""
    order = ["segments", "latency", "trust", "reachability"]
    best = min(failures, key=lambda one: order.index(one.binding))
    others = [one.message for one in failures if one is not best]
    return Unsatisfiable(binding=best.binding, message="; ".join([best.message, *others]))
