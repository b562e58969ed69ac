"""Which range of values static activations cover.

An observer sees batches and gives one range. The result does not depend on the order of the
batches or on how the values are split into batches.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from sparsekd.spec import Int8

__all__ = ["MinMax", "Observer", "Percentile", "observer_for"]


class Observer(Protocol):
    """Sees batches, gives a range."""

    def add(self, x: Tensor) -> None:
        """Look at a batch: fp32, any shape."""

    def range(self) -> tuple[Tensor, Tensor] | None:
        """(lo, hi), 0-d fp32 each; None if no value was seen."""


class MinMax:
    """The smallest and the largest value seen.

    >>> observer = MinMax()
    >>> observer.add(torch.tensor([-1.0, 3.0]))
    """

    def __init__(self) -> None:
        self._range: tuple[Tensor, Tensor] | None = None

    def add(self, x: Tensor) -> None:
        """Raises ValueError if a value is NaN or Inf."""
        if x.numel() == 0:
            return
        lo, hi = torch.aminmax(x.detach())
        if not bool(torch.isfinite(lo) & torch.isfinite(hi)):
            raise ValueError("its input holds NaN or Inf, so no range can be taken from it")
        if self._range is not None:
            lo, hi = torch.minimum(lo, self._range[0]), torch.maximum(hi, self._range[1])
        self._range = lo, hi

    def range(self) -> tuple[Tensor, Tensor] | None:
        return self._range


class Percentile:
    """The range that holds a share of all values seen, the rest cut off in equal numbers each side.

    The values are counted in buckets that are the upper 17 bits of their fp32 form, each 2^-8 wide
    relative to its values. So many batches need no more memory than one, an outlier can not spoil
    the resolution, and the range is at most 0.4 % too wide; it never cuts off more than asked.

    Args:
        percentile: the share of values inside, in percent, 50..100.

    >>> observer = Percentile(99.0)
    >>> observer.add(torch.randn(1000))
    """

    _SHIFT = 15
    _HALF = 2 ** (31 - _SHIFT)  # buckets of each sign

    def __init__(self, percentile: float) -> None:
        self.percentile = percentile
        self._extremes = MinMax()
        self._counts: Tensor | None = None

    def add(self, x: Tensor) -> None:
        """Raises ValueError if a value is NaN or Inf."""
        if x.numel() == 0:
            return
        self._extremes.add(x)
        bits = x.detach().reshape(-1).view(torch.int32)
        magnitude = (bits & 0x7FFFFFFF) >> self._SHIFT
        # In the order of the values: negative ones from large to small, then the others.
        bucket = torch.where(bits < 0, self._HALF - 1 - magnitude, self._HALF + magnitude)
        counts = torch.bincount(bucket, minlength=2 * self._HALF)
        self._counts = counts if self._counts is None else self._counts + counts

    def range(self) -> tuple[Tensor, Tensor] | None:
        extremes = self._extremes.range()
        if extremes is None or self._counts is None:
            return None
        below = self._counts.cumsum(0)
        total = int(below[-1])
        cut = math.floor(total * (100.0 - self.percentile) / 200.0)  # values, on each side
        ranks = torch.tensor([cut, total - 1 - cut], device=below.device)
        low, high = torch.searchsorted(below, ranks, right=True).tolist()
        bounds = torch.tensor([self._edges(low)[0], self._edges(high)[1]], dtype=torch.float64)
        bounds = bounds.to(torch.float32).to(below.device)
        lo, hi = bounds.clamp(*extremes).unbind()
        return lo, hi

    def _edges(self, bucket: int) -> tuple[float, float]:
        """The smallest and the largest value that fall into a bucket, the outer one rounded out."""
        magnitude = bucket - self._HALF if bucket >= self._HALF else self._HALF - 1 - bucket
        ends = torch.tensor([magnitude, magnitude + 1], dtype=torch.int32) << self._SHIFT
        inner, outer = ends.view(torch.float32).tolist()
        return (inner, outer) if bucket >= self._HALF else (-outer, -inner)


def observer_for(scheme: Int8) -> Observer:
    """A fresh observer of the kind that a scheme names."""
    return Percentile(scheme.percentile) if scheme.observer == "percentile" else MinMax()
