"""What is seen of each second -> findings: what they name, what they leave alone, and what they learn."""

import itertools
import random
from collections.abc import Callable, Iterable
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from flow_rows import Flow, columns
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from controller.assurance.assess import FINDINGS_MAX, Assurance, assess, due, forget
from controller.assurance.assess import learnt as relearnt
from controller.assurance.baseline import WARM, Baseline, Baselines
from controller.assurance.detectors.delay import PLACED_S
from controller.assurance.detectors.learned import AGAIN_S, FIRST_S, Learned
from controller.assurance.detectors.volume import Volume
from controller.assurance.grouping import grouped, numbered
from controller.assurance.learned import trained as fitted
from controller.assurance.seen import Denied, PathSample, Seen
from controller.assurance.windows import by_destination, by_owner, by_source, different
from controller.model.finding import Cause, Finding

CLIENTS = [f"10.1.0.{number}" for number in range(10, 20)]
SERVER = "10.2.0.10"
LEARNING_S = 120
WITHOUT_SHRINKING = (Phase.explicit, Phase.generate)


def benign(second: int) -> list[Flow]:
    chance = random.Random(second)
    flows = [Flow(client, SERVER, packets=chance.randint(5, 30), back=chance.randint(5, 30)) for client in CLIENTS]
    return [*flows, Flow(chance.choice(CLIENTS), SERVER, is_new=True)]


def run(
    seconds: Iterable[int],
    seen: Callable[[int], Seen],
    before: Assurance | None = None,
    frozen: frozenset[str] = frozenset(),
) -> tuple[Assurance, list[Finding]]:
    assurance = before or Assurance()
    findings: list[Finding] = []
    for second in seconds:
        assurance, found = assess(assurance, seen(second), 1000.0 + second, frozen)
        findings += found
        if (sample := due(assurance, 1000.0 + second)) is not None:
            assurance = relearnt(assurance, fitted([sample]), 1000.0 + second)
    return assurance, findings


def traffic(more: Callable[[int], list[Flow]] = lambda _: []) -> Callable[[int], Seen]:
    return lambda second: Seen(flows=columns([*benign(second), *more(second)], 1000.0 + second))


@pytest.fixture(scope="module")
def learnt() -> Assurance:
    assurance, findings = run(range(LEARNING_S), traffic())
    assert findings == []
    return assurance


def test_what_is_usual_is_left_alone_for_ten_minutes(learnt: Assurance) -> None:
    assert run(range(LEARNING_S, LEARNING_S + 600), traffic(), learnt)[1] == []


def test_a_scan_of_ports_is_named_with_its_source_within_two_seconds(learnt: Assurance) -> None:
    def scan(second: int) -> list[Flow]:
        ports = range(second * 20, second * 20 + 20)
        return [Flow("10.1.0.66", SERVER, port, packets=1, back=0, octets_back=0, is_new=True) for port in ports]

    findings = run(range(200, 202), traffic(scan), learnt)[1]
    assert (findings[0].cause, findings[0].source, findings[0].owners) == (Cause.SCAN, "10.1.0.66", ("intents/web",))
    assert {reason.feature for reason in findings[0].reasons} == {"unanswered_contacts", "ports", "destinations"}


def test_closed_ports_that_answer_with_resets_are_no_answers(learnt: Assurance) -> None:
    def scan(second: int) -> list[Flow]:
        ports = range(second * 20, second * 20 + 20)
        return [Flow("10.1.0.66", SERVER, port, packets=1, back=1, octets_back=40, is_new=True) for port in ports]

    findings = run(range(200, 202), traffic(scan), learnt)[1]
    assert (findings[0].cause, findings[0].source) == (Cause.SCAN, "10.1.0.66")


def test_a_client_that_opens_many_ports_that_answer_does_not_scan(learnt: Assurance) -> None:
    def opens(second: int) -> list[Flow]:
        ports = range(second * 20, second * 20 + 20)
        return [Flow(CLIENTS[0], SERVER, port, packets=2, back=1, octets_back=60, is_new=True) for port in ports]

    assert run(range(200, 210), traffic(opens), learnt)[1] == []


def test_a_slow_scan_is_found_by_what_is_carried_on_from_second_to_second(learnt: Assurance) -> None:
    def scan(second: int) -> list[Flow]:
        return (
            [Flow("10.1.0.66", f"10.2.0.{second % 250}", 22, packets=1, back=0, is_new=True)]
            if second % 30 == 0
            else []
        )

    findings = run(range(300, 700), traffic(scan), learnt)[1]
    assert {finding.cause for finding in findings} == {Cause.SCAN}


