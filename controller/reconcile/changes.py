"""Manifests that somebody applies: judged as a whole, then taken over."""

import datetime
from collections.abc import Collection, Mapping, Sequence

import msgspec

from controller.fulfillment.aliases import holding
from controller.fulfillment.rule_effects import endless
from controller.fulfillment.rule_engine import RuleEngine, rule_engine
from controller.fulfillment.translate import translate
from controller.model.access import Principal
from controller.model.event import Applied, Apply, Connect, Problem, Renew, Reply
from controller.model.intent import Intent, with_shared_parts
from controller.model.inventory import Domain, Inventory, Link, Network, Node, Service
from controller.model.provenance import KEY_FILES, Provenance
from controller.model.requirements import Requirements
from controller.model.rule import Rule
from controller.model.selection import resolved
from controller.model.stitch import expired
from controller.reconcile.authority import namable, overreach, trespass
from controller.reconcile.changing_tables import AnyTable
from controller.reconcile.fitting import Request, Resource, inventory_problems, port_problems
from controller.reconcile.intents import renew, undertake
from controller.reconcile.peer_admission import Ended, end_all, ended_by
from controller.reconcile.peers import ask_again
from controller.reconcile.selecting import selections
from controller.reconcile.state import NodeStanding
from controller.reconcile.transaction import Transaction
from controller.reconcile.validation import Judgement, judge

KINDS: dict[str, type] = {
    "Domain": Domain,
    "Network": Network,
    "Service": Service,
    "Node": Node,
    "Link": Link,
    "Rule": Rule,
    "Intent": Intent,
}
_TABLES = {"Domain": "domains", "Network": "networks", "Service": "services", "Node": "nodes", "Link": "links"}


def apply(transaction: Transaction, event: Apply) -> None:
    """All or none; idempotent."""
    values = [
        (index, resource.kind, _with_own_key(transaction, _decode(resource)))
        for index, resource in enumerate(event.resources)
    ]
    added = {value.name: event.resources[index].added for index, kind, value in values if kind == "Intent"}
    request = Request(values, added)
    merged = _merged(transaction.inventory, request)
    inventory_touched = merged != transaction.inventory
    laid_down = {value.name: value for _, _, value in values if isinstance(value, Rule)}
    rules_touched = any(transaction.rules.get(name) != rule for name, rule in laid_down.items())
    rules = rule_engine({**transaction.rules.all, **laid_down}.values()) if rules_touched else transaction.rule_engine
    problems = inventory_problems(merged, transaction.own, request) if inventory_touched else []
    problems += _own_key_problems(transaction, event, request)
    problems += list(port_problems(transaction, merged, request)) if inventory_touched else []
    required: dict[str, Requirements] = {}
    intents: dict[str, Intent] = {}
    for index, _, value in request.values:
        if isinstance(value, Intent):
            intents[value.name] = value
            inventory = merged if inventory_touched else transaction.inventory
            chosen = selections(transaction, value, rules, inventory, added[value.name])
            translated = translate(value, rules, merged, added[value.name], chosen)
            if isinstance(translated, Requirements):
                required[value.name] = translated
                merged = holding(merged, translated.connections)
            else:
                known = namable(event.by, merged, transaction.own)
                told = translate(value, rules, known, added[value.name], chosen)
                translated = told if not isinstance(told, Requirements) else translated  # names no networks of others
                problems += [msgspec.structs.replace(problem, path=(index, *problem.path)) for problem in translated]
            problems += _lease_problems(transaction, index, value)
    if refusal := overreach(event.by, intents, transaction.intent_records.all, merged, transaction.own):
        transaction.effects.append(Reply(request_id=event.request_id, forbidden=refusal))
        return
    if stale := changed_since(transaction, [(kind, value.name) for _, kind, value in values], event.unchanged_since):
        transaction.effects.append(Reply(request_id=event.request_id, stale=stale))
        return
    if problems:
        transaction.effects.append(Reply(request_id=event.request_id, problems=tuple(problems)))
        return
    conflict = _foreign_tenant(transaction, intents)
    if not conflict and (inventory_touched or rules_touched):
        conflict, merged = retranslate(transaction, rules, merged, intents, required)
    if rules_touched and (problems := _endless(request, rules, required)):
        transaction.effects.append(Reply(request_id=event.request_id, problems=tuple(problems)))
        return
    inventory = merged if merged != transaction.inventory else transaction.inventory
    judgement = Judgement(conflict) if conflict else judge(transaction, inventory, _meant(intents, required), event.by)
    conflict = judgement.conflict
    if conflict:
        transaction.effects.append(Reply(request_id=event.request_id, conflict=conflict))
        return
    results = tuple(_result(transaction, kind, value) for _, kind, value in request.values)
    ended = ended_by(transaction, required.values())
    warnings = (*judgement.warnings, *(_ends(name, end, event.by) for name, end in ended.items()))
    end_all(transaction, ended)
    for (_, kind, value), result in zip(request.values, results, strict=True):
        if not result.endswith(" unchanged"):
            _note(transaction, f"{kind.lower()}s/{value.name}", event.by, event.revision, event.file)
    _take_over(transaction, request)
    transaction.rule_engine = rules
    if transaction.inventory_changed:
        transaction.refresh_fabric()
    for _, kind, value in request.values:
        if kind == "Domain":
            ask_again(transaction, value.name, everything=True)
    for name, requirements in required.items():
        if (intent := intents.get(name)) is not None:
            undertake(transaction, intent, requirements, added[name], again=True)
        elif (intent_record := transaction.intent_records.get(name)) is not None:
            undertake(transaction, intent_record.intent, requirements, intent_record.added)
    transaction.effects.append(Reply(request_id=event.request_id, results=(*results, *warnings)))


