"""What is done about incidents: in which mode, by whom, and what holds the controller back."""

import msgspec
import pytest

from controller.model.access import Principal, Role
from controller.model.event import Decide, Found, Reply, SetDrain
from controller.model.finding import Cause
from controller.model.resource import Resource
from controller.reconcile.incidents import QUIET_S
from controller.reconcile.remediation import ACTIONS_A_DAY, ACTIONS_A_MINUTE, HELPS_S, REROUTE_S, SIGNAL_S, TRIES_MAX
from tests.simulator import LAB, ORDER_PROCESSING, World
from tests.test_incidents import ORDERS, WEB, finding, permitted, phases, see, shown, story
from tests.typed_in import typed
from topologies.topology_file import load

QUARANTINED = "intents/quarantine-1"
INTENT = ("intents/order-processing",)


def in_mode(mode: str) -> World:
    world = World(topology=typed(load(LAB)))
    world.start()
    answer = world.apply("shop", ORDER_PROCESSING.replace("spec:", f"spec:\n  remediation: {mode}"))
    assert answer is not None and answer.results, answer
    world.run(2.0)
    return world


@pytest.fixture
def world() -> World:
    return in_mode("auto")


def see_twice(world: World, source: str = ORDERS, seconds: int = 3, **fields: object) -> None:
    """Two detectors see the same."""
    for _ in range(seconds):
        see(world, source, seconds=1, **fields)
        see(world, source, seconds=1, cause=Cause.UNUSUAL, detectors=("learned",), **fields)


def approve(world: World, by: Principal, name: str = "1") -> Reply:
    reply = world._ask("shop", lambda request: Decide(request_id=request, name=name, approved=True, by=by))
    assert reply is not None
    return reply


def held(world: World) -> str:
    return str(shown(world)[-1].status.get("held", ""))


def intents(world: World) -> set[str]:
    return {str(intent.metadata["name"]) for intent in world.resources("shop", "intents")}


def test_a_source_is_isolated_without_somebodys_word_where_two_detectors_say_so(world: World) -> None:
    before = permitted(world)
    see(world, ORDERS, seconds=5, owners=INTENT)
    assert phases(world) == ["Proposed"] and "it is the word of scan alone" in held(world)
    assert permitted(world) == before
    see_twice(world, owners=INTENT)
    world.run(3.0)
    assert phases(world) == ["Acted"], story(world)
    after = permitted(world)
    assert after < before and not any(source.endswith(ORDERS) for source, _ in after)
    assert world.phase("shop", "quarantine-1") == "Active"
    assert "decided: approved by assurance" in story(world)
    world.run(QUIET_S + 5)
    assert phases(world) == ["Closed"]
    world.run(700)
    assert permitted(world) == before, "it has ended by itself"


