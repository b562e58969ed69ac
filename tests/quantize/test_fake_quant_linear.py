"""The fake-quantized Linear: its bits, its gradients, its static range, its copies."""

from __future__ import annotations

import copy
import io
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparsekd.nn as engine
from sparsekd import numerics
from sparsekd.quantize import FakeQuantLinear, Int8

STATIC = Int8("static")
RANGES = [None, (-0.7, 2.0), (0.0, 3.0), (-3.0, 0.0)]  # None: dynamic; zero points 66, 0, 255


def make(inputs=24, outputs=8, bounds=(-0.7, 2.0), bias=True) -> FakeQuantLinear:
    layer = FakeQuantLinear(inputs, outputs, bias, scheme=Int8() if bounds is None else STATIC)
    if bounds is not None:
        layer.set_input_range(*bounds)
    return layer.eval()


def in_int64(layer: FakeQuantLinear, x: Tensor) -> Tensor:
    """The layer's definition with the sums in int64."""
    q_w, w_scale = numerics.quantize_weight(layer.effective_weight().detach())
    if layer.scheme.activations == "dynamic":
        a, x_scale = numerics.quantize_rows(x)
    else:
        u = numerics.quantize_affine(x, layer.input_scale, layer.input_zero_point)
        a, x_scale = u - layer.input_zero_point, layer.input_scale
    acc = a.numpy().astype(np.int64) @ q_w.numpy().astype(np.int64).T
    y = torch.from_numpy(acc.astype(np.float32)) * (x_scale * w_scale)
    return y if layer.bias is None else y + layer.bias.detach()


