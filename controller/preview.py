"""A dry run: the step is made on the state, what it would come to is told, and all of it is forgotten."""

from collections.abc import Iterator, Mapping
from typing import Any

from controller import entry_view
from controller.explain import entry_words, flow_words
from controller.fulfillment.realize import Realized, realize
from controller.fulfillment.room import in_the_end
from controller.fulfillment.rules import NoRoom
from controller.intent_status import intent_status
from controller.language.scalars import print_time
from controller.model.access import Principal
from controller.model.agreement import Refusal, Terms, Withdrawal, opened
from controller.model.course import Course, Stage
from controller.model.entry import Entry
from controller.model.event import Apply, Delete, Effect, NodeSynced, Reply, Send, SyncNode
from controller.model.intent import Encryption, Phase
from controller.model.keys import Keys
from controller.model.persistent import PersistentMap
from controller.model.preview import AgreementPreview, EntryPreview, IntentPreview, NodePreview, Preview
from controller.reconcile import State, admission, step
from controller.reconcile.turn import Turn

MAX_ROUNDS = 8
"""So often nodes are taken to confirm what they would be sent: a plan is added, switched over to, the old removed."""


def foresee(state: State, event: Apply | Delete, now_s: float, keys: Keys) -> Reply:
    """What `event` would be answered, and what it would do, as far as it concerns who asks. `state` stays as it is."""
    after, effects = step(state, event, now_s, keys)
    reply = next(one for one in effects if isinstance(one, Reply))
    if not reply.results:  # it is refused
        return reply
    said = [*effects]
    for _ in range(MAX_ROUNDS):
        wanted = {one.node: one for one in effects if isinstance(one, SyncNode)}
        effects = ()
        for name, sync in wanted.items():
            before = state.nodes.get(name)
            if before is None or not before.rejected:  # what refuses its state now would not take more
                synced = NodeSynced(node=name, generation=sync.generation, writes=0)
                after, more = step(after, synced, now_s, keys)
                effects += more
        said += effects
        if not effects:
            break
    preview = Preview(
        intents=tuple(_intents(state, after, event.by, now_s)),
        agreements=tuple(_agreements(said, event.by, state, after)),
        nodes=tuple(_nodes(state, after, event.by, now_s, keys)),
    )
    return Reply(request_id=reply.request_id, results=reply.results, preview=preview)


# ---- intents


def _intents(before: State, after: State, by: Principal, now_s: float) -> Iterator[IntentPreview]:
    for name in sorted(before.undertakings.keys() | after.undertakings.keys()):
        if not _concerns(by, name, before, after) or _parts(before, name) == _parts(after, name):
            continue
        was, will_be = before.undertakings.get(name), after.undertakings.get(name)
        now = intent_status(before, was, now_s) if was is not None else {"phase": ""}
        if will_be is None:
            yield IntentPreview(name=name, before=now["phase"], phase="Deleted", reasons=(), paths=(), latency_ms=None)
            continue
        status = intent_status(after, will_be, now_s)
        asked = [_would_ask(one.downstream.terms) for one in _begun(before, after, name) if one.downstream is not None]
        if not asked and _standing(now) == _standing(status):
            continue  # its lease begins anew, or the like
        told = [one["reason"] for one in status["conditions"] if not (asked and one["type"] == str(Phase.NEGOTIATING))]
        yield IntentPreview(
            name=name,
            before=now["phase"],
            phase=status["phase"],
            reasons=(*asked, *told),
            paths=tuple(tuple(one["path"]) for one in status.get("paths", ())),
            latency_ms=status["predicted"]["latency_ms"] if "predicted" in status else None,
        )


def _standing(status: Mapping[str, Any]) -> tuple[Any, ...]:
    return status["phase"], status.get("conditions"), status.get("paths"), status.get("predicted")


def _concerns(by: Principal, name: str, *states: State) -> bool:
    held = (state.undertakings.get(name) for state in states)
    return any(one is not None and by.concerns(one.intent.tenant) for one in held)


def _parts(state: State, name: str) -> tuple[object, ...]:
    undertaking = state.undertakings.get(name)
    plans = [plan for errand in (undertaking.errands if undertaking is not None else ())
             for plan in (errand.plan, errand.coming)]  # fmt: skip
    return undertaking, *(state.courses.get(plan) for plan in plans)


