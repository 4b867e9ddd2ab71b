"""Nothing is begun that the nodes have no room for.

Whatever a step begins is counted before the step ends, together with all that is under way, as if all of it were
agreed, installed and in use. Who is let in so has its room for good: neither a neighbour's offer nor an intent of ours
pushes out what is there, whichever is agreed or installed first. What goes only makes entries fewer, so that of what a
step begins the first in order that fit are found by halving; the next of them is refused.
"""

from collections.abc import Collection, Sequence

import msgspec

from controller.fulfillment.assembly import Wanted
from controller.fulfillment.realize import Needed, Realized, need, realize
from controller.fulfillment.room import (
    Entries,
    Shortage,
    largest_part,
    port_part,
    shortage,
    table_shortage,
)
from controller.fulfillment.rules import NoRoom
from controller.model.course import Course, Stage, Undertaking
from controller.model.persistent import PersistentMap
from controller.model.requirements import Isolation, Unsatisfiable
from controller.model.told import Told, Why
from controller.reconcile.dealings import refuse_upstream
from controller.reconcile.tables import ISOLATES
from controller.reconcile.turn import Turn
from controller.reconcile.undertakings import RETRY_S, turned_away

OWN_SHARE = 20
"""Percent of everything that is counted that all neighbours together leave to the intents of this domain, where its
policy does not allow one of them more."""
AGAIN_S = 1
"""Before what came behind the one that did not fit is tried again."""


def realized(turn: Turn) -> Realized:
    """What all nodes shall have."""
    made = realize(wanted(turn, turn.courses.all), turn.realized, turn.unrealized)
    turn.unrealized.clear()
    return made


def wanted(turn: Turn, courses: PersistentMap[Course]) -> Wanted:
    return Wanted(
        inventory=turn.inventory,
        fabric=turn.fabric,
        descriptions=turn.descriptions.all,
        ids=turn.numbers.all,
        isolations=_isolations(turn),
        courses=courses,
    )


def _isolations(turn: Turn) -> list[Isolation]:
    held = map(turn.undertakings.all.__getitem__, turn.undertakings.all.by(ISOLATES))
    return [one for undertaking in held if (one := undertaking.requirements.isolation) is not None]


def _counted(turn: Turn, without: Collection[str]) -> Needed:
    """What all courses but these need in the end."""
    courses = turn.courses.all
    for name in without:
        courses = courses.delete(name) if name in courses else courses
    counted = need(wanted(turn, courses), turn.needed, turn.uncounted | set(without))
    turn.uncounted = set(without)
    return counted


def overfull(turn: Turn) -> str:
    """Why what was applied has no room on the nodes, whether or not any of what it begins is let in; empty: it has. A
    node that has become smaller than what it holds already refuses nothing else."""
    before = turn.before.undertakings
    isolates = any(
        _isolation(turn.undertakings.get(name)) not in (None, _isolation(before.get(name)))
        for name in turn.undertakings.touched
    )
    if not turn.inventory_changed and not isolates:
        return ""
    found = _shortage(turn, turn.inventory.nodes, _begun(turn), turn.before.needed.entries)
    return found.what.message if found is not None else ""


def _isolation(undertaking: Undertaking | None) -> Isolation | None:
    return undertaking.requirements.isolation if undertaking is not None else None


def admit(turn: Turn) -> None:
    """Lets in what this step has begun, as far as there is room, oldest first.

    What came behind the one that did not fit, and needs the same node, is put off, to be tried without that one.
    """
    begun = [course for course in _begun(turn) if course.plan.name not in turn.admitted]
    if not begun:
        return
    while begun and (short := _shortage(turn, _nodes(begun))) is not None:
        fit, too_many = -1, len(begun)
        while too_many - fit > 1:
            middle = (fit + too_many) // 2
            found = _shortage(turn, _nodes(begun), without=begun[middle:])
            if found is None:
                fit = middle
            else:
                too_many, short = middle, found
        first = max(fit, 0)
        _turn_away(turn, begun[first], short.what, RETRY_S)
        behind = [one for one in begun[first + 1 :] if not short.node or short.node in one.plan.nodes]
        for course in behind:
            _turn_away(turn, course, short.what, AGAIN_S)
        begun = [course for course in begun if turn.courses.get(course.plan.name) is not None]
    for course in begun:
        if course.upstream is not None and (reason := _too_much(turn, course, course.upstream.peer)):
            _turn_away(turn, course, Unsatisfiable(binding="share", message=reason), RETRY_S)
        turn.admitted.add(course.plan.name)


