"""What domains tell each other unasked (path vector): which of it counts, what we tell, and how it is passed on.

An advertisement is the owner's word, signed by it for one of its neighbours, the carrier. Who passes it on puts itself
in front of the path, adds its part of the way to latency and cost, and leaves the owner's word as it is.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase

import msgspec

from controller.fulfillment.mandate import CLOCK_SKEW_S
from controller.fulfillment.numbering import host_prefix
from controller.fulfillment.policy import is_in
from controller.model.advertising import Heard, Ignored, Offered
from controller.model.agreement import (
    ADVERTISEMENT_BYTES_MAX,
    MAX_LEASE_S,
    MAX_NETWORKS,
    MAX_PATH,
    MAX_SERVICES,
    Advertisement,
    Envelope,
    Gateway,
    OfferedNetwork,
    OfferedService,
    Route,
    Unreadable,
    opened_advertisement,
)
from controller.model.intent import Trust
from controller.model.inventory import Domain, Inventory, Link, Network, Service
from controller.model.keys import Keys
from controller.model.policy import AdvertiseRule, LearnRule
from dataplane import addressing

COST_MAX, LATENCY_US_MAX = 2**31, 2**40
GATEWAYS_MAX, PREFIXES_MAX = 16, 64
Inside = Callable[[str, str], tuple[int, int] | None]
"""Latency in us and cost of the way between two of our nodes; None: there is none."""


# ---- what neighbours say


def objection(
    route: Route,
    peer: str,
    own: str,
    domains: Mapping[str, Domain],
    links: Mapping[str, Link],
    known: Iterable[Heard],
    newest: int,
    now_s: float,
    keys: Keys,
) -> Ignored | None:
    """Why what `peer` says counts for nothing, whatever our policy says. `known`: what is heard of the same owner;
    `newest`: edition of it that was ever heard."""
    path, owner = route.path, route.owner
    if own in path:
        return Ignored.CIRCLE
    if path[0] != peer or len({*path}) < len(path) or len(path) > MAX_PATH:
        return Ignored.PATH
    if any((link := links.get(gateway.border)) is None or link.domain != peer for gateway in route.gateways) or len(
        {gateway.border for gateway in route.gateways}
    ) < len(route.gateways):
        return Ignored.GATEWAYS
    try:
        said = opened_advertisement(route.advertisement)
    except Unreadable:
        return Ignored.UNREADABLE
    if said.owner != owner:
        return Ignored.OWNER
    if (domain := domains.get(owner)) is None or not domain.key:
        return Ignored.UNPINNED
    if said.carrier != (path[-2] if len(path) > 1 else own):
        return Ignored.CARRIER
    if len(path) > 1 and not said.onward:
        return Ignored.ONWARD
    if not said.edition - CLOCK_SKEW_S <= now_s < said.expires_s <= now_s + MAX_LEASE_S:
        return Ignored.TIME
    if said.edition < newest:
        return Ignored.OLDER
    # the same bytes were looked at when another neighbour, or this one, said them
    if not any(heard.route.advertisement == route.advertisement for heard in known):
        envelope = route.advertisement
        if not keys.verify(domain.key, envelope.signed_bytes, envelope.signature):
            return Ignored.SIGNATURE
        return _content_objection(said)
    return None


def _content_objection(said: Advertisement) -> Ignored | None:
    """Whether it is about what can be, and is its owner's."""
    homes: dict[str, list[addressing.Network]] = {}
    try:
        for network in said.networks:
            if not _is_name(network.name, 2) or network.name in homes:
                return Ignored.INVALID
            if not network.name.startswith(f"{said.owner}/"):
                return Ignored.OWNER
            homes[network.name] = [addressing.host_prefix(prefix) for prefix in network.prefixes]
            if not all(map(_is_capability, network.capabilities)):
                return Ignored.INVALID
        for service in said.services:
            if not _is_name(service.name, 3):
                return Ignored.INVALID
            if not service.name.startswith(f"{said.owner}/"):
                return Ignored.OWNER
            home = homes.get(service.name.rpartition("/")[0], [])
            for address in map(addressing.host_address, service.addresses):
                if not any(address in prefix for prefix in home):
                    return Ignored.INVALID
            for ports in service.ports:
                if ports.protocol not in ("tcp", "udp", "icmp") or ports.first > ports.last:
                    return Ignored.INVALID
    except ValueError:
        return Ignored.INVALID
    names = [service.name for service in said.services]
    labels = [label for thing in said.networks for label in thing.labels]
    labels += [label for thing in said.services for label in thing.labels]
    if len({*names}) < len(names) or not all(text.isprintable() and text for label in labels for text in label):
        return Ignored.INVALID
    return None


