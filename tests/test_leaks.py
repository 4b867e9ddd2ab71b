"""What one tenant hears of another, whatever it asks and however it writes it: no name that it has not said itself.

Two tenants have intents, hosts and tokens with names that nobody else has. Every route is asked for each of them, as it
is and in other spellings, and wrongly; no answer has a name of the other's in it.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from federation import intent, small_intent
from shell_parts import quiet
from starlette.types import Message
from test_permits import HOLDERS, ROWS, Row, World, world

from controller.errors import Forbidden
from controller.model.access import Principal, Role
from controller.northbound.scope import Scoped
from controller.views import resource_view

KINDS = (*resource_view.KINDS, "events", "plugins")
TENANTS = {"operator of x": "customer-x", "operator of z": "customer-z"}
NAMES = {
    "operator of x": ("xylophone", "operator-of-x", "cx1", "cx2", "customer-x"),
    "operator of z": ("zebra", "operator-of-z", "cz1", "customer-z"),
}
"""Of each, which the other must not hear."""
DOCUMENTED = ("customer-x",)
"""In examples of the API's own description."""


def leaked(who: str, said: str, asked: str = "") -> list[str]:
    (hidden,) = (names for name, names in NAMES.items() if name != who)
    return [name for name in hidden if name in said and name not in asked]


def zebra() -> dict[str, Any]:
    spec = {
        "isolate": {"network": "shop/customer-z"},
        "allow": [{"to": "insight/archive/archive-z", "ports": ["tcp/9000"]}],
    }
    return intent("zebra", **spec) | {"metadata": {"name": "zebra", "tenant": "customer-z"}}


def reaching(tenant: str, network: str, to: str, name: str = "reaching", **fields: Any) -> dict[str, Any]:
    spec = {"allow": [{"from": {"network": network}, "to": to}], **fields}
    return intent(name, **spec) | {"metadata": {"name": name, "tenant": tenant}}


@contextlib.asynccontextmanager
async def two_tenants(directory: Path) -> AsyncIterator[World]:
    async with world(directory) as made:
        for who, manifest in (("operator of x", small_intent("xylophone")), ("operator of z", zebra())):
            answer = await made.apply(who, manifest)
            assert answer.status_code == 200, answer.text
        await quiet(made.shell)
        yield made


async def test_no_route_tells_a_tenant_of_another(tmp_path: Path) -> None:
    async with two_tenants(tmp_path) as asked:
        everything = {kind: await listed(asked, "admin", kind) for kind in KINDS}
        told = json.dumps(everything)
        assert all(name in told for names in NAMES.values() for name in names if "operator" not in name)
        wrong = []
        for who in TENANTS:
            paths = [row.path for row in ROWS if row.method == "GET"]
            for kind, resources in everything.items():
                names = [resource["metadata"]["name"] for resource in resources]
                paths += [f"/v1/{kind}?labels=a", f"/v1/{kind}?limit=1", f"/v1/explain/{kind}/nothing"]
                paths += [f"/v1/{form}{kind}/{name}" for name in names for form in ("", "explain/")]
            for path in dict.fromkeys(paths):
                answer = await asked.ask(who, "GET", path)
                known = path + ("".join(DOCUMENTED) if path == "/openapi.json" else "")
                if names := leaked(who, answer.text, known):
                    wrong.append(f"GET {path} by {who}: {names} in {answer.status_code} {answer.text[:300]}")
        assert not wrong, "\n".join(wrong)


async def listed(asked: World, who: str, kind: str) -> list[dict[str, Any]]:
    resources: list[dict[str, Any]] = (await asked.ask(who, "GET", f"/v1/{kind}")).json()
    return resources


def changes(me: str, other: str) -> Iterator[dict[str, Any]]:
    """Of a tenant, right and wrong ones; some get in the way of what the other has."""
    own, foreign = f"shop/{me}", f"shop/{other}"
    for to in ("insight/analytics/analytics-y", "insight/archive/archive-z", "insight/archive", "insight/nothing"):
        yield reaching(me, own, to)
    for to in (foreign, f"{foreign}/web", "shop/nothing", "shop/customer"):
        yield reaching(me, own, to)
    for network in (foreign, "shop/nothing", "shop/customer", "insight/analytics"):
        yield reaching(me, network, "insight/analytics/analytics-y")
    for name in ("zebra", "xylophone", "zebr", "xylophon"):
        yield reaching(me, own, "insight/analytics/analytics-y", name)
        yield reaching(me, own, "insight/analytics/analytics-y", overrides=[name])
    yield reaching(
        me, own, "insight/analytics/analytics-y", tests=[{"deny": {"from": foreign, "to": "insight/archive"}}]
    )
    yield reaching(me, own, "insight/analytics/analytics-y", tests=[{"deny": {"from": own, "to": foreign}}])
    yield intent("alone", isolate={"network": own}) | {"metadata": {"name": "alone", "tenant": me}}
    yield intent("alone", isolate={"network": own}) | {"metadata": {"name": "alone", "tenant": other}}


