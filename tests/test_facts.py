"""What is measured of links: a fact beside what the operator says, which counts in paths where that says nothing."""

import json
from typing import Any

import pytest

from controller.fulfillment.paths import sr_policy
from controller.language.fault import ManifestInvalid
from controller.model.constraints import Constraints
from controller.model.discovery import PortMeasurement, RemoteSystem, agree
from controller.model.event import Discovered, Measured, NodeDescribed, NodeUnreachable, Reply
from controller.model.sr_policy import SrPolicyId
from controller.reconcile.facts import MEASURED_S
from controller.reconcile.transaction import Transaction
from controller.revisions import Revisions
from controller.views import doctor
from dataplane.host_api import PortRole
from tests.simulator import World

LINK = "t1-tc1"
ENDS = ("t1", "tc1")


@pytest.fixture
def world() -> World:
    made = World()
    made.start()
    made.run(5.0)
    return made


def measure(world: World, loss_percent: float, delay_us: int = 2000, ends: tuple[str, ...] = ENDS) -> None:
    """Of the link, by its ends, now."""
    controller = world.controllers["transit"]
    link = controller.state.inventory.links[LINK]
    for end in (link.a, link.b):
        if end is not None and end.node in ends:
            said = PortMeasurement(port=end.port, delay_us=delay_us, loss_percent=loss_percent, at_s=int(world.now_s))
            controller.event(Measured(node=end.node, ports=(said,)), controller.life)


def silent(world: World) -> None:
    """The operator says no loss of the link any more."""
    link = world.get("transit", "links", LINK)
    spec = {name: value for name, value in link.spec.items() if name != "loss_percent"}
    manifest = {"apiVersion": "netstitch/v1", "kind": "Link", "metadata": {"name": LINK}, "spec": spec}
    answer = world.apply("transit", json.dumps(manifest))
    assert answer is not None and answer.results == (f"links/{LINK} changed",)


def status(world: World) -> dict[str, Any]:
    return world.get("transit", "links", LINK).status


def has_way(world: World, loss_ppm_max: int) -> bool:
    """From t1 over that link, and no other."""
    controller = world.controllers["transit"]
    graph = Transaction(controller.state, world.now_s, controller.keys).graph
    policy = sr_policy(graph, SrPolicyId(headend="t1", endpoint="tc1", color=Constraints(loss_ppm_max=loss_ppm_max)))
    return policy is not None and any(path.links == (LINK,) for path in policy.candidate_paths)


def test_the_operators_word_wins_and_the_difference_is_shown(world: World) -> None:
    measure(world, 3.0, 9_500)
    said = status(world)
    assert said["facts"]["loss_percent"] == {"value": "0", "source": "operator"}
    assert said["facts"]["delay_ms"] == {"value": "2", "source": "operator"}
    one, *_ = said["measured_differences"]
    assert "(operator) says delay_ms: 2, t1 port" in one and one.endswith("by STAMP (measurement) says 9.5")
    assert len(said["measured_differences"]) == 4
    assert said["discovery"] == "not heard", "a measurement is no discovery"
    assert {(fact["what"], fact["source"]) for fact in said["said"]} >= {("delay_ms", "measurement")}
    assert world.controllers["transit"].state.losses == {}
    assert not [row for row in doctor.checks(world.controllers["transit"].state, world.now_s) if "STAMP" in row.detail]


def test_what_is_measured_about_as_declared_is_no_difference(world: World) -> None:
    measure(world, 0.4, 2_450)
    assert "measured_differences" not in status(world)
    assert len(status(world)["measured"]) == 2
    assert agree("delay_ms", "40", "47.9") and not agree("delay_ms", "40", "48.1")
    assert not agree("mtu", "1500", "1499")


def test_where_the_operator_says_nothing_what_is_measured_counts_in_paths(world: World) -> None:
    silent(world)
    world.run(3.0)
    assert "loss_percent" not in status(world)["facts"]
    assert not has_way(world, 100_000), "an unknown loss satisfies nothing"
    measure(world, 1.0, ends=("t1",))
    measure(world, 2.0, ends=("tc1",))
    assert status(world)["facts"]["loss_percent"] == {"value": "2", "source": "measurement"}
    world.run(1.0)
    assert world.controllers["transit"].state.losses == {LINK: 2.0}, "of what the ends say the worse counts"
    assert (has_way(world, 30_000), has_way(world, 15_000)) == (True, False)
    (edge,) = (edge for edge in exported(world) if edge["key"] == f"links/{LINK}")
    assert edge["loss_said_by"] == "measurement"


def test_what_is_measured_already_counts_as_soon_as_the_operator_says_nothing_any_more(world: World) -> None:
    measure(world, 1.0)
    assert world.controllers["transit"].state.losses == {}
    silent(world)
    assert world.controllers["transit"].state.losses == {LINK: 1.0}


def test_a_measurement_that_says_the_same_again_is_no_change_to_who_watches(world: World) -> None:
    revisions = Revisions(1)
    measure(world, 0.1)
    (first,) = revisions.look("links", [world.get("transit", "links", LINK)])
    world.run(30.0)
    measure(world, 0.2)
    (second,) = revisions.look("links", [world.get("transit", "links", LINK)])
    assert second.metadata["revision"] == first.metadata["revision"]
    measure(world, 5.0)
    (third,) = revisions.look("links", [world.get("transit", "links", LINK)])
    assert third.metadata["revision"] > second.metadata["revision"]


