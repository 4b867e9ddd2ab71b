"""What requests can say beside their body, and how the OpenAPI document describes what comes back."""

from typing import Annotated, Any

from fastapi import Depends, Header, Path, Query, Request

from controller.model.resource import Controller
from controller.northbound import schema
from controller.northbound.guard import STREAM_TYPE
from controller.northbound.scope import Scoped

NAME_MAX = 2000
"""Characters of the name of an entry, which has all that it matches in it."""
FILTER_MAX = 4000
"""Characters of what a list is narrowed down by."""
Kind = Annotated[str, Path(max_length=64, description="In the plural: intents, networks, ...", examples=["intents"])]
Name = Annotated[
    str, Path(max_length=NAME_MAX, description="May contain slashes.", examples=["order-processing", "shop/customer-x"])
]
Since = Annotated[int | None, Query(ge=0, le=2**63 - 1, description="With watch: only what has changed after this revision; 410 where that is not known any more, then list again.")]  # fmt: skip # noqa: E501
IfMatch = Annotated[str | None, Header(max_length=100, description='`"REVISION"`: only if nobody has changed it since; else 412, with what it is now. `*`: only if it is there.')]  # fmt: skip # noqa: E501
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


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """`statuses` and those that any request may be answered with; with 413 also what else is wrong with bodies, and
    with 409, of what is stored, that there is no room for it."""
    by_body = ((408, 415) if 413 in statuses else ()) + ((507,) if 409 in statuses else ())
    return {status: {"model": schema.Error} for status in (400, *statuses, *by_body, 401, 403, 503)}


def stream(of: type, headers: dict[str, Any]) -> dict[str, Any]:
    """A resource or several as JSON; with watch=true one a line."""
    return {
        "model": of,
        "headers": headers,
        "content": {STREAM_TYPE.decode(): {"schema": {"$ref": "#/components/schemas/Resource"}}},
    }


def revision_of(controller: Controller, if_match: str | None) -> int | None:
    """Raises ValueError."""
    if if_match is None or if_match.strip() == "*":
        return None if if_match is None else controller.revision
    text = if_match.strip().removeprefix("W/").strip('"')
    if not text.isdecimal() or int(text) > controller.revision:
        raise ValueError(f'{if_match[:40]!r} is no revision of a resource here: expected "REVISION" as its ETag has it')
    return int(text)
