"""What a neighbour may not do: each forgery is refused with its reason, and nothing is opened."""

import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
import pytest
from msgspec import to_builtins
from msgspec.structs import replace

from controller.fulfillment.policy import refusal
from controller.model.agreement import (
    Acceptance,
    Agreement,
    Envelope,
    Flow,
    Message,
    Refusal,
    Terms,
    Withdrawal,
    opened,
    opened_mandate,
    unsigned,
)
from controller.model.dscp import CODE_POINTS
from controller.model.intent import Encryption, Ports, Trust
from controller.model.policy import AcceptRule, Policy, PrefixRange, TransitRule
from controller.model.told import Told
from controller.reconcile.transaction import Transaction
from controller.reconcile.tunnel_ends import end_objection
from tests.offers import asked_for, first_offer, mandated, refused, said, signed
from tests.simulator import ORDER_PROCESSING, START_S, SimulatedKeys, World

HTTPS = Ports(protocol="tcp", first=443, last=443)


def agreed_world() -> World:
    world = World()
    world.start()
    world.apply("shop", ORDER_PROCESSING)
    world.run(2.0)
    world.check_settled()
    return world


def quiet_world() -> tuple[World, Terms]:
    """A world where nothing is agreed, and an offer of transit to insight that would be accepted."""
    offer = first_offer(agreed_world())
    fresh = World()
    fresh.start()
    return fresh, offer


def deliver(world: World, message: Envelope, sender: str, receiver: str) -> str | None:
    refused = world.deliver(message, sender, receiver)
    world.run(0.2)
    return refused


def offer_of_transit(world: World, terms: Terms) -> str:
    """Why insight refuses it; empty: it does not."""
    deliver(world, signed(terms, "transit"), "transit", "insight")
    return refused(world, "insight") if isinstance(answers(world)[-1], Refusal) else ""


def answers(world: World, sender: str = "insight") -> list[Message]:
    return [opened(message) for source, _, message in world.wiretap if source == sender]


@contextmanager
def nothing_opens(world: World) -> Iterator[None]:
    writes = {node.name: node.writes for node in world.nodes.values()}
    yield
    world.run(1.0)
    assert {node.name: node.writes for node in world.nodes.values()} == writes
    assert not world.controllers["insight"].state.stitches


def test_the_genuine_offer_is_accepted() -> None:
    world, offer = quiet_world()
    deliver(world, signed(offer, "transit"), "transit", "insight")
    assert isinstance(answers(world)[0], Acceptance)
    # the transit of this world has not made the offer, and ends what it does not want
    assert "course_ended" in [line.event for line in world.controllers["insight"].logs]
    assert not world.nodes["ig1"].host.tunnels


def test_an_offer_that_was_forged_or_altered_on_the_way_opens_nothing() -> None:
    world, offer = quiet_world()
    genuine = signed(offer, "transit")
    longer = unsigned(replace(offer, expires_s=offer.expires_s + 1)).payload
    for forged in (
        replace(genuine, signature=bytes(64)),
        replace(genuine, signature=b""),
        replace(genuine, payload=longer),
        replace(genuine, payload=genuine.payload + b" "),
        signed(offer, "shop"),
    ):
        world.wiretap.clear()
        with nothing_opens(world):
            deliver(world, forged, "transit", "insight")
        (answer,) = answers(world)
        assert isinstance(answer, Refusal) and answer.reason == Told.SIGNATURE
        assert "forged or altered" in refused(world, "insight")


def ending(terms: Terms, **changes: object) -> Terms:
    return replace(terms, offeror_end=replace(terms.offeror_end, **changes))


