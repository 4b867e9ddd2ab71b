"""What the API answers: results, and what is wrong, in one form."""

import difflib
from collections.abc import Sequence

import msgspec
from fastapi import Response

from controller.model.event import Problem
from controller.model.resource import Answer, Controller, Resource
from controller.waited_for import waited_for

MAX_NEAR = 1000
"""Among so many names one is looked for that may have been meant."""
MAX_TOLD = 20
"""Of what is not there or not as it was: so many are in the text."""


CHUNK = 500


def as_json(value: object, status: int = 200) -> Response:
    """A long list is encoded in parts, between which other threads get to run."""
    if isinstance(value, list | tuple) and len(value) > CHUNK:
        parts = (msgspec.json.encode(value[at : at + CHUNK])[1:-1] for at in waited_for(range(0, len(value), CHUNK)))
        content = b"[" + b",".join(parts) + b"]"
    else:
        content = msgspec.json.encode(value)
    return Response(content, status_code=status, media_type="application/json")


def refusal(status: int, error: str, problems: Sequence[Problem] = ()) -> Response:
    plain = [{"path": problem.path, "message": problem.message} for problem in problems]
    return as_json({"error": error, "problems": plain}, status)


def invalid(problems: Sequence[Problem]) -> Response:
    return refusal(400, f"the request is not valid: {problems[0].message}", problems)


def outcome(answer: Answer) -> Response:
    if answer.problems:
        return invalid(answer.problems)
    if answer.invalid:
        return refusal(400, answer.invalid)
    if answer.forbidden:
        return refusal(403, answer.forbidden)
    if answer.conflict:
        return refusal(409, answer.conflict)
    return _results(answer)


def _results(answer: Answer) -> Response:
    preview = {} if answer.preview is None else {"preview": answer.preview}
    return as_json({"results": answer.results} | preview)


def stale(controller: Controller, things: Sequence[tuple[str, str]], places: Sequence[int]) -> Response:
    """What it is now stands beside it, of the first that has changed."""
    problems: list[Problem] = []
    now: Resource | None = None
    for place in places:
        kind, name = things[place]
        resource = controller.get(kind, name) if len(problems) < MAX_TOLD else None
        now = now or resource
        what = (
            f"its revision is {resource.metadata['revision']}" if resource is not None else "it is not there any more"
        )
        problems.append(Problem(path=(place,), message=f"{kind}/{name} is not as it was: {what}; look at it again"))
    plain = [{"path": problem.path, "message": problem.message} for problem in problems]
    return as_json({"error": problems[0].message, "problems": plain, "now": now}, 412)


def wrong_kind(message: str) -> Response:
    return refusal(404, message, [Problem(path=("kind",), message=message)])


def unknown_kind(kind: str) -> Response:
    return wrong_kind(f"unknown kind {kind!r}: see `stitch get --help` for the kinds there are")


def not_found(controller: Controller, kind: str, name: str) -> Response:
    return refusal(404, missing(controller, kind, name))


def missing(controller: Controller, kind: str, name: str, *, hint: bool = True) -> str:
    text = f"there is no {kind}/{name if len(name) <= 100 else name[:97] + '...'}"
    if not hint:
        return text
    close = difflib.get_close_matches(name[:100], controller.names(kind)[:MAX_NEAR], 1, 0.6)
    return f"{text}; " + (f"did you mean {close[0]}?" if close else f"`stitch get {kind}` lists what there is")
