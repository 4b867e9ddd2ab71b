"""`stitch` as people and scripts meet it: the real program against the real API, its output and its exit status."""

import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from northbound_fake import TOKEN, Running, running
from waiting import LIMIT_S

from controller.cli.kinds import KINDS, MANIFESTS, ROWS, plural
from controller.cli.main import hoisted
from controller.cli.render import cell
from controller.cli.trace import parse_destination
from controller.eastwest.identity import keygen
from controller.language.manifest import PLURALS
from controller.model.agreement import (
    Acceptance,
    Envelope,
    Mandate,
    Message,
    Terms,
    TunnelEnd,
    json_of,
    unsigned,
)
from controller.model.intent import Encryption
from controller.model.resource import Resource
from controller.views import resource_view
from tests.simulator import World

ROOT = Path(__file__).resolve().parent.parent
STITCH = Path(sys.executable).parent / "stitch"
INTENT = """\
apiVersion: netstitch/v1
kind: Intent
metadata: {name: order-processing, tenant: customer-x}
spec:
  isolate: {network: shop/customer-x, select: {app: order-processing}}
  allow:
    - {to: insight/analytics/analytics-y, ports: [tcp/443, icmp]}
"""


class Shell:
    """Runs `stitch` with a home of its own."""

    def __init__(self, home: Path, server: str) -> None:
        self.home, self.server = home, server
        self.token = home / "token"
        self.token.write_text(f"{TOKEN}\n")

    def environment(self) -> dict[str, str]:
        return {
            "HOME": str(self.home),
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "http_proxy": "http://127.0.0.1:1",
        }

    def bare(self, *arguments: str, stdin: str | bytes = "", status: int = 0) -> subprocess.CompletedProcess[str]:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(
            [STITCH, *arguments],
            input=data,
            capture_output=True,
            timeout=LIMIT_S,
            env=self.environment(),
            cwd=self.home,
        )
        text = subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())
        assert "Traceback" not in text.stderr, text.stderr
        assert text.returncode == status, f"exit {text.returncode}: {text.stdout}{text.stderr}"
        return text

    def __call__(self, *arguments: str, stdin: str | bytes = "", status: int = 0) -> subprocess.CompletedProcess[str]:
        return self.bare(
            "--server", self.server, "--token-file", str(self.token), *arguments, stdin=stdin, status=status
        )

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "-o", "json").stdout)


@pytest.fixture
def api() -> Iterator[Running]:
    with running() as api:
        yield api


@pytest.fixture
def stitch(tmp_path: Path, api: Running) -> Shell:
    return Shell(tmp_path, api.url)


def test_apply_waits_until_the_intent_is_active(stitch: Shell) -> None:
    done = stitch("apply", "-f", "-", "--wait", "20", stdin=INTENT)
    assert done.stdout == "intents/order-processing created\nintents/order-processing Active, path se1 sg1\n"
    assert done.stderr == "intents/order-processing Pending\nintents/order-processing Installing: waits for se1\n"
    assert stitch("apply", "-f", "-", stdin=INTENT).stdout == "intents/order-processing changed\n"


def test_an_intent_that_cannot_be_kept_is_a_no_with_its_reason(stitch: Shell) -> None:
    text = INTENT.replace("\n  allow", "\n  require: {latency_ms: {max: 0.5}}\n  allow")
    done = stitch("apply", "-f", "-", "--wait", "20", stdin=text, status=1)
    assert "intents/order-processing is Unsatisfiable: the best path takes 4 ms, not 0.5" in done.stderr
    done = stitch("apply", "-f", "-", "--wait", "0.05", stdin=INTENT, status=1)
    assert "not Active after 0.05 s" in done.stderr


def test_what_somebody_else_has_changed_is_not_written_over(stitch: Shell) -> None:
    stitch("apply", "-f", "-", stdin=INTENT)
    seen = str(stitch.json("get", "intents", "order-processing")["metadata"]["revision"])
    mine, theirs = f"{INTENT}  priority: 7\n", f"{INTENT}  priority: 8\n"
    stitch("apply", "-f", "-", "--if-match", seen, stdin=theirs)
    for late in (("apply", "-f", "-"), ("apply", "-f", "-", "--dry-run"), ("delete", "intent/order-processing")):
        done = stitch(*late, "--if-match", seen, stdin=mine, status=1)
        assert "intents/order-processing is not as it was: its revision is " in done.stderr
    assert stitch.json("get", "intents", "order-processing")["spec"]["priority"] == 8
    assert "is no revision" in stitch("delete", "intent/order-processing", "--if-match", "new", status=2).stderr
    now = str(stitch.json("get", "intents", "order-processing")["metadata"]["revision"])
    stitch("delete", "intent/order-processing", "--if-match", now)
    assert "not there any more" in stitch("apply", "-f", "-", "--if-match", "*", stdin=mine, status=1).stderr


