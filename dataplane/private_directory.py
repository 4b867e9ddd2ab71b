"""A directory for sockets that only this process uses."""

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path

_SETTLED_S = 60
"""So long after it was made a directory that nobody has locked has been left behind."""


class PrivateDirectory:
    """Of this user alone, locked while the process lives. What killed processes have left goes when one is made."""

    def __init__(self, prefix: str) -> None:
        _remove_left(prefix)
        self.path = Path(tempfile.mkdtemp(prefix=prefix))
        self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _remove_left(prefix: str) -> None:
    for path in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            _remove_if_left(path)


def _remove_if_left(path: Path) -> None:
    """Raises OSError if somebody has it."""
    lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        is_ours = os.fstat(lock).st_uid == os.geteuid()
        if is_ours and os.fstat(lock).st_mtime < time.time() - _SETTLED_S:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(lock)
