"""What one value of a topology says of another: names that exist, addresses that fit, links that can be made."""

import fnmatch
import ipaddress
import re
from collections.abc import Iterator

from topologies.problem import Path
from topologies.topology import Link, Switch, Topology

Finding = tuple[Path, str]

_NAME = re.compile(r"[a-z][a-z0-9-]*")
_INTERFACE_LENGTH_MAX = 15
"""IFNAMSIZ without the final zero."""
_BORDER_INTERFACE_LENGTH_MAX = 11
"""Tunnel devices are named after it, with a prefix."""
_SID_SPACE = ipaddress.IPv6Network("5f00::/16")  # RFC 9602
_MTU_MIN, _MTU_MAX = 1280, 9000
_DELAY_MS_MAX = 10_000
_RATE_MBIT_MAX = 1_000_000
_COST_MAX = 2**24 - 1
"""RFC 5305 §3.7: 24 bits."""
_PORTS = re.compile(r"icmp|(tcp|udp)(/\d{1,5}(-\d{1,5})?)?")


def problems(topology: Topology) -> Iterator[Finding]:
    yield from _names(topology)
    yield from _domains(topology)
    yield from _nodes(topology)
    yield from _networks(topology)
    yield from _services(topology)
    yield from _hosts(topology)
    for index, link in enumerate(topology.links):
        yield from _link(topology, ("links", index), link)
    yield from _interfaces(topology)


def _names(topology: Topology) -> Iterator[Finding]:
    if not _NAME.fullmatch(topology.name):
        yield ("name",), f"{topology.name!r}: expected lower-case letters, digits and hyphens"
    for section, names in (
        ("domains", [domain.name for domain in topology.domains]),
        ("nodes", [node.name for node in topology.nodes]),
        ("hosts", [host.name for host in topology.hosts]),
    ):
        for name in names:
            if not _NAME.fullmatch(name) or len(name) > _INTERFACE_LENGTH_MAX:
                yield (
                    (section, name),
                    f"{name!r}: expected lower-case letters, digits and hyphens, at most {_INTERFACE_LENGTH_MAX}",
                )
    nodes = {node.name for node in topology.nodes}
    for host in topology.hosts:
        if host.name in nodes:
            yield ("hosts", host.name), f"{host.name} is the name of a node too"


def _domains(topology: Topology) -> Iterator[Finding]:
    domains = {domain.name for domain in topology.domains}
    networks = {network.name for network in topology.networks}
    services = {service.name for service in topology.services}
    blocks: dict[str, ipaddress.IPv6Network] = {}
    for domain in topology.domains:
        where: Path = ("domains", domain.name)
        block = _prefix(domain.sid_block)
        if not isinstance(block, ipaddress.IPv6Network) or not block.subnet_of(_SID_SPACE):
            yield (*where, "sid_block"), f"{domain.sid_block!r}: expected an IPv6 prefix inside {_SID_SPACE}"
        else:
            for other, taken in blocks.items():
                if block.overlaps(taken):
                    yield (*where, "sid_block"), f"{block} overlaps the block of {other}, {taken}"
            blocks[domain.name] = block
        for name, known in domain.knows.items():
            here: Path = (*where, "knows", name)
            if name not in domains or name == domain.name:
                yield here, f"{name} is not another domain: one of {', '.join(sorted(domains - {domain.name}))}"
            for index, reach in enumerate(known.reach):
                if reach.domain not in domains - {name, domain.name}:
                    yield (*here, "reach", index, "domain"), f"{reach.domain} is not a third domain"
                if reach.latency_ms < 0:
                    yield (*here, "reach", index, "latency_ms"), f"{reach.latency_ms}: expected 0 or more"
                if not 0 <= reach.cost <= _COST_MAX:
                    yield (*here, "reach", index, "cost"), f"{reach.cost}: expected 0 to {_COST_MAX}"
            for kind, values, existing in (
                ("networks", known.networks, networks),
                ("services", known.services, services),
            ):
                for index, value in enumerate(values):
                    if value not in existing or value.partition("/")[0] != name:
                        yield (*here, kind, index), f"{value} is none of the {kind} of {name}"
        if domain.policy.offer.lease_s <= 0:
            yield (*where, "policy", "offer", "lease_s"), f"{domain.policy.offer.lease_s}: expected more than 0"
        for index, rule in enumerate(domain.policy.accept):
            for position, ports in enumerate(rule.ports):
                if not _PORTS.fullmatch(ports):
                    yield (*where, "policy", "accept", index, "ports", position), _ports_text(ports)
        for kind, ends in (
            ("accept", [(rule.origin,) for rule in domain.policy.accept]),
            ("transit", [(rule.origin, rule.to) for rule in domain.policy.transit]),
        ):
            for index, named in enumerate(ends):
                for pattern in named:
                    if not fnmatch.filter(domains, pattern):
                        yield (
                            (*where, "policy", kind, index),
                            f"{pattern} is no domain: one of {', '.join(sorted(domains))}",
                        )


