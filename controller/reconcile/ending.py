"""Agreements that are ended by hand, or since a key is pinned no more.

stitch agreement end ──▶ withdrawals to both neighbours, with who and why ──▶ the origin's intent says so, looks for
                         another way, and does not ask here again before the hold-off is over
another key is pinned ──▶ what stands on signatures of the old one ends ──▶ it is offered anew
"""

from controller.fulfillment.mandate import mandate_key_objection
from controller.fulfillment.negotiate import signature_objection
from controller.language.scalars import print_time
from controller.model.agreement import opened_mandate
from controller.model.course import Course, Session
from controller.model.event import EndAgreement, Reply
from controller.model.told import Told, Why
from controller.reconcile.dealings import Ending, give_up, intent_name
from controller.reconcile.state import Closed
from controller.reconcile.turn import Turn


def end_agreement(turn: Turn, event: EndAgreement) -> None:
    course = turn.courses.get(turn.agreements.get(event.name) or "")
    if course is None:
        turn.effects.append(Reply(request_id=event.request_id, missing=(0,)))
        return
    if course.stage.leaving:
        conflict = f"agreement {event.name} is ending already"
        turn.effects.append(Reply(request_id=event.request_id, conflict=conflict))
        return
    again = f"; not again before {print_time(int(turn.now_s) + event.hold_off_s)}" if event.hold_off_s else ""
    reason = f"{turn.own} has ended it: {event.reason}{again}"
    upstream = course.upstream
    if upstream is not None and event.hold_off_s:
        until_s = int(turn.now_s) + event.hold_off_s
        held_off = Closed(until_s=until_s, reason=reason, told=Told.HELD_OFF)
        turn.closed.put(intent_name(_mandate_id(upstream)), held_off)
    turn.log("agreement_ended", agreement=event.name, by=event.by.name, reason=event.reason)
    ending = Ending(domain=turn.own, retry_after_s=event.hold_off_s)
    give_up(turn, course, Why(Told.HELD_OFF, reason), ending)
    turn.effects.append(Reply(request_id=event.request_id, results=(f"agreements/{event.name} ended",)))


def forget_hold_offs(turn: Turn) -> None:
    """Who asks is judged anew."""
    for name in [name for name in turn.closed.all if name.startswith("intent ")]:
        turn.closed.drop(name)


def end_unpinned(turn: Turn) -> None:
    """After a Domain resource has changed: nothing stands on a key that is no longer pinned."""
    changed = {name for name in turn.domains.touched if _key(turn, name) != _key_before(turn, name)}
    if not changed:
        return
    for course in tuple(turn.courses.all.values()):
        if course.stage.leaving:
            continue
        reason = next((reason for one in _sessions(course) if (reason := _unpinned(turn, one))), "")
        if reason:
            give_up(turn, course, Why(Told.KEY, reason))


def _unpinned(turn: Turn, session: Session) -> str:
    """Which of the signatures that it stands on is of another key than is pinned."""
    peer = turn.domains.get(session.peer)
    signed = session.offer if not session.offeror else session.agreement.acceptance if session.agreement else None
    if peer is None or (signed is not None and signature_objection(signed, peer, turn.keys)):
        return f"the key that {turn.own} has pinned for {session.peer} has changed"
    if session.terms.origin != turn.own and mandate_key_objection(session.terms, turn.domains.all, turn.keys):
        return f"the key that {turn.own} has pinned for {session.terms.origin} has changed"
    return ""


def _sessions(course: Course) -> tuple[Session, ...]:
    return tuple(session for session in (course.upstream, course.downstream) if session is not None)


def _mandate_id(session: Session) -> str:
    return opened_mandate(session.terms.mandate).id


def _key(turn: Turn, name: str) -> str:
    domain = turn.domains.get(name)
    return domain.key if domain is not None else ""


def _key_before(turn: Turn, name: str) -> str:
    domain = turn.before.inventory.domains.get(name)
    return domain.key if domain is not None else ""
