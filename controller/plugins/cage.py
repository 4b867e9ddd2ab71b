"""Where the process of a plugin runs: as another user, without network, in a file system and process space of its own.

    stitchd ── supervisor ── init ── plugin         python -I -S plugins/cage.py SPEC
               (outside)     └── a PID namespace: when its init ends, whatever the plugin started ends

`SPEC` is JSON (`controller.plugins.process`). What of this the kernel or our own rights do not give is said in the
first line, before anything of the plugin runs: `{"lacking": ["network: Operation not permitted"]}`. Only the standard
library is imported: nothing else is readable where the plugin is.
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import site
import sys
from collections.abc import Callable
from typing import Any

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_NOATIME = 1, 2, 4, 8, 32, 1024
MS_NODIRATIME, MS_BIND, MS_MOVE, MS_REC, MS_PRIVATE, MS_RELATIME = 2048, 4096, 8192, 16384, 1 << 18, 1 << 21
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS, PR_SET_CHILD_SUBREAPER = 1, 38, 36
_SAME_FLAGS = {
    os.ST_NOEXEC: MS_NOEXEC,
    os.ST_NOATIME: MS_NOATIME,
    os.ST_NODIRATIME: MS_NODIRATIME,
    os.ST_RELATIME: MS_RELATIME,
}
"""Flags of a mount that a bind mount in a user namespace must keep (mount_namespaces(7))."""
NEW_ROOT = b"/tmp"
"""Hidden by the new root while that is made; what is bound from below it was opened before."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
SYSTEM = ("/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache")
"""What the dynamic linker needs."""

MEMORY_BYTES = 512 << 20
ADDRESSES_BYTES = 2 << 30
"""Address space: libraries reserve more than they use; the memory itself is the cgroup's to bound."""
PROCESSES = 64
CPU_S = 600
"""Of one process: then it is started anew."""
FILE_BYTES, TEMPORARY_BYTES, OPEN_FILES = 16 << 20, 32 << 20, 64

_libc = ctypes.CDLL(None, use_errno=True)


def main(spec: dict[str, Any]) -> int:
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != spec["parent"]:
        return 1  # stitchd died before we asked to die with it
    lacking: list[str] = []
    _try("memory and processes by cgroup", lambda: _join(spec["cgroup"]), lacking)
    if os.geteuid() != 0:
        _try("another user", _become_root_of_nothing, lacking)
    for what, flag in (("network", CLONE_NEWNET), ("process space", CLONE_NEWPID), ("file system", CLONE_NEWNS)):
        _try(what, lambda flag=flag: _unshare(flag), lacking)  # type: ignore[misc]
    for flag in (CLONE_NEWIPC, CLONE_NEWUTS, CLONE_NEWCGROUP):
        with contextlib.suppress(OSError):
            _unshare(flag)
    init = os.fork()
    if init == 0:
        os._exit(_init(spec, lacking))
    os.dup2(2, 0)
    os.dup2(2, 1)  # the answers are the plugin's: we do not hold them open
    return _wait(init)


def _init(spec: dict[str, Any], lacking: list[str]) -> int:
    """The first process of the namespace: makes what the plugin sees, and reaps what it leaves behind."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    if not _lacks("file system", lacking):
        _try("file system", lambda: _enter_view(spec["paths"]), lacking)
    os.write(1, json.dumps({"lacking": lacking}).encode() + b"\n")
    if not spec["name"]:
        return 0
    plugin = os.fork()
    if plugin == 0:
        os._exit(_plugin(spec))
    os.dup2(2, 0)
    os.dup2(2, 1)
    return _wait(plugin)


def _plugin(spec: dict[str, Any]) -> int:
    """Never comes back into anything of ours but the loop of controller.plugins.worker."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.closerange(3, 1 << 16)
    os.setsid()
    os.chdir("/")
    os.nice(10)
    os.umask(0o077)
    for limit, value in (
        (resource.RLIMIT_AS, ADDRESSES_BYTES),
        (resource.RLIMIT_CPU, CPU_S),
        (resource.RLIMIT_FSIZE, FILE_BYTES),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_NPROC, PROCESSES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
    ):
        with contextlib.suppress(ValueError, OSError):  # a lower hard limit is as good
            resource.setrlimit(limit, (value, value))
    if os.geteuid() == 0 and spec["uid"] is not None:
        os.setgroups([])
        os.setresgid(spec["gid"], spec["gid"], spec["gid"])
        os.setresuid(spec["uid"], spec["uid"], spec["uid"])
    _drop_capabilities()
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # a change of user takes it back
    sys.path[:] = [*sys.path, *spec["modules"]]
    for path in spec["modules"]:
        site.addsitedir(path)
    from controller.plugins import worker

    return worker.main(spec["group"], spec["name"])


