"""tune end to end, for real: what a report holds, whatever the times say."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn

from sparsekd.choice import Machine
from sparsekd.convert import convert
from sparsekd.nn import EngineModule
from sparsekd.prune import prune_
from sparsekd.quantize import calibrate, prepare_
from sparsekd.spec import NM, Fp32, Int8, Unstructured
from sparsekd.tune import tune as tune_at_length
from sparsekd.verify import verify

OPTIONS = {
    "int8": [{"dense", "windowed"}, set(), {"dense", "windowed"}],
    "fp32": [{"torch", "windowed 16", "windowed 32"}, set(), {"torch", "windowed 16", "csr"}],
    "bf16": [{"torch", "windowed"}, {"torch", "windowed"}, {"torch", "windowed"}],
}


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def tune(*args, **kwargs):
    """A few rounds: no test here depends on what is the fastest."""
    return tune_at_length(*args, **{"seconds": 0.1, **kwargs})


def mlp() -> nn.Sequential:
    """75 % n:m, dense, 97 % anywhere."""
    model = nn.Sequential(nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 64), nn.Linear(64, 32))
    prune_(model, NM(8, 32), include="0")
    prune_(model, Unstructured(0.97), include="3")
    return model.eval()


class Network(nn.Module):
    """A small network of convolutions, with a BatchNorm, and a head for each pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.act = nn.Conv2d(8, 32, 3), nn.BatchNorm2d(32), nn.ReLU()
        self.depth = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.point, self.unused = nn.Conv2d(32, 32, 1), nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.point(self.depth(self.act(self.norm(self.stem(x)))))


def network() -> Network:
    model = Network().eval()
    prune_(model, NM(4, 16), include=["stem", "point"])
    return model


@pytest.mark.parametrize("scheme", OPTIONS)
def test_every_option_that_fits_is_measured_and_convert_follows_the_choice(scheme):
    model, x = mlp(), torch.randn(5, 96)
    state = copy.deepcopy(model.state_dict())
    report = tune(model, x, scheme=scheme)
    assert [layer.name for layer in report.layers] == ["0", "2", "3"]
    assert report.machine == Machine.here()
    for layer, fit in zip(report.layers, OPTIONS[scheme], strict=True):
        assert fit <= {str(figure.option) for figure in layer.figures}
        assert all(0 < f.p10_s <= f.median_s <= f.p90_s for f in layer.figures)
        assert [f.median_s for f in layer.figures] == sorted(f.median_s for f in layer.figures)
        assert not layer.figures or layer.option in {f.option for f in layer.figures}
        assert layer.figures == () or layer.calls[0].shape[0] == 5
        assert layer.break_even is None
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())
    fast = convert(model, kernel=report, scheme=scheme)
    for layer in report.layers:
        module, row = fast.get_submodule(layer.name), fast.sparsekd_report[layer.name]
        assert row.kernel == layer.kernel == getattr(module, "kernel", "torch")
        assert "not measured" not in row.reason
        assert row.reason.startswith(layer.reason)
    assert fast.sparsekd_report.tuning == report
    assert verify(fast, model, x, bound=0.05).ok


def test_the_report_prints_and_is_json():
    report = tune(mlp(), torch.randn(5, 96), scheme="int8")
    text = str(report)
    assert all(word in text for word in ("5×96", "int8 dynamic", "dense", "windowed", "ISA"))
    assert "no other format fits: 0% of the weights are zero" in text
    assert "windowed wins from" not in text
    data = json.loads(json.dumps(report.to_dict()))
    assert data["layers"][0]["figures"][0]["median_s"] > 0
    with pytest.raises(KeyError, match="no layer named 'zz'"):
        report["zz"]


