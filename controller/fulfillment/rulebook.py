"""Rules, ready to be asked: compiled once, evaluated together."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import cel
import msgspec

from controller.model.rule import TRUST, Rule

TOGETHER = 256
"""Conditions in one evaluation: the facts are handed over once for all of them."""
Facts = Mapping[str, Any]
"""Values of `model.rule.VARIABLES`."""


class Unanswerable(Exception):
    """A condition that could not be evaluated: it was not checked, or the library is at fault."""

    def __init__(self, rule: str, reason: str) -> None:
        super().__init__(f"the condition of rule {rule} cannot be evaluated: {reason}")
        self.rule = rule


class Conditions:
    """Of rules that are asked the same question."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = tuple(rules)
        self._parts = [
            (part, cel.compile("[" + ",".join(f"({rule.when})" for rule in part) + "]"))
            for part in (self.rules[start : start + TOGETHER] for start in range(0, len(self.rules), TOGETHER))
        ]

    def holding(self, facts: Facts) -> tuple[Rule, ...]:
        """The rules whose condition holds, in their order. Raises Unanswerable."""
        found: list[Rule] = []
        for rules, program in self._parts:
            try:
                answers = program.execute({**facts, **TRUST})
            except Exception:  # whatever the library raises: the rule at fault is looked for
                answers = [_ask(rule, facts) for rule in rules]
            for rule, answer in zip(rules, answers, strict=True):
                if not isinstance(answer, bool):
                    raise Unanswerable(rule.name, f"it is {answer!r}, neither true nor false")
                if answer:
                    found.append(rule)
        return tuple(found)


def _ask(rule: Rule, facts: Facts) -> object:
    try:
        return cel.evaluate(rule.when, {**facts, **TRUST})
    except Exception as error:
        raise Unanswerable(rule.name, str(error)) from error


class Rulebook(msgspec.Struct, frozen=True):
    """The rules in force. Made by `rulebook`; higher priorities first, then by name."""

    plain: Conditions
    """About what was written and what is there."""
    chained: Conditions
    """About what other rules make of it as well."""
    on_path: Conditions
    """About the way that the traffic may take."""
    classes: frozenset[str]
    """Names of rules that speak of classes of service."""


def rulebook(rules: Iterable[Rule]) -> Rulebook:
    """Raises ValueError for a condition that is not CEL."""
    ordered = sorted(rules, key=lambda rule: (-rule.priority, rule.name))
    reads = {rule.name: set(cel.compile(rule.when).variables()) for rule in ordered}
    return Rulebook(
        plain=Conditions([rule for rule in ordered if not reads[rule.name] & {"effective", "path"}]),
        chained=Conditions([rule for rule in ordered if reads[rule.name] & {"effective", "path"} == {"effective"}]),
        on_path=Conditions([rule for rule in ordered if "path" in reads[rule.name]]),
        classes=frozenset(rule.name for rule in ordered if ".class" in rule.when),
    )


NO_RULES = rulebook(())
