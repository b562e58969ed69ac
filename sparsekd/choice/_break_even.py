"""The sparsity from which a sparse format is worth it, from times at a few sparsities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

__all__ = ["BreakEven", "break_even"]


@dataclass(frozen=True)
class BreakEven:
    """The sparsity from which the windowed format beats the layer's dense one by the margin.

    Attributes:
        sparsity: share of zeros, 0..1.
        side: "at" that sparsity; "below" or "above" it where that is the lowest or the highest
            sparsity that was timed and the crossing lies outside.

    >>> str(BreakEven(0.875, "above"))
    'above 87.5 %'
    """

    sparsity: float
    side: Literal["at", "below", "above"] = "at"

    def __str__(self) -> str:
        if self.side == "at":
            return f"{100 * self.sparsity:.0f} %"
        return f"{self.side} {100 * self.sparsity:.4g} %"


def break_even(times: Mapping[float, float], target: float) -> BreakEven:
    """Where the time of a sparse format falls to ``target``.

    Between two sparsities time is linear in the weights that are kept (a call's fixed cost and a
    cost a weight), so a straight line is drawn through the first pair around the target.

    Args:
        times: sparsity -> seconds, at least one.
        target: seconds.

    >>> str(break_even({0.5: 4.0, 0.75: 2.0}, 3.0))
    '62 %'
    """
    points = sorted(times.items())
    if points[0][1] <= target:
        return BreakEven(points[0][0], "below")
    for (sparser_from, slow), (sparser_to, fast) in pairwise(points):
        if fast <= target:
            share = (slow - target) / (slow - fast)
            return BreakEven(sparser_from + share * (sparser_to - sparser_from))
    return BreakEven(points[-1][0], "above")
