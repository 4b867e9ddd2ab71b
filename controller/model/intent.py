"""What an application says it needs (RFC 9315: intent)."""

import enum
from typing import Annotated

import msgspec

from controller.model.sharing import Shared


class Trust(enum.IntEnum):
    """How far a network, link or domain is trusted. Higher includes lower."""

    PUBLIC = 0
    PARTNER = 1
    OWN = 2


class Deny(enum.StrEnum):
    """What becomes of a packet that nothing permits, beside that it goes no further."""

    DROP = "drop"
    REJECT = "reject"
    """Its sender, a host of the network, is told: administratively prohibited."""


class Replies(enum.StrEnum):
    """What comes back to a network's hosts, or goes out from them, as a reply."""

    STATEFUL = "stateful"
    """Its edges let pass what answers a request that they have seen, while that is alive."""
    STATELESS = "stateless"
    """Whatever could be a reply: from the service's ports, opening nothing."""


class Encryption(enum.StrEnum):
    NONE = "none"
    WIREGUARD = "wireguard"
    """Every link between domains, and every link trusted less than `own`, is inside WireGuard."""
    WIREGUARD_PQ = "wireguard-pq"
    """The same, with a pre-shared key of an ML-KEM-768 exchange in each tunnel."""
    WIREGUARD_END_TO_END = "wireguard-end-to-end"
    """From edge to edge: domains between carry the outer flow only."""


class Disjoint(enum.StrEnum):
    """What the paths of one SR Policy must not share, between the border gateways of each domain."""

    LINK = "link"
    NODE = "node"
    SRLG = "srlg"
    """No shared risk link group (RFC 4202)."""


class Level(enum.StrEnum):
    """Which way a preference pulls."""

    LOW = "low"


class Remediation(enum.StrEnum):
    """What may be done about an incident that touches an intent."""

    OFF = "off"
    """Nothing is proposed."""
    PROPOSE = "propose"
    """Somebody has to approve it."""
    AUTO = "auto"
    """The controller does it by itself, within limits."""


class Phase(enum.StrEnum):
    """Where an intent stands (interfaces.md)."""

    PENDING = "Pending"
    NEGOTIATING = "Negotiating"
    INSTALLING = "Installing"
    ACTIVE = "Active"
    DEGRADED = "Degraded"
    UNSATISFIABLE = "Unsatisfiable"
    REFUSED = "Refused"
    WITHDRAWN = "Withdrawn"
    EXPIRED = "Expired"


