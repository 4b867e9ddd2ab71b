"""Three plugins of netstitch: one reads intents from a table, one requires more of intents that carry voice, one
judges what other domains offer."""

import csv
import io
from typing import Any

import pluggy

hookimpl = pluggy.HookimplMarker("netstitch")
COLUMNS = ["name", "tenant", "from", "to", "ports"]
VOICE = {"udp/5060", "udp/5061"}
"""SIP (RFC 3261 §18)."""


class Table:
    """A front end: each row of a CSV file is an intent that allows one thing."""

    @hookimpl
    def read_manifests(self, text: str, file: str) -> list[dict[str, Any]]:
        rows = csv.DictReader(io.StringIO(text))
        if rows.fieldnames != COLUMNS:
            raise ValueError(f"expected the columns {','.join(COLUMNS)} in the first line of {file}")
        return [{"line": rows.line_num, "manifest": self._manifest(row)} for row in rows]

    def _manifest(self, row: dict[str, str]) -> dict[str, Any]:
        allow: dict[str, Any] = {"from": {"network": row["from"]}, "to": row["to"]}
        if row["ports"]:
            allow["ports"] = row["ports"].split()
        return {
            "apiVersion": "netstitch/v1",
            "kind": "Intent",
            "metadata": {"name": row["name"], "tenant": row["tenant"]},
            "spec": {"allow": [allow]},
        }


class Voice:
    """A requirement compiler: what allows SIP is quick and goes first in queues."""

    @hookimpl
    def compile_requirements(self, intent: dict[str, Any]) -> dict[str, Any] | None:
        ports = {port for allow in intent["spec"].get("allow", []) for port in allow.get("ports", [])}
        if not ports & VOICE:
            return None
        return {"require": {"latency_ms": {"max": 50}}, "dscp": "EF"}


class Ports:
    """A strategy: other domains name the ports that they want to reach."""

    @hookimpl
    def judge_offer(self, terms: dict[str, Any]) -> str | None:
        everything = [flow["destination"] for flow in terms["flows"] if not flow.get("ports")]
        return f"name the ports that you want of {everything[0]}" if everything else None
