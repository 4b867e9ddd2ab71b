"""Intents that describe a service instead of naming one, in simulated worlds: which is chosen, and what comes when it
ends, is refused, withdrawn, or cut off."""

import random

import msgspec
import pytest
from msgspec.structs import replace

from controller.model import inventory
from controller.model.event import Applied, EndAgreement
from controller.model.explanation import Branch
from controller.model.intent import Allow, AnyService, Intent, Ports, Require, Selector, Trust
from controller.model.policy import AcceptRule, TransitRule
from controller.model.selection import Selection, Verdict
from controller.views.explain import explain
from tests.many_domains import ALL, Domains, link_name, name_of
from tests.packet_walk import Walk, tcp

EU = (("zone", "eu"),)
OPEN = replace(
    ALL,
    accept=(AcceptRule(origin="*", source="*", destination="*"),),
    transit=(TransitRule(origin="*", destination="*"),),
)
SECRETIVE = replace(OPEN, advertise=())
CLOSED = replace(OPEN, accept=())
NEAR, FAR = "d001/net/web", "d002/net/web"
INTENT = Intent(
    name="any",
    tenant="net",
    allow=(Allow(any=AnyService(labels=EU), source=Selector(network="d000/net")),),
)
"""d001 is 1 ms away; d002 too, and its name comes later; d003 is behind both."""


def thing(value: msgspec.Struct) -> Applied:
    return Applied(kind=type(value).__name__, content=msgspec.json.encode(value))


def labelled(world: Domains, number: int, labels: tuple[tuple[str, str], ...] = EU) -> None:
    service = world.controllers[name_of(number)].state.inventory.services[f"{name_of(number)}/net/web"]
    assert world.submit(name_of(number), thing(replace(service, labels=labels))) is not None


def slowed(world: Domains, name: str, delay_us: int) -> None:
    link = world.controllers["d000"].state.inventory.links[name]
    assert world.submit("d000", thing(replace(link, delay_us=delay_us))) is not None


@pytest.fixture
def world() -> Domains:
    world = Domains(4, [(0, 1), (0, 2), (1, 3), (2, 3)], policies=dict.fromkeys(range(4), OPEN))
    world.start()
    labelled(world, 1)
    labelled(world, 2)
    world.run(10.0)
    return world


def begun(world: Domains, intent: Intent = INTENT) -> None:
    reply = world.submit("d000", thing(intent))
    assert reply is not None and reply.results, reply
    world.run(10.0)


def selection(world: Domains) -> Selection:
    (selection,) = world.controllers["d000"].state.intent_records["any"].requirements.selections
    return selection


def verdicts(world: Domains) -> dict[str, Verdict]:
    return {each.service: each.verdict for each in selection(world).considered}


def reasons(world: Domains) -> str:
    return "; ".join(condition["reason"] for condition in world.get("d000", "intents", "any").status["conditions"])


def reaches(world: Domains, number: int) -> bool:
    """Whether a connection can be opened from the source to the service there."""
    walked = Walk(world).send("h000", tcp("10.0.0.10", f"10.0.{number}.10", 443))
    return walked.delivered == f"h{number:03}"


def changes(world: Domains) -> list[tuple[str, str]]:
    logs = [log.fields for log in world.controllers["d000"].logs if log.event == "selected"]
    return [(fields["before"], fields["service"]) for fields in logs]


def test_the_first_of_equals_is_chosen_and_only_its_flows_pass(world: Domains) -> None:
    begun(world)
    assert world.phase("d000", "any") == "Active"
    assert verdicts(world) == {NEAR: Verdict.CHOSEN, FAR: Verdict.FALL_BACK}
    assert reaches(world, 1) and not reaches(world, 2), "what might be chosen is not permitted"
    status = world.get("d000", "intents", "any").status
    assert status["endpoints"] == [{"service": NEAR, "address": "10.0.1.10", "family": "ipv4"}]
    (shown,) = status["selections"]
    assert (shown["service"], [each["service"] for each in shown["candidates"]]) == (NEAR, [NEAR, FAR])
    world.check_settled()


