"""What neighbouring domains send us."""

import math

import msgspec

from controller.fulfillment import negotiate
from controller.fulfillment.negotiate import offer_objection, renewal_objection, signature_objection
from controller.fulfillment.numbering import free_slots
from controller.fulfillment.place import place
from controller.fulfillment.policy import destination_domain, refusal
from controller.model.agreement import (
    Acceptance,
    Envelope,
    Holdings,
    Message,
    Refusal,
    Terms,
    Unreadable,
    Withdrawal,
    opened,
    opened_mandate,
)
from controller.model.course import Course, HeldOff, Session, Stage, Standing
from controller.model.inventory import Domain
from controller.model.plan import Plan, Way
from controller.model.requirements import Connection, Unsatisfiable
from controller.model.told import Told, Why, heard, passed_on
from controller.reconcile.carriers import confirm, wait_s
from controller.reconcile.comparing import compare
from controller.reconcile.consent import asked
from controller.reconcile.dealings import (
    MAX_LINGER_S,
    Ending,
    answer,
    end,
    hold_off,
    intent_name,
    keep_promise,
    lose,
    mandate_name,
    offer_onward,
    refuse,
    refuse_upstream,
    repeat_answer,
    withdraw,
)
from controller.reconcile.rerouting import reroute
from controller.reconcile.resting import taken
from controller.reconcile.serials import next_serial
from controller.reconcile.tunnel_ends import end_objection
from controller.reconcile.turn import Lost, Turn

SPENT_MAX = 4096
"""Numbers (of agreements, and of the mandates they stood on) that one peer cannot use again, which are remembered until
nobody could use them any more. Who has so many makes no new agreement before some are forgotten."""
SPENT_RETRY_S = 60
STRAY_S = 3600
"""For so long a peer that accepted what nobody here knows is told so."""


def receive(turn: Turn, peer_name: str, envelope: Envelope, objection: str = "") -> None:
    """Repeats change nothing; what is not `peer_name`'s to say changes nothing. `objection`: of a strategy."""
    peer = turn.domains.get(peer_name)
    if peer is None or peer.own:
        turn.log("peer_violation", "error", peer=peer_name, reason="a message of a domain that we do not know")
        return
    try:
        message = opened(envelope)
    except Unreadable as error:
        turn.log("peer_violation", "error", peer=peer_name, reason=str(error))
        return
    if reason := signature_objection(envelope, peer, turn.keys):
        _violation(turn, peer, message, Why(Told.SIGNATURE, reason))
        return
    match message:
        case Terms():
            _offered(turn, peer, message, envelope, objection)
        case Acceptance() | Refusal():
            _answered(turn, peer, message, envelope)
        case Withdrawal():
            _withdrawn(turn, peer, message, envelope)
        case Holdings():
            compare(turn, peer.name, message)


def _violation(turn: Turn, peer: Domain, message: Message, why: Why) -> None:
    """What counts for nothing is logged, an offer is answered, and who waits for an answer sees why it was none."""
    about = {} if isinstance(message, Holdings) else {"agreement": message.id}
    turn.log("peer_violation", "error", peer=peer.name, reason=why.detail, **about)
    if isinstance(message, Terms):
        refuse(turn, peer.name, message, why)
    elif isinstance(message, Acceptance):
        course = turn.courses.get(turn.agreements.get(message.id) or "")
        session = course.downstream if course is not None else None
        if course is not None and session is not None and (session.terms.id, session.peer) == (message.id, peer.name):
            session = msgspec.structs.replace(session, reason=heard(why.detail))
            turn.put_course(msgspec.structs.replace(course, downstream=session))


def _offered(turn: Turn, peer: Domain, terms: Terms, offer: Envelope, objection: str) -> None:
    if why := offer_objection(terms, peer, turn.inventory, turn.own, turn.now_s, turn.keys):
        _violation(turn, peer, terms, why)
        return
    if reason := end_objection(turn, terms.border, terms.offeror_end):
        _violation(turn, peer, terms, Why(Told.INVALID, reason))
        return
    mandate = opened_mandate(terms.mandate)
    closed = turn.closed.get(terms.id) or turn.closed.get(mandate_name(mandate.id))
    if closed is not None:
        refuse(turn, peer.name, terms, Why(closed.told, closed.reason))
        return
    course = turn.courses.get(turn.agreements.get(terms.id) or "")
    if course is not None and course.upstream is not None and course.upstream.terms.id == terms.id:
        _offered_again(turn, course, course.upstream, terms, offer, objection)
        return
    if reason := refusal(terms, turn.policy, turn.own, turn.now_s) or objection:
        refuse(turn, peer.name, terms, Why(Told.POLICY, reason))
        return
    ended = turn.closed.get(intent_name(mandate.id))
    if ended is not None and turn.now_s < ended.until_s:
        refuse(turn, peer.name, terms, Why(ended.told, ended.reason), math.ceil(ended.until_s - turn.now_s))
        return
    upstreams = [one.upstream for one in turn.courses.all.values() if one.upstream is not None]
    if any(opened_mandate(one.terms.mandate).id == mandate.id for one in upstreams):
        reason = f"another agreement stands on mandate {mandate.id}, which supports one at a time"
        refuse(turn, peer.name, terms, Why(Told.CHANGED, reason))
        return
    held = sum(one.peer == peer.name for one in upstreams)
    if held >= turn.policy.max_agreements:
        reason = f"{turn.own} has {held} agreements with {peer.name}, which is the most"
        refuse(turn, peer.name, terms, Why(Told.SHARE, reason))
        return
    if (spent := sum(one.peer == peer.name for one in turn.closed.all.values())) >= SPENT_MAX:
        reason = f"{spent} numbers of ended agreements with {peer.name} are remembered, which is the most"
        refuse(turn, peer.name, terms, Why(Told.SHARE, reason), SPENT_RETRY_S)
        return
    if confirm(turn, terms.border):
        reroute(turn)
    session = Session(
        peer=peer.name, offeror=False, standing=Standing.OFFERED, terms=terms, offer=offer, since_s=int(turn.now_s)
    )
    _carry_on(turn, session, excluded=())


