"""The driver of one node's tables over P4Runtime: `sync(desired)` reads back, and writes only what differs."""

import asyncio
import hashlib
import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TypeAlias, TypeVar

import grpc
from finsy.proto import U128, p4i, p4r, rpc_code, rpc_status
from google.protobuf.message import DecodeError, Message

from controller.errors import TargetRejected, TargetUnreachable
from controller.model.entry import OwnedEntry
from controller.model.node_entries import Delta
from controller.southbound.codec import Codec, Key, Row, key, show
from controller.southbound.difference import (
    Operation,
    SyncReport,
    Update,
    change_of,
    deviations,
    difference,
    index,
    numbers_of,
    refusal,
    stages,
)
from controller.southbound.renumbering import Numbers
from dataplane.host_api import CounterSample, PartRefused
from dataplane.p4runtime.codec import bytestring
from dataplane.p4runtime.p4info import differences

SERVICE = "p4.v1.P4Runtime"
DEVICE_ID = 1
"""Of an agent of ours."""
LARGEST_ELECTION_ID = 2**128 - 1
UNARY_S_MAX = 5.0
PIPELINE_S_MAX = 20.0
READ_S_MAX = 10.0
LARGE_BYTES = 64 << 10
"""Of an answer that is not read in the event loop."""
SIZE_MAX = 1 << 20
"""Of a table or counter, and of all tables together: what a node says to have room for is what it may fill."""
ENTRIES_S_MIN = 200.0
"""An agent that has hardly any time reads and writes so many: deadlines grow with what is asked, so that a large table
is neither out of reach for ever nor an answer without end.
"""
MANY = 10_000
"""Entries that are not compared in the event loop."""
TURN = 5
"""Audits until another table is read whatever its digest."""
TEXT_MAX = 1000
"""Characters of what a node says why it refuses something."""
UNREACHABLE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)

_TYPES = {
    Operation.INSERT: p4r.Update.INSERT,
    Operation.MODIFY: p4r.Update.MODIFY,
    Operation.DELETE: p4r.Update.DELETE,
}
_Stream: TypeAlias = "grpc.aio.StreamStreamCall[p4r.StreamMessageRequest, bytes]"
_Answer = TypeVar("_Answer", bound=Message)
_Result = TypeVar("_Result")


def cookie(p4info: p4i.P4Info, program: bytes = b"") -> int:
    """64 bits that say which P4Info and program it is (P4Runtime §6.5.1: the client's to choose)."""
    return int.from_bytes(hashlib.sha256(p4info.SerializeToString(deterministic=True) + program).digest()[:8], "big")


