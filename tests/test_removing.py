"""Many things deleted at once: all or none, whatever their order, with everything that is in the way named."""

import pytest
from federation import small_intent

from controller.language.manifest import print_yaml
from dataplane.host_api import PortRole
from tests.simulator import ORDER_PROCESSING, World

MANY = 40
NETWORK = """
apiVersion: netstitch/v1
kind: Network
metadata: {name: shop/spare}
spec:
  prefixes: [10.9.0.0/24]
  gateways: [10.9.0.1]
  attachments: [{name: sp1, node: se1, port: 9, addresses: [10.9.0.11]}]
---
apiVersion: netstitch/v1
kind: Intent
metadata: {name: spare-out, tenant: spare}
spec: {allow: [{from: {network: shop/spare}, to: shop/customer-x}]}
---
apiVersion: netstitch/v1
kind: Intent
metadata: {name: spare-alone, tenant: spare}
spec:
  isolate: {network: shop/customer-z}
  tests: [{deny: {from: {network: shop/customer-z}, to: shop/spare}}]
"""


@pytest.fixture
def world() -> World:
    world = World()
    world.start()
    world.add_port("se1", 9, PortRole.ATTACHMENT)
    return world


def names(world: World, kind: str) -> set[str]:
    return {str(resource.metadata["name"]) for resource in world.resources("shop", kind)}


def test_many_intents_go_in_one_step_and_what_is_missing_stops_all_of_them(world: World) -> None:
    answer = world.apply("shop", print_yaml([small_intent(f"i{number}") for number in range(MANY)]))
    assert answer is not None and not answer.problems and not answer.conflict
    world.run(3.0)
    things = [("Intent", f"i{number}") for number in range(MANY)]
    answer = world.delete_all("shop", ("Intent", "nothing"), *things, ("Rule", "none"))
    assert answer is not None and (answer.missing, answer.results) == ((0, MANY + 1), ())
    assert len(names(world, "intents")) == MANY
    answer = world.delete_all("shop", ("Intent", "nothing"), *things, ("Intent", "i0"), ignore_missing=True)
    assert answer is not None
    assert answer.results == ("intents/nothing absent", *(f"intents/i{number} withdrawn" for number in range(MANY)))
    assert names(world, "intents") == set()
    world.run(5.0)
    world.check_settled()
    assert not world.controllers["shop"].state.stitches


@pytest.mark.parametrize("backwards", [False, True], ids=["network first", "network last"])
def test_a_network_and_what_needs_it_go_together_in_any_order(world: World, backwards: bool) -> None:
    world.apply("shop", ORDER_PROCESSING)
    world.run(3.0)
    assert world.phase("shop", "order-processing") == "Active"
    services = [("Service", name) for name in names(world, "services") if name.startswith("shop/customer-x/")]
    things = [("Network", "shop/customer-x"), *services, ("Intent", "order-processing")]
    answer = world.delete_all("shop", *things[:: -1 if backwards else 1])
    assert answer is not None and len(answer.results) == len(things), answer
    assert "shop/customer-x" not in names(world, "networks")
    world.run(5.0)
    world.check_settled()
    assert not world.controllers["transit"].state.stitches, "the neighbours have been told"
    assert "intents/order-processing" not in set().union(*world.owners().values())


def test_everything_that_is_in_the_way_is_named_at_once(world: World) -> None:
    world.apply("shop", NETWORK)
    world.run(3.0)
    before = world.controllers["shop"].state
    answer = world.delete_all("shop", ("Intent", "spare-out"), ("Network", "shop/spare"), ("Node", "se1"))
    assert answer is not None and not answer.results
    assert [(problem.path, problem.message.partition(":")[0]) for problem in answer.problems] == [
        ((1,), "network shop/spare is in use by intent spare-alone"),
        ((2,), "node se1 is in use by link se1-sg1, network shop/customer-x, network shop/customer-z and 1 more"),
    ]
    assert all(problem.message in answer.conflict for problem in answer.problems)
    after = world.controllers["shop"].state
    assert (after.intent_records, after.inventory) == (before.intent_records, before.inventory)


def test_a_network_whose_intent_was_just_withdrawn_is_not_held_up(world: World) -> None:
    """Its plan is still on its way out, and stays so while a node cannot be reached."""
    world.apply("shop", NETWORK)
    world.run(3.0)
    world.nodes["sg1"].up = False
    world.run(3.0)
    world.delete_all("shop", ("Intent", "spare-out"), ("Intent", "spare-alone"))
    answer = world.delete("shop", "shop/spare", "Network")
    assert answer is not None and answer.results == ("networks/shop/spare deleted",), answer
    world.nodes["sg1"].up = True
    world.run(20.0)
    world.check_settled()


def test_rules_and_intents_go_together(world: World) -> None:
    rule = """
apiVersion: netstitch/v1
kind: Rule
metadata: {name: far-is-encrypted}
spec: {when: 'true', then: {require: {encryption: wireguard}}, explain: Far is far.}
"""
    world.apply("shop", rule + "---" + NETWORK)
    world.run(3.0)
    answer = world.delete_all("shop", ("Rule", "far-is-encrypted"), ("Intent", "spare-out"))
    assert answer is not None and answer.results == ("rules/far-is-encrypted deleted", "intents/spare-out withdrawn")
    assert names(world, "rules") == set() and names(world, "intents") == {"spare-alone"}
    world.run(5.0)
    world.check_settled()
