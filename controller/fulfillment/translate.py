"""Intent and rules -> requirements: names become hosts, addresses and ports."""

import bisect
import difflib
import ipaddress
from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache

import msgspec

from controller.fulfillment import aliases, numbering
from controller.fulfillment.aliases import Views
from controller.fulfillment.numbering import host_prefix
from controller.fulfillment.rule_effects import End, rule_on
from controller.fulfillment.rule_engine import RuleEngine
from controller.fulfillment.waypoints import waypoints
from controller.model.agreement import Alias, Flow
from controller.model.event import Problem
from controller.model.intent import Allow, Encryption, Intent, Ports, Prefer, Require, Selector, Trust
from controller.model.inventory import Attachment, Inventory, Network
from controller.model.requirements import (
    Connection,
    Host,
    Isolation,
    Origin,
    Requirements,
    Unsatisfiable,
    Waypoint,
)
from controller.model.rule import Added
from controller.model.selection import Selection, resolved
from controller.model.sharing import Shared

Path = tuple[str | int, ...]
_address = lru_cache(65_536)(ipaddress.ip_address)
_network = lru_cache(65_536)(ipaddress.ip_network)


def translate(
    intent: Intent,
    rules: RuleEngine,
    inventory: Inventory,
    added: tuple[Added, ...] = (),
    selections: tuple[Selection, ...] = (),
) -> Requirements | tuple[Problem, ...]:
    """What `intent` requires in our own domain, or everything that is wrong with it.

    `added`: what requirement compilers said of it. `selections`: what its clauses that describe a service lead to.
    """
    intent = resolved(intent, selections)
    own = next((domain.name for domain in inventory.domains.values() if domain.own), "")
    problems: list[Problem] = []
    isolated: tuple[Host, ...] = ()
    isolation = None
    if intent.isolate is not None:
        isolated = _select(intent.isolate, inventory, own, ("spec", "isolate"), problems)
        isolation = Isolation(
            owner=f"intents/{intent.name}",
            network=intent.isolate.network,
            hosts=isolated,
            silences=bool(intent.suspends),
        )
    connections: dict[tuple[str, str], list[tuple[Flow, tuple[Host, ...], tuple[Host, ...]]]] = {}
    known_as: dict[tuple[str, str], Views] = {}
    crowded: list[Unsatisfiable] = []
    for index, allow in enumerate(intent.allow):
        path: Path = ("spec", "allow", index)
        selector = allow.source or intent.isolate
        if selector is None:
            problems.append(Problem(path=path, message="expected `from`: only with isolate it is what is isolated"))
            continue
        if not allow.to:
            continue  # nothing is chosen
        sources = isolated if allow.source is None else _select(selector, inventory, own, (*path, "from"), problems)
        target = _destination(allow, inventory, own, path, problems)
        if target is None or not sources:
            continue
        network, prefixes, ports, destinations = target
        flow = Flow(
            source=_NAMES(selector.network),
            source_prefixes=_PREFIXES(_addresses(sources)),
            destination=_NAMES(allow.to),
            destination_prefixes=_PREFIXES(prefixes),
            ports=_PORTS(ports),
        )
        pair = selector.network, network
        if network != selector.network and pair not in known_as:
            known_as[pair], inventory, room = _known_as(inventory, own, *pair)
            crowded += room
        seen = aliases.translated(prefixes, known_as[pair].destination) if pair in known_as else ()
        if not crowded and (clash := _clash(seen, inventory.networks[selector.network])):
            message = f"{allow.to} has address {clash[0]}, which is {clash[1]} in {selector.network} too; "
            problems.append(Problem(path=(*path, "to"), message=message + aliases.NO_POOL.format(own)))
            continue
        connections.setdefault(pair, []).append((flow, sources, destinations))
    if problems:
        return tuple(problems)
    failures = tuple(
        Unsatisfiable(binding=f"plugin {addition.plugin}", message=f"plugin {addition.plugin}: {addition.failure}")
        for addition in added
        if addition.failure
    )
    unmet = dict.fromkeys((*failures, *crowded, *(() if connections else _unmet(intent, own))))
    origins: list[Origin] = []
    required: list[Connection] = []
    for (source, destination), parts in sorted(connections.items()):
        flows, sources = tuple(part[0] for part in parts), _union(part[1] for part in parts)
        effects = rule_on(
            intent,
            rules,
            _end(inventory, source, sources, _all(flow.source_prefixes for flow in flows)),
            [_destination_end(inventory, destination, flow, hosts) for flow, _, hosts in parts],
            (addition for addition in added if not addition.failure),
        )
        require = effects.intent.require
        via, lacking = waypoints(effects.intent, source, inventory, own)
        views = known_as.get((source, destination), Views())
        unmet |= dict.fromkeys((*effects.unmet, *_unmet(effects.intent, own), *_nowhere(require, inventory)))
        unmet |= dict.fromkeys((*lacking, *_unpassable(via, require, views)))
        origins += effects.origins
        connection = Connection(
            source_network=_NAMES(source),
            destination_network=_NAMES(destination),
            destination_domain=_NAMES(destination.split("/")[0]),
            flows=flows,
            sources=sources,
            destinations=_union(part[2] for part in parts),
            latency_us_max=require.latency_us_max,
            encryption=require.encryption,
            trust_min=require.trust_min,
            loss_ppm_max=require.loss_ppm_max,
            disjoint=require.disjoint,
            avoid_domains=require.avoid.domains,
            avoid_labels=require.avoid.labels,
            avoid_nodes=tuple(sorted({*require.avoid.nodes})),
            include_nodes=require.include_nodes,
            via=via,
            bypasses=bool(via) and intent.on_service_down == "bypass",
            prefer=_PREFER(effects.intent.prefer),
            direct=effects.direct,
            dscp=effects.dscp,
            source_prefixes=_told_prefixes(inventory, own, source, destination),
            destination_aliases=views.destination,
            source_aliases=views.source,
        )
        required.append(connection)
    return Requirements(
        isolation=isolation,
        connections=tuple(required),
        unmet=tuple(unmet),
        origins=tuple(dict.fromkeys(origins)),
        selections=selections,
    )


