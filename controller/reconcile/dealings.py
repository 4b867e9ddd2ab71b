"""Dealing with neighbouring domains: what we offer, how we answer, renew and end what was agreed."""

import math

import msgspec

from controller.fulfillment import numbering, plan_ids
from controller.fulfillment.carry import inside_mtu, terms_in_force
from controller.fulfillment.fabric import Crossing
from controller.fulfillment.negotiate import make_acceptance, make_refusal, promise, sealed
from controller.fulfillment.protocol import Role, Word, after
from controller.model.agreement import (
    REASON_LENGTH,
    Envelope,
    Mandate,
    Terms,
    TunnelEnd,
    Withdrawal,
    opened_mandate,
)
from controller.model.course import Course, Fact, HeldOff, Session, Stage, Standing
from controller.model.intent import Encryption
from controller.model.told import Told, Why
from controller.reconcile.resting import rest
from controller.reconcile.state import Closed
from controller.reconcile.tables import renewal_s
from controller.reconcile.turn import Lost, Turn

LINGER_S = 2
"""How long a plan that was replaced still takes replies: as long as its end may need to reach the other domains."""
MAX_LINGER_S = 10
ID_NAME_LENGTH = 200
"""Of what others have given a name, in ids of ours."""
MAX_HOLD_OFF_S = 86400
"""We ask again after a day, whatever the neighbour says."""
LOST_RETRY_S = 2
"""Before we try again what a neighbour has withdrawn, or what has run out."""


def offer_onward(turn: Turn, name: str) -> None:
    """The first offer, or a renewal, to the domain that comes next."""
    course = turn.courses.get(name)
    egress = course.plan.egress if course is not None else None
    crossing = turn.fabric.crossings.get(egress.border) if egress is not None else None
    if course is None or egress is None or crossing is None:
        return
    held = course.downstream
    plan, connection = course.plan, course.plan.connection
    upstream = course.upstream.terms if course.upstream is not None else None
    expires_s = upstream.expires_s if upstream is not None else _own_expiry(turn, course)
    id = held.terms.id if held is not None else _agreement_id(turn, course)
    revision = held.terms.revision + 1 if held is not None else 1
    left_us = _left_us(course)
    mandate = upstream.mandate if upstream is not None else _mandate(turn, course, id, revision, left_us, expires_s)
    terms = Terms(
        id=id,
        revision=revision,
        offeror=turn.own,
        acceptor=egress.domain,
        origin=upstream.origin if upstream is not None else turn.own,
        border=egress.border,
        flows=connection.flows,
        encryption=Encryption.WIREGUARD,
        trust_min=connection.trust_min,
        latency_us_max=left_us,
        avoid_domains=connection.avoid_domains,
        dscp=connection.dscp,
        visited=(*(upstream.visited if upstream is not None else ()), turn.own),
        not_before_s=int(turn.now_s),
        expires_s=expires_s,
        offeror_end=_end(turn, course, crossing, offeror=True),
        mandate=mandate,
    )
    offer = sealed(terms, turn.keys)
    session = Session(
        peer=egress.domain,
        offeror=True,
        standing=after(held, Role.OFFEROR, Word.OFFER),
        terms=terms,
        offer=offer,
        agreement=held.agreement if held is not None else None,
        since_s=int(turn.now_s),
    )
    turn.put_course(msgspec.structs.replace(course, downstream=session))
    turn.send(session.peer, offer, id, revision, until_s=expires_s)
    turn.log("offer_sent", agreement=terms.id, revision=str(terms.revision), peer=session.peer, owner=plan.owner)


def _mandate(
    turn: Turn, course: Course, id: str, revision: int, latency_us_max: int | None, expires_s: int
) -> Envelope:
    """What an intent of ours asks all domains on the way for."""
    connection, egress = course.plan.connection, course.plan.egress
    mandate = Mandate(
        id=id,
        revision=revision,
        origin=turn.own,
        carrier=egress.domain if egress is not None else "",
        flows=connection.flows,
        encryption=Encryption.WIREGUARD,
        trust_min=connection.trust_min,
        latency_us_max=latency_us_max,
        avoid_domains=connection.avoid_domains,
        direct=connection.direct,
        dscp=connection.dscp,
        not_before_s=int(turn.now_s),
        expires_s=expires_s,
    )
    return sealed(mandate, turn.keys)


