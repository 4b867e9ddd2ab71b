"""The HTTP server of the API: uvicorn, with the deadlines and limits that it lacks."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from http import HTTPStatus

import h11
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from controller.northbound.guard import STREAM_TYPE, answer_error, error_body

HEADER_DEADLINE_S = 10.0
REQUEST_DEADLINE_S = 30.0
KEEP_ALIVE_S = 30
CLOSING_S = 1
CONNECTIONS = 512


class Server:
    """Listens from its construction on; serves while `run` runs."""

    def __init__(
        self,
        app: ASGIApp,
        host: str,
        port: int,
        *,
        header_deadline_s: float = HEADER_DEADLINE_S,
        request_deadline_s: float = REQUEST_DEADLINE_S,
    ) -> None:
        """Raises OSError where it cannot listen. Port 0: any free one, see `port`."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=256)
        self.port: int = self._socket.getsockname()[1]
        self._deadline = Deadline(app, deadline_s=request_deadline_s)
        config = uvicorn.Config(
            self._deadline,
            http=type("Protocol", (DeadlineProtocol,), {"header_deadline_s": header_deadline_s}),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=CONNECTIONS,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=CLOSING_S,
        )
        self._server = _Uvicorn(config)
        self.started = self._server.ready

    async def run(self) -> None:
        """Until it is cancelled; then what is under way has CLOSING_S to end."""
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(self._server.serve(sockets=[self._socket]))
            try:
                await asyncio.shield(serving)
            except asyncio.CancelledError:
                self._server.should_exit = True
                self._deadline.end_streams()
                await serving
                raise
            finally:
                self._socket.close()
                for connection in tuple(self._server.server_state.connections):
                    connection.transport.abort()  # it came while the server was closing
                await asyncio.sleep(0)  # aborted transports close their sockets in the loop's next turn


class _Uvicorn(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the process's, not the server's."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


class DeadlineProtocol(H11Protocol):
    """Closes a connection whose request headers are not complete in time (uvicorn waits for ever)."""

    header_deadline_s = HEADER_DEADLINE_S
    _header_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch_headers()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
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
            async with asyncio.timeout(self._deadline_s) as deadline:
                await self._app(scope, receive, watched_send)
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
