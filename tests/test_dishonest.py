"""A domain on the way that tries every field of every message: it signs rightly, and says something else."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from controller.model.agreement import MESSAGES, Advertisement, Mandate
from controller.model.intent import Ports
from tests.dishonest import Heard, Wiretap, lies, opens, other_envelopes, places, said, with_others
from tests.simulator import ORDER_PROCESSING, World, untold

ISOLATED = """
apiVersion: netstitch/v1
kind: Intent
metadata: {name: quarantine, tenant: analysts}
spec: {isolate: {network: insight/analytics}}
"""
DIRECT = """
apiVersion: netstitch/v1
kind: Intent
metadata: {name: direct, tenant: customer-x}
spec:
  allow:
    - {from: {network: shop/customer-x, select: {app: web}}, to: insight/analytics/analytics-y, ports: [icmp]}
  require: {avoid: {domains: [transit]}}
"""


SHARING = "---".join(
    f"""
apiVersion: netstitch/v1
kind: Intent
metadata: {{name: {name}, tenant: customer-x}}
spec:
  allow:
    - {{from: {{network: shop/customer-x, select: {{app: web}}}}, to: insight/analytics/analytics-y, ports: [{ports}]}}
"""
    for name, ports in (("ping", "icmp"), ("web", "tcp/443"))
)


@functools.cache
def everything_that_transit_says() -> dict[tuple[str, str], Heard]:
    world = World()
    tap = Wiretap(world)
    world.start()
    world.apply("shop", DIRECT)
    world.apply("shop", ORDER_PROCESSING)
    world.run(2.0)
    world.meet(("shop", "transit"), ("transit", "insight"))
    world.run(1.0)
    world.apply("insight", ISOLATED)
    world.run(10.0)
    world.delete("insight", "quarantine")
    world.run(70.0)
    world.delete("shop", "order-processing")
    world.run(3.0)
    policy = world.controllers["insight"].policy
    ping = Ports(protocol="icmp", first=0, last=65535)
    world.apply("shop", SHARING)
    world.run(1.0)
    world.load_policy("insight", replace(policy, accept=tuple(replace(rule, ports=(ping,)) for rule in policy.accept)))
    world.run(5.0)
    for link in ("t1-tc1", "t1-tc2"):
        world.set_carrier(link, False)
    world.run(10.0)
    for link in ("t1-tc1", "t1-tc2"):
        world.set_carrier(link, True)
    world.run(5.0)
    return tap.heard


MANDATED_US = 20_000
ITS_OWN: dict[tuple[str, str], Callable[[Any, Any], bool]] = {
    ("offer", "id"): lambda new, _: new.startswith("transit:"),
    ("offer", "revision"): lambda new, _: new > 0,
    ("offer", "flows"): lambda new, old: set(new) == set(old),
    ("offer", "flows.source_prefixes"): lambda new, old: set(new) <= set(old),
    ("offer", "flows.destination_prefixes"): lambda new, old: set(new) <= set(old),
    ("offer", "flows.ports"): lambda new, old: set(new) <= set(old),
    ("offer", "flows.ports.first"): lambda new, old: new > old,
    ("offer", "flows.ports.last"): lambda new, old: new < old,
    ("offer", "latency_us_max"): lambda new, _: new <= MANDATED_US,
    ("offer", "not_before_s"): lambda new, old: new <= old + 60,
    ("offer", "expires_s"): lambda new, old: new < old,
    ("offer", "source_prefixes"): lambda new, _: not new,
    ("offer", "avoid_domains"): lambda new, _: "insight" not in new,
    ("offer", "offeror_end.sid"): lambda new, _: new.startswith("5f00:2:"),
    ("offer", "offeror_end.public_key"): lambda new, _: True,
    ("offer", "offeror_end.endpoint"): lambda new, old: new.split(":")[0] == old.split(":")[0],
    ("offer", "offeror_end.inner_mtu"): lambda new, _: new >= 1000,
    ("acceptance", "acceptor_end.sid"): lambda new, _: new.startswith("5f00:2:"),
    ("acceptance", "acceptor_end.public_key"): lambda new, _: True,
    ("acceptance", "acceptor_end.endpoint"): lambda new, old: new.split(":")[0] == old.split(":")[0],
    ("acceptance", "acceptor_end.inner_mtu"): lambda new, _: new >= 1000,
    ("acceptance", "latency_us"): lambda new, _: new <= MANDATED_US,
    ("acceptance", "expected_us"): lambda new, _: True,
}
"""What a domain on the way may say as it likes, by kind and place: what it names and counts itself, its own end of the
border, what it promises of itself, and less than the origin asks for. `new` and `old` stand at the place."""


@functools.cache
def what_transit_says_of_where_it_leads() -> Heard:
    world = World(topology=untold())
    world.greets = True
    tap = Wiretap(world)
    world.start()
    world.run(5.0)
    world.meet(("shop", "transit"))
    world.run(5.0)
    return tap.heard["routes", "shop"]


@functools.cache
def what_transit_says_of_its_tunnels_keys() -> Heard:
    """What it may say of them, and what becomes of lies: tests/test_tunnel_keys.py."""
    world = World()
    world.greets = True
    for node in world.nodes.values():
        node.renews = True
    tap = Wiretap(world)
    world.start()
    world.apply("shop", ORDER_PROCESSING)
    world.run(10.0)
    return tap.heard["renewed_keys", "shop"]


def heard(kind: str) -> list[Heard]:
    if kind == "routes":
        return [what_transit_says_of_where_it_leads()]
    if kind == "renewed_keys":
        return [what_transit_says_of_its_tunnels_keys()]
    return [message for (said_kind, _), message in everything_that_transit_says().items() if said_kind == kind]


def test_every_message_is_among_what_is_tried_and_every_field_of_it() -> None:
    for kind, message in MESSAGES.items():
        tried = {place for tapped in heard(kind) for place, *_ in lies(tapped)}
        parts = {place.rpartition(".")[0] for place in tried}
        inner = {f"mandate:{place}" for place in places(Mandate)} if kind == "offer" else set()
        inner |= {f"advertisement:{place}" for place in places(Advertisement)} if kind == "routes" else set()
        assert places(message) | inner <= tried | parts, kind


@pytest.mark.parametrize("kind", ["offer", "acceptance"])
def test_what_it_asks_or_promises_in_another_s_name_opens_nothing(kind: str) -> None:
    (message,) = heard(kind)
    assert opens(message.state, message.instead(message.envelope)[0]), "what it really said"
    followed = set()
    for place, old, new, envelope in lies(message):
        after, effects = message.instead(envelope)
        if opens(message.state, after):
            assert ITS_OWN.get((kind, place), lambda *_: False)(new, old), f"{place}: {new} in place of {old}"
            followed.add((kind, place))
        else:
            expected = {("transit", "refusal" if kind == "offer" else "withdrawal")}
            assert said(effects) <= expected, f"{place}: {new} in place of {old}"
        assert with_others(after).items() >= with_others(message.state).items(), f"{place}: {new} in place of {old}"
    assert followed == {row for row in ITS_OWN if row[0] == kind}


@pytest.mark.parametrize("kind", ["refusal", "withdrawal", "holdings"])
def test_what_it_ends_is_its_own_and_opens_nothing(kind: str) -> None:
    for message in heard(kind):
        for place, old, new, envelope in lies(message):
            after, effects = message.instead(envelope)
            assert not opens(message.state, after), f"{place}: {new} in place of {old}"
            kept = with_others(message.state)
            assert {name: after.stitches.get(name) for name in kept} == kept, f"{place}: {new} in place of {old}"
            asked_again = {"offer"} if message.receiver == "shop" else {"acceptance"}
            assert {what for _, what in said(effects)} <= {"withdrawal", "holdings", *asked_again}, f"{place}: {new}"


def test_a_message_is_of_the_kind_and_version_that_it_was_signed_as() -> None:
    for message in everything_that_transit_says().values():
        for envelope in other_envelopes(message):
            after, effects = message.instead(envelope)
            assert not opens(message.state, after) and {what for _, what in said(effects)} <= {"refusal", "withdrawal"}
            assert {name: after.stitches.get(name) for name in message.state.stitches} == dict(
                message.state.stitches.items()
            )


ITS_OWN_WAY = {
    "number",
    "routes.path",
    "routes.gateways",
    "routes.gateways.latency_us",
    "routes.gateways.cost",
    "routes.trust",
}
"""What a domain on the way may say as it likes of where it leads: how it counts, and its part of the way. That it leads
nowhere it may say in any way."""


def test_where_it_leads_is_its_own_word_and_what_is_there_its_owners() -> None:
    (message,) = heard("routes")
    honest, _ = message.instead(message.envelope)
    name = "transit insight"
    assert name in honest.reaches and "insight/analytics" in honest.inventory.networks
    followed = set()
    for place, old, new, envelope in lies(message):
        after, effects = message.instead(envelope)
        for table in ("networks", "services"):
            for thing in getattr(after.inventory, table).values():
                told = getattr(honest.inventory, table).get(thing.name)
                assert thing == told, f"{place}: {new} in place of {old}"
        assert {*after.reaches} <= {*honest.reaches}, f"{place}: {new} in place of {old}"
        if name in after.reaches and after.reaches[name] != honest.reaches[name]:
            assert place in ITS_OWN_WAY, f"{place}: {new} in place of {old}"
            assert "shop" not in after.reaches[name].route.path
            followed.add(place)
        assert {what for _, what in said(effects)} <= {"routes"}, f"{place}: {new} in place of {old}"
    assert followed >= ITS_OWN_WAY - {"number", "routes.path", "routes.gateways"}
