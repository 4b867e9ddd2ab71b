"""Why no way holds what is required: which requirement binds, and how near the nearest way comes to it.

Requirements are taken one after the other, in the order of `_STEPS`. The first that cannot be held beside those before
it is the one that binds; the nearest miss is the best in it of what holds those.
"""

from collections.abc import Iterable

import msgspec

from controller.fulfillment.graph import Graph, has_any
from controller.fulfillment.paths import Route, best, best_without, disjoint, least_loss_ppm, longest
from controller.fulfillment.topology import GaveUp
from controller.model.constraints import Constraints
from controller.model.intent import Disjoint, Prefer, Trust
from controller.model.plan import Way
from controller.model.requirements import Unsatisfiable

BINDINGS = (
    "disjoint",
    "segments",
    "transit",
    "latency",
    "loss",
    "include",
    "avoid",
    "encryption",
    "trust",
    "reachability",
    "via",
)
"""What may be held by no way. The last thing that is looked at first: who fails there has met the most."""
_STEPS: dict[str, tuple[str, ...]] = {
    "trust": ("trust_min",),
    "avoid": ("avoid_labels", "avoid_nodes"),
    "include": ("include_nodes",),
    "loss": ("loss_ppm_max",),
    "latency": ("latency_us_max",),
}
"""Fields of the constraints that stand for each."""
_SHARED = {Disjoint.LINK: "link", Disjoint.NODE: "node", Disjoint.SRLG: "risk"}


def shortfall(graph: Graph, entry: str, target: str, constraints: Constraints, way: Way | None) -> Unsatisfiable:
    """Between two own nodes. `way`: out of the domain, if the traffic leaves it; what it takes of what is required has
    been taken from the constraints."""
    over, anywhere = f" over {way.border}" if way is not None else "", len(graph.topology.nodes)
    held = Constraints(prefer=Prefer())
    for binding, fields in _STEPS.items():
        before = held
        held = msgspec.structs.replace(held, **{field: getattr(constraints, field) for field in fields})
        if held == before and binding != "trust":
            continue
        found = best(graph, entry, target, held, hops_max=anywhere)
        if isinstance(found, GaveUp):
            return _undecided(binding, found)
        if found is None:
            return _bound(graph, entry, target, binding, before, held, way, over)
    found = best(graph, entry, target, constraints)
    if isinstance(found, GaveUp):
        return _undecided("segments", found)
    if found is None:
        message = f"the path from {entry} to {target} needs more than {longest(graph)} links"
        return Unsatisfiable(binding="segments", message=message)
    return _not_disjoint(graph, entry, target, constraints)


def _undecided(binding: str, gave_up: GaveUp) -> Unsatisfiable:
    message = f"no way that holds it was found in {gave_up.steps:,} steps; there may be one"
    return Unsatisfiable(binding=binding, message=message, undecided=True)


def _bound(
    graph: Graph,
    entry: str,
    target: str,
    binding: str,
    before: Constraints,
    held: Constraints,
    way: Way | None,
    over: str,
) -> Unsatisfiable:
    """`before`: what can be held; `held`: what cannot."""
    ends = f"from {entry} to {target}"
    nearest = best(graph, entry, target, before, hops_max=len(graph.topology.nodes))
    match binding:
        case "trust":
            message = f"no path of links with trust {held.trust_min.name.lower()} leads {ends}"
            most = next((trust for trust in reversed(Trust) if _is_there(graph, entry, target, trust)), None)
            if held.trust_min == Trust.PUBLIC or most is None:
                binding = "reachability"
            else:
                message += f"; there is one of links with trust {most.name.lower()}"
        case "avoid":
            avoided = " ".join((words(held.avoid_labels), *held.avoid_nodes)).strip()
            passed = _avoided(graph, nearest, held) if isinstance(nearest, Route) else ""
            message = f"every way {ends} passes what is to be avoided ({avoided}): the quickest one {passed}"
        case "include":
            message = f"no way {ends} passes {', '.join(held.include_nodes)}"
        case "loss":
            least = least_loss_ppm(graph, entry, target, before)
            message = f"loss of at most {percent(held.loss_ppm_max or 0)} is required; "
            message += "what links lose is not known" if least is None else f"the way{over} loses {percent(least)}"
        case _:
            beyond_us = way.latency_us if way is not None else 0
            needed_us = beyond_us + (held.latency_us_max or 0)
            taken_us = beyond_us + (nearest.latency_us if isinstance(nearest, Route) else 0)
            message = f"latency of at most {needed_us / 1000:g} ms is required; "
            message += f"the way{over} takes {taken_us / 1000:g} ms"
    return Unsatisfiable(binding=binding, message=message)


def _is_there(graph: Graph, entry: str, target: str, trust: Trust) -> bool:
    found = best(graph, entry, target, Constraints(trust_min=trust), hops_max=len(graph.topology.nodes))
    return isinstance(found, Route)


def _avoided(graph: Graph, route: Route, held: Constraints) -> str:
    """Where it meets what is avoided."""
    inventory = graph.inventory
    nodes = [name for name in route.nodes if graph.avoids(name, held)]
    links = [name for name in route.links if has_any(inventory.links[name].labels, held.avoid_labels)]
    return f"passes {', '.join((*nodes, *links))}"


def _not_disjoint(graph: Graph, entry: str, target: str, constraints: Constraints) -> Unsatisfiable:
    wanted = constraints.disjoint
    assert wanted is not None, "else the path that was found is all that is asked for"
    if isinstance(pair := disjoint(graph, entry, target, constraints, wanted), GaveUp):
        return _undecided("disjoint", pair)
    message = f"two paths from {entry} to {target} that share no {_SHARED[wanted]} are required; "
    anyhow = msgspec.structs.replace(constraints, latency_us_max=None, loss_ppm_max=None)
    if wanted != Disjoint.LINK and isinstance(disjoint(graph, entry, target, constraints, Disjoint.LINK), tuple):
        message += "there are two that share no link"
    elif isinstance(pair := disjoint(graph, entry, target, anyhow, wanted), tuple):
        slowest_us, limit_us = max(route.latency_us for route in pair), constraints.latency_us_max
        if limit_us is not None and slowest_us > limit_us:
            message += f"of two that do, one takes {slowest_us / 1000:g} ms, and at most {limit_us / 1000:g} ms is left"
        else:
            message += "there are two that do, and do not hold what else is required"
    elif passed := _passed_by_all(graph, entry, target, anyhow, wanted):
        message += f"every way passes {passed}"
    else:
        message += "there are no two that hold what else is required"
    return Unsatisfiable(binding="disjoint", message=message)


def _passed_by_all(graph: Graph, entry: str, target: str, constraints: Constraints, wanted: Disjoint) -> str:
    """What stands in the way of a second path: a node, or else a link; empty: nothing alone."""
    route = best(graph, entry, target, constraints)
    if not isinstance(route, Route):
        return ""
    inner = {*route.nodes} - {entry, target, *constraints.include_nodes} if wanted == Disjoint.NODE else ()
    for name in sorted(inner):
        if best_without(graph, entry, target, constraints, (name,), ()) is None:
            return f"node {name}"
    for name in route.links:
        if best_without(graph, entry, target, constraints, (), (name,)) is None:
            return f"link {name}"
    return ""


def words(labels: Iterable[tuple[str, str]]) -> str:
    return " ".join(f"{name}={value}" for name, value in labels)


def percent(ppm: int) -> str:
    return f"{ppm / 10_000:g} %"
