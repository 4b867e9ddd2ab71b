"""`stitch`: the command line of netstitch. What commands need is imported when they run."""

import contextlib
import itertools
import os
import signal
import sys
from collections.abc import Sequence
from typing import Annotated, Any, TextIO, cast

import typer
from typer.core import TyperGroup

from controller.cli import completion, config
from controller.cli.commands import (
    agreements,
    backups,
    detectors,
    domains,
    draining,
    explanations,
    graphs,
    hosts,
    incidents,
    intents,
    manifests,
    policies,
    resources,
    tokens,
)
from controller.cli.errors import CommandFailed
from controller.cli.style import SETTINGS
from dataplane.visible import VisibleText

_LAB = "lab"
_GLOBAL = ("--domain", "--server", "--token-file", "--fingerprint", "--ca-file", "--lab")


class _Commands(TyperGroup):
    """Imports `stitch lab` (topologies and all) only when it is used or listed."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), _LAB]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name != _LAB:
            return super().get_command(ctx, cmd_name)
        from controller.cli import lab

        command = typer.main.get_command(lab.app)
        command.name = _LAB
        return command


app = typer.Typer(
    cls=_Commands,
    help="Stitches networks together from what applications say they need.",
    **{**SETTINGS, "add_completion": True},
)

for command in (
    manifests.apply,
    manifests.diff,
    intents.intent,
    resources.get,
    resources.describe,
    manifests.delete,
    manifests.schema,
    resources.flows,
    resources.drops,
    resources.events,
    explanations.explain,
    explanations.trace,
    backups.backup,
    backups.restore,
    explanations.doctor,
):
    app.command()(command)
for name, group in (
    ("domain", domains.app),
    ("agreement", agreements.app),
    ("host", hosts.app),
    ("node", draining.nodes),
    ("link", draining.links),
    ("incident", incidents.app),
    ("policy", policies.app),
    ("graph", graphs.app),
    ("detector", detectors.app),
    ("token", tokens.app),
):
    app.add_typer(group, name=name)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"stitch {version('netstitch')}")
        raise typer.Exit


@app.callback()
def choose(
    context: typer.Context,
    domain: Annotated[
        str | None,
        typer.Option(help="Which controller of a lab or of the config file.", autocompletion=completion.domains),
    ] = None,
    server: Annotated[
        str | None, typer.Option(metavar="URL", help="The controller's REST API: https://HOST:PORT, unix:/PATH.")
    ] = None,
    token_file: Annotated[str | None, typer.Option(metavar="FILE", help="Its bearer token.")] = None,
    fingerprint: Annotated[
        str | None, typer.Option(metavar="SHA256:...", help="Of its certificate (`stitchd fingerprint`).")
    ] = None,
    ca_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="The CA of its certificate, if not of this system.")
    ] = None,
    lab: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Which lab, if several are up.", autocompletion=completion.labs),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", help="Say which version this is.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    context.obj = config.Choice(
        domain=domain, server=server, token_file=token_file, lab=lab, fingerprint=fingerprint, ca_file=ca_file
    )


def hoisted(arguments: Sequence[str]) -> list[str]:
    """Global options may stand behind the command too; only `stitch lab` has some of its own of the same name."""
    first: list[str] = []
    rest: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        if argument == _LAB and not rest:
            return list(arguments)
        if argument == "--":
            rest += [argument, *waiting]
        elif argument in _GLOBAL:
            first += [argument, *itertools.islice(waiting, 1)]
        elif argument.startswith(tuple(f"{option}=" for option in _GLOBAL)):
            first.append(argument)
        else:
            rest.append(argument)
    return [*first, *rest]


def main() -> None:
    """Ends the process with the exit status of interfaces.md. What it shows comes from others, and a terminal believes
    what it is told: all of it is made visible here."""
    out, err = cast("TextIO", VisibleText(sys.stdout)), cast("TextIO", VisibleText(sys.stderr))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        _run()


def _run() -> None:
    try:
        try:
            app(hoisted(sys.argv[1:]), prog_name="stitch")
        finally:
            sys.stdout.flush()  # where who reads us has gone, that is found out here and not at the very end
    except CommandFailed as error:
        sys.stdout.flush()
        _complain(str(error))
        sys.exit(error.status)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # do not complain at exit
        sys.exit(128 + signal.SIGPIPE)


def _complain(text: str) -> None:
    """Lines that name a place in a file stay as they are, so that editors find it."""
    first = text.split(":", 3)
    located = len(first) == 4 and first[1].isdigit() and first[2].isdigit()
    print(text if located else f"stitch: {text}", file=sys.stderr)