def _begun(turn: Turn) -> list[Course]:
    """What is new, or needs other than it did and nobody relies on yet; oldest first."""
    touched = (turn.courses.get(name) for name in turn.courses.touched)
    begun = [one for one in touched if one is not None and _has_begun(turn.before.courses.get(one.plan.name), one)]
    return sorted(begun, key=lambda course: course.serial)


def _has_begun(before: Course | None, course: Course) -> bool:
    return before is None or (course.stage == Stage.NEGOTIATING and _needs(before) != _needs(course))


def _needs(course: Course) -> tuple[object, ...]:
    return course.plan, course.upstream is None, course.downstream is None


def _nodes(courses: Sequence[Course]) -> set[str]:
    return {node for course in courses for node in course.plan.nodes}


def _shortage(
    turn: Turn, nodes: Collection[str], without: Sequence[Course] = (), before: Entries | None = None
) -> Shortage | None:
    """The first on any of these nodes, of what is more than `before`."""
    left_out = {course.plan.name for course in without}
    try:
        turn.needed = _counted(turn, left_out)
    except NoRoom as full:
        return table_shortage(full.table, full.node, full.needed, turn.profiles.all)
    return shortage(turn.needed.entries, nodes, turn.profiles.all, before)


def _too_much(turn: Turn, course: Course, peer: str) -> str:
    """Why a neighbour, or all of them, would have more with it than is for them; empty: they would not."""
    held = tuple(turn.courses.all.values())
    others = [one for one in held if one.upstream is not None]
    theirs = [one for one in others if one.upstream is not None and one.upstream.peer == peer]
    nodes = course.plan.nodes
    share = turn.policy.max_share
    reason = _beyond(turn, held, theirs, nodes, share, f"{peer} would have", "one neighbour")
    together = max(share, 100 - OWN_SHARE)
    return reason or _beyond(turn, held, others, nodes, together, "all neighbours would have", "them together")


def _beyond(
    turn: Turn,
    held: Sequence[Course],
    theirs: Sequence[Course],
    nodes: Collection[str],
    max_share: int,
    who: str,
    whom: str,
) -> str:
    """Why what is carried for others takes more than it may, on these nodes and of what all have; empty: it does
    not."""
    profiles = turn.profiles.all
    ports = port_part(held, theirs, nodes, profiles)
    part, what = max(ports, largest_part(turn.needed.entries, nodes, {one.plan.owner for one in theirs}, profiles))
    return f"{who} {part:.0%} of {what}; {max_share} % are for {whom}" if part * 100 > max_share else ""


def beyond_share(turn: Turn, held: Sequence[Course], max_share: int) -> dict[str, str]:
    """Of what is held for others, oldest first, the youngest that must go so that no neighbour has more than
    `max_share` percent: plan -> why."""
    ended: dict[str, str] = {}
    for peer in sorted({one.upstream.peer for one in held if one.upstream is not None}):
        theirs = [one for one in held if one.upstream is not None and one.upstream.peer == peer]
        while theirs:
            staying = [one for one in turn.courses.all.values() if one.plan.name not in ended]
            turn.needed = _counted(turn, ended)
            who = f"{peer} would have"
            reason = _beyond(turn, staying, theirs, _nodes(theirs), max_share, who, "one neighbour")
            if not reason:
                break
            ended[theirs.pop().plan.name] = reason
    return ended


def _turn_away(turn: Turn, course: Course, short: Unsatisfiable, retry_after_s: int) -> None:
    """What it has said in this step is never sent."""
    if course.downstream is not None and turn.before.courses.get(course.plan.name) is None:
        turn.forget_messages(course.downstream.terms.id)
        course = msgspec.structs.replace(course, downstream=None)
        turn.put_course(course)
    if course.upstream is not None:
        told = Told.SHARE if short.binding == "share" else Told.ROOM
        refuse_upstream(turn, course, Why(told, f"{turn.own} has no room for it ({short.binding})"))
    else:
        turn.drop_course(course)
        turned_away(turn, course, short, retry_after_s)
    turn.log("no_room", "warning", owner=course.plan.owner, plan=course.plan.name, reason=short.message)