def _left_us(course: Course) -> int | None:
    """Of the latency that is required, for what comes after us. Where we are too slow, what was promised is enough."""
    upstream, held = course.upstream, course.downstream
    limit_us = upstream.terms.latency_us_max if upstream is not None else course.plan.connection.latency_us_max
    if limit_us is None:
        return None
    enough_us = 0
    if upstream is None and held is not None and held.agreement is not None:
        enough_us = held.agreement.latency_us
    return max(limit_us - course.plan.own_latency_us, enough_us)


def _own_expiry(turn: Turn, course: Course) -> int:
    ends = [int(turn.now_s) + turn.policy.lease_s]
    undertaking = turn.undertakings.get(course.plan.owner.removeprefix("intents/"))
    if undertaking is not None and undertaking.expires_s is not None:
        ends.append(undertaking.expires_s)
    return min(ends)


def _agreement_id(turn: Turn, course: Course) -> str:
    """`offeror:name:serial`, with the name that the origin gave it, as far as there is room for that."""
    name = course.plan.owner.removeprefix("intents/")
    if course.upstream is not None:
        name = course.upstream.terms.id.split(":")[1][:ID_NAME_LENGTH]
    return f"{turn.own}:{name}:{turn.number('serial')}"


def _end(turn: Turn, course: Course, crossing: Crossing, *, offeror: bool) -> TunnelEnd:
    """Our side of a border, as the other side must know it."""
    *_, function = plan_ids.from_border(course.plan, plan_ids.REVERSE if offeror else plan_ids.FORWARD)
    sid = numbering.sid(turn.fabric.locators[crossing.node], course.ids[function])
    return TunnelEnd(
        sid=numbering.sid_text(sid),
        public_key=crossing.public_key,
        endpoint=crossing.endpoint,
        inner_mtu=_size(turn, course, crossing, offeror=offeror),
    )


def _size(turn: Turn, course: Course, crossing: Crossing, *, offeror: bool) -> int:
    """The largest packet that we take at a border, as far as we know what lies behind it."""
    sizes = [inside_mtu(course.plan, turn.fabric), crossing.inner_mtu]
    beyond = course.upstream if offeror else course.downstream
    if beyond is not None:
        other = turn.fabric.crossings.get(beyond.terms.border)
        sizes += [other.inner_mtu] if other is not None else []
        if offeror:
            sizes.append(beyond.terms.offeror_end.inner_mtu)
        elif beyond.agreement is not None:
            sizes.append(beyond.agreement.acceptor_end.inner_mtu)
    return max(min(sizes), 0)


def watch_ends(turn: Turn) -> None:
    """Where our end of a border is another than we have signed (a gateway has a new key or endpoint, or takes smaller
    packets), the neighbour is told. What we accepted is promised anew if packets are smaller, and ends if it is another
    end, so that it is asked again; what we offered is offered anew."""
    for course in tuple(turn.courses.all.values()):
        upstream, downstream = course.upstream, course.downstream
        signed = (upstream.answer or upstream.agreement) if upstream is not None else None
        if signed is not None and _is_elsewhere(turn, signed.terms.border, signed.acceptor_end):
            lose(turn, course, Why(Told.LOST, f"the tunnel of {turn.own} has a new end"), at_once=True)
            continue
        if course.stage == Stage.ACTIVE:
            keep_promise(turn, course.plan.name)
        crossing = turn.fabric.crossings.get(downstream.terms.border) if downstream is not None else None
        if crossing is None or downstream is None or course.stage.leaving:
            continue
        end = downstream.terms.offeror_end
        is_smaller = _size(turn, course, crossing, offeror=True) < end.inner_mtu
        if _is_elsewhere(turn, crossing.link, end) or (
            is_smaller and course.stage == Stage.ACTIVE and downstream.standing == Standing.AGREED
        ):
            offer_onward(turn, course.plan.name)


def _is_elsewhere(turn: Turn, border: str, end: TunnelEnd) -> bool:
    """Whether the gateway at a border is no more what a signed end says."""
    crossing = turn.fabric.crossings.get(border)
    return crossing is not None and (crossing.public_key, crossing.endpoint) != (end.public_key, end.endpoint)


