"""WireGuard by wireguard-go: one process for each device, configured through its UAPI socket.

Protocol of the socket: https://www.wireguard.com/xplatform/. A process is found again after the agent restarted
through that socket: its listener is the process (SO_PEERCRED), so there is no file to go stale.
"""

import base64
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dataplane.errors import NodeRefused
from dataplane.wireguard.device import NO_PRESHARED_KEY, DeviceConfig, DeviceState, Peer, PeerTraffic, public_key

_SOCKET_DIRECTORY = Path("/var/run/wireguard")
"""Compiled into wireguard-go."""
_ANSWER_DEADLINE_S = 0.5
_ASK_AGAIN_S = 1.0
"""After that one that did not answer is asked again; until then its silence is the answer, and holds up nobody."""
_LOST_S = 5.0
"""One that has been silent for so long, or has not started, is ended and made anew."""
_STOP_DEADLINE_S = 2.0
_COMMAND = "wireguard-go"


@dataclass(frozen=True, slots=True)
class _Child:
    process: subprocess.Popen[bytes]
    started: float
    """By the monotonic clock."""
    has_answered: bool = False
    """Then one that nobody reaches any more is about to end, not about to begin."""


@dataclass(frozen=True, slots=True)
class _Silence:
    since: float
    asked: float
    """By the monotonic clock."""


