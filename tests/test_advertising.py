"""What domains tell each other unasked: networks, services and ways to them, in simulated worlds."""

import itertools
import random
from collections import Counter

import msgspec
import pytest
from msgspec.structs import replace

from controller.fulfillment.negotiate import sealed
from controller.model.advertising import Ignored
from controller.model.agreement import (
    ADVERTISES,
    CAPABILITIES,
    Advertisement,
    Envelope,
    Gateway,
    OfferedNetwork,
    OfferedService,
    Route,
    Routes,
)
from controller.model.event import Applied
from controller.model.intent import Ports, Trust
from controller.model.inventory import Reach
from controller.model.policy import AdvertiseRule, LearnRule, PrefixRange
from controller.reconcile.advertising import telling
from tests.many_domains import ALL, Domains, Pair, link_name, name_of
from tests.packet_walk import Walk, tcp
from tests.simulator import ORDER_PROCESSING, Faults, SimulatedKeys, World, untold
from topologies.topology import Trust as TopologyTrust

TYPED_SERVICE = """
apiVersion: netstitch/v1
kind: Network
metadata: {name: insight/analytics}
spec: {prefixes: [10.2.0.0/24, "2001:db8:2::/64"]}
---
apiVersion: netstitch/v1
kind: Service
metadata: {name: insight/analytics/analytics-y}
spec: {addresses: [10.2.0.10], ports: [tcp/443]}
"""


@pytest.fixture
def world() -> World:
    world = World(topology=untold())
    world.greets = True
    world.start()
    world.run(5.0)
    return world


def known(world: World, domain: str) -> set[str]:
    state = world.controllers[domain].state
    names = {*state.inventory.networks, *state.inventory.services}
    return {name for name in names if not name.startswith(f"{domain}/")}


def reaches(world: World, domain: str) -> dict[str, tuple[str, ...]]:
    return {name: heard.route.path for name, heard in world.controllers[domain].state.reaches.items()}


def logged(world: World, domain: str, event: str) -> list[dict[str, str]]:
    return [log.fields for log in world.controllers[domain].logs if log.event == event]


# ---- three domains


def test_who_has_been_told_nothing_learns_it_from_its_neighbours(world: World) -> None:
    analytics = {"insight/analytics", "insight/analytics/analytics-y"}
    assert known(world, "shop") == analytics | {"insight/archive", "insight/archive/archive-z"}
    assert known(world, "transit") == analytics, "the archive is not told there"
    assert known(world, "insight") == set()
    assert reaches(world, "shop") == {
        "insight insight": ("insight",),
        "transit insight": ("transit", "insight"),
    }
    (gateway,) = world.controllers["shop"].state.reaches["transit insight"].route.gateways
    assert gateway == Gateway(border="sg1-t1", latency_us=4000, cost=30), "two links inside, and one to insight"


def test_an_intent_goes_to_a_service_that_is_only_advertised_by_the_way_that_is(world: World) -> None:
    assert world.apply("shop", ORDER_PROCESSING) is not None
    world.run(5.0)
    assert world.phase("shop", "order-processing") == "Active"
    walked = Walk(world).send("cx1", tcp("10.1.0.11", "10.2.0.10", 443))
    assert walked.delivered == "ay1"
    assert "t1" in walked.path, "over the carrier: the direct way is too slow"
    world.check_settled()


def test_what_no_rule_advertises_or_learns_is_not_known() -> None:
    world = World(topology=untold())
    world.greets = True
    insight = world.controllers["insight"]
    advertise = tuple(replace(rule, onward=False) for rule in insight.policy.advertise)
    insight.policy = replace(insight.policy, advertise=advertise)
    world.start()
    world.run(5.0)
    assert reaches(world, "shop") == {"insight insight": ("insight",)}, "insight wants nobody to pass it on"
    policy = world.controllers["shop"].policy
    ranges = (PrefixRange(prefix="10.0.0.0/8", least=8, most=32),)
    archive = LearnRule(neighbour="*", what="insight/archive*", prefixes=ranges)
    world.load_policy("shop", replace(policy, learn=(archive,)))
    assert known(world, "shop") == set(), "the archive has IPv6 prefixes, too, and they are not among the prefixes"
    ranges = (*ranges, PrefixRange(prefix="2001:db8::/32", least=32, most=128))
    world.load_policy("shop", replace(policy, learn=(replace(archive, prefixes=ranges),)))
    assert known(world, "shop") == {"insight/archive", "insight/archive/archive-z"}
    world.load_policy("shop", replace(policy, learn=()))
    assert known(world, "shop") == set()


