"""`stitchd`: the controller of one domain. What needs no controller (keys, a wrong configuration) loads none."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import msgspec

from controller import config as configuration
from controller.config import Config
from controller.eastwest import agent_keys
from controller.eastwest import identity as identities
from controller.errors import ConfigInvalid, ControllerError
from controller.language.fault import ManifestInvalid
from controller.northbound import tls
from controller.store.backup import accept_loss
from dataplane.visible import visible

EXIT_FAILED = 1
EXIT_INVALID = 2


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
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
            return _serve(configuration.load(options.config))
    except (ConfigInvalid, ManifestInvalid) as error:
        return _complain(error, EXIT_INVALID)
    except (ControllerError, OSError) as error:
        return _complain(error, EXIT_FAILED)
    return 0


def _serve(config: Config) -> int:
    from controller import serving

    status = 0
    try:
        serving.run(config)
    except* (ConfigInvalid, ManifestInvalid) as group:
        status = _complain(group, EXIT_INVALID)
    except* (ControllerError, OSError) as group:
        status = _complain(group, EXIT_FAILED)
    except* serving.StartAgain:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    return status


def _fingerprint(config: Config) -> str:
    certificate = tls.of_api(config)
    if certificate is None:
        raise ConfigInvalid(f"the API of {config.domain} has no certificate: there is no `tls` in its configuration")
    return tls.fingerprint(certificate[0])


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


def _complain(error: BaseException, status: int) -> int:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            _complain(each, status)
    else:
        print(visible(f"stitchd: {error}"), file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