def test_a_client_that_tries_one_dead_server_again_and_again_does_not_scan(learnt: Assurance) -> None:
    dead = [Flow(CLIENTS[0], "10.2.0.99", 443, packets=1, back=0, is_new=True)] * 5
    assert run(range(200, 260), traffic(lambda _: dead), learnt)[1] == []


def scan_by(source: str, second: int) -> list[Flow]:
    ports = range(second * 20, second * 20 + 20)
    return [Flow(source, SERVER, port, packets=1, back=0, octets_back=0, is_new=True) for port in ports]


def test_once_a_scan_is_over_a_contact_that_is_not_answered_is_one_and_no_scan(learnt: Assurance) -> None:
    after, findings = run(range(200, 210), traffic(lambda second: scan_by("10.1.0.66", second)), learnt)
    assert {finding.cause for finding in findings} == {Cause.SCAN}

    def later(second: int) -> list[Flow]:
        answered = Flow("10.1.0.66", SERVER, 20_000 + second, is_new=True)
        dead = Flow("10.1.0.66", "10.2.0.99", 443, packets=1, back=0, is_new=True)
        return [answered, dead] if second >= 300 else [answered] if second < 240 else []

    after, findings = run(range(210, 330), traffic(later), after)
    assert {finding.cause for finding in findings} <= {Cause.UNUSUAL}, "neither what is answered nor one dead server"
    again = run(range(330, 332), traffic(lambda second: scan_by("10.1.0.66", second)), after)[1]
    assert Cause.SCAN in {finding.cause for finding in again}, "a second scan is one"


def test_who_speaks_to_a_host_that_was_isolated_does_not_scan(learnt: Assurance) -> None:
    isolated = frozenset({"sources/10.2.0.77"})

    def calls(second: int) -> list[Flow]:
        ports = range(second * 20, second * 20 + 20)
        return [Flow(CLIENTS[0], "10.2.0.77", port, packets=1, back=0, octets_back=0, is_new=True) for port in ports]

    assert run(range(200, 210), traffic(calls), learnt, isolated)[1] == []
    assert Cause.SCAN in {finding.cause for finding in run(range(200, 202), traffic(calls), learnt)[1]}


def test_a_flood_is_named_with_source_and_destination_within_three_seconds(learnt: Assurance) -> None:
    def flood(_: int) -> list[Flow]:
        return [Flow("10.1.0.12", SERVER, 443, packets=20_000, octets=1_200_000, back=0, octets_back=0)]

    findings = run(range(200, 203), traffic(flood), learnt)[1]
    of_destination = next(each for each in findings if each.entity == f"destinations/{SERVER}")
    assert of_destination.cause is Cause.FLOOD and of_destination.destination == SERVER
    assert of_destination.reasons[0].observed > 20_000 > 1_000 > of_destination.reasons[0].usual
    assert not of_destination.cold and of_destination.owners == ("intents/web",)


def test_a_flood_of_many_small_sources_is_a_flood(learnt: Assurance) -> None:
    sources = [f"10.9.{high}.{low}" for high in range(4) for low in range(250)]
    flood = [Flow(source, SERVER, packets=3, octets=180, back=0, octets_back=0, is_new=True) for source in sources]
    causes = {finding.cause for finding in run(range(200, 203), traffic(lambda _: flood), learnt)[1]}
    assert causes == {Cause.FLOOD}


def test_much_more_of_what_is_answered_is_a_shift_and_no_flood(learnt: Assurance) -> None:
    more = [Flow(client, SERVER, packets=5_000, back=5_000) for client in CLIENTS]
    assert {each.cause for each in run(range(200, 230), traffic(lambda _: more), learnt)[1]} == {Cause.VOLUME_SHIFT}


def test_a_download_of_some_seconds_is_no_shift_however_often(learnt: Assurance) -> None:
    def downloads(second: int) -> list[Flow]:
        return [Flow(CLIENTS[1], SERVER, packets=5_000, back=9_000)] if second % 20 < 12 else []

    findings = run(range(200, 320), traffic(downloads), learnt)[1]
    assert {each.cause for each in findings} <= {Cause.UNUSUAL}, "a model says that it has not seen the like"


