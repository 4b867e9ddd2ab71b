"""Manifests and sentences, a little wrong in many ways; the same for the same seed."""

import copy
import random
from typing import Any

NASTY: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 3.5, 1e308, -1e308, 10**29, 2**63, "", " ", "x", "a/b", "a/b/c", "a/b c=d", "tcp/0",
    "tcp/9-3", "icmp", "1e400", "nan", ".nan", ".inf", "0x10", "30d", "9999999999d", "2030-01-01T00:00:00Z", "9" * 400,
    "a\x00b", "a\u202eb", "\ud7ff", "é" * 40, [], {}, [[]], {"max": 1}, {"min": "own"}, {"for": "1d", "until": "x"},
)  # fmt: skip
TEXTS = (
    "\x00", "\t", "\n", "\r", "\x1b[31m", "\u202e", "\u200f", "\ufeff", "\ud7ff", "\U0010ffff", "{", "}", "[", "]", ":",
    "&a ", "*a", "!!python/name:os.system ", "<<: *a", "? ", "|\n", "%YAML 9.9\n", "---\n", "...\n", '"', "'", ";",
    "- ", "<=", ">=",
    "=", ",", "1e400", ".nan", "-", "999999999999999999999999", "isolate", "allow", "require", "latency", "test deny",
    "from", "to", "20ms", "50Mbps", "0.1%", "[" * 60, "{a: " * 60, "x" * 3000,
)  # fmt: skip


def mutated_data(data: Any, rng: random.Random) -> Any:
    """Plain data with one to three parts replaced, dropped, doubled or renamed."""
    whole = [copy.deepcopy(data)]
    for _ in range(rng.randint(1, 3)):
        holder, key = rng.choice(list(_places(whole)))
        match rng.randrange(4), holder:
            case 0, dict():
                del holder[key]
            case 1, dict():
                holder[rng.choice([f"{key}x", "", "max", "from", "status", "\u202e"])] = holder.pop(key)
            case 2, list() if holder is not whole:
                holder.append(copy.deepcopy(holder[key]))
            case _:
                holder[key] = copy.deepcopy(rng.choice(NASTY))
    return whole[0]


def _places(value: Any) -> Any:
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


def mutated_text(text: str, rng: random.Random) -> str:
    """One to four pieces cut, doubled, moved, overwritten or put in."""
    for _ in range(rng.randint(1, 4)):
        begin = rng.randint(0, len(text))
        end = min(len(text), begin + rng.choice((0, 1, 1, 2, 5, 20, 100)))
        match rng.randrange(6):
            case 0:
                text = text[:begin] + text[end:]
            case 1:
                text = text[:end] + text[begin:]
            case 2:
                at = rng.randint(0, len(text))
                text = text[:at] + text[begin:end] + text[at:]
            case 3:
                text = text[:begin] + chr(rng.choice((rng.randrange(0x80), rng.randrange(0xD800)))) + text[end:]
            case _:
                text = text[:begin] + rng.choice(TEXTS) + text[end:]
    return text
