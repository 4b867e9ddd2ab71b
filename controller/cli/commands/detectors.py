"""`stitch detector`: the detectors on files, without a controller."""

from typing import Annotated

import typer

from controller.cli.style import SETTINGS

app = typer.Typer(help="Detectors on files of flow records and delays (docs/assurance.md).", **SETTINGS)

In = Annotated[str, typer.Option("--in", metavar="CSV", help="time_s, rtt_ms (empty: lost), at an even pace; .gz too.")]
Out = Annotated[str, typer.Option("--out", metavar="CSV", help="- is standard output.")]
Train = Annotated[
    list[str] | None,
    typer.Option("--train", metavar="CSV", help="Flow records of what is usual; several are calibrated by each other."),
]
Test = Annotated[str, typer.Option("--test", metavar="CSV", help="Flow records to be scored.")]


@app.command()
def score(
    test: Test,
    out: Out,
    train: Train = None,
    model: Annotated[str, typer.Option(metavar="FILE", help="One that --save has written, instead of --train.")] = "",
    save: Annotated[str, typer.Option(metavar="FILE", help="Where to keep what was learnt.")] = "",
) -> None:
    """How unusual flow records are: row, score (higher is more unusual), calibrated_p, reasons."""
    from controller.cli import detector

    detector.score(train or [], test, out, model, save)


@app.command()
def changepoints(source: In, out: Out) -> None:
    """Where a path's delay changes, online: time_s, score, kind."""
    from controller.cli import detector

    detector.changepoints(source, out)


@app.command()
def evaluate(
    train: Annotated[list[str], typer.Option("--train", metavar="CSV", help="Rows that are labelled 1 are left out.")],
    test: Annotated[str, typer.Option(metavar="CSV", help="Without it --train is split.")] = "",
    part: Annotated[float, typer.Option(min=0.05, max=0.95, help="Split by time: what comes before is learnt.")] = 0.6,
    runs: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=0, help="Split by runs, between gaps of so long, instead."),
    ] = 0.0,
    hide_sizes: Annotated[bool, typer.Option("--hide-sizes", help="As if bytes had not been observed.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """How well attacks (label 1, by kind) are told from what is usual, with intervals of 95 %."""
    from controller.cli import detector

    detector.evaluate(train, test, part=part, runs_s=runs, hide_sizes=hide_sizes, as_json=as_json)
