"""Every route, for every role and tenant: a table over the application's own routes, asked of a real shell.

`.` is 200, `-` is 403, `?` is 404 (not there for this one). A route of the application without a row fails the test.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from federation import Federation, intent, small_intent
from northbound_fake import TOKEN, FakeBackups, FakeTelemetry
from shell_parts import NOW_S, FakeNeighbours, FakeTargets, MemoryJournal, hosts, ignore, quiet
from starlette.types import ASGIApp
from waiting import LIMIT_S, until

from controller import reconcile
from controller.eastwest.identity import load
from controller.language.manifest import applied, parse
from controller.model.access import Principal, Role
from controller.model.event import Found
from controller.northbound.api import create_app
from controller.northbound.permits import PERMITS
from controller.northbound.scope import Scoped
from controller.northbound.tokens import Tokens
from controller.policy_file import PolicyFile
from controller.shell import Shell
from controller.views import resource_view
from tests.test_incidents import finding

X, Z = ("customer-x",), ("customer-z",)
HOLDERS: dict[str, tuple[Role, tuple[str, ...] | None]] = {
    "admin": (Role.ADMIN, None),
    "reader": (Role.READER, None),
    "reader of x": (Role.READER, X),
    "operator of x": (Role.OPERATOR, X),
    "operator of z": (Role.OPERATOR, Z),
    "operator of both": (Role.OPERATOR, (*X, *Z)),
}


def of_z(name: str = "zebra", **metadata: str) -> dict[str, Any]:
    manifest = intent(name, isolate={"network": "shop/customer-z"})
    return manifest | {"metadata": {"name": name, "tenant": "customer-z"} | metadata}


NETWORK = {
    "apiVersion": "netstitch/v1",
    "kind": "Network",
    "metadata": {"name": "insight/new"},
    "spec": {"prefixes": ["10.9.0.0/24"]},
}
AGREEMENT = "shop:order-processing:2"
PROBE = {"source": "cx1", "destination": "insight/analytics/analytics-y"}
BACKUP = {"content-type": "application/vnd.sqlite3"}
WHO = {"name": "someone", "role": "reader"}


@dataclass
class Row:
    method: str
    template: str
    path: str
    allowed: str
    """One character for each of HOLDERS."""
    body: Any = None
    before: list[dict[str, Any]] = field(default_factory=list)
    """Applied by the administrator first."""


def leased() -> dict[str, Any]:
    return small_intent("leased") | {"spec": small_intent("leased")["spec"] | {"lease": {"for": "1h"}}}


def refs(*names: str) -> list[dict[str, str]]:
    return [dict(zip(("kind", "name"), name.split("/", 1), strict=True)) for name in names]


def kinds(allowed: str, *names: str) -> list[Row]:
    return [Row("GET", "/v1/{kind}", f"/v1/{name}", allowed) for name in names]


ROWS = [
    Row("GET", "/healthz", "/healthz", "......"),
    Row("GET", "/openapi.json", "/openapi.json", "......"),
    Row("POST", "/v1/agreements/{name:path}/end", f"/v1/agreements/{AGREEMENT}/end", ".-----", {"reason": "a test"}),
    Row("POST", "/v1/incidents/{name:path}/approve", "/v1/incidents/1/approve", ".-----"),
    Row("POST", "/v1/incidents/{name:path}/reject", "/v1/incidents/2/reject", ".-----"),
    Row("GET", "/metrics", "/metrics", "..----"),
    Row("GET", "/v1/whoami", "/v1/whoami", "......"),
    Row("GET", "/v1/flows", "/v1/flows", "......"),
    Row("GET", "/v1/flows", "/v1/flows?intent=order-processing", "....-."),
    Row("GET", "/v1/flows", "/v1/flows?since=0", "......"),
    Row("GET", "/v1/drops", "/v1/drops", "..----"),
    Row("GET", "/v1/doctor", "/v1/doctor", "..----"),
    Row("GET", "/v1/graph", "/v1/graph?format=dot", "..----"),
    Row("GET", "/v1/backup", "/v1/backup", ".-----"),
    Row("POST", "/v1/restore", "/v1/restore", ".-----", FakeBackups.copy),
    Row("GET", "/v1/tokens", "/v1/tokens", "..----"),
    Row("GET", "/v1/tokens/{name}", "/v1/tokens/bootstrap", "..----"),
    Row("POST", "/v1/tokens", "/v1/tokens", ".-----", WHO),
    Row("DELETE", "/v1/tokens/{name}", "/v1/tokens/spare", ".-----"),
    Row("GET", "/v1/explain/{kind}/{name:path}", "/v1/explain/intents/order-processing", "....-."),
    Row("GET", "/v1/explain/{kind}/{name:path}", "/v1/explain/intents/zebra", "..--.."),
    Row("POST", "/v1/trace", "/v1/trace", "....?.", PROBE | {"source": "shop/customer-x/cx1"}),
    Row("POST", "/v1/trace", "/v1/trace", "..----", {"border": "sg1-t1", "frame": "00" * 60}),
    Row("POST", "/v1/apply", "/v1/apply", ".--.-.", [small_intent("new-x")]),
    Row("POST", "/v1/apply", "/v1/apply?dry_run=true", ".--.-.", [intent()]),
    Row("POST", "/v1/apply", "/v1/apply", ".---..", [of_z()]),
    Row("POST", "/v1/apply", "/v1/apply", ".----.", [intent(), of_z()]),
    Row("POST", "/v1/apply", "/v1/apply", ".-----", [NETWORK]),
    Row("POST", "/v1/apply", "/v1/apply", ".-----", [intent(), NETWORK]),
    Row("DELETE", "/v1/{kind}/{name:path}", "/v1/intents/order-processing", ".--.-."),
    Row("DELETE", "/v1/{kind}/{name:path}", "/v1/intents/zebra", ".---.."),
    Row("DELETE", "/v1/{kind}/{name:path}", "/v1/networks/insight/new", ".-----", before=[NETWORK]),
    Row("POST", "/v1/delete", "/v1/delete", ".--.-.", refs("intents/order-processing")),
    Row("POST", "/v1/delete", "/v1/delete", ".----.", refs("intents/order-processing", "intents/zebra")),
    Row("POST", "/v1/delete", "/v1/delete", ".-----", refs("networks/insight/new"), before=[NETWORK]),
    Row("POST", "/v1/intents/{name:path}/renew", "/v1/intents/leased/renew", ".--.-.", before=[leased()]),
    Row("POST", "/v1/{kind}/{name:path}/drain", "/v1/nodes/se1/drain", ".-----"),
    Row("POST", "/v1/{kind}/{name:path}/undrain", "/v1/links/se1-sg1/undrain", ".-----"),
    Row("POST", "/v1/policy/reload", "/v1/policy/reload?dry_run=true", ".-----"),
    *kinds("......", "findings", "incidents", "intents", "events", "agreements", "entries"),
    *kinds("......", "networks", "hosts", "services"),
    *kinds("..----", "nodes", "links", "paths", "domains", "rules", "tunnels", "plugins", "policies"),
    Row("GET", "/v1/{kind}/{name:path}", "/v1/intents/order-processing", "....-."),
    Row("GET", "/v1/{kind}/{name:path}", "/v1/intents/zebra", "..--.."),
    Row("GET", "/v1/{kind}/{name:path}", "/v1/networks/shop/customer-x", "....-."),
    Row("GET", "/v1/{kind}/{name:path}", "/v1/networks/shop/customer-z", "..--.."),
    Row("GET", "/v1/{kind}/{name:path}", "/v1/networks/insight/analytics", "......"),
    Row("GET", "/v1/{kind}/{name:path}", "/v1/hosts/shop/customer-x/cx1", "....-."),
    Row("GET", "/v1/{kind}/{name:path}", "/v1/hosts/shop/customer-z/cz1", "..--.."),
    Row("GET", "/v1/{kind}/{name:path}", "/v1/services/insight/analytics/analytics-y", "......"),
    Row("GET", "/v1/{kind}/{name:path}", "/v1/nodes/se1", "..----"),
]  # fmt: skip


@dataclass
class World:
    shell: Shell
    client: httpx.AsyncClient
    tokens: Tokens
    secrets: dict[str, str]
    app: ASGIApp

    async def ask(self, who: str, method: str, path: str, body: Any = None) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.secrets[who]}"} if who else {}
        return await self.send(method, path, body, headers)

    async def send(self, method: str, path: str, body: Any, headers: dict[str, str]) -> httpx.Response:
        if isinstance(body, bytes):
            return await self.client.request(method, path, content=body, headers=headers | BACKUP)
        return await self.client.request(method, path, json=body, headers=headers)

    async def apply(self, who: str, *manifests: dict[str, Any]) -> httpx.Response:
        return await self.ask(who, "POST", "/v1/apply", list(manifests))


@contextlib.asynccontextmanager
async def world(directory: Path) -> AsyncIterator[World]:
    """Domain shop with two tenants, one intent each."""
    Federation(directory)
    own = directory / "shop"
    file = PolicyFile(own / "policy.yaml")
    inventory = parse((own / "inventory.yaml").read_bytes(), "inventory.yaml")
    state, effects = reconcile.initial((), "shop", file.read())
    keys = load("shop", own / "keys")
    shell = Shell(state, effects, journal=MemoryJournal(), keys=keys, log=ignore, policy=file, now_s=lambda: NOW_S)
    tokens = Tokens(TOKEN)
    app = create_app(shell, FakeTelemetry(), tokens, "shop", backups=FakeBackups())
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client, asyncio.TaskGroup() as tasks:
        loop = tasks.create_task(shell.run(FakeNeighbours(shell, tasks), FakeTargets(shell, tasks, hosts(directory))))
        answer = await shell.apply_values(tuple(applied(document) for document in inventory))
        assert not answer.problems, answer
        secrets = {"bootstrap": TOKEN}
        for name, (role, tenants) in {**HOLDERS, "spare": (Role.READER, None)}.items():
            _, secrets[name] = await tokens.create(name.replace(" ", "-"), role, tenants, None)
        made = World(shell, client, tokens, secrets, app)
        applying = await made.apply("bootstrap", intent(), of_z())
        assert applying.status_code == 200, applying.text
        for second in (1.0, 2.0):  # two incidents, of a host and of nobody's
            sources = ("10.1.0.12", "10.9.9.9")
            await shell.report(Found(findings=tuple(finding(second, source, owners=()) for source in sources)))
        await quiet(shell)
        yield made
        loop.cancel()


def test_every_route_of_the_application_has_a_permit_and_rows() -> None:
    app = create_app(None, FakeTelemetry(), Tokens(TOKEN), "shop", backups=FakeBackups())  # type: ignore[arg-type]
    routes = {
        (method, getattr(route, "path", ""))
        for route in app.routes
        for method in getattr(route, "methods", ())
        if method != "HEAD"
    }
    assert routes == PERMITS.keys() == {(row.method, row.template) for row in ROWS}
    shown = {row.path.removeprefix("/v1/") for row in ROWS if row.template == "/v1/{kind}"}
    assert shown == {*resource_view.KINDS, "events", "plugins"}


async def test_who_may_use_which_route(tmp_path: Path) -> None:
    async with world(tmp_path) as asked:
        wrong = []
        for row in ROWS:
            for who, character in zip(HOLDERS, row.allowed, strict=True):
                await restore(asked, row)
                answer = await asked.ask(who, row.method, row.path, row.body)
                if answer.status_code != {".": 200, "-": 403, "?": 404}[character]:
                    wrong.append(f"{row.method} {row.path} by {who}: {answer.status_code} {answer.text[:300]}")
            for who in ("", "revoked"):
                secret = asked.secrets | {"revoked": "netstitch_gone"}
                headers = {"authorization": f"Bearer {secret[who]}"} if who else {}
                answer = await asked.send(row.method, row.path, row.body, headers)
                if answer.status_code != (200 if row.path == "/healthz" else 401):
                    wrong.append(f"{row.method} {row.path} by {who or 'nobody'}: {answer.status_code}")
        assert not wrong, "\n".join(wrong)


async def restore(asked: World, row: Row) -> None:
    """What the one before may have taken away, or made."""
    if row.path.endswith("/approve"):
        await asked.shell.delete([("intents", "quarantine-1")])
    if row.before or row.path == "/v1/delete" or (row.method == "DELETE" and row.template != "/v1/tokens/{name}"):
        assert (await asked.apply("bootstrap", intent(), of_z(), *row.before)).status_code == 200
    if row.template.startswith("/v1/tokens"):
        await asked.tokens.revoke("someone")
        await asked.tokens.create("spare", Role.READER, None, None)
    if row.method == "POST" and row.template == "/v1/apply":
        await asked.ask("bootstrap", "DELETE", "/v1/intents/new-x")


async def test_a_route_without_a_permit_is_refused_to_everybody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path) as asked:
        monkeypatch.delitem(PERMITS, ("GET", "/v1/whoami"))
        answer = await asked.ask("bootstrap", "GET", "/v1/whoami")
        assert (answer.status_code, "is for nobody" in answer.text) == (403, True)


async def test_what_is_listed_is_the_tenants_own(tmp_path: Path) -> None:
    async with world(tmp_path) as asked:

        async def names(who: str, kind: str) -> set[str]:
            return {resource["metadata"]["name"] for resource in (await asked.ask(who, "GET", f"/v1/{kind}")).json()}

        assert await names("operator of x", "intents") == {"order-processing"}
        assert await names("reader of x", "intents") == {"order-processing"}
        assert await names("operator of both", "intents") == await names("admin", "intents")
        for who, tenant in (("operator of x", "customer-x"), ("operator of z", "customer-z")):
            events = (await asked.ask(who, "GET", "/v1/events")).json()
            assert events and {event["metadata"]["tenant"] for event in events} == {tenant}
        for who, owner in (("operator of x", "intents/order-processing"), ("operator of z", "intents/zebra")):
            entries = (await asked.ask(who, "GET", "/v1/entries")).json()
            assert entries and {entry["status"]["owner"] for entry in entries} == {owner}
            agreements = (await asked.ask(who, "GET", "/v1/agreements")).json()
            assert {agreement["status"]["owner"] for agreement in agreements} <= {owner}
        networks = await names("operator of x", "networks")
        assert "shop/customer-x" in networks and "shop/customer-z" not in networks and "insight/analytics" in networks
        service = (await asked.ask("operator of z", "GET", "/v1/services/insight/analytics/analytics-y")).json()
        assert service["status"]["intents"] == []
        rows = (await asked.ask("operator of z", "GET", "/v1/flows")).json()
        assert rows == [] != (await asked.ask("operator of x", "GET", "/v1/flows")).json()
        passed = {
            who: {row["owner"] for row in (await asked.ask(who, "GET", "/v1/flows?since=0")).json()}
            for who in ("admin", "operator of x", "operator of z")
        }
        assert passed["operator of x"] == {"intents/order-processing"} and not passed["operator of z"]
        assert passed["admin"] == {"intents/order-processing", "networks/shop/customer-x"}


async def test_another_tenant_s_intent_is_neither_replaced_nor_read(tmp_path: Path) -> None:
    async with world(tmp_path) as asked:
        taken = intent("zebra", **intent()["spec"])
        answer = await asked.apply("operator of x", taken)
        assert answer.status_code == 403 and "another tenant's: use another name" in answer.text
        assert "customer-z" not in answer.text and "archive" not in answer.text
        overriding = intent("over", allow=[{"from": {"network": "shop/customer-x", "select": {"app": "web"}}, "to": "insight/analytics"}], overrides=["zebra"])  # fmt: skip # noqa: E501
        answer = await asked.apply("operator of x", overriding)
        assert answer.status_code == 409 and "another tenant's" in answer.text
        assert "customer-z" not in answer.text
        for who in ("operator of x", "reader of x"):
            hint = await asked.ask(who, "GET", "/v1/intents/zebr")
            assert hint.status_code == 404 and "zebra" not in hint.text


async def test_an_intent_without_a_tenant_is_of_the_only_one_of_its_token(tmp_path: Path) -> None:
    async with world(tmp_path) as asked:
        bare = small_intent("bare")
        del bare["metadata"]["tenant"]
        assert (await asked.apply("operator of x", bare)).status_code == 200
        shown = (await asked.ask("operator of x", "GET", "/v1/intents/bare")).json()
        assert shown["metadata"]["tenant"] == "customer-x"
        assert shown["status"]["applied"]["by"] == "operator-of-x"
        for who in ("operator of both", "admin"):
            answer = await asked.apply(who, bare)
            assert answer.status_code == 400 and "tenant" in answer.text
        (problem,) = (await asked.apply("operator of both", bare)).json()["problems"]
        assert problem["path"] == [0, "metadata", "tenant"] and "customer-x, customer-z" in problem["message"]


NOT_TO_BE_NAMED: list[tuple[dict[str, Any], str]] = [
    ({"isolate": {"network": "shop/customer-z"}}, "speak for network shop/customer-z"),
    ({"allow": [{"from": {"network": "shop/customer-z"}, "to": "insight/analytics"}]}, "speak for network"),
    ({"allow": [{"from": {"network": "shop/customer-x"}, "to": "shop/customer-z"}]}, "lead traffic to"),
    ({"allow": [{"from": {"network": "shop/customer-x"}, "to": "shop/customer-z/web"}]}, "lead traffic to"),
    ({"isolate": {"network": "shop/nothing"}}, "speak for network shop/nothing"),
    (
        {
            "isolate": {"network": "shop/customer-x"},
            "tests": [{"deny": {"from": "shop/customer-z", "to": "insight/analytics"}}],
        },
        "test what happens between",
    ),
]


async def test_networks_of_others_are_not_to_be_named(tmp_path: Path) -> None:
    async with world(tmp_path) as asked:
        for spec, said in NOT_TO_BE_NAMED:
            answer = await asked.apply("operator of x", intent("reaching", **spec))
            assert (answer.status_code, said in answer.text) == (403, True), answer.text


async def test_an_administrator_says_whose_a_network_or_service_is(tmp_path: Path) -> None:
    async with world(tmp_path) as asked:
        network = (await asked.ask("admin", "GET", "/v1/networks/shop/customer-z")).json()
        network["spec"]["tenants"] = ["customer-z", "customer-x"]
        assert (await asked.apply("admin", network)).status_code == 200
        crossing = intent("crossing", allow=[{"from": {"network": "shop/customer-z"}, "to": "insight/analytics"}])
        assert (await asked.apply("operator of x", crossing)).status_code == 409, "zebra isolates it: said, not shown"
        conflict = (await asked.apply("operator of x", crossing)).json()["error"]
        assert "intent crossing and another tenant's: ask an administrator" in conflict
        assert "zebra" not in conflict and "10.1.0" not in conflict
        service = {
            "apiVersion": "netstitch/v1", "kind": "Service", "metadata": {"name": "shop/customer-z/web"},
            "spec": {"addresses": ["10.1.0.11"], "ports": ["tcp/80"], "tenants": ["*"]},
        }  # fmt: skip
        network["spec"]["tenants"] = ["customer-z"]
        assert (await asked.apply("admin", network, service)).status_code == 200
        assert (await asked.ask("operator of x", "GET", "/v1/services/shop/customer-z/web")).status_code == 200
        reaching = intent("reaching", allow=[{"from": {"network": "shop/customer-x", "select": {"app": "web"}}, "to": "shop/customer-z/web"}])  # fmt: skip # noqa: E501
        answer = await asked.apply("operator of x", reaching)
        assert answer.status_code == 409 and "contradiction: " in answer.text, "it may be named; zebra isolates it"


async def test_what_is_not_there_is_told_without_what_is_there_for_others(tmp_path: Path) -> None:
    async with world(tmp_path) as asked:
        source = {"network": "shop/customer-x", "select": {"app": "web"}}
        for to in ("insight/qqqqqqqq", "insight/qqqqqqqq/qqqqqqqq"):
            reaching = intent("reaching", allow=[{"from": source, "to": to}])
            answer = await asked.apply("operator of x", reaching)
            assert answer.status_code == 400 and "customer-z" not in answer.text, answer.text
            assert "analytics" in answer.text
            assert to.count("/") == 2 or "customer-z" in (await asked.apply("admin", reaching)).text
        for kind in ("networks", "services", "entries"):
            since = (await asked.ask("operator of x", "GET", f"/v1/{kind}")).headers["netstitch-revision"]
            path = f"/v1/{kind}?watch=true&since={since}"
            assert (await asked.ask("operator of x", "GET", path)).status_code == 410


async def test_a_trace_says_nothing_of_others(tmp_path: Path) -> None:
    async with world(tmp_path) as asked:
        for source in ("cz1", "shop/customer-z/cz1", "nobody"):
            answer = await asked.ask("operator of x", "POST", "/v1/trace", PROBE | {"source": source})
            assert answer.status_code == 404 and "customer-z" not in answer.text.replace(source, "")
        blind = await asked.ask(
            "operator of x", "POST", "/v1/trace", {"source": "cx1", "destination": "insight/analytics"}
        )
        assert "zebra" not in blind.text


async def test_a_watch_shows_changes_and_ends_of_the_tenant_s_own(tmp_path: Path) -> None:
    async with world(tmp_path) as asked:
        changes = Scoped(asked.shell, Principal(name="x", role=Role.READER, tenants=X)).watch("intents")
        seen = []

        async def follow() -> None:
            async for change in changes:
                seen.append((change.metadata["name"], bool(change.status.get("deleted"))))
                if seen[-1][1]:
                    return

        following = asyncio.create_task(follow())
        assert (await asked.ask("admin", "DELETE", "/v1/intents/zebra")).status_code == 200
        await until(lambda: seen, "the present one")
        assert (await asked.ask("admin", "DELETE", "/v1/intents/order-processing")).status_code == 200
        await asyncio.wait_for(following, LIMIT_S)
        assert {name for name, _ in seen} == {"order-processing"}


NOT_KNOWN: list[tuple[str, str, dict[str, str], str]] = [
    ("POST", "/v1/apply?dryrun=true", {}, "unknown parameter 'dryrun'; did you mean dry_run?"),
    ("POST", "/v1/apply?dry-run=true", {}, "did you mean dry_run?"),
    ("POST", "/v1/apply?DRY_RUN=true", {}, "did you mean dry_run?"),
    ("POST", "/v1/apply?dry%5Frum=true", {}, "did you mean dry_run?"),
    ("POST", "/v1/apply?dry_run=true&dry_run=false", {}, "'dry_run' is given twice"),
    ("POST", "/v1/apply?dry_run=maybe", {}, "boolean"),
    ("POST", "/v1/apply?dry_run=", {}, "boolean"),
    ("POST", "/v1/apply?dry_run", {}, "boolean"),
    ("POST", "/v1/apply", {"Netstitch-Dry-Run": "true"}, "unknown header 'netstitch-dry-run'"),
    ("POST", "/v1/apply", {"X-Netstitch-Dryrun": "1"}, "did you mean dry_run?"),
    ("DELETE", "/v1/intents/order-processing?dryrun=true", {}, "did you mean dry_run?"),
    ("GET", "/v1/intents?wach=true", {}, "did you mean watch?"),
    ("GET", "/v1/intents?watch=2", {}, "boolean"),
    ("GET", "/v1/flows?intnet=x", {}, "did you mean intent?"),
    ("GET", "/v1/drops?intnet=x", {}, "did you mean intent?"),
    ("GET", "/v1/doctor?x=1", {}, "there are none here"),
    ("GET", "/healthz?x", {}, "unknown parameter 'x'"),
    ("GET", "/openapi.json?x=1", {}, "unknown parameter 'x'"),
    ("GET", "/metrics?" + "&".join(f"x{n}=1" for n in range(2000)), {}, "unknown parameter 'x0'"),
]


async def test_what_a_route_does_not_know_is_refused_and_nothing_done(tmp_path: Path) -> None:
    async with world(tmp_path) as asked:
        for method, path, headers, said in NOT_KNOWN:
            body = [intent("never")] if method == "POST" else None
            with_token = {"authorization": f"Bearer {TOKEN}", **headers}
            answer = await asked.client.request(method, path, json=body, headers=with_token)
            assert (answer.status_code, said in answer.text) == (400, True), (path[:80], answer.text)
            assert len(answer.content) < 5000
            assert {*asked.shell.names("intents")} == {"order-processing", "zebra"}


async def test_an_unknown_field_is_refused_with_the_one_that_was_meant(tmp_path: Path) -> None:
    async with world(tmp_path) as asked:
        probe = {"sorce": "cx1", "destination": "insight/analytics"}
        answer = await asked.ask("admin", "POST", "/v1/trace", probe)
        assert answer.status_code == 400 and "did you mean source?" in answer.text
        for wrong in (
            intent("never") | {"speck": {}},
            intent("never") | {"metadata": {"name": "never", "tenant": "customer-x", "tennant": "x"}},
            intent("never", isolte={"network": "shop/customer-x"}),
        ):
            answer = await asked.apply("admin", wrong)
            assert answer.status_code == 400, answer.text
            assert "did you mean" in json.dumps(answer.json()["problems"]), answer.text
