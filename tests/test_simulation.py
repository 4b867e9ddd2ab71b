"""The whole controller, three domains of it, under a virtual clock with faults. A failure names its seed.

NETSTITCH_SIMULATION_SEEDS says how many there are (12).
"""

import ipaddress
import os

import pytest

from controller.model.dscp import CODE_POINTS
from controller.model.stitch import Stage
from controller.model.told import Told
from tests.offers import refused
from tests.simulator import ORDER_PROCESSING, Faults, World

SEEDS = int(os.environ.get("NETSTITCH_SIMULATION_SEEDS", "12"))
MESSY = Faults(loss=0.3, duplication=0.3, delay_s=(0.001, 2.0))

WEB = """
apiVersion: netstitch/v1
kind: Intent
metadata: {name: web, tenant: customer-x}
spec:
  allow: [{from: {network: shop/customer-x, select: {app: web}}, to: insight/analytics/analytics-y, ports: [icmp]}]
"""
ARCHIVE = """
apiVersion: netstitch/v1
kind: Intent
metadata: {name: archive, tenant: customer-x}
spec:
  allow: [{from: {network: shop/customer-x, select: {app: web}}, to: insight/archive/archive-z}]
  require: {latency_ms: {max: 20}}
"""


def test_order_processing_becomes_active_over_transit_in_three_domains() -> None:
    world = World()
    world.start()
    reply = world.apply("shop", ORDER_PROCESSING)
    assert reply is not None and reply.results == ("intents/order-processing created",)
    world.run(0.2)
    status = world.get("shop", "intents", "order-processing").status
    assert status["phase"] == "Active"
    assert status["path"] == ["se1", "sg1", "transit", "insight"]
    assert status["predicted"] == {"latency_ms": 4.0, "cost": 50}
    (stitch,) = world.controllers["transit"].state.stitches.values()
    (id,) = stitch.plan.sr_policies
    policy = world.controllers["transit"].state.sr_policies[id.name]
    assert [path.nodes for path in policy.candidate_paths] == [("t1", "tc1", "t2"), ("t1", "tc2", "t2")]
    assert [path.preference for path in policy.candidate_paths] == [200, 100]
    world.check_settled()


def check_agreed(world: World) -> None:
    """What is open at a border was signed by both sides, and both have the same terms."""
    for domain, stitch in world.stitches():
        for session in (stitch.upstream, stitch.downstream):
            if session is None or session.agreement is None:
                continue
            theirs = world.controllers[session.peer].state
            name = theirs.agreements.get(session.agreement.terms.id)
            assert name is not None, f"{domain}: {session.peer} does not know {session.agreement.terms.id}"
            other = theirs.stitches[name]
            opposite = other.downstream if not session.offeror else other.upstream
            assert opposite is not None and opposite.agreement == session.agreement


def check_gone(world: World, *names: str) -> None:
    for node, owners in world.owners().items():
        for name in names:
            assert not any(name in owner for owner in owners), f"{node} still has something of {name}: {owners}"
    if not any(stitch for stitch in world.stitches()):
        assert not any(node.host.tunnels for node in world.nodes.values())


def check_border_opens_only_with_agreement(world: World) -> None:
    """At this very moment, on every node: a SID that a neighbour may use is in terms that an acceptor signed, which it
    does only over an offer that the offeror signed."""
    signed = world.accepted_sids()
    for name, node in world.nodes.items():
        for entry in node.entries.values():
            if entry.table == "local_sid" and entry.match[0].value >= 2:
                sid = str(ipaddress.IPv6Address(entry.match[1].value))
                assert sid in signed, f"{name} admits {sid}, which nobody signed"


