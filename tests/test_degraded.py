"""`on violation degrade`: what was carried as it is required goes on by a way that is not as good."""

import pytest

from controller.model.stitch import Stage
from controller.reconcile.link_state import HOLD_S
from tests.simulator import LAB, World
from tests.typed_in import typed
from topologies.topology_file import load

REPORTS = """
apiVersion: netstitch/v1
kind: Intent
metadata: {name: reports, tenant: customer-x}
spec:
  allow: [{from: {network: shop/customer-x, select: {app: web}}, to: insight/analytics/analytics-y, ports: [icmp]}]
  require: {latency_ms: {max: 20}, encryption: wireguard}
"""
TO_STOP = REPORTS + "  on_violation: stop\n"
TRANSIT = ("t1-tc1", "t1-tc2")
DEGRADED = (
    "insight/analytics: latency: at most 20 ms is required; the way that is left, by se1 sg1 insight, takes 40 ms"
)


@pytest.fixture
def world() -> World:
    world = World(topology=typed(load(LAB)))
    world.start()
    world.run(3.0)
    return world


def asked(world: World, intent: str = REPORTS) -> None:
    world.apply("shop", intent)
    world.run(5.0)
    assert status(world) == ("Active", "")


def cut(world: World, *, back: bool = False) -> None:
    for link in TRANSIT:
        world.set_carrier(link, back)


def status(world: World) -> tuple[str, str]:
    shown = world.get("shop", "intents", "reports").status
    return shown["phase"], "; ".join(condition["reason"] for condition in shown["conditions"])


def borders(world: World) -> list[str]:
    """By which it leaves, in order."""
    stitches = world.controllers["shop"].state.stitches.values()
    return sorted(each.plan.egress.border for each in stitches if each.plan.egress is not None)


def test_the_slow_way_is_taken_when_the_quick_one_is_cut_and_left_when_it_is_back(world: World) -> None:
    asked(world)
    assert borders(world) == ["sg1-t1"]
    cut(world)
    world.run(10.0)
    assert status(world) == ("Degraded", DEGRADED)
    assert borders(world) == ["sg1-ig1"]
    world.run(2 * 3600.0)  # it is renewed
    assert status(world) == ("Degraded", DEGRADED)
    cut(world, back=True)
    for _ in range(200):  # make before break
        world.run(0.05)
        stitches = world.controllers["shop"].state.stitches.values()
        assert any(stitch.stage is Stage.ACTIVE for stitch in stitches)
    world.run(HOLD_S + 5.0)
    assert status(world) == ("Active", "")
    assert borders(world) == ["sg1-t1"]
    world.check_settled()


def test_who_has_no_way_is_asked_ever_more_seldom_meanwhile(world: World) -> None:
    asked(world)
    cut(world)
    world.run(300.0)
    before = len(world.wiretap)
    world.run(600.0)
    assert len(world.wiretap) - before <= 10 * 4, "an offer a minute, its answer, and what both confirm"
    assert status(world) == ("Degraded", DEGRADED)


def test_what_is_to_stop_stops(world: World) -> None:
    asked(world, TO_STOP)
    cut(world)
    world.run(10.0)
    assert status(world)[0] in ("Refused", "Unsatisfiable")
    assert borders(world) == []


def test_what_never_held_is_not_begun_without_it(world: World) -> None:
    cut(world)
    world.run(5.0)
    world.apply("shop", REPORTS)
    world.run(30.0)
    assert status(world)[0] in ("Refused", "Unsatisfiable")
    assert borders(world) == []


def test_another_bound_is_a_new_promise(world: World) -> None:
    asked(world)
    cut(world)
    world.run(10.0)
    world.apply("shop", REPORTS.replace("max: 20", "max: 15"))
    world.run(10.0)
    assert status(world)[0] in ("Refused", "Unsatisfiable")
    world.apply("shop", REPORTS.replace("max: 20", "max: 50"))
    world.run(10.0)
    assert status(world) == ("Active", "")
    assert borders(world) == ["sg1-ig1"]


def test_what_is_changed_and_requires_the_same_goes_on(world: World) -> None:
    asked(world)
    cut(world)
    world.run(10.0)
    world.apply("shop", REPORTS.replace("ports: [icmp]", "ports: [icmp, tcp/443]"))
    world.run(10.0)
    assert status(world) == ("Degraded", DEGRADED)


def test_trust_and_encryption_are_never_given_up(world: World) -> None:
    asked(world, REPORTS.replace("encryption: wireguard", "encryption: wireguard, trust: {min: partner}"))
    cut(world)
    world.run(30.0)
    assert status(world)[0] in ("Refused", "Unsatisfiable")
    assert borders(world) == []


def test_a_controller_that_was_away_goes_on_as_it_was(world: World) -> None:
    asked(world)
    cut(world)
    world.run(10.0)
    world.controllers["shop"].crash()
    world.controllers["shop"].start()
    world.run(10.0)
    assert status(world) == ("Degraded", DEGRADED)
    cut(world, back=True)
    world.run(HOLD_S + 70.0)
    assert status(world) == ("Active", "")
