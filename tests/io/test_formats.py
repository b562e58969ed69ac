"""Files of every kind of layer, scheme and kernel: round trips, and what is refused of each."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import File, snapshot
from torch import nn

from sparsekd.convert import FoldedNorm, convert, to_float
from sparsekd.io import FileFormatError, load, save
from sparsekd.nn import EngineModule
from sparsekd.quantize import calibrate, prepare_
from sparsekd.spec import Bf16, Fp32, Int8, Scheme, Unstructured
from sparsekd.verify import verify

LAYERS = {
    "linear": nn.Linear(70, 18),
    "conv1d": nn.Conv1d(40, 18, 3, stride=2, padding=1, dilation=2, groups=2),
    "conv2d": nn.Conv2d(40, 18, (3, 2), padding="same"),
    "conv2d 1x1": nn.Conv2d(70, 18, 1, bias=False),
    "conv1d depthwise": nn.Conv1d(20, 20, 3, padding="valid", groups=20),
    "conv2d depthwise": nn.Conv2d(20, 20, 3, padding=1, groups=20),
}
#: name of a layer in LAYERS, scheme, kernel
KINDS: list[tuple[str, Scheme, str]] = [
    *((name, Int8(), kernel) for name in LAYERS for kernel in ("windowed", "dense")),
    *((name, scheme, "windowed") for name in LAYERS for scheme in (Fp32(16), Fp32(32), Bf16())),
    *((name, Fp32(), "csr") for name in ("linear", "conv2d 1x1")),
    *((f"{d} depthwise", s, "depthwise") for d in ("conv1d", "conv2d") for s in (Int8(), Fp32())),
]


def architecture(kind: str) -> nn.Sequential:
    return nn.Sequential(copy.deepcopy(LAYERS[kind]), nn.Hardswish())


def example(kind: str) -> torch.Tensor:
    channels = LAYERS[kind].weight.shape[1] * getattr(LAYERS[kind], "groups", 1)
    sizes = {"linear": (), "conv1d": (9,), "conv2d": (7, 6)}[kind.split()[0]]
    return torch.randn(2, channels, *sizes)


def converted_model(kind: str, scheme: Scheme, kernel: str) -> nn.Module:
    model = architecture(kind)
    weight = model[0].weight
    weight.mul_(Unstructured(0.7).mask(weight.abs()))
    return convert(model, scheme=scheme, kernel=kernel)


@pytest.mark.parametrize(("kind", "scheme", "kernel"), KINDS)
@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.filterwarnings("ignore:Using padding='same'")  # torch's own
def test_every_format_round_trips(tmp_path, kind, scheme, kernel, device):
    model, x = converted_model(kind, scheme, kernel), example(kind)
    save(model, tmp_path / "f")
    with torch.device(device):
        empty = architecture(kind)
    if device == "meta":
        empty = empty.to("meta")
    loaded = load(tmp_path / "f", empty)
    assert (loaded[0].kernel, loaded[0].activation) == (kernel, "hardswish")
    if kernel == "windowed":
        assert loaded[0].scheme == model[0].scheme == scheme
    assert torch.equal(loaded(x), model(x))
    state = loaded.state_dict()
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    save(loaded, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "f").read_bytes()
    assert verify(loaded, to_float(model), x, bound=0.1).ok


@pytest.mark.parametrize("activations", ["dynamic", "static"])
def test_fake_quantized_convolutions_round_trip(tmp_path, activations):
    def build():
        return nn.Sequential(nn.Conv2d(8, 20, 3), nn.ReLU(), nn.Conv2d(20, 20, 3, groups=20))

    model, x = build(), torch.randn(2, 8, 9, 9)
    prepare_(model, Int8(activations))
    if activations == "static":
        calibrate(model, [x])
    converted = convert(model.eval())
    save(converted, tmp_path / "f")
    loaded = load(tmp_path / "f", build())
    assert loaded[0].scheme == Int8(activations)
    assert torch.equal(loaded(x), model(x))
    assert verify(loaded, model, x).ok


# --- BatchNorm ----------------------------------------------------------------------------------


class Normed(nn.Module):
    """conv-bn-relu, conv-bn, pool, linear-bn."""

    def __init__(self, channels: int = 12) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(4, channels, 3, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
        )
        self.conv, self.norm = nn.Conv2d(channels, 8, 1), nn.BatchNorm2d(8)
        self.head = nn.Sequential(nn.Linear(8, 5, bias=False), nn.BatchNorm1d(5))

    def forward(self, x):
        return self.head(self.norm(self.conv(self.body(x))).mean((2, 3)))


def normed() -> Normed:
    model = Normed().train()
    model(torch.randn(16, 4, 6, 6) + 1)
    return model.eval()


@pytest.mark.parametrize("how", ["convert", "prepare"])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_folded_batch_norm_needs_no_other_architecture(tmp_path, how, device):
    model, x = normed(), torch.randn(3, 4, 6, 6)
    if how == "prepare":
        prepare_(model)
    converted = convert(model.eval(), x, scheme="int8")
    save(converted, tmp_path / "f")
    with torch.device(device):
        empty = Normed()
    loaded = load(tmp_path / "f", empty)
    assert not any(t.is_meta for t in [*loaded.parameters(), *loaded.buffers()])
    assert [type(loaded.get_submodule(n)) for n in ("body.1", "norm", "head.1")] == [FoldedNorm] * 3
    assert loaded.norm.engine is loaded.conv
    assert torch.equal(loaded(x), converted(x))
    save(loaded, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "f").read_bytes()
    assert torch.equal(load(tmp_path / "f", loaded)(x), converted(x))  # filled once more
    assert torch.equal(load(tmp_path / "f", to_float(converted))(x), converted(x))
    assert torch.equal(copy.deepcopy(loaded)(x), converted(x))
    if how == "convert":
        assert verify(loaded, model, x, bound=0.1).ok


def test_a_folded_batch_norm_must_be_one_of_the_model(tmp_path):
    save(convert(normed(), scheme="int8"), tmp_path / "f")

    def changed(name, module):
        model = Normed()
        parent, _, key = name.rpartition(".")
        setattr(model.get_submodule(parent), key, module)
        return model

    shared = Normed()
    shared.more = shared.norm
    hooked = Normed()
    hooked.norm.register_forward_hook(lambda *a: None)
    cases = [
        (changed("norm", nn.BatchNorm2d(9)), r"'conv' holds the BatchNorm at 'norm', .* \w+2d\(9"),
        (changed("norm", nn.BatchNorm1d(8)), r"at 'norm', where the model has BatchNorm1d\(8"),
        (changed("norm", nn.Identity()), r"at 'norm', where the model has Identity\(\)"),
        (changed("norm", nn.GroupNorm(1, 8)), r"at 'norm', where the model has GroupNorm"),
        (changed("head.1", nn.BatchNorm2d(5)), r"'head\.0' holds .* 'head\.1', .* BatchNorm2d\(5"),
        (changed("body.0", nn.Conv2d(4, 12, 5, bias=False)), r"kernel_size=\[3, 3\] in the file"),
        (shared, "the BatchNorm at 'norm' serves more than layer 'conv'"),
        (hooked, r"replacing 'norm' \(forward hook\) would drop"),
    ]
    for model, message in cases:
        before = snapshot(model)
        with pytest.raises(ValueError, match=message):
            load(tmp_path / "f", model)
        assert snapshot(model) == before


def test_a_folded_batch_norm_without_its_layer_is_refused_by_save(tmp_path):
    converted = convert(normed(), scheme="int8")
    converted.conv = nn.Conv2d(12, 8, 1)
    with pytest.raises(ValueError, match="BatchNorm at 'norm' was fused into a layer that is no"):
        save(converted, tmp_path / "f")


# --- what load refuses of each kind -------------------------------------------------------------


@pytest.fixture
def broken(tmp_path):
    """Breaks one tensor or field of a file of one layer and asserts that it is refused."""

    def check(kind, scheme, kernel, edit, message) -> None:
        path = tmp_path / "f"
        save(converted_model(kind, scheme, kernel), path)
        file = File.read(path)
        edit(file)
        file.write()
        model = architecture(kind)
        before = snapshot(model)
        with pytest.raises(FileFormatError, match=message) as error:
            load(path, model)
        assert "\n" not in str(error.value)
        assert snapshot(model) == before

    return check


def field(key: str, value: object, part: str = ""):
    def edit(file: File) -> None:
        entry = file.manifest["layers"]["0"]
        (entry[part] if part else entry)[key] = value

    return edit


SIZES = [
    ("kind", "conv1d", r"kernel_size has 2 numbers, a conv1d has 1"),
    ("kind", "linear", r"'layers\.0\.in_features': Field required"),
    (
        "in_channels",
        39,
        r"layer '0' has in_channels=39 in the file and in_channels=40 in the model",
    ),
    ("in_channels", 0, r"'layers\.0\.in_channels': Input should be greater than or equal to 1"),
    ("in_channels", 2**21, r"'layers\.0\.in_channels': Input should be less than or equal to"),
    ("out_channels", 18.0, r"'layers\.0\.out_channels': Input should be a valid integer"),
    ("kernel_size", [2, 3], r"kernel_size=\[2, 3\] in the file and kernel_size=\[3, 2\]"),
    ("kernel_size", [3], "kernel_size has 1 numbers, a conv2d has 2"),
    ("kernel_size", [3, 2, 1], r"'layers\.0\.kernel_size': List should have at most 2 items"),
    ("kernel_size", [3, 0], r"'layers\.0\.kernel_size\.1': Input should be greater than"),
    ("kernel_size", "3", r"'layers\.0\.kernel_size': Input should be a valid list"),
    ("kernel_size", [True, 2], r"'layers\.0\.kernel_size\.0': Input should be a valid integer"),
    ("stride", [1, -1], r"'layers\.0\.stride\.1': Input should be greater than or equal to 1"),
    ("stride", [2, 2], r"stride=\[2, 2\] in the file and stride=\[1, 1\]"),
    ("dilation", [1, 2**40], r"'layers\.0\.dilation\.1': Input should be less than"),
    ("padding", "valid", "padding=valid in the file and padding=same in the model"),
    ("padding", "full", r"'layers\.0\.padding\."),
    ("padding", [-1, 0], r"'layers\.0\.padding\."),
    ("padding", [1], "padding has 1 numbers, a conv2d has 2"),
    ("groups", 2, "groups=2 in the file and groups=1 in the model"),
    ("groups", 0, r"'layers\.0\.groups': Input should be greater"),
    ("output_padding", 0, r"'layers\.0\.output_padding': Extra inputs are not permitted"),
    ("bias", False, "bias=False in the file and bias=True"),
    ("kernel", "csr", r"'layers\.0': unknown kernel 'csr' for int8"),
    (
        "kernel",
        "depthwise",
        "layer '0': kernel 'depthwise' serves convolutions with as many groups",
    ),
]


@pytest.mark.parametrize(("key", "value", "message"), SIZES)
def test_a_wrong_size_of_a_convolution_is_refused_by_name(broken, key, value, message):
    broken("conv2d", Int8(), "windowed", field(key, value), message)


SCHEMES = [
    ("conv2d", Fp32(16), "windowed", field("window", 32, "scheme"), "(steps|positions|windows)"),
    ("conv2d", Fp32(32), "windowed", field("window", None, "scheme"), "'windowed' needs a window"),
    ("linear", Fp32(), "csr", field("window", 16, "scheme"), "kernel 'csr' has no window"),
    (
        "linear",
        Fp32(),
        "csr",
        field("kernel", "dense"),
        r"unknown kernel 'dense' for fp32; choices",
    ),
    ("linear", Bf16(), "windowed", field("window", 32, "scheme"), r"scheme\.window': Extra inputs"),
    ("linear", Bf16(), "windowed", field("kernel", "csr"), "unknown kernel 'csr' for bf16"),
    (
        "linear",
        Bf16(),
        "windowed",
        field("scheme", {"name": "fp32", "window": 32}),
        r"tensor '0\.\w+' is torch\.\w+ with",
    ),
    ("conv2d 1x1", Fp32(), "csr", field("groups", 2), "groups=2 in the file"),
]


@pytest.mark.parametrize(("kind", "scheme", "kernel", "edit", "message"), SCHEMES)
def test_a_scheme_that_does_not_fit_is_refused(broken, kind, scheme, kernel, edit, message):
    broken(kind, scheme, kernel, edit, message)


def put(place, value):
    def edit(array):
        array[place] = value

    return edit


def swap(array):
    array[[0, 1]] = array[[1, 0]]


def doubled(array):
    array[1] = array[0]


def all_ones(array):
    array[...] = -1


CSR = [
    ("row_ptr", put(0, 1)),
    ("row_ptr", put(0, -1)),
    ("row_ptr", put(1, -(2**62))),
    ("row_ptr", put(-1, 2**40)),
    ("row_ptr", put(-1, 0)),
    ("row_ptr", put(5, 2**62)),
    ("row_ptr", lambda a: a[::-1].copy()),
    ("row_ptr", lambda a: a[:-1]),
    ("row_ptr", lambda a: np.append(a, a[-1])),
    ("row_ptr", lambda a: a[:0]),
    ("columns", put(0, -1)),
    ("columns", put(0, 70)),
    ("columns", put(-1, 2**31 - 1)),
    ("columns", put(-1, -(2**31))),
    ("columns", swap),
    ("columns", doubled),
    ("columns", lambda a: a[:-1]),
    ("columns", lambda a: a[None]),
    ("values", put(0, np.nan)),
    ("values", put(0, -np.inf)),
    ("values", put(0, 0.0)),
    ("values", lambda a: a[:-1]),
    ("values", lambda a: a[:0]),
]
WINDOWED = [
    ("step_ptr", put(0, 1)),
    ("step_ptr", put(-1, 2**40)),
    ("step_ptr", put(-1, 0)),
    ("step_ptr", put(1, -(2**62))),
    ("step_ptr", lambda a: a[::-1].copy()),
    ("steps", put((0, 0), 255)),
    ("steps", put((0, 0), 0)),
    ("steps", lambda a: a.T.copy()),
    ("steps", lambda a: a[:, :-1].copy()),
    ("positions", all_ones),
    ("positions", put(0, 0)),
    ("positions", lambda a: a[:-1]),
    ("positions", lambda a: np.concatenate([a, a[:1]])),
    ("values", lambda a: a[:-1]),
    ("values", lambda a: a[:0]),
    ("values", lambda a: np.concatenate([a, a[:1]])),
]
F32 = [("values", put(0, np.nan)), ("values", put(0, np.inf)), ("values", put(-1, 1.0))]
BF16 = [("values", put(0, 0x7FC0)), ("values", put(0, 0xFF80)), ("values", put(0, 0x8000))]
DEPTHWISE = [("values", lambda a: a[:-1]), ("values", lambda a: a[:, :-1].copy())]
CATALOGUE = [
    *(("linear", Fp32(), "csr", *case) for case in CSR),
    *(("conv2d 1x1", Fp32(), "csr", *case) for case in CSR[::4]),
    *(("linear", Fp32(16), "windowed", *case) for case in [*WINDOWED, *F32]),
    *(("conv1d", Fp32(32), "windowed", *case) for case in [*WINDOWED, *F32]),
    *(("linear", Bf16(), "windowed", *case) for case in [*WINDOWED, *BF16]),
    *(("conv2d", Bf16(), "windowed", *case) for case in [*WINDOWED, *BF16]),
    *(("conv2d", Int8(), "windowed", *case) for case in WINDOWED if case[0] != "positions"),
    *(("conv2d depthwise", Int8(), "depthwise", *case) for case in DEPTHWISE),
    ("conv2d depthwise", Int8(), "depthwise", "values", put((0, 0), -128)),
    *(("conv1d depthwise", Fp32(), "depthwise", *case) for case in DEPTHWISE),
    ("conv1d depthwise", Fp32(), "depthwise", "values", put((0, 0), np.nan)),
]


@pytest.mark.parametrize(("kind", "scheme", "kernel", "key", "edit"), CATALOGUE)
def test_a_malformed_tensor_is_refused_by_tensor_and_layer(broken, kind, scheme, kernel, key, edit):
    # Tensors must agree with each other, so the message may name another one of them.
    message = r"(layer '0': .*|tensor '0\.)(row_ptr|columns|values|positions|steps|step_ptr)"
    broken(kind, scheme, kernel, lambda file: file.change(f"0.{key}", edit), message)


@pytest.mark.parametrize(
    ("kind", "scheme", "kernel"),
    [("linear", Fp32(), "csr"), ("linear", Fp32(16), "windowed"), ("conv2d", Bf16(), "windowed")],
)
def test_every_flipped_bit_of_an_index_is_refused_or_runs_in_its_buffers(
    tmp_path: Path, kind, scheme, kernel
):
    path, x = tmp_path / "f", example(kind)
    save(converted_model(kind, scheme, kernel), path)
    file = File.read(path)
    for name in (n for n in file.data if n.split(".")[1] in ("row_ptr", "columns", "positions")):
        original = file.data[name]
        for place in range(0, len(original), max(1, len(original) // 40)):
            damaged = bytearray(original)
            damaged[place] ^= 1 << place % 8
            file.data[name] = bytes(damaged)
            file.write()
            try:
                model = load(path, architecture(kind))
            except FileFormatError:
                continue
            assert isinstance(model[0], EngineModule)
            assert model(x).shape[1] == 18
        file.data[name] = original
