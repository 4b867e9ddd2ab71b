"""`stitchd`: the controller of one domain. The only place where the parts are put together."""

import argparse
import asyncio
import contextlib
import itertools
import logging
import os
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

import grpc
import msgspec
import structlog

from controller import config as configuration
from controller import reconcile, seed
from controller.config import Config, Listen
from controller.eastwest import agent_keys
from controller.eastwest import identity as identities
from controller.eastwest.identity import Identity
from controller.eastwest.neighbours import Neighbours
from controller.errors import ConfigInvalid, ControllerError, Unavailable
from controller.history import History
from controller.language.manifest import ManifestInvalid
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
from controller.southbound.node import SessionContext
from controller.southbound.nodes import Nodes
from controller.store import StoreUnusable
from controller.store.backup import Backups, accept_loss, put_in_place
from controller.store.sqlite import SqliteStore
from controller.telemetry import NodeTelemetry, StreamTally
from dataplane import log, service_manager
from dataplane.p4runtime import p4info
from dataplane.visible import visible

SWITCH_S = 0.001
"""For so long a thread that works has the interpreter to itself while the event loop waits."""
EXIT_FAILED = 1
EXIT_INVALID = 2
_log: structlog.typing.FilteringBoundLogger = structlog.get_logger("stitchd")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    status = 0
    try:
        if options.command == "keygen":
            print(_keygen(options.domain, options.key_dir, options.agent, options.address))
        elif options.config is None:
            raise ConfigInvalid("--config FILE is missing (or use `stitchd keygen`)")
        elif options.command == "fingerprint":
            print(_fingerprint(configuration.load(options.config)))
        elif options.command == "accept-loss":
            print(_accept_loss(configuration.load(options.config)))
        else:
            log.configure()
            sys.setswitchinterval(SWITCH_S)
            with contextlib.suppress(asyncio.CancelledError):
                asyncio.run(_serve(configuration.load(options.config)))
            _log.info("stopped", advice="nodes stay as they are, and so does what was acknowledged")
    except* (ConfigInvalid, ManifestInvalid) as group:
        _complain(group)
        status = EXIT_INVALID
    except* (ControllerError, OSError) as group:
        _complain(group)
        status = EXIT_FAILED
    except* _StartAgain:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    return status


_REMEDY = (
    "Nothing was changed. Put back a copy that is whole (docs/lasting.md), or go on without what is lost: "
    "stitchd accept-loss --config FILE"
)


class _StartAgain(Exception):
    """A backup waits beside the store."""


async def _serve(config: Config) -> None:
    """Until SIGTERM or SIGINT. Nodes stay as they are."""
    began = time.monotonic()
    identity = identities.load(config.domain, config.key_dir)
    tokens = Tokens.load(configuration.token(config.token_file), config.tokens_file)
    policy = PolicyFile(config.policy)
    if (api := _api_certificate(config)) is not None:
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
            shell = Shell(
                *initial,
                journal=store,
                keys=identity,
                log=_log_line,
                plugins=asked,
                policy=policy,
                history=history,
            )
            backups = Backups(store, config.store, partial(_check, config, policy))
            await _run(config, shell, identity, tokens, backups, began)
    finally:
        await store.close()


