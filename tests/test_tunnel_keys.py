"""Keys of tunnels are renewed between domains, whatever gets lost: in the simulator."""

from typing import Any

import msgspec
import pytest
from simulator import ORDER_PROCESSING, Faults, World

from controller import reconcile
from controller.fulfillment.negotiate import sealed
from controller.model.agreement import CAPABILITIES, RENEWS, RenewedKeys
from controller.model.tunnel_keys import BorderKeys
from controller.reconcile.state import INVENTORY_TABLES, RECORDS

BORDERS = ("sg1-t1", "t2-ig1")
"""Which the intent crosses."""


def world(seed: int = 0, faults: Faults | None = None, renew_s: int = 60) -> World:
    made = World(seed, faults)
    made.greets = True
    for node in made.nodes.values():
        node.renews = True
    for controller in made.controllers.values():
        controller.policy = msgspec.structs.replace(controller.policy, renew_keys_s=renew_s)
    made.start()
    assert made.apply("shop", ORDER_PROCESSING).results
    made.run(10.0)
    return made


def keys(made: World, border: str) -> list[BorderKeys]:
    """Of both sides."""
    return [
        held
        for controller in made.controllers.values()
        if (held := controller.state.tunnel_keys.get(border)) is not None
    ]


def used(made: World) -> list[str]:
    """Borders whose tunnels are there."""
    return sorted({tunnel.border for node in made.nodes.values() for tunnel in node.host.tunnels})


def epochs(made: World, border: str) -> list[int]:
    """That both sides have in use."""
    return [held.in_use.number if held.in_use is not None else 0 for held in keys(made, border)]


def agree(made: World, border: str) -> bool:
    """Both nodes have one device, with each other's keys, and send by it."""
    ends = [made.nodes[name] for name in border.split("-")]
    tunnels = [[tunnel for tunnel in end.host.tunnels if tunnel.border == border] for end in ends]
    told = [[keys for (name, _), keys in end.renewed.items() if name == border] for end in ends]
    if any(len(each) != 1 for each in (*tunnels, *told)):
        return False
    ((ours,), (theirs,)), ((a,), (b,)) = tunnels, told
    return (
        (ours.peer_public_key, theirs.peer_public_key) == (b.public_key, a.public_key)
        and ours.epoch == theirs.epoch == a.epoch == b.epoch
        and a.sends
        and b.sends
    )


def between_renewals(made: World) -> None:
    """Runs on to where no border is in the middle of one."""
    for _ in range(200):
        if all(agree(made, border) and len({*epochs(made, border)}) == 1 for border in BORDERS):
            return
        made.run(0.1)
    raise AssertionError([epochs(made, border) for border in BORDERS])


def test_keys_are_renewed_as_soon_as_a_tunnel_is_there() -> None:
    made = world(renew_s=86400)
    assert used(made) == sorted(BORDERS)
    for border in BORDERS:
        assert epochs(made, border) == [1, 1]
        assert agree(made, border)
    made.run(60.0)
    for border in BORDERS:
        assert epochs(made, border) == [1, 1]


def test_keys_are_renewed_again_and_again_and_what_they_say_is_signed() -> None:
    made = world(renew_s=30)
    made.run(200.0)
    between_renewals(made)
    assert min(epochs(made, border)[0] for border in BORDERS) >= 5
    assert made.phase("shop", "order-processing") == "Active"
    said = made.heard("renewed_keys")
    assert all(message.signature for message in said)
    assert len(said) <= 8 * 2 * 10


def test_the_older_keys_stay_until_both_send_by_the_new_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    made = world(renew_s=30)
    gateway = made.nodes["t1"]
    monkeypatch.setattr(type(gateway), "shake_hands", lambda *_: None)
    made.run(40.0)
    assert {tunnel.epoch for tunnel in gateway.host.tunnels if tunnel.border == "sg1-t1"} == {1, 2}
    monkeypatch.undo()
    made.run(80.0)
    between_renewals(made)
    assert epochs(made, "sg1-t1")[0] > 1


