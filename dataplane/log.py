"""The log of `stitch-agent` and of `stitchd`: JSON lines on stderr, ours and those of libraries, in one form.

Each line has `event` (its name), `level`, `timestamp` (ISO 8601, UTC) and what belongs to the event; an agent's `node`.
"""

import contextlib
import logging
import sys
from typing import TextIO, cast

import structlog

from dataplane.visible import VisibleText

Logger = structlog.typing.FilteringBoundLogger


class _Patient:
    """Standard error, where lines are lost that a full disk does not take."""

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.flush()


def configure(**fields: str) -> None:
    """`fields` are in every line."""

    def add_fields(_: object, __: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
        return {**line, **fields}

    stderr = cast("TextIO", VisibleText(cast("TextIO", _Patient())))  # JSON leaves DEL as it is
    stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
    shared: list[structlog.typing.Processor] = [structlog.stdlib.add_log_level, stamp, add_fields]
    structlog.configure(
        processors=[*shared, structlog.processors.format_exc_info, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.processors.format_exc_info],
            processor=structlog.processors.JSONRenderer(),
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
