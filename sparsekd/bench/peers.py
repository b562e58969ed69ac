"""What every engine of a comparison looks like, whoever wrote it.

A contender builds an :class:`Engine` for a problem: it pins its threads, does all packing there and
then, and says in ``config`` how it was set up.
"""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module, metadata
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "Engine",
    "PeerMissingError",
    "dynamic_int8",
    "module_engine",
    "require",
    "rotate",
    "version_of",
]


@dataclass(frozen=True)
class Engine:
    """A ready layer or model: everything that is done once has been done.

    Attributes:
        version: the package and its version.
        run: one call on the next of the problem's inputs; this is what is timed.
        output: fp32, for the problem's input of that index; for checking, not timed.
        config: how it was set up, in plain JSON types.
        weight: the weight that it computes with, where it is not the problem's own (because it was
            pruned); fp32 in the problem's shape.
        model: likewise for whole models: the float model with those weights.
        work, moved: multiply-adds and bytes of one call, as in :class:`Entry`.
    """

    version: str
    run: Callable[[], object]
    output: Callable[[int], Tensor]
    config: Mapping[str, Any] = field(default_factory=dict)
    weight: Tensor | None = None
    model: nn.Module | None = None
    work: int | None = None
    moved: int | None = None


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


def module_engine(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    *,
    version: str,
    config: Mapping[str, Any],
    weight: Tensor | None = None,
    work: int | None = None,
    moved: int | None = None,
) -> Engine:
    """An engine that is a torch module; its threads are torch's, which the caller has set."""
    turns = itertools.cycle(inputs)

    def output(index: int) -> Tensor:
        with torch.inference_mode():
            result: Tensor = module(inputs[index])
            return result.float()

    return Engine(
        version, lambda: module(next(turns)), output, config, weight, work=work, moved=moved
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
