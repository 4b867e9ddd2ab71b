"""Full tables: who has begun has its room for good, who comes too late is told so, and no controller raises."""

import time
from collections import Counter

import pytest
from msgspec.structs import replace

from controller.fulfillment.realize import Needed
from controller.fulfillment.terms import MAX_ITEMS
from controller.model.agreement import Flow, Terms
from controller.model.intent import Ports
from controller.model.stitch import Stage
from controller.model.told import Told
from controller.reconcile.state import State
from tests.offers import asked_for, first_offer, mandated, refused, signed
from tests.simulator import SIZES, Faults, World

ANALYTICS_ONLY = """accept:
- from: shop
  source: shop/customer-x
  to: insight/analytics/*
  ports:
  - tcp/443
  - icmp
  encryption: wireguard
"""
ALL_FOR_ONE = "neighbour: {max_share: 100}\n"
EVERYTHING = "accept:\n- {from: '*', source: '*', to: '*'}\n"


def intent(name: str, *ports: str, to: str = "insight/analytics") -> str:
    """Only transit may carry it."""
    return f"""---
apiVersion: netstitch/v1
kind: Intent
metadata: {{name: {name}, tenant: customer-x}}
spec:
  allow: [{{from: {{network: shop/customer-x, select: {{app: web}}}}, to: {to}, ports: [{", ".join(ports)}]}}]
  require: {{trust: {{min: partner}}}}
"""


@pytest.fixture
def world() -> World:
    """Where insight accepts everything, and one neighbour may have all that there is."""
    world = World()
    world.change_policy("insight", ANALYTICS_ONLY, EVERYTHING + ALL_FOR_ONE)
    world.change_policy("transit", "offer:", ALL_FOR_ONE + "offer:")
    world.start()
    return world


def phases(world: World, domain: str = "shop") -> Counter[str]:
    return Counter(str(resource.status["phase"]) for resource in world.resources(domain, "intents"))


def reason(world: World, name: str, domain: str = "shop") -> str:
    (condition,) = world.get(domain, "intents", name).status["conditions"]
    return str(condition["reason"])


PORT_TABLES = ("source_port_class", "destination_port_class")


def test_sizes_are_what_each_node_says(world: World) -> None:
    shop = world.controllers["shop"]
    assert shop.state.profiles["se1"] == SIZES
    world.nodes["se1"].sizes["steer"] = 7
    shop.start()
    assert shop.state.profiles["se1"] == SIZES, "stored, for as long as the node is away"
    world.run(1.0)
    assert shop.state.profiles["se1"]["steer"] == 7 and shop.state.profiles["sg1"] == SIZES


def test_more_port_ranges_than_a_node_can_tell_apart_are_refused(world: World) -> None:
    for table in PORT_TABLES:
        world.resize(table, 255)
    for number in range(5):
        world.apply("shop", intent(f"i{number}", *(f"tcp/{100 * number + port}" for port in range(1, 51))))
    world.run(3.0)
    assert phases(world) == {"Active": 5}
    world.apply("shop", intent("late", *(f"tcp/{port}" for port in range(1001, 1010))))
    assert world.phase("shop", "late") == "Unsatisfiable"
    told = "capacity: table destination_port_class of se1 holds 255 entries; 259 would be needed"
    assert told in reason(world, "late")
    assert not [message_id for message_id in world.controllers["shop"].state.outbox if "late" in message_id]
    world.apply("shop", intent("same", "tcp/1", "tcp/499-60000"))
    world.run(3.0)
    assert world.phase("shop", "same") == "Active"
    world.delete("shop", "i0")
    world.run(70.0)
    assert phases(world) == {"Active": 6}
    world.check_settled()


def offered(world: World) -> Terms:
    """What transit offered to insight for an intent that is gone again."""
    world.apply("shop", intent("model", "tcp/443"))
    world.run(3.0)
    world.delete("shop", "model")
    world.run(3.0)
    return first_offer(world)


def deliver(world: World, offer: Terms, *flows: Flow) -> str:
    """How insight refuses an offer of these flows; empty: it does not."""
    world.wiretap.clear()
    name = f"other:{round(world.now_s * 1000)}"
    terms = asked_for(mandated(replace(offer, id=f"transit:{name}"), id=f"shop:{name}"), flows=flows)
    began = time.process_time()
    assert world.deliver(signed(terms, "transit"), "transit", "insight") == ""
    assert time.process_time() - began < 3.0
    world.run(0.1)
    return refused(world, "insight")


def flow(model: Flow, sources: tuple[str, ...], ports: tuple[Ports, ...]) -> Flow:
    return replace(model, source_prefixes=sources, ports=ports)


