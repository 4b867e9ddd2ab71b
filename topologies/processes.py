"""The processes of a lab: all carry NETSTITCH_LAB=<id> in their environment, by which they are found again.

Namespaces, devices and mounts of a lab belong to its processes and go with the last of them.
"""

import os
import select
import signal
import time
from pathlib import Path

from topologies.errors import LabError

VARIABLE = "NETSTITCH_LAB"
_END_DEADLINE_S = 10.0
_EXEC_S = 0.01
"""In the middle of execve(2) a process has no environment to be known by; it is over long before this."""
_QUIET_ROUNDS = 2


def environment(lab: str) -> dict[str, str]:
    """For what is started in a lab."""
    return {**os.environ, VARIABLE: lab}


def members(lab: str) -> set[int]:
    """Processes started for this lab, and whoever else is in a namespace of theirs. Never this one or its ancestors."""
    processes = {int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()} - _ancestors()
    marked = {process for process in processes if _carries(process, lab)}
    namespaces = {_namespace(process) for process in marked} - {_namespace(os.getpid()), _namespace(1), ""}
    return marked | {process for process in processes if _namespace(process) in namespaces}


def end(lab: str) -> None:
    """Ends all processes of the lab, also those that start meanwhile. Raises LabError if some resist.

    SIGKILL at once: nothing of a lab outlasts it, so nobody has to put anything in order.
    """
    deadline = time.monotonic() + _END_DEADLINE_S
    quiet = 0
    while quiet < _QUIET_ROUNDS:
        found = members(lab)
        quiet = 0 if found else quiet + 1
        if found and time.monotonic() > deadline:
            raise LabError(f"processes of lab {lab} do not end, even by SIGKILL: {sorted(found)}")
        handles = [handle for handle in map(_signal, found) if handle is not None]
        for handle in handles:
            select.select([handle], [], [], max(0.0, deadline - time.monotonic()))
            os.close(handle)
        if not found:
            time.sleep(_EXEC_S)


def alive(process: int) -> bool:
    """It runs; a zombie does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def stop(process: int, deadline_s: float = 5.0) -> None:
    """SIGTERM, and SIGKILL when that takes too long."""
    try:
        handle = os.pidfd_open(process)
    except ProcessLookupError:
        return
    try:
        for kind in (signal.SIGTERM, signal.SIGKILL):
            signal.pidfd_send_signal(handle, kind)
            if select.select([handle], [], [], deadline_s)[0]:
                return
    except ProcessLookupError:
        return
    finally:
        os.close(handle)
    raise LabError(f"process {process} does not end, even by SIGKILL")


def belongs(process: int, lab: str) -> bool:
    """It is the lab's, and not a stranger who got the number of one that ended."""
    deadline = time.monotonic() + 10 * _EXEC_S
    while alive(process):
        if _carries(process, lab):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(_EXEC_S / 10)
    return False


def _signal(process: int) -> int | None:
    """Sends SIGKILL; returns what becomes readable when the process has ended, None if it has."""
    try:
        handle = os.pidfd_open(process)
    except ProcessLookupError:
        return None
    try:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    except ProcessLookupError:
        os.close(handle)
        return None
    return handle


def _carries(process: int, lab: str) -> bool:
    """Zombies have no environment."""
    try:
        return f"{VARIABLE}={lab}".encode() in Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False


def _namespace(process: int) -> str:
    """Empty: gone."""
    try:
        return os.readlink(f"/proc/{process}/ns/net")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return ""


def _ancestors() -> set[int]:
    found = set()
    process = os.getpid()
    while process > 0:
        found.add(process)
        process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    return found
