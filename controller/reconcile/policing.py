"""Our policy for the offers of others changes: what it no longer allows ends, and both neighbours are told why.

What we ask of others ourselves it does not allow or forbid; `offer` counts from the next renewal on.
"""

from collections.abc import Iterator

from controller.fulfillment.plan_entries import terms_in_force
from controller.fulfillment.policy import refusal
from controller.model.event import LoadPolicy, Reply
from controller.model.policy import Policy
from controller.model.provenance import Provenance
from controller.model.stitch import Session, Stitch
from controller.model.told import Told, Why
from controller.reconcile.capacity_check import beyond_share
from controller.reconcile.negotiation.ending import forget_hold_offs
from controller.reconcile.peer_admission import end_all
from controller.reconcile.transaction import Transaction


def load_policy(transaction: Transaction, event: LoadPolicy) -> None:
    held = list(_held(transaction))
    ended = _not_allowed(transaction, held, event.policy)
    left = [stitch for stitch, _ in held if stitch.plan.name not in ended]
    too_much = beyond_share(transaction, left, event.policy.max_share)
    what = "unchanged" if transaction.policy == event.policy else "changed"
    names = {stitch.plan.name: session.terms.id for stitch, session in held}
    told = (f"agreement {names[plan]} ends: {reason}" for plan, reason in (ended | too_much).items())
    if not event.dry_run:
        if transaction.policy != event.policy:
            forget_hold_offs(transaction)
        transaction.policy = event.policy
        transaction.policy_loaded = Provenance(by=event.by.name, file=event.file, at_s=int(transaction.now_s))
        end_all(transaction, {plan: Why(Told.POLICY, reason) for plan, reason in ended.items()})
        end_all(transaction, {plan: Why(Told.SHARE, reason) for plan, reason in too_much.items()})
        transaction.log(
            "policy_loaded", file=event.file, by=event.by.name, what=what, agreements_ended=str(len(ended | too_much))
        )
    transaction.effects.append(
        Reply(request_id=event.request_id, results=(f"policies/{transaction.own} {what}", *told))
    )


def _held(transaction: Transaction) -> Iterator[tuple[Stitch, Session]]:
    """What others asked for and has not ended, oldest first."""
    for stitch in sorted(transaction.stitches.all.values(), key=lambda stitch: stitch.serial):
        if stitch.upstream is not None and not stitch.stage.leaving:
            yield stitch, stitch.upstream


def _not_allowed(transaction: Transaction, held: list[tuple[Stitch, Session]], policy: Policy) -> dict[str, str]:
    """Plan -> why."""
    ended: dict[str, str] = {}
    counts: dict[str, int] = {}
    for stitch, session in held:
        reason = refusal(terms_in_force(session) or session.terms, policy, transaction.own, transaction.now_s)
        if not reason and counts.get(session.peer, 0) >= policy.max_agreements:
            reason = (
                f"{transaction.own} has {policy.max_agreements} agreements with {session.peer}, which is the most now"
            )
        if reason:
            ended[stitch.plan.name] = reason
        else:
            counts[session.peer] = counts.get(session.peer, 0) + 1
    return ended
