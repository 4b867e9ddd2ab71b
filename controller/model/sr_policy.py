"""SR Policies (RFC 9256) inside one domain."""

from functools import lru_cache

import msgspec

from controller.model.constraints import UNCONSTRAINED, Constraints, backwards
from controller.model.intent import Value


class SrPolicyId(Value, frozen=True, kw_only=True, cache_hash=True, forbid_unknown_fields=False):
    """By which an SR Policy is known (RFC 9256 §2.1). (Release 0.1 stored its candidate paths here.)"""

    headend: str
    """Where the traffic's source is."""
    endpoint: str
    color: Constraints = UNCONSTRAINED
    """What its paths hold."""

    @property
    def normal(self) -> "SrPolicyId":
        """The same from the end that is first by name."""
        if self.headend <= self.endpoint:
            return self
        return SrPolicyId(headend=self.endpoint, endpoint=self.headend, color=backwards(self.color))

    @property
    def name(self) -> str:
        """The same for both directions: one SR Policy serves both."""
        return _name(self)

    @property
    def crosses(self) -> bool:
        """From one node to another; else there is nothing to choose, and no SR Policy."""
        return self.headend != self.endpoint


@lru_cache(16_384)
def _name(id: SrPolicyId) -> str:
    normal = id.normal
    return f"{normal.headend} {normal.endpoint} {color_name(normal.color)}"


def color_name(color: Constraints) -> str:
    """Equal ones have one name. (A default is left out where it is the very value that stands in the type.)"""
    if color.prefer == UNCONSTRAINED.prefer:
        color = msgspec.structs.replace(color, prefer=UNCONSTRAINED.prefer)
    return msgspec.json.encode(color).decode()


class CandidatePath(Value, frozen=True, kw_only=True):
    """One way from one end to the other."""

    preference: int
    """Higher is better (RFC 9256 §2.7)."""
    nodes: tuple[str, ...]
    """From end to end; both included."""
    links: tuple[str, ...]
    """One less than nodes."""
    latency_us: int
    cost: int = 0


class SrPolicy(Value, frozen=True, kw_only=True):
    """Both directions of the way between two nodes; they take the same links. All plans that ask for this way share
    it."""

    headend: str
    """The end that is first by name."""
    endpoint: str
    color: Constraints = UNCONSTRAINED
    candidate_paths: tuple[CandidatePath, ...]
    """From headend to endpoint, highest preference first. Empty where both are one node."""
    around: tuple[str, ...] = ()
    """Links that were down when they were chosen, and what was passed by: `nodes/NAME`, `links/NAME`."""
    numbers: tuple[int, int] = (0, 0)
    """At headend and endpoint, from 1 on; 0 of what release 0.1 has stored, until it is given some."""
    unconfirmed: tuple[str, ...] = ()
    """Nodes that went away before they confirmed these paths."""

    @property
    def latency_us(self) -> int:
        return self.candidate_paths[0].latency_us if self.candidate_paths else 0

    @property
    def cost(self) -> int:
        return self.candidate_paths[0].cost if self.candidate_paths else 0

    @property
    def id(self) -> SrPolicyId:
        return SrPolicyId(headend=self.headend, endpoint=self.endpoint, color=self.color)

    @property
    def is_numbered(self) -> bool:
        return all(self.numbers)

    def number_at(self, node: str) -> int:
        """Of the direction that begins there."""
        return self.numbers[0] if node == self.headend else self.numbers[1]

    def nodes_from(self, node: str) -> tuple[str, ...]:
        """Of the best candidate path, from one of its ends to the other."""
        nodes = self.candidate_paths[0].nodes if self.candidate_paths else (self.headend,)
        return nodes if node == self.headend else nodes[::-1]
