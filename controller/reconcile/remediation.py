"""What is done about incidents: what is proposed, in which mode, and what holds the controller back.

| mode      | then                                                                  |
|-----------|-----------------------------------------------------------------------|
| `off`     | nothing is proposed                                                   |
| `propose` | what would mend it waits for `stitch incident approve`                |
| `auto`    | the same, and the controller approves it itself where `_brake` allows |

An incident's mode is the most careful of all intents that what is proposed would touch; where none of ours speaks for
what it touches (agreements that we carry, traffic inside a network) that of the domain's policy. Whoever approves, it
passes the gates of every change (rules and plugins, conflicts, tests, capacity, agreements), or it does not happen.
Nothing that is done permits anything.
"""

from collections.abc import Callable, Iterator

import msgspec

from controller.fulfillment.remediate import QUARANTINE_S, remediate, tenant_of
from controller.model.access import Principal, Role, ourselves
from controller.model.event import Applied, Apply, Approve, Decide, Delete, Reference, Reply, SetDrain
from controller.model.incident import TIMELINE_MAX, Incident, Moment, Standing, What
from controller.model.intent import Intent, Remediation
from controller.model.inventory import Attachment, Network
from controller.model.rule import Added
from controller.model.stitch import expired
from controller.reconcile import changes, draining, removing
from controller.reconcile.tables import link_key, network_key, over, sr_policy_key
from controller.reconcile.transaction import Transaction

BUDGET_A_DAY = 4
"""Incidents that an owner's traffic may open in a day before they count as false alarms: then nothing is proposed."""
DAY_S = 86400.0
ACTIONS_A_MINUTE = 4
HELPS_S = 10.0
"""So long what was seen before an action may still be told of."""
SETTLES_S = 30.0
"""So long nothing else is tried by itself on what an action touches: first it is seen whether it helps."""
SIGNALS_MIN, SIGNAL_S = 2, 60.0
"""Detectors that must have seen a source within so long before it is isolated without somebody's word."""
ACTIONS_A_DAY = 3
"""That the controller takes by itself about one thing; each lasts twice as long as the one before."""
RETRY_S, TRIES_MAX = 10.0, 3
"""Between tries of an action that the gates refuse, and how many."""
REROUTE_S = 3600.0
"""After which a link is used again, whatever is seen of it."""
ITSELF = "assurance"


def propose(transaction: Transaction, incident: Incident) -> Incident:
    """With what would mend it, or why there is nothing."""
    proposal, reroute, impossible = None, "", _spent(transaction, incident)
    if not impossible:
        remedy, impossible = remediate(
            incident.newest,
            transaction.inventory,
            transaction.own,
            incident.name,
            touched=_networks(transaction, incident),
            serving=lambda network, host: tuple(_serving(transaction, network, host)),
            lasts_s=QUARANTINE_S << min(_earlier(transaction, incident), ACTIONS_A_DAY),
        )
        if isinstance(remedy, str) and transaction.drains.get(remedy) is not None:
            remedy, impossible = None, f"{remedy} is out of use already"
        proposal, reroute = (remedy, "") if isinstance(remedy, Intent) else (None, remedy or "")
    incident = msgspec.structs.replace(incident, proposal=proposal, reroute=reroute)
    mode, whose = _mode(transaction, incident)
    if incident.proposes and mode is Remediation.OFF:
        impossible, proposal, reroute = f"{whose} has remediation off", None, ""
    if proposal is not None:
        text = f"proposed: {proposal.name}, for {proposal.lease_s} s; `stitch incident approve {incident.name}`"
    elif reroute:
        text = f"proposed: other paths than {reroute}; `stitch incident approve {incident.name}`"
    else:
        text = f"nothing is proposed: {impossible}"
    return msgspec.structs.replace(
        noted(incident, transaction.now_s, What.DECIDED, text),
        standing=Standing.PROPOSED if proposal is not None or reroute else Standing.OPEN,
        proposal=proposal,
        reroute=reroute,
        impossible=impossible,
        mode=mode,
        held="",
        tries=0,
    )


def consider(transaction: Transaction, incident: Incident) -> Incident:
    """Acts by itself, where the mode is auto and nothing holds it back."""
    if incident.standing is not Standing.PROPOSED or incident.mode is not Remediation.AUTO:
        return incident
    if transaction.now_s < incident.asked_s + RETRY_S:
        return incident
    held = _brake(transaction, incident)
    if held:
        if held != incident.held:
            incident = noted(incident, transaction.now_s, What.DECIDED, f"not without somebody's word: {held}")
        return msgspec.structs.replace(incident, held=held)
    transaction.effects.append(Approve(incident=incident.name))
    return msgspec.structs.replace(incident, asked_s=transaction.now_s, tries=incident.tries + 1, held="")


