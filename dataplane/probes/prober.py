"""Probes of a node: told which, prober.c sends and judges them in threads; what they measure is read from its memory.

```
 sync(probes) ──▶ targets ──▶ prober_run, a thread ──▶ frames            read() ◀── targets
                                     ▲    └──▶ path_dead, where XDP looks
                  XDP: probe.received_ns
```

What is the same in the next `sync` keeps its judgement and its numbers. Without an agent nobody judges: what was dead
stays so, until one is back.
"""

import contextlib
import ctypes
import operator
import os
import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataplane import addressing
from dataplane.errors import NodeRefused, RequestInvalid
from dataplane.host.interface import read_interface
from dataplane.host.kernel_events import LINKS
from dataplane.host.netlink import ROUTE, subscribe
from dataplane.host_api import Probe, ProbeReading
from dataplane.probes.frame import Template, template
from dataplane.reasons import NOTICE_SSID, PORTS, PROBES
from dataplane.tables.layout import ACTION, TableLayout, number, octets
from dataplane.xdp.bpf import Map

LIBRARY = Path(__file__).resolve().parents[2] / "build/probes/prober.so"
"""What dataplane/probes/build.sh makes."""
READ_S = 2.0
_FRAME_MAX, _SAMPLES, _NO_SLOT = 320, 256, 0xFFFFFFFF
_PACKET_QDISC_BYPASS, _SOL_PACKET = 20, 263
_MS_NS = 1_000_000
_U32 = struct.Struct("=I")


class _Frame(ctypes.Structure):
    """struct frame"""

    _fields_ = (
        ("length", ctypes.c_uint32),
        ("stamp_at", ctypes.c_uint32),
        ("checksum_base", ctypes.c_uint32),
        ("octets", ctypes.c_uint8 * _FRAME_MAX),
    )


class _Target(ctypes.Structure):
    """struct target"""

    _fields_ = (
        ("next_ns", ctypes.c_uint64),
        ("used_ns", ctypes.c_uint64),
        ("alive_since_ns", ctypes.c_uint64),
        ("good_since_ns", ctypes.c_uint64),
        ("rtt_ns", ctypes.c_uint64),
        ("deviation_ns", ctypes.c_uint64),
        ("doubted_ns", ctypes.c_uint64),
        ("heard_ns", ctypes.c_uint64),
        ("sequence", ctypes.c_uint32),
        ("judged", ctypes.c_uint32),
        ("missed", ctypes.c_uint32),
        ("overdue", ctypes.c_uint32),
        ("holds", ctypes.c_uint32),
        ("is_dead", ctypes.c_uint32),
        ("no_carrier", ctypes.c_uint32),
        ("to_tell", ctypes.c_uint32),
        ("sent", ctypes.c_uint64),
        ("lost", ctypes.c_uint64),
        ("interval_ns", ctypes.c_uint64),
        ("ifindex", ctypes.c_uint32),
        ("port", ctypes.c_uint32),
        ("ssid", ctypes.c_uint32),
        ("group", ctypes.c_uint32),
        ("slot", ctypes.c_uint32),
        ("far_group", ctypes.c_uint32),
        ("far_slot", ctypes.c_uint32),
        ("samples", ctypes.c_uint32),
        ("probe", _Frame),
        ("notice", _Frame),
        ("rtt_us", ctypes.c_uint32 * _SAMPLES),
    )


class _Prober(ctypes.Structure):
    """struct prober"""

    _fields_ = (
        ("targets", ctypes.POINTER(_Target)),
        ("count", ctypes.c_uint32),
        ("stop", ctypes.c_uint32),
        ("probes", ctypes.c_void_p),
        ("paths", ctypes.c_void_p),
        ("socket", ctypes.c_int32),
        ("control", ctypes.c_int32),
        ("stopped", ctypes.c_int32),
        ("changed", ctypes.c_int32),
        ("links", ctypes.c_int32),
        ("is_idle", ctypes.c_uint32),
        ("bits_differ", ctypes.c_uint32),
        ("unused", ctypes.c_uint32),
        ("random", ctypes.c_uint64),
        ("late_ns", ctypes.c_uint64),
        ("key", ctypes.c_uint8 * 32),
        ("interfaces", ctypes.c_char * 16 * PORTS),
        ("look_ns", ctypes.c_uint64 * PROBES),
        ("groups", ctypes.c_uint32 * PROBES),
    )


def _library() -> ctypes.CDLL:
    """Raises NodeRefused."""
    try:
        library = ctypes.CDLL(str(LIBRARY))
    except OSError as error:
        raise NodeRefused(f"probes: {error} (make it: sh dataplane/probes/build.sh)") from error
    if (library.target_bytes(), library.prober_bytes()) != (ctypes.sizeof(_Target), ctypes.sizeof(_Prober)):
        raise NodeRefused(f"probes: {LIBRARY} is of another version (make it: sh dataplane/probes/build.sh)")
    for work in (library.prober_run, library.prober_watch):
        work.argtypes, work.restype = [ctypes.POINTER(_Prober)], None
    return library


