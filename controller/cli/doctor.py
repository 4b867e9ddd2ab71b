"""`stitch doctor`: whether the controller answers, what it says of its domain, and how a lab's links are made."""

import time

from controller.cli.client import Client, Json
from controller.cli.errors import Unreachable


def examine(client: Client) -> tuple[Json, bool]:
    """`{domain, ok, checks}` as people and programs read it, and whether the controller was reached."""
    began = time.monotonic()
    seen: Json = {"domain": "", "checks": []}
    reached, advice = True, ""
    try:
        seen = client.doctor()
        detail = f"{client.target.server}, {client.target.said_by}, {(time.monotonic() - began) * 1000:.0f} ms"
    except Unreachable as error:
        reached, detail = False, str(error)
        advice = "start it, or choose another with --domain, --server or --lab"
    checks = [_check("controller", "reachable", reached, detail, advice), *seen["checks"]]
    if client.target.lab is not None:
        checks.append(_links(client.target.lab))
    return {"domain": seen["domain"], "ok": all(check["ok"] for check in checks), "checks": checks}, reached


def _links(lab: str) -> Json:
    from topologies.daemons import process_of
    from topologies.record import RELAY

    process = process_of(lab, RELAY)
    detail = "no link carries anything: the TAP relay has ended" if process is None else f"TAP relay, process {process}"
    advice = "" if process is not None else f"stitch lab down --lab {lab}, and up again"
    return _check(f"lab/{lab}", "links", process is not None, detail, advice)


def _check(subject: str, name: str, ok: bool, detail: str, advice: str) -> Json:
    return {"subject": subject, "name": name, "ok": ok, "detail": detail, "advice": advice}
