"""Many intents, few agreements: one is amended when an intent comes or goes, and each side looks at each flow."""

from collections.abc import Iterator, Sequence

import pytest
from msgspec.structs import replace

from controller.model.agreement import Acceptance, Flow, Refusal, Terms, Withdrawal, opened_mandate, unsigned
from controller.model.event import EndAgreement, Event
from controller.model.intent import Ports
from controller.model.policy import AcceptRule, Policy
from controller.model.stitch import Stage, Standing, Stitch
from controller.model.told import Told
from controller.reconcile import State
from tests.offers import asked_for, said, signed
from tests.simulator import Faults, SimulatedKeys, World

ICMP, HTTPS = "icmp", "tcp/443"
ANYTHING = Policy(accept=(AcceptRule(origin="shop", source="shop/*", destination="insight/*"),), max_share=90)


def intent(name: str, ports: str, tenant: str = "customer-x", extra: str = "") -> str:
    to = "insight/analytics/analytics-y" if ports in (ICMP, HTTPS) else "insight/analytics"
    return f"""
apiVersion: netstitch/v1
kind: Intent
metadata: {{name: {name}, tenant: {tenant}}}
spec:
  allow:
    - {{from: {{network: shop/customer-x, select: {{app: web}}}}, to: {to}, ports: [{ports}]}}
  {extra}
---
"""


def met(*, seed: int = 0, policy: Policy | None = None, without: str = "", faults: Faults | None = None) -> World:
    """Neighbours that know what the other's release can do. `without`: one whose release amends nothing."""
    world = World(seed, faults)
    world.greets = True
    if without:
        world.capabilities[without] = ("holdings", "batches")
    if policy is not None:
        world.controllers["insight"].policy = policy
    world.start()
    world.run(1.0)
    return world


def stitches(world: World, domain: str = "shop") -> dict[str, Stitch]:
    """By intent, or by agreement."""
    state = world.controllers[domain].state
    return {stitch.plan.owner.partition("/")[2]: stitch for stitch in state.stitches.values()}


def agreed(world: World, domain: str) -> list[tuple[str, set[str]]]:
    """Of each agreement the id and for which ports it is, as it is in force."""
    ports_by_agreement = {}
    for stitch in world.controllers[domain].state.stitches.values():
        for session in (stitch.upstream, stitch.downstream):
            if session is not None and session.agreement is not None:
                ports_by_agreement[session.terms.id] = {ports_of(flow) for flow in session.agreement.terms.flows}
    return sorted(ports_by_agreement.items())


def ports_of(flow: Flow) -> str:
    return ",".join(f"{ports.protocol}/{ports.first}" for ports in flow.ports)


def offers(world: World, sender: str = "shop") -> list[Terms]:
    return [message for message in said(world, "offer", sender) if isinstance(message, Terms)]


def phases(world: World, *names: str) -> list[str]:
    return [world.phase("shop", name) for name in names]


def only(rule: AcceptRule, *ports: Ports) -> AcceptRule:
    return replace(rule, ports=ports)


PING = Ports(protocol="icmp", first=0, last=65535)


def test_intents_between_the_same_networks_share_an_agreement() -> None:
    world = met()
    world.apply("shop", intent("ping", ICMP))
    world.run(2.0)
    world.apply("shop", intent("web", HTTPS))
    world.run(2.0)
    world.check_settled()
    assert phases(world, "ping", "web") == ["Active", "Active"]
    both = {"icmp/0", "tcp/443"}
    assert [ports for _, ports in agreed(world, "shop")] == [both]
    assert [ports for _, ports in agreed(world, "transit")] == [both, both]
    assert [ports for _, ports in agreed(world, "insight")] == [both]
    newest = offers(world)[-1]
    assert newest.revision == 2 and opened_mandate(newest.mandate).flows == newest.flows
    assert opened_mandate(offers(world, "transit")[-1].mandate) == opened_mandate(newest.mandate)
    (resource,) = world.resources("shop", "agreements")
    assert resource.status["intents"] == ["ping", "web"]


