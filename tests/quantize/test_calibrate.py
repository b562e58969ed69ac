"""Static ranges from example batches."""

from __future__ import annotations

import copy
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from sparsekd import numerics
from sparsekd.quantize import FakeQuantLinear, Int8, calibrate, prepare_


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 4), nn.Linear(6, 4)
        self.unused, self.drop = nn.Linear(2, 2), nn.Dropout(0.5)
        self.fail_at = -1

    def forward(self, a: Tensor, b: Tensor | None = None) -> Tensor:
        self.fail_at -= 1
        if self.fail_at == 0:
            raise RuntimeError("broken")
        y: Tensor = self.drop(self.first(a))
        return y if b is None else y + self.second(b)


def prepared(scheme: Int8 | None = None) -> TwoInputs:
    model = TwoInputs()
    prepare_(model, scheme or Int8("static"), exclude="unused")
    return model


def both(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    model(*batch)


def ranges(layer: nn.Module) -> tuple[float, float]:
    return float(layer.input_min), float(layer.input_max)


def test_minmax_covers_every_batch():
    model = prepared()
    data = [(torch.randn(5, 6), torch.rand(5, 6)) for _ in range(4)]
    assert calibrate(model, iter(data), forward=both) is model
    for index, layer in enumerate((model.first, model.second)):
        seen = torch.cat([batch[index] for batch in data])
        assert ranges(layer) == (float(seen.min()), float(seen.max()))
        scale, zero_point = numerics.affine_params(seen.min(), seen.max())
        assert torch.equal(layer.input_scale, scale)
        assert torch.equal(layer.input_zero_point, zero_point)
    assert int(model.first.input_zero_point) != 0


def test_percentile_leaves_outliers_out():
    model = prepared(Int8("static", observer="percentile", percentile=98.0))
    batches = [torch.rand(50, 6) for _ in range(4)]
    batches[1][3, 2] = 1e6
    calibrate(model, [(x, x) for x in batches], forward=both)
    low, high = ranges(model.first)
    assert low == pytest.approx(0.01, abs=0.01)
    assert high == pytest.approx(0.99, abs=0.02)


def classifier() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    prepare_(model, Int8("static"))
    return model


def test_a_loader_of_inputs_and_labels_is_what_one_passes():
    """Every form of the same batches gives the same ranges, and labels do not matter."""
    torch.manual_seed(0)
    x, labels = torch.randn(20, 6), torch.randint(3, (20,))
    start = classifier()
    results = []
    for data in (
        DataLoader(TensorDataset(x, labels), batch_size=8),
        DataLoader(TensorDataset(x), batch_size=8),
        DataLoader([{"input": a, "labels": b} for a, b in zip(x, labels, strict=True)], 8),
        x.split(8),
        [(x, None)],
    ):
        model = copy.deepcopy(start)
        calibrate(model, data)
        results.append([ranges(model[0]), ranges(model[2])])
    assert results[0][0] == (float(x.min()), float(x.max()))
    assert all(result == results[0] for result in results)


def test_a_model_of_two_inputs_takes_a_mapping_or_its_own_forward():
    x, y = torch.randn(5, 6), torch.randn(5, 6)
    results = []
    for batch, forward in (({"a": x, "b": y}, None), ((x, y), both), ([x, y], both)):
        model = prepared()
        calibrate(model, [batch], forward=forward)
        results.append((ranges(model.first), ranges(model.second)))
    assert results[0][1] == (float(y.min()), float(y.max()))
    assert results[0] == results[1] == results[2]


def test_forward_sees_each_batch_as_it_came():
    x = torch.randn(3, 6)
    batches, seen = [("any", x), ("thing", x)], []

    def forward(model: nn.Module, batch: object) -> None:
        seen.append(batch)
        model(batch[1])

    calibrate(classifier(), batches, forward=forward)
    assert seen == batches


def test_modes_gradients_and_dropout_are_as_before():
    model = prepared()
    model.second.eval()
    modes = [m.training for m in model.modules()]
    x = torch.randn(5, 6, requires_grad=True)
    calibrate(model, [(x, x)], forward=both)
    assert [m.training for m in model.modules()] == modes
    assert torch.is_grad_enabled()
    assert all(p.grad is None for p in model.parameters())
    assert "_observer" not in vars(model.first)


def test_a_layer_sees_the_quantized_weights_before_it():
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 2))
    prepare_(model, Int8("static"))
    x = torch.randn(30, 6)
    calibrate(model, [x])
    q, scale = numerics.quantize_weight(model[0].weight.detach())
    hidden = nn.functional.linear(x, q * scale[:, None], model[0].bias).detach()
    assert ranges(model[1]) == (float(hidden.min()), float(hidden.max()))