OUR_BORDER = World().nodes["ig1"].describe().borders[0]
OUR_KEY, OUR_ADDRESS = OUR_BORDER.public_key, OUR_BORDER.endpoint.rpartition(":")[0]
FORGERIES: dict[str, tuple[Callable[[Terms], Terms], str]] = {
    "another offeror": (lambda terms: replace(terms, offeror="shop"), "sent an offer of shop"),
    "for another": (lambda terms: replace(terms, acceptor="shop"), "is for shop"),
    "another's id": (lambda terms: replace(terms, id="shop:x:1"), "the id must start with"),
    "expired": (lambda terms: asked_for(terms, expires_s=int(START_S) - 1), "has expired"),
    "in the future": (lambda terms: asked_for(terms, not_before_s=int(START_S) + 9999), "begins in the future"),
    "too long": (lambda terms: asked_for(terms, expires_s=int(START_S) + 400 * 86400), "longer than"),
    "circle": (lambda terms: replace(terms, visited=("insight", "transit")), "in a circle"),
    "avoiding us": (lambda terms: replace(terms, avoid_domains=("insight",)), "must not pass insight"),
    "unknown border": (lambda terms: replace(terms, border="nowhere"), "no border nowhere"),
    "border of another": (lambda terms: replace(terms, border="sg1-ig1"), "no border sg1-ig1 between transit"),
    "in clear": (lambda terms: asked_for(terms, encryption=Encryption.NONE), "inside WireGuard"),
    "trust": (lambda terms: asked_for(terms, trust_min=Trust.OWN), "trust of at least own"),
    "no flows": (lambda terms: asked_for(terms, flows=()), "1 to 256 flows"),
    "somebody else's source": (lambda terms: replace(terms, origin="moon"), "moon cannot ask for traffic from shop"),
    "everything": (
        lambda terms: asked_for(terms, flows=(replace(terms.flows[0], source_prefixes=("0.0.0.0/0",)),)),
        "not one of hosts",
    ),
    "a SID as source": (
        lambda terms: asked_for(terms, flows=(replace(terms.flows[0], source_prefixes=("5f00::/16",)),)),
        "not one of hosts",
    ),
    "no prefix": (
        lambda terms: asked_for(terms, flows=(replace(terms.flows[0], source_prefixes=("x",)),)),
        "'x' has no prefix length",
    ),
    "what overlaps a special range": (
        lambda terms: asked_for(terms, flows=(replace(terms.flows[0], source_prefixes=("128.0.0.0/1",)),)),
        "overlaps 169.254.0.0/16",
    ),
    "our underlay": (
        lambda terms: asked_for(terms, flows=(replace(terms.flows[0], source_prefixes=(f"{OUR_ADDRESS}/32",)),)),
        "has addresses of the underlay of insight in it",
    ),
    "SID of another": (
        lambda terms: replace(terms, offeror_end=replace(terms.offeror_end, sid="5f00:3::1")),
        "is not in transit's block",
    ),
    "key": (lambda terms: replace(terms, offeror_end=replace(terms.offeror_end, public_key="AAAA")), "malformed"),
    "endpoint": (lambda terms: replace(terms, offeror_end=replace(terms.offeror_end, endpoint="host")), "malformed"),
    "key of low order": (lambda terms: ending(terms, public_key="A" * 43 + "="), "the key is of low order"),
    "our own key": (lambda terms: ending(terms, public_key=OUR_KEY), "the key is insight's own"),
    "our own address": (lambda terms: ending(terms, endpoint=f"{OUR_ADDRESS}:51820"), "is our own"),
    "address by another link": (lambda terms: ending(terms, endpoint="203.0.113.66:51820"), "is not on the border's"),
    "loopback": (lambda terms: ending(terms, endpoint="127.0.0.1:51820"), "is the address of no neighbour"),
    "multicast": (lambda terms: ending(terms, endpoint="224.0.0.9:51820"), "is the address of no neighbour"),
    "needs what we have not": (lambda terms: replace(terms, needs=("telepathy",)), "has not what is needed: telepathy"),
    "not our policy": (
        lambda terms: asked_for(terms, flows=(replace(terms.flows[0], ports=(replace(HTTPS, last=444),)),)),
        "no rule of insight accepts",
    ),
    "other destination": (
        lambda terms: asked_for(terms, flows=(replace(terms.flows[0], destination_prefixes=("10.1.0.10/32",)),)),
        "has other addresses",
    ),
}
"""Of a neighbour that has its origin's mandate for all of it, or does not need one to be refused."""


@pytest.mark.parametrize("name", FORGERIES)
def test_offer_that_is_none_is_refused_with_the_reason_and_opens_nothing(name: str) -> None:
    world, offer = quiet_world()
    make, reason = FORGERIES[name]
    with nothing_opens(world):
        assert reason in offer_of_transit(world, make(offer))


def narrower(terms: Terms) -> Terms:
    (flow,) = terms.flows
    return replace(terms, flows=(replace(flow, ports=(HTTPS,), source_prefixes=flow.source_prefixes[:1]),))


