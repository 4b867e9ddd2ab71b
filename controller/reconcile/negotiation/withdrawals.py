"""How what was offered or agreed is refused, ended or taken away: what neighbours hear, and what becomes of it here."""

import hashlib
import math
from collections.abc import Collection

import msgspec

from controller.fulfillment.amending import narrowed
from controller.fulfillment.negotiate import make_refusal, sealed
from controller.fulfillment.protocol import Role, Word, after
from controller.model.agreement import (
    AMENDS,
    REASON_LENGTH,
    Flow,
    Terms,
    Withdrawal,
    opened_mandate,
)
from controller.model.stitch import Fact, HeldOff, Stage, Stitch
from controller.model.told import Told, Why
from controller.reconcile.resting import rest
from controller.reconcile.state import Closed
from controller.reconcile.transaction import Leaving, Lost, Transaction, understands

LINGER_S = 2
"""How long a plan that was replaced still takes replies: as long as its end may need to reach the other domains."""
MAX_LINGER_S = 10
MAX_HOLD_OFF_S = 86400
"""We ask again after a day, whatever the neighbour says."""
LOST_RETRY_S = 2
"""Before we try again what a neighbour has withdrawn, or what has run out."""


def refuse(
    transaction: Transaction,
    peer: str,
    terms: Terms,
    why: Why,
    retry_after_s: int = 0,
    by: str = "",
    flows: tuple[Flow, ...] = (),
) -> None:
    """`by`: the domain further on that refuses. `flows`: which, if not the offer as a whole."""
    if why.told == Told.WAY:
        transaction.without_way.add(peer)
    said = make_refusal(terms.id, terms.revision, why.told, transaction.keys, retry_after_s, by, flows)
    transaction.send(peer, said, terms.id, terms.revision, until_s=terms.expires_s, unasked=True)
    transaction.log("offer_refused", "warning", agreement=terms.id, peer=peer, reason=why.detail)


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """Who has ended an agreement by hand."""

    domain: str = ""
    """Empty: nobody, it could not be kept."""
    retry_after_s: int = 0
    """For so long it does not take the same again."""


NOBODY = Ending()


def withdraw(
    transaction: Transaction,
    peer: str,
    id: str,
    why: Why,
    *,
    until_s: float,
    linger_s: int = 0,
    ending: Ending = NOBODY,
    unasked: bool = False,
    flows: tuple[Flow, ...] = (),
) -> None:
    """What an operator says who ends it is for the others too."""
    if why.told == Told.WAY and id.startswith(f"{peer}:"):
        transaction.without_way.add(peer)
    said = Withdrawal(
        id=id,
        reason=why.detail[:REASON_LENGTH] if ending.domain else why.told,
        issued_s=int(transaction.now_s),
        linger_s=linger_s,
        ended_by=ending.domain,
        retry_after_s=ending.retry_after_s,
        flows=flows,
    )
    transaction.send(peer, sealed(said, transaction.keys), id, until_s=until_s, unasked=unasked)


def mandate_name(id: str) -> str:
    """Under which a mandate is closed."""
    return f"mandate {id}"


def intent_name(mandate: str) -> str:
    """Under which it is known that we have ended what an intent of another domain needs, all its mandates alike."""
    return f"intent {mandate.rpartition(':')[0]}"


def flow_name(origin: str, flow: Flow) -> str:
    """The same of one flow of several: they may be of many intents, whose names only their origin knows."""
    return f"flow {origin} {hashlib.sha256(msgspec.json.encode(flow)).hexdigest()[:32]}"


def close_id(transaction: Transaction, id: str, why: Why, until_s: float, peer: str) -> None:
    """What has stood between `peer` and us is not offered again."""
    transaction.closed.put(id, Closed(until_s=int(until_s) + 1, reason=why.detail, peer=peer, told=why.told))


def refuse_upstream(
    transaction: Transaction,
    stitch: Stitch,
    why: Why,
    retry_after_s: int = 0,
    by: str = "",
    flows: tuple[Flow, ...] = (),
) -> None:
    """What was offered to us cannot be had: a renewal fails and the rest stays in force, or all of it ends."""
    session = stitch.upstream
    if session is None:
        return
    refuse(transaction, session.peer, session.terms, why, retry_after_s, by, flows)
    standing = after(session, Role.ACCEPTOR, Word.REFUSAL)
    if session.agreement is not None:
        kept = msgspec.structs.replace(session, standing=standing, terms=session.agreement.terms, answer=None)
        transaction.put_stitch(msgspec.structs.replace(stitch, upstream=kept, wanted=None))
        return
    end(transaction, stitch, why, towards_upstream=False)


