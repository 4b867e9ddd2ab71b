"""What neighbouring domains send us."""

import math

import msgspec

from controller.fulfillment import negotiate, protocol
from controller.fulfillment.negotiate import offer_objection, renewal_objection, signature_objection
from controller.fulfillment.place import place
from controller.fulfillment.policy import destination_domain, refusal
from controller.fulfillment.protocol import PROTOCOL, Reaction, Role, Word, after, word
from controller.model.agreement import (
    REASON_LENGTH,
    Acceptance,
    Envelope,
    Holdings,
    Message,
    Refusal,
    Said,
    Terms,
    Unreadable,
    Withdrawal,
    opened,
    opened_mandate,
)
from controller.model.course import Course, Fact, HeldOff, Session, Stage, Standing
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
from controller.reconcile.identifiers import NoNumber
from controller.reconcile.rerouting import reroute
from controller.reconcile.serials import next_serial
from controller.reconcile.state import Closed
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
    if isinstance(message, Holdings):
        compare(turn, peer.name, message)
    elif why := _offer_objection(turn, peer, message) if isinstance(message, Terms) else None:
        _violation(turn, peer, message, why)
    else:
        _hear(turn, peer, message, envelope, objection)


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


def _offer_objection(turn: Turn, peer: Domain, terms: Terms) -> Why | None:
    if why := offer_objection(terms, peer, turn.inventory, turn.own, turn.now_s, turn.keys):
        return why
    reason = end_objection(turn, terms.border, terms.offeror_end)
    return Why(Told.INVALID, reason) if reason else None


def _hear(turn: Turn, peer: Domain, message: Said, envelope: Envelope, objection: str) -> None:
    """Does what the protocol says of it."""
    course = turn.courses.get(turn.agreements.get(message.id) or "")
    sessions = (course.upstream, course.downstream) if course is not None else ()
    session = next((one for one in sessions if one is not None and one.terms.id == message.id), None)
    by_peer = message.id.startswith(f"{peer.name}:")
    if (session is not None and session.peer != peer.name) or not (by_peer or message.id.startswith(f"{turn.own}:")):
        _violation(turn, peer, message, Why(Told.INVALID, f"the agreement is not {peer.name}'s to speak of"))
        return
    speaker = Role.OFFEROR if by_peer else Role.ACCEPTOR
    standing = _standing(turn, course, session, message)
    said = word(session, message, envelope)
    if reason := protocol.objection(speaker, standing, said):
        _violation(turn, peer, message, Why(Told.INVALID, reason))
        return
    match PROTOCOL[speaker, standing, said].reaction, message:
        case Reaction.JUDGE, Terms():
            _judge(turn, peer, message, envelope, objection)
        case Reaction.JUDGE_RENEWAL, Terms() if course is not None and session is not None:
            _judge_renewal(turn, course, session, message, envelope, objection)
        case Reaction.REPEAT, Terms() if session is not None:
            repeat_answer(turn, session)
        case Reaction.REFUSE, Terms():
            refuse(turn, peer.name, message, _why_not(turn, session, message))
        case Reaction.INSTALL | Reaction.TAKE_PROMISE, Acceptance() if course is not None and session is not None:
            _accepted(turn, peer, course, session, message, envelope)
        case Reaction.TRY_ELSEWHERE | Reaction.KEEP, Refusal() if course is not None and session is not None:
            by = f"{message.by}: " if message.by not in ("", peer.name) else ""
            held_off = hold_off(turn, course, message.retry_after_s)
            refused(turn, course, session, heard(by + message.reason), held_off, message.retry_after_s)
        case Reaction.END, Withdrawal() if course is not None and session is not None:
            _withdrawn(turn, course, session, message)
        case Reaction.DISOWN, _:
            why = Why(Told.UNWANTED, "it is not wanted any more")
            withdraw(turn, peer.name, message.id, why, until_s=turn.now_s + STRAY_S, unasked=True)


