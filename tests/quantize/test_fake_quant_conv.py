"""The fake-quantized convolutions: their bits, their gradients, their shapes."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparsekd.nn as engine
from sparsekd import numerics
from sparsekd.prune import NM, prune_
from sparsekd.quantize import FakeQuantConv1d, FakeQuantConv2d, Int8, calibrate, prepare_, remove_

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")  # of torch, even kernels

STATIC = Int8("static")
RANGES = [None, (-0.7, 2.0), (0.0, 3.0)]  # None: dynamic; zero points 66 and 0
GEOMETRIES = [
    {"kernel_size": 3},
    {"kernel_size": 1, "stride": 2},
    {"kernel_size": (2, 3), "padding": (1, 2), "dilation": (2, 1), "groups": 2},
    {"kernel_size": (4, 3), "padding": "same", "dilation": (1, 2)},  # uneven: 1 above, 2 below
    {"kernel_size": 3, "padding": "valid", "stride": (1, 2)},
    {"kernel_size": 5, "padding": 2, "groups": 4, "bias": False},
]


def make(bounds=(-0.7, 2.0), inputs=4, outputs=8, kind=FakeQuantConv2d, **geometry):
    geometry = {"kernel_size": 3, **geometry}
    layer = kind(inputs, outputs, scheme=Int8() if bounds is None else STATIC, **geometry)
    if bounds is not None:
        layer.set_input_range(*bounds)
    return layer.eval()


def integers(layer, x: Tensor) -> tuple[Tensor, Tensor]:
    if layer.scheme.activations == "dynamic":
        return numerics.quantize_samples(x)
    u = numerics.quantize_affine(x, layer.input_scale, layer.input_zero_point)
    return u - layer.input_zero_point, layer.input_scale


def in_float64(layer, x: Tensor) -> Tensor:
    """The layer's definition on a batch, with the sums in float64, which holds them exactly."""
    q_w, w_scale = numerics.quantize_weight(layer.effective_weight().detach())
    a, x_scale = integers(layer, x)
    conv = F.conv2d if layer.dims == 2 else F.conv1d
    sizes = layer.stride, layer.padding, layer.dilation, layer.groups
    acc = conv(a.double(), q_w.double(), None, *sizes)
    ones = [1] * layer.dims
    y = acc.float() * (x_scale * w_scale.reshape(-1, *ones))
    return y if layer.bias is None else y + layer.bias.detach().reshape(-1, *ones)


