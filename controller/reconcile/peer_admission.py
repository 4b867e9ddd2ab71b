"""What other domains' intents may do in our networks: judged when it is offered, and again when ours change.

Our own intents come first: what does not go with one of them is not accepted, and ends where it was. What is in the
way is isolation, and addresses that would lead to two places (replies to one address can go one way only).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

from msgspec.structs import replace

from controller.fulfillment.aliases import translated
from controller.fulfillment.amending import narrowed
from controller.fulfillment.numbering import host_prefix, overlaps
from controller.fulfillment.policy import destination_domain, refusal
from controller.fulfillment.translate import hosts_of, inside, words
from controller.model.agreement import Flow, Terms
from controller.model.plan import Plan
from controller.model.requirements import Connection, Requirements
from controller.model.stitch import Session, Stitch, expired
from controller.model.told import Told, Why
from controller.reconcile.negotiation.withdrawals import refuse_upstream, take_away
from controller.reconcile.tables import FOR_OTHERS, network_key
from controller.reconcile.transaction import Transaction
from controller.reconcile.translation_pool import given
from dataplane import addressing


def asked(transaction: Transaction, terms: Terms, known: Connection | None = None) -> Connection | Why:
    """What is asked for, in our terms; or why it cannot be. `known`: what the same agreement has led to so far."""
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
        source_prefixes=terms.source_prefixes,
        destination_aliases=terms.destination_aliases,
    )
    if domain != transaction.own:
        return connection
    known = known or _alike(transaction, connection)
    if known is None and terms.source_prefixes:
        return _known_here(transaction, connection, terms.id)
    connection = replace(connection, source_aliases=known.source_aliases if known is not None else ())
    reason = _clash(transaction, connection, terms.id)
    return Why(Told.CONFLICT, reason) if reason else connection


def _alike(transaction: Transaction, connection: Connection) -> Connection | None:
    """Of what we have agreed to already something between the same networks: a host has one address to others."""
    for name in transaction.stitches.all.by(network_key(connection.destination_network)):
        stitch = transaction.stitches.all[name]
        other = stitch.plan.connection
        is_for_others = stitch.upstream is not None and not stitch.stage.leaving
        if is_for_others and _ends(other) == _ends(connection):
            return other
    return None


def _ends(connection: Connection) -> tuple[str, str]:
    return connection.source_network, connection.destination_network


def _known_here(transaction: Transaction, connection: Connection, name: str) -> Connection | Why:
    """With the prefixes under which our network is to know that of the source: where it has addresses of it itself, or
    knows them in another network."""
    network, other = connection.destination_network, connection.source_network
    is_known_as_it_is = any(
        _ends(ours) == (network, other)
        for name in transaction.intent_records.all.by(network_key(network))
        for ours in transaction.intent_records.all[name].requirements.connections
    )
    reason = ""
    for all_of_them in (False,) if is_known_as_it_is else (False, True):
        pairs = given(transaction, network, other, connection.source_prefixes, all_of_them=all_of_them)
        if isinstance(pairs, str):
            message = f"the translation pool of {transaction.own} has no room for another name of {pairs}"
            return Why(Told.ROOM, message)
        connection = replace(connection, source_aliases=pairs)
        reason = _clash(transaction, connection, name)
        if not reason:
            return connection
    return Why(Told.CONFLICT, reason)


def refused_flows(transaction: Transaction, terms: Terms) -> tuple[Flow, ...]:
    """Those that are not taken by themselves, so that the others may be offered without them; empty: it is not for
    some of them that the offer is not taken."""
    own = destination_domain(terms) == transaction.own
    refused = tuple(
        flow
        for flow in terms.flows
        if refusal(replace(terms, flows=(flow,)), transaction.policy, transaction.own, transaction.now_s)
        or (own and _destination_objection(transaction, flow))
    )
    return refused if len(refused) < len(terms.flows) else ()


def _underlay_objection(transaction: Transaction, terms: Terms) -> str:
    """No flow may be from or to where our own tunnels begin."""
    ours = {
        str(addressing.endpoint(border_port.endpoint)[0]) for border_port in transaction.fabric.border_ports.values()
    }
    underlay = sorted(map(host_prefix, ours))
    prefixes = {prefix for flow in terms.flows for prefix in (*flow.source_prefixes, *flow.destination_prefixes)}
    prefixes |= {alias.alias for alias in terms.destination_aliases}
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
    if any(_crosses(connection, ours_asked) for ours_asked in ours.connections):
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
        reached = {
            prefix
            for flow in other.flows
            for prefix in translated(flow.destination_prefixes, other.destination_aliases)
        }
        return any(overlaps(prefix, _sources(connection)) for prefix in reached)
    return False


def _sources(connection: Connection) -> set[str]:
    """As the destination's network knows them."""
    aliases = connection.source_aliases
    return {prefix for flow in connection.flows for prefix in translated(flow.source_prefixes, aliases)}


