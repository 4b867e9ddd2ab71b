"""The REST API of a controller: what `stitch` and programs talk to. It translates, and decides nothing."""

import asyncio
import contextlib
import difflib
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

import msgspec
from fastapi import Depends, FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from controller import json_fields
from controller.errors import Forbidden, Unavailable
from controller.model.access import Role
from controller.model.event import Problem
from controller.model.resource import Answer, Controller, Resource
from controller.model.telemetry import NodeDrops, Telemetry
from controller.model.trace import Crossing, Probe, Unknown
from controller.northbound import flows, metrics, schema
from controller.northbound.guard import STREAM_TYPE, Bearer, JsonBody
from controller.northbound.permits import Permits
from controller.northbound.scope import Scoped
from controller.northbound.tokens import Tokens
from dataplane.reasons import DropReason

MAX_NEAR = 1000
"""Among so many names one is looked for that may have been meant."""
MAX_HINTS, MAX_TOLD = 3, 20
"""Of what is not there: as many get such a hint, and are in the text; all are in the problems."""
HEARTBEAT_S = 10.0
"""A watch sends an empty line when it has been silent for so long."""

Kind = Annotated[str, Path(description="In the plural: intents, networks, ...", examples=["intents"])]
Name = Annotated[str, Path(description="May contain slashes.", examples=["order-processing", "shop/customer-x"])]
Watch = Annotated[bool, Query(description="Stream the present ones, then each as it changes; a removed one has status.deleted.")]  # fmt: skip # noqa: E501


def scoped(request: Request) -> Scoped:
    """All that a handler gets of the controller: what the holder of the token may see and do."""
    return Scoped(request.app.state.controller, request.state.principal)


Seen = Annotated[Scoped, Depends(scoped)]


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """`statuses` and those that any request may be answered with; with 413 also what else is wrong with bodies."""
    bodies = (408, 415) if 413 in statuses else ()
    return {status: {"model": schema.Error} for status in (400, *statuses, *bodies, 401, 403, 503)}


def _stream(of: type) -> dict[str, Any]:
    """A resource or several as JSON; with watch=true one a line."""
    return {"model": of, "content": {STREAM_TYPE.decode(): {"schema": {"$ref": "#/components/schemas/Resource"}}}}


_ARRAY_OF_MANIFESTS = {
    "required": True,
    "content": {"application/json": {"schema": {"type": "array", "items": {"$ref": "#/components/schemas/Manifest"}}}},
}


def create_app(controller: Controller, telemetry: Telemetry, tokens: Tokens, domain: str) -> FastAPI:
    app = FastAPI(
        title=f"netstitch controller of {domain}",
        version="1",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.add_middleware(JsonBody)
    app.add_middleware(Permits, api=app)
    app.add_middleware(Bearer, tokens=tokens)  # the last one added is asked first

    app.state.controller = controller
    _add_error_handlers(app)
    _add_health(app)
    _add_telemetry(app, telemetry, domain)
    _add_tokens(app, tokens)
    _add_changes(app)
    _add_resources(app)
    _complete_openapi(app)
    return app


def _add_health(app: FastAPI) -> None:
    @app.get("/healthz", summary="Whether the controller answers; needs no token", response_model=schema.Health)
    async def healthz() -> Response:
        return _json({"status": "ok"})


def _add_telemetry(app: FastAPI, telemetry: Telemetry, domain: str) -> None:
    @app.get(
        "/v1/flows",
        summary="Flow records, read from the nodes now; both directions in one row",
        response_model=None,
        responses={200: {"model": list[flows.FlowRow]}, **_errors(400, 404)},
    )
    async def read_flows(
        controller: Seen, intent: Annotated[str | None, Query(description="Only this intent's.")] = None
    ) -> Response:
        if intent is not None and controller.get("intents", intent) is None:
            return _not_found(controller, "intents", intent)
        rows = flows.rows(await telemetry.flows(), intent)
        return _json(rows if controller.whole else [row for row in rows if controller.concerns(row.owner)])

    @app.get(
        "/v1/drops",
        summary="Dropped packets by node and reason, read from the nodes now",
        response_model=None,
        responses={200: {"model": list[schema.Drop]}, **_errors()},
    )
    async def read_drops() -> Response:
        return _json(_drops(await telemetry.drops()))

    @app.get(
        "/v1/doctor",
        summary="What is well and what is not",
        response_model=None,
        responses={200: {"model": schema.Doctor}, **_errors()},
    )
    async def doctor() -> Response:
        checks = [
            {field: getattr(check, field) for field in check.__struct_fields__} for check in await telemetry.checks()
        ]
        return _json({"domain": domain, "ok": all(check["ok"] for check in checks), "checks": checks})

    @app.get(
        "/v1/explain/{kind}/{name:path}",
        summary="Why: from an intent down to entries, or from an entry back to what asked for it",
        response_model=None,
        responses={200: {"model": schema.Branch}, **_errors(400, 404)},
    )
    async def explain(
        controller: Seen,
        kind: Annotated[str, Path(description="intents or entries.", examples=["intents"])],
        name: Name,
    ) -> Response:
        try:
            found = controller.explain(kind, name)
        except KeyError:
            return _wrong_kind(f"{kind} are not explained; intents and entries are")
        return _json(found) if found is not None else _not_found(controller, kind, name)

    @app.post(
        "/v1/trace",
        summary="What becomes of a packet here, hop by hop, by the entries that the nodes shall have",
        response_model=None,
        responses={200: {"model": schema.Trace}, **_errors(400, 404, 413)},
    )
    async def trace(controller: Seen, asked: schema.Probe | schema.Crossing) -> Response:
        fields = asked.model_dump()
        found = controller.trace(Probe(**fields) if isinstance(asked, schema.Probe) else Crossing(**fields))
        return _error(404, found.message) if isinstance(found, Unknown) else _json(found)

    @app.get(
        "/metrics",
        summary="For Prometheus",
        response_model=None,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **_errors()},
    )
    async def read_metrics(controller: Seen) -> Response:
        drops = _drops(await telemetry.drops())
        text = metrics.text(
            (*metrics.of_intents(controller.list("intents")), *metrics.of_drops(drops), *telemetry.metrics())
        )
        return Response(text, media_type=metrics.CONTENT_TYPE)


