"""What is refused because of what is in force: contradictions, overrides, tests of intents; many at once."""

import time

import msgspec
import pytest

from controller import reconcile
from controller.language.manifest import applied, parse
from controller.model.event import Applied, Apply, Reply
from controller.model.intent import Allow, Intent, Selector
from controller.model.inventory import Attachment, Network
from controller.reconcile import validation
from controller.views import preview
from dataplane.host_api import PortRole
from tests.simulator import ORDER_PROCESSING, World

MANY = 10_000
WEB = """
apiVersion: netstitch/v1
kind: Intent
metadata: {name: web, tenant: customer-x}
spec:
  allow: [{from: {network: shop/customer-x, select: {app: web}}, to: insight/analytics/analytics-y}]
"""
ALL = WEB.replace("name: web", "name: all").replace(", select: {app: web}", "")


@pytest.fixture
def world() -> World:
    world = World()
    world.start()
    return world


def told(world: World, text: str) -> Reply:
    answer = world.apply("shop", text)
    assert answer is not None and not answer.problems, answer
    return answer


def test_isolation_is_broken_by_who_overrides_it(world: World) -> None:
    told(world, ORDER_PROCESSING)
    assert "contradiction: intent order-processing (isolate) and intent all (allow 1)" in told(world, ALL).conflict
    overriding = ALL.replace("spec:", "spec:\n  overrides: [order-processing]")
    foreign = told(world, overriding.replace("tenant: customer-x", "tenant: customer-z"))
    assert "intent all overrides order-processing, which belongs to tenant customer-x" in foreign.conflict
    assert not told(world, overriding).conflict


def test_what_is_shadowed_is_accepted_with_a_warning(world: World) -> None:
    told(world, WEB)
    answer = told(world, ALL.replace("spec:", "spec:\n  require: {latency_ms: {max: 20}}"))
    assert not answer.conflict
    assert answer.results[0] == "intents/all created"
    assert "shadowing: intent web (allow 1) and intent all (allow 1)" in answer.results[1]


def test_an_intent_that_is_not_active_owns_nothing_and_the_warning_says_so(world: World) -> None:
    told(world, WEB.replace("spec:", "spec:\n  require: {latency_ms: {max: 1}}"))
    world.run(5.0)
    assert world.phase("shop", "web") == "Unsatisfiable"
    answer = told(world, ALL)
    assert "while web is Active it owns it, and only its terms hold" in answer.results[1]
    assert answer.results[1].endswith("(web is not Active now, and owns nothing)")
    world.run(20.0)
    assert world.phase("shop", "all") == "Active"
    entries = world.resources("shop", "entries")
    owners = {entry.status["owner"] for entry in entries if entry.spec["action"].startswith("permit")}
    assert "intents/all" in owners and "intents/web" not in owners
    told(world, WEB)
    world.run(20.0)
    assert (
        "(web is not" not in told(world, ALL.replace("spec:", "spec:\n  require: {latency_ms: {max: 20}}")).results[1]
    )


def test_refused_and_tried_out_intents_leave_nothing_behind(world: World) -> None:
    told(world, ORDER_PROCESSING)
    assert told(world, ALL).conflict
    controller = world.controllers["shop"]
    event = Apply(request_id="r", resources=tuple(map(applied, parse(WEB))), dry_run=True)
    preview.foresee(controller.state, event, world.now_s, controller.keys)
    answer = told(world, WEB.replace("name: web", "name: web2"))
    assert not answer.conflict and len(answer.results) == 1, answer


TESTED = """
apiVersion: netstitch/v1
kind: Intent
metadata: {name: tested, tenant: customer-x}
spec:
  allow: [{from: {network: shop/customer-x, select: {app: web}}, to: insight/analytics, ports: [tcp/443]}]
  tests:
    - {deny: {from: shop/customer-x app=order-processing, to: insight/analytics}}
"""


def test_change_that_breaks_a_test_is_refused_with_its_name(world: World) -> None:
    assert not told(world, TESTED).conflict
    answer = told(world, ORDER_PROCESSING)
    assert "test 1 of intent tested (deny shop/customer-x app=order-processing to insight/analytics) would fail" in (
        answer.conflict
    )
    assert "10.1.0.11" in answer.conflict
    world.delete("shop", "tested")
    assert not told(world, ORDER_PROCESSING).conflict


def test_intent_that_a_test_needs_is_not_withdrawn(world: World) -> None:
    told(world, WEB)
    asking = TESTED.split("  allow")[0] + (
        "  isolate: {network: shop/customer-x, select: {app: order-processing}}\n"
        "  tests: [{allow: {from: shop/customer-x app=web, to: insight/analytics/analytics-y, ports: [tcp/443]}}]\n"
    )
    assert not told(world, asking).conflict
    answer = world.delete("shop", "web")
    assert answer is not None and "test 1 of intent tested" in answer.conflict
    assert world.phase("shop", "web")
    world.delete("shop", "tested")
    answer = world.delete("shop", "web")
    assert answer is not None and not answer.conflict


