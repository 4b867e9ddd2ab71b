"""The API gives nothing without the token, answers everything in its own form, and outlives every client."""

import json
import random
import socket
import threading
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from northbound_fake import TOKEN, FakeBackups, FakeController, FakeTelemetry, Running, running
from prometheus_client.parser import text_string_to_metric_families
from waiting import LIMIT_S, wait_for

from controller.northbound import guard, watches
from controller.northbound.api import create_app
from controller.northbound.tokens import Tokens
from netstitch import __version__

INTENT = {
    "apiVersion": "netstitch/v1",
    "kind": "Intent",
    "metadata": {"name": "order-processing", "tenant": "customer-x"},
    "spec": {
        "isolate": {"network": "shop/customer-x", "select": {"app": "order-processing"}},
        "allow": [{"to": "insight/analytics/analytics-y", "ports": ["tcp/443", "icmp"]}],
    },
}


def changed(base: dict[str, Any], name: str, **spec: Any) -> dict[str, Any]:
    return base | {"metadata": base["metadata"] | {"name": name}, "spec": base["spec"] | spec}


@pytest.fixture
def server() -> Iterator[Running]:
    with running() as server:
        yield server


@pytest.fixture(scope="module")
def shared() -> Iterator[Running]:
    with running() as server:
        yield server


@pytest.fixture
def client(server: Running) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=LIMIT_S, trust_env=False) as client:
        yield client


def problems(response: httpx.Response) -> list[tuple[list[str | int], str]]:
    return [(problem["path"], problem["message"]) for problem in response.json()["problems"]]


def test_apply_get_and_delete(client: httpx.Client) -> None:
    assert client.post("/v1/apply", json=[INTENT]).json() == {"results": ["intents/order-processing created"]}
    [listed] = client.get("/v1/intents").json()
    assert (listed["apiVersion"], listed["kind"], listed["spec"]) == ("netstitch/v1", "Intent", INTENT["spec"])
    response = client.get("/v1/intents/order-processing")
    metadata = response.json()["metadata"]
    assert metadata == INTENT["metadata"] | {"revision": metadata["revision"]}
    assert response.headers["etag"] == f'"{metadata["revision"]}"'
    assert client.delete("/v1/intents/order-processing").json() == {"results": ["intents/order-processing deleted"]}
    assert client.get("/v1/intents").json() == []


def test_an_answer_says_when_it_was_made(client: httpx.Client) -> None:
    for _ in range(2):
        before_s = int(time.time())
        said = parsedate_to_datetime(client.get("/v1/intents").headers["date"])
        assert before_s <= said.timestamp() <= time.time()


def test_names_may_contain_slashes(client: httpx.Client) -> None:
    network = {
        "apiVersion": "netstitch/v1",
        "kind": "Network",
        "metadata": {"name": "shop/customer-y"},
        "spec": {"prefixes": ["10.7.0.0/24"]},
    }
    assert client.post("/v1/apply", json=[network]).status_code == 200
    for path in ("/v1/networks/shop/customer-y", "/v1/networks/shop%2Fcustomer-y"):
        assert client.get(path).json()["metadata"]["name"] == "shop/customer-y"
    assert client.delete("/v1/networks/shop%2Fcustomer-y").status_code == 200


def test_a_field_given_twice_is_refused_and_nothing_is_stored(client: httpx.Client) -> None:
    text = json.dumps([INTENT, INTENT]).replace('"order-processing"', '"other"', 1)
    for twice in ('"ports": ["icmp"], "ports"', '"ports": ["icmp"], "\\u0070orts"', '"ports": ["\\u003a"], "ports"'):
        response = client.post("/v1/apply", content=twice.join(text.rsplit('"ports"', 1)).encode())
        assert response.status_code == 400
        assert problems(response) == [([1, "spec", "allow", 0, "ports"], "field 'ports' is given twice")]
    assert client.get("/v1/intents").json() == []


def test_a_dry_run_stores_nothing(client: httpx.Client) -> None:
    assert client.post("/v1/apply?dry_run=true", json=[INTENT]).json()["results"] == [
        "intents/order-processing created"
    ]
    assert client.get("/v1/intents").json() == []


