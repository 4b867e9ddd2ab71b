"""`stitch host`."""

from typing import Annotated

import typer

from controller.cli import completion
from controller.cli.commands.arguments import client_of
from controller.cli.errors import InputInvalid
from controller.cli.style import SETTINGS

app = typer.Typer(help="Hosts that nodes hear, and networks.", **SETTINGS)


@app.command("adopt")
def adopt_host(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="As `stitch get hosts` shows it.", autocompletion=completion.hosts)
    ],
    network: Annotated[
        str, typer.Option(help="Which it is to be one of.", metavar="N", autocompletion=completion.networks)
    ],
    called: Annotated[
        str, typer.Option("--as", metavar="NAME", help="What it is called there; else after its MAC address.")
    ] = "",
    address: Annotated[
        list[str] | None, typer.Option(metavar="ADDRESS", help="Of those that it says only these.")
    ] = None,
    label: Annotated[list[str] | None, typer.Option("--label", metavar="KEY=VALUE")] = None,
) -> None:
    """Make a host that a node hears one of a network: its packets are taken from then on."""
    from controller.cli.adopting import adopt

    pairs = [each.partition("=") for each in label or ()]
    if wrong := next((each for each, (_, equals, _) in zip(label or (), pairs, strict=True) if not equals), None):
        raise InputInvalid(f"--label {wrong}: write KEY=VALUE")
    default = f"host-{name.rpartition('/')[2].replace(':', '')}"
    labels = {key: value for key, _, value in pairs}
    adopt(client_of(context), name, network, called or default, address or [], labels)