class P4RuntimeClient:
    """Raises TargetUnreachable or TargetRejected, with the node's name in the text."""

    def __init__(
        self,
        node: str,
        channel: grpc.aio.Channel,
        codec: Codec,
        election_id: int,
        device_id: int = DEVICE_ID,
        program: bytes = b"",
    ) -> None:
        """`program`: what a target that brings none is to run; it depends on the target."""
        self.node = node
        self._device_id = device_id
        self._program = program
        self._codec = codec
        self._election_id = election_id
        # answers come as bytes: grpc gives None for what it cannot decode
        self._stream_call: grpc.aio.StreamStreamMultiCallable[p4r.StreamMessageRequest, bytes]
        self._stream_call = channel.stream_stream(
            f"/{SERVICE}/StreamChannel", p4r.StreamMessageRequest.SerializeToString
        )
        self._get_pipeline: grpc.aio.UnaryUnaryMultiCallable[p4r.GetForwardingPipelineConfigRequest, bytes]
        self._get_pipeline = channel.unary_unary(
            f"/{SERVICE}/GetForwardingPipelineConfig", p4r.GetForwardingPipelineConfigRequest.SerializeToString
        )
        self._set_pipeline: grpc.aio.UnaryUnaryMultiCallable[p4r.SetForwardingPipelineConfigRequest, bytes]
        self._set_pipeline = channel.unary_unary(
            f"/{SERVICE}/SetForwardingPipelineConfig", p4r.SetForwardingPipelineConfigRequest.SerializeToString
        )
        self._write: grpc.aio.UnaryUnaryMultiCallable[p4r.WriteRequest, bytes]
        self._write = channel.unary_unary(f"/{SERVICE}/Write", p4r.WriteRequest.SerializeToString)
        self._read: grpc.aio.UnaryStreamMultiCallable[p4r.ReadRequest, bytes]
        self._read = channel.unary_stream(f"/{SERVICE}/Read", p4r.ReadRequest.SerializeToString)
        self._stream: _Stream | None = None
        self._sizes: dict[str, int] = {}
        """Of tables and counters, as the node has said."""
        self._seen: dict[Key, Row] | None = None
        """What the node had when it was last read or written; None: unknown."""
        self._numbers: Numbers | None = None
        """Of these; None: not counted yet."""
        self._wanted: dict[Key, OwnedEntry] | None = None
        """What it was to have when it was last synced; None: not clear."""
        self._verified: dict[str, bytes] = {}
        """By table, the digest with which it was read and found to be as it shall be."""
        self._settled: Iterable[OwnedEntry] | None = None
        """What the node was last seen to have exactly, and nothing else."""
        self._turns = itertools.count()
        fields = {field.name: field.id for field in codec.p4info.packet_in}
        self._ingress_port = fields["ingress_port"]

    async def become_primary(self) -> None:
        """Opens the stream and asks to lead (P4Runtime §5)."""
        self._stream = stream = self._stream_call()
        try:
            async with asyncio.timeout(UNARY_S_MAX):
                await stream.write(self._arbitration())
                while (data := await stream.read()) is not grpc.aio.EOF:
                    response = self._decoded(p4r.StreamMessageResponse, data)
                    if not response.HasField("arbitration"):
                        continue
                    if response.arbitration.status.code != rpc_code.NOT_FOUND:
                        self._check_primary(response.arbitration)
                        return
                    # Nobody leads, but somebody with a higher id once did: our clock was ahead then (§5.3).
                    # After the largest one there is no higher, but the same one leads where nobody does.
                    highest = U128.decode(response.arbitration.election_id)
                    if self._election_id > highest or self._election_id == LARGEST_ELECTION_ID:
                        raise TargetUnreachable(
                            f"node {self.node}: nobody leads it, and it does not let us (election id "
                            f"{self._election_id}, the highest it knows is {highest})"
                        )
                    self._election_id = min(highest + 1, LARGEST_ELECTION_ID)
                    await stream.write(self._arbitration())
        except TimeoutError as exc:
            raise TargetUnreachable(f"node {self.node}: no answer to the arbitration in {UNARY_S_MAX:.0f} s") from exc
        except grpc.aio.AioRpcError as exc:
            raise self._translated("arbitration", exc) from exc
        raise TargetUnreachable(f"node {self.node}: closed the stream instead of answering the arbitration")

    async def hold(self, punted: Callable[[int, bytes], None] = lambda port, frame: None) -> None:
        """Never returns: raises TargetUnreachable when the stream ends or another controller leads.

        `punted`: takes what comes in by packet-in, with the port by which it came into the node."""
        if self._stream is None:
            raise TargetUnreachable(f"node {self.node}: there is no stream yet")
        try:
            while (data := await self._stream.read()) is not grpc.aio.EOF:
                response = self._decoded(p4r.StreamMessageResponse, data)
                if response.HasField("arbitration"):
                    self._check_primary(response.arbitration)
                elif response.HasField("packet"):
                    metadata = {item.metadata_id: int.from_bytes(item.value) for item in response.packet.metadata}
                    punted(metadata.get(self._ingress_port, 0), response.packet.payload)
        except grpc.aio.AioRpcError as exc:
            raise self._translated("stream", exc) from exc
        raise TargetUnreachable(f"node {self.node}: closed the stream")

    async def send(self, port: int, frame: bytes) -> None:
        """By packet-out. What a port does not take is lost, as on any cable."""
        if self._stream is None:
            raise TargetUnreachable(f"node {self.node}: there is no stream yet")
        (field,) = self._codec.p4info.packet_out
        request = p4r.StreamMessageRequest()
        request.packet.payload = frame
        request.packet.metadata.add(metadata_id=field.id, value=bytestring(port))
        try:
            await self._stream.write(request)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as exc:
            raise TargetUnreachable(f"node {self.node}: the stream takes nothing more") from exc

    def close(self) -> None:
        if self._stream is not None:
            self._stream.cancel()

    async def ensure_pipeline(self) -> dict[str, int]:
        """Pushes our P4Info only where the node has another, and so that what fits stays. Returns how large the node
        says that its tables and counters are."""
        ours = self._codec.p4info.message
        try:
            present = await self._pipeline()
        except grpc.aio.AioRpcError as exc:
            if exc.code() is not grpc.StatusCode.FAILED_PRECONDITION:  # it has none yet
                raise self._translated("reading its pipeline", exc) from exc
            present = p4r.ForwardingPipelineConfig()
        runs_ours = not self._program or present.cookie.cookie == cookie(ours, self._program)
        if runs_ours and not differences(ours, present.p4info):
            return self._take_sizes(present.p4info)
        actions = p4r.SetForwardingPipelineConfigRequest
        try:
            if self._program:  # BMv2 with PI dc9c75f crashes when it is to reconcile
                await self._push(actions.VERIFY_AND_COMMIT)
            else:
                await self._push(actions.RECONCILE_AND_COMMIT)
        except grpc.aio.AioRpcError as exc:
            raise self._translated("setting its pipeline", exc) from exc
        try:
            return self._take_sizes((await self._pipeline()).p4info)
        except grpc.aio.AioRpcError as exc:
            raise self._translated("reading its pipeline", exc) from exc

    def _take_sizes(self, p4info: p4i.P4Info) -> dict[str, int]:
        """Of tables and counters."""
        sizes = {table.preamble.alias: table.size for table in p4info.tables}
        sizes |= {counter.preamble.alias: counter.size for counter in p4info.counters}
        for name, size in sizes.items():
            if not 0 <= size <= SIZE_MAX:
                raise TargetRejected(f"node {self.node}: {name} has room for {size}; at most {SIZE_MAX} can be")
        self._sizes = sizes
        return sizes

    async def _pipeline(self) -> p4r.ForwardingPipelineConfig:
        get = p4r.GetForwardingPipelineConfigRequest(
            device_id=self._device_id, response_type=p4r.GetForwardingPipelineConfigRequest.P4INFO_AND_COOKIE
        )
        data = await self._get_pipeline(get, timeout=UNARY_S_MAX)
        return self._decoded(p4r.GetForwardingPipelineConfigResponse, data).config

    async def _push(self, action: p4r.SetForwardingPipelineConfigRequest.Action.ValueType) -> None:
        request = p4r.SetForwardingPipelineConfigRequest(
            device_id=self._device_id, election_id=U128.encode(self._election_id), action=action
        )
        request.config.p4info.CopyFrom(self._codec.p4info.message)
        request.config.p4_device_config = self._program
        request.config.cookie.cookie = cookie(self._codec.p4info.message, self._program)
        await self._set_pipeline(request, timeout=PIPELINE_S_MAX)

    def _arbitration(self) -> p4r.StreamMessageRequest:
        request = p4r.StreamMessageRequest()
        request.arbitration.device_id = self._device_id
        request.arbitration.election_id.CopyFrom(U128.encode(self._election_id))
        return request

    async def read(self, tables: Collection[str] | None = None) -> dict[Key, Row]:
        """All entries of these tables; None: of all."""
        request = p4r.ReadRequest(device_id=self._device_id)
        names = self._codec.p4info.table_by_name
        for table_id in [0] if tables is None else [names[table].id for table in tables]:
            request.entities.add().table_entry.table_id = table_id  # P4Runtime §11.1: 0 is all
        rows: dict[Key, Row] = {}
        room = sum(self._sizes.get(name, table.size) + 1 for name, table in names.items())  # with its default entry
        left = min(room, SIZE_MAX)
        expected = len(self._seen or ())
        clock = asyncio.get_running_loop().time
        began_s = clock()
        try:
            async with asyncio.timeout(READ_S_MAX + expected / ENTRIES_S_MIN) as deadline:
                async for data in self._read(request):
                    if len(data) > LARGE_BYTES:
                        left -= await asyncio.to_thread(self._take, data, rows, left)
                    else:
                        left -= self._take(data, rows, left)
                    deadline.reschedule(began_s + READ_S_MAX + max(expected, len(rows)) / ENTRIES_S_MIN)
        except TimeoutError as exc:
            waited_s = clock() - began_s
            raise TargetUnreachable(f"node {self.node}: only {len(rows)} entries read within {waited_s:.0f} s") from exc
        except grpc.aio.AioRpcError as exc:
            raise self._translated("reading its tables", exc) from exc
        return rows

    def _take(self, data: bytes, rows: dict[Key, Row], most: int) -> int:
        """How many entries were in it."""
        entities = self._decoded(p4r.ReadResponse, data).entities
        if len(entities) > most:
            raise TargetRejected(f"node {self.node}: it has more entries than its tables have room for")
        for entity in entities:
            if entity.HasField("table_entry") and not entity.table_entry.is_default_action:
                row = self._codec.parse(entity.table_entry)
                if row.key in rows:
                    raise TargetRejected(f"node {self.node}: it has an entry twice: {show(row.key)}")
                rows[row.key] = row
        return len(entities)

    async def read_counter(self, name: str) -> tuple[CounterSample, ...]:
        """All cells of an indirect counter of the P4Info that are not zero. Raises KeyError for an unknown one."""
        counter = {counter.name: counter for counter in self._codec.p4info.counters}[name]
        request = p4r.ReadRequest(device_id=self._device_id)
        size = self._sizes.get(name, counter.size)
        request.entities.add().counter_entry.counter_id = counter.id  # P4Runtime §11.1: no index: all cells
        samples: dict[int, CounterSample] = {}
        left = size
        try:
            async for data in self._read(request, timeout=READ_S_MAX):
                entities = self._decoded(p4r.ReadResponse, data).entities
                left -= len(entities)
                if left < 0:
                    raise TargetRejected(f"node {self.node}: {name} has not as many cells as it says")
                for entity in entities:
                    cell = entity.counter_entry
                    sample = (cell.index.index, cell.data.packet_count, cell.data.byte_count)
                    if not 0 <= sample[0] < size or min(sample) < 0:
                        raise TargetRejected(f"node {self.node}: {name} has no such cells: {sample}")
                    if any(sample[1:]):
                        samples[sample[0]] = CounterSample(index=sample[0], packets=sample[1], bytes=sample[2])
        except grpc.aio.AioRpcError as exc:
            raise self._translated(f"reading {name}", exc) from exc
        return tuple(samples.values())

    async def sync(
        self,
        desired: Iterable[OwnedEntry],
        *,
        delta: Delta | None = None,
        read_back: bool = True,
        digests: Mapping[str, bytes] | None = None,
    ) -> SyncReport:
        """The node has exactly `desired` on return. TargetRejected names each entry that it refused, and its owner.

        What is refused does not keep the rest from being written. Without `read_back` the difference is to what the
        node was last seen to have; where it turns out to have something else, it is read after all. With `digests`,
        which the node gave before, only tables are read whose digest is another than when they were last as they shall
        be; and, now and then, one in turn.

        `delta`: but for that, `desired` is what was synced last, so nothing else is looked at.
        """
        if delta is not None and not read_back and (writes := await self._change(delta)) is not None:
            return SyncReport(writes=writes, deviations=())
        stale = self._stale(digests) if read_back else None
        if stale is not None and not stale and desired is self._settled:
            return SyncReport(writes=0, deviations=())
        indexed, unclear = index(desired)
        self._wanted = None if unclear else indexed
        written = 0
        if not read_back and self._seen is not None:
            updates = difference(indexed, self._seen)
            if not await self._apply(indexed, self._seen, updates) and not unclear:
                return SyncReport(writes=len(updates), deviations=())
            written = len(updates)
        present = await self._read_back(stale)
        updates = await _aside(len(present), lambda: difference(indexed, present))
        refused = [*unclear, *await self._apply(indexed, present, updates)]
        if refused:
            raise refusal(self.node, refused)
        wrong = {update.key[0] for update in updates}
        self._verified = {table: digest for table, digest in (digests or {}).items() if table not in wrong}
        self._settled = None if updates else desired
        return SyncReport(writes=written + len(updates), deviations=deviations(self.node, updates))

    async def _change(self, delta: Delta) -> int | None:
        """How much was written; None: all of it has to be looked at."""
        if self._seen is None or self._wanted is None:
            return None
        put, unclear = index(delta.put)
        gone = {key(entry) for entry in delta.gone}
        wanted, self._wanted = self._wanted, None
        wanted.update(put)
        for each in gone:
            wanted.pop(each, None)
        updates = difference(put, {each: row for each in (*put, *gone) if (row := self._seen.get(each)) is not None})
        if unclear or await self._apply(wanted, self._seen, updates):
            return None
        self._wanted = wanted
        return len(updates)

    def _stale(self, digests: Mapping[str, bytes] | None) -> set[str] | None:
        """Tables that must be read to know what the node has; None: all."""
        names = self._codec.p4info.table_by_name
        if digests is None or self._seen is None or digests.keys() != names.keys():
            return None
        turn, rest = divmod(next(self._turns), TURN)
        in_turn = sorted(names)[turn % len(names)] if rest == 0 else ""
        return {table for table in names if table == in_turn or self._verified.get(table) != digests[table]}

    async def _read_back(self, stale: Collection[str] | None) -> dict[Key, Row]:
        """What the node has."""
        seen = self._seen
        if stale is None or seen is None:
            return await self.read()
        present = {each: row for each, row in seen.items() if each[0] not in stale}
        return present | await self.read(stale) if stale else present

    async def _apply(
        self, desired: Mapping[Key, OwnedEntry], present: dict[Key, Row], updates: Sequence[Update]
    ) -> list[PartRefused]:
        """Writes what differs in order. Returns what was refused, by owner. `updates`: the difference."""
        seen, numbers = ({**present}, None) if present is not self._seen else (present, self._numbers)
        if numbers is None and updates:
            numbers = await _aside(len(present), lambda: numbers_of(present.values()))
        self._seen = self._settled = self._numbers = None
        for update in updates:
            self._verified.pop(update.key[0], None)
        refused: list[PartRefused] = []
        for batch in await _aside(len(updates), lambda: tuple(stages(desired, present, updates, numbers))):
            refused += await self.write(batch)
        if not refused:
            await _aside(len(updates), lambda: _written(updates, seen, numbers))
            self._seen, self._numbers = seen, numbers
        return refused

    async def write(self, updates: Sequence[Update]) -> list[PartRefused]:
        """One batch. Returns what was refused, one an update, by owner; the others are written."""
        request = p4r.WriteRequest(device_id=self._device_id, election_id=U128.encode(self._election_id))
        refused: list[PartRefused] = []
        sent: list[Update] = []
        for update in updates:
            try:
                if update.does is not None:
                    entry = self._codec.compose_row(update.key, update.does)
                else:
                    entry = self._codec.compose_key(update.key)
            except ValueError as exc:
                refused.append(PartRefused(part=update.owner, reason=f"{exc} (owner {update.owner or 'unknown'})"))
                continue
            message = request.updates.add(type=_TYPES[update.operation])
            message.entity.table_entry.CopyFrom(entry)
            sent.append(update)
        if not sent:
            return refused
        try:
            await self._write(request, timeout=UNARY_S_MAX + len(sent) / ENTRIES_S_MIN)
        except grpc.aio.AioRpcError as exc:
            faults = _faults(exc, len(sent))
            if faults is None:
                raise self._translated("writing its tables", exc) from exc
            for update, fault in zip(sent, faults, strict=True):
                if (code := _code(fault)) != "ok":
                    what = f"{update.operation.value} {_shown(update)} of {update.owner or 'nobody'}"
                    refused.append(PartRefused(part=update.owner, reason=f"{what}: {code} {fault.message[:TEXT_MAX]}"))
        return refused

    def _check_primary(self, arbitration: p4r.MasterArbitrationUpdate) -> None:
        """Status OK: we lead; else there is another with a higher election id (P4Runtime §5.3)."""
        if arbitration.status.code != rpc_code.OK:
            leader = U128.decode(arbitration.election_id)
            raise TargetUnreachable(
                f"node {self.node}: another controller leads it (election id {leader}, ours {self._election_id}); "
                "stop one of the two"
            )

    def _decoded(self, kind: type[_Answer], data: bytes) -> _Answer:
        answer = kind()
        try:
            answer.ParseFromString(data)  # type: ignore[no-untyped-call]
        except DecodeError as exc:
            raise TargetRejected(f"node {self.node}: what it answers is no {kind.__name__}") from exc
        return answer

    def _translated(self, doing: str, exc: grpc.aio.AioRpcError) -> TargetUnreachable | TargetRejected:
        text = f"node {self.node}: {doing}: {exc.code().name.lower()}: {(exc.details() or '')[:TEXT_MAX]}"
        return TargetUnreachable(text) if exc.code() in UNREACHABLE else TargetRejected(text)


