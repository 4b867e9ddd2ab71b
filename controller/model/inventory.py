"""What one domain knows: its own networks, nodes and links, and of other domains what they told it."""

import msgspec

from controller.model.agreement import Alias
from controller.model.intent import Deny, Ports, Replies, Trust, Value
from controller.model.openflow import OpenFlowSwitch, openflow_switch
from controller.model.p4_switch import P4Switch, p4_switch

DEFAULT_COST = 10
"""Of a link, or of a neighbour's carrying, where nothing is said: what a link costs in IS-IS (ISO 10589)."""


class Reach(Value, frozen=True, kw_only=True):
    """What another domain says it can carry to."""

    domain: str
    latency_us: int
    trust: Trust
    cost: int = DEFAULT_COST
    """What it charges, on the scale of our links' costs."""


class Domain(Value, frozen=True, kw_only=True):
    """Our own, a neighbour, or one whose key alone is pinned, since others carry to us what it asks for."""

    name: str
    sid_block: str = ""
    """Inside 5f00::/16 (RFC 9602)."""
    own: bool = False
    key: str = ""
    """Ed25519 public key, base64, pinned."""
    certificate: str = ""
    """TLS root certificate, PEM, pinned."""
    endpoint: str = ""
    """`host:port` of its east-west interface."""
    trust: Trust = Trust.PUBLIC
    reach: tuple[Reach, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    translation_pool: tuple[str, ...] = ()
    """Of our own: prefixes under which our networks know others that have addresses which they have too."""


class Attachment(Value, frozen=True, kw_only=True):
    """A host's place in a network."""

    name: str
    node: str
    port: int
    addresses: tuple[str, ...]
    labels: tuple[tuple[str, str], ...] = ()


class Network(Value, frozen=True, kw_only=True):
    name: str
    """`domain/network`."""
    prefixes: tuple[str, ...]
    gateways: tuple[str, ...] = ()
    trust: Trust = Trust.OWN
    deny: Deny = Deny.DROP
    replies: Replies = Replies.STATEFUL
    labels: tuple[tuple[str, str], ...] = ()
    attachments: tuple[Attachment, ...] = ()
    tenants: tuple[str, ...] = ()
    """Who may speak for its hosts; empty: the tenant that is called as the network is."""
    capabilities: tuple[str, ...] = ()
    """What it can do, as its operator says: `dns`, `region=eu`; sorted, each once."""
    learnt: bool = False
    """Another domain advertises it; false: an operator has said so."""


class Service(Value, frozen=True, kw_only=True):
    name: str
    """`domain/network/service`."""
    addresses: tuple[str, ...]
    ports: tuple[Ports, ...]
    labels: tuple[tuple[str, str], ...] = ()
    tenants: tuple[str, ...] = ()
    """Whose intents may lead to it, beside those of its network's tenants; `*`: everybody's."""
    through: tuple[str, str] | None = None
    """Of one that traffic to others can pass (`via`): the attachments of its network by which that goes in and comes
    out, and replies the other way. It sends on by one what comes in by the other, and knows no SRv6."""
    learnt: bool = False
    """As of Network."""


class Node(Value, frozen=True, kw_only=True):
    name: str
    role: str
    """edge, gateway or transit."""
    locator: str
    agent: str
    """`unix:/path` or `host:port`; of switches without an agent `openflow:DATAPATH@`, `p4runtime:DEVICE@` and these."""
    labels: tuple[tuple[str, str], ...] = ()

    @property
    def switch(self) -> OpenFlowSwitch | None:
        """None: it has our pipeline."""
        return openflow_switch(self.agent)

    @property
    def p4_switch(self) -> P4Switch | None:
        """None: it runs an agent of ours, or is an OpenFlow switch."""
        return p4_switch(self.agent)


class LinkEnd(Value, frozen=True, kw_only=True):
    node: str
    port: int = 0
    border: str = ""
    """Name of the border instead of a port, where the link leaves the domain."""


class Link(Value, frozen=True, kw_only=True):
    name: str
    a: LinkEnd
    b: LinkEnd | None = None
    """None: the other end belongs to `domain`."""
    domain: str = ""
    delay_us: int
    rate_bps: int
    loss_percent: float | None = None
    """None: the operator does not say; then what is measured counts."""
    mtu: int
    trust: Trust = Trust.OWN
    srlg: tuple[str, ...] = ()
    cost: int = DEFAULT_COST
    """Traffic engineering metric (RFC 5305 §3.7): costs of the links on a way add up."""
    labels: tuple[tuple[str, str], ...] = ()


class Aliases(Value, frozen=True, kw_only=True):
    """Under which prefixes one of our networks knows another (fulfillment/aliases.py)."""

    network: str
    """That knows it so."""
    other: str
    pairs: tuple[Alias, ...]
    """Sorted."""
    until_s: int | None = None
    """Nothing needs them any more; until then nobody else gets them. None: in use."""

    @property
    def name(self) -> str:
        return f"{self.network} {self.other}"


class Inventory(Value, frozen=True, kw_only=True):
    """All of it, each kind by name."""

    domains: dict[str, Domain] = msgspec.field(default_factory=dict)
    networks: dict[str, Network] = msgspec.field(default_factory=dict)
    services: dict[str, Service] = msgspec.field(default_factory=dict)
    nodes: dict[str, Node] = msgspec.field(default_factory=dict)
    links: dict[str, Link] = msgspec.field(default_factory=dict)
    aliases: dict[str, Aliases] = msgspec.field(default_factory=dict)
