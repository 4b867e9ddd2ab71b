"""The API of a controller, as `stitch` uses it. Plain http.client: it starts faster than any library around it."""

import http.client
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

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


class ManifestsRefused(CommandFailed):
    """The controller found something wrong in what was sent; `problems` as in model.event.Problem."""

    def __init__(self, error: str, problems: Sequence[tuple[tuple[str | int, ...], str]]) -> None:
        super().__init__(error)
        self.problems = problems


class Client:
    def __init__(self, target: Target) -> None:
        """Raises InputInvalid where the URL is none."""
        self.target = target
        self._address = address(target.server, target.fingerprint, target.ca_file)

    # ---- what there is to ask

    def get(self, kind: str, name: str | None = None) -> Any:
        """A list of resources (or rows); one, if there is a name."""
        return self._request("GET", f"/v1/{kind}" if name is None else f"/v1/{kind}/{quote(name)}")

    def flows(self, intent: str | None) -> list[Json]:
        rows: list[Json] = self._request("GET", "/v1/flows", query={} if intent is None else {"intent": intent})
        return rows

    def explain(self, kind: str, name: str) -> Json:
        branch: Json = self._request("GET", f"/v1/explain/{kind}/{quote(name)}")
        return branch

    def trace(self, asked: Mapping[str, Any]) -> Json:
        """`asked` as model.trace.Probe or Crossing."""
        found: Json = self._request("POST", "/v1/trace", body=json.dumps(asked).encode())
        return found

    def doctor(self) -> Json:
        answer: Json = self._request("GET", "/v1/doctor")
        return answer

    def apply(self, manifests: Sequence[Mapping[str, Any]], *, dry_run: bool) -> list[str]:
        """Raises ManifestsRefused with everything that is wrong."""
        query = {"dry_run": "true"} if dry_run else {}
        body = json.dumps(list(manifests), ensure_ascii=False, separators=(",", ":")).encode()
        return self._results("POST", "/v1/apply", query, body)

    def delete(self, references: Sequence[tuple[str, str]], *, ignore_not_found: bool = False) -> list[str]:
        """All or none; kinds in the plural, and names."""
        query = {"ignore_not_found": "true"} if ignore_not_found else {}
        body = json.dumps([{"kind": kind, "name": name} for kind, name in references], ensure_ascii=False).encode()
        return self._results("POST", "/v1/delete", query, body)

    def reload_policy(self, *, dry_run: bool) -> list[str]:
        """Raises InputInvalid with all that is wrong with the file, each with its place."""
        return self._results("POST", "/v1/policy/reload", {"dry_run": "true"} if dry_run else {})

    def renew(self, intent: str) -> list[str]:
        return self._results("POST", f"/v1/intents/{quote(intent)}/renew")

    def end_agreement(self, name: str, reason: str, hold_off_s: int) -> list[str]:
        body = json.dumps({"reason": reason, "hold_off_s": hold_off_s}).encode()
        return self._results("POST", f"/v1/agreements/{quote(name)}/end", body=body)

    def whoami(self) -> Json:
        who: Json = self._request("GET", "/v1/whoami")
        return who

    def create_token(self, asked: Mapping[str, Any]) -> Json:
        """With its secret, which is told only here."""
        answer: Json = self._request("POST", "/v1/tokens", body=json.dumps(asked).encode())
        return answer

    def revoke_token(self, name: str) -> list[str]:
        return self._results("DELETE", f"/v1/tokens/{quote(name)}")

    def watch(self, kind: str, name: str | None = None, deadline: float | None = None) -> Iterator[Json | None]:
        """The present resources, then each as it changes; None where nothing happened for a while.

        Ends only at `deadline` (time.monotonic). When the controller goes away, it is asked again until it is back.
        """
        path = f"/v1/{kind}" if name is None else f"/v1/{kind}/{quote(name)}"
        began = False
        while True:
            try:
                for line in self._lines(path, deadline):
                    began = True
                    yield json.loads(line) if line.strip() else None
            except Unreachable:
                if not began:
                    raise  # it was never there
            if deadline is not None and time.monotonic() >= deadline:
                return
            yield None
            time.sleep(_RECONNECT_S)

    # ---- how

    def _results(self, method: str, path: str, query: Mapping[str, str] | None = None, body: bytes = b"") -> list[str]:
        results: list[str] = self._request(method, path, query, body)["results"]
        return results

    def _request(self, method: str, path: str, query: Mapping[str, str] | None = None, body: bytes = b"") -> Any:
        connection = self._connect(ANSWER_TIMEOUT_S)
        try:
            response = self._send(connection, method, path, query or {}, body)
            return self._decode(self._read(response, response.read))
        finally:
            connection.close()

    def _lines(self, path: str, deadline: float | None) -> Iterator[bytes]:
        connection = self._connect(STREAM_TIMEOUT_S)
        try:
            response = self._send(connection, "GET", path, {"watch": "true"}, b"")
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
            connection = self._address.connect(CONNECT_TIMEOUT_S)
        except (OSError, UnicodeError) as error:
            raise self._unreachable(error) from error
        connection.sock.settimeout(timeout_s)
        return connection

    def _send(
        self, connection: http.client.HTTPConnection, method: str, path: str, query: Mapping[str, str], body: bytes
    ) -> http.client.HTTPResponse:
        """The response, if it is a yes."""
        address = f"{self._address.base}{path}" + (f"?{urlencode(query)}" if query else "")
        headers = {"Authorization": f"Bearer {self.target.token}", "Accept": "application/json"}
        if body:
            headers["Content-Type"] = "application/json"
        try:
            connection.request(method, address, body=body or None, headers=headers)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        if response.status != http.client.OK:
            self._refuse(response.status, self._read(response, response.read))
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
                raise ManifestsRefused(error, problems) if problems else InputInvalid(error)
            case 401 | 403:
                raise NotAllowed(f"{self.target.server}: {error}")
            case 404 if any(path == ("kind",) for path, _ in problems):
                raise InputInvalid(error)
            case 404 | 409:
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
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return Unreachable(
            f"the controller at {self.target.server} ({self.target.said_by}) cannot be reached: {reason}; does it run?"
        )

    def _no_controller(self, found: str) -> Unreachable:
        return Unreachable(
            f"{self.target.server} ({self.target.said_by}) does not answer like a controller of netstitch ({found})"
        )