def _meant(intents: Mapping[str, Intent], required: Mapping[str, Requirements]) -> dict[str, Intent]:
    """With the services that are chosen where they describe one."""
    return {name: resolved(intent, required[name].selections) for name, intent in intents.items()}


def _ends(agreement: str, ended: Ended, by: Principal) -> str:
    """What we carry for others is no tenant's to know."""
    if by.tenants is not None:
        return "an agreement with a neighbour ends"
    return f"agreement {agreement} {ended.what}: {ended.why.detail}"


def _note(transaction: Transaction, resource: str, by: Principal, revision: int, file: str = "") -> None:
    """Who applied it, and when; since when it is there stays as it is."""
    now_s, before = int(transaction.now_s), transaction.provenance.get(resource)
    created_s = (before.created_s or before.at_s) if before is not None else now_s
    transaction.provenance.put(
        resource, Provenance(by=by.name, file=file, at_s=now_s, created_s=created_s, revision=revision)
    )


def changed_since(transaction: Transaction, things: Sequence[tuple[str, str]], revision: int | None) -> tuple[int, ...]:
    """Which (kind and name) somebody has changed after a revision, or are not there."""
    if revision is None:
        return ()
    stored = tables(transaction)
    stale = []
    for place, (kind, name) in enumerate(things):
        applied = transaction.provenance.get(f"{kind.lower()}s/{name}")
        if stored[kind].get(name) is None or (applied is not None and applied.revision > revision):
            stale.append(place)
    return tuple(stale)


def tables(transaction: Transaction) -> dict[str, AnyTable]:
    """By kind."""
    return {
        "Domain": transaction.domains,
        "Network": transaction.networks,
        "Service": transaction.services,
        "Node": transaction.inventory_nodes,
        "Link": transaction.links,
        "Rule": transaction.rules,
        "Intent": transaction.intent_records,
    }


def _decode(applied: Applied) -> Resource:
    value: Resource = msgspec.json.decode(applied.content, type=KINDS[applied.kind])
    if isinstance(value, Intent):
        value = with_shared_parts(value)
    return value


def _with_own_key(transaction: Transaction, value: Resource) -> Resource:
    """The manifest of our own Domain needs no key: it keeps the one it has."""
    own_domain = transaction.domains.get(transaction.own)
    if not isinstance(value, Domain) or not value.own or value.key or own_domain is None:
        return value
    return msgspec.structs.replace(value, key=own_domain.key, certificate=own_domain.certificate)


def _own_key_problems(transaction: Transaction, event: Apply, request: Request) -> list[Problem]:
    """What we sign is signed with the key of the key directory, whatever a manifest says."""
    own_domain = transaction.domains.get(transaction.own)
    if own_domain is None or event.by.name == KEY_FILES:
        return []
    return [
        Problem(
            path=(index, "spec", "key"),
            message=f"{transaction.own}'s own key is that of its key directory: leave key and certificate out",
        )
        for index, _, value in request.values
        if isinstance(value, Domain)
        and value.own
        and (value.key, value.certificate) != (own_domain.key, own_domain.certificate)
    ]


def _merged(inventory: Inventory, request: Request) -> Inventory:
    """The very same where nothing of it is applied: a request of intents costs nothing for what else there is."""
    others = [(_TABLES[kind], value) for _, kind, value in request.values if kind in _TABLES]
    if not others:
        return inventory
    tables = {table: dict(getattr(inventory, table)) for table in _TABLES.values()}
    for table, value in others:
        tables[table][value.name] = value
    return msgspec.structs.replace(inventory, **tables)


def _result(transaction: Transaction, kind: str, value: Resource) -> str:
    if isinstance(value, Intent):
        intent_record = transaction.intent_records.get(value.name)
        stored: object = intent_record.intent if intent_record is not None else None
    elif isinstance(value, Rule):
        stored = transaction.rules.get(value.name)
    else:
        stored = getattr(transaction.inventory, _TABLES[kind]).get(value.name)
    same = "renewed" if isinstance(value, Intent) and value.lease_s is not None else "unchanged"
    what = "created" if stored is None else same if stored == value else "changed"
    return f"{kind.lower()}s/{value.name} {what}"


