"""How a rule is written."""

from typing import Any

from controller.language import scalars
from controller.language.condition import ConditionInvalid, check
from controller.language.intent import PREFER, REQUIRE, print_prefer, print_require
from controller.language.shape import Field, Fields, ListOf, Scalar
from controller.model import dscp
from controller.model.intent import Prefer, Require
from controller.model.rule import Rule, Then

MAX_EXPLAIN = 500


def _condition(text: str) -> str:
    try:
        check(text)
    except ConditionInvalid as error:
        raise ValueError(f"character {error.offset + 1}: {error}") from error
    import cel  # see fulfillment.rule_engine

    try:
        cel.compile(text)
    except ValueError as error:
        raise ValueError(f"not CEL: {error}") from error
    return text


def _explanation(text: str) -> str:
    if not text.strip() or len(text) > MAX_EXPLAIN or not text.replace("\n", " ").isprintable():
        raise ValueError(f"1 to {MAX_EXPLAIN} characters that print are needed")
    return text.strip()


def _then(values: dict[str, Any]) -> Then:
    if not values:
        raise ValueError("expected require, prefer, via, forbid, class or dscp: this does nothing")
    return Then(**values)


THEN = Fields(
    fields={
        "require": Field(shape=REQUIRE),
        "prefer": Field(shape=PREFER),
        "via": Field(shape=ListOf(item=scalars.VIA_NAME, least=1, most=16)),
        "forbid": Field(shape=ListOf(item=scalars.one_of("traffic", "transit"), least=1, most=2)),
        "class": Field(shape=scalars.NAME, to="service_class"),
        "dscp": Field(shape=scalars.DSCP),
    },
    make=_then,
)


def _rule(values: dict[str, Any]) -> dict[str, Any]:
    """What depends on the way can only keep the traffic off that way: all else is settled before one is looked for."""
    import cel

    if "path" in cel.compile(values["when"]).variables():
        then: Then = values["then"]
        wayside = Then(require=Require(encryption=then.require.encryption), forbid=then.forbid)
        if then != wayside or "transit" in then.forbid:
            raise ValueError("a rule about the path can only require encryption, or forbid traffic")
    return values


RULE = Fields(
    fields={
        "when": Field(
            shape=Scalar(expected='a condition such as "pci=true" in source.labels', make=_condition), required=True
        ),
        "then": Field(shape=THEN, required=True),
        "priority": Field(shape=scalars.integer(1, 1000)),
        "explain": Field(shape=Scalar(expected="why, in words", make=_explanation), required=True),
    },
    make=_rule,
)


def print_then(then: Then) -> dict[str, Any]:
    spec: dict[str, Any] = {}
    if then.require != Require():
        spec["require"] = print_require(then.require)
    if then.prefer != Prefer():
        spec["prefer"] = print_prefer(then.prefer)
    if then.via:
        spec["via"] = list(then.via)
    if then.forbid:
        spec["forbid"] = list(then.forbid)
    if then.service_class:
        spec["class"] = then.service_class
    if then.dscp is not None:
        spec["dscp"] = dscp.words(then.dscp)
    return spec


def print_rule(rule: Rule) -> dict[str, Any]:
    spec: dict[str, Any] = {"when": rule.when, "then": print_then(rule.then)}
    if rule.priority != 100:
        spec["priority"] = rule.priority
    return spec | {"explain": rule.explain}
