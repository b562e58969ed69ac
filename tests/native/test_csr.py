"""CSR fp32: format, refusals and the Linear on every instruction set, against float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sparsekd import _native

Array = NDArray[np.float32]
Parts = tuple[NDArray[np.int64], NDArray[np.int32], Array]
ISAS = _native.available_isas()


def random_weight(outputs: int, inputs: int, kept: float, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((outputs, inputs)).astype(np.float32)
    return np.where(rng.random((outputs, inputs)) < kept, weight, np.float32(0))


def random_rows(rows: int, inputs: int, seed: int = 1) -> Array:
    return np.random.default_rng(seed).standard_normal((rows, inputs)).astype(np.float32)


def linear(weight: Array, bias: Array | None = None, activation: str = "none") -> _native.LinearCsr:
    parts = _native.pack_csr_f32(weight)
    return _native.LinearCsr.from_parts(*parts, weight.shape[1], bias, activation)


def run(layer: _native.LinearCsr, x: Array, threads: int = 1) -> Array:
    """y with a margin of NaN around it, which must stay as it is."""
    margin = 16
    x = np.ascontiguousarray(x)
    whole = np.full(x.shape[0] * layer.outputs + 2 * margin, np.nan, np.float32)
    y = whole[margin : whole.size - margin].reshape(x.shape[0], layer.outputs)
    layer.forward(x.ctypes.data, x.shape[0], y.ctypes.data, threads)
    assert np.isnan(whole[:margin]).all()
    assert np.isnan(whole[whole.size - margin :]).all()
    return y


def assert_within_bound(y: Array, x: Array, weight: Array, bias: Array | None) -> None:
    """The bound of docs/numerics.md for fp32, on every element."""
    wide, rows = weight.astype(np.float64), x.astype(np.float64)
    offset = np.zeros(len(weight)) if bias is None else bias.astype(np.float64)
    terms = (weight != 0).sum(axis=1) + (bias is not None)
    gamma = terms * 2.0**-24 / (1 - terms * 2.0**-24)
    size = np.abs(rows) @ np.abs(wide).T + np.abs(offset)
    assert (np.abs(y - (rows @ wide.T + offset)) <= 2 * gamma * size + terms * 2.0**-126).all()


# Format.


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (1, 1), (3, 129), (65, 300), (130, 70)])
def test_stored_form_is_that_of_torch(shape: tuple[int, int], kept: float) -> None:
    weight = random_weight(*shape, kept)
    row_ptr, columns, values = _native.pack_csr_f32(weight)
    torch_form = torch.from_numpy(weight).to_sparse_csr()
    assert np.array_equal(row_ptr, torch_form.crow_indices().numpy())
    assert np.array_equal(columns, torch_form.col_indices().numpy())
    assert np.array_equal(values, torch_form.values().numpy())


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.02, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (1, 1), (3, 129), (65, 1300), (7, 40_000)])
def test_unpack_reverses_pack(shape: tuple[int, int], kept: float) -> None:
    weight = random_weight(*shape, kept)
    parts = _native.pack_csr_f32(weight)
    assert np.array_equal(_native.unpack_csr_f32(*parts, shape[1]), weight)
    again = _native.pack_csr_f32(_native.unpack_csr_f32(*parts, shape[1]))
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))


def test_uneven_outputs_survive_packing() -> None:
    weight = random_weight(150, 700, 1.0)
    for output in range(150):
        weight[output, output * 4 :] = 0
    assert np.array_equal(_native.unpack_csr_f32(*_native.pack_csr_f32(weight), 700), weight)


def test_pack_drops_both_zeros() -> None:
    weight = np.array([[0.0, -0.0, 2.0]], np.float32)
    _, columns, values = _native.pack_csr_f32(weight)
    assert columns.tolist() == [2]
    assert values.tolist() == [2.0]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pack_refuses_what_is_not_finite(value: float) -> None:
    weight = np.array([[1.0, 0.0], [0.0, value]], np.float32)
    with pytest.raises(ValueError, match=r"^weight: -?(nan|inf) in output 1, expected a finite"):
        _native.pack_csr_f32(weight)


# Refusals. Three outputs of 4 inputs: [1 . 2 .] [. . . .] [. 3 . 4].


def small() -> dict[str, NDArray[np.generic]]:
    return {
        "row_ptr": np.array([0, 2, 2, 4], np.int64),
        "columns": np.array([0, 2, 1, 3], np.int32),
        "values": np.array([1, 2, 3, 4], np.float32),
    }


def changed(name: str, index: int, value: float) -> dict[str, NDArray[np.generic]]:
    parts = small()
    parts[name][index] = value  # type: ignore[index]
    return parts


def replaced(name: str, value: NDArray[np.generic]) -> dict[str, NDArray[np.generic]]:
    return {**small(), name: value}


MALFORMED = {
    "ptr[0] = 1": (changed("row_ptr", 0, 1), "row_ptr: starts at 1, expected 0"),
    "ptr[0] = -1": (changed("row_ptr", 0, -1), "row_ptr: starts at -1"),
    "falling": (changed("row_ptr", 1, 3), "row_ptr: falls from 3 to 2 at output 1"),
    "negative": (changed("row_ptr", 1, -5), "row_ptr: falls from 0 to -5 at output 0"),
    "far outside": (changed("row_ptr", 2, 2**62), "row_ptr: falls from"),
    "last too small": (changed("row_ptr", 3, 3), "row_ptr: ends at 3, but columns and values hold"),
    "last too large": (changed("row_ptr", 3, 2**62), "row_ptr: ends at 4611686018427387904"),
    "column = n": (changed("columns", 1, 4), r"columns: 4 in output 0, expected 0\.\.3"),
    "column = -1": (changed("columns", 0, -1), "columns: -1 in output 0"),
    "column far out": (changed("columns", 3, 2**31 - 1), "columns: 2147483647 in output 2"),
    "duplicate": (changed("columns", 3, 1), "columns: 1 after 1 in output 2, expected a strictly"),
    "unsorted": (changed("columns", 0, 3), "columns: 2 after 3 in output 0, expected a strictly"),
    "NaN": (changed("values", 2, np.nan), "values: nan in output 2, expected a finite number"),
    "Inf": (changed("values", 0, np.inf), "values: inf in output 0"),
    "zero": (changed("values", 0, 0.0), "values: a zero in output 0"),
    "minus zero": (changed("values", 0, -0.0), "values: a zero in output 0"),
    "values short": (replaced("values", np.ones(3, np.float32)), r"values: shape \(3,\), expected"),
    "columns long": (replaced("columns", np.arange(5, dtype=np.int32)), r"values: shape \(4,\)"),
    "no row_ptr": (replaced("row_ptr", np.zeros(0, np.int64)), "row_ptr: empty"),
    "row_ptr dtype": (replaced("row_ptr", np.zeros(4, np.int32)), "row_ptr: dtype int32"),
    "columns dtype": (replaced("columns", np.zeros(4, np.int64)), "columns: dtype int64"),
    "values dtype": (replaced("values", np.zeros(4, np.float64)), "values: dtype float64"),
    "row_ptr shape": (replaced("row_ptr", np.zeros((2, 2), np.int64)), r"row_ptr: shape \(2, 2\)"),
    "strided": (replaced("columns", np.arange(8, dtype=np.int32)[::2]), "columns: not contiguous"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_parts_are_refused(name: str) -> None:
    parts, message = MALFORMED[name]
    with pytest.raises(ValueError, match=message):
        _native.LinearCsr.from_parts(**parts, inputs=4, bias=None, activation="none")
    with pytest.raises(ValueError, match=message):
        _native.unpack_csr_f32(**parts, inputs=4)


@pytest.mark.parametrize("inputs", [-1, 2**31, 2**62])
def test_impossible_sizes_are_refused(inputs: int) -> None:
    with pytest.raises(ValueError, match=rf"a weight of .*{inputs} inputs, expected"):
        _native.LinearCsr.from_parts(**small(), inputs=inputs, bias=None, activation="none")


def test_few_weights_of_many_inputs_take_little_memory() -> None:
    layer = _native.LinearCsr.from_parts(**small(), inputs=2**31 - 1, bias=None, activation="none")
    assert (layer.outputs, layer.inputs) == (3, 2**31 - 1)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"bias: shape \(2,\), expected \(3\)"):
        _native.LinearCsr.from_parts(
            **small(), inputs=4, bias=np.zeros(2, np.float32), activation="none"
        )
    with pytest.raises(ValueError, match="unknown activation 'tanh'"):
        _native.LinearCsr.from_parts(**small(), inputs=4, bias=None, activation="tanh")
    layer = _native.LinearCsr.from_parts(**small(), inputs=4, bias=None, activation="none")
    x, y = np.zeros((1, 4), np.float32), np.zeros((1, 3), np.float32)
    with pytest.raises(ValueError, match="rows: -1"):
        layer.forward(x.ctypes.data, -1, y.ctypes.data, 1)
    with pytest.raises(ValueError, match="thread count 0"):
        layer.forward(x.ctypes.data, 1, y.ctypes.data, 0)


# The Linear.

ROWS = [0, 1, 2, 15, 16, 17, 33, 49, 64, 65, 130]
SHAPES = [(1, 1), (4, 128), (65, 129), (100, 33), (300, 700)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kept", [0.02, 0.1, 0.5])
def test_outputs_are_within_the_bound(isa: str, shape: tuple[int, int], kept: float) -> None:
    weight = random_weight(*shape, kept)
    bias = random_rows(1, shape[0], 2)[0]
    plain, biased = linear(weight), linear(weight, bias)
    for rows in ROWS:
        x = random_rows(rows, shape[1])
        assert_within_bound(run(plain, x), x, weight, None)
        assert_within_bound(run(biased, x, 2), x, weight, bias)


def test_bits_do_not_depend_on_threads_or_batch(isa: str) -> None:
    weight = random_weight(200, 900, 0.05)
    layer = linear(weight, random_rows(1, 200, 2)[0], "gelu")
    x = random_rows(97, 900)
    whole = run(layer, x)
    for threads in (2, 3):
        assert np.array_equal(run(layer, x, threads), whole)
    for size in (1, 2, 7, 16, 40, 64, 96):
        parts = [run(layer, x[i : i + size], 3) for i in range(0, len(x), size)]
        assert np.array_equal(np.concatenate(parts), whole)


def test_bits_are_equal_where_the_instructions_fuse() -> None:
    weight, x = random_weight(70, 300, 0.3), random_rows(20, 300)
    fused = [isa for isa in ISAS if isa != "scalar"]
    results = []
    for isa in fused:
        _native.set_isa(isa)
        results.append(run(linear(weight), x))
    assert all(np.array_equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize("rows", [1, 5, 20])
def test_dropped_inputs_and_padding_are_never_read(isa: str, rows: int) -> None:
    """NaN at the inputs that an output drops does not reach it, nor any other row."""
    weight = random_weight(70, 260, 0.1)
    weight[3] = 0
    x = random_rows(rows, 260)
    clean = run(linear(weight), x)
    x[rows // 2, ::3] = np.nan
    x[rows // 2, 1::3] = np.inf
    y = run(linear(weight), x)
    touched = (weight[:, np.arange(260) % 3 != 2] != 0).any(axis=1)
    assert np.array_equal(np.delete(y, rows // 2, 0), np.delete(clean, rows // 2, 0))
    assert np.array_equal(y[rows // 2, ~touched], clean[rows // 2, ~touched])
    assert not np.isfinite(y[rows // 2, touched]).any()


@pytest.mark.parametrize("activation", ["none", "relu", "gelu", "silu"])
def test_activations(isa: str, activation: str) -> None:
    weight, bias, x = random_weight(37, 64, 0.3), random_rows(1, 37, 2)[0], random_rows(19, 64)
    plain = torch.from_numpy(run(linear(weight, bias), x)).double()
    exact = {
        "none": plain,
        "relu": torch.relu(plain),
        "gelu": torch.nn.functional.gelu(plain),
        "silu": torch.nn.functional.silu(plain),
    }[activation]
    y = torch.from_numpy(run(linear(weight, bias, activation), x)).double()
    torch.testing.assert_close(y, exact, rtol=4 * 2.0**-23, atol=1e-7)  # 4 ulp + 1e-7


def test_nothing_kept_and_no_inputs_give_the_bias(isa: str) -> None:
    bias = random_rows(1, 70, 2)[0]
    for inputs in (0, 50):
        layer = linear(np.zeros((70, inputs), np.float32), bias)
        for rows in (1, 18):
            y = run(layer, random_rows(rows, inputs))
            assert np.array_equal(y, np.broadcast_to(bias, (rows, 70)))


def test_minus_zero_sums_keep_their_sign() -> None:
    """Padding adds -0: a product that underflows to -0 stays one."""
    weight = np.zeros((64, 8), np.float32)
    weight[0, :4] = -1e-30  # the other outputs of its run are padded, and so is output 1 itself
    weight[1, 0] = -1e-30
    x = np.full((17, 8), 1e-30, np.float32)
    for isa in ISAS:
        _native.set_isa(isa)
        layer = linear(weight)
        one, many = run(layer, x[:1]), run(layer, x)
        assert np.signbit(one[0, :2]).all() == (
            isa != "scalar"
        )  # there the product is rounded alone
        assert np.array_equal(np.signbit(many), np.broadcast_to(np.signbit(one), many.shape))
