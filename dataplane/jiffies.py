"""The kernel's clock of flow records: jiffies, low 32 bits, and how to turn them into Unix time."""

import ctypes
import os
import struct
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dataplane.errors import NodeRefused

_CLOCK_MONOTONIC_COARSE = 6
_BPF_PROG_TYPE_XDP = 6
_BPF_FUNC_JIFFIES64 = 118
# call bpf_jiffies64; exit
_PROGRAM = struct.pack("<BBhi", 0x85, 0, 0, _BPF_FUNC_JIFFIES64) + struct.pack("<BBhi", 0x95, 0, 0, 0)
_SLACK = 1 << 16
"""Jiffies by which a record may seem to lie in the future (both clocks are read, one after the other)."""


class _TestRun(ctypes.Structure):
    """struct bpf_test_run_opts of libbpf."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("data_in", ctypes.c_void_p),
        ("data_out", ctypes.c_void_p),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_void_p),
        ("ctx_out", ctypes.c_void_p),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("repeat", ctypes.c_int),
        ("duration", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("batch_size", ctypes.c_uint32),
    )


def read_jiffies() -> int:
    """Jiffies now, low 32 bits. Costs a program load (2 ms): for calibration only. Raises NodeRefused."""
    library = ctypes.CDLL("libbpf.so.1", use_errno=True)
    load = library.bpf_prog_load
    load.argtypes = (
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.c_size_t,
        ctypes.c_void_p,
    )
    program = load(_BPF_PROG_TYPE_XDP, b"read_jiffies", b"GPL", _PROGRAM, len(_PROGRAM) // 8, None)
    if program < 0:
        raise NodeRefused(f"cannot load a BPF program: {os.strerror(-program)} (is this root?)")
    try:
        frame = ctypes.create_string_buffer(64)
        run = _TestRun(sz=ctypes.sizeof(_TestRun), data_in=ctypes.addressof(frame), data_size_in=64, repeat=1)
        result = library.bpf_prog_test_run_opts(program, ctypes.byref(run))
    finally:
        os.close(program)
    if result < 0:
        raise NodeRefused(f"cannot run a BPF program: {os.strerror(-result)}")
    return int(run.retval)


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
        jiffies = read_jiffies()
        return cls(hz=hz, offset=(jiffies - int(time.monotonic() * hz)) % 2**32)

    def now(self, monotonic_s: float) -> int:
        return (self.offset + int(monotonic_s * self.hz)) % 2**32

    def unix_time(self, jiffies: NDArray[np.uint32], now_s: float, monotonic_s: float) -> NDArray[np.float64]:
        """Unix times, given both clocks now. Right for what is younger than 2^32 jiffies (49 days at HZ 1000)."""
        behind = np.uint32((self.now(monotonic_s) + _SLACK) % 2**32) - jiffies
        return now_s - (behind.astype(np.float64) - _SLACK) / self.hz
