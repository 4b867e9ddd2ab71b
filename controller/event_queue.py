"""What waits for the next turn of the shell: lanes, so that who says much, or what takes long, waits for himself.

```
 clients, nodes, the clock ──▶ one lane ─────────────────────────▶ all of it ─┐
 neighbour a ────────────────▶ a lane each ─┐                                 ├─▶ a turn
 neighbour b ────────────────▶              └▶ some of them, the same time ───┘
                                               of each, by what they took of late
```

Within a lane everything keeps its order. Who has had least time comes first (fair queueing: Demers, Keshav, Shenker
1989), and one message at least is in a turn, however long such messages take.
"""

import asyncio
from typing import Generic, TypeVar

from controller.model.event import Event, MessageReceived, PeerMet

T = TypeVar("T")

OURS = ""
"""The lane of all that no neighbour says."""
EVENT_S = 0.001
"""What one takes to step, until it is known."""
MEMORY = 8
"""So many events a lane's cost is of, about."""

ROUNDING = 1e-6


def lane_of(event: Event) -> str:
    return event.peer if isinstance(event, MessageReceived | PeerMet) else OURS


class _Lane(Generic[T]):
    def __init__(self, most: int) -> None:
        self.items: asyncio.Queue[T] = asyncio.Queue(most)
        self.used_s = 0.0
        """Of the time that is shared."""
        self.event_s = EVENT_S

    def taken(self, most: int) -> list[T]:
        return [self.items.get_nowait() for _ in range(min(most, self.items.qsize()))]


class EventQueue(Generic[T]):
    """Of one event loop."""

    def __init__(self, lane_max: int) -> None:
        self._lane_max = lane_max
        self._lanes: dict[str, _Lane[T]] = {OURS: _Lane(lane_max)}
        self._served_s = 0.0
        """What who was served last had used: who comes anew has saved nothing up."""
        self._arrived, self._idle = asyncio.Event(), asyncio.Event()
        self._idle.set()
        self._unfinished = 0

    def __len__(self) -> int:
        return sum(lane.items.qsize() for lane in self._lanes.values())

    async def put(self, lane: str, item: T) -> None:
        """Waits while the lane is full."""
        await self._lane(lane).items.put(item)
        self._has_come()

    def put_nowait(self, lane: str, item: T) -> None:
        """Raises asyncio.QueueFull."""
        self._lane(lane).items.put_nowait(item)
        self._has_come()

    async def take(self, most: int, theirs_s: float) -> list[T]:
        """One at least; `most` of ours, and of neighbours what `theirs_s` are enough for."""
        while not len(self):
            self._arrived.clear()
            await self._arrived.wait()
        return self.take_nowait(most, theirs_s)

    def take_nowait(self, most: int, theirs_s: float) -> list[T]:
        taken = self._lanes[OURS].taken(most)
        waiting = [lane for name, lane in self._lanes.items() if name != OURS and not lane.items.empty()]
        for place, lane in enumerate(sorted(waiting, key=lambda lane: lane.used_s)):
            count = int(theirs_s / len(waiting) / lane.event_s + ROUNDING)
            if not place:
                self._served_s = lane.used_s
                count = max(count, 1)
            taken += lane.taken(min(count, most))
        return taken

    def took(self, lane: str, seconds: float, count: int) -> None:
        """So long so many of its events took."""
        charged = self._lane(lane)
        charged.used_s += seconds
        charged.event_s += (seconds / count - charged.event_s) * min(count / MEMORY, 1)

    def done(self, count: int) -> None:
        """So many that were taken have had their effects."""
        self._unfinished -= count
        if not self._unfinished:
            self._idle.set()

    async def join(self) -> None:
        """Until all that came has had its effects."""
        await self._idle.wait()

    def _lane(self, name: str) -> _Lane[T]:
        lane = self._lanes.get(name)
        if lane is None:
            lane = self._lanes[name] = _Lane(self._lane_max)
        if lane.items.empty():
            lane.used_s = max(lane.used_s, self._served_s)
        return lane

    def _has_come(self) -> None:
        self._unfinished += 1
        self._idle.clear()
        self._arrived.set()
