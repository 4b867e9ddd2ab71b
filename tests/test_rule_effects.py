"""Rules applied to intents: what is required in the end, who says so, and what becomes of contradictions."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from controller.fulfillment.rule_effects import endless
from controller.fulfillment.rule_engine import NO_RULES, RuleEngine, rule_engine
from controller.fulfillment.translate import translate
from controller.language.manifest import ManifestInvalid, parse, print_yaml, schema, to_manifest
from controller.language.rule import RULE
from controller.model.dscp import CODE_POINTS
from controller.model.intent import Allow, Encryption, Intent, Level, Prefer, Require, Selector, Trust
from controller.model.inventory import Inventory
from controller.model.requirements import Requirements
from controller.model.rule import VARIABLES, Added, Rule, Then
from tests.simulator import ORDER_PROCESSING, World

LAB_RULES = (Path(__file__).parent.parent / "topologies" / "rules" / "lab.yaml").read_text()
X = Selector(network="shop/customer-x")


@pytest.fixture(scope="module")
def inventory() -> Inventory:
    world = World()
    world.start()
    return world.controllers["shop"].state.inventory


def lab_rules() -> RuleEngine:
    return rule_engine(value for document in parse(LAB_RULES) if isinstance(value := document.value, Rule))


def rule(name: str, when: str, then: Then, priority: int = 100) -> Rule:
    return Rule(name=name, when=when, then=then, priority=priority, explain=f"{name} says so.")


def intent(**fields: object) -> Intent:
    bare = Intent(name="i", tenant="t", allow=(Allow(to="insight/analytics/analytics-y", source=X),))
    return replace(bare, **fields)


def translated(intent: Intent, rules: RuleEngine, inventory: Inventory, *added: Added) -> Requirements:
    requirements = translate(intent, rules, inventory, added)
    assert isinstance(requirements, Requirements), requirements
    return requirements


def labelled(inventory: Inventory, network: str, **labels: str) -> Inventory:
    changed = replace(inventory.networks[network], labels=tuple(sorted(labels.items())))
    return replace(inventory, networks={**inventory.networks, network: changed})


def said(requirements: Requirements) -> dict[str, str]:
    return {origin.requirement: origin.origin for origin in requirements.origins}


# ---- the lab's rules


def test_card_data_is_encrypted_and_stays_with_partners(inventory: Inventory) -> None:
    cards = labelled(inventory, "shop/customer-x", pci="true")
    requirements = translated(intent(), lab_rules(), cards)
    (connection,) = requirements.connections
    assert (connection.encryption, connection.trust_min) == (Encryption.WIREGUARD, Trust.PARTNER)
    assert said(requirements)["encryption wireguard"] == "rule cards-are-encrypted"
    plain = translated(intent(), lab_rules(), labelled(inventory, "shop/customer-x", pci="false"))
    assert plain.connections[0].encryption == Encryption.NONE


def test_label_of_one_host_is_enough(inventory: Inventory) -> None:
    network = inventory.networks["shop/customer-x"]
    hosts = tuple(
        replace(attachment, labels=(("pci", "true"),)) if attachment.name == "cx2" else attachment
        for attachment in network.attachments
    )
    changed = {**inventory.networks, network.name: replace(network, attachments=hosts, labels=())}
    requirements = translated(intent(), lab_rules(), replace(inventory, networks=changed))
    assert requirements.connections[0].encryption == Encryption.WIREGUARD


def test_public_way_needs_what_cannot_be_met_and_is_not_taken(inventory: Inventory) -> None:
    name = "shop/customer-x"
    plain = {**inventory.networks, name: replace(inventory.networks[name], labels=())}
    requirements = translated(intent(), lab_rules(), replace(inventory, networks=plain))
    assert requirements.connections[0].trust_min == Trust.PARTNER and not requirements.unmet
    (origin,) = [origin for origin in requirements.origins if origin.clause == "trust"]
    assert origin.origin == "rule public-needs-end-to-end"
    assert "wireguard-end-to-end, which cannot be met yet" in origin.explain


def test_realtime_is_quick_and_marked(inventory: Inventory) -> None:
    (connection,) = translated(intent(service_class="realtime"), lab_rules(), inventory).connections
    assert (connection.latency_us_max, connection.dscp) == (30_000, CODE_POINTS["EF"])
    strict = intent(service_class="realtime", require=Require(latency_us_max=20_000))
    requirements = translated(strict, lab_rules(), inventory)
    assert requirements.connections[0].latency_us_max == 20_000 and said(requirements)["latency <= 20 ms"] == "clause"


def test_class_without_a_rule_is_not_ignored(inventory: Inventory) -> None:
    (unmet,) = translated(intent(service_class="gold"), lab_rules(), inventory).unmet
    assert unmet.binding == "class" and "no rule says what class gold needs" in unmet.message


def test_owner_forbids_transit(inventory: Inventory) -> None:
    requirements = translated(intent(), lab_rules(), labelled(inventory, "insight/analytics", transit="forbidden"))
    assert requirements.connections[0].direct
    assert said(requirements)["through no third domain"] == "rule owners-forbid-transit"


# ---- how rules meet


def test_strictest_wins_whoever_says_it(inventory: Inventory) -> None:
    rules = rule_engine(
        (
            rule("a", "true", Then(require=Require(latency_us_max=10_000, trust_min=Trust.PARTNER)), 1),
            rule("b", "true", Then(require=Require(latency_us_max=15_000, trust_min=Trust.OWN)), 900),
        )
    )
    requirements = translated(intent(require=Require(latency_us_max=12_000)), rules, inventory)
    assert said(requirements) == {"latency <= 10 ms": "rule a", "trust >= own": "rule b"}


@pytest.mark.parametrize(
    "then",
    [
        Then(via=("fw",)),
        Then(require=Require(bandwidth_bps_min=1)),
        Then(require=Require(encryption=Encryption.WIREGUARD_END_TO_END)),
    ],
)
def test_what_cannot_be_placed_yet_is_unmet(then: Then, inventory: Inventory) -> None:
    requirements = translated(intent(), rule_engine([rule("more", "true", then)]), inventory)
    assert len(requirements.unmet) == 1 and "rule more" in said(requirements).values()


def test_forbidden_traffic_names_rule_and_intent(inventory: Inventory) -> None:
    rules = rule_engine(
        [rule("no", 'destination.service == "insight/analytics/analytics-y"', Then(forbid=("traffic",)))]
    )
    (unmet,) = translated(intent(), rules, inventory).unmet
    assert unmet.binding == "rule no"
    assert unmet.message == (
        "rule no forbids what intent i allows, shop/customer-x to insight/analytics/analytics-y: no says so."
    )


def test_classes_that_differ_name_both_rules_unless_one_has_priority(inventory: Inventory) -> None:
    bulk, quick = Then(service_class="bulk"), Then(service_class="quick")
    reader = rule("reads", 'effective.class != ""', Then(dscp=1))
    (unmet,) = translated(
        intent(), rule_engine([rule("a", "true", bulk), rule("b", "true", quick), reader]), inventory
    ).unmet
    assert "rule b sets class quick; rule a sets class bulk with the same priority (intent i)" in unmet.message
    requirements = translated(
        intent(), rule_engine([rule("a", "true", bulk), rule("b", "true", quick, 200), reader]), inventory
    )
    assert not requirements.unmet and said(requirements)["class quick"] == "rule b"


def test_class_of_the_intent_against_a_rule_names_both(inventory: Inventory) -> None:
    rules = rule_engine([rule("a", 'intent.class != ""', Then(service_class="bulk"))])
    (unmet,) = translated(intent(service_class="quick"), rules, inventory).unmet
    assert "rule a sets class bulk; intent i says class quick" in unmet.message


def test_preference_of_the_intent_stands(inventory: Inventory) -> None:
    rules = rule_engine([rule("cheap", "true", Then(prefer=Prefer(cost=Level.LOW)))])
    assert said(translated(intent(), rules, inventory)) == {"prefer cost low": "rule cheap"}
    requirements = translated(intent(prefer=Prefer(latency=Level.LOW)), rules, inventory)
    assert not requirements.unmet and said(requirements) == {"prefer latency low": "clause"}
    assert [connection.prefer for connection in requirements.connections] == [Prefer(latency=Level.LOW)]


def test_preference_of_the_rule_with_the_higher_priority_holds(inventory: Inventory) -> None:
    cheap, quick = Then(prefer=Prefer(cost=Level.LOW)), Then(prefer=Prefer(latency=Level.LOW))
    requirements = translated(
        intent(), rule_engine([rule("a", "true", cheap, 200), rule("b", "true", quick)]), inventory
    )
    assert not requirements.unmet and said(requirements) == {"prefer cost low": "rule a"}
    assert [connection.prefer for connection in requirements.connections] == [Prefer(cost=Level.LOW)]
    (unmet,) = translated(intent(), rule_engine([rule("a", "true", cheap), rule("b", "true", quick)]), inventory).unmet
    assert "rule b sets prefer latency low; rule a sets prefer cost low with the same priority" in unmet.message


def test_one_rule_leads_to_another(inventory: Inventory) -> None:
    rules = rule_engine(
        (
            rule("voice", 'destination.service.endsWith("analytics-y")', Then(service_class="realtime")),
            rule("quick", 'effective.class == "realtime"', Then(require=Require(latency_us_max=30_000))),
            rule("near", "effective.latency_ms <= 30", Then(require=Require(trust_min=Trust.PARTNER))),
        )
    )
    requirements = translated(intent(), rules, inventory)
    assert said(requirements)["trust >= partner"] == "rule near" and not requirements.unmet


def test_rules_that_trigger_each_other_without_end_are_named(inventory: Inventory) -> None:
    rules = rule_engine(
        (
            rule("on", 'effective.encryption == "none"', Then(require=Require(encryption=Encryption.WIREGUARD))),
            rule("other", "effective.trust >= public", Then(require=Require(trust_min=Trust.PARTNER))),
        )
    )
    (unmet,) = translated(intent(), rules, inventory).unmet
    assert unmet.binding == "rules" and "rules on trigger each other without end" in unmet.message
    assert unmet.endless == ("on",) and endless(rules) is not None and endless(lab_rules()) is None


def test_too_many_labels_for_the_rules_are_reported(inventory: Inventory) -> None:
    many = labelled(inventory, "shop/customer-x", **{f"name{n}": "x" for n in range(65)})
    (unmet,) = translated(intent(), lab_rules(), many).unmet
    assert "more than 64 labels" in unmet.message
    assert not translated(intent(), NO_RULES, many).unmet


def test_condition_that_cannot_be_evaluated_fails_with_the_rules_name(inventory: Inventory) -> None:
    """Such a one is never taken; a store of another version may have it."""
    rules = rule_engine([rule("fine", "true", Then(dscp=46)), rule("broken", "intent.nothing == 1", Then(dscp=1))])
    (unmet,) = translated(intent(), rules, inventory).unmet
    assert unmet.binding == "rule broken" and "cannot be evaluated" in unmet.message


def test_plugin_adds_and_its_failure_fails_the_intent(inventory: Inventory) -> None:
    requirements = translated(intent(), NO_RULES, inventory, Added(plugin="p", then=Then(dscp=8)))
    assert requirements.connections[0].dscp == 8 and said(requirements) == {"dscp CS1": "plugin p"}
    (unmet,) = translated(intent(), NO_RULES, inventory, Added(plugin="p", failure="it raised")).unmet
    assert unmet.binding == "plugin p" and "it raised" in unmet.message


def test_conditions_see_every_variable_that_is_declared(inventory: Inventory) -> None:
    """A field that is declared and not handed over would fail at run time."""
    ends = {"string": '== ""', "int": "== 0", "double": "== 0.0", "bool": "== true", "list(string)": '== ["x"]'}
    whens = [
        f"{name}.{field} {ends[of]}" for name, fields in VARIABLES.items() if isinstance(fields, dict)
        for field, of in fields.items()
    ]  # fmt: skip
    every = [rule(f"r{n}", when, Then(forbid=("traffic",))) for n, when in enumerate(whens)]
    for any_rule in every:
        requirements = translated(intent(), rule_engine([any_rule]), inventory)
        assert not any("cannot be evaluated" in unmet.message for unmet in requirements.unmet), any_rule.when


@pytest.mark.parametrize("when", ['intent . name == "i"', 'intent\n.name\n== "i"', '"intent.tenant" != "" && true'])
def test_fields_are_found_however_they_are_written(when: str, inventory: Inventory) -> None:
    requirements = translated(intent(), rule_engine([rule("one", when, Then(dscp=8))]), inventory)
    assert requirements.connections[0].dscp == 8 and not requirements.unmet


def test_what_is_remembered_is_told_apart_by_what_is_read(inventory: Inventory) -> None:
    rules = rule_engine(
        [rule("one", 'intent.tenant == "t"', Then(dscp=8)), rule("two", 'intent.name == "j"', Then(via=("v",)))]
    )
    asked = [intent(), intent(tenant="u"), intent(name="j"), intent(name="j", tenant="u"), intent()]
    answers = [translated(asked_intent, rules, inventory) for asked_intent in asked]
    assert [(answer.connections[0].dscp, len(answer.unmet)) for answer in answers] == [
        (8, 0),
        (0, 0),
        (8, 1),
        (0, 1),
        (8, 0),
    ]


# ---- how rules are written


GOOD = """apiVersion: netstitch/v1
kind: Rule
metadata: {name: r}
spec:
  when: intent.class == "x"
  then: {dscp: EF}
  explain: Why not.
