"""Convolutions of any geometry against torch in float64: int8 exact, floats within their bound."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from sparsekd import backend, numerics, ops
from sparsekd.nn import Conv2d
from sparsekd.spec import Bf16, Fp32, Int8, Scheme

KINDS: list[tuple[Scheme, str]] = [
    (Int8(), "windowed"),
    (Int8(), "dense"),
    (Int8(), "depthwise"),
    (Fp32(16), "windowed"),
    (Fp32(32), "windowed"),
    (Fp32(), "depthwise"),
    (Bf16(), "windowed"),
]


@dataclass(frozen=True)
class Case:
    """A convolution; pairs are (height, width), padding is (top, bottom, left, right)."""

    seed: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int, int, int]
    groups: int
    channels: int  # of a group
    outputs: int  # of a group
    batch: int
    extra: tuple[int, int]  # pixels beyond the smallest image that has an output
    channels_last: bool
    zero_point: int | None  # None: dynamic


@st.composite
def cases(draw: st.DrawFn) -> Case:
    def pair(low: int, high: int) -> tuple[int, int]:
        return draw(st.integers(low, high)), draw(st.integers(low, high))

    kernel, dilation, stride = pair(1, 7), pair(1, 3), pair(1, 3)
    total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    how = draw(st.sampled_from(["same", "symmetric", "any"]))
    if how == "same":
        stride = (1, 1)
        halves = [(t // 2, t - t // 2) for t in total]
    elif how == "symmetric":
        halves = [(p, p) for p in pair(0, 4)]
    else:
        halves = [pair(0, 5), pair(0, 5)]
    return Case(
        seed=draw(st.integers(0, 2**16)),
        kernel=kernel,
        stride=stride,
        dilation=dilation,
        padding=(*halves[0], *halves[1]),
        groups=draw(st.integers(1, 3)),
        channels=draw(st.sampled_from([1, 3, 16, 17, 64, 70])),
        outputs=draw(st.sampled_from([1, 5, 16, 20])),
        batch=draw(st.sampled_from([0, 1, 1, 2])),
        extra=pair(0, 6),
        channels_last=draw(st.booleans()),
        zero_point=draw(st.sampled_from([None, 0, 1, 77, 128, 255])),
    )


def images(case: Case, channels: int) -> Tensor:
    top, bottom, left, right = case.padding
    reach = [d * (k - 1) + 1 for d, k in zip(case.dilation, case.kernel, strict=True)]
    height = max(1, reach[0] - top - bottom) + case.extra[0]
    width = max(1, reach[1] - left - right) + case.extra[1]
    layout = torch.channels_last if case.channels_last else torch.contiguous_format
    return torch.randn(case.batch, channels, height, width).contiguous(memory_format=layout)


def conv64(case: Case, x: Tensor, weight: Tensor, groups: int) -> Tensor:
    """torch's own convolution in float64; for integers it is exact."""
    top, bottom, left, right = case.padding
    padded = F.pad(x.double(), (left, right, top, bottom))
    return F.conv2d(padded, weight.double(), None, case.stride, 0, case.dilation, groups)


def per_output(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1)


def check_int8(case: Case, y: Tensor, x: Tensor, layer: nn.Conv2d) -> None:
    assert layer.bias is not None
    q, scale = numerics.quantize_weight(layer.weight.detach().flatten(1))
    if case.zero_point is None:
        rows, by_sample = numerics.quantize_rows(x.flatten(1))
        integers, input_scale = rows.view(x.shape), by_sample.view(-1, 1, 1, 1)
    else:
        input_scale = torch.tensor(0.02)
        zero_point = torch.tensor(case.zero_point, dtype=torch.int32)
        integers = numerics.quantize_affine(x, input_scale, zero_point) - zero_point
    sums = conv64(case, integers, q.view_as(layer.weight), layer.groups)
    expected = sums.float() * (input_scale * per_output(scale))
    assert torch.equal(y, expected + per_output(layer.bias.detach()))


def check_float(y: Tensor, case: Case, x: Tensor, layer: nn.Conv2d, scheme: Scheme) -> None:
    assert layer.bias is not None
    weight, bias = layer.weight.detach(), per_output(layer.bias.detach()).double()
    if isinstance(scheme, Bf16):
        x, weight = x.bfloat16().float(), weight.bfloat16().float()
    expected = conv64(case, x, weight, layer.groups) + bias
    magnitude = conv64(case, x.abs(), weight.abs(), layer.groups) + bias.abs()
    terms = weight[0].numel() + 1
    gamma = terms * 2**-24 / (1 - terms * 2**-24)
    assert bool(((y - expected).abs() <= 2 * gamma * magnitude + terms * 2**-126).all())


@pytest.mark.parametrize("isa", backend.available_isas())
@pytest.mark.parametrize(("scheme", "kernel"), KINDS, ids=str)
@settings(max_examples=12, deadline=None, derandomize=True, database=None)
@given(case=cases())
@torch.inference_mode()
def test_any_geometry(isa: str, scheme: Scheme, kernel: str, case: Case) -> None:
    backend.set_isa(isa)
    try:
        check(case, scheme, kernel)
    finally:
        backend.set_isa(None)


def check(case: Case, scheme: Scheme, kernel: str) -> None:
    torch.manual_seed(case.seed)
    groups = case.channels * case.groups if kernel == "depthwise" else case.groups
    channels = case.channels * case.groups
    outputs = channels if kernel == "depthwise" else case.outputs * case.groups
    float_layer = nn.Conv2d(
        channels, outputs, case.kernel, case.stride, 0, case.dilation, groups
    ).eval()
    if kernel == "windowed":
        float_layer.weight *= torch.rand_like(float_layer.weight) < 0.4
    layer = Conv2d.from_float(float_layer, scheme=scheme, kernel=kernel)
    x = images(case, channels)

    # Through the op, which takes any padding and zero point.
    tensors = dict(layer._buffers)
    int8 = isinstance(scheme, Int8)
    if int8 and case.zero_point is not None:
        tensors["input_scale"] = torch.tensor(0.02)
        tensors["input_zero_point"] = torch.tensor(case.zero_point, dtype=torch.int32)
    arguments = list(ops.conv2d_arguments(layer._settings))
    arguments[4] = list(case.padding)
    y = ops.conv2d_op(layer._format)(x, *tensors.values(), *arguments)
    if int8:
        check_int8(case, y, x, float_layer)
    else:
        check_float(y, case, x, float_layer, scheme)
    assert y.numel() == 0 or bool(y.any())

    # Through the module, with and without a batch dimension.
    top, bottom, left, right = case.padding
    if (top, left) != (bottom, right) or (int8 and case.zero_point is not None):
        return
    float_layer.padding = (top, left)
    module = Conv2d.from_float(float_layer, scheme=scheme, kernel=kernel)
    assert torch.equal(module(x), y)
    for sample, expected in zip(x, y, strict=True):
        assert torch.equal(module(sample), expected)