def test_what_is_preferred_is_chosen(world: Domains) -> None:
    slowed(world, link_name((0, 1)), 5000)
    begun(world)
    assert selection(world).chosen == FAR, "the quicker"


def test_without_one_it_is_unsatisfiable_and_the_nearest_is_named(world: Domains) -> None:
    for number in (1, 2):
        labelled(world, number, (("zone", "us"),))
    world.run(10.0)
    begun(world)
    assert world.phase("d000", "any") == "Unsatisfiable"
    assert reasons(world) == (
        "selection: allow 1: no service is known that is as described; nearest: d000/net/web is not in zone=eu"
    )
    labelled(world, 2)
    world.run(10.0)
    assert world.phase("d000", "any") == "Active" and selection(world).chosen == FAR


def test_where_no_way_holds_what_is_required_the_nearest_is_tried_again(world: Domains) -> None:
    begun(world, replace(INTENT, require=Require(latency_us_max=500)))
    assert world.phase("d000", "any") == "Unsatisfiable"
    assert "latency of at most 0.5 ms is required" in reasons(world)
    assert set(verdicts(world).values()) == {Verdict.UNSATISFIABLE}
    slowed(world, link_name((0, 2)), 100)
    world.run(10.0)
    assert world.phase("d000", "any") == "Active" and selection(world).chosen == FAR


def test_another_clause_is_carried_where_one_finds_nothing(world: Domains) -> None:
    nothing = Allow(any=AnyService(service="mail"), source=Selector(network="d000/net"))
    begun(world, replace(INTENT, allow=(nothing, *INTENT.allow)))
    assert world.phase("d000", "any") == "Unsatisfiable" and reaches(world, 1)
    assert "nearest: d000/net/web is not called mail" in reasons(world)


@pytest.mark.parametrize("by", ["clause", "requirement"])
def test_trust_of_what_is_not_named_counts(by: str, world: Domains) -> None:
    near = world.controllers["d000"].state.inventory.domains["d001"]
    world.submit("d000", thing(replace(near, trust=Trust.PUBLIC)))
    world.run(10.0)
    asked = INTENT.allow[0].any
    assert asked is not None
    if by == "clause":
        begun(world, replace(INTENT, allow=(replace(INTENT.allow[0], any=replace(asked, trust_min=Trust.PARTNER)),)))
    else:
        begun(world, replace(INTENT, require=Require(trust_min=Trust.PARTNER)))
    assert selection(world).chosen == FAR
    (dropped,) = (each for each in selection(world).considered if each.service == NEAR)
    assert dropped.verdict == Verdict.DROPPED
    assert dropped.reason == "trust: trust of at least partner is required; it has public"


# ---- another takes its place


def test_when_the_way_is_cut_the_next_is_taken_and_stays(world: Domains) -> None:
    """The way to d001 that is left leads over d002 and d003, which costs more; d002 is nearer."""
    begun(world)
    world.set_carrier(link_name((0, 1)), False)
    world.run(10.0)
    assert selection(world).chosen == FAR and reaches(world, 2)
    world.set_carrier(link_name((0, 1)), True)
    world.run(200.0)
    assert changes(world) == [(NEAR, FAR)], "as good as the other, and no better"
    assert world.phase("d000", "any") == "Active"
    world.check_settled()


def test_what_is_better_by_a_fifth_is_taken_after_a_minute_before_the_old_goes(world: Domains) -> None:
    begun(world)
    slowed(world, link_name((0, 1)), 2000)
    slowed(world, link_name((0, 2)), 1900)
    world.run(120.0)
    assert selection(world).chosen == NEAR, "not by a fifth, nor by a millisecond"
    slowed(world, link_name((0, 2)), 0)
    assert selection(world).chosen == FAR, "it has been chosen for a minute"
    assert reaches(world, 1)
    for _ in range(100):
        assert reaches(world, 1) or reaches(world, 2), "make before break"
        world.run(0.05)
    assert reaches(world, 2) and not reaches(world, 1)
    world.check_settled()