def _take_over(transaction: Transaction, request: Request) -> None:
    for _, _, value in request.values:
        match value:
            case Domain():
                transaction.domains.put(value.name, value)
            case Network():
                transaction.networks.put(value.name, value)
            case Service():
                transaction.services.put(value.name, value)
            case Node():
                known = transaction.inventory_nodes.get(value.name)
                transaction.inventory_nodes.put(value.name, value)
                if known is None or known.agent != value.agent:
                    transaction.nodes.put(value.name, NodeStanding())
                    transaction.effects.append(Connect(node=value.name, agent=value.agent))
            case Link():
                transaction.links.put(value.name, value)
            case Rule():
                transaction.rules.put(value.name, value)
            case Intent():
                pass


def _lease_problems(transaction: Transaction, index: int, intent: Intent) -> list[Problem]:
    if intent.lease_until_s is not None and intent.lease_until_s <= transaction.now_s:
        return [Problem(path=(index, "spec", "lease", "until"), message="this time has passed")]
    return []


def _foreign_tenant(transaction: Transaction, intents: Mapping[str, Intent]) -> str:
    for name, intent in intents.items():
        intent_record = transaction.intent_records.get(name)
        if intent_record is not None and intent_record.intent.tenant != intent.tenant:
            return f"intent {name} belongs to tenant {intent_record.intent.tenant}: use another name"
    return ""


def _endless(request: Request, rules: RuleEngine, required: Mapping[str, Requirements]) -> list[Problem]:
    """Rules in the request with which others, or they alone, trigger each other without end."""
    unmet_by_intent = {name: unmet for name, asked in required.items() for unmet in asked.unmet if unmet.endless}
    anyway = endless(rules)
    if anyway is not None:
        unmet_by_intent[""] = anyway
    at = {value.name: index for index, _, value in request.values if isinstance(value, Rule)}
    problems: dict[int, Problem] = {}
    for name, unmet in sorted(unmet_by_intent.items()):
        where = f"intent {name}" if name else "an intent that asks for nothing"
        for rule in unmet.endless:
            if rule in at:
                problem = Problem(path=(at[rule], "spec", "when"), message=f"for {where}: {unmet.message}")
                problems.setdefault(at[rule], problem)
    return [problems[index] for index in sorted(problems)]


def retranslate(
    transaction: Transaction,
    rules: RuleEngine,
    merged: Inventory,
    intents: Collection[str],
    required: dict[str, Requirements],
) -> tuple[str, Inventory]:
    """What the intents other than `intents` require of the changed inventory and rules, or which of them it would
    break; and the inventory with what they take of it."""
    for name, intent_record in transaction.intent_records.all.items():
        if name in intents or expired(intent_record):
            continue
        translated = translate(
            intent_record.intent, rules, merged, intent_record.added, intent_record.requirements.selections
        )
        if not isinstance(translated, Requirements) and intent_record.requirements.selections:
            continue  # another is chosen, if that is why
        if not isinstance(translated, Requirements):
            message = f"intent {name} would no longer hold: {translated[0].message}; change or delete it first"
            return message, merged
        if translated != intent_record.requirements:
            required[name] = translated
            merged = holding(merged, translated.connections)
    return "", merged


def extend(transaction: Transaction, event: Renew) -> None:
    """The lease of an intent begins anew, if it is one that can, and is not over."""
    intent_record = transaction.intent_records.get(event.name)
    if intent_record is None:
        transaction.effects.append(Reply(request_id=event.request_id, missing=(0,)))
        return
    if refusal := trespass(event.by, (event.name,), transaction.intent_records.all):
        transaction.effects.append(Reply(request_id=event.request_id, forbidden=refusal))
        return
    name, end_s = event.name, intent_record.expires_s
    if end_s is None:
        conflict = f"intent {name} has no end: there is nothing to renew"
    elif end_s <= transaction.now_s:
        conflict = f"the lease of intent {name} is over since {_utc(end_s)}: apply it again"
    elif intent_record.intent.lease_s is None:
        conflict = f"intent {name} ends at {_utc(end_s)}, a fixed time: apply it with a later one"
    else:
        renew(transaction, intent_record)
        before = transaction.provenance.get(f"intents/{name}")
        revision = before.revision if before is not None else 0  # what it says has not changed
        _note(transaction, f"intents/{name}", event.by, revision)
        until = _utc(int(transaction.now_s) + intent_record.intent.lease_s)
        transaction.log("intent_renewed", intent=name, until=until)
        transaction.effects.append(
            Reply(request_id=event.request_id, results=(f"intents/{name} renewed until {until}",))
        )
        return
    transaction.effects.append(Reply(request_id=event.request_id, conflict=conflict))


def _utc(time_s: int) -> str:
    return datetime.datetime.fromtimestamp(time_s, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
