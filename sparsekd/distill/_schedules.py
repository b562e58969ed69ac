"""The weight of a loss over the steps of training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Constant", "CosineDecay", "LinearDecay", "WeightSchedule", "schedule_from"]


class WeightSchedule(Protocol):
    """A step, counted from 0, to a weight of at least 0."""

    def __call__(self, step: int) -> float: ...


@dataclass(frozen=True)
class Constant:
    """The same weight at every step."""

    weight: float

    def __post_init__(self) -> None:
        _check_weight(self.weight)

    def __call__(self, step: int) -> float:
        return self.weight


@dataclass(frozen=True)
class _Decay:
    """From ``start`` at step 0 to ``end`` at step ``steps``, and that from then on."""

    start: float
    end: float = 0.0
    steps: int = 1

    def __post_init__(self) -> None:
        _check_weight(self.start)
        _check_weight(self.end)
        _check_steps(self.steps)

    def __call__(self, step: int) -> float:
        if step >= self.steps:
            return self.end
        return self.start + (self.end - self.start) * self._way(step / self.steps)

    def _way(self, done: float) -> float:
        """The share of the way to ``end`` after ``done`` (0..1) of the steps."""
        raise NotImplementedError


class LinearDecay(_Decay):
    """From ``start`` at step 0 in a straight line to ``end`` at step ``steps``, and that from then.

    >>> LinearDecay(1.0, 0.0, steps=100)(25)
    0.75
    """

    def _way(self, done: float) -> float:
        return done


class CosineDecay(_Decay):
    """From ``start`` to ``end`` along half a cosine (Loshchilov & Hutter, 2017), then ``end``.

    >>> CosineDecay(1.0, 0.0, steps=100)(100)
    0.0
    """

    def _way(self, done: float) -> float:
        return 0.5 * (1.0 - math.cos(math.pi * done))


def schedule_from(weight: float | WeightSchedule) -> WeightSchedule:
    """A number stands for that weight at every step."""
    return weight if callable(weight) else Constant(float(weight))


def _check_weight(weight: float) -> None:
    if not (math.isfinite(weight) and weight >= 0.0):
        raise ValueError(f"a loss weight must be a finite number of at least 0, got {weight!r}")


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"a schedule needs at least 1 step, got {steps!r}")
