"""convert: convolutions, BatchNorm, and the schemes and kernels that each layer can have."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from convert_models import SmallCNN, mask_, small_cnn
from torch import nn

from sparsekd import backend
from sparsekd.convert import FoldedNorm, convert, to_float
from sparsekd.flow import FoldedBatchNorm
from sparsekd.nn import Conv1d, Conv2d, EngineModule, Linear
from sparsekd.prune import prune_
from sparsekd.quantize import FakeQuantConv2d, calibrate, prepare_
from sparsekd.spec import NM, Bf16, Fp32, Int8, Unstructured
from sparsekd.verify import verify

# --- a whole network ----------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["int8", "fp32", "bf16"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_small_network_converts_and_verifies(scheme, layout):
    model, x = small_cnn(), torch.randn(2, 3, 10, 10).contiguous(memory_format=layout)
    converted = convert(model, scheme=scheme)
    report = verify(converted, model, x, bound=0.05)
    assert report.ok, str(report)
    wanted = {
        "int8": {"stem.0": "dense", "depth": "depthwise", "point.0": "windowed", "head": "dense"},
        "fp32": {"stem.0": "torch", "depth": "depthwise", "point.0": "windowed", "head": "torch"},
        "bf16": {"stem.0": "torch", "depth": "torch", "point.0": "windowed", "head": "torch"},
    }[scheme]
    rows = converted.sparsekd_report
    assert {name: rows[name].kernel for name in wanted} == wanted
    assert all("not measured" in rows[name].reason for name in wanted)
    for name, norm, act in (("stem.0", "stem.1", "stem.2"), ("depth", "norm", "act")):
        ours = wanted[name] != "torch"
        assert rows[norm].kernel == ("folded" if ours else "torch")
        assert rows[act].kernel == ("fused" if ours else "torch")
        assert isinstance(converted.get_submodule(norm), FoldedNorm) == ours
    assert converted.point[0].activation == rows["point.0"].activation == "silu"
    assert rows["point.0"].scheme == ("int8 dynamic" if scheme == "int8" else scheme)
    assert rows["pool"].reason == "no engine kernel for AdaptiveAvgPool2d"
    inner = converted.stem[:1](x)
    assert inner.is_contiguous(memory_format=layout)


@pytest.mark.parametrize(
    ("sizes", "pattern", "kernel", "reason"),
    [
        # 3 x 7 inputs of a row fill 6 dense steps and, 1 in 3 kept, 2 windowed ones.
        ((3, 64, 7, 2, 3), NM(8, 32), "windowed", "packs into 33.3% of dense's groups"),
        ((3, 32, 3, 2, 1), NM(8, 32), "windowed", "packs into 33.3% of dense's groups"),
        ((3, 32, 3, 2, 1), None, "dense", "100% of the weights kept, too many for windowed on"),
        # A mask of one channel keeps everything: each tap is a group of its own.
        ((1, 32, 3, 1, 1), NM(8, 32), "dense", "100% of the weights kept, too many for windowed"),
        # Three weights of a row fill one dense step, which is one of windowed too.
        ((1, 32, 3, 1, 1), Unstructured(0.6), "dense", "windowed packs into 100.0% of dense's"),
    ],
)
def test_stems_by_the_rule_of_thumb(sizes, pattern, kernel, reason):
    """Of few channels as of many: the steps that windowed takes over those of dense."""
    torch.manual_seed(0)
    before, isa = backend.isa(), "avx512_vbmi"
    if isa not in backend.available_isas():
        isa = "scalar"  # of the same share
    model = nn.Sequential(nn.Conv2d(*sizes)).eval()
    if pattern is not None:
        prune_(model[0], pattern)
    try:
        backend.set_isa(isa)
        row = convert(model, scheme="int8").sparsekd_report["0"]
    finally:
        backend.set_isa(before)
    assert row.kernel == kernel
    assert row.reason.startswith(reason)
    assert row.reason.endswith("(not measured)")


@pytest.mark.parametrize("activations", ["dynamic", "static"])
def test_a_prepared_network_converts_to_equal_bits_up_to_smooth_activations(activations):
    model, x = small_cnn(), torch.randn(3, 3, 10, 10)
    report = prepare_(model, Int8(activations))
    assert ("stem.1", "stem.0") in report.folded
    if activations == "static":
        calibrate(model, [x])
    converted = convert(model.eval(), x)
    checks = verify(converted, model, x)
    assert checks.ok, str(checks)
    assert [c.rule for c in checks.layers] == ["exact", "4 ulp", "4 ulp", "exact"]
    rows = converted.sparsekd_report
    assert rows["stem.1"].kernel == "folded"
    assert "a BatchNorm2d, in the weights of 'stem.0' already" in rows["stem.1"].reason
    assert rows["stem.2"].kernel == "fused"
    assert converted.stem[1].engine is converted.stem[0]
    # Wrapped in another model, the names of prepare_ no longer start at the root.
    wrapped = convert(nn.Sequential(model))
    assert wrapped[0].norm.engine is wrapped[0].depth


@pytest.mark.parametrize("scheme", ["int8", "fp32", "bf16"])
def test_copies_pickles_and_back_to_float(scheme):
    model, x = small_cnn(), torch.randn(2, 3, 10, 10)
    converted = convert(model, scheme=scheme)
    copied = pickle.loads(pickle.dumps(copy.deepcopy(converted)))
    assert torch.equal(copied(x), converted(x))
    if scheme != "bf16":
        assert copied.norm.engine is copied.depth
    back = to_float(copied)
    assert not any(isinstance(m, EngineModule) for m in back.modules())
    assert type(back.act) is nn.Hardswish
    if scheme != "bf16":
        assert type(back.norm) is FoldedBatchNorm
        assert back.depth.bias is not None
        assert torch.equal(back.depth.weight, converted.depth.weight_dequantized())
    assert torch.equal(back.point[0].weight_mask, model.point[0].weight_mask)
    torch.testing.assert_close(back(x), model(x), rtol=0, atol=0.05)
    torch.testing.assert_close(convert(back, scheme=scheme)(x), converted(x), rtol=1e-4, atol=1e-4)


def test_converting_twice_changes_nothing_more():
    once = convert(small_cnn(), scheme="int8")
    twice, x = convert(once, scheme="int8"), torch.randn(2, 3, 10, 10)
    assert torch.equal(once(x), twice(x))
    kernels = [row.kernel for row in once.sparsekd_report.rows]
    assert [row.kernel for row in twice.sparsekd_report.rows] == kernels


# --- geometry -----------------------------------------------------------------------------------

CONVS = [
    nn.Conv2d(8, 20, 3),
    nn.Conv2d(8, 20, (3, 2), stride=(2, 1), padding=(0, 2), dilation=(1, 3), bias=False),
    nn.Conv2d(12, 24, 4, padding="same", groups=3),
    nn.Conv2d(6, 6, 5, padding="valid", groups=6),
    nn.Conv2d(8, 20, 1),
    nn.Conv1d(8, 20, 4, padding="same"),
    nn.Conv1d(8, 20, 3, stride=2, padding=1, groups=4),
    nn.Conv1d(6, 6, 3, dilation=2, groups=6),
    nn.Linear(33, 20),
]
KERNELS = {
    Int8(): ("windowed", "dense", "depthwise"),
    Fp32(16): ("windowed", "csr", "depthwise"),
    Fp32(32): ("windowed",),
    Bf16(): ("windowed",),
}


@pytest.mark.filterwarnings("ignore:Using padding='same'")  # torch's own
@pytest.mark.parametrize("conv", CONVS, ids=repr)
@pytest.mark.parametrize("scheme", KERNELS, ids=repr)
def test_every_kernel_serves_its_layers_and_is_refused_by_name_for_others(conv, scheme):
    model = nn.Sequential(copy.deepcopy(conv), nn.ReLU()).eval()
    mask_(model[0], Unstructured(0.7))
    x = torch.randn(4, 33)
    if not isinstance(conv, nn.Linear):
        x = torch.randn(3, conv.in_channels, *([11, 9] if isinstance(conv, nn.Conv2d) else [11]))
    for kernel in KERNELS[scheme]:
        groups = getattr(conv, "groups", 1)
        serves = {
            "csr": isinstance(conv, nn.Linear) or math.prod(conv.kernel_size) == 1,
            "depthwise": groups == getattr(conv, "in_channels", 0),
        }
        if not serves.get(kernel, True):
            with pytest.raises(ValueError, match=f"layer '0': kernel '{kernel}' serves"):
                convert(model, scheme=scheme, kernel=kernel)
            continue
        converted = convert(model, x, scheme=scheme, kernel=kernel)
        assert isinstance(converted[0], (Linear, Conv1d, Conv2d))
        settled = Fp32() if scheme == Fp32(16) and kernel != "windowed" else scheme
        assert (converted[0].kernel, converted[0].scheme) == (kernel, settled)
        report = verify(converted, model, x, bound=0.05)
        assert report.ok, f"{kernel}: {report}"
        if not isinstance(conv, nn.Linear):
            torch.testing.assert_close(converted(x[0]), model(x[0]), rtol=0, atol=0.05)


@pytest.mark.parametrize(
    ("layer", "pattern", "scheme", "kernel"),
    [
        (nn.Conv2d(64, 32, 3), NM(8, 32), "int8", "windowed"),
        (nn.Conv2d(64, 32, 3), NM(20, 32), "int8", "dense"),
        (nn.Conv2d(64, 32, 3), Unstructured(0.55), "int8", "dense"),
        (nn.Conv2d(64, 64, 3, groups=2), NM(8, 32), "int8", "windowed"),
        (nn.Conv2d(3, 32, 7), Unstructured(0.98), "int8", "windowed"),
        (nn.Conv1d(32, 32, 3, groups=32), Unstructured(0.5), "int8", "depthwise"),
        (nn.Linear(256, 32), Unstructured(0.96), "fp32", "csr"),
        (nn.Conv2d(64, 32, 1), Unstructured(0.96), "fp32", "csr"),
        (nn.Conv2d(64, 32, 1, stride=2), Unstructured(0.96), "fp32", "windowed"),
        (nn.Conv2d(64, 32, 1, padding=1), Unstructured(0.96), "fp32", "windowed"),
        (nn.Conv2d(64, 32, 3), Unstructured(0.96), "fp32", "windowed"),
        (nn.Linear(256, 32), Unstructured(0.61), "fp32", "windowed"),
        (nn.Linear(256, 32), Unstructured(0.59), "fp32", "torch"),
        (nn.Conv2d(32, 32, 3, groups=32), Unstructured(0.0), "fp32", "depthwise"),
        (nn.Linear(256, 32), Unstructured(0.96), "bf16", "windowed"),
        (nn.Linear(256, 32), Unstructured(0.5), "bf16", "torch"),
        (nn.Conv2d(32, 32, 3, groups=32), Unstructured(0.9), "bf16", "torch"),
    ],
)
def test_auto_follows_its_rules_of_thumb(layer, pattern, scheme, kernel):
    model = nn.Sequential(copy.deepcopy(layer))
    mask_(model[0], pattern)
    converted = convert(model, scheme=scheme)
    row = converted.sparsekd_report["0"]
    assert row.kernel == kernel
    assert "not measured" in row.reason
    assert isinstance(converted[0], EngineModule) == (kernel != "torch")


def test_fp32_takes_the_window_that_the_mask_makes_cheaper_or_the_one_asked_for():
    model = nn.Sequential(nn.Linear(256, 64))
    mask_(model[0], NM(4, 16))
    assert convert(model, scheme="fp32")[0].scheme == Fp32(16)
    assert convert(model, scheme=Fp32(32))[0].scheme == Fp32(32)


# --- what stays ---------------------------------------------------------------------------------


class Padded(nn.Conv2d):
    pass


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), "padding_mode 'circular'"),
        (nn.ConvTranspose2d(4, 4, 3), "no engine kernel for ConvTranspose2d"),
        (nn.Conv3d(4, 4, 3), "no engine kernel for Conv3d"),
        (Padded(4, 4, 3), r"Padded is a subclass of nn.Conv2d"),
        (nn.LazyConv2d(4, 3), "LazyConv2d is a subclass"),
        (nn.Conv1d(4, 4, 2000), "the engine has no such convolution (kernel_size: 2000"),
        (nn.Conv2d(4, 4, 3, dtype=torch.float64), "are float64; the engine takes float32"),
    ],
)
def test_convolutions_that_the_engine_can_not_stand_for_stay_with_a_reason(layer, reason):
    converted = convert(nn.Sequential(nn.Linear(8, 8), layer), scheme="int8")
    assert type(converted[1]) is type(layer)
    row = converted.sparsekd_report["1"]
    assert row.kernel == "torch"
    assert reason in row.reason


def test_a_convolution_whose_weight_the_forward_code_reads_stays():
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)

        def forward(self, x):
            return nn.functional.conv2d(self.a(x), self.b.weight)

    converted = convert(Reads(), torch.randn(1, 4, 8, 8), scheme="int8")
    assert isinstance(converted.a, Conv2d)
    assert converted.sparsekd_report["b"].reason == "the forward code reads its weight by itself"


# --- BatchNorm ----------------------------------------------------------------------------------


class Normed(nn.Module):
    """A convolution and a BatchNorm, wired by ``how(net, x)``."""

    def __init__(self, how, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), norm or nn.BatchNorm2d(4)
        self.act, self.how = nn.ReLU(), how

    def forward(self, x):
        return self.how(self, x)


STAYS = {
    "twice used output": (lambda m, x: (h := m.conv(x)) + m.norm(h), None),
    "norm called twice": (lambda m, x: m.norm(m.norm(m.conv(x))), None),
    "layer called twice": (lambda m, x: m.norm(m.conv(m.conv(x))), None),
    "something between": (lambda m, x: m.norm(m.conv(x) * 2), None),
    "activation between": (lambda m, x: m.norm(m.act(m.conv(x))), None),
    "no statistics": (
        lambda m, x: m.norm(m.conv(x)),
        nn.BatchNorm2d(4, track_running_stats=False),
    ),
    "a subclass": (lambda m, x: m.norm(m.conv(x)), type("MyNorm", (nn.BatchNorm2d,), {})(4)),
    "another norm": (lambda m, x: m.norm(m.conv(x)), nn.GroupNorm(2, 4)),
}


@pytest.mark.parametrize("why", STAYS)
def test_a_batch_norm_stays_where_folding_would_change_something(why):
    model, x = Normed(*STAYS[why]).eval(), torch.randn(2, 4, 6, 6)
    converted = convert(model, x, scheme="int8")
    assert type(converted.norm) is type(model.norm)
    assert isinstance(converted.conv, Conv2d)
    torch.testing.assert_close(converted(x), model(x), rtol=0, atol=0.1)
    if why == "no statistics":
        row = converted.sparsekd_report["norm"]
        assert row.reason == "not folded: it has no running statistics"


def test_a_batch_norm_with_a_foreign_hook_stays_and_so_does_the_activation_after_it():
    model, seen = Normed(lambda m, x: m.act(m.norm(m.conv(x)))), []
    model.norm.register_forward_hook(lambda *a: seen.append(1))
    converted = convert(model, scheme="int8")
    converted(torch.randn(1, 4, 5, 5))
    assert seen == [1]
    assert converted.conv.activation is None
    assert "forward hook" in converted.sparsekd_report["norm"].reason


def test_the_batch_norm_of_a_prepared_layer_is_not_folded_by_convert():
    model, x = Normed(lambda m, x: m.norm(m.conv(x))), torch.randn(2, 4, 6, 6)
    prepare_(model, fold_bn=False)
    converted = convert(model.eval())
    assert type(model.conv) is FakeQuantConv2d
    assert type(converted.norm) is nn.BatchNorm2d
    assert torch.equal(converted(x), model(x))


def test_a_batch_norm_after_a_linear_is_folded_for_rows_alone():
    model = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6)).train()
    model(torch.randn(50, 8) + 1)
    converted, x = convert(model.eval(), scheme="int8"), torch.randn(5, 8)
    assert isinstance(converted[1], FoldedNorm)
    torch.testing.assert_close(converted(x), model(x), rtol=0, atol=0.1)
    # torch would take dimension 1 for the channels here, the folded layer the last one.
    with pytest.raises(ValueError, match=r"'0' took in a BatchNorm1d, which takes 2 dimensions"):
        converted(torch.randn(5, 6, 8))


def test_inplace_folds_in_the_model_itself_and_an_error_puts_it_back():
    model = SmallCNN().eval()
    norm = model.norm
    with pytest.raises(RuntimeError, match="fails on the example inputs"):
        convert(model, torch.randn(2, 5), scheme="int8", inplace=True)
    assert model.norm is norm
    assert type(model.depth) is nn.Conv2d
    assert convert(model, scheme="int8", inplace=True) is model
    assert isinstance(model.norm, FoldedNorm)


def test_without_a_trace_a_batch_norm_is_folded_only_inside_sequential():
    class Branching(SmallCNN):
        def forward(self, x):
            y = super().forward(x)
            return y if bool(y.sum() > 0) else -y

    converted = convert(Branching(), scheme="int8")
    assert isinstance(converted.stem[1], FoldedNorm)
    assert type(converted.norm) is nn.BatchNorm2d
    assert "BatchNorm was folded" in converted.sparsekd_report.notes[0]


@pytest.mark.parametrize("scheme", ["int8", "fp32"])
def test_convolutions_that_share_a_weight_share_its_packed_form(scheme):
    model = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 8, 3, padding=1))
    mask_(model[0], NM(2, 8))
    model[2].weight = model[0].weight
    model[2].register_buffer("weight_mask", model[0].weight_mask)
    converted, x = convert(model, scheme=scheme), torch.randn(1, 8, 5, 5)
    assert converted[0].values is converted[2].values
    assert converted[0].bias is not converted[2].bias
    torch.testing.assert_close(converted(x), model(x), rtol=0, atol=0.05)
    back = to_float(converted)
    assert back[0].weight is back[2].weight
