"""Client of `netstitch.Host`, what an agent does beside P4Runtime (dataplane/host_api.py)."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import msgspec

from controller.errors import TargetRejected, TargetUnreachable
from dataplane.host_api import (
    AUDIT,
    CAPTURE,
    DESCRIBE,
    READ_FLOWS,
    READ_LOSSES,
    SYNC,
    WATCH_TELEMETRY,
    Answer,
    AuditReport,
    CapturedFrame,
    CaptureQuery,
    Empty,
    FlowBatch,
    FlowQuery,
    HostReport,
    HostState,
    LostPackets,
    Method,
    NodeDescription,
    Request,
    TelemetryBatch,
    TelemetryQuery,
    decode,
    encode,
)

DESCRIBE_S_MAX = 5.0
SYNC_S_MAX = 20.0
"""A tunnel by wireguard-go is a process to start."""
FLOWS_S_MAX = 20.0
TEXT_MAX = 1000
"""Characters of what a node says why it refuses something."""
LARGE_BYTES = 64 * 1024
"""From so many on what a node says is decoded in a thread."""
UNREACHABLE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)


class _Watched(TelemetryBatch, frozen=True, kw_only=True):
    """Flows of agents that do not pack them are only counted: ten thousands in one batch would be long to read."""

    flows: tuple[msgspec.Raw, ...]  # type: ignore[assignment]


_WATCHED = Method(WATCH_TELEMETRY.name, TelemetryQuery, _Watched)


class HostClient:
    """Raises TargetUnreachable or TargetRejected, with the node's name in the text."""

    def __init__(self, node: str, channel: grpc.aio.Channel) -> None:
        self.node = node
        self._channel = channel

    async def describe(self) -> NodeDescription:
        return await self._unary(DESCRIBE, Empty(), DESCRIBE_S_MAX)

    async def sync(self, desired: HostState) -> HostReport:
        return await self._unary(SYNC, desired, SYNC_S_MAX)

    async def audit(self, desired: HostState) -> AuditReport:
        """`sync`, and what the node has then. An agent that is older has no digests."""
        try:
            return await self._unary(AUDIT, desired, SYNC_S_MAX)
        except TargetRejected as exc:
            if _is_unknown(exc):
                changes = (await self.sync(desired)).changes
                return AuditReport(changes=changes, digests={}, description=await self.describe())
            raise

    async def read_flows(self, query: FlowQuery) -> FlowBatch:
        return await self._unary(READ_FLOWS, query, FLOWS_S_MAX)

    async def read_losses(self) -> tuple[LostPackets, ...]:
        """An agent that is older counts none."""
        try:
            return (await self._unary(READ_LOSSES, Empty(), DESCRIBE_S_MAX)).losses
        except TargetRejected as exc:
            if _is_unknown(exc):
                return ()
            raise

    def telemetry(self, query: TelemetryQuery) -> AsyncIterator[TelemetryBatch]:
        """Until the node ends it. Its flow records are as they came."""
        return self._stream(_WATCHED, query, None)

    def capture(self, query: CaptureQuery) -> AsyncIterator[CapturedFrame]:
        return self._stream(CAPTURE, query, query.seconds + DESCRIBE_S_MAX)

    async def _unary(self, method: Method[Request, Answer], request: Request, deadline_s: float) -> Answer:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(method.path)
        try:
            data = await call(encode(request), timeout=deadline_s)
            if len(data) > LARGE_BYTES:
                return await asyncio.to_thread(decode, data, method.answer)
            return decode(data, method.answer)
        except (grpc.aio.AioRpcError, msgspec.MsgspecError) as exc:
            raise self._translated(method.name, exc) from exc

    async def _stream(
        self, method: Method[Request, Answer], request: Request, deadline_s: float | None
    ) -> AsyncIterator[Answer]:
        multi: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = self._channel.unary_stream(method.path)
        call = multi(encode(request), timeout=deadline_s)
        try:
            async for answer in call:
                if len(answer) > LARGE_BYTES:
                    yield await asyncio.to_thread(decode, answer, method.answer)
                else:
                    yield decode(answer, method.answer)
        except (grpc.aio.AioRpcError, msgspec.MsgspecError) as exc:
            raise self._translated(method.name, exc) from exc
        finally:
            call.cancel()

    def _translated(self, method: str, exc: Exception) -> TargetUnreachable | TargetRejected:
        if not isinstance(exc, grpc.aio.AioRpcError):
            return TargetRejected(f"node {self.node}: {method}: its agent speaks another version: {exc}")
        text = f"node {self.node}: {method}: {exc.code().name.lower()}: {(exc.details() or '')[:TEXT_MAX]}"
        return TargetUnreachable(text) if exc.code() in UNREACHABLE else TargetRejected(text)


def _is_unknown(refusal: TargetRejected) -> bool:
    """The agent has no such method."""
    cause = refusal.__cause__
    return isinstance(cause, grpc.aio.AioRpcError) and cause.code() is grpc.StatusCode.UNIMPLEMENTED
