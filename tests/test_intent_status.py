"""Phase and conditions say what is true: of agents that are away, of changes under way, of what is half there."""

import pytest

from controller.cli.kinds import columns
from controller.cli.render import cells
from controller.language.policy import parse_policy
from tests.simulator import ORDER_PROCESSING, World
from tests.test_edges import PAYROLL, TOPOLOGY
from topologies import domain_files

WEB = """
apiVersion: netstitch/v1
kind: Intent
metadata: {name: web, tenant: customer-x}
spec:
  allow:
    - {from: {network: shop/customer-x, select: {app: web}}, to: insight/analytics/analytics-y}
"""


@pytest.fixture
def world() -> World:
    world = World()
    world.start()
    return world


def conditions(world: World, name: str = "order-processing") -> dict[str, str]:
    return {
        condition["type"]: condition["reason"] for condition in world.get("shop", "intents", name).status["conditions"]
    }


def restart(world: World, domain: str = "shop") -> None:
    world.controllers[domain].crash()
    world.controllers[domain].start()


def active(world: World) -> None:
    world.apply("shop", ORDER_PROCESSING)
    world.run(10.0)
    assert world.phase("shop", "order-processing") == "Active"
    assert not conditions(world)


def test_what_a_node_has_confirmed_is_active_while_its_agent_is_away(world: World) -> None:
    active(world)
    world.nodes["se1"].up = False
    world.run(5.0)
    for _ in range(2):
        assert world.phase("shop", "order-processing") == "Active"
        (reason,) = (reason for kind, reason in conditions(world).items() if kind == "NodeUnreachable")
        assert reason.startswith("node se1 unreachable: ") and reason.endswith("its state is as last confirmed")
        restart(world)
        world.run(5.0)
    world.nodes["se1"].up = True
    world.run(5.0)
    assert (world.phase("shop", "order-processing"), conditions(world)) == ("Active", {})


@pytest.mark.parametrize("text", [ORDER_PROCESSING, PAYROLL.replace("campus/office", "shop/customer-x")])
def test_what_a_node_has_never_confirmed_is_not_active_either_after_a_restart(world: World, text: str) -> None:
    name = "order-processing" if text is ORDER_PROCESSING else "payroll"
    text = text.replace("app: payroll", "app: web")
    world.nodes["se1"].up = False
    world.run(5.0)
    world.apply("shop", text)
    for _ in range(2):
        world.run(10.0)
        assert world.phase("shop", name) == "Installing"
        assert "node se1 unreachable: " in conditions(world, name)["Installing"] + str(conditions(world, name))
        restart(world)
    world.nodes["se1"].up = True
    world.run(10.0)
    assert (world.phase("shop", name), conditions(world, name)) == ("Active", {})


def test_what_was_changed_while_a_node_is_away_is_not_active(world: World) -> None:
    active(world)
    world.nodes["se1"].up = False
    world.run(5.0)
    world.apply("shop", ORDER_PROCESSING.replace("tcp/443, icmp", "tcp/443"))
    for _ in range(2):
        world.run(10.0)
        assert world.phase("shop", "order-processing") != "Active"
        restart(world)
    world.nodes["se1"].up = True
    world.run(10.0)
    assert (world.phase("shop", "order-processing"), conditions(world)) == ("Active", {})


def test_a_change_that_is_under_way_says_what_is_carried_meanwhile(world: World) -> None:
    active(world)
    world.partitioned.add(frozenset(("shop", "transit")))
    world.apply("shop", ORDER_PROCESSING.replace("max: 20", "max: 19"))
    world.run(5.0)
    assert world.phase("shop", "order-processing") == "Negotiating"
    said = conditions(world)
    assert said["CarriedAsBefore"].endswith("what held before the change is carried, by se1 sg1 transit insight")
    assert "which cannot be reached" in said["Negotiating"]


def test_who_waits_for_a_neighbour_says_since_when_and_for_what(world: World) -> None:
    world.nodes["ie1"].up = False
    world.run(5.0)
    world.apply("shop", ORDER_PROCESSING)
    world.run(10.0)
    assert world.phase("shop", "order-processing") == "Negotiating"
    assert conditions(world)["Negotiating"] == (
        "insight/analytics: waiting for the answer of transit, which has the offer of 2027-01-15T08:00:08Z and answers "
        "when its own part is installed"
    )


def test_one_connection_that_is_carried_beside_one_that_is_refused_says_so(world: World) -> None:
    archive = "    - {from: {network: shop/customer-x, select: {app: web}}, to: insight/archive/archive-z}\n"
    world.apply("shop", WEB.replace("analytics-y}\n", "analytics-y}\n" + archive))
    world.run(10.0)
    status = world.get("shop", "intents", "web").status
    assert status["phase"] in ("Refused", "Unsatisfiable")
    assert [condition["type"] for condition in status["conditions"]] == [status["phase"], "Active"]
    assert status["conditions"][1]["reason"].startswith("insight/analytics: carried by se1 sg1")


@pytest.mark.parametrize("refused", [True, False], ids=["refused", "not reached"])
def test_an_agreement_that_is_not_renewed_still_carries_and_says_until_when(world: World, refused: bool) -> None:
    active(world)
    transit = world.controllers["transit"]
    if refused:
        policy = domain_files.policy(world.topology.domain("transit")).replace("from: shop", "from: nobody")
        transit.policy = parse_policy(policy, "transit.yaml")
        restart(world, "transit")
    else:
        world.partitioned.add(frozenset(("shop", "transit")))
    world.run(2000.0)
    assert world.phase("shop", "order-processing") == "Active"
    reason = conditions(world)["RenewalRefused" if refused else "RenewalPending"]
    assert ("transit does not renew shop:" if refused else "transit cannot be reached to renew shop:") in reason
    assert "what is agreed ends at 2027-01-15T09:00:0" in reason


def test_all_paths_of_a_network_with_several_edges_are_shown() -> None:
    world = World(topology=TOPOLOGY)
    world.start()
    world.apply("campus", PAYROLL.replace("payroll}}}", "payroll}}, allow: [{to: campus/office}]}"))
    world.run(10.0)
    shown = world.get("campus", "intents", "payroll")
    assert shown.status["phase"] == "Active"
    assert shown.status["path"] == shown.status["paths"][0]["path"]
    ways = ["e1", "e1 t1 e2", "e1 t1 e3", "e3", "e3 t1 e1", "e3 t1 e2"]
    assert sorted(" ".join(path["path"]) for path in shown.status["paths"]) == ways
    row = {"metadata": shown.metadata, "spec": shown.spec, "status": shown.status}
    titles = [column.title for column in columns("intents", wide=True)]
    assert sorted(cells(row, columns("intents", wide=True))[titles.index("PATH")].split("; ")) == ways