def test_problems_say_where_in_which_manifest(client: httpx.Client) -> None:
    wrong = changed(INTENT, "wrong", isolate=None, allow=[{"to": "insight/analytics/nothing"}])
    del wrong["spec"]["isolate"]
    wrong["spec"]["allow"][0]["from"] = {"network": "shop/customer-x"}
    response = client.post("/v1/apply", json=[INTENT, wrong])
    assert response.status_code == 400
    assert problems(response) == [([1, "spec", "allow", 0, "to"], "unknown service 'insight/analytics/nothing'")]
    assert client.get("/v1/intents").json() == [], "all or none"


def test_a_conflict_is_409_and_what_is_not_there_404(client: httpx.Client) -> None:
    client.post("/v1/apply", json=[INTENT])
    response = client.post("/v1/apply", json=[changed(INTENT, "other")])
    assert response.status_code == 409
    assert "withdraw it first" in response.json()["error"]
    for method, path in (
        ("GET", "/v1/intents/none"), ("DELETE", "/v1/intents/none"), ("GET", "/v1/unicorns"), ("GET", "/nothing"),
        ("GET", "/v1/unicorns?watch=true"), ("GET", "/v1/unicorns/x"), ("DELETE", "/v1/unicorns/x"),
        ("GET", "/v1/intents/"),
    ):  # fmt: skip
        response = client.request(method, path)
        assert (response.status_code, response.json()["error"] != "") == (404, True), path
    assert client.put("/v1/intents").status_code == 405


def test_an_overloaded_controller_is_503(client: httpx.Client, server: Running) -> None:
    server.controller.busy = True
    response = client.post("/v1/apply", json=[INTENT])
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"bearer{TOKEN}", f"Bearer {TOKEN}x", "Bearer é"],
)
def test_no_token_no_access(shared: Running, authorization: str | None) -> None:
    headers = {} if authorization is None else {"authorization": authorization.encode()}
    with httpx.Client(base_url=shared.url, headers=headers, trust_env=False) as client:
        for method, path in (
            ("GET", "/v1/intents"), ("POST", "/v1/apply"), ("DELETE", "/v1/intents/x"), ("GET", "/v1/flows"),
            ("GET", "/metrics"), ("GET", "/openapi.json"), ("GET", "/nothing"), ("GET", "/v1/intents?watch=true"),
        ):  # fmt: skip
            response = client.request(method, path, json=[INTENT] if method == "POST" else None)
            assert response.status_code == 401, path
            assert response.headers["www-authenticate"].startswith("Bearer")
        assert client.get("/healthz").json() == {"status": "ok"}
    assert shared.controller.list("intents") == []


def test_two_tokens_are_none(shared: Running) -> None:
    headers = [("authorization", f"Bearer {TOKEN}"), ("authorization", "Bearer other")]
    assert httpx.get(f"{shared.url}/v1/intents", headers=headers, trust_env=False).status_code == 401


def test_an_empty_token_is_refused_at_the_start() -> None:
    with pytest.raises(ValueError, match="empty"):
        Tokens(" \n")


def test_watch_gives_the_present_ones_then_changes_and_removals(client: httpx.Client, server: Running) -> None:
    client.post("/v1/apply", json=[INTENT])
    seen: list[str] = []
    with client.stream("GET", "/v1/intents?watch=true") as stream:
        assert stream.headers["content-type"] == "application/x-ndjson"
        for line in filter(None, stream.iter_lines()):
            status = json.loads(line)["status"]
            seen.append(status.get("phase", "deleted"))
            if seen[-1] == "Active":
                threading.Thread(target=httpx.delete, args=(f"{server.url}/v1/intents/order-processing",),
                                 kwargs={"headers": client.headers, "trust_env": False}).start()  # fmt: skip
            if "deleted" in seen:
                break
    assert seen == ["Pending", "Installing", "Active", "deleted"]


def test_watch_of_one_name_is_silent_about_others(client: httpx.Client) -> None:
    other = changed(INTENT, "other", isolate={"network": "shop/customer-x", "select": {"app": "web"}})
    with client.stream("GET", "/v1/intents/other?watch=true") as stream:
        lines = stream.iter_lines()
        assert next(lines) == ""
        client.post("/v1/apply", json=[INTENT, other])
        assert json.loads(next(lines))["metadata"]["name"] == "other"


