"""Numbers with units, as sentences have them: 20ms, 50Mbps, 0.1%. Kept as whole numbers of the smallest unit."""

import re
from fractions import Fraction

import msgspec

_NUMBER = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)([A-Za-z%]{1,4})")


class Quantity(msgspec.Struct, frozen=True, kw_only=True):
    units: dict[str, int]
    """Unit -> how many of the smallest unit it is; the largest first."""
    least: int
    most: int
    expected: str

    def parse(self, text: str) -> int:
        """In the smallest unit. Raises ValueError."""
        match = _NUMBER.fullmatch(text)
        if match is None or match[2] not in self.units:
            units = ", ".join(self.units)
            known = {unit.lower(): unit for unit in self.units}
            hint = ""
            if match is not None and (near := known.get(match[2].lower())):
                hint = f"; did you mean {match[1]}{near}?"
            raise ValueError(f"{text[:40]!r} is none; expected {self.expected} (a number and one of {units}){hint}")
        exact = Fraction(match[1]) * self.units[match[2]]
        if exact.denominator != 1:
            raise ValueError(f"{text!r} is finer than 1{list(self.units)[-1]}; expected {self.expected}")
        if not self.least <= exact <= self.most:
            raise ValueError(f"{text!r} is out of range; expected {self.print(self.least)} to {self.print(self.most)}")
        return int(exact)

    def print(self, value: int) -> str:
        """In the largest unit of which it is a whole number."""
        unit, size = next((unit, size) for unit, size in self.units.items() if value % size == 0)
        return f"{value // size}{unit}"


LATENCY_US = Quantity(
    units={"s": 1_000_000, "ms": 1000, "us": 1}, least=1, most=60_000_000, expected="a latency such as 20ms"
)
BANDWIDTH_BPS = Quantity(
    units={"Tbps": 10**12, "Gbps": 10**9, "Mbps": 10**6, "Kbps": 1000, "bps": 1},
    least=1,
    most=10**13,
    expected="a rate such as 50Mbps",
)
_LOSS_PPM = Quantity(units={"%": 10_000, "ppm": 1}, least=0, most=1_000_000, expected="a share such as 0.1%")


def parse_loss(text: str) -> int:
    """Parts in a million. Raises ValueError."""
    return _LOSS_PPM.parse(text)


def print_loss(ppm: int) -> str:
    """In percent: 0.1%."""
    whole, rest = divmod(ppm, 10_000)
    return f"{whole}.{rest:04}".rstrip("0").rstrip(".") + "%"
