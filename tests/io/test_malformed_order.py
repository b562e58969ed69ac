"""A file's ``order`` tensor is untrusted too: each way to be wrong is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import File
from torch import nn

from sparsekd.convert import convert
from sparsekd.io import FileFormatError, load, save
from sparsekd.prune import prune_

OUTPUTS = 100


def fresh() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2048, OUTPUTS))


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    """One windowed layer of an arbitrary mask, whose outputs have an order."""
    torch.manual_seed(0)
    model = fresh()
    prune_(model, "unstructured:0.9")
    path = tmp_path_factory.mktemp("order") / "order.safetensors"
    converted = convert(model, scheme="int8", kernel="windowed")
    assert converted[0].order is not None
    save(converted, path)
    return path


@pytest.fixture
def ordered(stored, tmp_path) -> File:
    copy = tmp_path / "order.safetensors"
    copy.write_bytes(stored.read_bytes())
    return File.read(copy)


def _refused(file: File, message: str) -> None:
    file.write()
    model = fresh()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(FileFormatError, match=message) as error:
        load(file.path, model)
    assert str(error.value).startswith(repr(str(file.path)))
    assert type(model[0]) is nn.Linear
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())


def _moved(old: int, new: int) -> Callable[[np.ndarray], np.ndarray]:
    """Another output in the place of one."""
    return lambda order: np.where(order == old, new, order).astype(order.dtype)


def _across(order: np.ndarray) -> np.ndarray:
    """An output of the first block of 64 changes places with one of the second."""
    first, second = (int(np.argwhere(order == output)[0, 0]) for output in (3, 70))
    order[[first, second]] = order[[second, first]]
    return order


CASES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "duplicate": (_moved(5, 6), "order: output 6 in two places"),
    "negative": (_moved(5, -1), "order: output -1 in place"),
    "most negative": (_moved(5, -(2**31)), "order: output -2147483648 in place"),
    "one past the end": (_moved(99, OUTPUTS), f"order: output {OUTPUTS}"),
    "far past the end": (_moved(99, 2**31 - 1), "order: output 2147483647"),
    "across blocks": (_across, r"order: output .*, expected one of (0\.\.63|64\.\.99)"),
    "moves nothing": (np.sort, "order: every output stands in its own place"),
    "longer": (lambda o: np.concatenate([o, o[:1]]), r"order.*\(101,?\).*\(100,?\)"),
    "shorter": (lambda o: o[:-1], r"order.*\(99,?\).*\(100,?\)"),
    "empty": (lambda o: o[:0], r"order.*\(0,?\).*\(100,?\)"),
    "flat no more": (lambda o: o[:, None], r"order' is torch\.int32 with 2 dimensions"),
    "int64": (lambda o: o.astype(np.int64), r"order' is torch\.int64"),
    "float": (lambda o: o.astype(np.float32), r"order' is torch\.float32"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_malformed_order_is_refused_by_name(ordered, name):
    edit, message = CASES[name]
    ordered.change("0.order", edit)
    _refused(ordered, message)


def test_an_order_of_a_layer_that_has_none_is_refused(ordered):
    """Under another kernel the tensor is one that the model does not have."""
    ordered.rename("0.order", "0.orders")
    _refused(ordered, r"(tensors|model has no) .*'0\.orders'")
    ordered.rename("0.orders", "1.order")
    _refused(ordered, r"(tensors|model has no) .*'1\.order'")


def test_a_weight_without_its_order_is_another_weight(ordered, stored):
    """Nothing in the other tensors tells: the file loads, with the outputs in other places."""
    order = ordered.array("0.order")
    ordered.drop("0.order")
    ordered.write()
    with_order, without = (load(path, fresh())[0] for path in (stored, ordered.path))
    there = torch.from_numpy(order.astype(np.int64))
    assert torch.equal(with_order.packed_weight()[there], without.packed_weight())


def test_every_flipped_bit_of_an_order_is_refused(ordered):
    order = ordered.array("0.order").copy()
    for place in range(0, OUTPUTS, 33):
        for bit in range(32):
            damaged = order.copy()
            damaged.view(np.uint32)[place] ^= np.uint32(1 << bit)
            ordered.put("0.order", damaged)
            _refused(ordered, "order: output")
