"""Every field of every P4Runtime message of a node: whatever stands there, we read it or refuse it with a reason.

The messages say themselves what fields they have, down to the last; each is set to what is at, below and beyond what
may be there, in a message that is right but for it. A client that really runs asks a server that gives these.
"""

import asyncio
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import msgspec
import pytest
from finsy.proto import U128, p4r, rpc_status
from google.protobuf.descriptor import FieldDescriptor as Kind
from google.protobuf.message import Message
from pipeline_tables import LAYOUT
from test_southbound import permit, route
from waiting import LIMIT_S

from controller.errors import TargetRejected, TargetUnreachable
from controller.southbound.codec import Codec, show
from controller.southbound.difference import difference, index
from controller.southbound.node import CHANNEL_OPTIONS
from controller.southbound.p4runtime import P4RuntimeClient
from dataplane.host_api import CounterSample

CODEC = Codec(LAYOUT.p4info)
REASON_MAX = 10_000
Place = tuple[str, ...]
NUMBERS: dict[int, tuple[Any, ...]] = {
    Kind.CPPTYPE_INT32: (0, 1, -1, 2**31 - 1, -(2**31)),
    Kind.CPPTYPE_INT64: (0, 1, -1, 2**63 - 1, -(2**63)),
    Kind.CPPTYPE_UINT32: (0, 1, 2**32 - 1),
    Kind.CPPTYPE_UINT64: (0, 1, 2**64 - 1),
    Kind.CPPTYPE_BOOL: (False, True),
    Kind.CPPTYPE_DOUBLE: (0.0, float("nan"), float("inf"), -1e308),
    Kind.CPPTYPE_FLOAT: (0.0, float("nan"), float("inf"), -1e30),
    Kind.CPPTYPE_ENUM: (0, 1, 2, 9999, -1, 2**31 - 1),
}
OCTETS = (b"", b"\x00", b"\x01", b"\xff", b"\xff" * 16, b"\xff" * 17, bytes(100_000))
TEXTS = ("", "a", "\x00\x1b[2J\u202e\n", "\U0010ffff" * 20_000)


def fields(kind: Any, place: Place = (), above: tuple[Any, ...] = ()) -> Iterator[tuple[Place, Any]]:
    """Every field of a message and of those in it, each kind of message once on the way down."""
    for field in kind.fields:
        yield (*place, field.name), field
        if field.message_type is not None and field.message_type not in above and not is_map(field):
            yield from fields(field.message_type, (*place, field.name), (*above, kind))


def is_map(field: Any) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def values(field: Any) -> tuple[Any, ...]:
    match field.cpp_type:
        case Kind.CPPTYPE_STRING:
            return OCTETS if field.type == Kind.TYPE_BYTES else TEXTS
        case Kind.CPPTYPE_MESSAGE:
            return ("empty",)
        case _:
            return NUMBERS[field.cpp_type]


def set_at(message: Message, place: Place, value: Any) -> None:
    """Where it is repeated: in the first, which is made where there is none."""
    *outer, name = place
    for step in outer:
        inner = getattr(message, step)
        message = (inner[0] if len(inner) else inner.add()) if hasattr(inner, "add") else inner
    field = message.DESCRIPTOR.fields_by_name[name]
    if field.message_type is not None:
        inner = getattr(message, name)
        if is_map(field):
            _ = inner[next(iter(inner), 1 if field.message_type.fields_by_name["key"].cpp_type < 5 else "a")]
        elif hasattr(inner, "add"):
            inner.add()
        else:
            inner.SetInParent()
        return
    if field.is_repeated if hasattr(field, "is_repeated") else field.label == Kind.LABEL_REPEATED:
        getattr(message, name).append(value)
    else:
        setattr(message, name, value)


def absent(message: Message, place: Place = ()) -> Iterator[tuple[Place, Message]]:
    """The message without each of what it has, and with each of what it has several times twice and 2,000 times."""
    for field, value in message.ListFields():
        changed = type(message)()
        changed.CopyFrom(message)
        changed.ClearField(field.name)
        yield (*place, field.name), changed
        if field.message_type is None or is_map(field) or field.name == "p4info":  # which is only compared
            continue
        several = list(value) if hasattr(value, "add") else [value]
        for number, each in enumerate(several):
            for where, less in absent(each, (*place, field.name)):
                changed = type(message)()
                changed.CopyFrom(message)
                target = getattr(changed, field.name)
                (target[number] if hasattr(target, "add") else target).CopyFrom(less)
                yield where, changed
        if hasattr(value, "add"):
            for times in (1, 2000):
                changed = type(message)()
                changed.CopyFrom(message)
                for _ in range(times):
                    getattr(changed, field.name).add().CopyFrom(several[0])
                yield (*place, field.name), changed


# ---- what a node says where all is well


def arbitration() -> p4r.StreamMessageResponse:
    message = p4r.StreamMessageResponse()
    message.arbitration.device_id = 1
    message.arbitration.election_id.CopyFrom(U128.encode(7))
    return message


def pipeline() -> p4r.GetForwardingPipelineConfigResponse:
    answer = p4r.GetForwardingPipelineConfigResponse()
    answer.config.p4info.CopyFrom(LAYOUT.p4info.message)
    answer.config.cookie.cookie = 1
    return answer


def rows() -> p4r.ReadResponse:
    answer = p4r.ReadResponse()
    for entry in (route("5f00:1:2::/48", 1), permit(1, 16)):
        answer.entities.add().table_entry.CopyFrom(CODEC.compose(entry))
    return answer


