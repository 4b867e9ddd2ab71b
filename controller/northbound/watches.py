"""What changes, a line each, for as long as somebody listens."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import msgspec
from fastapi import Response
from fastapi.responses import StreamingResponse

from controller.errors import TooOld
from controller.model.resource import Resource
from controller.northbound.answers import refusal
from controller.northbound.guard import STREAM_TYPE
from controller.northbound.lists import Selection
from controller.northbound.scope import Scoped

HEARTBEAT_S = 10.0
"""A watch sends an empty line when it has been silent for so long."""


def follow(controller: Scoped, kind: str, name: str | None, since: int | None, selection: Selection) -> Response:
    """Raises KeyError for an unknown kind."""
    try:
        changes = controller.watch(kind, name, since=since)
    except TooOld as error:
        return refusal(410, str(error))
    media_type = STREAM_TYPE.decode()
    return StreamingResponse(_lines(changes, selection, resumed=since is not None), media_type=media_type)


async def _lines(changes: AsyncIterator[Resource], selection: Selection, *, resumed: bool) -> AsyncIterator[bytes]:
    """NDJSON, with empty lines as heartbeat. What is no longer selected is gone for who watches; `resumed`: we do not
    know what was shown before. Closes `changes` when the client has gone."""
    shown: set[str] = set()
    pending: asyncio.Future[Resource] | None = None
    try:
        yield b"\n"  # the headers go out at once, also when there is nothing to tell yet
        while True:
            pending = pending or asyncio.ensure_future(anext(changes))
            done, _ = await asyncio.wait((pending,), timeout=HEARTBEAT_S)
            if not done:
                yield b"\n"
                continue
            resource, pending = pending.result(), None
            name = str(resource.metadata["name"])
            if selection.picks(resource):
                shown.add(name)
            elif name in shown or resumed:
                shown.discard(name)
                resource = msgspec.structs.replace(resource, spec={}, status={"deleted": True})
            else:
                continue
            yield msgspec.json.encode(resource) + b"\n"
    except StopAsyncIteration:
        return
    finally:
        if pending is not None:
            pending.cancel()
            with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration):
                await pending
        close = getattr(changes, "aclose", None)
        if close is not None:
            await close()