def test_a_shift_is_cold_until_somebodys_own_traffic_has_been_seen_for_long() -> None:
    def more(second: int) -> list[Flow]:
        return [Flow(client, SERVER, packets=5_000, back=5_000) for client in CLIENTS] if second % 500 >= 450 else []

    only = Assurance(detectors=(Volume(),))
    early = run(range(300, 300 + 200), traffic(more), only)[1]
    assert early and all(finding.cold for finding in early)
    late = run(range(500, 500 + 500), traffic(more), only)[1]
    assert late and not any(finding.cold for finding in late)


def test_much_that_leaves_to_a_new_peer_is_exfiltration_and_to_an_old_one_is_not(learnt: Assurance) -> None:
    def leak(_: int) -> list[Flow]:
        return [Flow(CLIENTS[1], "203.0.113.5", 443, packets=150, octets=200_000, back=60, octets_back=3_000)]

    findings = run(range(200, 240), traffic(leak), learnt)[1]
    assert {each.cause for each in findings} == {Cause.EXFILTRATION}
    assert (findings[0].source, findings[0].destination) == (CLIENTS[1], "203.0.113.5")
    # The same from the beginning is a backup.
    assert run(range(200), traffic(leak))[1] == []


def test_what_was_given_once_is_not_told_of_for_ever(learnt: Assurance) -> None:
    def gives(second: int) -> list[Flow]:
        octets = 2_000_000 if second < 205 else 800
        return [Flow(CLIENTS[0], "10.9.9.9", 443, packets=1500, octets=octets, back=10, octets_back=600)]

    findings = run(range(200, 250), traffic(gives), learnt)[1]
    assert [(each.cause, each.at_s) for each in findings if each.cause is Cause.EXFILTRATION] == [
        (Cause.EXFILTRATION, 1202.0), (Cause.EXFILTRATION, 1203.0), (Cause.EXFILTRATION, 1204.0),
    ]  # fmt: skip


def test_even_calls_of_a_new_destination_are_beacons_and_those_of_a_known_one_are_not(learnt: Assurance) -> None:
    def calls(destination: str) -> Callable[[int], Seen]:
        def second_of(second: int) -> Seen:
            return traffic(lambda _: [Flow(CLIENTS[2], destination, 8443, is_new=True)] if second % 10 == 0 else [])(
                second
            )

        return second_of

    after_learning = range(1000, 1120)
    findings = run(after_learning, calls("203.0.113.9"), learnt)[1]
    assert {each.cause for each in findings} == {Cause.BEACONING}
    known, none = run(range(200, 220), calls("203.0.113.9"), learnt)
    assert none == [] == run(after_learning, calls("203.0.113.9"), known)[1]


def test_what_policy_denies_of_one_source_in_numbers_is_probing(learnt: Assurance) -> None:
    def denied(packets: int) -> Callable[[int], Seen]:
        drops = Denied(
            owner="networks/shop/customer-x", node="se1", reason="policy_denied", packets=packets, source="10.1.0.12"
        )
        return lambda second: Seen(flows=columns(benign(second)), denied=(drops,))

    quiet, none = run(range(200, 240), denied(2), learnt)
    assert none == []
    (finding,) = run(range(240, 241), denied(200), quiet)[1]
    assert (finding.cause, finding.source, finding.node) == (Cause.POLICY_PROBING, "10.1.0.12", "se1")
    isolated = frozenset({"sources/10.1.0.12", "networks/shop/customer-x"})
    assert run(range(241, 245), denied(200), quiet, isolated)[1] == [], "what is isolated is denied all that it sends"


def probes(delay: Callable[[int], float | None]) -> Callable[[int], Seen]:
    return lambda second: Seen(
        paths=(PathSample(path="se1>ie1", at_s=1000.0 + second, delay_ms=delay(second), owners=("intents/web",)),)
    )


def jittered(second: int) -> float:
    return 4.0 + random.Random(second).uniform(-0.2, 0.2)


def test_a_delay_that_moves_is_told_within_five_seconds_with_what_was_usual() -> None:
    before, none = run(range(300), probes(jittered))
    assert none == []
    findings = run(range(300, 305), probes(lambda second: jittered(second) + 15), before)[1]
    assert findings[0].cause is Cause.DELAY_SHIFT and findings[0].entity == "paths/se1>ie1"
    assert findings[0].reasons[0].observed == pytest.approx(19, abs=0.3)
    assert findings[0].reasons[0].usual == pytest.approx(4, abs=0.2)


