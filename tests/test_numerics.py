"""The integer arithmetic against numpy, where every fp32 step and int64 sum is written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsekd import numerics

NAN, INF = float("nan"), float("inf")
ONE = np.float32(1)


def numpy_rows(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """quantize_rows for finite rows that are not tiny."""
    scale = np.abs(x).max(-1, keepdims=True) * np.float32(numerics.INV127)
    return np.rint(np.clip(x * (ONE / scale), -127, 127)), scale


def numpy_affine(x: np.ndarray, scale: np.float32, zp: int) -> np.ndarray:
    return np.rint(np.clip(x * (ONE / scale), np.float32(-zp), np.float32(255 - zp))) + zp


def int64_product(a: Tensor, w: Tensor) -> Tensor:
    sums = a.numpy().astype(np.int64) @ w.numpy().astype(np.int64).T
    return torch.from_numpy(sums.astype(np.float32))


def test_inv127_is_the_fp32_number_nearest_to_one_over_127():
    assert np.float32(numerics.INV127) == numerics.INV127 == np.float32(1 / 127)


@pytest.mark.parametrize(
    ("absmax", "scale"),
    [
        (0.0, 1.0),
        (2.0**-101, 1.0),
        (2.0**-100, float(np.float32(2.0**-100) * np.float32(numerics.INV127))),
        (127.0, float(np.float32(127) * np.float32(numerics.INV127))),
        (3.4e38, float(np.float32(3.4e38) * np.float32(numerics.INV127))),
        (INF, NAN),
        (NAN, NAN),
    ],
)
def test_symmetric_scale_of_special_values(absmax, scale):
    got = numerics.symmetric_scale(torch.tensor(absmax))
    torch.testing.assert_close(got, torch.tensor(scale), rtol=0, atol=0, equal_nan=True)


def test_halves_round_to_the_even_integer():
    x = torch.tensor([[0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5, 127.5, 1e9, -1e9]])
    q = numerics.quantize_symmetric(x, torch.ones(1, 1))
    assert q.tolist() == [[0, 2, 2, 0, -2, -2, 126, 127, 127, -127]]


@pytest.mark.parametrize("shape", [(5,), (1, 1), (3, 1), (7, 33), (2, 3, 64), (0, 4), (4, 0)])
def test_rows_equal_numpy(shape):
    x = torch.randn(shape) * 10.0 ** torch.randint(-20, 20, (shape[0], *[1] * (len(shape) - 1)))
    q, scale = numerics.quantize_rows(x)
    assert q.shape == x.shape
    assert scale.shape == (*shape[:-1], 1)
    if x.numel():
        expected, expected_scale = numpy_rows(x.numpy())
        assert np.array_equal(q.numpy(), expected)
        assert np.array_equal(scale.numpy(), expected_scale)
    else:
        assert torch.equal(scale, torch.ones_like(scale))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=40))
def test_any_row_stays_inside_127_and_its_largest_value_reaches_it(values):
    x = torch.tensor([values])
    q, scale = numerics.quantize_rows(x)
    assert float(q.abs().max()) in ((0.0,) if x.abs().max() < numerics.TINY else (127.0,))
    assert torch.equal(q, q.round())
    assert bool(torch.isfinite(scale).all())


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_a_bad_value_spoils_its_own_row_only(bad):
    x = torch.randn(3, 8)
    clean_q, clean_scale = numerics.quantize_rows(x)
    x[1, 4] = bad
    q, scale = numerics.quantize_rows(x)
    assert scale[1].isnan()
    assert torch.equal(q[1], torch.zeros(8))
    for row in (0, 2):
        assert torch.equal(q[row], clean_q[row])
        assert torch.equal(scale[row], clean_scale[row])


def test_zero_and_tiny_rows_quantize_to_zero_with_scale_one():
    q, scale = numerics.quantize_rows(torch.tensor([[0.0, -0.0], [1e-31, -7e-31], [1e-40, 0.0]]))
    assert torch.equal(q, torch.zeros(3, 2))
    assert torch.equal(scale, torch.ones(3, 1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_inputs_are_widened(dtype):
    x = torch.randn(3, 9).to(dtype)
    for half, full in zip(
        numerics.quantize_rows(x), numerics.quantize_rows(x.float()), strict=True
    ):
        assert half.dtype is torch.float32
        assert torch.equal(half, full)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int32, torch.bool])
def test_other_dtypes_are_refused(dtype):
    x = torch.zeros(2, 3, dtype=dtype)
    for call in (
        lambda: numerics.quantize_rows(x),
        lambda: numerics.quantize_weight(x),
        lambda: numerics.quantize_affine(x, torch.tensor(1.0), torch.tensor(3)),
    ):
        with pytest.raises(TypeError, match=f"must be float32, float16 or bfloat16, got {dtype}"):
            call()


@pytest.mark.parametrize("shape", [(4, 7), (3, 2, 3, 3), (1, 1), (0, 5), (5, 0)])
def test_weights_have_one_scale_an_output(shape):
    weight = torch.randn(shape)
    q, scale = numerics.quantize_weight(weight)
    assert q.dtype is torch.int8
    assert q.shape == weight.shape
    assert scale.shape == shape[:1]
    if weight.numel():
        expected, expected_scale = numpy_rows(weight.flatten(1).numpy())
        assert np.array_equal(q.flatten(1).numpy(), expected)
        assert np.array_equal(scale.numpy(), expected_scale[:, 0])


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_weights_that_are_not_finite_name_the_output(bad):
    weight = torch.ones(4, 3)
    weight[2, 1] = bad
    with pytest.raises(ValueError, match="weight of output 2 holds NaN or Inf"):
        numerics.quantize_weight(weight)


@pytest.mark.parametrize(
    ("lo", "hi", "zero_point"),
    [
        (-1.0, 1.0, 127),
        (-1.5, 1.0, 153),
        (0.5, 2.0, 0),
        (-3.0, -1.0, 255),
        (-1.0, 4.1, 50),
        (0.0, 0.0, 0),
    ],
)
def test_affine_params_hold_zero_exactly(lo, hi, zero_point):
    scale, zp = numerics.affine_params(torch.tensor(lo), torch.tensor(hi))
    low, high = np.float32(min(lo, 0)), np.float32(max(hi, 0))
    assert float(scale) == (float((high - low) / np.float32(255)) or 1.0)
    assert (scale.shape, scale.dtype) == ((), torch.float32)
    assert (zp.shape, zp.dtype) == ((), torch.int32)
    assert int(zp) == zero_point
    assert int(numerics.quantize_affine(torch.zeros(1), scale, zp)) == zero_point


@pytest.mark.parametrize("width", [1e-45, 1e-38, 254 * 2.0**-100])
def test_a_range_too_narrow_for_the_engine_counts_as_empty(width):
    scale, zp = numerics.affine_params(torch.tensor(0.0), torch.tensor(width))
    assert (float(scale), int(zp)) == (1.0, 0)


@pytest.mark.parametrize(
    ("lo", "hi"), [(NAN, 1.0), (0.0, NAN), (-INF, 0.0), (0.0, INF), (2.0, 1.0), (-3e38, 3e38)]
)
def test_affine_params_refuse_ranges_that_are_none(lo, hi):
    with pytest.raises(ValueError, match=r"finite fp32 bounds with lo <= hi, got \["):
        numerics.affine_params(torch.tensor(lo), torch.tensor(hi))


@pytest.mark.parametrize(("lo", "hi"), [(-1.0, 1.0), (-0.3, 5.0), (0.0, 1.0), (-7.0, 0.0)])
def test_affine_integers_equal_numpy(lo, hi):
    scale, zp = numerics.affine_params(torch.tensor(lo), torch.tensor(hi))
    x = torch.cat([torch.randn(500) * 3, torch.tensor([lo, hi, 1e30, -1e30])])
    u = numerics.quantize_affine(x, scale, zp)
    assert np.array_equal(u.numpy(), numpy_affine(x.numpy(), np.float32(scale), int(zp)))
    assert (float(u.min()), float(u.max())) == (0.0, 255.0)


def test_affine_special_values():
    zp = torch.tensor(77)
    u = numerics.quantize_affine(torch.tensor([NAN, INF, -INF]), torch.tensor(0.1), zp)
    assert u.tolist() == [77, 255, 0]


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5), (0, 5)])
def test_small_products_equal_int64(shape):
    a = torch.randint(-127, 128, shape).float()
    w = torch.randint(-127, 128, (4, 5)).float()
    assert torch.equal(numerics.integer_linear(a, w, 127), int64_product(a, w))


@pytest.mark.parametrize("bound", [127, 255])
@pytest.mark.parametrize("inputs", [519, 520, 521, 3000, 8192])
def test_large_products_equal_int64(bound, inputs):
    a = torch.randint(-bound, bound + 1, (6, inputs)).float()
    a[0] = bound
    w = torch.randint(-127, 128, (5, inputs)).float()
    w[0], w[1, ::2] = 127, 0
    assert torch.equal(numerics.integer_linear(a, w, bound), int64_product(a, w))


def test_one_float_product_would_not_be_exact():
    # What the chunks are for: the same sums in one fp32 matmul round on the way.
    a, w = torch.randint(0, 256, (16, 8191)).float(), torch.randint(0, 128, (16, 8191)).float()
    assert not torch.equal(F.linear(a, w), int64_product(a, w))
    assert torch.equal(numerics.integer_linear(a, w, 255), int64_product(a, w))


def test_sums_that_could_leave_int32_are_refused():
    w = torch.full((2, 67000), 127.0)
    with pytest.raises(ValueError, match=r"could reach 2169795000, past the int32 limit 2\^31"):
        numerics.integer_linear(torch.zeros(1, 67000), w, 255)


def test_autocast_does_not_reach_the_integers():
    a, w = torch.full((2, 100), 127.0), torch.full((3, 100), 126.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = numerics.integer_linear(a, w, 127)
    assert y.dtype is torch.float32
    assert torch.equal(y, int64_product(a, w))


def test_an_integer_zero_is_positive():
    y = numerics.integer_linear(torch.tensor([[-0.0, 0.0]]), torch.tensor([[5.0, -5.0]]), 127)
    assert not torch.signbit(y).any()


@pytest.mark.parametrize(("a", "w"), [((3, 4), (2, 5)), ((), (2, 1)), ((3, 4), (4,))])
def test_shapes_that_do_not_fit_are_refused(a, w):
    with pytest.raises(ValueError, match=r"needs a \[\.\.\., K\] and q_w \[N, K\]"):
        numerics.integer_linear(torch.zeros(a), torch.zeros(w), 127)


def conv_in_float64(a: Tensor, w: Tensor, **geometry) -> Tensor:
    """float64 holds every sum here exactly."""
    left, right, top, bottom = geometry.pop("padding", (0, 0, 0, 0))
    padded = F.pad(a.double(), (left, right, top, bottom))
    return F.conv2d(padded, w.double(), **geometry).float()


@pytest.mark.filterwarnings("ignore:TF32")  # torch warns when its oneDNN is switched
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("channels", "outputs", "kernel", "geometry"),
    [
        (3, 4, (3, 3), {}),
        (3, 5, (1, 1), {"stride": (2, 2)}),
        (4, 6, (2, 3), {"padding": (1, 2, 0, 1), "dilation": (2, 1), "groups": 2}),
        (6, 6, (3, 3), {"padding": (1, 1, 1, 1), "groups": 6}),
        (200, 2, (3, 3), {"padding": (1, 1, 1, 1), "stride": (2, 1)}),
        (300, 4, (2, 2), {"groups": 2, "padding": (0, 1, 0, 1)}),
        (2, 2, (40, 40), {"padding": (20, 20, 19, 20), "stride": (7, 7), "groups": 2}),
    ],
)
@pytest.mark.parametrize("samples", [0, 1, 17])  # from 16 on torch may choose another algorithm
def test_convolutions_are_exact(channels, outputs, kernel, geometry, samples, channels_last):
    groups = geometry.get("groups", 1)
    a = torch.randint(-255, 256, (samples, channels, 9, 8)).float()
    a[:1] = 255
    w = torch.randint(-127, 128, (outputs, channels // groups, *kernel)).float()
    w[0] = 127
    if channels_last:
        a = a.contiguous(memory_format=torch.channels_last)
    y = numerics.integer_conv2d(a, w, 255, **geometry)
    assert torch.equal(y, conv_in_float64(a, w, **geometry))
    with torch.backends.mkldnn.flags(enabled=False):
        assert torch.equal(y, numerics.integer_conv2d(a, w, 255, **geometry))


@pytest.mark.filterwarnings("ignore:TF32")
def test_transforms_that_are_not_exact_are_switched_off():
    # Without oneDNN torch takes NNPACK from 16 samples on, whose Winograd sums are not integers.
    a = torch.randint(-255, 256, (16, 64, 17, 17)).float()
    w = torch.randint(-20, 21, (64, 64, 3, 3)).float()
    with torch.backends.mkldnn.flags(enabled=False):
        y = numerics.integer_conv2d(a, w, 255, padding=(1, 1, 1, 1))
    assert torch.equal(y, conv_in_float64(a, w, padding=(1, 1, 1, 1)))
    assert torch._C._get_nnpack_enabled()


def test_convolutions_that_could_leave_int32_are_refused():
    with pytest.raises(ValueError, match=r"past the int32 limit 2\^31"):
        numerics.integer_conv2d(
            torch.zeros(1, 7500, 3, 3), torch.full((1, 7500, 3, 3), 127.0), bound=255
        )


def test_samples_have_one_scale_each():
    x = torch.randn(4, 3, 5, 6)
    x[1, 2, 3, 4], x[2] = float("inf"), 0.0
    q, scale = numerics.quantize_samples(x)
    assert scale.shape == (4, 1, 1, 1)
    expected, expected_scale = numpy_rows(x[[0, 3]].flatten(1).numpy())
    assert np.array_equal(q[[0, 3]].flatten(1).numpy(), expected)
    assert np.array_equal(scale[[0, 3]].flatten(1).numpy(), expected_scale)
    assert scale[1].isnan()
    assert not q[1:3].any()
    assert float(scale[2]) == 1.0


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 3, 0, 4)])
def test_samples_without_values(shape):
    q, scale = numerics.quantize_samples(torch.zeros(shape))
    assert (q.shape, scale.shape) == (shape, (shape[0], 1, 1, 1))
