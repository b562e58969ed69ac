"""prune_: which weights go, and that they stay away whatever an optimizer does."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from sparsekd.modules import is_own_hook
from sparsekd.prune import NM, Unstructured, apply_masks_, magnitude, prune_
from sparsekd.quantize import Int8, calibrate, prepare_

OPTIMIZERS = {
    "sgd momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
    "sgd nesterov decay": lambda p: torch.optim.SGD(
        p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.1
    ),
    "sgd fused": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, fused=True),
    "adam": lambda p: torch.optim.Adam(p, 1e-2),
    "adamw decay": lambda p: torch.optim.AdamW(p, 1e-2, weight_decay=0.5),
    "adamw foreach": lambda p: torch.optim.AdamW(p, 1e-2, foreach=True),
    "adamw fused": lambda p: torch.optim.AdamW(p, 1e-2, fused=True),
}


def mlp() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(70, 24), nn.ReLU(), nn.Linear(24, 5))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3) -> None:
    x, labels = torch.randn(16, 70), torch.randint(0, 5, (16,))
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()


def stray(module: nn.Module, weight: Tensor | None = None) -> int:
    """Masked weights that are not zero."""
    value = module.weight if weight is None else weight
    return int((value.detach()[~module.weight_mask] != 0).sum())


# --- which weights ------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    m=st.integers(1, 33),
    outputs=st.integers(1, 5),
    inputs=st.integers(1, 90),
    data=st.data(),
)
def test_each_group_keeps_exactly_its_share_and_its_largest(m, outputs, inputs, data):
    n = data.draw(st.integers(1, m))
    layer = nn.Linear(inputs, outputs)
    before = layer.weight.detach().clone()
    prune_(layer, NM(n, m))
    for begin in range(0, inputs, m):
        mask = layer.weight_mask[:, begin : begin + m]
        size = mask.shape[1]
        share = n if size == m else -(-n * size // m)  # ceil(n * r / m) of a short last group
        assert (mask.sum(1) == share).all()
        rank = before[:, begin : begin + m].abs()
        kept = rank.masked_fill(~mask, torch.inf).amin(1)
        dropped = rank.masked_fill(mask, -torch.inf).amax(1)
        assert (kept >= dropped).all()
    assert torch.equal(layer.weight.detach(), before * layer.weight_mask)


def test_ties_go_to_the_lower_input():
    layer = nn.Linear(8, 3)
    nn.init.constant_(layer.weight, 0.5)
    prune_(layer, NM(2, 4))
    assert layer.weight_mask.tolist() == [[True, True, False, False] * 2] * 3


@pytest.mark.parametrize(("sparsity", "kept"), [(0.0, 1680), (0.9, 168), (0.999, 2)])
def test_unstructured_keeps_its_count_in_each_layer(sparsity, kept):
    model = mlp()
    report = prune_(model, Unstructured(sparsity), include=["0"])
    assert report.layers[0].kept == int(model[0].weight_mask.sum()) == kept


def test_groups_of_a_convolution_lie_inside_one_tap():
    conv = nn.Conv2d(12, 4, 3, groups=2)
    prune_(conv, NM(2, 4))
    assert conv.weight_mask.shape == conv.weight.shape == (4, 6, 3, 3)
    by_tap = conv.weight_mask.permute(0, 2, 3, 1)
    assert (by_tap[..., :4].sum(-1) == 2).all()
    assert (by_tap[..., 4:].sum(-1) == 1).all()


def test_a_score_of_ones_own_chooses():
    layer = nn.Linear(8, 2)
    prune_(layer, NM(1, 4), score=lambda weight: torch.arange(16.0).view(2, 8))
    assert layer.weight_mask.tolist() == [[False, False, False, True] * 2] * 2
    assert torch.equal(magnitude(torch.tensor([-2.0, 1.0])), torch.tensor([2.0, 1.0]))


def test_include_and_exclude_by_name_and_type():
    model = mlp()
    assert [row.name for row in prune_(model, "4:8", exclude=["2"]).layers] == ["0"]
    assert not hasattr(model[2], "weight_mask")
    assert [row.name for row in prune_(mlp(), "4:8", include=nn.Linear).layers] == ["0", "2"]


# --- composition --------------------------------------------------------------------------------


def test_pruning_twice_never_regrows():
    model = mlp()
    prune_(model, Unstructured(0.5))
    first = model[0].weight_mask.clone()
    prune_(model, NM(8, 32), score=lambda w: (w == 0).float())  # asks for what is gone
    assert not (model[0].weight_mask & ~first).any()
    again = model[0].weight_mask.clone()
    prune_(model, NM(16, 32))
    assert torch.equal(model[0].weight_mask, again)


@pytest.mark.parametrize("activations", ["dynamic", "static"])
def test_prune_then_prepare_equals_prepare_then_prune(activations):
    first, second, x = mlp(), mlp(), torch.randn(9, 70)
    prune_(first, NM(4, 32))
    prepare_(first, Int8(activations))
    prepare_(second, Int8(activations))
    prune_(second, NM(4, 32))
    if activations == "static":
        calibrate(first, [x])
        calibrate(second, [x])
    a, b = first.state_dict(), second.state_dict()
    assert sorted(a) == sorted(b)
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert torch.equal(first.eval()(x), second.eval()(x))


# --- masks hold ---------------------------------------------------------------------------------


@pytest.mark.parametrize("prepared", [False, True], ids=["float", "int8"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_masks_hold_through_an_optimizer_that_has_momentum_already(name, prepared):
    model = mlp()
    if prepared:
        prepare_(model)
    optimizer = OPTIMIZERS[name](model.parameters())
    train(model, optimizer)  # so that its state pushes at weights that are then masked
    prune_(model, NM(4, 32))
    start = model[0].weight.detach().clone()
    train(model, optimizer)
    state = model.state_dict()  # straight after a step, with no forward between
    assert stray(model[0], state["0.weight"]) == stray(model[2], state["2.weight"]) == 0
    train(model, optimizer, steps=1)
    with torch.no_grad():
        model.eval()(torch.randn(2, 70))
    assert stray(model[0]) == stray(model[2]) == 0
    kept = model[0].weight_mask
    assert (model[0].weight.detach() != start)[kept].float().mean() > 0.9  # the rest does learn


def test_a_write_through_data_in_training_is_undone():
    model = mlp()
    prune_(model, NM(4, 32))
    x = torch.randn(3, 70)
    model(x)
    model[0].weight.data.add_(1.0)
    model(x)
    assert stray(model[0]) == 0


def test_a_module_used_several_times_in_a_forward_pass_trains():
    layer = nn.Linear(6, 6)
    optimizer = torch.optim.SGD(layer.parameters(), 0.1, momentum=0.9)
    prune_(layer, NM(2, 4))
    for _ in range(3):
        optimizer.zero_grad()
        x = torch.randn(4, 6, requires_grad=True)  # so that each use saves the weight
        layer(torch.tanh(layer(x))).square().sum().backward()
        optimizer.step()
    layer(torch.randn(1, 6))
    assert stray(layer) == 0


def test_nothing_is_written_while_nothing_strays():
    model, x = mlp(), torch.randn(3, 70)
    prune_(model, NM(4, 32))
    model(x)
    version = model[0].weight._version
    model(x).sum().backward()
    model.eval()(x)
    with torch.no_grad():
        model(x)
    assert model[0].weight._version == version


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_keeps_its_own_masks(copied):
    model = mlp()
    prune_(model, NM(4, 32))
    model(torch.randn(2, 70))
    twin = copied(model)
    assert torch.equal(twin[0].weight_mask, model[0].weight_mask)
    with torch.no_grad():
        twin[0].weight.add_(1.0)
    twin(torch.randn(2, 70))
    assert stray(twin[0]) == 0
    assert not torch.equal(twin[0].weight, model[0].weight)


def test_masks_travel_with_the_state_dict():
    model, other = mlp(), mlp()
    prune_(model, NM(4, 32))
    prune_(other, Unstructured(0.0))  # keeps all: the buffers are there to be loaded
    nn.init.normal_(other[0].weight)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other[0].weight_mask, model[0].weight_mask)
    x = torch.randn(4, 70)
    assert torch.equal(other(x), model(x))


def test_apply_masks_and_the_hook_is_known_as_our_own():
    model = mlp()
    prune_(model, NM(4, 32))
    with torch.no_grad():
        model[0].weight.fill_(float("nan"))
    assert apply_masks_(model) is model
    assert stray(model[0]) == 0
    assert all(is_own_hook(hook) for hook in model[0]._forward_pre_hooks.values())
    prune_(model, NM(2, 32), include=["2"])
    assert len(model[2]._forward_pre_hooks) == 1


# --- report and errors --------------------------------------------------------------------------


def test_the_report_counts_and_prints_a_table():
    report = prune_(mlp(), NM(8, 32))
    assert [(row.name, row.total) for row in report.layers] == [("0", 1680), ("2", 120)]
    # 70 inputs: two groups of 32 and 6 more, of which ceil(8 * 6 / 32) = 2; 24 inputs keep 6
    assert [row.kept for row in report.layers] == [24 * 18, 5 * 6]
    assert report.sparsity == pytest.approx(1 - (24 * 18 + 30) / 1800)
    assert [line.split()[0] for line in str(report).splitlines()] == ["layer", "0", "2", "total"]


@pytest.mark.parametrize(
    ("pattern", "options", "message"),
    [
        ("4/32", {}, "unknown pattern '4/32'; expected a Pattern, 'n:m'"),
        ("4:32", {"score": "taylor"}, "unknown score 'taylor'.*one of: magnitude"),
        ("4:32", {"include": ["head"]}, "'head' matches no layer; the layers are: 0, 2"),
        ("4:32", {"score": lambda w: w[:1]}, r"layer '0': score gave \(1, 70\), expected a tensor"),
        ("4:32", {"score": lambda w: w * float("nan")}, "layer '0': score gave NaN"),
        ("4:32", {"score": lambda w: 3}, "layer '0': score gave int, expected a tensor"),
    ],
)
def test_bad_arguments_change_nothing(pattern, options, message):
    model = mlp()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        prune_(model, pattern, **options)
    after = model.state_dict()
    assert sorted(before) == sorted(after)
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_score_that_fails_at_the_second_layer_leaves_the_first_alone():
    model = mlp()
    with pytest.raises(ValueError, match="layer '2': score gave NaN"):
        prune_(model, "4:32", score=lambda w: w * (torch.nan if len(w) == 5 else 1.0))
    assert not hasattr(model[0], "weight_mask")
