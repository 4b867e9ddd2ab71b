"""The P4Runtime server of one node (P4Runtime specification 1.4), over its BPF maps.

One device, one pipeline (ours), any number of roles, all with full access. Batches are CONTINUE_ON_ERROR; the two
optional atomicities are UNIMPLEMENTED, and so are VERIFY_AND_SAVE and COMMIT, metadata of entries and writes of
counters. All maps are written before a Write returns. The server does one request at a time, which makes requests
serializable.

gRPC clients that write large batches need `CLIENT_OPTIONS`: the per-update errors come in the trailing metadata.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import grpc
import msgspec
from finsy.proto import p4r, rpc_status

from dataplane.errors import RequestInvalid
from dataplane.p4runtime import p4info, wire_request
from dataplane.p4runtime.arbitration import Arbitration, Notifications
from dataplane.p4runtime.batch import BatchDecoder
from dataplane.p4runtime.pipeline_config import PipelineConfigFile
from dataplane.p4runtime.read import Reader
from dataplane.p4runtime.status import Code, Fault, Refused
from dataplane.p4runtime.stream import Stream, arbitration_update, packet_in, packet_out, stream_error, told
from dataplane.tables.layout import Layout
from dataplane.tables.node_tables import Tables
from dataplane.telemetry.counters import CounterReader

API_VERSION = "1.4.0"
SERVICE = "p4.v1.P4Runtime"
STATUS_DETAILS = "grpc-status-details-bin"
SERVER_OPTIONS = (("grpc.max_receive_message_length", 64 << 20),)
CLIENT_OPTIONS = (("grpc.max_metadata_size", 4 << 20), ("grpc.absolute_max_metadata_size", 4 << 20))
STATUS_OF = {code.value[0]: code for code in grpc.StatusCode}

Config = p4r.SetForwardingPipelineConfigRequest
Context = grpc.aio.ServicerContext[Any, Any]


class PacketSender(Protocol):
    def send(self, port: int, frame: bytes) -> None:
        """Puts a frame out of a port. Raises RequestInvalid for a port that is not there or a frame that is too big."""
        ...


@dataclass(frozen=True)
class Device:
    """What the server serves."""

    device_id: int
    layout: Layout
    tables: Tables
    counters: Mapping[str, CounterReader]
    """By the counter's name in the P4Info."""
    packets: PacketSender
    state_dir: Path
    fresh: bool
    """The maps were made by this process, not taken over: no pipeline config and no election ids hold any more."""


def add_p4runtime(server: grpc.aio.Server, device: Device) -> "P4RuntimeService":
    """Adds the service to a server that was not started yet. Raises NodeRefused if state_dir cannot be used."""
    service = P4RuntimeService(device)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, service.handlers()),))
    return service


