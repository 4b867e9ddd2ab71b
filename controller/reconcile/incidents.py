"""What becomes of findings.

```
 finding ──▶ suspicion ── PERSISTENCE of the last SECONDS ──▶ incident Open ──▶ Proposed ── approved ──▶ Acted
             (forgotten where nothing follows)                    ▲                └── rejected ──▶ Rejected │
                                                                  │ seen again within COOL_DOWN_S            │ seen on:
                                                       Closed ◀── nothing seen for QUIET_S ◀─────────────────┘ undone
```

An incident never does more than propose a change of intents. What is approved passes the same gates as an operator's
change (validation, conflicts, tests, capacity, agreements), or it does not happen. Isolating a source permits nothing.
"""

import msgspec

from controller.fulfillment.remediate import remediate
from controller.model.access import Principal, ourselves
from controller.model.event import Applied, Apply, Decide, Delete, Reference, Reply
from controller.model.finding import NAMED, Cause, Finding
from controller.model.incident import TIMELINE_MAX, Incident, Moment, Standing, What
from controller.model.rule import Added
from controller.reconcile import changes, removing
from controller.reconcile.suspicions import Suspicion
from controller.reconcile.transaction import Transaction

PERSISTENCE, SECONDS = 2, 10.0
"""So many findings about the same thing, in seconds of their own, within so long are an incident."""
QUIET_S = 60.0
COOL_DOWN_S = 600.0
"""What is seen again so soon after it was closed is the same incident."""
HELPS_S = 10.0
"""So long what was seen before an action may still be told of."""
INCIDENTS_MAX, OPEN_MAX = 512, 128
SUSPICIONS_MAX = 1024
FINDINGS_MAX = 512
"""The newest, which are shown."""
BUDGET_A_DAY = 4
"""Incidents that an owner's traffic may open in a day before they count as false alarms: then nothing is proposed."""
DAY_S = 86400.0
ACTIONS_A_MINUTE = 4
OVER = (Standing.CLOSED,)


def found(transaction: Transaction, findings: tuple[Finding, ...]) -> None:
    for finding in findings[:FINDINGS_MAX]:
        transaction.findings = (*transaction.findings, finding)[-FINDINGS_MAX:]
        transaction.findings_seen += 1
        if finding.cause is not Cause.BASELINE_STALE:
            _take(transaction, finding)


def about(finding: Finding) -> str:
    """What incidents are told apart by."""
    return f"sources/{finding.source}" if finding.source else finding.entity


def tick(transaction: Transaction) -> None:
    """What is over is closed; what does not help is undone."""
    for incident in tuple(transaction.incidents.all.values()):
        if incident.standing in OVER:
            continue
        if incident.standing is Standing.ACTED and incident.seen_s > incident.acted_s + HELPS_S:
            _undo(transaction, incident)
        elif transaction.now_s - max(incident.seen_s, incident.acted_s) > QUIET_S:
            helped = incident.standing is Standing.ACTED
            text = f"nothing was seen for {QUIET_S:g} s" + (", since it was acted upon" if helped else "")
            closed = _noted(incident, transaction.now_s, What.HELPED if helped else What.DECIDED, text)
            _put(transaction, closed, standing=Standing.CLOSED, closed_s=transaction.now_s)
    transaction.suspicions = {
        key: suspicion
        for key, suspicion in transaction.suspicions.items()
        if suspicion.times_s[-1] >= transaction.now_s - SECONDS
    }


def decide(transaction: Transaction, event: Decide) -> None:
    """Somebody approves what an incident proposes, or rejects the incident."""
    incident = transaction.incidents.get(event.name)
    if incident is None:
        transaction.effects.append(Reply(request_id=event.request_id, missing=(0,)))
        return
    if conflict := _objection(transaction, incident, event.approved):
        transaction.effects.append(Reply(request_id=event.request_id, conflict=conflict))
        return
    if not event.approved:
        rejected = _noted(incident, transaction.now_s, What.DECIDED, f"rejected by {event.by.name}")
        _put(transaction, rejected, standing=Standing.REJECTED)
        transaction.effects.append(Reply(request_id=event.request_id, results=(f"incidents/{event.name} rejected",)))
        return
    _act(transaction, incident, event.request_id, event.by, event.added)