def test_nothing_changes_again_within_a_minute(world: Domains) -> None:
    begun(world)
    for round in range(20):
        slowed(world, link_name((0, 2)), 0 if round % 2 else 9000)
        slowed(world, link_name((0, 1)), 9000 if round % 2 else 0)
        world.run(15.0)
    assert 2 <= len(changes(world)) <= 1 + 20 * 15 / 60


def test_who_refuses_is_left_alone_for_ever_longer(world: Domains) -> None:
    world.load_policy("d001", CLOSED)
    world.run(5.0)
    begun(world)
    assert world.phase("d000", "any") == "Active" and selection(world).chosen == FAR
    slowed(world, link_name((0, 2)), 9000)  # so that the other would be better
    world.run(5.0)
    offers = len(world.heard("offer", "d000", "d001"))
    assert verdicts(world)[NEAR] == Verdict.WAITING
    assert "d001" in next(each.reason for each in selection(world).considered if each.service == NEAR)
    for _ in range(24):
        world.run(25.0)
        assert reaches(world, 2), "the old one carries it while the other is asked"
    assert 1 <= len(world.heard("offer", "d000", "d001")) - offers <= 6, "after 60, 120, 240, 480 s"
    world.load_policy("d001", OPEN)
    world.run(700.0)
    assert selection(world).chosen == NEAR and reaches(world, 1) and not reaches(world, 2)


def test_where_all_refuse_it_is_refused_and_nobody_is_asked_without_end(world: Domains) -> None:
    for number in (1, 2):
        world.load_policy(name_of(number), CLOSED)
    world.run(5.0)
    begun(world)
    assert world.phase("d000", "any") == "Refused"
    world.wiretap.clear()
    world.run(300.0)
    assert len(world.heard("offer", "d000")) <= 20
    world.load_policy("d002", OPEN)
    world.run(130.0)
    assert world.phase("d000", "any") == "Active" and reaches(world, 2)


def test_when_it_is_ended_the_next_is_taken(world: Domains) -> None:
    begun(world)
    (stitch,) = world.controllers["d001"].state.stitches.values()
    assert stitch.upstream is not None
    d001 = world.controllers["d001"]
    d001.event(
        EndAgreement(request_id="end", name=stitch.upstream.terms.id, reason="moving house", hold_off_s=600),
        d001.life,
    )
    world.run(10.0)
    assert selection(world).chosen == FAR and reaches(world, 2)
    assert verdicts(world)[NEAR] == Verdict.WAITING


def test_what_is_not_advertised_any_more_is_left_for_another_before_it_ends(world: Domains) -> None:
    begun(world)
    world.load_policy("d001", SECRETIVE)
    for _ in range(200):
        assert reaches(world, 1) or reaches(world, 2), "make before break"
        world.run(0.05)
    assert selection(world).chosen == FAR
    assert NEAR not in world.controllers["d000"].state.inventory.services, "nobody needs it any more"
    world.check_settled()


def test_what_is_not_advertised_any_more_goes_on_where_there_is_no_other(world: Domains) -> None:
    labelled(world, 2, ())
    world.run(5.0)
    begun(world)
    world.load_policy("d001", SECRETIVE)
    world.run(100.0)
    assert world.phase("d000", "any") == "Active" and reaches(world, 1), "as one that is named does"
    assert verdicts(world) == {NEAR: Verdict.WAITING}
    labelled(world, 2)
    world.run(10.0)
    assert selection(world).chosen == FAR and reaches(world, 2)


def test_an_advertisement_that_comes_and_goes_does_not_make_it_come_and_go(world: Domains) -> None:
    slowed(world, link_name((0, 2)), 9000)
    begun(world)
    for _ in range(10):
        world.load_policy("d001", SECRETIVE)
        world.run(5.0)
        world.load_policy("d001", OPEN)
        world.run(5.0)
        assert reaches(world, 1) or reaches(world, 2)
    assert len(changes(world)) <= 4, "at most away and back each minute, and less where routes are damped"
    world.run(400.0)
    assert selection(world).chosen == NEAR and world.phase("d000", "any") == "Active"


