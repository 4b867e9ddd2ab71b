"""One controller, step by step: what is accepted, stored, answered, in which order."""

import msgspec
import pytest
from msgspec.structs import replace

from controller import reconcile
from controller.fulfillment.acl import MAX_SERIAL
from controller.fulfillment.meaning import Packet, permitted
from controller.language.manifest import applied, parse, print_yaml
from controller.model.event import (
    Apply,
    Connect,
    Delete,
    Effect,
    MessageSent,
    NodeDescribed,
    NodeRejected,
    NodeSynced,
    NodeUnreachable,
    Persist,
    Reference,
    Reply,
    Send,
    SyncNode,
    Tick,
)
from controller.model.stitch import Stage
from controller.reconcile.tables import sr_policy_key
from controller.views import resource_view
from dataplane.reasons import L4Class
from tests.simulator import ORDER_PROCESSING, World

WEB = """
apiVersion: netstitch/v1
kind: Intent
metadata: {name: web, tenant: customer-x}
spec:
  allow: [{from: {network: shop/customer-x, select: {app: web}}, to: insight/analytics/analytics-y}]
"""


@pytest.fixture
def world() -> World:
    world = World()
    world.start()
    return world


def reply(effects: tuple[Effect, ...]) -> Reply:
    return next(effect for effect in effects if isinstance(effect, Reply))


def step(world: World, text: str) -> tuple[reconcile.State, tuple[Effect, ...]]:
    controller = world.controllers["shop"]
    event = Apply(request_id="r", resources=tuple(map(applied, parse(text))))
    return reconcile.step(controller.state, event, world.now_s, controller.keys)


def test_what_is_stored_comes_before_all_else(world: World) -> None:
    _, effects = step(world, ORDER_PROCESSING)
    assert isinstance(effects[0], Persist)
    assert sum(isinstance(effect, Persist) for effect in effects) == 1
    assert {record.kind for record in effects[0].records} >= {"Intent", "Course", "Outbox"}


def test_state_given_to_step_is_not_changed(world: World) -> None:
    before = world.controllers["shop"].state
    names = set(before.intent_records), set(before.stitches), dict(before.counters)
    step(world, ORDER_PROCESSING)
    assert (set(before.intent_records), set(before.stitches), dict(before.counters)) == names


def test_all_or_none(world: World) -> None:
    wrong = WEB.replace("app: web", "app: nothing")
    state, effects = step(world, ORDER_PROCESSING + "---" + wrong)
    (problem,) = reply(effects).problems
    assert problem.path == (1, "spec", "allow", 0, "from", "select")
    assert len(effects) == 1 and not state.intent_records


def test_name_of_another_tenant_is_a_conflict(world: World) -> None:
    world.apply("shop", WEB)
    answer = world.apply("shop", WEB.replace("tenant: customer-x", "tenant: customer-z"))
    assert answer is not None and answer.conflict == "intent web belongs to tenant customer-x: use another name"


@pytest.mark.parametrize("first", [True, False])
def test_nobody_connects_what_another_intent_isolates(world: World, first: bool) -> None:
    other = WEB.replace(", select: {app: web}", "")
    texts = [ORDER_PROCESSING, other] if first else [other, ORDER_PROCESSING]
    world.apply("shop", texts[0])
    answer = world.apply("shop", texts[1])
    assert answer is not None
    assert "contradiction: intent order-processing (isolate) and intent web (allow 1)" in answer.conflict
    assert "tcp (opening) 10.1.0.11 port 49152 (shop/customer-x) -> 10.2.0.10 port 443" in answer.conflict


def test_one_address_behind_two_names_is_a_conflict(world: World) -> None:
    twin = WEB.replace("name: web", "name: twin").replace("insight/analytics/analytics-y", "insight/twin/analytics-y")
    network = (
        "apiVersion: netstitch/v1\nkind: Network\nmetadata: {name: insight/twin}\nspec: {prefixes: [10.2.0.0/24]}\n"
    )
    service = (
        "apiVersion: netstitch/v1\nkind: Service\nmetadata: {name: insight/twin/analytics-y}\n"
        "spec: {addresses: [10.2.0.10], ports: [tcp/443]}\n"
    )
    answer = world.apply("shop", "---\n".join([network, service, WEB, twin]))
    assert answer is not None and "the other end could not tell them apart" in answer.conflict


