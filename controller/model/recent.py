"""What was worked out lately is not worked out again: as functools.lru_cache, but bounded by octets, for others choose
how large each is."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """Calls `make`; what raises is not kept. Thread-safe."""

    def __init__(self, make: Callable[[K], V], octets: Callable[[K], int], octets_max: int) -> None:
        self._make, self._octets, self._octets_max = make, octets, octets_max
        self._made: OrderedDict[K, V] = OrderedDict()
        self._kept = 0
        self._lock = threading.Lock()

    def __call__(self, key: K) -> V:
        with self._lock:
            if key in self._made:
                self._made.move_to_end(key)
                return self._made[key]
        value = self._make(key)
        with self._lock:
            if key not in self._made:
                self._kept += self._octets(key)
                self._made[key] = value
            while self._kept > self._octets_max:
                eldest, _ = self._made.popitem(last=False)
                self._kept -= self._octets(eldest)
        return value