def test_a_lease_is_renewed_by_name_and_what_cannot_be_says_why(stitch: Shell) -> None:
    stitch("apply", "-f", "-", stdin=INTENT)
    done = stitch("intent", "renew", "order-processing", status=1)
    assert done.stderr == "stitch: intent order-processing has no end: there is nothing to renew\n"
    stitch("apply", "-f", "-", stdin=INTENT.replace("\n  allow", "\n  lease: {for: 30d}\n  allow"))
    assert stitch("intent", "renew", "order-processing").stdout.startswith("intents/order-processing renewed until ")
    assert "there is no intents/nobody" in stitch("intent", "renew", "nobody", status=1).stderr
    assert "one sentence in quotes, or renew NAME" in stitch("intent", "allow", "this", status=2).stderr


def test_a_policy_that_is_wrong_is_said_with_its_place(stitch: Shell, api: Running) -> None:
    done = stitch("policy", "reload", "--dry-run")
    assert done.stdout.splitlines()[0] == "policies/shop changed (dry run)"
    api.controller.busy = True
    done = stitch("policy", "reload", status=2)
    assert done.stderr == "/etc/netstitch/policy.yaml:3:5: expected a list, found 7\n"
    assert plural("policy") == plural("policies") == "policies"


def test_waiting_outlasts_a_controller_that_goes_away(tmp_path: Path) -> None:
    """The watch ends with the server; another one comes up on its port."""
    with running() as api:
        shell = Shell(tmp_path, api.url)
        file = tmp_path / "intent.yaml"
        file.write_text(INTENT.replace("order-processing, tenant", "never-applied, tenant"))
        port = api.port
        api.controller.install = lambda data: _forever()  # type: ignore[method-assign,assignment]
        waiting = subprocess.Popen(
            [STITCH, "--server", api.url, "--token-file", str(shell.token), "apply", "-f", str(file), "--wait", "30"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=shell.environment(),
        )  # fmt: skip
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == "intents/never-applied created\n"
    assert waiting.poll() is None
    with running(port=port, before=api.controller) as again:
        shell("apply", "-f", str(file))
        assert again.port == port
        output, errors = waiting.communicate(timeout=LIMIT_S)
    assert (waiting.returncode, output) == (0, "intents/never-applied Active, path se1 sg1\n"), errors


async def _forever() -> None:
    return None


def test_a_dry_run_changes_nothing(stitch: Shell) -> None:
    assert stitch("apply", "-f", "-", "--dry-run", stdin=INTENT).stdout == (
        "intents/order-processing created (dry run)\nintents/order-processing would be Active, path se1 sg1, 4 ms\n"
    )
    told = json.loads(stitch("apply", "-f", "-", "--dry-run", "-o", "json", stdin=INTENT).stdout)
    assert told["preview"]["intents"][0]["phase"] == "Active"
    assert stitch.json("get", "intents") == []


def test_a_dry_run_of_what_cannot_be_had_says_so_and_fails(stitch: Shell) -> None:
    quick = INTENT + "  require: {latency_ms: {max: 0.5}}\n"
    for command in ("apply", "diff"):
        options = ("--dry-run",) if command == "apply" else ()
        done = stitch(command, "-f", "-", *options, stdin=quick, status=1)
        assert "would be Unsatisfiable: latency: the best way takes 4 ms" in done.stdout
        assert done.stderr == "stitch: intents/order-processing would be Unsatisfiable\n"
    sentence = "isolate shop/customer-x; require latency <= 500us"
    assert "would be Unsatisfiable" in stitch("intent", sentence, "--dry-run", status=1).stderr
    assert stitch.json("get", "intents") == []


def test_diff_is_field_by_field_and_1_where_there_is_one(stitch: Shell) -> None:
    assert "intents/order-processing created\n" in stitch("diff", "-f", "-", stdin=INTENT, status=1).stdout
    stitch("apply", "-f", "-", stdin=INTENT)
    assert stitch("diff", "-f", "-", stdin=INTENT).stdout.startswith("intents/order-processing unchanged\n")
    changed = INTENT + "  require: {latency_ms: {max: 12}}\n  priority: 7\n"
    done = stitch("diff", "-f", "-", stdin=changed, status=1)
    assert done.stdout.splitlines()[:3] == [
        "intents/order-processing changed",
        "  + spec.require.latency_ms.max: 12",
        "  + spec.priority: 7",
    ]
    assert done.stderr == "stitch: 1 of 1 resources differ\n"
    told = json.loads(stitch("diff", "-f", "-", "-o", "json", stdin=changed, status=1).stdout)
    assert told["resources"][0]["fields"][1] == {"path": "spec.priority", "after": 7}
    assert stitch("diff", "-f", "-", stdin="{", status=2).stdout == ""


def test_a_dry_run_of_a_deletion_deletes_nothing(stitch: Shell) -> None:
    stitch("apply", "-f", "-", stdin=INTENT)
    done = stitch("delete", "intent/order-processing", "--dry-run")
    assert done.stdout == "intents/order-processing deleted (dry run)\n"
    assert len(stitch.json("get", "intents")) == 1


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        (INTENT.replace("isolate:", "isolte:"), "5:3", "isolte"),
        (INTENT + "  priority: -5\n", "8:", "priority"),
        (INTENT + "---\n" + INTENT, "11:18", "already"),
        (INTENT + "  require: {latency_ms: {max: 20 parsecs}}\n", "8:", "latency"),
        (INTENT.replace("kind: Intent", "kind: Intention"), "2:", "Intent"),
        ("{", "2:1", "expected"),
        ("", "1:1", "no manifest"),
        ("[" * 1000, "1:", "nested"),
        ("x" * 17_000_000, "1:1", "too many"),
        (b"\xff" + os.urandom(10_000), "1:1", "no UTF-8"),
    ],
    ids=["field", "negative", "duplicate", "unit", "kind", "open", "empty", "deep", "17 MB", "noise"],
)
def test_bad_manifests_are_told_with_file_line_and_column(
    stitch: Shell, api: Running, text: str | bytes, place: str, message: str
) -> None:
    file = stitch.home / "intent.yaml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    done = stitch("apply", "-f", "intent.yaml", status=2)
    assert done.stderr.startswith(f"intent.yaml:{place}"), done.stderr
    assert message in done.stderr
    assert (done.stdout, api.controller.list("intents")) == ("", [])


