"""One controller's StreamChannel: what waits to be sent to it, and the messages of the stream (P4Runtime §16)."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from finsy.proto import p4r

from dataplane.p4runtime.arbitration import ArbitrationUpdate, Notification
from dataplane.p4runtime.codec import bytestring, integer
from dataplane.p4runtime.p4info import P4Info, Param
from dataplane.p4runtime.status import Code, Fault, Refused

QUEUE_LENGTH = 1024
PACKET_QUEUE_LENGTH = 512
"""Packets and errors are dropped beyond this, so that arbitration always finds room."""


class Stream:
    """Bounded. A controller that does not read loses packets first, and then its stream."""

    def __init__(self, end: Callable[[], object]) -> None:
        """`end` ends the stream."""
        self._waiting: asyncio.Queue[p4r.StreamMessageResponse] = asyncio.Queue(QUEUE_LENGTH)
        self._end = end

    def offer(self, message: p4r.StreamMessageResponse) -> bool:
        """False: dropped."""
        if self._waiting.qsize() >= PACKET_QUEUE_LENGTH:
            return False
        self._waiting.put_nowait(message)
        return True

    def tell(self, message: p4r.StreamMessageResponse) -> None:
        """What must not be lost; without room for it, the stream ends."""
        try:
            self._waiting.put_nowait(message)
        except asyncio.QueueFull:
            self._end()

    async def send_to(self, write: Callable[[p4r.StreamMessageResponse], Awaitable[None]]) -> None:
        """Sends what is waiting, until it is cancelled."""
        while True:
            await write(await self._waiting.get())


def arbitration_update(message: p4r.MasterArbitrationUpdate) -> ArbitrationUpdate:
    election = message.election_id
    return ArbitrationUpdate(
        device_id=message.device_id,
        role=message.role.name,
        has_role_config=message.role.HasField("config"),
        election_id=election.high << 64 | election.low if message.HasField("election_id") else None,
    )


def told(device_id: int, notification: Notification) -> p4r.StreamMessageResponse:
    response = p4r.StreamMessageResponse()
    message = response.arbitration
    message.device_id = device_id
    if notification.role:
        message.role.name = notification.role
    if notification.election_id is not None:
        message.election_id.high = notification.election_id >> 64
        message.election_id.low = notification.election_id & (2**64 - 1)
    message.status.code = notification.code
    message.status.message = {
        Code.OK: "you are primary",
        Code.ALREADY_EXISTS: "another controller is primary",
        Code.NOT_FOUND: "there is no primary",
    }[notification.code]
    return response


def packet_in(info: P4Info, frame: bytes, fields: Mapping[str, int]) -> p4r.StreamMessageResponse:
    response = p4r.StreamMessageResponse()
    response.packet.payload = frame
    for field in info.packet_in:
        response.packet.metadata.add(metadata_id=field.id, value=bytestring(fields[field.name]))
    return response


def packet_out(info: P4Info, packet: p4r.PacketOut) -> tuple[int, bytes]:
    """Port and frame. Raises Refused where the metadata is not precisely what the P4Info asks for."""
    values: dict[int, bytes] = {}
    for metadata in packet.metadata:
        if metadata.metadata_id in values:
            raise Refused(Code.INVALID_ARGUMENT, f"packet_out: metadata {metadata.metadata_id} is given twice")
        values[metadata.metadata_id] = metadata.value
    numbers = {field.name: _metadata(field, values) for field in info.packet_out}
    if values:
        raise Refused(Code.INVALID_ARGUMENT, f"packet_out: has no metadata with the ids {sorted(values)}")
    return numbers["egress_port"], packet.payload


def stream_error(request: p4r.StreamMessageRequest, fault: Fault) -> p4r.StreamMessageResponse:
    """§16.6; the request comes back with it."""
    response = p4r.StreamMessageResponse()
    error = response.error
    error.canonical_code = fault.code
    error.message = fault.message
    match request.WhichOneof("update"):
        case "packet":
            error.packet_out.packet_out.CopyFrom(request.packet)
        case "digest_ack":
            error.digest_list_ack.digest_list_ack.CopyFrom(request.digest_ack)
        case _:
            error.other.other.CopyFrom(request.other)
    return response


def _metadata(field: Param, values: dict[int, bytes]) -> int:
    if field.id not in values:
        raise Refused(Code.INVALID_ARGUMENT, f"packet_out: metadata {field.name} is missing")
    return integer(values.pop(field.id), field.bitwidth, f"packet_out.{field.name}")
