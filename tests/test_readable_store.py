"""Whatever neighbours and nodes say: what a controller stores of it is read by its next start, what it says of it
by its neighbours, and what is about one border keeps nobody from another."""

import base64

import pytest
from msgspec.structs import replace
from simulator import ORDER_PROCESSING, SimulatedKeys, SimulatedNode, World

from controller.fulfillment.negotiate import sealed
from controller.model.agreement import Refusal, Unreadable, Withdrawal
from controller.reconcile.transaction import Transaction
from dataplane.host_api import BorderStatus, NodeDescription
from tests.offers import first_offer, mandated, refused, said, signed


def start_again(world: World) -> None:
    for controller in world.controllers.values():
        controller.crash()
        controller.start()


@pytest.mark.parametrize("length", [200, 280, 300])
@pytest.mark.parametrize("away", [False, True])
def test_an_id_as_long_as_any_is_carried_on_with_one_that_is_not_too_long(length: int, away: bool) -> None:
    world = World()
    world.start()
    world.apply("shop", ORDER_PROCESSING)
    world.run(3.0)
    honest = first_offer(world, "shop")
    world.partitioned.add(frozenset(("shop", "transit")))  # the real shop knows nothing of it
    if away:
        world.partitioned.add(frozenset(("transit", "insight")))
    id = f"shop:{'x' * (length - 7)}:9"
    assert len(id) == length
    offer = mandated(replace(honest, id=id), id=id)
    assert world.deliver(signed(offer, "shop"), "shop", "transit") == ""
    world.run(5.0)
    start_again(world)
    world.partitioned.discard(frozenset(("transit", "insight")))
    world.run(20.0)
    assert world.get("transit", "agreements", id).status["standing"] == "Agreed"


def lying(node: SimulatedNode, border_mtu: int, port_mtu: int) -> None:
    honest = node.describe

    def describe() -> NodeDescription:
        said = honest()
        borders = tuple(replace(border, mtu=border_mtu) for border in said.borders)
        return replace(said, borders=borders, ports=tuple(replace(port, mtu=port_mtu) for port in said.ports))

    node.describe = describe  # type: ignore[method-assign]


@pytest.mark.parametrize("node", ["se1", "sg1", "t1", "tc1", "t2", "ig1", "ie1"])
@pytest.mark.parametrize("mtu", [0, 1, 64, 1280, 2**32 - 1])
def test_no_size_that_a_node_says_keeps_a_controller_from_starting(node: str, mtu: int) -> None:
    world = World()
    lying(world.nodes[node], mtu, mtu)
    world.start()
    world.apply("shop", ORDER_PROCESSING)
    world.run(5.0)
    start_again(world)
    world.run(5.0)
    assert world.phase("shop", "order-processing") == "Active", "a tunnel takes IPv6 whatever its underlay does"


def test_a_way_of_as_many_domains_as_there_may_be_is_not_carried_further() -> None:
    world = World()
    world.start()
    world.apply("shop", ORDER_PROCESSING)
    world.run(3.0)
    honest = first_offer(world, "transit")
    for many, full in ((13, False), (14, True)):
        visited = ("shop", "transit") if not full else ("shop", *(f"d{n}" for n in range(many)), "transit")
        offer = mandated(replace(honest, id=f"transit:way:{many}", visited=visited), id=f"shop:way:{many}")
        offer = replace(offer, mandate=mandated(offer, carrier=visited[1]).mandate)
        world.deliver(signed(offer, "transit"), "transit", "insight")
        world.run(3.0)
        assert ("in a circle" in refused(world, "insight")) == full, many


def test_what_could_not_be_read_again_is_not_stored_and_the_event_is_refused() -> None:
    world = World()
    world.start()
    state = world.controllers["shop"].state
    transaction = Transaction(state, world.now_s, world.controllers["shop"].keys)
    domain = state.inventory.domains["transit"]
    transaction.domains.put("transit", replace(domain, endpoint=5))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="record Domain/transit cannot be read"):
        transaction.finish()


def test_what_others_could_not_read_is_not_signed() -> None:
    with pytest.raises(Unreadable, match="revision"):
        sealed(Refusal(id="shop:x:1", revision=-1, reason=""), SimulatedKeys("transit"))


# ---- what a node says of what is not its own


def claiming(node: SimulatedNode, public_key: str = "", endpoint: str = "") -> None:
    honest = node.describe
    border = BorderStatus(
        name="another", port=99, mac="", kernel_mac="", public_key=public_key, endpoint=endpoint, mtu=1500, up=False,
        latest_handshake_s=0.0, received_bytes=0, sent_bytes=0,
    )  # fmt: skip

    def describe() -> NodeDescription:
        said = honest()
        return replace(said, borders=(*said.borders, border))

    node.describe = describe  # type: ignore[method-assign]


INSIGHT = World().nodes["ig1"].describe().borders[0]


@pytest.mark.parametrize(
    ("key", "endpoint"),
    [
        (INSIGHT.public_key, ""),
        (INSIGHT.public_key, "198.51.100.7:1"),
        ("", INSIGHT.endpoint),
        (base64.b64encode(b"\x01" * 32).decode(), "10.1.0.11:1"),
        (base64.b64encode(b"\x01" * 32).decode(), "10.2.0.10:1"),
    ],
)
def test_a_node_that_claims_the_keys_and_addresses_of_others_keeps_nobody_from_anything(
    key: str, endpoint: str
) -> None:
    world = World()
    claiming(world.nodes["tc1"], key, endpoint)
    world.start()
    world.apply("shop", ORDER_PROCESSING)
    world.run(5.0)
    assert world.phase("shop", "order-processing") == "Active"


def test_nobody_else_says_what_our_operator_has_ended() -> None:
    world = World()
    world.start()
    world.apply("shop", ORDER_PROCESSING)
    world.run(3.0)
    id = first_offer(world, "transit").id
    gone = Withdrawal(id=id, reason="", issued_s=1, ended_by="transit", retry_after_s=86400)
    world.deliver(signed(gone, "insight"), "insight", "transit")
    world.run(1.0)
    told = [message for message in said(world, "withdrawal", "transit", "shop") if isinstance(message, Withdrawal)]
    assert [withdrawal.ended_by for withdrawal in told] == ["insight"]
