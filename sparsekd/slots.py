"""What padding costs: the slots that the windowed int8 format needs for a mask.

A slice of 16 outputs takes, for each window of 64 inputs, as many steps of 4 weights an output as
its fullest output needs; the others pad (docs/formats.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from sparsekd.spec import NM

__all__ = ["Fit", "count_slots", "filling_pattern", "fit"]

_SLICE, _WINDOW, _STEP = 16, 64, 4


@dataclass(frozen=True)
class Fit:
    """What a mask would become under its filling pattern.

    Attributes:
        dropped: the share of the kept weights that would go, 0..1.
        slots: needed then.
    """

    pattern: NM
    dropped: float
    slots: int


def count_slots(kept: Tensor, groups: int = 1) -> int:
    """The slots of a mask with its outputs as they come.

    Packing also tries other orders of the outputs, so a packed layer has this many at most.

    Args:
        kept: bool [outputs, taps, channels of a group].
        groups: of a convolution; each fills slices of its own.
    """
    return _slots(_window_counts(kept), groups)


def filling_pattern(density: float) -> NM:
    """The sparsest n:64 pattern of full steps that is at least as dense.

    >>> str(filling_pattern(0.1))
    '8:64'
    """
    steps = math.ceil(density * (_WINDOW // _STEP) - 1e-9)
    return NM(_STEP * min(max(steps, 1), _WINDOW // _STEP), _WINDOW)


def fit(kept: Tensor, groups: int = 1) -> Fit:
    """What the filling pattern of a mask would do to it.

    Args:
        kept: bool [outputs, taps, channels of a group].
        groups: of a convolution.
    """
    counts, channels = _window_counts(kept), kept.shape[2]
    total = int(counts.sum())
    pattern = filling_pattern(total / max(kept.numel(), 1))
    lengths = [min(_WINDOW, channels - begin) for begin in range(0, channels, _WINDOW)]
    most = torch.tensor([-(-pattern.n * length // _WINDOW) for length in lengths])
    fitted = counts.clamp(max=most)
    return Fit(pattern, 1.0 - int(fitted.sum()) / max(total, 1), _slots(fitted, groups))


def _window_counts(kept: Tensor) -> Tensor:
    """i64 [outputs, taps, windows] of kept weights."""
    outputs, taps, channels = kept.shape
    windows = -(-channels // _WINDOW)
    padded = F.pad(kept.to(torch.uint8), (0, windows * _WINDOW - channels))
    return padded.view(outputs, taps, windows, _WINDOW).sum(-1)


def _slots(counts: Tensor, groups: int) -> int:
    if counts.numel() == 0:
        return 0
    each = counts.shape[0] // groups
    steps = (-(-counts // _STEP)).reshape(groups, each, -1)
    slices = -(-each // _SLICE)
    steps = F.pad(steps, (0, 0, 0, slices * _SLICE - each))
    most = steps.view(groups, slices, _SLICE, -1).amax(2)
    return int(most.sum()) * _SLICE * _STEP
