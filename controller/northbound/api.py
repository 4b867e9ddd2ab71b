"""The REST API of a controller: what `stitch` and programs talk to. It translates, and decides nothing."""

import asyncio
import contextlib
import difflib
import time
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

import msgspec
from fastapi import Depends, FastAPI, Header, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from controller import json_fields
from controller.errors import Forbidden, TooOld, Unavailable
from controller.model.access import Role
from controller.model.event import Problem
from controller.model.resource import Answer, Backups, Controller, Resource
from controller.model.telemetry import NodeDrops, Telemetry
from controller.model.trace import Crossing, Probe, Unknown
from controller.northbound import flows, lists, metrics, schema
from controller.northbound.guard import BACKUP_TYPE, STREAM_TYPE, Bearer, JsonBody
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
Since = Annotated[int | None, Query(ge=0, description="With watch: only what has changed after this revision; 410 where that is not known any more, then list again.")]  # fmt: skip # noqa: E501
IfMatch = Annotated[str | None, Header(description='`"REVISION"`: only if nobody has changed it since; else 412, with what it is now. `*`: only if it is there.')]  # fmt: skip # noqa: E501
REVISION = "netstitch-revision"
PAGE_HEADERS = {
    REVISION: {"schema": {"type": "integer"}, "description": "From which on to watch what changes after this list."},
    "link": {"schema": {"type": "string"}, "description": '`<URL>; rel="next"` where there is more (RFC 8288).'},
}
ONE_HEADERS = {"etag": {"schema": {"type": "string"}, "description": "Its metadata.revision, in quotes."}}
DryRun = Annotated[bool, Query(description="Only say what it would do: nothing is stored, and nobody is asked.")]
Watch = Annotated[bool, Query(description="Stream the present ones, then each as it changes; a removed one has status.deleted.")]  # fmt: skip # noqa: E501


def scoped(request: Request) -> Scoped:
    """All that a handler gets of the controller: what the holder of the token may see and do."""
    return Scoped(request.app.state.controller, request.state.principal)


Seen = Annotated[Scoped, Depends(scoped)]


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """`statuses` and those that any request may be answered with; with 413 also what else is wrong with bodies."""
    bodies = (408, 415) if 413 in statuses else ()
    return {status: {"model": schema.Error} for status in (400, *statuses, *bodies, 401, 403, 503)}


def _stream(of: type, headers: dict[str, Any]) -> dict[str, Any]:
    """A resource or several as JSON; with watch=true one a line."""
    return {
        "model": of,
        "headers": headers,
        "content": {STREAM_TYPE.decode(): {"schema": {"$ref": "#/components/schemas/Resource"}}},
    }


_ARRAY_OF_MANIFESTS = {
    "required": True,
    "content": {"application/json": {"schema": {"type": "array", "items": {"$ref": "#/components/schemas/Manifest"}}}},
}


