"""What both ends of the interface between domains agree on."""

import time
from importlib import metadata

import msgspec

from controller.errors import ConfigInvalid
from controller.model import root_certificate
from controller.model.agreement import (
    CAPABILITIES,
    PROTOCOL,
    Envelope,
    Greeting,
    Unreadable,
    opened,
    version_objection,
)
from controller.model.intent import Value
from controller.model.inventory import Domain
from dataplane.decoding import from_json

SERVICE = "netstitch.EastWest"
GREET = "Greet"
"""Unary: a Greeting as JSON, answered with one; the first thing on every connection."""
DELIVER = "Deliver"
"""Unary: an Envelope as JSON; answered, with nothing, when the receiver has stored durably what it decided."""
SIZE_BYTES_MAX = 1024 * 1024
"""Of one message."""


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


def encode(message: Envelope | Greeting) -> bytes:
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


def decode_greeting(data: bytes) -> Greeting:
    """Raises Unreadable."""
    try:
        return from_json(data, Greeting)
    except msgspec.MsgspecError as error:
        raise Unreadable(f"not a greeting: {error}") from error


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
