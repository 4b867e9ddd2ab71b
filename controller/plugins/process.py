"""One plugin in its process (controller.plugins.cage), and how it is asked."""

import asyncio
import contextlib
import itertools
import os
import pwd
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec

from controller import json_fields
from controller.model.plugin import Plugin
from controller.plugins import cage, limits
from dataplane.bounds import ManyWords
from dataplane.decoding import from_json

START_S, DEADLINE_S = 20.0, 2.0
"""For a plugin to be loaded, and for each answer."""
END_S, END_TRIES = 5.0, 500
"""For what was killed to be gone."""
ANSWER_BYTES, LARGE_BYTES = 16 << 20, 64 << 10
"""Of an answer at most; and from which on it is not read in the event loop."""
ERROR_MAX = 1000
"""Characters of what a plugin says why it failed."""
USER = "nobody"
NOTHING = Plugin(name="", group="", version="", origin="")
"""In whose place nothing is loaded: of use to see what would contain it."""
_serials = itertools.count(1)


class PluginFailed(Exception):
    """It raised, hung, died, or answered what cannot be used. The text names it."""


class TooSlow(PluginFailed):
    """It hung."""


class Said(msgspec.Struct, frozen=True):
    """A line of a plugin's process."""

    answer: Any = None
    error: str | None = None
    lacking: ManyWords = ()


def read(line: bytes) -> Said:
    """Raises ValueError where it is none, or has too much in it."""
    if json_fields.values(line) > json_fields.VALUES_MAX:
        raise ValueError(f"more than {json_fields.VALUES_MAX} values")
    return from_json(line, Said)


class Worker:
    """A plugin in its process, which is started when it is first needed, and again after it was killed."""

    def __init__(
        self, plugin: Plugin, *, user: str = USER, start_s: float = START_S, deadline_s: float = DEADLINE_S
    ) -> None:
        self.plugin = plugin
        self.lacking: tuple[str, ...] | None = None
        """What keeps it from being contained; None: not known yet."""
        self._user = user
        self._start_s = start_s
        self._deadline_s = deadline_s
        self._process: asyncio.subprocess.Process | None = None
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._groups: limits.Groups = []
        self._turn = asyncio.Lock()

    async def call(self, **arguments: object) -> Any:
        """Its answer. Raises PluginFailed."""
        async with self._turn:
            try:
                if self._process is not None and self._process.returncode is not None:
                    await self._kill()  # it ended while nobody asked it
                if self._process is None:
                    await self._start()
                    await self._answer(None, self._start_s, "to load")
                return await self._answer(arguments, self._deadline_s, "to answer")
            except asyncio.CancelledError:
                await self._kill()
                raise

    async def examine(self) -> tuple[str, ...]:
        """What of its containment this kernel, or what we may do here, does not give. Raises PluginFailed."""
        async with self._turn:
            await self._start()
            await self._kill()
            return self.lacking or ()

    async def close(self) -> None:
        async with self._turn:
            await self._kill()

    async def _start(self) -> None:
        self._groups = limits.groups(next(_serials))
        spec = msgspec.json.encode(_spec(self.plugin, self._user, self._groups)).decode()
        ours, theirs = socket.socketpair()  # no pipes: asyncio waits until a process and all that holds its pipes end
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", "-B", cage.__file__, spec),
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=asyncio.subprocess.DEVNULL,
                env={},
                cwd="/",
                start_new_session=True,  # so that what it starts is killed with it
            )
        self._streams = await asyncio.open_connection(sock=ours, limit=ANSWER_BYTES)
        said = await self._line(None, self._start_s, "to be contained")
        self.lacking = said.lacking

    async def _answer(self, arguments: Mapping[str, object] | None, deadline_s: float, what: str) -> Any:
        """`arguments` None: only waits until it is loaded."""
        said = await self._line(arguments, deadline_s, what)
        if said.error is not None:
            if arguments is None:
                await self._kill()
            raise PluginFailed(f"{self._name} {said.error[:ERROR_MAX]}")
        return said.answer

    async def _line(self, arguments: Mapping[str, object] | None, deadline_s: float, what: str) -> Said:
        if self._streams is None:
            raise PluginFailed(f"{self._name} has no process")
        reader, writer = self._streams
        line = b""
        try:
            async with asyncio.timeout(deadline_s):
                if arguments is not None:
                    writer.write(msgspec.json.encode(arguments) + b"\n")
                    await writer.drain()
                line = await reader.readline()
        except TimeoutError as exc:
            await self._kill()
            raise TooSlow(f"{self._name} took more than {deadline_s:g} s {what} and was killed") from exc
        except ConnectionError:
            pass  # it ended
        except ValueError as exc:  # a line beyond the limit
            await self._kill()
            raise PluginFailed(f"{self._name} failed: {exc}") from exc
        if not line:
            status = await self._kill()
            raise PluginFailed(f"{self._name} ended by itself (status {status})")
        try:
            return await asyncio.to_thread(read, line) if len(line) > LARGE_BYTES else read(line)
        except ValueError as exc:
            await self._kill()
            raise PluginFailed(f"{self._name} answered no JSON: {exc}") from exc

    async def _kill(self) -> int | None:
        """With all that it started. Its status; one that has ended by itself is given a moment to say it."""
        process, self._process = self._process, None
        streams, self._streams = self._streams, None
        made, self._groups = self._groups, []
        if streams is not None:
            streams[1].transport.abort()
        if process is None:
            return None
        if streams is not None and streams[0].at_eof():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), END_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        status = await process.wait()
        for _ in range(END_TRIES):
            if limits.end(made):
                break
            await asyncio.sleep(END_S / END_TRIES)  # what is killed takes a moment to go
        return status

    @property
    def _name(self) -> str:
        return str(self.plugin) if self.plugin != NOTHING else "the containment of plugins"


def _spec(plugin: Plugin, user: str, made: limits.Groups) -> dict[str, Any]:
    """What controller.plugins.cage is told."""
    modules = [*_places()]
    own = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "dataplane")]
    try:
        entry = pwd.getpwnam(user)
        uid, gid = entry.pw_uid, entry.pw_gid
    except KeyError:
        uid = gid = 65534  # nobody's, as the kernel has it
    return {
        "parent": os.getpid(),
        "cgroup": made,
        "paths": [sys.base_prefix, sys.prefix, *modules, *own, *_source(plugin)],
        "modules": [*modules, str(Path(__file__).parents[2])],
        "uid": uid,
        "gid": gid,
        "group": plugin.group,
        "name": plugin.name,
    }


def _places() -> Iterator[str]:
    """Where installed packages are. Not all of sys.path: where stitchd was started may be in it."""
    inside = (sys.prefix, sys.base_prefix)
    for place in dict.fromkeys(sys.path):
        if place and Path(place).is_dir() and (place.startswith(inside) or any(Path(place).glob("*.dist-info"))):
            yield place


def _source(plugin: Plugin) -> list[str]:
    """Of a plugin that is installed to be worked on (`pip install -e`): its directory."""
    try:
        text = metadata.distribution(plugin.origin.partition(" ")[0]).read_text("direct_url.json")
    except (metadata.PackageNotFoundError, ValueError):
        return []
    url = urlsplit(str(msgspec.json.decode(text).get("url", ""))) if text else urlsplit("")
    return [unquote(url.path)] if url.scheme == "file" else []
