"""What the kernel may do with tunnels on a node: forward what goes between a tunnel and its way into the pipeline, and
exchange WireGuard's packets with the neighbour where it was agreed to be, by the border's own link. Nothing else.

WireGuard sends to wherever a peer's last packet came from. So a neighbour could have what we send it go by another
link: what comes from elsewhere does not get that far, and what would go elsewhere is not sent.

The agent owns the nftables table `inet netstitch`. It is replaced in one transaction, so there is no moment without.
"""

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from dataplane.addressing import Address
from dataplane.decoding import from_json
from dataplane.errors import NodeRefused
from dataplane.host.nftables import digest

TABLE = "netstitch"
_DEADLINE_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """Of one tunnel."""

    devices: tuple[str, str, str]
    """WireGuard device, kernel's end and pipeline's end of the pair."""
    underlay: str
    listen_port: int
    peer: Address


class _Installed(msgspec.Struct, frozen=True, kw_only=True):
    """What was written, and what the kernel held then: if it holds another thing later, somebody changed it."""

    ruleset: str
    digest: bytes


class Firewall:
    def __init__(self, state_dir: Path) -> None:
        self._record = state_dir / "firewall.json"

    def sync(self, tunnels: Iterable[Way]) -> bool:
        """Makes the table be that of `tunnels`. Returns whether anything was different."""
        ways = sorted(tunnels, key=lambda way: way.devices)
        names = [name for way in ways for name in (*way.devices, way.underlay)]
        if broken := [name for name in names if not name.isprintable() or '"' in name]:
            raise NodeRefused(f"{broken[0]!r} is no name of an interface that can be written into a ruleset")
        wanted = _ruleset(ways)
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
            return from_json(self._record.read_bytes(), _Installed)
        except (FileNotFoundError, msgspec.DecodeError):
            return None  # written again from what is wanted


def _ruleset(tunnels: list[Way]) -> str:
    ends = [way.devices[:2] for way in tunnels]
    pairs = [f'"{a}" . "{b}"' for end in ends for a, b in (end, end[::-1])]
    devices = [f'"{device}"' for way in tunnels for device in way.devices]
    ports = [str(way.listen_port) for way in tunnels]
    places = {
        version: [
            f'{way.listen_port} . "{way.underlay}" . {way.peer}' for way in tunnels if way.peer.version == version
        ]
        for version in (4, 6)
    }
    return f"""table inet {TABLE} {{
	set tunnel_pairs {{
		type ifname . ifname
		{_elements(pairs)}
	}}
	set tunnel_devices {{
		type ifname
		{_elements(devices)}
	}}
	set tunnel_ports {{
		type inet_service
		{_elements(ports)}
	}}
	set neighbours4 {{
		type inet_service . ifname . ipv4_addr
		{_elements(places[4])}
	}}
	set neighbours6 {{
		type inet_service . ifname . ipv6_addr
		{_elements(places[6])}
	}}
	chain input {{
		type filter hook input priority filter; policy accept;
		iifname @tunnel_devices drop
		udp dport . iifname . ip saddr @neighbours4 accept
		udp dport . iifname . ip6 saddr @neighbours6 accept
		udp dport @tunnel_ports drop
	}}
	chain output {{
		type filter hook output priority filter; policy accept;
		udp sport . oifname . ip daddr @neighbours4 accept
		udp sport . oifname . ip6 daddr @neighbours6 accept
		udp sport @tunnel_ports drop
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