def _add_tokens(app: FastAPI, tokens: Tokens) -> None:
    @app.get("/v1/whoami", summary="Whose token this is", response_model=None,
             responses={200: {"model": schema.Who}, **_errors()})  # fmt: skip
    async def whoami(controller: Seen) -> Response:
        return _json({field: getattr(controller.by, field) for field in ("name", "role", "tenants")})

    @app.get(
        "/v1/tokens",
        summary="Who may use the API; never a secret or its hash",
        response_model=None,
        responses={200: {"model": list[schema.Resource]}, **_errors()},
    )
    async def list_tokens() -> Response:
        return _json(tokens.resources())

    @app.get(
        "/v1/tokens/{name}",
        summary="One token; never its secret or hash",
        response_model=None,
        responses={200: {"model": schema.Resource}, **_errors(404)},
    )
    async def get_token(name: str) -> Response:
        found = tokens.resource(name)
        return _json(found) if found is not None else _no_token(name)

    @app.post(
        "/v1/tokens",
        summary="Makes a token; its secret is in the answer and nowhere else",
        response_model=None,
        responses={200: {"model": schema.CreatedToken}, **_errors(409, 413)},
    )
    async def create_token(asked: schema.NewToken) -> Response:
        answer, secret = await tokens.create(
            asked.name, Role(asked.role), tuple(asked.tenants) or None, asked.lifetime_s
        )
        return _json({"results": answer.results, "secret": secret}) if secret else _answer(answer)

    @app.delete(
        "/v1/tokens/{name}",
        summary="Revokes a token at once: what is open with it ends",
        response_model=None,
        responses={200: {"model": schema.Results}, **_errors(404, 409)},
    )
    async def revoke_token(name: str) -> Response:
        answer = await tokens.revoke(name)
        return _no_token(name) if answer.missing else _answer(answer)


