"""The clients for programs: a method for every route and parameter, and a real controller that answers them."""

import asyncio
import inspect
import re
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from federation import Controller, Federation, small_intent
from northbound_fake import TOKEN, FakeBackups, FakeController, FakeTelemetry, Tokens
from waiting import LIMIT_S

import netstitch
from controller.cli.kinds import KINDS, ROWS
from controller.northbound.api import create_app
from netstitch import AsyncClient, Client

DOCUMENT = create_app(FakeController(), FakeTelemetry(), Tokens(TOKEN), "shop", backups=FakeBackups()).openapi()
OPERATIONS = {
    (method.upper(), path): operation
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
}
NOT_A_PARAMETER = {"limit", "continue"}
"""Pages are followed."""
SAID_OTHERWISE = {"if-match": "unchanged_since"}


def test_every_route_has_a_method_and_every_method_a_route() -> None:
    assert set(netstitch.OPERATIONS) == set(OPERATIONS)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("operation", OPERATIONS, ids=" ".join)
def test_every_parameter_and_field_of_a_route_can_be_given(kind: type[Any], operation: tuple[str, str]) -> None:
    method = netstitch.OPERATIONS[operation]
    names = set(inspect.signature(getattr(kind, method)).parameters)
    document = OPERATIONS[operation]
    wanted = {parameter["name"] for parameter in document.get("parameters", ())} - NOT_A_PARAMETER
    if "watch" in wanted:
        names |= set(inspect.signature(kind.watch).parameters) | {"watch"}
    if method == "renew":
        names |= {"name"}  # the intent
    assert {SAID_OTHERWISE.get(name, name) for name in wanted} <= names
    body = document.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    fields = DOCUMENT["components"]["schemas"].get(body.get("$ref", "").rpartition("/")[2], {}).get("properties", {})
    assert "asked" in names or set(fields) <= names


@pytest.fixture
async def shop() -> AsyncIterator[Controller]:
    directory = Path(tempfile.mkdtemp(prefix="client-"))
    federation = Federation(directory)
    try:
        await federation.controllers["shop"].start()
        yield federation.controllers["shop"]
    finally:
        await federation.stop()
        shutil.rmtree(directory)


async def test_both_clients_talk_to_a_real_controller(shop: Controller) -> None:
    server, secret = f"http://{shop.listen}", await asyncio.to_thread(Path(shop.token_file).read_text)
    await asyncio.to_thread(_by_the_plain_client, server, secret)
    await asyncio.to_thread(_by_the_page, server, secret)
    await _by_the_asynchronous_client(shop, server, secret)


def _by_the_page(server: str, secret: str) -> None:
    """The examples of docs/api.md, in their order."""
    page = (Path(__file__).parent.parent / "docs" / "api.md").read_text()
    names: dict[str, Any] = {"server": server, "token": secret}
    examples = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(examples) >= 6
    for example in examples:
        exec(compile(example, "docs/api.md", "exec"), names)


def test_the_page_names_every_kind_and_error() -> None:
    page = (Path(__file__).parent.parent / "docs" / "api.md").read_text()
    for kind in {*KINDS} - ROWS - {"tokens"}:
        assert re.search(rf"`[^`]*\b{kind}\b[^`]*`", page), kind
    assert all(f"`{error}`" in page for error in vars(netstitch.errors) if error[0].isupper() and error not in NOT_TOLD)


NOT_TOLD = {"KINDS", "Any", "Sequence", "Error", "Refused"}


def _by_the_plain_client(server: str, secret: str) -> None:
    with Client(server, secret) as client:
        assert client.healthy() and client.whoami()["role"] == "admin"
        assert client.apply(small_intent("a"), dry_run=True)
        assert client.list("intents") == []
        assert client.apply(small_intent("a"), small_intent("b"))[0] == "intents/a created"
        seen = client.get("intents", "a")
        assert [intent["metadata"]["name"] for intent in client.list("intents", tenant="customer-x")] == ["a", "b"]
        changed = {**seen, "spec": seen["spec"] | {"priority": 7}}
        client.apply(changed, unchanged_since=seen["metadata"]["revision"])
        with pytest.raises(netstitch.Stale) as stale:
            client.delete("intents", "a", unchanged_since=seen["metadata"]["revision"])
        assert stale.value.now["spec"]["priority"] == 7
        with pytest.raises(netstitch.NotFound, match="there is no intents/none"):
            client.get("intents", "none")
        with pytest.raises(netstitch.Invalid) as invalid:
            client.apply({"apiVersion": "netstitch/v1", "kind": "Intent", "metadata": {"name": "x"}, "spec": {}})
        assert invalid.value.problems
        assert client.explain("intents", "a")["kind"] == "intent"
        assert client.trace(source="cx1", destination="analytics-y", protocol="icmp")["hops"] is not None
        assert any(event["spec"]["what"] == "created" for event in client.list("events", about="intents/a"))
        assert "netstitch_build_info" in client.metrics() and client.flows() == [] and client.drops() is not None
        assert client.flows(since=-5) == []
        assert client.drops("a") == []
        assert client.doctor()["domain"] == "shop"
        made = client.create_token(name="pipeline", role="operator", tenants=["customer-x"])
        with Client(server, made["secret"]) as operator, pytest.raises(netstitch.NotAllowed):
            operator.tokens()
        assert {"pipeline"} <= {token["metadata"]["name"] for token in client.tokens()}
        assert client.token("pipeline")["spec"]["role"] == "operator"
        client.revoke_token("pipeline")
        assert client.reload_policy(dry_run=True) is not None
        assert client.backup().startswith(b"SQLite format 3\0")
        with pytest.raises(netstitch.Conflict, match="no backup"):
            client.restore(b"nothing of the kind")
        with pytest.raises(netstitch.Conflict):
            client.renew("a")
        with pytest.raises(netstitch.NotFound):
            client.end_agreement("shop:none:1", reason="test")
        results = client.delete_all(
            [{"kind": "intents", "name": name} for name in ("a", "b", "c")], ignore_not_found=True
        )
        assert results == ["intents/a withdrawn", "intents/b withdrawn", "intents/c absent"]
    with Client("http://127.0.0.1:1", secret) as nobody, pytest.raises(netstitch.Unreachable):
        nobody.list("intents")


async def _by_the_asynchronous_client(shop: Controller, server: str, secret: str) -> None:
    """A watch goes on over a restart of the controller, and says what has gone meanwhile."""
    async with AsyncClient(server, secret) as client:
        await client.apply(small_intent("stays"), small_intent("goes"))
        changes = client.watch("intents")
        async with asyncio.timeout(LIMIT_S):
            seen = {(await anext(changes))["metadata"]["name"] for _ in range(2)}
            assert seen == {"goes", "stays"}
            await client.delete("intents", "goes")
            await shop.kill()
            await shop.start()
            while True:
                change = await anext(changes)
                if change["metadata"]["name"] == "goes" and change["status"].get("deleted"):
                    break
            await client.apply(small_intent("new"))
            while change["metadata"]["name"] != "new":
                change = await anext(changes)
        await changes.aclose()
