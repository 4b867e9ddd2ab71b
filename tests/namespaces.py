"""Network namespaces for tests: made here, entered by this thread or by a command, removed with what runs in them."""

import ctypes
import itertools
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count()


class Namespace:
    """A named network namespace with a loopback that is up."""

    def __init__(self, name: str) -> None:
        self.name = f"nst{os.getpid()}-{next(_numbers)}-{name}"
        run("ip", "netns", "add", self.name)
        self.ip("link", "set", "lo", "up")

    def ip(self, *arguments: str) -> str:
        return run("ip", "-n", self.name, *arguments)

    def run(self, *command: str) -> str:
        return run(*self.command(*command))

    def command(self, *command: str) -> list[str]:
        return ["nsenter", f"--net=/var/run/netns/{self.name}", *command]

    @contextmanager
    def entered(self) -> Iterator[None]:
        """This thread is inside."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        inside = os.open(f"/var/run/netns/{self.name}", os.O_RDONLY)
        try:
            _setns(inside)
            yield
        finally:
            _setns(before)
            os.close(before)
            os.close(inside)

    def processes(self) -> list[int]:
        return [int(pid) for pid in run("ip", "netns", "pids", self.name).split()]

    def remove(self) -> None:
        for pid in self.processes():
            if pid != os.getpid():
                os.kill(pid, signal.SIGKILL)
        run("ip", "netns", "del", self.name)


def veth(a: Namespace, name_a: str, b: Namespace, name_b: str, mtu: int = 1500) -> None:
    """A link, up at both ends."""
    a.ip(
        "link", "add", name_a, "mtu", str(mtu), "type", "veth", "peer", "name", name_b, "mtu", str(mtu), "netns", b.name
    )
    a.ip("link", "set", name_a, "up")
    b.ip("link", "set", name_b, "up")


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(f"{' '.join(command)}: {done.stderr or done.stdout}")
    return done.stdout


def _setns(handle: int) -> None:
    if _libc.setns(handle, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
