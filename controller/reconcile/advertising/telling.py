"""What neighbours are told: of our own, and of where we lead.

    something else is to be told ── worse or gone ──▶ withdrawn at once
                                 └─ else, or in place of what was worse ──▶ at most every PACE_S
    each new connection, a message that was not taken ──▶ everything again, in parts
    nothing to say for KEEP_S ──▶ an empty message; who is not reached for LOST_S leads nowhere

That bad news goes ahead of what may replace it, keeps routes whose end is gone from being passed around (ghost
flushing, Bremler-Barr et al., 2003). One message at a time is under way to each neighbour.
"""

from collections.abc import Mapping

from msgspec.structs import replace

from controller.fulfillment import paths
from controller.fulfillment.advertising import Candidate, advertisement, is_worse, offered, own_route, passed_on
from controller.fulfillment.negotiate import sealed
from controller.model.advertising import Offered, OwnAdvertisements, Telling, from_key
from controller.model.agreement import ADVERTISES, MAX_ROUTE_DOMAINS, MAX_ROUTES, Route, Routes
from controller.model.constraints import Constraints
from controller.model.event import MessageSent, PeerMet, Send
from controller.model.intent import Trust
from controller.model.inventory import Link
from controller.reconcile.advertising.hearing import doubt_all_from
from controller.reconcile.transaction import Transaction, understands

PACE_S = 2.0
KEEP_S = 60.0
LOST_S = 180.0
RETRY_S = 5.0
LIFETIME_S = 86400
"""Of an advertisement of ours; it is renewed at half-time."""
BYTES_MAX = 256 * 1024
"""Of advertisements in one message."""
PREFIX = "routes:"
"""Of the ids of these messages."""
INSIDE = Constraints(trust_min=Trust.OWN)
"""What crosses borders is encrypted, and inside uses own links only."""


def follow(transaction: Transaction, chosen: Mapping[str, Candidate | None], *, everything: bool) -> None:
    """`chosen`: of the domains of which something is other, by which way we lead there; None: by none. `everything`:
    these are all."""
    is_own_other = everything or transaction.networks.changed or transaction.services.changed or _is_old(transaction)
    if not is_own_other and not chosen:
        return
    borders: dict[str, list[Link]] = {}
    for link in sorted(transaction.links.all.values(), key=lambda link: link.name):
        if link.domain and link.domain in transaction.domains.all:
            borders.setdefault(link.domain, [])
            if link.name not in transaction.down.all:
                borders[link.domain].append(link)
    if is_own_other:
        everything |= _sign(transaction, borders)
    own = transaction.own_advertisements.signed
    known: dict[tuple[str, str], tuple[int, int] | None] = {}

    def inside(source: str, target: str) -> tuple[int, int] | None:
        if (source, target) not in known:
            known[source, target] = _inside(transaction, source, target)
        return known[source, target]

    for peer in borders if everything or chosen else ():
        # until it is met, nobody knows whether it is there
        telling = transaction.tellings.get(peer) or Telling(failing_s=transaction.now_s)
        wanted = dict(telling.wanted)
        if everything:
            wanted.pop(transaction.own, None)
            if peer in own and borders[peer]:
                wanted[transaction.own] = own_route(transaction.own, borders[peer], own[peer])
        for owner, way in chosen.items():
            route = None
            if way is not None and borders[peer]:
                route = passed_on(way, transaction.own, peer, borders[peer], inside, transaction.policy.advertise)
            if route is None:
                wanted.pop(owner, None)
            elif owner in wanted or len(wanted) < MAX_ROUTE_DOMAINS:
                wanted[owner] = route
        if wanted != telling.wanted or transaction.tellings.get(peer) is None:
            transaction.tellings.put(peer, replace(telling, wanted=wanted))
            speak(transaction, peer)
    if everything:
        for peer in transaction.tellings.all.keys() - borders.keys():
            transaction.tellings.drop(peer)


def _inside(transaction: Transaction, source: str, target: str) -> tuple[int, int] | None:
    if source == target:
        return 0, 0
    graph = transaction.graph
    if not {source, target} <= {*graph.topology.nodes}:
        return None
    path = paths.best(graph, source, target, INSIDE, hops_max=len(graph.topology.nodes))
    return (path.latency_us, path.cost) if isinstance(path, paths.Route) else None


def _is_old(transaction: Transaction) -> bool:
    """Of our advertisements half the time has passed, or the clock was set back."""
    own, now_s = transaction.own_advertisements, transaction.now_s
    return bool(own.signed) and not now_s + LIFETIME_S / 2 < own.expires_s <= now_s + LIFETIME_S + 1


def _sign(transaction: Transaction, peers: Mapping[str, object]) -> bool:
    """Whether there is a new edition."""
    rules = transaction.policy.advertise
    offers = {peer: offered(transaction.inventory, rules, transaction.own, peer) for peer in peers}
    offers = {peer: offer for peer, offer in offers.items() if offer != Offered()}
    if offers == transaction.own_advertisements.offered and not _is_old(transaction):
        return False
    now_s = int(transaction.now_s)
    edition = max(now_s, (transaction.counters.get("edition") or 0) + 1)
    transaction.counters.put("edition", edition)
    transaction.own_advertisements = OwnAdvertisements(
        offered=offers,
        signed={
            peer: sealed(advertisement(offer, transaction.own, peer, edition, now_s + LIFETIME_S), transaction.keys)
            for peer, offer in offers.items()
        },
        expires_s=now_s + LIFETIME_S,
    )
    return True


# ---- one neighbour


