"""Tokens: a secret is told once, kept as a hash, counts for its time, and ends with all that is open with it."""

import contextlib
import json
import os
import queue
import socket
import stat
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from northbound_fake import TOKEN, Running, running
from waiting import LIMIT_S, wait_for

from controller import durable_file
from controller.errors import ConfigInvalid, Unavailable
from controller.model.access import Role
from controller.model.network_graph import NetworkGraph
from controller.northbound.connections import OF_A_TOKEN_MAX, Connections
from controller.northbound.tokens import BOOTSTRAP, Tokens
from controller.northbound.turns import OF_A_TOKEN_WORKING

STITCH = Path(sys.executable).parent / "stitch"
NOW_S = 1_800_000_000.0


class Clock:
    now_s = NOW_S

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Running]:
    with running(tokens=Tokens(TOKEN, path=tmp_path / "shop.tokens")) as api:
        yield api


def call(api: Running, method: str, path: str, token: str = TOKEN, **options: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {token}"}
    return httpx.request(method, f"{api.url}{path}", headers=headers, trust_env=False, timeout=LIMIT_S, **options)


def create(api: Running, **asked: Any) -> str:
    answer = call(api, "POST", "/v1/tokens", json=asked)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["secret"])


def test_a_token_is_made_used_shown_and_revoked(api: Running, tmp_path: Path) -> None:
    secret = create(api, name="ops", role="operator", tenants=["customer-x", "customer-x"], lifetime_s=90 * 86400)
    assert call(api, "GET", "/v1/whoami", secret).json() == {
        "name": "ops", "role": "operator", "tenants": ["customer-x"],
    }  # fmt: skip
    listed = {token["metadata"]["name"]: token for token in call(api, "GET", "/v1/tokens").json()}
    assert set(listed) == {"ops", BOOTSTRAP}
    shown = listed["ops"]
    assert shown["spec"] == {"role": "operator", "tenants": ["customer-x"]}
    assert shown["status"]["expires_s"] - shown["status"]["created_s"] == 90 * 86400
    assert shown["status"]["last_used_s"] >= shown["status"]["created_s"] > NOW_S - 2e8
    assert call(api, "GET", "/v1/tokens/ops").json()["metadata"] == {"name": "ops"}
    file = tmp_path / "shop.tokens"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    for text in (json.dumps(listed), file.read_text()):
        assert secret not in text and TOKEN not in text
    stored_hash = json.loads(file.read_text())["tokens"][0]["hash"]
    assert stored_hash not in json.dumps(listed)
    assert call(api, "DELETE", "/v1/tokens/ops").json() == {"results": ["tokens/ops revoked"]}
    assert call(api, "GET", "/v1/intents", secret).status_code == 401
    assert json.loads(file.read_text())["tokens"] == []
    assert call(api, "GET", "/v1/tokens/ops").status_code == 404


@pytest.mark.parametrize(
    ("asked", "status", "said"),
    [
        ({"name": "x", "role": "operator"}, 400, "name one or more"),
        ({"name": "x", "role": "admin", "tenants": ["t"]}, 400, "name no tenants"),
        ({"name": "x", "role": "root"}, 400, "role: Input should be 'admin', 'operator' or 'reader'"),
        ({"name": "X/..", "role": "reader"}, 400, "name: expected 1 to 63 of a-z"),
        ({"name": "x", "role": "operator", "tenants": ["t", ""]}, 400, "tenants.1: expected 1 to 63 of a-z"),
        ({"name": "x", "role": "reader", "lifetime_s": 0}, 400, "greater"),
        ({"name": "x", "role": "reader", "lifetime_s": True}, 400, "integer"),
        ({"name": "x", "role": "reader", "tenant": ["t"]}, 400, "unknown field 'tenant'; did you mean tenants?"),
        ({"name": BOOTSTRAP, "role": "reader"}, 409, "already"),
    ],
)
def test_a_token_that_makes_no_sense_is_refused(api: Running, asked: Any, status: int, said: str) -> None:
    answer = call(api, "POST", "/v1/tokens", json=asked)
    assert (answer.status_code, said in answer.text) == (status, True), answer.text