def _is_capability(text: str) -> bool:
    """A name, or a name and a value."""
    return text.count("=") < 2 and _is_name(text.replace("=", "/"), 1 + text.count("="))


def _is_name(name: str, parts: int) -> bool:
    """As manifests may have it."""
    split = name.split("/")
    return len(split) == parts and all(
        0 < len(part) <= 63 and set(part) <= _LETTERS and part[0] not in ".-" and part[-1] not in ".-" for part in split
    )


_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789.-")


def takes(rules: Collection[LearnRule], peer: str, name: str, prefixes: Iterable[str]) -> bool:
    """Whether a network or service, as `peer` says it, is to be taken over."""
    return any(
        fnmatchcase(peer, rule.neighbour)
        and fnmatchcase(name, rule.what)
        and (not rule.prefixes or all(any(is_in(prefix, wide) for wide in rule.prefixes) for prefix in prefixes))
        for rule in rules
    )


def learnt(
    said: Advertisement, peer: str, trust: Trust, rules: Collection[LearnRule], underlay: Collection[addressing.Address]
) -> Iterator[Network | Service]:
    """What of it is taken over: networks, then their services. `trust`: of their domain. `underlay`: where our tunnels
    begin; nothing that has these addresses in it is."""
    homes: set[str] = set()
    for network in said.networks:
        if takes(rules, peer, network.name, network.prefixes) and not _any_in(underlay, network.prefixes):
            homes.add(network.name)
            yield Network(
                name=network.name,
                prefixes=network.prefixes,
                labels=tuple(sorted(dict(network.labels).items())),
                capabilities=tuple(sorted({*network.capabilities})),
                trust=trust,
                learnt=True,
            )
    for service in said.services:
        prefixes = tuple(map(host_prefix, service.addresses))
        if service.name.rpartition("/")[0] in homes and takes(rules, peer, service.name, prefixes):
            yield Service(
                name=service.name,
                addresses=service.addresses,
                ports=service.ports,
                labels=tuple(sorted(dict(service.labels).items())),
                learnt=True,
            )


def _any_in(addresses: Collection[addressing.Address], prefixes: Iterable[str]) -> bool:
    return any(address in network for network in map(addressing.prefix, prefixes) for address in addresses)


# ---- which way is preferred


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A route over the best of the borders with the neighbour that says it."""

    heard: Heard
    link: Link
    trust: Trust
    latency_us: int
    cost: int

    @property
    def order(self) -> tuple[int, int, int, int, str]:
        """What is less is preferred. A longer path is never preferred to what it is an extension of, so that all
        come to an end of telling each other."""
        path = self.heard.route.path
        return -self.trust, len(path), self.cost, self.latency_us, self.heard.peer


def candidate(heard: Heard, neighbour: Domain, links: Mapping[str, Link], down: Collection[str]) -> Candidate | None:
    """None: none of the borders can be used."""
    ways = [
        Candidate(
            heard=heard,
            link=link,
            trust=trust_of(heard.route, link, neighbour),
            latency_us=link.delay_us + gateway.latency_us,
            cost=link.cost + gateway.cost,
        )
        for gateway in heard.route.gateways
        if (link := links.get(gateway.border)) is not None and link.domain == heard.peer and link.name not in down
    ]
    return min(ways, key=lambda way: (*way.order, way.link.name), default=None)


def trust_of(route: Route, link: Link, neighbour: Domain) -> Trust:
    """Of a way over `link`. The destination's own domain does not count: the intent names it."""
    return link.trust if len(route.path) == 1 else min(link.trust, neighbour.trust, route.trust)


# ---- what we tell


