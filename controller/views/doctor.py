"""State -> what is well and what is not: every condition that keeps an intent from Active has a row.

What only an adapter sees (who answers, clocks, disks, certificates) is told by `telemetry.py`.
"""

from collections.abc import Iterator

from controller.language.scalars import print_time
from controller.model.phases import DISCOVERED
from controller.model.resource import Resource
from controller.model.stitch import Session, Stitch
from controller.model.telemetry import Check
from controller.reconcile.link_state import without_carrier
from controller.reconcile.state import NodeStanding, State
from controller.views import resource_view
from controller.views.intent_status import HANDSHAKE_S_MAX, PATIENCE_S, intent_status
from dataplane.host_api import NodeDescription, PortStatus

ROWS_MAX = 200
"""Of intents, and of agreements: nobody reads more."""
_ADVICE = {
    "Unsatisfiable": "require less, or mend what is named; it is tried again when a link changes, and each minute",
    "Refused": "ask the operator of the domain that refuses, or require what it accepts; it is asked again by itself",
    "Expired": "apply it again, or delete it",
    "Negotiating": "see the row of the neighbour, or ask its operator: it answers when its part is installed",
    "Installing": "see the rows of the nodes that it waits for",
    "Pending": "see the rows of the links and nodes that it names; it goes on by itself when they are mended",
    "Degraded": "mend the link that it names, or require less",
    "NodeUnreachable": "see the row of the node; what it carries goes on meanwhile",
    "NodeRefused": "see the row of the node",
    "PassesBy": "see the row of the node: once it confirms what it shall have, paths lead over it again",
    "RenewalRefused": "ask the operator of the neighbour, before the agreement ends",
    "RenewalPending": "see the row of the neighbour: the agreement must be renewed before it ends",
}
_CARRIED = "nothing, if it passes: what held before is carried until the new is installed"


def checks(state: State, now_s: float) -> Iterator[Check]:
    yield from _capped(_intents(state, now_s), "intents")
    yield from _capped(_agreements(state, now_s), "agreements")
    for kind in ("networks", "links"):
        yield from _resources(state, kind, now_s)
    for node, standing in sorted(state.nodes.items()):
        yield from _node(state, node, standing)
        if standing.reachable and standing.description is not None:
            yield from _ports(state, node, standing.description)
            yield from _tunnels(state, node, standing, standing.description, now_s)


def _capped(results: Iterator[Check], subject: str) -> Iterator[Check]:
    rows = list(results)
    yield from rows[:ROWS_MAX]
    if omitted := sum(not row.ok for row in rows[ROWS_MAX:]):
        detail = f"{omitted} more are not well"
        yield Check(subject=subject, name="more", ok=False, detail=detail, advice=f"stitch get {subject}")


def _intents(state: State, now_s: float) -> Iterator[Check]:
    well = 0
    for name, intent_record in sorted(state.intent_records.items()):
        status = intent_status(state, intent_record, now_s)
        phase, conditions = status["phase"], status["conditions"]
        if phase == "Active" and not conditions:
            well += 1
            continue
        told = [phase] if phase != "Active" else []
        types = dict.fromkeys(
            (*told, *(condition["type"] for condition in conditions if condition["type"] != "Active"))
        )
        for kind in types:
            reasons = "; ".join(condition["reason"] for condition in conditions if condition["type"] == kind)
            yield Check(
                subject=f"intents/{name}",
                name=kind,
                ok=False,
                detail=reasons or kind,
                advice=_ADVICE.get(kind, _CARRIED),
            )
    if well or not state.intent_records:
        yield Check(subject="intents", name="Active", ok=True, detail=f"{well} of {len(state.intent_records)}")


def _agreements(state: State, now_s: float) -> Iterator[Check]:
    """What we carry for others, and cannot sign or renew; that of our own intents is said there."""
    waiting = 0
    for stitch in state.stitches.values():
        session = stitch.upstream
        if session is None or stitch.stage.leaving:
            continue
        if session.standing.unanswered and now_s - session.since_s > PATIENCE_S:
            waiting += 1
            detail = (
                f"offered by {session.peer} at {print_time(session.since_s)}, and waits for {_waits_for(state, stitch)}"
            )
            advice = "see the rows of those that it waits for"
            yield Check(
                subject=f"agreements/{session.terms.id}", name="answered", ok=False, detail=detail, advice=advice
            )
        for downstream in (stitch.downstream,) if stitch.downstream is not None else ():
            if (
                downstream.agreement is not None
                and downstream.reason
                and downstream.agreement.terms != downstream.terms
            ):
                ends = print_time(downstream.agreement.terms.expires_s)
                detail = f"{downstream.peer} does not renew it: {downstream.reason}; it ends at {ends}"
                advice = f"ask the operator of {downstream.peer}"
                yield Check(
                    subject=f"agreements/{downstream.terms.id}", name="renewed", ok=False, detail=detail, advice=advice
                )
    if not waiting:
        detail = f"none waits; {len(state.agreements)} in all"
        yield Check(subject="agreements", name="answered", ok=True, detail=detail)


