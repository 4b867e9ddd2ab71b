"""State -> why: from an intent to the entries that it comes to, and from an entry back to what asked for it."""

from collections.abc import Callable, Iterator

from controller import entry_view
from controller.fulfillment.numbering import Kind
from controller.intent_status import intent_status, paths_of, segment_lists
from controller.language.scalars import print_ports
from controller.language.sentence import clauses
from controller.model.agreement import Flow
from controller.model.course import Course, Errand, Session, Undertaking
from controller.model.entry import Entry
from controller.model.explanation import Branch
from controller.model.intent import Encryption
from controller.model.requirements import Connection, Origin
from controller.reconcile.state import State
from dataplane.reasons import DropReason


def explain(state: State, kind: str, name: str, now_s: float) -> Branch | None:
    """None: there is none of that name. Raises KeyError for a kind that cannot be explained."""
    return EXPLAINED[kind](state, name, now_s)


# ---- from an intent


def intent(state: State, name: str, now_s: float) -> Branch | None:
    """Clause -> requirement -> plan -> agreements, and the entries on each node."""
    undertaking = state.undertakings.get(name)
    if undertaking is None:
        return None
    status = intent_status(state, undertaking, now_s)
    reasons = "; ".join(one["reason"] for one in status["conditions"])
    return Branch(
        kind="intent",
        name=f"intents/{name}",
        text=f"{status['phase']}" + (f": {reasons}" if reasons else "") + f"; tenant {undertaking.intent.tenant}",
        children=(*_clauses(state, undertaking, now_s), *_unmet(undertaking)),
    )


def _clauses(state: State, undertaking: Undertaking, now_s: float) -> Iterator[Branch]:
    """In the order of the sentence. What is neither isolation nor flow says where it went to."""
    flows = _flows(undertaking)
    told: set[str] = set()
    allows = iter(flows)
    for text in clauses(undertaking.intent):
        children: tuple[Branch, ...] = ()
        if text.startswith("isolate "):
            children = tuple(_isolation(state, undertaking))
        elif text.startswith("allow "):
            flow = next(allows)
            children = (_requirement(state, undertaking, *flow, told, now_s),) if flow is not None else ()
        elif text.startswith(("require ", "prefer ")):
            children = tuple(_bounds(undertaking, preferred=text.startswith("prefer ")))
        yield Branch(kind="clause", text=text, children=children)


def _flows(undertaking: Undertaking) -> list[tuple[int, Flow] | None]:
    """Index of the connection, and the flow, of each `allow`; None where the inventory no longer has what it names."""
    connections = undertaking.requirements.connections
    ends = {(one.source_network, one.destination_network): index for index, one in enumerate(connections)}
    waiting = [iter(one.flows) for one in connections]
    found: list[tuple[int, Flow] | None] = []
    for allow in undertaking.intent.allow:
        selector = allow.source or undertaking.intent.isolate
        assert selector is not None, "translate refuses an allow without a source"
        index = ends.get((selector.network, "/".join(allow.to.split("/")[:2])))
        flow = next(waiting[index], None) if index is not None else None
        found.append((index, flow) if index is not None and flow is not None else None)
    return found


def _isolation(state: State, undertaking: Undertaking) -> Iterator[Branch]:
    isolation = undertaking.requirements.isolation
    if isolation is None:
        return
    hosts = ", ".join(f"{host.name} ({' '.join(host.addresses)})" for host in isolation.hosts)
    yield Branch(
        kind="requirement",
        text=f"nothing but what is allowed reaches {hosts} in {isolation.network}, or comes from there",
        children=tuple(_nodes(state, lambda _, entry: entry.owner == isolation.owner and _isolates(entry))),
    )


def _isolates(entry: Entry) -> bool:
    return entry.table == "flow_policy" and entry.action == "drop"


def _requirement(
    state: State, undertaking: Undertaking, index: int, flow: Flow, told: set[str], now_s: float
) -> Branch:
    connection, errand = undertaking.requirements.connections[index], undertaking.errands[index]
    children = list(_origins(undertaking, connection))
    for name in _plans(errand):
        course = state.courses.get(name)
        if course is None:
            continue
        children.append(_plan(state, course, now_s, brief=name in told))
        told.add(name)
    if not _plans(errand):
        why = errand.refusal or (errand.unsatisfiable.message if errand.unsatisfiable is not None else "not placed yet")
        children.append(Branch(kind="plan", text=f"none: {why}"))
    return Branch(kind="requirement", text=flow_words(flow), children=tuple(children))


def _plans(errand: Errand) -> tuple[str, ...]:
    return tuple(name for name in (errand.plan, errand.coming) if name)


def flow_words(flow: Flow) -> str:
    ports = " ".join(map(print_ports, flow.ports)) or "everything"
    return (
        f"{flow.source} ({' '.join(flow.source_prefixes)}) reaches {flow.destination} "
        f"({' '.join(flow.destination_prefixes)}) on {ports}"
    )


