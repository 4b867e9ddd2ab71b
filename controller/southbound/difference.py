"""What must be written so that a node has exactly what it shall have, and in which order.

Make before break on one node: first what is new, then what changes, then what goes. New entries before those that lead
to them; old ones after. P4Runtime leaves the order inside a batch to the target (§12), so each step is its own batch.
"""

import enum
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import assert_never

from controller.errors import TargetRejected
from controller.model.entry import OwnedEntry
from controller.model.event import Deviation
from controller.model.intent import Value
from controller.southbound.codec import Behaviour, Key, Row, behaviour, key, show
from controller.southbound.renumbering import Numbers, in_between
from dataplane.host_api import PartRefused

STEPS: tuple[tuple[str, ...], ...] = (
    ("next_hop", "neighbor", "path_liveness", "lease"),
    ("route", "sr_policy", "translate_source", "translate_destination"),
    ("steer",),
    ("flow_policy",),
    (
        "source_port_class",
        "destination_port_class",
        "source_group",
        "destination_group",
        "local_sid",
        "source_guard",
        "attachment",
        "punt_frame",
    ),
)
"""Tables, each after those that its entries lead to. Inside of a step the order does not matter: until all of the last
one is there, new traffic meets no permission yet. Each step is a round trip.
"""
BATCH = 1000
"""Updates of one WriteRequest."""
DEVIATIONS_TOLD = 200
"""Of one audit, each by itself: a node may say that it has whatever it likes."""


FAULTS_SHOWN = 5
"""Of a refused batch, and of each owner's part of it; the rest is counted."""


class Operation(enum.Enum):
    INSERT = "insert"
    MODIFY = "modify"
    DELETE = "delete"


class Update(Value, frozen=True, kw_only=True):
    operation: Operation
    key: Key
    entry: OwnedEntry | None
    """What shall be there; None: nothing."""
    does: Behaviour | None
    """What `entry` does."""
    row: Row | None
    """What was there; None: nothing."""

    @property
    def owner(self) -> str:
        return self.entry.owner if self.entry else ""


def index(entries: Iterable[OwnedEntry]) -> tuple[dict[Key, OwnedEntry], tuple[PartRefused, ...]]:
    """Where two entries claim one key, the first has it, and the other's owner is refused."""
    indexed: dict[Key, OwnedEntry] = {}
    refused = []
    for entry in entries:
        other = indexed.setdefault(key(entry), entry)
        if other is not entry and behaviour(other) != behaviour(entry):
            reason = f"{show(key(entry))}: {other.owner} and {entry.owner} want different things of it"
            refused.append(PartRefused(part=entry.owner, reason=reason))
    return indexed, tuple(refused)


def difference(desired: Mapping[Key, OwnedEntry], present: Mapping[Key, Row]) -> tuple[Update, ...]:
    """In no particular order; empty where the node is as it shall be."""
    updates = []
    for each, entry in desired.items():
        row, does = present.get(each), behaviour(entry)
        if row is None:
            updates.append(Update(operation=Operation.INSERT, key=each, entry=entry, does=does, row=None))
        elif row.behaviour != does:
            updates.append(Update(operation=Operation.MODIFY, key=each, entry=entry, does=does, row=row))
    updates += [
        Update(operation=Operation.DELETE, key=each, entry=None, does=None, row=row)
        for each, row in present.items()
        if each not in desired
    ]
    return tuple(updates)


def stages(
    desired: Mapping[Key, OwnedEntry],
    present: Mapping[Key, Row],
    updates: Sequence[Update] | None = None,
    numbers: Numbers | None = None,
) -> Iterator[tuple[Update, ...]]:
    """All that must be written, in batches, one after the other: packets meet each state in between. `updates`: the
    difference, `numbers`: those of `present`, where they are known."""
    updates = difference(desired, present) if updates is None else updates
    numbers = numbers or numbers_of(present.values())
    between = in_between(desired, present) if numbers.unsettled_by(map(change_of, updates)) else None
    if between is not None:
        yield from batches(difference(between, present))
        present = {each: Row(key=each, behaviour=behaviour(entry)) for each, entry in between.items()}
        updates = difference(desired, present)
    yield from batches(updates)


def numbers_of(rows: Iterable[Row]) -> Numbers:
    return Numbers((row.key, row.behaviour) for row in rows)


def change_of(update: Update) -> tuple[Key, Behaviour | None, Behaviour | None]:
    return update.key, update.row.behaviour if update.row is not None else None, update.does


def batches(updates: Iterable[Update], size: int = BATCH) -> Iterator[tuple[Update, ...]]:
    """In the order in which they must be written, one after the other."""
    steps: dict[tuple[Operation, int], list[Update]] = {}
    for update in updates:
        steps.setdefault((update.operation, _STEP_OF[update.key[0]]), []).append(update)
    forward = range(len(STEPS) + 1)
    order = [(operation, step) for operation in (Operation.INSERT, Operation.MODIFY) for step in forward]
    order += [(Operation.DELETE, step) for step in reversed(forward)]
    for place in order:
        step_updates = steps.get(place, [])
        for first in range(0, len(step_updates), size):
            yield tuple(step_updates[first : first + size])


class SyncReport(Value, frozen=True, kw_only=True):
    writes: int
    deviations: tuple[Deviation, ...]
    """What differed from what was read back. Drift only if nothing was meant to change; the caller knows."""


def refusal(node: str, refused: Sequence[PartRefused]) -> TargetRejected:
    """Of what a node refused, by owner."""
    by_owner: dict[str, list[PartRefused]] = {}
    for each in refused:
        by_owner.setdefault(each.part, []).append(each)
    return TargetRejected(
        f"node {node} refused {_first(refused)}",
        tuple(PartRefused(part=owner, reason=_first(by_owner[owner])) for owner in sorted(by_owner) if owner),
    )


def _first(refused: Sequence[PartRefused]) -> str:
    rest = f"; and {len(refused) - FAULTS_SHOWN} more" if len(refused) > FAULTS_SHOWN else ""
    return "; ".join(each.reason for each in refused[:FAULTS_SHOWN]) + rest


def deviations(node: str, updates: Sequence[Update]) -> tuple[Deviation, ...]:
    """The same differences, where there should have been none; of more than DEVIATIONS_TOLD the rest as one."""
    told = tuple(_deviation(node, update) for update in updates[:DEVIATIONS_TOLD])
    rest = len(updates) - len(told)
    if not rest:
        return told
    more = Deviation(node=node, what="changed", table="", detail=f"and {rest} entries more", owner=f"nodes/{node}")
    return (*told, more)


def _deviation(node: str, update: Update) -> Deviation:
    table = update.key[0]
    match update.operation:
        case Operation.INSERT:
            what, detail = "missing", show(update.key)
        case Operation.MODIFY:
            what, detail = "changed", show(update.key, update.row.behaviour if update.row else None)
        case Operation.DELETE:
            what, detail = "foreign", show(update.key, update.row.behaviour if update.row else None)
        case _:
            assert_never(update.operation)
    return Deviation(node=node, what=what, table=table, detail=detail, owner=update.owner)


class _Steps(dict[str, int]):
    def __missing__(self, table: str) -> int:
        """A table that a newer P4Info brings: nothing is known to lead to it, so it comes last."""
        return len(STEPS)


_STEP_OF = _Steps({table: step for step, tables in enumerate(STEPS) for table in tables})