def test_watch_shows_a_heartbeat_and_ends_with_its_client(
    client: httpx.Client, server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watches, "HEARTBEAT_S", 0.05)
    with client.stream("GET", "/v1/intents?watch=true") as stream:
        lines = stream.iter_lines()
        assert [next(lines) for _ in range(4)] == [""] * 4
        assert server.controller.watchers == 1
    wait_for(lambda: server.controller.watchers == 0, "the watch has ended")


def test_flows_and_drops(client: httpx.Client) -> None:
    [inner, outer] = client.get("/v1/flows").json()
    row = inner if inner["intent"] else outer
    assert ",".join(list(row)[:13]) == (
        "time_s,observation_point,source_address,destination_address,protocol,source_port,destination_port,packets,bytes,"
        "reverse_packets,reverse_bytes,duration_s,tcp_state"
    )
    assert (row["packets"], row["bytes"], row["reverse_packets"], row["tcp_state"]) == (10, 1000, 8, -1)
    missing = client.get("/v1/flows?intent=order-processing")
    assert (missing.status_code, missing.json()["error"].split(";")[0]) == (404, "there is no intents/order-processing")
    client.post("/v1/apply", json=[INTENT])
    assert client.get("/v1/flows?intent=order-processing").json() == [row]
    assert "did you mean order-processing?" in client.get("/v1/flows?intent=oder-processing").json()["error"]
    of_intent = {"node": "se1", "reason": "", "interface": "", "packets": 4, "bytes": 456}
    assert client.get("/v1/drops?intent=order-processing").json() == [of_intent]
    assert "did you mean order-processing?" in client.get("/v1/drops?intent=oder-processing").json()["error"]
    assert client.get("/v1/drops").json() == [
        {"node": "ie1", "reason": "port_full", "interface": "eth1", "packets": 5, "bytes": 0},
        {"node": "se1", "reason": "not_permitted", "interface": "", "packets": 1, "bytes": 60},
        {"node": "se1", "reason": "isolated", "interface": "", "packets": 2, "bytes": 200},
    ]


def test_flows_since_are_what_passed_then(client: httpx.Client) -> None:
    whole = client.get("/v1/flows?since=0").json()
    assert [(row["time_s"], row["node"], row["owner"], row["packets"]) for row in whole] == [
        (101.0, "se1", "intents/order-processing", 5), (102.0, "se1", "networks/shop/customer-x", 6),
    ]  # fmt: skip
    assert whole[0].keys() == client.get("/v1/flows").json()[0].keys()
    assert whole[0]["source_address"] == "10.1.0.11"
    assert client.get("/v1/flows?since=101").json() == whole[1:]
    assert client.get("/v1/flows?since=-5").json() == []  # of the last five seconds
    client.post("/v1/apply", json=[INTENT])
    assert client.get("/v1/flows?since=0&intent=order-processing").json() == whole[:1]
    assert client.get("/v1/flows?since=nan").status_code == 400


