"""Layers for the tests of ``sparsekd.nn``, and what they must compute, from ``numerics`` alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.overrides import BaseTorchFunctionMode

from sparsekd import nn as engine
from sparsekd import numerics
from sparsekd.quantize import calibrate, prepare_
from sparsekd.spec import Int8, Unstructured

__all__ = ["expected", "float_linear", "linear", "static_linear", "through_op"]


def float_linear(
    inputs: int = 70, outputs: int = 37, *, bias: bool = True, sparsity: float = 0.0
) -> nn.Linear:
    """A torch layer whose first share of weights, the small ones, is zero."""
    layer = nn.Linear(1, 1, bias=bias)  # torch warns when it initialises a layer without weights
    layer.in_features, layer.out_features = inputs, outputs
    weight = torch.randn(outputs, inputs)
    layer.weight = nn.Parameter(weight * Unstructured(sparsity).mask(weight.abs()))
    if bias:
        layer.bias = nn.Parameter(torch.randn(outputs))
    return layer.eval()


def linear(
    inputs: int = 70,
    outputs: int = 37,
    *,
    bias: bool = True,
    sparsity: float = 0.5,
    kernel: str = "windowed",
    activation: str | None = None,
) -> engine.Linear:
    """An engine layer with dynamic activations."""
    layer = float_linear(inputs, outputs, bias=bias, sparsity=sparsity)
    return engine.Linear.from_float(layer, scheme=Int8(), kernel=kernel, activation=activation)


def static_linear(
    inputs: int = 70, outputs: int = 37, *, kernel: str = "windowed", low: float = -1.0
) -> engine.Linear:
    """An engine layer with static activations, calibrated to [low, 4]."""
    model = nn.Sequential(float_linear(inputs, outputs, sparsity=0.5))
    prepare_(model, Int8("static"))
    calibrate(model, [torch.linspace(low, 4.0, 3 * inputs).reshape(3, inputs)])
    return engine.Linear.from_float(model[0], kernel=kernel)


def through_op(layer: nn.Module, x: object) -> Tensor:
    """The layer's result by way of the registered op: any mode keeps it off the direct path."""
    with BaseTorchFunctionMode():
        y: Tensor = layer(x)
    return y


def expected(layer: engine.Linear, x: Tensor) -> Tensor:
    """What the layer must give for x, bit for bit (activations other than ReLU: torch's)."""
    if layer.input_scale is None or layer.input_zero_point is None:
        a, scale = numerics.quantize_rows(x)
        bound = numerics.MAX_INT
    else:
        zero_point = int(layer.input_zero_point)
        scale = layer.input_scale
        a = numerics.quantize_affine(x, scale, layer.input_zero_point) - zero_point
        bound = max(zero_point, 255 - zero_point)
    y = numerics.integer_linear(a, layer.int_weight().float(), bound) * (scale * layer.scale)
    if layer.bias is not None:
        y = y + layer.bias
    return y if layer.activation is None else numerics.ACTIVATIONS[layer.activation](y)