def answer(turn: Turn, name: str) -> None:
    """Sign what was offered to us as soon as our part and what lies beyond it stand. It is sent when installed."""
    course = turn.courses.get(name)
    session = course.upstream if course is not None else None
    if course is None or session is None or not session.standing.unanswered or session.answer is not None:
        return
    plan = course.plan
    crossing = turn.fabric.crossings.get(session.terms.border)
    if crossing is None:
        return
    if plan.egress is not None:
        onward = course.downstream
        agreed = onward.agreement if onward is not None else None
        if agreed is None or agreed.terms.expires_s != session.terms.expires_s:
            asked = onward.terms.expires_s if onward is not None and onward.standing.unanswered else None
            if asked != session.terms.expires_s:
                offer_onward(turn, name)
            return
    bound_us = session.terms.latency_us_max
    if bound_us is not None and course.promised_us > bound_us:
        if not _ask_for_less(turn, course, bound_us):
            refuse_upstream(turn, course, Why(Told.WAY, f"{turn.own} has no way that holds what is required (latency)"))
        return
    end = _end(turn, course, crossing, offeror=False)
    pledged_us = promise(course.promised_us, bound_us)
    signed = make_acceptance(session.offer, session.terms, end, pledged_us, turn.keys, course.likely_us)
    session = msgspec.structs.replace(session, answer=signed)
    turn.put_course(msgspec.structs.replace(course, upstream=session, stage=course.stage.after(Fact.SIGNED)))
    turn.fresh.add(name)


def _ask_for_less(turn: Turn, course: Course, bound_us: int) -> bool:
    """Whether what lies beyond us may be had with a smaller promise, so that our bound is held: it is asked, or was."""
    onward, left_us = course.downstream, bound_us - course.plan.own_latency_us
    if onward is None or onward.agreement is None or onward.agreement.likely_us > left_us:
        return False
    asked_us = onward.terms.latency_us_max
    if asked_us is not None and asked_us <= left_us:
        return onward.standing.unanswered
    offer_onward(turn, course.plan.name)
    return True


def keep_promise(turn: Turn, name: str) -> None:
    """Our way, or what lies beyond it, may be longer than it was, or take smaller packets. Within our promise that
    changes nothing for others; within what the offeror allows we promise anew; beyond it the agreement ends."""
    course = turn.courses.get(name)
    session = course.upstream if course is not None else None
    held = session.agreement if session is not None else None
    if course is None or session is None or held is None:
        return
    if session.standing != Standing.AGREED or session.answer is not None:
        return  # what is answered says how long it takes now, and is looked at again when it is sent
    crossing, acceptor_end = turn.fabric.crossings.get(held.terms.border), held.acceptor_end
    if crossing is not None:
        size = min(_size(turn, course, crossing, offeror=False), acceptor_end.inner_mtu)
        acceptor_end = msgspec.structs.replace(acceptor_end, inner_mtu=size)
    bound_us, needed_us = held.terms.latency_us_max, course.promised_us
    is_longer = bound_us is not None and needed_us > held.latency_us
    if not is_longer and acceptor_end == held.acceptor_end:
        return
    if is_longer and bound_us is not None and needed_us > bound_us:
        if not _ask_for_less(turn, course, bound_us):
            lose(turn, course, Why(Told.WAY, f"{turn.own} has no way any more that holds what was agreed"))
        return
    promised_us, expected_us = held.latency_us, held.expected_us
    if is_longer:
        promised_us, expected_us = promise(needed_us, bound_us), course.likely_us
    signed = make_acceptance(session.offer, held.terms, acceptor_end, promised_us, turn.keys, expected_us)
    turn.put_course(msgspec.structs.replace(course, upstream=msgspec.structs.replace(session, answer=signed)))
    turn.fresh.add(name)
    turn.log("promise_amended", agreement=held.terms.id, peer=session.peer, latency_us=str(promised_us))


