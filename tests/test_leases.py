"""Leases end everywhere: what an intent or agreement with an end permits closes by itself, with every process dead."""

import random
from collections import Counter
from collections.abc import Mapping

import msgspec
import pytest

from controller.fulfillment.meaning import Decision, Meaning
from controller.model.entry import OwnedEntry
from controller.model.event import Record
from dataplane.reasons import DropReason
from tests import generated_intents as generated
from tests.compiled_intents import Frames, compiled
from tests.packet_walk import Walk, echo
from tests.plain_walk import Tables
from tests.simulator import BOOT_EPOCH_S, ORDER_PROCESSING, World
from tests.test_meaning import agreed, meant, packets, walk

CONFIGURATIONS, PACKETS = 80, 300
ENDS_S = 1000, 2000
CX1, CX2, AY1, FW1 = "10.1.0.11", "10.1.0.12", "10.2.0.10", "10.1.9.2"
INSIDE = """
apiVersion: netstitch/v1
kind: Intent
metadata: {name: inside, tenant: customer-x}
spec:
  allow: [{from: {network: shop/customer-x, select: {app: web}}, to: shop/firewall, ports: [icmp]}]
  lease: {for: 20s}
"""
ACROSS = ORDER_PROCESSING.replace("30d", "60s")


def unleased(entries: tuple[OwnedEntry, ...], ends_s: Mapping[str, int]) -> list[OwnedEntry]:
    """What is steered for an intent that ends, or dropped, and does not end with it; or for another, and ends."""
    there = {entry.match[0].value: entry.params[0][1] for entry in entries if entry.table == "lease"}
    steered = [(entry, there.get(entry.match[0].value)) for entry in entries if entry.table == "steer"]
    denied = [(entry, dict(entry.params).get("boottime_s")) for entry in entries if entry.action.startswith("drop")]
    return [
        entry
        for entry, ends in (*steered, *denied)
        if entry.owner.startswith("intents/") and ends != ends_s.get(entry.owner.removeprefix("intents/"))
    ]


def test_an_end_that_no_node_can_hold_is_the_last_that_it_can() -> None:
    world = World()
    world.start()
    world.apply("shop", INSIDE.replace("for: 20s", "until: '9999-12-31T23:59:59Z'"))
    world.run(5.0)
    assert world.phase("shop", "inside") == "Active"
    entries = world.nodes["se1"].entries.values()
    assert {entry.params for entry in entries if entry.table == "lease"} == {(("boottime_s", 2**32 - 1),)}


def test_what_intents_permit_and_isolate_ends_with_them_on_every_node() -> None:
    """Before the first end, after it, and after the second: the frames of those that are left, counted for them."""
    before, after, last = Counter[str](), Counter[str](), 0
    for seed in range(CONFIGURATIONS):
        chance = random.Random(seed)
        intents, known = agreed(chance, generated.inventory(chance, far=False))
        ends_s = {intent.name: chance.choice(ENDS_S) for intent in intents if chance.random() < 0.75}
        entries = compiled(intents, known, ends_s)
        assert not any(unleased(of_node, ends_s) for of_node in entries.values()), seed
        frames, nodes = Frames(entries, known, 1 + seed % 2), {name: Tables(of) for name, of in entries.items()}
        sent = list(packets(chance, known, PACKETS))
        earlier: list[Decision] = []
        for now_s in (ENDS_S[0] - 1, *ENDS_S):
            left = [intent for intent in intents if ends_s.get(intent.name, now_s + 1) > now_s]
            meaning = Meaning(left, known)
            decisions = [meant(meaning, known, *where) for where in sent]
            for (where, packet), decision, was in zip(sent, decisions, earlier or decisions, strict=True):
                allowed, first, *_ = walk(nodes, where, packet, now_s)
                assert allowed == decision.allowed, f"seed {seed} at {now_s}: {packet} {decision} {first} {intents}"
                if decision == was and not decision.owner.startswith("intents/"):
                    continue
                frames.ask_for(packet, now_s)
                outcome = frames.send(where, packet, now_s)
                context = f"seed {seed} at {now_s}: {packet} {decision} {outcome} {first} {intents}"
                assert bool(outcome.delivered) == allowed, context
                if allowed:
                    assert first is not None and first.owner == decision.owner, context
                    before[decision.owner.partition("/")[0]] += 1
                    after[f"{was.owner.partition('/')[0]} {was.allowed}"] += was.owner != decision.owner
                elif was.allowed and not decision.owner:
                    assert (outcome.node, outcome.reason) == (where[0], DropReason.LEASE_EXPIRED), context
                    last += 1
                elif decision.owner and not was.allowed:
                    assert outcome.reason == DropReason.ISOLATED, context
            earlier = decisions
    print(f"carried by {dict(before)}; others after an end, by who decided before: {dict(after)}; {last} ended")
    assert min(*before.values(), after["intents True"], after["intents False"], last) > 50


