"""State -> why: from an intent to the entries that it comes to, and from an entry back to what asked for it."""

from collections.abc import Callable, Iterator

from controller.fulfillment.aliases import views
from controller.fulfillment.numbering import Kind
from controller.fulfillment.plan_paths import cost, known, whole_us
from controller.language.scalars import print_ports, print_time
from controller.language.sentence import clauses
from controller.model.agreement import Flow
from controller.model.entry import OwnedEntry
from controller.model.explanation import Branch
from controller.model.intent import Encryption
from controller.model.requirements import Connection, Origin
from controller.model.selection import Considered
from controller.model.stitch import ConnectionStatus, IntentRecord, Session, Stitch
from controller.reconcile.identifiers import sr_policy_numbers
from controller.reconcile.state import State
from controller.views import entry_view
from controller.views.intent_status import intent_status, measured_paths, segment_lists, way_words
from dataplane.reasons import DropReason


def explain(state: State, kind: str, name: str, now_s: float) -> Branch | None:
    """None: there is none of that name. Raises KeyError for a kind that cannot be explained."""
    return EXPLAINED[kind](state, name, now_s)


# ---- from an intent


def intent(state: State, name: str, now_s: float) -> Branch | None:
    """Clause -> requirement -> plan -> agreements, and the entries on each node."""
    intent_record = state.intent_records.get(name)
    if intent_record is None:
        return None
    status = intent_status(state, intent_record, now_s)
    reasons = "; ".join(condition["reason"] for condition in status["conditions"])
    return Branch(
        kind="intent",
        name=f"intents/{name}",
        text=f"{status['phase']}" + (f": {reasons}" if reasons else "") + f"; tenant {intent_record.intent.tenant}",
        children=(*_clauses(state, intent_record, now_s), *_unmet(intent_record)),
    )


def _clauses(state: State, intent_record: IntentRecord, now_s: float) -> Iterator[Branch]:
    """In the order of the sentence. What is neither isolation nor flow says where it went to."""
    flows = _flows(intent_record)
    told: set[str] = set()
    allows = iter(enumerate(flows))
    for text in clauses(intent_record.intent):
        children: tuple[Branch, ...] = ()
        if text.startswith("isolate "):
            children = tuple(_isolation(state, intent_record))
        elif text.startswith("allow "):
            clause, flow = next(allows)
            children = tuple(_selection(intent_record, clause))
            children += (_requirement(state, intent_record, *flow, told, now_s),) if flow is not None else ()
        elif text.startswith(("require ", "prefer ")):
            children = tuple(_bounds(intent_record, preferred=text.startswith("prefer ")))
        yield Branch(kind="clause", text=text, children=children)


def _flows(intent_record: IntentRecord) -> list[tuple[int, Flow] | None]:
    """Index of the connection, and the flow, of each `allow`; None where the inventory no longer has what it names."""
    connections = intent_record.requirements.connections
    ends = {
        (connection.source_network, connection.destination_network): index
        for index, connection in enumerate(connections)
    }
    waiting = [iter(connection.flows) for connection in connections]
    flows: list[tuple[int, Flow] | None] = []
    for allow in intent_record.meant.allow:
        selector = allow.source or intent_record.intent.isolate
        assert selector is not None, "translate refuses an allow without a source"
        index = ends.get((selector.network, "/".join(allow.to.split("/")[:2])))
        flow = next(waiting[index], None) if index is not None else None
        flows.append((index, flow) if index is not None and flow is not None else None)
    return flows


def _selection(intent_record: IntentRecord, clause: int) -> Iterator[Branch]:
    """What became of each service that is what the clause describes."""
    for selection in intent_record.requirements.selections:
        if selection.clause == clause:
            text = (
                f"{selection.chosen}, since {print_time(selection.since_s)}" if selection.chosen else selection.reason
            )
            children = [Branch(kind="candidate", text=candidate_words(each)) for each in selection.considered]
            if selection.left_out:
                children.append(Branch(kind="candidate", text=f"and {selection.left_out} more"))
            yield Branch(kind="selection", text=text, children=tuple(children))


