"""What an application says it needs (RFC 9315: intent)."""

import enum

import msgspec


class Trust(enum.IntEnum):
    """How far a network, link or domain is trusted. Higher includes lower."""

    PUBLIC = 0
    PARTNER = 1
    OWN = 2


class Encryption(enum.StrEnum):
    NONE = "none"
    WIREGUARD = "wireguard"
    """Every link between domains, and every link trusted less than `own`, is inside WireGuard."""


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


class Value(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of all records: frozen, compared by content, encoded by msgspec."""


class Ports(Value, frozen=True, kw_only=True):
    """One L4 match: `tcp/443`, `udp/1000-2000`, `tcp` (all ports), `icmp` (echo, both families)."""

    protocol: str
    """tcp, udp or icmp."""
    first: int = 0
    last: int = 65535


class Selector(Value, frozen=True, kw_only=True):
    network: str
    """`domain/network`."""
    labels: tuple[tuple[str, str], ...] = ()
    """Sorted; all must match. Empty: the whole network."""


class Allow(Value, frozen=True, kw_only=True):
    to: str
    """`domain/network/service` or `domain/network`."""
    ports: tuple[Ports, ...] = ()
    """Empty: what the service offers; for a network, everything."""
    source: Selector | None = None
    """None: what the intent isolates."""


class Require(Value, frozen=True, kw_only=True):
    """Must hold; an unknown metric does not satisfy a requirement."""

    latency_us_max: int | None = None
    """One way, edge to edge."""
    encryption: Encryption = Encryption.NONE
    trust_min: Trust | None = None


class Intent(Value, frozen=True, kw_only=True):
    name: str
    tenant: str
    isolate: Selector | None = None
    """An invariant: nothing else reaches it, it reaches nothing else."""
    allow: tuple[Allow, ...] = ()
    require: Require = Require()
    on_violation: str = "degrade"
    """`degrade` or `stop`."""
    priority: int = 100
    lease_s: int | None = None
    """How long from when it was applied; None: until withdrawn."""
    lease_until_s: int | None = None
    """Unix time; at most one of the two is given."""
