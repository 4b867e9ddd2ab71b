"""What is about prefixes, found by all that have an address in common with it."""

import bisect
from collections.abc import Iterable, Iterator
from typing import Any

Prefix = tuple[int, int]
"""128 bits and length."""


def last(value: int, length: int) -> int:
    return value | ((1 << (128 - length)) - 1)


def common(near: Prefix, other: Prefix) -> Prefix | None:
    """Of two prefixes that meet, one is inside the other."""
    inner, outer = (near, other) if near[1] >= other[1] else (other, near)
    return inner if inner[0] >> (128 - outer[1]) == outer[0] >> (128 - outer[1]) else None


class PrefixMap:
    """Prefix -> things that are about it, counted; finds all that overlap a prefix."""

    def __init__(self) -> None:
        self._by_length: dict[int, dict[int, dict[Any, int]]] = {}
        self._sorted: list[Prefix] = []

    def add(self, where: Prefix, thing: Any) -> None:
        value, length = where
        things = self._by_length.setdefault(length, {}).get(value)
        if things is None:
            bisect.insort(self._sorted, where)
            things = self._by_length[length][value] = {}
        things[thing] = things.get(thing, 0) + 1

    def drop(self, where: Prefix, thing: Any) -> None:
        value, length = where
        things = self._by_length[length][value]
        things[thing] -= 1
        if not things[thing]:
            del things[thing]
        if not things:
            del self._by_length[length][value]
            del self._sorted[bisect.bisect_left(self._sorted, where)]

    def overlapping(self, where: Prefix) -> Iterator[Any]:
        value, length = where
        for shorter, contents in self._by_length.items():
            if shorter <= length:
                yield from contents.get(value >> (128 - shorter) << (128 - shorter), ())
        if length < 128:
            at = bisect.bisect_left(self._sorted, (value, length + 1))
            while at < len(self._sorted) and self._sorted[at][0] <= last(value, length):
                inner, inner_length = self._sorted[at]
                if inner_length > length:
                    yield from self._by_length[inner_length][inner]
                at += 1


def all_overlapping(prefix_map: PrefixMap | None, prefixes: Iterable[Prefix]) -> set[Any]:
    """With any of these."""
    contents: set[Any] = set()
    if prefix_map is not None:
        for where in prefixes:
            contents.update(prefix_map.overlapping(where))
    return contents