def started(*manifests: str) -> World:
    """Each of which is Active."""
    world = World()
    world.start()
    for manifest in manifests:
        world.apply("shop", manifest)
    world.run(3.0)
    return world


def leases(world: World) -> dict[tuple[str, int, str], int]:
    """(node, forwarding class, owner) -> Unix time of its end."""
    return {
        (name, entry.match[0].value, entry.owner): entry.params[0][1] + BOOT_EPOCH_S
        for name, node in world.nodes.items()
        for entry in node.entries.values()
        if entry.table == "lease"
    }


def end_s(world: World, name: str) -> int:
    expires_s: int = world.get("shop", "intents", name).status["expires_s"]
    return expires_s


def test_every_forwarding_class_of_every_domain_has_an_end() -> None:
    world = started(INSIDE, ACROSS)
    assert [world.phase("shop", name) for name in ("inside", "order-processing")] == ["Active", "Active"]
    for name, node in world.nodes.items():
        steered = {
            entry.match[0].value: entry.owner
            for entry in node.entries.values()
            if entry.table == "steer" and not entry.owner.startswith("networks/")
        }
        ends = {number: ends_s for (at, number, _), ends_s in leases(world).items() if at == name}
        assert ends.keys() == steered.keys(), name
        for number, owner in steered.items():
            assert ends[number] == end_s(world, "inside" if owner == "intents/inside" else "order-processing")


def test_with_its_controller_dead_an_intent_inside_a_domain_ends_in_time_and_stays_ended() -> None:
    world = started(INSIDE)
    shop, ends_s = world.controllers["shop"], end_s(world, "inside")
    shop.crash()
    assert Walk(world).send("cx2", echo(CX2, FW1)).delivered == "fw1"
    before = leases(world)
    world.run(ends_s - 1 - world.now_s)
    assert Walk(world).send("cx2", echo(CX2, FW1)).delivered == "fw1"
    world.run(1.0)
    assert Walk(world).send("cx2", echo(CX2, FW1)).reason == DropReason.LEASE_EXPIRED
    assert Walk(world).send("fw1", echo(FW1, CX2, reply=True)).reason == DropReason.LEASE_EXPIRED
    shop.start()
    for _ in range(50):
        world.run(0.1)
        assert not Walk(world).send("cx2", echo(CX2, FW1)).delivered
        assert all(ends <= before[key] for key, ends in leases(world).items())
    assert world.phase("shop", "inside") == "Expired" and not leases(world)


def test_an_isolation_ends_in_time_with_every_controller_dead() -> None:
    world = started(ACROSS)
    for controller in world.controllers.values():
        controller.crash()
    world.run(end_s(world, "order-processing") - 1 - world.now_s)
    assert Walk(world).send("cx1", echo(CX1, CX2)).reason == DropReason.ISOLATED
    assert Walk(world).send("cx2", echo(CX2, CX1)).reason == DropReason.ISOLATED
    world.run(1.0)
    assert Walk(world).send("cx1", echo(CX1, AY1)).reason == DropReason.LEASE_EXPIRED
    for _ in range(2):
        assert Walk(world).send("cx1", echo(CX1, CX2)).delivered == "cx2"
        assert Walk(world).send("cx2", echo(CX2, CX1)).delivered == "cx1"
        for controller in world.controllers.values():
            if not controller.alive:
                controller.start()
        world.run(3.0)
    assert world.phase("shop", "order-processing") == "Expired"
    assert not [entry for entry in world.nodes["se1"].entries.values() if entry.action == "drop_until"]


