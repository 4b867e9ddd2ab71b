"""Resources of a kind: a list, one, and what changes of them."""

from typing import Annotated

from fastapi import FastAPI, Query, Request, Response

from controller.model.event import Problem
from controller.model.phases import phase_of
from controller.model.resource import Controller
from controller.northbound import lists, schema
from controller.northbound.answers import as_json, invalid, not_found, unknown_kind
from controller.northbound.routes.parameters import (
    FILTER_MAX,
    ONE_HEADERS,
    PAGE_HEADERS,
    REVISION,
    Kind,
    Name,
    Seen,
    Since,
    Watch,
    errors,
    stream,
)
from controller.northbound.watches import follow


def add_resources(app: FastAPI) -> None:
    # no `async`: they are answered in threads, since what they look at grows
    @app.get(
        "/v1/{kind}",
        summary="The resources of a kind, by name",
        response_model=None,
        responses={200: stream(list[schema.Resource], PAGE_HEADERS), **errors(400, 404, 410)},
    )
    def list_resources(
        request: Request,
        controller: Seen,
        kind: Kind,
        labels: Annotated[
            str | None,
            Query(max_length=FILTER_MAX, description="Only those with these labels: `app=web,tier!=2,pci,!old`."),
        ] = None,
        phase: Annotated[
            str | None,
            Query(max_length=64, description="Only those in this phase, one of their kind's.", examples=["Active"]),
        ] = None,
        tenant: Annotated[str | None, Query(max_length=64, description="Only this tenant's intents.")] = None,
        about: Annotated[
            str | None,
            Query(
                max_length=FILTER_MAX,
                description="Of events: only those about this.",
                examples=["intents/order-processing"],
            ),
        ] = None,
        limit: Annotated[
            int | None, Query(ge=1, le=lists.LIMIT_MAX, description="At most so many; the header Link has the rest.")
        ] = None,
        after: Annotated[
            str | None, Query(max_length=FILTER_MAX, alias="continue", description="As the header Link has it.")
        ] = None,
        watch: Watch = False,
        since: Since = None,
    ) -> Response:
        try:
            _check_watch(watch, since, pages=limit is not None or after is not None)
            if about is not None and kind != "events":
                raise ValueError(f"about: only events are about something, {kind} are not")
            standing = _standing(controller, kind, phase) if phase is not None else None
            selection = lists.Selection(lists.selector(labels or ""), standing, tenant, about)
            if watch:
                return follow(controller, kind, None, since, selection)
            before = lists.name_before(after)
            whole = limit is None and not before
            resources = controller.list(kind) if whole else controller.following(kind, before)
            shown, rest = lists.page(filter(selection.picks, resources), limit)
        except KeyError:
            return unknown_kind(kind)
        except ValueError as error:
            return invalid([Problem(path=("query",), message=str(error))])
        response = as_json(shown)
        response.headers[REVISION] = str(controller.revision)
        if rest:
            following = request.url.include_query_params(**{"continue": rest})
            response.headers["link"] = f'<{following.path}?{following.query}>; rel="next"'
        return response

    @app.get(
        "/v1/{kind}/{name:path}",
        summary="One resource",
        response_model=None,
        responses={200: stream(schema.Resource, ONE_HEADERS), **errors(400, 404, 410)},
    )
    def get_resource(controller: Seen, kind: Kind, name: Name, watch: Watch = False, since: Since = None) -> Response:
        try:
            _check_watch(watch, since)
            if watch:
                return follow(controller, kind, name, since, lists.Selection())
            resource = controller.get(kind, name)
        except KeyError:
            return unknown_kind(kind)
        except ValueError as error:
            return invalid([Problem(path=("query",), message=str(error))])
        if resource is None:
            return not_found(controller, kind, name)
        response = as_json(resource)
        response.headers["etag"] = f'"{resource.metadata["revision"]}"'
        return response


def _check_watch(watch: bool, since: int | None, *, pages: bool = False) -> None:
    """Raises ValueError for what is said in vain."""
    if since is not None and not watch:
        raise ValueError("since: only a watch has a revision from which it goes on; add watch=true")
    if watch and pages:
        raise ValueError("limit, continue: only a list has pages, a watch has not; leave them out")


def _standing(controller: Controller, kind: str, phase: str) -> str:
    """Raises ValueError where it is no phase of that kind, KeyError for an unknown kind."""
    any(controller.following(kind, ""))
    return phase_of(kind, phase)
