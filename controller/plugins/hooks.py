"""Plugins: code of others that is found by its entry point, and runs where it can do no harm.

    group (entry points)                  hook                    called by
    netstitch.front_ends                  read_manifests          `stitch apply -f FILE.NAME`, NAME being the plugin's
    netstitch.requirement_compilers       compile_requirements    stitchd, for each intent that is applied
    netstitch.negotiation_strategies      judge_offer             stitchd, for each offer of another domain
    netstitch.detectors                   find_unusual            stitchd, each second in which something passed

A plugin is loaded in a process of its own only (process.py), which is contained as far as the kernel and our rights
allow it (cage.py). Whatever it does there, it costs the intent or file that it was asked about, and its name is in the
reason.
"""

from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from typing import Annotated, Any

import msgspec
import pluggy

from controller.language.rule import THEN
from controller.language.shape import Flaws
from controller.model.finding import Cause, Finding, Reason
from controller.model.plugin import Plugin
from controller.model.resource import Resource
from controller.model.rule import Added, Then
from controller.plugins.process import DEADLINE_S, NOTHING, USER, PluginFailed, TooSlow, Worker

PROJECT = "netstitch"
FRONT_ENDS, COMPILERS = "netstitch.front_ends", "netstitch.requirement_compilers"
STRATEGIES, DETECTORS = "netstitch.negotiation_strategies", "netstitch.detectors"
GROUPS = (FRONT_ENDS, COMPILERS, STRATEGIES, DETECTORS)
HOOKS = {
    FRONT_ENDS: "read_manifests",
    COMPILERS: "compile_requirements",
    STRATEGIES: "judge_offer",
    DETECTORS: "find_unusual",
}
"""Groups that something calls."""
GIVEN_UP = 3
"""So often a plugin may miss its deadline before it is not asked again in the same request."""
REASON_LENGTH = 300
"""Of what a strategy says why: other domains get to read it."""
FOUND_MAX = 64
"""Findings of one answer."""
PAUSE_S = 60.0
"""So long a detector is not asked that has failed GIVEN_UP times in a row."""

hookimpl = pluggy.HookimplMarker(PROJECT)
"""For a plugin's functions."""
_hookspec = pluggy.HookspecMarker(PROJECT)