def test_doctor_and_metrics(client: httpx.Client, server: Running) -> None:
    assert client.get("/v1/doctor").json()["ok"] is True
    server.telemetry.well = False
    sick = client.get("/v1/doctor").json()
    assert (sick["ok"], [check["subject"] for check in sick["checks"] if not check["ok"]]) == (False, ["nodes/se1"])
    client.post("/v1/apply", json=[INTENT])
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = response.text.splitlines()
    assert 'netstitch_intents{phase="Pending"} 1' in lines
    assert 'netstitch_dropped_packets_total{node="se1",reason="isolated"} 2' in lines
    assert 'netstitch_dropped_packets_total{node="ie1",reason="port_full",interface="eth1"} 5' in lines
    assert "# HELP netstitch_offers_total Offers\\nsent." in lines
    assert 'netstitch_offers_total{peer="a\\"b\\\\c"} 3' in lines
    families = {metric.name: metric for metric in text_string_to_metric_families(response.text)}
    for family in families.values():
        names = {sample.name for sample in family.samples}
        assert family.documentation and family.type in ("counter", "gauge"), family
        assert all(name.endswith("_total") == (family.type == "counter") for name in names), family
        assert all(label == label.lower() for sample in family.samples for label in sample.labels)
    assert {"process_cpu_seconds", "process_resident_memory_bytes", "process_start_time_seconds"} <= families.keys()
    assert 0 < time.time() - families["process_start_time_seconds"].samples[0].value < 86_400
    assert families["netstitch_build_info"].samples[0].labels["version"] == __version__
    assert 'netstitch_intent_packets_total{intent="order-processing",node="se1"} 18' in lines
    assert 'netstitch_intent_dropped_packets_total{intent="order-processing",node="se1"} 4' in lines
    assert not any("customer-x" in line for line in lines), "what a network carries by itself is no intent's"


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"{}", b"null", b"[1]", b"[null]", b'"x"', b"[{}]", b"\xff\xfe", b"[" * 100_000, b'[{"a":' * 50_000,
        b'[{"apiVersion":"netstitch/v1","kind":"Intent","metadata":{"name":NaN},"spec":{}}]',
        json.dumps([INTENT | {"extra": json.loads("[" * 200 + "]" * 200)}]).encode(),
        json.dumps([INTENT | {"kind": 5}]).encode(), json.dumps([INTENT | {"spec": []}]).encode(),
        json.dumps([INTENT | {"metadata": {"name": "\ud800", "tenant": "x"}}]).encode(),
        json.dumps([INTENT | {"kind": "Unicorn"}]).encode(), random.Random(1).randbytes(10_000), b"a" * 3_000_000,
    ],
    ids=lambda body: repr(bytes(body[:24])),
)  # fmt: skip
def test_garbage_is_400_with_problems(shared: Running, body: bytes) -> None:
    headers = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}
    response = httpx.post(f"{shared.url}/v1/apply", content=body, headers=headers, timeout=LIMIT_S, trust_env=False)
    assert response.status_code == 400, response.text
    assert problems(response) and all(message for _, message in problems(response))
    assert shared.controller.list("intents") == []


