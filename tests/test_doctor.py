"""Doctor has a row for everything that keeps an intent from Active, and says what is known only."""

import datetime
from pathlib import Path

import pytest
from msgspec.structs import replace

from controller import machine
from controller.eastwest import identity
from controller.language.policy import parse_policy
from controller.model.event import NodeDescribed, NodeUnreachable
from controller.model.telemetry import Check
from controller.views import doctor
from tests.simulator import ORDER_PROCESSING, World
from topologies import domain_files


@pytest.fixture
def world() -> World:
    world = World()
    world.start()
    world.apply("shop", ORDER_PROCESSING)
    world.run(20.0)
    assert not wrong(world)
    return world


def rows(world: World, domain: str = "shop") -> list[Check]:
    now_s = world.now_s
    nodes = dict(world.controllers[domain].state.nodes)
    for name, standing in nodes.items():  # simulated tunnels never shake hands
        if standing.description is not None:
            borders = tuple(
                replace(border, up=True, latest_handshake_s=now_s - 10) for border in standing.description.borders
            )
            nodes[name] = replace(standing, description=replace(standing.description, borders=borders))
    return list(doctor.checks(replace(world.controllers[domain].state, nodes=nodes), now_s))


def wrong(world: World, domain: str = "shop") -> dict[tuple[str, str], Check]:
    checks_failed = {(row.subject, row.name): row for row in rows(world, domain) if not row.ok}
    assert all(check.detail and check.advice for check in checks_failed.values()), checks_failed
    return checks_failed


def test_all_is_well_where_all_is_well(world: World) -> None:
    for domain in world.controllers:
        assert not wrong(world, domain), domain
    assert ("intents", "Active", "1 of 1") in [(row.subject, row.name, row.detail) for row in rows(world)]


def test_what_tables_take_of_a_nodes_memory_has_a_row(world: World) -> None:
    controller = world.controllers["shop"]
    nodes = {
        name: replace(standing, description=replace(standing.description, maps_bytes=29 << 20))
        for name, standing in controller.state.nodes.items()
        if standing.description is not None
    }
    details = {
        check.detail
        for check in doctor.checks(replace(controller.state, nodes=nodes), world.now_s)
        if check.name == "memory"
    }
    assert details == {"29 MiB for tables, flow cache and counters"}


def test_a_node_that_has_borders_and_no_wireguard_has_a_row(world: World) -> None:
    """Before anything needs a tunnel."""
    controller = world.controllers["shop"]
    nodes = {
        name: replace(standing, description=replace(standing.description, wireguard="none"))
        for name, standing in controller.state.nodes.items()
        if standing.description is not None
    }
    failed = {
        (check.subject, check.name): check
        for check in doctor.checks(replace(controller.state, nodes=nodes), world.now_s)
    }
    assert "install wireguard-go on sg1" in failed["nodes/sg1", "wireguard"].advice
    assert ("nodes/se1", "wireguard") not in failed, "it has no border"


def test_a_cut_border_and_the_intents_that_it_keeps_from_active_have_rows(world: World) -> None:
    world.set_carrier("sg1-t1", False)
    world.run(20.0)
    failed = wrong(world)
    assert failed["links/sg1-t1", "in use"].detail.startswith("no carrier at sg1 border sg1-t1")
    assert ("nodes/sg1", "border sg1-t1") in failed
    phase = world.phase("shop", "order-processing")
    assert phase != "Active" and ("intents/order-processing", phase) in failed


def test_of_a_node_that_is_away_nothing_is_said_to_be_well(world: World) -> None:
    world.nodes["sg1"].up = False
    world.run(5.0)
    assert not [row for row in rows(world) if row.ok and ("nodes/sg1" in row.subject or "tunnels/sg1" in row.subject)]
    assert world.get("shop", "links", "sg1-t1").status["phase"] == "Active", "the node has confirmed it"
    failed = wrong(world)
    assert "in force" in failed["nodes/sg1", "in sync"].detail
    assert ("intents/order-processing", "NodeUnreachable") in failed


def test_a_port_without_a_carrier_and_one_that_is_missing_have_rows(world: World) -> None:
    state = world.controllers["shop"].state
    standing = state.nodes["se1"]
    assert standing.description is not None
    first, *others = standing.description.ports
    ports = tuple(replace(port, carrier=False) for port in others)
    changed = replace(standing, description=replace(standing.description, ports=ports))
    state = replace(state, nodes={**state.nodes, "se1": changed})
    failed = {(check.subject, check.name): check for check in doctor.checks(state, world.now_s) if not check.ok}
    assert "the node has no such port" in failed["nodes/se1", f"port {first.number}"].detail
    assert any("no carrier, and networks/shop/customer-x needs it" in check.detail for check in failed.values())


def test_a_border_whose_tunnel_loses_packets_has_a_row(world: World) -> None:
    state = world.controllers["shop"].state
    standing = state.nodes["sg1"]
    assert standing.description is not None
    fault = "the tunnel sg1-t1 loses packets all the time: see `stitch get drops`"
    borders = tuple(replace(border, faults=(fault,)) for border in standing.description.borders)
    changed = replace(standing, description=replace(standing.description, borders=borders))
    state = replace(state, nodes={**state.nodes, "sg1": changed})
    failed = {(check.subject, check.name): check for check in doctor.checks(state, world.now_s) if not check.ok}
    row = failed["nodes/sg1", "border sg1-t1"]
    assert (row.detail, row.advice) == tuple(fault.split(": "))


