"""How the inventory's kinds are written: Domain, Network, Service, Node, Link."""

import ipaddress
from collections import Counter
from typing import Any

from controller.language import scalars
from controller.language.shape import Field, Fields, Labels, ListOf
from controller.model.intent import Deny, Replies, Trust
from controller.model.inventory import DEFAULT_COST, Attachment, Domain, Link, LinkEnd, Network, Node, Reach, Service

CAPABILITIES_MAX = 64
"""Of one network."""

REACH = Fields(
    fields={
        "domain": Field(shape=scalars.NAME, required=True),
        "latency_ms": Field(shape=scalars.LATENCY_MS, to="latency_us", required=True),
        "trust": Field(shape=scalars.TRUST, required=True),
        "cost": Field(shape=scalars.COST),
    },
    make=lambda values: Reach(**values),
)


def _domain(values: dict[str, Any]) -> dict[str, Any]:
    """A key alone pins the domain as the origin of what others carry here; who talks to it needs all of it."""
    own, peer = values.get("own", False), "endpoint" in values or "certificate" in values
    needed = ("sid_block",) if own else ("key", "certificate", "endpoint", "sid_block") if peer else ("key",)
    if values.get("translation_pool") and not own:
        raise ValueError("translation_pool is for our own domain: others give addresses of their own")
    if missing := [name for name in needed if name not in values]:
        whose = (
            "our own domain" if own else "a domain that we talk to" if peer else "another domain (self: true is ours)"
        )
        raise ValueError(f"{', '.join(missing)} missing: needed for {whose}")
    return values


DOMAIN = Fields(
    fields={
        "self": Field(shape=scalars.BOOLEAN, to="own"),
        "sid_block": Field(shape=scalars.SID_BLOCK),
        "key": Field(shape=scalars.KEY),
        "certificate": Field(shape=scalars.TEXT),
        "endpoint": Field(shape=scalars.ENDPOINT),
        "trust": Field(shape=scalars.TRUST),
        "reach": Field(shape=ListOf(item=REACH)),
        "translation_pool": Field(shape=ListOf(item=scalars.HOST_PREFIX, most=16)),
    },
    make=_domain,
)


def print_domain(domain: Domain) -> dict[str, Any]:
    spec: dict[str, Any] = {"self": True} if domain.own else {}
    spec |= {
        name: value for name in ("sid_block", "key", "certificate", "endpoint") if (value := getattr(domain, name))
    }
    if domain.trust != Trust.PUBLIC:
        spec["trust"] = domain.trust.name.lower()
    if domain.translation_pool:
        spec["translation_pool"] = list(domain.translation_pool)
    if domain.reach:
        spec["reach"] = [
            {
                "domain": reach.domain,
                "latency_ms": scalars.unscaled(reach.latency_us, 1000),
                "trust": reach.trust.name.lower(),
            }
            | ({"cost": reach.cost} if reach.cost != DEFAULT_COST else {})
            for reach in domain.reach
        ]
    return spec


ATTACHMENT = Fields(
    fields={
        "name": Field(shape=scalars.NAME, required=True),
        "node": Field(shape=scalars.NAME, required=True),
        "port": Field(shape=scalars.integer(1, 511, "P4Runtime port"), required=True),
        "addresses": Field(shape=ListOf(item=scalars.ADDRESS, least=1, most=16), required=True),
        "labels": Field(shape=Labels()),
    },
    make=lambda values: Attachment(**values),
)


def _network(values: dict[str, Any]) -> dict[str, Any]:
    prefixes = [ipaddress.ip_network(prefix) for prefix in values["prefixes"]]

    def inside(text: str) -> bool:
        address = ipaddress.ip_address(text)
        return any(address in prefix for prefix in prefixes)

    for gateway in values.get("gateways", ()):
        if not inside(gateway):
            raise ValueError(f"gateway {gateway} is in none of the network's prefixes")
    names: set[str] = set()
    addresses: dict[str, str] = dict.fromkeys(values.get("gateways", ()), "the gateway")
    for attachment in values.get("attachments", ()):
        if attachment.name in names:
            raise ValueError(f"two attachments are called {attachment.name!r}")
        names.add(attachment.name)
        for address in attachment.addresses:
            if not inside(address):
                raise ValueError(f"address {address} of {attachment.name} is in none of the network's prefixes")
            if address in addresses:
                raise ValueError(f"address {address} belongs to both {addresses[address]} and {attachment.name}")
            addresses[address] = attachment.name
    if capabilities := values.get("capabilities", ()):
        if twice := [capability for capability, count in Counter(capabilities).items() if count > 1]:
            raise ValueError(f"capability {twice[0]} is there twice")
        values["capabilities"] = tuple(sorted(capabilities))
    return values


NETWORK = Fields(
    fields={
        "prefixes": Field(shape=ListOf(item=scalars.HOST_PREFIX, least=1, most=64), required=True),
        "gateways": Field(shape=ListOf(item=scalars.ADDRESS, most=2)),
        "trust": Field(shape=scalars.TRUST),
        "deny": Field(shape=scalars.DENY),
        "replies": Field(shape=scalars.REPLIES),
        "attachments": Field(shape=ListOf(item=ATTACHMENT)),
        "tenants": Field(shape=ListOf(item=scalars.NAME, most=64)),
        "capabilities": Field(shape=ListOf(item=scalars.CAPABILITY, most=CAPABILITIES_MAX)),
    },
    make=_network,
)