def test_signals_that_are_long_past_do_not_count(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert SIGNAL_S >= 5.0
    monkeypatch.setattr("controller.reconcile.remediation.SIGNAL_S", 5.0)
    see(world, ORDERS, owners=INTENT)
    world.run(8.0)
    see(world, ORDERS, cause=Cause.UNUSUAL, detectors=("learned",), owners=INTENT)
    assert phases(world) == ["Proposed"] and "no scan was seen lately" in held(world)


def test_the_victims_answers_bring_no_incident_of_its_past_back(world: World) -> None:
    """More traffic than usual, and a model that has not seen the like, are no second scan."""
    see_twice(world, owners=INTENT)
    world.run(2.0)
    assert phases(world) == ["Acted"]
    world.run(QUIET_S + 3)
    for _ in range(5):
        see(world, ORDERS, seconds=1, cause=Cause.UNUSUAL, detectors=("learned",), owners=INTENT)
        see(world, ORDERS, seconds=1, cause=Cause.VOLUME_SHIFT, detectors=("volume",), owners=INTENT)
    world.run(2.0)
    assert [shown.spec["cause"] for shown in world.resources("shop", "incidents")] == ["scan", "volume_shift"]
    assert phases(world) == ["Closed", "Open"]
    actions = [line for place in (0, 1) for line in story(world, place) if line == "decided: approved by assurance"]
    assert len(actions) == 1, story(world, 0)


def test_what_a_model_finds_unusual_about_an_isolated_source_does_not_undo_that(world: World) -> None:
    see_twice(world, owners=INTENT)
    world.run(2.0)
    assert phases(world) == ["Acted"]
    for _ in range(int(HELPS_S) + 10):
        see(world, ORDERS, seconds=1, cause=Cause.UNUSUAL, detectors=("learned",), owners=INTENT)
    assert phases(world) == ["Acted"]
    for _ in range(int(QUIET_S)):
        see(world, ORDERS, seconds=1, cause=Cause.UNUSUAL, detectors=("learned",), owners=INTENT)
    assert phases(world) == ["Closed"], "nobody has named it for a minute"


@pytest.mark.parametrize("mode", ["propose", "off"])
def test_nothing_happens_by_itself_in_other_modes(mode: str) -> None:
    world = in_mode(mode)
    before = permitted(world)
    see_twice(world, owners=INTENT)
    world.run(5.0)
    assert permitted(world) == before
    assert phases(world) == [{"propose": "Proposed", "off": "Open"}[mode]]
    if mode == "off":
        assert "intent order-processing has remediation off" in shown(world)[0].status["impossible"]


def test_the_most_careful_intent_that_a_quarantine_would_cut_off_decides(world: World) -> None:
    see_twice(world, owners=("networks/shop/customer-x",), seconds=2)
    assert shown(world)[0].status["mode"] == "auto", "the host's own intent says so"
    see_twice(world, source=WEB, owners=("networks/shop/customer-x",))
    world.run(5.0)
    assert shown(world)[1].status["mode"] == "propose", "nobody speaks for that host but the domain's policy"


def test_what_does_not_help_is_undone_and_not_tried_again(world: World) -> None:
    before = permitted(world)
    see_twice(world, owners=INTENT)
    world.run(2.0)
    assert phases(world) == ["Acted"]
    see(world, ORDERS, seconds=int(HELPS_S) + 2, owners=INTENT)
    see_twice(world, owners=INTENT)
    world.run(2.0)
    assert permitted(world) == before and phases(world) == ["Open"]
    assert f"helped: it did not help (it is seen on): {QUARANTINED} is undone" in story(world)


def test_what_comes_back_is_isolated_for_longer_each_time_and_then_not_without_somebodys_word(world: World) -> None:
    lasted = []
    for _ in range(ACTIONS_A_DAY):
        see_twice(world, owners=INTENT)
        world.run(2.0)
        incident = shown(world)[-1]
        assert incident.status["phase"] == "Acted", story(world)
        lasted.append(incident.status["proposal"]["spec"]["lease"]["for"])
        world.run(QUIET_S + 3)
        assert phases(world)[-1] == "Closed"
        world.run(3000 if len(lasted) == ACTIONS_A_DAY else 600 * 2 ** len(lasted))
    assert lasted == ["10m", "20m", "40m"]
    see_twice(world, owners=INTENT)
    world.run(2.0)
    assert phases(world)[-1] == "Proposed"
    assert f"was acted upon {ACTIONS_A_DAY} times within a day" in held(world)


def test_while_it_is_seen_whether_one_helps_nothing_else_is_tried_on_the_same(world: World) -> None:
    see_twice(world, owners=INTENT)
    world.run(2.0)
    see_twice(world, source=WEB, owners=INTENT)
    world.run(2.0)
    assert phases(world) == ["Acted", "Proposed"]
    assert "incident 1 was acted upon just now, and it touches the same" in held(world)


def test_no_more_is_done_in_a_minute_than_its_budget(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controller.reconcile.remediation.ACTIONS_A_MINUTE", 0)
    see_twice(world, owners=INTENT)
    world.run(2.0)
    assert phases(world) == ["Proposed"] and "within the last minute" in held(world)
    assert ACTIONS_A_MINUTE > 0


def test_what_the_gates_refuse_is_tried_a_few_times_and_left(world: World) -> None:
    intent = ORDER_PROCESSING.replace("spec:", "spec:\n  remediation: auto").replace("lease: {for: 30d}", "")
    flow = "{from: shop/customer-x app=order-processing, to: insight/analytics/analytics-y, ports: [tcp/443]}"
    tested = f"{intent}  tests: [{{allow: {flow}}}]\n"
    answer = world.apply("shop", tested)
    assert answer is not None and answer.results, answer
    before = permitted(world)
    for _ in range(25):
        see_twice(world, owners=INTENT, seconds=1)
    assert permitted(world) == before and phases(world) == ["Proposed"]
    refusals = [line for line in story(world) if "approved by assurance, and refused: test 1 of intent" in line]
    assert len(refusals) == TRIES_MAX and f"it was refused {TRIES_MAX} times" in held(world)


def test_tenants_decide_about_what_touches_their_own_intents_and_nothing_else(world: World) -> None:
    see(world, ORDERS, owners=INTENT)
    see(world, WEB, owners=(*INTENT, "networks/shop/customer-x"))
    own = Principal(name="x", role=Role.OPERATOR, tenants=("customer-x",))
    others = Principal(name="z", role=Role.OPERATOR, tenants=("customer-z",))
    reader = Principal(name="r", role=Role.READER)
    assert "touches more than intents of customer-z" in approve(world, others).forbidden
    assert "a reader's" in approve(world, reader).forbidden
    assert "touches more than intents of customer-x" in approve(world, own, "2").forbidden
    assert approve(world, own).results[0] == f"{QUARANTINED} created"
    assert phases(world) == ["Acted", "Proposed"]


def test_a_restart_acts_once(world: World) -> None:
    see_twice(world, owners=INTENT)
    world.run(2.0)
    shop = world.controllers["shop"]
    shop.crash()
    shop.start()
    world.run(5.0)
    assert phases(world) == ["Acted"]
    assert sum("approved by assurance" in line for line in story(world)) == 1
    assert "quarantine-1" in intents(world)
    assert msgspec.json.decode(msgspec.json.encode(shown(world)[0]))


# ---- other paths


SLOW = "links/t1-tc1"


def transit(mode: str = "auto") -> World:
    world = World(topology=typed(load(LAB)))
    world.change_policy("transit", "transit:", f"remediation: {mode}\ntransit:")
    world.start()
    world.apply("shop", ORDER_PROCESSING)
    world.run(5.0)
    return world


def slow(world: World, seconds: int = 2, **fields: object) -> None:
    """So many seconds the link that the best path takes is slow."""
    state = world.controllers["transit"].state
    owners = tuple(sorted({stitch.plan.owner for stitch in state.stitches.values()}))
    about = {"cause": Cause.DELAY_SHIFT, "entity": SLOW, "detectors": ("delay",), "owners": owners} | fields
    for _ in range(seconds):
        world.run(1.0)
        transit = world.controllers["transit"]
        transit.event(Found(findings=(finding(world.now_s, "", **about),)), transit.life)


def best(world: World) -> set[tuple[str, ...]]:
    """Nodes of the best paths through transit."""
    policies = world.controllers["transit"].state.sr_policies.values()
    return {policy.candidate_paths[0].nodes for policy in policies if policy.headend != policy.endpoint}


def incident(world: World) -> Resource:
    return world.resources("transit", "incidents")[-1]


def told(world: World) -> list[str]:
    return [moment["text"] for moment in incident(world).status["timeline"]]


NORTH, SOUTH = {("t1", "tc1", "t2")}, {("t1", "tc2", "t2")}


def test_a_link_that_is_slow_is_passed_by_until_it_is_well_again() -> None:
    world = transit()
    assert best(world) == NORTH
    slow(world)
    world.run(3.0)
    assert (incident(world).status["phase"], best(world)) == ("Acted", SOUTH), told(world)
    slow(world, seconds=int(REROUTE_S / 100))  # its own probes go on saying so
    assert (incident(world).status["phase"], best(world)) == ("Acted", SOUTH), told(world)
    assert world.phase("shop", "order-processing") == "Active"
    world.run(QUIET_S + 5)
    assert (incident(world).status["phase"], best(world)) == ("Closed", NORTH), told(world)


def test_other_trouble_of_a_link_soon_after_is_an_incident_of_its_own_cause() -> None:
    world = transit()
    slow(world)
    world.run(QUIET_S + 5)
    assert (incident(world).status["phase"], incident(world).spec["cause"]) == ("Closed", "delay_shift")
    slow(world, cause=Cause.LOSS)
    world.run(3.0)
    assert (incident(world).status["phase"], incident(world).spec["cause"]) == ("Acted", "loss"), told(world)
    assert best(world) == SOUTH


def test_a_slow_link_that_turns_out_to_lose_packets_is_one_incident_of_loss() -> None:
    world = transit()
    slow(world)
    slow(world, seconds=1, cause=Cause.LOSS)
    slow(world, seconds=1)
    world.run(3.0)
    assert len(world.resources("transit", "incidents")) == 1
    assert (incident(world).status["phase"], incident(world).spec["cause"]) == ("Acted", "loss"), told(world)


def test_without_somebodys_word_a_link_is_not_passed_by_where_the_policy_does_not_say_auto() -> None:
    world = transit("propose")
    slow(world, seconds=5)
    world.run(3.0)
    assert (incident(world).status["phase"], best(world)) == ("Proposed", NORTH)
    assert incident(world).status["reroute"] == SLOW
    reply = world._ask("transit", lambda request: Decide(request_id=request, name="1", approved=True))
    assert reply is not None and reply.results == (f"{SLOW} drained",)
    world.run(3.0)
    assert best(world) == SOUTH


def test_where_the_other_path_has_the_same_trouble_the_first_is_taken_again() -> None:
    world = transit()
    slow(world)
    world.run(3.0)
    assert best(world) == SOUTH
    slow(world, seconds=12, entity="links/t1-tc2")
    world.run(2.0)
    first = world.resources("transit", "incidents")[0]
    assert (first.status["phase"], best(world)) == ("Open", NORTH)
    assert "what was moved has incident 2 now" in first.status["timeline"][-1]["text"]


def test_where_there_is_no_other_path_the_link_is_used_again() -> None:
    world = transit()
    world.set_carrier("t1-tc2", False, "t1", "tc2")
    world.run(5.0)
    slow(world)
    world.run(HELPS_S + 5)
    assert (incident(world).status["phase"], best(world)) == ("Open", NORTH)
    assert "it did not help (nothing has another path)" in told(world)[-1]
    assert not world.controllers["transit"].state.drains


def test_what_an_operator_has_drained_meanwhile_stays_drained() -> None:
    world = transit()
    slow(world)
    world.run(3.0)
    world._ask("transit", lambda request: SetDrain(request_id=request, part=SLOW, is_drained=False))
    world._ask("transit", lambda request: SetDrain(request_id=request, part=SLOW, is_drained=True))
    world.run(QUIET_S + 5)
    assert incident(world).status["phase"] == "Closed"
    assert world.controllers["transit"].state.drains[SLOW].by == "stitchd"
    assert best(world) == SOUTH
