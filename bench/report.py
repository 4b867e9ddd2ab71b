"""One row a figure: what was measured, next to its peer and its target."""

import json
import os
from pathlib import Path
from typing import Literal

import msgspec
from rich.console import Console
from rich.table import Table

DIRECTORY = Path("build/bench")


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """`ratio` = how many times better than the peer. The target is for the ratio where there is a peer, else for the
    value."""

    name: str
    value: float
    unit: str
    peer: str | None = None
    peer_value: float | None = None
    ratio: float | None = None
    target: float | None = None
    better: Literal["higher", "lower"]
    ok: bool
    load: float
    """Of the machine over the last minute, when it was measured: processes that ran or wanted to."""
    spread: float | None = None
    """Quartile range of the single measurements, as a part of their median; None: there was one, or the best counts."""


def row(
    name: str,
    value: float,
    unit: str,
    *,
    better: Literal["higher", "lower"],
    target: float | None = None,
    peer: str | None = None,
    peer_value: float | None = None,
    spread: float | None = None,
    compared: bool = True,
) -> Row:
    """`compared`: False shows the peer's figure beside ours, and the target is for ours."""
    ratio = None
    if peer_value is not None and compared:
        ratio = value / peer_value if better == "higher" else peer_value / value
    if target is None:
        ok = True
    elif ratio is not None:
        ok = ratio >= target
    else:
        ok = value >= target if better == "higher" else value <= target
    return Row(
        name=name,
        value=round(value, 3),
        unit=unit,
        peer=peer,
        peer_value=None if peer_value is None else round(peer_value, 3),
        ratio=None if ratio is None else round(ratio, 2),
        target=target,
        better=better,
        ok=ok,
        load=round(os.getloadavg()[0], 1),
        spread=None if spread is None else round(spread, 3),
    )


def report(group: str, rows: list[Row]) -> bool:
    """Writes build/bench/GROUP.json and prints a table; true if all targets were met."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    path = DIRECTORY / f"{group}.json"
    path.write_text(json.dumps(msgspec.to_builtins(rows), indent=1) + "\n")
    table = Table(title=f"bench {group}")
    for heading in ("figure", "value", "unit", "peer", "peer's", "times better", "target", "spread", "load", ""):
        text = heading in {"figure", "unit", "peer", ""}
        table.add_column(heading, justify="left" if text else "right", no_wrap=True)
    for result in rows:
        bound = "≥" if result.better == "higher" or result.ratio is not None else "≤"
        table.add_row(
            result.name,
            f"{result.value:,.5g}" if result.value < 100_000 else f"{result.value:,.0f}",
            result.unit,
            result.peer or "",
            "" if result.peer_value is None else f"{result.peer_value:,.5g}",
            "" if result.ratio is None else f"{result.ratio:.1f}",
            "" if result.target is None else f"{bound} {result.target:,.10g}",
            "" if result.spread is None else f"{result.spread:.0%}",
            f"{result.load:.1f}",
            "ok" if result.ok else "NOT REACHED",
        )
    Console(width=None if Console().is_terminal else 140).print(table)
    print(f"written to {path}")
    return all(row.ok for row in rows)
