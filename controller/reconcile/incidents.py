"""What becomes of findings.

```
 finding ──▶ suspicion ── PERSISTENCE of the last SECONDS ──▶ incident Open ──▶ Proposed ── approved ──▶ Acted
             (forgotten where nothing follows)                    ▲                └── rejected ──▶ Rejected │
                                                                  │ seen again within COOL_DOWN_S            │ no help:
                                                       Closed ◀── nothing seen for QUIET_S ◀─────────────────┘ undone
```

What is proposed and done about an incident, and by whom, is in remediation.py.
"""

import msgspec

from controller.model.finding import NAMED, Cause, Finding, outweighs
from controller.model.incident import Incident, Standing, What
from controller.reconcile import remediation
from controller.reconcile.remediation import noted, put
from controller.reconcile.suspicions import Suspicion
from controller.reconcile.transaction import Transaction

PERSISTENCE, SECONDS = 2, 10.0
"""So many findings about the same thing, in seconds of their own, within so long are an incident."""
QUIET_S = 60.0
COOL_DOWN_S = 600.0
"""What is seen again so soon after it was closed is the same incident."""
INCIDENTS_MAX, OPEN_MAX = 512, 128
SUSPICIONS_MAX = 1024
FINDINGS_MAX = 512
"""The newest, which are shown."""
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
    """What is over is closed; what does not help is undone; what waited for something to pass is tried."""
    for incident in tuple(transaction.incidents.all.values()):
        if incident.standing in OVER:
            continue
        if incident.standing is Standing.ACTED and not remediation.watch(transaction, incident):
            continue
        if transaction.now_s - max(incident.seen_s, incident.acted_s) > QUIET_S:
            _close(transaction, incident)
        elif (considered := remediation.consider(transaction, incident)) != incident:
            put(transaction, considered)
    transaction.suspicions = {
        key: suspicion
        for key, suspicion in transaction.suspicions.items()
        if suspicion.times_s[-1] >= transaction.now_s - SECONDS
    }


def _close(transaction: Transaction, incident: Incident) -> None:
    helped = incident.standing is Standing.ACTED
    if helped:
        remediation.settle(transaction, incident)
    text = f"nothing was seen for {QUIET_S:g} s" + (", since it was acted upon" if helped else "")
    closed = noted(incident, transaction.now_s, What.HELPED if helped else What.DECIDED, text)
    put(transaction, closed, standing=Standing.CLOSED, closed_s=transaction.now_s)


def _take(transaction: Transaction, finding: Finding) -> None:
    key = about(finding)
    open_ones = [each for each in transaction.incidents.all.values() if each.about == key]
    incident = max(open_ones, key=lambda each: each.serial, default=None)
    tells = _tells(finding)
    if incident is not None and incident.standing in OVER:
        if tells and finding.cause is incident.cause and transaction.now_s - incident.closed_s <= COOL_DOWN_S:
            again = noted(incident, transaction.now_s, What.SEEN, f"again: {finding.text}")
            again = msgspec.structs.replace(again, standing=Standing.OPEN, closed_s=0.0)
            again = remediation.propose(transaction, _joined(again, finding, transaction.now_s))
            put(transaction, remediation.consider(transaction, again))
            return
        incident = None
    if incident is not None:
        joined = _joined(incident, finding, transaction.now_s)
        if joined.cause != incident.cause and joined.standing is Standing.OPEN and not joined.acted_s:
            joined = remediation.propose(transaction, joined)
        put(transaction, remediation.consider(transaction, joined))
        return
    if not tells:
        return  # it is shown
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
    first = suspicion.findings[0]
    named = [finding for finding in suspicion.findings if finding.cause in NAMED]
    newest = (named or suspicion.findings)[-1]
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
        signals=_signals((), suspicion.findings),
        owners=owners,
        newest=newest,
    )
    incident = noted(incident, transaction.now_s, What.SEEN, newest.text)
    put(transaction, remediation.consider(transaction, remediation.propose(transaction, incident)))
    transaction.log("incident_opened", level="warning", incident=incident.name, about=key, reason=newest.text)


def _joined(incident: Incident, finding: Finding, now_s: float) -> Incident:
    if finding.cause != incident.cause:
        incident = noted(incident, now_s, What.SEEN, finding.text)
    cause = finding.cause if outweighs(finding.cause, incident.cause) else incident.cause
    return msgspec.structs.replace(
        incident,
        cause=cause,
        seen_s=now_s if _tells(finding) else incident.seen_s,
        count=incident.count + 1,
        newest=finding if finding.cause is cause else incident.newest,
        detectors=tuple(sorted({*incident.detectors, *finding.detectors}))[:32],
        signals=_signals(incident.signals, (finding,)),
        owners=tuple(sorted({*incident.owners, *finding.owners}))[:64],
    )


def _tells(finding: Finding) -> bool:
    """On whose word there is an incident: neither a baseline that has not seen enough nor a model alone."""
    return not finding.cold and finding.cause is not Cause.UNUSUAL


def _signals(before: tuple[tuple[str, float], ...], findings: tuple[Finding, ...]) -> tuple[tuple[str, float], ...]:
    seen = dict(before)
    for finding in findings:
        if not finding.cold and finding.cause in (*NAMED, Cause.UNUSUAL):
            seen |= dict.fromkeys(finding.detectors, finding.at_s)
    return tuple(sorted(seen.items()))[:32]
