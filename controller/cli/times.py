"""Times as people read them: how long ago, and by their own clock."""

import re
import time

_UNITS = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
_UNIX = re.compile(r"^(\s*(?:- )?\w*(?:time|_at|at|created|applied|expires|until|since|handshake|retry)_s: )(\d{10})$")


def span(seconds: float) -> str:
    """`45s`, `12m`, `3h20m`, `5d4h`: the two greatest units, one above ten of it."""
    left = max(0, int(seconds))
    for place, (unit, size) in enumerate(_UNITS):
        count, rest = divmod(left, size)
        if count:
            smaller = _UNITS[place + 1] if place + 1 < len(_UNITS) and count < 10 else None
            smaller_count = rest // smaller[1] if smaller is not None else 0
            return f"{count}{unit}" + (f"{smaller_count}{smaller[0]}" if smaller is not None and smaller_count else "")
    return "0s"


def age(time_s: float) -> str:
    """Since a Unix time."""
    return span(time.time() - time_s)


def local(time_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time_s))


def with_times(line: str) -> str:
    """A line of YAML; a Unix time in it has beside it when that is, and how long ago or ahead."""
    match = _UNIX.match(line)
    if match is None:
        return line
    time_s = int(match[2])
    ahead = time_s - time.time()
    how_far = f"in {span(ahead)}" if ahead > 0 else f"{span(-ahead)} ago"
    return f"{line}  # {local(time_s)}, {how_far}"
