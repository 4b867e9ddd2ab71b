"""Every field of every message from outside, at and beyond its bounds: read, or refused with a reason.

The types themselves say what is sent, so that a field that is new and has no bounds fails here.
"""

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import msgspec.inspect as mi
import pytest

from controller.eastwest.peer import Taken, decode, decode_greeting, decode_taken
from controller.model import agreement
from controller.model.agreement import MESSAGES, PROTOCOL, Envelope, Greeting, Mandate, Unreadable, opened_mandate
from dataplane import host_api
from dataplane.host_api import Method
from tests.beyond import Deep, Octets, beyond, fields, filled, usual, within

DEEP = 5000
METHODS = [value for value in vars(host_api).values() if isinstance(value, Method)]
ANSWERS = {kind.__name__: kind for method in METHODS for kind in (method.answer, method.request)}


def as_json(value: Any) -> bytes:
    """Also what JSON has not: NaN; bytes as base64."""
    text = json.dumps(value, default=_json_default)
    return text.replace('"deep"', "[" * DEEP + "]" * DEEP).encode()


def _json_default(value: object) -> str:
    match value:
        case Octets(count=count):
            return base64.b64encode(bytes(count)).decode()
        case Deep():
            return "deep"
    assert isinstance(value, bytes)
    return value.decode()


def as_messagepack(value: Any) -> bytes:
    """Numbers of more than 64 bits are none there, and become the largest."""
    return msgspec.msgpack.encode(_small(value))


def _small(value: Any) -> Any:
    match value:
        case bool():
            return value
        case int():
            return max(-(2**63), min(value, 2**64 - 1))
        case Octets(count=count):
            return bytes(count)
        case Deep():
            return msgspec.Raw(b"\x91" * DEEP + b"\x90")
        case list():
            return [_small(item) for item in value]
        case dict():
            return {name: _small(inner) for name, inner in value.items()}
    return value


def enveloped(kind: str) -> Callable[[bytes], object]:
    def read(payload: bytes) -> object:
        if kind == "mandate":
            return opened_mandate(Envelope(version=PROTOCOL, kind=kind, payload=payload, signature=b""))
        signed = {"version": PROTOCOL, "kind": kind, "payload": base64.b64encode(payload).decode(), "signature": ""}
        return decode(json.dumps(signed).encode())

    return read


Read = Callable[[bytes], object]
READERS: dict[str, tuple[type, Read, Callable[[Any], bytes], type[Exception]]] = {
    "Envelope": (Envelope, decode, as_json, Unreadable),
    "Greeting": (Greeting, decode_greeting, as_json, Unreadable),
    "Taken": (Taken, decode_taken, as_json, Unreadable),
    "mandate": (Mandate, enveloped("mandate"), as_json, Unreadable),
    **{name: (kind, enveloped(name), as_json, Unreadable) for name, kind in MESSAGES.items()},
    **{
        name: (kind, lambda data, kind=kind: host_api.decode(data, kind), as_messagepack, msgspec.DecodeError)
        for name, kind in ANSWERS.items()
    },
}


def cases(name: str) -> Iterator[tuple[mi.Type, tuple[str | int, ...], Any]]:
    root = mi.type_info(READERS[name][0])
    for path, kind in fields(root):
        for value in beyond(kind):
            if value is None and _optional(root, path):
                continue
            if not (READERS[name][2] is as_messagepack and _fits(kind, value)):
                yield root, path, value


def _fits(kind: mi.Type, value: Any) -> bool:
    """What MessagePack makes of it is within."""
    return isinstance(kind, mi.FloatType) and isinstance(value, int) and not isinstance(value, bool) and value == 0


def _optional(root: mi.Type, path: tuple[str | int, ...]) -> bool:
    return any(
        place == path and isinstance(kind, mi.UnionType) and mi.NoneType() in kind.types for place, kind in fields(root)
    )


@pytest.mark.parametrize("name", READERS)
def test_every_field_has_bounds_and_what_is_beyond_is_refused_with_a_reason(name: str) -> None:
    _, read, encode, refusal = READERS[name]
    sent = 0
    for root, path, value in cases(name):
        data = encode(filled(root, path, value))
        with pytest.raises(refusal) as refused:
            read(data)
        assert str(refused.value), path
        sent += 1
    assert sent > 5 or not READERS[name][0].__struct_fields__


@pytest.mark.parametrize("name", [name for name in READERS if name != "Envelope"])
def test_what_is_at_the_bounds_is_read(name: str) -> None:
    kind, read, encode, _ = READERS[name]
    root = mi.type_info(kind)
    read(encode(usual(root)))
    for path, kind_of_field in fields(root):
        for value in within(kind_of_field):
            read(encode(filled(root, path, value)))


@pytest.mark.parametrize("name", READERS)
def test_what_is_no_message_at_all_is_refused_with_a_reason(name: str) -> None:
    kind, read, encode, refusal = READERS[name]
    whole = encode(usual(mi.type_info(kind)))
    texts = [b"", b"\x00", b"\xff" * 100, b"\xed\xa0\x80", b"[" * 100_000, b'{"":' * 100_000, b"\x91" * 100_000]
    texts += [whole[:cut] for cut in range(len(whole))] if whole not in (b"{}", b"\x80") else []
    texts += [whole + whole, whole.replace(b"a", b"\xed\xa0\x80"), whole.replace(b"\xa1a", b"\xa3\xed\xa0\x80")]
    for text in texts:
        if text == whole or (not text and whole == b"\x80"):
            continue
        try:
            read(text)
        except refusal as error:
            assert str(error)


def test_the_text_of_a_bounded_pattern_is_matched_to_its_end() -> None:
    """`$` would let a last line feed pass."""
    for module in (agreement, host_api):
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, msgspec.Struct):
                for _, kind in fields(mi.type_info(value)):
                    pattern = getattr(kind, "pattern", None)
                    assert pattern is None or (pattern.startswith(r"\A") and pattern.endswith(r"\Z")), (value, pattern)