class Ended(NamedTuple):
    why: Why
    flows: tuple[Flow, ...] = ()
    """Of which alone it is true; empty: of all together."""

    @property
    def what(self) -> str:
        return f"ends for {len(self.flows)} of its flows" if self.flows else "ends"


def ended_by(transaction: Transaction, required: Iterable[Requirements]) -> dict[str, Ended]:
    """What we have agreed to and these intents of ours do not go with, by plan."""
    stitches: dict[str, list[Stitch]] = {}
    for stitch, _ in _held(transaction):
        stitches.setdefault(stitch.plan.connection.destination_network, []).append(stitch)
    ended: dict[str, Ended] = {}
    for ours in required if stitches else ():
        networks = {
            end
            for connection in ours.connections
            for end in (connection.source_network, connection.destination_network)
        }
        networks |= {ours.isolation.network} if ours.isolation is not None else set()
        for stitch in (stitch for network in sorted(networks) for stitch in stitches.get(network, ())):
            plan, name = stitch.plan_to_be, stitch.plan.name
            if reason := _objection(transaction, plan.connection, ours):
                refused = alone(plan, partial(_goes_against, transaction, ours))
                before = ended[name].flows if name in ended else ()
                is_whole = not refused or (name in ended and not before)
                flows = () if is_whole else tuple(dict.fromkeys((*before, *refused)))
                ended[name] = Ended(Why(Told.CONFLICT, reason), flows)
    return ended


def _goes_against(transaction: Transaction, ours: Requirements, plan: Plan) -> bool:
    return bool(_objection(transaction, plan.connection, ours))


def _is_out(transaction: Transaction, terms: Terms, plan: Plan) -> bool:
    return isinstance(_reconsidered(transaction, plan, terms), Why)


def alone(plan: Plan, is_refused: Callable[[Plan], object]) -> tuple[Flow, ...]:
    """The flows of a plan which would be refused by themselves."""
    flows = plan.connection.flows
    refused = tuple(flow for flow in flows if is_refused(narrowed(plan, (flow,)))) if len(flows) > 1 else ()
    return refused if len(refused) < len(flows) else ()


def end_all(transaction: Transaction, ended: Mapping[str, Ended]) -> None:
    """Both neighbours are told why."""
    for name, (why, flows) in ended.items():
        stitch = transaction.stitches.get(name)
        if stitch is not None and stitch.upstream is not None:
            take_away(transaction, stitch, flows, why)


def reconsider(transaction: Transaction) -> None:
    """After the inventory has changed: what would not be accepted any more, or needs another way to its hosts, ends."""
    ended: dict[str, Ended] = {}
    for stitch, session in _held(transaction):
        plan = _reconsidered(transaction, stitch.plan, session.terms)
        if isinstance(plan, Why):
            flows = alone(stitch.plan, partial(_is_out, transaction, session.terms))
            ended[stitch.plan.name] = Ended(plan, flows)
            continue
        wanted = _reconsidered(transaction, stitch.wanted, session.terms) if stitch.wanted is not None else None
        if isinstance(wanted, Why):
            refuse_upstream(transaction, replace(stitch, plan=plan), wanted)
        else:
            transaction.put_stitch(replace(stitch, plan=plan, wanted=wanted))
    end_all(transaction, ended)


def _reconsidered(transaction: Transaction, plan: Plan, terms: Terms) -> Plan | Why:
    """With the hosts that are there now."""
    if not plan.connection.flows:
        return plan
    reconsidered = asked(transaction, replace(terms, flows=plan.connection.flows), plan.connection)
    if isinstance(reconsidered, Why):
        return reconsidered
    if {host.node for host in reconsidered.destinations} != {host.node for host in plan.connection.destinations}:
        return Why(Told.LOST, f"hosts of {reconsidered.destination_network} have moved: offer it again")
    return replace(plan, connection=reconsidered)


def _held(transaction: Transaction) -> Iterator[tuple[Stitch, Session]]:
    """Of what others asked for, what ends in our networks and has not ended."""
    for stitch in map(transaction.stitches.all.__getitem__, transaction.stitches.all.by(FOR_OTHERS)):
        ours = stitch.plan.connection.destination_domain == transaction.own
        if ours and stitch.upstream is not None and not stitch.stage.leaving:
            yield stitch, stitch.upstream