def dequantized(layer: FakeQuantLinear, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The usual form of fake quantization, in plain autograd: dequantized floats, x + (q - x)."""
    q_w, w_scale = numerics.quantize_weight(weight.detach())
    w_hat = weight + (q_w * w_scale[:, None] - weight).detach()
    if layer.scheme.activations == "dynamic":
        q, scale = numerics.quantize_rows(x.detach())
        x_hat = x + (q * scale - x).detach()
    else:
        scale, zp = layer.input_scale, int(layer.input_zero_point)
        low, high = float(scale) * (-zp - 0.5), float(scale) * (255 - zp + 0.5)
        clipped = x.clamp(low, high)
        u = numerics.quantize_affine(x.detach(), scale, layer.input_zero_point)
        x_hat = clipped + ((u - zp) * scale - clipped).detach()
    return F.linear(x_hat, w_hat, bias)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("inputs", [1, 37, 3000])
@pytest.mark.parametrize("bounds", RANGES)
def test_eval_equals_int64(inputs, bounds, bias):
    layer = make(inputs, 5, bounds, bias)
    x = torch.randn(7, inputs)
    with torch.no_grad():
        layer.weight[0] = layer.weight.abs().max()  # 127 all over: past 2^24 at 3000 inputs
        x[0] = 2.0
        assert torch.equal(layer(x), in_int64(layer, x))


@pytest.mark.parametrize("kernel", ["windowed", "dense"])
@pytest.mark.parametrize("bounds", RANGES)
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (70, 40), (1500, 17)])
def test_eval_equals_the_engine(inputs, outputs, bounds, kernel):
    layer = make(inputs, outputs, bounds)
    with torch.no_grad():
        layer.weight[::2] = layer.weight[::2].sign()
        layer.register_buffer("weight_mask", torch.rand(outputs, inputs) < 0.3)
        x = torch.randn(3, 5, inputs)
        ours = engine.Linear.from_float(layer, kernel=kernel)
        assert torch.equal(layer(x), ours(x))


@pytest.mark.parametrize("bounds", RANGES)
def test_training_gives_the_same_bits_while_sums_are_small(bounds):
    layer, x = make(bounds=bounds), torch.randn(4, 24)
    reference = layer(x)
    layer.train()
    if bounds is not None:
        x[0, 0], x[0, 1] = bounds  # so that observing leaves the range where it is
        x.clamp_(*bounds)
        reference = layer.eval()(x)
        layer.train()
    assert torch.equal(layer(x), reference)


@pytest.mark.parametrize("shape", [(24,), (0, 24), (2, 0, 24), (2, 3, 24)])
@pytest.mark.parametrize("bounds", [None, (-1.0, 2.0)])
def test_any_leading_shape(shape, bounds):
    layer, x = make(bounds=bounds).train(), torch.randn(shape, requires_grad=True)
    y = layer(x)
    assert y.shape == (*shape[:-1], 8)
    y.sum().backward()
    assert x.grad.shape == x.shape
    assert layer.weight.grad.shape == layer.weight.shape


@pytest.mark.parametrize("bounds", [None, (-0.7, 2.0), (0.0, 1.0)])
@pytest.mark.parametrize("shape", [(24,), (6, 24), (2, 3, 24)])
def test_gradients_are_those_of_the_dequantized_form(shape, bounds):
    layer = make(bounds=bounds)
    x = torch.randn(shape, requires_grad=True)
    weight, bias = (p.detach().clone().requires_grad_() for p in (layer.weight, layer.bias))
    twin = x.detach().clone().requires_grad_()
    expected = dequantized(layer, twin, weight, bias)
    y = layer(x)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    grad = torch.randn_like(y)
    y.backward(grad)
    expected.backward(grad)
    torch.testing.assert_close(x.grad, twin.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(layer.weight.grad, weight.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(layer.bias.grad, bias.grad, rtol=1e-5, atol=1e-5)
    if bounds is not None:
        assert bool((x.grad == 0).any())  # some input was clipped


def test_a_static_input_outside_the_range_gets_no_gradient_and_its_ends_do():
    layer = make(6, 3, (-1.0, 2.0))
    x = torch.tensor([[-1.5, -1.0, 0.0, 2.0, 2.5, float("nan")]], requires_grad=True)
    layer(x).sum().backward()
    assert (x.grad[0] != 0).tolist() == [False, True, True, True, False, False]


def test_masked_weights_neither_count_nor_learn():
    layer = make()
    mask = torch.rand(8, 24) < 0.5
    layer.register_buffer("weight_mask", mask)
    x = torch.randn(5, 24)
    y = layer(x)
    with torch.no_grad():
        layer.weight[~mask] = 100.0
    assert torch.equal(layer(x), y)
    y.sum().backward()
    assert torch.equal(layer.weight.grad[~mask], torch.zeros(int((~mask).sum())))
    assert bool((layer.weight.grad[mask] != 0).any())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bounds", [None, (-0.7, 2.0)])
def test_half_inputs_and_autocast(bounds, dtype):
    layer = make(bounds=bounds)
    x = torch.randn(4, 24).to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
        assert y.dtype is torch.float32
        assert torch.equal(y, layer(x.float()))
        y.sum().backward()
    assert x.grad.dtype is dtype
    assert layer.weight.grad.dtype is torch.float32
    whole = dict(copy.deepcopy(layer).to(dtype).named_parameters())
    layer.load_state_dict({**layer.state_dict(), **whole})
    assert layer(x).dtype is torch.float32


@pytest.mark.parametrize("bounds", [None, (-0.7, 2.0)])
def test_bad_values_in_one_row_leave_the_others(bounds):
    layer, x = make(bounds=bounds), torch.randn(4, 24)
    clean = layer(x)
    x[1, 3], x[2, 5] = float("nan"), float("inf")
    y = layer(x)
    assert torch.equal(y[[0, 3]], clean[[0, 3]])
    if bounds is None:
        assert bool(y[1:3].isnan().all())
    else:  # NaN stands for the zero point, Inf for the end of the range
        x[1, 3], x[2, 5] = 0.0, 1e9
        assert torch.equal(y, layer(x))


def test_zero_and_tiny_rows_give_the_bias():
    layer = make(bounds=None)
    x = torch.tensor([[0.0], [1e-31], [1e-42]]).expand(3, 24)
    assert torch.equal(layer(x), layer.bias.expand(3, 8))


def test_a_layer_used_twice_in_training_has_one_gradient():
    layer = make().train()
    y = layer(torch.randn(4, 24)) + layer(3 * torch.randn(4, 24))  # the range moves in between
    y.sum().backward()
    assert bool(torch.isfinite(layer.weight.grad).all())


def test_training_moves_the_range_and_eval_does_not():
    layer = FakeQuantLinear(4, 2, scheme=STATIC)
    assert not layer.calibrated
    layer(torch.tensor([[-1.0, 0.0, 0.5, 2.0]]))
    assert (float(layer.input_min), float(layer.input_max)) == (-1.0, 2.0)
    layer(torch.tensor([[-2.0, 0.0, 0.5, 4.0]]))
    assert (float(layer.input_min), float(layer.input_max)) == pytest.approx((-1.1, 2.2))
    scale, zero_point = numerics.affine_params(layer.input_min, layer.input_max)
    assert torch.equal(layer.input_scale, scale)
    assert torch.equal(layer.input_zero_point, zero_point)
    before = copy.deepcopy(layer.state_dict())
    layer(torch.zeros(0, 4))
    layer(torch.full((1, 4), float("inf")))  # as under a gradient scaler
    layer.eval()(torch.full((1, 4), 9.0))
    for key, value in layer.state_dict().items():
        assert torch.equal(value, before[key])


def test_a_range_by_hand():
    layer = make(bounds=None)
    with pytest.raises(ValueError, match="dynamic activations, which take no range"):
        layer.set_input_range(0.0, 1.0)
    layer = make(bounds=(0.0, 1.0))
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(ValueError, match="the FakeQuantLinear: a static range needs finite"):
        layer.set_input_range(0.0, float("inf"))
    assert torch.equal(layer.input_max, before["input_max"])
    assert (float(layer.input_scale), int(layer.input_zero_point)) == (np.float32(1) / 255, 0)


@pytest.mark.parametrize("bounds", [None, (-0.7, 2.0)])
def test_copies_compute_the_same(bounds):
    layer, x = make(bounds=bounds), torch.randn(3, 24)
    y = layer(x)
    stored = io.BytesIO()
    torch.save(layer, stored)
    stored.seek(0)
    fresh = FakeQuantLinear(24, 8, scheme=layer.scheme).eval()
    fresh.load_state_dict(layer.state_dict())
    for twin in (
        copy.deepcopy(layer),
        pickle.loads(pickle.dumps(layer)),
        torch.load(stored, weights_only=False),
        fresh,
    ):
        assert type(twin) is FakeQuantLinear
        assert twin.scheme == layer.scheme
        assert torch.equal(twin(x), y)


def test_what_it_refuses_names_the_layer():
    layer = FakeQuantLinear(4, 2, scheme=STATIC).eval()
    layer.layer_name = "body.0"
    with pytest.raises(RuntimeError, match=r"layer 'body\.0' has static activations but no input"):
        layer(torch.zeros(1, 4))
    layer.set_input_range(0.0, 1.0)
    with pytest.raises(ValueError, match=r"layer 'body\.0': input of shape \(1, 5\), expected"):
        layer(torch.zeros(1, 5))
    with pytest.raises(TypeError, match=r"layer 'body\.0': the input must be float32.*float64"):
        layer(torch.zeros(1, 4, dtype=torch.float64))
    with torch.no_grad():
        layer.weight[1, 2] = float("nan")
    with pytest.raises(ValueError, match=r"layer 'body\.0': the weight of output 1 holds NaN"):
        layer(torch.zeros(1, 4))


def test_it_learns():
    layer = FakeQuantLinear(16, 1, scheme=STATIC)
    target = nn.Linear(16, 1)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(60):
        x = torch.randn(64, 16)
        loss = F.mse_loss(layer(x), target(x).detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 50
