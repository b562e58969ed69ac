"""Files of convolutions whose weight is cut along rows, and files from before there were any."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from conftest import File
from torch import nn

from sparsekd.convert import convert
from sparsekd.io import FileFormatError, load, save
from sparsekd.nn import Conv1d, Conv2d
from sparsekd.spec import Bf16, Fp32, Int8, Scheme

#: Written before a manifest had the field `geometry`; `old_model` says what it holds.
OLD = Path(__file__).parent / "data" / "before_geometry.safetensors"


def numbers(shape: torch.Size, modulus: int) -> torch.Tensor:
    """A quarter of them not zero."""
    at = torch.arange(shape.numel(), dtype=torch.float32)
    return (((at * 37 % modulus) - modulus // 2) * (at % 4 == 1) / 64).view(shape)


class Stem(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.sparse = nn.Conv2d(3, 18, 3, stride=2, padding=1)
        self.dense = nn.Conv2d(18, 5, (1, 3), padding=(0, 1))
        self.exact = nn.Conv2d(5, 4, (3, 2), padding="same")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.exact(self.dense(self.sparse(x)))


def converted() -> nn.Module:
    """What the old file was written from, converted now."""
    model = Stem().eval()
    for turn, layer in enumerate((model.sparse, model.dense, model.exact)):
        layer.weight.copy_(numbers(layer.weight.shape, 101 + 6 * turn))
        layer.bias.copy_(numbers(layer.bias.shape, 11))
    model = convert(model, scheme=Int8(), kernel="windowed", include="sparse")
    model = convert(model, scheme=Int8(), kernel="dense", include="dense")
    return convert(model, scheme=Fp32(16), kernel="windowed", include="exact")


@pytest.mark.filterwarnings("ignore:Using padding='same'")  # torch's own
def test_a_file_from_before_there_were_rows_loads_and_runs(tmp_path):
    now, x = converted(), torch.randn(2, 3, 13, 12)
    assert [now.sparse.geometry, now.dense.geometry, now.exact.geometry] == ["rows"] * 3
    with torch.device("meta"):
        model = Stem()
    old = load(OLD, model)
    for name in ("sparse", "dense", "exact"):
        ours, theirs = old.get_submodule(name), now.get_submodule(name)
        assert ours.geometry == "pixels"
        assert torch.equal(ours.packed_weight(), theirs.packed_weight())
        assert torch.equal(ours.repacked(ours.kernel).packed_weight(), theirs.packed_weight())
    assert torch.equal(old(x), now(x))
    # Written again it is the same file.
    save(old, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == OLD.read_bytes()


@pytest.mark.parametrize(
    ("scheme", "kernel"),
    [(Int8(), "windowed"), (Int8(), "dense"), (Fp32(16), "windowed"), (Bf16(), "windowed")],
    ids=str,
)
@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv2d])
def test_rows_are_stored_and_loaded(tmp_path, kind, scheme: Scheme, kernel: str):
    dims = 1 if kind is nn.Conv1d else 2
    conv, path = kind(3, 20, 5, stride=2, padding=2), tmp_path / "rows.safetensors"
    conv.weight.mul_(torch.rand_like(conv.weight) < 0.4)
    model = convert(nn.Sequential(conv), scheme=scheme, kernel=kernel)
    assert model[0].geometry == "rows"
    save(model, path)
    assert File.read(path).manifest["layers"]["0"]["geometry"] == "rows"
    x = torch.randn(2, 3, *[11] * dims)
    loaded = load(path, nn.Sequential(kind(3, 20, 5, stride=2, padding=2)))
    assert loaded[0].geometry == "rows"
    assert torch.equal(loaded(x), model(x))
    fresh = (Conv1d if dims == 1 else Conv2d)(
        3, 20, 5, 2, 2, scheme=scheme, kernel=kernel, geometry="rows"
    )
    fresh.load_state_dict(model[0].state_dict())
    assert torch.equal(fresh.eval()(x), model(x))


def refuse(path: Path, layer: str, field: str, value: object, message: str) -> None:
    file = File.read(path)
    file.manifest["layers"][layer][field] = value
    file.write()
    with pytest.raises(FileFormatError, match=message):
        load(path, Stem())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("rows", r"layer 'sparse': steps: shape \(2, 9\), expected \(2, 3\)"),
        (
            "columns",
            r"layers\.sparse\.geometry': Input should be 'pixels' or 'rows', got 'columns'",
        ),
        (None, r"layers\.sparse\.geometry': Input should be 'pixels' or 'rows'"),
        (True, r"layers\.sparse\.geometry': Input should be 'pixels' or 'rows', got True"),
    ],
)
def test_another_geometry_of_the_same_arrays_is_refused(tmp_path, value, message):
    path = Path(shutil.copy(OLD, tmp_path))
    refuse(path, "sparse", "geometry", value, message)


def test_rows_under_the_geometry_of_pixels_are_refused(tmp_path):
    path = tmp_path / "rows.safetensors"
    save(converted(), path)
    refuse(path, "dense", "geometry", "pixels", r"layer 'dense': panels: shape .* expected ")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("groups", 3, r"layer 'sparse': geometry rows: 3 channels, 3 groups"),
        ("dilation", [1, 2], r"layer 'sparse': geometry rows: .* dilation 2 along a row"),
        ("kernel_size", [3, 1], r"layer 'sparse': geometry rows: .* kernel 3 x 1"),
        ("kernel_size", [3, 200], r"layer 'sparse': geometry rows: .* at most 1024 inputs"),
        ("in_channels", 64, r"layer 'sparse': geometry rows: 64 channels"),
    ],
)
def test_rows_of_other_convolutions_are_refused(tmp_path, field, value, message):
    path = tmp_path / "rows.safetensors"
    save(converted(), path)
    file = File.read(path)
    file.manifest["layers"]["sparse"][field] = value
    file.write()
    model = Stem()
    sizes = {"in_channels": 3, "groups": 1, "dilation": (1, 1), "kernel_size": (3, 3)}
    sizes[field] = tuple(value) if isinstance(value, list) else value
    model.sparse = nn.Conv2d(
        sizes["in_channels"],
        18,
        sizes["kernel_size"],
        2,
        1,
        sizes["dilation"],
        sizes["groups"],
    )
    with pytest.raises(FileFormatError, match=message):
        load(path, model)


def test_rows_of_a_depthwise_layer_are_refused(tmp_path):
    path = tmp_path / "depthwise.safetensors"
    model = nn.Sequential(nn.Conv2d(5, 5, 3, groups=5))
    save(convert(model, scheme=Int8(), kernel="depthwise"), path)
    file = File.read(path)
    file.manifest["layers"]["0"]["geometry"] = "rows"
    file.write()
    with pytest.raises(FileFormatError, match="layer '0': kernel 'depthwise' has no geometry 'r"):
        load(path, nn.Sequential(nn.Conv2d(5, 5, 3, groups=5)))
