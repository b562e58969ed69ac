"""BatchNorm folded into the layer before it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from sparsekd.folding import FoldedBatchNorm, find_folds, fold_, folded_parameters


def trained(norm: nn.Module) -> nn.Module:
    """A BatchNorm with statistics and parameters unlike the initial ones, some gammas negative."""
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.1, 3.0)
    if norm.affine:
        with torch.no_grad():
            norm.weight.normal_()
            norm.bias.normal_()
    return norm


MODELS = {
    "conv2d": lambda: nn.Sequential(nn.Conv2d(3, 8, 3, groups=1), trained(nn.BatchNorm2d(8))),
    "no bias": lambda: nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), trained(nn.BatchNorm2d(8))),
    "grouped": lambda: nn.Sequential(nn.Conv2d(3, 9, 3, groups=3), trained(nn.BatchNorm2d(9))),
    "plain": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 1), trained(nn.BatchNorm2d(8, affine=False, eps=0.3))
    ),
    "sync": lambda: nn.Sequential(nn.Conv2d(3, 8, 1), trained(nn.SyncBatchNorm(8))),
    "conv1d": lambda: nn.Sequential(nn.Conv1d(3, 8, 3), trained(nn.BatchNorm1d(8))),
    "linear": lambda: nn.Sequential(nn.Linear(6, 8), trained(nn.BatchNorm1d(8))),
}
INPUTS = {"conv1d": (4, 3, 9), "linear": (4, 6)}


@pytest.mark.parametrize("name", MODELS)
def test_the_folded_model_computes_the_same(name):
    model = MODELS[name]().eval()
    x = torch.randn(INPUTS.get(name, (4, 3, 9, 9)))
    with torch.no_grad():
        wanted = model(x)
        weight = model[0].weight
        pairs, stay, flow = find_folds(model, ["0"])
        assert (pairs, stay, flow.failure) == ({"0": "1"}, {}, "")
        fold_(model, pairs)
        assert type(model[1]) is FoldedBatchNorm
        assert model[0].weight is weight
        assert model[0].bias.requires_grad
        torch.testing.assert_close(model(x), wanted, rtol=1e-4, atol=1e-5)


def test_what_was_folded_can_be_read_from_the_model():
    model = copy.deepcopy(MODELS["conv2d"]().train())
    fold_(model, {"0": "1"})
    stand_in = model[1]
    assert (stand_in.kind, stand_in.num_features, stand_in.layer) == ("BatchNorm2d", 8, "0")
    assert str(stand_in) == "FoldedBatchNorm(BatchNorm2d(8) is part of '0')"
    assert stand_in.training
    assert str(copy.deepcopy(model)) == str(model)
    assert list(model.state_dict()) == ["0.weight", "0.bias"]


def test_the_formula_is_fp32_in_the_order_written_down():
    layer, norm = MODELS["conv2d"]()
    weight, bias = folded_parameters(layer, norm)
    factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    assert torch.equal(weight, layer.weight * factor[:, None, None, None])
    assert torch.equal(bias, (layer.bias - norm.running_mean) * factor + norm.bias)


class Block(nn.Module):
    def __init__(self, use=None) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 1), trained(nn.BatchNorm2d(4))
        self.second = nn.Conv2d(4, 4, 1)
        self.use = use or (lambda m, x: m.norm(m.conv(x)).relu())

    def forward(self, x: Tensor) -> Tensor:
        return self.use(self, x)


USES = {
    "output used twice": lambda m, x: (h := m.conv(x)) + m.norm(h),
    "norm called twice": lambda m, x: m.norm(m.conv(x)) + m.norm(m.second(x)),
    "layer called twice": lambda m, x: m.norm(m.conv(x)) + m.conv(x),
    "norm first": lambda m, x: m.conv(m.norm(x)),
    "something between": lambda m, x: m.norm(m.conv(x).relu()),
}


@pytest.mark.parametrize("use", USES)
def test_a_batch_norm_stays_when_folding_would_change_the_model(use):
    pairs, stay, flow = find_folds(Block(USES[use]), ["conv", "second"])
    assert (pairs, stay, flow.failure) == ({}, {}, "")


def test_only_named_layers_are_folded():
    model = nn.Sequential(Block(), Block())
    assert find_folds(model, ["1.conv"])[0] == {"1.conv": "1.norm"}


def test_without_a_batch_norm_nothing_is_traced():
    calls: list[int] = []
    model = nn.Sequential(nn.Conv2d(1, 1, 1), Block(lambda m, x: calls.append(1)))
    model[1].norm = nn.Identity()
    assert find_folds(model, ["0"])[0] == {}
    assert calls == []


def hooked(model: Block) -> None:
    model.conv.register_forward_hook(lambda *_: None)


def other_kind(model: Block) -> None:
    model.norm.__class__ = type("MyNorm", (nn.BatchNorm2d,), {})


def no_statistics(model: Block) -> None:
    model.norm = nn.BatchNorm2d(4, track_running_stats=False)


def tied(model: Block) -> None:
    model.second.weight = model.conv.weight


def infinite(model: Block) -> None:
    model.norm.eps = 0.0
    model.norm.running_var.zero_()


def other_size(model: Block) -> None:
    model.norm = nn.BatchNorm2d(7)


def read_by_forward(model: Block) -> None:
    model.use = lambda m, x: m.norm(m.conv(x)) * m.norm.running_var.mean() * m.conv.weight.mean()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (hooked, "carries what folding would change: forward hook"),
        (other_kind, "MyNorm after Conv2d may compute something else"),
        (no_statistics, "it has no running statistics"),
        (tied, "shared with another module"),
        (infinite, "the folded weights would not be finite"),
        (other_size, "no parameter with one row a channel"),
        (read_by_forward, "the forward code reads parameters"),
    ],
)
def test_what_stays_has_a_reason(change, reason):
    model = Block()
    change(model)
    pairs, stay, _ = find_folds(model, ["conv"])
    assert pairs == {}
    assert reason in stay["norm"]


def test_finding_changes_nothing():
    model = Block().train()
    before = copy.deepcopy(model.state_dict())
    find_folds(model, ["conv"])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(module.training for module in model.modules())


def test_half_weights_stay_half():
    model = MODELS["no bias"]().to(torch.bfloat16).eval()
    fold_(model, {"0": "1"})
    assert (model[0].weight.dtype, model[0].bias.dtype) == (torch.bfloat16, torch.bfloat16)
