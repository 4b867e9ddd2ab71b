"""`stitch explain`: from the reference lab's intent to the nodes, and from each entry back."""

import pytest

from controller.fulfillment.numbering import address
from controller.model.explanation import Branch
from controller.views import entry_view, explain, resource_view
from tests.simulator import BOOT_EPOCH_S, ORDER_PROCESSING, World

ALLOW = "allow insight/analytics/analytics-y tcp/443 icmp"
RULE = """\
apiVersion: netstitch/v1
kind: Rule
metadata: {name: strict}
spec:
  when: intent.tenant == "customer-x"
  then: {require: {latency_ms: {max: 15}}}
  explain: customer X paid for it
"""


@pytest.fixture(scope="module")
def world() -> World:
    world = World()
    world.start()
    world.apply("shop", ORDER_PROCESSING)
    world.run(20.0)
    assert world.phase("shop", "order-processing") == "Active"
    return world


def tree(world: World, domain: str, kind: str, name: str) -> Branch:
    branch = explain.explain(world.controllers[domain].state, kind, name, world.now_s)
    assert branch is not None, f"{kind}/{name}"
    return branch


def below(branch: Branch, kind: str) -> list[Branch]:
    """All of a kind, however deep."""
    branches = [branch] if branch.kind == kind else []
    return branches + [inner for child in branch.children for inner in below(child, kind)]


def groups(world: World, *tables: str) -> list[str]:
    """As matched, of cx1 at its edge."""
    texts = [
        f"{table}={entry.params[0][1]}"
        for table in tables
        for entry in world.nodes["se1"].entries.values()
        if entry.table == table and entry.match[1].value == address("10.1.0.11") and entry.match[0].value == 1
    ]
    assert len(texts) == len(tables)
    return texts


def test_an_intent_leads_from_its_clauses_to_every_entry_it_owns(world: World) -> None:
    intent = tree(world, "shop", "intents", "order-processing")
    assert intent.text == "Active; tenant customer-x"
    assert (
        "; ".join(child.text for child in intent.children)
        == (resource_view.resources(world.controllers["shop"].state, "intents", world.now_s)[0].status["sentence"])
    )
    isolate, allow = intent.children[:2]
    ends_s = world.get("shop", "intents", "order-processing").status["expires_s"] - BOOT_EPOCH_S
    says = f"drop_until reason=isolated boottime_s={ends_s}"
    assert [(entry.name, entry.text) for entry in below(isolate, "entry")] == [
        (f"entries/se1/flow_policy/policy_class=1,{group}~0xffff,priority=1000", says)
        for group in groups(world, "destination_group", "source_group")
    ]
    assert allow.text == ALLOW
    assert [origin.text for origin in below(allow, "origin")] == [
        "latency <= 20 ms, from clause of the intent",
        "encryption wireguard, from clause of the intent",
        "trust >= partner, from clause of the intent",
    ]
    (plan,) = below(allow, "plan")
    shown = world.get("shop", "intents", "order-processing").status
    assert "Active, path se1 sg1 transit insight, latency 4 ms" in plan.text
    assert [child.text for child in plan.children if child.kind == "segments"] == (
        [
            f"{' '.join(sids)}, sent as {' '.join(sent)}"
            for sids, sent in zip(shown["segments"], shown["containers"], strict=True)
        ]
    )
    assert [agreement.name for agreement in below(plan, "agreement")] == [
        f"agreements/{resource.metadata['name']}" for resource in world.resources("shop", "agreements")
    ]
    assert [child.name for child in plan.children if child.kind == "node"] == ["nodes/se1", "nodes/sg1"]
    owned = {
        f"entries/{resource.metadata['name']}"
        for resource in world.resources("shop", "entries")
        if resource.status["owner"] == "intents/order-processing" or resource.status["owner"].startswith("sr_policies/")
    }
    told = [entry.name for entry in below(intent, "entry")]
    assert sorted(told) == sorted(owned)


def test_every_entry_leads_back(world: World) -> None:
    """Those of an intent to a clause and the intent, those of a neighbour's agreement to it and the origin."""
    seen = 0
    for domain in world.controllers:
        for resource in world.resources(domain, "entries"):
            branch = tree(world, domain, "entries", resource.metadata["name"])
            (owner,) = branch.children
            assert owner.name == resource.status["owner"]
            kind = owner.name.split("/")[0]
            if kind == "intents":
                clause = below(branch, "clause")
                assert [child.text for child in clause] in ([ALLOW], ["isolate shop/customer-x app=order-processing"])
                assert below(clause[0], "intent")[0].name == "intents/order-processing"
                seen += 1
            elif kind == "agreements":
                assert owner.name in [agreement.name for agreement in below(branch, "agreement")]
                assert "intent of domain shop" in below(branch, "intent")[0].text
                seen += 1
            elif kind == "sr_policies":
                assert below(branch, "plan")
            else:
                assert not owner.children
    assert seen > 100


def test_a_rule_is_named_with_its_explanation() -> None:
    world = World()
    world.start()
    world.apply("shop", RULE)
    world.apply("shop", ORDER_PROCESSING)
    world.run(20.0)
    (bound,) = (origin for origin in below(tree(world, "shop", "intents", "order-processing").children[1], "origin")
                if origin.name)  # fmt: skip
    assert (bound.name, bound.text) == (
        "rules/strict", "latency <= 15 ms, from rule strict: customer X paid for it",
    )  # fmt: skip


def test_what_cannot_be_carried_says_why() -> None:
    world = World()
    world.start()
    world.apply("shop", ORDER_PROCESSING.replace("max: 20", "max: 1"))
    world.run(5.0)
    intent = tree(world, "shop", "intents", "order-processing")
    assert intent.text.startswith("Unsatisfiable: ")
    assert below(intent, "plan")[0].text.startswith("none: ")
    assert "latency" in below(intent, "plan")[0].text
    assert len(below(intent, "entry")) >= 2, "the isolation holds all the same"


def test_entries_that_a_node_has_not_confirmed_are_said_to_be_so() -> None:
    world = World()
    world.start()
    world.nodes["se1"].up = False
    world.apply("shop", ORDER_PROCESSING)
    world.run(5.0)
    nodes = {node.name: node.text for node in below(tree(world, "shop", "intents", "order-processing"), "node")}
    assert "not confirmed: " in nodes["nodes/se1"]


def test_what_is_not_there_is_not_explained(world: World) -> None:
    state = world.controllers["shop"].state
    assert explain.explain(state, "intents", "nothing", world.now_s) is None
    assert explain.explain(state, "entries", "se1/steer/forwarding_class=999", world.now_s) is None
    with pytest.raises(KeyError):
        explain.explain(state, "links", "se1-sg1", world.now_s)


def test_what_serves_a_plan_is_found_as_if_each_entry_were_asked_by_itself(world: World) -> None:
    for controller in world.controllers.values():
        state = controller.state
        entries = list(entry_view.entries(state))
        for stitch in state.stitches.values():
            serves = explain._serving(state, stitch)
            found = [serves(node, entry) for node, entry in entries]
            assert found == [stitch in explain.owned(state, node, entry) for node, entry in entries] and any(found)
