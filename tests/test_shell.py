"""The loop: nothing follows from an event before it is stored, whatever happens in between."""

import asyncio
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
from federation import Federation, intent
from shell_parts import NOW_S, FakeNeighbours, FakeTargets, Outcome, hosts, ignore, quiet
from waiting import LIMIT_S, until

from controller import reconcile
from controller.contained import Raised
from controller.eastwest.identity import load
from controller.errors import Overloaded, Unavailable
from controller.fulfillment.negotiate import sealed
from controller.language.manifest import Document, applied, parse
from controller.language.policy import parse_policy
from controller.model.agreement import Withdrawal, unsigned
from controller.model.event import Deviation, Event, Found, MessageReceived, NodeSynced, Record, Renew, Tick
from controller.model.resource import Resource
from controller.shell import LINES_AT_ONCE_MAX, QUEUE_MAX, Shell
from controller.store import StoreUnusable

PARTS = Path(__file__).parent / "shell_parts.py"


@dataclass
class FakeJournal:
    """A store in memory that can be slow, or fail."""

    open: asyncio.Event = field(default_factory=asyncio.Event)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    """Something waits to be stored."""
    commits: list[tuple[Record, ...]] = field(default_factory=list)
    fault: StoreUnusable | None = None

    def close(self) -> None:
        self.open.clear()
        self.asked.clear()

    async def commit(self, records: Sequence[Record]) -> int:
        self.asked.set()
        await self.open.wait()
        if self.fault is not None:
            raise self.fault
        self.commits.append(tuple(records))
        return len(self.commits)


@dataclass
class Domain:
    directory: Path
    journal: FakeJournal
    shell: Shell

    @property
    def inventory(self) -> tuple[Document, ...]:
        return parse((self.directory / "shop" / "inventory.yaml").read_bytes(), "inventory.yaml")

    async def apply_inventory(self) -> None:
        answer = await self.shell.apply_values(tuple(applied(document) for document in self.inventory))
        assert not answer.problems, answer

    @asynccontextmanager
    async def running(self) -> AsyncIterator[tuple[FakeTargets, FakeNeighbours]]:
        async with asyncio.TaskGroup() as tasks:
            targets = FakeTargets(self.shell, tasks, hosts(self.directory))
            neighbours = FakeNeighbours(self.shell, tasks)
            loop = tasks.create_task(self.shell.run(neighbours, targets))
            yield targets, neighbours
            loop.cancel()


@pytest.fixture
async def domain(tmp_path: Path) -> Domain:
    Federation(tmp_path)
    own = tmp_path / "shop"
    policy = parse_policy((own / "policy.yaml").read_bytes(), "policy.yaml")
    state, effects = reconcile.initial((), "shop", policy)
    journal = FakeJournal()
    journal.open.set()
    keys = load("shop", own / "keys")
    return Domain(tmp_path, journal, Shell(state, effects, journal=journal, keys=keys, log=ignore, now_s=lambda: NOW_S))


async def test_nothing_follows_from_an_event_before_it_is_stored(domain: Domain) -> None:
    async with domain.running() as (targets, neighbours):
        await domain.apply_inventory()
        await quiet(domain.shell)
        syncs, messages = len(targets.syncs), len(neighbours.messages)
        domain.journal.close()
        applying = asyncio.ensure_future(domain.shell.apply([intent()], dry_run=False))
        await domain.journal.asked.wait()
        assert not applying.done()
        assert (len(targets.syncs), len(neighbours.messages)) == (syncs, messages)
        assert domain.shell.list("intents") == []
        domain.journal.open.set()
        assert (await applying).results == ("intents/order-processing created",)
        await quiet(domain.shell)
        assert len(targets.syncs) > syncs
        assert len(neighbours.messages) > messages
        assert [each.metadata["name"] for each in domain.shell.list("intents")] == ["order-processing"]


async def test_events_that_wait_are_stored_in_one_commit(domain: Domain) -> None:
    async with domain.running():
        await domain.apply_inventory()
        await quiet(domain.shell)
        domain.journal.close()
        source = {"network": "shop/customer-x", "select": {"app": "web"}}
        allow = [{"from": source, "to": "insight/analytics/analytics-y", "ports": ["icmp"]}]
        names = [f"orders-{n}" for n in range(20)]
        applying = [
            asyncio.ensure_future(domain.shell.apply([intent(name, allow=allow)], dry_run=False)) for name in names
        ]
        await domain.journal.asked.wait()
        before = len(domain.journal.commits)
        domain.journal.open.set()
        for answer in await asyncio.gather(*applying):
            assert not answer.problems
        assert len(domain.journal.commits) - before <= 2


async def test_a_message_is_acknowledged_only_when_stored(domain: Domain) -> None:
    async with domain.running():
        await domain.apply_inventory()
        await quiet(domain.shell)
        domain.journal.close()
        applying = asyncio.ensure_future(domain.shell.apply([intent()], dry_run=False))
        await domain.journal.asked.wait()
        message = unsigned(Withdrawal(id="transit:x:1", reason="test", issued_s=1))
        receiving = asyncio.ensure_future(domain.shell.receive("transit", [message]))
        await until(lambda: domain.shell.queued > 0, "it waits behind what is being stored")
        assert not receiving.done()
        domain.journal.open.set()
        await receiving
        await applying