def create_app(
    controller: Controller, telemetry: Telemetry, tokens: Tokens, domain: str, *, backups: Backups
) -> FastAPI:
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
    _add_backups(app, backups)
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
        drops, carried = _drops(await telemetry.drops()), await telemetry.carried()
        intents, now_s = controller.list("intents"), time.time()
        text = metrics.text(
            (
                *metrics.of_intents(intents),
                *metrics.of_each_intent(intents, carried, now_s),
                *metrics.of_agreements(controller.list("agreements")),
                *metrics.of_tunnels(controller.list("tunnels"), now_s),
                *metrics.of_nodes(controller.list("nodes")),
                *metrics.of_drops(drops),
                *telemetry.metrics(),
            )
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


_BACKUP = {"content": {BACKUP_TYPE: {"schema": {"type": "string", "format": "binary"}}}}


def _add_backups(app: FastAPI, backups: Backups) -> None:
    @app.get(
        "/v1/backup",
        summary="Everything that the controller must not forget but keys and tokens, as of one moment",
        response_class=Response,
        responses={200: _BACKUP, **_errors()},
    )
    async def take() -> Response:
        return Response(await backups.take(), media_type=BACKUP_TYPE)

    @app.post(
        "/v1/restore",
        summary="Puts a backup in place of all that is stored, and starts the controller again",
        response_model=None,
        openapi_extra={"requestBody": {"required": True, **_BACKUP}},
        responses={200: {"model": schema.Results}, **_errors(409, 413)},
    )
    async def put_back(request: Request) -> Response:
        if reason := await backups.put_back(await request.body()):
            return _error(409, reason)
        return _json({"results": ["the backup is in its place; the controller starts again with it"]})


def _add_changes(app: FastAPI) -> None:
    @app.post(
        "/v1/apply",
        summary="Creates or replaces what the manifests say: all of them or none; answered when durable",
        response_model=None,
        openapi_extra={"requestBody": _ARRAY_OF_MANIFESTS},
        responses={200: {"model": schema.Results}, **_errors(400, 409, 412, 413)},
    )
    async def apply(request: Request, controller: Seen, dry_run: DryRun = False, if_match: IfMatch = None) -> Response:
        manifests = await asyncio.to_thread(_manifests, await request.body())
        if isinstance(manifests, Response):
            return manifests
        try:
            since = _revision(controller, if_match)
        except ValueError as error:
            return _invalid([Problem(path=("header", "if-match"), message=str(error))])
        answer = await controller.apply(manifests, dry_run=dry_run, unchanged_since=since)
        if answer.stale:
            things = [(_plural(str(one["kind"])), str(one["metadata"]["name"])) for one in manifests]
            return _stale(controller, things, answer.stale)
        return _answer(answer)

    @app.post(
        "/v1/policy/reload",
        summary="Reads the policy file again; what it no longer allows ends. A file that is wrong changes nothing",
        response_model=None,
        responses={200: {"model": schema.Results}, **_errors(400, 409)},
    )
    async def reload_policy(
        controller: Seen,
        dry_run: Annotated[bool, Query(description="Only say what would end, or what is wrong.")] = False,
    ) -> Response:
        return _answer(await controller.load_policy(dry_run=dry_run))

    @app.post(
        "/v1/intents/{name:path}/renew",
        summary="Lets the lease of an intent begin anew",
        response_model=None,
        responses={200: {"model": schema.Results}, **_errors(400, 404, 409)},
    )
    async def renew(controller: Seen, name: Name) -> Response:
        answer = await controller.renew(name)
        return _not_found(controller, "intents", name) if answer.missing else _answer(answer)

    @app.post(
        "/v1/agreements/{name:path}/end",
        summary="Ends an agreement at once, on both sides",
        response_model=None,
        responses={200: {"model": schema.Results}, **_errors(400, 404, 409, 413)},
    )
    async def end_agreement(controller: Seen, name: Name, asked: schema.AgreementEnd) -> Response:
        answer = await controller.end_agreement(name, asked.reason, asked.hold_off_s)
        return _not_found(controller, "agreements", name) if answer.missing else _answer(answer)

    @app.delete(
        "/v1/{kind}/{name:path}",
        summary="Removes a resource; an intent is withdrawn",
        response_model=None,
        responses={200: {"model": schema.Results}, **_errors(400, 404, 409, 412)},
    )
    async def delete(
        controller: Seen, kind: Kind, name: Name, dry_run: DryRun = False, if_match: IfMatch = None
    ) -> Response:
        return await _deleted(controller, [(kind, name)], if_match, dry_run=dry_run)

    @app.post(
        "/v1/delete",
        summary="Removes resources: all of them or none; what needs each other may go together",
        response_model=None,
        responses={200: {"model": schema.Results}, **_errors(400, 404, 409, 412, 413)},
    )
    async def delete_all(
        controller: Seen,
        references: schema.References,
        ignore_not_found: Annotated[bool, Query(description="What is not there is no reason to refuse.")] = False,
        dry_run: DryRun = False,
        if_match: IfMatch = None,
    ) -> Response:
        things = [(one.kind, one.name) for one in references]
        return await _deleted(controller, things, if_match, ignore_missing=ignore_not_found, dry_run=dry_run)


async def _deleted(
    controller: Scoped,
    things: Sequence[tuple[str, str]],
    if_match: str | None,
    *,
    ignore_missing: bool = False,
    dry_run: bool,
) -> Response:
    """Everything that is in the way has its place in what was asked for."""
    try:
        since = _revision(controller, if_match)
        answer = await controller.delete(things, ignore_missing=ignore_missing, dry_run=dry_run, unchanged_since=since)
    except KeyError as error:
        return _not_deleted(controller, str(error.args[0]))
    except ValueError as error:
        return _invalid([Problem(path=("header", "if-match"), message=str(error))])
    if answer.stale:
        return _stale(controller, things, answer.stale)
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
        summary="The resources of a kind, by name",
        response_model=None,
        responses={200: _stream(list[schema.Resource], PAGE_HEADERS), **_errors(400, 404, 410)},
    )
    async def list_resources(
        request: Request,
        controller: Seen,
        kind: Kind,
        labels: Annotated[
            str | None, Query(description="Only those with these labels: `app=web,tier!=2,pci,!old`.")
        ] = None,
        phase: Annotated[str | None, Query(description="Only those in this phase.", examples=["Active"])] = None,
        tenant: Annotated[str | None, Query(description="Only this tenant's intents.")] = None,
        about: Annotated[
            str | None, Query(description="Of events: only those about this.", examples=["intents/order-processing"])
        ] = None,
        limit: Annotated[
            int | None, Query(ge=1, le=lists.LIMIT_MAX, description="At most so many; the header Link has the rest.")
        ] = None,
        after: Annotated[str | None, Query(alias="continue", description="As the header Link has it.")] = None,
        watch: Watch = False,
        since: Since = None,
    ) -> Response:
        try:
            selection = lists.Selection(lists.selector(labels or ""), phase, tenant, about)
            if watch:
                return _follow(controller, kind, None, since, selection)
            found = [one for one in controller.list(kind) if selection.picks(one)]
            shown, rest = lists.page(found, limit, after)
        except KeyError:
            return _unknown_kind(kind)
        except ValueError as error:
            return _invalid([Problem(path=("query",), message=str(error))])
        response = _json(shown)
        response.headers[REVISION] = str(controller.revision)
        if rest:
            following = request.url.include_query_params(**{"continue": rest})
            response.headers["link"] = f'<{following.path}?{following.query}>; rel="next"'
        return response

    @app.get(
        "/v1/{kind}/{name:path}",
        summary="One resource",
        response_model=None,
        responses={200: _stream(schema.Resource, ONE_HEADERS), **_errors(400, 404, 410)},
    )
    async def get_resource(
        controller: Seen, kind: Kind, name: Name, watch: Watch = False, since: Since = None
    ) -> Response:
        try:
            if watch:
                return _follow(controller, kind, name, since, lists.Selection())
            found = controller.get(kind, name)
        except KeyError:
            return _unknown_kind(kind)
        if found is None:
            return _not_found(controller, kind, name)
        response = _json(found)
        response.headers["etag"] = f'"{found.metadata["revision"]}"'
        return response