def test_what_is_typed_in_wins_and_is_what_a_neighbour_leads_to(world: World) -> None:
    assert world.apply("shop", TYPED_SERVICE) is not None
    world.load_policy("insight", replace(world.controllers["insight"].policy, lease_s=7200))
    world.run(70.0)
    service = world.controllers["shop"].state.inventory.services["insight/analytics/analytics-y"]
    assert not service.learnt and service.addresses == ("10.2.0.10",)
    world.delete_all("shop", ("Service", service.name), ("Network", "insight/analytics"))
    service = world.controllers["shop"].state.inventory.services["insight/analytics/analytics-y"]
    assert service.learnt and len(service.addresses) == 2, "it is still advertised"
    transit = world.controllers["shop"].state.inventory.domains["transit"]
    moon = Reach(domain="moon", latency_us=1, trust=Trust.OWN)
    world.submit("shop", Applied(kind="Domain", content=msgspec.json.encode(replace(transit, reach=(moon,)))))
    assert reaches(world, "shop") == {"insight insight": ("insight",)}, "transit leads to the moon and nowhere else"


def test_what_is_withdrawn_goes_unless_an_intent_names_it(world: World) -> None:
    world.apply("shop", ORDER_PROCESSING)
    world.run(5.0)
    policy = world.controllers["insight"].policy
    world.load_policy("insight", replace(policy, advertise=()))
    world.run(5.0)
    assert reaches(world, "shop") == {} and known(world, "transit") == set()
    assert known(world, "shop") == {"insight/analytics", "insight/analytics/analytics-y"}
    assert world.phase("shop", "order-processing") == "Active", "what is agreed goes on"
    world.delete("shop", "order-processing")
    world.run(5.0)
    assert known(world, "shop") == set()
    world.load_policy("insight", policy)
    world.run(5.0)
    assert "insight/archive" in known(world, "shop")


def test_an_intent_follows_what_is_advertised_otherwise(world: World) -> None:
    world.apply("shop", ORDER_PROCESSING)
    world.run(5.0)
    text = TYPED_SERVICE.split("---")[1].replace("[tcp/443]", "[tcp/443, icmp]")
    assert world.apply("insight", text.replace("tcp/443", "tcp/9000")) is not None
    world.run(20.0)
    assert "does not offer tcp/443; it offers tcp/9000" in str(world.get("shop", "intents", "order-processing").status)
    assert world.apply("insight", text) is not None
    world.run(60.0)
    assert world.phase("shop", "order-processing") == "Active"


def test_a_lost_neighbour_leads_nowhere_until_it_is_back(world: World) -> None:
    world.set_carrier("t2-ig1", False)
    world.run(5.0)
    assert reaches(world, "shop") == {"insight insight": ("insight",)}
    assert known(world, "transit") == set()
    world.set_carrier("t2-ig1", True)
    world.run(10.0)
    assert "transit insight" in reaches(world, "shop")


def test_a_neighbour_that_cannot_be_reached_for_long_leads_nowhere(world: World) -> None:
    world.partitioned.add(frozenset(("shop", "transit")))
    world.run(telling.KEEP_S + telling.LOST_S - 20)
    assert "transit insight" in reaches(world, "shop")
    world.run(40.0)
    assert "transit insight" not in reaches(world, "shop")
    world.partitioned.clear()
    world.run(20.0)
    assert "transit insight" in reaches(world, "shop")


