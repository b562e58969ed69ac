"""``calibrate``: static input ranges from example data, without training."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sparsekd.quantize._fake_quant import FakeQuantLayer
from sparsekd.quantize._observers import observer_for

__all__ = ["calibrate"]


def calibrate(model: nn.Module, data: Iterable[Any]) -> nn.Module:
    """Find the static input ranges of all fake-quantized layers by running the model on examples.

    The model runs in eval mode and without gradients; every module's mode is as before afterwards.
    While it runs, static layers use quantized weights and float activations, so that the range
    of one layer does not depend on another's. Each range is that of all values seen in this call:
    "minmax" takes the extremes; "percentile" leaves out (100 - percentile) / 2 percent of all
    values at either end, which keeps a few outliers from spending the integers (they are counted
    over all batches in buckets 2^-8 wide relative to the values). An earlier range is replaced. A
    model with dynamic activations only needs no calibration and is left as it is.

    Args:
        model: prepared with ``prepare_``.
        data: batches: each a tensor (one argument), a tuple or list (positional arguments) or a
            mapping (keyword arguments). It is read once.

    Returns:
        the model.

    Raises:
        TypeError: ``data`` is a single batch instead of an iterable of batches, or a batch has
            another type.
        ValueError: no fake-quantized layer, no batch, or NaN or Inf at a layer's input. On any
            error all ranges stay as they were.

    >>> prepare_(model, Int8("static", observer="percentile"))
    >>> calibrate(model, [torch.rand(64, 128) for _ in range(8)])
    """
    if isinstance(data, (Tensor, Mapping, str)):
        raise TypeError(
            f"data must be an iterable of batches, got one {type(data).__name__}: put it in a list"
        )
    layers = [module for module in model.modules() if isinstance(module, FakeQuantLayer)]
    if not layers:
        raise ValueError("the model has no fake-quantized layer: call quantize.prepare_ first")
    static = [layer for layer in layers if layer.scheme.activations == "static"]
    if not static:
        return model
    modes = [(module, module.training) for module in model.modules()]
    try:
        for layer in static:
            layer._observer = observer_for(layer.scheme)
        model.eval()
        with torch.no_grad():
            _run(model, data)
        _set_ranges(static)
    finally:
        for layer in static:
            layer.__dict__.pop("_observer", None)
        for module, mode in modes:
            module.training = mode
    return model


def _set_ranges(layers: list[FakeQuantLayer]) -> None:
    """Take over what the observers saw: of all layers, or on an error of none."""
    ranges = [None if layer._observer is None else layer._observer.range() for layer in layers]
    for layer, seen in zip(layers, ranges, strict=True):
        if seen is not None:
            layer.range_params(*seen)  # raises for a range that can not be used
    for layer, seen in zip(layers, ranges, strict=True):
        if seen is None:
            warnings.warn(
                f"calibrate: no value reached {layer.where}, so its input range is as before",
                stacklevel=3,
            )
        else:
            layer.set_input_range(*seen)


def _run(model: nn.Module, data: Iterable[Any]) -> None:
    from tqdm import tqdm  # imported here: training code must not need it

    batches = 0
    for batch in tqdm(data, desc="calibrate", unit="batch", leave=False, disable=None):
        if isinstance(batch, Tensor):
            model(batch)
        elif isinstance(batch, Mapping):
            model(**batch)
        elif isinstance(batch, (tuple, list)):
            model(*batch)
        else:
            raise TypeError(
                f"a batch must be a tensor, a tuple, a list or a mapping, got "
                f"{type(batch).__name__}"
            )
        batches += 1
    if batches == 0:
        raise ValueError("data gave no batch to calibrate on")