async def _run(
    config: Config, shell: Shell, identity: Identity, tokens: Tokens, backups: Backups, began: float
) -> None:
    tally = StreamTally()
    _cancel_at_signal()
    async with asyncio.TaskGroup() as tasks:
        nodes = Nodes(
            tasks,
            SessionContext(
                codec=Codec(p4info.load()),
                next_election_id=itertools.count(time.time_ns() // 1000).__next__,
                report=shell.report,
                observe=tally.observe,
                credentials=_agent_credentials(config),
            ),
        )
        neighbours = Neighbours(identity, tasks, deliver=shell.receive, report=shell.report, refused=_log_refusal)
        tasks.create_task(shell.run(neighbours, nodes), name="shell")
        if shell.state.inventory == Inventory():
            await seed.plant(shell, config.inventory, identity, _log)
        else:
            await seed.compare(shell, config.inventory, identity, config.key_dir, _log)
        await shell.load_policy(by=ourselves("start"))  # what was agreed under another one may not be allowed any more
        certificate = _api_certificate(config)
        own_certificates = _own_certificates(config, certificate)
        context = tls.context(*certificate) if certificate is not None else None

        def renew() -> None:
            if context is not None and certificate is not None:
                _renew(context, *certificate)
                own_certificates.update(_own_certificates(config, certificate))

        _reload_at_signal(shell, tasks, renew)
        eastwest_port = await neighbours.listen(config.eastwest)
        telemetry = NodeTelemetry(shell, nodes, neighbours, tally, store=config.store, certificates=own_certificates)
        tasks.create_task(_start_again(backups), name="restart")
        app = create_app(shell, telemetry, tokens, config.domain, backups=backups)
        where = configuration.listen(config.listen, "listen")
        api = Server(app, _listening(where, config.listen), tls=context)
        tasks.create_task(api.run(), name="northbound")
        tasks.create_task(tokens.keep(), name="tokens")
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
    raise _StartAgain


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


def _api_certificate(config: Config) -> tuple[Path, Path] | None:
    """Certificate and key of the API, made where it has none of its own; None: it is not encrypted. Raises
    ConfigInvalid."""
    if config.tls is None:
        return None
    if config.tls.certificate is not None and config.tls.key is not None:
        return config.tls.certificate, config.tls.key
    return tls.generated(config.key_dir, configuration.listen(config.listen, "listen").host)


def _fingerprint(config: Config) -> str:
    certificate = _api_certificate(config)
    if certificate is None:
        raise ConfigInvalid(f"the API of {config.domain} has no certificate: there is no `tls` in its configuration")
    return tls.fingerprint(certificate[0])


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


def _accept_loss(config: Config) -> str:
    lost = accept_loss(config.store)
    if not lost:
        return "nothing is lost"
    return "\n".join((*lost, "The next start goes on with the rest, and makes all agreements anew."))


def _keygen(domain: str, key_dir: Path, agent: str, addresses: Sequence[str]) -> str:
    if agent:
        made = agent_keys.make(domain, key_dir, agent, addresses)
        return msgspec.json.format(msgspec.json.encode(made)).decode()
    identity = identities.keygen(domain, key_dir)
    public = {"domain": domain, "key": identity.public_key, "certificate": identity.root_certificate}
    return msgspec.json.format(msgspec.json.encode(public)).decode()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="stitchd", description="The controller of one domain.")
    parser.add_argument("--version", action="version", version=f"stitchd {version('netstitch')}")
    parser.add_argument("--config", type=Path, metavar="FILE", help="JSON: domain, inventory, policy, store, ...")
    commands = parser.add_subparsers(dest="command")
    keygen = commands.add_parser("keygen", help="make the domain's keys where they are missing; print the public ones")
    keygen.add_argument("--domain", required=True, metavar="NAME")
    keygen.add_argument("--key-dir", required=True, type=Path, metavar="DIR")
    keygen.add_argument(
        "--agent", default="", metavar="NAME", help="make a TLS key and certificate of this agent instead, and ours"
    )
    keygen.add_argument(
        "--address", action="append", default=[], help="where the controller reaches the agent; may be repeated"
    )
    for name, what in (
        ("fingerprint", "print what clients pin: of the API's certificate"),
        ("accept-loss", "have the next start go on with what a damaged store still has; print what is lost"),
    ):
        shown = commands.add_parser(name, help=what)
        shown.add_argument("--config", type=Path, metavar="FILE", default=argparse.SUPPRESS)
    return parser


def _log_line(level: str, event: str, fields: Mapping[str, str]) -> None:
    _log.log(logging.getLevelNamesMapping().get(level.upper(), logging.INFO), event, **fields)


def _log_refusal(who: str, reason: str) -> None:
    _log.warning("refused", peer=who, reason=reason)


def _complain(group: BaseExceptionGroup[BaseException]) -> None:
    for exc in group.exceptions:
        if isinstance(exc, BaseExceptionGroup):
            _complain(exc)
        else:
            print(visible(f"stitchd: {exc}"), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