def _objection(transaction: Transaction, incident: Incident, approved: bool) -> str:
    if incident.standing in (Standing.CLOSED, Standing.ACTED):
        undo = f"; `stitch delete intent/{incident.proposal.name}` undoes it" if incident.proposal is not None else ""
        return f"incident {incident.name} is {incident.standing}" + (
            undo if incident.standing is Standing.ACTED else ""
        )
    if approved and incident.proposal is None:
        return f"incident {incident.name} proposes nothing: {incident.impossible}"
    recent = [other for other in transaction.incidents.all.values() if other.acted_s > transaction.now_s - 60]
    if approved and len(recent) >= ACTIONS_A_MINUTE:
        return f"{ACTIONS_A_MINUTE} incidents were acted upon within the last minute; try again in a moment"
    return ""


def _act(
    transaction: Transaction, incident: Incident, request_id: str, by: Principal, added: tuple[Added, ...]
) -> None:
    """Through the gates of every change."""
    assert incident.proposal is not None
    applied = Applied(kind="Intent", content=msgspec.json.encode(incident.proposal), added=added)
    before = len(transaction.effects)
    changes.apply(transaction, Apply(request_id=request_id, resources=(applied,), by=by))
    [reply] = [effect for effect in transaction.effects[before:] if isinstance(effect, Reply)]
    name = f"intents/{incident.proposal.name}"
    if not reply.results:
        why = reply.conflict or reply.forbidden or "; ".join(problem.message for problem in reply.problems)
        refused = _noted(incident, transaction.now_s, What.DECIDED, f"approved by {by.name}, and refused: {why}")
        _put(transaction, refused)
        return
    acted = _noted(incident, transaction.now_s, What.DECIDED, f"approved by {by.name}")
    acted = _noted(
        acted, transaction.now_s, What.DONE, f"{name}: {incident.proposal.lease_s} s, then it ends by itself"
    )
    _put(transaction, acted, standing=Standing.ACTED, acted_s=transaction.now_s)


def _undo(transaction: Transaction, incident: Incident) -> None:
    assert incident.proposal is not None
    reference = Reference(kind="Intent", name=incident.proposal.name)
    gone = Delete(request_id="", resources=(reference,), ignore_missing=True, by=ourselves("assurance"))
    before = len(transaction.effects)
    removing.delete(transaction, gone)
    replies = [effect for effect in transaction.effects[before:] if isinstance(effect, Reply)]
    transaction.effects = [effect for effect in transaction.effects if effect not in replies]
    text = f"it did not help: intents/{incident.proposal.name} is undone"
    undone = _noted(incident, transaction.now_s, What.HELPED, text)
    _put(transaction, undone, standing=Standing.OPEN, proposal=None, impossible="what was tried did not help")


def _take(transaction: Transaction, finding: Finding) -> None:
    key = about(finding)
    open_ones = [each for each in transaction.incidents.all.values() if each.about == key]
    incident = max(open_ones, key=lambda each: each.serial, default=None)
    if incident is not None and incident.standing in OVER:
        if transaction.now_s - incident.closed_s <= COOL_DOWN_S:
            again = _noted(incident, transaction.now_s, What.SEEN, f"again: {finding.text}")
            _put(transaction, _joined(again, finding, transaction.now_s), standing=Standing.OPEN, closed_s=0.0)
            return
        incident = None
    if incident is not None:
        joined = _joined(incident, finding, transaction.now_s)
        if joined.cause != incident.cause and joined.standing is Standing.OPEN and not joined.acted_s:
            joined = _proposing(transaction, joined)
        _put(transaction, joined)
        return
    if finding.cold:
        return  # it is shown; a baseline that has not seen enough opens no incident
    before = transaction.suspicions.get(key, Suspicion())
    suspicion = before.with_one(finding, transaction.now_s, SECONDS)
    if len(transaction.suspicions) >= SUSPICIONS_MAX and key not in transaction.suspicions:
        transaction.findings_beyond += 1
        return
    transaction.suspicions = {**transaction.suspicions, key: suspicion}
    if suspicion.seconds >= PERSISTENCE:
        _open(transaction, key, suspicion)


