"""Intents to requirements: names become hosts, addresses and ports."""

import pytest
from msgspec.structs import replace

from controller.fulfillment.rule_engine import NO_RULES
from controller.fulfillment.translate import translate
from controller.language.manifest import parse
from controller.model.intent import Allow, Avoid, Encryption, Intent, Ports, Require, Selector
from controller.model.inventory import Inventory
from controller.model.requirements import Requirements
from tests.simulator import ORDER_PROCESSING, World


@pytest.fixture(scope="module")
def inventory() -> Inventory:
    world = World()
    world.start()
    return world.controllers["shop"].state.inventory


def intent() -> Intent:
    value = parse(ORDER_PROCESSING)[0].value
    assert isinstance(value, Intent)
    return value


def test_reference_intent_isolates_cx1_and_reaches_the_service(inventory: Inventory) -> None:
    requirements = translate(intent(), NO_RULES, inventory)
    assert isinstance(requirements, Requirements) and requirements.isolation is not None
    assert [host.name for host in requirements.isolation.hosts] == ["cx1"]
    (connection,) = requirements.connections
    (flow,) = connection.flows
    assert flow.source_prefixes == ("10.1.0.11/32", "2001:db8:1::11/128")
    assert flow.destination_prefixes == ("10.2.0.10/32", "2001:db8:2::10/128")
    assert connection.destination_domain == "insight" and connection.destinations == ()


def test_service_ports_are_the_default(inventory: Inventory) -> None:
    bare = replace(intent(), allow=(Allow(to="insight/analytics/analytics-y"),))
    requirements = translate(bare, NO_RULES, inventory)
    assert isinstance(requirements, Requirements)
    assert set(requirements.connections[0].flows[0].ports) == {
        Ports(protocol="tcp", first=443, last=443),
        Ports(protocol="icmp"),
    }


def test_two_allows_to_one_network_are_one_connection_to_two_are_two(inventory: Inventory) -> None:
    service = Allow(to="insight/analytics/analytics-y")
    network = Allow(to="insight/analytics", ports=(Ports(protocol="icmp"),))
    both = translate(replace(intent(), allow=(service, network)), NO_RULES, inventory)
    assert isinstance(both, Requirements) and [len(connection.flows) for connection in both.connections] == [2]
    other = Allow(to="insight/archive/archive-z")
    two = translate(replace(intent(), allow=(service, other)), NO_RULES, inventory)
    assert isinstance(two, Requirements)
    assert [connection.destination_network for connection in two.connections] == [
        "insight/analytics",
        "insight/archive",
    ]


X = Selector(network="shop/customer-x")


@pytest.mark.parametrize(
    ("change", "path", "message"),
    [
        (
            {"isolate": Selector(network="shop/customer-y")},
            ("spec", "isolate", "network"),
            "did you mean shop/customer-",
        ),
        (
            {"isolate": replace(X, labels=(("app", "nothing"),))},
            ("spec", "isolate", "select"),
            "no host of shop/customer-x is app=nothing; there are: cx1 (app=order-processing), cx2 (app=web)",
        ),
        ({"isolate": Selector(network="insight/analytics")}, ("spec", "isolate", "network"), "is not ours"),
        (
            {"allow": (Allow(to="insight/analytics/analytics-x"),)},
            ("spec", "allow", 0, "to"),
            "unknown service insight/analytics/analytics-x; did you mean insight/analytics/analytics-y?",
        ),
        ({"allow": (Allow(to="insight/anlytics"),)}, ("spec", "allow", 0, "to"), "unknown network"),
        ({"allow": (Allow(to="moon/a"),)}, ("spec", "allow", 0, "to"), "unknown domain moon"),
        (
            {"allow": (Allow(to="insight/analytics/analytics-y", ports=(Ports(protocol="tcp", first=80, last=80),)),)},
            ("spec", "allow", 0, "ports", 0),
            "does not offer tcp/80; it offers tcp/443, icmp",
        ),
    ],
)
def test_what_is_wrong_has_a_path_and_a_hint(
    inventory: Inventory, change: dict[str, object], path: tuple[str | int, ...], message: str
) -> None:
    problems = translate(replace(intent(), **change), NO_RULES, inventory)
    assert not isinstance(problems, Requirements)
    assert problems[0].path == path and message in problems[0].message


@pytest.mark.parametrize(
    ("change", "clause"),
    [
        ({"via": ("firewall",)}, "via"),
        ({"require": Require(bandwidth_bps_min=1)}, "bandwidth"),
        ({"require": Require(encryption=Encryption.WIREGUARD_END_TO_END)}, "encryption"),
        ({"require": Require(avoid=Avoid(domains=("insight",)))}, "avoid"),
        ({"service_class": "realtime"}, "class"),
    ],
    ids=str,
)
def test_what_cannot_be_placed_is_named(inventory: Inventory, change: dict[str, object], clause: str) -> None:
    requirements = translate(replace(intent(), **change), NO_RULES, inventory)
    assert isinstance(requirements, Requirements) and [unmet.binding for unmet in requirements.unmet] == [clause]
    assert requirements.isolation is not None


def test_a_prefix_selects_addresses(inventory: Inventory) -> None:
    requirements = translate(replace(intent(), isolate=replace(X, prefixes=("10.1.0.8/29",))), NO_RULES, inventory)
    assert isinstance(requirements, Requirements) and requirements.isolation is not None
    assert [(host.name, host.addresses) for host in requirements.isolation.hosts] == [
        ("cx1", ("10.1.0.11/32",)),
        ("cx2", ("10.1.0.12/32",)),
    ]
    nobody = translate(replace(intent(), isolate=replace(X, prefixes=("10.9.0.0/16",))), NO_RULES, inventory)
    assert not isinstance(nobody, Requirements) and nobody[0].path == ("spec", "isolate", "prefixes")
