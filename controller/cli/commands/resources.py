"""`stitch get`, `describe`, `events`, `flows`, `drops`: what is there."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from controller.cli import completion
from controller.cli.commands.arguments import (
    BriefOption,
    KindArgument,
    OutputOption,
    Phased,
    Reference,
    Selector,
    Tenant,
    WatchOption,
    client_of,
)
from controller.cli.commands.watching import follow, pause, rounds
from controller.cli.errors import InputInvalid
from controller.cli.kinds import ROWS, plural, reference
from controller.cli.render import Brief, Output

if TYPE_CHECKING:
    from controller.cli.client import Client

WATCHED_S = 2.0
"""Before a watch began: so much of what passed is shown first."""


def get(
    context: typer.Context,
    kind: KindArgument,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", autocompletion=completion.names)] = None,
    labels: Selector = None,
    phase: Phased = None,
    tenant: Tenant = None,
    output: OutputOption = Output.TABLE,
    watch: WatchOption = False,
) -> None:
    """Show resources of a kind, or one."""
    from controller.cli.client import UNPAGED
    from controller.cli.render import show

    if name is None and "/" in kind:
        kinds, name = reference(kind)
    else:
        kinds = plural(kind)
    selection = _selection(labels=labels, phase=phase, tenant=tenant)
    if selection and (name is not None or kinds in UNPAGED):
        raise InputInvalid(f"-l, --phase and --tenant pick from lists of resources, not from {name or kinds}")
    client = client_of(context)
    if kinds in ROWS:
        for _ in rounds(watch):
            show(kinds, _rows(client, kinds, name), output)
    elif watch:
        follow(client, kinds, name, selection, output)
    else:
        show(kinds, client.resources(kinds, selection)[0] if selection else client.get(kinds, name), output)


def _selection(**given: str | None) -> dict[str, str]:
    return {name: value for name, value in given.items() if value is not None}


def _rows(client: "Client", kind: str, node: str | None) -> list[dict[str, Any]]:
    """Flows and drops have no names; a name is the node's. Raises AnswerIsNo where there is no such node."""
    rows: list[dict[str, Any]] = client.get(kind)
    if node is None:
        return rows
    mine = [row for row in rows if row["node"] == node]
    if not mine:
        client.get("nodes", node)
    return mine


def describe(context: typer.Context, what: Reference) -> None:
    """Show everything about one resource."""
    from controller.cli.render import as_yaml
    from controller.cli.times import with_times

    kind, name = reference(what)
    if kind in ROWS:
        raise InputInvalid(f"{kind} have no names to describe; use `stitch get {kind}`")
    resource = client_of(context).get(kind, name)
    print(f"{kind}/{name}")
    for part in ("metadata", "spec", "status"):
        text = as_yaml([resource[part]]) if resource[part] else "-\n"
        print(f"\n{part}:\n" + "".join(f"  {with_times(line)}\n" for line in text.splitlines()), end="")


def flows(
    context: typer.Context,
    intent: Annotated[str | None, typer.Option(metavar="NAME", help="Only this intent's.")] = None,
    watch: WatchOption = False,
    output: BriefOption = Brief.TABLE,
) -> None:
    """Show what flows: packets and bytes of both directions, as the nodes count them. With --watch what passes from
    now on, each second."""
    from controller.cli.render import Changes, show

    client = client_of(context)
    if not watch:
        show("flows", client.flows(intent), Output(output))
        return
    changes, since = Changes("flows", Output(output)), -WATCHED_S
    while True:
        rows = client.flows(intent, since)
        changes.show(rows)
        since = max((row["time_s"] for row in rows), default=since)
        pause()


def drops(
    context: typer.Context,
    intent: Annotated[
        str | None, typer.Option(metavar="NAME", help="What it permits and was dropped all the same.")
    ] = None,
    watch: WatchOption = False,
    output: BriefOption = Brief.TABLE,
) -> None:
    """Show what nodes dropped: by reason, or of one intent."""
    from controller.cli.render import show

    client = client_of(context)
    for _ in rounds(watch):
        show("drops", client.drops(intent), Output(output))


def events(
    context: typer.Context,
    what: Annotated[str | None, typer.Argument(metavar="[KIND/NAME]", autocompletion=completion.references)] = None,
    output: OutputOption = Output.TABLE,
    watch: WatchOption = False,
) -> None:
    """Show what happened (to one thing, or at all): when, why, and who did it."""
    from controller.cli.render import show

    selection = {} if what is None else {"about": "/".join(reference(what))}
    client = client_of(context)
    if watch:
        follow(client, "events", None, selection, output)
    else:
        show("events", client.resources("events", selection)[0], output)
