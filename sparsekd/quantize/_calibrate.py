"""``calibrate``: static input ranges from example data, without training."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sparsekd.batches import split_batch
from sparsekd.quantize._fake_quant import FakeQuantLayer
from sparsekd.quantize._observers import observer_for

__all__ = ["calibrate"]

Forward = Callable[[nn.Module, Any], object]


def calibrate(
    model: nn.Module, data: Iterable[Any], *, forward: Forward | None = None
) -> nn.Module:
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
        data: batches, such as a DataLoader of a data set with labels. A batch is a tensor; a pair
            (inputs, labels), or the inputs alone in a list of one; or a mapping of keyword
            arguments. Labels, in a mapping the entry "labels", are left out. It is read once.
        forward: calls the model on batches of any other form, such as
            ``lambda model, batch: model(*batch)`` for a model of several inputs.

    Returns:
        the model.

    Raises:
        TypeError: ``data`` is a single batch instead of an iterable of batches, or a batch has
            another type.
        ValueError: no fake-quantized layer, no batch, NaN or Inf at a layer's input, a batch of
            another form, or a pair where the model's forward could take both: they may be two
            inputs, so ``forward`` has to say. On any error all ranges stay as they were.

    >>> prepare_(model, Int8("static", observer="percentile"))
    >>> calibrate(model, DataLoader(examples, batch_size=64))
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
            _run(model, data, _on_inputs if forward is None else forward)
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


def _run(model: nn.Module, data: Iterable[Any], forward: Forward) -> None:
    from tqdm import tqdm  # imported here: training code must not need it

    batches = 0
    for batch in tqdm(data, desc="calibrate", unit="batch", leave=False, disable=None):
        forward(model, batch)
        batches += 1
    if batches == 0:
        raise ValueError("data gave no batch to calibrate on")


def _on_inputs(model: nn.Module, batch: Any) -> None:
    """Call the model on a batch without its labels."""
    try:
        positional, keywords, labels = split_batch(batch)
    except (TypeError, ValueError) as error:
        example = "forward=lambda model, batch: model(*batch)"
        raise type(error)(f"{error}; pass for instance {example} to calibrate") from None
    if positional and labels is not None and _takes_two(model):
        raise ValueError(
            f"a batch is a pair, and {type(model).__name__}.forward could take both: pass "
            "forward=lambda model, batch: model(batch[0]) to calibrate if the second are labels, "
            "or model(*batch) if it is an input"
        )
    model(*positional, **keywords)


def _takes_two(model: nn.Module) -> bool:
    try:
        inspect.signature(model.forward).bind(None, None)
    except TypeError:
        return False
    return True