WELL_DONE: dict[str, Callable[[Terms], Terms]] = {
    "as it is": lambda terms: terms,
    "flows are narrower": narrower,
    "it ends sooner": lambda terms: replace(terms, expires_s=terms.expires_s - 60),
    "more is avoided": lambda terms: replace(terms, avoid_domains=("moon",)),
    "less time is left": lambda terms: replace(terms, latency_us_max=1000),
    "trust that the mandate leaves open": lambda terms: mandated(terms, trust_min=None),
    "avoiding what the mandate says": lambda terms: asked_for(terms, avoid_domains=("moon",)),
}


@pytest.mark.parametrize("name", WELL_DONE)
def test_offer_within_the_mandate_of_its_origin_is_accepted(name: str) -> None:
    world, offer = quiet_world()
    assert offer_of_transit(world, WELL_DONE[name](offer)) == ""


def flow_of(terms: Terms, **changes: object) -> Terms:
    """Another flow, for which the origin did not ask."""
    return replace(terms, flows=(replace(terms.flows[0], **changes),))


DISHONEST: dict[str, tuple[Callable[[Terms], Terms], str]] = {
    "a mandate that transit signed": (lambda terms: mandated(terms, by="transit"), "key that is pinned for shop"),
    "a mandate that transit altered": (
        lambda terms: replace(terms, mandate=replace(terms.mandate, payload=terms.mandate.payload + b" ")),
        "key that is pinned for shop",
    ),
    "no mandate": (
        lambda terms: replace(terms, mandate=replace(terms.mandate, payload=b"", signature=b"")),
        "the mandate cannot be read",
    ),
    "another statement of shop in its place": (
        lambda terms: replace(terms, mandate=signed(replace(terms, offeror="shop"), "shop")),
        "expected a mandate",
    ),
    "a mandate of itself": (
        lambda terms: mandated(terms, origin="transit", id="transit:x:1"),
        "the mandate is transit's, the offer is in the name of shop",
    ),
    "in the name of a domain that is not known": (
        lambda terms: mandated(
            replace(flow_of(terms, source="moon/a"), origin="moon", visited=("moon", "transit")),
            origin="moon",
            id="moon:x:1",
        ),
        "no key of moon is pinned here: `stitch domain add moon --key KEY`",
    ),
    "an id of another": (lambda terms: mandated(terms, id="transit:x:1"), "mandate's id must start with shop:"),
    "expired": (lambda terms: mandated(terms, expires_s=int(START_S) - 1), "the mandate has expired"),
    "not yet": (lambda terms: mandated(terms, not_before_s=int(START_S) + 9999), "the mandate begins in the future"),
    "for years": (lambda terms: mandated(terms, expires_s=int(START_S) + 400 * 86400), "mandate is for longer than"),
    "given to another": (lambda terms: mandated(terms, carrier="moon"), "shop gave the mandate to moon"),
    "its own part is hidden": (lambda terms: replace(terms, visited=("transit",)), "gave the mandate to transit"),
    "a domain before it is made up": (
        lambda terms: replace(terms, visited=("shop", "moon", "transit")),
        "shop gave the mandate to transit; the traffic has passed shop, moon, transit",
    ),
    "another host of the origin": (
        lambda terms: flow_of(terms, source_prefixes=("10.1.0.12/32",)),
        "flow to insight/analytics/analytics-y is not in the mandate",
    ),
    "one host more": (
        lambda terms: flow_of(terms, source_prefixes=(*terms.flows[0].source_prefixes, "10.1.0.12/32")),
        "is not in the mandate",
    ),
    "a wider prefix": (lambda terms: flow_of(terms, source_prefixes=("10.1.0.10/31",)), "is not in the mandate"),
    "another network of the origin": (lambda terms: flow_of(terms, source="shop/customer-z"), "is not in the mandate"),
    "more ports": (lambda terms: flow_of(terms, ports=(replace(HTTPS, last=444),)), "is not in the mandate"),
    "every port": (lambda terms: flow_of(terms, ports=()), "is not in the mandate"),
    "another destination": (
        lambda terms: flow_of(terms, destination="insight/archive/archive-z"),
        "flow to insight/archive/archive-z is not in the mandate",
    ),
    "the whole network": (lambda terms: flow_of(terms, destination="insight/analytics"), "is not in the mandate"),
    "other addresses": (lambda terms: flow_of(terms, destination_prefixes=("10.2.0.11/32",)), "is not in the mandate"),
    "a flow more": (
        lambda terms: replace(terms, flows=(*terms.flows, replace(terms.flows[0], source_prefixes=("10.1.0.12/32",)))),
        "is not in the mandate",
    ),
    "longer": (lambda terms: replace(terms, expires_s=terms.expires_s + 1), "would outlast the mandate"),
    "what is to be avoided is left out": (
        lambda terms: mandated(terms, avoid_domains=("moon",)),
        "does not want the traffic to pass moon, and the offer does not say so",
    ),
    "it should be avoided itself": (
        lambda terms: asked_for(terms, avoid_domains=("transit",)),
        "does not want the traffic to pass transit, and it has",
    ),
    "the destination is to be avoided": (
        lambda terms: mandated(terms, avoid_domains=("insight",)),
        "shop does not want the traffic to pass insight",
    ),
    "no third domain was to carry it": (lambda terms: mandated(terms, direct=True), "no third domain to carry it"),
    "more time": (
        lambda terms: replace(terms, latency_us_max=(opened_mandate(terms.mandate).latency_us_max or 0) + 1),
        "shop wants a latency of at most 20000 us",
    ),
    "no bound of time": (lambda terms: replace(terms, latency_us_max=None), "shop wants a latency of at most"),
    "less trust": (lambda terms: replace(terms, trust_min=Trust.PUBLIC), "shop wants trust of at least partner"),
    "no trust": (lambda terms: replace(terms, trust_min=None), "shop wants trust of at least partner"),
    "weaker encryption": (
        lambda terms: mandated(terms, encryption=Encryption.WIREGUARD_END_TO_END),
        "shop wants encryption wireguard-end-to-end, and the offer says wireguard",
    ),
    "another mark": (
        lambda terms: replace(terms, dscp=CODE_POINTS["EF"]),
        "shop wants dscp CS0, and the offer says EF",
    ),
    "the origin needs what we have not": (
        lambda terms: mandated(terms, needs=("telepathy",)),
        "has not what is needed: telepathy",
    ),
}
"""What a domain on the way may not do in the name of the origin, though it signs its own offer rightly."""


