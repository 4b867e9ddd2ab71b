"""`stitch backup` and `restore`."""

from typing import Annotated

import typer

from controller.cli.commands.arguments import client_of


def backup(context: typer.Context, file: Annotated[str, typer.Argument(metavar="FILE")]) -> None:
    """Save all that the controller must not forget, but keys and tokens."""
    from controller.cli import backup

    backup.backup(client_of(context), file)


def restore(context: typer.Context, file: Annotated[str, typer.Argument(metavar="FILE")]) -> None:
    """Put a backup in place of all that the controller has stored. It starts again with it."""
    from controller.cli import backup

    backup.restore(client_of(context), file)