def test_once_a_delay_is_as_it_was_nothing_is_told_of_it() -> None:
    before, _ = run(range(100), probes(jittered))
    before, findings = run(range(100, 130), probes(lambda second: jittered(second) + 15), before)
    assert len(findings) >= 27
    after, none = run(range(130, 200), probes(jittered), before)
    assert none == []
    assert run(range(200, 205), probes(lambda second: jittered(second) + 15), after)[1], "it is told when it comes back"


def test_loss_is_told_and_single_lost_probes_are_not() -> None:
    before, none = run(range(600), probes(lambda second: None if second % 300 == 7 else jittered(second)))
    assert none == []
    findings = run(range(600, 603), probes(lambda _: None), before)[1]
    assert {each.cause for each in findings} == {Cause.LOSS}
    one_in_ten = run(range(600, 660), probes(lambda second: None if second % 10 == 0 else jittered(second)), before)[1]
    assert {each.cause for each in one_in_ten} == {Cause.LOSS}


def medians(second: int, delay_ms: float, lost: int = 0, lost_at_link: int = 0) -> Seen:
    """Each second 100 probes of a path over two links, and four of each of these."""
    at_s = 1000.0 + second
    path = PathSample(path="t1 > tc1 > t2", at_s=at_s, delay_ms=delay_ms, sent=100, lost=lost, links=("near", "far"))
    near = PathSample(path="near at t1", at_s=at_s, delay_ms=2.0, sent=4, lost=0, link="near")
    far = PathSample(path="far at t2", at_s=at_s, delay_ms=delay_ms - 2.0, sent=4, lost=lost_at_link, link="far")
    return Seen(paths=(path, near, far))


def test_of_a_path_that_became_slow_the_link_is_named_by_each_sample() -> None:
    before, none = run(range(60), lambda second: medians(second, jittered(second)))
    assert none == []
    findings = run(range(60, 62), lambda second: medians(second, jittered(second) + 15), before)[1]
    assert [(each.cause, each.entity) for each in findings] == [(Cause.DELAY_SHIFT, "links/far")] * 2


def test_what_a_busy_machine_does_to_delays_is_no_shift() -> None:
    before, _ = run(range(60), lambda second: medians(second, jittered(second)))
    assert run(range(60, 120), lambda second: medians(second, 1.6 * jittered(second)), before)[1] == []


def test_one_packet_in_twenty_that_a_link_loses_is_found_by_the_paths_over_it_and_the_link_is_named() -> None:
    before, none = run(range(60), lambda second: medians(second, jittered(second)))
    assert none == []
    seconds = range(60, 65)
    findings = run(seconds, lambda second: medians(second, jittered(second), 5, int(second == 61)), before)[1]
    assert findings[0].at_s <= 1062 and {each.cause for each in findings} == {Cause.LOSS}
    assert {each.entity for each in findings} == {"links/far"}, "until that is known nothing is told"


def test_where_no_link_of_a_path_is_found_the_path_is_told_of_by_one_name_from_both_ends() -> None:
    def lossy(second: int) -> Seen:
        forth, *links = medians(second, jittered(second), 5 if second >= 60 else 0).paths
        return Seen(paths=(forth, replace(forth, path="t2 > tc1 > t1"), *links))

    before, none = run(range(60 + int(PLACED_S)), lossy)
    assert none == []
    findings = run(range(60 + int(PLACED_S), 75), lossy, before)[1]
    assert {(each.cause, each.entity) for each in findings} == {(Cause.LOSS, "paths/t1 > tc1 > t2")}


def test_what_a_path_over_a_link_shows_belongs_to_the_incident_of_that_link() -> None:
    before, _ = run(range(60), lambda second: medians(second, jittered(second)))
    frozen = frozenset({"links/far"})
    findings = run(range(60, 65), lambda second: medians(second, jittered(second), 5), before, frozen)[1]
    assert {each.entity for each in findings} == {"links/far"}


def test_counts_that_cannot_be_are_bounded() -> None:
    sample = PathSample(path="a", at_s=1000.0, delay_ms=4.0, sent=2**62, lost=-5)
    before, none = run([0], lambda _: Seen(paths=(sample,)))
    assert none == []
    findings = run(range(1, 3), lambda s: Seen(paths=(replace(sample, at_s=1000.0 + s, sent=-1, lost=2**62),)), before)
    assert all(0 < each.p <= 1 for each in findings[1])


