"""What we do about the intents of our own domain: place them, offer, take over, give up, try again."""

import math

import msgspec

from controller.fulfillment.place import leads_better, place
from controller.model.course import Course, Errand, HeldOff, Stage, Undertaking, expired
from controller.model.intent import Intent
from controller.model.plan import Plan
from controller.model.requirements import Connection, Requirements, Unsatisfiable
from controller.model.rule import Added
from controller.reconcile.carriers import cut
from controller.reconcile.dealings import LOST_RETRY_S, MAX_HOLD_OFF_S, abandon, offer_onward
from controller.reconcile.identifiers import NoNumber
from controller.reconcile.rerouting import move, relieved
from controller.reconcile.serials import next_serial
from controller.reconcile.tables import link_key
from controller.reconcile.turn import Turn

RETRY_S = 60
"""How often a connection that is unsatisfiable or refused is tried again."""
REFUSED_RETRY_S = 5
"""The first time after a refusal, whose cause we cannot see go; then twice as long each time."""


def undertake(
    turn: Turn, intent: Intent, requirements: Requirements, added: tuple[Added, ...] = (), *, again: bool = False
) -> None:
    """Begin with an intent, or with what has changed of it. What did not change stays as it is.

    `again`: somebody applies it, so that a lease of some length begins anew.
    """
    held = turn.undertakings.get(intent.name)
    now_s = int(turn.now_s)
    if held is None:
        held = Undertaking(
            intent=intent,
            created_s=now_s,
            applied_s=now_s,
            serial=next_serial(turn),
            requirements=requirements,
            added=added,
        )
        errands: tuple[Errand, ...] = tuple(Errand() for _ in requirements.connections)
        turn.log("intent_accepted", intent=intent.name, tenant=intent.tenant)
    elif (held.intent, held.requirements, held.added) == (intent, requirements, added) and not expired(held):
        if again:
            renew(turn, held)
        return
    else:
        known = {
            _ends(connection): errand
            for connection, errand in zip(held.requirements.connections, held.errands, strict=True)
        }
        errands = tuple(
            Errand(plan=known[_ends(connection)].plan, coming=known[_ends(connection)].coming)
            if _ends(connection) in known
            else Errand()
            for connection in requirements.connections
        )
        for ends in known.keys() - {_ends(connection) for connection in requirements.connections}:
            abandon(turn, known[ends].coming, "the intent was changed")
            abandon(turn, known[ends].plan, "the intent was changed")
        held = msgspec.structs.replace(
            held,
            intent=intent,
            requirements=requirements,
            added=added,
            applied_s=now_s if again or held.intent != intent or expired(held) else held.applied_s,
        )
        turn.log("intent_changed", intent=intent.name, tenant=intent.tenant)
    turn.undertakings.put(intent.name, msgspec.structs.replace(held, errands=errands))
    _move_end(turn, intent.name)
    turn.fresh.add(f"intents/{intent.name}")
    pursue(turn, intent.name)


def renew(turn: Turn, held: Undertaking) -> None:
    """Its lease begins anew, if it is one of some length that is not over."""
    if held.intent.lease_s is not None:
        turn.undertakings.put(held.intent.name, msgspec.structs.replace(held, applied_s=int(turn.now_s)))
        _move_end(turn, held.intent.name)


def _move_end(turn: Turn, name: str) -> None:
    """What carries an intent ends when it does."""
    undertaking = turn.undertakings.all[name]
    for plan in (plan for errand in undertaking.errands for plan in (errand.plan, errand.coming)):
        course = turn.courses.get(plan)
        if course is not None and course.expires_s != undertaking.expires_s:
            turn.put_course(msgspec.structs.replace(course, expires_s=undertaking.expires_s))
            turn.fresh.add(plan)


def _ends(connection: Connection) -> tuple[str, str]:
    return connection.source_network, connection.destination_network


