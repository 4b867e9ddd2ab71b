"""What a neighbour may not do: each forgery is refused with its reason, and nothing is opened."""

import base64
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from controller.fulfillment.negotiate import make_offer, make_withdrawal
from controller.fulfillment.policy import refusal
from controller.model.agreement import Acceptance, Agreement, Flow, Offer, Refusal, Terms, Withdrawal, signing_bytes
from controller.model.dscp import CODE_POINTS
from controller.model.event import MessageReceived
from controller.model.intent import Encryption, Ports, Trust
from controller.model.policy import AcceptRule, Policy, TransitRule
from tests.simulator import ORDER_PROCESSING, START_S, SimulatedKeys, World

HTTPS = Ports(protocol="tcp", first=443, last=443)


def agreed_world() -> World:
    world = World()
    world.start()
    world.apply("shop", ORDER_PROCESSING)
    world.run(2.0)
    world.check_settled()
    return world


def quiet_world() -> tuple[World, Offer]:
    """A world where nothing is agreed, and an offer of transit to insight that would be accepted."""
    world = agreed_world()
    offer = next(
        message
        for sender, receiver, message in world.wiretap
        if isinstance(message, Offer) and (sender, receiver) == ("transit", "insight")
    )
    fresh = World()
    fresh.start()
    return fresh, offer


def signed(offer: Offer, by: str = "transit", **changes: object) -> Offer:
    return make_offer(replace(offer.terms, **changes), SimulatedKeys(by))


def deliver(world: World, message: Offer | Acceptance | Refusal | Withdrawal, sender: str, receiver: str) -> None:
    controller = world.controllers[receiver]
    controller.event(MessageReceived(peer=sender, message=message), controller.life)
    world.run(0.2)


def answers(world: World, sender: str = "insight") -> list[object]:
    return [message for source, _, message in world.wiretap if source == sender]


def test_the_genuine_offer_is_accepted() -> None:
    world, offer = quiet_world()
    deliver(world, offer, "transit", "insight")
    assert isinstance(answers(world)[0], Acceptance)
    # the transit of this world has not made the offer, and ends what it does not want
    assert "course_ended" in [line.event for line in world.controllers["insight"].logs]
    assert not world.nodes["ig1"].host.tunnels


