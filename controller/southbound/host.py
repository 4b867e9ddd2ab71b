"""Client of `netstitch.Host`, what an agent does beside P4Runtime (dataplane/host_api.py)."""

from collections.abc import AsyncIterator
from typing import TypeVar

import grpc
import msgspec

from controller.errors import TargetRejected, TargetUnreachable
from dataplane.host_api import (
    CapturedFrame,
    CaptureQuery,
    Empty,
    FlowBatch,
    FlowQuery,
    HostReport,
    HostState,
    NodeDescription,
    TelemetryBatch,
    TelemetryQuery,
    decode,
    encode,
)

SERVICE = "netstitch.Host"
DESCRIBE_S_MAX = 5.0
SYNC_S_MAX = 20.0
"""A tunnel by wireguard-go is a process to start."""
FLOWS_S_MAX = 20.0
UNREACHABLE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)

_Request = Empty | HostState | FlowQuery | TelemetryQuery | CaptureQuery
_Answer = TypeVar("_Answer", NodeDescription, HostReport, FlowBatch, TelemetryBatch, CapturedFrame)


class HostClient:
    """Raises TargetUnreachable or TargetRejected, with the node's name in the text."""

    def __init__(self, node: str, channel: grpc.aio.Channel) -> None:
        self.node = node
        self._channel = channel

    async def describe(self) -> NodeDescription:
        return await self._unary("Describe", Empty(), NodeDescription, DESCRIBE_S_MAX)

    async def sync(self, desired: HostState) -> HostReport:
        return await self._unary("Sync", desired, HostReport, SYNC_S_MAX)

    async def read_flows(self, query: FlowQuery) -> FlowBatch:
        return await self._unary("ReadFlows", query, FlowBatch, FLOWS_S_MAX)

    def telemetry(self, query: TelemetryQuery) -> AsyncIterator[TelemetryBatch]:
        """Until the node ends it."""
        return self._stream("WatchTelemetry", query, TelemetryBatch, None)

    def capture(self, query: CaptureQuery) -> AsyncIterator[CapturedFrame]:
        return self._stream("Capture", query, CapturedFrame, query.seconds + DESCRIBE_S_MAX)

    async def _unary(self, method: str, request: _Request, kind: type[_Answer], deadline_s: float) -> _Answer:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(f"/{SERVICE}/{method}")
        try:
            return decode(await call(encode(request), timeout=deadline_s), kind)
        except (grpc.aio.AioRpcError, msgspec.MsgspecError) as exc:
            raise self._translated(method, exc) from exc

    async def _stream(
        self, method: str, request: _Request, kind: type[_Answer], deadline_s: float | None
    ) -> AsyncIterator[_Answer]:
        multi: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = self._channel.unary_stream(f"/{SERVICE}/{method}")
        call = multi(encode(request), timeout=deadline_s)
        try:
            async for answer in call:
                yield decode(answer, kind)
        except (grpc.aio.AioRpcError, msgspec.MsgspecError) as exc:
            raise self._translated(method, exc) from exc
        finally:
            call.cancel()

    def _translated(self, method: str, exc: Exception) -> TargetUnreachable | TargetRejected:
        if not isinstance(exc, grpc.aio.AioRpcError):
            return TargetRejected(f"node {self.node}: {method}: its agent speaks another version: {exc}")
        text = f"node {self.node}: {method}: {exc.code().name.lower()}: {exc.details()}"
        return TargetUnreachable(text) if exc.code() in UNREACHABLE else TargetRejected(text)