def test_inventory_that_makes_intents_contradict_is_refused(world: World) -> None:
    by_prefix = "{network: shop/customer-x, prefixes: [10.1.0.12/32]}"
    told(world, ORDER_PROCESSING + "---" + WEB.replace("{network: shop/customer-x, select: {app: web}}", by_prefix))
    answer = told(world, world.inventories["shop"].replace("app: web", "app: order-processing"))
    assert "contradiction: intent order-processing (isolate) and intent web (allow 1)" in answer.conflict
    assert "tcp (opening) 10.1.0.12" in answer.conflict


def many(world: World) -> list[Applied]:
    """Own intents in one network of 10,000 hosts: each lets its host reach the next one's; two of them where they
    must not."""
    hosts = tuple(
        Attachment(
            name=f"h{number}",
            node="se1",
            port=40,
            addresses=(f"10.9.{number // 250}.{number % 250 + 2}",),
            labels=(("n", str(number)),),
        )
        for number in range(MANY)
    )
    network = Network(name="shop/many", prefixes=("10.9.0.0/16",), gateways=("10.9.255.254",), attachments=hosts)
    intents = []
    for number in range(MANY):
        host = Selector(network="shop/many", labels=(("n", str(number)),))
        if number in (5, 7000):
            host = Selector(network="shop/many", labels=(("n", str(number - 1)),))
            intents.append(Intent(name=f"i{number}", tenant="t", allow=(Allow(source=host, to="insight/analytics"),)))
        else:
            intents.append(Intent(name=f"i{number}", tenant="t", isolate=host))
    values = [("Network", msgspec.json.encode(network))]
    values += [("Intent", msgspec.json.encode(intent)) for intent in intents]
    return [Applied(kind=kind, content=content) for kind, content in values]


def test_bulk_of_ten_thousand_names_exactly_the_two_conflicts() -> None:
    world = World()
    world.nodes["se1"].add_port(40, PortRole.ATTACHMENT)
    world.start()
    controller = world.controllers["shop"]
    resources = many(world)
    started_s = time.process_time()
    state, effects = reconcile.step(
        controller.state, Apply(request_id="r", resources=tuple(resources)), world.now_s, controller.keys
    )
    took_s = time.process_time() - started_s
    (answer,) = [effect for effect in effects if isinstance(effect, Reply)]
    assert not answer.problems, answer.problems[:3]
    conflicts = answer.conflict.split("; ")
    assert [conflict.split(": the one")[0] for conflict in conflicts] == [
        "contradiction: intent i4 (isolate) and intent i5 (allow 1)",
        "contradiction: intent i6999 (isolate) and intent i7000 (allow 1)",
    ], answer.conflict[:500]
    assert not state.intent_records
    assert took_s < 300, took_s


def copies(text: str, count: int) -> list[Applied]:
    (document,) = parse(text)
    assert isinstance(document.value, Intent)
    return [applied(msgspec.structs.replace(document, value=copy)) for copy in _copies(document.value, count)]


def _copies(intent: Intent, count: int) -> list[Intent]:
    return [msgspec.structs.replace(intent, name=f"{intent.name}-{number}") for number in range(count)]


@pytest.mark.parametrize(("text", "refused"), [(WEB, False), (ORDER_PROCESSING, True)], ids=["shared", "isolated"])
def test_many_that_all_touch_each_other_are_judged_soon_and_told_briefly(
    world: World, text: str, refused: bool
) -> None:
    """As many pairs as there are: 4.5 million."""
    controller = world.controllers["shop"]
    started_s = time.process_time()
    event = Apply(request_id="r", resources=tuple(copies(text, 3000)))
    _, effects = reconcile.step(controller.state, event, world.now_s, controller.keys)
    (answer,) = [effect for effect in effects if isinstance(effect, Reply)]
    assert time.process_time() - started_s < 50, "a second or ten, not an hour"
    if refused:
        assert answer.conflict.startswith("contradiction: intent order-processing-0 (isolate) and intent order-process")
        assert answer.conflict.endswith("; and at least 1036 more")  # of 32 * 33
    else:
        warnings = answer.results[3000:]
        assert len(warnings) == validation.MAX_WARNINGS + 1 and "only 100 warnings" in warnings[-1]
        assert all(warning.startswith("redundancy: intent web-") for warning in warnings[:-1])


def test_more_plans_than_a_node_has_numbers_for_are_unsatisfiable(world: World) -> None:
    told(world, WEB)
    world.run(2.0)
    numbers = world.controllers["shop"].state.taken
    taken = max(used.bit_length() - 1 for counter, used in numbers.items() if counter.endswith(" policy_class"))
    world.resize("policy_class_counter", taken + 1)
    told(world, ALL)
    world.run(2.0)
    assert world.phase("shop", "web") == "Active"
    assert world.phase("shop", "all") == "Unsatisfiable"
    (condition,) = world.get("shop", "intents", "all").status["conditions"]
    assert "policy classes of " in condition["reason"] and condition["reason"].endswith(" are in use")