def _origins(undertaking: Undertaking, connection: Connection) -> Iterator[Branch]:
    """What must hold on the way, or is preferred, each with who said so."""
    return map(_origin, _said_of(undertaking, connection))


def _said_of(undertaking: Undertaking, connection: Connection) -> Iterator[Origin]:
    for one in undertaking.requirements.origins:
        if (one.source_network, one.destination_network) == (connection.source_network, connection.destination_network):
            yield one


def _origin(one: Origin) -> Branch:
    name = f"rules/{one.origin.removeprefix('rule ')}" if one.origin.startswith("rule ") else ""
    origin = "clause of the intent" if one.origin == "clause" else one.origin
    text = f"{one.requirement}, from {origin}" + (f": {one.explain}" if one.explain else "")
    return Branch(kind="origin", text=text, name=name)


def _bounds(undertaking: Undertaking, *, preferred: bool) -> Iterator[Branch]:
    """Which of the clause's needs bind, and where a rule's stricter one does; or what is preferred."""
    for connection in undertaking.requirements.connections:
        ends = f"{connection.source_network} to {connection.destination_network}"
        found = tuple(
            _origin(one) for one in _said_of(undertaking, connection) if (one.clause == "prefer") == preferred
        )
        if found:
            yield Branch(kind="requirement", text=f"on the way from {ends}", children=found)


def _unmet(undertaking: Undertaking) -> Iterator[Branch]:
    for one in undertaking.requirements.unmet:
        yield Branch(kind="unmet", text=f"{one.binding}: {one.message}")


def _plan(state: State, course: Course, now_s: float, *, brief: bool = False) -> Branch:
    """With its agreements and, unless `brief`, what it has installed."""
    path = "; ".join(" ".join(one) for one in paths_of(course))
    text = f"{course.plan.name}: {course.stage}, path {path}"
    text += f", latency {course.latency_us / 1000:g} ms, cost {course.plan.cost}"
    if brief:
        return Branch(kind="plan", text=f"{text} (as above)")

    def mine(node: str, entry: Entry) -> bool:
        return course in owned(state, node, entry)

    segments = (
        Branch(kind="segments", text=f"{' '.join(one.segments)}, sent as {' '.join(one.containers)}")
        for one in segment_lists(state, course)
    )
    return Branch(
        kind="plan",
        text=text,
        children=(*segments, *_agreements(course, now_s), *_nodes(state, mine)),
    )


def _agreements(course: Course, now_s: float) -> Iterator[Branch]:
    for session in (course.upstream, course.downstream):
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


def _nodes(state: State, mine: Callable[[str, Entry], bool]) -> Iterator[Branch]:
    """The entries of each node that are `mine`."""
    found: dict[str, list[Branch]] = {}
    for name, node, entry in entry_view.named_entries(state):
        if mine(node, entry):
            found.setdefault(node, []).append(_entry(name, entry))
    for node in sorted(found):
        yield Branch(
            kind="node",
            name=f"nodes/{node}",
            text=f"{len(found[node])} entries, {_installed(state, node)}",
            children=tuple(found[node]),
        )


def _entry(name: str, entry: Entry) -> Branch:
    return Branch(kind="entry", name=f"entries/{name}", text=entry_words(entry))


def entry_words(entry: Entry) -> str:
    """What it does; what it matches is in its name."""
    given = {
        name: value
        for name, value in entry_view.params_words(entry).items()
        if not (name.startswith("container_") and value == "::")
    }
    if entry.action == "drop":
        given["reason"] = reason_words(dict(entry.params)["reason"])
    return " ".join((entry.action, *(f"{name}={value}" for name, value in given.items())))


def reason_words(reason: int) -> str:
    known = {int(one): one.name.lower() for one in DropReason}
    return known.get(reason, f"reason_{reason}")


def _installed(state: State, node: str) -> str:
    standing = state.nodes[node]
    if standing.settled:
        return "confirmed"
    why = standing.reason or standing.rejected or "not heard yet"
    return f"not confirmed: {why}"


# ---- whose an entry is


def owned(state: State, node: str, entry: Entry) -> tuple[Course, ...]:
    """The courses that an entry serves: by its numbers, else all of its owner's."""
    if _isolates(entry):
        return ()
    number = _number(entry)
    if number is not None:
        beginning = f"{node} {number[0]} "
        exact = tuple(
            course
            for course in state.courses.values()
            if any(held == number[1] and key.startswith(beginning) for key, held in course.ids.items())
        )
        if exact:
            return exact
    return tuple(course for course in state.courses.values() if course.plan.owner == entry.owner)


