"""A persistent mapping from prefixes to what is known of them, which finds what covers a prefix and what is inside it.

A binary trie of 128 bits whose nodes skip the bits in which all below them agree. A change copies the nodes on the way
to it and shares all others; every version stays as it was.
"""

from collections.abc import Iterator
from typing import Generic, NamedTuple, TypeVar

BITS = 128
T = TypeVar("T")
Prefix = tuple[int, int]
"""Value, of which the bits behind the length are 0, and length."""


class Node(NamedTuple, Generic[T]):
    value: int
    length: int
    content: T | None
    """None: it only joins what is below."""
    zero: "Node[T] | None"
    """Those whose next bit is 0."""
    one: "Node[T] | None"


Trie = Node[T] | None
"""None: empty."""


def put(trie: Trie[T], prefix: Prefix, content: T) -> Node[T]:
    value, length = prefix
    if trie is None:
        return Node(value, length, content, None, None)
    common = min(trie.length, length, BITS - (trie.value ^ value).bit_length())
    if common < trie.length:
        if common == length:
            return _joined(value, length, content, trie, None)
        top = value >> (BITS - common) << (BITS - common)
        return _joined(top, common, None, trie, Node(value, length, content, None, None))
    if length == trie.length:
        return Node(value, length, content, trie.zero, trie.one)
    if _bit(value, trie.length):
        return Node(trie.value, trie.length, trie.content, trie.zero, put(trie.one, prefix, content))
    return Node(trie.value, trie.length, trie.content, put(trie.zero, prefix, content), trie.one)


def remove(trie: Trie[T], prefix: Prefix) -> Trie[T]:
    """Raises KeyError."""
    value, length = prefix
    if trie is None or trie.length > length:
        raise KeyError(prefix)
    zero, one, content = trie.zero, trie.one, trie.content
    if trie.length == length:
        if trie.value != value or content is None:
            raise KeyError(prefix)
        content = None
    elif _bit(value, trie.length):
        one = remove(one, prefix)
    else:
        zero = remove(zero, prefix)
    if content is None and (zero is None or one is None):
        return one if zero is None else zero
    return Node(trie.value, trie.length, content, zero, one)


def find(trie: Trie[T], prefix: Prefix) -> T | None:
    value, length = prefix
    while trie is not None and trie.length < length:
        trie = trie.one if _bit(value, trie.length) else trie.zero
    return trie.content if trie is not None and (trie.value, trie.length) == prefix else None


def covering(trie: Trie[T], prefix: Prefix) -> list[T]:
    """What is known of the prefixes that contain it, and of itself: the widest first."""
    value, length = prefix
    contents: list[T] = []
    while trie is not None and trie.length <= length:
        if (trie.value ^ value) >> (BITS - trie.length):
            break
        if trie.content is not None:
            contents.append(trie.content)
        if trie.length == length:
            break
        trie = trie.one if _bit(value, trie.length) else trie.zero
    return contents


def inside(trie: Trie[T], prefix: Prefix) -> Iterator[tuple[Prefix, T]]:
    """Itself, and those that it contains."""
    value, length = prefix
    while trie is not None and trie.length < length:
        trie = trie.one if _bit(value, trie.length) else trie.zero
    if trie is None or (trie.value ^ value) >> (BITS - length):
        return
    waiting = [trie]
    while waiting:
        node = waiting.pop()
        if node.content is not None:
            yield (node.value, node.length), node.content
        waiting += [below for below in (node.zero, node.one) if below is not None]


def _bit(value: int, place: int) -> int:
    return value >> (BITS - 1 - place) & 1


def _joined(value: int, length: int, content: T | None, first: Node[T], second: Node[T] | None) -> Node[T]:
    if _bit(first.value, length):
        return Node(value, length, content, second, first)
    return Node(value, length, content, first, second)
