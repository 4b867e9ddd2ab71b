"""`./run bench [GROUP]`: one group or all that exist."""

import signal
import sys

from bench import (
    advertised,
    assure,
    chain,
    entries,
    know,
    lab_many,
    language,
    language_conflicts,
    language_rules,
    liveness,
    main,
    openflow,
    renewal,
    scale,
    translated,
    wan,
)
from bench.report import report

GROUPS = {
    "main": lambda: [*main.rows(), *lab_many.rows()],
    "language": lambda: [*language.rows(), *language_rules.rows(), *language_conflicts.rows()],
    "know": lambda: [*know.rows(), *advertised.rows(), *liveness.rows(), *renewal.rows(), *translated.rows()],
    "assure": lambda: assure.rows(),
    "fabric": lambda: [*openflow.rows()],
    "scale": lambda: [*entries.rows(), *scale.rows(), *chain.rows(), *wan.rows()],
}


def run(names: list[str]) -> int:
    unknown = [name for name in names if name not in GROUPS]
    if unknown:
        print(f"bench: unknown group {', '.join(unknown)}; there are: {', '.join(GROUPS)}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # labs are taken down
    reached = [report(name, GROUPS[name]()) for name in names or GROUPS]
    return 0 if all(reached) else 1


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
