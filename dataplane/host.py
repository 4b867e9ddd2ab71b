"""The gRPC service netstitch.Host: records of host_api in MessagePack over generic handlers, no generated code."""

import logging
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeAlias, TypeVar

import grpc
import msgspec

from dataplane.errors import NodeRefused, RequestInvalid
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
_log = logging.getLogger("stitch-agent")
_Request = TypeVar("_Request", Empty, HostState, FlowQuery, TelemetryQuery, CaptureQuery)
_Answer = TypeVar("_Answer", bytes, None)
_Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"


class Host(Protocol):
    """What a node does when asked. Raises RequestInvalid or NodeRefused."""

    async def describe(self) -> NodeDescription: ...

    async def sync(self, desired: HostState) -> HostReport: ...

    async def read_flows(self, query: FlowQuery) -> FlowBatch: ...

    async def watch_telemetry(
        self, query: TelemetryQuery, send: Callable[[TelemetryBatch], Awaitable[None]]
    ) -> None: ...

    async def capture(self, query: CaptureQuery, send: Callable[[CapturedFrame], Awaitable[None]]) -> None: ...


def handler(host: Host) -> grpc.GenericRpcHandler:
    """To be added to a grpc.aio server."""

    async def describe(_: Empty, context: _Context) -> bytes:
        return encode(await host.describe())

    async def sync(desired: HostState, context: _Context) -> bytes:
        return encode(await host.sync(desired))

    async def read_flows(query: FlowQuery, context: _Context) -> bytes:
        return encode(await host.read_flows(query))

    async def watch(query: TelemetryQuery, context: _Context) -> None:
        async def send(batch: TelemetryBatch) -> None:
            await context.write(encode(batch))

        await host.watch_telemetry(query, send)

    async def capture(query: CaptureQuery, context: _Context) -> None:
        async def send(frame: CapturedFrame) -> None:
            await context.write(encode(frame))

        await host.capture(query, send)

    generic: grpc.GenericRpcHandler = grpc.method_handlers_generic_handler(
        SERVICE,
        {
            "Describe": grpc.unary_unary_rpc_method_handler(_checked(Empty, describe)),
            "Sync": grpc.unary_unary_rpc_method_handler(_checked(HostState, sync)),
            "ReadFlows": grpc.unary_unary_rpc_method_handler(_checked(FlowQuery, read_flows)),
            "WatchTelemetry": grpc.unary_stream_rpc_method_handler(_checked(TelemetryQuery, watch)),
            "Capture": grpc.unary_stream_rpc_method_handler(_checked(CaptureQuery, capture)),
        },
    )
    return generic


def _checked(
    kind: type[_Request], method: Callable[[_Request, _Context], Awaitable[_Answer]]
) -> Callable[[bytes, _Context], Awaitable[_Answer]]:
    """Decodes the request, and says in gRPC's words what went wrong."""

    async def call(data: bytes, context: _Context) -> _Answer:
        try:
            return await method(_decoded(data, kind), context)
        except RequestInvalid as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except (NodeRefused, OSError) as error:
            _log.error("request failed: kind=%s error=%s", kind.__name__, error)
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        raise AssertionError("abort raises")

    return call


def _decoded(data: bytes, kind: type[_Request]) -> _Request:
    try:
        return decode(data, kind)
    except msgspec.DecodeError as error:
        raise RequestInvalid(f"not a {kind.__name__} of dataplane/host_api.py in MessagePack: {error}") from error