def _add_changes(app: FastAPI) -> None:
    @app.post(
        "/v1/apply",
        summary="Creates or replaces what the manifests say: all of them or none; answered when durable",
        response_model=None,
        openapi_extra={"requestBody": _ARRAY_OF_MANIFESTS},
        responses={200: {"model": schema.Results}, **_errors(400, 409, 413)},
    )
    async def apply(
        request: Request,
        controller: Seen,
        dry_run: Annotated[bool, Query(description="Only say what would be wrong.")] = False,
    ) -> Response:
        manifests = await asyncio.to_thread(_manifests, await request.body())
        if isinstance(manifests, Response):
            return manifests
        return _answer(await controller.apply(manifests, dry_run=dry_run))

    @app.post(
        "/v1/intents/{name:path}/renew",
        summary="Lets the lease of an intent begin anew",
        response_model=None,
        responses={200: {"model": schema.Results}, **_errors(400, 404, 409)},
    )
    async def renew(controller: Seen, name: Name) -> Response:
        answer = await controller.renew(name)
        return _not_found(controller, "intents", name) if answer.missing else _answer(answer)

    @app.delete(
        "/v1/{kind}/{name:path}",
        summary="Removes a resource; an intent is withdrawn",
        response_model=None,
        responses={200: {"model": schema.Results}, **_errors(400, 404, 409)},
    )
    async def delete(controller: Seen, kind: Kind, name: Name) -> Response:
        return await _deleted(controller, [(kind, name)], ignore_missing=False)

    @app.post(
        "/v1/delete",
        summary="Removes resources: all of them or none; what needs each other may go together",
        response_model=None,
        responses={200: {"model": schema.Results}, **_errors(400, 404, 409, 413)},
    )
    async def delete_all(
        controller: Seen,
        references: schema.References,
        ignore_not_found: Annotated[bool, Query(description="What is not there is no reason to refuse.")] = False,
    ) -> Response:
        things = [(one.kind, one.name) for one in references]
        return await _deleted(controller, things, ignore_missing=ignore_not_found)


async def _deleted(controller: Scoped, things: Sequence[tuple[str, str]], *, ignore_missing: bool) -> Response:
    """Everything that is in the way has its place in what was asked for."""
    try:
        answer = await controller.delete(things, ignore_missing=ignore_missing)
    except KeyError as error:
        return _not_deleted(controller, str(error.args[0]))
    if answer.forbidden or not (answer.missing or answer.conflict):
        return _answer(answer)
    near = answer.missing if len(answer.missing) <= MAX_HINTS else ()
    absent = [
        Problem(path=(place,), message=_missing(controller, *things[place], hint=place in near))
        for place in answer.missing
    ]
    texts = [*(one.message for one in absent[:MAX_TOLD])]
    if len(absent) > MAX_TOLD:
        texts.append(f"and {len(absent) - MAX_TOLD} more are not there")
    status, texts = (409, [answer.conflict, *texts]) if answer.conflict else (404, texts)
    return _error(status, "; ".join(texts), (*answer.problems, *absent))


def _add_resources(app: FastAPI) -> None:
    @app.get(
        "/v1/{kind}",
        summary="All resources of a kind",
        response_model=None,
        responses={200: _stream(list[schema.Resource]), **_errors(400, 404)},
    )
    async def list_resources(controller: Seen, kind: Kind, watch: Watch = False) -> Response:
        try:
            resources = controller.list(kind)
        except KeyError:
            return _unknown_kind(kind)
        return _follow(controller, kind, None) if watch else _json(resources)

    @app.get(
        "/v1/{kind}/{name:path}",
        summary="One resource",
        response_model=None,
        responses={200: _stream(schema.Resource), **_errors(400, 404)},
    )
    async def get_resource(controller: Seen, kind: Kind, name: Name, watch: Watch = False) -> Response:
        try:
            found = controller.get(kind, name)
        except KeyError:
            return _unknown_kind(kind)
        if watch:
            return _follow(controller, kind, name)
        return _json(found) if found is not None else _not_found(controller, kind, name)


def _follow(controller: Scoped, kind: str, name: str | None) -> Response:
    return StreamingResponse(_lines(controller.watch(kind, name)), media_type=STREAM_TYPE.decode())


async def _lines(changes: AsyncIterator[Resource]) -> AsyncIterator[bytes]:
    """NDJSON, with empty lines as heartbeat. Closes `changes` when the client has gone."""
    pending: asyncio.Future[Resource] | None = None
    try:
        yield b"\n"  # the headers go out at once, also when there is nothing to tell yet
        while True:
            pending = pending or asyncio.ensure_future(anext(changes))
            done, _ = await asyncio.wait((pending,), timeout=HEARTBEAT_S)
            if not done:
                yield b"\n"
                continue
            resource, pending = pending.result(), None
            yield msgspec.json.encode(resource) + b"\n"
    except StopAsyncIteration:
        return
    finally:
        if pending is not None:
            pending.cancel()
            with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration):
                await pending
        close = getattr(changes, "aclose", None)
        if close is not None:
            await close()


