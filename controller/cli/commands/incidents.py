"""`stitch incident`."""

from typing import Annotated

import typer

from controller.cli.commands.arguments import client_of
from controller.cli.style import SETTINGS

app = typer.Typer(help="What assurance has found, and what is to be done about it.", **SETTINGS)
Incident = Annotated[str, typer.Argument(metavar="NAME", help="As `stitch get incidents` lists them.")]


@app.command("approve")
def approve(context: typer.Context, name: Incident) -> None:
    """Do what an incident proposes, as if you applied it."""
    print(*client_of(context).decide(name, "approve"), sep="\n")


@app.command("reject")
def reject(context: typer.Context, name: Incident) -> None:
    """Say that nothing is to be done about an incident."""
    print(*client_of(context).decide(name, "reject"), sep="\n")