class GoWireGuard:
    def __init__(self, directory: Path, log_directory: Path) -> None:
        """Sockets appear in `directory` (made 0700), what the processes complain about in `log_directory`."""
        self._directory = directory
        self._logs = log_directory
        self._children: dict[str, _Child] = {}
        self._silent: dict[str, _Silence] = {}
        """Devices whose process has a socket and does not answer."""
        self._program: str | None = None
        """Where it was found."""

    @property
    def software(self) -> str:
        return _COMMAND if self._is_installed() else "none"

    def _is_installed(self) -> bool:
        if self._program is None or not os.access(self._program, os.X_OK):
            self._program = shutil.which(_COMMAND)
        return self._program is not None

    def begin(self, device: str) -> None:
        if not self._is_installed():
            raise NodeRefused("the kernel has no WireGuard, and wireguard-go is not installed: one of them is needed")
        child = self._children.get(device)
        is_starting = child and not child.has_answered and child.process.poll() is None
        if child and is_starting and time.monotonic() - child.started < _LOST_S:
            return
        self.remove(device)
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._log(device).open("wb") as output:
            process = subprocess.Popen(
                self._command(device),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                # One runtime thread for Go: twice the throughput and half the latency of two on two cores.
                env={"PATH": os.environ.get("PATH", os.defpath), "LOG_LEVEL": "error", "GOMAXPROCS": "1"},
                start_new_session=True,
            )
        self._children[device] = _Child(process, time.monotonic())

    def create(self, device: str, wait_s: float = 5.0) -> None:
        if device not in self._children or self._children[device].has_answered:
            self.begin(device)
        deadline = time.monotonic() + wait_s
        while self.read(device) is None:
            if self._children[device].process.poll() is not None:
                complaint = self._log(device).read_text(errors="replace").strip().splitlines()
                self.remove(device)
                raise NodeRefused(
                    f"wireguard-go did not start for {device}: {complaint[-1] if complaint else 'it said nothing'} "
                    f"(is /dev/net/tun there, and no other interface called {device}?)"
                )
            if time.monotonic() > deadline:
                raise NodeRefused(f"wireguard-go of {device} has not started yet; it is looked at again in a moment")
            time.sleep(0.002)
        self._children[device] = replace(self._children[device], has_answered=True)

    def _command(self, device: str) -> list[str]:
        run = [_COMMAND, "--foreground", device]
        if self._directory.resolve() == _SOCKET_DIRECTORY.resolve():
            return run
        # Its own mount namespace, where our directory lies over the compiled-in one: device names need not be
        # unique among nodes that share a file system.
        _SOCKET_DIRECTORY.mkdir(mode=0o700, parents=True, exist_ok=True)
        script = f'mount --bind "$1" {_SOCKET_DIRECTORY} && shift && exec "$@"'
        return ["unshare", "--mount", "--propagation", "slave", "sh", "-c", script, "sh", str(self._directory), *run]

    def configure(self, device: str, config: DeviceConfig) -> None:
        state = self.read(device)
        if state is None:
            raise NodeRefused(f"nobody serves {self._socket(device)}: sync the tunnel again to start wireguard-go")
        lines = ["set=1"]
        if state.public_key != public_key(config.private_key):
            lines.append(f"private_key={_hex(config.private_key)}")
        if state.listen_port != config.listen_port:
            lines.append(f"listen_port={config.listen_port}")
        wanted = {peer.public_key for peer in config.peers}
        for peer in state.peers:
            if peer.public_key not in wanted:
                lines += [f"public_key={_hex(peer.public_key)}", "remove=true"]
        for peer in config.peers:
            if peer in state.peers:
                continue
            lines += _peer_lines(peer)
        self._set(device, lines)

    def start_handshakes(self, device: str) -> bool:
        state = self.read(device)
        if state is None:
            return False
        waiting = [peer for peer, said in zip(state.peers, state.traffic, strict=True) if not said.latest_handshake_s]
        for peer in waiting:
            self._set(device, ["set=1", f"public_key={_hex(peer.public_key)}", "remove=true", *_peer_lines(peer)])
        return bool(waiting)

    def read(self, device: str) -> DeviceState | None:
        answer = self._ask(device, "get=1\n\n")
        return None if answer is None else _device_state(answer)

    def remove(self, device: str) -> None:
        child = self._children.pop(device, None)
        silent = self._silent.pop(device, None)
        serving = self.process(device)
        begun = child.process.pid if child and child.process.poll() is None else None
        if (process := serving or begun) is not None:
            # One that does not answer, or never began to, does not listen to SIGTERM either.
            _stop(process, device, (signal.SIGTERM, signal.SIGKILL) if serving and not silent else (signal.SIGKILL,))
        if child is not None:
            child.process.wait(_STOP_DEADLINE_S)
        self._socket(device).unlink(missing_ok=True)
        self._log(device).unlink(missing_ok=True)

    def process(self, device: str) -> int | None:
        """Process id of the wireguard-go that serves `device`."""
        connection = self._connect(device)
        if connection is None:
            return None
        with connection:
            size = struct.calcsize("3i")
            pid, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
        try:
            name = Path(f"/proc/{pid}/comm").read_text().strip()
        except FileNotFoundError:
            return None
        if name != _COMMAND:
            raise NodeRefused(
                f"{self._socket(device)} is served by {name} ({pid}), not by wireguard-go: stop that first"
            )
        return int(pid)

    def _log(self, device: str) -> Path:
        return self._logs / f"{device}.log"

    def _socket(self, device: str) -> Path:
        return self._directory / f"{device}.sock"

    def _connect(self, device: str) -> socket.socket | None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(_ANSWER_DEADLINE_S)
        try:
            connection.connect(str(self._socket(device)))
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
            return None
        return connection

    def _set(self, device: str, lines: list[str]) -> None:
        if broken := next((line for line in lines if not (line.isascii() and line.isprintable())), None):
            raise NodeRefused(f"{device}: {broken.partition('=')[0]} would be more than one line for wireguard-go")
        answer = self._ask(device, "\n".join(lines) + "\n\n")
        if answer is None or ("errno", "0") not in answer:
            code = dict(answer or ()).get("errno", "no answer")
            raise NodeRefused(f"wireguard-go refused the configuration of {device}: errno {code}")

    def _no_answer(self, device: str) -> NodeRefused:
        return NodeRefused(
            f"wireguard-go of {device} does not answer on {self._socket(device)}: it is made anew where it goes on so"
        )

    def _ask(self, device: str, request: str) -> list[tuple[str, str]] | None:
        """None: nobody listens (any more)."""
        now, silence = time.monotonic(), self._silent.get(device)
        if silence and now - silence.since > _LOST_S:
            return None
        if silence and now - silence.asked < _ASK_AGAIN_S:
            raise self._no_answer(device)
        connection = self._connect(device)
        if connection is None:
            self._silent.pop(device, None)
            return None
        answer = bytearray()
        try:
            with connection:
                connection.sendall(request.encode())
                while not answer.endswith(b"\n\n") and (part := connection.recv(65536)):
                    answer += part
        except (ConnectionResetError, BrokenPipeError):
            return None  # it just ended
        except OSError as error:
            self._silent[device] = _Silence(silence.since if silence else now, now)
            raise self._no_answer(device) from error
        self._silent.pop(device, None)
        if not answer.endswith(b"\n\n"):
            return None
        lines = (line.partition("=") for line in answer.decode().splitlines() if line)
        return [(key, value) for key, _, value in lines]