def pursue(turn: Turn, name: str) -> None:
    """Whatever can be done now for each connection of an intent that has no right plan."""
    undertaking = turn.undertakings.get(name)
    if undertaking is None:
        return
    if undertaking.expires_s is not None and undertaking.expires_s <= turn.now_s:
        _expire(turn, undertaking)
        return
    errands = [
        _pursue(turn, undertaking, connection, errand)
        for connection, errand in zip(undertaking.requirements.connections, undertaking.errands, strict=True)
    ]
    turn.undertakings.put(name, msgspec.structs.replace(undertaking, errands=tuple(errands)))


def pursue_what_can_change(turn: Turn) -> None:
    """Intents that are due, and those that this step may have changed something for."""
    if turn.clock_set_back or turn.inventory_changed:
        names = list(turn.undertakings.all)
    else:
        changed = {*turn.pursuits.ready(turn.now_s), *relieved(turn), *_unsettled_by(turn)}
        names = turn.undertakings.all.in_order(changed)
    for name in names:
        pursue(turn, name)


def plan_next_looks(turn: Turn) -> None:
    """At the end of a step: when the intents that it may have changed something for are to be looked at."""
    for name in turn.undertakings.all.in_order(_unsettled_by(turn)):
        look_s = _next_look_s(turn, turn.undertakings.all[name])
        if look_s < math.inf:
            turn.pursuits.put(name, look_s)
        else:
            turn.pursuits.drop(name)
    for name in turn.undertakings.touched:
        if turn.undertakings.get(name) is None:
            turn.pursuits.drop(name)


def _unsettled_by(turn: Turn) -> set[str]:
    """Intents that this step has changed, or their courses, or links that these are over."""
    courses = dict.fromkeys(turn.courses.touched)
    courses |= dict.fromkeys(turn.courses.all.by(*map(link_key, turn.down.touched)))
    found = {*turn.undertakings.touched}
    for name in courses:
        course = turn.courses.get(name) or turn.before.courses.get(name)
        if course is not None and course.plan.owner.startswith("intents/"):
            found.add(course.plan.owner.removeprefix("intents/"))
    return found


def _next_look_s(turn: Turn, undertaking: Undertaking) -> float:
    """When there is something to do for an intent if nothing happens before; infinite: never."""
    if expired(undertaking):
        return math.inf
    looks_s = [math.inf if undertaking.expires_s is None else undertaking.expires_s]
    if not undertaking.requirements.unmet:
        for connection, errand in zip(undertaking.requirements.connections, undertaking.errands, strict=True):
            current = turn.courses.get(errand.coming or errand.plan)
            if current is None or not _is_good(turn, current, undertaking, connection):
                looks_s.append(errand.retry_s)
    return min(looks_s)


def _expire(turn: Turn, undertaking: Undertaking) -> None:
    if any(errand.plan or errand.coming for errand in undertaking.errands) or not expired(undertaking):
        for errand in undertaking.errands:
            abandon(turn, errand.coming, "the intent has expired")
            abandon(turn, errand.plan, "the intent has expired")
        blank = tuple(Errand(retry_s=-1) for _ in undertaking.errands)
        isolation = msgspec.structs.replace(undertaking.requirements, isolation=None)
        turn.undertakings.put(
            undertaking.intent.name, msgspec.structs.replace(undertaking, errands=blank, requirements=isolation)
        )
        turn.log("intent_expired", intent=undertaking.intent.name)


