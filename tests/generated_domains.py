"""Worlds of two to four domains drawn from a seed: topologies, policies, intents and packets, full of overlaps."""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec.structs import replace

from controller.fulfillment.aliases import moved
from controller.fulfillment.meaning import Packet
from controller.fulfillment.numbering import address, address_text
from controller.model.agreement import Alias
from controller.model.intent import Allow, Encryption, Intent, Require, Selector, Trust
from controller.model.inventory import Inventory
from controller.model.inventory import Network as Inhabited
from tests import generated_intents
from topologies.topology import (
    AcceptRule,
    Acquaintance,
    CarryRule,
    Domain,
    DomainPolicy,
    Host,
    HostInterface,
    Link,
    LinkEnd,
    Network,
    Node,
    OfferTerms,
    Reach,
    Role,
    Service,
    Topology,
)
from topologies.topology import Trust as LinkTrust
from topologies.topology_checks import problems

DOMAINS = {"a": "ash", "b": "birch", "c": "cedar", "d": "doum"}
SHAPES = (
    ("ab",),
    ("ab", "ab"),
    ("ab", "bc"),
    ("ab", "bc"),
    ("ab", "bc", "ac"),
    ("ab", "bd", "ac", "cd"),
    ("ab", "bc", "cd"),
)

PORTS = (("icmp",), ("tcp",), ("udp", "icmp"), ("tcp/443",), ("tcp/400-450", "icmp"), ("tcp/440-8080", "udp/53"))
NOWHERE = ("192.0.2.1", "2001:db8:ffff::1", "5f00:1:1:1::")
"""No host's; the last would be a SID."""


def topology(chance: random.Random) -> Topology:
    shape = chance.choice(SHAPES)
    names = sorted({DOMAINS[letter] for border in shape for letter in border})
    pairs = [(DOMAINS[border[0]], DOMAINS[border[1]]) for border in shape]
    nodes: list[Node] = []
    links: list[Link] = []
    for index, name in enumerate(names, 1):
        own, inside = _inside(chance, name, index)
        nodes += own
        links += inside
    links += _borders(chance, pairs, nodes)
    networks, services, hosts = _networks(chance, names, nodes)
    known = names, pairs, networks, services
    made = Topology(
        name="generated",
        domains=tuple(_domain(chance, name, index, *known) for index, name in enumerate(names, 1)),
        nodes=tuple(nodes),
        networks=tuple(networks),
        services=tuple(services),
        hosts=tuple(hosts),
        links=tuple(links),
    )
    assert not list(problems(made)), list(problems(made))
    return made


def _inside(chance: random.Random, domain: str, index: int) -> tuple[list[Node], list[Link]]:
    roles = [Role.EDGE] * chance.randint(1, 2) + [Role.GATEWAY] * chance.randint(0, 2)
    roles += [Role.TRANSIT] * chance.randint(0, 2)
    nodes = [
        Node(name=f"{domain}-{role[0]}{number}", domain=domain, role=role, locator=f"5f00:{index}:{number}::/48")
        for number, role in enumerate(roles, 1)
    ]
    pairs = {(chance.randrange(far), far) for far in range(1, len(nodes))}
    for _ in range(chance.randint(0, 2) if len(nodes) > 2 else 0):
        near, far = sorted(chance.sample(range(len(nodes)), 2))
        pairs.add((near, far))
    links = [
        _link(chance, LinkEnd(node=nodes[near].name), LinkEnd(node=nodes[far].name), 2000, chance.random() < 0.9)
        for near, far in sorted(pairs)
    ]
    return nodes, links


