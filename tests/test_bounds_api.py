"""Every parameter and every field of every body of the REST API, as its OpenAPI document has them: at its bounds it is
answered, beyond them refused with a reason; asked of a real shell."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
from northbound_fake import TOKEN
from test_bounds_written import SAMPLES
from test_permits import AGREEMENT, PROBE, WHO, World, refs, world

from controller.northbound import schema as records
from tests.beyond_schema import beyond, kinds, places, within
from tests.beyond_written import at, changed, without

METHODS = ("get", "post", "delete")
BODIES: dict[str, list[Any]] = {
    "/v1/trace": [PROBE | {"protocol": "tcp", "port": 443}, {"border": "sg1-t1", "frame": "00" * 60}],
    "/v1/tokens": [WHO | {"tenants": ["customer-x"], "lifetime_s": 60}],
    "/v1/agreements/{name}/end": [{"reason": "a test", "hold_off_s": 10}],
    "/v1/delete": [refs("intents/none")],
    "/v1/apply": [SAMPLES["Network"]],
}
"""Whole and valid ones; what they do is done first."""
NAMES = {"/v1/agreements/{name}/end": AGREEMENT, "/v1/intents/{name}/renew": "order-processing"}
NO_JSON = (
    b"", b"\x00", b"\xff" * 50, b"\xed\xa0\x80", b"[" * 100_000, b'{"":' * 100_000, b"1" * 5000,
    b"[1" + b"0" * 5000 + b"]",
    b'{"a":1', b"[1,]", b"nul", b'"\\ud800"', b"[] []", b'{"name": "\\u0000"}', b"NaN",
)  # fmt: skip


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method in METHODS:
            if method in methods:
                yield method, path, methods[method]


def filled(path: str, **instead: str) -> str:
    name = instead.get("name", NAMES.get(path, "order-processing"))
    return path.replace("{kind}", instead.get("kind", "intents")).replace("{name}", name)


async def send(
    asked: World, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> httpx.Response:
    """A watch is asked for only where it is refused."""
    said = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json", **(headers or {})}
    return await asked.client.request(method, path, content=body, headers=said)


def refused(answer: httpx.Response) -> bool:
    """With a reason, which is short."""
    said = answer.json()
    return answer.status_code in (400, 404, 413) and bool(said["error"]) and len(answer.content) < 20_000


def quoted(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return quote(text.encode("utf-8", "surrogatepass"), safe="")


async def answers(asked: World, method: str, path: str, parameter: dict[str, Any], value: Any) -> httpx.Response:
    """To a request that has this value there, and what it needs besides."""
    raw = quoted(value)
    base = BODIES.get(path)
    body = json.dumps(base[0]).encode() if base is not None else None
    match parameter["in"]:
        case "path":
            return await send(asked, method, filled(path, **{parameter["name"]: raw}), body)
        case "query":
            return await send(asked, method, f"{filled(path)}?{parameter['name']}={raw}", body)
    return await send(asked, method, filled(path), body, {parameter["name"]: raw})


async def test_every_parameter(tmp_path: Path) -> None:
    async with world(tmp_path) as asked:
        document = (await send(asked, "get", "/openapi.json")).json()
        wrong, visited = [], Counter[tuple[str, str, str]]()
        for method, path, operation in operations(document):
            for parameter in operation.get("parameters", ()):
                place, name = (method, path, parameter["name"]), parameter["name"]
                for kind in kinds(parameter["schema"], document["components"]["schemas"]):
                    values = [
                        case
                        for case in beyond(kind)
                        if not (kind["type"] == "boolean" and case in (0, 1, "true"))  # as good a way to write it
                        and not (kind["type"] == "integer" and case in ("1",))
                        and not (kind["type"] == "string" and not isinstance(case, str))  # all is text there
                        and not (case == "\ud800" and parameter["in"] != "path")
                        and not ("enum" in kind and len(quoted(case)) > 50_000)  # httpx makes no such URL
                    ]
                    for value in values:
                        answer = await answers(asked, method, path, parameter, value)
                        visited[place] += 1
                        if not refused(answer):
                            wrong.append(f"{place} {value!r:.60}: {answer.status_code} {answer.text:.200}")
                    for value in within(kind):
                        if name == "watch" and value is True:
                            continue  # it would be answered for ever
                        answer = await answers(asked, method, path, parameter, value)
                        if answer.status_code not in (200, 400, 404, 409, 412):
                            wrong.append(f"{place} {value!r:.60}: {answer.status_code} {answer.text:.200}")
                if parameter["in"] == "query":
                    answer = await send(asked, method, f"{filled(path)}?{name}=1&{name}=1", b"[]")
                    if not (refused(answer) and "twice" in answer.text):
                        wrong.append(f"{place} twice: {answer.status_code} {answer.text:.200}")
        assert not wrong, f"{len(wrong)}:\n" + "\n".join(wrong[:50])
        assert len(visited) == sum(len(operation.get("parameters", ())) for _, _, operation in operations(document))
        assert not asked.shell.contained.counts and min(visited.values()) >= 2, visited


async def test_every_field_of_every_body(tmp_path: Path) -> None:
    async with world(tmp_path) as asked:
        document = (await send(asked, "get", "/openapi.json")).json()
        components = document["components"]["schemas"]
        wrong, visited = [], Counter[tuple[str, ...]]()
        expected = set()
        for method, path, operation in operations(document):
            content = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if content is None:
                continue
            known = [*places(content["schema"], components)]
            for place, kind in known:
                if kind == {"type": "null"}:
                    continue
                expected.add((path, *map(str, place)))
                for sample in BODIES[path]:
                    try:
                        present = at(sample, place)
                    except LookupError:
                        continue
                    if not all(name in present for name in kind.get("required", ())):
                        continue  # it is one of the other kind
                    for value in within(kind):
                        body = json.dumps(changed(sample, place, value)).encode()
                        answer = await send(asked, method, filled(path), body)
                        if answer.status_code not in (200, 400, 404, 409):
                            wrong.append(f"{path} {place} {value!r:.60}: {answer.status_code} {answer.text:.200}")
                    for value in beyond(kind):
                        if value is None and (place, {"type": "null"}) in known:
                            continue
                        body = json.dumps(changed(sample, place, value)).encode()
                        answer = await send(asked, method, filled(path), body)
                        visited[(path, *map(str, place))] += 1
                        if not refused(answer):
                            wrong.append(f"{path} {place} {value!r:.60}: {answer.status_code} {answer.text:.200}")
                    for required in kind.get("required", ()):
                        body = json.dumps(without(sample, (*place, required))).encode()
                        if not refused(answer := await send(asked, method, filled(path), body)):
                            wrong.append(f"{path} without {place}/{required}: {answer.status_code} {answer.text:.200}")
            for raw in NO_JSON:
                answer = await send(asked, method, filled(path), raw)
                wrong += [] if refused(answer) else [f"{path} {raw[:40]!r}: {answer.status_code} {answer.text:.200}"]
        assert not wrong, f"{len(wrong)}:\n" + "\n".join(wrong[:50])
        assert visited.keys() == expected and min(visited.values()) > 10, expected - visited.keys()
        assert not asked.shell.contained.counts


def test_no_body_takes_what_is_only_nearly_of_its_type() -> None:
    for record in records.BODIES:
        assert record.model_config.get("strict") and record.model_config.get("extra") == "forbid", record
