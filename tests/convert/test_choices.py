"""convert by measurement: what is offered, and what follows from a choice. No time is measured:
a stand-in for ``measure`` runs the model once and takes the options that a test prefers."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace

import pytest
import torch
from convert_models import Net, mask_, mlp, small_cnn
from torch import nn
from torch.nn.utils import prune

from sparsekd import backend
from sparsekd.choice import Call, Option, Trial
from sparsekd.convert import FoldedNorm, FusedActivation, _trial, convert, to_float
from sparsekd.io import load, save
from sparsekd.nn import Conv2d, EngineModule, Linear
from sparsekd.prune import prune_
from sparsekd.quantize import calibrate, prepare_
from sparsekd.spec import NM, Bf16, Fp32, Int8, Unstructured
from sparsekd.tune import tune
from sparsekd.verify import verify


@pytest.fixture
def prefer(monkeypatch):
    """``prefer("csr", "torch")``: the first of these that a layer has is taken, else its last
    option. What was offered is in ``offered``, as text, by layer."""

    def set_up(*kernels: str) -> dict[str, list[str]]:
        offered: dict[str, list[str]] = {}

        def measure(contests, run, *, seconds, progress, guard):
            for contest in contests:
                for switch in contest.switches:
                    for option in contest.options:
                        switch.put(option)
                run()  # every option can run at its places
            found = {}
            for contest in contests:
                offered[contest.name] = [str(option) for option in contest.options]
                known = [o for k in kernels for o in contest.options if str(o) == k]
                chosen = (known or [o for o in contest.options if o.probe is None][-1:])[0]
                times = {o: (0.001 if o == chosen else 0.002,) for o in contest.options}
                found[contest.name] = Trial((Call((1,), False, 1),), 1, times, chosen)
            return found

        monkeypatch.setattr(_trial, "measure", measure)
        return offered

    return set_up


def pruned(pattern, *, layer: nn.Module | None = None) -> nn.Sequential:
    model = nn.Sequential(layer or nn.Linear(128, 64), nn.ReLU())
    mask_(model[0], pattern)
    return model


# --- which options a layer has ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "pattern", "scheme", "options"),
    [
        (nn.Linear(128, 64), NM(16, 32), Int8(), ["dense", "windowed"]),
        (nn.Linear(128, 64), NM(24, 32), Int8(), None),
        (nn.Linear(128, 64), Unstructured(0.55), Int8(), None),  # it pads
        (nn.Conv2d(32, 32, 3, groups=32), Unstructured(0.9), Int8(), None),
        (nn.Conv2d(64, 32, 3), NM(8, 32), Int8(), ["dense", "windowed"]),
        (
            nn.Linear(128, 64),
            NM(8, 16),
            Fp32(),
            ["torch", "windowed 16", "windowed 32", "csr"],
        ),
        (nn.Linear(128, 64), NM(8, 16), Fp32(32), ["torch", "windowed 32", "csr"]),
        (nn.Linear(128, 64), NM(12, 16), Fp32(), ["torch", "windowed 16", "windowed 32"]),
        (nn.Linear(128, 64), Unstructured(0.0), Fp32(), None),
        (nn.Conv2d(64, 32, 3), NM(8, 16), Fp32(), ["torch", "windowed 16", "windowed 32"]),
        (nn.Conv2d(32, 32, 3, groups=32), Unstructured(0.0), Fp32(), ["torch", "depthwise"]),
        (nn.Linear(128, 64), Unstructured(0.0), Bf16(), ["torch", "windowed"]),
        (nn.Conv1d(32, 32, 3, groups=32), Unstructured(0.0), Bf16(), None),
    ],
)
def test_the_options_are_the_formats_that_take_no_more_bytes_than_the_dense_one(
    prefer, layer, pattern, scheme, options
):
    offered = prefer()
    model = pruned(pattern, layer=copy.deepcopy(layer))
    sizes = {nn.Linear: (128,), nn.Conv1d: (32, 5), nn.Conv2d: (layer.weight.shape[1], 5, 5)}
    x = torch.randn(3, *sizes[type(layer)])
    if getattr(layer, "groups", 1) > 1:
        x = torch.randn(3, 32, *x.shape[2:])
    converted = convert(model, x, scheme=scheme)
    assert offered.get("0") == options
    if options is None:
        assert "no other format fits" in converted.sparsekd_report["0"].reason
    if any(isinstance(module, EngineModule) for module in converted.modules()):
        assert verify(converted, model, x, bound=0.05).ok


def test_torch_is_an_option_for_int8_only_with_leave_and_is_flagged(prefer):
    offered, x = prefer("torch"), torch.randn(3, 128)
    assert convert(pruned(NM(8, 32)), x, scheme="int8")[0].kernel == "windowed"
    assert offered["0"] == ["dense", "windowed"]
    converted = convert(pruned(NM(8, 32)), x, scheme="int8", allow_float=True)
    assert offered["0"] == ["dense", "windowed", "torch"]
    assert type(converted[0]) is nn.Linear
    assert type(converted[1]) is nn.ReLU
    assert "float although int8 was asked for" in converted.sparsekd_report["0"].reason
    prepared = pruned(NM(8, 32))
    prepare_(prepared)
    convert(prepared.eval(), x, allow_float=True)
    assert offered["0"] == ["dense", "windowed"]


def test_stand_ins_have_the_sparsity_that_their_name_says(prefer, monkeypatch):
    offered, seen = prefer(), {}
    real = _trial.probe_of

    def spy(part, sparsity):
        option, probe = real(part, sparsity)
        seen[sparsity] = 1 - probe.kept() / part.weights
        return option, probe

    monkeypatch.setattr(_trial, "probe_of", spy)
    tune(pruned(NM(8, 32)), torch.randn(3, 128), scheme="int8", break_even=True)
    assert offered["0"][2:] == ["windowed at 0.5", "windowed at 0.75", "windowed at 0.875"]
    assert seen == {0.5: 0.5, 0.75: 0.75, 0.875: 0.875}
    model = nn.Sequential(nn.Conv2d(16, 16, 3))
    tune(model, torch.randn(1, 16, 5, 5), scheme="fp32", break_even=True)
    assert offered["0"][0] == "torch"
    assert offered["0"][1] == "windowed 16 at 0.5"
    assert seen == {0.5: 0.5, 0.75: 0.75, 0.875: 0.875}


# --- what follows from a choice -----------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["torch", "windowed 16", "windowed 32", "csr"])
def test_a_float_layer_becomes_what_was_chosen_with_what_follows_it(prefer, kernel):
    prefer(kernel, "windowed 16")  # the 3x3 convolutions have no csr
    model, x = small_cnn(), torch.randn(2, 3, 10, 10)
    converted = convert(model, x)
    rows = converted.sparsekd_report
    point = converted.point[0]
    if kernel == "torch":
        assert type(point) is nn.Conv2d
        assert [type(m) for m in converted.point[1:]] == [nn.BatchNorm2d, nn.SiLU]
        assert rows["point.0"].kernel == rows["point.1"].kernel == rows["point.2"].kernel == "torch"
    else:
        wanted = {"windowed 16": Fp32(16), "windowed 32": Fp32(32), "csr": Fp32()}[kernel]
        assert (point.kernel, point.scheme) == (kernel.split()[0], wanted)
        assert isinstance(converted.point[1], FoldedNorm)
        assert isinstance(converted.point[2], FusedActivation)
    assert rows["point.0"].reason.endswith(" ms)")
    torch.testing.assert_close(converted(x), model(x), rtol=1e-4, atol=1e-4)


def test_layers_that_stay_torch_survive_a_file_into_a_fresh_architecture(prefer, tmp_path):
    prefer("torch")
    model, x = nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 32)), torch.randn(3, 128)
    prune_(model, NM(4, 16), include="0")
    prune.l1_unstructured(model[2], "weight", 0.8)
    converted = convert(model, x)
    assert [type(m) for m in converted] == [nn.Linear, nn.ReLU, nn.Linear]
    assert not converted[2]._forward_pre_hooks  # torch's own hook would multiply at every call
    assert converted[2].weight.requires_grad
    assert torch.equal(converted(x), model(x))
    save(converted, tmp_path / "f")
    fresh = nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 32))
    loaded = load(tmp_path / "f", fresh)
    assert torch.equal(loaded(x), model(x))
    assert torch.equal(loaded[0].weight_mask, model[0].weight_mask)


def test_a_choice_is_followed_on_another_copy_of_the_model(prefer):
    prefer("windowed", "csr")
    model, x = pruned(NM(4, 32)), torch.randn(3, 128)
    report = tune(model, x, scheme="int8")
    prefer("dense")  # not asked any more
    assert convert(model, kernel=report, scheme="int8")[0].kernel == "windowed"
    assert convert(copy.deepcopy(model), x, kernel=report, scheme="int8")[0].kernel == "windowed"
    elsewhere = replace(report, layers=(replace(report["0"], name="1.5"),))
    with pytest.raises(ValueError, match=r"names layer '1\.5', which the model does not have"):
        convert(model, kernel=elsewhere, scheme="int8")


def test_a_report_of_another_scheme_or_kernel_is_refused_by_name(prefer):
    prefer("csr")
    model, x = pruned(NM(4, 32)), torch.randn(3, 128)
    report = tune(model, x, scheme="fp32")
    with pytest.raises(
        ValueError, match="layer '0' was tuned as fp32 and would be converted to int8"
    ):
        convert(model, kernel=report, scheme="int8")
    convolution = nn.Sequential(nn.Conv2d(128, 64, 3), nn.ReLU())
    with pytest.raises(ValueError, match=r"layer '0'.*'csr' serves 1x1"):
        convert(convolution, kernel=report, scheme="fp32")


@pytest.mark.parametrize("activations", ["dynamic", "static"])
@pytest.mark.parametrize(("before", "after"), [("windowed", "dense"), ("dense", "windowed")])
def test_int8_engine_layers_change_their_format_and_no_bit(prefer, activations, before, after):
    model, x = small_cnn(), torch.randn(3, 3, 10, 10)
    prepare_(model, Int8(activations))
    if activations == "static":
        calibrate(model, [x])
    engine = convert(model.eval(), kernel="auto")
    first = convert(engine, kernel=_forced(prefer, engine, x, before))
    second = convert(first, kernel=_forced(prefer, first, x, after))
    assert (first.point[0].kernel, second.point[0].kernel) == (before, after)
    assert second.depth.kernel == "depthwise"
    assert torch.equal(second(x), engine(x))
    assert second.point[2].layer is second.point[0]
    assert second.stem[1].engine is second.stem[0]
    assert second.sparsekd_report["point.0"].kernel == after
    assert second.sparsekd_report["stem.1"].kernel == "folded"
    assert engine.point[0].activation == second.point[0].activation == "silu"


def _forced(prefer, model, x, *kernels):
    prefer(*kernels)
    return tune(model, x)


def test_fp32_engine_layers_go_to_torch_and_back(prefer):
    model, x = pruned(NM(4, 16)), torch.randn(3, 128)
    engine = convert(model, scheme="fp32", kernel="csr")
    torch_again = convert(engine, kernel=_forced(prefer, engine, x, "torch"))
    assert [type(m) for m in torch_again] == [nn.Linear, nn.ReLU]
    assert torch.equal(torch_again[0].weight, model[0].weight)
    assert torch_again.sparsekd_report["0"].kernel == "torch"
    assert "put back" in torch_again.sparsekd_report["1"].reason
    windowed = convert(torch_again, kernel=_forced(prefer, torch_again, x, "windowed 16"))
    assert (windowed[0].scheme, windowed[0].activation) == (Fp32(16), "relu")
    torch.testing.assert_close(windowed(x), model(x), rtol=1e-5, atol=1e-5)
    alone = Linear.from_float(model[0], scheme=Fp32(), kernel="csr", activation="relu")
    back = convert(nn.Sequential(alone), kernel=_forced(prefer, nn.Sequential(alone), x, "torch"))
    torch.testing.assert_close(back(x), model(x), rtol=1e-5, atol=1e-5)


def test_an_engine_layer_with_a_folded_norm_stays_in_the_engine(prefer):
    engine, x = convert(small_cnn(), scheme="fp32"), torch.randn(2, 3, 10, 10)
    offered = prefer("torch")
    report = tune(engine, x)
    assert offered["point.0"] == ["windowed 16", "windowed 32", "csr"]
    forced = replace(report["point.0"], kernel="torch", window=None)
    with pytest.raises(ValueError, match=r"layer 'point\.0' can not go back to torch"):
        convert(engine, kernel=replace(report, layers=(forced,)))


@pytest.mark.parametrize("kernel", ["windowed", "dense"])
def test_tied_engine_layers_stay_tied(prefer, kernel):
    model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64))
    mask_(model[0], NM(8, 32))
    model[2].weight = model[0].weight
    model[2].register_buffer("weight_mask", model[0].weight_mask)
    prefer(kernel)
    converted, x = convert(model, torch.randn(2, 64), scheme="int8"), torch.randn(2, 64)
    other = "dense" if kernel == "windowed" else "windowed"
    again = convert(converted, kernel=_forced(prefer, converted, x, other))
    key = "panels" if other == "dense" else "values"
    assert again[0]._buffers[key] is again[2]._buffers[key]
    assert again[0].scale is again[2].scale
    assert torch.equal(again(x), converted(x))
    floats = convert(model, x, scheme="fp32", kernel="windowed")
    back = convert(floats, kernel=_forced(prefer, floats, x, "torch"))
    assert back[0].weight is back[2].weight


# --- the model around ---------------------------------------------------------------------------


def test_measuring_leaves_the_model_as_it_was(prefer):
    prefer("csr")
    model, x = small_cnn().train(), torch.randn(2, 3, 10, 10)
    before = [(n, id(m), m.training) for n, m in model.named_modules()]
    state = copy.deepcopy(model.state_dict())
    convert(model, x)
    assert [(n, id(m), m.training) for n, m in model.named_modules()] == before
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


def test_a_model_that_can_not_be_copied_is_measured_in_place(prefer):
    model, x = mlp(), torch.randn(3, 40)
    mask_(model[0], NM(8, 32))
    model.generator = itertools.count()
    model.lock = (i for i in range(3))
    prefer("windowed")
    with pytest.raises(TypeError, match=r"can not be deep-copied .*; pass inplace=True"):
        convert(model, x, scheme="int8")
    assert [type(m) for m in model] == [nn.Linear, nn.ReLU, nn.Linear]
    assert convert(model, x, scheme="int8", inplace=True) is model
    assert model[0].kernel == "windowed"


@pytest.mark.parametrize("inplace", [False, True])
def test_a_model_that_fails_on_the_example_inputs_is_put_back(prefer, inplace):
    prefer("windowed")
    model = Net(lambda m, x: m.b(m.a(x)) + m.a.bias.sum() * m.a.weight.sum()).train()
    mask_(model.a, NM(2, 8))
    mask_(model.b, NM(2, 8))
    model.a.to(torch.float32)
    with pytest.raises(RuntimeError, match="fails on the example inputs"):
        convert(model, torch.randn(3, 9), scheme="int8", inplace=inplace)
    assert [type(m) for m in model.children()] == [nn.Linear, nn.Linear, nn.ReLU]
    assert all(m.training for m in model.modules())


def test_hooks_are_refused_before_anything_is_measured(monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("measured")

    monkeypatch.setattr(_trial, "measure", never)
    model = pruned(NM(8, 32))
    model[0].register_forward_hook(lambda *a: None)
    with pytest.raises(ValueError, match=r"replacing '0' \(forward hook\)"):
        convert(model, torch.randn(3, 128), scheme="int8")


def test_several_example_inputs_each_run_once():
    seen = []

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(8, 8)

        def forward(self, x, y=None):
            seen.append((len(x), y is None))
            return self.a(x) if y is None else self.a(x) + y

    x, y = torch.randn(2, 8), torch.randn(2, 8)
    convert(Two(), [x, (x, y), {"x": x[:1], "y": y[:1]}], scheme="int8", kernel="dense")
    assert seen[-3:] == [(2, True), (2, False), (1, False)]


# --- the rule of thumb --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("isa", "kernels"),
    [
        ("avx512_bf16", ["windowed", "windowed", "windowed", "windowed"]),
        ("avx512_vbmi", ["windowed", "windowed", "windowed", "windowed"]),
        ("avx512_vnni", ["dense", "dense", "windowed", "windowed"]),
        ("avx512", ["dense", "windowed", "windowed", "windowed"]),
        ("avx2", ["dense", "windowed", "windowed", "windowed"]),
        ("scalar", ["windowed", "windowed", "windowed", "windowed"]),
    ],
)
def test_without_inputs_int8_follows_the_instruction_set(monkeypatch, isa, kernels):
    monkeypatch.setattr(backend, "isa", lambda: isa)
    for kept, kernel in zip((16, 8, 4, 2), kernels, strict=True):
        converted = convert(pruned(NM(kept, 32)), scheme="int8")
        assert converted[0].kernel == kernel, kept
        assert "not measured" in converted.sparsekd_report["0"].reason
    assert convert(pruned(NM(24, 32)), scheme="int8")[0].kernel == "dense"


def test_the_rule_knows_every_instruction_set(monkeypatch):
    for isa in backend.known_isas():
        monkeypatch.setattr(backend, "isa", lambda isa=isa: isa)
        assert convert(pruned(NM(1, 32)), scheme="int8")[0].kernel in ("windowed", "dense")


def test_back_to_float_forgets_the_choices(prefer):
    prefer("windowed")
    converted = convert(pruned(NM(8, 32)), torch.randn(3, 128), scheme="int8")
    assert converted.sparsekd_report.tuning["0"].option == Option("windowed")
    assert not hasattr(to_float(converted), "sparsekd_report")
    assert not isinstance(to_float(converted)[0], Conv2d)
