"""The controller as the holder of a token sees it: what concerns its tenants, and nothing else.

| kind | who is limited to tenants sees |
|---|---|
| intents | its tenants' |
| agreements, entries, events | those that serve an intent of its tenants |
| findings, incidents | those that touch its tenants' intents and nothing else |
| networks, services | those that its tenants' intents may name |
| hosts | those of networks that its tenants' intents may name |
| all others | not at all (403) |
"""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import msgspec

from controller.errors import Forbidden, TooOld
from controller.model.access import EVERYBODY, Principal, Role, acts_for
from controller.model.event import Problem
from controller.model.explanation import Branch
from controller.model.network_graph import NetworkGraph
from controller.model.resource import Answer, Controller, Resource
from controller.model.trace import Crossing, Hop, Probe, Step, Trace, Unknown

MAX_NAMED = 10
"""Tenants that a refusal names."""
ANOTHERS = "another's"
"""Stands for what belongs to somebody else."""


class Scoped:
    """Implements model.resource.Controller for one principal. Raises Forbidden beside what that says."""

    def __init__(self, controller: Controller, principal: Principal) -> None:
        self._controller = controller
        self._by = principal

    @property
    def by(self) -> Principal:
        return self._by

    @property
    def whole(self) -> bool:
        """Whether it sees everything."""
        return self._by.tenants is None

    # ---- changes

    async def apply(
        self,
        manifests: list[dict[str, Any]],
        *,
        dry_run: bool,
        by: Principal | None = None,
        unchanged_since: int | None = None,
    ) -> Answer:
        """An intent without a tenant is of the only one that the principal acts for."""
        if self._by.role != Role.ADMIN:
            for data in manifests:
                if data.get("kind") != "Intent":
                    raise Forbidden(f"{self._who} may apply intents only, not a {str(data.get('kind'))[:40]}")
        match self._by.tenants:
            case (tenant,):
                manifests = [_with_tenant(data, tenant) for data in manifests]
            case (_, *_) as several if problems := [_whose(n, several) for n in _without_tenant(manifests)]:
                return Answer(problems=tuple(problems))
        return await self._controller.apply(manifests, dry_run=dry_run, by=self._by, unchanged_since=unchanged_since)

    async def delete(
        self,
        resources: Sequence[tuple[str, str]],
        *,
        ignore_missing: bool = False,
        dry_run: bool = False,
        by: Principal | None = None,
        unchanged_since: int | None = None,
    ) -> Answer:
        if self._by.role != Role.ADMIN:
            for kind, _ in resources:
                if kind != "intents":
                    raise Forbidden(f"{self._who} may delete intents only, not {kind[:40]}")
        return await self._controller.delete(
            resources,
            ignore_missing=ignore_missing,
            dry_run=dry_run,
            by=self._by,
            unchanged_since=unchanged_since,
        )

    async def load_policy(self, *, dry_run: bool, by: Principal | None = None) -> Answer:
        return await self._controller.load_policy(dry_run=dry_run, by=self._by)

    async def renew(self, name: str, *, by: Principal | None = None) -> Answer:
        return await self._controller.renew(name, by=self._by)

    async def drain(self, part: str, *, is_drained: bool, by: Principal | None = None) -> Answer:
        return await self._controller.drain(part, is_drained=is_drained, by=self._by)

    async def end_agreement(self, name: str, reason: str, hold_off_s: int, *, by: Principal | None = None) -> Answer:
        return await self._controller.end_agreement(name, reason, hold_off_s, by=self._by)

    async def decide(self, name: str, approved: bool, *, by: Principal | None = None) -> Answer:
        if not self.whole and self.get("incidents", name) is None:
            return Answer(missing=(0,))
        return await self._controller.decide(name, approved, by=self._by)

    # ---- what there is

    def tenant(self, intent: str) -> str | None:
        tenant = self._controller.tenant(intent)
        return tenant if tenant is not None and self._by.concerns(tenant) else None

    def list(self, kind: str) -> list[Resource]:
        seen = self._seen(kind)
        return [shown for resource in self._controller.list(kind) if (shown := seen(resource)) is not None]

    def following(self, kind: str, after: str) -> Iterator[Resource]:
        seen = self._seen(kind)
        return (shown for resource in self._controller.following(kind, after) if (shown := seen(resource)) is not None)

    def names(self, kind: str) -> Sequence[str]:
        if self.whole:
            return self._controller.names(kind)
        if kind == "intents":
            return [name for name in self._controller.names(kind) if self.tenant(name) is not None]
        return [str(resource.metadata["name"]) for resource in self.list(kind)]

    def get(self, kind: str, name: str) -> Resource | None:
        seen = self._seen(kind)
        resource = self._controller.get(kind, name)
        shown = seen(resource) if resource is not None else None
        if resource is not None and shown is None:
            raise Forbidden(f"{kind}/{name} does not concern the tenants of {self._who}")
        return shown

    @property
    def revision(self) -> int:
        return self._controller.revision

    def watch(self, kind: str, name: str | None = None, *, since: int | None = None) -> AsyncIterator[Resource]:
        """What it has shown it also shows removed; what it may see no longer is removed for it. Raises TooOld for who
        is limited, but for intents: of what is gone nobody knows any more whom it served."""
        seen = self._seen(kind)
        if since is not None and not self.whole and kind not in ("intents", "events"):
            raise TooOld(f"{self._who} cannot go on with {kind} from a revision: list again, then watch")
        return self._changes(seen, self._controller.watch(kind, name, since=since))

    async def _changes(
        self, seen: Callable[[Resource], Resource | None], changes: AsyncIterator[Resource]
    ) -> AsyncIterator[Resource]:
        known: set[str] = set()
        try:
            async for change in changes:
                label = str(change.metadata["name"])
                shown = change if change.status.get("deleted") and label in known else seen(change)
                if shown is not None:
                    known.add(label)
                    yield shown
                elif label in known:
                    known.discard(label)
                    yield msgspec.structs.replace(change, status={"deleted": True})
        finally:
            close = getattr(changes, "aclose", None)
            if close is not None:
                await close()

    def explain(self, kind: str, name: str) -> Branch | None:
        if not self.whole and self.get(kind, name) is None:
            return None
        return self._controller.explain(kind, name)

    def graph(self) -> NetworkGraph:
        if not self.whole:
            raise Forbidden(f"{self._who} may not see the graph: nodes and links do not belong to tenants")
        return self._controller.graph()

    def trace(self, asked: Probe | Crossing, by: Principal | None = None) -> Trace | Unknown:
        if isinstance(asked, Crossing) and not self.whole:
            raise Forbidden(f"{self._who} may not trace what comes over a border: it need not concern its tenants")
        traced = self._controller.trace(asked, self._by)
        return self._traced(traced) if isinstance(traced, Trace) and not self.whole else traced

    # ---- how

    @property
    def _who(self) -> str:
        tenants = f" of {', '.join(self._by.tenants)}" if self._by.tenants is not None else ""
        return f"token {self._by.name} ({self._by.role}{tenants})"

    def _seen(self, kind: str) -> Callable[[Resource], Resource | None]:
        """From a resource to what is shown of it; None: nothing. Raises KeyError for an unknown kind."""
        if self.whole:
            return lambda resource: resource
        match kind:
            case "intents" | "events":
                return self._intent
            case "agreements" | "entries":
                return self._serving
            case "findings" | "incidents":
                return self._touching
            case "networks":
                return self._network
            case "hosts":
                return self._hosts()
            case "services":
                return self._services()
        self._controller.names(kind)  # an unknown kind is not one that somebody else may see
        raise Forbidden(f"{self._who} may not see {kind}: they do not belong to tenants")

    def concerns(self, owner: str) -> bool:
        """Whether an owner (`intents/NAME`) is an intent of the principal's tenants."""
        kind, _, name = owner.partition("/")
        return kind == "intents" and self.tenant(name) is not None

    def _may_name(self, network: str, tenants: Sequence[str]) -> bool:
        return any(acts_for(tenant, network, tuple(tenants)) for tenant in self._by.tenants or ())

    def _intent(self, intent: Resource) -> Resource | None:
        return intent if self._by.concerns(str(intent.metadata.get("tenant"))) else None

    def _serving(self, stitched: Resource) -> Resource | None:
        return stitched if self.concerns(str(stitched.status.get("owner"))) else None

    def _touching(self, seen: Resource) -> Resource | None:
        """What touches its tenants' intents and nothing else."""
        owners = seen.spec.get("owners", ())
        return seen if owners and all(map(self.concerns, owners)) else None

    def _network(self, network: Resource) -> Resource | None:
        """Those of other domains too: whether one may go there is for their owners to say."""
        name = str(network.metadata["name"])
        foreign = network.status.get("own") is False
        return network if foreign or self._may_name(name, network.spec.get("tenants", ())) else None

    def _hosts(self) -> Callable[[Resource], Resource | None]:
        """Those of networks that its tenants may speak for; candidates are nobody's."""
        networks = {str(network.metadata["name"]) for network in self.list("networks")}
        return lambda host: host if host.spec.get("network") in networks else None

    def _services(self) -> Callable[[Resource], Resource | None]:
        networks = {str(network.metadata["name"]) for network in self.list("networks")}
        everybody = {EVERYBODY, *(self._by.tenants or ())}

        def seen(service: Resource) -> Resource | None:
            home = str(service.metadata["name"]).rpartition("/")[0]
            if home not in networks and everybody.isdisjoint(service.spec.get("tenants", ())):
                return None
            users = [name for name in service.status.get("intents", ()) if self.tenant(name) is not None]
            return msgspec.structs.replace(service, status={**service.status, "intents": users})

        return seen

    def _traced(self, trace: Trace) -> Trace:
        """Without what it says of others' intents."""
        hidden = {step.owner for hop in trace.hops for step in hop.steps} | {trace.owner}
        hidden = {
            owner for owner in hidden if owner.startswith(("intents/", "agreements/")) and not self.concerns(owner)
        }

        def plain(text: str) -> str:
            for owner in sorted(hidden, key=len, reverse=True):
                text = text.replace(owner, ANOTHERS)
            return text

        def step(shown: Step) -> Step:
            return Step(entry=shown.entry, text="", owner=ANOTHERS) if shown.owner in hidden else shown

        def hop(shown: Hop) -> Hop:
            return msgspec.structs.replace(shown, steps=tuple(map(step, shown.steps)), result=plain(shown.result))

        return msgspec.structs.replace(
            trace, hops=tuple(map(hop, trace.hops)), text=plain(trace.text), owner=plain(trace.owner)
        )


def _without_tenant(manifests: Sequence[dict[str, Any]]) -> Iterator[int]:
    """The places of intents that do not say whose they are."""
    for place, data in enumerate(manifests):
        metadata = data.get("metadata")
        if data.get("kind") == "Intent" and isinstance(metadata, dict) and "tenant" not in metadata:
            yield place


def _whose(place: int, tenants: Sequence[str]) -> Problem:
    choices = ", ".join(tenants[:MAX_NAMED]) + (", ..." if len(tenants) > MAX_NAMED else "")
    return Problem(path=(place, "metadata", "tenant"), message=f"is missing, and the token acts for several: {choices}")


def _with_tenant(data: dict[str, Any], tenant: str) -> dict[str, Any]:
    metadata = data.get("metadata")
    if not isinstance(metadata, dict) or "tenant" in metadata:
        return data
    return {**data, "metadata": {**metadata, "tenant": tenant}}