def _waits_for(state: State, stitch: Stitch) -> str:
    onward: Session | None = stitch.downstream
    if onward is not None and onward.agreement is None:
        return f"the answer of {onward.peer}" + (f" ({onward.reason})" if onward.reason else "")
    nodes = sorted(state.awaiting.get(stitch.plan.name, {}))
    return f"nodes {', '.join(nodes)}" if nodes else "its gateway to describe itself"


def _resources(state: State, kind: str, now_s: float) -> Iterator[Check]:
    """Own ones that are not Active, and links that are out of use."""
    well = 0
    for resource in resource_view.resources(state, kind, now_s):
        if resource.status.get("phase") == DISCOVERED:
            subject, detail = f"{kind}/{resource.metadata['name']}", resource.status["conditions"][0]["reason"]
            yield Check(subject=subject, name="discovered", ok=True, detail=detail)
            continue
        for difference in resource.status.get("differences", ()):
            subject, advice = f"{kind}/{resource.metadata['name']}", "see the cable, or change the manifest"
            yield Check(subject=subject, name="as discovered", ok=False, detail=difference, advice=advice)
        fault = _fault(state, kind, resource)
        if fault:
            subject, advice = f"{kind}/{resource.metadata['name']}", "mend what it names, or change the manifest"
            yield Check(subject=subject, name="in use", ok=False, detail=fault, advice=advice)
        else:
            well += 1
    if well:
        yield Check(subject=kind, name="in use", ok=True, detail=str(well))


def _fault(state: State, kind: str, resource: Resource) -> str:
    phase = resource.status.get("phase", "Active")
    reasons = [str(each["reason"]) for each in resource.status.get("conditions", ())] or [
        str(resource.status.get("reason", ""))
    ]
    if kind == "links":
        link = state.inventory.links[str(resource.metadata["name"])]
        if ends := without_carrier(link, state.nodes):
            return f"no carrier at {', '.join(ends)}"
        if link.name in state.down:
            return "its carrier is back, but has not lasted yet"
    return "" if phase == "Active" else f"{phase}: {'; '.join(filter(None, reasons)) or 'no reason is known'}"


# ---- nodes


def _node(state: State, node: str, standing: NodeStanding) -> Iterator[Check]:
    subject = f"nodes/{node}"
    count = len(standing.state.entries) if standing.state is not None else 0
    if standing.rejected:
        advice = "mend what it names: it is tried again every few seconds; all else on the node is installed"
        yield Check(subject=subject, name="in sync", ok=False, detail=f"refused: {standing.rejected}", advice=advice)
    elif standing.settled:
        yield Check(subject=subject, name="in sync", ok=True, detail=f"{count} entries confirmed")
    elif not standing.reachable:
        detail = f"not known while it cannot be reached; what it last confirmed is in force there, of {count} entries"
        advice = f"what was withdrawn meanwhile ends there with its lease, or when {node} is reached again"
        yield Check(subject=subject, name="in sync", ok=False, detail=detail, advice=advice)
    else:
        what = "described itself" if not standing.described else "confirmed what it shall have"
        detail, advice = f"it has not {what} yet", f"look again in a moment; then see the log of stitch-agent on {node}"
        yield Check(subject=subject, name="in sync", ok=False, detail=detail, advice=advice)
    described = standing.description
    if standing.reachable and described is not None and described.maps_bytes:
        detail = f"{described.maps_bytes / 2**20:,.0f} MiB for tables, flow cache and counters"
        yield Check(subject=subject, name="memory", ok=True, detail=detail)
    if standing.reachable and described is not None and described.borders:
        if described.wireguard == "none":
            detail, advice = "none: no tunnel can be made", f"install wireguard-go on {node}, or a kernel that has it"
            yield Check(subject=subject, name="wireguard", ok=False, detail=detail, advice=advice)
        else:
            yield Check(subject=subject, name="wireguard", ok=True, detail=described.wireguard)


