"""How single values are written: names, addresses, ports, units. Each shape has its way back to text."""

import datetime
import enum
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from controller.language.shape import Scalar
from controller.model.dscp import CODE_POINTS
from controller.model.intent import Deny, Disjoint, Encryption, Level, Ports, Remediation, Replies, Trust
from controller.model.openflow import openflow_switch
from controller.model.p4_switch import p4_switch
from dataplane import addressing

_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")
_DURATION = re.compile(r"([0-9]{1,9})(s|m|h|d)")
_SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_PORTS = re.compile(r"(tcp|udp)(?:/([0-9]{1,5})(?:-([0-9]{1,5}))?)?")


def _parts(count: tuple[int, ...]) -> Any:
    def make(text: str) -> str:
        parts = text.split("/")
        if len(parts) not in count or not all(_NAME.fullmatch(part) for part in parts):
            raise ValueError(f"{text[:80]!r} is no such name")
        return text

    return make


NAME = Scalar(expected="a name of a-z, 0-9, '-', '.', at most 63 characters", make=_parts((1,)))
TENANT = Scalar(
    expected="a tenant's name, or '*' for everybody", make=lambda text: text if text == "*" else _parts((1,))(text)
)
NETWORK_NAME = Scalar(expected="a network's name such as shop/customer-x", make=_parts((2,)))
SERVICE_NAME = Scalar(expected="a service's name such as insight/analytics/analytics-y", make=_parts((3,)))
DESTINATION_NAME = Scalar(
    expected="a network or service such as insight/analytics or insight/analytics/analytics-y", make=_parts((2, 3))
)


def _any_service_name(text: str) -> str:
    if text in ("in", "with"):
        raise ValueError(f"{text!r} is a word of the sentence")
    return str(NAME.make(text))


ANY_SERVICE_NAME = Scalar(
    expected="the last part of a service's name such as dns; not `in` or `with`", make=_any_service_name
)
VIA_NAME = Scalar(
    expected="a service's name such as firewall (in the source's network) or shop/customer-x/firewall",
    make=_parts((1, 3)),
)


def _text(text: str) -> str:
    if not 1 <= len(text) <= 20_000:
        raise ValueError(f"{len(text)} characters")
    return text


def _capability(text: str) -> str:
    name, equals, value = text.partition("=")
    if not _NAME.fullmatch(name) or (equals and not _NAME.fullmatch(value)):
        raise ValueError(f"{text[:80]!r} is none")
    return text


CAPABILITY = Scalar(expected="a capability such as dns or region=eu, of names of a-z, 0-9, '-', '.'", make=_capability)
TEXT = Scalar(expected="text", make=_text)


def _boolean(value: bool) -> bool:
    return value


def _code_point(text: str) -> int:
    if text not in CODE_POINTS:
        raise ValueError(f"{text[:20]!r} is none")
    return CODE_POINTS[text]


DSCP = Scalar(expected="a DSCP name such as EF or AF41", make=_code_point, json_schema={"enum": list(CODE_POINTS)})
BOOLEAN = Scalar(expected="true or false", make=_boolean, types=(bool,), json_schema={"type": "boolean"})


def integer(least: int, most: int, unit: str = "") -> Scalar:
    def make(value: int) -> int:
        if not least <= value <= most:
            raise ValueError(f"{value} is out of range")
        return value

    expected = f"a whole number from {least} to {most}" + (f" ({unit})" if unit else "")
    schema = {"type": "integer", "minimum": least, "maximum": most}
    return Scalar(expected=expected, make=make, types=(int,), json_schema=schema)


