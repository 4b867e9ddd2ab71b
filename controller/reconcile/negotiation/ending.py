"""Agreements that are ended by hand, or since a key is pinned no more.

stitch agreement end ──▶ withdrawals to both neighbours, with who and why ──▶ the origin's intent says so, looks for
                         another way, and does not ask here again before the hold-off is over
another key is pinned ──▶ what stands on signatures of the old one ends ──▶ it is offered anew
"""

from controller.fulfillment.mandate import mandate_key_objection
from controller.fulfillment.negotiate import signature_objection
from controller.language.scalars import print_time
from controller.model.agreement import opened_mandate
from controller.model.event import EndAgreement, Reply
from controller.model.stitch import Session, Stitch
from controller.model.told import Told, Why
from controller.reconcile.bundles import members
from controller.reconcile.negotiation.withdrawals import Ending, flow_name, give_up, intent_name
from controller.reconcile.state import Closed
from controller.reconcile.transaction import Transaction


def end_agreement(transaction: Transaction, event: EndAgreement) -> None:
    stitch = transaction.stitches.get(transaction.agreements.get(event.name) or "")
    if stitch is None:
        transaction.effects.append(Reply(request_id=event.request_id, missing=(0,)))
        return
    if all(sharing.stage.leaving for sharing in members(transaction, stitch)):
        conflict = f"agreement {event.name} is ending already"
        transaction.effects.append(Reply(request_id=event.request_id, conflict=conflict))
        return
    again = f"; not again before {print_time(int(transaction.now_s) + event.hold_off_s)}" if event.hold_off_s else ""
    reason = f"{transaction.own} has ended it: {event.reason}{again}"
    upstream = stitch.upstream
    if upstream is not None and event.hold_off_s:
        until_s = int(transaction.now_s) + event.hold_off_s
        held_off = Closed(until_s=until_s, reason=reason, told=Told.HELD_OFF)
        transaction.closed.put(intent_name(_mandate_id(upstream)), held_off)
        flows = stitch.plan.connection.flows
        for flow in flows if len(flows) > 1 else ():
            transaction.closed.put(flow_name(upstream.terms.origin, flow), held_off)
    transaction.log("agreement_ended", agreement=event.name, by=event.by.name, reason=event.reason)
    ending = Ending(domain=transaction.own, retry_after_s=event.hold_off_s)
    for member in members(transaction, stitch):
        give_up(transaction, member, Why(Told.HELD_OFF, reason), ending)
    transaction.effects.append(Reply(request_id=event.request_id, results=(f"agreements/{event.name} ended",)))


def forget_hold_offs(transaction: Transaction) -> None:
    """Who asks is judged anew."""
    for name in [name for name in transaction.closed.all if name.startswith(("intent ", "flow "))]:
        transaction.closed.drop(name)


def end_unpinned(transaction: Transaction) -> None:
    """After a Domain resource has changed: nothing stands on a key that is no longer pinned."""
    changed = {
        name for name in transaction.domains.touched if _key(transaction, name) != _key_before(transaction, name)
    }
    if not changed:
        return
    for stitch in tuple(transaction.stitches.all.values()):
        if stitch.stage.leaving:
            continue
        reason = next((reason for session in _sessions(stitch) if (reason := _unpinned(transaction, session))), "")
        if reason:
            give_up(transaction, stitch, Why(Told.KEY, reason))


def _unpinned(transaction: Transaction, session: Session) -> str:
    """Which of the signatures that it stands on is of another key than is pinned."""
    peer = transaction.domains.get(session.peer)
    signed = session.offer if not session.offeror else session.agreement.acceptance if session.agreement else None
    if peer is None or (signed is not None and signature_objection(signed, peer, transaction.keys)):
        return f"the key that {transaction.own} has pinned for {session.peer} has changed"
    if session.terms.origin != transaction.own and mandate_key_objection(
        session.terms, transaction.domains.all, transaction.keys
    ):
        return f"the key that {transaction.own} has pinned for {session.terms.origin} has changed"
    return ""


def _sessions(stitch: Stitch) -> tuple[Session, ...]:
    return tuple(session for session in (stitch.upstream, stitch.downstream) if session is not None)


def _mandate_id(session: Session) -> str:
    return opened_mandate(session.terms.mandate).id


def _key(transaction: Transaction, name: str) -> str:
    domain = transaction.domains.get(name)
    return domain.key if domain is not None else ""


def _key_before(transaction: Transaction, name: str) -> str:
    domain = transaction.before.inventory.domains.get(name)
    return domain.key if domain is not None else ""
