"""`stitch detector`: the detectors on files, without a controller."""

from typing import Annotated

import typer

from controller.cli.style import SETTINGS

app = typer.Typer(help="Detectors on files of flow records and delays (docs/assurance.md).", **SETTINGS)

In = Annotated[str, typer.Option("--in", metavar="CSV", help="time_s, rtt_ms (empty: lost), at an even pace; .gz too.")]
Out = Annotated[str, typer.Option("--out", metavar="CSV", help="- is standard output.")]


@app.callback()
def _group() -> None:
    """So that each is a command of its own."""


@app.command()
def changepoints(source: In, out: Out) -> None:
    """Where a path's delay changes, online: time_s, score, kind."""
    from controller.cli import detector

    detector.changepoints(source, out)