def test_no_offer_makes_a_controller_raise_or_write(world: World) -> None:
    for table in PORT_TABLES:
        world.resize(table, 255)
    offer = offered(world)
    (model,) = offer.flows
    writes = {node.name: node.writes for node in world.nodes.values()}
    many = tuple(Ports(protocol="tcp", first=2 * port, last=2 * port) for port in range(1, 900))
    assert deliver(world, offer, flow(model, ("10.1.0.12/32",), many)) == "insight has no room for it (capacity)"
    # of 8 overlapping sets of addresses nearly every address is in a group of its own
    hosts = [f"10.9.{number // 250}.{number % 250 + 1}/32" for number in range(500)]
    ports = tuple(Ports(protocol="tcp", first=2 * port, last=2 * port) for port in range(1, 201))
    flows = [
        flow(model, tuple(sorted(host for at, host in enumerate(hosts) if at >> bit & 1)), ports) for bit in range(8)
    ]
    assert deliver(world, offer, *flows) == "insight has no room for it (capacity)"
    too_long = tuple(f"10.9.{number // 250}.{number % 250 + 1}/32" for number in range(900))
    assert deliver(world, offer, *(flow(model, too_long, ports) for _ in range(5))) == (
        f"expected at most {MAX_ITEMS} prefixes and ports, found {5 * (900 + 200 + len(model.destination_prefixes))}"
    )
    world.run(1.0)
    assert {node.name: node.writes for node in world.nodes.values()} == writes
    assert not world.controllers["insight"].state.stitches
    world.check_settled()


def test_port_ranges_have_a_share_for_each_neighbour(world: World) -> None:
    """Whoever has it, one offer that nobody has answered yet included: the rest is for others and for ourselves."""
    offer = offered(world)
    (model,) = offer.flows
    insight = world.controllers["insight"]
    for table in PORT_TABLES:
        world.resize(table, 255)
    world.load_policy("insight", replace(insight.policy, max_share=50))

    def ports(count: int) -> tuple[Ports, ...]:
        return tuple(Ports(protocol="tcp", first=2 * port, last=2 * port) for port in range(1, count + 1))

    def why() -> str:
        return [line.fields["reason"] for line in insight.logs if line.event == "no_room"][-1]

    assert "(share)" in deliver(world, offer, flow(model, ("10.1.0.12/32",), ports(128)))
    assert why() == ("transit would have 50% of the port ranges that ig1 can tell apart; 50 % are for one neighbour")
    assert deliver(world, offer, flow(model, ("10.1.0.12/32",), ports(100))) == ""


def test_a_full_table_refuses_the_newest_with_node_and_table(world: World) -> None:
    world.resize("flow_policy", 20)
    names = [f"i{number}" for number in range(12)]
    for number, name in enumerate(names):
        world.apply("shop", intent(name, f"tcp/{number + 1}"))
    world.run(3.0)
    reached = [world.phase("shop", name) for name in names]
    active = reached.count("Active")
    assert reached == ["Active"] * active + ["Unsatisfiable"] * (12 - active) and 0 < active < 12
    assert "capacity: table flow_policy of " in reason(world, "i11") and " holds 20 entries; " in reason(world, "i11")
    refused = [log for log in world.controllers["shop"].logs if log.event == "no_room"]
    assert {log.fields["owner"] for log in refused} == {f"intents/{name}" for name in names[active:]}
    world.check_settled()
    world.delete("shop", "i0")
    world.run(70.0)
    assert phases(world) == {"Active": active, "Unsatisfiable": 11 - active}
    world.check_settled()


def test_of_many_at_once_the_oldest_that_fit_are_let_in(world: World) -> None:
    world.resize("flow_policy", 40)
    big = [f"tcp/{port}" for port in range(101, 131)]
    world.apply(
        "shop", intent("i0", "tcp/1") + intent("big", *big) + "".join(intent(f"i{n}", f"tcp/{n}") for n in range(2, 5))
    )
    assert phases(world)["Unsatisfiable"] == 4
    assert "capacity" in reason(world, "i4")
    world.run(3.0)  # what came behind the one that does not fit is tried without it
    assert phases(world) == {"Active": 4, "Unsatisfiable": 1}
    assert world.phase("shop", "big") == "Unsatisfiable"
    world.run(120.0)
    assert phases(world) == {"Active": 4, "Unsatisfiable": 1}
    world.check_settled()


