"""Runs real agents in namespaces for tests, and asks them."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import grpc
import msgspec
from namespaces import Namespace, run
from waiting import LIMIT_S

from dataplane.host_api import AgentConfig, Empty, HostReport, HostState, NodeDescription, decode, encode

_Answer = TypeVar("_Answer", bound=msgspec.Struct)


class AgentProcess:
    """An agent of a node with a directory of its own: configuration, state, socket and log."""

    def __init__(self, namespace: Namespace, directory: Path, pins: Path, **config: Any) -> None:
        self.namespace = namespace
        self.directory = directory
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.config: dict[str, Any] = {
            "name": directory.name,
            "listen": f"unix:{directory}/run/agent.sock",
            "state_dir": str(directory / "state"),
            "pin_dir": str(pins / directory.name),
            "wireguard_dir": str(directory / "wireguard"),
            "flow_cache_entries": 1024,
            "ports": [],
            **config,
        }
        msgspec.convert(self.config, AgentConfig)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()

    def logged(self, event: str) -> list[dict[str, Any]]:
        """Lines of an event; fails where a line is no JSON object with the fields of all."""
        lines = [json.loads(line) for line in self.log.splitlines()]
        assert all({"event", "level", "timestamp", "node"} <= line.keys() for line in lines)
        return [line for line in lines if line["event"] == event]

    def command(self, *options: str) -> list[str]:
        (self.directory / "config.json").write_text(json.dumps(self.config))
        agent = [sys.executable, "-m", "dataplane", "--config", str(self.directory / "config.json"), *options]
        return self.namespace.command(*agent)

    def start(self) -> float:
        """Until it answers; returns how long that took, in seconds."""
        begin = time.perf_counter()
        with (self.directory / "log").open("wb") as log:
            self.process = subprocess.Popen(self.command(), stdout=log, stderr=log, cwd=_ROOT)
        with self.channel() as channel:
            ready = grpc.channel_ready_future(channel)
            while True:
                try:
                    ready.result(timeout=0.1)
                    return time.perf_counter() - begin
                except grpc.FutureTimeoutError:
                    assert self.process.poll() is None, self.log
                    assert time.perf_counter() - begin < LIMIT_S, self.log

    def end(self, how: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        return self.process.wait(LIMIT_S)

    def remove(self) -> None:
        """Ends it and takes down what it made."""
        if self.process is not None and self.process.poll() is None:
            self.end(signal.SIGKILL)
        run(*self.command("--teardown"))

    def channel(self) -> grpc.Channel:
        # Reconnecting at once: an agent that restarts is waited for, not avoided.
        channel: grpc.Channel = grpc.insecure_channel(
            self.config["listen"], options=(("grpc.max_reconnect_backoff_ms", 100),)
        )
        return channel

    def ask(self, method: str, request: msgspec.Struct, kind: type[_Answer]) -> _Answer:
        """One unary call. Raises grpc.RpcError."""
        with self.channel() as channel:
            return decode(channel.unary_unary(f"/netstitch.Host/{method}")(encode(request), timeout=LIMIT_S), kind)  # type: ignore[arg-type,type-var]

    def stream(self, method: str, request: msgspec.Struct, kind: type[_Answer]) -> Iterator[_Answer]:
        with self.channel() as channel:
            for message in channel.unary_stream(f"/netstitch.Host/{method}")(encode(request), timeout=LIMIT_S):  # type: ignore[arg-type]
                yield decode(message, kind)  # type: ignore[type-var]

    def describe(self) -> NodeDescription:
        return self.ask("Describe", Empty(), NodeDescription)

    def sync(self, state: HostState) -> tuple[str, ...]:
        return self.ask("Sync", state, HostReport).changes

    def memory_mb(self) -> float:
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024


_ROOT = Path(__file__).resolve().parent.parent


class Bpffs:
    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        run("mount", "-t", "bpf", "bpf", str(directory))
        self.path = directory

    def remove(self) -> None:
        run("umount", str(self.path))
