"""Services that traffic passes on its way (`via`): which a name means, and where they are.

They know no SRv6. What is to pass one is decapsulated at the edge where it is attached, goes out of its `in` port to
its host's MAC with the addresses that it has, comes back by its `out` port and is encapsulated anew (a static proxy, as
in draft-ietf-spring-sr-service-programming §6.1); replies take the same way back. Which flows it may give back, and
how these go on, are rules of its own network's policy class there.
"""

from collections.abc import Collection, Iterator

from controller.fulfillment.numbering import overlaps
from controller.model.intent import Intent
from controller.model.inventory import Inventory, Service
from controller.model.requirements import Connection, Unsatisfiable, Waypoint


def meant(name: str, source_network: str, inventory: Inventory, own: str) -> tuple[str, ...]:
    """Services that a name in `via` may mean: a whole name one; else the one of that name in the source's network; else
    those of our domain that can be passed."""
    if "/" in name:
        return (name,) if name in inventory.services else ()
    if (near := f"{source_network}/{name}") in inventory.services:
        return (near,)
    return tuple(
        each
        for each, service in sorted(inventory.services.items())
        if each.rpartition("/")[2] == name and each.split("/")[0] == own and service.through is not None
    )


def waypoints(
    intent: Intent, source_network: str, inventory: Inventory, own: str
) -> tuple[tuple[Waypoint, ...], tuple[Unsatisfiable, ...]]:
    """Those that the traffic of `source_network` is to pass, in order, and why it cannot."""
    found: list[Waypoint] = []
    lacking: list[str] = []
    for name in intent.via:
        services = meant(name, source_network, inventory, own)
        if len(services) != 1:
            several = f"may be {', '.join(services)}: write the whole name" if services else "is no service of ours"
            lacking.append(f"{name} {several}")
            continue
        made = _waypoint(inventory.services[services[0]], inventory, own)
        if isinstance(made, str):
            lacking.append(made)
        else:
            found.append(made)
    for place in sorted({(waypoint.network, waypoint.node) for waypoint in found}):
        here = [waypoint.service for waypoint in found if (waypoint.network, waypoint.node) == place]
        if len(here) > 1:
            what = " and ".join(here)
            lacking.append(f"{what}: what comes back at {place[1]} from {place[0]} would not tell which it has passed")
    return tuple(found), tuple(Unsatisfiable(binding="via", message=message) for message in lacking)


def _waypoint(service: Service, inventory: Inventory, own: str) -> Waypoint | str:
    name = service.name
    network = inventory.networks.get(name.rpartition("/")[0])
    if name.split("/")[0] != own:
        return f"{name} is another domain's: the domain that owns a service leads traffic through it"
    if service.through is None or network is None:
        return f"{name} has no `in` and `out`: traffic to others cannot pass it"
    attachments = {attachment.name: attachment for attachment in network.attachments}
    ends = [attachments[each] for each in service.through if each in attachments]
    if len(ends) != len(service.through):
        return f"{name}: {network.name} has no attachments {' and '.join(service.through)}"
    inward, outward = ends
    if inward.node != outward.node or inward.port == outward.port:
        return f"{name}: its `in` and `out` must be two ports of one node"
    return Waypoint(
        service=name,
        network=network.name,
        node=inward.node,
        inward=inward.port,
        outward=outward.port,
        inward_addresses=each_version(inward.addresses),
        outward_addresses=each_version(outward.addresses),
    )


def each_version(addresses: tuple[str, ...]) -> tuple[str, ...]:
    """The first of each."""
    first = {":" in address: address for address in reversed(addresses)}
    return tuple(first[version] for version in sorted(first))


def passed(connection: Connection, down: Collection[str]) -> tuple[Waypoint, ...]:
    """The services that a new plan passes."""
    return tuple(each for each in connection.via if not (connection.bypasses and each.service in down))


def down_on_way(connection: Connection, down: Collection[str]) -> tuple[str, ...]:
    return tuple(waypoint.service for waypoint in connection.via if waypoint.service in down)


def confused(connection: Connection, others: Iterator[Connection]) -> str:
    """Why a service on the way could not tell traffic of this connection from that of another between other networks,
    by addresses; empty: it can."""
    own = {waypoint.service for waypoint in connection.via}
    ends = (connection.source_network, connection.destination_network)
    for other in others:
        shared = own.intersection(waypoint.service for waypoint in other.via)
        if shared and ends != (other.source_network, other.destination_network) and _overlap(connection, other):
            return (
                f"{min(shared)} could not tell traffic from {ends[0]} to {ends[1]} from that from "
                f"{other.source_network} to {other.destination_network}, which it carries: they have the same addresses"
            )
    return ""


def _overlap(connection: Connection, other: Connection) -> bool:
    """In either direction."""
    mine, theirs = _sides(connection), _sides(other)
    return any(overlaps_any(mine[0], sides[0]) and overlaps_any(mine[1], sides[1]) for sides in (theirs, theirs[::-1]))


def _sides(connection: Connection) -> tuple[set[str], set[str]]:
    flows = connection.flows
    sources = {prefix for flow in flows for prefix in flow.source_prefixes}
    return sources, {prefix for flow in flows for prefix in flow.destination_prefixes}


def overlaps_any(prefixes: Collection[str], others: Collection[str]) -> bool:
    return any(overlaps(prefix, others) for prefix in prefixes)
