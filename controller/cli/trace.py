"""`stitch trace`: what becomes of a packet, from domain to domain as far as there are controllers to ask."""

import dataclasses
import json
import re
from typing import Any

from controller.cli import config
from controller.cli.client import Client
from controller.cli.errors import AnswerIsNo, CommandFailed, InputInvalid
from controller.cli.render import Tree, cell

Json = dict[str, Any]
MAX_DOMAINS = 32
_TELLING = frozenset({"local_sid", "flow_policy", "lease"})
"""Tables whose entries are shown: by what right a packet goes on. All are in the JSON."""
_BEHIND = re.compile(r"(?P<name>.+):(?:(?P<port>[0-9]{1,5})(?:/(?P<protocol>[a-z]+))?|(?P<alone>tcp|udp|icmp))")


def parse_destination(text: str) -> Json:
    """`DST[:PORT[/PROTO]]` or `DST:PROTO`; an IPv6 address with a port stands in brackets. Raises InputInvalid."""
    import ipaddress

    try:
        return {"destination": str(ipaddress.ip_address(text.strip("[]")))}
    except ValueError:
        pass
    match = _BEHIND.fullmatch(text)
    if match is None:
        if ":" in text:
            raise InputInvalid(f"{text!r}: expected DST, DST:PORT or DST:PORT/PROTO, such as analytics-y:443/tcp")
        return {"destination": text}
    port, protocol = int(match["port"] or 0), match["protocol"] or match["alone"] or "tcp"
    if protocol not in ("tcp", "udp", "icmp"):
        raise InputInvalid(f"{text!r}: protocol {protocol!r} is none of tcp, udp, icmp")
    if match["port"] is not None and (not 0 < port < 65536 or protocol == "icmp"):
        raise InputInvalid(f"{text!r}: expected a port from 1 to 65535, and tcp or udp with it")
    return {"destination": match["name"].strip("[]"), "port": port, "protocol": protocol}


def follow(client: Client, choice: config.Choice, asked: Json) -> Json:
    """One trace of all domains: the hops of each in turn, and the last one's verdict."""
    trace = client.trace(asked)
    hops = list(trace["hops"])
    last = trace
    for _ in range(MAX_DOMAINS):
        onward = last["onward"]
        if onward is None:
            break
        try:
            last = _next(choice, onward["domain"]).trace({"border": onward["border"], "frame": onward["frame"]})
        except CommandFailed as error:
            last = last | {"text": f"{last['text']}; domain {onward['domain']} cannot be asked: {error}"}
            break
        hops += last["hops"]
    return last | {"packet": trace["packet"], "hops": hops}


def _next(choice: config.Choice, domain: str) -> Client:
    if choice.server is not None:
        raise AnswerIsNo("--server names one controller only")
    return Client(config.target(dataclasses.replace(choice, domain=domain, token_file=None)))


def show_trace(trace: Json, output: Tree) -> None:
    """Raises AnswerIsNo where the packet is dropped."""
    if output is Tree.JSON:
        print(json.dumps(trace, indent=2, ensure_ascii=False))
    else:
        print(cell(trace["packet"]))
        for hop in trace["hops"]:
            unsure = "" if hop["confirmed"] else " (not confirmed)"
            print(cell(f"{hop['domain']} {hop['node']}, from {hop['ingress']}: {hop['result']}{unsure}"))
            for step in hop["steps"]:
                if step["entry"].split("/")[1] in _TELLING:
                    print("   " + cell(f"{step['entry']}: {step['text']} ({step['owner']})"))
            if hop["segments"]:
                print(
                    "   "
                    + cell(f"encapsulated, segments {' '.join(hop['segments'])}, sent as {' '.join(hop['containers'])}")
                )
        print(cell(f"{trace['verdict']} {trace['text']}"))
    if trace["verdict"] == "dropped":
        raise AnswerIsNo(f"dropped {trace['text']}")
