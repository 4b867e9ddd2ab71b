"""A small controller behind the real API: resources in memory, intents that go through their phases."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from controller import process
from controller.errors import Overloaded
from controller.language import manifest
from controller.model.access import Principal
from controller.model.event import Problem
from controller.model.explanation import Branch
from controller.model.flow_columns import COLUMNS, FlowColumns
from controller.model.intent import Intent
from controller.model.network_graph import NetworkGraph
from controller.model.preview import IntentPreview, Preview
from controller.model.resource import Answer, Resource
from controller.model.telemetry import Carried, Check, Metric, NodeDrops, NodeFlows, Sample
from controller.model.trace import Crossing, Hop, Onward, Probe, Step, Trace, Unknown, Verdict
from controller.northbound import tls
from controller.northbound.api import create_app
from controller.northbound.serve import Server, bound
from controller.northbound.tokens import Tokens
from controller.revisions import Revisions
from controller.views import graph_view
from dataplane.host_api import CounterSample, FlowBatch, FlowRecord, LostPackets
from dataplane.reasons import DropReason, L4Class

TOKEN = "correct-horse"
KINDS = (
    "intents", "networks", "services", "nodes", "links", "domains", "agreements", "tunnels", "entries", "events",
    "incidents", "findings",
)  # fmt: skip
KNOWN_SERVICES = ("insight/analytics/analytics-y",)
INSTALLING_S = 0.2


def foreseen(data: dict[str, Any]) -> IntentPreview:
    quick = data["spec"].get("require", {}).get("latency_ms", {}).get("max", 20) < 1
    return IntentPreview(
        name=data["metadata"]["name"],
        before="",
        phase="Unsatisfiable" if quick else "Active",
        reasons=("latency: the best way takes 4 ms",) if quick else (),
        paths=() if quick else (("se1", "sg1"),),
        latency_ms=None if quick else 4.0,
    )


class FakeController:
    """Knows one service. Intents to it become Active; those that ask for less than 1 ms Unsatisfiable. No two may
    isolate the same."""

    def __init__(self) -> None:
        self.resources: dict[str, dict[str, Resource]] = {kind: {} for kind in KINDS}
        self.revisions = Revisions(1)
        self.applied: dict[tuple[str, str], int] = {}
        """At which revision each was applied last."""
        self.changed = asyncio.Condition()
        self.history: list[Resource] = []
        self.watchers = 0
        self.tasks: set[asyncio.Task[None]] = set()
        self.busy = False

    async def apply(
        self, manifests: list[dict[str, Any]], *, dry_run: bool, by: Principal, unchanged_since: int | None = None
    ) -> Answer:
        if self.busy:
            raise Overloaded("too many changes are waiting; try again in a second")
        applied, problems = manifest.read(manifests)
        values = [msgspec.json.decode(document.content, type=manifest.model_of(document.kind)) for document in applied]
        unknown = tuple(
            Problem(path=(index, "spec", "allow", place, "to"), message=f"unknown service {allow.to!r}")
            for index, value in enumerate(values)
            if isinstance(value, Intent)
            for place, allow in enumerate(value.allow)
            if allow.to not in KNOWN_SERVICES
        )
        if problems or unknown:
            return Answer(problems=problems or unknown)
        for data in manifests:
            for name, other in self.resources["intents"].items():
                same = other.spec.get("isolate") == data["spec"].get("isolate") is not None
                if data["kind"] == "Intent" and same and name != data["metadata"]["name"]:
                    return Answer(conflict=f"intents/{name} isolates the same already: withdraw it first")
        results = []
        plurals = {kind: plural for plural, kind in manifest.PLURALS.items()}
        if stale := self.stale(
            [(plurals[data["kind"]], data["metadata"]["name"]) for data in manifests], unchanged_since
        ):
            return Answer(stale=stale)
        for data in manifests:
            kind, name = plurals[data["kind"]], data["metadata"]["name"]
            results.append(f"{kind}/{name} {'changed' if name in self.resources[kind] else 'created'}")
            if not dry_run:
                await self.put(kind, data, {"phase": "Pending"} if kind == "intents" else {})
                self.applied[kind, name] = self.revisions.newest
                if kind == "intents":
                    task = asyncio.create_task(self.install(data))
                    self.tasks.add(task)
                    task.add_done_callback(self.tasks.discard)
        return Answer(
            results=tuple(results), preview=Preview(intents=tuple(map(foreseen, manifests))) if dry_run else None
        )

    def stale(self, things: Sequence[tuple[str, str]], since: int | None) -> tuple[int, ...]:
        """Of what was applied after `since`, or is not there, the places."""
        if since is None:
            return ()
        there = {
            (kind, name): self.applied.get((kind, name), 0) for kind, names in self.resources.items() for name in names
        }
        return tuple(place for place, thing in enumerate(things) if there.get(thing, since + 1) > since)

    async def install(self, data: dict[str, Any]) -> None:
        await asyncio.sleep(INSTALLING_S / 2)
        if self.present(data):
            await self.put(
                "intents",
                data,
                {"phase": "Installing", "conditions": [{"type": "Installing", "reason": "waits for se1"}]},
            )
        await asyncio.sleep(INSTALLING_S / 2)
        latency_ms = data["spec"].get("require", {}).get("latency_ms", {}).get("max", 20)
        path = ["se1", "sg1"]
        status: dict[str, Any] = {"phase": "Active", "path": path, "paths": [{"path": path}]}
        status["predicted"] = {"latency_ms": 4}
        if latency_ms < 1:
            status = {"phase": "Unsatisfiable", "conditions": [f"the best path takes 4 ms, not {latency_ms}"]}
        if self.present(data):
            await self.put("intents", data, status)

    def present(self, data: dict[str, Any]) -> bool:
        return data["metadata"]["name"] in self.resources["intents"]

    async def put(self, kind: str, data: dict[str, Any], status: dict[str, Any]) -> None:
        resource = Resource(kind=data["kind"], metadata=data["metadata"], spec=data["spec"], status=status)
        self.resources[kind][data["metadata"]["name"]] = resource
        await self.announce(resource)

    async def announce(self, resource: Resource) -> None:
        async with self.changed:
            self.history.append(resource)
            self.list(f"{resource.kind.lower()}s")
            self.changed.notify_all()

    def tenant(self, intent: str) -> str | None:
        stored = self.resources["intents"].get(intent)
        return stored.metadata["tenant"] if stored is not None else None

    async def delete(
        self,
        resources: Sequence[tuple[str, str]],
        *,
        ignore_missing: bool = False,
        dry_run: bool = False,
        by: Principal,
        unchanged_since: int | None = None,
    ) -> Answer:
        for kind, _ in resources:
            if kind not in manifest.PLURALS:
                raise KeyError(kind)
        missing = tuple(place for place, (kind, name) in enumerate(resources) if name not in self.resources[kind])
        if missing and not ignore_missing:
            return Answer(missing=missing)
        if stale := self.stale(resources, unchanged_since):
            return Answer(stale=stale)
        results = []
        if dry_run:
            return Answer(results=tuple(f"{kind}/{name} deleted" for kind, name in resources), preview=Preview())
        for kind, name in resources:
            removed = self.resources[kind].pop(name, None)
            results.append(f"{kind}/{name} {'absent' if removed is None else 'deleted'}")
            if removed is not None:
                await self.announce(msgspec.structs.replace(removed, status={"deleted": True}))
        return Answer(results=tuple(results))

    async def load_policy(self, *, dry_run: bool, by: Principal) -> Answer:
        if self.busy:
            return Answer(invalid="/etc/netstitch/policy.yaml:3:5: expected a list, found 7")
        return Answer(results=("policies/shop changed", "agreement transit:a:1 ends: no rule of shop accepts it"))

    async def renew(self, name: str, *, by: Principal) -> Answer:
        stored = self.resources["intents"].get(name)
        if stored is None:
            return Answer(missing=(0,))
        if "lease" not in stored.spec:
            return Answer(conflict=f"intent {name} has no end: there is nothing to renew")
        return Answer(results=(f"intents/{name} renewed until 2030-01-01T00:00:00Z",))

    async def decide(self, name: str, approved: bool, *, by: Principal) -> Answer:
        if name != "1":
            return Answer(missing=(0,))
        return Answer(results=("intents/quarantine-1 created" if approved else "incidents/1 rejected",))

    @property
    def revision(self) -> int:
        return self.revisions.newest

    async def drain(self, part: str, *, is_drained: bool, by: Principal) -> Answer:
        kind, _, name = part.partition("/")
        if name not in self.resources[kind]:
            return Answer(missing=(0,))
        return Answer(results=(f"{part} {'drained' if is_drained else 'undrained'}",))

    async def end_agreement(self, name: str, reason: str, hold_off_s: int, *, by: Principal) -> Answer:
        if self.resources["agreements"].pop(name, None) is None:
            return Answer(missing=(0,))
        return Answer(results=(f"agreements/{name} ended",))

    def list(self, kind: str) -> list[Resource]:
        present = sorted(self.resources[kind].values(), key=lambda resource: str(resource.metadata["name"]))
        return self.revisions.look(kind, present)

    def following(self, kind: str, after: str) -> Iterator[Resource]:
        return (resource for resource in self.list(kind) if str(resource.metadata["name"]) > after)

    def names(self, kind: str) -> Sequence[str]:
        return [*self.resources[kind]]

    def get(self, kind: str, name: str) -> Resource | None:
        return self.revisions.look_at(kind, name, self.resources[kind].get(name))

    def explain(self, kind: str, name: str) -> Branch | None:
        """The intent, and its clauses' destinations."""
        resource = self.resources["intents"].get(name)
        if kind not in ("intents", "entries"):
            raise KeyError(kind)
        if kind == "entries" or resource is None:
            return None
        clauses = (Branch(kind="clause", text=f"allow {allow['to']}") for allow in resource.spec.get("allow", ()))
        return Branch(kind="intent", name=f"intents/{name}", text="Active", children=tuple(clauses))

    def graph(self) -> NetworkGraph:
        return graph_view.network_graph("shop", {kind: self.list(kind) for kind in graph_view.KINDS})

    def trace(self, asked: Probe | Crossing, by: Principal) -> Trace | Unknown:
        """cx1 sends over the border, cx2 sends nothing; what comes over the border arrives."""
        entry = "se1/flow_policy/policy_class=1,priority=4"
        step = Step(entry=entry, text="permit forwarding_class=16", owner="intents/order-processing")
        hop = Hop(domain="shop", node="se1", ingress="host cx1", confirmed=True, steps=(step,), result="dropped")
        if isinstance(asked, Crossing):
            hop = msgspec.structs.replace(
                hop, domain="transit", node="t1", ingress=f"border {asked.border}", steps=(), result="delivered to ay1"
            )
            return Trace(packet="a packet", hops=(hop,), verdict=Verdict.DELIVERED, text="to ay1, at t1 port 2")
        packet = f"{asked.protocol} to {asked.destination} port {asked.port}"
        if asked.source == "cx1":
            hop = msgspec.structs.replace(
                hop, segments=("5f00::1",), containers=("5f00::1",), result="into the tunnel of sg1-t1"
            )
            onward = Onward(domain="transit", border="sg1-t1", sid="5f00::1", frame="00" * 60)
            return Trace(packet=packet, hops=(hop,), verdict=Verdict.LEFT, text="at se1", onward=onward)
        if asked.source == "cx2":
            text = "at se1: isolated, says intents/order-processing"
            return Trace(packet=packet, hops=(hop,), verdict=Verdict.DROPPED, text=text, owner=step.owner)
        return Unknown(f"no host of domain shop is {asked.source}")

    def watch(self, kind: str, name: str | None = None, *, since: int | None = None) -> AsyncIterator[Resource]:
        present = self.list(kind)
        if since is not None:
            gone = self.revisions.gone(kind, since)
            present = [*(resource for resource in present if resource.metadata["revision"] > since), *gone]
        return self._changes(kind, name, present)

    async def _changes(self, kind: str, name: str | None, present: Sequence[Resource]) -> AsyncIterator[Resource]:
        seen = len(self.history)
        self.watchers += 1
        try:
            for resource in present:
                if name in (None, resource.metadata["name"]):
                    yield resource
            while True:
                async with self.changed:
                    while len(self.history) == seen:
                        await self.changed.wait()
                for resource in self.history[seen:]:
                    seen += 1
                    if f"{resource.kind.lower()}s" == kind and name in (None, resource.metadata["name"]):
                        metadata = resource.metadata | {"revision": self.revision}
                        yield msgspec.structs.replace(resource, metadata=metadata)
        finally:
            self.watchers -= 1


