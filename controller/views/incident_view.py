"""State -> findings and incidents as people see them."""

from collections.abc import Iterator
from typing import Any

import msgspec

from controller.language.manifest import to_manifest
from controller.language.sentence import print_sentence
from controller.model.finding import Finding
from controller.model.incident import Incident
from controller.model.resource import Resource
from controller.reconcile.incidents import about
from controller.reconcile.remediation import BUDGET_A_DAY, DAY_S
from controller.reconcile.state import State


def findings(state: State, now_s: float) -> Iterator[Resource]:
    """The newest, numbered since the start."""
    first = state.findings_seen - len(state.findings) + 1
    for number, finding in enumerate(state.findings, first):
        spec = _finding(finding) | {"about": about(finding)}
        yield Resource(kind="Finding", metadata={"name": str(number)}, spec=spec, status={})


def incidents(state: State, now_s: float) -> Iterator[Resource]:
    for incident in state.incidents.values():
        yield _incident(state, incident, now_s)


def _incident(state: State, incident: Incident, now_s: float) -> Resource:
    spec = {"about": incident.about, "cause": str(incident.cause), "owners": list(incident.owners)}
    status: dict[str, Any] = {
        "phase": str(incident.standing),
        "began_s": incident.began_s,
        "seen_s": incident.seen_s,
        "count": incident.count,
        "detectors": list(incident.detectors),
        "text": incident.newest.text,
        "newest": _finding(incident.newest),
        "timeline": [msgspec.to_builtins(moment) for moment in incident.timeline],
        "mode": str(incident.mode),
        "budget": {owner: _spent(state, owner, now_s) for owner in incident.owners},
    }
    if incident.proposal is not None:
        status["proposal"] = to_manifest(incident.proposal) | {"sentence": print_sentence(incident.proposal)}
    if incident.reroute:
        status["reroute"] = incident.reroute
    if incident.held:
        status["held"] = incident.held
    if incident.impossible:
        status["impossible"] = incident.impossible
    if incident.closed_s:
        status["closed_s"] = incident.closed_s
    return Resource(kind="Incident", metadata={"name": incident.name}, spec=spec, status=status)


def _spent(state: State, owner: str, now_s: float) -> str:
    """Of what an owner's traffic may open in a day."""
    opened = sum(owner in each.owners and each.began_s > now_s - DAY_S for each in state.incidents.values())
    return f"{opened} of {BUDGET_A_DAY} in a day"


def _finding(finding: Finding) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.to_builtins(finding)
    return shown