async def test_a_store_that_fails_ends_the_shell_and_says_so_to_who_waits(domain: Domain) -> None:
    domain.journal.fault = StoreUnusable("disk full")
    with pytest.raises(ExceptionGroup) as caught:
        async with domain.running():
            applying = asyncio.ensure_future(domain.apply_inventory())
            await asyncio.sleep(LIMIT_S)
    assert caught.group_contains(StoreUnusable, match="disk full")
    with pytest.raises(Unavailable, match="disk full"):
        await applying


async def test_a_dry_run_stores_nothing(domain: Domain) -> None:
    async with domain.running():
        await domain.apply_inventory()
        await quiet(domain.shell)
        commits = len(domain.journal.commits)
        answer = await domain.shell.apply([intent()], dry_run=True)
        assert not answer.problems
        assert len(domain.journal.commits) == commits
        assert domain.shell.list("intents") == []


async def test_a_wrong_manifest_is_answered_with_its_place(domain: Domain) -> None:
    async with domain.running():
        answer = await domain.shell.apply([intent(isolate={"network": 7})], dry_run=False)
        assert answer.problems
        assert answer.problems[0].path[:3] == (0, "spec", "isolate")
        assert not any(record.kind == "Intent" for commit in domain.journal.commits for record in commit)


async def test_more_than_the_queue_takes_is_refused(domain: Domain) -> None:
    """The shell does not run yet; nobody takes from the queue."""
    waiting = [asyncio.ensure_future(domain.shell.delete([("intents", f"i{n}")])) for n in range(QUEUE_MAX)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="try again"):
        await domain.shell.delete([("intents", "one more")])
    async with domain.running():
        answers = await asyncio.gather(*waiting)
    assert all(answer.missing for answer in answers)


async def test_a_watch_shows_what_is_there_then_changes_then_that_it_is_gone(domain: Domain) -> None:
    async with domain.running():
        await domain.apply_inventory()
        await domain.shell.apply([intent()], dry_run=False)
        seen: list[Resource] = []
        async with asyncio.timeout(LIMIT_S):
            async for resource in domain.shell.watch("intents"):
                seen.append(resource)
                if len(seen) == 1:
                    await domain.shell.delete([("intents", "order-processing")])
                if resource.status.get("deleted"):
                    break
        assert {each.metadata["name"] for each in seen} == {"order-processing"}
        assert len(seen) >= 2


async def test_unknown_kinds_are_key_errors(domain: Domain) -> None:
    with pytest.raises(KeyError):
        domain.shell.list("gadgets")
    with pytest.raises(KeyError):
        await domain.shell.delete([("gadgets", "x")])


async def test_neighbours_hear_of_domains_when_they_are_stored(domain: Domain) -> None:
    async with domain.running() as (_, neighbours):
        assert "transit" not in neighbours.domains
        await domain.apply_inventory()
        assert neighbours.domains["transit"].endpoint


# ---- crashes


def cut_run(directory: Path, cut: int) -> tuple[int, Outcome | None]:
    out = directory / f"outcome-{cut}"
    command = (sys.executable, str(PARTS), str(directory), str(cut), str(out))
    status = subprocess.run(command, timeout=LIMIT_S).returncode
    return status, msgspec.json.decode(out.read_bytes(), type=Outcome) if out.exists() else None


def test_a_crash_between_storing_and_acting_changes_nothing_of_the_outcome(tmp_path: Path) -> None:
    """Cut after each commit in turn, before anything that follows from it; the next run ends as an uncut one does."""
    Federation(tmp_path / "first")
    shutil.copytree(tmp_path / "first", tmp_path / "again")
    status, expected = cut_run(tmp_path / "first", 0)
    assert status == 0 and expected is not None
    assert expected.commits >= 3 and expected.messages
    for cut in range(1, expected.commits + 1):
        shutil.rmtree(tmp_path / "again")
        shutil.copytree(tmp_path / "first", tmp_path / "again")
        for store in (tmp_path / "again" / "shop").glob("store.sqlite*"):
            store.unlink()
        status, _ = cut_run(tmp_path / "again", cut)
        if status == 0:
            continue  # fewer commits this time: more events shared one
        assert status == -signal.SIGKILL
        status, outcome = cut_run(tmp_path / "again", 0)
        assert status == 0 and outcome is not None
        assert outcome.states == expected.states
        assert set(outcome.messages) <= set(expected.messages)
        assert all(expected.messages[name] == message for name, message in outcome.messages.items())


# ---- a step that raises


