"""What the tables of the nodes have room for, and what a plan needs of it in the end."""

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import immutables
import msgspec

from controller.fulfillment.acl import port_ranges
from controller.model.agreement import Agreement, Alias, Envelope
from controller.model.intent import Value
from controller.model.requirements import Unsatisfiable
from controller.model.stitch import Session, Stage, Standing, Stitch

Profiles = Mapping[str, Mapping[str, int]]
"""Of each node how many entries each of its tables holds, as it has said. What nobody has said has room."""
K = TypeVar("K", bound=Hashable)
_PORTS = ("source_port_class", "destination_port_class")
_UNKNOWN = 1 << 30
AGREEMENTS = "agreements/"
"""Before the id of one, in the owner of what it has us carry."""


class Shortage(Value, frozen=True, kw_only=True):
    """Too little of something."""

    what: Unsatisfiable
    node: str = ""
    """Where; empty: everywhere."""


def _size(profiles: Profiles, node: str, table: str) -> int:
    return profiles.get(node, {}).get(table, _UNKNOWN)


def table_shortage(table: str, node: str, needed: int, profiles: Profiles) -> Shortage:
    size = _size(profiles, node, table)
    holds = f"holds {size} entries" if size < _UNKNOWN else "cannot be made"
    message = f"table {table} of {node} {holds}; {needed} would be needed"
    return Shortage(what=Unsatisfiable(binding="capacity", message=message), node=node)


def _port_ranges(stitches: Iterable[Stitch]) -> int:
    flows = (flow for stitch in stitches for flow in stitch.plan_to_be.connection.flows)
    return len(port_ranges({ports for flow in flows for ports in flow.ports}))


def port_part(
    stitches: Sequence[Stitch], theirs: Sequence[Stitch], nodes: Collection[str], profiles: Profiles
) -> tuple[float, str]:
    """The largest part of the port ranges of one of these nodes that `theirs`, some of `stitches`, have: their own, or
    those that there would not be without them, since they cut others' in pieces."""
    names = {stitch.plan.name for stitch in theirs}
    largest = (0.0, "")
    for node in sorted(nodes):
        here = [stitch for stitch in stitches if node in _ends(stitch)]
        mine = [stitch for stitch in here if stitch.plan.name in names]
        without = _port_ranges(stitch for stitch in here if stitch.plan.name not in names)
        ranges = max(_port_ranges(mine), _port_ranges(here) - without)
        size = min(_size(profiles, node, table) for table in _PORTS)
        largest = max(largest, (ranges / size, f"the port ranges that {node} can tell apart"))
    return largest


def _ends(stitch: Stitch) -> set[str]:
    return set(stitch.plan_to_be.ends)


_BLANK = Envelope(version=0, kind="", payload=b"", signature=b"")


def in_the_end(stitch: Stitch) -> Stitch:
    """As if all that is negotiated were agreed, and all of it installed and in use, free of what changes on the way
    there and with renewals. What goes is as it is."""
    if _goes(stitch):
        return stitch
    return Stitch(
        plan=stitch.plan_to_be,
        serial=stitch.serial,
        ids=stitch.ids,
        stage=Stage.ACTIVE,
        upstream=_agreed(stitch.upstream),
        downstream=_agreed(stitch.downstream),
        expires_s=None if stitch.expires_s is None else 0,
    )


def needs_the_same(before: Stitch, now: Stitch) -> bool:
    """Whether `in_the_end` makes the same of two versions of one stitch, as far as that is seen at once: of most that
    moves on, only the stage is other."""
    return (
        before.plan is now.plan
        and before.wanted is now.wanted
        and before.upstream is now.upstream
        and before.downstream is now.downstream
        and before.expires_s == now.expires_s
        and (before.serial, before.ids) == (now.serial, now.ids)
        and _goes(before) == _goes(now)
        and (before.stage == now.stage or not _goes(now))
    )


def _goes(stitch: Stitch) -> bool:
    return stitch.stage in (Stage.REMOVING, Stage.LINGERING)


def _agreed(session: Session | None) -> Session | None:
    """As acceptor's end it has the offeror's: a SID that leads somewhere else than all others."""
    if session is None:
        return None
    blank = {"revision": 0, "flows": (), "not_before_s": 0, "expires_s": 0, "mandate": _BLANK}
    terms = msgspec.structs.replace(session.terms, **blank)
    agreement = Agreement(
        terms=terms,
        acceptor_end=terms.offeror_end,
        latency_us=0,
        source_aliases=_likely_aliases(session),
        offer=_BLANK,
        acceptance=_BLANK,
    )
    return Session(
        peer=session.peer,
        offeror=session.offeror,
        standing=Standing.AGREED,
        terms=terms,
        offer=_BLANK,
        agreement=agreement,
        since_s=0,
    )


def _likely_aliases(session: Session) -> tuple[Alias, ...]:
    """Until the acceptor has said: as many as it can have, where we know it under others too."""
    if session.agreement is not None:
        return session.agreement.source_aliases
    if not session.terms.destination_aliases:
        return ()
    return tuple(Alias(prefix=prefix, alias=prefix) for prefix in session.terms.source_prefixes)


class Counts(NamedTuple):
    """How many entries of each table a node would have."""

    tables: "immutables.Map[str, int]" = immutables.Map()
    owned: "immutables.Map[tuple[str, str], int]" = immutables.Map()
    """By table and owner, of what is carried for other domains: nobody asks how much one intent of ours takes."""

    def changed(self, gone: Iterable[Counter[tuple[str, str]]], new: Iterable[Counter[tuple[str, str]]]) -> "Counts":
        tables, owned = self.tables, self.owned
        for counts, sign in (*((counter, -1) for counter in gone), *((counter, 1) for counter in new)):
            for (table, owner), count in counts.items():
                tables = _more(tables, table, sign * count)
                if owner.startswith(AGREEMENTS):
                    owned = _more(owned, (table, owner), sign * count)
        return Counts(tables, owned)


def _more(numbers: "immutables.Map[K, int]", key: K, count: int) -> "immutables.Map[K, int]":
    total = numbers.get(key, 0) + count
    return numbers.set(key, total) if total else numbers.delete(key)


Entries = Mapping[str, Counts]
"""Of each node."""


def shortage(
    entries: Entries, nodes: Collection[str], profiles: Profiles, before: Entries | None = None
) -> Shortage | None:
    """The first table of one of these nodes that has more entries than room. `before`: what is not more than there is
    short of nothing by what is new."""
    for node in sorted(entries.keys() & nodes):
        earlier = before.get(node, Counts()) if before is not None else Counts()
        for table, needed in sorted(entries[node].tables.items()):
            if needed > max(_size(profiles, node, table), earlier.tables.get(table, 0)):
                return table_shortage(table, node, needed, profiles)
    return None


def largest_part(
    entries: Entries, nodes: Collection[str], owners: Collection[str], profiles: Profiles
) -> tuple[float, str]:
    """The largest part of a table that these agreements have (1: all of it), and which table it is."""
    largest = (0.0, "")
    for node in sorted(entries.keys() & nodes):
        owned = entries[node].owned
        for table in entries[node].tables:
            count = sum(owned.get((table, owner), 0) for owner in owners) if table not in _PORTS else 0
            largest = max(largest, (count / _size(profiles, node, table), f"table {table} of {node}"))
    return largest
