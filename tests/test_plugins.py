"""Plugins: the example as its own package, installed; and those that misbehave, each in its own way."""

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from federation import Federation, intent, small_intent
from waiting import until

from controller.model.finding import Cause
from controller.model.plugin import Plugin
from controller.plugins import cage, hooks, limits
from controller.plugins.hooks import COMPILERS, DETECTORS, FRONT_ENDS, STRATEGIES, Plugins
from controller.plugins.process import PluginFailed, Worker

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "docs" / "examples" / "netstitch-example-plugin"
BAD = """
import os, time
from controller.plugins.hooks import hookimpl

class Raises:
    @hookimpl
    def compile_requirements(self, intent):
        raise RuntimeError("no idea about " + intent["metadata"]["name"])

class Nonsense:
    @hookimpl
    def compile_requirements(self, intent):
        print("this is no answer")
        return {"require": {"latency_ms": {"max": "soon"}}}

class NoJson:
    @hookimpl
    def compile_requirements(self, intent):
        return object()

class Hangs:
    @hookimpl
    def compile_requirements(self, intent):
        if intent["metadata"]["name"] == "quick":
            return None
        os.system("sleep 600.731 &")
        while True:
            pass

class Dies:
    @hookimpl
    def compile_requirements(self, intent):
        os._exit(7)

class WrongHook:
    @hookimpl
    def compile_requirement(self, intent):
        return None

class WrongArgument:
    @hookimpl
    def compile_requirements(self, intend):
        return None
"""
KINDS = ("Raises", "Nonsense", "NoJson", "Hangs", "Dies", "WrongHook", "WrongArgument", "Missing")


def distribution(
    place: Path, name: str, module: str, text: str, entries: dict[str, str], group: str = COMPILERS
) -> None:
    """As pip leaves one behind."""
    place.mkdir(exist_ok=True)
    place.chmod(0o755)
    (place / f"{module}.py").write_text(text)
    info = place / f"{name}-9.8.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.8\n")
    lines = "\n".join(f"{entry} = {module}:{kind}" for entry, kind in entries.items())
    (info / "entry_points.txt").write_text(f"[{group}]\n{lines}\n")


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Installed as its users would, without the network, and readable to all as they would."""
    target, source = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("source") / "plugin"
    subprocess.run(["cp", "-r", EXAMPLE, source], check=True)  # the build leaves files next to its source
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--disable-pip-version-check", "--target", target, source], check=True, timeout=120)
    target.chmod(0o755)
    return target


@pytest.fixture
def on_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes a directory a place of installed packages, for us and for the processes that we start."""

    def add(place: Path) -> None:
        monkeypatch.syspath_prepend(str(place))
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(place), str(ROOT))))

    yield add


def by_name(group: str = COMPILERS) -> dict[str, Plugin]:
    return {plugin.name: plugin for plugin in hooks.installed() if plugin.group == group}


def manifest(name: str = "calls", *ports: str) -> dict[str, Any]:
    allow = {"from": {"network": "shop/customer-x"}, "to": "insight/analytics"}
    spec = {"allow": [allow | ({"ports": list(ports)} if ports else {})]}
    return {"apiVersion": "netstitch/v1", "kind": "Intent", "metadata": {"name": name, "tenant": "t"}, "spec": spec}


async def test_example_is_found_with_version_and_origin_and_asked(example: Path, on_path: Any) -> None:
    assert "voice" not in by_name()
    on_path(example)
    voice, table = by_name()["voice"], by_name(FRONT_ENDS)["csv"]
    assert (voice.version, voice.origin) == ("0.1.0", "netstitch-example-plugin netstitch_example_plugin:Voice")
    asked = Plugins([voice, table])
    try:
        quiet, loud = await asked.compile([manifest("web", "tcp/443"), manifest("calls", "udp/5060")])
    finally:
        await asked.aclose()
    assert quiet == ()
    (added,) = loud
    assert (added.plugin, added.failure) == ("voice", "")
    assert (added.then.require.latency_us_max, added.then.dscp) == (50_000, 46)
    assert [resource.metadata["name"] for resource in asked.resources()] == ["voice", "csv"]


