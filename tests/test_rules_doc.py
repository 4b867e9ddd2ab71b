"""What docs/rules.md says is so."""

import re
from pathlib import Path

import pytest

from controller.fulfillment.rule_effects import MAX_ROUNDS
from controller.language.condition import MAX_COST, MAX_DEPTH, MAX_LENGTH
from controller.language.manifest import ManifestInvalid, parse, print_yaml
from controller.language.policy import ACCEPT, NEIGHBOUR, OFFER, POLICY, TRANSIT, TUNNELS, parse_policy
from controller.model.rule import MAX_ITEMS, TRUST, VARIABLES, Rule
from controller.plugins.hooks import DEADLINE_S, GROUPS, HOOKS
from tests.simulator import LAB, ORDER_PROCESSING, World

TEXT = (Path(__file__).parent.parent / "docs" / "rules.md").read_text()
EXAMPLES = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
REFUSED = re.findall(r"^rules\.yaml:(\d+):(\d+): (.*)\n    (.*)$", TEXT, re.MULTILINE)


@pytest.mark.parametrize("text", EXAMPLES)
def test_examples_are_taken_by_a_controller(text: str) -> None:
    world = World()
    world.start()
    answer = world.apply("shop", text)
    assert answer is not None and not answer.problems and not answer.conflict
    rules = {document.value.name for document in parse(text) if isinstance(document.value, Rule)}
    assert {resource.metadata["name"] for resource in world.resources("shop", "rules")} == rules


@pytest.mark.parametrize(("line", "column", "message", "condition"), REFUSED)
def test_refused_conditions_are_refused_as_shown(line: str, column: str, message: str, condition: str) -> None:
    head = "apiVersion: netstitch/v1\nkind: Rule\nmetadata: {name: r}\nspec:\n"
    with pytest.raises(ManifestInvalid) as caught:
        parse(f"{head}  when: '{condition}'\n  then: {{dscp: EF}}\n  explain: x\n", "rules.yaml")
    assert str(caught.value).startswith(f"rules.yaml:{line}:{column}: {message}")


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 3 and len(REFUSED) == 3


def test_the_policy_file_shows_every_field() -> None:
    (text,) = re.findall(r"```yaml policy\n(.*?)```", TEXT, re.DOTALL)
    policy = parse_policy(text, "policy.yaml")
    assert [accept.direct for accept in policy.accept] == [False, True, False]
    assert [transit.dscp for transit in policy.transit] == [(46, 34), ()]
    assert (policy.max_agreements, policy.max_share) == (100, 30)
    for shape in (POLICY, ACCEPT, TRANSIT, NEIGHBOUR, OFFER, TUNNELS):
        assert all(f"{name}:" in text for name in shape.fields), shape


def test_variables_and_bounds_are_those_of_the_code() -> None:
    for name, fields in VARIABLES.items():
        if isinstance(fields, dict):
            (row,) = [line for line in TEXT.splitlines() if line.startswith(f"| `{name}` |")]
            base = set(VARIABLES["source"]) if name == "destination" else set()
            assert set(re.findall(r"`([a-z_]+)`", row)) - {"source"} - {name} | base >= set(fields), name
    assert all(f"`{level}`" in TEXT for level in TRUST)
    for said in (f"{MAX_LENGTH:,} characters", f"{MAX_DEPTH} levels", f"{MAX_COST:,} elementary", f"{MAX_ITEMS} items"):
        assert said in " ".join(TEXT.split()), said
    assert f"at most {MAX_ROUNDS} times" in TEXT and DEADLINE_S == 2
    assert all(f"`{group}`" in TEXT for group in GROUPS) and all(f"`{hook}(" in TEXT for hook in HOOKS.values())


def test_lab_rules_change_the_outcome() -> None:
    """An owner forbids transit: then there is only the public way, which needs what cannot be met."""
    lab = (LAB.parent / "rules" / "lab.yaml").read_text()
    web = re.sub(r"  require: .*\n", "", ORDER_PROCESSING)
    outcomes = []
    for rules in ("", lab, lab.replace("path.trust == public", "path.trust > own")):
        world = World()
        world.start()
        shop = world.resources("shop", "networks")
        (own,) = [network for network in shop if network.metadata["name"] == "shop/customer-x"]
        manifest = {"apiVersion": "netstitch/v1", "kind": "Network", "spec": own.spec}
        marked = {**own.metadata, "labels": {"transit": "forbidden"}}
        world.apply("shop", print_yaml([{**manifest, "metadata": marked}]) + "---\n" + rules + "---\n" + web)
        world.run(30)
        status = world.get("shop", "intents", "order-processing").status
        outcomes.append((status["phase"], status.get("predicted", {}).get("latency_ms")))
    assert outcomes == [("Active", 4), ("Unsatisfiable", None), ("Active", 40)]
