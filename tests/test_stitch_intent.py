"""`stitch intent`: sentences and English, as people and scripts meet them."""

import os
import pty
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from northbound_fake import Running, running
from waiting import LIMIT_S

from tests.simulator import World
from tests.test_cli import INTENT, STITCH, Shell

SEED = "all traffic related to customer-x order-processing must be isolated but requires access to analytics-y"
CANONICAL = "isolate shop/customer-x app=order-processing; allow insight/analytics/analytics-y"


@pytest.fixture
def api() -> Iterator[Running]:
    with running() as api:
        yield api


@pytest.fixture
def stitch(tmp_path: Path, api: Running) -> Shell:
    shell = Shell(tmp_path, api.url)
    shell("apply", "-f", "-", stdin=World().inventories["shop"])
    return shell


def test_a_sentence_becomes_an_intent_named_after_what_it_isolates(stitch: Shell) -> None:
    done = stitch("intent", f"{CANONICAL} tcp/443; require latency <= 20ms; for 30d", "--wait", "20")
    assert done.stdout.startswith("intents/order-processing created\nintents/order-processing Active")
    manifest = stitch.json("get", "intents", "order-processing")
    assert manifest["metadata"] | {"revision": 0} == {"name": "order-processing", "tenant": "customer-x", "revision": 0}
    assert manifest["spec"]["require"] == {"latency_ms": {"max": 20}}


def test_name_and_tenant_can_be_given(stitch: Shell) -> None:
    stitch("intent", CANONICAL, "--name", "mine", "--tenant", "somebody")
    assert stitch.json("get", "intents", "mine")["metadata"]["tenant"] == "somebody"
    allow = "allow insight/analytics/analytics-y from shop/customer-z"
    assert stitch("intent", allow).stdout == "intents/customer-z-to-analytics-y created\n"


SHARED = """\
apiVersion: netstitch/v1
kind: Network
metadata: {name: shop/shared}
spec: {prefixes: [10.9.0.0/24], tenants: [acme, zeta]}
"""


def bearer(stitch: Shell, name: str, *tenants: str) -> str:
    """The file with the secret of a new operator's token."""
    file = str(stitch.home / name)
    options = [word for tenant in tenants for word in ("--tenant", tenant)]
    stitch("token", "create", name, "--role", "operator", *options, "--out", file)
    return file


def test_whose_an_intent_is_follows_from_the_token_else_from_the_network(stitch: Shell) -> None:
    stitch("apply", "-f", "-", stdin=SHARED)
    single, both = bearer(stitch, "one", "acme"), bearer(stitch, "both", "acme", "customer-x")
    shared = "allow insight/analytics/analytics-y from shop/shared"
    owned = "allow insight/analytics/analytics-y from shop/customer-x"
    cases = {(single, shared): "acme", (single, owned): "acme", (both, shared): "acme", (both, owned): "customer-x"}
    for n, ((token, sentence), tenant) in enumerate(cases.items()):
        stitch("--token-file", token, "intent", sentence, "--name", f"made-{n}")
        assert stitch.json("get", "intents", f"made-{n}")["metadata"]["tenant"] == tenant
    stitch("intent", owned, "--name", "admins")
    assert stitch.json("get", "intents", "admins")["metadata"]["tenant"] == "customer-x", "whose the network is"
    refused = stitch("intent", shared, status=2)
    assert "for which tenant? The token acts for all: acme, zeta; say it with --tenant" in refused.stderr
    several = "allow insight/analytics/analytics-y from shop/customer-z"
    refused = stitch("--token-file", both, "intent", several, status=2)
    assert "The token acts for several: acme, customer-x" in refused.stderr


def test_a_manifest_may_leave_the_tenant_out_where_there_is_one_choice(stitch: Shell) -> None:
    stitch("apply", "-f", "-", stdin=SHARED)
    single, both = bearer(stitch, "one", "acme"), bearer(stitch, "both", "acme", "zeta")
    bare = INTENT.replace(", tenant: customer-x", "")
    stitch("apply", "-f", "-", stdin=bare)
    assert stitch.json("get", "intents", "order-processing")["metadata"]["tenant"] == "customer-x"
    stitch("delete", "intent/order-processing")
    stitch("--token-file", single, "apply", "-f", "-", stdin=bare.replace("order-processing}\n", "mine}\n", 1))
    assert stitch.json("get", "intents", "mine")["metadata"]["tenant"] == "acme"
    refused = stitch("--token-file", both, "apply", "-f", "-", stdin=bare, status=2)
    assert "<stdin>:3:11: metadata.tenant: is missing: for which tenant? The token acts for several: acme, zeta" in refused.stderr  # fmt: skip # noqa: E501
    shared = bare.replace("shop/customer-x", "shop/shared")
    assert "The token acts for all: acme, zeta" in stitch("diff", "-f", "-", stdin=shared, status=2).stderr