def candidate_words(candidate: Considered) -> str:
    text = f"{candidate.service}: {candidate.verdict}"
    if candidate.latency_us is not None:
        where = {0: "in our own domain", 1: "in a neighbouring domain"}.get(
            candidate.domains or 0, f"{candidate.domains} domains away"
        )
        text += f", {candidate.latency_us / 1000:g} ms, cost {candidate.cost}, {where}"
    return text + (f": {candidate.reason}" if candidate.reason else "")


def _isolation(state: State, intent_record: IntentRecord) -> Iterator[Branch]:
    isolation = intent_record.requirements.isolation
    if isolation is None:
        return
    hosts = ", ".join(f"{host.name} ({' '.join(host.addresses)})" for host in isolation.hosts)
    yield Branch(
        kind="requirement",
        text=f"nothing but what is allowed reaches {hosts} in {isolation.network}, or comes from there",
        children=tuple(_nodes(state, lambda _, entry: entry.owner == isolation.owner and _isolates(entry))),
    )


def _isolates(entry: OwnedEntry) -> bool:
    return entry.table == "flow_policy" and entry.action in ("drop", "drop_until")


def _requirement(
    state: State, intent_record: IntentRecord, index: int, flow: Flow, told: set[str], now_s: float
) -> Branch:
    connection, connection_status = (
        intent_record.requirements.connections[index],
        intent_record.connection_statuses[index],
    )
    children = list(_origins(intent_record, connection))
    for name in _plans(connection_status):
        stitch = state.stitches.get(name)
        if stitch is None:
            continue
        children.append(_plan(state, stitch, now_s, brief=name in told))
        told.add(name)
    if not _plans(connection_status):
        why = connection_status.refusal or (
            connection_status.unsatisfiable.message if connection_status.unsatisfiable is not None else "not placed yet"
        )
        children.append(Branch(kind="plan", text=f"none: {why}"))
    return Branch(kind="requirement", text=flow_words(flow), children=tuple(children))


def _plans(connection_status: ConnectionStatus) -> tuple[str, ...]:
    return tuple(name for name in (connection_status.plan, connection_status.coming) if name)


def flow_words(flow: Flow) -> str:
    ports = " ".join(map(print_ports, flow.ports)) or "everything"
    return (
        f"{flow.source} ({' '.join(flow.source_prefixes)}) reaches {flow.destination} "
        f"({' '.join(flow.destination_prefixes)}) on {ports}"
    )


def _origins(intent_record: IntentRecord, connection: Connection) -> Iterator[Branch]:
    """What must hold on the way, or is preferred, each with who said so."""
    return map(_origin, _said_of(intent_record, connection))


def _said_of(intent_record: IntentRecord, connection: Connection) -> Iterator[Origin]:
    for origin in intent_record.requirements.origins:
        if (origin.source_network, origin.destination_network) == (
            connection.source_network,
            connection.destination_network,
        ):
            yield origin


def _origin(source: Origin) -> Branch:
    name = f"rules/{source.origin.removeprefix('rule ')}" if source.origin.startswith("rule ") else ""
    origin = "clause of the intent" if source.origin == "clause" else source.origin
    text = f"{source.requirement}, from {origin}" + (f": {source.explain}" if source.explain else "")
    return Branch(kind="origin", text=text, name=name)


def _bounds(intent_record: IntentRecord, *, preferred: bool) -> Iterator[Branch]:
    """Which of the clause's needs bind, and where a rule's stricter one does; or what is preferred."""
    for connection in intent_record.requirements.connections:
        ends = f"{connection.source_network} to {connection.destination_network}"
        branches = tuple(
            _origin(origin)
            for origin in _said_of(intent_record, connection)
            if (origin.clause == "prefer") == preferred
        )
        if branches:
            yield Branch(kind="requirement", text=f"on the way from {ends}", children=branches)


def _unmet(intent_record: IntentRecord) -> Iterator[Branch]:
    for unmet in intent_record.requirements.unmet:
        yield Branch(kind="unmet", text=f"{unmet.binding}: {unmet.message}")


