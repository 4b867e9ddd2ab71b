"""The protocol between neighbours, and a plan's life: what the tables say is what controllers do, in every case."""

import itertools
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from controller import protocol_figure
from controller.fulfillment.protocol import PROTOCOL, SPEAKERS, Reaction, Role, Word, objection
from controller.model.agreement import Acceptance, Envelope, Refusal, Terms, Withdrawal, opened
from controller.model.event import EndAgreement, Event, Log, MessageReceived, Send
from controller.model.stitch import LIFE, Session, Stage, Standing, Stitch
from controller.model.told import Told
from controller.reconcile import State, step, tables
from tests.offers import signed
from tests.simulator import ORDER_PROCESSING, Faults, SimulatedKeys, World

WEB = """
apiVersion: netstitch/v1
kind: Intent
metadata: {{name: {}, tenant: customer-x}}
spec:
  allow:
    - {{from: {{network: shop/customer-x, select: {{app: web}}}}, to: insight/analytics/analytics-y, ports: [icmp]}}
"""
CASES = list(itertools.product(Role, Standing, Word))
AGAIN = (Word.SAME_OFFER, Word.STALE_OFFER, Word.STALE_ANSWER)
SAYABLE = [case for case in CASES if case[1] != Standing.UNKNOWN or case[2] not in AGAIN]
"""Where nothing was said, nothing is said again."""
HEARER = {Role.OFFEROR: "insight", Role.ACCEPTOR: "shop"}
"""Of what transit says in each role."""


def test_the_figures_in_the_documentation_are_what_the_tables_say() -> None:
    text = protocol_figure.FILE.read_text()
    assert protocol_figure.with_figures(text) == text
    shown = protocol_figure.protocol()
    assert all(str(word) in shown for word in Word) and all(str(standing) in shown for standing in Standing)


@pytest.mark.parametrize(("speaker", "standing", "said"), CASES)
def test_everything_that_can_be_said_has_a_row_or_a_reason(speaker: Role, standing: Standing, said: Word) -> None:
    row = PROTOCOL.get((speaker, standing, said))
    assert (row is None) == bool(objection(speaker, standing, said))
    assert row is None or said in SPEAKERS[speaker]


# ---- what controllers do is what the table says


def sessions(state: State) -> Iterator[tuple[Stitch, Session]]:
    for stitch in state.stitches.values():
        for session in (stitch.upstream, stitch.downstream):
            if session is not None:
                yield stitch, session


@cache
def situations(speaker: Role) -> tuple[Mapping[Standing, tuple[State, float]], Session]:
    """Where the hearer of transit is in each standing, and when; its session once it is agreed."""
    world = World()
    world.start()
    controller = world.controllers[HEARER[speaker]]
    standings = {Standing.UNKNOWN: (controller.state, world.now_s)}
    take = controller.together

    def recorded(events: Sequence[Event], life: int) -> bool:
        taken = take(events, life)
        for _, session in sessions(controller.state):
            if session.peer == "transit":
                standings.setdefault(session.standing, (controller.state, world.now_s))
        return taken

    controller.together = recorded
    world.apply("shop", ORDER_PROCESSING)
    world.run(1900.0)  # which is more than half of a lease
    agreed, now_s = standings[Standing.AGREED]
    lingering = {name: replace(stitch, stage=Stage.LINGERING) for name, stitch in agreed.stitches.items()}
    standings[Standing.ENDED] = replace(agreed, stitches=tables.stitches(lingering)), now_s
    return standings, next(session for _, session in sessions(agreed) if session.peer == "transit")