class Value(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """Base of all records: frozen, compared by content, encoded by msgspec."""


PortNumber = Annotated[int, msgspec.Meta(ge=0, le=65535)]


class Ports(Value, frozen=True, kw_only=True, cache_hash=True, forbid_unknown_fields=False):
    """One L4 match: `tcp/443`, `udp/1000-2000`, `tcp` (all ports), `icmp` (echo, both families)."""

    protocol: Annotated[str, msgspec.Meta(max_length=16)]
    """tcp, udp or icmp."""
    first: PortNumber = 0
    last: PortNumber = 65535


class Selector(Value, frozen=True, kw_only=True):
    network: str
    """`domain/network`."""
    labels: tuple[tuple[str, str], ...] = ()
    """Sorted; all must match. Empty: the whole network."""
    prefixes: tuple[str, ...] = ()
    """Only what has an address inside one of them, and only those addresses. Empty: all addresses."""


class AnyService(Value, frozen=True, kw_only=True):
    """A service that is not named, but described: all of it must be so, and one of the first three is said."""

    service: str = ""
    """The last part of its name."""
    labels: tuple[tuple[str, str], ...] = ()
    """Sorted; of the service, its network or its domain, or a capability of its network that is written the same."""
    capabilities: tuple[str, ...] = ()
    """Of its network; sorted."""
    trust_min: Trust | None = None
    """Of its network and domain."""


class Allow(Value, frozen=True, kw_only=True):
    to: str = ""
    """`domain/network/service` or `domain/network`; empty: `any` says."""
    any: AnyService | None = None
    ports: tuple[Ports, ...] = ()
    """Empty: what the service offers; for a network, everything."""
    source: Selector | None = None
    """None: what the intent isolates."""


class Avoid(Value, frozen=True, kw_only=True):
    """Where the traffic must not go."""

    domains: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    """Sorted; nodes, links and domains with any of them."""
    nodes: tuple[str, ...] = ()
    """Of the own domain."""


class Require(Value, frozen=True, kw_only=True):
    """Must hold; an unknown metric does not satisfy a requirement."""

    latency_us_max: int | None = None
    """One way, edge to edge."""
    bandwidth_bps_min: int | None = None
    loss_ppm_max: int | None = None
    """Lost packets in a million."""
    encryption: Encryption = Encryption.NONE
    disjoint: Disjoint | None = None
    trust_min: Trust | None = None
    avoid: Avoid = Avoid()
    include_nodes: tuple[str, ...] = ()
    """Of the own domain, to pass in this order."""


class Prefer(Value, frozen=True, kw_only=True):
    """Traded: what is better in this is taken where there is a choice, and never at the price of a requirement.

    What is not asked for breaks ties. Cost goes before latency where both are asked for; neither is as latency.
    """

    cost: Level | None = None
    latency: Level | None = None

    def __str__(self) -> str:
        """As in a sentence: `cost low, latency low`; empty: nothing is preferred."""
        preferences = {"cost": self.cost, "latency": self.latency}
        return ", ".join(f"{name} {level}" for name, level in preferences.items() if level is not None)


class IntentTest(Value, frozen=True, kw_only=True):
    """What must hold after every change that touches it; a change that would break it is refused."""

    allowed: bool
    source: Selector
    to: str
    """`domain/network/service` or `domain/network`."""
    ports: tuple[Ports, ...] = ()
    """Empty: what the service offers; for a network, everything. Allowed: all of it; denied: none of it."""


class Intent(Value, frozen=True, kw_only=True):
    name: str
    tenant: str
    isolate: Selector | None = None
    """An invariant: nothing else reaches it, it reaches nothing else."""
    allow: tuple[Allow, ...] = ()
    via: tuple[str, ...] = ()
    """Services to pass, in order: names in the source's network, or full ones."""
    require: Require = Require()
    prefer: Prefer = Prefer()
    on_violation: str = "degrade"
    """`degrade` or `stop`."""
    on_service_down: str = "stop"
    """What becomes of the traffic while a service of `via` is down: `stop`, or `bypass`: it goes without it."""
    priority: int = 100
    service_class: str = ""
    """Class of service, which rules give a meaning; empty: best effort."""
    overrides: tuple[str, ...] = ()
    """Intents of the same tenant whose isolation this one may break."""
    suspends: tuple[str, ...] = ()
    """Intents of the same tenant: while this one isolates, whatever these hosts send is dropped, though those allow
    it. Only with `isolate`."""
    remediation: Remediation = Remediation.PROPOSE
    lease_s: int | None = None
    """How long from when it was applied; None: until withdrawn."""
    lease_until_s: int | None = None
    """Unix time; at most one of the two is given."""
    tests: tuple[IntentTest, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    """Sorted; by which people find it (`stitch get intents -l app=shop`). They mean nothing else."""


_NAMES: Shared[str] = Shared()
_PORTS: Shared[tuple[Ports, ...]] = Shared()
_SELECTORS: Shared[Selector] = Shared()


def with_shared_parts(intent: Intent) -> Intent:
    """The same intent; of what others say too it has what they have."""
    return msgspec.structs.replace(
        intent,
        tenant=_NAMES(intent.tenant),
        isolate=_SELECTORS(intent.isolate) if intent.isolate is not None else None,
        allow=tuple(
            msgspec.structs.replace(
                allow,
                to=_NAMES(allow.to),
                ports=_PORTS(allow.ports),
                source=_SELECTORS(allow.source) if allow.source is not None else None,
            )
            for allow in intent.allow
        ),
    )
