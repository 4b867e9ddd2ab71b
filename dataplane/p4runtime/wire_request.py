"""p4.v1.WriteRequest with its updates left encoded, so that whole batches can be read at once (batch.py)."""

from dataclasses import dataclass

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError

from dataplane.p4runtime.status import Code, Refused

_FIELDS = (
    ("device_id", 1, FieldDescriptor.TYPE_UINT64, FieldDescriptor.LABEL_OPTIONAL),
    ("election_id", 3, FieldDescriptor.TYPE_BYTES, FieldDescriptor.LABEL_REPEATED),
    ("updates", 4, FieldDescriptor.TYPE_BYTES, FieldDescriptor.LABEL_REPEATED),
    ("atomicity", 5, FieldDescriptor.TYPE_INT32, FieldDescriptor.LABEL_OPTIONAL),
    ("role", 6, FieldDescriptor.TYPE_STRING, FieldDescriptor.LABEL_OPTIONAL),
)
"""Wire-compatible: messages and bytes are both length-delimited."""


def _message_class() -> type:
    file = descriptor_pb2.FileDescriptorProto(  # type: ignore[attr-defined]
        name="netstitch/write_request.proto", package="netstitch", syntax="proto3"
    )
    message = file.message_type.add(name="WriteRequest")
    for name, number, kind, label in _FIELDS:
        message.field.add(name=name, number=number, type=kind, label=label)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    message_class: type = message_factory.GetMessageClass(pool.FindMessageTypeByName("netstitch.WriteRequest"))
    return message_class


_MESSAGE = _message_class()


@dataclass(frozen=True, slots=True)
class WireRequest:
    device_id: int
    role: str
    election_id: bytes | None
    """An encoded p4.v1.Uint128; None: unset."""
    atomicity: int
    updates: list[bytes]


def read(data: bytes) -> WireRequest:
    """Raises Refused."""
    message = _MESSAGE()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise Refused(Code.INVALID_ARGUMENT, f"no p4.v1.WriteRequest: {error}") from error
    return WireRequest(
        device_id=message.device_id,
        role=message.role,
        election_id=b"".join(message.election_id) if len(message.election_id) else None,
        atomicity=message.atomicity,
        updates=list(message.updates),
    )
