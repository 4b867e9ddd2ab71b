"""What the README shows of the language is so."""

import re
from pathlib import Path

from test_docs_language import names

from controller.language.english import propose
from controller.language.manifest import parse
from controller.language.sentence import parse_sentence, print_sentence
from controller.model.intent import Intent
from controller.model.rule import Rule

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", TEXT, re.DOTALL)


def test_the_manifest_is_the_demos_and_the_sentence_says_the_same() -> None:
    manifest, rule = blocks("yaml")
    (shown,) = parse(manifest)
    assert shown.value == parse((ROOT / "topologies/intents/order-processing.yaml").read_bytes())[0].value
    sentence, _ = blocks("sentence")
    assert parse_sentence(sentence, name="order-processing", tenant="customer-x").value == shown.value
    assert isinstance(shown.value, Intent)
    assert (
        parse_sentence(print_sentence(shown.value), name="order-processing", tenant="customer-x").value == shown.value
    )
    (lab_rule,) = [
        one for one in parse((ROOT / "topologies/rules/lab.yaml").read_bytes()) if one.value == parse(rule)[0].value
    ]
    assert isinstance(lab_rule.value, Rule)


def test_english_proposes_the_sentence_below_it() -> None:
    (english,) = blocks("english")
    _, sentence = blocks("sentence")
    proposed = parse_sentence(propose(english.strip(), names()), name="x", tenant="t").value
    assert proposed == parse_sentence(sentence, name="x", tenant="t").value
