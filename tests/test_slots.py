"""The slots of a mask, against what the engine packs."""

from __future__ import annotations

import pytest
import torch

from sparsekd import _native
from sparsekd.slots import count_slots, filling_pattern


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
