"""The reference lab without namespaces: real stitchd processes, stores and TLS; nodes of tests.node_fake."""

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec
from node_fake import FakeNode
from typed_in import typed
from waiting import LIMIT_S, until

from controller.eastwest.identity import keygen
from topologies import domain_files, topology_file

INTENT = Path(__file__).parent.parent / "topologies" / "intents" / "order-processing.yaml"
Manifest = dict[str, Any]


def intent(name: str = "order-processing", **spec: object) -> Manifest:
    """As topologies/intents/order-processing.yaml, if no `spec` is given."""
    usual = {
        "isolate": {"network": "shop/customer-x", "select": {"app": "order-processing"}},
        "allow": [{"to": "insight/analytics/analytics-y", "ports": ["tcp/443", "icmp"]}],
        "require": {"latency_ms": {"max": 20}, "encryption": "wireguard", "trust": {"min": "partner"}},
    }
    metadata = {"name": name, "tenant": "customer-x"}
    return {"apiVersion": "netstitch/v1", "kind": "Intent", "metadata": metadata, "spec": spec or usual}


def small_intent(name: str) -> Manifest:
    """One of many that do not contradict each other."""
    source = {"network": "shop/customer-x", "select": {"app": "web"}}
    return intent(name, allow=[{"from": source, "to": "insight/analytics/analytics-y", "ports": ["icmp"]}])


@dataclass
class Controller:
    """A `stitchd` process, started and killed at will."""

    domain: str
    config: Path
    listen: str
    token_file: Path
    log: Path
    process: asyncio.subprocess.Process | None = None
    directory: Path | None = None
    """Of another release, whose `stitchd` is run; None: this one's."""
    client: httpx.AsyncClient = field(default_factory=lambda: httpx.AsyncClient(timeout=LIMIT_S, trust_env=False))

    async def spawn(self) -> None:
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "controller", "--config", str(self.config), stderr=log, cwd=self.directory
            )

    async def start(self) -> float:
        """Seconds until it served."""
        began = time.monotonic()
        await self.spawn()
        assert self.process is not None
        while time.monotonic() < began + LIMIT_S:
            with contextlib.suppress(httpx.TransportError):
                if (await self.client.get(f"http://{self.listen}/healthz")).status_code == 200:
                    return time.monotonic() - began
            assert self.process.returncode is None, self.log.read_text()
            await asyncio.sleep(0.02)
        raise AssertionError(f"{self.domain} does not serve: {self.log.read_text()}")

    async def kill(self, number: signal.Signals = signal.SIGKILL) -> int:
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        async with asyncio.timeout(LIMIT_S):
            status = await self.process.wait()
        self.process = None
        await self.client.aclose()
        self.client = httpx.AsyncClient(timeout=LIMIT_S, trust_env=False)
        return status

    async def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token_file.read_text().strip()}"}
        return await self.client.request(method, f"http://{self.listen}/v1/{path}", headers=headers, **options)

    async def apply(self, *manifests: Manifest) -> httpx.Response:
        return await self.request("POST", "apply", json=list(manifests))

    async def get(self, kind: str) -> dict[str, Any]:
        """By name."""
        response = await self.request("GET", kind)
        assert response.status_code == 200, response.text
        return {resource["metadata"]["name"]: resource for resource in response.json()}

    async def phase(self, name: str) -> tuple[str, str]:
        """Phase and reasons; ("", "") where there is no such intent."""
        status = (await self.get("intents")).get(name, {}).get("status", {})
        return status.get("phase", ""), json.dumps(status.get("conditions", ""))

    def logged(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    @property
    def resident_mb(self) -> float:
        assert self.process is not None
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


class Federation:
    """Three domains in `directory` (short: sockets' paths have at most 107 characters)."""

    def __init__(self, directory: Path) -> None:
        self.topology = topology = typed(topology_file.load(topology_file.find("three-domains")))
        names = [domain.name for domain in topology.domains]
        ports = free_ports(2 * len(names))
        listen = {name: f"127.0.0.1:{port}" for name, port in zip(names, ports[: len(names)], strict=True)}
        eastwest = {name: f"127.0.0.1:{port}" for name, port in zip(names, ports[len(names) :], strict=True)}
        peers = {name: self._peer(name, directory / name, eastwest[name]) for name in names}
        self.nodes: dict[str, FakeNode] = {}
        for node in topology.nodes:
            config = domain_files.agent_config(topology, node, str(directory / node.name))
            self.nodes[node.name] = FakeNode(node.name, directory / node.name, config.ports, config.borders)
        agents = {name: node.agent for name, node in self.nodes.items()}
        self.domain_of = {node.name: node.domain for node in topology.nodes}
        self.controllers: dict[str, Controller] = {}
        for domain in topology.domains:
            own = directory / domain.name
            config = domain_files.ControllerConfig(
                domain=domain.name,
                inventory=str(own / "inventory.yaml"),
                policy=str(own / "policy.yaml"),
                store=str(own / "store.sqlite"),
                listen=listen[domain.name],
                token_file=str(own / "token"),
                eastwest=eastwest[domain.name],
                key_dir=str(own / "keys"),
            )
            Path(config.inventory).write_text(domain_files.inventory(topology, domain, peers, agents))
            Path(config.policy).write_text(domain_files.policy(domain))
            (own / "stitchd.json").write_bytes(msgspec.json.encode(config))
            self.controllers[domain.name] = Controller(
                domain.name, own / "stitchd.json", listen[domain.name], own / "token", own / "log"
            )

    async def start(self) -> None:
        for node in self.nodes.values():
            await node.start()
        await asyncio.gather(*(controller.start() for controller in self.controllers.values()))

    async def stop(self) -> None:
        for controller in self.controllers.values():
            if controller.process is not None:
                await controller.kill()
            await controller.client.aclose()
        for node in self.nodes.values():
            await node.stop()

    def entries(self) -> dict[str, object]:
        return {name: node.all_entries() for name, node in self.nodes.items()}

    def tunnels(self) -> dict[str, int]:
        return {name: len(node.host.state.tunnels) for name, node in self.nodes.items()}

    async def settled(self) -> None:
        """Until each node has, by its controller's word, all that it shall have."""

        async def ready() -> bool:
            writes = self.writes()
            for controller in self.controllers.values():
                if any(node["status"]["phase"] != "Ready" for node in (await controller.get("nodes")).values()):
                    return False
            return writes == self.writes() and all(node.entries("attachment") for node in self.nodes.values())

        await until(ready, "all nodes are ready")

    def writes(self) -> int:
        return sum(node.writes for node in self.nodes.values())

    @staticmethod
    def _peer(name: str, directory: Path, endpoint: str) -> domain_files.Peer:
        identity = keygen(name, directory / "keys")
        public = domain_files.Identity(domain=name, key=identity.public_key, certificate=identity.root_certificate)
        return domain_files.Peer(identity=public, endpoint=endpoint)


def free_ports(count: int) -> list[int]:
    """Of those that the kernel gives to nobody by itself: a controller that is started again finds its own free."""
    ports: set[int] = set()
    while len(ports) < count:
        port = random.SystemRandom().randrange(10_000, 30_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            ports.add(port)
    return sorted(ports)
