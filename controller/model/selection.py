"""Which service stands for `any service ...` in an intent, and what became of the others."""

import enum

import msgspec

from controller.model.intent import Intent, Value


class Verdict(enum.StrEnum):
    CHOSEN = "chosen"
    FALL_BACK = "fall-back"
    """It would do, and is taken when the chosen one does not any more."""
    WAITING = "waiting"
    """It would do, and is left alone for a while: it was refused, or is not advertised any more."""
    UNSATISFIABLE = "unsatisfiable"
    """No way to it holds what is required. Where that is so of all that are considered, the nearest is tried again."""
    DROPPED = "dropped"
    """It cannot be taken, whatever way leads there."""


class Considered(Value, frozen=True, kw_only=True):
    """One service that is what the clause asks for."""

    service: str
    verdict: Verdict
    reason: str = ""
    latency_us: int | None = None
    """Of the way that would be taken, as far as it is known here; None: there is none."""
    cost: int | None = None
    domains: int | None = None
    """How far away: 0 is our own domain, 1 a neighbour."""


class Failure(Value, frozen=True, kw_only=True):
    """A service that was chosen, and did not do."""

    service: str
    until_s: int
    """Unix time until which others are taken before it."""
    times: int
    """In a row."""
    reason: str


class Selection(Value, frozen=True, kw_only=True):
    clause: int
    """Index of the `allow`."""
    chosen: str = ""
    """Empty: there is none that could be, see `reason`."""
    reason: str = ""
    since_s: int = 0
    """Unix time."""
    considered: tuple[Considered, ...] = ()
    """The chosen one, then the others in the order in which they would be taken; as they were when that was last looked
    at."""
    left_out: int = 0
    """How many more there are."""
    failures: tuple[Failure, ...] = ()


def resolved(intent: Intent, selections: tuple[Selection, ...]) -> Intent:
    """With what is chosen in the place of what was asked for; where nothing is, the clause leads nowhere (`to` is
    empty)."""
    if not selections:
        return intent
    chosen = {selection.clause: selection.chosen for selection in selections}
    allow = tuple(
        msgspec.structs.replace(allow, to=chosen.get(index, ""), any=None) if allow.any is not None else allow
        for index, allow in enumerate(intent.allow)
    )
    return msgspec.structs.replace(intent, allow=allow)
