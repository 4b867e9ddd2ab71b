"""Slots of what has ended rest while a node that is away may still act on their ids.

From a slot follow contexts, legs and SIDs of several nodes. What one of them, whose agent is away, still has of an
ended plan would be met by the packets of a new one that has the same slot on the others.
"""

from collections.abc import Iterator

from controller.model.course import Course, Stage
from controller.reconcile.turn import Turn

_RESTS = "rests "
FOR_GOOD_S = 1 << 40


def rest(turn: Turn, course: Course) -> None:
    """`course` has ended. Where all that it had has an end, its slots rest no longer than that."""
    if course.stage == Stage.NEGOTIATING:
        return
    sessions = (course.upstream, course.downstream)
    ends_s = [one.agreement.terms.expires_s for one in sessions if one is not None and one.agreement is not None]
    ends_s += [course.expires_s] if course.expires_s is not None else []
    for node in course.plan.nodes:
        standing = turn.nodes.get(node)
        if standing is not None and not standing.reachable:
            for slot in course.slots:
                turn.counters.put(f"{_RESTS}{slot} {node}", max(ends_s, default=FOR_GOOD_S))


def rested(turn: Turn, node: str) -> None:
    """It has all that it shall have, and nothing else."""
    for name in [name for name in turn.counters.all if name.startswith(_RESTS) and name.endswith(f" {node}")]:
        turn.counters.drop(name)


def taken(turn: Turn) -> Iterator[int]:
    """Slots that are in use, or rest."""
    for course in turn.courses.all.values():
        yield from course.slots
    for name, until_s in turn.counters.all.items():
        if name.startswith(_RESTS):
            slot, _, node = name.removeprefix(_RESTS).partition(" ")
            if turn.now_s < until_s and turn.inventory_nodes.get(node) is not None:
                yield int(slot)
