"""Timings of things that take turns in short slices, so that what else runs on the machine meets all of them alike."""

import statistics


class Slices:
    def __init__(self) -> None:
        self._taken: dict[str, list[float]] = {}

    def add(self, name: str, value: float) -> None:
        self._taken.setdefault(name, []).append(value)

    def lower(self, name: str) -> float:
        """The lower quartile: what else runs only takes away, and a single lucky slice does not count."""
        return statistics.quantiles(self._taken[name], n=4)[0]

    def median(self, name: str) -> float:
        """Where there are few, and each is what a person waited for."""
        return statistics.median(self._taken[name])

    def spread(self, *names: str) -> float:
        """The largest of their quartile ranges, as a part of the median."""
        spreads = []
        for name in names:
            lower, median, upper = statistics.quantiles(self._taken[name], n=4)
            spreads.append((upper - lower) / median)
        return max(spreads)