class Hooks:
    """What a plugin may implement. Arguments and answers are what JSON can hold."""

    @_hookspec(firstresult=True)
    def read_manifests(self, text: str, file: str) -> list[dict[str, Any]] | None:
        """The manifests of a text: `{"line": where it stands (from 1), "manifest": {...}}` each. Raises ValueError
        saying what is wrong with the text."""

    @_hookspec(firstresult=True)
    def compile_requirements(self, intent: dict[str, Any]) -> dict[str, Any] | None:
        """What is required beyond an intent (its manifest), written as the `then` of a rule; None: nothing."""

    @_hookspec(firstresult=True)
    def judge_offer(self, terms: dict[str, Any]) -> str | None:
        """Why we refuse what another domain offers (`model.agreement.Terms`, as JSON), in words that it may read;
        None: we do not mind. Asked of every offer, renewals too; its signature and our policy are checked besides."""

    @_hookspec(firstresult=True)
    def find_unusual(self, windows: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
        """What is unusual in an interval. A window is what one source sent in it (`source`, `packets`, `bytes`,
        `reverse_packets`, `reverse_bytes`, `flows`, `new_flows`, `unanswered`, `peers`, `ports`, `owners`). A finding
        is `{"source": of a window, "text": words, "p": how often what is usual looks so}`, with a `cause` of
        `model.finding.Cause` where one fits, and at most three `reasons`, `{"feature", "observed", "usual"}`."""


def installed() -> tuple[Plugin, ...]:
    """From the metadata of what is installed; nothing is loaded. By group and name."""
    plugins: dict[tuple[str, str], Plugin] = {}
    for distribution in metadata.distributions():
        for entry in distribution.entry_points:
            if entry.group in GROUPS:
                plugin = Plugin(
                    name=entry.name,
                    group=entry.group,
                    version=distribution.version,
                    origin=f"{distribution.name} {entry.value}",
                )
                plugins.setdefault((entry.group, entry.name), plugin)
    return tuple(plugins[key] for key in sorted(plugins))


class Plugins:
    """All plugins that are installed; asks those that a controller asks, and knows what became of them."""

    def __init__(self, plugins: Sequence[Plugin], *, user: str = USER, deadline_s: float = DEADLINE_S) -> None:
        def workers(group: str) -> list[Worker]:
            return [Worker(plugin, user=user, deadline_s=deadline_s) for plugin in plugins if plugin.group == group]

        self._plugins = tuple(plugins)
        self._user = user
        self._compilers, self._strategies = workers(COMPILERS), workers(STRATEGIES)
        self._detectors = workers(DETECTORS)
        self._misses: dict[Plugin, tuple[int, float]] = {}
        """Of detectors: how often in a row each has failed, and when it did last."""
        self._failures: dict[Plugin, str] = {}
        self._lacking: tuple[str, ...] | None = None

    async def examine(self) -> tuple[str, ...]:
        """What keeps our plugins from being contained; nothing where there are none that are asked here."""
        if not (self._compilers or self._strategies or self._detectors):
            return ()
        try:
            self._lacking = await Worker(NOTHING, user=self._user).examine()
        except PluginFailed as error:
            self._lacking = (str(error),)
        return self._lacking

    @property
    def compiling(self) -> bool:
        return bool(self._compilers)

    @property
    def judging(self) -> bool:
        return bool(self._strategies)

    @property
    def detecting(self) -> bool:
        return bool(self._detectors)

    async def find(self, windows: Sequence[Mapping[str, Any]], now_s: float) -> tuple[Finding, ...]:
        """What detectors of others say of an interval. Who fails has found nothing, and others are asked."""
        found: list[Finding] = []
        for worker in self._detectors:
            misses, missed_s = self._misses.get(worker.plugin, (0, 0.0))
            if misses >= GIVEN_UP and now_s - missed_s < PAUSE_S:
                continue
            try:
                found += _read_findings(await worker.call(windows=windows), worker.plugin.name, windows, now_s)
            except PluginFailed as error:
                self._failures[worker.plugin] = str(error)
                self._misses[worker.plugin] = (misses + 1, now_s)
            else:
                self._failures[worker.plugin] = ""
                self._misses.pop(worker.plugin, None)
        return tuple(found)

    async def compile(self, intents: Sequence[Mapping[str, Any]]) -> list[tuple[Added, ...]]:
        """What each says of each intent (as a manifest). A failure is that intent's; the others are asked all the
        same, unless the plugin hangs again and again."""
        added_by_intent: list[list[Added]] = [[] for _ in intents]
        for worker in self._compilers:
            hung = 0
            for intent, added in zip(intents, added_by_intent, strict=True):
                if hung >= GIVEN_UP:
                    failure = f"it was not asked: it hung {hung} times in this request"
                    added.append(Added(plugin=worker.plugin.name, failure=failure))
                    continue
                addition, slow = await self._compile(worker, intent)
                hung += slow
                added += [addition] if addition is not None else []
        return [tuple(additions) for additions in added_by_intent]

    async def _compile(self, worker: Worker, intent: Mapping[str, Any]) -> tuple[Added | None, bool]:
        """What it says, and whether it hung."""
        name, failure, slow = worker.plugin.name, "", False
        then: Then | None = None
        try:
            then = _read_then(await worker.call(intent=intent), name)
        except PluginFailed as error:
            failure, slow = str(error), isinstance(error, TooSlow)
        self._failures[worker.plugin] = failure
        if failure:
            return Added(plugin=name, failure=failure), slow
        return (Added(plugin=name, then=then) if then is not None else None), False

    async def judge(self, terms: Mapping[str, Any]) -> tuple[str, str]:
        """Why what another domain offers is refused (empty: nobody minds), in words for that domain; and what failed,
        in words for ours. Who fails to answer refuses: what it would have said is not known."""
        for worker in self._strategies:
            name = worker.plugin.name
            try:
                said = _read_judgement(await worker.call(terms=terms), name)
            except PluginFailed as error:
                self._failures[worker.plugin] = str(error)
                return f"plugin {name}, which judges offers, does not work", str(error)
            self._failures[worker.plugin] = ""
            if said:
                return f"{said} (plugin {name})", ""
        return "", ""

    def resources(self) -> list[Resource]:
        """For `stitch get plugins`."""
        resources = []
        for plugin in self._plugins:
            status: dict[str, Any] = {"phase": "Ready" if plugin.group in HOOKS else "NotCalled"}
            if self._failures.get(plugin):
                status = {"phase": "Failed", "reason": self._failures[plugin]}
            if self._lacking is not None and plugin.group in (COMPILERS, STRATEGIES, DETECTORS):
                status |= {"contained": not self._lacking}
                status |= {"lacking": list(self._lacking)} if self._lacking else {}
            spec = {"group": plugin.group, "version": plugin.version, "origin": plugin.origin}
            resources.append(Resource(kind="Plugin", metadata={"name": plugin.name}, spec=spec, status=status))
        return resources

    async def aclose(self) -> None:
        for worker in (*self._compilers, *self._strategies, *self._detectors):
            await worker.close()


def _read_judgement(answer: object, name: str) -> str:
    """Raises PluginFailed for what is neither nothing nor a reason."""
    if answer is None:
        return ""
    if isinstance(answer, str) and answer.strip() and answer.isprintable():
        return answer[:REASON_LENGTH]
    raise PluginFailed(f"plugin {name} answered nonsense: expected a reason in words or nothing, found {answer!r:.100}")


class _Found(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    source: Annotated[str, msgspec.Meta(max_length=64)]
    text: Annotated[str, msgspec.Meta(min_length=1, max_length=REASON_LENGTH)]
    p: Annotated[float, msgspec.Meta(gt=0, le=1)]
    cause: Cause = Cause.UNUSUAL
    reasons: Annotated[tuple[Reason, ...], msgspec.Meta(max_length=3)] = ()


def _read_findings(answer: object, name: str, windows: Sequence[Mapping[str, Any]], now_s: float) -> Iterator[Finding]:
    """Raises PluginFailed for what is no finding about one of the windows."""
    owners = {window["source"]: tuple(window["owners"]) for window in windows}
    try:
        said = msgspec.convert(answer if answer is not None else [], list[_Found])
    except msgspec.ValidationError as exc:
        raise PluginFailed(f"plugin {name} answered nonsense: {exc}") from exc
    if len(said) > FOUND_MAX or any(each.source not in owners or not each.text.isprintable() for each in said):
        raise PluginFailed(f"plugin {name} answered nonsense: too much, of nobody, or no words")
    for each in said:
        yield Finding(
            at_s=now_s,
            cause=each.cause,
            entity=f"sources/{each.source}",
            detectors=(f"plugin {name}",),
            p=each.p,
            reasons=each.reasons,
            windows=((now_s - 1.0, now_s),),
            owners=owners[each.source],
            source=each.source,
            text=each.text,
        )


def _read_then(answer: object, name: str) -> Then | None:
    """Raises PluginFailed for what could not stand in a rule."""
    if answer is None:
        return None
    flaws: Flaws = []
    then = THEN.read(answer, (), flaws)
    if isinstance(then, Then):
        return then
    where = ".".join(map(str, flaws[0].path))
    raise PluginFailed(f"plugin {name} answered nonsense: {f'{where}: ' if where else ''}{flaws[0].message}")
