"""The driver of one OpenFlow switch: `sync(desired)` reads back, and writes only what differs."""

from collections.abc import Iterable, Iterator, Sequence

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


class OpenFlowTable:
    """Raises TargetUnreachable or TargetRejected, with the node's name in the text."""

    def __init__(self, node: str, connection: Connection) -> None:
        self.node = node
        self._connection = connection
        self._seen: dict[Key, Row] | None = None
        """What the switch had when it was last read or written; None: unknown."""
        self._foreign: dict[Key, Flow] = {}
        """Of what was read, that which no entry of ours can be: as the switch wrote it."""

    async def read(self) -> dict[Key, Row]:
        """All entries of all tables."""
        flows = await self._flows()
        rows: dict[Key, Row] = {}
        self._foreign = {}
        for flow in flows:
            row = parse(flow)
            if row.key[0] != TABLE or not _is_ours(row.key, flow):
                self._foreign[row.key] = flow
            rows[row.key] = row
        return rows

    async def flows(self) -> tuple[Flow, ...]:
        """All entries, with what they have counted."""
        return tuple(await self._flows())

    async def _flows(self) -> list[Flow]:
        body = await self._connection.request(messages.all_flows, ANSWER_S_MAX + len(self._seen or ()) / ENTRIES_S_MIN)
        try:
            return list(messages.flows(body))
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
        refused = [*unclear, *await self._apply(updates)]
        if refused:
            raise refusal(self.node, refused)
        return SyncReport(writes=written + len(updates), deviations=deviations(self.node, updates))

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
        first = self._connection.xids(len(updates))
        failures = await self._connection.write(self._made(updates, first, refused), first, len(updates))
        for place, failure in failures.items():
            update = updates[place]
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


def _is_ours(each: Key, flow: Flow) -> bool:
    """Whether its match is written by us as it stands there."""
    try:
        return compose_match(each) == flow.match
    except ValueError:
        return False
