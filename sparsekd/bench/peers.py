"""What every engine of the comparison looks like, whoever wrote it.

A peer builds an :class:`Engine` for a :class:`LinearProblem`: it pins its threads, does all packing
there and then, and says in ``config`` how it was set up.
"""

from __future__ import annotations

import itertools
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module, metadata
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "Engine",
    "Kind",
    "LinearProblem",
    "Peer",
    "PeerMissingError",
    "output_error",
    "rotate",
    "torch_peers",
]

Kind = Literal["dense fp32", "dense bf16", "dense int8", "sparse int8"]


@dataclass(frozen=True)
class LinearProblem:
    """One Linear layer and the inputs it is called on.

    Attributes:
        weight: fp32 [outputs, inputs].
        bias: fp32 [outputs].
        inputs: several tensors, fp32 [rows, inputs]; calls rotate among them.
        threads: how many threads each engine may use.
    """

    weight: Tensor
    bias: Tensor
    inputs: tuple[Tensor, ...]
    threads: int

    @classmethod
    def random(
        cls,
        in_features: int,
        out_features: int,
        rows: int,
        *,
        threads: int,
        seed: int = 0,
        copies: int = 4,
    ) -> LinearProblem:
        """Normal inputs, normal weights of variance 1/inputs; the same seed gives the same."""
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(out_features, in_features, generator=generator) / in_features**0.5
        bias = torch.randn(out_features, generator=generator)
        inputs = [torch.randn(rows, in_features, generator=generator) for _ in range(copies)]
        return cls(weight, bias, tuple(inputs), threads)

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


@dataclass(frozen=True)
class Engine:
    """A ready layer: everything that is done once has been done.

    Attributes:
        version: the package and its version.
        run: one call on the next of the problem's inputs; this is what is timed.
        output: fp32 [rows, outputs] for the problem's input of that index; for checking, not timed.
        config: how it was set up, in plain JSON types.
        weight: fp32 [outputs, inputs], where it is not the problem's own (because it was pruned).
    """

    version: str
    run: Callable[[], object]
    output: Callable[[int], Tensor]
    config: Mapping[str, Any] = field(default_factory=dict)
    weight: Tensor | None = None


@dataclass(frozen=True)
class Peer:
    """A contender: what it is called and how its engine is built.

    Attributes:
        kind: what it competes as.
        build: does all packing and compiling; raises :class:`PeerMissingError` where its package
            is absent.
        ours: it is judged against the others, and no yardstick itself.
    """

    name: str
    kind: Kind
    build: Callable[[LinearProblem], Engine]
    ours: bool = False


class PeerMissingError(ImportError):
    """An engine's package is not installed; the message names it and the remedy."""


def require(module: str, package: str | None = None) -> ModuleType:
    """Import an optional package.

    Raises:
        PeerMissingError: it is not installed, or it does not load.
    """
    name = package or module.partition(".")[0]
    try:
        return import_module(module)
    except ModuleNotFoundError:
        raise PeerMissingError(f"{name}: not installed, pip install 'sparsekd[bench]'") from None
    except ImportError as error:
        raise PeerMissingError(f"{name}: does not load ({error})") from error


def version_of(package: str) -> str:
    """An installed package's version."""
    return f"{package} {metadata.version(package)}"


def rotate(calls: Sequence[Callable[[], object]]) -> Callable[[], object]:
    """A callable that runs the next of ``calls`` each time."""
    turns = itertools.cycle(calls)
    return lambda: next(turns)()


def output_error(engine: Engine, problem: LinearProblem) -> float:
    """Root mean square of (output - float64 output) over that of the float64 output, all inputs."""
    wrong = right = 0.0
    for index in range(len(problem.inputs)):
        expected = problem.reference(index, engine.weight)
        wrong += float((engine.output(index).double() - expected).square().sum())
        right += float(expected.square().sum())
    return math.sqrt(wrong / right if right else wrong)


def module_engine(
    layer: nn.Module,
    inputs: tuple[Tensor, ...],
    *,
    version: str,
    config: Mapping[str, Any],
    weight: Tensor | None = None,
) -> Engine:
    """An engine that is a torch module; its threads are torch's, which the caller has set."""
    turns = itertools.cycle(inputs)

    def output(index: int) -> Tensor:
        with torch.inference_mode():
            result: Tensor = layer(inputs[index])
            return result.float()

    return Engine(version, lambda: layer(next(turns)), output, config, weight)


def _torch_fp32(problem: LinearProblem) -> Engine:
    config = {"threads": problem.threads}
    return module_engine(
        problem.linear(), problem.inputs, version=version_of("torch"), config=config
    )


def _torch_bf16(problem: LinearProblem) -> Engine:
    inputs = tuple(x.bfloat16() for x in problem.inputs)
    config = {"threads": problem.threads, "inputs and outputs": "bf16, converted outside the call"}
    return module_engine(
        problem.linear().bfloat16(), inputs, version=version_of("torch"), config=config
    )


def dynamic_int8(model: nn.Module) -> nn.Module:
    """torch's own dynamic int8: deprecated, still what its users have.

    Args:
        model: a float model; it is left as it is.
    """
    from torch.ao.quantization import quantize_dynamic

    with warnings.catch_warnings():
        for subject in ("torch.ao.quantization", "torch.quantize_per_tensor", "TypedStorage"):
            message = rf"(?s).*{re.escape(subject)}.*deprecated"
            warnings.filterwarnings("ignore", message=message)
        made: nn.Module = quantize_dynamic(  # type: ignore[no-untyped-call]
            model, {nn.Linear}, dtype=torch.qint8
        )
    return made


def _torch_dynamic_int8(problem: LinearProblem) -> Engine:
    layer = dynamic_int8(nn.Sequential(problem.linear()))
    config = {"threads": problem.threads, "backend": str(torch.backends.quantized.engine)}
    return module_engine(layer, problem.inputs, version=version_of("torch"), config=config)


def torch_peers() -> list[Peer]:
    """torch in fp32, bf16 and dynamic int8."""
    return [
        Peer("torch fp32", "dense fp32", _torch_fp32),
        Peer("torch bf16", "dense bf16", _torch_bf16),
        Peer("torch dynamic int8", "dense int8", _torch_dynamic_int8),
    ]