def _wait(child: int) -> int:
    """Its exit status. Reaps all others too."""
    while True:
        try:
            ended, status = os.wait()
        except ChildProcessError:
            return 1
        if ended == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


# ---- what it may use


def _join(directories: list[list[Any]]) -> None:
    """A new cgroup in each hierarchy: [directory, {file: value}]. Raises OSError."""
    if not directories:
        raise OSError(0, "no cgroup that we may make others in")
    for directory, limits in directories:
        os.mkdir(directory)
        for file, value in limits.items():
            _write(f"{directory}/{file}", str(value))
        _write(f"{directory}/cgroup.procs", "0")


def _become_root_of_nothing() -> None:
    """A user namespace, which gives the right to make the others. To all files we are who we were, so the view alone
    hides them. Raises OSError always: this is no other user."""
    uid, gid = os.geteuid(), os.getegid()
    _unshare(CLONE_NEWUSER)
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{uid} {uid} 1")
    _write("/proc/self/gid_map", f"{gid} {gid} 1")
    raise OSError(0, "stitchd is not root and has only its own")


def _drop_capabilities() -> None:
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, ourselves
    if _libc.capset(ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)())) != 0:
        raise OSError(ctypes.get_errno(), "capabilities cannot be given up")


# ---- what it sees


def _enter_view(paths: list[str]) -> None:
    """A root with `paths` (read-only), what programs need of the system, and an empty /tmp. Raises OSError."""
    links = {path: os.readlink(path) for path in SYSTEM if os.path.islink(path)}
    places = [path for path in dict.fromkeys((*SYSTEM, *DEVICES, *paths)) if path not in links and os.path.exists(path)]
    opened = {place: os.open(place, os.O_PATH) for place in places}
    _mount(None, b"/", None, MS_REC | MS_PRIVATE)
    _mount(b"tmpfs", NEW_ROOT, b"tmpfs", MS_NOSUID | MS_NODEV, b"mode=755,size=1m")
    root = f"{NEW_ROOT.decode()}/view"
    os.makedirs(f"{root}/tmp")
    _mount(b"tmpfs", f"{root}/tmp".encode(), b"tmpfs", MS_NOSUID | MS_NODEV, b"mode=1777,size=%d" % TEMPORARY_BYTES)
    for place, source in sorted(opened.items()):
        _bind(source, f"{root}{place}", writable=place in DEVICES)
        os.close(source)
    for link, target in links.items():
        os.symlink(target, f"{root}{link}")
    os.chdir(NEW_ROOT)
    _mount(NEW_ROOT, b"/", None, MS_MOVE)
    os.chroot(".")
    _mount(None, b"/", None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)
    # In a directory, not at the root: so the kernel lets it make no user namespace, and be root of none.
    os.chroot("/view")
    os.chdir("/")


def _bind(source: int, target: str, *, writable: bool) -> None:
    """A place that is inside one which is bound already is there."""
    if os.path.exists(target):
        return
    os.makedirs(os.path.dirname(target), mode=0o755, exist_ok=True)
    if os.path.isdir(f"/proc/self/fd/{source}"):
        os.mkdir(target)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY))
    _mount(f"/proc/self/fd/{source}".encode(), target.encode(), None, MS_BIND | MS_REC)
    if not writable:
        kept = sum(ours for theirs, ours in _SAME_FLAGS.items() if os.statvfs(target).f_flag & theirs)
        _mount(None, target.encode(), None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | kept)


# ---- the kernel


def _try(what: str, step: Callable[[], None], lacking: list[str]) -> None:
    try:
        step()
    except OSError as error:
        lacking.append(f"{what}: {error.strerror}")


def _lacks(what: str, lacking: list[str]) -> bool:
    return any(missing.startswith(f"{what}: ") for missing in lacking)


def _unshare(flags: int) -> None:
    if _libc.unshare(flags) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _mount(source: bytes | None, target: bytes, kind: bytes | None, flags: int, data: bytes | None = None) -> None:
    if _libc.mount(source, target, kind, ctypes.c_ulong(flags), data) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{target.decode()}: {os.strerror(error)}")


def _prctl(option: int, value: int) -> None:
    _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0)


def _write(file: str, text: str) -> None:
    with open(file, "w") as opened:
        opened.write(text)


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