def exported(world: World) -> list[dict[str, Any]]:
    from test_network_graph import graph

    from controller.northbound.graph_formats import GraphFormat, written

    edges: list[dict[str, Any]] = json.loads(written(graph(world, "transit"), GraphFormat.JSON))["edges"]
    return edges


def test_a_measurement_ends_with_its_age_with_its_node_and_with_a_word_of_the_operator(world: World) -> None:
    declared = world.get("transit", "links", LINK)
    silent(world)
    measure(world, 1.0)
    world.run(MEASURED_S - 5)
    assert world.controllers["transit"].state.losses == {LINK: 1.0}
    world.run(10.0)
    assert world.controllers["transit"].state.losses == {}
    assert "measured" not in status(world)
    assert not has_way(world, 100_000)

    measure(world, 1.0, ends=("t1",))
    controller = world.controllers["transit"]
    controller.event(NodeUnreachable(node="t1", reason="gone"), controller.life)
    assert controller.state.losses == {}

    measure(world, 1.0, ends=("tc1",))
    assert controller.state.losses == {LINK: 1.0}
    manifest = {"apiVersion": "netstitch/v1", "kind": "Link", "metadata": {"name": LINK}, "spec": declared.spec}
    world.apply("transit", json.dumps(manifest))
    assert controller.state.losses == {}
    assert status(world)["facts"]["loss_percent"]["source"] == "operator"


def test_what_is_measured_is_not_stored_and_known_again_after_a_restart(world: World) -> None:
    silent(world)
    measure(world, 1.0)
    controller = world.controllers["transit"]
    controller.crash()
    controller.start()
    assert controller.state.losses == {}
    world.run(3.0)
    measure(world, 1.0)
    assert controller.state.losses == {LINK: 1.0}


def declare(world: World, name: str, **spec: Any) -> Reply:
    base = world.get("transit", "links", LINK).spec
    manifest = {"apiVersion": "netstitch/v1", "kind": "Link", "metadata": {"name": name}, "spec": base | spec}
    answer = world.apply("transit", json.dumps(manifest))
    assert answer is not None
    return answer


def end(node: str, port: int) -> dict[str, Any]:
    return {"node": node, "port": port}


@pytest.mark.parametrize(
    ("ends", "reason"),
    [
        ({"a": end("t1", 91), "b": end("nobody", 1)}, "unknown node nobody"),
        ({"a": end("t1", 91), "b": end("tc2", 77)}, "tc2 has no port 77"),
        ({"a": end("t1", 91), "b": end("tc1", 1)}, "port 1 of tc1 is link t1-tc1's"),
    ],
    ids=["dangling", "no such port", "another's port"],
)
def test_a_link_that_leads_nowhere_or_where_another_is_gets_refused(
    world: World, ends: dict[str, Any], reason: str
) -> None:
    world.add_port("t1", 91, PortRole.FABRIC)
    world.run(5.0)
    before = world.controllers["transit"].state.inventory
    answer = declare(world, "new", **ends)
    assert any(reason in problem.message for problem in answer.problems), answer
    assert world.controllers["transit"].state.inventory is before
    for port in (91, 92):
        with pytest.raises(ManifestInvalid, match="both ends are at t1"):
            declare(world, "loop", a=end("t1", 91), b=end("t1", port))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("delay_ms", -1), ("delay_ms", 1e9), ("delay_ms", float("nan")), ("delay_ms", float("inf")),
        ("rate_mbit", 0), ("rate_mbit", -5), ("loss_percent", -0.1), ("loss_percent", 101),
        ("loss_percent", float("nan")), ("loss_percent", None), ("cost", -1), ("cost", 2**40), ("mtu", 0),
        ("mtu", 10**6), ("delay_ms", True), ("delay_ms", "2ms"),
    ],
)  # fmt: skip
def test_absurd_metrics_are_refused_at_their_place(world: World, field: str, value: object) -> None:
    with pytest.raises(ManifestInvalid, match=rf"spec\.{field}: .*expected"):
        declare(world, LINK, **{field: value})


def test_an_agent_that_says_it_is_another_node_is_not_heard(world: World) -> None:
    controller = world.controllers["transit"]
    described = controller.state.nodes["tc1"].description
    controller.event(NodeDescribed(node="tc1", description=world.nodes["t1"].describe()), controller.life)
    standing = controller.state.nodes["tc1"]
    assert (standing.reachable, standing.description) == (False, described)
    assert "its agent says it is t1" in world.get("transit", "nodes", "tc1").status["reason"]


def test_a_declared_link_that_is_called_as_a_discovered_one_hides_nothing(world: World) -> None:
    for node, port in (("t1", 91), ("tc1", 92), ("t1", 93), ("tc2", 94)):
        world.add_port(node, port, PortRole.FABRIC)
    world.run(5.0)
    name = "discovered-t1-91-tc1-92"
    assert declare(world, name, a=end("t1", 93), b=end("tc2", 94)).results == (f"links/{name} created",)
    controller = world.controllers["transit"]
    heard = RemoteSystem(port=91, chassis_id="transit/tc1", port_id="92", node="tc1", node_port=92, since_s=9)
    controller.event(Discovered(node="t1", remote_systems=(heard,)), controller.life)
    shown = [link for link in world.resources("transit", "links") if str(link.metadata["name"]).startswith(name)]
    ports = {link.metadata["name"]: link.spec["a"]["port"] for link in shown}
    assert ports == {name: 93, f"{name}-undeclared": 91}
    assert world.get("transit", "links", f"{name}-undeclared").status["in_use"] is False