def test_what_the_controller_refuses_is_mapped_back_to_the_line(stitch: Shell) -> None:
    files = []
    for name in ("good", "wrong"):
        files.append(stitch.home / f"{name}.yaml")
        select = f"select: {{app: {name}}}"
        files[-1].write_text(
            INTENT.replace("order-processing, t", f"{name}, t").replace("select: {app: order-processing}", select)
        )
    files[1].write_text(files[1].read_text().replace("analytics-y", "analytics-z"))
    done = stitch("apply", "-f", "good.yaml", "-f", "wrong.yaml", status=2)
    assert done.stderr == "wrong.yaml:7:12: spec.allow[0].to: unknown service 'insight/analytics/analytics-z'\n"
    assert stitch.json("get", "intents") == []
    done = stitch("apply", "-f", "good.yaml", "-f", "good.yaml", status=2)
    assert done.stderr == "good.yaml:3:18: Intent 'good' is at good.yaml:3:18 already\n"


def test_a_conflict_is_a_no(stitch: Shell) -> None:
    stitch("apply", "-f", "-", stdin=INTENT)
    done = stitch("apply", "-f", "-", stdin=INTENT.replace("order-processing, t", "other, t"), status=1)
    assert done.stderr == "stitch: intents/order-processing isolates the same already: withdraw it first\n"


def test_get_prints_tables_json_and_yaml_that_can_be_applied(stitch: Shell) -> None:
    stitch("apply", "-f", "-", "--wait", "20", stdin=INTENT)
    lines = stitch("get", "intents").stdout.splitlines()
    assert lines[0].split()[:3] == ["NAME", "TENANT", "PHASE"]
    assert lines[1].split()[:4] == ["order-processing", "customer-x", "Active", "4"]
    [listed] = stitch.json("get", "Intent")
    assert set(listed) == {"apiVersion", "kind", "metadata", "spec", "status"}
    assert stitch.json("get", "intent", "order-processing") == listed
    assert stitch.json("get", "intent/order-processing") == listed
    assert "SEGMENTS" in stitch("get", "intents", "-o", "wide").stdout
    yaml = stitch("get", "intents", "-o", "yaml").stdout
    assert stitch("apply", "-f", "-", stdin=yaml).stdout == "intents/order-processing changed\n"
    described = stitch("describe", "intent/order-processing").stdout
    assert "phase: " in described and described.startswith("intents/order-processing\n\nmetadata:\n")


def test_plain_output_has_no_colour_and_is_never_cut(stitch: Shell) -> None:
    long = "a" * 40
    select = ", ".join(f"label-{number}: {long}" for number in range(8))
    stitch("apply", "-f", "-", stdin=INTENT.replace("app: order-processing}", select + "}"))
    for output in ("table", "wide", "json", "yaml"):
        text = stitch("get", "intents", "-o", output).stdout
        assert "\x1b" not in text and "…" not in text


def test_unknown_things(stitch: Shell) -> None:
    done = stitch("get", "intents", "none", status=1)
    assert done.stderr == "stitch: there is no intents/none; `stitch get intents` lists what there is\n"
    assert "did you mean intents?" in stitch("get", "intens", status=2).stderr
    assert "KIND/NAME" in stitch("describe", "intents", status=2).stderr
    assert stitch("delete", "intent/none", status=1).stderr.startswith("stitch: there is no intents/none")
    assert "delete what?" in stitch("delete", status=2).stderr
    stitch("frobnicate", status=2)
    stitch("apply", status=2)
    assert "there is no such file" in stitch("apply", "-f", "absent.yaml", status=2).stderr


