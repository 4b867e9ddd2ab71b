"""What a clause describes -> the service that it leads to: which there are, which holds what is required, which is
preferred, and when another takes its place.

    described ──matching──▶ services ──translate, each──▶ candidates ──place, each──▶ rated ──select──▶ chosen

1. What holds all that is required goes before what does not; an unknown metric holds nothing.
2. Of what holds it the preferred goes first: the quickest or the cheapest, as `prefer` says; then the nearest, counted
   in domains; then the first by name.
3. What is chosen stays so while it holds what is required. Another one is taken where it does not, or where another
   is better by a fifth in what is preferred, and it has been chosen for a minute.
"""

from collections.abc import Callable, Iterable, Sequence

import msgspec

from controller.fulfillment.graph import Graph
from controller.fulfillment.paths import order
from controller.fulfillment.place import place, predicted
from controller.fulfillment.shortfall import BINDINGS, words
from controller.model.advertising import heard_name
from controller.model.intent import AnyService, Level, Prefer, Trust
from controller.model.inventory import Inventory, Service
from controller.model.plan import Plan
from controller.model.requirements import Connection, Unsatisfiable
from controller.model.selection import Considered, Failure, Selection, Verdict

STAY_S = 60
"""So long what is chosen stays, whatever becomes better meanwhile."""
GAIN_SHARE = 5
"""What is preferred must be better by one in so many."""
GAIN_US, GAIN_COST = 1_000, 1
"""And by that much at least."""
FAILED_S, FAILED_S_MAX, REMEMBERED_S = 60, 600, 600
"""What was refused is left alone for so long; twice as long each time, up to the second, until it has not failed for as
long as the third."""
CONSIDERED_MAX, SHOWN_MAX = 64, 16
"""Services of one clause that are looked at, the first by name; of which it is kept why."""


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A service that is what the clause describes."""

    service: str
    connection: Connection | None = None
    """What the intent requires of the way to it; None: it cannot be taken, see `objection`."""
    objection: str = ""
    doubt: str = ""
    """Why others are taken before it."""
    excluded: tuple[str, ...] = ()
    """Borders over which it was refused."""
    refusal: str = ""
    """Why what was chosen does not do any more, where that is not seen on the graph."""
    carried: bool = False
    """There is something that carries it, as it is to be."""


class _Rated(msgspec.Struct, frozen=True, kw_only=True):
    candidate: Candidate
    verdict: Verdict
    reason: str = ""
    nearness: int = 0
    """Of what does not hold what is required: the less, the more of it."""
    way: tuple[int, int, int] | None = None
    """Latency in us, cost, and domains that it enters; None: there is none, or it is not known."""

    def order(self, prefer: Prefer) -> tuple[int, int, tuple[int, int], int, str]:
        latency_us, cost, domains = self.way or (0, 0, 0)
        preferred = order(prefer, latency_us, cost)
        return _RANKS.index(self.verdict), self.nearness, preferred, domains, self.candidate.service


_RANKS = (Verdict.FALL_BACK, Verdict.WAITING, Verdict.UNSATISFIABLE, Verdict.DROPPED)


def lacks(asked: AnyService, service: Service, inventory: Inventory) -> list[str]:
    """What of the description it is not, in words; trust aside, which is no description. Empty: it is what is asked
    for."""
    domain_name, network_name, name = service.name.split("/")
    network, domain = inventory.networks.get(f"{domain_name}/{network_name}"), inventory.domains.get(domain_name)
    if network is None or domain is None:
        return ["its network is not known"]
    lacking = [f"is not called {asked.service}"] if asked.service not in ("", name) else []
    labels = {*service.labels, *network.labels, *domain.labels, *map(_as_label, network.capabilities)}
    lacking += [f"is not in {words([label])}" for label in asked.labels if label not in labels]
    return lacking + [f"lacks {name}" for name in asked.capabilities if name not in network.capabilities]


def _as_label(capability: str) -> tuple[str, str]:
    name, _, value = capability.partition("=")
    return name, value


def trust_of(service: str, inventory: Inventory) -> Trust:
    """Of the network that it is in, and of that one's domain."""
    network, domain = inventory.networks[service.rpartition("/")[0]], inventory.domains[service.split("/")[0]]
    return network.trust if domain.own else min(network.trust, domain.trust)


