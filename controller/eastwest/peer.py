"""What both ends of the interface between domains agree on."""

import msgspec

from controller.eastwest.identity import check_root
from controller.model.agreement import Message
from controller.model.intent import Value
from controller.model.inventory import Domain

SERVICE = "netstitch.EastWest"
DELIVER = "Deliver"
"""Unary: a Message as JSON; answered, with nothing, when the receiver has stored durably what it decided."""
SIZE_BYTES_MAX = 256 * 1024
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
    check_root(domain.certificate, domain.name, domain.key)
    return Peer(domain=domain.name, certificate=domain.certificate, endpoint=domain.endpoint)


def encode(message: Message) -> bytes:
    return msgspec.json.encode(message)


def decode(data: bytes) -> Message:
    """Raises msgspec.MsgspecError where `data` is no Message."""
    return _DECODER.decode(data)


_DECODER: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)
