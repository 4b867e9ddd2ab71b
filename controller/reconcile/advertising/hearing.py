"""What neighbours say of where they lead: what counts of it is kept, the rest is counted.

Who says so often something else of one domain that all on the way would have to follow is heard, but used only when
there is a share again (route flap damping, RFC 2439).
"""

from collections.abc import Iterable

from msgspec.structs import replace

from controller.fulfillment.advertising import objection
from controller.model.advertising import Heard, Ignored, Telling, from_key, heard_name, of_key
from controller.model.agreement import MAX_ROUTE_DOMAINS, Route, Routes, opened_advertisement
from controller.reconcile.transaction import Transaction

CHANGES_AT_ONCE_MAX = 10
"""Of one neighbour's route to one domain."""
CHANGE_EVERY_S = 30.0
"""From then on."""
CLOCK_SKEW_MS = 60_000


def edition_counter(owner: str) -> str:
    """Of the newest that was heard."""
    return f"edition of {owner}"


def hear(transaction: Transaction, peer: str, said: Routes) -> None:
    """Of a neighbour that has signed this."""
    telling = transaction.tellings.get(peer) or Telling()
    now_ms = int(transaction.now_s * 1000)
    if said.number <= telling.heard_number <= now_ms + CLOCK_SKEW_MS:
        return  # late, or once more
    transaction.tellings.put(peer, replace(telling, heard_number=said.number))
    if said.after is not None:
        told = {route.owner for route in said.routes}
        _forget(transaction, peer, (owner for owner in _between(transaction, peer, said) if owner not in told))
    _forget(transaction, peer, said.withdrawn)
    for route in said.routes:
        _take(transaction, peer, route)


def _between(transaction: Transaction, peer: str, said: Routes) -> list[str]:
    owners = (transaction.routes.all[name].route.owner for name in transaction.routes.all.by(from_key(peer)))
    return [owner for owner in owners if owner > (said.after or "") and (not said.upto or owner <= said.upto)]


def _forget(transaction: Transaction, peer: str, owners: Iterable[str]) -> None:
    for owner in owners:
        name = heard_name(peer, owner)
        if name in transaction.routes.all:
            transaction.routes.drop(name)
            transaction.doubted.add(owner)


def _take(transaction: Transaction, peer: str, route: Route) -> None:
    owner, name = route.owner, heard_name(peer, route.owner)
    before = transaction.routes.get(name)
    known = [transaction.routes.all[other] for other in transaction.routes.all.by(of_key(owner))]
    reason = objection(
        route,
        peer,
        transaction.own,
        transaction.domains.all,
        transaction.links.all,
        known,
        transaction.counters.get(edition_counter(owner)) or 0,
        transaction.now_s,
        transaction.keys,
    )
    if reason is None and before is None and transaction.routes.all.count(from_key(peer)) >= MAX_ROUTE_DOMAINS:
        reason = Ignored.TOO_MANY
    if reason is not None:
        _count(transaction, peer, reason, owner)
        _forget(transaction, peer, (owner,))  # what was said before is not said any more
        return
    if before is not None and before.route == route:
        return
    said = opened_advertisement(route.advertisement)
    transaction.routes.put(
        name,
        Heard(
            peer=peer,
            route=route,
            edition=said.edition,
            expires_s=said.expires_s,
            damped_s=_damped_s(transaction, peer, name, owner),
        ),
    )
    transaction.counters.put(edition_counter(owner), said.edition)
    transaction.doubted.add(owner)


def _damped_s(transaction: Transaction, peer: str, name: str, owner: str) -> float:
    """0: there is a share of a change, and it is taken."""
    now_s, reserve_s = transaction.now_s, CHANGES_AT_ONCE_MAX * CHANGE_EVERY_S
    used_s = min(max(transaction.flaps.get(name) or 0.0, now_s), now_s + reserve_s)  # the clock may have been set back
    if used_s + CHANGE_EVERY_S <= now_s + reserve_s:
        transaction.flaps.put(name, used_s + CHANGE_EVERY_S)
        return 0.0
    transaction.log("route_damped", "warning", peer=peer, domain=owner)
    return used_s + CHANGE_EVERY_S - reserve_s


def _count(transaction: Transaction, peer: str, reason: Ignored, owner: str) -> None:
    """The first of each kind is logged, too."""
    telling = transaction.tellings.get(peer) or Telling()
    count = telling.ignored.get(reason, 0) + 1
    transaction.tellings.put(peer, replace(telling, ignored={**telling.ignored, str(reason): count}))
    if count == 1:
        transaction.log("route_ignored", "warning", peer=peer, domain=owner, reason=reason)


def doubt_all_from(transaction: Transaction, peer: str) -> None:
    """Whatever this neighbour says counts again, or no more."""
    for name in transaction.routes.all.by(from_key(peer)):
        transaction.doubted.add(transaction.routes.all[name].route.owner)


def expire(transaction: Transaction) -> None:
    """What has ended, may be used again, or is of no domain or neighbour of ours any more."""
    names = transaction.routes.all if transaction.clock_set_back else transaction.routes.ready(transaction.now_s)
    for name in tuple(names):
        heard = transaction.routes.all[name]
        if heard.expires_s <= transaction.now_s:
            _forget(transaction, heard.peer, (heard.route.owner,))
        elif heard.damped_s <= transaction.now_s:
            transaction.routes.put(name, replace(heard, damped_s=0.0))
            transaction.doubted.add(heard.route.owner)
    for name, used_s in tuple(transaction.flaps.all.items()):
        if not transaction.now_s < used_s <= transaction.now_s + CHANGES_AT_ONCE_MAX * CHANGE_EVERY_S:
            transaction.flaps.drop(name)


def forget_unpinned(transaction: Transaction) -> None:
    """After domains have changed: what was signed with a key that is not pinned any more, or said by who is no
    neighbour any more."""
    for name in transaction.domains.touched:
        domain, before = transaction.domains.get(name), transaction.before.inventory.domains.get(name)
        if before is not None and (domain is None or domain.key != before.key):
            transaction.counters.drop(edition_counter(name))
            for heard in [transaction.routes.all[n] for n in transaction.routes.all.by(from_key(name), of_key(name))]:
                _forget(transaction, heard.peer, (heard.route.owner,))
            if domain is None:
                transaction.tellings.drop(name)