def test_samples_that_come_twice_or_of_a_clock_that_went_back_count_once() -> None:
    before, _ = run(range(100), probes(jittered))
    assert run([99, 99, 50, 3, 99] * 20, probes(lambda _: None), before)[1] == []


def test_what_is_cold_says_so_and_one_entity_with_no_past_has_that_of_its_kind() -> None:
    flood = [Flow("10.1.0.12", SERVER, packets=50_000, back=0)]
    findings = run(range(2), traffic(lambda _: flood))[1]
    assert findings and all(finding.cold for finding in findings)
    baselines = Baselines()
    for _ in range(WARM):
        baselines = baselines.learnt({"intents/a": 3.0})
    assert not baselines.of("intents/new").is_cold and not baselines.knows("intents/new")
    assert baselines.of("paths/new").centre == baselines.of("intents/a").centre == 3.0


def test_who_wants_a_flood_taken_for_usual_has_to_be_unusual_for_very_long(learnt: Assurance) -> None:
    """Poisoning: the rate grows by two per cent a second, up to what would be a flood."""

    def growing(second: int) -> list[Flow]:
        return [Flow("10.1.0.12", SERVER, packets=int(200 * 1.02 ** (second - 200)), back=0)]

    findings = run(range(200, 500), traffic(growing), learnt)[1]
    assert findings and findings[0].reasons[0].observed < 10 * (findings[0].reasons[0].usual + 1)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=50))
def test_one_value_moves_a_baseline_by_little_whatever_it_is(values: list[float]) -> None:
    baseline = Baseline()
    for _ in range(200):
        baseline = baseline.learnt(5.0)
    for value in values:
        after = baseline.learnt(value)
        assert abs(after.centre - baseline.centre) <= 3.0 * max(baseline.spread, 0.25) / 200
        baseline = after
    assert baseline.learnt(float("nan")) == baseline.learnt(float("inf")) == baseline


def test_nothing_is_learnt_of_what_was_alarmed_or_is_frozen(learnt: Assurance) -> None:
    flood = [Flow("10.1.0.12", SERVER, packets=50_000, back=0)]
    entity = f"destinations/{SERVER}"

    def usual(assurance: Assurance) -> Baseline:
        (volume,) = (each for each in assurance.detectors if isinstance(each, Volume))
        return volume.baselines.of(entity)

    flooded, _ = run(range(200, 500), traffic(lambda _: flood), learnt)
    assert usual(flooded) == usual(learnt)
    frozen, _ = run(range(200, 300), traffic(), learnt, frozenset({entity}))
    assert usual(frozen) == usual(learnt) != usual(run(range(200, 300), traffic(), learnt)[0])


def test_an_intent_that_changed_is_cold_again(learnt: Assurance) -> None:
    (volume,) = (each for each in forget(learnt, "intents/web").detectors if isinstance(each, Volume))
    assert not volume.baselines.knows("intents/web") and volume.baselines.knows(f"destinations/{SERVER}")


def test_a_storm_of_alarms_is_bounded(learnt: Assurance) -> None:
    def storm(second: int) -> list[Flow]:
        sources = [f"10.{second % 200}.{number // 250}.{number % 250}" for number in range(500)]
        return [Flow(source, SERVER, port, packets=1, back=0, is_new=True) for source in sources for port in range(9)]

    after, findings = run([200], traffic(storm), learnt)
    assert len(findings) == FINDINGS_MAX
    assert len(run(range(201, 212), traffic(storm), after)[0].detectors[0].sources) <= 4096  # type: ignore[attr-defined]


# ---- what no rule names


def mixed(second: int) -> list[Flow]:
    """Forty conversations a second, of sixteen clients."""
    chance = random.Random(second)
    return [
        Flow(
            f"10.1.4.{chance.randint(1, 16)}", f"10.2.0.{chance.randint(1, 20)}", chance.choice([443, 80, 22, 53]),
            packets=chance.randint(1, 200), octets=chance.randint(60, 200_000),
            back=chance.randint(1, 200), octets_back=chance.randint(60, 100_000), is_new=chance.random() < 0.2,
        )
        for _ in range(40)
    ]  # fmt: skip


def only_learned(rows: Callable[[int], list[Flow]]) -> Callable[[int], Seen]:
    return lambda second: Seen(flows=columns(rows(second), 1000.0 + second))