@pytest.mark.parametrize("seed", range(SEEDS))
def test_faulty_links_and_crashes_delay_but_lose_nothing(seed: int) -> None:
    world = World(seed, MESSY)
    world.start()
    world.run(20.0)
    world.crash_chance = 0.05
    present: dict[str, str] = {}
    texts = {"order-processing": ORDER_PROCESSING, "web": WEB}
    for _ in range(14):
        name = world.random.choice(sorted(texts))
        if name in present and world.random.random() < 0.6:
            reply = world.delete("shop", name)
            if reply is not None and not reply.missing:
                del present[name]
            elif reply is None and world.controllers["shop"].disk.get(("Intent", name)) is None:
                present.pop(name, None)
        else:
            reply = world.apply("shop", texts[name])
            if (reply is not None and reply.results) or ("Intent", name) in world.controllers["shop"].disk:
                present[name] = texts[name]
        if world.random.random() < 0.3:
            node = world.nodes[world.random.choice(sorted(world.nodes))]
            node.up = False
            world.after(world.random.uniform(0.1, 8.0), setattr, node, "up", True)
        for _ in range(20):
            world.run(world.random.uniform(0.0, 0.4))
            check_border_opens_only_with_agreement(world)
    assert world.crashes >= 3
    world.crash_chance = 0.0
    world.faults = Faults()
    world.run(120.0)
    for name in present:
        assert world.phase("shop", name) == "Active", world.get("shop", "intents", name).status
    assert {resource.metadata["name"] for resource in world.resources("shop", "intents")} == set(present)
    world.check_settled()
    check_agreed(world)
    check_gone(world, *(set(texts) - set(present)))

    writes = {name: node.writes for name, node in world.nodes.items()}
    for controller in world.controllers.values():
        controller.crash()
        controller.start()
    world.run(10.0)
    world.check_settled()
    assert {name: node.writes for name, node in world.nodes.items()} == writes, "a restart wrote something"

    for name in present:
        assert world.delete("shop", name) is not None
    world.run(30.0)
    world.check_settled()
    check_gone(world, *texts)
    assert world.stitches() == []