def test_two_with_the_same_address_take_turns(world: Domains) -> None:
    """d002 has the network of d001 too."""
    for number, name in ((1, "d001/twin"), (2, "d002/twin")):
        domain = name_of(number)
        home = world.controllers[domain].state.inventory.networks[f"{domain}/net"]
        port = 40 + number
        world.add_port(f"n{number:03}", port, world.nodes["n000"].describe().ports[-1].role)
        attachment = replace(home.attachments[0], name="twin", port=port, addresses=("10.9.0.10",))
        network = replace(home, name=name, prefixes=("10.9.0.0/24",), gateways=("10.9.0.1",), attachments=(attachment,))
        https = (Ports(protocol="tcp", first=443, last=443),)
        service = inventory.Service(name=f"{name}/twin", addresses=("10.9.0.10",), ports=https)
        reply = world.submit(domain, thing(network), thing(service))
        assert reply is not None and reply.results, reply
    world.run(10.0)
    described = Allow(any=AnyService(service="twin"), source=Selector(network="d000/net"))
    begun(world, replace(INTENT, allow=(described,)))
    assert selection(world).chosen == "d001/twin/twin" and world.phase("d000", "any") == "Active"
    world.load_policy("d001", SECRETIVE)
    world.run(10.0)
    assert selection(world).chosen == "d002/twin/twin" and world.phase("d000", "any") == "Active"
    assert [stitch.plan.connection.destination_network for stitch in world.controllers["d002"].state.stitches.values()]
    both = replace(INTENT, name="both", allow=(replace(described, any=None, to="d001/twin/twin"),))
    world.load_policy("d001", OPEN)
    world.run(10.0)
    reply = world.submit("d000", thing(both))
    assert reply is not None and "10.9.0.10 is in d0" in reply.conflict, "one address leads to one place"


def test_what_would_break_what_is_in_force_is_not_taken(world: Domains) -> None:
    """The next is, where the first is isolated by another intent of our own domain."""
    isolating = Intent(name="quiet", tenant="net", isolate=Selector(network="d000/net"))
    begun(world)
    reply = world.submit("d000", thing(isolating))
    assert reply is not None and "contradiction" in reply.conflict, "a later one says so"
    world.delete("d000", "any")
    world.run(10.0)
    assert (reply := world.submit("d000", thing(isolating))) is not None and reply.results
    begun(world)
    assert world.phase("d000", "any") == "Unsatisfiable"
    assert set(verdicts(world).values()) == {Verdict.DROPPED}
    assert "contradiction" in reasons(world)


# ---- kept, shown, and what may be known


def test_it_is_the_same_after_a_restart(world: Domains) -> None:
    begun(world)
    world.set_carrier(link_name((0, 1)), False)
    world.run(10.0)
    world.set_carrier(link_name((0, 1)), True)
    world.run(10.0)
    before = selection(world)
    controller = world.controllers["d000"]
    controller.crash()
    world.run(1.0)
    controller.start()
    world.run(30.0)
    assert selection(world).chosen == before.chosen == FAR and selection(world).since_s == before.since_s
    assert changes(world) == [(NEAR, FAR)] and world.phase("d000", "any") == "Active"


def test_the_same_applied_again_changes_nothing(world: Domains) -> None:
    begun(world)
    stitches = [*world.controllers["d000"].state.stitches]
    slowed(world, link_name((0, 2)), 1500)  # what is known of the other changes
    reply = world.submit("d000", thing(INTENT))
    assert reply is not None and reply.results == ("intents/any unchanged",)
    world.run(10.0)
    assert [*world.controllers["d000"].state.stitches] == stitches


