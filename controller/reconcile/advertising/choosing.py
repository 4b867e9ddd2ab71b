"""Where each neighbour leads now, and what follows from it in a step: for plans, the inventory, other neighbours.

Only domains of which something may be other than before are looked at (`Transaction.doubted`).
"""

from collections.abc import Mapping

from controller.fulfillment.advertising import Candidate, candidate, learnt
from controller.model.advertising import Heard, heard_name, of_key
from controller.model.agreement import opened_advertisement
from controller.model.inventory import Domain, Network, Service
from controller.reconcile.advertising import telling
from controller.reconcile.advertising.hearing import edition_counter, forget_unpinned
from controller.reconcile.advertising.learning import find_learnt, learn
from controller.reconcile.transaction import Transaction
from dataplane import addressing


def settle(transaction: Transaction) -> bool:
    """At the end of a step; whether networks or services of others are others than before."""
    if transaction.domains.changed:
        forget_unpinned(transaction)
    everything = _all_in_doubt(transaction)
    doubted = set(transaction.doubted)
    if everything:
        doubted |= {heard.route.owner for heard in transaction.routes.all.values()}
        doubted |= {heard.route.owner for heard in transaction.reaches.all.values()}
    names = (*transaction.networks.touched, *transaction.services.touched)
    doubted |= {name.split("/")[0] for name in names} - {transaction.own}
    transaction.doubted.clear()
    chosen: dict[str, Candidate | None] = {}
    is_other = False
    border_ports = transaction.fabric.border_ports.values() if doubted else ()
    underlay = {addressing.endpoint(border_port.endpoint)[0] for border_port in border_ports}
    if not transaction.advertises:
        find_learnt(transaction)
    for owner in sorted(doubted):
        ways = _candidates(transaction, owner, underlay)
        _lead(transaction, owner, [way for way, _ in ways])
        chosen[owner] = ways[0][0] if ways else None
        is_other |= learn(transaction, owner, [things for _, things in ways])
    telling.follow(transaction, chosen, everything=everything)
    transaction.advertises = True
    return is_other


def _all_in_doubt(transaction: Transaction) -> bool:
    before = transaction.before
    return (
        not transaction.advertises
        or transaction.links.changed
        or transaction.domains.changed
        or transaction.down.changed
        or transaction.policy != before.policy
        or transaction.fabric.border_ports != before.fabric.border_ports
    )


Ways = list[tuple[Candidate, tuple[Network | Service, ...]]]


def _candidates(transaction: Transaction, owner: str, underlay: set[addressing.Address]) -> Ways:
    """The most preferred first, each with what is taken over of it."""
    routes = [transaction.routes.all[name] for name in transaction.routes.all.by(of_key(owner))]
    newest = transaction.counters.get(edition_counter(owner)) or 0
    domain = transaction.domains.get(owner)
    ways: Ways = []
    for heard in routes:
        neighbour = transaction.domains.get(heard.peer)
        if domain is None or neighbour is None or heard.edition < newest or not _counts(transaction, heard, neighbour):
            continue
        way = candidate(heard, neighbour, transaction.links.all, transaction.down.all)
        said = opened_advertisement(heard.route.advertisement)
        things = tuple(learnt(said, heard.peer, domain.trust, transaction.policy.learn, underlay))
        if way is not None and things:
            ways.append((way, things))
    return sorted(ways, key=lambda way: way[0].order)


def _counts(transaction: Transaction, heard: Heard, neighbour: Domain) -> bool:
    """Where the operator says to which domains a neighbour leads, that is all that it leads to."""
    typed = {reach.domain for reach in neighbour.reach} | {neighbour.name} if neighbour.reach else {heard.route.owner}
    telling = transaction.tellings.get(heard.peer)
    is_silent = telling is not None and telling.silent
    return heard.route.owner in typed and not heard.damped_s and not is_silent


def _lead(transaction: Transaction, owner: str, ways: list[Candidate]) -> None:
    """What plans are made with."""
    usable: Mapping[str, Candidate] = {heard_name(way.heard.peer, owner): way for way in ways}
    for name in transaction.reaches.all.by(of_key(owner)):
        if name not in usable:
            transaction.reaches.drop(name)
    for name, way in usable.items():
        transaction.reaches.put(name, way.heard)
