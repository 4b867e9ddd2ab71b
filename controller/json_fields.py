"""What is in a JSON text, before or beside its decoding: how many values, and fields that are given twice, of which
decoding keeps the last one and says nothing (RFC 8259 §4)."""

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec

VALUES_MAX = 1_000_000
"""Of a text of others, an object counting as four: each takes some 60 octets once it is decoded."""


def values(text: bytes | bytearray) -> int:
    """At most so many are in it: each begins one, or comes after a comma; or that is in a string."""
    return 1 + text.count(b",") + text.count(b"[") + 4 * text.count(b"{")


def all_kept(text: bytes, decoded: object) -> bool:
    """Whether `decoded` has every field of the JSON text that it comes from. A yes is exact; so is a no, unless the
    text has escaped colons or integers of more than 64 bits.

    A colon stands behind each field's name, or in a string. The strings that are left keep theirs, and get none unless
    one was escaped; so there are as many as before only if nothing was dropped.
    """
    if b"\\u003a" in text or b"\\u003A" in text:
        return False
    try:
        return msgspec.json.encode(decoded).count(b":") == text.count(b":")
    except OverflowError:
        return False


class _Repeating(dict[str, Any]):
    names: tuple[str, ...] = ()


def repeated(text: bytes, most: int = 100) -> list[tuple[str | int, ...]]:
    """Paths of the first fields that are given twice, in well-formed JSON. Raises RecursionError."""
    return list(itertools.islice(_repeated(json.loads(text, object_pairs_hook=_mapping), ()), most))


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) == len(pairs):
        return mapping
    repeating = _Repeating(mapping)
    repeating.names = tuple(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
    return repeating


def _repeated(data: object, path: tuple[str | int, ...]) -> Iterator[tuple[str | int, ...]]:
    if isinstance(data, _Repeating):
        yield from ((*path, name) for name in data.names)
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in inner:
        yield from _repeated(value, (*path, key))