def _standing(turn: Turn, course: Course | None, session: Session | None, message: Said) -> Standing:
    if _closed(turn, message) is not None or (course is not None and course.stage == Stage.LINGERING):
        return Standing.ENDED
    return session.standing if session is not None else Standing.UNKNOWN


def _closed(turn: Turn, message: Said) -> Closed | None:
    """What is known of an agreement that has ended, or of the one that stood on the same mandate."""
    mandate = mandate_name(opened_mandate(message.mandate).id) if isinstance(message, Terms) else ""
    return turn.closed.get(message.id) or turn.closed.get(mandate)


def _why_not(turn: Turn, session: Session | None, terms: Terms) -> Why:
    if (closed := _closed(turn, terms)) is not None:
        return Why(closed.told, closed.reason)
    if session is not None and terms.revision < session.terms.revision:
        return Why(Told.CHANGED, f"revision {terms.revision} was followed by {session.terms.revision} (replayed)")
    return Why(Told.CHANGED, f"revision {terms.revision} was offered with other terms before")


def _judge(turn: Turn, peer: Domain, terms: Terms, offer: Envelope, objection: str) -> None:
    why, retry_after_s = _objection(turn, peer, terms, objection)
    if why is not None:
        refuse(turn, peer.name, terms, why, retry_after_s)
        return
    if confirm(turn, terms.border):
        reroute(turn)
    standing = after(None, Role.OFFEROR, Word.OFFER)
    session = Session(
        peer=peer.name, offeror=False, standing=standing, terms=terms, offer=offer, since_s=int(turn.now_s)
    )
    _carry_on(turn, session, excluded=())


def _objection(turn: Turn, peer: Domain, terms: Terms, objection: str) -> tuple[Why | None, int]:
    """Why we do not take on what `peer` offers, and for how long."""
    if reason := refusal(terms, turn.policy, turn.own, turn.now_s) or objection:
        return Why(Told.POLICY, reason), 0
    mandate = opened_mandate(terms.mandate).id
    ended = turn.closed.get(intent_name(mandate))
    if ended is not None and turn.now_s < ended.until_s:
        return Why(ended.told, ended.reason), math.ceil(ended.until_s - turn.now_s)
    upstreams = [one.upstream for one in turn.courses.all.values() if one.upstream is not None]
    if any(opened_mandate(one.terms.mandate).id == mandate for one in upstreams):
        return Why(Told.CHANGED, f"another agreement stands on mandate {mandate}, which supports one at a time"), 0
    held = sum(one.peer == peer.name for one in upstreams)
    if held >= turn.policy.max_agreements:
        return Why(Told.SHARE, f"{turn.own} has {held} agreements with {peer.name}, which is the most"), 0
    if (spent := sum(one.peer == peer.name for one in turn.closed.all.values())) >= SPENT_MAX:
        reason = f"{spent} numbers of ended agreements with {peer.name} are remembered, which is the most"
        return Why(Told.SHARE, reason), SPENT_RETRY_S
    return None, 0