def entries(world: World, owner: str) -> dict[str, set[object]]:
    return {
        name: {(*key, entry.action, entry.params) for key, entry in node.entries.items() if entry.owner == owner}
        for name, node in world.nodes.items()
    }


def test_what_is_agreed_is_untouched_while_an_amendment_is_made() -> None:
    world = met()
    world.apply("shop", intent("ping", ICMP))
    world.run(2.0)
    before = entries(world, "intents/ping")
    shop = world.controllers["shop"]
    together, seen = shop.together, []

    def watched(events: Sequence[Event], life: int) -> bool:
        taken = together(events, life)
        seen.append((shop.state.stitches["ping.1"].stage, entries(world, "intents/ping") == before))
        return taken

    shop.together = watched  # type: ignore[method-assign]
    world.apply("shop", intent("web", HTTPS))
    world.run(2.0)
    assert set(seen) == {(Stage.ACTIVE, True)} and len(seen) > 5
    stages = {stitch.plan.name: stitch.stage for stitch in shop.state.stitches.values()}
    assert stages == {"ping.1": Stage.ACTIVE, "web.3": Stage.ACTIVE}


def test_the_acceptor_has_it_before_the_offeror_uses_it() -> None:
    world = met()
    world.apply("shop", intent("ping", ICMP))
    world.run(2.0)
    world.partitioned.add(frozenset(("transit", "insight")))
    world.apply("shop", intent("web", HTTPS))
    world.run(3.0)
    assert phases(world, "ping", "web") == ["Active", "Negotiating"]
    assert not any(entries(world, "intents/web").values())
    world.partitioned.clear()
    world.run(20.0)
    assert phases(world, "ping", "web") == ["Active", "Active"]
    world.check_settled()


def test_a_refused_amendment_leaves_the_agreement_as_it_was() -> None:
    world = met()
    policy = world.controllers["insight"].policy
    world.load_policy("insight", replace(policy, accept=tuple(only(rule, PING) for rule in policy.accept)))
    world.apply("shop", intent("ping", ICMP))
    world.run(2.0)
    before = {name: agreed(world, name) for name in world.controllers}
    nodes = {name: dict(node.entries) for name, node in world.nodes.items() if name.startswith(("i", "t"))}
    world.apply("shop", intent("web", HTTPS) + intent("again", ICMP))
    world.run(2.0)
    assert phases(world, "ping", "web", "again") == ["Active", "Refused", "Active"]
    assert {name: agreed(world, name) for name in world.controllers} == before
    assert {name: dict(node.entries) for name, node in world.nodes.items() if name.startswith(("i", "t"))} == nodes
    refusals = [message for message in said(world, "refusal", "insight", "transit") if isinstance(message, Refusal)]
    assert [{ports_of(flow) for flow in refusal.flows} for refusal in refusals] == [{"tcp/443"}]


def test_where_no_flow_is_named_each_has_an_agreement_of_its_own() -> None:
    """Such as a bound on one offer."""
    (rule,) = ANYTHING.accept
    world = met(policy=replace(ANYTHING, accept=(replace(rule, max_flows=1),)))
    for port in range(1, 4):
        world.apply("shop", intent(f"a{port}", f"tcp/{port}"))
        world.run(2.0)
    world.apply("shop", "".join(intent(f"b{port}", f"tcp/{port}") for port in range(11, 14)))
    world.run(3.0)
    world.check_settled()
    names = [f"a{port}" for port in range(1, 4)] + [f"b{port}" for port in range(11, 14)]
    assert phases(world, *names) == ["Active"] * 6
    assert [ports for _, ports in agreed(world, "insight")] == [{f"tcp/{port}"} for port in (1, 2, 3, 11, 12, 13)]


