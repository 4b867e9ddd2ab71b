"""Links go down and come back: what runs over them takes another way, or ends.

own paths between the same ends that hold all ──▶ in place: one entry at each end is written over
another border                                ──▶ a new plan takes over (undertakings), make before break
neither, for an intent of ours                ──▶ degraded, if it may be and only latency is at stake; or unsatisfiable
neither, for what we carry for others         ──▶ the agreement ends, with the reason

For others "all" is what they allow: a longer path within what we promised changes nothing for them, one beyond it is
promised anew in the same agreement (dealings.keep_promise).
"""

from msgspec.structs import replace

from controller.fulfillment.carry import inside_mtu, terms_in_force
from controller.fulfillment.fabric import around
from controller.fulfillment.place import BINDINGS, repath
from controller.model.course import Course, Errand
from controller.model.told import Told, Why
from controller.reconcile.carriers import concerned, cut, is_back
from controller.reconcile.dealings import give_up, keep_promise
from controller.reconcile.identifiers import NoNumber
from controller.reconcile.tables import AROUND, WAITS, link_key
from controller.reconcile.turn import Turn


def reroute(turn: Turn) -> None:
    """After links went down or came back. What of ours needs another border, or may prefer it, is left to `pursue`."""
    turn.fabric = around(turn.fabric, turn.graph)
    down = turn.down.all
    for name in turn.courses.all.by(AROUND, *map(link_key, down)):
        course = turn.courses.get(name)
        if course is None or course.stage.leaving:
            continue
        plan = course.plan
        relieved = any(is_back(turn, name) for name in plan.around)
        if relieved:
            turn.relieved.add(plan.name)
        elif not concerned(plan, down):
            continue
        if move(turn, course, within_latency=True) or not cut(plan, down):
            continue
        if course.upstream is not None:
            # which links are down is not the neighbour's business
            give_up(turn, course, Why(Told.WAY, f"{turn.own} has no way any more that holds what is required"))
    unsettle(turn)


def move(turn: Turn, course: Course, *, within_latency: bool) -> bool:
    """Onto the best paths that there are now between the same ends; False: there are none that hold what is required
    (`within_latency`: the latency too) and what we have signed."""
    limit_us = _inside_us_max(course) if within_latency else None
    moved = repath(course.plan, turn.graph, limit_us)
    if moved is None or inside_mtu(moved, turn.fabric) < _promised_mtu(course):
        return False
    try:
        turn.put_course(replace(course, plan=moved))
    except NoNumber as error:
        turn.log("no_room", "warning", owner=moved.owner, plan=moved.name, reason=str(error))
        return False
    if moved.sr_policies != course.plan.sr_policies:
        turn.fresh.add(course.plan.name)
        turn.log("course_moved", owner=moved.owner, plan=moved.name, around=", ".join(moved.around))
    keep_promise(turn, moved.name)
    return turn.courses.get(moved.name) is not None


def _inside_us_max(course: Course) -> int | None:
    """What the own paths may take, by what is required. For others that may be more than we have promised so far."""
    plan, upstream, downstream = course.plan, course.upstream, course.downstream
    rest_us = plan.egress.latency_us if plan.egress is not None else 0
    if plan.egress is not None and downstream is not None:
        if downstream.agreement is not None:
            held = downstream.agreement
            rest_us = plan.egress.delay_us + (held.latency_us if upstream is None else held.likely_us)
        elif downstream.terms.latency_us_max is not None:
            rest_us = plan.egress.delay_us + downstream.terms.latency_us_max
    terms = terms_in_force(upstream) or (upstream.terms if upstream is not None else None)
    limit_us = terms.latency_us_max if terms is not None else plan.connection.latency_us_max
    return limit_us - rest_us if limit_us is not None else None


def _promised_mtu(course: Course) -> int:
    """The largest packet that we told a neighbour we take."""
    sizes = [0]
    if course.upstream is not None:
        signed = course.upstream.answer or course.upstream.agreement
        sizes += [] if signed is None else [signed.acceptor_end.inner_mtu]
    if course.downstream is not None:
        sizes.append(course.downstream.terms.offeror_end.inner_mtu)
    return max(sizes)


def unsettle(turn: Turn) -> None:
    """What no way could hold, or none in time, is tried again at once. What others refused or has no room is not."""
    for name in turn.undertakings.all.by(WAITS):
        undertaking = turn.undertakings.all[name]
        if any(map(_is_hopeful, undertaking.errands)):
            errands = (replace(one, retry_s=0) if _is_hopeful(one) else one for one in undertaking.errands)
            turn.undertakings.put(name, replace(undertaking, errands=tuple(errands)))


def relieved(turn: Turn) -> set[str]:
    """Intents whose way may be better again over another border."""
    owners = (turn.courses.all[name].plan.owner for name in turn.relieved if name in turn.courses.all)
    return {owner.removeprefix("intents/") for owner in owners}


def _is_hopeful(errand: Errand) -> bool:
    failure = errand.unsatisfiable
    return not errand.refusal and (bool(errand.plan) if failure is None else failure.binding in BINDINGS)