@pytest.mark.parametrize("name", DISHONEST)
def test_a_domain_on_the_way_cannot_speak_for_the_origin(name: str) -> None:
    world, offer = quiet_world()
    make, reason = DISHONEST[name]
    with nothing_opens(world):
        assert reason in offer_of_transit(world, make(offer))


def test_a_neighbour_that_carries_is_not_fooled_either() -> None:
    """Of the origin itself, the offer and the mandate must be the same thing."""
    offer = first_offer(agreed_world(), "shop")
    world = World()
    world.start()
    for change, reason in (
        ({"id": "shop:other:9"}, "the mandate is for transit and offer shop:order-processing"),
        ({"latency_us_max": 1}, "holds what is required (latency)"),
    ):
        deliver(world, signed(replace(offer, **change), "shop"), "shop", "transit")
        assert isinstance(answers(world, "transit")[-1], Refusal) and reason in refused(world, "transit")


def test_a_mandate_supports_one_agreement_at_a_time_and_none_once_it_has_ended() -> None:
    world = agreed_world()
    replayed = replace(first_offer(world), id="transit:replayed:99")
    assert "stands on mandate shop:order-processing:" in offer_of_transit(world, replayed)
    assert world.phase("shop", "order-processing") == "Active"
    world.delete("shop", "order-processing")
    world.run(3.0)
    with nothing_opens(world):
        assert "withdrawn" in offer_of_transit(world, replayed)
    world.apply("shop", ORDER_PROCESSING)
    world.run(3.0)
    assert world.phase("shop", "order-processing") == "Active", "the next one stands on a mandate of its own"


def test_a_mandate_of_an_ended_agreement_ends_with_its_own_lease() -> None:
    world = agreed_world()
    old = first_offer(world)
    world.delete("shop", "order-processing")
    world.run(2 * 3600.0)
    assert "expired" in offer_of_transit(world, replace(old, id="transit:replayed:99"))