def decide(transaction: Transaction, event: Decide) -> None:
    """Somebody approves what an incident proposes, or rejects the incident."""
    incident = transaction.incidents.get(event.name)
    if incident is None:
        transaction.effects.append(Reply(request_id=event.request_id, missing=(0,)))
        return
    if forbidden := _forbidden(transaction, incident, event.by):
        transaction.effects.append(Reply(request_id=event.request_id, forbidden=forbidden))
        return
    if conflict := _objection(transaction, incident, event):
        transaction.effects.append(Reply(request_id=event.request_id, conflict=conflict))
        return
    if not event.approved:
        rejected = noted(incident, transaction.now_s, What.DECIDED, f"rejected by {event.by.name}")
        put(transaction, rejected, standing=Standing.REJECTED)
        transaction.effects.append(Reply(request_id=event.request_id, results=(f"incidents/{event.name} rejected",)))
        return
    _act(transaction, incident, event.request_id, event.by, event.added)


def watch(transaction: Transaction, incident: Incident) -> bool:
    """Whether what was done about an incident goes on; if it did not help it is undone."""
    if transaction.now_s <= incident.acted_s + HELPS_S:
        return True
    if incident.reroute:
        why = _no_better(transaction, incident)
        if not why and transaction.now_s > incident.acted_s + REROUTE_S:
            why = f"{REROUTE_S:g} s are over"
    else:
        # By who names it: what is unusual about a host that is isolated may be that it is isolated.
        why = "it is seen on" if incident.newest.at_s > incident.acted_s + HELPS_S else ""
    if why:
        _undo(transaction, incident, why)
    return not why


def settle(transaction: Transaction, incident: Incident) -> None:
    """An incident that was acted upon is over: a link is used again; a quarantine ends by itself."""
    if incident.reroute:
        _use_again(transaction, incident)


def _act(
    transaction: Transaction, incident: Incident, request_id: str, by: Principal, added: tuple[Added, ...]
) -> None:
    before = len(transaction.effects)
    if incident.proposal is not None:
        applied = Applied(kind="Intent", content=msgspec.json.encode(incident.proposal), added=added)
        changes.apply(transaction, Apply(request_id=request_id, resources=(applied,), by=by))
        done = f"intents/{incident.proposal.name}: {incident.proposal.lease_s} s, then it ends by itself"
    else:
        who = msgspec.structs.replace(by, name=_drainer(incident))
        draining.set_drain(transaction, SetDrain(request_id=request_id, part=incident.reroute, is_drained=True, by=who))
        done = f"{incident.reroute} is out of use, until nothing was seen of it for a while"
    [reply] = [effect for effect in transaction.effects[before:] if isinstance(effect, Reply)]
    why = reply.conflict or reply.forbidden or "; ".join(problem.message for problem in reply.problems)
    why = why or ("it is gone" if reply.missing else "")
    if not reply.results:
        refused = noted(incident, transaction.now_s, What.DECIDED, f"approved by {by.name}, and refused: {why}")
        put(transaction, refused)
        return
    acted = noted(incident, transaction.now_s, What.DECIDED, f"approved by {by.name}")
    acted = noted(acted, transaction.now_s, What.DONE, done)
    put(
        transaction,
        acted,
        standing=Standing.ACTED,
        acted_s=transaction.now_s,
        actions=incident.actions + 1,
        tries=0,
        held="",
    )
    transaction.log("incident_acted", incident=incident.name, about=incident.about, by=by.name, reason=done)


def _undo(transaction: Transaction, incident: Incident, why: str) -> None:
    if incident.reroute:
        _use_again(transaction, incident)
        what = f"{incident.reroute} is used again"
    else:
        assert incident.proposal is not None
        reference = Reference(kind="Intent", name=incident.proposal.name)
        gone = Delete(request_id="", resources=(reference,), ignore_missing=True, by=ourselves(ITSELF))
        _silently(transaction, lambda: removing.delete(transaction, gone))
        what = f"intents/{incident.proposal.name} is undone"
    undone = noted(incident, transaction.now_s, What.HELPED, f"it did not help ({why}): {what}")
    impossible = "what was tried did not help"
    put(transaction, undone, standing=Standing.OPEN, proposal=None, reroute="", impossible=impossible)


