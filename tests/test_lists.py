"""Lists in pages and by selectors, revisions that guard against lost changes, watches that go on where they were."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from federation import Federation, small_intent
from northbound_fake import TOKEN, FakeBackups, FakeTelemetry
from shell_parts import NOW_S, FakeNeighbours, FakeTargets, hosts, ignore
from waiting import LIMIT_S

from controller import reconcile
from controller.eastwest.identity import load
from controller.errors import TooOld
from controller.history import History
from controller.language.manifest import applied, parse
from controller.language.policy import parse_policy
from controller.model.phases import PHASES
from controller.model.resource import Resource
from controller.northbound.api import create_app
from controller.northbound.lists import selector
from controller.northbound.tokens import Tokens
from controller.revisions import GONE_MAX, PER_START, Revisions
from controller.shell import Shell
from controller.store.sqlite import SqliteStore


def labelled(name: str, app: str) -> dict[str, Any]:
    manifest = small_intent(name)
    return manifest | {"metadata": manifest["metadata"] | {"labels": {"app": app}}}


class Api:
    """Domain shop over its own store, and its API without a socket."""

    def __init__(self, shell: Shell) -> None:
        self.shell = shell
        transport = httpx.ASGITransport(
            create_app(shell, FakeTelemetry(), Tokens(TOKEN), "shop", backups=FakeBackups())
        )
        headers = {"authorization": f"Bearer {TOKEN}"}
        self.http = httpx.AsyncClient(transport=transport, base_url="http://shop", headers=headers)

    async def apply(self, *manifests: dict[str, Any], **headers: str) -> httpx.Response:
        return await self.http.post("/v1/apply", json=list(manifests), headers=headers)

    async def names(self, query: str) -> list[str]:
        response = await self.http.get(f"/v1/{query}")
        assert response.status_code == 200, response.text
        return [resource["metadata"]["name"] for resource in response.json()]

    async def revision(self, name: str) -> int:
        return int((await self.http.get(f"/v1/{name}")).json()["metadata"]["revision"])


@pytest.fixture
async def shop(tmp_path: Any) -> AsyncIterator[Any]:
    """Calling it starts the controller, anew when it runs."""
    Federation(tmp_path)
    own = tmp_path / "shop"
    policy = parse_policy((own / "policy.yaml").read_bytes(), "policy.yaml")
    inventory = parse((own / "inventory.yaml").read_bytes(), "inventory.yaml")
    running: list[tuple[asyncio.Task[None], SqliteStore]] = []

    async def stop() -> None:
        while running:
            loop, store = running.pop()
            loop.cancel()
            await asyncio.gather(loop, return_exceptions=True)
            await store.close()

    async def start() -> Api:
        await stop()
        store = await SqliteStore.open(tmp_path / "store.sqlite")
        stored, _ = await store.load()
        records = [kept.record for kept in stored]
        initial, history = reconcile.initial(records, "shop", policy), History.load(records)
        keys = load("shop", own / "keys")
        shell = Shell(*initial, journal=store, keys=keys, log=ignore, history=history, now_s=lambda: NOW_S)

        async def run() -> None:
            async with asyncio.TaskGroup() as tasks:
                targets = FakeTargets(shell, tasks, hosts(tmp_path))
                tasks.create_task(shell.run(FakeNeighbours(shell, tasks), targets))

        running.append((asyncio.create_task(run()), store))
        answer = await shell.apply_values(tuple(map(applied, inventory)))
        assert not answer.problems and not answer.conflict
        return Api(shell)

    yield start
    await stop()


async def test_lists_come_in_pages_and_by_selectors(shop: Any) -> None:
    api = await shop()
    many = [labelled(f"i{number:02}", "odd" if number % 2 else "even") for number in range(7)]
    assert (await api.apply(*many)).status_code == 200
    names: list[str] = []
    url: str | None = "/v1/intents?limit=3&labels=app"
    sizes = []
    while url is not None:
        response = await api.http.get(url)
        sizes.append(len(response.json()))
        names += [resource["metadata"]["name"] for resource in response.json()]
        url = response.links.get("next", {}).get("url")
    assert (names, sizes) == ([f"i{number:02}" for number in range(7)], [3, 3, 1])
    for query, expected in (
        ("labels=app%3Dodd", ["i01", "i03", "i05"]),
        ("labels=app!%3Dodd", ["i00", "i02", "i04", "i06"]),
        ("labels=!app", []),
        ("labels=app%3Dodd,tier", []),
        ("tenant=customer-x&limit=1", ["i00"]),
        ("tenant=customer-z", []),
        ("phase=negotiating&limit=2", ["i00", "i01"]),
        ("phase=Active", []),
    ):
        assert await api.names(f"intents?{query}") == expected, query
    for query in ("limit=0", "limit=x", "continue=%25", "labels=%3Dx", "since=-1", "about=intents/i00", "since=1"):
        assert (await api.http.get(f"/v1/intents?{query}")).status_code == 400, query


async def test_a_phase_that_things_of_a_kind_never_have_is_refused_with_those_they_have(shop: Any) -> None:
    api = await shop()
    for kind, known in PHASES.items():
        for resource in api.shell.list(kind):
            status = resource.status.get("phase", resource.status.get("standing"))
            assert status in (*known, None), (kind, status)
        for phase in known:
            assert (await api.http.get(f"/v1/{kind}?phase={phase.upper()}")).status_code == 200, (kind, phase)
        for query in ("phase=Bogus", "phase=", "phase=Bogus&watch=true"):
            answer = await api.http.get(f"/v1/{kind}?{query}")
            assert answer.status_code == 400 and known[0] in answer.text and known[-1] in answer.text, (kind, query)
    assert "did you mean Active?" in (await api.http.get("/v1/intents?phase=actve")).text
    for kind, wrong in (("nodes", "Active"), ("agreements", "Active"), ("intents", "Ready"), ("links", "Up")):
        assert (await api.http.get(f"/v1/{kind}?phase={wrong}")).status_code == 400, kind
    for kind in ("rules", "services", "tunnels", "domains", "entries", "events", "policies"):
        answer = await api.http.get(f"/v1/{kind}?phase=Active")
        assert answer.status_code == 400 and "have no phases" in answer.text, kind
    assert (await api.http.get("/v1/bogus?phase=Active")).status_code == 404


async def test_a_change_that_somebody_else_made_is_not_written_over(shop: Any) -> None:
    api = await shop()
    await api.apply(labelled("a", "one"))
    seen = await api.revision("intents/a")
    assert (await api.apply(labelled("a", "two"), **{"if-match": f'"{seen}"'})).json()["results"][0] == (
        "intents/a changed"
    )
    for response in (
        await api.apply(labelled("a", "three"), **{"if-match": f'"{seen}"'}),
        await api.http.delete("/v1/intents/a", headers={"if-match": f'"{seen}"'}),
        await api.http.post("/v1/delete", json=[{"kind": "intents", "name": "a"}], headers={"if-match": str(seen)}),
    ):
        assert response.status_code == 412
        assert response.json()["now"]["metadata"]["labels"] == {"app": "two"}
        assert "not as it was" in response.json()["error"]
    assert (await api.apply(labelled("b", "one"), **{"if-match": "*"})).status_code == 412, "it is not there"
    for nonsense in ("x", '"9999999999999999"', ""):
        assert (await api.apply(labelled("a", "three"), **{"if-match": nonsense})).status_code == 400, nonsense
    api = await shop()
    now = await api.revision("intents/a")
    assert now > seen, "revisions grow over restarts"
    assert (await api.apply(labelled("a", "one"), **{"if-match": f'"{seen}"'})).status_code == 412
    assert (await api.http.delete("/v1/intents/a", headers={"if-match": f'"{now}"'})).status_code == 200


async def test_what_was_shown_can_be_applied_again(shop: Any) -> None:
    api = await shop()
    await api.apply(labelled("a", "one"))
    for kind in ("intents", "networks"):
        shown = (await api.http.get(f"/v1/{kind}")).json()
        results = (await api.apply(*shown)).json()["results"]
        assert {result.split()[-1] for result in results} == {"unchanged"}, results


async def test_a_watch_goes_on_after_a_revision_with_what_has_changed_since(shop: Any) -> None:
    api = await shop()
    await api.apply(labelled("a", "one"), labelled("b", "one"), labelled("c", "one"))
    response = await api.http.get("/v1/intents")
    since = int(response.headers["netstitch-revision"])
    await api.apply(labelled("a", "two"))
    await api.http.delete("/v1/intents/b")
    changes = api.shell.watch("intents", since=since)
    seen: dict[str, Resource] = {}
    async with asyncio.timeout(LIMIT_S):
        while not {"a", "b"} <= seen.keys():
            change = await anext(changes)
            seen[change.metadata["name"]] = change
        assert seen["a"].metadata["labels"] == {"app": "two"} and seen["b"].status == {"deleted": True}
        last = int(change.metadata["revision"])
        await api.apply(labelled("d", "one"))
        while change.metadata["name"] != "d":
            change = await anext(changes)
    await changes.aclose()
    with pytest.raises(TooOld):
        api.shell.watch("intents", since=last + PER_START)
    api = await shop()
    gone = await api.http.get(f"/v1/intents?watch=true&since={last}")
    assert gone.status_code == 410 and "list again" in gone.json()["error"]


def test_only_so_many_that_are_gone_are_remembered() -> None:
    revisions = Revisions(1)
    resource = Resource(kind="Intent", metadata={"name": "x"}, spec={}, status={})
    revisions.look("intents", [resource])
    began = revisions.newest
    for _ in range(GONE_MAX):
        revisions.look("intents", [])
        revisions.look("intents", [resource])
    assert len(revisions.gone("intents", began)) == GONE_MAX
    revisions.look("intents", [])
    with pytest.raises(TooOld):
        revisions.gone("intents", began)


def test_what_changes_by_itself_is_no_change() -> None:
    revisions = Revisions(1)

    def look(**status: Any) -> int:
        resource = Resource(kind="Agreement", metadata={"name": "x"}, spec={}, status=status)
        return int(revisions.look("agreements", [resource])[0].metadata["revision"])

    first = look(standing="Agreed", expires_in_s=60)
    assert look(standing="Agreed", expires_in_s=59) == first
    assert look(standing="Ended", expires_in_s=59) > first


@pytest.mark.parametrize("text", ["=x", "a=", "!", "a!=", ","])
def test_selectors_that_say_nothing_are_refused_or_pick_all(text: str) -> None:
    if text == ",":
        assert selector(text) == ()
    else:
        with pytest.raises(ValueError, match="expected NAME=VALUE"):
            selector(text)


async def test_a_page_costs_what_it_shows(shop: Any) -> None:
    """A resource has its revision from the first look at it: so many were looked at."""
    api = await shop()
    names = [f"one-{n}" for n in range(8)]
    assert (await api.apply(*map(small_intent, names))).status_code == 200
    first = await api.http.get("/v1/intents?limit=2")
    assert [intent["metadata"]["name"] for intent in first.json()] == names[:2]
    looked_at = api.shell._revisions._known["intents"].keys()
    assert looked_at == {*names[:3]}, "two and the one that says that there is more"
    changes = api.shell.watch("intents", since=int(first.headers["netstitch-revision"]))
    async with asyncio.timeout(LIMIT_S):
        seen: set[str] = set()  # the rest is told to who watches from there on; of others, what has changed since
        while not seen >= {*names[3:]}:
            seen.add(str((await anext(changes)).metadata["name"]))
