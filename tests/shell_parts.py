"""What a shell is put together with, for tests: nodes and neighbours that answer at once, and a run that can be cut.

`python tests/shell_parts.py DIRECTORY COMMIT OUT`: runs domain shop of the federation in DIRECTORY over its own store,
applies inventory and intent, and kills itself, hard, right after the COMMITth commit (0: never) and before anything
that follows from it. Writes to OUT what nodes and neighbours were last told.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from federation import intent
from node_fake import FakeHost, FakeNode

from controller import reconcile
from controller.eastwest.identity import load
from controller.language.manifest import applied, parse, read
from controller.language.policy import parse_policy
from controller.model.agreement import Envelope
from controller.model.event import Event, MessageSent, NodeDescribed, NodeSynced, Record, SyncNode, Tick
from controller.model.inventory import Domain
from controller.model.node_entries import NodeState
from controller.shell import Shell
from controller.store.sqlite import SqliteStore
from dataplane.host_api import HostState
from topologies import domain_files, topology_file

NOW_S = 1_800_000_000.0
TURNS = 10
"""Of the event loop, until what a fake was told is in the queue."""


class Outcome(msgspec.Struct):
    """What the world was last told, and how often the store was written."""

    states: dict[str, tuple[tuple[str, ...], HostState]]
    """Entries as they print: packed ones mean something in their own process only."""
    messages: dict[str, Envelope]
    commits: int


@dataclass
class FakeTargets:
    """Nodes that are always there and do at once what they shall."""

    shell: Shell
    tasks: asyncio.TaskGroup
    hosts: Mapping[str, FakeHost]
    states: dict[str, NodeState] = field(default_factory=dict)
    syncs: list[SyncNode] = field(default_factory=list)

    def connect(self, node: str, agent: str) -> None:
        self.tasks.create_task(self._describe(node))

    def disconnect(self, node: str) -> None:
        self.states.pop(node, None)

    def sync(self, wanted: SyncNode) -> None:
        self.syncs.append(wanted)
        self.states[wanted.node] = wanted.state
        synced = NodeSynced(node=wanted.node, generation=wanted.generation, writes=1)
        self.tasks.create_task(self.shell.report(synced))

    async def _describe(self, node: str) -> None:
        await self.shell.report(NodeDescribed(node=node, description=await self.hosts[node].describe()))


@dataclass
class FakeNeighbours:
    """Domains that take every message and never answer."""

    shell: Shell
    tasks: asyncio.TaskGroup
    domains: Mapping[str, Domain] = field(default_factory=dict)
    messages: dict[str, Envelope] = field(default_factory=dict)

    def set_domains(self, domains: Mapping[str, Domain]) -> None:
        self.domains = domains

    def send(self, peer: str, message_id: str, message: Envelope) -> None:
        self.messages[message_id] = message
        self.tasks.create_task(self.shell.report(MessageSent(peer=peer, message_id=message_id)))


@dataclass
class CutJournal:
    """The real store; the process ends right after commit number `cut`."""

    store: SqliteStore
    cut: int = 0
    commits: int = 0

    async def commit(self, records: Sequence[Record]) -> int:
        revision = await self.store.commit(records)
        self.commits += 1
        if self.commits == self.cut:
            os.kill(os.getpid(), signal.SIGKILL)
        return revision


class MemoryJournal:
    """Stores what it is given at once, and forgets it."""

    commits = 0

    async def commit(self, records: Sequence[Record]) -> int:
        self.commits += 1
        return self.commits


def hosts(directory: Path) -> dict[str, FakeHost]:
    topology = topology_file.load(topology_file.find("three-domains"))
    hosts_by_node = {}
    for node in topology.nodes:
        config = domain_files.agent_config(topology, node, str(directory / node.name))
        hosts_by_node[node.name] = FakeNode(node.name, directory / node.name, config.ports, config.borders).host
    return hosts_by_node


def ignore(level: str, event: str, fields: Mapping[str, str]) -> None:
    """These runs need no log."""


async def run(directory: Path, cut: int) -> Outcome:
    own = directory / "shop"
    inventory = parse((own / "inventory.yaml").read_bytes(), "inventory.yaml")
    manifests, problems = read([intent()])
    assert not problems
    store = await SqliteStore.open(own / "store.sqlite")
    try:
        journal = CutJournal(store, cut)
        records = [stored.record for stored in (await store.load())[0]]
        policy = parse_policy((own / "policy.yaml").read_bytes(), "policy.yaml")
        state, effects = reconcile.initial(records, "shop", policy)
        keys = load("shop", own / "keys")
        shell = Shell(state, effects, journal=journal, keys=keys, log=ignore, now_s=lambda: NOW_S)
        async with asyncio.TaskGroup() as tasks:
            targets = FakeTargets(shell, tasks, hosts(directory))
            neighbours = FakeNeighbours(shell, tasks)
            running = tasks.create_task(shell.run(neighbours, targets))
            for applying in (tuple(applied(document) for document in inventory), manifests):
                answer = await shell.apply_values(applying)
                assert not answer.problems and not answer.conflict, answer
            await quiet(shell)
            running.cancel()
    finally:
        await store.close()
    states = {name: (tuple(sorted(map(repr, state.entries))), state.host) for name, state in targets.states.items()}
    return Outcome(states=states, messages=neighbours.messages, commits=journal.commits)


async def quiet(shell: Shell) -> None:
    """Until only the clock could make anything happen: the fakes answer at once, so where nothing came between two
    events of ours, nothing is under way."""
    seen = -1
    while (events := _events(shell)) != seen:
        seen = events
        for _ in range(TURNS):
            await asyncio.sleep(0)
        await shell.report(Tick())
        await shell.quiet()


def _events(shell: Shell) -> int:
    kinds = {kind.__name__ for kind in Event.__args__} - {"Tick"}
    return sum(shell.counts[kind] for kind in kinds)


if __name__ == "__main__":
    outcome = asyncio.run(run(Path(sys.argv[1]), int(sys.argv[2])))
    Path(sys.argv[3]).write_bytes(msgspec.json.encode(outcome))
