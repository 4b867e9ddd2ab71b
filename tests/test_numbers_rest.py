"""A number of a node means nothing else while some node still acts on what it meant: where nearly all numbers are in
use, what ends leaves the only free one, and what waits would have it at once."""

import ipaddress
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from controller.fulfillment.numbering import FIRST_SERVICE, Kind
from controller.model.event import EndAgreement, Event
from controller.reconcile import identifiers
from controller.reconcile.identifiers import sr_policy_numbers
from dataplane.host_api import PortRole
from tests.simulator import Controller, World
from tests.test_capacity_check import ALL_FOR_ONE, ANALYTICS_ONLY, EVERYTHING, intent
from topologies.topology_file import load

Number = tuple[str, Kind, int]
TIGHT = {"steer": 12, "policy_class_counter": 12, "path_liveness": 4}
"""Tables that are full with three intents or four."""
OWNERS = ("intents/", "agreements/")


@pytest.fixture
def world(request: pytest.FixtureRequest) -> World:
    world = World(request.param)
    world.change_policy("insight", ANALYTICS_ONLY, EVERYTHING + ALL_FOR_ONE)
    world.change_policy("transit", "offer:", ALL_FOR_ONE + "offer:")
    world.start()
    for table, size in TIGHT.items():
        world.resize(table, size)
    return world


def meanings(controller: Controller) -> dict[Number, set[str]]:
    """Whose each number is that is in use."""
    owners: dict[Number, set[str]] = defaultdict(set)
    for stitch in controller.state.stitches.values():
        for key, number in stitch.ids.items():
            node, kind, _ = key.split(" ", 2)
            owners[node, Kind(kind), number].add(stitch.plan.owner)
    return owners


def acted_on(world: World, controller: Controller) -> Iterator[tuple[Number, str]]:
    """Numbers that packets still meet, by what nodes really have, and whose packets these are."""
    inventory = controller.state.inventory.nodes
    homes = {int(ipaddress.IPv6Network(node.locator).network_address) >> 80: name for name, node in inventory.items()}
    for name in inventory:
        permitted: dict[int, set[str]] = defaultdict(set)
        for entry in world.nodes[name].entries.values():
            number = dict(entry.params).get("forwarding_class")
            if entry.table == "flow_policy" and number is not None and entry.owner.startswith(OWNERS):
                permitted[number].add(entry.owner)
                yield (name, Kind.FORWARDING_CLASS, number), entry.owner
        for entry in world.nodes[name].entries.values():
            service = dict(entry.params).get("service_sid", 0) if entry.table == "steer" else 0
            home, function = service >> 80, service >> 64 & 0xFFFF
            if home in homes and function >= FIRST_SERVICE:
                for owner in permitted[entry.match[0].value]:
                    yield (homes[home], Kind.FUNCTION, function), owner


def strays(world: World, controller: Controller) -> list[tuple[Number, str]]:
    """Whose packets meet what others have the number for."""
    owners = meanings(controller)
    return [
        (number, owner) for number, owner in acted_on(world, controller) if owner not in owners.get(number, {owner})
    ]


