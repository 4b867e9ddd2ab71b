"""Which role may use which route, and what a request may say beside its body. Every request passes here once.

A route that is not in `PERMITS` is refused to everybody, so that a new one is thought of before it is open.
"""

import difflib
import enum
import itertools
from collections.abc import Iterator
from urllib.parse import parse_qsl

from fastapi import FastAPI
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from controller.model.access import Principal, Role
from controller.model.event import Problem
from controller.northbound.guard import answer_error

PROBLEMS_MAX = 20
OUR_HEADERS = ("netstitch-", "x-netstitch-")


class Permit(enum.Enum):
    """Who may use a route. What one gets to see there is narrowed by northbound.scope."""

    ALL = "everybody"
    READ = "every token"
    WHOLE = "administrators, and readers of everything"
    ACT = "administrators and operators"
    ADMIN = "administrators"


PERMITS: dict[tuple[str, str], Permit] = {
    ("GET", "/healthz"): Permit.ALL,
    ("GET", "/openapi.json"): Permit.READ,
    ("GET", "/metrics"): Permit.WHOLE,
    ("GET", "/v1/whoami"): Permit.READ,
    ("GET", "/v1/flows"): Permit.READ,
    ("GET", "/v1/drops"): Permit.WHOLE,
    ("GET", "/v1/doctor"): Permit.WHOLE,
    ("GET", "/v1/graph"): Permit.WHOLE,
    ("GET", "/v1/explain/{kind}/{name:path}"): Permit.READ,
    ("POST", "/v1/trace"): Permit.READ,
    ("POST", "/v1/apply"): Permit.ACT,
    ("POST", "/v1/delete"): Permit.ACT,
    ("POST", "/v1/intents/{name:path}/renew"): Permit.ACT,
    ("POST", "/v1/agreements/{name:path}/end"): Permit.ADMIN,
    ("POST", "/v1/{kind}/{name:path}/drain"): Permit.ADMIN,
    ("POST", "/v1/{kind}/{name:path}/undrain"): Permit.ADMIN,
    ("POST", "/v1/incidents/{name:path}/approve"): Permit.ACT,
    ("POST", "/v1/incidents/{name:path}/reject"): Permit.ACT,
    ("POST", "/v1/policy/reload"): Permit.ADMIN,
    ("GET", "/v1/backup"): Permit.ADMIN,
    ("POST", "/v1/restore"): Permit.ADMIN,
    ("GET", "/v1/tokens"): Permit.WHOLE,
    ("GET", "/v1/tokens/{name}"): Permit.WHOLE,
    ("POST", "/v1/tokens"): Permit.ADMIN,
    ("DELETE", "/v1/tokens/{name}"): Permit.ADMIN,
    ("GET", "/v1/{kind}"): Permit.READ,
    ("GET", "/v1/{kind}/{name:path}"): Permit.READ,
    ("DELETE", "/v1/{kind}/{name:path}"): Permit.ACT,
}
"""By method and path as the application declares them."""


def admits(permit: Permit, principal: Principal | None) -> bool:
    match permit:
        case Permit.ALL:
            return True
        case Permit.READ:
            return principal is not None
        case Permit.WHOLE:
            return principal is not None and principal.tenants is None
        case Permit.ACT:
            return principal is not None and principal.role in (Role.ADMIN, Role.OPERATOR)
        case Permit.ADMIN:
            return principal is not None and principal.role == Role.ADMIN


class Permits:
    """ASGI: refuses what the holder of the token may not do (403), and what a route does not know (400)."""

    def __init__(self, app: ASGIApp, *, api: FastAPI) -> None:
        """`api` is where the routes are; what they know is what its OpenAPI document says of them."""
        self._app = app
        self._api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._route(scope) if scope["type"] == "http" else None
        if route is not None:
            method, path = scope["method"].replace("HEAD", "GET"), getattr(route, "path", "")
            permit = PERMITS.get((method, path))
            principal: Principal | None = scope.get("state", {}).get("principal")
            if permit is None or not admits(permit, principal):
                await answer_error(send, 403, _forbidden(method, path, permit, principal), unread=receive)
                return
            known = self._known(method, getattr(route, "path_format", path))
            problems = tuple(itertools.islice(_flaws(scope, known), PROBLEMS_MAX))
            if problems:
                error = f"the request is not valid: {problems[0].message}"
                await answer_error(send, 400, error, problems=problems, unread=receive)
                return
        await self._app(scope, receive, send)

    def _route(self, scope: Scope) -> BaseRoute | None:
        """None: what answers is no route (404, 405)."""
        routes = self._api.router.routes
        return next((route for route in routes if route.matches(scope)[0] is Match.FULL), None)

    def _known(self, method: str, path: str) -> "Known":
        operation = self._api.openapi()["paths"].get(path, {}).get(method.lower(), {})
        return [(parameter["in"], parameter["name"]) for parameter in operation.get("parameters", ())]


def _forbidden(method: str, path: str, permit: Permit | None, principal: Principal | None) -> str:
    who = "nobody" if permit is None else permit.value
    whose = f"token {principal.name} is an {principal.role}'s" if principal is not None else "there is no token"
    if principal is not None and principal.tenants is not None:
        whose += f" of {', '.join(principal.tenants)}"
    return f"{method} {path} is for {who}; {whose.replace('an reader', 'a reader')}"


Known = list[tuple[str, str]]
"""(where it stands, name): `("query", "dry_run")`."""


def _flaws(scope: Scope, known: Known) -> Iterator[Problem]:
    """Parameters that a route does not know, headers that only we can have meant something by, and what comes twice."""
    query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    given = [("query", name) for name, _ in query]
    given += [("header", raw.decode("latin-1")) for raw, _ in scope["headers"]]
    seen: set[tuple[str, str]] = set()
    for where, name in given:
        what = "parameter" if where == "query" else where
        if (where, name) in known:
            if (where, name) in seen:
                yield Problem(path=(where, name), message=f"{what} {name!r} is given twice")
            seen.add((where, name))
        elif where == "query" or name.startswith(OUR_HEADERS):
            yield Problem(path=(where, name), message=f"unknown {what} {_short(name)}; {_meant(name, known)}")


def _short(name: str) -> str:
    return repr(name if len(name) <= 60 else f"{name[:57]}...")


def _meant(name: str, known: Known) -> str:
    names = [parameter for where, parameter in known if where in ("query", "header")]
    bare = name.lower().removeprefix("x-").removeprefix("netstitch-").replace("-", "_")
    if near := difflib.get_close_matches(bare[:60], names, 1, 0.5):
        return f"did you mean {near[0]}?"
    return f"there is {', '.join(names)}" if names else "there are none here"
