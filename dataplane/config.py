"""Reads the agent's configuration, and refuses what could not work before anything is touched."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from dataplane import addressing
from dataplane.bounds import LARGEST_PORT
from dataplane.decoding import from_json
from dataplane.errors import NodeRefused, RequestInvalid
from dataplane.host.detour import PREFIX
from dataplane.host_api import AgentConfig
from dataplane.tables import table_sizes
from dataplane.wireguard.device import KeyStore
from dataplane.wireguard.tunnel_link import TunnelLink

_Value = TypeVar("_Value", int, str)
_INTERFACE = re.compile(r"[!#$%&'()*+,.0-9;<=>?@A-Z\[\]^_`a-z{|}~-]{1,15}")
"""Name of an interface: at most IFNAMSIZ - 1 characters that can be seen, and none that ends a name somewhere."""
TEXT_MAX = 4095
"""Of a path (PATH_MAX of the kernel, with its last zero)."""
_MOST_PROBES_S = 100_000
_LARGEST_CACHE = 1 << 22


def load(path: Path) -> AgentConfig:
    """Raises RequestInvalid, naming the file and the field."""
    try:
        config = from_json(path.read_bytes(), AgentConfig)
    except OSError as error:
        raise RequestInvalid(f"{path}: cannot be read: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise RequestInvalid(f"{path}: {error} (fields: docs/configuration.md)") from error
    if wrong := [*_strange(msgspec.to_builtins(config), ""), *_faults(config)] or _faults_of_tunnels(config):
        raise RequestInvalid(f"{path}: " + "; ".join(wrong))
    return config


def _strange(value: object, place: str) -> Iterator[str]:
    """Texts of a configuration that are too long, or have what does not print in them."""
    if isinstance(value, str) and not (value.isprintable() and len(value) <= TEXT_MAX):
        yield f"{place}: {value[:60]!r} is too long, or has characters that do not print"
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for name, inner_value in inner:
        yield from _strange(inner_value, f"{place}.{name}".lstrip("."))


def _faults(config: AgentConfig) -> list[str]:
    numbers = [port.number for port in config.ports] + [border.port for border in config.borders]
    interfaces = [port.interface for port in config.ports]
    names = [border.name for border in config.borders]
    faults = [] if config.name and "/" not in config.name else [f"name {config.name[:60]!r} has a slash or is empty"]
    faults += [f"port number {number} is not in 1..{LARGEST_PORT}" for number in numbers if not _is_port(number)]
    faults += [f"port number {number} is used twice" for number in _repeated(numbers)]
    faults += [f"interface {name} is two ports" for name in _repeated(interfaces)]
    faults += [f"border {name} is named twice" for name in _repeated(names)]
    listening = [port for border in config.borders for port in (border.listen_port, border.second_listen_port) if port]
    faults += [f"listen_port {number} is of two borders" for number in _repeated(listening)]
    faults += [
        f"interface {name!r} is no interface name"
        for name in [*interfaces, *(border.interface for border in config.borders)]
        if not _INTERFACE.fullmatch(name) or name in (".", "..")
    ]
    faults += [f"interface {name!r}: {PREFIX}* are the agent's own" for name in interfaces if name.startswith(PREFIX)]
    faults += [
        f"border name {name!r} is empty, or has a slash or what cannot be seen"
        for name in names
        if not name or "/" in name or not name.isprintable()
    ]
    for border in config.borders:
        try:
            addressing.interface(border.address)
        except ValueError as error:
            faults.append(f"border {border.name}: address: {error}")
        for prefix in border.peers:
            try:
                addressing.prefix(prefix)
            except ValueError as error:
                faults.append(f"border {border.name}: peers: {error}")
        if not 0 < border.listen_port < 65536:
            faults.append(f"border {border.name}: listen_port {border.listen_port} is not in 1..65535")
        if not 0 <= border.second_listen_port < 65536:
            faults.append(f"border {border.name}: second_listen_port {border.second_listen_port} is not in 0..65535")
        if not 1280 <= border.mtu <= 65535:
            faults.append(f"border {border.name}: mtu {border.mtu} is not in 1280..65535 (RFC 8200 §5)")
    faults += _metrics_faults(config.metrics)
    faults += table_sizes.faults(config.table_sizes)
    entries = config.flow_cache_entries
    if not 4 <= entries <= _LARGEST_CACHE or entries & (entries - 1):
        faults.append(f"flow_cache_entries {entries} is no power of two in 4..{_LARGEST_CACHE}")
    if not 0 <= config.probes_s_max <= _MOST_PROBES_S:
        faults.append(f"probes_s_max {config.probes_s_max} is not in 0..{_MOST_PROBES_S}")
    for field in ("state_dir", "pin_dir", "wireguard_dir"):
        if not os.path.isabs(getattr(config, field)):
            faults.append(f"{field} {getattr(config, field)!r} is not an absolute path")
    if config.listen_group and not config.listen.startswith("unix:/"):
        faults.append("listen_group is for Unix sockets; who may use a TCP port is in the certificates")
    if not config.listen.startswith("unix:/"):
        try:
            addressing.host_and_port(config.listen)
        except ValueError as error:
            faults.append(f"listen is neither unix:/PATH nor HOST:PORT: {error}")
        if not (config.tls_certificate and config.tls_key and config.tls_client_ca):
            faults.append(
                f"listen {config.listen!r} is TCP, which needs mutual TLS: set tls_certificate, tls_key and "
                "tls_client_ca, or listen on unix:/PATH"
            )
    return faults


def _faults_of_tunnels(config: AgentConfig) -> list[str]:
    """Borders that cannot both have their WireGuard device, or of which a neighbour could not tell which it is."""
    devices = {border.name: TunnelLink(config.name, border).wireguards[0] for border in config.borders}
    faults = [
        f"borders {_named(devices, device)} would both have the device {device}: rename an interface, so that the "
        "first 11 characters differ"
        for device in _repeated([*devices.values()])
    ]
    store = KeyStore(Path(config.state_dir) / "keys")
    try:
        keys = {border.name: key for border in config.borders if (key := store.present(border.name))}
    except (NodeRefused, OSError) as error:
        return [*faults, str(error)]
    return faults + [
        f"borders {_named(keys, key)} have one private key: remove {store.path(name)}, a new one is made then (and the "
        "neighbour learns it)"
        for key in _repeated([*keys.values()])
        for name in [max(name for name, own in keys.items() if own == key)]
    ]


def _named(values: Mapping[str, str], value: str) -> str:
    return " and ".join(sorted(name for name, own in values.items() if own == value))


def _metrics_faults(metrics: str) -> list[str]:
    if not metrics or metrics.startswith("unix:/"):
        return []
    try:
        if addressing.endpoint(metrics)[0].is_loopback:
            return []
    except ValueError:
        pass
    return [f"metrics {metrics!r} is neither unix:/PATH nor ADDRESS:PORT with an address of the loopback"]


def _is_port(number: int) -> bool:
    return 1 <= number <= LARGEST_PORT


def _repeated(values: list[_Value]) -> list[_Value]:
    return [value for value, times in Counter(values).items() if times > 1]
