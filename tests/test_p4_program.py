"""The pipeline in P4 agrees with what is made from it, and with the numbers of the other implementations."""

import enum
import json
import re
import shutil
from pathlib import Path

import pytest

from dataplane import reasons
from dataplane.host_api import TableSizes
from dataplane.p4runtime import p4_program, p4info
from dataplane.tables.table_sizes import by_name

INFO = p4info.load()
SOURCE = "\n".join(path.read_text() for path in sorted(p4_program.DIRECTORY.glob("*.p4")))
CONSTANTS = dict(re.findall(r"^const \S+\s+(\w+)\s*= (\w+);", SOURCE, re.MULTILINE))


def test_what_is_committed_was_made_from_these_sources() -> None:
    assert p4_program.made_from() == p4_program.digests(p4info.P4INFO_FILE.read_bytes())
    assert p4_program.main(["--check"]) == 0


def test_other_sources_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in p4_program.DIRECTORY.glob("*.p4"):
        shutil.copy(path, tmp_path)
    monkeypatch.setattr(p4_program, "DIRECTORY", tmp_path)
    assert p4_program.main(["--check"]) == 0
    with (tmp_path / "lease.p4").open("a") as file:
        file.write("\n")
    assert p4_program.main(["--check"]) == 1
    assert p4_program.main(["--wrong"]) == 2


@pytest.mark.parametrize(
    ("prefix", "numbers"),
    [("DROP", reasons.DropReason), ("PUNT", reasons.PuntReason), ("L4", reasons.L4Class)],
    ids=["drop reasons", "punt reasons", "L4 classes"],
)
def test_numbers_have_one_meaning(prefix: str, numbers: type[enum.IntEnum]) -> None:
    in_program = {
        name.removeprefix(f"{prefix}_"): int(value)
        for name, value in CONSTANTS.items()
        if name.startswith(f"{prefix}_")
    }
    in_program.pop("REASONS", None)  # how many there can be
    assert len(in_program) > 2
    assert in_program == {name: numbers[name].value for name in in_program}


def test_other_constants_are_the_same() -> None:
    for name in ("FABRIC_VRF", "ATTACHMENT_CLASS", "FABRIC_CLASS", "SID_BLOCK", "IPV6_LEAST_MTU"):
        assert int(CONSTANTS[name], 0) == getattr(reasons, name), name


def test_misses_drop_for_the_reasons_that_the_program_says() -> None:
    program = json.loads(p4_program.PROGRAM_FILE.read_text())
    actions = {action["id"]: action["name"] for action in program["actions"]}
    tables = {
        table["name"].rpartition(".")[2]: table for pipeline in program["pipelines"] for table in pipeline["tables"]
    }
    for table in INFO.tables:
        default = tables[table.name]["default_entry"]
        action = table.default_action
        assert actions[default["action_id"]].rpartition(".")[2] == action.action.name
        assert [int(value, 0) for value in default["action_data"]] == [value for _, value in action.params]


def test_usual_sizes_are_those_of_the_p4info() -> None:
    sizes = {sized.name: sized.size for sized in (*INFO.tables, *INFO.counters)}
    assert {name: sizes[name] for name in by_name(TableSizes())} == by_name(TableSizes())


if shutil.which(p4_program.COMPILER):

    def test_the_compiler_makes_what_is_committed() -> None:
        p4, program = p4_program.compiled()
        assert p4 == p4info.P4INFO_FILE.read_bytes()
        assert json.loads(program) == json.loads(p4_program.PROGRAM_FILE.read_text())
