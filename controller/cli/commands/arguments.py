"""What commands can be told, each said once; and the controller that they ask."""

from typing import TYPE_CHECKING, Annotated

import typer

from controller.cli import completion, config
from controller.cli.kinds import KINDS, MANIFESTS, SCHEMA_FILES
from controller.cli.render import Brief, Detail, Output, Tree

if TYPE_CHECKING:
    from controller.cli.client import Client

Files = Annotated[list[str] | None, typer.Option("-f", "--file", metavar="FILE", help="Manifests, YAML or JSON; - is standard input.")]  # fmt: skip # noqa: E501
OptionalFiles = Annotated[list[str] | None, typer.Option("-f", "--file", metavar="FILE", help="What its manifests name.")]  # fmt: skip # noqa: E501
IfMatch = Annotated[
    str | None,
    typer.Option(
        "--if-match",
        metavar="REVISION",
        help="Only if nobody has changed it after this (metadata.revision); *: only if it is there.",
    ),
]
Wait = Annotated[float | None, typer.Option("--wait", metavar="SECONDS", min=0, help="Wait for the outcome.")]
KindArgument = Annotated[
    str, typer.Argument(metavar="KIND", help=", ".join(KINDS), autocompletion=completion.kind_or_reference)
]
SchemaKind = Annotated[str, typer.Argument(metavar="KIND", help=f"{', '.join((*MANIFESTS, *SCHEMA_FILES))}.")]
Reference = Annotated[str, typer.Argument(metavar="KIND/NAME", autocompletion=completion.references)]
Selector = Annotated[
    str | None,
    typer.Option("-l", "--labels", metavar="LABEL=VALUE,...", help="Only those: app=web, tier!=2, pci, !old."),
]
Phased = Annotated[
    str | None, typer.Option(metavar="PHASE", help="Only those in it.", autocompletion=completion.phases)
]
Tenant = Annotated[str | None, typer.Option(metavar="T", help="Only this tenant's.")]
OutputOption = Annotated[Output, typer.Option("-o", "--output")]
BriefOption = Annotated[Brief, typer.Option("-o", "--output")]
TreeOption = Annotated[Tree, typer.Option("-o", "--output")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what it would do; nothing is stored or sent.")]
DetailOption = Annotated[Detail, typer.Option("-o", "--output", help="Of a dry run: wide and json have entries.")]
WatchOption = Annotated[bool, typer.Option("--watch", help="Go on with what changes.")]


def client_of(context: typer.Context) -> "Client":
    from controller.cli.client import Client

    return Client(config.target(context.obj))
