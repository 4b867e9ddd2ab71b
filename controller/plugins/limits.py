"""Control groups for plugins (cgroups(7)): memory, processes and CPU, in version 2 or 1 of the kernel's interface."""

import contextlib
import os
import signal
from pathlib import Path

from controller.plugins.cage import MEMORY_BYTES, PROCESSES

ROOT = Path("/sys/fs/cgroup")
NAME = "netstitch-plugin"
PERIOD_US = 100_000
"""One CPU at most."""
V2: dict[str, int | str] = {
    "memory.max": MEMORY_BYTES,
    "memory.swap.max": 0,
    "pids.max": PROCESSES,
    "cpu.max": f"{PERIOD_US} {PERIOD_US}",
}
V1: dict[str, dict[str, int | str]] = {
    "memory": {"memory.limit_in_bytes": MEMORY_BYTES},
    "pids": {"pids.max": PROCESSES},
    "cpu": {"cpu.cfs_period_us": PERIOD_US, "cpu.cfs_quota_us": PERIOD_US},
}
Groups = list[tuple[str, dict[str, int | str]]]
"""Directory, which is not there yet, and what is to be written into its files."""


def groups(serial: int) -> Groups:
    """For one plugin's processes; empty: we may make none, or none that bounds memory and processes."""
    name = f"{NAME}-{os.getpid()}-{serial}"
    own = _own()
    if (ROOT / "cgroup.controllers").exists():
        parent = _delegated(ROOT / own.get("", "").lstrip("/"))
        return [(str(parent / name), _that_are(parent, V2))] if parent is not None else []
    made: Groups = []
    for controller, limits in V1.items():
        parent = ROOT / controller / own.get(controller, "").lstrip("/")
        parent = parent if parent.is_dir() else ROOT / controller
        if (parent / "cgroup.procs").exists() and os.access(parent, os.W_OK):
            made.append((str(parent / name), limits))
            _sweep(parent)
    return made if {"memory", "pids"} <= {Path(directory).relative_to(ROOT).parts[0] for directory, _ in made} else []


def end(made: Groups) -> bool:
    """Kills all that is in them, and takes them away; False: something has not gone yet."""
    gone = True
    for directory, _ in made:
        with contextlib.suppress(OSError):
            (Path(directory) / "cgroup.kill").write_text("1")
        try:
            for process in (Path(directory) / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(process), signal.SIGKILL)
            os.rmdir(directory)
        except FileNotFoundError:
            pass
        except OSError:
            gone = False
    return gone


def _own() -> dict[str, str]:
    """By controller of version 1, and "" for version 2, where this process is."""
    paths: dict[str, str] = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            paths[controller] = path
    return paths


def _delegated(own: Path) -> Path | None:
    """Where we may make groups with limits. Only groups without processes of their own may have such, but for the root:
    where ours was given to us (systemd's Delegate=), we move into a group inside it."""
    try:
        if own != ROOT and own.name != "stitchd":
            (own / "stitchd").mkdir(exist_ok=True)
            for process in (own / "cgroup.procs").read_text().split():
                (own / "stitchd" / "cgroup.procs").write_text(process)
        parent = own.parent if own.name == "stitchd" else own
        (parent / "cgroup.subtree_control").write_text("+memory +pids")
    except OSError:
        return None
    with contextlib.suppress(OSError):
        (parent / "cgroup.subtree_control").write_text("+cpu")
    _sweep(parent)
    return parent


def _that_are(parent: Path, limits: dict[str, int | str]) -> dict[str, int | str]:
    """Without those of controllers that are not given to this group's children (swap and CPU need not be)."""
    given = set((parent / "cgroup.subtree_control").read_text().split())
    swaps = Path("/proc/swaps").exists() and len(Path("/proc/swaps").read_text().splitlines()) > 1
    return {
        file: value
        for file, value in limits.items()
        if file.split(".")[0] in given and (swaps or file != "memory.swap.max")
    }


def _sweep(parent: Path) -> None:
    """Takes away what a controller that was killed has left."""
    for left in parent.glob(f"{NAME}-*-*"):
        if not Path("/proc", left.name.split("-")[2]).exists():
            with contextlib.suppress(OSError):
                left.rmdir()
