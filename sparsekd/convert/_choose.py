"""Which kernel a layer gets: a rule of thumb where none was asked for.

The rules look at the weight alone and not at the CPU, so that a model always converts to the same
file; nothing here is measured, and the report says so.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from sparsekd import backend
from sparsekd.convert._kinds import EngineLayer, TorchLayer
from sparsekd.modules import weight_mask
from sparsekd.spec import Fp32, Int8, Scheme

__all__ = ["KERNELS", "check_kernel", "choose", "is_pointwise", "sparsity_of"]

KERNELS = ("auto", "windowed", "dense", "depthwise", "csr", "torch")

# A windowed group of 16 outputs x 4 inputs stores a position beside each value, so up to half of
# dense's groups it takes no more bytes; with AVX512-VBMI that is also about where it becomes the
# faster one. Older instruction sets cross over at fewer groups.
_WINDOWED_SHARE = 0.5
_WINDOWED_ZEROS = 0.60  # fp32 and bf16, against torch's dense layer
_CSR_ZEROS = 0.95  # fp32; from here on padding in the steps of windowed costs more than indices

Builder = Callable[[str], EngineLayer]


def check_kernel(scheme: Scheme, kernel: str, where: str = "") -> None:
    """Raise unless a kernel that was asked for goes with the scheme; "auto", "torch" always do.

    Raises:
        ValueError: naming the kernels of the scheme.
    """
    known = backend.FORMATS[type(scheme)]
    if kernel not in ("auto", "torch", *known):
        name = type(scheme).__name__.lower()
        raise ValueError(
            f"{where}kernel {kernel!r} does not go with scheme {name!r}, which has "
            f"{', '.join(known)} (and 'torch' to leave layers as they are)"
        )


def choose(
    layer: TorchLayer, scheme: Scheme, build: Builder, *, was_sparse: bool = False
) -> tuple[EngineLayer | None, str]:
    """The engine layer by the rule of thumb, None to leave the layer to torch, and the reason.

    Args:
        layer: with a plain weight, BatchNorm folded.
        build: makes the engine layer with a kernel.
        was_sparse: the weight came as a sparse tensor, so that torch's dense layer is no rival.
    """
    if isinstance(scheme, Int8):
        return _int8(layer, build)
    zeros = sparsity_of(layer) or 0.0
    reason = f"{zeros:.0%} of the weights are zero (not measured)"
    if isinstance(scheme, Fp32) and _is_depthwise(layer):
        return build("depthwise"), "every channel is a group of its own (not measured)"
    csr = isinstance(scheme, Fp32) and is_pointwise(layer)
    if csr and zeros >= _CSR_ZEROS:
        return build("csr"), reason
    if zeros >= _WINDOWED_ZEROS and not _is_depthwise(layer):
        return build("windowed"), reason
    if csr and was_sparse:
        return build("csr"), f"its weight is a sparse tensor; {reason}"
    name = type(scheme).__name__.lower()
    return None, f"{reason}: too few for a sparse {name} kernel, torch's dense one stays"


def is_pointwise(layer: nn.Module) -> bool:
    """A Linear or a convolution that is one: 1x1, stride 1, no padding, one group."""
    if isinstance(layer, nn.Linear):
        return True
    assert isinstance(layer, (nn.Conv1d, nn.Conv2d))
    padding = (0,) if layer.padding == "valid" or layer.padding == "same" else layer.padding
    ones = {*layer.kernel_size, *layer.stride, layer.groups}
    return ones == {1} and not any(p != 0 for p in padding)


def sparsity_of(module: nn.Module) -> float | None:
    """Share of zeros in a weight, masks applied; None without one, or without data."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, torch.Tensor) or is_lazy(weight):
        return None
    if weight.is_meta or weight.layout is not torch.strided:
        return None
    if weight.dim() < 2 or weight.numel() == 0:
        return None
    kept, mask = weight.detach().ne(0), weight_mask(module)
    return 1.0 - float((kept if mask is None else kept & mask.ne(0)).float().mean())


def _int8(layer: TorchLayer, build: Builder) -> tuple[EngineLayer, str]:
    if _is_depthwise(layer):
        return build("depthwise"), "every channel is a group of its own (not measured)"
    channels = layer.weight.shape[1]
    if isinstance(layer, nn.Conv2d | nn.Conv1d) and channels < 4:
        reason = f"{channels} channels of a group do not fill one group of inputs (not measured)"
        return build("dense"), reason
    kept = 1.0 - (sparsity_of(layer) or 0.0)
    if kept > _WINDOWED_SHARE:  # then its windowed form can not be small enough either
        return build("dense"), f"{kept:.0%} of the weights kept (not measured)"
    windowed = build("windowed")
    share = _packed_share(layer, windowed)
    reason = f"packs into {share:.1%} of dense's groups (not measured)"
    if share <= _WINDOWED_SHARE:
        return windowed, reason
    return build("dense"), f"windowed {reason}"


def _is_depthwise(layer: nn.Module) -> bool:
    return (
        isinstance(layer, (nn.Conv1d, nn.Conv2d))
        and layer.in_channels == layer.out_channels == layer.groups
        and layer.groups > 1
    )


def _packed_share(layer: TorchLayer, windowed: EngineLayer) -> float:
    """Groups of 16 outputs x 4 inputs in the windowed form over those of the dense form."""
    outputs, channels = layer.weight.shape[:2]
    groups = 1 if isinstance(layer, nn.Linear) else layer.groups
    taps = layer.weight[0, 0].numel() if outputs and channels else 1
    dense = groups * -(-(outputs // groups) // 16) * taps * -(-channels // 4)
    steps = windowed._buffers["values"]
    return 0.0 if steps is None else steps.shape[0] / max(dense, 1)
