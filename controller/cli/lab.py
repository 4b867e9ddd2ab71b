"""`stitch lab`: an emulated topology on this machine, with its agents and controllers."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from controller.cli import completion
from controller.cli.style import SETTINGS
from controller.cli.table import table
from topologies import lab, links, processes
from topologies.errors import LabError, LabExists, NotAllowed, NotFound, RequestInvalid
from topologies.problem import TopologyInvalid
from topologies.status import LabStatus, status
from topologies.topology import Switch

NO, INVALID, UNREACHABLE, NOT_ALLOWED = 1, 2, 3, 4
"""Exit status (interfaces.md)."""

app = typer.Typer(help="An emulated topology on this machine, with its agents and controllers.", **SETTINGS)

LabOption = Annotated[
    str | None,
    typer.Option("--lab", metavar="NAME", help="Which lab, if several are up.", autocompletion=completion.labs),
]

LinkEnd = Annotated[
    str,
    typer.Argument(help="A node, a host, or the node's port to a host.", autocompletion=completion.lab_places),
]


class Output(StrEnum):
    TABLE = "table"
    JSON = "json"


class LinkAction(StrEnum):
    DOWN = "down"
    UP = "up"
    SET = "set"


@contextmanager
def _exit_status() -> Iterator[None]:
    try:
        yield
    except TopologyInvalid as error:
        _fail(str(error), INVALID)
    except RequestInvalid as error:
        _fail(f"stitch lab: {error}", INVALID)
    except (NotFound, LabExists) as error:
        _fail(f"stitch lab: {error}", NO)
    except NotAllowed as error:
        _fail(f"stitch lab: {error}", NOT_ALLOWED)
    except LabError as error:
        _fail(f"stitch lab: {error}", UNREACHABLE)


def _fail(text: str, code: int) -> None:
    print(text, file=sys.stderr)
    raise typer.Exit(code)


def _named(context: typer.Context, name: str | None) -> str | None:
    """`--lab` of the command, else the global one."""
    root = context.find_root().params.get("lab")
    return name or (root if isinstance(root, str) else None)


@app.command()
def up(
    context: typer.Context,
    topology: Annotated[str, typer.Argument(help="A YAML file, or the name of one that comes with netstitch.")],
    name: LabOption = None,
    switch: Annotated[Switch, typer.Option(help="What the nodes are that are only crossed.")] = Switch.XDP,
    bare: Annotated[bool, typer.Option("--bare", help="Only the network: no agents, no controllers.")] = False,
) -> None:
    """Start a lab; returns when all of it is ready."""
    with _exit_status():
        say = partial(print, flush=True)
        record = lab.up(topology, _named(context, name), bare=bare, switch=switch, say=say)
        print(f"lab {record.lab} is up")


@app.command()
def down(context: typer.Context, name: LabOption = None) -> None:
    """End a lab and everything of it; fine if there is none."""
    with _exit_status():
        chosen = _named(context, name)
        if chosen is None and not lab.running():
            print("no lab is up")
            return
        ended = chosen or lab.find(None).lab
        lab.down(ended)
        print(f"lab {ended} is down")


@app.command("status")
def show_status(
    context: typer.Context,
    name: LabOption = None,
    output: Annotated[Output, typer.Option("-o", "--output")] = Output.TABLE,
) -> None:
    """Hosts, nodes, controllers and links."""
    with _exit_status():
        lab_status = status(lab.find(_named(context, name)))
        if output is Output.JSON:
            print(msgspec.json.format(msgspec.json.encode(lab_status)).decode())
        else:
            _print_tables(lab_status)


@app.command(
    "exec",
    context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True},
    options_metavar="[--lab NAME]",
)
def execute(
    context: typer.Context,
    host: Annotated[str, typer.Argument(help="A host or node.", autocompletion=completion.lab_places)],
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND...")],
    name: LabOption = None,
) -> None:
    """Run a command in a host or node; its exit status is passed on."""
    with _exit_status():
        record = lab.find(_named(context, name))
        arguments = tuple(command[1:] if command[0] == "--" else command)
        if not arguments:
            raise RequestInvalid(f"what is to be run in {host}? stitch lab exec {host} -- COMMAND")
        argv = lab.command(record, host, arguments)
        sys.stdout.flush()
        os.execvpe(argv[0], argv, processes.environment(record.lab))


@app.command()
def link(
    context: typer.Context,
    a: LinkEnd,
    b: Annotated[str, typer.Argument(autocompletion=completion.lab_places)],
    action: Annotated[LinkAction, typer.Argument()],
    settings: Annotated[list[str] | None, typer.Argument(metavar="[delay=MS] [rate=MBIT] [loss=PERCENT]")] = None,
    name: LabOption = None,
) -> None:
    """Cut a link, restore it, or change its delay (one way), rate and loss (each direction)."""
    with _exit_status():
        record = lab.find(_named(context, name))
        wire = links.find(lab.topology_of(record), a, b)
        if action is not LinkAction.SET:
            if settings:
                raise RequestInvalid(f"{' '.join(settings)}: only `set` takes values")
            links.set_carrier(record, wire, action is LinkAction.UP)
            print(f"{wire} is {action}")
            return
        now = links.change(record, wire, tuple(settings or ()))
        rate = f"{now.rate_kbit / 1000:g} Mbit/s" if now.rate_kbit else "not limited"
        print(f"{wire}: delay {now.delay_us / 1000:g} ms, rate {rate}, loss {now.loss_ppm / 10_000:g} %")


@app.command()
def capture(
    context: typer.Context,
    a: LinkEnd,
    b: Annotated[str, typer.Argument(autocompletion=completion.lab_places)],
    file: Annotated[Path, typer.Option("-w", "--write", metavar="FILE.pcap", help="Where to write.")],
    count: Annotated[int, typer.Option(help="End after so many frames.")] = 100,
    seconds: Annotated[float, typer.Option(help="End after this time.")] = 5.0,
    name: LabOption = None,
) -> None:
    """Write what crosses a link on the wire, both directions, as pcap."""
    with _exit_status():
        record = lab.find(_named(context, name))
        frames = links.capture(record, links.find(lab.topology_of(record), a, b), count, seconds, file)
        print(f"{file}: {'?' if frames is None else frames} frames")


@app.command()
def restart(
    context: typer.Context,
    process: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A node (its agent) or a domain (its controller).",
            autocompletion=completion.lab_processes,
        ),
    ],
    name: LabOption = None,
) -> None:
    """End the agent of a node or the controller of a domain, if it runs, and start it again."""
    with _exit_status():
        record = lab.find(_named(context, name))
        print(f"{process} runs as process {lab.restart(record.lab, process)}")


def _print_tables(lab_status: LabStatus) -> None:
    print(f"lab {lab_status.lab}")
    for title, columns, rows in (
        (
            "hosts",
            ("host", "network", "ipv4", "ipv6"),
            [(name, host.network, host.ipv4, host.ipv6) for name, host in lab_status.hosts.items()],
        ),
        (
            "nodes",
            ("node", "role", "locator", "agent", "ports"),
            [
                (name, node.role, node.locator, _process(node.pid), " ".join(f"{n}:{p}" for p, n in node.ports.items()))
                for name, node in lab_status.nodes.items()
            ],
        ),
        (
            "domains",
            ("domain", "controller", "server"),
            [(name, _process(domain.pid), domain.server) for name, domain in lab_status.domains.items()],
        ),
        (
            "links",
            ("a", "b", "state", "delay ms", "rate Mbit/s", "loss %", "devices"),
            [
                (
                    *(wire.a, wire.b, wire.state, f"{wire.delay_ms:g}"),
                    *("-" if wire.rate_mbit is None else f"{wire.rate_mbit:g}", f"{wire.loss_percent:g}"),
                    " ".join(wire.devices),
                )
                for wire in lab_status.links
            ],
        ),
    ):
        print(f"\n{title}")
        table([column.upper() for column in columns], rows)


def _process(process: int | None) -> str:
    return "not running" if process is None else str(process)