def deliver_answer(turn: Turn, course: Course) -> Course:
    """Everything that our signature promises is installed."""
    session = course.upstream
    if session is None or session.answer is None:
        return course
    terms = session.terms
    turn.send(session.peer, session.answer.acceptance, terms.id, terms.revision, until_s=terms.expires_s)
    turn.log("offer_accepted", agreement=session.terms.id, revision=str(session.terms.revision), peer=session.peer)
    standing = after(session, Role.ACCEPTOR, Word.ACCEPTANCE)
    session = msgspec.structs.replace(session, standing=standing, agreement=session.answer, answer=None)
    return msgspec.structs.replace(course, upstream=session)


def offer_again(turn: Turn, session: Session) -> None:
    """The same, to who may have lost it."""
    terms = session.terms
    turn.send(session.peer, session.offer, terms.id, terms.revision, until_s=terms.expires_s)


def repeat_answer(turn: Turn, session: Session) -> None:
    """The same offer came again."""
    held = session.agreement
    if session.standing == Standing.AGREED and held is not None and held.terms == session.terms:
        terms = held.terms
        turn.send(session.peer, held.acceptance, terms.id, terms.revision, until_s=terms.expires_s)


def refuse(turn: Turn, peer: str, terms: Terms, why: Why, retry_after_s: int = 0, by: str = "") -> None:
    """`by`: the domain further on that refuses."""
    said = make_refusal(terms.id, terms.revision, why.told, turn.keys, retry_after_s, by)
    turn.send(peer, said, terms.id, terms.revision, until_s=terms.expires_s, unasked=True)
    turn.log("offer_refused", "warning", agreement=terms.id, peer=peer, reason=why.detail)


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """Who has ended an agreement by hand."""

    domain: str = ""
    """Empty: nobody, it could not be kept."""
    retry_after_s: int = 0
    """For so long it does not take the same again."""


NOBODY = Ending()


def withdraw(
    turn: Turn,
    peer: str,
    id: str,
    why: Why,
    *,
    until_s: float,
    linger_s: int = 0,
    ending: Ending = NOBODY,
    unasked: bool = False,
) -> None:
    """What an operator says who ends it is for the others too."""
    said = Withdrawal(
        id=id,
        reason=why.detail[:REASON_LENGTH] if ending.domain else why.told,
        issued_s=int(turn.now_s),
        linger_s=linger_s,
        ended_by=ending.domain,
        retry_after_s=ending.retry_after_s,
    )
    turn.send(peer, sealed(said, turn.keys), id, until_s=until_s, unasked=unasked)


def mandate_name(id: str) -> str:
    """Under which a mandate is closed."""
    return f"mandate {id}"


def intent_name(mandate: str) -> str:
    """Under which it is known that we have ended what an intent of another domain needs, all its mandates alike."""
    return f"intent {mandate.rpartition(':')[0]}"


def close_id(turn: Turn, id: str, why: Why, until_s: float, peer: str) -> None:
    """What has stood between `peer` and us is not offered again."""
    turn.closed.put(id, Closed(until_s=int(until_s) + 1, reason=why.detail, peer=peer, told=why.told))


def refuse_upstream(turn: Turn, course: Course, why: Why, retry_after_s: int = 0, by: str = "") -> None:
    """What was offered to us cannot be had: a renewal fails and the rest stays in force, or all of it ends."""
    session = course.upstream
    if session is None:
        return
    refuse(turn, session.peer, session.terms, why, retry_after_s, by)
    standing = after(session, Role.ACCEPTOR, Word.REFUSAL)
    if session.agreement is not None:
        kept = msgspec.structs.replace(session, standing=standing, terms=session.agreement.terms, answer=None)
        turn.put_course(msgspec.structs.replace(course, upstream=kept))
        return
    end(turn, course, why, towards_upstream=False)


