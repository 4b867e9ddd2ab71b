"""What stands before the API (ASGI): the bearer token, and the limit for bodies. And how errors look."""

import hmac

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BODY_LIMIT_BYTES = 8 * 1024 * 1024
"""Ten thousand intents and more."""
_DISCARD_BYTES = 64 * 1024 * 1024
"""How much of a body that is too large is read, so that its sender gets to reading the answer."""
STREAM_TYPE = b"application/x-ndjson"
OPEN_PATHS = frozenset({"/healthz"})
"""What needs no token."""


class Token:
    """No token, no access (RFC 6750), also not to what does not exist, and before any body is read."""

    def __init__(self, app: ASGIApp, *, token: str) -> None:
        """Raises ValueError for an empty token."""
        if not token.strip():
            raise ValueError("the token of the API is empty: everybody would have it; write a random one to its file")
        self._app = app
        self._expected = f"Bearer {token.strip()}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(given) == 1 and hmac.compare_digest(given[0], self._expected):
            await self._app(scope, receive, send)
            return
        what = "the token is not this controller's" if given else "there is no token"
        error = f"{what}; give its bearer token (stitch --token-file)"
        await answer_error(send, 401, error, (b"www-authenticate", b'Bearer realm="netstitch"'))


class BodyLimit:
    """Hands bodies on whole, or answers 413."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = bytearray()
        length = 0
        more = True
        while more and length <= _DISCARD_BYTES:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            part = message.get("body", b"")
            length += len(part)
            body = body + part if length <= BODY_LIMIT_BYTES else bytearray()
            more = message.get("more_body", False)
        if length > BODY_LIMIT_BYTES:
            await answer_error(send, 413, f"the body is larger than {BODY_LIMIT_BYTES} bytes; send less at once")
        else:
            await self._app(scope, _replay(bytes(body), receive), send)


def _replay(body: bytes, receive: Receive) -> Receive:
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


async def answer_error(send: Send, status: int, error: str, *headers: tuple[bytes, bytes]) -> None:
    """Closes the connection too: what the client still sends is no further request."""
    body = error_body(error)
    fixed = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": [*fixed, *headers]})
    await send({"type": "http.response.body", "body": body})


def error_body(error: str) -> bytes:
    return msgspec.json.encode({"error": error, "problems": []})