@dataclass(frozen=True, slots=True)
class _Sent:
    """A probe, and how it is sent: what it is known by."""

    probe: Probe
    interface: str
    index: int
    """Of the interface; 0: it is not there, or the way into the link is not known."""
    destination_mac: bytes
    source_mac: bytes


class Prober:
    """Not thread-safe but for `read`."""

    def __init__(
        self, maps: Mapping[str, Map], hops: TableLayout, interface: Callable[[int], str], rate_max: int
    ) -> None:
        """`hops`: of the table `next_hop`. `interface`: port → name; raises RequestInvalid where there is no such port.
        `rate_max`: probes a second, all together. Raises NodeRefused."""
        self._library = _library()
        self._interface = interface
        self._rate_max = rate_max
        self._next_hop = maps["next_hop"]
        self._forward = next(each for each in hops.actions if each.action.name == "forward")
        self._probes = maps["probe"].mapped(writable=True)
        self._paths = maps["path_dead"].mapped(writable=True)
        self._key = secrets.token_bytes(32)
        self._ssids: dict[_Sent, int] = {}
        self._targets: ctypes.Array[_Target] | None = None
        self._told: tuple[Probe, ...] = ()
        self._order: tuple[_Sent, ...] = ()
        self._prober: _Prober | None = None
        self._threads: tuple[threading.Thread, ...] = ()
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)  # receives nothing
        self._socket.setsockopt(_SOL_PACKET, _PACKET_QDISC_BYPASS, 1)
        self._control = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self._links = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, ROUTE)
        self._links.bind((0, 0))
        for group in LINKS:
            subscribe(self._links, group)
        self._counted: dict[_Sent, int] = {}
        """How many samples were read."""
        self._readings: tuple[float, tuple[ProbeReading, ...]] = float("-inf"), ()
        """When they were made."""
        self._lock = threading.Lock()

    @property
    def key(self) -> bytes:
        """Of this process: nobody else needs it, since what is sent comes back here."""
        return self._key

    def sync(self, probes: Sequence[Probe]) -> bool:
        """Makes exactly these be sent, and by the ways that there are now; whether anything was different.

        Raises RequestInvalid.
        """
        for probe in probes:
            _check(probe)
        self._told = tuple(probes)
        # those of a group together, as prober.c wants them
        wanted = tuple(sorted(map(self._sent, dict.fromkeys(probes)), key=lambda sent: sent.probe.liveness_group))
        if wanted == self._order:
            return False
        self.stop()
        with self._lock:
            self._targets = self._made(wanted, dict(zip(self._order, self._targets or (), strict=False)))
            self._order = wanted
            self._readings = float("-inf"), ()
        bits = np.zeros(len(self._paths), np.uint32)
        for target in self._targets:
            if target.slot != _NO_SLOT and target.is_dead:
                bits[target.group] |= 1 << target.slot
        self._paths.view(np.uint32)[:, 0] = bits
        self._start()
        return True

    def refresh(self) -> None:
        """Interfaces may be others than they were."""
        self.sync(self.probes)

    def _sent(self, probe: Probe) -> _Sent:
        name, index = "", 0
        with contextlib.suppress(RequestInvalid):
            name = self._interface(probe.port)
            interface = read_interface(name)
            index = interface.index if interface is not None else 0
        source_mac, destination_mac = bytes(6), bytes(6)
        value = self._next_hop.lookup(_U32.pack(probe.port))
        if value is not None and number(value, ACTION) == self._forward.number:
            places = {place.name: place for place in self._forward.params}
            source_mac, destination_mac = (octets(value, places[name]) for name in ("source_mac", "destination_mac"))
            index = index if number(value, places["port"]) == probe.port else 0
        else:
            index = 0
        return _Sent(probe, name, index, destination_mac, source_mac)

    def _made(self, wanted: Sequence[_Sent], before: Mapping[_Sent, _Target]) -> ctypes.Array[_Target]:
        self._ssids = {sent: ssid for sent, ssid in self._ssids.items() if sent in set(wanted)}
        free = iter(sorted({*range(PROBES)} - {*self._ssids.values()}))
        targets = (_Target * len(wanted))()
        for target, sent in zip(targets, wanted, strict=True):
            known = before.get(sent)
            if known is not None:
                ctypes.pointer(target)[0] = known
            else:
                self._ssids[sent] = next(free)
                self._begin(target, sent)
            # so that all together are no more than the node may send
            apart_ns = len(wanted) * 1_000_000_000 // self._rate_max
            target.interval_ns = max(sent.probe.interval_ms * _MS_NS, apart_ns)
        self._counted = {sent: count for sent, count in self._counted.items() if sent in self._ssids}
        return targets

    def _begin(self, target: _Target, sent: _Sent) -> None:
        probe, ssid = sent.probe, self._ssids[sent]
        target.ifindex, target.port, target.ssid = sent.index, probe.port, ssid
        target.group, target.slot = (probe.liveness_group, probe.slot) if probe.slot is not None else (0, _NO_SLOT)
        _write(target.probe, _template(sent, probe.source, probe.containers, ssid))
        target.far_slot = _NO_SLOT
        if probe.far_end is not None:
            far = probe.far_end
            target.far_group, target.far_slot = far.liveness_group, far.slot
            _write(target.notice, _template(sent, far.sid, far.containers, NOTICE_SSID))
        self._probes[ssid] = 0

    def _start(self) -> None:
        if not self._order or self._targets is None:
            return
        prober = _Prober(
            targets=self._targets,
            count=len(self._order),
            probes=self._probes.ctypes.data,
            paths=self._paths.ctypes.data,
            socket=self._socket.fileno(),
            control=self._control.fileno(),
            stopped=os.eventfd(0, os.EFD_CLOEXEC),
            changed=os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK),
            links=self._links.fileno(),
            random=secrets.randbits(64) | 1,
            key=(ctypes.c_uint8 * 32)(*self._key),
        )
        for sent in self._order:
            prober.interfaces[sent.probe.port].value = sent.interface.encode()
        prober.groups[: len(self._order)] = [target.group for target in self._targets]
        self._prober = prober
        self._threads = tuple(
            threading.Thread(target=work, args=(prober,), name=name, daemon=True)
            for name, work in (("probes", self._library.prober_run), ("carriers", self._library.prober_watch))
        )
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Sends no more; what is judged stays."""
        if self._prober is not None:
            self._prober.stop = 1
            os.eventfd_write(self._prober.stopped, 1)
            for thread in self._threads:
                thread.join()
            os.close(self._prober.stopped)
            os.close(self._prober.changed)
        self._prober, self._threads = None, ()

    def close(self) -> None:
        self.stop()
        self._socket.close()
        self._control.close()
        self._links.close()

    @property
    def probes(self) -> tuple[Probe, ...]:
        """As told."""
        return self._told

    def silent_ports(self) -> frozenset[int]:
        """Where the probes of a link do not come back, though it has a carrier."""
        with self._lock:
            return frozenset(
                target.port
                for target in self._targets or ()
                if target.slot == _NO_SLOT and target.is_dead and not target.no_carrier
            )

    def read(self) -> tuple[ProbeReading, ...]:
        """What each has come to within the last READ_S: the same for all who ask within these."""
        with self._lock:
            read_s, readings = self._readings
            if time.monotonic() - read_s >= READ_S:
                readings = tuple(map(self._reading, self._order, self._targets or ()))
                self._readings = time.monotonic(), readings
            return readings

    def _reading(self, sent: _Sent, target: _Target) -> ProbeReading:
        samples = target.samples
        count = min(samples - self._counted.get(sent, 0), _SAMPLES)
        self._counted[sent] = samples
        rtt_us = sorted(places := [target.rtt_us[place % _SAMPLES] for place in range(samples - count, samples)])
        steps = sum(map(abs, map(operator.sub, places[1:], places)))
        probe = sent.probe
        return ProbeReading(
            port=probe.port,
            liveness_group=probe.liveness_group,
            slot=probe.slot,
            is_alive=not target.is_dead,
            sent=target.sent,
            lost=target.lost,
            round_trip_us=rtt_us[count // 2] if count else 0,
            round_trip_us_min=rtt_us[0] if count else 0,
            jitter_us=steps // (count - 1) if count > 1 else 0,
        )


def _template(sent: _Sent, destination: str, containers: Sequence[str], ssid: int) -> Template:
    return template(
        destination_mac=sent.destination_mac,
        source_mac=sent.source_mac,
        source=int(addressing.sid(sent.probe.source)),
        destination=int(addressing.sid(destination)),
        containers=[int(addressing.sid(container)) for container in containers],
        ssid=ssid,
    )


def _write(frame: _Frame, made: Template) -> None:
    ctypes.memmove(frame.octets, made.frame, len(made.frame))
    frame.length, frame.stamp_at, frame.checksum_base = len(made.frame), made.stamp_at, made.checksum_base


def _check(probe: Probe) -> None:
    far = probe.far_end
    try:
        for text in (probe.source, *probe.containers, *((far.sid, *far.containers) if far is not None else ())):
            addressing.sid(text)
    except ValueError as error:
        raise RequestInvalid(f"probe at port {probe.port}: {error}") from error