def _borders(chance: random.Random, pairs: list[tuple[str, str]], nodes: list[Node]) -> list[Link]:
    """At gateways, or at an edge or transit node that is one too."""
    links: list[Link] = []
    for number, (near, other) in enumerate(pairs):
        for _ in range(20):
            ends = []
            for domain in (near, other):
                own = [node.name for node in nodes if node.domain == domain]
                gateways = [node.name for node in nodes if node.domain == domain and node.role == Role.GATEWAY]
                ends.append(chance.choice(gateways if gateways and chance.random() < 0.8 else own))
            if not any({link.a.node, link.b.node} == set(ends) for link in links):
                a, b = (
                    LinkEnd(node=node, address=f"192.0.2.{4 * number + side}/30") for side, node in enumerate(ends, 1)
                )
                links.append(_link(chance, a, b, 1500, chance.random() < 0.3))
                break
    return links


def _link(chance: random.Random, a: LinkEnd, b: LinkEnd, mtu: int, own: bool) -> Link:
    return Link(
        a=a,
        b=b,
        delay_ms=chance.choice((0, 1, 2, 10)),
        rate_mbit=1000,
        loss_percent=0,
        mtu=mtu,
        trust=LinkTrust.OWN if own else chance.choice((LinkTrust.PARTNER, LinkTrust.PUBLIC)),
    )


def _networks(
    chance: random.Random, domains: list[str], nodes: list[Node]
) -> tuple[list[Network], list[Service], list[Host]]:
    networks: list[Network] = []
    services: list[Service] = []
    hosts: list[Host] = []
    for domain in domains:
        edges = [node.name for node in nodes if node.domain == domain and node.role == Role.EDGE]
        for index in range(chance.choice((0, 1, 2, 2, 3)) if domain not in domains[:2] else chance.randint(1, 3)):
            name = f"{domain}/n{index}"
            block = 1 if chance.random() < 0.55 else chance.randint(2, 12)  # often the same addresses
            numbers = chance.sample(range(1, 7), chance.randint(1, 3))
            gateway = next(number for number in (1, 254) if number not in numbers)
            networks.append(
                Network(
                    name=name,
                    prefixes=(chance.choice((f"10.{block}.0.0/24",) * 14 + ("10.0.0.0/8",)), f"2001:db8:{block}::/64"),
                    gateways=(f"10.{block}.0.{gateway}", f"2001:db8:{block}::{gateway}"),
                )
            )
            here = chance.choice(edges)
            for number in numbers:
                addresses = (f"10.{block}.0.{number}", f"2001:db8:{block}::{number}")
                hosts.append(
                    Host(
                        name=f"{domain}-{index}-{number}",
                        network=name,
                        interfaces=(
                            HostInterface(
                                name="eth0",
                                node=here if chance.random() < 0.8 else chance.choice(edges),
                                addresses=addresses[: chance.randint(1, 2)],
                            ),
                        ),
                        labels={"app": chance.choice("ab")},
                    )
                )
            for number in numbers[: chance.randint(0, 2)]:
                host = next(host for host in hosts if host.name == f"{domain}-{index}-{number}")
                services.append(
                    Service(
                        name=f"{name}/s{number}", addresses=host.interfaces[0].addresses, ports=chance.choice(PORTS)
                    )
                )
    return networks, services, hosts


def _domain(
    chance: random.Random,
    name: str,
    index: int,
    names: list[str],
    pairs: list[tuple[str, str]],
    networks: list[Network],
    services: list[Service],
) -> Domain:
    knows = {}
    for other in names:
        if other == name:
            continue
        knows[other] = Acquaintance(
            trust=chance.choice((LinkTrust.PARTNER, LinkTrust.PARTNER, LinkTrust.OWN, LinkTrust.PUBLIC)),
            reach=_reach(chance, name, other, names, pairs),
            networks=tuple(network.name for network in networks if network.domain == other and chance.random() < 0.9),
        )
        known = tuple(
            service.name for service in services if service.network in knows[other].networks and chance.random() < 0.9
        )
        knows[other] = Acquaintance(
            trust=knows[other].trust, reach=knows[other].reach, networks=knows[other].networks, services=known
        )
    return Domain(
        name=name,
        sid_block=f"5f00:{index}::/32",
        translation_pool=(f"100.{64 + index}.0.0/16", f"2001:db8:64{index:02x}::/48") if chance.random() < 0.75 else (),
        knows=knows,
        policy=_policy(chance, name, names, [network.name for network in networks if network.domain == name]),
    )


