"""The generation of each context: XDP's flow cache answers for a context as long as it is the one it saw.

The cache compares the low 16 bits. A flow that is idle while a context goes through all of their values would be
answered as it was then: so before that can be, all flows that are behind are marked `STALE`, which no context ever is.
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from dataplane.columns import Numbers
from dataplane.flow_cache import STALE
from dataplane.reasons import CONTEXTS
from dataplane.stores import MapWriter

ALL_CONTEXTS: Numbers = np.arange(CONTEXTS, dtype=np.uint32)
SWEEP = 1 << 15
"""Changes of one context at most until flows that are behind are marked: half of what 16 bits tell apart."""
_FREE = 0
_LOW = np.uint32(0xFFFF)

Expire: TypeAlias = Callable[[Numbers], None]
"""Marks what the flow cache has of other generations than these, by context (see FlowCache.expire)."""


class Generations:
    def __init__(self, target: MapWriter, expire: Expire | None = None) -> None:
        """Takes over what is in `target`, the map `generation`, and makes all that is cached be resolved anew.

        `expire` is needed where there is a flow cache. Raises OSError.
        """
        self._map = target
        self._expire = expire
        self._now: Numbers = np.ones(CONTEXTS, np.uint32)
        keys, values = target.items()
        self._now[np.frombuffer(keys, np.uint32)] = np.frombuffer(values, np.uint32)
        self._changes: Numbers = np.full(CONTEXTS, SWEEP, np.uint32)  # How many there were before, nobody knows.
        # The process before may have been killed between a write and its new generations.
        self.advance(ALL_CONTEXTS)

    def now(self, context: int) -> int:
        return int(self._now[context])

    def advance(self, contexts: Numbers) -> None:
        """What is cached for `contexts`, each named once, is resolved anew. Raises OSError."""
        if not len(contexts):
            return
        raised = self._now[contexts] + np.uint32(1)
        for reserved in (STALE, _FREE):  # in the order in which they come
            raised[(raised & _LOW) == reserved] += np.uint32(1)
        self._now[contexts] = raised
        self._map.update_batch(contexts.astype(np.uint32).tobytes(), raised.tobytes())
        self._changes[contexts] += np.uint32(1)
        if self._expire is not None and self._changes[contexts].max() >= SWEEP:
            self._expire(self._now)
            self._changes[:] = 0
