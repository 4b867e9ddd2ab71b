"""Resources that somebody deletes: all or none, with everything that is in the way named."""

from collections.abc import Collection, Iterator
from itertools import chain

from controller.fulfillment.plan_paths import SrPolicies, links, nodes
from controller.fulfillment.rule_engine import rule_engine
from controller.model.event import Delete, Disconnect, Problem, Reply
from controller.model.inventory import Inventory
from controller.model.requirements import Requirements
from controller.model.stitch import IntentRecord, Stage, Stitch
from controller.model.told import Told, Why
from controller.reconcile import stubs
from controller.reconcile.authority import trespass
from controller.reconcile.changes import changed_since, retranslate, tables
from controller.reconcile.changing_tables import AnyTable
from controller.reconcile.intents import undertake
from controller.reconcile.negotiation.withdrawals import abandon, end
from controller.reconcile.resting import rest
from controller.reconcile.tables import network_key
from controller.reconcile.transaction import Transaction
from controller.reconcile.validation import judge_withdrawal, shown

Thing = tuple[str, str]
"""Kind and name."""
USERS_SHOWN = 3
"""Of each thing that is in use."""


def delete(transaction: Transaction, event: Delete) -> None:
    """Takes things away, unless something that stays needs one of them."""
    stored = tables(transaction)
    asked = [(resource.kind, resource.name) for resource in event.resources]
    wanted = [*dict.fromkeys(asked)]
    missing = [thing for thing in wanted if stored[thing[0]].get(thing[1]) is None]
    gone = dict.fromkeys(thing for thing in wanted if thing not in missing)
    places = {thing: place for place, thing in reversed([*enumerate(asked)])}
    intents = [name for kind, name in gone if kind == "Intent"]
    if refusal := trespass(event.by, intents, transaction.intent_records.all):
        transaction.effects.append(Reply(request_id=event.request_id, forbidden=refusal))
        return
    stale = changed_since(transaction, asked, event.unchanged_since)
    if stale := tuple(place for place in stale if asked[place] in gone):
        transaction.effects.append(Reply(request_id=event.request_id, stale=stale))
        return
    objections = _in_use(transaction, gone)
    rules = [name for kind, name in gone if kind == "Rule"]
    required: dict[str, Requirements] = {}
    if intents and (reason := judge_withdrawal(transaction, intents, event.by)):
        objections.setdefault(("Intent", intents[0]), reason)
    if rules and (reason := _repeal(transaction, rules, intents, required)):
        objections.setdefault(("Rule", rules[0]), reason)
    if objections or (missing and not event.ignore_missing):
        problems = tuple(Problem(path=(places[thing],), message=text) for thing, text in objections.items())
        absent = () if event.ignore_missing else tuple(places[thing] for thing in missing)
        conflict = shown([*dict.fromkeys(objections.values())])
        reply = Reply(request_id=event.request_id, problems=problems, conflict=conflict, missing=absent)
        transaction.effects.append(reply)
        return
    for name in intents:
        withdraw(transaction, transaction.intent_records.all[name])
    _hurry(transaction, gone)
    for kind, name in gone:
        transaction.provenance.drop(f"{kind.lower()}s/{name}")
        if kind != "Intent":
            _drop(transaction, stored[kind], kind, name)
    if transaction.inventory_changed:
        transaction.refresh_fabric()
    if rules:
        transaction.rule_engine = rule_engine(transaction.rules.all.values())
        for name, requirements in required.items():
            other = transaction.intent_records.all[name]
            undertake(transaction, other.intent, requirements, other.added)
    results = []
    for kind, name in wanted:
        what = "absent" if (kind, name) not in gone else "withdrawn" if kind == "Intent" else "deleted"
        results.append(f"{kind.lower()}s/{name} {what}")
    transaction.effects.append(Reply(request_id=event.request_id, results=tuple(results)))


def _drop(transaction: Transaction, table: AnyTable, kind: str, name: str) -> None:
    table.drop(name)
    transaction.drains.drop(f"{kind.lower()}s/{name}")
    if kind == "Node":
        transaction.nodes.drop(name)
        stubs.forget(transaction, name)
        transaction.profiles.drop(name)
        transaction.descriptions.drop(name)
        transaction.effects.append(Disconnect(node=name))


def withdraw(transaction: Transaction, intent_record: IntentRecord) -> None:
    name = intent_record.intent.name
    for connection_status in intent_record.connection_statuses:
        abandon(transaction, connection_status.coming, "withdrawn")
        abandon(transaction, connection_status.plan, "withdrawn")
    transaction.intent_records.drop(name)
    transaction.awaiting.drop(f"intents/{name}")
    transaction.log("intent_withdrawn", intent=name)


def _hurry(transaction: Transaction, gone: Collection[Thing]) -> None:
    """What is on its way out and needs something that is gone now ends at once, not in phases."""
    if all(kind in ("Intent", "Rule") for kind, _ in gone):
        return
    for stitch in transaction.stitches.all.values():
        if not any(thing in gone for thing in _needs(stitch, transaction.sr_policies.all)):
            continue
        if stitch.stage == Stage.LINGERING:  # its neighbours have been told
            rest(transaction, stitch)
            transaction.drop_stitch(stitch)
        else:
            end(transaction, stitch, Why(Told.UNWANTED, "withdrawn"))


