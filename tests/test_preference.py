"""What an intent prefers, from the sentence to the way that its traffic takes, in three domains."""

import pytest

from controller.model.explanation import Branch
from controller.views import explain
from tests.simulator import World

CHEAP = """
apiVersion: netstitch/v1
kind: Intent
metadata: {name: reports, tenant: customer-x}
spec:
  allow: [{from: {network: shop/customer-x, select: {app: web}}, to: insight/analytics/analytics-y, ports: [icmp]}]
  prefer: {cost: low}
"""
INDIFFERENT = CHEAP.replace("  prefer: {cost: low}\n", "")
RULE = """
apiVersion: netstitch/v1
kind: Rule
metadata: {name: thrift}
spec:
  when: intent.tenant == "customer-x"
  then: {prefer: {cost: low}}
  explain: reports can wait
"""
INTERNET = (["se1", "sg1", "insight"], {"latency_ms": 40.0, "cost": 15})
CARRIER = (["se1", "sg1", "transit", "insight"], {"latency_ms": 4.0, "cost": 50})


@pytest.fixture
def world() -> World:
    world = World()
    world.start()
    return world


def way(world: World) -> tuple[list[str], dict[str, float]]:
    """Of the intent, settled."""
    world.run(6.0)
    world.check_settled()
    status = world.get("shop", "intents", "reports").status
    assert status["phase"] == "Active", status
    return status["path"], status["predicted"]


def test_cost_is_traded_for_latency_only_where_that_is_asked_for(world: World) -> None:
    world.apply("shop", INDIFFERENT)
    assert way(world) == CARRIER
    world.apply("shop", CHEAP)
    assert way(world) == INTERNET
    world.apply("shop", CHEAP + "  require: {latency_ms: {max: 40}}\n")
    assert way(world) == INTERNET
    world.apply("shop", CHEAP + "  require: {latency_ms: {max: 39}}\n")
    assert way(world) == CARRIER
    world.apply("shop", CHEAP + "  require: {trust: {min: partner}}\n")
    assert way(world) == CARRIER


def test_a_rule_prefers_for_intents_that_do_not_say(world: World) -> None:
    world.apply("shop", RULE)
    world.apply("shop", INDIFFERENT)
    assert way(world) == INTERNET
    world.apply("shop", CHEAP.replace("cost: low", "latency: low"))
    assert way(world) == CARRIER


def test_a_preference_is_explained_with_its_origin(world: World) -> None:
    world.apply("shop", CHEAP)
    assert told(world) == {
        "allow": ["prefer cost low, from clause of the intent"],
        "prefer": ["prefer cost low, from clause of the intent"],
    }
    world.apply("shop", RULE)
    world.apply("shop", INDIFFERENT)
    assert told(world) == {"allow": ["prefer cost low, from rule thrift: reports can wait"]}


def told(world: World) -> dict[str, list[str]]:
    """Clause -> origins below it."""
    tree = explain.explain(world.controllers["shop"].state, "intents", "reports", world.now_s)
    assert tree is not None
    texts_by_clause = {clause.text.split()[0]: [origin.text for origin in origins(clause)] for clause in tree.children}
    return {clause: texts for clause, texts in texts_by_clause.items() if texts}


def origins(branch: Branch) -> list[Branch]:
    mine = [branch] if branch.kind == "origin" else []
    return mine + [origin for child in branch.children for origin in origins(child)]
