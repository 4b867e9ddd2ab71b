"""Every field of what the disk gives back, at and beyond its bounds: configurations, records of a store, tokens.

It is read, or refused with the name of the file or record; no traceback.
"""

import base64
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import msgspec.inspect as mi
import pytest

from controller import config, reconcile
from controller.errors import ConfigInvalid
from controller.history import History
from controller.model import happening
from controller.model.event import Record
from controller.model.policy import Policy
from controller.northbound import tokens
from controller.reconcile.state import RECORDS
from dataplane.config import load as load_agent
from dataplane.errors import RequestInvalid
from dataplane.host_api import AgentConfig
from tests.beyond import HUGE, Deep, Octets, fields, filled
from tests.beyond_written import VAST

DEEP = 5000
TRAPS = ("\x00", "a\nb", "\x1b[2J", "\x9b", "\u202e", "\ud800", "a" * 30_000)
WRONG: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, HUGE, -HUGE, VAST, 2**64, float("nan"), "", "none of them", *TRAPS, [], [[]], [None], {},
    {"\x00": {}}, Deep(DEEP),
)  # fmt: skip
NO_JSON = (b"", b"\x00", b"[" * 100_000, b'{"":' * 100_000, b'"\\ud800"', b'"\xed\xa0\x80"', b"{}{}", b"1" * 5000)
CONTROLLER = {
    "domain": "shop", "inventory": "/i.yaml", "policy": "/p.yaml", "store": "/s", "listen": "127.0.0.1:8080",
    "tls": {"certificate": "/c", "key": "/k"}, "token_file": "/t", "tokens": "/ts", "eastwest": "127.0.0.1:1",
    "key_dir": "/keys", "agent_tls": {"ca": "/a", "certificate": "/c", "key": "/k"}, "plugin_user": "nobody",
    "ipfix": {"collector": "127.0.0.1:4739", "transport": "udp"},
}  # fmt: skip
AGENT = {
    "name": "n", "listen": "127.0.0.1:1", "listen_group": "", "state_dir": "/s", "pin_dir": "/p", "wireguard_dir": "/w",
    "ports": [{"number": 1, "interface": "eth1", "role": "attachment", "way": "auto"}],
    "borders": [
        {
            "name": "b", "port": 9, "interface": "eth9", "address": "192.0.2.1/30", "listen_port": 51820,
            "second_listen_port": 51821, "mtu": 1420,
            "peers": ["192.0.2.0/24"],
        }
    ],
    "metrics": "unix:/m", "flow_cache_entries": 1024, "probes_s_max": 100, "tls_certificate": "/c", "tls_key": "/k",
    "tls_client_ca": "/a",
    "tls_client_name": "shop",
    "table_sizes": {
        "forwarding_classes": 64, "flow_policies": 64, "prefixes": 64, "sr_policies": 64, "policy_classes": 64,
        "local_sids": 64,
    },
}  # fmt: skip


def text(data: Any) -> bytes:
    return json.dumps(data, default=_default).replace('"deep"', "[" * DEEP + "]" * DEEP).encode()


def _default(value: object) -> str:
    match value:
        case Octets(count=count):
            return base64.b64encode(bytes(count)).decode()
        case Deep():
            return "deep"
    raise AssertionError(value)


def record_of(kind: str) -> Callable[[Path, bytes], object]:
    def read(_: Path, content: bytes) -> object:
        return reconcile.initial((Record(kind=kind, name="one", content=content),), "shop", Policy())

    return read


def read_config(path: Path, content: bytes) -> object:
    path.write_bytes(content)
    return config.load(path)


def read_agent(path: Path, content: bytes) -> object:
    path.write_bytes(content)
    return load_agent(path)


def read_happening(_: Path, content: bytes) -> object:
    return History.load((Record(kind=happening.RECORD, name="one", content=content),)).resources()


def read_tokens(path: Path, content: bytes) -> object:
    path.touch(mode=0o600)
    path.write_bytes(content)
    return tokens.Tokens.load("secret", path).resources()


