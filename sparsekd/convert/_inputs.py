"""Example inputs, and running a model on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Run", "run_all", "runs_of"]

_SEED = 0  # models that draw numbers in eval draw the same ones in every run

Run = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments of one call."""


def runs_of(example_inputs: object) -> list[Run]:
    """The calls that example inputs stand for.

    Args:
        example_inputs: a tensor, a tuple (positional arguments), a dict (keyword arguments), or a
            list of these, one for each call.

    Raises:
        ValueError: an empty list.
    """
    listed = example_inputs if isinstance(example_inputs, list) else [example_inputs]
    if not listed:
        raise ValueError("example_inputs is an empty list; expected at least one call's inputs")
    return [_run_of(entry) for entry in listed]


def _run_of(inputs: object) -> Run:
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (inputs if isinstance(inputs, tuple) else (inputs,)), {}


def run_all(model: nn.Module, runs: Sequence[Run]) -> None:
    """Call the model on every input.

    Raises:
        RuntimeError: it fails, which a layer whose weight is read by the forward code causes.
    """
    try:
        # no_grad, for tensors that forward code keeps must not become inference tensors
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            for args, kwargs in runs:
                model(*map(_own, args), **{key: _own(value) for key, value in kwargs.items()})
    except Exception as error:
        raise RuntimeError(
            f"the converted model fails on the example inputs ({type(error).__name__}: {error}); "
            "if the forward code reads a layer's weight, leave that layer out with exclude"
        ) from error


def _own(value: Any) -> Any:
    """Forward code may write into its inputs."""
    return value.clone() if isinstance(value, Tensor) else value