def test_mandates_are_renewed_with_the_agreements_and_an_older_one_is_no_renewal() -> None:
    world = agreed_world()
    first = first_offer(world)
    world.run(2000.0)
    mandates = [opened_mandate(message.mandate) for message in said(world, "offer") if isinstance(message, Terms)]
    assert {mandate.id for mandate in mandates} == {opened_mandate(first.mandate).id}
    assert sorted({mandate.revision for mandate in mandates}) == [1, 2]
    by_domain = {
        name: {session.terms.mandate for session in (stitch.upstream, stitch.downstream) if session is not None}
        for name, stitch in world.stitches()
    }
    (carried,) = {mandate for mandates_of_domain in by_domain.values() for mandate in mandates_of_domain}
    assert opened_mandate(carried).revision == 2, "all three hold the very bytes of the origin"
    assert "(replayed)" in offer_of_transit(world, replace(first, revision=7))
    world.run(10.0)
    assert world.phase("shop", "order-processing") == "Active"


def test_offer_of_an_unknown_domain_is_not_answered() -> None:
    world, offer = quiet_world()
    deliver(world, signed(offer, "moon"), "moon", "insight")
    assert answers(world) == [] and not world.controllers["insight"].state.stitches


def test_what_a_later_origin_says_beside_what_we_know_reaches_the_destination_as_it_was_signed() -> None:
    offer = first_offer(agreed_world(), "shop")
    world = World()
    world.start()
    world.partitioned.add(frozenset(("shop", "transit")))  # shop of this world has not made it, and would end it
    later = unsigned(opened_mandate(offer.mandate))
    later = resigned(later, b', "carbon": {"grams_max": 1.50}, "flows2" : []}', "shop")
    whole = resigned(unsigned(replace(offer, mandate=later)), b',"colour":"blue"}', "shop")
    assert deliver(world, whole, "shop", "transit") == ""
    for domain in ("transit", "insight"):
        shown = world.resources(domain, "agreements")[0]
        assert shown.status["mandate"]["carbon"] == {"grams_max": 1.5}
        assert shown.spec["mandate"] == to_builtins(later), "the very bytes of the origin"
    assert world.get("transit", "agreements", offer.id).spec["colour"] == "blue"
    kept = [record.content or b"" for record in world.controllers["insight"].disk.values() if record.kind == "Course"]
    assert to_builtins(later)["payload"].encode() in base64.b64decode(
        msgspec.json.decode(kept[0])["upstream"]["offer"]["payload"]
    )


def resigned(envelope: Envelope, ending: bytes, by: str) -> Envelope:
    """With more in it at its end."""
    envelope = replace(envelope, payload=envelope.payload[:-1] + ending)
    return replace(envelope, signature=SimulatedKeys(by).sign(envelope.signed_bytes))


def test_replayed_offer_of_an_ended_agreement_is_refused() -> None:
    world = agreed_world()
    offer = world.heard("offer", "transit")[0]
    world.delete("shop", "order-processing")
    world.run(3.0)
    world.wiretap.clear()
    deliver(world, offer, "transit", "insight")
    (answer,) = answers(world)
    assert isinstance(answer, Refusal) and answer.reason == Told.UNWANTED
    assert not world.nodes["ig1"].host.tunnels


def test_withdrawals_of_what_was_never_offered_are_not_kept() -> None:
    """Where one has only overtaken its offer, the acceptance of that is answered with a withdrawal again."""
    world, offer = quiet_world()
    before = {**world.controllers["insight"].disk}
    for serial in range(50):
        deliver(world, withdrawal(f"transit:x:{serial}", "transit"), "transit", "insight")
    deliver(world, withdrawal(offer.id, "transit"), "transit", "insight")
    assert world.controllers["insight"].disk == before
    assert offer_of_transit(world, offer) == ""
    world.run(3.0)
    assert not world.controllers["insight"].state.stitches
    assert not world.nodes["ig1"].host.tunnels


def test_older_revision_is_refused_as_replayed() -> None:
    world = agreed_world()
    first = world.heard("offer", "transit")[0]
    world.run(2000.0)
    world.wiretap.clear()
    deliver(world, first, "transit", "insight")
    (answer,) = answers(world)
    assert isinstance(answer, Refusal) and "replayed" in refused(world, "insight")
    assert world.phase("shop", "order-processing") == "Active"


def test_renewal_may_not_change_the_networks_or_what_is_required() -> None:
    world = agreed_world()
    offer = first_offer(world)
    elsewhere = replace(offer.flows[0], destination="insight/archive")
    assert "for the same networks" in offer_of_transit(world, asked_for(replace(offer, revision=2), flows=(elsewhere,)))
    other_class = asked_for(replace(offer, revision=2), dscp=46)
    assert "may change times and flows only" in offer_of_transit(world, other_class)
    other = mandated(replace(offer, revision=2), id="shop:order-processing:77")
    assert "a renewal stands on the same mandate" in offer_of_transit(world, other)


