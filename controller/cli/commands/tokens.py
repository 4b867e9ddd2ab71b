"""`stitch token`."""

from pathlib import Path
from typing import Annotated

import typer

from controller.cli import completion
from controller.cli.commands.arguments import OutputOption, client_of
from controller.cli.render import Output
from controller.cli.style import SETTINGS

app = typer.Typer(help="Who may use a controller's API.", **SETTINGS)


@app.command("create")
def create_token(
    context: typer.Context,
    name: str,
    role: Annotated[str, typer.Option(help="admin, operator (of tenants) or reader (of everything, or of tenants).")],
    tenant: Annotated[list[str] | None, typer.Option(metavar="T", help="Whom it acts for; may be given again.")] = None,
    expires: Annotated[str | None, typer.Option(metavar="90d", help="After how long; else never.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the secret there (0600), not to standard output.")
    ] = None,
) -> None:
    """Make a token. Its secret is shown this once."""
    from controller.cli import token

    token.create(client_of(context), name, role=role, tenants=tenant or [], expires=expires, out=out)


@app.command("list")
def list_tokens(context: typer.Context, output: OutputOption = Output.TABLE) -> None:
    """Show who has one: never the secrets."""
    from controller.cli.render import show

    show("tokens", client_of(context).get("tokens"), output)


@app.command("revoke")
def revoke_token(
    context: typer.Context, name: Annotated[str, typer.Argument(autocompletion=completion.tokens)]
) -> None:
    """End a token at once, with what is open with it."""
    print(*client_of(context).revoke_token(name), sep="\n")