def dequantized(layer, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The usual form of fake quantization in plain autograd."""
    q_w, w_scale = numerics.quantize_weight(weight.detach())
    w_hat = weight + (q_w * w_scale[:, None, None, None] - weight).detach()
    a, scale = integers(layer, x.detach())
    if layer.scheme.activations == "static":
        zp = int(layer.input_zero_point)
        x = x.clamp(float(scale) * (-zp - 0.5), float(scale) * (255 - zp + 0.5))
    x_hat = x + (a * scale - x).detach()
    return F.conv2d(x_hat, w_hat, bias, layer.stride, layer.padding, layer.dilation, layer.groups)


@pytest.mark.parametrize("bounds", RANGES)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_eval_equals_float64(geometry, bounds):
    layer = make(bounds, **geometry)
    x = torch.randn(3, 4, 9, 10)
    with torch.no_grad():
        y = layer(x)
        assert torch.equal(y, in_float64(layer, x))
        assert torch.equal(layer(x[1]), y[1])
        assert torch.equal(layer(x.contiguous(memory_format=torch.channels_last)), y)
        if bounds is None:
            assert torch.equal(layer.train()(x), y)


@pytest.mark.parametrize("bounds", RANGES)
def test_sums_past_the_exact_limit_are_split(bounds):
    layer = make(bounds, 300, 3, padding=1)
    with torch.no_grad():
        layer.weight[0] = layer.weight.abs().max()
        x = torch.randn(2, 300, 6, 6)
        x[0] = 2.0
        assert torch.equal(layer(x), in_float64(layer, x))


@pytest.mark.parametrize("bounds", RANGES)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_eval_equals_the_engine(geometry, bounds):
    layer = make(bounds, 8, 24, **geometry)
    prune_(layer, NM(1, 2))
    x = torch.randn(3, 8, 9, 10)
    with torch.no_grad():
        for kernel in ("windowed", "dense"):
            ours = engine.Conv2d.from_float(layer, kernel=kernel)
            assert torch.equal(ours(x), layer(x))


@pytest.mark.parametrize("bounds", RANGES)
@pytest.mark.parametrize(
    "geometry",
    [{"stride": 2}, {"kernel_size": 4, "padding": "same"}, {"padding": 2, "dilation": 3}],
)
def test_conv1d(geometry, bounds):
    layer = make(bounds, kind=FakeQuantConv1d, groups=2, **geometry)
    x = torch.randn(3, 4, 17)
    with torch.no_grad():
        y = layer(x)
        assert torch.equal(y, in_float64(layer, x))
        assert torch.equal(layer(x[2]), y[2])
        assert torch.equal(engine.Conv1d.from_float(layer, kernel="dense")(x), y)
    x = x.requires_grad_()
    layer.train()(x).square().sum().backward()
    assert x.grad.shape == x.shape
    assert layer.weight.grad.shape == layer.weight.shape


@pytest.mark.parametrize("bounds", RANGES)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_gradients_are_those_of_the_dequantized_form(geometry, bounds):
    layer = make(bounds, **geometry)
    x = torch.randn(2, 4, 9, 10, requires_grad=True)
    twin = x.detach().clone().requires_grad_()
    weight = layer.weight.detach().clone().requires_grad_()
    bias = None if layer.bias is None else layer.bias.detach().clone().requires_grad_()
    y, expected = layer(x), dequantized(layer, twin, weight, bias)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    grad = torch.randn_like(y)
    y.backward(grad)
    expected.backward(grad)
    torch.testing.assert_close(x.grad, twin.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.weight.grad, weight.grad, rtol=1e-4, atol=1e-4)
    if bias is not None:
        torch.testing.assert_close(layer.bias.grad, bias.grad, rtol=1e-4, atol=1e-4)


def test_a_sample_does_not_depend_on_the_others_of_its_batch():
    layer = make(None, padding=1)
    x = torch.randn(3, 4, 5, 5)
    x[1] *= 1e6
    x[2, 0, 0, 0] = float("nan")
    with torch.no_grad():
        y = layer(x)
        assert torch.equal(y[0], layer(x[:1])[0])
        assert bool(y[2].isnan().all())
        assert torch.equal(y[1], layer(x[1]))


def test_static_padding_is_the_value_zero():
    layer = make((-1.0, 3.0), padding=1)
    with torch.no_grad():
        y = layer(torch.zeros(1, 4, 5, 5))
        assert torch.equal(y, layer.bias[:, None, None].expand(1, 8, 5, 5))


@pytest.mark.parametrize("bounds", [None, (-1.0, 1.0)])
def test_an_empty_batch(bounds):
    layer = make(bounds).train()
    x = torch.zeros(0, 4, 5, 5, requires_grad=True)
    y = layer(x)
    assert y.shape == (0, 8, 3, 3)
    y.sum().backward()
    assert x.grad.shape == x.shape


def test_the_memory_format_follows_torch():
    x, plain = torch.randn(2, 4, 8, 8), nn.Conv2d(4, 8, 3)
    for x_format in (torch.contiguous_format, torch.channels_last):
        for weight_format in (torch.contiguous_format, torch.channels_last):
            twin = copy.deepcopy(plain).to(memory_format=weight_format)
            expected = twin(x.contiguous(memory_format=x_format)).stride()
            prepare_(twin)
            for mode in (True, False):
                y = twin.train(mode)(x.contiguous(memory_format=x_format))
                assert y.stride() == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_inputs_and_autocast(dtype):
    layer, x = make(), torch.randn(2, 4, 6, 6).to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
        assert y.dtype is torch.float32
        assert torch.equal(y, layer(x.float()))
        y.sum().backward()
    assert x.grad.dtype is dtype
    assert layer.weight.grad.dtype is torch.float32


def test_prepare_prune_remove_and_copies():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))
    twin, x = copy.deepcopy(model), torch.randn(4, 3, 8, 8)
    reference = copy.deepcopy(model)
    prepare_(model, STATIC)
    prune_(model, NM(2, 4))
    prune_(twin, NM(2, 4))
    prepare_(twin, STATIC)
    for each in (model, twin):
        calibrate(each, [x]).eval()
    y = model(x)
    assert torch.equal(twin(x), y)
    assert torch.equal(copy.deepcopy(model)(x), y)
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), y)
    assert type(model[0]) is FakeQuantConv2d
    remove_(model)
    assert str(model) == str(reference.eval())


def test_calibration_sees_the_input():
    layer = nn.Conv1d(2, 3, 3)
    prepare_(layer, STATIC)
    x = torch.randn(4, 2, 9)
    calibrate(layer, [x])
    assert (layer.input_min, layer.input_max) == (x.min(), x.max())
    assert int(layer.input_zero_point) == np.rint(-float(x.min()) * float(1 / layer.input_scale))


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv2d])
@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_other_padding_modes_are_refused(kind, mode):
    model = nn.Sequential(nn.Linear(4, 4), kind(3, 4, 3, padding=1, padding_mode=mode))
    with pytest.raises(ValueError, match=rf"layer '1': padding_mode '{mode}', expected 'zeros'"):
        prepare_(model)
    assert type(model[0]) is nn.Linear
    with pytest.raises(ValueError, match=rf"padding_mode '{mode}', expected 'zeros'"):
        make(kind=FakeQuantConv2d, padding=1, padding_mode=mode)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 3, 5, 5), r"input of shape \(2, 3, 5, 5\), expected \(\[batch,\] 4, height, width\)"),
        ((4, 5), r"input of shape \(4, 5\), expected"),
        ((1, 1, 4, 5, 5), "expected"),
        ((2, 4, 0, 5), r"smaller than the kernel: with padding it has size \(2, 7\)"),
        ((4, 5, 0), r"it has size \(7, 2\), expected at least \(3, 3\)"),
    ],
)
def test_shapes_it_refuses(shape, message):
    layer = make(None, padding=1)
    layer.layer_name = "body.0"
    with pytest.raises(ValueError, match=rf"layer 'body\.0': .*{message}"):
        layer(torch.zeros(shape))
