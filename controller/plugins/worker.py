"""What runs in the process of one plugin (controller.plugins.cage). One JSON object a line, in and out.

The first line says that the plugin is loaded, or why it is not; then each line of arguments gets one line:
`{"answer": ...}` or `{"error": "raised ValueError: ..."}`.
"""

import os
import sys
from importlib import metadata
from typing import Any, BinaryIO

import msgspec
import pluggy

from controller.plugins.hooks import HOOKS, PROJECT, Hooks


def main(group: str, name: str) -> int:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the plugin prints is no answer
    try:
        hook = _hook(group, name)
    except BaseException as error:
        _say(answers, {"error": f"cannot be loaded: {type(error).__name__}: {error}"})
        return 1
    _say(answers, {"answer": None})
    for line in sys.stdin.buffer:
        _say(answers, _answer(hook, msgspec.json.decode(line)))
    return 0


def _hook(group: str, name: str) -> pluggy.HookCaller:
    """Raises LookupError, pluggy.PluginValidationError, or whatever the plugin raises."""
    entry_points = metadata.entry_points(group=group, name=name)
    if not entry_points:
        raise LookupError(f"no plugin {name} in {group}")
    plugin = next(iter(entry_points)).load()
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(Hooks)
    manager.register(plugin() if isinstance(plugin, type) else plugin, name)
    manager.check_pending()
    hook: pluggy.HookCaller = getattr(manager.hook, HOOKS[group])
    if not hook.get_hookimpls():
        raise LookupError(f"it does not implement {HOOKS[group]}")
    return hook


def _answer(hook: pluggy.HookCaller, arguments: dict[str, Any]) -> dict[str, Any]:
    try:
        answer = hook(**arguments)
        msgspec.json.encode(answer)
    except Exception as error:
        return {"error": f"raised {type(error).__name__}: {error}"[:1000]}
    return {"answer": answer}


def _say(answers: BinaryIO, outcome: dict[str, Any]) -> None:
    answers.write(msgspec.json.encode(outcome) + b"\n")
    answers.flush()