@pytest.mark.parametrize("seed", range(3))
def test_messages_that_are_lost_doubled_and_late_change_nothing(seed: int) -> None:
    made = world(seed, Faults(loss=0.3, duplication=0.2, delay_s=(0.001, 2.0)), renew_s=20)
    made.run(120.0)
    made.faults = Faults()
    for controller in made.controllers.values():
        controller.policy = msgspec.structs.replace(controller.policy, renew_keys_s=86400)
        controller.state = msgspec.structs.replace(controller.state, policy=controller.policy)
    made.run(150.0)
    for border in BORDERS:
        first, second = epochs(made, border)
        assert first == second > 1, border
        assert agree(made, border), border


@pytest.mark.parametrize("domain", ["shop", "transit", "insight"])
def test_a_controller_that_starts_again_goes_on(domain: str) -> None:
    made = world(renew_s=15)
    for _ in range(5):
        made.controllers[domain].crash()
        made.run(1.7)
        made.controllers[domain].start()
        made.run(4.1)
    made.run(60.0)
    between_renewals(made)
    assert min(epochs(made, border)[0] for border in BORDERS) > 2


@pytest.mark.parametrize("node", ["sg1", "t1"])
def test_a_node_that_has_lost_renewed_keys_gets_new_ones(node: str) -> None:
    made = world(renew_s=86400)
    made.nodes[node].lose_renewed_keys()
    made.says(node)
    made.run(20.0)
    first, second = epochs(made, "sg1-t1")
    assert first == second > 1
    assert agree(made, "sg1-t1")


@pytest.mark.parametrize("domain", ["shop", "transit", "insight"])
def test_a_domain_that_has_lost_its_store_renews(domain: str) -> None:
    made = world(renew_s=86400)
    controller = made.controllers[domain]
    for record in [record for record in controller.disk if record[0] == "TunnelKeys"]:
        del controller.disk[record]
    controller.crash()
    controller.start()
    made.run(30.0)
    for border in BORDERS:
        first, second = epochs(made, border)
        assert first == second >= 1
        assert agree(made, border), border


@pytest.mark.parametrize("domain", ["shop", "transit", "insight"])
def test_a_controller_that_begins_again_goes_on_with_the_keys_that_are_in_use(domain: str) -> None:
    made = world(renew_s=86400)
    before = {border: epochs(made, border) for border in BORDERS}
    tunnels = {name: node.host.tunnels for name, node in made.nodes.items()}
    writes = {name: node.writes for name, node in made.nodes.items()}
    controller = made.controllers[domain]
    stored = {table: _table(controller.state, table) for table, _ in RECORDS.values()}
    controller.crash()
    controller.state, _ = reconcile.initial(controller.disk.values(), domain, controller.policy)
    stored["counters"]["start"] += 1
    assert {table: _table(controller.state, table) for table, _ in RECORDS.values()} == stored
    controller.start()
    made.run(30.0)
    assert {border: epochs(made, border) for border in BORDERS} == before
    assert {name: node.host.tunnels for name, node in made.nodes.items()} == tunnels
    assert {name: node.writes for name, node in made.nodes.items()} == writes


def _table(state: reconcile.State, name: str) -> dict[str, Any]:
    return dict(getattr(state.inventory if name in INVENTORY_TABLES else state, name))


def test_a_release_that_cannot_renew_keeps_the_keys_of_agreements() -> None:
    made = World()
    made.greets = True
    made.capabilities["transit"] = tuple(name for name in CAPABILITIES if name != RENEWS)
    for node in made.nodes.values():
        node.renews = True
    made.start()
    made.apply("shop", ORDER_PROCESSING)
    made.run(20.0)
    assert made.heard("renewed_keys") == []
    assert {tunnel.epoch for node in made.nodes.values() for tunnel in node.host.tunnels} == {0}
    assert made.phase("shop", "order-processing") == "Active"


def lie(made: World, **fields: object) -> str:
    """What transit says to shop of their border; why shop takes nothing of it."""
    shop, transit = made.controllers["shop"], made.controllers["transit"]
    (held,) = [held for held in (shop.state.tunnel_keys.get("sg1-t1"),) if held is not None]
    assert held.in_use is not None and held.in_use.theirs is not None
    usual = {
        "border": "sg1-t1",
        "epoch": held.in_use.number + 1,
        "public_key": held.in_use.theirs.public_key,
        "endpoint": held.in_use.theirs.endpoint,
        "kem_ciphertext": b"x",
        "issued_s": int(made.now_s),
    }
    shop.logs.clear()
    message = RenewedKeys(**(usual | fields))  # type: ignore[arg-type]
    made.deliver(sealed(message, transit.keys), "transit", "shop")
    return "; ".join(log.fields.get("reason", "") for log in shop.logs if log.event == "peer_violation")


