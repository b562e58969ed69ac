"""Residuals of convolutions: the sum of docs/numerics.md, to the bit, whatever the endpoints."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sparsekd import backend, images, ops
from sparsekd.nn import Conv2d
from sparsekd.numerics import quantize_affine
from sparsekd.quantize import calibrate, prepare_
from sparsekd.spec import Bf16, Fp32, Int8

ACTIVATIONS = {None: lambda y: y, "relu": F.relu, "relu6": F.relu6, "hardswish": F.hardswish}
OUT = (0.031, 97)
ADDED = (0.017, 131)


def make(
    kernel: str, activation: str | None, sizes: tuple[int, ...] = (36, 70, 3, 1, 1), groups: int = 1
) -> Conv2d:
    """A static int8 convolution of (in, out, kernel, stride, padding)."""
    torch.manual_seed(sum(sizes))
    model = nn.Sequential(nn.Conv2d(*sizes, groups=groups))
    prepare_(model, Int8("static"))
    calibrate(model, [torch.rand(2, sizes[0], 9, 8) * 2 - 0.7])
    return Conv2d.from_float(model.eval()[0], kernel=kernel, activation=activation)


def call(layer: Conv2d, x: Tensor, **ends: Any) -> Tensor:
    arguments = (*layer._buffers.values(), *ops.conv2d_arguments(layer._settings))
    y: Tensor = ops.conv2d_op(layer._format)(x, *arguments, **ends)
    return y


def without_activation(layer: Conv2d, x: Tensor) -> Tensor:
    arguments = (*layer._buffers.values(), *ops.conv2d_arguments(layer._settings)[:-1], "none")
    y: Tensor = ops.conv2d_op(layer._format)(x, *arguments)
    return y


def residual_ends(r: Tensor) -> dict[str, Any]:
    if r.dtype is torch.float32:
        return {"residual": r}
    return {"residual": r, "residual_scale": ADDED[0], "residual_zero_point": ADDED[1]}


def expected(layer: Conv2d, x: Tensor, r: Tensor) -> Tensor:
    added = r if r.dtype is torch.float32 else images.dequantize_affine(r, *ADDED)
    return ACTIVATIONS[layer.activation](without_activation(layer, x) + added)  # type: ignore[no-any-return]


def to_u8(y: Tensor) -> Tensor:
    return quantize_affine(y, torch.tensor(OUT[0]), torch.tensor(OUT[1])).to(torch.uint8)


def bytes_like(shape: tuple[int, ...]) -> Tensor:
    u = torch.randint(0, 256, shape, dtype=torch.uint8)
    return u.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("u8_residual", [False, True])
@pytest.mark.parametrize("u8_out", [False, True])
@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize("kernel", ["windowed", "dense"])
def test_every_endpoint_gives_the_bits_of_the_definition(
    kernel: str, activation: str | None, u8_out: bool, u8_residual: bool
) -> None:
    layer = make(kernel, activation)
    x = bytes_like((2, 36, 9, 8))
    r = bytes_like((2, 70, 9, 8)) if u8_residual else torch.randn(2, 70, 9, 8)
    out = {"out_scale": OUT[0], "out_zero_point": OUT[1]} if u8_out else {}
    wanted = expected(layer, x, r)
    wanted = to_u8(wanted) if u8_out else wanted
    before = backend.isa()
    try:
        for isa in backend.available_isas():
            backend.set_isa(isa)
            y = call(layer, x, **out, **residual_ends(r))
            assert y.dtype is (torch.uint8 if u8_out else torch.float32)
            assert torch.equal(y, wanted), isa
    finally:
        backend.set_isa(before)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_geometry_threads_and_batch(data: st.DataObject) -> None:
    draw = data.draw
    kernel = draw(st.sampled_from(["windowed", "dense", "depthwise"]))
    channels, outputs = draw(st.integers(1, 90)), draw(st.integers(1, 140))
    groups = 1
    if kernel == "depthwise":
        groups = outputs = channels
    k, stride = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    activation = draw(st.sampled_from([None, "relu", "relu6"]))
    layer = make(kernel, activation, (channels, outputs, k, stride, k // 2), groups)
    x = bytes_like((draw(st.integers(1, 3)), channels, draw(st.integers(3, 9)), 7))
    r = bytes_like(tuple(without_activation(layer, x).shape))
    ends: dict[str, Any] = {"out_scale": OUT[0], "out_zero_point": OUT[1], **residual_ends(r)}
    wanted = to_u8(expected(layer, x, r))
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            assert torch.equal(call(layer, x, **ends), wanted)
    finally:
        torch.set_num_threads(threads)
    alone = [call(layer, x[n : n + 1], **{**ends, "residual": r[n : n + 1]}) for n in range(len(x))]
    assert torch.equal(torch.cat(alone), wanted)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("scheme", [Fp32(16), Bf16()], ids=["f32", "bf16"])
def test_float_layers_add_too(scheme: Fp32 | Bf16, channels_last: bool) -> None:
    torch.manual_seed(2)
    layer = Conv2d.from_float(nn.Conv2d(20, 36, 3, padding=1), scheme=scheme, activation="relu")
    x = torch.randn(2, 20, 6, 5)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    for r in (torch.randn(2, 36, 6, 5), bytes_like((2, 36, 6, 5))):
        assert torch.equal(call(layer, x, **residual_ends(r)), expected(layer, x, r))


def test_a_residual_in_any_memory_format_or_view_gives_the_same_bits() -> None:
    layer = make("dense", "relu")
    x, r = torch.randn(2, 36, 9, 8), torch.randn(2, 70, 9, 8)
    wanted = expected(layer, x, r)
    views = [
        r.contiguous(memory_format=torch.channels_last),
        r.transpose(2, 3).contiguous().transpose(2, 3),
        torch.cat([r, r], 3)[..., :8],
    ]
    for view in views:
        assert torch.equal(call(layer, x, residual=view), wanted)


def test_nan_and_inf_of_a_residual_reach_their_own_output_alone() -> None:
    layer = make("windowed", "relu")
    x, r = torch.randn(1, 36, 9, 8), torch.randn(1, 70, 9, 8)
    r[0, 3, 2, 1], r[0, 5, 0, 0], r[0, 69, 8, 7] = torch.nan, torch.inf, -torch.inf
    y = call(layer, x, residual=r)
    assert torch.equal(y.isnan(), r.isnan())
    assert y[0, 5, 0, 0] == torch.inf
    assert y[0, 69, 8, 7] == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("u8", [False, True])
def test_opcheck_and_compile(u8: bool) -> None:
    layer = make("dense", "relu")
    x = bytes_like((2, 36, 9, 8))
    r = bytes_like((2, 70, 9, 8)) if u8 else torch.randn(2, 70, 9, 8)
    ends = {"out_scale": OUT[0], "out_zero_point": OUT[1], **residual_ends(r)}
    arguments = (*layer._buffers.values(), *ops.conv2d_arguments(layer._settings))
    results = torch.library.opcheck(ops.conv2d_op(layer._format), (x, *arguments), ends)
    assert set(results.values()) == {"SUCCESS"}
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda image: call(layer, image, **ends), fullgraph=True, backend="aot_eager"
    )
    assert torch.equal(compiled(x), call(layer, x, **ends))


@pytest.mark.parametrize(
    ("ends", "error", "words"),
    [
        ({"residual": torch.zeros(2, 70, 9, 7)}, ValueError, r"\(2, 70, 9, 7\).*\(2, 70, 9, 8\)"),
        ({"residual": torch.zeros(70, 9, 8)}, ValueError, "expected that of the output"),
        ({"residual": torch.zeros(2, 70, 9, 8).double()}, TypeError, "float64, expected"),
        ({"residual": torch.zeros(2, 70, 9, 8), "residual_scale": 1.0}, ValueError, "none for"),
        ({"residual": bytes_like((2, 70, 9, 8))}, ValueError, "expected a scale for torch.uint8"),
        (
            {"residual": bytes_like((2, 70, 9, 8)), "residual_scale": 0.0},
            ValueError,
            "residual scale: 0, expected a finite number",
        ),
        (
            {
                "residual": bytes_like((2, 70, 9, 8)),
                "residual_scale": 1.0,
                "residual_zero_point": 256,
            },
            ValueError,
            "residual zero point: 256, expected 0..255",
        ),
    ],
)
def test_bad_residuals_are_refused(
    ends: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        call(make("dense", None), torch.zeros(2, 36, 9, 8), **ends)
