"""Fake quantization put on models and taken off."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from sparsekd.folding import FoldedBatchNorm
from sparsekd.modules import is_own_hook, quant_spec, weight_mask
from sparsekd.prune import NM, prune_
from sparsekd.quantize import FakeQuantConv2d, FakeQuantLinear, Int8, calibrate, prepare_, remove_


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(40, 24), nn.ReLU(), nn.Linear(24, 24), nn.Linear(24, 5))


def test_classes_change_and_parameters_stay():
    model = mlp()
    parameters, keys = dict(model.named_parameters()), list(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    report = prepare_(model)
    assert report.quantized == ("0", "2", "3")
    assert report.skipped == ()
    assert [type(m) for m in model] == [FakeQuantLinear, nn.ReLU, FakeQuantLinear, FakeQuantLinear]
    assert quant_spec(model[0]) == Int8()
    assert list(model.state_dict()) == keys
    assert all(p is parameters[name] for name, p in model.named_parameters())
    before = model[0].weight.detach().clone()
    model(torch.randn(4, 40)).sum().backward()
    optimizer.step()
    assert not torch.equal(model[0].weight, before)


def test_static_schemes_add_the_range():
    model = mlp()
    prepare_(model, Int8("static"), include="0")
    assert list(dict(model.named_buffers())) == [
        "0.input_min",
        "0.input_max",
        "0.input_scale",
        "0.input_zero_point",
    ]
    assert model[0].input_scale.isnan()
    assert (model[0].input_zero_point.dtype, model[0].input_zero_point.shape) == (torch.int32, ())


def test_layers_are_chosen_by_name_and_type():
    model = mlp()
    assert prepare_(model, exclude=["3"]).quantized == ("0", "2")
    assert prepare_(model, include=["2", "3"]).quantized == ("2", "3")  # 2 is as asked already
    assert type(model[3]) is FakeQuantLinear


def test_another_scheme_needs_remove_first():
    model = mlp()
    prepare_(model, include="2")
    message = r"layer '2' is fake-quantized with Int8\(.*dynamic.*call quantize.remove_"
    with pytest.raises(ValueError, match=message):
        prepare_(model, Int8("static"))
    assert type(model[0]) is nn.Linear
    prepare_(remove_(model), Int8("static"))
    assert quant_spec(model[2]) == Int8("static")


@pytest.mark.parametrize("scheme", [Int8(), Int8("static")])
def test_remove_gives_the_float_model_back(scheme):
    model = mlp()
    prune_(model, NM(4, 8))
    reference, x = copy.deepcopy(model), torch.randn(3, 40)
    prepare_(model, scheme)
    assert remove_(model) is model
    assert str(model) == str(reference)
    assert list(model.state_dict()) == list(reference.state_dict())
    assert vars(model[0]).keys() == vars(reference[0]).keys()
    assert torch.equal(model(x), reference(x))


@pytest.mark.parametrize("scheme", [Int8(), Int8("static")])
def test_pruning_before_or_after_is_the_same(scheme):
    first = mlp()
    second, x = copy.deepcopy(first), torch.randn(6, 40)
    prune_(first, NM(2, 8))
    prepare_(first, scheme)
    prepare_(second, scheme)
    prune_(second, NM(2, 8))
    for model in (first, second):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(3):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
        model.eval()
    ours, theirs = first.state_dict(), second.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name
    assert torch.equal(first(x), second(x))
    assert bool((first[0].weight[~weight_mask(first[0])] == 0).all())


def test_hooks_and_modes_stay():
    model = mlp()
    prune_(model, NM(2, 8))
    model[2].eval()
    seen = []
    model[0].register_forward_hook(lambda *_: seen.append(1))
    prepare_(model)
    assert [m.training for m in model] == [True, True, False, True]
    assert sum(map(is_own_hook, model[0]._forward_pre_hooks.values())) == 1
    model(torch.randn(2, 40))
    assert seen == [1]


def test_a_model_that_is_one_layer():
    layer = nn.Linear(4, 2)
    assert prepare_(layer, Int8("static")).quantized == ("",)
    calibrate(layer, [torch.randn(8, 4)])
    assert layer.eval()(torch.randn(1, 4)).shape == (1, 2)


def test_tied_and_shared_layers():
    model = mlp()
    model[3].weight = nn.Parameter(torch.randn(24, 24))
    model[2].weight = model[3].weight
    model.append(model[0])
    assert prepare_(model).quantized == ("0", "2", "3")
    assert model[2].weight is model[3].weight
    assert model[4] is model[0]


def test_layers_whose_weight_others_read_are_left_and_reported():
    model = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16), nn.Linear(8, 8))
    report = prepare_(model)
    assert report.quantized == ("1",)
    reasons = dict(report.skipped)
    assert set(reasons) == {"0.linear1", "0.linear2"}
    assert type(model[0].self_attn.out_proj) not in (nn.Linear, FakeQuantLinear)
    assert "TransformerEncoderLayer reads its weight" in reasons["0.linear1"]
    assert "1: fake-quantized" in str(report)
    assert "0.linear1: left alone, TransformerEncoderLayer reads" in str(report)


def test_subclasses_are_left_and_reported():
    class Special(nn.Linear): ...

    model = nn.Sequential(Special(4, 4), nn.Linear(4, 4))
    report = prepare_(model)
    assert report.skipped == (("0", "Special is a subclass and may compute something else"),)
    with pytest.raises(ValueError, match=r"no layer to quantize.*'0': Special is a subclass"):
        prepare_(model, include="0")


def test_what_it_refuses():
    model = mlp()
    with pytest.raises(TypeError, match="scheme must be an Int8, got 'int8'"):
        prepare_(model, "int8")
    with pytest.raises(ValueError, match=r"selector 'head\*' matches no layer; the layers are"):
        prepare_(model, include="head*")
    with pytest.raises(ValueError, match=r"no layer to quantize \(no nn\.Linear"):
        prepare_(nn.ReLU())
    model[2].double()
    with pytest.raises(TypeError, match=r"layer '2': weight of dtype torch\.float64"):
        prepare_(model)
    assert all(quant_spec(m) is None for m in model)


def test_half_weights_are_widened():
    layer = nn.Linear(16, 4).bfloat16()
    twin = copy.deepcopy(layer).float()
    prepare_(layer)
    prepare_(twin)
    x = torch.randn(3, 16)
    assert torch.equal(layer(x), twin(x))
    layer(x).sum().backward()
    assert layer.weight.grad.dtype is torch.bfloat16


def cnn() -> nn.Sequential:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 16, 6),
        nn.BatchNorm1d(6),
    )
    for norm in (model[1], model[5]):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2.0)
    return model


def test_batch_norm_is_folded_before_the_weights_are_quantized():
    model, x = cnn().eval(), torch.randn(5, 3, 6, 6)
    wanted = model(x)
    report = prepare_(model)
    assert report.quantized == ("0", "4")
    assert report.folded == (("1", "0"), ("5", "4"))
    assert report.notes == ()
    assert "1: folded into 0" in str(report)
    assert [type(model[i]) for i in (0, 1, 4, 5)] == [
        FakeQuantConv2d,
        FoldedBatchNorm,
        FakeQuantLinear,
        FoldedBatchNorm,
    ]
    torch.testing.assert_close(model(x), wanted, rtol=0, atol=0.1)
    model.train()(x).sum().backward()
    assert model[0].bias.grad is not None


def test_batch_norm_stays_on_request_and_before_layers_left_out():
    model = cnn()
    assert prepare_(model, fold_bn=False).folded == ()
    assert type(model[1]) is nn.BatchNorm2d
    model = cnn()
    assert prepare_(model, exclude="0").folded == (("5", "4"),)
    assert type(model[1]) is nn.BatchNorm2d


def test_pruning_before_or_after_folding_is_the_same():
    first = cnn().eval()
    second, x = copy.deepcopy(first), torch.randn(5, 3, 6, 6)
    prune_(first, NM(1, 2))
    prepare_(first)
    prepare_(second)
    prune_(second, NM(1, 2))
    assert torch.equal(weight_mask(first[0]), weight_mask(second[0]))
    assert torch.equal(first(x), second(x))


def test_a_folded_linear_takes_rows_only():
    # BatchNorm1d over [batch, 6, 6] means channels in dimension 1, not the columns of the Linear.
    model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6))
    prepare_(model)
    assert model(torch.randn(4, 6)).shape == (4, 6)
    with pytest.raises(ValueError, match=r"layer '0': input of shape \(4, 6, 6\).*fold_bn=False"):
        model(torch.randn(4, 6, 6))


def test_the_report_says_why_a_batch_norm_stays():
    model = cnn()
    model[1].register_forward_hook(lambda *_: None)
    report = prepare_(model)
    (note,) = report.notes
    assert note.startswith("1: BatchNorm stays, it or the layer carries")
    assert note in str(report)


def test_the_report_says_when_the_data_flow_is_not_known():
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = cnn()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.body(x)
            return y if bool(y.sum() > 0) else -y

    report = prepare_(Branching())
    assert len(report.folded) == 2
    (note,) = report.notes
    assert "could not be traced, so BatchNorm was folded only inside nn.Sequential (" in note
