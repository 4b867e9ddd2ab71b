"""Findings become incidents, incidents propose, and what is approved passes the gates of every change."""

import ipaddress
import itertools

import msgspec
import pytest

from controller.fulfillment.meaning import Meaning, Packet
from controller.fulfillment.remediate import QUARANTINE_S
from controller.model.event import Decide, Found, Reply
from controller.model.finding import Cause, Finding, Reason
from controller.model.incident import TIMELINE_MAX
from controller.model.resource import Resource
from controller.model.stitch import expired
from controller.reconcile import remediation
from controller.reconcile.incidents import (
    COOL_DOWN_S,
    FINDINGS_MAX,
    OPEN_MAX,
    QUIET_S,
    SUSPICIONS_MAX,
)
from controller.reconcile.remediation import ACTIONS_A_MINUTE, BUDGET_A_DAY, HELPS_S
from dataplane.reasons import L4Class
from tests.simulator import LAB, ORDER_PROCESSING, World
from tests.typed_in import typed
from topologies.topology_file import load

ORDERS, WEB = "10.1.0.11", "10.1.0.12"


def finding(at_s: float, source: str = WEB, cause: Cause = Cause.SCAN, **fields: object) -> Finding:
    value = Finding(
        at_s=at_s, cause=cause, entity=f"sources/{source}" if source else "intents/order-processing",
        detectors=("scan",), p=1e-6, reasons=(Reason(feature="new_ports", observed=400, usual=2),),
        windows=((at_s - 1, at_s),), owners=("networks/shop/customer-x",), source=source, node="se1",
        text=f"{source} tries many ports",
    )  # fmt: skip
    return msgspec.structs.replace(value, **fields)


@pytest.fixture
def world() -> World:
    world = World(topology=typed(load(LAB)))
    world.start()
    world.apply("shop", ORDER_PROCESSING)
    world.run(2.0)
    return world


def tell(world: World, *findings: Finding) -> None:
    shop = world.controllers["shop"]
    shop.event(Found(findings=findings), shop.life)


def see(world: World, *sources: str, seconds: int = 2, **fields: object) -> None:
    """The same of each of these, second by second."""
    for _ in range(seconds):
        world.run(1.0)
        tell(world, *(finding(world.now_s, source, **fields) for source in sources))


def shown(world: World) -> list[Resource]:
    return world.resources("shop", "incidents")


def phases(world: World) -> list[str]:
    return [str(incident.status["phase"]) for incident in shown(world)]


def story(world: World, place: int = -1) -> list[str]:
    return [f"{moment['what']}: {moment['text']}" for moment in shown(world)[place].status["timeline"]]


def decide(world: World, name: str = "1", approved: bool = True) -> Reply:
    reply = world._ask("shop", lambda request: Decide(request_id=request, name=name, approved=approved))
    assert reply is not None
    return reply


def permitted(world: World) -> set[tuple[str, str]]:
    """Which hosts of shop may open a connection to which addresses, by what the intents mean."""
    state = world.controllers["shop"].state
    in_force = [record.intent for record in state.intent_records.values() if not expired(record)]
    meaning = Meaning(in_force, state.inventory)
    hosts = [
        (network.name, address)
        for network in state.inventory.networks.values()
        if network.name.startswith("shop/")
        for host in network.attachments
        for address in host.addresses
    ]
    targets = [*{address for _, address in hosts}, "10.2.0.10", "2001:db8:2::10"]
    return {
        (f"{network} {source}", target)
        for (network, source), target in itertools.product(hosts, targets)
        if ipaddress.ip_address(source).version == ipaddress.ip_address(target).version and source != target
        and meaning.of(
            Packet(network=network, source=source, destination=target, l4_class=L4Class.TCP_OPEN,
                   source_port=4000, destination_port=443)
        ).allowed
    }  # fmt: skip


