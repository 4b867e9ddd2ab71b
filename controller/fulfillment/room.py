"""What the tables of the nodes have room for, and what a plan needs of it in the end."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from controller.fulfillment.rules import MAX_CLASS, port_ranges
from controller.model.agreement import Agreement, Envelope
from controller.model.course import Course, Session, Stage, Standing
from controller.model.intent import Value
from controller.model.requirements import Unsatisfiable

TABLE_SIZES = {
    "attachment": 1024,
    "punt_frame": 64,
    "source_guard": 16384,
    "local_sid": 4096,
    "source_group": 16384,
    "destination_group": 16384,
    "source_port_class": 1024,
    "destination_port_class": 1024,
    "flow_policy": 16384,
    "lease": 32768,
    "steer": 32768,
    "path_liveness": 4096,
    "sr_policy": 16384,
    "route": 16384,
    "next_hop": 4096,
}
"""Entries that each table holds, by the P4Info."""
NEVER_FULL = frozenset(("source_port_class", "destination_port_class"))
"""All contexts share the entries of these: at most one for each of MAX_CLASS classes."""


class Shortage(Value, frozen=True, kw_only=True):
    """Too little of something."""

    what: Unsatisfiable
    node: str = ""
    """Where; empty: everywhere."""


def table_shortage(table: str, node: str, needed: int) -> Shortage:
    message = f"table {table} of {node} holds {TABLE_SIZES[table]} entries; {needed} would be needed"
    return Shortage(what=Unsatisfiable(binding="capacity", message=message), node=node)


def _port_ranges(courses: Iterable[Course]) -> int:
    return len(port_ranges({ports for one in courses for flow in one.plan.connection.flows for ports in flow.ports}))


def port_part(courses: Sequence[Course], theirs: Sequence[Course]) -> float:
    """The part of all port ranges that `theirs`, some of `courses`, have: their own, or those that there would not be
    without them, since they cut others' in pieces."""
    names = {one.plan.name for one in theirs}
    without = _port_ranges(one for one in courses if one.plan.name not in names)
    return max(_port_ranges(theirs), _port_ranges(courses) - without) / MAX_CLASS


def port_shortage(courses: Iterable[Course]) -> Shortage | None:
    if (count := _port_ranges(courses)) <= MAX_CLASS:
        return None
    message = f"the ports of all that is carried make {count} different ranges; {MAX_CLASS} can be told apart"
    return Shortage(what=Unsatisfiable(binding="port_classes", message=message))


_BLANK = Envelope(version=0, kind="", payload=b"", signature=b"")


def in_the_end(course: Course) -> Course:
    """As if all that is negotiated were agreed, and all of it installed and in use, free of what changes on the way
    there and with renewals. What goes is as it is."""
    if course.stage in (Stage.REMOVING, Stage.LINGERING):
        return course
    return Course(
        plan=course.plan,
        serial=course.serial,
        slots=course.slots,
        stage=Stage.ACTIVE,
        upstream=_agreed(course.upstream),
        downstream=_agreed(course.downstream),
        expires_s=None if course.expires_s is None else 0,
    )


def _agreed(session: Session | None) -> Session | None:
    """As acceptor's end it has the offeror's: a SID that leads somewhere else than all others."""
    if session is None:
        return None
    terms = msgspec.structs.replace(session.terms, revision=0, not_before_s=0, expires_s=0, mandate=_BLANK)
    agreement = Agreement(terms=terms, acceptor_end=terms.offeror_end, latency_us=0, offer=_BLANK, acceptance=_BLANK)
    return Session(
        peer=session.peer,
        offeror=session.offeror,
        standing=Standing.AGREED,
        terms=terms,
        offer=_BLANK,
        agreement=agreement,
        since_s=0,
    )


Entries = Mapping[str, Counter[tuple[str, str]]]
"""Of each node, how many by table and owner."""


def shortage(entries: Entries, nodes: Collection[str]) -> Shortage | None:
    """The first table of one of these nodes that has more entries than room."""
    for node in sorted(entries.keys() & nodes):
        tables: Counter[str] = Counter()
        for (table, _), count in entries[node].items():
            tables[table] += count
        for table, needed in sorted(tables.items()):
            if needed > TABLE_SIZES[table]:
                return table_shortage(table, node, needed)
    return None


def largest_part(entries: Entries, nodes: Collection[str], owners: Collection[str]) -> tuple[float, str]:
    """The largest part of a table that these owners have (1: all of it), and which table it is."""
    found = (0.0, "")
    for node in sorted(entries.keys() & nodes):
        tables: Counter[str] = Counter()
        for (table, owner), count in entries[node].items():
            tables[table] += count if owner in owners else 0
        for table, count in tables.items():
            found = max(found, (count / TABLE_SIZES[table], f"table {table} of {node}"))
    return found