def test_a_controller_that_was_started_again_knows_what_it_knew(world: World) -> None:
    before = known(world, "shop")
    world.partitioned |= {frozenset(("shop", "transit")), frozenset(("shop", "insight"))}
    world.controllers["shop"].crash()
    world.controllers["shop"].start()
    world.run(2.0)
    assert known(world, "shop") == before and len(reaches(world, "shop")) == 2
    world.partitioned.clear()
    world.run(10.0)
    assert len(reaches(world, "shop")) == 2
    world.controllers["transit"].crash()
    world.controllers["transit"].start()
    world.load_policy("transit", replace(world.controllers["transit"].policy, advertise=()))
    world.run(10.0)
    assert len(reaches(world, "shop")) == 1, "everything is told anew on a new connection"


def test_a_release_that_knows_no_routes_is_told_none() -> None:
    world = World(topology=untold())
    world.greets = True
    world.capabilities["shop"] = tuple(name for name in CAPABILITIES if name != ADVERTISES)
    world.start()
    world.run(130.0)
    assert not world.heard("routes", receiver="shop") and world.heard("routes", receiver="transit")


def test_an_advertisement_is_renewed_before_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telling, "LIFETIME_S", 60)
    world = World(topology=untold())
    world.greets = True
    world.start()
    world.run(5.0)
    first = world.controllers["shop"].state.routes["transit insight"]
    world.run(40.0)
    after = world.controllers["shop"].state.routes["transit insight"]
    assert after.edition > first.edition and after.expires_s > world.now_s
    assert len(reaches(world, "shop")) == 2


def test_what_comes_and_goes_too_often_is_used_when_it_has_been_quiet(world: World) -> None:
    policy = world.controllers["transit"].policy
    for _ in range(20):
        world.load_policy("transit", replace(policy, advertise=()))
        world.run(5.0)
        world.load_policy("transit", policy)
        world.run(5.0)
    assert logged(world, "shop", "route_damped")
    assert "transit insight" not in reaches(world, "shop")
    world.run(60.0)
    assert "transit insight" in reaches(world, "shop")


def test_what_was_signed_with_another_key_than_is_pinned_counts_no_more(world: World) -> None:
    domain = world.controllers["shop"].state.inventory.domains["insight"]
    other = replace(domain, key=SimulatedKeys("another").public)
    world.submit("shop", Applied(kind="Domain", content=msgspec.json.encode(other)))
    assert reaches(world, "shop") == {} and known(world, "shop") == set()
    world.meet(("shop", "transit"), ("shop", "insight"))
    world.run(5.0)
    assert reaches(world, "shop") == {}
    assert ignored(world, "shop")["transit"] == {Ignored.SIGNATURE: 1}
    assert logged(world, "shop", "route_ignored") == [
        {"peer": "transit", "domain": "insight", "reason": "signature"}
    ], "insight's own messages count for nothing at all"


def ignored(world: World, domain: str) -> dict[str, dict[str, int]]:
    tellings = world.controllers[domain].state.tellings
    return {peer: telling.ignored for peer, telling in tellings.items() if telling.ignored}


# ---- a neighbour that is not honest


def by(domain: str, statement: Routes | Advertisement) -> Envelope:
    return sealed(statement, SimulatedKeys(domain))


def offered_by(owner: str, **changes: object) -> Advertisement:
    """Of insight, as transit has heard it; of others the same."""
    said = Advertisement(
        owner=owner,
        carrier="transit",
        onward=True,
        edition=1_800_000_000,
        expires_s=1_800_000_000 + 86400,
        networks=(OfferedNetwork(name=f"{owner}/lab", prefixes=("10.9.0.0/24",)),),
        services=(
            OfferedService(
                name=f"{owner}/lab/files", addresses=("10.9.0.9",), ports=(Ports(protocol="tcp", first=1, last=1),)
            ),
        ),
    )
    return replace(said, **changes)


def route(said: Envelope, *path: str, border: str = "sg1-t1") -> Route:
    return Route(
        path=path, gateways=(Gateway(border=border, latency_us=1, cost=1),), trust=Trust.OWN, advertisement=said
    )


