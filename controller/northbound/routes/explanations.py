"""Why things are as they are, where a packet goes, and the graph of all that is known."""

from typing import Annotated

from fastapi import FastAPI, Path, Query, Response

from controller.model.trace import Crossing, Probe, Unknown
from controller.northbound import schema
from controller.northbound.answers import as_json, not_found, refusal, wrong_kind
from controller.northbound.graph_formats import MEDIA, GraphFormat, written
from controller.northbound.routes.parameters import REVISION, Name, Seen, errors

_GRAPH = {
    "content": {
        media: {"schema": {"type": "object" if form is GraphFormat.JSON else "string"}} for form, media in MEDIA.items()
    },
    "headers": {REVISION: {"schema": {"type": "integer"}, "description": "Since when the graph is as it is."}},
}


def add_explanations(app: FastAPI) -> None:
    @app.get(
        "/v1/explain/{kind}/{name:path}",
        summary="Why: from an intent down to entries, or from an entry back to what asked for it",
        response_model=None,
        responses={200: {"model": schema.Branch}, **errors(400, 404)},
    )
    def explain(
        controller: Seen,
        kind: Annotated[str, Path(max_length=64, description="intents or entries.", examples=["intents"])],
        name: Name,
    ) -> Response:
        try:
            explanation = controller.explain(kind, name)
        except KeyError:
            return wrong_kind(f"{kind} are not explained; intents and entries are")
        return as_json(explanation) if explanation is not None else not_found(controller, kind, name)

    @app.get(
        "/v1/graph",
        summary="Domains, networks, services, nodes, ports and links, as far as they are known",
        response_class=Response,
        responses={200: _GRAPH, **errors()},
    )
    def graph(
        controller: Seen,
        form: Annotated[GraphFormat, Query(alias="format", description="How it is written.")] = GraphFormat.JSON,
    ) -> Response:
        known = controller.graph()
        return Response(written(known, form), media_type=MEDIA[form], headers={REVISION: str(known.revision)})

    @app.post(
        "/v1/trace",
        summary="What becomes of a packet here, hop by hop, by the entries that the nodes shall have",
        response_model=None,
        responses={200: {"model": schema.Trace}, **errors(400, 404, 413)},
    )
    def trace(controller: Seen, asked: schema.Probe | schema.Crossing) -> Response:
        fields = asked.model_dump()
        traced = controller.trace(Probe(**fields) if isinstance(asked, schema.Probe) else Crossing(**fields))
        return refusal(404, traced.message) if isinstance(traced, Unknown) else as_json(traced)
