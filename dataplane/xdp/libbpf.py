"""Functions of libbpf.so.1 with their types, the kernel's structures they fill, and their errors. See `bpf` for use."""

import ctypes
import errno
import os
from collections import deque
from ctypes import POINTER, c_bool, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p

LOG_LINES = 60
"""How much of what libbpf and the verifier say is kept for an error."""


class BpfError(OSError):
    """The kernel or libbpf refused. `errno` says why; the text says what was tried, why not, and what libbpf said."""

    def __init__(self, code: int, what: str, log: str = "") -> None:
        reason = f"{os.strerror(code)} ({errno.errorcode.get(code, code)})"
        super().__init__(code, f"{what}: {reason}" + (f"\n{log}" if log else ""))
        self.what = what


class TestRunOptions(ctypes.Structure):
    """struct bpf_test_run_opts"""

    _fields_ = (
        ("sz", c_size_t),
        ("data_in", c_void_p),
        ("data_out", c_void_p),
        ("data_size_in", c_uint32),
        ("data_size_out", c_uint32),
        ("ctx_in", c_void_p),
        ("ctx_out", c_void_p),
        ("ctx_size_in", c_uint32),
        ("ctx_size_out", c_uint32),
        ("retval", c_uint32),
        ("repeat", c_int),
        ("duration", c_uint32),
        ("flags", c_uint32),
        ("cpu", c_uint32),
        ("batch_size", c_uint32),
    )


class BatchOptions(ctypes.Structure):
    """struct bpf_map_batch_opts"""

    _fields_ = (("sz", c_size_t), ("elem_flags", c_uint64), ("flags", c_uint64))


class LinkCreateOptions(ctypes.Structure):
    """The beginning of struct bpf_link_create_opts"""

    _fields_ = (("sz", c_size_t), ("flags", c_uint32), ("zero", c_uint32))


class MapInfo(ctypes.Structure):
    """The beginning of struct bpf_map_info"""

    _fields_ = (
        ("type", c_uint32),
        ("id", c_uint32),
        ("key_size", c_uint32),
        ("value_size", c_uint32),
        ("max_entries", c_uint32),
        ("map_flags", c_uint32),
        ("name", ctypes.c_char * 16),
    )


class LinkInfo(ctypes.Structure):
    """The beginning of struct bpf_link_info, for XDP"""

    _fields_ = (
        ("type", c_uint32),
        ("id", c_uint32),
        ("prog_id", c_uint32),
        ("zero", c_uint32),
        ("ifindex", c_uint32),
        ("zero2", c_uint32),
    )


class ProgramInfo(ctypes.Structure):
    """The beginning of struct bpf_prog_info"""

    _fields_ = (("type", c_uint32), ("id", c_uint32))


class BtfType(ctypes.Structure):
    """struct btf_type; of a DATASEC, as many `BtfVariable` follow as the low 16 bits of `info` say"""

    _fields_ = (("name_off", c_uint32), ("info", c_uint32), ("size_or_type", c_uint32))


class BtfVariable(ctypes.Structure):
    """struct btf_var_secinfo"""

    _fields_ = (("type", c_uint32), ("offset", c_uint32), ("size", c_uint32))


PrintCallback = ctypes.CFUNCTYPE(c_int, c_int, c_void_p, c_void_p)
SampleCallback = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t)