def altered(envelope: Envelope) -> Envelope:
    return replace(envelope, payload=envelope.payload.replace(b"10.9.0.9", b"10.9.0.8"))


GOOD = offered_by("insight", edition=1_800_000_006)
NEWER = replace(GOOD, edition=1_800_000_007)
LIES: dict[str, tuple[Route, Ignored]] = {
    "what it does not own, in its own words": (
        route(by("transit", replace(GOOD, owner="insight")), "transit", "insight"),
        Ignored.SIGNATURE,
    ),
    "what it does not own, as its own": (
        route(by("transit", replace(GOOD, owner="transit", carrier="shop")), "transit"),
        Ignored.OWNER,
    ),
    "another domain's word as its own": (route(by("insight", GOOD), "transit"), Ignored.OWNER),
    "altered": (route(altered(by("insight", GOOD)), "transit", "insight"), Ignored.SIGNATURE),
    "an old one": (
        route(by("insight", replace(GOOD, edition=1_799_999_000)), "transit", "insight"),
        Ignored.OLDER,
    ),
    "one that has ended": (
        route(by("insight", replace(GOOD, expires_s=1_800_000_001)), "transit", "insight"),
        Ignored.TIME,
    ),
    "one of the future": (
        route(by("insight", replace(GOOD, edition=1_800_009_000)), "transit", "insight"),
        Ignored.TIME,
    ),
    "one that is not to be passed on": (
        route(by("insight", replace(GOOD, onward=False)), "transit", "insight"),
        Ignored.ONWARD,
    ),
    "one that was given to another": (
        route(by("insight", replace(GOOD, carrier="moon")), "transit", "insight"),
        Ignored.CARRIER,
    ),
    "one that was given to us, as if we had passed it on": (
        route(by("insight", replace(GOOD, carrier="shop")), "transit", "insight"),
        Ignored.CARRIER,
    ),
    "a path with us on it": (route(by("insight", GOOD), "transit", "shop", "insight"), Ignored.CIRCLE),
    "a path in a circle": (
        route(by("insight", GOOD), "transit", "moon", "transit", "insight"),
        Ignored.PATH,
    ),
    "a path that leaves it out": (route(by("insight", replace(GOOD, carrier="shop")), "insight"), Ignored.PATH),
    "a border that is not its own": (
        route(by("insight", GOOD), "transit", "insight", border="sg1-ig1"),
        Ignored.GATEWAYS,
    ),
    "no border of ours": (route(by("insight", GOOD), "transit", "insight", border="moon"), Ignored.GATEWAYS),
    "a domain whose key is not pinned": (
        route(by("moon", offered_by("moon")), "transit", "moon"),
        Ignored.UNPINNED,
    ),
    "a mandate in place of an advertisement": (
        route(replace(by("insight", GOOD), kind="mandate"), "transit", "insight"),
        Ignored.UNREADABLE,
    ),
}
CONTENTS: dict[str, tuple[dict[str, object], Ignored]] = {
    "a network of another": (
        {"networks": (OfferedNetwork(name="shop/customer-x", prefixes=("10.9.0.0/24",)),), "services": ()},
        Ignored.OWNER,
    ),
    "a service of another": (
        {"services": (replace(GOOD.services[0], name="shop/lab/files"),)},
        Ignored.OWNER,
    ),
    "multicast": (
        {"networks": (OfferedNetwork(name="insight/lab", prefixes=("224.0.0.0/4",)),), "services": ()},
        Ignored.INVALID,
    ),
    "more than all hosts": (
        {"networks": (OfferedNetwork(name="insight/lab", prefixes=("0.0.0.0/0",)),), "services": ()},
        Ignored.INVALID,
    ),
    "a prefix that is none": (
        {"networks": (OfferedNetwork(name="insight/lab", prefixes=("10.9.0.1/24",)),), "services": ()},
        Ignored.INVALID,
    ),
    "an address that is not the network's": (
        {"services": (replace(GOOD.services[0], addresses=("10.8.0.9",)),)},
        Ignored.INVALID,
    ),
    "a service without its network": ({"networks": ()}, Ignored.INVALID),
    "a name that is none": (
        {"networks": (OfferedNetwork(name="insight/La b", prefixes=("10.9.0.0/24",)),), "services": ()},
        Ignored.INVALID,
    ),
    "a name twice": ({"networks": GOOD.networks * 2}, Ignored.INVALID),
    "ports that are none": (
        {"services": (replace(GOOD.services[0], ports=(Ports(protocol="tcp", first=9, last=1),)),)},
        Ignored.INVALID,
    ),
}