def _pursue(turn: Turn, undertaking: Undertaking, connection: Connection, errand: Errand) -> Errand:
    if undertaking.requirements.unmet:
        abandon(turn, errand.coming, "what is required cannot be met")
        abandon(turn, errand.plan, "what is required cannot be met")
        return Errand(unsatisfiable=undertaking.requirements.unmet[0])
    current = turn.courses.get(errand.coming or errand.plan)
    good = current.plan if current is not None and _is_good(turn, current, undertaking, connection) else None
    if good is not None and good.name not in turn.relieved:
        return errand
    if turn.now_s < errand.retry_s <= turn.now_s + RETRY_S:  # later than that: the clock was set back
        return errand
    serial = (turn.counters.get("serial") or 0) + 1
    held_off = _held_off(errand, turn.now_s)
    found = place(
        connection,
        turn.graph,
        name=f"{undertaking.intent.name}.{serial}",
        owner=f"intents/{undertaking.intent.name}",
        excluded={*errand.excluded, *(one.border for one in held_off)},
        priority=undertaking.intent.priority,
        serial=undertaking.serial,
    )
    if good is not None and (isinstance(found, Unsatisfiable) or not leads_better(found, good)):
        return errand
    if errand.coming:
        abandon(turn, errand.coming, "another way is wanted")
    if isinstance(found, Unsatisfiable) and _degrade(turn, undertaking, connection, errand):
        return Errand(plan=errand.plan, retry_s=int(turn.now_s) + RETRY_S, held_off=held_off)
    if isinstance(found, Unsatisfiable):
        found = _explained(found, undertaking.requirements, connection)
        abandon(turn, errand.plan, "what is required can no longer be held")
        event = "intent_refused" if errand.refusal else "intent_unsatisfiable"
        turn.log(event, "warning", intent=undertaking.intent.name, reason=errand.refusal or found.message)
        wait_s = min(RETRY_S, REFUSED_RETRY_S * 2**errand.tries) if errand.refusal else RETRY_S
        if {*errand.excluded} <= {one.border for one in held_off}:  # nobody else has refused it
            wait_s = min([RETRY_S, *(one.until_s - int(turn.now_s) for one in held_off if one.until_s)])
        return Errand(
            refusal=errand.refusal,
            unsatisfiable=found,
            retry_s=int(turn.now_s) + wait_s,
            tries=min(errand.tries + 1, 8) if errand.refusal else 0,
            held_off=held_off,
        )
    replaces = errand.plan if turn.courses.get(errand.plan) is not None else ""
    try:
        course = begin(turn, found, serial, replaces, undertaking.expires_s)
    except NoNumber as error:
        full = Unsatisfiable(binding="capacity", message=str(error))
        return _without_room(turn, undertaking, connection, errand, full, RETRY_S)
    if course is None:
        return msgspec.structs.replace(errand, coming="", retry_s=0)
    return Errand(
        plan=errand.plan if replaces else "",
        coming=found.name,
        excluded=errand.excluded,
        refusal=errand.refusal,
        lost=errand.lost,
        tries=errand.tries,
        held_off=held_off,
    )


def _held_off(errand: Errand, now_s: float) -> tuple[HeldOff, ...]:
    """What has not passed; later than the longest, the clock was set back."""
    return tuple(one for one in errand.held_off if not one.until_s or now_s < one.until_s <= now_s + MAX_HOLD_OFF_S + 1)


def _without_room(
    turn: Turn,
    undertaking: Undertaking,
    connection: Connection,
    errand: Errand,
    full: Unsatisfiable,
    retry_after_s: int,
) -> Errand:
    """No other plan has room beside what is there. What is there goes, if it is not what is wanted any more; then there
    may be room."""
    current = turn.courses.get(errand.plan)
    if current is None or _is_right(current.plan, undertaking, connection):
        after_s = retry_after_s
    else:
        abandon(turn, errand.plan, "it is not what is wanted any more, and there is no room for another beside it")
        errand, after_s = msgspec.structs.replace(errand, plan=""), LOST_RETRY_S
    return msgspec.structs.replace(errand, coming="", unsatisfiable=full, retry_s=int(turn.now_s) + after_s)


def turned_away(turn: Turn, course: Course, full: Unsatisfiable, retry_after_s: int = RETRY_S) -> None:
    """A course of ours that has just begun, and is gone again, has no room."""
    undertaking = turn.undertakings.get(course.plan.owner.removeprefix("intents/"))
    if undertaking is None:
        return
    errands = tuple(
        _without_room(turn, undertaking, connection, errand, full, retry_after_s)
        if errand.coming == course.plan.name
        else errand
        for connection, errand in zip(undertaking.requirements.connections, undertaking.errands, strict=True)
    )
    turn.undertakings.put(undertaking.intent.name, msgspec.structs.replace(undertaking, errands=errands))


