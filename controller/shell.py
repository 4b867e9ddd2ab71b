"""The only loop: takes events, calls `step`, performs effects, feeds back what comes of them. It decides nothing.

```
 northbound ─┐                                ┌─▶ store (durable before anything that follows from it)
 east-west  ─┼─▶ queue ─▶ step(state, event) ─┼─▶ answers, acknowledgements
 southbound ─┤    ▲                           ├─▶ east-west, southbound ─┐
 clock      ─┘    └──────────────────────────────────────────────────────┘
```

Events that wait are stepped together and stored in one commit, so that a burst costs one fsync. Of what neighbours say
a turn takes as much as a few milliseconds are enough for, the same of each (`event_queue`): who asks something else
waits no longer than that, however much they say.

A step that raises is a fault of ours. Where the event came from outside (a peer, a node, a client: every event but
`Tick`), only that event is refused: the state is as it was before, who sent it is told, it is logged once and counted.
Nothing of it is stored, so that a restart does not meet it but where it is sent again, and refused again. A `Tick` that
raises ends the process: what it does nobody from outside has asked for at that moment, and to go on without leases and
renewals would be worse than to begin anew.
"""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, assert_never

import msgspec

from controller import reconcile
from controller.adapters import Journal, LogLine, Neighbours, Plugins, PolicySource, Targets, Throughput
from controller.bucket import Bucket
from controller.contained import Contained, Raised
from controller.errors import ConfigInvalid, ControllerError, NoSpace, OurFault, Overloaded, Unavailable
from controller.event_queue import OURS, EventQueue, lane_of
from controller.history import History
from controller.language.manifest import PLURALS, ManifestInvalid, read, to_manifest
from controller.model.access import OURSELVES, Principal, ourselves
from controller.model.agreement import Envelope, Terms, Unreadable, opened
from controller.model.event import (
    Applied,
    Apply,
    Approve,
    Connect,
    Decide,
    Delete,
    Disconnect,
    Effect,
    EndAgreement,
    Event,
    LoadPolicy,
    Log,
    MessageReceived,
    MessageSent,
    NodeRejected,
    NodeSynced,
    NodeUnreachable,
    Persist,
    Record,
    Reference,
    Renew,
    Reply,
    Send,
    SetDrain,
    SyncNode,
    Tick,
)
from controller.model.intent import Intent
from controller.model.keys import Keys
from controller.model.resource import Answer
from controller.model.rule import Added
from controller.reading import Reading
from controller.views import preview

QUEUE_MAX = 4096
"""Of one neighbour, and of all else."""
BATCH_MAX = 256
"""Events of one commit; of neighbours as many again, at most."""
NEIGHBOURS_TURN_S = 0.005
"""What their messages may take of a turn, if they take as long as those before; one at least is done."""
HEAVY = 1000
"""Intents, held and applied, from which on steps are done in a thread: nothing else of the process waits for them.
Only this loop steps, and what is read meanwhile is the state before, which no step changes."""
MESSAGE_WEIGHT = 16
"""What a message of a peer counts as, of these."""
LARGE_BYTES = 256 * 1024
"""Of manifests, from which on they are read in a thread."""
TICK_S = 1.0
FULL_S = 1.0
"""Between two tries to store while the disk is full."""
LINES_S_MAX, LINES_AT_ONCE_MAX = 1.0, 1_000
"""Of the log, and of what happened, for what the messages of one peer lead to, or what one node has otherwise."""
APPROVALS_MAX = 256
LAST_WORDS_S = 0.2
"""For answers to leave before a controller ends that can no longer store."""

_Item = tuple[Event, asyncio.Future[None] | None]
"""An event, and who waits until what it led to is stored."""


