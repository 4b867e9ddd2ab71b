"""BPF maps and ring buffers: their contents as bytes, one by one, by batch, or as shared memory."""

import ctypes
import errno
import mmap
import os
from collections.abc import Iterator
from ctypes import byref, c_uint32, sizeof
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from dataplane.xdp.libbpf import (
    POSSIBLE_CPUS,
    BatchOptions,
    BpfError,
    MapInfo,
    SampleCallback,
    checked,
    checked_pointer,
    library,
)

BATCH, _FIRST_BATCH = 4096, 128
"""Entries that one call reads at most; at first, where their number is not known."""
_ARRAY, _PER_CPU_ARRAY, _MMAPABLE = 2, 6, 1 << 10
"""BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_PERCPU_ARRAY, BPF_F_MMAPABLE"""
_PER_CPU_TYPES = (5, 6, 10)
"""BPF_MAP_TYPE_PERCPU_HASH, _PERCPU_ARRAY, _LRU_PERCPU_HASH"""


class Descriptor:
    """A file descriptor, closed once."""

    def __init__(self, fd: int, name: str) -> None:
        self.fd = fd
        self.name = name

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def pin(self, path: Path) -> None:
        """Keeps the object alive at `path`, which must be on a bpffs and not be there yet."""
        checked(library.bpf_obj_pin(self.fd, str(path).encode()), f"pin {self.name} at {path} (is it on a bpffs?)")


def open_pin(path: Path) -> int:
    return checked(library.bpf_obj_get(str(path).encode()), f"open the pinned object {path}")