def _known_as(
    inventory: Inventory, own: str, source: str, destination: str
) -> tuple[Views, Inventory, tuple[Unsatisfiable, ...]]:
    """How each side is to know the other, as far as we say it; the inventory in which that is taken; and for what there
    is no room."""
    pool = aliases.pool_of(inventory)
    given: list[tuple[Alias, ...]] = []
    for network, other in ((source, destination), (destination, source)):
        if network.split("/")[0] != own:
            given.append(())
            continue
        prefixes = aliases.needed(inventory, network, other, inventory.networks[other].prefixes, new=bool(pool))
        pairs = aliases.give(inventory, pool, network, other, prefixes)
        if isinstance(pairs, str):
            message = (
                f"{network} and {other} have the same addresses, and the translation pool of {own} has no room for "
                f"another name of {pairs}"
            )
            return Views(), inventory, (Unsatisfiable(binding="translation_pool", message=message),)
        given.append(pairs)
        inventory = aliases.with_aliases(inventory, aliases.held(inventory, network, other, pairs))
    return Views(source=given[1], destination=given[0]), inventory, ()


def _told_prefixes(inventory: Inventory, own: str, source: str, destination: str) -> tuple[str, ...]:
    """Of the source's network, so that another domain may know it under others: where we have a pool for that too."""
    if destination.split("/")[0] == own or not aliases.pool_of(inventory):
        return ()
    return inventory.networks[source].prefixes