@pytest.mark.parametrize(
    "manifest",
    ["{}", "0", '{"apiVersion":"a","kind":"Intent","metadata":{},"spec":{}}', '{"a":1,"a":2}'],
    ids=["empty", "number", "blank", "twice"],
)
def test_a_body_full_of_faults_is_answered_soon_and_briefly(client: httpx.Client, manifest: str) -> None:
    values = 1 + manifest.count(",") + 4 * manifest.count("{")
    count = min(guard.BODY_LIMIT_BYTES // (len(manifest) + 1), guard.VALUES_MAX // values) - 1
    body = "[" + ",".join([manifest] * count) + "]"
    started = time.process_time()
    response = client.post("/v1/apply", content=body.encode())
    assert response.status_code == 400 and len(response.content) < 50_000
    assert time.process_time() - started < 10


@pytest.mark.parametrize("value", [b"[]", b"{}", b"0", b'[{"":0}]'], ids=["lists", "objects", "numbers", "both"])
def test_a_body_of_very_many_values_is_413_before_it_is_decoded(client: httpx.Client, value: bytes) -> None:
    body = b"[" + b",".join([value] * ((8_000_000 - 2) // (len(value) + 1))) + b"]"
    response = client.post("/v1/apply", content=body)
    assert response.status_code == 413, response.text
    assert str(guard.VALUES_MAX) in response.json()["error"]
    assert client.get("/v1/intents").status_code == 200


def test_bodies_under_way_have_a_bound_for_each_token(server: Running) -> None:
    """Two of the largest are under way and do not go on; a third of the same token is refused, a small one taken."""
    head = (
        f"POST /v1/apply HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {TOKEN}\r\ncontent-type: application/json\r\n"
        f"content-length: {guard.BODY_LIMIT_BYTES}\r\n\r\n["
    ).encode()
    connections = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(2)]
    try:
        for each in connections:
            each.sendall(head)
        headers = {"authorization": f"Bearer {TOKEN}"}
        with httpx.Client(base_url=server.url, headers=headers, timeout=LIMIT_S, trust_env=False) as client:
            big = b"[" + b" " * (guard.BODY_LIMIT_BYTES - 2) + b"]"
            deadline = time.monotonic() + LIMIT_S
            while (answer := client.post("/v1/apply", content=big)).status_code != 503:
                assert answer.status_code == 200 and time.monotonic() < deadline, answer.text
            assert "of this token are under way" in answer.json()["error"] and answer.headers["retry-after"] == "1"
            assert client.post("/v1/apply", json=[INTENT]).status_code == 200
    finally:
        for each in connections:
            each.close()


def test_others_are_answered_while_very_many_flows_are_put_together(server: Running) -> None:
    server.telemetry.many = 8_000
    server.telemetry.released.clear()
    headers = {"authorization": f"Bearer {TOKEN}"}
    answers: list[httpx.Response] = []

    def ask() -> None:
        answers.append(httpx.get(f"{server.url}/v1/flows", headers=headers, timeout=LIMIT_S, trust_env=False))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        wait_for(lambda: server.telemetry.asked > 0, "flows are asked for")
        with httpx.Client(base_url=server.url, headers=headers, timeout=LIMIT_S, trust_env=False) as client:
            for _ in range(20):  # none would be answered by a loop that goes through the flows itself
                assert client.get("/healthz").status_code == 200
        assert asking.is_alive()
    finally:
        server.telemetry.released.set()
        asking.join()
    assert answers[0].status_code == 200 and len(answers[0].json()) > 8_000
    assert answers[0].headers["netstitch-truncated"] == "se1"


def test_10_mb_are_413_whether_announced_or_chunked(client: httpx.Client) -> None:
    body = b"[" + b" " * 10_000_000 + b"]"
    assert client.post("/v1/apply", content=body).status_code == 413
    chunks = (body[start : start + 65536] for start in range(0, len(body), 65536))
    response = client.post("/v1/apply", content=chunks)
    assert response.status_code == 413
    assert str(guard.BODY_LIMIT_BYTES) in response.json()["error"]
    assert client.get("/v1/intents").status_code == 200


@pytest.mark.parametrize(
    ("fields", "status", "said"),
    [
        (b"content-type: text/plain\r\ncontent-length: 2\r\n", 415, "bodies are application/json in UTF-8"),
        (b"content-type: application/json; charset=utf-16\r\ncontent-length: 2\r\n", 415, "in UTF-8"),
        (b"content-encoding: gzip\r\ncontent-length: 2\r\n", 415, "send the body as it is"),
        (b"content-length: 1000000000000\r\n", 413, "are announced"),
        (b"expect: 100-continue\r\ncontent-length: 10000000\r\n", 413, "are announced"),
        (b"content-length: 2\r\ntransfer-encoding: chunked\r\n", 400, "both a length and chunks"),
        (b"content-length: 100\r\n", 408, "2 of 100 bytes came"),
        (b"transfer-encoding: chunked\r\n", 400, "no valid HTTP/1.1 request"),
    ],
    ids=["text", "utf-16", "gzip", "terabyte", "expect", "smuggled", "short", "no chunks"],
)
def test_bodies_that_cannot_be_read_are_refused_at_once(
    shared: Running, monkeypatch: pytest.MonkeyPatch, fields: bytes, status: int, said: str
) -> None:
    monkeypatch.setattr(guard, "BODY_PAUSE_S", 0.3)
    authorization = f"authorization: Bearer {TOKEN}\r\n".encode()
    with connect(shared) as connection:
        body = b"[]\r\n" if fields.startswith(b"transfer") else b"[]"
        connection.sendall(b"POST /v1/apply HTTP/1.1\r\nhost: x\r\n" + authorization + fields + b"\r\n" + body)
        answer = read_answer(connection)
        assert answer.startswith(b"HTTP/1.1 %d " % status) and said in answer.decode(), answer


def test_a_body_that_ends_too_early_is_answered(shared: Running) -> None:
    with connect(shared) as connection:
        authorization = f"authorization: Bearer {TOKEN}\r\n".encode()
        connection.sendall(b"POST /v1/apply HTTP/1.1\r\nhost: x\r\n" + authorization + b"content-length: 9\r\n\r\n[]")
        connection.shutdown(socket.SHUT_WR)
        assert read_answer(connection).startswith(b"HTTP/1.1 400 ")


def test_who_is_not_let_in_hears_so_though_still_sending(shared: Running) -> None:
    body = b"[" + b" " * 30_000_000 + b"]"
    with connect(shared) as connection:
        connection.sendall(b"POST /v1/apply HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        assert read_answer(connection).startswith(b"HTTP/1.1 401 ")


# ---- clients that are slow, or speak nonsense


def connect(server: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=LIMIT_S)


def drip(connection: socket.socket, data: bytes, pause_s: float) -> tuple[bytes, float]:
    """Sends byte by byte until the other side closes; what it said, and after how long."""
    started = time.monotonic()
    connection.settimeout(pause_s)
    answer = b""
    for byte in data:
        try:
            connection.sendall(bytes((byte,)))
            part = connection.recv(65536)
        except TimeoutError:
            continue
        except OSError:
            break
        answer += part
        if not part:
            break
    return answer, time.monotonic() - started


def read_answer(connection: socket.socket) -> bytes:
    answer = b""
    while not answer.endswith(b"}"):
        part = connection.recv(65536)
        assert part, f"closed after {answer!r}"
        answer += part
    return answer


def test_headers_must_be_complete_in_time_however_they_drip() -> None:
    with running(header_deadline_s=0.5) as server:
        request = b"GET /healthz HTTP/1.1\r\nhost: x\r\n" + b"".join(b"x-%d: y\r\n" % number for number in range(100))
        with connect(server) as connection:
            answer, lasted_s = drip(connection, request, 0.05)
            assert answer.startswith(b"HTTP/1.1 408 ") and b"not complete within 0.5 s" in answer
            assert lasted_s >= 0.4
        with connect(server) as silent:
            started = time.monotonic()
            assert silent.recv(100).startswith(b"HTTP/1.1 408 ")
            assert time.monotonic() - started >= 0.4
        with connect(server) as second:  # a second request on the same connection has the same deadline
            second.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            assert read_answer(second).startswith(b"HTTP/1.1 200 ")
            with connect(server) as silent:  # idle is not late, but who begins later and says nothing is
                assert silent.recv(100).startswith(b"HTTP/1.1 408 ")
            assert drip(second, request, 0.05)[0].startswith(b"HTTP/1.1 408 ")


def test_many_slow_clients_do_not_keep_a_good_one_out() -> None:
    with running(header_deadline_s=600.0) as server:
        slow = [connect(server) for _ in range(200)]
        for connection in slow:
            connection.sendall(b"GET / HTTP/1.1\r\n")
        assert httpx.get(f"{server.url}/healthz", trust_env=False, timeout=LIMIT_S).status_code == 200
        for connection in slow:
            connection.close()


def test_a_body_or_an_answer_that_takes_too_long_is_503() -> None:
    with running(request_deadline_s=0.5) as server:
        authorization = f"authorization: Bearer {TOKEN}\r\n".encode()
        with connect(server) as connection:
            connection.sendall(
                b"POST /v1/apply HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n" + authorization + b"\r\n["
            )
            assert connection.recv(65536).startswith(b"HTTP/1.1 503 ")
        server.telemetry.delay_s = 5
        headers = {"authorization": f"Bearer {TOKEN}"}
        with httpx.stream("GET", f"{server.url}/v1/intents?watch=true", headers=headers, trust_env=False) as stream:
            response = httpx.get(f"{server.url}/v1/flows", headers=headers, trust_env=False, timeout=LIMIT_S)
            assert (response.status_code, "0.5 s" in response.json()["error"]) == (503, True)
            # A watch has no deadline: this one began before what has just been too late.
            lines = stream.iter_lines()  # kept: the response is closed with it
            assert next(lines) == ""
            assert server.controller.watchers == 1


@pytest.mark.parametrize(
    "garbage",
    [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", b"\x00" * 1000, b"GET / HTTP/x\r\n\r\n",
     b"GET / HTTP/1.1\r\n" + b"a: " + b"b" * 200_000,
     b"POST /v1/apply HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\n"],
    ids=["tls", "short", "zeros", "version", "long header", "negative length"],
)  # fmt: skip
def test_what_is_no_http_is_closed_and_harms_nobody(shared: Running, garbage: bytes) -> None:
    with connect(shared) as connection:
        connection.sendall(garbage)
        answer = b""
        try:
            while part := connection.recv(65536):
                answer += part
        except ConnectionResetError:
            pass
        assert answer == b"" or answer.split(b" ")[1] in (b"400", b"408", b"431")
    assert httpx.get(f"{shared.url}/healthz", trust_env=False, timeout=LIMIT_S).status_code == 200


def test_stopping_the_server_ends_watches_in_good_order(caplog: pytest.LogCaptureFixture) -> None:
    lines: list[str] = []

    def watch() -> None:
        headers = {"authorization": f"Bearer {TOKEN}"}
        with httpx.stream("GET", f"{server.url}/v1/intents?watch=true", headers=headers, trust_env=False) as stream:
            lines.extend(stream.iter_lines())  # raises if the stream is cut off

    with running() as server:
        watching = threading.Thread(target=watch)
        watching.start()
        wait_for(lambda: server.controller.watchers, "somebody watches")
    watching.join(LIMIT_S)
    assert (lines, server.controller.watchers, caplog.records) == ([""], 0, [])


# ---- what the OpenAPI document says is so


document = create_app(FakeController(), FakeTelemetry(), Tokens(TOKEN), "shop", backups=FakeBackups()).openapi()
schema = schemathesis.openapi.from_dict(document)


def test_the_document_names_every_route_and_its_token() -> None:
    assert set(document["paths"]) == {
        "/healthz", "/metrics", "/v1/apply", "/v1/backup", "/v1/restore", "/v1/delete", "/v1/doctor", "/v1/drops",
        "/v1/explain/{kind}/{name}", "/v1/flows", "/v1/graph", "/v1/intents/{name}/renew",
        "/v1/agreements/{name}/end", "/v1/{kind}/{name}/drain", "/v1/{kind}/{name}/undrain",
        "/v1/incidents/{name}/approve", "/v1/incidents/{name}/reject",
        "/v1/policy/reload", "/v1/trace",
        "/v1/tokens", "/v1/tokens/{name}", "/v1/whoami", "/v1/{kind}", "/v1/{kind}/{name}",
    }  # fmt: skip
    assert document["paths"]["/v1/apply"]["post"]["security"] == [{"token": []}]
    assert "422" not in json.dumps(document)


def test_what_is_no_backup_or_not_said_to_be_one_is_refused(client: httpx.Client) -> None:
    media = {"content-type": "application/vnd.sqlite3"}
    assert client.post("/v1/restore", content=client.get("/v1/backup").content, headers=media).status_code == 200
    assert client.post("/v1/restore", content=b"another", headers=media).status_code == 409
    assert client.post("/v1/restore", content=b"{}", headers={"content-type": "application/json"}).status_code == 415


@schema.exclude(path_regex="^/v1/.kind.", method="GET").exclude(path="/v1/restore").parametrize()
@settings(
    max_examples=40, deadline=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)
def test_everything_else_answers_as_the_document_says(case: schemathesis.Case, shared: Running) -> None:
    check(case, shared)


@schema.include(path_regex="^/v1/.kind.", method="GET").parametrize()
@settings(
    max_examples=60, deadline=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)
def test_resources_answer_as_the_document_says(case: schemathesis.Case, shared: Running) -> None:
    if "true" not in str(case.query).lower():  # a watch does not end
        check(case, shared)


def check(case: schemathesis.Case, server: Running) -> None:
    case.headers["authorization"] = f"Bearer {TOKEN}"
    checks = (
        schemathesis.checks.not_a_server_error,
        schemathesis.specs.openapi.checks.status_code_conformance,
        schemathesis.specs.openapi.checks.content_type_conformance,
        schemathesis.specs.openapi.checks.response_schema_conformance,
    )
    case.call_and_validate(base_url=server.url, checks=list(checks))
