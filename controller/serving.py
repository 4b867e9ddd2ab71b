"""`stitchd` at work: the only place where the parts are put together."""

import asyncio
import contextlib
import itertools
import logging
import secrets
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import grpc
import structlog

from controller import config as configuration
from controller import process, reconcile, seed
from controller.assessing import Assessing
from controller.config import AgentTls, Config, Listen
from controller.eastwest import identity as identities
from controller.eastwest.identity import Identity
from controller.eastwest.neighbours import Neighbours
from controller.errors import ConfigInvalid, Unavailable
from controller.export.collector import Collector
from controller.history import History
from controller.model.access import ourselves
from controller.model.event import Record
from controller.model.inventory import Inventory
from controller.northbound import serve, tls
from controller.northbound.api import create_app
from controller.northbound.serve import Server
from controller.northbound.tokens import Tokens
from controller.plugins import hooks
from controller.policy_file import PolicyFile
from controller.shell import LAST_WORDS_S, Shell
from controller.southbound.codec import Codec
from controller.southbound.nodes import Nodes
from controller.southbound.session import SessionContext
from controller.store import StoreUnusable
from controller.store.backup import Backups, put_in_place
from controller.store.sqlite import SqliteStore
from controller.telemetry import NodeTelemetry, StreamTally
from controller.traffic import Traffic
from dataplane import log, service_manager
from dataplane.host_api import TelemetryBatch
from dataplane.p4runtime import p4info

SWITCH_S = 0.001
"""For so long a thread that works has the interpreter to itself while the event loop waits."""
_log: structlog.typing.FilteringBoundLogger = structlog.get_logger("stitchd")


class StartAgain(Exception):
    """A backup waits beside the store."""


def run(config: Config) -> None:
    """Until SIGTERM or SIGINT. Raises StartAgain, ControllerError, ManifestInvalid or OSError, most in groups."""
    log.configure()
    sys.setswitchinterval(SWITCH_S)
    process.collect_seldom()
    process.give_memory_back()
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(_serve(config))
    _log.info("stopped", advice="nodes stay as they are, and so does what was acknowledged")


_REMEDY = (
    "Nothing was changed. Put back a copy that is whole (docs/lasting.md), or go on without what is lost: "
    "stitchd accept-loss --config FILE"
)


async def _serve(config: Config) -> None:
    """Until SIGTERM or SIGINT. Nodes stay as they are."""
    began = time.monotonic()
    identity = identities.load(config.domain, config.key_dir)
    tokens = Tokens.load(configuration.token(config.token_file), config.tokens_file)
    policy = PolicyFile(config.policy)
    if (api := tls.of_api(config)) is not None:
        tls.context(*api)  # what cannot be used is told before anything is open
    if (before := put_in_place(config.store)) is not None:
        _log.warning("store_restored", store=str(config.store), before=str(before))
    try:
        store = await SqliteStore.open(config.store)
    except StoreUnusable as error:
        raise StoreUnusable(f"{error}.\n{_REMEDY}") from error
    if store.put_back:
        _log.warning("store_put_back", store=str(config.store), advice="agreements are made anew")
    try:
        stored, _ = await store.load()
        records = [each.record for each in stored]
        allowed = policy.read()
        try:
            initial = reconcile.initial(records, config.domain, allowed)
            history = History.load(records)
        except ValueError as error:
            raise StoreUnusable(f"{config.store}: {error}; use the netstitch that wrote it") from error
        async with contextlib.aclosing(hooks.Plugins(hooks.installed(), user=config.plugin_user)) as asked:
            if lacking := await asked.examine():
                _log.warning("plugins_not_contained", lacking=list(lacking))
            traffic = Traffic(secrets.randbits(64))
            shell = Shell(
                *initial,
                journal=store,
                keys=identity,
                log=_log_line,
                plugins=asked,
                policy=policy,
                history=history,
                traffic=traffic,
            )
            backups = Backups(store, config.store, partial(_check, config, policy))
            await _run(config, shell, identity, tokens, backups, traffic, asked, began)
    finally:
        await store.close()


