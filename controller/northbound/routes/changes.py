"""What changes something: apply, delete, renew, drain, end, reload."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from fastapi import FastAPI, Path, Query, Request, Response
from pydantic import ValidationError

from controller import json_fields
from controller.model.event import Problem
from controller.model.resource import Controller
from controller.northbound import schema
from controller.northbound.answers import (
    MAX_TOLD,
    invalid,
    missing,
    not_found,
    outcome,
    refusal,
    stale,
    unknown_kind,
    wrong_kind,
)
from controller.northbound.routes.parameters import DryRun, IfMatch, Kind, Name, Seen, errors, revision_of
from controller.northbound.scope import Scoped

MAX_HINTS = 3
"""Of what is not there, so many get a hint at what may have been meant."""

Drained = Annotated[Literal["nodes", "links"], Path(description="What can be drained.")]
_ARRAY_OF_MANIFESTS = {
    "required": True,
    "content": {"application/json": {"schema": {"type": "array", "items": {"$ref": "#/components/schemas/Manifest"}}}},
}


def add_changes(app: FastAPI) -> None:
    @app.post(
        "/v1/apply",
        summary="Creates or replaces what the manifests say: all of them or none; answered when durable",
        response_model=None,
        openapi_extra={"requestBody": _ARRAY_OF_MANIFESTS},
        responses={200: {"model": schema.Results}, **errors(400, 409, 412, 413)},
    )
    async def apply(request: Request, controller: Seen, dry_run: DryRun = False, if_match: IfMatch = None) -> Response:
        manifests = await asyncio.to_thread(_manifests, await request.body())
        if isinstance(manifests, Response):
            return manifests
        try:
            since = revision_of(controller, if_match)
        except ValueError as error:
            return invalid([Problem(path=("header", "if-match"), message=str(error))])
        answer = await controller.apply(manifests, dry_run=dry_run, unchanged_since=since)
        if answer.stale:
            things = [(_plural(str(manifest["kind"])), str(manifest["metadata"]["name"])) for manifest in manifests]
            return stale(controller, things, answer.stale)
        return outcome(answer)

    @app.post(
        "/v1/policy/reload",
        summary="Reads the policy file again; what it no longer allows ends. A file that is wrong changes nothing",
        response_model=None,
        responses={200: {"model": schema.Results}, **errors(400, 409)},
    )
    async def reload_policy(
        controller: Seen,
        dry_run: Annotated[bool, Query(description="Only say what would end, or what is wrong.")] = False,
    ) -> Response:
        return outcome(await controller.load_policy(dry_run=dry_run))

    @app.post(
        "/v1/intents/{name:path}/renew",
        summary="Lets the lease of an intent begin anew",
        response_model=None,
        responses={200: {"model": schema.Results}, **errors(400, 404, 409)},
    )
    async def renew(controller: Seen, name: Name) -> Response:
        answer = await controller.renew(name)
        return not_found(controller, "intents", name) if answer.missing else outcome(answer)

    @app.post(
        "/v1/{kind}/{name:path}/drain",
        summary="Takes a node or link out of use: what passes it moves off, without losing a packet",
        response_model=None,
        responses={200: {"model": schema.Results}, **errors(400, 404, 409)},
    )
    async def drain(controller: Seen, kind: Drained, name: Name) -> Response:
        return await _drained(controller, kind, name, is_drained=True)

    @app.post(
        "/v1/{kind}/{name:path}/undrain",
        summary="Takes a node or link into use again",
        response_model=None,
        responses={200: {"model": schema.Results}, **errors(400, 404, 409)},
    )
    async def undrain(controller: Seen, kind: Drained, name: Name) -> Response:
        return await _drained(controller, kind, name, is_drained=False)

    @app.post(
        "/v1/incidents/{name:path}/approve",
        summary="Does what an incident proposes, as if it were applied",
        response_model=None,
        responses={200: {"model": schema.Results}, **errors(400, 404, 409)},
    )
    async def approve(controller: Seen, name: Name) -> Response:
        answer = await controller.decide(name, True)
        return not_found(controller, "incidents", name) if answer.missing else outcome(answer)

    @app.post(
        "/v1/incidents/{name:path}/reject",
        summary="Nothing is to be done about an incident",
        response_model=None,
        responses={200: {"model": schema.Results}, **errors(400, 404, 409)},
    )
    async def reject(controller: Seen, name: Name) -> Response:
        answer = await controller.decide(name, False)
        return not_found(controller, "incidents", name) if answer.missing else outcome(answer)

    @app.post(
        "/v1/agreements/{name:path}/end",
        summary="Ends an agreement at once, on both sides",
        response_model=None,
        responses={200: {"model": schema.Results}, **errors(400, 404, 409, 413)},
    )
    async def end_agreement(controller: Seen, name: Name, asked: schema.AgreementEnd) -> Response:
        answer = await controller.end_agreement(name, asked.reason, asked.hold_off_s)
        return not_found(controller, "agreements", name) if answer.missing else outcome(answer)

    @app.delete(
        "/v1/{kind}/{name:path}",
        summary="Removes a resource; an intent is withdrawn",
        response_model=None,
        responses={200: {"model": schema.Results}, **errors(400, 404, 409, 412)},
    )
    async def delete(
        controller: Seen, kind: Kind, name: Name, dry_run: DryRun = False, if_match: IfMatch = None
    ) -> Response:
        return await _deleted(controller, [(kind, name)], if_match, dry_run=dry_run)

    @app.post(
        "/v1/delete",
        summary="Removes resources: all of them or none; what needs each other may go together",
        response_model=None,
        responses={200: {"model": schema.Results}, **errors(400, 404, 409, 412, 413)},
    )
    async def delete_all(
        controller: Seen,
        references: schema.References,
        ignore_not_found: Annotated[bool, Query(description="What is not there is no reason to refuse.")] = False,
        dry_run: DryRun = False,
        if_match: IfMatch = None,
    ) -> Response:
        things = [(reference.kind, reference.name) for reference in references]
        return await _deleted(controller, things, if_match, ignore_missing=ignore_not_found, dry_run=dry_run)


async def _drained(controller: Scoped, kind: str, name: str, *, is_drained: bool) -> Response:
    answer = await controller.drain(f"{kind}/{name}", is_drained=is_drained)
    return not_found(controller, kind, name) if answer.missing else outcome(answer)


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
        since = revision_of(controller, if_match)
        answer = await controller.delete(things, ignore_missing=ignore_missing, dry_run=dry_run, unchanged_since=since)
    except KeyError as error:
        return _not_deleted(controller, str(error.args[0]))
    except ValueError as error:
        return invalid([Problem(path=("header", "if-match"), message=str(error))])
    if answer.stale:
        return stale(controller, things, answer.stale)
    if answer.forbidden or not (answer.missing or answer.conflict):
        return outcome(answer)
    near = answer.missing if len(answer.missing) <= MAX_HINTS else ()
    absent = [
        Problem(path=(place,), message=missing(controller, *things[place], hint=place in near))
        for place in answer.missing
    ]
    texts = [*(problem.message for problem in absent[:MAX_TOLD])]
    if len(absent) > MAX_TOLD:
        texts.append(f"and {len(absent) - MAX_TOLD} more are not there")
    status, texts = (409, [answer.conflict, *texts]) if answer.conflict else (404, texts)
    return refusal(status, "; ".join(texts), (*answer.problems, *absent))


def _manifests(body: bytes) -> list[dict[str, Any]] | Response:
    """The body's manifests as JSON has them, or the answer that says what is wrong with it."""
    try:
        schema.Manifests.validate_json(body)
        manifests = msgspec.json.decode(body, type=list[dict[str, Any]])
    except ValidationError as error:
        return invalid(
            [Problem(path=tuple(flaw["loc"]), message=flaw["msg"]) for flaw in error.errors(include_url=False)]
        )
    except (msgspec.DecodeError, RecursionError) as error:
        return invalid([Problem(path=(), message=f"no JSON array of manifests: {error}")])
    if schema.depth(manifests) >= schema.DEPTH_LIMIT:
        return invalid([Problem(path=(), message=f"nested deeper than {schema.DEPTH_LIMIT} levels; no manifest is")])
    if not json_fields.all_kept(body, manifests) and (paths := json_fields.repeated(body)):
        return invalid([Problem(path=path, message=f"field {path[-1]!r} is given twice") for path in paths])
    return manifests


def _plural(kind: str) -> str:
    return f"{kind.lower()}s"


def _not_deleted(controller: Controller, kind: str) -> Response:
    if kind == "tokens":
        return wrong_kind("tokens are not deleted but revoked: stitch token revoke NAME")
    try:
        controller.get(kind, "")
    except KeyError:
        return unknown_kind(kind)
    if kind == "agreements":
        return wrong_kind("agreements are not deleted but ended: stitch agreement end NAME --reason TEXT")
    if kind == "policies":
        return wrong_kind("the policy is its file's: change that, then `stitch policy reload`")
    return wrong_kind(f"{kind} are not deleted: they follow from what is applied; change or delete that")