def test_an_intent_that_goes_takes_its_flows_with_it_and_the_last_the_agreement() -> None:
    world = met()
    world.apply("shop", intent("ping", ICMP) + intent("web", HTTPS))
    world.run(2.0)
    world.delete("shop", "ping")
    world.run(2.0)
    world.check_settled()
    assert [ports for name in world.controllers for _, ports in agreed(world, name)] == [{"tcp/443"}] * 4
    assert phases(world, "web") == ["Active"] and not said(world, "withdrawal")
    world.delete("shop", "web")
    world.run(2.0)
    assert not any(agreed(world, name) for name in world.controllers)
    assert not any(node.host.tunnels for node in world.nodes.values())


def test_what_is_taken_away_is_closed_at_once_also_where_nobody_answers() -> None:
    world = met()
    world.apply("shop", intent("ping", ICMP) + intent("web", HTTPS))
    world.run(2.0)
    world.partitioned.add(frozenset(("transit", "insight")))
    world.delete("shop", "ping")
    world.run(2.0)
    assert not any(entries(world, "intents/ping").values())
    (transit,) = world.controllers["transit"].state.stitches.values()
    assert [ports_of(flow) for flow in transit.plan.connection.flows] == ["tcp/443"]
    assert transit.upstream is not None and transit.upstream.standing == Standing.RENEWING
    world.partitioned.clear()
    world.run(20.0)
    world.check_settled()


def test_what_comes_while_an_offer_is_not_answered_goes_into_the_next() -> None:
    world = met(policy=ANYTHING)
    for port in range(1, 41):
        world.apply("shop", intent(f"a{port}", f"tcp/{port}"))
        world.run(0.001)
    world.run(3.0)
    world.check_settled()
    assert phases(world, *(f"a{port}" for port in range(1, 41))) == ["Active"] * 40
    assert len(agreed(world, "shop")) == 1 and len(offers(world)) <= 5
    (flows,) = [ports for _, ports in agreed(world, "insight")]
    assert flows == {f"tcp/{port}" for port in range(1, 41)}


def test_an_agreement_is_for_no_more_flows_than_an_offer_may_have() -> None:
    world = met(policy=ANYTHING)
    world.checked = False
    world.apply("shop", "".join(intent(f"a{port}", f"tcp/{port}") for port in range(1, 301)))
    world.run(3.0)
    world.check_settled()
    assert sorted(len(ports) for _, ports in agreed(world, "insight")) == [44, 256]


