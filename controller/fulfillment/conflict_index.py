"""What intents lay claim to, as sets of addresses, and an index of who claims what.

Selections and destinations are kept once, however many intents use them; the index knows the intents by them.
"""

import bisect
import functools
from collections.abc import Iterable, Iterator

import msgspec

from controller.fulfillment.aliases import NOBODYS, Views, known_to, moved
from controller.fulfillment.numbering import address, prefix
from controller.fulfillment.prefix_map import Prefix, PrefixMap, all_overlapping, common, last
from controller.model.intent import Intent, Ports, Selector
from controller.model.inventory import Inventory


class Selection(msgspec.Struct, frozen=True, eq=False):
    """Hosts that a selector means."""

    network: str
    addresses: frozenset[int]


class Destination(msgspec.Struct, frozen=True, eq=False):
    """Where an `allow` leads to."""

    network: str
    prefixes: tuple[Prefix, ...]
    own: bool
    """Only hosts that are attached count."""
    ports: tuple[Ports, ...]
    """What it offers."""


class Path(msgspec.Struct, frozen=True):
    """One `allow` of an intent."""

    index: int
    source: Selection
    destination: Destination
    ports: tuple[Ports, ...]
    seen: tuple[Prefix, ...]
    """The destination, as the source's network knows it (fulfillment/aliases.py)."""
    seen_sources: frozenset[int]
    """The source, as the destination's network knows it."""
    views: Views