def select(
    candidates: Sequence[Candidate],
    graph: Graph,
    before: Selection,
    now_s: int,
    conflict: Callable[[str], str] = lambda service: "",
) -> Selection:
    """`before`: what was chosen for the clause until now. `conflict`: why a service that is to be taken cannot be,
    beside what else is in force; empty: it can."""
    failures = tuple(failure for failure in before.failures if now_s < failure.until_s + REMEMBERED_S)
    left_alone = {failure.service: failure for failure in failures if now_s < failure.until_s}
    prefer = next((one.connection.prefer for one in candidates if one.connection is not None), Prefer())
    rated = sorted(
        (_rate(candidate, graph, left_alone.get(candidate.service)) for candidate in candidates),
        key=lambda rating: rating.order(prefer),
    )
    current = next((rating for rating in rated if rating.candidate.service == before.chosen), None)
    chosen, rated = _choose(rated, current, prefer, before.since_s, now_s, conflict)
    if current is not None and chosen is not current and (reason := current.candidate.refusal):
        failures = (*_others(failures, current), _failure(failures, current, now_s))
        waiting = msgspec.structs.replace(current, verdict=Verdict.WAITING, reason=reason)
        rated = [waiting if rating is current else rating for rating in rated]
    others = [rating for rating in rated if rating is not chosen]
    since_s = before.since_s if chosen is not None and chosen is current else now_s
    shown = [_considered(rating) for rating in others]
    if chosen is not None:
        verdict = Verdict.CHOSEN if chosen.verdict == Verdict.FALL_BACK else chosen.verdict
        shown.insert(0, msgspec.structs.replace(_considered(chosen), verdict=verdict))
    return Selection(
        clause=before.clause,
        chosen=chosen.candidate.service if chosen is not None else "",
        since_s=since_s if chosen is not None else 0,
        considered=tuple(shown[:SHOWN_MAX]),
        left_out=max(0, len(shown) - SHOWN_MAX),
        failures=failures,
    )


def _choose(
    rated: list[_Rated],
    current: _Rated | None,
    prefer: Prefer,
    since_s: int,
    now_s: int,
    conflict: Callable[[str], str],
) -> tuple[_Rated | None, list[_Rated]]:
    """And the others, as they are judged now."""
    if current is not None and current.verdict == Verdict.DROPPED:
        current = None
    stays = current is not None and (current.verdict == Verdict.FALL_BACK and now_s < since_s + STAY_S)
    judged, chosen = list(rated), current
    for index, rating in enumerate(rated):
        if stays or rating.verdict == Verdict.DROPPED:
            break
        if current is not None and (rating is current or not _takes_over(rating, current, prefer)):
            break
        if not (why := conflict(rating.candidate.service)):
            chosen = rating
            break
        judged[index] = msgspec.structs.replace(rating, verdict=Verdict.DROPPED, reason=why)
    return chosen, sorted(judged, key=lambda rating: rating.order(prefer))


def _takes_over(rating: _Rated, current: _Rated, prefer: Prefer) -> bool:
    if rating.verdict != Verdict.FALL_BACK:
        return False  # it would not do either
    return current.verdict != Verdict.FALL_BACK or _is_better(rating, current, prefer)


def _is_better(rating: _Rated, chosen: _Rated, prefer: Prefer) -> bool:
    """By so much that it is worth a change."""
    if rating.verdict != Verdict.FALL_BACK or chosen.verdict != Verdict.FALL_BACK:
        return False
    assert rating.way is not None and chosen.way is not None, "else they would not do"
    what, least = (1, GAIN_COST) if prefer.cost is Level.LOW else (0, GAIN_US)
    return chosen.way[what] - rating.way[what] >= max(chosen.way[what] / GAIN_SHARE, least)


def _others(failures: Iterable[Failure], rating: _Rated) -> Iterable[Failure]:
    return (failure for failure in failures if failure.service != rating.candidate.service)


def _failure(failures: Iterable[Failure], rating: _Rated, now_s: int) -> Failure:
    service = rating.candidate.service
    times = next((failure.times for failure in failures if failure.service == service), 0) + 1
    until_s = now_s + min(FAILED_S * 2 ** min(times - 1, 8), FAILED_S_MAX)
    return Failure(service=service, until_s=until_s, times=times, reason=rating.candidate.refusal)


def _rate(candidate: Candidate, graph: Graph, failure: Failure | None) -> _Rated:
    connection = candidate.connection
    if connection is None or candidate.objection:
        return _Rated(candidate=candidate, verdict=Verdict.DROPPED, reason=candidate.objection)
    placed = place(connection, graph, name="", owner="", excluded=candidate.excluded)
    if isinstance(placed, Unsatisfiable):
        verdict = Verdict.WAITING if candidate.carried else Verdict.UNSATISFIABLE
        nearness = BINDINGS.index(placed.binding) if verdict == Verdict.UNSATISFIABLE else 0
        reason = f"{placed.binding}: {placed.message}"
        return _Rated(candidate=candidate, verdict=verdict, reason=reason, nearness=nearness)
    doubt = candidate.doubt or (failure.reason if failure is not None else "")
    return _Rated(
        candidate=candidate,
        verdict=Verdict.WAITING if doubt else Verdict.FALL_BACK,
        reason=doubt,
        way=(*predicted(placed, graph), _domains(placed, graph)),
    )


def _domains(plan: Plan, graph: Graph) -> int:
    """That its traffic enters, as far as is known."""
    target, way = plan.connection.destination_domain, plan.egress
    if way is None or way.domain == target:
        return 0 if way is None else 1
    heard = graph.routes.get(heard_name(way.domain, target))
    return len(heard.route.path) if heard is not None else 2


def _considered(rating: _Rated) -> Considered:
    latency_us, cost, domains = rating.way or (None, None, None)
    return Considered(
        service=rating.candidate.service,
        verdict=rating.verdict,
        reason=rating.reason,
        latency_us=latency_us,
        cost=cost,
        domains=domains,
    )
