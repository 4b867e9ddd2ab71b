"""The generation of each policy class: XDP's flow cache answers for one as long as it is the generation it saw.

The cache compares the low 16 bits. A flow that is idle while a policy class goes through all of their values would be
answered as it was then: so before that can be, all flows that are behind are marked `STALE`, a generation that no
policy class ever has.
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from dataplane.p4runtime.columns import Numbers
from dataplane.tables.stores import MapWriter
from dataplane.xdp.flow_cache import STALE

SWEEP = 1 << 15
"""Changes of one policy class at most until flows that are behind are marked: half of what 16 bits tell apart."""
_FREE = 0
_LOW = np.uint32(0xFFFF)

Expire: TypeAlias = Callable[[Numbers], None]
"""Marks what the flow cache has of other generations than these, by policy class (see FlowCache.expire)."""


class Generations:
    def __init__(self, target: MapWriter, expire: Expire | None = None) -> None:
        """Takes over what is in `target`, the map `generation`, and makes all that is cached be resolved anew.

        `expire` is needed where there is a flow cache. Raises OSError.
        """
        self._map = target
        self._expire = expire
        self.all: Numbers = np.arange(target.max_entries, dtype=np.uint32)
        self._now: Numbers = np.ones(target.max_entries, np.uint32)
        keys, values = target.items()
        self._now[np.frombuffer(keys, np.uint32)] = np.frombuffer(values, np.uint32)
        self._changes: Numbers = np.full(
            target.max_entries, SWEEP, np.uint32
        )  # How many there were before, nobody knows.
        # The process before may have been killed between a write and its new generations.
        self.advance(self.all)

    def now(self, policy_class: int) -> int:
        return int(self._now[policy_class])

    def advance(self, classes: Numbers) -> None:
        """What is cached for these policy classes, each named once, is resolved anew. Raises OSError."""
        if not len(classes):
            return
        raised = self._now[classes] + np.uint32(1)
        for reserved in (STALE, _FREE):  # in the order in which they come
            raised[(raised & _LOW) == reserved] += np.uint32(1)
        self._now[classes] = raised
        self._map.update_batch(classes.astype(np.uint32).tobytes(), raised.tobytes())
        self._changes[classes] += np.uint32(1)
        if self._expire is not None and self._changes[classes].max() >= SWEEP:
            self._expire(self._now)
            self._changes[:] = 0
