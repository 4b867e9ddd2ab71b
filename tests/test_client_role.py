"""Over TCP an agent is led by a controller, and by no other agent, though one authority has signed both."""

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import trustme
from federation import free_ports
from waiting import LIMIT_S

from controller.eastwest import agent_keys
from dataplane.host_api import AgentConfig
from dataplane.listener import Listener

Files = tuple[bytes, bytes]
"""Key and certificate, PEM."""


async def _one(request: bytes, context: object) -> bytes:
    return b"led"


async def _many(request: bytes, context: object) -> AsyncIterator[bytes]:
    yield b"led"


async def led(directory: Path, authority: bytes, server: Files, client: Files, name: str = "") -> list[str]:
    """What a client hears, of a call of each kind."""
    refused: list[str] = []
    (port,) = free_ports(1)
    files = {"tls_key": server[0], "tls_certificate": server[1], "tls_client_ca": authority}
    for file, content in files.items():
        (directory / file).write_bytes(content)
    config = AgentConfig(
        name="sg1",
        listen=f"127.0.0.1:{port}",
        state_dir="",
        pin_dir="",
        ports=(),
        tls_client_name=name,
        **{file: str(directory / file) for file in files},
    )
    listener = Listener(config, lambda who, why: refused.append(why))
    agent = grpc.aio.server(interceptors=listener.interceptors())
    handlers = {
        "One": grpc.unary_unary_rpc_method_handler(_one),
        "Many": grpc.unary_stream_rpc_method_handler(_many),
    }
    agent.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("agent", handlers),))
    listener.bind(agent)
    await agent.start()
    await listener.open()
    heard = []
    try:
        mine = grpc.ssl_channel_credentials(authority, *client)
        options = (("grpc.use_local_subchannel_pool", 1),)
        async with grpc.aio.secure_channel(f"127.0.0.1:{port}", mine, options=options) as channel:
            try:
                heard.append((await channel.unary_unary("/agent/One")(b"", timeout=LIMIT_S)).decode())
            except grpc.aio.AioRpcError as error:
                heard.append(f"{error.code().name}: {error.details()}")
            try:
                heard += [each.decode() async for each in channel.unary_stream("/agent/Many")(b"", timeout=LIMIT_S)]
            except grpc.aio.AioRpcError as error:
                heard.append(f"{error.code().name}: {error.details()}")
    finally:
        await agent.stop(0)
        listener.close()
    return heard


def of_keygen(folder: Path, leaf: str) -> Files:
    return (folder / f"agents/{leaf}.key").read_bytes(), (folder / f"agents/{leaf}.pem").read_bytes()


def of_another_authority(leaf: trustme.LeafCert) -> Files:
    return leaf.private_key_pem.bytes(), leaf.cert_chain_pems[0].bytes()


async def test_with_the_keys_of_stitchd_a_controller_leads_and_an_agent_does_not(tmp_path: Path) -> None:
    for agent in ("sg1", "se1"):
        agent_keys.make("shop", tmp_path, agent, ["127.0.0.1"])
    authority, server = (tmp_path / "agents/ca.pem").read_bytes(), of_keygen(tmp_path, "sg1")
    assert await led(tmp_path, authority, server, of_keygen(tmp_path, "controller")) == ["led", "led"]
    assert await led(tmp_path, authority, server, of_keygen(tmp_path, "controller"), "shop") == ["led", "led"]
    for heard in await led(tmp_path, authority, server, of_keygen(tmp_path, "controller"), "transit"):
        assert heard.startswith("PERMISSION_DENIED") and "not of transit" in heard
    for heard in await led(tmp_path, authority, server, of_keygen(tmp_path, "se1")):
        assert heard.startswith("UNAVAILABLE"), "TLS itself keeps it out"


async def test_an_authority_that_signs_both_roles_alike_lets_only_the_named_controller_lead(tmp_path: Path) -> None:
    authority = trustme.CA()
    server, other, controller = (
        of_another_authority(authority.issue_cert(name, "127.0.0.1")) for name in ("sg1", "se1", "stitchd.example")
    )
    ca = authority.cert_pem.bytes()
    for client in (other, controller):
        for heard in await led(tmp_path, ca, server, client):
            assert heard.startswith("PERMISSION_DENIED") and "tls_client_name" in heard
    assert await led(tmp_path, ca, server, controller, "stitchd.example") == ["led", "led"]
    for heard in await led(tmp_path, ca, server, other, "stitchd.example"):
        assert heard.startswith("PERMISSION_DENIED") and "not of stitchd.example" in heard


async def test_a_controllers_certificate_is_no_agents(tmp_path: Path) -> None:
    agent_keys.make("shop", tmp_path, "sg1", ["127.0.0.1"])
    authority = (tmp_path / "agents/ca.pem").read_bytes()
    heard = await led(tmp_path, authority, of_keygen(tmp_path, "controller"), of_keygen(tmp_path, "controller"))
    assert all(each.startswith("UNAVAILABLE") for each in heard), heard
