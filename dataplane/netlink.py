"""Removing over rtnetlink what others, and the kernel itself, remove too."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from pyroute2.netlink.exceptions import NetlinkError

_GONE = (errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.ENXIO, errno.EADDRNOTAVAIL)
"""How the kernel says that a rule, a route, an interface or an address is not there."""


@contextmanager
def removing() -> Iterator[None]:
    """What is gone is gone: a removal does not fail because its object is not there (any more)."""
    try:
        yield
    except (NetlinkError, OSError) as error:
        code = error.code if isinstance(error, NetlinkError) else error.errno
        if code not in _GONE:
            raise
