"""Which services stand for what intents describe: chosen when an intent is applied, and again whenever it is looked at.

Nothing here changes an intent but its requirements: when another service is chosen these lead elsewhere, and what has
carried the intent until now is the plan that the new one takes over from, make before break (`intents.py`).
"""

import zlib
from collections.abc import Iterator

import msgspec

from controller.fulfillment.rule_engine import RuleEngine
from controller.fulfillment.selection import CONSIDERED_MAX, Candidate, lacks, select, trust_of
from controller.fulfillment.shortfall import words
from controller.fulfillment.translate import translate
from controller.model.access import Principal, Role
from controller.model.advertising import heard_owner
from controller.model.intent import Allow, AnyService, Intent, Trust
from controller.model.inventory import Inventory
from controller.model.requirements import Connection, Requirements
from controller.model.rule import Added
from controller.model.selection import Selection, resolved
from controller.model.stitch import ConnectionStatus, IntentRecord
from controller.reconcile.authority import may_reach
from controller.reconcile.transaction import Transaction
from controller.reconcile.validation import judge
from controller.reconcile.wanted import ends, is_good, may_be_tried

LOOK_S = 60
"""How seldom it is looked whether another service is better, or does again; at most twice as often."""
NAMED_MAX = 3
"""Services that a reason names."""


def selections(
    transaction: Transaction,
    intent: Intent,
    rules: RuleEngine,
    inventory: Inventory,
    added: tuple[Added, ...],
) -> tuple[Selection, ...]:
    """Of each clause that describes a service. `rules` and `inventory` are what is to hold."""
    if all(allow.any is None for allow in intent.allow):
        return ()
    graph = transaction.graph_of(inventory)
    intent_record = transaction.intent_records.get(intent.name)
    chosen: tuple[Selection, ...] = ()
    for clause, allow in enumerate(intent.allow):
        if allow.any is None:
            continue
        before = _before(intent_record, clause, allow) or Selection(clause=clause)
        names, nearest = _matching(transaction, intent, allow.any, inventory)
        candidates = [
            _candidate(transaction, intent, clause, name, rules, inventory, added, before, intent_record)
            for name in names[:CONSIDERED_MAX]
        ]

        def conflict(service: str, clause: int = clause, others: tuple[Selection, ...] = chosen) -> str:
            tried = resolved(intent, (*others, Selection(clause=clause, chosen=service)))
            tenant = Principal(name=intent.tenant, role=Role.OPERATOR, tenants=(intent.tenant,))
            return judge(transaction, inventory, {intent.name: tried}, tenant).conflict

        selection = select(candidates, graph, before, int(transaction.now_s), conflict)
        if left_out := len(names) - len(candidates):
            selection = msgspec.structs.replace(selection, left_out=selection.left_out + left_out)
        if not selection.chosen:
            selection = msgspec.structs.replace(selection, reason=_none(selection, nearest))
        chosen = (*chosen, selection)
    return chosen


def _before(intent_record: IntentRecord | None, clause: int, allow: Allow) -> Selection | None:
    """What was chosen for the very same clause."""
    if intent_record is None or intent_record.intent.allow[clause : clause + 1] != (allow,):
        return None
    selections = intent_record.requirements.selections
    return next((selection for selection in selections if selection.clause == clause), None)


def _matching(
    transaction: Transaction, intent: Intent, asked: AnyService, inventory: Inventory
) -> tuple[list[str], str]:
    """What is as described and may be led to, sorted; where nothing is, what comes nearest, in words."""
    names: list[str] = []
    nearest: tuple[int, str, str] | None = None
    for name, service in inventory.services.items():
        if not may_reach(intent.tenant, name, inventory, transaction.own):
            continue
        lacking = lacks(asked, service, inventory)
        if not lacking:
            names.append(name)
        elif nearest is None or (len(lacking), name) < nearest[:2]:
            nearest = len(lacking), name, f"{name} {', '.join(lacking)}"
    return sorted(names), nearest[2] if nearest is not None else "there are no services"


def _candidate(
    transaction: Transaction,
    intent: Intent,
    clause: int,
    name: str,
    rules: RuleEngine,
    inventory: Inventory,
    added: tuple[Added, ...],
    before: Selection,
    intent_record: IntentRecord | None,
) -> Candidate:
    allow = msgspec.structs.replace(intent.allow[clause], to=name, any=None)
    required = translate(msgspec.structs.replace(intent, allow=(allow,)), rules, inventory, added)
    if not isinstance(required, Requirements):
        return Candidate(service=name, objection=required[0].message)
    if required.unmet:
        return Candidate(service=name, objection=f"{required.unmet[0].binding}: {required.unmet[0].message}")
    (connection,) = required.connections
    asked, trust = intent.allow[clause].any, trust_of(name, inventory)
    assert asked is not None
    least = max(asked.trust_min or Trust.PUBLIC, connection.trust_min or Trust.PUBLIC)
    if trust < least:
        message = f"trust of at least {least.name.lower()} is required; it has {trust.name.lower()}"
        return Candidate(service=name, objection=f"trust: {message}")
    if avoided := _avoided(connection.avoid_labels, name, inventory):
        return Candidate(service=name, objection=f"avoid: it has {words(avoided)}")
    doubt = "it is not advertised any more" if name in transaction.unadvertised else ""
    candidate = Candidate(service=name, connection=connection, doubt=doubt)
    if intent_record is None or name != before.chosen:
        return candidate
    for was, status in _of(intent_record):
        if ends(was) == ends(connection):
            return _carrying(transaction, candidate, intent_record, status)
    return candidate


