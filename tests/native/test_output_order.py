"""The order of outputs in windowed weights: what it saves, its laws, and damage to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import sparsekd as skd
from sparsekd import _native, backend
from sparsekd.nn import Conv2d, Linear
from sparsekd.spec import Bf16, Fp32, Int8, Scheme

FORMATS = {
    "s8": backend.format_of(Int8(), "windowed"),
    "f32": backend.format_of(Fp32(), "windowed"),
    "bf16": backend.format_of(Bf16(), "windowed"),
}
SCHEMES: list[Scheme] = [Int8(), Fp32(), Bf16()]


def masked(outputs: int, inputs: int, sparsity: float, seed: int = 0) -> torch.Tensor:
    """Random int8 weights under a random mask."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randint(1, 128, (outputs, inputs), dtype=torch.int8, generator=generator)
    weight[torch.rand(outputs, inputs, generator=generator) < sparsity] = 0
    return weight


def stored_share(values: np.ndarray) -> float:
    return float(np.count_nonzero(values) / values.size)


@pytest.mark.parametrize(
    ("inputs", "sparsity", "least"),
    [(768, 0.8, 0.68), (768, 0.9, 0.575), (768, 0.95, 0.455), (3072, 0.8, 0.66), (3072, 0.9, 0.54)],
)
def test_grouping_random_masks_saves_padding(inputs: int, sparsity: float, least: float) -> None:
    weight = masked(512, inputs, sparsity).numpy()
    values, *_, order = _native.pack_windowed_s8(weight)
    plain, *_ = _native.pack_windowed_s8(weight, order=swapped(512))
    assert order is not None
    assert stored_share(values) > least > stored_share(plain)
    for begin in range(0, 512, 64):
        assert sorted(order[begin : begin + 64]) == list(range(begin, begin + 64))
    again = _native.pack_windowed_s8(weight)[-1]
    assert np.array_equal(order, again)  # the same every time


def swapped(outputs: int) -> np.ndarray:
    """An order that moves nearly nothing."""
    order = np.arange(outputs, dtype=np.int32)
    order[[0, 1]] = order[[1, 0]]
    return order


def test_masks_that_do_not_pad_have_no_order() -> None:
    layer = nn.Linear(256, 128)
    skd.prune.prune_(layer, skd.prune.NM(8, 32))
    packed = Linear.from_float(layer, scheme=Int8())
    assert packed.order is None
    assert packed.efficiency() == 1.0
    assert "order" not in packed.state_dict()


def test_unlike_outputs_are_sorted_apart() -> None:
    """Every fourth output keeps much: grouped they fill one slice of four."""
    weight = masked(64, 512, 0.9)
    weight[::4] = masked(16, 512, 0.3, seed=1)
    order = _native.pack_windowed_s8(weight.numpy())[-1]
    assert order is not None
    slices = [set(order[i : i + 16]) for i in range(0, 64, 16)]
    assert set(range(0, 64, 4)) in slices


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize(("outputs", "taps", "groups"), [(150, 1, 1), (150, 3, 3), (20, 1, 1)])
def test_pack_under_a_given_order(dtype: str, outputs: int, taps: int, groups: int) -> None:
    weight = masked(outputs, taps * 70, 0.8)
    dense = (weight if dtype == "s8" else weight.float()).numpy()
    random, each = np.random.default_rng(2), outputs // groups
    order = np.arange(outputs, dtype=np.int32)
    for group in range(0, outputs, each):
        for begin in range(group, group + each, 64):
            random.shuffle(order[begin : min(begin + 64, group + each)])
    window = (16,) if dtype == "f32" else ()
    pack = getattr(_native, f"pack_windowed_{dtype}")
    unpack = getattr(_native, f"unpack_windowed_{dtype}")
    parts = pack(dense, *window, taps, groups, order)
    back = unpack(*parts, *window, outputs, 70, taps, groups)
    again = pack(back, *window, taps, groups, parts[-1])
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))
    assert np.array_equal(parts[-1], order)