def say(world: World, *routes: Route, sender: str = "transit", **more: object) -> None:
    number = int((world.now_s + 50) * 1000)
    message = replace(Routes(number=number, routes=routes), **more)
    assert world.deliver(by(sender, message), sender, "shop") == ""


def test_the_same_without_the_lie_is_taken(world: World) -> None:
    say(world, route(by("insight", NEWER), "transit", "insight"))
    assert "insight/lab/files" in known(world, "shop")
    assert reaches(world, "shop") == {"transit insight": ("transit", "insight")}, "insight's own is older now"


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_counts_for_nothing_but_its_count(lie: str, world: World) -> None:
    before, (said, reason) = known(world, "shop"), LIES[lie]
    say(world, said)
    assert known(world, "shop") == before
    assert ignored(world, "shop") == {"transit": {str(reason): 1}}
    world.apply("shop", ORDER_PROCESSING)
    world.run(5.0)
    assert reaches(world, "shop")["insight insight"] == ("insight",)


@pytest.mark.parametrize("content", CONTENTS)
def test_an_owner_offers_its_own_and_nothing_that_is_none(content: str, world: World) -> None:
    changes, reason = CONTENTS[content]
    before = known(world, "shop")
    say(world, route(by("insight", replace(NEWER, **changes)), "transit", "insight"))
    assert known(world, "shop") == before
    assert ignored(world, "shop") == {"transit": {str(reason): 1}}


def test_where_our_tunnels_begin_no_network_of_others_is(world: World) -> None:
    networks = (OfferedNetwork(name="insight/lab", prefixes=("192.0.2.0/24",)), *GOOD.networks[1:])
    say(world, route(by("insight", replace(NEWER, networks=networks, services=())), "transit", "insight"))
    assert "insight/lab" not in known(world, "shop")


def test_what_it_said_before_does_not_count_beside_a_lie(world: World) -> None:
    assert "transit insight" in reaches(world, "shop")
    say(world, LIES["altered"][0])
    assert reaches(world, "shop") == {"insight insight": ("insight",)}


def test_a_message_that_comes_again_or_late_changes_nothing(world: World) -> None:
    first = world.heard("routes", "transit", "shop")[-1]
    say(world, withdrawn=("insight",))
    assert reaches(world, "shop") == {"insight insight": ("insight",)}
    world.deliver(first, "transit", "shop")
    assert reaches(world, "shop") == {"insight insight": ("insight",)}


# ---- any number of domains


def usable(world: Domains, cut: set[Pair], count: int) -> dict[int, set[int]]:
    """Whom each domain can reach over links that are not cut."""
    found = {}
    for start in range(count):
        seen, front = {start}, [start]
        while front:
            here = front.pop()
            for pair in world.pairs - cut:
                if here in pair:
                    (other,) = {*pair} - {here}
                    if other not in seen:
                        seen.add(other)
                        front.append(other)
        found[start] = seen - {start}
    return found


def check_converged(world: Domains, cut: set[Pair], count: int, silent: set[int]) -> None:
    """Everybody knows whom he can reach, and nobody else; by paths that are."""
    for number, expected in usable(world, cut, count).items():
        name = name_of(number)
        told = {name_of(other) for other in expected - silent}
        assert {heard.route.owner for heard in world.controllers[name].state.reaches.values()} == told, name
        assert {service.split("/")[0] for service in world.controllers[name].state.inventory.services} - {name} == told
        for heard in world.controllers[name].state.reaches.values():
            path = (name, *heard.route.path)
            assert len({*path}) == len(path)
            for near, far in itertools.pairwise(path):
                pair = (min(int(near[1:]), int(far[1:])), max(int(near[1:]), int(far[1:])))
                assert pair in world.pairs - cut, f"{name}: {path}"


