"""Man pages of the three programs, from what they say of themselves: no text is kept twice."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import typer

from controller.cli.main import app
from netstitch import __version__

PAGES = {
    ("stitch", 1): "client of a netstitch controller",
    ("stitchd", 8): "the netstitch controller of one domain",
    ("stitch-agent", 8): "the netstitch dataplane agent of one node",
}
FILES = """.SH FILES
.TP
.I /etc/netstitch/stitchd.json
Configuration of the controller (stitch schema config).
.TP
.I /etc/netstitch/agents/NODE.json
Configuration of an agent (stitch schema agent).
.TP
.I ~/.config/netstitch/config.yaml
Which controllers the client knows.
.SH SEE ALSO
.BR stitch (1),
.BR stitchd (8),
.BR stitch-agent (8),
.I /usr/share/doc/netstitch/deploy.md
"""


def write(directory: Path) -> None:
    """man1/stitch.1, man8/stitchd.8, ..."""
    for (program, section), what in PAGES.items():
        commands = [(), *_commands()] if program == "stitch" else [()]
        text = f'.TH {program.upper()} {section} "" "netstitch {__version__}"\n.SH NAME\n{program} \\- {what}\n'
        for command in commands:
            title = " ".join((program, *command)) if command else "SYNOPSIS"
            text += f'.SH "{title.upper() if not command else title}"\n.nf\n{_help(program, *command)}.fi\n'
        page = directory / f"man{section}" / f"{program}.{section}"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(text + FILES)


def _commands() -> Iterator[tuple[str, ...]]:
    waiting = [((), typer.main.get_command(app))]
    while waiting:
        path, command = waiting.pop(0)
        if path:
            yield path
        if isinstance(command, typer.core.TyperGroup):
            names = command.list_commands(None)
            waiting += [((*path, name), command.get_command(None, name)) for name in names]


def _help(program: str, *command: str) -> str:
    environment = {**os.environ, "COLUMNS": "78", "TERM": "dumb", "NO_COLOR": "1"}
    executable = Path(sys.executable).parent / program
    done = subprocess.run([executable, *command, "--help"], env=environment, capture_output=True, text=True, check=True)
    lines = done.stdout.replace("\\", "\\e").replace("-", "\\-").splitlines()
    return "".join(f"\\&{line}\n" for line in lines)
