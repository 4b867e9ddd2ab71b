"""How one domain carries a connection: over which own paths, and over which borders."""

from controller.model.intent import Value
from controller.model.requirements import Connection
from controller.model.sr_policy import SrPolicy


class Way(Value, frozen=True, kw_only=True):
    """Out of the domain, towards another."""

    border: str
    """Name of the inter-domain link."""
    node: str
    """Its gateway here."""
    domain: str
    """The neighbour."""
    delay_us: int
    """Of the border link."""
    latency_us: int
    """From the border's near end to the destination's domain, as far as we know; includes `delay_us`."""
    cost: int = 0
    """Of the same, as far as we know."""


class Plan(Value, frozen=True, kw_only=True):
    name: str
    """Unique in this domain, never used again."""
    owner: str
    """`intents/NAME`, or `agreements/ID` where it carries what another domain asked for."""
    connection: Connection
    ingress: Way | None
    """Where the traffic comes from; None: from hosts of ours."""
    egress: Way | None
    """Where it goes; None: to hosts of ours."""
    sr_policies: tuple[SrPolicy, ...]
    """One for each pair of a node where it enters and one where it leaves."""
    latency_us: int
    """Of the whole way, as far as we know."""
    cost: int = 0
    """Of the whole way, as far as we know: of the dearest where it has several."""
    priority: int = 100
    serial: int = 0
    """Of its intent, or of when the agreement was first accepted: where plans of one priority carry the same flow, the
    lower owns it."""
    bundle: str = ""
    """Plans of ours that name the same share one agreement with the next domain; empty: it has its own."""
    around: tuple[str, ...] = ()
    """Links that were down when its paths were chosen."""

    @property
    def nodes(self) -> frozenset[str]:
        """With a part in it."""
        ways = {way.node for way in (self.ingress, self.egress) if way is not None}
        ends = {node for policy in self.sr_policies for node in (policy.headend, policy.endpoint)}
        inner = {node for policy in self.sr_policies for path in policy.candidate_paths for node in path.nodes}
        return frozenset(ways | ends | inner)

    @property
    def unprotected(self) -> tuple[SrPolicy, ...]:
        """Those that lack the second path that is required."""
        if self.connection.disjoint is None:
            return ()
        return tuple(policy for policy in self.sr_policies if len(policy.candidate_paths) == 1)

    @property
    def own_latency_us(self) -> int:
        """From where the traffic enters to the far end of the border where it leaves."""
        inside_us = max(sr_policy.latency_us for sr_policy in self.sr_policies)
        return inside_us + (self.egress.delay_us if self.egress is not None else 0)