def test_delete_by_name_and_by_file(stitch: Shell) -> None:
    stitch("apply", "-f", "-", stdin=INTENT)
    done = stitch("delete", "intent/order-processing", "--wait", "5")
    assert done.stdout == "intents/order-processing deleted\n"
    stitch("apply", "-f", "-", stdin=INTENT)
    assert stitch("delete", "-f", "-", stdin=INTENT).stdout == "intents/order-processing deleted\n"
    assert stitch.json("get", "intents") == []


def test_schema_needs_no_controller(stitch: Shell) -> None:
    schema = json.loads(stitch.bare("schema", "intent").stdout)
    assert schema["properties"]["kind"] == {"const": "Intent"}
    for kind in (*MANIFESTS, *PLURALS):
        assert json.loads(stitch.bare("schema", kind).stdout)["properties"]["kind"] == {"const": PLURALS[kind]}
    assert "no schema; one of domains, networks" in stitch.bare("schema", "drops", status=2).stderr
    assert "findings" not in stitch.bare("schema", "--help").stdout


def test_watch_prints_each_change_until_it_is_stopped(stitch: Shell) -> None:
    watching = subprocess.Popen(
        [STITCH, "--server", stitch.server, "--token-file", "token", "get", "intents", "--watch", "-o", "json"],
        cwd=stitch.home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=stitch.environment(),
        # POSIX.1-2017, 2.11: what a shell starts in the background ignores it, and so do its children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    applying = threading.Timer(1.0, stitch, ["apply", "-f", "-"], {"stdin": INTENT})
    applying.start()
    assert watching.stdout is not None and watching.stderr is not None
    phases = [json.loads(watching.stdout.readline())["status"]["phase"] for _ in range(3)]
    assert phases == ["Pending", "Installing", "Active"]
    watching.send_signal(signal.SIGINT)
    assert watching.wait(10) == 130
    assert watching.stderr.read() == ""
    applying.join()
    watching.stdout.close()
    watching.stderr.close()


def test_flows_that_are_watched_are_what_passes_from_then_on(stitch: Shell, api: Running) -> None:
    watching = subprocess.Popen(
        [STITCH, "--server", stitch.server, "--token-file", "token", "flows", "--watch", "-o", "json"],
        cwd=stitch.home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=stitch.environment(),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert watching.stdout is not None and watching.stderr is not None
    api.telemetry.passed_s = round(time.time() + 3600, 3)
    rows = [json.loads(watching.stdout.readline()) for _ in range(2)]
    assert [row["packets"] for row in rows] == [5, 6]
    api.telemetry.passed_s += 1
    assert json.loads(watching.stdout.readline())["time_s"] == pytest.approx(api.telemetry.passed_s + 1, abs=0.01)
    watching.send_signal(signal.SIGINT)
    assert watching.wait(10) == 130
    assert watching.stderr.read() == ""
    watching.stdout.close()
    watching.stderr.close()


def test_flows_of_an_intent_that_is_not_there_are_a_no(stitch: Shell) -> None:
    stitch("apply", "-f", "-", stdin=INTENT)
    done = stitch("flows", "--intent", "order-procesing", status=1)
    assert (done.stdout, done.stderr) == (
        "", "stitch: there is no intents/order-procesing; did you mean order-processing?\n",
    )  # fmt: skip


def test_flows_and_drops_are_rows(stitch: Shell, api: Running) -> None:
    stitch("apply", "-f", "-", stdin=INTENT)
    api.controller.resources["nodes"]["ie1"] = Resource(kind="Node", metadata={"name": "ie1"}, spec={}, status={})
    rows = stitch.json("flows", "--intent", "order-processing")
    assert [(row["node"], row["intent"], row["packets"], row["reverse_packets"]) for row in rows] == [
        ("se1", "order-processing", 10, 8)
    ]
    assert len(stitch.json("flows")) == 2
    lost = {"node": "ie1", "reason": "port_full", "interface": "eth1", "packets": 5, "bytes": 0}
    assert stitch.json("get", "drops") == [
        lost,
        {"node": "se1", "reason": "not_permitted", "interface": "", "packets": 1, "bytes": 60},
        {"node": "se1", "reason": "isolated", "interface": "", "packets": 2, "bytes": 200},
    ]
    assert stitch.json("get", "drops", "ie1") == [lost]
    assert stitch.json("drops") == stitch.json("get", "drops")
    of_intent = {"node": "se1", "reason": "", "interface": "", "packets": 4, "bytes": 456}
    assert stitch.json("drops", "--intent", "order-processing") == [of_intent]
    assert "did you mean order-processing?" in stitch("drops", "--intent", "order-procesing", status=1).stderr
    assert "there is no nodes/ie2" in stitch("get", "drops", "ie2", status=1).stderr
    assert "no names to describe" in stitch("describe", "flows/se1", status=2).stderr
    header, line, *_ = stitch("flows").stdout.splitlines()
    assert header.split()[:4] == ["NODE", "INTENT", "PROTO", "SOURCE"]
    assert "10.1.0.11" in line


def test_doctor_says_what_is_wrong_and_what_to_do(stitch: Shell, api: Running) -> None:
    stitch("doctor")
    api.telemetry.well = False
    done = stitch("doctor", status=1)
    assert "nodes/se1" in done.stdout and "look at its log" in done.stdout
    seen = json.loads(stitch("doctor", "-o", "json", status=1).stdout)
    assert (seen["domain"], seen["ok"], [check["ok"] for check in seen["checks"]]) == (
        "shop",
        False,
        [True, True, False],
    )
    lost = json.loads(
        stitch.bare("--server", "http://127.0.0.1:1", "--token-file", "token", "doctor", "-o", "json", status=3).stdout
    )
    assert lost["checks"][0]["ok"] is False


def test_incidents_are_approved_and_rejected(stitch: Shell) -> None:
    assert stitch("incident", "approve", "1").stdout == "intents/quarantine-1 created\n"
    assert stitch("incident", "reject", "1").stdout == "incidents/1 rejected\n"
    assert "there is no incidents/7" in stitch("incident", "approve", "7", status=1).stderr
    assert stitch.json("get", "findings") == []


def test_every_kind_that_is_offered_is_served() -> None:
    world = World()
    served = {kind for kind in KINDS if kind not in ROWS}
    assert served == {*resource_view.KINDS, "events", "plugins", "tokens"}
    for kind in resource_view.KINDS:
        world.resources("shop", kind)
    assert set(MANIFESTS) == set(PLURALS)


def test_what_follows_from_others_is_not_deleted_by_hand(stitch: Shell) -> None:
    ended = "agreements are not deleted but ended: stitch agreement end NAME --reason TEXT"
    assert ended in stitch("delete", "agreement/x", status=2).stderr
    assert "tunnels are not deleted: they follow" in stitch("delete", "tunnel/x", status=2).stderr


def test_exit_status_3_where_nobody_answers(stitch: Shell) -> None:
    done = stitch.bare("--server", "http://127.0.0.1:1", "--token-file", "token", "get", "intents", status=3)
    assert done.stderr == (
        "stitch: the controller at http://127.0.0.1:1 (--server) cannot be reached: Connection refused; does it run?\n"
    )


def test_exit_status_4_where_the_token_is_wrong_or_unreadable(stitch: Shell) -> None:
    (stitch.home / "wrong").write_text("battery-staple")
    done = stitch("--token-file", "wrong", "get", "intents", status=4)
    assert "token is not this controller's" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("--server", "http://127.0.0.1:1"), 2, "--token-file"),
        (("--server", "ftp://x", "--token-file", "token"), 2, "expected http"),
        (("--server", "http://x:99999", "--token-file", "token"), 2, "expected http"),
        (("--server", "http://x", "--token-file", "absent"), 2, "absent: the token cannot be read"),
        (("--server", "http://x", "--token-file", "empty"), 2, "no token in it"),
        (("--lab", "no-such-lab-here"), 1, "no lab no-such-lab-here is up"),
        (("--lab", "NO/LAB"), 2, "cannot name a lab"),
    ],
)
def test_bad_choices_of_a_controller(stitch: Shell, arguments: tuple[str, ...], status: int, message: str) -> None:
    (stitch.home / "empty").write_text("\n")
    done = stitch.bare(*arguments, "get", "intents", status=status)
    assert message in done.stderr


