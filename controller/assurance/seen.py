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
    """What the probes of one path, or link, have measured since the sample before."""

    path: str
    """By which its samples are told apart: the nodes that it passes, or a link and who measures it."""
    at_s: float
    delay_ms: float | None
    """One way or there and back, always the same of a path: the median of the probes; None: nothing came back."""
    sent: int = 1
    lost: int | None = None
    """Of them; None: all, where nothing came back."""
    owners: tuple[str, ...] = ()
    link: str = ""
    """That it is of."""
    links: tuple[str, ...] = ()
    """That the path takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    flows: FlowColumns = field(default_factory=empty)
    denied: tuple[Denied, ...] = ()
    paths: tuple[PathSample, ...] = ()
