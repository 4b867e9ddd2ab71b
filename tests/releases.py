"""Recorded releases: what they said to each other, and what they stored (tests/releases/README.md)."""

from importlib import metadata
from pathlib import Path

import msgspec

from controller.eastwest.peer import encode
from controller.model.agreement import PROTOCOL
from controller.model.event import Record
from tests.simulator import ORDER_PROCESSING, Controller, World

DIRECTORY = Path(__file__).parent / "releases"
REFUSED = """
apiVersion: netstitch/v1
kind: Intent
metadata: {name: archive, tenant: customer-x}
spec:
  allow: [{from: {network: shop/customer-x, select: {app: web}}, to: insight/archive/archive-z}]
  require: {latency_ms: {max: 20}}
"""


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    sender: str
    receiver: str
    kind: str
    bytes: bytes
    """As it went over the wire."""


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    kind: str
    name: str
    content: bytes


class Release(msgspec.Struct, frozen=True, kw_only=True):
    software: str
    protocol: int
    now_s: float
    """Of `stores`."""
    messages: tuple[Sent, ...]
    waiting: tuple[Stored, ...]
    """The store of shop, which waits for an answer."""
    stores: dict[str, tuple[Stored, ...]]
    """Of all domains, with the intent Active."""

    def sent(self, kind: str, sender: str, number: int = -1) -> Sent:
        return [message for message in self.messages if (message.kind, message.sender) == (kind, sender)][number]


def load(protocol: int) -> Release:
    return msgspec.json.decode((DIRECTORY / f"protocol-{protocol}.json").read_bytes(), type=Release)


def save(release: Release) -> None:
    text = msgspec.json.format(msgspec.json.encode(release), indent=1)
    (DIRECTORY / f"protocol-{release.protocol}.json").write_bytes(text + b"\n")


def record() -> Release:
    """Of the release that runs this."""
    world = World()
    world.start()
    world.apply("shop", REFUSED)
    world.run(2.0)
    world.delete("shop", "archive")
    world.run(2.0)
    world.partitioned.add(frozenset(("shop", "transit")))
    world.apply("shop", ORDER_PROCESSING)
    world.run(0.5)
    waiting = _stored(world.controllers["shop"])
    world.partitioned.clear()
    world.run(20.0)
    stores = {name: _stored(controller) for name, controller in world.controllers.items()}
    now_s = world.now_s
    world.delete("shop", "order-processing")
    world.run(3.0)
    messages = tuple(
        Sent(sender=sender, receiver=receiver, kind=message.kind, bytes=encode(message))
        for sender, receiver, message in world.wiretap
    )
    software = f"netstitch {metadata.version('netstitch')}"
    return Release(software=software, protocol=PROTOCOL, now_s=now_s, messages=messages, waiting=waiting, stores=stores)


def _stored(controller: Controller) -> tuple[Stored, ...]:
    return tuple(
        Stored(kind=stored.kind, name=stored.name, content=stored.content)
        for stored in controller.disk.values()
        if stored.content is not None
    )


def give(controller: Controller, stored: tuple[Stored, ...]) -> None:
    """A store to start from."""
    controller.disk = {
        (kept.kind, kept.name): Record(kind=kept.kind, name=kept.name, content=kept.content) for kept in stored
    }
