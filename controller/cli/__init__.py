"""The client. Before anything else is imported: who presses Ctrl-C meanwhile gets no traceback."""

import sys
from types import TracebackType

_usual_hook = sys.excepthook


def _end_quietly(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        _usual_hook(kind, error, trace)


sys.excepthook = _end_quietly