_SIGNATURES: dict[str, tuple[type | None, tuple[type, ...]]] = {
    "libbpf_set_print": (c_void_p, (PrintCallback,)),
    "libbpf_num_possible_cpus": (c_int, ()),
    "bpf_object__open_file": (c_void_p, (c_char_p, c_void_p)),
    "bpf_object__load": (c_int, (c_void_p,)),
    "bpf_object__close": (None, (c_void_p,)),
    "bpf_object__btf": (c_void_p, (c_void_p,)),
    "bpf_object__find_map_by_name": (c_void_p, (c_void_p, c_char_p)),
    "bpf_object__find_program_by_name": (c_void_p, (c_void_p, c_char_p)),
    "bpf_object__next_map": (c_void_p, (c_void_p, c_void_p)),
    "bpf_object__next_program": (c_void_p, (c_void_p, c_void_p)),
    "bpf_program__fd": (c_int, (c_void_p,)),
    "bpf_program__name": (c_char_p, (c_void_p,)),
    "bpf_program__set_autoload": (c_int, (c_void_p, c_bool)),
    "bpf_map__fd": (c_int, (c_void_p,)),
    "bpf_map__name": (c_char_p, (c_void_p,)),
    "bpf_map__type": (c_uint32, (c_void_p,)),
    "bpf_map__key_size": (c_uint32, (c_void_p,)),
    "bpf_map__value_size": (c_uint32, (c_void_p,)),
    "bpf_map__max_entries": (c_uint32, (c_void_p,)),
    "bpf_map__set_max_entries": (c_int, (c_void_p, c_uint32)),
    "bpf_map__reuse_fd": (c_int, (c_void_p, c_int)),
    "bpf_map__initial_value": (c_void_p, (c_void_p, POINTER(c_size_t))),
    "btf__find_by_name_kind": (c_int, (c_void_p, c_char_p, c_uint32)),
    "btf__type_by_id": (c_void_p, (c_void_p, c_uint32)),
    "btf__name_by_offset": (c_char_p, (c_void_p, c_uint32)),
    "bpf_map_update_elem": (c_int, (c_int, c_void_p, c_void_p, c_uint64)),
    "bpf_map_lookup_elem": (c_int, (c_int, c_void_p, c_void_p)),
    "bpf_map_delete_elem": (c_int, (c_int, c_void_p)),
    "bpf_map_get_next_key": (c_int, (c_int, c_void_p, c_void_p)),
    "bpf_map_update_batch": (c_int, (c_int, c_void_p, c_void_p, POINTER(c_uint32), c_void_p)),
    "bpf_map_delete_batch": (c_int, (c_int, c_void_p, POINTER(c_uint32), c_void_p)),
    "bpf_map_lookup_batch": (
        c_int,
        (c_int, c_void_p, c_void_p, c_void_p, c_void_p, POINTER(c_uint32), c_void_p),
    ),
    "bpf_obj_pin": (c_int, (c_int, c_char_p)),
    "bpf_obj_get": (c_int, (c_char_p,)),
    "bpf_obj_get_info_by_fd": (c_int, (c_int, c_void_p, POINTER(c_uint32))),
    "bpf_link_create": (c_int, (c_int, c_int, c_int, c_void_p)),
    "bpf_link_update": (c_int, (c_int, c_int, c_void_p)),
    "bpf_link_detach": (c_int, (c_int,)),
    "bpf_raw_tracepoint_open": (c_int, (c_char_p, c_int)),
    "bpf_prog_test_run_opts": (c_int, (c_int, c_void_p)),
    "ring_buffer__new": (c_void_p, (c_int, SampleCallback, c_void_p, c_void_p)),
    "ring_buffer__consume": (c_int, (c_void_p,)),
    "ring_buffer__epoll_fd": (c_int, (c_void_p,)),
    "ring_buffer__free": (None, (c_void_p,)),
}


def _load() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libbpf.so.1", use_errno=True)
    except OSError as exc:
        raise BpfError(errno.ENOENT, "libbpf.so.1 cannot be loaded; install it: apt-get install libbpf1") from exc
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


library = _load()
_libc = ctypes.CDLL(None)
_said: deque[str] = deque(maxlen=LOG_LINES)


def _keep(level: int, text: int, arguments: int) -> int:
    line = ctypes.create_string_buffer(4096)
    length: int = _libc.vsnprintf(line, c_size_t(len(line)), c_void_p(text), c_void_p(arguments))
    if level <= 1:  # warnings and information; debug is said a thousand times a load
        _said.extend(line.value.decode(errors="replace").splitlines())
    return length


_keep_callback = PrintCallback(_keep)
library.libbpf_set_print(_keep_callback)
POSSIBLE_CPUS: int = library.libbpf_num_possible_cpus()


def checked(result: int, what: str) -> int:
    """`result`, if it is no error. Raises BpfError with what libbpf said since the error before."""
    if result >= 0:
        return result
    code = -result if result < -1 else ctypes.get_errno()
    raise BpfError(code, what, _log())


def checked_pointer(result: int | None, what: str) -> int:
    """`result`, if it is not NULL. Raises BpfError."""
    if result:
        return result
    raise BpfError(ctypes.get_errno() or errno.ENOENT, what, _log())


def _log() -> str:
    log = "\n".join(_said)
    _said.clear()
    return log
