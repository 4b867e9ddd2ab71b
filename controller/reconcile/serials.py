"""Who came first: one count of our intents and of what other domains agreed with us."""

import msgspec

from controller.fulfillment.rules import MAX_SERIAL
from controller.reconcile.turn import Turn


def next_serial(turn: Turn) -> int:
    """Higher than all in use. Once in a million they run out; what is there is then numbered anew from 1, in the same
    order, and its entries are written once more with the priorities that follow from it."""
    if (turn.counters.get("owner") or 0) >= MAX_SERIAL:
        _number_anew(turn)
    return turn.number("owner")


def _number_anew(turn: Turn) -> None:
    used = {one.serial for one in turn.undertakings.all.values()} | {
        one.plan.serial for one in turn.courses.all.values()
    }
    numbers = {serial: number for number, serial in enumerate(sorted(used), 1)}
    for name, undertaking in tuple(turn.undertakings.all.items()):
        turn.undertakings.put(name, msgspec.structs.replace(undertaking, serial=numbers[undertaking.serial]))
    for course in tuple(turn.courses.all.values()):
        plan = msgspec.structs.replace(course.plan, serial=numbers[course.plan.serial])
        turn.put_course(msgspec.structs.replace(course, plan=plan))
    turn.counters.put("owner", len(numbers))