def test_the_config_file_names_controllers(stitch: Shell) -> None:
    config = stitch.home / ".config/netstitch/config.yaml"
    config.parent.mkdir(parents=True)
    config.write_text(
        f"default: shop\ndomains:\n  shop: {{server: '{stitch.server}', token_file: ~/token}}\n"
        "  far: {server: 'http://127.0.0.1:1', token_file: ~/token}\n"
    )
    assert json.loads(stitch.bare("get", "intents", "-o", "json").stdout) == []
    assert "domain far in" in stitch.bare("get", "intents", "--domain", "far", status=3).stderr
    assert (
        "knows no domain none: one of shop, far" in stitch.bare("--domain", "none", "get", "intents", status=1).stderr
    )
    config.write_text("domains: {shop: {server: x}}")
    assert f"{config}: domains.shop: expected" in stitch.bare("get", "intents", status=2).stderr
    config.write_text("domains: [")
    assert f"{config}:1:" in stitch.bare("get", "intents", status=2).stderr


def test_the_program_starts_fast_and_imports_nothing_heavy(stitch: Shell) -> None:
    script = (
        "import sys; sys.argv = ['stitch', *sys.argv[1:]]\n"
        "from controller.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}), file=sys.stderr)\n"
    )
    arguments = ["--server", stitch.server, "--token-file", str(stitch.token), "get", "intents"]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=LIMIT_S
    )
    heavy = {"numpy", "grpc", "mininet", "fastapi", "uvicorn", "httpx", "rich", "ruamel", "cryptography", "topologies"}
    imported = set(done.stderr.split())
    assert "typer" in imported
    assert heavy & imported == set()
    seconds = []
    for _ in range(5):
        began = time.monotonic()
        stitch("get", "intents")
        seconds.append(time.monotonic() - began)
    print(f"{min(seconds):.2f} s; the aim is 0.5 on a quiet machine")


