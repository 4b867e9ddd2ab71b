"""What grows with nodes, entries or intents is worked out beside the event loop, whatever somebody asks for."""

import asyncio
import json
import threading
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from controller import telemetry
from controller.northbound.api import create_app
from controller.northbound.routes import explanations
from controller.northbound.routes import telemetry as routes
from controller.northbound.serve import Server, bound
from controller.northbound.tokens import Tokens
from controller.shell import Shell
from controller.telemetry import NodeTelemetry, StreamTally
from controller.traffic import Traffic
from controller.views import doctor, resource_view
from dataplane.host_api import CounterSample, FlowBatch, LostPackets, TelemetryBatch
from dataplane.reasons import DropReason
from tests.northbound_fake import TOKEN, FakeBackups
from tests.shell_parts import MemoryJournal, ignore
from tests.simulator import ORDER_PROCESSING, World


class Nodes:
    """All there, with a counter of each kind."""

    def __init__(self, *names: str) -> None:
        self._names = names

    def names(self) -> tuple[str, ...]:
        return self._names

    def fault(self, node: str) -> str:
        return ""

    def telemetry_fault(self, node: str) -> str:
        return ""

    async def flows(self, node: str, forwarding_class: int = -1) -> FlowBatch:
        return FlowBatch(time_s=1.0, flows=(), truncated=False)

    async def drops(self, node: str) -> tuple[CounterSample, ...]:
        return (CounterSample(index=int(DropReason.NOT_PERMITTED), packets=2, bytes=200),)

    async def losses(self, node: str) -> tuple[LostPackets, ...]:
        return ()

    async def forwarding_classes(self, node: str) -> tuple[CounterSample, ...]:
        return tuple(CounterSample(index=number, packets=3, bytes=300) for number in range(1, 20))

    forwarding_class_drops = forwarding_classes


class Nobody:
    """There are no neighbours."""

    def skews(self) -> Mapping[str, float]:
        return {}

    async def faults(self) -> Mapping[str, str]:
        return {}

    def refusals(self) -> Mapping[tuple[str, str], int]:
        return {}


def noting(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, threads: dict[str, threading.Thread]) -> None:
    """Notes in which thread it is called."""
    plain: Callable[..., Any] = getattr(module, name)

    def noted(*given: Any, **named: Any) -> Any:
        threads[name] = threading.current_thread()
        return plain(*given, **named)

    monkeypatch.setattr(module, name, noted)


PATHS = ("/v1/doctor", "/metrics", "/v1/drops", "/v1/drops?intent=order-processing", "/v1/flows", "/v1/graph")
WORKED_OUT = (
    (doctor, "checks"),
    (resource_view, "forwarding_classes"),
    (telemetry, "_carriers"),
    (routes, "_drops"),
    (routes, "_doctor"),
    (explanations, "written"),
)


def test_what_grows_is_worked_out_in_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.start()
    world.apply("shop", ORDER_PROCESSING)
    world.run(20.0)
    shop = world.controllers["shop"]
    shell = Shell(shop.state, (), journal=MemoryJournal(), keys=shop.keys, log=ignore)
    names = tuple(shell.state.inventory.nodes)
    tally = StreamTally()
    ports = world.nodes["se1"].describe().ports
    batch = TelemetryBatch(time_s=1.0, flows=(), forwarding_classes=(), drops=(), ports=ports, lost_batches=0)
    tally.observe("se1", batch)
    observed = NodeTelemetry(shell, Nodes(*names), Nobody(), tally, Traffic(1))
    app = create_app(shell, observed, Tokens(TOKEN), "shop", backups=FakeBackups())
    threads: dict[str, threading.Thread] = {}
    for module, name in WORKED_OUT:
        noting(monkeypatch, module, name, threads)
    answers: dict[str, Any] = {}

    async def ask(port: int, path: str) -> None:
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"authorization": f"Bearer {TOKEN}"})
        with await asyncio.to_thread(urllib.request.urlopen, request, timeout=60) as answer:
            data = answer.read()
        answers[path] = data if path == "/metrics" else json.loads(data)

    async def main() -> None:
        server = Server(app, bound("127.0.0.1", 0))
        serving = asyncio.create_task(server.run())
        await server.started.wait()
        for path in PATHS:
            await ask(server.port, path)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)

    asyncio.run(main())
    assert threads.keys() == {name for _, name in WORKED_OUT}
    assert threading.main_thread() not in threads.values(), "which is the loop's"
    assert {check["subject"] for check in answers["/v1/doctor"]["checks"]} >= {"intents", "nodes/se1"}
    assert b'netstitch_port_carrier{node="se1",interface="' in answers["/metrics"]
    assert [drop["packets"] for drop in answers["/v1/drops"]] == [2] * len(names)
    of_intent = [drop["packets"] for drop in answers["/v1/drops?intent=order-processing"]]
    assert of_intent and all(packets % 3 == 0 for packets in of_intent)
    assert answers["/v1/graph"]["nodes"]
