"""What is stored, as people see it: lists, one resource, what changes, why it is so."""

import asyncio
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence

import msgspec

from controller import reconcile
from controller.adapters import Plugins, Throughput
from controller.errors import TooOld
from controller.history import History
from controller.model.access import OURSELVES, Principal
from controller.model.explanation import Branch
from controller.model.network_graph import NetworkGraph
from controller.model.resource import Resource
from controller.model.trace import Crossing, Probe, Trace, Unknown
from controller.revisions import Revisions
from controller.views import explain, graph_view, resource_view, tracing
from controller.waited_for import waited_for

WATCH_PAUSES = 4
"""How much longer than it looked a watch waits before it looks again: 10,000 intents are long to look at."""


class Reading:
    """The half of model.resource.Controller that changes nothing. Who steps replaces `_stored` and wakes watches."""

    def __init__(
        self,
        state: reconcile.State,
        *,
        plugins: Plugins | None,
        history: History,
        now_s: Callable[[], float],
        traffic: Throughput | None = None,
    ) -> None:
        self._stored = state
        self._plugins = plugins
        self._traffic = traffic
        self._history = history
        self._now_s = now_s
        self._revisions = Revisions(state.counters.get("start", 0))
        self._looking: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        """By kind: requests are answered in threads, so that the loop waits for none of them."""
        self._watchers: set[asyncio.Event] = set()

    @property
    def state(self) -> reconcile.State:
        """The newest that is stored."""
        return self._stored

    def _wake(self) -> None:
        """Watches look again."""
        for watcher in self._watchers:
            watcher.set()

    def tenant(self, intent: str) -> str | None:
        intent_record = self._stored.intent_records.get(intent)
        return intent_record.intent.tenant if intent_record is not None else None

    def list(self, kind: str) -> list[Resource]:
        with self._looking[kind]:
            return self._revisions.look(kind, self._resources(kind))

    def following(self, kind: str, after: str) -> Iterator[Resource]:
        if kind != "intents":
            yield from (resource for resource in self.list(kind) if str(resource.metadata["name"]) > after)
            return
        for name in sorted(name for name in self._stored.intent_records if name > after):
            if (resource := self.get(kind, name)) is not None:
                yield resource

    def _resources(self, kind: str) -> Sequence[Resource]:
        if kind == "plugins":
            return self._plugins.resources() if self._plugins is not None else []
        if kind == "events":
            return self._history.resources()
        resources = resource_view.resources(self._stored, kind, self._now_s())
        return [*self._with_measured(resources)] if kind == "intents" else resources

    def _with_measured(self, intents: Iterable[Resource]) -> Iterator[Resource]:
        """With their throughput, where it is known: it changes all the time, and the core knows nothing of it."""
        measured = self._traffic.measured(self._stored) if self._traffic is not None else None
        for intent in intents:
            mbps = measured(f"intents/{intent.metadata['name']}") if measured is not None else None
            if mbps is not None and "path" in intent.status:
                told = {**intent.status.get("measured", {}), "bandwidth_mbps": mbps}
                intent = msgspec.structs.replace(intent, status={**intent.status, "measured": told})
            yield intent

    def names(self, kind: str) -> Sequence[str]:
        if kind == "intents":
            return [*self._stored.intent_records]
        return [str(resource.metadata["name"]) for resource in self._resources(kind)]

    def get(self, kind: str, name: str) -> Resource | None:
        with self._looking[kind]:
            return self._revisions.look_at(kind, name, self._resource(kind, name))

    def _resource(self, kind: str, name: str) -> Resource | None:
        if kind in ("plugins", "events"):
            return next((resource for resource in self._resources(kind) if resource.metadata["name"] == name), None)
        resource = resource_view.resource(self._stored, kind, name, self._now_s())
        if kind == "intents" and resource is not None:
            [resource] = self._with_measured([resource])
        return resource

    def explain(self, kind: str, name: str) -> Branch | None:
        return explain.explain(self._stored, kind, name, self._now_s())

    def trace(self, asked: Probe | Crossing, by: Principal = OURSELVES) -> Trace | Unknown:
        return tracing.trace(self._stored, asked, self._now_s(), by)

    def graph(self) -> NetworkGraph:
        with self._looking["graph"]:
            now_s, state = self._now_s(), self._stored
            resources = {kind: waited_for(resource_view.each(state, kind, now_s)) for kind in graph_view.KINDS}
            made = graph_view.network_graph(state.own, resources)
            whole = Resource(kind="Graph", metadata={"name": made.domain}, spec={"digest": made.digest}, status={})
            marked = self._revisions.look("graph", [whole])
            return msgspec.structs.replace(made, revision=int(marked[0].metadata["revision"]))

    @property
    def revision(self) -> int:
        return self._revisions.newest

    def watch(self, kind: str, name: str | None = None, *, since: int | None = None) -> AsyncIterator[Resource]:
        if since is not None:
            self._shown(kind, name)
            self._revisions.gone(kind, since)
        return self._changes(kind, name, since)

    async def _changes(self, kind: str, name: str | None, since: int | None) -> AsyncIterator[Resource]:
        """Ends where the reader has fallen too far behind."""
        changed = asyncio.Event()
        self._watchers.add(changed)
        try:
            while True:
                began = time.perf_counter()
                resources = list(await asyncio.to_thread(self._shown, kind, name))
                if since is not None:
                    resources = [resource for resource in resources if resource.metadata["revision"] > since]
                    try:
                        gone = self._revisions.gone(kind, since)
                    except TooOld:
                        return
                    resources += [resource for resource in gone if name in (None, resource.metadata["name"])]
                    resources.sort(key=lambda resource: int(resource.metadata["revision"]))
                since = self._revisions.newest
                looked_s = time.perf_counter() - began
                for resource in resources:
                    yield resource
                await asyncio.sleep(WATCH_PAUSES * looked_s)
                await changed.wait()
                changed.clear()
        finally:
            self._watchers.discard(changed)

    def _shown(self, kind: str, name: str | None) -> Sequence[Resource]:
        if name is None:
            return self.list(kind)
        resource = self.get(kind, name)
        return () if resource is None else (resource,)