# ---- agreements and domains


def key_of(private: Ed25519PrivateKey) -> str:
    return base64.b64encode(private.public_key().public_bytes_raw()).decode()


@pytest.fixture
def exported(stitch: Shell, api: Running) -> dict[str, Any]:
    """What `stitch get agreement -o json` prints of an agreement; the controller has pinned both keys."""
    keys = {"shop": Ed25519PrivateKey.generate(), "transit": Ed25519PrivateKey.generate()}
    end = TunnelEnd(sid="5f00:1:2:1000::", public_key="a" * 43 + "=", endpoint="192.0.2.1:51820", inner_mtu=1312)
    id = "shop:order-processing:1"
    mandate = Mandate(
        id=id, revision=1, origin="shop", carrier="transit", flows=(), encryption=Encryption.WIREGUARD, trust_min=None,
        latency_us_max=20_000, not_before_s=1, expires_s=2,
    )  # fmt: skip
    terms = Terms(
        id=id, revision=1, offeror="shop", acceptor="transit", origin="shop", border="sg1-t1", flows=(),
        encryption=Encryption.WIREGUARD, trust_min=None, latency_us_max=20_000, visited=("shop",), not_before_s=1,
        expires_s=2, offeror_end=end, mandate=sealed(mandate, keys["shop"]),
    )  # fmt: skip
    offer = sealed(terms, keys["shop"], b', "later": {"b": 1, "a": [1.50]}}')
    accepted = Acceptance(id=id, revision=1, offer=offer.digest, acceptor_end=end, latency_us=4000)
    acceptance = sealed(accepted, keys["transit"])
    resources = api.controller.resources
    resources["agreements"][id] = Resource(
        kind="Agreement",
        metadata={"name": id},
        spec=json_of(offer),
        status={
            "offer": msgspec.to_builtins(offer),
            "acceptance": msgspec.to_builtins(acceptance),
            "mandate": json_of(terms.mandate),
            "acceptor_end": json_of(acceptance)["acceptor_end"],
            "latency_us": 4000,
        },
    )
    for name, private in keys.items():
        resources["domains"][name] = Resource(
            kind="Domain", metadata={"name": name}, spec={"key": key_of(private)}, status={}
        )
    (stitch.home / "keys").write_text("\n".join(f"{name}={key_of(private)}" for name, private in keys.items()))
    agreement: dict[str, Any] = stitch.json("get", "agreement", id)
    return agreement


def sealed(statement: Message | Mandate, key: Ed25519PrivateKey, ending: bytes = b"}") -> Envelope:
    """`ending`: with what a later release may say beside it."""
    envelope = unsigned(statement)
    envelope = msgspec.structs.replace(envelope, payload=envelope.payload[:-1] + ending)
    return msgspec.structs.replace(envelope, signature=key.sign(envelope.signed_bytes))


def test_an_exported_agreement_is_verified_against_pinned_keys(stitch: Shell, exported: dict[str, Any]) -> None:
    good = "shop:order-processing:1: signed by shop and transit, on a mandate of shop\n"
    assert exported["spec"]["later"] == {"b": 1, "a": [1.5]}, "what we do not know is shown as it was signed"
    assert stitch("agreement", "verify", "-", stdin=json.dumps(exported)).stdout == good
    assert stitch("agreement", "verify", "-", stdin=json.dumps([exported])).stdout == good
    yaml = stitch("get", "agreements", "-o", "yaml").stdout
    assert stitch("agreement", "verify", "-", stdin=yaml).stdout == good
    options = [part for line in (stitch.home / "keys").read_text().splitlines() for part in ("--key", line)]
    assert stitch.bare("agreement", "verify", "-", *options, stdin=json.dumps(exported)).stdout == good


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("spec", "expires_s"), 99, "spec shows something else than was signed"),
        (("spec", "flows"), [], ""),
        (("spec", "later", "b"), 2, "spec shows something else than was signed"),
        (("status", "latency_us"), 1, "status.latency_us shows something else"),
        (("status", "acceptor_end", "public_key"), "b" * 43 + "=", "status.acceptor_end shows something else"),
        (("status", "mandate", "expires_s"), 99, "status.mandate shows something else"),
        (("status", "offer", "signature"), "AAAA", "offer is not signed by shop"),
        (("status", "offer", "kind"), "offers", 2),
        (("status", "offer", "payload"), "e30=", 2),
        (("status", "acceptance", "signature"), "AAAA", "acceptance is not signed by transit"),
        (("status", "acceptance"), None, "one signature only, shop's"),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, tuple) else "",
)
def test_a_tampered_agreement_is_a_no_that_says_what(
    stitch: Shell, exported: dict[str, Any], path: tuple[str, ...], value: Any, message: str | int
) -> None:
    """Or is none at all: exit status 2."""
    place = exported
    for field in path[:-1]:
        place = place[field]
    unchanged = place[path[-1]] == value
    place[path[-1]] = value
    status = message if isinstance(message, int) else 0 if unchanged else 1
    done = stitch("agreement", "verify", "-", stdin=json.dumps(exported), status=status)
    assert isinstance(message, int) or message in done.stderr