def met(transaction: Transaction, event: PeerMet) -> None:
    """A new connection: perhaps to a controller that has forgotten what it was told."""
    telling = transaction.tellings.get(event.peer)
    if event.refusal or telling is None:
        return
    instance = event.greeting.instance if event.greeting is not None else ""
    heard_number = telling.heard_number if instance == telling.instance else 0
    _reached(
        transaction,
        event.peer,
        replace(telling, rest="", under_way="", due_s=0.0, heard_number=heard_number, instance=instance),
    )


def sent(transaction: Transaction, event: MessageSent) -> None:
    """What was not taken is told again, with all else: nobody knows what of it was heard."""
    telling = transaction.tellings.get(event.peer)
    if telling is None or telling.under_way != event.message_id:
        return
    if not event.reason:
        _reached(transaction, event.peer, replace(telling, under_way=""))
        return
    failing_s = telling.failing_s if telling.failing_s is not None else transaction.now_s
    again = replace(telling, under_way="", rest="", failing_s=failing_s, due_s=transaction.now_s + RETRY_S)
    transaction.tellings.put(event.peer, again)


def _reached(transaction: Transaction, peer: str, telling: Telling) -> None:
    transaction.tellings.put(peer, replace(telling, failing_s=None, silent=False))
    if telling.silent:
        doubt_all_from(transaction, peer)
    speak(transaction, peer)


def speak(transaction: Transaction, peer: str) -> None:
    """Says what is due, if nothing is under way."""
    telling = transaction.tellings.get(peer)
    if telling is None or telling.under_way or not understands(transaction, peer, ADVERTISES):
        return
    now_s = transaction.now_s
    is_due = telling.due_s <= now_s or now_s + LOST_S < telling.due_s  # the clock was set back
    if telling.rest is not None:
        if is_due:
            _say_part(transaction, peer, telling)
        return
    wanted, said = telling.wanted, telling.said
    lost = [owner for owner, route in said.items() if owner not in wanted or is_worse(wanted[owner], route)]
    news = [owner for owner in sorted(wanted) if said.get(owner) != wanted[owner] and owner not in lost]
    if lost:
        lost = sorted(lost)[:MAX_ROUTE_DOMAINS]
        said = {owner: route for owner, route in said.items() if owner not in lost}
        due_s = max(telling.due_s, now_s + PACE_S)
        _say(transaction, peer, replace(telling, said=said, due_s=due_s), withdrawn=tuple(lost))
    elif news and is_due:
        owners = _of_one_message(news, wanted)
        said = said | {owner: wanted[owner] for owner in owners}
        routes = tuple(wanted[owner] for owner in owners)
        # what is left goes as soon as this is taken
        due_s = now_s + PACE_S if len(owners) == len(news) else 0.0
        _say(transaction, peer, replace(telling, said=said, due_s=due_s), routes)
    elif not news and not telling.spoke_s <= now_s < telling.spoke_s + KEEP_S and _is_used(transaction, peer, telling):
        _say(transaction, peer, telling)


def _say_part(transaction: Transaction, peer: str, telling: Telling) -> None:
    """Of everything, the next."""
    after = telling.rest or ""
    owners = _of_one_message([owner for owner in sorted(telling.wanted) if owner > after], telling.wanted)
    is_last = not owners or owners[-1] == max(telling.wanted)
    said = {owner: telling.wanted[owner] for owner in owners}
    if after:
        said = {owner: route for owner, route in telling.said.items() if owner <= after} | said
    _say(
        transaction,
        peer,
        replace(
            telling,
            said=said,
            rest=None if is_last else owners[-1],
            due_s=transaction.now_s + PACE_S if is_last else 0.0,
        ),
        tuple(telling.wanted[owner] for owner in owners),
        after=after,
        upto="" if is_last else owners[-1],
    )


def _of_one_message(owners: list[str], wanted: Mapping[str, Route]) -> list[str]:
    """As many of the first as it may have."""
    fitting: list[str] = []
    size = 0
    for owner in owners[:MAX_ROUTES]:
        size += len(wanted[owner].advertisement.payload) * 4 // 3 + 2048
        if fitting and size > BYTES_MAX:
            break
        fitting.append(owner)
    return fitting


def _is_used(transaction: Transaction, peer: str, telling: Telling) -> bool:
    return bool(telling.said) or transaction.routes.all.count(from_key(peer)) > 0


def _say(
    transaction: Transaction,
    peer: str,
    telling: Telling,
    routes: tuple[Route, ...] = (),
    withdrawn: tuple[str, ...] = (),
    after: str | None = None,
    upto: str = "",
) -> None:
    number = max(telling.number + 1, int(transaction.now_s * 1000))
    message = Routes(number=number, routes=routes, withdrawn=withdrawn, after=after, upto=upto)
    name = f"{PREFIX}{peer}:{number}"
    transaction.tellings.put(peer, replace(telling, number=number, under_way=name, spoke_s=transaction.now_s))
    transaction.effects.append(Send(peer=peer, message_id=name, message=sealed(message, transaction.keys)))


def tick(transaction: Transaction) -> None:
    """What is due; and who has become silent since the last tick."""
    for peer, telling in tuple(transaction.tellings.all.items()):
        failing_s = telling.failing_s
        if failing_s is not None and failing_s > transaction.now_s:  # the clock was set back
            transaction.tellings.put(peer, replace(telling, failing_s=transaction.now_s))
        elif failing_s is not None and not telling.silent and transaction.now_s - failing_s >= LOST_S:
            transaction.tellings.put(peer, replace(telling, silent=True))
            if transaction.routes.all.count(from_key(peer)):
                transaction.log("neighbour_silent", "warning", peer=peer)
                doubt_all_from(transaction, peer)
        speak(transaction, peer)
