"""The API of a controller, as `stitch` uses it. Plain http.client: it starts faster than any library around it."""

import http.client
import json
import ssl
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from controller.cli.config import Target
from controller.cli.errors import AnswerIsNo, CommandFailed, InputInvalid, NotAllowed, Unreachable
from controller.cli.transport import address

Json = dict[str, Any]
CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 35.0
"""Longer than the controller's own deadline, so that its reason arrives."""
STREAM_TIMEOUT_S = 25.0
"""A watch that is silent for longer than two heartbeats of the controller is dead."""
_RECONNECT_S = 0.2
PAGE = 10_000
"""Resources that are asked for at once."""
UNPAGED = frozenset({"flows", "drops", "tokens"})
"""Answered as they are, all at once."""


class ManifestsRefused(CommandFailed):
    """The controller found something wrong in what was sent; `problems` as in model.event.Problem."""

    def __init__(self, error: str, problems: Sequence[tuple[tuple[str | int, ...], str]]) -> None:
        super().__init__(error)
        self.problems = problems


class _Gone(CommandFailed):
    """What has changed since a revision is not known any more."""


class Client:
    def __init__(
        self,
        target: Target,
        *,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        answer_timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> None:
        """Raises InputInvalid where the URL is none."""
        self.target = target
        self._connect_timeout_s, self._answer_timeout_s = connect_timeout_s, answer_timeout_s
        self._answered = False
        self._address = address(target.server, target.fingerprint, target.ca_file)

    # ---- what there is to ask

    def get(self, kind: str, name: str | None = None) -> Any:
        """A list of resources (or rows); one, if there is a name."""
        if name is not None:
            return self._request("GET", _path(kind, name))
        return self._request("GET", _path(kind)) if kind in UNPAGED else self.resources(kind)[0]

    def resources(self, kind: str, selection: Mapping[str, str] | None = None) -> tuple[list[Json], int | None]:
        """All pages of it, and the revision from which on to watch what changes later.

        `selection`: `labels`, `phase`, `tenant`.
        """
        resources: list[Json] = []
        query: Mapping[str, str] | None = {**(selection or {}), "limit": str(PAGE)}
        revision = None
        while query is not None:
            connection = self._connect(self._answer_timeout_s)
            try:
                response = self._send(connection, "GET", _path(kind), query, b"")
                resources += self._decode(self._read(response, response.read))
            finally:
                connection.close()
            if revision is None:
                revision = int(response.headers.get("netstitch-revision", 0)) or None
            query = _next_page(response.headers.get("link", ""))
        return resources, revision

    def page(self, kind: str, limit: int) -> list[Json]:
        """The first of them."""
        page: list[Json] = self._request("GET", _path(kind), {"limit": str(limit)})
        return page

    def flows(self, intent: str | None, since: float | None = None) -> list[Json]:
        """`since`: what passed since then, interval by interval; else all that nodes have of flows, in total."""
        query = {} if intent is None else {"intent": intent}
        query |= {} if since is None else {"since": repr(since)}
        rows: list[Json] = self._request("GET", "/v1/flows", query=query)
        return rows

    def drops(self, intent: str | None) -> list[Json]:
        rows: list[Json] = self._request("GET", "/v1/drops", query={} if intent is None else {"intent": intent})
        return rows

    def explain(self, kind: str, name: str) -> Json:
        branch: Json = self._request("GET", f"/v1/explain/{kind}/{quote(name)}")
        return branch

    def graph(self, form: str) -> str:
        connection = self._connect(self._answer_timeout_s)
        try:
            response = self._send(connection, "GET", "/v1/graph", {"format": form}, b"")
            return self._read(response, response.read).decode()
        finally:
            connection.close()

    def trace(self, asked: Mapping[str, Any]) -> Json:
        """`asked` as model.trace.Probe or Crossing."""
        answer: Json = self._request("POST", "/v1/trace", body=json.dumps(asked).encode())
        return answer

    def doctor(self) -> Json:
        answer: Json = self._request("GET", "/v1/doctor")
        return answer

    def apply(self, manifests: Sequence[Mapping[str, Any]], *, if_match: str | None = None) -> list[str]:
        """`if_match`: a revision; only if nobody has changed any of them after it (else AnswerIsNo), `*`: only if they
        are there. Raises ManifestsRefused with everything that is wrong."""
        return self._results("POST", "/v1/apply", {}, _encoded(manifests), if_match)

    def preview(self, manifests: Sequence[Mapping[str, Any]], *, if_match: str | None = None) -> Json:
        """`results` and `preview` of a dry run. Raises as `apply`."""
        answer: Json = self._request("POST", "/v1/apply", {"dry_run": "true"}, _encoded(manifests), if_match)
        return answer

    def delete(
        self,
        references: Sequence[tuple[str, str]],
        *,
        ignore_not_found: bool = False,
        if_match: str | None = None,
    ) -> list[str]:
        """All or none; kinds in the plural, and names. `if_match` as of `apply`."""
        query = {"ignore_not_found": "true"} if ignore_not_found else {}
        return self._results("POST", "/v1/delete", query, _references(references), if_match)

    def preview_delete(
        self,
        references: Sequence[tuple[str, str]],
        *,
        ignore_not_found: bool = False,
        if_match: str | None = None,
    ) -> Json:
        """`results` and `preview` of a dry run."""
        query = {"dry_run": "true"} | ({"ignore_not_found": "true"} if ignore_not_found else {})
        answer: Json = self._request("POST", "/v1/delete", query, _references(references), if_match)
        return answer

    def reload_policy(self, *, dry_run: bool) -> list[str]:
        """Raises InputInvalid with all that is wrong with the file, each with its place."""
        return self._results("POST", "/v1/policy/reload", {"dry_run": "true"} if dry_run else {})

    def decide(self, incident: str, decision: str) -> list[str]:
        """`decision`: approve or reject."""
        return self._results("POST", f"/v1/incidents/{quote(incident)}/{decision}")

    def renew(self, intent: str) -> list[str]:
        return self._results("POST", f"/v1/intents/{quote(intent)}/renew")

    def drain(self, kind: str, name: str, *, is_drained: bool) -> list[str]:
        """`kind`: nodes or links."""
        return self._results("POST", f"/v1/{kind}/{quote(name)}/{'drain' if is_drained else 'undrain'}")

    def end_agreement(self, name: str, reason: str, hold_off_s: int) -> list[str]:
        body = json.dumps({"reason": reason, "hold_off_s": hold_off_s}).encode()
        return self._results("POST", f"/v1/agreements/{quote(name)}/end", body=body)

    def backup(self) -> bytes:
        connection = self._connect(self._answer_timeout_s)
        try:
            response = self._send(connection, "GET", "/v1/backup", {}, b"")
            return self._read(response, response.read)
        finally:
            connection.close()

    def restore(self, copy: bytes) -> list[str]:
        connection = self._connect(self._answer_timeout_s)
        try:
            response = self._send(connection, "POST", "/v1/restore", {}, copy, "application/vnd.sqlite3")
            answer = self._decode(self._read(response, response.read))
            return [str(result) for result in answer["results"]]
        finally:
            connection.close()

    def whoami(self) -> Json:
        who: Json = self._request("GET", "/v1/whoami")
        return who

    def create_token(self, asked: Mapping[str, Any]) -> Json:
        """With its secret, which is told only here."""
        answer: Json = self._request("POST", "/v1/tokens", body=json.dumps(asked).encode())
        return answer

    def revoke_token(self, name: str) -> list[str]:
        return self._results("DELETE", f"/v1/tokens/{quote(name)}")

    def watch(
        self,
        kind: str,
        name: str | None = None,
        deadline: float | None = None,
        *,
        selection: Mapping[str, str] | None = None,
        since: int | None = None,
        known: Iterable[Json] = (),
    ) -> Iterator[Json | None]:
        """The present resources (with `since` what has changed later), then each as it changes; None where nothing
        happened for a while. `known`: what is known of them at `since`.

        Ends only at `deadline` (time.monotonic). When a controller goes away that has answered this client before, it
        is asked again until it is back, and goes on where it was; where it does not know any more what has changed,
        all is looked at again.
        """
        seen = {str(earlier["metadata"]["name"]): _content(earlier) for earlier in known}
        while True:
            query = {**(selection or {}), "watch": "true", **({} if since is None else {"since": str(since)})}
            try:
                for line in self._lines(_path(kind, name), query, deadline):
                    if not line.strip():
                        yield None
                        continue
                    resource = json.loads(line)
                    since = max(since or 0, int(resource["metadata"].get("revision", 0))) or None
                    _note(seen, resource)
                    yield resource
            except _Gone:
                present, since = self._present(kind, name, selection)
                for gone in seen.keys() - {str(current["metadata"]["name"]) for current in present}:
                    yield {"kind": kind, "metadata": {"name": gone}, "spec": {}, "status": {"deleted": True}}
                changed = [
                    current for current in present if seen.get(str(current["metadata"]["name"])) != _content(current)
                ]
                seen = {str(current["metadata"]["name"]): _content(current) for current in present}
                yield from changed
            except Unreachable:
                if not self._answered:
                    raise  # it was never there
            if deadline is not None and time.monotonic() >= deadline:
                return
            yield None
            time.sleep(_RECONNECT_S)

    def _present(
        self, kind: str, name: str | None, selection: Mapping[str, str] | None
    ) -> tuple[list[Json], int | None]:
        resources, revision = self.resources(kind, selection)
        return [resource for resource in resources if name in (None, resource["metadata"]["name"])], revision

    # ---- how

    def _results(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: bytes = b"",
        if_match: str | None = None,
    ) -> list[str]:
        results: list[str] = self._request(method, path, query, body, if_match)["results"]
        return results

    def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: bytes = b"",
        if_match: str | None = None,
    ) -> Any:
        connection = self._connect(self._answer_timeout_s)
        try:
            response = self._send(connection, method, path, query or {}, body, if_match=if_match)
            return self._decode(self._read(response, response.read))
        finally:
            connection.close()

    def _lines(self, path: str, query: Mapping[str, str], deadline: float | None) -> Iterator[bytes]:
        connection = self._connect(STREAM_TIMEOUT_S)
        try:
            response = self._send(connection, "GET", path, query, b"")
            while True:
                if deadline is not None and connection.sock is not None:
                    left_s = deadline - time.monotonic()
                    if left_s <= 0:
                        return
                    connection.sock.settimeout(min(left_s, STREAM_TIMEOUT_S))
                line = self._read(response, response.readline)
                if not line:
                    return
                yield line
        finally:
            connection.close()

    def _connect(self, timeout_s: float) -> http.client.HTTPConnection:
        try:
            connection = self._address.connect(self._connect_timeout_s)
        except (OSError, UnicodeError) as error:
            raise self._unreachable(error) from error
        connection.sock.settimeout(timeout_s)
        return connection

    def _send(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: bytes,
        media: str = "application/json",
        *,
        if_match: str | None = None,
    ) -> http.client.HTTPResponse:
        """The response, if it is a yes."""
        address = f"{self._address.base}{path}" + (f"?{urlencode(query)}" if query else "")
        headers = {"Authorization": f"Bearer {self.target.token}", "Accept": "application/json"}
        if body:
            headers["Content-Type"] = media
        if if_match is not None:
            headers["If-Match"] = "*" if if_match == "*" else f'"{if_match}"'
        try:
            connection.request(method, address, body=body or None, headers=headers)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        if response.status != http.client.OK:
            self._refuse(response.status, self._read(response, response.read))
        self._answered = True
        return response

    def _refuse(self, status: int, body: bytes) -> None:
        """Raises what a status other than 200 means."""
        try:
            answer = json.loads(body)
            error = str(answer["error"])
            problems = [(tuple(problem["path"]), str(problem["message"])) for problem in answer["problems"]]
        except (ValueError, KeyError, TypeError) as broken:
            raise self._no_controller(f"status {status}") from broken
        match status:
            case 400 | 413:
                about_manifests = problems and not any(path[:1] in (("query",), ("header",)) for path, _ in problems)
                raise ManifestsRefused(error, problems) if about_manifests else InputInvalid(error)
            case 401 | 403:
                raise NotAllowed(f"{self.target.server}: {error}")
            case 404 if any(path == ("kind",) for path, _ in problems):
                raise InputInvalid(error)
            case 410:
                raise _Gone(error)
            case 404 | 409 | 412:
                raise AnswerIsNo("\n".join(dict.fromkeys(message for _, message in problems)) or error)
            case _:
                raise Unreachable(f"{self.target.server}: {error} (status {status})")

    def _read(self, response: http.client.HTTPResponse, read: Any) -> bytes:
        try:
            data: bytes = read()
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._unreachable(error) from error
        return data

    def _decode(self, data: bytes) -> Any:
        try:
            return json.loads(data)
        except ValueError as error:
            raise self._no_controller("no JSON") from error

    def _unreachable(self, error: Exception) -> Unreachable:
        if isinstance(error, ssl.SSLCertVerificationError):
            return Unreachable(
                f"{self.target.server} ({self.target.said_by}): nobody vouches for its certificate "
                f"({error.verify_message.rstrip('.')}); pin it with --fingerprint, which `stitchd fingerprint` says on "
                "its machine, or give the CA with --ca-file"
            )
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return Unreachable(
            f"the controller at {self.target.server} ({self.target.said_by}) cannot be reached: {reason}; does it run?"
        )

    def _no_controller(self, answered: str) -> Unreachable:
        return Unreachable(
            f"{self.target.server} ({self.target.said_by}) does not answer like a controller of netstitch ({answered})"
        )


