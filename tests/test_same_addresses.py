"""Networks with the same addresses: each knows the other under a prefix that its own domain gives."""

import itertools

import pytest
from msgspec.structs import replace

from controller.fulfillment import aliases, terms
from controller.fulfillment.meaning import Packet
from controller.fulfillment.numbering import prefix
from controller.fulfillment.rule_engine import NO_RULES
from controller.fulfillment.translate import translate
from controller.language.manifest import parse
from controller.model.agreement import CAPABILITIES, TRANSLATES, Acceptance, Alias, Terms, opened_mandate
from controller.model.intent import Intent
from controller.model.inventory import Aliases, Domain, Inventory, Network
from controller.model.policy import AcceptRule, Policy, TransitRule
from controller.model.requirements import Requirements
from controller.reconcile.translation_pool import REST_S
from dataplane.reasons import L4Class
from tests.composition import Composition
from tests.offers import refused, said
from tests.packet_walk import Walk, echo, icmp_error, tcp
from tests.plain_walk import End, PlainWalk
from tests.simulator import World

HERE, THERE = "shop/customer-x", "insight/archive"
SHOPS, INSIGHTS = "100.65.0.0/16", "100.67.0.0/16"
ANYTHING = Policy(accept=(AcceptRule(origin="*", source="*", destination="insight/*"),))
CARRY = Policy(transit=(TransitRule(origin="*", destination="*"),))


def intent(
    name: str = "keep",
    source: str = HERE,
    to: str = "insight/archive/archive-z",
    extra: str = "",
    tenant: str = "customer-x",
) -> str:
    return f"""
apiVersion: netstitch/v1
kind: Intent
metadata: {{name: {name}, tenant: {tenant}}}
spec:
  allow:
    - {{from: {{network: {source}}}, to: {to}}}
  {extra}
---
"""


THROUGH_TRANSIT, STRAIGHT = "require: {trust: {min: partner}}", "require: {avoid: {domains: [transit]}}"


def met(*, carried: bool = False, pools: bool = True) -> World:
    """`carried`: transit may lead to the archive. `pools`: of insight."""
    world = World()
    world.greets = True
    world.controllers["insight"].policy = ANYTHING
    if not pools:
        own = next(domain for domain in world.topology.domains if domain.name == "insight")
        others = tuple(domain for domain in world.topology.domains if domain.name != "insight")
        without = (*others, replace(own, translation_pool=()))
        world = World(topology=replace(world.topology, domains=without))
        world.greets = True
        world.controllers["insight"].policy = ANYTHING
    world.start()
    if carried:
        world.controllers["transit"].policy = CARRY
        world.load_policy("transit", CARRY)
    for domain in ("shop", "transit"):
        world.apply(domain, KNOWN)
    world.run(2.0)
    return world


KNOWN = """
apiVersion: netstitch/v1
kind: Network
metadata: {name: insight/archive}
spec: {prefixes: [10.1.0.0/24, "2001:db8:1::/64"]}
---
apiVersion: netstitch/v1
kind: Service
metadata: {name: insight/archive/archive-z}
spec: {addresses: [10.1.0.10, "2001:db8:1::10"], ports: [tcp/9000]}
---
"""


def knows(world: World, domain: str) -> dict[str, Aliases]:
    return world.controllers[domain].state.inventory.aliases


def sent(world: World, host: str, packet: Packet) -> End:
    sender = next(each for each in world.topology.hosts if each.name == host)
    (interface,) = sender.interfaces
    expected = Composition(world).of(sender, packet)
    port = world.topology.port_number(interface.node, sender.port(interface))
    end = PlainWalk(world, world.now_s).send(interface.node, port, packet)
    assert (end.delivered is None) == (expected.host is None), (packet, end, expected)
    if expected.host is not None:
        assert end.packet == expected.word.arriving(packet)
    return end


def opening(source: str, destination: str, port: int = 9000, network: str = HERE) -> Packet:
    return Packet(
        network=network,
        source=source,
        destination=destination,
        l4_class=L4Class.TCP_OPEN,
        source_port=40000,
        destination_port=port,
    )


def answer(packet: Packet, network: str = THERE) -> Packet:
    ends = {"source": packet.destination, "destination": packet.source}
    ports = {"source_port": packet.destination_port, "destination_port": packet.source_port}
    return replace(packet, network=network, l4_class=L4Class.TCP, **ends, **ports)


