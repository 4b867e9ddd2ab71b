"""`stitch policy`."""

from typing import Annotated

import typer

from controller.cli.commands.arguments import client_of
from controller.cli.style import SETTINGS

app = typer.Typer(help="Which offers of other domains are accepted.", **SETTINGS)


@app.command("reload")
def reload_policy(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would end, or what is wrong.")] = False,
) -> None:
    """Let the controller read its policy file again: what it no longer allows ends; if it is wrong nothing changes."""
    for result in client_of(context).reload_policy(dry_run=dry_run):
        print(f"{result} (dry run)" if dry_run else result)