@pytest.mark.parametrize("seed", range(6))
def test_whatever_happens_all_know_in_the_end_what_can_be_reached(seed: int) -> None:
    """Links are cut and come back, controllers die, messages get lost, come twice and overtake, domains withdraw."""
    chance = random.Random(seed)
    count = chance.randint(4, 7)
    pairs = {(number - 1, number) for number in range(1, count)}
    pairs |= {(near, far) for near in range(count) for far in range(near + 1, count) if chance.random() < 0.3}
    faults = Faults(loss=0.2, duplication=0.2, delay_s=(0.001, 1.5))
    world = Domains(count, sorted(pairs), seed, faults)
    world.start()
    world.crash_chance = 0.002
    cut: set[Pair] = set()
    silent: set[int] = set()
    for _ in range(12):
        what = chance.choice(("cut", "mend", "withdraw", "advertise", "crash"))
        number = chance.randrange(count)
        match what:
            case "cut" | "mend":
                pair = chance.choice(sorted(world.pairs))
                (cut.add if what == "cut" else cut.discard)(pair)
                world.set_carrier(link_name(pair), what == "mend")
            case "withdraw" | "advertise":
                (silent.add if what == "withdraw" else silent.discard)(number)
                if world.controllers[name_of(number)].alive:
                    world.load_policy(name_of(number), ONLY_OTHERS if what == "withdraw" else ALL)
                else:
                    world.controllers[name_of(number)].policy = ONLY_OTHERS if what == "withdraw" else ALL
            case "crash":
                controller = world.controllers[name_of(number)]
                if controller.alive:
                    controller.crash()
                    world.after(1.0, controller.start)
        world.run(chance.choice((0.5, 3.0, 20.0)))
    world.crash_chance, world.faults = 0.0, Faults()
    world.run(400.0)  # what has changed too often is damped for so long at most
    check_converged(world, cut, count, silent)


ONLY_OTHERS = replace(ALL, advertise=(AdvertiseRule(to="*", what="d???", onward=True),))
"""Not what is its own."""


def test_a_domain_that_withdraws_is_forgotten_by_few_messages() -> None:
    """Nobody counts to infinity: a ring, and a line through it, of twelve domains."""
    count = 12
    pairs = [(number, (number + 1) % count) for number in range(count)] + [(0, 6), (3, 9)]
    world = Domains(count, [(min(pair), max(pair)) for pair in pairs])
    world.start()
    world.run(30.0)
    check_converged(world, set(), count, set())
    for change in ("withdrawn", "cut off"):
        world.wiretap.clear()
        if change == "withdrawn":
            world.load_policy(name_of(5), ONLY_OTHERS)
        else:
            for pair in world.pairs:
                if 7 in pair:
                    world.set_carrier(link_name(pair), False)
        world.run(30.0)
        cut = {pair for pair in world.pairs if 7 in pair} if change == "cut off" else set()
        check_converged(world, cut, count, {5})
        over_link = Counter(frozenset((sender, receiver)) for sender, receiver, _ in world.wiretap)
        assert max(over_link.values()) <= 8, change


def test_a_longer_way_is_taken_where_it_is_trusted_more() -> None:
    trust = {(0, 2): TopologyTrust.PUBLIC}
    world = Domains(3, [(0, 1), (1, 2), (0, 2)], trust=trust)
    world.start()
    world.run(10.0)
    assert world.controllers[name_of(0)].state.tellings[name_of(1)].wanted.keys() == {name_of(0)}
    said = world.controllers[name_of(1)].state.tellings[name_of(0)].said
    assert said[name_of(2)].path == (name_of(1), name_of(2)) and said[name_of(2)].trust == Trust.PARTNER
