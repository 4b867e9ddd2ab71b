"""What XDP sent on and a port did not take, as the kernel's tracepoints tell it (ebpf/loss.bpf.c).

```
PIN_DIR/loss-DIGEST/port_loss                       packets by port and PortLoss
PIN_DIR/loss-DIGEST/xdp_redirect_err, ...devmap_xmit  who counts them
```

They count while no agent runs. The digest names what they follow: program, map of ports, and network namespace.
"""

import contextlib
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dataplane.reasons import PORT_LOSSES, PORTS, PortLoss
from dataplane.xdp.bpf import OBJECT_PATH, Map, Object, follow

_OBJECT = OBJECT_PATH.with_name("loss.bpf.o")
_TRACEPOINTS = {"xdp_redirect_err": "redirect_err", "xdp_devmap_xmit": "devmap_xmit"}
"""To the names of the programs there."""
_COUNTER = "port_loss"


class Redirects:
    def __init__(self, counter: Map) -> None:
        self._counter = counter

    def lost(self) -> dict[tuple[int, PortLoss], int]:
        """Packets by port and kind, without zeros. Raises OSError."""
        _, values = self._counter.items()
        totals = np.frombuffer(values, np.uint64).reshape(PORTS, PORT_LOSSES, -1).sum(axis=2)
        return {
            (int(port), PortLoss(int(kind))): int(totals[port, kind])
            for port, kind in zip(*np.nonzero(totals), strict=True)
        }


def follow_redirects(pin_dir: Path, maps: Mapping[str, Map]) -> Redirects:
    """Takes over what counts already, or begins. `maps`: the pipeline's. Raises OSError where the kernel cannot."""
    namespace = os.stat("/proc/thread-self/ns/net").st_ino & 0xFFFFFFFF
    constants = {"tx_port_id": maps["tx_port"].id, "network_namespace": namespace}
    digest = hashlib.sha256(_OBJECT.read_bytes() + repr(constants).encode()).hexdigest()[:12]
    home = pin_dir / f"loss-{digest}"
    if not all((home / name).exists() for name in (_COUNTER, *_TRACEPOINTS)):
        remove(pin_dir)
        home.mkdir()
        with Object(_OBJECT) as programs:
            programs.set_constants(constants)
            programs.reuse("port_number", maps["port_number"])
            programs.load()
            for tracepoint, name in _TRACEPOINTS.items():
                with follow(programs.program(name), tracepoint) as link:
                    link.pin(home / tracepoint)
            programs.map(_COUNTER).pin(home / _COUNTER)
    return Redirects(Map.open_pinned(home / _COUNTER))


def remove(pin_dir: Path) -> None:
    """Nobody counts any more."""
    for home in pin_dir.glob("loss-*"):
        for pin in home.iterdir():
            pin.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            home.rmdir()
