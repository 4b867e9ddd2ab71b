"""The processes of a lab: all carry NETSTITCH_LAB=<id> in their environment, by which they are found again.

Namespaces, devices and mounts of a lab belong to its processes and go with the last of them.
"""

import contextlib
import os
import select
import signal
import time
from pathlib import Path
from typing import NamedTuple

from topologies.errors import LabError

VARIABLE = "NETSTITCH_LAB"
_END_DEADLINE_S = 60.0
_EXEC_S = 0.01
"""In the middle of execve(2) a process has no environment to be known by; it is over long before this."""
_QUIET_ROUNDS = 2
_ENDING_S = 2.0
_PF_EXITING = 0x4
"""In the kernel's include/linux/sched.h."""


def environment(lab: str) -> dict[str, str]:
    """For what is started in a lab."""
    return {**os.environ, VARIABLE: lab}


def members(lab: str) -> set[int]:
    """Processes started for this lab, and whoever else is in a namespace of theirs. Never this one or its ancestors."""
    processes = _processes() - _ancestors()
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
        remaining = members(lab)
        quiet = 0 if remaining else quiet + 1
        if remaining and time.monotonic() > deadline:
            raise LabError(f"processes of lab {lab} do not end, even by SIGKILL: {sorted(remaining)}")
        handles = [_handle(process) for process in remaining]
        for handle in handles:
            _signal(handle, signal.SIGKILL)
        _await(handles, deadline)
        if not remaining:
            time.sleep(_EXEC_S)
    # Whom somebody else killed just now has lost its environment, but perhaps not yet its sockets and devices.
    _await([_handle(process) for process in _processes() if _ending(process)], time.monotonic() + _ENDING_S)


def alive(process: int) -> bool:
    """It runs; a zombie does not."""
    stat = _stat(process)
    return stat is not None and stat.state not in "ZX"


def stop(process: int, deadline_s: float = 5.0) -> None:
    """SIGTERM, and SIGKILL when that takes too long. Raises LabError if even that does."""
    handle = _handle(process)
    try:
        for kind in (signal.SIGTERM, signal.SIGKILL):
            _signal(handle, kind)
            if handle is None or select.select([handle], [], [], deadline_s)[0]:
                return
    finally:
        _await([handle], time.monotonic())
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


def _handle(process: int) -> int | None:
    """Becomes readable when the process has ended; None: it has."""
    try:
        return os.pidfd_open(process)
    except ProcessLookupError:
        return None


def _signal(handle: int | None, kind: signal.Signals) -> None:
    if handle is not None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, kind)


def _await(handles: list[int | None], deadline: float) -> None:
    """Until all have ended or the time has come; closes the handles."""
    for handle in handles:
        if handle is not None:
            select.select([handle], [], [], max(0.0, deadline - time.monotonic()))
            os.close(handle)


class _Stat(NamedTuple):
    """Of proc_pid_stat(5)."""

    state: str
    parent: int
    flags: int


def _stat(process: int) -> _Stat | None:
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return _Stat(state=fields[0], parent=int(fields[1]), flags=int(fields[6]))


def _ending(process: int) -> bool:
    stat = _stat(process)
    return stat is not None and bool(stat.flags & _PF_EXITING) and stat.state not in "ZX"


def _processes() -> set[int]:
    return {int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()}


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
    ancestors: set[int] = set()
    process = os.getpid()
    while process > 0 and (stat := _stat(process)) is not None:
        ancestors.add(process)
        process = stat.parent
    return ancestors
