"""Which links can be used now: those whose ends have a carrier, and over which probes come back.

    in use ── an end has no carrier, or its probes are lost ──▶ down ── neither at both ends for HOLD_S ──▶ in use
                                                                └ a border: an offer comes over it ─┘

A cut counts at once, a repair only when it has lasted, so that a link that comes and goes moves nothing but once. Of a
border each domain sees its own end only, and waits by its own clock; the wait of the first is enough for both.
"""

import math
from collections.abc import Collection, Iterable, Mapping

from controller.fulfillment.plan_paths import SrPolicies, known
from controller.fulfillment.ports import end_objection
from controller.model.inventory import Link
from controller.model.plan import Plan
from controller.model.sr_policy import SrPolicy
from controller.reconcile.state import NodeStanding
from controller.reconcile.tables import AROUND
from controller.reconcile.transaction import Transaction
from dataplane.host_api import NodeDescription, PortRole

HOLD_S = 3.0


def without_carrier(link: Link, nodes: Mapping[str, NodeStanding]) -> tuple[str, ...]:
    """The ends that are known to have none, or no such port, in words. Of a border link only our end is known."""
    down = []
    for end in (link.a, link.b):
        standing = nodes.get(end.node) if end is not None else None
        if end is None or standing is None or standing.description is None:
            continue
        if objection := end_objection(end, standing.description):
            down.append(objection)
            continue
        if end.border:
            carriers = [border.carrier for border in standing.description.borders if border.name == end.border]
        else:
            carriers = [port.carrier for port in standing.description.ports if port.number == end.port]
            if any(port.silent for port in standing.description.ports if port.number == end.port):
                down.append(f"{end.node} port {end.port} (probes do not come back)")
                continue
        if not all(carriers):
            down.append(f"{end.node} {f'border {end.border}' if end.border else f'port {end.port}'}")
    return tuple(down)


def cut(plan: Plan, down: Collection[str], sr_policies: SrPolicies) -> tuple[str, ...]:
    """Links that are down on the ways that the plan's traffic takes. Second candidate paths are not among them."""
    if not down:
        return ()
    paths = (path for id in plan.sr_policies for path in known(id, sr_policies).candidate_paths[:1])
    used = [link for path in paths for link in path.links]
    borders = [way.border for way in (plan.ingress, plan.egress) if way is not None]
    return tuple(sorted({name for name in (*used, *borders) if name in down}))


def is_cut(policy: SrPolicy, down: Collection[str]) -> bool:
    return any(link in down for path in policy.candidate_paths[:1] for link in path.links)


def told(transaction: Transaction, node: str) -> bool:
    """A node has said what carriers it has; whether there is something to reroute."""
    now, before = transaction.nodes.get(node), transaction.before.nodes.get(node)
    description = now.description if now is not None else None
    before_said = before.description if before is not None else None
    if description is None or description is before_said:
        return False
    if before_said is not None and _carriers(before_said) == _carriers(description):
        return False
    ends = ((link, end) for link in transaction.links.all.values() for end in (link.a, link.b))
    changed = _look(transaction, [link for link, end in ends if end is not None and end.node == node])
    # since the controller was started, a link may have come back of which it only knows now
    made_around = transaction.stitches.all.count(AROUND) + transaction.sr_policies.all.count(AROUND)
    return changed or (before_said is None and made_around > 0)


def look_at_all(transaction: Transaction) -> bool:
    """After the inventory has changed; whether that changes which links are down."""
    gone = transaction.down.all.keys() - transaction.links.all.keys()
    for name in gone:
        transaction.down.drop(name)
    return _look(transaction, transaction.links.all.values()) or bool(gone)


def lasted(held: Mapping[str, float], now_s: float) -> list[str]:
    """Of what is held down until then, what need not be any longer; infinite: it is not repaired."""
    # more than HOLD_S away: the clock was set back
    return [name for name, until_s in held.items() if until_s <= now_s or now_s + HOLD_S < until_s < math.inf]


def release(transaction: Transaction) -> bool:
    """Repairs that have lasted count; whether there are any."""
    over = lasted(transaction.down.all, transaction.now_s)
    for name in over:
        transaction.down.drop(name)
        transaction.log("link_up", link=name)
    return bool(over)


def confirm(transaction: Transaction, border: str) -> bool:
    """A neighbour makes an offer over a border, so its end has had a carrier for HOLD_S; whether that ends our wait."""
    if transaction.down.get(border) in (None, math.inf):
        return False
    transaction.down.drop(border)
    transaction.log("link_up", link=border)
    return True


def wait_s(transaction: Transaction) -> int:
    """How long it takes until all repairs that we see have lasted, if they do."""
    return max(
        (math.ceil(until_s - transaction.now_s) for until_s in transaction.down.all.values() if until_s < math.inf),
        default=0,
    )


def is_back(transaction: Transaction, name: str) -> bool:
    """Whether a link that was down is known to be in use again, or has left the inventory; or a stub is none now."""
    if "/" in name:
        return name not in transaction.passed_by
    link = transaction.links.get(name)
    if link is None:
        return True
    ends = [transaction.nodes.get(end.node) for end in (link.a, link.b) if end is not None]
    return name not in transaction.down.all and all(end is not None and end.description is not None for end in ends)


def _look(transaction: Transaction, links: Iterable[Link]) -> bool:
    changed = False
    for link in links:
        ends = without_carrier(link, transaction.nodes.all)
        until_s = transaction.down.get(link.name)
        if ends:
            if until_s is None:
                changed = True
                transaction.log("link_down", "warning", link=link.name, without_carrier=", ".join(ends))
            transaction.down.put(link.name, math.inf)
        elif until_s == math.inf:
            transaction.down.put(link.name, transaction.now_s + HOLD_S)
    return changed


def _carriers(description: NodeDescription) -> tuple[tuple[tuple[int, bool], ...], tuple[tuple[str, bool], ...]]:
    return (
        tuple(
            (port.number, port.carrier and not port.silent and port.role == PortRole.FABRIC)
            for port in description.ports
        ),
        tuple((border.name, border.carrier) for border in description.borders),
    )