def message(said: Word, session: Session) -> Envelope:
    """What transit says."""
    offer = session.terms
    newer = replace(offer, revision=offer.revision + 1)
    accepted = opened(session.agreement.acceptance) if session.agreement is not None else None
    statements: dict[Word, Terms | Acceptance | Refusal | Withdrawal | None] = {
        Word.OFFER: newer,
        Word.STALE_OFFER: replace(offer, dscp=0, not_before_s=offer.not_before_s - 1),
        Word.ACCEPTANCE: replace(accepted, revision=offer.revision, offer=session.offer.digest)
        if isinstance(accepted, Acceptance)
        else None,
        Word.REFUSAL: Refusal(id=offer.id, revision=offer.revision, reason=Told.ROOM),
        Word.STALE_ANSWER: Refusal(id=offer.id, revision=offer.revision - 1, reason=Told.ROOM),
        Word.WITHDRAWAL: Withdrawal(id=offer.id, reason=Told.LOST, issued_s=1),
        Word.PART: Withdrawal(id=offer.id, reason=Told.LOST, issued_s=1, flows=(replace(offer.flows[0], ports=()),)),
    }
    if said == Word.SAME_OFFER:
        return session.offer
    statement = statements[said]
    assert statement is not None
    return signed(statement, "transit")


@pytest.mark.parametrize(("speaker", "standing", "said"), SAYABLE)
def test_what_a_controller_does_is_what_the_table_says(speaker: Role, standing: Standing, said: Word) -> None:
    standings, agreed = situations(speaker)
    before, now_s = standings[standing]
    here = next((session for _, session in sessions(before) if session.peer == "transit"), agreed)
    heard = message(said, replace(here, agreement=here.agreement or agreed.agreement))
    event = MessageReceived(peer="transit", message=heard)
    after, effects = step(before, event, now_s, SimulatedKeys(HEARER[speaker]))
    violations = [effect for effect in effects if isinstance(effect, Log) and effect.event == "peer_violation"]
    row = PROTOCOL.get((speaker, standing, said))
    if row is None or row.reaction == Reaction.NOTHING:
        assert bool(violations) == (row is None)
        assert after.stitches == before.stitches
        return
    assert not violations
    now = next((session.standing for _, session in sessions(after) if session.terms.id == here.terms.id), None)
    if standing == Standing.ENDED or row.standing in (Standing.UNKNOWN, Standing.ENDED):
        assert now is None or after.stitches == before.stitches, "what lingers is as it was"
    else:
        assert now == row.standing
    told = [effect.message.kind for effect in effects if isinstance(effect, Send) and effect.peer == "transit"]
    expected = {Reaction.REPEAT: ["acceptance"], Reaction.REFUSE: ["refusal"], Reaction.DISOWN: ["withdrawal"]}
    assert told == expected.get(row.reaction, [])


# ---- whatever is lost, comes twice, or overtakes something else


def edges() -> dict[str, set[str]]:
    rows_by_name: dict[str, set[str]] = {}
    for (_, standing, _), row in PROTOCOL.items():
        rows_by_name.setdefault(standing, set()).add(row.standing)
    for (stage, _), after in LIFE.items():
        rows_by_name.setdefault(stage, set()).add(after)
    return rows_by_name


def reaches(start: str, other: str) -> bool:
    """By any number of steps of the tables: several may be taken at once."""
    graph, seen, left = edges(), {start}, [start]
    while left:
        new = graph.get(left.pop(), set()) - seen
        seen |= new
        left += new
    return other in seen


def check_moves(before: State, after: State) -> None:
    for name, stitch in after.stitches.items():
        was = before.stitches.get(name)
        assert reaches(was.stage if was is not None else Stage.NEGOTIATING, stitch.stage), name
    before_by_id = {kept.terms.id: kept for _, kept in sessions(before)}
    for _, session in sessions(after):
        was = before_by_id.get(session.terms.id)
        assert reaches(was.standing if was is not None else Standing.UNKNOWN, session.standing), session
        assert (session.agreement is None) == (session.standing == Standing.OFFERED), session
        if was is not None and was.agreement is not None:
            assert session.agreement is not None
            assert session.agreement.terms.revision >= was.agreement.terms.revision
        assert session.offeror or before.closed.get(session.terms.id) is None, "an ended id is used again"
    for id in before_by_id.keys() - after.agreements.keys():
        assert all(kept.terms.id != id for _, kept in sessions(after))


