"""Whose token a request has, and tokens themselves."""

from fastapi import FastAPI, Response

from controller.model.access import Role
from controller.northbound import schema
from controller.northbound.answers import as_json, outcome, refusal
from controller.northbound.routes.parameters import Name, Seen, errors
from controller.northbound.tokens import Tokens


def add_tokens(app: FastAPI, tokens: Tokens) -> None:
    @app.get("/v1/whoami", summary="Whose token this is", response_model=None,
             responses={200: {"model": schema.Who}, **errors()})  # fmt: skip
    async def whoami(controller: Seen) -> Response:
        return as_json({field: getattr(controller.by, field) for field in ("name", "role", "tenants")})

    @app.get(
        "/v1/tokens",
        summary="Who may use the API; never a secret or its hash",
        response_model=None,
        responses={200: {"model": list[schema.Resource]}, **errors()},
    )
    async def list_tokens() -> Response:
        return as_json(tokens.resources())

    @app.get(
        "/v1/tokens/{name}",
        summary="One token; never its secret or hash",
        response_model=None,
        responses={200: {"model": schema.Resource}, **errors(404)},
    )
    async def get_token(name: Name) -> Response:
        token = tokens.resource(name)
        return as_json(token) if token is not None else _no_token(name)

    @app.post(
        "/v1/tokens",
        summary="Makes a token; its secret is in the answer and nowhere else",
        response_model=None,
        responses={200: {"model": schema.CreatedToken}, **errors(409, 413)},
    )
    async def create_token(asked: schema.NewToken) -> Response:
        answer, secret = await tokens.create(
            asked.name, Role(asked.role), tuple(dict.fromkeys(asked.tenants)) or None, asked.lifetime_s
        )
        return as_json({"results": answer.results, "secret": secret}) if secret else outcome(answer)

    @app.delete(
        "/v1/tokens/{name}",
        summary="Revokes a token at once: what is open with it ends",
        response_model=None,
        responses={200: {"model": schema.Results}, **errors(404, 409)},
    )
    async def revoke_token(name: Name) -> Response:
        answer = await tokens.revoke(name)
        return _no_token(name) if answer.missing else outcome(answer)


def _no_token(name: str) -> Response:
    return refusal(404, f"there is no tokens/{name[:100]}; `stitch get tokens` lists what there is")
