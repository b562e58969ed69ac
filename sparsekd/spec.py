"""What training and inference both need to know: sparsity patterns and quantization schemes.

Frozen data and pure functions only; this module imports nothing but torch.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

__all__ = [
    "NM",
    "Bf16",
    "Fp32",
    "Int8",
    "Pattern",
    "Scheme",
    "Unstructured",
    "pattern_from",
    "scheme_from",
]


@dataclass(frozen=True)
class Pattern:
    """Which positions of a weight may be kept. Subclasses: :class:`NM`, :class:`Unstructured`."""

    def mask(self, score: Tensor) -> Tensor:
        """Choose the weights to keep.

        Args:
            score: [outputs, inputs...], float; the higher, the more worth keeping.

        Returns:
            bool tensor of the same shape, True where the weight is kept.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define mask()")

    @property
    def density(self) -> float:
        """The share of weights that the pattern keeps in a layer of full groups, 0..1."""
        raise NotImplementedError(f"{type(self).__name__} does not define density")


@dataclass(frozen=True)
class NM(Pattern):
    """At most ``n`` of every ``m`` consecutive inputs of an output are kept.

    A short last group of length r keeps at most ceil(n * r / m). Ties go to the lower input.
    After Mishra et al., "Accelerating Sparse Deep Neural Networks" (2021), with larger groups.

    >>> NM(4, 32).density
    0.125
    """

    n: int
    m: int = 32

    def __post_init__(self) -> None:
        if not (isinstance(self.n, int) and isinstance(self.m, int)) or not 1 <= self.n <= self.m:
            raise ValueError(f"NM needs integers with 1 <= n <= m, got n={self.n!r}, m={self.m!r}")

    def mask(self, score: Tensor) -> Tensor:
        if score.dim() < 2:
            raise ValueError(
                f"NM needs a weight of at least 2 dimensions, got {tuple(score.shape)}"
            )
        flat = score.reshape(score.shape[0], -1)
        outputs, inputs = flat.shape
        keep = torch.zeros_like(flat, dtype=torch.bool)
        whole = inputs - inputs % self.m
        if whole:
            groups = flat[:, :whole].reshape(outputs, -1, self.m)
            keep[:, :whole] = _top(groups, self.n).reshape(outputs, whole)
        if whole < inputs:
            rest = flat[:, whole:]
            keep[:, whole:] = _top(rest, math.ceil(self.n * rest.shape[1] / self.m))
        return keep.reshape(score.shape)

    @property
    def density(self) -> float:
        return self.n / self.m

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"


@dataclass(frozen=True)
class Unstructured(Pattern):
    """The best ``1 - sparsity`` of all weights of a layer are kept, wherever they stand.

    >>> Unstructured(0.9).mask(torch.rand(10, 10)).sum().item()
    10
    """

    sparsity: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.sparsity < 1.0:
            raise ValueError(f"Unstructured needs 0 <= sparsity < 1, got {self.sparsity!r}")

    def mask(self, score: Tensor) -> Tensor:
        kept = score.numel() - round(self.sparsity * score.numel())
        return _top(score.reshape(1, -1), kept).reshape(score.shape)

    @property
    def density(self) -> float:
        return 1.0 - self.sparsity

    def __str__(self) -> str:
        return f"unstructured:{self.sparsity:g}"


@dataclass(frozen=True)
class Int8:
    """Int8 weights (symmetric, one scale an output) and 8-bit activations.

    Attributes:
        activations: "dynamic" takes the scale of each row from the row itself (symmetric);
            "static" uses one calibrated scale and zero point for the whole tensor.
        observer: how "static" ranges are found: "minmax" (the extremes seen) or "percentile".
        percentile: the share of values, 50..100, that a "percentile" range covers.
    """

    activations: Literal["dynamic", "static"] = "dynamic"
    observer: Literal["minmax", "percentile"] = "minmax"
    percentile: float = 99.99

    def __post_init__(self) -> None:
        if self.activations not in ("dynamic", "static"):
            raise ValueError(
                f"Int8 activations are 'dynamic' or 'static', got {self.activations!r}"
            )
        if self.observer not in ("minmax", "percentile"):
            raise ValueError(f"Int8 observers are 'minmax' or 'percentile', got {self.observer!r}")
        if not 50.0 <= self.percentile <= 100.0:
            raise ValueError(f"Int8 percentile must lie in 50..100, got {self.percentile!r}")


@dataclass(frozen=True)
class Fp32:
    """fp32 weights and activations: nothing is rounded, only the order of sums differs from torch.

    Attributes:
        window: inputs of a window of the windowed format, 16 or 32; None takes the one that the
            weight's own mask makes cheaper (16 for n:16 masks).
    """

    window: Literal[16, 32] | None = None

    def __post_init__(self) -> None:
        if self.window not in (None, 16, 32):
            raise ValueError(f"Fp32 windows have 16 or 32 inputs, got {self.window!r}")


@dataclass(frozen=True)
class Bf16:
    """bf16 weights and activations (rounded to nearest even), sums in fp32."""


Scheme = Int8 | Fp32 | Bf16

_SCHEMES: dict[str, type[Int8] | type[Fp32] | type[Bf16]] = {
    "int8": Int8,
    "fp32": Fp32,
    "bf16": Bf16,
}


def scheme_from(value: Scheme | str) -> Scheme:
    """A scheme from its short name: "int8", "fp32" or "bf16".

    Raises:
        ValueError: the name is unknown; the message lists the names.
    """
    if isinstance(value, (Int8, Fp32, Bf16)):
        return value
    if isinstance(value, str) and value in _SCHEMES:
        return _SCHEMES[value]()
    raise ValueError(f"unknown scheme {value!r}; expected {', '.join(_SCHEMES)} or a scheme object")


def pattern_from(value: Pattern | str) -> Pattern:
    """A pattern from its short name: ``"4:32"`` or ``"unstructured:0.9"``.

    Raises:
        ValueError: the name is unknown; the message lists the forms.
    """
    if isinstance(value, Pattern):
        return value
    if isinstance(value, str):
        if found := re.fullmatch(r"(\d+):(\d+)", value):
            return NM(int(found[1]), int(found[2]))
        if found := re.fullmatch(r"unstructured:(\d*\.?\d+)", value):
            return Unstructured(float(found[1]))
    raise ValueError(
        f"unknown pattern {value!r}; expected a Pattern, 'n:m' such as '4:32', "
        "or 'unstructured:0.9'"
    )


def _top(score: Tensor, count: int) -> Tensor:
    """True at the ``count`` highest scores of the last dimension; a stable sort settles ties."""
    order = torch.sort(score, dim=-1, descending=True, stable=True).indices
    return torch.zeros_like(score, dtype=torch.bool).scatter_(-1, order[..., :count], True)
