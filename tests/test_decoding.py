"""Files that are no text, nested without end, or larger than they can be: named, never a traceback."""

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from controller import config
from controller.errors import ConfigInvalid
from controller.northbound.tokens import Tokens
from controller.store import acknowledged
from dataplane import config as agent_config
from dataplane import state
from dataplane.decoding import from_json
from dataplane.errors import NodeRefused, RequestInvalid
from dataplane.p4runtime.pipeline_config import FILE_NAME, PipelineConfigFile

NO_TEXT = b'{"domain": "\xff\xfe"}'
DEEP = b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"


def pipeline(file: Path) -> object:
    file.rename(file.with_name(FILE_NAME))
    return PipelineConfigFile(file.parent, "digest", fresh=False)


@pytest.mark.parametrize("content", [NO_TEXT, DEEP, b"", b"\x00" * 100])
@pytest.mark.parametrize(
    ("load", "refusal"),
    [
        (config.load, ConfigInvalid),
        (lambda file: Tokens.load("secret", file), ConfigInvalid),
        (agent_config.load, RequestInvalid),
        (pipeline, NodeRefused),
    ],
    ids=["stitchd.json", "tokens", "agent.json", "p4runtime.json"],
)
def test_a_damaged_file_is_named(
    tmp_path: Path, load: Callable[[Path], object], refusal: type[Exception], content: bytes
) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(refusal, match=str(tmp_path)):
        load(file)


@pytest.mark.parametrize("content", [NO_TEXT, b"", b"\n\n", b"\x00" * 100, b"two\nlines"])
def test_a_token_is_one_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(ConfigInvalid, match=str(file)):
        config.token(file)


@pytest.mark.parametrize("number", ["x", "-1", "1e3", "", "\u0663", str(2**128), "9" * 5000])
def test_an_election_id_is_a_number_of_128_bits(tmp_path: Path, number: str) -> None:
    (tmp_path / FILE_NAME).write_bytes(msgspec.json.encode({"layout": "digest", "elections": {"": number}}))
    with pytest.raises(NodeRefused, match="128 bits"):
        PipelineConfigFile(tmp_path, "digest", fresh=False)


@pytest.mark.parametrize("content", [NO_TEXT, DEEP])
def test_a_damaged_time_of_boot_is_found_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "boot.json").write_bytes(content)
    assert state.boot_epoch_s(tmp_path) == state.boot_epoch_s(tmp_path) > 0


def test_what_is_wrong_with_json_is_one_kind_of_error() -> None:
    for data in (NO_TEXT, DEEP, b"{", b"5"):
        with pytest.raises(msgspec.DecodeError):
            from_json(data, dict[str, object])


def test_of_what_was_acknowledged_no_more_is_read_than_there_can_be(tmp_path: Path) -> None:
    store = tmp_path / "store.sqlite"
    line = acknowledged.line(1, "digest", [("Intent", "web")])
    acknowledged.Acknowledged.open(store, line).close()
    os.truncate(acknowledged.beside(store), 1 << 42)  # more than any memory
    assert acknowledged.read(store) == [line]
