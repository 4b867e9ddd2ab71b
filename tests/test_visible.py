"""Nothing that peers, nodes, tenants or manifests say moves, hides or turns what a terminal shows."""

import contextlib
import io
import json
import subprocess
import sys
import textwrap
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
from northbound_fake import KINDS, Running, running
from ruamel.yaml import YAML
from waiting import LIMIT_S

from controller.model.resource import Resource
from dataplane.visible import VisibleText, visible
from tests.test_cli import Shell

CONTROLS = [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0))]
MARKS = [*"\u061c\u200b\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff"]
HOSTILE = [character for character in (*CONTROLS, *MARKS, "\U000e0041", "\U000e007f") if character not in "\n\t"]
NASTY = "ok\x1b[2J\x1b]0;x\x07" + "x".join(HOSTILE) + "end é 日本"


def check(text: str) -> None:
    bad = {f"U+{ord(character):04X}" for character in text if character not in "\n\t" and not character.isprintable()}
    assert not bad, f"{bad} in {text[:300]!r}"


@pytest.fixture(scope="module")
def api() -> Iterator[Running]:
    with running() as api:
        for kind in KINDS:
            name = f"x{NASTY}" if kind not in ("intents",) else "x"
            status = {
                "phase": NASTY,
                "reason": NASTY,
                "sentence": f"allow {NASTY}",
                "conditions": [{"type": "Refused", "reason": NASTY}],
                "path": [NASTY],
                NASTY: {"deep": [NASTY, {NASTY: NASTY}]},
            }
            resource = Resource(
                kind=kind.rstrip("s").title(),
                metadata={"name": name, "tenant": NASTY, "revision": 1},
                spec={"reason": NASTY, "labels": {NASTY: NASTY}, "note": NASTY, "action": NASTY, "text": NASTY},
                status=status,
            )
            api.controller.resources[kind][name] = resource
        yield api


@pytest.fixture
def stitch(tmp_path: Path, api: Running) -> Shell:
    return Shell(tmp_path, api.url)


@pytest.mark.parametrize("kind", KINDS)
def test_what_others_say_is_visible_in_every_format(stitch: Shell, kind: str) -> None:
    for output in ("table", "wide", "json", "yaml", *(("sentence",) if kind == "intents" else ())):
        done = stitch("get", kind, "-o", output)
        if kind != "events" and output != "yaml":
            assert "end é 日本" in done.stdout, "what prints stays as it is"
        check(done.stdout + done.stderr)
        if output == "json":
            assert json.loads(done.stdout)[0]["spec"]["note"] == NASTY, "and what does not is still there"
        if output == "yaml":
            assert YAML(typ="safe", pure=True).load(done.stdout)["spec"]["note"] == NASTY
    name = next(iter(stitch.json("get", kind)))["metadata"]["name"]
    if "\0" not in name:
        done = stitch("describe", f"{kind}/{name}")
        check(done.stdout + done.stderr)


def test_complaints_about_hostile_manifests_are_visible(stitch: Shell) -> None:
    front = "apiVersion: netstitch/v1\nkind: Intent\nmetadata: "
    texts = [
        f"kind: {json.dumps(NASTY)}\n",
        f"{front}{{name: {json.dumps(NASTY)}, tenant: t}}\nspec: {{}}\n",
        f"{front}{{name: x, tenant: t}}\nspec: {{{json.dumps('a' + NASTY)}: 1}}\n",
        f"\u202e{NASTY}",
    ]
    for text in texts:
        done = stitch("apply", "-f", "-", stdin=text, status=2)
        check(done.stdout + done.stderr)
    for arguments in (("get", f"x{MARKS[9]}\x9b"), ("describe", f"intent/a{MARKS[9]}\x9b2J")):
        program = Path(sys.executable).parent / "stitch"
        command = [program, "--server", stitch.server, "--token-file", stitch.token, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, env=stitch.environment())
        assert done.returncode != 0 and "Traceback" not in done.stderr
        check(done.stdout + done.stderr)


LOGS = textwrap.dedent("""
    import logging, sys
    import structlog
    from dataplane import log
    log.configure(node=sys.argv[1])
    structlog.get_logger().warning("event", reason=sys.argv[1], **{sys.argv[1]: [sys.argv[1]]})
    logging.getLogger("a library").warning(sys.argv[1])
    try:
        raise ValueError(sys.argv[1])
    except ValueError:
        structlog.get_logger().exception("failed")
""")


def test_logs_are_visible_and_one_line_an_event() -> None:
    said = NASTY.replace("\0", "") + "\nfaked"
    done = subprocess.run([sys.executable, "-c", LOGS, said], capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr
    check(done.stderr)
    lines = done.stderr.rstrip("\n").split("\n")
    assert [json.loads(line)["level"] for line in lines] == ["warning", "warning", "error"]
    assert json.loads(lines[0])["reason"] == said


def test_every_code_point_is_shown_as_itself_or_as_its_code() -> None:
    for code in (*range(0x3000), *range(0xD800, 0xE000, 97), 0xFEFF, *range(0xE0000, 0xE0080), 0x10FFFF):
        character = chr(code)
        shown = visible(character)
        if character in "\n\t":
            assert shown == character
            continue
        check(shown)
        assert json.loads(f'"{shown}"' if shown not in '"\\' else json.dumps(shown)) == character, unicodedata.name(
            character, hex(code)
        )


def test_a_stream_of_visible_text_is_a_stream() -> None:
    written = io.StringIO()
    with contextlib.redirect_stdout(VisibleText(written)):
        print("a\x1bb", end="", flush=True)
    assert written.getvalue() == "a\\u001bb"
