"""Leases end everywhere: what an intent or agreement with an end permits closes by itself, with every process dead."""

import random

import msgspec
import pytest

from controller.fulfillment.meaning import Meaning
from controller.model.entry import OwnedEntry
from controller.model.event import Record
from dataplane.reasons import DropReason
from tests import generated_intents as generated
from tests.compiled_intents import Frames, compiled
from tests.packet_walk import Walk, echo
from tests.simulator import BOOT_EPOCH_S, ORDER_PROCESSING, World
from tests.test_meaning import agreed, meant, packets

CONFIGURATIONS, PACKETS = 40, 400
END_S = 1000
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


def unleased(entries: tuple[OwnedEntry, ...], end_s: int) -> list[OwnedEntry]:
    """What is steered for an intent or agreement and has no lease that ends then."""
    ends = {entry.match[0].value: entry.params[0][1] for entry in entries if entry.table == "lease"}
    return [
        entry
        for entry in entries
        if entry.table == "steer"
        and not entry.owner.startswith("networks/")
        and ends.get(entry.match[0].value) != end_s
    ]


def test_an_end_that_no_node_can_hold_is_the_last_that_it_can() -> None:
    world = World()
    world.start()
    world.apply("shop", INSIDE.replace("for: 20s", "until: '9999-12-31T23:59:59Z'"))
    world.run(5.0)
    assert world.phase("shop", "inside") == "Active"
    entries = world.nodes["se1"].entries.values()
    assert {entry.params for entry in entries if entry.table == "lease"} == {(("boottime_s", 2**32 - 1),)}


def test_whatever_intents_permit_ends_with_them_on_every_node() -> None:
    carried = between_nodes = isolated = 0
    for seed in range(CONFIGURATIONS):
        chance = random.Random(seed)
        known = generated.inventory(chance, far=False)
        intents = agreed(chance, known)
        entries = compiled(intents, known, END_S)
        assert not any(unleased(of_node, END_S) for of_node in entries.values()), seed
        frames, meaning = Frames(entries, known, 1 + seed % 2), Meaning(intents, known)
        for where, packet in packets(chance, known, PACKETS):
            decision = meant(meaning, known, where, packet)
            if not decision.owner.startswith("intents/"):
                continue
            frames.ask_for(packet, END_S - 1)
            before, after = (frames.send(where, packet, at_s) for at_s in (END_S - 1, END_S))
            assert not after.delivered, (seed, packet)
            if decision.allowed:
                assert before.delivered, (seed, packet)
                assert (after.node, after.reason) == (where[0], DropReason.LEASE_EXPIRED), (seed, packet)
                carried += 1
                between_nodes += len(before.path) > 1
            else:  # an isolation does not open by itself
                assert before.reason == after.reason == DropReason.ISOLATED
                isolated += 1
    print(f"{carried} carried, {between_nodes} between nodes, {isolated} isolated")
    assert min(carried, between_nodes, isolated) > 50


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


def test_an_isolation_that_ends_while_its_controller_is_dead_stays_closed_until_one_is_back() -> None:
    world = started(ACROSS)
    for controller in world.controllers.values():
        controller.crash()
    world.run(end_s(world, "order-processing") - world.now_s)
    assert Walk(world).send("cx1", echo(CX1, AY1)).reason == DropReason.LEASE_EXPIRED
    assert Walk(world).send("cx1", echo(CX1, CX2)).reason == DropReason.ISOLATED
    assert Walk(world).send("cx2", echo(CX2, CX1)).reason == DropReason.ISOLATED
    world.controllers["shop"].start()
    world.run(3.0)
    assert Walk(world).send("cx1", echo(CX1, CX2)).delivered == "cx2"


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
