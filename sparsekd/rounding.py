"""The error that rounding can cause in an fp32 or bf16 layer, held against each of its outputs.

docs/numerics.md: before the activation an output is within ``2 gamma_n (|W||x| + |b|) +
n 2^-126`` of the float64 result, n terms, u = 2^-24; for bf16 that of the rounded weights and
inputs. The weight itself is compared with the reference's first.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sparsekd.modules import weight_mask
from sparsekd.nn import Conv1d, Conv2d, Linear
from sparsekd.numerics import ACTIVATIONS
from sparsekd.spec import Bf16

__all__ = ["EngineLayer", "Norm", "outside_bound", "wrong_weights"]

EngineLayer = Linear | Conv1d | Conv2d
Norm = _BatchNorm | None

_U32, _U16 = 2.0**-24, 2.0**-8  # unit roundoff of fp32 and of bf16
_SMALLEST = 2.0**-126
_FOLDING = 8 * _U32  # the roundings that folding a BatchNorm takes
_SLOPE = {"relu": 1.0, "relu6": 1.0, "gelu": 1.13, "silu": 1.1, "hardswish": 1.5}  # the steepest


def wrong_weights(engine: EngineLayer, layer: nn.Module, norm: Norm) -> int:
    """How many weights and biases of an fp32 or bf16 layer are not its reference's, rounded."""
    weight, bias, shift = _reference(layer, norm)
    got = engine.weight_dequantized().double()
    if norm is None:
        wanted = weight.float()
        if isinstance(engine.scheme, Bf16):
            wanted = wanted.bfloat16()
        wrong = int((got != wanted.double()).sum())
        if engine.bias is not None:
            wrong += int((engine.bias.double() != bias).sum())
        return wrong
    relative = _FOLDING + (1.01 * _U16 if isinstance(engine.scheme, Bf16) else 0.0)
    wrong = int(((got - weight).abs() > relative * weight.abs() + _SMALLEST).sum())
    assert engine.bias is not None  # folding gives one
    return wrong + int(((engine.bias.double() - bias).abs() > _FOLDING * shift + _SMALLEST).sum())


def outside_bound(engine: EngineLayer, x: Tensor, got: Tensor) -> int:
    """How many outputs ``got`` of an fp32 or bf16 layer are too far from the float64 result.

    Args:
        x: the layer's input, fp32; got: its output. What is NaN or Inf in float64 is not compared.
    """
    weight = engine.weight_dequantized().double()
    bias = torch.zeros(len(weight)) if engine.bias is None else engine.bias
    inputs = (x.bfloat16() if isinstance(engine.scheme, Bf16) else x).double()
    exact = _apply(engine, inputs, weight, bias.double())
    size = _apply(engine, inputs.abs(), weight.abs(), bias.double().abs())
    terms = weight[0].numel() + 1 if len(weight) else 1
    gamma = terms * _U32 / (1 - terms * _U32)
    allowed = 2 * gamma * size + terms * _SMALLEST
    known = exact.float().isfinite() & allowed.isfinite()
    if engine.activation is not None:
        exact = ACTIVATIONS[engine.activation](exact)
        allowed = _SLOPE[engine.activation] * allowed
        if engine.activation not in ("relu", "relu6"):
            allowed = allowed + 8 * _U32 * exact.abs() + 1e-7  # 4 ulp, docs/numerics.md
    return int((known & ~((got.double() - exact).abs() <= allowed)).sum())


def _apply(engine: EngineLayer, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    if isinstance(engine, Linear):
        return F.linear(x, weight, bias)
    conv: Callable[..., Tensor] = F.conv1d if isinstance(engine, Conv1d) else F.conv2d
    return conv(x, weight, bias, engine.stride, engine.padding, engine.dilation, engine.groups)


def _reference(layer: nn.Module, norm: Norm) -> tuple[Tensor, Tensor, Tensor]:
    """Weight and bias in float64, and the sum of magnitudes that the bias is rounded from."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    weight = weight.detach()
    weight = (weight if weight.layout is torch.strided else weight.to_dense()).double()
    if (mask := weight_mask(layer)) is not None:
        weight = weight.masked_fill(mask == 0, 0.0)
    own = layer.bias
    bias = own.detach().double() if isinstance(own, Tensor) else weight.new_zeros(len(weight))
    if norm is None:
        return weight, bias, bias.abs()
    assert norm.running_mean is not None  # or it would not have been folded
    assert norm.running_var is not None
    mean, var = norm.running_mean.double(), norm.running_var.double()
    gamma = torch.ones_like(mean) if norm.weight is None else norm.weight.detach().double()
    beta = torch.zeros_like(mean) if norm.bias is None else norm.bias.detach().double()
    factor = gamma / (var + norm.eps).sqrt()
    by_output = factor.reshape(-1, *[1] * (weight.dim() - 1))
    shift = (bias.abs() + mean.abs()) * factor.abs() + beta.abs()
    return weight * by_output, (bias - mean) * factor + beta, shift