def test_agreements_are_ended_by_name_with_a_reason(stitch: Shell, exported: dict[str, Any]) -> None:
    name = exported["metadata"]["name"]
    assert "--reason" in stitch("agreement", "end", name, status=2).stderr
    assert "reason" in stitch("agreement", "end", name, "--reason", "", status=2).stderr
    assert stitch("agreement", "end", name, "--reason", "maintenance").stdout == f"agreements/{name} ended\n"
    assert f"there is no agreements/{name}" in stitch("agreement", "end", name, "--reason", "x", status=1).stderr


def test_signatures_that_do_not_belong_together_are_a_no(stitch: Shell, exported: dict[str, Any]) -> None:
    keys = dict(line.split("=", 1) for line in (stitch.home / "keys").read_text().splitlines())
    options = [part for name, key in keys.items() for part in ("--key", f"{name}={key}")]
    stranger = Ed25519PrivateKey.generate()
    offer = msgspec.convert(exported["status"]["offer"], Envelope)
    said = json_of(offer)
    said["mandate"]["signature"] = base64.b64encode(stranger.sign(b"x")).decode()
    unlike = msgspec.structs.replace(offer, payload=msgspec.json.encode(said))
    exported |= {"spec": said, "status": exported["status"] | {"offer": msgspec.to_builtins(unlike)}}
    done = stitch("agreement", "verify", "-", *options, stdin=json.dumps(exported), status=1)
    for reason in (
        "offer is not signed by shop",
        "mandate is not signed by shop",
        "transit has accepted another offer",
    ):
        assert reason in done.stderr


def test_no_agreement_no_key_no_name(stitch: Shell, exported: dict[str, Any]) -> None:
    renamed = json.dumps(exported | {"metadata": {"name": "other"}})
    assert "its terms are those of" in stitch("agreement", "verify", "-", stdin=renamed, status=1).stderr
    for text in ("{}", "[]", "[1]", "x: [", json.dumps(exported | {"status": {}}), os.urandom(100)):
        stitch("agreement", "verify", "-", stdin=text, status=2)
    assert (
        "expected DOMAIN=KEY"
        in stitch("agreement", "verify", "-", "--key", "shop=x", stdin=json.dumps(exported), status=2).stderr
    )
    other = f"shop={key_of(Ed25519PrivateKey.generate())}"
    done = stitch("agreement", "verify", "-", "--key", other, stdin=json.dumps(exported), status=1)
    assert "offer is not signed by shop" in done.stderr, "a key that was given goes before the controller's"


def test_domain_add_pins_a_key(stitch: Shell) -> None:
    far = keygen("far", stitch.home / "far")
    key = far.public_key
    options = ("--key", key, "--endpoint", "127.0.0.1:7009")
    done = stitch("domain", "add", "far", *options, status=2)
    assert done.stderr == "stitch: domain far is not known yet: --certificate and --sid-block needed too\n"
    (stitch.home / "far.pem").write_text("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")
    whole = (*options, "--certificate", "far.pem", "--sid-block", "5f00:9::/32")
    assert "is no self-signed certificate in PEM" in stitch("domain", "add", "far", *whole, status=2).stderr
    (stitch.home / "far.pem").write_text(keygen("far", stitch.home / "new").root_certificate)
    assert "do not belong together" in stitch("domain", "add", "far", *whole, status=2).stderr
    (stitch.home / "far.pem").write_text(far.root_certificate)
    stitch("domain", "add", "far", *whole)
    assert stitch.json("get", "domain", "far")["spec"]["key"] == key
    stitch("domain", "add", "far", "--key", key, "--endpoint", "127.0.0.1:7010")
    spec = stitch.json("get", "domain", "far")["spec"]
    assert (spec["endpoint"], spec["sid_block"]) == ("127.0.0.1:7010", "5f00:9::/32")
    other = key_of(Ed25519PrivateKey.generate())
    stitch("domain", "add", "moon", "--key", other)
    assert stitch.json("get", "domain", "moon")["spec"] == {"key": other}, "an origin that we do not talk to"
    assert "key" in stitch("domain", "add", "far", "--key", "x", "--endpoint", "127.0.0.1:7010", status=2).stderr


# ---- parts


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["get", "intents", "--domain", "x"], ["--domain", "x", "get", "intents"]),
        (["get", "--server=u", "intents", "-o", "json"], ["--server=u", "get", "intents", "-o", "json"]),
        (["--lab", "a", "flows", "--domain"], ["--lab", "a", "--domain", "flows"]),
        (["lab", "exec", "--lab", "a", "cx1", "--", "x", "--domain", "y"],) * 2,
        (["--lab", "lab", "lab", "down"],) * 2,
        (["get", "--", "--domain", "x"],) * 2,
    ],
)
def test_global_options_may_stand_behind_the_command(given: list[str], expected: list[str]) -> None:
    assert hoisted(given) == expected