async def test_no_preview_and_no_refusal_tells_a_tenant_of_another(tmp_path: Path) -> None:
    async with two_tenants(tmp_path) as asked:
        wrong, statuses = [], set()
        for who, me in TENANTS.items():
            (other,) = set(TENANTS.values()) - {me}
            attempts: list[tuple[str, str, Any]] = [
                ("POST", "/v1/apply?dry_run=true", [manifest]) for manifest in changes(me, other)
            ]
            for name in ("zebra", "xylophone", "zebr", "xylophon"):
                attempts += [
                    ("DELETE", f"/v1/intents/{name}?dry_run=true", None),
                    ("POST", "/v1/delete?dry_run=true", [{"kind": "intents", "name": name}]),
                ]
            for host in ("cx1", "cz1", "nobody", "c", f"shop/{me}/c"):
                for to in (
                    "insight/analytics/analytics-y",
                    "insight/archive/archive-z",
                    f"shop/{other}",
                    "c",
                    "10.1.0.11",
                ):
                    attempts.append(("POST", "/v1/trace", {"source": host, "destination": to}))
            for method, path, body in attempts:
                answer = await asked.ask(who, method, path, body)
                statuses.add(answer.status_code)
                if names := leaked(who, answer.text, path + json.dumps(body)):
                    wrong.append(
                        f"{method} {path} {body} by {who}: {names} in {answer.status_code} {answer.text[:400]}"
                    )
        assert not wrong, "\n".join(wrong)
        assert statuses >= {200, 400, 403, 404, 409}, statuses


async def test_no_watch_tells_a_tenant_of_another(tmp_path: Path) -> None:
    async with two_tenants(tmp_path) as asked:
        seen: dict[str, list[str]] = {}

        async def follow(kind: str) -> None:
            watching = Scoped(asked.shell, Principal(name="x", role=Role.READER, tenants=("customer-x",)))
            try:
                async for change in watching.watch(kind):
                    seen.setdefault(kind, []).append(repr(change))
            except Forbidden:
                seen[kind] = []

        async with asyncio.TaskGroup() as tasks:
            following = [tasks.create_task(follow(kind)) for kind in resource_view.KINDS]
            await quiet(asked.shell)
            for who, method, path, body in (
                ("operator of z", "DELETE", "/v1/intents/zebra", None),
                ("operator of z", "POST", "/v1/apply", [zebra()]),
                ("operator of x", "DELETE", "/v1/intents/xylophone", None),
                ("operator of x", "POST", "/v1/apply", [small_intent("xylophone")]),
            ):
                assert (await asked.ask(who, method, path, body)).status_code == 200
                await quiet(asked.shell)
            for task in following:
                task.cancel()
        assert {"intents", "agreements", "entries", "networks"} <= {kind for kind, said in seen.items() if said}
        for kind, said in seen.items():
            assert not leaked("operator of x", "".join(said)), kind


# ---- other spellings

METHODS = ("HEAD", "OPTIONS", "PUT", "PATCH", "TRACE", "CONNECT", "get", "post", "GET ", "")


def spellings(path: str) -> Iterator[str]:
    head, _, last = path.partition("?")[0].rpartition("/")
    yield from (f"/{path}", f"{head}//{last}", f"{head}/{last}/", f"{head}/{last}//", f"{head}/./{last}")
    yield from (f"{head}/%2e/{last}", f"{head}/x/../{last}", f"{head}/x/%2e%2e/{last}", f"{head}%2f{last}")
    yield from (f"{head}/%{ord(last[0]):x}{last[1:]}", f"{head}/%25{ord(last[0]):x}{last[1:]}", f"/healthz/..{path}")
    yield from (path.upper(), f"{head}/{last}%00", f"{head}/{last}%0a", f"{head}/{last};x=1", f"{head}\\{last}")
    yield from (f"/v1/explain/..{path.removeprefix('/v1')}", f"{head}/{last}.json", f"http://shop{path}")


async def raw(asked: World, who: str, method: str, target: str) -> tuple[int, str]:
    """As it stands: clients mend what is not usual."""
    path, _, query = target.partition("?")
    headers = [(b"authorization", f"Bearer {asked.secrets[who]}".encode())] if who else []
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [*headers, (b"host", b"shop"), (b"x-http-method-override", b"GET")],
        "server": ("shop", 80),
        "client": ("192.0.2.9", 4000),
    }
    status, body = 0, b""

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status, body
        status = message.get("status", status)
        body += message.get("body", b"")

    await asked.app(scope, receive, send)
    return status, body.decode("utf-8", "replace")


def rows() -> dict[tuple[str, str], Row]:
    """Of paths that ask for nothing beside themselves."""
    return {(row.method, row.path): row for row in ROWS if "?" not in row.path}


@pytest.mark.parametrize("who", ["operator of x", "reader of x", ""])
async def test_no_spelling_of_a_route_opens_it(tmp_path: Path, who: str) -> None:
    async with two_tenants(tmp_path) as asked:
        wrong = []
        place = list(HOLDERS).index(who) if who else -1
        for (method, path), row in rows().items():
            is_open = path == "/healthz" or (who != "" and method == "GET" and row.allowed[place] == ".")
            tried = [(method, path) for method in METHODS]
            tried += [
                (method, spelling) for spelling in spellings(path) if method == "GET" or row.allowed[place] != "."
            ]
            for verb, target in tried:
                status, said = await raw(asked, who, verb, target)
                if (status < 300 and not is_open) or status >= 500 or not status:
                    wrong.append(f"{verb} {target} by {who or 'nobody'}: {status} {said[:200]}")
                elif who and path != "/openapi.json" and (names := leaked("operator of x", said, unquote(target))):
                    wrong.append(f"{verb} {target} by {who}: {names} in {said[:300]}")
        assert not wrong, "\n".join(wrong)
        assert {*asked.shell.names("intents")} == {"order-processing", "xylophone", "zebra"}
