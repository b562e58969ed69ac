"""One Linear layer to be computed by everyone, and the error of what they give."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsekd.bench.peers import Engine

__all__ = ["LinearProblem", "output_error"]

T = TypeVar("T")
_COPIES = 4  # inputs that calls rotate among
_CHECKED_ROWS = 64  # of each input


@dataclass(frozen=True)
class LinearProblem:
    """One Linear layer and the inputs it is called on.

    Attributes:
        weight: fp32 [outputs, inputs].
        bias: fp32 [outputs].
        inputs: several tensors, fp32 [rows, inputs]; calls rotate among them.
        threads: how many threads each engine may use.
        shared: what depends on the weight alone and is costly to make, by name; problems of the
            same weight share it.
    """

    weight: Tensor
    bias: Tensor
    inputs: tuple[Tensor, ...]
    threads: int
    shared: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def random(
        cls, in_features: int, out_features: int, rows: int, *, threads: int, seed: int = 0
    ) -> LinearProblem:
        """Normal inputs, normal weights of variance 1/inputs; the same seed gives the same."""
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(out_features, in_features, generator=generator) / in_features**0.5
        return cls.of(weight, rows, threads=threads, seed=seed)

    @classmethod
    def of(cls, weight: Tensor, rows: int, *, threads: int, seed: int = 0) -> LinearProblem:
        """A layer of this weight (fp32 [outputs, inputs]), with normal bias and inputs."""
        generator = torch.Generator().manual_seed(seed + 1)
        bias = torch.randn(weight.shape[0], generator=generator)
        empty = cls(weight.contiguous(), bias, (), threads)
        return empty.with_inputs(rows, threads=threads, seed=seed)

    def with_inputs(self, rows: int, *, threads: int, seed: int = 0) -> LinearProblem:
        """The same layer on other inputs, fp32 [rows, inputs]."""
        generator = torch.Generator().manual_seed(seed + 2)
        shape = (rows, self.weight.shape[1])
        inputs = tuple(torch.randn(shape, generator=generator) for _ in range(_COPIES))
        return LinearProblem(self.weight, self.bias, inputs, threads, self.shared)

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What ``make`` gives, made once for all problems of this weight."""
        if name not in self.shared:
            self.shared[name] = make()
        made: T = self.shared[name]
        return made

    @property
    def rows(self) -> int:
        """Of each input."""
        return self.inputs[0].shape[0]

    def linear(self) -> nn.Linear:
        """A fresh float layer with this weight and bias, in eval mode."""
        layer = nn.Linear(self.weight.shape[1], self.weight.shape[0])
        with torch.no_grad():
            layer.weight.copy_(self.weight)
            layer.bias.copy_(self.bias)
        return layer.eval().requires_grad_(False)

    def reference(self, index: int = 0, weight: Tensor | None = None) -> Tensor:
        """The float64 output for one of the inputs, float64 [rows, outputs]."""
        used = self.weight if weight is None else weight
        return F.linear(self.inputs[index].double(), used.double(), self.bias.double())


def output_error(engine: Engine, problem: LinearProblem) -> float:
    """Root mean square of (output - float64 output) over that of the float64 output.

    Over all inputs, of each at most 64 rows, the first, the last and evenly spread ones between.
    """
    count = min(problem.rows, _CHECKED_ROWS)
    rows = torch.linspace(0, problem.rows - 1, count).round().long()
    weight = (problem.weight if engine.weight is None else engine.weight).double()
    wrong = right = 0.0
    for index, x in enumerate(problem.inputs):
        expected = F.linear(x[rows].double(), weight, problem.bias.double())
        wrong += float((engine.output(index)[rows].double() - expected).square().sum())
        right += float(expected.square().sum())
    return math.sqrt(wrong / right if right else wrong)
