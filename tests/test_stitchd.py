"""stitchd as a process: three of them with real stores, keys and TLS, over nodes with tables in memory."""

import asyncio
import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from federation import INTENT, Controller, Federation, intent, small_intent
from ruamel.yaml import YAML
from waiting import LIMIT_S, until

from controller.eastwest.client import PeerChannel
from controller.eastwest.identity import keygen, load
from controller.eastwest.peer import Peer, greeting
from controller.fulfillment.negotiate import sealed
from controller.model.agreement import Envelope, Terms, opened, opened_mandate

KILLS = int(os.environ.get("NETSTITCH_KILLS", "14"))
CONTROLLERS = 2
"""That are killed side by side."""


@pytest.fixture
def directory() -> Iterator[Path]:
    """Short: the path of a socket has at most 107 characters."""
    path = Path(tempfile.mkdtemp(prefix="stitchd-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
async def federation(directory: Path) -> AsyncIterator[Federation]:
    federation = Federation(directory)
    try:
        await federation.start()
        await federation.settled()
        yield federation
    finally:
        await federation.stop()


async def active(controller: Controller, name: str = "order-processing") -> bool:
    phase, _ = await controller.phase(name)
    assert phase not in ("Unsatisfiable", "Refused"), await controller.phase(name)
    return phase == "Active"


async def test_an_intent_becomes_active_across_three_domains_and_leaves_nothing(federation: Federation) -> None:
    shop, transit, insight = (federation.controllers[name] for name in ("shop", "transit", "insight"))
    before = federation.entries()
    assert not any(federation.tunnels().values())
    manifest = json.loads(json.dumps(YAML(typ="safe").load(INTENT.read_text())))
    began = time.monotonic()
    response = await shop.apply(manifest)
    assert response.status_code == 200, response.text
    answered_s = time.monotonic() - began
    await until(lambda: active(shop), "Active")
    active_s = time.monotonic() - began
    print(f"answered {answered_s:.3f} s, active {active_s:.3f} s")
    assert {name: count for name, count in federation.tunnels().items() if count} == {
        "sg1": 1,
        "t1": 1,
        "t2": 1,
        "ig1": 1,
    }
    for controller in (shop, transit, insight):
        agreements = await controller.get("agreements")
        assert len(agreements) == (2 if controller is transit else 1), agreements
    assert federation.entries() != before
    began = time.monotonic()
    response = await shop.request("DELETE", "intents/order-processing")
    assert response.status_code == 200, response.text
    await until(lambda: federation.entries() == before and not any(federation.tunnels().values()), "nothing left")
    print(f"withdrawn {time.monotonic() - began:.3f} s")
    for controller in (shop, transit, insight):
        assert await controller.get("agreements") == {}


async def test_a_controller_that_is_killed_comes_back_and_writes_nothing(federation: Federation) -> None:
    shop = federation.controllers["shop"]
    assert (await shop.apply(intent())).status_code == 200
    await until(lambda: active(shop), "Active")
    await federation.settled()
    present = federation.entries()
    for node in federation.nodes.values():
        node.writes = 0
    for domain, controller in federation.controllers.items():
        nodes = {name for name, of in federation.domain_of.items() if of == domain}
        before = len(controller.logged("node_synced"))
        await controller.kill()
        assert federation.entries() == present
        took_s = await controller.start()
        assert controller.resident_mb < 300
        print(f"{controller.domain}: serving after {took_s:.2f} s with {controller.resident_mb:.0f} MB")
        await until(
            lambda: {line["node"] for line in controller.logged("node_synced")[before:]} == nodes,  # noqa: B023
            f"{domain} has compared all its nodes",
        )
    await until(lambda: active(shop), "Active again")
    assert federation.entries() == present
    assert federation.writes() == 0


async def test_tampering_is_repaired_and_named(federation: Federation) -> None:
    shop = federation.controllers["shop"]
    assert (await shop.apply(intent())).status_code == 200
    await until(lambda: active(shop), "Active")
    await federation.settled()
    present = federation.entries()
    chance = random.Random(5)
    for node in federation.nodes.values():
        keys = sorted(node.maps["flow_policy"].data) + sorted(node.maps["route"].data)
        for key in chance.sample(keys, max(1, len(keys) // 10)):
            table = "flow_policy" if key in node.maps["flow_policy"].data else "route"
            del node.maps[table].data[key]
    began = time.monotonic()
    assert federation.entries() != present
    await until(lambda: federation.entries() == present, "repaired")
    print(f"repaired after {time.monotonic() - began:.2f} s")
    logged = [line for each in federation.controllers.values() for line in each.logged("deviation_repaired")]
    assert {line["what"] for line in logged} >= {"missing"}
    assert all(line["owner"] for line in logged if line["what"] == "missing")


async def test_an_unreachable_node_holds_up_nothing_else_and_converges_when_it_is_back(
    federation: Federation,
) -> None:
    shop = federation.controllers["shop"]
    await federation.nodes["ie1"].stop()
    assert (await shop.apply(intent())).status_code == 200

    async def installing() -> bool:
        return (await shop.phase("order-processing"))[0] in ("Installing", "Negotiating")

    await until(lambda: federation.tunnels()["ig1"], "the other node there has its part")
    assert await installing()
    await federation.nodes["ie1"].start()
    await until(lambda: active(shop), "Active")


async def test_without_the_token_there_is_no_access_and_no_secret_is_logged(federation: Federation) -> None:
    shop = federation.controllers["shop"]
    assert stat.S_IMODE(shop.token_file.stat().st_mode) == 0o600
    assert (await shop.client.get(f"http://{shop.listen}/v1/intents")).status_code == 401
    assert (await shop.apply(intent())).status_code == 200
    await until(lambda: active(shop), "Active")
    token = shop.token_file.read_text().strip()
    assert len(token) >= 32
    assert token not in shop.log.read_text()
    assert "PRIVATE" not in shop.log.read_text()
    assert await shop.kill(signal.SIGTERM) == 0
    assert shop.logged("stopped")
    assert "Traceback" not in shop.log.read_text()
    assert shop.logged("serving")


async def test_a_controller_says_the_key_that_verifies_what_it_signs(federation: Federation) -> None:
    shop, transit = federation.controllers["shop"], federation.controllers["transit"]
    own, pinned = (await shop.get("domains"))["shop"], (await transit.get("domains"))["shop"]
    assert own["spec"]["key"] == pinned["spec"]["key"]
    assert own["spec"]["certificate"] == pinned["spec"]["certificate"]


async def test_two_controllers_do_not_share_a_store(federation: Federation) -> None:
    shop = federation.controllers["shop"]
    command = (sys.executable, "-m", "controller", "--config", str(shop.config))
    second = await asyncio.create_subprocess_exec(*command, stderr=subprocess.PIPE)
    _, errors = await asyncio.wait_for(second.communicate(), LIMIT_S)
    assert second.returncode == 1
    assert "store" in errors.decode()


async def test_sigterm_leaves_the_nodes_as_they_are(federation: Federation) -> None:
    shop = federation.controllers["shop"]
    assert (await shop.apply(intent())).status_code == 200
    await until(lambda: active(shop), "Active")
    await federation.settled()
    present = federation.entries()
    assert await shop.kill(signal.SIGTERM) == 0
    assert federation.entries() == present


async def test_acknowledged_intents_survive_kills_at_any_moment(directory: Path) -> None:
    """Each controller alone: what was answered is there after each restart, whatever the moment of the kill."""
    answered = await asyncio.gather(*(_kill_again_and_again(directory / str(n), n) for n in range(CONTROLLERS)))
    assert sum(answered) > KILLS
    print(f"{KILLS} kills, {sum(answered)} answered changes")


async def _kill_again_and_again(directory: Path, seed: int) -> int:
    """Number of changes that were answered."""
    federation = Federation(directory)
    shop = federation.controllers["shop"]
    chance = random.Random(seed)
    there: set[str] = set()
    unsure: set[str] = set()
    """Asked to come or go, and not answered."""
    serial = answered = 0
    try:
        for _ in range(KILLS // CONTROLLERS):
            if chance.random() < 0.2:
                await shop.spawn()
                await _kill_at(shop, time.monotonic() + chance.uniform(0, 1.0))
                continue
            await shop.start()
            assert set(await shop.get("links")) == {"se1-sg1", "sg1-ig1", "sg1-t1"}, "half an inventory"
            present = set(await shop.get("intents"))
            assert there - unsure <= present <= there | unsure
            there, unsure = present, set()
            killing: asyncio.Future[None] | None = None
            last = answered + chance.randrange(6)
            while killing is None or not killing.done():
                if killing is None and answered == last:
                    killing = asyncio.ensure_future(_kill_at(shop, time.monotonic() + chance.uniform(0, 0.02)))
                serial += 1
                remove = len(there) > 20 or (bool(there) and chance.random() < 0.3)
                name = chance.choice(sorted(there)) if remove else f"orders-{serial}"
                unsure.add(name)
                try:
                    if remove:
                        response = await shop.request("DELETE", f"intents/{name}")
                    else:
                        response = await shop.apply(small_intent(name))
                except (httpx.HTTPError, RuntimeError):  # killed meanwhile; RuntimeError: the client was closed
                    break
                assert response.status_code == 200, response.text
                (there.discard if remove else there.add)(name)
                unsure.discard(name)
                answered += 1
            assert killing is not None
            await killing
        return answered
    finally:
        await federation.stop()


async def _kill_at(controller: Controller, moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - time.monotonic()))
    await controller.kill()


async def test_what_was_changed_after_the_seed_lasts(directory: Path) -> None:
    """A pinned key, a network that is gone, a label: the file that seeded the store does not bring them back."""
    federation = Federation(directory)
    shop = federation.controllers["shop"]
    file = directory / "shop" / "inventory.yaml"
    try:
        await shop.start()
        seeded = await shop.get("networks")
        assert seeded["shop/customer-x"]["status"]["applied"] == {
            "by": "seed",
            "file": str(file),
            "at_s": seeded["shop/customer-z"]["status"]["applied"]["at_s"],
        }
        before = (await shop.get("domains"))["transit"]
        pinned = before["spec"] | key_and_certificate("transit", directory / "made anew")
        labelled = seeded["shop/customer-x"]
        labelled["spec"]["attachments"][0]["labels"]["app"] = "changed"
        assert (await shop.apply({**before, "spec": pinned}, labelled)).status_code == 200
        assert (await shop.request("DELETE", "networks/shop/customer-z")).status_code == 200
        own = (await shop.get("domains"))["shop"]
        await shop.kill()
        await shop.start()
        networks, domains = await shop.get("networks"), await shop.get("domains")
        assert domains["transit"]["spec"] == pinned
        assert domains["transit"]["status"]["applied"]["by"] == "bootstrap"
        assert "shop/customer-z" not in networks
        assert networks["shop/customer-x"]["spec"] == labelled["spec"]
        assert domains["shop"]["spec"] == own["spec"]
        (line,) = shop.logged("inventory_differs")
        assert line["names"] == "domains/transit is other, networks/shop/customer-x is other, " + (
            "networks/shop/customer-z is not there"
        )
        assert pinned["key"] not in json.dumps(line)
        assert f"stitch apply -f {file}" in line["advice"]

        file.write_text("kind: Nod\n")
        await shop.kill()
        await shop.start()
        assert set(await shop.get("networks")) == set(networks)
        assert "inventory.yaml:1:" in shop.logged("inventory_unreadable")[0]["reason"]
    finally:
        await federation.stop()


async def test_a_seed_that_is_refused_leaves_a_new_store(directory: Path) -> None:
    """A fault that shows only when all of it is put together, after much of it was right."""
    federation = Federation(directory)
    shop = federation.controllers["shop"]
    file = directory / "shop" / "inventory.yaml"
    right = file.read_text()
    file.write_text(right.replace("node: se1", "node: nobody"))
    try:
        await shop.spawn()
        assert shop.process is not None
        assert await asyncio.wait_for(shop.process.wait(), LIMIT_S) == 2
        assert f"{file}:" in shop.log.read_text() and "unknown node nobody" in shop.log.read_text()
        file.write_text(right)
        await shop.start()
        assert {"shop/customer-x", "shop/customer-z"} <= set(await shop.get("networks"))
        assert set(await shop.get("links")) == {"se1-sg1", "sg1-ig1", "sg1-t1"}
    finally:
        await federation.stop()


async def test_new_key_files_are_told_and_used(directory: Path) -> None:
    federation = Federation(directory)
    shop = federation.controllers["shop"]
    try:
        await shop.start()
        old = (await shop.get("domains"))["shop"]
        manifest = {**old, "spec": {name: value for name, value in old["spec"].items() if name != "key"}}
        del manifest["spec"]["certificate"]
        response = await shop.apply(manifest)
        assert response.json() == {"results": ["domains/shop unchanged"]}, "its own key is known"
        other = key_and_certificate("shop", directory / "made anew")
        response = await shop.apply({**old, "spec": old["spec"] | other})
        assert response.status_code == 400 and "key directory" in response.text
        await shop.kill()
        shutil.rmtree(directory / "shop" / "keys")
        made = keygen("shop", directory / "shop" / "keys")
        await shop.start()
        new = (await shop.get("domains"))["shop"]
        assert new["spec"]["key"] == made.public_key != old["spec"]["key"]
        assert new["status"]["applied"]["by"] == "key files"
        (line,) = shop.logged("own_key_changed")
        assert "neighbours refuse this domain until" in line["advice"]
    finally:
        await federation.stop()


async def test_the_policy_is_read_again_on_demand_and_what_it_forbids_ends(federation: Federation) -> None:
    shop, transit = federation.controllers["shop"], federation.controllers["transit"]
    file = transit.config.with_name("policy.yaml")
    allowed = file.read_text()
    assert (await shop.apply(intent())).status_code == 200
    await until(lambda: active(shop), "Active")
    (shown,) = (await transit.get("policies")).values()
    assert shown["status"]["loaded"] == {"by": "start", "file": str(file), "at_s": shown["status"]["loaded"]["at_s"]}

    file.write_text("transit:\n  - {from: shop, to: insight, max_lease_s: soon}\n")
    response = await transit.request("POST", "policy/reload")
    assert response.status_code == 400
    assert response.json()["error"].startswith(f"{file}:2:44: "), response.text
    assert transit.process is not None
    transit.process.send_signal(signal.SIGHUP)
    lines = await until(lambda: transit.logged("policy_not_loaded")[1:], "SIGHUP is answered in the log")
    assert lines[0]["by"] == "SIGHUP" and f"{file}:2:44: " in lines[0]["reason"]
    assert (await transit.get("policies"))["transit"]["status"] == shown["status"]
    assert await active(shop) and await transit.get("agreements")

    file.write_text("transit: []\n")
    response = await transit.request("POST", "policy/reload?dry_run=true")
    assert [line.split(" ends: ")[-1] for line in response.json()["results"]] == [
        "policies/transit changed",
        "no rule of transit carries traffic from shop to insight",
    ]
    assert await active(shop) and await transit.get("agreements")
    transit.process.send_signal(signal.SIGHUP)
    await until(lambda: not any(federation.tunnels().values()), "nothing is carried")
    assert (await transit.get("policies"))["transit"]["spec"]["transit"] == []

    file.write_text(allowed)
    assert (await transit.request("POST", "policy/reload")).status_code == 200
    assert (await shop.request("DELETE", "intents/order-processing")).status_code == 200
    assert (await shop.apply(intent())).status_code == 200  # it is not waited for the next try
    await until(lambda: active(shop), "Active again")
    await transit.kill()
    file.write_text("transit: []\n")
    await transit.start()
    await until(lambda: not any(federation.tunnels().values()), "nothing is carried after a start with less")


def key_and_certificate(domain: str, key_dir: Path) -> dict[str, str]:
    made = keygen(domain, key_dir)
    return {"key": made.public_key, "certificate": made.root_certificate}


def reconfigure(own: Path, **fields: object) -> None:
    file = own / "stitchd.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def stitch(shop: Controller, *arguments: str, token: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).parent / "stitch", "--token-file", str(token or shop.token_file), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)


def fingerprint(config: Path) -> str:
    command = (sys.executable, "-m", "controller", "fingerprint", "--config", str(config))
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=LIMIT_S).stdout.strip()


async def test_over_tls_a_tenant_s_token_is_enough_and_outlasts_a_restart(directory: Path) -> None:
    federation = Federation(directory)
    shop = federation.controllers["shop"]
    port = shop.listen.rpartition(":")[2]
    reconfigure(directory / "shop", listen=f"0.0.0.0:{port}", tls={})
    pin = fingerprint(shop.config)
    server = ("--server", f"https://127.0.0.1:{port}", "--fingerprint", pin)
    secret, manifest = directory / "ops", directory / "intent.json"
    try:
        await shop.spawn()
        await until(lambda: shop.logged("serving"), "serving")
        assert shop.logged("serving")[0]["fingerprint"] == pin
        options = ("--role", "operator", "--tenant", "customer-x", "--expires", "90d", "--out", str(secret))
        assert stitch(shop, *server, "token", "create", "ops", *options).returncode == 0
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
        manifest.write_text(json.dumps([intent()]))
        done = stitch(shop, *server, "apply", "-f", str(manifest), token=secret)
        assert done.stdout == "intents/order-processing created\n", done.stderr
        manifest.write_text(json.dumps([intent("other") | {"metadata": {"name": "other", "tenant": "customer-z"}}]))
        done = stitch(shop, *server, "apply", "-f", str(manifest), token=secret)
        assert done.returncode == 4 and "may act for customer-x, not for customer-z" in done.stderr
        await shop.kill()
        await shop.spawn()
        await until(lambda: len(shop.logged("serving")) == 2, "serving again")
        done = stitch(shop, *server, "get", "intents", "-o", "json", token=secret)
        assert [shown["metadata"]["name"] for shown in json.loads(done.stdout)] == ["order-processing"], done.stderr
        assert stitch(shop, *server, "token", "revoke", "ops").stdout == "tokens/ops revoked\n"
        assert stitch(shop, *server, "get", "intents", token=secret).returncode == 4
        assert secret.read_text().strip() not in shop.log.read_text()
    finally:
        await federation.stop()


async def test_a_unix_socket_is_served_too_and_again_after_a_kill(directory: Path) -> None:
    federation = Federation(directory)
    shop = federation.controllers["shop"]
    reconfigure(directory / "shop", listen=f"unix:{directory}/api.sock")
    try:
        for starts in (1, 2):
            await shop.spawn()
            await until(lambda starts=starts: len(shop.logged("serving")) == starts, "serving")  # type: ignore[misc]
            done = stitch(shop, "--server", f"unix:{directory}/api.sock", "get", "networks", "-o", "json")
            assert "shop/customer-x" in done.stdout, done.stderr
            await shop.kill()
    finally:
        await federation.stop()


def test_keygen_prints_what_neighbours_pin(directory: Path) -> None:
    command = (sys.executable, "-m", "controller", "keygen", "--domain", "shop", "--key-dir", str(directory / "keys"))
    first, second = (json.loads(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(2))
    assert first == second
    assert first["domain"] == "shop"
    assert first["certificate"].startswith("-----BEGIN CERTIFICATE-----")


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        pytest.param(lambda own: (own / "stitchd.json").write_text("{"), "stitchd.json", id="config"),
        pytest.param(
            lambda own: (own / "inventory.yaml").write_text("kind: Nod\n"), "inventory.yaml:1:", id="inventory"
        ),
        pytest.param(lambda own: (own / "policy.yaml").write_text("accept: 7\n"), "policy.yaml:1:", id="policy"),
        pytest.param(lambda own: (own / "keys" / "domain.key").unlink(), "keygen", id="no key"),
        pytest.param(lambda own: (own / "keys" / "domain.key").chmod(0o644), "others may read", id="open key"),
        pytest.param(lambda own: reconfigure(own, listen="0.0.0.0:0"), 'add `"tls": {}`', id="in the open"),
        pytest.param(lambda own: reconfigure(own, listen="[::]:0"), 'add `"tls": {}`', id="in the open, IPv6"),
        pytest.param(lambda own: reconfigure(own, listen="unix:/x", tls={}), "of no use", id="TLS on a socket"),
        pytest.param(lambda own: reconfigure(own, tls={"key": "/x"}), "`certificate` and `key`", id="half of TLS"),
        pytest.param(
            lambda own: reconfigure(own, tls={"certificate": "/none", "key": "/none"}), "/none", id="no certificate"
        ),
        pytest.param(lambda own: (own / "store.tokens").write_text("{}"), "store.tokens", id="tokens"),
    ],
)
def test_what_is_wrong_is_said_and_where(directory: Path, spoil, expected: str) -> None:  # type: ignore[no-untyped-def]
    federation = Federation(directory)
    spoil(directory / "shop")
    command = (sys.executable, "-m", "controller", "--config", str(federation.controllers["shop"].config))
    done = subprocess.run(command, capture_output=True, timeout=LIMIT_S)
    assert done.returncode == 2
    assert expected in done.stderr.decode()


async def test_a_dishonest_carrier_speaks_for_nobody(federation: Federation, directory: Path) -> None:
    """With transit's own keys, over its own connection: only what shop has asked for counts, and only once."""
    shop, transit, insight = (federation.controllers[name] for name in ("shop", "transit", "insight"))
    assert (await shop.apply(intent())).status_code == 200
    await until(lambda: active(shop), "Active")
    await federation.settled()
    present = federation.entries()
    shown = await transit.get("agreements")
    terms = opened(
        next(
            msgspec.convert(agreement["status"]["offer"], Envelope)
            for agreement in shown.values()
            if agreement["spec"]["acceptor"] == "insight"
        )
    )
    assert isinstance(terms, Terms)
    identity = load("transit", directory / "transit" / "keys")
    config = json.loads((directory / "insight" / "stitchd.json").read_text())
    certificate = (directory / "insight" / "keys" / "root.pem").read_text()
    peer = Peer(domain="insight", certificate=certificate, endpoint=config["eastwest"])
    channel = PeerChannel(identity, peer, greeting("dishonest"))
    (flow,) = terms.flows
    own = sealed(msgspec.structs.replace(opened_mandate(terms.mandate), expires_s=terms.expires_s + 60), identity)
    lies: dict[str, dict[str, Any]] = {
        "is not in the mandate of shop": {"flows": (msgspec.structs.replace(flow, source_prefixes=("10.1.0.12/32",)),)},
        "would outlast the mandate": {"expires_s": terms.expires_s + 60},
        "shop wants dscp CS0": {"dscp": 46},
        "shop wants a latency of at most": {"latency_us_max": None},
        "not signed with the key that is pinned for shop": {"mandate": own},
        "supports one at a time": {},
    }

    async def refused(number: int, changes: dict[str, Any], reason: str) -> None:
        id = f"transit:lie:{number}"
        await channel.deliver(sealed(msgspec.structs.replace(terms, id=id, **changes), identity))
        await until(
            lambda: any(
                line["agreement"] == id and reason in line["reason"] for line in insight.logged("offer_refused")
            ),
            reason,
        )

    try:
        for number, (reason, changes) in enumerate(lies.items()):
            await refused(number, changes, reason)
        assert federation.entries() == present
        assert len(await insight.get("agreements")) == 1
        assert (await shop.request("DELETE", "intents/order-processing")).status_code == 200
        await until(lambda: not any(federation.tunnels().values()), "nothing left")
        await refused(len(lies), {}, "withdrawn")
        assert await insight.get("agreements") == {}
    finally:
        await channel.close()