@pytest.mark.parametrize(
    ("kind", "name", "user"),
    [
        ("Network", "insight/analytics", "intent web"),
        ("Service", "insight/analytics/analytics-y", "intent web"),
        ("Node", "se1", "intent web"),
        ("Link", "sg1-t1", "intent web"),
        ("Link", "sg1-ig1", ""),
        ("Domain", "transit", "intent web"),
        ("Domain", "shop", "this controller"),
    ],
)
def test_what_is_in_use_is_not_deleted(world: World, kind: str, name: str, user: str) -> None:
    world.apply("shop", WEB.replace("spec:", "spec:\n  require: {latency_ms: {max: 20}}"))
    world.run(2.0)
    answer = world.delete("shop", name, kind)
    assert answer is not None
    assert user in answer.conflict if user else not answer.conflict, answer


def test_unknown_thing_is_not_found(world: World) -> None:
    for kind in ("Intent", "Node"):
        answer = world.delete("shop", "nothing", kind)
        assert answer is not None and answer.missing


@pytest.mark.parametrize(
    ("change", "to", "message"),
    [
        ("locator: 5f00:1:2::/48", "locator: 5f00:2:9::/48", "is not in the SID block of shop"),
        ("locator: 5f00:1:2::/48", "locator: 5f00:1:e000::/48", "its third group names the node, and is 1 to dfff"),
        ("locator: 5f00:1:2::/48", "locator: 5f00:1:1::/48", "already"),
        ("node: sg1\n    border", "node: sg9\n    border", "unknown node sg9"),
        ("name: insight/analytics\n", "name: moon/analytics\n", "unknown domain moon"),
    ],
)
def test_inventory_that_does_not_fit_is_refused(world: World, change: str, to: str, message: str) -> None:
    text = world.inventories["shop"]
    assert change in text, text
    answer = world.apply("shop", text.replace(change, to, 1))
    assert answer is not None and any(message in problem.message for problem in answer.problems), answer


def test_inventory_change_that_breaks_an_intent_is_a_conflict(world: World) -> None:
    world.apply("shop", ORDER_PROCESSING)
    answer = world.apply("shop", world.inventories["shop"].replace("app: order-processing", "app: other"))
    assert answer is not None and "intent order-processing would no longer hold" in answer.conflict


def test_a_host_that_joins_the_selection_joins_the_intent(world: World) -> None:
    world.apply("shop", ORDER_PROCESSING)
    world.run(2.0)
    world.apply("shop", world.inventories["shop"].replace("app: web", "app: order-processing"))
    world.run(5.0)
    world.check_settled()
    assert world.phase("shop", "order-processing") == "Active"
    (stitch,) = world.controllers["insight"].state.stitches.values()
    assert "10.1.0.12/32" in stitch.plan.connection.flows[0].source_prefixes


def test_agent_of_another_node_gets_nothing(world: World) -> None:
    controller = world.controllers["shop"]
    wrong = world.nodes["sg1"].describe()
    state, effects = reconcile.step(
        controller.state, NodeDescribed(node="se1", description=wrong), world.now_s, controller.keys
    )
    assert not state.nodes["se1"].reachable and "says it is sg1" in state.nodes["se1"].reason
    assert not [effect for effect in effects if isinstance(effect, SyncNode)]


def test_node_that_refuses_its_state_is_named_and_asked_again(world: World) -> None:
    world.apply("shop", ORDER_PROCESSING)
    world.run(2.0)
    controller = world.controllers["shop"]
    generation = controller.state.nodes["se1"].generation
    event = NodeRejected(node="se1", generation=generation, reason="table flow_policy is full")
    state, _ = reconcile.step(controller.state, event, world.now_s, controller.keys)
    (intent,) = resource_view.resources(state, "intents", world.now_s)
    assert intent.status["phase"] == "Installing"
    assert "table flow_policy is full" in intent.status["conditions"][0]["reason"]
    _, effects = reconcile.step(state, Tick(), world.now_s + 3, controller.keys)
    asked = [effect for effect in effects if isinstance(effect, SyncNode) and effect.node == "se1"]
    assert asked


def test_a_clock_that_is_set_back_puts_off_neither_messages_nor_audits(world: World) -> None:
    world.apply("shop", ORDER_PROCESSING)
    controller = world.controllers["shop"]
    ((name, outgoing),) = controller.state.outbox.items()
    lost = MessageSent(peer=outgoing.peer, message_id=name, reason="unreachable")
    state, _ = reconcile.step(controller.state, lost, world.now_s, controller.keys)
    _, effects = reconcile.step(state, Tick(), world.now_s - 3600, controller.keys)
    assert [effect.message_id for effect in effects if isinstance(effect, Send)] == [name]
    world.run(4.0)
    _, effects = reconcile.step(controller.state, Tick(), world.now_s - 3600, controller.keys)
    assert {effect.node for effect in effects if isinstance(effect, SyncNode) and effect.audit} == {"se1", "sg1"}