def _manifests(body: bytes) -> list[dict[str, Any]] | Response:
    """The body's manifests as JSON has them, or the answer that says what is wrong with it."""
    try:
        schema.Manifests.validate_json(body)
        manifests = msgspec.json.decode(body, type=list[dict[str, Any]])
    except ValidationError as error:
        return _invalid(
            [Problem(path=tuple(flaw["loc"]), message=flaw["msg"]) for flaw in error.errors(include_url=False)]
        )
    except (msgspec.DecodeError, RecursionError) as error:
        return _invalid([Problem(path=(), message=f"no JSON array of manifests: {error}")])
    if schema.depth(manifests) >= schema.DEPTH_LIMIT:
        return _invalid([Problem(path=(), message=f"nested deeper than {schema.DEPTH_LIMIT} levels; no manifest is")])
    if not json_fields.all_kept(body, manifests) and (paths := json_fields.repeated(body)):
        return _invalid([Problem(path=path, message=f"field {path[-1]!r} is given twice") for path in paths])
    return manifests


def _drops(nodes: Sequence[NodeDrops]) -> list[dict[str, Any]]:
    names = {int(reason): reason.name.lower() for reason in DropReason}
    return [
        {
            "node": node.node,
            "reason": names.get(sample.index, f"reason_{sample.index}"),
            "packets": sample.packets,
            "bytes": sample.bytes,
        }
        for node in sorted(nodes, key=lambda node: node.node)
        for sample in sorted(node.drops, key=lambda sample: sample.index)
        if sample.packets
    ]


# ---- answers


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status_code=status, media_type="application/json")


def _error(status: int, error: str, problems: Sequence[Problem] = ()) -> Response:
    plain = [{"path": problem.path, "message": problem.message} for problem in problems]
    return _json({"error": error, "problems": plain}, status)


def _invalid(problems: Sequence[Problem]) -> Response:
    return _error(400, f"the request is not valid: {problems[0].message}", problems)


def _answer(answer: Answer) -> Response:
    if answer.problems:
        return _invalid(answer.problems)
    if answer.forbidden:
        return _error(403, answer.forbidden)
    if answer.conflict:
        return _error(409, answer.conflict)
    return _json({"results": answer.results})


def _wrong_kind(message: str) -> Response:
    return _error(404, message, [Problem(path=("kind",), message=message)])


def _unknown_kind(kind: str) -> Response:
    return _wrong_kind(f"unknown kind {kind!r}: see `stitch get --help` for the kinds there are")


def _no_token(name: str) -> Response:
    return _error(404, f"there is no tokens/{name[:100]}; `stitch get tokens` lists what there is")


def _not_deleted(controller: Controller, kind: str) -> Response:
    if kind == "tokens":
        return _wrong_kind("tokens are not deleted but revoked: stitch token revoke NAME")
    try:
        controller.get(kind, "")
    except KeyError:
        return _unknown_kind(kind)
    return _wrong_kind(f"{kind} are not deleted: they follow from what is applied; change or delete that")


def _not_found(controller: Controller, kind: str, name: str) -> Response:
    return _error(404, _missing(controller, kind, name))


def _missing(controller: Controller, kind: str, name: str, *, hint: bool = True) -> str:
    text = f"there is no {kind}/{name if len(name) <= 100 else name[:97] + '...'}"
    if not hint:
        return text
    close = difflib.get_close_matches(name[:100], controller.names(kind)[:MAX_NEAR], 1, 0.6)
    return f"{text}; " + (f"did you mean {close[0]}?" if close else f"`stitch get {kind}` lists what there is")


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def parameters_invalid(_: Request, error: RequestValidationError) -> Response:
        return _invalid([Problem(path=tuple(flaw["loc"]), message=_flaw_words(flaw)) for flaw in error.errors()])

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> Response:
        response = _error(error.status_code, str(error.detail))
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Forbidden)
    async def forbidden(_: Request, error: Forbidden) -> Response:
        return _error(403, str(error))

    @app.exception_handler(Unavailable)
    async def unavailable(_: Request, error: Unavailable) -> Response:
        response = _error(503, str(error))
        response.headers["retry-after"] = "1"
        return response


def _flaw_words(flaw: dict[str, Any]) -> str:
    """Of pydantic's; an unknown field with the one that was meant."""
    if flaw["type"] != "extra_forbidden":
        return str(flaw["msg"])
    *_, name = flaw["loc"]
    fields = {field for model in schema.BODIES for field in model.model_fields}
    near = difflib.get_close_matches(str(name)[:60], sorted(fields), 1, 0.5)
    return f"unknown field {str(name)[:60]!r}" + (f"; did you mean {near[0]}?" if near else "")


def _complete_openapi(app: FastAPI) -> None:
    """The token, and our form of what FastAPI would answer with 422."""
    document = app.openapi()
    components = document["components"]
    components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    for name in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(name, None)
    components["schemas"]["Manifest"] = schema.Manifest.model_json_schema()
    for path, operations in document["paths"].items():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            if path != "/healthz":
                operation["security"] = [{"token": []}]
