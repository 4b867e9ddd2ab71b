"""`stitch intent`."""

from typing import Annotated

import typer

from controller.cli import completion
from controller.cli.commands.arguments import DryRun, Wait, client_of
from controller.cli.errors import InputInvalid
from controller.cli.render import Written


def intent(
    context: typer.Context,
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="SENTENCE | renew NAME",
            help="docs/language.md; or English that proposes a sentence.",
            autocompletion=completion.renewals,
        ),
    ],
    name: Annotated[str | None, typer.Option(metavar="N", help="Of the intent; else after who and where.")] = None,
    tenant: Annotated[
        str | None, typer.Option(metavar="T", help="Else the token's only one, or whose the network is.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether English was understood.")] = False,
    dry_run: DryRun = False,
    wait: Wait = None,
    output: Annotated[Written | None, typer.Option("-o", "--output", help="Print the intent so.")] = None,
) -> None:
    """Say in a sentence what is needed; or let the lease of an intent begin anew (renew NAME)."""
    from controller.cli.intent import state

    match words:
        case [sentence]:
            pass
        case ["renew", renewed]:
            print(*client_of(context).renew(renewed), sep="\n")
            return
        case _:
            raise InputInvalid('expected one sentence in quotes, or renew NAME: stitch intent "allow ..."')
    state(
        client_of(context),
        sentence,
        name=name,
        tenant=tenant,
        yes=yes,
        dry_run=dry_run,
        wait_s=wait,
        output=output,
    )