def _begun(before: State, after: State, name: str) -> Iterator[Course]:
    for errand in after.undertakings[name].errands:
        course = after.courses.get(errand.coming)
        if course is not None and course.stage == Stage.NEGOTIATING and errand.coming not in before.courses:
            yield course


def _would_ask(terms: Terms) -> str:
    bounds = [f"latency <= {terms.latency_us_max / 1000:g} ms"] if terms.latency_us_max is not None else []
    bounds += [f"encryption {terms.encryption}"] if terms.encryption != Encryption.NONE else []
    bounds += [f"trust >= {terms.trust_min.name.lower()}"] if terms.trust_min is not None else []
    needs = ", ".join((f"over {terms.border}", *bounds, f"until {print_time(terms.expires_s)}"))
    flows = "; ".join(flow_words(flow).replace(" reaches ", " to reach ", 1) for flow in terms.flows)
    return f"would ask {terms.acceptor} for {flows}, {needs}"


# ---- agreements


def _agreements(effects: list[Effect], by: Principal, *states: State) -> Iterator[AgreementPreview]:
    """Those that end may be of other tenants, as may those that are asked for anew around what changes."""
    concerning = {
        course.downstream.terms.id
        for state in states
        for course in state.courses.values()
        if course.downstream is not None and _concerns(by, course.plan.owner.removeprefix("intents/"), *states)
    }
    for peer, message in ((one.peer, opened(one.message)) for one in effects if isinstance(one, Send)):
        match message:
            case Terms(id=id) if by.tenants is None or id in concerning:
                yield AgreementPreview(peer=peer, what="asked", text=_would_ask(message))
            case Withdrawal(id=id, reason=reason) if by.tenants is None:
                yield AgreementPreview(peer=peer, what="ended", text=f"agreements/{id} would end: {reason}")
            case Refusal(id=id, reason=reason) if by.tenants is None:
                yield AgreementPreview(peer=peer, what="refused", text=f"agreements/{id} would be refused: {reason}")
            case _:
                pass


# ---- entries


def _nodes(before: State, after: State, by: Principal, now_s: float, keys: Keys) -> Iterator[NodePreview]:
    held, coming = _entries(before, now_s, keys), _entries(after, now_s, keys)

    def concerns(entry: Entry) -> bool:
        return by.tenants is None or _concerns(by, entry.owner.removeprefix("intents/"), before, after)

    for node in sorted(held.keys() | coming.keys()):
        old, new = held.get(node, {}), coming.get(node, {})
        shown = [(name, entry) for name, entry in new.items() if concerns(entry)]
        added = [(name, entry) for name, entry in shown if name not in old]
        changed = [(name, entry) for name, entry in shown if name in old and not _does_same(entry, old[name])]
        removed = [(name, entry) for name, entry in old.items() if name not in new and concerns(entry)]
        if added or changed or removed:
            yield NodePreview(node=node, added=_told(added), changed=_told(changed), removed=_told(removed))


def _entries(state: State, now_s: float, keys: Keys) -> Mapping[str, Mapping[str, Entry]]:
    """Of each node, by name, once all that has begun is agreed, installed and in use, and what goes is gone."""
    replaced = {course.replaces for course in state.courses.values()}
    courses = PersistentMap(
        (name, in_the_end(course))
        for name, course in state.courses.items()
        if not course.stage.leaving and name not in replaced
    )
    try:
        states = realize(admission.wanted(Turn(state, now_s, keys), courses), Realized()).states
    except (NoRoom, ValueError):  # no room in the end: what was refused for it says so
        return {}
    return {node: {entry_view.entry_name(node, entry): entry for entry in one.entries} for node, one in states.items()}


def _does_same(one: Entry, other: Entry) -> bool:
    return (one.action, one.params) == (other.action, other.params)


def _told(entries: list[tuple[str, Entry]]) -> tuple[EntryPreview, ...]:
    return tuple(
        EntryPreview(
            name=name,
            text=entry_words(entry) if entry.table != "lease" else f"{entry.action} the end that is agreed",
            owner=entry.owner,
        )
        for name, entry in entries
    )
