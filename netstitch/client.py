"""A controller's API for programs: `Client`, and `AsyncClient` for asyncio. docs/api.md has examples that are run."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from netstitch import calls, errors
from netstitch.calls import Call, Followed, Json, Reference, Resource
from netstitch.pinning import pinned

T = TypeVar("T")
Resources = list[Resource]
Rows = list[Json]
Results = list[str]
TIMEOUT_S = 35.0
"""Longer than the controller's own deadline, so that its reason arrives."""
SILENCE_S = 25.0
"""A watch that says nothing for longer than two heartbeats of the controller is dead."""
RETRY_S = 0.5


def _settings(server: str, token: str, verify: ssl.SSLContext | bool) -> dict[str, Any]:
    headers = {"authorization": f"Bearer {token.strip()}", "accept": "application/json"}
    return {"headers": headers, "timeout": TIMEOUT_S, "trust_env": False, "verify": verify, "base_url": _base(server)}


def _verify(server: str, fingerprint: str | None, verify: ssl.SSLContext | bool) -> ssl.SSLContext | bool:
    if fingerprint is None:
        return verify
    if verify is not True:
        raise ValueError("a fingerprint or `verify`: one of them says who the controller is")
    if not server.startswith("https://"):
        raise ValueError(f"{server} has no certificate: a fingerprint goes with https://")
    return pinned(fingerprint)


def _base(server: str) -> str:
    return "http://localhost" if server.startswith("unix:") else server


def _unreachable(server: str, error: Exception) -> errors.Unreachable:
    return errors.Unreachable(f"the controller at {server} cannot be reached: {error or type(error).__name__}")