def test_one_window_is_no_incident_and_many_findings_are_one(world: World) -> None:
    tell(world, *[finding(world.now_s)] * 20)
    assert shown(world) == []
    world.run(15.0)  # forgotten
    see(world, WEB, seconds=1)
    assert shown(world) == []
    see(world, WEB, seconds=30)
    [incident] = shown(world)
    assert (incident.status["phase"], incident.status["count"], incident.spec["about"]) == (
        "Proposed", 31, f"sources/{WEB}",
    )  # fmt: skip
    assert len(world.resources("shop", "findings")) == 51
    assert story(world)[:2] == [
        f"seen: {WEB} tries many ports",
        f"decided: proposed: quarantine-1, for {QUARANTINE_S} s; `stitch incident approve 1`",
    ]


def test_what_is_approved_isolates_the_source_for_a_time_and_permits_nothing(world: World) -> None:
    world.delete("shop", "order-processing")  # of whom cx2 could reach nobody anyway
    world.run(2.0)
    before = permitted(world)
    see(world, WEB)
    assert permitted(world) == before, "to propose is to do nothing"
    assert decide(world).results[0] == "intents/quarantine-1 created"
    after = permitted(world)
    assert after < before
    assert {pair for pair in before - after if WEB not in "".join(pair) and "::12" not in "".join(pair)} == set()
    assert not any(source.endswith((WEB, "::12")) for source, _ in after)
    world.run(5.0)
    assert world.phase("shop", "quarantine-1") == "Active"
    world.run(QUIET_S + 5)
    assert phases(world) == ["Closed"]
    assert story(world)[-1] == f"helped: nothing was seen for {QUIET_S:g} s, since it was acted upon"
    world.run(QUARANTINE_S)
    assert permitted(world) == before
    assert world.phase("shop", "quarantine-1") == "Expired"


def test_what_contradicts_another_tenants_intent_does_not_happen(world: World) -> None:
    others = ORDER_PROCESSING.replace("name: order-processing, tenant: customer-x", "name: others, tenant: customer-z")
    world.delete("shop", "order-processing")
    answer = world.apply("shop", others)
    assert answer is not None and answer.results
    world.run(2.0)
    before = permitted(world)
    see(world, ORDERS)
    refused = decide(world)
    assert not refused.results and "intent others" in refused.conflict
    assert permitted(world) == before
    assert phases(world) == ["Proposed"]
    assert "refused" in story(world)[-1]


def test_what_does_not_help_is_undone(world: World) -> None:
    before = permitted(world)
    see(world, WEB)
    decide(world)
    see(world, WEB, seconds=int(HELPS_S) + 2)
    world.run(2.0)
    assert permitted(world) == before
    assert phases(world) == ["Open"]
    assert "helped: it did not help (it is seen on): intents/quarantine-1 is undone" in story(world)
    assert "what was tried did not help" in decide(world).conflict


def test_what_is_rejected_is_left_alone_and_told_of_no_more(world: World) -> None:
    see(world, WEB)
    assert decide(world, approved=False).results == ("incidents/1 rejected",)
    see(world, WEB, seconds=5)
    assert phases(world) == ["Rejected"]
    assert shown(world)[0].status["count"] == 7


def test_an_incident_is_closed_when_it_is_quiet_and_opened_again_when_it_comes_back_soon(world: World) -> None:
    see(world, WEB)
    world.run(QUIET_S + 3)
    assert phases(world) == ["Closed"]
    see(world, WEB, seconds=1)
    assert phases(world) == ["Proposed"] and story(world)[-2].startswith("seen: again: ")
    world.run(QUIET_S + COOL_DOWN_S + 5)
    see(world, WEB)
    assert [incident.metadata["name"] for incident in shown(world)] == ["1", "2"]


