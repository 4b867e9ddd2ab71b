"""Who only connects has no more than a part of a turn of the loop: all else of the process has its own."""

import asyncio
import socket
import ssl
from collections import Counter

import pytest
from waiting import LIMIT_S, until

from controller.northbound import serve
from controller.northbound.serve import Server, bound
from dataplane import door
from dataplane.door import AT_ONCE_MAX, Door

MANY = 5 * AT_ONCE_MAX


async def most_at_once(port: int, entered: list[int], turn: list[int]) -> int:
    """Of connections that wait in the kernel, all of them before the loop goes on."""
    turning = asyncio.ensure_future(count(turn))
    sockets = [socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S) for _ in range(MANY)]
    try:
        await until(lambda: len(entered) == MANY, "all have come in")
    finally:
        turning.cancel()
        for each in sockets:
            each.close()
    return max(Counter(entered).values())


async def count(turn: list[int]) -> None:
    while True:
        turn[0] += 1
        await asyncio.sleep(0)


async def test_the_api_accepts_some_and_then_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    entered, turn, made = list[int](), [0], serve.DeadlineProtocol.connection_made

    def note(self: serve.DeadlineProtocol, transport: asyncio.Transport) -> None:
        entered.append(turn[0])
        made(self, transport)

    monkeypatch.setattr(serve.DeadlineProtocol, "connection_made", note)

    async def nothing(scope: object, receive: object, send: object) -> None:
        """No request comes."""

    server = Server(nothing, bound("127.0.0.1", 0))
    running = asyncio.ensure_future(server.run())
    await server.started.wait()
    try:
        assert await most_at_once(server.port, entered, turn) <= AT_ONCE_MAX
    finally:
        running.cancel()
        await asyncio.wait({running})


async def test_a_door_accepts_some_and_then_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    entered, turn, made = list[int](), [0], door.Visit.connection_made

    def note(self: door.Visit, transport: asyncio.Transport) -> None:
        entered.append(turn[0])
        made(self, transport)

    monkeypatch.setattr(door.Visit, "connection_made", note)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    opened = Door(lambda: "/nowhere", lambda: context)
    port = await opened.open("127.0.0.1", 0)
    try:
        assert await most_at_once(port, entered, turn) <= AT_ONCE_MAX
    finally:
        opened.close()
