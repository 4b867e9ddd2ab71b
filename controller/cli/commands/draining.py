"""`stitch node` and `stitch link`."""

from typing import Annotated

import typer

from controller.cli import completion
from controller.cli.commands.arguments import client_of
from controller.cli.style import SETTINGS

nodes = typer.Typer(help="Nodes in and out of use.", **SETTINGS)
links = typer.Typer(help="Links in and out of use.", **SETTINGS)
WAIT_S = 60.0

NodeName = Annotated[str, typer.Argument(metavar="NAME", autocompletion=completion.nodes)]
LinkName = Annotated[str, typer.Argument(metavar="NAME", autocompletion=completion.links)]
WaitFor = Annotated[
    float, typer.Option("--wait", metavar="SECONDS", min=0, help="How long to wait until nothing passes it; 0: not.")
]


@nodes.command("drain")
def drain_node(context: typer.Context, name: NodeName, wait: WaitFor = WAIT_S) -> None:
    """Take a node out of use: what passes it moves off without losing a packet, and nothing new passes it."""
    from controller.cli.draining import drain

    drain(client_of(context), "nodes", name, wait)


@nodes.command("undrain")
def undrain_node(context: typer.Context, name: NodeName) -> None:
    """Take a node into use again."""
    print(*client_of(context).drain("nodes", name, is_drained=False), sep="\n")


@links.command("drain")
def drain_link(context: typer.Context, name: LinkName, wait: WaitFor = WAIT_S) -> None:
    """Take a link out of use: what passes it moves off without losing a packet, and nothing new passes it."""
    from controller.cli.draining import drain

    drain(client_of(context), "links", name, wait)


@links.command("undrain")
def undrain_link(context: typer.Context, name: LinkName) -> None:
    """Take a link into use again."""
    print(*client_of(context).drain("links", name, is_drained=False), sep="\n")