@pytest.fixture
def bad(tmp_path: Path, on_path: Any) -> dict[str, Plugin]:
    entries = {kind.lower(): kind for kind in KINDS}
    distribution(tmp_path / "site", "bad", "bad_plugins", BAD, entries)
    on_path(tmp_path / "site")
    return by_name()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("raises", "plugin raises (bad bad_plugins:Raises 9.8) raised RuntimeError: no idea about calls"),
        ("nonsense", "plugin nonsense answered nonsense: require.latency_ms.max: expected"),
        ("nojson", "raised TypeError"),
        ("dies", "ended by itself (status 7)"),
        ("wronghook", "unknown hook 'compile_requirement'"),
        ("wrongargument", "cannot be loaded: PluginValidationError"),
        ("missing", "cannot be loaded: AttributeError"),
    ],
)
async def test_plugin_that_misbehaves_fails_its_intent_with_its_name(
    bad: dict[str, Plugin], name: str, says: str
) -> None:
    asked = Plugins([bad[name]])
    try:
        for _ in range(2):  # it is asked again, in a new process if need be
            ((added,),) = await asked.compile([manifest()])
            assert added.plugin == name and says in added.failure
    finally:
        await asked.aclose()
    (resource,) = asked.resources()
    assert resource.status["phase"] == "Failed"


async def test_plugin_that_hangs_is_killed_at_its_deadline_with_what_it_started(bad: dict[str, Plugin]) -> None:
    asked = Plugins([bad["hangs"]], deadline_s=0.5)
    try:
        slow, quick = await asked.compile([manifest("slow"), manifest("quick")])
        assert "took more than 0.5 s to answer and was killed" in slow[0].failure
        assert quick == ()
        many = await asked.compile([manifest(f"slow-{n}") for n in range(50)])
    finally:
        await asked.aclose()
    assert all(additions[0].failure for additions in many) and "it hung 3 times" in many[-1][0].failure
    assert not running("sleep 600.731")


JUDGES = """
import time
from controller.plugins.hooks import hookimpl

class Judge:
    @hookimpl
    def judge_offer(self, terms):
        if terms["origin"] == "raises":
            raise RuntimeError("a secret of ours")
        if terms["origin"] == "hangs":
            time.sleep(600)
        if terms["origin"] == "nonsense":
            return {"refuse": True}
        ports = {port.get("first") for flow in terms["flows"] for port in flow["ports"]}
        if terms["acceptor"] == "insight" and 443 in ports:
            return "no https on Sundays"
"""


async def test_strategy_that_does_not_answer_refuses_and_keeps_its_secrets(tmp_path: Path, on_path: Any) -> None:
    distribution(tmp_path / "site", "judges", "judges", JUDGES, {"sundays": "Judge"}, STRATEGIES)
    on_path(tmp_path / "site")
    asked = Plugins([by_name(STRATEGIES)["sundays"]], deadline_s=0.5)
    terms: dict[str, Any] = {"acceptor": "insight", "flows": [{"ports": [{"first": 443}]}]}
    said = "plugin sundays, which judges offers, does not work"
    try:
        for origin, why in (("raises", "a secret"), ("hangs", "killed"), ("nonsense", "expected a reason in words")):
            objection, failure = await asked.judge(terms | {"origin": origin})
            assert objection == said and why in failure
            assert asked.resources()[0].status == {"phase": "Failed", "reason": failure}
        assert await asked.judge(terms | {"origin": "shop"}) == ("no https on Sundays (plugin sundays)", "")
        assert await asked.judge(terms | {"origin": "shop", "acceptor": "transit"}) == ("", "")
    finally:
        await asked.aclose()
    assert asked.resources()[0].status["phase"] == "Ready"


