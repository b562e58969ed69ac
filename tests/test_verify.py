"""verify: equal where the numerics promise it, and loud where something was changed."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from sparsekd.convert import convert
from sparsekd.nn import Conv2d, Linear
from sparsekd.quantize import calibrate, prepare_
from sparsekd.spec import NM, Int8, Unstructured
from sparsekd.verify import verify


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def model_(act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    model = nn.Sequential(
        nn.Linear(48, 64), act(), nn.LayerNorm(64), nn.Linear(64, 32), act(), nn.Linear(32, 5)
    )
    mask = NM(8, 32).mask(model[0].weight.detach().abs())
    model[0].register_buffer("weight_mask", mask)
    with torch.no_grad():
        model[0].weight.mul_(mask)
    return model


def quantized(act: type[nn.Module] = nn.ReLU, activations: str = "dynamic") -> nn.Sequential:
    model = model_(act)
    prepare_(model, Int8(activations))
    if activations == "static":
        calibrate(model, [torch.randn(32, 48)])
    return model.eval()


@pytest.mark.parametrize("activations", ["dynamic", "static"])
def test_a_fake_quantized_relu_model_is_equal_bit_for_bit(activations):
    reference = quantized(activations=activations)
    report = verify(convert(reference), reference, torch.randn(17, 48))
    assert report.ok
    assert [check.name for check in report.layers] == ["0", "3", "5"]
    for check in (*report.layers, report.output):
        assert (check.rule, check.differ, check.max_abs) == ("exact", 0, 0.0)
        assert check.values > 0
    assert [check.integers_differ for check in report.layers] == [0, 0, 0]


@pytest.mark.parametrize("act", [nn.GELU, nn.SiLU, nn.Hardswish])
def test_smooth_activations_have_their_tolerance_and_integers_are_counted(act):
    reference = quantized(act)
    report = verify(convert(reference), reference, torch.randn(64, 48))
    assert report.ok
    assert [check.rule for check in report.layers] == ["4 ulp", "4 ulp", "exact"]
    assert report.output.rule == "reported"
    assert all(check.differ == 0 for check in report.layers)
    assert report.layers[0].integers_differ == 0  # nothing smooth lies before it
    assert all(check.max_abs < 1e-5 for check in report.layers)


def test_a_float_reference_reports_the_error():
    reference = model_()
    converted = convert(reference, scheme="int8")
    x = torch.randn(17, 48)
    report = verify(converted, reference, x)
    assert report.ok
    with torch.no_grad():
        error = float((converted(x) - reference.eval()(x)).abs().max())
        largest = float(reference(x).abs().max())
    assert report.output.rule == "reported"
    assert report.output.max_abs == pytest.approx(error)
    assert report.output.relative == pytest.approx(error / largest)
    assert 0 < report.output.relative < 0.1
    assert 0.99 < report.output.cosine < 1
    assert report.layers[0].integers_differ is None
    assert report.layers[0].differ > 0


def test_a_bound_on_the_float_error_is_held():
    reference = model_()
    converted = convert(reference, scheme="int8")
    assert verify(converted, reference, torch.randn(9, 48), bound=0.2).ok
    report = verify(converted, reference, torch.randn(9, 48), bound=1e-6)
    assert not report.ok
    assert "exceeds the bound 1e-06" in report.output.reason


@pytest.mark.parametrize("buffer", ["values", "scale", "bias"])
def test_one_changed_number_of_a_layer_is_found(buffer):
    reference = quantized()
    converted = convert(reference)
    assert converted[0].kernel == "windowed"
    tensor = getattr(converted[0], buffer).flatten()
    place = tensor.abs().argmax()
    tensor[place] = tensor[place] - tensor[place].sign() if buffer == "values" else 1.0
    report = verify(converted, reference, torch.randn(33, 48))
    assert not report.ok
    first, *others = report.layers
    assert not first.ok
    assert first.differ > 0
    assert "values differ (exact)" in first.reason
    assert all(check.ok for check in others)  # they get the reference's input
    assert others[0].integers_differ > 0  # in the whole model they do not
    assert not report.output.ok


def test_smooth_layers_outside_the_tolerance_fail():
    reference = quantized(nn.GELU)
    converted = convert(reference)
    converted[0].bias.add_(1e-4)
    report = verify(converted, reference, torch.randn(33, 48))
    assert not report.ok
    assert "(4 ulp)" in report.layers[0].reason


def test_a_result_that_is_not_finite_fails_against_a_float_reference():
    reference = model_()
    converted = convert(reference, scheme="int8")
    converted[2].weight.data.fill_(float("inf"))
    report = verify(converted, reference, torch.randn(5, 48))
    assert not report.ok
    assert report.output.reason == "gives Inf or NaN where the reference is finite"


def test_nan_rows_count_as_equal_where_both_are_nan():
    reference = quantized()
    x = torch.randn(4, 48)
    x[1] = float("nan")
    report = verify(convert(reference), reference, x)
    assert report.output.differ == 0


def test_a_layer_that_is_never_called_is_not_verified():
    class Optional(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x):
            return self.used(x)

    reference = Optional()
    report = verify(convert(reference, scheme="int8"), reference, torch.randn(2, 6))
    assert not report.ok
    assert report.layers[1].reason == "never called on these inputs"
    assert report.layers[0].ok


def test_layers_called_several_times_are_compared_each_time():
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(6, 6)

        def forward(self, x):
            return self.a(self.a(self.a(x)))

    reference = Loop()
    prepare_(reference, Int8())
    report = verify(convert(reference), reference, torch.randn(5, 6))
    assert report.ok
    assert (report.layers[0].calls, report.layers[0].values) == (3, 90)


def test_a_second_engine_model_may_be_the_reference():
    reference = convert(quantized(nn.GELU))
    other = convert(quantized(nn.GELU).float())
    other.load_state_dict(reference.state_dict())
    report = verify(other, reference, torch.randn(9, 48))
    assert report.ok
    assert {check.rule for check in report.layers} == {"exact"}
    assert report.output.rule == "exact"


# --- fp32 and bf16, convolutions, BatchNorm -----------------------------------------------------


def network() -> nn.Sequential:
    """conv-bn-relu6, conv-gelu, pool, linear; sparse."""
    model = nn.Sequential(
        nn.Conv2d(6, 40, 3, bias=False),
        nn.BatchNorm2d(40),
        nn.ReLU6(),
        nn.Conv2d(40, 33, 3, stride=2, groups=1),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(33 * 4, 7),
    )
    with torch.no_grad():
        model.train()(torch.randn(20, 6, 8, 8) * 3 + 1)
        for layer in (model[0], model[3], model[6]):
            layer.weight.mul_(Unstructured(0.8).mask(layer.weight.abs()))
    return model.eval()


@pytest.mark.parametrize("scheme", ["fp32", "bf16"])
def test_float_schemes_are_held_to_the_bound_of_rounding(scheme):
    reference, x = network(), torch.randn(3, 6, 8, 8)
    converted = convert(reference, scheme=scheme)
    report = verify(converted, reference, x)
    assert report.ok, str(report)
    assert [(c.name, c.rule, c.differ) for c in report.layers] == [
        ("0", "bound", 0),
        ("3", "bound", 0),
        ("6", "bound", 0),
    ]
    assert report.output.rule == "reported"
    assert report.output.relative < (1e-5 if scheme == "fp32" else 0.02)
    assert [c.integers_differ for c in report.layers] == [None] * 3


@pytest.mark.parametrize("scheme", ["fp32", "bf16"])
@pytest.mark.parametrize("layer", [0, 3, 6])
@pytest.mark.parametrize("buffer", ["values", "bias"])
def test_one_changed_number_of_a_float_layer_is_found(scheme, layer, buffer):
    reference = network()
    converted = convert(reference, scheme=scheme)
    tensor = getattr(converted[layer], buffer).flatten()
    place = int(tensor.abs().float().argmax())
    tensor[place] *= 1.0 + 2.0**-6
    report = verify(converted, reference, torch.randn(3, 6, 8, 8))
    found = {check.name: check.reason for check in report.layers}
    assert "1 weights are not the reference's" in found.pop(str(layer))
    assert set(found.values()) == {""}


@pytest.mark.parametrize("scheme", ["fp32", "bf16"])
def test_a_wrong_sum_of_a_float_layer_is_found(scheme, monkeypatch):
    reference = network()
    converted = convert(reference, scheme=scheme)
    forward = type(converted[3]).forward

    def off(self, x):
        y = forward(self, x)
        y[0, 0, 0, 0] += 1e-3
        return y

    monkeypatch.setattr(type(converted[3]), "forward", off)
    report = verify(converted, reference, torch.randn(3, 6, 8, 8))
    assert report.layers[1].reason == f"1 of {report.layers[1].values} values differ (bound)"


def test_nan_and_inf_in_one_sample_do_not_fail_the_others():
    reference = network()
    for scheme in ("fp32", "bf16"):
        x = torch.randn(3, 6, 8, 8)
        x[0, 0, 3, 3], x[1, 2, 0, 0] = float("nan"), float("inf")
        assert all(c.ok for c in verify(convert(reference, scheme=scheme), reference, x).layers)


def test_a_folded_batch_norm_is_part_of_the_layers_reference():
    reference, x = network(), torch.randn(3, 6, 8, 8)
    converted = convert(reference, scheme="int8")
    report = verify(converted, reference, x, bound=0.05)
    assert report.ok, str(report)
    with torch.no_grad():
        expected = reference[:3](x)
    assert report.layers[0].max_abs == pytest.approx(
        float((converted[:3](x) - expected).abs().max())
    )
    # Fake-quantized, everything but GELU is equal to the bit, dynamic activations counted too.
    prepare_(reference)
    report = verify(convert(reference), reference.eval(), x)
    assert report.ok, str(report)
    assert [c.rule for c in report.layers] == ["exact", "4 ulp", "exact"]
    assert report.layers[0].integers_differ == 0


def test_engine_layers_of_another_kernel_have_another_order_of_sums():
    model = nn.Sequential(nn.Linear(48, 8))
    csr, windowed = (convert(model, scheme="fp32", kernel=k) for k in ("csr", "windowed"))
    x = torch.randn(5, 48)
    assert verify(csr, convert(model, scheme="fp32", kernel="csr"), x).layers[0].rule == "exact"
    report = verify(csr, windowed, x, bound=1e-5)
    assert report.ok
    assert report.layers[0].rule == "reported"


def test_unbatched_images_are_compared_too():
    model = nn.Sequential(nn.Conv2d(4, 5, 3), nn.Conv2d(5, 3, 1))
    prepare_(model)
    report = verify(convert(model), model.eval(), torch.randn(4, 6, 6))
    assert report.ok
    assert report.layers[0].integers_differ == 0


class Dictionary(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 4), nn.Linear(6, 3)

    def forward(self, x, *, y):
        y += 1  # writes into its input
        return {"a": self.a(x), "rest": [self.b(y), torch.rand(2)]}


def test_keyword_inputs_nested_outputs_and_random_numbers():
    reference = Dictionary()
    prepare_(reference, Int8())
    x, y = torch.randn(3, 6), torch.randn(3, 6)
    kept, state = y.clone(), torch.get_rng_state()
    report = verify(convert(reference), reference, {"x": x, "y": y})
    assert report.ok
    assert report.output.values == 3 * 4 + 3 * 3 + 2
    assert torch.equal(y, kept)
    assert torch.equal(state, torch.get_rng_state())


def test_other_outputs_fail():
    reference = Dictionary()
    converted = convert(reference, scheme="int8")
    converted.forward = lambda x, y: {"a": converted.a(x), "b": converted.b(y)}
    report = verify(converted, reference, {"x": torch.randn(3, 6), "y": torch.randn(3, 6)})
    assert not report.ok
    assert report.output.reason == "holds other tensors than the reference's output"


def test_the_models_are_left_as_they_were():
    reference, x = quantized(), torch.randn(3, 48)
    converted = convert(reference)
    reference.train()
    reference[2].eval()
    verify(converted, reference, (x,))
    assert [m.training for m in reference] == [True, True, False, True, True, True]
    assert not any(m.training for m in converted.modules())
    for module in (*reference.modules(), *converted.modules()):
        assert not module._forward_hooks
        assert not module._forward_pre_hooks

    class FailsError(Exception):
        pass

    def fail(*args):
        raise FailsError

    reference[5].register_forward_pre_hook(fail)
    with pytest.raises(FailsError):
        verify(converted, reference, x)
    assert all(not m._forward_hooks for m in reference.modules())
    assert reference[0].training


@pytest.mark.parametrize(
    ("converted", "reference", "message"),
    [
        (nn.Sequential(Linear(4, 3)), nn.Sequential(), "engine layer '0': the reference has no"),
        (nn.Sequential(Linear(4, 3)), nn.Sequential(nn.ReLU()), "has a ReLU there"),
        (
            nn.Sequential(Linear(4, 3)),
            nn.Sequential(nn.Linear(4, 2)),
            "'0' has out_features 3, the reference 2",
        ),
        (nn.Sequential(Linear(4, 3)), nn.Sequential(Linear(4, 3, activation="relu")), "'relu'"),
        (nn.Sequential(nn.Linear(4, 3)), nn.Sequential(nn.Linear(4, 3)), "has no engine layer"),
        (nn.Sequential(Conv2d(4, 3, 1)), nn.Sequential(nn.Linear(4, 3)), "has a Linear there"),
        (
            nn.Sequential(Conv2d(4, 3, 3, padding=1)),
            nn.Sequential(nn.Conv2d(4, 3, 3)),
            r"'0' has padding \(1, 1\), the reference \(0, 0\)",
        ),
    ],
)
def test_models_that_do_not_match_are_refused_by_name(converted, reference, message):
    with pytest.raises(ValueError, match=message):
        verify(converted, reference, torch.randn(2, 4))


def test_inputs_of_another_kind_are_refused():
    model = nn.Sequential(Linear(4, 3))
    with pytest.raises(TypeError, match=r"inputs must be a tensor, a tuple .* got list"):
        verify(model, model, [torch.randn(2, 4)])


def test_the_report_prints_and_goes_to_json():
    reference = quantized()
    converted = convert(reference)
    report = verify(converted, reference, torch.randn(3, 48))
    assert str(report).endswith("verified: 3 engine layers and the output")
    assert "FAILED" not in str(report)
    assert json.loads(json.dumps(report.to_dict()))["output"]["rule"] == "exact"
    converted[0].bias.add_(1.0)
    text = str(verify(converted, reference, torch.randn(3, 48)))
    assert "values differ (exact)" in text.splitlines()[1]
    assert "NOT verified" in text