def _ports(state: State, node: str, description: NodeDescription) -> Iterator[Check]:
    """Those that it has, and those that only the inventory has."""
    subject = f"nodes/{node}"
    wanted = _wanted_ports(state, node)
    present = {port.number for port in description.ports}
    for port in description.ports:
        yield _port(subject, port, wanted.get(port.number, ""))
    for number, user in sorted(wanted.items()):
        if number not in present and (description.tells_ports or not user.startswith("links/")):
            advice = f"configure the port on {node} (docs/configuration.md), or take it out of {user}"
            detail = f"{user} names it, and the node has no such port"
            yield Check(subject=subject, name=f"port {number}", ok=False, detail=detail, advice=advice)
    borders = {border.name: border for border in description.borders}
    for link in state.inventory.links.values():
        for end in (link.a, link.b):
            if end is None or end.node != node or not end.border:
                continue
            border = borders.get(end.border)
            if border is None:
                detail, advice = f"links/{link.name} names it, and the node has no such border", "configure it there"
                yield Check(subject=subject, name=f"border {end.border}", ok=False, detail=detail, advice=advice)
            elif not border.carrier:
                detail, advice = "no carrier", "see the cable or the interface of the underlay"
                yield Check(subject=subject, name=f"border {end.border}", ok=False, detail=detail, advice=advice)
            elif border.faults:
                detail, _, advice = border.faults[0].partition(": ")
                yield Check(subject=subject, name=f"border {end.border}", ok=False, detail=detail, advice=advice)
            else:
                yield Check(subject=subject, name=f"border {end.border}", ok=True, detail=f"MTU {border.mtu}")


def _wanted_ports(state: State, node: str) -> dict[int, str]:
    wanted: dict[int, str] = {}
    for network in state.inventory.networks.values():
        wanted |= {
            attachment.port: f"networks/{network.name}" for attachment in network.attachments if attachment.node == node
        }
    for link in state.inventory.links.values():
        ends = (end for end in (link.a, link.b) if end is not None)
        wanted |= {end.port: f"links/{link.name}" for end in ends if end.node == node and not end.border}
    return wanted


def _port(subject: str, port: PortStatus, user: str) -> Check:
    way = {"native": "native XDP", "detour": f"by a detour, {port.why}"}.get(port.way, "the kernel's")
    detail = f"{port.kind or port.role}, MTU {port.mtu}, {way}"
    name = f"port {port.number} {port.interface}"
    faults = [fault.partition(": ") for fault in port.faults]
    if not port.carrier and user:
        faults.append((f"no carrier, and {user} needs it", ": ", "see the cable, the interface, or what is behind it"))
    if not faults:
        return Check(
            subject=subject, name=name, ok=True, detail=detail if port.carrier else f"{detail}, no carrier, unused"
        )
    detail, advice = ("; ".join(fault[part] for fault in faults if fault[part]) for part in (0, 2))
    return Check(subject=subject, name=name, ok=False, detail=detail, advice=advice)


def _tunnels(
    state: State, node: str, standing: NodeStanding, description: NodeDescription, now_s: float
) -> Iterator[Check]:
    """Of nodes that can be asked only; of others nothing is known."""
    users = {
        str(resource.metadata["name"]): resource.status.get("agreements", [])
        for resource in resource_view.resources(state, "tunnels", now_s)
    }
    shown = {border.name: border for border in description.borders}
    for tunnel in standing.state.host.tunnels if standing.state is not None else ():
        border = shown.get(tunnel.border)
        carries = ", ".join(users.get(f"{node}/{tunnel.border}", ())) or "nothing"
        fault = ""
        if border is None or not border.up:
            fault = "it is not there yet"
        elif not border.latest_handshake_s:
            fault = "no handshake yet"
        elif (age_s := now_s - border.latest_handshake_s) > HANDSHAKE_S_MAX:
            fault = f"the last handshake was {age_s:.0f} s ago"
        detail = f"{fault}; used by {carries}" if fault else f"last handshake {age_s:.0f} s ago; used by {carries}"
        advice = f"see that {tunnel.peer_endpoint} is reachable over UDP from {node}, and that both ends are well"
        subject = f"tunnels/{node}/{tunnel.border}"
        yield Check(subject=subject, name="up", ok=not fault, detail=detail, advice=advice if fault else "")
