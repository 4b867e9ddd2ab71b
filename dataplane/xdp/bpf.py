"""BPF programs, links and object files through libbpf: no compiler at run time, no text parsed.

An `Object` is opened, told which maps to take over, how large others are and what its constants are, and loaded. Maps,
programs and links are file descriptors of the kernel; pinned, they outlive the process. All failures are `BpfError`.
"""

import ctypes
import enum
import errno
import os
import struct
from collections.abc import Iterator, Mapping
from ctypes import byref, c_size_t, c_uint32, sizeof
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from dataplane.xdp.bpf_map import Descriptor, Map, RingBuffer, open_pin
from dataplane.xdp.libbpf import (
    POSSIBLE_CPUS,
    BpfError,
    BtfType,
    BtfVariable,
    LinkCreateOptions,
    LinkInfo,
    ProgramInfo,
    TestRunOptions,
    checked,
    checked_pointer,
    library,
)

__all__ = [
    "LOOPBACK",
    "OBJECT_PATH",
    "POSSIBLE_CPUS",
    "BpfError",
    "Link",
    "Map",
    "Object",
    "Program",
    "RingBuffer",
    "TestRun",
    "XdpAction",
    "XdpFlag",
    "follow",
]

OBJECT_PATH = Path(__file__).resolve().parents[2] / "build/ebpf/stitch.bpf.o"
"""What ebpf/build.sh makes."""
LOOPBACK = 1
"""Its index in each network namespace."""
_BPF_XDP = 37
_BTF_KIND_DATASEC = 15
_TEST_XDP_LIVE_FRAMES = 2
_SHAPE = ("type", "key_size", "value_size", "max_entries")


class XdpFlag(enum.IntFlag):
    """Of if_link.h: how a program is attached."""

    SKB = 2
    """Generic: works on each device, slowly."""
    DRV = 4
    """Native."""


class XdpAction(enum.IntEnum):
    ABORTED = 0
    DROP = 1
    PASS = 2
    TX = 3
    REDIRECT = 4


@dataclass(frozen=True, slots=True)
class TestRun:
    """What a program did with a packet."""

    __test__ = False

    action: int
    """XdpAction; 0 for live frames."""
    frame: bytes
    duration_ns: int
    """Of one run, the mean of `repeat`."""


class Program(Descriptor):
    """A program in the kernel."""

    def __init__(self, fd: int, name: str) -> None:
        super().__init__(fd, f"program {name}")

    @classmethod
    def open_pinned(cls, path: Path) -> "Program":
        return cls(open_pin(path), path.name)

    @property
    def id(self) -> int:
        info = ProgramInfo()
        size = c_uint32(sizeof(info))
        checked(library.bpf_obj_get_info_by_fd(self.fd, byref(info), byref(size)), f"ask about {self.name}")
        number: int = info.id
        return number

    def test_run(self, frame: bytes, *, ifindex: int = 0, repeat: int = 1, metadata: bytes = b"") -> TestRun:
        """Runs an XDP program on a frame as if it came in at `ifindex` of this network namespace.

        `metadata`: what lies in front of the frame, up to 32 bytes.
        """
        out = ctypes.create_string_buffer(len(frame) + 4096)
        options = self._options(frame, ifindex, repeat, metadata)
        options.data_out, options.data_size_out = ctypes.addressof(out), len(out)
        checked(library.bpf_prog_test_run_opts(self.fd, byref(options)), f"run {self.name} on {len(frame)} bytes")
        return TestRun(options.retval, out.raw[: options.data_size_out], options.duration)

    def run_live(self, frame: bytes, *, ifindex: int, repeat: int, batch: int = 64, metadata: bytes = b"") -> None:
        """As `test_run`, but what the program redirects or passes really goes there (BPF_F_TEST_XDP_LIVE_FRAMES)."""
        options = self._options(frame, ifindex, repeat, metadata)
        options.flags, options.batch_size = _TEST_XDP_LIVE_FRAMES, batch
        checked(library.bpf_prog_test_run_opts(self.fd, byref(options)), f"run {self.name} on {repeat} live frames")

    def _options(self, frame: bytes, ifindex: int, repeat: int, metadata: bytes) -> TestRunOptions:
        data = metadata + frame
        options = TestRunOptions(sz=sizeof(TestRunOptions), repeat=repeat, data_size_in=len(data))
        options.data_in = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p)
        # struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex
        context = struct.pack("=6I", len(metadata), len(data), 0, ifindex, 0, 0)
        options.ctx_in, options.ctx_size_in = ctypes.cast(ctypes.c_char_p(context), ctypes.c_void_p), len(context)
        options.keep = (data, context)  # the pointers above are into these
        return options


