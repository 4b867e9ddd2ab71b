"""The schemas of files that programs read, held against files that they do read."""

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import msgspec
import pytest
from ruamel.yaml import YAML

from controller.cli import file_reference
from controller.cli.file_schema import FILES
from controller.cli.kinds import SCHEMA_FILES
from topologies import domain_files, topology_file
from topologies.topology import Topology

LAB = Path(__file__).parent.parent / "topologies" / "three-domains.yaml"
CONFIG = {
    "domain": "shop",
    "inventory": "/etc/netstitch/inventory.yaml",
    "policy": "/etc/netstitch/policy.yaml",
    "store": "/var/lib/netstitch/store.sqlite",
    "listen": "127.0.0.1:7443",
    "token_file": "/etc/netstitch/token",
    "eastwest": "0.0.0.0:7444",
    "key_dir": "/etc/netstitch/keys",
}


def topology() -> Topology:
    return topology_file.load(LAB)


def agent_config() -> Any:
    return json.loads(msgspec.json.encode(domain_files.agent_config(topology(), topology().node("sg1"), "/run/sg1")))


def policy() -> Any:
    return YAML(typ="safe").load(domain_files.policy(topology().domain("transit")))


GOOD = {
    "config": lambda: CONFIG,
    "agent": agent_config,
    "policy": policy,
    "topology": lambda: YAML(typ="safe").load(LAB.read_text()),
}


@pytest.mark.parametrize("name", SCHEMA_FILES)
def test_what_the_program_reads_is_valid_and_an_unknown_field_is_not(name: str) -> None:
    schema = FILES[name]()
    jsonschema_rs.meta.validate(schema)
    validator = jsonschema_rs.validator_for(schema)
    good = GOOD[name]()
    validator.validate(good)
    assert not validator.is_valid({**good, "lisen": "127.0.0.1:1"})


def test_a_host_of_a_topology_has_its_name_as_key_only() -> None:
    document = GOOD["topology"]()
    document["hosts"]["cx1"]["name"] = "cx1"
    assert not jsonschema_rs.validator_for(FILES["topology"]()).is_valid(document)


@pytest.mark.parametrize("name", ["config", "agent"])
def test_every_field_of_a_configuration_says_what_it_means(name: str) -> None:
    schema = FILES[name]()
    records = [record for record in schema["$defs"].values() if "properties" in record]
    silent = [(record["title"], field) for record in records for field, described in record["properties"].items() if "description" not in described]  # fmt: skip # noqa: E501
    assert silent == []


def test_the_reference_in_the_documentation_is_what_the_schemas_say() -> None:
    assert file_reference.FILE.read_text() == file_reference.text()