def _reach(
    chance: random.Random, name: str, neighbour: str, names: list[str], pairs: list[tuple[str, str]]
) -> tuple[Reach, ...]:
    """Whoever the neighbour gets to without coming back through us."""
    reached = {neighbour}
    for _ in names:
        reached |= {end for pair in pairs if name not in pair and set(pair) & reached for end in pair}
    return tuple(
        Reach(
            domain=other, latency_ms=chance.choice((1, 5, 20)), trust=chance.choice((LinkTrust.PARTNER, LinkTrust.OWN))
        )
        for other in sorted(reached - {neighbour})
        if chance.random() < 0.95
    )


def _policy(chance: random.Random, name: str, names: list[str], networks: list[str]) -> DomainPolicy:
    everybody = AcceptRule(origin="*", source="*", to=f"{name}/*")
    accept = [everybody] if chance.random() < 0.5 else []
    accept += [
        AcceptRule(
            origin=chance.choice(("*", "*", *(other for other in names if other != name))),
            source=chance.choice(("*", "*", "*/n0", "*/n1")),
            to=chance.choice((f"{name}/*", f"{name}/*", *networks, *(f"{network}/*" for network in networks))),
            ports=chance.choice(((), (), ("tcp", "icmp"), ("tcp", "udp", "icmp"), ("tcp/1-9000",))),
            encryption=chance.choice(("none", "wireguard")),
        )
        for _ in range(chance.randint(1, 4))
    ]
    transit = [CarryRule(origin="*", to="*")] if chance.random() < 0.6 else []
    transit += [
        CarryRule(
            origin=chance.choice(("*", "*", *(other for other in names if other != name))),
            to=chance.choice(("*", "*", *(other for other in names if other != name))),
        )
        for _ in range(chance.randint(1, 2))
    ]
    return DomainPolicy(accept=tuple(accept), transit=tuple(transit), offer=OfferTerms(lease_s=3600))


def intent(chance: random.Random, name: str, known: Inventory, own: str, others: tuple[str, ...]) -> Intent | None:
    """Of `own`, over what it knows. None: it has no network."""
    networks = [network for network in sorted(known.networks) if network.startswith(f"{own}/")]
    if not networks:
        return None
    isolate = _selector(chance, known, networks) if chance.random() < 0.15 else None
    far = [
        destination
        for destination in (*sorted(known.networks), *sorted(known.services))
        if not destination.startswith(f"{own}/")
    ]
    near = [destination for destination in (*networks, *sorted(known.services)) if destination.startswith(f"{own}/")]
    allows = []
    for _ in range(chance.randint(0 if isolate is not None else 1, 2)):
        to = chance.choice(far if far and chance.random() < 0.8 else near)
        if far and chance.random() < 0.3:
            to = far[0]  # where others want to go too
        offered = known.services[to].ports if to in known.services else ()
        ports = chance.choice(((), offered[:1])) if offered else chance.choice(generated_intents.PORTS)
        source = _selector(chance, known, networks) if isolate is None or chance.random() < 0.2 else None
        allows.append(Allow(to=to, ports=ports, source=source))
    return Intent(
        name=name,
        tenant="blue" if chance.random() < 0.1 else "red",
        isolate=isolate,
        allow=tuple(allows),
        require=_require(chance),
        priority=chance.choice((100, 100, 200)),
        overrides=tuple(other for other in others if other != name and chance.random() < 0.15),
    )


def changed(chance: random.Random, network: Inhabited) -> Inhabited:
    """One of its hosts has other labels, or other addresses."""
    index = chance.randrange(len(network.attachments))
    host = network.attachments[index]
    if chance.random() < 0.3:
        host = replace(host, labels=(("app", chance.choice("ab")),))
    else:
        taken = {text for attachment in network.attachments for text in attachment.addresses} | set(network.gateways)
        number = chance.randint(1, 8)
        addresses = tuple(text[: max(text.rfind("."), text.rfind(":")) + 1] + str(number) for text in host.addresses)
        host = replace(host, addresses=addresses if taken.isdisjoint(addresses) else host.addresses)
    attachments = (*network.attachments[:index], host, *network.attachments[index + 1 :])
    return replace(network, attachments=attachments)


