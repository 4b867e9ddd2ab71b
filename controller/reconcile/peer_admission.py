"""What other domains' intents may do in our networks: judged when it is offered, and again when ours change.

Our own intents come first: what does not go with one of them is not accepted, and ends where it was. What is in the
way is isolation, and addresses that would lead to two places (replies to one address can go one way only).
"""

from collections.abc import Iterable, Iterator, Mapping

from msgspec.structs import replace

from controller.fulfillment.numbering import host_prefix, overlaps
from controller.fulfillment.policy import destination_domain
from controller.fulfillment.translate import hosts_of, inside, words
from controller.model.agreement import Flow, Terms
from controller.model.requirements import Connection, Requirements
from controller.model.stitch import Session, Stitch, expired
from controller.model.told import Told, Why
from controller.reconcile.negotiation.agreements import give_up
from controller.reconcile.tables import FOR_OTHERS, network_key
from controller.reconcile.transaction import Transaction
from dataplane import addressing


def asked(transaction: Transaction, terms: Terms) -> Connection | Why:
    """What is asked for, in our terms; or why it cannot be."""
    if reason := _underlay_objection(transaction, terms):
        return Why(Told.CONFLICT, reason)
    network_name = "/".join(terms.flows[0].destination.split("/")[:2])
    domain = destination_domain(terms)
    destinations = []
    if domain == transaction.own:
        network = transaction.networks.get(network_name)
        if network is None:
            return Why(Told.DESTINATION, f"{transaction.own} has no network {network_name}")
        for flow in terms.flows:
            if reason := _destination_objection(transaction, flow):
                return Why(Told.DESTINATION, reason)
        prefixes = {prefix for flow in terms.flows for prefix in flow.destination_prefixes}
        destinations = list(hosts_of(network, prefixes))
        if not destinations:
            return Why(Told.DESTINATION, f"no host of {network_name} has these addresses")
    connection = Connection(
        source_network=terms.flows[0].source,
        destination_network=network_name,
        destination_domain=domain,
        flows=terms.flows,
        sources=(),
        destinations=tuple(destinations),
        latency_us_max=terms.latency_us_max,
        encryption=terms.encryption,
        trust_min=terms.trust_min,
        avoid_domains=terms.avoid_domains,
        dscp=terms.dscp,
    )
    reason = _clash(transaction, connection, terms.id) if domain == transaction.own else ""
    return Why(Told.CONFLICT, reason) if reason else connection


def _underlay_objection(transaction: Transaction, terms: Terms) -> str:
    """No flow may be from or to where our own tunnels begin."""
    ours = {
        str(addressing.endpoint(border_port.endpoint)[0]) for border_port in transaction.fabric.border_ports.values()
    }
    underlay = sorted(map(host_prefix, ours))
    prefixes = {prefix for flow in terms.flows for prefix in (*flow.source_prefixes, *flow.destination_prefixes)}
    beyond = next((prefix for prefix in sorted(prefixes) if overlaps(prefix, underlay)), None)
    return f"prefix {beyond} has addresses of the underlay of {transaction.own} in it" if beyond is not None else ""


def _destination_objection(transaction: Transaction, flow: Flow) -> str:
    """Names and addresses must be the same thing to both sides."""
    if flow.destination.count("/") == 1:
        network = transaction.networks.get(flow.destination)
        known = set(network.prefixes) if network is not None else set()
        return "" if set(flow.destination_prefixes) <= known else f"{flow.destination} has other prefixes"
    service = transaction.services.get(flow.destination)
    if service is None:
        return f"{transaction.own} has no service {flow.destination}"
    if set(flow.destination_prefixes) - set(map(host_prefix, service.addresses)):
        return f"{flow.destination} has other addresses"
    for ports in flow.ports:
        if not any(inside(ports, offered) for offered in service.ports):
            return f"{flow.destination} does not offer {words(ports)}"
    return "" if flow.ports else f"{flow.destination} offers some ports only"