def test_altered_acceptance_opens_nothing() -> None:
    world = World()
    world.start()
    world.partitioned.add(frozenset(("shop", "transit")))
    world.apply("shop", ORDER_PROCESSING)
    world.run(0.1)
    genuine = agreed_world().heard("acceptance", "transit")[0]
    accepted = opened(genuine)
    assert isinstance(accepted, Acceptance)
    end = replace(accepted.acceptor_end, sid="5f00:2:9::")
    own_key = world.nodes["sg1"].describe().borders[0].public_key
    quick = signed(replace(accepted, latency_us=1), "transit").payload
    forgeries = {
        "altered": replace(genuine, payload=quick),
        "signature": replace(genuine, signature=bytes(64)),
        "of another": signed(accepted, "insight"),
        "of another offer": signed(replace(accepted, offer="0" * 64), "transit"),
        "another kind": replace(genuine, kind="withdrawal"),
        "slow": signed(replace(accepted, latency_us=20_001), "transit"),
        "SID of another": signed(replace(accepted, acceptor_end=replace(end, sid="5f00:3::1")), "transit"),
        "elsewhere": signed(replace(accepted, acceptor_end=replace(end, endpoint="203.0.113.66:1")), "transit"),
        "our key": signed(replace(accepted, acceptor_end=replace(end, public_key=own_key)), "transit"),
    }
    for name, forged in forgeries.items():
        deliver(world, forged, "transit", "shop")
        assert world.phase("shop", "order-processing") == "Negotiating", name
        assert not world.nodes["sg1"].host.tunnels, name
    assert any(log.event == "peer_violation" for log in world.controllers["shop"].logs)
    deliver(world, genuine, "transit", "shop")
    assert world.phase("shop", "order-processing") == "Active"


def test_a_stranger_can_neither_answer_nor_end_an_agreement() -> None:
    world = agreed_world()
    (stitch,) = world.controllers["shop"].state.stitches.values()
    assert stitch.downstream is not None
    id = stitch.downstream.terms.id
    for keys, sender in (("insight", "insight"), ("insight", "transit")):
        deliver(world, withdrawal(id, keys), sender, "shop")
    assert world.phase("shop", "order-processing") == "Active"
    assert sum(log.event == "peer_violation" for log in world.controllers["shop"].logs) == 2


def test_withdrawal_by_the_far_end_closes_all_and_is_tried_again() -> None:
    world = agreed_world()
    (stitch,) = world.controllers["insight"].state.stitches.values()
    assert stitch.upstream is not None
    id = stitch.upstream.terms.id
    deliver(world, withdrawal(id, "insight"), "insight", "transit")
    assert not any(gateway.host.tunnels for gateway in (world.nodes["t1"], world.nodes["t2"]))
    world.run(20.0)
    assert world.phase("shop", "order-processing") == "Active"


def test_agreement_is_proved_by_both_signatures() -> None:
    world = agreed_world()
    agreement = next(iter(world.controllers["shop"].state.stitches.values())).downstream
    assert agreement is not None and agreement.agreement is not None
    in_force: Agreement = agreement.agreement
    keys = SimulatedKeys("anybody")
    shop, transit = (SimulatedKeys(name).public_key for name in ("shop", "transit"))
    offer, acceptance = in_force.offer, in_force.acceptance
    assert keys.verify(shop, offer.signed_bytes, offer.signature)
    assert keys.verify(shop, in_force.terms.mandate.signed_bytes, in_force.terms.mandate.signature)
    assert keys.verify(transit, acceptance.signed_bytes, acceptance.signature)
    assert not keys.verify(shop, acceptance.signed_bytes, acceptance.signature)
    accepted = opened(acceptance)
    assert isinstance(accepted, Acceptance) and accepted.offer == offer.digest
    assert not keys.verify(transit, unsigned(replace(accepted, latency_us=1)).signed_bytes, acceptance.signature)


def test_no_signature_of_one_kind_or_version_stands_for_another() -> None:
    _, offer = quiet_world()
    envelope = signed(offer, "transit")
    others = (replace(envelope, kind="acceptance"), replace(envelope, version=3))
    assert len({each.signed_bytes for each in (envelope, *others)}) == 3