async def _run(
    config: Config,
    shell: Shell,
    identity: Identity,
    tokens: Tokens,
    backups: Backups,
    traffic: Traffic,
    asked: hooks.Plugins,
    began: float,
) -> None:
    tally = StreamTally()

    assessing = Assessing(traffic, _log, asked)

    def observe(node: str, batch: TelemetryBatch) -> None:
        tally.observe(node, batch)
        traffic.observe(node, batch)
        assessing.observe(node, batch)

    _cancel_at_signal()
    async with asyncio.TaskGroup() as tasks:
        nodes = Nodes(
            tasks,
            SessionContext(
                codec=Codec(p4info.load()),
                next_election_id=itertools.count(time.time_ns() // 1000).__next__,
                report=shell.report,
                observe=observe,
                domain=config.domain,
                credentials=_agent_credentials(config),
                tls=switch_tls(config.agent_tls) if config.agent_tls is not None else None,
            ),
        )
        neighbours = Neighbours(identity, tasks, deliver=shell.receive, report=shell.report, refused=_log_refusal)
        tasks.create_task(shell.run(neighbours, nodes), name="shell")
        collector = Collector(config.ipfix, _log) if config.ipfix is not None else None
        takers = [assessing.take, *([] if collector is None else [collector.take])]
        tasks.create_task(assessing.run(lambda: shell.state, shell.report), name="assurance")
        tasks.create_task(traffic.run(lambda: shell.state, *takers, failed=_log_traffic), name="traffic")
        if collector is not None:
            tasks.create_task(collector.run(), name="ipfix")
        if shell.state.inventory == Inventory():
            await seed.plant(shell, config.inventory, identity, _log)
        else:
            await seed.compare(shell, config.inventory, identity, config.key_dir, _log)
        await shell.load_policy(by=ourselves("start"))  # what was agreed under another one may not be allowed any more
        certificate = tls.of_api(config)
        own_certificates = _own_certificates(config, certificate)
        context = tls.context(*certificate) if certificate is not None else None

        def renew() -> None:
            if context is not None and certificate is not None:
                _renew(context, *certificate)
                own_certificates.update(_own_certificates(config, certificate))

        _reload_at_signal(shell, tasks, renew)
        eastwest_port = await neighbours.listen(config.eastwest)
        telemetry = NodeTelemetry(
            shell,
            nodes,
            neighbours,
            tally,
            traffic,
            store=config.store,
            certificates=own_certificates,
            collector=collector,
            assessing=assessing,
        )
        tasks.create_task(_start_again(backups), name="restart")
        app = create_app(shell, telemetry, tokens, config.domain, backups=backups)
        where = configuration.listen(config.listen, "listen")
        api = Server(app, _listening(where, config.listen), tls=context)
        tasks.create_task(api.run(), name="northbound")
        tasks.create_task(tokens.keep(), name="tokens")
        tasks.create_task(process.Collecting().run(api.busy), name="collecting")
        await api.started.wait()
        service_manager.ready()
        _log.info(
            "serving",
            domain=config.domain,
            listen=config.listen if where.path is not None else f"{where.host}:{api.port}",
            eastwest_port=eastwest_port,
            seconds=round(time.monotonic() - began, 3),
            **({"fingerprint": tls.fingerprint(certificate[0])} if certificate is not None else {}),
        )


def _own_certificates(config: Config, api: tuple[Path, Path] | None) -> dict[str, bytes]:
    files = {"api": api[0]} if api is not None else {}
    files |= {"agent_tls": config.agent_tls.certificate} if config.agent_tls is not None else {}
    return {name: file.read_bytes() for name, file in files.items()}


async def _start_again(backups: Backups) -> None:
    await backups.waiting.wait()
    await asyncio.sleep(LAST_WORDS_S)
    raise StartAgain


def _check(config: Config, policy: PolicyFile, records: Sequence[Record]) -> None:
    """Raises ValueError or ConfigInvalid where a controller of this domain could not begin with `records`."""
    state, _ = reconcile.initial(records, config.domain, policy.read())
    own = next((domain.name for domain in state.inventory.domains.values() if domain.own), "nobody")
    if own != config.domain:
        raise ValueError(f"it is of domain {own}, this is {config.domain}")


def _cancel_at_signal() -> None:
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("there is no task to cancel: call this from a coroutine")
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)


def _log_traffic(reason: str) -> None:
    _log.error("traffic_failed", reason=reason)


def _reload_at_signal(shell: Shell, tasks: asyncio.TaskGroup, renew: Callable[[], None]) -> None:
    """SIGHUP reads the policy file and the API's certificate again; what is wrong is logged, and stays as it was."""

    def reload() -> None:
        renew()
        tasks.create_task(_reload(shell), name="policy")

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)


def _renew(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    try:
        tls.renew(context, certificate, key)
        _log.info("certificate_loaded", fingerprint=tls.fingerprint(certificate))
    except ConfigInvalid as error:
        _log.error("certificate_not_loaded", reason=str(error))


async def _reload(shell: Shell) -> None:
    try:
        await shell.load_policy(by=ourselves("SIGHUP"))
    except Unavailable as error:
        _log.error("policy_not_loaded", reason=str(error))


def _listening(where: Listen, text: str) -> socket.socket:
    """Raises ConfigInvalid."""
    try:
        return serve.bound_at(where.path) if where.path is not None else serve.bound(where.host, where.port)
    except OSError as exc:
        raise ConfigInvalid(f"listen {text}: cannot listen there ({exc.strerror}); choose a free one") from exc


def _agent_credentials(config: Config) -> grpc.ChannelCredentials | None:
    if config.agent_tls is None:
        return None
    files_of = config.agent_tls
    try:
        files = (files_of.ca.read_bytes(), files_of.key.read_bytes(), files_of.certificate.read_bytes())
    except OSError as exc:
        raise ConfigInvalid(f"agent_tls: {exc.filename} cannot be read: {exc.strerror}") from exc
    credentials: grpc.ChannelCredentials = grpc.ssl_channel_credentials(*files)
    return credentials


def switch_tls(files: AgentTls) -> ssl.SSLContext:
    """For OpenFlow switches at `host:port`, with the same files as for agents."""
    try:
        context = ssl.create_default_context(cafile=files.ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(files.certificate, files.key)
    except (OSError, ssl.SSLError) as exc:
        raise ConfigInvalid(f"agent_tls: its files cannot be used: {exc.strerror}") from exc
    return context


def _log_line(level: str, event: str, fields: Mapping[str, str]) -> None:
    _log.log(logging.getLevelNamesMapping().get(level.upper(), logging.INFO), event, **fields)


def _log_refusal(who: str, reason: str) -> None:
    _log.warning("refused", peer=who, reason=reason)