def offered(inventory: Inventory, rules: Collection[AdvertiseRule], own: str, peer: str) -> Offered:
    """What of ours a neighbour is told. Of a network that is told only because a service in it is, the addresses of
    its services stand for its prefixes. All of it may be passed on, or nothing is."""
    ours = [rule for rule in rules if fnmatchcase(peer, rule.to)]

    def told(name: str, onward: bool = False) -> bool:
        return any(fnmatchcase(name, rule.what) and (rule.onward or not onward) for rule in ours)

    networks: dict[str, set[str]] = {
        network.name: set(network.prefixes)
        for network in inventory.networks.values()
        if network.name.startswith(f"{own}/") and told(network.name)
    }
    services: list[Service] = []
    for service in inventory.services.values():
        home, addresses = service.name.rpartition("/")[0], set(map(host_prefix, service.addresses))
        if not service.name.startswith(f"{own}/") or not told(service.name):
            continue
        if not told(home):
            if len(networks.get(home, set()) | addresses) > PREFIXES_MAX:
                continue
            networks.setdefault(home, set()).update(addresses)
        services.append(service)
    names = sorted(networks)[:MAX_NETWORKS]
    services = [service for service in services if service.name.rpartition("/")[0] in names][:MAX_SERVICES]
    return Offered(
        networks=tuple(
            OfferedNetwork(
                name=name,
                prefixes=tuple(sorted(networks[name])),
                labels=inventory.networks[name].labels,
                capabilities=inventory.networks[name].capabilities,
            )
            for name in names
        ),
        services=tuple(
            OfferedService(name=service.name, addresses=service.addresses, ports=service.ports, labels=service.labels)
            for service in sorted(services, key=lambda service: service.name)
        ),
        onward=bool(names) and all(told(name, onward=True) for name in _told_by_name(names, services, told)),
    )


def _told_by_name(networks: Iterable[str], services: Iterable[Service], told: Callable[[str], bool]) -> Iterator[str]:
    """Without the networks that are told because of their services."""
    yield from filter(told, networks)
    yield from (service.name for service in services)


def advertisement(offer: Offered, own: str, carrier: str, edition: int, expires_s: int) -> Advertisement:
    """Cut to what a message may be: what comes last by name is left out."""
    networks, services = offer.networks, offer.services
    while True:
        said = Advertisement(
            owner=own,
            carrier=carrier,
            onward=offer.onward,
            edition=edition,
            expires_s=expires_s,
            networks=networks,
            services=services,
        )
        if len(msgspec.json.encode(said)) <= ADVERTISEMENT_BYTES_MAX:
            return said
        if services:
            services = services[: len(services) // 2]
        else:
            networks = networks[: len(networks) // 2]


def passed_on(
    chosen: Candidate, own: str, peer: str, borders: Iterable[Link], inside: Inside, rules: Collection[AdvertiseRule]
) -> Route | None:
    """What `peer` is told of a domain to which we lead best by `chosen`; None: nothing. `borders`: with `peer`."""
    route = chosen.heard.route
    if peer in route.path or len(route.path) >= MAX_PATH:
        return None
    if not any(fnmatchcase(peer, rule.to) and fnmatchcase(route.owner, rule.what) for rule in rules):
        return None
    if not opened_advertisement(route.advertisement).onward:
        return None
    gateways = []
    for border in borders:
        way = inside(border.a.node, chosen.link.a.node)
        if way is not None:
            latency_us, cost = way
            gateways.append(
                Gateway(
                    border=border.name,
                    latency_us=min(latency_us + chosen.latency_us, LATENCY_US_MAX),
                    cost=min(cost + chosen.cost, COST_MAX),
                )
            )
    if not gateways:
        return None
    return Route(
        path=(own, *route.path),
        gateways=tuple(gateways[:GATEWAYS_MAX]),
        trust=chosen.trust,
        advertisement=route.advertisement,
    )


def own_route(own: str, borders: Iterable[Link], signed: Envelope) -> Route:
    """To ourselves."""
    gateways = tuple(Gateway(border=border.name, latency_us=0, cost=0) for border in borders)
    return Route(path=(own,), gateways=gateways[:GATEWAYS_MAX], trust=Trust.OWN, advertisement=signed)


def is_worse(route: Route, before: Route) -> bool:
    """Whether it may be one of those that are still told, though their end is gone: those get longer and longer."""
    return (-route.trust, len(route.path)) > (-before.trust, len(before.path))
