"""A dry run says what would be, and leaves nothing behind."""

import pytest

from controller.language.manifest import applied, parse
from controller.model.event import Apply, Delete, Reference, Reply
from controller.model.preview import Preview
from controller.views import preview
from tests.simulator import ORDER_PROCESSING, World
from tests.test_edges import PAYROLL, TOPOLOGY

RULE = """
apiVersion: netstitch/v1
kind: Rule
metadata: {name: strict}
spec:
  when: intent.tenant == "customer-x"
  then: {require: {latency_ms: {max: %s}}}
  explain: customer X paid for it
"""


@pytest.fixture
def world() -> World:
    world = World()
    world.start()
    return world


def foresee(world: World, event: Apply | Delete, domain: str = "shop") -> Reply:
    """And the state is what it was, nothing was sent, and the next number is the same."""
    controller = world.controllers[domain]
    state, sent, disk = controller.state, len(world.wiretap), dict(controller.disk)
    serials = dict(state.counters)
    reply = preview.foresee(state, event, world.now_s, controller.keys)
    assert controller.state is state and len(world.wiretap) == sent and controller.disk == disk
    assert state.counters == serials
    return reply


def dry(world: World, text: str, domain: str = "shop") -> Preview:
    event = Apply(request_id="dry", resources=tuple(map(applied, parse(text))), dry_run=True)
    reply = foresee(world, event, domain)
    assert reply.preview is not None, reply
    return reply.preview


def counts(foreseen: Preview) -> dict[str, tuple[int, int, int]]:
    return {node.node: (len(node.added), len(node.changed), len(node.removed)) for node in foreseen.nodes}


def test_an_intent_across_domains_says_whom_it_would_ask_and_what_nodes_would_get(world: World) -> None:
    foreseen = dry(world, ORDER_PROCESSING)
    (intent,) = foreseen.intents
    assert (intent.name, intent.before, intent.phase) == ("order-processing", "", "Negotiating")
    assert intent.paths == (("se1", "sg1", "transit", "insight"),)
    assert intent.reasons[0].startswith(
        "would ask transit for shop/customer-x (10.1.0.11/32 2001:db8:1::11/128) to reach"
    )
    assert not any("waiting for the answer" in reason for reason in intent.reasons)
    assert [(agreement.peer, agreement.what) for agreement in foreseen.agreements] == [("transit", "asked")]
    before = {name: len(node.entries) for name, node in world.nodes.items()}
    world.apply("shop", ORDER_PROCESSING)
    world.run(20.0)
    grown = {name: len(world.nodes[name].entries) - before[name] for name in ("se1", "sg1")}
    assert {node: added - removed for node, (added, _, removed) in counts(foreseen).items()} == grown


def test_a_change_counts_what_goes_when_the_new_has_taken_over(world: World) -> None:
    world.apply("shop", ORDER_PROCESSING)
    world.run(20.0)
    before = {name: len(node.entries) for name, node in world.nodes.items()}
    text = ORDER_PROCESSING.replace("tcp/443, icmp", "tcp/443")
    counted = counts(dry(world, text))
    assert all(removed for _, _, removed in counted.values())
    world.apply("shop", text)
    world.run(20.0)
    grown = {name: len(world.nodes[name].entries) - before[name] for name in ("se1", "sg1")}
    assert {node: added - removed for node, (added, _, removed) in counted.items()} == grown


def test_what_placement_refuses_is_not_said_to_be_created_only(world: World) -> None:
    foreseen = dry(world, ORDER_PROCESSING.replace("max: 20", "max: 1"))
    assert [intent.name for intent in foreseen.refused] == ["order-processing"]
    assert "latency of at most 1 ms is required" in foreseen.intents[0].reasons[0]


def test_what_changes_nothing_foresees_nothing(world: World) -> None:
    world.apply("shop", ORDER_PROCESSING.replace("lease: {for: 30d}\n", ""))
    world.run(20.0)
    assert dry(world, world.inventories["shop"]) == Preview()


@pytest.mark.parametrize(("max_ms", "phase"), [("1", "Unsatisfiable"), ("15", "Negotiating")])
def test_a_rule_says_what_becomes_of_the_intents_that_it_touches(world: World, max_ms: str, phase: str) -> None:
    world.apply("shop", ORDER_PROCESSING)
    world.run(20.0)
    (intent,) = dry(world, RULE % max_ms).intents
    assert (intent.name, intent.before, intent.phase) == ("order-processing", "Active", phase)
    assert world.phase("shop", "order-processing") == "Active"


def test_a_link_says_who_would_go_over_it() -> None:
    world = World(topology=TOPOLOGY)
    world.start()
    text = PAYROLL.replace("payroll}}}", "payroll}}, allow: [{to: campus/office}]}")
    inside = dry(world, text, "campus")
    assert [(intent.phase, intent.before) for intent in inside.intents] == [("Active", "")]
    assert not inside.agreements and all(added for added, _, _ in counts(inside).values())
    world.apply("campus", text)
    world.run(10.0)
    links = {
        document.name: document.value for document in parse(world.inventories["campus"]) if document.kind == "Link"
    }
    assert "e1-t1" in links
    slow = world.inventories["campus"].replace("delay_ms: 0.5", "delay_ms: 30")
    assert slow != world.inventories["campus"]
    assert dry(world, slow, "campus").nodes


def test_a_deletion_says_what_would_go(world: World) -> None:
    world.apply("shop", ORDER_PROCESSING)
    world.run(20.0)
    event = Delete(request_id="dry", resources=(Reference(kind="Intent", name="order-processing"),), dry_run=True)
    foreseen = foresee(world, event).preview
    assert foreseen is not None
    assert [(intent.name, intent.before, intent.phase) for intent in foreseen.intents] == [
        ("order-processing", "Active", "Deleted")
    ]
    assert [(agreement.peer, agreement.what) for agreement in foreseen.agreements] == [("transit", "ended")]
    assert all(added == 0 and removed > 0 for added, _, removed in counts(foreseen).values())
    assert world.phase("shop", "order-processing") == "Active"


def test_a_conflict_is_answered_as_without_a_dry_run(world: World) -> None:
    world.apply("shop", ORDER_PROCESSING)
    text = ORDER_PROCESSING.replace("name: order-processing, tenant: customer-x", "name: order-processing, tenant: z")
    event = Apply(request_id="dry", resources=tuple(map(applied, parse(text))), dry_run=True)
    answer = foresee(world, event)
    assert "belongs to tenant customer-x" in answer.conflict and answer.preview is None
