"""The kernel's clock of flow records: jiffies, low 32 bits, and how to turn them into Unix time."""

import struct
import time
from ctypes import c_char_p, c_int, c_size_t, c_void_p
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dataplane.xdp.bpf import Program
from dataplane.xdp.libbpf import checked, library

_CLOCK_MONOTONIC_COARSE = 6
_BPF_PROG_TYPE_XDP = 6
_BPF_FUNC_JIFFIES64 = 118
# call bpf_jiffies64; exit
_PROGRAM = struct.pack("<BBhi", 0x85, 0, 0, _BPF_FUNC_JIFFIES64) + struct.pack("<BBhi", 0x95, 0, 0, 0)
SLACK = 1 << 16
"""Jiffies by which a record may seem to lie in the future (both clocks are read, one after the other)."""


def read_jiffies() -> int:
    """Jiffies now, low 32 bits. Costs a program load (2 ms): for calibration only. Raises BpfError."""
    load = library.bpf_prog_load
    load.argtypes = (c_int, c_char_p, c_char_p, c_char_p, c_size_t, c_void_p)
    handle = load(_BPF_PROG_TYPE_XDP, b"read_jiffies", b"GPL", _PROGRAM, len(_PROGRAM) // 8, None)
    with Program(checked(handle, "load a program that reads jiffies"), "read_jiffies") as program:
        return program.test_run(bytes(64)).action  # what it returns


@dataclass(frozen=True, slots=True, kw_only=True)
class JiffiesClock:
    """Jiffies run with CLOCK_MONOTONIC, so that one comparison holds until the next boot."""

    hz: int
    offset: int
    """Jiffies (mod 2^32) when CLOCK_MONOTONIC was 0."""

    @classmethod
    def calibrated(cls) -> "JiffiesClock":
        # CLOCK_MONOTONIC_COARSE advances with jiffies: its resolution is 1/HZ.
        hz = round(1 / time.clock_getres(_CLOCK_MONOTONIC_COARSE))
        # The promptest of some readings: on a busy machine others run between the two clocks.
        readings = [(time.monotonic(), read_jiffies(), time.monotonic()) for _ in range(5)]
        _, jiffies, monotonic_s = min(readings, key=lambda reading: reading[2] - reading[0])
        return cls(hz=hz, offset=(jiffies - int(monotonic_s * hz)) % 2**32)

    def now(self, monotonic_s: float) -> int:
        return (self.offset + int(monotonic_s * self.hz)) % 2**32

    def unix_time(self, jiffies: NDArray[np.uint32], now_s: float, monotonic_s: float) -> NDArray[np.float64]:
        """Unix times, given both clocks now. Right for what is younger than 2^32 jiffies (49 days at HZ 1000)."""
        behind = np.uint32((self.now(monotonic_s) + SLACK) % 2**32) - jiffies
        return now_s - (behind.astype(np.float64) - SLACK) / self.hz
