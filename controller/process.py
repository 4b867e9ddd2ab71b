"""This process: its memory, and what Prometheus' process collectors show of one."""

import asyncio
import ctypes
import gc
import os
import platform
import resource
import time
from collections.abc import Callable
from importlib.metadata import version

from controller.model.telemetry import Metric, Sample

_TICKS = os.sysconf("SC_CLK_TCK")
_COLLECT_AFTER = (10_000, 20, 1 << 30)
"""Objects, and collections of the next younger generation, after which each generation is looked through. Ten times as
many make nothing quicker, and what hostile messages leave behind then takes twice the memory. The eldest, which is as
large as the state, has its turn when nothing else is done (`Collecting`)."""
_ELDEST_AFTER = 20
"""Collections of the middle generation, as Python has it by itself."""
COLLECT_S = 30.0
_PUT_OFF_MAX = 10
"""So often in a row it waits for answers that are worked out."""
_WHOLE_EACH = 64
"""Of so many collections of the eldest generation one looks through what was looked through before, too."""
_ARENA_MAX, _MMAP_THRESHOLD = -8, -3
"""Parameters of glibc's mallopt(3)."""
_LARGE_BYTES = 1 << 16


def collect_seldom() -> None:
    """The state of a controller is frozen values, hundreds of thousands of them, in which there are no cycles. Looking
    for some as often as Python does by itself costs a quarter of what is done for many intents."""
    gc.set_threshold(*_COLLECT_AFTER)


class Collecting:
    """Looks for cycles in the eldest generation, during which all threads stand still: 0.6 s where a controller of
    10,000 nodes just answers with its graph. So it waits while answers are worked out, and what it has found to be in
    use is not looked through again the next times."""

    def __init__(self) -> None:
        self._put_off = 0
        self.count = 0

    def turn(self, *, busy: bool) -> None:
        if gc.get_count()[2] < _ELDEST_AFTER:
            return
        if busy and self._put_off < _PUT_OFF_MAX:
            self._put_off += 1
            return
        self._put_off = 0
        self.count += 1
        if self.count % _WHOLE_EACH == 0:
            gc.unfreeze()
        gc.collect()
        gc.freeze()

    async def run(self, busy: Callable[[], bool]) -> None:
        while True:
            await asyncio.sleep(COLLECT_S)
            self.turn(busy=busy())


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