class Link(Descriptor):
    """An XDP program on an interface; detached when nobody holds or pins it."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd, "XDP link")

    @classmethod
    def create(cls, program: Program, ifindex: int, flags: XdpFlag = XdpFlag.DRV) -> "Link":
        """Attaches `program` to an interface of this thread's network namespace."""
        options = LinkCreateOptions(sz=sizeof(LinkCreateOptions), flags=int(flags))
        what = f"attach {program.name} to interface {ifindex} ({flags!r})"
        return cls(checked(library.bpf_link_create(program.fd, ifindex, _BPF_XDP, byref(options)), what))

    @classmethod
    def open_pinned(cls, path: Path) -> "Link":
        return cls(open_pin(path))

    def update(self, program: Program) -> None:
        """Replaces the program between two packets."""
        checked(library.bpf_link_update(self.fd, program.fd, None), f"put {program.name} on an XDP link")

    def detach(self) -> None:
        """Takes the program off the interface, though the link may be pinned."""
        checked(library.bpf_link_detach(self.fd), "detach an XDP link")

    @property
    def ifindex(self) -> int:
        """0 if the interface is gone."""
        number: int = self._info().ifindex
        return number

    @property
    def program_id(self) -> int:
        number: int = self._info().prog_id
        return number

    def _info(self) -> LinkInfo:
        info = LinkInfo()
        size = c_uint32(sizeof(info))
        checked(library.bpf_obj_get_info_by_fd(self.fd, byref(info), byref(size)), "ask the kernel about a link")
        return info


def follow(program: Program, tracepoint: str) -> Descriptor:
    """`program` runs at a raw tracepoint while somebody holds or pins what is returned."""
    what = f"run {program.name} at the tracepoint {tracepoint}"
    return Descriptor(checked(library.bpf_raw_tracepoint_open(tracepoint.encode(), program.fd), what), what)


