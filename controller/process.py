"""This process as Prometheus' process collectors show one, and what was built."""

import ctypes
import gc
import os
import platform
import resource
import time
from importlib.metadata import version

from controller.model.telemetry import Metric, Sample

_TICKS = os.sysconf("SC_CLK_TCK")
_COLLECT_AFTER = (10_000, 20, 20)
"""Objects, and collections of the next younger generation, after which each generation is looked through. Ten times as
many make nothing quicker, and what hostile messages leave behind then takes twice the memory."""
_ARENA_MAX, _MMAP_THRESHOLD = -8, -3
"""Parameters of glibc's mallopt(3)."""
_LARGE_BYTES = 1 << 16


def collect_seldom() -> None:
    """The state of a controller is frozen values, hundreds of thousands of them, in which there are no cycles. Looking
    for some as often as Python does by itself costs a quarter of what is done for many intents."""
    gc.set_threshold(*_COLLECT_AFTER)


def give_memory_back() -> None:
    """What messages have taken goes back to the machine: all threads share one part of memory, where glibc has eight
    for each processor, none of which becomes smaller; and what is large is a mapping of its own."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # glibc's
        mallopt(_ARENA_MAX, 1)
        mallopt(_MMAP_THRESHOLD, _LARGE_BYTES)


def metrics() -> tuple[Metric, ...]:
    with open("/proc/self/stat") as file:
        fields = file.read().rpartition(")")[2].split()  # from the third field of proc(5) on
    began_s = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + int(fields[19]) / _TICKS
    build = (("python", platform.python_version()), ("version", version("netstitch")))
    return (
        Metric(
            name="netstitch_build_info",
            help="1: which version this is.",
            kind="gauge",
            samples=(Sample(labels=build, value=1),),
        ),
        _one("process_cpu_seconds_total", "CPU time, user and system.", (int(fields[11]) + int(fields[12])) / _TICKS),
        _one("process_resident_memory_bytes", "Resident memory.", int(fields[21]) * resource.getpagesize()),
        _one("process_virtual_memory_bytes", "Virtual memory.", int(fields[20])),
        _one("process_start_time_seconds", "When it was started, Unix time.", began_s),
        _one("process_open_fds", "Open file descriptors.", len(os.listdir("/proc/self/fd"))),
        _one("process_max_fds", "Most file descriptors it may open.", resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
    )


def _one(name: str, help_text: str, value: float) -> Metric:
    kind = "counter" if name.endswith("_total") else "gauge"
    return Metric(name=name, help=help_text, kind=kind, samples=(Sample(value=float(value)),))