def _repeal(
    transaction: Transaction, rules: Collection[str], intents: Collection[str], required: dict[str, Requirements]
) -> str:
    """What the intents that stay require without `rules`; or why these cannot go."""
    left = rule_engine(rule for name, rule in transaction.rules.all.items() if name not in rules)
    conflict, _ = retranslate(transaction, left, transaction.inventory, intents, required)
    if conflict:
        return conflict
    for name, requirements in required.items():
        known = any(unmet.endless for unmet in transaction.intent_records.all[name].requirements.unmet)
        if not known and (reason := next((unmet.message for unmet in requirements.unmet if unmet.endless), "")):
            return f"without {', '.join(f'rule {rule}' for rule in rules)}, for intent {name}: {reason}"
    return ""


def _in_use(transaction: Transaction, gone: Collection[Thing]) -> dict[Thing, str]:
    """Of what is to go, what something that stays needs, and why it cannot go."""
    if all(kind in ("Intent", "Rule") for kind, _ in gone):
        return {}
    users: dict[Thing, dict[str, None]] = {}
    for thing, user in chain(
        _used_by_intents(transaction, gone), _used_by_stitches(transaction, gone), _used_inside(transaction, gone)
    ):
        if thing in gone:
            users.setdefault(thing, {})[user] = None
    texts = {}
    for (kind, name), its_users in users.items():
        unnamed = f" and {len(its_users) - USERS_SHOWN} more" if len(its_users) > USERS_SHOWN else ""
        by = ", ".join([*its_users][:USERS_SHOWN]) + unnamed
        how = "delete or change that first"
        if agreements := [text.removeprefix("agreement ") for text in its_users if text.startswith("agreement ")]:
            how += f"; `stitch agreement end {' '.join(agreements[:USERS_SHOWN])} --reason TEXT` ends agreements"
        texts[kind, name] = f"{kind.lower()} {name} is in use by {by}: {how}"
    return texts


def _used_by_intents(transaction: Transaction, gone: Collection[Thing]) -> Iterator[tuple[Thing, str]]:
    for name, intent_record in transaction.intent_records.all.items():
        if ("Intent", name) in gone:
            continue
        intent = intent_record.intent
        names = {allow.to for allow in intent.allow if allow.to}  # of what is described another can be chosen
        names |= {connection.source_network for connection in intent_record.requirements.connections}
        names |= {connection.destination_network for connection in intent_record.requirements.connections}
        names |= {intent.isolate.network} if intent.isolate is not None else set()
        names |= {waypoint.service for each in intent_record.requirements.connections for waypoint in each.via}
        names |= {end for test in intent.tests for end in (test.source.network, test.to)}
        for named in names:
            yield ("Service" if named.count("/") == 2 else "Network", named), f"intent {name}"


def _used_by_stitches(transaction: Transaction, gone: Collection[Thing]) -> Iterator[tuple[Thing, str]]:
    """By what runs for intents, and by what others were promised; what is on its way out holds up nothing."""
    for stitch in transaction.stitches.all.values():
        owner = stitch.plan.owner
        if stitch.stage.leaving or ("Intent", owner.removeprefix("intents/")) in gone:
            continue
        for thing in _needs(stitch, transaction.sr_policies.all):
            yield thing, owner.replace("intents/", "intent ").replace("agreements/", "agreement ")


def _needs(stitch: Stitch, sr_policies: SrPolicies) -> Iterator[Thing]:
    plan = stitch.plan
    yield "Network", plan.connection.source_network
    yield "Network", plan.connection.destination_network
    yield from (("Service", waypoint.service) for waypoint in plan.via)
    if stitch.upstream is not None:
        yield "Domain", stitch.upstream.terms.origin
    yield from (("Node", node) for node in nodes(plan, sr_policies))
    yield from (("Link", link) for link in links(plan, sr_policies))
    for way in (plan.ingress, plan.egress):
        if way is not None:
            yield "Link", way.border
            yield "Domain", way.domain


def _used_inside(transaction: Transaction, gone: Collection[Thing]) -> Iterator[tuple[Thing, str]]:
    """Resources that name others."""
    inventory: Inventory = transaction.inventory
    yield ("Domain", transaction.own), "this controller: it is its own domain"
    for link in inventory.links.values():
        if ("Link", link.name) not in gone:
            yield from (((("Node", end.node)), f"link {link.name}") for end in (link.a, link.b) if end is not None)
            yield ("Domain", link.domain), f"link {link.name}"
    for network in inventory.networks.values():
        owner = network.name.split("/")[0]
        if network.learnt:
            yield ("Network", network.name), f"what {owner} advertises (`learn` of the policy says what is taken over)"
            for intent in transaction.intent_records.all.by(network_key(network.name)):
                yield ("Domain", owner), f"intent {intent}"
        elif ("Network", network.name) not in gone:
            yield ("Domain", owner), f"network {network.name}"
            yield from ((("Node", attachment.node), f"network {network.name}") for attachment in network.attachments)
    for name, service in inventory.services.items():
        if service.learnt:
            yield ("Service", name), f"what {name.split('/')[0]} advertises (`learn` of the policy)"
        elif ("Service", name) not in gone:
            yield ("Network", name.rpartition("/")[0]), f"service {name}"
