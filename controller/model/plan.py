"""How one domain carries a connection: over which own paths, and over which borders."""

from controller.model.intent import Value
from controller.model.requirements import Connection, Waypoint
from controller.model.sr_policy import SrPolicyId


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


class Plan(Value, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """(Release 0.1 stored its latency and cost too, which follow from its SR Policies.)"""

    name: str
    """Unique in this domain, never used again."""
    owner: str
    """`intents/NAME`, or `agreements/ID` where it carries what another domain asked for."""
    connection: Connection
    ingress: Way | None
    """Where the traffic comes from; None: from hosts of ours."""
    egress: Way | None
    """Where it goes; None: to hosts of ours."""
    sr_policies: tuple[SrPolicyId, ...]
    """One for each pair of a node where it enters and one where it leaves; where it passes services, of each part of
    the way."""
    via: tuple[Waypoint, ...] = ()
    """Services that it passes: those of its connection, without those that are passed by while they are down."""
    parts: tuple[int, ...] = ()
    """Of each SR Policy which part of the way it is of: 0 leads to the first service. Empty: there is one part."""
    priority: int = 100
    serial: int = 0
    """Of its intent, or of when the agreement was first accepted: where plans of one priority carry the same flow, the
    lower owns it."""
    bundle: str = ""
    """Plans of ours that name the same share one agreement with the next domain; empty: it has its own."""
    around: tuple[str, ...] = ()
    """Links that were down when its borders were chosen, and what was passed by: `nodes/NAME`, `links/NAME`."""

    @property
    def ends(self) -> frozenset[str]:
        """Own nodes where its traffic enters and leaves; the nodes between them know nothing of it."""
        return frozenset(node for policy in self.sr_policies for node in (policy.headend, policy.endpoint))
