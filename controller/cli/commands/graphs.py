"""`stitch graph`."""

import enum
from typing import Annotated

import typer

from controller.cli.commands.arguments import client_of
from controller.cli.style import SETTINGS

app = typer.Typer(help="What is known: domains, networks, services, nodes, ports, links.", **SETTINGS)


class GraphFormat(enum.StrEnum):
    GRAPHML = "graphml"
    JSON = "json"
    DOT = "dot"


@app.callback()
def _group() -> None:
    """So that `export` is a command of its own, though it is the only one."""


@app.command()
def export(
    context: typer.Context,
    form: Annotated[
        GraphFormat,
        typer.Option("--format", help="json: nodes and edges, as networkx and D3 read them; dot: Graphviz."),
    ] = GraphFormat.JSON,
) -> None:
    """Write the graph of all that is known, for other programs."""
    print(client_of(context).graph(form), end="")