def test_the_seed_sentence_is_shown_and_needs_a_yes(stitch: Shell) -> None:
    done = stitch("intent", SEED, status=2)
    assert done.stdout == f"{CANONICAL}\n" and "say --yes" in done.stderr
    assert stitch.json("get", "intents") == []
    done = stitch("intent", SEED, "--yes")
    assert done.stdout == f"understood as: {CANONICAL}\nintents/order-processing created\n"
    assert stitch.json("get", "intents", "order-processing")["spec"]["allow"] == [
        {"to": "insight/analytics/analytics-y"}
    ]


@pytest.mark.parametrize(("said", "status", "count"), [("y\n", 0, 1), ("n\n", 1, 0), ("\n", 1, 0)])
def test_on_a_terminal_it_asks(stitch: Shell, said: str, status: int, count: int) -> None:
    ours, theirs = pty.openpty()
    arguments = [STITCH, "--server", stitch.server, "--token-file", str(stitch.token), "intent", SEED]
    process = subprocess.Popen(
        arguments, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=stitch.environment()
    )
    os.write(ours, said.encode())
    out, err = process.communicate(timeout=LIMIT_S)
    os.close(ours)
    os.close(theirs)
    assert process.returncode == status
    assert CANONICAL in out.decode() and "Is this what is meant?" in err.decode()
    assert len(stitch.json("get", "intents")) == count


def test_a_dry_run_prints_the_other_forms(stitch: Shell) -> None:
    text = f"{CANONICAL}; for 720h"
    yaml = stitch("intent", text, "--dry-run", "-o", "yaml").stdout
    assert stitch("apply", "-f", "-", "--dry-run", stdin=yaml).stdout.startswith("intents/order-processing created (d")
    sentence = stitch("intent", text, "--dry-run", "-o", "sentence").stdout
    assert sentence == f"{CANONICAL}; on violation degrade; priority 100; for 30d\n"
    assert stitch.json("intent", text, "--dry-run")["spec"]["lease"] == {"for": "30d"}
    assert stitch.json("get", "intents") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("isolate shop/customer-x; require latncy <= 2ms", "sentence:1:34: 'latncy' is not expected here"),
        ("isolate shop/customer-x; allow x", "sentence:1:32: 'x' is no such name"),
        ("customer-x order-processing needs access to analytics-x", "sentence:1:45: unknown service or network"),
        ("customer-x order-processing needs access to analytics-x", "did you mean 'analytics-y'?"),
        ("customer-x websrv must be isolated", "sentence:1:12: unknown label of shop/customer-x 'websrv'"),
        ("make it so", "nor is it English that is understood; docs/language.md has both"),
        ("isolate shop/customer-x; for 1d", ""),
    ],
)
def test_what_is_wrong_is_pointed_at_and_nothing_is_stored(stitch: Shell, text: str, message: str) -> None:
    status = 2 if message else 0
    done = stitch("intent", text, "--dry-run", status=status)
    assert message in done.stderr
    assert stitch.json("get", "intents") == []


def test_a_name_that_was_not_given_replaces_nothing(stitch: Shell) -> None:
    stitch("intent", CANONICAL)
    done = stitch("intent", f"{CANONICAL}; priority 7", status=1)
    assert "intents/order-processing is there already and says something else" in done.stderr
    stitch("intent", f"{CANONICAL}; priority 7", "--name", "order-processing")
    assert stitch.json("get", "intents", "order-processing")["spec"]["priority"] == 7


def test_only_intents_are_sentences(stitch: Shell) -> None:
    assert "only intents are written as sentences" in stitch("get", "networks", "-o", "sentence", status=2).stderr


def test_nobody_there_is_status_3(stitch: Shell) -> None:
    assert "cannot be reached" in stitch.bare("--server", "http://127.0.0.1:1", "--token-file", str(stitch.token), "intent", CANONICAL, status=3).stderr  # fmt: skip # noqa: E501
