"""Maps in memory that behave as BPF maps do, for tests of what writes into them."""

import errno
import sys


class FakeMap:
    """A hash map; with `fixed` an array, which holds every index from the start, or with `lpm` an LPM trie."""

    def __init__(
        self, key_size: int, value_size: int, max_entries: int, *, fixed: bool = False, lpm: bool = False
    ) -> None:
        self.key_size = key_size
        self.value_size = value_size
        self.max_entries = max_entries
        self._fixed = fixed
        self._lpm = lpm
        self.data: dict[bytes, bytes] = {}
        if fixed:
            self.data = {index.to_bytes(4, "little"): bytes(value_size) for index in range(max_entries)}

    def lookup(self, key: bytes) -> bytes | None:
        if not self._lpm:
            return self.data.get(key)
        matches = [(_prefix_length(other), value) for other, value in self.data.items() if _holds(other, key)]
        return max(matches)[1] if matches else None

    def update(self, key: bytes, value: bytes) -> None:
        if len(key) != self.key_size or len(value) != self.value_size:
            raise OSError(errno.EINVAL, "size")
        if key not in self.data and (self._fixed or len(self.data) >= self.max_entries):
            raise OSError(errno.E2BIG, "full")
        self.data[bytes(key)] = bytes(value)

    def delete(self, key: bytes) -> bool:
        if self._fixed:
            raise OSError(errno.EINVAL, "array")
        return self.data.pop(key, None) is not None

    def update_batch(self, keys: bytes, values: bytes) -> None:
        for row in range(len(keys) // self.key_size):
            self.update(
                keys[row * self.key_size : (row + 1) * self.key_size],
                values[row * self.value_size : (row + 1) * self.value_size],
            )

    def delete_batch(self, keys: bytes) -> None:
        for start in range(0, len(keys), self.key_size):
            self.delete(keys[start : start + self.key_size])

    def items(self) -> tuple[bytes, bytes]:
        return b"".join(self.data), b"".join(self.data.values())


def _prefix_length(key: bytes) -> int:
    return int.from_bytes(key[:4], sys.byteorder)


def _holds(prefix: bytes, key: bytes) -> bool:
    length = _prefix_length(prefix)
    shift = 8 * (len(key) - 4) - length
    return length <= _prefix_length(key) and int.from_bytes(prefix[4:]) >> shift == int.from_bytes(key[4:]) >> shift
