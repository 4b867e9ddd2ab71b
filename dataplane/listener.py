"""Where an agent is reached: a private Unix socket, or TCP with mutual TLS.

At TCP stands a door (dataplane/door.py): who only connects takes neither descriptors nor places from the controller.
TLS ends there.
"""

import ssl
from collections.abc import Callable
from pathlib import Path

import grpc

from dataplane import state
from dataplane.door import Door
from dataplane.errors import NodeRefused
from dataplane.host_api import AgentConfig
from dataplane.p4runtime.client_role import OnlyControllers
from dataplane.private_directory import PrivateDirectory
from dataplane.tls_end import server_context

_CONTROLLER = "controller"


class Listener:
    def __init__(self, config: AgentConfig, refused: Callable[[str, str], None]) -> None:
        """`refused`: address and reason, for the log."""
        self._config = config
        self._refused = refused
        self._directory: PrivateDirectory | None = None
        """Of this user alone: whoever reaches the socket inside is not counted at the door."""
        self._socket = ""
        self._tls: ssl.SSLContext | None = None
        self._door = Door(lambda: self._socket, self._context)
        self._is_private = config.listen.startswith("unix:")

    def interceptors(self) -> tuple[grpc.aio.ServerInterceptor, ...]:
        """That the server needs."""
        if self._is_private:
            return ()
        name = self._config.tls_client_name
        return (OnlyControllers(name, self._door.certificate, self._turned_away, self._is_controllers),)

    def bind(self, server: grpc.aio.Server) -> None:
        """Before the server is started. Raises RequestInvalid or NodeRefused."""
        try:
            if self._is_private:
                self._bind_private(server, Path(self._config.listen.removeprefix("unix:")))
            else:
                self._bind_inside(server)
        except (OSError, RuntimeError, ValueError) as error:  # a file that is no PEM, too
            raise self._cannot(error) from error

    async def open(self) -> None:
        """When it is started. Raises NodeRefused."""
        if self._is_private:
            return
        host, _, port = self._config.listen.rpartition(":")
        try:
            await self._door.open(host.strip("[]"), int(port))
        except (OSError, ValueError) as error:
            raise self._cannot(error) from error

    def close(self) -> None:
        self._door.close()
        if self._directory is not None:
            self._directory.remove()
            self._directory = None

    def _bind_private(self, server: grpc.aio.Server, path: Path) -> None:
        group = self._config.listen_group
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if group:
            state.share(path.parent, group, 0o710)
        else:
            state.check_private(path.parent)
        path.unlink(missing_ok=True)  # of an agent that is gone: the lock in state_dir says so
        server.add_insecure_port(self._config.listen)
        path.chmod(0o600)
        if group:
            state.share(path, group, 0o660)

    def _bind_inside(self, server: grpc.aio.Server) -> None:
        files = (self._config.tls_key, self._config.tls_certificate, self._config.tls_client_ca)
        key, chain, authority = (Path(file).read_bytes() for file in files)
        self._tls = server_context(key=key, certificates=chain, authorities=authority.decode())
        self._directory = PrivateDirectory("stitch-agent-")
        self._socket = f"{self._directory.path}/agent"
        server.add_insecure_port(f"unix:{self._socket}")

    def _context(self) -> ssl.SSLContext:
        assert self._tls is not None, "bound before it is opened"
        return self._tls

    def _is_controllers(self, inside: str) -> None:
        self._door.is_of(inside, _CONTROLLER)

    def _turned_away(self, inside: str, reason: str) -> None:
        self._refused(self._door.came_from(inside), reason)

    def _cannot(self, error: Exception) -> NodeRefused:
        return NodeRefused(f"cannot listen on {self._config.listen}: {error}")