class P4RuntimeService:
    def __init__(self, device: Device) -> None:
        self._device = device
        self._state = PipelineConfigFile(device.state_dir, device.layout.digest, fresh=device.fresh)
        elections = {role: int(number) for role, number in self._state.config.elections.items()}
        self._arbitration = Arbitration(device.device_id, elections)
        self._decoder = BatchDecoder(device.layout)
        self._reader = Reader(device.layout, device.tables, device.counters)
        self._streams: dict[int, Stream] = {}
        self._next_client = 0
        self.packets_in_dropped = 0
        """Punted frames that no controller took: there was no primary, or it did not read fast enough."""

    def handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        """Write takes its request as bytes: see dataplane.p4runtime.wire_request."""
        return {
            "Write": grpc.unary_unary_rpc_method_handler(self.write),
            "Read": grpc.unary_stream_rpc_method_handler(
                self.read, p4r.ReadRequest.FromString, p4r.ReadResponse.SerializeToString
            ),
            "SetForwardingPipelineConfig": grpc.unary_unary_rpc_method_handler(
                self.set_config, Config.FromString, p4r.SetForwardingPipelineConfigResponse.SerializeToString
            ),
            "GetForwardingPipelineConfig": grpc.unary_unary_rpc_method_handler(
                self.get_config,
                p4r.GetForwardingPipelineConfigRequest.FromString,
                p4r.GetForwardingPipelineConfigResponse.SerializeToString,
            ),
            "StreamChannel": grpc.stream_stream_rpc_method_handler(
                self.stream_channel,
                p4r.StreamMessageRequest.FromString,
                p4r.StreamMessageResponse.SerializeToString,
            ),
            "Capabilities": grpc.unary_unary_rpc_method_handler(
                self.capabilities, p4r.CapabilitiesRequest.FromString, p4r.CapabilitiesResponse.SerializeToString
            ),
        }

    def packet_in(self, frame: bytes, metadata: Mapping[str, int]) -> None:
        """Sends a punted frame to the primary controllers; never blocks. `metadata`: as the P4Info's packet_in."""
        message = packet_in(self._device.layout.p4info, frame, metadata)
        taken = [self._streams[client].offer(message) for client in self._arbitration.primaries()]
        if not any(taken):
            self.packets_in_dropped += 1

    async def write(self, data: bytes, context: Context) -> bytes:
        try:
            faults = self._write(data)
        except Refused as refused:
            await _abort(context, refused.fault)
        if any(fault is not None for fault in faults):
            await _abort_batch(context, faults)
        return b""

    async def read(self, request: p4r.ReadRequest, context: Context) -> AsyncIterator[p4r.ReadResponse]:
        try:
            self._check_device(request.device_id)
            self._check_config()
        except Refused as refused:
            await _abort(context, refused.fault)
        answer = self._reader.read(request.entities)
        for response in answer.responses():
            yield response
        if any(fault is not None for fault in answer.faults):
            await _abort_batch(context, answer.faults)

    async def set_config(self, request: Config, context: Context) -> p4r.SetForwardingPipelineConfigResponse:
        try:
            self._set_config(request)
        except Refused as refused:
            await _abort(context, refused.fault)
        return p4r.SetForwardingPipelineConfigResponse()

    async def get_config(
        self, request: p4r.GetForwardingPipelineConfigRequest, context: Context
    ) -> p4r.GetForwardingPipelineConfigResponse:
        """The device config is compiled in and never sent."""
        try:
            self._check_device(request.device_id)
        except Refused as refused:
            await _abort(context, refused.fault)
        response = p4r.GetForwardingPipelineConfigResponse()
        if not self._state.config.committed:
            return response
        response.config.SetInParent()
        kinds = p4r.GetForwardingPipelineConfigRequest
        if request.response_type in (kinds.ALL, kinds.P4INFO_AND_COOKIE):
            response.config.p4info.CopyFrom(self._device.layout.p4info.message)
        if self._state.config.cookie is not None:
            response.config.cookie.cookie = self._state.config.cookie
        return response

    async def capabilities(self, request: p4r.CapabilitiesRequest, context: Context) -> p4r.CapabilitiesResponse:
        try:
            self._check_device(request.device_id or self._device.device_id)
        except Refused as refused:
            await _abort(context, refused.fault)
        return p4r.CapabilitiesResponse(p4runtime_api_version=API_VERSION)

    async def stream_channel(self, requests: AsyncIterator[p4r.StreamMessageRequest], context: Context) -> None:
        client, self._next_client = self._next_client, self._next_client + 1
        task = asyncio.current_task()
        assert task is not None  # gRPC runs handlers in tasks.
        stream = self._streams[client] = Stream(task.cancel)
        refused: Refused | None = None
        try:
            async with asyncio.TaskGroup() as group:
                sender = group.create_task(stream.send_to(context.write))
                try:
                    async for request in requests:
                        self._received(client, stream, request)
                except Refused as error:
                    refused = error
                finally:
                    sender.cancel()
        finally:
            del self._streams[client]
            self._notify(self._arbitration.leave(client))
        if refused is not None:
            await _abort(context, refused.fault)

    def _received(self, client: int, stream: Stream, request: p4r.StreamMessageRequest) -> None:
        """Raises Refused where the stream must end: only arbitration does (P4Runtime §16.6)."""
        match request.WhichOneof("update"):
            case "arbitration":
                before = self._arbitration.highest
                notifications = self._arbitration.update(client, arbitration_update(request.arbitration))
                self._remember_elections(before)
                self._notify(notifications)
            case "packet":
                self._packet_out(client, stream, request.packet)
            case "digest_ack":
                stream.offer(stream_error(request, Fault(Code.INVALID_ARGUMENT, "this pipeline has no digests")))
            case kind:
                fault = Fault(Code.UNIMPLEMENTED, f"{kind or 'a message of no kind'} is not known")
                stream.offer(stream_error(request, fault))

    def _packet_out(self, client: int, stream: Stream, packet: p4r.PacketOut) -> None:
        request = p4r.StreamMessageRequest(packet=packet)
        if not self._arbitration.is_primary_client(client):
            stream.offer(stream_error(request, Fault(Code.PERMISSION_DENIED, "only the primary sends packets")))
            return
        try:
            port, frame = packet_out(self._device.layout.p4info, packet)
            self._device.packets.send(port, frame)
        except Refused as refused:
            stream.offer(stream_error(request, refused.fault))
        except RequestInvalid as error:
            stream.offer(stream_error(request, Fault(Code.INVALID_ARGUMENT, str(error))))

    def _notify(self, notifications: Notifications) -> None:
        for notification in notifications:
            self._streams[notification.client].tell(told(self._device.device_id, notification))

    def _remember_elections(self, before: Mapping[str, int]) -> None:
        """§16.2: the highest election ids outlast a restart that keeps the forwarding state."""
        after = self._arbitration.highest
        if after != before:
            elections = {role: str(number) for role, number in after.items()}
            self._state.write(msgspec.structs.replace(self._state.config, elections=elections))

    def _write(self, data: bytes) -> list[Fault | None]:
        """The faults by update. Raises Refused for the request as a whole, checked in the order of §12."""
        request = wire_request.read(data)
        self._check_primary(request.device_id, request.role, _election_id(request.election_id))
        self._check_config()
        if request.atomicity != p4r.WriteRequest.CONTINUE_ON_ERROR:
            raise Refused(Code.UNIMPLEMENTED, "atomicity: this target does CONTINUE_ON_ERROR only")
        batch = self._decoder.decode(request.updates)
        try:
            faults = batch.faults | self._device.tables.write(batch.runs)
        except OSError as error:
            raise Refused(Code.INTERNAL, f"the maps cannot be read or written: {error.strerror}") from error
        return [faults.get(index) for index in range(len(request.updates))]

    def _set_config(self, request: Config) -> None:
        """Raises Refused, checked in the order of §14."""
        election_id = _number(request.election_id) if request.HasField("election_id") else None
        self._check_primary(request.device_id, request.role, election_id)
        match request.action:
            case Config.VERIFY | Config.VERIFY_AND_COMMIT | Config.RECONCILE_AND_COMMIT:
                pass
            case Config.VERIFY_AND_SAVE | Config.COMMIT:
                raise Refused(Code.UNIMPLEMENTED, "this target does VERIFY_AND_COMMIT and RECONCILE_AND_COMMIT only")
            case _:
                raise Refused(Code.INVALID_ARGUMENT, f"action {request.action} is not known")
        if not request.HasField("config"):
            raise Refused(Code.INVALID_ARGUMENT, "config is needed")
        if differences := p4info.differences(self._device.layout.p4info.message, request.config.p4info):
            raise Refused(
                Code.INVALID_ARGUMENT, f"this target has one pipeline, and another P4Info: {'; '.join(differences)}"
            )
        if request.config.p4_device_config:
            raise Refused(Code.INVALID_ARGUMENT, "p4_device_config: the program is compiled in; leave it empty")
        if request.action == Config.VERIFY:
            return
        if request.action == Config.VERIFY_AND_COMMIT:
            try:
                self._device.tables.clear()
            except OSError as error:
                raise Refused(Code.INTERNAL, f"the tables cannot be cleared: {error.strerror}") from error
        cookie = request.config.cookie.cookie if request.config.HasField("cookie") else None
        self._state.write(msgspec.structs.replace(self._state.config, committed=True, cookie=cookie))

    def _check_device(self, device_id: int) -> None:
        if device_id != self._device.device_id:
            raise Refused(Code.NOT_FOUND, f"no device has the id {device_id}; this one has {self._device.device_id}")

    def _check_primary(self, device_id: int, role: str, election_id: int | None) -> None:
        self._check_device(device_id)
        if not self._arbitration.knows_role(role):
            raise Refused(Code.NOT_FOUND, f"no controller has the role {role!r}")
        if not self._arbitration.is_primary(role, election_id):
            raise Refused(Code.PERMISSION_DENIED, f"election id {election_id} is not the primary's of role {role!r}")

    def _check_config(self) -> None:
        if not self._state.config.committed:
            raise Refused(Code.FAILED_PRECONDITION, "no forwarding-pipeline config was set yet")


def _election_id(encoded: bytes | None) -> int | None:
    return None if encoded is None else _number(p4r.Uint128.FromString(encoded))


def _number(value: p4r.Uint128) -> int:
    return value.high << 64 | value.low


async def _abort(context: Context, fault: Fault) -> None:
    await context.abort(STATUS_OF[fault.code], fault.message)


async def _abort_batch(context: Context, faults: Sequence[Fault | None]) -> None:
    """UNKNOWN, with a p4.v1.Error for each update or entity, in order (§12.3)."""
    failed = sum(fault is not None for fault in faults)
    first = next(fault.message for fault in faults if fault is not None)
    status = rpc_status.Status(code=Code.UNKNOWN, message=f"{failed} of {len(faults)} failed: {first}")
    for fault in faults:
        error = p4r.Error() if fault is None else p4r.Error(canonical_code=fault.code, message=fault.message)
        status.details.add().Pack(error)
    await context.abort(STATUS_OF[Code.UNKNOWN], status.message, ((STATUS_DETAILS, status.SerializeToString()),))
