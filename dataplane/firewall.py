"""What the kernel may forward on a node: what goes between a tunnel and its way into the pipeline, nothing else.

The agent owns the nftables table `inet netstitch`. It is replaced in one transaction, so there is no moment without.
"""

import subprocess
from collections.abc import Iterable
from pathlib import Path

import msgspec

from dataplane.errors import NodeRefused
from dataplane.nftables import digest

TABLE = "netstitch"
_DEADLINE_S = 10.0


class _Installed(msgspec.Struct, frozen=True, kw_only=True):
    """What was written, and what the kernel held then: if it holds another thing later, somebody changed it."""

    ruleset: str
    digest: bytes


class Firewall:
    def __init__(self, state_dir: Path) -> None:
        self._record = state_dir / "firewall.json"

    def sync(self, tunnels: Iterable[tuple[str, str, str]]) -> bool:
        """Makes the table be that of `tunnels`: (WireGuard device, kernel's end, pipeline's end) each.

        Returns whether anything was different.
        """
        tunnels = sorted(tunnels)
        if broken := [name for names in tunnels for name in names if not name.isprintable() or '"' in name]:
            raise NodeRefused(f"{broken[0]!r} is no name of an interface that can be written into a ruleset")
        wanted = _ruleset(tunnels)
        present = digest(TABLE)
        if present is not None and self._installed() == _Installed(ruleset=wanted, digest=present):
            return False
        # Declared before it is deleted, so that deleting works when it is not there.
        _nft("-f", "-", text=f"table inet {TABLE}\ndelete table inet {TABLE}\n{wanted}")
        self._record.write_bytes(msgspec.json.encode(_Installed(ruleset=wanted, digest=digest(TABLE) or b"")))
        return True

    def remove(self) -> bool:
        """Takes the table away; returns whether there was one."""
        there = digest(TABLE) is not None
        if there:  # declared before it is deleted: it may be gone by now
            _nft("-f", "-", text=f"table inet {TABLE}\ndelete table inet {TABLE}\n")
        self._record.unlink(missing_ok=True)
        return there

    def _installed(self) -> _Installed | None:
        try:
            return msgspec.json.decode(self._record.read_bytes(), type=_Installed)
        except (FileNotFoundError, msgspec.DecodeError):
            return None  # written again from what is wanted


def _ruleset(tunnels: list[tuple[str, str, str]]) -> str:
    pairs = [
        f'"{a}" . "{b}"' for wireguard, kernel, _ in tunnels for a, b in ((wireguard, kernel), (kernel, wireguard))
    ]
    devices = [f'"{device}"' for tunnel in tunnels for device in tunnel]
    return f"""table inet {TABLE} {{
	set tunnel_pairs {{
		type ifname . ifname
		{_elements(pairs)}
	}}
	set tunnel_devices {{
		type ifname
		{_elements(devices)}
	}}
	chain input {{
		type filter hook input priority filter; policy accept;
		iifname @tunnel_devices drop
	}}
	chain forward {{
		type filter hook forward priority filter; policy drop;
		iifname . oifname @tunnel_pairs accept
	}}
}}
"""


def _elements(elements: list[str]) -> str:
    return f"elements = {{ {', '.join(elements)} }}" if elements else ""


def _nft(*arguments: str, text: str = "") -> str:
    try:
        done = subprocess.run(["nft", *arguments], input=text, capture_output=True, text=True, timeout=_DEADLINE_S)
    except FileNotFoundError as error:
        raise NodeRefused("nft is not installed: install the package `nftables`") from error
    except subprocess.TimeoutExpired as error:
        raise NodeRefused(f"`nft {' '.join(arguments)}` took more than {_DEADLINE_S} s") from error
    if done.returncode:
        raise NodeRefused(f"`nft {' '.join(arguments)}` failed: {done.stderr.strip()}")
    return done.stdout
