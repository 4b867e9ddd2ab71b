"""`stitch node drain`, `stitch link drain`: what becomes of it, until nothing moves any more."""

import sys
import time

from controller.cli.client import Client, Json
from controller.cli.errors import AnswerIsNo


def drain(client: Client, kind: str, name: str, wait_s: float) -> None:
    """Says what moves on standard error. Raises AnswerIsNo with what cannot move, and why, or does not in time."""
    deadline = time.monotonic() + wait_s
    print(*client.drain(kind, name, is_drained=True), sep="\n", flush=True)
    if not wait_s:
        return
    status, told = _drain(client.get(kind, name)), ""
    for resource in client.watch(kind, name, deadline=deadline):
        if resource is not None:
            status = _drain(resource)
        if status.get("phase") != "Draining":
            break
        if (text := _progress(status)) != told:
            print(f"{kind}/{name} {text}", file=sys.stderr, flush=True)
            told = text
    left = [f"{kind}/{name}: {why}" for why in status.get("left", ())]
    match status.get("phase"):
        case "Drained":
            print(f"{kind}/{name} is passed by nothing any more")
        case "Draining":
            raise AnswerIsNo("\n".join([f"{kind}/{name} {_progress(status)} after {wait_s:g} s", *left]))
        case "PartlyDrained":
            raise AnswerIsNo("\n".join(left))
        case _:
            raise AnswerIsNo(f"{kind}/{name} is in use again: somebody has undrained it")


def _drain(resource: Json) -> Json:
    found: Json = resource["status"].get("drain", {})
    return found


def _progress(status: Json) -> str:
    waiting = ", ".join(status.get("waiting_for", ()))
    return f"Draining: {status.get('moving', 0)} still move" + (f", waiting for nodes: {waiting}" if waiting else "")