FORGERIES: dict[str, tuple[Callable[[Offer], Offer], str]] = {
    "forged": (lambda offer: replace(offer, signature=base64.b64encode(bytes(64)).decode()), "forged or altered"),
    "no base64": (lambda offer: replace(offer, signature="%%%"), "forged or altered"),
    "signed by another domain": (lambda offer: signed(offer, "shop"), "forged or altered"),
    "altered": (lambda offer: replace(offer, terms=replace(offer.terms, expires_s=2_000_000_000)), "altered"),
    "another offeror": (lambda offer: signed(offer, offeror="shop"), "sent an offer of shop"),
    "for another": (lambda offer: signed(offer, acceptor="shop"), "is for shop"),
    "another's id": (lambda offer: signed(offer, id="shop:x:1"), "the id must start with"),
    "expired": (lambda offer: signed(offer, expires_s=int(START_S) - 1), "has expired"),
    "in the future": (lambda offer: signed(offer, not_before_s=int(START_S) + 9999), "begins in the future"),
    "too long": (lambda offer: signed(offer, expires_s=int(START_S) + 400 * 86400), "longer than"),
    "circle": (lambda offer: signed(offer, visited=("insight", "transit")), "in a circle"),
    "avoiding us": (lambda offer: signed(offer, avoid_domains=("insight",)), "must not pass insight"),
    "no code point": (lambda offer: signed(offer, dscp=64), "64 is no code point"),
    "negative code point": (lambda offer: signed(offer, dscp=-1), "-1 is no code point"),
    "unknown border": (lambda offer: signed(offer, border="nowhere"), "no border nowhere"),
    "border of another": (lambda offer: signed(offer, border="sg1-ig1"), "no border sg1-ig1 between transit"),
    "in clear": (lambda offer: signed(offer, encryption=Encryption.NONE), "inside WireGuard"),
    "trust": (lambda offer: signed(offer, trust_min=Trust.OWN), "trust of at least own"),
    "no flows": (lambda offer: signed(offer, flows=()), "1 to 256 flows"),
    "somebody else's source": (lambda offer: signed(offer, origin="moon"), "moon cannot ask for traffic from shop"),
    "everything": (
        lambda offer: signed(offer, flows=(replace(offer.terms.flows[0], source_prefixes=("0.0.0.0/0",)),)),
        "not one of hosts",
    ),
    "a SID as source": (
        lambda offer: signed(offer, flows=(replace(offer.terms.flows[0], source_prefixes=("5f00::/16",)),)),
        "not one of hosts",
    ),
    "no prefix": (
        lambda offer: signed(offer, flows=(replace(offer.terms.flows[0], source_prefixes=("x",)),)),
        "does not appear to be",
    ),
    "SID of another": (
        lambda offer: signed(offer, offeror_end=replace(offer.terms.offeror_end, sid="5f00:3::1")),
        "is not in transit's block",
    ),
    "key": (
        lambda offer: signed(offer, offeror_end=replace(offer.terms.offeror_end, public_key="AAAA")),
        "malformed",
    ),
    "endpoint": (
        lambda offer: signed(offer, offeror_end=replace(offer.terms.offeror_end, endpoint="host")),
        "malformed",
    ),
    "not our policy": (
        lambda offer: signed(offer, flows=(replace(offer.terms.flows[0], ports=(replace(HTTPS, last=444),)),)),
        "no rule of insight accepts",
    ),
    "other destination": (
        lambda offer: signed(offer, flows=(replace(offer.terms.flows[0], destination_prefixes=("10.1.0.10/32",)),)),
        "has other addresses",
    ),
    "impossible": (lambda offer: signed(offer, latency_us_max=-1), "holds what is required (latency)"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_offer_that_is_none_is_refused_with_the_reason_and_opens_nothing(name: str) -> None:
    world, offer = quiet_world()
    make, reason = FORGERIES[name]
    writes = {node.name: node.writes for node in world.nodes.values()}
    deliver(world, make(offer), "transit", "insight")
    (answer,) = answers(world)
    assert isinstance(answer, Refusal) and reason in answer.reason, answer
    assert {node.name: node.writes for node in world.nodes.values()} == writes
    assert not world.controllers["insight"].state.courses


def test_offer_of_an_unknown_domain_is_not_answered() -> None:
    world, offer = quiet_world()
    deliver(world, offer, "moon", "insight")
    assert answers(world) == [] and not world.controllers["insight"].state.courses


def test_replayed_offer_of_an_ended_agreement_is_refused() -> None:
    world = agreed_world()
    offer = next(message for sender, _, message in world.wiretap if isinstance(message, Offer) and sender == "transit")
    world.delete("shop", "order-processing")
    world.run(3.0)
    world.wiretap.clear()
    deliver(world, offer, "transit", "insight")
    (answer,) = answers(world)
    assert isinstance(answer, Refusal) and "withdrawn" in answer.reason
    assert not world.nodes["ig1"].host.tunnels


def test_offer_that_comes_after_its_withdrawal_is_refused() -> None:
    world, offer = quiet_world()
    deliver(
        world,
        make_withdrawal(offer.terms.id, "changed my mind", int(START_S), SimulatedKeys("transit")),
        "transit",
        "insight",
    )
    deliver(world, offer, "transit", "insight")
    (answer,) = answers(world)
    assert isinstance(answer, Refusal) and "withdrawn" in answer.reason


def test_older_revision_is_refused_as_replayed() -> None:
    world = agreed_world()
    first = next(message for sender, _, message in world.wiretap if isinstance(message, Offer) and sender == "transit")
    world.run(2000.0)
    world.wiretap.clear()
    deliver(world, first, "transit", "insight")
    (answer,) = answers(world)
    assert isinstance(answer, Refusal) and "replayed" in answer.reason
    assert world.phase("shop", "order-processing") == "Active"


def test_renewal_may_not_change_the_flows() -> None:
    world = agreed_world()
    offer = next(message for sender, _, message in world.wiretap if isinstance(message, Offer) and sender == "transit")
    world.wiretap.clear()
    flow = replace(offer.terms.flows[0], source_prefixes=("10.1.0.12/32",))
    deliver(world, signed(offer, revision=2, flows=(flow,)), "transit", "insight")
    (answer,) = answers(world)
    assert isinstance(answer, Refusal) and "may change times only" in answer.reason


@pytest.mark.parametrize("field", ["terms", "end", "latency", "signature", "offer_signature"])
def test_altered_acceptance_opens_nothing(field: str) -> None:
    world = World()
    world.start()
    world.partitioned.add(frozenset(("shop", "transit")))
    world.apply("shop", ORDER_PROCESSING)
    world.run(0.1)
    other = agreed_world()
    genuine = next(
        message for sender, _, message in other.wiretap if isinstance(message, Acceptance) and sender == "transit"
    )
    forged = {
        "terms": lambda: replace(genuine, terms=replace(genuine.terms, expires_s=genuine.terms.expires_s + 1)),
        "end": lambda: replace(genuine, acceptor_end=replace(genuine.acceptor_end, sid="5f00:2:9::")),
        "latency": lambda: replace(genuine, latency_us=1),
        "signature": lambda: replace(genuine, signature="AAAA"),
        "offer_signature": lambda: replace(genuine, offer_signature="AAAA"),
    }[field]()
    deliver(world, forged, "transit", "shop")
    assert world.phase("shop", "order-processing") == "Negotiating"
    assert not world.nodes["sg1"].host.tunnels
    assert any(log.event == "peer_violation" for log in world.controllers["shop"].logs)
    deliver(world, genuine, "transit", "shop")
    assert world.phase("shop", "order-processing") == "Active"


def test_a_stranger_can_neither_answer_nor_end_an_agreement() -> None:
    world = agreed_world()
    (course,) = world.controllers["shop"].state.courses.values()
    assert course.downstream is not None
    id = course.downstream.terms.id
    for keys, sender in (("insight", "insight"), ("insight", "transit")):
        deliver(world, make_withdrawal(id, "mischief", int(START_S), SimulatedKeys(keys)), sender, "shop")
    assert world.phase("shop", "order-processing") == "Active"
    assert sum(log.event == "peer_violation" for log in world.controllers["shop"].logs) == 2


def test_withdrawal_by_the_far_end_closes_all_and_is_tried_again() -> None:
    world = agreed_world()
    (course,) = world.controllers["insight"].state.courses.values()
    assert course.upstream is not None
    id = course.upstream.terms.id
    deliver(world, make_withdrawal(id, "maintenance", int(START_S), SimulatedKeys("insight")), "insight", "transit")
    assert not any(one.host.tunnels for one in (world.nodes["t1"], world.nodes["t2"]))
    world.run(20.0)
    assert world.phase("shop", "order-processing") == "Active"


def test_agreement_is_proved_by_both_signatures() -> None:
    world = agreed_world()
    agreement = next(iter(world.controllers["shop"].state.courses.values())).downstream
    assert agreement is not None and agreement.agreement is not None
    held: Agreement = agreement.agreement
    keys = SimulatedKeys("anybody")
    shop, transit = (SimulatedKeys(name).public for name in ("shop", "transit"))
    offer_signature, acceptance_signature = map(base64.b64decode, (held.offer_signature, held.acceptance_signature))
    accepted = signing_bytes("acceptance", held.terms, held.acceptor_end, held.latency_us)
    altered = signing_bytes("acceptance", held.terms, held.acceptor_end, held.latency_us + 1)
    assert keys.verify(shop, signing_bytes("offer", held.terms), offer_signature)
    assert keys.verify(transit, accepted, acceptance_signature)
    assert not keys.verify(shop, accepted, acceptance_signature)
    assert not keys.verify(transit, altered, acceptance_signature)


def test_no_signature_of_one_kind_stands_for_another() -> None:
    _, offer = quiet_world()
    assert signing_bytes("offer", offer.terms) != signing_bytes("acceptance", offer.terms)


def terms(source: str = "shop/a", destination: str = "insight/b/c", **changes: object) -> Terms:
    flow = Flow(
        source=source,
        source_prefixes=("10.0.0.1/32",),
        destination=destination,
        destination_prefixes=("10.9.0.1/32",),
        ports=(HTTPS,),
    )
    _, offer = quiet_world()
    return replace(offer.terms, **{"flows": (flow,), "origin": "shop", **changes})


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


def test_accept_rule_can_forbid_transit() -> None:
    policy = Policy(accept=(replace(ACCEPT, direct=True),))
    came_through = refusal(terms(visited=("shop", "transit")), policy, "insight", START_S)
    assert (
        came_through == "accept rule 1 of insight takes only what comes straight from shop; this passes shop, transit"
    )
    assert "comes straight from shop" in refusal(terms(visited=("transit",)), policy, "insight", START_S)
    assert not refusal(terms(visited=("shop",)), policy, "insight", START_S)