def test_unreachable_node_of_another_intent_disturbs_nobody(world: World) -> None:
    world.apply("transit", world.inventories["transit"])
    world.apply("shop", ORDER_PROCESSING)
    world.run(2.0)
    controller = world.controllers["shop"]
    event = NodeUnreachable(node="se1", reason="gone")
    state, effects = reconcile.step(controller.state, event, world.now_s, controller.keys)
    (intent,) = resource_view.resources(state, "intents", world.now_s)
    assert intent.status["phase"] == "Active"
    assert intent.status["conditions"] == [
        {"type": "NodeUnreachable", "reason": "node se1 unreachable: gone; its state is as last confirmed"}
    ]
    assert not [effect for effect in effects if isinstance(effect, SyncNode)]


def test_of_a_tunnel_whose_node_is_away_nothing_is_said_but_what_was_last_known(world: World) -> None:
    world.apply("shop", ORDER_PROCESSING)
    world.run(2.0)
    controller = world.controllers["shop"]
    (before,) = resource_view.resources(controller.state, "tunnels", world.now_s)
    state = controller.state
    for second in range(2):  # it is still away
        event = NodeUnreachable(node="sg1", reason="connection refused")
        state, _ = reconcile.step(state, event, world.now_s + second, controller.keys)
    (tunnel,) = resource_view.resources(state, "tunnels", world.now_s + 2)
    assert "up" not in tunnel.status and "connection refused" in tunnel.status["reason"]
    assert tunnel.status["unreachable_since_s"] == world.now_s
    assert tunnel.status["agreements"] == before.status["agreements"]
    described = NodeDescribed(node="sg1", description=world.nodes["sg1"].describe())
    state, _ = reconcile.step(state, described, world.now_s + 3, controller.keys)
    (after,) = resource_view.resources(state, "tunnels", world.now_s + 3)
    assert "up" in before.status.keys() & after.status.keys()
    assert not {"reason", "unreachable_since_s"} & after.status.keys()


def test_what_an_audit_was_refused_is_forgotten_when_the_node_has_it_again(world: World) -> None:
    world.apply("shop", ORDER_PROCESSING)
    world.run(2.0)
    controller = world.controllers["shop"]
    standing = controller.state.nodes["sg1"]
    assert standing.settled
    refused = NodeRejected(node="sg1", generation=standing.generation, reason="WireGuard does not answer")
    state, _ = reconcile.step(controller.state, refused, world.now_s, controller.keys)
    assert not state.nodes["sg1"].settled
    state, effects = reconcile.step(state, Tick(), world.now_s + 3, controller.keys)
    assert [effect.audit for effect in effects if isinstance(effect, SyncNode) and effect.node == "sg1"] == [True]
    made = NodeSynced(node="sg1", generation=standing.generation, writes=0)
    state, _ = reconcile.step(state, made, world.now_s + 3, controller.keys)
    assert state.nodes["sg1"].settled


def test_records_give_back_the_state(world: World) -> None:
    world.apply("shop", ORDER_PROCESSING)
    world.run(2.0)
    controller = world.controllers["shop"]
    state, effects = reconcile.initial(controller.disk.values(), "shop", controller.policy)
    starts = controller.state.counters["start"] + 1
    expected = msgspec.structs.replace(controller.state, counters=controller.state.counters.set("start", starts))
    for name in (
        "inventory",
        "intent_records",
        "stitches",
        "outbox",
        "closed",
        "descriptions",
        "counters",
        "provenance",
        "agreements",
    ):
        assert getattr(state, name) == getattr(expected, name), name
    assert [effect.node for effect in effects if isinstance(effect, Connect)] == ["se1", "sg1"]


def test_an_sr_policy_that_is_stored_under_a_former_name_is_taken_over_under_its_own(world: World) -> None:
    world.apply("shop", ORDER_PROCESSING)
    world.run(2.0)
    controller = world.controllers["shop"]
    [name] = controller.state.sr_policies
    former = replace(controller.disk.pop(("SrPolicy", name)), name=f"{name} former")
    controller.crash()
    controller.disk["SrPolicy", former.name] = former
    controller.start()
    world.run(2.0)
    assert list(controller.state.sr_policies) == [key for kind, key in controller.disk if kind == "SrPolicy"] == [name]
    assert controller.state.stitches.by(sr_policy_key(name))


