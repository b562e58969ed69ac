"""The s8 formats through the extension: laws on arbitrary matrices, refusal of malformed arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from sparsekd import backend

native: Any = backend.require()
Matrix = NDArray[np.int8]

FEW = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@st.composite
def matrices(draw: st.DrawFn) -> Matrix:
    """[outputs, inputs] around the sizes that matter, from empty to full."""
    outputs = draw(st.sampled_from([0, 1, 2, 15, 16, 17, 33, 48]))
    inputs = draw(st.sampled_from([0, 1, 3, 4, 5, 63, 64, 65, 127, 130, 200]))
    values = draw(hnp.arrays(np.int8, (outputs, inputs), elements=st.integers(-127, 127)))
    keep = draw(st.sampled_from([0.0, 0.03, 0.125, 0.5, 1.0]))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return np.where(random.random((outputs, inputs)) < keep, values, 0).astype(np.int8)


def same_parts(first: Any, second: Any) -> bool:
    """The same arrays, and None where the other has none."""
    return all(
        a is b if a is None or b is None else a.dtype == b.dtype and np.array_equal(a, b)
        for a, b in zip(first, second, strict=True)
    )


@FEW
@given(matrices())
def test_windowed_laws(weight: Matrix) -> None:
    parts = native.pack_windowed_s8(weight)
    again = native.unpack_windowed_s8(*parts, *weight.shape)
    assert again.dtype == np.int8
    assert np.array_equal(again, weight)
    assert same_parts(parts, native.pack_windowed_s8(again))
    assert same_parts(parts, native.pack_windowed_s8(again, order=parts[-1])) or parts[-1] is None


@FEW
@given(matrices())
def test_windowed_arrays_are_what_the_header_draws(weight: Matrix) -> None:
    values, positions, steps, step_ptr, order = native.pack_windowed_s8(weight)
    order = np.arange(len(weight)) if order is None else order
    outputs, inputs = weight.shape
    slices, windows = -(-outputs // 16), -(-inputs // 64)
    assert steps.shape == (slices, windows)
    assert np.array_equal(np.diff(step_ptr), steps.astype(np.int64).sum(1))
    assert step_ptr[0] == 0
    drawn = np.zeros((slices * 16, windows * 64), np.int64)
    for s in range(slices):
        row = step_ptr[s]
        for w in range(windows):
            for _ in range(steps[s, w]):
                for lane, entry in np.argwhere(values[row]):
                    place = (16 * s + lane, 64 * w + positions[row, lane, entry])
                    assert drawn[place] == 0
                    drawn[place] = values[row, lane, entry]
                row += 1
    assert np.array_equal(drawn[:outputs, :inputs], weight[order])
    assert np.count_nonzero(drawn) == np.count_nonzero(weight)


@FEW
@given(matrices())
def test_dense_laws(weight: Matrix) -> None:
    panels = native.pack_dense_s8(weight)
    outputs, inputs = weight.shape
    slices, quads = -(-outputs // 16), -(-inputs // 4)
    padded = np.zeros((slices * 16, quads * 4), np.int8)
    padded[:outputs, :inputs] = weight
    drawn = padded.reshape(slices, 16, quads, 4).transpose(0, 2, 1, 3)
    assert np.array_equal(panels, drawn)
    again = native.unpack_dense_s8(panels, outputs, inputs)
    assert np.array_equal(again, weight)
    assert np.array_equal(native.pack_dense_s8(again), panels)


@pytest.mark.parametrize("pack", [native.pack_windowed_s8, native.pack_dense_s8])
def test_pack_refuses(pack: Callable[[Any], Any]) -> None:
    weight = np.ones((17, 70), np.int8)
    weight[16, 69] = -128
    with pytest.raises(ValueError, match=r"weight: -128 in output 16, expected -127\.\.127"):
        pack(weight)
    with pytest.raises(ValueError, match="weight: dtype float32, expected int8"):
        pack(np.ones((2, 2), np.float32))
    with pytest.raises(ValueError, match=r"weight: shape \(2,\), expected"):
        pack(np.ones(2, np.int8))
    with pytest.raises(ValueError, match="weight: not contiguous"):
        pack(np.ones((4, 6), np.int8)[:, ::2])


class Parts:
    """A windowed weight of 20 outputs and 100 inputs: two slices, two windows, the last short."""

    OUTPUTS, INPUTS = 20, 100

    def __init__(self) -> None:
        random = np.random.default_rng(5)
        weight = random.integers(1, 128, (self.OUTPUTS, self.INPUTS)).astype(np.int8)
        weight[random.random(weight.shape) < 0.8] = 0
        weight[3] = 0
        weight[3, [2, 9, 70, 90]] = 11, -12, 13, 14
        *arrays, self.order = native.pack_windowed_s8(weight)
        assert self.order is None  # two windows of so few outputs are not worth one
        self.values, self.positions, self.steps, self.step_ptr = (a.copy() for a in arrays)
        self.shape = weight.shape

    def unpack(self) -> Any:
        arrays = self.values, self.positions, self.steps, self.step_ptr, self.order
        return native.unpack_windowed_s8(*arrays, *self.shape)

    def short_window(self) -> int:
        """The first row of slice 0, window 1, which holds 36 inputs."""
        return int(self.steps[0, 0])

    def add_empty_step(self) -> None:
        blank = np.zeros((1, 16, 4))
        self.values = np.concatenate([self.values, blank.astype(np.int8)])
        self.positions = np.concatenate([self.positions, blank.astype(np.uint8)])


def set_step_ptr(p: Parts, index: int, value: int) -> None:
    p.step_ptr[index] = value


def add_accounted_empty_step(p: Parts) -> None:
    p.add_empty_step()
    p.steps[1, 1] += 1
    p.step_ptr[2] += 1


# Lane 3 holds 11, -12 at positions 2, 9 of window 0 and 13, 14 at 6, 26 of window 1.
DAMAGE: dict[str, tuple[Callable[[Parts], Any], str]] = {
    "pointer starts at 1": (lambda p: set_step_ptr(p, 0, 1), "step_ptr: starts at 1, expected 0"),
    "pointer not monotone": (lambda p: set_step_ptr(p, 1, -5), "step_ptr: entry 1 is -5"),
    "pointer enormous": (lambda p: set_step_ptr(p, 1, 2**62), "step_ptr: entry 1 is"),
    "pointer ends early": (lambda p: set_step_ptr(p, 2, p.step_ptr[2] - 1), "step_ptr: entry 2"),
    "sum of steps": (lambda p: p.steps.__setitem__((0, 0), p.steps[0, 0] + 1), "step_ptr: entry 1"),
    "17 steps": (lambda p: p.steps.__setitem__((0, 0), 17), "steps: 17 in slice 0, window 0"),
    "position 64": (lambda p: p.positions.__setitem__((0, 3, 1), 64), "positions: 64 in a window"),
    "position 255": (lambda p: p.positions.__setitem__((0, 3, 1), 255), "positions: 255"),
    "position twice": (lambda p: p.positions.__setitem__((0, 3, 1), 2), "positions: 2 after 2"),
    "descending": (lambda p: p.positions.__setitem__((0, 3, 1), 1), "positions: 1 after 2"),
    "short window": (
        lambda p: p.positions.__setitem__((p.short_window(), 3, 1), 36),
        "positions: 36 in a window of 36 inputs",
    ),
    "value -128": (lambda p: p.values.__setitem__((0, 3, 0), -128), "values: -128 in lane 3"),
    "zero inside": (
        lambda p: (p.values.__setitem__((0, 3, 0), 0), p.positions.__setitem__((0, 3, 0), 0)),
        "values: a weight after padding in lane 3",
    ),
    "pad with a position": (
        lambda p: p.positions.__setitem__((0, 3, 2), 7),
        "positions: padding at position 7 in lane 3",
    ),
    "a step of padding": (add_accounted_empty_step, "steps: slice 1, window 1 has"),
    "one step too many": (lambda p: p.add_empty_step(), "step_ptr: ends at"),
    "weight of no output": (
        lambda p: p.values.__setitem__((int(p.step_ptr[1]), 9, 0), 1),
        "values: slice 1 holds a weight",
    ),
    "too few positions": (
        lambda p: setattr(p, "positions", p.positions[:-1].copy()),
        "positions: shape",
    ),
    "wrong lanes": (lambda p: setattr(p, "values", p.values[:, :8].copy()), "values: shape"),
    "wrong steps": (lambda p: setattr(p, "steps", p.steps[:, :1].copy()), "steps: shape"),
    "wrong pointer": (lambda p: setattr(p, "step_ptr", p.step_ptr[:-1].copy()), "step_ptr: shape"),
    "pointer dtype": (
        lambda p: setattr(p, "step_ptr", p.step_ptr.astype(np.int32)),
        "step_ptr: dtype int32, expected int64",
    ),
    "more outputs": (lambda p: setattr(p, "shape", (33, 100)), "steps: shape"),
    "fewer inputs": (lambda p: setattr(p, "shape", (20, 64)), "steps: shape"),
    "shorter window": (lambda p: setattr(p, "shape", (20, 70)), "in a window of 6 inputs"),
    "negative outputs": (lambda p: setattr(p, "shape", (-1, 100)), "-1 outputs"),
    "negative inputs": (lambda p: setattr(p, "shape", (20, -64)), "-64 inputs"),
    "enormous": (lambda p: setattr(p, "shape", (2**62, 2**62)), "expected|does not fit"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_windowed_parts_are_refused(name: str) -> None:
    parts = Parts()
    parts.unpack()
    damage, message = DAMAGE[name]
    damage(parts)
    with pytest.raises(ValueError, match=message) as error:
        parts.unpack()
    assert "\n" not in str(error.value)


@FEW
@given(st.data())
def test_a_changed_byte_is_refused_or_canonical(data: st.DataObject) -> None:
    parts = Parts()
    array = data.draw(st.sampled_from([parts.values, parts.positions, parts.steps, parts.step_ptr]))
    bytes_of = array.view(np.uint8).reshape(-1)
    bytes_of[data.draw(st.integers(0, bytes_of.size - 1))] = data.draw(st.integers(0, 255))
    try:
        dense = parts.unpack()
    except ValueError:
        return
    *again, _ = native.pack_windowed_s8(dense)
    stored = [parts.values, parts.positions, parts.steps, parts.step_ptr]
    assert same_parts(again, stored)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.__setitem__((1, 24, 9, 0), 1), "panels: a weight in the padding"),
        (lambda p: p.__setitem__((0, 24, 0, 3), 1), "panels: a weight in the padding"),
        (lambda p: p.__setitem__((0, 3, 2, 1), -128), "panels: -128 in"),
    ],
)
def test_damaged_panels_are_refused(change: Callable[[Any], Any], message: str) -> None:
    panels = native.pack_dense_s8(np.ones((20, 99), np.int8)).copy()
    native.unpack_dense_s8(panels, 20, 99)
    change(panels)
    with pytest.raises(ValueError, match=message):
        native.unpack_dense_s8(panels, 20, 99)


@pytest.mark.parametrize("shape", [(33, 99), (20, 101), (16, 99), (-1, 99), (20, -1), (2**62, 8)])
def test_panels_of_another_shape_are_refused(shape: tuple[int, int]) -> None:
    panels = native.pack_dense_s8(np.ones((20, 99), np.int8))
    with pytest.raises(ValueError, match="expected"):
        native.unpack_dense_s8(panels, *shape)


def layer(
    weight: Matrix,
    scale: Any = 1.0,
    input_scale: float | None = None,
    zero_point: int = 128,
    kernel: str = "windowed",
    activation: str = "none",
) -> Any:
    scales = np.full(weight.shape[0], scale, np.float32)
    quantization = (scales, None, input_scale, zero_point, activation)
    if kernel == "windowed":
        parts = native.pack_windowed_s8(weight)
        return native.LinearS8.windowed(*parts, weight.shape[1], *quantization)
    return native.LinearS8.dense(native.pack_dense_s8(weight), weight.shape[1], *quantization)


@pytest.mark.parametrize("kernel", ["windowed", "dense"])
@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_scales_are_refused(kernel: str, bad: float) -> None:
    weight = np.ones((3, 5), np.int8)
    with pytest.raises(
        ValueError, match=r"^scale: .* at output 0, expected a finite number above 0"
    ):
        layer(weight, scale=bad, kernel=kernel)
    with pytest.raises(ValueError, match=r"^input_scale: "):
        layer(weight, input_scale=bad, kernel=kernel)


@pytest.mark.parametrize("kernel", ["windowed", "dense"])
def test_bad_numbers_are_refused(kernel: str) -> None:
    weight = np.ones((3, 5), np.int8)
    for zero_point in (-1, 256):
        with pytest.raises(ValueError, match=r"^input_zero_point: .*, expected 0\.\.255"):
            layer(weight, input_scale=1.0, zero_point=zero_point, kernel=kernel)
    with pytest.raises(
        ValueError, match="unknown activation 'tanh'; known: none, relu, gelu, silu"
    ):
        layer(weight, activation="tanh", kernel=kernel)


@pytest.mark.parametrize("kernel", ["windowed", "dense"])
@pytest.mark.parametrize(("input_scale", "zero_point"), [(None, 128), (1.0, 0), (1.0, 77)])
def test_a_sum_that_could_overflow_is_refused(
    kernel: str, input_scale: float | None, zero_point: int
) -> None:
    farthest = max(zero_point, 255 - zero_point)
    limit = (2**31 - 1) // farthest
    weight = np.full((1, limit // 127 + 1), 127, np.int8)
    weight[0, -1] = limit % 127
    layer(weight, input_scale=input_scale, zero_point=zero_point, kernel=kernel)
    weight[0, -1] += 1
    with pytest.raises(ValueError, match=r"^weight: .* could overflow the 32-bit sum"):
        layer(weight, input_scale=input_scale, zero_point=zero_point, kernel=kernel)
