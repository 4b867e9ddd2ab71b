"""What the nodes count and the controller sees: flows, drops, doctor, metrics."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Protocol

from fastapi import FastAPI, Query, Response

from controller.model.flow_columns import FlowColumns
from controller.model.telemetry import Carried, Check, NodeDrops, NodeFlows, Telemetry
from controller.northbound import flows, metrics, schema
from controller.northbound.answers import as_json, not_found
from controller.northbound.routes.parameters import Seen, errors
from dataplane.reasons import DropReason

TRUNCATED = "netstitch-truncated"
FLOW_HEADERS = {
    TRUNCATED: {
        "schema": {"type": "string"},
        "description": "Nodes that have more flows than they told, with commas between; ask for one intent's.",
    }
}


RECENT_ROWS_MAX = 10_000


class Watched(Telemetry, Protocol):
    """What nodes are asked for, and what they tell unasked."""

    def recent_flows(self, after_s: float) -> FlowColumns:
        """What passed in intervals that ended later."""


def add_telemetry(app: FastAPI, telemetry: Watched, domain: str) -> None:
    reading = asyncio.Lock()
    """Who asks for flows waits for who asked before: each is megabytes."""

    @app.get(
        "/v1/flows",
        summary="Flow records, read from the nodes now; both directions in one row",
        response_model=None,
        responses={200: {"model": list[flows.FlowRow], "headers": FLOW_HEADERS}, **errors(400, 404)},
    )
    async def read_flows(
        controller: Seen,
        intent: Annotated[str | None, Query(max_length=64, description="Only this intent's.")] = None,
        since: Annotated[
            float | None,
            Query(
                ge=-86400,
                le=2**40,
                allow_inf_nan=False,
                description="What passed after this Unix time (negative: so many seconds ago), interval by interval, "
                f"as the nodes have told it since; the newest {RECENT_ROWS_MAX} rows, of the last 15 minutes.",
            ),
        ] = None,
    ) -> Response:
        def concerns(owner: str) -> bool:
            return intent in (None, owner.removeprefix("intents/")) and (controller.whole or controller.concerns(owner))

        if intent is not None and await asyncio.to_thread(controller.get, "intents", intent) is None:
            return await asyncio.to_thread(not_found, controller, "intents", intent)
        if since is not None:
            after_s = since if since >= 0 else time.time() + since
            recent = await asyncio.to_thread(telemetry.recent_flows, after_s)
            return await asyncio.to_thread(_recent, recent, concerns)
        async with reading:
            observed = await telemetry.flows(None if intent is None and controller.whole else concerns)
            response = await asyncio.to_thread(_rows, observed, intent, concerns)
        if cut := [node.node for node in observed if node.batch.truncated]:
            response.headers[TRUNCATED] = ", ".join(cut)
        return response

    @app.get(
        "/v1/drops",
        summary="Dropped packets by node and reason, read from the nodes now",
        response_model=None,
        responses={200: {"model": list[schema.Drop]}, **errors(400, 404)},
    )
    async def read_drops(
        controller: Seen,
        intent: Annotated[
            str | None,
            Query(max_length=64, description="What it permits and was dropped all the same, for whatever reason."),
        ] = None,
    ) -> Response:
        if intent is None:
            return await asyncio.to_thread(_all_drops, await telemetry.drops())
        if await asyncio.to_thread(controller.get, "intents", intent) is None:
            return await asyncio.to_thread(not_found, controller, "intents", intent)
        return await asyncio.to_thread(_drops_of, f"intents/{intent}", await telemetry.carried())

    @app.get(
        "/v1/doctor",
        summary="What is well and what is not",
        response_model=None,
        responses={200: {"model": schema.Doctor}, **errors()},
    )
    async def doctor() -> Response:
        return await asyncio.to_thread(_doctor, domain, await telemetry.checks())

    @app.get(
        "/metrics",
        summary="For Prometheus",
        response_model=None,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **errors()},
    )
    async def read_metrics(controller: Seen) -> Response:
        drops, carried, own = await telemetry.drops(), await telemetry.carried(), await telemetry.metrics()

        def text() -> str:
            intents, now_s = controller.list("intents"), time.time()
            return metrics.text(
                (
                    *metrics.of_intents(intents),
                    *metrics.of_each_intent(intents, carried, now_s),
                    *metrics.of_agreements(controller.list("agreements")),
                    *metrics.of_tunnels(controller.list("tunnels"), now_s),
                    *metrics.of_nodes(controller.list("nodes")),
                    *metrics.of_drops(_drops(drops)),
                    *own,
                )
            )

        return Response(await asyncio.to_thread(text), media_type=metrics.CONTENT_TYPE)


def _recent(recent: FlowColumns, concerns: Callable[[str], bool]) -> Response:
    return as_json(flows.of_columns(recent, concerns, RECENT_ROWS_MAX))


def _rows(observed: Sequence[NodeFlows], intent: str | None, concerns: Callable[[str], bool]) -> Response:
    return as_json([row for row in flows.rows(observed, intent) if concerns(row.owner)])


def _doctor(domain: str, checks: Sequence[Check]) -> Response:
    rows = [{field: getattr(check, field) for field in check.__struct_fields__} for check in checks]
    return as_json({"domain": domain, "ok": all(check.ok for check in checks), "checks": rows})


def _drops_of(owner: str, carried: Sequence[Carried]) -> Response:
    rows = [
        {"node": each.node, "reason": "", "interface": "", "packets": each.dropped_packets, "bytes": each.dropped_bytes}
        for each in carried
        if each.owner == owner and each.dropped_packets
    ]
    return as_json(rows)


def _all_drops(nodes: Sequence[NodeDrops]) -> Response:
    return as_json(_drops(nodes))


def _drops(nodes: Sequence[NodeDrops]) -> list[dict[str, Any]]:
    names = {int(reason): reason.name.lower() for reason in DropReason}

    def row(node: str, reason: int, interface: str, packets: int, octets: int) -> dict[str, Any]:
        name = names.get(reason, f"reason_{reason}")
        return {"node": node, "reason": name, "interface": interface, "packets": packets, "bytes": octets}

    counts = [(node.node, each.index, "", each.packets, each.bytes) for node in nodes for each in node.drops]
    counts += [(node.node, each.reason, each.interface, each.packets, 0) for node in nodes for each in node.losses]
    return [row(*each) for each in sorted(counts) if each[3]]
