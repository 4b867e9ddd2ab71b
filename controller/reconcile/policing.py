"""Our policy for the offers of others changes: what it no longer allows ends, and both neighbours are told why.

What we ask of others ourselves it does not allow or forbid; `offer` counts from the next renewal on.
"""

from collections.abc import Iterator

from msgspec.structs import replace

from controller.fulfillment.plan_entries import terms_in_force
from controller.fulfillment.policy import refusal
from controller.model.agreement import Terms
from controller.model.event import LoadPolicy, Reply
from controller.model.plan import Plan
from controller.model.policy import Policy
from controller.model.provenance import Provenance
from controller.model.stitch import Session, Stitch
from controller.model.told import Told, Why
from controller.reconcile.capacity_check import beyond_share
from controller.reconcile.negotiation.ending import forget_hold_offs
from controller.reconcile.peer_admission import Ended, alone, end_all
from controller.reconcile.transaction import Transaction


def load_policy(transaction: Transaction, event: LoadPolicy) -> None:
    in_force = list(_held(transaction))
    ended = _not_allowed(transaction, in_force, event.policy)
    left = [stitch for stitch, _ in in_force if stitch.plan.name not in ended]
    beyond = beyond_share(transaction, left, event.policy.max_share)
    too_much = {plan: Ended(Why(Told.SHARE, reason)) for plan, reason in beyond.items()}
    what = "unchanged" if transaction.policy == event.policy else "changed"
    names = {stitch.plan.name: session.terms.id for stitch, session in in_force}
    told = (f"agreement {names[plan]} {end.what}: {end.why.detail}" for plan, end in (ended | too_much).items())
    if not event.dry_run:
        if transaction.policy != event.policy:
            forget_hold_offs(transaction)
        transaction.policy = event.policy
        transaction.policy_loaded = Provenance(by=event.by.name, file=event.file, at_s=int(transaction.now_s))
        end_all(transaction, ended)
        end_all(transaction, too_much)
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


def _not_allowed(transaction: Transaction, in_force: list[tuple[Stitch, Session]], policy: Policy) -> dict[str, Ended]:
    """By plan."""
    ended: dict[str, Ended] = {}
    counts: dict[str, int] = {}
    for stitch, session in in_force:
        terms = terms_in_force(session) or session.terms

        def refused(plan: Plan, terms: Terms = terms) -> str:
            flows = plan.connection.flows or terms.flows
            return refusal(replace(terms, flows=flows), policy, transaction.own, transaction.now_s)

        if reason := refused(stitch.plan_to_be):
            ended[stitch.plan.name] = Ended(Why(Told.POLICY, reason), alone(stitch.plan_to_be, refused))
        elif counts.get(session.peer, 0) >= policy.max_agreements:
            held_now = f"{transaction.own} has {policy.max_agreements} agreements with {session.peer}"
            ended[stitch.plan.name] = Ended(Why(Told.POLICY, f"{held_now}, which is the most now"))
        else:
            counts[session.peer] = counts.get(session.peer, 0) + 1
    return ended