def end(
    turn: Turn,
    course: Course,
    why: Why,
    *,
    towards_upstream: bool = True,
    towards_downstream: bool = True,
    linger_s: int = 0,
    ending: Ending = NOBODY,
) -> None:
    """Nothing of a course stays (for long, if it is to linger), and its neighbours are told."""
    for session, tell in ((course.upstream, towards_upstream), (course.downstream, towards_downstream)):
        if session is None:
            continue
        if tell:
            turn.forget_messages(session.terms.id)
            id, until_s = session.terms.id, session.terms.expires_s
            withdraw(turn, session.peer, id, why, until_s=until_s, linger_s=linger_s, ending=ending)
        if not session.offeror and session.agreement is not None:
            mandate = opened_mandate(session.terms.mandate)
            close_id(turn, session.terms.id, why, session.terms.expires_s, session.peer)
            close_id(turn, mandate_name(mandate.id), why, mandate.expires_s, session.peer)
    if linger_s:
        until_s = int(turn.now_s) + linger_s
        turn.put_course(msgspec.structs.replace(course, stage=Stage.LINGERING, until_s=until_s))
    else:
        rest(turn, course)
        turn.drop_course(course)
    turn.log("course_ended", owner=course.plan.owner, plan=course.plan.name, reason=why.detail)


def abandon(turn: Turn, name: str, reason: str, linger_s: int = 0) -> None:
    """We want a course no more: what uses it is removed first."""
    course = turn.courses.get(name)
    stage = course.stage.after(Fact.UNWANTED) if course is not None else Stage.GONE
    if course is None or stage == course.stage:
        return
    if stage == Stage.GONE:
        end(turn, course, Why(Told.UNWANTED, reason))
        return
    turn.put_course(msgspec.structs.replace(course, stage=stage, linger_s=linger_s))
    turn.fresh.add(name)


def lose(
    turn: Turn,
    course: Course,
    why: Why,
    *,
    from_upstream: bool = False,
    from_downstream: bool = False,
    ending: Ending = NOBODY,
    at_once: bool = False,
) -> None:
    """A course is over against our will: its lease has run out, a neighbour has withdrawn, or somebody has ended it.
    `at_once`: nothing that we wait for would make another try better."""
    end(
        turn,
        course,
        why,
        towards_upstream=not from_upstream,
        towards_downstream=not from_downstream,
        ending=ending,
    )
    if course.upstream is not None:
        return
    if ending.domain:
        held_off = hold_off(turn, course, ending.retry_after_s)
        turn.lost.append(Lost(course=course, refusal=f"{ending.domain}: {why.detail}", held_off=held_off))
    else:
        turn.lost.append(Lost(course=course, why=why.detail, retry_after_s=0 if at_once else LOST_RETRY_S))


def give_up(turn: Turn, course: Course, why: Why, ending: Ending = NOBODY) -> None:
    """We can or want to keep it no more: what is only offered to us is refused, all else ends."""
    if course.upstream is not None and course.upstream.agreement is None:
        refuse_upstream(turn, course, why, ending.retry_after_s)
    else:
        lose(turn, course, why, ending=ending)


def hold_off(turn: Turn, course: Course, seconds: int) -> HeldOff | None:
    """Where a course of ours went is not offered again for some time; by no clock sooner than the neighbour says."""
    egress = course.plan.egress
    if egress is None or not seconds:
        return None
    return HeldOff(border=egress.border, until_s=math.ceil(turn.now_s) + min(seconds, MAX_HOLD_OFF_S))


def watch_leases(turn: Turn) -> None:
    """Renew at half-time, end what has run out, forget ids that nobody can use any more."""
    everything = turn.clock_set_back
    for name in tuple(turn.courses.all) if everything else turn.courses.ready(turn.now_s):
        course = turn.courses.get(name)
        if course is None:
            continue
        ran_out = [
            session
            for session in (course.upstream, course.downstream)
            if session is not None and (terms_in_force(session) or session.terms).expires_s <= turn.now_s
        ]
        if course.stage == Stage.LINGERING and (ran_out or course.until_s <= turn.now_s):
            rest(turn, course)
            turn.drop_course(course)
            continue
        if ran_out:
            lose(turn, course, Why(Told.EXPIRED, f"the agreement with {ran_out[0].peer} has expired"))
            continue
        session = course.downstream
        if course.upstream is None and course.stage == Stage.ACTIVE and session is not None and session.agreement:
            later = _own_expiry(turn, course) > session.agreement.terms.expires_s
            if later and turn.now_s >= renewal_s(session):
                offer_onward(turn, name)
    for name in turn.closed.ready(turn.now_s):
        turn.closed.drop(name)
    for name in turn.outbox.ready(turn.now_s):
        turn.drop_message(name)
