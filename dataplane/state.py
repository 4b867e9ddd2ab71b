"""What outlasts the agent's process: a directory (0700), one agent at a time, and the time of boot."""

import fcntl
import os
import shutil
import time
from pathlib import Path

import msgspec

from dataplane.decoding import from_json
from dataplane.errors import NodeRefused, RequestInvalid

CLOCK_SLEWED_S = 2
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class _Boot(msgspec.Struct, frozen=True, kw_only=True):
    boot_id: str
    boot_epoch_s: int


def claim(state_dir: Path) -> int:
    """Makes the directory private and this process its only user; the returned handle holds the lock.

    Raises NodeRefused if another agent holds it, RequestInvalid if others may look inside.
    """
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_private(state_dir)
    handle = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise NodeRefused(f"another stitch-agent uses {state_dir}: stop it first, or give this one its own") from error
    return handle


def check_private(directory: Path) -> None:
    """Raises RequestInvalid where others than the owner may enter."""
    mode = directory.stat().st_mode & 0o777
    if mode & 0o077:
        raise RequestInvalid(f"{directory} has mode {mode:04o}: others may look inside; chmod 700 {directory}")


def share(path: Path, group: str, mode: int) -> None:
    """With a group and nobody else. Raises NodeRefused."""
    try:
        shutil.chown(path, group=group)
        path.chmod(mode)
    except (LookupError, OSError) as error:
        raise NodeRefused(f"{path} cannot be shared with group {group!r}: {error}") from error


def boot_epoch_s(state_dir: Path, known_s: int | None = None) -> int:
    """Unix time of boot. Kept while the machine is up and its clock only slewed: leases are computed from it, and shall
    not be written anew for nothing. A clock that was set (by more than CLOCK_SLEWED_S) gives another one.

    `known_s`: what this process was told before.
    """
    epoch_s = round(time.time() - time.clock_gettime(time.CLOCK_BOOTTIME))
    if known_s is not None and abs(known_s - epoch_s) <= CLOCK_SLEWED_S:
        return known_s
    path = state_dir / "boot.json"
    boot_id = _BOOT_ID.read_text().strip()
    try:
        known = from_json(path.read_bytes(), _Boot)
    except (FileNotFoundError, msgspec.DecodeError):
        known = None
    if known is not None and known.boot_id == boot_id and abs(known.boot_epoch_s - epoch_s) <= CLOCK_SLEWED_S:
        return known.boot_epoch_s
    boot = _Boot(boot_id=boot_id, boot_epoch_s=epoch_s)
    partial = path.with_suffix(".partial")
    partial.write_bytes(msgspec.json.encode(boot))
    partial.rename(path)
    return boot.boot_epoch_s