def flow(source: str, destination: str, ports: tuple[int, int], packets: int, **fields: Any) -> FlowRecord:
    values: dict[str, Any] = {
        "policy_class": 1, "forwarding_class": 16, "ingress_port": 1, "l4_class": L4Class.TCP, "protocol": 6,
        "first_seen_s": 100.0, "last_seen_s": 101.0,
    }  # fmt: skip
    return FlowRecord(
        source_address=source,
        destination_address=destination,
        source_port=ports[0],
        destination_port=ports[1],
        packets=packets,
        bytes=packets * 100,
        **(values | fields),
    )


class FakeBackups:
    """Takes back what it gave."""

    copy = b"all of it"

    async def take(self) -> bytes:
        return self.copy

    async def put_back(self, copy: bytes) -> str:
        return "" if copy == self.copy else "this is no backup"


class _Flows(tuple[FlowRecord, ...]):
    """Flows that can be gone through from `released` on."""

    released: threading.Event

    def __iter__(self) -> Iterator[FlowRecord]:
        self.released.wait()
        return super().__iter__()


class FakeTelemetry:
    def __init__(self) -> None:
        self.isolated = 2
        self.well = True
        self.delay_s = 0.0
        self.many = 0
        """Flows of a scan beside the others."""
        self.released = threading.Event()
        """Until then, who goes through flows waits."""
        self.released.set()
        self.asked = 0
        self.passed_s = 101.0
        """When the first of the recent flows passed."""

    async def flows(self, concerns: Callable[[str], bool] | None = None) -> tuple[NodeFlows, ...]:
        self.asked += 1
        await asyncio.sleep(self.delay_s)
        records = (
            flow("10.1.0.11", "10.2.0.10", (4000, 443), 1, l4_class=L4Class.TCP_OPEN),
            flow("10.1.0.11", "10.2.0.10", (4000, 443), 9),
            flow("10.2.0.10", "10.1.0.11", (443, 4000), 8, policy_class=2, forwarding_class=17, ingress_port=0),
            flow("10.1.0.12", "10.1.0.13", (5000, 80), 3, forwarding_class=3),
        )
        records += tuple(
            flow("10.1.0.12", "10.1.0.13", (1000 + n // 60, n % 60), 1, forwarding_class=3) for n in range(self.many)
        )
        owners = {16: "intents/order-processing", 17: "intents/order-processing", 3: "networks/shop/customer-x"}
        flows = _Flows(records)
        flows.released = self.released
        return (
            NodeFlows(node="se1", batch=FlowBatch(time_s=102.0, flows=flows, truncated=bool(self.many)), owners=owners),
        )

    def recent_flows(self, after_s: float) -> FlowColumns:
        """Of two owners, a second from each other."""
        rows = np.arange(2)
        addresses = np.array([[0] * 10 + [255, 255, 10, 1, 0, 11 + n] for n in range(2)], dtype=np.uint8)
        fields = dict.fromkeys(COLUMNS, rows) | {"source_address": addresses, "destination_address": addresses}
        both = FlowColumns(
            **fields | {"time_s": self.passed_s + rows, "node": 0 * rows, "duration_s": rows / 2, "packets": 5 + rows},
            nodes=("se1",),
            owners=("intents/order-processing", "networks/shop/customer-x"),
        )
        return both.take(both.time_s > after_s)

    async def drops(self) -> tuple[NodeDrops, ...]:
        samples = (
            CounterSample(index=DropReason.ISOLATED, packets=self.isolated, bytes=200),
            CounterSample(index=DropReason.NOT_PERMITTED, packets=1, bytes=60),
            CounterSample(index=DropReason.FRAGMENT, packets=0, bytes=0),
        )
        losses = (LostPackets(port=1, interface="eth1", reason=DropReason.PORT_FULL, packets=5),)
        return (NodeDrops(node="se1", drops=samples), NodeDrops(node="ie1", drops=(), losses=losses))

    async def carried(self) -> tuple[Carried, ...]:
        return (
            Carried(
                node="se1",
                owner="intents/order-processing",
                packets=18,
                bytes=1800,
                dropped_packets=4,
                dropped_bytes=456,
            ),
            Carried(
                node="se1",
                owner="networks/shop/customer-x",
                packets=3,
                bytes=300,
                dropped_packets=1,
                dropped_bytes=114,
            ),
        )

    async def checks(self) -> tuple[Check, ...]:
        store = Check(subject="store", name="durable", ok=True, detail="revision 4")
        if self.well:
            return (store,)
        advice = "look at its log"
        return (store, Check(subject="nodes/se1", name="reachable", ok=False, detail="no answer in 2 s", advice=advice))

    async def metrics(self) -> tuple[Metric, ...]:
        sample = Sample(labels=(("peer", 'a"b\\c'),), value=3)
        offers = Metric(name="netstitch_offers_total", help="Offers\nsent.", kind="counter", samples=(sample,))
        return (*process.metrics(), offers)


class Running:
    """The fake behind the real server, in a thread with a loop of its own."""

    def __init__(self, server: Server, controller: FakeController, telemetry: FakeTelemetry, scheme: str) -> None:
        self.controller, self.telemetry = controller, telemetry
        self.port = server.port
        self.url = f"{scheme}://127.0.0.1:{server.port}"


@contextlib.contextmanager
def running(
    port: int = 0,
    *,
    tokens: Tokens | None = None,
    certificate: tuple[Path, Path] | None = None,
    before: FakeController | None = None,
    **deadlines: float,
) -> Iterator[Running]:
    """With a certificate and its key it speaks TLS. `before`: whose resources it has stored."""
    ready: list[Running] = []
    loop = asyncio.new_event_loop()
    up = threading.Event()
    stop = asyncio.Event()

    async def main() -> None:
        controller, telemetry = FakeController(), FakeTelemetry()
        if before is not None:
            controller.resources, controller.revisions = before.resources, Revisions(2)
        app = create_app(controller, telemetry, tokens or Tokens(TOKEN), "shop", backups=FakeBackups())
        context = tls.context(*certificate) if certificate is not None else None
        server = Server(app, bound("127.0.0.1", port), tls=context, **deadlines)
        ready.append(Running(server, controller, telemetry, "http" if context is None else "https"))
        serving = asyncio.create_task(server.run())
        await server.started.wait()
        up.set()
        await stop.wait()
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving
        for task in (installing := tuple(controller.tasks)):
            task.cancel()
        await asyncio.gather(*installing, return_exceptions=True)

    thread = threading.Thread(target=lambda: loop.run_until_complete(main()))
    thread.start()
    try:
        assert up.wait(10)
        yield ready[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        assert not thread.is_alive(), "the server does not stop"
        loop.close()
