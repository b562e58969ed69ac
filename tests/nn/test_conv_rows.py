"""Weights that are cut along rows: when, and that they give what those cut along pixels give."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from sparsekd import backend, ops
from sparsekd.nn import Conv1d, Conv2d
from sparsekd.prune import prune_
from sparsekd.spec import NM, Bf16, Fp32, Int8, Scheme, Unstructured

KINDS: list[tuple[Scheme, str]] = [
    (Int8(), "windowed"),
    (Int8("static"), "windowed"),
    (Int8(), "dense"),
    (Fp32(16), "windowed"),
    (Fp32(32), "windowed"),
    (Bf16(), "windowed"),
]


@st.composite
def convolutions(draw: st.DrawFn) -> dict[str, object]:
    kernel = draw(st.integers(1, 7)), draw(st.integers(2, 7))
    channels = draw(st.sampled_from([1, 2, 3, 3, 4, 8, 16, 17, 20]))
    reach = kernel[0] * kernel[1] * channels
    dilation = draw(st.integers(1, 2)), 1
    return {
        "channels": (channels, draw(st.sampled_from([1, 5, 16, 33, 64, 70]))),
        "kernel": kernel,
        "stride": (draw(st.integers(1, 3)), draw(st.integers(1, 3))),
        "dilation": dilation,
        "padding": tuple(draw(st.integers(0, 4)) for _ in range(4)) if reach <= 1024 else (0,) * 4,
        "size": (
            dilation[0] * (kernel[0] - 1) + draw(st.integers(1, 6)),
            kernel[1] + draw(st.integers(0, 20)),
        ),
        "batch": draw(st.integers(0, 3)),
        "nhwc": draw(st.booleans()),
        "zero_point": draw(st.sampled_from([0, 1, 77, 255])),
        "threads": draw(st.integers(1, 3)),
        "seed": draw(st.integers(0, 2**16)),
    }


def outputs(case: dict, scheme: Scheme, kernel: str, rows: bool) -> list[torch.Tensor]:
    """fp32 in and out; for int8 with static activations also u8 in, and out."""
    torch.manual_seed(case["seed"])
    groups, window = 1, scheme.window if isinstance(scheme, Fp32) else 16
    geometry = backend.ConvGeometry(
        *(case[key] for key in ("channels", "kernel", "stride", "dilation", "padding")),
        groups,
        rows,
    )
    (channels, count), fmt = geometry.channels, backend.format_of(scheme, kernel)
    dense = torch.randint(-127, 128, (count, geometry.taps * geometry.tap_inputs))
    dense *= torch.rand(dense.shape) < 0.4
    weight = dense.view(count, geometry.taps, geometry.tap_inputs)
    weight = weight.to(torch.int8) if fmt.dtype == "s8" else weight / 31
    tensors: dict[str, torch.Tensor | None] = backend.pack(fmt, weight, 1, window)
    assert torch.equal(
        backend.unpack(fmt, tensors, tuple(weight.shape), 1, window),
        weight if fmt.dtype != "bf16" else weight.bfloat16().float(),
    )
    tensors |= {"scale": torch.rand(count) + 0.1, "bias": torch.randn(count)}
    static = isinstance(scheme, Int8) and scheme.activations == "static"
    tensors["input_scale"] = torch.tensor(0.02) if static else None
    zero_point = torch.tensor(case["zero_point"], dtype=torch.int32)
    tensors["input_zero_point"] = zero_point if static else None
    layer = backend.LayerSettings(channels, count, "relu", window, geometry)
    handle = backend.make_layer(fmt, tensors, layer)
    x = torch.randn(case["batch"], channels, *case["size"])
    layout = torch.channels_last if case["nhwc"] else torch.contiguous_format
    results = [ops.run_conv2d(handle, geometry, x.contiguous(memory_format=layout))]
    if static:
        u8 = (x * 50 + 128).clamp(0, 255).to(torch.uint8)
        results.append(ops.run_conv2d(handle, geometry, u8))
        results.append(ops.run_conv2d(handle, geometry, u8, (0.5, 3)))
    return results


@pytest.mark.parametrize("isa", backend.available_isas())
@pytest.mark.parametrize(("scheme", "kernel"), KINDS, ids=str)
@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(case=convolutions())
@torch.inference_mode()
def test_rows_give_what_pixels_give(isa: str, scheme: Scheme, kernel: str, case: dict) -> None:
    """Equal bits, also in fp32, where the kept weights of an output are added in one order.

    bf16 adds them in pairs, and which are a pair depends on the windows.
    """
    before = torch.get_num_threads()
    backend.set_isa(isa)
    try:
        pixels = outputs(case, scheme, kernel, rows=False)
        torch.set_num_threads(case["threads"])
        rows = outputs(case, scheme, kernel, rows=True)
    finally:
        torch.set_num_threads(before)
        backend.set_isa(None)
    for ours, expected in zip(rows, pixels, strict=True):
        if isinstance(scheme, Bf16):
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-3)
        else:
            assert torch.equal(ours, expected)


@pytest.mark.parametrize(
    ("sizes", "scheme", "kernel", "expected"),
    [
        # in, out channels, kernel; more
        ({"args": (3, 64, 7), "stride": 2, "padding": 3}, Int8(), "windowed", "rows"),
        ({"args": (3, 64, 7), "stride": 2, "padding": 3}, Int8(), "dense", "rows"),
        ({"args": (3, 32, 3), "stride": 2, "padding": 1}, Fp32(16), "windowed", "rows"),
        ({"args": (3, 32, 3), "stride": 2, "padding": 1}, Bf16(), "windowed", "rows"),
        ({"args": (16, 32, 3)}, Int8(), "windowed", "rows"),
        ({"args": (16, 32, 3)}, Int8(), "dense", "pixels"),  # whole steps either way
        ({"args": (16, 32, 3)}, Fp32(16), "windowed", "pixels"),  # whole windows either way
        ({"args": (16, 32, 3)}, Fp32(32), "windowed", "rows"),
        ({"args": (63, 32, 3)}, Int8(), "windowed", "pixels"),  # three windows either way
        ({"args": (62, 32, 3)}, Int8(), "dense", "rows"),
        ({"args": (65, 32, 3)}, Int8(), "dense", "pixels"),
        ({"args": (3, 32, 1)}, Int8(), "windowed", "pixels"),
        ({"args": (6, 32, 3), "groups": 2}, Int8(), "windowed", "pixels"),
        ({"args": (3, 32, 3), "dilation": (1, 2)}, Int8(), "windowed", "pixels"),
        ({"args": (3, 32, 3), "dilation": (2, 1)}, Int8(), "windowed", "rows"),
        ({"args": (3, 768, 32), "stride": 32}, Int8(), "windowed", "rows"),  # no padding
        ({"args": (3, 768, 32), "padding": 1}, Int8(), "windowed", "pixels"),  # long patches
        ({"args": (3, 768, 32), "padding": (1, 0)}, Int8(), "windowed", "rows"),
        ({"args": (3, 3, 3), "groups": 3}, Int8(), "depthwise", "pixels"),
    ],
)
@torch.inference_mode()
def test_rows_are_chosen_where_they_fill_the_kernel_better(
    sizes: dict, scheme: Scheme, kernel: str, expected: str
) -> None:
    args, rest = sizes["args"], {k: v for k, v in sizes.items() if k != "args"}
    assert Conv2d(*args, **rest, scheme=scheme, kernel=kernel).geometry == expected
    layer = Conv2d.from_float(nn.Conv2d(*args, **rest), scheme=scheme, kernel=kernel)
    assert layer.geometry == expected
    assert f"geometry={expected}" in repr(layer) or expected == "pixels"


@pytest.mark.parametrize("pattern", [NM(4, 32), NM(8, 32), Unstructured(0.75), Unstructured(0.9)])
@pytest.mark.parametrize("channels", [3, 8, 16, 20, 32, 40])
@pytest.mark.parametrize("kernel_size", [2, 3, 5, 7])
@torch.inference_mode()
def test_rows_need_no_more_steps(pattern: object, channels: int, kernel_size: int) -> None:
    conv = nn.Conv2d(channels, 64, kernel_size)
    conv.weight *= pattern.mask(conv.weight.abs())  # type: ignore[attr-defined]
    layer = Conv2d.from_float(conv, scheme=Int8())
    steps = {
        geometry: Conv2d(channels, 64, kernel_size, geometry=geometry)._pack(layer.packed_weight())
        for geometry in ("pixels", "rows")
    }
    chosen = steps[layer.geometry]["values"].shape[0]
    assert chosen <= steps["pixels"]["values"].shape[0]
    assert layer.geometry == "rows" or channels == 40


@torch.inference_mode()
def test_a_stem_against_torch_with_its_border() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 64, 7, 2, 3)
    x = torch.randn(2, 3, 31, 33)
    exact = Conv2d.from_float(conv, scheme=Fp32())
    assert exact.geometry == "rows"
    torch.testing.assert_close(exact(x), conv(x), rtol=1e-5, atol=1e-5)
    layer = Conv2d.from_float(conv, scheme=Int8(), kernel="dense")
    q, scale = layer.int_weight().double(), layer.scale.double()[:, None, None]
    largest = x.abs().amax(dim=(1, 2, 3), keepdim=True)
    u = (x / largest * 127).round().double()
    near = F.conv2d(u, q, None, 2, 3) * scale * largest / 127 + conv.bias.double()[:, None, None]
    assert bool(((layer(x) - near).abs() <= 0.05 * near.abs().max()).all())


@torch.inference_mode()
def test_conv1d_and_state() -> None:
    conv = nn.Conv1d(3, 18, 5, padding=2)
    layer = Conv1d.from_float(conv, scheme=Int8())
    assert layer.geometry == "rows"
    x = torch.randn(2, 3, 40)
    twin = Conv1d(3, 18, 5, padding=2)
    twin.load_state_dict(layer.state_dict())
    assert torch.equal(twin(x), layer(x))
    assert torch.equal(layer.repacked("dense")(x), layer(x))


@pytest.mark.parametrize(
    ("scheme", "kernel"),
    [(Int8(), "windowed"), (Int8(), "dense"), (Fp32(16), "windowed"), (Bf16(), "windowed")],
    ids=str,
)
@pytest.mark.parametrize("stored", ["pixels", "rows"])
@torch.inference_mode()
def test_state_of_the_other_geometry(scheme: Scheme, kernel: str, stored: str) -> None:
    """Layers that were packed along pixels load into those that pick rows, and the other way."""
    torch.manual_seed(1)
    own = "rows" if stored == "pixels" else "pixels"
    conv = nn.Conv2d(3, 70, 5, stride=2, padding=2)
    prune_(conv, NM(8, 32))
    sizes: dict[str, Any] = {"stride": 2, "padding": 2, "scheme": scheme, "kernel": kernel}
    old = Conv2d(3, 70, 5, geometry=stored, **sizes)
    old.fill_from(conv)
    layer = Conv2d(3, 70, 5, geometry=own, **sizes)
    layer.load_state_dict(old.state_dict())
    assert (old.geometry, layer.geometry) == (stored, own)
    assert torch.equal(layer.packed_weight(), old.packed_weight())
    packed = Conv2d(3, 70, 5, geometry=own, **sizes)
    packed.fill_from(conv)
    state = packed.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in layer.state_dict().items())
    x = torch.randn(2, 3, 11, 13)
    torch.testing.assert_close(layer(x), old(x), rtol=1e-5, atol=1e-5)
    if isinstance(scheme, Int8):
        assert torch.equal(layer(x), old(x))


def test_state_of_no_geometry_names_the_own_one() -> None:
    layer, before = Conv2d(3, 16, 3), Conv2d(3, 16, 3).state_dict()
    other = Conv2d(3, 16, 5).state_dict()
    with pytest.raises(RuntimeError, match=r"steps: shape .* expected \(1, 3\)"):
        layer.load_state_dict(other)
    assert all(torch.equal(before[key], value) for key, value in layer.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"geometry": "columns"}, "unknown geometry 'columns'; choices are None, 'pixels', 'rows'"),
        ({"geometry": "rows", "dilation": 2}, "geometry rows: 3 channels, .* dilation 2"),
        ({"geometry": "rows", "groups": 3}, "geometry rows: 3 channels, 3 groups"),
        (
            {"geometry": "rows", "groups": 3, "kernel": "depthwise"},
            "kernel 'depthwise' has no geometry 'rows'",
        ),
    ],
)
def test_rows_that_can_not_be(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Conv2d(3, 3, 3, **arguments)
