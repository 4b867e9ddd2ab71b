"""Which of our own stitches share an agreement with the neighbour where they leave: its *bundle*.

All of a bundle lead over one border from one network to one network, for one tenant, and ask for the same on the way.
Each has its own paths, stage and entries; the session is one, in all of them. What their agreement is for is the flows
of all of them together: it is amended when a stitch comes or goes (negotiation/amendments.py). Intents with an end have
an agreement that ends with them, so they share none.
"""

from collections.abc import Iterable

import msgspec

from controller.model.agreement import AMENDS, MAX_FLOWS, MAX_ITEMS, Flow
from controller.model.plan import Plan
from controller.model.stitch import Session, Stitch
from controller.reconcile.tables import bundle_key, way_key
from controller.reconcile.transaction import Transaction, understands

MAX_SHARED_ITEMS = MAX_ITEMS // 2
"""Prefixes and ports of one agreement. An offer has them twice, as what is asked and in the mandate."""
PATIENCE_S = 2
"""Nobody joins a bundle whose offer is not answered for longer: it may wait for something that only others need."""


def members(transaction: Transaction, stitch: Stitch) -> list[Stitch]:
    """All that share its agreement, oldest first."""
    if not stitch.plan.bundle:
        return [stitch]
    return members_of(transaction, stitch.plan.bundle)


def members_of(transaction: Transaction, bundle: str) -> list[Stitch]:
    stitches = transaction.stitches.all
    return [stitches[name] for name in stitches.by(bundle_key(bundle))]


def flows_of(stitches: Iterable[Stitch]) -> tuple[Flow, ...]:
    """Each once."""
    return tuple(dict.fromkeys(flow for stitch in stitches for flow in stitch.plan.connection.flows))


def put_session(transaction: Transaction, stitch: Stitch, session: Session | None) -> None:
    """With the next domain: in all that share it."""
    for member in members(transaction, stitch):
        transaction.put_stitch(msgspec.structs.replace(member, downstream=session))


def is_of(bundle: str, tenant: str) -> bool:
    return bundle.partition(" ")[0] == tenant


def choose(transaction: Transaction, plan: Plan, tenant: str) -> str:
    """The bundle for a plan of ours that has just been made: one that is there already and has room, or a new one;
    empty: it has an agreement of its own."""
    if plan.egress is None or not understands(transaction, plan.egress.domain, AMENDS):
        return ""
    kind = (tenant, _guarantees(plan))
    size = _size(plan.connection.flows)
    known = transaction.filling.get(kind) or _with_room(transaction, plan, tenant)
    if known is not None:
        name, filled = known
        if filled[0] + size[0] <= MAX_FLOWS and filled[1] + size[1] <= MAX_SHARED_ITEMS:
            transaction.filling[kind] = name, (filled[0] + size[0], filled[1] + size[1])
            return name
    name = f"{tenant} {plan.name}"
    transaction.filling[kind] = name, size
    return name


def _with_room(transaction: Transaction, plan: Plan, tenant: str) -> tuple[str, tuple[int, int]] | None:
    """The newest bundle of its kind, and how much is in it."""
    assert plan.egress is not None
    connection = plan.connection
    way = way_key(plan.egress.border, connection.source_network, connection.destination_network)
    for name in reversed(transaction.bundles.all.by(way)):
        session, stitches = transaction.bundles.all[name], members_of(transaction, name)
        waits = session.standing.unanswered and transaction.now_s - session.since_s > PATIENCE_S
        alike = is_of(name, tenant) and bool(stitches) and _guarantees(stitches[0].plan) == _guarantees(plan)
        if alike and not waits:
            return name, _size(flows_of(stitches))
    return None


def _guarantees(plan: Plan) -> tuple[object, ...]:
    """What those that share an agreement ask for alike."""
    connection = plan.connection
    return (
        plan.egress,
        connection.source_network,
        connection.destination_network,
        connection.latency_us_max,
        connection.encryption,
        connection.trust_min,
        connection.avoid_domains,
        connection.direct,
        connection.dscp,
        connection.source_prefixes,
        connection.destination_aliases,
    )


def _size(flows: Iterable[Flow]) -> tuple[int, int]:
    """Flows; prefixes and ports."""
    counts = [len(flow.source_prefixes) + len(flow.destination_prefixes) + len(flow.ports) for flow in flows]
    return len(counts), sum(counts)
