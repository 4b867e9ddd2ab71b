"""How all commands look: plain help and plain errors, the same everywhere."""

from typing import Any

SETTINGS: dict[str, Any] = {
    "no_args_is_help": True,
    "add_completion": False,
    "rich_markup_mode": None,
    "pretty_exceptions_enable": False,
}