def is_in(address: str, pool: str) -> bool:
    value, length = prefix(pool)
    return prefix(f"{address}/32")[0] >> (128 - length) == value >> (128 - length)


def endpoints(world: World, domain: str = "shop", name: str = "keep") -> list[dict[str, str]]:
    return list(world.get(domain, "intents", name).status["endpoints"])


@pytest.mark.parametrize("carried", [False, True], ids=["straight", "through transit"])
def test_each_side_knows_the_other_in_its_own_pool(carried: bool) -> None:
    world = met(carried=carried)
    world.apply("shop", intent(extra=THROUGH_TRANSIT if carried else STRAIGHT))
    world.run(5.0)
    world.check_settled()
    assert world.phase("shop", "keep") == "Active", world.get("shop", "intents", "keep").status
    ipv4, ipv6 = endpoints(world)
    assert is_in(ipv4["address"], SHOPS) and ipv4["known_there_as"] == "10.1.0.10", ipv4
    assert ipv6["address"].startswith("2001:db8:65") and ipv6["known_there_as"] == "2001:db8:1::10"
    for source, endpoint in (("10.1.0.11", ipv4), ("2001:db8:1::11", ipv6)):
        there = sent(world, "cx1", opening(source, endpoint["address"]))
        assert there.packet is not None and there.packet.destination == endpoint["known_there_as"], there
        assert there.packet.source != source
        assert (len(there.nodes) > 4) == carried, there.nodes
        back = sent(world, "ar1", answer(there.packet))
        assert back.packet is not None and back.packet == answer(opening(source, endpoint["address"]))
    assert not sent(world, "cx1", opening("10.1.0.11", "10.1.0.10")).delivered, "it is known as another only"
    assert not sent(world, "cx1", opening("10.1.0.11", ipv4["address"], 22)).delivered
    assert [(each.network, each.other) for each in knows(world, "shop").values()] == [(HERE, THERE)]
    assert [(each.network, each.other) for each in knows(world, "insight").values()] == [(THERE, HERE)]
    assert not knows(world, "transit")
    assert all(
        is_in(each.alias.partition("/")[0], INSIGHTS) for each in knows(world, "insight")[f"{THERE} {HERE}"].pairs[:1]
    )


def test_real_packets_are_answered_and_errors_come_home() -> None:
    """Byte by byte through the pipelines of all nodes: checksums, conversations, quotes."""
    world = met()
    world.apply("shop", intent())
    world.run(5.0)
    walk, (ipv4, _) = Walk(world), endpoints(world)
    unasked = walk.send("ar1", tcp("10.1.0.10", "100.67.0.11", 40000, "A", 9000))
    assert not unasked.delivered
    assert walk.send("cx1", tcp("10.1.0.11", ipv4["address"], 9000, "S", 40000)).delivered == "ar1"
    arrived = sent(world, "cx1", opening("10.1.0.11", ipv4["address"])).packet
    assert arrived is not None
    assert walk.send("ar1", tcp(arrived.destination, arrived.source, 40000, "SA", 9000)).delivered == "cx1"
    assert walk.send("ar1", icmp_error(arrived.destination, arrived.source, 40000, 9000)).delivered == "cx1"
    assert not walk.send("cx1", echo("10.1.0.11", ipv4["address"])).delivered


def test_networks_of_one_domain_with_the_same_addresses_reach_each_other() -> None:
    """Both are at se1: who asked is known there as the asker said it."""
    world = met()
    service = (
        "apiVersion: netstitch/v1\nkind: Service\nmetadata: {name: shop/customer-z/web}\n"
        'spec: {addresses: [10.1.0.11, "2001:db8:1::11"], ports: [tcp/443, icmp], tenants: [customer-x]}\n---\n'
    )
    answered = world.apply("shop", service + intent(to="shop/customer-z/web"))
    assert answered is not None and not answered.problems, answered
    world.run(5.0)
    world.check_settled()
    assert world.phase("shop", "keep") == "Active", world.get("shop", "intents", "keep").status
    (ipv4, _), walk = endpoints(world), Walk(world)
    there = sent(world, "cx1", opening("10.1.0.11", ipv4["address"], 443))
    assert there.packet is not None and there.packet.destination == "10.1.0.11" and is_in(there.packet.source, SHOPS)
    syn = tcp("10.1.0.11", ipv4["address"], 443, "S", 40000)
    reply = tcp(there.packet.destination, there.packet.source, 40000, "SA", 443)
    assert not walk.send("cz1", reply).delivered, "nobody has asked"
    assert walk.send("cx1", syn).delivered == "cz1"
    assert walk.send("cz1", reply).delivered == "cx1"
    alike = {alias.alias for each in knows(world, "shop").values() for alias in each.pairs}
    assert len(alike) == 4, "two families, both ways"


