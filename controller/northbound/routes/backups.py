"""Taking a backup of what is stored, and putting one back."""

from fastapi import FastAPI, Request, Response

from controller.model.resource import Backups
from controller.northbound import schema
from controller.northbound.answers import as_json, refusal
from controller.northbound.guard import BACKUP_TYPE
from controller.northbound.routes.parameters import errors

_BACKUP = {"content": {BACKUP_TYPE: {"schema": {"type": "string", "format": "binary"}}}}


def add_backups(app: FastAPI, backups: Backups) -> None:
    @app.get(
        "/v1/backup",
        summary="Everything that the controller must not forget but keys and tokens, as of one moment",
        response_class=Response,
        responses={200: _BACKUP, **errors()},
    )
    async def take() -> Response:
        return Response(await backups.take(), media_type=BACKUP_TYPE)

    @app.post(
        "/v1/restore",
        summary="Puts a backup in place of all that is stored, and starts the controller again",
        response_model=None,
        openapi_extra={"requestBody": {"required": True, **_BACKUP}},
        responses={200: {"model": schema.Results}, **errors(409, 413)},
    )
    async def put_back(request: Request) -> Response:
        if reason := await backups.put_back(await request.body()):
            return refusal(409, reason)
        return as_json({"results": ["the backup is in its place; the controller starts again with it"]})
