"""What the programs of a lab read: the configuration of each agent, and inventory and policy of each controller."""

import io
from dataclasses import dataclass
from typing import Any

import msgspec
from ruamel.yaml import YAML

from dataplane.host_api import AgentConfig, BorderConfig, PortConfig, PortRole, PortWay
from topologies.ovs import SwitchFile
from topologies.topology import Deny, Domain, Link, Network, Node, Port, Service, Topology

Manifest = dict[str, object]


class ControllerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The file that `stitchd --config` reads (JSON). Paths are absolute."""

    domain: str
    inventory: str
    policy: str
    store: str
    listen: str
    """Of the REST API."""
    token_file: str
    eastwest: str
    key_dir: str


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """The public part of a domain's keys, as `stitchd keygen` prints it."""

    domain: str
    key: str
    """Ed25519, base64."""
    certificate: str
    """TLS root, PEM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """How other domains reach a domain, and know that it is it."""

    identity: Identity
    endpoint: str


def agent_config(topology: Topology, node: Node, directory: str) -> AgentConfig:
    """`directory`: the node's in the run directory."""
    return AgentConfig(
        name=node.name,
        listen=f"unix:{directory}/agent.sock",
        state_dir=f"{directory}/state",
        pin_dir=f"{directory}/bpf",
        ports=tuple(
            # The lab sees to it that hosts send whole frames and take redirected ones (emulation._host_commands).
            PortConfig(number=port.number, interface=port.interface, role=_role(topology, port), way=PortWay.NATIVE)
            for port in topology.ports(node.name)
        ),
        borders=tuple(
            BorderConfig(
                name=border.name,
                port=border.number,
                interface=border.interface,
                address=border.address,
                listen_port=border.listen_port,
                second_listen_port=border.second_listen_port,
                mtu=border.link.tunnel_mtu,
            )
            for border in topology.borders(node.name)
        ),
    )


def switch_file(topology: Topology, name: str, directory: str) -> SwitchFile:
    """Of a node that is an Open vSwitch; its datapath id is its place among the nodes. `directory`: as above."""
    return SwitchFile(
        directory=f"{directory}/ovs",
        datapath_id=1 + [node.name for node in topology.nodes].index(name),
        ports={port.interface: port.number for port in topology.ports(name)},
    )


def _role(topology: Topology, port: Port) -> PortRole:
    if port.link is None:
        return PortRole.ATTACHMENT
    return PortRole.UNDERLAY if topology.crosses_domains(port.link) else PortRole.FABRIC


def policy(domain: Domain) -> str:
    """Without what earlier releases do not know, where it says nothing."""
    rules = _plain(domain.policy)
    return _yaml([{name: value for name, value in rules.items() if value or name not in ("advertise", "learn")}])


def inventory(topology: Topology, domain: Domain, peers: dict[str, Peer], agents: dict[str, str]) -> str:
    """The domain's own things, and of the others what it knows. `agents`: where each node's agent listens."""
    own_nodes = [node for node in topology.nodes if node.domain == domain.name]
    names = {node.name for node in own_nodes}
    own: Manifest = {"self": True, "sid_block": domain.sid_block}
    own |= {"translation_pool": list(domain.translation_pool)} if domain.translation_pool else {}
    documents = [_manifest("Domain", domain.name, own)]
    documents += [_acquaintance(topology, domain, name, peers[name]) for name in domain.knows]
    documents += [
        _manifest("Domain", name, {"key": peer.identity.key})
        for name, peer in peers.items()
        if name != domain.name and name not in domain.knows
    ]  # whoever carries or accepts what another domain asks for has its key pinned
    documents += [_own_network(topology, network) for network in topology.networks if network.domain == domain.name]
    documents += [
        _manifest("Network", name, {"prefixes": list(topology.network(name).prefixes)})
        for known in domain.knows.values()
        for name in known.networks
    ]
    documents += [_service(service) for service in topology.services if service.name.startswith(f"{domain.name}/")]
    documents += [_service(topology.service(name)) for known in domain.knows.values() for name in known.services]
    documents += [
        _manifest("Node", node.name, {"role": str(node.role), "locator": node.locator, "agent": agents[node.name]})
        for node in own_nodes
    ]
    documents += [_link(topology, domain, link) for link in topology.links if names & {link.a.node, link.b.node}]
    return _yaml(documents)


def _acquaintance(topology: Topology, domain: Domain, name: str, peer: Peer) -> Manifest:
    known = domain.knows[name]
    spec: Manifest = {
        "key": peer.identity.key,
        "certificate": peer.identity.certificate,
        "endpoint": peer.endpoint,
        "sid_block": topology.domain(name).sid_block,
        "trust": str(known.trust),
    }
    if known.reach:
        spec["reach"] = [_plain(reach) for reach in known.reach]
    return _manifest("Domain", name, spec)


def _own_network(topology: Topology, network: Network) -> Manifest:
    attachments = [
        {
            "name": host.port(interface),
            "node": interface.node,
            "port": topology.port_number(interface.node, host.port(interface)),
            "addresses": list(interface.addresses),
            "labels": dict(host.labels),
        }
        for host in topology.hosts
        if host.network == network.name
        for interface in host.interfaces
    ]
    spec: Manifest = {
        "prefixes": list(network.prefixes),
        "gateways": list(network.gateways),
        "trust": str(network.trust),
        **({"deny": str(network.deny)} if network.deny != Deny.DROP else {}),
        "attachments": attachments,
        **({"capabilities": list(network.capabilities)} if network.capabilities else {}),
    }
    return _manifest("Network", network.name, spec, network.labels)


def _service(service: Service) -> Manifest:
    spec: Manifest = {"addresses": list(service.addresses), "ports": list(service.ports)}
    return _manifest("Service", service.name, spec, service.labels)


def _link(topology: Topology, domain: Domain, link: Link) -> Manifest:
    spec: Manifest
    if topology.crosses_domains(link):
        own, other = (link.a, link.b) if topology.node(link.a.node).domain == domain.name else (link.b, link.a)
        spec = {"a": {"node": own.node, "border": link.name}, "domain": topology.node(other.node).domain}
    else:
        spec = {
            side: {"node": end.node, "port": topology.port_number(end.node, other.node)}
            for side, end, other in (("a", link.a, link.b), ("b", link.b, link.a))
        }
    spec |= {
        "delay_ms": link.delay_ms,
        "rate_mbit": link.rate_mbit,
        "loss_percent": link.loss_percent,
        "mtu": link.mtu,
        "trust": str(link.trust),
        "srlg": list(link.srlg),
        "cost": link.cost,
    }
    return _manifest("Link", link.name, spec)


def _manifest(kind: str, name: str, spec: Manifest, labels: dict[str, str] | None = None) -> Manifest:
    metadata: Manifest = {"name": name} | ({"labels": dict(labels)} if labels else {})
    return {"apiVersion": "netstitch/v1", "kind": kind, "metadata": metadata, "spec": spec}


def _plain(record: msgspec.Struct) -> Manifest:
    return msgspec.json.decode(msgspec.json.encode(record), type=Manifest)


def _yaml(documents: list[Manifest]) -> str:
    yaml: Any = YAML(typ="safe")  # its settings are typed by their defaults
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    text = io.StringIO()
    yaml.dump_all(documents, text)
    return text.getvalue()