def test_names_are_given_once_and_the_file_s_token_stays(api: Running) -> None:
    create(api, name="ops", role="reader")
    assert call(api, "POST", "/v1/tokens", json={"name": "ops", "role": "admin"}).status_code == 409
    assert call(api, "DELETE", f"/v1/tokens/{BOOTSTRAP}").status_code == 409
    assert call(api, "DELETE", "/v1/tokens/nobody").status_code == 404
    assert call(api, "GET", "/v1/intents").status_code == 200


@pytest.mark.parametrize("ending", ["revoked", "expired"])
def test_a_watch_ends_with_its_token(api: Running, ending: str) -> None:
    answers: queue.Queue[int] = queue.Queue()
    ended = threading.Event()

    def watch() -> None:
        headers = {"authorization": f"Bearer {secret}"}
        options = {"headers": headers, "trust_env": False, "timeout": None}
        with httpx.stream("GET", f"{api.url}/v1/intents?watch=true", **options) as stream:  # type: ignore[arg-type]
            lines = stream.iter_lines()  # raises if the stream is cut off
            next(lines)
            answers.put(stream.status_code)
            if stream.status_code == 200:
                for _ in lines:
                    pass
                ended.set()

    # On a slow machine a token may have ended before the watch began.
    for lifetime_s in (1, 4, 16, 64, 256):
        lifetime = {"lifetime_s": lifetime_s} if ending == "expired" else {}
        secret = create(api, name="viewer", role="reader", **lifetime)
        watching = threading.Thread(target=watch, daemon=True)
        watching.start()
        if answers.get(timeout=LIMIT_S) == 200:
            break
        assert ending == "expired" and call(api, "DELETE", "/v1/tokens/viewer").status_code == 200
    if ending == "revoked":
        assert call(api, "DELETE", "/v1/tokens/viewer").status_code == 200
    assert ended.wait(LIMIT_S), "the watch goes on without its token"
    watching.join(LIMIT_S)
    wait_for(lambda: not api.controller.watchers, "no watch is left")
    answer = call(api, "GET", "/v1/intents", secret)
    assert answer.status_code == 401
    assert ("has expired" in answer.text) == (ending == "expired")


def test_watches_of_one_token_keep_nobody_else_out(api: Running) -> None:
    secret = create(api, name="viewer", role="reader")
    request = f"GET /v1/intents?watch=true HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {secret}\r\n\r\n".encode()
    answers: Counter[bytes] = Counter()
    with contextlib.ExitStack() as stack:
        for _ in range(OF_A_TOKEN_MAX + 20):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", api.port), timeout=LIMIT_S))
            connection.sendall(request)
            answers[connection.recv(12)] += 1
        assert answers == {b"HTTP/1.1 200": OF_A_TOKEN_MAX, b"HTTP/1.1 503": 20}
        assert call(api, "GET", "/v1/intents").status_code == 200
    wait_for(lambda: not api.controller.watchers, "no watch is left")
    assert call(api, "GET", "/v1/intents", secret).status_code == 200


def test_what_one_token_asks_for_leaves_room_for_others(api: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = create(api, name="reader", role="reader")
    go_on, lock, working, most = threading.Event(), threading.Lock(), 0, 0
    real = api.controller.graph

    def graph() -> NetworkGraph:
        nonlocal working, most
        with lock:
            working += 1
            most = max(most, working)
        go_on.wait(LIMIT_S)
        with lock:
            working -= 1
        return real()

    monkeypatch.setattr(api.controller, "graph", graph)
    with ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(call, api, "GET", "/v1/graph", secret) for _ in range(12)]
        wait_for(lambda: working >= OF_A_TOKEN_WORKING, "some are worked on")
        assert call(api, "GET", "/v1/intents").status_code == 200
        go_on.set()
        assert {each.result().status_code for each in asked} == {200}
    assert most == OF_A_TOKEN_WORKING


@dataclass(eq=False)
class Visit:
    host: str = "::1"
    idle: bool = False
    closed: bool = False

    def give_way(self) -> None:
        self.closed = True


def test_connections_have_shares() -> None:
    connections = Connections()
    visits = {name: [Visit() for _ in range(OF_A_TOKEN_MAX)] for name in "abcd"}
    for name, theirs in visits.items():
        for visit in theirs:
            connections.enter(visit)
            assert connections.is_of(visit, name)
    late = Visit()
    connections.enter(late)
    assert not connections.is_of(late, "a"), "it has as many as it may, and all are in use"
    visits["a"][7].idle = visits["b"][5].idle = True
    assert connections.is_of(late, "a")
    assert [visit for visit in visits["a"] if visit.closed] == [visits["a"][7]]
    for number in range(200):
        connections.enter(visit := Visit())
        assert connections.is_of(visit, f"new {number}"), "who has fewer finds a place"
    closed = [sum(visit.closed for visit in theirs) for theirs in visits.values()]
    assert max(closed) - min(closed) <= 2, closed
    assert visits["b"][5].closed, "idle ones first"
    for theirs in visits.values():
        for visit in theirs:
            connections.leave(visit)  # also those that gave way


