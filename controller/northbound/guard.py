"""What stands before the API (ASGI): the bearer token, and what a body may be. And how errors look."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Sequence

import msgspec
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from controller import json_fields
from controller.json_fields import VALUES_MAX
from controller.model.event import Problem
from controller.northbound.connections import OF_A_TOKEN_MAX
from controller.northbound.tokens import Tokens

BODY_LIMIT_BYTES = 8 * 1024 * 1024
"""Ten thousand intents and more."""
BACKUP_PATH, BACKUP_TYPE = "/v1/restore", "application/vnd.sqlite3"
BACKUP_LIMIT_BYTES = 256 * 1024 * 1024
BODIES_BYTES_MAX = 24 * 1024 * 1024
BODIES_BYTES_OF_A_TOKEN_MAX = 16 * 1024 * 1024
"""Bodies under way together, from their first octet until they are answered; as much as is announced, or as may come.
Small ones do not count."""
SMALL_BYTES = 64 * 1024
BODY_PAUSE_S = 5.0
"""A body of which nothing comes for so long is given up."""
BODY_DEADLINE_S = 25.0
DRAIN_S = 5.0
"""How long a body that nobody wants is read, so that its sender gets to reading the answer."""
STREAM_TYPE = b"application/x-ndjson"
OPEN_PATHS = frozenset({"/healthz"})
"""What needs no token."""


class Bearer:
    """No token, no access (RFC 6750), also not to what does not exist, and before any body is read. Whose it is stands
    in `scope["state"]["principal"]`. When a token ends, what is open with it ends."""

    def __init__(self, app: ASGIApp, *, tokens: Tokens) -> None:
        self._app = app
        self._tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        scheme, _, secret = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        token = self._tokens.holder(secret) if scheme == b"Bearer" else None
        if token is None:
            await _not_let_in(send, "the token is not this controller's" if given else "there is no token", receive)
            return
        if self._tokens.expired(token):
            await _not_let_in(send, f"the token {token.name} has expired", receive)
            return
        state = scope.setdefault("state", {})
        state["principal"] = token.principal
        if (visit := state.get("visit")) is not None and not visit(token.name):
            await _too_much(send, f"{OF_A_TOKEN_MAX} requests of the token {token.name} are under way", receive)
            return
        said = _Said(send)
        try:
            async with self._tokens.using(token):
                await self._app(scope, receive, said)
        except TimeoutError:
            if not said.started:
                await _not_let_in(send, f"the token {token.name} has ended", None)
            elif said.streaming:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                raise  # the connection is closed, so that half an answer is not taken for all of it


class _Said:
    """What an application has sent so far."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = self.streaming = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            self.streaming = dict(message["headers"]).get(b"content-type", b"").startswith(STREAM_TYPE)
        await self._send(message)


async def _not_let_in(send: Send, why: str, unread: Receive | None) -> None:
    error = f"{why}; give a token of this controller (stitch --token-file)"
    await answer_error(send, 401, error, (b"www-authenticate", b'Bearer realm="netstitch"'), unread=unread)


