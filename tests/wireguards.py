"""The implementations of WireGuard that this machine can run, to make tests with each."""

import os
from collections.abc import Callable
from pathlib import Path

from dataplane.wireguard.device import WireGuard
from dataplane.wireguard.kernel import KernelWireGuard, kernel_has_wireguard
from dataplane.wireguard.userspace import GoWireGuard

MakeWireGuard = Callable[[Path], WireGuard]
"""From the state directory of a node."""


def go(directory: Path) -> WireGuard:
    return GoWireGuard(directory / "run", directory / "logs")


def kernel(directory: Path) -> WireGuard:
    return KernelWireGuard()


def implementations() -> list[MakeWireGuard]:
    return [go, kernel] if os.geteuid() == 0 and kernel_has_wireguard() else [go]
