"""Numbers of what has ended rest while a node that is away may still act on them."""

from controller.model.course import Course, Stage
from controller.reconcile.identifiers import FOR_GOOD_S
from controller.reconcile.turn import Turn


def rest(turn: Turn, course: Course) -> None:
    """`course` has ended. Where all that it had has an end, its numbers rest no longer than that."""
    if course.stage == Stage.NEGOTIATING:
        return
    sessions = (course.upstream, course.downstream)
    ends_s = [one.agreement.terms.expires_s for one in sessions if one is not None and one.agreement is not None]
    ends_s += [course.expires_s] if course.expires_s is not None else []
    standings = ((node, turn.nodes.get(node)) for node in sorted(course.plan.nodes))
    away = [node for node, standing in standings if standing is not None and not standing.reachable]
    turn.identifiers.rest(course.ids, away, max(ends_s, default=FOR_GOOD_S))


def rested(turn: Turn, node: str) -> None:
    """It has all that it shall have, and nothing else."""
    turn.identifiers.rested(node)