def _nodes(topology: Topology) -> Iterator[Finding]:
    domains = {domain.name: domain for domain in topology.domains}
    locators: dict[ipaddress.IPv6Network, str] = {}
    for node in topology.nodes:
        where: Path = ("nodes", node.name)
        if node.domain not in domains:
            yield (*where, "domain"), f"{node.domain} is no domain: one of {', '.join(sorted(domains))}"
            continue
        if node.switch is not Switch.XDP and not topology.is_only_crossed(node):
            text = f"{node.switch} can only be crossed: role transit, without hosts and links to other domains"
            yield (*where, "switch"), text
        locator = _prefix(node.locator)
        block = _prefix(domains[node.domain].sid_block)
        if not isinstance(locator, ipaddress.IPv6Network) or locator.prefixlen != 48:
            yield (*where, "locator"), f"{node.locator!r}: expected an IPv6 prefix of length 48"
            continue
        if isinstance(block, ipaddress.IPv6Network) and not locator.subnet_of(block):
            yield (*where, "locator"), f"{locator} is outside of the block of {node.domain}, {block}"
        if locator in locators:
            yield (*where, "locator"), f"{locator} is the locator of {locators[locator]} too"
        locators[locator] = node.name


def _networks(topology: Topology) -> Iterator[Finding]:
    domains = {domain.name for domain in topology.domains}
    for network in topology.networks:
        where: Path = ("networks", network.name)
        if not _qualified(network.name, 2, domains):
            yield where, f"{network.name!r}: expected domain/network, with one of {', '.join(sorted(domains))}"
        for index, text in enumerate(network.prefixes):
            if _prefix(text) is None:
                yield (*where, "prefixes", index), f"{text!r}: expected a prefix without host bits, as 10.1.0.0/24"
        for index, text in enumerate(network.gateways):
            if not _inside(text, network.prefixes):
                yield (*where, "gateways", index), f"{text!r}: expected an address in {', '.join(network.prefixes)}"


def _services(topology: Topology) -> Iterator[Finding]:
    networks = {network.name: network for network in topology.networks}
    for service in topology.services:
        where: Path = ("services", service.name)
        if service.network not in networks:
            yield where, f"{service.name!r}: expected domain/network/service, with one of {', '.join(sorted(networks))}"
            continue
        prefixes = networks[service.network].prefixes
        for index, text in enumerate(service.addresses):
            if not _inside(text, prefixes):
                yield (*where, "addresses", index), f"{text!r}: expected an address in {', '.join(prefixes)}"
        for index, ports in enumerate(service.ports):
            if not _PORTS.fullmatch(ports):
                yield (*where, "ports", index), _ports_text(ports)


def _hosts(topology: Topology) -> Iterator[Finding]:
    networks = {network.name: network for network in topology.networks}
    nodes = {node.name: node for node in topology.nodes}
    taken: dict[tuple[str, str], str] = {}
    for host in topology.hosts:
        where: Path = ("hosts", host.name)
        if host.network not in networks:
            yield (*where, "network"), f"{host.network} is no network: one of {', '.join(sorted(networks))}"
            continue
        network = networks[host.network]
        if not host.interfaces:
            yield (*where, "interfaces"), "expected at least one interface"
        if host.forward and len(host.interfaces) != 2:
            yield (*where, "forward"), f"needs two interfaces, not {len(host.interfaces)}"
        for index, interface in enumerate(host.interfaces):
            here: Path = (*where, "interfaces", index)
            if interface.node not in nodes:
                yield (*here, "node"), f"{interface.node} is no node: one of {', '.join(sorted(nodes))}"
            elif nodes[interface.node].domain != network.domain:
                yield (*here, "node"), f"{interface.node} is not in {network.domain}, the domain of {network.name}"
            if not re.fullmatch(r"[a-z0-9-]{1,15}", interface.name):
                yield (*here, "name"), f"{interface.name!r}: expected a name as eth0"
            for position, text in enumerate(interface.addresses):
                if not _inside(text, network.prefixes):
                    expected = f"expected an address in {', '.join(network.prefixes)}"
                    yield (*here, "addresses", position), f"{text!r}: {expected} (of {network.name})"
                elif (
                    text in network.gateways
                    or (owner := taken.setdefault((network.name, text), host.name)) != host.name
                ):
                    owner = "the gateway" if text in network.gateways else owner
                    yield (*here, "addresses", position), f"{text} is the address of {owner} too"


