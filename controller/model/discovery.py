"""What a node hears on its links by LLDP (IEEE 802.1AB-2016) and of hosts, and who says what of a link.

Facts come from several sources. The one of the earliest source in `Source` counts; what a later one says otherwise is
shown beside it, and changes nothing.
"""

import enum
from collections.abc import Iterable

from controller.model.intent import Value


class RemoteSystem(Value, frozen=True, kw_only=True):
    """A neighbour as it describes itself (§9.2.7.7). Nothing proves what it says."""

    port: int
    """Ours, at which it is heard."""
    chassis_id: str
    port_id: str
    system_name: str = ""
    port_description: str = ""
    node: str = ""
    """Of our own domain, where the ids are those that our nodes give themselves; empty: another system."""
    node_port: int = 0
    since_s: int
    """Unix time since when it has been heard saying this."""


class HeardHost(Value, frozen=True, kw_only=True):
    """A host that no network has, as it describes itself. Nothing proves what it says."""

    port: int
    """At which it is heard."""
    mac: str
    addresses: tuple[str, ...]
    """Sorted; none: it has said none that a network could have."""
    since_s: int
    """Unix time since when it has been heard."""


class LldpCounts(Value, frozen=True, kw_only=True):
    """Frames that came in since the node was connected, by what became of them; names of §9.2.6 where it has them."""

    frames_in: int = 0
    frames_discarded: int = 0
    """Malformed."""
    too_many_neighbors: int = 0
    """From a neighbour for which the port had no room."""
    too_fast: int = 0
    """Not looked at, since more came at the port than is looked at."""
    ageouts: int = 0


class PortMeasurement(Value, frozen=True, kw_only=True):
    """What probes say of the link at a port (STAMP)."""

    port: int
    delay_us: int
    """One way: half of there and back; the median of some seconds."""
    loss_percent: float
    """Of the last minute, there and back."""
    at_s: int


class PathMeasurement(Value, frozen=True, kw_only=True):
    """The same of a candidate path of a node's traffic."""

    liveness_group: int
    slot: int
    """Of the candidate path in the group."""
    is_alive: bool
    """Else it is not taken while another one is."""
    delay_us: int
    """0: not known, since nothing comes back."""
    jitter_us: int
    loss_percent: float
    at_s: int


class LinkDelay(Value, frozen=True, kw_only=True):
    """What is known of how long a link takes, beside what is declared. Times are Unix times."""

    counts_us: int | None = None
    """In paths; None: what is declared."""
    since_s: float = 0
    other_since_s: float | None = None
    """Since when something else is measured than what counts."""
    measured_s: float = 0
    """When both ends last said something."""
    back_s: float = float("-inf")
    """When it was last found to take what is declared again."""
    flaps: int = 0
    """So often it was slower again soon after."""


class Source(enum.StrEnum):
    """Of a fact; what comes first wins."""

    OPERATOR = "operator"
    DISCOVERY = "discovery"
    MEASUREMENT = "measurement"
    ADVERTISEMENT = "advertisement"
    """Of another domain."""


class Statement(Value, frozen=True, kw_only=True):
    """Somebody says that something (`what`) of a thing is so."""

    what: str
    value: str
    source: Source
    by: str
    """Who says so: the operator's token, or a node and what it went by."""
    at_s: int | None = None
    """Unix time since when; None: not known."""


DELAY_DIFFERS_SHARE, DELAY_DIFFERS_MS = 0.2, 0.5
LOSS_DIFFERS_PERCENT = 0.5
"""From what is declared, before a measurement says something else: probes share queues and take the nodes' time."""


def agree(what: str, one: str, other: str) -> bool:
    """Whether two values say the same of something."""
    if what == "delay_ms":
        return abs(float(one) - float(other)) <= max(DELAY_DIFFERS_MS, DELAY_DIFFERS_SHARE * float(one))
    if what == "loss_percent":
        return abs(float(one) - float(other)) <= LOSS_DIFFERS_PERCENT
    return one == other


_RANK = {source: rank for rank, source in enumerate(Source)}


def _standing(statement: Statement) -> float:
    return -float(statement.value) if statement.source == Source.MEASUREMENT else statement.at_s or 0


def prevailing(statements: Iterable[Statement]) -> dict[str, Statement]:
    """Of each `what` the fact that counts: by source, and of one source the one that has stood longest; of measurements
    the worst, which is the greatest."""
    ranked = sorted(statements, key=lambda one: (_RANK[one.source], _standing(one), one.by, one.value))
    return {one.what: one for one in reversed(ranked)}