@pytest.fixture(scope="module")
def trained() -> Assurance:
    assurance, findings = run(range(130), only_learned(mixed), Assurance(detectors=(Learned(),)))
    (detector,) = assurance.detectors
    assert isinstance(detector, Learned) and detector.model is not None and findings == []
    return assurance


def test_a_model_of_what_passes_leaves_it_alone_and_sees_a_scan_and_a_flood_as_a_second_signal(
    trained: Assurance,
) -> None:
    assert run(range(130, 430), only_learned(mixed), trained)[1] == []
    scan = [Flow("10.1.0.66", SERVER, port, packets=1, octets=60, back=0, octets_back=0) for port in range(20)]
    flood = [Flow("10.1.0.12", SERVER, packets=20_000, octets=1_200_000, back=0, octets_back=0)]
    for rows, source in ((scan, "10.1.0.66"), (flood, "10.1.0.12")):
        findings = run(range(430, 440), only_learned(lambda second: [*mixed(second), *rows]), trained)[1]  # noqa: B023
        assert {(each.cause, each.source) for each in findings} == {(Cause.UNUSUAL, source)}
        assert "unlike what is usual: " in findings[0].text and findings[0].at_s <= 1435


def test_a_model_of_little_is_followed_by_one_of_twice_as_much_and_then_each_quarter_of_an_hour(
    trained: Assurance,
) -> None:
    learned = next(each for each in trained.detectors if isinstance(each, Learned))
    assert learned.model is not None
    at_s, due_s = learned.begun_s + FIRST_S, []
    learned = learned.learnt(learned.model, at_s)
    for now_s in range(int(at_s), int(at_s) + 3600):
        if learned.due(now_s) is not None:
            due_s.append(now_s - learned.begun_s)
            learned = learned.learnt(learned.model or fitted([]), now_s)
    assert due_s[:5] == [2 * FIRST_S, 4 * FIRST_S, 8 * FIRST_S, 8 * FIRST_S + AGAIN_S, 8 * FIRST_S + 2 * AGAIN_S]


def test_what_an_isolated_host_does_not_answer_is_not_unusual_of_those_who_ask_it(trained: Assurance) -> None:
    def asks(second: int) -> list[Flow]:
        return [Flow("10.1.0.12", "10.2.0.77", 443, packets=40_000, octets=1_600_000, back=0, octets_back=0)] * 20

    def unusual(frozen: frozenset[str]) -> list[Finding]:
        before = Assurance(detectors=tuple(each for each in trained.detectors if isinstance(each, Learned)))
        return run(range(400, 410), only_learned(asks), before, frozen)[1]

    assert {finding.source for finding in unusual(frozenset())} == {"10.1.0.12"}
    assert unusual(frozenset({"sources/10.2.0.77"})) == []


def test_nothing_is_kept_of_sources_that_are_frozen_and_little_of_one_that_sends_much() -> None:
    much = [Flow("10.1.0.77", SERVER, packets=5)] * 500
    frozen = frozenset({"sources/10.1.4.3", "destinations/10.2.0.7"})
    assurance, _ = run(range(40), only_learned(lambda s: [*mixed(s), *much]), Assurance(detectors=(Learned(),)), frozen)
    (detector,) = assurance.detectors
    assert isinstance(detector, Learned)
    kept = [row.tobytes()[-4:] for part in detector.sample for row in part.source_address]
    assert bytes([10, 1, 4, 3]) not in kept and bytes([10, 1, 4, 4]) in kept
    assert 0 < kept.count(bytes([10, 1, 0, 77])) <= 40 * 6
    assert not any(row.tobytes()[-4:] == bytes([10, 2, 0, 7]) for p in detector.sample for row in p.destination_address)


def test_what_was_kept_of_an_intent_that_changed_is_forgotten_and_nothing_is_said_of_it_for_a_while(
    trained: Assurance,
) -> None:
    (detector,) = forget(trained, "intents/web").detectors
    assert isinstance(detector, Learned) and detector.rows == 0 and not detector.sample
    flood = [Flow("10.1.0.12", SERVER, packets=20_000, octets=1_200_000, back=0, octets_back=0)]
    changed = Assurance(detectors=(detector,), at_s=trained.at_s)
    assert run(range(131, 141), only_learned(lambda _: flood), changed)[1] == []


