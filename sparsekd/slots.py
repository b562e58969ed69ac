"""What padding costs: the slots that the windowed int8 format needs for a mask.

A slice of 16 outputs takes, for each window of 64 inputs, as many steps of 4 weights an output as
its fullest output needs; the others pad (docs/formats.md).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from sparsekd.spec import NM

__all__ = ["count_slots", "filling_pattern"]

_SLICE, _WINDOW, _STEP = 16, 64, 4


def count_slots(kept: Tensor, groups: int = 1) -> int:
    """The slots of a mask with its outputs as they come.

    Packing also tries other orders of the outputs, so a packed layer has this many at most.

    Args:
        kept: bool [outputs, taps, channels of a group].
        groups: of a convolution; each fills slices of its own.
    """
    outputs, taps, channels = kept.shape
    if kept.numel() == 0:
        return 0
    windows = -(-channels // _WINDOW)
    padded = F.pad(kept.to(torch.uint8), (0, windows * _WINDOW - channels))
    counts = padded.view(groups, outputs // groups, taps * windows, _WINDOW).sum(-1)
    steps = -(-counts // _STEP)
    slices = -(-(outputs // groups) // _SLICE)
    steps = F.pad(steps, (0, 0, 0, slices * _SLICE - outputs // groups))
    most = steps.view(groups, slices, _SLICE, -1).amax(2)
    return int(most.sum()) * _SLICE * _STEP


def filling_pattern(density: float) -> NM:
    """The sparsest n:64 pattern of full steps that is at least as dense.

    >>> str(filling_pattern(0.1))
    '8:64'
    """
    steps = math.ceil(density * (_WINDOW // _STEP) - 1e-9)
    return NM(_STEP * min(max(steps, 1), _WINDOW // _STEP), _WINDOW)
