"""What happened is told: to what, when, why and by whom; bounded, and kept over restarts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from test_lists import Api, labelled, shop  # noqa: F401

from bench import leaf_spine
from controller.history import KEPT, History
from controller.model.access import OURSELVES
from controller.model.event import Apply, Effect, Event, Log, Reply
from controller.model.happening import RECORD
from controller.model.resource import Resource
from controller.store.sqlite import SqliteStore
from tests.simulator import ORDER_PROCESSING, World


class Told(World):
    """A world whose domain shop has a history."""

    def __init__(self) -> None:
        super().__init__()
        self.history = History()
        self.records: dict[str, bytes] = {}
        controller = self.controllers["shop"]
        step, perform = controller.together, controller._perform
        effects: list[Effect] = []

        def performed(of_step: tuple[Effect, ...]) -> bool:
            effects[:] = of_step
            return perform(of_step)

        def observed(events: Sequence[Event], life: int) -> bool:
            before = controller.state
            going_on = step(events, life)
            for record in self.history.observe((before, controller.state), events, effects, self.now_s):
                assert record.kind == RECORD and record.content is not None
                self.records[record.name] = record.content
            self.history.settle()
            return going_on

        controller._perform = performed  # type: ignore[method-assign]
        controller.together = observed  # type: ignore[method-assign]

    def lines(self, about: str = "") -> list[str]:
        return [
            f"{resource.spec['about']} {resource.spec['what']}"
            + (f": {resource.spec['why']}" if resource.spec["why"] else "")
            for resource in self.history.resources()
            if about in (resource.spec["about"], resource.spec.get("serves"), "")
        ]


async def of(api: Api, query: str = "") -> list[dict[str, Any]]:
    response = await api.http.get(f"/v1/events?{query}")
    assert response.status_code == 200, response.text
    return [event["spec"] for event in response.json()]


async def test_events_say_what_happened_when_and_who_did_it_also_after_a_restart(shop: Any) -> None:  # noqa: F811
    api = await shop()
    await api.apply(labelled("a", "one"))
    await api.apply(labelled("a", "two"))
    await api.http.post("/v1/apply?dry_run=true", json=[labelled("never", "one")])
    await api.http.delete("/v1/intents/a")
    told = await of(api, "about=intents/a")
    done = [
        (event["what"], event["by"])
        for event in told
        if not event["what"].startswith(("phase", "path")) and event["about"] == "intents/a"
    ]
    assert done == [("created", "bootstrap"), ("changed", "bootstrap"), ("withdrawn", "bootstrap")]
    assert all(event["time_s"] == 1_800_000_000 for event in told)
    assert {event["about"] for event in await of(api, "tenant=customer-x")} >= {"intents/a"}
    assert await of(api, "tenant=customer-z") == []
    everything = await of(api)
    assert {"networks/shop/customer-x", "nodes/se1"} <= {event["about"] for event in everything}
    assert not any("never" in event["about"] for event in everything)
    response = await api.http.get("/v1/events?limit=2")
    assert len(response.json()) == 2 and "next" in response.links
    names = [event["metadata"]["name"] for event in (await api.http.get("/v1/events")).json()]
    assert names == sorted(names)
    api = await shop()
    again = await of(api)
    assert again[: len(everything)] == everything


def test_a_shop_is_told_of_as_a_story() -> None:
    world = Told()
    world.start()
    world.apply("shop", ORDER_PROCESSING)
    world.run(3.0)
    story = world.lines("intents/order-processing")
    assert story[0] == "intents/order-processing created"
    phases = [line.removeprefix("intents/order-processing phase ") for line in story if " phase " in line]
    assert phases[-1] == "Active" and len(phases) == len(set(phases))
    assert any(line.startswith("agreements/shop:order-processing:") and " agreed" in line for line in story), story
    world.nodes["sg1"].up = False
    world.run(5.0)
    assert any(line.startswith("nodes/sg1 node unreachable: ") for line in world.lines())
    world.nodes["sg1"].up = True
    world.run(30.0)
    assert "nodes/sg1 node reachable" in world.lines()
    world.set_carrier("se1-sg1", False)
    world.run(5.0)
    assert any(line.startswith("links/se1-sg1 link down: ") for line in world.lines())
    assert any(" phase " in line and "Active" not in line for line in world.lines("intents/order-processing")[-3:])
    kept = [msgspec.json.decode(content)["what"] for content in world.records.values()]
    assert len(kept) == len(world.lines()), "what is shown is what is stored"


async def test_all_whose_traffic_takes_an_sr_policy_that_moves_are_told_and_it_is_kept_once_for_each_tenant(
    tmp_path: Path,
) -> None:
    size = leaf_spine.Size(leaves=2, spines=2, hosts=8)
    manifests = [leaf_spine.intent(size, number) for number in range(8)]
    for manifest in manifests[::2]:
        manifest["metadata"]["tenant"] = "another"
    async with leaf_spine.controller(size, tmp_path) as (shell, nodes):
        await leaf_spine.apply(shell, nodes, manifests)
        crossing = {
            stitch.plan.owner
            for stitch in shell.state.stitches.values()
            if any(p.crosses for p in stitch.plan.sr_policies)
        }
        (policy,) = shell.state.sr_policies.values()
        nodes.cut(0, int(policy.candidate_paths[0].nodes[1].removeprefix("spine")))
        await leaf_spine.settled(shell, nodes)
        await shell.apply([leaf_spine.intent(size, 8)], dry_run=False)  # what happened is stored with what comes next
        moved = [event for event in shell.list("events") if event.spec["what"] == "path moved"]
        assert len(crossing) > 2 and {event.spec["about"] for event in moved} == crossing
        assert all(
            shell.tenant(event.spec["about"].removeprefix("intents/")) == event.metadata["tenant"] for event in moved
        )
        assert len({event.metadata["name"].partition(".")[0] for event in moved}) == 2, "tenants"
    stored, _ = await (store := await SqliteStore.open(tmp_path / "store.sqlite")).load()
    await store.close()
    again = History.load(stored_record.record for stored_record in stored)
    kept = [event for event in again.resources() if event.spec["what"] == "path moved"]
    assert [event.spec for event in kept] == [event.spec for event in moved]


def test_the_same_is_not_told_twice_in_a_row_and_only_so_much_is_kept() -> None:
    world = World()
    state = world.controllers["shop"].state
    history = History()

    def observe(*effects: Effect, events: tuple[Event, ...] = ()) -> list[Resource]:
        history.observe((state, state), events, effects, 1.0)
        history.settle()
        return history.resources()

    log = Log(event="node_rejected", fields={"node": "se1", "reason": "no port 9"})
    assert len(observe(log, log)) == len(observe(log)) == 1
    many = tuple(f"intents/i{number} created" for number in range(KEPT + 7))
    apply = Apply(request_id="r", resources=(), by=OURSELVES)
    told = observe(Reply(request_id="r", results=many), events=(apply,))
    assert [event.spec["about"] for event in (told[0], told[-1])] == ["intents/i7", f"intents/i{KEPT + 6}"]
    dry = msgspec.structs.replace(apply, dry_run=True)
    assert observe(Reply(request_id="r", results=("intents/x created",)), events=(dry,)) == told


def test_what_happens_to_many_intents_of_a_tenant_at_once_is_one_record_and_a_line_for_each() -> None:
    world = World()
    state = world.controllers["shop"].state
    history = History()
    apply = Apply(request_id="r", resources=(), by=OURSELVES, file="many.yaml")
    results = (*(f"intents/i{number} created" for number in range(100)), "intents/i3 withdrawn")
    records = history.observe((state, state), (apply,), (Reply(request_id="r", results=results),), 1.0)
    history.settle()
    assert len(records) == 2
    told = [(event.spec["about"], event.spec["what"], event.spec["why"]) for event in history.resources()]
    created = [(f"intents/i{number}", "created", "from many.yaml") for number in range(100)]
    assert told == [*created, ("intents/i3", "withdrawn", "from many.yaml")]
    assert len({event.metadata["name"] for event in history.resources()}) == 101
    again = History.load(records)
    assert again.resources() == history.resources()
    twice = Reply(request_id="r", results=("intents/i2 created", "intents/i3 created"))
    for each in (history, again):
        each.observe((state, state), (apply,), (twice,), 2.0)
        each.settle()
        assert [event.spec["about"] for event in each.resources()[101:]] == ["intents/i3"], "i2 was told of already"


@pytest.mark.parametrize(("fields", "about"), [
    ({"agreement": "shop:a:1", "peer": "transit"}, "agreements/shop:a:1"),
    ({"peer": "transit", "reason": "late"}, "domains/transit"),
    ({"owner": "intents/a", "plan": "a.1"}, "intents/a"),
    ({}, "domains/shop"),
])  # fmt: skip
def test_everything_that_is_logged_is_about_something(fields: dict[str, str], about: str) -> None:
    state = World().controllers["shop"].state
    history = History()
    history.observe((state, state), (), (Log(event="it_happened", fields=fields),), 1.0)
    history.settle()
    (event,) = history.resources()
    assert (event.spec["about"], event.spec["what"]) == (about, "it happened")
