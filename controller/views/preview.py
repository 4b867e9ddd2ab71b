"""A dry run: the step is made on the state, what it would come to is told, and all of it is forgotten."""

from collections.abc import Iterator, Mapping
from typing import Any

from controller.fulfillment.acl import NoCapacity
from controller.fulfillment.capacity import in_the_end
from controller.fulfillment.realize import Realized, realize
from controller.language.scalars import print_time
from controller.model.access import Principal
from controller.model.agreement import Refusal, Terms, Withdrawal, opened
from controller.model.entry import OwnedEntry
from controller.model.event import Apply, Delete, Effect, NodeSynced, Reply, Send, SyncNode
from controller.model.intent import Encryption, Phase
from controller.model.keys import Keys
from controller.model.persistent import PersistentMap
from controller.model.preview import AgreementPreview, EntryPreview, IntentPreview, NodePreview, Preview
from controller.model.stitch import Stage, Stitch
from controller.reconcile import State, capacity_check, step
from controller.reconcile.transaction import Transaction
from controller.views import entry_view
from controller.views.explain import entry_words, flow_words
from controller.views.intent_status import intent_status

MAX_ROUNDS = 8
"""So often nodes are taken to confirm what they would be sent: a plan is added, switched over to, the old removed."""


def foresee(state: State, event: Apply | Delete, now_s: float, keys: Keys) -> Reply:
    """What `event` would be answered, and what it would do, as far as it concerns who asks. `state` stays as it is."""
    after, effects = step(state, event, now_s, keys)
    reply = next(effect for effect in effects if isinstance(effect, Reply))
    if not reply.results:  # it is refused
        return reply
    said = [*effects]
    for _ in range(MAX_ROUNDS):
        wanted = {effect.node: effect for effect in effects if isinstance(effect, SyncNode)}
        effects = ()
        for name, sync in wanted.items():
            before = state.nodes.get(name)
            if before is None or not before.rejected:  # what refuses its state now would not take more
                synced = NodeSynced(node=name, generation=sync.generation, writes=0)
                after, produced = step(after, synced, now_s, keys)
                effects += produced
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
    for name in sorted(before.intent_records.keys() | after.intent_records.keys()):
        if not _concerns(by, name, before, after) or _parts(before, name) == _parts(after, name):
            continue
        was, will_be = before.intent_records.get(name), after.intent_records.get(name)
        now = intent_status(before, was, now_s) if was is not None else {"phase": ""}
        if will_be is None:
            yield IntentPreview(name=name, before=now["phase"], phase="Deleted", reasons=(), paths=(), latency_ms=None)
            continue
        status = intent_status(after, will_be, now_s)
        asked = [
            _would_ask(stitch.downstream.terms)
            for stitch in _begun(before, after, name)
            if stitch.downstream is not None
        ]
        if not asked and _standing(now) == _standing(status):
            continue  # its lease begins anew, or the like
        told = [
            condition["reason"]
            for condition in status["conditions"]
            if not (asked and condition["type"] == str(Phase.NEGOTIATING))
        ]
        yield IntentPreview(
            name=name,
            before=now["phase"],
            phase=status["phase"],
            reasons=(*asked, *told),
            paths=tuple(tuple(path["path"]) for path in status.get("paths", ())),
            latency_ms=status["predicted"]["latency_ms"] if "predicted" in status else None,
        )


def _standing(status: Mapping[str, Any]) -> tuple[Any, ...]:
    return status["phase"], status.get("conditions"), status.get("paths"), status.get("predicted")


def _concerns(by: Principal, name: str, *states: State) -> bool:
    records = (state.intent_records.get(name) for state in states)
    return any(intent_record is not None and by.concerns(intent_record.intent.tenant) for intent_record in records)


def _parts(state: State, name: str) -> tuple[object, ...]:
    intent_record = state.intent_records.get(name)
    plans = [plan for connection_status in (intent_record.connection_statuses if intent_record is not None else ())
             for plan in (connection_status.plan, connection_status.coming)]  # fmt: skip
    return intent_record, *(state.stitches.get(plan) for plan in plans)


def _begun(before: State, after: State, name: str) -> Iterator[Stitch]:
    for connection_status in after.intent_records[name].connection_statuses:
        stitch = after.stitches.get(connection_status.coming)
        if stitch is not None and stitch.stage == Stage.NEGOTIATING and connection_status.coming not in before.stitches:
            yield stitch


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
        stitch.downstream.terms.id
        for state in states
        for stitch in state.stitches.values()
        if stitch.downstream is not None and _concerns(by, stitch.plan.owner.removeprefix("intents/"), *states)
    }
    for peer, message in ((effect.peer, opened(effect.message)) for effect in effects if isinstance(effect, Send)):
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
    present, coming = _entries(before, now_s, keys), _entries(after, now_s, keys)

    def concerns(entry: OwnedEntry) -> bool:
        return by.tenants is None or _concerns(by, entry.owner.removeprefix("intents/"), before, after)

    for node in sorted(present.keys() | coming.keys()):
        old, new = present.get(node, {}), coming.get(node, {})
        shown = [(name, entry) for name, entry in new.items() if concerns(entry)]
        added = [(name, entry) for name, entry in shown if name not in old]
        changed = [(name, entry) for name, entry in shown if name in old and not _does_same(entry, old[name])]
        removed = [(name, entry) for name, entry in old.items() if name not in new and concerns(entry)]
        if added or changed or removed:
            yield NodePreview(node=node, added=_told(added), changed=_told(changed), removed=_told(removed))


def _entries(state: State, now_s: float, keys: Keys) -> Mapping[str, Mapping[str, OwnedEntry]]:
    """Of each node, by name, once all that has begun is agreed, installed and in use, and what goes is gone."""
    replaced = {stitch.replaces for stitch in state.stitches.values()}
    stitches = PersistentMap(
        (name, in_the_end(stitch))
        for name, stitch in state.stitches.items()
        if not stitch.stage.leaving and name not in replaced
    )
    try:
        states = realize(capacity_check.wanted(Transaction(state, now_s, keys), stitches), Realized()).states
    except (NoCapacity, ValueError):  # no room in the end: what was refused for it says so
        return {}
    return {
        node: {entry_view.entry_name(node, entry): entry for entry in state.entries} for node, state in states.items()
    }


def _does_same(entry: OwnedEntry, other: OwnedEntry) -> bool:
    return (entry.action, entry.params) == (other.action, other.params)


def _told(entries: list[tuple[str, OwnedEntry]]) -> tuple[EntryPreview, ...]:
    return tuple(
        EntryPreview(
            name=name,
            text=entry_words(entry) if entry.table != "lease" else f"{entry.action} the end that is agreed",
            owner=entry.owner,
        )
        for name, entry in entries
    )