class Map(Descriptor):
    """Keys and values are bytes of exactly `key_size` and `value_size`; per-CPU values have their own methods."""

    def __init__(self, fd: int) -> None:
        info = MapInfo()
        size = c_uint32(sizeof(info))
        checked(library.bpf_obj_get_info_by_fd(fd, byref(info), byref(size)), "ask the kernel about a map")
        super().__init__(fd, f"map {info.name.decode()}")
        self.id: int = info.id
        """What the kernel calls it."""
        self.type: int = info.type
        """enum bpf_map_type"""
        self.key_size: int = info.key_size
        self.value_size: int = info.value_size
        self.max_entries: int = info.max_entries
        self.is_memory: bool = info.type == _ARRAY and bool(info.map_flags & _MMAPABLE)
        """`mapped` works."""
        self._memory: NDArray[np.uint8] | None = None
        self._first_batch = min(BATCH if info.type in (_ARRAY, _PER_CPU_ARRAY) else _FIRST_BATCH, info.max_entries)
        self.is_per_cpu: bool = info.type in _PER_CPU_TYPES
        self.stride = self.value_size if not self.is_per_cpu else _aligned(self.value_size) * POSSIBLE_CPUS
        """Bytes of a value as the kernel copies it: all CPUs' for per-CPU maps, each rounded up to 8."""

    def memory_bytes(self) -> int:
        """What it takes, as the kernel says; of maps that grow, kernels before 6.4 say what they may grow to."""
        lines = Path(f"/proc/self/fdinfo/{self.fd}").read_text().splitlines()
        return next((int(line.split()[1]) for line in lines if line.startswith("memlock:")), 0)

    @classmethod
    def open_pinned(cls, path: Path) -> "Map":
        return cls(open_pin(path))

    def lookup(self, key: bytes) -> bytes | None:
        """The value; of a per-CPU map, all CPUs' (`stride` bytes). None if there is no such key."""
        value = ctypes.create_string_buffer(self.stride)
        self._check_key(key)
        if library.bpf_map_lookup_elem(self.fd, key, value) < 0:
            if ctypes.get_errno() == errno.ENOENT:
                return None
            raise BpfError(ctypes.get_errno(), f"look up {key.hex()} in {self.name}")
        return value.raw

    def lookup_per_cpu(self, key: bytes) -> tuple[bytes, ...]:
        """One value for each possible CPU. Raises BpfError (ENOENT) if there is no such key."""
        values = self.lookup(key)
        if values is None:
            raise BpfError(errno.ENOENT, f"look up {key.hex()} in {self.name}")
        step = _aligned(self.value_size)
        return tuple(values[at : at + self.value_size] for at in range(0, len(values), step))

    def update(self, key: bytes, value: bytes) -> None:
        self._check_key(key)
        if len(value) != self.stride:
            raise BpfError(errno.EINVAL, f"{self.name}: a value has {self.stride} bytes, not {len(value)}")
        checked(library.bpf_map_update_elem(self.fd, key, value, 0), f"update {key.hex()} in {self.name}")

    def delete(self, key: bytes) -> bool:
        """False if there was no such key."""
        self._check_key(key)
        if library.bpf_map_delete_elem(self.fd, key) == 0:
            return True
        if ctypes.get_errno() == errno.ENOENT:
            return False
        raise BpfError(ctypes.get_errno(), f"delete {key.hex()} from {self.name}")

    def __iter__(self) -> Iterator[bytes]:
        """Keys, one system call each. Deleting what was just given is allowed."""
        key, following = None, ctypes.create_string_buffer(self.key_size)
        pending = self._next(key, following)
        while pending is not None:
            key = pending
            pending = self._next(key, following)
            yield key

    def _next(self, key: bytes | None, following: ctypes.Array[ctypes.c_char]) -> bytes | None:
        if library.bpf_map_get_next_key(self.fd, key, following) == 0:
            return following.raw
        if ctypes.get_errno() == errno.ENOENT:
            return None
        raise BpfError(ctypes.get_errno(), f"iterate {self.name}")

    def update_batch(self, keys: bytes, values: bytes) -> None:
        """Concatenated keys and values. On BpfError some of them may have been written."""
        count = self._count(keys)
        if len(values) != count * self.stride:
            raise BpfError(errno.EINVAL, f"{self.name}: {count} values have {count * self.stride} bytes")
        if count:
            options = BatchOptions(sz=sizeof(BatchOptions))
            done = c_uint32(count)
            result = library.bpf_map_update_batch(self.fd, keys, values, byref(done), byref(options))
            checked(result, f"update {count} entries of {self.name} (stopped after {done.value})")

    def delete_batch(self, keys: bytes) -> None:
        """Concatenated keys; those that are not there are skipped."""
        at, end = 0, self._count(keys)
        options = BatchOptions(sz=sizeof(BatchOptions))
        while at < end:
            done = c_uint32(end - at)
            rest = keys[at * self.key_size :]
            if library.bpf_map_delete_batch(self.fd, rest, byref(done), byref(options)) == 0:
                return
            if ctypes.get_errno() != errno.ENOENT:
                raise BpfError(ctypes.get_errno(), f"delete {end} entries of {self.name}")
            at += done.value + 1

    def items(self) -> tuple[bytes, bytes]:
        """All keys and all values, concatenated. Entries that change meanwhile may be missed."""
        if self.is_memory:  # a hundred times faster than by system calls
            memory_values = np.ascontiguousarray(self.memory()[:, : self.value_size]).tobytes()
            return np.arange(self.max_entries, dtype=np.uint32).tobytes(), memory_values
        keys, values = bytearray(), bytearray()
        batch = self._first_batch
        options = BatchOptions(sz=sizeof(BatchOptions))
        token = ctypes.create_string_buffer(max(self.key_size, 4))
        following = ctypes.create_string_buffer(max(self.key_size, 4))
        start: ctypes.Array[ctypes.c_char] | None = None
        while True:
            some_keys = ctypes.create_string_buffer(batch * self.key_size)
            some_values = ctypes.create_string_buffer(batch * self.stride)
            count = c_uint32(batch)
            result = library.bpf_map_lookup_batch(
                self.fd, start, following, some_keys, some_values, byref(count), byref(options)
            )
            code = ctypes.get_errno() if result < 0 else 0
            if code == errno.ENOSPC:  # one bucket of the hash has more than `batch` entries
                batch *= 2
                continue
            if code not in (0, errno.ENOENT):
                raise BpfError(code, f"read {self.name}")
            keys += memoryview(some_keys)[: count.value * self.key_size]
            values += memoryview(some_values)[: count.value * self.stride]
            if code == errno.ENOENT:
                return bytes(keys), bytes(values)
            token, following = following, token
            start = token
            batch = max(batch, min(BATCH, self.max_entries, 2 * batch))

    def memory(self) -> NDArray[np.uint8]:
        """`mapped` for reading, once for all."""
        if self._memory is None:
            self._memory = self.mapped()
        return self._memory

    def mapped(self, *, writable: bool = False) -> NDArray[np.uint8]:
        """The memory of an array with BPF_F_MMAPABLE: shape (max_entries, value_size rounded up to 8)."""
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        width = _aligned(self.value_size)
        try:
            memory = mmap.mmap(self.fd, width * self.max_entries, mmap.MAP_SHARED, protection)
        except OSError as exc:
            raise BpfError(exc.errno or errno.EINVAL, f"map the memory of {self.name}") from exc
        return np.frombuffer(memory, np.uint8).reshape(self.max_entries, width)

    def _check_key(self, key: bytes) -> None:
        if len(key) != self.key_size:
            raise BpfError(errno.EINVAL, f"{self.name}: a key has {self.key_size} bytes, not {len(key)}")

    def _count(self, keys: bytes) -> int:
        count, rest = divmod(len(keys), self.key_size)
        if rest:
            raise BpfError(errno.EINVAL, f"{self.name}: {len(keys)} bytes are no keys of {self.key_size}")
        return count


def _aligned(size: int) -> int:
    return (size + 7) & ~7


class RingBuffer:
    """Records of a BPF_MAP_TYPE_RINGBUF. `fd` becomes readable when there are some (asyncio: `add_reader`)."""

    def __init__(self, ring: Map) -> None:
        self._records: list[bytes] = []
        self._limit = 0
        self._callback = SampleCallback(self._take)
        what = f"read the ring buffer {ring.name}"
        self._buffer: int | None = checked_pointer(library.ring_buffer__new(ring.fd, self._callback, None, None), what)
        self.fd = checked(library.ring_buffer__epoll_fd(self._buffer), what)

    def consume(self, limit: int = 4096) -> list[bytes]:
        """Up to `limit` records, the oldest first; without waiting."""
        self._limit = limit
        result = library.ring_buffer__consume(self._buffer)
        if result not in (-errno.EAGAIN, -1):
            checked(result, "read a ring buffer")
        records, self._records = self._records, []
        return records

    def close(self) -> None:
        if self._buffer is not None:
            library.ring_buffer__free(self._buffer)
            self._buffer, self.fd = None, -1

    def _take(self, context: int, data: int, size: int) -> int:
        self._records.append(ctypes.string_at(data, size))
        return -errno.EAGAIN if len(self._records) >= self._limit else 0