def test_each_kind_has_a_singular() -> None:
    assert plural("entry") == plural("ENTRIES") == "entries"
    assert plural("policy") == plural("POLICIES") == "policies"
    regular = [kind for kind in KINDS if not kind.endswith("ies")]
    assert [plural(kind.removesuffix("s")) for kind in regular] == regular


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"), ([], "-"), (True, "yes"), (4.0, "4"), ("a\nb\x1b[31m", r"a b\u001b[31m"), (["a", "b"], "a b"),
        ({"a": 1, "b": None}, "a=1"), ([{"name": "cx1", "port": 2}, {"name": "cx2"}], "cx1; cx2"), 
        ({"type": "Ready", "message": "no"}, "Ready: no"), ({}, "-"), ("", "-"), (0, "0"),
    ],
)  # fmt: skip
def test_cells_are_one_printable_line(value: Any, text: str) -> None:
    assert cell(value) == text


def test_explain_prints_a_tree_or_json(stitch: Shell) -> None:
    stitch("apply", "-f", "-", stdin=INTENT)
    text = "intents/order-processing: Active\n└─ clause: allow insight/analytics/analytics-y\n"
    assert stitch("explain", "intent/order-processing").stdout == text
    assert stitch.json("explain", "intents/order-processing")["children"][0]["kind"] == "clause"
    assert "there is no intents/nothing" in stitch("explain", "intent/nothing", status=1).stderr
    assert (
        "there is no entries/se1/steer/forwarding_class=17"
        in stitch("explain", "entries/se1/steer/forwarding_class=17", status=1).stderr
    )
    assert "nodes are not explained" in stitch("explain", "nodes/se1", status=2).stderr
    assert "expected KIND/NAME" in stitch("explain", "intents", status=2).stderr


def test_a_trace_goes_on_in_the_domains_that_can_be_asked(stitch: Shell, api: Running) -> None:
    config = stitch.home / ".config" / "netstitch"
    config.mkdir(parents=True)
    domain = f"{{server: '{api.url}', token_file: {stitch.token}}}"
    (config / "config.yaml").write_text(f"default: shop\ndomains:\n  shop: {domain}\n  transit: {domain}\n")
    assert stitch.bare("trace", "cx1", "analytics-y:443/tcp").stdout == (
        "tcp to analytics-y port 443\n"
        "shop se1, from host cx1: into the tunnel of sg1-t1\n"
        "   se1/flow_policy/policy_class=1,priority=4: permit forwarding_class=16 (intents/order-processing)\n"
        "   encapsulated, segments 5f00::1, sent as 5f00::1\n"
        "transit t1, from border sg1-t1: delivered to ay1\n"
        "delivered to ay1, at t1 port 2\n"
    )
    (config / "config.yaml").write_text(f"default: shop\ndomains:\n  shop: {domain}\n")
    alone = stitch.bare("trace", "cx1", "analytics-y").stdout
    assert "left at se1; domain transit cannot be asked: " in alone
    assert "knows no domain transit" in alone


def test_a_trace_that_ends_in_a_drop_is_a_no(stitch: Shell) -> None:
    done = stitch("trace", "cx2", "cx1", "-o", "json", status=1)
    assert json.loads(done.stdout)["owner"] == "intents/order-processing"
    assert "dropped at se1: isolated, says intents/order-processing" in done.stderr
    assert "no host of domain shop is cx9" in stitch("trace", "cx9", "cx1", status=1).stderr


@pytest.mark.parametrize("text", ["cx1:0", "cx1:70000", "cx1:443/sctp", "cx1:80/icmp", "cx1:http", ":443"])
def test_where_a_trace_goes_must_be_readable(stitch: Shell, text: str) -> None:
    assert text in stitch("trace", "cx1", text, status=2).stderr


def test_ways_to_say_where_a_trace_goes() -> None:
    assert parse_destination("analytics-y") == {"destination": "analytics-y"}
    assert parse_destination("2001:db8::1") == {"destination": "2001:db8::1"}
    assert parse_destination("[2001:db8::1]:53/udp") == {"destination": "2001:db8::1", "port": 53, "protocol": "udp"}
    assert parse_destination("a/b/c:443") == {"destination": "a/b/c", "port": 443, "protocol": "tcp"}
    assert parse_destination("10.2.0.10:icmp") == {"destination": "10.2.0.10", "port": 0, "protocol": "icmp"}


def test_the_graph_is_exported_in_the_form_that_is_asked_for(stitch: Shell) -> None:
    known = json.loads(stitch("graph", "export").stdout)
    assert (known["multigraph"], known["graph"]["domain"]) == (True, "shop")
    assert stitch("graph", "export", "--format", "dot").stdout.startswith('graph "shop" {')
    assert "<graphml" in stitch("graph", "export", "--format", "graphml").stdout
    assert "'svg' is not one of" in stitch("graph", "export", "--format", "svg", status=2).stderr