def withdrawal(id: str, by: str) -> Envelope:
    return signed(Withdrawal(id=id, reason="changed my mind", issued_s=int(START_S)), by)


def terms(source: str = "shop/a", destination: str = "insight/b/c", **changes: object) -> Terms:
    flow = Flow(
        source=source,
        source_prefixes=("10.0.0.1/32",),
        destination=destination,
        destination_prefixes=("10.9.0.1/32",),
        ports=(HTTPS,),
    )
    _, offer = quiet_world()
    return replace(offer, **{"flows": (flow,), "origin": "shop", **changes})


ACCEPT = AcceptRule(origin="shop", source="shop/*", destination="insight/b/*", ports=(Ports(protocol="tcp"),))


@pytest.mark.parametrize(
    ("change", "accepted"),
    [
        ({}, True),
        ({"source": "shop/z"}, True),
        ({"origin": "transit"}, False),
        ({"destination": "insight/x/c"}, False),
    ],
)
def test_accept_rule_matches_names(change: dict[str, str], accepted: bool) -> None:
    assert (refusal(terms(**change), Policy(accept=(ACCEPT,)), "insight", START_S) == "") == accepted


def test_accept_rule_bounds_ports() -> None:
    udp = replace(ACCEPT, ports=(Ports(protocol="udp"),))
    assert refusal(terms(), Policy(accept=(udp,)), "insight", START_S)
    everything = terms(flows=(replace(terms().flows[0], ports=()),))
    assert refusal(everything, Policy(accept=(ACCEPT,)), "insight", START_S)
    assert not refusal(everything, Policy(accept=(replace(ACCEPT, ports=()),)), "insight", START_S)


def test_transit_rule_bounds_the_lease_and_the_first_match_decides() -> None:
    short = TransitRule(origin="shop", destination="insight", max_lease_s=60)
    long = TransitRule(origin="*", destination="*")
    asked = terms(expires_s=int(START_S) + 3600)
    assert "transit rule 1 of transit" in refusal(asked, Policy(transit=(short, long)), "transit", START_S)
    assert not refusal(asked, Policy(transit=(long, short)), "transit", START_S)
    assert "no rule of transit carries traffic from shop to insight" in refusal(asked, Policy(), "transit", START_S)


def test_dscp_that_is_not_honoured_is_refused_with_those_that_are() -> None:
    marked = terms(dscp=CODE_POINTS["EF"])
    some = replace(ACCEPT, dscp=(CODE_POINTS["AF41"], CODE_POINTS["CS5"]))
    reason = "accept rule 1 of insight does not honour dscp EF, only AF41, CS5"
    assert refusal(marked, Policy(accept=(some,)), "insight", START_S) == reason
    assert not refusal(marked, Policy(accept=(some, ACCEPT)), "insight", START_S)
    assert not refusal(terms(), Policy(accept=(replace(ACCEPT, dscp=()),)), "insight", START_S)
    none = TransitRule(origin="*", destination="*", dscp=())
    reason = "transit rule 1 of transit does not honour dscp EF, nor any other"
    assert (
        refusal(marked, Policy(transit=(none, TransitRule(origin="*", destination="*"))), "transit", START_S) == reason
    )
    assert not refusal(terms(), Policy(transit=(none,)), "transit", START_S)


SOURCES = (PrefixRange(prefix="10.0.0.0/8", least=24, most=32), PrefixRange(prefix="2001:db8::/32", least=64, most=64))