def _offered_again(turn: Turn, course: Course, session: Session, terms: Terms, offer: Envelope, objection: str) -> None:
    held = session.terms
    if terms.revision < held.revision:
        reason = f"revision {terms.revision} was followed by {held.revision} (replayed)"
        turn.log("peer_violation", "error", peer=session.peer, agreement=terms.id, reason=reason)
        refuse(turn, session.peer, terms, Why(Told.CHANGED, reason))
        return
    if offer == session.offer:
        repeat_answer(turn, session)
        return
    agreed = session.agreement.terms if session.agreement is not None else held
    told, reason = Told.CHANGED, f"revision {terms.revision} was offered with other terms before"
    if terms.revision > held.revision and not (reason := renewal_objection(agreed, terms)):
        told, reason = Told.POLICY, refusal(terms, turn.policy, turn.own, turn.now_s) or objection
    if reason:
        refuse(turn, session.peer, terms, Why(told, reason))
        return
    renewed = msgspec.structs.replace(
        session, standing=Standing.OFFERED, terms=terms, offer=offer, answer=None, since_s=int(turn.now_s)
    )
    turn.put_course(msgspec.structs.replace(course, upstream=renewed))
    answer(turn, course.plan.name)


def _carry_on(turn: Turn, session: Session, excluded: tuple[str, ...]) -> None:
    """Place our part of what a neighbour offers; then offer onward, or answer."""
    terms = session.terms
    connection = asked(turn, terms)
    if isinstance(connection, Why):
        why, retry_after_s = connection, 0
    else:
        found = _place(turn, terms, connection, excluded, next_serial(turn))
        if isinstance(found, Plan):
            _begin(turn, session, found)
            return
        reason = f"{turn.own} has no way to {destination_domain(terms)} that holds what is required ({found.binding})"
        why, retry_after_s = Why(Told.WAY, reason), wait_s(turn)
        turn.log("offer_unsatisfiable", "warning", agreement=terms.id, reason=found.message)
    refuse(turn, session.peer, terms, why, retry_after_s)


def _place(
    turn: Turn, terms: Terms, connection: Connection, excluded: tuple[str, ...], serial: int
) -> Plan | Unsatisfiable:
    link = turn.inventory.links[terms.border]
    ingress = Way(border=link.name, node=link.a.node, domain=link.domain, delay_us=link.delay_us, latency_us=0)
    return place(
        connection,
        turn.graph,
        name=terms.id,
        owner=f"agreements/{terms.id}",
        ingress=ingress,
        visited=terms.visited,
        excluded=excluded,
        serial=serial,
    )


def _begin(turn: Turn, session: Session, plan: Plan) -> None:
    try:
        slots = free_slots(len(plan.sr_policies), taken(turn), turn.counters.get("slot") or 0)
    except ValueError as error:
        turn.log("offer_unsatisfiable", "error", agreement=session.terms.id, reason=str(error))
        refuse(turn, session.peer, session.terms, Why(Told.ROOM, f"{turn.own} has no room for another agreement"))
        return
    turn.counters.put("slot", slots[-1])
    course = Course(plan=plan, serial=turn.number("serial"), slots=slots, stage=Stage.NEGOTIATING, upstream=session)
    turn.put_course(course)
    answer(turn, plan.name)