@pytest.mark.parametrize("seed", range(-(-SEEDS * 5 // 12)))
def test_an_acknowledged_intent_survives_a_crash_at_any_moment(seed: int) -> None:
    world = World(seed)
    world.start()
    world.crash_chance = 0.15
    acknowledged = False
    for rounds in range(1000):
        if not acknowledged:
            reply = world.apply("shop", ORDER_PROCESSING)
            acknowledged = reply is not None
        elif rounds >= 40:
            break
        world.run(0.5)
    assert acknowledged and world.crashes >= 5
    world.crash_chance = 0.0
    world.run(60.0)
    assert world.phase("shop", "order-processing") == "Active"
    world.check_settled()


def test_renewal_keeps_an_agreement_alive_and_changes_only_leases() -> None:
    world = World()
    world.start()
    world.apply("shop", ORDER_PROCESSING)
    world.run(2.0)
    before = {name: set(node.entries) for name, node in world.nodes.items()}
    world.run(2 * 3600.0)
    assert world.phase("shop", "order-processing") == "Active"
    assert {name: set(node.entries) for name, node in world.nodes.items()} == before
    (stitch,) = world.controllers["shop"].state.stitches.values()
    assert stitch.downstream is not None and stitch.downstream.terms.revision >= 4
    assert not [log for controller in world.controllers.values() for log in controller.logs if log.level != "info"]
    world.check_settled()
    check_agreed(world)


def test_border_closes_when_renewals_fail_and_opens_when_the_peer_is_back() -> None:
    world = World()
    world.start()
    world.apply("shop", ORDER_PROCESSING)
    world.run(2.0)
    world.partitioned.add(frozenset(("shop", "transit")))
    world.run(4000.0)
    assert world.phase("shop", "order-processing") == "Negotiating"
    assert "transit" in world.get("shop", "intents", "order-processing").status["conditions"][0]["reason"]
    assert not any(node.host.tunnels for node in world.nodes.values())
    world.partitioned.clear()
    world.run(40.0)
    assert world.phase("shop", "order-processing") == "Active"
    world.check_settled()


def test_expired_intent_is_removed_everywhere() -> None:
    world = World()
    world.start()
    world.apply("shop", ORDER_PROCESSING.replace("30d", "90s"))
    world.run(60.0)
    assert world.phase("shop", "order-processing") == "Active"
    world.run(40.0)
    assert world.phase("shop", "order-processing") == "Expired"
    check_gone(world, "order-processing")
    world.check_settled()
    world.apply("shop", ORDER_PROCESSING.replace("30d", "90s"))
    world.run(5.0)
    assert world.phase("shop", "order-processing") == "Active"


def test_withdrawal_while_negotiating_leaves_nothing() -> None:
    world = World(1, Faults(delay_s=(0.5, 0.5)))
    world.start()
    world.run(10.0)
    for wait_s in (0.1, 0.6, 1.1, 1.6, 2.1, 2.6, 3.1):
        world.apply("shop", ORDER_PROCESSING)
        world.run(wait_s)
        world.delete("shop", "order-processing")
        world.run(15.0)
        check_gone(world, "order-processing")
        assert world.stitches() == []
        world.check_settled()


def test_refused_intent_says_who_and_why() -> None:
    world = World()
    world.start()
    world.apply("shop", ARCHIVE)
    world.run(2.0)
    status = world.get("shop", "intents", "archive").status
    assert status["phase"] == "Refused"
    assert status["conditions"][0]["reason"].startswith(
        f"insight/archive: refused by transit: insight: {Told.POLICY}; other ways: "
    )
    assert "no rule of insight accepts shop/customer-x" in refused(world, "insight")
    assert world.stitches() == []
    world.check_settled()


def test_unreachable_node_is_named_and_the_intent_converges_when_it_is_back() -> None:
    world = World()
    world.start()
    world.nodes["sg1"].up = False
    world.run(4.0)
    world.apply("shop", ORDER_PROCESSING)
    world.run(5.0)
    status = world.get("shop", "intents", "order-processing").status
    assert status["phase"] == "Installing"
    assert any("node sg1 unreachable: connection" in condition["reason"] for condition in status["conditions"])
    assert any("order-processing" in owner for owner in world.owners()["se1"])
    world.nodes["sg1"].up = True
    world.run(5.0)
    assert world.phase("shop", "order-processing") == "Active"
    world.check_settled()


def test_tampering_is_found_repaired_and_named_with_its_intent() -> None:
    world = World()
    world.start()
    world.apply("shop", ORDER_PROCESSING)
    world.run(3.0)
    node = world.nodes["se1"]
    mine = [key for key, entry in node.entries.items() if entry.owner == "intents/order-processing"]
    for key in mine[::3]:
        del node.entries[key]
    world.run(5.0)
    world.check_settled()
    named = [log for log in world.controllers["shop"].logs if log.event == "deviation_repaired"]
    assert len(named) == len(mine[::3])
    assert {log.fields["owner"] for log in named} == {"intents/order-processing"}


def test_changed_intent_is_replaced_make_before_break() -> None:
    world = World()
    world.start()
    world.apply("shop", ORDER_PROCESSING)
    world.run(2.0)
    old = next(iter(world.controllers["shop"].state.stitches))
    world.apply("shop", ORDER_PROCESSING.replace("max: 20", "max: 15"))
    stages = set()
    for _ in range(200):
        world.run(0.001)
        stitches = world.controllers["shop"].state.stitches
        stages.add(tuple(str(stitch.stage) for stitch in stitches.values()))
        assert any(stitch.stage in (Stage.ACTIVE,) for stitch in stitches.values()), "there was a gap"
    assert ("Active", "Negotiating") in stages and ("Active", "Adding") in stages
    world.run(3.0)
    assert world.phase("shop", "order-processing") == "Active"
    (stitch,) = world.controllers["shop"].state.stitches.values()
    assert stitch.plan.name != old and stitch.plan.connection.latency_us_max == 15_000
    world.check_settled()
    check_agreed(world)


def test_applying_the_same_again_changes_nothing() -> None:
    world = World()
    world.start()
    without_end = ORDER_PROCESSING.replace("  lease: {for: 30d}\n", "")
    world.apply("shop", without_end)
    world.run(3.0)
    disk = dict(world.controllers["shop"].disk)
    writes = {name: node.writes for name, node in world.nodes.items()}
    reply = world.apply("shop", without_end)
    assert reply is not None and reply.results == ("intents/order-processing unchanged",)
    world.apply("shop", world.inventories["shop"])
    world.run(3.0)
    assert world.controllers["shop"].disk == disk
    assert {name: node.writes for name, node in world.nodes.items()} == writes


def test_nobody_promises_what_an_unreachable_node_of_its_own_has_not_confirmed() -> None:
    world = World()
    world.start()
    world.nodes["ie1"].up = False
    world.run(5.0)
    world.apply("shop", ORDER_PROCESSING)
    world.run(10.0)
    assert world.phase("shop", "order-processing") == "Negotiating"
    assert not world.nodes["t1"].host.tunnels and not world.nodes["sg1"].host.tunnels
    assert world.get("insight", "nodes", "ie1").status["phase"] == "Unreachable"
    world.nodes["ie1"].up = True
    world.run(5.0)
    assert world.phase("shop", "order-processing") == "Active"
    world.check_settled()


ENTRUSTED = """
apiVersion: netstitch/v1
kind: Rule
metadata: {name: orders-go-first}
spec:
  when: intent.name == "order-processing"
  then: {%s}
  explain: The owner says so.
"""


def marks(world: World) -> dict[str, set[int]]:
    """Code points of the outer headers that each node makes."""
    return {
        name: {dict(entry.params)["dscp"] for entry in node.entries.values() if entry.action == "encapsulate"}
        for name, node in world.nodes.items()
    }


def test_dscp_is_that_of_the_outer_headers_in_every_domain_and_in_both_directions() -> None:
    world = World()
    world.start()
    world.apply("shop", ENTRUSTED % "dscp: EF" + "---\n" + ORDER_PROCESSING)
    world.run(3.0)
    assert world.phase("shop", "order-processing") == "Active"
    marks_by_node = marks(world)
    # forward at se1, sg1, t1, t2 and ig1; what comes back at ie1, ig1, t2, t1 and sg1
    assert {name for name, code_points in marks_by_node.items() if code_points} == {
        "se1",
        "sg1",
        "t1",
        "t2",
        "ig1",
        "ie1",
    }
    assert {mark for code_points in marks_by_node.values() for mark in code_points} == {CODE_POINTS["EF"]}
    ends = [
        dict(entry.params)["sr_policy"]
        for entry in world.nodes["t1"].entries.values()
        if entry.table == "steer" and entry.action == "encapsulate"
    ]
    assert len(ends) == 2  # into the domain and into the tunnel to shop, each with the mark
    world.apply("shop", ENTRUSTED % "dscp: AF41")
    world.run(5.0)
    assert {mark for code_points in marks(world).values() for mark in code_points} == {CODE_POINTS["AF41"]}
    world.check_settled()
    check_agreed(world)


@pytest.mark.parametrize(
    ("domain", "change", "reason"),
    [
        ("transit", "dscp: [AF41]", "transit rule 1 of transit does not honour dscp EF, only AF41"),
        ("insight", "dscp: []", "accept rule 1 of insight does not honour dscp EF, nor any other"),
    ],
)
def test_who_does_not_honour_a_dscp_refuses(domain: str, change: str, reason: str) -> None:
    world = World()
    world.change_policy(domain, "from: shop", f"{change}\n  from: shop")
    world.start()
    world.apply("shop", ENTRUSTED % "dscp: EF" + "---\n" + ORDER_PROCESSING)
    world.run(3.0)
    status = world.get("shop", "intents", "order-processing").status
    assert status["phase"] == "Refused"
    assert Told.POLICY in status["conditions"][0]["reason"]
    assert reason in refused(world, domain)
    assert world.stitches() == []
    world.apply("shop", ENTRUSTED % "dscp: CS0")
    world.run(3.0)
    assert world.phase("shop", "order-processing") == "Active"


WIDE = ORDER_PROCESSING.replace("max: 20", "max: 60").replace(", trust: {min: partner}", "")


def test_ban_of_transit_holds_in_every_domain() -> None:
    world = World()
    world.start()
    world.apply("shop", ENTRUSTED % "forbid: [transit]" + "---\n" + WIDE)
    world.run(3.0)
    status = world.get("shop", "intents", "order-processing").status
    assert (status["phase"], status["path"]) == ("Active", ["se1", "sg1", "insight"])
    assert {name for name, controller in world.controllers.items() if controller.state.stitches} == {"shop", "insight"}
    assert not [message for _, receiver, message in world.wiretap if receiver == "transit"]
    world.check_settled()


def test_what_only_a_third_domain_could_carry_is_unsatisfiable_by_the_rule_that_bans_it() -> None:
    world = World()
    world.start()
    world.apply("shop", WIDE)
    world.run(3.0)
    assert world.get("shop", "intents", "order-processing").status["path"] == ["se1", "sg1", "transit", "insight"]
    assert world.delete("shop", "sg1-ig1", "Link") is not None
    world.apply("shop", ENTRUSTED % "forbid: [transit]")
    world.run(5.0)
    status = world.get("shop", "intents", "order-processing").status
    assert status["phase"] == "Unsatisfiable"
    (reason,) = {condition["reason"] for condition in status["conditions"]}
    assert "transit: no third domain may carry this; the way over sg1-t1 leads through transit" in reason
    assert "(through no third domain is of rule orders-go-first: The owner says so.)" in reason
    assert world.stitches() == []
    assert not any(node.host.tunnels for node in world.nodes.values())


def test_the_destinations_owner_can_forbid_transit() -> None:
    world = World()
    world.change_policy("insight", "from: shop", "direct: true\n  from: shop")
    world.start()
    world.apply("shop", ORDER_PROCESSING)
    world.run(3.0)
    status = world.get("shop", "intents", "order-processing").status
    assert status["phase"] == "Refused"
    assert Told.POLICY in status["conditions"][0]["reason"]
    assert "accept rule 1 of insight takes only what comes straight from shop" in refused(world, "insight")
    assert world.stitches() == []
    world.apply("shop", WIDE)
    world.run(3.0)
    status = world.get("shop", "intents", "order-processing").status
    assert (status["phase"], status["path"]) == ("Active", ["se1", "sg1", "insight"])
    assert {name for name, controller in world.controllers.items() if controller.state.stitches} == {"shop", "insight"}
    world.check_settled()