class Shell(Reading):
    """Implements model.resource.Controller. `run` until cancelled; a failure of the store ends it."""

    def __init__(
        self,
        state: reconcile.State,
        effects: Iterable[Effect],
        *,
        journal: Journal,
        keys: Keys,
        log: LogLine,
        plugins: Plugins | None = None,
        policy: PolicySource | None = None,
        history: History | None = None,
        traffic: Throughput | None = None,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        """`state` and `effects` are those of `reconcile.initial`."""
        history = history if history is not None else History()
        super().__init__(state, plugins=plugins, history=history, now_s=now_s, traffic=traffic)
        self._state = state
        self._effects = tuple(effects)
        self._ended = ""
        """Why this controller ends."""
        self.full = ""
        """Why nothing can be stored now, and what to do; empty: it can."""
        self._started = False
        self._lines: dict[str, Bucket] = {}
        self._journal = journal
        self._keys = keys
        self._log = log
        self._policy = policy
        self._happened: list[Record] = []
        """Of the history, to be stored with what is stored next, or at the next tick: nothing waits for it."""
        self._queue: EventQueue[_Item] = EventQueue(QUEUE_MAX)
        self._replies: dict[str, asyncio.Future[Answer]] = {}
        self._request_ids = (f"request-{n}" for n in itertools.count(1))
        self.counts: Counter[str] = Counter()
        """Of events by kind, `commits`, `steps_us`, `ticks_lost`."""
        self.contained = Contained()
        self._approvals: asyncio.Queue[str] = asyncio.Queue(APPROVALS_MAX)
        """Of incidents."""

    @property
    def queued(self) -> int:
        return len(self._queue)

    async def quiet(self) -> None:
        """Until all that came has been stepped and stored, and has had its effects."""
        await self._queue.join()

    # ---- the loop

    async def run(self, neighbours: Neighbours, targets: Targets) -> None:
        neighbours.set_domains(self._state.inventory.domains)
        while True:
            try:
                await self._store(self._effects)
                break
            except NoSpace as error:
                self._is_full(error)
                await asyncio.sleep(FULL_S)
        self._has_room()
        self._started = True
        self._perform(self._effects, neighbours, targets)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._clock(), name="clock")
            tasks.create_task(self._approve(), name="approvals")
            while True:
                items = await self._queue.take(BATCH_MAX, NEIGHBOURS_TURN_S)
                try:
                    await self._turn(items, neighbours, targets)
                except NoSpace as error:
                    await self._wait_for_room(items, error, neighbours, targets)
                self._queue.done(len(items))
                await asyncio.sleep(0)  # so that answers leave before the next turn, whether or not this one stored

    async def _wait_for_room(
        self, items: Sequence[_Item], error: NoSpace, neighbours: Neighbours, targets: Targets
    ) -> None:
        """Who asks is told; what nodes and the clock say is kept, and done in its order when there is room again."""
        self._is_full(error)
        kept = self._refused(items, error)
        starts = msgspec.json.encode(self._state.counters.get("start", 0))
        while True:
            await asyncio.sleep(FULL_S)
            while len(self._queue) and len(kept) < QUEUE_MAX:
                waiting = self._queue.take_nowait(BATCH_MAX, NEIGHBOURS_TURN_S)
                kept += self._refused(waiting, error)
                self._queue.done(len(waiting))
            try:
                await self._journal.commit((Record(kind="Counter", name="start", content=starts),))
                while kept:
                    await self._turn(kept[:BATCH_MAX], neighbours, targets)
                    del kept[:BATCH_MAX]
            except NoSpace:
                continue
            break
        self._has_room()

    def _refused(self, items: Iterable[_Item], error: NoSpace) -> list[_Item]:
        """Those that nobody waits for."""
        kept: list[_Item] = []
        for event, receipt in items:
            if receipt is not None:
                if not receipt.done():
                    receipt.set_exception(NoSpace(str(error)))
            elif isinstance(event, Apply | Delete | Renew | SetDrain | EndAgreement | LoadPolicy | Decide):
                reply = self._replies.pop(event.request_id, None)
                if reply is not None and not reply.done():
                    reply.set_exception(NoSpace(str(error)))
            elif not isinstance(event, Tick):
                kept.append((event, receipt))
        return kept

    def _is_full(self, error: NoSpace) -> None:
        if not self.full:
            self._log("error", "no_space", {"reason": str(error)})
        self.full = str(error)

    def _has_room(self) -> None:
        if self.full:
            self._log("info", "space_again", {})
        self.full = ""

    async def _turn(self, items: Sequence[_Item], neighbours: Neighbours, targets: Targets) -> None:
        """Steps them, stores it, then lets it have its effects. Raises NoSpace, and all is as it was."""
        before, history, happened = self._state, self._history.mark(), list(self._happened)
        events = [
            msgspec.structs.replace(event, revision=self._revisions.reserve(place))
            if isinstance(event, Apply)
            else event
            for place, (event, _) in enumerate(items)
        ]
        weight = len(before.intent_records) + sum(map(_weight, events))
        began = time.perf_counter()
        if weight < HEAVY:
            self._state, effects, raised = self._stepped(before, events)
        else:
            self._state, effects, raised = await asyncio.to_thread(self._stepped, before, events)
        self.counts["steps_us"] += round((time.perf_counter() - began) * 1e6)
        self.counts.update(type(event).__name__ for event in events)
        try:
            await self._store(effects)
        except NoSpace:
            self._state = msgspec.structs.replace(before, claims=None)  # which alone changes within a step
            self._happened = happened
            self._history.go_back(history)
            raise
        if not self._happened:
            self._history.settle()
        self._stored = self._state
        self._revisions.settle(max((event.revision for event in events if isinstance(event, Apply)), default=0))
        if self._state.inventory.domains != before.inventory.domains:
            neighbours.set_domains(self._state.inventory.domains)
        for place, (_, receipt) in enumerate(items):
            if receipt is None or receipt.done():
                continue
            if place in raised:
                receipt.set_exception(OurFault(raised[place].reason))
            else:
                receipt.set_result(None)
        for fault in raised.values():
            if self.contained.is_new(fault):
                self._log("error", "event_refused", fault.fields)
        self._perform(effects, neighbours, targets)
        if self._state is not before:
            self._wake()

    async def _store(self, effects: Iterable[Effect]) -> None:
        records = [record for effect in effects if isinstance(effect, Persist) for record in effect.records]
        if records:
            try:
                await self._journal.commit(records)
            except NoSpace:
                raise
            except ControllerError as error:
                await self._give_up(error)
                raise
            self.counts["commits"] += 1

    def _stepped(
        self, before: reconcile.State, events: Sequence[Event]
    ) -> tuple[reconcile.State, list[Effect], dict[int, Raised]]:
        """Also says which of the events raised, by their place (-1: it was their history); nothing came of these."""
        effects: list[Effect] = []
        raised: dict[int, Raised] = {}
        state = before
        states = [before]
        left = [[*group] for _, group in itertools.groupby(enumerate(events), _together)]
        while left:
            group = left.pop(0)
            place, event = group[0]
            lane, began = lane_of(event), time.perf_counter()
            try:
                if isinstance(event, Apply | Delete) and event.dry_run:
                    effects.append(preview.foresee(state, event, self._now_s(), self._keys))
                    continue
                state, produced = reconcile.step_all(
                    state, [grouped for _, grouped in group], self._now_s(), self._keys
                )
                states.append(state)
            except Exception as error:
                if isinstance(event, Tick):
                    raise
                state = msgspec.structs.replace(state, claims=None)  # which alone changes within a step
                if len(group) > 1:
                    left[:0] = [[item] for item in group]  # so that only who is at fault suffers for it
                    continue
                raised[place] = fault = Raised.of(event, error)
                if isinstance(event, Apply | Delete | Renew | SetDrain | EndAgreement | LoadPolicy | Decide):
                    effects.append(Reply(request_id=event.request_id, conflict=fault.reason))
                continue
            finally:
                if lane != OURS:
                    self._queue.took(lane, time.perf_counter() - began, len(group))
            effects += self._share_of(event, produced)
        try:
            self._happened += self._history.observe(states, events, effects, self._now_s())
        except Exception as error:  # what happened counts whether or not it can be told
            raised[-1] = Raised.of(None, error)
        if self._happened and any(isinstance(done, Persist | Tick) for done in (*effects, *events)):
            effects.append(Persist(records=tuple(self._happened)))
            self._happened.clear()
        return state, effects, raised

    def _share_of(self, event: Event, effects: Iterable[Effect]) -> Iterator[Effect]:
        """Without the lines that are more than the share of the peer, or of a node in what it complains of."""
        for effect in effects:
            whose = _whose(event, effect) if isinstance(effect, Log) else ""
            if not whose:
                yield effect
                continue
            lines = self._lines.setdefault(whose, Bucket(rate=LINES_S_MAX, burst=LINES_AT_ONCE_MAX))
            if lines.take(self._now_s()):
                yield effect
            else:
                self.counts["lines_dropped"] += 1

    async def _give_up(self, error: ControllerError) -> None:
        """What cannot be stored is not done: who waits or asks is told, and the controller ends with the reason."""
        self._ended = f"{error}; the controller ends"
        for reply in self._replies.values():
            if not reply.done():
                reply.set_exception(Unavailable(self._ended))
        await asyncio.sleep(LAST_WORDS_S)

    def _perform(self, effects: Iterable[Effect], neighbours: Neighbours, targets: Targets) -> None:
        """In order; what they lead to comes back as events. Nothing here waits."""
        for effect in effects:
            match effect:
                case Persist():
                    pass  # durable already
                case Reply():
                    self._answer(effect)
                case Send(peer=peer, message_id=message_id, message=message):
                    neighbours.send(peer, message_id, message)
                case Connect(node=node, agent=agent):
                    targets.connect(node, agent)
                case Disconnect(node=node):
                    targets.disconnect(node)
                case SyncNode():
                    targets.sync(effect)
                case Log(event=name, fields=fields, level=level):
                    self._log(level, name, fields)
                case Approve(incident=name):
                    if not self._approvals.full():  # else the core asks again
                        self._approvals.put_nowait(name)
                case _:
                    assert_never(effect)

    def _answer(self, reply: Reply) -> None:
        future = self._replies.pop(reply.request_id, None)
        if future is not None and not future.done():
            answer = Answer(
                problems=reply.problems,
                conflict=reply.conflict,
                missing=reply.missing,
                forbidden=reply.forbidden,
                stale=reply.stale,
                results=reply.results,
                preview=reply.preview,
            )
            future.set_result(answer)

    async def _clock(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            if self.full:
                continue
            try:
                self._queue.put_nowait(OURS, (Tick(), None))
            except asyncio.QueueFull:
                self.counts["ticks_lost"] += 1

    async def _approve(self) -> None:
        """What assurance would do by itself comes back as an event, as if somebody had approved it."""
        while True:
            name = await self._approvals.get()
            try:
                await self.decide(name, True, by=ourselves("assurance"))
            except (Overloaded, Unavailable) as error:  # it will be asked for again
                self._log("warning", "not_approved", {"incident": name, "reason": str(error)})

    # ---- what adapters feed in

    async def report(self, event: Event) -> None:
        """Waits while its lane is full."""
        await self._queue.put(lane_of(event), (event, None))

    async def receive(self, peer: str, messages: Sequence[Envelope]) -> tuple[str, ...]:
        """Returns when what they led to is stored: of each why nothing came of it, where that is a fault of ours."""
        if self.full:
            raise NoSpace(self.full)
        objections = await asyncio.gather(*map(self._judged, messages))
        receipts: list[asyncio.Future[None]] = []
        for message, objection in zip(messages, objections, strict=True):
            receipts.append(asyncio.get_running_loop().create_future())
            await self._queue.put(
                peer, (MessageReceived(peer=peer, message=message, objection=objection), receipts[-1])
            )
        outcomes = await asyncio.gather(*receipts, return_exceptions=True)
        if (
            fault := next((outcome for outcome in outcomes if outcome and not isinstance(outcome, OurFault)), None)
        ) is not None:
            raise fault
        return tuple(str(outcome or "") for outcome in outcomes)

    async def _judged(self, message: Envelope) -> str:
        """Why a strategy refuses an offer; empty: none does."""
        if message.kind != "offer" or self._plugins is None or not self._plugins.judging:
            return ""
        try:
            terms = opened(message)
        except Unreadable:
            return ""
        if not isinstance(terms, Terms):
            return ""
        objection, failure = await self._plugins.judge(msgspec.to_builtins(terms))
        if failure:
            self._log("error", "plugin_failed", {"agreement": terms.id, "reason": failure})
        return objection

    # ---- model.resource.Controller

    async def apply(
        self,
        manifests: list[dict[str, Any]],
        *,
        dry_run: bool,
        by: Principal = OURSELVES,
        unchanged_since: int | None = None,
    ) -> Answer:
        applied, problems = await asyncio.to_thread(read, manifests) if _is_large(manifests) else read(manifests)
        if problems:
            return Answer(problems=problems)
        return await self.apply_values(applied, dry_run=dry_run, by=by, unchanged_since=unchanged_since)

    async def apply_values(
        self,
        applied: tuple[Applied, ...],
        *,
        dry_run: bool = False,
        by: Principal = OURSELVES,
        file: str = "",
        unchanged_since: int | None = None,
    ) -> Answer:
        request_id = next(self._request_ids)
        resources = await self._compiled(applied)
        event = Apply(
            request_id=request_id,
            resources=resources,
            dry_run=dry_run,
            by=by,
            file=file,
            unchanged_since=unchanged_since,
        )
        return await self._ask(request_id, event)

    async def _compiled(self, applied: tuple[Applied, ...]) -> tuple[Applied, ...]:
        """With what plugins say of the intents: asked here, since `step` waits for nobody."""
        if self._plugins is None or not self._plugins.compiling:
            return applied
        intents = [document for document in applied if document.kind == "Intent"]
        manifests = [to_manifest(msgspec.json.decode(intent.content, type=Intent)) for intent in intents]
        said = iter(await self._plugins.compile(manifests))
        return tuple(
            msgspec.structs.replace(document, added=next(said)) if document.kind == "Intent" else document
            for document in applied
        )

    async def delete(
        self,
        resources: Sequence[tuple[str, str]],
        *,
        ignore_missing: bool = False,
        dry_run: bool = False,
        by: Principal = OURSELVES,
        unchanged_since: int | None = None,
    ) -> Answer:
        """Raises KeyError for a kind that has no manifests."""
        references = tuple(Reference(kind=PLURALS[kind], name=name) for kind, name in resources)
        request_id = next(self._request_ids)
        event = Delete(
            request_id=request_id,
            resources=references,
            ignore_missing=ignore_missing,
            dry_run=dry_run,
            by=by,
            unchanged_since=unchanged_since,
        )
        return await self._ask(request_id, event)

    async def load_policy(self, *, dry_run: bool = False, by: Principal = OURSELVES) -> Answer:
        """As its file says it now; a file that is wrong changes nothing."""
        if self._policy is None:
            return Answer(conflict="this controller reads its policy from no file")
        try:
            policy = self._policy.read()
        except (ConfigInvalid, ManifestInvalid) as error:
            self._log("error", "policy_not_loaded", {"file": self._policy.name, "reason": str(error), "by": by.name})
            return Answer(invalid=str(error))
        request_id = next(self._request_ids)
        event = LoadPolicy(request_id=request_id, policy=policy, file=self._policy.name, dry_run=dry_run, by=by)
        return await self._ask(request_id, event)

    async def renew(self, name: str, *, by: Principal = OURSELVES) -> Answer:
        request_id = next(self._request_ids)
        return await self._ask(request_id, Renew(request_id=request_id, name=name, by=by))

    async def drain(self, part: str, *, is_drained: bool, by: Principal = OURSELVES) -> Answer:
        request_id = next(self._request_ids)
        return await self._ask(request_id, SetDrain(request_id=request_id, part=part, is_drained=is_drained, by=by))

    async def end_agreement(self, name: str, reason: str, hold_off_s: int, *, by: Principal = OURSELVES) -> Answer:
        request_id = next(self._request_ids)
        event = EndAgreement(request_id=request_id, name=name, reason=reason, hold_off_s=hold_off_s, by=by)
        return await self._ask(request_id, event)

    async def decide(self, name: str, approved: bool, *, by: Principal = OURSELVES) -> Answer:
        request_id = next(self._request_ids)
        incident, added = self._state.incidents.get(name), tuple[Added, ...]()
        if approved and incident is not None and incident.proposal is not None:
            proposed = Applied(kind="Intent", content=msgspec.json.encode(incident.proposal))
            [compiled] = await self._compiled((proposed,))
            added = compiled.added
        event = Decide(request_id=request_id, name=name, approved=approved, added=added, by=by)
        return await self._ask(request_id, event)

    async def _ask(
        self, request_id: str, event: Apply | Delete | Renew | SetDrain | EndAgreement | LoadPolicy | Decide
    ) -> Answer:
        """The answer when it is durable. Who stops waiting does not stop the change."""
        if self._ended:
            raise Unavailable(self._ended)
        if self.full and self._started:
            raise NoSpace(self.full)
        reply: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._replies[request_id] = reply
        try:
            self._queue.put_nowait(OURS, (event, None))
        except asyncio.QueueFull as exc:
            del self._replies[request_id]
            raise Overloaded(f"{QUEUE_MAX} events wait already; try again in a moment") from exc
        try:
            return await reply
        finally:
            self._replies.pop(request_id, None)


def _is_large(manifests: Sequence[dict[str, Any]]) -> bool:
    """Whether others would wait while they are read; one alone may be megabytes."""
    try:
        return len(msgspec.json.encode(manifests)) > LARGE_BYTES
    except (ValueError, OverflowError):  # what JSON cannot say again
        return True


def _weight(event: Event) -> int:
    """In intents that a step goes through, about."""
    match event:
        case Apply() | Delete():
            return len(event.resources)
        case MessageReceived():
            return MESSAGE_WEIGHT
        case _:
            return 0


def _whose(event: Event, line: Log) -> str:
    """Out of whose share a line is; empty: out of nobody's."""
    match event:
        case MessageReceived(peer=peer):
            return f"domains/{peer}"
        case NodeSynced() | NodeRejected() | NodeUnreachable() if line.level != "info":
            return f"nodes/{line.fields.get('node', '')}"
        case _:
            return ""


def _together(item: tuple[int, Event]) -> tuple[object, ...]:
    """What one peer says, or has taken, in a row is one step; so is what nodes confirm."""
    place, event = item
    match event:
        case MessageReceived(peer=peer) | MessageSent(peer=peer):
            return type(event), peer
        case NodeSynced():
            return (type(event),)
        case _:
            return (place,)
