"""Hands the frames that XDP mirrors to whoever watches a port."""

import asyncio
import struct
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from dataplane.bounds import LARGEST_PORT
from dataplane.errors import RequestInvalid
from dataplane.host_api import CapturedFrame, CaptureQuery

_HEADER = struct.Struct("QII")
"""struct captured: time (CLOCK_MONOTONIC, ns), interface index, length of the whole frame; then up to 256 bytes."""
_FRAME = 256
_QUEUE = 4096


class Capture:
    def __init__(self, number_of: Callable[[int], int | None], switch: Callable[[int, bool], None]) -> None:
        """`number_of`: interface index → port. `switch`: mirroring of a port on or off; called from the event loop."""
        self._number_of = number_of
        self._switch = switch
        self._watchers: dict[int, list[asyncio.Queue[CapturedFrame]]] = {}

    def receive(self, record: bytes) -> None:
        """One record of the ring buffer. A watcher that does not keep up loses frames."""
        time_ns, index, length = _HEADER.unpack_from(record)
        watchers = self._watchers.get(self._number_of(index) or 0, [])
        if not watchers:
            return
        frame = CapturedFrame(
            time_s=time.time() - (time.monotonic_ns() - time_ns) / 1e9,
            original_length=length,
            frame=record[_HEADER.size : _HEADER.size + min(length, _FRAME)],
        )
        for queue in watchers:
            if not queue.full():
                queue.put_nowait(frame)

    async def watch(self, query: CaptureQuery, send: Callable[[CapturedFrame], Awaitable[None]]) -> None:
        """Until `count` frames were sent or `seconds` are over. Raises RequestInvalid."""
        if not 1 <= query.port <= LARGEST_PORT or query.count < 1 or not 0 < query.seconds <= 86_400:
            raise RequestInvalid(f"{query}: port is 1..{LARGEST_PORT}, count from 1, seconds up to 86400")
        with self._watching(query.port) as queue:
            try:
                async with asyncio.timeout(query.seconds):
                    for _ in range(query.count):
                        await send(await queue.get())
            except TimeoutError:
                return

    @contextmanager
    def _watching(self, port: int) -> Iterator[asyncio.Queue[CapturedFrame]]:
        queue: asyncio.Queue[CapturedFrame] = asyncio.Queue(_QUEUE)
        watchers = self._watchers.setdefault(port, [])
        if not watchers:
            self._switch(port, True)
        watchers.append(queue)
        try:
            yield queue
        finally:
            watchers.remove(queue)
            if not watchers:
                del self._watchers[port]
                self._switch(port, False)