def _use_again(transaction: Transaction, incident: Incident) -> None:
    """Unless somebody else has drained the link meanwhile: what an operator does stands."""
    drain = transaction.drains.get(incident.reroute)
    if drain is not None and drain.by == _drainer(incident):
        event = SetDrain(request_id="", part=incident.reroute, is_drained=False, by=ourselves(ITSELF))
        _silently(transaction, lambda: draining.set_drain(transaction, event))


def _silently(transaction: Transaction, do: Callable[[], None]) -> None:
    """Nobody waits for an answer."""
    before = len(transaction.effects)
    do()
    done = transaction.effects[before:]
    transaction.effects[before:] = [effect for effect in done if not isinstance(effect, Reply)]


def _drainer(incident: Incident) -> str:
    return f"incident {incident.name}"


# ---- in which mode


def _mode(transaction: Transaction, incident: Incident) -> tuple[Remediation, str]:
    """The most careful of those that are touched, and whose it is."""
    modes = {}
    unspoken = False
    for owner in _touched(transaction, incident):
        kind, _, name = owner.partition("/")
        record = transaction.intent_records.get(name) if kind == "intents" else None
        if record is not None and not expired(record):
            modes[f"intent {name}"] = record.intent.remediation
        unspoken = unspoken or kind == "agreements"
    if unspoken or not modes:
        modes["the domain's policy"] = transaction.policy.remediation
    careful = [*Remediation]
    whose = min(modes, key=lambda name: (careful.index(modes[name]), name))
    return modes[whose], whose


def _touched(transaction: Transaction, incident: Incident) -> set[str]:
    touched = {*incident.owners}
    if incident.proposal is not None:
        touched |= {f"intents/{name}" for name in incident.proposal.suspends}
    if incident.reroute:
        link = incident.reroute.partition("/")[2]
        stitches = over(transaction.stitches.all, transaction.sr_policies.all, (link,))
        touched |= {transaction.stitches.all[name].plan.owner for name in stitches}
    return touched


def _networks(transaction: Transaction, incident: Incident) -> set[str]:
    """Whose traffic an incident touches."""
    networks = set()
    for owner in incident.newest.owners:
        kind, _, name = owner.partition("/")
        record = transaction.intent_records.get(name) if kind == "intents" else None
        networks |= {name} if kind == "networks" else set()
        for connection in record.requirements.connections if record is not None else ():
            networks |= {connection.source_network, connection.destination_network}
    return networks


def _serving(transaction: Transaction, network: Network, host: Attachment) -> Iterator[str]:
    tenant = tenant_of(network)
    for name in transaction.intent_records.all.by(network_key(network.name)):
        record = transaction.intent_records.all[name]
        if record.intent.tenant != tenant or expired(record):
            continue
        ends = (
            end
            for connection in record.requirements.connections
            for end_network, hosts in (
                (connection.source_network, connection.sources),
                (connection.destination_network, connection.destinations),
            )
            if end_network == network.name
            for end in hosts
        )
        if any(end.name == host.name for end in ends):
            yield name


# ---- what holds it back


def _brake(transaction: Transaction, incident: Incident) -> str:
    """Why the controller does not act by itself now; empty: nothing holds it back."""
    if incident.newest.cold:
        return "the baseline has not seen enough"
    if incident.proposal is not None:
        since_s = transaction.now_s - SIGNAL_S
        seen = [detector for detector, seen_s in incident.signals if seen_s >= since_s]
        if incident.newest.at_s < since_s:
            return f"no {incident.cause} was seen lately"
        if len(seen) < SIGNALS_MIN:
            return f"it is the word of {' and '.join(seen) or 'nobody'} alone, and a quarantine takes {SIGNALS_MIN}"
    if _earlier(transaction, incident) >= ACTIONS_A_DAY:
        return f"{incident.about} was acted upon {ACTIONS_A_DAY} times within a day, and it came back"
    if incident.tries >= TRIES_MAX:
        return f"it was refused {TRIES_MAX} times"
    touched = _touched(transaction, incident)
    for other in transaction.incidents.all.values():
        is_tried = other.standing is Standing.ACTED and transaction.now_s < other.acted_s + SETTLES_S
        if is_tried and (not touched.isdisjoint(_touched(transaction, other)) or other.about == incident.about):
            return f"incident {other.name} was acted upon just now, and it touches the same"
    return _too_many(transaction)