def _plan(state: State, stitch: Stitch, now_s: float, *, brief: bool = False) -> Branch:
    """With its agreements and, unless `brief`, what it has installed."""
    text = f"{stitch.plan.name}: {stitch.stage}, path {way_words(state, stitch)}"
    text += f", latency {whole_us(stitch, state.sr_policies) / 1000:g} ms"
    text += f", cost {cost(stitch.plan, state.sr_policies)}"
    taken = [alive[0].delay_us for each in measured_paths(state, stitch) if (alive := [m for m in each if m.is_alive])]
    text += f", measured inside {state.own} {max(taken) / 1000:g} ms" if any(taken) else ""
    if brief:
        return Branch(kind="plan", text=f"{text} (as above)")

    segments = (
        Branch(kind="segments", text=f"{' '.join(segment_list.segments)}, sent as {' '.join(segment_list.containers)}")
        for segment_list in segment_lists(state, stitch)
    )
    return Branch(
        kind="plan",
        text=text,
        children=(
            *segments,
            *_passed(state, stitch),
            *_agreements(stitch, now_s),
            *_translation(stitch),
            *_nodes(state, _serving(state, stitch)),
        ),
    )


def _passed(state: State, stitch: Stitch) -> Iterator[Branch]:
    """Services on its way."""
    for waypoint in stitch.plan.connection.via:
        text = f"{waypoint.service} at {waypoint.node}, in by port {waypoint.inward}, out by port {waypoint.outward}"
        if waypoint not in stitch.plan.via:
            text += "; not passed while it is down"
        elif waypoint.service in state.services_down:
            text += "; it is down, and nothing passes"
        yield Branch(kind="via", name=f"services/{waypoint.service}", text=text)


def _translation(stitch: Stitch) -> Iterator[Branch]:
    """Under which addresses each side knows the other, where it has the same itself."""
    connection, known_as = stitch.plan.connection, views(stitch)
    ends = connection.source_network, connection.destination_network
    for (network, other), aliases in ((ends, known_as.destination), (ends[::-1], known_as.source)):
        if aliases:
            prefixes = ", ".join(f"{alias.prefix} as {alias.alias}" for alias in aliases)
            yield Branch(kind="translation", text=f"{network} knows {other} under other addresses: {prefixes}")


def _agreements(stitch: Stitch, now_s: float) -> Iterator[Branch]:
    for session in (stitch.upstream, stitch.downstream):
        if session is not None:
            yield _agreement(session, now_s)


def _agreement(session: Session, now_s: float) -> Branch:
    terms = session.agreement.terms if session.agreement is not None else session.terms
    standing = "Agreed" if session.agreement is not None else str(session.standing)
    bounds = [f"latency <= {terms.latency_us_max / 1000:g} ms"] if terms.latency_us_max is not None else []
    bounds += [f"encryption {terms.encryption}"] if terms.encryption != Encryption.NONE else []
    bounds += [f"promised {session.agreement.latency_us / 1000:g} ms"] if session.agreement is not None else []
    left_s = max(0, terms.expires_s - int(now_s))
    side = f"offered to {session.peer}" if session.offeror else f"offered by {session.peer}"
    parts = [standing, side, f"over {terms.border}", *bounds, f"expires in {left_s} s"]
    return Branch(
        kind="agreement",
        name=f"agreements/{terms.id}",
        text=", ".join(parts) + (f" ({session.reason})" if session.reason else ""),
    )


def _nodes(state: State, mine: Callable[[str, OwnedEntry], bool]) -> Iterator[Branch]:
    """The entries of each node that are `mine`."""
    branches: dict[str, list[Branch]] = {}
    for node, entry in entry_view.entries(state):
        if mine(node, entry):
            branches.setdefault(node, []).append(_entry(entry_view.entry_name(node, entry), entry))
    for node in sorted(branches):
        yield Branch(
            kind="node",
            name=f"nodes/{node}",
            text=f"{len(branches[node])} entries, {_installed(state, node)}",
            children=tuple(branches[node]),
        )


