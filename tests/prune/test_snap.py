"""snap_: which weights an n:m pattern costs an arbitrary mask, and what is saved by it."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune as torch_prune

from sparsekd.prune import NM, Unstructured, prune_, snap_
from sparsekd.quantize import prepare_


def pruned(sparsity: float = 0.9, outputs: int = 96, inputs: int = 256) -> nn.Sequential:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU(), nn.Linear(outputs, 10))
    prune_(model, Unstructured(sparsity), include=["0"])
    return model


@settings(max_examples=80, deadline=None)
@given(
    m=st.sampled_from([1, 2, 4, 8, 16, 32, 64]),
    outputs=st.integers(1, 6),
    inputs=st.integers(1, 150),
    density=st.floats(0.05, 0.95),
    plain=st.booleans(),
    data=st.data(),
)
def test_each_group_keeps_the_largest_of_what_it_kept(m, outputs, inputs, density, plain, data):
    layer = nn.Linear(inputs, outputs)
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1 << 30)))
    kept = torch.rand(outputs, inputs, generator=generator) < density
    kept[0, 0], kept[-1, -1] = False, kept[-1, -1] and kept.numel() > 1
    with torch.no_grad():
        layer.weight.mul_(kept)
    if not plain:
        layer.register_buffer("weight_mask", kept.clone())
    before = layer.weight.detach().clone()
    n = data.draw(st.integers(1, m))
    if n == m:
        with pytest.raises(ValueError, match="no chosen layer has a mask"):
            snap_(layer, NM(n, m))
        return
    limits = torch.tensor([-(-n * min(m, inputs - i) // m) for i in range(0, inputs, m)])
    groups = torch.stack([part.sum(1) for part in kept.split(m, dim=1)], 1)
    if 2 * groups.clamp(max=limits).sum() < groups.sum():
        with pytest.raises(ValueError, match="of its kept weights; snap_ fits a mask"):
            snap_(layer, NM(n, m))
        assert torch.equal(layer.weight.detach(), before)
        return
    report = snap_(layer, NM(n, m))
    mask = layer.weight_mask
    assert not (mask & ~kept).any()
    for begin in range(0, inputs, m):
        now, old = mask[:, begin : begin + m], kept[:, begin : begin + m]
        most = -(-n * now.shape[1] // m)
        assert torch.equal(now.sum(1), old.sum(1).clamp(max=most))
        size = before[:, begin : begin + m].abs()
        least = size.masked_fill(~now, torch.inf).amin(1)
        assert (least >= size.masked_fill(now | ~old, -torch.inf).amax(1)).all()
    assert torch.equal(layer.weight.detach(), before * mask)
    (row,) = report.layers
    assert (row.before, row.after) == (int(kept.sum()), int(mask.sum()))
    lost = before[kept & ~mask].double().square().sum() / before.double().square().sum()
    if row.before:
        assert row.energy_dropped == pytest.approx(float(lost))
        assert row.dropped == pytest.approx(1 - row.after / row.before)


@pytest.mark.parametrize(
    ("sparsity", "pattern", "most"),
    [(0.8, "16:64", 0.04), (0.9, "8:64", 0.08), (0.95, "4:64", 0.22), (0.5, "32:64", 0.08)],
)
def test_auto_takes_full_steps_at_least_as_dense_as_the_mask(sparsity, pattern, most):
    row = snap_(pruned(sparsity, 512, 768)).layers[0]
    assert str(row.pattern) == pattern
    assert 0.005 < row.energy_dropped < row.dropped < most
    # Every window needs the steps of the pattern and no more.
    assert row.slots_after == 512 * 768 * row.pattern.n // 64 < row.slots_before
    assert row.filled_before < row.filled_after


def test_the_recorded_mask_holds_and_goes_on_being_held():
    model = pruned()
    report = snap_(model)
    assert [row.name for row in report.layers] == ["0"]  # the head keeps everything
    assert not hasattr(model[2], "weight_mask")
    assert len(model[0]._forward_pre_hooks) == 1
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        model(torch.randn(8, 256)).square().sum().backward()
        optimizer.step()
    assert not model(torch.randn(2, 256)).isnan().any()
    assert not model[0].weight.detach()[~model[0].weight_mask].any()
    again = model[0].weight_mask.clone()
    assert snap_(model, "8:64").layers[0].dropped == 0.0
    assert torch.equal(model[0].weight_mask, again)


def test_plain_zeros_become_a_mask():
    model = pruned()
    twin = copy.deepcopy(model)
    plain = nn.Linear(256, 96)
    plain.load_state_dict({k: v for k, v in model[0].state_dict().items() if k != "weight_mask"})
    snap_(plain, "8:64")
    snap_(twin, "8:64")
    assert torch.equal(plain.weight_mask, twin[0].weight_mask)
    assert torch.equal(plain.weight, twin[0].weight)


def test_taps_of_a_convolution_and_prepared_layers():
    conv = nn.Conv2d(128, 32, 3, groups=2)
    prune_(conv, Unstructured(0.8))
    row = snap_(conv, "16:64").layers[0]
    assert (conv.weight_mask.permute(0, 2, 3, 1).sum(-1) <= 16).all()
    assert row.name == "(the model)"
    assert row.slots_after == 32 * 9 * 16 < row.slots_before
    model = pruned()
    prepare_(model)
    assert snap_(model).layers[0].slots_after == 96 * 256 // 8


def test_a_score_of_ones_own_chooses():
    layer = nn.Linear(64, 1)
    with torch.no_grad():
        layer.weight.fill_(1.0)
        layer.weight[0, :48] = 0.0
    snap_(layer, "8:64", score=lambda weight: torch.arange(64.0).view(1, 64))
    assert layer.weight_mask[0].nonzero().flatten().tolist() == list(range(56, 64))


def test_the_report_prints_a_line_a_layer_and_a_total():
    model = pruned()
    prune_(model, Unstructured(0.8), include=["2"])
    report = snap_(model)
    lines = str(report).splitlines()
    assert [line.split()[0] for line in lines] == ["layer", "0", "2", "total"]
    assert "8:64" in lines[1]
    assert "16:64" in lines[2]
    assert report.total.before == sum(row.before for row in report.layers) == 2458 + 192
    assert report.total.slots_after == sum(row.slots_after for row in report.layers)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("8/64",), {}, "unknown pattern '8/64'; expected a Pattern, 'n:m'"),
        (("unstructured:0.5",), {}, "fits masks to n:m patterns such as '8:64', got unstr"),
        (("3:24",), {}, "m a divisor of the 64 inputs of a window, got 3:24"),
        ((), {"score": "taylor"}, "unknown score 'taylor'"),
        ((), {"include": ["body"]}, "'body' matches no layer; the layers are: 0, 2"),
        ((), {"exclude": ["0"]}, "no chosen layer has a mask or zeros to fit"),
        (("1:64",), {}, r"layer '0': 1:64 would drop 8\d% of its kept weights; snap_ fits"),
        ((), {"score": lambda w: w[:1]}, r"layer '0': score gave \(1, 256\), expected"),
    ],
)
def test_bad_arguments_change_nothing(arguments, options, message):
    model = pruned()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        snap_(model, *arguments, **options)
    after = model.state_dict()
    assert sorted(before) == sorted(after)
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_mask_of_torch_is_refused_by_name():
    model = pruned()
    torch_prune.l1_unstructured(model[2], "weight", 0.8)
    with pytest.raises(ValueError, match=r"layer '2': its weight_mask is torch\.float32"):
        snap_(model)
    torch_prune.remove(model[2], "weight")
    assert [row.name for row in snap_(model).layers] == ["0", "2"]