def scaled(factor: int, most: float, unit: str, note: str, *, positive: bool = False) -> Scalar:
    """A number of `unit` that the model keeps as a whole number of 1/factor of it."""

    def make(value: float) -> int:
        if not 0 <= value <= most or (positive and value == 0):
            raise ValueError(f"{value} is out of range")
        exact = Fraction(str(value)) * factor
        if exact.denominator != 1:
            raise ValueError(f"{value} is finer than 1/{factor} {unit}")
        return int(exact)

    expected = f"a number of {unit} ({note}) {'above' if positive else 'from'} 0{' up' if positive else ''} to {most:g}"
    return Scalar(
        expected=expected,
        make=make,
        types=(int, float),
        json_schema={"type": "number", "exclusiveMinimum" if positive else "minimum": 0, "maximum": most},
    )


def unscaled(value: int, factor: int) -> int | float:
    """The way back of `scaled`."""
    return value // factor if value % factor == 0 else value / factor


LATENCY_MS = scaled(1000, 60_000, "milliseconds", "a plain number, no unit")
LATENCY_MAX_MS = scaled(1000, 60_000, "milliseconds", "a plain number, no unit", positive=True)
LOSS_MAX_PERCENT = scaled(10_000, 100, "percent", "a plain number, no sign")
COST = integer(0, 2**24 - 1, "traffic engineering metric, RFC 5305")
RATE_MBIT = scaled(1_000_000, 10_000_000, "Mbit/s", "a plain number, no unit", positive=True)


def _percent(value: float) -> float:
    if not 0 <= value <= 100:
        raise ValueError(f"{value} is out of range")
    return float(value)


PERCENT = Scalar(
    expected="percent, a number from 0 to 100",
    make=_percent,
    types=(int, float),
    json_schema={"type": "number", "minimum": 0, "maximum": 100},
)


MAX_DURATION_S = 3650 * 86400


def _duration(text: str) -> int:
    match = _DURATION.fullmatch(text)
    if not match or int(match[1]) == 0:
        raise ValueError(f"{text[:40]!r} is no duration")
    seconds = int(match[1]) * _SECONDS[match[2]]
    if seconds > MAX_DURATION_S:
        raise ValueError(f"{text!r} is longer than {MAX_DURATION_S // 86400}d")
    return seconds


DURATION = Scalar(expected="a duration such as 30d, 12h, 15m or 90s", make=_duration)


def print_duration(seconds: int) -> str:
    unit = next(unit for unit, size in _SECONDS.items() if seconds % size == 0)
    return f"{seconds // _SECONDS[unit]}{unit}"


def _time(text: str) -> int:
    try:
        if not (text.isascii() and text.isprintable()):  # it would let a last NUL pass
            raise ValueError
        time = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"{text[:40]!r} is no time") from error
    if time.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return int(time.timestamp())


TIME = Scalar(expected="a time with its zone such as 2030-01-31T12:00:00Z", make=_time)