def _path(kind: str, name: str | None = None) -> str:
    return f"/v1/{kind}" if name is None else f"/v1/{kind}/{quote(name)}"


def _next_page(link: str) -> dict[str, str] | None:
    """The query of what `<URL>; rel="next"` leads to; None: there is no more."""
    url, _, relation = link.partition(">")
    return dict(parse_qsl(urlsplit(url.lstrip("<")).query)) if 'rel="next"' in relation else None


def _content(resource: Json) -> int:
    """Equal for what is equal but for the revision."""
    metadata = {name: value for name, value in resource["metadata"].items() if name != "revision"}
    return hash(json.dumps([metadata, resource["spec"], resource["status"]], sort_keys=True))


def _note(seen: dict[str, int], resource: Json) -> None:
    name = str(resource["metadata"]["name"])
    if resource["status"].get("deleted"):
        seen.pop(name, None)
    else:
        seen[name] = _content(resource)


def _encoded(manifests: Sequence[Mapping[str, Any]]) -> bytes:
    return json.dumps(list(manifests), ensure_ascii=False, separators=(",", ":")).encode()


def _references(references: Sequence[tuple[str, str]]) -> bytes:
    return json.dumps([{"kind": kind, "name": name} for kind, name in references], ensure_ascii=False).encode()