@pytest.mark.parametrize("world", range(6), indirect=True)
def test_no_packet_meets_a_number_that_has_come_to_mean_something_else(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[object] = []
    plain = Controller.together

    def together(controller: Controller, events: Sequence[Event], life: int) -> bool:
        taken = plain(controller, events, life)
        found.extend(strays(world, controller))
        return taken

    monkeypatch.setattr(Controller, "together", together)
    chance, fresh = world.random, itertools.count()
    carried, bad = 0, world.nodes["sg1"]
    for _ in range(60):
        match chance.choice(("apply", "apply", "delete", "end", "refuse", "silent", "well", "well")):
            case "apply":
                world.apply("shop", intent(f"i{next(fresh)}", f"tcp/{chance.randrange(1, 60_000)}"))
            case "delete" if names := list(world.controllers["shop"].state.intent_records):
                world.delete("shop", chance.choice(names))
            case "end":
                controller = world.controllers[chance.choice(("shop", "transit", "insight"))]
                if agreements := list(controller.state.agreements):
                    name = chance.choice(agreements)
                    event = EndAgreement(request_id="end", name=name, reason="maintenance", hold_off_s=0)
                    controller.event(event, controller.life)
            case "refuse":
                bad.refusal = "it does not like it"
            case "silent":
                bad.confirms = False
            case "well":
                bad.refusal, bad.confirms = "", True
                bad = world.nodes[chance.choice(("se1", "sg1", "ig1", "ie1"))]
        world.run(chance.choice((0.01, 0.3, 2.0, 8.0)))
        carried += any(number[1] == Kind.FORWARDING_CLASS for number, _ in acted_on(world, world.controllers["shop"]))
        assert not found, found[:3]
    assert carried > 10, "something is carried most of the time"


NETWORK = """
apiVersion: netstitch/v1
kind: Network
metadata: {{name: campus/{name}}}
spec:
  prefixes: [10.2.{third}.0/24]
  gateways: [10.2.{third}.1]
  attachments:
    - {{name: {name}-1, node: {first}, port: {port}, addresses: [10.2.{third}.11]}}
    - {{name: {name}-2, node: {second}, port: {port}, addresses: [10.2.{third}.12]}}
"""
INTENT = """
apiVersion: netstitch/v1
kind: Intent
metadata: {{name: {name}, tenant: t}}
spec:
  allow: [{{from: campus/{name}, to: campus/{other}/web, ports: [icmp]}}]
  require: {{latency_ms: {{max: {bound}}}}}
---
apiVersion: netstitch/v1
kind: Service
metadata: {{name: campus/{other}/web}}
spec: {{addresses: [10.2.{third}.11], ports: [icmp]}}
"""
FEW = {Kind.VRF: 6, Kind.POLICY_CLASS: 12, Kind.FORWARDING_CLASS: 12, Kind.SR_POLICY: 4, Kind.FUNCTION: 6}
"""Numbers of each kind at each node: what is there, and some three networks more."""
LOCAL = {
    "vrf": Kind.VRF,
    "policy_class": Kind.POLICY_CLASS,
    "forwarding_class": Kind.FORWARDING_CLASS,
    "sr_policy": Kind.SR_POLICY,
}
"""What entries match, or do, by a number of their own node."""


Use = tuple[str, object, Number]
"""An entry of a node, and a number that it matches, or leads to."""


def called(controller: Controller) -> dict[Number, set[str]]:
    """What each number that is in use is called, without its node and kind."""
    state = controller.state
    ids = [state.numbers, *(stitch.ids for stitch in state.stitches.values())]
    names: dict[Number, set[str]] = defaultdict(set)
    for numbers in (*ids, *map(sr_policy_numbers, state.sr_policies.values())):
        for key, number in numbers.items():
            node, kind, what = key.split(" ", 2)
            names[node, Kind(kind), number].add(what)
    return names


def uses(world: World, controller: Controller) -> Iterator[Use]:
    inventory = controller.state.inventory.nodes
    homes = {int(ipaddress.IPv6Network(node.locator).network_address) >> 80: name for name, node in inventory.items()}
    for name in inventory:
        for key, entry in world.nodes[name].entries.items():
            named = {field.field: field.value for field in entry.match} | dict(entry.params)
            what = (key, entry.params)
            yield from ((name, what, (name, kind, named[field])) for field, kind in LOCAL.items() if field in named)
            service = named.get("service_sid", 0)
            home, function = service >> 80, service >> 64 & 0xFFFF
            if home in homes and function >= FIRST_SERVICE:
                yield name, what, (homes[home], Kind.FUNCTION, function)


class Watched:
    """Whether a number that entries still use comes to mean something else, after each step of a controller."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.strays: list[object] = []
        self.reused = Counter[Kind]()
        self._written: dict[Use, set[str]] = {}
        """What the numbers of entries were called when these were first seen at their nodes."""
        self._before: dict[Number, set[str]] = {}

    def look(self, controller: Controller) -> None:
        names = called(controller)
        there = {use: self._written.get(use) or names.get(use[2], set()) for use in uses(self.world, controller)}
        self.strays += [
            (use, written, names[use[2]])
            for use, written in there.items()
            if written and use[2] in names and written.isdisjoint(names[use[2]])
        ]
        self._written = there
        for number, what in names.items():
            self.reused[number[1]] += self._before.get(number, what).isdisjoint(what)
            self._before[number] = what


def come_and_go(world: World, watched: Watched) -> None:
    """Networks at two edges of three, and intents between them, while edges refuse everything for a time, or are
    silent."""
    chance, fresh, bad = world.random, itertools.count(), world.nodes["e1"]
    networks: list[int] = []
    intents: dict[int, int] = {}
    for _ in range(50):
        match chance.choice(["apply", "apply", "delete", "well", "well", *["intent"] * 4, "refuse", "silent"]):
            case "apply":
                number = next(fresh)
                first, second = chance.sample(("e1", "e2", "e3"), 2)
                network = NETWORK.format(name=f"n{number}", third=number, first=first, second=second, port=20 + number)
                reply = world.apply("campus", network)
                networks += [number] if reply is not None and reply.results else []
            case "intent" if len(networks) > 1:
                number, other = chance.sample(networks, 2)
                bound = chance.randrange(5, 60)
                world.apply("campus", INTENT.format(name=f"n{number}", other=f"n{other}", third=other, bound=bound))
                intents[number] = other
            case "delete" if len(networks) > 2:
                number = networks.pop(chance.randrange(len(networks)))
                gone = [each for each, other in intents.items() if number in (each, other)]
                for each in gone:
                    del intents[each]
                    world.delete("campus", f"n{each}")
                world.delete("campus", f"campus/n{number}/web", "Service")
                world.delete("campus", f"campus/n{number}", "Network")
            case "refuse":
                bad.refusal = "it does not like it"
            case "silent":
                bad.confirms = False
            case "well":
                bad.refusal, bad.confirms = "", True
                bad = world.nodes[chance.choice(("e1", "e2", "e3"))]
        world.run(chance.choice((0.01, 0.3, 2.0, 8.0)))
        assert not watched.strays, watched.strays[:3]


def test_numbers_of_networks_and_sr_policies_rest_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """VRFs, policy classes and SIDs of networks, and the SR Policies between their edges."""
    plain_range, plain = identifiers.first_and_last, Controller.together

    def few(kind: Kind, size: int) -> tuple[int, int]:
        first, last = plain_range(kind, size)
        return first, min(last, first + FEW[kind] - 1)

    monkeypatch.setattr(identifiers, "first_and_last", few)
    reused = Counter[Kind]()
    for seed in range(3):
        world = World(seed, topology=load(Path(__file__).with_name("several-edges.yaml")))
        for edge, port in itertools.product(("e1", "e2", "e3"), range(20, 70)):
            world.nodes[edge].add_port(port, PortRole.ATTACHMENT)
        world.start()
        watched = Watched(world)

        def together(controller: Controller, events: Sequence[Event], life: int, watched: Watched = watched) -> bool:
            taken = plain(controller, events, life)
            watched.look(controller)
            return taken

        monkeypatch.setattr(Controller, "together", together)
        come_and_go(world, watched)
        reused += watched.reused
    assert reused.keys() >= {*Kind} - {Kind.VRF}, reused


def test_what_a_network_had_at_an_edge_that_refuses_everything_is_no_others_until_it_is_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of each kind there is no number but these."""
    world = World(topology=load(Path(__file__).with_name("several-edges.yaml")))
    for edge, port in itertools.product(("e1", "e2"), (20, 21)):
        world.nodes[edge].add_port(port, PortRole.ATTACHMENT)
    world.start()
    controller, edge = world.controllers["campus"], world.nodes["e1"]
    first, second = (
        NETWORK.format(name=f"n{number}", third=number, first="e1", second="e2", port=20 + number)
        for number in range(2)
    )
    world.apply("campus", first)
    world.run(3.0)
    last = {kind: max(number for _, each, number in called(controller) if each == kind) for kind in Kind}
    plain = identifiers.first_and_last
    monkeypatch.setattr(identifiers, "first_and_last", lambda kind, size: (plain(kind, size)[0], last[kind]))
    watched = Watched(world)
    watched.look(controller)
    edge.refusal = "it does not like it"
    world.delete("campus", "campus/n0", "Network")
    for _ in range(20):
        reply = world.apply("campus", second)
        watched.look(controller)
        world.run(0.5)
        watched.look(controller)
    assert reply is not None and "are in use" in reply.conflict
    assert not watched.strays
    edge.refusal = ""
    world.run(5.0)
    watched.look(controller)
    reply = world.apply("campus", second)
    assert reply is not None and reply.results == ("networks/campus/n1 created",)
    world.run(3.0)
    watched.look(controller)
    assert not watched.strays and watched.reused[Kind.VRF]