def _open(transaction: Transaction, key: str, suspicion: Suspicion) -> None:
    there = transaction.incidents.all.values()
    if sum(each.standing not in OVER for each in there) >= OPEN_MAX:
        transaction.findings_beyond += 1
        return
    if len(there) >= INCIDENTS_MAX:
        oldest = min((each for each in there if each.standing in OVER), key=lambda each: each.closed_s)
        transaction.incidents.drop(oldest.name)
    serial = transaction.number("incident")
    newest, first = suspicion.findings[-1], suspicion.findings[0]
    owners = tuple(sorted({owner for finding in suspicion.findings for owner in finding.owners}))
    incident = Incident(
        name=str(serial),
        serial=serial,
        about=key,
        cause=newest.cause,
        standing=Standing.OPEN,
        began_s=first.at_s,
        seen_s=transaction.now_s,
        count=len(suspicion.findings),
        detectors=tuple(sorted({name for finding in suspicion.findings for name in finding.detectors})),
        owners=owners,
        newest=newest,
    )
    incident = _noted(incident, transaction.now_s, What.SEEN, newest.text)
    _put(transaction, _proposing(transaction, incident))
    transaction.log("incident_opened", level="warning", incident=incident.name, about=key, reason=newest.text)


def _proposing(transaction: Transaction, incident: Incident) -> Incident:
    """With what would mend it, or why there is nothing."""
    since_s = transaction.now_s - DAY_S
    there = [each for each in transaction.incidents.all.values() if each.name != incident.name]
    spent = [
        owner
        for owner in incident.owners
        if sum(owner in each.owners and each.began_s > since_s for each in there) >= BUDGET_A_DAY
    ]
    if spent:
        impossible = f"{spent[0]} has opened {BUDGET_A_DAY} incidents within a day: these may be false alarms"
        proposal = None
    else:
        proposal, impossible = remediate(incident.newest, transaction.inventory, transaction.own, incident.name)
    if proposal is not None:
        text = f"proposed: {proposal.name}, for {proposal.lease_s} s; `stitch incident approve {incident.name}`"
    else:
        text = f"nothing is proposed: {impossible}"
    return msgspec.structs.replace(
        _noted(incident, transaction.now_s, What.DECIDED, text),
        standing=Standing.PROPOSED if proposal is not None else Standing.OPEN,
        proposal=proposal,
        impossible=impossible,
    )


def _joined(incident: Incident, finding: Finding, now_s: float) -> Incident:
    if finding.cause != incident.cause:
        incident = _noted(incident, now_s, What.SEEN, finding.text)
    return msgspec.structs.replace(
        incident,
        cause=finding.cause if finding.cause in NAMED and incident.cause not in NAMED else incident.cause,
        seen_s=now_s,
        count=incident.count + 1,
        newest=finding,
        detectors=tuple(sorted({*incident.detectors, *finding.detectors}))[:32],
        owners=tuple(sorted({*incident.owners, *finding.owners}))[:64],
    )


def _noted(incident: Incident, at_s: float, what: What, text: str) -> Incident:
    timeline = (*incident.timeline, Moment(at_s=at_s, what=what, text=text[:2000]))
    if len(timeline) > TIMELINE_MAX:
        timeline = (*timeline[:8], *timeline[len(timeline) - TIMELINE_MAX + 8 :])
    return msgspec.structs.replace(incident, timeline=timeline)


def _put(transaction: Transaction, incident: Incident, **fields: object) -> None:
    transaction.incidents.put(incident.name, msgspec.structs.replace(incident, **fields))
