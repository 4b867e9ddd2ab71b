"""What the package installs: netstitch and, beside it, the Python packages that it needs.

/usr/lib/netstitch/          as a checkout, with the dependencies; no other program sees it
/usr/bin/stitch, stitchd, stitch-agent
/usr/share/man/
"""

import compileall
import importlib.metadata
import shutil
import sys
from pathlib import Path

import man_pages
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
HOME = Path("usr/lib/netstitch")
OWN = (
    "controller",
    "dataplane",
    "netstitch",
    "topologies",
    "p4src",
    "build/ebpf",
    "build/lab/relay",
    "build/paths",
    "build/probes",
)
LEFT_OUT = {"tests", "__pycache__", "direct_url.json", "RECORD"}
"""What nothing imports, and what pip keeps for itself."""
PROGRAM = """#!/usr/bin/python3 -I
import sys

sys.path.insert(0, "/{home}")
from {module} import {function}

sys.exit({function}())
"""


def distributions(root: str) -> dict[str, importlib.metadata.Distribution]:
    """`root` and all that it requires, by name."""
    tree: dict[str, importlib.metadata.Distribution] = {}
    waiting = [root]
    while waiting:
        distribution = importlib.metadata.distribution(waiting.pop())
        name = distribution.metadata["Name"]
        if name in tree:
            continue
        tree[name] = distribution
        required = [Requirement(text) for text in distribution.requires or ()]
        waiting += [each.name for each in required if each.marker is None or each.marker.evaluate({"extra": ""})]
    return tree


def install(destination: Path) -> None:
    home = destination / HOME
    for distribution in distributions("netstitch").values():
        for file in distribution.files or ():
            if ".." not in file.parts and not LEFT_OUT & {*file.parts} and "__editable_" not in file.name:
                _copy(Path(str(file.locate())), home / file)
    for name in OWN:
        _copy(ROOT / name, home / name)
    compileall.compile_dir(home, quiet=2, stripdir=str(destination), prependdir="/")
    for entry in importlib.metadata.distribution("netstitch").entry_points:
        program = destination / "usr/bin" / entry.name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(PROGRAM.format(home=HOME, module=entry.module, function=entry.attr))
        program.chmod(0o755)
    man_pages.write(destination / "usr/share/man")


def _copy(source: Path, destination: Path) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, destination, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    else:
        shutil.copy2(source, destination)


if __name__ == "__main__":
    install(Path(sys.argv[1]))
