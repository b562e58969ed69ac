"""The fused activations: bits equal across instruction sets, close to the exact value."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from linear_layers import linear
from torch import Tensor, nn

from sparsekd import backend, numerics
from sparsekd import nn as engine
from sparsekd.spec import Int8

SMOOTH = ("gelu", "silu")


def values() -> Tensor:
    """fp32 numbers of every magnitude and sign, dense where the functions bend."""
    powers = torch.arange(-149, 128, dtype=torch.float64).exp2()
    wide = torch.cat([powers, powers * 1.37])
    near = torch.linspace(0, 110, 30_001, dtype=torch.float64)
    positive = torch.cat([wide, near, torch.tensor([torch.finfo(torch.float32).max])])
    return torch.cat([positive, -positive]).float()


def applied(activation: str | None, y: Tensor, kernel: str = "dense") -> Tensor:
    """The engine's activation of y: a layer without weights whose bias is y."""
    layer = nn.Linear(1, len(y))
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.copy_(y)
    fast = engine.Linear.from_float(layer, scheme=Int8(), kernel=kernel, activation=activation)
    result: Tensor = fast(torch.ones(1, 1))[0]
    return result


def exact(activation: str, y: Tensor) -> Tensor:
    """float64; erfc, since 1 + erf cancels for negative y."""
    y = y.double()
    if activation == "silu":
        return y * torch.sigmoid(y)
    return 0.5 * y * torch.special.erfc(-y / math.sqrt(2))


def ulp(value: Tensor) -> Tensor:
    """The distance of fp32 numbers at a float64 value, as float64."""
    exponent = torch.frexp(value.abs()).exponent.clamp(min=-125)
    return torch.ldexp(torch.ones_like(value), exponent - 24)


@pytest.mark.parametrize("activation", SMOOTH)
def test_close_to_the_exact_value(isa: str, activation: str) -> None:
    """Within 4 ulp + 1e-7 (docs/numerics.md)."""
    y = values()
    got, wanted = applied(activation, y).double(), exact(activation, y)
    excess = (got - wanted).abs() - (4 * ulp(wanted) + 1e-7)
    worst = int(excess.argmax())
    assert excess[worst] <= 0, f"{activation}({y[worst]}) = {got[worst]}, exact {wanted[worst]}"


@pytest.mark.parametrize("activation", SMOOTH)
def test_close_to_torch(isa: str, activation: str) -> None:
    """torch's own fp32 GELU is up to 1.2e-6 away from the exact value (measured)."""
    y = values()
    y = y[y.abs() < 1e6]
    torch.testing.assert_close(
        applied(activation, y), getattr(F, activation)(y), rtol=1e-6, atol=2e-6
    )


@pytest.mark.parametrize("activation", [None, *numerics.ACTIVATIONS])
@pytest.mark.parametrize("kernel", backend.KERNELS)
def test_the_same_bits_on_every_instruction_set(activation: str | None, kernel: str) -> None:
    y, layer, x = values(), linear(200, 50, activation=activation), torch.randn(9, 200)
    bits = []
    for name in backend.available_isas():
        backend.set_isa(name)
        bits.append(
            torch.cat([applied(activation, y, kernel), layer(x).flatten()]).view(torch.int32)
        )
    assert all(torch.equal(bits[0], other) for other in bits[1:])


def test_the_others_are_exactly_those_of_numerics(isa: str) -> None:
    y = values()
    assert torch.equal(applied(None, y), y)
    for activation in numerics.ACTIVATIONS.keys() - set(SMOOTH):
        assert torch.equal(applied(activation, y), numerics.ACTIVATIONS[activation](y)), activation


@pytest.mark.parametrize(
    ("activation", "value", "wanted"),
    [
        (None, math.nan, math.nan),
        (None, -math.inf, -math.inf),
        ("relu", math.nan, math.nan),
        ("relu", math.inf, math.inf),
        ("relu", -math.inf, 0.0),
        ("gelu", math.nan, math.nan),
        ("gelu", math.inf, math.inf),
        ("silu", math.nan, math.nan),
        ("silu", math.inf, math.inf),
    ],
)
def test_special_values(isa: str, activation: str | None, value: float, wanted: float) -> None:
    got = applied(activation, torch.full((17,), value))
    assert torch.equal(got.nan_to_num(nan=-7.0), torch.full((17,), wanted).nan_to_num(nan=-7.0))


@pytest.mark.parametrize("activation", SMOOTH)
def test_minus_infinity_goes_to_the_limit_or_nan(isa: str, activation: str) -> None:
    """torch gives NaN (-Inf * 0); zero, the limit, is as good; anything else is not."""
    got = applied(activation, torch.full((17,), -math.inf))
    assert (got.isnan() | (got.abs() < 1e-30)).all()
