"""What detectors are shown of one interval."""

from dataclasses import dataclass, field

from controller.model.flow_columns import FlowColumns, empty


@dataclass(frozen=True, slots=True, kw_only=True)
class Denied:
    """What policy dropped of one owner's traffic at one node."""

    owner: str
    node: str
    reason: str
    packets: int
    """Of this interval."""
    source: str = ""
    """Address; empty: unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PathSample:
    """One measurement of one path by its probes."""

    path: str
    at_s: float
    delay_ms: float | None
    """One way or there and back, always the same of a path; None: nothing came back."""
    owners: tuple[str, ...] = ()
    segments: tuple[str, ...] = ()
    """The nodes that it passes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    flows: FlowColumns = field(default_factory=empty)
    denied: tuple[Denied, ...] = ()
    paths: tuple[PathSample, ...] = ()