def test_unreadable_record_is_named() -> None:
    world = World()
    world.start()
    controller = world.controllers["shop"]
    record = replace(next(iter(controller.disk.values())), content=b"{")
    with pytest.raises(ValueError, match=f"record {record.kind}/{record.name} cannot be read"):
        reconcile.initial([record], "shop", controller.policy)
    with pytest.raises(ValueError, match="unknown kind"):
        reconcile.initial([replace(record, kind="Nonsense")], "shop", controller.policy)


def test_isolation_alone_is_active_and_ends_with_the_intent(world: World) -> None:
    alone = ORDER_PROCESSING.split("  allow:")[0]
    world.apply("shop", alone)
    world.run(1.0)
    assert world.phase("shop", "order-processing") == "Active"
    assert "intents/order-processing" in world.owners()["se1"]
    world.delete("shop", "order-processing")
    world.run(1.0)
    assert "intents/order-processing" not in world.owners()["se1"]


def test_two_intents_and_two_allows_at_once(world: World) -> None:
    both = ORDER_PROCESSING.replace("  require", "    - {to: insight/analytics, ports: [icmp]}\n  require")
    world.apply("shop", both + "---" + WEB)
    world.run(3.0)
    phases = {
        str(resource.metadata["name"]): resource.status["phase"] for resource in world.resources("shop", "intents")
    }
    assert phases["web"] == "Active"
    assert phases["order-processing"] == "Refused"  # insight accepts its services, not the whole network
    world.check_settled()


def test_delete_is_answered_before_the_nodes_are(world: World) -> None:
    world.apply("shop", ORDER_PROCESSING)
    world.run(2.0)
    controller = world.controllers["shop"]
    event = Delete(request_id="r", resources=(Reference(kind="Intent", name="order-processing"),))
    state, effects = reconcile.step(controller.state, event, world.now_s, controller.keys)
    assert reply(effects).results == ("intents/order-processing withdrawn",)
    assert isinstance(effects[0], Persist)
    assert resource_view.resources(state, "intents", world.now_s) == []


@pytest.mark.parametrize(
    "kind",
    ["intents", "networks", "services", "nodes", "links", "paths", "domains", "agreements", "tunnels", "entries"],
)
def test_every_kind_can_be_seen(world: World, kind: str) -> None:
    world.apply("shop", ORDER_PROCESSING)
    world.run(2.0)
    resources = world.resources("shop", kind)
    assert resources
    assert len({str(resource.metadata["name"]) for resource in resources}) == len(resources)
    with pytest.raises(KeyError):
        world.resources("shop", "nonsense")


def test_every_forwarding_class_has_an_owner(world: World) -> None:
    world.apply("shop", ORDER_PROCESSING)
    world.run(2.0)
    owners = resource_view.forwarding_classes(world.controllers["shop"].state)
    assert set(owners.values()) >= {"intents/order-processing", "networks/shop/customer-x"}
    assert all(entry.owner for node in world.nodes.values() for entry in node.entries.values())


def test_what_is_shown_can_be_applied_again(world: World) -> None:
    world.apply("shop", ORDER_PROCESSING)
    world.run(2.0)
    for kind in ("intents", "networks", "services", "nodes", "links", "domains"):
        for resource in world.resources("shop", kind):
            shown = msgspec.to_builtins(resource)
            answer = world.apply("shop", print_yaml([shown]))
            assert answer is not None and answer.results[0].endswith((" unchanged", " renewed")), (kind, answer)


TWINS = """
apiVersion: netstitch/v1
kind: Intent
metadata: {name: %s, tenant: customer-x}
spec:
  allow: [{from: {network: shop/customer-x, select: {app: web}}, to: insight/analytics/analytics-y, ports: [icmp]}]
  require: {latency_ms: {max: %d}}
"""


def owners_of_echo(world: World) -> set[str]:
    """Of what cx2 may send to analytics-y: by the entries, and by what the intents mean."""
    state = world.controllers["shop"].state
    network = state.inventory.networks["shop/customer-x"]
    packet = Packet(
        network=network.name,
        source="10.1.0.12",
        destination="10.2.0.10",
        l4_class=L4Class.ECHO_REQUEST,
    )
    intents = [
        record.intent
        for record in sorted(state.intent_records.values(), key=lambda intent_record: intent_record.serial)
    ]
    policy_class = state.numbers["se1 policy_class hosts shop/customer-x"]
    entries = [
        entry
        for entry in world.nodes["se1"].entries.values()
        if entry.table == "flow_policy" and entry.match[0].value == policy_class and entry.owner.startswith("intents/")
    ]
    decides = {entry.match: entry.owner for entry in sorted(entries, key=lambda entry: entry.priority)}
    return {*decides.values()} | {permitted(intents, state.inventory, packet).owner}


