"""What the candidate paths of an SR Policy must hold, and which of those that do is preferred (RFC 9256 §5.2: dynamic
candidate paths have an optimization objective and constraints). Each set is a color."""

from controller.model.intent import Prefer, Trust, Value


class Constraints(Value, frozen=True, kw_only=True):
    """Of the part of a way that lies in one domain."""

    prefer: Prefer = Prefer()
    latency_us_max: int | None = None
    """Delays of links add up."""
    trust_min: Trust = Trust.PUBLIC


UNCONSTRAINED = Constraints()
