"""`./run demo [PART]`: labs do their job, through the same commands that a person would type.

Each step prints what was really seen; the exit status is 0 only if every check held. Without a part all are done but
those of `LONG`.
"""

import os
import subprocess
import sys
from collections.abc import Callable

from topologies import bmv2
from topologies.demo import assure, fabric, graph, main_job
from topologies.demo.run import Demo

Part = tuple[str, str, str, Callable[[Demo], None]]
"""Topology, what its nodes are that are only crossed, whose controller is asked, what is done there."""
PARTS: dict[str, tuple[Part, ...]] = {
    "main": (("three-domains", "xdp", "shop", main_job.run),),
    "graph": (("three-domains", "xdp", "shop", graph.run),),
    "fabric": tuple(
        ("fabric-k4", switch, "fabric", fabric.run) for switch in ("xdp", "ovs", *(() if bmv2.missing() else ("bmv2",)))
    ),
    "assure": (("three-domains", "xdp", "shop", assure.run),),
    "benign": (("three-domains", "xdp", "shop", assure.benign),),
}

LONG = ("assure", "benign")
"""They take ten minutes and more, since what is usual has to be seen first: done when they are named."""


def main() -> int:
    names = sys.argv[1:] or [name for name in PARTS if name not in LONG]
    if unknown := [name for name in names if name not in PARTS]:
        print(f"demo: unknown part {unknown[0]!r}; there are: {', '.join(PARTS)}", file=sys.stderr)
        return 2
    held = [done(name, part) for name in names for part in PARTS[name]]
    return 0 if all(held) else 1


def done(name: str, part: Part) -> bool:
    """Whether every check held."""
    topology, switch, domain, run = part
    demo = Demo(f"demo-{name}-{switch}-{os.getpid()}", domain)
    try:
        demo.step(f"0. stitch lab up {topology} --switch {switch}")
        demo.say(demo.stitch("lab", "up", topology, "--lab", demo.lab, "--switch", switch, timeout_s=300).rstrip())
        run(demo)
    except (RuntimeError, subprocess.SubprocessError) as error:
        demo.check("the demo ran to its end", False, str(error))
    finally:
        demo.stitch("lab", "down", "--lab", demo.lab, check=False)
    demo.step(f"{len(demo.failed)} checks did not hold" if demo.failed else "All checks held")
    return not demo.failed


if __name__ == "__main__":
    sys.exit(main())
