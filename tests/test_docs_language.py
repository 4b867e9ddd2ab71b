"""What docs/language.md shows is so."""

import contextlib
import json
import re
import textwrap
from pathlib import Path
from typing import Any

import msgspec
import pytest

from controller.cli import trace as cli_trace
from controller.cli.config import Choice
from controller.cli.errors import AnswerIsNo
from controller.cli.explain import show_branch
from controller.cli.kinds import reference
from controller.cli.render import Tree
from controller.language.english import Names, propose
from controller.language.fault import ManifestInvalid
from controller.language.manifest import applied, parse
from controller.language.sentence import parse_sentence, print_sentence
from controller.model.intent import Intent
from controller.model.inventory import Domain, Network, Service
from controller.model.trace import Crossing, Probe
from controller.views import explain, tracing
from tests.simulator import World

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "language.md").read_text()
CONSOLE = re.findall(r"```console\n\$ stitch (.*?)\n(.*?)```", TEXT, re.DOTALL)
SENTENCES = re.findall(r"```sentence\n(.*?)```", TEXT, re.DOTALL)
MANIFEST, ON_WAY, ANY_SERVICE, POOL = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
ERRORS = re.findall(r"^\| `([^`|]+)` \| `(.+)` \|$", TEXT.split("## Errors")[1].split("## English")[0], re.MULTILINE)
ENGLISH = re.findall(r"^\| ([^`|]+) \| `(.+)` \|$", TEXT.split("## English")[1], re.MULTILINE)
CLAUSES = TEXT.split("## Fields and clauses")[1].split("Several needs")[0]


def names() -> Names:
    networks: dict[str, set[tuple[str, str]]] = {}
    services = set()
    for document in parse(World().inventories["shop"]):
        match document.value:
            case Network(name=name, labels=labels, attachments=attachments):
                networks[name] = {*labels, *(label for attachment in attachments for label in attachment.labels)}
            case Service(name=name):
                services.add(name)
    return Names(networks=networks, services=services, domains=["shop", "transit", "insight"])


def intent(sentence: str) -> Intent:
    value = parse_sentence(sentence, name="order-processing", tenant="customer-x").value
    assert isinstance(value, Intent)
    return value


def test_the_examples_are_found() -> None:
    assert len(SENTENCES) >= 4 and len(ERRORS) >= 6 and len(ENGLISH) >= 9 and len(CONSOLE) == 4


def test_the_first_sentence_is_the_manifest() -> None:
    assert intent(SENTENCES[0]) == parse(MANIFEST)[0].value
    assert print_sentence(intent(SENTENCES[0])) == " ".join(SENTENCES[0].split())


def test_the_sentence_that_describes_a_service_is_its_manifest() -> None:
    (sentence,) = (sentence for sentence in SENTENCES if "any service" in sentence)
    head = "apiVersion: netstitch/v1\nkind: Intent\nmetadata: {name: order-processing, tenant: customer-x}\nspec:\n"
    document = parse(head + textwrap.indent(ANY_SERVICE + "require: {latency_ms: {max: 20}}\n", "  "))[0]
    assert intent(sentence) == document.value
    assert print_sentence(intent(sentence)).startswith(sentence.strip()), "it is printed as it is written"


def test_the_service_on_the_way_is_passed_as_the_sentence_says() -> None:
    (sentence,) = (sentence for sentence in SENTENCES if "on service down" in sentence)
    world = World()
    world.start()
    world.apply("shop", ON_WAY)
    world.submit("shop", applied(parse_sentence(sentence, name="order-processing", tenant="customer-x")))
    world.run(5)
    assert world.get("shop", "intents", "order-processing").status["via"][0]["service"] == parse(ON_WAY)[0].name
    assert intent(sentence).on_service_down == "bypass"


def test_the_pool_is_that_of_the_reference_lab() -> None:
    (own,) = (document.value for document in parse(World().inventories["shop"]) if document.name == "shop")
    (shown,) = (document.value for document in parse(POOL))
    assert isinstance(own, Domain) and isinstance(shown, Domain)
    assert shown.own and shown.translation_pool == own.translation_pool != ()


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
    written = need.replace("D...", "d").replace("N...", "n").replace("L=V...", "l=v")
    assert intent(f"isolate a/b; {written}").require != intent("isolate a/b").require


# ---- why it is so: in the simulated lab, by the command line's own code


class Asked:
    """A domain's controller, as `stitch trace` asks it."""

    def __init__(self, world: World, domain: str) -> None:
        self._world, self._domain = world, domain

    def trace(self, asked: dict[str, Any]) -> Any:
        probe = Probe(**asked) if "source" in asked else Crossing(**asked)
        return msgspec.to_builtins(tracing.trace(self._world.controllers[self._domain].state, probe, self._world.now_s))


@pytest.fixture(scope="module")
def world() -> World:
    world = World()
    world.start()
    world.apply("shop", (ROOT / "topologies/rules/lab.yaml").read_text())
    wanted = (ROOT / "topologies/intents/order-processing.yaml").read_text()
    world.apply("shop", wanted.replace("\nspec:", "\nspec:\n  class: realtime"))
    world.run(30)
    return world


@pytest.mark.parametrize(("command", "shown"), CONSOLE)
def test_each_console_shows_what_is_said(
    world: World, command: str, shown: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_trace, "_next", lambda _, domain: Asked(world, domain))
    match command.split():
        case ["explain", what]:
            branch = explain.explain(world.controllers["shop"].state, *reference(what), world.now_s)
            show_branch(msgspec.to_builtins(branch), Tree.TREE)
        case ["trace", source, destination]:
            asked = {"source": source, **cli_trace.parse_destination(destination)}
            trace = cli_trace.follow(Asked(world, "shop"), Choice(), asked)  # type: ignore[arg-type]
            with contextlib.suppress(AnswerIsNo):
                cli_trace.show_trace(trace, Tree.TREE)
    pattern = "".join(
        "(?:.*\n)*?" if line == "..." else re.escape(line).replace(re.escape("..."), ".*") + "\n"
        for line in shown.splitlines()
    )
    assert re.fullmatch(pattern, said := capsys.readouterr().out), said


def test_origins_are_as_shown(world: World) -> None:
    (block,) = re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)
    shown = [json.loads(line) for line in re.split(r"\n(?=\{)", block.strip())]
    assert len(shown) == 2
    origins = world.get("shop", "intents", "order-processing").status["origins"]
    assert all(line in origins for line in shown), origins