def _entry(name: str, entry: OwnedEntry) -> Branch:
    return Branch(kind="entry", name=f"entries/{name}", text=entry_words(entry))


def entry_words(entry: OwnedEntry) -> str:
    """What it does; what it matches is in its name."""
    given = {
        name: value
        for name, value in entry_view.params_words(entry).items()
        if not (name.startswith("container_") and value == "::")
    }
    if "reason" in given and entry.action in ("drop", "drop_until"):
        given["reason"] = reason_words(dict(entry.params)["reason"])
    return " ".join((entry.action, *(f"{name}={value}" for name, value in given.items())))


def reason_words(reason: int) -> str:
    known = {int(drop_reason): drop_reason.name.lower() for drop_reason in DropReason}
    return known.get(reason, f"reason_{reason}")


def _installed(state: State, node: str) -> str:
    standing = state.nodes[node]
    if standing.settled:
        return "confirmed"
    why = standing.reason or standing.rejected or "not heard yet"
    return f"not confirmed: {why}"


# ---- whose an entry is


def owned(state: State, node: str, entry: OwnedEntry) -> tuple[Stitch, ...]:
    """The stitches that an entry serves: by its numbers, else all of its owner's."""
    if _isolates(entry):
        return ()
    known_by = _number(node, entry)
    numbered = (stitch for stitch in state.stitches.values() if known_by is not None and _has(state, stitch, *known_by))
    return tuple(numbered) or tuple(stitch for stitch in state.stitches.values() if stitch.plan.owner == entry.owner)


def _serving(state: State, stitch: Stitch) -> Callable[[str, OwnedEntry], bool]:
    """Whether `stitch` is among those of `owned`, for many entries: all stitches are gone through once."""
    own = _numbers(state, stitch)
    others: set[tuple[str, int]] = set()
    for each in state.stitches.values():
        others |= _numbers(state, each)

    def serves(node: str, entry: OwnedEntry) -> bool:
        if _isolates(entry):
            return False
        known_by = _number(node, entry)
        return known_by in own or (known_by not in others and entry.owner == stitch.plan.owner)

    return serves


def _numbers(state: State, stitch: Stitch) -> set[tuple[str, int]]:
    """As `_number` has them."""
    policies = (known(id, state.sr_policies) for id in stitch.plan.sr_policies)
    ids = (stitch.ids, *(sr_policy_numbers(policy) for policy in policies))
    return {
        (f"{node} {kind} ", number)
        for numbers in ids
        for key, number in numbers.items()
        for node, kind, _ in (key.split(" ", 2),)
    }


def _has(state: State, stitch: Stitch, beginning: str, number: int) -> bool:
    policies = (known(id, state.sr_policies) for id in stitch.plan.sr_policies)
    ids = (stitch.ids, *(sr_policy_numbers(policy) for policy in policies))
    return any(held == number and key.startswith(beginning) for numbers in ids for key, held in numbers.items())


def _number(node: str, entry: OwnedEntry) -> tuple[str, int] | None:
    """By which it is known whose the entry is, after how its key in `Stitch.ids` begins; None: it has none."""
    if entry.owner.startswith("sr_policies/"):
        _, headend, number = entry.owner.split("/")
        return f"{headend} {Kind.SR_POLICY} ", int(number)
    values = {match.field: match.value for match in entry.match} | dict(entry.params)
    for kind in (Kind.FORWARDING_CLASS, Kind.POLICY_CLASS):
        if str(kind) in values:
            return f"{node} {kind} ", values[str(kind)]
    return None


# ---- from an entry


def entry(state: State, name: str, now_s: float) -> Branch | None:
    """The way back: entry -> owner -> plan and agreement -> requirement -> clause -> intent."""
    named = next(
        ((node, owned_entry) for named, node, owned_entry in entry_view.named_entries(state) if named == name), None
    )
    if named is None:
        return None
    node, owned_entry = named
    return Branch(
        kind="entry",
        name=f"entries/{name}",
        text=f"{entry_words(owned_entry)}; on node {node}, {_installed(state, node)}",
        children=(owner(state, node, owned_entry, now_s),),
    )


