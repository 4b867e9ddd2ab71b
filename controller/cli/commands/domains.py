"""`stitch domain`."""

from typing import Annotated

import typer

from controller.cli.commands.arguments import client_of
from controller.cli.style import SETTINGS

app = typer.Typer(help="Other domains.", **SETTINGS)


@app.command("add")
def add_domain(
    context: typer.Context,
    name: str,
    key: Annotated[str | None, typer.Option(help="Its Ed25519 public key, base64 (stitchd keygen prints it).")] = None,
    endpoint: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Its east-west endpoint, if we talk to it.")
    ] = None,
    certificate: Annotated[str | None, typer.Option(metavar="FILE", help="Its TLS root certificate, PEM.")] = None,
    public: Annotated[
        str | None, typer.Option(metavar="FILE", help="What its `stitchd keygen` printed: key and certificate.")
    ] = None,
    sid_block: Annotated[str | None, typer.Option(metavar="PREFIX", help="Its block in 5f00::/16.")] = None,
    trust: Annotated[str | None, typer.Option(help="public, partner or own.")] = None,
) -> None:
    """Pin another domain's key, and of one that we talk to the endpoint. What is left out stays as it is known."""
    from controller.cli.domain import Pins, manifest

    client = client_of(context)
    pins = Pins(key=key, certificate_file=certificate, public_file=public)
    print(*client.apply([manifest(client, name, pins, endpoint, sid_block, trust)]), sep="\n")
