"""Clients of P4Runtime and gRPC that others wrote, at a real agent: the sessions of docs/fabrics.md, as they stand."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from agents import AgentProcess, Bpffs
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from namespaces import Namespace, veth
from waiting import LIMIT_S

pytestmark = pytest.mark.root

ROOT = Path(__file__).resolve().parent.parent
SHELL = ROOT / "build/p4runtime-shell/bin/python"
"""Of an environment of its own, which `./run setup` makes."""
SOCKET = "unix:/run/e1/agent.sock"
"""As the document writes it."""


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    directory = tmp_path_factory.mktemp("clients")
    pins = Bpffs(directory / "bpf")
    namespace, other = Namespace("e1"), Namespace("s1")
    veth(namespace, "s1", other, "e1")
    port = {"number": 1, "interface": "s1", "role": "fabric"}
    started = AgentProcess(namespace, directory / "e1", pins.path, ports=[port])
    started.start()
    try:
        yield started
    finally:
        started.remove()
        namespace.remove()
        other.remove()
        pins.remove()


def session(module: str) -> str:
    """The one that begins with its import."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/fabrics.md").read_text(), re.DOTALL)
    (block,) = [block for block in blocks if f"import {module}" in block]
    return str(block)


def output(python: Path, script: str, agent: AgentProcess) -> str:
    text = script.replace(SOCKET, agent.config["listen"])
    assert text != script
    done = subprocess.run([python, "-c", text], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, (done.stdout, done.stderr)
    return done.stdout


def test_the_session_with_finsy(agent: AgentProcess) -> None:
    said = output(Path(sys.executable), session("finsy"), agent)
    assert said == "3 P4TableAction(name='set_next_hop', args={'next_hop': 5})\n"


def test_the_session_with_p4runtime_shell(agent: AgentProcess) -> None:
    said = output(SHELL, session("p4runtime_sh"), agent).splitlines()
    assert [line for line in said if re.match(r"\d+ r", line)] == ["1 route", "256 reasons to drop", "0 routes"]


def test_an_agent_says_that_it_serves_and_what(agent: AgentProcess) -> None:
    with grpc.insecure_channel(agent.config["listen"]) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "p4.v1.P4Runtime"):
            request = health_pb2.HealthCheckRequest(service=service)
            assert health.Check(request, timeout=LIMIT_S).status == health_pb2.HealthCheckResponse.SERVING
        services = ProtoReflectionDescriptorDatabase(channel)
        assert "p4.v1.P4Runtime" in services.get_services()
        methods = DescriptorPool(services).FindServiceByName("p4.v1.P4Runtime").methods_by_name
        assert {"Write", "Read", "StreamChannel", "Capabilities"} <= {*methods}