DETECTS = """
import time
from controller.plugins.hooks import hookimpl

class Detects:
    @hookimpl
    def find_unusual(self, windows):
        sources = {window["source"]: window for window in windows}
        if "10.0.0.3" in sources:
            return [{"source": "10.9.9.9", "text": "of nobody", "p": 0.5}]
        if "10.0.0.4" in sources:
            return [{"source": "10.0.0.4", "text": "certain", "p": 0}]
        if "10.0.0.5" in sources:
            time.sleep(600)
        if sources["10.0.0.1"]["ports"] > 9:
            reason = {"feature": "ports", "observed": sources["10.0.0.1"]["ports"], "usual": 1}
            return [{"source": "10.0.0.1", "text": "many ports", "p": 0.01, "cause": "scan", "reasons": [reason]}]
"""


async def test_detector_finds_in_its_own_process_and_one_that_fails_is_left_alone_for_a_while(
    tmp_path: Path, on_path: Any
) -> None:
    distribution(tmp_path / "site", "detects", "detects", DETECTS, {"ports": "Detects"}, DETECTORS)
    on_path(tmp_path / "site")
    asked = Plugins([by_name(DETECTORS)["ports"]], deadline_s=0.5)

    def window(source: str, ports: int = 1) -> dict[str, Any]:
        return {"source": source, "ports": ports, "owners": ["intents/web"]}

    try:
        assert await asked.find([window("10.0.0.1")], 1.0) == ()
        [finding] = await asked.find([window("10.0.0.1", 20), window("10.0.0.2")], 2.0)
        assert (finding.cause, finding.source, finding.detectors) == (Cause.SCAN, "10.0.0.1", ("plugin ports",))
        assert finding.owners == ("intents/web",) and finding.reasons[0].observed == 20 and not finding.cold
        for source, why in (("10.0.0.3", "of nobody"), ("10.0.0.4", "nonsense"), ("10.0.0.5", "killed")):
            assert await asked.find([window("10.0.0.1", 20), window(source)], 3.0) == ()
            assert why in asked.resources()[0].status["reason"]
        assert await asked.find([window("10.0.0.1", 20)], 4.0) == (), "it has failed three times in a row"
        assert len(await asked.find([window("10.0.0.1", 20)], 70.0)) == 1
        assert asked.resources()[0].status["phase"] == "Ready"
    finally:
        await asked.aclose()


async def test_offer_that_a_strategy_refuses_is_refused_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distribution(tmp_path / "site", "judges", "judges", JUDGES, {"sundays": "Judge"}, STRATEGIES)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(tmp_path / "site"), str(ROOT))))
    with tempfile.TemporaryDirectory(prefix="plug-") as directory:
        federation = Federation(Path(directory))
        shop = federation.controllers["shop"]
        try:
            await federation.start()
            answer = await shop.apply(intent("https"), small_intent("ping"))
            assert answer.status_code == 200, answer.text

            async def decided() -> bool:
                return [(await shop.phase(name))[0] for name in ("ping", "https")] == ["Active", "Refused"]

            await until(decided, "one accepted, one refused")
            reasons = [line["reason"] for line in federation.controllers["insight"].logged("offer_refused")]
            assert "no https on Sundays (plugin sundays)" in reasons
            assert "Sundays" not in (await shop.phase("https"))[1], "others hear a reason of the public list"
        finally:
            await federation.stop()


def running(command: str) -> list[str]:
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if line.strip() == command]


async def test_worker_that_is_given_up_while_it_works_is_killed(bad: dict[str, Plugin]) -> None:
    worker = Worker(bad["hangs"])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.5):
            await worker.call(intent=manifest("slow"))
    with pytest.raises(PluginFailed, match="raised KeyError"):
        await worker.call(intent={})  # a new process
    await worker.close()


TABLE = "name,tenant,from,to,ports\ncalls,customer-x,shop/customer-x,insight/analytics/analytics-y,{ports}\n"


