"""The slots of a mask, against what the engine packs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsekd import _native
from sparsekd.prune import Unstructured, prune_, snap_
from sparsekd.slots import count_slots, filling_pattern, fit


@pytest.mark.parametrize(
    ("outputs", "taps", "channels", "groups"),
    [(150, 1, 300, 1), (64, 9, 70, 1), (60, 3, 20, 3), (5, 1, 64, 5), (16, 2, 1, 1)],
)
@pytest.mark.parametrize("density", [0.0, 0.1, 0.6, 1.0])
def test_the_slots_are_those_of_the_packed_weight(outputs, taps, channels, groups, density):
    generator = torch.Generator().manual_seed(0)
    kept = torch.rand(outputs, taps, channels, generator=generator) < density
    weight = kept.to(torch.int8).reshape(outputs, -1).numpy()
    values, *_, order = _native.pack_windowed_s8(weight, taps, groups)
    counted = count_slots(kept, groups)
    assert counted == values.size if order is None else counted > values.size


def test_no_outputs_need_no_slots():
    assert count_slots(torch.zeros(0, 1, 64, dtype=torch.bool)) == 0


@pytest.mark.parametrize(
    ("density", "pattern"),
    [(0.0, "4:64"), (0.0625, "4:64"), (0.063, "8:64"), (0.1, "8:64"), (0.2, "16:64"), (1, "64:64")],
)
def test_the_filling_pattern_is_the_next_denser_one(density, pattern):
    assert str(filling_pattern(density)) == pattern


@pytest.mark.parametrize("channels", [768, 300, 40])
@pytest.mark.parametrize("sparsity", [0.5, 0.8, 0.9])
def test_the_fit_foretells_what_snapping_does(channels, sparsity):
    conv = nn.Conv2d(channels, 96, 1)
    prune_(conv, Unstructured(sparsity))
    foretold = fit(conv.weight_mask.view(96, 1, channels))
    row = snap_(conv).layers[0]
    assert (foretold.pattern, foretold.slots) == (row.pattern, row.slots_after)
    assert foretold.dropped == pytest.approx(row.dropped)