OTHERS = {
    "latency": intent("other", HTTPS, extra="require: {latency_ms: {max: 30}}"),
    "a lease": intent("other", HTTPS, extra="lease: {for: 1h}"),
    "trust": intent("other", HTTPS, extra="require: {trust: {min: partner}}"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_what_asks_for_something_else_on_the_way_has_another_agreement(what: str) -> None:
    world = met()
    world.apply("shop", intent("ping", ICMP))
    world.run(1.0)
    reply = world.apply("shop", OTHERS[what])
    assert reply is not None and reply.results, reply
    world.run(2.0)
    world.check_settled()
    assert phases(world, "ping", "other") == ["Active", "Active"]
    assert len(agreed(world, "shop")) == 2


def test_an_intent_that_gets_a_lease_leaves_what_it_shared() -> None:
    world = met()
    world.apply("shop", intent("ping", ICMP) + intent("web", HTTPS))
    world.run(2.0)
    world.apply("shop", intent("web", HTTPS, extra="lease: {for: 1h}"))
    world.run(5.0)
    world.check_settled()
    assert phases(world, "ping", "web") == ["Active", "Active"]
    assert sorted(len(ports) for _, ports in agreed(world, "shop")) == [1, 1]


@pytest.mark.parametrize("without", ["transit", "insight"])
def test_with_a_release_that_amends_nothing_every_intent_has_its_agreement(without: str) -> None:
    world = met(without=without)
    for name, ports in (("ping", ICMP), ("web", HTTPS)):
        world.apply("shop", intent(name, ports))
        world.run(3.0)
    world.check_settled()
    assert phases(world, "ping", "web") == ["Active", "Active"]
    assert [ports for _, ports in agreed(world, "insight")] == [{"icmp/0"}, {"tcp/443"}]
    assert all(offer.revision == 1 for offer in offers(world, "transit"))


def test_the_acceptor_ends_what_its_policy_takes_no_more_and_the_rest_goes_on() -> None:
    world = met()
    world.apply("shop", intent("ping", ICMP) + intent("web", HTTPS))
    world.run(2.0)
    policy = world.controllers["insight"].policy
    reply = world.load_policy("insight", replace(policy, accept=tuple(only(rule, PING) for rule in policy.accept)))
    assert reply is not None and "ends for 1 of its flows" in reply.results[1]
    world.run(0.5)
    assert phases(world, "ping") == ["Active"] and world.phase("shop", "web") != "Active"
    (insight,) = world.controllers["insight"].state.stitches.values()
    assert [ports_of(flow) for flow in insight.plan.connection.flows] == ["icmp/0"]
    withdrawals = [message for message in said(world, "withdrawal") if isinstance(message, Withdrawal)]
    assert [[ports_of(flow) for flow in withdrawal.flows] for withdrawal in withdrawals] == [["tcp/443"]] * 2
    world.run(5.0)
    assert phases(world, "ping", "web") == ["Active", "Refused"]
    assert [ports for name in world.controllers for _, ports in agreed(world, name)] == [{"icmp/0"}] * 4


FEWER_PORTS = """
apiVersion: netstitch/v1
kind: Service
metadata: {name: insight/analytics/analytics-y}
spec: {addresses: [10.2.0.10, "2001:db8:2::10"], ports: [icmp]}
"""
ISOLATED = """
apiVersion: netstitch/v1
kind: Intent
metadata: {name: quarantine, tenant: analysts}
spec: {isolate: {network: insight/analytics}}
"""


def test_what_the_destination_offers_no_more_ends_and_the_rest_goes_on() -> None:
    world = met()
    world.apply("shop", intent("ping", ICMP) + intent("web", HTTPS))
    world.run(2.0)
    world.apply("insight", FEWER_PORTS)
    world.run(5.0)
    assert phases(world, "ping", "web") == ["Active", "Refused"]
    assert [ports for name in world.controllers for _, ports in agreed(world, name)] == [{"icmp/0"}] * 4


def test_isolation_of_the_only_host_ends_all_of_it() -> None:
    world = met()
    world.apply("shop", intent("ping", ICMP) + intent("web", HTTPS))
    world.run(2.0)
    world.apply("insight", ISOLATED)
    world.run(3.0)
    assert phases(world, "ping", "web") == ["Refused", "Refused"]
    assert not any(agreed(world, name) for name in world.controllers)


def test_one_that_is_ended_by_hand_ends_for_all_and_is_held_off_for_all() -> None:
    world = met()
    world.apply("shop", intent("ping", ICMP) + intent("web", HTTPS))
    world.run(2.0)

    insight = world.controllers["insight"]
    ((name, _),) = agreed(world, "insight")
    event = EndAgreement(request_id="r", name=name, reason="maintenance", hold_off_s=600)
    insight.event(event, insight.life)
    world.run(5.0)
    assert phases(world, "ping", "web") == ["Refused", "Refused"]
    asked = len(offers(world))
    world.run(300.0)
    assert len(offers(world)) == asked
    world.run(400.0)
    assert phases(world, "ping", "web") == ["Active", "Active"]


def records(world: World, kind: str) -> list[bytes]:
    return [
        record.content for record in world.controllers["shop"].disk.values() if record.kind == kind and record.content
    ]


def test_what_is_shared_is_stored_once_and_known_again_after_a_restart() -> None:
    world = met(policy=ANYTHING)
    world.apply("shop", "".join(intent(f"a{port}", f"tcp/{port}") for port in range(1, 21)))
    world.run(2.0)
    assert len(records(world, "Bundle")) == 1 and not any(b'"offeror"' in course for course in records(world, "Course"))
    before = agreed(world, "shop")
    for name in world.controllers:
        world.controllers[name].crash()
        world.controllers[name].start()
    world.run(3.0)
    world.check_settled()
    assert agreed(world, "shop") == before
    world.delete("shop", "a7")
    world.run(2.0)
    (flows,) = [ports for _, ports in agreed(world, "insight")]
    assert flows == {f"tcp/{port}" for port in range(1, 21)} - {"tcp/7"}


def test_it_is_renewed_once_for_all() -> None:
    world = met()
    world.apply("shop", intent("ping", ICMP) + intent("web", HTTPS))
    world.run(7000.0)
    world.check_settled()
    assert phases(world, "ping", "web") == ["Active", "Active"]
    assert 3 <= len(offers(world)) <= 6


def test_amendments_that_come_all_the_time_do_not_keep_it_from_being_renewed() -> None:
    world = met(policy=ANYTHING)
    world.checked = False
    world.apply("shop", intent("ping", ICMP))
    for number in range(120):
        world.apply("shop", intent("comes-and-goes", f"tcp/{1 + number}"))
        world.run(60.0)
    world.check_settled()
    assert world.phase("shop", "ping") == "Active"
    ended = [log.fields["plan"] for log in world.controllers["shop"].logs if log.event == "course_ended"]
    assert "ping.1" not in ended


MESSY = Faults(loss=0.2, duplication=0.2, delay_s=(0.001, 1.0))


@pytest.mark.parametrize("seed", range(6))
def test_whatever_is_lost_and_whoever_crashes_both_sides_hold_the_same_in_the_end(seed: int) -> None:
    world = met(seed=seed, policy=ANYTHING)
    world.faults, world.crash_chance = MESSY, 0.005
    wanted = set()
    for _ in range(60):
        port = world.random.randint(1, 12)
        if world.random.random() < 0.6:
            if world.apply("shop", intent(f"a{port}", f"tcp/{port}")) is not None:
                wanted.add(port)
        elif world.delete("shop", f"a{port}") is not None:
            wanted.discard(port)
        world.run(world.random.choice((0.0, 0.1, 1.0)))
    world.faults, world.crash_chance = Faults(), 0.0
    world.run(150.0)
    world.check_settled()
    wanted = {int(name[1:]) for name in world.controllers["shop"].state.intent_records}
    assert phases(world, *(f"a{port}" for port in wanted)) == ["Active"] * len(wanted)
    ports = {f"tcp/{port}" for port in wanted}
    for name in world.controllers:
        assert set().union(*(ports_of_agreement for _, ports_of_agreement in agreed(world, name))) == ports
        stitches_held = world.controllers[name].state.stitches.values()
        assert {ports_of(flow) for stitch in stitches_held for flow in stitch.plan.connection.flows} == ports


def test_who_has_joined_is_offered_when_all_that_were_offered_before_have_gone_and_are_refused() -> None:
    (rule,) = ANYTHING.accept
    world = met(policy=replace(ANYTHING, accept=(only(rule, Ports(protocol="tcp", first=2, last=2)),)))
    world.apply("shop", intent("gone", "tcp/1"))
    world.apply("shop", intent("joined", "tcp/2"))
    world.delete("shop", "gone")
    world.run(5.0)
    world.check_settled()
    assert world.phase("shop", "joined") == "Active"


# ---- who does not keep to it


def accepted_world() -> tuple[World, Terms]:
    """Where insight has an agreement with transit, and what transit offered for it."""
    world = met(policy=ANYTHING)
    world.apply("shop", intent("ping", ICMP))
    world.run(2.0)
    return world, offers(world, "transit")[-1]


def heard_by_insight(world: World, *messages: Terms) -> State:
    world.deliver_all([signed(terms, "transit") for terms in messages], "transit", "insight")
    return world.controllers["insight"].state


def with_ports(terms: Terms, revision: int, *ports: int) -> Terms:
    """With flows to more ports of the same network, for which the origin asks too."""
    (flow,) = terms.flows
    wide = replace(flow, destination="insight/analytics", destination_prefixes=("10.2.0.0/24",))
    narrow = (replace(wide, ports=(Ports(protocol="tcp", first=port, last=port),)) for port in ports)
    return asked_for(replace(terms, revision=revision), flows=(flow, *narrow))


def test_a_thousand_amendments_cost_one_change_of_the_nodes() -> None:
    world, offer = accepted_world()
    insight = world.controllers["insight"]
    before = {name: standing.generation for name, standing in insight.state.nodes.items()}
    for begin in range(2, 1002, 125):
        heard_by_insight(world, *(with_ports(offer, revision, revision) for revision in range(begin, begin + 125)))
    generations = {name: standing.generation - before[name] for name, standing in insight.state.nodes.items()}
    assert max(generations.values()) <= 2 * 8, "one for each call, not one for each amendment"
    (stitch,) = insight.state.stitches.values()
    assert {ports_of(flow) for flow in stitch.plan_to_be.connection.flows} == {"icmp/0", "tcp/1001"}
    assert len(insight.state.closed) == 0 and len(insight.state.outbox) <= 2
    world.run(0.5)
    answers = [message for message in said(world, "acceptance", "insight") if isinstance(message, Acceptance)]
    assert answers[-1].revision == 1001


def test_an_amendment_of_a_hundred_thousand_flows_is_not_read() -> None:
    world, offer = accepted_world()
    before, state = agreed(world, "insight"), world.controllers["insight"].state
    envelope = unsigned(replace(offer, revision=2, flows=offer.flows * 100_000))
    lie = replace(envelope, signature=SimulatedKeys("transit")._private.sign(envelope.signed_bytes))
    assert "the offer cannot be read" in (world.deliver(lie, "transit", "insight") or "")
    assert world.controllers["insight"].state is state and agreed(world, "insight") == before


def beyond(terms: Terms) -> Iterator[tuple[str, Terms, Told]]:
    wider = with_ports(terms, 2, 7)
    yield "without the origin's word", replace(wider, mandate=terms.mandate), Told.INVALID
    flow = wider.flows[1]
    elsewhere = replace(flow, destination="insight/archive", destination_prefixes=("10.3.0.0/24",))
    yield "to another network", asked_for(wider, flows=(terms.flows[0], elsewhere)), Told.INVALID
    yield "all to another network", asked_for(wider, flows=(elsewhere,)), Told.CHANGED
    other = replace(flow, destination_prefixes=("10.9.0.0/24",))
    yield "to what is not there", asked_for(wider, flows=(terms.flows[0], other)), Told.DESTINATION
    yield "with another class", asked_for(wider, dscp=46), Told.CHANGED
    yield "for fewer guarantees", asked_for(wider, avoid_domains=("moon",)), Told.CHANGED


@pytest.mark.parametrize("index", range(6))
def test_an_amendment_beyond_what_may_be_is_refused_and_changes_nothing(index: int) -> None:
    world, offer = accepted_world()
    name, lie, told = list(beyond(offer))[index]
    before = agreed(world, "insight")
    nodes = {node: dict(simulated.entries) for node, simulated in world.nodes.items()}
    heard_by_insight(world, lie)
    world.run(0.2)
    refusal = said(world, "refusal", "insight")[-1]
    assert isinstance(refusal, Refusal) and refusal.reason == told, name
    assert agreed(world, "insight") == before
    assert {node: dict(simulated.entries) for node, simulated in world.nodes.items()} == nodes