class JsonBody:
    """Hands bodies on whole; refuses what is no JSON by its headers (415), too large (413), does not come (408), or is
    too much at a time (503): for one token, or for all."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._under_way: Counter[str] = Counter()
        """Octets, by whose token it is; a backup counts as nothing, and only one is put back at a time."""
        self._restoring = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        is_backup = scope["path"] == BACKUP_PATH
        media, limit = (BACKUP_TYPE, BACKUP_LIMIT_BYTES) if is_backup else ("application/json", BODY_LIMIT_BYTES)
        awaited = None if headers.get("expect") else receive  # who waits for our 100 has not sent it
        if "transfer-encoding" in headers and "content-length" in headers:  # RFC 9112 §6.1: somebody is being deceived
            await answer_error(send, 400, "the body has both a length and chunks; send one of them", unread=awaited)
        elif (length := int(headers.get("content-length", "0"))) > limit:
            await answer_error(send, 413, _too_large(limit, f"{length} bytes are announced"), unread=awaited)
        elif (length or "transfer-encoding" in headers) and (flaw := _media_flaw(headers, media)):
            await answer_error(send, 415, flaw, unread=awaited)
        elif is_backup:
            if self._restoring.locked():
                await _too_much(send, "another backup is being put back", awaited)
                return
            async with self._restoring:
                await self._read(scope, receive, send, length, limit)
        elif (size := length or (limit if "transfer-encoding" in headers else 0)) <= SMALL_BYTES:
            await self._read(scope, receive, send, length, limit)
        else:
            await self._count(scope, receive, send, size, limit, awaited)

    async def _count(
        self, scope: Scope, receive: Receive, send: Send, size: int, limit: int, awaited: Receive | None
    ) -> None:
        principal = scope.get("state", {}).get("principal")
        whose = principal.name if principal is not None else ""
        if self._under_way[whose] + size > BODIES_BYTES_OF_A_TOKEN_MAX:
            await _too_much(send, f"bodies of {self._under_way[whose]} bytes of this token are under way", awaited)
            return
        if self._under_way.total() + size > BODIES_BYTES_MAX:
            await _too_much(send, f"bodies of {self._under_way.total()} bytes are under way", awaited)
            return
        self._under_way[whose] += size
        try:
            await self._read(scope, receive, send, 0 if size == limit else size, limit)
        finally:
            self._under_way[whose] -= size
            if not self._under_way[whose]:
                del self._under_way[whose]

    async def _read(self, scope: Scope, receive: Receive, send: Send, length: int, limit: int) -> None:
        body = bytearray()
        more_body = True
        try:
            async with asyncio.timeout(BODY_DEADLINE_S):
                while more_body and len(body) <= limit:
                    message = await asyncio.wait_for(receive(), BODY_PAUSE_S)
                    if message["type"] == "http.disconnect":
                        return
                    body += message.get("body", b"")
                    more_body = message.get("more_body", False)
        except TimeoutError:
            of = f" of {length}" if length else ""
            await answer_error(send, 408, f"the body is not complete: {len(body)}{of} bytes came; send all of it")
            return
        if len(body) > limit:
            await answer_error(send, 413, _too_large(limit, "more came"), unread=receive if more_body else None)
        elif limit == BODY_LIMIT_BYTES and (values := json_fields.values(body)) > VALUES_MAX:
            error = f"a body has at most {VALUES_MAX} values, and this one up to {values}; send less at once"
            await answer_error(send, 413, error)
        else:
            await self._app(scope, _replay(bytes(body), receive), send)


async def _too_much(send: Send, why: str, unread: Receive | None) -> None:
    await answer_error(send, 503, f"{why}; try again in a moment", (b"retry-after", b"1"), unread=unread)


def _too_large(limit: int, size: str) -> str:
    return f"a body has at most {limit} bytes, and {size}; send less at once"


def _media_flaw(headers: Headers, wanted: str) -> str:
    """Why a body is not what is wanted (in UTF-8), by its headers; empty: it is, or they do not say."""
    if headers.get("content-encoding", "identity").lower() != "identity":
        return f"content-encoding {headers['content-encoding'][:40]!r}: send the body as it is"
    if "content-type" not in headers:
        return ""
    media, _, parameters = headers["content-type"].lower().partition(";")
    charset = parameters.replace(" ", "").replace('"', "")
    if media.strip() == wanted and charset in ("", "charset=utf-8"):
        return ""
    said = "application/json in UTF-8" if wanted == "application/json" else f"{wanted} here"
    return f"content-type {headers['content-type'][:80]!r}: bodies are {said}"


def _replay(body: bytes, receive: Receive) -> Receive:
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


async def answer_error(
    send: Send,
    status: int,
    error: str,
    *headers: tuple[bytes, bytes],
    problems: Sequence[Problem] = (),
    unread: Receive | None = None,
) -> None:
    """Closes the connection too: what the client still sends is no further request. `unread`: where a body may still
    come from, which is read for a while; else the client, still writing, would see its connection reset, not this."""
    body = error_body(error, problems)
    fixed = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": [*fixed, *headers]})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    if unread is not None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                while (await unread()).get("more_body", False):
                    pass
    await send({"type": "http.response.body", "body": b""})


def error_body(error: str, problems: Sequence[Problem] = ()) -> bytes:
    plain = [{"path": problem.path, "message": problem.message} for problem in problems]
    return msgspec.json.encode({"error": error, "problems": plain})