def test_what_rests_is_given_again_when_it_has_rested() -> None:
    world = met()
    world.apply("shop", intent())
    world.run(5.0)
    (ipv4, _) = endpoints(world)
    world.delete("shop", "keep")
    world.run(5.0)
    world.check_settled()
    assert all(each.until_s is not None for domain in ("shop", "insight") for each in knows(world, domain).values())
    assert not any(
        entry.table.startswith("translate") or entry.action.startswith("translate")
        for node in world.nodes.values()
        for entry in node.entries.values()
    )
    world.apply("shop", intent())
    world.run(5.0)
    assert endpoints(world)[0] == ipv4, "who comes back meanwhile finds what it had"
    world.delete("shop", "keep")
    world.run(REST_S + 10)
    assert not knows(world, "shop") and not knows(world, "insight")


def test_what_is_held_outlasts_a_restart() -> None:
    world = met()
    world.apply("shop", intent())
    world.run(5.0)
    before = knows(world, "shop"), knows(world, "insight"), endpoints(world)
    for name in ("shop", "insight"):
        world.controllers[name].crash()
        world.controllers[name].start()
    world.run(5.0)
    world.check_settled()
    assert (knows(world, "shop"), knows(world, "insight"), endpoints(world)) == before
    assert world.phase("shop", "keep") == "Active"


def test_two_networks_with_the_same_addresses_reach_one_service() -> None:
    """What comes second is known under another address, though analytics has none of these itself."""
    world = met()
    to = "insight/analytics/analytics-y"
    answered = world.apply(
        "shop", intent("first", to=to) + intent("second", "shop/customer-z", to, tenant="customer-z")
    )
    assert answered is not None and not answered.conflict and not answered.problems, answered
    world.run(5.0)
    world.check_settled()
    assert [world.phase("shop", name) for name in ("first", "second")] == ["Active", "Active"], [
        world.get("shop", "intents", name).status["conditions"] for name in ("first", "second")
    ]
    arrived = [
        sent(world, host, opening("10.1.0.11", "10.2.0.10", 443, network)).packet
        for host, network in (("cx1", HERE), ("cz1", "shop/customer-z"))
    ]
    assert all(arrived) and len({packet.source for packet in arrived if packet is not None}) == 2, arrived
    for host, packet in zip(("cx1", "cz1"), arrived, strict=True):
        assert packet is not None
        back = sent(world, "ay1", answer(packet, "insight/analytics"))
        sender = next(each for each in world.topology.hosts if each.name == host)
        assert back.delivered is not None and back.packet is not None and back.packet.destination == "10.1.0.11"
        assert back.delivered[1] == world.topology.port_number("se1", sender.port(sender.interfaces[0]))


def test_a_release_that_does_not_translate_refuses_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an offer needs is among what a release must know: it may not pass over it."""
    world = met(carried=True)
    monkeypatch.setattr(terms, "CAPABILITIES", tuple(name for name in CAPABILITIES if name != TRANSLATES))
    world.apply("shop", intent(extra=THROUGH_TRANSIT))
    world.run(2.0)
    status = world.get("shop", "intents", "keep").status
    assert status["phase"] == "Refused", status
    assert "its release cannot do what is needed" in str(status["conditions"])
    assert refused(world, "transit") == f"the release of transit has not what is needed: {TRANSLATES}; upgrade it"


def test_an_offer_says_how_its_network_knows_the_other_and_an_acceptance_the_other_way_round() -> None:
    world = met(carried=True)
    world.apply("shop", intent(extra=THROUGH_TRANSIT))
    world.run(5.0)
    offers = [message for message in said(world, "offer") if isinstance(message, Terms)]
    accepted = [message for message in said(world, "acceptance") if isinstance(message, Acceptance)]
    assert {offer.offeror for offer in offers} == {"shop", "transit"} and len(accepted) == 2
    for offer in offers:
        mandate = opened_mandate(offer.mandate)
        assert TRANSLATES in offer.needs and TRANSLATES in mandate.needs
        assert offer.destination_aliases == mandate.destination_aliases == knows(world, "shop")[f"{HERE} {THERE}"].pairs
        assert offer.source_prefixes == ("10.1.0.0/24", "2001:db8:1::/64")
    assert {acceptance.source_aliases for acceptance in accepted} == {knows(world, "insight")[f"{THERE} {HERE}"].pairs}


def test_without_a_pool_there_the_addresses_that_it_has_itself_are_refused() -> None:
    world = met(pools=False)
    world.apply("shop", intent(to=THERE).replace("to: insight/archive}", "to: insight/archive, ports: [tcp/9000]}"))
    world.run(5.0)
    assert world.phase("shop", "keep") == "Active", "no source of it is an address of the archive's"
    host = """
