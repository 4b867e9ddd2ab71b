"""Findings about one thing, taken together: what was seen, decided and done, and whether it helped."""

import enum
from typing import Annotated

from msgspec import Meta

from controller.model.finding import Cause, Finding
from controller.model.intent import Intent, Remediation, Value

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
    """All that saw it."""
    signals: tuple[tuple[str, float], ...] = ()
    """By detector when it last saw what somebody does, or what is unusual, on the word of a baseline that has seen
    enough; sorted."""
    owners: tuple[str, ...] = ()
    """`intents/NAME` and so on, whose traffic it touches."""
    newest: Finding
    """Of its cause."""
    proposal: Intent | None = None
    """An intent that would mend it."""
    reroute: str = ""
    """The link that other paths would be taken around to mend it, as `links/NAME`."""
    mode: Remediation = Remediation.PROPOSE
    """What those that it touches want to be done."""
    impossible: str = ""
    """Why nothing is proposed."""
    held: str = ""
    """Why what is proposed is not done without somebody's word, though the mode is auto."""
    actions: int = 0
    """How often it was acted upon."""
    asked_s: float = 0.0
    """When the controller last was about to act by itself."""
    tries: int = 0
    """How often it was, since it was last acted upon."""
    acted_s: float = 0.0
    closed_s: float = 0.0
    timeline: Annotated[tuple[Moment, ...], Meta(max_length=TIMELINE_MAX)] = ()
    """The first ones stay; of the others the newest."""

    @property
    def proposes(self) -> bool:
        return self.proposal is not None or bool(self.reroute)