def _link(topology: Topology, where: Path, link: Link) -> Iterator[Finding]:
    nodes = {node.name: node for node in topology.nodes}
    for side, end in (("a", link.a), ("b", link.b)):
        if end.node not in nodes:
            yield (*where, side, "node"), f"{end.node} is no node: one of {', '.join(sorted(nodes))}"
    if link.a.node not in nodes or link.b.node not in nodes:
        return
    if link.a.node == link.b.node:
        yield (*where, "b", "node"), f"{link.a.node} cannot be linked to itself"
    if not 0 <= link.delay_ms <= _DELAY_MS_MAX:
        yield (*where, "delay_ms"), f"{link.delay_ms}: expected 0 to {_DELAY_MS_MAX}"
    if not 0 < link.rate_mbit <= _RATE_MBIT_MAX:
        yield (*where, "rate_mbit"), f"{link.rate_mbit}: expected more than 0, at most {_RATE_MBIT_MAX}"
    if not 0 <= link.loss_percent <= 100:
        yield (*where, "loss_percent"), f"{link.loss_percent}: expected 0 to 100"
    if not _MTU_MIN <= link.mtu <= _MTU_MAX:
        yield (*where, "mtu"), f"{link.mtu}: expected {_MTU_MIN} to {_MTU_MAX}"
    if not 0 <= link.cost <= _COST_MAX:
        yield (*where, "cost"), f"{link.cost}: expected 0 to {_COST_MAX}"
    if topology.crosses_domains(link):
        yield from _underlay(where, link)
        return
    for side, end in (("a", link.a), ("b", link.b)):
        if end.address:
            yield (*where, side, "address"), "only links between domains have addresses"


def _underlay(where: Path, link: Link) -> Iterator[Finding]:
    interfaces: list[ipaddress.IPv4Interface] = []
    for side, end, other in (("a", link.a, link.b), ("b", link.b, link.a)):
        try:
            interfaces.append(ipaddress.IPv4Interface(end.address))
        except ValueError:
            text = f"{end.address!r}: expected an IPv4 address with prefix length, as 192.0.2.1/30, between domains"
            yield (*where, side, "address"), text
        if len(other.node) > _BORDER_INTERFACE_LENGTH_MAX:
            text = (
                f"{other.node} names an interface to another domain: at most {_BORDER_INTERFACE_LENGTH_MAX} characters"
            )
            yield (*where, side, "node"), text
    if len(interfaces) == 2 and (
        interfaces[0].network != interfaces[1].network or interfaces[0].ip == interfaces[1].ip
    ):
        yield (*where, "b", "address"), f"{link.b.address} is not another address in {interfaces[0].network}"


def _interfaces(topology: Topology) -> Iterator[Finding]:
    """An interface is named after what is behind it, so no two may lead to the same."""
    for node in topology.nodes:
        seen: set[str] = set()
        for port in topology.ports(node.name):
            if port.interface in seen:
                where: Path = ("hosts", port.host.name) if port.host else ("nodes", node.name)
                yield where, f"two interfaces of {node.name} would be called {port.interface}"
            elif len(port.interface) > _INTERFACE_LENGTH_MAX:
                yield ("nodes", node.name), f"interface name {port.interface} is longer than {_INTERFACE_LENGTH_MAX}"
            seen.add(port.interface)


def _qualified(name: str, parts: int, domains: set[str]) -> bool:
    split = name.split("/")
    return len(split) == parts and split[0] in domains and all(map(_NAME.fullmatch, split))


def _prefix(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        return None


def _inside(address: str, prefixes: tuple[str, ...]) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed in prefix for prefix in map(_prefix, prefixes) if prefix is not None)


def _ports_text(text: str) -> str:
    return f"{text!r}: expected icmp, tcp, tcp/443, udp/1000-2000 or the like"
