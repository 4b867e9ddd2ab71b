"""Digests of what the maps of each table hold, so that a controller reads back only what has changed.

Each time all maps are read from the kernel: arrays through the memory that they share with it, the others by batch.
Only hashing is spared where the bytes are those of the time before. So a digest tells of every change, whoever made it.
"""

import ctypes
import hashlib
from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dataplane.tables.layout import Layout, Shape

_DIGEST_BYTES = 16
_C = ctypes.CDLL(None)
_C.memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


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
        self._used: NDArray[np.uint8] = np.zeros(0, np.uint8)
        """Of a map that is memory: the bytes before those that are all zero."""
        self._items: tuple[bytes, bytes] | None = None
        self._digest = b""

    def digest(self) -> bytes:
        if self._source.is_memory:
            memory = self._source.memory().ravel()
            if not (self._digest and self._is_as_before(memory)):
                self._used = memory[: _used(memory)].copy()
                self._digest = _hash(len(memory).to_bytes(4, "big") + self._used.tobytes())
        else:
            items = self._source.items()
            if items != self._items:
                self._items = items
                keys, values = items
                self._digest = _hash(len(keys).to_bytes(4, "big") + keys + values)
        return self._digest

    def _is_as_before(self, memory: NDArray[np.uint8]) -> bool:
        """Megabytes, which numpy would compare into an array of as many answers."""
        start, used, left = memory.ctypes.data, len(self._used), len(memory) - len(self._used)
        if _C.memcmp(start, self._used.ctypes.data, used):
            return False
        # All are zero if the first is, and each is as the one before it: so it is read once, beside nothing else.
        return not left or (not memory[used] and _C.memcmp(start + used, start + used + 1, left - 1) == 0)


def _used(memory: NDArray[np.uint8]) -> int:
    used = np.flatnonzero(memory.view(np.uint64))
    return 8 * (int(used[-1]) + 1) if len(used) else 0


def _hash(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()