@pytest.mark.parametrize("age_s", [0.0, 1000.0])
def test_a_tunnel_without_a_recent_handshake_names_what_uses_it(world: World, age_s: float) -> None:
    state = world.controllers["shop"].state
    standing = state.nodes["sg1"]
    assert standing.description is not None
    shaken_s = world.now_s - age_s if age_s else 0.0
    borders = tuple(replace(border, up=True, latest_handshake_s=shaken_s) for border in standing.description.borders)
    changed = replace(standing, description=replace(standing.description, borders=borders))
    state = replace(state, nodes={**state.nodes, "sg1": changed})
    failed = {check.subject: check for check in doctor.checks(state, world.now_s) if not check.ok}
    row = failed["tunnels/sg1/sg1-t1"]
    assert ("1000 s ago" if age_s else "no handshake yet") in row.detail
    assert "used by shop:order-processing:" in row.detail


def test_a_refused_state_a_refusing_neighbour_and_waiting_agreements_have_rows(world: World) -> None:
    state = world.controllers["shop"].state
    refused = replace(state, nodes={**state.nodes, "se1": replace(state.nodes["se1"], rejected="table is full")})
    failed = {(check.subject, check.name): check for check in doctor.checks(refused, world.now_s) if not check.ok}
    assert failed["nodes/se1", "in sync"].detail == "refused: table is full"
    assert ("intents/order-processing", "Installing") in failed
    waiting = World()
    waiting.start()
    waiting.nodes["ie1"].up = False
    waiting.run(5.0)
    waiting.apply("shop", ORDER_PROCESSING)
    waiting.run(60.0)
    assert ("intents/order-processing", "Negotiating") in wrong(waiting)
    (row,) = (check for (subject, _), check in wrong(waiting, "transit").items() if subject.startswith("agreements/"))
    assert "waits for the answer of insight" in row.detail
    (row,) = (check for (subject, _), check in wrong(waiting, "insight").items() if subject.startswith("agreements/"))
    assert "waits for nodes" in row.detail and "ie1" in row.detail


def test_an_agreement_that_is_not_renewed_has_a_row(world: World) -> None:
    transit = world.controllers["transit"]
    policy = domain_files.policy(world.topology.domain("transit")).replace("from: shop", "from: nobody")
    transit.policy = parse_policy(policy, "transit.yaml")
    transit.crash()
    transit.start()
    world.run(2000.0)
    kinds = {name for subject, name in wrong(world) if subject == "intents/order-processing"}
    assert kinds & {"RenewalRefused", "Refused", "Unsatisfiable"}, wrong(world)


def test_an_intent_whose_tunnel_is_dead_is_not_active_and_says_why(world: World) -> None:
    node = world.nodes["sg1"]
    shop = world.controllers["shop"]

    def told(shaken_s: float) -> tuple[str, str]:
        node.shaken_s = shaken_s
        shop.event(NodeDescribed(node="sg1", description=node.describe()), shop.life)
        status = world.get("shop", "intents", "order-processing").status
        return str(status["phase"]), " ".join(condition["reason"] for condition in status["conditions"])

    phase, reason = told(world.now_s - 250)
    assert phase == "Pending" and "the tunnel of sg1 to transit (sg1-t1) carries nothing" in reason, reason
    assert "250 s ago" in reason
    assert told(world.now_s - 190)[0] == "Active"
    phase, reason = told(0.0)
    assert phase == "Installing" and "has not shaken hands yet" in reason
    told(world.now_s - 250)
    shop.event(NodeUnreachable(node="sg1", reason="gone"), shop.life)
    assert world.phase("shop", "order-processing") == "Active", "of a gateway that cannot be asked nothing new is known"


# ---- the machine


def test_a_full_disk_has_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "shop.db"
    store.write_bytes(bytes(3_000_000))
    (row, *_) = machine.disks(store)
    assert "3.0 MB" in row.detail and "free of" in row.detail
    monkeypatch.setattr(machine, "FREE_BYTES_MIN", 1 << 60)
    (row, *_) = machine.disks(store)
    assert not row.ok and str(tmp_path) in row.advice
    (row, *_) = machine.disks(tmp_path / "no" / "where" / "shop.db")
    assert not row.ok


def test_clocks_that_differ_have_rows() -> None:
    far, near = machine.skews("nodes", {"near": 0.3, "far": -7.5})
    assert near.ok and not far.ok and far.detail == "7.5 s behind ours" and "NTP" in far.advice
    alone, among_others = machine.clock(alone=True), machine.clock(alone=False)
    assert alone.ok and alone.detail == among_others.detail
    assert among_others.ok == (among_others.detail == "synchronised")


def test_certificates_that_end_soon_or_cannot_be_read_have_rows(tmp_path: Path) -> None:
    ours = identity.keygen("shop", tmp_path)
    pem = ours.root_certificate.encode()
    now_s = datetime.datetime.now(datetime.UTC).timestamp()
    (row,) = machine.certificates({"domains/shop": pem}, now_s)
    assert row.ok and row.detail.startswith("until ")
    (row,) = machine.certificates({"domains/shop": pem}, now_s + 7290 * 86400)
    assert not row.ok and "days from now" in row.detail
    (row,) = machine.certificates({"api": b"nonsense"}, now_s)
    assert not row.ok and "cannot be read" in row.detail
