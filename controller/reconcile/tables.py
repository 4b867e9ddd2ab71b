"""The tables of the state that grow with the number of intents: by which keys, and from when on, a step looks for what
is in them."""

import math
from collections.abc import Collection, Iterable, Mapping

from controller.fulfillment.carry import terms_in_force
from controller.model.course import Course, Session, Stage, Standing, Undertaking
from controller.model.persistent import PersistentMap

WAITS, ISOLATES = "waits", "isolates"
"""Intents of which something is tried again later; that isolate hosts."""
FOR_OTHERS, UNANSWERED, AROUND = "for others", "unanswered", "around"
"""Courses that carry what others ask for; of these, those whose offer is not answered; plans that were made around
links that were down."""


def node_key(name: str) -> str:
    return f"node {name}"


def link_key(name: str) -> str:
    """Of its candidate paths and borders."""
    return f"link {name}"


def peer_key(name: str) -> str:
    """On either side."""
    return f"peer {name}"


def network_key(name: str) -> str:
    """At either end; of an intent also that of which it isolates hosts."""
    return f"network {name}"


def courses(items: Mapping[str, Course] | Iterable[tuple[str, Course]] = ()) -> PersistentMap[Course]:
    """Due when a lease ends or is to be renewed, or a course has lingered."""
    return PersistentMap(items, keys=_course_keys, due=_course_due_s)


def undertakings(
    items: Mapping[str, Undertaking] | Iterable[tuple[str, Undertaking]] = (),
) -> PersistentMap[Undertaking]:
    return PersistentMap(items, keys=_undertaking_keys)


def awaiting(
    items: Mapping[str, dict[str, int]] | Iterable[tuple[str, dict[str, int]]] = (),
) -> PersistentMap[dict[str, int]]:
    """By node."""
    return PersistentMap(items, keys=_awaited_nodes)


def times(items: Mapping[str, float] | Iterable[tuple[str, float]] = ()) -> PersistentMap[float]:
    """Of each name when it is due."""
    return PersistentMap(items, due=float)


def _undertaking_keys(undertaking: Undertaking) -> Collection[str]:
    requirements, isolation = undertaking.requirements, undertaking.requirements.isolation
    keys = {network_key(one.source_network) for one in requirements.connections}
    keys |= {network_key(one.destination_network) for one in requirements.connections}
    if any(errand.retry_s for errand in undertaking.errands):
        keys.add(WAITS)
    if isolation is not None:
        keys |= {ISOLATES, network_key(isolation.network), *(node_key(host.node) for host in isolation.hosts)}
    return keys


def _awaited_nodes(awaited: dict[str, int]) -> Collection[str]:
    return awaited


def _course_keys(course: Course) -> Collection[str]:
    plan = course.plan
    links = {link for policy in plan.sr_policies for path in policy.candidate_paths for link in path.links}
    links |= {way.border for way in (plan.ingress, plan.egress) if way is not None}
    ends = (plan.connection.source_network, plan.connection.destination_network)
    keys = {*map(node_key, plan.nodes), *map(link_key, links), *map(network_key, ends), plan.owner}
    keys |= {peer_key(session.peer) for session in (course.upstream, course.downstream) if session is not None}
    if plan.around:
        keys.add(AROUND)
    if course.upstream is not None:
        keys.add(FOR_OTHERS)
        if course.upstream.standing.unanswered:
            keys.add(UNANSWERED)
    return keys


def _course_due_s(course: Course) -> float:
    sessions = [session for session in (course.upstream, course.downstream) if session is not None]
    ends_s = [math.inf, *((terms_in_force(session) or session.terms).expires_s for session in sessions)]
    if course.stage == Stage.LINGERING:
        ends_s.append(course.until_s)
    if course.upstream is None and course.stage == Stage.ACTIVE and course.downstream is not None:
        ends_s.append(renewal_s(course.downstream))
    return min(ends_s)


def renewal_s(session: Session) -> float:
    """When half of what was left when we last asked has passed."""
    if session.standing != Standing.AGREED or session.agreement is None:
        return math.inf
    return session.since_s + (session.agreement.terms.expires_s - session.since_s) / 2
