"""What p4c makes of p4src/*.p4: the P4Info, byte for byte, and the program for BMv2, without the places in the sources.

`python -m dataplane.p4runtime.p4_program` makes both anew, where `p4c-bm2-ss` is on PATH; `--check` says whether those
that are there were made from these sources.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from dataplane.p4runtime.p4info import P4INFO_FILE

DIRECTORY = P4INFO_FILE.parent
PROGRAM_FILE = DIRECTORY / "stitch.bmv2.json"
COMPILER = "p4c-bm2-ss"
_PLACES = "source_info"


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--check"]):
        print("usage: python -m dataplane.p4runtime.p4_program [--check]", file=sys.stderr)
        return 2
    if not arguments:
        p4info, program = compiled()
        P4INFO_FILE.write_bytes(p4info)
        PROGRAM_FILE.write_text(program)
    elif made_from() != digests(P4INFO_FILE.read_bytes()):
        print(f"{DIRECTORY}: made from other sources: run python -m dataplane.p4runtime.p4_program", file=sys.stderr)
        return 1
    return 0


def digests(p4info: bytes) -> dict[str, str]:
    """Of the sources, and of the P4Info that belongs to them."""
    sources = hashlib.sha256()
    for path in sorted(DIRECTORY.glob("*.p4")):
        sources.update(f"{path.name}\n".encode() + path.read_bytes())
    return {"sources": sources.hexdigest(), "p4info": hashlib.sha256(p4info).hexdigest()}


def made_from() -> dict[str, str]:
    """What the program that is there says it was made from, and with."""
    said = json.loads(PROGRAM_FILE.read_text())["__meta__"]
    return {name: str(said.get(name)) for name in ("sources", "p4info")}


def compiled() -> tuple[bytes, str]:
    """P4Info and program. Raises OSError where there is no compiler, CalledProcessError where it refuses them."""
    with tempfile.TemporaryDirectory() as name:
        p4info, program = Path(name, "p4info.txt"), Path(name, "program.json")
        made = ("--p4runtime-files", str(p4info), "-o", str(program))
        # From where the sources are, so that no path gets into what is made.
        subprocess.run([COMPILER, "--arch", "v1model", *made, "stitch.p4"], cwd=DIRECTORY, check=True)
        document = _without_places(json.loads(program.read_text()))
        document["__meta__"] |= digests(p4info.read_bytes())
        return p4info.read_bytes(), json.dumps(document, indent=1) + "\n"


def _without_places(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_places(inner) for key, inner in value.items() if key != _PLACES}
    return [_without_places(inner) for inner in value] if isinstance(value, list) else value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
