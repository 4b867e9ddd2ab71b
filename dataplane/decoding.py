"""JSON of files and of others, read as a type. Whatever is wrong with it is one kind of error.

msgspec itself raises UnicodeDecodeError for what is no UTF-8, and RecursionError for what is nested too deep.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


def from_json(data: bytes, kind: type[T], dec_hook: Callable[[type, Any], Any] | None = None) -> T:
    """Raises msgspec.DecodeError."""
    try:
        return msgspec.json.decode(data, type=kind, dec_hook=dec_hook)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from error
