"""The requests of the API, one function each, and what is read from their answers. Nothing here sends anything."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypedDict, TypeVar
from urllib.parse import parse_qsl, quote, urlsplit

import httpx

from netstitch import errors

T = TypeVar("T")
Json = dict[str, Any]
PAGE = 10_000
"""Resources that are asked for at once."""


class Metadata(TypedDict, total=False):
    name: str
    revision: int
    tenant: str
    labels: dict[str, str]


class Resource(TypedDict):
    apiVersion: str
    kind: str
    metadata: Metadata
    spec: Json
    status: Json


class Reference(TypedDict):
    kind: str
    """In the plural: `intents`."""
    name: str


class Page(TypedDict):
    resources: list[Resource]
    revision: int
    """From which on to watch what changes later."""
    rest: dict[str, str] | None
    """The query that the rest is asked for with; None: there is no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[T]):
    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    """As JSON, if there is one; bytes are a backup."""
    read: Callable[[httpx.Response], T]


OPERATIONS: dict[tuple[str, str], str] = {
    ("GET", "/healthz"): "healthy",
    ("GET", "/metrics"): "metrics",
    ("GET", "/v1/flows"): "flows",
    ("GET", "/v1/drops"): "drops",
    ("GET", "/v1/doctor"): "doctor",
    ("GET", "/v1/explain/{kind}/{name}"): "explain",
    ("GET", "/v1/graph"): "graph",
    ("POST", "/v1/trace"): "trace",
    ("GET", "/v1/whoami"): "whoami",
    ("GET", "/v1/backup"): "backup",
    ("POST", "/v1/restore"): "restore",
    ("GET", "/v1/tokens"): "tokens",
    ("GET", "/v1/tokens/{name}"): "token",
    ("POST", "/v1/tokens"): "create_token",
    ("DELETE", "/v1/tokens/{name}"): "revoke_token",
    ("POST", "/v1/apply"): "apply",
    ("POST", "/v1/policy/reload"): "reload_policy",
    ("POST", "/v1/intents/{name}/renew"): "renew",
    ("POST", "/v1/{kind}/{name}/drain"): "drain",
    ("POST", "/v1/{kind}/{name}/undrain"): "undrain",
    ("POST", "/v1/incidents/{name}/approve"): "approve_incident",
    ("POST", "/v1/incidents/{name}/reject"): "reject_incident",
    ("POST", "/v1/agreements/{name}/end"): "end_agreement",
    ("GET", "/v1/{kind}"): "list",
    ("GET", "/v1/{kind}/{name}"): "get",
    ("DELETE", "/v1/{kind}/{name}"): "delete",
    ("POST", "/v1/delete"): "delete_all",
}
"""Of the OpenAPI document, and the method of the clients for each; `watch` is of the two that take `watch`."""


def healthy() -> Call[bool]:
    return Call(method="GET", path="/healthz", read=lambda answer: bool(_object(answer)["status"] == "ok"))


def metrics() -> Call[str]:
    return Call(method="GET", path="/metrics", read=lambda answer: answer.text)


def flows(intent: str | None, since: float | None) -> Call[list[Json]]:
    given = _given(intent=intent, since=None if since is None else repr(since))
    return Call(method="GET", path="/v1/flows", query=given, read=_array)


def drops(intent: str | None) -> Call[list[Json]]:
    return Call(method="GET", path="/v1/drops", query=_given(intent=intent), read=_array)


def doctor() -> Call[Json]:
    return Call(method="GET", path="/v1/doctor", read=_object)


def explain(kind: str, name: str) -> Call[Json]:
    return Call(method="GET", path=f"/v1/explain/{quote(kind)}/{quote(name)}", read=_object)


def graph(format: str) -> Call[str]:
    return Call(method="GET", path="/v1/graph", query={"format": format}, read=lambda answer: answer.text)


def trace(asked: Mapping[str, Any]) -> Call[Json]:
    return Call(method="POST", path="/v1/trace", body=dict(asked), read=_object)


def whoami() -> Call[Json]:
    return Call(method="GET", path="/v1/whoami", read=_object)


def backup() -> Call[bytes]:
    return Call(method="GET", path="/v1/backup", read=lambda answer: answer.content)


def restore(copy: bytes) -> Call[list[str]]:
    headers = {"content-type": "application/vnd.sqlite3"}
    return Call(method="POST", path="/v1/restore", headers=headers, body=copy, read=_results)


def tokens() -> Call[list[Resource]]:
    return Call(method="GET", path="/v1/tokens", read=_array)


def token(name: str) -> Call[Resource]:
    return Call(method="GET", path=f"/v1/tokens/{quote(name)}", read=_resource)


def create_token(asked: Mapping[str, Any]) -> Call[Json]:
    return Call(method="POST", path="/v1/tokens", body=dict(asked), read=_object)


def revoke_token(name: str) -> Call[list[str]]:
    return Call(method="DELETE", path=f"/v1/tokens/{quote(name)}", read=_results)


def apply(manifests: Iterable[Mapping[str, Any]], dry_run: bool, unchanged_since: int | None) -> Call[list[str]]:
    return Call(
        method="POST",
        path="/v1/apply",
        query=_given(dry_run=dry_run or None),
        headers=_if_match(unchanged_since),
        body=[dict(manifest) for manifest in manifests],
        read=_results,
    )


def reload_policy(dry_run: bool) -> Call[list[str]]:
    return Call(method="POST", path="/v1/policy/reload", query=_given(dry_run=dry_run or None), read=_results)


def decide(incident: str, decision: str) -> Call[list[str]]:
    """`decision`: approve or reject."""
    return Call(method="POST", path=f"/v1/incidents/{quote(incident)}/{decision}", read=_results)