def test_it_is_explained(world: Domains) -> None:
    begun(world)
    branch = explain(world.controllers["d000"].state, "intents", "any", world.now_s)
    assert branch is not None

    def of(branch: Branch) -> list[str]:
        return [f"{branch.kind}: {branch.text}", *(text for child in branch.children for text in of(child))]

    texts = of(branch)
    assert "clause: allow any service in zone=eu from d000/net" in texts
    assert f"candidate: {NEAR}: chosen, 1 ms, cost 10, in a neighbouring domain" in texts
    assert f"candidate: {FAR}: fall-back, 1 ms, cost 10, in a neighbouring domain" in texts


def test_a_tenant_is_not_led_to_nor_told_of_what_is_not_for_it(world: Domains) -> None:
    own = world.controllers["d000"].state.inventory.networks["d000/net"]
    world.add_port("n000", 40, world.nodes["n000"].describe().ports[-1].role)
    attachment = replace(own.attachments[0], name="secret", port=40, addresses=("10.8.0.10",))
    network = replace(
        own, name="d000/secret", prefixes=("10.8.0.0/24",), gateways=("10.8.0.1",), attachments=(attachment,)
    )
    service = inventory.Service(
        name="d000/secret/web", addresses=("10.8.0.10",), ports=(Ports(protocol="tcp"),), labels=EU
    )
    world.submit("d000", thing(network), thing(service))
    begun(world)
    assert {*verdicts(world)} == {NEAR, FAR} and selection(world).chosen == NEAR
    world.submit("d000", thing(replace(service, tenants=("net",))))
    world.run(130.0)
    assert selection(world).chosen == "d000/secret/web", "it is nearest"


def test_what_the_operator_says_of_a_candidate_wins(world: Domains) -> None:
    begun(world)
    inventory_ = world.controllers["d000"].state.inventory
    network = replace(inventory_.networks["d001/net"], learnt=False)
    service = replace(inventory_.services[NEAR], labels=(), learnt=False)
    reply = world.submit("d000", thing(network), thing(service))
    assert reply is not None and reply.results
    world.run(10.0)
    assert selection(world).chosen == FAR and reaches(world, 2), "the other is not in zone=eu any more"
    reply = world.delete_all("d000", ("Service", NEAR))
    assert reply is not None and reply.results
    world.run(70.0)
    assert {*verdicts(world)} == {NEAR, FAR}, "now it is as its owner advertises it"


@pytest.mark.parametrize("seed", range(2))
def test_whatever_happens_one_that_is_as_described_carries_it_in_the_end(seed: int, world: Domains) -> None:
    """Links that are cut, policies that change, advertisements and labels that go, controllers that die."""
    chance = random.Random(seed)
    begun(world)
    for _ in range(25):
        number = chance.choice((1, 2))
        match chance.randrange(5):
            case 0:
                world.set_carrier(link_name((0, number)), chance.random() < 0.5)
            case 1:
                world.load_policy(name_of(number), chance.choice((OPEN, CLOSED, SECRETIVE)))
            case 2:
                labelled(world, number, chance.choice((EU, ())))
            case 3:
                slowed(world, link_name((0, number)), chance.choice((500, 1000, 9000)))
            case _:
                controller = world.controllers[name_of(chance.choice((0, number)))]
                controller.crash()
                world.after(1.0, controller.start)
        world.run(chance.choice((0.2, 5.0, 40.0)))
        assert not (reaches(world, 1) and reaches(world, 2)) or len(world.controllers["d000"].state.stitches) > 1
    world.run(2.0)
    for number in (1, 2):
        world.set_carrier(link_name((0, number)), True)
        world.load_policy(name_of(number), OPEN)
        labelled(world, number)
    world.run(900.0)
    assert world.phase("d000", "any") == "Active", reasons(world)
    chosen = selection(world).chosen
    assert (reaches(world, 1), reaches(world, 2)) == (chosen == NEAR, chosen == FAR)
    assert set(verdicts(world).values()) == {Verdict.CHOSEN, Verdict.FALL_BACK}
    world.check_settled()
