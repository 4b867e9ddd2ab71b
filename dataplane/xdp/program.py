"""The XDP program of a node and its maps: made, or taken over from an agent that is gone.

```
PIN_DIR/maps-DIGEST/NAME    the maps of one layout, pinned: tables, flow cache and counters outlive the agent
PIN_DIR/maps-DIGEST/program the program over them
PIN_DIR/links/NUMBER        what is attached to each port
```

The digest names the layout (`map_layout`), so maps of another layout are never opened. A program that is loaded over
pinned maps changes no entry; it takes effect interface by interface when `PinnedLinks.attach` swaps it in, between two
packets. Where the layout is new, in this order: (1) new maps and program beside the old, which go on; (2) the ports
are written into the new maps; (3) the program of each interface is swapped, and from then on that interface drops
what it has no entries for: traffic stops, closed, until the controller has written them; (4) the old maps are removed.
"""

import contextlib
import errno
import os
import secrets
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import structlog

from dataplane.errors import NodeRefused
from dataplane.host import redirects
from dataplane.log import Logger
from dataplane.reasons import CONVERSATION_WAYS, FLOW_CACHE_WAYS, PipelineEvent
from dataplane.tables.layout import Layout
from dataplane.telemetry.counters import Totals, per_cpu_totals
from dataplane.xdp.bpf import OBJECT_PATH, POSSIBLE_CPUS, BpfError, Link, Map, Object, Program
from dataplane.xdp.map_layout import digest

_log: Logger = structlog.get_logger("stitch-agent")
_SETTINGS = struct.Struct("IIQ")
"""struct settings: punt_ip, zero, flow_cache_seed."""
CONVERSATIONS_EACH = 2
"""For each entry of one CPU's flow cache: 6.1 MiB with 65,536 of these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    layout: str
    """Digest of the layout of its maps."""
    adopted: bool
    """The maps were there, with whatever is in them."""
    maps: Mapping[str, Map]
    program: Program


def load(pin_dir: Path, flow_cache_entries: int, tables: Layout, object_path: Path = OBJECT_PATH) -> Pipeline:
    """Loads the program over the pinned maps of its layout, or over new ones, which it pins.

    `flow_cache_entries` for each CPU. Raises NodeRefused.
    """
    buckets = flow_cache_entries // FLOW_CACHE_WAYS
    conversations = max(1, flow_cache_entries * CONVERSATIONS_EACH // CONVERSATION_WAYS)
    sizes = dict.fromkeys(("flow_cache", "flow_cache_tag"), buckets * POSSIBLE_CPUS) | {"conversation": conversations}
    sizes |= tables.map_sizes
    sizes["path_dead"] = sizes["path_liveness"]
    try:
        layout = digest(object_path.read_bytes(), sizes, tables.digest)
        home = pin_dir / f"maps-{layout}"
        _check_bpffs(pin_dir)
        program = Object(object_path)
        adopted = home.is_dir() and _is_complete(home, program.map_names)
        program.resize(sizes)
        program.set_constants({"flow_cache_buckets": buckets, "conversation_buckets": conversations})
        if adopted:
            for name in program.map_names:
                with Map.open_pinned(home / name) as pinned:
                    program.reuse(name, pinned)
        program.load()
        maps = {name: program.map(name) for name in program.map_names}
        if not adopted:
            _announce(pin_dir, layout)
            maps["settings"].update(bytes(4), _SETTINGS.pack(0, 0, secrets.randbits(64)))
            _pin_all(maps, home)
        _pin_over(program.program("pipeline"), home / "program")
    except OSError as error:
        raise NodeRefused(f"the pipeline cannot be loaded: {error}") from error
    return Pipeline(layout=layout, adopted=adopted, maps=maps, program=program.program("pipeline"))


def remove_other_layouts(pin_dir: Path, layout: str) -> tuple[str, ...]:
    """Once all interfaces run the program of `layout`. Returns what was removed, in words."""
    old = [path for path in pin_dir.glob("maps-*") if path.name != f"maps-{layout}"]
    for path in old:
        _remove_directory(path)
    return tuple(f"removed the maps of layout {path.name.removeprefix('maps-')}" for path in old)


def teardown(pin_dir: Path) -> tuple[str, ...]:
    """Takes the program off all ports and removes all pins; returns what was there, in words."""
    changes = []
    links = pin_dir / "links"
    for path in sorted(links.glob("*")):
        _detach(path)
        changes.append(f"detached the pipeline from port {path.name}")
    with contextlib.suppress(FileNotFoundError):
        links.rmdir()
    redirects.remove(pin_dir)
    return (*changes, *remove_other_layouts(pin_dir, layout=""))


class PinnedLinks:
    """The program's attachments to interfaces, by port number."""

    def __init__(self, pin_dir: Path, program: Program) -> None:
        self._directory = pin_dir / "links"
        self._directory.mkdir(exist_ok=True)
        self._program = program
        self._program_id = program.id

    def numbers(self) -> frozenset[int]:
        return frozenset(int(name) for name in os.listdir(self._directory))

    def attach(self, number: int, interface: str, index: int) -> bool:
        """The interface runs the program; returns whether that was different. Raises NodeRefused."""
        path = self._directory / str(number)
        try:
            if path.exists():
                with Link.open_pinned(path) as link:
                    if link.ifindex == index:
                        if link.program_id == self._program_id:
                            return False
                        link.update(self._program)
                        return True
                path.unlink(missing_ok=True)  # of an interface that is gone, or that another port was
            with Link.create(self._program, index) as link:
                link.pin(path)
        except BpfError as error:
            raise NodeRefused(f"port {number}: {_why_not_attached(interface, error)}") from error
        return True

    def detach(self, number: int) -> None:
        _detach(self._directory / str(number))


