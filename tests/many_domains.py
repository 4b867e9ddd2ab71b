"""Worlds of any number of domains, each with one gateway, one network and one service, told nothing of each other but
keys, endpoints and trust."""

import ipaddress
from collections.abc import Container, Iterable, Mapping, Sequence

import msgspec

from controller.model import intent, inventory
from controller.model.event import Applied
from controller.model.intent import Ports
from controller.model.policy import AdvertiseRule, LearnRule, Policy
from tests.simulator import Faults, World
from topologies.topology import (
    Domain,
    DomainPolicy,
    Host,
    HostInterface,
    Link,
    LinkEnd,
    Network,
    Node,
    OfferTerms,
    Role,
    Service,
    Topology,
    Trust,
)

Pair = tuple[int, int]
ALL = Policy(advertise=(AdvertiseRule(to="*", what="*", onward=True),), learn=(LearnRule(neighbour="*", what="*"),))


def name_of(number: int) -> str:
    return f"d{number:03}"


def link_name(pair: Pair) -> str:
    return f"n{min(pair):03}-n{max(pair):03}"


def topology(count: int, links: Iterable[Pair], trust: Mapping[Pair, Trust] | None = None) -> Topology:
    names = range(count)
    return Topology(
        name="many",
        domains=tuple(
            Domain(
                name=name_of(number),
                sid_block=f"5f00:{number + 1:x}::/32",
                policy=DomainPolicy(offer=OfferTerms(lease_s=3600)),
            )
            for number in names
        ),
        nodes=tuple(
            Node(
                name=f"n{number:03}",
                domain=name_of(number),
                role=Role.GATEWAY,
                locator=f"5f00:{number + 1:x}:1::/48",
            )
            for number in names
        ),
        networks=tuple(
            Network(name=f"{name_of(number)}/net", prefixes=(_prefix(number),), gateways=(_address(number, 1),))
            for number in names
        ),
        services=tuple(
            Service(name=f"{name_of(number)}/net/web", addresses=(_address(number, 10),), ports=("tcp/443",))
            for number in names
        ),
        hosts=tuple(
            Host(
                name=f"h{number:03}",
                network=f"{name_of(number)}/net",
                interfaces=(HostInterface(name="eth0", node=f"n{number:03}", addresses=(_address(number, 10),)),),
            )
            for number in names
        ),
        links=tuple(_link(index, pair, (trust or {}).get(pair, Trust.PARTNER)) for index, pair in enumerate(links)),
    )


def _prefix(number: int) -> str:
    return f"10.{number // 250}.{number % 250}.0/24"


def _address(number: int, host: int) -> str:
    return f"10.{number // 250}.{number % 250}.{host}"


def _link(index: int, pair: Pair, trust: Trust) -> Link:
    base = ipaddress.IPv4Address("192.168.0.0") + 4 * index
    near, far = min(pair), max(pair)
    return Link(
        a=LinkEnd(node=f"n{near:03}", address=f"{base + 1}/30"),
        b=LinkEnd(node=f"n{far:03}", address=f"{base + 2}/30"),
        delay_ms=1,
        rate_mbit=1000,
        loss_percent=0,
        mtu=1500,
        trust=trust,
    )


class Domains(World):
    """All tell and learn everything, where nothing else is said."""

    def __init__(
        self,
        count: int,
        links: Sequence[Pair],
        seed: int = 0,
        faults: Faults | None = None,
        policies: Mapping[int, Policy] | None = None,
        trust: Mapping[Pair, Trust] | None = None,
    ) -> None:
        super().__init__(seed, faults, topology(count, links, trust))
        self.greets = True
        self.pairs: set[Pair] = set(links)
        for number in range(count):
            self.controllers[name_of(number)].policy = (policies or {}).get(number, ALL)

    def _inventory(self, name: str) -> str:
        return ""

    def start(self) -> None:
        known = [
            inventory.Domain(
                name=domain.name,
                sid_block=domain.sid_block,
                key=self.controllers[domain.name].keys.public,
                certificate="x",
                endpoint="127.0.0.1:7000",
                trust=intent.Trust.PARTNER,
            )
            for domain in self.topology.domains
        ]
        neighbours: dict[str, set[str]] = {}
        for near, far in self._neighbours():
            neighbours.setdefault(near, set()).add(far)
            neighbours.setdefault(far, set()).add(near)
        for name, controller in self.controllers.items():
            controller.start()
            self.submit(name, *self.resources_of(name, known, neighbours.get(name, set())))
        for near, far in sorted({(min(ends), max(ends)) for ends in self._neighbours()}):
            self.meet((near, far))
        self.run(3.0)

    def _neighbours(self) -> Iterable[tuple[str, str]]:
        for link in self.topology.links:
            yield self.topology.node(link.a.node).domain, self.topology.node(link.b.node).domain

    def resources_of(
        self, name: str, known: Iterable[inventory.Domain], neighbours: Container[str]
    ) -> Iterable[Applied]:
        """Of who is no neighbour the key alone is known."""
        for domain in known:
            if domain.name == name:
                domain = msgspec.structs.replace(domain, own=True, certificate="", endpoint="")
            elif domain.name not in neighbours:
                domain = msgspec.structs.replace(domain, sid_block="", certificate="", endpoint="")
            yield _applied("Domain", domain)
        node = f"n{name[1:]}"
        yield _applied(
            "Node",
            inventory.Node(name=node, role="gateway", locator=self.topology.node(node).locator, agent="unix:/x"),
        )
        for network in self.topology.networks:
            if network.domain == name:
                host = next(host for host in self.topology.hosts if host.network == network.name)
                attachment = inventory.Attachment(
                    name=host.name,
                    node=node,
                    port=self.topology.port_number(node, host.port(host.interfaces[0])),
                    addresses=host.interfaces[0].addresses,
                )
                yield _applied(
                    "Network",
                    inventory.Network(
                        name=network.name,
                        prefixes=network.prefixes,
                        gateways=network.gateways,
                        attachments=(attachment,),
                    ),
                )
        for service in self.topology.services:
            if service.name.startswith(f"{name}/"):
                ports = (Ports(protocol="tcp", first=443, last=443),)
                yield _applied(
                    "Service", inventory.Service(name=service.name, addresses=service.addresses, ports=ports)
                )
        for link in self.topology.links:
            ends = (link.a.node, link.b.node)
            if node in ends:
                other = ends[1] if ends[0] == node else ends[0]
                yield _applied(
                    "Link",
                    inventory.Link(
                        name=link.name,
                        a=inventory.LinkEnd(node=node, border=link.name),
                        domain=self.topology.node(other).domain,
                        delay_us=1000,
                        rate_bps=10**9,
                        loss_percent=0.0,
                        mtu=1500,
                        trust=intent.Trust[link.trust.name],
                    ),
                )


def _applied(kind: str, value: msgspec.Struct) -> Applied:
    return Applied(kind=kind, content=msgspec.json.encode(value))