def _clash(transaction: Transaction, connection: Connection, name: str) -> str:
    """Why a connection of another domain (agreement `name`) does not go with what is there."""
    wanted = _sources(connection)
    network = transaction.networks.all[connection.destination_network]
    taken = {*network.gateways, *(address for attachment in network.attachments for address in attachment.addresses)}
    if any(overlaps(host_prefix(address), wanted) for address in taken):
        return f"a source has an address that {network.name} uses itself"
    here = network_key(connection.destination_network)
    for intent_record in map(transaction.intent_records.all.__getitem__, transaction.intent_records.all.by(here)):
        if not expired(intent_record) and (reason := _objection(transaction, connection, intent_record.requirements)):
            return reason
    for stitch in map(transaction.stitches.all.__getitem__, transaction.stitches.all.by(here)):
        if stitch.plan.name != name and stitch.upstream is not None and _crosses(connection, stitch.plan.connection):
            return "a source has an address that another network, which reaches the same destination, uses too"
    return ""


def _objection(transaction: Transaction, connection: Connection, ours: Requirements) -> str:
    """Why a connection of another domain does not go with an intent of ours."""
    isolation = ours.isolation
    if isolation is not None and isolation.network == connection.destination_network:
        names = {host.name for host in isolation.hosts}
        if any(host.name in names for host in connection.destinations):
            return f"an intent of {transaction.own} isolates the destination"
    if any(_crosses(connection, one) for one in ours.connections):
        return (
            f"a source has an address that the destination knows in another network, by an intent of {transaction.own}"
        )
    return ""


def _crosses(connection: Connection, other: Connection) -> bool:
    """Whether the destination sends to some address by both, each time to another network."""
    here, there = connection.destination_network, connection.source_network
    if other.destination_network == here and other.source_network != there:
        return any(overlaps(prefix, _sources(connection)) for prefix in _sources(other))
    if other.source_network == here and other.destination_network != there:
        reached = {prefix for flow in other.flows for prefix in flow.destination_prefixes}
        return any(overlaps(prefix, _sources(connection)) for prefix in reached)
    return False


def _sources(connection: Connection) -> set[str]:
    return {prefix for flow in connection.flows for prefix in flow.source_prefixes}


def ended_by(transaction: Transaction, required: Iterable[Requirements]) -> dict[str, str]:
    """What we have agreed to and these intents of ours do not go with: plan -> why."""
    held: dict[str, list[Stitch]] = {}
    for stitch, _ in _held(transaction):
        held.setdefault(stitch.plan.connection.destination_network, []).append(stitch)
    ended: dict[str, str] = {}
    for ours in required if held else ():
        networks = {
            end
            for connection in ours.connections
            for end in (connection.source_network, connection.destination_network)
        }
        networks |= {ours.isolation.network} if ours.isolation is not None else set()
        for stitch in (stitch for network in sorted(networks) for stitch in held.get(network, ())):
            if reason := _objection(transaction, stitch.plan.connection, ours):
                ended.setdefault(stitch.plan.name, reason)
    return ended


def end_all(transaction: Transaction, ended: Mapping[str, Why]) -> None:
    """Both neighbours are told why."""
    for name, why in ended.items():
        stitch = transaction.stitches.get(name)
        if stitch is not None and stitch.upstream is not None:
            give_up(transaction, stitch, why)


def reconsider(transaction: Transaction) -> None:
    """After the inventory has changed: what would not be accepted any more, or needs another way to its hosts, ends."""
    ended: dict[str, Why] = {}
    for stitch, session in _held(transaction):
        plan, found = stitch.plan, asked(transaction, session.terms)
        if isinstance(found, Why):
            ended[plan.name] = found
        elif {host.node for host in found.destinations} != {host.node for host in plan.connection.destinations}:
            ended[plan.name] = Why(Told.LOST, f"hosts of {found.destination_network} have moved: offer it again")
        else:
            transaction.put_stitch(replace(stitch, plan=replace(plan, connection=found)))
    end_all(transaction, ended)


def _held(transaction: Transaction) -> Iterator[tuple[Stitch, Session]]:
    """Of what others asked for, what ends in our networks and has not ended."""
    for stitch in map(transaction.stitches.all.__getitem__, transaction.stitches.all.by(FOR_OTHERS)):
        ours = stitch.plan.connection.destination_domain == transaction.own
        if ours and stitch.upstream is not None and not stitch.stage.leaving:
            yield stitch, stitch.upstream