DAMAGE: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "twice": (lambda o: np.where(o == 5, 6, o).astype(np.int32), "order: output 6 in two places"),
    "negative": (lambda o: np.where(o == 5, -1, o).astype(np.int32), "order: output -1 in place"),
    "too large": (lambda o: np.where(o == 99, 100, o).astype(np.int32), "order: output 100"),
    "across": (lambda o: o[::-1].copy(), r"order: output .*, expected one of 0\.\.63"),
    "nothing moves": (lambda o: np.sort(o), "order: every output stands in its own place"),
    "short": (lambda o: o[:-1].copy(), r"order: shape \(99,\), expected \(100\)"),
    "dtype": (lambda o: o.astype(np.int64), "order: dtype int64, expected int32"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_order_is_refused(name: str) -> None:
    *arrays, order = _native.pack_windowed_s8(masked(100, 2048, 0.9).numpy())
    assert order is not None
    damage, message = DAMAGE[name]
    with pytest.raises(ValueError, match=message):
        _native.unpack_windowed_s8(*arrays, damage(order), 100, 2048)


def sparse_layer(scheme: Scheme, seed: int = 0) -> Linear:
    layer = nn.Linear(2000, 150)
    with torch.no_grad():
        layer.weight.copy_(masked(150, 2000, 0.85, seed).float() / 100)
    return Linear.from_float(layer, scheme=scheme)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: type(s).__name__)
def test_state_dicts_and_files_carry_the_order(scheme: Scheme, tmp_path: Path) -> None:
    layer = sparse_layer(scheme)
    assert layer.order is not None
    x = torch.randn(9, 2000)
    fresh = Linear(2000, 150, scheme=layer.scheme)
    fresh.load_state_dict(layer.state_dict())
    skd.save(nn.Sequential(layer), tmp_path / "layer.safetensors")
    loaded = skd.load(tmp_path / "layer.safetensors", nn.Sequential(nn.Linear(2000, 150)))
    with torch.inference_mode():
        for other in (fresh, loaded):
            assert torch.equal(other(x), layer(x))
    # A state without an order takes away that of the layer.
    plain = Linear(2000, 150, scheme=layer.scheme)
    fresh.load_state_dict(plain.state_dict())
    assert fresh.order is None


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("rows", [1, 5, 33])
@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
def test_an_ordered_linear_is_the_dense_one(threads: int, rows: int, activation: str) -> None:
    layer = nn.Linear(2000, 1000)
    with torch.no_grad():
        layer.weight.copy_(masked(1000, 2000, 0.85).float() / 100)
    ordered, dense = (
        Linear.from_float(layer, scheme=Int8(), kernel=kernel, activation=activation)
        for kernel in ("windowed", "dense")
    )
    assert ordered.order is not None
    before, x = torch.get_num_threads(), torch.randn(rows, 2000)
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            assert torch.equal(ordered(x), dense(x))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("groups", [1, 3])
def test_an_ordered_convolution_is_the_dense_one(groups: int) -> None:
    layer = nn.Conv2d(384, 300, 3, padding=1, groups=groups)
    mask = masked(300, 384 // groups * 9, 0.9).float() != 0
    with torch.no_grad():
        layer.weight.mul_(mask.view(layer.weight.shape))
    ordered, dense = (
        Conv2d.from_float(layer, scheme=Int8(), kernel=kernel) for kernel in ("windowed", "dense")
    )
    assert ordered.order is not None
    x = torch.randn(2, 384, 7, 5)
    with torch.inference_mode():
        assert torch.equal(ordered(x), dense(x))


@pytest.mark.parametrize("scheme", [Int8(), Fp32(16)], ids=lambda s: type(s).__name__)
def test_repacking_takes_the_order_of_the_new_weight(scheme: Scheme) -> None:
    """Not that of the old tensors, under which the new ones would be other outputs'."""
    layer = sparse_layer(scheme)
    other = "dense" if isinstance(scheme, Int8) else "csr"
    through = layer.repacked(other).repacked("windowed")
    own, reordered = layer.packed_weight(), layer.packed_weight().flip(0).contiguous()
    assert torch.equal(layer.repacked("windowed").packed_weight(), own)
    assert torch.equal(through.packed_weight(), own)
    assert torch.equal(layer.repacked("windowed", weight=reordered).packed_weight(), reordered)
