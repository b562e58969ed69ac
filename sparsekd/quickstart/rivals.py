"""torch's own int8 for convolutions, which the quickstart is measured against."""

from __future__ import annotations

import copy
import warnings

import torch
from torch import Tensor, nn

__all__ = ["static_int8"]


def static_int8(model: nn.Module, images: Tensor) -> nn.Module:
    """torch's static int8 (FX graph mode), its ranges taken from ``images``.

    BatchNorm and ReLU are fused by torch. Deprecated, still what torch itself brings for CPUs.

    Args:
        model: a float model in eval mode that torch.fx can trace; it is left as it is.
        images: one batch for calibration.
    """
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    mapping = get_default_qconfig_mapping(torch.backends.quantized.engine)
    with warnings.catch_warnings(), torch.inference_mode():
        # It warns of itself, of what it calls, and of its default settings.
        warnings.simplefilter("ignore")
        prepared = prepare_fx(copy.deepcopy(model), mapping, (images,))
        prepared(images)
        made: nn.Module = convert_fx(prepared)
    return made