def test_front_end_reads_files_with_its_suffix(example: Path, on_path: Any, tmp_path: Path) -> None:
    from controller.cli.changing import read_documents
    from controller.cli.client import Client
    from controller.cli.config import Target
    from controller.cli.errors import InputInvalid
    from controller.language.manifest import locate

    on_path(example)
    nobody = Client(Target(server="http://127.0.0.1:1", token="", said_by="a test"))
    file = tmp_path / "orders.csv"
    file.write_text(TABLE.format(ports="tcp/443 icmp"))
    (document,) = read_documents(nobody, [str(file)])
    assert document.name == "calls" and locate(document, ("spec", "allow", 0, "to")) == (2, 1)
    file.write_text(TABLE.format(ports="tcp/99999"))
    with pytest.raises(InputInvalid, match=r"orders\.csv:2:1: spec\.allow\[0\]\.ports\[0\]: "):
        read_documents(nobody, [str(file)])
    file.write_text("what,is,this\n")
    with pytest.raises(
        InputInvalid, match=r"orders\.csv:1:1: plugin csv \(netstitch-example-plugin.* raised ValueError: expected"
    ):
        read_documents(nobody, [str(file)])


async def test_controller_lists_and_asks_its_plugins(
    example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real controllers: one plugin adds, another fails the intent that it does not like, and only that."""
    entries = {"picky": "Picky"}
    text = """
from controller.plugins.hooks import hookimpl

class Picky:
    @hookimpl
    def compile_requirements(self, intent):
        if intent["metadata"]["name"] == "disliked":
            raise ValueError("not this one")
"""
    distribution(tmp_path / "site", "picky", "picky_plugin", text, entries)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(example), str(tmp_path / "site"), str(ROOT))))
    with tempfile.TemporaryDirectory(prefix="plug-") as directory:
        federation = Federation(Path(directory))
        shop = federation.controllers["shop"]
        try:
            await shop.start()
            good, poor = manifest("calls"), manifest("disliked")
            for asked in (good, poor):
                asked["spec"]["allow"][0]["to"] = "insight/analytics/analytics-y"
            answer = await shop.apply(good, poor)
            assert answer.status_code == 200, answer.text
            phase, reasons = await shop.phase("disliked")
            assert phase == "Unsatisfiable" and "plugin picky" in reasons and "not this one" in reasons
            assert (await shop.phase("calls"))[0] != "Unsatisfiable"
            listed = await shop.get("plugins")
            assert listed["voice"]["spec"]["version"] == "0.1.0"
            assert listed["csv"]["spec"]["origin"] == "netstitch-example-plugin netstitch_example_plugin:Table"
        finally:
            await federation.stop()


# ---- what a plugin that means harm gets at

HOSTILE = """
import ctypes, os, socket, subprocess, threading, time
from pathlib import Path
from controller.plugins.hooks import hookimpl

def tried(what):
    try:
        return repr(what())
    except OSError as error:
        return type(error).__name__ + ": " + str(error.strerror)

def is_open(number):
    try:
        return os.fstat(number) is not None
    except OSError:
        return False

def forks():
    children = []
    try:
        for _ in range(1000):
            child = os.fork()
            if child == 0:
                time.sleep(600)
                os._exit(0)
            children.append(child)
        return len(children)
    finally:
        for child in children:
            os.kill(child, 9)
            os.waitpid(child, 0)

def eats():
    pieces = [b"x" * (16 << 20) for _ in range(400)]
    return len(pieces)

def bomb():
    # each forks as often as it may, and none waits for another
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        try:
            if os.fork() == 0:
                os.setsid()
        except OSError:
            time.sleep(0.01)

def floods(number):
    piece = b"x" * (1 << 20)
    while True:
        os.write(number, piece)

def keeps_the_line():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            while True:
                time.sleep(600)
        os._exit(0)

class Hostile:
    @hookimpl
    def compile_requirements(self, intent):
        what, _, argument = intent["metadata"]["name"].partition(" ")
        if what == "read":
            said = tried(lambda: Path(argument).read_bytes())
        elif what == "list":
            said = tried(lambda: sorted(os.listdir(argument)))
        elif what == "write":
            said = tried(lambda: Path(argument).write_text("x"))
        elif what == "connect":
            host, port = argument.split(":")
            said = tried(lambda: socket.create_connection((host, int(port)), 2))
        elif what == "unix":
            said = tried(lambda: socket.socket(socket.AF_UNIX).connect(argument))
        elif what == "signal":
            said = tried(lambda: os.kill(int(argument), 0))
        elif what == "who":
            said = repr((os.getuid(), os.getgid(), os.getgroups(), dict(os.environ), os.getcwd()))
        elif what == "files":
            said = repr([number for number in range(256) if is_open(number)])
        elif what == "su":
            said = tried(lambda: os.setuid(0))
        elif what == "namespace":
            said = repr(ctypes.CDLL(None).unshare(int(argument)))
        elif what == "says":
            said, number = argument.split(" ", 1), next(n for n in range(3, 64) if is_open(n))
            line = said[1].encode("latin-1") * int(said[0])
            while line:
                line = line[os.write(number, line):]
            os.write(number, b"\\n")
            return
        elif what == "mount":
            done = subprocess.run(["/usr/bin/mount", "-t", "tmpfs", "none", "/tmp"], capture_output=True)
            said = repr(done.returncode)
        elif what == "forks":
            said = tried(forks)
        elif what == "eats":
            said = tried(eats)
        elif what == "bomb":
            bomb()
        elif what == "stops":
            os.kill(os.getpid(), 19)
        elif what == "floods":
            floods(int(argument))
        elif what == "prints":
            for _ in range(2048):
                os.write(1, b"x" * (1 << 20))
            said = "printed"
        elif what == "socket":
            said = tried(lambda: socket.socket(*map(int, argument.split(","))))
        elif what == "keeps":
            keeps_the_line()
            os._exit(9)
        elif what == "spins":
            keeps_the_line()
            while True:
                pass
        raise RuntimeError("<" + said + ">")
"""


@pytest.fixture
def hostile(tmp_path: Path, on_path: Any) -> Plugin:
    distribution(tmp_path / "site", "hostile", "hostile_plugin", HOSTILE, {"hostile": "Hostile"})
    on_path(tmp_path / "site")
    return by_name()["hostile"]


async def said_by(worker: Worker, what: str) -> str:
    with pytest.raises(PluginFailed) as caught:
        await worker.call(intent=manifest(what))
    return str(caught.value)


def open_to_all(place: Path) -> tuple[Path, Path]:
    """A store, and where a socket may be, that modes keep nobody from."""
    (place / "store.sqlite").write_text("secret")
    (place / "store.sqlite").chmod(0o644)
    (place / "open").mkdir()
    (place / "open").chmod(0o777)
    place.chmod(0o755)
    return place / "store.sqlite", place / "open" / "api.sock"


async def test_a_plugin_sees_and_reaches_nothing_of_its_controller(hostile: Plugin, tmp_path: Path) -> None:
    store, path = open_to_all(tmp_path)
    listening, unix = socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX)
    unix.bind(os.fspath(path))
    unix.listen()
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind(f"\0netstitch-{os.getpid()}")
    abstract.listen()
    port = listening.getsockname()[1]
    worker = Worker(hostile, start_s=60, deadline_s=30)
    expected = {
        f"read {store}": "FileNotFoundError",
        "read /etc/shadow": "FileNotFoundError",
        f"read /proc/{os.getpid()}/environ": "FileNotFoundError",
        f"list {tmp_path}": "['site']",
        "list /root": "",
        "list /tmp": "[",
        f"write {tmp_path}/site/x": "Read-only file system",
        f"write {hooks.__file__}": "Read-only file system",
        "write /x": "Read-only file system",
        "write /tmp/x": "<1>",
        f"connect 127.0.0.1:{port}": "unreachable",
        "connect 192.0.2.1:80": "unreachable",
        f"unix {path}": "FileNotFoundError",
        "read /proc/1/environ": "FileNotFoundError",
        "socket 2,3,1": "PermissionError",
        "socket 17,3": "PermissionError",
        f"unix \0netstitch-{os.getpid()}": "ConnectionRefusedError",
        f"signal {os.getpid()}": "ProcessLookupError",
        "who": "<(65534, 65534, [], {",
        "files": "<[0, 1, 2, 3",
        "su": "PermissionError",
        "mount": "<",
        f"namespace {cage.CLONE_NEWUSER}": "<-1>",  # in which it would have all capabilities
        f"namespace {cage.CLONE_NEWNET}": "<-1>",
    }
    wrong = []
    try:
        with listening, unix, abstract:
            for what, answer in expected.items():
                said = await said_by(worker, what)
                if answer not in said or "secret" in said:
                    wrong.append(f"{what!r}: {said}")
        assert worker.lacking == ()
        assert not wrong, "\n".join(wrong)
        assert "<0>" not in await said_by(worker, "mount")
        shown = await said_by(worker, "who")
        assert shown.endswith(", '/')>") and "PYTHONPATH" not in shown and "HOME" not in shown
    finally:
        await worker.close()


@pytest.mark.parametrize(
    "says", ['1 {"answer": "\xff\xfe"}', "300000 [", "2000000 [],", '1 {"answer": 1', "1 5"], ids=lambda text: text[:12]
)
async def test_a_plugin_that_answers_what_is_none_fails_alone(hostile: Plugin, says: str) -> None:
    worker = Worker(hostile, start_s=60, deadline_s=60)
    try:
        assert "answered no JSON" in await said_by(worker, f"says {says}")
        assert "<(65534" in await said_by(worker, "who"), "it is started again"
    finally:
        await worker.close()


async def test_a_plugin_that_eats_or_forks_is_bounded(hostile: Plugin) -> None:
    worker = Worker(hostile, start_s=60, deadline_s=60)
    try:
        assert "Resource temporarily unavailable" in await said_by(worker, "forks")
        said = await said_by(worker, "eats")
        assert "MemoryError" in said or "ended by itself" in said, said
        assert "<(65534" in await said_by(worker, "who"), "it is started again"
    finally:
        await worker.close()


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("bomb", "took more than 2 s to answer and was killed"),
        ("stops", "took more than 2 s to answer and was killed"),
        ("floods 0", "failed: "),
        ("floods 3", "failed: "),
        ("prints", "<printed>"),
    ],
)
async def test_a_plugin_that_bombs_stops_or_floods_ends_with_all_its_processes(
    hostile: Plugin, what: str, says: str
) -> None:
    """The loop of the controller turns meanwhile, and what it holds of the plugin's output is bounded."""
    worker = Worker(hostile, start_s=60, deadline_s=60 if what[0] in "fp" else 2)
    turns = 0

    async def transaction() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0.01)
            turns += 1

    turning = asyncio.create_task(transaction())
    try:
        assert says in await said_by(worker, what)
        assert turns > 10
        assert "<(65534" in await said_by(worker, "who"), "it is started again"
    finally:
        turning.cancel()
        await worker.close()
    assert not left_behind()