def _avoided(labels: tuple[tuple[str, str], ...], service: str, inventory: Inventory) -> tuple[tuple[str, str], ...]:
    things = inventory.domains[service.split("/")[0]], inventory.networks[service.rpartition("/")[0]]
    has = {*inventory.services[service].labels, *(label for thing in things for label in thing.labels)}
    return tuple(label for label in labels if label in has)


def _of(intent_record: IntentRecord) -> Iterator[tuple[Connection, ConnectionStatus]]:
    return zip(intent_record.requirements.connections, intent_record.connection_statuses, strict=True)


def _carrying(
    transaction: Transaction, candidate: Candidate, intent_record: IntentRecord, status: ConnectionStatus
) -> Candidate:
    """With how it has fared so far."""
    stitch = transaction.stitches.get(status.coming or status.plan)
    connection = candidate.connection
    assert connection is not None
    held_off = [
        refusal.border for refusal in status.held_off if transaction.now_s < refusal.until_s or not refusal.until_s
    ]
    refused = status.refusal or status.lost
    return msgspec.structs.replace(
        candidate,
        excluded=tuple(sorted({*status.excluded, *held_off})),
        refusal=refused if status.excluded or held_off else "",
        carried=stitch is not None and is_good(transaction, stitch, intent_record, connection),
    )


def _none(selection: Selection, nearest: str) -> str:
    """Why nothing is chosen."""
    clause = f"allow {selection.clause + 1}"
    if not selection.considered:
        return f"{clause}: no service is known that is as described; nearest: {nearest}"
    dropped = [f"{each.service}: {each.reason}" for each in selection.considered[:NAMED_MAX]]
    more = len(selection.considered) + selection.left_out - len(dropped)
    return f"{clause}: none can be taken: {'; '.join(dropped)}" + (f"; and {more} more" if more else "")


def next_look_s(intent: str, now_s: float) -> float:
    """Those that were applied together are not looked at together."""
    return now_s + LOOK_S - zlib.crc32(intent.encode()) % (LOOK_S // 2)


def is_in_doubt(transaction: Transaction, intent_record: IntentRecord) -> bool:
    """Whether other services may be chosen than before. Of what changes on the graph alone nobody is told: that is seen
    when one is looked for anyway, and each minute."""
    selections, now_s = intent_record.requirements.selections, transaction.now_s
    if not selections:
        return False
    look_s = transaction.pursuits.get(intent_record.intent.name)
    if transaction.inventory_changed or look_s is None or not now_s < look_s <= now_s + LOOK_S:
        return True
    owners = {heard_owner(name) for name in transaction.reaches.touched}
    if any(each.service.split("/")[0] in owners for selection in selections for each in selection.considered):
        return True
    for connection, status in _of(intent_record):
        stitch = transaction.stitches.get(status.coming or status.plan)
        stands = stitch is not None and is_good(transaction, stitch, intent_record, connection)
        if not stands and may_be_tried(status, now_s):
            return True
    return False


def reselected(transaction: Transaction, intent_record: IntentRecord) -> IntentRecord:
    """What an intent requires now that other services may do better, or its own no more; the same one, if nothing is
    other than before."""
    intent, before = intent_record.intent, intent_record.requirements
    rules, inventory = transaction.rule_engine, transaction.inventory
    chosen = selections(transaction, intent, rules, inventory, intent_record.added)
    if chosen == before.selections:
        return intent_record
    required = translate(intent, rules, inventory, intent_record.added, chosen)
    if not isinstance(required, Requirements):
        return intent_record  # another clause names what is not as it was: that is for others to find
    for selection in chosen:
        was = next((each.chosen for each in before.selections if each.clause == selection.clause), "")
        if was != selection.chosen:
            transaction.log("selected", intent=intent.name, service=selection.chosen or "none", before=was or "none")
    return msgspec.structs.replace(intent_record, requirements=required)


def inherited(before: IntentRecord, intent: Intent, required: Requirements) -> dict[tuple[str, str], ConnectionStatus]:
    """By the ends of connections: how those stand that are there already, and in the place of which others come since
    another service is chosen."""
    known = {ends(connection): status for connection, status in _of(before)}
    wanted = {ends(connection) for connection in required.connections}
    heirs = {its_ends: status for its_ends, status in known.items() if its_ends in wanted}
    was = {selection.clause: selection.chosen for selection in before.requirements.selections}
    for selection in required.selections:
        selector = intent.allow[selection.clause].source or intent.isolate
        old, new = (name.rpartition("/")[0] for name in (was.get(selection.clause, ""), selection.chosen))
        if selector is None or not old or not new:
            continue
        old_ends, new_ends = (selector.network, old), (selector.network, new)
        if old_ends in known and old_ends not in wanted and new_ends not in heirs:
            heirs[new_ends] = known.pop(old_ends)
    return heirs