def _peer_lines(peer: Peer) -> list[str]:
    return [
        f"public_key={_hex(peer.public_key)}",
        f"preshared_key={_hex(peer.preshared_key or NO_PRESHARED_KEY)}",
        *([f"endpoint={peer.endpoint}"] if peer.endpoint else []),
        f"persistent_keepalive_interval={peer.persistent_keepalive_s}",
        "replace_allowed_ips=true",
        *(f"allowed_ip={prefix}" for prefix in peer.allowed_ips),
    ]


def _device_state(answer: list[tuple[str, str]]) -> DeviceState:
    own: dict[str, str] = {}
    peers: list[tuple[dict[str, str], list[str]]] = []
    for key, value in answer:
        if key == "public_key":
            peers.append(({key: value}, []))
        elif key == "allowed_ip":
            peers[-1][1].append(value)
        elif peers:
            peers[-1][0][key] = value
        else:
            own[key] = value
    private = own.get("private_key")
    return DeviceState(
        public_key=public_key(_base64(private)) if private else "",
        listen_port=int(own.get("listen_port", 0)),
        peers=tuple(
            Peer(
                public_key=_base64(said["public_key"]),
                endpoint=said.get("endpoint", ""),
                allowed_ips=tuple(sorted(prefixes)),
                persistent_keepalive_s=int(said.get("persistent_keepalive_interval", 0)),
                preshared_key=_preshared(said.get("preshared_key", "")),
            )
            for said, prefixes in peers
        ),
        traffic=tuple(
            PeerTraffic(
                latest_handshake_s=int(said.get("last_handshake_time_sec", 0))
                + int(said.get("last_handshake_time_nsec", 0)) / 1e9,
                received_bytes=int(said.get("rx_bytes", 0)),
                sent_bytes=int(said.get("tx_bytes", 0)),
            )
            for said, _ in peers
        ),
    )


def _stop(process: int, device: str, kinds: Sequence[signal.Signals]) -> None:
    """SIGTERM lets it remove interface and socket; the next when that takes too long."""
    try:
        handle = os.pidfd_open(process)
    except ProcessLookupError:
        return
    try:
        for kind in kinds:
            signal.pidfd_send_signal(handle, kind)
            if select.select([handle], [], [], _STOP_DEADLINE_S)[0]:
                return
    except ProcessLookupError:
        return
    finally:
        os.close(handle)
    raise NodeRefused(f"wireguard-go of {device} (process {process}) does not end, even by SIGKILL")


def _hex(key: str) -> str:
    return base64.b64decode(key, validate=True).hex()


def _preshared(told: str) -> str:
    key = _base64(told)
    return "" if key == NO_PRESHARED_KEY else key


def _base64(key: str) -> str:
    return base64.b64encode(bytes.fromhex(key)).decode()