class Object:
    """A BPF object file. Its maps and programs are there after `load`, and stay so until `close`."""

    def __init__(self, path: Path = OBJECT_PATH) -> None:
        """Raises BpfError if the file is not there or is no BPF object."""
        self.path = path
        what = f"open {path}" + ("" if path.exists() else " (make it: sh ebpf/build.sh)")
        self._object: int | None = checked_pointer(library.bpf_object__open_file(str(path).encode(), None), what)
        self._maps: dict[str, Map] = {}
        self._programs: dict[str, Program] = {}

    def resize(self, sizes: Mapping[str, int]) -> None:
        """Map name → max_entries, before `load`."""
        for name, size in sizes.items():
            checked(library.bpf_map__set_max_entries(self._find_map(name), size), f"make {name} {size} entries large")

    def set_constants(self, constants: Mapping[str, int]) -> None:
        """`const volatile` integers of the C source → values, before `load`."""
        places = self._constants()
        size = c_size_t()
        rodata = self._find_map(".rodata")
        memory = checked_pointer(library.bpf_map__initial_value(rodata, byref(size)), "find .rodata")
        for name, value in constants.items():
            if name not in places:
                raise BpfError(errno.ENOENT, f"{self.path} has no constant {name}; it has {sorted(places)}")
            offset, width = places[name]
            ctypes.memmove(memory + offset, value.to_bytes(width, "little"), width)

    def reuse(self, name: str, existing: Map) -> None:
        """Takes over `existing` as the map `name`, before `load`, after `resize`. Raises BpfError if they differ."""
        declared = self._find_map(name)
        shape = tuple(getattr(library, f"bpf_map__{what}")(declared) for what in _SHAPE)
        existing_shape = (existing.type, existing.key_size, existing.value_size, existing.max_entries)
        if shape != existing_shape:  # libbpf would take over the other shape, and XDP misread it
            differences = ", ".join(
                f"{what} {there} instead of {here}"
                for what, here, there in zip(_SHAPE, shape, existing_shape, strict=True)
                if here != there
            )
            raise BpfError(errno.EINVAL, f"{existing.name} cannot be taken over as {name}: {differences}")
        checked(library.bpf_map__reuse_fd(declared, existing.fd), f"reuse a map as {name}")

    def load(self) -> None:
        """Creates the maps, and loads the programs. Raises BpfError with the verifier's last words."""
        checked(library.bpf_object__load(self._object), f"load {self.path}")
        for pointer, name in self._each("map"):
            fd = checked(library.bpf_map__fd(pointer), f"map {name}")
            self._maps[name] = Map(os.dup(fd))
        for pointer, name in self._each("program"):
            fd = checked(library.bpf_program__fd(pointer), f"program {name}")
            self._programs[name] = Program(os.dup(fd), name)

    @property
    def map_names(self) -> tuple[str, ...]:
        """Those of the C source, without sections such as .rodata."""
        names = (name for _, name in self._each("map"))
        return tuple(name for name in names if "." not in name)

    def map(self, name: str) -> Map:
        if name not in self._maps:
            raise BpfError(errno.ENOENT, f"{self.path} has no map {name}, or is not loaded")
        return self._maps[name]

    def program(self, name: str) -> Program:
        if name not in self._programs:
            raise BpfError(errno.ENOENT, f"{self.path} has no program {name}, or is not loaded")
        return self._programs[name]

    def close(self) -> None:
        for each in (*self._maps.values(), *self._programs.values()):
            each.close()
        if self._object is not None:
            library.bpf_object__close(self._object)
            self._object = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _find_map(self, name: str) -> int:
        pointer: int | None = library.bpf_object__find_map_by_name(self._object, name.encode())
        if not pointer:
            raise BpfError(errno.ENOENT, f"{self.path} has no map {name}")
        return pointer

    def _each(self, kind: Literal["map", "program"]) -> Iterator[tuple[int, str]]:
        following, name_of = getattr(library, f"bpf_object__next_{kind}"), getattr(library, f"bpf_{kind}__name")
        pointer: int | None = following(self._object, None)
        while pointer:
            yield pointer, name_of(pointer).decode()
            pointer = following(self._object, pointer)

    def _constants(self) -> dict[str, tuple[int, int]]:
        """Name → (offset in .rodata, size), from the object's BTF."""
        btf = checked_pointer(library.bpf_object__btf(self._object), f"read the types of {self.path}")
        section = checked(library.btf__find_by_name_kind(btf, b".rodata", _BTF_KIND_DATASEC), f"{self.path}: .rodata")
        address = checked_pointer(library.btf__type_by_id(btf, section), ".rodata")
        places = {}
        for index in range(BtfType.from_address(address).info & 0xFFFF):
            at = address + sizeof(BtfType) + index * sizeof(BtfVariable)
            variable = BtfVariable.from_address(at)
            kind = BtfType.from_address(checked_pointer(library.btf__type_by_id(btf, variable.type), ".rodata"))
            places[library.btf__name_by_offset(btf, kind.name_off).decode()] = (variable.offset, variable.size)
        return places