def print_time(unix_s: int) -> str:
    return datetime.datetime.fromtimestamp(unix_s, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _ports(text: str) -> Ports:
    if text == "icmp":
        return Ports(protocol="icmp")
    match = _PORTS.fullmatch(text)
    if not match:
        raise ValueError(f"{text[:40]!r} are no ports")
    first = int(match[2]) if match[2] else 0
    last = int(match[3]) if match[3] else (first if match[2] else 65535)
    if first > last:
        raise ValueError(f"{text!r} ends before it begins")
    if (match[2] and first == 0) or last > 65535:
        raise ValueError(f"{text!r} is no range inside 1 to 65535")
    return Ports(protocol=match[1], first=first, last=last)


PORTS = Scalar(expected="ports such as tcp/443, udp/1000-2000, tcp (all) or icmp (echo)", make=_ports)


def print_ports(ports: Ports) -> str:
    if ports.protocol == "icmp" or (ports.first, ports.last) == (0, 65535):
        return ports.protocol
    return f"{ports.protocol}/{ports.first}" + (f"-{ports.last}" if ports.last != ports.first else "")


def _written(read: Callable[[str], object]) -> Callable[[str], str]:
    """The text as it is, once `read` has taken it."""

    def make(text: str) -> str:
        read(text)
        return text

    return make


ADDRESS = Scalar(expected="an address such as 10.1.0.11 or 2001:db8::1", make=_written(addressing.host_address))
PREFIX = Scalar(expected="a prefix such as 10.1.0.0/24 or 2001:db8:1::/64", make=_written(addressing.prefix))
HOST_PREFIX = Scalar(expected=PREFIX.expected, make=_written(addressing.host_prefix))
SID_BLOCK = Scalar(
    expected="a SID block inside 5f00::/16 (RFC 9602) such as 5f00:1::/32", make=_written(addressing.sid_block)
)
LOCATOR = Scalar(
    expected="a /48 locator inside 5f00::/16 (RFC 9602) such as 5f00:1:2::/48",
    make=_written(lambda text: addressing.sid_block(text, 48)),
)
KEY = Scalar(expected="an Ed25519 public key: 32 bytes in base64", make=_written(addressing.key))
_endpoint = _written(addressing.host_and_port)
ENDPOINT = Scalar(expected="host:port such as 127.0.0.1:7001", make=_endpoint)


_OPENFLOW = "openflow:00000000000000a1@unix:/path (16 hexadecimal digits of the datapath id, @, where it listens)"
_P4 = "p4runtime:1@unix:/path (the device id, @, where its P4Runtime server listens)"


def _agent(text: str) -> str:
    if text.startswith(("openflow:", "p4runtime:")):
        switch = openflow_switch(text) or p4_switch(text)
        if switch is None:
            what, form = ("an OpenFlow switch", _OPENFLOW) if text.startswith("openflow:") else ("a P4 switch", _P4)
            raise ValueError(f"{text[:40]!r}: {what} is written as {form}")
        return f"{text.partition('@')[0]}@{_listening(switch.address)}"
    return _listening(text)


def _listening(text: str) -> str:
    if text.startswith("unix:/") and len(text) < 120 and text.isprintable() and text == text.strip():
        return text
    return _endpoint(text)


AGENT = Scalar(expected=f"unix:/path or host:port, or {_OPENFLOW}, or {_P4}", make=_agent)


def one_of(*names: str) -> Scalar:
    def make(text: str) -> str:
        if text not in names:
            raise ValueError(f"{text[:40]!r} is none of them")
        return names[names.index(text)]  # the very string, so that a default is known as one and not stored

    return Scalar(expected=f"one of {', '.join(names)}", make=make, json_schema={"enum": list(names)})


def _trust(text: str) -> Trust:
    try:
        return Trust[text.upper()] if text.islower() else Trust[""]
    except KeyError as error:
        raise ValueError(f"{text[:40]!r} is none of them") from error


TRUST = Scalar(expected="one of public, partner, own", make=_trust, json_schema={"enum": ["public", "partner", "own"]})
DENY = Scalar(expected="drop or reject", make=Deny, json_schema={"enum": [str(action) for action in Deny]})
REPLIES = Scalar(
    expected="stateful or stateless", make=Replies, json_schema={"enum": [str(reply) for reply in Replies]}
)


def _encryption(text: str) -> Encryption:
    if text == "wireguard-end-to-end":
        raise ValueError("wireguard-end-to-end is not supported yet")
    try:
        return Encryption(text)
    except ValueError as error:
        raise ValueError(f"{text[:40]!r} is none of them") from error


ENCRYPTION = Scalar(
    expected="one of none, wireguard, wireguard-pq",
    make=_encryption,
    json_schema={"enum": ["none", "wireguard", "wireguard-pq"]},
)


def _enumerated(kind: type[enum.StrEnum]) -> Scalar:
    names = [str(value) for value in kind]

    def make(text: str) -> enum.StrEnum:
        if text not in names:
            raise ValueError(f"{text[:40]!r} is none of them")
        return kind(text)

    return Scalar(expected=f"one of {', '.join(names)}", make=make, json_schema={"enum": names})


INTENT_ENCRYPTION = _enumerated(Encryption)
DISJOINT = _enumerated(Disjoint)
REMEDIATION = _enumerated(Remediation)
LEVEL = _enumerated(Level)