def raise_for(monkeypatch: pytest.MonkeyPatch, unlucky: Callable[[Event], bool]) -> list[Event]:
    """A core with a fault: `step_all` raises, in the midst of its work, for some events. Returns those it met."""
    step_all = reconcile.step_all
    met: list[Event] = []

    def faulty(state, events, now_s, keys):  # type: ignore[no-untyped-def]
        result = step_all(state, events, now_s, keys)
        if unlucky_ones := [event for event in events if unlucky(event)]:
            met.extend(unlucky_ones)
            raise OverflowError("int too large to convert to float")
        return result

    monkeypatch.setattr(reconcile, "step_all", faulty)
    return met


def test_a_fault_is_told_of_an_event_that_nobody_can_write_down() -> None:
    event = Found(findings=({"p": object()},))  # type: ignore[arg-type]
    assert Raised.of(event, KeyError("p")).digest == Raised.of(event, KeyError("p")).digest


async def test_a_message_whose_step_raises_is_refused_and_nothing_else_is(domain: Domain, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    lines: list[tuple[str, str, dict[str, str]]] = []
    domain.shell._log = lambda level, event, fields: lines.append((level, event, dict(fields)))
    transit = load("transit", domain.directory / "transit" / "keys")
    evil, good = (
        sealed(Withdrawal(id=f"transit:{name}:1", reason="", issued_s=1), transit) for name in ("evil", "good")
    )
    met = raise_for(monkeypatch, lambda event: isinstance(event, MessageReceived) and event.message == evil)
    async with domain.running():
        await domain.apply_inventory()
        for _ in range(3):
            (fault,) = await domain.shell.receive("transit", [evil])
            assert "has done nothing" in fault
        assert await domain.shell.receive("transit", [good]) == ("",)
    assert len(met) == 3 and domain.shell.counts["MessageReceived"] == 4, "the good one had its turn"
    refused = [fields for _, event, fields in lines if event == "event_refused"]
    assert [(line["source"], line["kind"]) for line in refused] == [("domains/transit", "MessageReceived")]
    assert "int too large" in refused[0]["reason"] and "test_shell.py" in refused[0]["where"]
    assert domain.shell.contained.counts == {"domains/transit": 3}


async def test_what_a_client_asks_is_answered_though_its_step_raises(domain: Domain, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    raise_for(monkeypatch, lambda event: isinstance(event, Renew))
    async with domain.running():
        await domain.apply_inventory()
        answers = [await domain.shell.renew("nothing") for _ in range(2)]
        assert all("failed to work on it" in answer.conflict for answer in answers)
        assert not (await domain.shell.delete([("networks", "shop/none")])).conflict
    assert domain.shell.contained.counts == {"clients": 2}


async def test_of_a_burst_only_what_raises_is_refused(domain: Domain, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """Events of one commit: before and after the bad one."""
    messages = [unsigned(Withdrawal(id=f"transit:{name}:1", reason="", issued_s=1)) for name in ("a", "bad", "c")]
    raise_for(monkeypatch, lambda event: isinstance(event, MessageReceived) and event.message == messages[1])
    async with domain.running():
        await domain.apply_inventory()
        first, fault, last = await domain.shell.receive("transit", messages)
    assert first == last == "" and "has done nothing" in fault


async def test_who_asks_something_does_not_wait_for_all_that_neighbours_have_said(domain: Domain) -> None:
    """Nobody takes from the queue before all of it is there."""
    said = [unsigned(Withdrawal(id=f"transit:none:{n}", reason="", issued_s=1)) for n in range(500)]
    hearing = asyncio.ensure_future(domain.shell.receive("transit", said))
    await until(lambda: domain.shell.queued == len(said), "all that a neighbour says waits")
    asking = asyncio.ensure_future(domain.shell.delete([("intents", "nothing")]))
    await until(lambda: domain.shell.queued > len(said), "what somebody asks waits too")
    async with domain.running():
        assert (await asking).missing
        assert not hearing.done()
        assert await hearing == ("",) * len(said)


async def test_a_node_that_is_never_as_it_shall_be_has_a_share_of_the_log(domain: Domain) -> None:
    lines: list[tuple[str, str]] = []
    domain.shell._log = lambda level, event, fields: lines.append((event, fields.get("node", "")))
    async with domain.running():
        await domain.apply_inventory()
        await quiet(domain.shell)
        for node, times in (("se1", 20), ("sg1", 1)):
            deviation = Deviation(node=node, what="foreign", table="route", detail="route()", owner="")
            for _ in range(times):
                synced = NodeSynced(node=node, generation=0, writes=0, deviations=(deviation,) * 100)
                await domain.shell.report(synced)
        await until(lambda: ("deviation_repaired", "sg1") in lines, "what the other is not")
        await quiet(domain.shell)
    assert lines.count(("deviation_repaired", "se1")) == LINES_AT_ONCE_MAX
    assert lines.count(("deviation_repaired", "sg1")) == 100
    assert domain.shell.counts["lines_dropped"] == 2000 - LINES_AT_ONCE_MAX


async def test_a_tick_that_raises_ends_the_controller(domain: Domain, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    raise_for(monkeypatch, lambda event: isinstance(event, Tick))
    with pytest.raises(ExceptionGroup) as ended:
        async with domain.running():
            await asyncio.sleep(LIMIT_S)
    assert ended.group_contains(OverflowError)