def _degrade(turn: Turn, undertaking: Undertaking, connection: Connection, errand: Errand) -> bool:
    """Whether what cannot be had in time goes on slower, over the same border (`on_violation`)."""
    course = turn.courses.get(errand.plan)
    if course is None or undertaking.intent.on_violation != "degrade":
        return False
    return _is_right(course.plan, undertaking, connection) and move(turn, course, within_latency=False)


def _explained(found: Unsatisfiable, requirements: Requirements, connection: Connection) -> Unsatisfiable:
    """With the rule or plugin that the requirement comes from."""
    for one in requirements.origins:
        here = (one.source_network, one.destination_network) == _ends(connection)
        if here and one.clause == found.binding and one.origin != "clause":
            why = f": {one.explain}" if one.explain else ""
            return msgspec.structs.replace(
                found, message=f"{found.message} ({one.requirement} is of {one.origin}{why})"
            )
    return found


def _is_good(turn: Turn, course: Course, undertaking: Undertaking, connection: Connection) -> bool:
    """What is wanted, as it is wanted."""
    is_right = _is_right(course.plan, undertaking, connection)
    return is_right and not course.too_slow and not cut(course.plan, turn.down.all)


def _is_right(plan: Plan, undertaking: Undertaking, connection: Connection) -> bool:
    return plan.connection == connection and plan.priority == undertaking.intent.priority


def begin(turn: Turn, plan: Plan, serial: int, replaces: str, expires_s: int | None) -> Course | None:
    """The course of a new plan of ours; None while a gateway that it needs has not said what it is. Raises NoNumber."""
    if plan.egress is not None and plan.egress.border not in turn.fabric.crossings:
        return None
    stage = Stage.ADDING if plan.egress is None else Stage.NEGOTIATING
    course = Course(plan=plan, serial=serial, stage=stage, replaces=replaces, expires_s=expires_s)
    turn.put_course(course)
    turn.counters.put("serial", serial)
    turn.fresh.add(plan.name)
    if plan.egress is not None:
        offer_onward(turn, plan.name)
    return course


def carried(turn: Turn, course: Course) -> None:
    """A course of ours has become active: it takes the place of the one before."""
    name = course.plan.owner.removeprefix("intents/")
    undertaking = turn.undertakings.get(name)
    if undertaking is None:
        return
    errands = tuple(
        Errand(plan=course.plan.name, held_off=_held_off(errand, turn.now_s))
        if errand.coming == course.plan.name
        else errand
        for errand in undertaking.errands
    )
    turn.undertakings.put(name, msgspec.structs.replace(undertaking, errands=errands))


def failed(
    turn: Turn,
    course: Course,
    *,
    lost: str = "",
    refusal: str = "",
    retry_after_s: int = 0,
    held_off: HeldOff | None = None,
) -> None:
    """A course of ours is gone. After a refusal the other borders are tried, else the same again later."""
    name = course.plan.owner.removeprefix("intents/")
    undertaking = turn.undertakings.get(name)
    if undertaking is None:
        return
    plan = course.plan
    errands = []
    for errand in undertaking.errands:
        if plan.name not in (errand.plan, errand.coming):
            errands.append(errand)
            continue
        rest = Errand(
            plan="" if errand.plan == plan.name else errand.plan,
            coming="" if errand.coming == plan.name else errand.coming,
            excluded=errand.excluded,
            refusal=refusal or errand.refusal,
            lost=lost or errand.lost,
            tries=errand.tries,
            retry_s=int(turn.now_s) + retry_after_s if retry_after_s else 0,
            held_off=_held_off(errand, turn.now_s) + (() if held_off is None else (held_off,)),
        )
        if refusal and plan.egress is not None:
            rest = msgspec.structs.replace(rest, excluded=tuple(sorted({*errand.excluded, plan.egress.border})))
        errands.append(rest)
    turn.undertakings.put(name, msgspec.structs.replace(undertaking, errands=tuple(errands)))
    pursue(turn, name)
