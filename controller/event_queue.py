"""What waits for the next turn of the shell: lanes, so that who says much waits for himself.

```
 clients, nodes, the clock ──▶ one lane ────────────────────▶ all of it ─┐
 neighbour a ────────────────▶ a lane each ─┐                            ├─▶ a turn
 neighbour b ────────────────▶              └▶ as many as a turn takes ──┘
                                               of them, the same of each
```

Within a lane everything keeps its order.
"""

import asyncio
from typing import Generic, TypeVar

from controller.model.event import Event, MessageReceived, PeerMet

T = TypeVar("T")

OURS = ""
"""The lane of all that no neighbour says."""


def lane_of(event: Event) -> str:
    return event.peer if isinstance(event, MessageReceived | PeerMet) else OURS


class EventQueue(Generic[T]):
    """Of one event loop."""

    def __init__(self, lane_max: int) -> None:
        self._lane_max = lane_max
        self._lanes: dict[str, asyncio.Queue[T]] = {OURS: asyncio.Queue(lane_max)}
        self._arrived, self._idle = asyncio.Event(), asyncio.Event()
        self._idle.set()
        self._unfinished = 0

    def __len__(self) -> int:
        return sum(lane.qsize() for lane in self._lanes.values())

    async def put(self, lane: str, item: T) -> None:
        """Waits while the lane is full."""
        await self._lane(lane).put(item)
        self._has_come()

    def put_nowait(self, lane: str, item: T) -> None:
        """Raises asyncio.QueueFull."""
        self._lane(lane).put_nowait(item)
        self._has_come()

    async def take(self, ours_max: int, theirs_max: int) -> list[T]:
        """One at least; of neighbours so many together."""
        while not len(self):
            self._arrived.clear()
            await self._arrived.wait()
        return self.take_nowait(ours_max, theirs_max)

    def take_nowait(self, ours_max: int, theirs_max: int) -> list[T]:
        """What each neighbour said in a row; whoever was not served last time comes first."""
        taken = _taken(self._lanes[OURS], ours_max)
        waiting = [name for name, lane in self._lanes.items() if name != OURS and not lane.empty()]
        left = theirs_max
        for place, name in enumerate(waiting):
            part = _taken(self._lanes[name], -(-left // (len(waiting) - place)))
            left -= len(part)
            taken += part
            if part:
                self._lanes[name] = self._lanes.pop(name)
        return taken

    def done(self, count: int) -> None:
        """So many that were taken have had their effects."""
        self._unfinished -= count
        if not self._unfinished:
            self._idle.set()

    async def join(self) -> None:
        """Until all that came has had its effects."""
        await self._idle.wait()

    def _lane(self, name: str) -> "asyncio.Queue[T]":
        return self._lanes.setdefault(name, asyncio.Queue(self._lane_max))

    def _has_come(self) -> None:
        self._unfinished += 1
        self._idle.clear()
        self._arrived.set()


def _taken(lane: "asyncio.Queue[T]", most: int) -> list[T]:
    return [lane.get_nowait() for _ in range(min(most, lane.qsize()))]
