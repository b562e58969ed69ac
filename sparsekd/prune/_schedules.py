"""How much of the final sparsity holds at each step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

__all__ = ["Constant", "Cubic", "Schedule"]


class Schedule(Protocol):
    """A step (counted from 0) to the share of the final sparsity, 0..1, or None for no change."""

    def __call__(self, step: int) -> float | None: ...


@dataclass(frozen=True)
class Cubic:
    """Fast at first, slow at the end: 1 - (1 - t)^3 with t from 0 at ``begin`` to 1 at ``end``.

    Zhu & Gupta, "To prune, or not to prune" (2017), equation 1.

    Attributes:
        begin: first step that prunes.
        end: step from which the final sparsity holds.
        every: steps between two updates of the masks.

    >>> Cubic(begin=0, end=100)(50)
    0.875
    """

    begin: int
    end: int
    every: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.begin <= self.end or self.every < 1:
            raise ValueError(
                "Cubic needs 0 <= begin <= end and every >= 1, got "
                f"begin={self.begin!r}, end={self.end!r}, every={self.every!r}"
            )

    def __call__(self, step: int) -> float | None:
        if step >= self.end:
            return 1.0
        if step < self.begin or (step - self.begin) % self.every:
            return None
        return 1.0 - (1.0 - (step - self.begin) / (self.end - self.begin)) ** 3


@dataclass(frozen=True)
class Constant:
    """The final sparsity from step ``begin`` on.

    >>> Constant(begin=10)(9) is None
    True
    """

    begin: int = 0

    def __call__(self, step: int) -> float | None:
        return 1.0 if step >= self.begin else None