def end(
    transaction: Transaction,
    stitch: Stitch,
    why: Why,
    *,
    towards_upstream: bool = True,
    towards_downstream: bool = True,
    linger_s: int = 0,
    ending: Ending = NOBODY,
) -> None:
    """Nothing of a stitch stays (for long, if it is to linger), and its neighbours are told."""
    bundle = stitch.plan.bundle
    for session, tell in ((stitch.upstream, towards_upstream), (stitch.downstream, towards_downstream)):
        if session is None:
            continue
        if bundle and session.offeror:
            told = session if tell else None
            leaving = Leaving(session=told, why=why, ended_by=ending.domain, retry_after_s=ending.retry_after_s)
            transaction.loose[bundle] = leaving
        elif tell:
            transaction.forget_messages(session.terms.id)
            id, until_s = session.terms.id, session.terms.expires_s
            withdraw(transaction, session.peer, id, why, until_s=until_s, linger_s=linger_s, ending=ending)
        if not session.offeror and session.agreement is not None:
            mandate = opened_mandate(session.terms.mandate)
            close_id(transaction, session.terms.id, why, session.terms.expires_s, session.peer)
            close_id(transaction, mandate_name(mandate.id), why, mandate.expires_s, session.peer)
    if linger_s:
        until_s = int(transaction.now_s) + linger_s
        transaction.put_stitch(msgspec.structs.replace(stitch, stage=Stage.LINGERING, until_s=until_s))
    else:
        rest(transaction, stitch)
        transaction.drop_stitch(stitch)
    transaction.log("course_ended", owner=stitch.plan.owner, plan=stitch.plan.name, reason=why.detail)


def abandon(transaction: Transaction, name: str, reason: str, linger_s: int = 0) -> None:
    """We want a stitch no more: what uses it is removed first."""
    stitch = transaction.stitches.get(name)
    stage = stitch.stage.after(Fact.UNWANTED) if stitch is not None else Stage.GONE
    if stitch is None or stage == stitch.stage:
        return
    if stage == Stage.GONE:
        end(transaction, stitch, Why(Told.UNWANTED, reason))
        return
    transaction.put_stitch(msgspec.structs.replace(stitch, stage=stage, linger_s=linger_s))
    transaction.fresh.add(name)


def lose(
    transaction: Transaction,
    stitch: Stitch,
    why: Why,
    *,
    from_upstream: bool = False,
    from_downstream: bool = False,
    ending: Ending = NOBODY,
    at_once: bool = False,
) -> None:
    """A stitch is over against our will: its lease has run out, a neighbour has withdrawn, or somebody has ended it.
    `at_once`: nothing that we wait for would make another try better."""
    end(
        transaction,
        stitch,
        why,
        towards_upstream=not from_upstream,
        towards_downstream=not from_downstream,
        ending=ending,
    )
    if stitch.upstream is not None:
        return
    if ending.domain:
        held_off = hold_off(transaction, stitch, ending.retry_after_s)
        transaction.lost.append(Lost(stitch=stitch, refusal=f"{ending.domain}: {why.detail}", held_off=held_off))
    else:
        transaction.lost.append(Lost(stitch=stitch, why=why.detail, retry_after_s=0 if at_once else LOST_RETRY_S))


def give_up(transaction: Transaction, stitch: Stitch, why: Why, ending: Ending = NOBODY) -> None:
    """We can or want to keep it no more: what is only offered to us is refused, all else ends."""
    if stitch.upstream is not None and stitch.upstream.agreement is None:
        refuse_upstream(transaction, stitch, why, ending.retry_after_s)
    else:
        lose(transaction, stitch, why, ending=ending)


def take_away(
    transaction: Transaction, stitch: Stitch, flows: Collection[Flow], why: Why, ending: Ending = NOBODY
) -> None:
    """The same of some of the flows that others asked for; empty: of all."""
    session = stitch.upstream
    if stitch.wanted is not None and not {*stitch.wanted.connection.flows}.isdisjoint(flows):
        refuse_upstream(transaction, stitch, why, flows=tuple(flows))
        kept = transaction.stitches.get(stitch.plan.name)
        if kept is None:
            return
        stitch, session = kept, kept.upstream
    plan = narrowed(stitch.plan, frozenset(stitch.plan.connection.flows) - frozenset(flows))
    if flows and plan is stitch.plan:
        return
    agreed = session.agreement.terms if session is not None and session.agreement is not None else None
    goes_on = bool(flows and plan.connection.flows)
    if session is None or agreed is None or not goes_on or not understands(transaction, session.peer, AMENDS):
        give_up(transaction, stitch, why, ending)
        return
    transaction.put_stitch(msgspec.structs.replace(stitch, plan=plan))
    transaction.fresh.add(plan.name)
    # all that is gone is named, so that the newest is enough
    gone = tuple(flow for flow in agreed.flows if flow not in plan.connection.flows)
    withdraw(transaction, session.peer, agreed.id, why, until_s=agreed.expires_s, ending=ending, flows=gone)
    transaction.log("flows_ended", "warning", agreement=agreed.id, peer=session.peer, reason=why.detail)


def hold_off(transaction: Transaction, stitch: Stitch, seconds: int) -> HeldOff | None:
    """Where a stitch of ours went is not offered again for some time; by no clock sooner than the neighbour says."""
    egress = stitch.plan.egress
    if egress is None or not seconds:
        return None
    return HeldOff(border=egress.border, until_s=math.ceil(transaction.now_s) + min(seconds, MAX_HOLD_OFF_S))
