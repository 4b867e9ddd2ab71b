"""What the candidate paths of an SR Policy must hold, and which of those that do is preferred (RFC 9256 §5.2: dynamic
candidate paths have an optimization objective and constraints). Each set is a color."""

import msgspec

from controller.model.intent import Disjoint, Prefer, Trust, Value


class Constraints(Value, frozen=True, kw_only=True, cache_hash=True):
    """Of the part of a way that lies in one domain."""

    prefer: Prefer = Prefer()
    latency_us_max: int | None = None
    """Delays of links add up."""
    loss_ppm_max: int | None = None
    """Lost packets in a million: of what a link is given, its share is lost, and the next one gets the rest."""
    trust_min: Trust = Trust.PUBLIC
    avoid_labels: tuple[tuple[str, str], ...] = ()
    """Sorted; links and nodes with any of them."""
    avoid_nodes: tuple[str, ...] = ()
    """Sorted. The ends count too."""
    include_nodes: tuple[str, ...] = ()
    """To pass in this order. A path may come to a node before it has passed one of these, and again after."""
    disjoint: Disjoint | None = None
    """What the two candidate paths do not share. Where there are no such two, there is one. None: the second shares no
    node with the first, or no link, where there is one."""


UNCONSTRAINED = Constraints()


def backwards(constraints: Constraints) -> Constraints:
    """The same for the other direction."""
    if len(constraints.include_nodes) < 2:
        return constraints
    return msgspec.structs.replace(constraints, include_nodes=constraints.include_nodes[::-1])