def _answered(turn: Turn, peer: Domain, message: Acceptance | Refusal, envelope: Envelope) -> None:
    id = message.id
    course = turn.courses.get(turn.agreements.get(id) or "")
    session = course.downstream if course is not None else None
    if course is None or session is None or session.terms.id != id:
        if isinstance(message, Acceptance) and id.startswith(f"{turn.own}:"):
            why = Why(Told.UNWANTED, "it is not wanted any more")
            withdraw(turn, peer.name, id, why, until_s=turn.now_s + STRAY_S, unasked=True)
        return
    if session.peer != peer.name:
        turn.log("peer_violation", "error", peer=peer.name, agreement=id, reason=f"it is {session.peer}'s to answer")
        return
    after, objection = negotiate.step(session, message, envelope, peer, turn.now_s)
    if after != session and isinstance(message, Acceptance):
        objection = end_objection(turn, session.terms.border, message.acceptor_end)
    if objection:
        _violation(turn, peer, message, Why(Told.INVALID, objection))
        return
    if after != session:
        retry_after_s = message.retry_after_s if isinstance(message, Refusal) else 0
        take_answer(turn, course, after, hold_off(turn, course, retry_after_s), retry_after_s)


def take_answer(
    turn: Turn, course: Course, after: Session, held_off: HeldOff | None = None, retry_after_s: int = 0
) -> None:
    """What follows from what has become of our offer. `held_off`: where we do not ask again for a while."""
    id = after.terms.id
    if after.standing == Standing.REFUSED:
        _refused(turn, course, after, held_off, retry_after_s)
        return
    renewal_refused = after.reason != "" and after.agreement is not None and after.agreement.terms != after.terms
    course = msgspec.structs.replace(course, downstream=after)
    if course.upstream is None and course.stage == Stage.NEGOTIATING and after.agreement is not None:
        course = msgspec.structs.replace(course, stage=Stage.ADDING)
        turn.fresh.add(course.plan.name)
    turn.put_course(course)
    turn.log(
        "renewal_refused" if renewal_refused else "agreed",
        agreement=id,
        revision=str(after.terms.revision),
        peer=after.peer,
        owner=course.plan.owner,
    )
    if course.upstream is None:
        return
    if not renewal_refused:
        answer(turn, course.plan.name)
    elif course.upstream.standing == Standing.OFFERED:
        _pass_on(turn, course, after)
    keep_promise(turn, course.plan.name)


def _refused(turn: Turn, course: Course, session: Session, held_off: HeldOff | None, retry_after_s: int) -> None:
    """The other ways are tried; if there is none, who asked us is refused too."""
    turn.log("refused", "warning", agreement=session.terms.id, peer=session.peer, reason=session.reason)
    upstream = course.upstream
    if upstream is None:
        end(turn, course, Why(Told.BEYOND, session.reason), towards_downstream=False)
        turn.lost.append(Lost(course=course, refusal=f"{session.peer}: {session.reason}", held_off=held_off))
        return
    tried = (*course.excluded, session.terms.border)
    found = _place(turn, upstream.terms, course.plan.connection, tried, course.plan.serial)
    if isinstance(found, Unsatisfiable):
        _pass_on(turn, msgspec.structs.replace(course, downstream=None), session, retry_after_s)
        return
    moved = msgspec.structs.replace(course, plan=found, downstream=None, excluded=tried)
    if len(found.sr_policies) != len(course.slots):
        _pass_on(turn, msgspec.structs.replace(course, downstream=None), session, retry_after_s)
        return
    turn.put_course(moved)
    offer_onward(turn, found.name)


def _pass_on(turn: Turn, course: Course, refused: Session, retry_after_s: int = 0) -> None:
    """Who asked us hears what we have heard, if it is one of what is told."""
    told, by = passed_on(refused.reason, refused.peer)
    refuse_upstream(turn, course, Why(told, f"{refused.peer}: {refused.reason}"), retry_after_s, by)


def _withdrawn(turn: Turn, peer: Domain, message: Withdrawal, envelope: Envelope) -> None:
    course = turn.courses.get(turn.agreements.get(message.id) or "")
    sessions = (course.upstream, course.downstream) if course is not None else ()
    session = next((one for one in sessions if one is not None and one.terms.id == message.id), None)
    if course is None or session is None or course.stage == Stage.LINGERING:
        return  # an offer that comes after it is answered, and the answer with a withdrawal again
    if session.peer != peer.name:
        turn.log("peer_violation", "error", peer=peer.name, agreement=message.id, reason="it is not theirs to end")
        return
    after, _ = negotiate.step(session, message, envelope, peer, turn.now_s)
    turn.forget_messages(message.id)
    told, _ = passed_on(after.reason, peer.name)
    why = Why(told, after.reason if message.ended_by else f"{peer.name} has withdrawn it: {after.reason}")
    # of what we ended ourselves nobody has to tell us
    ended_by = message.ended_by if message.ended_by != turn.own else peer.name
    ending = Ending(domain=ended_by, retry_after_s=message.retry_after_s)
    if message.linger_s > 0 and not session.offeror and course.stage == Stage.ACTIVE:
        end(turn, course, why, towards_upstream=False, linger_s=min(message.linger_s, MAX_LINGER_S))
        return
    if course.stage == Stage.REMOVING:
        end(turn, course, why, towards_upstream=session.offeror, towards_downstream=not session.offeror)
        return
    lose(turn, course, why, from_upstream=not session.offeror, from_downstream=session.offeror, ending=ending)