def test_a_second_call_starts_afresh():
    model = prepared()
    for factor in (100.0, 1.0):
        calibrate(model, [(factor * torch.rand(5, 6), torch.rand(5, 6))], forward=both)
    assert ranges(model.first)[1] <= 1.0


def test_a_layer_that_no_value_reaches_is_named():
    model = prepared()
    with pytest.warns(UserWarning, match="no value reached layer 'second'"):
        calibrate(model, [torch.randn(5, 6), torch.randn(0, 6)])
    assert model.first.calibrated
    assert not model.second.calibrated
    with pytest.raises(RuntimeError, match="layer 'second' has static activations but no input"):
        model.eval()(torch.randn(1, 6), torch.randn(1, 6))


def test_dynamic_models_need_none():
    model = prepared(Int8())
    before = copy.deepcopy(model.state_dict())
    calibrate(model, [])
    assert model.state_dict().keys() == before.keys()


def bad_value() -> list[Tensor]:
    x = torch.randn(5, 6)
    x[1, 2] = float("nan")
    return [torch.randn(5, 6), x]


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        (torch.randn(5, 6), TypeError, "iterable of batches, got one Tensor: put it in a list"),
        ({"a": torch.randn(5, 6)}, TypeError, "iterable of batches, got one dict"),
        ([3], TypeError, r"a batch is a tensor, a pair .* got int; pass .* model\(\*batch\)"),
        ([(torch.rand(5, 6),) * 3], ValueError, r"got tuple of 3; pass .* model\(\*batch\)"),
        (
            [(torch.rand(5, 6), torch.rand(5, 6))],
            ValueError,
            r"TwoInputs\.forward could take both: pass forward=lambda",
        ),
        ([], ValueError, "data gave no batch"),
        (bad_value(), ValueError, "layer 'first': its input holds NaN or Inf"),
        ([torch.randn(5, 7)], ValueError, r"layer 'first': input of shape \(5, 7\)"),
        ([torch.tensor([[-3e38] * 3 + [3e38] * 3])], ValueError, "layer 'first': a static range"),
    ],
)
def test_on_errors_nothing_changes(data, kind, message):
    model = prepared()
    calibrate(model, [(torch.rand(5, 6), torch.rand(5, 6))], forward=both)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(kind, match=message):
        calibrate(model, data)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
    assert all(m.training for m in model.modules())
    assert model.first._observer is None


def test_an_error_of_the_model_passes_through_and_changes_nothing():
    model = prepared()
    model.fail_at = 2
    with pytest.raises(RuntimeError, match="broken"):
        calibrate(model, [torch.rand(5, 6)] * 3)
    assert not model.first.calibrated
    assert all(m.training for m in model.modules())


def test_without_prepare():
    with pytest.raises(ValueError, match=r"no fake-quantized layer: call quantize\.prepare_"):
        calibrate(TwoInputs(), [torch.rand(5, 6)])


def test_silent_when_nobody_watches(capsys):
    assert not sys.stderr.isatty()
    layer = FakeQuantLinear(6, 2, scheme=Int8("static"))
    calibrate(layer, [torch.rand(5, 6)] * 3)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")
