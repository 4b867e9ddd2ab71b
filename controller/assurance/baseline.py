"""What is usual: of an entity, else of its kind, else of all. Pure.

A baseline is two numbers, centre and spread, of a logarithm. It learns slowly on purpose: a value counts as at most
LEARNT spreads from the centre, whatever it is, and the spread grows by a hundredth a value at most, so that who wants
to have something taken for usual has to be unusual for long; and nothing is learnt of a window that was alarmed, or of
an entity whose incident is open (`frozen`), which is what callers see to.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

WARM = 30
"""Values before a baseline is one. Before that, what is said on its word is `cold`: it never acts alone."""
MEMORY = 600
"""Values that a baseline is about, once it is warm."""
LEARNT = 3.0
SPREAD_MIN = 0.25
"""Of the logarithm of a rate: a quarter more or less is nothing unusual anywhere."""
ENTITIES_MAX = 5000
"""With a baseline of their own; more have that of their kind."""


@dataclass(frozen=True, slots=True)
class Baseline:
    values: int = 0
    centre: float = 0.0
    spread: float = 1.0
    spread_min: float = SPREAD_MIN

    @property
    def is_cold(self) -> bool:
        return self.values < WARM

    def deviation(self, value: float) -> float:
        """In spreads; whatever is no number is no deviation."""
        return (value - self.centre) / max(self.spread, self.spread_min) if math.isfinite(value) else 0.0

    def learnt(self, value: float) -> Self:
        if not math.isfinite(value):
            return self
        if not self.values:
            return replace(self, values=1, centre=value)
        speed = 1 / min(self.values + 1, MEMORY)
        reach = LEARNT * max(self.spread, self.spread_min)
        step = min(max(value - self.centre, -reach), reach)
        spread = self.spread + speed * (1.25 * abs(step) - self.spread)
        spread = min(spread, self.spread * 1.01) if not self.is_cold else spread
        return replace(self, values=self.values + 1, centre=self.centre + speed * step, spread=spread)


@dataclass(frozen=True, slots=True)
class Baselines:
    """By entity, the kind of each being what its name begins with (`intents/`)."""

    own: Mapping[str, Baseline] = field(default_factory=dict)
    kinds: Mapping[str, Baseline] = field(default_factory=dict)

    def of(self, entity: str) -> Baseline:
        """Its own once that is warm, else that of its kind, else that of all."""
        for baseline in (self.own.get(entity), self.kinds.get(_kind(entity)), self.kinds.get("")):
            if baseline is not None and not baseline.is_cold:
                return baseline
        return self.own.get(entity, Baseline())

    def knows(self, entity: str) -> bool:
        """By itself, not by its kind."""
        known = self.own.get(entity)
        return known is not None and not known.is_cold

    def values(self, entity: str) -> int:
        """Of which its own baseline is made."""
        return self.own.get(entity, Baseline()).values

    def learnt(self, values: Mapping[str, float]) -> Self:
        """What the windows of one interval were, without those that were alarmed or are frozen."""
        own, kinds = dict(self.own), dict(self.kinds)
        for entity, value in values.items():
            if entity in own or len(own) < ENTITIES_MAX:
                own[entity] = own.get(entity, Baseline()).learnt(value)
            for kind in (_kind(entity), ""):
                kinds[kind] = kinds.get(kind, Baseline()).learnt(value)
        return type(self)(own, kinds)

    def without(self, entity: str) -> Self:
        return type(self)({name: each for name, each in self.own.items() if name != entity}, self.kinds)


def _kind(entity: str) -> str:
    return entity.partition("/")[0]