Read = Callable[[Path, bytes], object]
STORED: dict[str, tuple[type, Read, type[Exception]]] = {
    **{kind: (made_of, record_of(kind), ValueError) for kind, (_, made_of) in RECORDS.items()},
    happening.RECORD: (happening.Happening, read_happening, ValueError),
    "tokens": (tokens._File, read_tokens, ConfigInvalid),
}
CONFIGURED: dict[str, tuple[type, dict[str, Any], Read, type[Exception]]] = {
    "stitchd": (config.Config, CONTROLLER, read_config, ConfigInvalid),
    "stitch-agent": (AgentConfig, AGENT, read_agent, RequestInvalid),
}


def damaged(root: mi.Type) -> Iterator[tuple[tuple[str | int, ...], bytes]]:
    for place, _ in fields(root):
        for value in WRONG:
            yield place, text(filled(root, place, value))
    for content in (
        b"",
        b"\x00",
        b"\xff",
        b"[" * 100_000,
        b'{"":' * 100_000,
        b'"\\ud800"',
        b'"\xed\xa0\x80"',
        b"{}{}",
        b"1" * 5000,
    ):
        yield (), content


@pytest.mark.parametrize("name", STORED)
def test_what_the_disk_gives_back_is_read_or_refused_by_name(name: str, tmp_path: Path) -> None:
    made_of, read, refusal = STORED[name]
    path = tmp_path / "file"
    root = mi.type_info(made_of)
    visited, outcomes = Counter[tuple[str | int, ...]](), Counter[str]()
    wrong = []
    for place, content in damaged(root):
        visited[place] += 1
        try:
            read(path, content)
            outcomes["read"] += 1
        except refusal as error:
            outcomes["refused"] += 1
            decodes = not isinstance(error.__cause__, msgspec.MsgspecError | RecursionError)
            if not str(error) or not (decodes or str(path) in str(error) or f"record {name}/one" in str(error)):
                wrong.append(f"{place} {content[:60]!r}: {str(error)[:200]!r}")
        except Exception as error:
            wrong.append(f"{place} {content[:60]!r}: {type(error).__name__}: {str(error)[:200]!r}")
    assert not wrong, f"{len(wrong)}:\n" + "\n".join(wrong[:50])
    assert visited.keys() == {place for place, _ in fields(root)} and outcomes["refused"] > 5 * len(visited), outcomes


def with_value(sample: Any, place: tuple[str | int, ...], value: Any) -> Any:
    if not place:
        return value
    head, *rest = place
    copied = list(sample) if isinstance(head, int) else dict(sample)
    copied[head] = with_value(copied[head], tuple(rest), value)
    return copied


@pytest.mark.parametrize("name", CONFIGURED)
def test_a_configuration_is_read_or_refused_with_its_file_and_field(name: str, tmp_path: Path) -> None:
    made_of, sample, read, refusal = CONFIGURED[name]
    path = tmp_path / "config.json"
    read(path, text(sample))
    visited = Counter[tuple[str | int, ...]]()
    wrong = []
    for place, kind in fields(mi.type_info(made_of)):
        taken: list[Any] = []
        for value in WRONG:
            visited[place] += 1
            try:
                read(path, text(with_value(sample, place, value)))
                taken.append(value)
            except refusal as error:
                if str(path) not in str(error):
                    wrong.append(f"{place} {value!r:.60}: {error!s:.200}")
            except Exception as error:
                wrong.append(f"{place} {value!r:.60}: {type(error).__name__}: {error!s:.200}")
        if strange := [value for value in taken if value in TRAPS or (not isinstance(value, str | bool) and value)]:
            wrong.append(f"{place} ({type(kind).__name__}) takes {strange!r:.200}")
    assert not wrong, f"{len(wrong)}:\n" + "\n".join(wrong[:50])
    assert visited.keys() == {place for place, _ in fields(mi.type_info(made_of))}
