"""`stitch agreement`."""

from typing import Annotated

import typer

from controller.cli import completion
from controller.cli.commands.arguments import client_of
from controller.cli.errors import AnswerIsNo, InputInvalid
from controller.cli.style import SETTINGS

app = typer.Typer(help="What domains signed.", **SETTINGS)


@app.command("end")
def end_agreement(
    context: typer.Context,
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME...", help="As `stitch get agreements` lists them.", autocompletion=completion.agreements
        ),
    ],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; the other domains are told.")],
    hold_off: Annotated[
        int, typer.Option(metavar="SECONDS", min=0, max=86400, help="How long the same intent is not accepted again.")
    ] = 900,
) -> None:
    """End agreements at once, on both sides."""
    if not reason.strip():
        raise InputInvalid("--reason is empty; say why, the other domains are told")
    client = client_of(context)
    for name in names:
        print(*client.end_agreement(name, reason, hold_off), sep="\n")


@app.command("verify")
def verify_agreement(
    context: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="From `stitch get agreement NAME -o json`; - is stdin.")],
    key: Annotated[list[str] | None, typer.Option(metavar="DOMAIN=KEY", help="Pinned; else the controller's.")] = None,
) -> None:
    """Check all signatures of an exported agreement: both domains', and the mandate's."""
    from controller.cli import agreement

    agreements = agreement.read_agreements(file)
    keys = agreement.parse_keys(key or [])
    if not all({*exported.domains} <= keys.keys() for exported in agreements):
        known = client_of(context).get("domains")
        keys = {domain["metadata"]["name"]: domain["spec"].get("key", "") for domain in known} | keys
    wrong: list[str] = []
    for exported in agreements:
        try:
            print(agreement.verify(exported, keys))
        except AnswerIsNo as error:
            wrong.append(str(error))
    if wrong:
        raise AnswerIsNo("\n".join(wrong))