def test_a_restart_keeps_open_incidents_and_what_they_propose(world: World) -> None:
    see(world, WEB)
    before = shown(world)
    shop = world.controllers["shop"]
    shop.crash()
    shop.start()
    world.run(2.0)
    assert shown(world) == before
    assert decide(world).results


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"cause": Cause.LOSS, "source": ""}, "which link of the path it is"),
        ({"source": "10.9.9.9"}, "10.9.9.9 is no host of shop"),
        ({"owners": ("agreements/x",), "source": ORDERS}, "which one it was is not known"),
        ({"owners": ("intents/order-processing",), "source": ORDERS}, ""),
        ({"owners": ("networks/shop/customer-z",), "source": ORDERS}, ""),
    ],
)
def test_what_cannot_be_mended_safely_is_not_proposed(world: World, fields: dict[str, object], why: str) -> None:
    see(world, str(fields.get("source", WEB)), **{name: value for name, value in fields.items() if name != "source"})
    [incident] = shown(world)
    assert (why in incident.status.get("impossible", "")) and ("proposal" in incident.status) == (not why)
    if why:
        assert why in decide(world).conflict
    else:
        networks = {("networks/shop/customer-z",): "shop/customer-z"}
        expected = networks.get(tuple(incident.spec["owners"]), "shop/customer-x")
        assert incident.status["proposal"]["spec"]["isolate"]["network"] == expected


def test_neither_a_baseline_that_has_not_seen_enough_nor_a_model_alone_opens_an_incident_and_both_are_told(
    world: World,
) -> None:
    see(world, WEB, seconds=20, cold=True)
    see(world, WEB, seconds=20, cause=Cause.UNUSUAL)
    assert shown(world) == []
    colds = sorted(finding.spec.get("cold", False) for finding in world.resources("shop", "findings"))
    assert colds == [False] * 20 + [True] * 20


def test_what_begins_as_more_traffic_and_turns_out_to_be_a_scan_is_one_and_is_proposed_to_be_mended(
    world: World,
) -> None:
    see(world, WEB, cause=Cause.VOLUME_SHIFT)
    assert phases(world) == ["Open"]
    see(world, WEB, seconds=1)
    [incident] = shown(world)
    assert (incident.spec["cause"], incident.status["phase"]) == ("scan", "Proposed")
    see(world, WEB, seconds=1, cause=Cause.VOLUME_SHIFT)
    assert shown(world)[0].spec["cause"] == "scan"
    assert decide(world).results


def test_a_storm_is_bounded(world: World) -> None:
    many = [f"10.{n // 65536 + 9}.{n // 256 % 256}.{n % 256}" for n in range(3 * SUSPICIONS_MAX)]
    see(world, *many[:FINDINGS_MAX], *many, seconds=3, owners=())
    for first in range(0, len(many), FINDINGS_MAX):
        see(world, *many[first : first + FINDINGS_MAX], seconds=2, owners=())
    state = world.controllers["shop"].state
    assert len(shown(world)) == OPEN_MAX
    assert len(state.findings) == FINDINGS_MAX and len(state.suspicions) <= SUSPICIONS_MAX
    assert state.findings_beyond > 0
    see(world, WEB, seconds=2 * TIMELINE_MAX)
    assert all(len(incident.timeline) <= TIMELINE_MAX for incident in state.incidents.values())


def test_who_raises_more_incidents_than_its_budget_is_not_acted_upon(world: World) -> None:
    see(world, *(f"10.1.0.{30 + n}" for n in range(BUDGET_A_DAY)), WEB)
    last = shown(world)[-1]
    assert f"networks/shop/customer-x has opened {BUDGET_A_DAY} incidents within a day" in last.status["impossible"]
    assert last.status["budget"] == {"networks/shop/customer-x": f"{BUDGET_A_DAY + 1} of {BUDGET_A_DAY} in a day"}


def test_actions_have_a_budget_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remediation, "ACTIONS_A_MINUTE", 0)
    see(world, WEB)
    assert "within the last minute" in decide(world).conflict
    assert ACTIONS_A_MINUTE > 0
    assert decide(world, "77").missing == (0,)


def test_something_else_by_the_same_source_soon_after_is_an_incident_of_its_own(world: World) -> None:
    see(world, WEB)
    world.run(QUIET_S + 3)
    assert phases(world) == ["Closed"]
    see(world, WEB, cause=Cause.EXFILTRATION)
    assert [incident.spec["cause"] for incident in shown(world)] == ["scan", "exfiltration"]