def owner(state: State, node: str, entry: OwnedEntry, now_s: float) -> Branch:
    """Whose an entry is, and what that comes from."""
    kind, _, name = entry.owner.partition("/")
    match kind:
        case "intents" if name in state.intent_records:
            if _isolates(entry):
                return _isolated_by(state, state.intent_records[name])
            plans = owned(state, node, entry)
            children = [_plan_back(state, stitch, now_s) for stitch in plans]
            return Branch(kind="owner", name=entry.owner, text=_who(kind), children=tuple(children))
        case "agreements" | "sr_policies":
            children = [_plan_back(state, stitch, now_s) for stitch in owned(state, node, entry)]
            return Branch(kind="owner", name=entry.owner, text=_who(kind), children=tuple(children))
        case _:
            return Branch(kind="owner", name=entry.owner, text=_who(kind))


def _who(kind: str) -> str:
    words = {
        "intents": "what this intent asks for",
        "agreements": "what we carry for a neighbour, as agreed",
        "sr_policies": "the SR Policy: shared by all that ask for the same way",
        "networks": "the network: its hosts, and what they may do by default",
        "links": "the link: there whatever the intents are",
        "nodes": "the node: there whatever the intents are",
    }
    return words[kind]


def _isolated_by(state: State, intent_record: IntentRecord) -> Branch:
    isolation = intent_record.requirements.isolation
    hosts = ", ".join(host.name for host in isolation.hosts) if isolation is not None else ""
    text = next((clause for clause in clauses(intent_record.intent) if clause.startswith("isolate ")), "")
    where = _intent(intent_record)
    clause = Branch(kind="clause", text=text, children=(where,))
    requirement = Branch(kind="requirement", text=f"nothing but what is allowed reaches {hosts}", children=(clause,))
    return Branch(kind="owner", name=where.name, text=_who("intents"), children=(requirement,))


def _intent(intent_record: IntentRecord) -> Branch:
    intent = intent_record.intent
    return Branch(
        kind="intent", name=f"intents/{intent.name}", text=f"tenant {intent.tenant}, priority {intent.priority}"
    )


def _plan_back(state: State, stitch: Stitch, now_s: float) -> Branch:
    """A plan with its agreements, and what asked for it."""
    plan = _plan(state, stitch, now_s, brief=True)
    children = (*_agreements(stitch, now_s), *_asked(state, stitch))
    return Branch(kind="plan", text=plan.text.removesuffix(" (as above)"), children=children)


def _asked(state: State, stitch: Stitch) -> Iterator[Branch]:
    intent_records = [
        intent_record
        for intent_record in state.intent_records.values()
        if any(stitch.plan.name in _plans(connection_status) for connection_status in intent_record.connection_statuses)
    ]
    if not intent_records:
        yield from _foreign(stitch)
    for intent_record in intent_records:
        texts = [text for text in clauses(intent_record.intent) if text.startswith("allow ")]
        for text, numbered in zip(texts, _flows(intent_record), strict=True):
            if numbered is None or stitch.plan.name not in _plans(intent_record.connection_statuses[numbered[0]]):
                continue
            index, flow = numbered
            clause = Branch(kind="clause", text=text, children=(_intent(intent_record),))
            bounds = _origins(intent_record, intent_record.requirements.connections[index])
            yield Branch(kind="requirement", text=flow_words(flow), children=(*bounds, clause))


def _foreign(stitch: Stitch) -> Iterator[Branch]:
    """Asked for by another domain, which alone knows its intent."""
    session = stitch.upstream
    if session is None:
        yield Branch(kind="requirement", text="of an intent that is withdrawn; it is being taken away")
        return
    for flow in stitch.plan.connection.flows:
        text = f"intent of domain {session.terms.origin}: `stitch --domain {session.terms.origin} get intents`"
        yield Branch(kind="requirement", text=flow_words(flow), children=(Branch(kind="intent", text=text),))


EXPLAINED: dict[str, Callable[[State, str, float], Branch | None]] = {"intents": intent, "entries": entry}