def cells() -> p4r.ReadResponse:
    answer = p4r.ReadResponse()
    cell = answer.entities.add().counter_entry
    cell.index.index = 3
    cell.data.packet_count = cell.data.byte_count = 5
    return answer


def refusal() -> rpc_status.Status:
    """Of a batch of two entries."""
    status = rpc_status.Status(code=2, message="some were refused")
    for code in (0, 3):
        status.details.add().Pack(p4r.Error(canonical_code=code, message="no room"))
    return status


# ---- what we ask, which reads it


async def write(client: P4RuntimeClient) -> None:
    desired, _ = index((route("5f00:1:2::/48", 1), permit(1, 16)))
    assert all(rejection.reason for rejection in await client.write(difference(desired, {})))


async def lead(client: P4RuntimeClient) -> None:
    try:
        await client.become_primary()
        await client.hold()
    finally:
        client.close()


async def read_all(client: P4RuntimeClient) -> None:
    for row in (await client.read()).values():
        assert show(row.key, row.behaviour)


async def count(client: P4RuntimeClient) -> None:
    for sample in await client.read_counter("drop_counter"):
        msgspec.convert(msgspec.to_builtins(sample), type=CounterSample)


async def configure(client: P4RuntimeClient) -> None:
    await client.ensure_pipeline()


Ask = Callable[[P4RuntimeClient], Awaitable[None]]
ASKED: dict[str, tuple[Callable[[], Message], Ask]] = {
    "arbitration": (arbitration, lead),
    "pipeline": (pipeline, configure),
    "entries": (rows, read_all),
    "counters": (cells, count),
    "refusals": (refusal, write),
}


class Liar:
    """Says what it is given to whatever it is asked: once, and then that is all."""

    said: bytes

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        match call.method.rpartition("/")[2]:
            case "StreamChannel":
                return grpc.stream_stream_rpc_method_handler(self._once)
            case "Read":
                return grpc.unary_stream_rpc_method_handler(self._once)
            case "Write":
                return grpc.unary_unary_rpc_method_handler(self._refuse)
            case _:
                return grpc.unary_unary_rpc_method_handler(self._answer)

    async def _once(self, _: object, __: object) -> AsyncIterator[bytes]:
        yield self.said

    async def _answer(self, _: object, __: object) -> bytes:
        return self.said

    async def _refuse(self, _: object, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        details = (("grpc-status-details-bin", self.said),)
        await context.abort(grpc.StatusCode.UNKNOWN, "see the details", details)
        return b""


class Handlers(grpc.GenericRpcHandler):
    def __init__(self, liar: Liar) -> None:
        self._liar = liar

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return self._liar.service(handler_call_details)


@asynccontextmanager
async def lying() -> AsyncIterator[tuple[Liar, Callable[[], P4RuntimeClient]]]:
    liar = Liar()
    server = grpc.aio.server(options=CHANNEL_OPTIONS)
    server.add_generic_rpc_handlers((Handlers(liar),))
    with tempfile.TemporaryDirectory(prefix="stitch-") as directory:
        address = f"unix:{directory}/liar"
        server.add_insecure_port(address)
        await server.start()
        async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
            yield liar, lambda: P4RuntimeClient("se1", channel, CODEC, 7)
        await server.stop(None)


def said(whole: Message) -> Iterator[tuple[Place, Message]]:
    """The message with everything that may stand in each of its fields, without each, and with more of each."""
    for place, field in fields(whole.DESCRIPTOR):
        for value in values(field):
            changed = type(whole)()
            changed.CopyFrom(whole)
            set_at(changed, place, value)
            yield place, changed
    yield from absent(whole)


def garbled(whole: Message) -> Iterator[bytes]:
    """What is no such message, most of it."""
    data = whole.SerializeToString()
    yield from (data[:cut] for cut in range(min(len(data), 300)))
    yield from (data + b"\xff", b"\xff" * 100, b"\x0a\xff\xff\xff\xff\x0f", data * 2, bytes(1000), b"\x0b" * 500)
    for at in range(min(len(data), 300)):
        yield data[:at] + bytes((data[at] ^ 0xFF,)) + data[at + 1 :]


@pytest.mark.parametrize("name", ASKED)
async def test_whatever_a_node_answers_is_read_or_refused_with_a_reason(name: str) -> None:
    make, ask = ASKED[name]
    visited, outcomes = Counter[Place](), Counter[str]()
    async with lying() as (liar, client):
        answers = [(place, message.SerializeToString()) for place, message in said(make())]
        for place, data in (*answers, *(((), data) for data in garbled(make()))):
            visited[place] += 1
            liar.said = data
            try:
                await asyncio.wait_for(ask(client()), LIMIT_S)
                outcomes["read"] += 1
            except (TargetRejected, TargetUnreachable) as error:
                assert str(error).startswith("node se1: ") or "the node has" in str(error), error
                assert len(str(error)) < REASON_MAX, (place, str(error)[:200])
                outcomes["refused"] += 1
            except Exception as error:
                raise AssertionError(f"{name} {place}: {type(error).__name__}: {error}") from error
    assert visited.keys() >= {place for place, _ in fields(make().DESCRIPTOR)}
    assert outcomes.total() > 100, outcomes


@pytest.mark.parametrize("name", ["arbitration", "pipeline", "entries", "counters"])
async def test_what_is_too_large_is_refused_before_it_is_decoded(name: str) -> None:
    """Each two octets of it are a message, which takes forty and more once it is read."""
    _, ask = ASKED[name]
    async with lying() as (liar, client):
        liar.said = b"\x0a\x00" * (16 << 20)
        with pytest.raises(TargetRejected, match="larger than max"):
            await asyncio.wait_for(ask(client()), LIMIT_S)
