"""An agent at TCP: strangers who only connect keep neither the controller out, nor descriptors."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
import trustme
from federation import free_ports
from waiting import LIMIT_S, until

from dataplane.door import STRANGERS_MAX
from dataplane.errors import NodeRefused
from dataplane.host_api import AgentConfig
from dataplane.listener import Listener
from tests.test_header_blocks import HOSTILE, PREFACE, SETTINGS, frame


async def _led(request: bytes, context: object) -> bytes:
    return b"led"


@asynccontextmanager
async def listening(
    directory: Path, authority: trustme.CA, refused: Callable[[str, str], None] = lambda who, why: None
) -> AsyncIterator[str]:
    """An agent whose controller is called stitchd.example; gives its address."""
    leaf, (port,) = authority.issue_cert("127.0.0.1"), free_ports(1)
    authority.cert_pem.write_to_path(directory / "ca.pem")
    leaf.private_key_pem.write_to_path(directory / "se1.key")
    leaf.cert_chain_pems[0].write_to_path(directory / "se1.pem")
    config = AgentConfig(
        name="se1",
        listen=f"127.0.0.1:{port}",
        state_dir="",
        pin_dir="",
        ports=(),
        tls_certificate=f"{directory}/se1.pem",
        tls_key=f"{directory}/se1.key",
        tls_client_ca=f"{directory}/ca.pem",
        tls_client_name="stitchd.example",
    )
    listener = Listener(config, refused)
    server = grpc.aio.server(interceptors=listener.interceptors())
    handlers = {"Lead": grpc.unary_unary_rpc_method_handler(_led)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("agent", handlers),))
    listener.bind(server)
    await server.start()
    await listener.open()
    try:
        with pytest.raises(NodeRefused, match=f"cannot listen on 127.0.0.1:{port}"):
            await Listener(config, lambda who, why: None).open()
        yield config.listen
    finally:
        await server.stop(0)
        listener.close()


async def call(authority: trustme.CA, name: str, address: str) -> bytes:
    leaf = authority.issue_cert(name)
    files = (authority.cert_pem, leaf.private_key_pem, leaf.cert_chain_pems[0])
    credentials = grpc.ssl_channel_credentials(*(file.bytes() for file in files))
    options = (("grpc.use_local_subchannel_pool", 1),)
    async with grpc.aio.secure_channel(address, credentials, options=options) as channel:
        answer: bytes = await channel.unary_unary("/agent/Lead")(b"", timeout=LIMIT_S, wait_for_ready=True)
        return answer


async def test_half_open_connections_keep_no_controller_out(tmp_path: Path) -> None:
    strangers: list[socket.socket] = []
    authority = trustme.CA()
    async with listening(tmp_path, authority) as address:
        host, port = address.split(":")

        def is_closed(stranger: socket.socket) -> bool:
            try:
                return stranger.recv(1) == b""
            except BlockingIOError:
                return False

        try:
            for _ in range(STRANGERS_MAX + 40):
                strangers.append(socket.create_connection((host, int(port)), timeout=LIMIT_S))
                strangers[-1].setblocking(False)
            assert await call(authority, "stitchd.example", address) == b"led"
            await until(lambda: sum(map(is_closed, strangers)) >= 40, "the eldest have given way")
            assert await call(authority, "stitchd.example", address) == b"led"
        finally:
            for stranger in strangers:
                stranger.close()


async def test_headers_that_would_become_large_end_the_connection_that_brings_them(tmp_path: Path) -> None:
    authority = trustme.CA()
    async with listening(tmp_path, authority) as address:
        context = ssl.create_default_context()
        authority.configure_trust(context)
        authority.issue_cert("stitchd.example").configure_cert(context)
        context.set_alpn_protocols(["h2"])
        host, port = address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
        frames = HOSTILE["a long field, named again and again"]
        writer.write(PREFACE + frame(SETTINGS, 0, b"") + b"".join(frames))
        async with asyncio.timeout(LIMIT_S):
            while await reader.read(1 << 16):
                pass
        writer.close()
        assert await call(authority, "stitchd.example", address) == b"led"


async def test_who_may_not_lead_is_told_by_the_address_from_which_it_comes(tmp_path: Path) -> None:
    refused: list[tuple[str, str]] = []
    authority = trustme.CA()
    async with listening(tmp_path, authority, lambda who, why: refused.append((who, why))) as address:
        with pytest.raises(grpc.aio.AioRpcError, match="you may not lead"):
            await call(authority, "sg1.example", address)
    ((who, why),) = refused
    assert who.startswith("127.0.0.1:") and "not of stitchd.example" in why