def test_convert_measures_on_example_inputs_by_itself():
    fast = convert(mlp(), torch.randn(5, 96), scheme="int8")
    report = fast.sparsekd_report
    assert {f.kernel for f in report.tuning["0"].figures} == {"windowed", "dense"}
    assert "measured: " in report["0"].reason
    assert convert(mlp(), scheme="int8").sparsekd_report.tuning is None
    asked = convert(mlp(), torch.randn(5, 96), scheme="int8", kernel="dense")
    assert asked.sparsekd_report.tuning is None


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_convolutions_with_what_follows_them(layout):
    model, x = network(), torch.randn(2, 8, 9, 9).contiguous(memory_format=layout)
    report = tune(model, x)
    assert {str(f.option) for f in report["stem"].figures} >= {"torch", "windowed 16"}
    assert {str(f.option) for f in report["depth"].figures} == {"torch", "depthwise"}
    assert "csr" in {f.kernel for f in report["point"].figures}
    nhwc = layout is torch.channels_last
    assert report["point"].calls[0].channels_last == nhwc
    assert (report["unused"].calls, report["unused"].figures) == ((), ())
    fast = convert(model, kernel=report)
    assert isinstance(fast.stem, EngineModule) == (report["stem"].kernel != "torch")
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-4)


def test_a_layer_that_the_inputs_do_not_reach_gets_the_rule_of_thumb():
    model = network()
    prune_(model, NM(4, 16), include="unused")
    choice = tune(model, torch.randn(1, 8, 5, 5))["unused"]
    assert choice.kernel == "windowed"
    assert "(not measured); the example inputs do not reach it" in choice.reason


@pytest.mark.parametrize("activations", ["dynamic", "static"])
def test_a_fake_quantized_model_is_tuned_by_its_own_scheme(activations):
    model, x = mlp(), torch.randn(7, 96)
    prepare_(model, Int8(activations), exclude="3")
    if activations == "static":
        calibrate(model, [x])
    report = tune(model.eval(), [x, (x[:1],)])
    assert [layer.scheme for layer in report.layers] == [f"int8 {activations}"] * 2 + ["fp32"]
    assert [call.shape for call in report["0"].calls] == [(7, 96), (1, 96)]
    assert torch.equal(convert(model, kernel=report)[:3](x), model[:3](x))


def test_break_even_is_found_where_it_was_asked_for():
    report = tune(mlp(), torch.randn(5, 96), scheme="int8", break_even=True)
    assert all(0.5 <= layer.break_even.sparsity <= 0.875 for layer in report.layers)
    assert "windowed wins from" in str(report)
    report = tune(network(), torch.randn(1, 8, 6, 6), break_even=True)
    assert report["stem"].break_even is not None


def test_an_engine_model_is_tuned_and_put_into_other_formats():
    model, x = mlp(), torch.randn(5, 96)
    for kernel in ("dense", "windowed"):
        engine = convert(model, scheme="int8", kernel=kernel)
        report = tune(engine, x)
        assert {f.kernel for f in report["0"].figures} == {"dense", "windowed"}
        again = convert(engine, kernel=report)
        assert again[0].kernel == report["0"].kernel
        assert torch.equal(again(x), engine(x))
    engine = convert(model, scheme="fp32", kernel="csr", include=["0", "3"])
    options = {str(f.option) for f in tune(engine, x)["0"].figures}
    assert options == {"torch", "windowed 16", "windowed 32", "csr"}
    assert engine[0].scheme == Fp32()


def test_a_model_in_training_mode_stays_in_it():
    model = network().train()
    before = copy.deepcopy(model.state_dict())
    tune(model, torch.randn(2, 8, 6, 6))
    assert all(module.training for module in model.modules())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_a_lone_layer():
    layer = nn.Linear(64, 32)
    prune_(layer, NM(4, 32))
    report = tune(layer, torch.randn(3, 64), scheme="int8")
    assert convert(layer, kernel=report, scheme="int8").kernel == report[""].kernel


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"example_inputs": []}, ValueError, "empty list"),
        ({"seconds": 0}, ValueError, "seconds > 0, got 0"),
        ({"scheme": "int4"}, ValueError, "unknown scheme 'int4'"),
        ({"include": "nope"}, ValueError, "'nope' matches no layer"),
        ({"example_inputs": torch.randn(3, 5)}, RuntimeError, "fails on the example inputs"),
        ({"model": [1]}, TypeError, "got list"),
    ],
)
def test_bad_arguments(arguments, error, message):
    given = {"model": mlp(), "example_inputs": torch.randn(5, 96), "scheme": "int8"} | arguments
    with pytest.raises(error, match=message):
        tune(given.pop("model"), given.pop("example_inputs"), **given)
