"""Digests of what the maps of each table hold, so that a controller reads back only what has changed.

Each time all maps are read from the kernel: arrays through the memory that they share with it, the others by batch.
Only hashing is spared where the bytes are those of the time before. So a digest tells of every change, whoever made it.
"""

import hashlib
from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dataplane.tables.layout import Layout, Shape

_DIGEST_BYTES = 16


class Readable(Protocol):
    """dataplane.xdp.bpf.Map"""

    @property
    def is_memory(self) -> bool: ...
    def memory(self) -> NDArray[np.uint8]: ...
    def items(self) -> tuple[bytes, bytes]: ...


class TableDigests:
    def __init__(self, layout: Layout, maps: Mapping[str, Readable]) -> None:
        beside = {Shape.TERNARY: ("_masks",), Shape.RANGE: ("_range",)}
        self._tables = {
            table.table.name: tuple(
                _Contents(maps[table.table.name + end]) for end in ("", *beside.get(table.shape, ()))
            )
            for table in layout.tables
        }

    def read(self) -> dict[str, bytes]:
        """By table. Raises OSError."""
        return {name: b"".join(part.digest() for part in parts) for name, parts in self._tables.items()}


class _Contents:
    """Of one map, as last seen."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._words: NDArray[np.uint64] = np.zeros(0, np.uint64)
        self._items: tuple[bytes, bytes] | None = None
        self._digest = b""

    def digest(self) -> bytes:
        if self._source.is_memory:
            words = self._source.memory().view(np.uint64).ravel()
            if not np.array_equal(words, self._words):
                self._words = words.copy()
                self._digest = _hash(self._words.tobytes())
        else:
            items = self._source.items()
            if items != self._items:
                self._items = items
                keys, values = items
                self._digest = _hash(len(keys).to_bytes(4, "big") + keys + values)
        return self._digest


def _hash(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()