def print_network(network: Network) -> dict[str, Any]:
    spec: dict[str, Any] = {"prefixes": list(network.prefixes)}
    if network.gateways:
        spec["gateways"] = list(network.gateways)
    if network.trust != Trust.OWN:
        spec["trust"] = network.trust.name.lower()
    if network.deny != Deny.DROP:
        spec["deny"] = str(network.deny)
    if network.replies != Replies.STATEFUL:
        spec["replies"] = str(network.replies)
    if network.attachments:
        spec["attachments"] = [
            {
                "name": attachment.name,
                "node": attachment.node,
                "port": attachment.port,
                "addresses": list(attachment.addresses),
            }
            | ({"labels": dict(attachment.labels)} if attachment.labels else {})
            for attachment in network.attachments
        ]
    if network.tenants:
        spec["tenants"] = list(network.tenants)
    if network.capabilities:
        spec["capabilities"] = list(network.capabilities)
    return spec


def _service(values: dict[str, Any]) -> dict[str, Any]:
    ways = [values.pop(name, None) for name in ("in", "out")]
    if ways == [None, None]:
        return values
    if None in ways or ways[0] == ways[1]:
        raise ValueError("in and out: two attachments of the service's network, or neither")
    return values | {"through": tuple(ways)}


SERVICE = Fields(
    fields={
        "addresses": Field(shape=ListOf(item=scalars.ADDRESS, least=1, most=64), required=True),
        "ports": Field(shape=ListOf(item=scalars.PORTS, least=1, most=64), required=True),
        "tenants": Field(shape=ListOf(item=scalars.TENANT, most=64)),
        "in": Field(shape=scalars.NAME),
        "out": Field(shape=scalars.NAME),
    },
    make=_service,
)


def print_service(service: Service) -> dict[str, Any]:
    ports = [scalars.print_ports(ports) for ports in service.ports]
    tenants = {"tenants": list(service.tenants)} if service.tenants else {}
    through = dict(zip(("in", "out"), service.through, strict=True)) if service.through is not None else {}
    return {"addresses": list(service.addresses), "ports": ports} | tenants | through


NODE = Fields(
    fields={
        "role": Field(shape=scalars.one_of("edge", "gateway", "transit"), required=True),
        "locator": Field(shape=scalars.LOCATOR, required=True),
        "agent": Field(shape=scalars.AGENT, required=True),
    }
)


def print_node(node: Node) -> dict[str, Any]:
    return {"role": node.role, "locator": node.locator, "agent": node.agent}


def _end(values: dict[str, Any]) -> LinkEnd:
    if ("port" in values) == ("border" in values):
        raise ValueError("expected node and either port (inside the domain) or border (to another domain)")
    return LinkEnd(**values)


END = Fields(
    fields={
        "node": Field(shape=scalars.NAME, required=True),
        "port": Field(shape=scalars.integer(1, 511, "P4Runtime port")),
        "border": Field(shape=scalars.NAME),
    },
    make=_end,
)


def _link(values: dict[str, Any]) -> dict[str, Any]:
    inside = "b" in values and "domain" not in values
    outside = "domain" in values and "b" not in values
    if not (inside or outside):
        raise ValueError(
            "expected b (the other end, in this domain) or domain (the neighbour that has it), one of them"
        )
    if inside and (values["a"].border or values["b"].border):
        raise ValueError("a border is for links to another domain; a link inside the domain has a port at both ends")
    if inside and values["a"].node == values["b"].node:
        raise ValueError(f"both ends are at {values['a'].node}: a link leads from one node to another")
    if outside and not values["a"].border:
        raise ValueError("a link to another domain needs a: {node, border}")
    return values


LINK = Fields(
    fields={
        "a": Field(shape=END, required=True),
        "b": Field(shape=END),
        "domain": Field(shape=scalars.NAME),
        "delay_ms": Field(shape=scalars.LATENCY_MS, to="delay_us", required=True),
        "rate_mbit": Field(shape=scalars.RATE_MBIT, to="rate_bps", required=True),
        "loss_percent": Field(shape=scalars.PERCENT),
        "mtu": Field(shape=scalars.integer(1280, 65535, "octets of an IP packet"), required=True),
        "trust": Field(shape=scalars.TRUST),
        "srlg": Field(shape=ListOf(item=scalars.NAME)),
        "cost": Field(shape=scalars.COST),
    },
    make=_link,
)


def _print_end(end: LinkEnd) -> dict[str, Any]:
    return {"node": end.node} | ({"border": end.border} if end.border else {"port": end.port})


def print_link(link: Link) -> dict[str, Any]:
    spec: dict[str, Any] = {"a": _print_end(link.a)}
    if link.b is not None:
        spec["b"] = _print_end(link.b)
    if link.domain:
        spec["domain"] = link.domain
    spec |= {
        "delay_ms": scalars.unscaled(link.delay_us, 1000),
        "rate_mbit": scalars.unscaled(link.rate_bps, 1_000_000),
        "mtu": link.mtu,
    }
    if link.loss_percent is not None:
        spec["loss_percent"] = link.loss_percent
    if link.trust != Trust.OWN:
        spec["trust"] = link.trust.name.lower()
    if link.srlg:
        spec["srlg"] = list(link.srlg)
    if link.cost != DEFAULT_COST:
        spec["cost"] = link.cost
    return spec