def test_a_neighbours_share_is_bounded() -> None:
    world = World()
    world.change_policy("insight", ANALYTICS_ONLY, EVERYTHING)
    world.start()
    world.resize("flow_policy", 40)
    for number in range(12):
        world.apply("shop", intent(f"i{number}", f"tcp/{number + 1}"))
        world.run(1.0)
    refused = [log.fields["reason"] for log in world.controllers["transit"].logs if log.event == "no_room"]
    assert refused and "shop would have 5" in refused[0] and "% of table flow_policy of t" in refused[0]
    assert "50 % are for one neighbour" in refused[0]
    for name in ("t1", "t2"):
        count = sum(entry.table == "flow_policy" for entry in world.nodes[name].entries.values())
        assert 14 <= count <= 20
    assert f"refused by transit: {Told.SHARE}" in reason(world, "i11")
    world.check_settled()


def test_agreements_of_one_neighbour_are_bounded() -> None:
    world = World()
    world.change_policy("transit", "offer:", "neighbour: {max_agreements: 2, max_share: 100}\noffer:")
    world.start()
    for name in ("a", "b", "c"):
        world.apply("shop", intent(name, "tcp/443", to="insight/analytics/analytics-y"))
        world.run(1.0)
    assert [world.phase("shop", name) for name in ("a", "b", "c")] == ["Active", "Active", "Refused"]
    assert Told.SHARE in reason(world, "c")
    assert "transit has 2 agreements with shop, which is the most" in refused(world, "transit")
    world.delete("shop", "a")
    world.run(70.0)
    assert world.phase("shop", "c") == "Active"


def test_isolation_without_room_is_not_applied(world: World) -> None:
    before = Counter(entry.table for entry in world.nodes["se1"].entries.values())["flow_policy"]
    world.resize("flow_policy", before)
    state = world.controllers["shop"].state
    text = """
apiVersion: netstitch/v1
kind: Intent
metadata: {name: alone, tenant: customer-x}
spec: {isolate: {network: shop/customer-x, select: {app: web}}}
"""
    answer = world.apply("shop", text)
    assert answer is not None and not answer.results
    assert answer.conflict.startswith("there is no room for it: table flow_policy of se1 holds ")
    assert world.controllers["shop"].state.intent_records == state.intent_records
    world.check_settled()


def test_inventory_without_room_is_not_applied(world: World) -> None:
    before = Counter(entry.table for entry in world.nodes["se1"].entries.values())["source_guard"]
    world.resize("source_guard", before)
    text = world.inventories["shop"]
    answer = world.apply("shop", text.replace("    - 10.1.0.12\n", "    - 10.1.0.12\n    - 10.1.0.13\n"))
    assert answer is not None and "table source_guard of se1" in answer.conflict, answer
    assert "10.1.0.13" not in str(world.controllers["shop"].state.inventory)
    world.check_settled()


def test_a_node_that_has_become_smaller_than_what_it_holds_refuses_only_what_is_more(world: World) -> None:
    world.apply("shop", intent("first", "tcp/1"))
    world.run(3.0)
    node, shop = world.nodes["se1"], world.controllers["shop"]
    sizes = Counter(entry.table for entry in node.entries.values())
    node.sizes["flow_policy"] = sizes["flow_policy"] - 1
    node.refused = {key for key, entry in node.entries.items() if entry.owner == "intents/first"}
    shop.start()
    world.run(3.0)
    assert world.phase("shop", "first") == "Installing" and "se1 refused its state" in reason(world, "first")
    world.apply("shop", intent("more", "tcp/2"))
    assert "capacity: table flow_policy of se1 holds " in reason(world, "more")
    text = world.inventories["shop"].replace("    - 10.1.0.12\n", "    - 10.1.0.12\n    - 10.1.0.13\n")
    answer = world.apply("shop", text)
    assert answer is not None and not answer.conflict, "another address of a host needs no rule more"
    world.delete("shop", "first")
    node.refused = set()
    node.sizes["flow_policy"] = sizes["flow_policy"]
    shop.start()
    world.run(70.0)
    assert world.phase("shop", "more") == "Active"


def test_a_changed_intent_without_room_beside_itself_goes_before_it_comes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.apply("shop", intent("wide", *(f"tcp/{port}" for port in range(1, 21))))
    world.run(3.0)
    most = max(Counter(entry.table for entry in node.entries.values())["flow_policy"] for node in world.nodes.values())
    world.resize("flow_policy", most + 10)
    world.apply("shop", intent("wide", *(f"tcp/{port}" for port in range(1, 20))))
    world.run(0.5)
    permitted = [entry for entry in world.nodes["se1"].entries.values() if entry.owner == "intents/wide"]
    assert not permitted, "what is not wanted any more is still carried"
    world.run(10.0)
    assert world.phase("shop", "wide") == "Active"
    world.check_settled()