def test_what_a_second_intent_isolates_stays_isolated_when_the_first_ends() -> None:
    alone = ACROSS[: ACROSS.index("  allow:")] + "  lease: {for: 60s}\n"
    world = started(alone, alone.replace("name: order-processing", "name: longer").replace("60s", "90s"))
    assert [world.phase("shop", name) for name in ("order-processing", "longer")] == ["Active", "Active"]
    for controller in world.controllers.values():
        controller.crash()
    world.run(end_s(world, "order-processing") - world.now_s)
    assert Walk(world).send("cx1", echo(CX1, CX2)).reason == DropReason.ISOLATED
    world.run(end_s(world, "longer") - world.now_s)
    assert Walk(world).send("cx1", echo(CX1, CX2)).delivered == "cx2"


def test_what_two_intents_permit_goes_on_with_the_younger_where_the_older_ends() -> None:
    world = started(INSIDE, INSIDE.replace("name: inside", "name: longer").replace("20s", "60s"))
    for controller in world.controllers.values():
        controller.crash()
    for name in ("inside", "longer"):
        world.run(end_s(world, name) - 1 - world.now_s)
        walk = Walk(world)
        assert walk.send("cx2", echo(CX2, FW1)).delivered == "fw1"
        assert walk.send("fw1", echo(FW1, CX2, reply=True)).delivered == "cx2"
        world.run(1.0)
    assert Walk(world).send("cx2", echo(CX2, FW1)).reason == DropReason.LEASE_EXPIRED


@pytest.mark.parametrize("manifest", [INSIDE, ACROSS], ids=["inside", "across"])
@pytest.mark.parametrize("how", ["apply", "renew"])
def test_a_renewed_lease_begins_anew_without_a_gap(manifest: str, how: str) -> None:
    world = started(manifest)
    name, host, packet = (
        ("inside", "cx2", echo(CX2, FW1)) if manifest == INSIDE else ("order-processing", "cx1", echo(CX1, AY1))
    )
    first_s = end_s(world, name)
    plans = set(world.controllers["shop"].state.stitches)
    world.run(first_s - 2 - world.now_s)
    reply = world.apply("shop", manifest) if how == "apply" else world.renew("shop", name)
    assert reply is not None and " renewed" in reply.results[0]
    assert end_s(world, name) == first_s - 2 + (first_s - world.get("shop", "intents", name).status["created_s"])
    for _ in range(200):
        world.run(0.05)
        assert Walk(world).send(host, packet).delivered, world.now_s - first_s
    assert world.now_s > first_s and set(world.controllers["shop"].state.stitches) == plans
    assert {ends_s for (node, _, _), ends_s in leases(world).items() if node in ("se1", "sg1")} == {end_s(world, name)}
    world.check_settled()


def test_what_cannot_be_renewed_says_why() -> None:
    world = started(INSIDE)
    for name, lease, why in (
        ("always", "", "intent always has no end: there is nothing to renew"),
        (
            "fixed",
            "  lease: {until: 2100-01-01T00:00:00Z}\n",
            "intent fixed ends at 2100-01-01T00:00:00Z, a fixed time",
        ),
    ):
        world.apply("shop", INSIDE.replace("name: inside", f"name: {name}").replace("  lease: {for: 20s}\n", lease))
        reply = world.renew("shop", name)
        assert reply is not None and reply.conflict.startswith(why), reply
    ends_s = end_s(world, "inside")
    world.run(30.0)
    reply = world.renew("shop", "inside")
    assert reply is not None and reply.conflict.startswith("the lease of intent inside is over since 2027-01-15T")
    assert world.phase("shop", "inside") == "Expired" and end_s(world, "inside") == ends_s
    reply = world.renew("shop", "nobody")
    assert reply is not None and reply.missing
    world.apply("shop", INSIDE)
    world.run(3.0)
    assert world.phase("shop", "inside") == "Active"


def test_a_lease_that_was_stored_by_an_earlier_release_is_on_the_nodes_after_an_upgrade() -> None:
    world = started(INSIDE)
    shop = world.controllers["shop"]
    shop.crash()
    before = leases(world)
    for key, record in shop.disk.items():
        if key[0] == "Course":
            assert record.content is not None
            content = msgspec.json.decode(record.content)
            del content["expires_s"]
            shop.disk[key] = Record(kind=record.kind, name=record.name, content=msgspec.json.encode(content))
    shop.start()
    world.run(3.0)
    assert leases(world) == before and before