def _all(parts: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(sorted({prefix for part in parts for prefix in part}))


def _end(inventory: Inventory, name: str, hosts: tuple[Host, ...], prefixes: tuple[str, ...]) -> End:
    """As the conditions of rules see it: a label of any of its hosts is a label of the whole."""
    network = inventory.networks[name]
    domain = inventory.domains.get(name.split("/")[0])
    names = {host.name for host in hosts}
    labels = {
        *network.labels,
        *(label for attachment in network.attachments if attachment.name in names for label in attachment.labels),
    }
    return End(
        network=name,
        trust=network.trust,
        domain_trust=domain.trust if domain is not None and not domain.own else Trust.OWN,
        labels=tuple(sorted(f"{label}={value}" for label, value in labels)),
        prefixes=prefixes,
    )


def _destination_end(inventory: Inventory, name: str, flow: Flow, hosts: tuple[Host, ...]) -> End:
    end = _end(inventory, name, hosts, flow.destination_prefixes)
    service = inventory.services.get(flow.destination)
    labels = {f"{label}={value}" for label, value in service.labels} if service is not None else set()
    return msgspec.structs.replace(
        end,
        labels=tuple(sorted({*end.labels, *labels})),
        service=service.name if service is not None else "",
        ports=tuple(map(words, flow.ports)),
    )


def _unmet(intent: Intent, own: str) -> tuple[Unsatisfiable, ...]:
    """The clauses that no placement can meet yet, or none ever will."""
    require, avoid = intent.require, intent.require.avoid
    wanted = {
        "bandwidth": "reserved capacity" if require.bandwidth_bps_min is not None else "",
        "encryption": "encryption from edge to edge" if require.encryption == Encryption.WIREGUARD_END_TO_END else "",
    }
    unmet = [
        Unsatisfiable(binding=clause, message=f"{what} cannot be placed by this version: leave the clause out")
        for clause, what in wanted.items()
        if what
    ]
    ends = {own, *(allow.to.split("/")[0] for allow in intent.allow)}
    for domain in avoid.domains:
        if domain in ends:
            message = f"domain {domain} is to be avoided, and is where the traffic comes from or goes to"
            unmet.append(Unsatisfiable(binding="avoid", message=message))
    return tuple(unmet)


def _unpassable(via: tuple[Waypoint, ...], require: Require, known_as: Views) -> Iterator[Unsatisfiable]:
    """What does not go together with services on the way yet."""
    if via and require.include_nodes:
        yield Unsatisfiable(binding="via", message="nodes to include cannot be placed beside services to pass")
    if via and (known_as.source or known_as.destination):
        message = "networks with the same addresses cannot be joined through a service: it would not know who is meant"
        yield Unsatisfiable(binding="via", message=message)


def _nowhere(require: Require, inventory: Inventory) -> Iterator[Unsatisfiable]:
    """Nodes that are named and not there: not to be passed, and perhaps meant to be called otherwise."""
    for clause, names in (("avoid", require.avoid.nodes), ("include", require.include_nodes)):
        for name in names:
            if name not in inventory.nodes:
                yield Unsatisfiable(binding=clause, message=f"there is no node {name} in this domain")


_NAMES: Shared[str] = Shared()
_PREFIXES: Shared[tuple[str, ...]] = Shared()
_PORTS: Shared[tuple[Ports, ...]] = Shared()
_HOSTS: Shared[tuple[Host, ...]] = Shared()
_PREFER: Shared[Prefer] = Shared()


class _Attached:
    """Hosts of a network, sorted by name, and found by label and address."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.hosts = sorted(map(_host, network.attachments), key=lambda host: host.name)
        self._labelled: dict[tuple[str, str], dict[int, None]] = {}
        self._addresses: list[tuple[int, int]] = []
        labels = {attachment.name: attachment.labels for attachment in network.attachments}
        for place, host in enumerate(self.hosts):
            for label in {*network.labels, *labels[host.name]}:
                self._labelled.setdefault(label, {})[place] = None
            self._addresses += [(numbering.prefix(text)[0], place) for text in host.addresses]
        self._addresses.sort()

    def labelled(self, labels: Collection[tuple[str, str]]) -> list[Host]:
        """Those with all the labels."""
        if not labels:
            return self.hosts
        least, *others = sorted((self._labelled.get(label, {}) for label in labels), key=len)
        return [self.hosts[place] for place in least if all(place in other for other in others)]

    def within(self, prefixes: Collection[str]) -> list[Host]:
        """Those with an address inside `prefixes`."""
        places: set[int] = set()
        for value, length in map(numbering.prefix, prefixes):
            first = bisect.bisect_left(self._addresses, (value, 0))
            after = bisect.bisect_left(self._addresses, (value + (1 << (128 - length)), 0))
            places.update(place for _, place in self._addresses[first:after])
        return [self.hosts[place] for place in sorted(places)]


_ATTACHED: dict[str, _Attached] = {}
"""Of each network the last that was asked for: what `translate` finds follows from its arguments all the same."""


def _attached(network: Network) -> _Attached:
    attached = _ATTACHED.get(network.name)
    if attached is None or attached.network is not network:
        attached = _ATTACHED[network.name] = _Attached(network)
    return attached


def hosts_of(network: Network, prefixes: Collection[str]) -> tuple[Host, ...]:
    """Attached hosts with an address inside `prefixes`."""
    return tuple(_attached(network).within(prefixes))


def _host(attachment: Attachment) -> Host:
    return Host(
        name=attachment.name,
        node=attachment.node,
        port=attachment.port,
        addresses=tuple(sorted(map(host_prefix, attachment.addresses))),
    )


def _addresses(hosts: tuple[Host, ...]) -> tuple[str, ...]:
    return tuple(sorted({address for host in hosts for address in host.addresses}))


def _union(parts: Iterable[tuple[Host, ...]]) -> tuple[Host, ...]:
    hosts: dict[str, Host] = {}
    for part in parts:
        for host in part:  # other clauses may have selected other addresses of it
            known = hosts.setdefault(host.name, host)
            if known is not host:
                addresses = tuple(sorted({*known.addresses, *host.addresses}))
                hosts[host.name] = msgspec.structs.replace(host, addresses=addresses)
    union = tuple(hosts[name] for name in sorted(hosts))
    return _HOSTS(union) if len(union) == 1 else union


def _select(
    selector: Selector, inventory: Inventory, own: str, path: Path, problems: list[Problem]
) -> tuple[Host, ...]:
    network = inventory.networks.get(selector.network)
    if network is None:
        message = _unknown("network", selector.network, inventory.networks)
        problems.append(Problem(path=(*path, "network"), message=message))
        return ()
    if selector.network.split("/")[0] != own:
        message = f"{selector.network} is not ours: an intent starts in a network of its own domain, {own}"
        problems.append(Problem(path=(*path, "network"), message=message))
        return ()
    hosts = [
        host
        for attached in _attached(network).labelled(selector.labels)
        if (host := _within(attached, selector.prefixes)).addresses
    ]
    if not hosts:
        labels = " ".join((*(f"{name}={value}" for name, value in selector.labels), *selector.prefixes)) or "any host"
        there = ", ".join(
            f"{attachment.name} ({' '.join(f'{name}={value}' for name, value in attachment.labels) or 'no labels'})"
            for attachment in network.attachments[:10]
        )
        message = f"no host of {network.name} is {labels}; there are: {there or 'none'}"
        field = ("select",) if selector.labels else ("prefixes",) if selector.prefixes else ()
        problems.append(Problem(path=(*path, *field), message=message))
    return tuple(hosts)


def _within(host: Host, prefixes: tuple[str, ...]) -> Host:
    """The host with those of its addresses that are inside `prefixes` (empty: all)."""
    if not prefixes:
        return host
    wanted = [_network(prefix) for prefix in prefixes]
    kept = tuple(
        address for address in host.addresses if any(_address(address.split("/")[0]) in prefix for prefix in wanted)
    )
    return msgspec.structs.replace(host, addresses=kept)


def _destination(
    allow: Allow, inventory: Inventory, own: str, path: Path, problems: list[Problem]
) -> tuple[str, tuple[str, ...], tuple[Ports, ...], tuple[Host, ...]] | None:
    """Network, prefixes, ports and, if it is ours, hosts."""
    parts = allow.to.split("/")
    network_name, domain = "/".join(parts[:2]), parts[0]
    if domain not in inventory.domains:
        message = _unknown("domain", domain, inventory.domains)
        problems.append(Problem(path=(*path, "to"), message=message))
        return None
    network = inventory.networks.get(network_name)
    service = inventory.services.get(allow.to) if len(parts) == 3 else None
    if len(parts) == 3 and service is None:
        problems.append(Problem(path=(*path, "to"), message=_unknown("service", allow.to, inventory.services)))
        return None
    if network is None:
        problems.append(Problem(path=(*path, "to"), message=_unknown("network", network_name, inventory.networks)))
        return None
    if service is None:
        prefixes, ports = tuple(sorted(network.prefixes)), allow.ports
    else:
        prefixes, ports = tuple(sorted(map(host_prefix, service.addresses))), allow.ports or service.ports
        for index, wanted in enumerate(ports):
            if not any(inside(wanted, offered) for offered in service.ports):
                offers = ", ".join(map(words, service.ports))
                message = f"{allow.to} does not offer {words(wanted)}; it offers {offers}"
                problems.append(Problem(path=(*path, "ports", index), message=message))
                return None
    hosts = hosts_of(network, prefixes) if domain == own else ()
    if domain == own and not hosts:
        problems.append(Problem(path=(*path, "to"), message=f"no attached host has an address of {allow.to}"))
        return None
    return network_name, prefixes, tuple(sorted(ports, key=lambda port: (port.protocol, port.first, port.last))), hosts


def inside(inner: Ports, outer: Ports) -> bool:
    return inner.protocol == outer.protocol and outer.first <= inner.first and inner.last <= outer.last


def words(ports: Ports) -> str:
    """As a person writes them."""
    if ports.protocol == "icmp" or (ports.first, ports.last) == (0, 65535):
        return ports.protocol
    return f"{ports.protocol}/{ports.first}" + (f"-{ports.last}" if ports.last != ports.first else "")


def _clash(prefixes: tuple[str, ...], network: Network) -> tuple[str, str] | None:
    """An address of the network that is inside `prefixes`, and whose it is."""
    for address in network.gateways:
        if any(numbering.contains(prefix, address) for prefix in prefixes):
            return address, "the gateway"
    for host in _attached(network).within(prefixes):
        for address in (text.partition("/")[0] for text in host.addresses):
            if any(numbering.contains(prefix, address) for prefix in prefixes):
                return address, host.name
    return None


def _unknown(what: str, name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), 1, 0.6)
    hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(sorted(known)) or 'none'}"
    return f"unknown {what} {name}; {hint}"