def renew(intent: str) -> Call[list[str]]:
    return Call(method="POST", path=f"/v1/intents/{quote(intent)}/renew", read=_results)


def drain(kind: str, name: str, way: str) -> Call[list[str]]:
    """`way`: drain or undrain."""
    return Call(method="POST", path=f"/v1/{quote(kind)}/{quote(name)}/{way}", read=_results)


def end_agreement(name: str, reason: str, hold_off_s: int | None) -> Call[list[str]]:
    body: Json = {"reason": reason} | ({} if hold_off_s is None else {"hold_off_s": hold_off_s})
    return Call(method="POST", path=f"/v1/agreements/{quote(name)}/end", body=body, read=_results)


def delete(kind: str, name: str, dry_run: bool, unchanged_since: int | None) -> Call[list[str]]:
    path = f"/v1/{quote(kind)}/{quote(name)}"
    query, headers = _given(dry_run=dry_run or None), _if_match(unchanged_since)
    return Call(method="DELETE", path=path, query=query, headers=headers, read=_results)


def delete_all(
    references: Iterable[Reference], ignore_not_found: bool, dry_run: bool, unchanged_since: int | None
) -> Call[list[str]]:
    return Call(
        method="POST",
        path="/v1/delete",
        query=_given(ignore_not_found=ignore_not_found or None, dry_run=dry_run or None),
        headers=_if_match(unchanged_since),
        body=[{"kind": reference["kind"], "name": reference["name"]} for reference in references],
        read=_results,
    )


def get(kind: str, name: str) -> Call[Resource]:
    return Call(method="GET", path=f"/v1/{quote(kind)}/{quote(name)}", read=_resource)


def page(kind: str, query: Mapping[str, str]) -> Call[Page]:
    """One page; the query of the next is in it."""
    return Call(method="GET", path=f"/v1/{quote(kind)}", query=query, read=_page)


def sent(call: Call[Any]) -> dict[str, Any]:
    """What httpx sends for it."""
    body = {"content": call.body} if isinstance(call.body, bytes) else {"json": call.body}
    return {"params": dict(call.query), "headers": dict(call.headers), **body}


def selection(
    labels: str | None = None, phase: str | None = None, tenant: str | None = None, about: str | None = None
) -> dict[str, str]:
    return _given(labels=labels, phase=phase, tenant=tenant, about=about)


def refused(answer: httpx.Response) -> errors.Error:
    """What an answer that is no 200 means."""
    try:
        body = answer.json()
        kind = errors.KINDS.get(answer.status_code, errors.Refused)
        return kind(answer.status_code, str(body["error"]), body["problems"], body.get("now"))
    except (ValueError, KeyError, TypeError):
        return errors.Unreachable(f"{answer.url} does not answer like a controller (status {answer.status_code})")


class Followed:
    """What a watch has shown, so that it can go on after an interruption."""

    def __init__(self, since: int | None) -> None:
        self.since = since
        self._known: dict[str, str] = {}

    def query(self, selected: Mapping[str, str]) -> dict[str, str]:
        return {**selected, "watch": "true", **({} if self.since is None else {"since": str(self.since)})}

    def line(self, text: str) -> Resource | None:
        """The change of a line; None: the line is there to show that the controller is."""
        if not text.strip():
            return None
        resource: Resource = json.loads(text)
        self.since = max(self.since or 0, int(resource["metadata"].get("revision", 0))) or None
        self._note(resource)
        return resource

    def anew(self, resources: Sequence[Resource], revision: int) -> list[Resource]:
        """All was listed again: what is other than it was shown."""
        names = {resource["metadata"]["name"] for resource in resources}
        gone: list[Resource] = [
            {
                "apiVersion": "netstitch/v1",
                "kind": "",
                "metadata": {"name": name, "revision": revision},
                "spec": {},
                "status": {"deleted": True},
            }
            for name in self._known.keys() - names
        ]
        changed = [
            resource for resource in resources if self._known.get(resource["metadata"]["name"]) != _content(resource)
        ]
        for resource in (*gone, *changed):
            self._note(resource)
        self.since = revision or None
        return [*gone, *changed]

    def _note(self, resource: Resource) -> None:
        name = resource["metadata"]["name"]
        if resource["status"].get("deleted"):
            self._known.pop(name, None)
        else:
            self._known[name] = _content(resource)


def _content(resource: Resource) -> str:
    metadata = {name: value for name, value in resource["metadata"].items() if name != "revision"}
    return json.dumps([metadata, resource["spec"], resource["status"]], sort_keys=True)


def _given(**values: str | bool | None) -> dict[str, str]:
    return {name: "true" if value is True else str(value) for name, value in values.items() if value is not None}


def _if_match(revision: int | None) -> dict[str, str]:
    return {} if revision is None else {"if-match": f'"{revision}"'}


def _object(answer: httpx.Response) -> Json:
    decoded: Json = answer.json()
    return decoded


def _array(answer: httpx.Response) -> list[Any]:
    decoded: list[Any] = answer.json()
    return decoded


def _resource(answer: httpx.Response) -> Resource:
    decoded: Resource = answer.json()
    return decoded


def _results(answer: httpx.Response) -> list[str]:
    lines: list[str] = answer.json()["results"]
    return lines


def _page(answer: httpx.Response) -> Page:
    url = answer.links.get("next", {}).get("url")
    rest = dict(parse_qsl(urlsplit(url).query)) if url is not None else None
    return {"resources": answer.json(), "revision": int(answer.headers.get("netstitch-revision", 0)), "rest": rest}
