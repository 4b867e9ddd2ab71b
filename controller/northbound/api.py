"""The REST API of a controller: what `stitch` and programs talk to. It translates, and decides nothing."""

import difflib
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from controller.errors import Forbidden, NoSpace, Unavailable
from controller.model.event import Problem
from controller.model.resource import Backups, Controller
from controller.northbound import schema
from controller.northbound.answers import as_json, invalid, refusal
from controller.northbound.guard import Bearer, JsonBody
from controller.northbound.permits import Permits
from controller.northbound.routes.backups import add_backups
from controller.northbound.routes.changes import add_changes
from controller.northbound.routes.explanations import add_explanations
from controller.northbound.routes.resources import add_resources
from controller.northbound.routes.telemetry import Watched, add_telemetry
from controller.northbound.routes.tokens import add_tokens
from controller.northbound.tokens import Tokens
from controller.northbound.turns import Turns


def create_app(controller: Controller, telemetry: Watched, tokens: Tokens, domain: str, *, backups: Backups) -> FastAPI:
    app = FastAPI(
        title=f"netstitch controller of {domain}",
        version="1",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.add_middleware(Turns)
    app.add_middleware(JsonBody)
    app.add_middleware(Permits, api=app)
    app.add_middleware(Bearer, tokens=tokens)  # the last one added is asked first

    app.state.controller = controller
    _add_error_handlers(app)
    _add_health(app)
    add_telemetry(app, telemetry, domain)
    add_explanations(app)
    add_tokens(app, tokens)
    add_changes(app)
    add_backups(app, backups)
    add_resources(app)
    _complete_openapi(app)
    return app


def _add_health(app: FastAPI) -> None:
    @app.get("/healthz", summary="Whether the controller answers; needs no token", response_model=schema.Health)
    async def healthz() -> Response:
        return as_json({"status": "ok"})


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def parameters_invalid(_: Request, error: RequestValidationError) -> Response:
        return invalid([Problem(path=tuple(flaw["loc"]), message=_flaw_words(flaw)) for flaw in error.errors()])

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> Response:
        response = refusal(error.status_code, str(error.detail))
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Forbidden)
    async def forbidden(_: Request, error: Forbidden) -> Response:
        return refusal(403, str(error))

    @app.exception_handler(NoSpace)
    async def full(_: Request, error: NoSpace) -> Response:
        return refusal(507, str(error))

    @app.exception_handler(Unavailable)
    async def unavailable(_: Request, error: Unavailable) -> Response:
        response = refusal(503, str(error))
        response.headers["retry-after"] = "1"
        return response


def _flaw_words(flaw: dict[str, Any]) -> str:
    """Of pydantic's, with the field of a body; an unknown field with the one that was meant."""
    *_, name = flaw["loc"]
    if flaw["type"] != "extra_forbidden":
        said = schema.NAME_WORDS if flaw.get("ctx", {}).get("pattern") == schema.NAME_PATTERN else str(flaw["msg"])
        field = ".".join(map(str, flaw["loc"][1:])) if flaw["loc"][:1] == ("body",) else ""
        return f"{field}: {said}" if field else said
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