class Client:
    """`server`: `https://HOST:PORT`, `http://HOST:PORT` on this machine, or `unix:/PATH`. For a certificate that
    this machine does not know: `fingerprint`, as `stitchd fingerprint` prints it, or `verify`, an `ssl.SSLContext`
    with its CA. All methods raise netstitch.errors.Error."""

    def __init__(
        self, server: str, token: str, *, fingerprint: str | None = None, verify: ssl.SSLContext | bool = True
    ) -> None:
        """Raises ValueError where the fingerprint is none, or goes with no certificate."""
        self.server = server
        verify = _verify(server, fingerprint, verify)
        socket = server.removeprefix("unix:") if server.startswith("unix:") else None
        transport = httpx.HTTPTransport(uds=socket) if socket is not None else None
        self._http = httpx.Client(**_settings(server, token, verify), transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # ---- what there is

    def list(
        self,
        kind: str,
        *,
        labels: str | None = None,
        phase: str | None = None,
        tenant: str | None = None,
        about: str | None = None,
    ) -> Resources:
        """All of a kind (in the plural), by name. `labels`: `app=web,tier!=2`. `about`: of events, `intents/NAME`."""
        resources, _ = self._pages(kind, calls.selection(labels, phase, tenant, about))
        return resources

    def get(self, kind: str, name: str) -> Resource:
        return self._send(calls.get(kind, name))

    def watch(
        self,
        kind: str,
        name: str | None = None,
        *,
        since: int | None = None,
        labels: str | None = None,
        phase: str | None = None,
        tenant: str | None = None,
        about: str | None = None,
    ) -> Iterator[Resource]:
        """The present ones (with `since`, a revision, what has changed later), then each as it changes, without end.

        One that is gone has status {"deleted": True}. Where the controller goes away, it goes on when that is back.
        """
        selected = calls.selection(labels, phase, tenant, about)
        followed = Followed(since)
        path = f"/v1/{kind}" if name is None else f"/v1/{kind}/{name}"
        began = False
        while True:
            try:
                with self._http.stream("GET", path, params=followed.query(selected), timeout=SILENCE_S) as answer:
                    if answer.status_code != httpx.codes.OK:
                        answer.read()
                        raise calls.refused(answer)
                    began = True
                    for line in answer.iter_lines():
                        if (change := followed.line(line)) is not None:
                            yield change
            except errors.Gone:
                began = True
                resources, revision = self._pages(kind, selected)
                resources = [resource for resource in resources if name in (None, resource["metadata"]["name"])]
                for change in followed.anew(resources, revision):
                    yield change
            except (httpx.TransportError, errors.Unavailable) as error:
                if not began:
                    raise _unreachable(self.server, error) from error
            time.sleep(RETRY_S)

    def flows(self, intent: str | None = None, since: float | None = None) -> Rows:
        return self._send(calls.flows(intent, since))

    def drops(self, intent: str | None = None) -> Rows:
        return self._send(calls.drops(intent))

    def doctor(self) -> Json:
        return self._send(calls.doctor())

    def explain(self, kind: str, name: str) -> Json:
        return self._send(calls.explain(kind, name))

    def graph(self, format: str = "json") -> str:
        """All that is known of domains, networks, services, nodes, ports and links: `json` (node-link), `graphml`,
        `dot`."""
        return self._send(calls.graph(format))

    def trace(self, **asked: Any) -> Json:
        """`source`, `destination`, `protocol`, `port`; or `border`, `frame`."""
        return self._send(calls.trace(asked))

    def metrics(self) -> str:
        return self._send(calls.metrics())

    def healthy(self) -> bool:
        return self._send(calls.healthy())

    def whoami(self) -> Json:
        return self._send(calls.whoami())

    # ---- changes

    def apply(
        self, *manifests: Mapping[str, Any], dry_run: bool = False, unchanged_since: int | None = None
    ) -> Results:
        """All or none. `unchanged_since`: a revision; raises Stale where somebody has changed one of them later."""
        return self._send(calls.apply(manifests, dry_run, unchanged_since))

    def delete(self, kind: str, name: str, *, dry_run: bool = False, unchanged_since: int | None = None) -> Results:
        return self._send(calls.delete(kind, name, dry_run, unchanged_since))

    def delete_all(
        self,
        references: Iterable[Reference],
        *,
        ignore_not_found: bool = False,
        dry_run: bool = False,
        unchanged_since: int | None = None,
    ) -> Results:
        """All or none; what needs each other may go together."""
        return self._send(calls.delete_all(references, ignore_not_found, dry_run, unchanged_since))

    def renew(self, intent: str) -> Results:
        return self._send(calls.renew(intent))

    def drain(self, kind: str, name: str) -> Results:
        """A node or link out of use (`nodes`, `links`): what passes it moves off; its status says how far that is."""
        return self._send(calls.drain(kind, name, "drain"))

    def undrain(self, kind: str, name: str) -> Results:
        return self._send(calls.drain(kind, name, "undrain"))

    def approve_incident(self, name: str) -> Results:
        """What it proposes is done, as if it were applied."""
        return self._send(calls.decide(name, "approve"))

    def reject_incident(self, name: str) -> Results:
        return self._send(calls.decide(name, "reject"))

    def end_agreement(self, name: str, *, reason: str, hold_off_s: int | None = None) -> Results:
        return self._send(calls.end_agreement(name, reason, hold_off_s))

    def reload_policy(self, *, dry_run: bool = False) -> Results:
        return self._send(calls.reload_policy(dry_run))

    def backup(self) -> bytes:
        """Everything that the controller must not forget but keys and tokens, as of one moment."""
        return self._send(calls.backup())

    def restore(self, copy: bytes) -> Results:
        """In place of all that is stored. The controller starts again."""
        return self._send(calls.restore(copy))

    # ---- tokens

    def tokens(self) -> Resources:
        return self._send(calls.tokens())

    def token(self, name: str) -> Resource:
        return self._send(calls.token(name))

    def create_token(self, **asked: Any) -> Json:
        """`name`, `role`, `tenants`, `lifetime_s`. The secret is in the answer and nowhere else."""
        return self._send(calls.create_token(asked))

    def revoke_token(self, name: str) -> Results:
        return self._send(calls.revoke_token(name))

    # ---- how

    def _pages(self, kind: str, selected: Mapping[str, str]) -> tuple[Resources, int]:
        """And the revision from which on to watch what changes later."""
        resources: list[Resource] = []
        revision = 0
        query: Mapping[str, str] | None = {**selected, "limit": str(calls.PAGE)}
        while query is not None:
            page = self._send(calls.page(kind, query))
            resources += page["resources"]
            revision = revision or page["revision"]
            query = page["rest"]
        return resources, revision

    def _send(self, call: Call[T]) -> T:
        try:
            answer = self._http.request(call.method, call.path, **calls.sent(call))
        except httpx.TransportError as error:
            raise _unreachable(self.server, error) from error
        if answer.status_code != httpx.codes.OK:
            raise calls.refused(answer)
        return call.read(answer)


class AsyncClient:
    """`server`: `https://HOST:PORT`, `http://HOST:PORT` on this machine, or `unix:/PATH`. For a certificate that
    this machine does not know: `fingerprint`, as `stitchd fingerprint` prints it, or `verify`, an `ssl.SSLContext`
    with its CA. All methods raise netstitch.errors.Error."""

    def __init__(
        self, server: str, token: str, *, fingerprint: str | None = None, verify: ssl.SSLContext | bool = True
    ) -> None:
        """Raises ValueError where the fingerprint is none, or goes with no certificate."""
        self.server = server
        verify = _verify(server, fingerprint, verify)
        socket = server.removeprefix("unix:") if server.startswith("unix:") else None
        transport = httpx.AsyncHTTPTransport(uds=socket) if socket is not None else None
        self._http = httpx.AsyncClient(**_settings(server, token, verify), transport=transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    # ---- what there is

    async def list(
        self,
        kind: str,
        *,
        labels: str | None = None,
        phase: str | None = None,
        tenant: str | None = None,
        about: str | None = None,
    ) -> Resources:
        """All of a kind (in the plural), by name. `labels`: `app=web,tier!=2`. `about`: of events, `intents/NAME`."""
        resources, _ = await self._pages(kind, calls.selection(labels, phase, tenant, about))
        return resources

    async def get(self, kind: str, name: str) -> Resource:
        return await self._send(calls.get(kind, name))

    async def watch(
        self,
        kind: str,
        name: str | None = None,
        *,
        since: int | None = None,
        labels: str | None = None,
        phase: str | None = None,
        tenant: str | None = None,
        about: str | None = None,
    ) -> AsyncIterator[Resource]:
        """The present ones (with `since`, a revision, what has changed later), then each as it changes, without end.

        One that is gone has status {"deleted": True}. Where the controller goes away, it goes on when that is back.
        """
        selected = calls.selection(labels, phase, tenant, about)
        followed = Followed(since)
        path = f"/v1/{kind}" if name is None else f"/v1/{kind}/{name}"
        began = False
        while True:
            try:
                async with self._http.stream("GET", path, params=followed.query(selected), timeout=SILENCE_S) as answer:
                    if answer.status_code != httpx.codes.OK:
                        await answer.aread()
                        raise calls.refused(answer)
                    began = True
                    async for line in answer.aiter_lines():
                        if (change := followed.line(line)) is not None:
                            yield change
            except errors.Gone:
                began = True
                resources, revision = await self._pages(kind, selected)
                resources = [resource for resource in resources if name in (None, resource["metadata"]["name"])]
                for change in followed.anew(resources, revision):
                    yield change
            except (httpx.TransportError, errors.Unavailable) as error:
                if not began:
                    raise _unreachable(self.server, error) from error
            await asyncio.sleep(RETRY_S)

    async def flows(self, intent: str | None = None, since: float | None = None) -> Rows:
        return await self._send(calls.flows(intent, since))

    async def drops(self, intent: str | None = None) -> Rows:
        return await self._send(calls.drops(intent))

    async def doctor(self) -> Json:
        return await self._send(calls.doctor())

    async def explain(self, kind: str, name: str) -> Json:
        return await self._send(calls.explain(kind, name))

    async def graph(self, format: str = "json") -> str:
        """All that is known of domains, networks, services, nodes, ports and links: `json` (node-link), `graphml`,
        `dot`."""
        return await self._send(calls.graph(format))

    async def trace(self, **asked: Any) -> Json:
        """`source`, `destination`, `protocol`, `port`; or `border`, `frame`."""
        return await self._send(calls.trace(asked))

    async def metrics(self) -> str:
        return await self._send(calls.metrics())

    async def healthy(self) -> bool:
        return await self._send(calls.healthy())

    async def whoami(self) -> Json:
        return await self._send(calls.whoami())

    # ---- changes

    async def apply(
        self, *manifests: Mapping[str, Any], dry_run: bool = False, unchanged_since: int | None = None
    ) -> Results:
        """All or none. `unchanged_since`: a revision; raises Stale where somebody has changed one of them later."""
        return await self._send(calls.apply(manifests, dry_run, unchanged_since))

    async def delete(
        self, kind: str, name: str, *, dry_run: bool = False, unchanged_since: int | None = None
    ) -> Results:
        return await self._send(calls.delete(kind, name, dry_run, unchanged_since))

    async def delete_all(
        self,
        references: Iterable[Reference],
        *,
        ignore_not_found: bool = False,
        dry_run: bool = False,
        unchanged_since: int | None = None,
    ) -> Results:
        """All or none; what needs each other may go together."""
        return await self._send(calls.delete_all(references, ignore_not_found, dry_run, unchanged_since))

    async def renew(self, intent: str) -> Results:
        return await self._send(calls.renew(intent))

    async def drain(self, kind: str, name: str) -> Results:
        """A node or link out of use (`nodes`, `links`): what passes it moves off; its status says how far that is."""
        return await self._send(calls.drain(kind, name, "drain"))

    async def undrain(self, kind: str, name: str) -> Results:
        return await self._send(calls.drain(kind, name, "undrain"))

    async def approve_incident(self, name: str) -> Results:
        """What it proposes is done, as if it were applied."""
        return await self._send(calls.decide(name, "approve"))

    async def reject_incident(self, name: str) -> Results:
        return await self._send(calls.decide(name, "reject"))

    async def end_agreement(self, name: str, *, reason: str, hold_off_s: int | None = None) -> Results:
        return await self._send(calls.end_agreement(name, reason, hold_off_s))

    async def reload_policy(self, *, dry_run: bool = False) -> Results:
        return await self._send(calls.reload_policy(dry_run))

    async def backup(self) -> bytes:
        """Everything that the controller must not forget but keys and tokens, as of one moment."""
        return await self._send(calls.backup())

    async def restore(self, copy: bytes) -> Results:
        """In place of all that is stored. The controller starts again."""
        return await self._send(calls.restore(copy))

    # ---- tokens

    async def tokens(self) -> Resources:
        return await self._send(calls.tokens())

    async def token(self, name: str) -> Resource:
        return await self._send(calls.token(name))

    async def create_token(self, **asked: Any) -> Json:
        """`name`, `role`, `tenants`, `lifetime_s`. The secret is in the answer and nowhere else."""
        return await self._send(calls.create_token(asked))

    async def revoke_token(self, name: str) -> Results:
        return await self._send(calls.revoke_token(name))

    # ---- how

    async def _pages(self, kind: str, selected: Mapping[str, str]) -> tuple[Resources, int]:
        """And the revision from which on to watch what changes later."""
        resources: list[Resource] = []
        revision = 0
        query: Mapping[str, str] | None = {**selected, "limit": str(calls.PAGE)}
        while query is not None:
            page = await self._send(calls.page(kind, query))
            resources += page["resources"]
            revision = revision or page["revision"]
            query = page["rest"]
        return resources, revision

    async def _send(self, call: Call[T]) -> T:
        try:
            answer = await self._http.request(call.method, call.path, **calls.sent(call))
        except httpx.TransportError as error:
            raise _unreachable(self.server, error) from error
        if answer.status_code != httpx.codes.OK:
            raise calls.refused(answer)
        return call.read(answer)
