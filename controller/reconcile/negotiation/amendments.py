"""One agreement for many stitches of ours (bundles.py): it is amended when one comes or goes.

a stitch begins ──▶ waits in its bundle ──▶ offer with the flows of all ──▶ accepted: what waited is installed
                                                                      └──▶ refused: what was agreed stays as it was;
                                                                           what waited is refused, or tried alone
a stitch is gone ─▶ offer without its flows, though another is not answered yet; the last takes the agreement with it

While an offer is not answered, whatever else begins waits for the next one: so a thousand that come at once are few
offers, and a thousand that come one after the other too.
"""

from collections.abc import Collection

from msgspec.structs import replace

from controller.fulfillment.protocol import Role, Word, after
from controller.model.agreement import REASON_LENGTH, Flow, Refusal
from controller.model.stitch import Fact, HeldOff, Session, Stage, Standing, Stitch
from controller.model.told import Told, Why
from controller.reconcile.bundles import flows_of, members, members_of, put_session
from controller.reconcile.negotiation.agreements import offer_onward
from controller.reconcile.negotiation.withdrawals import MAX_HOLD_OFF_S, Ending, end, withdraw
from controller.reconcile.transaction import Leaving, Lost, Transaction


def settle_bundles(transaction: Transaction) -> None:
    """Installs what is agreed, and offers what is wanted now where that is not what is agreed or offered."""
    while transaction.loose:
        bundle, leaving = transaction.loose.popitem()
        sharing = members_of(transaction, bundle)
        if sharing:
            _amend(transaction, sharing)
        elif leaving.session is not None:
            _withdraw(transaction, leaving.session, leaving)


def _withdraw(transaction: Transaction, session: Session, leaving: Leaving) -> None:
    terms = session.terms
    transaction.forget_messages(terms.id)
    ending = Ending(domain=leaving.ended_by, retry_after_s=leaving.retry_after_s)
    withdraw(transaction, session.peer, terms.id, leaving.why, until_s=terms.expires_s, ending=ending)


def _amend(transaction: Transaction, sharing: list[Stitch]) -> None:
    session, wanted = sharing[0].downstream, {*flows_of(sharing)}
    if session is not None:
        in_force = {*session.agreement.terms.flows} if session.agreement is not None else set()
        newest = {*session.terms.flows} if session.standing.unanswered else in_force
        for stitch in sharing:
            if _waits(stitch, in_force & newest):
                transaction.put_stitch(replace(stitch, stage=stitch.stage.after(Fact.SIGNED)))
                transaction.fresh.add(stitch.plan.name)
        takes_away = not in_force <= wanted
        if newest == wanted or (session.standing.unanswered and not takes_away):
            return
    offer_onward(transaction, sharing[0].plan.name)


def refused_for_all(
    transaction: Transaction,
    stitch: Stitch,
    session: Session,
    reason: str,
    held_off: HeldOff | None,
    said: Refusal | None,
) -> None:
    """The newest offer for a bundle is. The neighbour may have named flows that it never takes: of these the stitches
    are refused, and the others offered again. Where it has not, what waits is asked again when the neighbour says so,
    or each with an agreement of its own; a first offer for one alone, or what its release does not take, is just
    refused."""
    standing = after(session, Role.ACCEPTOR, Word.REFUSAL)
    offered = {*session.terms.flows}
    waiting = [member for member in members(transaction, stitch) if _waits(member, offered)]
    meant = [member for member in waiting if said is not None and not _is_apart(member, said.flows)]
    renews = not waiting
    in_force = None if standing == Standing.ENDED else replace(session, standing=standing, reason="")
    if in_force is not None and renews:
        in_force = replace(in_force, reason=reason[:REASON_LENGTH])
    put_session(transaction, stitch, in_force)
    event = "refused" if standing == Standing.ENDED else "renewal_refused" if renews else "amendment_refused"
    transaction.log(event, "warning", agreement=session.terms.id, peer=session.peer, reason=reason)
    is_amendment = standing != Standing.ENDED
    later_s = said.retry_after_s if said is not None and not meant and is_amendment else 0
    alone = said is not None and not meant and not later_s and (is_amendment or len(waiting) > 1)
    refusal = "" if alone or later_s else f"{session.peer}: {reason}"
    for member in meant or waiting:
        end(transaction, member, Why(Told.BEYOND, reason))
        lost = Lost(
            stitch=member,
            why=f"{session.peer}: {reason}" if later_s else "",
            alone=alone,
            refusal=refusal,
            retry_after_s=min(later_s, MAX_HOLD_OFF_S),
            held_off=held_off if refusal else None,
        )
        transaction.lost.append(lost)
    others = members_of(transaction, stitch.plan.bundle)
    if waiting or in_force is None or any(member.stage == Stage.NEGOTIATING for member in others):
        # else only what is agreed was asked again: it is next asked when it is time to renew it
        transaction.loose[stitch.plan.bundle] = Leaving(session=in_force)


def _waits(stitch: Stitch, offered: Collection[Flow]) -> bool:
    return stitch.stage == Stage.NEGOTIATING and all(flow in offered for flow in stitch.plan.connection.flows)


def _is_apart(stitch: Stitch, flows: Collection[Flow]) -> bool:
    return not any(flow in flows for flow in stitch.plan.connection.flows)
