"""Numbers of what has ended rest while a node that has not confirmed its end may still act on them."""

from controller.fulfillment.plan_paths import nodes
from controller.model.stitch import Stage, Stitch
from controller.reconcile.identifiers import FOR_GOOD_S, sr_policy_numbers
from controller.reconcile.tables import named_sr_policies
from controller.reconcile.transaction import Transaction


def rest(transaction: Transaction, stitch: Stitch) -> None:
    """`stitch` has ended. Where all that it had has an end, its numbers rest no longer than that.

    What was in use and ends at once is still on all its nodes. What went in phases is where that is awaited, such as at
    nodes that refuse something, and at those that are away.
    """
    if stitch.stage == Stage.NEGOTIATING:
        return
    sessions = (stitch.upstream, stitch.downstream)
    ends_s = [
        session.agreement.terms.expires_s
        for session in sessions
        if session is not None and session.agreement is not None
    ]
    ends_s += [stitch.expires_s] if stitch.expires_s is not None else []
    sr_policies = transaction.sr_policies.all
    standings = ((node, transaction.nodes.get(node)) for node in sorted(nodes(stitch.plan, sr_policies)))
    awaited = transaction.awaiting.get(stitch.plan.name) or {}
    away = [
        node
        for node, standing in standings
        if standing is not None and (stitch.stage == Stage.ACTIVE or node in awaited or not standing.reachable)
    ]
    ids = dict(stitch.ids)
    for name in named_sr_policies(stitch):
        ids |= sr_policy_numbers(sr_policies[name])
    transaction.identifiers.rest(ids, away, max(ends_s, default=FOR_GOOD_S))


def rested(transaction: Transaction, node: str) -> None:
    """It has all that it shall have, and nothing else; but what ends in this step it has still."""
    transaction.identifiers.rested(node, transaction.before.rests)


def untouched(transaction: Transaction) -> None:
    """Who has all that it shall have, and of which this step changes nothing, has nothing of what it has ended."""
    if not transaction.rests.touched:
        return
    resting = tuple(transaction.rests.all)
    for node in sorted({name.rpartition(" ")[2] for name in resting}):
        before, standing = transaction.before.nodes.get(node), transaction.nodes.get(node)
        if before is None or standing is None:
            continue
        if before.generation == standing.generation == standing.confirmed:
            transaction.identifiers.rested(node, resting)
