"""What people expect of a command line: completion, selectors, watches that read well, clean ends."""

import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from northbound_fake import TOKEN, Running, running
from test_cli import INTENT, STITCH, Shell
from waiting import LIMIT_S

from controller.cli import client as api_client
from controller.cli.client import Client
from controller.cli.config import Target
from controller.cli.table import fit
from controller.cli.times import span, with_times
from controller.model.resource import Resource


@pytest.fixture
def api() -> Iterator[Running]:
    with running() as api:
        yield api


@pytest.fixture
def stitch(tmp_path: Path, api: Running) -> Shell:
    return Shell(tmp_path, api.url)


def labelled(name: str, app: str) -> str:
    select = f"select: {{app: {name}}}"
    text = INTENT.replace("order-processing, tenant: customer-x", f"{name}, tenant: t-{app}, labels: {{app: {app}}}")
    return text.replace("select: {app: order-processing}", select)


def complete(stitch: Shell, *words: str, server: str | None = None) -> list[str]:
    """What a shell proposes for the last of the words."""
    line = ["stitch", "--server", server or stitch.server, "--token-file", str(stitch.token), *words]
    environment = stitch.environment() | {
        "_STITCH_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(line), "COMP_CWORD": str(len(line) - 1),
    }  # fmt: skip
    done = subprocess.run([STITCH], env=environment, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.stderr == ""
    return done.stdout.split()


def test_shells_propose_kinds_names_and_phases(stitch: Shell) -> None:
    stitch("apply", "-f", "-", stdin=labelled("orders", "shop") + "---\n" + labelled("books", "hall"))
    assert complete(stitch, "get", "int") == ["intents"]
    assert complete(stitch, "get", "intents", "o") == ["orders"]
    assert complete(stitch, "describe", "intent/") == ["intent/books", "intent/orders"]
    assert complete(stitch, "delete", "intents", "books", "o") == ["orders"]
    assert complete(stitch, "get", "intents", "--phase", "Act") == ["Active"]
    assert complete(stitch, "get", "nodes", "--phase", "") == ["Ready", "Syncing", "Unreachable", "Unknown"]
    assert complete(stitch, "get", "agreements", "--phase", "A") == ["Agreed"]
    assert complete(stitch, "get", "intents", "o", server="http://127.0.0.1:1") == [], "nobody to ask: silent"
    assert complete(stitch, "intent", "r") == ["renew"]
    assert complete(stitch, "intent", "renew", "") == ["books", "orders"]
    stitch("token", "create", "robot", "--role", "reader")
    assert complete(stitch, "token", "revoke", "r") == ["robot"]


def test_shells_propose_agreements_that_can_be_ended(stitch: Shell, api: Running) -> None:
    name = "shop:orders:1"
    agreement = Resource(kind="Agreement", metadata={"name": name}, spec={}, status={})
    api.controller.resources["agreements"][name] = agreement
    assert complete(stitch, "agreement", "end", name[:4]) == [name]
    assert complete(stitch, "agreement", "end", name, name[:4]) == [name]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_there_for_each_shell(stitch: Shell, shell: str) -> None:
    environment = stitch.environment() | {"_STITCH_COMPLETE": f"source_{shell}"}
    done = subprocess.run([STITCH], env=environment, capture_output=True, text=True, timeout=LIMIT_S)
    assert "_STITCH_COMPLETE=complete_" + shell in done.stdout, done.stderr


def test_version_and_one_style_of_help(stitch: Shell) -> None:
    assert stitch.bare("--version").stdout.startswith("stitch 0.")
    for command in ([], ["lab"], ["get"], ["lab", "up"], ["token", "create"]):
        text = stitch.bare(*command, "--help").stdout
        assert text.startswith("Usage: stitch") and "\n  --help" in text and "─" not in text


def test_selectors_pick_what_is_shown_and_deleted(stitch: Shell) -> None:
    several = "---\n".join((labelled("a", "shop"), labelled("b", "shop"), labelled("c", "hall")))
    stitch("apply", "-f", "-", "--wait", "30", stdin=several)

    def names(*options: str) -> list[str]:
        return [intent["metadata"]["name"] for intent in stitch.json("get", "intents", *options)]

    assert names("-l", "app=shop") == ["a", "b"]
    assert names("-l", "app!=shop") == ["c"]
    assert names("--phase", "active", "--tenant", "t-hall") == ["c"]
    assert "expected NAME=VALUE" in stitch("get", "intents", "-l", "=x", status=2).stderr
    assert "Pending, Negotiating" in stitch("get", "intents", "--phase", "Bogus", status=2).stderr
    assert "Ready, Syncing" in stitch("get", "nodes", "--phase", "Bogus", "--watch", status=2).stderr
    assert stitch("delete", "intents", "-l", "app=shop").stdout == "intents/a deleted\nintents/b deleted\n"
    assert stitch("delete", "intents", "c", "nothing", "--ignore-not-found").stdout.splitlines() == [
        "intents/c deleted", "intents/nothing absent",
    ]  # fmt: skip
    assert names() == []


def test_what_a_shell_makes_of_a_pattern_is_taken_or_refused_whole(stitch: Shell) -> None:
    for name in ("a", "b"):
        (stitch.home / f"{name}.yaml").write_text(labelled(name, "shop"))
    (stitch.home / "empty.yaml").write_text("\n")
    for taken in (("-f", "a.yaml", "b.yaml"), ("a.yaml", "b.yaml"), ("-f", "a.yaml", "-f", "b.yaml")):
        assert len(stitch("apply", *taken).stdout.splitlines()) == 2
    for arguments, complaint in (
        (("apply",), "which manifests?"),
        (("delete", "-f", "a.yaml", "b.yaml"), "b.yaml: to delete what several files name"),
        (("apply", "-f", "no*.yaml"), "no*.yaml: there is no such file: the shell found none that fits"),
        (("diff", "-f", "missing.yaml"), "missing.yaml: there is no such file"),
        (("apply", "-f", "a.yaml,b.yaml"), "several files are given each with -f"),
        (("apply", "-f", "https://x/y.yaml"), "curl -fsS https://x/y.yaml | stitch apply -f -"),
        (("apply", "-f", "."), ". is a directory: name the files in it"),
        (("apply", "-f", "-"), "<stdin>: nothing came in"),
        (("apply", "-f", "a.yaml", "-f", "empty.yaml"), "empty.yaml:1:1: there is no manifest in it"),
    ):
        assert complaint in stitch(*arguments, status=2).stderr
    assert [intent["metadata"]["name"] for intent in stitch.json("get", "intents")] == ["a", "b"]


def test_pages_are_followed(stitch: Shell, api: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    stitch("apply", "-f", "-", stdin="---\n".join(labelled(name, "shop") for name in "abcde"))
    monkeypatch.setattr(api_client, "PAGE", 2)
    client = Client(Target(server=api.url, token=TOKEN, said_by="test"))
    assert [intent["metadata"]["name"] for intent in client.get("intents")] == [*"abcde"]


def test_a_watch_is_a_table_that_goes_on_and_says_what_is_gone(stitch: Shell) -> None:
    stitch("apply", "-f", "-", "--wait", "30", stdin=labelled("a-rather-long-name", "shop"))
    watching = subprocess.Popen(
        [STITCH, "--server", stitch.server, "--token-file", "token", "get", "intents", "--watch"],
        cwd=stitch.home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=stitch.environment(),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert watching.stdout is not None and watching.stderr is not None
    header, first = watching.stdout.readline(), watching.stdout.readline()
    at = header.index("PHASE")
    assert header.startswith("NAME") and first[at:].startswith("Active")
    stitch("delete", "intent/a-rather-long-name")
    last = watching.stdout.readline()
    assert last.startswith("a-rather-long-name ") and last[at:].startswith("DELETED")
    watching.send_signal(signal.SIGINT)
    assert watching.wait(10) == 130
    assert watching.stderr.read() == ""
    watching.stdout.close()
    watching.stderr.close()


def test_events_are_told_by_the_local_clock_and_of_one_thing(stitch: Shell, api: Running) -> None:
    for number, about in enumerate(("intents/a", "nodes/se1")):
        name = f"{number:010d}"
        spec = {"time_s": 1_500_000_000, "about": about, "what": "changed", "why": "new port", "by": "ci"}
        api.controller.resources["events"][name] = Resource(kind="Event", metadata={"name": name}, spec=spec, status={})
    header, line = stitch("events", "intent/a").stdout.splitlines()
    assert header.split() == ["TIME", "ABOUT", "WHAT", "BY", "WHY"]
    assert line.startswith("2017-07-1") and line.split()[2:] == ["intents/a", "changed", "ci", "new", "port"]
    assert len(stitch("events").stdout.splitlines()) == 3
    assert [event["spec"]["about"] for event in stitch.json("events", "node/se1")] == ["nodes/se1"]
    assert stitch.json("get", "events", "0000000001")["spec"]["time_s"] == 1_500_000_000


def test_who_reads_may_go_at_any_time(stitch: Shell) -> None:
    stitch("apply", "-f", "-", stdin="---\n".join(labelled(name, "shop") for name in "abc"))
    reading, writing = os.pipe()
    os.close(reading)
    command = [STITCH, "--server", stitch.server, "--token-file", "token", "get", "intents"]
    done = subprocess.run(
        command, cwd=stitch.home, stdout=writing, stderr=subprocess.PIPE, env=stitch.environment(), timeout=LIMIT_S
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


def test_ctrl_c_while_it_is_still_starting_leaves_no_traceback() -> None:
    command = [sys.executable, "-c", "import controller.cli; raise KeyboardInterrupt"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


LINES = [
    ["NAME", "ADDRESSES", "CONDITIONS", "LAST"],
    ["order-processing", "2001:db8:ffff:ffff::1111 10.1.0.11", "a gateway has not said what it is yet", "x" * 30],
    ["b", "10.2.0.1", "", "y"],
]


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 120, None])
def test_tables_leave_columns_out_before_they_break_a_word(width: int | None) -> None:
    fitted = fit(LINES, width)
    words = {word for line in fitted for word in line.split()}
    assert words <= {word for line in LINES for cell in line for word in cell.split()}, "no word is broken"
    assert {"NAME", "order-processing", "b"} <= words
    if width is not None:
        assert max(map(len, fitted)) <= max(width, len("order-processing"))
    assert ("ADDRESSES" in words) == (width is None or width >= 44)
    assert ("LAST" in words) == (width is None or width >= 101)
    starts = {fitted[0].index(title) for title in LINES[0] if title in fitted[0]}
    assert all(line[start - 1 : start] in (" ", "") for line in fitted for start in starts if start)


def test_times_are_told_as_ages_and_by_the_clock_on_the_wall(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [span(s) for s in (0, 59, 61, 3600, 12 * 3600 + 59, 90_000, 86_400 * 40)] == [
        "0s", "59s", "1m1s", "1h", "12h", "1d1h", "40d",
    ]  # fmt: skip
    monkeypatch.setenv("TZ", "UTC-2")
    line = with_times("created_s: 1500000000")
    assert line.startswith("created_s: 1500000000  # 2017-07-14 0") and line.endswith(" ago")
    assert with_times("mtu: 1500000000") == "mtu: 1500000000"


def environment_of(stitch: Shell) -> dict[str, str]:
    """`stitch` is on the path; nothing of ours is in the shells' files."""
    return stitch.environment() | {"PATH": f"{STITCH.parent}:/usr/bin:/bin", "TERM": "dumb"}


LINE_AWAY = b"\x15"
"""Control-U."""


@contextlib.contextmanager
def terminal_of(shell: str, stitch: Shell) -> Iterator[int]:
    """As a person has it: installed by the program, then a new terminal."""
    (stitch.home / f".{shell}rc").write_text("PS1='ready> '\n")
    command = [shell, "-ic", "stitch --install-completion; true"]
    subprocess.run(command, env=environment_of(stitch), check=True, capture_output=True, timeout=LIMIT_S)
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 400))
    process = subprocess.Popen(
        [shell, "-i"], stdin=theirs, stdout=theirs, stderr=theirs, env=environment_of(stitch), start_new_session=True
    )
    os.close(theirs)
    try:
        shown(ours, "ready> ")
        yield ours
    finally:
        process.kill()
        process.wait()
        os.close(ours)


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_completes_at_the_first_tab(stitch: Shell, shell: str) -> None:
    with terminal_of(shell, stitch) as terminal:
        for typed, completed in (("stitch get inte", "intents "), ("--phase Act", "--phase Active ")):
            os.write(terminal, f"{typed}\t".encode())
            shown(terminal, completed)


def test_bash_completes_names_that_have_what_it_takes_for_the_end_of_a_word(stitch: Shell, api: Running) -> None:
    for kind, name in (("agreements", "shop:orders:1"), ("entries", "se1/route/vrf=1,destination=2001:db8::/64")):
        made = Resource(kind=kind, metadata={"name": name}, spec={}, status={})
        api.controller.resources[kind][name] = made
    target = f"stitch --server {stitch.server} --token-file {stitch.token}"
    with terminal_of("bash", stitch) as terminal:
        for typed, completed in (
            (f"{target} agreement end --reason 'a: b' shop:or", "shop:orders:1 "),
            (f"{target} get agreement s", "shop:orders:1 "),
            (f"{target} describe entry/se1/route/vrf=", "1,destination=2001:db8::/64 "),
        ):
            os.write(terminal, f"{typed}\t".encode())
            shown(terminal, completed)
            os.write(terminal, LINE_AWAY)


def shown(terminal: int, text: str) -> None:
    """Returns when it is there; a bell, which no completion rings, is a failure."""
    seen = ""
    deadline = time.monotonic() + LIMIT_S
    while text not in seen:
        assert select.select([terminal], [], [], max(0, deadline - time.monotonic()))[0], f"{text!r} not in {seen!r}"
        seen += os.read(terminal, 4096).decode(errors="replace")
        assert "\a" not in seen, seen


def test_fish_completes(stitch: Shell) -> None:
    environment = environment_of(stitch) | {"TERM": "xterm"}
    install = ["fish", "-c", "stitch --install-completion; true"]
    subprocess.run(install, env=environment, check=True, capture_output=True, timeout=LIMIT_S)
    asked = 'complete -C "stitch get inte"; complete -C "stitch get intents --phase Act"'
    done = subprocess.run(["fish", "-c", asked], env=environment, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.stdout.splitlines() == ["intents", "Active"], done.stderr