apiVersion: netstitch/v1
kind: Network
metadata: {name: insight/archive}
spec:
  prefixes: [10.1.0.0/24, "2001:db8:1::/64"]
  gateways: [10.1.0.1, "2001:db8:1::1"]
  attachments: [{name: ar1, node: ie1, port: 3, addresses: [10.1.0.10, "2001:db8:1::10", 10.1.0.12]}]
"""
    answered = world.apply("insight", host)
    assert answered is not None and not answered.conflict and not answered.problems, answered
    world.run(5.0)
    assert world.phase("shop", "keep") != "Active", "10.1.0.12 is cx2's, too"


# ---- what is given


def known(**more: Network) -> Inventory:
    own = Domain(name="shop", sid_block="5f00:1::/32", own=True, translation_pool=("100.64.0.0/22",))
    networks = {
        "shop/a": Network(name="shop/a", prefixes=("10.1.0.0/24",)),
        "shop/b": Network(name="shop/b", prefixes=("10.1.0.0/24", "10.2.0.0/23")),
    }
    return Inventory(domains={"shop": own}, networks=networks | {network.name: network for network in more.values()})


def test_only_what_a_network_has_too_is_known_under_another() -> None:
    inventory = known()
    wanted = aliases.needed(inventory, "shop/a", "shop/b", inventory.networks["shop/b"].prefixes)
    assert wanted == ("10.1.0.0/24",)
    assert aliases.give(inventory, aliases.pool_of(inventory), "shop/a", "shop/b", wanted) == (
        Alias(prefix="10.1.0.0/24", alias="100.64.0.0/24"),
    )


def test_nothing_is_given_twice_until_there_is_no_more() -> None:
    inventory, given = known(), []
    for number in itertools.count():
        pairs = aliases.give(inventory, aliases.pool_of(inventory), "shop/a", f"far/{number}", ("10.1.0.0/24",))
        if isinstance(pairs, str):
            break
        given += [alias.alias for alias in pairs]
        new = aliases.held(inventory, "shop/a", f"far/{number}", pairs)
        assert new is not None
        inventory = aliases.with_aliases(inventory, new)
    assert pairs == "10.1.0.0/24" and given == [f"100.64.{third}.0/24" for third in range(4)]


def test_the_pool_passes_over_what_a_network_has_itself() -> None:
    inventory = known(far=Network(name="far/x", prefixes=("100.64.1.0/24", "100.64.0.128/25")))
    pairs = aliases.give(inventory, aliases.pool_of(inventory), "shop/a", "shop/b", ("10.2.0.0/23",))
    assert pairs == (Alias(prefix="10.2.0.0/23", alias="100.64.2.0/23"),)


def test_a_pool_that_runs_out_is_named() -> None:
    world = met()
    small = world.inventories["shop"].replace("- 100.65.0.0/16", "- 100.65.0.0/25")
    assert small != world.inventories["shop"]
    world.apply("shop", small)
    answered = world.apply("shop", intent())
    assert answered is not None and not answered.conflict and not answered.problems, answered
    world.run(5.0)
    status = world.get("shop", "intents", "keep").status
    assert status["phase"] == "Unsatisfiable", status
    assert "translation_pool: " in str(status["conditions"]) and "has no room" in str(status["conditions"])


def test_without_a_pool_of_ours_it_is_said_what_to_do() -> None:
    world = met()
    inventory = world.controllers["shop"].state.inventory
    own = replace(inventory.domains["shop"], translation_pool=())
    without = replace(inventory, domains=inventory.domains | {"shop": own})
    value = parse(intent(to=THERE))[0].value
    assert isinstance(value, Intent)
    (problem,) = translate(value, NO_RULES, without)
    assert "give shop a translation_pool" in problem.message and "10.1.0.1, which is the gateway" in problem.message
    required = translate(value, NO_RULES, inventory)
    assert isinstance(required, Requirements) and required.connections[0].destination_aliases