def inhabited(made: Topology, inventories: Iterable[Inventory]) -> Topology:
    """With the hosts as their domains have them now."""
    attached = {
        (network.name, attachment.name): attachment
        for known in inventories
        for network in known.networks.values()
        for attachment in network.attachments
    }
    hosts = []
    for host in made.hosts:
        (interface,) = host.interfaces
        attachment = attached[host.network, host.port(interface)]
        hosts.append(
            replace(
                host, labels=dict(attachment.labels), interfaces=(replace(interface, addresses=attachment.addresses),)
            )
        )
    return replace(made, hosts=tuple(hosts))


def _selector(chance: random.Random, known: Inventory, networks: list[str]) -> Selector:
    network = known.networks[chance.choice(networks)]
    host = chance.choice(network.attachments)
    labels = host.labels if chance.random() < 0.5 else ()
    prefixes = (f"{host.addresses[0]}/{128 if ':' in host.addresses[0] else 32}",) if chance.random() < 0.1 else ()
    return Selector(network=network.name, labels=labels, prefixes=prefixes)


def _require(chance: random.Random) -> Require:
    return Require(
        latency_us_max=chance.choice((None, None, None, 20_000, 50_000)),
        trust_min=chance.choice((*[None] * 7, Trust.PARTNER)),
        encryption=chance.choice((Encryption.NONE, Encryption.WIREGUARD)),
    )


def addresses_of(host: Host) -> tuple[str, ...]:
    return host.interfaces[0].addresses


def addresses(made: Topology) -> list[str]:
    """Of all hosts and gateways, and some of nobody's."""
    texts = {text for host in made.hosts for text in addresses_of(host)}
    texts |= {text for network in made.networks for text in network.gateways}
    return sorted(texts) + list(NOWHERE)


Seen = Mapping[tuple[str, str], tuple[Alias, ...]]
"""By network and another: how the one knows the other."""


def known_addresses(made: Topology, seen: Seen) -> list[str]:
    """Of hosts, as other networks know them."""
    return [
        _as_known(text, seen.get((network, host.network), ()))
        for network in sorted({network for network, _ in seen})
        for host in made.hosts
        for text in addresses_of(host)
        if (network, host.network) in seen
    ]


def _as_known(text: str, aliases: tuple[Alias, ...]) -> str:
    return address_text(moved(address(text), aliases))


def packets(
    chance: random.Random, made: Topology, related: Sequence[tuple[str, str]], seen: Seen, count: int
) -> Iterator[tuple[Host, Packet]]:
    """Each with the host that sends it, now and then from an address that is not its own; many between networks that
    are `related`, mostly to what the one knows of the other."""
    there, contents = [*addresses(made), *known_addresses(made, seen)], generated_intents.contents()
    members: dict[str, list[Host]] = {}
    for host in made.hosts:
        members.setdefault(host.network, []).append(host)
    for _ in range(count):
        host, among = chance.choice(made.hosts), there
        if related and chance.random() < 0.5:
            near, far = chance.choice(related)[:: chance.choice((1, -1))]
            host, among = (
                chance.choice(members[near]),
                [
                    _as_known(text, seen.get((near, far), ()) if chance.random() < 0.8 else ())
                    for far_host in members[far]
                    for text in addresses_of(far_host)
                ],
            )
        source = chance.choice(addresses_of(host) if chance.random() < 0.97 else there)
        alike = [text for text in among if (":" in text) == (":" in source) and text != source]
        if not alike:
            continue
        kind, source_port, destination_port = chance.choice(contents)
        yield (
            host,
            Packet(
                network=host.network,
                source=source,
                destination=chance.choice(alike),
                l4_class=kind,
                source_port=source_port,
                destination_port=destination_port,
            ),
        )