async def test_tokens_outlast_a_restart_and_expired_ones_are_shown_so(tmp_path: Path) -> None:
    path, clock = tmp_path / "tokens", Clock()
    tokens = Tokens(TOKEN, path=path, now_s=clock)
    _, first = await tokens.create("first", Role.READER, None, None)
    _, second = await tokens.create("second", Role.OPERATOR, ("a", "b"), 60)
    await tokens.revoke("first")
    again = Tokens.load("other", path)
    assert again.holder(first.encode()) is None and again.holder(TOKEN.encode()) is None
    holder = again.holder(second.encode())
    assert holder is not None and holder.principal.tenants == ("a", "b")
    clock.now_s += 60
    holder = tokens.holder(second.encode())
    assert holder is not None and tokens.expired(holder)
    assert [resource.status["phase"] for resource in tokens.resources()] == ["Valid", "Expired"]


async def test_a_token_that_cannot_be_stored_is_not_made(tmp_path: Path) -> None:
    tokens = Tokens(TOKEN, path=tmp_path / "missing" / "tokens")
    with pytest.raises(Unavailable, match="cannot be stored"):
        await tokens.create("ops", Role.READER, None, None)
    assert tokens.resource("ops") is None


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        ("{}", 0o600, "no file of tokens"),
        ('{"version": 2, "tokens": []}', 0o600, "no file of tokens"),
        ('{"version": 1, "tokens": [{"name": "x"}]}', 0o600, "no file of tokens"),
        ('{"version": 1, "tokens": []}', 0o640, "others may read"),
    ],
)
def test_a_file_that_cannot_be_trusted_is_refused(tmp_path: Path, content: str, mode: int, said: str) -> None:
    path = tmp_path / "tokens"
    path.write_text(content)
    path.chmod(mode)
    with pytest.raises(ConfigInvalid, match=said):
        Tokens.load(TOKEN, path)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    durable_file.write(path, b"one")
    os.chmod(path, 0o644)
    durable_file.write(path, b"two")
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"two", 0o600)
    (tmp_path / "directory").mkdir()
    with pytest.raises(OSError):
        durable_file.write(tmp_path / "directory", b"three")
    assert sorted(left.name for left in tmp_path.iterdir()) == ["directory", "secret"]


def test_the_command_line_shows_a_secret_once_and_leaves_no_file_of_a_failure(api: Running, tmp_path: Path) -> None:
    (tmp_path / "admin").write_text(TOKEN)

    def stitch(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [STITCH, "--server", api.url, "--token-file", str(tmp_path / "admin"), "token", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)

    out = tmp_path / "ops.token"
    for wrong, said in (
        (("ops", "--role", "root"), "'admin', 'operator' or 'reader'"),
        (("ops", "--role", "operator"), "name one or more"),
        (("ops", "--role", "reader", "--expires", "soon"), "a duration such as"),
    ):
        done = stitch("create", *wrong, "--out", str(out))
        assert (done.returncode, said in done.stderr) == (2, True), done.stderr
        assert not out.exists()
    done = stitch("create", "ops", "--role", "operator", "--tenant", "a", "--tenant", "b", "--out", str(out))
    assert (done.returncode, done.stdout) == (0, "tokens/ops created\n"), done.stderr
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert call(api, "GET", "/v1/whoami", out.read_text().strip()).json()["tenants"] == ["a", "b"]
    assert stitch("create", "more", "--role", "reader", "--out", str(out)).returncode == 2, "it is there already"
    done = stitch("create", "more", "--role", "reader")
    assert call(api, "GET", "/v1/whoami", done.stdout.strip()).json()["name"] == "more"
    listed = stitch("list").stdout
    assert "operator   a b" in listed and out.read_text().strip() not in listed
    assert stitch("revoke", "more").stdout == "tokens/more revoked\n"
    assert stitch("revoke", "more").returncode == 1
