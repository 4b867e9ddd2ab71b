"""What a domain on the way could say instead of what it has said: each field of each message changed alone, and signed
rightly by it. Made from the types of the messages, so that a new field has its turn as soon as there is one."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec.structs import replace

from controller import reconcile
from controller.model.agreement import (
    MESSAGES,
    PROTOCOL,
    Advertisement,
    Alias,
    Envelope,
    Mandate,
    Message,
    Refusal,
    Routes,
    Unreadable,
    Withdrawal,
    opened,
    opened_advertisement,
    opened_mandate,
    unsigned,
)
from controller.model.event import Effect, MessageReceived, Send
from controller.model.stitch import Session, Stitch
from controller.reconcile.state import State
from tests.simulator import SimulatedKeys, World

INTENTS = ("order-processing", "direct")
TEXTS = ("", "x", "shop", "transit", "insight", "moon", "shop/customer-z", "insight/archive/archive-z", "insight/*")
IDS = tuple(f"{domain}:{name}:{serial}" for domain in ("shop", "transit") for name in INTENTS for serial in range(1, 6))
MOST = 2**40
AN_ALIAS = Alias(prefix="10.2.0.0/24", alias="100.99.0.0/24")
"""What no honest message has that is listened to here."""


@dataclass
class Heard:
    """A message that was delivered, and who took it in which state."""

    receiver: str
    now_s: float
    state: State
    envelope: Envelope

    @property
    def message(self) -> Message:
        return opened(self.envelope)

    def instead(self, envelope: Envelope) -> tuple[State, tuple[Effect, ...]]:
        """What follows where transit says this; the state that was is left as it is."""
        try:
            opened(envelope)
        except Unreadable:
            return self.state, ()  # the server refuses it
        event = MessageReceived(peer="transit", message=envelope)
        return reconcile.step(self.state, event, self.now_s, SimulatedKeys(self.receiver))


@dataclass
class Wiretap:
    """What transit says in a world, by kind and receiver: the first of each, or of those that name flows or routes."""

    world: World
    heard: dict[tuple[str, str], Heard] = field(default_factory=dict)

    def __post_init__(self) -> None:
        deliver_all = self.world.deliver_all

        def listen(messages: Sequence[Envelope], sender: str, receiver: str) -> bool:
            if sender == "transit" and self.world.controllers[receiver].alive:
                for message in messages:
                    heard = Heard(receiver, self.world.now_s, self.world.controllers[receiver].state, message)
                    known = self.heard.setdefault((message.kind, receiver), heard)
                    if _says_much(heard.message) > _says_much(known.message):
                        self.heard[message.kind, receiver] = heard
            return deliver_all(messages, sender, receiver)

        self.world.deliver_all = listen  # type: ignore[method-assign]


def _says_much(message: Message) -> bool:
    return bool(
        (isinstance(message, Refusal | Withdrawal) and message.flows)
        or (isinstance(message, Routes) and message.routes and message.after is not None)
    )


def other_envelopes(heard: Heard) -> Iterator[Envelope]:
    """The same bytes as something else; signed so."""
    for kind in {*MESSAGES, "mandate", "advertisement", "x"} - {heard.envelope.kind}:
        yield _resigned(replace(heard.envelope, kind=kind))
    for version in (0, PROTOCOL - 1, PROTOCOL + 1, 65535):
        yield _resigned(replace(heard.envelope, version=version))


def lies(heard: Heard) -> Iterator[tuple[str, Any, Any, Envelope]]:
    """Place, what stood there, what stands there now, and all of it as transit signs it. What is in a mandate is
    changed too, in the origin's name, and so is an advertisement in its owner's."""
    message = heard.message
    for place, old, new, changed in _changes(message, type(message)):
        yield place, old, new, _signed(changed)
    if isinstance(getattr(message, "mandate", None), Envelope):
        mandate = opened_mandate(message.mandate)  # type: ignore[union-attr]
        for place, old, new, changed in _changes(mandate, Mandate):
            yield f"mandate:{place}", old, new, _signed(replace(message, mandate=_signed(changed)))
    if isinstance(message, Routes):
        (route,) = message.routes
        for place, old, new, changed in _changes(opened_advertisement(route.advertisement), Advertisement):
            other = replace(route, advertisement=_signed(changed))
            yield f"advertisement:{place}", old, new, _signed(replace(message, routes=(other,)))


def _signed(statement: Message | Mandate | Advertisement) -> Envelope:
    return _resigned(unsigned(statement))


def _resigned(envelope: Envelope) -> Envelope:
    """By transit; what nobody can read is not worth a signature."""
    with contextlib.suppress(Unreadable):
        return replace(envelope, signature=SimulatedKeys("transit").sign(envelope.signed_bytes))
    return envelope


def places(kind: type) -> set[str]:
    """All that a type has, by name."""
    names = set()
    for name, hint in get_type_hints(kind).items():
        names.add(name)
        for inner in _structs(hint):
            names |= {f"{name}.{place}" for place in places(inner)}
    return names


def _structs(hint: Any) -> Iterator[type]:
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        yield hint
    for arg in get_args(hint):
        yield from _structs(arg)


def _changes(value: msgspec.Struct, kind: type) -> Iterator[tuple[str, Any, Any, Any]]:
    for name, hint in get_type_hints(kind).items():
        old = getattr(value, name)
        for place, before, after, changed in _others(old, hint):
            yield ".".join(filter(None, (name, place))), before, after, replace(value, **{name: changed})


def _others(old: Any, hint: Any) -> Iterator[tuple[str, Any, Any, Any]]:
    """Place within, before, after, and the whole."""
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if get_origin(hint) in (Union, UnionType):
        kinds = get_args(hint)
        if NoneType in kinds and old is not None:
            yield "", old, None, None
        hint = next(kind for kind in kinds if kind is not NoneType)
        if get_origin(hint) is Annotated:
            hint = get_args(hint)[0]
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        yield from _changes(old, hint)
    elif get_origin(hint) is tuple:
        yield from _other_tuples(old, get_args(hint)[0])
    else:
        yield from (("", old, new, new) for new in _other_values(old, hint) if new != old)


def _other_tuples(old: tuple[Any, ...], item: Any) -> Iterator[tuple[str, Any, Any, Any]]:
    for new in ((), old[:-1], old + old[:1], old[::-1]):
        if new != old:
            yield "", old, new, new
    for index, member in enumerate(old):
        for place, before, after, changed in _others(member, item):
            alone, longer = (*old[:index], changed, *old[index + 1 :]), (*old, changed)
            yield place, before if place else old, after if place else alone, alone
            yield place, before if place else old, after if place else longer, longer
    if not old and item is Alias:
        yield "", old, (AN_ALIAS,), (AN_ALIAS,)
        yield from ((place, before, after, (changed,)) for place, before, after, changed in _others(AN_ALIAS, item))
    elif not old and not any(_structs(item)):
        for _, _, _, new in _others("", item):
            yield "", old, (new,), (new,)


def _other_values(old: Any, hint: Any) -> Iterator[Any]:
    if issubclass(hint, Enum):
        yield from hint
    elif hint is bool:
        yield not old
    elif hint is int:
        number = old or 0
        yield from (0, 1, max(0, number - 1), number + 1, number // 2, number * 2, number + 86400, MOST)
    elif hint is bytes:
        yield from (b"", old[:-1], old + b" ", bytes(len(old)))
    elif hint is str:
        yield from TEXTS
        yield from (old + "x", old[:-1], old.replace("transit", "shop"), old.replace("shop", "transit"))
        yield from _near(old)
    else:
        raise AssertionError(f"{hint} is new here")


def _near(old: str) -> Iterator[str]:
    """Texts that are like it in kind."""
    if old.startswith("5f00:"):
        yield from ("5f00:1::1", "5f00:2::77", "5f00:3::1", "::1", "2001:db8::1", "ff02::1")
    elif "/" in old and old[0].isdigit():
        yield from ("10.1.0.12/32", "10.1.0.10/31", "10.2.0.11/32", "0.0.0.0/0", "224.0.0.0/4", "127.0.0.1/32", "::/0")
    elif ":" in old and old[0].isdigit():
        yield from ("127.0.0.1:51820", "224.0.0.1:51820", "203.0.113.66:51820", f"{old[:-1]}9")
    elif ":" in old:
        yield from (*IDS, f"{old}9", "insight:x:1", "moon:x:1")
    elif len(old) == 44:
        yield from ("A" * 43 + "=", "B" + old[1:])
    elif len(old) == 64:
        yield "0" * 64


def sessions(state: State) -> list[tuple[Stitch, Session]]:
    return [
        (stitch, session)
        for stitch in state.stitches.values()
        for session in (stitch.upstream, stitch.downstream)
        if session is not None
    ]


def agreed(state: State) -> set[tuple[str, str]]:
    """What both sides have signed, by digest."""
    return {
        (session.agreement.offer.digest, session.agreement.acceptance.digest)
        for _, session in sessions(state)
        if session.agreement is not None
    }


def taken_on(state: State) -> set[tuple[str, str]]:
    """What others have offered and this domain carries, or begins to: id and digest."""
    return {(session.terms.id, session.offer.digest) for _, session in sessions(state) if not session.offeror}


def written(state: State) -> set[tuple[str, str]]:
    """For whom the domain's nodes shall have entries or tunnels."""
    entries = {
        (name, entry.owner)
        for name, node in state.nodes.items()
        if node.state is not None
        for entry in node.state.entries
    }
    borders = {
        (name, tunnel.border)
        for name, node in state.nodes.items()
        if node.state is not None
        for tunnel in node.state.host.tunnels
    }
    return entries | borders


def opens(before: State, after: State) -> bool:
    """Whether more can cross than before, or is about to."""
    return any(what(after) - what(before) for what in (agreed, taken_on, written))


def with_others(state: State) -> dict[str, Stitch]:
    """What transit has no part in."""
    return {
        name: stitch
        for name, stitch in state.stitches.items()
        if "transit" not in {each.peer for each in (stitch.upstream, stitch.downstream) if each is not None}
    }


def said(effects: tuple[Effect, ...]) -> set[tuple[str, str]]:
    """To whom, and of what kind."""
    return {(effect.peer, effect.message.kind) for effect in effects if isinstance(effect, Send)}
