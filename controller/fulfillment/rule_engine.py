"""Rules, ready to be asked: compiled once, evaluated together."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from controller.model.rule import TRUST, VARIABLES, Rule

TOGETHER = 256
"""Conditions in one evaluation: the facts are handed over once for all of them."""
REMEMBERED = 20_000
"""Answers of each group of conditions that are kept."""
Facts = Mapping[str, Any]
"""Values of `model.rule.VARIABLES` by `variable.field`, lists as tuples."""

_FIELD = re.compile(r"\b([a-z]+)\s*\.\s*([a-z_]+)\b")
_DECLARED = {f"{name}.{field}" for name, fields in VARIABLES.items() if isinstance(fields, dict) for field in fields}


class Unanswerable(Exception):
    """A condition that could not be evaluated: it was not checked, or the library is at fault."""

    def __init__(self, rule: str, reason: str) -> None:
        super().__init__(f"the condition of rule {rule} cannot be evaluated: {reason}")
        self.rule = rule


class _Group:
    """Conditions that read the same fields. What they said of the same values is remembered."""

    def __init__(self, fields: tuple[str, ...], rules: Sequence[Rule]) -> None:
        self._fields = fields
        self._rules = rules
        import cel  # It takes a tenth of a controller's start, which is for those who have rules.

        self._program = cel.compile("[" + ",".join(f"({rule.when})" for rule in rules) + "]")
        self._remembered: dict[tuple[Any, ...], tuple[Rule, ...]] = {}

    def holding(self, facts: Facts) -> tuple[Rule, ...]:
        values = tuple(facts[field] for field in self._fields)
        holding = self._remembered.get(values)
        if holding is None:
            holding = self._evaluated(values)
            if len(self._remembered) >= REMEMBERED:
                self._remembered.clear()
            self._remembered[values] = holding
        return holding

    def _evaluated(self, values: tuple[Any, ...]) -> tuple[Rule, ...]:
        variables: dict[str, Any] = dict(TRUST)
        for path, value in zip(self._fields, values, strict=True):
            name, field = path.split(".")
            variables.setdefault(name, {})[field] = list(value) if isinstance(value, tuple) else value
        try:
            answers = self._program.execute(variables)
        except Exception:  # whatever the library raises: the rule at fault is looked for
            answers = [_ask(rule, variables) for rule in self._rules]
        for rule, answer in zip(self._rules, answers, strict=True):
            if not isinstance(answer, bool):
                raise Unanswerable(rule.name, f"it is {answer!r}, neither true nor false")
        return tuple(rule for rule, answer in zip(self._rules, answers, strict=True) if answer)


def _ask(rule: Rule, variables: dict[str, Any]) -> object:
    import cel

    try:
        return cel.evaluate(rule.when, variables)
    except Exception as error:
        raise Unanswerable(rule.name, str(error)) from error


def _reads(rule: Rule) -> tuple[str, ...]:
    """The fields that its condition names, sorted; some too many where a string looks like one."""
    return tuple(sorted({f"{name}.{field}" for name, field in _FIELD.findall(rule.when)} & _DECLARED))


class Conditions:
    """Of rules that are asked the same question."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = tuple(rules)
        alike: dict[tuple[str, ...], list[Rule]] = {}
        for rule in self.rules:
            alike.setdefault(_reads(rule), []).append(rule)
        self._groups = [
            _Group(fields, like[start : start + TOGETHER])
            for fields, like in alike.items()
            for start in range(0, len(like), TOGETHER)
        ]

    def holding(self, facts: Facts) -> list[Rule]:
        """The rules whose condition holds. Raises Unanswerable."""
        return [rule for group in self._groups for rule in group.holding(facts)]


class RuleEngine(msgspec.Struct, frozen=True):
    """The rules in force. Made by `rule_engine`; higher priorities first, then by name."""

    plain: Conditions
    """About what was written and what is there."""
    chained: Conditions
    """About what other rules make of it as well."""
    on_path: Conditions
    """About the way that the traffic may take."""
    classes: frozenset[str]
    """Names of rules that speak of classes of service."""


def rule_engine(rules: Iterable[Rule]) -> RuleEngine:
    """Raises ValueError for a condition that is not CEL."""
    ordered = sorted(rules, key=lambda rule: (-rule.priority, rule.name))
    reads = {rule.name: {field.split(".")[0] for field in _reads(rule)} for rule in ordered}
    return RuleEngine(
        plain=Conditions([rule for rule in ordered if not reads[rule.name] & {"effective", "path"}]),
        chained=Conditions([rule for rule in ordered if reads[rule.name] & {"effective", "path"} == {"effective"}]),
        on_path=Conditions([rule for rule in ordered if "path" in reads[rule.name]]),
        classes=frozenset(rule.name for rule in ordered if ".class" in rule.when),
    )


NO_RULES = rule_engine(())