def _judge_renewal(turn: Turn, course: Course, session: Session, terms: Terms, offer: Envelope, objection: str) -> None:
    agreed = session.agreement.terms if session.agreement is not None else session.terms
    why = None
    if reason := renewal_objection(agreed, terms):
        why = Why(Told.CHANGED, reason)
    elif reason := refusal(terms, turn.policy, turn.own, turn.now_s) or objection:
        why = Why(Told.POLICY, reason)
    if why is not None:
        refuse(turn, session.peer, terms, why)
        return
    standing = after(session, Role.OFFEROR, Word.OFFER)
    renewed = msgspec.structs.replace(
        session, standing=standing, terms=terms, offer=offer, answer=None, since_s=int(turn.now_s)
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
    course = Course(plan=plan, serial=turn.number("serial"), stage=Stage.NEGOTIATING, upstream=session)
    try:
        turn.put_course(course)
    except NoNumber as error:
        turn.log("offer_unsatisfiable", "error", agreement=session.terms.id, reason=str(error))
        refuse(turn, session.peer, session.terms, Why(Told.ROOM, f"{turn.own} has no room for another agreement"))
        return
    answer(turn, plan.name)


def _accepted(
    turn: Turn, peer: Domain, course: Course, session: Session, acceptance: Acceptance, envelope: Envelope
) -> None:
    agreed, objection = negotiate.accepted(session, acceptance, envelope, peer, turn.now_s)
    if agreed != session:
        objection = end_objection(turn, session.terms.border, acceptance.acceptor_end)
    if objection:
        _violation(turn, peer, acceptance, Why(Told.INVALID, objection))
        return
    if agreed == session:
        return
    ours = course.upstream is None
    stage = course.stage.after(Fact.SIGNED) if ours else course.stage
    if stage != course.stage:
        turn.fresh.add(course.plan.name)
    turn.put_course(msgspec.structs.replace(course, downstream=agreed, stage=stage))
    _log(turn, "agreed", course, agreed)
    if not ours:
        answer(turn, course.plan.name)
        keep_promise(turn, course.plan.name)


def refused(
    turn: Turn, course: Course, session: Session, reason: str, held_off: HeldOff | None, retry_after_s: int = 0
) -> None:
    """Our newest offer is. What is agreed stays as it is; else the other ways are tried. `held_off`: where we do not
    ask again for a while."""
    standing = after(session, Role.ACCEPTOR, Word.REFUSAL)
    session = msgspec.structs.replace(session, standing=standing, reason=reason[:REASON_LENGTH])
    if standing == Standing.ENDED:
        _try_elsewhere(turn, course, session, held_off, retry_after_s)
        return
    course = msgspec.structs.replace(course, downstream=session)
    turn.put_course(course)
    _log(turn, "renewal_refused", course, session)
    if course.upstream is not None:
        if course.upstream.standing.unanswered:
            _pass_on(turn, course, session)
        keep_promise(turn, course.plan.name)


def _log(turn: Turn, event: str, course: Course, session: Session) -> None:
    turn.log(
        event,
        agreement=session.terms.id,
        revision=str(session.terms.revision),
        peer=session.peer,
        owner=course.plan.owner,
    )


def _try_elsewhere(turn: Turn, course: Course, session: Session, held_off: HeldOff | None, retry_after_s: int) -> None:
    """The other ways; if there is none, who asked us is refused too."""
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
    try:
        turn.put_course(msgspec.structs.replace(course, plan=found, downstream=None, excluded=tried))
    except NoNumber as error:
        turn.log("no_room", "warning", owner=course.plan.owner, plan=course.plan.name, reason=str(error))
        _pass_on(turn, msgspec.structs.replace(course, downstream=None), session, retry_after_s)
        return
    offer_onward(turn, found.name)


def _pass_on(turn: Turn, course: Course, refused: Session, retry_after_s: int = 0) -> None:
    """Who asked us hears what we have heard, if it is one of what is told."""
    told, by = passed_on(refused.reason, refused.peer)
    refuse_upstream(turn, course, Why(told, f"{refused.peer}: {refused.reason}"), retry_after_s, by)


def _withdrawn(turn: Turn, course: Course, session: Session, message: Withdrawal) -> None:
    turn.forget_messages(message.id)
    reason, peer = heard(message.reason), session.peer
    told, _ = passed_on(reason, peer)
    why = Why(told, reason if message.ended_by else f"{peer} has withdrawn it: {reason}")
    if message.linger_s and not session.offeror and course.stage.after(Fact.REPLACED) == Stage.LINGERING:
        end(turn, course, why, towards_upstream=False, linger_s=min(message.linger_s, MAX_LINGER_S))
    elif course.stage == Stage.REMOVING:
        end(turn, course, why, towards_upstream=session.offeror, towards_downstream=not session.offeror)
    else:
        # of what we ended ourselves nobody has to tell us
        ended_by = message.ended_by if message.ended_by != turn.own else peer
        ending = Ending(domain=ended_by, retry_after_s=message.retry_after_s)
        lose(turn, course, why, from_upstream=not session.offeror, from_downstream=session.offeror, ending=ending)