@pytest.mark.parametrize(("what", "says"), [("keeps", "ended by itself (status 9)"), ("spins", "was killed")])
async def test_a_plugin_that_leaves_somebody_on_the_line_holds_up_nobody(hostile: Plugin, what: str, says: str) -> None:
    worker = Worker(hostile, start_s=60, deadline_s=3)
    try:
        for _ in range(2):
            async with asyncio.timeout(100):
                assert says in await said_by(worker, what)
    finally:
        await worker.close()
    assert not left_behind()


async def test_what_is_not_contained_is_said(hostile: Plugin, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Plugins([hostile], deadline_s=30)
    try:
        assert await asked.examine() == ()
        (shown,) = asked.resources()
        assert shown.status == {"phase": "Ready", "contained": True}
        monkeypatch.setattr(limits, "groups", lambda serial: [])
        assert await asked.examine() == ("memory and processes by cgroup: no cgroup that we may make others in",)
        (shown,) = asked.resources()
        assert (shown.status["contained"], len(shown.status["lacking"])) == (False, 1)
    finally:
        await asked.aclose()


def left_behind() -> list[Path]:
    """Control groups of our plugins: one goes only when all its processes have."""
    return [*Path("/sys/fs/cgroup").glob(f"**/{limits.NAME}-{os.getpid()}-*")]