def check_signed(world: World) -> None:
    """What is in force is what both have signed, and its two sides are at most one revision apart."""
    for _, stitch in world.stitches():
        for session in (stitch.upstream, stitch.downstream):
            agreement = session.agreement if session is not None else None
            if session is None or agreement is None:
                continue
            accepted = opened(agreement.acceptance)
            assert isinstance(accepted, Acceptance) and accepted.offer == agreement.offer.digest
            assert opened(agreement.offer) == agreement.terms
            other = next(
                (
                    theirs
                    for _, theirs in sessions(world.controllers[session.peer].state)
                    if theirs.terms.id == agreement.terms.id
                ),
                None,
            )
            if other is not None and other.agreement is not None:
                assert abs(other.agreement.terms.revision - agreement.terms.revision) <= 1


ACTIONS = ("wait", "wait", "renew", "renew", "replay", "replay", "replay", "end", "delete", "apply")


@settings(max_examples=int(os.environ.get("NETSTITCH_PROTOCOL_WORLDS", "6")), deadline=None)
@given(st.randoms(use_true_random=False))
def test_no_loss_repeat_or_disorder_leads_where_the_tables_do_not(chance: random.Random) -> None:
    world = World(seed=chance.getrandbits(32), faults=Faults(loss=0.3, duplication=0.4, delay_s=(0.001, 2.0)))
    world.start()
    watched = {name: controller.state for name, controller in world.controllers.items()}
    world.apply("shop", ORDER_PROCESSING)
    for _ in range(10):
        action = chance.choice(ACTIONS)
        if action == "replay" and world.wiretap:
            sender, receiver, envelope = chance.choice(world.wiretap)
            world.deliver(envelope, sender, receiver)
        elif action == "end" and (agreements := sorted(world.controllers["transit"].state.agreements)):
            ending = EndAgreement(request_id="end", name=chance.choice(agreements), reason="work", hold_off_s=1)
            world.controllers["transit"].event(ending, world.controllers["transit"].life)
        elif action in ("delete", "apply"):
            world.delete_all("shop", ("Intent", "order-processing"), ignore_missing=True)
            world.apply("shop", ORDER_PROCESSING)
        for _ in range(20):
            world.run(1800 / 20 if action == "renew" else 0.3)
            for name, controller in world.controllers.items():
                check_moves(watched[name], controller.state)
                watched[name] = controller.state
            check_signed(world)
    world.faults = Faults()
    world.run(120.0)
    assert world.phase("shop", "order-processing") == "Active"
    world.check_settled()


def test_messages_that_come_together_lead_to_what_they_lead_to_one_by_one() -> None:
    """Offers, one of them again, one withdrawn at once, an end of what is not there, and a violation."""
    world = World()
    world.start()
    world.apply("shop", f"{WEB.format('one')}---{WEB.format('two')}")
    world.run(3.0)
    first, second = world.heard("offer", "transit", "insight")
    terms = opened(second)
    assert isinstance(terms, Terms)
    gone = signed(Withdrawal(id=terms.id, reason=Told.UNWANTED, issued_s=1), "transit")
    unknown = signed(Withdrawal(id="transit:nothing:9", reason=Told.UNWANTED, issued_s=1), "transit")
    messages = [first, second, first, gone, unknown, replace(first, signature=bytes(64))]
    outcomes = []
    for batches in ([messages], [[message] for message in messages]):
        fresh = World()
        fresh.start()
        for batch in batches:
            assert fresh.deliver_all(batch, "transit", "insight")
        controller = fresh.controllers["insight"]
        standings = {session.terms.id: (session.standing, session.terms) for _, session in sessions(controller.state)}
        logged = [line.event for line in controller.logs if line.event in ("peer_violation", "offer_refused")]
        outcomes.append((standings, controller.state.closed, logged, sorted(controller.state.outbox)))
    assert outcomes[0] == outcomes[1]
    assert len(outcomes[0][0]) == 1 and "peer_violation" in outcomes[0][2]
