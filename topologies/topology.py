"""A lab's topology as values: who runs what, how it is wired, what each domain knows of the others.

Read from YAML by `topologies.topology_file`, which also checks what one value says of another. Everything here is
pure; the order of the file is kept, and port numbers follow from it.
"""

import enum
import ipaddress
from dataclasses import dataclass
from typing import TypeVar

import msgspec

FIRST_TUNNEL_PORT = 101
"""P4Runtime ports of tunnels, after those of interfaces."""
FIRST_LISTEN_PORT = 51820
"""UDP ports of WireGuard, one for each border of a node."""
WIREGUARD_OVERHEAD_BYTES = 60
"""Over IPv4: 20 (IP) + 8 (UDP) + 16 (header) + 16 (tag)."""


class Value(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all records of a topology file."""


class Trust(enum.StrEnum):
    PUBLIC = "public"
    PARTNER = "partner"
    OWN = "own"


class Deny(enum.StrEnum):
    DROP = "drop"
    REJECT = "reject"


class Role(enum.StrEnum):
    EDGE = "edge"
    GATEWAY = "gateway"
    TRANSIT = "transit"


class Switch(enum.StrEnum):
    """What forwards at a node."""

    XDP = "xdp"
    """`stitch-agent`."""
    OVS = "ovs"
    """Open vSwitch, which the controller speaks OpenFlow with."""
    BMV2 = "bmv2"
    """The P4 program on BMv2's `simple_switch_grpc`, which has to be on PATH."""


class Reach(Value, frozen=True, kw_only=True):
    """What a domain says it can carry to."""

    domain: str
    latency_ms: float
    trust: Trust
    cost: int = 10


class Acquaintance(Value, frozen=True, kw_only=True):
    """What one domain knows of another."""

    trust: Trust
    reach: tuple[Reach, ...] = ()
    networks: tuple[str, ...] = ()
    services: tuple[str, ...] = ()


class AcceptRule(Value, frozen=True, kw_only=True, omit_defaults=True, rename={"origin": "from"}):
    """Offers whose destination is ours."""

    origin: str
    source: str
    to: str
    ports: tuple[str, ...] = ()
    encryption: str = "none"
    direct: bool = False
    dscp: tuple[str, ...] | None = None


class CarryRule(Value, frozen=True, kw_only=True, omit_defaults=True, rename={"origin": "from"}):
    """Offers between others that we would carry."""

    origin: str
    to: str
    encryption: str = "none"
    max_lease_s: int | None = None
    dscp: tuple[str, ...] | None = None


class AdvertiseRule(Value, frozen=True, kw_only=True, omit_defaults=True):
    """What neighbours are told unasked: own networks and services, or domains whose advertisements are passed on."""

    to: str
    what: str
    onward: bool = False


class LearnRule(Value, frozen=True, kw_only=True, omit_defaults=True, rename={"neighbour": "from"}):
    """What of it is taken over."""

    neighbour: str
    what: str


class OfferTerms(Value, frozen=True, kw_only=True):
    lease_s: int


class DomainPolicy(Value, frozen=True, kw_only=True):
    """Written as it is to the policy file of the domain's controller."""

    accept: tuple[AcceptRule, ...] = ()
    transit: tuple[CarryRule, ...] = ()
    advertise: tuple[AdvertiseRule, ...] = ()
    learn: tuple[LearnRule, ...] = ()
    offer: OfferTerms


class Domain(Value, frozen=True, kw_only=True):
    name: str
    sid_block: str
    knows: dict[str, Acquaintance] = {}
    translation_pool: tuple[str, ...] = ()
    """Where its networks know others that have the same addresses."""
    policy: DomainPolicy


class Node(Value, frozen=True, kw_only=True):
    name: str
    domain: str
    role: Role
    locator: str
    switch: Switch = Switch.XDP
    """Only what is crossed (role `transit`) can be another than XDP."""


class Network(Value, frozen=True, kw_only=True):
    name: str
    """`domain/network`."""
    prefixes: tuple[str, ...]
    gateways: tuple[str, ...]
    trust: Trust = Trust.OWN
    deny: Deny = Deny.DROP
    labels: dict[str, str] = {}
    capabilities: tuple[str, ...] = ()

    @property
    def domain(self) -> str:
        return self.name.partition("/")[0]


class Service(Value, frozen=True, kw_only=True):
    name: str
    """`domain/network/service`."""
    addresses: tuple[str, ...]
    ports: tuple[str, ...]
    labels: dict[str, str] = {}

    @property
    def network(self) -> str:
        return self.name.rpartition("/")[0]


class HostInterface(Value, frozen=True, kw_only=True):
    name: str
    """In the host: `eth0`."""
    node: str
    port: str = ""
    """Name of the node's interface to it; empty: the host's name."""
    addresses: tuple[str, ...]


class Host(Value, frozen=True, kw_only=True):
    name: str
    network: str
    interfaces: tuple[HostInterface, ...]
    labels: dict[str, str] = {}
    forward: bool = False
    """What comes in at one of its two interfaces leaves by the other."""

    def port(self, interface: HostInterface) -> str:
        return interface.port or self.name

    def address(self, version: int) -> str:
        """Of the first interface; empty: it has none of this IP version."""
        addresses = map(ipaddress.ip_address, self.interfaces[0].addresses)
        return next((str(address) for address in addresses if address.version == version), "")


class LinkEnd(Value, frozen=True, kw_only=True):
    node: str
    address: str = ""
    """IPv4 with prefix length, on links between domains only."""


class Link(Value, frozen=True, kw_only=True):
    """Between two nodes. Delay is one way; rate and loss hold for each direction."""

    a: LinkEnd
    b: LinkEnd
    delay_ms: float
    rate_mbit: float
    loss_percent: float
    mtu: int
    trust: Trust
    srlg: tuple[str, ...] = ()
    cost: int = 10
    """Traffic engineering metric; costs of the links on a way add up."""

    @property
    def name(self) -> str:
        return f"{self.a.node}-{self.b.node}"

    @property
    def tunnel_mtu(self) -> int:
        """Of packets inside a WireGuard tunnel over this link."""
        return self.mtu - WIREGUARD_OVERHEAD_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """An interface of a node."""

    number: int
    """P4Runtime port."""
    interface: str
    link: Link | None
    """None: a host is attached."""
    host: Host | None = None
    host_interface: HostInterface | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Border:
    """An end of a link between domains, as the node there sees it."""

    name: str
    """The link's."""
    number: int
    """P4Runtime port of the tunnel."""
    interface: str
    address: str
    listen_port: int
    second_listen_port: int
    link: Link
    neighbor: str
    """The other domain."""


Named = TypeVar("Named", Domain, Node, Network, Service, Host, Link)


def _by_name(values: tuple[Named, ...], name: str) -> Named:
    for value in values:
        if value.name == name:
            return value
    raise KeyError(name)


class Topology(Value, frozen=True, kw_only=True):
    """Look-ups by name raise KeyError."""

    name: str
    domains: tuple[Domain, ...]
    nodes: tuple[Node, ...]
    networks: tuple[Network, ...]
    services: tuple[Service, ...]
    hosts: tuple[Host, ...]
    links: tuple[Link, ...]

    def domain(self, name: str) -> Domain:
        return _by_name(self.domains, name)

    def node(self, name: str) -> Node:
        return _by_name(self.nodes, name)

    def network(self, name: str) -> Network:
        return _by_name(self.networks, name)

    def service(self, name: str) -> Service:
        return _by_name(self.services, name)

    def host(self, name: str) -> Host:
        return _by_name(self.hosts, name)

    def crosses_domains(self, link: Link) -> bool:
        return self.node(link.a.node).domain != self.node(link.b.node).domain

    def is_only_crossed(self, node: Node) -> bool:
        """Nothing is at its ports but links of its domain."""
        attached = {interface.node for host in self.hosts for interface in host.interfaces}
        domains = {each.name: each.domain for each in self.nodes}
        neighbors = {other.node for link in self.links for own, other in _directions(link) if own.node == node.name}
        inner = all(domains.get(neighbor) == node.domain for neighbor in neighbors)
        return node.role is Role.TRANSIT and inner and node.name not in attached

    def ports(self, node: str) -> tuple[Port, ...]:
        """Numbered from 1: links in the order of the file, then hosts. An interface is named after what is behind."""
        ends = [(other, link) for link in self.links for own, other in _directions(link) if own.node == node]
        links = [Port(number=n, interface=end.node, link=link) for n, (end, link) in enumerate(ends, 1)]
        attached = [(host, interface) for host in self.hosts for interface in host.interfaces if interface.node == node]
        hosts = [
            Port(number=n, interface=host.port(interface), link=None, host=host, host_interface=interface)
            for n, (host, interface) in enumerate(attached, len(links) + 1)
        ]
        return (*links, *hosts)

    def port_number(self, node: str, interface: str) -> int:
        return next(port.number for port in self.ports(node) if port.interface == interface)

    def borders(self, node: str) -> tuple[Border, ...]:
        ends = [
            (own, other, link)
            for link in self.links
            if self.crosses_domains(link)
            for own, other in _directions(link)
            if own.node == node
        ]
        return tuple(
            Border(
                name=link.name,
                number=FIRST_TUNNEL_PORT + n,
                interface=other.node,
                address=own.address,
                listen_port=FIRST_LISTEN_PORT + 2 * n,
                second_listen_port=FIRST_LISTEN_PORT + 2 * n + 1,
                link=link,
                neighbor=self.node(other.node).domain,
            )
            for n, (own, other, link) in enumerate(ends)
        )

    def addresses_with_length(self, host: Host, interface: HostInterface) -> tuple[str, ...]:
        """`10.1.0.11/24`: with the length of the network's prefix."""
        prefixes = [ipaddress.ip_network(prefix) for prefix in self.network(host.network).prefixes]
        return tuple(
            f"{address}/{prefix.prefixlen}"
            for address in interface.addresses
            for prefix in prefixes
            if ipaddress.ip_address(address) in prefix
        )


def _directions(link: Link) -> tuple[tuple[LinkEnd, LinkEnd], tuple[LinkEnd, LinkEnd]]:
    """(own end, other end), from both sides."""
    return (link.a, link.b), (link.b, link.a)
