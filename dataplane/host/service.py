"""The gRPC service netstitch.Host: records of host_api in MessagePack over generic handlers, no generated code."""

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeAlias, TypeVar

import grpc
import msgspec
import structlog

from dataplane import host_api
from dataplane.errors import NodeRefused, RequestInvalid
from dataplane.host_api import Method, Request, encode
from dataplane.log import Logger

_log: Logger = structlog.get_logger("stitch-agent")
_Sent = TypeVar("_Sent", bytes, None)
"""What a method gives gRPC: a message, or nothing where it writes a stream itself."""
_Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"


class Host(Protocol):
    """What a node does when asked. Raises RequestInvalid or NodeRefused."""

    async def describe(self) -> host_api.NodeDescription: ...

    async def sync(self, desired: host_api.HostState) -> host_api.HostReport: ...

    async def audit(self, desired: host_api.HostState) -> host_api.AuditReport: ...

    async def read_flows(self, query: host_api.FlowQuery) -> host_api.FlowBatch: ...

    async def read_losses(self) -> host_api.LossReport: ...

    async def watch_telemetry(
        self, query: host_api.TelemetryQuery, send: Callable[[host_api.TelemetryBatch], Awaitable[None]]
    ) -> None: ...

    async def capture(
        self, query: host_api.CaptureQuery, send: Callable[[host_api.CapturedFrame], Awaitable[None]]
    ) -> None: ...


def handler(host: Host) -> grpc.GenericRpcHandler:
    """To be added to a grpc.aio server."""

    async def describe(_: host_api.Empty, context: _Context) -> bytes:
        return encode(await host.describe())

    async def sync(desired: host_api.HostState, context: _Context) -> bytes:
        return encode(await host.sync(desired))

    async def audit(desired: host_api.HostState, context: _Context) -> bytes:
        return encode(await host.audit(desired))

    async def read_flows(query: host_api.FlowQuery, context: _Context) -> bytes:
        return encode(await host.read_flows(query))

    async def read_losses(_: host_api.Empty, context: _Context) -> bytes:
        return encode(await host.read_losses())

    async def watch(query: host_api.TelemetryQuery, context: _Context) -> None:
        async def send(batch: host_api.TelemetryBatch) -> None:
            await context.write(encode(batch))

        await host.watch_telemetry(query, send)

    async def capture(query: host_api.CaptureQuery, context: _Context) -> None:
        async def send(frame: host_api.CapturedFrame) -> None:
            await context.write(encode(frame))

        await host.capture(query, send)

    generic: grpc.GenericRpcHandler = grpc.method_handlers_generic_handler(
        host_api.SERVICE,
        {
            host_api.DESCRIBE.name: grpc.unary_unary_rpc_method_handler(_checked(host_api.DESCRIBE, describe)),
            host_api.SYNC.name: grpc.unary_unary_rpc_method_handler(_checked(host_api.SYNC, sync)),
            host_api.AUDIT.name: grpc.unary_unary_rpc_method_handler(_checked(host_api.AUDIT, audit)),
            host_api.READ_FLOWS.name: grpc.unary_unary_rpc_method_handler(_checked(host_api.READ_FLOWS, read_flows)),
            host_api.READ_LOSSES.name: grpc.unary_unary_rpc_method_handler(_checked(host_api.READ_LOSSES, read_losses)),
            host_api.WATCH_TELEMETRY.name: grpc.unary_stream_rpc_method_handler(
                _checked(host_api.WATCH_TELEMETRY, watch)
            ),
            host_api.CAPTURE.name: grpc.unary_stream_rpc_method_handler(_checked(host_api.CAPTURE, capture)),
        },
    )
    return generic


def _checked(
    method: Method[Request, host_api.Answer], perform: Callable[[Request, _Context], Awaitable[_Sent]]
) -> Callable[[bytes, _Context], Awaitable[_Sent]]:
    """Decodes the request, and says in gRPC's words what went wrong."""

    async def call(data: bytes, context: _Context) -> _Sent:
        try:
            return await perform(_decoded(data, method.request), context)
        except RequestInvalid as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except (NodeRefused, OSError) as error:
            _log.error("request_failed", method=method.name, reason=str(error))
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        raise AssertionError("abort raises")

    return call


def _decoded(data: bytes, kind: type[Request]) -> Request:
    try:
        return host_api.decode(data, kind)
    except msgspec.DecodeError as error:
        raise RequestInvalid(f"not a {kind.__name__} of dataplane/host_api.py in MessagePack: {error}") from error