def test_a_changed_intent_keeps_its_age(world: World) -> None:
    world.apply("shop", TWINS % ("older", 20) + "---" + TWINS % ("aaa", 20))
    world.run(3.0)
    assert owners_of_echo(world) == {"intents/older"}
    world.apply("shop", TWINS % ("older", 15))
    for _ in range(300):  # while one plan takes over from the other, too
        world.run(0.01)
        state = world.controllers["shop"].state
        active = [stitch.plan.owner for stitch in state.stitches.values() if stitch.stage == Stage.ACTIVE]
        assert sorted(active) == ["intents/aaa", "intents/older"]
        assert owners_of_echo(world) == {"intents/older"}
    (stitch,) = [stitch for stitch in state.stitches.values() if stitch.plan.owner == "intents/older"]
    assert stitch.plan.connection.latency_us_max == 15_000
    world.check_settled()


CARDS = """
apiVersion: netstitch/v1
kind: Rule
metadata: {name: cards}
spec: {when: '"pci=true" in source.labels', then: {require: {encryption: wireguard}}, explain: Cards are.}
"""
CHANGES = {
    "domains": ("insight", "spec", "trust", "public"),
    "networks": ("shop/customer-z", "metadata", "labels", {"changed": "true"}),
    "services": ("insight/archive/archive-z", "spec", "ports", ["tcp/9001"]),
    "nodes": ("sg1", "spec", "agent", "unix:/run/other.sock"),
    "links": ("se1-sg1", "spec", "cost", 77),
    "rules": ("cards", "spec", "priority", 7),
    "intents": ("order-processing", "metadata", "labels", {"changed": "true"}),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_what_is_changed_is_there_since_it_was_created(world: World, kind: str) -> None:
    name, part, field, value = CHANGES[kind]
    world.apply("shop", ORDER_PROCESSING + "---" + CARDS)
    manifest = msgspec.to_builtins(world.get("shop", kind, name))
    created_s = manifest["status"]["created_s"]
    assert created_s <= world.now_s
    for _ in range(2):
        world.run(60.0)
        manifest[part] |= {field: value}
        answer = world.apply("shop", print_yaml([manifest]))
        assert answer is not None and answer.results, answer
        assert world.get("shop", kind, name).status["created_s"] == created_s
    assert world.get("shop", kind, name).status["applied"]["at_s"] >= created_s + 60


def test_what_is_made_again_after_its_end_is_new(world: World) -> None:
    world.apply("shop", CARDS)
    created_s = world.get("shop", "rules", "cards").status["created_s"]
    world.run(60.0)
    world.delete("shop", "cards", "Rule")
    world.apply("shop", CARDS)
    assert world.get("shop", "rules", "cards").status["created_s"] >= created_s + 60


def test_what_a_release_before_has_stored_is_as_old_as_is_known(world: World) -> None:
    world.apply("shop", CARDS)
    controller = world.controllers["shop"]
    before = controller.state.provenance["rules/cards"]
    older = replace(before, created_s=0)
    controller.state = replace(controller.state, provenance=controller.state.provenance.set("rules/cards", older))
    assert world.get("shop", "rules", "cards").status["created_s"] == before.at_s
    world.run(60.0)
    world.apply("shop", CARDS.replace("spec: {", "spec: {priority: 7, "))
    assert world.get("shop", "rules", "cards").status["created_s"] == before.at_s


def test_ages_are_kept_when_their_numbers_run_out(world: World) -> None:
    world.apply("shop", TWINS % ("older", 20))
    controller = world.controllers["shop"]
    counters = controller.state.counters.set("owner", MAX_SERIAL - 1)
    controller.state = replace(controller.state, counters=counters)
    world.apply("shop", TWINS % ("aaa", 20))
    serials = {name: intent_record.serial for name, intent_record in controller.state.intent_records.items()}
    assert serials == {"older": 1, "aaa": MAX_SERIAL}
    world.run(3.0)
    assert owners_of_echo(world) == {"intents/older"}
    world.apply("shop", TWINS % ("aab", 20))
    world.run(3.0)
    serials = {name: intent_record.serial for name, intent_record in controller.state.intent_records.items()}
    assert serials == {"older": 1, "aaa": 2, "aab": 3}
    assert {stitch.plan.owner: stitch.plan.serial for stitch in controller.state.stitches.values()} == {
        f"intents/{name}": serial for name, serial in serials.items()
    }
    assert owners_of_echo(world) == {"intents/older"}
    world.delete("shop", "older")
    world.run(3.0)
    assert owners_of_echo(world) == {"intents/aaa"}
    world.check_settled()
