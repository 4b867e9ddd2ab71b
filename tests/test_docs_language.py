"""What docs/language.md shows is so."""

import re
from pathlib import Path

import pytest

from controller.language.english import Names, propose
from controller.language.fault import ManifestInvalid
from controller.language.manifest import parse
from controller.language.sentence import parse_sentence, print_sentence
from controller.model.intent import Intent
from controller.model.inventory import Network, Service
from tests.simulator import World

TEXT = (Path(__file__).parent.parent / "docs" / "language.md").read_text()
SENTENCES = re.findall(r"```sentence\n(.*?)```", TEXT, re.DOTALL)
(MANIFEST,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
ERRORS = re.findall(r"^\| `([^`|]+)` \| `(.+)` \|$", TEXT.split("## Errors")[1].split("## English")[0], re.MULTILINE)
ENGLISH = re.findall(r"^\| ([^`|]+) \| `(.+)` \|$", TEXT.split("## English")[1], re.MULTILINE)
CLAUSES = TEXT.split("## Fields and clauses")[1].split("Several needs")[0]


def names() -> Names:
    networks: dict[str, set[tuple[str, str]]] = {}
    services = set()
    for document in parse(World().inventories["shop"]):
        match document.value:
            case Network(name=name, labels=labels, attachments=attachments):
                networks[name] = {*labels, *(label for one in attachments for label in one.labels)}
            case Service(name=name):
                services.add(name)
    return Names(networks=networks, services=services, domains=["shop", "transit", "insight"])


def intent(sentence: str) -> Intent:
    value = parse_sentence(sentence, name="order-processing", tenant="customer-x").value
    assert isinstance(value, Intent)
    return value


def test_the_examples_are_found() -> None:
    assert len(SENTENCES) >= 4 and len(ERRORS) >= 6 and len(ENGLISH) >= 9


def test_the_first_sentence_is_the_manifest() -> None:
    assert intent(SENTENCES[0]) == parse(MANIFEST)[0].value
    assert print_sentence(intent(SENTENCES[0])) == " ".join(SENTENCES[0].split())


@pytest.mark.parametrize("sentence", SENTENCES)
def test_each_sentence_is_one(sentence: str) -> None:
    assert intent(print_sentence(intent(sentence))) == intent(sentence)


@pytest.mark.parametrize(("written", "said"), ERRORS)
def test_each_error_is_said(written: str, said: str) -> None:
    with pytest.raises(ManifestInvalid) as caught:
        intent(written)
    assert said in str(caught.value)


@pytest.mark.parametrize(("english", "sentence"), ENGLISH)
def test_each_english_proposes_its_sentence(english: str, sentence: str) -> None:
    assert propose(english, names()) == sentence
    intent(sentence)


@pytest.mark.parametrize("need", re.findall(r"^\| `(require [^`]+)` \|", CLAUSES, re.MULTILINE))
def test_each_need_of_the_table_is_one(need: str) -> None:
    written = need.replace("D...", "d").replace("L=V...", "l=v")
    assert intent(f"isolate a/b; {written}").require != intent("isolate a/b").require
