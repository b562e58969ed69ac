"""A recorded mask, and what keeps the weights under it at zero while an optimizer moves them."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn

from sparsekd.modules import weight_mask

__all__ = ["PRUNABLE", "apply_masks_", "compute_mask", "set_mask"]

#: The kinds of module that can be pruned.
PRUNABLE = (nn.Linear, nn.Conv1d, nn.Conv2d)


class MaskKeeper:
    """Hook that zeroes the masked weights again when somebody has written to the weight.

    Momentum and weight decay move a masked weight off zero; before each forward pass and each
    ``state_dict`` this puts it back. It writes only when something is to be put back, so that a
    module that is used twice in one forward pass does not upset autograd. The weight's version
    tells of most writes, but not of those by torch's fused optimizers or through ``.data``: so
    while the weight may be in training its values are looked at too (a pass over the weight).
    Copies (deepcopy, pickle) start afresh.
    """

    sparsekd_hook = True

    def __init__(self) -> None:
        self._clean: tuple[weakref.ref[Tensor], int] | None = None
        self._in_training = True  # an optimizer may have stepped since the last call

    def __call__(self, module: nn.Module, *_: Any) -> None:
        weight = _weight(module)
        if weight.is_inference():  # no version to go by
            _zero(module)
            return
        known = False
        if self._clean is not None:
            reference, version = self._clean
            known = reference() is weight and version == weight._version
        if not known or (self._in_training and _strays(module)):
            _zero(module)
            self._clean = (weakref.ref(weight), weight._version)
        self._in_training = weight.grad is not None or (
            weight.requires_grad and (module.training or torch.is_grad_enabled())
        )

    def __reduce__(self) -> tuple[type[MaskKeeper], tuple[()]]:
        return (MaskKeeper, ())


def set_mask(module: nn.Module, mask: Tensor) -> None:
    """Record a bool mask (shape of the weight) on a module and zero what it drops."""
    if weight_mask(module) is None:
        module.register_buffer("weight_mask", mask)
        keeper = MaskKeeper()
        module.register_forward_pre_hook(keeper)
        module.register_state_dict_pre_hook(keeper)  # type: ignore[no-untyped-call]
    else:
        module.weight_mask = mask
    _zero(module)


def apply_masks_(model: nn.Module) -> nn.Module:
    """Zero every masked weight of a model, in place: what each forward pass does as well."""
    for module in model.modules():
        if weight_mask(module) is not None:
            _zero(module)
    return model


def compute_mask(
    module: nn.Module, pattern: Any, score: Any, *, among: Tensor | None = None
) -> Tensor:
    """The mask that a pattern chooses by a score; what is masked already stays masked.

    The inputs of an output are ordered (kh, kw, C / groups), and groups of n:m lie inside one tap:
    so each tap of a convolution is a row of its own here.

    Args:
        among: bool, shape of the weight; the weights to choose from, in place of a recorded mask.
    """
    weight = _weight(module).detach()
    value = score(weight)
    if not isinstance(value, Tensor) or value.shape != weight.shape:
        came = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"score gave {came}, expected a tensor of shape {tuple(weight.shape)}")
    if value.isnan().any():
        raise ValueError("score gave NaN; expected numbers that can be ordered")
    old = weight_mask(module) if among is None else among
    if old is not None:
        value = value.masked_fill(~old, -torch.inf)
    by_tap = value.movedim(1, -1)  # [O, kh, kw, C / groups]
    mask: Tensor = pattern.mask(by_tap.reshape(-1, by_tap.shape[-1]))
    mask = mask.reshape(by_tap.shape).movedim(-1, 1).contiguous()
    return mask if old is None else mask & old


def _weight(module: nn.Module) -> Tensor:
    weight = module.weight
    assert isinstance(weight, Tensor)  # every prunable kind has one
    return weight


def _zero(module: nn.Module) -> None:
    mask = weight_mask(module)
    if mask is not None:
        with torch.no_grad():
            _weight(module).masked_fill_(~mask, 0.0)


def _strays(module: nn.Module) -> bool:
    """Whether a masked weight is not zero. Not asked while a graph is traced: it needs values."""
    mask = weight_mask(module)
    if mask is None or torch.compiler.is_compiling():
        return False
    weight = _weight(module).detach()
    return not weight.is_meta and bool(weight.masked_fill(mask, 0.0).any())