def _follow(controller: Scoped, kind: str, name: str | None, since: int | None, selection: lists.Selection) -> Response:
    """Raises KeyError for an unknown kind."""
    try:
        changes = controller.watch(kind, name, since=since)
    except TooOld as error:
        return _error(410, str(error))
    media_type = STREAM_TYPE.decode()
    return StreamingResponse(_lines(changes, selection, resumed=since is not None), media_type=media_type)


async def _lines(
    changes: AsyncIterator[Resource], selection: lists.Selection, *, resumed: bool
) -> AsyncIterator[bytes]:
    """NDJSON, with empty lines as heartbeat. What is no longer selected is gone for who watches; `resumed`: we do not
    know what was shown before. Closes `changes` when the client has gone."""
    shown: set[str] = set()
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
            name = str(resource.metadata["name"])
            if selection.picks(resource):
                shown.add(name)
            elif name in shown or resumed:
                shown.discard(name)
                resource = msgspec.structs.replace(resource, spec={}, status={"deleted": True})
            else:
                continue
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
    if answer.invalid:
        return _error(400, answer.invalid)
    if answer.forbidden:
        return _error(403, answer.forbidden)
    if answer.conflict:
        return _error(409, answer.conflict)
    return _results(answer)


def _results(answer: Answer) -> Response:
    preview = {} if answer.preview is None else {"preview": answer.preview}
    return _json({"results": answer.results} | preview)


def _revision(controller: Controller, if_match: str | None) -> int | None:
    """Raises ValueError."""
    if if_match is None or if_match.strip() == "*":
        return None if if_match is None else controller.revision
    text = if_match.strip().removeprefix("W/").strip('"')
    if not text.isdecimal() or int(text) > controller.revision:
        raise ValueError(f'{if_match[:40]!r} is no revision of a resource here: expected "REVISION" as its ETag has it')
    return int(text)


def _stale(controller: Controller, things: Sequence[tuple[str, str]], places: Sequence[int]) -> Response:
    """What it is now stands beside it, of the first that has changed."""
    problems: list[Problem] = []
    now: Resource | None = None
    for place in places:
        kind, name = things[place]
        found = controller.get(kind, name) if len(problems) < MAX_TOLD else None
        now = now or found
        what = f"its revision is {found.metadata['revision']}" if found is not None else "it is not there any more"
        problems.append(Problem(path=(place,), message=f"{kind}/{name} is not as it was: {what}; look at it again"))
    plain = [{"path": problem.path, "message": problem.message} for problem in problems]
    return _json({"error": problems[0].message, "problems": plain, "now": now}, 412)


def _plural(kind: str) -> str:
    return f"{kind.lower()}s"


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
    if kind == "agreements":
        return _wrong_kind("agreements are not deleted but ended: stitch agreement end NAME --reason TEXT")
    if kind == "policies":
        return _wrong_kind("the policy is its file's: change that, then `stitch policy reload`")
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
