"""What a service tells systemd, if that has started it: sd_notify(3)."""

import os
import socket


def ready() -> None:
    """From now on others are served. Raises OSError where systemd cannot be told."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.connect(address)
        channel.sendall(b"READY=1")