def _too_many(transaction: Transaction) -> str:
    recent = [other for other in transaction.incidents.all.values() if other.acted_s > transaction.now_s - 60]
    if len(recent) >= ACTIONS_A_MINUTE:
        return f"{ACTIONS_A_MINUTE} incidents were acted upon within the last minute; try again in a moment"
    return ""


def _earlier(transaction: Transaction, incident: Incident) -> int:
    """How often it was acted upon about the same within a day."""
    since_s = transaction.now_s - DAY_S
    others = (other for other in transaction.incidents.all.values() if other.name != incident.name)
    same = [other for other in (*others, incident) if other.about == incident.about]
    return sum(other.actions for other in same if other.acted_s > since_s)


def _spent(transaction: Transaction, incident: Incident) -> str:
    since_s = transaction.now_s - DAY_S
    there = [each for each in transaction.incidents.all.values() if each.name != incident.name]
    for owner in incident.owners:
        if sum(owner in each.owners and each.began_s > since_s for each in there) >= BUDGET_A_DAY:
            return f"{owner} has opened {BUDGET_A_DAY} incidents within a day: these may be false alarms"
    return ""


def _objection(transaction: Transaction, incident: Incident, event: Decide) -> str:
    if incident.standing in (Standing.CLOSED, Standing.ACTED):
        undo = f"; `stitch delete intent/{incident.proposal.name}` undoes it" if incident.proposal is not None else ""
        undo = f"; `stitch link undrain {incident.reroute.partition('/')[2]}` undoes it" if incident.reroute else undo
        return f"incident {incident.name} is {incident.standing}" + (
            undo if incident.standing is Standing.ACTED else ""
        )
    if event.approved and not incident.proposes:
        return f"incident {incident.name} proposes nothing: {incident.impossible}"
    if event.by.name == ITSELF and incident.standing is not Standing.PROPOSED:
        return f"incident {incident.name} is {incident.standing}"
    if event.approved and event.by.name == ITSELF:  # what was so when it was about to act may be otherwise by now
        return _brake(transaction, msgspec.structs.replace(incident, tries=0))
    return _too_many(transaction) if event.approved else ""


def _forbidden(transaction: Transaction, incident: Incident, by: Principal) -> str:
    """Tenants decide about what touches their own intents and nothing else."""
    if by.tenants is None:
        return "" if by.role != Role.READER else f"token {by.name} is a reader's: it changes nothing"
    if incident.reroute:
        return f"incident {incident.name} is about a link, which no tenant's is: ask an administrator"
    for owner in sorted(_touched(transaction, incident)):
        kind, _, name = owner.partition("/")
        record = transaction.intent_records.get(name) if kind == "intents" else None
        if record is None or not by.concerns(record.intent.tenant):
            return f"incident {incident.name} touches more than intents of {', '.join(by.tenants)}"
    return ""


def _no_better(transaction: Transaction, incident: Incident) -> str:
    """Why what is around a link now is no better than what was over it; empty: it is, as far as is seen."""
    link = incident.reroute.partition("/")[2]
    policies, stitches = transaction.sr_policies.all, transaction.stitches.all
    left = [name for name in policies.by(link_key(link)) if link in policies[name].candidate_paths[0].links]
    still = {stitches[name].plan.owner for name in stitches.by(*map(sr_policy_key, left))}
    if left and still.issuperset(incident.owners):
        return "nothing has another path"
    owners = {*incident.owners}
    for other in transaction.incidents.all.values():
        is_new = incident.acted_s < other.began_s and other.standing is not Standing.CLOSED
        if is_new and other.cause == incident.cause and owners.intersection(other.owners):
            return f"what was moved has incident {other.name} now"
    return ""


# ---- the timeline


def noted(incident: Incident, at_s: float, what: What, text: str) -> Incident:
    timeline = (*incident.timeline, Moment(at_s=at_s, what=what, text=text[:2000]))
    if len(timeline) > TIMELINE_MAX:
        timeline = (*timeline[:8], *timeline[len(timeline) - TIMELINE_MAX + 8 :])
    return msgspec.structs.replace(incident, timeline=timeline)


def put(transaction: Transaction, incident: Incident, **fields: object) -> None:
    transaction.incidents.put(incident.name, msgspec.structs.replace(incident, **fields))