def counted(needed: Needed, node: str) -> Counter[str]:
    entries = needed.entries[node]
    of_agreements: Counter[str] = Counter()
    for (table, owner), count in entries.owned.items():
        assert owner.startswith("agreements/")
        of_agreements[table] += count
    assert of_agreements <= Counter(dict(entries.tables))
    return Counter(dict(entries.tables))


def there_are(state: State, node: str) -> Counter[str]:
    node_state = state.nodes[node].state
    assert node_state is not None
    return Counter(entry.table for entry in node_state.entries)


def check_need(state: State) -> None:
    """What was counted is enough for what there is."""
    for node in state.nodes:
        assert there_are(state, node) <= counted(state.needed, node), node


def test_what_is_counted_when_it_begins_is_what_it_needs_in_the_end(world: World) -> None:
    counts: dict[str, Needed] = {}
    world.apply("shop", intent("one", "tcp/443", "udp/53-99", "icmp"))
    for _ in range(2000):
        world.run(0.0005)
        for domain, controller in world.controllers.items():
            stages = [stitch.stage for stitch in controller.state.stitches.values()]
            if stages and domain not in counts:
                assert stages == [Stage.ADDING if domain == "insight" else Stage.NEGOTIATING]
                counts[domain] = controller.state.needed
    assert world.phase("shop", "one") == "Active" and len(counts) == 3
    for domain, needed in counts.items():
        state = world.controllers[domain].state
        for node in state.nodes:
            assert counted(needed, node) == there_are(state, node), node
    for name, *ports in (("same", "tcp/443"), ("other", "tcp/400-500", "udp/53")):
        world.apply("shop", intent(name, *ports))
        world.run(3.0)
    assert phases(world) == {"Active": 3}
    for controller in world.controllers.values():
        for node in controller.state.nodes:
            assert counted(controller.state.needed, node) == there_are(controller.state, node), node


SHOPS_WEB = "shop/customer-x, select: {app: web}"


def generated(name: str, domain: str, count: int, first: int) -> str:
    ports = [f"tcp/{port}" for port in range(first, first + count)]
    if domain == "shop":
        return intent(name, *ports)
    return intent(name, *ports, to="shop/customer-x").replace(SHOPS_WEB, "insight/analytics")


@pytest.mark.parametrize("seed", range(4))
def test_nobody_who_has_begun_is_pushed_out(seed: int) -> None:
    """Random intents of two domains against each other, under small tables: every node always has room for what it
    gets (the simulator's nodes see to that), and what is active stays so until it is withdrawn."""
    world = World(seed, Faults(delay_s=(0.001, 0.3)))
    quota = ALL_FOR_ONE if seed % 2 else ""
    world.change_policy("shop", "accept: []\n", EVERYTHING + quota)
    world.change_policy("insight", ANALYTICS_ONLY, EVERYTHING + quota)
    world.change_policy("transit", "offer:", quota + "offer:")
    world.start()
    for table, size in (("flow_policy", 90), ("route", 60), ("sr_policy", 40), ("source_group", 60)):
        world.resize(table, world.random.randint(size // 2, size))
    chance = world.random
    active: dict[tuple[str, str], float] = {}
    for number in range(30):
        domain = chance.choice(("shop", "insight"))
        there = [resource.metadata["name"] for resource in world.resources(domain, "intents")]
        if there and chance.random() < 0.3:
            name = chance.choice(sorted(map(str, there)))
            active.pop((domain, name), None)
            world.delete(domain, name)
        else:
            text = "".join(
                generated(f"{domain}-{number}-{at}", domain, chance.randint(1, 4), chance.randint(1, 60))
                for at in range(chance.randint(1, 4))
            )
            world.apply(domain, text)
        world.partitioned = {frozenset((domain, "transit"))} if chance.random() < 0.3 else set()
        for _ in range(10):
            world.run(chance.uniform(0.0, 0.5))
            for key in active:
                assert world.phase(*key) == "Active", (key, world.get(key[0], "intents", key[1]).status)
            for owner in ("shop", "insight"):
                for resource in world.resources(owner, "intents"):
                    if resource.status["phase"] == "Active":
                        active[owner, str(resource.metadata["name"])] = world.now_s
    assert any(log.event == "no_room" for controller in world.controllers.values() for log in controller.logs)
    assert len(active) >= 3
    for controller in world.controllers.values():
        check_need(controller.state)
    world.partitioned.clear()
    for domain in ("shop", "insight"):
        for resource in world.resources(domain, "intents"):
            world.delete(domain, str(resource.metadata["name"]))
    world.run(60.0)
    world.check_settled()
    assert world.stitches() == []
