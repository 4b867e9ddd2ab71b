"""Rules applied to an intent: what it requires in the end, and which clause or rule says so.

    plain rules ──▶ chained rules ──▶ (again, while what they see changes) ──▶ rules about the path

The strictest bound wins, whoever set it. Of what can have one value only (class, dscp, preferences) the intent's
holds, then that of the rule with the highest priority. What cannot be reconciled is unmet, with both names.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from controller.fulfillment.rule_engine import Facts, RuleEngine, Unanswerable
from controller.model import dscp
from controller.model.intent import Avoid, Disjoint, Encryption, Intent, Prefer, Require, Trust
from controller.model.requirements import Origin, Unsatisfiable
from controller.model.rule import MAX_ITEMS, Added, Rule, Then

MAX_ROUNDS = 16
"""Of chained rules: so many may follow from one another."""


class End(msgspec.Struct, frozen=True, kw_only=True):
    """One end of a connection, as conditions see it. Fields as in model.rule.VARIABLES."""

    network: str
    trust: Trust
    domain_trust: Trust
    labels: tuple[str, ...]
    """`name=value`, sorted."""
    prefixes: tuple[str, ...]
    service: str = ""
    ports: tuple[str, ...] = ()
    """As a person writes them."""


class RuleEffects(msgspec.Struct, frozen=True, kw_only=True):
    """What one connection of an intent requires."""

    intent: Intent
    """With what the rules add to its clauses."""
    direct: bool = False
    dscp: int = 0
    unmet: tuple[Unsatisfiable, ...] = ()
    origins: tuple[Origin, ...] = ()


class _Giver(msgspec.Struct, frozen=True):
    name: str
    """`clause`, `rule NAME` or `plugin NAME`."""
    then: Then
    priority: int = 0
    explain: str = ""


class _Bound(msgspec.Struct, frozen=True):
    """A requirement of which the strictest wins."""

    clause: str
    field: str
    """Of Require."""
    strictness: Callable[[Any], Any]
    """The higher the stricter."""
    words: Callable[[Any], str]


_LADDER = [*Encryption]
_APART = [Disjoint.LINK, Disjoint.NODE, Disjoint.SRLG]
_BOUNDS = (
    _Bound("latency", "latency_us_max", lambda us: -us, lambda us: f"latency <= {us / 1000:g} ms"),
    _Bound("bandwidth", "bandwidth_bps_min", int, lambda bps: f"bandwidth >= {bps / 1e6:g} Mbps"),
    _Bound("loss", "loss_ppm_max", lambda ppm: -ppm, lambda ppm: f"loss <= {ppm / 1e4:g} %"),
    _Bound("encryption", "encryption", _LADDER.index, lambda level: f"encryption {level}"),
    _Bound("disjoint", "disjoint", _APART.index, lambda level: f"disjoint {level}"),
    _Bound("trust", "trust_min", int, lambda level: f"trust >= {level.name.lower()}"),
)
_NOTHING = Require()


def rule_on(
    intent: Intent, rules: RuleEngine, source: End, destinations: Sequence[End], added: Iterable[Added] = ()
) -> RuleEffects:
    """Of one connection: from `source` to each of `destinations`, which are in one network."""
    givers = [_Giver(f"plugin {addition.plugin}", addition.then) for addition in added]
    crowded = next((end for end in (source, *destinations) if _longest(end) > MAX_ITEMS), None)
    if crowded is not None and (rules.plain.rules or rules.chained.rules or rules.on_path.rules):
        message = f"{crowded.network} has more than {MAX_ITEMS} labels, prefixes or ports here: select fewer hosts"
        unmet = Unsatisfiable(binding="rules", message=f"rules cannot be applied: {message}")
        return _merge(intent, givers, source, destinations, (unmet,))
    questions = [_facts(intent, source, end) for end in destinations]
    try:
        holding = _holding(rules, questions, lambda fired: _merge(intent, [*givers, *fired], source, destinations))
        fired = [*givers, *map(_giver, holding)]
        effects = _merge(intent, fired, source, destinations)
        effects = _on_path(effects, rules, questions, source, destinations)
    except Unanswerable as error:
        unmet = Unsatisfiable(binding=f"rule {error.rule}", message=str(error))
        return _merge(intent, givers, source, destinations, (unmet,))
    except _Endless as error:
        unmet = Unsatisfiable(binding="rules", message=str(error), endless=error.rules)
        return _merge(intent, givers, source, destinations, (unmet,))
    meant = any(rule.name in rules.classes for rule in holding) or not effects.intent.service_class
    if not meant:
        message = f"no rule says what class {effects.intent.service_class} needs: write one, or leave the clause out"
        unmet = Unsatisfiable(binding="class", message=message)
        return msgspec.structs.replace(effects, unmet=(*effects.unmet, unmet))
    return effects


def endless(rules: RuleEngine) -> Unsatisfiable | None:
    """What rules are that trigger each other without end, for an intent that asks for nothing; None: they do not."""
    nobody = End(network="-/-", trust=Trust.OWN, domain_trust=Trust.OWN, labels=(), prefixes=())
    effects = rule_on(Intent(name="", tenant=""), rules, nobody, [nobody])
    return next((unsatisfiable for unsatisfiable in effects.unmet if unsatisfiable.endless), None)


class _Endless(Exception):
    """Rules that trigger each other for ever."""

    def __init__(self, rules: tuple[str, ...]) -> None:
        names = ", ".join(rules)
        super().__init__(
            f"rules {names} trigger each other without end (given up after {MAX_ROUNDS} rounds): change one"
        )
        self.rules = rules


def _holding(rules: RuleEngine, questions: list[Facts], merge: Callable[[list[_Giver]], RuleEffects]) -> list[Rule]:
    """The rules whose condition holds for any of the questions, once nothing changes any more."""
    plain = _any(rules.plain.holding(facts) for facts in questions)
    if not rules.chained.rules:
        return plain
    chained: list[Rule] = []
    turning: set[str] = set()
    for transaction in range(MAX_ROUNDS):
        effective = _effective(merge([*map(_giver, plain), *map(_giver, chained)]))
        again = _any(rules.chained.holding({**facts, **effective}) for facts in questions)
        if again == chained:
            return [*plain, *chained]
        if transaction >= MAX_ROUNDS // 2:
            turning |= {rule.name for rule in again} ^ {rule.name for rule in chained}
        chained = again
    raise _Endless(tuple(sorted(turning)))


def _any(answers: Iterable[list[Rule]]) -> list[Rule]:
    by_name: dict[str, Rule] = {}
    for answer in answers:
        by_name |= {rule.name: rule for rule in answer}
    return sorted(by_name.values(), key=lambda rule: (-rule.priority, rule.name))


def _giver(rule: Rule) -> _Giver:
    return _Giver(f"rule {rule.name}", rule.then, rule.priority, rule.explain)


# ---- what conditions see


def _longest(end: End) -> int:
    return max(len(end.labels), len(end.prefixes), len(end.ports))


def _facts(intent: Intent, source: End, destination: End) -> Facts:
    return {
        "intent.name": intent.name,
        "intent.tenant": intent.tenant,
        "intent.class": intent.service_class,
        "intent.priority": intent.priority,
        "intent.on_violation": intent.on_violation,
        "intent.isolates": intent.isolate is not None,
        **_bounds("intent", intent),
        **_end("source", source),
        **_end("destination", destination),
        "destination.service": destination.service,
        "destination.ports": destination.ports,
    }


def _end(name: str, end: End) -> Facts:
    return {
        f"{name}.network": end.network,
        f"{name}.domain": end.network.split("/")[0],
        f"{name}.trust": int(end.trust),
        f"{name}.domain_trust": int(end.domain_trust),
        f"{name}.labels": end.labels,
        f"{name}.prefixes": end.prefixes,
    }


def _bounds(name: str, intent: Intent) -> Facts:
    require = intent.require
    return {
        f"{name}.encryption": str(require.encryption),
        f"{name}.trust": int(require.trust_min or Trust.PUBLIC),
        f"{name}.latency_ms": math.inf if require.latency_us_max is None else require.latency_us_max / 1000,
        f"{name}.via": intent.via,
    }


def _effective(effects: RuleEffects) -> Facts:
    named = {"effective.class": effects.intent.service_class, "effective.dscp": effects.dscp}
    return {**named, **_bounds("effective", effects.intent)}


# ---- what they make of it


def _merge(
    intent: Intent,
    givers: Sequence[_Giver],
    source: End,
    destinations: Sequence[End],
    unmet: tuple[Unsatisfiable, ...] = (),
) -> RuleEffects:
    clause = Then(require=intent.require, prefer=intent.prefer, via=intent.via, service_class=intent.service_class)
    ordered = [_Giver("clause", clause), *sorted(givers, key=lambda giver: (-giver.priority, giver.name))]
    record = _Record(intent, source.network, destinations[0].network)
    require = _strictest(ordered, record)
    service_class = record.single(
        "class", [(given_by, given_by.then.service_class) for given_by in ordered], strict=True
    )
    code_point = record.single("dscp", [(given_by, given_by.then.dscp) for given_by in ordered], words=dscp.words)
    prefer = record.single("prefer", [(given_by, given_by.then.prefer) for given_by in ordered])
    for giver in ordered:
        if "traffic" in giver.then.forbid:
            where = " and ".join(end.service or end.network for end in destinations)
            record.against(giver, f"forbids what intent {intent.name} allows, {source.network} to {where}")
        if "transit" in giver.then.forbid:
            record.note("transit", "through no third domain", giver)
        for name in giver.then.via:
            record.note("via", f"via {name}", giver)
    return RuleEffects(
        intent=msgspec.structs.replace(
            intent,
            require=require,
            prefer=prefer or Prefer(),
            via=_union((given_by, given_by.then.via) for given_by in ordered),
            service_class=service_class or "",
        ),
        direct=any("transit" in given_by.then.forbid for given_by in ordered),
        dscp=code_point or 0,
        unmet=(*unmet, *record.unmet),
        origins=tuple(record.origins),
    )


def _strictest(ordered: Sequence[_Giver], record: "_Record") -> Require:
    values: dict[str, Any] = {}
    for bound in _BOUNDS:
        given = [
            (given_by, value)
            for given_by in ordered
            if (value := getattr(given_by.then.require, bound.field)) != getattr(_NOTHING, bound.field)
        ]
        if given:
            giver, value = max(given, key=lambda pair: bound.strictness(pair[1]))
            values[bound.field] = value
            record.note(bound.clause, bound.words(value), giver)
    avoids = [(given_by, given_by.then.require.avoid) for given_by in ordered if given_by.then.require.avoid != Avoid()]
    for giver, avoid in avoids:
        names = [*avoid.domains, *(f"{name}={value}" for name, value in avoid.labels), *avoid.nodes]
        record.note("avoid", f"avoid {' '.join(names)}", giver)
    labels = sorted({label for _, avoid in avoids for label in avoid.labels})
    avoid = Avoid(
        domains=_union((given_by, avoid.domains) for given_by, avoid in avoids),
        labels=tuple(labels),
        nodes=_union((given_by, avoid.nodes) for given_by, avoid in avoids),
    )
    included = [(given_by, given_by.then.require.include_nodes) for given_by in ordered]
    for giver, nodes in included:
        if nodes:
            record.note("include", f"include nodes {' '.join(nodes)}", giver)
    return Require(**values, avoid=avoid, include_nodes=_union(included))


def _union(parts: Iterable[tuple[_Giver, tuple[str, ...]]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for _, names in parts for name in names))


class _Record:
    """Collects who said what of one connection."""

    def __init__(self, intent: Intent, source: str, destination: str) -> None:
        self._intent = intent
        self._ends = source, destination
        self.origins: list[Origin] = []
        self.unmet: list[Unsatisfiable] = []

    def origin(self, clause: str, requirement: str, giver: _Giver) -> Origin:
        return Origin(
            source_network=self._ends[0],
            destination_network=self._ends[1],
            clause=clause,
            requirement=requirement,
            origin=giver.name,
            explain=giver.explain,
        )

    def note(self, clause: str, requirement: str, giver: _Giver) -> None:
        self.origins.append(self.origin(clause, requirement, giver))

    def against(self, giver: _Giver, message: str) -> None:
        why = f": {giver.explain}" if giver.explain else ""
        self.unmet.append(Unsatisfiable(binding=giver.name, message=f"{giver.name} {message}{why}"))

    def single(
        self,
        what: str,
        given: Sequence[tuple[_Giver, Any]],
        *,
        strict: bool = False,
        words: Callable[[Any], str] = str,
    ) -> Any:
        """The value of the first; `strict`: the intent's must not be another than the rules'. `words`: of a value."""
        said = [(giver, value) for giver, value in given if value is not None and str(value)]
        if not said:
            return None
        first, value = said[0]
        self.note(what, f"{what} {words(value)}", first)
        for other, different in said[1:]:
            if different == value:
                continue
            here, there = f"{what} {words(value)}", f"{what} {words(different)}"
            if first.name == "clause" and strict:
                self.against(other, f"sets {there}; intent {self._intent.name} says {here}")
            elif first.name != "clause" and other.priority == first.priority:
                message = f"sets {there}; {first.name} sets {here} with the same priority"
                self.against(other, f"{message} (intent {self._intent.name})")
        return value


# ---- rules about the path


def _on_path(
    effects: RuleEffects, rules: RuleEngine, questions: list[Facts], source: End, destinations: Sequence[End]
) -> RuleEffects:
    """Ways are told apart by the least trust on them. A way that needs what cannot be met is not taken, nor is one
    that is trusted less; then what the others need is required of all."""
    if not rules.on_path.rules:
        return effects
    effective = _effective(effects)
    asked = {
        level: [
            _giver(rule)
            for rule in _any(
                rules.on_path.holding({**facts, **effective, "path.trust": int(level)}) for facts in questions
            )
        ]
        for level in Trust
    }
    record = _Record(effects.intent, source.network, destinations[0].network)
    require = effects.intent.require
    closed = [(level, giver, why) for level in Trust for giver in asked[level] if (why := _closed(giver.then))]
    if closed:
        level, giver, why = max(closed, key=lambda offence: offence[0])
        if level == max(Trust):
            record.against(giver, f"{why} of a way of any trust (intent {effects.intent.name})")
        elif require.trust_min is None or require.trust_min <= level:
            least = Trust(level + 1)
            require = msgspec.structs.replace(require, trust_min=least)
            explained = f"on a way of trust {level.name.lower()} it {why}. {giver.explain}"
            words = f"trust >= {least.name.lower()}"
            record.note("trust", words, msgspec.structs.replace(giver, explain=explained))
    for level in Trust:
        if require.trust_min is not None and level < require.trust_min:
            continue
        for giver in asked[level]:
            wanted = giver.then.require.encryption
            if _LADDER.index(require.encryption) < _LADDER.index(wanted) and not _closed(giver.then):
                require = msgspec.structs.replace(require, encryption=wanted)
                record.note("encryption", f"encryption {require.encryption}", giver)
    changed = {origin.clause for origin in record.origins}
    return msgspec.structs.replace(
        effects,
        intent=msgspec.structs.replace(effects.intent, require=require),
        unmet=(*effects.unmet, *record.unmet),
        origins=(*(origin for origin in effects.origins if origin.clause not in changed), *record.origins),
    )


def _closed(then: Then) -> str:
    """Why a way with this is not taken; empty: it may be."""
    if "traffic" in then.forbid:
        return "forbids the traffic"
    if then.require.encryption == Encryption.WIREGUARD_END_TO_END:
        return "requires wireguard-end-to-end, which cannot be met yet"
    return ""
