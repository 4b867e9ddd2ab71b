"""What a detector has seen: something unusual, what it probably is, and on what evidence. A finding decides nothing."""

import enum

from controller.model.intent import Value


class Cause(enum.StrEnum):
    """What is probably going on, in words of the field."""

    SCAN = "scan"
    FLOOD = "flood"
    VOLUME_SHIFT = "volume_shift"
    EXFILTRATION = "exfiltration"
    BEACONING = "beaconing"
    POLICY_PROBING = "policy_probing"
    DELAY_SHIFT = "delay_shift"
    LOSS = "loss"
    UNUSUAL = "unusual"
    """No rule names it: a learned model has not seen the like."""
    BASELINE_STALE = "baseline_stale"
    """Much of what passes is unusual to the baseline: it has aged, which is no attack."""


NAMED = frozenset({Cause.SCAN, Cause.FLOOD, Cause.EXFILTRATION, Cause.BEACONING, Cause.POLICY_PROBING})
"""What somebody does, as a rule of a detector names it."""


def outweighs(cause: Cause, other: Cause) -> bool:
    """Whether an incident that was of the `other` cause is of this one, once this is seen too: what somebody does
    explains a shift of volume, loss explains delay."""
    return _weight(cause) > _weight(other)


def _weight(cause: Cause) -> int:
    return 2 if cause in NAMED else int(cause is Cause.LOSS)


class Reason(Value, frozen=True, kw_only=True):
    """One feature that made the difference."""

    feature: str
    """With its unit: `new_ports`, `bytes_s`, `delay_ms`."""
    observed: float
    usual: float
    """The baseline's median, or what a detector without a baseline takes for harmless."""


class Finding(Value, frozen=True, kw_only=True):
    """One alarm of one window. Many of them about one thing are an incident, which others make."""

    at_s: float
    """Unix time of the end of the newest window."""
    cause: Cause
    entity: str
    """What it is about: `intents/NAME`, `sources/ADDRESS`, `destinations/ADDRESS`, `paths/NAME`."""
    detectors: tuple[str, ...]
    p: float
    """How often what is usual looks at least like this, calibrated; 0 < p <= 1."""
    reasons: tuple[Reason, ...]
    """At most three, the weightiest first."""
    windows: tuple[tuple[float, float], ...]
    """Begin and end of what it was seen in, Unix time."""
    owners: tuple[str, ...] = ()
    """`intents/NAME`, `agreements/ID`, `networks/NAME` whose traffic is touched."""
    source: str = ""
    """Address; empty: unknown, or many."""
    destination: str = ""
    node: str = ""
    """Where it was seen; empty: at several."""
    text: str
    """A sentence for people."""
    cold: bool = False
    """The baseline has not seen enough yet: it is told, and nothing is done on its word alone."""
