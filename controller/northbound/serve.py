"""The HTTP server of the API: uvicorn, with the deadlines and limits that it lacks."""

import asyncio
import contextlib
import os
import socket
import ssl
import stat
from asyncio.sslproto import SSLProtocol
from collections.abc import Iterator
from email.utils import formatdate
from http import HTTPStatus
from pathlib import Path
from typing import Any

import anyio.to_thread
import h11
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from controller.northbound.connections import Connections
from controller.northbound.guard import STREAM_TYPE, answer_error, error_body
from controller.waited_for import asked
from dataplane.door import AT_ONCE_MAX, BACKLOG

HEADER_DEADLINE_S = 10.0
REQUEST_DEADLINE_S = 30.0
HANDSHAKE_DEADLINE_S = 10.0
GOODBYE_S = 5
"""For the other side's end of TLS."""
KEEP_ALIVE_S = 30
CLOSING_S = 1
HANDSHAKES_MAX = 128
"""Under way at a time; where one more comes, the oldest gives way: an honest one takes milliseconds."""
THREADS_MAX = 4
"""Requests whose answers are worked out at a time; others wait, and what else the process does is not held up."""
SOCKET_MODE = 0o660
"""Of a unix socket: who may connect still needs a token."""


def bound(host: str, port: int) -> socket.socket:
    """Listens. Port 0: any free one. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG)


def bound_at(path: Path) -> socket.socket:
    """Listens on a unix socket; one that nobody listens on any more is replaced. Raises OSError."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode) and not _is_served(path):
            path.unlink()
        listening.bind(os.fspath(path))
        path.chmod(SOCKET_MODE)
        listening.listen(BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trial:
        try:
            trial.connect(os.fspath(path))
        except ConnectionRefusedError:
            return False
    return True


class Server:
    """Serves while `run` runs."""

    def __init__(
        self,
        app: ASGIApp,
        listening: socket.socket,
        *,
        tls: ssl.SSLContext | None = None,
        handshake_deadline_s: float = HANDSHAKE_DEADLINE_S,
        header_deadline_s: float = HEADER_DEADLINE_S,
        request_deadline_s: float = REQUEST_DEADLINE_S,
    ) -> None:
        self._socket = listening
        unix = listening.family == socket.AF_UNIX
        self.port: int = 0 if unix else listening.getsockname()[1]
        self._deadline = Deadline(app, deadline_s=request_deadline_s)
        config = uvicorn.Config(
            self._deadline,
            http=type("Protocol", (DeadlineProtocol,), {"header_deadline_s": header_deadline_s}),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=CLOSING_S,
        )
        self._server = _Uvicorn(config, tls, handshake_deadline_s)
        self.started = self._server.ready

    @staticmethod
    def busy() -> bool:
        """Whether answers are worked out in threads."""
        return anyio.to_thread.current_default_thread_limiter().borrowed_tokens > 0

    async def run(self) -> None:
        """Until it is cancelled; then what is under way has CLOSING_S to end."""
        anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS_MAX
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(self._server.serve(sockets=[self._socket]))
            try:
                await asyncio.shield(serving)
            except asyncio.CancelledError:
                self._server.end()
                self._deadline.end_streams()
                await serving
                raise
            finally:
                self._socket.close()
                for connection in tuple(self._server.server_state.connections):
                    connection.transport.abort()  # it came while the server was closing
                self._server.give_up_handshakes()
                await asyncio.sleep(0)  # aborted transports close their sockets in the loop's next turn


class _Uvicorn(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, tls: ssl.SSLContext | None, handshake_deadline_s: float) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()
        self._tls = tls
        self._handshake_deadline_s = handshake_deadline_s
        self._handshakes: dict[Handshake, None] = {}
        self._connections = Connections()
        self._ending = asyncio.Event()

    def end(self) -> None:
        self.should_exit = True
        self._ending.set()

    async def main_loop(self) -> None:
        """Uvicorn looks ten times a second whether it shall end; here it is told."""
        await self._ending.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the process's, not the server's."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn does it, but for TLS, whose handshakes it neither bounds nor counts."""
        loop = asyncio.get_running_loop()
        self.servers = []
        for listening in sockets or ():
            if listening.family == socket.AF_UNIX:
                server = await loop.create_unix_server(self._protocol, sock=listening, backlog=AT_ONCE_MAX)
            else:
                server = await loop.create_server(self._protocol, sock=listening, backlog=AT_ONCE_MAX)
            listening.listen(BACKLOG)  # which asyncio has made as short as what it accepts at once
            self.servers.append(server)
        self.started = True
        self.ready.set()

    def give_up_handshakes(self) -> None:
        for handshake in tuple(self._handshakes):
            handshake.give_way()

    def _protocol(self) -> asyncio.BaseProtocol:
        plain: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state={"connections": self._connections}
        )
        if self._tls is None:
            return plain
        return Handshake(self._handshakes, plain, self._tls, self._handshake_deadline_s)


