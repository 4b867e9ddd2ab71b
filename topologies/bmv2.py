"""BMv2's `simple_switch_grpc` as a node of a lab, in the namespaces of its node. It begins without a program: the
controller brings ours. No package has it; where it is on PATH labs can use it."""

import shutil
from collections.abc import Mapping

PROGRAM = "simple_switch_grpc"
DEVICE_ID = 1
CPU_PORT = 510
"""By which packets go to and from the controller (p4src/types.p4)."""


def missing() -> str:
    """Empty: nothing."""
    return "" if shutil.which(PROGRAM) else PROGRAM


def socket_of(directory: str) -> str:
    """`directory`: the node's in the run directory."""
    return f"{directory}/p4runtime.sock"


def command(socket: str, ports: Mapping[int, str]) -> tuple[str, ...]:
    """`ports`: number -> interface."""
    interfaces = (word for number, interface in ports.items() for word in ("-i", f"{number}@{interface}"))
    target = ("--", "--grpc-server-addr", f"unix:{socket}", "--cpu-port", str(CPU_PORT))
    return (shutil.which(PROGRAM) or PROGRAM, *interfaces, "--device-id", str(DEVICE_ID), "--no-p4", *target)
