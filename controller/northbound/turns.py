"""Everybody's turn: what one token asks for keeps others waiting no longer than what another one asks for."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from controller.model.access import Principal
from controller.northbound.serve import THREADS_MAX

OF_A_TOKEN_WORKING = THREADS_MAX // 2
ASKS = frozenset({"GET", "HEAD"})


class Turns:
    """ASGI: of a token's requests that ask for something, and whose answers have not begun, OF_A_TOKEN_WORKING are
    worked on at a time. Those that change something wait in the queue of events, which has shares of its own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._turns: dict[str, asyncio.Semaphore] = {}
        self._waiting: Counter[str] = Counter()
        """By token, with those that are worked on."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        principal: Principal | None = scope.get("state", {}).get("principal")
        if scope["type"] != "http" or principal is None or scope["method"] not in ASKS:
            await self._app(scope, receive, send)
            return
        async with contextlib.AsyncExitStack() as turn:
            await turn.enter_async_context(self._turn(principal.name))

            async def answer(message: Message) -> None:
                await turn.aclose()  # what is sent now has been worked out; or it is a watch
                await send(message)

            await self._app(scope, receive, answer)

    @contextlib.asynccontextmanager
    async def _turn(self, token: str) -> AsyncIterator[None]:
        self._waiting[token] += 1
        try:
            async with self._turns.setdefault(token, asyncio.Semaphore(OF_A_TOKEN_WORKING)):
                yield
        finally:
            self._waiting[token] -= 1
            if not self._waiting[token]:
                del self._waiting[token], self._turns[token]
