"""Conditions of rules: what is taken, what is refused and where, and that none runs for long."""

import time

import cel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.language.condition import ConditionInvalid, check
from controller.model.rule import MAX_ITEMS, TRUST, VARIABLES

LABELS = [f"name{n}=value{n}" for n in range(MAX_ITEMS)]
SAMPLES = {"string": "shop", "int": 1, "double": 20.0, "bool": True, "list(string)": LABELS}
FACTS = {
    name: {field: SAMPLES[of] for field, of in fields.items()} if isinstance(fields, dict) else TRUST[name]
    for name, fields in VARIABLES.items()
}


@pytest.mark.parametrize(
    "text",
    [
        '"pci=true" in source.labels',
        "path.trust == public && source.trust >= partner",
        'intent.class == "realtime" || destination.service.endsWith("/voice")',
        'source.labels.exists(label, label.startsWith("pci="))',
        "source.labels.exists(a, destination.labels.exists(b, a == b))",
        'intent.latency_ms <= 30 && intent.latency_ms < 30.5 && size(intent.via) > 0 && "a b".size() == 3',
        "!(intent.tenant in [\"a\", 'b']) ? true : intent.priority != -1",
        "[1, 2] == [1, 2]\n  && source.labels == destination.labels",
    ],
)
def test_conditions_are_taken_and_evaluate(text: str) -> None:
    check(text)
    assert isinstance(cel.evaluate(text, FACTS), bool)


@pytest.mark.parametrize(
    ("text", "offset", "says"),
    [
        ("", 0, "expected a value"),
        ("true true", 5, "expected an operator or the end"),
        ("intent.clas == 'x'", 7, "did you mean class"),
        ("intend.class == 'x'", 0, "did you mean intent"),
        ("intent.name == 3", 12, "== does not compare a string with a whole number"),
        ("source == destination", 7, "which has fields"),
        ("'x' in source", 4, "in does not compare"),
        ("intent.priority", 0, "a condition is true or false; this is a whole number"),
        ("!intent.name", 1, "expected true or false here"),
        ("intent.name && true", 0, "expected true or false here"),
        ("intent.priority + 1 > 2", 16, "no arithmetic"),
        ("source.labels['pci'] == 'x'", 13, '"name=value" in source.labels'),
        ("source.labels.pci == 'x'", 14, '"name=value" in ...labels'),
        ("has(intent.class)", 0, "unknown function has (every field is there: compare it)"),
        ("intent.name.matches('(a+)+')", 12, "unknown function matches"),
        ("intent.name.startsWith(3)", 23, "expected a string"),
        ("source.labels.exists(a, b)", 24, "unknown variable b"),
        ("source.labels.exists(source, true)", 21, "expected a new name"),
        ("source.labels.map(a, a)", 14, "unknown function map"),
        ("intent.name.exists(a, true)", 0, "exists needs a list"),
        ("true ? 1 : 'x'", 11, "both sides of ':'"),
        ("[1, 'x'] == [1]", 4, "items of one simple type"),
        ("[] == [1]", 0, "1 to 64 items"),
        ("'x", 0, "strings stand in quotes"),
        ("'x' // a comment", 4, "unexpected '/'"),
        ("'\\x41' == 'A'", 0, "unexpected"),
        ("true)", 4, "expected an operator or the end"),
        ("true], [true", 4, "expected an operator or the end"),
        ("(" * 40 + "true" + ")" * 40, 16, "nested more than 16 deep"),
        ("!" * 3_000 + "true", 2_000, "too many"),
        ("true && " * 249 + "!" * 8, 2_000, "expected a value"),
        (
            "source.labels.exists(a, source.labels.exists(b, source.labels.exists(c, a == c)))",
            62,
            "at most 2 of exists, all, exists_one",
        ),
        ("source.labels.all(a, source.labels.all(b, a in source.labels))", 0, "operations; at most 100,000"),
    ],
)
def test_what_is_wrong_is_said_at_its_character(text: str, offset: int, says: str) -> None:
    with pytest.raises(ConditionInvalid) as caught:
        check(text)
    assert says in str(caught.value)
    assert caught.value.offset == offset


def test_the_dearest_condition_that_is_taken_ends_soon() -> None:
    """By construction; this says that the bound is the right order of magnitude."""
    part = "source.labels.all(a, source.labels.all(b, a != b || a == b))"
    text = part
    while True:
        try:
            check(f"{text} && {part}")
        except ConditionInvalid:
            break
        text += f" && {part}"
    began = time.process_time()
    assert cel.evaluate(text, FACTS) is True
    assert time.process_time() - began < 60


ATOMS = [
    "intent",
    "source",
    ".labels",
    ".class",
    ".exists(a, ",
    "a",
    "(",
    ")",
    "'x'",
    "1",
    "1.5",
    "==",
    "in",
    "&&",
    "||",
    "!",
    "?",
    ":",
    "[",
    "]",
    ",",
    "size(",
    "public",
    " ",
    "path.trust",
    "true",
    '"',
    "\\",
    ".contains(",
    "-1",
    "\n",
]


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from(ATOMS), max_size=30).map("".join))
def test_whatever_is_taken_evaluates_to_true_or_false(text: str) -> None:
    try:
        check(text)
    except ConditionInvalid as error:
        assert 0 <= error.offset <= len(text)
        return
    assert isinstance(cel.evaluate(text, FACTS), bool)