class Claim(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One intent in force."""

    intent: Intent
    serial: int
    """The older has the lower one."""
    start_s: float
    end_s: float
    isolated: Selection | None
    paths: tuple[Path, ...]


class Places:
    """An inventory, by address and label. Names that it does not have stand for nothing."""

    def __init__(self, inventory: Inventory) -> None:
        self.inventory = inventory
        self._own = {name for name, domain in inventory.domains.items() if domain.own}
        self._hosts: dict[str, list[int]] = {}
        self._labelled: dict[str, dict[tuple[str, str], set[int]]] = {}
        self._selections: dict[Selector, Selection] = {}
        self._destinations: dict[str, Destination] = {}

    def is_own(self, network: str) -> bool:
        return network.split("/")[0] in self._own

    def hosts(self, network: str) -> list[int]:
        """Addresses of attached hosts, sorted."""
        addresses = self._hosts.get(network)
        if addresses is None:
            known = self.inventory.networks.get(network)
            addresses = sorted(
                {address(text) for attachment in (known.attachments if known else ()) for text in attachment.addresses}
            )
            self._hosts[network] = addresses
        return addresses

    def gateways(self, network: str) -> frozenset[int]:
        known = self.inventory.networks.get(network)
        return frozenset(map(address, known.gateways if known is not None else ()))

    def within(self, network: str, prefixes: Iterable[Prefix]) -> Iterator[int]:
        """Addresses of attached hosts inside `prefixes`."""
        hosts = self.hosts(network)
        for value, length in prefixes:
            at = bisect.bisect_left(hosts, value)
            while at < len(hosts) and hosts[at] <= last(value, length):
                yield hosts[at]
                at += 1

    def select(self, selector: Selector) -> Selection:
        selection = self._selections.get(selector)
        if selection is None:
            network = self.inventory.networks.get(selector.network)
            shared = set(network.labels) if network is not None else set()
            labelled = self._with_label(selector.network)
            wanted = sorted((labelled.get(label, set()) for label in set(selector.labels) - shared), key=len)
            addresses = wanted[0].intersection(*wanted[1:]) if wanted else set(self.hosts(selector.network))
            if selector.prefixes:
                addresses &= set(self.within(selector.network, map(prefix, selector.prefixes)))
            selection = Selection(selector.network, frozenset(addresses))
            self._selections[selector] = selection
        return selection

    def _with_label(self, network: str) -> dict[tuple[str, str], set[int]]:
        addresses = self._labelled.get(network)
        if addresses is None:
            addresses = self._labelled[network] = {}
            known = self.inventory.networks.get(network)
            for attachment in known.attachments if known is not None else ():
                for label in attachment.labels:
                    addresses.setdefault(label, set()).update(map(address, attachment.addresses))
        return addresses

    def destination(self, to: str) -> Destination:
        destination = self._destinations.get(to)
        if destination is None:
            name = "/".join(to.split("/")[:2])
            network, service = self.inventory.networks.get(name), self.inventory.services.get(to)
            prefixes: tuple[Prefix, ...] = ()
            ports: tuple[Ports, ...] = ()
            if service is not None and network is not None:
                prefixes, ports = tuple((address(text), 128) for text in service.addresses), service.ports
            elif network is not None:
                prefixes = tuple(map(prefix, network.prefixes))
            destination = self._destinations[to] = Destination(name, prefixes, self.is_own(name), ports)
        return destination

    def _path(self, index: int, source: Selection, destination: Destination, ports: tuple[Ports, ...]) -> Path:
        here, there = source.network, destination.network
        views = NOBODYS
        if self.inventory.aliases:
            views = Views(known_to(self.inventory, there, here), known_to(self.inventory, here, there))
        seen, seen_sources = destination.prefixes, source.addresses
        if views.destination:
            seen = tuple((moved(value, views.destination), length) for value, length in seen)
        if views.source:
            seen_sources = frozenset(moved(value, views.source) for value in seen_sources)
        return Path(index, source, destination, ports or destination.ports, seen, seen_sources, views)

    def claim(self, intent: Intent, *, serial: int, start_s: float, end_s: float) -> Claim:
        paths = []
        for index, allow in enumerate(intent.allow):
            selector = allow.source or intent.isolate
            if selector is not None and allow.to:
                paths.append(self._path(index, self.select(selector), self.destination(allow.to), allow.ports))
        return Claim(
            intent=intent,
            serial=serial,
            start_s=start_s,
            end_s=end_s,
            isolated=self.select(intent.isolate) if intent.isolate is not None else None,
            paths=tuple(paths),
        )


_PROTOCOLS = {"tcp": 1, "udp": 2, "icmp": 3}
FEW = 8
"""So many are gone through faster than a map of them is looked into, which takes ten times their memory."""


@functools.lru_cache(65536)
def blocks(ports: tuple[Ports, ...]) -> tuple[Prefix, ...]:
    """Ports as prefixes: 16 bits of protocol, 16 bits of port. Without ports: everything."""
    port_blocks: dict[Prefix, None] = {}
    for port in ports:
        protocol = _PROTOCOLS[port.protocol] << 16
        if port.protocol == "icmp":
            port_blocks[protocol << 96, 16] = None
            continue
        first, behind = protocol | port.first, (protocol | port.last) + 1
        while first < behind:
            size = min(first & -first, 1 << ((behind - first).bit_length() - 1))
            port_blocks[first << 96, 33 - size.bit_length()] = None
            first += size
    return tuple(port_blocks) if ports else ((0, 0),)


class Users:
    """Who has paths from one selection to one destination, by the ports that they carry: mostly one intent, or few."""

    __slots__ = ("_by_ports", "names")

    def __init__(self) -> None:
        self.names: dict[str, tuple[tuple[Ports, ...], ...]] = {}
        """Of each intent what its paths carry."""
        self._by_ports: PrefixMap | None = None
        """Where there are more of them than `FEW`."""

    def add(self, name: str, ports: tuple[Ports, ...]) -> None:
        self.names[name] = (*self.names.get(name, ()), ports)
        if self._by_ports is not None:
            _put(self._by_ports, name, ports)
        elif len(self.names) > FEW:
            self._by_ports = PrefixMap()
            for user, carried in self.names.items():
                for each in carried:
                    _put(self._by_ports, user, each)

    def drop(self, name: str, ports: tuple[Ports, ...]) -> None:
        left = [*self.names[name]]
        left.remove(ports)
        if left:
            self.names[name] = tuple(left)
        else:
            del self.names[name]
        if len(self.names) <= FEW:
            self._by_ports = None
        elif self._by_ports is not None:
            for block in blocks(ports):
                self._by_ports.drop(block, name)

    def carrying(self, ports: tuple[Ports, ...]) -> set[str]:
        """Those that carry some of `ports`."""
        wanted = blocks(ports)
        if self._by_ports is not None:
            return all_overlapping(self._by_ports, wanted)
        return {
            name
            for name, carried in self.names.items()
            if any(common(block, other) is not None for each in carried for block in blocks(each) for other in wanted)
        }


def _put(by_ports: PrefixMap, name: str, ports: tuple[Ports, ...]) -> None:
    for block in blocks(ports):
        by_ports.add(block, name)


class Index:
    """Claims, found by what they touch."""

    def __init__(self) -> None:
        self.claims: dict[str, Claim] = {}
        self.tested: dict[str, None] = {}
        """Of these, those whose intents have tests."""
        self._isolating: dict[Selection, dict[str, None]] = {}
        self._isolated: dict[str, PrefixMap] = {}
        """Network -> address -> selections that are isolated."""
        self._sources: dict[str, PrefixMap] = {}
        """Network -> address -> selections that something comes from."""
        self._destinations: dict[str, PrefixMap] = {}
        """Network -> prefix -> destinations."""
        self._reached: dict[str, PrefixMap] = {}
        """Network -> prefix -> networks that its hosts send to there, in requests or replies."""
        self._pairs: dict[Selection, dict[Destination, Users]] = {}
        self._leading: dict[Destination, dict[Selection, Users]] = {}

    def add(self, claim: Claim) -> None:
        """In place of an older one of the same name."""
        name = claim.intent.name
        known = self.claims.get(name)
        if known is not None and _touches(known) == _touches(claim):
            self.claims[name] = claim
            return
        self.drop(name)
        self.claims[name] = claim
        if claim.intent.tests:
            self.tested[name] = None
        if claim.isolated is not None:
            users = self._isolating.setdefault(claim.isolated, {})
            if not users:
                self._place(self._isolated, claim.isolated, add=True)
            users[name] = None
        for path in claim.paths:
            source, destination = path.source, path.destination
            if source not in self._pairs:
                self._place(self._sources, source, add=True)
            if destination not in self._leading:
                self._lead(destination, add=True)
            pairs = self._pairs.setdefault(source, {})
            if destination not in pairs:
                self._reach(path, add=True)
            users_of_pair = pairs.get(destination)
            if users_of_pair is None:
                users_of_pair = pairs[destination] = Users()
            users_of_pair.add(name, path.ports)
            self._leading.setdefault(destination, {})[source] = users_of_pair

    def drop(self, name: str) -> None:
        self.tested.pop(name, None)
        claim = self.claims.pop(name, None)
        if claim is None:
            return
        if claim.isolated is not None:
            users = self._isolating[claim.isolated]
            del users[name]
            if not users:
                del self._isolating[claim.isolated]
                self._place(self._isolated, claim.isolated, add=False)
        for path in claim.paths:
            source, destination = path.source, path.destination
            users_of_pair = self._pairs[source][destination]
            users_of_pair.drop(name, path.ports)
            if users_of_pair.names:
                continue
            del self._pairs[source][destination], self._leading[destination][source]
            self._reach(path, add=False)
            if not self._pairs[source]:
                del self._pairs[source]
                self._place(self._sources, source, add=False)
            if not self._leading[destination]:
                del self._leading[destination]
                self._lead(destination, add=False)

    def _place(self, where: dict[str, PrefixMap], selection: Selection, *, add: bool) -> None:
        prefix_map = where.setdefault(selection.network, PrefixMap())
        for point in _points(selection):
            if add:
                prefix_map.add(point, selection)
            else:
                prefix_map.drop(point, selection)

    def _lead(self, destination: Destination, *, add: bool) -> None:
        prefix_map = self._destinations.setdefault(destination.network, PrefixMap())
        for block in destination.prefixes:
            if add:
                prefix_map.add(block, destination)
            else:
                prefix_map.drop(block, destination)

    def _reach(self, path: Path, *, add: bool) -> None:
        source, destination = path.source.network, path.destination.network
        reached = [(source, block, destination) for block in path.seen]
        reached += [(destination, (host, 128), source) for host in path.seen_sources]
        for network, where, peer in reached:
            prefix_map = self._reached.setdefault(network, PrefixMap())
            if add:
                prefix_map.add(where, peer)
            else:
                prefix_map.drop(where, peer)

    def touching(self, claim: Claim, *, sharing: bool = True) -> list[Claim]:
        """Those that can have anything to do with it, by name; without `sharing` only those that can contradict it."""
        names: set[str] = set()
        if claim.isolated is not None:
            names |= self._reaching_into(claim.isolated)
            if sharing:
                names |= self._isolating_any(claim.isolated.network, _points(claim.isolated))
        for source in {path.source for path in claim.paths}:
            names |= self._isolating_any(source.network, _points(source))
        for path in claim.paths:
            names |= self._isolating_any(path.destination.network, path.destination.prefixes)
            names |= self._elsewhere(path.source.network, path.seen, path.destination.network)
            points = ((host, 128) for host in path.seen_sources)
            names |= self._elsewhere(path.destination.network, points, path.source.network)
            if sharing:
                names |= self._beside(path)
        names.discard(claim.intent.name)
        return [self.claims[name] for name in sorted(names)]

    def _isolating_any(self, network: str, prefixes: Iterable[Prefix]) -> set[str]:
        names: set[str] = set()
        for selection in all_overlapping(self._isolated.get(network), prefixes):
            names.update(self._isolating[selection])
        return names

    def _reaching_into(self, isolated: Selection) -> set[str]:
        """Whose paths begin or end there."""
        names: set[str] = set()
        for source in all_overlapping(self._sources.get(isolated.network), _points(isolated)):
            for users in self._pairs[source].values():
                names.update(users.names)
        for destination in all_overlapping(self._destinations.get(isolated.network), _points(isolated)):
            for users in self._leading[destination].values():
                names.update(users.names)
        return names

    def _beside(self, path: Path) -> set[str]:
        """Whose paths may carry some of the same packets."""
        names: set[str] = set()
        source, destination = path.source, path.destination
        beside = all_overlapping(self._destinations.get(destination.network), destination.prefixes)
        for other in all_overlapping(self._sources.get(source.network), _points(source)):
            pairs = self._pairs[other]
            for there in beside & pairs.keys() if len(beside) > len(pairs) else beside:
                if there in pairs:
                    names |= pairs[there].carrying(path.ports)
        return names

    def _elsewhere(self, network: str, prefixes: Iterable[Prefix], peer: str) -> set[str]:
        """Who sends from `network` to such addresses in another network than `peer`."""
        others = all_overlapping(self._reached.get(network), prefixes) - {peer}
        if not others:
            return set()
        return {
            name
            for name, claim in self.claims.items()
            for path in claim.paths
            for ends in ((path.source.network, path.destination.network),)
            if network in ends and not others.isdisjoint(ends)
        }


def _touches(claim: Claim) -> tuple[object, ...]:
    """What an index finds it by."""
    return claim.isolated, claim.paths, bool(claim.intent.tests)


def _points(selection: Selection) -> Iterator[Prefix]:
    return ((host, 128) for host in selection.addresses)
