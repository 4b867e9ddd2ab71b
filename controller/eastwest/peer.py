"""What both ends of the interface between domains agree on."""

import time
from importlib import metadata
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from controller.errors import ConfigInvalid
from controller.model import root_certificate
from controller.model.agreement import (
    CAPABILITIES,
    PROTOCOL,
    Envelope,
    Greeting,
    Statement,
    Unreadable,
    opened,
    version_objection,
)
from controller.model.intent import Value
from controller.model.inventory import Domain
from dataplane.decoding import from_json

T = TypeVar("T")
SERVICE = "netstitch.EastWest"
GREET = "Greet"
"""Unary: a Greeting as JSON, answered with one; the first thing on every connection."""
DELIVER = "Deliver"
"""Unary: an Envelope as JSON; answered, with nothing, when the receiver has stored durably what it decided."""
DELIVER_ALL = "DeliverAll"
"""Unary: a Batch as JSON; answered with a Taken, as above. For peers with the capability `batches`."""
SIZE_BYTES_MAX = 1024 * 1024
"""Of one call."""
BATCH_MAX = 128
"""Messages of one call."""
REASON_MAX = 2000
FRAME_BYTES = 256
"""Of a batch, beside its messages and what separates them."""


class Batch(Statement, frozen=True, kw_only=True):
    """Messages that travel together. Each is signed, read and judged by itself, in this order."""

    messages: Annotated[tuple[msgspec.Raw, ...], Meta(max_length=BATCH_MAX)]
    """Envelopes."""


class RefusedMessage(Statement, frozen=True, kw_only=True):
    place: Annotated[int, Meta(ge=0, le=BATCH_MAX - 1)]
    """Of the message in its batch, from 0 on."""
    reason: Annotated[str, Meta(max_length=REASON_MAX)]


class Taken(Statement, frozen=True, kw_only=True):
    """What of a batch is refused for good; the rest is stored."""

    refused: Annotated[tuple[RefusedMessage, ...], Meta(max_length=BATCH_MAX)] = ()


class Peer(Value, frozen=True, kw_only=True):
    """A neighbouring controller, pinned."""

    domain: str
    certificate: str
    """TLS root certificate, PEM."""
    endpoint: str
    """`host:port`."""


def pinned(domain: Domain) -> Peer:
    """Raises ConfigInvalid where key and certificate are not both of that domain."""
    if misfit := root_certificate.misfit(domain.certificate, domain.name, domain.key):
        raise ConfigInvalid(f"domain {domain.name}: {misfit}")
    return Peer(domain=domain.name, certificate=domain.certificate, endpoint=domain.endpoint)


def greeting(instance: str) -> Greeting:
    """Ours. `instance`: of this process."""
    software = f"netstitch {metadata.version('netstitch')}"
    return Greeting(versions=(PROTOCOL,), capabilities=CAPABILITIES, software=software, instance=instance)


def as_of_now(greeting: Greeting) -> Greeting:
    return msgspec.structs.replace(greeting, now_s=time.time())


def greeting_objection(theirs: Greeting) -> str:
    """Why we cannot talk; empty: we can."""
    return "" if PROTOCOL in theirs.versions else version_objection(max(theirs.versions, default=0))


def encode(message: Envelope | Greeting | Batch | Taken) -> bytes:
    return msgspec.json.encode(message)


def decode(data: bytes) -> Envelope:
    """Raises Unreadable where `data` is no message of ours."""
    try:
        envelope = from_json(data, Envelope)
    except msgspec.MsgspecError as error:
        if _is_of_version_1(data):
            raise Unreadable(version_objection(1)) from error
        raise Unreadable(f"not a netstitch message: {error}") from error
    opened(envelope)
    return envelope


def decode_batch(data: bytes) -> Batch:
    """Raises Unreadable. Its messages are not looked at."""
    return _decoded(data, Batch, "batch of messages")


def decode_taken(data: bytes) -> Taken:
    """Raises Unreadable."""
    return _decoded(data, Taken, "answer to a batch")


def decode_greeting(data: bytes) -> Greeting:
    """Raises Unreadable."""
    return _decoded(data, Greeting, "greeting")


def _decoded(data: bytes, kind: type[T], what: str) -> T:
    try:
        return from_json(data, kind)
    except msgspec.MsgspecError as error:
        raise Unreadable(f"not a {what}: {error}") from error


class _Version1(msgspec.Struct):
    """The releases before mandates sent their messages bare, and called their kind so."""

    type: str
    signature: str


def _is_of_version_1(data: bytes) -> bool:
    try:
        from_json(data, _Version1)
    except msgspec.MsgspecError:
        return False
    return True