def test_where_all_traffic_is_other_than_it_was_the_model_has_aged_and_nobody_is_accused(trained: Assurance) -> None:
    def other(second: int) -> list[Flow]:
        return [row._replace(packets=1, octets=40, back=3000, octets_back=9_000_000) for row in mixed(second)]

    after, findings = run(range(130, 170), only_learned(other), trained)
    (stale,) = [each for each in findings if each.cause is Cause.BASELINE_STALE]
    (detector,) = after.detectors
    assert isinstance(detector, Learned) and detector.model is not None and "has aged" in stale.text
    assert {each.cause for each in findings if each.at_s > stale.at_s} <= {Cause.BASELINE_STALE}


whole = st.integers(-(2**62), 2**62)
addresses = st.sampled_from(["10.0.0.1", "10.0.0.2", "2001:db8::1", "::"])
flows = st.builds(
    Flow,
    source=addresses,
    destination=addresses,
    port=st.integers(0, 65535),
    packets=whole,
    octets=whole,
    back=whole,
    octets_back=whole,
    is_new=st.booleans(),
    owner=st.integers(-1, 1),
    protocol=st.integers(0, 255),
)
delays = st.one_of(st.none(), st.floats(), st.sampled_from([0.0, -1.0, float("nan"), float("inf")]))


@settings(max_examples=60, deadline=None, phases=WITHOUT_SHRINKING)
@given(st.lists(st.tuples(st.lists(flows, max_size=8), delays, whole, st.floats(0, 2e9)), max_size=8))
def test_whatever_comes_findings_are_numbers(seconds: list[tuple[list[Flow], float | None, int, float]]) -> None:
    assurance = Assurance()
    for given_flows, delay, denied, at_s in seconds:
        seen = Seen(
            flows=columns(given_flows, at_s),
            denied=(Denied(owner="intents/web", node="se1", reason="policy_denied", packets=denied),),
            paths=(PathSample(path="a", at_s=at_s, delay_ms=delay),),
        )
        assurance, findings = assess(assurance, seen, at_s)
        for finding in findings:
            assert 0 < finding.p <= 1 and all(
                np.isfinite([each.observed, each.usual]).all() for each in finding.reasons
            )
            assert all(begin <= end for begin, end in finding.windows) and len(finding.reasons) <= 3
            assert msgspec.json.decode(msgspec.json.encode(finding), type=Finding) == finding, "it can be stored"


@given(st.lists(flows, max_size=20))
def test_windows_are_what_adding_up_one_by_one_gives(given_flows: list[Flow]) -> None:
    seen = columns(given_flows)
    for window, name in (
        (by_source(seen), lambda flow: f"sources/{flow.source}"),
        (by_destination(seen), lambda flow: f"destinations/{flow.destination}"),
        (by_owner(seen), lambda flow: seen.owners[flow.owner] if flow.owner >= 0 else ""),
    ):
        sources, targets = (
            different(window, numbered(each)[1]) for each in (seen.source_address, seen.destination_address)
        )
        ports = different(window, seen.destination_port.astype(np.int64))
        for number, entity in enumerate(window.entities):
            own = [flow for flow in given_flows if name(flow) == entity]
            assert window.flows[number] == len(own)
            assert window.packets[number] == pytest.approx(float(sum(max(0, flow.packets) for flow in own)))
            assert ports[number] == len({flow.port for flow in own})
            other = {flow.destination if entity.startswith("sources") else flow.source for flow in own}
            assert (targets if entity.startswith("sources") else sources)[number] == len(other)
            assert window.unanswered[number] == sum(flow.is_new and flow.back <= 0 for flow in own)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=40))
@settings(phases=WITHOUT_SHRINKING)
def test_equal_rows_stand_together_in_the_order_in_which_they_came(pairs: list[tuple[int, int]]) -> None:
    words = np.array(pairs, dtype=np.uint64).reshape(-1, 2)
    order, begins = grouped(words)
    ordered = [pairs[at] for at in order.tolist()]
    groups = [ordered.index(pair) for pair in ordered]
    assert groups == sorted(groups) and begins.tolist() == [at == group for at, group in enumerate(groups)]
    assert all(a < b for a, b in itertools.pairwise(order.tolist()) if pairs[a] == pairs[b])


def test_rows_that_are_not_equal_and_have_one_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controller.assurance.grouping._GOLDEN", np.uint64(0))
    words = np.array([[1, 2], [2, 1], [1, 2], [0, 0], [2, 1]], dtype=np.uint64)
    order, begins = grouped(words)
    assert order.tolist() == [3, 0, 2, 1, 4] and begins.tolist() == [True, True, False, True, False]
