"""Our policy for the offers of others changes: what it no longer allows ends, and both neighbours are told why.

What we ask of others ourselves it does not allow or forbid; `offer` counts from the next renewal on.
"""

from collections.abc import Iterator

from controller.fulfillment.carry import terms_in_force
from controller.fulfillment.policy import refusal
from controller.model.course import Course, Session
from controller.model.event import LoadPolicy, Reply
from controller.model.policy import Policy
from controller.model.provenance import Provenance
from controller.model.told import Told, Why
from controller.reconcile.admission import beyond_share
from controller.reconcile.consent import end_all
from controller.reconcile.ending import forget_hold_offs
from controller.reconcile.turn import Turn


def load_policy(turn: Turn, event: LoadPolicy) -> None:
    held = list(_held(turn))
    ended = _not_allowed(turn, held, event.policy)
    left = [course for course, _ in held if course.plan.name not in ended]
    too_much = beyond_share(turn, left, event.policy.max_share)
    what = "unchanged" if turn.policy == event.policy else "changed"
    names = {course.plan.name: session.terms.id for course, session in held}
    told = (f"agreement {names[plan]} ends: {reason}" for plan, reason in (ended | too_much).items())
    if not event.dry_run:
        if turn.policy != event.policy:
            forget_hold_offs(turn)
        turn.policy = event.policy
        turn.policy_loaded = Provenance(by=event.by.name, file=event.file, at_s=int(turn.now_s))
        end_all(turn, {plan: Why(Told.POLICY, reason) for plan, reason in ended.items()})
        end_all(turn, {plan: Why(Told.SHARE, reason) for plan, reason in too_much.items()})
        turn.log(
            "policy_loaded", file=event.file, by=event.by.name, what=what, agreements_ended=str(len(ended | too_much))
        )
    turn.effects.append(Reply(request_id=event.request_id, results=(f"policies/{turn.own} {what}", *told)))


def _held(turn: Turn) -> Iterator[tuple[Course, Session]]:
    """What others asked for and has not ended, oldest first."""
    for course in sorted(turn.courses.all.values(), key=lambda one: one.serial):
        if course.upstream is not None and not course.stage.leaving:
            yield course, course.upstream


def _not_allowed(turn: Turn, held: list[tuple[Course, Session]], policy: Policy) -> dict[str, str]:
    """Plan -> why."""
    ended: dict[str, str] = {}
    counts: dict[str, int] = {}
    for course, session in held:
        reason = refusal(terms_in_force(session) or session.terms, policy, turn.own, turn.now_s)
        if not reason and counts.get(session.peer, 0) >= policy.max_agreements:
            reason = f"{turn.own} has {policy.max_agreements} agreements with {session.peer}, which is the most now"
        if reason:
            ended[course.plan.name] = reason
        else:
            counts[session.peer] = counts.get(session.peer, 0) + 1
    return ended