def test_what_a_neighbour_cannot_say_counts_for_nothing() -> None:
    made = world(renew_s=86400)
    before = made.controllers["shop"].state.tunnel_keys
    assert before is not None
    own = next(iter(made.controllers["shop"].state.fabric.border_ports.values()))
    for fields, reason in (
        ({"border": "se-sa"}, "there is no border se-sa with transit"),
        ({"kem_ciphertext": b""}, "without the ML-KEM exchange"),
        ({"public_key": "short"}, "malformed"),
        ({"public_key": "A" * 43 + "="}, "low order"),
        ({"endpoint": "203.0.113.9:1"}, "not on the border's link"),
        ({"public_key": own.public_key}, "own"),
    ):
        assert reason in lie(made, **fields), fields
    assert made.controllers["shop"].state.tunnel_keys == before
    made.run(10.0)
    assert agree(made, "sg1-t1")


def test_an_epoch_that_nobody_began_is_followed_by_one_behind_it() -> None:
    made = world(renew_s=86400)
    assert lie(made, epoch=1000) == ""
    made.run(30.0)
    first, second = epochs(made, "sg1-t1")
    assert first == second > 1000
    assert agree(made, "sg1-t1")


def post_quantum(made: World) -> str:
    """As it is written in what the lab's own intent says."""
    text = ORDER_PROCESSING.replace("encryption: wireguard,", "encryption: wireguard-pq,")
    assert text != ORDER_PROCESSING
    return text


def open_before_keys(made: World) -> list[str]:
    """Intents that are in use where a tunnel on their way has no post-quantum keys."""
    found = []
    for controller in made.controllers.values():
        for stitch in controller.state.stitches.values():
            egress = stitch.plan.egress
            if stitch.plan.connection.encryption != "wireguard-pq" or egress is None or stitch.stage != "active":
                continue
            tunnels = [t for t in made.nodes[egress.node].host.tunnels if t.border == egress.border]
            if not any(tunnel.epoch for tunnel in tunnels):
                found.append(stitch.plan.name)
    return found


def test_what_needs_post_quantum_keys_waits_for_them_on_each_border() -> None:
    made = World()
    made.greets = True
    for node in made.nodes.values():
        node.renews = True
    made.start()
    assert made.apply("shop", post_quantum(made)).results
    for _ in range(200):
        made.run(0.05)
        assert not open_before_keys(made)
    assert made.phase("shop", "order-processing") == "Active"
    for offer in made.heard("offer"):
        said = msgspec.json.decode(offer.payload)
        assert said["encryption"] == "wireguard-pq" and said["needs"] == [RENEWS]
    for border in BORDERS:
        assert epochs(made, border) == [1, 1]


@pytest.mark.parametrize("domain", ["transit", "insight"])
def test_a_neighbour_that_cannot_is_refused_by_who_needs_post_quantum_keys(domain: str) -> None:
    made = World()
    made.greets = True
    made.capabilities[domain] = tuple(name for name in CAPABILITIES if name != RENEWS)
    for node in made.nodes.values():
        node.renews = True
    made.start()
    made.apply("shop", post_quantum(made))
    made.run(20.0)
    assert made.phase("shop", "order-processing") != "Active"
    assert "encryption" in str(made.get("shop", "intents", "order-processing").status)
    assert not [border for border in used(made) if border in BORDERS]


def test_what_needs_post_quantum_keys_ends_with_them_and_comes_back() -> None:
    made = world(renew_s=86400)
    made.delete("shop", "order-processing")
    made.run(5.0)
    made.apply("shop", post_quantum(made))
    made.run(10.0)
    assert made.phase("shop", "order-processing") == "Active"
    for node in ("sg1", "t1"):
        made.nodes[node].lose_renewed_keys()
    made.says("sg1")
    for _ in range(600):
        made.run(0.05)
        assert not open_before_keys(made)
    assert made.phase("shop", "order-processing") == "Active"
    assert epochs(made, "sg1-t1")[0] > 1