class Counters:
    """The counters of the pipeline, all CPUs together; packets and bytes by index."""

    def __init__(self, maps: Mapping[str, Map]) -> None:
        self._maps, self._drops, self._events = maps, maps["drop_counter"], maps["event_counter"]

    def forwarding_classes(self) -> Totals:
        """By forwarding class: only what evicted flows left behind (see flow_cache.forwarding_totals)."""
        return per_cpu_totals(self._maps["forwarding_class_counter"])

    def forwarding_class_drops(self) -> Totals:
        """What was permitted and dropped all the same, by forwarding class; bytes of frames."""
        return per_cpu_totals(self._maps["forwarding_class_drop_counter"])

    def policy_classes(self) -> Totals:
        """What `flow_policy` denied, by policy class; bytes of frames."""
        return per_cpu_totals(self._maps["policy_class_counter"])

    def drops(self) -> Totals:
        """By reason; bytes of frames."""
        return per_cpu_totals(self._drops)

    def events(self) -> tuple[int, ...]:
        """By PipelineEvent."""
        _, values = self._events.items()
        totals: list[int] = np.frombuffer(values, np.uint64).reshape(self._events.max_entries, -1).sum(axis=1).tolist()
        return tuple(totals)

    def activity(self) -> bytes:
        """No flow of the cache and no forwarding class changes without one of these events."""
        _, values = self._events.items()
        counts = np.frombuffer(values, np.uint64).reshape(self._events.max_entries, -1)
        return counts[[PipelineEvent.CACHE_HIT, PipelineEvent.CACHE_MISS]].tobytes()


def _is_complete(home: Path, names: Iterable[str]) -> bool:
    """Whether all maps are there. Where some are gone, the others are put aside, as those of another layout."""
    gone = [name for name in names if not (home / name).exists()]
    if not gone:
        return True
    aside = home.with_name(f"{home.name}-incomplete")
    _log.warning("pinned_maps_are_gone", directory=str(home), maps=sorted(gone), reason="somebody removed them")
    _remove_directory(aside)
    home.rename(aside)
    return False


def _announce(pin_dir: Path, layout: str) -> None:
    for path in pin_dir.glob("maps-*"):
        _log.warning(
            "map_layout_differs",
            pinned=path.name.removeprefix("maps-"),
            ours=layout,
            effect="the old program goes on, then each interface is swapped to new, empty maps: traffic stops, closed, "
            "until the controller has synced",
        )


def _pin_all(maps: Mapping[str, Map], home: Path) -> None:
    """All or nothing: the directory gets its name when it is complete."""
    partial = home.with_name("partial")
    _remove_directory(partial)
    partial.mkdir()
    for name, bpf_map in maps.items():
        bpf_map.pin(partial / name)
    partial.rename(home)


def _pin_over(program: Program, path: Path) -> None:
    following = path.with_name("program_next")
    following.unlink(missing_ok=True)
    program.pin(following)
    following.rename(path)


def _remove_directory(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        for pin in path.iterdir():
            pin.unlink(missing_ok=True)
        path.rmdir()


def _detach(path: Path) -> None:
    """Takes the program off the interface of a pinned link. Nothing to do where link or interface is gone."""
    try:
        with Link.open_pinned(path) as link:
            link.detach()
    except BpfError as error:
        if error.errno != errno.ENOENT:
            raise
    path.unlink(missing_ok=True)


def _check_bpffs(pin_dir: Path) -> None:
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    above = [Path(point) for _, point, kind, *_ in mounts if kind == "bpf"]
    if not any(pin_dir.resolve().is_relative_to(point) for point in above):
        raise NodeRefused(f"pin_dir {pin_dir} is on no bpffs: mount -t bpf bpf {pin_dir} (before the agent starts)")
    pin_dir.mkdir(mode=0o700, parents=True, exist_ok=True)


def _why_not_attached(interface: str, error: BpfError) -> str:
    match error.errno:
        case errno.EBUSY | errno.EEXIST:
            hint = f"something else is attached: see `ip link show {interface}`"
        case errno.EOPNOTSUPP:
            hint = "its driver has no native XDP"
        case errno.ERANGE | errno.EINVAL:
            hint = "its MTU may be too large for native XDP, or LRO is on"
        case _:
            hint = "see the kernel's log"
    return f"the pipeline cannot be attached to {interface}: {error} ({hint})"
