"""The windowed fp32 and bf16 formats and their Linear, against numpy in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from sparsekd import _native

F32, U16 = NDArray[np.float32], NDArray[np.uint16]
KINDS = ["f32-16", "f32-32", "bf16"]
THREADS = [1, 2, 3]


def bf16_bits(x: F32) -> U16:
    """Round to nearest even on the bits; subnormals to zero, NaN quiet: the definition."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    magnitude = bits & 0x7FFFFFFF
    upper = (bits.astype(np.uint64) + 0x7FFF + (bits >> 16 & 1)).astype(np.uint64) >> 16
    upper = np.where(magnitude > 0x7F800000, bits >> 16 | 0x40, upper)
    return np.where(magnitude < 0x00800000, bits >> 16 & 0x8000, upper).astype(np.uint16)


def bf16_value(bits: U16) -> F32:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def sparse(outputs: int, inputs: int, density: float, seed: int = 0) -> F32:
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((outputs, inputs)).astype(np.float32)
    return np.where(rng.random((outputs, inputs)) < density, weight, 0).astype(np.float32)


def n_of_m(outputs: int, inputs: int, n: int, m: int, seed: int = 0) -> F32:
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((outputs, inputs)).astype(np.float32)
    order = rng.random((outputs, inputs // m, m)).argsort(axis=-1)
    return np.where((order < n).reshape(outputs, inputs), weight, 0).astype(np.float32)


def pack(weight: F32, kind: str, taps: int = 1, groups: int = 1) -> tuple[np.ndarray, ...]:
    if kind == "bf16":
        return _native.pack_windowed_bf16(weight, taps, groups)
    return _native.pack_windowed_f32(weight, int(kind[-2:]), taps, groups)


def unpack(
    parts: tuple[np.ndarray, ...], kind: str, outputs: int, inputs: int, *layout: int
) -> np.ndarray:
    if kind == "bf16":
        return _native.unpack_windowed_bf16(*parts, outputs, inputs, *layout)
    return _native.unpack_windowed_f32(*parts, int(kind[-2:]), outputs, inputs, *layout)


def linear(weight: F32, kind: str, bias: F32 | None, activation: str) -> _native.LinearFloat:
    parts, shape = pack(weight, kind), weight.shape
    if kind == "bf16":
        return _native.LinearFloat.windowed_bf16(*parts, *shape, bias, activation)
    return _native.LinearFloat.windowed_f32(*parts, int(kind[-2:]), *shape, bias, activation)


def run(layer: _native.LinearFloat, x: F32, threads: int = 1) -> F32:
    x = np.ascontiguousarray(x)
    y = np.full((len(x), layer.outputs), np.nan, np.float32)
    layer.forward(x.ctypes.data, len(x), y.ctypes.data, threads)
    return y


def rounded(x: F32, kind: str) -> NDArray[np.float64]:
    return (bf16_value(bf16_bits(x)) if kind == "bf16" else x).astype(np.float64)


def allowed(x: F32, weight: F32, bias: F32, kind: str) -> NDArray[np.float64]:
    """2 gamma_n (|W||x| + |b|) + n 2^-126, n = terms in the row (docs/numerics.md)."""
    n = weight.shape[1] + 1
    gamma = n * 2.0**-24 / (1 - n * 2.0**-24)
    magnitude = np.abs(rounded(x, kind)) @ np.abs(rounded(weight, kind)).T + np.abs(bias)
    return 2 * gamma * magnitude + n * 2.0**-126


def check(x: F32, weight: F32, bias: F32, kind: str, threads: int = 1) -> F32:
    y = run(linear(weight, kind, bias, "none"), x, threads)
    exact = rounded(x, kind) @ rounded(weight, kind).T + bias.astype(np.float64)
    assert np.all(np.abs(y - exact) <= allowed(x, weight, bias, kind))
    return y


# --- the format ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("density", [0.0, 0.02, 0.3, 1.0])
@pytest.mark.parametrize("shape", [(16, 32), (1, 1), (17, 33), (40, 100), (3, 0), (0, 5)])
def test_unpacking_gives_the_matrix_back(kind: str, density: float, shape: tuple[int, int]) -> None:
    weight = sparse(*shape, density)
    parts = pack(weight, kind)
    dense = unpack(parts, kind, *shape)
    expected = bf16_bits(weight) if kind == "bf16" else weight
    np.testing.assert_array_equal(dense, expected)
    again = pack(dense, kind)
    for one, other in zip(parts, again, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_taps_and_groups_come_back(kind: str) -> None:
    weight = sparse(24, 3 * 20, 0.4)
    parts = pack(weight, kind, 3, 2)
    assert parts[2].shape == (2, 3 * -(-20 // (16 if kind == "f32-16" else 32)))
    dense = unpack(parts, kind, 24, 20, 3, 2)
    np.testing.assert_array_equal(dense, bf16_bits(weight) if kind == "bf16" else weight)


@pytest.mark.parametrize(("window", "bits", "per_word"), [(16, 4, 8), (32, 5, 6)])
def test_the_address_formula_of_the_header(window: int, bits: int, per_word: int) -> None:
    weight = sparse(50, 70, 0.3)
    values, positions, steps, step_ptr, order = _native.pack_windowed_f32(weight, window)
    order = np.arange(50) if order is None else order
    dense, word = np.zeros((64, 70), np.float32), 0
    for s in range(len(steps)):
        owner = np.repeat(np.arange(steps.shape[1]), steps[s])
        for t, w in enumerate(owner):
            shift = bits * (t % per_word)
            position = positions[word + t // per_word] >> shift & window - 1
            value = values[step_ptr[s] + t]
            for lane in np.flatnonzero(value):
                dense[16 * s + lane, window * w + position[lane]] += value[lane]
        word += -(-len(owner) // per_word)
    assert word == len(positions)
    np.testing.assert_array_equal(dense[:50], weight[order])


def test_negative_zero_is_dropped_and_non_finite_weights_are_refused() -> None:
    weight = np.array([[1.0, -0.0, 2.0]], np.float32)
    for kind in KINDS:
        assert not np.signbit(rounded_view(unpack(pack(weight, kind), kind, 1, 3))).any()
        for bad in (np.nan, np.inf):
            with pytest.raises(ValueError, match=r"weight: .* in output 0, expected finite"):
                pack(np.array([[bad, 1.0]], np.float32), kind)
    with pytest.raises(ValueError, match="weight: inf in output 0, expected finite"):
        _native.pack_windowed_bf16(np.array([[3.4e38]], np.float32))  # rounds to Inf


def rounded_view(x: np.ndarray) -> F32:
    return bf16_value(x) if x.dtype == np.uint16 else x


def test_steps_are_counted_and_the_cheaper_window_is_named() -> None:
    assert _native.windowed_f32_steps(n_of_m(32, 64, 2, 16), 16) == 2 * 4 * 2
    assert _native.windowed_f32_steps(n_of_m(32, 64, 4, 32), 32) == 2 * 2 * 4
    assert _native.cheaper_f32_window(n_of_m(32, 64, 2, 16)) == 16
    assert _native.cheaper_f32_window(n_of_m(32, 64, 4, 32)) == 32


def test_the_cheaper_window_is_that_of_the_weight_as_it_is_packed() -> None:
    """Even outputs keep the first half of every window of 32, odd ones the second: as they come
    each window of 16 needs as many steps as one of 32, sorted apart half of them need none."""
    dense = np.zeros((64, 1024), np.float32)
    dense[::2].reshape(32, 32, 32)[:, :, :4] = 1.0
    dense[1::2].reshape(32, 32, 32)[:, :, 16:20] = 1.0
    assert _native.windowed_f32_steps(dense, 16) == 2 * _native.windowed_f32_steps(dense, 32)
    assert _native.cheaper_f32_window(dense) == 16


# --- stored arrays are not trusted --------------------------------------------------------------


SPOILT = [
    ("values", (0, 3), np.nan, "values: nan in lane 3, expected finite numbers"),
    ("values", (0, 3), np.inf, "values: inf in lane 3, expected finite numbers"),
    ("values", (0, 3), -0.0, r"values: -0 in lane 3, which the format stores as \+0"),
    ("values", (0, 3), 0.0, "padding at position|a weight after padding"),
    ("positions", (0, 3), 0x115, "expected a strictly increasing order"),
    ("positions", (-1, 3), 0xFFFFFFFF, "bits set that belong to no step"),
    ("steps", (0, 0), 17, "steps: 17 in slice 0, window 0, expected at most 16"),
    ("steps", (0, 0), 1, "step_ptr: entry 1 is 3, expected the running sum of steps"),
    ("step_ptr", (0,), 1, "step_ptr: starts at 1, expected 0"),
    ("step_ptr", (1,), -1, "step_ptr: entry 1 is -1, expected the running sum"),
    ("step_ptr", (1,), 2**62, "step_ptr: entry 1 is 4611686018427387904"),
]


def stored() -> dict[str, np.ndarray]:
    weight = np.zeros((16, 20), np.float32)
    weight[:, [1, 5, 17]] = 1.0
    names = ("values", "positions", "steps", "step_ptr", "order")
    return dict(zip(names, _native.pack_windowed_f32(weight, 16), strict=True))


@pytest.mark.parametrize(("name", "index", "value", "message"), SPOILT)
def test_a_spoilt_fp32_array_is_refused(
    name: str, index: tuple[int, ...], value: float, message: str
) -> None:
    parts = stored()
    _native.unpack_windowed_f32(*parts.values(), 16, 16, 20)
    parts[name][index] = value
    with pytest.raises(ValueError, match=message):
        _native.unpack_windowed_f32(*parts.values(), 16, 16, 20)


def test_wrong_shapes_and_windows_are_refused() -> None:
    parts = stored()
    arrays = list(parts.values())
    with pytest.raises(ValueError, match="window: 24, expected 16 or 32 for fp32"):
        _native.pack_windowed_f32(np.zeros((1, 1), np.float32), 24)
    longer = np.concatenate([parts["positions"]] * 2)
    with pytest.raises(ValueError, match="positions: 2 words, expected 1"):
        _native.unpack_windowed_f32(arrays[0], longer, *arrays[2:], 16, 16, 20)
    with pytest.raises(ValueError, match="values: slice 0 holds a weight in lane 9"):
        _native.unpack_windowed_f32(*arrays, 16, 9, 20)
    with pytest.raises(ValueError, match=r"positions: 1 in a window of 1 inputs"):
        _native.unpack_windowed_f32(*arrays, 16, 16, 17)
    with pytest.raises(ValueError, match="values: dtype float64, expected float32"):
        _native.unpack_windowed_f32(arrays[0].astype(float), *arrays[1:], 16, 16, 20)
    with pytest.raises(ValueError, match="steps: shape"):
        _native.unpack_windowed_f32(*arrays, 16, 16, 40)
    with pytest.raises(ValueError, match="bias: shape"):
        _native.LinearFloat.windowed_f32(*arrays, 16, 16, 20, np.zeros(3, np.float32), "none")


def test_a_spoilt_bf16_array_is_refused() -> None:
    weight = np.zeros((16, 32), np.float32)
    weight[:, [1, 5, 17]] = 1.0
    values, positions, steps, step_ptr, order = _native.pack_windowed_bf16(weight)
    subnormal, unused = values.copy(), positions.copy()
    subnormal[0, 0, 0] = 0x0001
    with pytest.raises(ValueError, match=r"in lane 0, which the format stores as \+0"):
        _native.unpack_windowed_bf16(subnormal, positions, steps, step_ptr, order, 16, 32)
    unused[0, 0, 0] |= 0x8000
    with pytest.raises(ValueError, match="bits set that belong to no step"):
        _native.unpack_windowed_bf16(values, unused, steps, step_ptr, order, 16, 32)


# --- the kernels --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8, 9, 17, 33])
def test_every_element_is_within_the_bound(isa: str, kind: str, rows: int) -> None:
    rng = np.random.default_rng(rows)
    for outputs, inputs, density in [(16, 16, 0.5), (50, 100, 0.2), (97, 33, 0.9), (5, 1, 1.0)]:
        x = rng.standard_normal((rows, inputs)).astype(np.float32)
        bias = rng.standard_normal(outputs).astype(np.float32)
        check(x, sparse(outputs, inputs, density, rows), bias, kind, threads=1 + rows % 3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 2, 4, 8, 16])
def test_masks_that_fill_every_step_evenly(isa: str, kind: str, n: int) -> None:
    m = 16 if kind == "f32-16" else 32
    x = np.random.default_rng(n).standard_normal((11, 160)).astype(np.float32)
    check(x, n_of_m(80, 160, n, m), np.zeros(80, np.float32), kind)


@pytest.mark.parametrize("kind", KINDS)
def test_small_integers_are_exact(isa: str, kind: str) -> None:
    rng = np.random.default_rng(5)
    x = rng.integers(-8, 9, (9, 75)).astype(np.float32)
    weight = (rng.integers(-8, 9, (35, 75)) * (rng.random((35, 75)) < 0.4)).astype(np.float32)
    np.testing.assert_array_equal(run(linear(weight, kind, None, "none"), x), x @ weight.T)


@pytest.mark.parametrize("kind", KINDS)
def test_bits_do_not_depend_on_threads_or_on_the_batch(isa: str, kind: str) -> None:
    rng = np.random.default_rng(7)
    for outputs, inputs in [(1030, 130), (40, 600)]:
        layer = linear(sparse(outputs, inputs, 0.3), kind, None, "none")
        x = rng.standard_normal((37, inputs)).astype(np.float32)
        whole = run(layer, x)
        for threads in THREADS:
            np.testing.assert_array_equal(run(layer, x, threads), whole)
        for cut in (1, 4, 8, 20):
            parts = [run(layer, x[:cut], 2), run(layer, x[cut:], 3)]
            np.testing.assert_array_equal(np.concatenate(parts), whole)


def results_by_isa(layer: _native.LinearFloat, x: F32) -> dict[str, F32]:
    results = {}
    for name in _native.available_isas():
        _native.set_isa(name)
        results[name] = run(layer, x)
    return results


def test_bf16_has_the_same_bits_on_every_isa() -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((19, 300)).astype(np.float32)
    weight = sparse(70, 300, 0.5)
    x[3:7] *= 1e-36  # products and sums in the subnormal range
    weight[20:40] *= 1e-3
    x[8] *= 3e38 / np.abs(x[8]).max()
    results = results_by_isa(linear(weight, "bf16", None, "none"), x)
    assert np.isinf(next(iter(results.values()))[8]).any()
    for y in results.values():
        np.testing.assert_array_equal(y, next(iter(results.values())))


def test_fp32_has_the_same_bits_wherever_there_is_an_fma() -> None:
    x = np.random.default_rng(3).standard_normal((19, 300)).astype(np.float32)
    for kind in ("f32-16", "f32-32"):
        results = results_by_isa(linear(sparse(70, 300, 0.5), kind, None, "none"), x)
        results.pop("scalar")
        for y in results.values():
            np.testing.assert_array_equal(y, next(iter(results.values())))


@pytest.mark.parametrize("count", [1, 15, 16, 17, 50])
def test_rows_are_rounded_to_bf16_by_the_definition(isa: str, count: int) -> None:
    rng = np.random.default_rng(count)
    bits = rng.integers(0, 2**32, (40, count), np.uint64).astype(np.uint32)
    ties = [0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF, 0x00800000, 0x007FFFFF, 0x80000001]
    bits[0, : min(count, len(ties))] = ties[:count]
    x = bits.view(np.float32)
    x = np.where(np.isfinite(rounded(x, "bf16")), x, np.float32(1.5))
    y = run(linear(np.eye(count, dtype=np.float32), "bf16", None, "none"), x)
    np.testing.assert_array_equal(y, bf16_value(bf16_bits(x)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_inf_stay_in_their_row(isa: str, kind: str, bad: float) -> None:
    x = np.random.default_rng(1).standard_normal((9, 70)).astype(np.float32)
    layer = linear(sparse(33, 70, 0.3), kind, None, "none")
    clean = run(layer, x)
    x[4, 68] = bad
    y = run(layer, x)
    others = np.arange(9) != 4
    np.testing.assert_array_equal(y[others], clean[others])
    assert not np.isfinite(y[4]).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
def test_bias_and_activation_are_the_epilogue(isa: str, kind: str, activation: str) -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((3, 40)).astype(np.float32)
    weight, bias = sparse(21, 40, 0.5), rng.standard_normal(21).astype(np.float32)
    plain = run(linear(weight, kind, bias, "none"), x).astype(np.float64)
    y = run(linear(weight, kind, bias, activation), x)
    erf = np.vectorize(math.erf)
    expected = {
        "relu": np.maximum(plain, 0),
        "gelu": plain * 0.5 * (1 + erf(plain / np.sqrt(2))),
        "silu": plain / (1 + np.exp(-plain)),
    }[activation]
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-7)


def test_no_rows_and_no_inputs() -> None:
    for kind in KINDS:
        layer = linear(sparse(20, 30, 0.5), kind, None, "none")
        assert run(layer, np.zeros((0, 30), np.float32)).shape == (0, 20)
        bias = np.arange(20, dtype=np.float32)
        empty = linear(np.zeros((20, 0), np.float32), kind, bias, "none")
        y = run(empty, np.zeros((2, 0), np.float32))
        np.testing.assert_array_equal(y, [bias, bias])