"""


def test_rules_print_as_they_are_read() -> None:
    text = LAB_RULES + "---\n" + GOOD.replace("{dscp: EF}", "{via: [fw], prefer: {cost: low}, class: y, dscp: AF41}")
    values = [document.value for document in parse(text)]
    assert [document.value for document in parse(print_yaml([to_manifest(value) for value in values]))] == values
    assert len(values) == 5 and schema("Rule")["properties"]["spec"] == RULE.schema()


@pytest.mark.parametrize(
    ("change", "place", "says"),
    [
        (('intent.class == "x"', "intent.clas == 'x'"), "5:9", "character 8: intent has no field clas;"),
        (('intent.class == "x"', "1"), "5:9", "expected a condition"),
        (("{dscp: EF}", "{}"), "6:9", "this does nothing"),
        (("{dscp: EF}", "{dscp: XX}"), "6:16", "'XX' is none"),
        (("{dscp: EF}", "{forbid: [x]}"), "6:19", "traffic"),
        (("{dscp: EF}", "{requires: {}}"), "6:10", "did you mean 'require'"),
        (("  explain: Why not.\n", ""), "5:3", "'explain' is missing"),
        (("Why not.", '"\\u202e"'), "7:12", "characters that print"),
        (('intent.class == "x"', "path.trust == public"), "5:3", "a rule about the path can only"),
    ],
)  # fmt: skip
def test_rule_with_an_error_is_refused_whole_with_its_place(change: tuple[str, str], place: str, says: str) -> None:
    with pytest.raises(ManifestInvalid) as caught:
        parse(GOOD.replace("name: r", "name: first") + "---\n" + GOOD.replace(*change), "rules.yaml")
    (fault,) = caught.value.faults
    line, column = place.split(":")
    assert (fault.line, fault.column) == (int(line) + 8, int(column)), str(fault)
    assert says in fault.message


# ---- rules in force


@pytest.fixture
def world() -> World:
    world = World()
    world.start()
    return world


QUICK = ORDER_PROCESSING.replace("  lease: {for: 30d}", "  class: realtime")


def test_changed_rule_retranslates_what_it_touches(world: World) -> None:
    assert world.apply("shop", LAB_RULES + "---\n" + QUICK)
    world.run(30)
    assert world.phase("shop", "order-processing") == "Active"
    state = world.controllers["shop"].state
    marks = {
        dict(entry.params)["dscp"]
        for standing in state.nodes.values() if standing.state is not None
        for entry in standing.state.entries if entry.action == "encapsulate"
    }  # fmt: skip
    assert marks == {CODE_POINTS["EF"]}
    status = world.get("shop", "rules", "realtime-is-quick").status
    assert status["consequence"] == "require latency <= 30ms; dscp EF"
    assert status["intents"] == ["order-processing"]
    world.apply("shop", LAB_RULES.replace("max: 30", "max: 1"))
    world.run(30)
    intent = world.get("shop", "intents", "order-processing")
    assert intent.status["phase"] == "Unsatisfiable"
    (condition,) = {condition["reason"] for condition in intent.status["conditions"]}
    assert "rule realtime-is-quick" in condition
    world.apply("shop", LAB_RULES)
    world.run(90)
    assert world.phase("shop", "order-processing") == "Active"
    world.delete("shop", "realtime-is-quick", "Rule")
    world.run(5)
    assert world.phase("shop", "order-processing") == "Unsatisfiable"  # its class has no meaning now
    world.check_settled()


def circle(name: str, when: str, then: str) -> str:
    return (
        f"---\napiVersion: netstitch/v1\nkind: Rule\nmetadata: {{name: {name}}}\n"
        f"spec: {{when: '{when}', then: {then}, explain: x}}\n"
    )


def refused(world: World, text: str) -> list[tuple[tuple[str | int, ...], str]]:
    answer = world.apply("shop", text)
    assert answer is not None
    return [(problem.path, problem.message) for problem in answer.problems]


def test_rules_that_have_no_end_are_refused_where_they_stand(world: World) -> None:
    """For an intent that asks for nothing, or for one in force; and nothing is taken over."""
    circles = circle("one", 'effective.class == ""', "{class: x}") + circle(
        "other", 'effective.class == "x"', "{dscp: EF}"
    )
    ((path, message), (other_path, _)) = refused(world, circles)
    assert (path, other_path) == ((0, "spec", "when"), (1, "spec", "when"))
    assert message.startswith("for an intent that asks for nothing: rules one, other trigger each other without end")
    quick = circle("quick", 'effective.class == "realtime" && effective.dscp == 0', "{dscp: EF}")
    assert world.apply("shop", LAB_RULES.replace("dscp: EF", "class: realtime") + "---\n" + QUICK)
    ((path, message),) = refused(world, quick)
    assert path == (0, "spec", "when") and message.startswith("for intent order-processing: rules quick trigger")
    assert not {"one", "other", "quick"} & {resource.metadata["name"] for resource in world.resources("shop", "rules")}
    world.run(30)
    assert world.phase("shop", "order-processing") == "Active"


def test_a_rule_that_others_need_to_come_to_an_end_is_not_taken_away(world: World) -> None:
    ends = circle("ends", 'intent.tenant == "customer-x"', "{dscp: AF41}").replace("explain", "priority: 200, explain")
    turns = circle("turns", 'intent.tenant == "customer-x" && effective.dscp == 0', "{dscp: EF}")
    assert refused(world, ends + turns + "---\n" + ORDER_PROCESSING) == []
    answer = world.delete("shop", "ends", "Rule")
    assert answer is not None and "without rule ends, for intent order-processing: rules turns" in answer.conflict
    assert {resource.metadata["name"] for resource in world.resources("shop", "rules")} == {"ends", "turns"}


def test_rules_are_stored_and_come_back(world: World) -> None:
    world.apply("shop", LAB_RULES)
    controller = world.controllers["shop"]
    before = {resource.metadata["name"]: resource.spec for resource in world.resources("shop", "rules")}
    controller.crash()
    world.run(5)
    assert {resource.metadata["name"]: resource.spec for resource in world.resources("shop", "rules")} == before
    assert len(controller.state.rule_engine.plain.rules) == 2


def test_rule_that_is_not_there_cannot_be_deleted(world: World) -> None:
    answer = world.delete("shop", "nothing", "Rule")
    assert answer is not None and answer.missing
