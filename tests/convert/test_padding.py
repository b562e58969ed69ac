"""What the coverage report says about padding."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsekd.convert import convert
from sparsekd.prune import prune_, snap_


def pruned(sparsity: float, *shape: int) -> nn.Linear:
    torch.manual_seed(0)
    layer = nn.Linear(*shape)
    prune_(layer, f"unstructured:{sparsity}")
    return layer


@pytest.mark.parametrize("inplace", [False, True])
def test_padded_layers_are_named_with_what_snapping_would_cost_and_save(inplace):
    model = nn.Sequential(pruned(0.9, 768, 256), nn.GELU(), pruned(0.8, 256, 128))
    converted = convert(model, scheme="int8", kernel="windowed", inplace=inplace)
    report = converted.sparsekd_report
    assert report["0"].filled == converted[0].efficiency() < 0.6
    assert report["0"].kind == "Linear"
    assert report["1"].filled is None
    assert f"  {converted[0].efficiency():.0%}  " in str(report)
    (note,) = (note for note in report.notes if note.startswith("padding"))
    assert "'0' and 1 other layer fill" in note
    assert "snap_ to 8:64 and 16:64 before conversion would drop " in note
    slots = [converted[i].values.numel() for i in (0, 2)]
    if inplace:
        return
    snapped = snap_(model).total
    again = convert(model, scheme="int8", kernel="windowed")
    assert f"would drop {snapped.dropped:.1%} of the kept weights" in note
    after = sum(again[i].values.numel() for i in (0, 2))
    assert f"save {1 - after / sum(slots):.0%} of the slots" in note
    assert not again.sparsekd_report.notes
    assert again.sparsekd_report["0"].filled > report["0"].filled


@pytest.mark.parametrize(
    ("pattern", "scheme", "kernel"),
    [("8:32", "int8", "windowed"), ("unstructured:0.9", "int8", "dense")],
)
def test_nothing_is_said_where_nothing_is_to_be_saved(pattern, scheme, kernel):
    layer = nn.Linear(768, 64)
    prune_(layer, pattern)
    report = convert(nn.Sequential(layer), scheme=scheme, kernel=kernel).sparsekd_report
    assert not report.notes
    assert report["0"].filled == (1.0 if kernel == "windowed" else None)


def test_engine_layers_are_past_fitting():
    model = nn.Sequential(pruned(0.9, 768, 256))
    once = convert(model, scheme="int8", kernel="windowed")
    assert "snap_" in once.sparsekd_report.notes[0]
    assert not convert(once).sparsekd_report.notes