def _number(entry: Entry) -> tuple[Kind, int] | None:
    """By which it is known whose the entry is; None: it has none."""
    values = {one.field: one.value for one in entry.match} | dict(entry.params)
    match entry.table:
        case "path_liveness":
            return Kind.SR_POLICY, values["liveness_group"]
        case "sr_policy":
            return Kind.SR_POLICY, values["sr_policy"]
    for kind in (Kind.FORWARDING_CLASS, Kind.POLICY_CLASS):
        if str(kind) in values:
            return kind, values[str(kind)]
    return None


# ---- from an entry


def entry(state: State, name: str, now_s: float) -> Branch | None:
    """The way back: entry -> owner -> plan and agreement -> requirement -> clause -> intent."""
    held = next(((node, one) for named, node, one in entry_view.named_entries(state) if named == name), None)
    if held is None:
        return None
    node, found = held
    return Branch(
        kind="entry",
        name=f"entries/{name}",
        text=f"{entry_words(found)}; on node {node}, {_installed(state, node)}",
        children=(owner(state, node, found, now_s),),
    )


def owner(state: State, node: str, entry: Entry, now_s: float) -> Branch:
    """Whose an entry is, and what that comes from."""
    kind, _, name = entry.owner.partition("/")
    match kind:
        case "intents" if name in state.undertakings:
            if _isolates(entry):
                return _isolated_by(state, state.undertakings[name])
            plans = owned(state, node, entry)
            children = [_plan_back(state, course, now_s) for course in plans]
            return Branch(kind="owner", name=entry.owner, text=_who(kind), children=tuple(children))
        case "agreements" | "sr_policies":
            children = [_plan_back(state, course, now_s) for course in owned(state, node, entry)]
            return Branch(kind="owner", name=entry.owner, text=_who(kind), children=tuple(children))
        case _:
            return Branch(kind="owner", name=entry.owner, text=_who(kind))


def _who(kind: str) -> str:
    words = {
        "intents": "what this intent asks for",
        "agreements": "what we carry for a neighbour, as agreed",
        "sr_policies": "the SR Policy: shared by all that take these paths",
        "networks": "the network: its hosts, and what they may do by default",
        "links": "the link: there whatever the intents are",
        "nodes": "the node: there whatever the intents are",
    }
    return words[kind]


def _isolated_by(state: State, undertaking: Undertaking) -> Branch:
    isolation = undertaking.requirements.isolation
    hosts = ", ".join(host.name for host in isolation.hosts) if isolation is not None else ""
    text = next((one for one in clauses(undertaking.intent) if one.startswith("isolate ")), "")
    where = _intent(undertaking)
    clause = Branch(kind="clause", text=text, children=(where,))
    requirement = Branch(kind="requirement", text=f"nothing but what is allowed reaches {hosts}", children=(clause,))
    return Branch(kind="owner", name=where.name, text=_who("intents"), children=(requirement,))


def _intent(undertaking: Undertaking) -> Branch:
    intent = undertaking.intent
    return Branch(
        kind="intent", name=f"intents/{intent.name}", text=f"tenant {intent.tenant}, priority {intent.priority}"
    )


def _plan_back(state: State, course: Course, now_s: float) -> Branch:
    """A plan with its agreements, and what asked for it."""
    plan = _plan(state, course, now_s, brief=True)
    children = (*_agreements(course, now_s), *_asked(state, course))
    return Branch(kind="plan", text=plan.text.removesuffix(" (as above)"), children=children)


def _asked(state: State, course: Course) -> Iterator[Branch]:
    undertakings = [
        one for one in state.undertakings.values() if any(course.plan.name in _plans(errand) for errand in one.errands)
    ]
    if not undertakings:
        yield from _foreign(course)
    for undertaking in undertakings:
        texts = [text for text in clauses(undertaking.intent) if text.startswith("allow ")]
        for text, one in zip(texts, _flows(undertaking), strict=True):
            if one is None or course.plan.name not in _plans(undertaking.errands[one[0]]):
                continue
            index, flow = one
            clause = Branch(kind="clause", text=text, children=(_intent(undertaking),))
            bounds = _origins(undertaking, undertaking.requirements.connections[index])
            yield Branch(kind="requirement", text=flow_words(flow), children=(*bounds, clause))


def _foreign(course: Course) -> Iterator[Branch]:
    """Asked for by another domain, which alone knows its intent."""
    session = course.upstream
    if session is None:
        yield Branch(kind="requirement", text="of an intent that is withdrawn; it is being taken away")
        return
    for flow in course.plan.connection.flows:
        text = f"intent of domain {session.terms.origin}: `stitch --domain {session.terms.origin} get intents`"
        yield Branch(kind="requirement", text=flow_words(flow), children=(Branch(kind="intent", text=text),))


EXPLAINED: dict[str, Callable[[State, str, float], Branch | None]] = {"intents": intent, "entries": entry}
