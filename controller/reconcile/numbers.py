"""Numbers of own networks at their edges, and of plans of a release that gave them none."""

import msgspec

from controller.fulfillment.networks import network_keys
from controller.fulfillment.plan_ids import plan_ids
from controller.reconcile.identifiers import signed
from controller.reconcile.turn import Turn

_FORMER = ("network ", "edge ", "rests ")
"""Counters of release 0.1."""


def number_networks(turn: Turn) -> None:
    """An edge keeps its numbers as long as it is one, whatever others come and go. Raises NoNumber."""
    wanted = {
        key: None
        for name, network in sorted(turn.networks.all.items())
        if name.split("/")[0] == turn.own
        for key in network_keys(network)
    }
    gone = [key for key in turn.numbers.all if key not in wanted]
    turn.identifiers.release(gone)
    for key in gone:
        turn.numbers.drop(key)
    new = [key for key in wanted if turn.numbers.get(key) is None]
    for key, number in turn.identifiers.hold(new, turn.now_s).items():
        turn.numbers.put(key, number)


def number_plans(turn: Turn) -> None:
    """After an upgrade. SIDs that neighbours have signed stay as they are."""
    for name in [name for name in turn.counters.all if name in ("slot", "edge") or name.startswith(_FORMER)]:
        turn.counters.drop(name)
    for course in tuple(turn.courses.all.values()):
        if course.ids:
            continue
        known = dict(signed(course))
        turn.identifiers.adopt(known)
        rest = (key for key in plan_ids(course.plan) if key not in known)
        ids = turn.identifiers.hold(rest, turn.now_s) | known
        turn.courses.put(course.plan.name, msgspec.structs.replace(course, ids=ids, slots=()))
