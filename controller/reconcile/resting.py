"""Numbers of what has ended rest while a node that has not confirmed its end may still act on them."""

from controller.fulfillment.plan_paths import nodes
from controller.model.stitch import Stage, Stitch
from controller.reconcile.identifiers import FOR_GOOD_S, sr_policy_numbers
from controller.reconcile.tables import named_sr_policies
from controller.reconcile.transaction import Transaction


def rest(transaction: Transaction, stitch: Stitch) -> None:
    """`stitch` has ended. Where all that it had has an end, its numbers rest no longer than that.

    They rest for the sake of all its nodes but those that `let_rest` finds to be without it.
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
    ids = dict(stitch.ids)
    for name in named_sr_policies(stitch):
        ids |= sr_policy_numbers(sr_policies[name])
    transaction.ended.add(ids, nodes(stitch.plan, sr_policies), max(ends_s, default=FOR_GOOD_S))


def rested(transaction: Transaction, node: str) -> None:
    """It has all that it shall have, and nothing else; but what ends in this step it has still."""
    transaction.identifiers.rested(node, transaction.before.rests)


def let_rest(transaction: Transaction) -> None:
    """At the end of a step: what has ended in it rests for the sake of nodes that may have something of it. Who has all
    that it shall have, and of which this step changes nothing, has not; nor has who is none of our nodes any more."""
    for node in transaction.nodes.touched:
        if transaction.nodes.get(node) is None:
            transaction.identifiers.rested(node, tuple(transaction.rests.all))
    for ids, told, until_s in transaction.ended.numbers:
        for node in sorted(told):
            before, standing = transaction.before.nodes.get(node), transaction.nodes.get(node)
            if standing is None or (before and before.generation == standing.generation == standing.confirmed):
                continue
            transaction.identifiers.rest(ids, node, until_s)
