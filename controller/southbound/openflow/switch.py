"""The driver of one OpenFlow switch: `sync(desired)` reads back, and writes only what differs."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from controller.errors import TargetRejected
from controller.model.entry import OwnedEntry
from controller.model.node_entries import Delta
from controller.model.openflow import TABLE
from controller.southbound.codec import Key, Row, behaviour, key, show
from controller.southbound.difference import (
    Operation,
    SyncReport,
    Update,
    deviations,
    difference,
    index,
    refusal,
)
from controller.southbound.openflow import bulk, messages
from controller.southbound.openflow.connection import ANSWER_S_MAX, ENTRIES_S_MIN, Connection
from controller.southbound.openflow.flows import compose_match, marked, parse
from controller.southbound.openflow.messages import Flow, Malformed
from dataplane.host_api import PartRefused

T = TypeVar("T")
LARGE_OCTETS = 64 << 10
"""Of an answer that is not read in the event loop."""
TRIES = 3
"""What is written so often, and found to be otherwise each time, is told to its owner as refused."""


class OpenFlowTable:
    """Raises TargetUnreachable or TargetRejected, with the node's name in the text."""

    def __init__(self, node: str, connection: Connection) -> None:
        self.node = node
        self._connection = connection
        self._seen: dict[Key, Row] | None = None
        """What the switch had when it was last read or written; None: unknown."""
        self._written: set[Key] = set()
        """Since it was last read."""
        self._in_vain: dict[Key, int] = {}
        """What was written and then was not as it was written: how often in a row."""
        self._foreign: dict[Key, Flow] = {}
        """Of what was read, that which no entry of ours can be: as the switch wrote it."""

    async def read(self) -> dict[Key, Row]:
        """All entries of all tables."""
        rows, self._foreign = await self._read(_rows)
        return rows

    async def flows(self) -> tuple[Flow, ...]:
        """All entries, with what they have counted."""
        return await self._read(lambda body: tuple(messages.flows(body)))

    async def _read(self, understand: Callable[[bytes], T]) -> T:
        body = await self._connection.request(messages.all_flows, ANSWER_S_MAX + len(self._seen or ()) / ENTRIES_S_MIN)
        try:
            return await asyncio.to_thread(understand, body) if len(body) > LARGE_OCTETS else understand(body)
        except Malformed as exc:
            raise TargetRejected(f"node {self.node}: what it has cannot be read: {exc}") from exc

    async def sync(
        self, desired: Iterable[OwnedEntry], *, delta: Delta | None = None, read_back: bool = True
    ) -> SyncReport:
        """As P4RuntimeClient.sync."""
        if delta is not None and not read_back and self._seen is not None:
            put, unclear = index(map(marked, delta.put))
            gone = [key(entry) for entry in delta.gone]
            concerned = {each: row for each in (*put, *gone) if (row := self._seen.get(each)) is not None}
            updates = difference(put, concerned)
            if not unclear and not await self._apply(updates):
                return SyncReport(writes=len(updates), deviations=())
        indexed, unclear = index(map(marked, desired))
        written = 0
        if not read_back and self._seen is not None:
            updates = difference(indexed, self._seen)
            if not await self._apply(updates) and not unclear:
                return SyncReport(writes=len(updates), deviations=())
            written = len(updates)
        self._seen = await self.read()
        updates = difference(indexed, self._seen)
        refused = [*unclear, *self._not_done(updates), *await self._apply(updates)]
        if refused and any(update.operation is Operation.DELETE for update in updates):  # there may be room now
            self._seen = await self.read()
            rest = difference(indexed, self._seen)
            refused = [*unclear, *self._not_done(rest), *await self._apply(rest)]
        if refused:
            self._seen = None  # what it says that it has done is not to be relied on
            raise refusal(self.node, refused)
        return SyncReport(writes=written + len(updates), deviations=deviations(self.node, updates))

    def _not_done(self, updates: Sequence[Update]) -> list[PartRefused]:
        """What it took, and has not, however often. `updates`: what of it is not as it shall be."""
        self._in_vain = {
            update.key: self._in_vain.get(update.key, 0) + 1 for update in updates if update.key in self._written
        }
        self._written = set()
        why = f"was written {TRIES} times and is not so: the switch does not do what it takes, or others undo it"
        return [
            PartRefused(part=update.owner, reason=f"{update.operation.value} {show(update.key)} {why}")
            for update in updates
            if self._in_vain.get(update.key, 0) >= TRIES
        ]

    async def _apply(self, updates: Sequence[Update]) -> list[PartRefused]:
        """First what is new or other, then what goes. Returns what was refused, by owner; the rest is written."""
        seen, self._seen = self._seen, None
        refused: list[PartRefused] = []
        for removes in (False, True):
            batch = [update for update in updates if (update.operation is Operation.DELETE) == removes]
            if batch:
                refused += await self.write(batch)
        if seen is not None and not refused:
            for update in updates:
                if update.entry is None:
                    del seen[update.key]
                else:
                    seen[update.key] = Row(key=update.key, behaviour=behaviour(update.entry))
            self._seen = seen
        return refused

    async def write(self, updates: Sequence[Update]) -> list[PartRefused]:
        """All of them add, or all of them remove. Returns what was refused, by owner."""
        refused: list[PartRefused] = []
        self._written.update(update.key for update in updates)
        first = self._connection.xids(len(updates))
        failures = await self._connection.write(self._made(updates, first, refused), first, len(updates))
        for place, failure in failures.items():
            update = updates[place]
            self._written.discard(update.key)
            what = f"{update.operation.value} {show(update.key)} of {update.owner or 'nobody'}"
            refused.append(PartRefused(part=update.owner, reason=f"{what}: {failure}"))
        return refused

    def _made(self, updates: Sequence[Update], first: int, refused: list[PartRefused]) -> Iterator[bytes]:
        """In pieces: the switch writes one while the next is made. What is no flow entry is added to `refused`."""
        for begin in range(0, len(updates), bulk.PIECE):
            piece = updates[begin : begin + bulk.PIECE]
            try:
                yield self._encoded(piece, first + begin)
                continue
            except ValueError:
                pass  # one of them; the others are written
            for xid, update in enumerate(piece, first + begin):
                try:
                    yield self._encoded([update], xid)
                except ValueError as exc:
                    reason = f"{exc} (owner {update.owner or 'unknown'})"
                    refused.append(PartRefused(part=update.owner, reason=reason))

    def _encoded(self, updates: Sequence[Update], first: int) -> bytes:
        """Raises ValueError."""
        entries = [update.entry for update in updates if update.entry is not None]
        if entries:
            return bulk.encode(entries, first)
        flows = enumerate(map(self._removed, updates), first)
        return b"".join(messages.flow_mod(xid, messages.DELETE_STRICT, flow) for xid, flow in flows)

    def _removed(self, update: Update) -> Flow:
        if update.key in self._foreign:
            return self._foreign[update.key]._replace(instructions=b"")
        match = compose_match(update.key)
        return Flow(table_id=0, priority=update.key[2], match=match, instructions=b"", cookie=0)


def _rows(body: bytes) -> tuple[dict[Key, Row], dict[Key, Flow]]:
    """Of all entries; and those that none of ours can be, as the switch wrote them."""
    rows: dict[Key, Row] = {}
    foreign: dict[Key, Flow] = {}
    for flow in messages.flows(body):
        row = parse(flow)
        if row.key[0] != TABLE or not _is_ours(row.key, flow):
            foreign[row.key] = flow
        rows[row.key] = row
    return rows, foreign


def _is_ours(each: Key, flow: Flow) -> bool:
    """Whether its match is written by us as it stands there."""
    try:
        return compose_match(each) == flow.match
    except ValueError:
        return False