async def _aside(entries: int, work: Callable[[], _Result]) -> _Result:
    """In a thread, where it takes long."""
    return await asyncio.to_thread(work) if entries > MANY else work()


def _written(updates: Iterable[Update], seen: dict[Key, Row], numbers: Numbers | None) -> None:
    """Notes what the node has now."""
    for update in updates:
        if numbers is not None:
            numbers.change(*change_of(update))
        if update.does is None:
            del seen[update.key]
        else:
            seen[update.key] = Row(key=update.key, behaviour=update.does)


def _faults(exc: grpc.aio.AioRpcError, count: int) -> list[p4r.Error] | None:
    """One for each update, OK or not (P4Runtime §12.3); None where the whole request failed."""
    for name, value in exc.trailing_metadata() or ():
        if name == "grpc-status-details-bin" and isinstance(value, bytes):
            try:
                details = rpc_status.Status.FromString(value).details
                return [p4r.Error.FromString(each.value) for each in details] if len(details) == count else None
            except DecodeError:
                return None
    return None


def _code(fault: p4r.Error) -> str:
    known = fault.canonical_code in rpc_code.Code.values()
    return rpc_code.Code.Name(fault.canonical_code).lower() if known else f"code {fault.canonical_code}"


def _shown(update: Update) -> str:
    return show(update.key, update.does)