class Handshake(SSLProtocol):
    """TLS under HTTP. It counts among `under_way` until it is done, fails, is late, or gives way to a newer one."""

    def __init__(
        self, under_way: "dict[Handshake, None]", inner: asyncio.Protocol, tls: ssl.SSLContext, deadline_s: float
    ) -> None:
        super().__init__(
            asyncio.get_running_loop(),
            inner,
            tls,
            None,  # type: ignore[arg-type]  # nobody waits for it
            server_side=True,
            ssl_handshake_timeout=deadline_s,  # type: ignore[arg-type]  # seconds, also parts of them
            ssl_shutdown_timeout=GOODBYE_S,
        )
        self._under_way = under_way
        self._below: asyncio.Transport | None = None

    def connection_made(self, transport: Any) -> None:
        if len(self._under_way) >= HANDSHAKES_MAX:
            next(iter(self._under_way)).give_way()
        self._under_way[self] = None
        self._below = transport
        super().connection_made(transport)

    def give_way(self) -> None:
        self._under_way.pop(self, None)
        if self._below is not None:
            self._below.abort()

    def _on_handshake_complete(self, handshake_exc: Any) -> None:
        self._under_way.pop(self, None)
        super()._on_handshake_complete(handshake_exc)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._under_way.pop(self, None)
        super().connection_lost(exc)


class DeadlineProtocol(H11Protocol):
    """Closes a connection whose request headers are not complete in time (uvicorn waits for ever), and says whose it
    is: `scope["state"]["visit"]` is told by who knows the token."""

    header_deadline_s = HEADER_DEADLINE_S
    host = ""
    _header_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.host = self.client[0] if self.client is not None else ""
        self._visits: Connections = self.app_state["connections"]
        self.app_state = {"visit": lambda token: self._visits.is_of(self, token)}
        self._visits.enter(self)
        self._watch_headers()

    @property
    def idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def give_way(self) -> None:
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        # Here and not on a timer of uvicorn's, which would wake an idle controller once a second.
        self.server_state.default_headers = [(b"date", formatdate(usegmt=True).encode())]
        super().data_received(data)
        self._watch_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._visits.leave(self)
        super().connection_lost(exc)

    def _watch_headers(self) -> None:
        """One deadline for one set of headers: further bytes do not prolong it."""
        if self.conn.their_state is not h11.IDLE:
            self._stop_timer()
        elif self._header_timer is None and not self.transport.is_closing():
            self._header_timer = self.loop.call_later(self.header_deadline_s, self._headers_are_late)

    def _stop_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _headers_are_late(self) -> None:
        self._header_timer = None
        if self.conn.their_state is h11.IDLE:
            self._refuse(408, f"the headers of the request were not complete within {self.header_deadline_s:g} s")

    def eof_received(self) -> None:
        if self.conn.their_state is h11.SEND_BODY:
            self._refuse(400, "the request ended before its body was complete")

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "this is no valid HTTP/1.1 request")

    def _refuse(self, status: int, error: str) -> None:
        """Says so, unless something else is being said, and closes."""
        if self.transport.is_closing():
            return
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = error_body(error)
            fields = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
            for event in (
                h11.Response(status_code=status, headers=[*fields.items()], reason=HTTPStatus(status).phrase.encode()),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class Deadline:
    """ASGI: each request has a deadline, up to the end of its response; streams excepted, which last until they are
    told to end."""

    def __init__(self, app: ASGIApp, *, deadline_s: float) -> None:
        self._app = app
        self._deadline_s = deadline_s
        self._streams: set[asyncio.Task[None]] = set()
        self._ending = False

    def end_streams(self) -> None:
        self._ending = True
        for stream in self._streams:
            stream.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False
        task: asyncio.Task[None] | None = asyncio.current_task()

        async def watched_send(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                if dict(message["headers"]).get(b"content-type", b"").startswith(STREAM_TYPE) and task is not None:
                    deadline.reschedule(None)
                    self._streams.add(task)
            await send(message)

        try:
            with asked() as asker:
                try:
                    async with asyncio.timeout(self._deadline_s) as deadline:
                        await self._app(scope, receive, watched_send)
                finally:
                    asker.is_gone = True
        except TimeoutError:
            if started:
                raise  # the connection is closed, so that half an answer is not taken for all of it
            error = f"no answer within {self._deadline_s:g} s; look at what became of it, then try again"
            await answer_error(send, 503, error)
        except asyncio.CancelledError:
            if not self._ending or task not in self._streams:
                raise
            task.uncancel()
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._streams.discard(task)
