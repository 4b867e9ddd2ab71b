"""`stitch explain`, `trace`, `doctor`: why things are as they are."""

from typing import Annotated

import typer

from controller.cli.commands.arguments import BriefOption, Reference, TreeOption, client_of
from controller.cli.errors import AnswerIsNo, Unreachable
from controller.cli.kinds import reference
from controller.cli.render import Brief, Tree


def explain(context: typer.Context, what: Reference, output: TreeOption = Tree.TREE) -> None:
    """Say why: from an intent down to each node's entries, or from an entry back to the intent."""
    from controller.cli.explain import show_branch

    show_branch(client_of(context).explain(*reference(what)), output)


def trace(
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="SRC", help="A host, NETWORK/HOST or NETWORK/ADDRESS.")],
    destination: Annotated[str, typer.Argument(metavar="DST[:PORT[/PROTO]]", help="A service, host or address.")],
    output: TreeOption = Tree.TREE,
) -> None:
    """Say what the entries do with a packet, hop by hop, in all domains that can be asked."""
    from controller.cli.trace import follow, parse_destination, show_trace

    asked = {"source": source, **parse_destination(destination)}
    show_trace(follow(client_of(context), context.obj, asked), output)


def doctor(context: typer.Context, output: BriefOption = Brief.TABLE) -> None:
    """Say what is well and what is not, and what to do about it."""
    import json

    from controller.cli.doctor import examine
    from controller.cli.render import cell
    from controller.cli.table import table

    seen, reached = examine(client_of(context))
    if output is Brief.JSON:
        print(json.dumps(seen, indent=2))
    else:
        rows = [
            ("ok" if check["ok"] else "NOT OK", *(check[field] for field in ("subject", "name", "detail", "advice")))
            for check in seen["checks"]
        ]
        table(("", "SUBJECT", "CHECK", "SEEN", "WHAT TO DO"), [tuple(map(cell, row)) for row in rows])
    if not reached:
        raise Unreachable("doctor: the controller cannot be reached")
    if failed := sum(not check["ok"] for check in seen["checks"]):
        raise AnswerIsNo(f"doctor: {failed} of {len(seen['checks'])} checks failed")
