"""What the controller's own machine has to do with it: disks, the clock, and how long certificates last."""

import ctypes
import datetime
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from cryptography import x509

from controller.model.telemetry import Check

FREE_BYTES_MIN = 100 * 1024 * 1024
FREE_PART_MIN = 0.02
FREE_INODES_MIN = 1000
EXPIRY_DAYS_MIN = 30
SKEW_S_MAX = 2.0
"""Between clocks: leases are compared across machines, to the second."""
_TIME_ERROR = 5
"""adjtimex(2): the clock is not synchronised."""


def disks(store: Path) -> Iterator[Check]:
    """Of the store, and of the log where that is a file."""
    size = sum(path.stat().st_size for path in store.parent.glob(f"{store.name}*") if path.is_file())
    yield _space("store", store.parent, f"{store}, {_megabytes(size)}")
    try:
        log, kind = os.readlink("/proc/self/fd/2"), os.fstat(2).st_mode
    except OSError:
        log, kind = "", 0
    if stat.S_ISREG(kind):
        yield _space("log", Path(log).parent, f"{log}, {_megabytes(os.fstat(2).st_size)}")
    elif log in ("", "/dev/null"):
        advice = "run stitchd where its standard error is kept, such as by systemd"
        yield Check(subject="log", name="kept", ok=False, detail="standard error leads nowhere", advice=advice)
    else:
        yield Check(subject="log", name="kept", ok=True, detail=f"by who reads standard error ({log})")


def _space(subject: str, folder: Path, what: str) -> Check:
    try:
        filesystem = os.statvfs(folder)
    except OSError as error:
        detail = f"{folder}: {error.strerror}"
        return Check(subject=subject, name="space", ok=False, detail=detail, advice="see that the disk is mounted")
    free, whole = filesystem.f_bavail * filesystem.f_frsize, filesystem.f_blocks * filesystem.f_frsize
    detail = f"{what}; {_megabytes(free)} free of {_megabytes(whole)}"
    short = free < FREE_BYTES_MIN or free < FREE_PART_MIN * whole
    if filesystem.f_files > 0 and filesystem.f_favail < FREE_INODES_MIN:
        short, detail = True, f"{detail}; only {filesystem.f_favail} inodes free"
    advice = f"make room on the file system of {folder}: a controller without it stores nothing new" if short else ""
    return Check(subject=subject, name="space", ok=not short, detail=detail, advice=advice)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def clock(*, alone: bool) -> Check:
    """Whether something keeps the clock right. It matters to others: `alone`: none of them is on another machine."""
    synchronised = _adjtimex() not in (_TIME_ERROR, -1)
    detail = "synchronised" if synchronised else "nothing keeps it synchronised (adjtimex)"
    ok = synchronised or alone
    advice = "" if ok else "run an NTP client: leases and agreements are compared by clocks"
    return Check(subject="clock", name="synchronised", ok=ok, detail=detail, advice=advice)


class _Timex(ctypes.Structure):
    _fields_ = (("modes", ctypes.c_uint), ("rest", ctypes.c_long * 60))


def _adjtimex() -> int:
    """State of the kernel's clock; only reads."""
    return int(ctypes.CDLL(None).adjtimex(ctypes.byref(_Timex())))


def skews(kind: str, skews_s: Mapping[str, float]) -> Iterator[Check]:
    """By node or domain, how far its clock is ahead of ours, when it was last heard."""
    for name, skew_s in sorted(skews_s.items()):
        fault = abs(skew_s) > SKEW_S_MAX
        way = "ahead of" if skew_s > 0 else "behind"
        detail = f"{abs(skew_s):.1f} s {way} ours" if fault else "as ours"
        advice = f"synchronise the clocks of {name} and of the controller (NTP)" if fault else ""
        yield Check(subject=f"{kind}/{name}", name="clock", ok=not fault, detail=detail, advice=advice)


def certificates(files: Mapping[str, bytes], now_s: float) -> Iterator[Check]:
    """By whose or what they are, in PEM; of several in one, the first to end counts."""
    for subject, pem in sorted(files.items()):
        try:
            ends = min(certificate.not_valid_after_utc for certificate in x509.load_pem_x509_certificates(pem))
        except ValueError as error:
            detail, advice = f"it cannot be read: {error}", "replace it by the right one"
            yield Check(subject=subject, name="certificate", ok=False, detail=detail, advice=advice)
            continue
        left = ends - datetime.datetime.fromtimestamp(now_s, datetime.UTC)
        ok = left > datetime.timedelta(days=EXPIRY_DAYS_MIN)
        detail = f"until {ends:%Y-%m-%d}" + ("" if ok else f", {left.days} days from now")
        advice = "" if ok else "replace it before it ends, and have those who pinned it pin the new one"
        yield Check(subject=subject, name="certificate", ok=ok, detail=detail, advice=advice)