@pytest.mark.parametrize(
    ("prefixes", "taken"),
    [
        (("10.1.0.0/24",), True),
        (("10.1.0.0/24", "10.2.0.1/32", "2001:db8:7::/64"), True),
        (("10.1.0.0/23",), False),
        (("10.0.0.0/8",), False),
        (("8.0.0.0/7",), False),
        (("10.1.0.0/24", "11.0.0.0/24"), False),
        (("2001:db8::1/128",), False),
        (("2001:db9::/64",), False),
    ],
)
def test_sources_are_where_the_prefix_list_of_the_rule_says(prefixes: tuple[str, ...], taken: bool) -> None:
    offered = terms()
    offered = replace(offered, flows=(replace(offered.flows[0], source_prefixes=prefixes),))
    accepted = refusal(offered, Policy(accept=(replace(ACCEPT, prefixes=SOURCES),)), "insight", START_S)
    rule = TransitRule(origin="*", destination="*", prefixes=SOURCES)
    carried = refusal(offered, Policy(transit=(rule,)), "transit", START_S)
    assert (not accepted, not carried) == (taken, taken)
    assert taken or ("accept rule 1 of insight takes no sources in" in accepted and "takes no sources" in carried)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"max_flows": 3, "max_prefixes": 2}, ""),
        ({"max_flows": 2}, "at most 2 flows at once, not 3"),
        ({"max_prefixes": 1}, "at most 1 prefixes of sources at once, not 2"),
    ],
)
def test_an_offer_has_no_more_flows_and_prefixes_than_the_rule_takes(limits: dict[str, int], reason: str) -> None:
    offered = terms()
    flow = replace(offered.flows[0], source_prefixes=("10.1.0.0/24", "10.2.0.0/24"))
    offered = replace(offered, flows=(flow, flow, flow))
    accepted = refusal(offered, Policy(accept=(replace(ACCEPT, **limits),)), "insight", START_S)
    rule = TransitRule(origin="*", destination="*", **limits)
    carried = refusal(offered, Policy(transit=(rule,)), "transit", START_S)
    assert (reason in accepted and reason in carried) if reason else not (accepted or carried)


def test_accept_rule_can_forbid_transit() -> None:
    policy = Policy(accept=(replace(ACCEPT, direct=True),))
    came_through = refusal(terms(visited=("shop", "transit")), policy, "insight", START_S)
    assert (
        came_through == "accept rule 1 of insight takes only what comes straight from shop; this passes shop, transit"
    )
    assert "comes straight from shop" in refusal(terms(visited=("transit",)), policy, "insight", START_S)
    assert not refusal(terms(visited=("shop",)), policy, "insight", START_S)


def test_the_end_of_one_border_is_no_end_of_another() -> None:
    world = agreed_world()
    insight = world.controllers["insight"]
    (stitch,) = insight.state.stitches.values()
    assert stitch.upstream is not None
    agreed = stitch.upstream.terms
    transaction = Transaction(insight.state, world.now_s, insight.keys)
    assert end_objection(transaction, agreed.border, agreed.offeror_end) == ""
    for changes in ({"public_key": "aDp1qigymSniyTGZtrgWr+uUAlqMOK7Qr+JpYK60F3I="}, {"endpoint": "203.0.113.66:51820"}):
        end = replace(agreed.offeror_end, **changes)
        assert "of another border" in end_objection(transaction, "unknown", end)


def test_where_a_node_does_not_say_where_a_borders_other_end_may_be_it_is_not_ours_nor_nobodys() -> None:
    world = agreed_world()
    insight = world.controllers["insight"]
    (stitch,) = insight.state.stitches.values()
    assert stitch.upstream is not None
    agreed = stitch.upstream.terms
    transaction = Transaction(insight.state, world.now_s, insight.keys)
    fabric, border = transaction.fabric, transaction.fabric.border_ports[agreed.border]
    silent = {**fabric.border_ports, agreed.border: replace(border, reaches=())}
    transaction.fabric = replace(fabric, border_ports=silent)
    assert end_objection(transaction, agreed.border, agreed.offeror_end) == ""
    for endpoint, reason in {
        border.endpoint: "is our own",
        "127.0.0.1:51820": "the address of no neighbour",
        "224.0.0.9:51820": "the address of no neighbour",
        "[fe80::7]:51820": "the address of no neighbour",
    }.items():
        assert reason in end_objection(transaction, agreed.border, replace(agreed.offeror_end, endpoint=endpoint))


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("A" * 43 + "=", "anybody can sign with this key"),
        (base64.b64encode((2**255 - 20).to_bytes(32, "little")).decode(), "anybody can sign with this key"),
        (
            base64.b64encode(
                bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa")
            ).decode(),
            "any",
        ),
        ("transit", "it is the key of transit"),
        ("shop", "it is the key of shop"),
    ],
)
def test_a_key_that_is_no_identity_is_not_pinned(key: str, reason: str) -> None:
    world = World()
    world.start()
    pinned = world.controllers[key].keys.public_key if key in world.controllers else key
    reply = world.apply(
        "shop", f"apiVersion: netstitch/v1\nkind: Domain\nmetadata: {{name: moon}}\nspec: {{key: {pinned}}}\n"
    )
    assert reply is not None and [problem.path for problem in reply.problems] == [(0, "spec", "key")]
    assert reply.problems[0].message.startswith(reason)
