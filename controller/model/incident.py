"""Findings about one thing, taken together: what was seen, decided and done, and whether it helped."""

import enum
from typing import Annotated

from msgspec import Meta

from controller.model.finding import Cause, Finding
from controller.model.intent import Intent, Value

TIMELINE_MAX = 64


class Standing(enum.StrEnum):
    OPEN = "Open"
    PROPOSED = "Proposed"
    """It waits for somebody to approve or reject what is proposed."""
    ACTED = "Acted"
    """What was proposed is in force, and it is watched whether it helps."""
    REJECTED = "Rejected"
    """Somebody has said that nothing is to be done about it."""
    CLOSED = "Closed"
    """Nothing of it was seen for a while."""


class What(enum.StrEnum):
    SEEN = "seen"
    DECIDED = "decided"
    DONE = "done"
    HELPED = "helped"


class Moment(Value, frozen=True, kw_only=True):
    """One line of the timeline."""

    at_s: float
    what: What
    text: Annotated[str, Meta(max_length=4096)]


class Incident(Value, frozen=True, kw_only=True):
    name: str
    serial: int
    about: str
    """What its findings have in common: `sources/ADDRESS`, or their entity."""
    cause: Cause
    standing: Standing
    began_s: float
    seen_s: float
    """When it was last seen."""
    count: int
    """Findings."""
    detectors: tuple[str, ...]
    """All that saw it: independent signals."""
    owners: tuple[str, ...] = ()
    """`intents/NAME` and so on, whose traffic it touches."""
    newest: Finding
    proposal: Intent | None = None
    """An intent that would mend it."""
    impossible: str = ""
    """Why nothing is proposed."""
    acted_s: float = 0.0
    closed_s: float = 0.0
    timeline: Annotated[tuple[Moment, ...], Meta(max_length=TIMELINE_MAX)] = ()
    """The first ones stay; of the others the newest."""
